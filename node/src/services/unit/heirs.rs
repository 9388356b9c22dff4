//! Units that merged into this one, or into which it merges: who acts for whom, and the keys that
//! read what is still sealed to a unit that has ended.

use std::sync::PoisonError;

use super::Unit;
use crate::{
    domain::unit::UnitCode,
    identity::keys::AgreementKey,
    statement::{
        header::{self, StatementId},
        reform::{AgreementPrivate, decode_step},
    },
    store::{self, Table},
};

impl Unit {
    /// The unit into which this one merges, since it stands under it: nobody acts as this unit any
    /// more.
    pub fn merges_into(&self) -> Option<UnitCode> {
        self.trust().merged_into(&self.code).cloned()
    }

    /// True if what is for `unit` is for this one: it is this unit, or has ended and this one has what
    /// it had open.
    pub fn is_own(&self, unit: &UnitCode) -> bool {
        *unit == self.code || *self.trust().heir(unit) == self.code
    }

    /// This unit, and those that merge or have merged into it: whose cases it may have.
    pub fn own_and_inherited(&self) -> Vec<UnitCode> {
        let trust = self.trust();
        let inherited = trust.inherited(&self.code).into_iter();
        std::iter::once(&self.code).chain(inherited).cloned().collect()
    }

    /// Which of two sides of a case `unit` speaks for: itself, or the one that merged into it.
    pub fn side_of<'a>(&self, sides: [&'a UnitCode; 2], unit: &'a UnitCode) -> &'a UnitCode {
        if sides.contains(&unit) {
            return unit;
        }
        let trust = self.trust();
        let inherited = trust.inherited(unit);
        sides.into_iter().find(|side| inherited.contains(side)).unwrap_or(unit)
    }

    /// Private keys with which bodies are read that are sealed to this unit, its desks, and those that
    /// merged into it: for the unit into which it merges.
    pub fn readers_for_heir(&self) -> Vec<AgreementPrivate> {
        let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
        ring.private_keys().map(AgreementPrivate).collect()
    }

    /// Reads with these keys too, from here on.
    pub fn add_readers(&self, keys: &[AgreementPrivate]) {
        let mut ring = self.ring.write().unwrap_or_else(PoisonError::into_inner);
        keys.iter().for_each(|key| ring.add(AgreementKey::from_bytes(&key.0)));
    }

    /// Takes up the keys that units handed over which merged into this one. They lie in their
    /// statements, sealed to this unit.
    ///
    /// # Errors
    ///
    /// The store's; a statement that is missing or does not open.
    pub(super) async fn take_up_readers(&self) -> Result<(), store::Error> {
        let damaged = || store::Error::Engine("keys of a merged unit cannot be read".to_owned());
        let rows = self.store.scan(&self.code, Table::Inherited, b"", None, usize::MAX).await?;
        for (key, _) in rows {
            let id = StatementId::try_from(&key[..]).map_err(|_| damaged())?;
            let envelope = self.statement(id).await?.ok_or_else(damaged)?;
            let statement = header::decode(&envelope.payload).map_err(|_| damaged())?;
            let body = self.read(&statement, &[]).ok().flatten().ok_or_else(damaged)?;
            self.add_readers(&decode_step(&body).map_err(|_| damaged())?.agreement_keys);
        }
        Ok(())
    }
}
