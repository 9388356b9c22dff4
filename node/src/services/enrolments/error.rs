//! Why a unit was not invited, let in or given new certificates.

use crate::{
    clock::UnixMillis,
    domain::unit::{Level, UnitCode},
    identity::{certificates, trust},
    services::error::{ErrorKind, ServiceError},
    statement::header::Malformed,
    store,
};

/// Why a child was not invited or not let in.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such token, or not its secret: which of the two is not told.
    #[error("no such token at {0}; ask for a new one, and check that it is from this parent")]
    UnknownToken(UnitCode),
    /// So many wrong ones came from there, or for this token, that even the right one waits.
    #[error(
        "too many wrong tokens were tried from this address or for this token; wait until \
         {until_unix_ms} ms by this host's clock, and see `lianxi journal show --act node.join`"
    )]
    Guessed {
        /// When attempts are judged again, the parent's clock.
        until_unix_ms: UnixMillis,
    },
    /// Its time is over.
    #[error("the token has expired; ask {0} for a new one")]
    Expired(UnitCode),
    /// It was used, by another key.
    #[error(
        "the token was used; if {0} did not use it itself, tell its parent, and ask for a new one"
    )]
    Spent(UnitCode),
    /// Another key has reserved it, until then.
    #[error(
        "the token is reserved for another key until {until_unix_ms} ms; if {unit} is not joining from elsewhere, tell its parent"
    )]
    Reserved {
        /// Unit of the token.
        unit: UnitCode,
        /// When the reservation ends, the parent's clock.
        until_unix_ms: UnixMillis,
    },
    /// Confirmed without a reservation that still holds.
    #[error("the token is not reserved, or no longer; run the join again")]
    NotReserved,
    /// The child calls itself otherwise than the token does.
    #[error("the token is for {invited}, a {level}, not for {claimed}; use the token of that unit")]
    OtherUnit {
        /// Unit of the token.
        invited: UnitCode,
        /// Its level.
        level: Level,
        /// What the child says.
        claimed: UnitCode,
        /// Word for the journal: whose place it asks for.
        claim: &'static str,
    },
    /// The certificate is of another unit than the token.
    #[error("the certificate is of {0}, for whom this token is not")]
    OtherPeer(UnitCode),
    /// The child, or this unit itself, was revoked.
    #[error("{0}")]
    Revoked(String),
    /// The child has joined.
    #[error("{0} has joined already")]
    AlreadyJoined(UnitCode),
    /// The unit is somewhere else in the tree.
    #[error("{child} is known under {parent} and cannot join here")]
    Elsewhere {
        /// The unit.
        child: UnitCode,
        /// Where it is.
        parent: String,
    },
    /// The invitation of a reform is good for the keys that the order names, or that the old parent
    /// granted since.
    #[error(
        "{0} moves with the keys that its old parent granted, and these are others, or that grant has not come here yet; the unit that gave the order brings it: look at the link to it"
    )]
    OtherKeys(UnitCode),
    /// The day of the order has not come.
    #[error("{child} comes under this unit at {effective_unix_ms} ms by this host's clock; wait")]
    TooEarly {
        /// The unit.
        child: UnitCode,
        /// When.
        effective_unix_ms: UnixMillis,
    },
    /// A child must be of a lower level.
    #[error("a {own} cannot have a {level} below it; choose a lower level")]
    Level {
        /// Level of this unit.
        own: Level,
        /// Level asked for.
        level: Level,
    },
    /// A field is not what it should be.
    #[error("the request is malformed at {0}")]
    Malformed(#[from] Malformed),
    /// No address to put into a token.
    #[error("this host has no address that children can dial; set one in its configuration")]
    NoAddress,
    /// This unit's own delegation is over.
    #[error("the delegation of {0} has ended; renew it first")]
    IssuerExpired(UnitCode),
    /// The delegation would not hold.
    #[error("the delegation would not hold: {0}")]
    Trust(#[from] trust::Error),
    /// The certificate request does not hold, or signing failed.
    #[error("no certificate: {0}")]
    Certificate(#[from] certificates::Error),
    /// The child was away for longer than the budget allows.
    #[error(
        "the last certificate of {child} ended {ago_days} days ago, over the {within_days} that {parent} allows; ask {parent} to let it in with `lianxi node recover --approve {child}`"
    )]
    RecoveryLate {
        /// The child.
        child: UnitCode,
        /// This unit.
        parent: UnitCode,
        /// Days since its last certificate ended.
        ago_days: i64,
        /// Days of the budget.
        within_days: i64,
    },
    /// The child has let its certificates lapse more often than the budget allows.
    #[error(
        "{child} has recovered {times} times within {window_days} days; find out why its certificates lapse, then ask {parent} to let it in with `lianxi node recover --approve {child}`"
    )]
    RecoveryBudget {
        /// The child.
        child: UnitCode,
        /// This unit.
        parent: UnitCode,
        /// Recoveries within the window.
        times: u32,
        /// Days of the window.
        window_days: i64,
    },
    /// The unit is no child here any more, or never was.
    #[error("{child} is no child of {parent}; invite it again")]
    NoChild {
        /// The unit.
        child: UnitCode,
        /// This unit.
        parent: UnitCode,
    },
    /// Keys that are asked for were not proved to be the unit's.
    #[error("the unit does not prove that the keys are its own: {0}")]
    NotProven(#[source] Malformed),
    /// The request for other keys was made before the newest grant.
    #[error(
        "the request of {child} rests on grant {rests_on}, but {newest} is the newest; ask again"
    )]
    StaleRotation {
        /// The child.
        child: UnitCode,
        /// Serial that it names.
        rests_on: u64,
        /// Serial of the newest.
        newest: u64,
    },
    /// A root that cannot come under this unit.
    #[error("{text}")]
    Adoption {
        /// Fixed word.
        reason: &'static str,
        /// What is wrong, with the remedy.
        text: String,
    },
    /// A stored row is not readable.
    #[error("a stored {0} cannot be read; it was written by a later version or is damaged")]
    Row(&'static str),
    /// The store failed; nothing was done.
    #[error("cannot store the step")]
    Store(#[from] store::Error),
}

impl Error {
    /// True if the unit has joined, and only its recovery is in question.
    pub(super) fn is_of_recovery(&self) -> bool {
        matches!(self, Self::RecoveryLate { .. } | Self::RecoveryBudget { .. })
    }

    /// Fixed word for the journal.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::UnknownToken(_) => "unknown-token",
            Self::Guessed { .. } => "locked-out",
            Self::Expired(_) => "token-expired",
            Self::Spent(_) => "token-spent",
            Self::Reserved { .. } => "token-reserved",
            Self::NotReserved => "not-reserved",
            Self::OtherUnit { claim, .. } => claim,
            Self::OtherPeer(_) => "other-peer",
            Self::Revoked(_) => "revoked",
            Self::AlreadyJoined(_) => "already-joined",
            Self::Elsewhere { .. } => "elsewhere",
            Self::OtherKeys(_) => "other-keys",
            Self::TooEarly { .. } => "too-early",
            Self::Level { .. } => "level",
            Self::Malformed(_) => "malformed",
            Self::NoAddress => "no-address",
            Self::IssuerExpired(_) => "issuer-expired",
            Self::Trust(error) => error.reason(),
            Self::Certificate(_) => "certificate",
            Self::RecoveryLate { .. } => "recovery-late",
            Self::RecoveryBudget { .. } => "recovery-budget",
            Self::NoChild { .. } => "no-child",
            Self::NotProven(_) => "not-proven",
            Self::StaleRotation { .. } => "stale-rotation",
            Self::Adoption { reason, .. } => reason,
            Self::Row(_) | Self::Store(_) => "store",
        }
    }
}

impl ServiceError for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::UnknownToken(_) => ErrorKind::Unauthenticated,
            Self::Guessed { .. }
            | Self::Expired(_)
            | Self::Spent(_)
            | Self::Reserved { .. }
            | Self::NotReserved
            | Self::Elsewhere { .. }
            | Self::TooEarly { .. }
            | Self::NoAddress
            | Self::IssuerExpired(_)
            | Self::Revoked(_)
            | Self::RecoveryLate { .. }
            | Self::RecoveryBudget { .. }
            | Self::StaleRotation { .. }
            | Self::Adoption { .. }
            | Self::Trust(_) => ErrorKind::FailedPrecondition,
            Self::NoChild { .. } => ErrorKind::NotFound,
            Self::AlreadyJoined(_) => ErrorKind::AlreadyExists,
            Self::OtherUnit { .. }
            | Self::Level { .. }
            | Self::NotProven(_)
            | Self::Malformed(_)
            | Self::Certificate(_) => ErrorKind::InvalidArgument,
            Self::OtherPeer(_) | Self::OtherKeys(_) => ErrorKind::PermissionDenied,
            Self::Row(_) => ErrorKind::Internal,
            Self::Store(error) => error.kind(),
        }
    }
}
