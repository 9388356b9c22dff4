//! Notices on their way down, and receipts on their way back to the issuer.
//!
//! The receiving unit decides admission. A relay forwards the envelope as it was signed and keeps
//! the stages that pass, so that it can show its subtree. It cannot read: a notice is sealed to its
//! issuer and the units that have to act, a receipt to the issuer of the notice.

mod returning;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

mod inherited;

pub(super) use self::inherited::handed_rows;

use super::{
    catalogues::Catalogues,
    error::{ErrorKind, ServiceError},
    exchange::Lane,
    intake::{Arrived, Plan, Refused, Reply, Undecided},
    unit::{self, Draft, Given, Seal, Unit},
};
use crate::{
    clock::UnixMillis,
    domain::{
        notice::{self, Notice, Receipt, Route, RouteChild, Stage, admit, route},
        personal,
        unit::{Level, UnitCode},
    },
    statement::{
        header::{self, Header, StatementId, kinds},
        notice::{decode_body, decode_receipt, encode_body, encode_receipt},
        sealed::{Outline, SealedKey},
    },
    store::{self, Table, format},
};

const FORMAT: u8 = 1;

/// Most readers whose keys travel in the notice itself: all of it is one statement, and no unit
/// carries many keys of others. More get theirs by grants.
const READERS_INSIDE: usize = 32;

/// Why a notice was not issued, shown or marked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The notice or stage does not hold.
    #[error(transparent)]
    Notice(#[from] notice::Error),
    /// The destination is not below the unit.
    #[error("unit {0} is not below this unit; list those that are with `lianxi node units`")]
    Destination(UnitCode),
    /// No unit of the level under the destination.
    #[error("no {level} is under {destination}")]
    NobodyAddressed {
        /// Level.
        level: Level,
        /// Destination.
        destination: UnitCode,
    },
    /// No such notice here.
    #[error("no notice {0} is held here")]
    NotFound(StatementId),
    /// The notice is not this unit's to act on.
    #[error("the notice is not addressed to this unit")]
    NotAddressed,
    /// The unit has to act, but the key has not come yet.
    #[error(
        "the notice is sealed and its key has not come yet; ask {0} to share it with this unit"
    )]
    Sealed(UnitCode),
    /// The notice went to another unit.
    #[error("the notice is {0}'s since this unit was divided; let {0} act on it")]
    HandedOn(UnitCode),
    /// The statement could not be made.
    #[error("cannot sign")]
    Unit(#[from] unit::Error),
    /// The store failed.
    #[error("cannot store the notice")]
    Store(#[from] store::Error),
}

impl ServiceError for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Notice(notice::Error::Stage { .. } | notice::Error::NoAuthority)
            | Self::NotAddressed
            | Self::HandedOn(_)
            | Self::Sealed(_) => ErrorKind::FailedPrecondition,
            Self::Notice(_) => ErrorKind::InvalidArgument,
            Self::Destination(_) | Self::NobodyAddressed { .. } | Self::NotFound(_) => {
                ErrorKind::NotFound
            }
            Self::Unit(unit::Error::TooLarge(_)) => ErrorKind::InvalidArgument,
            Self::Unit(_) => ErrorKind::Internal,
            Self::Store(error) => error.kind(),
        }
    }
}

/// What is kept of a notice beside its statement.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Row {
    issuer: UnitCode,
    destination: UnitCode,
    issued_unix_ms: UnixMillis,
    exercise: bool,
    addressed: bool,
}

/// Furthest stage of one unit.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct ReceiptRow {
    stage: u8,
    reason: String,
    note: String,
    time_unix_ms: UnixMillis,
}

impl ReceiptRow {
    fn stage(&self) -> Option<Stage> {
        [Stage::Durable, Stage::Validated, Stage::Seen, Stage::Done, Stage::Refused]
            .into_iter()
            .find(|stage| *stage as u8 == self.stage)
    }
}

/// A unit that has to act on a notice.
#[derive(Clone, Debug)]
pub struct Recipient {
    /// The unit.
    pub unit: UnitCode,
    /// Its title.
    pub title: String,
    /// Furthest stage.
    pub stage: Option<Stage>,
    /// Rule that refused it.
    pub reason: String,
    /// What was done.
    pub note: String,
    /// The signer's clock.
    pub stage_unix_ms: Option<UnixMillis>,
}

