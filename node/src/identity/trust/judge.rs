//! The rules that a delegation is judged by: its issuer, its place, its keys, its time.

use super::{Error, Holder, Judged, Known, SKEW_TOLERANCE_MS, Signed, Trust, id_of, shown};
use crate::{
    clock::UnixMillis,
    domain::{
        delegation::{Delegation, KeyUse},
        unit::{DeskId, Level, UnitCode},
    },
};

impl Trust {
    /// The root's own delegation: by one root key alone, always for the same unit and level.
    pub(super) fn check_root(
        &self,
        known: &Known,
        signers: &[Signed<'_>],
        judged: Judged,
    ) -> Result<(), Error> {
        let delegation = &known.delegation;
        let root = match signers {
            [Signed::Root(root)] => *root,
            signers => {
                let holder = signers.iter().map(Signed::shown).collect::<Vec<_>>().join(", ");
                return Err(Error::WrongSource { claimed: delegation.unit.clone(), holder });
            }
        };
        if let Some(desk) = &delegation.desk {
            let reason = "a desk is granted by its own unit, not by the root key";
            return Err(Error::Desk { unit: delegation.unit.clone(), desk: desk.clone(), reason });
        }
        match &root.unit {
            Some(unit) if *unit != delegation.unit => {
                return Err(self.moved(unit, delegation.level));
            }
            Some(_) | None => self.check_same_place(known)?,
        }
        if judged == Judged::Stored {
            return Ok(());
        }
        self.check_root_standing(root, delegation, &known.payload_sha256)
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
                Signed::Holder(..) | Signed::Root(_) => {
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
            self.check_inside(delegation, by, (key_id, time))?;
        }
        match &delegation.desk {
            Some(desk) => check_desk(delegation, desk, issuer, granting.delegation.level),
            None => {
                if self.delegation(unit, None).is_some() && self.line(issuer).any(|one| one == unit)
                {
                    return Err(Error::Loop { unit: unit.clone(), issuer: issuer.clone() });
                }
                let issuer_level = granting.delegation.level;
                if !issuer_level.is_above(delegation.level)
                    && !self.is_merging(delegation, issuer, issuer_level)
                {
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

    /// The root keeps its level, and gets no parent by itself: only its last grant can be followed by
    /// that of an issuer.
    fn check_same_place(&self, root: &Known) -> Result<(), Error> {
        let delegation = &root.delegation;
        let history = self.history(&(delegation.unit.clone(), None));
        let at = history.partition_point(|one| one.delegation.serial < delegation.serial);
        let (earlier, later) = history.split_at(at);
        let is_elsewhere = earlier.iter().any(|known| known.delegation.issuer.is_some());
        if is_elsewhere || history.iter().any(|known| known.delegation.level != delegation.level) {
            return Err(self.moved(&delegation.unit, delegation.level));
        }
        match later.first().map(|known| &known.delegation) {
            Some(after @ Delegation { issuer: Some(issuer), .. })
                if delegation.change.next_root.is_some() =>
            {
                self.check_adopted(root, after, issuer)
            }
            Some(_) | None => Ok(()),
        }
    }

    /// A grant ends no later than its issuer's, and begins no earlier than the first that its issuer
    /// had, clocks apart: what was granted before the issuer moved keeps its beginning when it is
    /// granted anew. It was signed with `key_id` at `time`.
    fn check_inside(
        &self,
        delegation: &Delegation,
        by: &Known,
        (key_id, time): (&str, UnixMillis),
    ) -> Result<(), Error> {
        let history = self.history(&by.subject());
        let begins = history.iter().map(|known| known.delegation.not_before_unix_ms).min();
        let begins = begins.unwrap_or(by.delegation.not_before_unix_ms);
        // Around the day on which a grant of the issuer was followed by another, either may have been
        // meant: a unit can come under a parent whose grant ends earlier.
        let followed = history.iter().zip(history.iter().skip(1));
        let ends = followed.filter(|(before, next)| {
            let over = next.delegation.not_before_unix_ms.saturating_add(SKEW_TOLERANCE_MS);
            let was_root = before.delegation.issuer.is_none() && next.delegation.issuer.is_some();
            let held = before.holds(key_id, KeyUse::Delegation) && before.is_valid_at(time);
            time < over && (held || was_root)
        });
        let ends = ends.map(|(before, _)| before.delegation.not_after_unix_ms).max().unwrap_or(0);
        let ends = ends.max(by.delegation.not_after_unix_ms);
        let begun = delegation.not_before_unix_ms.saturating_add(SKEW_TOLERANCE_MS);
        if delegation.not_after_unix_ms > ends || begun < begins {
            let (unit, issuer) = (delegation.unit.clone(), by.delegation.unit.clone());
            return Err(Error::OutlivesIssuer { unit, issuer });
        }
        Ok(())
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
            if self.roots.iter().any(|root| key.bytes == root.key.public_key()) {
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
