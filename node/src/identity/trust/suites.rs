//! Which suites may sign: the root says so, in its own delegation.
//!
//! Promises that a chain holds no key in a suite that the root did not accept at that time: neither
//! a weaker one that was slipped in below, nor one that the root has given up since.

use super::{Error, Holder, SKEW_TOLERANCE_MS, Trust, shown};
use crate::{
    clock::UnixMillis,
    domain::{
        delegation::{Delegation, PublicKey, Suite},
        unit::UnitCode,
    },
    statement::delegation::suite_from_proto,
};

impl Trust {
    /// Judges keys that a unit offers before anything is granted to them.
    ///
    /// # Errors
    ///
    /// [`Error::SuiteNotAccepted`].
    pub fn check_new_keys(
        &self,
        unit: &UnitCode,
        keys: &[PublicKey],
        now: UnixMillis,
    ) -> Result<(), Error> {
        let mut signing = keys.iter().filter(|key| key.suite.signs());
        match signing.find(|key| !self.accepted_at(key.suite, now)) {
            None => Ok(()),
            Some(key) => {
                let (holder, suite) = (unit.to_string(), key.suite);
                Err(Error::SuiteNotAccepted { holder, suite })
            }
        }
    }

    /// Every key that signs, and for the root's own delegation the root key too, is of an accepted
    /// suite.
    pub(super) fn check_suites(
        &self,
        delegation: &Delegation,
        time: UnixMillis,
    ) -> Result<(), Error> {
        let holder = || shown(&(delegation.unit.clone(), delegation.desk.clone()));
        if delegation.issuer.is_none() {
            let root = suite_from_proto(self.root_key.suite().into());
            let mut suites = root.into_iter().chain(delegation.signing_suites());
            return match suites.find(|suite| !delegation.accepts(*suite)) {
                None => Ok(()),
                Some(suite) => Err(Error::SuiteNotAccepted { holder: holder(), suite }),
            };
        }
        match delegation.signing_suites().find(|suite| !self.accepted_at(*suite, time)) {
            None => Ok(()),
            Some(suite) => Err(Error::SuiteNotAccepted { holder: holder(), suite }),
        }
    }

    /// The suite of a key that signed was still accepted at that time.
    pub(super) fn check_signed_suite(
        &self,
        holder: &Holder,
        time: UnixMillis,
    ) -> Result<(), Error> {
        let suite = holder.key.as_ref().and_then(|key| suite_from_proto(key.suite().into()));
        match suite {
            Some(suite) if !self.accepted_at(suite, time) => {
                Err(Error::SuiteNotAccepted { holder: shown(&holder.subject), suite })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Some delegation of the root that was in force at `time`, clocks apart, accepts the suite.
    fn accepted_at(&self, suite: Suite, time: UnixMillis) -> bool {
        let Some(root) = &self.root else { return false };
        for known in self.history(&(root.clone(), None)).iter().rev() {
            if known.is_valid_at(time) && known.delegation.accepts(suite) {
                return true;
            }
            let begun = known.delegation.not_before_unix_ms.saturating_add(SKEW_TOLERANCE_MS);
            if begun <= time {
                return false;
            }
        }
        false
    }
}
