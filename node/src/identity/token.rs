//! The text that a parent hands to a child: `lianxi1.` or `lianxi2.` and base64url of a binary form.
//! The first is for trust domains whose root key is Ed25519, the second names the suite.
//!
//! Promises that a token that was cut, mistyped or made by a later version is told apart from one
//! that the parent does not know. `Debug` never shows the secret.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use lianxi_proto::envelope::{Suite, VerifyingKey};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::{
    clock::UnixMillis,
    domain::unit::{Level, UnitCode},
};

/// Beginning of a token with an Ed25519 root key of 32 bytes.
const PREFIX: &str = "lianxi1.";

/// Beginning of a token whose root key has its suite (one byte) and length (one byte) before it.
const SUITE_PREFIX: &str = "lianxi2.";

/// Bytes of SHA-256 at the end.
const CHECKSUM_BYTES: usize = 4;

/// Longest text that is looked at.
const MAX_TEXT_BYTES: usize = 8192;

/// Why a text is no token. Nothing was sent anywhere.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// Not a token at all.
    #[error("this is no token: one begins with `lianxi1.`, as `lianxi node invite` prints it")]
    NoToken,
    /// The end is missing.
    #[error("the token is incomplete; copy the whole of what `lianxi node invite` printed")]
    Incomplete,
    /// Characters were changed or added.
    #[error("the token is damaged; copy it again from what `lianxi node invite` printed")]
    Damaged,
    /// Made by a later version.
    #[error("the token was made by a later version; install that version here first")]
    Version,
}

/// An invitation to join. The secret in it is good for one join.
#[derive(Clone, Eq, PartialEq)]
pub struct Token {
    /// Addresses of the parent, `host:port`, to be tried in this order.
    pub addresses: Vec<String>,
    /// The parent.
    pub parent: UnitCode,
    /// Trust domain of the city.
    pub trust_domain: String,
    /// Public root key of the city: what every delegation rests on. The unit makes its keys in the
    /// same suite.
    pub root_key: VerifyingKey,
    /// SHA-256 of the parent's CA certificate.
    pub ca_sha256: [u8; 32],
    /// Unit that is to join.
    pub unit: UnitCode,
    /// Its level.
    pub level: Level,
    /// Its title.
    pub title: String,
    /// When the token ends, the parent's clock.
    pub expires_unix_ms: UnixMillis,
    /// Public part, by which the parent finds it.
    pub id: [u8; 16],
    /// One-time secret.
    pub secret: Zeroizing<[u8; 32]>,
}

impl Token {
    /// The text to hand over. It holds the secret: show it once, log it never.
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut body = Zeroizing::new(Vec::with_capacity(300));
        body.push(u8::try_from(self.addresses.len()).unwrap_or(u8::MAX));
        for address in self.addresses.iter().take(usize::from(u8::MAX)) {
            put(&mut body, address);
        }
        put(&mut body, self.parent.as_str());
        put(&mut body, &self.trust_domain);
        let prefix = self.put_root_key(&mut body);
        body.extend_from_slice(&self.ca_sha256);
        put(&mut body, self.unit.as_str());
        body.push(self.level as u8);
        put(&mut body, &self.title);
        body.extend_from_slice(&self.expires_unix_ms.to_be_bytes());
        body.extend_from_slice(&self.id);
        body.extend_from_slice(self.secret.as_slice());
        let length = u16::try_from(body.len()).expect("invariant: parts of a token are bounded");
        let mut bytes = Zeroizing::new(length.to_be_bytes().to_vec());
        bytes.extend_from_slice(&body);
        let checksum = Sha256::digest(bytes.as_slice());
        bytes.extend_from_slice(&checksum[..CHECKSUM_BYTES]);
        let encoded = Zeroizing::new(URL_SAFE_NO_PAD.encode(bytes.as_slice()));
        Zeroizing::new(format!("{prefix}{}", encoded.as_str()))
    }

    /// Adds the root key in the form of the returned prefix: the older one where it can say all.
    fn put_root_key(&self, body: &mut Vec<u8>) -> &'static str {
        let key = self.root_key.public_key();
        let prefix = if self.root_key.suite() == Suite::Ed25519 {
            PREFIX
        } else {
            let number = u8::try_from(self.root_key.suite() as i32);
            body.push(number.expect("invariant: suite numbers fit a byte"));
            body.push(u8::try_from(key.len()).expect("invariant: public keys are short"));
            SUITE_PREFIX
        };
        body.extend_from_slice(key);
        prefix
    }
}

