//! Records of one unit, and the components of indicators over them.
//!
//! A component is written in the same commit as the record that changes it, so that figures and
//! records never disagree, whatever happens in between. A record that is there unchanged writes
//! nothing. Records never leave this module but through [`Records::list`], for the unit's own
//! staff.

mod backfill;
mod prepared;
mod session;
mod stocks;
mod stored;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::{Mutex, MutexGuard};

pub use self::prepared::Prepared;
use self::{
    backfill::Built,
    prepared::{Part, additions, parts_of},
    session::{Session, Write},
    stored::{Bucket, COUNTERS, Counters, PROGRESS, cell_prefix, decode_cell, split_cell_key},
};
use crate::{
    clock::Clock,
    domain::{
        catalogue::{Catalogue, Finest},
        component::{self, Component},
        indicator::{Contribution, Indicator, Measure, When},
        period::{Month, Period},
        record::Violation,
        stock::end_milli,
        unit::UnitCode,
    },
    store::{self, Batch, Store, Table},
};

/// Longest stored record.
pub const MAX_RECORD_BYTES: usize = 60 * 1024;

/// Entries of one scan.
const PAGE: usize = 500;

/// After the keys of a month and of all its days.
const AFTER_DAYS: u8 = 0x7f;

/// Why records could not be written or counted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The catalogue in force has no such record type.
    #[error(
        "catalogue {catalogue} of unit {unit} has no record type {record_type:?}; publish one that has"
    )]
    RecordType {
        /// The unit.
        unit: UnitCode,
        /// The record type asked for.
        record_type: String,
        /// `name@version`.
        catalogue: String,
    },
    /// A document breaks rules of its record type. Nothing was written.
    #[error("document {position} is not valid: {}", .violations.first().map_or("", |first| first.reason.as_str()))]
    Invalid {
        /// Position among the documents, from 0.
        position: usize,
        /// The rules that it breaks.
        violations: Vec<Violation>,
    },
    /// The unit's quota is full. Records before stay.
    #[error(
        "unit {unit} has {used_bytes} of {quota_bytes} bytes of its quota in use, and \
         {needed_bytes} more are needed; raise quota_bytes of the unit in the host's configuration"
    )]
    Quota {
        /// The unit.
        unit: UnitCode,
        /// Its quota.
        quota_bytes: u64,
        /// What its records take.
        used_bytes: u64,
        /// What the record would add.
        needed_bytes: u64,
    },
    /// Figures are kept by month.
    #[error(
        "figures are kept by month, and {0} is not made of months; name a month, a quarter, a year or \
         months, or publish a catalogue with \"finest\": \"day\""
    )]
    Period(Period),
    /// One record changes more figures than one commit holds.
    #[error(
        "one record changes {figures} figures, over the limit of {limit}; declare fewer indicators over its type"
    )]
    TooManyFigures {
        /// Figures that it changes.
        figures: usize,
        /// How many fit.
        limit: usize,
    },
    /// A figure leaves its range, or does not hold what is taken out of it.
    #[error("a figure cannot be computed")]
    Component(#[from] component::Error),
    /// A value is taken out of a figure that does not hold it.
    #[error(
        "a figure does not hold what is taken out of it; its indicator changed without a new version"
    )]
    Lost,
    /// Stored bytes that were never written.
    #[error("{0} is damaged in the store; bring the store back from a backup")]
    Damaged(String),
    /// Stored bytes of a later program.
    #[error(
        "{what} has format {found} in the store, which this program does not know; use a newer one"
    )]
    Format {
        /// What has it.
        what: String,
        /// The format.
        found: u8,
    },
    /// The store failed.
    #[error("cannot read or write records")]
    Store(#[from] store::Error),
}

/// What became of records.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Applied {
    /// New records.
    pub imported: u64,
    /// Records that changed.
    pub updated: u64,
    /// Records that were there unchanged.
    pub unchanged: u64,
    /// Months that they count in.
    pub months: BTreeSet<Month>,
}

impl Applied {
    /// Adds what became of others.
    pub fn add(&mut self, other: &Self) {
        self.imported += other.imported;
        self.updated += other.updated;
        self.unchanged += other.unchanged;
        self.months.extend(&other.months);
    }
}

