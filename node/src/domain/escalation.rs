//! Escalations (吹哨): the steps of a case, who may take each, and the clock that runs.

use std::time::Duration;

use crate::{
    clock::UnixMillis,
    domain::{
        lamp::{Deadline, Warning},
        personal,
        unit::{DeskId, UnitCode},
    },
};

pub use crate::domain::catalogue::EscalationKind as Kind;

/// Why an escalation or step was not accepted.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// A text is empty or too long.
    #[error("{field} has {length} bytes, 1 to {limit} are allowed")]
    Length {
        /// The field.
        field: &'static str,
        /// Its length.
        length: usize,
        /// The limit.
        limit: usize,
    },
    /// Looks like personal data.
    #[error(
        "{field} seems to hold {what}: an escalation carries no personal data, refer to a case number"
    )]
    PersonalData {
        /// The field.
        field: &'static str,
        /// What it looks like.
        what: &'static str,
    },
    /// A time limit that is zero or negative.
    #[error("{0} must be longer than nothing")]
    Limit(&'static str),
    /// The step does not follow the state.
    #[error("{to} does not follow {from}")]
    Order {
        /// State of the case.
        from: &'static str,
        /// Step asked for.
        to: &'static str,
    },
    /// A desk that is called already.
    #[error("desk {0} is called to this case already")]
    Called(DeskId),
    /// Someone else's step.
    #[error("{step} is for {who} to say")]
    Actor {
        /// The step.
        step: &'static str,
        /// Who may take it.
        who: &'static str,
    },
}

/// What a street raises.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Escalation {
    /// Number that people say.
    pub number: String,
    /// Kind.
    pub kind: Kind,
    /// Title.
    pub title: String,
    /// Text.
    pub text: String,
    /// Desk that leads.
    pub lead_desk: DeskId,
    /// Desks that help.
    pub co_desks: Vec<DeskId>,
    /// Time to answer.
    pub answer_within: Duration,
    /// Time to arrive.
    pub arrive_within: Duration,
    /// Post that approved it.
    pub approved_by: String,
}

impl Escalation {
    /// Checks what the contract asks of every escalation.
    ///
    /// # Errors
    ///
    /// The first field that does not hold.
    pub fn check(&self) -> Result<(), Error> {
        for (field, text, least, limit) in [
            ("number", &self.number, 1, 64),
            ("title", &self.title, 1, 200),
            ("text", &self.text, 0, 4_096),
            ("approved_by", &self.approved_by, 1, 64),
        ] {
            if text.len() < least || text.len() > limit {
                return Err(Error::Length { field, length: text.len(), limit });
            }
        }
        if self.answer_within.is_zero() {
            return Err(Error::Limit("answer_within"));
        }
        if self.arrive_within.is_zero() {
            return Err(Error::Limit("arrive_within"));
        }
        Ok(())
    }

    /// Checks what is asked of a new one beside [`Self::check`]: nothing personal.
    ///
    /// # Errors
    ///
    /// The first field that does not hold.
    pub fn check_new(&self) -> Result<(), Error> {
        self.check()?;
        for (field, text) in [("title", &self.title), ("text", &self.text)] {
            if let Some(what) = personal::find(text) {
                return Err(Error::PersonalData { field, what });
            }
        }
        Ok(())
    }

    /// Desks that the whistle calls, the one that leads first.
    pub fn desks(&self) -> impl Iterator<Item = &DeskId> {
        std::iter::once(&self.lead_desk).chain(&self.co_desks)
    }
}

/// A step of a case.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Step {
    /// 已分哨
    Routed,
    /// 应哨
    Answered,
    /// 报到
    Arrived,
    /// 处置
    Handled,
    /// 销号
    Closed,
    /// 撤哨
    Withdrawn,
    /// 退回
    Returned,
}

impl Step {
    /// The word used everywhere.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Routed => "routed",
            Self::Answered => "answered",
            Self::Arrived => "arrived",
            Self::Handled => "handled",
            Self::Closed => "closed",
            Self::Withdrawn => "withdrawn",
            Self::Returned => "returned",
        }
    }

    fn is_final(self) -> bool {
        matches!(self, Self::Closed | Self::Withdrawn)
    }
}

/// Who takes a step.
#[derive(Clone, Copy, Debug)]
pub struct Actor<'a> {
    /// Unit that signs.
    pub unit: &'a UnitCode,
    /// Its desk, if a desk signs.
    pub desk: Option<&'a DeskId>,
}

