//! The public key of a city's root as a small text file, `root.pub`.
//!
//! Whoever verifies must have it from somewhere else than the pack: everything rests on it. The
//! fingerprint is there to be read out and compared.

use std::{fmt, str::FromStr};

use lianxi_proto::envelope::VerifyingKey;

use crate::{
    domain::delegation::Suite,
    identity::trust::Trust,
    statement::delegation::{suite_from_proto, suite_to_proto},
};

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
    trust_domain: String,
    key: VerifyingKey,
    suite: Suite,
}

impl RootKey {
    /// A root key.
    ///
    /// # Errors
    ///
    /// [`Error::Value`] without a trust domain, or for a suite that does not sign.
    pub fn new(trust_domain: String, key: VerifyingKey) -> Result<Self, Error> {
        if trust_domain.is_empty() || trust_domain.contains(char::is_whitespace) {
            return Err(Error::Value("trust-domain"));
        }
        let suite = suite_from_proto(key.suite().into()).ok_or(Error::Value("suite"))?;
        Ok(Self { trust_domain, key, suite })
    }

    /// The root key that a unit believes in.
    ///
    /// # Errors
    ///
    /// As [`RootKey::new`].
    pub fn of(trust: &Trust) -> Result<Self, Error> {
        Self::new(trust.trust_domain().to_owned(), trust.root_key().clone())
    }

    /// Trust domain, e.g. `boston.example`.
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// The key.
    pub fn key(&self) -> &VerifyingKey {
        &self.key
    }

    /// Suite of the key.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// Key id of the key: 40 hexadecimal digits.
    pub fn fingerprint(&self) -> &str {
        self.key.key_id()
    }
}

impl fmt::Display for RootKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "{TITLE}")?;
        writeln!(formatter, "trust-domain: {}", self.trust_domain)?;
        writeln!(formatter, "suite: {}", self.suite)?;
        writeln!(formatter, "public-key: {}", hex::encode(self.key.public_key()))?;
        writeln!(formatter, "fingerprint: {}", self.fingerprint())
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
        let suite: Suite = suite?.parse().map_err(|_| Error::Value("suite"))?;
        let public_key = hex::decode(key?).map_err(|_| Error::Value("public-key"))?;
        let key = VerifyingKey::new(suite_to_proto(suite), &public_key);
        let root = Self::new(domain?.to_owned(), key.map_err(|_| Error::Value("public-key"))?)?;
        if fingerprint? != root.fingerprint() {
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
        let key = Signer::from_seed(&[7; 32]).verifying_key();
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
    fn a_root_key_of_sm2_comes_back_too() {
        let signer = Signer::from_private_bytes(lianxi_proto::envelope::Suite::Sm2Sm3, &[7; 32]);
        let key = signer.unwrap().verifying_key();
        let root = RootKey::new("boston.example".to_owned(), key).unwrap();
        let text = root.to_string();
        assert!(text.contains("suite: sm2-sm3\n"), "{text}");
        assert_eq!(text.parse(), Ok(root));
    }

    #[test]
    fn a_root_key_that_was_changed_is_refused() {
        let text = root().to_string();
        let other = Signer::from_seed(&[8; 32]).verifying_key();
        let other = RootKey::new("boston.example".to_owned(), other).unwrap();
        let parse = |text: String| text.parse::<RootKey>().unwrap_err();
        let swapped = text.replace(root().fingerprint(), other.fingerprint());
        assert_eq!(parse(swapped), Error::Fingerprint);
        assert_eq!(parse(text.replace("key 1", "key 2")), Error::Title);
        assert_eq!(parse(text.replace("ed25519", "x25519")), Error::Value("suite"));
        assert_eq!(
            parse(text.replace("public-key: ", "public-key: f")),
            Error::Value("public-key")
        );
        assert_eq!(parse(text.replace("ed25519", "sm2-sm3")), Error::Value("public-key"));
        assert!(matches!(parse(format!("{text}more: x\n")), Error::Line(_)));
        assert!(matches!(parse(format!("{text}suite: ed25519\n")), Error::Line(_)));
        assert!(matches!(parse(text.replace("suite: ed25519\n", "")), Error::Line(_)));
    }
}
