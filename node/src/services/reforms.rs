//! Reforms: a unit comes under another parent on its day, and what each unit concerned does for it.
//!
//! Promises that nobody moves without an order from above both parents, that every step is one
//! commit and can be repeated, that the unit moves on its day even if its old parent is away, that a
//! figure is in the totals of one parent alone, and that what was on its way arrives once. Must not
//! change who owns an open item: its parties stay, only the way between them is another.

mod carry;
mod division;
mod error;
mod hand;
mod merge;
mod repeat;
mod row;

pub use self::{
    carry::{Due, Moving},
    error::Error,
    row::{Answer, Reform},
};

use std::sync::Arc;

use jiff::civil::Date;

use self::row::{Parts, Row, key};
use super::{
    exchange::Lane,
    intake::{Arrived, Plan, Refused, Reply, Undecided},
    unit::{self, Draft, LearnError, Unit, Work},
};
use crate::{
    clock::UnixMillis,
    domain::{
        journal::{Act, Actor, Leaf},
        reform::{Division, MAX_AHEAD_DAYS, MAX_CHILDREN, MAX_HANDED, Order, StepKind},
        unit::UnitCode,
    },
    identity::trust::{self, SKEW_TOLERANCE_MS, Trust},
    statement::{
        Envelope,
        delegation::text,
        header::{StatementId, kinds},
        reform::{
            MAX_RETURNED_BYTES, Step, decode_body, decode_step, encode_body, encode_step,
            keys_sha256, part_id, returned_bytes,
        },
    },
    store::{self, Table},
    watch,
};

/// Name of the act in the journal.
fn act(merges: bool, divides: bool) -> &'static str {
    match (merges, divides) {
        (true, _) => "unit.merge",
        (false, true) => "unit.split",
        (false, false) => "unit.reparent",
    }
}

/// What is to be ordered.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Unit that moves.
    pub unit: UnitCode,
    /// Its new parent.
    pub to: UnitCode,
    /// Its first day there.
    pub on: Date,
    /// When that day begins, and today, where the order is given.
    pub begins_unix_ms: UnixMillis,
    /// Today there.
    pub today: Date,
    /// For people.
    pub text: String,
    /// Ask what would be concerned, and order nothing.
    pub dry_run: bool,
    /// The unit ends under `to`, which is its sibling.
    pub merge: bool,
    /// The unit is divided: this goes to `to`, which is its sibling.
    pub parts: Option<WantedParts>,
}

/// What is to go to the sibling of a unit that is divided.
#[derive(Clone, Debug)]
pub struct WantedParts {
    /// Units right below it.
    pub children: Vec<UnitCode>,
    /// Open notices and whistles.
    pub items: Vec<StatementId>,
}

/// Reforms that concern one unit.
#[derive(Debug)]
pub struct Reforms {
    unit: Arc<Unit>,
    changed: Arc<watch::Sender<u64>>,
}

impl Reforms {
    /// Reforms of `unit`.
    pub fn new(unit: Arc<Unit>) -> Self {
        Self { unit, changed: Arc::new(watch::Sender::new(0)) }
    }

    /// Changes whenever there may be something to carry on.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Orders a unit under another parent, or asks what that would concern.
    ///
    /// # Errors
    ///
    /// [`Error`]; the refused attempt is in the journal.
    pub async fn order(&self, by: &Actor, wanted: Wanted) -> Result<Reform, Error> {
        let (unit, name) = (wanted.unit.clone(), act(wanted.merge, wanted.parts.is_some()));
        match self.try_order(by, wanted).await {
            Ok(reform) => Ok(reform),
            Err(error) => {
                let act = Act::refused(by.clone(), name, unit.as_str(), error.reason());
                self.unit.record(act).await?;
                Err(error)
            }
        }
    }

