//! Keys of sealed bodies for readers that come later: given by one that reads, on the record.
//!
//! A grant is a signed statement. Giver and receiver keep who gave what to whom and when; units in
//! between pass it on and can use nothing of it.

use std::sync::Arc;

use super::{
    error::{ErrorKind, ServiceError},
    escalations::Escalations,
    exchange::Lane,
    intake::{Arrived, Plan, Refused, Undecided},
    notices::Notices,
    unit::{self, Draft, Given, Unit, Work},
};
use crate::{
    domain::{journal, unit::UnitCode},
    identity::trust::{Opened, Subject},
    statement::{
        Envelope,
        header::{self, Statement, StatementId, kinds},
        sealed::{KeyGrant, SealedKey, decode_grant, encode_grant},
    },
    store::{self, Batch},
};

/// Why a body was not shared.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing that can be shared.
    #[error("no notice or escalation {0} is held here")]
    NotFound(StatementId),
    /// This unit cannot read it either.
    #[error("the body is sealed for others: only a unit that reads it can share it")]
    NotAReader,
    /// Neither above nor below.
    #[error("unit {0} is neither above nor below this unit: let a unit above both share it")]
    OutOfReach(UnitCode),
    /// Nothing can be sealed to it.
    #[error("unit {0} was revoked or has no agreement key: it must join again with new keys")]
    NoKey(UnitCode),
    /// It reads already.
    #[error("unit {0} has the key already")]
    Reads(UnitCode),
    /// The statement could not be made.
    #[error("cannot sign")]
    Unit(#[from] unit::Error),
    /// The store failed.
    #[error("cannot store the grant")]
    Store(#[from] store::Error),
}

impl ServiceError for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound(_) => ErrorKind::NotFound,
            Self::NotAReader | Self::OutOfReach(_) | Self::NoKey(_) => {
                ErrorKind::FailedPrecondition
            }
            Self::Reads(_) => ErrorKind::AlreadyExists,
            Self::Unit(unit::Error::Store(error)) | Self::Store(error) => error.kind(),
            Self::Unit(unit::Error::TooLarge(_)) => ErrorKind::InvalidArgument,
            Self::Unit(unit::Error::NoDesk(_) | unit::Error::Seal(_)) => ErrorKind::Internal,
        }
    }
}

/// Grants of one unit.
#[derive(Debug)]
pub struct Grants {
    unit: Arc<Unit>,
    notices: Arc<Notices>,
    escalations: Arc<Escalations>,
}

impl Grants {
    /// Grants of `unit`.
    pub fn new(unit: Arc<Unit>, notices: Arc<Notices>, escalations: Arc<Escalations>) -> Self {
        Self { unit, notices, escalations }
    }

    /// Gives the body of a notice or escalation to a unit above or below, with the statement itself
    /// in case it never got it. `dry_run`: says what would not hold, and changes nothing.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::NotAReader`], [`Error::OutOfReach`], [`Error::Reads`].
    #[tracing::instrument(name = "grant.share", skip_all, fields(unit = %self.unit.code, %to))]
    pub async fn share(&self, id: StatementId, to: &UnitCode, dry_run: bool) -> Result<(), Error> {
        self.unit.continue_trace(id).await?;
        let envelope = self.unit.statement(id).await?.ok_or(Error::NotFound(id))?;
        let statement = decode(&envelope)?;
        let lane = lane_of(&statement).ok_or(Error::NotFound(id))?;
        let hop = self.way_to(to)?;
        let mut work = self.unit.begin().await;
        // Read after `begin`: two at once follow each other.
        if self.unit.given(id).await?.iter().any(|given| given.to == (to.clone(), None)) {
            return Err(Error::Reads(to.clone()));
        }
        let reader = (to.clone(), None);
        let key = self.unit.seal_kept(id, &reader).await?.ok_or(Error::NotAReader)?;
        if dry_run {
            return Ok(());
        }
        let grant = KeyGrant {
            statement_id: id,
            recipients: vec![key],
            statement: Some(envelope),
            desk: None,
            succeeds: None,
        };
        let signed = work.sign(&grant_draft(&grant, to.clone(), statement.header.exercise))?;
        work.enqueue(&hop, lane, signed.id);
        let (by, time_unix_ms) = (self.unit.code.clone(), signed.time_unix_ms);
        let given = Given { by, to: reader, time_unix_ms, keys: Vec::new() };
        let (table, key, value) = given.row(id, signed.id);
        work.batch.put(table, key, value);
        work.commit().await?;
        Ok(())
    }

