//! A store in memory whose disk outlives it, for simulations of power cuts.
//!
//! Promises what every engine does, and no more: a batch is acknowledged after a barrier, batches are
//! applied in their order, and a read returns only what would survive. What was submitted and not
//! acknowledged may stand on the disk after a crash or not, all of it up to some batch: the caller
//! says up to which. Whoever holds a store that crashed waits for ever, as a process that is gone
//! does. Nothing is kept when the process ends: no host uses it.

use std::{
    collections::{BTreeMap, VecDeque},
    future::pending,
    ops::Bound,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use tokio::sync::{Notify, oneshot};

use super::{
    Batch, Commit, Entry, Error, Store, Table, Usage, check_limits,
    journal::{Journals, Rows},
};
use crate::domain::unit::UnitCode;

/// Bytes that are free on a disk that is not full.
const PLENTY_BYTES: u64 = 1 << 40;

/// Bytes that a full disk keeps in reserve.
const RESERVE_BYTES: u64 = 128 << 20;

/// What a store meets.
#[async_trait]
pub trait Conditions: Send + Sync + 'static {
    /// Waits as long as a read takes.
    async fn read(&self) {}

    /// Waits as long as a barrier takes.
    async fn barrier(&self) {}

    /// True while the disk takes no more.
    fn is_full(&self) -> bool {
        false
    }

    /// True: acknowledges before the barrier, which no store may do. Shows that a simulation finds it.
    fn acknowledges_early(&self) -> bool {
        false
    }

    /// True: a write is left out of its batch, which no store may do either.
    fn loses(&self, _table: Table, _key: &[u8], _value: Option<&[u8]>) -> bool {
        false
    }

    /// True: a value is not found by its key, and no precondition counts for it.
    fn hides(&self, _table: Table, _value: &[u8]) -> bool {
        false
    }
}

/// Reads and barriers that take no time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ideal;

impl Conditions for Ideal {}

type Rowset = BTreeMap<Vec<u8>, Vec<u8>>;
type Tables = BTreeMap<Table, Rowset>;

/// A place, and what stood there.
type Before = (UnitCode, Table, Vec<u8>, Option<Vec<u8>>);

struct Submitted {
    batch: Batch,
    answer: oneshot::Sender<Result<(), Error>>,
}

#[derive(Default)]
struct State {
    units: BTreeMap<UnitCode, Tables>,
    journals: Journals,
    queue: VecDeque<Submitted>,
    /// Which opening of the disk may use it.
    life: u64,
    /// What stood where an acknowledged batch was put that no barrier covers.
    undo: Vec<Before>,
    /// Those who wait for a store that crashed: they are not answered.
    forgotten: Vec<oneshot::Sender<Result<(), Error>>>,
}

/// What survives a crash.
#[derive(Clone, Default)]
pub struct Disk(Arc<Mutex<State>>);

impl std::fmt::Debug for Disk {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Disk")
    }
}

impl Disk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the store on this disk; one that was open crashes. Call within a runtime.
    pub fn open(&self, conditions: Arc<dyn Conditions>) -> Arc<MemoryStore> {
        self.crash(0);
        let life = self.state().life;
        let shared = Arc::new(Shared {
            disk: self.clone(),
            life,
            conditions,
            wake: Notify::new(),
            gone: AtomicBool::new(false),
        });
        tokio::spawn(write(Arc::clone(&shared)));
        Arc::new(MemoryStore(shared))
    }

    /// Cuts the power: of what was submitted and not acknowledged the first `kept` batches stand on
    /// the disk, and the others are gone.
    pub fn crash(&self, kept: usize) {
        let mut state = self.state();
        for (unit, table, key, value) in std::mem::take(&mut state.undo).into_iter().rev() {
            put(&mut state.units, &unit, table, key, value);
            state.journals = Journals::default();
        }
        let queue = std::mem::take(&mut state.queue);
        for (place, Submitted { batch, answer }) in queue.into_iter().enumerate() {
            if place < kept {
                // One that does not hold changes nothing.
                state.commit(&batch, &Ideal).ok();
            }
            state.forgotten.push(answer);
        }
        state.undo.clear();
        state.journals = Journals::default();
        state.life += 1;
    }

    /// Batches that were submitted and are not acknowledged.
    pub fn waiting(&self) -> usize {
        self.state().queue.len()
    }

    /// A disk with what would survive a crash now: a backup.
    #[must_use]
    pub fn copy(&self) -> Self {
        let state = self.state();
        let mut units = state.units.clone();
        for (unit, table, key, value) in state.undo.iter().rev() {
            put(&mut units, unit, *table, key.clone(), value.clone());
        }
        Self(Arc::new(Mutex::new(State { units, ..State::default() })))
    }

    /// The value at `key` that would survive a crash, for whoever looks at the disk from outside.
    pub fn get(&self, unit: &UnitCode, table: Table, key: &[u8]) -> Option<Vec<u8>> {
        let state = self.state();
        let is_it = |(of, at, name, _): &&Before| (of, *at, name.as_slice()) == (unit, table, key);
        match state.undo.iter().find(is_it) {
            Some((.., before)) => before.clone(),
            None => state.units.get(unit)?.get(&table)?.get(key).cloned(),
        }
    }

    /// All entries whose key begins with `prefix`, for whoever looks at the disk from outside.
    pub fn scan(&self, unit: &UnitCode, table: Table, prefix: &[u8]) -> Vec<Entry> {
        self.state().rows(unit, table, prefix, None).collect()
    }
}

