//! The public key of a city's root as a small text file, `root.pub`.
//!
//! Whoever verifies must have it from somewhere else than the pack: everything rests on it. The
//! fingerprint is there to be read out and compared.

use std::{fmt, str::FromStr};

use lianxi_proto::envelope::{Suite, VerifyingKey};

use crate::identity::trust::Trust;

/// First line of the file.
const TITLE: &str = "lianxi root key 1";

/// Why a text is no root key.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// Another first line.
    #[error("this is no root key; the first line has to be {TITLE:?}")]
    Title,
    /// A line that is missing, unknown or there twice.
    #[error("line {0:?} is missing, unknown or there twice; ask for the file again")]
    Line(String),
    /// A value that cannot be read.
    #[error("{0} cannot be read; ask for the file again")]
    Value(&'static str),
    /// The fingerprint belongs to another key.
    #[error("the fingerprint is not that of the key; one of them was changed")]
    Fingerprint,
}

/// A city's root key and the trust domain that it is for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RootKey {
    /// Trust domain, e.g. `boston.example`.
    pub trust_domain: String,
    /// Ed25519 public key.
    pub public_key: [u8; 32],
    fingerprint: String,
}

impl RootKey {
    /// A root key.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] for bytes that are no safe Ed25519 key, or no trust domain.
    pub fn new(trust_domain: String, public_key: [u8; 32]) -> Result<Self, Error> {
        let key = VerifyingKey::new(Suite::Ed25519, &public_key);
        let key = key.map_err(|_| Error::Value("public-key"))?;
        if trust_domain.is_empty() || trust_domain.contains(char::is_whitespace) {
            return Err(Error::Value("trust-domain"));
        }
        Ok(Self { trust_domain, public_key, fingerprint: key.key_id().to_owned() })
    }

    /// The root key that a unit believes in.
    ///
    /// # Errors
    ///
    /// As [`RootKey::new`].
    pub fn of(trust: &Trust) -> Result<Self, Error> {
        let public_key = trust.root_public_key().try_into();
        let public_key = public_key.map_err(|_| Error::Value("public-key"))?;
        Self::new(trust.trust_domain().to_owned(), public_key)
    }

    /// Key id of the key: 40 hexadecimal digits.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }
}

impl fmt::Display for RootKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "{TITLE}")?;
        writeln!(formatter, "trust-domain: {}", self.trust_domain)?;
        writeln!(formatter, "suite: ed25519")?;
        writeln!(formatter, "public-key: {}", hex::encode(self.public_key))?;
        writeln!(formatter, "fingerprint: {}", self.fingerprint)
    }
}

impl FromStr for RootKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let mut lines = text.lines().map(str::trim_end);
        if lines.next() != Some(TITLE) {
            return Err(Error::Title);
        }
        let mut values = ["trust-domain", "suite", "public-key", "fingerprint"].map(|name| {
            let found: Option<&str> = None;
            (name, found)
        });
        for line in lines.filter(|line| !line.is_empty()) {
            let unknown = || Error::Line(line.chars().take(40).collect());
            let (name, value) = line.split_once(": ").ok_or_else(unknown)?;
            let place = values.iter_mut().find(|(known, _)| *known == name);
            let (_, place) = place.ok_or_else(unknown)?;
            if place.replace(value).is_some() {
                return Err(unknown());
            }
        }
        let [domain, suite, key, fingerprint] =
            values.map(|(name, value)| value.ok_or_else(|| Error::Line(name.to_owned())));
        if suite? != "ed25519" {
            return Err(Error::Value("suite"));
        }
        let mut public_key = [0; 32];
        hex::decode_to_slice(key?, &mut public_key).map_err(|_| Error::Value("public-key"))?;
        let root = Self::new(domain?.to_owned(), public_key)?;
        if fingerprint? != root.fingerprint {
            return Err(Error::Fingerprint);
        }
        Ok(root)
    }
}

#[cfg(test)]
mod tests {
    use lianxi_proto::envelope::Signer;

    use super::*;

    fn root() -> RootKey {
        let key = Signer::from_seed(&[7; 32]).public_key();
        RootKey::new("boston.example".to_owned(), key).unwrap()
    }

    #[test]
    fn a_root_key_comes_back_as_it_was_written() {
        let text = root().to_string();
        assert_eq!(text.parse(), Ok(root()));
        assert_eq!(text.replace('\n', "\r\n").parse(), Ok(root()));
        assert_eq!(text.lines().count(), 5);
    }

    #[test]
    fn a_root_key_that_was_changed_is_refused() {
        let text = root().to_string();
        let other = Signer::from_seed(&[8; 32]).public_key();
        let other = RootKey::new("boston.example".to_owned(), other).unwrap();
        let parse = |text: String| text.parse::<RootKey>().unwrap_err();
        let swapped = text.replace(root().fingerprint(), other.fingerprint());
        assert_eq!(parse(swapped), Error::Fingerprint);
        assert_eq!(parse(text.replace("key 1", "key 2")), Error::Title);
        assert_eq!(parse(text.replace("ed25519", "sm2")), Error::Value("suite"));
        assert_eq!(
            parse(text.replace("public-key: ", "public-key: f")),
            Error::Value("public-key")
        );
        assert!(matches!(parse(format!("{text}more: x\n")), Error::Line(_)));
        assert!(matches!(parse(format!("{text}suite: ed25519\n")), Error::Line(_)));
        assert!(matches!(parse(text.replace("suite: ed25519\n", "")), Error::Line(_)));
    }
}
