//! Root keys, and how one is believed for another: the former one names the next, the next names the
//! former.
//!
//! Promises that a root key that has named its successor signs nothing more that is believed but what
//! that last grant of its own says, and that a former root key, known by its successor, counts for no
//! more either: whoever has it can write any date.

use lianxi_proto::envelope::{self, VerifyingKey};

use super::{Error, Known, Signed, Trust};
use crate::{
    clock::UnixMillis,
    domain::{
        delegation::{Delegation, FormerRoot, NextRoot, RootName},
        unit::UnitCode,
    },
    statement::delegation::{suite_from_proto, suite_to_proto},
};

/// How a root key is known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Standing {
    /// It is the one that was given from elsewhere.
    Given,
    /// A root key that is known named it as the next.
    Next,
    /// A grant that is known named it as the former.
    Former,
}

impl Standing {
    /// Fixed word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Given => "given",
            Self::Next => "next",
            Self::Former => "former",
        }
    }
}

/// A root key.
#[derive(Clone, Debug)]
pub struct Root {
    /// The key.
    pub key: VerifyingKey,
    /// How it is known.
    pub standing: Standing,
    /// Unit whose own grant it signs, once one is known.
    pub unit: Option<UnitCode>,
    /// Payload of its last grant, which names the next root key.
    pub last_sha256: Option<[u8; 32]>,
    /// Key id of the next root key, once its last grant is known.
    pub next: Option<String>,
    /// Since when somebody else may have had it; 0: never.
    pub compromised_since_unix_ms: UnixMillis,
    /// True once a grant by it is believed.
    pub granted: bool,
}

impl Root {
    pub(super) fn given(key: VerifyingKey) -> Self {
        Self {
            key,
            standing: Standing::Given,
            unit: None,
            last_sha256: None,
            next: None,
            compromised_since_unix_ms: 0,
            granted: false,
        }
    }

    /// Its key id.
    pub fn key_id(&self) -> &str {
        self.key.key_id()
    }
}

/// The public half of a root key, as a grant names it.
pub fn root_name(key: &VerifyingKey) -> Option<RootName> {
    let suite = suite_from_proto(key.suite().into())?;
    Some(RootName { suite, bytes: key.public_key().to_vec() })
}

/// Key id of a root key that a grant names.
pub fn root_key_id(name: &RootName) -> String {
    envelope::key_id(suite_to_proto(name.suite), &name.bytes)
}

fn verifying(name: &RootName) -> Option<VerifyingKey> {
    VerifyingKey::new(suite_to_proto(name.suite), &name.bytes).ok()
}

