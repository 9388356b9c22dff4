//! TLS 1.3 between a child and its parent. The name that the child asks for (SNI) says which unit
//! it means, and what for.
//!
//! Promises that whoever is on a link holds the key that the parent bound to the named unit, that
//! the child talks to the very CA that it pinned, and that certificates change without a restart.
//! Says who is there, never what they may do. Sessions are not resumed: each connection proves its
//! keys anew.

use std::{
    collections::BTreeMap,
    error::Error as StdError,
    fmt, io,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName,
    OtherError, RootCertStore, ServerConfig, SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
    server::{
        NoServerSessionStorage, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    time_provider::TimeProvider,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{LazyConfigAcceptor, TlsConnector, client, server};

use crate::{
    clock::{Clock, UnixMillis},
    domain::unit::UnitCode,
    identity::{
        certificates::{self, sha256},
        keys::UnitKeys,
    },
};

/// Longest time for reaching a host, and again for a handshake.
pub const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// Domain of the names that are asked for; never looked up.
const DOMAIN: &str = "lianxi.internal";

/// Protocol that is spoken inside.
const ALPN: &[u8] = b"h2";

/// TLS alert record: fatal, unrecognized_name (RFC 8446 §6).
const UNRECOGNISED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// What a connection is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Purpose {
    /// The link and everything else of a child that has joined; needs its client certificate.
    Link,
    /// The first step of joining; needs none.
    Enrol,
}

impl Purpose {
    fn label(self) -> &'static str {
        match self {
            Self::Link => "link",
            Self::Enrol => "enrol",
        }
    }
}

fn host_name(unit: &UnitCode, purpose: Purpose) -> String {
    format!("{}.{}.{DOMAIN}", unit.as_str().to_ascii_lowercase(), purpose.label())
}

/// The name that a child asks for.
pub fn server_name(unit: &UnitCode, purpose: Purpose) -> ServerName<'static> {
    ServerName::try_from(host_name(unit, purpose)).expect("invariant: unit codes are DNS labels")
}

fn read_server_name(name: &str) -> Option<(UnitCode, Purpose)> {
    let (label, rest) = name.split_once('.')?;
    let purpose = match rest.strip_suffix(DOMAIN)? {
        "link." => Purpose::Link,
        "enrol." => Purpose::Enrol,
        _ => return None,
    };
    Some((label.to_ascii_uppercase().parse().ok()?, purpose))
}

/// What a unit shows in TLS: to its children its server certificate, to its parent its client
/// certificate, both for one key.
#[derive(Clone)]
pub struct UnitTls {
    /// The unit.
    pub unit: UnitCode,
    /// Trust domain of its city.
    pub trust_domain: String,
    /// Certificate of its own CA.
    pub ca_certificate: CertificateDer<'static>,
    /// Shown to children.
    pub server_certificate: CertificateDer<'static>,
    /// Shown to the parent; `None` at the root.
    pub client_certificate: Option<CertificateDer<'static>>,
    key: Arc<PrivatePkcs8KeyDer<'static>>,
}

impl UnitTls {
    /// Makes a new server certificate for the unit's keys.
    ///
    /// # Errors
    ///
    /// [`certificates::Error::Sign`].
    pub fn new(
        unit: &UnitCode,
        trust_domain: &str,
        keys: &UnitKeys,
        client_certificate: Option<CertificateDer<'static>>,
        now: UnixMillis,
    ) -> Result<Self, certificates::Error> {
        let names = [Purpose::Link, Purpose::Enrol].map(|purpose| host_name(unit, purpose));
        let issuer = (&keys.ca_certificate, &keys.ca);
        let server_certificate =
            certificates::issue_server(unit, trust_domain, &names, issuer, &keys.tls, now)?;
        Ok(Self::restore(unit, trust_domain, keys, server_certificate, client_certificate))
    }

    /// Takes certificates that were made before.
    pub fn restore(
        unit: &UnitCode,
        trust_domain: &str,
        keys: &UnitKeys,
        server_certificate: CertificateDer<'static>,
        client_certificate: Option<CertificateDer<'static>>,
    ) -> Self {
        Self {
            unit: unit.clone(),
            trust_domain: trust_domain.to_owned(),
            ca_certificate: keys.ca_certificate.clone(),
            server_certificate,
            client_certificate,
            key: Arc::new(keys.tls.serialize_der().into()),
        }
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.key.clone_key())
    }
}

impl fmt::Debug for UnitTls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("UnitTls")
            .field("unit", &self.unit)
            .field("trust_domain", &self.trust_domain)
            .finish_non_exhaustive()
    }
}

