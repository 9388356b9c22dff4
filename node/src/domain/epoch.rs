//! How far a unit is, what of it was lost, and when its numbers have to begin anew.
//!
//! A unit numbers its statements within an epoch. A store that was brought back knows less than
//! its peers have seen; going on would use numbers twice. Pure comparison: who asks and what
//! follows is the services' business.

use super::unit::UnitCode;

/// Approvers that an opening names.
pub const APPROVERS: usize = 2;

/// Longest name of an approver, in bytes.
pub const MAX_APPROVER_BYTES: usize = 64;

/// Number of a statement of one unit: its epoch, and its place in it. (0, 0): none.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Number {
    /// Epoch, from 1.
    pub epoch: u64,
    /// Place, from 1.
    pub seq: u64,
}

/// How far a unit is, by itself or in the eyes of a peer.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Reach {
    /// Newest statement.
    pub number: Number,
    /// Leaves of the journal.
    pub journal_size: u64,
}

impl Reach {
    /// True if a peer has seen more of a unit than the unit is: it was rolled back. Within a new
    /// epoch only numbers of that epoch count, and the journal that goes on from its opening.
    pub fn is_behind(&self, seen: &Self) -> bool {
        if self.number.epoch > seen.number.epoch {
            return false;
        }
        self.number < seen.number || self.journal_size < seen.journal_size
    }

    /// The higher of both, number and journal apart.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            number: self.number.max(other.number),
            journal_size: self.journal_size.max(other.journal_size),
        }
    }
}

/// Why an epoch was opened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reason {
    /// The store was brought back.
    Restore,
    /// The unit moved to another host.
    Move,
}

impl Reason {
    /// The word used everywhere.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Restore => "restore",
            Self::Move => "move",
        }
    }

    /// The reason of a word.
    pub fn of(word: &str) -> Option<Self> {
        [Self::Restore, Self::Move].into_iter().find(|reason| reason.as_str() == word)
    }
}

/// A checkpoint in short.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Head {
    /// Leaves. 0: no checkpoint.
    pub size: u64,
    /// Root over them.
    pub root: [u8; 32],
}

/// An epoch that was opened, as its first leaf says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Opened {
    /// The epoch.
    pub epoch: u64,
    /// Why.
    pub reason: Reason,
    /// Newest checkpoint of the store that a witness cosigned.
    pub checkpoint: Head,
    /// Newest one that a peer said it cosigned, if larger.
    pub seen: Head,
    /// Who approved it.
    pub approvers: Vec<String>,
}

/// Body of an opening; see `proto/lianxi/types/v1/epoch.proto`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Opening {
    /// Trust domain of the city.
    pub trust_domain: String,
    /// The unit.
    pub unit: UnitCode,
    /// The epoch that begins.
    pub epoch: u64,
    /// Why.
    pub reason: Reason,
    /// Newest statement that the store holds.
    pub left: Number,
    /// Leaves before the opening.
    pub journal_size: u64,
    /// Newest checkpoint of the store that a witness cosigned: a signed note, or empty.
    pub checkpoint: String,
    /// Newest one that a peer said it cosigned, if larger; or empty.
    pub seen_checkpoint: String,
    /// Who approved it.
    pub approvers: Vec<String>,
    /// For people.
    pub text: String,
}

/// Why approvers do not do.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unapproved {
    /// Not two names.
    #[error(
        "an epoch is opened by two people, {0} named; name both with --approved-by, once for each"
    )]
    Count(usize),
    /// The same name twice.
    #[error("{0} is named twice; a second person has to approve")]
    Same(String),
    /// An empty or long name, or one with control characters.
    #[error("a name of an approver has 1 to 64 bytes without control characters")]
    Name,
}

