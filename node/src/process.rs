//! One host as an operating-system process: configuration, telemetry, signals around
//! [`node::run`].
//!
//! `lianxi-node` and `lianxi node run` both call this, so that they are one program. Sets
//! process-wide things (subscriber, signal handlers), so no test and no library code calls it.

pub mod secret;

use std::{io, path::Path};

use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{Signal, SignalKind, signal},
};
use tracing::{info, warn};

use crate::{
    config::{self, HostConfig},
    identity::keys::Lock,
    node,
    services::error::{ErrorKind, ServiceError},
    telemetry,
};

/// Stack of a worker: deep enough for the futures of the services, and touched only where used.
const WORKER_STACK_BYTES: usize = 2 * 1024 * 1024;

/// Most threads for blocking work: a host waits for few files at a time.
const MAX_BLOCKING_THREADS: usize = 16;

/// Exit code of a process that a second signal ends.
const ENDED_BY_SIGNAL: i32 = 130;

/// Why a host could not be run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration has a mistake.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// The system gave no threads or no signals.
    #[error("cannot start the process")]
    System(#[source] io::Error),
    /// Logs, traces or metrics could not be set up.
    #[error("cannot set up telemetry")]
    Telemetry(#[from] telemetry::Error),
    /// What opens the keys was not given.
    #[error(transparent)]
    Secret(#[from] secret::Error),
    /// The host did not start, or failed.
    #[error("the host stopped")]
    Node(#[from] node::Error),
}

impl ServiceError for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Config(error) => error.kind(),
            Self::Secret(_) => ErrorKind::FailedPrecondition,
            Self::Node(error) => error.kind(),
            Self::System(_) | Self::Telemetry(_) => ErrorKind::Internal,
        }
    }
}

/// Serves the host whose configuration is at `config_file` until SIGINT or SIGTERM. If its keys
/// need a passphrase, it is read from the descriptor `passphrase_fd`, else from the credential of
/// the service, else from the terminal.
///
/// # Errors
///
/// The host did not start, or it failed; see [`Error`].
pub fn run(config_file: &Path, passphrase_fd: Option<u32>) -> Result<(), Error> {
    let config = HostConfig::load(config_file)?;
    let ask = |method| Ok::<_, Error>(secret::for_start(method, passphrase_fd)?);
    let lock = node::open_lock(&config, ask)?;
    runtime(&config).map_err(Error::System)?.block_on(serve(config, lock))
}

/// As [`run`], inside a runtime that is there already.
///
/// # Errors
///
/// The host did not start, or it failed; see [`Error`].
pub async fn serve(config: HostConfig, lock: Lock) -> Result<(), Error> {
    let stop = StopSignals::listen().map_err(Error::System)?;
    let telemetry = telemetry::init(&config.telemetry).await?;
    let served = Box::pin(node::run(config, lock, stop.first())).await;
    telemetry.shutdown().await;
    Ok(served?)
}

fn runtime(config: &HostConfig) -> io::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(config.worker_threads())
        .max_blocking_threads(MAX_BLOCKING_THREADS)
        .thread_stack_size(WORKER_STACK_BYTES)
        .thread_name("lianxi")
        .enable_all()
        .build()
}

/// What asks the process to stop. Listens from the start, so that a signal during start-up counts.
struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    fn listen() -> io::Result<Self> {
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(Self { interrupt, terminate: signal(SignalKind::terminate())? })
    }

    /// Resolves at the first signal. A second one ends the process at once: whatever was
    /// acknowledged is durable.
    async fn first(mut self) {
        let name = self.next().await;
        info!(signal = name, "stopping");
        tokio::spawn(async move {
            let name = self.next().await;
            warn!(signal = name, "stopping at once");
            std::process::exit(ENDED_BY_SIGNAL);
        });
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}
