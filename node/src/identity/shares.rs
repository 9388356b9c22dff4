//! The root key in shares: any `threshold` of them give it back, fewer tell nothing (Shamir's secret
//! sharing over GF(256)).
//!
//! Promises that a share is a text that can be printed and typed back, that a mistyped one and one of
//! another key or another splitting are told apart before anything is computed, and that what was
//! put together is believed only if it is the key whose fingerprint the shares carry.

use std::{collections::BTreeSet, fmt, str::FromStr};

use blahaj::Sharks;
use lianxi_proto::envelope::{Signer, Suite as ProtoSuite};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::{
    domain::delegation::Suite,
    statement::delegation::{check_trust_domain, suite_from_proto, suite_to_proto},
};

/// First line of a share.
const HEADING: &str = "lianxi root share 1";

/// Most shares of one key.
pub const MAX_SHARES: u8 = 64;

/// Bytes of SHA-256 at the end of a share.
const CHECKSUM_BYTES: usize = 6;

/// Digits in a group of the printed share.
const GROUP: usize = 4;

/// Why a key was not split or put together.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// Numbers that make no sense.
    #[error(
        "{threshold} of {shares} shares make no sense; take a threshold of 2 up to the number of shares, and at most 64 shares"
    )]
    Numbers {
        /// Shares that are needed.
        threshold: u8,
        /// Shares that are made.
        shares: u8,
    },
    /// The text is no share.
    #[error("this is no share of a root key: {0}; copy the whole file again")]
    NoShare(&'static str),
    /// It was changed on the way.
    #[error(
        "the share is mistyped or damaged: its checksum does not fit; compare it with the paper"
    )]
    Checksum,
    /// Shares that do not belong together.
    #[error("share {index} is of another {what} than the first; sort the shares")]
    Other {
        /// Number of the share.
        index: u8,
        /// What differs.
        what: &'static str,
    },
    /// Not enough different ones.
    #[error("{given} different shares are given and {threshold} are needed; find more")]
    TooFew {
        /// Different ones.
        given: usize,
        /// Needed.
        threshold: u8,
    },
    /// All fits, and the key is another.
    #[error(
        "the shares give another key than the one whose fingerprint they carry; one of them was forged, try others"
    )]
    WrongKey,
}

/// One share. Wiped from memory when dropped; `Debug` shows nothing of it.
#[derive(Eq, PartialEq)]
pub struct Share {
    /// Trust domain of the key.
    pub trust_domain: String,
    /// Suite of the key.
    pub suite: Suite,
    /// Id of the key, by which it is recognised.
    pub key_id: String,
    /// Which splitting of the key it is from: shares of two do not go together.
    pub set: String,
    /// Number of this share, from 1.
    pub index: u8,
    /// Shares that were made.
    pub shares: u8,
    /// Shares that are needed.
    pub threshold: u8,
    data: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for Share {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Share")
            .field("key_id", &self.key_id)
            .field("index", &self.index)
            .finish_non_exhaustive()
    }
}

/// Splits the root key of a trust domain.
///
/// # Errors
///
/// [`Error::Numbers`].
pub fn split(
    root: &Signer,
    trust_domain: &str,
    threshold: u8,
    shares: u8,
) -> Result<Vec<Share>, Error> {
    if threshold < 2 || threshold > shares || shares > MAX_SHARES {
        return Err(Error::Numbers { threshold, shares });
    }
    let suite = suite_from_proto(root.suite().into());
    let suite = suite.expect("invariant: a signer has a suite that is known");
    let mut set = [0; 4];
    getrandom::fill(&mut set).expect("invariant: the operating system gives random bytes");
    let private = root.private_bytes();
    let dealt = Sharks(threshold).dealer(private.as_slice()).take(usize::from(shares));
    let made = dealt.map(|share| {
        let bytes = Zeroizing::new(Vec::from(&share));
        Share {
            trust_domain: trust_domain.to_owned(),
            suite,
            key_id: root.key_id().to_owned(),
            set: hex::encode(set),
            index: bytes[0],
            shares,
            threshold,
            data: Zeroizing::new(bytes[1..].to_vec()),
        }
    });
    Ok(made.collect())
}

