//! The rules that a delegation is judged by: its issuer, its place, its keys, its time.

use super::{Error, Holder, Known, SKEW_TOLERANCE_MS, Signed, Trust, id_of, shown};
use crate::{
    clock::UnixMillis,
    domain::{
        delegation::{Delegation, KeyUse},
        unit::{DeskId, Level, UnitCode},
    },
};

impl Trust {
    /// The root's own delegation: by the root key alone, always for the same unit and level.
    pub(super) fn check_root(
        &self,
        delegation: &Delegation,
        signers: &[Signed<'_>],
    ) -> Result<(), Error> {
        if let Some(signed) = signers.iter().find(|signed| !matches!(signed, Signed::Root)) {
            let (claimed, holder) = (delegation.unit.clone(), signed.shown());
            return Err(Error::WrongSource { claimed, holder });
        }
        if let Some(desk) = &delegation.desk {
            let reason = "a desk is granted by its own unit, not by the root key";
            return Err(Error::Desk { unit: delegation.unit.clone(), desk: desk.clone(), reason });
        }
        match &self.root {
            Some(root) if *root != delegation.unit => Err(self.moved(root, delegation.level)),
            _ => self.check_same_place(delegation),
        }
    }

    pub(super) fn check_issued(
        &self,
        delegation: &Delegation,
        issuer: &UnitCode,
        signers: &[Signed<'_>],
        time: UnixMillis,
    ) -> Result<(), Error> {
        let unit = &delegation.unit;
        let granting = self.delegation(issuer, None);
        let granting = granting.ok_or_else(|| Error::UnknownUnit(issuer.clone()))?;
        for signed in signers {
            let (key_id, holder) = match signed {
                Signed::Holder(key_id, holder) if holder.subject == (issuer.clone(), None) => {
                    (key_id, holder)
                }
                Signed::Holder(..) | Signed::Root => {
                    let (claimed, holder) = (issuer.clone(), signed.shown());
                    return Err(Error::WrongSource { claimed, holder });
                }
            };
            if holder.key_use != KeyUse::Delegation {
                let (holder, key_use) = (shown(&holder.subject), holder.key_use);
                return Err(Error::WrongUse { holder, key_use });
            }
            let by = self.in_force(holder, key_id, time)?;
            self.check_signed_suite(holder, time)?;
            check_inside(delegation, &by.delegation)?;
        }
        match &delegation.desk {
            Some(desk) => check_desk(delegation, desk, issuer, granting.delegation.level),
            None => {
                if self.delegation(unit, None).is_some() && self.line(issuer).any(|one| one == unit)
                {
                    return Err(Error::Loop { unit: unit.clone(), issuer: issuer.clone() });
                }
                let issuer_level = granting.delegation.level;
                if !issuer_level.is_above(delegation.level) {
                    let (unit, issuer) = (unit.clone(), issuer.clone());
                    return Err(Error::Level {
                        unit,
                        level: delegation.level,
                        issuer,
                        issuer_level,
                    });
                }
                Ok(())
            }
        }
    }

    /// The root keeps its level, and gets no parent by itself.
    pub(super) fn check_same_place(&self, delegation: &Delegation) -> Result<(), Error> {
        match self.delegation(&delegation.unit, None) {
            Some(known)
                if known.delegation.issuer != delegation.issuer
                    || known.delegation.level != delegation.level =>
            {
                Err(self.moved(&delegation.unit, known.delegation.level))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn moved(&self, unit: &UnitCode, level: Level) -> Error {
        let parent = self.parent(unit).map_or_else(|| "no parent".to_owned(), ToString::to_string);
        let level = self.delegation(unit, None).map_or(level, |known| known.delegation.level);
        Error::Moved { unit: unit.clone(), level, parent }
    }

    /// No key has two holders or two uses, and none is the root key.
    pub(super) fn check_keys(&self, delegation: &Delegation) -> Result<(), Error> {
        let subject = (delegation.unit.clone(), delegation.desk.clone());
        for key in &delegation.keys {
            let taken = |holder: String| Error::KeyTaken { unit: delegation.unit.clone(), holder };
            if key.bytes == self.root_key.public_key() {
                return Err(taken("the root".to_owned()));
            }
            match self.keys.get(&id_of(key)) {
                Some(holder) if holder.subject != subject || holder.key_use != key.key_use => {
                    return Err(taken(shown(&holder.subject)));
                }
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) fn check_serial(&self, known: &Known) -> Result<(), Error> {
        let (subject, serial) = (known.subject(), known.delegation.serial);
        if self.history(&subject).iter().any(|one| one.delegation.serial == serial) {
            return Err(Error::SerialReused { holder: shown(&subject), serial });
        }
        Ok(())
    }

    /// The delegation by which a key was good at `time`: it names the key, covers the time, and no
    /// newer one that leaves the key out had begun for certain.
    pub(super) fn in_force(
        &self,
        holder: &Holder,
        key_id: &str,
        time: UnixMillis,
    ) -> Result<&Known, Error> {
        for known in self.history(&holder.subject).iter().rev() {
            if known.holds(key_id, holder.key_use) && known.is_valid_at(time) {
                return Ok(known);
            }
            let begun = known.delegation.keys_since().saturating_add(SKEW_TOLERANCE_MS);
            if !known.holds(key_id, holder.key_use) && begun <= time {
                break;
            }
        }
        Err(Error::Expired { holder: shown(&holder.subject), time_unix_ms: time })
    }
}

pub(super) fn check_not_ahead(time: UnixMillis, now: Option<UnixMillis>) -> Result<(), Error> {
    match now {
        Some(now) if time.saturating_sub(SKEW_TOLERANCE_MS) > now => {
            Err(Error::Future { ahead_ms: time.saturating_sub(now) })
        }
        _ => Ok(()),
    }
}

/// A grant ends no later than its issuer's, and begins no earlier, clocks apart.
fn check_inside(delegation: &Delegation, issuer: &Delegation) -> Result<(), Error> {
    let begins = delegation.not_before_unix_ms.saturating_add(SKEW_TOLERANCE_MS);
    if delegation.not_after_unix_ms > issuer.not_after_unix_ms || begins < issuer.not_before_unix_ms
    {
        let (unit, issuer) = (delegation.unit.clone(), issuer.unit.clone());
        return Err(Error::OutlivesIssuer { unit, issuer });
    }
    Ok(())
}

/// A desk is granted by its own unit, at its unit's level, and grants nothing itself.
fn check_desk(
    delegation: &Delegation,
    desk: &DeskId,
    issuer: &UnitCode,
    issuer_level: Level,
) -> Result<(), Error> {
    let refuse =
        |reason| Err(Error::Desk { unit: delegation.unit.clone(), desk: desk.clone(), reason });
    if *issuer != delegation.unit {
        return refuse("a desk is granted by its own unit alone");
    }
    if issuer_level != delegation.level {
        return refuse("a desk stands at the level of its unit");
    }
    if delegation.keys.iter().any(|key| key.key_use == KeyUse::Delegation) {
        return refuse("a desk delegates nothing");
    }
    Ok(())
}