fn put(
    units: &mut BTreeMap<UnitCode, Tables>,
    unit: &UnitCode,
    table: Table,
    key: Vec<u8>,
    value: Option<Vec<u8>>,
) -> Option<Vec<u8>> {
    if !units.contains_key(unit) {
        units.insert(unit.clone(), Tables::new());
    }
    let rows = units.get_mut(unit)?.entry(table).or_default();
    match value {
        Some(value) => rows.insert(key, value),
        None => rows.remove(&key),
    }
}

impl State {
    fn rows<'a>(
        &'a self,
        unit: &UnitCode,
        table: Table,
        prefix: &'a [u8],
        after: Option<&[u8]>,
    ) -> impl DoubleEndedIterator<Item = Entry> + use<'a> {
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after.to_vec()),
            Some(_) | None => Bound::Included(prefix.to_vec()),
        };
        let end = end_of(prefix);
        // A range that ends before it begins is no range.
        let is_empty = matches!((&start, &end), (Bound::Excluded(start), Bound::Excluded(end)) if start >= end);
        let rows = self.units.get(unit).and_then(|tables| tables.get(&table)).filter(|_| !is_empty);
        let rows = rows.into_iter().flat_map(move |rows| rows.range((start.clone(), end.clone())));
        rows.map(|(key, value)| (key.clone(), value.clone()))
    }

    /// Commits one batch, or nothing of it.
    fn commit(&mut self, batch: &Batch, conditions: &dyn Conditions) -> Result<(), Error> {
        let deletes = batch.writes.iter().any(|(.., value)| value.is_none());
        let grows = batch.writes.iter().any(|(.., value)| value.is_some())
            || (!batch.leaves.is_empty() && !deletes);
        if grows && conditions.is_full() {
            return Err(Error::DiskFull { free_bytes: 0, reserve_bytes: RESERVE_BYTES });
        }
        for held in &batch.preconditions {
            let found = self.units.get(&batch.unit).and_then(|tables| tables.get(&held.table));
            let found = found.and_then(|rows| rows.get(&held.key));
            let is_hidden = found.is_some_and(|value| conditions.hides(held.table, value));
            if found != held.expected.as_ref() && !is_hidden {
                return Err(Error::Conflict);
            }
        }
        let mut first = 0;
        if !batch.leaves.is_empty() {
            let unit = batch.journal_unit();
            let empty = Tables::new();
            let rows = UnitRows(self.units.get(unit).unwrap_or(&empty));
            first = self.journals.append(unit, &batch.leaves, &rows).map_err(Error::Engine)?;
            for (unit, table, key, value) in self.journals.drain() {
                self.write(&unit, table, key, Some(value));
            }
        }
        for (number, (table, key, value)) in batch.writes.iter().enumerate() {
            let mut value = value.clone();
            let leaf = batch.indexed.iter().find(|(place, _)| *place == number);
            if let (Some(value), Some((_, leaf))) = (&mut value, leaf) {
                value[1..9].copy_from_slice(&(first + leaf.0 as u64).to_be_bytes());
            }
            if !conditions.loses(*table, key, value.as_deref()) {
                self.write(&batch.unit, *table, key.clone(), value);
            }
        }
        Ok(())
    }

    fn write(&mut self, unit: &UnitCode, table: Table, key: Vec<u8>, value: Option<Vec<u8>>) {
        let before = put(&mut self.units, unit, table, key.clone(), value);
        self.undo.push((unit.clone(), table, key, before));
    }
}

