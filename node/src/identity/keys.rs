//! Private keys of units, desks and the root, and the files that hold them.
//!
//! Promises that a key file is durable and complete before anybody is told of the key, readable by
//! its owner alone, and never overwritten by other keys. Must not log or return private bytes.

use std::{
    fmt, fs, io,
    io::{Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use aws_lc_rs::agreement;
use lianxi_proto::envelope::Signer;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::{
    clock::UnixMillis,
    domain::{
        delegation::{KeyUse, PublicKey, Suite},
        unit::UnitCode,
    },
    identity::certificates,
};

/// Why keys were not made, kept or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no key file.
    #[error("there are no keys at {}; restore them from a backup, or join the unit again", .0.display())]
    Missing(PathBuf),
    /// The file already holds keys, which are never overwritten.
    #[error("there are keys at {} already; move them away first", .0.display())]
    Exists(PathBuf),
    /// Others than the owner can reach the file or its directory.
    #[error("{} has mode {mode:03o}, others can reach it; run `chmod {remedy:o}` on it", .path.display())]
    Mode {
        /// The file or directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// Bits that it should have.
        remedy: u32,
    },
    /// The file or its directory belongs to somebody else.
    #[error("{} belongs to user {owner}, the node runs as {user}; run `chown {user}` on it", .path.display())]
    Owner {
        /// The file or directory.
        path: PathBuf,
        /// User id of its owner.
        owner: u32,
        /// User id of this process.
        user: u32,
    },
    /// The bytes are not those that were written.
    #[error("the key file {} is damaged ({reason}); restore it from a backup", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        reason: &'static str,
    },
    /// The file system refused.
    #[error("cannot {action} {}", .path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A key could not be made.
    #[error("cannot make a key")]
    Generate(#[source] rcgen::Error),
    /// The CA certificate could not be made.
    #[error("cannot make the certificate of the unit's CA")]
    Certificate(#[from] certificates::Error),
}

/// An X25519 private key (RFC 7748). `Debug` shows nothing of it.
pub struct AgreementKey {
    private: Zeroizing<[u8; 32]>,
    public: [u8; 32],
}

impl AgreementKey {
    /// Makes the key of 32 private bytes.
    pub fn from_bytes(private: &[u8; 32]) -> Self {
        let key = agreement::PrivateKey::from_private_key(&agreement::X25519, private).ok();
        let public = key.and_then(|key| key.compute_public_key().ok());
        let public = public.expect("invariant: any 32 bytes are an X25519 private key");
        let public = public.as_ref().try_into().expect("invariant: an X25519 key has 32 bytes");
        Self { private: Zeroizing::new(*private), public }
    }

    /// The private bytes, for decryption and for storing where nobody else can read.
    pub fn private_bytes(&self) -> &[u8; 32] {
        &self.private
    }

    /// The public half.
    pub fn public_key(&self) -> [u8; 32] {
        self.public
    }
}

impl fmt::Debug for AgreementKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("AgreementKey").finish_non_exhaustive()
    }
}

/// All private keys of one unit, with the certificate of its CA, whose hash is in the delegation.
pub struct UnitKeys {
    /// Signs statements.
    pub statement: Signer,
    /// Signs delegations of children and desks.
    pub delegation: Signer,
    /// Receives encrypted bodies.
    pub agreement: AgreementKey,
    /// Issues the unit's server certificate and its children's client certificates.
    pub ca: KeyPair,
    /// Proves the unit in TLS, to its children and to its parent.
    pub tls: KeyPair,
    /// Certificate of `ca`, made once: children pin its hash.
    pub ca_certificate: CertificateDer<'static>,
}

impl UnitKeys {
    /// Makes new keys and the unit's CA.
    ///
    /// # Errors
    ///
    /// [`Error::Generate`], [`Error::Certificate`].
    pub fn generate(unit: &UnitCode, trust_domain: &str, now: UnixMillis) -> Result<Self, Error> {
        let pair = || KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(Error::Generate);
        let ca = pair()?;
        let ca_certificate = certificates::issue_ca(unit, trust_domain, &ca, now)?;
        Ok(Self {
            statement: Signer::from_seed(&random()),
            delegation: Signer::from_seed(&random()),
            agreement: AgreementKey::from_bytes(&random()),
            ca,
            tls: pair()?,
            ca_certificate,
        })
    }

