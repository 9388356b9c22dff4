//! Who can be sealed to, and whose a key of a reader is.

use super::{Known, Subject, Trust};
use crate::{
    domain::{
        delegation::{KeyUse, Suite},
        unit::{DeskId, UnitCode},
    },
    identity::sealed::Reader,
};

impl Trust {
    /// The newest agreement key of a unit or desk. A desk without one is read for by its unit.
    pub fn reader(&self, unit: &UnitCode, desk: Option<&DeskId>) -> Option<Reader> {
        let own = |desk| self.delegation(unit, desk).and_then(agreement);
        own(desk).or_else(|| own(None))
    }

    /// Whose agreement key it is, however old.
    pub fn reader_of(&self, key_id: &str) -> Option<&Subject> {
        let holder = self.keys.get(key_id)?;
        (holder.key_use == KeyUse::Agreement).then_some(&holder.subject)
    }
}

fn agreement(known: &Known) -> Option<Reader> {
    let mut keys = known.delegation.keys.iter();
    let key = keys.find(|key| key.key_use == KeyUse::Agreement && key.suite == Suite::X25519)?;
    key.bytes.as_slice().try_into().ok().map(Reader::new)
}
