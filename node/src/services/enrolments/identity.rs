//! Who a hosted unit is, as its store keeps it: `Meta` row `identity` and rows of `Delegations`.

use std::fmt;

use lianxi_proto::envelope::VerifyingKey;
use prost::Message as _;
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use crate::{
    clock::UnixMillis,
    domain::{
        journal::{Act, Leaf},
        unit::{Level, UnitCode},
    },
    identity::{
        certificates,
        keys::UnitKeys,
        tls::{ParentPin, UnitTls},
        trust::{self, Known, KnownRevocation, Trust},
    },
    services::enrolments::rows::{SuiteRow, hex_array, hex_bytes},
    statement::{Envelope, revocation::Proven},
    store::{self, Batch, Store, Table},
};

/// Key of the row in [`Table::Meta`].
const KEY: &[u8] = b"identity";

/// Version of the rows.
const VERSION: u8 = 1;

/// Most addresses of a parent that are kept.
const MAX_ADDRESSES: usize = 8;

/// Why an identity was not read or kept.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The row was written by a later version, or is damaged.
    #[error(
        "the identity of {0} in the store cannot be read; use a newer program or restore a backup"
    )]
    Unreadable(UnitCode),
    /// The store holds the unit under another parent or root.
    #[error(
        "{unit} is in this host's store already, under {parent}; remove that first or use another data directory"
    )]
    Other {
        /// The unit.
        unit: UnitCode,
        /// Its parent there.
        parent: String,
    },
    /// Stored delegations do not form a chain.
    #[error("a stored delegation does not hold: {0}")]
    Trust(#[from] trust::Error),
    /// The store failed; nothing was kept.
    #[error("cannot keep or read the unit's identity")]
    Store(#[from] store::Error),
}

/// How a unit reaches its parent.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Parent {
    /// The parent.
    pub unit: UnitCode,
    /// Its addresses, `host:port`, to be tried in this order.
    pub addresses: Vec<String>,
    /// SHA-256 of its CA certificate.
    #[serde(with = "hex_array")]
    pub ca_sha256: [u8; 32],
    /// Further CAs of it, as its newest delegation says. Not stored here.
    #[serde(skip)]
    pub further: Vec<[u8; 32]>,
}

/// The token that a unit joined with. It is spent: with the unit's own keys, and only with them, the
/// parent still gives new certificates for it.
#[derive(Clone, Eq, PartialEq, Serialize, Deserialize)]
pub struct Membership {
    /// Public part of the token.
    #[serde(with = "hex_array")]
    pub token_id: [u8; 16],
    /// Its secret.
    #[serde(with = "hex_array")]
    pub secret: [u8; 32],
}

impl fmt::Debug for Membership {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Membership").finish_non_exhaustive()
    }
}

/// Who a unit is.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    /// The unit.
    pub unit: UnitCode,
    /// Its level.
    pub level: Level,
    /// Its title.
    pub title: String,
    /// Trust domain of its city.
    pub trust_domain: String,
    /// Public root key of its city.
    pub root_key: VerifyingKey,
    /// `None` at the root.
    pub parent: Option<Parent>,
    /// How it renews its client certificate; `None` at the root.
    pub membership: Option<Membership>,
    /// Delegations from the root's own down to the unit's, as they were when it joined.
    pub chain: Vec<Envelope>,
    /// Certificate of its CA.
    pub ca_certificate: CertificateDer<'static>,
    /// Certificate for its children.
    pub server_certificate: CertificateDer<'static>,
    /// Certificate for its parent; `None` at the root.
    pub client_certificate: Option<CertificateDer<'static>>,
}

#[derive(Serialize, Deserialize)]
struct Row {
    unit: UnitCode,
    level: Level,
    title: String,
    trust_domain: String,
    #[serde(with = "hex_bytes")]
    root_public_key: Vec<u8>,
    /// Absent in rows from before there was a choice.
    #[serde(default = "SuiteRow::ed25519")]
    root_suite: SuiteRow,
    parent: Option<Parent>,
    membership: Option<Membership>,
    chain: Vec<Hex>,
    ca_certificate: Hex,
    server_certificate: Hex,
    client_certificate: Option<Hex>,
}

