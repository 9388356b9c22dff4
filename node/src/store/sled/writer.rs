//! The one writer: gathers batches into groups, applies them, waits for the barrier, answers.
//!
//! No timer: while one barrier runs the next group gathers in the channel.

use std::{
    any::Any,
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, mpsc},
};

use ::sled::{Db, IVec};
use tokio::{sync::oneshot, time::Instant};

use super::{
    codec::{Codec, Row},
    files::{self, Barrier},
    key,
    shared::Shared,
};
use crate::{
    domain::unit::UnitCode,
    store::{
        Batch, Entry, Error, MAX_BATCH_OPERATIONS, Table,
        journal::{Journals, Rows},
        lock::Lock,
        vault::Batched,
    },
    telemetry::Metrics,
};

/// A group ends at this many bytes of keys and values.
///
/// Between two barriers less than one segment must be written: sled takes a segment for free, and
/// writes over it, one full segment after its last page moved away, synced or not.
const MAX_GROUP_BYTES: usize = 1024 * 1024;

/// A group ends at this many operations, so that its first waiter is not kept too long.
const MAX_GROUP_OPERATIONS: usize = 4096;

/// What the writer is asked.
pub(super) enum Request {
    /// Commit a batch and answer.
    Commit(Submitted),
    /// Put entries of another store there as they are, and answer.
    Copy(Copied),
    /// Settle what came before, close the files, answer.
    Close(oneshot::Sender<()>),
}

/// Entries with whole keys, and who waits for them.
pub(super) struct Copied {
    pub(super) rows: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) answer: oneshot::Sender<Result<(), Error>>,
}

/// A batch and who waits for it.
pub(super) struct Submitted {
    pub(super) batch: Batch,
    pub(super) answer: oneshot::Sender<Result<(), Error>>,
}

/// What became of one batch of a group.
enum Outcome {
    Applied,
    Conflict,
    DiskFull {
        free_bytes: u64,
        reserve_bytes: u64,
    },
    /// A value that a precondition is about does not open.
    Unreadable(Error),
}

/// The writer's state; lives on its own thread.
pub(super) struct Writer {
    pub(super) db: Db,
    pub(super) shared: Arc<Shared>,
    pub(super) codec: Codec,
    /// `None`: what was acknowledged is lost with the process.
    pub(super) barrier: Option<Box<dyn Barrier>>,
    pub(super) reserve_bytes: u64,
    pub(super) lock: Arc<Lock>,
    /// Accepted by the group and not yet given to sled.
    pub(super) pending: BTreeMap<IVec, Option<IVec>>,
    /// The journals' ends, with leaves of the same batches.
    pub(super) journals: Journals,
    pub(super) scratch: Vec<u8>,
    pub(super) metrics: Metrics,
}

/// Bytes that stay free for a batch: an urgent one may use three quarters of the reserve.
fn reserve_of(reserve_bytes: u64, urgent: bool) -> u64 {
    if urgent { reserve_bytes / 4 } else { reserve_bytes }
}

impl Writer {
    /// Serves `requests` until one of them is `Close` or nobody can ask any more.
    pub(super) fn run(mut self, requests: &mpsc::Receiver<Request>) {
        let mut closing = None;
        let mut group = VecDeque::new();
        let mut next = None;
        while closing.is_none() {
            match next.take().map_or_else(|| requests.recv(), Ok) {
                Ok(Request::Commit(first)) => {
                    next = gather(first, &mut group, requests);
                    self.settle(&mut group);
                }
                Ok(Request::Copy(copied)) => self.copy(copied),
                Ok(Request::Close(answer)) => closing = Some(answer),
                Err(mpsc::RecvError) => break,
            }
        }
        self.close();
        if let Some(answer) = closing {
            let _ = answer.send(());
        }
    }

    /// Commits `group` and answers all who wait for it.
    fn settle(&mut self, group: &mut VecDeque<Submitted>) {
        // sled asserts its invariants: a panic there is a failure of the engine like any other.
        let outcomes = catch_unwind(AssertUnwindSafe(|| self.commit(group)))
            .unwrap_or_else(|panic| Err(panic_text(panic.as_ref())));
        match outcomes {
            Ok(outcomes) => {
                self.shared.settle_group();
                for (submitted, outcome) in group.drain(..).zip(outcomes) {
                    let _ = submitted.answer.send(self.answer(outcome));
                }
            }
            Err(text) => {
                tracing::error!(error = %text, "store failed");
                self.shared.fail(text);
                for submitted in group.drain(..) {
                    let _ = submitted.answer.send(self.shared.check());
                }
            }
        }
    }

