//! Escalations: raised by a street, answered by desks, closed by the street alone.
//!
//! Both sides keep the case and its clocks: the street's run on when the called unit is offline.
//! The whistle and its steps are sealed to the street, the called unit and its called desks: units
//! in between see headers.

mod returning;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use self::returning::Waiting;
use super::{
    catalogues::Catalogues,
    error::{ErrorKind, ServiceError},
    exchange::Lane,
    grants::grant_draft,
    intake::{Arrived, Plan, Refused, Reply, Undecided},
    unit::{self, Draft, Given, Part, Seal, Unit, Work},
};
use crate::{
    clock::UnixMillis,
    domain::{
        escalation::{self, Actor, Case, Escalation, Step, Taken},
        lamp::Warning,
        personal,
        unit::{DeskId, Level, UnitCode},
    },
    statement::{
        Envelope,
        escalation::{EventBody, decode_body, decode_event, encode_body, encode_event},
        handed::Handed,
        header::{self, Header, Statement, StatementId, kinds},
        sealed::{KeyGrant, SealedKey},
    },
    store::{self, Batch, Table, format},
};

const FORMAT: u8 = 1;

/// Why an escalation was not raised, shown or stepped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field or step does not hold.
    #[error(transparent)]
    Escalation(#[from] escalation::Error),
    /// Only streets blow the whistle.
    #[error("unit {0} is no street: only a street raises an escalation")]
    NoStreet(UnitCode),
    /// The destination is no ancestor.
    #[error("unit {0} is not above this street")]
    Destination(UnitCode),
    /// Neither the caller nor the catalogue says how long.
    #[error("no time limits: give them, or publish a catalogue that declares them for this kind")]
    NoLimits,
    /// No such case here.
    #[error("no escalation {0} is held here")]
    NotFound(StatementId),
    /// The case is none of this unit's.
    #[error("the escalation is sealed for others; ask {0} to share it with this unit")]
    Sealed(UnitCode),
    /// The case went to another unit.
    #[error("the escalation is {0}'s since this unit was divided; let {0} act on it")]
    HandedOn(UnitCode),
    /// The statement could not be made.
    #[error("cannot sign")]
    Unit(#[from] unit::Error),
    /// The store failed.
    #[error("cannot store the escalation")]
    Store(#[from] store::Error),
}

impl ServiceError for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Escalation(escalation::Error::Actor { .. }) => ErrorKind::PermissionDenied,
            Self::Escalation(escalation::Error::Order { .. })
            | Self::NoStreet(_)
            | Self::Destination(_)
            | Self::Sealed(_)
            | Self::HandedOn(_)
            | Self::NoLimits => ErrorKind::FailedPrecondition,
            Self::Escalation(_) => ErrorKind::InvalidArgument,
            Self::NotFound(_) => ErrorKind::NotFound,
            Self::Unit(unit::Error::NoDesk(_)) => ErrorKind::NotFound,
            Self::Unit(unit::Error::TooLarge(_)) => ErrorKind::InvalidArgument,
            Self::Unit(unit::Error::Seal(_)) => ErrorKind::Internal,
            Self::Unit(unit::Error::Store(error)) | Self::Store(error) => error.kind(),
        }
    }
}

/// What is kept of a case beside its statement.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Row {
    source: UnitCode,
    destination: UnitCode,
    raised_unix_ms: UnixMillis,
    exercise: bool,
    #[serde(default)]
    added: Vec<DeskId>,
    #[serde(default)]
    succeeded: Vec<(DeskId, DeskId)>,
    history: Vec<TakenRow>,
}

/// A row to write.
type Written = (Table, Vec<u8>, Vec<u8>);

