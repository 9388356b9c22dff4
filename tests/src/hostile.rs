//! A unit in hostile hands: its real keys and identity, and whatever frames a test likes.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use lianxi_node::{
    clock::{Clock as _, SystemClock},
    domain::unit::UnitCode,
    grpc::enrolment::GrpcDoor,
    identity::{
        keys::UnitKeys,
        sealed::{ContentKey, Reader},
        tls::{self, ConnectError, Purpose, UnitTls},
        trust::Trust,
    },
    services::enrolments::{Identity, Renewing},
    statement::{
        header::{self, Classification, Header, Sealing, StatementId},
        sealed::{SealedBody, encode_body},
    },
    store::{
        Store as _,
        sled::{Options, SledStore},
    },
};
use lianxi_proto::{
    envelope::{self, STATEMENT_TYPE, Signer},
    link::v1::{Delivery, Frame, Hello, Lane, Reached, frame::Kind, link_client::LinkClient},
    types::v1::{Envelope, Evidence, SaltedCell},
};
use tokio::{net::TcpStream, sync::mpsc, time::timeout};
use tokio_rustls::client::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Status, Streaming,
    transport::{Channel, Endpoint, Uri},
};

/// Longest wait for a frame that must come.
const PATIENCE: Duration = Duration::from_secs(30);

/// A unit whose keys a test holds.
pub struct Hostile {
    /// Who it is.
    pub identity: Identity,
    /// Its real keys.
    pub keys: UnitKeys,
    /// What it believes.
    pub trust: Trust,
}

impl Hostile {
    /// Takes over `unit` of the stopped host in `directory`.
    pub async fn take_over(directory: &Path, unit: &str) -> Self {
        let code: UnitCode = unit.parse().unwrap();
        let store = SledStore::open(&directory.join("store"), Options::default()).unwrap();
        let identity = Identity::load(&store, &code).await.unwrap().unwrap();
        let trust = identity.load_trust(&store).await.unwrap();
        store.close().await.unwrap();
        let keys = UnitKeys::load(&directory.join("keys").join(unit)).unwrap();
        Self { identity, keys, trust }
    }

    /// The unit.
    pub fn unit(&self) -> &UnitCode {
        &self.identity.unit
    }

    /// Its certificates.
    pub fn tls(&self) -> UnitTls {
        self.identity.tls(&self.keys)
    }

    /// Dials the parent with any certificate or none.
    pub async fn dial(
        &self,
        purpose: Purpose,
        client: Option<&UnitTls>,
    ) -> Result<TlsStream<TcpStream>, ConnectError> {
        let address = &self.identity.parent.as_ref().unwrap().addresses[0];
        let pin = self.identity.pin().unwrap();
        tls::connect(address, &pin, purpose, client, Arc::new(SystemClock)).await
    }

    /// The hello of an honest child.
    pub fn hello(&self) -> Hello {
        Hello {
            version_min: 1,
            version_max: 1,
            trust_domain: self.identity.trust_domain.clone(),
            unit: self.unit().to_string(),
            chain: self.trust.chain(self.unit()),
            epoch: 1,
            received: Vec::new(),
            clock_unix_ms: SystemClock.now_unix_ms(),
            roster_sha256: self.trust.roster_sha256(self.unit()).to_vec(),
            revocations_sha256: self.trust.revocations_sha256().to_vec(),
            addresses: Vec::new(),
            catalogue: String::new(),
            // As a program that says nothing of itself.
            software: String::new(),
            catalogue_format: 0,
            seen: None,
            opening: None,
            // Whoever lies about it is not held up by it.
            reached: Some(Reached { seq: u64::MAX, journal_size: u64::MAX, stopped: false }),
        }
    }

    /// Links as the unit itself does.
    pub async fn link(&self) -> HostileLink {
        let mut link = self.open().await;
        link.send(Kind::Hello(self.hello())).await;
        let frame = link.next().await;
        assert!(matches!(frame, Ok(Some(Kind::Hello(_)))), "{frame:?}");
        link
    }

    /// Opens the stream with the unit's own certificate and says nothing yet.
    pub async fn open(&self) -> HostileLink {
        let io = self.dial(Purpose::Link, Some(&self.tls())).await.unwrap();
        HostileLink::over(io).await.unwrap()
    }

    /// Asks for new certificates with the spent token.
    ///
    /// # Errors
    ///
    /// What the parent says.
    pub async fn renew(&self) -> Result<(), String> {
        let renewing = Renewing {
            identity: &self.identity,
            keys: &self.keys,
            host: "",
            door: &GrpcDoor::new(Arc::new(SystemClock)),
            clock: Arc::new(SystemClock),
        };
        let Some(error) = renewing.run().await.unwrap().failed else { return Ok(()) };
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        Err(format!("{error}: {}", cause.unwrap_or_default()))
    }

    /// The statement as if it had been made earlier.
    pub fn backdated(&self, envelope: &Envelope, by_ms: i64) -> Envelope {
        let mut statement = header::decode(&envelope.payload).unwrap();
        statement.header.id = StatementId::generate(statement.header.time_unix_ms - by_ms);
        statement.header.time_unix_ms -= by_ms;
        self.sign(&statement.header, &statement.body)
    }

    /// A header that the unit would write.
    pub fn header(&self, kind: &str) -> Header {
        let now = SystemClock.now_unix_ms();
        Header {
            id: StatementId::generate(now),
            source: self.unit().clone(),
            kind: kind.to_owned(),
            subject: String::new(),
            time_unix_ms: now,
            dataschema: "kit@1".to_owned(),
            epoch: 1,
            seq: 1,
            purpose: "joint-meeting".to_owned(),
            classification: Classification::Internal,
            exercise: false,
            destination: None,
            traceparent: String::new(),
            on_behalf_of: None,
            sealing: None,
            handed_by: Default::default(),
        }
    }

