//! The local socket: gRPC for operators and local systems of the host.

use std::{fs, io, os::unix::fs::PermissionsExt as _, path::Path, sync::Arc};

use futures::StreamExt as _;
use lianxi_proto::{
    admin::v1::node_service_server::NodeServiceServer,
    local::v1::{
        catalogue_service_server::CatalogueServiceServer,
        escalation_service_server::EscalationServiceServer,
        notice_service_server::NoticeServiceServer, record_service_server::RecordServiceServer,
        summary_service_server::SummaryServiceServer,
    },
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::watch,
    task::JoinHandle,
};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use super::{Error, Host};
use crate::{
    grpc::{
        catalogues::CatalogueHandler, escalations::EscalationHandler, nodes::NodeHandler,
        notices::NoticeHandler, records::RecordHandler, summaries::SummaryHandler,
    },
    services::host::Operations,
};

/// Largest request or answer on the local socket: a catalogue, a page of records.
const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;

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
    let units = Arc::clone(host.units());
    let nodes = NodeHandler::new(Arc::clone(&units), operations, Arc::clone(host.store()));
    let router = Server::builder()
        .add_service(NodeServiceServer::new(nodes))
        .add_service(RecordServiceServer::new(RecordHandler::new(
            Arc::clone(&units),
            Arc::clone(host.imports()),
        )))
        .add_service(
            CatalogueServiceServer::new(CatalogueHandler::new(Arc::clone(&units)))
                .max_decoding_message_size(MAX_MESSAGE_BYTES),
        )
        .add_service(SummaryServiceServer::new(SummaryHandler::new(Arc::clone(&units))))
        .add_service(NoticeServiceServer::new(NoticeHandler::new(Arc::clone(&units))))
        .add_service(EscalationServiceServer::new(EscalationHandler::new(units)));
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
