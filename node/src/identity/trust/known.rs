//! What came out of judging: a delegation that holds, a statement that is believed.

use lianxi_proto::envelope::VerifyingKey;

use super::{SKEW_TOLERANCE_MS, Subject, id_of, verifying_key};
use crate::{
    clock::UnixMillis,
    domain::{
        delegation::{Delegation, KeyUse},
        reform::Order,
    },
    statement::{Envelope, header::Statement},
};

/// A delegation that holds.
#[derive(Clone, Debug)]
pub struct Known {
    /// What it grants.
    pub delegation: Delegation,
    /// As it was signed.
    pub envelope: Envelope,
    /// SHA-256 of its payload.
    pub payload_sha256: [u8; 32],
    /// Order by which the unit came under this issuer.
    pub order: Option<Order>,
}

impl Known {
    /// True if the grant covers `time`, give or take [`SKEW_TOLERANCE_MS`].
    pub fn is_valid_at(&self, time: UnixMillis) -> bool {
        let delegation = &self.delegation;
        time.saturating_add(SKEW_TOLERANCE_MS) >= delegation.not_before_unix_ms
            && time.saturating_sub(SKEW_TOLERANCE_MS) < delegation.not_after_unix_ms
    }

    /// The STATEMENT keys that it grants.
    pub fn statement_keys(&self) -> Vec<VerifyingKey> {
        let keys = self.delegation.keys.iter().filter(|key| key.key_use == KeyUse::Statement);
        keys.filter_map(verifying_key).collect()
    }

    pub(super) fn subject(&self) -> Subject {
        (self.delegation.unit.clone(), self.delegation.desk.clone())
    }

    pub(super) fn holds(&self, key_id: &str, key_use: KeyUse) -> bool {
        let mut keys = self.delegation.keys.iter();
        keys.any(|key| key.key_use == key_use && id_of(key) == key_id)
    }
}

/// What became of a delegation that was added.
#[derive(Clone, Debug)]
pub struct Added {
    /// What it grants.
    pub delegation: Delegation,
    /// False if it was known already.
    pub new: bool,
}

/// A statement that is believed.
#[derive(Clone, Debug)]
pub struct Opened {
    /// What it says.
    pub statement: Statement,
    /// Whose key signed it: the source, or a desk of the source.
    pub signer: Subject,
    /// SHA-256 of its payload.
    pub payload_sha256: [u8; 32],
}

/// A delegation that passed every check, not yet believed.
#[derive(Clone, Debug)]
pub struct Checked {
    pub(super) known: Known,
    pub(super) new: bool,
}

impl Checked {
    /// The delegation.
    pub fn known(&self) -> &Known {
        &self.known
    }

    /// False if it is believed already.
    pub fn is_new(&self) -> bool {
        self.new
    }
}
