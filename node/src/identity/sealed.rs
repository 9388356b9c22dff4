//! Sealing of bodies to their readers: HPKE (RFC 9180) around a content key of one statement.
//!
//! Promises that a sealed key and a sealed body open only under the header that they were made for,
//! and that no key opens a body but the one that the header commits to. Must not return, log or
//! store a content key in the clear.

use std::{collections::BTreeMap, fmt};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use lianxi_proto::envelope::{Suite, key_id};
use rustls::crypto::{
    aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_CHACHA20_POLY1305 as HPKE,
    hpke::{EncapsulatedSecret, Hpke as _, HpkePrivateKey, HpkePublicKey},
};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::{
    identity::keys::AgreementKey,
    statement::sealed::{NONCE_BYTES, SealedBody, SealedKey, TAG_BYTES},
};

/// `info` of RFC 9180: what the sealed secret is for.
const INFO: &[u8] = b"lianxi.sealed-key.v1";

/// Begins what a commitment is the digest of.
const COMMITMENT: &[u8] = b"lianxi.content-key.v1\0";

/// Why something was not sealed or opened.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// The reader's public key is none that a secret can be agreed with.
    #[error("the agreement key {0} is unusable; its unit must make new keys")]
    PublicKey(String),
    /// Made for another header, by another key, or changed on the way.
    #[error("the sealed key for {0} does not open")]
    SealedKey(String),
    /// It opens, but is not the one that the header names.
    #[error("the key that was sealed for {0} is not the one that the header commits to")]
    Commitment(String),
    /// Of another header, or changed on the way.
    #[error("the sealed body does not open with its key")]
    Body,
}

/// Someone who may read: an agreement key.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Reader {
    key_id: String,
    public_key: [u8; 32],
}

impl Reader {
    /// The holder of a public agreement key.
    pub fn new(public_key: [u8; 32]) -> Self {
        Self { key_id: key_id(Suite::X25519, &public_key), public_key }
    }

    /// Id of the key.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }
}

/// Private agreement keys of one unit and its desks, old ones included: what was sealed to a key
/// opens with it for as long as it is kept.
#[derive(Default)]
pub struct KeyRing(BTreeMap<String, AgreementKey>);

impl fmt::Debug for KeyRing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.0.keys()).finish()
    }
}

impl KeyRing {
    /// Adds a key.
    pub fn add(&mut self, key: AgreementKey) {
        self.0.insert(key_id(Suite::X25519, &key.public_key()), key);
    }

    /// The private bytes of all keys.
    pub fn private_keys(&self) -> impl Iterator<Item = Zeroizing<[u8; 32]>> {
        self.0.values().map(|key| Zeroizing::new(*key.private_bytes()))
    }

    /// True if the key is held.
    pub fn holds(&self, key_id: &str) -> bool {
        self.0.contains_key(key_id)
    }

    /// Opens the first of `keys` that is for this ring; `None` if none is.
    ///
    /// # Errors
    ///
    /// One that is for this ring does not open under the header, or is another than `commitment`.
    pub fn content_key(
        &self,
        header_sha256: &[u8; 32],
        commitment: &[u8; 32],
        keys: &[SealedKey],
    ) -> Result<Option<ContentKey>, Error> {
        for sealed in keys {
            let Some(own) = self.0.get(&sealed.key_id) else { continue };
            let key = open_key(own, header_sha256, sealed)?;
            if key.commitment() != *commitment {
                return Err(Error::Commitment(sealed.key_id.clone()));
            }
            return Ok(Some(key));
        }
        Ok(None)
    }
}