/// Puts the key together. The same share twice counts once.
///
/// # Errors
///
/// [`Error::Other`], [`Error::TooFew`], [`Error::WrongKey`].
pub fn combine(shares: &[Share]) -> Result<Signer, Error> {
    let Some(first) = shares.first() else {
        return Err(Error::TooFew { given: 0, threshold: 2 });
    };
    for share in shares {
        let checks = [
            (share.trust_domain == first.trust_domain, "trust domain"),
            (share.key_id == first.key_id && share.suite == first.suite, "key"),
            (share.set == first.set, "splitting of the key"),
            (share.threshold == first.threshold && share.shares == first.shares, "splitting"),
        ];
        if let Some((_, what)) = checks.into_iter().find(|(fits, _)| !fits) {
            return Err(Error::Other { index: share.index, what });
        }
    }
    let (threshold, mut seen) = (first.threshold, BTreeSet::new());
    let different = shares.iter().filter(|share| seen.insert(share.index));
    let dealt: Vec<_> = different
        .filter_map(|share| {
            let bytes = Zeroizing::new([&[share.index], share.data.as_slice()].concat());
            blahaj::Share::try_from(bytes.as_slice()).ok()
        })
        .collect();
    if dealt.len() < usize::from(threshold) {
        return Err(Error::TooFew { given: dealt.len(), threshold });
    }
    let sharks = Sharks(threshold);
    let private = sharks.recover(&dealt).map(Zeroizing::new);
    let private = private.map_err(|_| Error::WrongKey)?;
    let private: Zeroizing<[u8; 32]> =
        private.as_slice().try_into().map(Zeroizing::new).map_err(|_| Error::WrongKey)?;
    let root = Signer::from_private_bytes(suite_to_proto(first.suite), &private);
    root.ok().filter(|root| root.key_id() == first.key_id).ok_or(Error::WrongKey)
}

/// Puts the key together from every choice of neighbouring shares, so that each share has been used
/// and proven.
///
/// # Errors
///
/// As [`combine`].
pub fn prove(shares: Vec<Share>) -> Result<Signer, Error> {
    let mut shares = shares;
    shares.sort_by_key(|share| share.index);
    shares.dedup_by_key(|share| share.index);
    let root = combine(&shares)?;
    let threshold = usize::from(shares[0].threshold);
    for _ in 0..shares.len() {
        combine(&shares[..threshold])?;
        shares.rotate_left(1);
    }
    Ok(root)
}

impl Share {
    /// The text to print and keep. It is a secret together with `threshold - 1` others.
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(self.signed_text());
        let checksum = hex::encode(&Sha256::digest(text.as_bytes())[..CHECKSUM_BYTES]);
        text.push_str(&format!("checksum: {}\n", *grouped(&checksum)));
        text
    }

    fn signed_text(&self) -> String {
        let digits = Zeroizing::new(hex::encode(self.data.as_slice()));
        format!(
            "{HEADING}\n\
             trust domain: {}\n\
             root key: {} {}\n\
             splitting: {}\n\
             share: {} of {}\n\
             needed: {}\n\
             data: {}\n",
            self.trust_domain,
            self.suite,
            self.key_id,
            self.set,
            self.index,
            self.shares,
            self.threshold,
            *grouped(&digits),
        )
    }
}

fn grouped(digits: &str) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(digits.len() * 2));
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && position % GROUP == 0 {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

impl FromStr for Share {
    type Err = Error;

    /// Reads a share as a person typed it back: blanks, empty lines and capitals are no fault.
    fn from_str(text: &str) -> Result<Self, Error> {
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        if lines.next() != Some(HEADING) {
            return Err(Error::NoShare("it does not begin with `lianxi root share 1`"));
        }
        let mut field = |name: &'static str| {
            let line = lines.next().and_then(|line| line.split_once(':'));
            let value = line.filter(|(found, _)| found.trim() == name).map(|(_, value)| value);
            value.map(str::trim).ok_or(Error::NoShare("a line is missing or out of order"))
        };
        let wrong = |_| Error::NoShare("a value is none of its kind");
        let trust_domain = field("trust domain")?.to_owned();
        check_trust_domain("trust domain", &trust_domain).map_err(|_| wrong(()))?;
        let (suite, key_id) = field("root key")?.split_once(' ').ok_or_else(|| wrong(()))?;
        let (suite, key_id) = (suite.parse().map_err(|_| wrong(()))?, key_id.trim().to_owned());
        let set = field("splitting")?.to_owned();
        let (index, shares) = field("share")?.split_once(" of ").ok_or_else(|| wrong(()))?;
        let number = |text: &str| text.trim().parse::<u8>().map_err(|_| wrong(()));
        let (index, shares) = (number(index)?, number(shares)?);
        let threshold = number(field("needed")?)?;
        let data = digits(field("data")?).ok_or_else(|| wrong(()))?;
        let checksum = digits(field("checksum")?).ok_or_else(|| wrong(()))?;
        let share = Self { trust_domain, suite, key_id, set, index, shares, threshold, data };
        let text = Zeroizing::new(share.signed_text());
        if Sha256::digest(text.as_bytes())[..CHECKSUM_BYTES] != checksum[..] {
            return Err(Error::Checksum);
        }
        // Share 0 would be the key itself.
        let sound = (1..=shares).contains(&index)
            && (2..=shares).contains(&threshold)
            && shares <= MAX_SHARES
            && share.data.len() == 32
            && suite_to_proto(suite) != ProtoSuite::Unspecified;
        if sound { Ok(share) } else { Err(Error::NoShare("its numbers make no sense")) }
    }
}

