//! Signs and verifies envelopes: DSSE v1 (secure-systems-lab/dsse), in the suite of each key.
//!
//! Promises that a payload counts as signed only if every signature of its envelope holds for a
//! key that the caller trusts, under the payload type that the caller expects. Must not read the
//! payload, and must not decide whom to trust: the caller brings the keys.

use sha2::{Digest, Sha256};

pub use crate::suite::{Signer, Suite, VerifyingKey, key_id};
use crate::types::v1::{Envelope, Signature};

/// Payload type of statements.
pub const STATEMENT_TYPE: &str = "application/vnd.lianxi.statement.v1+protobuf";

/// Largest payload.
pub const MAX_PAYLOAD_BYTES: usize = 48 * 1024;

/// Most signatures of one envelope.
pub const MAX_SIGNATURES: usize = 16;

/// Why an envelope or a key was not accepted.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// The payload type is not the one that the caller expects.
    #[error("payload type is {found:?}, not {expected:?}")]
    PayloadType {
        /// Type of the envelope, cut to 100 characters.
        found: String,
        /// Type that the caller expects.
        expected: String,
    },
    /// The payload is over [`MAX_PAYLOAD_BYTES`].
    #[error("payload of {0} bytes is over the limit of 49152")]
    TooLarge(usize),
    /// Nobody signed.
    #[error("envelope has no signature")]
    NoSignature,
    /// More than [`MAX_SIGNATURES`].
    #[error("envelope has {0} signatures, over the limit of 16")]
    TooManySignatures(usize),
    /// One key signed twice, so that signatures would count more than keys.
    #[error("key {0} signed twice")]
    DuplicateKey(String),
    /// None of the caller's keys has this id.
    #[error("signing key {0} is unknown")]
    UnknownKey(String),
    /// The signature of a known key does not hold: payload, type or signature were changed.
    #[error("signature by key {0} does not hold")]
    BadSignature(String),
    /// The suite has no signatures, or this program does not know them.
    #[error("suite {0:?} has no signatures here, use SUITE_ED25519 or SUITE_SM2_SM3")]
    Suite(Suite),
    /// The bytes are no public key of the suite, or one that anybody could sign for.
    #[error("{0} bytes are no safe public key of suite {1:?}")]
    PublicKey(usize, Suite),
    /// The bytes are no private key of the suite.
    #[error("the bytes are no private key of suite {0:?}; make a new key")]
    PrivateKey(Suite),
}

/// The bytes that are signed (DSSE v1, PAE): `DSSEv1 SP LEN(type) SP type SP LEN(payload) SP payload`,
/// lengths in bytes as decimal text.
pub fn pre_authentication_encoding(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len());
    let mut encoding = head.into_bytes();
    encoding.extend_from_slice(payload);
    encoding
}

/// Wraps `payload` with one signature of each signer, in their order.
///
/// The caller keeps to [`MAX_PAYLOAD_BYTES`], and to 1 to [`MAX_SIGNATURES`] different signers:
/// [`verify`] refuses anything else.
pub fn sign(payload_type: &str, payload: Vec<u8>, signers: &[&Signer]) -> Envelope {
    let message = pre_authentication_encoding(payload_type, &payload);
    let signatures = signers
        .iter()
        .map(|signer| Signature {
            key_id: signer.key_id().to_owned(),
            signature: signer.sign_bytes(&message),
        })
        .collect();
    Envelope { payload_type: payload_type.to_owned(), payload: payload.into(), signatures }
}