/// A notice with the receipts of the unit's subtree.
#[derive(Clone, Debug)]
pub struct State {
    /// Its statement.
    pub id: StatementId,
    /// Issuer.
    pub issuer: UnitCode,
    /// Head of the subtree that it is for.
    pub destination: UnitCode,
    /// Number that people say.
    pub number: String,
    /// Level of the units that have to act.
    pub level: Level,
    /// When it has to be done.
    pub due_unix_ms: UnixMillis,
    /// What it says; `None`: it is sealed for others.
    pub notice: Option<Notice>,
    /// Keys that were given to readers later, as known here.
    pub given: Vec<Given>,
    /// The issuer's clock.
    pub issued_unix_ms: UnixMillis,
    /// True for an exercise.
    pub exercise: bool,
    /// Units that have to act, as known here.
    pub recipients: Vec<Recipient>,
}

/// Notices of one unit.
#[derive(Debug)]
pub struct Notices {
    unit: Arc<Unit>,
    catalogues: Arc<Catalogues>,
}

impl Notices {
    /// Notices of `unit`.
    pub fn new(unit: Arc<Unit>, catalogues: Arc<Catalogues>) -> Self {
        Self { unit, catalogues }
    }

    /// Signs a notice and sends it to the units of its level under `destination`; returns its id
    /// and the number of units that have to act.
    ///
    /// # Errors
    ///
    /// A field that does not hold, a destination that is not below, nobody addressed.
    #[tracing::instrument(name = "notice.issue", skip_all, fields(unit = %self.unit.code, %destination))]
    pub async fn issue(
        &self,
        destination: &UnitCode,
        notice: &Notice,
        exercise: bool,
    ) -> Result<(StatementId, usize), Error> {
        notice.check_new(self.unit.clock.now_unix_ms())?;
        if !self.unit.trust().is_in_subtree(destination, &self.unit.code) {
            return Err(Error::Destination(destination.clone()));
        }
        let now = self.unit.clock.now_unix_ms();
        let addressed = self.addressed(destination, notice.level, now);
        let issued_to = addressed.len();
        if issued_to == 0 {
            let (level, destination) = (notice.level, destination.clone());
            return Err(Error::NobodyAddressed { level, destination });
        }
        let mut draft = Draft::new(kinds::NOTICE, notice.number.clone(), encode_body(notice));
        draft.destination = Some(destination.clone());
        draft.exercise = exercise;
        draft.dataschema = self.catalogues.label();
        let others = addressed.into_iter().map(|(unit, _)| unit);
        let others: Vec<_> = others.filter(|unit| *unit != self.unit.code).collect();
        let inside = if others.len() < READERS_INSIDE { &others[..] } else { &[] };
        let readers = std::iter::once(&self.unit.code).chain(inside).map(|unit| (unit, None));
        let (level, due_unix_ms) = (notice.level, notice.due_unix_ms);
        let outline = Some(Outline::Notice { level, due_unix_ms });
        draft.seal = Some(Seal { readers: self.unit.readers(readers), outline });
        let route = self.route(destination, notice.level);
        let mut work = self.unit.begin().await;
        let signed = work.sign(&draft)?;
        work.enqueue_all(&route.children, Lane::Notice, signed.id);
        if inside.is_empty() {
            work.grant_all(others, Lane::Notice, signed.id);
        }
        let row = Row {
            issuer: self.unit.code.clone(),
            destination: destination.clone(),
            issued_unix_ms: signed.time_unix_ms,
            exercise,
            addressed: route.addressed,
        };
        work.batch.put(Table::Notices, *signed.id.as_bytes(), format::write(FORMAT, &row));
        if route.addressed {
            let receipt = self.decide(signed.id, notice);
            let row = ReceiptRow {
                stage: receipt.stage as u8,
                reason: receipt.reason,
                note: receipt.note,
                time_unix_ms: signed.time_unix_ms,
            };
            let key = receipt_key(signed.id, &self.unit.code);
            work.batch.put(Table::Receipts, key, format::write(FORMAT, &row));
        }
        work.commit().await?;
        Ok((signed.id, issued_to))
    }

    fn route(&self, destination: &UnitCode, level: Level) -> Route {
        let trust = self.unit.trust();
        let in_destination = trust.is_in_subtree(&self.unit.code, destination);
        let children = trust.children(&self.unit.code).into_iter();
        let children = children.filter(|unit| !trust.has_left(unit)).filter_map(|unit| {
            Some(RouteChild {
                unit: unit.clone(),
                level: trust.delegation(unit, None)?.delegation.level,
                holds_destination: trust.is_in_subtree(destination, unit),
            })
        });
        route(self.unit.level, in_destination, level, children)
    }

