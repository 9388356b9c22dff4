//! Why a unit is not given away or taken in.

use crate::{
    domain::unit::UnitCode,
    identity::{keys, sealed_file},
    services::{
        enrolments::IdentityError,
        error::{ErrorKind, ServiceError},
    },
    statement::header::Malformed,
    store,
};

/// Why a unit is not given away or taken in.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not the text of a new host.
    #[error(
        "this is not what a new host said of itself: it begins with `lianxi-move1.`, as `lianxi unit receive` prints it there"
    )]
    NoRequest,
    /// The text of a new host was cut or changed.
    #[error("what the new host said of itself is malformed at {0}")]
    Request(#[from] Malformed),
    /// For another unit.
    #[error("{found} was named, and this is for {wanted}; take the one for {found}")]
    OtherUnit {
        /// Unit that was named.
        found: UnitCode,
        /// Unit that it is for.
        wanted: UnitCode,
    },
    /// The file does not open.
    #[error("the file is refused")]
    Sealed(#[from] sealed_file::Error),
    /// An item of the file is not what it should be.
    #[error("the file is refused at item {item}: {reason}; export it again")]
    Item {
        /// Number of the item, from 0.
        item: u64,
        /// What is wrong.
        reason: String,
    },
    /// This host awaits no such unit.
    #[error(
        "no file for {0} is awaited here; run `lianxi unit receive {0}` first, and let the old host export for what it prints"
    )]
    NotAwaited(UnitCode),
    /// The unit is here.
    #[error("{0} is on this host already; nothing was changed")]
    Here(UnitCode),
    /// Keys of the unit are here from something else.
    #[error(
        "there are keys of {0} on this host, of a join that was not finished; move them away first"
    )]
    Keys(UnitCode),
    /// Other units of the host belong to another city.
    #[error("{unit} belongs to {domain} with another root key than the units of this host")]
    OtherCity {
        /// The unit.
        unit: UnitCode,
        /// Its trust domain.
        domain: String,
    },
    /// Keys and delegations do not belong together, or it was revoked.
    #[error("{unit} cannot begin here: {reason}")]
    Unfit {
        /// The unit.
        unit: UnitCode,
        /// Why not.
        reason: String,
    },
    /// Nothing was exported.
    #[error("{0} was not given away by this host; run `lianxi unit export {0}`")]
    NotGone(UnitCode),
    /// Its arrival was confirmed.
    #[error("{unit} arrived at {host}, as was confirmed; it is exported from there")]
    Confirmed {
        /// The unit.
        unit: UnitCode,
        /// Its new host.
        host: String,
    },
    /// What was brought is not the unit's word.
    #[error("this does not confirm that {unit} arrived: {reason}")]
    NoConfirmation {
        /// The unit.
        unit: UnitCode,
        /// Why not.
        reason: String,
    },
    /// Children would not find it.
    #[error(
        "{children} would not find {unit} at its new address; run `lianxi unit move-host {unit}` and wait until they know it, or name --leave-behind"
    )]
    Children {
        /// The unit.
        unit: UnitCode,
        /// Those who do not know.
        children: String,
    },
    /// The parent is on this host, and takes nobody from outside.
    #[error(
        "the parent of {0} is on this host, which has no address for children: set `listen` in the table [link] of its node.toml and start it again"
    )]
    ParentHere(UnitCode),
    /// Records are on their way in.
    #[error("an import is not finished on this host; wait until it is, and export {0} then")]
    Importing(UnitCode),
    /// The identity cannot be read or kept.
    #[error("cannot read who the unit is")]
    Identity(#[from] IdentityError),
    /// Files of keys.
    #[error("the keys of the unit")]
    KeyFiles(#[from] keys::Error),
    /// A file of the host.
    #[error("cannot read or write a file of the host")]
    File(#[from] std::io::Error),
    /// The store failed.
    #[error("cannot move the unit")]
    Store(#[from] store::Error),
}

impl Error {
    /// The word of the journal.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoRequest | Self::Request(_) | Self::Item { .. } => "malformed",
            Self::OtherUnit { .. } => "other-unit",
            Self::Sealed(sealed_file::Error::NotAReader) => "not-a-reader",
            Self::Sealed(_) => "tampered",
            Self::NotAwaited(_) => "not-awaited",
            Self::Here(_) => "here",
            Self::Keys(_) => "keys",
            Self::OtherCity { .. } => "wrong-domain",
            Self::Unfit { .. } => "unfit",
            Self::NotGone(_) => "not-gone",
            Self::Confirmed { .. } => "confirmed",
            Self::NoConfirmation { .. } => "no-confirmation",
            Self::Children { .. } => "children",
            Self::ParentHere(_) => "no-address",
            Self::Importing(_) => "importing",
            Self::Identity(_) | Self::KeyFiles(_) | Self::File(_) | Self::Store(_) => "failed",
        }
    }
}

impl ServiceError for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NoRequest
            | Self::Request(_)
            | Self::Sealed(_)
            | Self::Item { .. }
            | Self::NoConfirmation { .. } => ErrorKind::InvalidArgument,
            Self::NotAwaited(_) | Self::NotGone(_) => ErrorKind::NotFound,
            Self::Here(_) => ErrorKind::AlreadyExists,
            Self::OtherUnit { .. }
            | Self::Keys(_)
            | Self::OtherCity { .. }
            | Self::Unfit { .. }
            | Self::Confirmed { .. }
            | Self::ParentHere(_)
            | Self::Importing(_)
            | Self::Children { .. } => ErrorKind::FailedPrecondition,
            Self::Identity(_) | Self::KeyFiles(_) | Self::File(_) => ErrorKind::Internal,
            Self::Store(error) => error.kind(),
        }
    }
}
