//! The files of private keys: magic, version, kind, parts (number, length, bytes), SHA-256 of all
//! before it.
//!
//! Version 1 knew Ed25519 alone; version 2 has the suite as a part. Version 3 is a whole file of
//! another version, sealed: magic, version, kind, then nonce, ciphertext and tag under these, then
//! SHA-256 of all. All are read for ever; the second is written, or the third around it.

use std::{
    fs, io,
    io::{Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use lianxi_proto::envelope::{Signer, Suite};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::PrivatePkcs8KeyDer;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{Error, Lock, Place};

const MAGIC: &[u8; 11] = b"lianxi-keys";

/// Version before there was a choice of suites.
const ED25519_VERSION: u8 = 1;

const VERSION: u8 = 2;

const SEALED_VERSION: u8 = 3;

/// Room for over 1,800 former agreement keys.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// Whose keys a file holds; the number is stored.
#[derive(Clone, Copy, Eq, PartialEq)]
#[repr(u8)]
pub(super) enum Kind {
    Unit = 1,
    Desk = 2,
    Root = 3,
    Next = 4,
    Former = 5,
    Transfer = 6,
    People = 7,
}

impl Kind {
    pub(super) fn file_name(self) -> &'static str {
        match self {
            Self::Unit => "unit.keys",
            Self::Desk => "desk.keys",
            Self::Root => "root.keys",
            Self::Next => "next.keys",
            Self::Former => "former.keys",
            Self::Transfer => "transfer.keys",
            Self::People => "people.keys",
        }
    }
}

/// What a part of a file is; the number is stored.
#[derive(Clone, Copy, Eq, PartialEq)]
#[repr(u8)]
pub(super) enum Part {
    Statement = 1,
    Delegation = 2,
    Agreement = 3,
    Ca = 4,
    Tls = 5,
    CaCertificate = 6,
    Root = 7,
    /// One byte: the number of the suite of every signing key in the file.
    Suite = 8,
    /// A key that seals what the host keeps of people.
    Sealing = 9,
}

/// A file that was read whole.
pub(super) struct KeyFile {
    path: PathBuf,
    suite: Suite,
    parts: Vec<(u8, Zeroizing<Vec<u8>>)>,
}

impl KeyFile {
    pub(super) fn load(place: &Place, kind: Kind) -> Result<Self, Error> {
        let path = place.directory().join(kind.file_name());
        let bytes = read(&path)?;
        match unsealed(&path, &bytes, &place.lock)? {
            Some(opened) => Self::parse(path, &opened, kind),
            None => Self::parse(path, &bytes, kind),
        }
    }

    fn parse(path: PathBuf, bytes: &[u8], kind: Kind) -> Result<Self, Error> {
        let damaged = |reason| Error::Damaged { path: path.clone(), reason };
        let (content, checksum) = bytes
            .len()
            .checked_sub(32)
            .map(|length| bytes.split_at(length))
            .ok_or_else(|| damaged("too short"))?;
        let rest = content.strip_prefix(MAGIC).ok_or_else(|| damaged("no key file"))?;
        if Sha256::digest(content).as_slice() != checksum {
            return Err(damaged("the checksum does not fit"));
        }
        let (version, rest) = match rest {
            [version @ (ED25519_VERSION | VERSION), rest @ ..] => (*version, rest),
            _ => return Err(damaged("an unknown version")),
        };
        let mut rest =
            rest.strip_prefix(&[kind as u8]).ok_or_else(|| damaged("keys of another kind"))?;
        let mut parts = Vec::new();
        while let [number, high, low, following @ ..] = rest {
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            let (part, after) =
                following.split_at_checked(length).ok_or_else(|| damaged("a part is cut off"))?;
            parts.push((*number, Zeroizing::new(part.to_vec())));
            rest = after;
        }
        if !rest.is_empty() {
            return Err(damaged("a part is cut off"));
        }
        let mut file = Self { path, suite: Suite::Ed25519, parts };
        if version == VERSION {
            let suite = match file.part(Part::Suite)? {
                [number] => Suite::try_from(i32::from(*number)).ok(),
                _ => None,
            };
            file.suite = suite.ok_or_else(|| file.damaged("an unknown suite"))?;
        }
        Ok(file)
    }

    pub(super) fn holds(&self, part: Part) -> bool {
        self.parts.iter().any(|(number, _)| *number == part as u8)
    }

    pub(super) fn part(&self, part: Part) -> Result<&[u8], Error> {
        let found = self.parts.iter().find(|(number, _)| *number == part as u8);
        let (_, bytes) = found.ok_or_else(|| self.damaged("a key is missing"))?;
        Ok(bytes)
    }

    /// Every part of its kind, in the order of the file.
    pub(super) fn all(&self, part: Part) -> impl Iterator<Item = &[u8]> {
        let found = self.parts.iter().filter(move |(number, _)| *number == part as u8);
        found.map(|(_, bytes)| bytes.as_slice())
    }

    /// A key that signs, in the suite of the file.
    pub(super) fn signer(&self, part: Part) -> Result<Signer, Error> {
        let private = self.bytes32(part)?;
        let signer = Signer::from_private_bytes(self.suite, &private);
        signer.map_err(|_| self.damaged("a key is none of its suite"))
    }

    pub(super) fn bytes32(&self, part: Part) -> Result<Zeroizing<[u8; 32]>, Error> {
        let bytes = self.part(part)?.try_into();
        bytes.map(Zeroizing::new).map_err(|_| self.damaged("a key has the wrong length"))
    }

    pub(super) fn pair(&self, part: Part) -> Result<KeyPair, Error> {
        let der = PrivatePkcs8KeyDer::from(self.part(part)?);
        KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ECDSA_P256_SHA256)
            .map_err(|_| self.damaged("a key cannot be read"))
    }

    fn damaged(&self, reason: &'static str) -> Error {
        Error::Damaged { path: self.path.clone(), reason }
    }
}