impl Row {
    fn written(&self, id: StatementId) -> Written {
        (Table::Escalations, id.as_bytes().to_vec(), format::write(FORMAT, self))
    }
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
struct TakenRow {
    step: String,
    unit: UnitCode,
    desk: Option<DeskId>,
    note: String,
    time_unix_ms: UnixMillis,
}

const STEPS: [Step; 7] = [
    Step::Routed,
    Step::Answered,
    Step::Arrived,
    Step::Handled,
    Step::Closed,
    Step::Withdrawn,
    Step::Returned,
];

impl From<&Taken> for TakenRow {
    fn from(taken: &Taken) -> Self {
        Self {
            step: taken.step.as_str().to_owned(),
            unit: taken.unit.clone(),
            desk: taken.desk.clone(),
            note: taken.note.clone(),
            time_unix_ms: taken.time_unix_ms,
        }
    }
}

impl TakenRow {
    fn taken(self) -> Result<Taken, store::Error> {
        let step = STEPS.into_iter().find(|step| step.as_str() == self.step);
        Ok(Taken {
            step: step.ok_or_else(|| store::Error::Engine("a stored step is unknown".into()))?,
            unit: self.unit,
            desk: self.desk,
            note: self.note,
            time_unix_ms: self.time_unix_ms,
        })
    }
}

/// A case with its id.
#[derive(Clone, Debug)]
pub struct State {
    /// Its statement.
    pub id: StatementId,
    /// Number that people say.
    pub number: String,
    /// Street that raised it.
    pub source: UnitCode,
    /// Unit whose desks are called.
    pub destination: UnitCode,
    /// When, the street's clock.
    pub raised_unix_ms: UnixMillis,
    /// True for an exercise.
    pub exercise: bool,
    /// The case; `None`: it is sealed for others.
    pub case: Option<Case>,
    /// Keys that were given to readers later, as known here.
    pub given: Vec<Given>,
}

/// Escalations of one unit.
#[derive(Debug)]
pub struct Escalations {
    unit: Arc<Unit>,
    catalogues: Arc<Catalogues>,
}

impl Escalations {
    /// Escalations of `unit`.
    pub fn new(unit: Arc<Unit>, catalogues: Arc<Catalogues>) -> Self {
        Self { unit, catalogues }
    }

    /// Signs a whistle and sends it to `destination`, an ancestor. Limits of zero are filled from
    /// the catalogue.
    ///
    /// # Errors
    ///
    /// A field that does not hold, a unit that is no street, a destination that is not above.
    #[tracing::instrument(name = "escalation.raise", skip_all, fields(unit = %self.unit.code))]
    pub async fn raise(
        &self,
        destination: Option<UnitCode>,
        escalation: Escalation,
        exercise: bool,
    ) -> Result<State, Error> {
        if self.unit.level != Level::Street {
            return Err(Error::NoStreet(self.unit.code.clone()));
        }
        let parent = self.unit.parent().ok_or_else(|| Error::NoStreet(self.unit.code.clone()))?;
        let destination = destination.unwrap_or_else(|| parent.clone());
        let is_above = destination != self.unit.code
            && self.unit.trust().is_in_subtree(&self.unit.code, &destination);
        if !is_above {
            return Err(Error::Destination(destination));
        }
        let escalation = self.with_limits(escalation)?;
        escalation.check_new()?;
        let mut draft =
            Draft::new(kinds::ESCALATION, escalation.number.clone(), encode_body(&escalation));
        draft.destination = Some(destination.clone());
        draft.exercise = exercise;
        draft.dataschema = self.catalogues.label();
        let desks = escalation.desks().map(|desk| (&destination, Some(desk)));
        let units = [(&self.unit.code, None), (&destination, None)];
        let readers = self.unit.readers(units.into_iter().chain(desks));
        draft.seal = Some(Seal { readers, outline: None });
        let mut work = self.unit.begin().await;
        work.batch.urgent();
        let signed = work.sign(&draft)?;
        work.enqueue(&parent, Lane::Escalation, signed.id);
        let case = Case {
            source: self.unit.code.clone(),
            destination,
            escalation,
            raised_unix_ms: signed.time_unix_ms,
            exercise,
            added: Vec::new(),
            succeeded: Vec::new(),
            history: Vec::new(),
        };
        put(&mut work, signed.id, &case);
        work.commit().await?;
        self.show(signed.id).await
    }

    fn with_limits(&self, mut escalation: Escalation) -> Result<Escalation, Error> {
        if !escalation.answer_within.is_zero() && !escalation.arrive_within.is_zero() {
            return Ok(escalation);
        }
        let in_force = self.catalogues.in_force().ok_or(Error::NoLimits)?;
        let limits = in_force.catalogue.limits_for(escalation.kind);
        if escalation.answer_within.is_zero() {
            escalation.answer_within = limits.answer;
        }
        if escalation.arrive_within.is_zero() {
            escalation.arrive_within = limits.arrive;
        }
        Ok(escalation)
    }