    /// Writes `unit.keys` below `directory`, durably.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`] if other keys are there, [`Error::File`].
    pub fn save(&self, directory: &Path) -> Result<(), Error> {
        let agreement = Zeroizing::new(*self.agreement.private_bytes());
        let (statement, delegation) = (self.statement.seed(), self.delegation.seed());
        let parts: [(Part, &[u8]); 6] = [
            (Part::Statement, statement.as_slice()),
            (Part::Delegation, delegation.as_slice()),
            (Part::Agreement, agreement.as_slice()),
            (Part::Ca, self.ca.serialized_der()),
            (Part::Tls, self.tls.serialized_der()),
            (Part::CaCertificate, &self.ca_certificate),
        ];
        save(directory, Kind::Unit, &parts)
    }

    /// Reads `unit.keys` below `directory`.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`], [`Error::Mode`], [`Error::Owner`], [`Error::Damaged`], [`Error::File`].
    pub fn load(directory: &Path) -> Result<Self, Error> {
        let file = KeyFile::load(directory, Kind::Unit)?;
        Ok(Self {
            statement: Signer::from_seed(&*file.seed(Part::Statement)?),
            delegation: Signer::from_seed(&*file.seed(Part::Delegation)?),
            agreement: AgreementKey::from_bytes(&*file.seed(Part::Agreement)?),
            ca: file.pair(Part::Ca)?,
            tls: file.pair(Part::Tls)?,
            ca_certificate: file.part(Part::CaCertificate)?.to_vec().into(),
        })
    }

    /// Reads the keys below `directory`, or makes and saves them if there are none: a step that was
    /// cut off goes on with the keys that it began with.
    ///
    /// # Errors
    ///
    /// Those of [`UnitKeys::load`], [`UnitKeys::generate`] and [`UnitKeys::save`].
    pub fn load_or_generate(
        directory: &Path,
        unit: &UnitCode,
        trust_domain: &str,
        now: UnixMillis,
    ) -> Result<Self, Error> {
        match Self::load(directory) {
            Err(Error::Missing(_)) => {}
            loaded => return loaded,
        }
        let keys = Self::generate(unit, trust_domain, now)?;
        match keys.save(directory) {
            Ok(()) => Ok(keys),
            Err(Error::Exists(_)) => Self::load(directory),
            Err(error) => Err(error),
        }
    }

    /// The public halves, as the delegation names them.
    pub fn public_keys(&self) -> Vec<PublicKey> {
        let key =
            |bytes: [u8; 32], suite, key_use| PublicKey { suite, bytes: bytes.to_vec(), key_use };
        vec![
            key(self.statement.public_key(), Suite::Ed25519, KeyUse::Statement),
            key(self.delegation.public_key(), Suite::Ed25519, KeyUse::Delegation),
            key(self.agreement.public_key(), Suite::X25519, KeyUse::Agreement),
        ]
    }

    /// SHA-256 of the CA's certificate.
    pub fn ca_sha256(&self) -> [u8; 32] {
        certificates::sha256(&self.ca_certificate)
    }
}

impl fmt::Debug for UnitKeys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("UnitKeys")
            .field("statement", &self.statement)
            .field("delegation", &self.delegation)
            .finish_non_exhaustive()
    }
}

/// Private key of one desk.
#[derive(Debug)]
pub struct DeskKeys {
    /// Signs statements about the desk's cases.
    pub statement: Signer,
}

impl DeskKeys {
    /// Makes a new key.
    pub fn generate() -> Self {
        Self { statement: Signer::from_seed(&random()) }
    }

    /// Writes `desk.keys` below `directory`, durably.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`] if other keys are there, [`Error::File`].
    pub fn save(&self, directory: &Path) -> Result<(), Error> {
        save(directory, Kind::Desk, &[(Part::Statement, self.statement.seed().as_slice())])
    }

    /// Reads `desk.keys` below `directory`.
    ///
    /// # Errors
    ///
    /// As [`UnitKeys::load`].
    pub fn load(directory: &Path) -> Result<Self, Error> {
        let file = KeyFile::load(directory, Kind::Desk)?;
        Ok(Self { statement: Signer::from_seed(&*file.seed(Part::Statement)?) })
    }

    /// The public half, as the desk's delegation names it.
    pub fn public_keys(&self) -> Vec<PublicKey> {
        let bytes = self.statement.public_key().to_vec();
        vec![PublicKey { suite: Suite::Ed25519, bytes, key_use: KeyUse::Statement }]
    }
}

/// The key that everything in a city rests on. It signs the root unit's own delegation, and nothing
/// else.
#[derive(Debug)]
pub struct RootKey(pub Signer);

impl RootKey {
    /// Makes a new key.
    pub fn generate() -> Self {
        Self(Signer::from_seed(&random()))
    }

    /// Writes `root.keys` below `directory`, durably.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`] if another key is there, [`Error::File`].
    pub fn save(&self, directory: &Path) -> Result<(), Error> {
        save(directory, Kind::Root, &[(Part::Root, self.0.seed().as_slice())])
    }

