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
}

impl Order {
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
        }
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
