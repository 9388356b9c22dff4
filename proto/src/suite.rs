//! Signature suites: Ed25519 (RFC 8032), and SM2 with SM3 (GB/T 32918.2, GM/T 0003.2).
//!
//! Promises that a suite is a property of the key: whoever holds a key can sign and verify in its
//! suite alone, and the suite is part of the key's id. Accepts one encoding of a key and one of a
//! signature. Must not decide which suites a trust domain accepts: that is the caller's.
//!
//! Both are software: they interoperate with other implementations of the standards, and are no
//! certified cryptographic module.

use std::fmt;

use ed25519_dalek::Signer as _;
use sha2::{Digest, Sha256};
use sm2::{dsa::signature::Verifier as _, elliptic_curve::sec1::ToSec1Point as _};
use zeroize::Zeroizing;

use crate::envelope::Error;

/// Number of an algorithm, part of every key id.
pub use crate::types::v1::Suite;

/// User identity that enters every SM2 signature: the default of GM/T 0009, because the key is
/// already bound to its unit by its delegation.
pub const SM2_USER_ID: &str = "1234567812345678";

/// Bytes of an Ed25519 public key.
const ED25519_KEY_BYTES: usize = 32;

/// Bytes of an SM2 public key: 04, x and y, uncompressed.
const SM2_KEY_BYTES: usize = 65;

/// First byte of an uncompressed point (SEC 1 §2.3.3).
const UNCOMPRESSED: u8 = 4;

/// Order of the group of SM2 less one (GB/T 32918.5), big-endian: with it as private key, no
/// signature can be computed, because one more has no inverse.
const SM2_LAST: [u8; 32] = [
    0xff, 0xff, 0xff, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0x72, 0x03, 0xdf, 0x6b, 0x21, 0xc6, 0x05, 0x2b, 0x53, 0xbb, 0xf4, 0x09, 0x39, 0xd5, 0x41, 0x22,
];

/// Bytes of SHA-256 that make a key id.
const KEY_ID_BYTES: usize = 20;

/// A private key that signs. Wiped from memory when dropped; `Debug` shows the key id alone.
pub struct Signer {
    key: PrivateKey,
    public: VerifyingKey,
}

enum PrivateKey {
    Ed25519(ed25519_dalek::SigningKey),
    /// The scalar, wiped when dropped. The library's signing key is not, so it is made for each
    /// signature and lives no longer.
    Sm2(sm2::SecretKey),
}

impl Signer {
    /// Makes the Ed25519 key of a seed (RFC 8032 §5.1.5).
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let key = ed25519_dalek::SigningKey::from_bytes(seed);
        let public = VerifyingKey::of_ed25519(key.verifying_key());
        Self { key: PrivateKey::Ed25519(key), public }
    }

    /// Makes the key of 32 private bytes: the seed for Ed25519, the scalar d for SM2.
    ///
    /// # Errors
    ///
    /// - [`Error::Suite`]: not a suite that signs.
    /// - [`Error::PrivateKey`]: for SM2, zero or above n - 2. Random bytes fall there once in
    ///   2³² tries: draw again.
    pub fn from_private_bytes(suite: Suite, bytes: &[u8; 32]) -> Result<Self, Error> {
        match suite {
            Suite::Ed25519 => Ok(Self::from_seed(bytes)),
            Suite::Sm2Sm3 => {
                let refused = || Error::PrivateKey(suite);
                if *bytes == SM2_LAST {
                    return Err(refused());
                }
                let key = sm2::SecretKey::from_slice(bytes).map_err(|_| refused())?;
                let point = key.public_key();
                let public = VerifyingKey::of_sm2(point).map_err(|()| refused())?;
                Ok(Self { key: PrivateKey::Sm2(key), public })
            }
            Suite::Unspecified | Suite::X25519 => Err(Error::Suite(suite)),
        }
    }

    /// The private bytes as [`Signer::from_private_bytes`] takes them, to be stored where nobody
    /// else can read.
    pub fn private_bytes(&self) -> Zeroizing<[u8; 32]> {
        match &self.key {
            PrivateKey::Ed25519(key) => Zeroizing::new(key.to_bytes()),
            PrivateKey::Sm2(key) => Zeroizing::new(key.to_bytes().into()),
        }
    }

    /// The public half, as [`VerifyingKey::public_key`].
    pub fn public_key(&self) -> &[u8] {
        self.public.public_key()
    }

    /// Id of the key, see [`key_id`].
    pub fn key_id(&self) -> &str {
        self.public.key_id()
    }

    /// Suite of the key.
    pub fn suite(&self) -> Suite {
        self.public.suite()
    }

    /// The public half as a key that verifies.
    pub fn verifying_key(&self) -> VerifyingKey {
        self.public.clone()
    }

    /// Signs bytes that say themselves what they are: callers keep their first bytes apart. Gives
    /// the same 64 bytes each time. For SM2 they are r || s, big-endian, and the random number of
    /// the standard is derived from key and message (RFC 6979 with SM3).
    pub fn sign_bytes(&self, message: &[u8]) -> Vec<u8> {
        match &self.key {
            PrivateKey::Ed25519(key) => key.sign(message).to_bytes().to_vec(),
            PrivateKey::Sm2(key) => {
                let key = sm2::dsa::SigningKey::new(SM2_USER_ID, key)
                    .expect("invariant: the user id is short");
                let signature: sm2::dsa::Signature = key.sign(message);
                signature.to_bytes().to_vec()
            }
        }
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Signer").field("key_id", &self.key_id()).finish_non_exhaustive()
    }
}

