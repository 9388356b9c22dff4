//! What is due of a reform at one unit, and doing it. Each act can be repeated until its commit.

use std::sync::Arc;

use super::{Error, Reforms, key, row::Row};
use crate::{
    clock::UnixMillis,
    domain::{
        journal::{Act, Actor, Leaf},
        reform::{Count, Item, Order, StepKind},
        unit::UnitCode,
    },
    services::{
        exchange::{Lane, Refusal},
        hosted::Hosted,
        leaving,
        unit::{Work, decode_envelope},
    },
    statement::{
        Envelope,
        header::{self, StatementId},
        reform::{MAX_ITEMS, MAX_RETURNED_BYTES, Step, decode_body, returned_bytes},
    },
    store::{self, Table},
};

/// How long after the day the new parent's invitation is good.
pub(super) const TOKEN_OUTLIVES_MS: i64 = 30 * 24 * 60 * 60 * 1000;

/// Most statements that one step returns.
const MAX_RETURNED: usize = 100;

/// Summaries that are sent anew in one commit.
const PER_COMMIT: usize = 50;

/// A unit that is to go under its new parent.
#[derive(Clone)]
pub struct Moving {
    /// The order.
    pub id: StatementId,
    /// Parent so far.
    pub from: UnitCode,
    /// New parent.
    pub to: UnitCode,
    /// Its invitation: a secret, which no log may hold.
    pub token: String,
}

impl std::fmt::Debug for Moving {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { id, from, to, token: _ } = self;
        write!(formatter, "Moving {{ id: {id}, from: {from}, to: {to} }}")
    }
}

/// What is due.
#[derive(Clone, Debug)]
pub enum Due {
    /// The unit has to say what is concerned here; the new parent of an order, with an invitation.
    Answer {
        /// The order or question.
        id: StatementId,
        /// Unit that moves.
        unit: UnitCode,
        /// The order, where an invitation is to be made.
        invites: bool,
    },
    /// The day has come.
    Move(Moving),
    /// The unit that moved has to send again what it had reported.
    Resubmit(StatementId),
    /// The old parent has to let the unit go.
    Release(StatementId),
    /// The new parent has to add up what it had held back.
    AddUp(StatementId),
    /// Statements that the old parent returned wait to be taken in.
    TakeReturned,
    /// A child of a unit that merges into this one has to come under this one.
    TakeOver {
        /// The child.
        child: UnitCode,
    },
    /// The unit that merges has to hand over what it has open.
    HandOver(StatementId),
    /// The unit that merges has to say its last word.
    End(StatementId),
    /// The unit has another grant than its new parent knows: its keys were replaced.
    Introduce(StatementId),
    /// What still waited for a unit that merged into this one has to be taken in.
    Inherit(UnitCode),
    /// Each child of a unit that is divided has been invited: all have to be told.
    Settle(StatementId),
    /// The day of a division has come: what it names has to go to the sibling.
    HandParts(StatementId),
    /// What went to the sibling may have moved on here.
    HandOn(StatementId),
}

