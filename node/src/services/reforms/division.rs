//! A unit is divided: each child that its order names moves under the sibling by that order, and each
//! open item that it names goes there, with its clocks.
//!
//! Promises that nobody moves before each child has been invited, that an item goes to the unit that
//! the order names and to no other, and that a stop in between loses nothing and hands nothing over
//! twice. Records never go.

use super::{Due, Error, Reform, Reforms, draft, key, row::Row};
use crate::{
    clock::UnixMillis,
    domain::{
        journal::{Act, Actor, Leaf},
        reform::{Order, StepKind},
        unit::UnitCode,
    },
    identity::trust::SKEW_TOLERANCE_MS,
    services::{
        exchange::Lane,
        hosted::Hosted,
        intake::{Arrived, Plan, Refused, Undecided},
        unit::{Part, Seal, Work},
    },
    statement::{
        handed::Handed,
        header::{self, StatementId},
        reform::{Step, part_id},
    },
    store::{self, Table},
};

impl Reforms {
    /// Keeps a row for the move of each child and asks it what that concerns there.
    pub(super) fn ask_children(
        &self,
        work: &mut Work,
        id: StatementId,
        order: &Order,
        dry_run: bool,
    ) -> Result<(), Error> {
        let now = self.unit.clock.now_unix_ms();
        for step in order.steps() {
            let part = part_id(id, &step.unit);
            let asked = (step.unit.clone(), step.from.clone(), step.to.clone());
            let asked = Step { asked: Some(asked), ..Step::new(part, StepKind::Asked) };
            self.send(work, &step.unit, &asked)?;
            let mut row = Row::new(self.unit.code.clone(), &step, now, dry_run).part(id);
            row.introduced = self.serial_of(&step.unit);
            work.batch.put(Table::Reforms, key(part), row.encode());
        }
        Ok(())
    }

    /// True at the sibling of a unit that is divided for a child of that which is known by now.
    pub(super) fn is_to_invite(&self, row: &Row) -> bool {
        row.part_of.is_some()
            && !row.asked_only
            && row.to == self.unit.code
            && self.unit.trust().delegation(&row.unit, None).is_some()
    }

    /// True if this unit is below `unit`.
    pub(super) fn is_below(&self, unit: &UnitCode) -> bool {
        *unit != self.unit.code && self.unit.trust().is_in_subtree(&self.unit.code, unit)
    }

    /// Puts what is known of the moves of its children beside a division.
    pub(super) fn with_children(&self, whole: Reform, rows: &[(StatementId, Row)]) -> Reform {
        if whole.items.is_none() {
            return whole;
        }
        let mut shown = whole;
        for child in shown.children.clone() {
            let part = part_id(shown.id, &child);
            let Some((_, row)) = rows.iter().find(|(id, _)| *id == part) else { continue };
            let of_child = row.shown(part);
            match of_child.answers.get(&child) {
                Some(answer) => drop(shown.answers.insert(child.clone(), answer.clone())),
                None => shown.silent.push(child.clone()),
            }
            // The sibling invites each child, or says why not.
            if let Some(refused) = of_child.answers.get(&shown.to)
                && !refused.refused.is_empty()
                && let Some(answer) = shown.answers.get_mut(&child)
            {
                answer.refused.clone_from(&refused.refused);
            }
            let last = |one: Option<UnixMillis>, other: Option<UnixMillis>| {
                one.zip(other).map(|(one, other)| one.max(other))
            };
            shown.moved_unix_ms = last(shown.moved_unix_ms, of_child.moved_unix_ms);
            shown.released_unix_ms = last(shown.released_unix_ms, of_child.released_unix_ms);
        }
        shown
    }

