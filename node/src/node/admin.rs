//! The local socket: gRPC for operators and local systems of the host.

use std::{fs, io, os::unix::fs::PermissionsExt as _, path::Path, sync::Arc};

use futures::StreamExt as _;
use tokio::{
    net::{UnixListener, UnixStream},
    sync::watch,
    task::JoinHandle,
};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use super::{Error, Host};
use crate::{grpc, services::host::Operations};

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
    let own = rustix::process::geteuid().as_raw();
    let connections = UnixListenerStream::new(listener).filter(move |connection| {
        let allowed = connection.as_ref().is_ok_and(|stream| is_allowed(stream, own));
        futures::future::ready(allowed)
    });
    let operations: Arc<dyn Operations> = Arc::<Host>::clone(host);
    let (units, imports, store) = (host.units(), host.imports(), host.store());
    let services = grpc::local_services(units, imports, store, operations);
    let router = Server::builder().add_routes(services);
    tokio::spawn(async move {
        let stopped = async move {
            // An error means that the host is gone, which is a stop too.
            let _ = stop.wait_for(|stop| *stop).await;
        };
        if let Err(error) = router.serve_with_incoming_shutdown(connections, stopped).await {
            tracing::error!(%error, "local socket failed");
        }
    })
}

/// The caller is the user that runs the node, or root.
fn is_allowed(stream: &UnixStream, own: u32) -> bool {
    match stream.peer_cred() {
        Ok(caller) if caller.uid() == own || caller.uid() == 0 => true,
        Ok(caller) => {
            tracing::warn!(uid = caller.uid(), "caller of the local socket refused");
            false
        }
        Err(error) => {
            tracing::warn!(%error, "caller of the local socket cannot be told");
            false
        }
    }
}