/// Who showed a client certificate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Peer {
    /// Unit that the certificate names.
    pub unit: UnitCode,
    /// SHA-256 of its public key (SubjectPublicKeyInfo, DER).
    pub key_sha256: [u8; 32],
}

/// Why a connection was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// The handshake took too long.
    #[error("the peer did not finish its handshake within 10 s")]
    Timeout,
    /// The peer named no unit: no child of Lianxi does so.
    #[error("the peer asked for no unit; it is no Lianxi node, or something strips the name (SNI)")]
    NoName,
    /// The unit is not hosted here.
    #[error("the peer asked for {0:?}, which this host does not serve")]
    NotServed(String),
    /// The peer's certificate was refused, or it refused this host's.
    #[error("the handshake for {unit} failed: {reason}")]
    Handshake {
        /// Unit that was asked for.
        unit: UnitCode,
        /// What happened, with the remedy where one is known.
        reason: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The connection broke.
    #[error("the connection broke in the handshake")]
    Io(#[source] io::Error),
}

/// A connection whose peer is known as far as its purpose asks.
pub struct Accepted<IO> {
    /// The stream.
    pub stream: server::TlsStream<IO>,
    /// Hosted unit that the peer asked for.
    pub unit: UnitCode,
    /// What for.
    pub purpose: Purpose,
    /// The child, if it has joined with the very key that it showed: who it is for everything but
    /// joining. `None` for [`Purpose::Enrol`], and for a child that has yet to confirm.
    pub peer: Option<UnitCode>,
    /// What the peer's certificate says; always there for [`Purpose::Link`].
    pub certified: Option<Peer>,
}

impl<IO> fmt::Debug for Accepted<IO> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Accepted")
            .field("unit", &self.unit)
            .field("purpose", &self.purpose)
            .field("peer", &self.peer)
            .field("certified", &self.certified)
            .finish_non_exhaustive()
    }
}

/// The keys that parents bound to their children: (parent, child) → SHA-256 of the public key.
type Bindings = Arc<RwLock<BTreeMap<(UnitCode, UnitCode), [u8; 32]>>>;

struct Hosted {
    link: Arc<ServerConfig>,
    enrol: Arc<ServerConfig>,
}

/// The units of this host as TLS serves them. Units and their certificates can be set at any time;
/// connections that are open go on.
pub struct ServerTls {
    units: RwLock<BTreeMap<UnitCode, Hosted>>,
    bindings: Bindings,
    clock: Arc<dyn Clock>,
}

