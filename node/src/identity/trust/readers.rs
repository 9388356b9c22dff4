//! Who can be sealed to, and whose a key of a reader is.

use super::{Subject, Trust, id_of};
use crate::{
    domain::{
        delegation::{KeyUse, PublicKey, Suite},
        unit::{DeskId, UnitCode},
    },
    identity::sealed::Reader,
};

impl Trust {
    /// The newest agreement key of a unit or desk that was not revoked. A desk without one is read
    /// for by its unit.
    pub fn reader(&self, unit: &UnitCode, desk: Option<&DeskId>) -> Option<Reader> {
        let own = |desk: Option<&DeskId>| {
            let known = self.delegation(unit, desk)?;
            let key = known.delegation.keys.iter().find(|key| is_agreement(key))?;
            let has_ended = self.revoked(unit, desk).is_some()
                || self.revocation_of(unit, desk, &id_of(key)).is_some();
            let public_key = key.bytes.as_slice().try_into().ok()?;
            (!has_ended).then(|| Reader::new(public_key))
        };
        own(desk).or_else(|| own(None))
    }

    /// Whose agreement key it is, however old.
    pub fn reader_of(&self, key_id: &str) -> Option<&Subject> {
        let holder = self.keys.get(key_id)?;
        (holder.key_use == KeyUse::Agreement).then_some(&holder.subject)
    }
}

fn is_agreement(key: &PublicKey) -> bool {
    key.key_use == KeyUse::Agreement && key.suite == Suite::X25519
}