/// Verifies every signature of `envelope`, and returns the indexes of the `keys` that signed, in
/// the order of the signatures.
///
/// Stricter than DSSE asks: one signature that is unknown or does not hold refuses the whole, so
/// that nothing unverified is ever forwarded. Each signature is verified strictly, see
/// [`VerifyingKey::holds`].
///
/// # Errors
///
/// In this order: [`Error::PayloadType`], [`Error::TooLarge`], [`Error::NoSignature`],
/// [`Error::TooManySignatures`], then by signature [`Error::DuplicateKey`],
/// [`Error::UnknownKey`], [`Error::BadSignature`].
pub fn verify(
    envelope: &Envelope,
    payload_type: &str,
    keys: &[VerifyingKey],
) -> Result<Vec<usize>, Error> {
    check_shape(envelope, payload_type)?;
    let message = pre_authentication_encoding(&envelope.payload_type, &envelope.payload);
    let mut signed = Vec::with_capacity(envelope.signatures.len());
    for (position, signature) in envelope.signatures.iter().enumerate() {
        let id = || shown(&signature.key_id);
        if envelope.signatures[..position].iter().any(|other| other.key_id == signature.key_id) {
            return Err(Error::DuplicateKey(id()));
        }
        let key = keys.iter().position(|key| key.key_id() == signature.key_id);
        let key = key.ok_or_else(|| Error::UnknownKey(id()))?;
        if !keys[key].holds(&message, &signature.signature) {
            return Err(Error::BadSignature(id()));
        }
        signed.push(key);
    }
    Ok(signed)
}

/// SHA-256 of the payload's bytes: how statements are named in coverage and rejections.
pub fn payload_sha256(envelope: &Envelope) -> [u8; 32] {
    Sha256::digest(&envelope.payload).into()
}

/// Refuses what need not be hashed to be refused.
fn check_shape(envelope: &Envelope, payload_type: &str) -> Result<(), Error> {
    if envelope.payload_type != payload_type {
        let found = shown(&envelope.payload_type);
        return Err(Error::PayloadType { found, expected: payload_type.to_owned() });
    }
    if envelope.payload.len() > MAX_PAYLOAD_BYTES {
        return Err(Error::TooLarge(envelope.payload.len()));
    }
    match envelope.signatures.len() {
        0 => Err(Error::NoSignature),
        1..=MAX_SIGNATURES => Ok(()),
        count => Err(Error::TooManySignatures(count)),
    }
}