    /// Units of the notice's level under the destination and under this unit, but those that had left
    /// when it was issued.
    fn addressed(
        &self,
        destination: &UnitCode,
        level: Level,
        issued: UnixMillis,
    ) -> Vec<(UnitCode, String)> {
        let trust = self.unit.trust();
        let head = if trust.is_in_subtree(&self.unit.code, destination) {
            &self.unit.code
        } else {
            destination
        };
        let mut units: Vec<_> = trust
            .subtree(head)
            .into_iter()
            .map(|known| &known.delegation)
            .filter(|delegation| delegation.desk.is_none() && delegation.level == level)
            .filter(|delegation| !trust.had_left(&delegation.unit, issued))
            .map(|delegation| (delegation.unit.clone(), delegation.title.clone()))
            .collect();
        units.sort();
        units
    }

    fn decide(&self, id: StatementId, notice: &Notice) -> Receipt {
        let in_force = self.catalogues.in_force();
        let catalogue = in_force.as_ref().map(|in_force| &in_force.catalogue);
        let verdict = admit(
            notice,
            |item| catalogue.is_some_and(|catalogue| catalogue.has_duty_item(item)),
            |number| catalogue.is_some_and(|catalogue| catalogue.has_approval(number)),
        );
        let (stage, reason) = match verdict {
            Ok(()) => (Stage::Validated, String::new()),
            Err(reason) => (Stage::Refused, reason.to_owned()),
        };
        Receipt { notice_id: *id.as_bytes(), stage, reason, note: String::new() }
    }

    /// Plans what a notice from above does: it goes on, and the unit decides if it is for it.
    /// `given`: keys of its body that came beside it.
    ///
    /// # Errors
    ///
    /// [`Undecided::Refused`] for one that does not hold.
    pub async fn take(&self, arrived: &Arrived, given: &[SealedKey]) -> Result<Plan, Undecided> {
        if arrived.from_child {
            let detail = "a notice comes from above";
            return Err(Refused::new("wrong-source", "header.source", detail).into());
        }
        let header = &arrived.statement.header;
        let (level, _) = outline(header)?;
        let destination = header
            .destination
            .as_ref()
            .ok_or_else(|| Refused::new("malformed", "header.destination", "is missing"))?;
        let route = self.route(destination, level);
        let row = Row {
            issuer: header.source.clone(),
            destination: destination.clone(),
            issued_unix_ms: header.time_unix_ms,
            exercise: header.exercise,
            addressed: route.addressed,
        };
        let mut plan = Plan { relay: route.children, ..Plan::default() };
        let key = arrived.id().as_bytes().to_vec();
        plan.writes.push((Table::Notices, key, format::write(FORMAT, &row)));
        let deciders = self.deciders(&arrived.statement.header, route.addressed).await?;
        if deciders.is_empty() {
            return Ok(plan);
        }
        let mut notice = self.open(&arrived.statement, given)?;
        if notice.is_none() {
            // A key can be faster than its notice.
            let keys = self.unit.keys_given(arrived.id()).await?;
            notice = self.open(&arrived.statement, &keys)?;
        }
        // After a restore the own decision may have come back before the notice does: then it is none
        // of those that decide.
        if let Some(notice) = notice {
            for unit in &deciders {
                self.admit(&mut plan, header, &notice, unit);
            }
        }
        Ok(plan)
    }

    /// Plans what a key for a notice that is held does: the unit can decide.
    ///
    /// # Errors
    ///
    /// [`Undecided::Refused`] if the notice does not hold.
    pub async fn take_key(
        &self,
        statement: &header::Statement,
        given: &[SealedKey],
    ) -> Result<Plan, Undecided> {
        let mut plan = Plan::default();
        let id = statement.header.id;
        let row = self.unit.store.get(&self.unit.code, Table::Notices, id.as_bytes()).await?;
        let row: Option<Row> = row.map(|row| format::read(FORMAT, &row)).transpose()?;
        let addressed = row.is_some_and(|row| row.addressed);
        let deciders = self.deciders(&statement.header, addressed).await?;
        if let Some(notice) = self.open(statement, given)? {
            for unit in &deciders {
                self.admit(&mut plan, &statement.header, &notice, unit);
            }
        }
        Ok(plan)
    }

