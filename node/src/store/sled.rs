//! The embedded store: sled 0.34 with the barrier that it lacks.
//!
//! Directory: `lock` (who has it open), `format` (version of directory and keys, and where the rest
//! is), `sled/` (the engine's own files); or, once the store was rewritten or if it is encrypted,
//! `g-…/` with `sled/`, `vault` and `keys/`. One tree holds everything; `key` says how, `codec` what
//! of it is encrypted. One thread writes; see `writer`. A read returns only what is durable: if it could have seen a group whose barrier
//! still runs, it waits for that barrier. `docs/adr/0001-sled-with-a-barrier.md` has the reasons.

mod codec;
mod files;
mod key;
mod layout;
mod rewrite;
mod shared;
mod writer;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::DirBuilder,
    io,
    ops::Bound,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread::{self, JoinHandle},
};

use ::sled::{Db, IVec};
use async_trait::async_trait;
use tokio::sync::oneshot;

use self::{
    codec::Codec,
    files::{Barrier, FileBarrier},
    layout::Layout,
    shared::Shared,
    writer::{Request, Submitted, Writer},
};
pub use self::{
    rewrite::{Rewritten, Stage, count, rewrite},
    shared::Statistics,
};
use super::{
    Batch, Commit, Entry, Error, Store, Table, Usage, check_limits,
    journal::Journals,
    lock::Lock,
    vault::{HostSecret, Vault},
};
use crate::{
    clock::SystemClock,
    domain::{protection::Cipher, unit::UnitCode},
    telemetry::Metrics,
};

/// Size of a segment of sled's log, fixed when a store is made.
///
/// A page (up to 20 entries) over a quarter of it goes to a file in `blobs/`, which sled neither
/// syncs nor removes in step with its log. With 8 MiB, pages of the largest values stay below.
const SEGMENT_BYTES: usize = 8 * 1024 * 1024;

/// Settings of a store.
#[derive(Clone, Debug)]
pub struct Options {
    /// Memory for pages that were read or written. Default: 64 MiB.
    pub cache_bytes: u64,
    /// Bytes of the disk that stay free: writes are refused below, deletions are not.
    /// Default: 128 MiB.
    pub reserve_bytes: u64,
    /// Waits for the disk before a commit resolves. Off in tests of other things only: what was
    /// acknowledged is then lost with the process. Default: true.
    pub barrier: bool,
    /// Opens an encrypted store. Default: nothing does.
    pub secret: Option<HostSecret>,
    /// With what a store is encrypted that is not there yet. Default: not at all.
    pub cipher: Cipher,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cache_bytes: 64 << 20,
            reserve_bytes: 128 << 20,
            barrier: true,
            secret: None,
            cipher: Cipher::None,
        }
    }
}

/// A store in one directory.
pub struct SledStore {
    shared: Arc<Shared>,
    codec: Codec,
    directory: PathBuf,
    requests: mpsc::Sender<Request>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl SledStore {
    /// Opens the store in `directory`; makes both if they are not there.
    ///
    /// # Errors
    ///
    /// - [`Error::Locked`]: it is open already, here or in another process.
    /// - [`Error::Format`]: it was written by a later version.
    /// - [`Error::Sealed`], [`Error::WrongKey`]: it is encrypted, and `options` do not open it.
    /// - [`Error::Engine`]: the directory cannot be used, or its content is damaged.
    pub fn open(directory: &Path, options: Options) -> Result<Self, Error> {
        Self::open_with(directory, &options, |engine, db| {
            if options.barrier { sled_barrier(engine, db) } else { Ok(None) }
        })
    }

    fn open_with(
        directory: &Path,
        options: &Options,
        barrier: impl FnOnce(&Path, &Db) -> io::Result<Option<Box<dyn Barrier>>>,
    ) -> Result<Self, Error> {
        let lock = Arc::new(take(directory)?);
        let layout = layout::open(directory, options)?;
        layout.remove_others(directory)?;
        Self::assemble(directory, &layout, options, lock, barrier)
    }

    /// Opens the files of `layout`. The lock goes with the last store that was opened under it.
    fn assemble(
        directory: &Path,
        layout: &Layout,
        options: &Options,
        lock: Arc<Lock>,
        barrier: impl FnOnce(&Path, &Db) -> io::Result<Option<Box<dyn Barrier>>>,
    ) -> Result<Self, Error> {
        let engine = layout.engine(directory);
        let vault = layout.vault(directory, options.secret.as_ref())?;
        let codec = Codec::new(vault.map(Arc::new));
        files::remove_unfinished_snapshots(&engine).map_err(|error| failed(&engine, &error))?;
        let db = open_engine(&engine, options).map_err(|error| failed(&engine, &error))?;
        let barrier = barrier(&engine, &db).map_err(|error| failed(&engine, &error))?;
        let shared = Arc::new(Shared::new(engine, db.clone()));
        let writer = Writer {
            db,
            shared: shared.clone(),
            codec: codec.clone(),
            barrier,
            reserve_bytes: options.reserve_bytes,
            lock,
            pending: BTreeMap::new(),
            journals: Journals::default(),
            scratch: Vec::new(),
            metrics: Metrics::installed(),
        };
        let (requests, receiver) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer.run(&receiver))
            .map_err(|error| failed(directory, &error))?;
        let thread = Mutex::new(Some(thread));
        Ok(Self { shared, codec, directory: directory.to_owned(), requests, thread })
    }

    /// With what the store in `directory` is encrypted; `None`: there is no store.
    ///
    /// # Errors
    ///
    /// [`Error::Format`], [`Error::Engine`].
    pub fn cipher_of(directory: &Path) -> Result<Option<Cipher>, Error> {
        Ok(layout::read(directory)?.map(|layout| layout.cipher()))
    }

