//! Rows of epochs: those that were opened, here and by peers, and why this unit stands still.

use serde::{Deserialize, Serialize};

use crate::{
    clock::UnixMillis,
    domain::{
        epoch::{Lost, Number, Reach},
        unit::UnitCode,
    },
    store::{self, Batch, Store, Table, format},
};

const FORMAT: u8 = 1;

/// Key of the row in [`Table::Meta`] that says that the unit was rolled back.
const STOPPED: &[u8] = b"rolled-back";

/// A number as it is stored.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct NumberRow {
    epoch: u64,
    seq: u64,
}

impl From<Number> for NumberRow {
    fn from(number: Number) -> Self {
        Self { epoch: number.epoch, seq: number.seq }
    }
}

impl From<NumberRow> for Number {
    fn from(row: NumberRow) -> Self {
        Self { epoch: row.epoch, seq: row.seq }
    }
}

/// Why a unit sends nothing.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct StopRow {
    /// When it was found.
    pub(super) found_unix_ms: UnixMillis,
    /// Peer that had seen more, the first one.
    pub(super) peer: UnitCode,
    /// Newest statement below those leaves.
    pub(super) left: NumberRow,
    /// Leaves of the newest checkpoint here that the peer cosigned: what was written after it may have
    /// been written after the store was brought back.
    pub(super) proved: u64,
    /// The most that any peer had seen.
    pub(super) seen: NumberRow,
    pub(super) seen_journal_size: u64,
    /// Newest checkpoint that a peer showed: a signed note, or empty.
    pub(super) checkpoint: String,
}

impl StopRow {
    pub(super) fn seen(&self) -> Reach {
        Reach { number: self.seen.into(), journal_size: self.seen_journal_size }
    }

    pub(super) async fn load(
        store: &dyn Store,
        unit: &UnitCode,
    ) -> Result<Option<Self>, store::Error> {
        let row = store.get(unit, Table::Meta, STOPPED).await?;
        row.map(|row| format::read(FORMAT, &row)).transpose()
    }

    pub(super) fn put(&self, batch: &mut Batch) {
        batch.put(Table::Meta, STOPPED, format::write(FORMAT, self));
    }

    pub(super) fn delete(batch: &mut Batch) {
        batch.delete(Table::Meta, STOPPED);
    }
}

/// An epoch that was opened, by this unit or a peer.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct EpochRow {
    /// The unit.
    pub unit: UnitCode,
    /// The epoch.
    pub epoch: u64,
    /// `restore` or `move`.
    pub reason: String,
    /// Who approved it.
    pub approvers: Vec<String>,
    /// For people.
    pub text: String,
    /// Id of the statement that opened it.
    pub statement: String,
    /// SHA-256 of its payload, in hex.
    pub payload_sha256: String,
    /// When, by the clock of the unit that opened it.
    pub opened_unix_ms: UnixMillis,
    /// Last statement that is not lost, and last one that was seen.
    pub(super) after: NumberRow,
    pub(super) to: NumberRow,
    /// Of an own epoch: above which number peers are asked for statements; unset: above `after`.
    #[serde(default)]
    pub(super) return_after: Option<NumberRow>,
    /// Leaves that are not lost, and leaves that were seen.
    pub(super) journal_from: u64,
    pub(super) journal_to: u64,
    /// Of an own epoch: changes up to the first time are there, those up to the second are lost. 0: not
    /// known, or nothing is.
    pub lost_after_unix_ms: UnixMillis,
    /// See above.
    pub lost_until_unix_ms: UnixMillis,
    /// Own statements that were withdrawn, as `type subject`.
    pub withdrawn: Vec<String>,
    /// Own statements that peers returned.
    pub returned: u64,
    /// Deliveries that were put into the outbox again, and those no longer kept.
    pub again: u64,
    /// See above.
    pub gone: u64,
}

impl EpochRow {
    /// What was lost.
    pub fn lost(&self) -> Lost {
        Lost {
            after: self.after.into(),
            to: self.to.into(),
            journal_from: self.journal_from,
            journal_to: self.journal_to,
        }
    }

    /// SHA-256 of the payload that opened it.
    pub(super) fn sha256(&self) -> Option<[u8; 32]> {
        let mut digest = [0; 32];
        hex::decode_to_slice(&self.payload_sha256, &mut digest).ok()?;
        Some(digest)
    }

    pub(super) fn put(&self, batch: &mut Batch) {
        batch.put(Table::Epochs, key(&self.unit, self.epoch), format::write(FORMAT, self));
    }

    /// Epochs of `of`, or of all, as `unit` keeps them.
    pub(super) async fn list(
        store: &dyn Store,
        unit: &UnitCode,
        of: Option<&UnitCode>,
    ) -> Result<Vec<Self>, store::Error> {
        let prefix = of.map(prefix).unwrap_or_default();
        let rows = store.scan(unit, Table::Epochs, &prefix, None, usize::MAX).await?;
        // Keys with a peer behind the epoch say how far a return is.
        let epochs = rows.iter().filter(|(key, _)| {
            let unit = key.iter().position(|&byte| byte == 0);
            unit.is_some_and(|unit| key.len() == unit + 9)
        });
        epochs.map(|(_, value)| format::read(FORMAT, value)).collect()
    }

    /// The newest epoch of `of` that `unit` keeps.
    pub async fn newest(
        store: &dyn Store,
        unit: &UnitCode,
        of: &UnitCode,
    ) -> Result<Option<Self>, store::Error> {
        Ok(Self::list(store, unit, Some(of)).await?.pop())
    }
}

fn prefix(unit: &UnitCode) -> Vec<u8> {
    [unit.as_str().as_bytes(), &[0]].concat()
}

fn key(unit: &UnitCode, epoch: u64) -> Vec<u8> {
    [&prefix(unit)[..], &epoch.to_be_bytes()].concat()
}

/// How far a peer has returned the statements of an epoch's loss.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(super) struct ReturnRow {
    pub(super) after: NumberRow,
    pub(super) done: bool,
}

impl ReturnRow {
    fn key(own: &UnitCode, epoch: u64, peer: &UnitCode) -> Vec<u8> {
        [&key(own, epoch)[..], peer.as_str().as_bytes()].concat()
    }

    pub(super) async fn load(
        store: &dyn Store,
        own: &UnitCode,
        epoch: u64,
        peer: &UnitCode,
    ) -> Result<Option<Self>, store::Error> {
        let row = store.get(own, Table::Epochs, &Self::key(own, epoch, peer)).await?;
        row.map(|row| format::read(FORMAT, &row)).transpose()
    }

    pub(super) fn put(self, batch: &mut Batch, own: &UnitCode, epoch: u64, peer: &UnitCode) {
        batch.put(Table::Epochs, Self::key(own, epoch, peer), format::write(FORMAT, &self));
    }
}

/// Key in [`Table::Received`] of a statement that `peer` sent itself.
pub(super) fn received_key(peer: &UnitCode, number: Number) -> Vec<u8> {
    let (epoch, seq) = (number.epoch.to_be_bytes(), number.seq.to_be_bytes());
    [&prefix(peer)[..], &epoch, &seq].concat()
}

/// Keys in [`Table::Received`] of `peer` begin with this.
pub(super) fn received_prefix(peer: &UnitCode) -> Vec<u8> {
    prefix(peer)
}