/// Content of [`Part::Suite`].
pub(super) fn suite_part(signer: &Signer) -> [u8; 1] {
    [u8::try_from(signer.suite() as i32).expect("invariant: suite numbers fit a byte")]
}

/// Writes a file of its kind, which never replaces another.
pub(super) fn save(place: &Place, kind: Kind, parts: &[(Part, &[u8])]) -> Result<(), Error> {
    write(place.directory(), kind.file_name(), &whole(place, kind, parts))
}

/// Writes a file of its kind in the place of the one that is there, or of none, in one step.
pub(super) fn put(place: &Place, kind: Kind, parts: &[(Part, &[u8])]) -> Result<(), Error> {
    replace(&place.directory().join(kind.file_name()), &whole(place, kind, parts))
}

fn whole(place: &Place, kind: Kind, parts: &[(Part, &[u8])]) -> Zeroizing<Vec<u8>> {
    let mut content = Zeroizing::new(Vec::with_capacity(4096));
    content.extend_from_slice(MAGIC);
    content.extend_from_slice(&[VERSION, kind as u8]);
    for (part, bytes) in parts {
        let length = u16::try_from(bytes.len()).expect("invariant: keys are short");
        content.push(*part as u8);
        content.extend_from_slice(&length.to_be_bytes());
        content.extend_from_slice(bytes);
    }
    let checksum = Sha256::digest(content.as_slice());
    content.extend_from_slice(&checksum);
    sealed(&content, &place.lock).map_or(content, Zeroizing::new)
}

/// The file of version 3 around a file of another version; `None` if nothing seals.
pub(super) fn sealed(content: &[u8], lock: &Lock) -> Option<Vec<u8>> {
    let kind = content.get(MAGIC.len() + 1).copied().unwrap_or_default();
    let mut whole = [MAGIC.as_slice(), &[SEALED_VERSION, kind]].concat();
    let sealed = lock.seal(&whole, content)?;
    whole.extend_from_slice(&sealed);
    let checksum = Sha256::digest(&whole);
    whole.extend_from_slice(&checksum);
    Some(whole)
}

/// The file inside one of version 3; `None` for another version.
pub(super) fn unsealed(
    path: &Path,
    content: &[u8],
    lock: &Lock,
) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
    let damaged = |reason| Error::Damaged { path: path.to_owned(), reason };
    let (head_bytes, rest_bytes) = (MAGIC.len() + 2, 32);
    if !content.starts_with(MAGIC) || content.get(MAGIC.len()) != Some(&SEALED_VERSION) {
        return Ok(None);
    }
    let whole = content.len().checked_sub(rest_bytes).filter(|length| *length >= head_bytes);
    let (whole, checksum) = content.split_at(whole.ok_or_else(|| damaged("too short"))?);
    if Sha256::digest(whole).as_slice() != checksum {
        return Err(damaged("the checksum does not fit"));
    }
    if !lock.seals() {
        return Err(Error::Sealed(path.to_owned()));
    }
    let (head, sealed) = whole.split_at(head_bytes);
    let opened = lock.unseal(head, sealed);
    opened.map(Some).ok_or_else(|| damaged("it is sealed with another host's key"))
}

/// Writes beside, syncs, links into place (which never replaces a file), syncs the directories.
pub(super) fn write(directory: &Path, name: &str, content: &[u8]) -> Result<(), Error> {
    let at = |action, path: &Path| {
        let path = path.to_owned();
        move |source| Error::File { action, path, source }
    };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(at("create", directory))?;
    let path = directory.join(name);
    if path.exists() {
        return Err(Error::Exists(path));
    }
    let beside = write_beside(&path, content)?;
    let linked = fs::hard_link(&beside, &path);
    fs::remove_file(&beside).map_err(at("remove", &beside))?;
    match linked {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(Error::Exists(path));
        }
        linked => linked.map_err(at("create", &path))?,
    }
    sync(directory)
}

