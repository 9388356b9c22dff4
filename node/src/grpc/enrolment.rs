//! `lianxi.enrolment.v1` over gRPC: the handler at the parent, the caller at the child.
//!
//! The handler parses, calls and converts. Whom the call is for, and who calls `Confirm`, is what
//! [`Connection`] says, never what the request says.

use std::{fmt, io, sync::Arc, time::Duration};

use async_trait::async_trait;
use hyper_util::rt::TokioIo;
use lianxi_proto::{
    enrolment::v1::{
        self as pb,
        enrolment_client::EnrolmentClient,
        enrolment_server::{Enrolment, EnrolmentServer},
    },
    envelope::Signer,
    types::v1::Envelope,
};
use tokio::{net::TcpStream, sync::Mutex};
use tokio_rustls::client::TlsStream;
use tonic::{
    Code, Request, Response, Status,
    transport::{Channel, Endpoint, Uri},
};
use tower::service_fn;

use crate::{
    clock::Clock,
    grpc::status::{malformed, to_status},
    identity::tls::{self, ParentPin, Peer, Purpose, UnitTls},
    services::{
        connection::Connection,
        enrolments::{Door, DoorError, Enrolling, Enrolments, Refused, Reserved},
    },
    statement::{enrolment::Application, header::Malformed},
};

/// Longest time for one call.
const CALL_LIMIT: Duration = Duration::from_secs(30);

/// Largest request: an application is a few kilobytes.
const MAX_REQUEST_BYTES: usize = 32 * 1024;

/// Serves the enrolments of the host's units: which one, the connection says.
pub struct EnrolmentHandler {
    units: Arc<dyn Enrolling>,
}

/// The service, for the connections that carry [`Connection`].
pub fn service(units: Arc<dyn Enrolling>) -> EnrolmentServer<EnrolmentHandler> {
    EnrolmentServer::new(EnrolmentHandler { units }).max_decoding_message_size(MAX_REQUEST_BYTES)
}

impl fmt::Debug for EnrolmentHandler {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("EnrolmentHandler")
    }
}

impl EnrolmentHandler {
    fn called<T>(&self, request: &Request<T>) -> Result<(Arc<Enrolments>, Option<Peer>), Status> {
        let connection = request.extensions().get::<Connection>();
        let connection = connection
            .ok_or_else(|| Status::internal("the listener said nothing of the caller"))?;
        let enrolments = self.units.enrolments(&connection.unit);
        let enrolments = enrolments.ok_or_else(|| {
            Status::failed_precondition(format!("{} takes no children here", connection.unit))
        })?;
        Ok((enrolments, connection.certified.clone()))
    }
}

#[async_trait]
impl Enrolment for EnrolmentHandler {
    async fn reserve(
        &self,
        request: Request<pb::ReserveRequest>,
    ) -> Result<Response<pb::ReserveResponse>, Status> {
        let (enrolments, _) = self.called(&request)?;
        let application = Application::read(request.into_inner());
        let application = application.map_err(|error| malformed(&error))?;
        let reserved = enrolments.reserve(&application).await.map_err(to_status)?;
        Ok(Response::new(pb::ReserveResponse {
            certificate: reserved.certificate.to_vec(),
            ca_certificate: reserved.ca_certificate.to_vec(),
            clock_unix_ms: reserved.clock_unix_ms,
            reserved_until_unix_ms: reserved.reserved_until_unix_ms,
        }))
    }

    async fn confirm(
        &self,
        request: Request<pb::ConfirmRequest>,
    ) -> Result<Response<pb::ConfirmResponse>, Status> {
        let (enrolments, peer) = self.called(&request)?;
        let peer = peer.ok_or_else(|| {
            Status::unauthenticated("confirm needs the client certificate that reserve issued")
        })?;
        let token_id = request.into_inner().token_id.as_slice().try_into();
        let token_id =
            token_id.map_err(|_| malformed(&Malformed::new("token_id", "must have 16 bytes")))?;
        let chain = enrolments.confirm(&peer, &token_id).await.map_err(to_status)?;
        Ok(Response::new(pb::ConfirmResponse { chain }))
    }
}

