//! Body bytes of `lianxi.revocation.v1`, and a revocation together with what proves it.
//!
//! Promises that what was decoded has every required field within bounds. Whether it holds is
//! decided by `identity::trust`.

use lianxi_proto::types::v1 as pb;
use prost::Message as _;

use crate::{
    domain::revocation::{Reason, Revocation},
    statement::{
        Envelope,
        delegation::{check_trust_domain, text},
        header::{Malformed, unit_at},
    },
};

/// Most keys of one revocation.
pub const MAX_KEYS: usize = 64;

/// Longest chain beside a revocation: four levels, and each twice where keys were replaced.
pub const MAX_CHAIN: usize = 8;

/// Hex digits of a key's id.
const KEY_ID_CHARS: usize = 40;

/// A revocation with the delegations that prove it.
#[derive(Clone, Debug, PartialEq)]
pub struct Proven {
    /// As it was signed.
    pub revocation: Envelope,
    /// From the root's own delegation down to that of the unit that revokes.
    pub chain: Vec<Envelope>,
    /// The grant by which the revoked unit came under the one that revokes, if it has moved there.
    pub place: Option<Envelope>,
}

impl Proven {
    /// As it travels and is stored.
    pub fn to_proto(&self) -> pb::ProvenRevocation {
        pb::ProvenRevocation {
            revocation: Some(self.revocation.clone()),
            chain: self.chain.clone(),
            place: self.place.clone(),
        }
    }

    /// Reads what travelled.
    ///
    /// # Errors
    ///
    /// [`Malformed`] at `revocation` or `chain`.
    pub fn from_proto(message: pb::ProvenRevocation) -> Result<Self, Malformed> {
        let revocation =
            message.revocation.ok_or_else(|| Malformed::new("revocation", "is missing"))?;
        if message.chain.is_empty() || message.chain.len() > MAX_CHAIN {
            let reason = format_args!("must hold 1 to {MAX_CHAIN} delegations");
            return Err(Malformed::new("chain", reason));
        }
        Ok(Self { revocation, chain: message.chain, place: message.place })
    }

    /// As it is stored.
    pub fn encode(&self) -> Vec<u8> {
        self.to_proto().encode_to_vec()
    }

    /// Reads what was stored.
    ///
    /// # Errors
    ///
    /// [`Malformed`] as [`Proven::from_proto`], or for the whole.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let message = pb::ProvenRevocation::decode(bytes)
            .map_err(|error| Malformed::new("", format_args!("is no revocation: {error}")))?;
        Self::from_proto(message)
    }
}

/// Serialises a revocation.
pub fn encode_body(revocation: &Revocation) -> Vec<u8> {
    let message = pb::Revocation {
        trust_domain: revocation.trust_domain.clone(),
        unit: revocation.unit.to_string(),
        desk: revocation.desk.as_ref().map(ToString::to_string).unwrap_or_default(),
        key_ids: revocation.key_ids.clone(),
        serial: revocation.serial,
        compromised_since_unix_ms: revocation.compromised_since_unix_ms.unwrap_or_default(),
        reason: reason_to_proto(revocation.reason).into(),
        text: revocation.text.clone(),
    };
    message.encode_to_vec()
}

