//! Keys on their way in and out: the next ones of a unit in `next.keys`, its former agreement keys in
//! `former.keys`.
//!
//! Promises that new keys are on disk before anybody is told of them, that the change from the old
//! ones to the new is one step that a power cut leaves undone or done, and that an agreement key
//! that was taken out of use still opens what was sealed to it. Other former keys are gone with
//! that step: nothing is signed with them again.

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::CertificateDer;
use zeroize::Zeroizing;

use super::{
    AgreementKey, Error, Place, UnitKeys,
    file::{self, KeyFile, Kind, Part},
    new_signer, public_key, random,
};
use crate::{
    clock::UnixMillis,
    domain::{
        delegation::{KeyUse, PublicKey, Suite},
        rotation::Replaced,
        unit::UnitCode,
    },
    identity::certificates,
};
use lianxi_proto::envelope::Signer;

/// Keys that are to replace a unit's.
#[derive(Debug)]
pub struct NextKeys {
    /// For statements.
    pub statement: Option<Signer>,
    /// For delegations.
    pub delegation: Option<Signer>,
    /// For what is sealed to the unit.
    pub agreement: Option<AgreementKey>,
    /// The unit's CA, with its certificate.
    pub ca: Option<(KeyPair, CertificateDer<'static>)>,
}

impl NextKeys {
    /// Makes new keys in the place of `replaced`.
    ///
    /// # Errors
    ///
    /// [`Error::Generate`], [`Error::Certificate`].
    pub fn generate(
        replaced: &[Replaced],
        suite: Suite,
        (unit, trust_domain): (&UnitCode, &str),
        now: UnixMillis,
    ) -> Result<Self, Error> {
        let is = |one: Replaced| replaced.contains(&one);
        let ca = if is(Replaced::Ca) {
            let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(Error::Generate)?;
            let certificate = certificates::issue_ca(unit, trust_domain, &pair, now)?;
            Some((pair, certificate))
        } else {
            None
        };
        Ok(Self {
            statement: is(Replaced::Statement).then(|| new_signer(suite)),
            delegation: is(Replaced::Delegation).then(|| new_signer(suite)),
            agreement: is(Replaced::Agreement).then(|| AgreementKey::from_bytes(&random())),
            ca,
        })
    }

    /// Writes `next.keys` there, durably.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`] if a change is under way, [`Error::File`].
    pub fn save(&self, place: &Place, suite: &UnitKeys) -> Result<(), Error> {
        let private = |signer: &Option<Signer>| signer.as_ref().map(Signer::private_bytes);
        let (statement, delegation) = (private(&self.statement), private(&self.delegation));
        let agreement = self.agreement.as_ref().map(|key| Zeroizing::new(*key.private_bytes()));
        let suite = file::suite_part(&suite.statement);
        let mut parts: Vec<(Part, &[u8])> = vec![(Part::Suite, &suite)];
        parts.extend(statement.as_ref().map(|key| (Part::Statement, key.as_slice())));
        parts.extend(delegation.as_ref().map(|key| (Part::Delegation, key.as_slice())));
        parts.extend(agreement.as_ref().map(|key| (Part::Agreement, key.as_slice())));
        if let Some((pair, certificate)) = &self.ca {
            parts.push((Part::Ca, pair.serialized_der()));
            parts.push((Part::CaCertificate, certificate));
        }
        file::save(place, Kind::Next, &parts)
    }

    /// Reads `next.keys` there.
    ///
    /// # Errors
    ///
    /// As [`UnitKeys::load`].
    pub fn load(place: &Place) -> Result<Self, Error> {
        let file = KeyFile::load(place, Kind::Next)?;
        let signer = |part| if file.holds(part) { file.signer(part).map(Some) } else { Ok(None) };
        let agreement = if file.holds(Part::Agreement) {
            Some(AgreementKey::from_bytes(&*file.bytes32(Part::Agreement)?))
        } else {
            None
        };
        let ca = if file.holds(Part::Ca) {
            let certificate = file.part(Part::CaCertificate)?.to_vec().into();
            Some((file.pair(Part::Ca)?, certificate))
        } else {
            None
        };
        let (statement, delegation) = (signer(Part::Statement)?, signer(Part::Delegation)?);
        Ok(Self { statement, delegation, agreement, ca })
    }

    /// The public halves.
    pub fn public_keys(&self) -> Vec<PublicKey> {
        let mut keys = Vec::new();
        keys.extend(self.statement.as_ref().map(|key| public_key(key, KeyUse::Statement)));
        keys.extend(self.delegation.as_ref().map(|key| public_key(key, KeyUse::Delegation)));
        keys.extend(self.agreement.as_ref().map(|key| PublicKey {
            suite: Suite::X25519,
            bytes: key.public_key().to_vec(),
            key_use: KeyUse::Agreement,
        }));
        keys
    }

    /// SHA-256 of the new CA's certificate.
    pub fn ca_sha256(&self) -> Option<[u8; 32]> {
        self.ca.as_ref().map(|(_, certificate)| certificates::sha256(certificate))
    }

