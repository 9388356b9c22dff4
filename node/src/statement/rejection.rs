//! Body of `lianxi.rejection.v1`.

use lianxi_proto::types::v1 as pb;
use prost::Message;

use super::header::Malformed;

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