fn open_key(
    own: &AgreementKey,
    header_sha256: &[u8; 32],
    sealed: &SealedKey,
) -> Result<ContentKey, Error> {
    let private = HpkePrivateKey::from(own.private_bytes().to_vec());
    let encapsulated = EncapsulatedSecret(sealed.encapsulated.to_vec());
    let opened = HPKE.open(&encapsulated, INFO, header_sha256, &sealed.sealed_key, &private);
    let opened = opened.map(Zeroizing::new);
    let bytes = opened.ok().and_then(|bytes| bytes.as_slice().try_into().ok());
    let bytes = bytes.ok_or_else(|| Error::SealedKey(sealed.key_id.clone()))?;
    Ok(ContentKey(Zeroizing::new(bytes)))
}

/// The key of one statement's body. `Debug` shows nothing of it.
pub struct ContentKey(Zeroizing<[u8; 32]>);

impl fmt::Debug for ContentKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ContentKey").finish_non_exhaustive()
    }
}

impl ContentKey {
    /// Draws a new key.
    pub fn generate() -> Self {
        let mut bytes = Zeroizing::new([0; 32]);
        crate::random::fill(&mut *bytes)
            .expect("invariant: the operating system gives random bytes");
        Self(bytes)
    }

    /// The key of these bytes, for test vectors: every statement has a new one.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Names the key without telling it. AES-GCM alone does not: one ciphertext can open with two
    /// keys.
    pub fn commitment(&self) -> [u8; 32] {
        Sha256::new().chain_update(COMMITMENT).chain_update(*self.0).finalize().into()
    }

    /// Seals the key for a reader of the statement with this header.
    ///
    /// # Errors
    ///
    /// [`Error::PublicKey`].
    pub fn seal_to(&self, header_sha256: &[u8; 32], reader: &Reader) -> Result<SealedKey, Error> {
        let unusable = || Error::PublicKey(reader.key_id.clone());
        let public = HpkePublicKey(reader.public_key.to_vec());
        let (encapsulated, sealed) =
            HPKE.seal(INFO, header_sha256, &*self.0, &public).map_err(|_| unusable())?;
        Ok(SealedKey {
            key_id: reader.key_id.clone(),
            encapsulated: encapsulated.0.try_into().map_err(|_| unusable())?,
            sealed_key: sealed.try_into().map_err(|_| unusable())?,
        })
    }

    /// Seals a body and its key to the readers.
    ///
    /// # Errors
    ///
    /// [`Error::PublicKey`].
    pub fn seal(
        &self,
        header_sha256: &[u8; 32],
        readers: &[Reader],
        body: &[u8],
    ) -> Result<SealedBody, Error> {
        let mut nonce = [0; NONCE_BYTES];
        crate::random::fill(&mut nonce)
            .expect("invariant: the operating system gives random bytes");
        let recipients = readers.iter().map(|reader| self.seal_to(header_sha256, reader));
        Ok(SealedBody {
            recipients: recipients.collect::<Result<_, _>>()?,
            nonce,
            ciphertext: self.encrypt(nonce, header_sha256, body),
        })
    }

    /// Opens a body.
    ///
    /// # Errors
    ///
    /// [`Error::Body`].
    pub fn open(&self, header_sha256: &[u8; 32], body: &SealedBody) -> Result<Vec<u8>, Error> {
        self.decrypt(body.nonce, header_sha256, &body.ciphertext)
    }

    /// AES-256-GCM; the tag stands at the end.
    pub(super) fn encrypt(&self, nonce: [u8; NONCE_BYTES], aad: &[u8], plain: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(plain.len() + TAG_BYTES);
        bytes.extend_from_slice(plain);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let sealed = self.aead().seal_in_place_append_tag(nonce, Aad::from(aad), &mut bytes);
        sealed.expect("invariant: a body is shorter than AES-GCM allows");
        bytes
    }

    /// The inverse of [`Self::encrypt`].
    pub(super) fn decrypt(
        &self,
        nonce: [u8; NONCE_BYTES],
        aad: &[u8],
        sealed: &[u8],
    ) -> Result<Vec<u8>, Error> {
        let mut bytes = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(nonce);
        let opened = self.aead().open_in_place(nonce, Aad::from(aad), &mut bytes);
        let length = opened.map_err(|_| Error::Body)?.len();
        bytes.truncate(length);
        Ok(bytes)
    }

