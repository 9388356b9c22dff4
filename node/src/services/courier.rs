//! The courier: what a link would carry, as files across an air gap (摆渡包).
//!
//! A file holds the frames that a link would send, in their order: who the sender is and how far, what
//! it knows of revocations and keys, checkpoints, then the statements that wait. Taking one in goes
//! through the very same judgement, cursors and commits as a link, so that a file can come twice, late,
//! or beside a live link. Promises that nothing of a file counts unless its signature, its receiver
//! and its number hold; that its statements stay in the outbox until a file of the other side, or a
//! link, acknowledges them; and that every file in and out stands in the journal. Must not conclude
//! from a file how its sender is now.

mod export;
mod import;
mod rows;
mod status;

use bytes::Bytes;

pub use self::{
    export::{Export, Exported, Order as ExportOrder, Part},
    import::{Imported, Order as ImportOrder, Progress, import},
    status::{PeerStatus, status},
};
use super::{
    error::{ErrorKind, ServiceError},
    exchange::{self, Arrival, Lane, Page, Refusal, Standing, Witnessing},
    host::NotHosted,
    unit,
};
use crate::{
    domain::{
        courier::{MAX_FILE_BYTES, MIN_FILE_BYTES, Stale},
        epoch::Number,
        unit::UnitCode,
    },
    identity::{sealed_file, trust},
    statement::{Envelope, header::Malformed, revocation::Proven},
    store,
};

/// Name of the act in the journal.
const EXPORT: &str = "courier.export";

/// Name of the act in the journal.
const IMPORT: &str = "courier.import";

/// One message of a file: what a link sends as one frame.
#[derive(Clone, Debug)]
pub enum Message {
    /// Who the sender is, and how far. Always first.
    Hello(Box<Standing>),
    /// Revocations that it holds.
    Revocations(Vec<Proven>),
    /// Delegations that the receiver needs.
    Introduction(Vec<Envelope>),
    /// The newest delegation of the receiver that it holds.
    Acquainted([u8; 32]),
    /// What it says of journals.
    Witnessing(Witnessing),
    /// It needs its own statements above a number back.
    ReturnRequest(Number),
    /// Statements of the receiver that come back.
    Returned(Page),
    /// A statement that waited.
    Delivery(Box<Arrival>),
}

/// Turns messages into frames and back. Implemented by `link`, which knows the frames.
pub trait Codec: Send + Sync + 'static {
    /// The frame of a message; `None`: it is larger than a frame may be.
    fn encode(&self, message: Message) -> Option<Bytes>;

    /// The message of a frame.
    ///
    /// # Errors
    ///
    /// It is none, or one that no file holds.
    fn decode(&self, frame: Bytes) -> Result<Message, Malformed>;
}

/// Why nothing was written, or nothing taken in.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The unit is not served here.
    #[error(transparent)]
    NotHosted(#[from] NotHosted),
    /// The unit is the root, and nobody was named.
    #[error("{0} has no parent; name a child with --to")]
    NoParent(UnitCode),
    /// Neither parent nor child.
    #[error("{peer} is neither parent nor child of {unit}; files go to neighbours alone")]
    NoNeighbour {
        /// The unit.
        unit: UnitCode,
        /// Who was named.
        peer: UnitCode,
    },
    /// There is no key to encrypt to.
    #[error("{0} has no key that a file could be encrypted to, or was revoked")]
    NoReader(UnitCode),
    /// The limit for files is out of bounds.
    #[error("a file has between {MIN_FILE_BYTES} and {MAX_FILE_BYTES} bytes; give such a limit")]
    Limit,
    /// What goes first does not fit a file.
    #[error("the keys and revocations that go first do not fit {0} bytes; allow larger files")]
    TooSmall(u64),
    /// The file is larger than any that is written.
    #[error("the file has more than {MAX_FILE_BYTES} bytes; export smaller ones with --max-size")]
    TooLarge,
    /// The file does not hold.
    #[error("the file is refused ({reason}): {detail}")]
    Refused {
        /// Fixed word, as it stands in the journal.
        reason: &'static str,
        /// One sentence with the remedy.
        detail: String,
    },
    /// The file is one that is over.
    #[error("the file is refused ({reason}): {0}", reason = .0.reason())]
    Stale(#[from] Stale),
    /// The file could not be signed.
    #[error("cannot sign the file")]
    Unit(#[from] unit::Error),
    /// The file could not be encrypted.
    #[error("cannot encrypt the file")]
    Seal(#[source] sealed_file::Error),
    /// The store failed; what was taken in stays.
    #[error("cannot store what the file brings; import it again")]
    Store(#[from] store::Error),
}

impl Error {
    fn refused(reason: &'static str, detail: impl Into<String>) -> Self {
        Self::Refused { reason, detail: detail.into() }
    }

    /// The word of the journal; `None`: the file is not at fault.
    pub fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Refused { reason, .. } => Some(reason),
            Self::Stale(stale) => Some(stale.reason()),
            Self::TooLarge => Some("too-large"),
            Self::NotHosted(_)
            | Self::NoParent(_)
            | Self::NoNeighbour { .. }
            | Self::NoReader(_)
            | Self::Limit
            | Self::TooSmall(_)
            | Self::Unit(_)
            | Self::Seal(_)
            | Self::Store(_) => None,
        }
    }
}

impl From<trust::Error> for Error {
    fn from(error: trust::Error) -> Self {
        Self::refused(error.reason(), error.to_string())
    }
}

impl From<Malformed> for Error {
    fn from(malformed: Malformed) -> Self {
        Self::refused("malformed", malformed.to_string())
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::refused(refusal.reason, refusal.detail)
    }
}

impl From<exchange::Error> for Error {
    fn from(error: exchange::Error) -> Self {
        match error {
            exchange::Error::Store(error) => Self::Store(error),
            exchange::Error::Introduction(detail) => Self::refused("bad-introduction", detail),
            exchange::Error::NoPeer(peer) => {
                Self::refused("unknown-child", format!("{peer} is parent or child no more"))
            }
            exchange::Error::Gap { lane_seq, after, have } => {
                let detail = format!("delivery {lane_seq} follows {after}, not {have}");
                Self::refused("gap", detail)
            }
        }
    }
}

impl ServiceError for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NotHosted(error) => error.kind(),
            Self::NoParent(_) | Self::NoNeighbour { .. } | Self::NoReader(_) | Self::Stale(_) => {
                ErrorKind::FailedPrecondition
            }
            Self::Limit => ErrorKind::InvalidArgument,
            Self::TooSmall(_) | Self::TooLarge => ErrorKind::ResourceExhausted,
            Self::Refused { reason: "busy", .. } => ErrorKind::Unavailable,
            Self::Refused { .. } => ErrorKind::PermissionDenied,
            Self::Unit(_) | Self::Seal(_) => ErrorKind::Internal,
            Self::Store(error) => error.kind(),
        }
    }
}

/// The place of a lane among all.
fn index(lane: Lane) -> usize {
    lane as usize - 1
}