    async fn try_order(&self, by: &Actor, wanted: Wanted) -> Result<Reform, Error> {
        let mut work = self.unit.begin().await;
        // Read once: the order is not older than it says, however long it takes to sign.
        let now = self.unit.clock.now_unix_ms();
        let rows = if wanted.dry_run { Vec::new() } else { self.own_orders().await? };
        if let Some(before) = self.given_before(&wanted, &rows, now) {
            drop(work);
            return self.show(before).await;
        }
        let order = self.check(&wanted, now)?;
        if let Some(row) = repeat::barring(&rows, &order, now) {
            return Err(Error::Pending { unit: row.unit, to: row.to, on: row.on });
        }
        let parties = order.parties();
        let id = if wanted.dry_run {
            StatementId::generate(now)
        } else {
            let draft = Draft::new(kinds::REFORM, order.unit.as_str(), encode_body(&order));
            let signed = work.sign_at(&draft, now)?;
            work.enqueue_all(&self.hops(&parties), Lane::Summary, signed.id);
            let name = act(order.merge, order.division.is_some());
            work.journal(&Leaf::Act(Act::done(by.clone(), name, order.unit.as_str())));
            signed.id
        };
        let mut row = Row::new(self.unit.code.clone(), &order, now, wanted.dry_run);
        row.asked = true;
        row.introduced = self.serial_of(&order.unit);
        self.ask(&mut work, id, &order)?;
        self.ask_children(&mut work, id, &order, wanted.dry_run)?;
        work.batch.put(Table::Reforms, key(id), row.encode());
        work.commit().await?;
        self.wake();
        self.show(id).await
    }

    /// Serial of the newest grant of a unit.
    fn serial_of(&self, unit: &UnitCode) -> u64 {
        let trust = self.unit.trust();
        trust.delegation(unit, None).map_or(0, |known| known.delegation.serial)
    }

    /// Asks the unit and both parents, with what they need to answer.
    fn ask(&self, work: &mut Work, id: StatementId, order: &Order) -> Result<(), Error> {
        let parties = [&order.unit, &order.from, &order.to];
        for introduced in self.line_of(order) {
            for party in parties.into_iter().filter(|party| **party != self.unit.code) {
                let asked = (order.unit.clone(), order.from.clone(), order.to.clone());
                let asked = Step {
                    asked: Some(asked),
                    division: order.division.clone(),
                    introduced: introduced.clone(),
                    ..Step::new(id, StepKind::Asked)
                };
                self.send(work, party, &asked)?;
            }
        }
        Ok(())
    }

    /// Checks what is wanted against what is known of the tree.
    fn check(&self, wanted: &Wanted, now: UnixMillis) -> Result<Order, Error> {
        let own = &self.unit.code;
        let (unit, to) = (&wanted.unit, &wanted.to);
        let trust = self.unit.trust();
        let grant = |of: &UnitCode| {
            let known = trust.delegation(of, None);
            known.map(|known| &known.delegation).ok_or_else(|| Error::Unknown(of.clone()))
        };
        let (moving, parent) = (grant(unit)?, grant(to)?);
        let from = moving.issuer.clone();
        let from = from.ok_or_else(|| Error::NotAbove { by: own.clone(), unit: unit.clone() })?;
        if from == *to {
            return Err(Error::SamePlace { unit: unit.clone(), parent: from });
        }
        for below in [unit, &from, to] {
            if below == unit && unit == own || !trust.is_in_subtree(below, own) {
                return Err(Error::NotAbove { by: own.clone(), unit: below.clone() });
            }
            let merges = below != &from && trust.merged_into(below).is_some();
            if merges || trust.revoked(below, None).is_some() {
                return Err(Error::Gone(below.clone()));
            }
        }
        if trust.is_in_subtree(to, unit) {
            return Err(Error::Loop { unit: unit.clone(), parent: to.clone() });
        }
        if wanted.merge || wanted.parts.is_some() {
            if parent.level != moving.level || parent.issuer != moving.issuer {
                return Err(Error::NotSiblings { unit: unit.clone(), into: to.clone() });
            }
        } else if !parent.level.is_above(moving.level) {
            let (level, parent_level) = (moving.level, parent.level);
            return Err(Error::Level { level, parent_level });
        }
        let Wanted { on, today, .. } = *wanted;
        if on < today {
            return Err(Error::Backdated { on, today });
        }
        let ahead = today.until(on).map_or(i32::MAX, |span| span.get_days());
        if ahead > MAX_AHEAD_DAYS {
            return Err(Error::TooFar(on));
        }
        Ok(Order {
            trust_domain: trust.trust_domain().to_owned(),
            unit: unit.clone(),
            from,
            to: to.clone(),
            on,
            // Today has begun: then at once.
            effective_unix_ms: wanted.begins_unix_ms.max(now.saturating_add(1)),
            keys_sha256: keys_sha256(&moving.keys),
            text: text("text", wanted.text.clone())?,
            merge: wanted.merge,
            division: match &wanted.parts {
                Some(parts) => Some(division(&trust, wanted, parts)?),
                None => None,
            },
        })
    }