    fn aead(&self) -> LessSafeKey {
        let key = UnboundKey::new(&AES_256_GCM, &*self.0);
        LessSafeKey::new(key.expect("invariant: a key of AES-256 has 32 bytes"))
    }
}

#[cfg(test)]
mod tests {
    use rustls::crypto::aws_lc_rs::hpke::{
        DH_KEM_X25519_HKDF_SHA256_AES_128, DH_KEM_X25519_HKDF_SHA256_AES_256,
    };

    use super::*;

    const HEADER: [u8; 32] = [7; 32];

    fn agreement(byte: u8) -> AgreementKey {
        AgreementKey::from_bytes(&[byte; 32])
    }

    fn reader(byte: u8) -> Reader {
        Reader::new(agreement(byte).public_key())
    }

    fn ring(bytes: &[u8]) -> KeyRing {
        let mut ring = KeyRing::default();
        bytes.iter().for_each(|byte| ring.add(agreement(*byte)));
        ring
    }

    fn bytes(text: &str) -> Vec<u8> {
        hex::decode(text).unwrap()
    }

    /// RFC 9180 appendix A.1.1 and A.2.1: base mode with X25519, the first encryption. The second
    /// is the suite of this module.
    #[test]
    fn vectors_of_rfc_9180_open() {
        let info = bytes("4f6465206f6e2061204772656369616e2055726e");
        let plain = bytes("4265617574792069732074727574682c20747275746820626561757479");
        let open = |suite: &dyn rustls::crypto::hpke::Hpke, private, enc, sealed| {
            let enc = EncapsulatedSecret(bytes(enc));
            let private = HpkePrivateKey::from(bytes(private));
            suite.open(&enc, &info, b"Count-0", &bytes(sealed), &private)
        };
        let aes = [
            "4612c550263fc8ad58375df3f557aac531d26850903e55a9f23f21d8534e8ac8",
            "37fda3567bdbd628e88668c3c8d7e97d1d1253b6d4ea6d44c150f741f1bf4431",
            "f938558b5d72f1a23810b4be2ab4f84331acc02fc97babc53a52ae8218a355a9\
             6d8770ac83d07bea87e13c512a",
        ];
        let chacha = [
            "8057991eef8f1f1af18f4a9491d16a1ce333f695d4db8e38da75975c4478e0fb",
            "1afa08d3dec047a643885163f1180476fa7ddb54c6a8029ea33f95796bf2ac4a",
            "1c5250d8034ec2b784ba2cfd69dbdb8af406cfe3ff938e131f0def8c8b60b4db\
             21993c62ce81883d2dd1b51a28",
        ];
        let [private, enc, sealed] = aes;
        let opened = open(DH_KEM_X25519_HKDF_SHA256_AES_128, private, enc, sealed);
        assert_eq!(opened.unwrap(), plain);
        let [private, enc, sealed] = chacha;
        assert_eq!(open(HPKE, private, enc, sealed).unwrap(), plain);
        // Another key, another suite, another encapsulated secret: nothing opens.
        open(HPKE, aes[0], enc, sealed).unwrap_err();
        open(DH_KEM_X25519_HKDF_SHA256_AES_256, private, enc, sealed).unwrap_err();
        open(HPKE, private, aes[1], sealed).unwrap_err();
    }

    #[test]
    fn the_suite_is_the_one_of_the_contract() {
        let suite = HPKE.suite();
        assert_eq!(u16::from(suite.kem), 0x20);
        assert_eq!((u16::from(suite.sym.kdf_id), u16::from(suite.sym.aead_id)), (1, 3));
    }

