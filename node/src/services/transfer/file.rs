//! The file in which a unit travels: written from a store that stands still, read twice.
//!
//! Reading and sealing are done beside the runtime, a bounded number of items ahead.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufReader, BufWriter, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use super::{Error, rows, stays};
use crate::{
    domain::unit::UnitCode,
    identity::{
        keys::{
            Place,
            transfer::{self, TransferKey},
        },
        sealed::{KeyRing, Reader},
        sealed_file::{Sealing, open_file},
    },
    services::enrolments::Identity,
    statement::transfer::{Head, Item, decode_item, encode_item},
    store::{Batch, MAX_BATCH_OPERATIONS, Store, Table, journal},
};

/// Items on their way between the runtime and the file.
const AHEAD: usize = 64;

/// Rows of one look into the store.
const PAGE: usize = 256;

/// Bytes of one batch that is staged.
const BATCH_BYTES: usize = 512 * 1024;

/// What a file holds.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Facts {
    /// Entries of the store.
    pub rows: u64,
    /// Records among them.
    pub records: u64,
    /// Files of keys.
    pub keys: u64,
    /// Bytes of the file.
    pub size_bytes: u64,
}

/// A file that was written.
#[derive(Clone, Copy, Debug)]
pub struct Written {
    /// What is in it.
    pub facts: Facts,
    /// SHA-256 of its bytes.
    pub sha256: [u8; 32],
}

/// Seals everything of the unit of `head` for `reader`. The unit's rows must not change meanwhile.
///
/// # Errors
///
/// [`Error`]; what is at `path` is of no use then.
pub async fn export(
    store: &dyn Store,
    head: &Head,
    keys: &Place,
    reader: [u8; 32],
    path: &Path,
) -> Result<Written, Error> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    let to = path.to_owned();
    let writing = tokio::task::spawn_blocking(move || write(&to, reader, receiver));
    let sent = send_all(store, head, keys, &sender).await;
    drop(sender);
    let written = writing.await.map_err(|error| io::Error::other(error.to_string()))?;
    let (sha256, size_bytes) = written?;
    Ok(Written { facts: Facts { size_bytes, ..sent? }, sha256 })
}

async fn send_all(
    store: &dyn Store,
    head: &Head,
    keys: &Place,
    sender: &mpsc::Sender<Zeroizing<Vec<u8>>>,
) -> Result<Facts, Error> {
    let send = async |item: Item| {
        // The writer is gone: it says why.
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        sender.send(encode_item(&item)).await.map_err(gone)
    };
    let mut facts = Facts::default();
    send(Item::Head(head.clone())).await?;
    for (path, content) in transfer::contents(keys)? {
        facts.keys += 1;
        send(Item::Keys(path, content)).await?;
    }
    for table in Table::all().filter(|table| !stays(*table)) {
        let mut after = None::<Vec<u8>>;
        loop {
            let page = store.scan(&head.unit, table, b"", after.as_deref(), PAGE).await?;
            let is_last = page.len() < PAGE;
            after = page.last().map(|(key, _)| key.clone());
            for (key, value) in page {
                facts.rows += 1;
                facts.records += u64::from(table == Table::Records);
                send(Item::Row(table as u32, key, value)).await?;
            }
            if is_last {
                break;
            }
        }
    }
    send(Item::End(facts.keys, facts.rows)).await?;
    Ok(facts)
}