    /// What is due of a division here, besides the moves of its children.
    pub(super) async fn due_of_division(
        &self,
        due: &mut Vec<Due>,
        (id, row): (StatementId, &Row),
        rows: &[(StatementId, Row)],
        now: UnixMillis,
    ) -> Result<(), store::Error> {
        let own = &self.unit.code;
        if row.by == *own && !row.settled && self.is_agreed(id, row, rows, now) {
            due.push(Due::Settle(id));
        }
        if row.unit != *own {
            return Ok(());
        }
        if row.token.is_some() && row.moved_unix_ms.is_none() && now >= row.effective_unix_ms {
            due.push(Due::HandParts(id));
        }
        if row.moved_unix_ms.is_some() {
            let handed = self.unit.parts_handed().await?;
            if handed.iter().any(|(_, part)| part.order() == Some(id)) {
                due.push(Due::HandOn(id));
            }
        }
        Ok(())
    }

    /// True once the unit and its sibling have agreed, and that has invited each of the children.
    fn is_agreed(
        &self,
        id: StatementId,
        row: &Row,
        rows: &[(StatementId, Row)],
        now: UnixMillis,
    ) -> bool {
        let Some(parts) = &row.parts else { return false };
        let invited = |child: &UnitCode| {
            let part = part_id(id, child);
            rows.iter().any(|(id, row)| *id == part && row.token.is_some() && row.is_pending(now))
        };
        row.is_pending(now)
            && [&row.unit, &row.to].into_iter().all(|party| row.has_answered(party))
            && parts.children.iter().all(invited)
    }

