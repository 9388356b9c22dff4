//! The making of a root.

use std::sync::Arc;

use tokio::task::spawn_blocking;

use super::{JoinError, Joined, unit_keys};
use crate::{
    clock::{Clock, UnixMillis},
    domain::{
        delegation::{Delegation, KeyChange, Suite},
        unit::{Level, UnitCode},
    },
    identity::{
        issue,
        keys::{Place, RootKey, UnitKeys},
        tls::UnitTls,
        trust::Trust,
    },
    services::enrolments::identity::Identity,
    statement::{delegation, header::Malformed},
};

/// How long the root's own delegation is good for.
const ROOT_LIFETIME_MS: i64 = 10 * 365 * 24 * 60 * 60 * 1000;

/// A root that is to be made.
#[derive(Clone)]
pub struct NewRoot {
    /// The unit at the top.
    pub unit: UnitCode,
    /// Its level: a tree may start anywhere.
    pub level: Level,
    /// Its title.
    pub title: String,
    /// Trust domain, e.g. `boston.example`.
    pub trust_domain: String,
    /// Suite of all signatures in the trust domain.
    pub suite: Suite,
    /// Name of its host; empty: not stated.
    pub host: String,
    /// Place of the unit's keys; the root key lies beside them, until it is moved to a safe.
    pub keys_directory: Place,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
}

impl NewRoot {
    /// Makes the root key, the unit's keys and CA, its own delegation and its server certificate.
    /// Cut off, it can be run again and goes on with the keys that it made.
    ///
    /// # Errors
    ///
    /// [`JoinError::Malformed`], [`JoinError::Keys`], [`JoinError::Certificate`],
    /// [`JoinError::Trust`].
    pub async fn create(self) -> Result<Joined, JoinError> {
        delegation::check_trust_domain("trust_domain", &self.trust_domain)?;
        let now = self.clock.now_unix_ms();
        let place = self.keys_directory.clone();
        let suite = self.suite;
        let root = spawn_blocking(move || RootKey::load_or_generate(place, suite));
        let RootKey(root) = root.await.map_err(|_| JoinError::CutOff)??;
        let (unit, domain) = (self.unit.clone(), self.trust_domain.clone());
        let keys = unit_keys(self.keys_directory.clone(), suite, unit, domain, now).await?;
        let own = self.own_delegation(&keys, now)?;
        let envelope = issue::sign(&own, &root, now);
        let mut trust = Trust::new(self.trust_domain.clone(), root.verifying_key());
        trust.add(&envelope, now)?;
        let tls = UnitTls::new(&self.unit, &self.trust_domain, &keys, None, now)?;
        let identity = Identity {
            unit: self.unit,
            level: self.level,
            title: self.title,
            trust_domain: self.trust_domain,
            root_key: root.verifying_key(),
            parent: None,
            membership: None,
            chain: vec![envelope],
            ca_certificate: tls.ca_certificate.clone(),
            server_certificate: tls.server_certificate.clone(),
            client_certificate: None,
        };
        let delegation_ends_unix_ms = own.not_after_unix_ms;
        Ok(Joined { identity, keys, tls, trust, clock_skew_ms: 0, delegation_ends_unix_ms })
    }

    fn own_delegation(&self, keys: &UnitKeys, now: UnixMillis) -> Result<Delegation, Malformed> {
        Ok(Delegation {
            trust_domain: self.trust_domain.clone(),
            unit: self.unit.clone(),
            level: self.level,
            issuer: None,
            not_before_unix_ms: now,
            not_after_unix_ms: now.saturating_add(ROOT_LIFETIME_MS),
            keys: keys.public_keys(),
            ca_sha256: Some(keys.ca_sha256()),
            host: delegation::text("host", self.host.clone())?,
            desk: None,
            line: String::new(),
            title: delegation::text("title", self.title.clone())?,
            serial: u64::try_from(now).unwrap_or_default(),
            accepted_suites: vec![self.suite],
            change: KeyChange::default(),
            reform: None,
        })
    }
}