impl Reforms {
    /// What is due at `now`.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn due(&self, now: UnixMillis) -> Result<Vec<Due>, Error> {
        let own = &self.unit.code;
        let mut due = Vec::new();
        let rows = self.rows().await?;
        for (id, row) in &rows {
            let id = *id;
            if row.merge && !row.asked_only {
                self.due_of_merge(&mut due, (id, row), &rows, now).await?;
            }
            let asked = row.asked || self.is_to_invite(row);
            if row.parties().contains(&own) && asked && !row.answered {
                let invites = row.to == *own && !row.asked_only && row.parts.is_none();
                due.push(Due::Answer { id, unit: row.unit.clone(), invites });
            }
            if row.asked_only {
                continue;
            }
            if self.is_to_introduce(row, now) {
                due.push(Due::Introduce(id));
            }
            if row.parts.is_some() {
                self.due_of_division(&mut due, (id, row), &rows, now).await?;
                continue;
            }
            if row.unit == *own {
                match (&row.token, row.moved_unix_ms) {
                    (Some(token), None) if now >= row.effective_unix_ms => {
                        let (from, to) = (row.from.clone(), row.to.clone());
                        due.push(Due::Move(Moving { id, from, to, token: token.clone() }));
                    }
                    (_, Some(_)) if !row.resubmitted => due.push(Due::Resubmit(id)),
                    _ => {}
                }
            }
            if row.to == *own && row.released_unix_ms.is_some() && !row.added_up {
                due.push(Due::AddUp(id));
            }
            let is_let_go = row.from == *own && row.moved_unix_ms.is_some();
            if is_let_go && row.let_go_unix_ms.is_none() {
                due.push(Due::Release(id));
            }
        }
        let waits = self.unit.store.scan(own, Table::Returned, b"", None, 1).await?;
        if !waits.is_empty() {
            due.push(Due::TakeReturned);
        }
        Ok(due)
    }

    /// True where an order was given that is still to be carried out, if the unit has been granted
    /// anew by its old parent.
    fn is_to_introduce(&self, row: &Row, now: UnixMillis) -> bool {
        row.by == self.unit.code
            && row.parts.is_none()
            && row.is_pending(now)
            && self.unit.trust().parent(&row.unit) == Some(&row.from)
            && self.serial_of(&row.unit) > row.introduced
    }

    /// Gives the new parent the newest grant of the unit, with the line that it rests on.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], the store's.
    pub async fn introduce(&self, id: StatementId) -> Result<(), Error> {
        let (order, _) = self.order_of(id).await?;
        let mut work = self.unit.begin().await;
        let (mut row, stored) = self.stored(id).await?.ok_or(Error::NotFound(id))?;
        row.introduced = self.serial_of(&order.unit);
        if order.to != self.unit.code {
            for introduced in self.line_of(&order) {
                let asked = (order.unit.clone(), order.from.clone(), order.to.clone());
                let asked = Some(asked);
                let step = Step { asked, introduced, ..Step::new(id, StepKind::Asked) };
                self.send(&mut work, &order.to, &step)?;
            }
        }
        work.batch.require(Table::Reforms, key(id), stored);
        work.batch.put(Table::Reforms, key(id), row.encode());
        Ok(work.commit().await?)
    }

    /// The order as it was signed, with what it says.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], the store's.
    pub async fn order_of(&self, id: StatementId) -> Result<(Order, Envelope), Error> {
        let (row, _) = self.stored(id).await?.ok_or(Error::NotFound(id))?;
        let signed = row.whole().unwrap_or(id);
        let envelope = self.unit.statement(signed).await?.ok_or(Error::NotFound(signed))?;
        let order = decode_body(&header::decode(&envelope.payload)?.body)?;
        if row.whole().is_none() {
            return Ok((order, envelope));
        }
        let step = order.step_of(&row.unit).ok_or(Error::NotFound(id))?;
        Ok((step, envelope))
    }

    /// Says what is concerned here. `token`: the new parent's invitation; `refused`: why there is
    /// none; `accounts`: those of the host with a role of the unit.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn answer(
        &self,
        hosted: &Hosted,
        id: StatementId,
        token: String,
        refused: &str,
        accounts: u32,
    ) -> Result<(), Error> {
        let (row, _) = self.stored(id).await?.ok_or(Error::NotFound(id))?;
        let refused = match self.misses_an_item(hosted, &row).await? {
            true => "unknown-item",
            false => refused,
        };
        let count = self.count(hosted, &row, accounts).await?;
        let step = Step {
            count: Some(count),
            token,
            refused: refused.to_owned(),
            ..Step::new(id, StepKind::Answered)
        };
        self.take_own_step(id, step, |row, _| row.answered = true, None).await
    }

    async fn count(&self, hosted: &Hosted, row: &Row, accounts: u32) -> Result<Count, Error> {
        let own = &self.unit.code;
        let open = match () {
            () if *own == row.unit => leaving::open_items(hosted, None).await?,
            () if *own == row.from => leaving::open_items(hosted, Some(&row.unit)).await?,
            () => Vec::new(),
        };
        let of = |kind: &str| {
            let count = open.iter().filter(|item| item.kind == kind).count();
            u32::try_from(count).unwrap_or(u32::MAX)
        };
        let (notices, escalations) = (of("notice"), of("escalation"));
        let (records, accounts) = if *own == row.unit {
            (hosted.records.count().await.map_or(0, |(records, _)| records), accounts)
        } else {
            (0, 0)
        };
        let item = |item: &leaving::OpenItem| Item {
            kind: item.kind.to_owned(),
            number: item.number.clone(),
            party: item.party.clone(),
            id: Some(*item.id.as_bytes()),
        };
        Ok(Count {
            records,
            accounts,
            notices,
            escalations,
            // Each open item has one limit that runs.
            clocks: notices.saturating_add(escalations),
            open: open.iter().take(MAX_ITEMS).map(item).collect(),
        })
    }

    /// Sends a step of this unit to the one that gave the order, and notes it, in one commit; where
    /// this unit gave the order itself, what follows happens at once.
    pub(super) async fn take_own_step(
        &self,
        id: StatementId,
        step: Step,
        note: impl FnOnce(&mut Row, UnixMillis),
        act: Option<&'static str>,
    ) -> Result<(), Error> {
        let mut work = self.unit.begin().await;
        let (mut row, stored) = self.stored(id).await?.ok_or(Error::NotFound(id))?;
        let now = self.unit.clock.now_unix_ms();
        note(&mut row, now);
        if step.kind == StepKind::Released {
            // It can come back one day, by another invitation.
            work.batch.delete(Table::Children, row.unit.as_str());
        }
        self.pass_on(&mut work, &mut row, step, now)?;
        if let Some(act) = act {
            work.journal(&Leaf::Act(Act::done(Actor::node(), act, row.unit.as_str())));
        }
        work.batch.require(Table::Reforms, key(id), stored);
        work.batch.put(Table::Reforms, key(id), row.encode());
        work.commit().await?;
        self.wake();
        Ok(())
    }

    fn pass_on(
        &self,
        work: &mut Work,
        row: &mut Row,
        step: Step,
        now: UnixMillis,
    ) -> Result<(), Error> {
        let own = self.unit.code.clone();
        let mut next = vec![(row.by.clone(), step)];
        while let Some((to, step)) = next.pop() {
            if to == own {
                let refused = |refused: crate::services::intake::Refused| {
                    store::Error::Engine(format!("an own step does not hold: {}", refused.detail))
                };
                next.extend(row.apply(&own, &own, &step, now).map_err(refused)?);
            } else {
                self.send(work, &to, &step)?;
            }
        }
        Ok(())
    }

    /// What waits for the old parent goes to the new one, and the unit says that it has moved. Its
    /// identity names the new parent by now, and its link is dialled there.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn moved(&self, hosted: &Hosted, moving: &Moving) -> Result<(), Error> {
        let (order, _) = self.order_of(moving.id).await?;
        self.unit.hand_over_outbox(&moving.from, &moving.to).await?;
        let reported = hosted.summaries.reported_from(&self.unit.code, &order).await?;
        let step = Step {
            introduced: self.unit.trust().chain(&self.unit.code),
            periods: reported.into_iter().map(|(period, _)| period).collect(),
            ..Step::new(moving.id, StepKind::Moved)
        };
        let note = |row: &mut Row, now| {
            row.moved_unix_ms.get_or_insert(now);
            row.token = None;
        };
        self.take_own_step(moving.id, step, note, Some("unit.move")).await
    }

    /// Sends again, to the new parent, what was reported of its periods to the old one.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn resubmit(&self, hosted: &Hosted, id: StatementId) -> Result<(), Error> {
        let (order, _) = self.order_of(id).await?;
        // What was put there by a commit that had begun before the move.
        self.unit.hand_over_outbox(&order.from, &order.to).await?;
        let reported = hosted.summaries.reported_from(&self.unit.code, &order).await?;
        for chunk in reported.chunks(PER_COMMIT) {
            let mut work = self.unit.begin().await;
            for (_, statement) in chunk {
                work.enqueue(&order.to, Lane::Summary, *statement);
            }
            work.commit().await?;
        }
        let (mut row, stored) = self.stored(id).await?.ok_or(Error::NotFound(id))?;
        row.resubmitted = true;
        self.replace(id, &row, stored).await
    }

    /// Adds up at the new parent what the old one has in no total any more.
    ///
    /// # Errors
    ///
    /// What kept a total from being added up; the store's.
    pub async fn add_up(&self, hosted: &Hosted, id: StatementId) -> Result<(), Error> {
        let (row, _) = self.stored(id).await?.ok_or(Error::NotFound(id))?;
        for period in row.periods.iter().filter_map(|period| period.parse().ok()) {
            hosted.summaries.publish(&period).await?;
        }
        let (mut row, stored) = self.stored(id).await?.ok_or(Error::NotFound(id))?;
        row.added_up = true;
        self.replace(id, &row, stored).await
    }

    pub(super) async fn replace(
        &self,
        id: StatementId,
        row: &Row,
        stored: Vec<u8>,
    ) -> Result<(), Error> {
        let mut batch = store::Batch::new(&self.unit.code);
        batch.require(Table::Reforms, key(id), stored);
        batch.put(Table::Reforms, key(id), row.encode());
        Ok(self.unit.store.submit(batch).await?)
    }

    /// The old parent lets a unit go that stands under its new parent: its figures from the day on
    /// leave the totals, what waited for it goes back, and its link is closed.
    ///
    /// # Errors
    ///
    /// The store's; what kept a total from being added up anew.
    pub async fn release(&self, hosted: &Hosted, id: StatementId) -> Result<(), Error> {
        let (order, _) = self.order_of(id).await?;
        let to = self.unit.trust().parent(&order.unit).cloned();
        let detail = format!(
            "{} is under {} since {}; its node dials there by itself",
            order.unit,
            to.as_ref().unwrap_or(&order.to),
            order.on
        );
        let refusal = Refusal { reason: "moved", detail };
        hosted.downlinks.close(&order.unit, refusal, Vec::new());
        for (period, _) in hosted.summaries.reported_from(&order.unit, &order).await? {
            hosted.summaries.publish(&period).await?;
        }
        self.return_waiting(id, &order.unit).await?;
        let step = Step::new(id, StepKind::Released);
        let note = |row: &mut Row, now| row.let_go_unix_ms = Some(now);
        self.take_own_step(id, step, note, Some("unit.release")).await
    }

    /// Sends back what waits for a unit that has moved.
    async fn return_waiting(&self, id: StatementId, unit: &UnitCode) -> Result<(), Error> {
        for lane in [Lane::Escalation, Lane::Notice] {
            loop {
                let mut work = self.unit.begin().await;
                let (mut row, _) = self.stored(id).await?.ok_or(Error::NotFound(id))?;
                let waiting = self.unit.outgoing(unit, lane, 0, MAX_RETURNED).await?;
                let Some(returned) = of_one_step(waiting) else { break };
                let (last, returned) = returned;
                let step = Step { returned, ..Step::new(id, StepKind::Returned) };
                let now = self.unit.clock.now_unix_ms();
                self.pass_on(&mut work, &mut row, step, now)?;
                self.unit.drop_outbox(&mut work, unit, lane, last).await?;
                work.commit().await?;
            }
        }
        Ok(self.unit.forget_outbox(unit).await?)
    }

    /// Takes in what the old parent returned, as if the new one had brought it.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn take_returned(&self, hosted: &Arc<Hosted>) -> Result<(), Error> {
        loop {
            let page = self.unit.store.scan(&self.unit.code, Table::Returned, b"", None, 100);
            let page = page.await?;
            if page.is_empty() {
                return Ok(());
            }
            for (key, value) in page {
                hosted.take_returned(key, decode_envelope(&value)?).await?;
            }
        }
    }
}

