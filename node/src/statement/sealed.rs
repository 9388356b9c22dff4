//! Sealed bodies, the keys that open them, and body of `lianxi.key-grant.v1`.
//!
//! Maps bytes alone; opens and judges nothing.

use lianxi_proto::types::v1 as pb;
use prost::Message;

use super::{
    Envelope,
    delegation::{level_from_proto, level_to_proto},
    header::{Malformed, StatementId},
    notice::{stage_from_proto, stage_to_proto},
};
use crate::{
    clock::UnixMillis,
    domain::{
        notice::Stage,
        unit::{DeskId, Level},
    },
};

/// Most readers that a statement names itself; more get its key by grants.
pub const MAX_RECIPIENTS: usize = 64;

/// Most readers of one grant, or of one file.
pub const MAX_GRANTED: usize = 128;

/// Bytes of a nonce of AES-GCM.
pub const NONCE_BYTES: usize = 12;

/// Bytes of a tag of AES-GCM.
pub const TAG_BYTES: usize = 16;

const KEY_ID_CHARS: usize = 40;

/// A content key for one reader.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SealedKey {
    /// The reader's agreement key.
    pub key_id: String,
    /// `enc` of RFC 9180.
    pub encapsulated: [u8; 32],
    /// The content key and its tag.
    pub sealed_key: [u8; 48],
}

/// A body that only its readers can read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SealedBody {
    /// Readers that the source sealed the key to at once.
    pub recipients: Vec<SealedKey>,
    /// Nonce.
    pub nonce: [u8; NONCE_BYTES],
    /// The body and its tag.
    pub ciphertext: Vec<u8>,
}

/// A content key that a reader gives to others.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyGrant {
    /// Statement whose body may be read.
    pub statement_id: StatementId,
    /// The key for each of them.
    pub recipients: Vec<SealedKey>,
    /// The statement, for a unit that did not get it.
    pub statement: Option<Envelope>,
    /// Desk that is called to a case by this grant.
    pub desk: Option<DeskId>,
    /// Desk in whose place it acts from here on.
    pub succeeds: Option<DeskId>,
}

/// What units that pass a sealed statement on need to know of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outline {
    /// Of a notice.
    Notice {
        /// Level of the units that have to act.
        level: Level,
        /// When it has to be done.
        due_unix_ms: UnixMillis,
    },
    /// Of a receipt.
    Receipt {
        /// The stage.
        stage: Stage,
        /// Rule that refused the notice, or empty.
        reason: String,
    },
}

/// Outline as it travels.
pub fn outline_to_proto(outline: &Outline) -> pb::Outline {
    let of = match outline {
        Outline::Notice { level, due_unix_ms } => pb::outline::Of::Notice(pb::NoticeOutline {
            level: level_to_proto(*level).into(),
            due_unix_ms: *due_unix_ms,
        }),
        Outline::Receipt { stage, reason } => pb::outline::Of::Receipt(pb::ReceiptOutline {
            stage: stage_to_proto(*stage).into(),
            reason: reason.clone(),
        }),
    };
    pb::Outline { of: Some(of) }
}

/// Outline that travelled.
///
/// # Errors
///
/// [`Malformed`] with the field.
pub fn outline_from_proto(outline: pb::Outline) -> Result<Outline, Malformed> {
    match outline.of {
        None => Err(Malformed::new("header.outline", "is of no kind known to this program")),
        Some(pb::outline::Of::Notice(notice)) => {
            let field = "header.outline.notice.level";
            let level = level_from_proto(notice.level)
                .ok_or_else(|| Malformed::new(field, "is none of the four levels"))?;
            Ok(Outline::Notice { level, due_unix_ms: notice.due_unix_ms })
        }
        Some(pb::outline::Of::Receipt(receipt)) => {
            let field = "header.outline.receipt.stage";
            let stage = stage_from_proto(receipt.stage())
                .ok_or_else(|| Malformed::new(field, "is no stage of a receipt"))?;
            if receipt.reason.len() > 64 {
                let field = "header.outline.receipt.reason";
                return Err(Malformed::new(field, "has at most 64 bytes"));
            }
            Ok(Outline::Receipt { stage, reason: receipt.reason })
        }
    }
}