/// Puts other content in the place of a file, in one step: a power cut leaves the old or the new.
pub(super) fn replace(path: &Path, content: &[u8]) -> Result<(), Error> {
    let beside = write_beside(path, content)?;
    fs::rename(&beside, path).map_err(|source| Error::File {
        action: "replace",
        path: path.to_owned(),
        source,
    })?;
    sync(path.parent().unwrap_or_else(|| Path::new(".")))
}

/// Overwrites a file and removes it. What the disk copied elsewhere is out of reach.
pub(super) fn erase(path: &Path) -> Result<(), Error> {
    let length = read(path)?.len();
    let at = |action| {
        let path = path.to_owned();
        move |source| Error::File { action, path, source }
    };
    let mut file = fs::OpenOptions::new().write(true).open(path).map_err(at("open"))?;
    file.write_all(&vec![0; length]).and_then(|()| file.sync_all()).map_err(at("overwrite"))?;
    fs::remove_file(path).map_err(at("remove"))?;
    sync(path.parent().unwrap_or_else(|| Path::new(".")))
}

fn write_beside(path: &Path, content: &[u8]) -> Result<PathBuf, Error> {
    let mut suffix = [0; 8];
    getrandom::fill(&mut suffix).expect("invariant: the operating system gives random bytes");
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", hex::encode(suffix)));
    let beside = path.with_file_name(name);
    let at = |action| {
        let path = beside.clone();
        move |source| Error::File { action, path, source }
    };
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(&beside);
    let mut file = file.map_err(at("create"))?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(at("write"))?;
    Ok(beside)
}

/// The directory's own name must be durable too, else the whole of it can be gone.
pub(super) fn sync(directory: &Path) -> Result<(), Error> {
    for directory in directory.ancestors().take(3).filter(|path| !path.as_os_str().is_empty()) {
        fs::File::open(directory)
            .and_then(|handle| handle.sync_all())
            .map_err(|source| Error::File { action: "sync", path: directory.to_owned(), source })?;
    }
    Ok(())
}

pub(super) fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, Error> {
    let failed = |source| Error::File { action: "read", path: path.to_owned(), source };
    let no_follow = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    let file = match fs::OpenOptions::new().read(true).custom_flags(no_follow).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Error::Missing(path.to_owned()));
        }
        opened => opened.map_err(failed)?,
    };
    let metadata = file.metadata().map_err(failed)?;
    check(path, &metadata, 0o600)?;
    let directory = path.parent().unwrap_or_else(|| Path::new("."));
    check(directory, &fs::metadata(directory).map_err(failed)?, 0o700)?;
    let mut content = Zeroizing::new(Vec::new());
    file.take(MAX_FILE_BYTES).read_to_end(&mut content).map_err(failed)?;
    Ok(content)
}

/// Refuses what others own or can reach.
fn check(path: &Path, metadata: &fs::Metadata, remedy: u32) -> Result<(), Error> {
    let user = rustix::process::geteuid().as_raw();
    check_access(path, metadata.uid(), user, metadata.mode() & 0o777, remedy)
}

fn check_access(path: &Path, owner: u32, user: u32, mode: u32, remedy: u32) -> Result<(), Error> {
    if owner != user {
        return Err(Error::Owner { path: path.to_owned(), owner, user });
    }
    if mode & 0o077 != 0 {
        return Err(Error::Mode { path: path.to_owned(), mode, remedy });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::keys::RootKey;

    /// TEST KEY, known to everybody: never use it.
    const SEED: [u8; 32] = [7; 32];

    /// As version 1 wrote them: no suite, Ed25519 throughout.
    #[test]
    fn files_of_version_1_are_read_for_ever() {
        let directory = tempfile::tempdir().unwrap();
        let mut content = MAGIC.to_vec();
        content.extend_from_slice(&[1, Kind::Root as u8, Part::Root as u8, 0, 32]);
        content.extend_from_slice(&SEED);
        let checksum = Sha256::digest(&content);
        content.extend_from_slice(&checksum);
        let old = directory.path().join("old");
        write(&old, "root.keys", &content).unwrap();
        let RootKey(key) = RootKey::load(&old).unwrap();
        assert_eq!(key.key_id(), Signer::from_seed(&SEED).key_id());
        // The same file under a version that is not known yet.
        content[MAGIC.len()] = 9;
        let end = content.len() - 32;
        let checksum = Sha256::digest(&content[..end]);
        content[end..].copy_from_slice(&checksum);
        let other = directory.path().join("later");
        write(&other, "root.keys", &content).unwrap();
        let error = RootKey::load(&other).unwrap_err();
        assert!(error.to_string().contains("an unknown version"), "{error}");
    }

    #[test]
    fn a_file_of_another_user_is_refused_with_the_remedy() {
        let error = check_access(Path::new("/k"), 7, 8, 0o600, 0o600).unwrap_err();
        assert!(error.to_string().contains("chown 8"), "{error}");
        assert!(check_access(Path::new("/k"), 8, 8, 0o600, 0o600).is_ok());
    }
}
