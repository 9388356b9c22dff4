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
        account_service_client::AccountServiceClient,
        approval_service_client::ApprovalServiceClient,
        courier_service_client::CourierServiceClient, journal_service_client::JournalServiceClient,
        node_service_client::NodeServiceClient, reform_service_client::ReformServiceClient,
        transfer_service_client::TransferServiceClient,
    },
    local::v1::{
        catalogue_service_client::CatalogueServiceClient,
        escalation_service_client::EscalationServiceClient,
        notice_service_client::NoticeServiceClient, pack_service_client::PackServiceClient,
        record_service_client::RecordServiceClient, summary_service_client::SummaryServiceClient,
    },
};
use tokio::net::UnixStream;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint, Uri},
};

use crate::failure::Failure;

/// Name of the configuration in a host's directory.
const CONFIG: &str = "node.toml";

/// Longest socket path that Linux takes.
const MAX_SOCKET_PATH_BYTES: usize = 107;

/// Largest answer taken: a page of records or a unit's figures is far below.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// A channel that sends the person's session, or the token of a system, with every call.
pub(crate) type Authorised = InterceptedService<Channel, Bearer>;

/// Puts credentials into the metadata of calls.
#[derive(Clone, Default)]
pub(crate) struct Bearer(Option<MetadataValue<Ascii>>);

impl std::fmt::Debug for Bearer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Bearer")
    }
}

impl Bearer {
    /// Credentials; nothing for a token that no metadata can hold.
    pub(crate) fn new(token: Option<&str>) -> Self {
        let value = token.and_then(|token| format!("Bearer {token}").parse().ok());
        Self(value.map(|mut value: MetadataValue<Ascii>| {
            value.set_sensitive(true);
            value
        }))
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// A connected node.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    channel: Channel,
    bearer: Bearer,
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
        Self::connect_to(socket_path(dir), dir, Bearer::default()).await
    }

    /// Connects to the node that listens at `socket`, with credentials.
    ///
    /// # Errors
    ///
    /// As of [`Self::connect`]; messages name `dir`.
    pub(crate) async fn connect_to(
        socket: PathBuf,
        dir: &Path,
        bearer: Bearer,
    ) -> Result<Self, Failure> {
        if socket.as_os_str().as_bytes().len() > MAX_SOCKET_PATH_BYTES {
            return Err(Failure::PathTooLong(socket));
        }
        // Tried once by hand, because the channel would hide why it fails.
        let first =
            UnixStream::connect(&socket).await.map_err(|error| refused(&socket, dir, &error))?;
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
        Ok(Self { channel, bearer })
    }

    fn authorised(&self) -> Authorised {
        InterceptedService::new(self.channel.clone(), self.bearer.clone())
    }

    /// People: accounts, sessions, tokens of systems.
    pub(crate) fn accounts(&self) -> AccountServiceClient<Authorised> {
        AccountServiceClient::new(self.authorised()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// What waits for a second person.
    pub(crate) fn approvals(&self) -> ApprovalServiceClient<Authorised> {
        ApprovalServiceClient::new(self.authorised()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// What the IT staff of a host do.
    pub(crate) fn node(&self) -> NodeServiceClient<Authorised> {
        NodeServiceClient::new(self.authorised()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// Journals: the audit log and its proofs.
    pub(crate) fn journals(&self) -> JournalServiceClient<Authorised> {
        JournalServiceClient::new(self.authorised()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// Reforms of the tree.
    pub(crate) fn reforms(&self) -> ReformServiceClient<Authorised> {
        ReformServiceClient::new(self.authorised()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// Files across an air gap.
    pub(crate) fn courier(&self) -> CourierServiceClient<Authorised> {
        CourierServiceClient::new(self.authorised()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// Units that go to another host.
    pub(crate) fn transfers(&self) -> TransferServiceClient<Authorised> {
        TransferServiceClient::new(self.authorised()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// The catalogue in force.
    pub(crate) fn catalogues(&self) -> CatalogueServiceClient<Authorised> {
        CatalogueServiceClient::new(self.authorised()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// Records of hosted units.
    pub(crate) fn records(&self) -> RecordServiceClient<Authorised> {
        RecordServiceClient::new(self.authorised()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// Signed figures.
    pub(crate) fn summaries(&self) -> SummaryServiceClient<Authorised> {
        SummaryServiceClient::new(self.authorised()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// What was signed, as files.
    pub(crate) fn packs(&self) -> PackServiceClient<Authorised> {
        PackServiceClient::new(self.authorised()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// Tasks and receipts.
    pub(crate) fn notices(&self) -> NoticeServiceClient<Authorised> {
        NoticeServiceClient::new(self.authorised()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// Whistles.
    pub(crate) fn escalations(&self) -> EscalationServiceClient<Authorised> {
        EscalationServiceClient::new(self.authorised()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }
}

fn refused(socket: &Path, dir: &Path, error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::PermissionDenied {
        Failure::NotAllowed(socket.to_owned())
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
