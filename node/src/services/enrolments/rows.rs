//! Stored forms of tokens and children: one version byte, then JSON.

use aws_lc_rs::constant_time;
use lianxi_proto::envelope::VerifyingKey;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    clock::UnixMillis,
    domain::{
        delegation::{KeyUse, PublicKey, Suite},
        guessing::Guessing,
        reform::Order,
        unit::{Level, UnitCode},
    },
    identity::certificates::{self, sha256},
    services::enrolments::{
        Error,
        adopting::{Adopting, FormerRow},
    },
    statement::{
        Envelope,
        delegation::{suite_from_proto, suite_to_proto},
        enrolment::Application,
        reform::order_to_grant,
    },
};

/// Version of the rows of [`crate::store::Table::Tokens`] and [`crate::store::Table::Children`].
const VERSION: u8 = 1;

fn encode<T: Serialize>(row: &T) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    serde_json::to_writer(&mut bytes, row).expect("invariant: rows are plain data");
    bytes
}

fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8], what: &'static str) -> Result<T, Error> {
    match bytes {
        [VERSION, json @ ..] => serde_json::from_slice(json).map_err(|_| Error::Row(what)),
        _ => Err(Error::Row(what)),
    }
}

/// A child that has joined.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Child {
    /// The unit.
    pub unit: UnitCode,
    /// Its level.
    pub level: Level,
    /// Its title.
    pub title: String,
    /// Name of its host; empty: not stated.
    pub host: String,
    /// SHA-256 of the public key that its client certificates are for.
    #[serde(with = "hex_array")]
    pub tls_key_sha256: [u8; 32],
    /// When it joined, this host's clock.
    pub joined_unix_ms: UnixMillis,
}

impl Child {
    pub(super) fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Error> {
        decode(bytes, "child")
    }
}

/// What became of a token.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TokenState {
    /// Nobody has taken it.
    Open,
    /// A key has it until then.
    Reserved {
        /// When the reservation ends.
        until_unix_ms: UnixMillis,
    },
    /// The child has joined with it.
    Spent {
        /// When.
        spent_unix_ms: UnixMillis,
    },
}

/// A token as the operator sees it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TokenStatus {
    /// Unit that it invites.
    pub child: UnitCode,
    /// When it ends.
    pub expires_unix_ms: UnixMillis,
    /// What became of it.
    pub state: TokenState,
    /// How often a second key tried it.
    pub refused: u32,
    /// When that was last; 0: never.
    pub refused_unix_ms: UnixMillis,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct TokenRow {
    pub(super) child: UnitCode,
    pub(super) level: Level,
    pub(super) title: String,
    #[serde(with = "hex_array")]
    pub(super) secret_sha256: [u8; 32],
    pub(super) issued_unix_ms: UnixMillis,
    pub(super) expires_unix_ms: UnixMillis,
    pub(super) state: State,
    pub(super) refused: u32,
    pub(super) refused_unix_ms: UnixMillis,
    /// Wrong secrets in a row. Absent in rows from before they were counted.
    #[serde(default)]
    pub(super) guessing: Guessing,
    /// Order by which the child comes from another parent. Absent in rows from before there were any.
    #[serde(default)]
    pub(super) coming: Option<Coming>,
    /// The root key of a unit that comes with its tree. Absent in rows from before there were any.
    #[serde(default)]
    pub(super) adopting: Option<Adopting>,
}

/// A child that comes from another parent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Coming {
    /// The signed order, as a grant holds it.
    #[serde(with = "hex_bytes")]
    pub(super) order: Vec<u8>,
    /// Its parent so far.
    pub(super) from: UnitCode,
    #[serde(with = "hex_array")]
    pub(super) keys_sha256: [u8; 32],
    pub(super) effective_unix_ms: UnixMillis,
    /// It comes to end here. Absent in rows from before there were any.
    #[serde(default)]
    pub(super) merge: bool,
}

impl From<(Order, Envelope)> for Coming {
    fn from((order, envelope): (Order, Envelope)) -> Self {
        Self {
            order: order_to_grant(&envelope),
            from: order.from,
            keys_sha256: order.keys_sha256,
            effective_unix_ms: order.effective_unix_ms,
            merge: order.merge,
        }
    }
}

impl TokenRow {
    pub(super) fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Error> {
        decode(bytes, "token")
    }

    /// Compares in constant time.
    pub(super) fn has_secret(&self, secret: &[u8; 32]) -> bool {
        constant_time::verify_slices_are_equal(&self.secret_sha256, &sha256(secret)).is_ok()
    }

    /// Parent that the child comes from, and whether it comes to end here.
    pub(super) fn coming(&self) -> Option<(&UnitCode, bool)> {
        self.coming.as_ref().map(|coming| (&coming.from, coming.merge))
    }