/// Reads the body of a verified revocation.
///
/// # Errors
///
/// [`Malformed`] names the first field that is missing, out of bounds or of unknown meaning.
pub fn decode_body(body: &[u8]) -> Result<Revocation, Malformed> {
    let message = pb::Revocation::decode(body)
        .map_err(|error| Malformed::new("body", format_args!("is no revocation: {error}")))?;
    check_trust_domain("body.trust_domain", &message.trust_domain)?;
    let desk = match message.desk.as_str() {
        "" => None,
        desk => Some(desk.parse().map_err(|error| Malformed::new("body.desk", error))?),
    };
    if message.key_ids.is_empty() || message.key_ids.len() > MAX_KEYS {
        return Err(Malformed::new("body.key_ids", format_args!("must hold 1 to {MAX_KEYS}")));
    }
    let is_id = |id: &String| {
        id.len() == KEY_ID_CHARS && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    if let Some(index) = message.key_ids.iter().position(|id| !is_id(id)) {
        let field = format!("body.key_ids.{index}");
        return Err(Malformed::new(field, "is no id of a key: 40 lower-case hex digits"));
    }
    if message.compromised_since_unix_ms < 0 {
        return Err(Malformed::new("body.compromised_since_unix_ms", "is before 1970"));
    }
    Ok(Revocation {
        trust_domain: message.trust_domain,
        unit: unit_at("body.unit", &message.unit)?,
        desk,
        key_ids: message.key_ids,
        serial: message.serial,
        compromised_since_unix_ms: Some(message.compromised_since_unix_ms).filter(|at| *at != 0),
        reason: reason_from_proto(message.reason)
            .ok_or_else(|| Malformed::new("body.reason", "is unknown to this program"))?,
        text: text("body.text", message.text)?,
    })
}

/// Reason as it travels.
pub fn reason_to_proto(reason: Reason) -> pb::RevocationReason {
    match reason {
        Reason::KeyStolen => pb::RevocationReason::KeyStolen,
        Reason::KeyLost => pb::RevocationReason::KeyLost,
        Reason::Misuse => pb::RevocationReason::Misuse,
        Reason::Closed => pb::RevocationReason::Closed,
    }
}

/// Reason that travelled; `None` if it is unset or unknown.
pub fn reason_from_proto(reason: i32) -> Option<Reason> {
    match pb::RevocationReason::try_from(reason).ok()? {
        pb::RevocationReason::Unspecified => None,
        pb::RevocationReason::KeyStolen => Some(Reason::KeyStolen),
        pb::RevocationReason::KeyLost => Some(Reason::KeyLost),
        pb::RevocationReason::Misuse => Some(Reason::Misuse),
        pb::RevocationReason::Closed => Some(Reason::Closed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revocation() -> Revocation {
        Revocation {
            trust_domain: "boston.example".to_owned(),
            unit: "BOS-01".parse().unwrap(),
            desk: Some("FIRE".parse().unwrap()),
            key_ids: vec!["0123456789abcdef0123456789abcdef01234567".to_owned()],
            serial: 7,
            compromised_since_unix_ms: Some(1_000),
            reason: Reason::KeyStolen,
            text: "被盗".to_owned(),
        }
    }

    fn fault(change: impl FnOnce(&mut pb::Revocation)) -> String {
        let mut message = pb::Revocation::decode(encode_body(&revocation()).as_slice()).unwrap();
        change(&mut message);
        decode_body(&message.encode_to_vec()).unwrap_err().field
    }

    #[test]
    fn a_revocation_comes_back_as_it_was_made() {
        assert_eq!(decode_body(&encode_body(&revocation())).unwrap(), revocation());
        for reason in Reason::ALL {
            assert_eq!(reason_from_proto(reason_to_proto(reason).into()), Some(reason));
        }
    }

    #[test]
    fn each_field_out_of_bounds_is_named() {
        assert_eq!(fault(|message| message.trust_domain.clear()), "body.trust_domain");
        assert_eq!(fault(|message| message.unit.clear()), "body.unit");
        assert_eq!(fault(|message| message.desk = "a b".to_owned()), "body.desk");
        assert_eq!(fault(|message| message.key_ids.clear()), "body.key_ids");
        assert_eq!(
            fault(|message| message.key_ids = vec![message.key_ids[0].clone(); 65]),
            "body.key_ids"
        );
        assert_eq!(fault(|message| message.key_ids[0].make_ascii_uppercase()), "body.key_ids.0");
        assert_eq!(
            fault(|message| message.compromised_since_unix_ms = -1),
            "body.compromised_since_unix_ms"
        );
        assert_eq!(fault(|message| message.reason = 0), "body.reason");
        assert_eq!(fault(|message| message.reason = 99), "body.reason");
        assert_eq!(fault(|message| message.text = "x".repeat(201)), "body.text");
        assert_eq!(decode_body(b"\xff").unwrap_err().field, "body");
    }

    #[test]
    fn a_proof_needs_a_revocation_and_a_chain() {
        let whole = pb::ProvenRevocation {
            revocation: Some(Envelope::default()),
            chain: vec![Envelope::default()],
            place: None,
        };
        let fault = |change: fn(&mut pb::ProvenRevocation)| {
            let mut message = whole.clone();
            change(&mut message);
            Proven::from_proto(message).unwrap_err().field
        };
        assert_eq!(fault(|message| message.revocation = None), "revocation");
        assert_eq!(fault(|message| message.chain.clear()), "chain");
        assert_eq!(fault(|message| message.chain = vec![Envelope::default(); 9]), "chain");
        assert_eq!(Proven::from_proto(whole.clone()).unwrap().to_proto(), whole);
    }
}