    /// Plans what a whistle does: on the way it goes up; at its destination it is given to its
    /// desks, or sent back if there is no such desk.
    ///
    /// # Errors
    ///
    /// [`Undecided::Refused`] for one that does not hold.
    pub async fn take(&self, arrived: &Arrived) -> Result<Plan, Undecided> {
        if !arrived.from_child || arrived.desk.is_some() {
            let detail = "an escalation comes from a street below";
            return Err(Refused::new("wrong-source", "header.source", detail).into());
        }
        let header = &arrived.statement.header;
        let is_street = self
            .unit
            .trust()
            .delegation(&header.source, None)
            .is_some_and(|known| known.delegation.level == Level::Street);
        if !is_street {
            let detail = "only a street raises an escalation";
            return Err(Refused::new("wrong-source", "header.source", detail).into());
        }
        if header.sealing.is_none() {
            return Err(not_sealed().into());
        }
        let destination = header
            .destination
            .clone()
            .ok_or_else(|| Refused::new("malformed", "header.destination", "is missing"))?;
        let mut plan = Plan::default();
        if !self.unit.is_own(&destination) {
            let Some(parent) = self.unit.parent() else {
                let detail = "the destination is not above the street";
                return Err(Refused::new("malformed", "header.destination", detail).into());
            };
            plan.relay.push(parent);
            return Ok(plan);
        }
        let escalation = self.open(&arrived.statement, &[])?.ok_or_else(not_a_reader)?;
        let mut case = Case {
            source: header.source.clone(),
            destination,
            escalation,
            raised_unix_ms: header.time_unix_ms,
            exercise: header.exercise,
            added: Vec::new(),
            succeeded: Vec::new(),
            history: Vec::new(),
        };
        let own = self.waiting(arrived.id()).await?;
        if !own.iter().any(Waiting::begins) {
            self.route(&mut case, arrived, &mut plan);
        }
        self.catch_up(&mut case, own, &mut plan);
        plan.writes.push(row(arrived.id(), &case));
        Ok(plan)
    }

    /// Gives a case to its desks, or sends it back if one of them is not there.
    fn route(&self, case: &mut Case, arrived: &Arrived, plan: &mut Plan) {
        let missing = self.missing_desk(&case.escalation);
        let (step, note) = match missing {
            None => (Step::Routed, String::new()),
            Some(desk) => (Step::Returned, format!("unit {} has no desk {desk}", self.unit.code)),
        };
        case.history.push(Taken {
            step,
            unit: self.unit.code.clone(),
            desk: None,
            note: note.clone(),
            time_unix_ms: self.unit.clock.now_unix_ms(),
        });
        let event = EventBody { escalation_id: *arrived.id().as_bytes(), step, desk: None, note };
        let own = self.side(case, &self.unit.code).clone();
        let draft = self.event_draft(&event, arrived.id(), case, &own);
        plan.replies.push(Reply { draft, to: arrived.peer.clone(), lane: Lane::Escalation });
    }

    fn missing_desk(&self, escalation: &Escalation) -> Option<DeskId> {
        let trust = self.unit.trust();
        escalation
            .desks()
            .find(|desk| trust.delegation(&self.unit.code, Some(desk)).is_none())
            .cloned()
    }