    /// Signs a statement whose body is sealed to units that it knows.
    pub fn sign_sealed(&self, header: &Header, readers: &[&str], body: &[u8]) -> Envelope {
        let key = ContentKey::generate();
        let (header, body) = self.seal(header, &key, readers, body);
        self.sign(&header, &encode_body(&body))
    }

    /// Seals a body with `key`, which the header then commits to.
    pub fn seal(
        &self,
        header: &Header,
        key: &ContentKey,
        readers: &[&str],
        body: &[u8],
    ) -> (Header, SealedBody) {
        let outline = header.sealing.as_ref().and_then(|sealing| sealing.outline.clone());
        let sealing = Some(Sealing { key_commitment: key.commitment(), outline });
        let header = Header { sealing, ..header.clone() };
        let readers: Vec<_> = readers.iter().map(|unit| self.reader(unit)).collect();
        let body = key.seal(&header::header_sha256(&header), &readers, body).unwrap();
        (header, body)
    }

    /// Agreement key of a unit that it knows.
    pub fn reader(&self, unit: &str) -> Reader {
        self.trust.reader(&unit.parse().unwrap(), None).unwrap()
    }

    /// Signs a statement with the unit's statement key, whatever the header says.
    pub fn sign(&self, header: &Header, body: &[u8]) -> Envelope {
        sign(header, body, &self.keys.statement)
    }
}

/// Signs a statement with any key.
pub fn sign(header: &Header, body: &[u8], signer: &Signer) -> Envelope {
    envelope::sign(STATEMENT_TYPE, header::encode(header, body), &[signer])
}

/// An open stream to the parent.
pub struct HostileLink {
    outbound: mpsc::Sender<Frame>,
    inbound: Streaming<Frame>,
    link_epoch: u64,
    lanes: BTreeMap<i32, u64>,
    /// Statements that came from the parent.
    pub came: Vec<Envelope>,
    /// What goes beside the next delivery.
    pub evidence: Option<Evidence>,
    _channel: Channel,
}

impl HostileLink {
    /// Opens a stream over a connection.
    pub async fn over(io: TlsStream<TcpStream>) -> Result<Self, Status> {
        let io = Arc::new(std::sync::Mutex::new(Some(TokioIo::new(io))));
        let connector = tower::service_fn(move |_: Uri| {
            let io = io.lock().unwrap().take();
            async move { io.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotConnected)) }
        });
        let channel = Endpoint::from_static("http://link.lianxi.internal")
            .connect_with_connector(connector)
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let (outbound, frames) = mpsc::channel(1);
        let mut client = LinkClient::new(channel.clone());
        let inbound = client.open(ReceiverStream::new(frames)).await?.into_inner();
        let random = StatementId::generate(0);
        let link_epoch = u64::from_be_bytes(random.as_bytes()[8..].try_into().unwrap());
        let (lanes, came) = (BTreeMap::new(), Vec::new());
        Ok(Self { outbound, inbound, link_epoch, lanes, came, evidence: None, _channel: channel })
    }

    /// Sends a frame.
    pub async fn send(&self, kind: Kind) {
        self.outbound.send(Frame { kind: Some(kind) }).await.unwrap();
    }

    /// The next frame; `None` at the proper end of the stream.
    ///
    /// # Errors
    ///
    /// The words with which the parent ended it.
    pub async fn next(&mut self) -> Result<Option<Kind>, Status> {
        let frame = timeout(PATIENCE, self.inbound.message()).await.unwrap()?;
        Ok(frame.and_then(|frame| frame.kind))
    }

    /// How the parent ends the stream, whatever comes before.
    pub async fn end(&mut self) -> Result<(), Status> {
        while self.next().await?.is_some() {}
        Ok(())
    }

    /// Sends a statement as the next of its lane.
    pub async fn deliver(&mut self, lane: Lane, envelope: Envelope, cells: Vec<SaltedCell>) -> u64 {
        let last = self.lanes.entry(lane.into()).or_insert(0);
        let after = *last;
        *last += 1;
        let lane_seq = *last;
        let (lane, link_epoch, envelope) = (lane.into(), self.link_epoch, Some(envelope));
        let evidence = self.evidence.take();
        let delivery = Delivery { lane, link_epoch, lane_seq, after, envelope, cells, evidence };
        self.send(Kind::Delivery(delivery)).await;
        lane_seq
    }

    /// Reads until the parent acknowledges `lane_seq`.
    pub async fn acknowledged(&mut self, lane: Lane, lane_seq: u64) {
        loop {
            match self.next().await.unwrap().expect("the link ended before the acknowledgement") {
                Kind::Acknowledgement(ack) if ack.lane() == lane && ack.lane_seq >= lane_seq => {
                    assert_eq!(ack.link_epoch, self.link_epoch);
                    return;
                }
                other => self.keep(other),
            }
        }
    }

    /// Reads until a statement came that `wanted` picks.
    pub async fn statement<T>(&mut self, mut wanted: impl FnMut(&Envelope) -> Option<T>) -> T {
        loop {
            let found = self.came.iter().position(|envelope| wanted(envelope).is_some());
            if let Some(place) = found {
                let envelope = self.came.swap_remove(place);
                return wanted(&envelope).unwrap();
            }
            let frame = self.next().await.unwrap().expect("the link ended before the statement");
            self.keep(frame);
        }
    }

    fn keep(&mut self, frame: Kind) {
        if let Kind::Delivery(delivery) = frame {
            self.came.extend(delivery.envelope);
        }
    }
}