/// Where keys end that begin with `prefix`.
fn end_of(prefix: &[u8]) -> Bound<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return Bound::Excluded(end);
        }
    }
    Bound::Unbounded
}

struct UnitRows<'a>(&'a Tables);

impl Rows for UnitRows<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, String> {
        Ok(self.0.get(&table).and_then(|rows| rows.get(key)).cloned())
    }

    fn last(&self, table: Table) -> Result<Option<Entry>, String> {
        let last = self.0.get(&table).and_then(|rows| rows.last_key_value());
        Ok(last.map(|(key, value)| (key.clone(), value.clone())))
    }

    fn from(&self, table: Table, key: &[u8]) -> Result<Vec<Entry>, String> {
        let rows = self.0.get(&table).into_iter().flat_map(|rows| rows.range(key.to_vec()..));
        Ok(rows.map(|(key, value)| (key.clone(), value.clone())).collect())
    }
}

struct Shared {
    disk: Disk,
    life: u64,
    conditions: Arc<dyn Conditions>,
    wake: Notify,
    /// Closed, or nobody can ask any more.
    gone: AtomicBool,
}

impl Shared {
    /// The disk, if this store may still use it.
    fn alive(&self) -> Option<MutexGuard<'_, State>> {
        Some(self.disk.state()).filter(|state| state.life == self.life)
    }

    /// Commits the first `count` of what waits and answers; false if the store crashed.
    fn settle(&self, count: usize) -> bool {
        let Some(mut state) = self.alive() else { return false };
        for _ in 0..count {
            let Some(Submitted { batch, answer }) = state.queue.pop_front() else { break };
            let result = state.commit(&batch, self.conditions.as_ref());
            // Whoever asked may have gone.
            answer.send(result).ok();
        }
        true
    }

    /// The barrier stands behind everything that was committed.
    fn cover(&self) -> bool {
        self.alive().map(|mut state| state.undo.clear()).is_some()
    }
}

/// The one writer: it waits for a barrier, and commits what waited before it.
async fn write(shared: Arc<Shared>) {
    loop {
        shared.wake.notified().await;
        loop {
            let count = match shared.alive() {
                Some(state) => state.queue.len(),
                None => return,
            };
            if count == 0 {
                break;
            }
            let is_early = shared.conditions.acknowledges_early();
            if is_early && !shared.settle(count) {
                return;
            }
            shared.conditions.barrier().await;
            let is_there = (is_early || shared.settle(count)) && shared.cover();
            if !is_there {
                return;
            }
        }
        if shared.gone.load(Ordering::Acquire) {
            return;
        }
    }
}

/// A store on a [`Disk`].
pub struct MemoryStore(Arc<Shared>);

impl MemoryStore {
    /// Waits as long as a read takes, and for ever once the store crashed.
    async fn reading(&self) -> Result<(), Error> {
        if self.0.gone.load(Ordering::Acquire) {
            return Err(Error::Closed);
        }
        self.0.conditions.read().await;
        if self.0.alive().is_none() {
            pending::<()>().await;
        }
        Ok(())
    }