    /// Delegations from below this unit down to the old parent, with desks, and that of the unit that
    /// moves: those who are parted from the old parent need them to verify what it goes on saying.
    /// As many together as one step holds, units before desks: what has to be known to answer comes
    /// with the first.
    fn line_of(&self, order: &Order) -> Vec<Vec<Envelope>> {
        let trust = self.unit.trust();
        let above = std::iter::successors(Some(&order.from), |unit| trust.parent(unit));
        let mut line: Vec<&UnitCode> = above.take_while(|unit| **unit != self.unit.code).collect();
        line.reverse();
        // Those between whom something is divided do not know each other.
        let parts = order.parties().split_off(2).into_iter().filter(|_| order.division.is_some());
        let parts: Vec<UnitCode> = parts.collect();
        let units = line.iter().copied().chain([&order.unit]).chain(&parts);
        let units = units.filter_map(|unit| trust.delegation(unit, None));
        let own = line.iter().flat_map(|unit| trust.own(unit));
        let desks = own.filter(|known| known.delegation.desk.is_some());
        let (mut steps, mut bytes) = (vec![Vec::new()], 0);
        for known in units.chain(desks) {
            bytes += returned_bytes(&known.envelope);
            if bytes > MAX_RETURNED_BYTES
                && let Some([_, ..]) = steps.last().map(Vec::as_slice)
            {
                bytes = returned_bytes(&known.envelope);
                steps.push(Vec::new());
            }
            if let Some(step) = steps.last_mut() {
                step.push(known.envelope.clone());
            }
        }
        steps
    }

    /// Children on the way to `units`.
    fn hops(&self, units: &[UnitCode]) -> Vec<UnitCode> {
        let above = units.iter().filter(|unit| **unit != self.unit.code);
        let mut hops: Vec<_> = above.filter_map(|unit| self.unit.child_above(unit)).collect();
        hops.sort();
        hops.dedup();
        hops
    }

    fn send(&self, work: &mut Work, to: &UnitCode, step: &Step) -> Result<(), Error> {
        let hop = self.unit.hop_to(to).ok_or_else(|| Error::Unknown(to.clone()))?;
        let signed = work.sign(&draft(to, step))?;
        work.enqueue(&hop, Lane::Summary, signed.id);
        Ok(())
    }

