//! Which suites may sign: the root says so, in its own delegation.
//!
//! Promises that a chain holds no key in a suite that the root did not accept at that time: neither
//! a weaker one that was slipped in below, nor one that the root has given up since.

use super::{Error, Holder, SKEW_TOLERANCE_MS, Signed, Trust, shown};
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
        let root = self.root();
        match signing.find(|key| !self.accepted_at(root, key.suite, now)) {
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
        signers: &[Signed<'_>],
        time: UnixMillis,
    ) -> Result<(), Error> {
        let holder = || shown(&(delegation.unit.clone(), delegation.desk.clone()));
        if delegation.issuer.is_none() {
            let roots = signers.iter().filter_map(|signed| match signed {
                Signed::Root(root) => suite_from_proto(root.key.suite().into()),
                Signed::Holder(..) => None,
            });
            let mut suites = roots.chain(delegation.signing_suites());
            return match suites.find(|suite| !delegation.accepts(*suite)) {
                None => Ok(()),
                Some(suite) => Err(Error::SuiteNotAccepted { holder: holder(), suite }),
            };
        }
        let issuer = delegation.issuer.as_ref();
        match delegation.signing_suites().find(|suite| !self.accepted_at(issuer, *suite, time)) {
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
            Some(suite) if !self.accepted_at(Some(&holder.subject.0), suite, time) => {
                Err(Error::SuiteNotAccepted { holder: shown(&holder.subject), suite })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Some delegation of the root that was above `unit` at `time`, in force then, clocks apart,
    /// accepts the suite.
    fn accepted_at(&self, unit: Option<&UnitCode>, suite: Suite, time: UnixMillis) -> bool {
        let top = unit.and_then(|unit| self.line_at(unit, time).last());
        let Some(root) = top else { return false };
        let own = self.history(&(root.clone(), None)).iter().rev();
        for known in own.filter(|known| known.delegation.issuer.is_none()) {
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
