//! `lianxi.enrolment.v1` over gRPC: the handler at the parent, the caller at the child.
//!
//! The handler parses, calls and converts. Whom the call is for, and who calls `Confirm`, is what
//! [`Connection`] says, never what the request says.

use std::{
    fmt, io,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

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
    identity::tls::{self, ParentPin, Purpose, UnitTls},
    services::{
        connection::Connection,
        enrolments::{Door, DoorError, Enrolling, Enrolments, Refused, Reserved},
    },
    statement::{
        enrolment::Application,
        header::Malformed,
        rotation::{KeyRequest, ProvenRequest},
    },
};

/// Longest time for one call.
const CALL_LIMIT: Duration = Duration::from_secs(30);

/// Largest request: an application is a few kilobytes, and a root that comes with its tree names the
/// units of that.
const MAX_REQUEST_BYTES: usize = 192 * 1024;

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
    fn called<T>(&self, request: &Request<T>) -> Result<(Arc<Enrolments>, Connection), Status> {
        let connection = request.extensions().get::<Connection>();
        let connection = connection
            .ok_or_else(|| Status::internal("the listener said nothing of the caller"))?;
        let enrolments = self.units.enrolments(&connection.unit);
        let enrolments = enrolments.ok_or_else(|| {
            Status::failed_precondition(format!("{} takes no children here", connection.unit))
        })?;
        Ok((enrolments, connection.clone()))
    }
}

#[async_trait]
impl Enrolment for EnrolmentHandler {
    async fn reserve(
        &self,
        request: Request<pb::ReserveRequest>,
    ) -> Result<Response<pb::ReserveResponse>, Status> {
        let (enrolments, connection) = self.called(&request)?;
        // A connection whose address is not known is as good as any other such.
        let from = connection.from.unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
        let application = Application::read(request.into_inner());
        let application = application.map_err(|error| malformed(&error))?;
        let reserved = enrolments.reserve(from, &application).await.map_err(to_status)?;
        Ok(Response::new(pb::ReserveResponse {
            certificate: reserved.certificate.to_vec(),
            ca_certificate: reserved.ca_certificate.to_vec(),
            clock_unix_ms: reserved.clock_unix_ms,
            reserved_until_unix_ms: reserved.reserved_until_unix_ms,
            chain: reserved.chain,
        }))
    }

    async fn confirm(
        &self,
        request: Request<pb::ConfirmRequest>,
    ) -> Result<Response<pb::ConfirmResponse>, Status> {
        let (enrolments, connection) = self.called(&request)?;
        let peer = connection.certified.ok_or_else(|| {
            Status::unauthenticated("confirm needs the client certificate that reserve issued")
        })?;
        let token_id = request.into_inner().token_id.as_slice().try_into();
        let token_id =
            token_id.map_err(|_| malformed(&Malformed::new("token_id", "must have 16 bytes")))?;
        let chain = enrolments.confirm(&peer, &token_id).await.map_err(to_status)?;
        Ok(Response::new(pb::ConfirmResponse { chain }))
    }