    fn wake(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// There may be something to carry on.
    pub(super) fn look_again(&self) {
        self.wake();
    }

    /// Plans what an order from above does: it goes on, and where it concerns the unit it is kept.
    ///
    /// # Errors
    ///
    /// [`Undecided::Refused`] for one that does not hold.
    pub fn take(&self, arrived: &Arrived) -> Result<Plan, Undecided> {
        if arrived.from_child || arrived.desk.is_some() {
            let detail = "an order comes from a unit above";
            return Err(Refused::new("wrong-source", "header.source", detail).into());
        }
        let order = decode_body(&arrived.statement.body)?;
        let now = self.unit.clock.now_unix_ms();
        self.check_arrived(arrived, &order, now)?;
        let parties = order.parties();
        let mut plan = Plan { relay: self.hops(&parties), ..Plan::default() };
        if parties.contains(&self.unit.code) {
            let (by, own) = (arrived.source(), &self.unit.code);
            if [&order.unit, &order.from, &order.to].contains(&own) {
                let row = Row::new(by.clone(), &order, now, false);
                plan.writes.push((Table::Reforms, key(arrived.id()), row.encode()));
            }
            for step in order.steps() {
                if [&step.unit, &step.from, &step.to].contains(&own) {
                    let row = Row::new(by.clone(), &step, now, false).part(arrived.id());
                    let key = key(part_id(arrived.id(), &step.unit));
                    plan.writes.push((Table::Reforms, key, row.encode()));
                }
            }
            let name = act(order.merge, order.division.is_some());
            let act = Act::done(Actor::unit(by), name, order.unit.as_str());
            plan.leaves.push(Leaf::Act(act));
            plan.settled = Some(self.waking());
        }
        Ok(plan)
    }

    pub(super) fn waking(&self) -> Box<dyn FnOnce() + Send> {
        let changed = Arc::clone(&self.changed);
        Box::new(move || changed.send_modify(|count| *count += 1))
    }

    fn check_arrived(
        &self,
        arrived: &Arrived,
        order: &Order,
        now: UnixMillis,
    ) -> Result<(), Refused> {
        let trust = self.unit.trust();
        if let Err(error) = trust.check_order(&arrived.envelope, now) {
            return Err(Refused::new(error.reason(), error.field(), error.to_string()));
        }
        let source = arrived.source();
        for (field, unit) in
            [("body.unit", &order.unit), ("body.from", &order.from), ("body.to", &order.to)]
        {
            let known = trust.delegation(unit, None).is_some();
            if known && !trust.is_in_subtree(unit, source) {
                let detail = format!("{source} is not above {unit}");
                return Err(Refused::new("outside-subtree", field, detail));
            }
        }
        if order.unit == *source {
            let detail = "a unit does not order itself elsewhere";
            return Err(Refused::new("outside-subtree", "body.unit", detail));
        }
        self.check_place(&trust, order)?;
        let latest = order.effective_unix_ms.saturating_add(SKEW_TOLERANCE_MS);
        if order.to == self.unit.code && now > latest {
            let detail = "the order came after its day; let it be given anew";
            return Err(Refused::new("backdated", "body.on", detail));
        }
        Ok(())
    }

    fn check_place(&self, trust: &Trust, order: &Order) -> Result<(), Refused> {
        if let Some(parent) = trust.parent(&order.unit)
            && *parent != order.from
        {
            let detail = format!("{} is under {parent}", order.unit);
            return Err(Refused::new("outside-subtree", "body.from", detail));
        }
        if trust.is_in_subtree(&order.to, &order.unit) {
            let detail = format!("{} is below {}", order.to, order.unit);
            return Err(Refused::new("outside-subtree", "body.to", detail));
        }
        let stray = order
            .steps()
            .into_iter()
            .find(|step| trust.parent(&step.unit).is_some_and(|parent| *parent != order.unit));
        if let Some(step) = stray {
            let detail = format!("{} is not right below {}", step.unit, order.unit);
            return Err(Refused::new("outside-subtree", "body.division.children.unit", detail));
        }
        let level = |unit: &UnitCode| trust.delegation(unit, None).map(|one| one.delegation.level);
        if order.merge || order.division.is_some() {
            let parent = trust.parent(&order.to);
            if parent.is_some_and(|parent| *parent != order.from)
                || level(&order.unit).zip(level(&order.to)).is_some_and(|(unit, to)| unit != to)
            {
                let detail = format!("{} is no sibling of {}", order.to, order.unit);
                return Err(Refused::new("outside-subtree", "body.to", detail));
            }
            return Ok(());
        }
        if let (Some(moving), Some(parent)) = (level(&order.unit), level(&order.to))
            && !parent.is_above(moving)
        {
            let detail = format!("a {parent} cannot be above a {moving}");
            return Err(Refused::new("outside-subtree", "body.to", detail));
        }
        Ok(())
    }

    /// Plans what a step of another unit does.
    ///
    /// # Errors
    ///
    /// [`Undecided::Refused`] for one that is not its source's to take.
    pub async fn take_step(&self, arrived: &Arrived) -> Result<Plan, Undecided> {
        if arrived.desk.is_some() {
            let detail = "a unit takes the steps of a reform, not a desk";
            return Err(Refused::new("wrong-source", "header.source", detail).into());
        }
        let destination = arrived
            .statement
            .header
            .destination
            .clone()
            .ok_or_else(|| Refused::new("malformed", "header.destination", "is missing"))?;
        let is_sealed = arrived.statement.header.sealing.is_some();
        if is_sealed && destination != self.unit.code {
            let hop = self.unit.next_hop(&destination, arrived.from_child)?;
            return Ok(Plan { relay: vec![hop], ..Plan::default() });
        }
        let body = self.unit.read(&arrived.statement, &[])?.ok_or_else(|| {
            let detail = "it is sealed for another unit";
            Refused::new("not-a-reader", "body.recipients", detail)
        })?;
        let step = decode_step(&body)?;
        self.learn_introduced(&step).await?;
        let stored = self.stored(step.reform).await?;
        let mut plan = Plan::default();
        let to_self = destination == self.unit.code;
        if !to_self {
            plan.relay.push(self.unit.next_hop(&destination, arrived.from_child)?);
        }
        let (row, stored) = match (stored, &step.asked) {
            (Some((row, stored)), _) => (row, Some(stored)),
            (None, Some((unit, from, to))) if to_self && self.is_below(arrived.source()) => {
                let now = self.unit.clock.now_unix_ms();
                let by = arrived.source().clone();
                let mut row = Row::question(by, (unit.clone(), from.clone(), to.clone()), now);
                row.parts = step.division.as_ref().map(Parts::from);
                (row, None)
            }
            (None, _) if !to_self => return Ok(plan),
            (None, _) => {
                let detail = "no such order is known here";
                return Err(Refused::new("malformed", "body.reform_id", detail).into());
            }
        };
        if to_self && step.kind == StepKind::Handed {
            match step.handed.as_ref().filter(|_| row.parts.is_some()) {
                Some(handed) if row.unit == *arrived.source() => {
                    self.take_part(&mut plan, arrived, (step.reform, &row), handed).await?;
                }
                Some(_) | None => self.take_handed(&mut plan, arrived, (&row, &step)).await?,
            }
        }
        self.settle_step(&mut plan, arrived, &step, (row, stored))
    }

    /// Delegations that are needed from here on; those that do not hold are passed over, and what
    /// rests on them falls later.
    async fn learn_introduced(&self, step: &Step) -> Result<(), Undecided> {
        match self.unit.learn(&step.introduced).await {
            Ok(_) => Ok(()),
            Err(LearnError::Store(error)) => Err(error.into()),
            Err(LearnError::Refused(detail)) => {
                Err(Refused::new("outside-subtree", "body.introduced", detail).into())
            }
        }
    }

    fn settle_step(
        &self,
        plan: &mut Plan,
        arrived: &Arrived,
        step: &Step,
        (mut row, stored): (Row, Option<Vec<u8>>),
    ) -> Result<Plan, Undecided> {
        let id = step.reform;
        let on_the_way = !plan.relay.is_empty();
        // Of what passes by, only what the new parent has to know is its own to note.
        if on_the_way && !(step.kind == StepKind::Moved && row.to == self.unit.code) {
            return Ok(std::mem::take(plan));
        }
        let now = self.unit.clock.now_unix_ms();
        let mut next = row.apply(&self.unit.code, arrived.source(), step, now)?;
        if on_the_way {
            next.clear();
        }
        self.spread(plan, &mut row, next, now)?;
        for (number, envelope) in step.returned.iter().enumerate() {
            if row.unit == self.unit.code && step.kind == StepKind::Returned {
                let place = u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes();
                let key = [&key(id)[..], arrived.id().as_bytes(), &place].concat();
                plan.writes.push((Table::Returned, key, unit::encode_envelope(envelope)));
            }
        }
        if let Some(stored) = stored {
            plan.requires.push((Table::Reforms, key(id), stored));
        }
        plan.writes.push((Table::Reforms, key(id), row.encode()));
        let (unit, keys, wake) =
            (Arc::clone(&self.unit), step.agreement_keys.clone(), self.waking());
        plan.settled = Some(Box::new(move || {
            unit.add_readers(&keys);
            wake();
        }));
        Ok(std::mem::take(plan))
    }

    /// Steps that follow from a step: to other units as replies, to this one at once.
    fn spread(
        &self,
        plan: &mut Plan,
        row: &mut Row,
        mut next: Vec<(UnitCode, Step)>,
        now: UnixMillis,
    ) -> Result<(), Refused> {
        while let Some((to, step)) = next.pop() {
            if to == self.unit.code {
                let own = self.unit.code.clone();
                next.extend(row.apply(&own, &own, &step, now)?);
                continue;
            }
            let hop = self.unit.hop_to(&to);
            let hop = hop.ok_or_else(|| Refused::new("malformed", "body.to", "is out of reach"))?;
            plan.replies.push(Reply { draft: draft(&to, &step), to: hop, lane: Lane::Summary });
        }
        Ok(())
    }

    async fn stored(&self, id: StatementId) -> Result<Option<(Row, Vec<u8>)>, store::Error> {
        // The step before it may still be on its way to the store: an empty batch waits for it.
        self.unit.store.submit(store::Batch::new(&self.unit.code)).await?;
        let stored = self.unit.store.get(&self.unit.code, Table::Reforms, &key(id)).await?;
        stored.map(|stored| Ok((Row::decode(&stored)?, stored))).transpose()
    }

    async fn rows(&self) -> Result<Vec<(StatementId, Row)>, store::Error> {
        let rows = self.unit.store.scan(&self.unit.code, Table::Reforms, b"", None, usize::MAX);
        let mut read = Vec::new();
        for (key, value) in rows.await? {
            let id = StatementId::try_from(&key[..]);
            let id =
                id.map_err(|_| store::Error::Engine("the key of a reform is damaged".into()))?;
            read.push((id, Row::decode(&value)?));
        }
        Ok(read)
    }

    /// The reforms that concern the unit, the oldest first; questions of dry runs left out.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn list(&self) -> Result<Vec<Reform>, Error> {
        let rows = self.rows().await?;
        let shown = rows.iter().filter(|(_, row)| {
            // What stands here as a whole is shown as one.
            let whole = row.whole().filter(|whole| rows.iter().any(|(id, _)| id == whole));
            !row.asked_only && whole.is_none()
        });
        Ok(shown.map(|(id, row)| self.with_children(self.shown(*id, row), &rows)).collect())
    }

