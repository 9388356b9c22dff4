//! A grant to speak for one unit or desk, and the rules that a chain of them obeys.

use crate::{
    clock::UnixMillis,
    domain::unit::{DeskId, Level, UnitCode},
};

/// What a key may be used for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum KeyUse {
    /// Signs statements.
    Statement,
    /// Signs delegations of children and desks.
    Delegation,
    /// Receives encrypted bodies.
    Agreement,
}

/// Algorithm of a key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Suite {
    /// RFC 8032.
    Ed25519,
    /// RFC 7748.
    X25519,
    /// GM/T 0003 with SM3.
    Sm2Sm3,
}

/// A public key with its use.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PublicKey {
    /// Algorithm.
    pub suite: Suite,
    /// Raw bytes as the suite defines them.
    pub bytes: Vec<u8>,
    /// The one use that is allowed.
    pub key_use: KeyUse,
}

/// What the issuer grants; see `proto/lianxi/types/v1/delegation.proto`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Delegation {
    /// Trust domain of the city.
    pub trust_domain: String,
    /// Unit that gets the grant.
    pub unit: UnitCode,
    /// Its level.
    pub level: Level,
    /// Issuing unit; `None` in the root's own.
    pub issuer: Option<UnitCode>,
    /// First instant of validity.
    pub not_before_unix_ms: UnixMillis,
    /// First instant after it.
    pub not_after_unix_ms: UnixMillis,
    /// Keys by use.
    pub keys: Vec<PublicKey>,
    /// SHA-256 of the unit's issuing CA; `None` for a desk.
    pub ca_sha256: Option<[u8; 32]>,
    /// Name of the host.
    pub host: String,
    /// Set for a desk of `unit`.
    pub desk: Option<DeskId>,
    /// Line of business of the desk.
    pub line: String,
    /// Title for people.
    pub title: String,
    /// Higher replaces lower.
    pub serial: u64,
}
