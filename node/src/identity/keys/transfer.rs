//! Keys that go from one host to another with their unit, and the key that their file is sealed to.
//!
//! Promises that key files come to the new host as they were, in clear inside the sealed file alone and
//! under the new host's own lock on its disk, and that nothing outside the unit's directory is read or
//! written.

use std::{
    fs,
    path::{Component, Path},
};

use zeroize::Zeroizing;

use super::{
    AgreementKey, Error, KeyFile, Kind, Part, Place, file, protect::key_files, random, save,
};

/// Most files of keys of one unit: a desk has one.
const MAX_FILES: usize = 4_096;

/// The key that a transfer file is sealed to; good for one unit and one file.
#[derive(Debug)]
pub struct TransferKey(pub AgreementKey);

impl TransferKey {
    /// Reads the key there, or makes one.
    ///
    /// # Errors
    ///
    /// As [`super::UnitKeys::load_or_generate`].
    pub fn load_or_generate(place: &Place) -> Result<Self, Error> {
        match Self::load(place) {
            Err(Error::Missing(_)) => {}
            loaded => return loaded,
        }
        let private = random();
        let parts = [(Part::Suite, &[ED25519][..]), (Part::Agreement, private.as_slice())];
        match save(place, Kind::Transfer, &parts) {
            Ok(()) => Ok(Self(AgreementKey::from_bytes(&private))),
            Err(Error::Exists(_)) => Self::load(place),
            Err(error) => Err(error),
        }
    }

    /// Reads the key there.
    ///
    /// # Errors
    ///
    /// As [`super::UnitKeys::load`].
    pub fn load(place: &Place) -> Result<Self, Error> {
        let file = KeyFile::load(place, Kind::Transfer)?;
        Ok(Self(AgreementKey::from_bytes(&*file.bytes32(Part::Agreement)?)))
    }

    /// Erases the key: what was sealed to it opens no more.
    ///
    /// # Errors
    ///
    /// [`Error::File`].
    pub fn erase(place: &Place) -> Result<(), Error> {
        erase(place)
    }
}

/// Every file names a suite; this one holds no key that signs.
const ED25519: u8 = lianxi_proto::envelope::Suite::Ed25519 as u8;

/// A key file: its path below the unit's directory, and what is in it, in clear.
pub type Contents = (String, Zeroizing<Vec<u8>>);

/// Every key file below a unit's directory: its path from there, and what is in it, in clear.
///
/// # Errors
///
/// Those of reading key files.
pub fn contents(place: &Place) -> Result<Vec<Contents>, Error> {
    let mut found = Vec::new();
    for path in key_files(place.directory())? {
        let content = file::read(&path)?;
        let content = file::unsealed(&path, &content, &place.lock)?.unwrap_or(content);
        let below = path.strip_prefix(place.directory()).unwrap_or(&path);
        found.push((below.to_string_lossy().into_owned(), content));
    }
    Ok(found)
}

/// Writes a key file that came with its unit, sealed with this host's lock.
///
/// # Errors
///
/// [`Error::Damaged`] for a path that is not one of a unit's key files, [`Error::Exists`],
/// [`Error::File`].
pub fn put(place: &Place, below: &str, content: &[u8]) -> Result<(), Error> {
    let path = place.directory().join(below);
    let damaged = |reason| Error::Damaged { path: path.clone(), reason };
    let parts: Vec<Component<'_>> = Path::new(below).components().collect();
    let plain = parts.iter().all(|part| matches!(part, Component::Normal(_)));
    if !plain || parts.is_empty() || parts.len() > 3 || !below.ends_with(".keys") {
        return Err(damaged("no key file of a unit has this path"));
    }
    if file::unsealed(&path, content, &place.lock)?.is_some() {
        return Err(damaged("it is sealed"));
    }
    let sealed = file::sealed(content, &place.lock);
    let directory = path.parent().ok_or_else(|| damaged("it has no directory"))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    file::write(directory, &name, sealed.as_deref().unwrap_or(content))
}

/// True if there is a key file below a unit's directory.
///
/// # Errors
///
/// [`Error::File`].
pub fn any(place: &Place) -> Result<bool, Error> {
    if !place.directory().exists() {
        return Ok(false);
    }
    Ok(!key_files(place.directory())?.is_empty())
}

/// Overwrites and removes every key file below a unit's directory, and the directory. Nothing there: done.
///
/// # Errors
///
/// [`Error::File`].
pub fn erase(place: &Place) -> Result<(), Error> {
    let directory = place.directory();
    if !directory.exists() {
        return Ok(());
    }
    for path in key_files(directory)?.into_iter().take(MAX_FILES) {
        file::erase(&path)?;
    }
    let removed = fs::remove_dir_all(directory);
    let path = directory.to_owned();
    removed.map_err(|source| Error::File { action: "remove", path, source })?;
    file::sync(directory.parent().unwrap_or(directory))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::delegation::Suite,
        identity::keys::{Cost, DeskKeys, Lock, Secret, UnitKeys, protect},
    };

    #[test]
    fn keys_go_from_one_lock_to_another_and_nowhere_else() {
        let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let secret = Zeroizing::new("correct horse battery".to_owned());
        let secret = Secret::passphrase(secret).unwrap();
        let unit = "BOS".parse().unwrap();
        let made = UnitKeys::generate(&unit, "boston.example", 1_760_000_000_000).unwrap();
        made.save(&old.path().join("keys/BOS")).unwrap();
        DeskKeys::generate(Suite::Ed25519).save(&old.path().join("keys/BOS/desks/FIRE")).unwrap();
        let cost = Cost { memory_kib: 64, passes: 1 };
        protect(&old.path().join("keys"), &secret, cost, false).unwrap();
        let lock = Lock::open(&old.path().join("keys"), &secret).unwrap();
        let there = Place::new(old.path().join("keys"), lock).below("BOS");
        let here = Place::new(new.path().join("keys"), Lock::none()).below("BOS");
        let contents = contents(&there).unwrap();
        assert_eq!(contents.len(), 2);
        for (path, content) in &contents {
            put(&here, path, content).unwrap();
            assert!(matches!(put(&here, path, content), Err(Error::Exists(_))));
        }
        let loaded = UnitKeys::load(here.clone()).unwrap();
        assert_eq!(loaded.public_keys(), made.public_keys());
        assert!(DeskKeys::load(here.below("desks").below("FIRE")).is_ok());
        for bad in ["../other.keys", "/etc/x.keys", "a/b/c/d.keys", "unit.txt", "", ".keys/.."] {
            assert!(put(&here, bad, b"x").is_err(), "{bad}");
        }
        assert!(any(&here).unwrap());
        erase(&here).unwrap();
        assert!(!any(&here).unwrap());
        erase(&here).unwrap();
    }

    #[test]
    fn the_key_of_a_transfer_stays_until_it_is_erased() {
        let directory = tempfile::tempdir().unwrap();
        let place = Place::new(directory.path().join("keys"), Lock::none()).below("BOS");
        let TransferKey(first) = TransferKey::load_or_generate(&place).unwrap();
        let TransferKey(again) = TransferKey::load_or_generate(&place).unwrap();
        assert_eq!(first.public_key(), again.public_key());
        TransferKey::erase(&place).unwrap();
        assert!(matches!(TransferKey::load(&place), Err(Error::Missing(_))));
    }
}