    /// Plans what a step from the other side does.
    ///
    /// # Errors
    ///
    /// [`Undecided::Refused`] for one that is not the signer's to take.
    pub async fn take_event(&self, arrived: &Arrived) -> Result<Plan, Undecided> {
        let header = &arrived.statement.header;
        if header.sealing.is_none() {
            return Err(not_sealed().into());
        }
        let destination = header
            .destination
            .as_ref()
            .ok_or_else(|| Refused::new("malformed", "header.destination", "is missing"))?;
        let mut plan = Plan::default();
        if !self.unit.is_own(destination) {
            plan.relay.push(self.unit.next_hop(destination, arrived.from_child)?);
            return Ok(plan);
        }
        let body = self.unit.read(&arrived.statement, &[])?.ok_or_else(not_a_reader)?;
        let event = decode_event(&body)?;
        if event.desk != arrived.desk {
            let detail = "the desk differs from the one that signed";
            return Err(Refused::new("wrong-source", "body.desk", detail).into());
        }
        let id = StatementId::try_from(&event.escalation_id[..])
            .map_err(|_| Refused::new("malformed", "body.escalation_id", "is no id"))?;
        // The step before it may still be on its way to the store: an empty batch waits for it.
        self.unit.store.submit(Batch::new(&self.unit.code)).await?;
        let held = self.unit.store.get(&self.unit.code, Table::Escalations, id.as_bytes()).await?;
        let Some((mut case, held)) = self.case(id).await?.zip(held) else {
            let detail = "no such escalation is held here";
            return Err(Refused::new("malformed", "body.escalation_id", detail).into());
        };
        let unit = match self.unit.speaks_for(arrived, id)? {
            Some(of) => of.clone(),
            None => self.side(&case, arrived.source()).clone(),
        };
        let actor = Actor { unit: &unit, desk: arrived.desk.as_ref() };
        match case.check_step(event.step, actor) {
            Ok(()) => {}
            Err(escalation::Error::Order { from, to }) => {
                // Both sides can act at once, e.g. answer and withdraw: what came too late is
                // kept as a statement and moves nothing.
                tracing::info!(unit = %self.unit.code, escalation = %id, from, to, "step came too late");
                return Ok(plan);
            }
            Err(error) => {
                let refused = Refused::new("wrong-source", "body.step", error.to_string());
                return Err(refused.into());
            }
        }
        case.history.push(Taken {
            step: event.step,
            unit: arrived.source().clone(),
            desk: event.desk,
            note: event.note,
            time_unix_ms: arrived.statement.header.time_unix_ms,
        });
        self.catch_up(&mut case, self.waiting(id).await?, &mut plan);
        plan.requires.push((Table::Escalations, id.as_bytes().to_vec(), held));
        plan.writes.push(row(id, &case));
        Ok(plan)
    }

    /// Takes a step as the unit or as one of its desks.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], someone else's step, a step out of order.
    #[tracing::instrument(name = "escalation.step", skip_all, fields(unit = %self.unit.code, ?step))]
    pub async fn step(
        &self,
        id: StatementId,
        step: Step,
        desk: Option<DeskId>,
        note: &str,
    ) -> Result<State, Error> {
        if note.len() > 1_024 {
            let (field, length) = ("note", note.len());
            return Err(escalation::Error::Length { field, length, limit: 1_024 }.into());
        }
        if let Some(what) = personal::find(note) {
            return Err(escalation::Error::PersonalData { field: "note", what }.into());
        }
        self.unit.continue_trace(id).await?;
        let mut work = self.unit.begin().await;
        work.batch.urgent();
        let held = self.unit.store.get(&self.unit.code, Table::Escalations, id.as_bytes()).await?;
        let mut case = self.readable(id).await?;
        let part = self.acting(id).await?;
        let own = self.own_side(&case, part.as_ref());
        case.check_step(step, Actor { unit: &own, desk: desk.as_ref() })?;
        let other = self.other_side(&case, &own);
        let event = EventBody {
            escalation_id: *id.as_bytes(),
            step,
            desk: desk.clone(),
            note: note.to_owned(),
        };
        let mut draft = self.event_draft(&event, id, &case, &own);
        draft.desk.clone_from(&desk);
        if let Some(part) = &part {
            draft.on_behalf_of = Some(part.of.clone());
            draft.handed_by = self.unit.handed_by(part).await?;
        }
        let hop = self.unit.hop_to(&other).ok_or_else(|| Error::Destination(other.clone()))?;
        let signed = work.sign(&draft)?;
        work.enqueue(&hop, Lane::Escalation, signed.id);
        case.history.push(Taken {
            step,
            unit: self.unit.code.clone(),
            desk,
            note: note.to_owned(),
            time_unix_ms: signed.time_unix_ms,
        });
        if let Some(held) = held {
            work.batch.require(Table::Escalations, *id.as_bytes(), held);
        }
        put(&mut work, id, &case);
        work.commit().await?;
        self.show(id).await
    }

