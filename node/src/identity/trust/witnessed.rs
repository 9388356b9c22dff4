//! What a witness saw: how early a statement was there, by evidence from a journal.
//!
//! Promises that only a cosignature by somebody else than the source counts, by a key that was good
//! then and that nobody has revoked since: whoever has a revoked key can write any time.

use lianxi_proto::{
    envelope::{self, VerifyingKey},
    note::{self, Checkpoint, Note},
};

use super::{Holder, Trust, revoked::End};
use crate::{
    clock::UnixMillis,
    domain::{delegation::KeyUse, unit::UnitCode},
    statement::{
        Envelope, header,
        journal::{self, Evidence},
    },
};

impl Trust {
    /// When a witness had seen a checkpoint that contains the statement, the earliest; `None` if the
    /// evidence does not show it.
    pub fn witnessed_at(
        &self,
        envelope: &Envelope,
        evidence: &Evidence,
        now: UnixMillis,
    ) -> Option<UnixMillis> {
        let line = journal::read(&evidence.leaf).ok()?;
        let is_statement = matches!(line.event, "statement-out" | "statement-in");
        if !is_statement || line.digest != hex::encode(envelope::payload_sha256(envelope)) {
            return None;
        }
        let source = header::decode(&envelope.payload).ok()?.header.source;
        let checkpoint = Checkpoint::of(&Note::parse(&evidence.checkpoint).ok()?).ok()?;
        let owner = self.owner_of(&checkpoint.origin)?;
        let keys = self.statement_keys(&owner, None);
        let note = evidence.verify(&checkpoint.origin, &keys).ok()?;
        let names = note.names().filter(|name| *name != checkpoint.origin);
        names.filter_map(|name| self.cosigned_at(&note, name, &source, now)).min()
    }

    /// When the unit of that name cosigned, if its word counts about a statement of `source`.
    fn cosigned_at(
        &self,
        note: &Note,
        name: &str,
        source: &UnitCode,
        now: UnixMillis,
    ) -> Option<UnixMillis> {
        let witness = self.owner_of(name).filter(|witness| witness != source)?;
        self.speaking_keys(&witness).find_map(|(key_id, holder, key)| {
            let seconds = note.verify_cosignature(name, key).ok()?;
            // The end of that second: never earlier than it was.
            let time = i64::try_from(seconds).ok()?.checked_mul(1_000)?.checked_add(999)?;
            self.in_force(holder, key_id, time).ok()?;
            match self.end_of(holder, key_id, now) {
                None => Some(time),
                Some(End::Replaced(at)) => (time < at).then_some(time),
                Some(End::Revoked(_)) => None,
            }
        })
    }

    fn owner_of(&self, origin: &str) -> Option<UnitCode> {
        let (_, code) = origin.rsplit_once('/')?;
        let unit: UnitCode = code.parse().ok()?;
        (note::origin(&self.trust_domain, unit.as_str()) == origin).then_some(unit)
    }

    fn speaking_keys<'a>(
        &'a self,
        unit: &'a UnitCode,
    ) -> impl Iterator<Item = (&'a str, &'a Holder, &'a VerifyingKey)> {
        let of_unit = |holder: &Holder| {
            holder.subject.0 == *unit
                && holder.subject.1.is_none()
                && holder.key_use == KeyUse::Statement
        };
        let held = self.keys.iter().filter(move |(_, holder)| of_unit(holder));
        held.filter_map(|(key_id, holder)| Some((key_id.as_str(), holder, holder.key.as_ref()?)))
    }
}