/// Counts and hashes what passes.
struct Hashed<W> {
    out: W,
    sha256: Sha256,
    bytes: u64,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.sha256.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn write(
    path: &Path,
    reader: [u8; 32],
    mut items: mpsc::Receiver<Zeroizing<Vec<u8>>>,
) -> Result<([u8; 32], u64), Error> {
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
    let out = Hashed { out: BufWriter::new(file), sha256: Sha256::new(), bytes: 0 };
    let mut sealing = Sealing::new(&[Reader::new(reader)], out)?;
    while let Some(item) = items.blocking_recv() {
        sealing.write(&item)?;
    }
    let Hashed { out, sha256, bytes } = sealing.finish()?;
    out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    if let Some(directory) = path.parent() {
        File::open(directory)?.sync_all()?;
    }
    Ok((sha256.finalize().into(), bytes))
}

/// SHA-256 of a file, and its length.
fn digest(path: &Path) -> io::Result<([u8; 32], u64)> {
    let mut file = File::open(path)?;
    let mut hashed = Hashed { out: io::sink(), sha256: Sha256::new(), bytes: 0 };
    io::copy(&mut file, &mut hashed)?;
    Ok((hashed.sha256.finalize().into(), hashed.bytes))
}

/// Cuts what was opened into items.
struct Items {
    sender: mpsc::Sender<Result<Item, Error>>,
    waiting: Zeroizing<Vec<u8>>,
    number: u64,
    /// Why an item was refused.
    refused: Option<Error>,
}

impl Items {
    fn refuse(&mut self, reason: impl std::fmt::Display) -> io::Error {
        self.refused = Some(Error::Item { item: self.number, reason: reason.to_string() });
        io::ErrorKind::InvalidData.into()
    }
}

impl Write for Items {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.waiting.extend_from_slice(bytes);
        let mut taken = 0;
        loop {
            match decode_item(&self.waiting[taken..]) {
                Ok(None) => break,
                Ok(Some((item, length))) => {
                    taken += length;
                    self.number += 1;
                    let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
                    self.sender.blocking_send(Ok(item)).map_err(gone)?;
                }
                Err(error) => return Err(self.refuse(error)),
            }
        }
        self.waiting.drain(..taken);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        Err(self.refuse("it is cut off"))
    }
}

fn read(path: &Path, key: TransferKey, sender: mpsc::Sender<Result<Item, Error>>) {
    let mut ring = KeyRing::default();
    ring.add(key.0);
    let waiting = Zeroizing::new(Vec::new());
    let mut items = Items { sender: sender.clone(), waiting, number: 0, refused: None };
    let opened = match File::open(path) {
        Ok(file) => open_file(&ring, BufReader::new(file), &mut items),
        Err(error) => Err(error.into()),
    };
    if let Err(error) = opened {
        let error = items.refused.take().unwrap_or(Error::Sealed(error));
        // Nobody listens any more: they have another reason.
        let _ = sender.blocking_send(Err(error));
    }
}

/// The items of a file, in the order that they have to come in.
struct Reading {
    items: mpsc::Receiver<Result<Item, Error>>,
    number: u64,
    facts: Facts,
}

impl Reading {
    /// Begins to read; the head is checked to be the unit's.
    async fn begin(path: &Path, key: TransferKey, unit: &UnitCode) -> Result<(Self, Head), Error> {
        let (sender, items) = mpsc::channel(AHEAD);
        let path = path.to_owned();
        tokio::task::spawn_blocking(move || read(&path, key, sender));
        let mut reading = Self { items, number: 0, facts: Facts::default() };
        let head = match reading.items.recv().await {
            Some(Ok(Item::Head(head))) => head,
            Some(Err(error)) => return Err(error),
            Some(Ok(_)) | None => return Err(reading.refused("it does not begin with a head")),
        };
        if head.unit != *unit {
            return Err(Error::OtherUnit { found: head.unit, wanted: unit.clone() });
        }
        Ok((reading, head))
    }

    fn refused(&self, reason: &str) -> Error {
        Error::Item { item: self.number, reason: reason.to_owned() }
    }

    /// The next file of keys or row; `None` once the whole file was read and holds.
    async fn next(&mut self) -> Result<Option<Item>, Error> {
        self.number += 1;
        let item = self.items.recv().await.ok_or_else(|| self.refused("it has no end"))??;
        match &item {
            Item::Head(_) => Err(self.refused("a second head")),
            Item::Keys(..) if self.facts.rows > 0 => Err(self.refused("keys behind rows")),
            Item::Keys(..) => {
                self.facts.keys += 1;
                Ok(Some(item))
            }
            Item::Row(table, ..) => {
                self.facts.rows += 1;
                self.facts.records += u64::from(*table == Table::Records as u32);
                match Table::of(*table) {
                    Some(table) if !stays(table) => Ok(Some(item)),
                    Some(_) => Err(self.refused("a row that has to stay where it is")),
                    None => Err(self.refused("a table that this program does not know")),
                }
            }
            Item::End(keys, rows) => {
                if (*keys, *rows) != (self.facts.keys, self.facts.rows) {
                    return Err(self.refused("rows or keys are missing"));
                }
                match self.items.recv().await {
                    None => Ok(None),
                    Some(Err(error)) => Err(error),
                    Some(Ok(_)) => Err(self.refused("something comes behind the end")),
                }
            }
        }
    }
}