    pub(super) fn status(self) -> TokenStatus {
        let state = match self.state {
            State::Open => TokenState::Open,
            State::Reserved(Reservation { until_unix_ms, .. }) => {
                TokenState::Reserved { until_unix_ms }
            }
            State::Spent { spent_unix_ms, .. } => TokenState::Spent { spent_unix_ms },
        };
        TokenStatus {
            child: self.child,
            expires_unix_ms: self.expires_unix_ms,
            state,
            refused: self.refused,
            refused_unix_ms: self.refused_unix_ms,
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    Open,
    Reserved(Reservation),
    Spent {
        #[serde(with = "hex_array")]
        by: [u8; 32],
        #[serde(with = "hex_array")]
        tls_key_sha256: [u8; 32],
        spent_unix_ms: UnixMillis,
    },
}

/// Who has a token, with all that the delegation will name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Reservation {
    #[serde(with = "hex_array")]
    pub(super) thumbprint: [u8; 32],
    pub(super) until_unix_ms: UnixMillis,
    keys: Vec<KeyRow>,
    #[serde(with = "hex_array")]
    pub(super) ca_sha256: [u8; 32],
    #[serde(with = "hex_array")]
    pub(super) tls_key_sha256: [u8; 32],
    pub(super) host: String,
    /// For a unit that was a root. Absent in rows from before there were any.
    #[serde(default)]
    pub(super) former: Option<FormerRow>,
}

impl Reservation {
    /// Checks the certificate request on the way: its key is part of the thumbprint.
    pub(super) fn new(application: &Application, until_unix_ms: UnixMillis) -> Result<Self, Error> {
        let tls_key_sha256 = certificates::request_key_sha256(&application.certificate_request)?;
        let keys: Vec<KeyRow> = application.keys.iter().map(KeyRow::new).collect();
        Ok(Self {
            thumbprint: thumbprint(&keys, &application.ca_sha256, &tls_key_sha256),
            until_unix_ms,
            keys,
            ca_sha256: application.ca_sha256,
            tls_key_sha256,
            host: application.host.clone(),
            former: None,
        })
    }

    pub(super) fn keys(&self) -> Vec<PublicKey> {
        self.keys.iter().map(KeyRow::key).collect()
    }
}

/// One hash over everything that makes the child the same child: whoever repeats a step must bring
/// the same keys for every use, not only the one that signs.
fn thumbprint(keys: &[KeyRow], ca_sha256: &[u8; 32], tls_key_sha256: &[u8; 32]) -> [u8; 32] {
    let mut keys: Vec<Vec<u8>> = keys.iter().map(encode).collect();
    keys.sort();
    let mut digest = Sha256::new().chain_update(ca_sha256).chain_update(tls_key_sha256);
    for key in &keys {
        digest.update(sha256(key));
    }
    digest.finalize().into()
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum SuiteRow {
    Ed25519,
    X25519,
    Sm2Sm3,
}

impl SuiteRow {
    /// What a row without a suite means.
    pub(super) fn ed25519() -> Self {
        Self::Ed25519
    }

    /// Suite of a key that verifies.
    pub(super) fn of(key: &VerifyingKey) -> Self {
        suite_from_proto(key.suite().into()).map_or(Self::Ed25519, Self::new)
    }

    /// The key of stored bytes; `None` if they are none of this suite.
    pub(super) fn verifying_key(self, bytes: &[u8]) -> Option<VerifyingKey> {
        VerifyingKey::new(suite_to_proto(self.suite()), bytes).ok()
    }

    fn new(suite: Suite) -> Self {
        match suite {
            Suite::Ed25519 => Self::Ed25519,
            Suite::X25519 => Self::X25519,
            Suite::Sm2Sm3 => Self::Sm2Sm3,
        }
    }

    fn suite(self) -> Suite {
        match self {
            Self::Ed25519 => Suite::Ed25519,
            Self::X25519 => Suite::X25519,
            Self::Sm2Sm3 => Suite::Sm2Sm3,
        }
    }
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum UseRow {
    Statement,
    Delegation,
    Agreement,
}

/// A public key as rows hold it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeyRow {
    suite: SuiteRow,
    key_use: UseRow,
    #[serde(with = "hex_bytes")]
    bytes: Vec<u8>,
}

impl KeyRow {
    /// The row of a key.
    pub fn new(key: &PublicKey) -> Self {
        let suite = SuiteRow::new(key.suite);
        let key_use = match key.key_use {
            KeyUse::Statement => UseRow::Statement,
            KeyUse::Delegation => UseRow::Delegation,
            KeyUse::Agreement => UseRow::Agreement,
        };
        Self { suite, key_use, bytes: key.bytes.clone() }
    }

    /// The key of a row.
    pub fn key(&self) -> PublicKey {
        let suite = self.suite.suite();
        let key_use = match self.key_use {
            UseRow::Statement => KeyUse::Statement,
            UseRow::Delegation => KeyUse::Delegation,
            UseRow::Agreement => KeyUse::Agreement,
        };
        PublicKey { suite, bytes: self.bytes.clone(), key_use }
    }
}

/// Bytes as lower-case hex.
pub(super) mod hex_bytes {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(bytes))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<u8>, D::Error> {
        hex::decode(String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// An array of bytes as lower-case hex.
pub(super) mod hex_array {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(crate) fn serialize<S: Serializer, const N: usize>(
        bytes: &[u8; N],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(bytes))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>, const N: usize>(
        deserializer: D,
    ) -> Result<[u8; N], D::Error> {
        let mut bytes = [0; N];
        hex::decode_to_slice(String::deserialize(deserializer)?, &mut bytes)
            .map_err(D::Error::custom)?;
        Ok(bytes)
    }
}
