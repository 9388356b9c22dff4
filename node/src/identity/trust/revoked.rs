//! Revocations, and when a key ended.
//!
//! Promises that whether a revocation counts does not depend on the order in which revocations came:
//! all that prove themselves are kept, and each is judged by all others whenever it is asked for. One
//! that was signed with a key that had been revoked by then counts for nothing.

use lianxi_proto::envelope;
use sha2::{Digest as _, Sha256};

use super::{Error, Holder, Known, Signed, Subject, Trust, id_of, judge::check_not_ahead, shown};
use crate::{
    clock::UnixMillis,
    domain::{
        delegation::{KeyUse, PublicKey},
        revocation::{Revocation, predates},
        unit::{DeskId, UnitCode},
    },
    statement::{
        Envelope,
        header::{self, kinds},
        revocation::{Proven, decode_body},
    },
};

/// A revocation that proves itself.
#[derive(Clone, Debug)]
pub struct KnownRevocation {
    /// What it ends.
    pub revocation: Revocation,
    /// Unit that revokes.
    pub by: UnitCode,
    /// True if the root key signed it.
    by_root_key: bool,
    /// The keys that it rests on: whose, which, and when they signed. The root key is not listed.
    rests_on: Vec<(UnitCode, String, UnixMillis)>,
    /// When it says that it was signed.
    pub time_unix_ms: UnixMillis,
    /// As it travels.
    pub proven: Proven,
    /// SHA-256 of its payload: its id.
    pub payload_sha256: [u8; 32],
}

impl KnownRevocation {
    /// From when on what the keys signed is not believed.
    pub fn cutoff(&self) -> UnixMillis {
        self.revocation.cutoff(self.time_unix_ms)
    }
}

/// How a key ended.
pub(super) enum End<'a> {
    /// A newer delegation leaves it out.
    Replaced(UnixMillis),
    /// It was revoked, perhaps with its unit.
    Revoked(&'a KnownRevocation),
}

impl End<'_> {
    pub(super) fn at(&self) -> UnixMillis {
        match self {
            Self::Replaced(at) => *at,
            Self::Revoked(known) => known.cutoff(),
        }
    }
}

impl Trust {
    /// Judges a revocation by its own proof, without taking it in.
    ///
    /// # Errors
    ///
    /// [`Error`]: the chain does not lead from the root key to the unit that revokes, the signature is
    /// not by its DELEGATION key, or it reaches beyond its subtree as far as that is known here.
    pub fn check_revocation(
        &self,
        proven: &Proven,
        now: Option<UnixMillis>,
    ) -> Result<KnownRevocation, Error> {
        let mut proof = self.beginning();
        for envelope in &proven.chain {
            proof.add_proof(envelope)?;
        }
        let signers = proof.signers(&proven.revocation)?;
        let statement = header::decode(&proven.revocation.payload)?;
        let header = &statement.header;
        if header.kind != kinds::REVOCATION {
            return Err(Error::NotARevocation(header.kind.clone()));
        }
        let revocation = decode_body(&statement.body)?;
        if revocation.trust_domain != self.trust_domain {
            let (found, expected) = (revocation.trust_domain, self.trust_domain.clone());
            return Err(Error::Domain { found, expected });
        }
        check_not_ahead(header.time_unix_ms, now)?;
        let by = header.source.clone();
        let mut rests_on = proof.granting_keys()?;
        let signed_with = proof.revoker(&by, &revocation, &signers, header.time_unix_ms)?;
        let by_root_key = signed_with.is_none();
        rests_on.extend(signed_with.map(|key_id| (by.clone(), key_id, header.time_unix_ms)));
        if now.is_some() {
            for signature in &proven.revocation.signatures {
                self.check_may_revoke(&by, &signature.key_id)?;
            }
            self.check_reach(&by, by_root_key, &revocation, header.time_unix_ms)?;
        }
        Ok(KnownRevocation {
            revocation,
            by,
            by_root_key,
            rests_on,
            time_unix_ms: header.time_unix_ms,
            proven: proven.clone(),
            payload_sha256: envelope::payload_sha256(&proven.revocation),
        })
    }

