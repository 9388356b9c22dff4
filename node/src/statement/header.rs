//! Payload bytes of a statement: a header that every statement has, and the bytes of its body.
//!
//! Promises that what was decoded is complete and within bounds: a required field that is missing,
//! too long or of unknown meaning is refused by name. Must only be given bytes whose signature was
//! verified, and decides nothing about who may say what.

use std::{fmt, str::FromStr};

use bytes::Bytes;
use lianxi_proto::types::v1 as pb;
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use super::sealed::{self, Outline};
use crate::{clock::UnixMillis, domain::unit::UnitCode};

/// Names of the statement types.
pub mod kinds {
    /// Who may speak for a unit or desk.
    pub const DELEGATION: &str = "lianxi.delegation.v1";
    /// A catalogue on its way down.
    pub const CATALOGUE: &str = "lianxi.catalogue.v1";
    /// Figures of one period.
    pub const SUMMARY: &str = "lianxi.summary.v1";
    /// A task on its way down.
    pub const NOTICE: &str = "lianxi.notice.v1";
    /// A stage of a notice on its way up.
    pub const RECEIPT: &str = "lianxi.receipt.v1";
    /// A whistle.
    pub const ESCALATION: &str = "lianxi.escalation.v1";
    /// A step of a whistle.
    pub const ESCALATION_EVENT: &str = "lianxi.escalation-event.v1";
    /// Why a statement was quarantined.
    pub const REJECTION: &str = "lianxi.rejection.v1";
    /// A unit leaves the tree.
    pub const LEAVE: &str = "lianxi.leave.v1";
    /// A unit comes under another parent on a day.
    pub const REFORM: &str = "lianxi.reform.v1";
    /// What the units that a reform concerns tell each other.
    pub const REFORM_STEP: &str = "lianxi.reform-step.v1";
    /// A journal that does not go on from what was seen of it.
    pub const ALARM: &str = "lianxi.alarm.v1";
    /// The numbers of a unit begin anew.
    pub const EPOCH: &str = "lianxi.epoch.v1";
    /// A content key for readers of a statement.
    pub const KEY_GRANT: &str = "lianxi.key-grant.v1";
    /// The exporter's seal of a pack; never travels on a link.
    pub const PACK: &str = "lianxi.pack.v1";
    /// What a courier file holds; never travels on a link.
    pub const COURIER: &str = "lianxi.courier.v1";
    /// A grant or a key ends before its time.
    pub const REVOCATION: &str = "lianxi.revocation.v1";
}

/// Why bytes are no statement, body or request: the field at fault and what is wrong with it.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct Malformed {
    /// Dotted path, e.g. `body.keys.0.suite`; empty: the whole.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

impl Malformed {
    /// Names the field and what is wrong with it.
    pub fn new(field: impl Into<String>, reason: impl fmt::Display) -> Self {
        Self { field: field.into(), reason: reason.to_string() }
    }
}

/// Id of a statement: a UUID of version 7 (RFC 9562 §5.7).
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct StatementId([u8; 16]);

impl StatementId {
    /// Draws an id that begins with the time `now_unix_ms`.
    pub fn generate(now_unix_ms: UnixMillis) -> Self {
        let mut random = [0; 10];
        crate::random::fill(&mut random)
            .expect("invariant: the operating system gives random bytes");
        let millis = u64::try_from(now_unix_ms).unwrap_or_default();
        Self(*uuid::Builder::from_unix_timestamp_millis(millis, &random).as_uuid().as_bytes())
    }

    /// The 16 bytes that travel.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl TryFrom<&[u8]> for StatementId {
    type Error = Malformed;

    fn try_from(bytes: &[u8]) -> Result<Self, Malformed> {
        let id = uuid::Uuid::from_slice(bytes)
            .map_err(|_| Malformed::new("header.id", "an id has 16 bytes"))?;
        if id.get_version_num() != 7 || id.get_variant() != uuid::Variant::RFC4122 {
            return Err(Malformed::new("header.id", "an id is a UUID of version 7"));
        }
        Ok(Self(*id.as_bytes()))
    }
}