/// One step taken.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Taken {
    /// The step.
    pub step: Step,
    /// Unit that signed.
    pub unit: UnitCode,
    /// Its desk.
    pub desk: Option<DeskId>,
    /// What it said.
    pub note: String,
    /// The signer's clock.
    pub time_unix_ms: UnixMillis,
}

/// A case as one side knows it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Case {
    /// Street that raised it.
    pub source: UnitCode,
    /// Unit whose desks are called.
    pub destination: UnitCode,
    /// What was raised.
    pub escalation: Escalation,
    /// When, the street's clock.
    pub raised_unix_ms: UnixMillis,
    /// True for an exercise.
    pub exercise: bool,
    /// Desks that were called later.
    pub added: Vec<DeskId>,
    /// Desks that act no more, each with the one in its place, in the order in which that was said.
    pub succeeded: Vec<(DeskId, DeskId)>,
    /// Steps in the order in which they were taken in.
    pub history: Vec<Taken>,
}

impl Case {
    /// True if the desk was called, at once or later.
    pub fn calls(&self, desk: &DeskId) -> bool {
        self.escalation.desks().chain(&self.added).any(|called| called == desk)
    }

    /// True if the desk was called, and no other acts in its place.
    fn acts(&self, desk: &DeskId) -> bool {
        self.calls(desk) && !self.is_succeeded(desk)
    }

    /// Checks that `unit` may call `desk` to the case now.
    ///
    /// # Errors
    ///
    /// [`Error::Actor`], [`Error::Called`], [`Error::Order`] once the case has ended.
    pub fn check_add(&self, desk: &DeskId, unit: &UnitCode) -> Result<(), Error> {
        if *unit != self.source && *unit != self.destination {
            let who = "the street that raised it and the unit that was called";
            return Err(Error::Actor { step: "add-desk", who });
        }
        if self.calls(desk) {
            return Err(Error::Called(desk.clone()));
        }
        match self.state() {
            Some(state) if state.is_final() => {
                Err(Error::Order { from: state.as_str(), to: "add-desk" })
            }
            _ => Ok(()),
        }
    }

    /// Desks that lead or led the case, one after the other.
    fn leads(&self) -> Vec<&DeskId> {
        let mut leads = vec![&self.escalation.lead_desk];
        for (former, successor) in &self.succeeded {
            if leads.last() == Some(&former) {
                leads.push(successor);
            }
        }
        leads
    }

    /// True if another desk acts in the place of this one.
    pub fn is_succeeded(&self, desk: &DeskId) -> bool {
        self.succeeded.iter().any(|(former, _)| former == desk)
    }

    /// Checks that `unit` may put `desk` in the place of `former` now.
    ///
    /// # Errors
    ///
    /// [`Error::Actor`] for any but the unit that was called, and a desk that does not act;
    /// [`Error::Order`] once the case has ended.
    pub fn check_succeed(
        &self,
        former: &DeskId,
        desk: &DeskId,
        unit: &UnitCode,
    ) -> Result<(), Error> {
        let acts = self.acts(former) && !self.is_succeeded(desk);
        if *unit != self.destination || !acts || former == desk {
            let who = "the unit that was called, for a desk that acts in the case";
            return Err(Error::Actor { step: "succeed", who });
        }
        match self.state() {
            Some(state) if state.is_final() => {
                Err(Error::Order { from: state.as_str(), to: "succeed" })
            }
            _ => Ok(()),
        }
    }

    /// `desk` acts in the place of `former` from here on.
    pub fn succeed(&mut self, former: &DeskId, desk: &DeskId) {
        if !self.calls(desk) {
            self.added.push(desk.clone());
        }
        self.succeeded.push((former.clone(), desk.clone()));
    }

    /// State: the newest step of the case; a co-desk's steps do not move it.
    pub fn state(&self) -> Option<Step> {
        let leads = self.leads();
        let moves = |taken: &&Taken| taken.desk.as_ref().is_none_or(|desk| leads.contains(&desk));
        self.history.iter().rev().find(moves).map(|taken| taken.step)
    }