    async fn rotate(
        &self,
        request: Request<pb::RotateRequest>,
    ) -> Result<Response<pb::RotateResponse>, Status> {
        let (enrolments, connection) = self.called(&request)?;
        let peer = connection.certified.ok_or_else(|| {
            Status::unauthenticated("other keys are granted over the unit's own certificate alone")
        })?;
        let request = KeyRequest::read(request.into_inner()).map_err(|error| malformed(&error))?;
        let chain = enrolments.rotate(&peer, &request).await.map_err(to_status)?;
        Ok(Response::new(pb::RotateResponse { chain }))
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
            chain: answer.chain,
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

    async fn rotate(
        &self,
        address: &str,
        pin: &ParentPin,
        client: &UnitTls,
        request: ProvenRequest,
    ) -> Result<Vec<Envelope>, DoorError> {
        let mut client = self.dial(address, pin, Purpose::Link, Some(client)).await?;
        let answer = client.rotate(request).await;
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

#[cfg(test)]
mod tests {
    use std::{
        path::PathBuf,
        pin::Pin,
        sync::atomic::{AtomicU8, Ordering},
        task::{Context, Poll},
    };

    use tokio::{
        io::{AsyncRead, AsyncWrite, ReadBuf},
        net::TcpListener,
        sync::mpsc,
        task::JoinHandle,
    };
    use tokio_stream::wrappers::ReceiverStream;
    use tonic::transport::{Server, server::Connected};

    use super::*;
    use crate::{
        domain::unit::{Level, UnitCode},
        identity::{keys::UnitKeys, tls::ServerTls, token::Token},
        services::{
            connection::Turn,
            enrolments::{
                Identity, JoinError, Joined, Joining, Renewed, Renewing,
                tests::{City, MemoryStore, act, code},
            },
            error::{ErrorKind, ServiceError as _},
        },
    };

    /// A TLS stream that carries what the listener knows into every request.
    struct Known(tokio_rustls::server::TlsStream<TcpStream>, Connection);

    impl Connected for Known {
        type ConnectInfo = Connection;

        fn connect_info(&self) -> Connection {
            self.1.clone()
        }
    }

    impl AsyncRead for Known {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(context, buffer)
        }
    }

    impl AsyncWrite for Known {
        fn poll_write(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.0).poll_write(context, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(context)
        }

        fn poll_shutdown(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(context)
        }
    }

    struct One(Arc<Enrolments>);

    impl Enrolling for One {
        fn enrolments(&self, unit: &UnitCode) -> Option<Arc<Enrolments>> {
            (self.0.unit() == unit).then(|| Arc::clone(&self.0))
        }
    }

    /// A city that serves its enrolments on a real port.
    struct Served {
        city: City,
        address: String,
        tasks: Vec<JoinHandle<()>>,
    }

    impl Served {
        async fn new(city: City) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let (sender, incoming) = mpsc::channel(16);
            let tls = Arc::clone(&city.tls);
            let accepting = tokio::spawn(accept(listener, tls, sender));
            let units = Arc::new(One(Arc::clone(&city.enrolments)));
            let server = Server::builder().add_service(service(units));
            let serving = tokio::spawn(async move {
                server.serve_with_incoming(ReceiverStream::new(incoming)).await.unwrap();
            });
            Self { city, address, tasks: vec![accepting, serving] }
        }

        async fn restart(self) -> Self {
            for task in self.tasks {
                task.abort();
            }
            Self::new(self.city.restart().await).await
        }

        async fn token(&self) -> Token {
            // The first address leads nowhere, as in a token of a host with two networks.
            let addresses = ["127.0.0.1:1", &self.address];
            self.city.invite("BOS-01", Level::District, &addresses).await
        }

        fn keys_directory(&self) -> PathBuf {
            self.city.directory.path().join("child/BOS-01")
        }

        async fn join(&self, token: &Token, door: &dyn Door) -> Result<Joined, JoinError> {
            self.joining(token, &self.keys_directory(), door).run().await
        }

        fn joining<'a>(
            &self,
            token: &'a Token,
            keys_directory: &std::path::Path,
            door: &'a dyn Door,
        ) -> Joining<'a> {
            let clock = Arc::new(self.city.clock.clone());
            Joining {
                token,
                keys_directory: keys_directory.into(),
                host: "district-host",
                door,
                clock,
                adopted: None,
            }
        }