impl FromStr for StatementId {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let id = uuid::Uuid::try_parse(text)
            .map_err(|_| Malformed::new("header.id", "an id is written as a UUID"))?;
        Self::try_from(id.as_bytes().as_slice())
    }
}

impl fmt::Display for StatementId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        uuid::Uuid::from_bytes(self.0).fmt(formatter)
    }
}

impl fmt::Debug for StatementId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// Who may read a statement.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Classification {
    /// May be published.
    Public,
    /// For the units of the tree.
    Internal,
}

/// What every statement says of itself; see `proto/lianxi/types/v1/statement.proto`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Header {
    /// With `source` it identifies the statement for ever.
    pub id: StatementId,
    /// Unit that makes the statement.
    pub source: UnitCode,
    /// Type, one of [`kinds`].
    pub kind: String,
    /// What the statement is about; empty: the source itself.
    pub subject: String,
    /// The source's clock.
    pub time_unix_ms: UnixMillis,
    /// Catalogue that the body was made under, `name@version`; empty: none.
    pub dataschema: String,
    /// The source's epoch.
    pub epoch: u64,
    /// The source's count in this epoch.
    pub seq: u64,
    /// Why the receiver may use the body; empty: not stated.
    pub purpose: String,
    /// Who may read it.
    pub classification: Classification,
    /// True for an exercise.
    pub exercise: bool,
    /// Unit or subtree that it is for; `None`: the next hop.
    pub destination: Option<UnitCode>,
    /// W3C trace context; empty: not traced.
    pub traceparent: String,
    /// Unit that it is made for by its parent (代报); `None`: the source speaks for itself.
    pub on_behalf_of: Option<UnitCode>,
    /// How the body is sealed; `None`: it is in the clear.
    pub sealing: Option<Sealing>,
    /// Order by which the source has the item that it speaks of; empty: none.
    pub handed_by: Bytes,
}

/// What the header of a sealed body says of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Sealing {
    /// Commitment to the content key.
    pub key_commitment: [u8; 32],
    /// What those who pass it on have to know.
    pub outline: Option<Outline>,
}

/// A header with the bytes of its body.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Statement {
    /// The header.
    pub header: Header,
    /// The serialised message that the header's type names, or a sealed body around it.
    pub body: Bytes,
    /// SHA-256 of the header's bytes as they were signed: what sealed keys are bound to.
    pub header_sha256: [u8; 32],
}

/// Longest text of a header field.
const MAX_TEXT_BYTES: usize = 256;

/// Serialises a statement, to be signed as it is and never serialised again.
pub fn encode(header: &Header, body: &[u8]) -> Vec<u8> {
    pb::Statement { header: Some(to_proto(header)), body: body.to_vec() }.encode_to_vec()
}

/// SHA-256 of the bytes that [`encode`] writes for the header.
pub fn header_sha256(header: &Header) -> [u8; 32] {
    Sha256::digest(to_proto(header).encode_to_vec()).into()
}

fn to_proto(header: &Header) -> pb::Header {
    let text = |unit: &Option<UnitCode>| unit.as_ref().map(ToString::to_string).unwrap_or_default();
    let classification = match header.classification {
        Classification::Public => pb::Classification::Public,
        Classification::Internal => pb::Classification::Internal,
    };
    let sealing = header.sealing.as_ref();
    pb::Header {
        id: header.id.0.to_vec(),
        source: header.source.to_string(),
        r#type: header.kind.clone(),
        subject: header.subject.clone(),
        time_unix_ms: header.time_unix_ms,
        dataschema: header.dataschema.clone(),
        epoch: header.epoch,
        seq: header.seq,
        purpose: header.purpose.clone(),
        classification: classification.into(),
        exercise: header.exercise,
        destination: text(&header.destination),
        traceparent: header.traceparent.clone(),
        on_behalf_of: text(&header.on_behalf_of),
        key_commitment: sealing.map(|one| one.key_commitment.to_vec()).unwrap_or_default(),
        outline: sealing.and_then(|one| one.outline.as_ref()).map(sealed::outline_to_proto),
        handed_by: header.handed_by.to_vec(),
    }
}