    /// Reads a notice; `None` if it is sealed for others.
    fn open(
        &self,
        statement: &header::Statement,
        given: &[SealedKey],
    ) -> Result<Option<Notice>, Refused> {
        let Some(body) = self.unit.read(statement, given)? else { return Ok(None) };
        let notice = decode_body(&body)?;
        let header = &statement.header;
        let said = (header.subject.as_str(), outline(header)?);
        if (notice.number.as_str(), (notice.level, notice.due_unix_ms)) != said {
            let detail = "is not what the sealed notice says";
            return Err(Refused::new("malformed", "header.outline", detail));
        }
        Ok(Some(notice))
    }

    /// Adds the decision of `unit`, this one or one that merged into it, and the receipt that says it.
    fn admit(&self, plan: &mut Plan, header: &Header, notice: &Notice, unit: &UnitCode) {
        let Some(parent) = self.unit.parent() else { return };
        let receipt = self.decide(header.id, notice);
        let row = ReceiptRow {
            stage: receipt.stage as u8,
            reason: receipt.reason.clone(),
            note: String::new(),
            time_unix_ms: self.unit.clock.now_unix_ms(),
        };
        let key = receipt_key(header.id, unit);
        plan.writes.push((Table::Receipts, key, format::write(FORMAT, &row)));
        let (issuer, exercise) = (&header.source, header.exercise);
        let draft = self.receipt_draft(&receipt, unit, issuer, header.id, exercise);
        plan.replies.push(Reply { draft, to: parent, lane: Lane::Notice });
    }

    /// Plans what a receipt from below does: the furthest stage is kept, and it goes on to the issuer.
    ///
    /// # Errors
    ///
    /// [`Undecided::Refused`] for one that does not hold.
    pub async fn take_receipt(&self, arrived: &Arrived) -> Result<Plan, Undecided> {
        let parted = self.unit.trust().parted(&self.unit.code, arrived.source());
        if !(arrived.from_child || parted) || arrived.desk.is_some() {
            let detail = "a receipt comes from a unit below";
            return Err(Refused::new("wrong-source", "header.source", detail).into());
        }
        let header = &arrived.statement.header;
        let of = self.receipt_of(arrived)?;
        let to_self = header.destination.as_ref().is_some_and(|issuer| self.unit.is_own(issuer));
        let receipt = self.open_receipt(arrived, to_self)?;
        let notice_id = StatementId::try_from(&receipt.notice_id[..])
            .map_err(|_| Refused::new("malformed", "header.subject", "is no id"))?;
        let mut plan = Plan::default();
        let key = receipt_key(notice_id, of);
        let before = self.receipt(&key).await?;
        if receipt.stage.supersedes(before.and_then(|row| row.stage())) {
            let row = ReceiptRow {
                stage: receipt.stage as u8,
                reason: receipt.reason,
                note: receipt.note,
                time_unix_ms: header.time_unix_ms,
            };
            plan.writes.push((Table::Receipts, key, format::write(FORMAT, &row)));
        }
        if !to_self && let Some(issuer) = &header.destination {
            plan.relay.push(self.unit.next_hop(issuer, arrived.from_child)?);
        }
        Ok(plan)
    }

    /// The receipt as its header tells it to everybody; with its note where it is for this unit.
    fn open_receipt(&self, arrived: &Arrived, to_self: bool) -> Result<Receipt, Refused> {
        let header = &arrived.statement.header;
        let sealing = header.sealing.as_ref().ok_or_else(not_sealed)?;
        let Some(Outline::Receipt { stage, reason }) = &sealing.outline else {
            return Err(Refused::new("malformed", "header.outline", "is not that of a receipt"));
        };
        let notice_id: StatementId = header
            .subject
            .parse()
            .map_err(|_| Refused::new("malformed", "header.subject", "is no id of a notice"))?;
        let told = Receipt {
            notice_id: *notice_id.as_bytes(),
            stage: *stage,
            reason: reason.clone(),
            note: String::new(),
        };
        if !to_self {
            return Ok(told);
        }
        let body = self.unit.read(&arrived.statement, &[])?.ok_or_else(|| {
            let detail = "a receipt is sealed to the issuer of its notice";
            Refused::new("not-a-reader", "body.recipients", detail)
        })?;
        let receipt = decode_receipt(&body)?;
        if (Receipt { note: String::new(), ..receipt.clone() }) != told {
            let detail = "is not what the sealed receipt says";
            return Err(Refused::new("malformed", "header.outline", detail));
        }
        Ok(receipt)
    }

