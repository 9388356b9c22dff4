//! Notices on their way down, and receipts on their way back to the issuer.
//!
//! The receiving unit decides admission. A relay forwards the envelope as it was signed and keeps
//! the receipts that pass, so that it can show its subtree.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tracing::Instrument as _;

use super::{
    catalogues::Catalogues,
    error::{ErrorKind, ServiceError},
    exchange::Lane,
    intake::{Arrived, Plan, Refused, Reply, Undecided},
    unit::{self, Draft, Unit},
};
use crate::{
    clock::UnixMillis,
    domain::{
        notice::{self, Notice, Receipt, Route, RouteChild, Stage, admit, route},
        personal,
        unit::UnitCode,
    },
    statement::{
        header::{self, StatementId, kinds},
        notice::{decode_body, decode_receipt, encode_body, encode_receipt},
    },
    store::{self, Table, format},
    telemetry,
};

const FORMAT: u8 = 1;

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
        level: crate::domain::unit::Level,
        /// Destination.
        destination: UnitCode,
    },
    /// No such notice here.
    #[error("no notice {0} is held here")]
    NotFound(StatementId),
    /// The notice is not this unit's to act on.
    #[error("the notice is not addressed to this unit")]
    NotAddressed,
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
            | Self::NotAddressed => ErrorKind::FailedPrecondition,
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
    /// What it says.
    pub notice: Notice,
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
        let issued_to = self.addressed(destination, notice).len();
        if issued_to == 0 {
            let (level, destination) = (notice.level, destination.clone());
            return Err(Error::NobodyAddressed { level, destination });
        }
        let mut draft = Draft::new(kinds::NOTICE, notice.number.clone(), encode_body(notice));
        draft.destination = Some(destination.clone());
        draft.exercise = exercise;
        draft.dataschema = self.catalogues.label();
        let route = self.route(destination, notice);
        let mut work = self.unit.begin().await;
        let signed = work.sign(&draft)?;
        for child in &route.children {
            work.enqueue(child, Lane::Notice, signed.id);
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

    fn route(&self, destination: &UnitCode, notice: &Notice) -> Route {
        let trust = self.unit.trust();
        let in_destination = trust.is_in_subtree(&self.unit.code, destination);
        let children = trust.children(&self.unit.code).into_iter().filter_map(|unit| {
            Some(RouteChild {
                unit: unit.clone(),
                level: trust.delegation(unit, None)?.delegation.level,
                holds_destination: trust.is_in_subtree(destination, unit),
            })
        });
        route(self.unit.level, in_destination, notice.level, children)
    }

    /// Units of the notice's level under the destination and under this unit.
    fn addressed(&self, destination: &UnitCode, notice: &Notice) -> Vec<(UnitCode, String)> {
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
            .filter(|delegation| delegation.desk.is_none() && delegation.level == notice.level)
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
    ///
    /// # Errors
    ///
    /// [`Undecided::Refused`] for one that does not hold.
    pub fn take(&self, arrived: &Arrived) -> Result<Plan, Undecided> {
        if arrived.from_child {
            let detail = "a notice comes from above";
            return Err(Refused::new("wrong-source", "header.source", detail).into());
        }
        let notice = decode_body(&arrived.statement.body)?;
        let header = &arrived.statement.header;
        let destination = header
            .destination
            .as_ref()
            .ok_or_else(|| Refused::new("malformed", "header.destination", "is missing"))?;
        let route = self.route(destination, &notice);
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
        if route.addressed
            && let Some(parent) = &self.unit.parent
        {
            let receipt = self.decide(arrived.id(), &notice);
            let row = ReceiptRow {
                stage: receipt.stage as u8,
                reason: receipt.reason.clone(),
                note: String::new(),
                time_unix_ms: self.unit.clock.now_unix_ms(),
            };
            let key = receipt_key(arrived.id(), &self.unit.code);
            plan.writes.push((Table::Receipts, key, format::write(FORMAT, &row)));
            let draft = receipt_draft(&receipt, &header.source, arrived.id(), header.exercise);
            plan.replies.push(Reply { draft, to: parent.clone(), lane: Lane::Notice });
        }
        Ok(plan)
    }

    /// Plans what a receipt from below does: the furthest stage is kept, and it goes on to the issuer.
    ///
    /// # Errors
    ///
    /// [`Undecided::Refused`] for one that does not hold.
    pub async fn take_receipt(&self, arrived: &Arrived) -> Result<Plan, Undecided> {
        if !arrived.from_child || arrived.desk.is_some() {
            let detail = "a receipt comes from a unit below";
            return Err(Refused::new("wrong-source", "header.source", detail).into());
        }
        let receipt = decode_receipt(&arrived.statement.body)?;
        let notice_id = StatementId::try_from(&receipt.notice_id[..])
            .map_err(|_| Refused::new("malformed", "body.notice_id", "is no id"))?;
        let mut plan = Plan::default();
        let key = receipt_key(notice_id, arrived.source());
        let before = self.receipt(&key).await?;
        if receipt.stage.supersedes(before.and_then(|row| row.stage())) {
            let row = ReceiptRow {
                stage: receipt.stage as u8,
                reason: receipt.reason,
                note: receipt.note,
                time_unix_ms: arrived.statement.header.time_unix_ms,
            };
            plan.writes.push((Table::Receipts, key, format::write(FORMAT, &row)));
        }
        let to_self = arrived.statement.header.destination.as_ref() == Some(&self.unit.code);
        if !to_self && let Some(parent) = &self.unit.parent {
            plan.relay.push(parent.clone());
        }
        Ok(plan)
    }

    async fn receipt(&self, key: &[u8]) -> Result<Option<ReceiptRow>, store::Error> {
        let row = self.unit.store.get(&self.unit.code, Table::Receipts, key).await?;
        row.map(|row| format::read(FORMAT, &row)).transpose()
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
    pub async fn mark(&self, id: StatementId, stage: Stage, note: &str) -> Result<State, Error> {
        let span = tracing::info_span!("notice.mark", unit = %self.unit.code, ?stage);
        telemetry::set_parent_from(&self.unit.traceparent_of(id).await?, &span);
        self.mark_traced(id, stage, note).instrument(span).await
    }

    async fn mark_traced(&self, id: StatementId, stage: Stage, note: &str) -> Result<State, Error> {
        let row = self.row(id).await?;
        if !row.addressed {
            return Err(Error::NotAddressed);
        }
        if note.len() > 1_024 {
            let error = notice::Error::Length { field: "note", length: note.len(), limit: 1_024 };
            return Err(error.into());
        }
        if let Some(what) = personal::find(note) {
            return Err(notice::Error::PersonalData { field: "note", what }.into());
        }
        let key = receipt_key(id, &self.unit.code);
        let mut work = self.unit.begin().await;
        // Read after `begin`: two marks at once follow each other.
        let before = self.receipt(&key).await?;
        stage.check_follows(before.and_then(|row| row.stage()))?;
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
        work.batch.put(Table::Receipts, key, format::write(FORMAT, &new));
        let signed = work.sign(&receipt_draft(&receipt, &row.issuer, id, row.exercise))?;
        if let Some(parent) = &self.unit.parent
            && row.issuer != self.unit.code
        {
            work.enqueue(parent, Lane::Notice, signed.id);
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
        let damaged = |error: header::Malformed| {
            store::Error::Engine(format!("a stored notice cannot be read: {error}"))
        };
        let statement = header::decode(&envelope.payload).map_err(damaged)?;
        let notice = decode_body(&statement.body).map_err(damaged)?;
        let mut recipients = Vec::new();
        for (unit, title) in self.addressed(&row.destination, &notice) {
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
            notice,
            issued_unix_ms: row.issued_unix_ms,
            exercise: row.exercise,
            recipients,
        })
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

fn receipt_draft(
    receipt: &Receipt,
    issuer: &UnitCode,
    notice_id: StatementId,
    exercise: bool,
) -> Draft {
    let mut draft = Draft::new(kinds::RECEIPT, notice_id.to_string(), encode_receipt(receipt));
    draft.destination = Some(issuer.clone());
    draft.exercise = exercise;
    draft
}

fn receipt_key(notice: StatementId, unit: &UnitCode) -> Vec<u8> {
    [notice.as_bytes().as_slice(), unit.as_str().as_bytes()].concat()
}