fn digits(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let digits: Zeroizing<String> =
        Zeroizing::new(text.chars().filter(|one| !one.is_whitespace()).collect());
    hex::decode(digits.as_str()).ok().map(Zeroizing::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOMAIN: &str = "city.example";

    fn root(suite: Suite) -> Signer {
        Signer::from_private_bytes(suite_to_proto(suite), &[7; 32]).unwrap()
    }

    fn made(threshold: u8, shares: u8) -> Vec<Share> {
        split(&root(Suite::Ed25519), DOMAIN, threshold, shares).unwrap()
    }

    fn copy(share: &Share) -> Share {
        share.to_text().parse().unwrap()
    }

    #[test]
    fn any_threshold_of_shares_gives_the_key_back_and_fewer_do_not() {
        for suite in Suite::SIGNING {
            let root = root(suite);
            let shares = split(&root, DOMAIN, 3, 5).unwrap();
            for a in 0..5 {
                for b in a + 1..5 {
                    let two = [copy(&shares[a]), copy(&shares[b])];
                    assert_eq!(
                        combine(&two).unwrap_err(),
                        Error::TooFew { given: 2, threshold: 3 }
                    );
                    for c in b + 1..5 {
                        let three = [copy(&shares[c]), copy(&shares[a]), copy(&shares[b])];
                        let found = combine(&three).unwrap();
                        assert_eq!(found.key_id(), root.key_id());
                        assert_eq!(found.private_bytes(), root.private_bytes());
                    }
                }
            }
            assert_eq!(prove(shares).unwrap().key_id(), root.key_id());
        }
    }

    #[test]
    fn a_share_alone_holds_nothing_of_the_key() {
        let private = root(Suite::Ed25519).private_bytes();
        for share in made(2, 64) {
            let same = share.data.iter().zip(private.iter()).filter(|(one, other)| one == other);
            assert!(same.count() < 8, "share {}", share.index);
        }
    }

    #[test]
    fn the_same_share_twice_counts_once() {
        let shares = made(2, 3);
        let twice = [copy(&shares[0]), copy(&shares[0])];
        assert_eq!(combine(&twice).unwrap_err(), Error::TooFew { given: 1, threshold: 2 });
        assert!(combine(&[]).is_err());
    }

    #[test]
    fn shares_that_do_not_belong_together_are_told_apart() {
        let shares = made(2, 3);
        let mixed = |other: Share| combine(&[copy(&shares[0]), other]).unwrap_err();
        let again = made(2, 3);
        let error = mixed(copy(&again[1]));
        assert_eq!(error, Error::Other { index: 2, what: "splitting of the key" });
        let sm2 = split(&root(Suite::Sm2Sm3), DOMAIN, 2, 3).unwrap();
        assert_eq!(mixed(copy(&sm2[1])), Error::Other { index: 2, what: "key" });
        let elsewhere = split(&root(Suite::Ed25519), "b.example", 2, 3).unwrap();
        assert_eq!(mixed(copy(&elsewhere[1])), Error::Other { index: 2, what: "trust domain" });
        // Forged with care: everything fits but the key.
        let mut forged = copy(&shares[1]);
        forged.data[0] ^= 1;
        assert_eq!(mixed(copy(&forged)), Error::WrongKey);
        // With enough others a plain choice may leave the forged one out; a proof does not.
        let all = [copy(&shares[0]), forged, copy(&shares[2])];
        assert_eq!(prove(all.into()).unwrap_err(), Error::WrongKey);
    }

    #[test]
    fn a_share_is_read_back_as_it_was_typed() {
        let share = &made(2, 3)[0];
        let text = share.to_text();
        assert_eq!(text.parse::<Share>().unwrap(), *share);
        let typed = text.replace('\n', "\r\n\r\n").replace(": ", ":   ");
        assert_eq!(typed.parse::<Share>().unwrap(), *share);
    }

    #[test]
    fn every_changed_character_is_refused() {
        let share = &made(2, 3)[0];
        let text = share.to_text();
        for position in 0..text.len() {
            let mut changed = text.as_bytes().to_vec();
            if changed[position].is_ascii_whitespace() {
                continue;
            }
            changed[position] = if changed[position] == b'7' { b'8' } else { b'7' };
            let read = std::str::from_utf8(&changed).unwrap().parse::<Share>();
            assert!(read.is_err(), "changed at {position}");
        }
        for length in 0..text.trim_end().len() {
            assert!(text[..length].parse::<Share>().is_err(), "cut at {length}");
        }
    }

    #[test]
    fn numbers_that_make_no_sense_are_refused() {
        for (threshold, shares) in [(0, 3), (1, 3), (4, 3), (2, 65), (2, 1)] {
            let refused = split(&root(Suite::Ed25519), DOMAIN, threshold, shares).unwrap_err();
            assert_eq!(refused, Error::Numbers { threshold, shares });
        }
        // Share 0 of a key is the key: nobody makes one, and none is read.
        let mut zero = copy(&made(2, 3)[0]);
        zero.index = 0;
        assert!(zero.to_text().parse::<Share>().is_err());
    }

    #[test]
    fn debug_shows_no_share() {
        let share = &made(2, 3)[0];
        let shown = format!("{share:?}");
        assert!(!shown.contains(&hex::encode(share.data.as_slice())) && !shown.contains("data"));
    }
}
