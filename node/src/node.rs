//! One host put together: store, units, links, local socket. Everything else is elsewhere.
//!
//! [`Host::bind`] opens what is there and serves it; [`run`] does so until it is told to stop;
//! [`init`] and [`join_offline`] make a host's first unit.

mod admin;
mod admission;
mod adoption;
mod at_rest;
mod custody;
mod host;
mod journals;
mod kept;
mod protection;
mod reforms;
mod renewal;
mod root_rotation;
mod rotation;
mod setup;
mod transfer;
mod webhook;

pub use at_rest::{StoreRewritten, lock_of_store, rewrite_store};
pub use custody::{
    Following, RootFacts, install_root, remove_root, request_root, root_facts, split_root,
};
pub use host::{Host, Options};
pub use protection::{change_secret, open_lock, protect_keys, unprotect_keys};
pub use setup::{
    InitOptions, JoinOptions, Sealing, check_token, init, join_offline, receive_offline,
};

use std::{future::Future, io, path::PathBuf, sync::Arc};

use crate::{
    clock::SystemClock,
    config::{self, HostConfig},
    domain::{protection::Cipher, unit::UnitCode},
    identity::keys::{self, Lock},
    services::{
        error::{ErrorKind, ServiceError},
        host::OperationError,
    },
    store,
    telemetry::Metrics,
};

/// Why a host did not start or a unit was not made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store did not open.
    #[error("cannot open the store")]
    Store(#[from] store::Error),
    /// The configuration file.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// A directory or file.
    #[error("cannot {action} {}", .path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A listener.
    #[error("cannot listen on {address}; stop what listens there, or set another in node.toml")]
    Listen {
        /// Address or path.
        address: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A hosted unit did not open.
    #[error("cannot open unit {unit}: {reason}")]
    Unit {
        /// The unit.
        unit: UnitCode,
        /// Why not.
        reason: String,
    },
    /// The directory already holds a host.
    #[error("{} is a host already; take another directory, or join through it while it runs", .0.display())]
    HostExists(PathBuf),
    /// The keys could not be opened, sealed or unsealed.
    #[error("the keys of the host: {0}")]
    Keys(#[source] keys::Error),
    /// The configuration asks for a protection that the keys do not have.
    #[error(
        "[keys] protect asks for {wanted}, and the keys are protected by {found}; run `lianxi node protect-keys`, or change the configuration"
    )]
    Protection {
        /// In the configuration.
        wanted: keys::Method,
        /// On disk.
        found: keys::Method,
    },
    /// The configuration asks for another encryption of the store than it has.
    #[error(
        "[store] encrypt asks for {wanted}, and the store is encrypted with {found}; run `lianxi store encrypt` with the host stopped, or change the configuration"
    )]
    StoreProtection {
        /// In the configuration.
        wanted: Cipher,
        /// On disk.
        found: Cipher,
    },
    /// The receiver of alarms.
    #[error("the webhook of [alarms] in node.toml: {0}; correct it, or take the key out")]
    Webhook(String),
    /// Making or joining a unit failed.
    #[error(transparent)]
    Operation(#[from] OperationError),
}

impl ServiceError for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Store(error) => error.kind(),
            Self::Config(error) => error.kind(),
            Self::HostExists(_) => ErrorKind::AlreadyExists,
            Self::Listen { .. } | Self::Webhook(_) => ErrorKind::FailedPrecondition,
            Self::Protection { .. } | Self::StoreProtection { .. } => ErrorKind::FailedPrecondition,
            Self::Keys(error) => protection::kind(error),
            Self::File { .. } | Self::Unit { .. } => ErrorKind::Internal,
            Self::Operation(error) => error.kind(),
        }
    }
}

/// Serves the host, whose keys `lock` opens, until `shutdown` resolves.
///
/// # Errors
///
/// The host did not start; see [`Error`].
pub async fn run(
    config: HostConfig,
    lock: Lock,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Error> {
    let options =
        Options { clock: Arc::new(SystemClock), metrics: Metrics::installed(), tap: None, lock };
    let host = Host::bind(config, options).await?;
    shutdown.await;
    host.shutdown().await;
    Ok(())
}