/// Calls a parent over TLS.
pub struct GrpcDoor {
    clock: Arc<dyn Clock>,
}

impl GrpcDoor {
    /// Judges certificates by `clock`.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock }
    }

    async fn dial(
        &self,
        address: &str,
        pin: &ParentPin,
        purpose: Purpose,
        client: Option<&UnitTls>,
    ) -> Result<EnrolmentClient<Channel>, DoorError> {
        let stream = tls::connect(address, pin, purpose, client, Arc::clone(&self.clock)).await?;
        let channel = channel(stream).await.map_err(|error| broken(&error))?;
        Ok(EnrolmentClient::new(channel))
    }
}

impl fmt::Debug for GrpcDoor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("GrpcDoor")
    }
}

/// A channel over a connection that stands; when it breaks, the channel is over.
async fn channel(stream: TlsStream<TcpStream>) -> Result<Channel, tonic::transport::Error> {
    let stream = Arc::new(Mutex::new(Some(stream)));
    let connector = service_fn(move |_: Uri| {
        let stream = Arc::clone(&stream);
        async move {
            let stream = stream.lock().await.take();
            stream.map(TokioIo::new).ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))
        }
    });
    // The name is of no use: the stream is connected and its peer checked.
    Endpoint::from_static("http://lianxi.internal")
        .timeout(CALL_LIMIT)
        .connect_with_connector(connector)
        .await
}

#[async_trait]
impl Door for GrpcDoor {
    async fn reserve(
        &self,
        address: &str,
        pin: &ParentPin,
        application: &Application,
        signer: &Signer,
    ) -> Result<Reserved, DoorError> {
        let mut client = self.dial(address, pin, Purpose::Enrol, None).await?;
        let answer = client.reserve(application.prove(signer)).await;
        let answer = answer.map_err(|status| refused(&status))?.into_inner();
        Ok(Reserved {
            certificate: present("certificate", answer.certificate)?.into(),
            ca_certificate: present("ca_certificate", answer.ca_certificate)?.into(),
            clock_unix_ms: answer.clock_unix_ms,
            reserved_until_unix_ms: answer.reserved_until_unix_ms,
        })
    }

    async fn confirm(
        &self,
        address: &str,
        pin: &ParentPin,
        client: &UnitTls,
        token_id: [u8; 16],
    ) -> Result<Vec<Envelope>, DoorError> {
        let mut client = self.dial(address, pin, Purpose::Link, Some(client)).await?;
        let answer = client.confirm(pb::ConfirmRequest { token_id: token_id.to_vec() }).await;
        Ok(answer.map_err(|status| refused(&status))?.into_inner().chain)
    }
}

fn present(field: &str, bytes: Vec<u8>) -> Result<Vec<u8>, Malformed> {
    if bytes.is_empty() { Err(Malformed::new(field, "is missing")) } else { Ok(bytes) }
}

fn refused(status: &Status) -> DoorError {
    const MEANINGS: [(Code, Refused); 6] = [
        (Code::AlreadyExists, Refused::Precondition),
        (Code::Unauthenticated, Refused::UnknownToken),
        (Code::FailedPrecondition, Refused::Precondition),
        (Code::InvalidArgument, Refused::Invalid),
        (Code::PermissionDenied, Refused::Denied),
        (Code::Internal, Refused::Failed),
    ];
    match MEANINGS.iter().find(|(code, _)| *code == status.code()) {
        // tonic reports its own trouble with the connection under these codes too, with a cause.
        Some((_, refused)) if std::error::Error::source(status).is_none() => {
            DoorError::Refused { refused: *refused, message: status.message().to_owned() }
        }
        _ => broken(status),
    }
}

fn broken(error: &(dyn std::error::Error + 'static)) -> DoorError {
    DoorError::Broken(tls::refusal(error).unwrap_or_else(|| error.to_string()))
}