    /// One reform, or the question of a dry run.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], the store's.
    pub async fn show(&self, id: StatementId) -> Result<Reform, Error> {
        let (row, _) = self.stored(id).await?.ok_or(Error::NotFound(id))?;
        let shown = self.shown(id, &row);
        if row.parts.is_none() {
            return Ok(shown);
        }
        Ok(self.with_children(shown, &self.rows().await?))
    }

    fn shown(&self, id: StatementId, row: &Row) -> Reform {
        let shown = row.shown(id);
        if !row.merge {
            return shown;
        }
        let trust = self.unit.trust();
        let children = trust.children(&row.unit).into_iter();
        let children = children.filter(|child| !trust.has_left(child)).cloned().collect();
        Reform { ended: trust.has_left(&row.unit), children, ..shown }
    }

    /// Units that come here and that their old parent has not let go yet, as known here: it may still
    /// have them in its totals.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn coming(&self) -> Result<Vec<UnitCode>, store::Error> {
        let rows = self.rows().await?.into_iter().map(|(_, row)| row);
        let comes = |row: &Row| {
            row.to == self.unit.code && !row.asked_only && row.released_unix_ms.is_none()
        };
        Ok(rows.filter(comes).map(|row| row.unit).collect())
    }

    /// Children and periods whose figures an old parent may still hold in its totals.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn held_back(&self) -> Result<Vec<(UnitCode, String)>, store::Error> {
        let mut held = Vec::new();
        for (_, row) in self.rows().await? {
            if row.to == self.unit.code && !row.asked_only && row.released_unix_ms.is_none() {
                held.extend(row.periods.iter().map(|period| (row.unit.clone(), period.clone())));
            }
        }
        Ok(held)
    }
}

