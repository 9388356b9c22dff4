//! Summaries: computed, signed and submitted; rolled up as the children's come in; pulled live.
//!
//! A reported version is kept and superseded. A live answer is computed when it is asked for, and
//! the reported one stays. Without a change no version is made.

mod answers;
mod live;
mod reported;
mod returning;

use self::answers::Answers;

pub use reported::Collected;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Mutex as AsyncMutex, Notify},
    time::sleep,
};

use super::{
    catalogues::Catalogues,
    error::{ErrorKind, ServiceError},
    exchange::{Downlinks, Lane, Parcel},
    intake::{Arrived, Plan, Refused, Undecided},
    journal::Journal,
    records::{self, Records},
    reforms::Reforms,
    unit::{self, Draft, Unit},
};
use crate::{
    clock::UnixMillis,
    domain::{
        period::Period,
        preview::Reported,
        reform::Order,
        summary::{
            Child, Coverage, CoverageState, FigureKey, FigureSet, Figures, Summary, SummaryKind,
            roll_up,
        },
        unit::{Level, UnitCode},
    },
    statement::{
        Envelope,
        header::{self, StatementId, kinds},
        summary::{decode_body, encode_body, seal, unseal},
    },
    store::{self, Table, format},
};

/// Reports that one commit hands to another parent.
const HANDED_PER_COMMIT: usize = 100;

const FORMAT: u8 = 1;

/// Reason of the gap that stands for a child while its old parent may still report it.
const MOVING: &str = "moving";

/// Time after which a roll-up that failed is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(10);

/// Least time that a hop keeps for itself.
const LEAST_MARGIN: Duration = Duration::from_millis(20);

/// Time that a hop keeps for itself, so that its answer is back before the asker's deadline.
fn hop_margin(deadline: Duration) -> Duration {
    (deadline / 10).max(LEAST_MARGIN)
}

/// Why a summary was not made or shown.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing declares what is counted.
    #[error(
        "unit {0} has no catalogue yet; publish one at the city with `lianxi catalogue publish`"
    )]
    NoCatalogue(UnitCode),
    /// No such summary is held.
    #[error("no summary of unit {unit} for {period} is held here")]
    NotFound {
        /// The unit.
        unit: UnitCode,
        /// The period.
        period: String,
    },
    /// The own figures could not be computed.
    #[error("cannot compute the figures")]
    Records(#[from] records::Error),
    /// The statement could not be made.
    #[error("cannot sign the summary")]
    Unit(#[from] unit::Error),
    /// The random source failed.
    #[error("no random numbers for the salts")]
    Random(crate::random::Error),
    /// The store failed.
    #[error("cannot store the summary")]
    Store(#[from] store::Error),
    /// A pull that others wait for too failed.
    #[error(transparent)]
    Shared(Arc<Self>),
}

impl ServiceError for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NoCatalogue(_) => ErrorKind::FailedPrecondition,
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Records(error) => error.kind(),
            Self::Unit(_) | Self::Random(_) => ErrorKind::Internal,
            Self::Store(error) => error.kind(),
            Self::Shared(error) => error.kind(),
        }
    }
}

/// What became of a publication.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// A new version was signed and submitted.
    Published {
        /// Its number.
        version: u64,
        /// Its statement.
        statement_id: StatementId,
    },
    /// The last version still holds.
    Unchanged,
}

/// A verified summary with its figures.
#[derive(Clone, Debug)]
pub struct Held {
    /// Title of the unit.
    pub title: String,
    /// Its level.
    pub level: Level,
    /// Its parent.
    pub parent: Option<UnitCode>,
    /// What it signed.
    pub summary: Summary,
    /// Its figures.
    pub figures: FigureSet,
    /// As it was signed.
    pub envelope: Envelope,
    /// Its statement.
    pub statement_id: StatementId,
    /// Reforms since which the subtree is another one, up to the end of the period.
    pub scope_changes: Vec<ScopeChange>,
    /// Subtree figures without the units that came since; `None`: not known here, or none came.
    pub comparable: Option<Figures>,
}

