//! The child's side: it dials, and checks that it reached the very parent that it pinned.

use std::{io, sync::Arc};

use rustls::{
    AlertDescription, ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client};

use super::{
    ALPN, ClockTime, HANDSHAKE_LIMIT, Purpose, UnitTls,
    fault::{Fault, fault, find_fault, find_tls, reason_of, validity},
    roots, server_name,
};
use crate::{
    clock::Clock,
    domain::unit::UnitCode,
    identity::certificates::{self, sha256},
};

/// What a child knows of its parent before it dials.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ParentPin {
    /// The parent.
    pub unit: UnitCode,
    /// Trust domain; `None`: any.
    pub trust_domain: Option<String>,
    /// SHA-256 of the parent's CA certificate.
    pub ca_sha256: [u8; 32],
    /// Further CAs of the parent, while it changes from one to another.
    pub further: Vec<[u8; 32]>,
}

impl ParentPin {
    /// True if it is a CA of the parent.
    pub fn knows(&self, ca_sha256: &[u8; 32]) -> bool {
        self.ca_sha256 == *ca_sha256 || self.further.contains(ca_sha256)
    }
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
        let pinned = intermediates.iter().find(|der| self.pin.knows(&sha256(der)));
        let pinned = pinned.ok_or_else(|| fault(Fault::Pin))?;
        let chain = WebPkiServerVerifier::builder_with_provider(
            roots([&pinned.clone().into_owned()])?,
            Arc::clone(&self.provider),
        )
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
/// that are read from the stream; [`super::refusal`] finds it.
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
            Fault::NoUnit
            | Fault::Domain { .. }
            | Fault::Unit { .. }
            | Fault::Key(_)
            | Fault::Revoked(_) => {
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
