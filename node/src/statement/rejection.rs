//! Body of `lianxi.rejection.v1`.

use lianxi_proto::types::v1 as pb;
use prost::Message;

use super::{Envelope, SaltedCell, header::Malformed, journal::Evidence};

/// Reason words about a statement that was refused before.
pub mod later {
    /// It was judged again and taken in.
    pub const WITHDRAWN: &str = "withdrawn";
    /// A corrected one is asked for.
    pub const CORRECT: &str = "correct";
    /// It will not be taken in.
    pub const DISCARDED: &str = "discarded";
}

/// A refused statement with what came beside it.
#[derive(Clone, Debug, PartialEq)]
pub struct Refused {
    /// As it was signed.
    pub envelope: Envelope,
    /// Its cells.
    pub cells: Vec<SaltedCell>,
    /// That it was there before.
    pub evidence: Option<Evidence>,
}

/// Serialises what is kept of a refused statement.
pub fn encode_refused(refused: &Refused) -> Vec<u8> {
    pb::RefusedDelivery {
        envelope: Some(refused.envelope.clone()),
        cells: refused.cells.clone(),
        evidence: refused.evidence.as_ref().map(Evidence::to_message),
    }
    .encode_to_vec()
}

/// Parses what is kept of a refused statement.
///
/// # Errors
///
/// [`Malformed`] with the field.
pub fn decode_refused(bytes: &[u8]) -> Result<Refused, Malformed> {
    let kept = pb::RefusedDelivery::decode(bytes);
    let kept = kept.map_err(|error| Malformed::new("refused", error))?;
    let envelope = kept.envelope.ok_or_else(|| Malformed::new("refused.envelope", "is missing"))?;
    let evidence = kept.evidence.map(Evidence::of_message).transpose()?;
    Ok(Refused { envelope, cells: kept.cells, evidence })
}

/// Why a statement was quarantined.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rejection {
    /// Digest of the refused payload.
    pub payload_sha256: [u8; 32],
    /// Header id, if it could be read.
    pub statement_id: Option<[u8; 16]>,
    /// Fixed word of the contract.
    pub reason: String,
    /// Dotted path of the field at fault, or empty.
    pub field: String,
    /// One sentence for the operator.
    pub detail: String,
}

/// Serialises the body.
pub fn encode_body(rejection: &Rejection) -> Vec<u8> {
    pb::Rejection {
        payload_sha256: rejection.payload_sha256.to_vec(),
        statement_id: rejection.statement_id.map(Vec::from).unwrap_or_default(),
        reason: rejection.reason.clone(),
        field: rejection.field.clone(),
        detail: rejection.detail.clone(),
    }
    .encode_to_vec()
}

/// Parses the body. Texts are cut to what an operator can read.
///
/// # Errors
///
/// [`Malformed`] with the field.
pub fn decode_body(bytes: &[u8]) -> Result<Rejection, Malformed> {
    let body = pb::Rejection::decode(bytes).map_err(|error| Malformed::new("body", error))?;
    let payload_sha256 = body
        .payload_sha256
        .as_slice()
        .try_into()
        .map_err(|_| Malformed::new("body.payload_sha256", "has 32 bytes"))?;
    let statement_id = match body.statement_id.as_slice() {
        [] => None,
        bytes => Some(
            bytes.try_into().map_err(|_| Malformed::new("body.statement_id", "has 16 bytes"))?,
        ),
    };
    Ok(Rejection {
        payload_sha256,
        statement_id,
        reason: cut(body.reason, 64),
        field: cut(body.field, 256),
        detail: cut(body.detail, 1_024),
    })
}

fn cut(text: String, limit: usize) -> String {
    if text.len() <= limit { text } else { text.chars().take(limit / 4).collect() }
}
