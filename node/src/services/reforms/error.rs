//! Why a reform was not ordered or carried on.

use jiff::civil::Date;

use crate::{
    domain::{
        reform::MAX_AHEAD_DAYS,
        unit::{Level, UnitCode},
    },
    services::{
        error::{ErrorKind, ServiceError},
        leaving,
        unit::{self, LearnError},
    },
    statement::header::{Malformed, StatementId},
    store,
};

/// Why a reform was not ordered or carried on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody of that code is known.
    #[error("{0} is not known here; list the units with `lianxi node units`")]
    Unknown(UnitCode),
    /// The unit that orders must be above all that it orders about.
    #[error(
        "{by} is not above {unit}; let the lowest unit above the unit and both parents give the order"
    )]
    NotAbove {
        /// Unit that would order.
        by: UnitCode,
        /// Unit that is not below it.
        unit: UnitCode,
    },
    /// It is there already.
    #[error("{unit} is under {parent} already")]
    SamePlace {
        /// The unit.
        unit: UnitCode,
        /// Its parent.
        parent: UnitCode,
    },
    /// The new parent is the unit itself or below it.
    #[error("{parent} is {unit} itself or below it; name a parent outside its subtree")]
    Loop {
        /// The unit.
        unit: UnitCode,
        /// The new parent.
        parent: UnitCode,
    },
    /// A parent is of a higher level than its children.
    #[error("a {parent_level} cannot be above a {level}; name a parent of a higher level")]
    Level {
        /// Level of the unit.
        level: Level,
        /// Level of the new parent.
        parent_level: Level,
    },
    /// A unit merges into its like.
    #[error(
        "{into} is no sibling of {unit}; a unit merges into one of its level under the same parent, and \
         is divided with such a one: move it there first with `lianxi unit reparent`"
    )]
    NotSiblings {
        /// Unit that would end.
        unit: UnitCode,
        /// Unit that it would merge into.
        into: UnitCode,
    },
    /// What a division names is none of the unit's children.
    #[error(
        "{child} is not right below {unit}; name children of {unit}, `lianxi node units` lists them"
    )]
    NoChild {
        /// Unit that is divided.
        unit: UnitCode,
        /// Unit that is not below it.
        child: UnitCode,
    },
    /// A division that divides nothing.
    #[error("nothing of {0} would go to another unit; name children or open items")]
    Nothing(UnitCode),
    /// More than one order can hold.
    #[error("{count} {what} are over the limit of {limit}; give one order after the other")]
    TooMany {
        /// What is too many.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many may be.
        limit: usize,
    },
    /// One of them is gone.
    #[error(
        "{0} was revoked, merges into another or has left; nobody can come under it, and it cannot come elsewhere"
    )]
    Gone(UnitCode),
    /// A day that has passed.
    #[error("{on} is before today, {today}; a reform is not backdated: name today or a later day")]
    Backdated {
        /// The day that was named.
        on: Date,
        /// Today, where the order is given.
        today: Date,
    },
    /// A day too far ahead.
    #[error("{0} is more than {MAX_AHEAD_DAYS} days ahead; order it nearer to its day")]
    TooFar(Date),
    /// Another order for the unit has not been carried out.
    #[error("{unit} comes under {to} on {on} already; wait until that is done")]
    Pending {
        /// The unit.
        unit: UnitCode,
        /// Its new parent by the earlier order.
        to: UnitCode,
        /// Its day.
        on: String,
    },
    /// No such reform.
    #[error("no reform {0} is known here; list them with `lianxi unit reforms`")]
    NotFound(StatementId),
    /// A text is out of bounds.
    #[error("{0}")]
    Malformed(#[from] Malformed),
    /// The statement could not be made.
    #[error("cannot sign the order")]
    Unit(#[from] unit::Error),
    /// Delegations that came with a step do not hold.
    #[error("what came with the step does not hold: {0}")]
    Learn(#[from] LearnError),
    /// The open items could not be read.
    #[error("cannot list the open items: {0}")]
    Items(#[from] leaving::Error),
    /// The notices could not be read.
    #[error("cannot read the notices: {0}")]
    Notices(#[from] crate::services::notices::Error),
    /// The escalations could not be read.
    #[error("cannot read the escalations: {0}")]
    Escalations(#[from] crate::services::escalations::Error),
    /// A summary could not be made anew.
    #[error("cannot add up anew: {0}")]
    Figures(#[from] crate::services::summaries::Error),
    /// The store failed.
    #[error("cannot store the reform")]
    Store(#[from] store::Error),
}

impl Error {
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Unknown(_) => "unknown",
            Self::NotAbove { .. } => "not-above",
            Self::SamePlace { .. } => "same-place",
            Self::Loop { .. } => "loop",
            Self::Level { .. } => "level",
            Self::NotSiblings { .. } => "no-sibling",
            Self::NoChild { .. } => "no-child",
            Self::Nothing(_) => "nothing",
            Self::TooMany { .. } => "too-many",
            Self::Gone(_) => "gone",
            Self::Backdated { .. } => "backdated",
            Self::TooFar(_) => "too-far",
            Self::Pending { .. } => "pending",
            Self::NotFound(_) => "not-found",
            Self::Malformed(_) => "malformed",
            Self::Unit(_)
            | Self::Learn(_)
            | Self::Items(_)
            | Self::Notices(_)
            | Self::Escalations(_)
            | Self::Figures(_)
            | Self::Store(_) => "failed",
        }
    }
}

impl ServiceError for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Unknown(_) | Self::NotFound(_) => ErrorKind::NotFound,
            Self::NotAbove { .. } => ErrorKind::PermissionDenied,
            Self::SamePlace { .. } => ErrorKind::AlreadyExists,
            Self::Gone(_) | Self::Pending { .. } => ErrorKind::FailedPrecondition,
            Self::Loop { .. }
            | Self::NotSiblings { .. }
            | Self::NoChild { .. }
            | Self::Nothing(_)
            | Self::TooMany { .. }
            | Self::Level { .. }
            | Self::Backdated { .. }
            | Self::TooFar(_)
            | Self::Malformed(_) => ErrorKind::InvalidArgument,
            Self::Unit(_) | Self::Learn(_) | Self::Items(_) => ErrorKind::Internal,
            Self::Figures(error) => error.kind(),
            Self::Notices(error) => error.kind(),
            Self::Escalations(error) => error.kind(),
            Self::Store(error) => error.kind(),
        }
    }
}
