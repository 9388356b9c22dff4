//! New certificates for a unit that has joined.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use zeroize::Zeroizing;

use super::{Door, JoinError, check_certificate};
use crate::{
    clock::{Clock, UnixMillis},
    identity::{
        certificates,
        keys::UnitKeys,
        tls::{ParentPin, UnitTls},
    },
    services::enrolments::{
        Reserved,
        identity::{Identity, Membership, Parent},
    },
    statement::{Envelope, enrolment::Application},
};

/// New certificates for a unit that has joined, for the keys that it joined with. How long the old
/// ones may have been over is the parent's to judge: it knows the keys.
pub struct Renewing<'a> {
    /// Who the unit is.
    pub identity: &'a Identity,
    /// Its keys.
    pub keys: &'a UnitKeys,
    /// Name of this host; empty: not stated.
    pub host: &'a str,
    /// How the parent is called.
    pub door: &'a dyn Door,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
}

/// What came of renewing.
#[derive(Debug)]
pub struct Renewed {
    /// The unit with its new certificates, to be kept with [`Identity::persist`] and set in
    /// [`crate::identity::tls::ServerTls`]. The server certificate is always new: children that
    /// wake before the parent does find a unit that they can believe.
    pub identity: Identity,
    /// Newest delegations from the root's own down to the unit's; empty at the root.
    pub chain: Vec<Envelope>,
    /// Why there is no new client certificate; the old one stays.
    pub failed: Option<JoinError>,
}

impl Renewing<'_> {
    /// Makes a new server certificate and gets a new client certificate, if there is a parent.
    ///
    /// # Errors
    ///
    /// [`JoinError::Certificate`]: nothing was made.
    pub async fn run(self) -> Result<Renewed, JoinError> {
        let now = self.clock.now_unix_ms();
        let (mut client, mut chain, mut failed) =
            (self.identity.client_certificate.clone(), Vec::new(), None);
        if let (Some(parent), Some(membership), Some(pin)) =
            (&self.identity.parent, &self.identity.membership, self.identity.pin())
        {
            match self.ask(parent, membership, &pin, now).await {
                Ok(reserved) => (client, chain) = (Some(reserved.certificate), reserved.chain),
                Err(error) => failed = Some(error),
            }
        }
        let identity = self.with_client(client, now)?;
        Ok(Renewed { identity, chain, failed })
    }

    fn with_client(
        &self,
        client: Option<CertificateDer<'static>>,
        now: UnixMillis,
    ) -> Result<Identity, JoinError> {
        let Identity { unit, trust_domain, .. } = self.identity;
        let tls = UnitTls::new(unit, trust_domain, self.keys, client, now)?;
        Ok(Identity {
            server_certificate: tls.server_certificate,
            client_certificate: tls.client_certificate,
            ..self.identity.clone()
        })
    }

    async fn ask(
        &self,
        parent: &Parent,
        membership: &Membership,
        pin: &ParentPin,
        now: UnixMillis,
    ) -> Result<Reserved, JoinError> {
        let application = Application {
            token_id: membership.token_id,
            secret: Zeroizing::new(membership.secret),
            unit: self.identity.unit.clone(),
            level: self.identity.level,
            keys: self.keys.public_keys(),
            ca_sha256: self.keys.ca_sha256(),
            certificate_request: certificates::request(&self.keys.tls)?,
            host: self.host.to_owned(),
            clock_unix_ms: now,
            adopted: None,
        };
        let mut last = JoinError::NoAddress;
        for address in &parent.addresses {
            match self.door.reserve(address, pin, &application, &self.keys.statement).await {
                Ok(reserved) => {
                    check_certificate(pin, &application, &reserved)?;
                    return Ok(reserved);
                }
                Err(source) => last = JoinError::Door { step: "renew", source },
            }
        }
        Err(last)
    }
}