impl ServerTls {
    /// Serves no unit yet.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { units: RwLock::default(), bindings: Bindings::default(), clock }
    }

    /// Serves a unit, or changes its certificates for the connections to come.
    ///
    /// # Errors
    ///
    /// The certificates do not fit the key.
    pub fn set(&self, unit: &UnitTls) -> Result<(), rustls::Error> {
        let hosted = Hosted {
            link: self.config(unit, Purpose::Link)?,
            enrol: self.config(unit, Purpose::Enrol)?,
        };
        let mut units = self.units.write().unwrap_or_else(PoisonError::into_inner);
        units.insert(unit.unit.clone(), hosted);
        Ok(())
    }

    /// `child` of `unit` has joined with this key: it alone opens links, and no other gets in. A
    /// certificate that was issued to somebody who took the token but did not confirm is worthless.
    pub fn bind(&self, unit: &UnitCode, child: &UnitCode, key_sha256: [u8; 32]) {
        let mut bindings = self.bindings.write().unwrap_or_else(PoisonError::into_inner);
        bindings.insert((unit.clone(), child.clone()), key_sha256);
    }

    /// Does the handshake of an incoming connection, within [`HANDSHAKE_LIMIT`].
    ///
    /// # Errors
    ///
    /// [`AcceptError`]; the connection is closed.
    pub async fn accept<IO>(&self, io: IO) -> Result<Accepted<IO>, AcceptError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        timeout(HANDSHAKE_LIMIT, self.handshake(io)).await.map_err(|_| AcceptError::Timeout)?
    }

    async fn handshake<IO>(&self, io: IO) -> Result<Accepted<IO>, AcceptError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let acceptor = rustls::server::Acceptor::default();
        let mut start = LazyConfigAcceptor::new(acceptor, io).await.map_err(AcceptError::Io)?;
        let name = start.client_hello().server_name().map(str::to_owned);
        let named = name.as_deref().and_then(read_server_name);
        let hosted =
            named.and_then(|(unit, purpose)| Some((self.hosted(&unit, purpose)?, unit, purpose)));
        let Some((config, unit, purpose)) = hosted else {
            // The child is told why, else it sees no more than a closed connection.
            let told = start.io.write_all(&UNRECOGNISED_NAME).await;
            told.map_err(AcceptError::Io)?;
            start.io.shutdown().await.map_err(AcceptError::Io)?;
            return Err(name.map_or(AcceptError::NoName, AcceptError::NotServed));
        };
        let stream = start.into_stream(config).await.map_err(|source| {
            let reason = reason_of(&source);
            AcceptError::Handshake { unit: unit.clone(), reason, source }
        })?;
        let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        // The verifier has read the same bytes; an unreadable certificate does not get here.
        let certified = shown.and_then(|der| certificates::read(der).ok());
        let certified = certified.map(|one| Peer { unit: one.unit, key_sha256: one.key_sha256 });
        let joined = certified.as_ref().filter(|peer| self.is_bound(&unit, peer));
        let peer = joined.map(|peer| peer.unit.clone());
        Ok(Accepted { stream, unit, purpose, peer, certified })
    }

    /// True if `peer` is a child of `unit` that joined with its key.
    fn is_bound(&self, unit: &UnitCode, peer: &Peer) -> bool {
        let bindings = self.bindings.read().unwrap_or_else(PoisonError::into_inner);
        bindings.get(&(unit.clone(), peer.unit.clone())) == Some(&peer.key_sha256)
    }

    fn hosted(&self, unit: &UnitCode, purpose: Purpose) -> Option<Arc<ServerConfig>> {
        let units = self.units.read().unwrap_or_else(PoisonError::into_inner);
        let hosted = units.get(unit)?;
        Some(Arc::clone(match purpose {
            Purpose::Link => &hosted.link,
            Purpose::Enrol => &hosted.enrol,
        }))
    }

    fn config(&self, unit: &UnitTls, purpose: Purpose) -> Result<Arc<ServerConfig>, rustls::Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let time = Arc::new(ClockTime(Arc::clone(&self.clock)));
        let builder = ServerConfig::builder_with_details(Arc::clone(&provider), time)
            .with_protocol_versions(&[&rustls::version::TLS13])?;
        let builder = match purpose {
            Purpose::Enrol => builder.with_no_client_auth(),
            Purpose::Link => builder.with_client_cert_verifier(Arc::new(ChildVerifier {
                chain: chain_verifier(&unit.ca_certificate, provider)?,
                unit: unit.unit.clone(),
                trust_domain: unit.trust_domain.clone(),
                bindings: Arc::clone(&self.bindings),
            })),
        };
        let chain = vec![unit.server_certificate.clone(), unit.ca_certificate.clone()];
        let mut config = builder.with_single_cert(chain, unit.key())?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ServerTls").finish_non_exhaustive()
    }
}

fn roots(ca: &CertificateDer<'_>) -> Result<Arc<RootCertStore>, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone().into_owned())?;
    Ok(Arc::new(roots))
}

fn chain_verifier(
    ca: &CertificateDer<'_>,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, rustls::Error> {
    WebPkiClientVerifier::builder_with_provider(roots(ca)?, provider)
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))
}

/// The injected clock as rustls asks for it.
struct ClockTime(Arc<dyn Clock>);

impl TimeProvider for ClockTime {
    fn current_time(&self) -> Option<UnixTime> {
        let millis = u64::try_from(self.0.now_unix_ms()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_millis(millis)))
    }
}

impl fmt::Debug for ClockTime {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ClockTime")
    }
}

/// What is wrong with a certificate that chains correctly.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
enum Fault {
    #[error("the certificate names no unit")]
    NoUnit,
    #[error("the certificate is of trust domain {found}, not {expected}")]
    Domain { found: String, expected: String },
    #[error("the certificate is of unit {found}, not {expected}")]
    Unit { found: UnitCode, expected: UnitCode },
    #[error("the certificate of {0} is for another key than the one that {0} joined with")]
    Key(UnitCode),
    #[error("the pinned CA is not in the chain that was shown")]
    Pin,
}

fn fault(fault: Fault) -> rustls::Error {
    CertificateError::Other(OtherError(Arc::new(fault))).into()
}

fn find_fault(error: &rustls::Error) -> Option<&Fault> {
    if let rustls::Error::InvalidCertificate(CertificateError::Other(other)) = error {
        other.0.downcast_ref::<Fault>()
    } else {
        None
    }
}

/// Judges a child's certificate: webpki against the unit's own CA, then name and key.
#[derive(Debug)]
struct ChildVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    unit: UnitCode,
    trust_domain: String,
    bindings: Bindings,
}

