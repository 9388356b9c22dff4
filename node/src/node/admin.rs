//! The local socket: gRPC for operators and local systems of the host.

use std::{fs, io, os::unix::fs::PermissionsExt as _, path::Path, sync::Arc};

use tokio::{net::UnixListener, sync::watch, task::JoinHandle};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use super::{Error, Host};
use crate::{
    grpc::{
        self,
        access::{Access, AccessLayer},
    },
    services::host::Operations,
};

/// Opens the socket. A file left by a process that is gone is replaced: the store's lock says that
/// no other process serves this directory.
pub(super) fn listen(path: &Path) -> Result<UnixListener, Error> {
    let failed = |source| Error::Listen { address: path.display().to_string(), source };
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

/// Serves the socket until `stop` changes.
pub(super) fn serve(
    host: &Arc<Host>,
    listener: UnixListener,
    mut stop: watch::Receiver<bool>,
) -> JoinHandle<()> {
    let operations: Arc<dyn Operations> = Arc::<Host>::clone(host);
    let (units, imports, store) = (host.units(), host.imports(), host.store());
    let services =
        grpc::local_services(units, imports, store, operations, host.config.journal.retention_days);
    let access = Access { own_uid: rustix::process::geteuid().as_raw() };
    let router = Server::builder().layer(AccessLayer::new(access)).add_routes(services);
    tokio::spawn(async move {
        let stopped = async move {
            // An error means that the host is gone, which is a stop too.
            let _ = stop.wait_for(|stop| *stop).await;
        };
        if let Err(error) =
            router.serve_with_incoming_shutdown(UnixListenerStream::new(listener), stopped).await
        {
            tracing::error!(%error, "local socket failed");
        }
    })
}