    fn way_to(&self, to: &UnitCode) -> Result<UnitCode, Error> {
        let own = &self.unit.code;
        if to == own {
            return Err(Error::Reads(to.clone()));
        }
        let is_in_line = {
            let trust = self.unit.trust();
            if trust.delegation(to, None).is_some() && trust.reader(to, None).is_none() {
                return Err(Error::NoKey(to.clone()));
            }
            trust.is_in_subtree(to, own) || trust.is_in_subtree(own, to)
        };
        let hop = if is_in_line { self.unit.hop_to(to) } else { None };
        hop.ok_or_else(|| Error::OutOfReach(to.clone()))
    }

    /// Plans what a grant does: it goes on towards its readers, and a key for this unit is kept once
    /// it has proved to be the one that the statement commits to.
    ///
    /// # Errors
    ///
    /// [`Undecided::Refused`] for one that does not hold.
    pub async fn take(&self, arrived: &Arrived) -> Result<Plan, Undecided> {
        if arrived.desk.is_some() {
            let detail = "a unit gives keys, not a desk";
            return Err(Refused::new("wrong-source", "header.source", detail).into());
        }
        let grant = decode_grant(&arrived.statement.body)?;
        let destination = arrived.statement.header.destination.as_ref();
        match destination {
            Some(unit) if !self.unit.is_own(unit) => {
                let hop = self.unit.next_hop(unit, arrived.from_child)?;
                return Ok(Plan { relay: vec![hop], ..Plan::default() });
            }
            None if arrived.from_child => {
                let detail = "is missing: keys for many go down alone";
                return Err(Refused::new("malformed", "header.destination", detail).into());
            }
            Some(_) | None => {}
        }
        let (hops, is_reader) = self.spread(&grant.recipients);
        if destination.is_some() || is_reader {
            let mut plan = self.accept(arrived, &grant).await?;
            plan.relay = if destination.is_none() { hops } else { Vec::new() };
            return Ok(plan);
        }
        if hops.is_empty() {
            let detail = "no key is that of a unit below";
            return Err(Refused::new("unknown-key", "body.recipients", detail).into());
        }
        Ok(Plan { relay: hops, ..Plan::default() })
    }

    /// Children on the way to the holders of the keys, and whether this unit is one of those.
    fn spread(&self, keys: &[SealedKey]) -> (Vec<UnitCode>, bool) {
        let holders: Vec<_> = {
            let trust = self.unit.trust();
            let holders = keys.iter().filter_map(|key| trust.reader_of(&key.key_id));
            holders.map(|(unit, _)| unit.clone()).collect()
        };
        let is_reader = holders.contains(&self.unit.code);
        let mut hops: Vec<_> =
            holders.iter().filter_map(|unit| self.unit.child_above(unit)).collect();
        hops.sort();
        hops.dedup();
        (hops, is_reader)
    }

    async fn accept(&self, arrived: &Arrived, grant: &KeyGrant) -> Result<Plan, Undecided> {
        let id = grant.statement_id;
        let keys = self.unit.own_keys(&grant.recipients);
        if keys.is_empty() && grant.desk.is_none() {
            let detail = "no key is for this unit";
            return Err(Refused::new("unknown-key", "body.recipients", detail).into());
        }
        // The statement may still be on its way to the store: an empty batch waits for it.
        self.unit.store.submit(Batch::new(&self.unit.code)).await?;
        let held = self.unit.statement(id).await?;
        let mut plan = match (&held, &grant.statement) {
            (Some(held), _) => self.open_held(arrived, grant, &decode(held)?, &keys).await?,
            (None, Some(inside)) => self.take_inside(arrived, id, inside, &keys).await?,
            (None, None) if grant.desk.is_some() => {
                let detail = "no such escalation is held here";
                return Err(Refused::new("malformed", "body.statement_id", detail).into());
            }
            // The statement comes another way, and may be slower.
            (None, None) => Plan::default(),
        };
        let given = Given {
            by: arrived.source().clone(),
            to: self.reader_of(grant, &keys),
            time_unix_ms: arrived.statement.header.time_unix_ms,
            keys,
        };
        plan.writes.push(given.row(id, arrived.id()));
        Ok(plan)
    }

    /// Who reads by this grant, as far as this unit can tell.
    fn reader_of(&self, grant: &KeyGrant, keys: &[SealedKey]) -> Subject {
        let named = if keys.is_empty() { &grant.recipients } else { keys };
        let holder = {
            let trust = self.unit.trust();
            named.first().and_then(|key| trust.reader_of(&key.key_id)).cloned()
        };
        let (unit, desk) = holder.unwrap_or_else(|| (self.unit.code.clone(), None));
        (unit, grant.desk.clone().or(desk))
    }

