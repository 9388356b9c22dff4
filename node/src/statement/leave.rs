//! Body of `lianxi.leave.v1`.

use lianxi_proto::types::v1 as pb;
use prost::Message;

use super::{delegation::text, header::Malformed};
use crate::domain::unit::UnitCode;

/// A unit leaves the tree.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Leave {
    /// Trust domain of the city.
    pub trust_domain: String,
    /// The unit.
    pub unit: UnitCode,
    /// For people.
    pub text: String,
}

/// Serialises the body.
pub fn encode_body(leave: &Leave) -> Vec<u8> {
    pb::Leave {
        trust_domain: leave.trust_domain.clone(),
        unit: leave.unit.to_string(),
        text: leave.text.clone(),
    }
    .encode_to_vec()
}

/// Parses the body.
///
/// # Errors
///
/// [`Malformed`] with the field.
pub fn decode_body(bytes: &[u8]) -> Result<Leave, Malformed> {
    let body = pb::Leave::decode(bytes).map_err(|error| Malformed::new("body", error))?;
    Ok(Leave {
        trust_domain: body.trust_domain,
        unit: body.unit.parse().map_err(|error| Malformed::new("body.unit", error))?,
        text: text("body.text", body.text)?,
    })
}