/// Reads the payload of a verified envelope.
///
/// # Errors
///
/// [`Malformed`] names the first field that is missing, out of bounds or of unknown meaning.
pub fn decode(payload: &[u8]) -> Result<Statement, Malformed> {
    let statement = pb::Statement::decode(payload)
        .map_err(|error| Malformed::new("", format_args!("payload is no statement: {error}")))?;
    let header = statement.header.ok_or_else(|| Malformed::new("header", "is missing"))?;
    let bytes = pb::StatementBytes::decode(payload)
        .map_err(|error| Malformed::new("", format_args!("payload is no statement: {error}")))?;
    Ok(Statement {
        header: read_header(header)?,
        body: statement.body.into(),
        header_sha256: Sha256::digest(&bytes.header).into(),
    })
}

fn read_header(header: pb::Header) -> Result<Header, Malformed> {
    let classification = match pb::Classification::try_from(header.classification) {
        Ok(pb::Classification::Public) => Classification::Public,
        Ok(pb::Classification::Internal) => Classification::Internal,
        Ok(pb::Classification::Unspecified) | Err(_) => {
            return Err(Malformed::new("header.classification", "must be PUBLIC or INTERNAL"));
        }
    };
    if header.time_unix_ms <= 0 {
        return Err(Malformed::new("header.time_unix_ms", "is missing"));
    }
    if header.r#type.is_empty() {
        return Err(Malformed::new("header.type", "is missing"));
    }
    Ok(Header {
        id: header.id.as_slice().try_into()?,
        source: unit_at("header.source", &header.source)?,
        kind: bounded("header.type", header.r#type)?,
        subject: bounded("header.subject", header.subject)?,
        time_unix_ms: header.time_unix_ms,
        dataschema: bounded("header.dataschema", header.dataschema)?,
        epoch: header.epoch,
        seq: header.seq,
        purpose: bounded("header.purpose", header.purpose)?,
        classification,
        exercise: header.exercise,
        destination: optional_unit_at("header.destination", &header.destination)?,
        traceparent: bounded("header.traceparent", header.traceparent)?,
        on_behalf_of: optional_unit_at("header.on_behalf_of", &header.on_behalf_of)?,
        sealing: read_sealing(&header.key_commitment, header.outline)?,
        handed_by: read_handed_by(header.handed_by)?,
    })
}

fn read_handed_by(order: Vec<u8>) -> Result<Bytes, Malformed> {
    if order.len() > super::delegation::MAX_ORDER_BYTES {
        return Err(Malformed::new("header.handed_by", "is too long for an order"));
    }
    Ok(order.into())
}

fn read_sealing(
    key_commitment: &[u8],
    outline: Option<pb::Outline>,
) -> Result<Option<Sealing>, Malformed> {
    if key_commitment.is_empty() {
        return match outline {
            None => Ok(None),
            Some(_) => Err(Malformed::new("header.outline", "stands beside a body in the clear")),
        };
    }
    let key_commitment = key_commitment
        .try_into()
        .map_err(|_| Malformed::new("header.key_commitment", "has 32 bytes"))?;
    let outline = outline.map(sealed::outline_from_proto).transpose()?;
    Ok(Some(Sealing { key_commitment, outline }))
}

/// Reads a unit's code, naming the field if it is none.
///
/// # Errors
///
/// [`Malformed`] at `field`.
pub fn unit_at(field: &str, text: &str) -> Result<UnitCode, Malformed> {
    text.parse().map_err(|error| Malformed::new(field, error))
}

/// Reads a unit's code; empty is `None`.
///
/// # Errors
///
/// [`Malformed`] at `field`.
pub fn optional_unit_at(field: &str, text: &str) -> Result<Option<UnitCode>, Malformed> {
    if text.is_empty() { Ok(None) } else { unit_at(field, text).map(Some) }
}