/// Takes one after the other; those that may hold later wait for the others.
pub(super) fn take_in_turn<'a, E: 'a>(
    items: impl IntoIterator<Item = &'a E>,
    mut take: impl FnMut(&'a E) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut waiting: Vec<&E> = items.into_iter().collect();
    loop {
        let before = waiting.len();
        let (mut later, mut first) = (Vec::new(), None);
        for item in waiting {
            match take(item) {
                Ok(()) => {}
                Err(error) if error.may_hold_later() => {
                    later.push(item);
                    first.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        match first {
            None => return Ok(()),
            Some(error) if later.len() == before => return Err(error),
            Some(_) => waiting = later,
        }
    }
}

impl Trust {
    /// Every root key that is known: the given one first, then in the order in which they came.
    pub fn roots(&self) -> &[Root] {
        &self.roots
    }

    /// The same root keys, and nothing else believed: for a proof that stands by itself.
    pub(super) fn beginning(&self) -> Self {
        let mut beginning = Self::new(self.trust_domain.clone(), self.roots[0].key.clone());
        beginning.roots.clone_from(&self.roots);
        beginning.seen.clone_from(&self.seen);
        beginning
    }

    /// A root key that has named its successor revokes nothing more.
    pub(super) fn check_may_revoke(&self, by: &UnitCode, key_id: &str) -> Result<(), Error> {
        match self.root_by_id(key_id) {
            Some(root) if root.last_sha256.is_some() => {
                let end_unix_ms = root.compromised_since_unix_ms;
                Err(Error::EndedRoot { unit: by.clone(), end_unix_ms })
            }
            Some(_) | None => Ok(()),
        }
    }

    pub(super) fn root_by_id(&self, key_id: &str) -> Option<&Root> {
        self.roots.iter().find(|root| root.key_id() == key_id)
    }

    /// The root that everything rests on: the last one that signed, from the given one onward.
    pub(super) fn current(&self) -> &Root {
        let mut current = &self.roots[0];
        // Ends, because no root key names one that named another.
        for _ in &self.roots {
            let next = current.next.as_deref().and_then(|next| self.root_by_id(next));
            match next {
                Some(next) if next.granted && self.has_come_under(current, next) => current = next,
                Some(_) | None => break,
            }
        }
        current
    }

    /// True if the unit of a former root rests on the next one.
    fn has_come_under(&self, former: &Root, next: &Root) -> bool {
        let Some(unit) = &former.unit else { return false };
        self.line(unit).any(|one| Some(one) == next.unit.as_ref())
    }

    /// True if the newest grant of this root names its successor, which has not signed yet.
    pub fn names_successor(&self) -> Option<&Known> {
        let current = self.current();
        self.by_digest(&current.last_sha256?)
    }

    /// The last grants of root keys that have named the next, and are those of `unit` or of one above
    /// it now: whoever believes in one root key alone needs them to believe the others.
    pub fn bridges_of(&self, unit: &UnitCode) -> Vec<&Known> {
        let line: Vec<UnitCode> = self.line(unit).cloned().collect();
        self.bridges().filter(|known| line.contains(&known.delegation.unit)).collect()
    }

    /// As [`Trust::bridges_of`], for the units of a subtree.
    pub fn bridges_below(&self, head: &UnitCode) -> Vec<&Known> {
        let mut bridges: Vec<&Known> = self.bridges().collect();
        bridges.retain(|known| self.is_in_subtree(&known.delegation.unit, head));
        bridges
    }

    /// Grows with each root key that is named and with each last grant of one: what did not hold
    /// before may hold then.
    pub fn roots_learned(&self) -> usize {
        self.roots.len() + self.bridges().count()
    }

    fn bridges(&self) -> impl Iterator<Item = &Known> {
        let last = self.roots.iter().filter_map(|root| root.last_sha256.as_ref());
        last.filter_map(|digest| self.by_digest(digest))
    }

    /// Every grant that a root key signed, and every one that names a former root: what leads from
    /// one root key to another, and what it needs.
    pub fn root_grants(&self) -> Vec<&Known> {
        let mut units: Vec<&UnitCode> = Vec::new();
        for root in &self.roots {
            for unit in root.unit.iter().flat_map(|unit| self.line(unit)) {
                if !units.contains(&unit) {
                    units.push(unit);
                }
            }
        }
        let histories = units.into_iter().flat_map(|unit| self.history(&(unit.clone(), None)));
        let mut grants: Vec<&Known> = histories.collect();
        grants.sort_by_key(|known| (known.delegation.level, known.delegation.serial));
        grants
    }

    /// What a root key that has named its successor, or is known as a former one, still counts for.
    pub(super) fn check_root_standing(
        &self,
        root: &Root,
        delegation: &Delegation,
        digest: &[u8; 32],
    ) -> Result<(), Error> {
        let is_last = root.last_sha256.as_ref() == Some(digest);
        let is_open = root.last_sha256.is_none();
        let is_seen = || self.seen.get(digest) == Some(&delegation.unit);
        if is_last || is_open || is_seen() {
            return Ok(());
        }
        let unit = delegation.unit.clone();
        if delegation.change.next_root.is_some() {
            let reason = "its root key named another one as the next before";
            return Err(Error::Succession { unit, reason });
        }
        let last = root.last_sha256.as_ref().and_then(|last| self.by_digest(last));
        let end_unix_ms = match (root.compromised_since_unix_ms, last) {
            (0, Some(last)) => last.delegation.not_before_unix_ms,
            (0, None) => 0,
            (since, _) => since,
        };
        Err(Error::EndedRoot { unit, end_unix_ms })
    }

    /// A grant that names the next root key, or a former one.
    pub(super) fn check_succession(
        &self,
        known: &Known,
        signers: &[Signed<'_>],
    ) -> Result<(), Error> {
        let Known { delegation, .. } = known;
        let refuse = |reason| {
            let unit = delegation.unit.clone();
            Err(Error::Succession { unit, reason })
        };
        if let Some(NextRoot { key, .. }) = &delegation.change.next_root {
            if !delegation.accepts(key.suite) {
                let (holder, suite) = (delegation.unit.to_string(), key.suite);
                return Err(Error::SuiteNotAccepted { holder, suite });
            }
            let id = root_key_id(key);
            if self.keys.contains_key(&id) || signers.iter().any(|signed| signed.is_root(&id)) {
                return refuse("the next root key is a key that is known already");
            }
            // Back to one that came before would be a loop.
            if self.root_by_id(&id).is_some_and(|root| root.last_sha256.is_some()) {
                return refuse("the next root key was replaced itself");
            }
        }
        let Some(FormerRoot { key, last_sha256 }) = &delegation.change.former_root else {
            return Ok(());
        };
        let id = root_key_id(key);
        if self.keys.contains_key(&id) || signers.iter().any(|signed| signed.is_root(&id)) {
            return refuse("the former root key is a key of somebody else");
        }
        let Some(root) = self.root_by_id(&id) else { return Ok(()) };
        if root.unit.as_ref().is_some_and(|unit| *unit != delegation.unit) {
            return refuse("the former root key is that of another unit");
        }
        if root.last_sha256 != Some(*last_sha256) {
            return refuse(
                "the former root key has not signed the grant that is named as its last",
            );
        }
        Ok(())
    }

    /// A unit that was a root comes under an issuer: its root key named the one that the issuer rests
    /// on, and the grant names the root key and its last grant.
    pub(super) fn check_adopted(
        &self,
        before: &Known,
        delegation: &Delegation,
        issuer: &UnitCode,
    ) -> Result<(), Error> {
        let refuse = |reason| {
            let unit = delegation.unit.clone();
            Err(Error::Succession { unit, reason })
        };
        let Some(next) = &before.delegation.change.next_root else {
            return Err(self.moved(&delegation.unit, delegation.level));
        };
        let Some(former) = &delegation.change.former_root else {
            return refuse("the grant does not name the root key that the unit had");
        };
        let signed = before.envelope.signatures.iter();
        let by_former = signed.into_iter().all(|one| one.key_id == root_key_id(&former.key));
        if !by_former || former.last_sha256 != before.payload_sha256 {
            return refuse("the grant names another former root than the unit had");
        }
        let line: Vec<_> = self.line(issuer).collect();
        let next = self.root_by_id(&root_key_id(&next.key));
        if !next.and_then(|next| next.unit.as_ref()).is_some_and(|root| line.contains(&root)) {
            return refuse("the unit's root key named another root than the one that takes it in");
        }
        Ok(())
    }

    /// Takes in what a believed grant says of root keys.
    pub(super) fn take_roots(&mut self, known: &Known) {
        let Known { delegation, payload_sha256, envelope, .. } = known;
        if delegation.issuer.is_none() {
            let ids = envelope.signatures.iter().map(|one| one.key_id.as_str());
            let ids: Vec<&str> = ids.collect();
            let next = delegation.change.next_root.as_ref();
            for root in self.roots.iter_mut().filter(|root| ids.contains(&root.key.key_id())) {
                root.unit = Some(delegation.unit.clone());
                root.granted = true;
                if let Some(next) = next {
                    root.last_sha256 = Some(*payload_sha256);
                    root.next = Some(root_key_id(&next.key));
                    root.compromised_since_unix_ms = next.compromised_since_unix_ms;
                }
            }
            if let Some(key) = next.and_then(|next| verifying(&next.key))
                && self.root_by_id(key.key_id()).is_none()
            {
                let standing = Standing::Next;
                self.roots.push(Root { standing, ..Root::given(key) });
            }
        }
        if let Some(former) = &delegation.change.former_root
            && let Some(key) = verifying(&former.key)
            && self.root_by_id(key.key_id()).is_none()
        {
            self.roots.push(Root {
                standing: Standing::Former,
                unit: Some(delegation.unit.clone()),
                last_sha256: Some(former.last_sha256),
                ..Root::given(key)
            });
        }
    }
}
