//! The key under which a host keeps the second factors of its people.
//!
//! Promises that what it seals opens for the same person alone, and that it lies with the keys of the
//! host, never in its store: whoever has the store alone learns no factor. A key file as every other:
//! of mode 0600, and sealed where the host's keys are.

use std::fmt;

use zeroize::Zeroizing;

use super::{
    Error, KeyFile, Kind, Part, Place,
    lock::{KEY_BYTES, seal, unseal},
    random, save,
};

/// What is sealed with it begins with this.
const CONTEXT: &[u8] = b"lianxi second factor v1 ";

/// Every file names a suite; this one holds no key that signs.
const ED25519: u8 = lianxi_proto::envelope::Suite::Ed25519 as u8;

/// The key of a host for its people. Wiped from memory when dropped.
pub struct PeopleKey(Zeroizing<[u8; KEY_BYTES]>);

impl PeopleKey {
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
        let key = random();
        let parts = [(Part::Suite, &[ED25519][..]), (Part::Sealing, key.as_slice())];
        match save(place, Kind::People, &parts) {
            Ok(()) => Ok(Self(key)),
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
        Ok(Self(KeyFile::load(place, Kind::People)?.bytes32(Part::Sealing)?))
    }

    /// Seals a secret of the person `name`.
    pub fn seal(&self, name: &str, secret: &[u8]) -> Vec<u8> {
        seal(&self.0, &context(name), secret)
    }

    /// Opens what was sealed for the person `name`; `None` if this is not the key or the person, or
    /// the bytes were changed.
    pub fn open(&self, name: &str, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        unseal(&self.0, &context(name), sealed)
    }
}

impl fmt::Debug for PeopleKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("PeopleKey")
    }
}

fn context(name: &str) -> Vec<u8> {
    [CONTEXT, name.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_for_its_person_and_with_its_key_alone() {
        let directory = tempfile::tempdir().unwrap();
        let place = Place::from(&directory.path().join("a"));
        let key = PeopleKey::load_or_generate(&place).unwrap();
        let sealed = key.seal("lina", b"twenty bytes of them");
        assert!(!sealed.windows(6).any(|part| part == b"twenty"));
        let again = PeopleKey::load(&place).unwrap();
        assert_eq!(again.open("lina", &sealed).unwrap().as_slice(), b"twenty bytes of them");
        assert!(again.open("wangwei", &sealed).is_none());
        let other = Place::from(&directory.path().join("b"));
        assert!(matches!(PeopleKey::load(&other), Err(Error::Missing(_))));
        let other = PeopleKey::load_or_generate(&other).unwrap();
        assert!(other.open("lina", &sealed).is_none());
        for position in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[position] ^= 1;
            assert!(key.open("lina", &changed).is_none(), "byte {position}");
        }
    }
}