    async fn case(&self, id: StatementId) -> Result<Option<Case>, store::Error> {
        let store = &self.unit.store;
        let row = store.get(&self.unit.code, Table::Escalations, id.as_bytes()).await?;
        let Some(row) = row else { return Ok(None) };
        let row: Row = format::read(FORMAT, &row)?;
        let Some(statement) = self.statement(id).await? else { return Ok(None) };
        let given = self.unit.given(id).await?;
        let keys: Vec<_> = given.into_iter().flat_map(|given| given.keys).collect();
        let escalation = self.open(&statement, &keys).map_err(|refused| unreadable(&refused))?;
        let Some(escalation) = escalation else { return Ok(None) };
        let history = row.history.into_iter().map(TakenRow::taken).collect::<Result<_, _>>()?;
        Ok(Some(Case {
            source: row.source,
            destination: row.destination,
            escalation,
            raised_unix_ms: row.raised_unix_ms,
            exercise: row.exercise,
            added: row.added,
            succeeded: row.succeeded,
            history,
        }))
    }

    /// When the destination of an own whistle took its first step, by its own clock; `None`: not yet.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn final_at(&self, id: StatementId) -> Result<Option<UnixMillis>, store::Error> {
        let row = self.unit.store.get(&self.unit.code, Table::Escalations, id.as_bytes()).await?;
        let Some(row) = row else { return Ok(Some(UnixMillis::MIN)) };
        let row: Row = format::read(FORMAT, &row)?;
        let mut steps = row.history.iter();
        Ok(steps.find(|step| step.unit != row.source).map(|step| step.time_unix_ms))
    }

    /// The whistle as it was signed, wherever it is kept.
    async fn statement(&self, id: StatementId) -> Result<Option<Statement>, store::Error> {
        let Some(envelope) = self.unit.statement(id).await? else { return Ok(None) };
        let statement =
            header::decode(&envelope.payload).map_err(|malformed| unreadable(&malformed.into()))?;
        Ok((statement.header.kind == kinds::ESCALATION).then_some(statement))
    }

    /// Reads a whistle; `None` if it is sealed for others.
    fn open(
        &self,
        statement: &Statement,
        given: &[SealedKey],
    ) -> Result<Option<Escalation>, Refused> {
        let Some(body) = self.unit.read(statement, given)? else { return Ok(None) };
        let escalation = decode_body(&body)?;
        if statement.header.sealing.is_some() && escalation.number != statement.header.subject {
            let detail = "is not the number of the sealed escalation";
            return Err(Refused::new("malformed", "header.subject", detail));
        }
        Ok(Some(escalation))
    }

    async fn readable(&self, id: StatementId) -> Result<Case, Error> {
        if let Some(case) = self.case(id).await? {
            return Ok(case);
        }
        let statement = self.statement(id).await?.ok_or(Error::NotFound(id))?;
        Err(Error::Sealed(statement.header.source))
    }

    /// A step, for the other side of the case and the desks that are called to it, and for this unit
    /// should it come back.
    fn event_draft(
        &self,
        event: &EventBody,
        id: StatementId,
        case: &Case,
        own: &UnitCode,
    ) -> Draft {
        let to = self.other_side(case, own);
        let mut draft = Draft::new(kinds::ESCALATION_EVENT, id.to_string(), encode_event(event));
        draft.destination = Some(to.clone());
        draft.exercise = case.exercise;
        let desks = case.escalation.desks().chain(&case.added);
        let desks = desks.map(|desk| (&case.destination, Some(desk)));
        let units = [(&to, None), (&self.unit.code, None)];
        let readers = self.unit.readers(units.into_iter().chain(desks));
        draft.seal = Some(Seal { readers, outline: None });
        draft
    }

    /// The side of a case that a unit speaks for.
    fn side<'a>(&self, case: &'a Case, unit: &'a UnitCode) -> &'a UnitCode {
        self.unit.side_of([&case.source, &case.destination], unit)
    }

