//! The connection to the node of a directory: gRPC over its Unix socket.
//!
//! Promises to tell a node that is not there from one that does not let the caller in. Never
//! speaks to a network.

use std::{
    io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use hyper_util::rt::TokioIo;
use lianxi_node::config::HostConfig;
use lianxi_proto::{
    admin::v1::{
        journal_service_client::JournalServiceClient, node_service_client::NodeServiceClient,
    },
    local::v1::{
        catalogue_service_client::CatalogueServiceClient,
        escalation_service_client::EscalationServiceClient,
        notice_service_client::NoticeServiceClient, pack_service_client::PackServiceClient,
        record_service_client::RecordServiceClient, summary_service_client::SummaryServiceClient,
    },
};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::failure::Failure;

/// Name of the configuration in a host's directory.
const CONFIG: &str = "node.toml";

/// Longest socket path that Linux takes.
const MAX_SOCKET_PATH_BYTES: usize = 107;

/// Largest answer taken: a page of records or a unit's figures is far below.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// A connected node.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    channel: Channel,
}

/// Path of the socket of the host in `dir`: as its configuration says, if there is one.
pub(crate) fn socket_path(dir: &Path) -> PathBuf {
    let config = HostConfig::load(&dir.join(CONFIG));
    config.unwrap_or_else(|_| HostConfig::default_for(dir)).admin_socket()
}

impl Client {
    /// Connects to the node that runs in `dir`.
    ///
    /// # Errors
    ///
    /// - [`Failure::NoNode`]: nothing listens there.
    /// - [`Failure::NotAllowed`]: the socket belongs to another user.
    /// - [`Failure::PathTooLong`]: no socket can have this path.
    pub(crate) async fn connect(dir: &Path) -> Result<Self, Failure> {
        let socket = socket_path(dir);
        if socket.as_os_str().as_bytes().len() > MAX_SOCKET_PATH_BYTES {
            return Err(Failure::PathTooLong(socket));
        }
        // Tried once by hand, because the channel would hide why it fails.
        let first = UnixStream::connect(&socket).await.map_err(|error| refused(dir, &error))?;
        let mut first = Some(first);
        let channel = Endpoint::from_static("http://lianxi.invalid")
            .connect_with_connector(tower::service_fn(move |_: Uri| {
                let (stream, socket) = (first.take(), socket.clone());
                async move {
                    let stream = match stream {
                        Some(stream) => stream,
                        None => UnixStream::connect(socket).await?,
                    };
                    Ok::<_, io::Error>(TokioIo::new(stream))
                }
            }))
            .await
            .map_err(|_| Failure::NoNode(dir.to_owned()))?;
        Ok(Self { channel })
    }

    /// What the IT staff of a host do.
    pub(crate) fn node(&self) -> NodeServiceClient<Channel> {
        NodeServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// Journals: the audit log and its proofs.
    pub(crate) fn journals(&self) -> JournalServiceClient<Channel> {
        JournalServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// The catalogue in force.
    pub(crate) fn catalogues(&self) -> CatalogueServiceClient<Channel> {
        CatalogueServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// Records of hosted units.
    pub(crate) fn records(&self) -> RecordServiceClient<Channel> {
        RecordServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// Signed figures.
    pub(crate) fn summaries(&self) -> SummaryServiceClient<Channel> {
        SummaryServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// What was signed, as files.
    pub(crate) fn packs(&self) -> PackServiceClient<Channel> {
        PackServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// Tasks and receipts.
    pub(crate) fn notices(&self) -> NoticeServiceClient<Channel> {
        NoticeServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// Whistles.
    pub(crate) fn escalations(&self) -> EscalationServiceClient<Channel> {
        EscalationServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_ANSWER_BYTES)
    }
}

fn refused(dir: &Path, error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::PermissionDenied {
        Failure::NotAllowed(socket_path(dir))
    } else {
        Failure::NoNode(dir.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_empty_directory_has_no_node() {
        let dir = tempfile::tempdir().unwrap();
        let failure = Client::connect(dir.path()).await.unwrap_err();
        assert!(matches!(failure, Failure::NoNode(path) if path == dir.path()));
    }

    #[tokio::test]
    async fn a_socket_left_behind_has_no_node() {
        let dir = tempfile::tempdir().unwrap();
        drop(std::os::unix::net::UnixListener::bind(socket_path(dir.path())).unwrap());
        let failure = Client::connect(dir.path()).await.unwrap_err();
        assert!(matches!(failure, Failure::NoNode(_)));
    }

    #[tokio::test]
    async fn a_path_that_no_socket_can_have_is_told() {
        let failure = Client::connect(Path::new(&"d".repeat(120))).await.unwrap_err();
        assert!(matches!(failure, Failure::PathTooLong(_)));
    }
}