impl ChildVerifier {
    fn check_holder(&self, certificate: &CertificateDer<'_>) -> Result<(), Fault> {
        let certified = certificates::read(certificate).map_err(|_| Fault::NoUnit)?;
        if certified.trust_domain != self.trust_domain {
            let (found, expected) = (certified.trust_domain, self.trust_domain.clone());
            return Err(Fault::Domain { found, expected });
        }
        let bindings = self.bindings.read().unwrap_or_else(PoisonError::into_inner);
        match bindings.get(&(self.unit.clone(), certified.unit.clone())) {
            Some(key) if *key != certified.key_sha256 => Err(Fault::Key(certified.unit)),
            _ => Ok(()),
        }
    }
}

impl ClientCertVerifier for ChildVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        self.check_holder(end_entity).map_err(fault)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// What a child knows of its parent before it dials.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ParentPin {
    /// The parent.
    pub unit: UnitCode,
    /// Trust domain; `None`: any.
    pub trust_domain: Option<String>,
    /// SHA-256 of the parent's CA certificate.
    pub ca_sha256: [u8; 32],
}

/// Judges the parent's certificate: the pinned CA must be in the shown chain, webpki must hold
/// against it, and the leaf must name the parent.
#[derive(Debug)]
struct PinVerifier {
    pin: ParentPin,
    provider: Arc<CryptoProvider>,
}

