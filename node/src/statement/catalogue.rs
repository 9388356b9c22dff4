//! Body of `lianxi.catalogue.v1`.

use lianxi_proto::types::v1 as pb;
use prost::Message;

use super::header::Malformed;

/// A catalogue on its way: its document is parsed by the domain.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CatalogueBody {
    /// Name.
    pub name: String,
    /// Version, from 1.
    pub version: u64,
    /// UTF-8 JSON.
    pub document: Vec<u8>,
    /// When it takes effect; 0: at once.
    pub active_from_unix_ms: i64,
}

/// Serialises the body.
pub fn encode_body(body: &CatalogueBody) -> Vec<u8> {
    pb::Catalogue {
        name: body.name.clone(),
        version: body.version,
        document: body.document.clone(),
        active_from_unix_ms: body.active_from_unix_ms,
    }
    .encode_to_vec()
}

/// Parses the body.
///
/// # Errors
///
/// [`Malformed`] with the field.
pub fn decode_body(bytes: &[u8]) -> Result<CatalogueBody, Malformed> {
    let body = pb::Catalogue::decode(bytes).map_err(|error| Malformed::new("body", error))?;
    if body.name.is_empty() {
        return Err(Malformed::new("body.name", "is missing"));
    }
    if body.version == 0 {
        return Err(Malformed::new("body.version", "begins at 1"));
    }
    Ok(CatalogueBody {
        name: body.name,
        version: body.version,
        document: body.document,
        active_from_unix_ms: body.active_from_unix_ms,
    })
}
