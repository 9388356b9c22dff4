//! The tree of units as the delegations draw it: who is above, below, and by which chain.

use std::collections::BTreeSet;

use lianxi_proto::envelope::{self, VerifyingKey};
use sha2::{Digest as _, Sha256};

use super::{Holder, Known, Subject, Trust, id_of};
use crate::{
    clock::UnixMillis,
    domain::{
        delegation::{KeyUse, PublicKey},
        unit::{DeskId, UnitCode},
    },
    statement::Envelope,
};

impl Trust {
    /// The newest delegation of a unit or desk.
    pub fn delegation(&self, unit: &UnitCode, desk: Option<&DeskId>) -> Option<&Known> {
        self.history(&(unit.clone(), desk.cloned())).last()
    }

    /// The unit above; `None` at the root and for unknown units.
    pub fn parent(&self, unit: &UnitCode) -> Option<&UnitCode> {
        self.delegation(unit, None)?.delegation.issuer.as_ref()
    }

    /// STATEMENT keys of a unit itself, which sign its journal too: those in force at `time`, or all
    /// that it ever had.
    pub fn statement_keys(&self, unit: &UnitCode, time: Option<UnixMillis>) -> Vec<VerifyingKey> {
        let subject = (unit.clone(), None);
        let granted = self.history(&subject).iter().flat_map(|known| &known.delegation.keys);
        let granted: BTreeSet<String> = granted.map(id_of).collect();
        let held = granted.iter().filter_map(|key_id| Some((key_id, self.keys.get(key_id)?)));
        let holds = |(key_id, holder): &(&String, &Holder)| {
            holder.subject == subject
                && holder.key_use == KeyUse::Statement
                && time.is_none_or(|time| self.in_force(holder, key_id, time).is_ok())
        };
        held.filter(holds).filter_map(|(_, holder)| holder.key.clone()).collect()
    }

    /// The unit that the root key names.
    pub fn root(&self) -> Option<&UnitCode> {
        self.current().unit.as_ref()
    }

    /// True if `unit` is `head` or below it.
    pub fn is_in_subtree(&self, unit: &UnitCode, head: &UnitCode) -> bool {
        self.delegation(unit, None).is_some() && self.line(unit).any(|one| one == head)
    }

    /// True if the unit was ever granted the key.
    pub fn had_key(&self, unit: &UnitCode, key: &PublicKey) -> bool {
        let history = self.history(&(unit.clone(), None));
        history.iter().any(|known| known.delegation.keys.contains(key))
    }

    /// Every grant of a unit or desk that is believed, the oldest first.
    pub fn grants_of(&self, unit: &UnitCode, desk: Option<&DeskId>) -> &[Known] {
        self.history(&(unit.clone(), desk.cloned()))
    }

    /// Units right below, by code.
    pub fn children(&self, unit: &UnitCode) -> Vec<&UnitCode> {
        let ever = self.children.get(unit).into_iter().flatten();
        ever.filter(|child| self.parent(child) == Some(unit)).collect()
    }

    /// Newest delegations from the root's own down to the unit's, after those by which root keys in
    /// this line named the next; empty if the unit is not known.
    pub fn chain(&self, unit: &UnitCode) -> Vec<Envelope> {
        let known = self.line(unit).filter_map(|one| self.delegation(one, None));
        let mut chain: Vec<&Known> = known.collect();
        chain.reverse();
        let digests: Vec<_> = chain.iter().map(|known| known.payload_sha256).collect();
        let bridges = self.bridges_of(unit).into_iter();
        let bridges = bridges.filter(|known| !digests.contains(&known.payload_sha256));
        bridges.chain(chain).map(|known| known.envelope.clone()).collect()
    }

    /// Newest delegations of `head`, its desks and everything below: issuers before issued, then by
    /// code.
    pub fn subtree(&self, head: &UnitCode) -> Vec<&Known> {
        let mut found = Vec::new();
        let mut level = vec![head];
        while !level.is_empty() {
            for unit in &level {
                found.extend(self.own(unit));
            }
            level = level.into_iter().flat_map(|unit| self.children(unit)).collect();
            level.sort();
        }
        found
    }

    /// Grants of `unit`, of the units above it and of the desks of all these, former ones by the same
    /// issuer included: issuers before issued, the oldest first.
    pub fn above(&self, unit: &UnitCode) -> Vec<&Known> {
        let mut line: Vec<&UnitCode> = self.line(unit).collect();
        line.reverse();
        let of_unit = |unit: &UnitCode| {
            let (from, unit) = ((unit.clone(), None), unit.clone());
            self.subjects.range(from..).take_while(move |(subject, _)| subject.0 == unit)
        };
        let by_same = |history: &'_ Vec<Known>| {
            let issuer = history.last().map(|newest| newest.delegation.issuer.clone());
            move |known: &&Known| Some(&known.delegation.issuer) == issuer.as_ref()
        };
        let histories = line.into_iter().flat_map(of_unit).map(|(_, history)| history);
        let granted = histories.flat_map(|history| history.iter().filter(by_same(history)));
        // Those of a root that came under another one first: the others rest on them.
        let bridges = self.bridges_of(unit).into_iter();
        let bridges = bridges.filter(|known| self.parent(&known.delegation.unit).is_some());
        bridges.chain(granted).collect()
    }

    /// SHA-256 over the payload digests of [`Trust::subtree`] in the order of (unit, desk), as
    /// `Hello.roster_sha256` says.
    pub fn roster_sha256(&self, head: &UnitCode) -> [u8; 32] {
        let mut known = self.subtree(head);
        known.sort_by_cached_key(|one| one.subject());
        let digest =
            known.iter().fold(Sha256::new(), |digest, one| digest.chain_update(one.payload_sha256));
        digest.finalize().into()
    }

    pub(super) fn history(&self, subject: &Subject) -> &[Known] {
        self.subjects.get(subject).map(Vec::as_slice).unwrap_or_default()
    }

    /// The grant of an envelope, if it is believed.
    pub fn believed(&self, envelope: &Envelope) -> Option<&Known> {
        self.by_digest(&envelope::payload_sha256(envelope))
    }

    pub(super) fn by_digest(&self, digest: &[u8; 32]) -> Option<&Known> {
        let (subject, serial) = self.digests.get(digest)?;
        self.history(subject).iter().find(|known| known.delegation.serial == *serial)
    }

    /// The unit's own newest delegation and those of its desks.
    pub fn own(&self, unit: &UnitCode) -> impl Iterator<Item = &Known> {
        let from = (unit.clone(), None);
        let unit = unit.clone();
        let range = self.subjects.range(from..).take_while(move |(subject, _)| subject.0 == unit);
        range.filter_map(|(_, history)| history.last())
    }

    /// The unit and its ancestors, upward. Ends because each step is to a higher level.
    pub(super) fn line<'a>(&'a self, unit: &'a UnitCode) -> impl Iterator<Item = &'a UnitCode> {
        std::iter::successors(Some(unit), |unit| self.parent(unit))
    }
}