    /// Puts entries there that are no commits: no preconditions, leaves as the rows that they are.
    fn copy(&mut self, Copied { rows, answer }: Copied) {
        let copied = catch_unwind(AssertUnwindSafe(|| {
            for (key, value) in rows {
                self.pending.insert(key.into(), Some(value.into()));
            }
            self.apply()?;
            self.barrier.as_mut().map_or(Ok(()), |barrier| barrier.wait(&self.db)).map_err(text)
        }));
        let copied = copied.unwrap_or_else(|panic| Err(panic_text(panic.as_ref())));
        let _ = answer.send(copied.map_err(|text| {
            self.shared.fail(text.clone());
            Error::Engine(text)
        }));
        self.shared.settle_group();
    }

    fn answer(&self, outcome: Outcome) -> Result<(), Error> {
        match outcome {
            Outcome::Applied => Ok(()),
            Outcome::Conflict => Err(Error::Conflict),
            Outcome::DiskFull { free_bytes, reserve_bytes } => {
                Err(Error::DiskFull { free_bytes, reserve_bytes })
            }
            Outcome::Unreadable(error) => Err(error),
        }
    }

    fn commit(&mut self, group: &VecDeque<Submitted>) -> Result<Vec<Outcome>, String> {
        if let Err(failure) = self.shared.check() {
            return Err(failure.to_string());
        }
        let begun = Instant::now();
        self.pending.clear();
        let free_bytes = files::free_bytes(&self.shared.engine).map_err(|e| e.to_string())?;
        let mut outcomes = Vec::with_capacity(group.len());
        let mut operations = 0;
        for Submitted { batch, .. } in group {
            // The leaf of a deletion is small, and the reserve is there for it.
            let deletes = batch.writes.iter().any(|(.., value)| value.is_none());
            let grows = batch.writes.iter().any(|(.., value)| value.is_some())
                || (!batch.leaves.is_empty() && !deletes);
            let reserve_bytes = reserve_of(self.reserve_bytes, batch.urgent);
            outcomes.push(if grows && free_bytes < reserve_bytes {
                Outcome::DiskFull { free_bytes, reserve_bytes }
            } else {
                match self.holds(batch)? {
                    Ok(true) => {
                        operations += batch.writes.len() + batch.leaves.len();
                        self.take(batch)?;
                        Outcome::Applied
                    }
                    Ok(false) => Outcome::Conflict,
                    Err(error) => Outcome::Unreadable(error),
                }
            });
        }
        self.apply()?;
        if let Some(barrier) = self.barrier.as_mut().filter(|_| operations > 0) {
            barrier.wait(&self.db).map_err(|error| error.to_string())?;
            self.shared.statistics.count_barrier();
            self.metrics.committed(outcomes.len() as u64, begun.elapsed());
        }
        self.shared.statistics.count_group(group.len(), operations);
        Ok(outcomes)
    }

    /// True if every precondition of `batch` does, earlier batches of the group included. The inner
    /// error is the batch's alone: a value that does not open.
    fn holds(&mut self, batch: &Batch) -> Result<Result<bool, Error>, String> {
        for precondition in &batch.preconditions {
            self.write_key(&batch.unit, precondition.table, &precondition.key);
            let expected = precondition.expected.as_deref();
            let holds = match self.pending.get(self.scratch.as_slice()) {
                Some(pending) => pending.as_deref() == expected,
                None => {
                    let (unit, table) = (&batch.unit, precondition.table);
                    match self.stored(unit, table, &precondition.key)? {
                        Ok(value) => value.as_deref() == expected,
                        Err(error) => return Ok(Err(error)),
                    }
                }
            };
            if !holds {
                return Ok(Ok(false));
            }
        }
        Ok(Ok(true))
    }

    /// The value that stands in sled.
    fn stored(
        &self,
        unit: &UnitCode,
        table: Table,
        key: &[u8],
    ) -> Result<Result<Option<Vec<u8>>, Error>, String> {
        let key = match self.codec.key(unit, table, key) {
            Ok(Some(key)) => key,
            Ok(None) => return Ok(Ok(None)),
            Err(error) => return Ok(Err(error)),
        };
        let Some(value) = self.db.get(&key).map_err(text)? else { return Ok(Ok(None)) };
        let opened = self.codec.open(unit, table, &key, &value);
        Ok(opened.map(|(_, value)| Some(value)))
    }