    /// The side of a case that this unit speaks for: by `part`, if it has the case by an order.
    fn own_side(&self, case: &Case, part: Option<&Part>) -> UnitCode {
        let own = || self.side(case, &self.unit.code).clone();
        part.map_or_else(own, |part| part.of.clone())
    }

    /// By which order this unit acts on a case, if it came from another one.
    async fn acting(&self, id: StatementId) -> Result<Option<Part>, Error> {
        match self.unit.part(id).await? {
            Some(part) if part.of == self.unit.code => Err(Error::HandedOn(part.to)),
            part => Ok(part),
        }
    }

    /// Who has to hear of a step of the side `own` that this unit takes.
    fn other_side(&self, case: &Case, own: &UnitCode) -> UnitCode {
        let is_source = *own == case.source;
        let other = if is_source { &case.destination } else { &case.source };
        self.unit.trust().heir(other).clone()
    }

    /// Open cases of this unit and of those that merged into it, with where they stand.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn to_hand_over(&self) -> Result<Vec<Handed>, Error> {
        let own = self.unit.own_and_inherited();
        let mut items = Vec::new();
        for state in self.list().await? {
            let is_side = own.contains(&state.source) || own.contains(&state.destination);
            let Some(case) = state.case.filter(|case| is_side && !case.is_final()) else {
                continue;
            };
            let Some(statement) = self.unit.statement(state.id).await? else { continue };
            let given = state.given.into_iter().flat_map(|given| given.keys).collect();
            items.push(Handed { given, ..handed(statement, case) });
        }
        Ok(items)
    }

    /// An open case that this unit itself raised, with how many steps and desks it has; its keys are
    /// left out.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn to_hand_part(&self, id: StatementId) -> Result<Option<(Handed, usize)>, Error> {
        let case = self.case(id).await?;
        let is_open = case.is_some_and(|case| case.source == self.unit.code && !case.is_final());
        if is_open { self.to_hand_on(id).await } else { Ok(None) }
    }

    /// A case as it stands here, with how many steps and desks it has; its keys are left out.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn to_hand_on(&self, id: StatementId) -> Result<Option<(Handed, usize)>, Error> {
        let Some(case) = self.case(id).await? else { return Ok(None) };
        let Some(statement) = self.unit.statement(id).await? else { return Ok(None) };
        let told = case.history.len() + case.added.len() + case.succeeded.len();
        Ok(Some((handed(statement, case), told)))
    }

    /// When lamps turn yellow, as the catalogue in force declares.
    pub fn warning(&self) -> Warning {
        self.catalogues.in_force().map(|in_force| in_force.catalogue.warning).unwrap_or_default()
    }

    /// Shows a case; of one that only passed through, what its header says.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`].
    pub async fn show(&self, id: StatementId) -> Result<State, Error> {
        let header = self.statement(id).await?.ok_or(Error::NotFound(id))?.header;
        Ok(State {
            id,
            number: header.subject,
            destination: header.destination.ok_or(Error::NotFound(id))?,
            source: header.source,
            raised_unix_ms: header.time_unix_ms,
            exercise: header.exercise,
            case: self.case(id).await?,
            given: self.unit.given(id).await?,
        })
    }

    /// Calls one more desk of the called unit to a case: it gets the key, the other side is told.
    /// `succeeds`: the desk in whose place it acts from here on, where this unit was called.
    /// `dry_run`: says what would not hold, and changes nothing.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], a desk that is not there or was called before, a case that has ended.
    #[tracing::instrument(name = "escalation.add_desk", skip_all, fields(unit = %self.unit.code, %desk))]
    pub async fn add_desk(
        &self,
        id: StatementId,
        desk: &DeskId,
        succeeds: Option<&DeskId>,
        dry_run: bool,
    ) -> Result<State, Error> {
        self.unit.continue_trace(id).await?;
        let mut work = self.unit.begin().await;
        work.batch.urgent();
        let held = self.unit.store.get(&self.unit.code, Table::Escalations, id.as_bytes()).await?;
        let mut case = self.readable(id).await?;
        if let Some(part) = self.acting(id).await? {
            // The key of the case is that of its raiser to give.
            return Err(Error::HandedOn(part.of));
        }
        let own = self.side(&case, &self.unit.code).clone();
        match succeeds {
            Some(former) => case.check_succeed(former, desk, &own)?,
            None => case.check_add(desk, &own)?,
        }
        let called = self.unit.trust().heir(&case.destination).clone();
        if self.unit.trust().delegation(&called, Some(desk)).is_none() {
            return Err(unit::Error::NoDesk(desk.clone()).into());
        }
        let reader = (called, Some(desk.clone()));
        let key = self.unit.seal_kept(id, &reader).await?.ok_or(Error::NotFound(id))?;
        if dry_run {
            return self.show(id).await;
        }
        let keys = vec![key];
        let to = self.other_side(&case, &own);
        let hop = self.unit.hop_to(&to).ok_or_else(|| Error::Destination(to.clone()))?;
        let grant = KeyGrant {
            statement_id: id,
            recipients: keys.clone(),
            statement: None,
            desk: Some(desk.clone()),
            succeeds: succeeds.cloned(),
        };
        let signed = work.sign(&grant_draft(&grant, to, case.exercise))?;
        work.enqueue(&hop, Lane::Escalation, signed.id);
        let given = Given {
            by: self.unit.code.clone(),
            to: reader,
            time_unix_ms: signed.time_unix_ms,
            keys: self.unit.own_keys(&keys),
        };
        let (table, key, value) = given.row(id, signed.id);
        work.batch.put(table, key, value);
        join(&mut case, desk, succeeds);
        if let Some(held) = held {
            work.batch.require(Table::Escalations, *id.as_bytes(), held);
        }
        put(&mut work, id, &case);
        work.commit().await?;
        self.show(id).await
    }

    /// Plans what the call of a desk by the other side does.
    ///
    /// # Errors
    ///
    /// [`Undecided::Refused`] for one that is not the signer's to make.
    pub async fn take_desk(&self, arrived: &Arrived, grant: &KeyGrant) -> Result<Plan, Undecided> {
        let mut plan = Plan::default();
        let (id, Some(desk)) = (grant.statement_id, &grant.desk) else { return Ok(plan) };
        let held = self.unit.store.get(&self.unit.code, Table::Escalations, id.as_bytes()).await?;
        let Some((mut case, held)) = self.case(id).await?.zip(held) else {
            let detail = "no such escalation is held here";
            return Err(Refused::new("malformed", "body.statement_id", detail).into());
        };
        let is_here = !self.unit.is_own(&case.destination)
            || self.unit.trust().delegation(&self.unit.code, Some(desk)).is_some();
        if !is_here {
            let detail = format!("unit {} has no desk {desk}", self.unit.code);
            return Err(Refused::new("malformed", "body.desk", detail).into());
        }
        let unit = self.side(&case, arrived.source());
        let checked = match &grant.succeeds {
            Some(former) => case.check_succeed(former, desk, unit),
            None => case.check_add(desk, unit),
        };
        match checked {
            Ok(()) => {}
            Err(escalation::Error::Order { .. } | escalation::Error::Called(_)) => {
                tracing::info!(unit = %self.unit.code, escalation = %id, "call of a desk came too late");
                return Ok(plan);
            }
            Err(error) => {
                let refused = Refused::new("wrong-source", "body.desk", error.to_string());
                return Err(refused.into());
            }
        }
        join(&mut case, desk, grant.succeeds.as_ref());
        self.catch_up(&mut case, self.waiting(id).await?, &mut plan);
        plan.requires.push((Table::Escalations, id.as_bytes().to_vec(), held));
        plan.writes.push(row(id, &case));
        Ok(plan)
    }

    /// Plans what a whistle does that was shared with this unit, which is no side of the case.
    ///
    /// # Errors
    ///
    /// [`Undecided::Refused`] for one that does not hold.
    pub fn take_shared(
        &self,
        statement: &Statement,
        given: &[SealedKey],
    ) -> Result<Plan, Undecided> {
        let escalation = self.open(statement, given)?.ok_or_else(not_a_reader)?;
        let header = &statement.header;
        let destination = header
            .destination
            .clone()
            .ok_or_else(|| Refused::new("malformed", "header.destination", "is missing"))?;
        let case = Case {
            source: header.source.clone(),
            destination,
            escalation,
            raised_unix_ms: header.time_unix_ms,
            exercise: header.exercise,
            added: Vec::new(),
            succeeded: Vec::new(),
            history: Vec::new(),
        };
        Ok(Plan { writes: vec![row(header.id, &case)], ..Plan::default() })
    }

    /// Lists the cases that the unit raised or is called for, the oldest first.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn list(&self) -> Result<Vec<State>, Error> {
        let mut states = Vec::new();
        let mut after = None::<Vec<u8>>;
        loop {
            let rows = self
                .unit
                .store
                .scan(&self.unit.code, Table::Escalations, b"", after.as_deref(), 1_000)
                .await?;
            for (key, _) in &rows {
                let id = StatementId::try_from(key.as_slice()).map_err(|_| {
                    store::Error::Engine("the key of an escalation is damaged".into())
                })?;
                states.push(self.show(id).await?);
            }
            match rows.last() {
                Some((key, _)) if rows.len() == 1_000 => after = Some(key.clone()),
                _ => return Ok(states),
            }
        }
    }
}

