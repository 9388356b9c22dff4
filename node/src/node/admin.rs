//! The local socket: gRPC for operators and local systems of the host.

use std::{fs, io, os::unix::fs::PermissionsExt as _, path::Path, sync::Arc};

use tokio::{net::UnixListener, sync::watch, task::JoinHandle};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use super::{Error, Host};
use crate::{
    config::OpenTo,
    grpc::{
        self,
        access::{Access, AccessLayer},
    },
    link::courier::Frames,
    services::{accounts::Accounts, host::Operations, transfer::Transfers},
};

/// Opens the socket. A file left by a process that is gone is replaced: the store's lock says that
/// no other process serves this directory.
pub(super) fn listen(path: &Path, open_to: OpenTo) -> Result<UnixListener, Error> {
    let failed = |source| Error::Listen { address: path.display().to_string(), source };
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    let mode = match open_to {
        OpenTo::Owner => 0o600,
        OpenTo::Group => 0o660,
        OpenTo::Everyone => 0o666,
    };
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed)?;
    Ok(listener)
}

/// Serves the socket until `stop` changes.
pub(super) fn serve(
    host: &Arc<Host>,
    accounts: Arc<Accounts>,
    listener: UnixListener,
    mut stop: watch::Receiver<bool>,
) -> JoinHandle<()> {
    let operations: Arc<dyn Operations> = Arc::<Host>::clone(host);
    let transfers: Arc<dyn Transfers> = Arc::<Host>::clone(host);
    let (units, imports, store) = (host.units(), host.imports(), host.store());
    let services = grpc::local_services(
        units,
        imports,
        store,
        (operations, transfers),
        host.config.journal.retention_days,
    );
    let services = grpc::with_courier(services, units, Arc::new(Frames));
    let services = grpc::with_people(services, &accounts, &host.clock);
    let access = Access {
        own_uid: rustix::process::geteuid().as_raw(),
        open: host.config.admin.open_to != OpenTo::Owner,
        accounts,
    };
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