    async fn receipt(&self, key: &[u8]) -> Result<Option<ReceiptRow>, store::Error> {
        let row = self.unit.store.get(&self.unit.code, Table::Receipts, key).await?;
        row.map(|row| format::read(FORMAT, &row)).transpose()
    }

    /// When the last of the units under `head` that have to act said that the notice came, by its own
    /// clock; `None`: one has not. Units that are gone say nothing any more.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn final_at(
        &self,
        head: &UnitCode,
        id: StatementId,
    ) -> Result<Option<UnixMillis>, store::Error> {
        let row = self.unit.store.get(&self.unit.code, Table::Notices, id.as_bytes()).await?;
        let row: Option<Row> = row.map(|row| format::read(FORMAT, &row)).transpose()?;
        let statement = self.unit.statement(id).await?;
        let statement = statement.and_then(|kept| header::decode(&kept.payload).ok());
        let Some((row, statement)) = row.zip(statement) else { return Ok(Some(UnixMillis::MIN)) };
        let Ok((level, _)) = outline(&statement.header) else { return Ok(Some(UnixMillis::MIN)) };
        let waited_for: Vec<UnitCode> = {
            let trust = self.unit.trust();
            let addressed = self.addressed(&row.destination, level, row.issued_unix_ms);
            let stays = |unit: &UnitCode| {
                trust.is_in_subtree(unit, head) && trust.revoked(unit, None).is_none()
            };
            addressed.into_iter().map(|(unit, _)| unit).filter(stays).collect()
        };
        let mut last = UnixMillis::MIN;
        for unit in waited_for {
            match self.receipt(&receipt_key(id, &unit)).await? {
                Some(receipt) if receipt.stage() >= Some(Stage::Validated) => {
                    last = last.max(receipt.time_unix_ms);
                }
                Some(_) | None => return Ok(None),
            }
        }
        Ok(Some(last))
    }

    async fn row(&self, id: StatementId) -> Result<Row, Error> {
        let row = self.unit.store.get(&self.unit.code, Table::Notices, id.as_bytes()).await?;
        Ok(format::read(FORMAT, &row.ok_or(Error::NotFound(id))?)?)
    }

    /// Signs that a person has seen the notice, or that it is done.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::NotAddressed`], a stage out of order.
    #[tracing::instrument(name = "notice.mark", skip_all, fields(unit = %self.unit.code, ?stage))]
    pub async fn mark(&self, id: StatementId, stage: Stage, note: &str) -> Result<State, Error> {
        self.unit.continue_trace(id).await?;
        let row = self.row(id).await?;
        if note.len() > 1_024 {
            let error = notice::Error::Length { field: "note", length: note.len(), limit: 1_024 };
            return Err(error.into());
        }
        if let Some(what) = personal::find(note) {
            return Err(notice::Error::PersonalData { field: "note", what }.into());
        }
        let mut work = self.unit.begin().await;
        // Read after `begin`: two marks at once follow each other.
        let part = self.unit.part(id).await?;
        let marking = self.marking((id, &row), stage, part.as_ref()).await?;
        for unit in &marking {
            let receipt = Receipt {
                notice_id: *id.as_bytes(),
                stage,
                reason: String::new(),
                note: note.to_owned(),
            };
            let new = ReceiptRow {
                stage: stage as u8,
                reason: String::new(),
                note: note.to_owned(),
                time_unix_ms: self.unit.clock.now_unix_ms(),
            };
            let key = receipt_key(id, unit);
            work.batch.put(Table::Receipts, key, format::write(FORMAT, &new));
            let mut draft = self.receipt_draft(&receipt, unit, &row.issuer, id, row.exercise);
            if let Some(part) = part.as_ref().filter(|part| part.of == *unit) {
                draft.handed_by = self.unit.handed_by(part).await?;
            }
            let signed = work.sign(&draft)?;
            if let Some(parent) = self.unit.parent()
                && !self.unit.is_own(&row.issuer)
            {
                work.enqueue(&parent, Lane::Notice, signed.id);
            }
        }
        work.commit().await?;
        self.show(id).await
    }

    /// Shows a notice with the receipts of the unit's subtree.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`].
    pub async fn show(&self, id: StatementId) -> Result<State, Error> {
        let row = self.row(id).await?;
        let envelope = self.unit.statement(id).await?.ok_or(Error::NotFound(id))?;
        let statement =
            header::decode(&envelope.payload).map_err(|malformed| unreadable(&malformed.into()))?;
        let given = self.unit.given(id).await?;
        let keys: Vec<_> = given.iter().flat_map(|given| given.keys.clone()).collect();
        let notice = self.readable(&statement, &keys)?;
        let (level, due_unix_ms) = match &notice {
            Some(notice) => (notice.level, notice.due_unix_ms),
            None => outline(&statement.header).map_err(|refused| unreadable(&refused))?,
        };
        let mut recipients = Vec::new();
        let mut addressed = self.addressed(&row.destination, level, row.issued_unix_ms);
        self.add_reporting(id, &row.destination, &mut addressed).await?;
        for (unit, title) in addressed {
            let receipt = self.receipt(&receipt_key(id, &unit)).await?;
            recipients.push(match receipt {
                None => Recipient {
                    unit,
                    title,
                    stage: None,
                    reason: String::new(),
                    note: String::new(),
                    stage_unix_ms: None,
                },
                Some(receipt) => Recipient {
                    unit,
                    title,
                    stage: receipt.stage(),
                    reason: receipt.reason,
                    note: receipt.note,
                    stage_unix_ms: Some(receipt.time_unix_ms),
                },
            });
        }
        Ok(State {
            id,
            issuer: row.issuer,
            destination: row.destination,
            number: statement.header.subject,
            level,
            due_unix_ms,
            notice,
            given,
            issued_unix_ms: row.issued_unix_ms,
            exercise: row.exercise,
            recipients,
        })
    }

    /// Reads a kept notice; one of an earlier version is in the clear.
    fn readable(
        &self,
        statement: &header::Statement,
        given: &[SealedKey],
    ) -> Result<Option<Notice>, store::Error> {
        if statement.header.sealing.is_none() {
            let notice = decode_body(&statement.body).map_err(Refused::from);
            return notice.map(Some).map_err(|refused| unreadable(&refused));
        }
        self.open(statement, given).map_err(|refused| unreadable(&refused))
    }

    /// A receipt of `unit`, this one or one that merged into it, for the issuer of its notice to read,
    /// and for this unit should it come back.
    fn receipt_draft(
        &self,
        receipt: &Receipt,
        unit: &UnitCode,
        issuer: &UnitCode,
        notice_id: StatementId,
        exercise: bool,
    ) -> Draft {
        let mut draft = Draft::new(kinds::RECEIPT, notice_id.to_string(), encode_receipt(receipt));
        draft.destination = Some(issuer.clone());
        draft.on_behalf_of = Some(unit).filter(|unit| **unit != self.unit.code).cloned();
        draft.exercise = exercise;
        let (stage, reason) = (receipt.stage, receipt.reason.clone());
        draft.seal = Some(Seal {
            readers: self.unit.readers([(issuer, None), (&self.unit.code, None)]),
            outline: Some(Outline::Receipt { stage, reason }),
        });
        draft
    }

    /// Lists the notices that the unit issued, relays or has received, the oldest first.
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
                .scan(&self.unit.code, Table::Notices, b"", after.as_deref(), 1_000)
                .await?;
            for (key, _) in &rows {
                let id = StatementId::try_from(key.as_slice())
                    .map_err(|_| store::Error::Engine("the key of a notice is damaged".into()))?;
                states.push(self.show(id).await?);
            }
            match rows.last() {
                Some((key, _)) if rows.len() == 1_000 => after = Some(key.clone()),
                _ => return Ok(states),
            }
        }
    }
}

/// What the header of a notice tells to everybody.
fn outline(header: &Header) -> Result<(Level, UnixMillis), Refused> {
    let sealing = header.sealing.as_ref().ok_or_else(not_sealed)?;
    match sealing.outline {
        Some(Outline::Notice { level, due_unix_ms }) => Ok((level, due_unix_ms)),
        Some(Outline::Receipt { .. }) | None => {
            Err(Refused::new("malformed", "header.outline", "is not that of a notice"))
        }
    }
}

fn not_sealed() -> Refused {
    let detail = "notices and receipts travel sealed; the sender needs a newer program";
    Refused::new("not-sealed", "header.key_commitment", detail)
}

fn unreadable(refused: &Refused) -> store::Error {
    let Refused { field, detail, .. } = refused;
    store::Error::Engine(format!("a stored notice cannot be read: {field} {detail}"))
}

fn receipt_key(notice: StatementId, unit: &UnitCode) -> Vec<u8> {
    [notice.as_bytes().as_slice(), unit.as_str().as_bytes()].concat()
}
