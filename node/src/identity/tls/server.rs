//! The parent's side: who asks for which of the hosted units, and whether they are let in.

use std::{
    collections::BTreeMap,
    fmt, io,
    sync::{Arc, PoisonError, RwLock},
};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, UnixTime},
    server::{
        NoServerSessionStorage, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    time::timeout,
};
use tokio_rustls::{LazyConfigAcceptor, server};

use super::{
    ALPN, ClockTime, HANDSHAKE_LIMIT, Purpose, UnitTls,
    fault::{Fault, fault, reason_of, word_of},
    read_server_name, roots,
};
use crate::{clock::Clock, domain::unit::UnitCode, identity::certificates};

/// TLS alert record: fatal, unrecognized_name (RFC 8446 §6).
const UNRECOGNISED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

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

impl AcceptError {
    /// The unit that was asked for and the fixed word for why this side refused; `None` if the
    /// connection broke or the other side refused.
    pub fn refusal(&self) -> Option<(&UnitCode, &'static str)> {
        match self {
            Self::Handshake { unit, source, .. } => Some((unit, word_of(source)?)),
            Self::Timeout | Self::NoName | Self::NotServed(_) | Self::Io(_) => None,
        }
    }
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

/// Tells whether a child was revoked.
pub type IsRevoked = Arc<dyn Fn(&UnitCode) -> bool + Send + Sync>;

/// By unit: who of its children was revoked.
type Revoked = Arc<RwLock<BTreeMap<UnitCode, IsRevoked>>>;

struct Hosted {
    link: Arc<ServerConfig>,
    enrol: Arc<ServerConfig>,
}

/// The units of this host as TLS serves them. Units and their certificates can be set at any time;
/// connections that are open go on.
pub struct ServerTls {
    units: RwLock<BTreeMap<UnitCode, Hosted>>,
    bindings: Bindings,
    revoked: Revoked,
    clock: Arc<dyn Clock>,
}

impl ServerTls {
    /// Serves no unit yet.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            units: RwLock::default(),
            bindings: Bindings::default(),
            revoked: Revoked::default(),
            clock,
        }
    }

    /// Asks `is_revoked` in every handshake with a child of `unit`: the key that it joined with no
    /// longer gets in once it says so. Another key may come to join anew.
    pub fn refuse_revoked(&self, unit: &UnitCode, is_revoked: IsRevoked) {
        let mut revoked = self.revoked.write().unwrap_or_else(PoisonError::into_inner);
        revoked.insert(unit.clone(), is_revoked);
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

    /// Serves a unit no more; connections that are open go on.
    pub fn remove(&self, unit: &UnitCode) {
        self.units.write().unwrap_or_else(PoisonError::into_inner).remove(unit);
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
                chain: chain_verifier(unit, provider)?,
                unit: unit.unit.clone(),
                trust_domain: unit.trust_domain.clone(),
                bindings: Arc::clone(&self.bindings),
                revoked: Arc::clone(&self.revoked),
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

fn chain_verifier(
    unit: &UnitTls,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, rustls::Error> {
    WebPkiClientVerifier::builder_with_provider(roots(unit.cas())?, provider)
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))
}

/// Judges a child's certificate: webpki against the unit's own CA, then name and key.
struct ChildVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    unit: UnitCode,
    trust_domain: String,
    bindings: Bindings,
    revoked: Revoked,
}

impl fmt::Debug for ChildVerifier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ChildVerifier").field("unit", &self.unit).finish_non_exhaustive()
    }
}

impl ChildVerifier {
    fn is_revoked(&self, child: &UnitCode) -> bool {
        let revoked = self.revoked.read().unwrap_or_else(PoisonError::into_inner);
        revoked.get(&self.unit).is_some_and(|is_revoked| is_revoked(child))
    }

    fn check_holder(&self, certificate: &CertificateDer<'_>) -> Result<(), Fault> {
        let certified = certificates::read(certificate).map_err(|_| Fault::NoUnit)?;
        if certified.trust_domain != self.trust_domain {
            let (found, expected) = (certified.trust_domain, self.trust_domain.clone());
            return Err(Fault::Domain { found, expected });
        }
        let bindings = self.bindings.read().unwrap_or_else(PoisonError::into_inner);
        match bindings.get(&(self.unit.clone(), certified.unit.clone())) {
            Some(key) if self.is_revoked(&certified.unit) => {
                if *key == certified.key_sha256 {
                    Err(Fault::Revoked(certified.unit))
                } else {
                    Ok(())
                }
            }
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
        self.check_holder(end_entity).map_err(|found| {
            if matches!(found, Fault::Revoked(_)) {
                // Its own alert, so that the child knows what to do.
                return CertificateError::Revoked.into();
            }
            fault(found)
        })?;
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
