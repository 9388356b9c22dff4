//! A statement on its way in: what was verified of it, and what its service decides.

use crate::{
    domain::{
        journal::{self, Leaf},
        unit::{DeskId, UnitCode},
    },
    services::{
        exchange::Lane,
        unit::{Draft, ReadError},
    },
    statement::{
        Envelope, SaltedCell,
        header::{Malformed, Statement, StatementId},
    },
    store::{self, Table},
};

/// A statement whose signature and source hold.
#[derive(Clone, Debug)]
pub struct Arrived {
    /// Peer that brought it.
    pub peer: UnitCode,
    /// True if the peer is a child.
    pub from_child: bool,
    /// As it was signed.
    pub envelope: Envelope,
    /// What it says.
    pub statement: Statement,
    /// Desk that signed it, if no unit did.
    pub desk: Option<DeskId>,
    /// Digest of its payload.
    pub payload_sha256: [u8; 32],
    /// Cells beside it.
    pub cells: Vec<SaltedCell>,
}

impl Arrived {
    /// Its id.
    pub fn id(&self) -> StatementId {
        self.statement.header.id
    }

    /// Its source.
    pub fn source(&self) -> &UnitCode {
        &self.statement.header.source
    }
}

/// Why a statement is quarantined.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refused {
    /// Fixed word of `Rejection.reason`.
    pub reason: &'static str,
    /// Dotted path of the field at fault, or empty.
    pub field: String,
    /// One sentence for the operator.
    pub detail: String,
}

impl Refused {
    /// A refusal.
    pub fn new(reason: &'static str, field: &str, detail: impl Into<String>) -> Self {
        Self { reason, field: field.to_owned(), detail: detail.into() }
    }
}

impl From<Malformed> for Refused {
    fn from(malformed: Malformed) -> Self {
        Self::new("malformed", &malformed.field, malformed.reason)
    }
}

/// Why a service did not decide.
#[derive(Debug)]
pub enum Undecided {
    /// The statement is quarantined.
    Refused(Refused),
    /// The store failed: the link tries again.
    Store(store::Error),
}

impl From<Refused> for Undecided {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl From<Malformed> for Undecided {
    fn from(malformed: Malformed) -> Self {
        Self::Refused(malformed.into())
    }
}

impl From<ReadError> for Undecided {
    fn from(error: ReadError) -> Self {
        Self::Refused(error.into())
    }
}

impl From<store::Error> for Undecided {
    fn from(error: store::Error) -> Self {
        Self::Store(error)
    }
}

/// A statement of this unit that answers the one that came in.
#[derive(Clone, Debug)]
pub struct Reply {
    /// What it says.
    pub draft: Draft,
    /// Next hop.
    pub to: UnitCode,
    /// Lane.
    pub lane: Lane,
}

/// What a service decides: all of it is one commit.
#[derive(Default)]
pub struct Plan {
    /// Rows to write.
    pub writes: Vec<(Table, Vec<u8>, Vec<u8>)>,
    /// Rows to remove.
    pub deletes: Vec<(Table, Vec<u8>)>,
    /// Rows that must be as they were read: else the link brings the statement again.
    pub requires: Vec<(Table, Vec<u8>, Vec<u8>)>,
    /// A statement that came inside the one taken in, to keep as well.
    pub inside: Option<(Envelope, journal::Statement)>,
    /// Leaves of the journal, besides that of the statement taken in.
    pub leaves: Vec<Leaf>,
    /// Cells are kept beside the statement.
    pub keep_cells: bool,
    /// Peers that the statement goes on to, unchanged, in its own lane.
    pub relay: Vec<UnitCode>,
    /// Answers.
    pub replies: Vec<Reply>,
    /// Called once everything is durable.
    pub settled: Option<Box<dyn FnOnce() + Send>>,
}

impl std::fmt::Debug for Plan {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Plan")
            .field("writes", &self.writes.len())
            .field("relay", &self.relay)
            .finish_non_exhaustive()
    }
}
