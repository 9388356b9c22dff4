//! Why a delegation or statement is not believed, with the fixed word and the field at fault.

use lianxi_proto::envelope;

use crate::{
    clock::UnixMillis,
    domain::{
        delegation::{KeyUse, Suite},
        unit::{DeskId, Level, UnitCode},
    },
    statement::header::Malformed,
};

/// Why a delegation or statement is not believed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// No signature by a known key, or one that does not hold.
    #[error("the signature does not hold: {0}")]
    Envelope(#[from] envelope::Error),
    /// The signed bytes are not what they should be.
    #[error("the statement is malformed at {0}")]
    Malformed(#[from] Malformed),
    /// A statement of another type stands where a delegation should.
    #[error("{0:?} is no delegation")]
    NotADelegation(String),
    /// Of another city.
    #[error("trust domain {found} is not {expected}; the unit belongs to another city")]
    Domain {
        /// Trust domain of the delegation.
        found: String,
        /// Trust domain here.
        expected: String,
    },
    /// The unit that speaks or grants is not known.
    #[error("{0} is not known here; its delegation must come first")]
    UnknownUnit(UnitCode),
    /// Signed by a key of somebody else.
    #[error("{claimed} is named as the source, but the key belongs to {holder}")]
    WrongSource {
        /// Who the statement says it is from.
        claimed: UnitCode,
        /// Whose key signed it.
        holder: String,
    },
    /// The key is the right unit's, but not for this.
    #[error("the key of {holder} is for {key_use:?}, not for this")]
    WrongUse {
        /// Whose key signed.
        holder: String,
        /// What the key may be used for.
        key_use: KeyUse,
    },
    /// A grant at or above the issuer's own level.
    #[error("{issuer} is a {issuer_level} and cannot delegate to {unit} as a {level}")]
    Level {
        /// Unit that would get the grant.
        unit: UnitCode,
        /// Its level.
        level: Level,
        /// Issuing unit.
        issuer: UnitCode,
        /// Level of the issuer.
        issuer_level: Level,
    },
    /// The unit has another parent already, or is the root, or would change its level.
    #[error(
        "{unit} is known as a {level} under {parent}; a move must be announced, not only signed"
    )]
    Moved {
        /// The unit.
        unit: UnitCode,
        /// Its level so far.
        level: Level,
        /// Its parent so far, `no parent` for the root.
        parent: String,
    },
    /// The grant would make a unit its own ancestor.
    #[error("{unit} cannot be under {issuer}, which is below it")]
    Loop {
        /// The unit.
        unit: UnitCode,
        /// The issuer.
        issuer: UnitCode,
    },
    /// A desk that is not granted by its own unit, or with rights that a desk does not have.
    #[error("desk {desk} of {unit}: {reason}")]
    Desk {
        /// Its unit.
        unit: UnitCode,
        /// The desk.
        desk: DeskId,
        /// What is wrong.
        reason: &'static str,
    },
    /// The grant reaches beyond the issuer's own validity.
    #[error("the grant to {unit} reaches beyond that of its issuer, {issuer}")]
    OutlivesIssuer {
        /// The unit.
        unit: UnitCode,
        /// The issuer.
        issuer: UnitCode,
    },
    /// The signing key was not valid when it signed.
    #[error(
        "the key of {holder} was not valid at {time_unix_ms} ms; renew its delegation, or compare the clocks"
    )]
    Expired {
        /// Whose key.
        holder: String,
        /// When it signed, as it says.
        time_unix_ms: UnixMillis,
    },
    /// The key was replaced or revoked, and nothing shows that what it signed is older.
    #[error(
        "a key of {holder} ended at {end_unix_ms} ms, and nothing shows that what it signed is older; let {holder} send it anew, or pass on evidence of a checkpoint that was cosigned before"
    )]
    EndedKey {
        /// Whose key.
        holder: String,
        /// From when on it is not believed.
        end_unix_ms: UnixMillis,
    },
    /// The unit or desk was revoked.
    #[error(
        "{holder} was revoked by {by} ({reason}); it has to ask for an invitation and join again with new keys"
    )]
    Revoked {
        /// Who was revoked.
        holder: String,
        /// By whom.
        by: UnitCode,
        /// Why.
        reason: &'static str,
    },
    /// A statement of another type stands where a revocation should.
    #[error("{0:?} is no revocation")]
    NotARevocation(String),
    /// A unit revokes what is not below it.
    #[error("{by} cannot revoke {unit}, which is not below it")]
    BeyondSubtree {
        /// The unit.
        unit: UnitCode,
        /// Who revokes.
        by: UnitCode,
    },
    /// Made in the future.
    #[error("dated {ahead_ms} ms ahead of this host's clock; compare the clocks of both hosts")]
    Future {
        /// How far.
        ahead_ms: i64,
    },
    /// The same key for two units, desks or uses: signatures would have two meanings.
    #[error("a key of {unit} is already a key of {holder}; make new keys")]
    KeyTaken {
        /// Who claims it.
        unit: UnitCode,
        /// Who has it, and for what.
        holder: String,
    },
    /// A key or a signature in a suite that the root does not accept: a mixed or downgraded chain.
    #[error(
        "{holder} has a key of suite {suite}, which the trust domain does not accept; make its keys anew, in one of the suites of the root's delegation"
    )]
    SuiteNotAccepted {
        /// Whose key.
        holder: String,
        /// Its suite.
        suite: Suite,
    },
    /// A statement of another type stands where an order should.
    #[error("{0:?} is no order of a reform")]
    NotAReform(String),
    /// The unit has another parent, and the order for that does not hold.
    #[error(
        "{unit} cannot come under another parent: {reason}; let a unit above both give a new order"
    )]
    Reform {
        /// The unit.
        unit: UnitCode,
        /// What is wrong.
        reason: &'static str,
    },
    /// Nobody speaks for another unit about an item without an order that says so.
    #[error("nobody speaks for {unit} here: {reason}; let a unit above both order it")]
    Handed {
        /// The unit that had the item.
        unit: UnitCode,
        /// What is wrong.
        reason: &'static str,
    },
    /// A root key that has named its successor signs no more.
    #[error(
        "the root key of {unit} has named its successor and ended at {end_unix_ms} ms; have this signed with the next root key"
    )]
    EndedRoot {
        /// Whose own grant it signed.
        unit: UnitCode,
        /// From when on it is not believed; 0: that is not known.
        end_unix_ms: UnixMillis,
    },
    /// Two root keys that do not name each other as they should.
    #[error("the root of {unit} does not follow: {reason}; compare the fingerprints of both roots")]
    Succession {
        /// The unit.
        unit: UnitCode,
        /// What is wrong.
        reason: &'static str,
    },
    /// Two different grants with one serial.
    #[error("serial {serial} of {holder} was used for another grant")]
    SerialReused {
        /// The subject.
        holder: String,
        /// The serial.
        serial: u64,
    },
}