        fn door(&self) -> GrpcDoor {
            GrpcDoor::new(Arc::new(self.city.clock.clone()))
        }
    }

    async fn accept(
        listener: TcpListener,
        tls: Arc<ServerTls>,
        sender: mpsc::Sender<io::Result<Known>>,
    ) {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(accepted) = tls.accept(stream).await else { continue };
            let connection = Connection {
                from: None,
                unit: accepted.unit,
                peer: accepted.peer,
                certified: accepted.certified,
                turn: Turn::default(),
            };
            if sender.send(Ok(Known(accepted.stream, connection))).await.is_err() {
                return;
            }
        }
    }

    /// Cuts a join off at one of its steps, before or after the parent has done it.
    struct Cutting {
        door: GrpcDoor,
        at: AtomicU8,
    }

    impl Cutting {
        fn cut(&self, step: u8) -> Result<(), DoorError> {
            if self.at.load(Ordering::Relaxed) == step {
                return Err(DoorError::Broken("cut off by the test".to_owned()));
            }
            Ok(())
        }
    }

    #[async_trait]
    impl Door for Cutting {
        async fn reserve(
            &self,
            address: &str,
            pin: &ParentPin,
            application: &Application,
            signer: &Signer,
        ) -> Result<Reserved, DoorError> {
            self.cut(0)?;
            let reserved = self.door.reserve(address, pin, application, signer).await?;
            self.cut(1)?;
            Ok(reserved)
        }

        async fn confirm(
            &self,
            address: &str,
            pin: &ParentPin,
            client: &UnitTls,
            token_id: [u8; 16],
        ) -> Result<Vec<Envelope>, DoorError> {
            self.cut(2)?;
            let chain = self.door.confirm(address, pin, client, token_id).await?;
            self.cut(3)?;
            Ok(chain)
        }

        async fn rotate(
            &self,
            address: &str,
            pin: &ParentPin,
            client: &UnitTls,
            request: ProvenRequest,
        ) -> Result<Vec<Envelope>, DoorError> {
            self.door.rotate(address, pin, client, request).await
        }
    }

    #[tokio::test]
    async fn a_child_joins_over_tls_and_is_known_by_its_key_from_then_on() {
        let served = Served::new(City::new("boston.example").await).await;
        let token = served.token().await;
        let joined = served.join(&token, &served.door()).await.unwrap();
        assert_eq!(joined.clock_skew_ms, 0);
        assert_eq!(joined.trust.parent(&code("BOS-01")), Some(&code("BOS")));
        assert!(served.city.enrolments.has_joined(&code("BOS-01")).await.unwrap());
        let store = MemoryStore::default();
        joined.identity.persist(&store, 1, act()).await.unwrap();
        let identity = Identity::load(&store, &code("BOS-01")).await.unwrap().unwrap();
        assert_eq!(identity, joined.identity);
        let trust = identity.load_trust(&store).await.unwrap();
        assert_eq!(trust.chain(&code("BOS-01")), joined.identity.chain);
        // With what was kept, the child is the parent's peer: now, and after the parent restarted.
        let keys = UnitKeys::load(&served.keys_directory()).unwrap();
        let served = served.restart().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let client = identity.tls(&keys);
        let pin = identity.pin().unwrap();
        let clock = Arc::new(served.city.clock.clone());
        let (accepted, stream) = tokio::join!(
            async { served.city.tls.accept(listener.accept().await.unwrap().0).await.unwrap() },
            tls::connect(&address, &pin, Purpose::Link, Some(&client), clock),
        );
        stream.unwrap();
        assert_eq!(accepted.peer, Some(code("BOS-01")));
    }

    #[tokio::test]
    async fn a_join_that_was_cut_off_anywhere_goes_on_with_its_keys() {
        for step in 0..4 {
            let served = Served::new(City::new("boston.example").await).await;
            let token = served.token().await;
            let cutting = Cutting { door: served.door(), at: AtomicU8::new(step) };
            let error = served.join(&token, &cutting).await.unwrap_err();
            assert!(error.to_string().contains("run the join again"), "{error}");
            let keys = UnitKeys::load(&served.keys_directory()).unwrap().public_keys();
            // Both hosts start again; the child knows nothing but its keys and the token.
            let served = served.restart().await;
            let moved = Token { addresses: vec![served.address.clone()], ..token };
            let joined = served.join(&moved, &served.door()).await.unwrap();
            assert_eq!(joined.keys.public_keys(), keys, "cut at step {step}");
            assert_eq!(served.city.enrolments.children().await.unwrap().len(), 1);
        }
    }

    #[tokio::test]
    async fn certificates_are_renewed_even_long_after_they_ended() {
        const DAY: i64 = 24 * 60 * 60 * 1000;
        let served = Served::new(City::new("boston.example").await).await;
        let token = served.token().await;
        let joined = served.join(&token, &served.door()).await.unwrap();
        let before = joined.identity;
        let start = served.city.clock.now_unix_ms();
        assert!(!before.is_due(start + 13 * DAY) && before.is_due(start + 17 * DAY));
        // Both were off for two months: the parent renews its own first.
        let late = start + 60 * DAY;
        served.city.clock.set(late);
        let door = served.door();
        let clock: Arc<dyn Clock> = Arc::new(served.city.clock.clone());
        let parent = &served.city.unit;
        let renewing = |identity, keys| Renewing {
            identity,
            keys,
            host: "",
            door: &door,
            clock: Arc::clone(&clock),
        };
        let renewed = renewing(&parent.identity, &parent.keys).run().await.unwrap();
        served.city.tls.set(&renewed.identity.tls(&parent.keys)).unwrap();
        let Renewed { identity: after, chain, failed } =
            renewing(&before, &joined.keys).run().await.unwrap();
        assert!(failed.is_none(), "{failed:?}");
        assert_eq!(chain, before.chain, "half of a year is not over");
        assert!(!after.is_due(late));
        assert_ne!(after.client_certificate, before.client_certificate);
        let store = MemoryStore::default();
        before.persist(&store, 1, act()).await.unwrap();
        after.persist(&store, 1, act()).await.unwrap();
        let kept = Identity::load(&store, &code("BOS-01")).await.unwrap().unwrap();
        assert_eq!(kept, after);
        // With other keys the membership is worth nothing.
        let thief = UnitKeys::generate(&code("BOS-01"), "boston.example", late).unwrap();
        let refused = renewing(&before, &thief).run().await.unwrap();
        let error = refused.failed.unwrap();
        assert!(error.to_string().contains("the token was used"), "{error}");
    }

    #[tokio::test]
    async fn a_used_token_is_refused_to_other_keys() {
        let served = Served::new(City::new("boston.example").await).await;
        let token = served.token().await;
        served.join(&token, &served.door()).await.unwrap();
        let elsewhere = served.city.directory.path().join("thief");
        let door = served.door();
        let error = served.joining(&token, &elsewhere, &door).run().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        let message = error.to_string();
        assert!(message.contains("the token was used"), "{message}");
    }

    #[tokio::test]
    async fn a_token_of_another_city_is_refused_by_the_hash_before_anything_is_sent() {
        let served = Served::new(City::new("boston.example").await).await;
        let other = City::new("boston.example").await;
        let foreign = other.invite("BOS-01", Level::District, &[&served.address]).await;
        let error = served.join(&foreign, &served.door()).await.unwrap_err();
        assert!(error.to_string().contains("does not show the CA"), "{error}");
        assert_eq!(error.kind(), ErrorKind::Unauthenticated);
        assert!(!served.keys_directory().exists(), "no keys are made for a wrong parent");
        // With the right hash and an unknown id, the parent says so.
        let unknown = Token { id: [0; 16], ..served.token().await };
        let error = served.join(&unknown, &served.door()).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("no such token at BOS; ask for a new one"), "{text}");
    }

    #[tokio::test]
    async fn a_child_that_claims_another_unit_is_refused() {
        let served = Served::new(City::new("boston.example").await).await;
        let token = Token { unit: code("BOS-02"), ..served.token().await };
        let error = served.join(&token, &served.door()).await.unwrap_err();
        assert!(error.to_string().contains("the token is for BOS-01"), "{error}");
    }

    #[tokio::test]
    async fn a_parent_that_is_not_there_is_told_with_its_address() {
        let served = Served::new(City::new("boston.example").await).await;
        let token = Token { addresses: vec!["127.0.0.1:1".to_owned()], ..served.token().await };
        let error = served.join(&token, &served.door()).await.unwrap_err();
        assert!(error.to_string().contains("nobody answers at 127.0.0.1:1"), "{error}");
        let token = Token { addresses: Vec::new(), ..token };
        let error = served.join(&token, &served.door()).await.unwrap_err();
        assert!(matches!(error, JoinError::NoAddress));
    }

    #[tokio::test]
    async fn a_dry_run_keeps_nothing() {
        let served = Served::new(City::new("boston.example").await).await;
        let token = served.token().await;
        let (directory, door) = (served.keys_directory(), served.door());
        let reached = served.joining(&token, &directory, &door).dry_run().await.unwrap();
        assert_eq!(reached.address, served.address);
        assert!(!directory.exists());
        served.city.clock.set(token.expires_unix_ms);
        let expired = served.joining(&token, &directory, &door).dry_run().await;
        assert!(matches!(expired, Err(JoinError::Expired { .. })));
    }

    #[tokio::test]
    async fn confirm_without_a_certificate_is_unauthenticated() {
        let served = Served::new(City::new("boston.example").await).await;
        let token = served.token().await;
        let (unit, ca_sha256) = (code("BOS"), token.ca_sha256);
        let pin = ParentPin { unit, trust_domain: None, ca_sha256, further: Vec::new() };
        let door = served.door();
        let mut client = door.dial(&served.address, &pin, Purpose::Enrol, None).await.unwrap();
        let answer = client.confirm(pb::ConfirmRequest { token_id: token.id.to_vec() }).await;
        assert_eq!(answer.unwrap_err().code(), Code::Unauthenticated);
        let answer = client.reserve(pb::ReserveRequest::default()).await;
        assert_eq!(answer.unwrap_err().code(), Code::InvalidArgument);
    }
}