fn keys_to_proto(keys: &[SealedKey]) -> Vec<pb::SealedKey> {
    keys.iter()
        .map(|key| pb::SealedKey {
            key_id: key.key_id.clone(),
            encapsulated: key.encapsulated.to_vec(),
            sealed_key: key.sealed_key.to_vec(),
        })
        .collect()
}

fn keys_from_proto(keys: Vec<pb::SealedKey>, most: usize) -> Result<Vec<SealedKey>, Malformed> {
    if keys.len() > most {
        let reason = format_args!("{} readers are over the limit of {most}", keys.len());
        return Err(Malformed::new("body.recipients", reason));
    }
    let read = |(index, key): (usize, pb::SealedKey)| {
        let at = |name: &str| format!("body.recipients.{index}.{name}");
        if key.key_id.len() != KEY_ID_CHARS {
            return Err(Malformed::new(at("key_id"), "has 40 characters"));
        }
        Ok(SealedKey {
            key_id: key.key_id,
            encapsulated: fixed(&at("encapsulated"), &key.encapsulated)?,
            sealed_key: fixed(&at("sealed_key"), &key.sealed_key)?,
        })
    };
    keys.into_iter().enumerate().map(read).collect()
}

fn fixed<const N: usize>(field: &str, bytes: &[u8]) -> Result<[u8; N], Malformed> {
    bytes.try_into().map_err(|_| Malformed::new(field, format_args!("has {N} bytes")))
}

/// Serialises a sealed body.
pub fn encode_body(body: &SealedBody) -> Vec<u8> {
    pb::SealedBody {
        recipients: keys_to_proto(&body.recipients),
        nonce: body.nonce.to_vec(),
        ciphertext: body.ciphertext.clone(),
    }
    .encode_to_vec()
}

/// Parses a sealed body.
///
/// # Errors
///
/// [`Malformed`] with the field.
pub fn decode_body(bytes: &[u8]) -> Result<SealedBody, Malformed> {
    let body = pb::SealedBody::decode(bytes).map_err(|error| Malformed::new("body", error))?;
    if body.ciphertext.len() < TAG_BYTES {
        return Err(Malformed::new("body.ciphertext", "is shorter than its tag"));
    }
    Ok(SealedBody {
        recipients: keys_from_proto(body.recipients, MAX_RECIPIENTS)?,
        nonce: fixed("body.nonce", &body.nonce)?,
        ciphertext: body.ciphertext,
    })
}

/// Serialises a sealed key, for storing.
pub fn encode_key(key: &SealedKey) -> Vec<u8> {
    let key = keys_to_proto(std::slice::from_ref(key)).remove(0);
    key.encode_to_vec()
}

/// Parses a stored sealed key.
///
/// # Errors
///
/// [`Malformed`] with the field.
pub fn decode_key(bytes: &[u8]) -> Result<SealedKey, Malformed> {
    let key = pb::SealedKey::decode(bytes).map_err(|error| Malformed::new("key", error))?;
    Ok(keys_from_proto(vec![key], 1)?.remove(0))
}

/// Serialises a grant.
pub fn encode_grant(grant: &KeyGrant) -> Vec<u8> {
    pb::KeyGrant {
        statement_id: grant.statement_id.as_bytes().to_vec(),
        recipients: keys_to_proto(&grant.recipients),
        statement: grant.statement.clone(),
        desk: grant.desk.as_ref().map(ToString::to_string).unwrap_or_default(),
        succeeds: grant.succeeds.as_ref().map(ToString::to_string).unwrap_or_default(),
    }
    .encode_to_vec()
}

/// Parses a grant. The statement inside is as unverified as it came.
///
/// # Errors
///
/// [`Malformed`] with the field.
pub fn decode_grant(bytes: &[u8]) -> Result<KeyGrant, Malformed> {
    let body = pb::KeyGrant::decode(bytes).map_err(|error| Malformed::new("body", error))?;
    let statement_id = StatementId::try_from(body.statement_id.as_slice())
        .map_err(|error| Malformed::new("body.statement_id", error.reason))?;
    if body.recipients.is_empty() {
        return Err(Malformed::new("body.recipients", "is missing"));
    }
    let desk = desk_at("body.desk", &body.desk)?;
    let succeeds = desk_at("body.succeeds", &body.succeeds)?;
    if succeeds.is_some() && (desk.is_none() || desk == succeeds) {
        return Err(Malformed::new("body.succeeds", "needs another desk that is called"));
    }
    Ok(KeyGrant {
        statement_id,
        recipients: keys_from_proto(body.recipients, MAX_GRANTED)?,
        statement: body.statement,
        desk,
        succeeds,
    })
}