    /// Keeps again what an own grant gave, which came back after a restore.
    ///
    /// # Errors
    ///
    /// The store's.
    pub(super) async fn replay(
        &self,
        work: &mut Work,
        statement: &Statement,
    ) -> Result<(), store::Error> {
        let Ok(grant) = decode_grant(&statement.body) else { return Ok(()) };
        let header = &statement.header;
        // Of keys for many the giver keeps no list.
        if header.destination.is_some() {
            let keys = self.unit.own_keys(&grant.recipients);
            let to = self.reader_of(&grant, &keys);
            let (by, time_unix_ms) = (self.unit.code.clone(), header.time_unix_ms);
            let given = Given { by, to, time_unix_ms, keys };
            let (table, key, value) = given.row(grant.statement_id, header.id);
            work.batch.put(table, key, value);
        }
        if grant.desk.is_some() {
            self.escalations.replay_act(work, statement).await?;
        }
        Ok(())
    }

    async fn open_held(
        &self,
        arrived: &Arrived,
        grant: &KeyGrant,
        statement: &Statement,
        keys: &[SealedKey],
    ) -> Result<Plan, Undecided> {
        self.check_keys(statement, keys)?;
        match statement.header.kind.as_str() {
            kinds::NOTICE => self.notices.take_key(statement, keys).await,
            kinds::ESCALATION => self.escalations.take_desk(arrived, grant).await,
            _ => Err(no_such_kind().into()),
        }
    }

    /// Takes in a statement that never came to this unit by itself.
    async fn take_inside(
        &self,
        arrived: &Arrived,
        id: StatementId,
        envelope: &Envelope,
        keys: &[SealedKey],
    ) -> Result<Plan, Undecided> {
        let Opened { statement, signer, payload_sha256 } =
            self.unit.trust().open(envelope, self.unit.clock.now_unix_ms()).map_err(|error| {
                let field = format!("body.statement.{}", error.field());
                Refused::new(error.reason(), &field, error.to_string())
            })?;
        if statement.header.id != id {
            let detail = "is not the one that the grant names";
            return Err(Refused::new("malformed", "body.statement", detail).into());
        }
        self.check_keys(&statement, keys)?;
        let named = journal::Statement {
            id: *id.as_bytes(),
            kind: statement.header.kind.clone(),
            source: statement.header.source.clone(),
            payload_sha256,
        };
        let from_child = {
            let (trust, source) = (self.unit.trust(), &statement.header.source);
            if *source == self.unit.code || trust.is_in_subtree(&self.unit.code, source) {
                false
            } else if trust.is_in_subtree(source, &self.unit.code) {
                true
            } else {
                let detail = format!("{source} is neither above nor below this unit");
                return Err(Refused::new("wrong-source", "body.statement", detail).into());
            }
        };
        let mut plan = match (statement.header.kind.as_str(), from_child) {
            (kinds::NOTICE, false) => {
                let inside = Arrived {
                    peer: arrived.peer.clone(),
                    from_child,
                    envelope: envelope.clone(),
                    statement,
                    desk: signer.1,
                    payload_sha256,
                    cells: Vec::new(),
                };
                self.notices.take(&inside, keys).await?
            }
            (kinds::ESCALATION, true) => self.escalations.take_shared(&statement, keys)?,
            _ => return Err(no_such_kind().into()),
        };
        // It was given to this unit, not to those below.
        plan.relay = Vec::new();
        plan.inside = Some((envelope.clone(), named));
        Ok(plan)
    }

    fn check_keys(&self, statement: &Statement, keys: &[SealedKey]) -> Result<(), Refused> {
        for key in keys {
            self.unit
                .try_keys(statement, std::slice::from_ref(key))
                .map_err(|error| Refused::new("bad-seal", "body.recipients", error.to_string()))?;
        }
        Ok(())
    }
}

/// A grant for one unit.
pub(super) fn grant_draft(grant: &KeyGrant, to: UnitCode, exercise: bool) -> Draft {
    let id = grant.statement_id.to_string();
    let mut draft = Draft::new(kinds::KEY_GRANT, id, encode_grant(grant));
    draft.destination = Some(to);
    draft.exercise = exercise;
    draft
}

fn lane_of(statement: &Statement) -> Option<Lane> {
    match statement.header.kind.as_str() {
        kinds::NOTICE => Some(Lane::Notice),
        kinds::ESCALATION => Some(Lane::Escalation),
        _ => None,
    }
}

fn no_such_kind() -> Refused {
    Refused::new("malformed", "body.statement_id", "is of nothing that this unit can be given")
}

fn decode(envelope: &Envelope) -> Result<Statement, store::Error> {
    header::decode(&envelope.payload).map_err(|error| {
        store::Error::Engine(format!("a stored statement cannot be read: {error}"))
    })
}
