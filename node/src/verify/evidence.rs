//! Evidence that a statement stood in a journal, and who had seen that journal, by when.
//!
//! Promises that a witness is named only for a cosignature by a key that it had then, over a
//! checkpoint that holds the very statement. Lines by keys that the file does not know are passed
//! over, as the formats demand.

use std::collections::{BTreeMap, BTreeSet};

use lianxi_proto::{
    envelope::VerifyingKey,
    note::{self, Note},
};

use super::{Broken, broken::Place};
use crate::{
    clock::UnixMillis,
    domain::{
        delegation::{Delegation, KeyUse},
        unit::UnitCode,
    },
    identity::trust::{Known, Trust},
    statement::{
        delegation::suite_to_proto,
        journal::{self, Evidence},
    },
};

/// Where a statement stands in a journal, and who says so beside its owner.
#[derive(Clone, Debug)]
pub struct Witnessed {
    /// Unit whose journal it is: the source, or one above that took the statement in.
    pub journal: UnitCode,
    /// Place of the leaf, from 0.
    pub leaf_index: u64,
    /// Other units that had seen the journal with it, by code. Empty: nobody but the owner.
    pub witnesses: Vec<Witness>,
    /// Witnesses outside the tree that the verifying side knows by their keys, by name.
    pub outside: Vec<Outside>,
}

/// A witness outside the tree that had seen a journal.
#[derive(Clone, Debug)]
pub struct Outside {
    /// Name of its key.
    pub name: String,
    /// When, by its clock.
    pub time_unix_ms: UnixMillis,
}

/// A unit that had seen a journal.
#[derive(Clone, Debug)]
pub struct Witness {
    /// The unit.
    pub unit: UnitCode,
    /// When, by its clock.
    pub time_unix_ms: UnixMillis,
}

impl Witnessed {
    /// When the first witness but the source itself had seen it: whoever has the source's key can
    /// cosign with any time. The end of that second: never earlier than it was.
    pub(super) fn earliest(&self, source: &UnitCode) -> Option<UnixMillis> {
        let others = self.witnesses.iter().filter(|witness| witness.unit != *source);
        let times = others.map(|witness| witness.time_unix_ms);
        let outside = self.outside.iter().map(|witness| witness.time_unix_ms);
        times.chain(outside).min().map(|time| time.saturating_add(999))
    }
}

/// A STATEMENT key with the grants that name it.
struct Held<'a> {
    key: VerifyingKey,
    grants: Vec<&'a Known>,
}

/// STATEMENT keys of all units, found once.
pub(super) struct Keys<'a> {
    trust: &'a Trust,
    trust_domain: &'a str,
    /// Names and keys of witnesses outside the tree.
    outside: &'a [(String, VerifyingKey)],
    by_unit: BTreeMap<&'a UnitCode, BTreeMap<String, Held<'a>>>,
}

impl<'a> Keys<'a> {
    pub(super) fn of(trust: &'a Trust, outside: &'a [(String, VerifyingKey)]) -> Self {
        let mut by_unit: BTreeMap<_, BTreeMap<String, Held<'a>>> = BTreeMap::new();
        for known in trust.all().filter(|known| known.delegation.desk.is_none()) {
            let held = by_unit.entry(&known.delegation.unit).or_default();
            for key in statement_keys(&known.delegation) {
                let new = || Held { key: key.clone(), grants: Vec::new() };
                held.entry(key.key_id().to_owned()).or_insert_with(new).grants.push(known);
            }
        }
        Self { trust, trust_domain: trust.trust_domain(), outside, by_unit }
    }

    fn of_unit(&self, unit: &UnitCode) -> impl Iterator<Item = &Held<'a>> {
        self.by_unit.get(unit).into_iter().flat_map(BTreeMap::values)
    }

    /// The unit that a journal or a witness's line is named after.
    fn named(&self, name: &str) -> Option<UnitCode> {
        name.strip_prefix(self.trust_domain)?.strip_prefix("/unit/")?.parse().ok()
    }
}