fn desk_at(field: &'static str, text: &str) -> Result<Option<DeskId>, Malformed> {
    match text {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|error| Malformed::new(field, error)),
    }
}

/// Who can open a file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FileHead {
    /// Commitment to the content key.
    pub key_commitment: [u8; 32],
    /// The key for each reader.
    pub recipients: Vec<SealedKey>,
}

/// Serialises the head of a file.
pub fn encode_file_head(head: &FileHead) -> Vec<u8> {
    pb::SealedFileHead {
        key_commitment: head.key_commitment.to_vec(),
        recipients: keys_to_proto(&head.recipients),
    }
    .encode_to_vec()
}

/// Parses the head of a file.
///
/// # Errors
///
/// [`Malformed`] with the field.
pub fn decode_file_head(bytes: &[u8]) -> Result<FileHead, Malformed> {
    let head = pb::SealedFileHead::decode(bytes).map_err(|error| Malformed::new("head", error))?;
    Ok(FileHead {
        key_commitment: fixed("head.key_commitment", &head.key_commitment)?,
        recipients: keys_from_proto(head.recipients, MAX_GRANTED)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> SealedKey {
        SealedKey { key_id: "ab".repeat(20), encapsulated: [byte; 32], sealed_key: [byte; 48] }
    }

    fn body(recipients: usize) -> SealedBody {
        let recipients = vec![key(1); recipients];
        SealedBody { recipients, nonce: [2; NONCE_BYTES], ciphertext: vec![3; 40] }
    }

    fn altered(change: impl FnOnce(&mut pb::SealedBody)) -> String {
        let mut sealed = pb::SealedBody::decode(encode_body(&body(2)).as_slice()).unwrap();
        change(&mut sealed);
        decode_body(&sealed.encode_to_vec()).unwrap_err().field
    }

    #[test]
    fn bodies_keys_and_grants_come_back_as_they_were_made() {
        assert_eq!(decode_body(&encode_body(&body(2))).unwrap(), body(2));
        assert_eq!(decode_key(&encode_key(&key(9))).unwrap(), key(9));
        let grant = KeyGrant {
            statement_id: StatementId::generate(1),
            recipients: vec![key(1), key(2)],
            statement: Some(Envelope { payload_type: "a".into(), ..Envelope::default() }),
            desk: Some("GAS".parse().unwrap()),
            succeeds: Some("FIRE".parse().unwrap()),
        };
        assert_eq!(decode_grant(&encode_grant(&grant)).unwrap(), grant);
    }

    #[test]
    fn what_is_cut_or_too_much_is_refused_by_name() {
        assert_eq!(altered(|body| body.nonce.truncate(11)), "body.nonce");
        assert_eq!(altered(|body| body.ciphertext.truncate(15)), "body.ciphertext");
        assert_eq!(altered(|body| body.recipients[1].key_id.clear()), "body.recipients.1.key_id");
        let cut = |body: &mut pb::SealedBody| body.recipients[0].encapsulated.truncate(31);
        assert_eq!(altered(cut), "body.recipients.0.encapsulated");
        let cut = |body: &mut pb::SealedBody| body.recipients[0].sealed_key.truncate(47);
        assert_eq!(altered(cut), "body.recipients.0.sealed_key");
        decode_body(&encode_body(&body(MAX_RECIPIENTS))).unwrap();
        let over = decode_body(&encode_body(&body(MAX_RECIPIENTS + 1))).unwrap_err();
        assert_eq!(over.field, "body.recipients");
    }

    #[test]
    fn a_grant_names_a_statement_and_readers() {
        let none = pb::KeyGrant { statement_id: vec![0; 3], ..pb::KeyGrant::default() };
        assert_eq!(decode_grant(&none.encode_to_vec()).unwrap_err().field, "body.statement_id");
        let id = StatementId::generate(1).as_bytes().to_vec();
        let none = pb::KeyGrant { statement_id: id, ..pb::KeyGrant::default() };
        assert_eq!(decode_grant(&none.encode_to_vec()).unwrap_err().field, "body.recipients");
    }
}
