//! One run of changes to a unit's records: each batch holds whole records with all their figures.
//!
//! Batches are submitted without waiting for each other. Each requires the counters that the one
//! before it wrote, so that a batch that fails takes all later ones with it. What this run wrote
//! is read from its own memory, never from the store, which may not have it yet.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{
    Error, Progress,
    prepared::Part,
    stored::{
        self, COUNTERS, Counters, PROGRESS, decode_cell, decode_count, encode_cell, encode_count,
        ordered, unordered, value_key, value_of,
    },
};
use crate::{
    clock::Clock,
    domain::{
        component::Component, distinct::Distinct, indicator::Contribution, journal::Leaf,
        unit::UnitCode,
    },
    store::{Batch, Commit, MAX_BATCH_OPERATIONS, Store, Table},
};

/// Writes of a batch that are left for counters and progress.
const OWN_WRITES: usize = 2;

/// A batch ends at this many bytes of records.
const MAX_BATCH_BYTES: usize = 256 * 1024;

/// Batches on their way to the disk.
const MAX_IN_FLIGHT: usize = 16;

/// Entries of one scan.
const PAGE: usize = 1000;

pub(super) struct Session<'a> {
    store: &'a dyn Store,
    unit: &'a UnitCode,
    clock: &'a dyn Clock,
    counters: Counters,
    stored_counters: Option<Vec<u8>>,
    records: BTreeMap<Vec<u8>, Vec<u8>>,
    cells: BTreeMap<Vec<u8>, Cell>,
    values: BTreeMap<Vec<u8>, u64>,
    dirty: BTreeSet<(Table, Vec<u8>)>,
    dirty_bytes: usize,
    /// Components that lost a value and are computed again from what is left.
    stale: BTreeSet<Vec<u8>>,
    commits: VecDeque<Commit>,
    /// A record is in, and not all its figures: nothing of this may be written.
    is_torn: bool,
}

struct Cell {
    group: String,
    component: Component,
}

/// A record's new stored form.
pub(super) struct Write<'a> {
    pub(super) key: &'a [u8],
    pub(super) value: &'a [u8],
    /// Bytes of the form that it replaces; `None`: a new record.
    pub(super) replaced_bytes: Option<usize>,
}

impl<'a> Session<'a> {
    pub(super) fn new(
        store: &'a dyn Store,
        unit: &'a UnitCode,
        clock: &'a dyn Clock,
        counters: Counters,
        stored_counters: Option<Vec<u8>>,
    ) -> Self {
        Self {
            store,
            unit,
            clock,
            counters,
            stored_counters,
            records: BTreeMap::new(),
            cells: BTreeMap::new(),
            values: BTreeMap::new(),
            dirty: BTreeSet::new(),
            dirty_bytes: 0,
            stale: BTreeSet::new(),
            commits: VecDeque::new(),
            is_torn: false,
        }
    }

    pub(super) fn counters(&self) -> Counters {
        self.counters
    }

    /// The counters as the last batch wrote them.
    pub(super) fn into_stored_counters(self) -> Option<Vec<u8>> {
        self.stored_counters
    }

    /// The stored form of a record as this run sees it.
    pub(super) async fn record(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        match self.records.get(key) {
            Some(value) => Ok(Some(value.clone())),
            None => {
                let stored = self.store.get(self.unit, Table::Records, key).await?;
                stored.map(stored::unsalted).transpose()
            }
        }
    }