/// A unit that came into a subtree or went out of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ScopeChange {
    /// The order.
    pub order: Order,
    /// True: it came.
    pub came: bool,
    /// Units of its subtree, itself included.
    pub units: u32,
}

/// Newest version held of one unit and period.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Pointer {
    version: u64,
    statement_id: String,
    payload_sha256: String,
    received_unix_ms: UnixMillis,
}

impl Pointer {
    fn id(&self) -> Result<StatementId, store::Error> {
        self.statement_id
            .parse()
            .map_err(|_| store::Error::Engine("the pointer to a summary is damaged".into()))
    }
}

/// Summaries of one unit.
pub struct Summaries {
    unit: Arc<Unit>,
    reforms: Arc<Reforms>,
    records: Arc<Records>,
    catalogues: Arc<Catalogues>,
    downlinks: Arc<dyn Downlinks>,
    journal: Arc<Journal>,
    publishing: AsyncMutex<()>,
    waiting: Arc<Waiting>,
    answers: Answers,
}

/// Periods whose roll-up waits, because a child's figures are new.
#[derive(Debug, Default)]
struct Waiting {
    periods: Mutex<BTreeSet<String>>,
    changed: Notify,
}

impl Waiting {
    fn add(&self, period: String) {
        self.periods.lock().unwrap_or_else(PoisonError::into_inner).insert(period);
        self.changed.notify_one();
    }