    /// Reads `root.keys` below `directory`.
    ///
    /// # Errors
    ///
    /// As [`UnitKeys::load`].
    pub fn load(directory: &Path) -> Result<Self, Error> {
        let file = KeyFile::load(directory, Kind::Root)?;
        Ok(Self(Signer::from_seed(&*file.seed(Part::Root)?)))
    }

    /// Reads the key below `directory`, or makes and saves one if there is none.
    ///
    /// # Errors
    ///
    /// As [`UnitKeys::load_or_generate`].
    pub fn load_or_generate(directory: &Path) -> Result<Self, Error> {
        match Self::load(directory) {
            Err(Error::Missing(_)) => {}
            loaded => return loaded,
        }
        let key = Self::generate();
        match key.save(directory) {
            Ok(()) => Ok(key),
            Err(Error::Exists(_)) => Self::load(directory),
            Err(error) => Err(error),
        }
    }
}

fn random() -> Zeroizing<[u8; 32]> {
    let mut bytes = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *bytes).expect("invariant: the operating system gives random bytes");
    bytes
}

// ---- The file: magic, version, kind, parts (number, length, bytes), SHA-256 of all before it. ----

const MAGIC: &[u8; 11] = b"lianxi-keys";
const VERSION: u8 = 1;
const MAX_FILE_BYTES: u64 = 16 * 1024;

/// Whose keys a file holds; the number is stored.
#[derive(Clone, Copy, Eq, PartialEq)]
#[repr(u8)]
enum Kind {
    Unit = 1,
    Desk = 2,
    Root = 3,
}

impl Kind {
    fn file_name(self) -> &'static str {
        match self {
            Self::Unit => "unit.keys",
            Self::Desk => "desk.keys",
            Self::Root => "root.keys",
        }
    }
}

/// What a part of a file is; the number is stored.
#[derive(Clone, Copy, Eq, PartialEq)]
#[repr(u8)]
enum Part {
    Statement = 1,
    Delegation = 2,
    Agreement = 3,
    Ca = 4,
    Tls = 5,
    CaCertificate = 6,
    Root = 7,
}

struct KeyFile {
    path: PathBuf,
    parts: Vec<(u8, Zeroizing<Vec<u8>>)>,
}

impl KeyFile {
    fn load(directory: &Path, kind: Kind) -> Result<Self, Error> {
        let path = directory.join(kind.file_name());
        let bytes = read(&path)?;
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
        let rest = rest.strip_prefix(&[VERSION]).ok_or_else(|| damaged("an unknown version"))?;
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
        Ok(Self { path, parts })
    }

    fn part(&self, part: Part) -> Result<&[u8], Error> {
        let found = self.parts.iter().find(|(number, _)| *number == part as u8);
        let (_, bytes) = found.ok_or_else(|| self.damaged("a key is missing"))?;
        Ok(bytes)
    }

    fn seed(&self, part: Part) -> Result<Zeroizing<[u8; 32]>, Error> {
        let bytes = self.part(part)?.try_into();
        bytes.map(Zeroizing::new).map_err(|_| self.damaged("a key has the wrong length"))
    }

    fn pair(&self, part: Part) -> Result<KeyPair, Error> {
        let der = PrivatePkcs8KeyDer::from(self.part(part)?);
        KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ECDSA_P256_SHA256)
            .map_err(|_| self.damaged("a key cannot be read"))
    }

    fn damaged(&self, reason: &'static str) -> Error {
        Error::Damaged { path: self.path.clone(), reason }
    }
}

fn save(directory: &Path, kind: Kind, parts: &[(Part, &[u8])]) -> Result<(), Error> {
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
    write(directory, kind.file_name(), &content)
}