/// How far an import has come in one unit; committed with the records.
///
/// It counts rows after `from_row`, where the host's own account of the import ends.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Progress {
    /// Number of the import.
    pub import: u64,
    /// Last row that the host's account holds.
    pub from_row: u64,
    /// Last row that is in the store.
    pub through_row: u64,
    /// New records of the rows between.
    pub imported: u64,
    /// Changed records of the rows between.
    pub updated: u64,
    /// Unchanged records of the rows between.
    pub unchanged: u64,
    /// Months of the rows between.
    pub months: BTreeSet<String>,
}

impl Progress {
    fn count(&mut self, row: u64, outcome: Outcome, month: Month) {
        self.through_row = row;
        match outcome {
            Outcome::Imported => self.imported += 1,
            Outcome::Updated => self.updated += 1,
            Outcome::Unchanged => self.unchanged += 1,
        }
        let month = month.to_string();
        if !self.months.contains(&month) {
            self.months.insert(month);
        }
    }
}

/// What records would take of a quota: bytes freed and taken, by key.
#[derive(Debug, Default)]
pub struct Growth(BTreeMap<Vec<u8>, (u64, u64)>);

/// What a record is to those that are there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Outcome {
    Imported,
    Updated,
    Unchanged,
}

/// A unit's own total of one indicator and group.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OwnComponent {
    /// Id of the indicator.
    pub indicator: String,
    /// Version of the indicator.
    pub version: u32,
    /// Value of the indicator's group; empty: all together.
    pub group: String,
    /// The total.
    pub component: Component,
}

/// A record as it is kept.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Kept {
    /// Its key within its type.
    pub key: String,
    /// UTF-8 JSON, names in order.
    pub document: Vec<u8>,
}

/// Records of one unit. Changes of one unit wait for each other; units do not.
#[derive(Debug)]
pub struct Records {
    unit: UnitCode,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    quota_bytes: Option<u64>,
    /// What this process knows of the stored state; `None`: read it again.
    state: Mutex<Option<State>>,
}

#[derive(Debug)]
struct State {
    counters: Counters,
    stored_counters: Option<Vec<u8>>,
    built: Built,
}

impl Records {
    /// Opens the records of `unit`. One for each unit and store: it is where changes wait.
    pub fn new(
        unit: UnitCode,
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        quota_bytes: Option<u64>,
    ) -> Self {
        Self { unit, store, clock, quota_bytes, state: Mutex::new(None) }
    }

    /// The unit.
    pub fn unit(&self) -> &UnitCode {
        &self.unit
    }

    /// The unit's quota.
    pub fn quota_bytes(&self) -> Option<u64> {
        self.quota_bytes
    }

    /// Writes documents of one type. All are checked before the first is written.
    ///
    /// # Errors
    ///
    /// [`Error::RecordType`] and [`Error::Invalid`] write nothing. After the others, records that
    /// were written stay; to repeat the call is safe.
    pub async fn apply(
        &self,
        catalogue: &Catalogue,
        record_type: &str,
        documents: Vec<Value>,
    ) -> Result<Applied, Error> {
        let declared = catalogue.record_type(record_type).ok_or_else(|| Error::RecordType {
            unit: self.unit.clone(),
            record_type: record_type.to_owned(),
            catalogue: catalogue.label(),
        })?;
        let prepared = documents
            .iter()
            .enumerate()
            .map(|(position, document)| {
                Prepared::new(catalogue, declared, document)
                    .map(|prepared| (position as u64, prepared))
                    .map_err(|violations| Error::Invalid { position, violations })
            })
            .collect::<Result<Vec<_>, _>>()?;
        self.apply_prepared(catalogue, &prepared, None).await
    }

