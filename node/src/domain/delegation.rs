//! A grant to speak for one unit or desk, and the rules that a chain of them obeys.

use std::{fmt, str::FromStr};

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

/// Algorithm of a key. It prints as people type it: `ed25519`, `x25519`, `sm2-sm3`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Suite {
    /// RFC 8032.
    Ed25519,
    /// RFC 7748.
    X25519,
    /// GM/T 0003 with SM3.
    Sm2Sm3,
}

impl Suite {
    /// Suites that sign.
    pub const SIGNING: [Self; 2] = [Self::Ed25519, Self::Sm2Sm3];

    /// True for a suite that signs.
    pub fn signs(self) -> bool {
        Self::SIGNING.contains(&self)
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Ed25519 => "ed25519",
            Self::X25519 => "x25519",
            Self::Sm2Sm3 => "sm2-sm3",
        })
    }
}

/// The text names no suite that signs.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("no suite that signs; use ed25519 or sm2-sm3")]
pub struct UnknownSuite;

impl FromStr for Suite {
    type Err = UnknownSuite;

    fn from_str(text: &str) -> Result<Self, UnknownSuite> {
        let mut suites = Self::SIGNING.into_iter();
        suites.find(|suite| suite.to_string() == text).ok_or(UnknownSuite)
    }
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
    /// Suites in which anything is signed in the trust domain: stated by the root's own alone.
    /// Empty: Ed25519 alone.
    pub accepted_suites: Vec<Suite>,
    /// The signed order by which the unit came under this issuer from another one, as it travels.
    pub reform: Option<Vec<u8>>,
    /// What the grant says of keys that changed.
    pub change: KeyChange,
}

/// What a grant says of keys that changed. By default: nothing did.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct KeyChange {
    /// When its keys replaced others: a key that it leaves out ended then. 0: the keys are as old
    /// as the grant.
    pub since_unix_ms: UnixMillis,
    /// Payloads that the issuer knows to be older than the end of the keys that signed them.
    pub seen_sha256: Vec<[u8; 32]>,
    /// Further CAs of the unit whose certificates are good.
    pub further_ca_sha256: Vec<[u8; 32]>,
    /// Root key that all rests on from here on. In the last grant that a root key signs.
    pub next_root: Option<NextRoot>,
    /// Root key that the unit had before this grant.
    pub former_root: Option<FormerRoot>,
}

/// A public root key as a grant names it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RootName {
    /// Algorithm.
    pub suite: Suite,
    /// Raw bytes as the suite defines them.
    pub bytes: Vec<u8>,
}

/// The root key that comes after.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NextRoot {
    /// The key.
    pub key: RootName,
    /// Since when somebody else may have had the former one; 0: it was replaced in peace.
    pub compromised_since_unix_ms: UnixMillis,
}

/// The root key that was before.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FormerRoot {
    /// The key.
    pub key: RootName,
    /// SHA-256 of the payload of the last grant that it signed.
    pub last_sha256: [u8; 32],
}

impl Delegation {
    /// True if the trust domain accepts signatures in `suite`. Asked of the root's own delegation.
    pub fn accepts(&self, suite: Suite) -> bool {
        match self.accepted_suites.as_slice() {
            [] => suite == Suite::Ed25519,
            stated => stated.contains(&suite),
        }
    }

    /// When a key that this grant leaves out, and the one before it named, ended.
    pub fn keys_since(&self) -> UnixMillis {
        match self.change.since_unix_ms {
            0 => self.not_before_unix_ms,
            since => since,
        }
    }

    /// Every CA of the unit whose certificates are good.
    pub fn cas(&self) -> impl Iterator<Item = [u8; 32]> {
        self.ca_sha256.into_iter().chain(self.change.further_ca_sha256.iter().copied())
    }

    /// Suites of the keys that sign.
    pub fn signing_suites(&self) -> impl Iterator<Item = Suite> {
        let signing = self.keys.iter().filter(|key| key.key_use != KeyUse::Agreement);
        signing.map(|key| key.suite)
    }
}
