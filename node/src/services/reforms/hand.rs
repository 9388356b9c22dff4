//! What a unit that merges has open goes to its successor, item by item, and how that takes it in.
//!
//! Promises that a stop in between loses nothing and an item that comes twice is there once, and
//! that nobody but the successor reads what is handed over.

use std::sync::Arc;

use super::{Error, Reforms, draft, key, row::Row};
use crate::{
    domain::{
        journal::{self, Act, Actor, Leaf},
        reform::StepKind,
    },
    services::{
        escalations,
        exchange::Lane,
        hosted::Hosted,
        intake::{Arrived, Plan, Refused, Undecided},
        journal::encode_shown,
        notices,
        unit::{Given, Seal},
    },
    statement::{
        handed::Handed,
        header::{StatementId, kinds},
        journal::Evidence,
        reform::Step,
    },
    store::{self, Table},
};

/// Items that one commit signs.
const PER_COMMIT: usize = 20;

/// Keys that one step hands over.
const KEYS_PER_STEP: usize = 128;

/// Reports that one step shows the evidence of.
const SHOWN_PER_STEP: usize = 8;

impl Reforms {
    /// Hands everything to the successor that is open here: its figures are reported a last time,
    /// then come the keys to read with, then the items.
    ///
    /// # Errors
    ///
    /// What kept an item from being read; the store's. Given again, it begins anew.
    pub async fn hand_over(&self, hosted: &Hosted, id: StatementId) -> Result<(), Error> {
        hosted.summaries.report_all().await?;
        let mut steps = Vec::new();
        for keys in self.unit.readers_for_heir().chunks(KEYS_PER_STEP) {
            let agreement_keys = keys.to_vec();
            steps.push(Step { agreement_keys, ..Step::new(id, StepKind::Handed) });
        }
        let mut items = hosted.escalations.to_hand_over().await?;
        items.extend(hosted.notices.to_hand_over().await?);
        let item = |item| Step { handed: Some(item), ..Step::new(id, StepKind::Handed) };
        steps.extend(items.into_iter().map(item));
        let (row, _) = self.stored(id).await?.ok_or(Error::NotFound(id))?;
        let mut last = None;
        for chunk in steps.chunks(PER_COMMIT) {
            let mut work = self.unit.begin().await;
            for step in chunk {
                let mut draft = draft(&row.to, step);
                let readers = self.unit.readers([(&row.to, None)]);
                draft.seal = Some(Seal { readers, outline: None });
                let signed = work.sign(&draft)?;
                work.enqueue(&row.to, Lane::Summary, signed.id);
                last = Some(signed.id);
            }
            work.commit().await?;
        }
        let mut work = self.unit.begin().await;
        let (mut row, stored) = self.stored(id).await?.ok_or(Error::NotFound(id))?;
        row.handed = last.map(|id| id.to_string());
        let subject = format!("{} to {}", row.unit, row.to);
        work.journal(&Leaf::Act(Act::done(Actor::node(), "unit.hand-over", subject)));
        work.batch.require(Table::Reforms, key(id), stored);
        work.batch.put(Table::Reforms, key(id), row.encode());
        work.commit().await?;
        self.wake();
        Ok(())
    }

    /// Shows the successor and the old parent, which have the unit's reports, that these were there
    /// before it ended: its journal says so, which the successor has cosigned up to there.
    pub(super) async fn show_reports(
        &self,
        hosted: &Hosted,
        (id, row): (StatementId, &Row),
    ) -> Result<(), Error> {
        let mut shown = Vec::new();
        for statement in hosted.summaries.newest_reports().await? {
            let evidence = hosted.journal.evidence_of(statement).await?;
            shown.extend(evidence.map(|evidence| (statement, evidence)));
        }
        for chunk in shown.chunks(SHOWN_PER_STEP) {
            let step = Step { shown: chunk.to_vec(), ..Step::new(id, StepKind::Handed) };
            let mut work = self.unit.begin().await;
            for party in [&row.to, &row.from] {
                self.send(&mut work, party, &step)?;
            }
            work.commit().await?;
        }
        let (mut row, stored) = self.stored(id).await?.ok_or(Error::NotFound(id))?;
        row.shown = true;
        self.replace(id, &row, stored).await
    }

