//! Protection of key files at rest: AES-256-GCM under a key of the host, which a passphrase
//! (argon2id) or a systemd credential opens.
//!
//! Promises that a sealed file tells nothing without the host key, that the host key is on disk
//! only wrapped, that a wrong passphrase costs what the parameters beside it say, and that secrets
//! are wiped from memory. Must not ask anybody for a passphrase: callers bring it.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf,
};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{Error, file, random};
pub use crate::domain::protection::Method;

/// File of the wrapped host key, in the directory of all keys of a host.
const FILE: &str = "host.key";

const MAGIC: &[u8; 11] = b"lianxi-lock";
const VERSION: u8 = 1;
const SALT_BYTES: usize = 16;
pub(super) const KEY_BYTES: usize = 32;
const CHECKSUM_BYTES: usize = 32;

/// Fewest characters of a passphrase.
const MIN_PASSPHRASE: usize = 12;

/// Fewest bytes of a credential: it is used as a key, not stretched.
const MIN_CREDENTIAL: usize = 32;

/// Most memory that a file can ask for, in KiB: a damaged file must not take the machine.
const MAX_MEMORY_KIB: u32 = 1024 * 1024;

/// Most passes that a file can ask for.
const MAX_PASSES: u32 = 64;

/// What opens the host key. Wiped from memory when dropped; `Debug` shows nothing of it.
pub struct Secret {
    method: Method,
    bytes: Zeroizing<Vec<u8>>,
}

impl Secret {
    /// A passphrase as somebody typed it.
    ///
    /// # Errors
    ///
    /// [`Error::WeakSecret`] under 12 characters.
    pub fn passphrase(text: Zeroizing<String>) -> Result<Self, Error> {
        if text.chars().count() < MIN_PASSPHRASE {
            return Err(Error::WeakSecret("a passphrase has at least 12 characters"));
        }
        let bytes = Zeroizing::new(text.as_bytes().to_vec());
        Ok(Self { method: Method::Passphrase, bytes })
    }

    /// A credential: random bytes from a file of the system.
    ///
    /// # Errors
    ///
    /// [`Error::WeakSecret`] under 32 bytes.
    pub fn credential(bytes: Zeroizing<Vec<u8>>) -> Result<Self, Error> {
        if bytes.len() < MIN_CREDENTIAL {
            return Err(Error::WeakSecret("a credential has at least 32 random bytes"));
        }
        Ok(Self { method: Method::Credential, bytes })
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Secret").field("method", &self.method).finish_non_exhaustive()
    }
}

/// What one guess of a passphrase costs. Stored beside the wrapped key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Cost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
}

impl Default for Cost {
    /// 64 MiB, three passes: the second choice of RFC 9106 §4, on one lane.
    fn default() -> Self {
        Self { memory_kib: 64 * 1024, passes: 3 }
    }
}

/// The key that seals a host's key files. Never written but wrapped.
struct HostKey(Zeroizing<[u8; KEY_BYTES]>);

/// What a host needs to read and write its keys. Clones share one key in memory.
#[derive(Clone, Default)]
pub struct Lock(Option<Arc<HostKey>>);

impl Lock {
    /// For keys that nothing but their mode protects.
    pub fn none() -> Self {
        Self(None)
    }

    /// How the keys below `keys` are protected.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`], and those of reading a key file.
    pub fn method(keys: &Path) -> Result<Method, Error> {
        match file::read(&keys.join(FILE)) {
            Err(Error::Missing(_)) => Ok(Method::None),
            Err(error) => Err(error),
            Ok(content) => Ok(Wrapped::parse(&keys.join(FILE), &content)?.method),
        }
    }

    /// Opens the lock of the keys below `keys`.
    ///
    /// # Errors
    ///
    /// [`Error::WrongSecret`], [`Error::OtherMethod`], [`Error::Missing`] if there is no lock, and
    /// those of reading a key file.
    pub fn open(keys: &Path, secret: &Secret) -> Result<Self, Error> {
        let path = keys.join(FILE);
        let content = file::read(&path)?;
        let wrapped = Wrapped::parse(&path, &content)?;
        if wrapped.method != secret.method {
            return Err(Error::OtherMethod { path, is: wrapped.method, given: secret.method });
        }
        let key = wrapped.unwrap(secret).ok_or(Error::WrongSecret(secret.method))?;
        Ok(Self(Some(Arc::new(HostKey(key)))))
    }