    /// Puts the keys in the place of the unit's, in one step; the former agreement key is kept
    /// first. Given again after it was cut off, it changes nothing that was done.
    ///
    /// # Errors
    ///
    /// Those of reading and writing key files.
    pub fn take_into_use(self, place: &Place) -> Result<UnitKeys, Error> {
        let keys = UnitKeys::load(place.clone())?;
        if let Some(next) = &self.agreement
            && next.public_key() != keys.agreement.public_key()
        {
            keep_former(place, &keys)?;
        }
        let (ca, ca_certificate) = self.ca.unwrap_or((keys.ca, keys.ca_certificate));
        let next = UnitKeys {
            statement: self.statement.unwrap_or(keys.statement),
            delegation: self.delegation.unwrap_or(keys.delegation),
            agreement: self.agreement.unwrap_or(keys.agreement),
            ca,
            tls: keys.tls,
            ca_certificate,
        };
        next.replace(place)?;
        Ok(next)
    }

    /// Removes `next.keys`; without it nothing changes.
    ///
    /// # Errors
    ///
    /// [`Error::File`].
    pub fn remove(place: &Place) -> Result<(), Error> {
        match file::erase(&place.directory().join(Kind::Next.file_name())) {
            Err(Error::Missing(_)) => Ok(()),
            removed => removed,
        }
    }
}

/// Agreement keys that a unit had before, the oldest first.
///
/// # Errors
///
/// As [`UnitKeys::load`]; that there are none is no error.
pub fn former_agreement_keys(place: &Place) -> Result<Vec<AgreementKey>, Error> {
    let file = match KeyFile::load(place, Kind::Former) {
        Err(Error::Missing(_)) => return Ok(Vec::new()),
        loaded => loaded?,
    };
    let parts = file.all(Part::Agreement);
    let keys = parts.map(|bytes| bytes.try_into().map(AgreementKey::from_bytes));
    let keys: Result<Vec<_>, _> = keys.collect();
    keys.map_err(|_| Error::Damaged {
        path: place.directory().join(Kind::Former.file_name()),
        reason: "a key has the wrong length",
    })
}

fn keep_former(place: &Place, keys: &UnitKeys) -> Result<(), Error> {
    let mut former = former_agreement_keys(place)?;
    let own = keys.agreement.public_key();
    if former.iter().any(|key| key.public_key() == own) {
        return Ok(());
    }
    former.push(AgreementKey::from_bytes(keys.agreement.private_bytes()));
    let private: Vec<_> = former.iter().map(|key| Zeroizing::new(*key.private_bytes())).collect();
    let suite = file::suite_part(&keys.statement);
    let mut parts: Vec<(Part, &[u8])> = vec![(Part::Suite, &suite)];
    parts.extend(private.iter().map(|key| (Part::Agreement, key.as_slice())));
    file::put(place, Kind::Former, &parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = 1_760_000_000_000;

    fn made(directory: &std::path::Path) -> (Place, UnitKeys) {
        let place = Place::from(directory);
        let keys = UnitKeys::generate(&"BOS".parse().unwrap(), "boston.example", NOW).unwrap();
        keys.save(place.clone()).unwrap();
        (place, keys)
    }

    fn next(replaced: &[Replaced]) -> NextKeys {
        let unit = "BOS".parse().unwrap();
        NextKeys::generate(replaced, Suite::Ed25519, (&unit, "boston.example"), NOW).unwrap()
    }

    #[test]
    fn next_keys_come_back_and_go_into_use_in_one_step() {
        let directory = tempfile::tempdir().unwrap();
        let (place, before) = made(&directory.path().join("BOS"));
        let made = next(&[Replaced::Statement, Replaced::Ca]);
        made.save(&place, &before).unwrap();
        assert!(matches!(made.save(&place, &before), Err(Error::Exists(_))));
        let loaded = NextKeys::load(&place).unwrap();
        assert_eq!(loaded.public_keys(), made.public_keys());
        assert_eq!(loaded.ca_sha256(), made.ca_sha256());
        loaded.take_into_use(&place).unwrap();
        let after = UnitKeys::load(place.clone()).unwrap();
        assert_eq!(after.statement.key_id(), made.statement.as_ref().unwrap().key_id());
        assert_eq!(after.delegation.key_id(), before.delegation.key_id());
        assert_eq!(Some(after.ca_sha256()), made.ca_sha256());
        NextKeys::remove(&place).unwrap();
        NextKeys::remove(&place).unwrap();
        assert!(matches!(NextKeys::load(&place), Err(Error::Missing(_))));
        assert!(former_agreement_keys(&place).unwrap().is_empty());
    }

    #[test]
    fn former_agreement_keys_are_kept_each_once() {
        let directory = tempfile::tempdir().unwrap();
        let (place, first) = made(&directory.path().join("BOS"));
        let made = next(&[Replaced::Agreement]);
        made.save(&place, &first).unwrap();
        // Cut off after the step, it is done again with the keys that are in use by then.
        for _ in 0..2 {
            NextKeys::load(&place).unwrap().take_into_use(&place).unwrap();
        }
        next(&[Replaced::Agreement]).take_into_use(&place).unwrap();
        let former = former_agreement_keys(&place).unwrap();
        let former: Vec<_> = former.iter().map(AgreementKey::public_key).collect();
        let second = made.agreement.unwrap().public_key();
        assert_eq!(former, [first.agreement.public_key(), second]);
    }
}