    /// With what the store is encrypted.
    pub fn cipher(&self) -> Cipher {
        self.codec.cipher()
    }

    /// Counts since the store was opened.
    pub fn statistics(&self) -> Statistics {
        self.shared.statistics.read()
    }
}

/// Makes the directory if it is not there, and takes its lock.
fn take(directory: &Path) -> Result<Lock, Error> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(|error| failed(directory, &error))?;
    Lock::acquire(directory, &SystemClock)
}

fn failed(path: &Path, error: &dyn std::fmt::Display) -> Error {
    Error::Engine(format!("{}: {error}", path.display()))
}

fn sled_barrier(engine: &Path, db: &Db) -> io::Result<Option<Box<dyn Barrier>>> {
    Ok(Some(Box::new(FileBarrier::open(engine, db)?)))
}

fn open_engine(engine: &Path, options: &Options) -> ::sled::Result<Db> {
    ::sled::Config::new()
        .path(engine)
        .cache_capacity(options.cache_bytes)
        .segment_size(SEGMENT_BYTES)
        // The writer flushes; sled's own thread would wake twice a second and move pages of
        // acknowledged data without a barrier. Pages also move as others are written.
        .flush_every_ms(None)
        .open()
}

#[async_trait]
impl Store for SledStore {
    async fn get(
        &self,
        unit: &UnitCode,
        table: Table,
        key: &[u8],
    ) -> Result<Option<Vec<u8>>, Error> {
        let Some(key) = self.codec.key(unit, table, key)? else {
            return self.without_key(unit, table).await.map(|()| None);
        };
        let value = self.shared.read(|db| db.get(&key), |keys| keys.contains(key.as_slice()));
        let Some(value) = value.await? else { return Ok(None) };
        self.codec.open(unit, table, &key, &value).map(|(_, value)| Some(value))
    }

    async fn scan(
        &self,
        unit: &UnitCode,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Entry>, Error> {
        let plan = self.codec.plan((unit, table), prefix, after, limit)?;
        let Some(plan) = plan else { return Ok(Vec::new()) };
        let scan = |db: &Db| db.range(plan.range.clone()).take(plan.limit).collect();
        let rows: Vec<_> = self.shared.read(scan, |keys| touches(keys, &plan.range)).await?;
        self.codec.entries(unit, table, plan, rows)
    }

    async fn last(
        &self,
        unit: &UnitCode,
        table: Table,
        prefix: &[u8],
    ) -> Result<Option<Entry>, Error> {
        let plan = self.codec.plan((unit, table), prefix, None, usize::MAX)?;
        let Some(plan) = plan else { return Ok(None) };
        let scan = |db: &Db| -> ::sled::Result<Vec<_>> {
            let mut rows = db.range(plan.range.clone());
            if plan.is_gathered() { rows.collect() } else { rows.next_back().into_iter().collect() }
        };
        let rows = self.shared.read(scan, |keys| touches(keys, &plan.range)).await?;
        Ok(self.codec.entries(unit, table, plan, rows)?.pop())
    }

    fn submit(&self, batch: Batch) -> Commit {
        let (answer, commit) = Commit::pending();
        if let Err(error) = check_limits(&batch) {
            let _ = answer.send(Err(error));
            return commit;
        }
        // A writer that is gone drops the answer, which reads as `Closed`.
        let _ = self.requests.send(Request::Commit(Submitted { batch, answer }));
        commit
    }

    async fn units(&self) -> Result<Vec<UnitCode>, Error> {
        let units = self.shared.read(units, |_| true).await?;
        Ok(units.into_iter().collect())
    }

    fn vault(&self) -> Option<Arc<Vault>> {
        self.codec.vault().cloned()
    }

    fn usage(&self) -> Result<Usage, Error> {
        files::usage(&self.shared.engine)
            .map_err(|error| Error::Engine(format!("{}: {error}", self.directory.display())))
    }

    async fn close(&self) -> Result<(), Error> {
        let (answer, closed) = oneshot::channel();
        if self.requests.send(Request::Close(answer)).is_ok() {
            let _ = closed.await;
        }
        self.shared.check()
    }
}

impl SledStore {
    /// Fails if a unit that has no data key has rows in `table` all the same.
    async fn without_key(&self, unit: &UnitCode, table: Table) -> Result<(), Error> {
        let Some(range) = key::range(unit, table, b"", None) else { return Ok(()) };
        let first = |db: &Db| db.range(range.clone()).next().transpose();
        let row = self.shared.read(first, |keys| touches(keys, &range)).await?;
        row.map_or(Ok(()), |_| Err(Error::KeyMissing { unit: unit.to_string() }))
    }
}

/// True if one of `keys` lies in `range`.
fn touches(keys: &BTreeSet<IVec>, range: &key::Range) -> bool {
    keys.range::<IVec, key::Range>(range.clone()).next().is_some()
}

/// Steps from unit to unit in each table: a few look-ups each, however many entries there are.
fn units(db: &Db) -> ::sled::Result<BTreeSet<UnitCode>> {
    let mut units = BTreeSet::new();
    let mut from = IVec::default();
    while let Some(entry) = db.range((Bound::Included(from), Bound::Unbounded)).next() {
        let (key, _) = entry?;
        let unit = key::unit(&key);
        let prefix = unit.as_ref().map_or_else(|| key.to_vec(), |unit| key::prefix_of(&key, unit));
        units.extend(unit);
        from = key::successor(prefix).into();
    }
    Ok(units)
}

impl Drop for SledStore {
    fn drop(&mut self) {
        let (answer, _) = oneshot::channel();
        let _ = self.requests.send(Request::Close(answer));
        let thread = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests;