impl PinVerifier {
    fn check_holder(&self, certificate: &CertificateDer<'_>) -> Result<(), Fault> {
        let certified = certificates::read(certificate).map_err(|_| Fault::NoUnit)?;
        if let Some(expected) = &self.pin.trust_domain
            && *expected != certified.trust_domain
        {
            return Err(Fault::Domain {
                found: certified.trust_domain,
                expected: expected.clone(),
            });
        }
        if certified.unit != self.pin.unit {
            return Err(Fault::Unit { found: certified.unit, expected: self.pin.unit.clone() });
        }
        Ok(())
    }
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let pinned = intermediates.iter().find(|der| sha256(der) == self.pin.ca_sha256);
        let pinned = pinned.ok_or_else(|| fault(Fault::Pin))?;
        let chain =
            WebPkiServerVerifier::builder_with_provider(roots(pinned)?, Arc::clone(&self.provider))
                .build()
                .map_err(|error| rustls::Error::General(error.to_string()))?;
        // The name that was asked for is checked after the unit's: it would hide a wrong unit.
        self.check_holder(end_entity).map_err(fault)?;
        chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Why the parent was not reached, or is not the parent. Nothing was sent to it.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody answers at the address.
    #[error(
        "nobody answers at {address}; check that the parent's node runs there and that the network lets this host through"
    )]
    NotReached {
        /// Address that was dialled.
        address: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The other side does not speak, or not TLS.
    #[error("{address} did not answer within 10 s")]
    Timeout {
        /// Address that was dialled.
        address: String,
    },
    /// The chain does not hold the pinned CA.
    #[error(
        "{address} does not show the CA {pinned} of {unit}; check the address, and if it is right ask the parent for a new token"
    )]
    WrongCa {
        /// Address that was dialled.
        address: String,
        /// The parent.
        unit: UnitCode,
        /// First bytes of the expected hash.
        pinned: String,
    },
    /// The certificate is of another unit or trust domain.
    #[error("{address} is not {unit}: {reason}; check the address")]
    WrongUnit {
        /// Address that was dialled.
        address: String,
        /// The parent.
        unit: UnitCode,
        /// What the certificate says.
        reason: String,
    },
    /// The certificate is not valid at this host's time.
    #[error(
        "the certificate of {unit} at {address} is {state}; compare the clocks of both hosts, and if they agree renew the parent's certificate"
    )]
    Validity {
        /// Address that was dialled.
        address: String,
        /// The parent.
        unit: UnitCode,
        /// `expired` or `not valid yet`.
        state: &'static str,
    },
    /// The host does not serve the parent.
    #[error("the host at {address} does not serve {unit}; check the address")]
    NotServed {
        /// Address that was dialled.
        address: String,
        /// The parent.
        unit: UnitCode,
    },
    /// The parent refused this unit's certificate, or the handshake failed otherwise.
    #[error("the handshake with {unit} at {address} failed: {reason}")]
    Handshake {
        /// Address that was dialled.
        address: String,
        /// The parent.
        unit: UnitCode,
        /// What happened, with the remedy where one is known.
        reason: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// This unit's certificate does not fit its key.
    #[error("this unit's own certificate cannot be used; join again")]
    Own(#[source] rustls::Error),
}

/// Dials the parent, and checks that it is the parent before anything is sent.
///
/// # Errors
///
/// [`ConnectError`]. A refusal of `client`'s certificate can also show up only with the first bytes
/// that are read from the stream; [`refusal`] finds it.
pub async fn connect(
    address: &str,
    pin: &ParentPin,
    purpose: Purpose,
    client: Option<&UnitTls>,
    clock: Arc<dyn Clock>,
) -> Result<client::TlsStream<TcpStream>, ConnectError> {
    let config = client_config(pin, client, clock).map_err(ConnectError::Own)?;
    let late = |_| ConnectError::Timeout { address: address.to_owned() };
    let not_reached = |source| ConnectError::NotReached { address: address.to_owned(), source };
    let stream = timeout(HANDSHAKE_LIMIT, TcpStream::connect(address))
        .await
        .map_err(late)?
        .map_err(not_reached)?;
    stream.set_nodelay(true).map_err(not_reached)?;
    let name = server_name(&pin.unit, purpose);
    let handshake = TlsConnector::from(Arc::new(config)).connect(name, stream);
    let done = timeout(HANDSHAKE_LIMIT, handshake).await.map_err(late)?;
    done.map_err(|source| connect_error(address, pin, source))
}

fn client_config(
    pin: &ParentPin,
    client: Option<&UnitTls>,
    clock: Arc<dyn Clock>,
) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = PinVerifier { pin: pin.clone(), provider: Arc::clone(&provider) };
    let builder = ClientConfig::builder_with_details(provider, Arc::new(ClockTime(clock)))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let shown = client.and_then(|client| Some((client.client_certificate.clone()?, client.key())));
    let mut config = match shown {
        Some((certificate, key)) => builder.with_client_auth_cert(vec![certificate], key)?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn connect_error(address: &str, pin: &ParentPin, source: io::Error) -> ConnectError {
    let (address, unit) = (address.to_owned(), pin.unit.clone());
    let Some(error) = find_tls(&source) else {
        let reason =
            "the connection broke; something in between may not let TLS through".to_owned();
        return ConnectError::Handshake { address, unit, reason, source };
    };
    if let Some(fault) = find_fault(error) {
        return match fault {
            Fault::Pin => {
                let pinned = hex::encode(&pin.ca_sha256[..8]);
                ConnectError::WrongCa { address, unit, pinned }
            }
            Fault::NoUnit | Fault::Domain { .. } | Fault::Unit { .. } | Fault::Key(_) => {
                ConnectError::WrongUnit { address, unit, reason: fault.to_string() }
            }
        };
    }
    match (validity(error), error) {
        (Some(state), _) => ConnectError::Validity { address, unit, state },
        (None, rustls::Error::AlertReceived(AlertDescription::UnrecognisedName)) => {
            ConnectError::NotServed { address, unit }
        }
        (None, _) => ConnectError::Handshake { address, unit, reason: reason_of(&source), source },
    }
}

fn validity(error: &rustls::Error) -> Option<&'static str> {
    use CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    let rustls::Error::InvalidCertificate(error) = error else { return None };
    if matches!(error, Expired | ExpiredContext { .. }) {
        Some("expired")
    } else if matches!(error, NotValidYet | NotValidYetContext { .. }) {
        Some("not valid yet")
    } else {
        None
    }
}

/// Finds why the other side ended the handshake in an error of whatever was spoken over it, as one
/// sentence for the operator. `None`: it did not.
pub fn refusal(error: &(dyn StdError + 'static)) -> Option<String> {
    let rustls::Error::AlertReceived(alert) = find_tls(error)? else { return None };
    Some(alert_text(*alert))
}

fn find_tls<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return Some(found);
        }
        next = match error.downcast_ref::<io::Error>() {
            // An io::Error hides what it wraps from its own `source`.
            Some(wrapper) => wrapper.get_ref().map(|inner| inner as &(dyn StdError + 'static)),
            None => error.source(),
        };
    }
    None
}

fn reason_of(error: &(dyn StdError + 'static)) -> String {
    let Some(tls) = find_tls(error) else { return "the connection broke".to_owned() };
    if let Some(fault) = find_fault(tls) {
        return fault.to_string();
    }
    match (validity(tls), tls) {
        (Some(state), _) => {
            format!("the peer's certificate is {state}; compare the clocks of both hosts")
        }
        (None, rustls::Error::AlertReceived(alert)) => alert_text(*alert),
        (
            None,
            rustls::Error::InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::BadSignature,
            ),
        ) => "the peer's certificate is not from this unit's CA; it has to join again".to_owned(),
        (None, rustls::Error::NoCertificatesPresented) => {
            "the peer shows no certificate; it has to join first".to_owned()
        }
        (None, other) => other.to_string(),
    }
}

fn alert_text(alert: AlertDescription) -> String {
    const KNOWN: [(AlertDescription, &str); 8] = [
        (
            AlertDescription::CertificateExpired,
            "the other side finds the certificate expired or not valid yet; compare the clocks of \
             both hosts",
        ),
        (
            AlertDescription::UnknownCA,
            "the other side does not know the CA of the certificate: the unit joined under another \
             parent, or the parent's keys were made anew; join again",
        ),
        (
            // A CA of the same name with another key: what an unknown CA looks like once a parent's
            // keys were made anew.
            AlertDescription::DecryptError,
            "the other side cannot verify the certificate: the parent's keys were made anew; join \
             again",
        ),
        (
            AlertDescription::CertificateRequired,
            "the other side asks for a certificate; join first",
        ),
        (
            AlertDescription::CertificateUnknown,
            "the other side refuses the certificate; its log has the reason",
        ),
        (
            AlertDescription::BadCertificate,
            "the other side refuses the certificate; its log has the reason",
        ),
        (AlertDescription::UnrecognisedName, "the host does not serve the unit that was asked for"),
        (AlertDescription::ProtocolVersion, "the other side does not speak TLS 1.3"),
    ];
    match KNOWN.iter().find(|(known, _)| *known == alert) {
        Some((_, text)) => (*text).to_owned(),
        None => format!("the other side ended the handshake with {alert:?}"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use tokio::{io::AsyncReadExt as _, net::TcpListener};

    use super::*;

    const NOW: UnixMillis = 1_760_000_000_000;
    const DAY: i64 = 24 * 60 * 60 * 1000;
    const DOMAIN: &str = "boston.example";

    #[derive(Clone)]
    struct SetClock(Arc<AtomicI64>);

    impl SetClock {
        fn at(now: UnixMillis) -> Self {
            Self(Arc::new(AtomicI64::new(now)))
        }
    }

    impl Clock for SetClock {
        fn now_unix_ms(&self) -> UnixMillis {
            self.0.load(Ordering::Relaxed)
        }
    }

    fn code(text: &str) -> UnitCode {
        text.parse().unwrap()
    }

    fn keys(unit: &str) -> UnitKeys {
        UnitKeys::generate(&code(unit), DOMAIN, NOW).unwrap()
    }

    /// A host that serves BOS, and a child of it.
    struct Hosts {
        clock: SetClock,
        parent: UnitKeys,
        server: Arc<ServerTls>,
        child: UnitKeys,
    }

    impl Hosts {
        fn new() -> Self {
            let clock = SetClock::at(NOW);
            let server = Arc::new(ServerTls::new(Arc::new(clock.clone())));
            let parent = keys("BOS");
            server.set(&UnitTls::new(&code("BOS"), DOMAIN, &parent, None, NOW).unwrap()).unwrap();
            Self { clock, parent, server, child: keys("BOS-01") }
        }

        fn pin(&self) -> ParentPin {
            ParentPin {
                unit: code("BOS"),
                trust_domain: Some(DOMAIN.to_owned()),
                ca_sha256: self.parent.ca_sha256(),
            }
        }

        /// Certificate of `unit` for the child's key, by the CA of `issuer`.
        fn client(&self, unit: &str, domain: &str, issuer: &UnitKeys) -> UnitTls {
            let request = certificates::request(&self.child.tls).unwrap();
            let issuer = (&issuer.ca_certificate, &issuer.ca);
            let certificate =
                certificates::issue_client(&code(unit), domain, &request, issuer, NOW).unwrap();
            UnitTls::new(&code(unit), domain, &self.child, Some(certificate), NOW).unwrap()
        }

        /// Both ends of one handshake; each side's error as it sees it. The child reads a byte that
        /// the parent sends, because in TLS 1.3 a refusal of its certificate comes only then.
        async fn meet(
            &self,
            pin: &ParentPin,
            purpose: Purpose,
            client: Option<&UnitTls>,
            client_now: UnixMillis,
        ) -> (Result<Accepted<TcpStream>, AcceptError>, Result<(), String>) {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let server = async {
                let (stream, _) = listener.accept().await.unwrap();
                let mut accepted = self.server.accept(stream).await;
                if let Ok(accepted) = &mut accepted {
                    accepted.stream.write_all(b"!").await.unwrap();
                    accepted.stream.flush().await.unwrap();
                }
                accepted
            };
            let clock = Arc::new(SetClock::at(client_now));
            let child = async {
                let stream = connect(&address, pin, purpose, client, clock).await;
                let mut stream = stream.map_err(|error| error.to_string())?;
                let mut byte = [0];
                let read = stream.read_exact(&mut byte).await;
                read.map(drop).map_err(|error| refusal(&error).unwrap_or_else(|| error.to_string()))
            };
            tokio::join!(server, child)
        }
    }

    #[tokio::test]
    async fn a_child_is_its_peer_once_its_key_is_bound() {
        let hosts = Hosts::new();
        let client = hosts.client("BOS-01", DOMAIN, &hosts.parent);
        let (accepted, child) = hosts.meet(&hosts.pin(), Purpose::Link, Some(&client), NOW).await;
        assert_eq!(child, Ok(()));
        let accepted = accepted.unwrap();
        assert_eq!((accepted.unit, accepted.purpose), (code("BOS"), Purpose::Link));
        assert_eq!(accepted.peer, None, "it has yet to confirm");
        let peer = accepted.certified.unwrap();
        assert_eq!(peer.unit, code("BOS-01"));
        assert_eq!(accepted.stream.get_ref().1.alpn_protocol(), Some(ALPN));
        hosts.server.bind(&code("BOS"), &code("BOS-01"), peer.key_sha256);
        let (accepted, _) = hosts.meet(&hosts.pin(), Purpose::Link, Some(&client), NOW).await;
        assert_eq!(accepted.unwrap().peer, Some(code("BOS-01")));
    }

    #[tokio::test]
    async fn enrolment_needs_no_certificate_and_gives_no_peer() {
        let hosts = Hosts::new();
        let (accepted, child) = hosts.meet(&hosts.pin(), Purpose::Enrol, None, NOW).await;
        assert_eq!(child, Ok(()));
        let accepted = accepted.unwrap();
        assert_eq!(
            (accepted.purpose, accepted.peer, accepted.certified),
            (Purpose::Enrol, None, None)
        );
    }

    #[tokio::test]
    async fn a_link_without_a_certificate_is_refused() {
        let hosts = Hosts::new();
        let (accepted, child) = hosts.meet(&hosts.pin(), Purpose::Link, None, NOW).await;
        assert!(accepted.unwrap_err().to_string().contains("join first"));
        assert!(child.unwrap_err().contains("join first"));
    }

    #[tokio::test]
    async fn a_certificate_of_another_ca_domain_or_key_is_refused() {
        let hosts = Hosts::new();
        let pin = hosts.pin();
        let foreign = hosts.client("BOS-01", DOMAIN, &keys("BOS"));
        let (accepted, child) = hosts.meet(&pin, Purpose::Link, Some(&foreign), NOW).await;
        assert!(accepted.unwrap_err().to_string().contains("has to join again"));
        assert!(child.unwrap_err().contains("join again"));
        let elsewhere = hosts.client("BOS-01", "cambridge.example", &hosts.parent);
        let (accepted, child) = hosts.meet(&pin, Purpose::Link, Some(&elsewhere), NOW).await;
        let text = accepted.unwrap_err().to_string();
        assert!(text.contains("cambridge.example, not boston.example"), "{text}");
        assert!(child.is_err());
        // A valid certificate for a key that did not get to confirm.
        hosts.server.bind(&code("BOS"), &code("BOS-01"), [7; 32]);
        let stale = hosts.client("BOS-01", DOMAIN, &hosts.parent);
        let (accepted, _) = hosts.meet(&pin, Purpose::Link, Some(&stale), NOW).await;
        assert!(accepted.unwrap_err().to_string().contains("another key"));
        // A server certificate is no client certificate, though the same CA made it.
        let mut server = UnitTls::new(&code("BOS"), DOMAIN, &hosts.parent, None, NOW).unwrap();
        server.client_certificate = Some(server.server_certificate.clone());
        let (accepted, _) = hosts.meet(&pin, Purpose::Link, Some(&server), NOW).await;
        assert!(accepted.is_err());
    }

    #[tokio::test]
    async fn a_wrong_ca_hash_is_told_with_the_remedy() {
        let hosts = Hosts::new();
        let pin = ParentPin { ca_sha256: [0xab; 32], ..hosts.pin() };
        let (accepted, child) = hosts.meet(&pin, Purpose::Enrol, None, NOW).await;
        let text = child.unwrap_err();
        assert!(text.contains("does not show the CA abababababababab of BOS"), "{text}");
        assert!(text.contains("ask the parent for a new token"), "{text}");
        assert!(accepted.is_err());
    }

    #[tokio::test]
    async fn the_pinned_ca_must_have_signed_the_leaf() {
        // The pinned CA is in the chain, as anybody can put it there, but the leaf is another CA's.
        let hosts = Hosts::new();
        let thief = keys("BOS");
        let mut tls = UnitTls::new(&code("BOS"), DOMAIN, &thief, None, NOW).unwrap();
        tls.ca_certificate = hosts.parent.ca_certificate.clone();
        hosts.server.set(&tls).unwrap();
        let (accepted, child) = hosts.meet(&hosts.pin(), Purpose::Enrol, None, NOW).await;
        assert!(child.is_err() && accepted.is_err());
    }

    #[tokio::test]
    async fn a_child_of_the_same_ca_cannot_stand_in_for_the_parent() {
        let hosts = Hosts::new();
        let child = hosts.client("BOS-01", DOMAIN, &hosts.parent);
        let mut tls = child.clone();
        tls.unit = code("BOS");
        tls.ca_certificate = hosts.parent.ca_certificate.clone();
        tls.server_certificate = child.client_certificate.clone().unwrap();
        hosts.server.set(&tls).unwrap();
        let (_, seen) = hosts.meet(&hosts.pin(), Purpose::Enrol, None, NOW).await;
        let text = seen.unwrap_err();
        assert!(text.contains("is not BOS: the certificate is of unit BOS-01"), "{text}");
    }

    #[tokio::test]
    async fn another_domain_is_told() {
        let hosts = Hosts::new();
        let pin = ParentPin { trust_domain: Some("x.example".to_owned()), ..hosts.pin() };
        let (_, child) = hosts.meet(&pin, Purpose::Enrol, None, NOW).await;
        assert!(child.unwrap_err().contains("trust domain boston.example, not x.example"));
    }

    #[tokio::test]
    async fn a_unit_that_is_not_hosted_is_told() {
        let hosts = Hosts::new();
        let pin = ParentPin { unit: code("BOS-77"), ..hosts.pin() };
        let (accepted, child) = hosts.meet(&pin, Purpose::Link, None, NOW).await;
        assert!(matches!(accepted, Err(AcceptError::NotServed(_))));
        assert!(child.unwrap_err().contains("does not serve BOS-77"));
    }

    #[tokio::test]
    async fn a_clock_a_day_off_links_and_one_a_year_off_is_told() {
        let hosts = Hosts::new();
        let client = hosts.client("BOS-01", DOMAIN, &hosts.parent);
        for now in [NOW - DAY, NOW + DAY] {
            let (accepted, child) =
                hosts.meet(&hosts.pin(), Purpose::Link, Some(&client), now).await;
            assert!(accepted.is_ok() && child == Ok(()));
        }
        let (_, late) =
            hosts.meet(&hosts.pin(), Purpose::Link, Some(&client), NOW + 365 * DAY).await;
        let text = late.unwrap_err();
        assert!(text.contains("expired") && text.contains("clocks"), "{text}");
        let (_, early) =
            hosts.meet(&hosts.pin(), Purpose::Link, Some(&client), NOW - 365 * DAY).await;
        assert!(early.unwrap_err().contains("not valid yet"));
    }

    #[tokio::test]
    async fn an_expired_client_certificate_is_told_to_both_and_a_new_server_one_needs_no_restart() {
        let hosts = Hosts::new();
        let client = hosts.client("BOS-01", DOMAIN, &hosts.parent);
        let late = NOW + 31 * DAY;
        hosts.clock.0.store(late, Ordering::Relaxed);
        let renewed = UnitTls::new(&code("BOS"), DOMAIN, &hosts.parent, None, late).unwrap();
        hosts.server.set(&renewed).unwrap();
        let (accepted, child) = hosts.meet(&hosts.pin(), Purpose::Link, Some(&client), late).await;
        assert!(accepted.unwrap_err().to_string().contains("expired"));
        assert!(child.unwrap_err().contains("compare the clocks"));
        let (accepted, child) = hosts.meet(&hosts.pin(), Purpose::Enrol, None, late).await;
        assert!(accepted.is_ok() && child == Ok(()));
    }

    #[tokio::test]
    async fn nobody_there_is_told_with_the_address() {
        let hosts = Hosts::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let clock = Arc::new(hosts.clock.clone());
        let error = connect(&address, &hosts.pin(), Purpose::Enrol, None, clock).await.unwrap_err();
        assert!(matches!(error, ConnectError::NotReached { .. }));
        assert!(error.to_string().contains(&address), "{error}");
    }

    #[tokio::test]
    async fn what_is_no_tls_is_refused() {
        let hosts = Hosts::new();
        let (near, mut far) = tokio::io::duplex(1024);
        far.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        far.shutdown().await.unwrap();
        assert!(matches!(hosts.server.accept(near).await, Err(AcceptError::Io(_))));
    }

    #[test]
    fn names_are_read_as_they_are_made() {
        for unit in ["310101002003", "BOS", "BOS-15-W22-2213"] {
            for purpose in [Purpose::Link, Purpose::Enrol] {
                let name = host_name(&code(unit), purpose);
                assert_eq!(read_server_name(&name), Some((code(unit), purpose)));
            }
        }
        for name in
            ["bos", "bos.x.lianxi.internal", "bos.link.lianxi.example", "b_s.link.lianxi.internal"]
        {
            assert_eq!(read_server_name(name), None, "{name}");
        }
        server_name(&code(&"A".repeat(40)), Purpose::Link);
    }
}