    /// Checks that `actor` may take `step` in the present state.
    ///
    /// # Errors
    ///
    /// [`Error::Actor`] for someone else's step, [`Error::Order`] for one that does not follow.
    pub fn check_step(&self, step: Step, actor: Actor<'_>) -> Result<(), Error> {
        self.check_actor(step, actor)?;
        let state = self.state();
        let leads = actor.desk.is_none_or(|desk| self.leads().last() == Some(&desk));
        let follows = match step {
            Step::Routed => state.is_none(),
            Step::Answered if leads => state == Some(Step::Routed),
            Step::Arrived if leads => state == Some(Step::Answered),
            Step::Handled if leads => state == Some(Step::Arrived),
            Step::Answered | Step::Arrived | Step::Handled => {
                state.is_some_and(|state| !state.is_final()) && self.helper_follows(step, actor)
            }
            Step::Closed => matches!(state, Some(Step::Handled | Step::Returned)),
            Step::Withdrawn => state.is_none_or(|state| !state.is_final()),
            Step::Returned => matches!(state, None | Some(Step::Routed)),
        };
        if follows {
            return Ok(());
        }
        Err(Error::Order { from: state.map_or("raised", Step::as_str), to: step.as_str() })
    }

    fn check_actor(&self, step: Step, actor: Actor<'_>) -> Result<(), Error> {
        let by_source = *actor.unit == self.source && actor.desk.is_none();
        let by_destination = *actor.unit == self.destination && actor.desk.is_none();
        let by_desk =
            *actor.unit == self.destination && actor.desk.is_some_and(|desk| self.acts(desk));
        let (allowed, who) = match step {
            Step::Closed | Step::Withdrawn => (by_source, "the street that raised it"),
            Step::Routed | Step::Returned => (by_destination, "the unit that was called"),
            Step::Answered | Step::Arrived | Step::Handled => (by_desk, "a desk that was called"),
        };
        if allowed { Ok(()) } else { Err(Error::Actor { step: step.as_str(), who }) }
    }

    /// A helping desk goes through the same steps in the same order.
    fn helper_follows(&self, step: Step, actor: Actor<'_>) -> bool {
        let last = self.history.iter().rev().find(|taken| taken.desk.as_ref() == actor.desk);
        match last.map(|taken| taken.step) {
            None => step == Step::Answered,
            Some(Step::Answered) => step == Step::Arrived,
            Some(Step::Arrived) => step == Step::Handled,
            Some(_) => false,
        }
    }

    /// End of the clock that runs, or `None`: to answer, then to arrive; both from the whistle.
    pub fn due_unix_ms(&self) -> Option<UnixMillis> {
        let limit = match self.state() {
            None | Some(Step::Routed) => self.escalation.answer_within,
            Some(Step::Answered) => self.escalation.arrive_within,
            Some(_) => return None,
        };
        Some(self.ends(limit))
    }