/// Checks that two different people are named.
///
/// # Errors
///
/// [`Unapproved`].
pub fn check_approvers(names: &[String]) -> Result<(), Unapproved> {
    let [one, other] = names else { return Err(Unapproved::Count(names.len())) };
    let is_name = |name: &String| {
        let is_clean = !name.chars().any(char::is_control) && name.trim() == name.as_str();
        is_clean && !name.is_empty() && name.len() <= MAX_APPROVER_BYTES
    };
    if !is_name(one) || !is_name(other) {
        return Err(Unapproved::Name);
    }
    if one.to_lowercase() == other.to_lowercase() {
        return Err(Unapproved::Same(other.clone()));
    }
    Ok(())
}

/// What a peer misses after an opening: from the first to the last of what was lost.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Lost {
    /// Last statement that is not lost.
    pub after: Number,
    /// Last one that was seen. Not above `after`: none is lost.
    pub to: Number,
    /// Leaves that are not lost.
    pub journal_from: u64,
    /// Leaves that were seen. Not above `journal_from`: none is lost.
    pub journal_to: u64,
}

impl Lost {
    /// What `seen` holds beyond what was left, and beyond the leaves that were proved again.
    pub fn of(left: Number, proved: u64, seen: &Reach) -> Self {
        Self {
            after: left,
            to: seen.number.max(left),
            journal_from: proved,
            journal_to: seen.journal_size.max(proved),
        }
    }

    /// Leaves that are lost.
    pub fn leaves(&self) -> u64 {
        self.journal_to.saturating_sub(self.journal_from)
    }

    /// Statements that are lost, of the epoch that was left.
    pub fn statements(&self) -> u64 {
        match self.to.epoch.cmp(&self.after.epoch) {
            std::cmp::Ordering::Equal => self.to.seq.saturating_sub(self.after.seq),
            std::cmp::Ordering::Greater => self.to.seq,
            std::cmp::Ordering::Less => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(epoch: u64, seq: u64, journal_size: u64) -> Reach {
        Reach { number: Number { epoch, seq }, journal_size }
    }

    #[test]
    fn a_unit_is_behind_what_was_seen_of_it_in_number_or_journal() {
        let seen = reach(1, 42, 100);
        assert!(!reach(1, 42, 100).is_behind(&seen));
        assert!(!reach(1, 50, 130).is_behind(&seen));
        assert!(reach(1, 41, 130).is_behind(&seen));
        assert!(reach(1, 42, 99).is_behind(&seen), "records alone were lost");
        assert!(!Reach::default().is_behind(&Reach::default()));
    }

    #[test]
    fn an_older_epoch_is_behind_and_a_newer_one_is_not() {
        let seen = reach(2, 3, 100);
        assert!(reach(1, 90, 900).is_behind(&seen));
        assert!(!reach(3, 1, 5).is_behind(&seen));
        assert!(reach(2, 2, 500).is_behind(&seen));
    }

    #[test]
    fn two_different_people_approve() {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        assert_eq!(check_approvers(&names(&["li", "wang"])), Ok(()));
        assert_eq!(check_approvers(&names(&["li"])), Err(Unapproved::Count(1)));
        assert_eq!(check_approvers(&names(&["li", "wang", "sun"])), Err(Unapproved::Count(3)));
        let same = Err(Unapproved::Same("Li".to_owned()));
        assert_eq!(check_approvers(&names(&["li", "Li"])), same);
        for bad in ["", " li", "a\nb", &"x".repeat(65)] {
            assert_eq!(check_approvers(&names(&["li", bad])), Err(Unapproved::Name), "{bad:?}");
        }
    }

    #[test]
    fn what_is_lost_is_counted_from_what_was_left_to_what_was_seen() {
        let lost = Lost::of(Number { epoch: 1, seq: 40 }, 90, &reach(1, 42, 100));
        assert_eq!((lost.statements(), lost.leaves()), (2, 10));
        let nothing = Lost::of(Number { epoch: 1, seq: 42 }, 100, &reach(1, 42, 100));
        assert_eq!((nothing.statements(), nothing.leaves()), (0, 0));
        let ahead = Lost::of(Number { epoch: 1, seq: 50 }, 110, &reach(1, 42, 100));
        assert_eq!((ahead.statements(), ahead.leaves()), (0, 0));
    }
}