/// As many statements as one step holds, and the place of the last.
fn of_one_step(waiting: Vec<crate::services::exchange::Departure>) -> Option<(u64, Vec<Envelope>)> {
    let (mut bytes, mut last, mut returned) = (0, None, Vec::new());
    for departure in waiting {
        let size = returned_bytes(&departure.envelope);
        if size > MAX_RETURNED_BYTES {
            // A step cannot hold it: whoever sent it sees that it has no receipt.
            tracing::error!(size, "a statement for a unit that moved is too large to go back");
            last = Some(departure.cursor.lane_seq);
            continue;
        }
        bytes += size;
        if bytes > MAX_RETURNED_BYTES && last.is_some() {
            break;
        }
        last = Some(departure.cursor.lane_seq);
        returned.push(departure.envelope);
    }
    last.map(|last| (last, returned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invitation_is_in_no_log() {
        let unit = |code: &str| code.parse().unwrap();
        let token = "lianxi1.secret".to_owned();
        let id = StatementId::generate(1_760_000_000_000);
        let due = Due::Move(Moving { id, from: unit("C-1"), to: unit("C-2"), token });
        let shown = format!("{due:?}");
        assert!(shown.contains("C-2") && shown.contains(&id.to_string()), "{shown}");
        assert!(!shown.contains("secret"), "{shown}");
    }
}