    fn look<T>(&self, look: impl FnOnce(&State) -> T) -> Result<T, Error> {
        self.0.alive().map(|state| look(&state)).ok_or(Error::Closed)
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn get(
        &self,
        unit: &UnitCode,
        table: Table,
        key: &[u8],
    ) -> Result<Option<Vec<u8>>, Error> {
        self.reading().await?;
        let found = self.look(|state| state.units.get(unit)?.get(&table)?.get(key).cloned())?;
        Ok(found.filter(|value| !self.0.conditions.hides(table, value)))
    }

    async fn scan(
        &self,
        unit: &UnitCode,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Entry>, Error> {
        self.reading().await?;
        self.look(|state| state.rows(unit, table, prefix, after).take(limit).collect())
    }

    async fn last(
        &self,
        unit: &UnitCode,
        table: Table,
        prefix: &[u8],
    ) -> Result<Option<Entry>, Error> {
        self.reading().await?;
        self.look(|state| state.rows(unit, table, prefix, None).next_back())
    }

    fn submit(&self, batch: Batch) -> Commit {
        let (answer, commit) = Commit::pending();
        if let Err(error) = check_limits(&batch) {
            // The other half is in `commit`.
            answer.send(Err(error)).ok();
            return commit;
        }
        if self.0.gone.load(Ordering::Acquire) {
            return commit;
        }
        let mut state = self.0.disk.state();
        if state.life == self.0.life {
            state.queue.push_back(Submitted { batch, answer });
            self.0.wake.notify_one();
        } else {
            state.forgotten.push(answer);
        }
        commit
    }

    async fn units(&self) -> Result<Vec<UnitCode>, Error> {
        self.reading().await?;
        let has_rows = |tables: &Tables| tables.values().any(|rows| !rows.is_empty());
        self.look(|state| {
            let units = state.units.iter().filter(|(_, tables)| has_rows(tables));
            units.map(|(unit, _)| unit.clone()).collect()
        })
    }

    fn usage(&self) -> Result<Usage, Error> {
        let free_bytes = if self.0.conditions.is_full() { 0 } else { PLENTY_BYTES };
        Ok(Usage { store_bytes: 0, free_bytes })
    }

    async fn close(&self) -> Result<(), Error> {
        if self.0.gone.load(Ordering::Acquire) {
            return Ok(());
        }
        let commit = self.submit(Batch::new(&"CLOSING".parse().map_err(|_| Error::Closed)?));
        let settled = commit.await;
        self.0.gone.store(true, Ordering::Release);
        self.0.wake.notify_one();
        settled
    }
}

impl Drop for MemoryStore {
    fn drop(&mut self) {
        self.0.gone.store(true, Ordering::Release);
        self.0.wake.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::store::conformance;

    /// Disks by the directory that they stand for.
    fn disks() -> impl Fn(PathBuf) -> Disk {
        let disks = Mutex::new(BTreeMap::<PathBuf, Disk>::new());
        move |path| disks.lock().unwrap().entry(path).or_default().clone()
    }

    #[tokio::test]
    async fn it_keeps_every_promise_of_a_store() {
        let disk_of = disks();
        conformance::run(std::path::Path::new("/"), |path| {
            let store: Arc<dyn Store> = disk_of(path).open(Arc::new(Ideal));
            async move { store }
        })
        .await;
    }

    /// A barrier that never ends.
    struct Stuck;

    #[async_trait]
    impl Conditions for Stuck {
        async fn barrier(&self) {
            pending().await
        }
    }

    fn numbered(number: u8) -> Batch {
        let mut batch = Batch::new(&"A".parse().unwrap());
        batch.put(Table::Meta, [number], [number]);
        batch
    }

    fn found(disk: &Disk) -> Vec<u8> {
        let rows = disk.scan(&"A".parse().unwrap(), Table::Meta, b"");
        rows.into_iter().map(|(key, _)| key[0]).collect()
    }

    #[tokio::test]
    async fn a_crash_keeps_the_first_of_what_was_not_acknowledged_and_answers_nobody() {
        let disk = Disk::default();
        let store = disk.open(Arc::new(Stuck));
        let commits: Vec<_> = (0..5).map(|number| store.submit(numbered(number))).collect();
        tokio::task::yield_now().await;
        assert_eq!(found(&disk), [] as [u8; 0], "nothing is read before the barrier");
        disk.crash(3);
        assert_eq!(found(&disk), [0, 1, 2]);
        for commit in commits {
            assert_eq!(futures::FutureExt::now_or_never(commit).map(|it| it.is_ok()), None);
        }
        assert_eq!(futures::FutureExt::now_or_never(store.submit(numbered(9))).map(|_| ()), None);
    }

    #[tokio::test]
    async fn a_backup_is_a_disk_of_its_own() {
        let disk = Disk::default();
        let store = disk.open(Arc::new(Ideal));
        store.submit(numbered(1)).await.unwrap();
        let backup = disk.copy();
        store.submit(numbered(2)).await.unwrap();
        assert_eq!((found(&backup), found(&disk)), (vec![1], vec![1, 2]));
    }

    struct Liar;

    #[async_trait]
    impl Conditions for Liar {
        async fn barrier(&self) {
            pending().await
        }

        fn acknowledges_early(&self) -> bool {
            true
        }
    }

    #[tokio::test]
    async fn one_that_acknowledges_early_loses_what_it_acknowledged() {
        let disk = Disk::default();
        let store = disk.open(Arc::new(Liar));
        store.submit(numbered(1)).await.unwrap();
        assert_eq!(found(&disk), [1]);
        disk.crash(usize::MAX);
        assert_eq!(found(&disk), [] as [u8; 0]);
    }
}
