//! The two ciphers, each over a key that seals one batch or one chunked file and nothing else.

use aes_gcm::{
    AesGcm, KeyInit as _,
    aead::{AeadInOut as _, consts::U12},
};
use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    hkdf::{self, KeyType, Prk},
};
use sm4::Sm4;
use zeroize::Zeroizing;

use crate::domain::protection::Cipher;

/// Bytes of a tag, in either.
pub(super) const TAG_BYTES: usize = 16;

/// Bytes of a key of [`Prk`], and of every secret that keys are derived from.
pub(super) const SECRET_BYTES: usize = 32;

const NONCE_BYTES: usize = 12;

/// A key with its cipher. Nonces are numbers, each used once: whoever makes the key counts.
pub(super) enum Key {
    Aes(Box<LessSafeKey>),
    Sm4(Box<AesGcm<Sm4, U12>>),
}

/// Length of what HKDF gives.
struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// Fills `key` from a secret, for one purpose and one salt (HKDF-SHA256, RFC 5869).
pub(super) fn derive(secret: &Prk, purpose: &str, salt: &[u8], key: &mut [u8]) {
    secret
        .expand(&[purpose.as_bytes(), &[0], salt], Length(key.len()))
        .and_then(|expanded| expanded.fill(key))
        .expect("invariant: HKDF-SHA256 gives up to 8160 bytes");
}

/// A secret of random bytes, ready to derive from.
pub(super) fn secret(bytes: &[u8; SECRET_BYTES]) -> Prk {
    Prk::new_less_safe(hkdf::HKDF_SHA256, bytes)
}

impl Key {
    /// The key of `cipher` for one purpose and one salt; `None` if nothing is to be encrypted.
    pub(super) fn derive(cipher: Cipher, from: &Prk, purpose: &str, salt: &[u8]) -> Option<Self> {
        let purpose = format!("lianxi {purpose} v1 {cipher}");
        match cipher {
            Cipher::None => None,
            Cipher::Aes256Gcm => {
                let mut key = Zeroizing::new([0; 32]);
                derive(from, &purpose, salt, key.as_mut_slice());
                let key = UnboundKey::new(&AES_256_GCM, key.as_slice());
                let key = key.expect("invariant: AES-256 takes 32 bytes");
                Some(Self::Aes(Box::new(LessSafeKey::new(key))))
            }
            Cipher::Sm4Gcm => {
                let mut key = Zeroizing::new([0; 16]);
                derive(from, &purpose, salt, key.as_mut_slice());
                Some(Self::sm4(&key))
            }
        }
    }

    fn sm4(key: &[u8; 16]) -> Self {
        Self::Sm4(Box::new(AesGcm::new(&(*key).into())))
    }

    /// Encrypts `content` where it lies, from the place `from` on, and appends the tag.
    pub(super) fn seal(&self, number: u64, context: &[u8], content: &mut Vec<u8>, from: usize) {
        let nonce = nonce(number);
        self.seal_under(nonce, context, content, from);
    }

    fn seal_under(
        &self,
        nonce: [u8; NONCE_BYTES],
        context: &[u8],
        content: &mut Vec<u8>,
        from: usize,
    ) {
        let plain = &mut content[from..];
        let tag: [u8; TAG_BYTES] = match self {
            Self::Aes(key) => {
                let nonce = Nonce::assume_unique_for_key(nonce);
                let tag = key.seal_in_place_separate_tag(nonce, Aad::from(context), plain);
                let tag = tag.expect("invariant: values and chunks are short");
                tag.as_ref().try_into().expect("invariant: a tag of GCM has 16 bytes")
            }
            Self::Sm4(key) => {
                let tag = key.encrypt_inout_detached(&nonce.into(), context, plain.into());
                tag.expect("invariant: values and chunks are short").into()
            }
        };
        content.extend_from_slice(&tag);
    }

