//! Own whistles, steps and calls of desks that come back after a restore.
//!
//! Promises that a case is again where the own statements and those of the other side bring it,
//! each applied once, whichever comes first: an own one that cannot follow yet waits for what is
//! missing before it.

use super::{FORMAT, join, put, row};
use crate::{
    domain::{
        epoch::Number,
        escalation::{Actor, Case, Step, Taken},
        unit::DeskId,
    },
    services::{
        escalations::Escalations,
        intake::Plan,
        unit::{Draft, Work},
    },
    statement::{
        escalation::{EventBody, decode_event},
        header::{self, Statement, StatementId, kinds},
        sealed::decode_grant,
    },
    store::{self, Batch, Table},
};

/// What this unit did in a case, by one of its own statements.
#[derive(Clone, Debug)]
enum Act {
    Stepped(Taken),
    Called { desk: DeskId, succeeds: Option<DeskId> },
}

/// An own statement that waits for what comes before it.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    key: Vec<u8>,
    act: Act,
}

impl Waiting {
    /// True if it says how the whistle began here: then that is not decided again.
    pub(super) fn begins(&self) -> bool {
        match &self.act {
            Act::Stepped(taken) => matches!(taken.step, Step::Routed | Step::Returned),
            Act::Called { .. } => false,
        }
    }
}

fn key(id: StatementId, number: Number) -> Vec<u8> {
    let mut key = id.as_bytes().to_vec();
    key.extend_from_slice(&number.epoch.to_be_bytes());
    key.extend_from_slice(&number.seq.to_be_bytes());
    key
}

impl Escalations {
    /// Puts the case of an own whistle as it was raised; its steps follow.
    pub(in crate::services) fn replay(&self, batch: &mut Batch, statement: &Statement) {
        let header = &statement.header;
        let escalation = self.open(statement, &[]).ok().flatten();
        let Some((escalation, destination)) = escalation.zip(header.destination.clone()) else {
            tracing::warn!(unit = %self.unit.code, id = %header.id, "a returned whistle cannot be read");
            return;
        };
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
        let (table, key, value) = row(header.id, &case);
        batch.require_absent(table, key.clone());
        batch.put(table, key, value);
    }

    /// Applies an own step or call of a desk, or keeps it until it can follow.
    ///
    /// # Errors
    ///
    /// The store's.
    pub(in crate::services) async fn replay_act(
        &self,
        work: &mut Work,
        statement: &Statement,
    ) -> Result<(), store::Error> {
        let header = &statement.header;
        let Some((id, act)) = self.act(statement) else {
            tracing::warn!(unit = %self.unit.code, id = %header.id, "a returned step cannot be read");
            return Ok(());
        };
        let number = Number { epoch: header.epoch, seq: header.seq };
        let own = Waiting { key: key(id, number), act };
        let held = self.unit.store.get(&self.unit.code, Table::Escalations, id.as_bytes()).await?;
        let mut waits = true;
        match self.case(id).await?.zip(held) {
            Some((mut case, held)) => {
                waits = !self.apply(&mut case, &own.act);
                work.batch.require(Table::Escalations, *id.as_bytes(), held);
                put(work, id, &case);
            }
            None => work.batch.require_absent(Table::Escalations, *id.as_bytes()),
        }
        if waits {
            let value = [&[FORMAT][..], header.id.as_bytes()].concat();
            work.batch.put(Table::OwnSteps, own.key, value);
        }
        Ok(())
    }

    /// An own step once more, for another number.
    ///
    /// # Errors
    ///
    /// The store's.
    pub(in crate::services) async fn again(
        &self,
        statement: &Statement,
    ) -> Result<Option<Draft>, store::Error> {
        let Some((id, Act::Stepped(taken))) = self.act(statement) else { return Ok(None) };
        let Some(case) = self.case(id).await? else { return Ok(None) };
        let Taken { step, desk, note, .. } = taken;
        let event = EventBody { escalation_id: *id.as_bytes(), step, desk: desk.clone(), note };
        let own = self.side(&case, &self.unit.code).clone();
        let mut draft = self.event_draft(&event, id, &case, &own);
        draft.desk = desk;
        Ok(Some(draft))
    }

    /// What an own statement did, and in which case; `None` if this unit cannot read it.
    fn act(&self, statement: &Statement) -> Option<(StatementId, Act)> {
        let header = &statement.header;
        if header.kind == kinds::KEY_GRANT {
            let grant = decode_grant(&statement.body).ok()?;
            let act = Act::Called { desk: grant.desk?, succeeds: grant.succeeds };
            return Some((grant.statement_id, act));
        }
        let body = self.unit.read(statement, &[]).ok().flatten()?;
        let EventBody { escalation_id, step, desk, note } = decode_event(&body).ok()?;
        let (unit, time_unix_ms) = (header.source.clone(), header.time_unix_ms);
        let act = Act::Stepped(Taken { step, unit, desk, note, time_unix_ms });
        Some((StatementId::try_from(&escalation_id[..]).ok()?, act))
    }

    /// True if it follows, and was applied.
    fn apply(&self, case: &mut Case, act: &Act) -> bool {
        let own = &self.unit.code;
        match act {
            Act::Stepped(taken) => {
                let actor = Actor { unit: own, desk: taken.desk.as_ref() };
                let follows = case.check_step(taken.step, actor).is_ok();
                if follows {
                    case.history.push(taken.clone());
                }
                follows
            }
            Act::Called { desk, succeeds } => {
                let checked = match succeeds {
                    Some(former) => case.check_succeed(former, desk, own),
                    None => case.check_add(desk, own),
                };
                if checked.is_ok() {
                    join(case, desk, succeeds.as_ref());
                }
                checked.is_ok()
            }
        }
    }

    /// Own statements about a case that wait, in the order of their numbers.
    pub(super) async fn waiting(&self, id: StatementId) -> Result<Vec<Waiting>, store::Error> {
        let damaged = || store::Error::Engine("a row of a returned step is damaged".to_owned());
        let (store, own) = (&self.unit.store, &self.unit.code);
        let mut waiting = Vec::new();
        for (key, value) in store.scan(own, Table::OwnSteps, id.as_bytes(), None, 1_000).await? {
            let [FORMAT, id @ ..] = &value[..] else { return Err(damaged()) };
            let id = StatementId::try_from(id).map_err(|_| damaged())?;
            let envelope = self.unit.statement(id).await?.ok_or_else(damaged)?;
            let statement = header::decode(&envelope.payload).map_err(|_| damaged())?;
            waiting.extend(self.act(&statement).map(|(_, act)| Waiting { key, act }));
        }
        Ok(waiting)
    }

    /// Applies those that follow now; the others go on waiting.
    pub(super) fn catch_up(&self, case: &mut Case, waiting: Vec<Waiting>, plan: &mut Plan) {
        for own in waiting {
            if self.apply(case, &own.act) {
                plan.deletes.push((Table::OwnSteps, own.key));
            }
        }
    }
}