fn join(case: &mut Case, desk: &DeskId, succeeds: Option<&DeskId>) {
    match succeeds {
        Some(former) => case.succeed(former, desk),
        None => case.added.push(desk.clone()),
    }
}

fn not_sealed() -> Refused {
    let detail = "escalations and their steps travel sealed; the sender needs a newer program";
    Refused::new("not-sealed", "header.key_commitment", detail)
}

fn not_a_reader() -> Refused {
    let detail = "it is sealed for others, but this unit has to read it";
    Refused::new("not-a-reader", "body.recipients", detail)
}

fn unreadable(refused: &Refused) -> store::Error {
    let Refused { field, detail, .. } = refused;
    store::Error::Engine(format!("a stored escalation cannot be read: {field} {detail}"))
}

fn row(id: StatementId, case: &Case) -> Written {
    Row {
        source: case.source.clone(),
        destination: case.destination.clone(),
        raised_unix_ms: case.raised_unix_ms,
        exercise: case.exercise,
        added: case.added.clone(),
        succeeded: case.succeeded.clone(),
        history: case.history.iter().map(TakenRow::from).collect(),
    }
    .written(id)
}

/// A case for a successor, without its keys.
fn handed(statement: Envelope, case: Case) -> Handed {
    Handed {
        statement,
        receipts: Vec::new(),
        added: case.added,
        succeeded: case.succeeded,
        taken: case.history,
        given: Vec::new(),
    }
}