    #[test]
    fn every_reader_opens_the_body_and_nobody_else_does() {
        let key = ContentKey::generate();
        let body = key.seal(&HEADER, &[reader(1), reader(2)], b"clear fire exits").unwrap();
        for own in [1, 2] {
            let opened = ring(&[9, own]).content_key(&HEADER, &key.commitment(), &body.recipients);
            assert_eq!(opened.unwrap().unwrap().open(&HEADER, &body).unwrap(), b"clear fire exits");
        }
        let none = ring(&[3]).content_key(&HEADER, &key.commitment(), &body.recipients);
        assert!(none.unwrap().is_none());
        assert!(!body.ciphertext.windows(4).any(|part| part == b"fire"));
    }

    #[test]
    fn nothing_opens_under_another_header() {
        let key = ContentKey::generate();
        let body = key.seal(&HEADER, &[reader(1)], b"body").unwrap();
        let moved = ring(&[1]).content_key(&[8; 32], &key.commitment(), &body.recipients);
        assert!(matches!(moved, Err(Error::SealedKey(_))));
        assert_eq!(key.open(&[8; 32], &body), Err(Error::Body));
    }

    #[test]
    fn a_key_that_was_sealed_for_somebody_else_does_not_open() {
        let key = ContentKey::generate();
        let mut sealed = key.seal_to(&HEADER, &reader(1)).unwrap();
        sealed.key_id = reader(2).key_id().to_owned();
        let opened = ring(&[2]).content_key(&HEADER, &key.commitment(), &[sealed]);
        assert!(matches!(opened, Err(Error::SealedKey(_))));
    }

    #[test]
    fn a_key_that_the_header_does_not_commit_to_is_refused() {
        let (key, other) = (ContentKey::generate(), ContentKey::generate());
        let sealed = other.seal_to(&HEADER, &reader(1)).unwrap();
        let opened = ring(&[1]).content_key(&HEADER, &key.commitment(), &[sealed]);
        assert!(matches!(opened, Err(Error::Commitment(_))));
    }

    #[test]
    fn every_changed_byte_of_key_nonce_and_ciphertext_is_refused() {
        let key = ContentKey::generate();
        let body = key.seal(&HEADER, &[reader(1)], b"body").unwrap();
        let ring = ring(&[1]);
        let refused = |body: &SealedBody| {
            let key = ring.content_key(&HEADER, &key.commitment(), &body.recipients);
            key.and_then(|key| key.unwrap().open(&HEADER, body)).is_err()
        };
        assert!(!refused(&body));
        for at in 0..32 {
            let mut changed = body.clone();
            changed.recipients[0].encapsulated[at] ^= 1;
            assert!(refused(&changed), "byte {at} of the encapsulated secret");
        }
        for at in 0..48 {
            let mut changed = body.clone();
            changed.recipients[0].sealed_key[at] ^= 1;
            assert!(refused(&changed), "byte {at} of the sealed key");
        }
        for at in 0..NONCE_BYTES {
            let mut changed = body.clone();
            changed.nonce[at] ^= 1;
            assert!(refused(&changed), "byte {at} of the nonce");
        }
        for at in 0..body.ciphertext.len() {
            let mut changed = body.clone();
            changed.ciphertext[at] ^= 1;
            assert!(refused(&changed), "byte {at} of the ciphertext");
            changed.ciphertext.truncate(at);
            assert!(refused(&changed), "cut after {at} bytes");
        }
    }

    #[test]
    fn a_public_key_of_small_order_gets_nothing() {
        let weak = Reader::new([0; 32]);
        let refused = ContentKey::generate().seal_to(&HEADER, &weak);
        assert_eq!(refused, Err(Error::PublicKey(weak.key_id().to_owned())));
    }

    #[test]
    fn debug_shows_no_key() {
        let shown = format!("{:?} {:?}", ring(&[0xab]), ContentKey::from_bytes([0xab; 32]));
        assert!(!shown.contains("abab") && !shown.contains("171"), "{shown}");
    }
}
