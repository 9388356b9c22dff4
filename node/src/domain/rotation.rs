//! The change of a unit's keys, step by step.
//!
//! Promises that new keys sign nothing before those who have to verify them hold the grant that names
//! them, and that the former ones end only when nothing that they signed is still on its way. What
//! was done is told by facts, not by a mark: a step that was cut off is found undone, or done.

use std::{fmt, str::FromStr};

use crate::{clock::UnixMillis, domain::unit::UnitCode};

/// What is replaced.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Replaced {
    /// The key that signs statements.
    Statement,
    /// The key that signs the grants of children and desks.
    Delegation,
    /// The key that bodies are sealed to.
    Agreement,
    /// The CA that certificates for children are issued by.
    Ca,
    /// The root key, by itself: the others are a unit's own.
    Root,
}

impl Replaced {
    /// All of a unit's own.
    pub const ALL: [Self; 4] = [Self::Statement, Self::Delegation, Self::Agreement, Self::Ca];

    /// The word used everywhere.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Statement => "statement",
            Self::Delegation => "delegation",
            Self::Agreement => "agreement",
            Self::Ca => "ca",
            Self::Root => "root",
        }
    }
}

impl fmt::Display for Replaced {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// The text names nothing that is replaced.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("no such key; use statement, delegation, agreement or ca, or root by itself")]
pub struct Unknown;

impl FromStr for Replaced {
    type Err = Unknown;

    fn from_str(text: &str) -> Result<Self, Unknown> {
        Self::ALL.into_iter().chain([Self::Root]).find(|one| one.as_str() == text).ok_or(Unknown)
    }
}

/// How far a change of keys is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stage {
    /// The new keys are on disk; the grant that names them with the former ones is asked for.
    Prepared,
    /// It is granted; neighbours take it in.
    Granted,
    /// The unit uses the new keys; what the former ones signed is still on its way.
    InUse,
    /// The former keys have ended.
    Retired,
}

impl Stage {
    /// The word used everywhere.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prepared => "prepared",
            Self::Granted => "granted",
            Self::InUse => "in-use",
            Self::Retired => "retired",
        }
    }
}

/// What is the case.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Facts {
    /// The newest grant names the new keys.
    pub names_new: bool,
    /// The newest grant names a former key.
    pub names_former: bool,
    /// The unit uses the new keys.
    pub in_use: bool,
    /// Children that have not said that they hold the grant.
    pub missing: Vec<UnitCode>,
    /// Statements that the former key signed and that wait in the outboxes.
    pub unsent: u64,
    /// Grants of children and desks that rest on the former key.
    pub ungranted: usize,
    /// True while no neighbour has cosigned the journal since the new keys are in use.
    pub unwitnessed: bool,
    /// Children whose certificates are still of the former CA.
    pub uncertified: Vec<UnitCode>,
    /// Until when the former keys are to hold at least.
    pub overlap_ends_unix_ms: UnixMillis,
}

/// What to do next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// Ask the parent for a grant that names both.
    AskForBoth,
    /// Wait for the children.
    AwaitChildren,
    /// Use the new keys.
    TakeIntoUse,
    /// Grant children and desks anew, with the new key.
    GrantAnew,
    /// Wait until what the former keys signed has arrived.
    AwaitDrain,
    /// Ask the parent for a grant without the former keys.
    AskForNew,
    /// Forget the change: it is done.
    Finish,
}

impl Facts {
    /// How far the change is.
    pub fn stage(&self) -> Stage {
        match (self.in_use, self.names_new, self.names_former) {
            (true, _, false) => Stage::Retired,
            (true, _, true) => Stage::InUse,
            (false, true, _) => Stage::Granted,
            (false, false, _) => Stage::Prepared,
        }
    }

    /// What to do at `now`.
    pub fn next(&self, now: UnixMillis) -> Step {
        match self.stage() {
            Stage::Prepared => Step::AskForBoth,
            Stage::Granted if self.missing.is_empty() => Step::TakeIntoUse,
            Stage::Granted => Step::AwaitChildren,
            Stage::InUse if self.ungranted > 0 => Step::GrantAnew,
            Stage::InUse
                if self.unsent > 0
                    || self.unwitnessed
                    || !self.uncertified.is_empty()
                    || now < self.overlap_ends_unix_ms =>
            {
                Step::AwaitDrain
            }
            Stage::InUse => Step::AskForNew,
            Stage::Retired => Step::Finish,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared() -> Facts {
        Facts { names_former: true, overlap_ends_unix_ms: 100, ..Facts::default() }
    }

    #[test]
    fn new_keys_are_used_only_once_every_child_holds_their_grant() {
        assert_eq!(prepared().next(1_000), Step::AskForBoth);
        let missing = vec!["BOS-01".parse().unwrap()];
        let granted = Facts { names_new: true, missing, ..prepared() };
        assert_eq!((granted.stage(), granted.next(1_000)), (Stage::Granted, Step::AwaitChildren));
        let held = Facts { missing: Vec::new(), ..granted };
        assert_eq!(held.next(1_000), Step::TakeIntoUse);
    }

    #[test]
    fn former_keys_end_only_when_nothing_of_theirs_is_on_its_way() {
        let used = Facts { names_new: true, in_use: true, ..prepared() };
        assert_eq!(used.next(100), Step::AskForNew);
        assert_eq!(used.next(99), Step::AwaitDrain);
        assert_eq!(Facts { unsent: 1, ..used.clone() }.next(100), Step::AwaitDrain);
        assert_eq!(Facts { unwitnessed: true, ..used.clone() }.next(100), Step::AwaitDrain);
        let uncertified = vec!["BOS-01".parse().unwrap()];
        assert_eq!(Facts { uncertified, ..used.clone() }.next(100), Step::AwaitDrain);
        assert_eq!(Facts { ungranted: 1, ..used.clone() }.next(100), Step::GrantAnew);
        let retired = Facts { names_former: false, ..used };
        assert_eq!((retired.stage(), retired.next(0)), (Stage::Retired, Step::Finish));
    }

    #[test]
    fn words_come_back() {
        for one in Replaced::ALL.into_iter().chain([Replaced::Root]) {
            assert_eq!(one.as_str().parse(), Ok(one));
        }
        assert_eq!("tls".parse::<Replaced>(), Err(Unknown));
    }
}
