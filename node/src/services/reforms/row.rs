//! What a unit knows of a reform, and what each step changes of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Wanted, WantedParts};
use crate::{
    clock::UnixMillis,
    domain::{
        reform::{Count, Division, Item, Order, StepKind},
        unit::UnitCode,
    },
    services::intake::Refused,
    statement::{header::StatementId, reform::Step},
    store::{self, format},
};

const FORMAT: u8 = 1;

/// Key in [`Table::Reforms`](store::Table::Reforms).
pub(super) fn key(id: StatementId) -> Vec<u8> {
    id.as_bytes().to_vec()
}

/// What a unit answered.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Answer {
    /// Records of the unit.
    pub records: u64,
    /// Accounts with a role of the unit.
    pub accounts: u32,
    /// Open notices.
    pub notices: u32,
    /// Open escalations.
    pub escalations: u32,
    /// Running time limits.
    pub clocks: u32,
    /// The first open items: kind, number, other side.
    pub open: Vec<(String, String, UnitCode)>,
    /// Ids of these, in their order. Absent in rows from before they were told.
    #[serde(default)]
    pub ids: Vec<Option<[u8; 16]>>,
    /// Why the unit does not take part, or empty.
    pub refused: String,
}

/// A reform as it stands here.
#[derive(Clone, Debug)]
pub struct Reform {
    /// Its order, or the question of a dry run.
    pub id: StatementId,
    /// Unit that gave the order.
    pub by: UnitCode,
    /// Unit that moves.
    pub unit: UnitCode,
    /// Its parent so far.
    pub from: UnitCode,
    /// Its new parent.
    pub to: UnitCode,
    /// First day there; empty in a question.
    pub on: String,
    /// For people.
    pub text: String,
    /// When it was ordered here, or came.
    pub time_unix_ms: UnixMillis,
    /// What the units concerned answered, as known here.
    pub answers: BTreeMap<UnitCode, Answer>,
    /// Units that have not answered; known where the order was given.
    pub silent: Vec<UnitCode>,
    /// When the unit moved, as known here.
    pub moved_unix_ms: Option<UnixMillis>,
    /// When the old parent let its figures go, as known here.
    pub released_unix_ms: Option<UnixMillis>,
    /// The unit ends under its new parent.
    pub merge: bool,
    /// It has, as known here.
    pub ended: bool,
    /// Of a merge: units right below it, as known here. Of a division: those that go.
    pub children: Vec<UnitCode>,
    /// Of a division: what else goes to the sibling, by id; `None`: the unit is not divided.
    pub items: Option<Vec<StatementId>>,
    /// The division of which this is the move of a child.
    pub part_of: Option<StatementId>,
    /// Of a division, where the order was given: all have been told that it takes place.
    pub settled: bool,
}

/// What goes to the sibling of a unit that is divided, as its row keeps it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Parts {
    pub(super) children: Vec<UnitCode>,
    pub(super) items: Vec<[u8; 16]>,
}

impl Parts {
    /// In the order in which a division names them.
    fn wanted(wanted: &WantedParts) -> Self {
        let mut children = wanted.children.clone();
        children.sort();
        children.dedup();
        let mut items: Vec<[u8; 16]> = wanted.items.iter().map(|id| *id.as_bytes()).collect();
        items.sort_unstable();
        items.dedup();
        Self { children, items }
    }
}

impl From<&Division> for Parts {
    fn from(division: &Division) -> Self {
        let children = division.children.iter().map(|(child, _)| child.clone()).collect();
        Self { children, items: division.items.clone() }
    }
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Row {
    pub(super) by: UnitCode,
    pub(super) unit: UnitCode,
    pub(super) from: UnitCode,
    pub(super) to: UnitCode,
    pub(super) on: String,
    pub(super) effective_unix_ms: UnixMillis,
    text: String,
    time_unix_ms: UnixMillis,
    pub(super) asked_only: bool,
    /// This unit was asked, and has what it needs to answer.
    pub(super) asked: bool,
    /// This unit's own answer was made.
    pub(super) answered: bool,
    pub(super) token: Option<String>,
    answers: BTreeMap<UnitCode, Answer>,
    pub(super) periods: Vec<String>,
    pub(super) moved_unix_ms: Option<UnixMillis>,
    pub(super) released_unix_ms: Option<UnixMillis>,
    /// The old parent has let the unit go; noted there.
    pub(super) let_go_unix_ms: Option<UnixMillis>,
    /// The new parent has added up what it had held back; noted there.
    pub(super) added_up: bool,
    /// The unit has sent again what it had reported; noted there.
    pub(super) resubmitted: bool,
    /// The unit ends under its new parent. Absent in rows from before there were any.
    #[serde(default)]
    pub(super) merge: bool,
    /// Last of the statements with which the unit handed over what it had open; noted there.
    #[serde(default)]
    pub(super) handed: Option<String>,
    /// The unit has shown that its reports were there before; noted there.
    #[serde(default)]
    pub(super) shown: bool,
    /// What goes to the sibling of a unit that is divided. Absent in rows from before there were any.
    #[serde(default)]
    pub(super) parts: Option<Parts>,
    /// Id of the division of which this is the move of a child.
    #[serde(default)]
    pub(super) part_of: Option<String>,
    /// Serial of the unit's grant that the new parent was given; noted where the order was given. 0 in
    /// rows from before it was noted.
    #[serde(default)]
    pub(super) introduced: u64,
    /// All have been told that the division takes place; noted where the order was given.
    #[serde(default)]
    pub(super) settled: bool,
}

impl Row {
    pub(super) fn new(by: UnitCode, order: &Order, now: UnixMillis, asked_only: bool) -> Self {
        Self {
            by,
            unit: order.unit.clone(),
            from: order.from.clone(),
            to: order.to.clone(),
            on: order.on.to_string(),
            effective_unix_ms: order.effective_unix_ms,
            text: order.text.clone(),
            time_unix_ms: now,
            asked_only,
            asked: false,
            answered: false,
            token: None,
            answers: BTreeMap::new(),
            periods: Vec::new(),
            moved_unix_ms: None,
            released_unix_ms: None,
            let_go_unix_ms: None,
            added_up: false,
            resubmitted: false,
            merge: order.merge,
            handed: None,
            shown: false,
            parts: order.division.as_ref().map(Parts::from),
            part_of: None,
            introduced: 0,
            settled: false,
        }
    }

