//! Private keys of units, desks, the root and the host itself, and the files that hold them.
//!
//! Promises that a key file is durable and complete before anybody is told of the key, readable by
//! its owner alone, sealed if the host's keys are, and never overwritten by other keys, but by the
//! next ones of the same unit. Must not log or return private bytes.

mod file;
mod lock;
mod next;
mod people;
mod protect;
pub mod transfer;

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use aws_lc_rs::agreement;
use lianxi_proto::envelope::Signer;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::CertificateDer;
use zeroize::Zeroizing;

use self::file::{KeyFile, Kind, Part, save};
pub use self::{
    lock::{Cost, Lock, Method, Secret},
    next::{NextKeys, former_agreement_keys},
    people::PeopleKey,
    protect::{change_secret, protect, unprotect},
};

use crate::{
    clock::UnixMillis,
    domain::{
        delegation::{KeyUse, PublicKey, Suite},
        unit::UnitCode,
    },
    identity::certificates,
    statement::delegation::{suite_from_proto, suite_to_proto},
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
    /// The keys are sealed and nothing opened them.
    #[error("the keys at {} are sealed; give the passphrase or the credential that opens them", .0.display())]
    Sealed(PathBuf),
    /// The passphrase or credential does not open the keys.
    #[error("the {0} is wrong; the keys stay closed, try again")]
    WrongSecret(Method),
    /// The passphrase or credential is too short.
    #[error("{0}; choose a longer one")]
    WeakSecret(&'static str),
    /// The keys open with something else.
    #[error("the keys at {} open with a {is}, not with a {given}; give that one", .path.display())]
    OtherMethod {
        /// The lock.
        path: PathBuf,
        /// What opens it.
        is: Method,
        /// What was given.
        given: Method,
    },
    /// The store is encrypted with a key that these keys wrap.
    #[error("the store is encrypted with what opens the keys at {}; run `lianxi store decrypt` first", .0.display())]
    StoreSealed(PathBuf),
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

/// Where keys lie, and what seals them. A path alone means that nothing does.
#[derive(Clone, Debug)]
pub struct Place {
    directory: PathBuf,
    lock: Lock,
}

impl Place {
    /// A directory whose files `lock` seals.
    pub fn new(directory: PathBuf, lock: Lock) -> Self {
        Self { directory, lock }
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A directory below, sealed by the same.
    pub fn below(&self, name: impl AsRef<Path>) -> Self {
        Self { directory: self.directory.join(name), lock: self.lock.clone() }
    }
}

impl<P: AsRef<Path> + ?Sized> From<&P> for Place {
    fn from(directory: &P) -> Self {
        Self::new(directory.as_ref().to_owned(), Lock::none())
    }
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
    /// Makes new Ed25519 keys and the unit's CA.
    ///
    /// # Errors
    ///
    /// [`Error::Generate`], [`Error::Certificate`].
    pub fn generate(unit: &UnitCode, trust_domain: &str, now: UnixMillis) -> Result<Self, Error> {
        Self::generate_in(Suite::Ed25519, unit, trust_domain, now)
    }

    /// Makes new keys, those that sign in `suite`, and the unit's CA.
    ///
    /// # Errors
    ///
    /// [`Error::Generate`], [`Error::Certificate`].
    pub fn generate_in(
        suite: Suite,
        unit: &UnitCode,
        trust_domain: &str,
        now: UnixMillis,
    ) -> Result<Self, Error> {
        let pair = || KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(Error::Generate);
        let ca = pair()?;
        let ca_certificate = certificates::issue_ca(unit, trust_domain, &ca, now)?;
        Ok(Self {
            statement: new_signer(suite),
            delegation: new_signer(suite),
            agreement: AgreementKey::from_bytes(&random()),
            ca,
            tls: pair()?,
            ca_certificate,
        })
    }

    /// Writes `unit.keys` there, durably.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`] if other keys are there, [`Error::File`].
    pub fn save(&self, place: impl Into<Place>) -> Result<(), Error> {
        self.write(|parts| save(&place.into(), Kind::Unit, parts))
    }

    /// Puts the keys in the place of those in `unit.keys`, in one step.
    fn replace(&self, place: &Place) -> Result<(), Error> {
        self.write(|parts| file::put(place, Kind::Unit, parts))
    }

    fn write(&self, to: impl FnOnce(&[(Part, &[u8])]) -> Result<(), Error>) -> Result<(), Error> {
        let agreement = Zeroizing::new(*self.agreement.private_bytes());
        let (statement, delegation) =
            (self.statement.private_bytes(), self.delegation.private_bytes());
        let suite = file::suite_part(&self.statement);
        let parts: [(Part, &[u8]); 7] = [
            (Part::Suite, &suite),
            (Part::Statement, statement.as_slice()),
            (Part::Delegation, delegation.as_slice()),
            (Part::Agreement, agreement.as_slice()),
            (Part::Ca, self.ca.serialized_der()),
            (Part::Tls, self.tls.serialized_der()),
            (Part::CaCertificate, &self.ca_certificate),
        ];
        to(&parts)
    }

    /// Reads `unit.keys` there.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`], [`Error::Mode`], [`Error::Owner`], [`Error::Damaged`], [`Error::Sealed`],
    /// [`Error::File`].
    pub fn load(place: impl Into<Place>) -> Result<Self, Error> {
        let file = KeyFile::load(&place.into(), Kind::Unit)?;
        Ok(Self {
            statement: file.signer(Part::Statement)?,
            delegation: file.signer(Part::Delegation)?,
            agreement: AgreementKey::from_bytes(&*file.bytes32(Part::Agreement)?),
            ca: file.pair(Part::Ca)?,
            tls: file.pair(Part::Tls)?,
            ca_certificate: file.part(Part::CaCertificate)?.to_vec().into(),
        })
    }

    /// Reads the keys there, or makes and saves them if there are none: a step that was
    /// cut off goes on with the keys that it began with.
    ///
    /// # Errors
    ///
    /// Those of [`UnitKeys::load`], [`UnitKeys::generate_in`] and [`UnitKeys::save`].
    pub fn load_or_generate(
        place: impl Into<Place>,
        suite: Suite,
        unit: &UnitCode,
        trust_domain: &str,
        now: UnixMillis,
    ) -> Result<Self, Error> {
        let place = place.into();
        match Self::load(place.clone()) {
            Err(Error::Missing(_)) => {}
            loaded => return loaded,
        }
        let keys = Self::generate_in(suite, unit, trust_domain, now)?;
        match keys.save(place.clone()) {
            Ok(()) => Ok(keys),
            Err(Error::Exists(_)) => Self::load(place),
            Err(error) => Err(error),
        }
    }

    /// Suite in which the unit signs.
    pub fn suite(&self) -> Suite {
        suite_of(&self.statement)
    }

    /// The public halves, as the delegation names them.
    pub fn public_keys(&self) -> Vec<PublicKey> {
        let agreement = self.agreement.public_key().to_vec();
        vec![
            public_key(&self.statement, KeyUse::Statement),
            public_key(&self.delegation, KeyUse::Delegation),
            PublicKey { suite: Suite::X25519, bytes: agreement, key_use: KeyUse::Agreement },
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
    /// Receives bodies of the desk's cases; `None` for a desk whose keys an earlier version made:
    /// its unit reads for it.
    pub agreement: Option<AgreementKey>,
}

impl DeskKeys {
    /// Makes new keys, to sign in `suite`.
    pub fn generate(suite: Suite) -> Self {
        let agreement = Some(AgreementKey::from_bytes(&random()));
        Self { statement: new_signer(suite), agreement }
    }

    /// Writes `desk.keys` there, durably.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`] if other keys are there, [`Error::File`].
    pub fn save(&self, place: impl Into<Place>) -> Result<(), Error> {
        let private = self.statement.private_bytes();
        let suite = file::suite_part(&self.statement);
        let agreement = self.agreement.as_ref().map(|key| Zeroizing::new(*key.private_bytes()));
        let mut parts: Vec<(Part, &[u8])> =
            vec![(Part::Suite, &suite), (Part::Statement, private.as_slice())];
        parts.extend(agreement.as_ref().map(|key| (Part::Agreement, key.as_slice())));
        save(&place.into(), Kind::Desk, &parts)
    }

    /// Reads `desk.keys` there.
    ///
    /// # Errors
    ///
    /// As [`UnitKeys::load`].
    pub fn load(place: impl Into<Place>) -> Result<Self, Error> {
        let file = KeyFile::load(&place.into(), Kind::Desk)?;
        let agreement = if file.holds(Part::Agreement) {
            Some(AgreementKey::from_bytes(&*file.bytes32(Part::Agreement)?))
        } else {
            None
        };
        Ok(Self { statement: file.signer(Part::Statement)?, agreement })
    }

    /// The public halves, as the desk's delegation names them.
    pub fn public_keys(&self) -> Vec<PublicKey> {
        let mut keys = vec![public_key(&self.statement, KeyUse::Statement)];
        keys.extend(self.agreement.as_ref().map(|key| PublicKey {
            suite: Suite::X25519,
            bytes: key.public_key().to_vec(),
            key_use: KeyUse::Agreement,
        }));
        keys
    }
}

/// The key that everything in a city rests on. It signs the root unit's own delegation, and nothing
/// else.
#[derive(Debug)]
pub struct RootKey(pub Signer);

impl RootKey {
    /// Makes a new key of `suite`.
    pub fn generate(suite: Suite) -> Self {
        Self(new_signer(suite))
    }

    /// Writes `root.keys` there, durably.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`] if another key is there, [`Error::File`].
    pub fn save(&self, place: impl Into<Place>) -> Result<(), Error> {
        let suite = file::suite_part(&self.0);
        let private = self.0.private_bytes();
        save(&place.into(), Kind::Root, &[(Part::Suite, &suite), (Part::Root, private.as_slice())])
    }

    /// Reads `root.keys` there.
    ///
    /// # Errors
    ///
    /// As [`UnitKeys::load`].
    pub fn load(place: impl Into<Place>) -> Result<Self, Error> {
        let file = KeyFile::load(&place.into(), Kind::Root)?;
        Ok(Self(file.signer(Part::Root)?))
    }

    /// Where the next root key lies until it is used: a directory of its own.
    pub fn next_place(place: &Place) -> Place {
        place.below("next-root")
    }

    /// Puts the next root key in the place of the one before, in one step.
    ///
    /// # Errors
    ///
    /// Those of reading and writing key files.
    pub fn take_next_into_use(place: &Place) -> Result<(), Error> {
        let next = Self::next_place(place);
        let (from, to) = (Self::path(&next.directory), Self::path(&place.directory));
        let content = file::read(&from)?;
        file::replace(&to, &content)?;
        file::erase(&from)
    }

    /// The key's file in a directory.
    pub fn path(directory: &Path) -> PathBuf {
        directory.join(Kind::Root.file_name())
    }

    /// Overwrites the key's file and removes it. Gives its path.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`], [`Error::Mode`], [`Error::Owner`], [`Error::File`].
    pub fn remove(directory: &Path) -> Result<PathBuf, Error> {
        let path = Self::path(directory);
        file::erase(&path)?;
        Ok(path)
    }

    /// Reads the key there, or makes and saves one if there is none.
    ///
    /// # Errors
    ///
    /// As [`UnitKeys::load_or_generate`].
    pub fn load_or_generate(place: impl Into<Place>, suite: Suite) -> Result<Self, Error> {
        let place = place.into();
        match Self::load(place.clone()) {
            Err(Error::Missing(_)) => {}
            loaded => return loaded,
        }
        let key = Self::generate(suite);
        match key.save(place.clone()) {
            Ok(()) => Ok(key),
            Err(Error::Exists(_)) => Self::load(place),
            Err(error) => Err(error),
        }
    }
}

fn suite_of(signer: &Signer) -> Suite {
    suite_from_proto(signer.suite().into()).expect("invariant: a signer has a suite that is known")
}

fn public_key(signer: &Signer, key_use: KeyUse) -> PublicKey {
    PublicKey { suite: suite_of(signer), bytes: signer.public_key().to_vec(), key_use }
}

/// Draws until the bytes are a key: for SM2 one draw in 2³² is none.
fn new_signer(suite: Suite) -> Signer {
    assert!(suite.signs(), "invariant: keys are made in a suite that signs");
    loop {
        if let Ok(signer) = Signer::from_private_bytes(suite_to_proto(suite), &random()) {
            return signer;
        }
    }
}

fn random() -> Zeroizing<[u8; 32]> {
    let mut bytes = Zeroizing::new([0; 32]);
    crate::random::fill(&mut *bytes).expect("invariant: the operating system gives random bytes");
    bytes
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    };

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
        let desk = DeskKeys::generate(Suite::Ed25519);
        desk.save(&path.join("desks/FIRE")).unwrap();
        let loaded = DeskKeys::load(&path.join("desks/FIRE")).unwrap();
        assert_eq!(loaded.public_keys(), desk.public_keys());
    }

    #[test]
    fn keys_of_sm2_come_back_as_they_were_saved() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys/BOS");
        let unit = "BOS".parse().unwrap();
        let keys = UnitKeys::generate_in(Suite::Sm2Sm3, &unit, "boston.example", NOW).unwrap();
        assert_eq!(keys.suite(), Suite::Sm2Sm3);
        keys.save(&path).unwrap();
        let loaded = UnitKeys::load(&path).unwrap();
        assert_eq!(loaded.public_keys(), keys.public_keys());
        let (root, desk) = (RootKey::generate(Suite::Sm2Sm3), DeskKeys::generate(Suite::Sm2Sm3));
        root.save(&path).unwrap();
        desk.save(&path).unwrap();
        assert_eq!(RootKey::load(&path).unwrap().0.key_id(), root.0.key_id());
        assert_eq!(DeskKeys::load(&path).unwrap().public_keys(), desk.public_keys());
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
        let again = UnitKeys::load_or_generate(&path, Suite::Ed25519, &unit, "boston.example", NOW)
            .unwrap();
        assert_eq!(again.public_keys(), first.public_keys());
        assert_eq!(fs::read_dir(&path).unwrap().count(), 1, "nothing is left beside the keys");
    }

    #[test]
    fn a_damaged_or_foreign_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("BOS");
        assert!(matches!(UnitKeys::load(&path), Err(Error::Missing(_))));
        RootKey::generate(Suite::Ed25519).save(&path).unwrap();
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
        let shown = format!("{keys:?} {:?} {:?}", keys.agreement, RootKey::generate(Suite::Sm2Sm3));
        assert!(!shown.contains(&hex::encode(keys.statement.private_bytes().as_slice())));
        assert!(!shown.contains("PrivateKey") && shown.contains("key_id"), "{shown}");
    }
}