    /// Who granted what is believed here, with which key, and when.
    fn granting_keys(&self) -> Result<Vec<(UnitCode, String, UnixMillis)>, Error> {
        let mut keys = Vec::new();
        for known in self.all() {
            let time = header::decode(&known.envelope.payload)?.header.time_unix_ms;
            for signature in &known.envelope.signatures {
                if let Some(issuer) = &known.delegation.issuer {
                    keys.push((issuer.clone(), signature.key_id.clone(), time));
                }
            }
        }
        Ok(keys)
    }

    /// The key that signed a revocation: one DELEGATION key of `by`, in force when it signed. `None`:
    /// the root key, for the root's own grant alone.
    fn revoker(
        &self,
        by: &UnitCode,
        revocation: &Revocation,
        signers: &[Signed<'_>],
        time: UnixMillis,
    ) -> Result<Option<String>, Error> {
        let mut by_key = None;
        for signed in signers {
            match signed {
                Signed::Root(root) if root.unit.as_ref() == Some(by) && revocation.unit == *by => {}
                Signed::Holder(key_id, holder) if holder.subject == (by.clone(), None) => {
                    if holder.key_use != KeyUse::Delegation {
                        let (holder, key_use) = (shown(&holder.subject), holder.key_use);
                        return Err(Error::WrongUse { holder, key_use });
                    }
                    self.in_force(holder, key_id, time)?;
                    by_key = Some((*key_id).to_owned());
                }
                Signed::Holder(..) | Signed::Root(_) => {
                    let (claimed, holder) = (by.clone(), signed.shown());
                    return Err(Error::WrongSource { claimed, holder });
                }
            }
        }
        Ok(by_key)
    }

    /// A unit revokes what is below it, and its own desks; the root key the root. Of a unit that is
    /// not known here nothing can be said yet: the revocation is kept, and judged when it is.
    fn check_reach(
        &self,
        by: &UnitCode,
        by_root_key: bool,
        revocation: &Revocation,
        time: UnixMillis,
    ) -> Result<(), Error> {
        let unknown = self.delegation(&revocation.unit, None).is_none();
        if unknown || self.reaches(by, by_root_key, revocation, time) {
            return Ok(());
        }
        Err(Error::BeyondSubtree { unit: revocation.unit.clone(), by: by.clone() })
    }

    fn reaches(
        &self,
        by: &UnitCode,
        by_root_key: bool,
        revocation: &Revocation,
        time: UnixMillis,
    ) -> bool {
        let unit = &revocation.unit;
        if by_root_key {
            return self.roots.iter().any(|root| root.unit.as_ref() == Some(unit));
        }
        if unit == by {
            return revocation.desk.is_some();
        }
        // What was revoked by a unit that was above it then stays revoked after a move.
        self.is_in_subtree(unit, by) || self.line_at(unit, time).any(|above| above == by)
    }

    /// Keeps what [`Trust::check_revocation`] accepted; false if it was kept before.
    pub fn take_revocation(&mut self, known: KnownRevocation) -> bool {
        let id = known.payload_sha256;
        if self.revocations.contains_key(&id) {
            return false;
        }
        for key_id in &known.revocation.key_ids {
            self.revoked_keys.entry(key_id.clone()).or_default().insert(id);
        }
        if known.revocation.serial > 0 {
            self.revoked_units.entry(known.revocation.unit.clone()).or_default().insert(id);
        }
        self.revocations.insert(id, known);
        true
    }

    /// All revocations that are kept, by id.
    pub fn revocations(&self) -> impl Iterator<Item = &KnownRevocation> {
        self.revocations.values()
    }

    /// SHA-256 over the ids of all of them, as `Hello.revocations_sha256` says.
    pub fn revocations_sha256(&self) -> [u8; 32] {
        let ids = self.revocations.keys();
        ids.fold(Sha256::new(), |digest, id| digest.chain_update(id)).finalize().into()
    }

    /// The revocation by which the newest grant of a unit or desk has ended.
    pub fn revoked(&self, unit: &UnitCode, desk: Option<&DeskId>) -> Option<&KnownRevocation> {
        let newest = self.delegation(unit, desk)?.delegation.serial;
        let ids = self.revoked_units.get(unit)?;
        let known = ids.iter().filter_map(|id| self.revocations.get(id));
        let ends = |known: &&KnownRevocation| {
            known.revocation.desk.as_ref() == desk && known.revocation.serial >= newest
        };
        let ended = known.filter(ends).filter(|known| self.counts(known));
        let own = ended.min_by_key(|known| known.cutoff());
        own.or_else(|| desk.and_then(|_| self.revoked(unit, None)))
    }

    /// Ids of all keys that a unit with its desks, or one desk, ever had; the newest first.
    pub fn key_ids(&self, unit: &UnitCode, desk: Option<&DeskId>) -> Vec<String> {
        let is_holder = |subject: &Subject| {
            subject.0 == *unit && (desk.is_none() || subject.1.as_ref() == desk)
        };
        let of_holder = self.subjects.iter().filter(|(subject, _)| is_holder(subject));
        let mut ids: Vec<String> = Vec::new();
        for known in of_holder.flat_map(|(_, history)| history.iter().rev()) {
            let new = known.delegation.keys.iter().map(id_of).filter(|id| !ids.contains(id));
            let new: Vec<String> = new.collect();
            ids.extend(new);
        }
        ids
    }

    /// Units below `unit`, itself left out.
    pub fn units_below(&self, unit: &UnitCode) -> Vec<UnitCode> {
        let units = self.subtree(unit).into_iter().map(|known| &known.delegation);
        let below = units.filter(|it| it.desk.is_none() && it.unit != *unit);
        below.map(|delegation| delegation.unit.clone()).collect()
    }

    /// Judges a grant that is believed by the revocations that came after it: it must not bring keys
    /// that had been revoked, nor say itself that it was signed with a key after that had ended.
    /// Returns the revocation of a key that it was signed with before, as it says: whoever has such a
    /// key can write any date.
    ///
    /// # Errors
    ///
    /// [`Error::EndedKey`].
    pub fn check_stands(&self, known: &Known) -> Result<Option<&KnownRevocation>, Error> {
        let (unit, desk) = (&known.delegation.unit, known.delegation.desk.as_ref());
        for key in &known.delegation.keys {
            // Grants from before name the key that was revoked alone.
            if let Some(ended) = self.revocation_of(unit, desk, &id_of(key))
                && (1..known.delegation.serial).contains(&ended.revocation.serial)
            {
                let (holder, end_unix_ms) = (shown(&known.subject()), ended.cutoff());
                return Err(Error::EndedKey { holder, end_unix_ms });
            }
        }
        let Some(issuer) = &known.delegation.issuer else {
            // What named the next root key may have come after it.
            let signed = known.envelope.signatures.iter();
            for root in signed.filter_map(|one| self.root_by_id(&one.key_id)) {
                self.check_root_standing(root, &known.delegation, &known.payload_sha256)?;
            }
            return Ok(None);
        };
        let time = header::decode(&known.envelope.payload)?.header.time_unix_ms;
        let signatures = known.envelope.signatures.iter();
        let ended = signatures.filter_map(|one| self.revocation_of(issuer, None, &one.key_id));
        let Some(first) = ended.min_by_key(|known| known.cutoff()) else { return Ok(None) };
        if time >= first.cutoff() {
            let (holder, end_unix_ms) = (issuer.to_string(), first.cutoff());
            return Err(Error::EndedKey { holder, end_unix_ms });
        }
        Ok(Some(first))
    }

    /// The revocation by which a key of a unit has ended, with its grant or alone.
    pub fn revocation_of_key_id(&self, unit: &UnitCode, key_id: &str) -> Option<&KnownRevocation> {
        self.revocation_of(unit, None, key_id).or_else(|| self.revoked(unit, None))
    }

    /// True if the unit that revoked had the right to, and a key that nobody had revoked.
    pub fn counts(&self, known: &KnownRevocation) -> bool {
        self.reaches(&known.by, known.by_root_key, &known.revocation, known.time_unix_ms)
            && known.rests_on.iter().all(|(unit, key_id, time)| {
                // Ends, because only a unit above can have revoked the key.
                let earlier = self.revocation_of(unit, None, key_id);
                earlier.is_none_or(|earlier| *time < earlier.cutoff())
            })
    }

    pub(super) fn revocation_of(
        &self,
        unit: &UnitCode,
        desk: Option<&DeskId>,
        key_id: &str,
    ) -> Option<&KnownRevocation> {
        let ids = self.revoked_keys.get(key_id)?;
        let known = ids.iter().filter_map(|id| self.revocations.get(id));
        let of_holder = known.filter(|known| known.revocation.concerns(unit, desk));
        of_holder.filter(|known| self.counts(known)).min_by_key(|known| known.cutoff())
    }

    /// The revocation by which a key of a unit has ended.
    pub fn revocation_of_key(&self, unit: &UnitCode, key: &PublicKey) -> Option<&KnownRevocation> {
        self.revocation_of(unit, None, &id_of(key))
    }

    /// How a key ended, as far as it has by `now`; what came first.
    pub(super) fn end_of(&self, holder: &Holder, key_id: &str, now: UnixMillis) -> Option<End<'_>> {
        let (unit, desk) = (&holder.subject.0, holder.subject.1.as_ref());
        let of_key = self.revocation_of(unit, desk, key_id);
        // The grant itself can have ended without the key being named, e.g. that of a desk.
        let of_grant = self.revoked(unit, desk);
        let revoked = of_key.into_iter().chain(of_grant).min_by_key(|known| known.cutoff());
        let replaced = self.replaced_at(holder, key_id, now);
        match (revoked, replaced) {
            (Some(known), Some(at)) if at < known.cutoff() => Some(End::Replaced(at)),
            (Some(known), _) => Some(End::Revoked(known)),
            (None, Some(at)) => Some(End::Replaced(at)),
            (None, None) => None,
        }
    }