/// Reads a whole file and keeps nothing of it.
///
/// # Errors
///
/// [`Error`] names the place that does not hold.
pub async fn check(
    path: &Path,
    key: TransferKey,
    unit: &UnitCode,
) -> Result<(Head, Written), Error> {
    let (mut reading, head) = Reading::begin(path, key, unit).await?;
    while reading.next().await?.is_some() {}
    let path: PathBuf = path.to_owned();
    let digested = tokio::task::spawn_blocking(move || digest(&path)).await;
    let (sha256, size_bytes) = digested.map_err(|error| io::Error::other(error.to_string()))??;
    Ok((head, Written { facts: Facts { size_bytes, ..reading.facts }, sha256 }))
}

/// Puts keys and rows of a checked file where they belong, but for the row that says who the unit is,
/// which is returned: without it nothing of the unit counts. What an earlier run left is removed first.
///
/// # Errors
///
/// [`Error`]; [`unstage`] removes what was put there.
pub async fn stage(
    store: &dyn Store,
    path: &Path,
    key: TransferKey,
    unit: &UnitCode,
    keys: &Place,
) -> Result<Identity, Error> {
    if !rows::is_staged(store, unit).await? && transfer::any(keys)? {
        return Err(Error::Keys(unit.clone()));
    }
    unstage(store, unit, keys).await?;
    rows::begin_staging(store, unit).await?;
    let (mut reading, head) = Reading::begin(path, key, unit).await?;
    let (mut batch, mut identity) = (Batch::new(unit), None);
    while let Some(item) = reading.next().await? {
        match item {
            Item::Keys(path, content) => transfer::put(keys, &path, &content)?,
            Item::Row(table, key, value) => {
                let table = Table::of(table).ok_or_else(|| reading.refused("an unknown table"))?;
                if Identity::is_row(table, &key) {
                    identity = Some(Identity::read(unit, &value)?);
                    continue;
                }
                if batch.len() == MAX_BATCH_OPERATIONS
                    || batch.bytes() + key.len() + value.len() > BATCH_BYTES
                {
                    store.submit(std::mem::replace(&mut batch, Batch::new(unit))).await?;
                }
                batch.put(table, key, value);
            }
            Item::Head(_) | Item::End(..) => return Err(reading.refused("out of place")),
        }
    }
    store.submit(batch).await?;
    if journal::size(store, unit).await? != head.journal_size {
        return Err(reading.refused("its journal has another size than its head says"));
    }
    identity.ok_or_else(|| reading.refused("it does not say who the unit is"))
}

/// Removes what was staged of a unit that did not begin here.
///
/// # Errors
///
/// [`Error`]; can be given again.
pub async fn unstage(store: &dyn Store, unit: &UnitCode, keys: &Place) -> Result<(), Error> {
    if !rows::is_staged(store, unit).await? {
        return Ok(());
    }
    transfer::erase(keys)?;
    erase_rows(store, unit).await?;
    let mut batch = Batch::new(unit);
    rows::end_staging(&mut batch);
    Ok(store.submit(batch).await?)
}

/// Removes every row of a unit but those that say how it moved. What makes it count goes first.
pub(super) async fn erase_rows(store: &dyn Store, unit: &UnitCode) -> Result<(), Error> {
    for table in Table::all().filter(|table| *table != Table::Transfers) {
        loop {
            let page = store.scan(unit, table, b"", None, PAGE).await?;
            if page.is_empty() {
                break;
            }
            let mut batch = Batch::new(unit);
            page.into_iter().for_each(|(key, _)| batch.delete(table, key));
            store.submit(batch).await?;
        }
    }
    Ok(())
}