fn statement_keys(delegation: &Delegation) -> impl Iterator<Item = VerifyingKey> {
    let keys = delegation.keys.iter().filter(|key| key.key_use == KeyUse::Statement);
    keys.filter_map(|key| VerifyingKey::new(suite_to_proto(key.suite), &key.bytes).ok())
}

/// Checks evidence of a statement of `source`.
pub(super) fn check(
    evidence: &Evidence,
    place: Place<'_>,
    source: &UnitCode,
    payload_sha256: [u8; 32],
    trust: &Trust,
    keys: &Keys<'_>,
) -> Result<Witnessed, Box<Broken>> {
    let wrong =
        |field: &str, detail: &dyn std::fmt::Display| place.broken("wrong-evidence", field, detail);
    let unsigned = Note::parse(&evidence.checkpoint)
        .and_then(|note| note::Checkpoint::of(&note))
        .map_err(|error| wrong("evidence.checkpoint", &error))?;
    let owner = keys.named(&unsigned.origin).filter(|owner| trust.is_in_subtree(source, owner));
    let owner = owner.ok_or_else(|| {
        wrong("evidence.checkpoint", &"is of no journal of the source or a unit above it")
    })?;
    let own: Vec<VerifyingKey> = keys.of_unit(&owner).map(|held| held.key.clone()).collect();
    let note = evidence
        .verify(&unsigned.origin, &own)
        .map_err(|error| wrong("evidence.checkpoint", &error))?;
    let leaf = journal::read(&evidence.leaf).map_err(|error| wrong("evidence.leaf", &error))?;
    let event = if owner == *source { "statement-out" } else { "statement-in" };
    if leaf.event != event || leaf.digest != hex::encode(payload_sha256) {
        return Err(wrong("evidence.leaf", &"is not that of this statement"));
    }
    let witnesses = witnesses(&note, &unsigned.origin, keys)
        .map_err(|error| wrong("evidence.checkpoint", &error))?;
    let outside = outside(&note, keys).map_err(|error| wrong("evidence.checkpoint", &error))?;
    Ok(Witnessed { journal: owner, leaf_index: evidence.leaf_index, witnesses, outside })
}

/// Cosignatures by keys that were given beside the file.
fn outside(note: &Note, keys: &Keys<'_>) -> Result<Vec<Outside>, note::Error> {
    let mut found: BTreeMap<&str, UnixMillis> = BTreeMap::new();
    for (name, key) in keys.outside {
        let time_unix_s = match note.verify_cosignature(name, key) {
            Err(note::Error::NotSigned(_)) => continue,
            other => other?,
        };
        let time = i64::try_from(time_unix_s).unwrap_or(i64::MAX).saturating_mul(1_000);
        let first = found.entry(name).or_insert(time);
        *first = time.min(*first);
    }
    let outside = found.into_iter();
    Ok(outside
        .map(|(name, time_unix_ms)| Outside { name: name.to_owned(), time_unix_ms })
        .collect())
}

fn witnesses(note: &Note, origin: &str, keys: &Keys<'_>) -> Result<Vec<Witness>, note::Error> {
    let names: BTreeSet<&str> = note.names().filter(|name| *name != origin).collect();
    let mut witnesses = Vec::new();
    for name in names {
        let Some(unit) = keys.named(name) else { continue };
        let mut first: Option<UnixMillis> = None;
        for held in keys.of_unit(&unit) {
            let time_unix_s = match note.verify_cosignature(name, &held.key) {
                Err(note::Error::NotSigned(_)) => continue,
                other => other?,
            };
            let time = i64::try_from(time_unix_s).unwrap_or(i64::MAX).saturating_mul(1_000);
            // Whoever has a revoked key can write any time.
            let is_revoked = keys.trust.revocation_of_key_id(&unit, held.key.key_id()).is_some();
            if !is_revoked && held.grants.iter().any(|known| known.is_valid_at(time)) {
                first = Some(first.map_or(time, |first| first.min(time)));
            }
        }
        witnesses.extend(first.map(|time_unix_ms| Witness { unit, time_unix_ms }));
    }
    Ok(witnesses)
}
