//! TLS 1.3 between a child and its parent. The name that the child asks for (SNI) says which unit
//! it means, and what for.
//!
//! Promises that whoever is on a link holds the key that the parent bound to the named unit, that
//! the child talks to the very CA that it pinned, and that certificates change without a restart.
//! Says who is there, never what they may do. Sessions are not resumed: each connection proves its
//! keys anew.

mod client;
mod fault;
mod server;

#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc, time::Duration};

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
    time_provider::TimeProvider,
};

pub use self::{
    client::{ConnectError, ParentPin, connect},
    fault::refusal,
    server::{AcceptError, Accepted, IsRevoked, Peer, ServerTls},
};
use crate::{
    clock::{Clock, UnixMillis},
    domain::unit::UnitCode,
    identity::{certificates, keys::UnitKeys},
};

/// Longest time for reaching a host, and again for a handshake.
pub const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// Domain of the names that are asked for; never looked up.
const DOMAIN: &str = "lianxi.internal";

/// Protocol that is spoken inside.
const ALPN: &[u8] = b"h2";

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
    /// The CA that it had before, while children still show certificates of that one.
    pub former_ca: Option<CertificateDer<'static>>,
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
            former_ca: None,
            server_certificate,
            client_certificate,
            key: Arc::new(keys.tls.serialize_der().into()),
        }
    }

    /// Takes certificates of a CA that it had before, too.
    #[must_use]
    pub fn accepting(self, former_ca: Option<CertificateDer<'static>>) -> Self {
        Self { former_ca, ..self }
    }

    /// Every CA whose certificates children may show.
    fn cas(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        [&self.ca_certificate].into_iter().chain(&self.former_ca)
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

fn roots<'a>(
    cas: impl IntoIterator<Item = &'a CertificateDer<'static>>,
) -> Result<Arc<RootCertStore>, rustls::Error> {
    let mut roots = RootCertStore::empty();
    for ca in cas {
        roots.add(ca.clone().into_owned())?;
    }
    Ok(Arc::new(roots))
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