    /// True if what `parts` and a record touch fits into the batch that is being gathered.
    pub(super) fn fits<'p>(
        &self,
        record: Option<&[u8]>,
        parts: impl Iterator<Item = &'p Part>,
        bytes: usize,
    ) -> Result<bool, Error> {
        let mut touched: BTreeSet<(Table, Vec<u8>)> = BTreeSet::new();
        touched.extend(record.map(|key| (Table::Records, key.to_vec())));
        for part in parts {
            touched.insert((Table::Components, part.cell.clone()));
            if let Some(value) = value_of_part(part) {
                touched.insert((Table::ComponentValues, value_key(&part.cell, value)));
            }
        }
        let limit = MAX_BATCH_OPERATIONS - OWN_WRITES;
        if touched.len() > limit {
            return Err(Error::TooManyFigures { figures: touched.len(), limit });
        }
        let total = self.dirty.len() + touched.difference(&self.dirty).count();
        Ok(total <= limit && (self.dirty.is_empty() || self.dirty_bytes + bytes <= MAX_BATCH_BYTES))
    }

    /// Writes a record's stored form, takes out what it added before and adds what it adds.
    pub(super) async fn change(
        &mut self,
        write: &Write<'_>,
        removed: &[&Part],
        added: &[&Part],
    ) -> Result<(), Error> {
        self.is_torn = true;
        self.dirty_bytes += write.key.len() + write.value.len();
        self.counters.bytes += write.value.len() as u64;
        match write.replaced_bytes {
            Some(replaced) => {
                self.counters.bytes = self.counters.bytes.saturating_sub(replaced as u64);
            }
            None => {
                self.counters.records += 1;
                self.counters.bytes += write.key.len() as u64;
            }
        }
        self.records.insert(write.key.to_vec(), write.value.to_vec());
        self.dirty.insert((Table::Records, write.key.to_vec()));
        for part in removed {
            self.take_out(part).await?;
        }
        for part in added {
            self.add(part).await?;
        }
        self.is_torn = false;
        Ok(())
    }

    /// Adds one part to its component.
    pub(super) async fn add(&mut self, part: &Part) -> Result<(), Error> {
        if let Some(value) = value_of_part(part) {
            let key = value_key(&part.cell, value);
            let count = self.value(&key).await?;
            self.values.insert(key.clone(), count + 1);
            self.dirty.insert((Table::ComponentValues, key));
        }
        self.cell(part).await?.component.insert(&part.contribution)?;
        self.dirty.insert((Table::Components, part.cell.clone()));
        Ok(())
    }

    /// Takes one part out of its component.
    async fn take_out(&mut self, part: &Part) -> Result<(), Error> {
        self.dirty.insert((Table::Components, part.cell.clone()));
        let Some(value) = value_of_part(part) else {
            self.cell(part).await?.component.remove(&part.contribution)?;
            return Ok(());
        };
        let key = value_key(&part.cell, value);
        let count = self.value(&key).await?;
        let left = count.checked_sub(1).ok_or(Error::Lost)?;
        self.values.insert(key.clone(), left);
        self.dirty.insert((Table::ComponentValues, key));
        let is_seen = match (&self.cell(part).await?.component, part.contribution) {
            (Component::Extreme { min_milli, max_milli }, Contribution::Extreme(value)) => {
                *min_milli == Some(value) || *max_milli == Some(value)
            }
            _ => true,
        };
        if left == 0 && is_seen {
            self.stale.insert(part.cell.clone());
        }
        Ok(())
    }

    /// Submits what was gathered.
    pub(super) async fn flush(&mut self, progress: Option<&Progress>) -> Result<(), Error> {
        if self.dirty.is_empty() || self.is_torn {
            return Ok(());
        }
        for cell in std::mem::take(&mut self.stale) {
            self.rebuild(&cell).await?;
        }
        let mut batch = Batch::new(self.unit);
        let dirty = std::mem::take(&mut self.dirty);
        self.put_records(&mut batch, &dirty)?;
        for (table, key) in dirty.into_iter().filter(|(table, _)| *table != Table::Records) {
            match self.encode(table, &key) {
                Some(value) => batch.put(table, key, value),
                None => batch.delete(table, key),
            }
        }
        self.dirty_bytes = 0;
        if let Some(progress) = progress {
            batch.put(Table::Imports, PROGRESS, progress.encode());
        }
        match self.stored_counters.take() {
            Some(stored) => batch.require(Table::Meta, COUNTERS, stored),
            None => batch.require_absent(Table::Meta, COUNTERS),
        }
        self.counters.sequence += 1;
        let counters = self.counters.encode();
        self.stored_counters = Some(counters.clone());
        batch.put(Table::Meta, COUNTERS, counters);
        self.commits.push_back(self.store.submit(batch));
        while self.commits.len() > MAX_IN_FLIGHT {
            self.settle_one().await?;
        }
        Ok(())
    }

    /// Puts the records of a batch, each salted anew and with its leaf.
    fn put_records(
        &self,
        batch: &mut Batch,
        dirty: &BTreeSet<(Table, Vec<u8>)>,
    ) -> Result<(), Error> {
        let keys = dirty.iter().filter(|(table, _)| *table == Table::Records);
        let records: Vec<_> = keys.filter_map(|(_, key)| self.records.get_key_value(key)).collect();
        let now = self.clock.now_unix_ms();
        for ((key, value), salt) in records.iter().zip(stored::salts(records.len())?) {
            let (row, salted_sha256) = stored::salted(key, value, &salt);
            batch.put(Table::Records, key.as_slice(), row);
            batch.journal(now, &Leaf::Record { salted_sha256, removed: false });
        }
        Ok(())
    }

    /// Waits until everything that was submitted is durable.
    pub(super) async fn settle(&mut self) -> Result<(), Error> {
        let mut first = Ok(());
        while !self.commits.is_empty() {
            let settled = self.settle_one().await;
            first = first.and(settled);
        }
        first
    }

    async fn settle_one(&mut self) -> Result<(), Error> {
        match self.commits.pop_front() {
            Some(commit) => Ok(commit.await?),
            None => Ok(()),
        }
    }

    fn encode(&self, table: Table, key: &[u8]) -> Option<Vec<u8>> {
        if table == Table::ComponentValues {
            return self
                .values
                .get(key)
                .filter(|count| **count > 0)
                .map(|count| encode_count(*count));
        }
        let cell = self.cells.get(key)?;
        (!cell.component.is_zero()).then(|| encode_cell(&cell.group, &cell.component))
    }

    async fn cell(&mut self, part: &Part) -> Result<&mut Cell, Error> {
        if !self.cells.contains_key(&part.cell) {
            let stored = self.store.get(self.unit, Table::Components, &part.cell).await?;
            let (group, component) = match stored {
                Some(stored) => decode_cell(&stored)?,
                None => {
                    let kind = Component::from(&part.contribution).kind();
                    (part.group.clone(), Component::zero(kind))
                }
            };
            self.cells.insert(part.cell.clone(), Cell { group, component });
        }
        Ok(self.cells.get_mut(&part.cell).expect("invariant: it was put there above"))
    }

    async fn value(&self, key: &[u8]) -> Result<u64, Error> {
        if let Some(count) = self.values.get(key) {
            return Ok(*count);
        }
        let stored = self.store.get(self.unit, Table::ComponentValues, key).await?;
        stored.map_or(Ok(0), |stored| decode_count(&stored))
    }

    /// Computes a component from its values.
    async fn rebuild(&mut self, cell: &[u8]) -> Result<(), Error> {
        let is_set = match self.cells.get(cell).map(|cell| &cell.component) {
            Some(Component::Distinct(_)) => true,
            Some(Component::Extreme { .. }) => false,
            Some(
                Component::Count(_)
                | Component::Sum { .. }
                | Component::Ratio { .. }
                | Component::Histogram(_),
            )
            | None => return Ok(()),
        };
        let component = if is_set {
            Component::Distinct(self.set(cell).await?)
        } else {
            Component::Extreme {
                min_milli: self.lowest(cell).await?.map(unordered),
                max_milli: self.highest(cell).await?.map(unordered),
            }
        };
        if let Some(cell) = self.cells.get_mut(cell) {
            cell.component = component;
        }
        Ok(())
    }

    async fn set(&self, cell: &[u8]) -> Result<Distinct, Error> {
        let mut set = Distinct::default();
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = self.scan(cell, after.as_deref(), PAGE).await?;
            for key in page.iter().filter(|key| self.is_live(key)) {
                set.insert(value_of(key)?);
            }
            match page.into_iter().last() {
                Some(last) => after = Some(last),
                None => break,
            }
        }
        for (key, _) in self.own_values(cell) {
            set.insert(value_of(key)?);
        }
        Ok(set)
    }

    async fn lowest(&self, cell: &[u8]) -> Result<Option<u64>, Error> {
        let own = self.own_values(cell).next().map(|(key, _)| value_of(key)).transpose()?;
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = self.scan(cell, after.as_deref(), PAGE).await?;
            let live = page.iter().find(|key| self.is_live(key));
            if let Some(live) = live {
                let stored = value_of(live)?;
                return Ok(Some(own.map_or(stored, |own| own.min(stored))));
            }
            match page.into_iter().last() {
                Some(last) => after = Some(last),
                None => return Ok(own),
            }
        }
    }

    async fn highest(&self, cell: &[u8]) -> Result<Option<u64>, Error> {
        let own = self.own_values(cell).next_back().map(|(key, _)| value_of(key)).transpose()?;
        let last = self.store.last(self.unit, Table::ComponentValues, cell).await?;
        let mut stored = last.map(|(key, _)| value_of(&key)).transpose()?;
        while let Some(value) = stored {
            if self.is_live(&value_key(cell, value)) {
                break;
            }
            stored = self.below(cell, value).await?;
        }
        Ok(own.max(stored))
    }

    /// Returns the highest stored value below `bound`. The store scans upward only, so the place
    /// is found by halving: at most 64 steps.
    pub(super) async fn below(&self, cell: &[u8], bound: u64) -> Result<Option<u64>, Error> {
        let first = self.scan(cell, None, 1).await?.first().map(|key| value_of(key)).transpose()?;
        let Some(mut low) = first.filter(|first| *first < bound) else { return Ok(None) };
        // `low` is stored; nothing is stored from `high` up to `bound`.
        let mut high = bound;
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            let after = value_key(cell, middle - 1);
            let next = self.scan(cell, Some(&after), 1).await?;
            match next.first().map(|key| value_of(key)).transpose()? {
                Some(found) if found < high => low = found,
                Some(_) | None => high = middle,
            }
        }
        Ok(Some(low))
    }

    async fn scan(
        &self,
        cell: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Vec<u8>>, Error> {
        let page = self.store.scan(self.unit, Table::ComponentValues, cell, after, limit).await?;
        Ok(page.into_iter().map(|(key, _)| key).collect())
    }

    /// True unless this run took the last of a stored value away.
    fn is_live(&self, key: &[u8]) -> bool {
        self.values.get(key).is_none_or(|count| *count > 0)
    }

    /// Values that this run touched and that are there.
    fn own_values(&self, cell: &[u8]) -> impl DoubleEndedIterator<Item = (&Vec<u8>, &u64)> {
        let bounds = value_key(cell, 0)..=value_key(cell, u64::MAX);
        self.values.range(bounds).filter(|(_, count)| **count > 0)
    }
}

fn value_of_part(part: &Part) -> Option<u64> {
    match part.contribution {
        Contribution::Extreme(value) => Some(ordered(value)),
        Contribution::Distinct(hash) => Some(hash),
        Contribution::Count
        | Contribution::Sum(_)
        | Contribution::Ratio { .. }
        | Contribution::Histogram(_) => None,
    }
}

impl Progress {
    fn encode(&self) -> Vec<u8> {
        let json = serde_json::to_vec(self).expect("invariant: progress holds numbers and text");
        stored::versioned(&json)
    }
}
