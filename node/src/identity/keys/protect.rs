//! Putting a lock on the keys of a host, taking it off, and changing what opens it.
//!
//! Promises that each key file is at any time whole, in clear or sealed, and that a run that was cut
//! off can be given again and finishes the rest. Must be called while no node runs on the keys.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{
    Error, file,
    lock::{self, Cost, Lock, Method, Secret},
};

/// Seals every key file below `keys` with a host key that `secret` opens. Gives the files that were
/// changed; with `dry_run`, those that would be.
///
/// # Errors
///
/// [`Error::WrongSecret`] or [`Error::OtherMethod`] if there is a lock already that `secret` does
/// not open, and those of reading and writing key files.
pub fn protect(
    keys: &Path,
    secret: &Secret,
    cost: Cost,
    dry_run: bool,
) -> Result<Vec<PathBuf>, Error> {
    let locked = Lock::method(keys)? != Method::None;
    // Opened in a dry run too: it tells a wrong secret before anything is done.
    let lock = if locked { Lock::open(keys, secret)? } else { Lock::none() };
    let mut open = Vec::new();
    for path in key_files(keys)? {
        let content = file::read(&path)?;
        if file::unsealed(&path, &content, &lock)?.is_none() {
            open.push((path, content));
        }
    }
    if !dry_run {
        let lock = if locked { lock } else { Lock::create(keys, secret, cost)? };
        for (path, content) in &open {
            let sealed = file::sealed(content, &lock);
            file::replace(path, &sealed.expect("invariant: the lock seals"))?;
        }
    }
    Ok(open.into_iter().map(|(path, _)| path).collect())
}

/// Writes every key file below `keys` in clear again and removes the lock. Gives the files that
/// were changed; with `dry_run`, those that would be.
///
/// # Errors
///
/// [`Error::Missing`] if there is no lock, those of [`Lock::open`] and of key files.
pub fn unprotect(keys: &Path, secret: &Secret, dry_run: bool) -> Result<Vec<PathBuf>, Error> {
    let lock = Lock::open(keys, secret)?;
    let mut changed = Vec::new();
    for path in key_files(keys)? {
        let content = file::read(&path)?;
        if let Some(opened) = file::unsealed(&path, &content, &lock)? {
            if !dry_run {
                file::replace(&path, &opened)?;
            }
            changed.push(path);
        }
    }
    if !dry_run {
        // Last: until then it opens what is still sealed.
        let path = lock::path(keys);
        let removed = fs::remove_file(&path);
        removed.map_err(|source| Error::File { action: "remove", path, source })?;
        file::sync(keys)?;
    }
    Ok(changed)
}

/// Lets `new` open the keys in the place of `old`. The key files stay as they are.
///
/// # Errors
///
/// [`Error::Missing`] if there is no lock, those of [`Lock::open`] and of key files.
pub fn change_secret(
    keys: &Path,
    old: &Secret,
    new: &Secret,
    cost: Cost,
    dry_run: bool,
) -> Result<(), Error> {
    let lock = Lock::open(keys, old)?;
    if dry_run { Ok(()) } else { lock.rewrap(keys, new, cost) }
}

