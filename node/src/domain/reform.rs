//! A unit comes under another parent on a day (机构改革): what an order says, and to whom a period
//! belongs.
//!
//! Promises that a period belongs to exactly one parent, whatever is known where: to that of its
//! last day. Decides nothing about signatures.

use jiff::civil::Date;

use crate::{
    clock::UnixMillis,
    domain::{period::Period, unit::UnitCode},
};

/// Farthest day ahead of an order.
pub const MAX_AHEAD_DAYS: i32 = 366;

/// What is ordered; see `proto/lianxi/types/v1/reform.proto`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Order {
    /// Trust domain of the city.
    pub trust_domain: String,
    /// Unit that moves, with everything below it.
    pub unit: UnitCode,
    /// Its parent so far.
    pub from: UnitCode,
    /// Its new parent.
    pub to: UnitCode,
    /// First day under the new parent.
    pub on: Date,
    /// When that day begins.
    pub effective_unix_ms: UnixMillis,
    /// Digest of the keys that the unit moves with.
    pub keys_sha256: [u8; 32],
    /// For people.
    pub text: String,
    /// The unit comes under its sibling to end there.
    pub merge: bool,
    /// The unit is divided: it stays, and this goes to its sibling `to`.
    pub division: Option<Division>,
}

/// Most children that one order names: with these and the items a grant still holds it.
pub const MAX_CHILDREN: usize = 24;

/// Most open items that one order names.
pub const MAX_HANDED: usize = 32;

/// What goes to the sibling of a unit that is divided.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Division {
    /// Units right below, each with the digest of the keys that it moves with.
    pub children: Vec<(UnitCode, [u8; 32])>,
    /// Open notices and whistles, by id.
    pub items: Vec<[u8; 16]>,
}

impl Order {
    /// The move of `unit` that is ordered, or `None`: of a unit that is divided, that of a child.
    pub fn step_of(&self, unit: &UnitCode) -> Option<Self> {
        let Some(division) = &self.division else {
            return (self.unit == *unit).then(|| self.clone());
        };
        let (_, keys_sha256) = division.children.iter().find(|(child, _)| child == unit)?;
        Some(Self {
            unit: unit.clone(),
            from: self.unit.clone(),
            keys_sha256: *keys_sha256,
            division: None,
            ..self.clone()
        })
    }

    /// The moves of the children of a unit that is divided.
    pub fn steps(&self) -> Vec<Self> {
        let children = self.division.iter().flat_map(|division| &division.children);
        children.filter_map(|(child, _)| self.step_of(child)).collect()
    }

    /// Everybody whom the order names.
    pub fn parties(&self) -> Vec<UnitCode> {
        let children = self.division.iter().flat_map(|division| &division.children);
        let children = children.map(|(child, _)| child);
        [&self.unit, &self.from, &self.to].into_iter().chain(children).cloned().collect()
    }

    /// True if a period is the new parent's: its last day is not before the day of the order.
    pub fn is_new(&self, period: &Period) -> bool {
        period.last_day() >= self.on
    }
}

/// What the units concerned tell each other.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum StepKind {
    /// Down: what would be concerned?
    Asked,
    /// Up: this.
    Answered,
    /// Down: the new parent's invitation.
    Given,
    /// The unit stands under its new parent.
    Moved,
    /// No total of the old parent holds the unit's new figures any more.
    Released,
    /// What waited for the unit at its old parent.
    Returned,
    /// An open item of a unit that merges, for its successor.
    Handed,
}

/// What is open at a unit with another one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Item {
    /// `notice` or `escalation`.
    pub kind: String,
    /// Number that people say.
    pub number: String,
    /// The other side.
    pub party: UnitCode,
    /// Its id, where it is told.
    pub id: Option<[u8; 16]>,
}

/// What a reform concerns at one unit.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Count {
    /// Records.
    pub records: u64,
    /// Accounts with a role of the unit.
    pub accounts: u32,
    /// Open notices.
    pub notices: u32,
    /// Open escalations.
    pub escalations: u32,
    /// Running time limits.
    pub clocks: u32,
    /// The first of the open items.
    pub open: Vec<Item>,
}

/// The parent of a unit on `day`: `first`, or that of the last order that had begun.
pub fn parent_on<'a>(
    first: &'a UnitCode,
    moves: impl IntoIterator<Item = &'a Order>,
    day: Date,
) -> &'a UnitCode {
    let begun = moves.into_iter().filter(|order| order.on <= day);
    begun.last().map_or(first, |order| &order.to)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(to: &str, on: &str) -> Order {
        Order {
            trust_domain: "boston.example".to_owned(),
            unit: "X".parse().unwrap(),
            from: "A".parse().unwrap(),
            to: to.parse().unwrap(),
            on: on.parse().unwrap(),
            effective_unix_ms: 1,
            keys_sha256: [0; 32],
            text: String::new(),
            merge: false,
            division: None,
        }
    }

    #[test]
    fn a_division_is_a_move_of_each_child_that_it_names_and_of_nobody_else() {
        let code = |text: &str| text.parse::<UnitCode>().unwrap();
        let whole = Order {
            division: Some(Division {
                children: vec![(code("X-1"), [1; 32]), (code("X-2"), [2; 32])],
                items: vec![[7; 16]],
            }),
            ..order("Y", "2026-12-01")
        };
        let step = whole.step_of(&code("X-2")).unwrap();
        assert_eq!((&step.unit, &step.from, &step.to), (&code("X-2"), &code("X"), &code("Y")));
        assert_eq!((step.keys_sha256, step.on), ([2; 32], whole.on));
        assert_eq!(whole.step_of(&code("X")), None, "the divided unit stays");
        assert_eq!(whole.step_of(&code("X-3")), None);
        assert_eq!(whole.steps().len(), 2);
        assert_eq!(order("Y", "2026-12-01").steps(), []);
    }

    #[test]
    fn each_day_has_one_parent_and_a_period_that_of_its_last_day() {
        let first: UnitCode = "A".parse().unwrap();
        let moves = [order("B", "2026-12-01"), order("D", "2027-02-15")];
        let of = |period: &str| {
            let period: Period = period.parse().unwrap();
            parent_on(&first, &moves, period.last_day()).as_str().to_owned()
        };
        assert_eq!(of("2026-11"), "A");
        assert_eq!(of("2026-11-30"), "A");
        assert_eq!(of("2026-12-01"), "B");
        assert_eq!(of("2026"), "B", "the year ends under the new parent");
        assert_eq!(of("2026-Q4"), "B");
        assert_eq!(of("2027-01"), "B");
        assert_eq!(of("2027-02"), "D");
        assert!(moves[0].is_new(&"2026-Q4".parse().unwrap()));
        assert!(!moves[0].is_new(&"2026-11".parse().unwrap()));
    }
}