    /// Opens what [`Key::seal`] made; `None` if a byte of it, of the context or of the number was
    /// another.
    pub(super) fn open(&self, number: u64, context: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        self.open_under(nonce(number), context, sealed)
    }

    fn open_under(
        &self,
        nonce: [u8; NONCE_BYTES],
        context: &[u8],
        sealed: &[u8],
    ) -> Option<Vec<u8>> {
        let (sealed, tag) = sealed.split_last_chunk::<TAG_BYTES>()?;
        match self {
            Self::Aes(key) => {
                let mut content = vec![0; sealed.len()];
                let nonce = Nonce::assume_unique_for_key(nonce);
                key.open_separate_gather(nonce, Aad::from(context), sealed, tag, &mut content)
                    .ok()?;
                Some(content)
            }
            Self::Sm4(key) => {
                let mut content = sealed.to_vec();
                let buffer = content.as_mut_slice().into();
                key.decrypt_inout_detached(&nonce.into(), context, buffer, &(*tag).into()).ok()?;
                Some(content)
            }
        }
    }
}

fn nonce(number: u64) -> [u8; NONCE_BYTES] {
    let mut nonce = [0; NONCE_BYTES];
    nonce[4..].copy_from_slice(&number.to_be_bytes());
    nonce
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes<const N: usize>(text: &str) -> [u8; N] {
        hex::decode(text).unwrap().try_into().unwrap()
    }

    /// RFC 8998, appendix A.1.
    #[test]
    fn sm4_gcm_is_that_of_the_standard() {
        let key = Key::sm4(&bytes("0123456789abcdeffedcba9876543210"));
        let nonce = bytes("00001234567800000000abcd");
        let context = hex::decode("feedfacedeadbeeffeedfacedeadbeefabaddad2").unwrap();
        let plain = hex::decode(
            "aaaaaaaaaaaaaaaabbbbbbbbbbbbbbbbccccccccccccccccdddddddddddddddd\
             eeeeeeeeeeeeeeeeffffffffffffffffeeeeeeeeeeeeeeeeaaaaaaaaaaaaaaaa",
        )
        .unwrap();
        let expected = hex::decode(
            "17f399f08c67d5ee19d0dc9969c4bb7d5fd46fd3756489069157b282bb200735\
             d82710ca5c22f0ccfa7cbf93d496ac15a56834cbcf98c397b4024a2691233b8d\
             83de3541e4c2b58177e065a9bf7b62ec",
        )
        .unwrap();
        let mut sealed = plain.clone();
        key.seal_under(nonce, &context, &mut sealed, 0);
        assert_eq!(hex::encode(&sealed), hex::encode(expected));
        assert_eq!(key.open_under(nonce, &context, &sealed), Some(plain));
    }

    #[test]
    fn what_was_changed_anywhere_does_not_open() {
        let secret = secret(&[7; SECRET_BYTES]);
        for cipher in [Cipher::Aes256Gcm, Cipher::Sm4Gcm] {
            let key = Key::derive(cipher, &secret, "test", b"salt").unwrap();
            let mut sealed = b"kept private".to_vec();
            key.seal(3, b"context", &mut sealed, 5);
            assert_eq!(&sealed[..5], b"kept ", "{cipher}");
            let sealed = &sealed[5..];
            assert_eq!(key.open(3, b"context", sealed).as_deref(), Some(&b"private"[..]));
            assert_eq!(key.open(4, b"context", sealed), None);
            assert_eq!(key.open(3, b"contexu", sealed), None);
            for position in 0..sealed.len() {
                let mut changed = sealed.to_vec();
                changed[position] ^= 1;
                assert_eq!(key.open(3, b"context", &changed), None, "{cipher}, byte {position}");
            }
            assert_eq!(key.open(3, b"context", &sealed[..TAG_BYTES - 1]), None);
            let other = Key::derive(cipher, &secret, "test", b"salu").unwrap();
            assert_eq!(other.open(3, b"context", sealed), None);
        }
    }
}
