//! What every service error tells its caller: a kind, mapped once at the edge.

use crate::{
    config,
    services::{imports, records},
    store,
};

/// Kind of an error, as a caller has to react to it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ErrorKind {
    /// The request itself is wrong.
    InvalidArgument,
    /// No such thing here.
    NotFound,
    /// Already there.
    AlreadyExists,
    /// Not this caller's to do.
    PermissionDenied,
    /// Who is calling is not established.
    Unauthenticated,
    /// Not in the present state.
    FailedPrecondition,
    /// Disk, quota or another limit.
    ResourceExhausted,
    /// Try again.
    Unavailable,
    /// A defect, or a damaged store: its text stays on the node.
    Internal,
}

/// An error of a service.
pub trait ServiceError: std::error::Error {
    /// How a caller has to react.
    fn kind(&self) -> ErrorKind;
}

impl ServiceError for config::Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Read { .. } => ErrorKind::NotFound,
            Self::Invalid { .. } => ErrorKind::InvalidArgument,
        }
    }
}

impl ServiceError for store::Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::DiskFull { .. }
            | Self::LaneFull { .. }
            | Self::BatchTooLarge(_)
            | Self::ValueTooLarge(_) => ErrorKind::ResourceExhausted,
            Self::Conflict | Self::Closed => ErrorKind::Unavailable,
            Self::Locked { .. } | Self::Format { .. } | Self::Sealed | Self::Moved(_) => {
                ErrorKind::FailedPrecondition
            }
            Self::WrongKey => ErrorKind::PermissionDenied,
            Self::KeyMissing { .. }
            | Self::Tampered { .. }
            | Self::CopyDiffers
            | Self::Engine(_) => ErrorKind::Internal,
        }
    }
}

impl ServiceError for records::Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::RecordType { .. } => ErrorKind::FailedPrecondition,
            Self::Invalid { .. } | Self::Period(_) | Self::TooManyFigures { .. } => {
                ErrorKind::InvalidArgument
            }
            Self::Quota { .. } => ErrorKind::ResourceExhausted,
            Self::Component(_) | Self::Lost | Self::Damaged(_) | Self::Format { .. } => {
                ErrorKind::Internal
            }
            Self::Store(error) => error.kind(),
        }
    }
}

impl ServiceError for imports::Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Mapping(_) | Self::Kind(_) | Self::Empty | Self::Heading(_) | Self::Gzip => {
                ErrorKind::InvalidArgument
            }
            Self::NoCatalogue(_) | Self::RecordType { .. } | Self::Unreadable(_) => {
                ErrorKind::FailedPrecondition
            }
            Self::TooLarge(_) | Self::DiskFull(_) => ErrorKind::ResourceExhausted,
            Self::Spool { .. } => ErrorKind::Internal,
            Self::Records(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::CutOff => ErrorKind::Unavailable,
        }
    }
}