/// Text of a stranger, cut so that it cannot flood a log.
fn shown(text: &str) -> String {
    text.chars().take(100).collect()
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::Verifier as _;
    use prost::Message as _;

    use super::*;

    /// RFC 8032 §7.1, tests 1 and 2.
    const SEED_1: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
    const PUBLIC_1: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    const SEED_2: &str = "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb";
    const PUBLIC_2: &str = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c";

    /// Order of the group (RFC 8032 §5.1), little-endian.
    const ORDER: &str = "edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010";

    fn bytes<const N: usize>(text: &str) -> [u8; N] {
        hex::decode(text).unwrap().try_into().unwrap()
    }

    fn signer(number: u8) -> Signer {
        Signer::from_seed(&[number; 32])
    }

    fn keys(signers: &[&Signer]) -> Vec<VerifyingKey> {
        signers.iter().map(|signer| signer.verifying_key()).collect()
    }

    #[test]
    fn pre_authentication_encoding_is_that_of_the_dsse_specification() {
        assert_eq!(
            pre_authentication_encoding("http://example.com/HelloWorld", b"hello world"),
            b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
        );
        assert_eq!(pre_authentication_encoding("", b""), b"DSSEv1 0  0 ");
        // Lengths count bytes, not characters.
        assert_eq!(
            pre_authentication_encoding("联", "席\0".as_bytes()),
            "DSSEv1 3 联 4 席\0".as_bytes()
        );
    }

    #[test]
    fn keys_of_rfc_8032_come_from_their_seeds() {
        for (seed, public) in [(SEED_1, PUBLIC_1), (SEED_2, PUBLIC_2)] {
            let signer = Signer::from_seed(&bytes(seed));
            assert_eq!(signer.public_key(), bytes::<32>(public));
            assert_eq!(*signer.private_bytes(), bytes::<32>(seed));
            let key = VerifyingKey::new(signer.suite(), signer.public_key()).unwrap();
            assert_eq!(key.key_id(), signer.key_id());
            assert_eq!(key.public_key(), signer.public_key());
        }
    }

    #[test]
    fn every_signer_is_named_in_the_order_of_the_signatures() {
        let (one, two, three) = (signer(1), signer(2), signer(3));
        for payload in [vec![], vec![0], "市、区、街道、社区".into(), vec![7; MAX_PAYLOAD_BYTES]]
        {
            let envelope = sign(STATEMENT_TYPE, payload.clone(), &[&three, &one]);
            let known = keys(&[&one, &two, &three]);
            assert_eq!(verify(&envelope, STATEMENT_TYPE, &known), Ok(vec![2, 0]));
            assert_eq!(envelope.payload, payload);
            assert_eq!(payload_sha256(&envelope)[..], Sha256::digest(&payload)[..]);
        }
    }

    #[test]
    fn signing_again_gives_the_same_bytes() {
        let again = || sign(STATEMENT_TYPE, b"same".to_vec(), &[&signer(1)]).encode_to_vec();
        assert_eq!(again(), again());
    }

    #[test]
    fn another_payload_type_is_refused() {
        let one = signer(1);
        let envelope = sign("application/json", b"{}".to_vec(), &[&one]);
        let refused = verify(&envelope, STATEMENT_TYPE, &keys(&[&one]));
        assert!(matches!(refused, Err(Error::PayloadType { .. })), "{refused:?}");

        // The type is under the signature: a relabelled envelope does not pass either.
        let relabelled = Envelope { payload_type: STATEMENT_TYPE.to_owned(), ..envelope };
        let refused = verify(&relabelled, STATEMENT_TYPE, &keys(&[&one]));
        assert_eq!(refused, Err(Error::BadSignature(one.key_id().to_owned())));
    }

    #[test]
    fn a_long_payload_type_is_cut_in_the_error() {
        let envelope = sign(&"市".repeat(5000), vec![], &[&signer(1)]);
        let Err(Error::PayloadType { found, .. }) = verify(&envelope, STATEMENT_TYPE, &[]) else {
            panic!("not refused for its type");
        };
        assert_eq!(found.chars().count(), 100);
    }

    #[test]
    fn every_flipped_bit_of_the_serialised_envelope_is_refused() {
        let one = signer(1);
        let whole = sign(STATEMENT_TYPE, b"received=5".to_vec(), &[&one]).encode_to_vec();
        for bit in 0..whole.len() * 8 {
            let mut changed = whole.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let Ok(envelope) = Envelope::decode(&changed[..]) else { continue };
            let verdict = verify(&envelope, STATEMENT_TYPE, &keys(&[&one]));
            assert!(verdict.is_err(), "bit {} of byte {} is not covered", bit % 8, bit / 8);
        }
    }

    /// Nothing binds the signatures to each other: whoever needs several asks who signed.
    #[test]
    fn a_signature_that_was_taken_off_is_missing_among_those_who_signed() {
        let (one, two) = (signer(1), signer(2));
        let mut envelope = sign(STATEMENT_TYPE, vec![1], &[&one, &two]);
        envelope.signatures.remove(0);
        assert_eq!(verify(&envelope, STATEMENT_TYPE, &keys(&[&one, &two])), Ok(vec![1]));
    }

    #[test]
    fn every_changed_byte_of_payload_and_signature_is_a_bad_signature() {
        let one = signer(1);
        let good = sign(STATEMENT_TYPE, b"received=5".to_vec(), &[&one]);
        let bad = Err(Error::BadSignature(one.key_id().to_owned()));
        for position in 0..good.payload.len() {
            let mut payload = good.payload.to_vec();
            payload[position] ^= 0x80;
            let changed = Envelope { payload: payload.into(), ..good.clone() };
            assert_eq!(verify(&changed, STATEMENT_TYPE, &keys(&[&one])), bad);
        }
        for position in 0..64 {
            let mut changed = good.clone();
            changed.signatures[0].signature[position] ^= 1;
            assert_eq!(verify(&changed, STATEMENT_TYPE, &keys(&[&one])), bad);
        }
    }

    #[test]
    fn a_cut_padded_or_missing_signature_or_payload_is_refused() {
        let one = signer(1);
        let good = sign(STATEMENT_TYPE, b"received=5".to_vec(), &[&one]);
        for length in [0, 1, 63, 65, 128] {
            let mut changed = good.clone();
            changed.signatures[0].signature.resize(length, 0);
            let verdict = verify(&changed, STATEMENT_TYPE, &keys(&[&one]));
            assert!(matches!(verdict, Err(Error::BadSignature(_))), "{length} bytes: {verdict:?}");
        }
        for payload in [&b""[..], b"received=", b"received=5\0"] {
            let changed = Envelope { payload: payload.to_vec().into(), ..good.clone() };
            assert!(verify(&changed, STATEMENT_TYPE, &keys(&[&one])).is_err());
        }
    }

    #[test]
    fn an_unknown_key_is_refused_even_beside_a_good_signature() {
        let (one, two) = (signer(1), signer(2));
        let envelope = sign(STATEMENT_TYPE, vec![1], &[&one, &two]);
        let unknown = Err(Error::UnknownKey(two.key_id().to_owned()));
        assert_eq!(verify(&envelope, STATEMENT_TYPE, &keys(&[&one])), unknown);
        let unknown = Err(Error::UnknownKey(one.key_id().to_owned()));
        assert_eq!(verify(&envelope, STATEMENT_TYPE, &[]), unknown);
    }

    #[test]
    fn a_key_id_is_no_proof() {
        let (one, two) = (signer(1), signer(2));
        let mut envelope = sign(STATEMENT_TYPE, vec![1], &[&two]);
        envelope.signatures[0].key_id = one.key_id().to_owned();
        let bad = Err(Error::BadSignature(one.key_id().to_owned()));
        assert_eq!(verify(&envelope, STATEMENT_TYPE, &keys(&[&one, &two])), bad);

        // Written in capitals it is another text, and so another key.
        let mut envelope = sign(STATEMENT_TYPE, vec![1], &[&one]);
        envelope.signatures[0].key_id = one.key_id().to_uppercase();
        let verdict = verify(&envelope, STATEMENT_TYPE, &keys(&[&one]));
        assert!(matches!(verdict, Err(Error::UnknownKey(_))));
    }

    #[test]
    fn one_key_never_counts_twice() {
        let one = signer(1);
        let envelope = sign(STATEMENT_TYPE, vec![1], &[&one, &one]);
        let twice = Err(Error::DuplicateKey(one.key_id().to_owned()));
        assert_eq!(verify(&envelope, STATEMENT_TYPE, &keys(&[&one])), twice);
    }

    #[test]
    fn a_key_that_is_listed_twice_is_found() {
        let one = signer(1);
        let envelope = sign(STATEMENT_TYPE, vec![1], &[&one]);
        assert_eq!(verify(&envelope, STATEMENT_TYPE, &keys(&[&one, &one])), Ok(vec![0]));
    }

    #[test]
    fn the_number_of_signatures_is_bounded() {
        let signers: Vec<_> = (0..17).map(signer).collect();
        let signers: Vec<_> = signers.iter().collect();
        let known = keys(&signers);
        let none = sign(STATEMENT_TYPE, vec![1], &[]);
        assert_eq!(verify(&none, STATEMENT_TYPE, &known), Err(Error::NoSignature));
        let most = sign(STATEMENT_TYPE, vec![1], &signers[..16]);
        assert_eq!(verify(&most, STATEMENT_TYPE, &known), Ok((0..16).collect()));
        let over = sign(STATEMENT_TYPE, vec![1], &signers);
        assert_eq!(verify(&over, STATEMENT_TYPE, &known), Err(Error::TooManySignatures(17)));
    }

    #[test]
    fn a_payload_over_the_limit_is_refused() {
        let one = signer(1);
        let envelope = sign(STATEMENT_TYPE, vec![0; MAX_PAYLOAD_BYTES + 1], &[&one]);
        let refused = Err(Error::TooLarge(MAX_PAYLOAD_BYTES + 1));
        assert_eq!(verify(&envelope, STATEMENT_TYPE, &keys(&[&one])), refused);
        assert!(Error::TooLarge(1).to_string().contains(&MAX_PAYLOAD_BYTES.to_string()));
        assert!(Error::TooManySignatures(17).to_string().contains(&MAX_SIGNATURES.to_string()));
    }

    /// Adds the group order to S: the same equation holds, so a lax verifier takes both forms.
    #[test]
    fn a_second_form_of_a_signature_is_refused() {
        let one = signer(1);
        let mut envelope = sign(STATEMENT_TYPE, vec![1], &[&one]);
        let mut carry = 0;
        for (byte, order) in
            envelope.signatures[0].signature[32..].iter_mut().zip(bytes::<32>(ORDER))
        {
            let sum = u16::from(*byte) + u16::from(order) + carry;
            [*byte, _] = sum.to_le_bytes();
            carry = sum >> 8;
        }
        let verdict = verify(&envelope, STATEMENT_TYPE, &keys(&[&one]));
        assert!(matches!(verdict, Err(Error::BadSignature(_))));
    }

    /// With R the neutral point and S = k·a the plain equation holds, so a signer could later
    /// claim another message; strict verification refuses R of small order.
    #[test]
    fn verification_is_strict() {
        let payload_type = "http://example.com/HelloWorld";
        let key = VerifyingKey::new(Suite::Ed25519, &bytes::<32>(PUBLIC_1)).unwrap();
        let lax: [u8; 64] = bytes(
            "0100000000000000000000000000000000000000000000000000000000000000\
             41a25b36e324945f6ea1b0edae1e36ed8df483ae67d2136fa8f9b64b65e4b00b",
        );
        let message = pre_authentication_encoding(payload_type, b"hello world");
        let plain = ed25519_dalek::VerifyingKey::from_bytes(&bytes(PUBLIC_1)).unwrap();
        assert!(plain.verify(&message, &ed25519_dalek::Signature::from_bytes(&lax)).is_ok());

        let envelope = Envelope {
            payload_type: payload_type.to_owned(),
            payload: b"hello world".to_vec().into(),
            signatures: vec![Signature {
                key_id: key.key_id().to_owned(),
                signature: lax.to_vec(),
            }],
        };
        let verdict = verify(&envelope, payload_type, &[key]);
        assert!(matches!(verdict, Err(Error::BadSignature(_))));
    }

    #[test]
    fn unsafe_public_keys_are_refused() {
        let refused = |key: &[u8]| {
            let verdict = VerifyingKey::new(Suite::Ed25519, key);
            assert!(matches!(verdict, Err(Error::PublicKey(..))), "{key:?} was accepted");
        };
        for length in [0, 31, 33, 64] {
            refused(&vec![9; length]);
        }
        // Not on the curve.
        refused(&bytes::<32>("0200000000000000000000000000000000000000000000000000000000000000"));
        // The neutral point, the point of order two, one of order eight.
        refused(&bytes::<32>("0100000000000000000000000000000000000000000000000000000000000000"));
        refused(&bytes::<32>("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"));
        refused(&bytes::<32>("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"));
        // p + 3: a second spelling of y = 3.
        refused(&bytes::<32>("f0ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"));
        assert!(
            VerifyingKey::new(
                Suite::Ed25519,
                &bytes::<32>("0300000000000000000000000000000000000000000000000000000000000000")
            )
            .is_ok()
        );
    }

    #[test]
    fn suites_without_signatures_here_are_named() {
        for suite in [Suite::Unspecified, Suite::X25519] {
            let verdict = VerifyingKey::new(suite, &bytes::<32>(PUBLIC_1));
            assert!(matches!(verdict, Err(Error::Suite(named)) if named == suite));
        }
    }
}