/// A public key that verifies signatures.
#[derive(Clone)]
pub struct VerifyingKey {
    key: PublicKey,
    bytes: Vec<u8>,
    key_id: String,
}

#[derive(Clone)]
enum PublicKey {
    Ed25519(ed25519_dalek::VerifyingKey),
    Sm2(Box<sm2::dsa::VerifyingKey>),
}

impl VerifyingKey {
    /// Reads a public key: 32 bytes for Ed25519; for SM2 65 bytes, 04 || x || y.
    ///
    /// # Errors
    ///
    /// - [`Error::Suite`]: not a suite whose signatures this program verifies.
    /// - [`Error::PublicKey`]: wrong length, not the one encoding of a point on the curve, or a
    ///   point of small order.
    pub fn new(suite: Suite, public_key: &[u8]) -> Result<Self, Error> {
        let refused = || Error::PublicKey(public_key.len(), suite);
        match suite {
            Suite::Ed25519 => Self::ed25519(public_key).ok_or_else(refused),
            Suite::Sm2Sm3 => Self::sm2(public_key).ok_or_else(refused),
            Suite::Unspecified | Suite::X25519 => Err(Error::Suite(suite)),
        }
    }

    fn ed25519(public_key: &[u8]) -> Option<Self> {
        let bytes: [u8; ED25519_KEY_BYTES] = public_key.try_into().ok()?;
        let key = ed25519_dalek::VerifyingKey::from_bytes(&bytes).ok()?;
        // A second spelling of a point would be a second id for one key.
        let canonical = key.to_edwards().compress().to_bytes() == bytes;
        (!key.is_weak() && canonical).then(|| Self::of_ed25519(key))
    }

    fn of_ed25519(key: ed25519_dalek::VerifyingKey) -> Self {
        let bytes = key.as_bytes().to_vec();
        let key_id = key_id(Suite::Ed25519, &bytes);
        Self { key: PublicKey::Ed25519(key), bytes, key_id }
    }

    /// The group has prime order and no cofactor: a point on the curve that is not the neutral one,
    /// which has no such encoding, is safe.
    fn sm2(public_key: &[u8]) -> Option<Self> {
        if public_key.len() != SM2_KEY_BYTES || public_key[0] != UNCOMPRESSED {
            return None;
        }
        let point = sm2::PublicKey::from_sec1_bytes(public_key).ok()?;
        Self::of_sm2(point).ok()
    }

    fn of_sm2(point: sm2::PublicKey) -> Result<Self, ()> {
        let bytes = point.to_sec1_point(false).as_bytes().to_vec();
        let key = sm2::dsa::VerifyingKey::new(SM2_USER_ID, point).map_err(|_| ())?;
        let key_id = key_id(Suite::Sm2Sm3, &bytes);
        Ok(Self { key: PublicKey::Sm2(Box::new(key)), bytes, key_id })
    }

    /// Id of the key, see [`key_id`].
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// The key's bytes as its suite defines them.
    pub fn public_key(&self) -> &[u8] {
        &self.bytes
    }

    /// Suite of the key.
    pub fn suite(&self) -> Suite {
        match self.key {
            PublicKey::Ed25519(_) => Suite::Ed25519,
            PublicKey::Sm2(_) => Suite::Sm2Sm3,
        }
    }

    /// True if `signature` is the key's for `message`.
    ///
    /// Ed25519 is verified strictly: no small-order points, no second form of a signature. For SM2,
    /// r and s are 32 bytes each, from 1 to n - 1; r + s is not 0 modulo n.
    pub fn holds(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.key {
            PublicKey::Ed25519(key) => ed25519_dalek::Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify_strict(message, &signature).is_ok()),
            PublicKey::Sm2(key) => sm2::dsa::Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify(message, &signature).is_ok()),
        }
    }
}

