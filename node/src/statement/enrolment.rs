//! What a unit that wants to join signs to prove that it holds its key: the bytes of a
//! `ReserveRequest` without its proof.
//!
//! Promises that both sides sign and verify the same bytes, and that a request that was read is
//! complete and within bounds. The secret in it never appears in `Debug`.

use std::fmt;

use lianxi_proto::{
    enrolment::v1 as pb,
    envelope::{self, Signer, VerifyingKey},
    types::v1::{self as types, Envelope},
};
use prost::Message as _;
use zeroize::Zeroizing;

use crate::{
    clock::UnixMillis,
    domain::{
        delegation::{KeyUse, PublicKey, RootName},
        unit::{Level, UnitCode},
    },
    statement::{
        delegation::{
            keys_from_proto, keys_to_proto, level_from_proto, level_to_proto, root_name,
            suite_to_proto, text,
        },
        header::{Malformed, unit_at},
    },
};

/// Payload type under which the proof is signed.
const PROOF_TYPE: &str = "application/vnd.lianxi.reserve.v1+protobuf";

/// Largest certificate request.
const MAX_REQUEST_BYTES: usize = 4096;

/// Most units below a root that comes with its tree.
const MAX_UNITS: usize = 8_000;

/// A root that comes under another unit.
#[derive(Clone, Debug)]
pub struct Adopted {
    /// Its root key.
    pub root_key: RootName,
    /// The last delegation that the root key signed.
    pub last: Envelope,
    /// Units below it.
    pub units: Vec<UnitCode>,
}

/// What a unit that wants to join says of itself.
#[derive(Clone)]
pub struct Application {
    /// Public part of the token.
    pub token_id: [u8; 16],
    /// One-time secret of the token.
    pub secret: Zeroizing<[u8; 32]>,
    /// The unit.
    pub unit: UnitCode,
    /// Its level.
    pub level: Level,
    /// Its public keys by use.
    pub keys: Vec<PublicKey>,
    /// SHA-256 of its own issuing CA.
    pub ca_sha256: [u8; 32],
    /// PKCS#10, DER.
    pub certificate_request: Vec<u8>,
    /// Name of its host; empty: not stated.
    pub host: String,
    /// Its clock.
    pub clock_unix_ms: UnixMillis,
    /// For a unit that was a root.
    pub adopted: Option<Adopted>,
}

impl fmt::Debug for Application {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Application")
            .field("token_id", &hex::encode(self.token_id))
            .field("unit", &self.unit)
            .field("level", &self.level)
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}

impl Application {
    /// The request with its proof, signed by the unit's STATEMENT key.
    pub fn prove(&self, signer: &Signer) -> pb::ReserveRequest {
        let mut request = self.unproven();
        let signed = envelope::sign(PROOF_TYPE, request.encode_to_vec(), &[signer]);
        request.proof =
            signed.signatures.into_iter().map(|one| one.signature).next().unwrap_or_default();
        request
    }

    /// Reads a request and checks its proof of possession.
    ///
    /// # Errors
    ///
    /// [`Malformed`] names the field; `proof` if the STATEMENT key did not sign this request.
    pub fn read(request: pb::ReserveRequest) -> Result<Self, Malformed> {
        let missing = |field: &'static str, length: usize| {
            move |_| Malformed::new(field, format_args!("must have {length} bytes"))
        };
        if request.certificate_request.len() > MAX_REQUEST_BYTES {
            return Err(Malformed::new("certificate_request", "is over the limit of 4096 bytes"));
        }
        let proof = request.proof;
        let secret = Zeroizing::new(request.secret);
        let application = Self {
            token_id: request.token_id.as_slice().try_into().map_err(missing("token_id", 16))?,
            secret: Zeroizing::new(secret.as_slice().try_into().map_err(missing("secret", 32))?),
            unit: unit_at("unit", &request.unit)?,
            level: level_from_proto(request.level)
                .ok_or_else(|| Malformed::new("level", "is none of the four levels"))?,
            keys: keys_from_proto("keys", &request.keys)?,
            ca_sha256: request.ca_sha256.as_slice().try_into().map_err(missing("ca_sha256", 32))?,
            certificate_request: request.certificate_request,
            host: text("host", request.host)?,
            clock_unix_ms: request.clock_unix_ms,
            adopted: request.adopted.map(adopted).transpose()?,
        };
        application.check_keys()?;
        application.check_proof(proof)?;
        Ok(application)
    }

    /// One key for each use: what a unit that may have children and desks needs.
    fn check_keys(&self) -> Result<(), Malformed> {
        for key_use in [KeyUse::Statement, KeyUse::Delegation, KeyUse::Agreement] {
            if self.keys.iter().filter(|key| key.key_use == key_use).count() != 1 {
                let reason = format_args!("must hold exactly one for {key_use:?}");
                return Err(Malformed::new("keys", reason));
            }
        }
        Ok(())
    }

    fn check_proof(&self, proof: Vec<u8>) -> Result<(), Malformed> {
        let refused = || Malformed::new("proof", "is no signature by the STATEMENT key");
        let key = self.keys.iter().find(|key| key.key_use == KeyUse::Statement);
        let key = key.ok_or_else(refused)?;
        let suite = suite_to_proto(key.suite);
        let key = VerifyingKey::new(suite, &key.bytes).map_err(|_| refused())?;
        let signature = types::Signature { key_id: key.key_id().to_owned(), signature: proof };
        let signed = Envelope {
            payload_type: PROOF_TYPE.to_owned(),
            payload: self.unproven().encode_to_vec().into(),
            signatures: vec![signature],
        };
        envelope::verify(&signed, PROOF_TYPE, &[key]).map(drop).map_err(|_| refused())
    }

    fn unproven(&self) -> pb::ReserveRequest {
        pb::ReserveRequest {
            token_id: self.token_id.to_vec(),
            secret: self.secret.to_vec(),
            unit: self.unit.to_string(),
            level: level_to_proto(self.level).into(),
            keys: keys_to_proto(&self.keys),
            ca_sha256: self.ca_sha256.to_vec(),
            certificate_request: self.certificate_request.clone(),
            host: self.host.clone(),
            proof: Vec::new(),
            clock_unix_ms: self.clock_unix_ms,
            adopted: self.adopted.as_ref().map(|adopted| pb::AdoptedRoot {
                suite: suite_to_proto(adopted.root_key.suite).into(),
                public_key: adopted.root_key.bytes.clone(),
                last: Some(adopted.last.clone()),
                units: adopted.units.iter().map(ToString::to_string).collect(),
            }),
        }
    }
}

