//! What passes between a host and the machine where its root key is kept: a request to sign the
//! root's own delegation, and the signed delegation. Both are texts that a person carries.
//!
//! Promises that nothing is signed but the root's own delegation, that what is signed is shown from
//! the signed bytes, and that a text that was cut or changed is refused.

use std::str::FromStr;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use lianxi_proto::envelope::Signer;
use prost::Message as _;
use sha2::{Digest, Sha256};

use crate::{
    clock::UnixMillis,
    domain::delegation::Delegation,
    identity::{
        issue,
        trust::{self, Trust},
    },
    statement::{
        Envelope,
        delegation::{decode_body, decode_roots, encode_body, encode_roots},
        header::Malformed,
    },
};

const REQUEST: &str = "lianxi root request 1";
const SIGNED: &str = "lianxi root delegation 1";
const ROOTS: &str = "lianxi roots 1";

/// Longest text that is read.
const MAX_TEXT_BYTES: usize = 64 * 1024;

/// Bytes of SHA-256 at the end of a text.
const CHECKSUM_BYTES: usize = 6;

/// Why a text was not read or nothing was signed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// Another text.
    #[error("this is no `{0}`; give the file that the command before wrote")]
    Other(&'static str),
    /// Changed on the way.
    #[error("the file is damaged: its checksum does not fit; copy it again")]
    Damaged,
    /// Not the root's own delegation.
    #[error(
        "this asks for the delegation of {0} by another unit; a root key signs the root's own alone"
    )]
    NotTheRoots(String),
    /// A field is not what it should be.
    #[error("the request is malformed at {0}")]
    Malformed(#[from] Malformed),
    /// What would be signed would be believed by nobody.
    #[error("the delegation would not hold: {0}")]
    Trust(#[from] trust::Error),
}

/// What a root key is asked to sign.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Request(Delegation);

impl Request {
    /// Asks for the root's own delegation.
    ///
    /// # Errors
    ///
    /// [`Error::NotTheRoots`].
    pub fn new(delegation: Delegation) -> Result<Self, Error> {
        match (&delegation.issuer, &delegation.desk) {
            (None, None) => Ok(Self(delegation)),
            _ => Err(Error::NotTheRoots(delegation.unit.to_string())),
        }
    }

    /// What is asked for.
    pub fn delegation(&self) -> &Delegation {
        &self.0
    }

    /// Signs it, after judging it as every node will.
    ///
    /// # Errors
    ///
    /// [`Error::Trust`].
    pub fn sign(&self, root: &Signer, now: UnixMillis) -> Result<Signed, Error> {
        let envelope = issue::sign(&self.0, root, now);
        let mut trust = Trust::new(self.0.trust_domain.clone(), root.verifying_key());
        trust.add(&envelope, now)?;
        Ok(Signed(envelope))
    }

    /// The text to carry.
    pub fn to_text(&self) -> String {
        armour(REQUEST, &encode_body(&self.0))
    }
}

impl FromStr for Request {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::new(decode_body(&opened(REQUEST, text)?)?)
    }
}

/// The root's own delegation, signed.
#[derive(Clone, Debug, PartialEq)]
pub struct Signed(pub Envelope);

impl Signed {
    /// The text to carry back.
    pub fn to_text(&self) -> String {
        armour(SIGNED, &self.0.encode_to_vec())
    }
}

impl FromStr for Signed {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bytes = opened(SIGNED, text)?;
        Envelope::decode(bytes.as_slice()).map(Self).map_err(|_| Error::Damaged)
    }
}

/// Grants by which root keys name each other, for those who verify what is older or younger than
/// their root key.
#[derive(Clone, Debug, PartialEq)]
pub struct Roots(pub Vec<Envelope>);

impl Roots {
    /// The text to carry.
    pub fn to_text(&self) -> String {
        armour(ROOTS, &encode_roots(&self.0))
    }
}

impl FromStr for Roots {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bytes = opened(ROOTS, text)?;
        decode_roots(&bytes).map(Self).map_err(|_| Error::Damaged)
    }
}

fn armour(heading: &str, bytes: &[u8]) -> String {
    let mut text = format!("{heading}\n");
    let encoded = STANDARD.encode(bytes);
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str(&checksum(heading, bytes));
    text.push('\n');
    text
}

fn opened(heading: &'static str, text: &str) -> Result<Vec<u8>, Error> {
    if text.len() > MAX_TEXT_BYTES {
        return Err(Error::Other(heading));
    }
    let mut lines: Vec<&str> =
        text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.first() != Some(&heading) {
        return Err(Error::Other(heading));
    }
    let last = lines.pop().unwrap_or_default();
    let bytes =
        STANDARD.decode(lines[1.min(lines.len())..].concat()).map_err(|_| Error::Damaged)?;
    if checksum(heading, &bytes) == last { Ok(bytes) } else { Err(Error::Damaged) }
}

