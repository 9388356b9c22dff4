//! Revocations of a file: which count, whose grants rest on a key that was revoked, and what can be
//! known of those that are not there.
//!
//! Promises that every revocation proves itself, and that what it ends is judged as nodes judge it: a
//! statement by a key that has ended counts only if somebody else than its source had seen it before.

use std::collections::BTreeSet;

use sha2::{Digest as _, Sha256};

use super::{Broken, broken::Place};
use crate::{
    clock::UnixMillis,
    domain::{
        delegation::Delegation,
        revocation::Revocation,
        unit::{DeskId, UnitCode},
    },
    identity::trust::{KnownRevocation, Trust},
    statement::{
        pack::{HeldRevocations, Pack},
        revocation::Proven,
    },
};

/// A revocation that proves itself.
#[derive(Clone, Debug)]
pub struct VerifiedRevocation {
    /// What it ends.
    pub revocation: Revocation,
    /// Unit that revokes.
    pub by: UnitCode,
    /// When it says that it was signed.
    pub time_unix_ms: UnixMillis,
    /// From when on nothing by the keys is believed.
    pub cutoff_unix_ms: UnixMillis,
    /// False if whoever revoked had no right to, or a key that had been revoked by then.
    pub counts: bool,
    /// True if it stands in the file, false if it came beside it.
    pub in_file: bool,
    /// SHA-256 of its payload.
    pub payload_sha256: [u8; 32],
}

/// A grant that was signed with a key that was revoked later; its own date is all that says it is
/// older.
#[derive(Clone, Debug)]
pub struct Resting {
    /// Whose grant.
    pub unit: UnitCode,
    /// Desk, if it is one's.
    pub desk: Option<DeskId>,
    /// Whose key signed it.
    pub issuer: UnitCode,
    /// From when on nothing by that key is believed.
    pub since_unix_ms: UnixMillis,
}

/// What the file tells about revocations that are not in it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Completeness {
    /// The exporter does not say what it held.
    Unsaid,
    /// The exporter held no others.
    All,
    /// The exporter held so many others, which it says concern nobody in the file.
    Others(u32),
    /// The exporter held so many others, and they are known: the digest fits.
    Known(u32),
}

/// Revocations of a file, and those beside it.
#[derive(Clone, Debug)]
pub struct Revocations {
    /// By id.
    pub items: Vec<VerifiedRevocation>,
    /// Grants on keys that were revoked later.
    pub resting: Vec<Resting>,
    /// What is known of those that are not there.
    pub completeness: Completeness,
    /// Those beside the file that are older than the export, concern a unit in it, and that the
    /// exporter left out or did not know; if the others are [`Completeness::Known`], it knew.
    pub left_out: Vec<VerifiedRevocation>,
}

/// Takes the revocations of a file in, and those that came beside it.
pub(super) fn take(trust: &mut Trust, pack: &Pack, beside: &[Proven]) -> Result<(), Box<Broken>> {
    let at = pack.head.exported_unix_ms;
    for (part, proven) in &pack.revocations {
        let place = Place { part: *part, envelope: &proven.revocation };
        let known = trust.check_revocation(proven, Some(at));
        let known = known.map_err(|error| place.distrusted(&error))?;
        let concerned = &known.revocation.unit;
        if trust.delegation(concerned, None).is_none() {
            let detail = format!("the file has no delegation of {concerned}");
            return Err(place.broken("malformed", "body.unit", detail));
        }
        if !trust.take_revocation(known) {
            return Err(place.broken("twice", "", "the revocation is there already"));
        }
    }
    for (number, proven) in beside.iter().enumerate() {
        // What ended since the export is dated after it.
        let known = trust.check_revocation(proven, None).map_err(|error| {
            let place = Place { part: number, envelope: &proven.revocation };
            let mut broken = place.distrusted(&error);
            broken.part = None;
            broken.detail = format!("revocation {number} beside the file: {}", broken.detail);
            broken
        })?;
        trust.take_revocation(known);
    }
    Ok(())
}

/// Judges every grant of the file by the revocations.
pub(super) fn check_grants(trust: &Trust, pack: &Pack) -> Result<Vec<Resting>, Box<Broken>> {
    let mut resting = Vec::new();
    for (part, envelope) in &pack.delegations {
        let place = Place { part: *part, envelope };
        let Some(known) = trust.believed(envelope) else { continue };
        let on = trust.check_stands(known).map_err(|error| place.distrusted(&error))?;
        let Delegation { unit, desk, issuer, .. } = &known.delegation;
        if let (Some(on), Some(issuer)) = (on, issuer) {
            resting.push(Resting {
                unit: unit.clone(),
                desk: desk.clone(),
                issuer: issuer.clone(),
                since_unix_ms: on.cutoff(),
            });
        }
    }
    Ok(resting)
}

/// Compares what the exporter says that it held with what is there.
pub(super) fn finish(
    trust: &Trust,
    pack: &Pack,
    held: Option<&HeldRevocations>,
    resting: Vec<Resting>,
) -> Result<Revocations, Box<Broken>> {
    let payload = |proven: &Proven| <[u8; 32]>::from(Sha256::digest(&proven.revocation.payload));
    let in_file: BTreeSet<[u8; 32]> =
        pack.revocations.iter().map(|(_, proven)| payload(proven)).collect();
    let verified = |known: &KnownRevocation| VerifiedRevocation {
        revocation: known.revocation.clone(),
        by: known.by.clone(),
        time_unix_ms: known.time_unix_ms,
        cutoff_unix_ms: known.cutoff(),
        counts: trust.counts(known),
        in_file: in_file.contains(&known.payload_sha256),
        payload_sha256: known.payload_sha256,
    };
    let items: Vec<VerifiedRevocation> = trust.revocations().map(verified).collect();
    let older: Vec<&VerifiedRevocation> = items
        .iter()
        .filter(|one| one.in_file || one.time_unix_ms <= pack.head.exported_unix_ms)
        .collect();
    let all = digest(older.iter().map(|one| &one.payload_sha256));
    let completeness = match held {
        None => Completeness::Unsaid,
        Some(held) => {
            let here = u32::try_from(in_file.len()).unwrap_or(u32::MAX);
            let others = held.count.checked_sub(here);
            let (part, envelope) = (pack.seal.0, &pack.seal.1);
            let wrong = |field: &str, detail: &str| {
                Place { part, envelope }.broken("wrong-seal", field, detail)
            };
            match others {
                None => {
                    let detail = "is less than the revocations of the file";
                    return Err(wrong("body.revocations_held", detail));
                }
                Some(0) if digest(in_file.iter()) != held.sha256 => {
                    let detail = "is not that of the revocations of the file";
                    return Err(wrong("body.revocations_sha256", detail));
                }
                Some(0) => Completeness::All,
                Some(others) if all == held.sha256 => Completeness::Known(others),
                Some(others) => Completeness::Others(others),
            }
        }
    };
    let concerns = |one: &&&VerifiedRevocation| {
        !one.in_file && trust.delegation(&one.revocation.unit, None).is_some()
    };
    let left_out = older.iter().filter(concerns).map(|one| (*one).clone()).collect();
    Ok(Revocations { items, resting, completeness, left_out })
}

fn digest<'a>(ids: impl Iterator<Item = &'a [u8; 32]>) -> [u8; 32] {
    ids.fold(Sha256::new(), |digest, id| digest.chain_update(id)).finalize().into()
}