fn adopted(message: pb::AdoptedRoot) -> Result<Adopted, Malformed> {
    if message.units.len() > MAX_UNITS {
        let reason = format_args!("{} are over the limit of {MAX_UNITS}", message.units.len());
        return Err(Malformed::new("adopted.units", reason));
    }
    let units = message.units.iter().map(|unit| unit_at("adopted.units", unit));
    Ok(Adopted {
        root_key: root_name("adopted", message.suite, &message.public_key)?,
        last: message.last.ok_or_else(|| Malformed::new("adopted.last", "is missing"))?,
        units: units.collect::<Result<_, _>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::delegation::Suite;

    fn application() -> (Application, Signer) {
        let signer = Signer::from_seed(&[1; 32]);
        let key = |bytes: Vec<u8>, suite, key_use| PublicKey { suite, bytes, key_use };
        let delegation = Signer::from_seed(&[2; 32]).public_key().to_vec();
        let application = Application {
            token_id: [3; 16],
            secret: Zeroizing::new([4; 32]),
            unit: "BOS-01".parse().unwrap(),
            level: Level::District,
            keys: vec![
                key(signer.public_key().to_vec(), Suite::Ed25519, KeyUse::Statement),
                key(delegation, Suite::Ed25519, KeyUse::Delegation),
                key(vec![5; 32], Suite::X25519, KeyUse::Agreement),
            ],
            ca_sha256: [6; 32],
            certificate_request: vec![7; 100],
            host: "street-host".to_owned(),
            clock_unix_ms: 1_000,
            adopted: None,
        };
        (application, signer)
    }

    fn fault(change: impl FnOnce(&mut pb::ReserveRequest)) -> String {
        let (application, signer) = application();
        let mut request = application.prove(&signer);
        change(&mut request);
        Application::read(request).unwrap_err().field
    }

    #[test]
    fn a_proven_request_is_read_back() {
        let (application, signer) = application();
        let read = Application::read(application.prove(&signer)).unwrap();
        assert_eq!(read.unproven(), application.unproven());
    }

    #[test]
    fn every_change_after_the_proof_is_noticed() {
        assert_eq!(fault(|request| request.unit = "BOS-02".to_owned()), "proof");
        assert_eq!(fault(|request| request.ca_sha256[0] ^= 1), "proof");
        assert_eq!(fault(|request| request.certificate_request[0] ^= 1), "proof");
        assert_eq!(fault(|request| request.keys[2].public_key[0] ^= 1), "proof");
        assert_eq!(fault(|request| request.secret[0] ^= 1), "proof");
        assert_eq!(fault(|request| request.proof.clear()), "proof");
    }

    #[test]
    fn a_proof_by_another_key_of_the_unit_is_refused() {
        let (application, _) = application();
        let request = application.prove(&Signer::from_seed(&[2; 32]));
        assert_eq!(Application::read(request).unwrap_err().field, "proof");
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(fault(|request| request.token_id.truncate(15)), "token_id");
        assert_eq!(fault(|request| request.secret.clear()), "secret");
        assert_eq!(fault(|request| request.level = 0), "level");
        assert_eq!(fault(|request| request.keys.truncate(2)), "keys");
        assert_eq!(fault(|request| request.ca_sha256.clear()), "ca_sha256");
        assert_eq!(
            fault(|request| request.certificate_request = vec![0; 5000]),
            "certificate_request"
        );
    }

    #[test]
    fn debug_shows_no_secret() {
        let (mut application, _) = application();
        *application.secret = [0xab; 32];
        let shown = format!("{application:?}");
        assert!(!shown.contains("abab") && !shown.contains("171"), "{shown}");
    }
}
