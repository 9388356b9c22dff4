//! What is kept of the files for and from one neighbour.

use serde::{Deserialize, Serialize};

use crate::{
    clock::UnixMillis,
    domain::{
        courier::{FileNumber, Gap, KEPT_FILES},
        epoch::{Number, Reach},
        unit::UnitCode,
    },
    services::exchange::Lane,
    store::{self, Batch, Store, Table, format},
};

const FORMAT: u8 = 1;

/// Digests that one import forgets at most.
const FORGOTTEN: usize = 32;

/// The newest export for a neighbour.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct OutRow {
    pub(super) epoch: u64,
    pub(super) number: u64,
    pub(super) exported_unix_ms: UnixMillis,
}

/// A gap as it is stored.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct GapRow {
    lane: String,
    link_epoch: u64,
    have: u64,
    after: u64,
}

impl GapRow {
    pub(super) fn new(lane: Lane, link_epoch: u64, gap: Gap) -> Self {
        let (have, after) = (gap.have, gap.after);
        Self { lane: lane.as_str().to_owned(), link_epoch, have, after }
    }

    pub(super) fn lane(&self) -> Option<Lane> {
        Lane::ALL.into_iter().find(|lane| lane.as_str() == self.lane)
    }

    pub(super) fn link_epoch(&self) -> u64 {
        self.link_epoch
    }

    pub(super) fn gap(&self) -> Gap {
        Gap { have: self.have, after: self.after }
    }
}

/// The newest file that was imported from a neighbour, and what it said.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct InRow {
    pub(super) epoch: u64,
    pub(super) number: u64,
    pub(super) imported_unix_ms: UnixMillis,
    /// How far the sender was.
    pub(super) seq: u64,
    pub(super) journal_size: u64,
    /// How much of this unit's journal it holds.
    pub(super) holds: u64,
    /// The largest checkpoint of it that a file brought.
    pub(super) offered: u64,
    /// Why its newest checkpoint was not cosigned, or empty.
    pub(super) refused: String,
    /// Number above which it needs its own statements back.
    pub(super) wants: Option<(u64, u64)>,
    /// What it held of delegations and revocations, in hex.
    pub(super) roster_sha256: String,
    pub(super) revocations_sha256: String,
    pub(super) gaps: Vec<GapRow>,
}

impl InRow {
    pub(super) fn file_number(&self) -> FileNumber {
        FileNumber { epoch: self.epoch, number: self.number }
    }

    pub(super) fn reach(&self) -> Reach {
        let number = Number { epoch: self.epoch, seq: self.seq };
        Reach { number, journal_size: self.journal_size }
    }

    pub(super) fn wants(&self) -> Option<Number> {
        self.wants.map(|(epoch, seq)| Number { epoch, seq })
    }
}

fn key(prefix: &[u8], peer: &UnitCode) -> Vec<u8> {
    [prefix, peer.as_str().as_bytes()].concat()
}

/// A row with its bytes, which must stand there still when it is replaced.
pub(super) type Kept<T> = (Option<T>, Option<Vec<u8>>);

async fn load<T: serde::de::DeserializeOwned>(
    store: &dyn Store,
    unit: &UnitCode,
    key: &[u8],
) -> Result<Kept<T>, store::Error> {
    let row = store.get(unit, Table::Courier, key).await?;
    let read = row.as_deref().map(|row| format::read(FORMAT, row)).transpose()?;
    Ok((read, row))
}

fn put<T: Serialize>(batch: &mut Batch, key: Vec<u8>, row: &T, before: Option<Vec<u8>>) {
    match before {
        Some(before) => batch.require(Table::Courier, key.clone(), before),
        None => batch.require_absent(Table::Courier, key.clone()),
    }
    batch.put(Table::Courier, key, format::write(FORMAT, row));
}

pub(super) async fn load_out(
    store: &dyn Store,
    unit: &UnitCode,
    peer: &UnitCode,
) -> Result<Kept<OutRow>, store::Error> {
    load(store, unit, &key(b"out/", peer)).await
}

pub(super) fn put_out(batch: &mut Batch, peer: &UnitCode, row: &OutRow, before: Option<Vec<u8>>) {
    put(batch, key(b"out/", peer), row, before);
}

pub(super) async fn load_in(
    store: &dyn Store,
    unit: &UnitCode,
    peer: &UnitCode,
) -> Result<Kept<InRow>, store::Error> {
    load(store, unit, &key(b"in/", peer)).await
}

pub(super) fn put_in(batch: &mut Batch, peer: &UnitCode, row: &InRow, before: Option<Vec<u8>>) {
    put(batch, key(b"in/", peer), row, before);
}

fn seen_prefix(peer: &UnitCode, epoch: u64) -> Vec<u8> {
    let mut prefix = key(b"seen/", peer);
    prefix.push(0);
    prefix.extend_from_slice(&epoch.to_be_bytes());
    prefix
}

fn seen_key(peer: &UnitCode, number: FileNumber, part: u32) -> Vec<u8> {
    let mut key = seen_prefix(peer, number.epoch);
    key.extend_from_slice(&number.number.to_be_bytes());
    key.extend_from_slice(&part.to_be_bytes());
    key
}

/// Digest of the manifest that was imported under a number and part.
pub(super) async fn load_seen(
    store: &dyn Store,
    unit: &UnitCode,
    peer: &UnitCode,
    (number, part): (FileNumber, u32),
) -> Result<Option<[u8; 32]>, store::Error> {
    let row = store.get(unit, Table::Courier, &seen_key(peer, number, part)).await?;
    let damaged = || store::Error::Engine("the digest of a courier file is damaged".to_owned());
    row.map(|row| match row.split_first() {
        Some((&FORMAT, digest)) => digest.try_into().map_err(|_| damaged()),
        Some(_) | None => Err(damaged()),
    })
    .transpose()
}

/// Keeps the digest of an imported file, and forgets those of files long before it.
pub(super) async fn put_seen(
    store: &dyn Store,
    batch: &mut Batch,
    unit: &UnitCode,
    peer: &UnitCode,
    (number, part, sha256): (FileNumber, u32, [u8; 32]),
) -> Result<(), store::Error> {
    batch.put(Table::Courier, seen_key(peer, number, part), [&[FORMAT][..], &sha256].concat());
    let before = number.number.saturating_sub(KEPT_FILES);
    let limit = seen_key(peer, FileNumber { number: before, ..number }, 0);
    let prefix = seen_prefix(peer, number.epoch);
    for (key, _) in store.scan(unit, Table::Courier, &prefix, None, FORGOTTEN).await? {
        if key < limit {
            batch.delete(Table::Courier, key);
        }
    }
    Ok(())
}