    /// The move of a child by the division `whole`.
    pub(super) fn part(self, whole: StatementId) -> Self {
        Self { part_of: Some(whole.to_string()), ..self }
    }

    /// The division of which this is a part.
    pub(super) fn whole(&self) -> Option<StatementId> {
        self.part_of.as_ref()?.parse().ok()
    }

    /// Of a question: nothing is ordered.
    pub(super) fn question(
        by: UnitCode,
        (unit, from, to): (UnitCode, UnitCode, UnitCode),
        now: UnixMillis,
    ) -> Self {
        Self {
            by,
            unit,
            from,
            to,
            on: String::new(),
            effective_unix_ms: 0,
            text: String::new(),
            time_unix_ms: now,
            asked_only: true,
            asked: false,
            answered: false,
            token: None,
            answers: BTreeMap::new(),
            periods: Vec::new(),
            moved_unix_ms: None,
            released_unix_ms: None,
            let_go_unix_ms: None,
            added_up: false,
            resubmitted: false,
            merge: false,
            handed: None,
            shown: false,
            parts: None,
            part_of: None,
            introduced: 0,
            settled: false,
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        format::write(FORMAT, self)
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, store::Error> {
        format::read(FORMAT, bytes)
    }

    /// True if a unit has answered, and takes part.
    pub(super) fn has_answered(&self, unit: &UnitCode) -> bool {
        self.answers.get(unit).is_some_and(|answer| answer.refused.is_empty())
    }

    pub(super) fn parties(&self) -> [&UnitCode; 3] {
        [&self.unit, &self.from, &self.to]
    }

    /// True until the unit has moved, or the order lapsed because nobody answered to it in time.
    pub(super) fn is_pending(&self, now: UnixMillis) -> bool {
        let late = self.effective_unix_ms.saturating_add(super::carry::TOKEN_OUTLIVES_MS);
        !self.asked_only && self.moved_unix_ms.is_none() && !self.is_refused() && now < late
    }

    /// True if one of the units concerned does not take part.
    pub(super) fn is_refused(&self) -> bool {
        self.answers.values().any(|answer| !answer.refused.is_empty())
    }

    /// True if this is an order for what is wanted.
    pub(super) fn says(&self, wanted: &Wanted) -> bool {
        let parts = wanted.parts.as_ref().map(Parts::wanted);
        (&self.unit, &self.to, self.merge) == (&wanted.unit, &wanted.to, wanted.merge)
            && self.on == wanted.on.to_string()
            && self.parts == parts
    }

    /// True if an order cannot be given before this one is done: about the same unit, or one that
    /// others come to.
    pub(super) fn bars(&self, order: &Order, now: UnixMillis) -> bool {
        let concerns = self.unit == order.unit
            || (self.unit == order.to && (self.moves_whole(order)))
            || (self.to == order.unit && (self.moves_whole(order)));
        concerns && self.is_pending(now)
    }

    /// True if one of two orders needs both of its units to stay where they are until it is done.
    fn moves_whole(&self, order: &Order) -> bool {
        self.merge || order.merge || self.parts.is_some() || order.division.is_some()
    }

    pub(super) fn shown(&self, id: StatementId) -> Reform {
        let silent = self.parties().into_iter().filter(|party| !self.answers.contains_key(*party));
        Reform {
            id,
            by: self.by.clone(),
            unit: self.unit.clone(),
            from: self.from.clone(),
            to: self.to.clone(),
            on: self.on.clone(),
            text: self.text.clone(),
            time_unix_ms: self.time_unix_ms,
            silent: silent.cloned().collect(),
            answers: self.answers.clone(),
            moved_unix_ms: self.moved_unix_ms,
            released_unix_ms: self.released_unix_ms,
            merge: self.merge,
            ended: false,
            children: self.parts.iter().flat_map(|parts| &parts.children).cloned().collect(),
            items: self.parts.as_ref().map(|parts| {
                let ids = parts.items.iter().filter_map(|id| StatementId::try_from(&id[..]).ok());
                ids.collect()
            }),
            part_of: self.whole(),
            settled: self.settled,
        }
    }

    /// What a step of `source` changes at `own`, and the steps that follow from it.
    pub(super) fn apply(
        &mut self,
        own: &UnitCode,
        source: &UnitCode,
        step: &Step,
        now: UnixMillis,
    ) -> Result<Vec<(UnitCode, Step)>, Refused> {
        let (is_by, from_by) = (*own == self.by, *source == self.by);
        let wrong = || Err(not_its_step(source));
        let mut next = Vec::new();
        match step.kind {
            StepKind::Asked if from_by => self.asked = true,
            StepKind::Answered if is_by && self.parties().contains(&source) => {
                next.extend(self.take_answer(source, step));
            }
            StepKind::Given if from_by && self.is_given_to(own) && !self.asked_only => {
                self.token = Some(step.token.clone());
            }
            StepKind::Moved if *source == self.unit && (is_by || *own == self.to) => {
                self.note_moved(step, now);
                if is_by {
                    let on = Step { token: String::new(), ..step.clone() };
                    let sibling = self.parts.as_ref().map(|_| self.to.clone());
                    next.extend(sibling.map(|sibling| (sibling, on.clone())));
                    next.push((self.from.clone(), on));
                }
            }
            StepKind::Moved if from_by && self.hears_of_move(own) => self.note_moved(step, now),
            StepKind::Released if is_by && *source == self.from => {
                self.released_unix_ms.get_or_insert(now);
                next.push((self.to.clone(), Step::new(step.reform, StepKind::Released)));
                if self.merge {
                    next.push((self.unit.clone(), Step::new(step.reform, StepKind::Released)));
                }
            }
            StepKind::Released
                if from_by && (*own == self.to || (self.merge && *own == self.unit)) =>
            {
                self.released_unix_ms.get_or_insert(now);
            }
            StepKind::Returned if is_by && *source == self.from => {
                next.push((self.unit.clone(), step.clone()));
            }
            StepKind::Returned if from_by && *own == self.unit => {}
            StepKind::Handed if *source == self.unit && self.is_handed_to(own) => {}
            StepKind::Asked
            | StepKind::Answered
            | StepKind::Given
            | StepKind::Moved
            | StepKind::Released
            | StepKind::Returned
            | StepKind::Handed => return wrong(),
        }
        Ok(next)
    }

    /// Keeps what a unit answered; returns the invitation for the unit that moves, if it goes on.
    fn take_answer(&mut self, source: &UnitCode, step: &Step) -> Option<(UnitCode, Step)> {
        let answer = Answer::of(step.count.clone().unwrap_or_default(), &step.refused);
        self.answers.insert(source.clone(), answer);
        let invited = *source == self.to && !self.asked_only && !step.token.is_empty();
        let token = invited.then(|| step.token.clone())?;
        if self.part_of.is_some() {
            // Nobody goes before each has been invited.
            self.token = Some(token);
            return None;
        }
        Some((self.unit.clone(), Step { token, ..Step::new(step.reform, StepKind::Given) }))
    }

    /// Whom the unit that gave the order tells that it was carried out.
    fn hears_of_move(&self, own: &UnitCode) -> bool {
        *own == self.from || (self.parts.is_some() && *own == self.to)
    }

    /// Who is handed something by the unit.
    fn is_handed_to(&self, own: &UnitCode) -> bool {
        let hands = self.merge || self.parts.is_some();
        (hands && *own == self.to) || (self.merge && *own == self.from)
    }

    fn note_moved(&mut self, step: &Step, now: UnixMillis) {
        self.periods = step.periods.iter().map(ToString::to_string).collect();
        self.moved_unix_ms.get_or_insert(now);
        if self.parts.is_some() {
            // The figures that are let go are those of its children, each with its own move.
            self.released_unix_ms.get_or_insert(now);
        }
    }

    /// Whom the unit that gave the order tells that it takes place.
    fn is_given_to(&self, own: &UnitCode) -> bool {
        *own == self.unit || (self.parts.is_some() && *own == self.to)
    }
}

fn not_its_step(source: &UnitCode) -> Refused {
    let detail = format!("this step of the reform is not {source}'s to take");
    Refused::new("wrong-source", "body.kind", detail)
}

impl Answer {
    fn of(count: Count, refused: &str) -> Self {
        let ids = count.open.iter().map(|item| item.id).collect();
        let item = |Item { kind, number, party, .. }: Item| (kind, number, party);
        Self {
            records: count.records,
            accounts: count.accounts,
            notices: count.notices,
            escalations: count.escalations,
            clocks: count.clocks,
            open: count.open.into_iter().map(item).collect(),
            ids,
            refused: refused.to_owned(),
        }
    }
}