impl Error {
    /// Fixed word of `Rejection.reason`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Envelope(envelope::Error::UnknownKey(_)) | Self::WrongUse { .. } => "unknown-key",
            Self::Envelope(
                envelope::Error::PayloadType { .. }
                | envelope::Error::TooLarge(_)
                | envelope::Error::NoSignature
                | envelope::Error::TooManySignatures(_)
                | envelope::Error::DuplicateKey(_)
                | envelope::Error::Suite(_)
                | envelope::Error::PublicKey(..)
                | envelope::Error::PrivateKey(_),
            )
            | Self::Malformed(_)
            | Self::Desk { .. }
            | Self::KeyTaken { .. }
            | Self::SerialReused { .. } => "malformed",
            Self::Envelope(envelope::Error::BadSignature(_)) => "bad-signature",
            Self::NotADelegation(_) | Self::NotARevocation(_) | Self::NotAReform(_) => {
                "unknown-type"
            }
            Self::EndedKey { .. } | Self::EndedRoot { .. } => "ended-key",
            Self::Succession { .. } => "wrong-root",
            Self::Revoked { .. } => "revoked",
            Self::Domain { .. } => "wrong-domain",
            Self::SuiteNotAccepted { .. } => "suite-not-accepted",
            Self::WrongSource { .. } | Self::Handed { .. } => "wrong-source",
            Self::UnknownUnit(_)
            | Self::Level { .. }
            | Self::Moved { .. }
            | Self::Reform { .. }
            | Self::Loop { .. }
            | Self::BeyondSubtree { .. } => "outside-subtree",
            Self::OutlivesIssuer { .. } | Self::Expired { .. } | Self::Future { .. } => "expired",
        }
    }

    /// True if what comes later may hold it: a grant that names the key that signed it.
    pub fn may_hold_later(&self) -> bool {
        matches!(self, Self::Envelope(envelope::Error::UnknownKey(_)) | Self::EndedRoot { .. })
    }

    /// True if only a witness from before the end is missing.
    pub fn is_ended(&self) -> bool {
        matches!(self, Self::EndedKey { .. } | Self::Revoked { .. })
    }

    /// The field at fault as a dotted path; empty: the whole.
    pub fn field(&self) -> &str {
        match self {
            Self::Envelope(envelope::Error::PayloadType { .. }) => "payload_type",
            Self::Envelope(envelope::Error::TooLarge(_)) => "payload",
            Self::Envelope(_)
            | Self::WrongUse { .. }
            | Self::EndedKey { .. }
            | Self::EndedRoot { .. }
            | Self::Revoked { .. } => "signatures",
            Self::Malformed(malformed) => &malformed.field,
            Self::NotADelegation(_) | Self::NotARevocation(_) | Self::NotAReform(_) => {
                "header.type"
            }
            Self::BeyondSubtree { .. } => "body.unit",
            Self::Domain { .. } => "body.trust_domain",
            Self::UnknownUnit(_) | Self::WrongSource { .. } => "header.source",
            Self::Level { .. } => "body.level",
            Self::Reform { .. } => "body.reform",
            Self::Handed { .. } => "header.handed_by",
            Self::Succession { .. } => "body.former_root",
            Self::Moved { .. } | Self::Loop { .. } => "body.issuer",
            Self::Desk { .. } => "body.desk",
            Self::OutlivesIssuer { .. } => "body.not_after_unix_ms",
            Self::Expired { .. } | Self::Future { .. } => "header.time_unix_ms",
            Self::KeyTaken { .. } | Self::SuiteNotAccepted { .. } => "body.keys",
            Self::SerialReused { .. } => "body.serial",
        }
    }
}