/// A text of at most 255 bytes, cut at a character's end if it is longer.
fn put(body: &mut Vec<u8>, text: &str) {
    let mut length = text.len().min(usize::from(u8::MAX));
    while !text.is_char_boundary(length) {
        length -= 1;
    }
    body.push(u8::try_from(length).expect("invariant: at most 255"));
    body.extend_from_slice(&text.as_bytes()[..length]);
}

impl FromStr for Token {
    type Err = Error;

    /// Reads a token as a person pasted it: blanks and line ends in it are no fault.
    fn from_str(text: &str) -> Result<Self, Error> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(Error::NoToken);
        }
        let pasted: Zeroizing<String> =
            Zeroizing::new(text.chars().filter(|one| !one.is_whitespace()).collect());
        if let Some(encoded) = pasted.strip_prefix(PREFIX) {
            return read(&decode(encoded)?, PREFIX);
        }
        match pasted.strip_prefix(SUITE_PREFIX) {
            Some(encoded) => read(&decode(encoded)?, SUITE_PREFIX),
            None => Err(wrong_prefix(&pasted)),
        }
    }
}

fn wrong_prefix(text: &str) -> Error {
    if text.len() >= 2 && (PREFIX.starts_with(text) || SUITE_PREFIX.starts_with(text)) {
        return Error::Incomplete;
    }
    let version = text.strip_prefix("lianxi").and_then(|rest| rest.split_once('.'));
    match version.map(|(version, _)| version.parse::<u32>()) {
        Some(Ok(3..)) => Error::Version,
        _ => Error::NoToken,
    }
}

/// The bytes between the length and the checksum, both of which fit.
fn decode(encoded: &str) -> Result<Zeroizing<Vec<u8>>, Error> {
    let alphabet = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if !encoded.bytes().all(alphabet) {
        return Err(Error::Damaged);
    }
    // The length comes first and tells a cut from other damage, wherever the cut falls.
    let Some(Ok(head)) = encoded.get(..4).map(|head| URL_SAFE_NO_PAD.decode(head)) else {
        return Err(Error::Incomplete);
    };
    let total = 2 + usize::from(u16::from_be_bytes([head[0], head[1]])) + CHECKSUM_BYTES;
    if encoded.len() < (total * 4).div_ceil(3) {
        return Err(Error::Incomplete);
    }
    let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(encoded).map_err(|_| Error::Damaged)?);
    if bytes.len() != total {
        return Err(Error::Damaged);
    }
    let (content, checksum) = bytes.split_at(total - CHECKSUM_BYTES);
    if Sha256::digest(content)[..CHECKSUM_BYTES] != *checksum {
        return Err(Error::Damaged);
    }
    Ok(Zeroizing::new(content[2..].to_vec()))
}