    /// When the first delegation began that leaves the key out, after the last that holds it.
    fn replaced_at(&self, holder: &Holder, key_id: &str, now: UnixMillis) -> Option<UnixMillis> {
        let history = self.history(&holder.subject);
        let holds = |known: &Known| known.holds(key_id, holder.key_use);
        let last = history.iter().rposition(holds)?;
        let after = history.get(last + 1)?.delegation.keys_since();
        (after <= now).then_some(after)
    }

    /// What an ended key signed is believed only if it was there before the end: a witness saw it, or
    /// the grant that replaced the key says so.
    pub(super) fn check_ended(
        &self,
        holder: &Holder,
        key_id: &str,
        now: UnixMillis,
        witnessed: Option<UnixMillis>,
        seen: bool,
    ) -> Result<(), Error> {
        let Some(end) = self.end_of(holder, key_id, now) else { return Ok(()) };
        let seen_before = seen && matches!(end, End::Replaced(_));
        if seen_before || predates(witnessed, end.at()) {
            return Ok(());
        }
        Err(match end {
            End::Revoked(known) if known.revocation.serial > 0 => Error::Revoked {
                holder: shown(&holder.subject),
                by: known.by.clone(),
                reason: known.revocation.reason.as_str(),
            },
            End::Revoked(_) | End::Replaced(_) => {
                Error::EndedKey { holder: shown(&holder.subject), end_unix_ms: end.at() }
            }
        })
    }

    /// A grant that comes after a revocation brings new keys.
    pub(super) fn check_no_revoked_key(&self, known: &Known) -> Result<(), Error> {
        let delegation = &known.delegation;
        let (unit, desk) = (&delegation.unit, delegation.desk.as_ref());
        for key in &delegation.keys {
            if let Some(ended) = self.revocation_of(unit, desk, &id_of(key))
                && delegation.serial > ended.revocation.serial
            {
                let (holder, end_unix_ms) = (shown(&known.subject()), ended.cutoff());
                return Err(Error::EndedKey { holder, end_unix_ms });
            }
        }
        Ok(())
    }

    /// True if the statement was signed by a key that has ended by `now`: whoever is to believe it
    /// needs to see that it is older.
    pub fn is_by_ended_key(&self, envelope: &Envelope, now: UnixMillis) -> bool {
        let mut ids = envelope.signatures.iter().map(|signature| &signature.key_id);
        ids.any(|id| self.keys.get(id).is_some_and(|holder| self.end_of(holder, id, now).is_some()))
    }
}
