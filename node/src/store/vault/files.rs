//! Files of wrapped keys: `vault` with the store's key, `keys/UNIT` with each unit's data key.
//!
//! `vault`: magic, version, number of the cipher, id of the store, wrapped key with its tag.
//! `keys/UNIT`: version, salt, wrapped key with its tag. Both end with SHA-256 of all before, which
//! tells damage from a wrong key. They are written beside, synced and renamed; never changed.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::{
    SALT_BYTES,
    cipher::{Key, SECRET_BYTES, TAG_BYTES},
};
use crate::{domain::protection::Cipher, store::Error};

const FILE: &str = "vault";
const UNITS: &str = "keys";
const MAGIC: &[u8; 12] = b"lianxi-vault";
const VERSION: u8 = 1;
const CHECKSUM_BYTES: usize = 32;
const WRAPPED_BYTES: usize = SECRET_BYTES + TAG_BYTES;

/// A salt, and what a key derived with it sealed.
pub(super) type Salted = ([u8; SALT_BYTES], Vec<u8>);

/// The store's key as it lies on the disk.
pub(super) struct Wrapped {
    pub(super) cipher: Cipher,
    pub(super) id: [u8; SALT_BYTES],
    head: Vec<u8>,
    sealed: [u8; WRAPPED_BYTES],
}

pub(super) fn create(
    directory: &Path,
    cipher: Cipher,
    id: &[u8; SALT_BYTES],
    wrapping: &Key,
    store_key: &[u8; SECRET_BYTES],
) -> Result<(), Error> {
    let mut content = head(cipher, id);
    let context = content.clone();
    let from = content.len();
    content.reserve_exact(WRAPPED_BYTES + CHECKSUM_BYTES);
    content.extend_from_slice(store_key);
    wrapping.seal(0, &context, &mut content, from);
    let units = directory.join(UNITS);
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&units);
    made.map_err(|error| failed(&units, &error))?;
    write(directory, FILE, content)
}

pub(super) fn read(directory: &Path) -> Result<Wrapped, Error> {
    let path = directory.join(FILE);
    let content = fs::read(&path).map_err(|error| failed(&path, &error))?;
    let parsed = || {
        let content = checked(&content)?;
        let rest = content.strip_prefix(MAGIC)?.strip_prefix(&[VERSION])?;
        let (cipher, rest) = rest.split_first()?;
        let (id, sealed) = rest.split_first_chunk::<SALT_BYTES>()?;
        let cipher = cipher_of(*cipher)?;
        Some(Wrapped { cipher, id: *id, head: head(cipher, id), sealed: sealed.try_into().ok()? })
    };
    parsed().ok_or_else(|| damaged(directory))
}

/// The store's key; `None`: something else wrapped it.
pub(super) fn unwrap(wrapped: &Wrapped, wrapping: &Key) -> Option<Zeroizing<[u8; SECRET_BYTES]>> {
    let opened = Zeroizing::new(wrapping.open(0, &wrapped.head, &wrapped.sealed)?);
    opened.as_slice().try_into().ok().map(Zeroizing::new)
}

/// The salt and wrapped data key of a unit; `None`: there is no such file.
pub(super) fn read_unit(directory: &Path, unit: &str) -> Result<Option<Salted>, Error> {
    let path = directory.join(UNITS).join(unit);
    let content = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(|error| failed(&path, &error))?,
    };
    let parsed = || {
        let rest = checked(&content)?.strip_prefix(&[VERSION])?;
        let (salt, sealed) = rest.split_first_chunk::<SALT_BYTES>()?;
        Some((*salt, sealed.to_vec()))
    };
    parsed().map(Some).ok_or_else(|| damaged(&path))
}

pub(super) fn write_unit(
    directory: &Path,
    unit: &str,
    salt: &[u8; SALT_BYTES],
    sealed: &[u8],
) -> Result<(), Error> {
    write(&directory.join(UNITS), unit, [&[VERSION], &salt[..], sealed].concat())
}

/// What is said of keys that cannot be read.
pub(super) fn damaged(path: &Path) -> Error {
    let path = path.display();
    Error::Engine(format!(
        "the keys of the store at {path} are damaged; bring them back from a backup of the store"
    ))
}

fn head(cipher: Cipher, id: &[u8; SALT_BYTES]) -> Vec<u8> {
    [&MAGIC[..], &[VERSION, number_of(cipher)], id].concat()
}

fn number_of(cipher: Cipher) -> u8 {
    match cipher {
        Cipher::None => 0,
        Cipher::Aes256Gcm => 1,
        Cipher::Sm4Gcm => 2,
    }
}

fn cipher_of(number: u8) -> Option<Cipher> {
    [Cipher::Aes256Gcm, Cipher::Sm4Gcm].into_iter().find(|cipher| number_of(*cipher) == number)
}

fn checked(content: &[u8]) -> Option<&[u8]> {
    let (content, checksum) = content.split_last_chunk::<CHECKSUM_BYTES>()?;
    (Sha256::digest(content).as_slice() == checksum).then_some(content)
}

/// Writes beside, syncs, renames, syncs the directory.
fn write(directory: &Path, name: &str, mut content: Vec<u8>) -> Result<(), Error> {
    let checksum = Sha256::digest(&content);
    content.extend_from_slice(&checksum);
    let path = directory.join(name);
    let beside = directory.join(format!("{name}.new"));
    let written = || {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(&content).and_then(|()| file.sync_all())?;
        fs::rename(&beside, &path)?;
        File::open(directory)?.sync_all()
    };
    written().map_err(|error| failed(&path, &error))
}

fn failed(path: &Path, error: &io::Error) -> Error {
    Error::Engine(format!("{}: {error}", path.display()))
}