#[derive(Serialize, Deserialize)]
struct Hex(#[serde(with = "hex_bytes")] Vec<u8>);

impl Identity {
    /// Stored form.
    pub fn encode(&self) -> Vec<u8> {
        let row = Row {
            unit: self.unit.clone(),
            level: self.level,
            title: self.title.clone(),
            trust_domain: self.trust_domain.clone(),
            root_public_key: self.root_key.public_key().to_vec(),
            root_suite: SuiteRow::of(&self.root_key),
            parent: self.parent.clone(),
            membership: self.membership.clone(),
            chain: self.chain.iter().map(|envelope| Hex(envelope.encode_to_vec())).collect(),
            ca_certificate: Hex(self.ca_certificate.to_vec()),
            server_certificate: Hex(self.server_certificate.to_vec()),
            client_certificate: self.client_certificate.as_ref().map(|der| Hex(der.to_vec())),
        };
        let mut bytes = vec![VERSION];
        serde_json::to_writer(&mut bytes, &row).expect("invariant: an identity is plain data");
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let [VERSION, json @ ..] = bytes else { return None };
        let row: Row = serde_json::from_slice(json).ok()?;
        let chain = row.chain.iter().map(|Hex(bytes)| Envelope::decode(bytes.as_slice()));
        Some(Self {
            unit: row.unit,
            level: row.level,
            title: row.title,
            trust_domain: row.trust_domain,
            root_key: row.root_suite.verifying_key(&row.root_public_key)?,
            parent: row.parent,
            membership: row.membership,
            chain: chain.collect::<Result<_, _>>().ok()?,
            ca_certificate: row.ca_certificate.0.into(),
            server_certificate: row.server_certificate.0.into(),
            client_certificate: row.client_certificate.map(|Hex(bytes)| bytes.into()),
        })
    }

    /// Reads who `unit` is; `None` if it has not joined here.
    ///
    /// # Errors
    ///
    /// [`IdentityError::Unreadable`], [`IdentityError::Store`].
    pub async fn load(store: &dyn Store, unit: &UnitCode) -> Result<Option<Self>, IdentityError> {
        let Some(row) = store.get(unit, Table::Meta, KEY).await? else { return Ok(None) };
        match Self::decode(&row) {
            Some(identity) if identity.unit == *unit => Ok(Some(identity)),
            _ => Err(IdentityError::Unreadable(unit.clone())),
        }
    }

    /// True for the row that says who a unit is.
    pub fn is_row(table: Table, key: &[u8]) -> bool {
        table == Table::Meta && key == KEY
    }

    /// Reads the row that says who `unit` is, from elsewhere.
    ///
    /// # Errors
    ///
    /// [`IdentityError::Unreadable`].
    pub fn read(unit: &UnitCode, row: &[u8]) -> Result<Self, IdentityError> {
        let identity = Self::decode(row).filter(|identity| identity.unit == *unit);
        identity.ok_or_else(|| IdentityError::Unreadable(unit.clone()))
    }

    /// Puts the row that says who the unit is into a batch of it.
    pub fn put(&self, batch: &mut Batch) {
        batch.put(Table::Meta, KEY, self.encode());
    }

    /// Adds addresses of `parent` to those that `unit` tries, if that is above it; those before stay in
    /// front, and the first of too many goes. True: some were new.
    ///
    /// # Errors
    ///
    /// As [`Identity::load`].
    pub async fn add_parent_addresses(
        store: &dyn Store,
        unit: &UnitCode,
        parent: &UnitCode,
        addresses: &[String],
    ) -> Result<bool, IdentityError> {
        let Some(row) = store.get(unit, Table::Meta, KEY).await? else { return Ok(false) };
        let mut identity = Self::read(unit, &row)?;
        let named = identity.parent.as_mut().filter(|known| known.unit == *parent);
        let Some(parent) = named else { return Ok(false) };
        let known = parent.addresses.clone();
        parent.addresses.extend(addresses.iter().filter(|one| !known.contains(one)).cloned());
        let too_many = parent.addresses.len().saturating_sub(MAX_ADDRESSES);
        parent.addresses.drain(..too_many);
        if parent.addresses == known {
            return Ok(false);
        }
        let mut batch = Batch::new(unit);
        batch.require(Table::Meta, KEY, row);
        identity.put(&mut batch);
        store.submit(batch).await?;
        Ok(true)
    }

    /// Keeps the identity and the delegations of its chain, in one commit with the leaf of `act`. Repeating changes nothing
    /// but certificates; an identity under another parent or root is never replaced.
    ///
    /// # Errors
    ///
    /// [`IdentityError::Other`], [`IdentityError::Trust`], [`IdentityError::Store`].
    pub async fn persist(
        &self,
        store: &dyn Store,
        now_unix_ms: UnixMillis,
        act: Act,
    ) -> Result<(), IdentityError> {
        self.keep(None, store, now_unix_ms, act).await
    }

    /// As [`Identity::persist`], for a unit that came under this parent from `from`.
    ///
    /// # Errors
    ///
    /// As [`Identity::persist`].
    pub async fn persist_under(
        &self,
        from: &UnitCode,
        store: &dyn Store,
        now_unix_ms: UnixMillis,
        act: Act,
    ) -> Result<(), IdentityError> {
        self.keep(Some(from), store, now_unix_ms, act).await
    }

    /// As [`Identity::persist`], for a unit that was a root and came under this parent: what it holds
    /// to be its root key from elsewhere stays the same.
    ///
    /// # Errors
    ///
    /// As [`Identity::persist`].
    pub async fn persist_adopted(
        &self,
        store: &dyn Store,
        now_unix_ms: UnixMillis,
        act: Act,
    ) -> Result<(), IdentityError> {
        self.keep(Some(&self.unit), store, now_unix_ms, act).await
    }

    /// `from`: the parent so far; the unit itself if it was a root.
    async fn keep(
        &self,
        from: Option<&UnitCode>,
        store: &dyn Store,
        now_unix_ms: UnixMillis,
        act: Act,
    ) -> Result<(), IdentityError> {
        let stored = store.get(&self.unit, Table::Meta, KEY).await?;
        let mut batch = Batch::new(&self.unit);
        match stored {
            None => batch.require_absent(Table::Meta, KEY),
            Some(row) => {
                let known = Self::decode(&row);
                let known = known.ok_or_else(|| IdentityError::Unreadable(self.unit.clone()))?;
                if !self.is_same_place(&known) && !self.comes_from(&known, from) {
                    let parent = known.parent.map(|parent| parent.unit.to_string());
                    let parent = parent.unwrap_or_else(|| "no parent".to_owned());
                    return Err(IdentityError::Other { unit: self.unit.clone(), parent });
                }
                batch.require(Table::Meta, KEY, row);
            }
        }
        batch.put(Table::Meta, KEY, self.encode());
        batch.journal(now_unix_ms, &Leaf::Act(act));
        for known in self.base_trust()?.all() {
            let held = store.get(&self.unit, Table::Delegations, &delegation_key(known)).await?;
            if held.as_deref().and_then(decode_delegation).as_ref() != Some(&known.envelope) {
                put_delegation(&mut batch, known, now_unix_ms);
            }
        }
        Ok(store.submit(batch).await?)
    }

    fn comes_from(&self, other: &Self, from: Option<&UnitCode>) -> bool {
        let parent = other.parent.as_ref().map_or(&other.unit, |parent| &parent.unit);
        from == Some(parent) && self.root_key == other.root_key
    }

    fn is_same_place(&self, other: &Self) -> bool {
        let parent = |identity: &Self| identity.parent.as_ref().map(|parent| parent.unit.clone());
        self.root_key == other.root_key && parent(self) == parent(other)
    }

    fn base_trust(&self) -> Result<Trust, IdentityError> {
        let mut trust = Trust::new(self.trust_domain.clone(), self.root_key.clone());
        trust.restore_all(&self.chain)?;
        Ok(trust)
    }

    /// What the unit believes: its chain and every delegation that it has stored.
    ///
    /// # Errors
    ///
    /// [`IdentityError::Trust`] for a stored delegation that does not hold, [`IdentityError::Store`].
    pub async fn load_trust(&self, store: &dyn Store) -> Result<Trust, IdentityError> {
        const PAGE: usize = 256;
        let mut trust = self.base_trust()?;
        let mut waiting = Vec::new();
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page =
                store.scan(&self.unit, Table::Delegations, b"", after.as_deref(), PAGE).await?;
            let last = page.len() < PAGE;
            after = page.last().map(|(key, _)| key.clone());
            for (_, value) in page {
                let envelope = decode_delegation(&value);
                waiting.push(envelope.ok_or_else(|| IdentityError::Unreadable(self.unit.clone()))?);
            }
            if last {
                break;
            }
        }
        // Rows are in the order of codes, which says nothing of who issued whom: repeat until no
        // more of them find their issuer.
        while !waiting.is_empty() {
            let before = waiting.len();
            let mut refused = None;
            waiting.retain(|envelope| match trust.restore(envelope) {
                Ok(_) => false,
                Err(error) => {
                    refused = Some(error);
                    true
                }
            });
            if let Some(error) = refused.filter(|_| waiting.len() == before) {
                return Err(error.into());
            }
        }
        self.load_revocations(store, &mut trust).await?;
        Ok(trust)
    }

    /// Revocations come last: what was granted before them was believed when it came.
    async fn load_revocations(
        &self,
        store: &dyn Store,
        trust: &mut Trust,
    ) -> Result<(), IdentityError> {
        let rows = store.scan(&self.unit, Table::Revocations, b"", None, usize::MAX).await?;
        for (_, value) in rows {
            let proven = decode_revocation(&value);
            let proven = proven.ok_or_else(|| IdentityError::Unreadable(self.unit.clone()))?;
            let known = trust.check_revocation(&proven, None)?;
            trust.take_revocation(known);
        }
        Ok(())
    }

    /// True once it is time to renew the server or client certificate with [`super::Renewing`].
    pub fn is_due(&self, now: UnixMillis) -> bool {
        let shown = [Some(&self.server_certificate), self.client_certificate.as_ref()];
        let due = |der: &CertificateDer<'_>| {
            certificates::read(der).map_or(true, |certified| certified.is_due(now))
        };
        shown.into_iter().flatten().any(due)
    }

    /// True once one of the certificates has ended.
    pub fn has_expired(&self, now: UnixMillis) -> bool {
        let shown = [Some(&self.server_certificate), self.client_certificate.as_ref()];
        let over = |der: &CertificateDer<'_>| {
            certificates::read(der).map_or(true, |certified| now > certified.not_after_unix_ms)
        };
        shown.into_iter().flatten().any(over)
    }

    /// How to recognise the parent; `None` at the root.
    pub fn pin(&self) -> Option<ParentPin> {
        self.parent.as_ref().map(|parent| ParentPin {
            unit: parent.unit.clone(),
            trust_domain: Some(self.trust_domain.clone()),
            ca_sha256: parent.ca_sha256,
            further: parent.further.clone(),
        })
    }

    /// Recognises the parent by the CAs that its newest delegation names.
    pub fn update_pin(&mut self, trust: &Trust) {
        let Some(parent) = &mut self.parent else { return };
        let Some(known) = trust.delegation(&parent.unit, None) else { return };
        if let Some(ca_sha256) = known.delegation.ca_sha256 {
            parent.ca_sha256 = ca_sha256;
            parent.further.clone_from(&known.delegation.change.further_ca_sha256);
        }
    }

    /// What the unit shows in TLS.
    pub fn tls(&self, keys: &UnitKeys) -> UnitTls {
        UnitTls::restore(
            &self.unit,
            &self.trust_domain,
            keys,
            self.server_certificate.clone(),
            self.client_certificate.clone(),
        )
    }
}