/// The row of a case that a unit hands to this one, and the row that is here already: what that says
/// stays, and what is new comes after it.
///
/// # Errors
///
/// [`Undecided::Refused`] for a whistle without a destination, [`Undecided::Store`].
pub(super) async fn handed_row(
    unit: &Unit,
    header: &Header,
    handed: &Handed,
) -> Result<(Option<Vec<u8>>, Written), Undecided> {
    let destination = header.destination.clone().ok_or_else(|| {
        Refused::new("malformed", "body.handed.statement.header.destination", "is missing")
    })?;
    // The step before it may still be on its way to the store: an empty batch waits for it.
    unit.store.submit(Batch::new(&unit.code)).await?;
    let before = unit.store.get(&unit.code, Table::Escalations, header.id.as_bytes()).await?;
    let mut row = match &before {
        Some(before) => format::read(FORMAT, before)?,
        None => Row {
            source: header.source.clone(),
            destination,
            raised_unix_ms: header.time_unix_ms,
            exercise: header.exercise,
            added: Vec::new(),
            succeeded: Vec::new(),
            history: Vec::new(),
        },
    };
    append(&mut row.added, handed.added.clone());
    append(&mut row.succeeded, handed.succeeded.clone());
    append(&mut row.history, handed.taken.iter().map(TakenRow::from).collect());
    Ok((before, row.written(header.id)))
}

/// Adds what is not there.
fn append<T: PartialEq>(known: &mut Vec<T>, handed: Vec<T>) {
    for one in handed {
        if !known.contains(&one) {
            known.push(one);
        }
    }
}

fn put(work: &mut Work, id: StatementId, case: &Case) {
    let (table, key, value) = row(id, case);
    work.batch.put(table, key, value);
}
