//! Rewriting a store that nobody uses: encrypted, in clear again, or under new keys.
//!
//! Promises that the store is at any time the old one or the whole new one, whenever the process
//! ends: the copy is made beside, compared with what was copied, and takes the other's place in one
//! step; only then is the other erased. A run that was cut off leaves nothing that the next opening
//! does not remove.

use std::{path::Path, sync::Arc};

use sha2::{Digest as _, Sha256};
use tokio::sync::oneshot;

use super::{
    Layout, Options, SledStore, layout, sled_barrier, take,
    writer::{Copied, Request},
};
use crate::{
    domain::protection::Cipher,
    store::{Batch, Error, Store as _, lock::Lock},
};

/// Entries that are copied at once.
const PAGE: usize = 128;

/// Bytes that are copied at once, at most, but for the last entry.
const PAGE_BYTES: usize = 256 * 1024;

/// How far a rewriting is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stage {
    /// So many entries are copied.
    Copied(u64),
    /// The copy is compared with the store.
    Comparing,
    /// The copy is whole and takes the place of the store next.
    Ready,
    /// The copy is the store; the one before it is erased next.
    Switched,
    /// Nothing of the store before is left.
    Erased,
}

/// What was rewritten.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rewritten {
    /// With what the store was encrypted before.
    pub before: Cipher,
    /// Entries of all units.
    pub entries: u64,
}

/// Number of entries, and the sum over their digests: equal for equal entries in any order.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Content {
    entries: u64,
    digest: [u8; 32],
}

impl Content {
    fn add(&mut self, key: &[u8], value: &[u8]) {
        let mut digest = Sha256::new();
        digest.update((key.len() as u64).to_be_bytes());
        digest.update(key);
        digest.update(value);
        for (sum, byte) in self.digest.iter_mut().zip(digest.finalize()) {
            *sum ^= byte;
        }
        self.entries += 1;
    }
}

/// Rewrites the store in `directory`, encrypted with `cipher` under new keys; `act` becomes part of
/// the new one before it takes the place of the old one.
///
/// # Errors
///
/// [`Error::Locked`], those of opening it, [`Error::DiskFull`] if there is no room for a copy,
/// [`Error::Tampered`], [`Error::CopyDiffers`]. The store is then as it was, unless the switch was told.
pub async fn rewrite(
    directory: &Path,
    options: &Options,
    cipher: Cipher,
    act: Option<Batch>,
    progress: &mut (dyn FnMut(Stage) + Send),
) -> Result<Rewritten, Error> {
    let lock = Arc::new(take(directory)?);
    let before = layout::read(directory)?;
    let before = before.ok_or_else(|| Error::Engine("there is no store yet".to_owned()))?;
    before.remove_others(directory)?;
    let store = open(directory, &before, options, &lock)?;
    let usage = store.usage()?;
    if usage.free_bytes < usage.store_bytes.saturating_add(options.reserve_bytes) {
        let reserve_bytes = options.reserve_bytes.saturating_add(usage.store_bytes);
        return Err(Error::DiskFull { free_bytes: usage.free_bytes, reserve_bytes });
    }
    let after = Layout::new(cipher);
    let made = stage(&store, directory, &after, options, (&lock, act), progress).await;
    store.close().await?;
    let content = match made {
        Ok(content) => content,
        Err(error) => {
            before.remove_others(directory)?;
            return Err(error);
        }
    };
    progress(Stage::Ready);
    after.activate(directory)?;
    progress(Stage::Switched);
    after.remove_others(directory)?;
    progress(Stage::Erased);
    Ok(Rewritten { before: before.cipher(), entries: content.entries })
}

/// Counts the entries of the store in `directory`, each of which has to open.
///
/// # Errors
///
/// As of [`rewrite`].
pub async fn count(directory: &Path, options: &Options) -> Result<u64, Error> {
    let store = SledStore::open(directory, options.clone())?;
    let content = content_of(&store).await;
    store.close().await?;
    Ok(content?.entries)
}

/// Makes the copy and compares it.
async fn stage(
    store: &SledStore,
    directory: &Path,
    after: &Layout,
    options: &Options,
    (lock, act): (&Arc<Lock>, Option<Batch>),
    progress: &mut (dyn FnMut(Stage) + Send),
) -> Result<Content, Error> {
    after.make(directory, options.secret.as_ref())?;
    let staged = open(directory, after, options, lock)?;
    let copied = copy(store, &staged, progress).await?;
    staged.close().await?;
    progress(Stage::Comparing);
    // Opened anew: what is compared is what the files hold.
    let staged = open(directory, after, options, lock)?;
    let found = content_of(&staged).await?;
    if found != copied {
        return Err(Error::CopyDiffers);
    }
    if let Some(act) = act {
        staged.submit(act).await?;
    }
    staged.close().await?;
    Ok(found)
}

fn open(
    directory: &Path,
    layout: &Layout,
    options: &Options,
    lock: &Arc<Lock>,
) -> Result<SledStore, Error> {
    SledStore::assemble(directory, layout, options, Arc::clone(lock), sled_barrier)
}

async fn copy(
    from: &SledStore,
    to: &SledStore,
    progress: &mut (dyn FnMut(Stage) + Send),
) -> Result<Content, Error> {
    let mut content = Content::default();
    let mut after = None;
    loop {
        let page = page(from, after.as_deref()).await?;
        let Some((last, _)) = page.last() else { return Ok(content) };
        after = Some(last.clone());
        let mut rows = Vec::with_capacity(page.len());
        for (key, value) in page {
            let (key, value) = from.codec.open_raw(&key, &value)?;
            content.add(&key, &value);
            rows.push((key, value));
        }
        let (answer, copied) = oneshot::channel();
        let asked = to.requests.send(Request::Copy(Copied { rows, answer }));
        asked.map_err(|_| Error::Closed)?;
        copied.await.map_err(|_| Error::Closed)??;
        progress(Stage::Copied(content.entries));
    }
}

async fn content_of(store: &SledStore) -> Result<Content, Error> {
    let mut content = Content::default();
    let mut after = None;
    loop {
        let page = page(store, after.as_deref()).await?;
        let Some((last, _)) = page.last() else { return Ok(content) };
        after = Some(last.clone());
        for (key, value) in page {
            let (key, value) = store.codec.open_raw(&key, &value)?;
            content.add(&key, &value);
        }
    }
}

/// The next entries as they stand in the engine.
async fn page(store: &SledStore, after: Option<&[u8]>) -> Result<Vec<(Vec<u8>, Vec<u8>)>, Error> {
    let read = |db: &::sled::Db| {
        let start = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let mut bytes = 0;
        let mut rows = Vec::new();
        for entry in db.range::<&[u8], _>((start, std::ops::Bound::Unbounded)).take(PAGE) {
            let (key, value) = entry?;
            bytes += key.len() + value.len();
            rows.push((key.to_vec(), value.to_vec()));
            if bytes >= PAGE_BYTES {
                break;
            }
        }
        Ok(rows)
    };
    store.shared.read(read, |_| true).await
}