/// What a division names, checked against what is known of the tree.
fn division(trust: &Trust, wanted: &Wanted, parts: &WantedParts) -> Result<Division, Error> {
    let unit = &wanted.unit;
    let mut children = Vec::new();
    for child in &parts.children {
        let known = trust.delegation(child, None).ok_or_else(|| Error::Unknown(child.clone()))?;
        if known.delegation.issuer.as_ref() != Some(unit) {
            return Err(Error::NoChild { unit: unit.clone(), child: child.clone() });
        }
        if trust.merged_into(child).is_some() || trust.revoked(child, None).is_some() {
            return Err(Error::Gone(child.clone()));
        }
        children.push((child.clone(), keys_sha256(&known.delegation.keys)));
    }
    children.sort();
    children.dedup();
    let mut items: Vec<[u8; 16]> = parts.items.iter().map(|id| *id.as_bytes()).collect();
    items.sort_unstable();
    items.dedup();
    // A question may be what there is to name.
    if children.is_empty() && items.is_empty() && !wanted.dry_run {
        return Err(Error::Nothing(unit.clone()));
    }
    for (what, count, limit) in
        [("children", children.len(), MAX_CHILDREN), ("open items", items.len(), MAX_HANDED)]
    {
        if count > limit {
            return Err(Error::TooMany { what, count, limit });
        }
    }
    Ok(Division { children, items })
}

fn draft(to: &UnitCode, step: &Step) -> Draft {
    let mut draft = Draft::new(kinds::REFORM_STEP, step.reform.to_string(), encode_step(step));
    draft.destination = Some(to.clone());
    draft
}

/// Why a step of the tree does not hold, for a refusal.
impl From<trust::Error> for Refused {
    fn from(error: trust::Error) -> Self {
        Self::new(error.reason(), error.field(), error.to_string())
    }
}