/// Keys are the same if suite and bytes are.
impl PartialEq for VerifyingKey {
    fn eq(&self, other: &Self) -> bool {
        self.suite() == other.suite() && self.bytes == other.bytes
    }
}

impl Eq for VerifyingKey {}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("VerifyingKey").field(&self.key_id).finish()
    }
}

/// Id of a public key: the first 20 bytes of SHA-256(suite number as one byte || public key), in
/// lower-case hex. A hint for finding the key, never a proof.
pub fn key_id(suite: Suite, public_key: &[u8]) -> String {
    let number = u8::try_from(suite as i32).expect("invariant: suite numbers fit a byte");
    let digest = Sha256::new().chain_update([number]).chain_update(public_key).finalize();
    hex::encode(&digest[..KEY_ID_BYTES])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of GB/T 32918.5: private key, public key, signature of `message digest`.
    const PRIVATE: &str = "3945208f7b2144b13f36e38ac6d39f95889393692860b51a42fb81ef4df7c5b8";
    const PUBLIC: &str = "04\
        09f9df311e5421a150dd7d161e4bc5c672179fad1833fc076bb08ff356f35020\
        ccea490ce26775a52dc6ea718cc1aa600aed05fbf35e084a6632f6072da9ad13";
    const MESSAGE: &[u8] = b"message digest";
    const SIGNATURE: &str = "f5a03b0648d2c4630eeac513e1bb81a15944da3827d5b74143ac7eaceee720b3\
        b1b6aa29df212fd8763182bc0d421ca1bb9038fd1f7f42d4840b69c485bbc1aa";
    const ORDER: &str = "fffffffeffffffffffffffffffffffff7203df6b21c6052b53bbf40939d54123";
    const PRIME: &str = "fffffffeffffffffffffffffffffffffffffffff00000000ffffffffffffffff";

    fn bytes<const N: usize>(text: &str) -> [u8; N] {
        hex::decode(text).unwrap().try_into().unwrap()
    }

    fn standard() -> Signer {
        Signer::from_private_bytes(Suite::Sm2Sm3, &bytes(PRIVATE)).unwrap()
    }

    #[test]
    fn the_example_of_the_standard_holds() {
        let signer = standard();
        assert_eq!(hex::encode(signer.public_key()), PUBLIC);
        assert_eq!(*signer.private_bytes(), bytes::<32>(PRIVATE));
        let key = VerifyingKey::new(Suite::Sm2Sm3, &bytes::<65>(PUBLIC)).unwrap();
        assert_eq!(key, signer.verifying_key());
        assert!(key.holds(MESSAGE, &bytes::<64>(SIGNATURE)));
        assert!(!key.holds(b"message digesu", &bytes::<64>(SIGNATURE)));
    }

    #[test]
    fn what_is_signed_holds_and_is_the_same_each_time() {
        let signer = standard();
        for message in [&b""[..], MESSAGE, &[7; 50_000]] {
            let signature = signer.sign_bytes(message);
            assert_eq!(signature.len(), 64);
            assert_eq!(signature, signer.sign_bytes(message));
            assert!(signer.verifying_key().holds(message, &signature));
            assert_ne!(signature, signer.sign_bytes(&[message, b"."].concat()));
        }
    }

    #[test]
    fn every_flipped_bit_of_a_signature_is_refused() {
        let key = standard().verifying_key();
        for bit in 0..64 * 8 {
            let mut changed: [u8; 64] = bytes(SIGNATURE);
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(!key.holds(MESSAGE, &changed), "bit {bit}");
        }
    }

    /// Numbers outside 1 to n - 1, in either half, also where the equation would hold modulo n.
    #[test]
    fn numbers_out_of_range_and_other_lengths_are_refused() {
        let key = standard().verifying_key();
        let good: [u8; 64] = bytes(SIGNATURE);
        for number in ["00".repeat(32), ORDER.to_owned(), "ff".repeat(32)] {
            for half in [0..32, 32..64] {
                let mut changed = good;
                changed[half].copy_from_slice(&bytes::<32>(&number));
                assert!(!key.holds(MESSAGE, &changed), "{number}");
            }
        }
        // s = n - r: their sum is 0 modulo n, which the standard refuses.
        let mut opposite = good;
        let (r, order) = (bytes::<32>(&SIGNATURE[..64]), bytes::<32>(ORDER));
        opposite[32..].copy_from_slice(&minus(order, r));
        assert!(!key.holds(MESSAGE, &opposite));
        for length in [0, 1, 63, 65, 70, 72, 128] {
            let mut changed = good.to_vec();
            changed.resize(length, 0);
            assert!(!key.holds(MESSAGE, &changed), "{length} bytes");
        }
    }

    fn one() -> [u8; 32] {
        let mut one = [0; 32];
        one[31] = 1;
        one
    }

    fn minus(from: [u8; 32], what: [u8; 32]) -> [u8; 32] {
        let (mut result, mut borrow) = ([0; 32], 0);
        for index in (0..32).rev() {
            let difference = i16::from(from[index]) - i16::from(what[index]) - borrow;
            [_, result[index]] = difference.rem_euclid(256).to_be_bytes();
            borrow = i16::from(difference < 0);
        }
        result
    }

    #[test]
    fn a_public_key_has_one_encoding() {
        let refused = |key: &[u8]| {
            let verdict = VerifyingKey::new(Suite::Sm2Sm3, key);
            assert!(matches!(verdict, Err(Error::PublicKey(..))), "{key:?} was accepted");
        };
        let good: [u8; 65] = bytes(PUBLIC);
        for length in [0, 1, 32, 33, 64, 66] {
            let mut key = good.to_vec();
            key.resize(length, 0);
            refused(&key);
        }
        // Compressed, and every other first byte: hybrid, compact, unknown.
        refused(&[&[3], &good[1..33]].concat());
        for first in (0..=255).filter(|first| *first != UNCOMPRESSED) {
            let mut key = good;
            key[0] = first;
            refused(&key);
        }
        // Not on the curve; a coordinate that is the field's prime; the neutral point.
        let mut key = good;
        key[64] ^= 1;
        refused(&key);
        let mut key = good;
        key[1..33].copy_from_slice(&bytes::<32>(PRIME));
        refused(&key);
        refused(&[&[4], &[0; 64][..]].concat());
    }

    #[test]
    fn private_keys_that_cannot_sign_are_refused() {
        let refused = |text: &str| {
            let verdict = Signer::from_private_bytes(Suite::Sm2Sm3, &bytes(text));
            assert!(matches!(verdict, Err(Error::PrivateKey(Suite::Sm2Sm3))), "{text}");
        };
        refused(&"00".repeat(32));
        refused(ORDER);
        refused(&"ff".repeat(32));
        refused(&hex::encode(SM2_LAST));
        let last = minus(SM2_LAST, one());
        let signer = Signer::from_private_bytes(Suite::Sm2Sm3, &last).unwrap();
        assert!(signer.verifying_key().holds(MESSAGE, &signer.sign_bytes(MESSAGE)));
    }

    #[test]
    fn a_key_is_of_one_suite() {
        let seed = [7; 32];
        let (one, other) = (
            Signer::from_private_bytes(Suite::Ed25519, &seed).unwrap(),
            Signer::from_private_bytes(Suite::Sm2Sm3, &seed).unwrap(),
        );
        assert_ne!(one.key_id(), other.key_id());
        assert_ne!(one.verifying_key(), other.verifying_key());
        assert!(!other.verifying_key().holds(MESSAGE, &one.sign_bytes(MESSAGE)));
        assert!(!one.verifying_key().holds(MESSAGE, &other.sign_bytes(MESSAGE)));
        for suite in [Suite::Unspecified, Suite::X25519] {
            assert!(matches!(Signer::from_private_bytes(suite, &seed), Err(Error::Suite(_))));
        }
        let (ed25519, sm2) = (one.public_key(), other.public_key());
        assert!(VerifyingKey::new(Suite::Ed25519, sm2).is_err());
        assert!(VerifyingKey::new(Suite::Sm2Sm3, ed25519).is_err());
    }

    #[test]
    fn key_id_holds_the_suite_and_twenty_bytes() {
        let digest = Sha256::digest([&[1][..], &[7; 32]].concat());
        assert_eq!(key_id(Suite::Ed25519, &[7; 32]), hex::encode(&digest[..20]));
        assert_ne!(key_id(Suite::Ed25519, &[7; 32]), key_id(Suite::X25519, &[7; 32]));
        assert_eq!(key_id(Suite::Sm2Sm3, &[7; 65]).len(), 40);
    }

    #[test]
    fn debug_shows_no_private_key() {
        for suite in [Suite::Ed25519, Suite::Sm2Sm3] {
            let signer = Signer::from_private_bytes(suite, &[0xab; 32]).unwrap();
            let shown = format!("{signer:?}");
            assert!(shown.contains(signer.key_id()));
            assert!(!shown.contains("abab") && !shown.contains("171"), "{shown}");
        }
    }
}