    /// Makes a new lock for the keys below `keys`.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`], [`Error::File`].
    pub(super) fn create(keys: &Path, secret: &Secret, cost: Cost) -> Result<Self, Error> {
        let key = HostKey(random());
        file::write(keys, FILE, &Wrapped::wrap(&key, secret, cost))?;
        Ok(Self(Some(Arc::new(key))))
    }

    /// Wraps the same key anew, in one step.
    ///
    /// # Errors
    ///
    /// [`Error::File`].
    pub(super) fn rewrap(&self, keys: &Path, secret: &Secret, cost: Cost) -> Result<(), Error> {
        match &self.0 {
            None => Err(Error::Missing(keys.join(FILE))),
            Some(key) => file::replace(&keys.join(FILE), &Wrapped::wrap(key, secret, cost)),
        }
    }

    /// True if there is a key that seals.
    pub fn seals(&self) -> bool {
        self.0.is_some()
    }

    /// A secret of its own for what else the host keeps sealed; the same for the same purpose, and it
    /// tells nothing of the key. `None` if nothing seals here.
    pub fn derived(&self, purpose: &str) -> Option<Zeroizing<[u8; KEY_BYTES]>> {
        let key = self.0.as_ref()?;
        let mut derived = Zeroizing::new([0; KEY_BYTES]);
        hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, key.0.as_slice())
            .expand(&[b"lianxi host key for ", purpose.as_bytes()], hkdf::HKDF_SHA256)
            .and_then(|expanded| expanded.fill(derived.as_mut_slice()))
            .expect("invariant: HKDF-SHA256 gives 32 bytes");
        Some(derived)
    }

    /// Seals what is to be written; `None` if nothing seals here. Nonce, ciphertext, tag.
    pub(super) fn seal(&self, context: &[u8], plain: &[u8]) -> Option<Vec<u8>> {
        self.0.as_ref().map(|key| seal(&key.0, context, plain))
    }

    /// Opens what [`Lock::seal`] made; `None` if this is not its key, or the bytes were changed.
    pub(super) fn unseal(&self, context: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        unseal(&self.0.as_ref()?.0, context, sealed)
    }
}

/// File of the lock of the keys below `keys`.
pub(super) fn path(keys: &Path) -> PathBuf {
    keys.join(FILE)
}

impl fmt::Debug for Lock {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Lock").field("seals", &self.seals()).finish_non_exhaustive()
    }
}

pub(super) fn seal(key: &[u8; KEY_BYTES], context: &[u8], plain: &[u8]) -> Vec<u8> {
    let mut nonce = [0; NONCE_LEN];
    getrandom::fill(&mut nonce).expect("invariant: the operating system gives random bytes");
    // Grown here in clear and encrypted in place: nothing of it is left behind elsewhere.
    let mut sealed = Vec::with_capacity(plain.len() + AES_256_GCM.tag_len());
    sealed.extend_from_slice(plain);
    cipher(key)
        .seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(context),
            &mut sealed,
        )
        .expect("invariant: key files are short");
    [&nonce[..], &sealed].concat()
}

pub(super) fn unseal(
    key: &[u8; KEY_BYTES],
    context: &[u8],
    sealed: &[u8],
) -> Option<Zeroizing<Vec<u8>>> {
    let (nonce, content) = sealed.split_first_chunk::<NONCE_LEN>()?;
    let mut content = Zeroizing::new(content.to_vec());
    let nonce = Nonce::assume_unique_for_key(*nonce);
    let length = cipher(key).open_in_place(nonce, Aad::from(context), &mut content).ok()?.len();
    content.truncate(length);
    Some(content)
}

fn cipher(key: &[u8; KEY_BYTES]) -> LessSafeKey {
    let key = UnboundKey::new(&AES_256_GCM, key);
    LessSafeKey::new(key.expect("invariant: AES-256 takes 32 bytes"))
}

/// The file: magic, version, method, memory, passes, salt, then nonce, wrapped key and tag under
/// all before them, and SHA-256 of the whole, which tells damage from a wrong passphrase.
struct Wrapped<'a> {
    method: Method,
    cost: Cost,
    salt: [u8; SALT_BYTES],
    head: &'a [u8],
    sealed: &'a [u8],
}

