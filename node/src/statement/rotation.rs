//! What a unit that has joined signs to be granted other keys: the bytes of a `RotateRequest` without
//! its proofs.
//!
//! Promises that both sides sign and verify the same bytes. Which of the keys have to have signed is
//! asked of [`KeyRequest::check_proofs`]; whether the unit may have the keys, of its parent.

use lianxi_proto::{
    enrolment::v1 as pb,
    envelope::{self, Signer, VerifyingKey},
    types::v1::{self as types, Envelope},
};
use prost::Message as _;

use crate::{
    domain::{
        delegation::{Delegation, KeyUse, PublicKey},
        unit::UnitCode,
    },
    statement::{
        delegation::{
            MAX_FURTHER_CAS, MAX_SEEN, digests, digests_to_proto, keys_from_proto, keys_to_proto,
            suite_to_proto,
        },
        header::{Malformed, unit_at},
    },
};

/// Payload type under which the proofs are signed.
const PROOF_TYPE: &str = "application/vnd.lianxi.rotate.v1+protobuf";

/// Most keys for one use: a former one and a new one.
const MAX_FOR_USE: usize = 2;

/// A request with its proofs, as it travels.
pub use pb::RotateRequest as ProvenRequest;

/// What a unit wants its next delegation to name.
#[derive(Clone, Debug)]
pub struct KeyRequest {
    /// The unit.
    pub unit: UnitCode,
    /// Serial of the delegation that is to be replaced.
    pub serial: u64,
    /// Keys by use.
    pub keys: Vec<PublicKey>,
    /// SHA-256 of the CA that it issues with.
    pub ca_sha256: [u8; 32],
    /// Further CAs.
    pub further_ca_sha256: Vec<[u8; 32]>,
    /// Payloads by keys that the delegation leaves out.
    pub seen_sha256: Vec<[u8; 32]>,
    /// Signatures over all of it.
    pub proofs: Vec<types::Signature>,
}

impl KeyRequest {
    /// The request with proofs by `signers`.
    pub fn prove(self, signers: &[&Signer]) -> pb::RotateRequest {
        let mut request = self.unproven();
        let signed = envelope::sign(PROOF_TYPE, request.encode_to_vec(), signers);
        request.proofs = signed.signatures;
        request
    }

    /// Reads a request; its proofs are not checked yet.
    ///
    /// # Errors
    ///
    /// [`Malformed`] names the field.
    pub fn read(request: pb::RotateRequest) -> Result<Self, Malformed> {
        let ca_sha256 = request.ca_sha256.as_slice().try_into();
        let read = Self {
            unit: unit_at("unit", &request.unit)?,
            serial: request.serial,
            keys: keys_from_proto("keys", &request.keys)?,
            ca_sha256: ca_sha256.map_err(|_| Malformed::new("ca_sha256", "must have 32 bytes"))?,
            further_ca_sha256: digests(
                "further_ca_sha256",
                &request.further_ca_sha256,
                MAX_FURTHER_CAS,
            )?,
            seen_sha256: digests("seen_sha256", &request.seen_sha256, MAX_SEEN)?,
            proofs: request.proofs,
        };
        for key_use in [KeyUse::Statement, KeyUse::Delegation, KeyUse::Agreement] {
            let count = read.keys.iter().filter(|key| key.key_use == key_use).count();
            if !(1..=MAX_FOR_USE).contains(&count) {
                let reason = format_args!("must hold one or two for {key_use:?}");
                return Err(Malformed::new("keys", reason));
            }
        }
        Ok(read)
    }

    /// Checks that every key that signs has signed, and a STATEMENT key that `held` names: whoever
    /// asks has all of them.
    ///
    /// # Errors
    ///
    /// [`Malformed`] at `proofs`.
    pub fn check_proofs(&self, held: &Delegation) -> Result<(), Malformed> {
        let refused = |reason: &dyn std::fmt::Display| Malformed::new("proofs", reason);
        let present = held.keys.iter().filter(|key| key.key_use == KeyUse::Statement);
        let present = verifying(present);
        let asked = verifying(self.keys.iter().filter(|key| key.key_use != KeyUse::Agreement));
        let known: Vec<VerifyingKey> = asked.iter().chain(&present).cloned().collect();
        let signed = Envelope {
            payload_type: PROOF_TYPE.to_owned(),
            payload: self.unproven().encode_to_vec().into(),
            signatures: self.proofs.clone(),
        };
        envelope::verify(&signed, PROOF_TYPE, &known).map_err(|error| refused(&error))?;
        let has_signed =
            |key: &VerifyingKey| self.proofs.iter().any(|one| one.key_id == key.key_id());
        if !asked.iter().all(has_signed) {
            return Err(refused(&"lack one by a key that is asked for"));
        }
        if !present.iter().any(has_signed) {
            return Err(refused(&"lack one by a STATEMENT key that the unit has"));
        }
        Ok(())
    }

    fn unproven(&self) -> pb::RotateRequest {
        pb::RotateRequest {
            unit: self.unit.to_string(),
            serial: self.serial,
            keys: keys_to_proto(&self.keys),
            ca_sha256: self.ca_sha256.to_vec(),
            further_ca_sha256: digests_to_proto(&self.further_ca_sha256),
            seen_sha256: digests_to_proto(&self.seen_sha256),
            proofs: Vec::new(),
        }
    }
}

fn verifying<'a>(keys: impl Iterator<Item = &'a PublicKey>) -> Vec<VerifyingKey> {
    keys.filter_map(|key| VerifyingKey::new(suite_to_proto(key.suite), &key.bytes).ok()).collect()
}