fn read(body: &[u8], prefix: &str) -> Result<Token, Error> {
    let mut reader = Reader(body);
    let [count] = reader.array()?;
    let addresses =
        (0..count).map(|_| reader.text().map(str::to_owned)).collect::<Result<_, _>>()?;
    let token = Token {
        addresses,
        parent: reader.text()?.parse().map_err(|_| Error::Damaged)?,
        trust_domain: reader.text()?.to_owned(),
        root_key: reader.root_key(prefix)?,
        ca_sha256: reader.array()?,
        unit: reader.text()?.parse().map_err(|_| Error::Damaged)?,
        level: match reader.array()? {
            [1] => Level::City,
            [2] => Level::District,
            [3] => Level::Street,
            [4] => Level::Community,
            _ => return Err(Error::Damaged),
        },
        title: reader.text()?.to_owned(),
        expires_unix_ms: i64::from_be_bytes(reader.array()?),
        id: reader.array()?,
        secret: Zeroizing::new(reader.array()?),
    };
    if reader.0.is_empty() { Ok(token) } else { Err(Error::Damaged) }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (array, rest) = self.0.split_first_chunk().ok_or(Error::Damaged)?;
        self.0 = rest;
        Ok(*array)
    }

    fn root_key(&mut self, prefix: &str) -> Result<VerifyingKey, Error> {
        if prefix == PREFIX {
            let key: [u8; 32] = self.array()?;
            return VerifyingKey::new(Suite::Ed25519, &key).map_err(|_| Error::Damaged);
        }
        let [suite, length] = self.array()?;
        let suite = Suite::try_from(i32::from(suite)).map_err(|_| Error::Version)?;
        let (key, rest) = self.0.split_at_checked(usize::from(length)).ok_or(Error::Damaged)?;
        self.0 = rest;
        VerifyingKey::new(suite, key).map_err(|_| Error::Damaged)
    }

    fn text(&mut self) -> Result<&'a str, Error> {
        let [length] = self.array()?;
        let (text, rest) = self.0.split_at_checked(usize::from(length)).ok_or(Error::Damaged)?;
        self.0 = rest;
        std::str::from_utf8(text).map_err(|_| Error::Damaged)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Token")
            .field("id", &hex::encode(self.id))
            .field("parent", &self.parent)
            .field("unit", &self.unit)
            .field("level", &self.level)
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use lianxi_proto::envelope::Signer;

    use super::*;

    fn sm2_token() -> Token {
        let root = Signer::from_private_bytes(Suite::Sm2Sm3, &[3; 32]).unwrap();
        Token { root_key: root.verifying_key(), ..token() }
    }

    fn token() -> Token {
        Token {
            addresses: vec!["10.1.2.3:7443".to_owned(), "bos.example:7443".to_owned()],
            parent: "BOS".parse().unwrap(),
            trust_domain: "boston.example".to_owned(),
            root_key: Signer::from_seed(&[3; 32]).verifying_key(),
            ca_sha256: [1; 32],
            unit: "BOS-01".parse().unwrap(),
            level: Level::District,
            title: "第一区".to_owned(),
            expires_unix_ms: 1_760_000_000_000,
            id: [2; 16],
            secret: Zeroizing::new([0xab; 32]),
        }
    }

    #[test]
    fn a_token_is_read_back_however_it_was_pasted() {
        let text = token().to_text();
        assert_eq!(text.parse::<Token>().unwrap(), token());
        let (head, tail) = text.split_at(50);
        let pasted = format!("  {head}\r\n  {tail}\n");
        assert_eq!(pasted.parse::<Token>().unwrap(), token());
    }

    #[test]
    fn a_token_names_the_suite_of_the_root_key() {
        let text = sm2_token().to_text();
        assert!(text.starts_with(SUITE_PREFIX));
        assert_eq!(text.parse::<Token>().unwrap(), sm2_token());
        // Under the other prefix the bytes mean something else.
        let disguised = format!("{PREFIX}{}", &text[SUITE_PREFIX.len()..]);
        assert_eq!(disguised.parse::<Token>(), Err(Error::Damaged));
        let disguised = format!("{SUITE_PREFIX}{}", &token().to_text()[PREFIX.len()..]);
        assert!(disguised.parse::<Token>().is_err());
    }

    #[test]
    fn a_token_cut_anywhere_is_incomplete() {
        for text in [token().to_text(), sm2_token().to_text()] {
            for length in 2..text.len() {
                let read = text[..length].parse::<Token>();
                assert_eq!(read, Err(Error::Incomplete), "cut at {length}");
            }
        }
    }

    #[test]
    fn a_changed_character_is_damage() {
        let text = token().to_text();
        // The length comes first: a change there can look like a cut, which is as true.
        for position in PREFIX.len() + 3..text.len() {
            let mut changed = text.as_bytes().to_vec();
            changed[position] = if changed[position] == b'A' { b'B' } else { b'A' };
            let read = std::str::from_utf8(&changed).unwrap().parse::<Token>();
            assert_eq!(read, Err(Error::Damaged), "changed at {position}");
        }
        for added in ["A", "AA", "AAAA", "=", "!", "\u{5e2d}"] {
            let read = format!("{}{added}", text.as_str()).parse::<Token>();
            assert_eq!(read, Err(Error::Damaged), "{added} was added");
        }
    }

    #[test]
    fn other_texts_are_told_apart() {
        for text in ["", "hello", "lianxi", "LIANXI1.AAAA", "lianxi0.AAAA", "lianxi-x.A"] {
            let expected = if text == "lianxi" { Error::Incomplete } else { Error::NoToken };
            assert_eq!(text.parse::<Token>(), Err(expected), "{text:?}");
        }
        assert_eq!("lianxi3.AAAA".parse::<Token>(), Err(Error::Version));
        assert_eq!("x".repeat(9000).parse::<Token>(), Err(Error::NoToken));
    }

    #[test]
    fn debug_shows_no_secret() {
        let shown = format!("{:?}", token());
        assert!(!shown.contains("abab") && !shown.contains("171"), "{shown}");
    }
}