impl<'a> Wrapped<'a> {
    fn wrap(key: &HostKey, secret: &Secret, cost: Cost) -> Zeroizing<Vec<u8>> {
        let mut salt = [0; SALT_BYTES];
        getrandom::fill(&mut salt).expect("invariant: the operating system gives random bytes");
        let mut content = Zeroizing::new(MAGIC.to_vec());
        content.extend_from_slice(&[VERSION, number(secret.method)]);
        content.extend_from_slice(&cost.memory_kib.to_be_bytes());
        content.extend_from_slice(&cost.passes.to_be_bytes());
        content.extend_from_slice(&salt);
        let sealed = seal(&stretch(secret, cost, &salt), &content, key.0.as_slice());
        content.extend_from_slice(&sealed);
        let checksum = Sha256::digest(content.as_slice());
        content.extend_from_slice(&checksum);
        content
    }

    fn parse(path: &Path, content: &'a [u8]) -> Result<Self, Error> {
        let damaged = |reason| Error::Damaged { path: path.to_owned(), reason };
        let (whole, checksum) = content
            .len()
            .checked_sub(CHECKSUM_BYTES)
            .map(|length| content.split_at(length))
            .ok_or_else(|| damaged("too short"))?;
        let rest = whole.strip_prefix(MAGIC).ok_or_else(|| damaged("no lock of keys"))?;
        if Sha256::digest(whole).as_slice() != checksum {
            return Err(damaged("the checksum does not fit"));
        }
        let rest = rest.strip_prefix(&[VERSION]).ok_or_else(|| damaged("an unknown version"))?;
        let read = || {
            let (method, rest) = rest.split_first()?;
            let (memory, rest) = rest.split_first_chunk()?;
            let (passes, rest) = rest.split_first_chunk()?;
            let (salt, sealed) = rest.split_first_chunk()?;
            let cost = Cost {
                memory_kib: u32::from_be_bytes(*memory),
                passes: u32::from_be_bytes(*passes),
            };
            let head = &whole[..whole.len() - sealed.len()];
            Some(Self { method: method_of(*method)?, cost, salt: *salt, head, sealed })
        };
        let wrapped = read().ok_or_else(|| damaged("an unknown form"))?;
        if wrapped.cost.memory_kib > MAX_MEMORY_KIB || wrapped.cost.passes > MAX_PASSES {
            return Err(damaged("it asks for more memory or time than any lock does"));
        }
        Ok(wrapped)
    }

    fn unwrap(&self, secret: &Secret) -> Option<Zeroizing<[u8; KEY_BYTES]>> {
        let key = unseal(&stretch(secret, self.cost, &self.salt), self.head, self.sealed)?;
        key.as_slice().try_into().ok().map(Zeroizing::new)
    }
}

fn number(method: Method) -> u8 {
    match method {
        Method::None => 0,
        Method::Passphrase => 1,
        Method::Credential => 2,
    }
}

fn method_of(number: u8) -> Option<Method> {
    match number {
        1 => Some(Method::Passphrase),
        2 => Some(Method::Credential),
        _ => None,
    }
}