    fn take(&self) -> BTreeSet<String> {
        std::mem::take(&mut *self.periods.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl std::fmt::Debug for Summaries {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Summaries").field("unit", &self.unit.code).finish_non_exhaustive()
    }
}

impl Summaries {
    /// Summaries of `unit`.
    pub fn new(
        unit: Arc<Unit>,
        reforms: Arc<Reforms>,
        records: Arc<Records>,
        catalogues: Arc<Catalogues>,
        downlinks: Arc<dyn Downlinks>,
        journal: Arc<Journal>,
    ) -> Self {
        Self {
            unit,
            reforms,
            records,
            catalogues,
            downlinks,
            journal,
            publishing: AsyncMutex::default(),
            waiting: Arc::default(),
            answers: Answers::default(),
        }
    }

    /// Rolls up whenever a child's figures are new, for ever. What waited at the last stop is
    /// rolled up first.
    pub async fn run(&self) {
        if let Err(error) = self.recall_waiting().await {
            tracing::error!(unit = %self.unit.code, %error, "cannot read which roll-ups wait");
        }
        loop {
            let mut failed = false;
            for text in self.waiting.take() {
                let Ok(period) = text.parse::<Period>() else { continue };
                match self.roll_up(&period).await {
                    Ok(Outcome::Published { version, .. }) => {
                        tracing::debug!(unit = %self.unit.code, %period, version, "rolled up");
                    }
                    Ok(Outcome::Unchanged) => {}
                    Err(error) => {
                        tracing::error!(unit = %self.unit.code, %period, %error, "cannot roll up");
                        failed = true;
                        self.waiting.add(text);
                    }
                }
            }
            if failed {
                // The disk or a lane is full: there may be room again.
                sleep(TRY_AGAIN).await;
            }
            self.waiting.changed.notified().await;
        }
    }

    /// A stop between a child's summary and the roll-up leaves the period waiting.
    async fn recall_waiting(&self) -> Result<(), store::Error> {
        let mut after = None::<Vec<u8>>;
        loop {
            let rows = self
                .unit
                .store
                .scan(&self.unit.code, Table::Summaries, b"", after.as_deref(), 1_000)
                .await?;
            for (key, _) in &rows {
                let (period, unit) = split_key(key)?;
                if unit != self.unit.code.as_str() {
                    self.waiting.add(period.to_owned());
                }
            }
            match rows.last() {
                Some((key, _)) if rows.len() == 1_000 => after = Some(key.clone()),
                _ => return Ok(()),
            }
        }
    }

    /// Computes, signs and submits the summary of a period.
    ///
    /// # Errors
    ///
    /// [`Error::NoCatalogue`], or what kept it from being computed or stored.
    pub async fn publish(&self, period: &Period) -> Result<Outcome, Error> {
        if self.unit.trust().has_left(&self.unit.code) {
            // It has said its last word.
            return Ok(Outcome::Unchanged);
        }
        if self.catalogues.in_force().is_none() {
            return Err(Error::NoCatalogue(self.unit.code.clone()));
        }
        self.roll_up(period).await
    }

    /// Reports everything that was ever reported or has records, as it stands: nobody will after that.
    ///
    /// # Errors
    ///
    /// As [`Self::publish`].
    pub async fn report_all(&self) -> Result<(), Error> {
        let reported = self.reported_where(&self.unit.code, |_| true).await?;
        let mut periods: Vec<Period> = reported.into_iter().map(|(period, _)| period).collect();
        for month in self.records.months().await? {
            let (year, quarter) = (month.year(), (month.month() + 2) / 3);
            periods.extend([
                Period::Month(month),
                Period::Quarter { year, quarter },
                Period::Year(year),
            ]);
        }
        let mut done = BTreeSet::new();
        for period in periods {
            if done.insert(period.to_string()) {
                self.roll_up(&period).await?;
            }
        }
        Ok(())
    }

    #[tracing::instrument(name = "summary.publish", skip_all, fields(unit = %self.unit.code, %period))]
    async fn roll_up(&self, period: &Period) -> Result<Outcome, Error> {
        let _one_at_a_time = self.publishing.lock().await;
        let own = self.own_figures(period).await?;
        let children = self.reported_children(period).await?;
        let (subtree, coverage) = roll_up(&own, &children);
        let figures = FigureSet { own, subtree };
        let last = self.pointer(period, &self.unit.code).await?;
        if let Some(last) = &last
            && let Some((summary, held)) = self.load(last).await?
            && held == figures
            && summary.coverage == coverage
        {
            return Ok(Outcome::Unchanged);
        }
        self.submit(period, figures, coverage, last).await
    }

    async fn submit(
        &self,
        period: &Period,
        figures: FigureSet,
        coverage: Coverage,
        last: Option<Pointer>,
    ) -> Result<Outcome, Error> {
        let version = last.as_ref().map_or(1, |last| last.version + 1);
        let supersedes = last.as_ref().map(Pointer::id).transpose()?.map(|id| *id.as_bytes());
        let sealed = seal(&figures).map_err(Error::Random)?;
        let summary = Summary {
            unit: self.unit.code.clone(),
            period: *period,
            kind: SummaryKind::Reported,
            version,
            supersedes,
            cells_root: sealed.root,
            cells_count: u32::try_from(sealed.cells.len()).unwrap_or(u32::MAX),
            coverage,
            as_of_unix_ms: self.unit.clock.now_unix_ms(),
        };
        let mut draft = Draft::new(kinds::SUMMARY, period.to_string(), encode_body(&summary));
        draft.dataschema = self.catalogues.label();
        let mut work = self.unit.begin().await;
        let signed = work.sign(&draft)?;
        work.keep_cells(signed.id, &sealed.cells);
        let pointer = Pointer {
            version,
            statement_id: signed.id.to_string(),
            payload_sha256: hex::encode(signed.payload_sha256),
            received_unix_ms: signed.time_unix_ms,
        };
        let key = summary_key(&period.to_string(), &self.unit.code);
        work.batch.put(Table::Summaries, key, format::write(FORMAT, &pointer));
        if let Some(parent) = &self.unit.parent() {
            work.enqueue(parent, Lane::Summary, signed.id);
        }
        work.commit().await?;
        Ok(Outcome::Published { version, statement_id: signed.id })
    }

    async fn own_figures(&self, period: &Period) -> Result<Figures, Error> {
        let Some(in_force) = self.catalogues.in_force() else { return Ok(Figures::new()) };
        let components = self.records.components(&in_force.catalogue, period).await?;
        Ok(components
            .into_iter()
            .map(|own| {
                let key =
                    FigureKey { indicator: own.indicator, version: own.version, group: own.group };
                (key, own.component)
            })
            .collect())
    }

    async fn reported_children(&self, period: &Period) -> Result<BTreeMap<UnitCode, Child>, Error> {
        let mut children = BTreeMap::new();
        let (held_back, coming) = (self.reforms.held_back().await?, self.reforms.coming().await?);
        for (unit, units) in self.children(period) {
            // The old parent may still have them in its totals: a figure counts once.
            if held_back.contains(&(unit.clone(), period.to_string())) {
                let (state, reason) = (CoverageState::Absent, MOVING);
                let child = Child::Missing { state, reason, units, last_known_unix_ms: None };
                children.insert(unit, child);
                continue;
            }
            let pointer = self.pointer(period, &unit).await?;
            if pointer.is_none() && self.unit.trust().has_left(&unit) {
                continue;
            }
            let loaded = match &pointer {
                Some(pointer) => self.load(pointer).await?,
                None => None,
            };
            let child = match (pointer, loaded) {
                (Some(pointer), Some((summary, figures))) => Child::Reported {
                    coverage: summary.coverage,
                    subtree: figures.subtree,
                    payload_sha256: digest_of(&pointer)?,
                    version: summary.version,
                },
                _ => Child::Missing {
                    state: CoverageState::Absent,
                    reason: if coming.contains(&unit) { MOVING } else { "no-report" },
                    units,
                    last_known_unix_ms: None,
                },
            };
            children.insert(unit, child);
        }
        Ok(children)
    }

    /// Children of a period, those on its last day, with the number of units of their subtrees, as
    /// far as they are known.
    fn children(&self, period: &Period) -> Vec<(UnitCode, u32)> {
        let day = period.last_day();
        let trust = self.unit.trust();
        let children = trust.children_on(&self.unit.code, day);
        // What a unit reported before it merged into another still counts.
        let stays = |unit: &&UnitCode| !trust.has_left(unit) || trust.merged_into(unit).is_some();
        let staying = children.into_iter().filter(stays);
        staying.map(|unit| (unit.clone(), trust.staying_on(unit, day))).collect()
    }

    /// Periods from the day of an order on of which a summary of `unit` is held, with the newest.
    ///
    /// # Errors
    ///
    /// The store's.
    pub(super) async fn reported_from(
        &self,
        unit: &UnitCode,
        order: &Order,
    ) -> Result<Vec<(Period, StatementId)>, store::Error> {
        self.reported_where(unit, |period| order.is_new(period)).await
    }

    /// The newest report of each period of this unit.
    ///
    /// # Errors
    ///
    /// The store's.
    pub(super) async fn newest_reports(&self) -> Result<Vec<StatementId>, store::Error> {
        let reported = self.reported_where(&self.unit.code, |_| true).await?;
        Ok(reported.into_iter().map(|(_, statement)| statement).collect())
    }

    /// Hands everything that this unit has reported to `parent`, which is above it from here on.
    ///
    /// # Errors
    ///
    /// The store's; given again, it is taken in once.
    pub async fn report_all_to(&self, parent: &UnitCode) -> Result<(), store::Error> {
        let reported = self.reported_where(&self.unit.code, |_| true).await?;
        for chunk in reported.chunks(HANDED_PER_COMMIT) {
            let mut work = self.unit.begin().await;
            for (_, statement) in chunk {
                work.enqueue(parent, Lane::Summary, *statement);
            }
            work.commit().await?;
        }
        Ok(())
    }

    /// The newest period that each other unit reported here, with the indicators of its report.
    ///
    /// # Errors
    ///
    /// The store's.
    pub(super) async fn last_reports(
        &self,
    ) -> Result<BTreeMap<UnitCode, (String, Reported)>, store::Error> {
        let mut newest: BTreeMap<UnitCode, (Period, Pointer)> = BTreeMap::new();
        let mut after = None::<Vec<u8>>;
        loop {
            let table = Table::Summaries;
            let rows =
                self.unit.store.scan(&self.unit.code, table, b"", after.as_deref(), 1_000).await?;
            for (key, value) in &rows {
                let (period, of) = split_key(key)?;
                let (Ok(period), Ok(of)) = (period.parse::<Period>(), of.parse::<UnitCode>())
                else {
                    continue;
                };
                let is_newer = |(held, _): &(Period, _)| held.last_day() < period.last_day();
                if of != self.unit.code && newest.get(&of).is_none_or(is_newer) {
                    newest.insert(of, (period, format::read(FORMAT, value)?));
                }
            }
            match rows.last() {
                Some((key, _)) if rows.len() == 1_000 => after = Some(key.clone()),
                _ => break,
            }
        }
        let mut reports = BTreeMap::new();
        for (of, (period, pointer)) in newest {
            if let Some((_, figures)) = self.load(&pointer).await? {
                let told = figures.subtree.into_keys().map(|key| (key.indicator, key.version));
                reports.insert(of, (period.to_string(), told.collect()));
            }
        }
        Ok(reports)
    }

    async fn reported_where(
        &self,
        unit: &UnitCode,
        is_wanted: impl Fn(&Period) -> bool,
    ) -> Result<Vec<(Period, StatementId)>, store::Error> {
        let (mut found, mut after) = (Vec::new(), None::<Vec<u8>>);
        loop {
            let rows = self
                .unit
                .store
                .scan(&self.unit.code, Table::Summaries, b"", after.as_deref(), 1_000)
                .await?;
            for (key, value) in &rows {
                let (period, of) = split_key(key)?;
                let period = period.parse::<Period>().ok().filter(&is_wanted);
                if let Some(period) = period.filter(|_| of == unit.as_str()) {
                    let pointer: Pointer = format::read(FORMAT, value)?;
                    found.push((period, pointer.id()?));
                }
            }
            match rows.last() {
                Some((key, _)) if rows.len() == 1_000 => after = Some(key.clone()),
                _ => return Ok(found),
            }
        }
    }

    async fn pointer(
        &self,
        period: &Period,
        unit: &UnitCode,
    ) -> Result<Option<Pointer>, store::Error> {
        let key = summary_key(&period.to_string(), unit);
        let row = self.unit.store.get(&self.unit.code, Table::Summaries, &key).await?;
        row.map(|row| format::read(FORMAT, &row)).transpose()
    }

    async fn load(&self, pointer: &Pointer) -> Result<Option<(Summary, FigureSet)>, store::Error> {
        let id = pointer.id()?;
        let Some(envelope) = self.unit.statement(id).await? else { return Ok(None) };
        let damaged = |error: header::Malformed| {
            store::Error::Engine(format!("a stored summary cannot be read: {error}"))
        };
        let statement = header::decode(&envelope.payload).map_err(damaged)?;
        let summary = decode_body(&statement.body).map_err(damaged)?;
        let cells = self.unit.cells(id).await?;
        let figures = unseal(&summary, &cells).map_err(damaged)?;
        Ok(Some((summary, figures)))
    }

    /// Returns the newest reported summary that is held of `of`.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`].
    pub async fn show(&self, of: &UnitCode, period: &Period) -> Result<Held, Error> {
        let not_found = || Error::NotFound { unit: of.clone(), period: period.to_string() };
        let pointer = self.pointer(period, of).await?.ok_or_else(not_found)?;
        let (summary, figures) = self.load(&pointer).await?.ok_or_else(not_found)?;
        let id = pointer.id()?;
        let envelope = self.unit.statement(id).await?.ok_or_else(not_found)?;
        let mut held = self.held(summary, figures, envelope, id).ok_or_else(not_found)?;
        if *of == self.unit.code {
            held.comparable = self.comparable(&held, period).await?;
        }
        Ok(held)
    }

    /// The subtree figures on the scope from before the reforms by which units came: without them.
    async fn comparable(&self, held: &Held, period: &Period) -> Result<Option<Figures>, Error> {
        let came = held.scope_changes.iter().filter(|change| change.came);
        let came: Vec<_> = came.filter(|change| change.order.to == self.unit.code).collect();
        if came.is_empty() {
            return Ok(None);
        }
        let mut children = self.reported_children(period).await?;
        for change in came {
            children.remove(&change.order.unit);
        }
        Ok(Some(roll_up(&held.figures.own, &children).0))
    }

    /// Reforms by which units came into the subtree of `of` or went, as far as the period has the new
    /// scope.
    fn scope_changes(&self, of: &UnitCode, period: &Period) -> Vec<ScopeChange> {
        let trust = self.unit.trust();
        let mut changes = Vec::new();
        for unit in trust.moved_units() {
            for order in trust.moves(unit).into_iter().filter(|order| order.is_new(period)) {
                let (was, is) =
                    (trust.is_in_subtree(&order.from, of), trust.is_in_subtree(&order.to, of));
                if was != is {
                    let units = trust.staying(unit);
                    changes.push(ScopeChange { order: order.clone(), came: is, units });
                }
            }
        }
        changes
    }

    fn held(
        &self,
        summary: Summary,
        figures: FigureSet,
        envelope: Envelope,
        statement_id: StatementId,
    ) -> Option<Held> {
        let scope_changes = self.scope_changes(&summary.unit, &summary.period);
        let trust = self.unit.trust();
        let known = trust.delegation(&summary.unit, None)?;
        Some(Held {
            title: known.delegation.title.clone(),
            level: known.delegation.level,
            parent: known.delegation.issuer.clone(),
            summary,
            scope_changes,
            comparable: None,
            figures,
            envelope,
            statement_id,
        })
    }

    /// Plans what a child's summary does: it is kept, and the roll-up of its period waits.
    ///
    /// # Errors
    ///
    /// [`Undecided::Refused`] for one that does not hold.
    pub async fn take(&self, arrived: &Arrived) -> Result<Plan, Undecided> {
        let (summary, _) = check(arrived, SummaryKind::Reported)?;
        match self.owner_of(arrived, &summary.period)? {
            owner if owner == self.unit.code => {}
            owner => {
                let hop = self.unit.next_hop(&owner, arrived.from_child)?;
                return Ok(Plan { keep_cells: true, relay: vec![hop], ..Plan::default() });
            }
        }
        self.check_expected(&summary)?;
        let period = summary.period.to_string();
        let mut plan = Plan { keep_cells: true, ..Plan::default() };
        if let Some(held) = self.pointer(&summary.period, &summary.unit).await?
            && held.version >= summary.version
        {
            return Ok(plan);
        }
        let pointer = Pointer {
            version: summary.version,
            statement_id: arrived.id().to_string(),
            payload_sha256: hex::encode(arrived.payload_sha256),
            received_unix_ms: self.unit.clock.now_unix_ms(),
        };
        let key = summary_key(&period, &summary.unit);
        plan.writes.push((Table::Summaries, key, format::write(FORMAT, &pointer)));
        let waiting = Arc::clone(&self.waiting);
        plan.settled = Some(Box::new(move || waiting.add(period)));
        Ok(plan)
    }

    /// Parent whose totals a child's summary belongs to: this unit, unless the child has moved.
    fn owner_of(&self, arrived: &Arrived, period: &Period) -> Result<UnitCode, Refused> {
        let trust = self.unit.trust();
        let own = &self.unit.code;
        let owner = trust.parent_on(arrived.source(), period.last_day());
        let has_moved = trust.moved_units().any(|unit| unit == arrived.source());
        let is_child = arrived.from_child && arrived.source() == &arrived.peer;
        match owner {
            Some(owner) if has_moved || (is_child && owner == own) => Ok(owner.clone()),
            Some(_) | None => {
                let detail = "a summary comes from the child that it is of";
                Err(Refused::new("wrong-source", "header.source", detail))
            }
        }
    }

    /// Delegations travel ahead of figures: a summary of more units than are known is not believed,
    /// because its counts would go into the coverage of every unit above. While a unit moves within
    /// the subtree it is in twice: in what its old parent reported last, and as a gap at the new one.
    fn check_expected(&self, summary: &Summary) -> Result<(), Refused> {
        let trust = self.unit.trust();
        // Those that have left are in: the summary may have been made before.
        let known = |unit: &UnitCode| {
            u32::try_from(trust.units_ever_below(unit)).unwrap_or(u32::MAX).saturating_add(1)
        };
        let moved = trust.moved_units().filter(|unit| trust.is_in_subtree(unit, &summary.unit));
        let moving = moved.filter_map(|unit| {
            let gaps = &summary.coverage.gaps;
            let gap = gaps.iter().find(|gap| gap.unit == *unit && gap.reason == MOVING)?;
            Some(gap.units.min(known(unit)))
        });
        let twice = moving.fold(0, u32::saturating_add);
        let known = known(&summary.unit);
        if summary.coverage.expected > known.saturating_add(twice) {
            let detail = format!("is over the {known} units that are known there");
            return Err(Refused::new("malformed", "body.coverage.expected", detail));
        }
        Ok(())
    }

    /// Verifies a summary of the subtree: signature, source, kind, period, and its cells under the
    /// signed root.
    fn verify(
        &self,
        parcel: &Parcel,
        period: &Period,
        kind: SummaryKind,
    ) -> Result<(Held, [u8; 32]), Refused> {
        let now = self.unit.clock.now_unix_ms();
        let opened = {
            let trust = self.unit.trust();
            // What an ended key signed counts if a witness saw it before.
            let shown = parcel.evidence.as_ref();
            let shown = shown.filter(|_| trust.is_by_ended_key(&parcel.envelope, now));
            let witnessed =
                shown.and_then(|shown| trust.witnessed_at(&parcel.envelope, shown, now));
            trust
                .open_witnessed(&parcel.envelope, now, witnessed)
                .map_err(|error| Refused::new(error.reason(), error.field(), error.to_string()))?
        };
        let arrived = Arrived {
            peer: opened.statement.header.source.clone(),
            from_child: true,
            envelope: parcel.envelope.clone(),
            desk: opened.signer.1,
            payload_sha256: opened.payload_sha256,
            statement: opened.statement,
            cells: parcel.cells.clone(),
        };
        let (summary, figures) = check(&arrived, kind)?;
        if summary.period != *period {
            return Err(Refused::new("malformed", "body.period", "is not what was asked for"));
        }
        let (trust, own) = (self.unit.trust(), &self.unit.code);
        if !trust.is_in_subtree(&summary.unit, own) && !trust.was_below(&summary.unit, own) {
            let detail = "the unit is not below this one";
            return Err(Refused::new("outside-subtree", "body.unit", detail));
        }
        drop(trust);
        self.check_expected(&summary)?;
        let id = arrived.id();
        let held = self
            .held(summary, figures, arrived.envelope, id)
            .ok_or_else(|| Refused::new("unknown-key", "header.source", "is not known"))?;
        Ok((held, opened.payload_sha256))
    }
}

/// Checks a summary whose signature holds: it is of its source, of the kind, its cells its own.
fn check(arrived: &Arrived, kind: SummaryKind) -> Result<(Summary, FigureSet), Refused> {
    if arrived.desk.is_some() {
        return Err(Refused::new("wrong-source", "header.source", "a desk signs no summary"));
    }
    if arrived.statement.header.kind != kinds::SUMMARY {
        return Err(Refused::new("unknown-type", "header.type", "is no summary"));
    }
    let summary = decode_body(&arrived.statement.body)?;
    if summary.unit != *arrived.source() {
        let detail = "the figures are of another unit than the source";
        return Err(Refused::new("wrong-source", "body.unit", detail));
    }
    if summary.kind != kind {
        return Err(Refused::new("malformed", "body.kind", "is not the kind that belongs here"));
    }
    let figures = unseal(&summary, &arrived.cells)
        .map_err(|error| Refused::new("cells-do-not-match", &error.field, error.reason))?;
    Ok((summary, figures))
}

fn digest_of(pointer: &Pointer) -> Result<[u8; 32], store::Error> {
    let mut digest = [0; 32];
    hex::decode_to_slice(&pointer.payload_sha256, &mut digest)
        .map_err(|_| store::Error::Engine("the pointer to a summary is damaged".into()))?;
    Ok(digest)
}

fn summary_key(period: &str, unit: &UnitCode) -> Vec<u8> {
    format!("{period}\0{unit}").into_bytes()
}

fn split_key(key: &[u8]) -> Result<(&str, &str), store::Error> {
    std::str::from_utf8(key)
        .ok()
        .and_then(|key| key.split_once('\0'))
        .ok_or_else(|| store::Error::Engine("the key of a summary is damaged".into()))
}