    /// Keeps the evidence that a unit gives which ends, of what is here of it. One that shows nothing
    /// is passed over.
    async fn take_shown(
        &self,
        plan: &mut Plan,
        shown: &[(StatementId, Evidence)],
    ) -> Result<(), store::Error> {
        let now = self.unit.clock.now_unix_ms();
        for (id, evidence) in shown {
            let Some(envelope) = self.unit.statement(*id).await? else { continue };
            if self.unit.trust().witnessed_at(&envelope, evidence, now).is_some() {
                let row = encode_shown(evidence);
                plan.writes.push((Table::Shown, id.as_bytes().to_vec(), row));
            }
        }
        Ok(())
    }

    /// Plans what an item of a unit that merges into this one does, or the keys that come first.
    pub(super) async fn take_handed(
        &self,
        plan: &mut Plan,
        arrived: &Arrived,
        (row, step): (&Row, &Step),
    ) -> Result<(), Undecided> {
        let own = &self.unit.code;
        let is_of_it = row.merge && row.unit == *arrived.source();
        if is_of_it && (row.to == *own || row.from == *own) {
            self.take_shown(plan, &step.shown).await?;
        }
        let gives = !step.agreement_keys.is_empty() || step.handed.is_some();
        if !is_of_it || (gives && row.to != *own) {
            let detail = "only a unit that merges into this one hands something over";
            return Err(Refused::new("wrong-source", "body.kind", detail).into());
        }
        if !step.agreement_keys.is_empty() {
            plan.writes.push((Table::Inherited, arrived.id().as_bytes().to_vec(), vec![1]));
        }
        match &step.handed {
            Some(handed) => self.take_item(plan, arrived, handed).await,
            None => Ok(()),
        }
    }

    pub(super) async fn take_item(
        &self,
        plan: &mut Plan,
        arrived: &Arrived,
        handed: &Handed,
    ) -> Result<(), Undecided> {
        let now = self.unit.clock.now_unix_ms();
        // The unit had it while its signer's key was good: that is what it says by handing it over.
        let opened = {
            let trust = self.unit.trust();
            trust.open_witnessed(&handed.statement, now, Some(i64::MIN)).map_err(|error| {
                let field = format!("body.handed.statement.{}", error.field());
                Refused::new(error.reason(), &field, error.to_string())
            })?
        };
        let header = &opened.statement.header;
        let rows = match header.kind.as_str() {
            kinds::NOTICE => notices::handed_rows(&self.unit, header, &handed.receipts).await?,
            kinds::ESCALATION => {
                let (before, row) = escalations::handed_row(&self.unit, header, handed).await?;
                let key = |row| (Table::Escalations, header.id.as_bytes().to_vec(), row);
                plan.requires.extend(before.map(key));
                vec![row]
            }
            _ => {
                let detail = "is neither a notice nor an escalation";
                return Err(Refused::new("malformed", "body.handed.statement", detail).into());
            }
        };
        plan.writes.extend(rows);
        if !handed.given.is_empty() {
            let given = Given {
                by: arrived.source().clone(),
                to: (arrived.source().clone(), None),
                time_unix_ms: arrived.statement.header.time_unix_ms,
                keys: handed.given.clone(),
            };
            plan.writes.push(given.row(header.id, arrived.id()));
        }
        if self.unit.statement(header.id).await?.is_none() {
            let named = journal::Statement {
                id: *header.id.as_bytes(),
                kind: header.kind.clone(),
                source: header.source.clone(),
                payload_sha256: opened.payload_sha256,
            };
            plan.inside = Some((handed.statement.clone(), named));
        }
        Ok(())
    }

    /// Takes in, at the successor, what still waited for a unit that has ended.
    ///
    /// # Errors
    ///
    /// The store's; what was taken in before stays so.
    pub async fn inherit(
        &self,
        hosted: &Arc<Hosted>,
        unit: &crate::domain::unit::UnitCode,
    ) -> Result<(), Error> {
        for lane in [Lane::Escalation, Lane::Notice] {
            loop {
                let waiting = self.unit.outgoing(unit, lane, 0, PER_COMMIT).await?;
                if waiting.is_empty() {
                    break;
                }
                for departure in waiting {
                    hosted.inherit(unit, departure).await?;
                }
            }
        }
        Ok(self.unit.forget_outbox(unit).await?)
    }
}