    /// Writes prepared records with their row numbers; all are durable when this returns.
    /// `progress` is committed with them and is then as it was committed.
    ///
    /// # Errors
    ///
    /// Records that were written stay; to repeat the call is safe.
    pub async fn apply_prepared(
        &self,
        catalogue: &Catalogue,
        rows: &[(u64, Prepared)],
        mut progress: Option<&mut Progress>,
    ) -> Result<Applied, Error> {
        let mut guard = self.state.lock().await;
        let mut state = self.current(&mut guard, catalogue).await?;
        let mut session = self.session(&mut state);
        let mut applied = Applied::default();
        let result = async {
            for (row, record) in rows {
                let outcome =
                    self.apply_one(catalogue, &mut session, record, progress.as_deref()).await?;
                applied.count(outcome, record.month);
                if let Some(progress) = progress.as_deref_mut() {
                    progress.count(*row, outcome, record.month);
                }
            }
            Ok(())
        }
        .await;
        let flushed = session.flush(progress.as_deref()).await;
        let settled = session.settle().await;
        result.and(flushed).and(settled)?;
        state.counters = session.counters();
        state.stored_counters = session.into_stored_counters();
        *guard = Some(state);
        Ok(applied)
    }

    async fn apply_one(
        &self,
        catalogue: &Catalogue,
        session: &mut Session<'_>,
        record: &Prepared,
        progress: Option<&Progress>,
    ) -> Result<Outcome, Error> {
        let existing = session.record(&record.key).await?;
        if existing.as_ref() == Some(&record.value) {
            return Ok(Outcome::Unchanged);
        }
        let old = match &existing {
            Some(existing) => self.stored_parts(catalogue, &record.key, existing)?,
            None => Vec::new(),
        };
        let removed: Vec<&Part> = old.iter().filter(|part| !record.parts.contains(part)).collect();
        let added: Vec<&Part> = record.parts.iter().filter(|part| !old.contains(part)).collect();
        self.check_quota(session, record, existing.as_ref())?;
        let touched = || removed.iter().chain(&added).copied();
        let bytes = record.key.len() + record.value.len();
        if !session.fits(Some(&record.key), touched(), bytes)? {
            session.flush(progress).await?;
        }
        let replaced_bytes = existing.as_ref().map(Vec::len);
        let write = Write { key: &record.key, value: &record.value, replaced_bytes };
        session.change(&write, &removed, &added).await?;
        Ok(if existing.is_some() { Outcome::Updated } else { Outcome::Imported })
    }

    fn check_quota(
        &self,
        session: &Session<'_>,
        record: &Prepared,
        existing: Option<&Vec<u8>>,
    ) -> Result<(), Error> {
        let Some(quota_bytes) = self.quota_bytes else { return Ok(()) };
        let used_bytes = session.counters().bytes;
        let replaced = existing.map_or(0, |existing| (record.key.len() + existing.len()) as u64);
        let needed_bytes = record.bytes().saturating_sub(replaced);
        if needed_bytes > 0 && used_bytes.saturating_add(needed_bytes) > quota_bytes {
            let unit = self.unit.clone();
            return Err(Error::Quota { unit, quota_bytes, used_bytes, needed_bytes });
        }
        Ok(())
    }