    /// Tells the unit, its sibling and each child that the division takes place.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn settle(&self, id: StatementId) -> Result<(), Error> {
        let mut work = self.unit.begin().await;
        let rows = self.rows().await?;
        let (mut row, stored) = self.stored(id).await?.ok_or(Error::NotFound(id))?;
        let parts = row.parts.clone().ok_or(Error::NotFound(id))?;
        for child in &parts.children {
            let part = part_id(id, child);
            let invited = rows.iter().find(|(id, _)| *id == part);
            let token = invited.and_then(|(_, row)| row.token.clone()).unwrap_or_default();
            let given = Step { token, ..Step::new(part, StepKind::Given) };
            self.send(&mut work, child, &given)?;
        }
        for party in [&row.unit, &row.to] {
            self.send(&mut work, party, &Step::new(id, StepKind::Given))?;
        }
        row.settled = true;
        work.batch.require(Table::Reforms, key(id), stored);
        work.batch.put(Table::Reforms, key(id), row.encode());
        work.commit().await?;
        self.wake();
        Ok(())
    }

    /// True if a division names an item that this unit, which is to be divided, has not open.
    pub(super) async fn misses_an_item(&self, hosted: &Hosted, row: &Row) -> Result<bool, Error> {
        let Some(parts) = row.parts.as_ref().filter(|_| row.unit == self.unit.code) else {
            return Ok(false);
        };
        for item in &parts.items {
            let item = StatementId::try_from(&item[..])?;
            if open_item(hosted, item).await?.is_none() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Hands to the sibling what the order names and is still open, each item in one commit with the
    /// note that it is the sibling's.
    ///
    /// # Errors
    ///
    /// What kept an item from being read; the store's. Given again, it goes on.
    pub async fn hand_parts(&self, hosted: &Hosted, id: StatementId) -> Result<(), Error> {
        let (order, _) = self.order_of(id).await?;
        let division = order.division.clone().ok_or(Error::NotFound(id))?;
        for item in &division.items {
            let item = StatementId::try_from(&item[..])?;
            if self.unit.part(item).await?.is_some() {
                continue;
            }
            let mut work = self.unit.begin().await;
            let Some((handed, told)) = open_item(hosted, item).await? else {
                tracing::info!(unit = %order.unit, %item, "an item of a division has ended before");
                continue;
            };
            self.hand(&mut work, (id, &order.to), item, handed).await?;
            let part = Part::new(id, order.unit.clone(), order.to.clone(), told);
            let (table, key, value) = part.row(item);
            work.batch.put(table, key, value);
            let subject = format!("{item} to {}", order.to);
            work.journal(&Leaf::Act(Act::done(Actor::node(), "unit.hand-over", subject)));
            work.commit().await?;
        }
        let note = |row: &mut Row, now| {
            row.moved_unix_ms.get_or_insert(now);
            row.released_unix_ms.get_or_insert(now);
            row.token = None;
        };
        let moved = Step::new(id, StepKind::Moved);
        self.take_own_step(id, moved, note, Some("unit.split")).await
    }

    /// Tells the sibling what came here meanwhile about items that are its own.
    ///
    /// # Errors
    ///
    /// As [`Reforms::hand_parts`].
    pub async fn hand_on(&self, hosted: &Hosted, id: StatementId) -> Result<(), Error> {
        for (item, part) in self.unit.parts_handed().await? {
            if part.order() != Some(id) {
                continue;
            }
            let mut work = self.unit.begin().await;
            let Some((handed, told)) = hosted.escalations.to_hand_on(item).await? else { continue };
            if told <= part.told {
                continue;
            }
            self.hand(&mut work, (id, &part.to), item, handed).await?;
            let (table, key, value) = part.told(told).row(item);
            work.batch.put(table, key, value);
            work.commit().await?;
        }
        Ok(())
    }

    /// Signs the step that hands an item over, sealed to the sibling with the key of the item.
    async fn hand(
        &self,
        work: &mut Work,
        (id, to): (StatementId, &UnitCode),
        item: StatementId,
        mut handed: Handed,
    ) -> Result<(), Error> {
        let reader = (to.clone(), None);
        handed.given = self.unit.seal_kept(item, &reader).await?.into_iter().collect();
        let step = Step { handed: Some(handed), ..Step::new(id, StepKind::Handed) };
        let mut draft = draft(to, &step);
        let readers = self.unit.readers([(to, None)]);
        draft.seal = Some(Seal { readers, outline: None });
        let hop = self.unit.hop_to(to).ok_or_else(|| Error::Unknown(to.clone()))?;
        let signed = work.sign(&draft)?;
        work.enqueue(&hop, Lane::Summary, signed.id);
        Ok(())
    }

    /// Plans what an item does that a unit which is divided hands to this one.
    pub(super) async fn take_part(
        &self,
        plan: &mut Plan,
        arrived: &Arrived,
        (id, row): (StatementId, &Row),
        handed: &Handed,
    ) -> Result<(), Undecided> {
        let own = &self.unit.code;
        if row.to != *own {
            let detail = format!("the order names {} as the successor", row.to);
            return Err(Refused::new("wrong-source", "body.handed", detail).into());
        }
        let early = row.effective_unix_ms.saturating_sub(SKEW_TOLERANCE_MS);
        if self.unit.clock.now_unix_ms() < early {
            let detail = "the day of the order has not come";
            return Err(Refused::new("too-early", "body.handed", detail).into());
        }
        let item = header::decode(&handed.statement.payload)?.header.id;
        let names = |parts: &super::row::Parts| parts.items.contains(item.as_bytes());
        if !row.parts.as_ref().is_some_and(names) {
            let detail = "the order does not name this item";
            return Err(Refused::new("wrong-source", "body.handed.statement", detail).into());
        }
        self.take_item(plan, arrived, handed).await?;
        let part = Part::new(id, row.unit.clone(), own.clone(), 0);
        plan.writes.push(part.row(item));
        let act = Act::done(Actor::unit(&row.unit), "unit.hand-over", item.to_string());
        plan.leaves.push(Leaf::Act(act));
        Ok(())
    }

    /// A step of a whistle that went to a sibling has to reach that.
    pub async fn follow_item(&self, arrived: &Arrived, plan: &mut Plan) -> Result<(), Undecided> {
        let Ok(item) = arrived.statement.header.subject.parse::<StatementId>() else {
            return Ok(());
        };
        if plan.settled.is_none() && self.unit.part(item).await?.is_some() {
            plan.settled = Some(self.waking());
        }
        Ok(())
    }
}

/// An open item of the unit itself, with how many steps and desks are told of it; `None`: it has
/// none of that id, or it is another unit's by now.
async fn open_item(hosted: &Hosted, item: StatementId) -> Result<Option<(Handed, usize)>, Error> {
    if hosted.unit.part(item).await?.is_some() {
        return Ok(None);
    }
    if let Some(handed) = hosted.escalations.to_hand_part(item).await? {
        return Ok(Some(handed));
    }
    Ok(hosted.notices.to_hand_part(item).await?.map(|handed| (handed, 0)))
}