/// The key that wraps the host key. A passphrase is stretched; a credential is random already.
fn stretch(secret: &Secret, cost: Cost, salt: &[u8; SALT_BYTES]) -> Zeroizing<[u8; KEY_BYTES]> {
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    if secret.method == Method::Passphrase {
        let params = Params::new(cost.memory_kib, cost.passes, 1, Some(KEY_BYTES));
        let params = params.expect("invariant: the cost is within the bounds of argon2");
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(&secret.bytes, salt, key.as_mut_slice())
            .expect("invariant: salt and output have lengths that argon2 takes");
        return key;
    }
    let extracted = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(&secret.bytes);
    extracted
        .expand(&[b"lianxi host key v1"], hkdf::HKDF_SHA256)
        .and_then(|expanded| expanded.fill(key.as_mut_slice()))
        .expect("invariant: HKDF-SHA256 gives 32 bytes");
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Little work, for tests alone.
    const CHEAP: Cost = Cost { memory_kib: 64, passes: 1 };

    fn passphrase(text: &str) -> Secret {
        Secret::passphrase(Zeroizing::new(text.to_owned())).unwrap()
    }

    fn credential(byte: u8) -> Secret {
        Secret::credential(Zeroizing::new(vec![byte; 40])).unwrap()
    }

    #[test]
    fn the_same_secret_opens_and_another_does_not() {
        let directory = tempfile::tempdir().unwrap();
        for (name, right, wrong) in [
            ("p", passphrase("correct horse battery"), passphrase("correct horse batterx")),
            ("c", credential(7), credential(8)),
        ] {
            let keys = directory.path().join(name);
            assert_eq!(Lock::method(&keys).unwrap(), Method::None);
            let made = Lock::create(&keys, &right, CHEAP).unwrap();
            let sealed = made.seal(b"context", b"private").unwrap();
            let opened = Lock::open(&keys, &right).unwrap();
            assert_eq!(opened.unseal(b"context", &sealed).unwrap().as_slice(), b"private");
            assert!(opened.unseal(b"another", &sealed).is_none());
            let error = Lock::open(&keys, &wrong).unwrap_err();
            assert!(matches!(error, Error::WrongSecret(_)), "{error:?}");
            assert_eq!(Lock::method(&keys).unwrap(), right.method);
        }
        let other = Lock::open(&directory.path().join("p"), &credential(7)).unwrap_err();
        assert!(matches!(other, Error::OtherMethod { .. }), "{other:?}");
    }

    #[test]
    fn every_changed_byte_of_what_is_sealed_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let keys = directory.path().join("keys");
        let lock = Lock::create(&keys, &credential(7), CHEAP).unwrap();
        let sealed = lock.seal(b"context", b"private").unwrap();
        for position in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[position] ^= 1;
            assert!(lock.unseal(b"context", &changed).is_none(), "byte {position}");
        }
        assert!(lock.unseal(b"context", &sealed[..10]).is_none());
        assert_ne!(sealed, lock.seal(b"context", b"private").unwrap(), "the nonce is another");
        let whole = std::fs::read(path(&keys)).unwrap();
        for position in 0..whole.len() {
            let mut changed = whole.clone();
            changed[position] ^= 1;
            file::replace(&path(&keys), &changed).unwrap();
            let error = Lock::open(&keys, &credential(7)).unwrap_err();
            assert!(matches!(error, Error::Damaged { .. }), "byte {position}: {error:?}");
        }
    }

    /// Whoever can write the file can also fit its checksum; the wrapping itself still holds, and
    /// the cost cannot be set so high that it takes the machine.
    #[test]
    fn a_changed_cost_does_not_open_and_an_absurd_one_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let keys = directory.path().join("keys");
        let secret = passphrase("correct horse battery");
        Lock::create(&keys, &secret, CHEAP).unwrap();
        let with = |position: usize, byte: u8| {
            let mut content = std::fs::read(path(&keys)).unwrap();
            content[position] = byte;
            let end = content.len() - CHECKSUM_BYTES;
            let checksum = Sha256::digest(&content[..end]);
            content[end..].copy_from_slice(&checksum);
            let other = directory.path().join(format!("{position}-{byte}"));
            file::write(&other, FILE, &content).unwrap();
            Lock::open(&other, &secret).unwrap_err()
        };
        let memory = MAGIC.len() + 2;
        assert!(matches!(with(memory + 3, 65), Error::WrongSecret(_)));
        assert!(matches!(with(memory, 1), Error::Damaged { .. }));
        assert!(matches!(with(memory + 4, 1), Error::Damaged { .. }));
        assert!(matches!(
            with(MAGIC.len(), 9),
            Error::Damaged { reason: "an unknown version", .. }
        ));
    }

    #[test]
    fn a_guess_costs_what_the_recommendations_ask() {
        let cost = Cost::default();
        assert!(cost.memory_kib >= 64 * 1024 && cost.passes >= 3, "{cost:?}");
        let directory = tempfile::tempdir().unwrap();
        let keys = directory.path().join("keys");
        Lock::create(&keys, &passphrase("correct horse battery"), cost).unwrap();
        let content = std::fs::read(path(&keys)).unwrap();
        assert_eq!(Wrapped::parse(&path(&keys), &content).unwrap().cost, cost);
    }

    #[test]
    fn short_secrets_are_refused() {
        let short = Secret::passphrase(Zeroizing::new("elevenchars".to_owned()));
        assert!(matches!(short, Err(Error::WeakSecret(_))));
        assert!(Secret::passphrase(Zeroizing::new("十二个字才够长的口令好吗".to_owned())).is_ok());
        let short = Secret::credential(Zeroizing::new(vec![7; 31]));
        assert!(matches!(short, Err(Error::WeakSecret(_))));
    }

    #[test]
    fn debug_shows_no_secret() {
        let directory = tempfile::tempdir().unwrap();
        let secret = passphrase("correct horse battery");
        let lock = Lock::create(&directory.path().join("keys"), &secret, CHEAP).unwrap();
        let shown = format!("{secret:?} {lock:?}");
        assert!(!shown.contains("horse") && !shown.contains('['), "{shown}");
    }
}