fn checksum(heading: &str, bytes: &[u8]) -> String {
    let digest = Sha256::new().chain_update(heading).chain_update(bytes).finalize();
    format!("checksum: {}", hex::encode(&digest[..CHECKSUM_BYTES]))
}

#[cfg(test)]
mod tests {
    use lianxi_proto::envelope::Suite as ProtoSuite;

    use super::*;
    use crate::domain::{
        delegation::{KeyChange, KeyUse, PublicKey, Suite},
        unit::Level,
    };

    const NOW: UnixMillis = 1_760_000_000_000;

    fn delegation(suite: Suite) -> Delegation {
        let key = |seed: u8, key_use| {
            let number = crate::statement::delegation::suite_to_proto(suite);
            let signer = Signer::from_private_bytes(number, &[seed; 32]).unwrap();
            PublicKey { suite, bytes: signer.public_key().to_vec(), key_use }
        };
        Delegation {
            trust_domain: "city.example".to_owned(),
            unit: "C".parse().unwrap(),
            level: Level::City,
            issuer: None,
            not_before_unix_ms: NOW,
            not_after_unix_ms: NOW + 1_000_000,
            keys: vec![key(1, KeyUse::Statement), key(2, KeyUse::Delegation)],
            ca_sha256: Some([1; 32]),
            host: String::new(),
            desk: None,
            line: String::new(),
            title: "市".to_owned(),
            serial: 7,
            accepted_suites: vec![suite],
            change: KeyChange::default(),
            reform: None,
        }
    }

    #[test]
    fn a_request_is_carried_signed_and_carried_back() {
        let root = Signer::from_seed(&[9; 32]);
        let request = Request::new(delegation(Suite::Ed25519)).unwrap();
        let carried: Request = request.to_text().parse().unwrap();
        assert_eq!(carried, request);
        let signed = carried.sign(&root, NOW).unwrap();
        let back: Signed = signed.to_text().replace('\n', "\r\n").parse().unwrap();
        let mut trust = Trust::new("city.example".to_owned(), root.verifying_key());
        assert_eq!(trust.add(&back.0, NOW).unwrap().delegation, delegation(Suite::Ed25519));
    }

    #[test]
    fn every_changed_or_missing_character_is_refused() {
        let request = Request::new(delegation(Suite::Ed25519)).unwrap();
        let signed = request.sign(&Signer::from_seed(&[9; 32]), NOW).unwrap();
        for (text, other) in
            [(request.to_text(), signed.to_text()), (signed.to_text(), request.to_text())]
        {
            let read = |text: &str| match text.starts_with(REQUEST) {
                true => text.parse::<Request>().map(drop),
                false => text.parse::<Signed>().map(drop),
            };
            for position in 0..text.len() {
                let mut changed = text.clone().into_bytes();
                if changed[position].is_ascii_whitespace() {
                    continue;
                }
                changed[position] = if changed[position] == b'A' { b'B' } else { b'A' };
                let changed = String::from_utf8(changed).unwrap();
                assert!(read(&changed).is_err(), "changed at {position}");
            }
            for length in 0..text.trim_end().len() {
                assert!(read(&text[..length]).is_err(), "cut at {length}");
            }
            let heading = text.lines().next().unwrap();
            let disguised = other.replacen(other.lines().next().unwrap(), heading, 1);
            assert!(read(&disguised).is_err());
        }
    }

    #[test]
    fn a_root_key_signs_the_roots_own_delegation_alone() {
        let child = Delegation { issuer: Some("B".parse().unwrap()), ..delegation(Suite::Ed25519) };
        let child = Delegation { accepted_suites: Vec::new(), ..child };
        assert!(matches!(Request::new(child.clone()), Err(Error::NotTheRoots(_))));
        let text = armour(REQUEST, &encode_body(&child));
        assert!(matches!(text.parse::<Request>(), Err(Error::NotTheRoots(_))));
        // A key of another suite than the domain's would break the chain: told before signing.
        let root = Signer::from_private_bytes(ProtoSuite::Sm2Sm3, &[9; 32]).unwrap();
        let request = Request::new(delegation(Suite::Ed25519)).unwrap();
        let refused = request.sign(&root, NOW).unwrap_err();
        assert!(matches!(&refused, Error::Trust(error) if error.reason() == "suite-not-accepted"));
    }
}