/// Writes beside, syncs, links into place (which never replaces a file), syncs the directories.
fn write(directory: &Path, name: &str, content: &[u8]) -> Result<(), Error> {
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
    let mut suffix = [0; 8];
    getrandom::fill(&mut suffix).expect("invariant: the operating system gives random bytes");
    let beside = directory.join(format!("{name}.{}.new", hex::encode(suffix)));
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&beside)
        .map_err(at("create", &beside))?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(at("write", &beside))?;
    let linked = fs::hard_link(&beside, &path);
    fs::remove_file(&beside).map_err(at("remove", &beside))?;
    match linked {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(Error::Exists(path));
        }
        linked => linked.map_err(at("create", &path))?,
    }
    // The directory's own name must be durable too, else the whole of it can be gone.
    for directory in directory.ancestors().take(3).filter(|path| !path.as_os_str().is_empty()) {
        fs::File::open(directory)
            .and_then(|handle| handle.sync_all())
            .map_err(at("sync", directory))?;
    }
    Ok(())
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, Error> {
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
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const NOW: UnixMillis = 1_760_000_000_000;

    fn keys() -> UnitKeys {
        UnitKeys::generate(&"BOS".parse().unwrap(), "boston.example", NOW).unwrap()
    }

    #[test]
    fn keys_come_back_as_they_were_saved() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys/BOS");
        let keys = keys();
        keys.save(&path).unwrap();
        let loaded = UnitKeys::load(&path).unwrap();
        assert_eq!(loaded.public_keys(), keys.public_keys());
        assert_eq!(loaded.ca_certificate, keys.ca_certificate);
        assert_eq!(loaded.ca.serialized_der(), keys.ca.serialized_der());
        assert_eq!(loaded.tls.serialized_der(), keys.tls.serialized_der());
        let desk = DeskKeys::generate();
        desk.save(&path.join("desks/FIRE")).unwrap();
        let loaded = DeskKeys::load(&path.join("desks/FIRE")).unwrap();
        assert_eq!(loaded.public_keys(), desk.public_keys());
    }

    #[test]
    fn a_key_file_is_for_its_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("BOS");
        keys().save(&path).unwrap();
        let file = path.join("unit.keys");
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        let error = UnitKeys::load(&path).unwrap_err();
        assert!(error.to_string().contains("mode 640"), "{error}");
        assert!(error.to_string().contains("chmod 600"), "{error}");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(UnitKeys::load(&path).unwrap_err().to_string().contains("chmod 700"));
    }

    #[test]
    fn a_file_of_another_user_is_refused_with_the_remedy() {
        let error = check_access(Path::new("/k"), 7, 8, 0o600, 0o600).unwrap_err();
        assert!(error.to_string().contains("chown 8"), "{error}");
        assert!(check_access(Path::new("/k"), 8, 8, 0o600, 0o600).is_ok());
    }

    #[test]
    fn a_link_to_a_key_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let real = directory.path().join("real");
        keys().save(&real).unwrap();
        let fake = directory.path().join("fake");
        fs::DirBuilder::new().mode(0o700).create(&fake).unwrap();
        std::os::unix::fs::symlink(real.join("unit.keys"), fake.join("unit.keys")).unwrap();
        assert!(matches!(UnitKeys::load(&fake), Err(Error::File { .. })));
    }

    #[test]
    fn keys_are_never_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("BOS");
        let first = keys();
        first.save(&path).unwrap();
        assert!(matches!(keys().save(&path), Err(Error::Exists(_))));
        let unit = "BOS".parse().unwrap();
        let again = UnitKeys::load_or_generate(&path, &unit, "boston.example", NOW).unwrap();
        assert_eq!(again.public_keys(), first.public_keys());
        assert_eq!(fs::read_dir(&path).unwrap().count(), 1, "nothing is left beside the keys");
    }

    #[test]
    fn a_damaged_or_foreign_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("BOS");
        assert!(matches!(UnitKeys::load(&path), Err(Error::Missing(_))));
        RootKey::generate().save(&path).unwrap();
        fs::rename(path.join("root.keys"), path.join("unit.keys")).unwrap();
        let reason = |path: &Path| match UnitKeys::load(path) {
            Err(Error::Damaged { reason, .. }) => reason,
            other => panic!("{other:?}"),
        };
        assert_eq!(reason(&path), "keys of another kind");
        fs::remove_file(path.join("unit.keys")).unwrap();
        keys().save(&path).unwrap();
        let mut content = fs::read(path.join("unit.keys")).unwrap();
        content[40] ^= 1;
        fs::write(path.join("unit.keys"), &content).unwrap();
        assert_eq!(reason(&path), "the checksum does not fit");
        fs::write(path.join("unit.keys"), &content[..20]).unwrap();
        assert_eq!(reason(&path), "too short");
    }

    #[test]
    fn agreement_keys_are_those_of_rfc_7748() {
        // RFC 7748 §5.2, first iteration: the scalar is the base point's coordinate.
        let private = "0900000000000000000000000000000000000000000000000000000000000000";
        let public = "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079";
        let key = AgreementKey::from_bytes(&hex::decode(private).unwrap().try_into().unwrap());
        assert_eq!(hex::encode(key.public_key()), public);
        assert_eq!(hex::encode(key.private_bytes()), private);
    }

    #[test]
    fn debug_shows_no_private_byte() {
        let keys = keys();
        let shown = format!("{keys:?} {:?} {:?}", keys.agreement, RootKey::generate());
        assert!(!shown.contains(&hex::encode(keys.statement.seed().as_slice())));
        assert!(!shown.contains("PrivateKey") && shown.contains("key_id"), "{shown}");
    }
}