    /// Lamp of the clock that runs; once it has stopped, whether the arrival was in time; `done`
    /// once nothing more can happen.
    pub fn lamp(&self, now: UnixMillis, warning: Warning) -> &'static str {
        if self.is_final() {
            return "done";
        }
        let leads = self.leads();
        let arrived = self.history.iter().find(|taken| {
            let led = taken.desk.as_ref().is_some_and(|desk| leads.contains(&desk));
            taken.step == Step::Arrived && led
        });
        let due = self.due_unix_ms().unwrap_or_else(|| self.ends(self.escalation.arrive_within));
        let deadline =
            Deadline::new(self.raised_unix_ms, due, arrived.map(|taken| taken.time_unix_ms));
        deadline.lamp(now, warning).as_str()
    }

    fn ends(&self, limit: Duration) -> UnixMillis {
        let limit = i64::try_from(limit.as_millis()).unwrap_or(i64::MAX);
        self.raised_unix_ms.saturating_add(limit)
    }

    /// True once nothing more can happen.
    pub fn is_final(&self) -> bool {
        self.state().is_some_and(Step::is_final)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case() -> Case {
        Case {
            source: "S".parse().unwrap(),
            destination: "D".parse().unwrap(),
            escalation: Escalation {
                number: "〔2026〕1号".into(),
                kind: Kind::Emergency,
                title: "gas smell at the market".into(),
                text: String::new(),
                lead_desk: "GAS".parse().unwrap(),
                co_desks: vec!["FIRE".parse().unwrap()],
                answer_within: Duration::from_secs(600),
                arrive_within: Duration::from_secs(1_800),
                approved_by: "street head".into(),
            },
            raised_unix_ms: 1_000,
            exercise: false,
            added: Vec::new(),
            succeeded: Vec::new(),
            history: Vec::new(),
        }
    }

    fn take(case: &mut Case, step: Step, unit: &str, desk: Option<&str>) -> Result<(), Error> {
        let unit: UnitCode = unit.parse().unwrap();
        let desk: Option<DeskId> = desk.map(|desk| desk.parse().unwrap());
        case.check_step(step, Actor { unit: &unit, desk: desk.as_ref() })?;
        case.history.push(Taken { step, unit, desk, note: String::new(), time_unix_ms: 0 });
        Ok(())
    }

    #[test]
    fn a_case_runs_from_the_whistle_to_its_closing_by_the_street() {
        let mut case = case();
        take(&mut case, Step::Routed, "D", None).unwrap();
        take(&mut case, Step::Answered, "D", Some("GAS")).unwrap();
        take(&mut case, Step::Arrived, "D", Some("GAS")).unwrap();
        take(&mut case, Step::Handled, "D", Some("GAS")).unwrap();
        assert!(!case.is_final());
        take(&mut case, Step::Closed, "S", None).unwrap();
        assert!(case.is_final());
    }

    #[test]
    fn only_the_street_closes() {
        let mut case = case();
        take(&mut case, Step::Routed, "D", None).unwrap();
        for (unit, desk) in [("D", None), ("D", Some("GAS")), ("X", None)] {
            let error = take(&mut case, Step::Closed, unit, desk).unwrap_err();
            assert!(matches!(error, Error::Actor { .. }));
        }
        let error = take(&mut case, Step::Closed, "S", None).unwrap_err();
        assert!(matches!(error, Error::Order { from: "routed", to: "closed" }));
    }

    #[test]
    fn a_successor_leads_where_its_former_led_and_the_former_acts_no_more() {
        let desk = |text: &str| text.parse::<DeskId>().unwrap();
        let (street, called) = ("S".parse().unwrap(), "D".parse().unwrap());
        let mut case = case();
        take(&mut case, Step::Routed, "D", None).unwrap();
        take(&mut case, Step::Answered, "D", Some("GAS")).unwrap();
        case.check_succeed(&desk("GAS"), &desk("WATER"), &street).unwrap_err();
        case.check_succeed(&desk("WATER"), &desk("GAS"), &called).unwrap_err();
        case.check_succeed(&desk("GAS"), &desk("GAS"), &called).unwrap_err();
        case.check_succeed(&desk("GAS"), &desk("WATER"), &called).unwrap();
        case.succeed(&desk("GAS"), &desk("WATER"));
        assert_eq!(case.state(), Some(Step::Answered), "what was done stays done");
        take(&mut case, Step::Arrived, "D", Some("GAS")).unwrap_err();
        take(&mut case, Step::Arrived, "D", Some("WATER")).unwrap();
        assert_eq!(case.state(), Some(Step::Arrived));
        // The helper takes it over in turn; nobody comes back by a circle.
        case.check_succeed(&desk("WATER"), &desk("GAS"), &called).unwrap_err();
        case.check_succeed(&desk("WATER"), &desk("FIRE"), &called).unwrap();
        case.succeed(&desk("WATER"), &desk("FIRE"));
        take(&mut case, Step::Handled, "D", Some("FIRE")).unwrap();
        take(&mut case, Step::Closed, "S", None).unwrap();
        case.check_succeed(&desk("FIRE"), &desk("POLICE"), &called).unwrap_err();
    }

    #[test]
    fn desks_that_were_not_called_and_units_without_a_desk_cannot_answer() {
        let mut case = case();
        take(&mut case, Step::Routed, "D", None).unwrap();
        for (unit, desk) in [("D", Some("WATER")), ("D", None), ("X", Some("GAS"))] {
            take(&mut case, Step::Answered, unit, desk).unwrap_err();
        }
    }

    #[test]
    fn helping_desks_have_steps_of_their_own_that_do_not_move_the_case() {
        let mut case = case();
        take(&mut case, Step::Routed, "D", None).unwrap();
        take(&mut case, Step::Arrived, "D", Some("FIRE")).unwrap_err();
        take(&mut case, Step::Answered, "D", Some("FIRE")).unwrap();
        assert_eq!(case.state(), Some(Step::Routed));
        take(&mut case, Step::Answered, "D", Some("FIRE")).unwrap_err();
        take(&mut case, Step::Answered, "D", Some("GAS")).unwrap();
    }

    #[test]
    fn clocks_run_from_the_whistle_to_answer_then_to_arrive() {
        let mut case = case();
        assert_eq!(case.due_unix_ms(), Some(601_000));
        take(&mut case, Step::Routed, "D", None).unwrap();
        take(&mut case, Step::Answered, "D", Some("GAS")).unwrap();
        assert_eq!(case.due_unix_ms(), Some(1_801_000));
        assert_eq!(case.lamp(1_800_000, Warning::default()), "yellow");
        assert_eq!(case.lamp(1_801_001, Warning::default()), "red");
        take(&mut case, Step::Arrived, "D", Some("GAS")).unwrap();
        assert_eq!(case.due_unix_ms(), None);
    }
}