/// Every key file below a directory, in the order of their names.
pub(super) fn key_files(keys: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    let mut open = vec![keys.to_owned()];
    while let Some(directory) = open.pop() {
        let failed = |source| Error::File { action: "read", path: directory.clone(), source };
        for entry in fs::read_dir(&directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let path = entry.path();
            if entry.file_type().map_err(failed)?.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "keys") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;
    use crate::{
        domain::delegation::Suite,
        identity::keys::{DeskKeys, Place, RootKey, UnitKeys},
    };

    const CHEAP: Cost = Cost { memory_kib: 64, passes: 1 };

    fn secret(text: &str) -> Secret {
        Secret::passphrase(Zeroizing::new(text.to_owned())).unwrap()
    }

    /// Keys of a unit, its root key and a desk, and the private bytes of one of them.
    fn made(keys: &Path) -> Vec<u8> {
        let unit = "BOS".parse().unwrap();
        let made = UnitKeys::generate(&unit, "boston.example", 1_760_000_000_000).unwrap();
        made.save(&keys.join("BOS")).unwrap();
        RootKey::generate(Suite::Sm2Sm3).save(&keys.join("BOS")).unwrap();
        DeskKeys::generate(Suite::Ed25519).save(&keys.join("BOS/desks/FIRE")).unwrap();
        made.statement.private_bytes().to_vec()
    }

    fn contents(keys: &Path) -> Vec<Vec<u8>> {
        key_files(keys).unwrap().iter().map(|path| fs::read(path).unwrap()).collect()
    }

    fn holds(files: &[Vec<u8>], private: &[u8]) -> bool {
        files.iter().any(|file| file.windows(private.len()).any(|window| window == private))
    }

    #[test]
    fn sealed_keys_tell_nothing_and_open_with_the_passphrase_alone() {
        let directory = tempfile::tempdir().unwrap();
        let keys = directory.path().join("keys");
        let private = made(&keys);
        let before = contents(&keys);
        assert!(holds(&before, &private), "the search finds what is in clear");
        let right = secret("correct horse battery");
        assert_eq!(protect(&keys, &right, CHEAP, true).unwrap().len(), 3);
        assert_eq!(contents(&keys), before, "a dry run changes nothing");
        assert_eq!(Lock::method(&keys).unwrap(), Method::None);

        assert_eq!(protect(&keys, &right, CHEAP, false).unwrap().len(), 3);
        assert!(!holds(&contents(&keys), &private));
        assert!(!holds(&[fs::read(lock::path(&keys)).unwrap()], &private));
        let unit = keys.join("BOS");
        assert!(matches!(UnitKeys::load(&unit), Err(Error::Sealed(_))));
        assert!(matches!(
            Lock::open(&keys, &secret("wrong horse battery")),
            Err(Error::WrongSecret(_))
        ));
        let lock = Lock::open(&keys, &right).unwrap();
        let opened = UnitKeys::load(Place::new(unit.clone(), lock.clone())).unwrap();
        assert_eq!(opened.statement.private_bytes().as_slice(), private);
        // What is made later is sealed as well.
        let desk = DeskKeys::generate(Suite::Ed25519);
        let place = Place::new(unit.clone(), lock).below("desks").below("WATER");
        desk.save(place.clone()).unwrap();
        assert!(!holds(&contents(&keys), desk.statement.private_bytes().as_slice()));
        assert_eq!(DeskKeys::load(place).unwrap().public_keys(), desk.public_keys());

        assert!(matches!(
            unprotect(&keys, &secret("wrong horse battery"), false),
            Err(Error::WrongSecret(_))
        ));
        assert_eq!(unprotect(&keys, &right, false).unwrap().len(), 4);
        assert!(holds(&contents(&keys), &private));
        assert_eq!(UnitKeys::load(&unit).unwrap().statement.private_bytes().as_slice(), private);
        fs::remove_dir_all(unit.join("desks/WATER")).unwrap();
        assert_eq!(contents(&keys), before);
    }

    #[test]
    fn a_changed_passphrase_opens_and_the_old_one_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let keys = directory.path().join("keys");
        made(&keys);
        let (old, new) = (secret("correct horse battery"), secret("other words than before"));
        protect(&keys, &old, CHEAP, false).unwrap();
        let sealed = contents(&keys);
        change_secret(&keys, &old, &new, CHEAP, true).unwrap();
        assert!(Lock::open(&keys, &old).is_ok(), "a dry run changes nothing");
        assert!(matches!(
            change_secret(&keys, &new, &new, CHEAP, false),
            Err(Error::WrongSecret(_))
        ));
        change_secret(&keys, &old, &new, CHEAP, false).unwrap();
        assert!(matches!(Lock::open(&keys, &old), Err(Error::WrongSecret(_))));
        let lock = Lock::open(&keys, &new).unwrap();
        assert!(UnitKeys::load(Place::new(keys.join("BOS"), lock)).is_ok());
        assert_eq!(contents(&keys), sealed);
    }

    /// As after a power cut: some files sealed, some not.
    #[test]
    fn a_run_that_was_cut_off_is_finished_by_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let keys = directory.path().join("keys");
        made(&keys);
        let before = contents(&keys);
        let right = secret("correct horse battery");
        protect(&keys, &right, CHEAP, false).unwrap();
        let files = key_files(&keys).unwrap();
        file::replace(&files[0], &before[0]).unwrap();
        let lock = Lock::open(&keys, &right).unwrap();
        assert!(UnitKeys::load(Place::new(keys.join("BOS"), lock)).is_ok());
        assert!(protect(&keys, &secret("wrong horse battery"), CHEAP, false).is_err());
        assert_eq!(protect(&keys, &right, CHEAP, false).unwrap(), [files[0].clone()]);
        assert!(protect(&keys, &right, CHEAP, false).unwrap().is_empty());
        file::replace(&files[1], &before[1]).unwrap();
        assert_eq!(unprotect(&keys, &right, false).unwrap().len(), 2);
        assert_eq!(contents(&keys), before);
    }

    #[test]
    fn every_changed_byte_of_a_sealed_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let keys = directory.path().join("keys");
        DeskKeys::generate(Suite::Ed25519).save(&keys.join("FIRE")).unwrap();
        let right = secret("correct horse battery");
        protect(&keys, &right, CHEAP, false).unwrap();
        let lock = Lock::open(&keys, &right).unwrap();
        let path = keys.join("FIRE/desk.keys");
        let whole = fs::read(&path).unwrap();
        for position in 0..whole.len() {
            let mut changed = whole.clone();
            changed[position] ^= 1;
            file::replace(&path, &changed).unwrap();
            let loaded = DeskKeys::load(Place::new(keys.join("FIRE"), lock.clone()));
            assert!(matches!(loaded, Err(Error::Damaged { .. })), "byte {position}: {loaded:?}");
        }
    }
}