fn bounded(field: &str, text: String) -> Result<String, Malformed> {
    if text.len() > MAX_TEXT_BYTES {
        let reason = format_args!("{} bytes are over the limit of {MAX_TEXT_BYTES}", text.len());
        return Err(Malformed::new(field, reason));
    }
    if text.chars().any(char::is_control) {
        return Err(Malformed::new(field, "holds a control character"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::unit::Level;

    fn header() -> Header {
        Header {
            id: StatementId::generate(1_700_000_000_000),
            source: "BOS-01".parse().unwrap(),
            kind: kinds::SUMMARY.to_owned(),
            subject: "2011-07".to_owned(),
            time_unix_ms: 1_700_000_000_000,
            dataschema: "boston-311@1".to_owned(),
            epoch: 2,
            seq: 17,
            purpose: "joint-meeting".to_owned(),
            classification: Classification::Internal,
            exercise: true,
            destination: Some("BOS".parse().unwrap()),
            traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned(),
            on_behalf_of: Some("BOS-01-W03".parse().unwrap()),
            handed_by: Bytes::from_static(b"order"),
            sealing: Some(Sealing {
                key_commitment: [7; 32],
                outline: Some(Outline::Notice { level: Level::Community, due_unix_ms: 9 }),
            }),
        }
    }

    fn altered(change: impl FnOnce(&mut pb::Header)) -> Result<Statement, Malformed> {
        let mut statement = pb::Statement::decode(encode(&header(), b"body").as_slice()).unwrap();
        change(statement.header.as_mut().unwrap());
        decode(&statement.encode_to_vec())
    }

    #[test]
    fn a_statement_comes_back_as_it_was_made() {
        let statement = decode(&encode(&header(), b"body")).unwrap();
        assert_eq!(statement.header.subject, header().subject);
        assert_eq!(statement.body.as_ref(), b"body");
        let again = decode(&encode(&statement.header, &statement.body)).unwrap();
        assert_eq!(again, statement);
        assert_eq!(statement.header, header_with_id(statement.header.id));
    }

    fn header_with_id(id: StatementId) -> Header {
        Header { id, ..header() }
    }

    #[test]
    fn the_digest_of_a_header_is_that_of_its_signed_bytes() {
        let (header, other) = (header(), Header { subject: "2011-08".to_owned(), ..header() });
        let digest = header_sha256(&header);
        assert_eq!(decode(&encode(&header, b"one")).unwrap().header_sha256, digest);
        assert_eq!(decode(&encode(&header, b"two")).unwrap().header_sha256, digest);
        assert_ne!(header_sha256(&Header { id: header.id, ..other }), digest);
    }

    #[test]
    fn each_required_field_is_asked_for_by_name() {
        let field = |change: fn(&mut pb::Header)| altered(change).unwrap_err().field;
        assert_eq!(field(|header| header.id.clear()), "header.id");
        assert_eq!(field(|header| header.source.clear()), "header.source");
        assert_eq!(field(|header| header.r#type.clear()), "header.type");
        assert_eq!(field(|header| header.time_unix_ms = 0), "header.time_unix_ms");
        assert_eq!(field(|header| header.classification = 0), "header.classification");
        assert_eq!(field(|header| header.classification = 9), "header.classification");
        assert_eq!(field(|header| header.destination = "a b".to_owned()), "header.destination");
        assert_eq!(field(|header| header.subject = "x".repeat(257)), "header.subject");
        assert_eq!(field(|header| header.purpose = "a\nb".to_owned()), "header.purpose");
        assert_eq!(field(|header| header.key_commitment.truncate(31)), "header.key_commitment");
        assert_eq!(field(|header| header.key_commitment.clear()), "header.outline");
        let empty = |header: &mut pb::Header| header.outline = Some(pb::Outline::default());
        assert_eq!(altered(empty).unwrap_err().field, "header.outline");
        assert_eq!(decode(&[]).unwrap_err().field, "header");
        assert_eq!(decode(b"\xff\xff\xff").unwrap_err().field, "");
    }

    #[test]
    fn ids_are_uuids_of_version_7_in_the_order_of_time() {
        let (early, late) = (StatementId::generate(1_000), StatementId::generate(2_000));
        assert!(early < late);
        assert_ne!(early, StatementId::generate(1_000));
        assert_eq!(early.to_string().parse::<StatementId>().unwrap(), early);
        assert_eq!(StatementId::try_from(early.as_bytes().as_slice()).unwrap(), early);
        assert!(StatementId::try_from([0; 16].as_slice()).is_err());
        assert!("f47ac10b-58cc-4372-a567-0e02b2c3d479".parse::<StatementId>().is_err());
    }
}
