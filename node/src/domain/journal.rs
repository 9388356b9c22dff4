//! What a unit's journal records: one leaf for each change of state, statement, and administrative
//! act.
//!
//! A leaf names who, what and when, and holds digests. It must never hold contents: the journal is
//! kept longer than what it speaks of, and its hashes are shown to neighbours.

use std::fmt;

use super::{
    epoch::Opened,
    unit::{DeskId, UnitCode},
};

/// Longest subject of an act that is kept; a longer one is a stranger's and is cut.
const MAX_SUBJECT_CHARACTERS: usize = 200;

/// Days that a journal keeps its leaves at least (log retention of the Cybersecurity Law, art. 21).
pub const MIN_RETENTION_DAYS: u32 = 180;

/// Who did something.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Actor(String);

impl Actor {
    /// The host by itself.
    pub fn node() -> Self {
        Self("node".to_owned())
    }

    /// A user of the host's operating system.
    pub fn uid(uid: u32) -> Self {
        Self(format!("uid:{uid}"))
    }

    /// As a leaf named somebody.
    pub fn recorded(text: &str) -> Self {
        Self(cut(text))
    }

    /// An account of the host.
    pub fn account(name: &str) -> Self {
        Self(format!("account:{}", cut(name)))
    }

    /// The same account, where it acts as the deputy of another one.
    #[must_use]
    pub fn on_behalf_of(self, head: &str) -> Self {
        Self(format!("{} for account:{}", self.0, cut(head)))
    }

    /// Another unit, over its link or while it joins.
    pub fn unit(code: &UnitCode) -> Self {
        Self(format!("unit:{code}"))
    }

    /// True for an account of the host, also where it acts as a deputy.
    pub fn is_account(&self) -> bool {
        self.0.starts_with("account:")
    }

    /// As it stands in a leaf.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A statement, by name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Statement {
    /// UUID of its header.
    pub id: [u8; 16],
    /// Type of its header.
    pub kind: String,
    /// Unit that it is from.
    pub source: UnitCode,
    /// SHA-256 of its payload.
    pub payload_sha256: [u8; 32],
}

/// A refused statement; what could not be read is not there.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refusal {
    /// UUID, type and source of its header.
    pub header: Option<([u8; 16], String, UnitCode)>,
    /// SHA-256 of its payload.
    pub payload_sha256: [u8; 32],
    /// Unit whose link brought it.
    pub peer: UnitCode,
    /// Reason word of the rejection.
    pub reason: String,
}

/// An administrative act.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Act {
    /// Who.
    pub actor: Actor,
    /// What: an area and a verb, e.g. `node.invite`.
    pub name: &'static str,
    /// What it was done to: a code or a name.
    pub subject: String,
    /// What became of it.
    pub outcome: Outcome,
    /// SHA-256 of what it was about.
    pub digest: Option<[u8; 32]>,
}

/// What became of an act.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// It was done.
    Done,
    /// It was refused, for this reason word.
    Refused(&'static str),
}

impl Act {
    /// An act that is done in the same commit.
    pub fn done(actor: Actor, name: &'static str, subject: impl Into<String>) -> Self {
        let subject = cut(&subject.into());
        Self { actor, name, subject, outcome: Outcome::Done, digest: None }
    }

    /// An attempt that was refused.
    pub fn refused(
        actor: Actor,
        name: &'static str,
        subject: impl Into<String>,
        reason: &'static str,
    ) -> Self {
        Self { outcome: Outcome::Refused(reason), ..Self::done(actor, name, subject) }
    }

    /// The act with the SHA-256 of what it is about.
    pub fn about(self, sha256: [u8; 32]) -> Self {
        Self { digest: Some(sha256), ..self }
    }
}

/// How a journal does not go on from what was seen of it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Breach {
    /// It is shorter than it was.
    Rollback,
    /// It has another history than before, or than others saw.
    SplitView,
}

impl Breach {
    /// The word used everywhere.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rollback => "rollback",
            Self::SplitView => "split-view",
        }
    }

    /// The breach of a word.
    pub fn of(word: &str) -> Option<Self> {
        [Self::Rollback, Self::SplitView].into_iter().find(|breach| breach.as_str() == word)
    }
}

/// What a witness says of a journal that does not go on from what it saw.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Alarm {
    /// Unit whose journal it is.
    pub unit: UnitCode,
    /// What is wrong.
    pub breach: Breach,
    /// Checkpoint that was held: a signed note.
    pub held: String,
    /// Checkpoint that was offered: a signed note.
    pub offered: String,
    /// The offered proof from the one to the other.
    pub consistency: Vec<[u8; 32]>,
}

/// What a leaf records.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Leaf {
    /// The unit signed a statement.
    StatementOut(Statement),
    /// The unit took a statement in.
    StatementIn(Statement),
    /// The unit refused a statement.
    StatementRefused(Refusal),
    /// A delegation was taken into trust.
    Delegation {
        /// Unit.
        unit: UnitCode,
        /// Desk; `None`: the unit itself.
        desk: Option<DeskId>,
        /// SHA-256 of its payload.
        payload_sha256: [u8; 32],
    },
    /// A record was written or removed.
    Record {
        /// Digest of the row, salted.
        salted_sha256: [u8; 32],
        /// Removed, not written.
        removed: bool,
    },
    /// An administrative act.
    Act(Act),
    /// The configuration that the host began to use, by its SHA-256.
    Config([u8; 32]),
    /// The unit's numbers begin anew.
    Epoch(Opened),
}

fn cut(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(MAX_SUBJECT_CHARACTERS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strangers_subject_is_cut_and_cannot_break_a_line() {
        let act = Act::refused(Actor::uid(7), "node.join", "a\nb".repeat(300), "unknown-token");
        assert_eq!(act.subject.chars().count(), MAX_SUBJECT_CHARACTERS);
        assert!(!act.subject.contains('\n'));
        assert_eq!(act.outcome, Outcome::Refused("unknown-token"));
    }

    #[test]
    fn actors_are_told_apart() {
        let code: UnitCode = "BOS".parse().unwrap();
        let all = [Actor::node(), Actor::uid(0), Actor::account("node"), Actor::unit(&code)];
        let shown: Vec<_> = all.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["node", "uid:0", "account:node", "unit:BOS"]);
    }
}