/// Puts a delegation that holds into [`Table::Delegations`] of the batch's unit. Key: unit, zero
/// byte, desk or nothing, zero byte, serial (big-endian). Value: version, envelope. With its leaf.
pub fn put_delegation(batch: &mut Batch, known: &Known, now_unix_ms: UnixMillis) {
    let leaf = Leaf::Delegation {
        unit: known.delegation.unit.clone(),
        desk: known.delegation.desk.clone(),
        payload_sha256: known.payload_sha256,
    };
    batch.journal(now_unix_ms, &leaf);
    let mut value = vec![VERSION];
    known.envelope.encode(&mut value).expect("invariant: a Vec grows");
    batch.put(Table::Delegations, delegation_key(known), value);
}

/// Key of a delegation in [`Table::Delegations`].
pub fn delegation_key(known: &Known) -> Vec<u8> {
    let delegation = &known.delegation;
    let mut key = delegation.unit.as_str().as_bytes().to_vec();
    key.push(0);
    key.extend_from_slice(delegation.desk.as_ref().map_or("", |desk| desk.as_str()).as_bytes());
    key.push(0);
    key.extend_from_slice(&delegation.serial.to_be_bytes());
    key
}

/// Puts a revocation that proves itself into [`Table::Revocations`] of the batch's unit. Key: SHA-256
/// of its payload. Value: version, when it was taken in (big-endian), the revocation with its proof.
pub fn put_revocation(batch: &mut Batch, known: &KnownRevocation, now: UnixMillis) {
    let mut value = vec![VERSION];
    value.extend_from_slice(&now.to_be_bytes());
    value.extend_from_slice(&known.proven.encode());
    batch.put(Table::Revocations, known.payload_sha256, value);
}

fn decode_revocation(value: &[u8]) -> Option<Proven> {
    match value {
        [VERSION, rest @ ..] => Proven::decode(rest.get(8..)?).ok(),
        _ => None,
    }
}

fn decode_delegation(value: &[u8]) -> Option<Envelope> {
    match value {
        [VERSION, envelope @ ..] => Envelope::decode(envelope).ok(),
        _ => None,
    }
}