    fn document<'key>(&self, key: &'key [u8], value: &[u8]) -> Result<(&'key str, Value), Error> {
        let (record_type, _) = stored::split_record_key(key)?;
        let value = stored::unsalted(value.to_vec())?;
        let document = stored::unversioned("a record", &value)?;
        let document = serde_json::from_slice(document)
            .map_err(|_| Error::Damaged(format!("a record of unit {}", self.unit)))?;
        Ok((record_type, document))
    }

    fn stored_parts(
        &self,
        catalogue: &Catalogue,
        key: &[u8],
        value: &[u8],
    ) -> Result<Vec<Part>, Error> {
        let (record_type, document) = self.document(key, value)?;
        let added = additions(catalogue, record_type, &document);
        Ok(added.map_or_else(Vec::new, |(day, added)| parts_of(catalogue, &document, day, added)))
    }

    /// Tells what applying records would do, without doing it. A key that is twice among them
    /// counts twice.
    ///
    /// # Errors
    ///
    /// [`Error::Store`].
    pub async fn preview(&self, rows: &[(u64, Prepared)]) -> Result<Applied, Error> {
        let mut applied = Applied::default();
        for (_, record) in rows {
            let outcome = match self.stored(record).await? {
                Some(existing) if existing == record.value => Outcome::Unchanged,
                Some(_) => Outcome::Updated,
                None => Outcome::Imported,
            };
            applied.count(outcome, record.month);
        }
        Ok(applied)
    }

    /// Notes what records would take and what they would free.
    ///
    /// # Errors
    ///
    /// [`Error::Store`].
    pub async fn measure(
        &self,
        rows: &[(u64, Prepared)],
        growth: &mut Growth,
    ) -> Result<(), Error> {
        for (_, record) in rows {
            let freed = match growth.0.get(&record.key) {
                Some((freed, _)) => *freed,
                None => {
                    let stored = self.stored(record).await?;
                    stored.map_or(0, |stored| (record.key.len() + stored.len()) as u64)
                }
            };
            growth.0.insert(record.key.clone(), (freed, record.bytes()));
        }
        Ok(())
    }

    /// Checks that what was measured fits into the quota.
    ///
    /// # Errors
    ///
    /// [`Error::Quota`].
    pub async fn check_growth(&self, growth: &Growth) -> Result<(), Error> {
        let Some(quota_bytes) = self.quota_bytes else { return Ok(()) };
        let (_, used_bytes) = self.count().await?;
        let freed: u64 = growth.0.values().map(|(freed, _)| freed).sum();
        let taken: u64 = growth.0.values().map(|(_, taken)| taken).sum();
        let needed_bytes = taken.saturating_sub(freed);
        if needed_bytes > 0 && used_bytes.saturating_add(needed_bytes) > quota_bytes {
            let unit = self.unit.clone();
            return Err(Error::Quota { unit, quota_bytes, used_bytes, needed_bytes });
        }
        Ok(())
    }

    async fn stored(&self, record: &Prepared) -> Result<Option<Vec<u8>>, Error> {
        let stored = self.store.get(&self.unit, Table::Records, &record.key).await?;
        stored.map(stored::unsalted).transpose()
    }

    /// How far an import had come here, if it was cut off.
    ///
    /// # Errors
    ///
    /// [`Error::Store`], [`Error::Damaged`], [`Error::Format`].
    pub async fn progress(&self) -> Result<Option<Progress>, Error> {
        let Some(value) = self.store.get(&self.unit, Table::Imports, PROGRESS).await? else {
            return Ok(None);
        };
        let json = stored::unversioned("the progress of an import", &value)?;
        serde_json::from_slice(json)
            .map(Some)
            .map_err(|_| Error::Damaged("the progress of an import".to_owned()))
    }

    /// The unit's own totals for a period: for each indicator the total, then its groups.
    ///
    /// # Errors
    ///
    /// - [`Error::Period`]: the period is not made of months.
    /// - [`Error::Component`]: a total leaves its range.
    pub async fn components(
        &self,
        catalogue: &Catalogue,
        period: &Period,
    ) -> Result<Vec<OwnComponent>, Error> {
        let buckets = buckets(catalogue, period)?;
        let mut guard = self.state.lock().await;
        let state = self.current(&mut guard, catalogue).await?;
        *guard = Some(state);
        let mut totals = Totals::new(catalogue);
        for indicator in &catalogue.indicators {
            if indicator.stock.is_some() {
                for (group, component) in self.stock(catalogue, indicator, period).await? {
                    totals.add(&indicator.id, group, &component)?;
                }
                continue;
            }
            for bucket in &buckets {
                let prefix = cell_prefix(bucket, &indicator.id, indicator.version);
                for (_, value) in self.scan_all(Table::Components, &prefix).await? {
                    let (group, component) = decode_cell(&value)?;
                    totals.add(&indicator.id, group, &component)?;
                }
            }
        }
        Ok(totals.finish(catalogue))
    }

    /// Computes the same totals from all records, one by one, without the components.
    ///
    /// # Errors
    ///
    /// As [`components`](Self::components).
    pub async fn recount(
        &self,
        catalogue: &Catalogue,
        period: &Period,
    ) -> Result<Vec<OwnComponent>, Error> {
        buckets(catalogue, period)?;
        let (first, last) = (period.first_day(), period.last_day());
        let end_milli = end_milli(last, &catalogue.time_zone);
        let _guard = self.state.lock().await;
        let mut totals = Totals::new(catalogue);
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = self.scan(Table::Records, &[], after.as_deref()).await?;
            for (key, value) in &page {
                let (record_type, document) = self.document(key, value)?;
                let Some((day, added)) = additions(catalogue, record_type, &document) else {
                    continue;
                };
                for (indicator, added) in added {
                    let counts = match added.when {
                        When::Stay(stay) => stay.holds(last),
                        When::Day(day) => (first..=last).contains(&day),
                        When::Recorded => (first..=last).contains(&day),
                    };
                    let contribution = match (&indicator.measure, added.contribution) {
                        (Measure::Age, Contribution::Extreme(began)) => {
                            Contribution::Extreme(end_milli - began)
                        }
                        (_, contribution) => contribution,
                    };
                    if counts {
                        totals.insert(indicator, &document, &contribution)?;
                    }
                }
            }
            match page.into_iter().last() {
                Some((last, _)) => after = Some(last),
                None => return Ok(totals.finish(catalogue)),
            }
        }
    }

    /// Months that records count in, be it for one indicator, ascending.
    ///
    /// # Errors
    ///
    /// [`Error::Store`].
    pub async fn months(&self) -> Result<Vec<Month>, Error> {
        let mut months = Vec::new();
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page =
                self.store.scan(&self.unit, Table::Components, &[], after.as_deref(), 1).await?;
            let Some((key, _)) = page.into_iter().next() else { return Ok(months) };
            let (bucket, _, _) = split_cell_key(&key)?;
            let month = match bucket {
                Bucket::Month(month) => month,
                Bucket::Day(day) => Month::of_date(day).map_err(|_| Error::Lost)?,
                // They come last.
                Bucket::Stock => return Ok(months),
            };
            months.push(month);
            let mut next = month.to_string().into_bytes();
            next.push(AFTER_DAYS);
            after = Some(next);
        }
    }

    /// Number of records, and the bytes that they take of the quota.
    ///
    /// # Errors
    ///
    /// [`Error::Store`], [`Error::Damaged`], [`Error::Format`].
    pub async fn count(&self) -> Result<(u64, u64), Error> {
        let stored = self.store.get(&self.unit, Table::Meta, COUNTERS).await?;
        let counters = match &stored {
            Some(value) => Counters::decode(value)?,
            None => Counters::default(),
        };
        Ok((counters.records, counters.bytes))
    }

    /// At most `limit` records of a type whose key is above `after`, in the order of keys.
    ///
    /// # Errors
    ///
    /// [`Error::Store`], [`Error::Damaged`], [`Error::Format`].
    pub async fn list(
        &self,
        record_type: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Kept>, Error> {
        let prefix = stored::record_key(record_type, "");
        let after = after.map(|key| stored::record_key(record_type, key));
        let page =
            self.store.scan(&self.unit, Table::Records, &prefix, after.as_deref(), limit).await?;
        page.iter()
            .map(|(key, value)| {
                let (_, key) = stored::split_record_key(key)?;
                let value = stored::unsalted(value.clone())?;
                let document = stored::unversioned("a record", &value)?.to_vec();
                Ok(Kept { key: key.to_owned(), document })
            })
            .collect()
    }

    /// Computes the components of indicators that are new in the catalogue, and drops those of
    /// indicators that are not in it. Every other call does the same first if it is due.
    ///
    /// # Errors
    ///
    /// Nothing is lost by a failure, and the next call begins again.
    pub async fn backfill(&self, catalogue: &Catalogue) -> Result<(), Error> {
        let mut guard = self.state.lock().await;
        let state = self.current(&mut guard, catalogue).await?;
        *guard = Some(state);
        Ok(())
    }

    /// Takes the state out of its place, with the components of the catalogue built. Whoever fails
    /// leaves the place empty, so that the next one reads the store again.
    async fn current(
        &self,
        guard: &mut MutexGuard<'_, Option<State>>,
        catalogue: &Catalogue,
    ) -> Result<State, Error> {
        let mut state = match guard.take() {
            Some(state) => state,
            None => self.load().await?,
        };
        let wanted = Built::of(catalogue);
        if state.built != wanted {
            self.build(catalogue, &mut state, wanted).await?;
        }
        Ok(state)
    }

    async fn load(&self) -> Result<State, Error> {
        // A call that was dropped may have left batches on their way.
        self.store.submit(Batch::new(&self.unit)).await?;
        let stored_counters = self.store.get(&self.unit, Table::Meta, COUNTERS).await?;
        let counters = match &stored_counters {
            Some(value) => Counters::decode(value)?,
            None => Counters::default(),
        };
        let built = self.store.get(&self.unit, Table::Meta, stored::BUILT).await?;
        let built = built.map_or_else(|| Ok(Built::default()), |value| Built::decode(&value))?;
        Ok(State { counters, stored_counters, built })
    }

    fn session(&self, state: &mut State) -> Session<'_> {
        let stored = state.stored_counters.take();
        Session::new(self.store.as_ref(), &self.unit, self.clock.as_ref(), state.counters, stored)
    }

    async fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
    ) -> Result<Vec<store::Entry>, Error> {
        Ok(self.store.scan(&self.unit, table, prefix, after, PAGE).await?)
    }

    async fn scan_all(&self, table: Table, prefix: &[u8]) -> Result<Vec<store::Entry>, Error> {
        let mut all = self.scan(table, prefix, None).await?;
        while all.len() % PAGE == 0 {
            let Some((last, _)) = all.last() else { break };
            let last = last.clone();
            let page = self.scan(table, prefix, Some(&last)).await?;
            if page.is_empty() {
                break;
            }
            all.extend(page);
        }
        Ok(all)
    }
}