    /// Adds `batch` to what is pending, which is applied first if both are too many for sled.
    ///
    /// What is pending and the journal's rows of its leaves are one batch of sled's, so that no
    /// change is ever there without its leaf.
    fn take(&mut self, batch: &Batch) -> Result<(), String> {
        let rows = self.journals.rows() + usize::from(!batch.leaves.is_empty());
        let is_journal = |table: Table| matches!(table, Table::Journal | Table::JournalTiles);
        if batch.writes.iter().any(|(table, ..)| is_journal(*table)) {
            self.apply()?;
            self.journals.forget(&batch.unit);
        }
        if self.pending.len() + batch.writes.len() + rows > MAX_BATCH_OPERATIONS {
            self.apply()?;
        }
        let first = if batch.leaves.is_empty() {
            0
        } else {
            let unit = batch.journal_unit();
            let rows = UnitRows { db: &self.db, codec: &self.codec, unit };
            self.journals.append(unit, &batch.leaves, &rows)?
        };
        for (number, (table, key, value)) in batch.writes.iter().enumerate() {
            self.write_key(&batch.unit, *table, key);
            let key = IVec::from(self.scratch.as_slice());
            let mut value = value.as_deref().map(IVec::from);
            let leaf = batch.indexed.iter().find(|(place, _)| *place == number);
            if let (Some(value), Some((_, leaf))) = (&mut value, leaf) {
                value[1..9].copy_from_slice(&(first + leaf.0 as u64).to_be_bytes());
            }
            self.pending.insert(key, value);
        }
        Ok(())
    }

    /// Gives what is pending to sled as one batch.
    fn apply(&mut self) -> Result<(), String> {
        for (unit, table, key, value) in self.journals.drain() {
            self.write_key(&unit, table, &key);
            self.pending.insert(IVec::from(self.scratch.as_slice()), Some(IVec::from(value)));
        }
        if self.pending.is_empty() {
            return Ok(());
        }
        let (mut batched, mut sealed) = (Batched::new(), Vec::with_capacity(self.pending.len()));
        while let Some((key, value)) = self.pending.pop_first() {
            sealed.push(self.codec.seal(&mut batched, key, value, &self.db).map_err(text)?);
        }
        self.shared.begin_apply(sealed.iter().map(|(key, _)| key));
        let mut batch = ::sled::Batch::default();
        for (key, value) in sealed {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        self.db.apply_batch(batch).map_err(text)
    }

    fn write_key(&mut self, unit: &UnitCode, table: Table, key: &[u8]) {
        self.scratch.clear();
        key::write_prefix(&mut self.scratch, unit, table);
        self.scratch.extend_from_slice(key);
    }

    /// Closes sled's files and only then gives up the lock.
    fn close(self) {
        let Self { db, shared, lock, barrier, .. } = self;
        drop(barrier);
        // sled syncs once more when its last handle goes, and panics if it cannot.
        let closed = catch_unwind(AssertUnwindSafe(|| {
            drop(shared.take_db());
            drop(db);
        }));
        let released = files::wait_until_released(&shared.engine);
        if closed.is_err() || released.is_err() {
            tracing::error!("store did not close cleanly; what was acknowledged is safe");
        }
        drop(lock);
    }
}

/// The rows of one unit, as far as they were given to sled.
struct UnitRows<'a> {
    db: &'a Db,
    codec: &'a Codec,
    unit: &'a UnitCode,
}

impl UnitRows<'_> {
    fn open(&self, table: Table, entry: ::sled::Result<Row>) -> Result<Entry, String> {
        let (key, value) = entry.map_err(text)?;
        self.codec.open(self.unit, table, &key, &value).map_err(text)
    }
}

/// The tables of journals hide nothing of their keys, so sled's ranges are theirs.
impl Rows for UnitRows<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, String> {
        let key = key::encode(self.unit, table, key);
        let Some(value) = self.db.get(&key).map_err(text)? else { return Ok(None) };
        self.open(table, Ok((key.into(), value))).map(|(_, value)| Some(value))
    }

    fn last(&self, table: Table) -> Result<Option<Entry>, String> {
        let Some(range) = key::range(self.unit, table, b"", None) else { return Ok(None) };
        self.db.range(range).next_back().map(|entry| self.open(table, entry)).transpose()
    }

    fn from(&self, table: Table, key: &[u8]) -> Result<Vec<Entry>, String> {
        let Some((_, end)) = key::range(self.unit, table, b"", None) else { return Ok(Vec::new()) };
        let start = Bound::Included(IVec::from(key::encode(self.unit, table, key)));
        self.db.range((start, end)).map(|entry| self.open(table, entry)).collect()
    }
}

/// Fills `group` with what waits in the channel; returns what came that is no commit.
fn gather(
    first: Submitted,
    group: &mut VecDeque<Submitted>,
    requests: &mpsc::Receiver<Request>,
) -> Option<Request> {
    let size = |batch: &Batch| batch.len() + batch.leaves.len();
    let mut operations = size(&first.batch);
    let mut bytes = first.batch.bytes();
    group.push_back(first);
    while operations < MAX_GROUP_OPERATIONS && bytes < MAX_GROUP_BYTES {
        match requests.try_recv() {
            Ok(Request::Commit(next)) => {
                operations += size(&next.batch);
                bytes += next.batch.bytes();
                group.push_back(next);
            }
            Ok(other @ (Request::Copy(_) | Request::Close(_))) => return Some(other),
            Err(mpsc::TryRecvError::Empty | mpsc::TryRecvError::Disconnected) => break,
        }
    }
    None
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "the engine panicked".to_owned())
}