impl Applied {
    fn count(&mut self, outcome: Outcome, month: Month) {
        match outcome {
            Outcome::Imported => self.imported += 1,
            Outcome::Updated => self.updated += 1,
            Outcome::Unchanged => self.unchanged += 1,
        }
        self.months.insert(month);
    }
}

/// The months or days that a period is made of, as the keys of components name them.
fn buckets(catalogue: &Catalogue, period: &Period) -> Result<Vec<String>, Error> {
    match (period.months(), period.days()) {
        (Some(months), _) => Ok(months.iter().map(ToString::to_string).collect()),
        (None, Some(days)) if catalogue.finest == Finest::Day => {
            Ok(days.iter().map(ToString::to_string).collect())
        }
        (None, _) => Err(Error::Period(*period)),
    }
}

/// Totals by indicator and group.
struct Totals(BTreeMap<String, BTreeMap<String, Component>>);

impl Totals {
    fn new(catalogue: &Catalogue) -> Self {
        let zero = |indicator: &Indicator| {
            let total = (String::new(), Component::zero(indicator.kind()));
            (indicator.id.clone(), BTreeMap::from([total]))
        };
        Self(catalogue.indicators.iter().map(zero).collect())
    }

    fn add(&mut self, indicator: &str, group: String, component: &Component) -> Result<(), Error> {
        let Some(groups) = self.0.get_mut(indicator) else { return Ok(()) };
        let total = groups.entry(group).or_insert_with(|| Component::zero(component.kind()));
        *total = total.add(component)?;
        Ok(())
    }

    fn insert(
        &mut self,
        indicator: &Indicator,
        record: &Value,
        contribution: &Contribution,
    ) -> Result<(), Error> {
        let Some(groups) = self.0.get_mut(&indicator.id) else { return Ok(()) };
        for group in std::iter::once(String::new()).chain(indicator.group_value(record)) {
            let zero = || Component::zero(indicator.kind());
            groups.entry(group).or_insert_with(zero).insert(contribution)?;
        }
        Ok(())
    }

    fn finish(mut self, catalogue: &Catalogue) -> Vec<OwnComponent> {
        let mut all = Vec::new();
        for indicator in &catalogue.indicators {
            for (group, component) in self.0.remove(&indicator.id).unwrap_or_default() {
                all.push(OwnComponent {
                    indicator: indicator.id.clone(),
                    version: indicator.version,
                    group,
                    component,
                });
            }
        }
        all
    }
}

#[cfg(test)]
mod tests;
