//! Verification of a pack from its bytes and the root key alone: no store, no network, no clock.
//!
//! Promises that whatever a pack shows was signed by whom it says, under a chain from the root key,
//! that no summary of it is left out unsaid, and that every total whose parts are in the file is
//! their sum by the rules of the fold. What is dated is judged against the time of the export, so
//! that the answer is the same for ever. The first link that does not hold is named; nothing
//! is shown then.

mod broken;
mod evidence;
mod fold;
mod revoked;
mod root_key;

pub use broken::Broken;
pub use evidence::{Outside, Witness, Witnessed};
pub use revoked::{Completeness, Resting, Revocations, VerifiedRevocation};
pub use root_key::{Error as RootKeyError, RootKey};

use std::collections::BTreeSet;

use lianxi_proto::envelope::{VerifyingKey, payload_sha256};

use self::{broken::Place, evidence::Keys};
use crate::{
    clock::UnixMillis,
    domain::{
        delegation::Delegation,
        explanation::{Disclosed, Explained},
        summary::{Figures, Scope, Summary, SummaryKind},
        unit::{DeskId, UnitCode},
    },
    identity::trust::{Known, Opened, Root, Trust},
    statement::{
        Envelope, catalogue,
        header::{self, Header, kinds},
        pack::{self, Head, HeldRevocations, Pack, Packed},
        revocation::Proven,
        summary::{decode_body, open_cells},
    },
};

/// A pack that holds.
#[derive(Debug)]
pub struct Verified {
    /// What the file is.
    pub head: Head,
    /// Header of the seal: who exported, and when.
    pub seal: Header,
    /// The catalogue that the figures were made under.
    pub catalogue: Option<VerifiedCatalogue>,
    /// Statements in the order of the file: for figures, the head first, a unit before its children.
    pub statements: Vec<Verification>,
    /// Who was revoked since when, as far as the file and what came beside it tell.
    pub revocations: Revocations,
    /// Everybody's delegations.
    trust: Trust,
}

/// A catalogue that holds.
#[derive(Clone, Debug)]
pub struct VerifiedCatalogue {
    /// Its header.
    pub header: Header,
    /// `name@version`.
    pub label: String,
    /// UTF-8 JSON, as it was published.
    pub document: Vec<u8>,
}

/// A statement that holds.
#[derive(Clone, Debug)]
pub struct Verification {
    /// Its header.
    pub header: Header,
    /// Serialised message that the header's type names.
    pub body: bytes::Bytes,
    /// Desk that signed instead of the source.
    pub desk: Option<DeskId>,
    /// Keys that signed.
    pub key_ids: Vec<String>,
    /// SHA-256 of its payload: what a coverage names it by.
    pub payload_sha256: [u8; 32],
    /// The journal that it stands in, and who witnessed that. `None`: the file does not say.
    pub witnessed: Option<Witnessed>,
    /// For a summary: its figures.
    pub summary: Option<VerifiedSummary>,
}

/// A summary that holds.
#[derive(Clone, Debug)]
pub struct VerifiedSummary {
    /// What it signs.
    pub summary: Summary,
    /// Disclosed figures over the unit's own records.
    pub own: Figures,
    /// Disclosed figures over the subtree.
    pub subtree: Figures,
    /// Number of withheld cells.
    pub withheld: u32,
    /// Which totals were added up again. Empty for a single statement.
    pub explained: Explained,
}

/// One step of a chain of delegations.
#[derive(Clone, Debug)]
pub struct Link {
    /// The grant.
    pub delegation: Delegation,
    /// SHA-256 of its payload.
    pub payload_sha256: [u8; 32],
}

impl Verified {
    /// Newest delegations from the root's own down to the unit's.
    pub fn chain(&self, unit: &UnitCode) -> Vec<Link> {
        let line = std::iter::successors(Some(unit), |unit| self.trust.parent(unit));
        let known = line.filter_map(|unit| self.trust.delegation(unit, None));
        let mut chain: Vec<Link> = known.map(Link::from).collect();
        chain.reverse();
        chain
    }

    /// The root keys that the file rests on: the given one, and how each other is believed for it.
    pub fn roots(&self) -> &[Root] {
        self.trust.roots()
    }

    /// Newest delegation of a unit.
    pub fn delegation(&self, unit: &UnitCode) -> Option<&Delegation> {
        self.trust.delegation(unit, None).map(|known| &known.delegation)
    }
}

impl From<&Known> for Link {
    fn from(known: &Known) -> Self {
        Self { delegation: known.delegation.clone(), payload_sha256: known.payload_sha256 }
    }
}

/// Verifies a whole file.
///
/// # Errors
///
/// [`Broken`]: the first link that does not hold. The order is that of `docs/protocol.md`.
pub fn verify(file: &[u8], root: &RootKey) -> Result<Verified, Box<Broken>> {
    verify_beside(file, root, Beside::default())
}

/// What is given beside a file, by whomever it was brought: it proves itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Beside<'a> {
    /// What was revoked, perhaps since the export.
    pub revocations: &'a [Proven],
    /// Grants by which root keys name each other, perhaps younger than the file.
    pub roots: &'a [Envelope],
    /// Names and keys of witnesses outside the tree: the verifying side has them from elsewhere.
    pub witnesses: &'a [(String, VerifyingKey)],
}

/// Verifies a whole file by what was revoked since its export, and by root keys that followed each
/// other, too.
///
/// # Errors
///
/// As [`verify`], and for something beside the file that does not prove itself.
pub fn verify_beside(
    file: &[u8],
    root: &RootKey,
    beside: Beside<'_>,
) -> Result<Verified, Box<Broken>> {
    let pack = pack::read(file)?;
    let at = pack.head.exported_unix_ms;
    if pack.head.trust_domain != root.trust_domain() {
        return Err(of_head("wrong-domain", "trust_domain", "the root key is of another city"));
    }
    let mut trust = trust_of(&pack, root, beside.roots)?;
    revoked::take(&mut trust, &pack, beside.revocations)?;
    let resting = revoked::check_grants(&trust, &pack)?;
    let catalogue = match &pack.catalogue {
        Some((part, envelope)) => Some(open_catalogue(&trust, *part, envelope, &pack.head)?),
        None => None,
    };
    let statements = if pack.head.period.is_empty() {
        single(&trust, &pack, beside)?
    } else {
        figures(&trust, &pack, beside)?
    };
    if let (Some(catalogue), Some(first)) = (&catalogue, statements.first())
        && first.header.dataschema != catalogue.label
    {
        let (part, envelope) = (pack.statements[0].0, &pack.statements[0].1.envelope);
        let detail = format!("was made under another catalogue than {}", catalogue.label);
        let place = Place { part, envelope };
        return Err(place.broken("unknown-catalogue", "header.dataschema", detail));
    }
    let (seal, held) = open_seal(&trust, &pack, at)?;
    let revocations = revoked::finish(&trust, &pack, held.as_ref(), resting)?;
    Ok(Verified { head: pack.head, seal, catalogue, statements, revocations, trust })
}

fn of_head(reason: &'static str, field: &str, detail: impl std::fmt::Display) -> Box<Broken> {
    Box::new(Broken {
        reason,
        part: Some(0),
        unit: None,
        statement_id: None,
        kind: None,
        field: field.to_owned(),
        detail: detail.to_string(),
    })
}

/// Believes the file's delegations, one after the other. What rests on a root key that another
/// grant names, in the file or beside it, waits for that one.
fn trust_of(pack: &Pack, root: &RootKey, beside: &[Envelope]) -> Result<Trust, Box<Broken>> {
    let mut trust = Trust::new(root.trust_domain().to_owned(), root.key().clone());
    let at = pack.head.exported_unix_ms;
    let in_file = pack.delegations.iter().map(|(part, envelope)| (Some(*part), envelope));
    // What is beside the file may be younger, and may be in it.
    let beside = beside.iter().map(|envelope| (None, envelope));
    let mut waiting: Vec<(Option<usize>, &Envelope)> = in_file.chain(beside).collect();
    while !waiting.is_empty() {
        let known = trust.roots_learned();
        let (mut later, mut first) = (Vec::new(), None);
        for (part, envelope) in waiting {
            let place = Place { part: part.unwrap_or_default(), envelope };
            let added = trust.add_recorded(envelope, if part.is_some() { at } else { i64::MAX });
            match added {
                Ok(added) if added.new || part.is_none() => {}
                Ok(_) => return Err(place.broken("twice", "", "the delegation is there already")),
                Err(error) => {
                    let broken = distrusted(place, part, &error);
                    if !error.may_hold_later() {
                        return Err(broken);
                    }
                    later.push((part, envelope));
                    first.get_or_insert(broken);
                }
            }
        }
        if let Some(first) = first.filter(|_| trust.roots_learned() == known) {
            return Err(first);
        }
        waiting = later;
    }
    Ok(trust)
}

fn distrusted(
    place: Place<'_>,
    part: Option<usize>,
    error: &crate::identity::trust::Error,
) -> Box<Broken> {
    let mut broken = place.distrusted(error);
    if part.is_none() {
        broken.part = None;
        broken.detail = format!("a grant of a root beside the file: {}", broken.detail);
    }
    broken
}

fn open(trust: &Trust, place: Place<'_>, at: UnixMillis) -> Result<Opened, Box<Broken>> {
    trust.open(place.envelope, at).map_err(|error| place.distrusted(&error))
}

fn open_catalogue(
    trust: &Trust,
    part: usize,
    envelope: &Envelope,
    head: &Head,
) -> Result<VerifiedCatalogue, Box<Broken>> {
    let place = Place { part, envelope };
    let opened = open(trust, place, head.exported_unix_ms)?;
    let header = opened.statement.header;
    if header.kind != kinds::CATALOGUE {
        return Err(place.broken("unknown-type", "header.type", "is no catalogue"));
    }
    if !trust.is_in_subtree(&head.unit, &header.source) {
        let detail = format!("{} is not above {}", header.source, head.unit);
        return Err(place.broken("outside-subtree", "header.source", detail));
    }
    let body = catalogue::decode_body(&opened.statement.body);
    let body = body.map_err(|error| place.malformed(&error))?;
    let label = format!("{}@{}", body.name, body.version);
    Ok(VerifiedCatalogue { header, label, document: body.document })
}

/// The one statement of a file without a period.
fn single(
    trust: &Trust,
    pack: &Pack,
    beside: Beside<'_>,
) -> Result<Vec<Verification>, Box<Broken>> {
    if let Some((part, packed)) = pack.statements.get(1) {
        let place = Place { part: *part, envelope: &packed.envelope };
        return Err(place.broken("part-order", "", "a file without a period has one statement"));
    }
    if !pack.head.missing.is_empty() {
        return Err(of_head("malformed", "missing", "belongs to the figures of a period"));
    }
    let (part, packed) = &pack.statements[0];
    let place = Place { part: *part, envelope: &packed.envelope };
    let (verification, _) = statement(
        trust,
        &Keys::of(trust, beside.witnesses),
        place,
        packed,
        pack.head.exported_unix_ms,
    )?;
    if verification.header.source != pack.head.unit {
        return Err(place.broken("wrong-source", "header.source", "is not the unit of the file"));
    }
    Ok(vec![verification])
}

/// Opens one statement; for a summary with its cells.
fn statement(
    trust: &Trust,
    keys: &Keys<'_>,
    place: Place<'_>,
    packed: &Packed,
    at: UnixMillis,
) -> Result<(Verification, Option<Disclosed>), Box<Broken>> {
    // Whose it is stands in the header, which is believed only when the signature holds.
    let claimed = header::decode(&place.envelope.payload).ok();
    let witnessed = packed.evidence.as_ref().zip(claimed).map(|(found, claimed)| {
        let digest = payload_sha256(place.envelope);
        evidence::check(found, place, &claimed.header.source, digest, trust, keys)
    });
    let source = header::decode(&place.envelope.payload).ok().map(|claimed| claimed.header.source);
    let earliest = witnessed
        .as_ref()
        .zip(source)
        .and_then(|(found, source)| found.as_ref().ok().and_then(|found| found.earliest(&source)));
    let opened = trust.open_witnessed(place.envelope, at, earliest);
    let opened = opened.map_err(|error| place.distrusted(&error))?;
    let witnessed = witnessed.transpose()?;
    let header = opened.statement.header;
    let mut verification = Verification {
        body: opened.statement.body,
        desk: opened.signer.1,
        key_ids: key_ids(place.envelope),
        payload_sha256: opened.payload_sha256,
        witnessed,
        summary: None,
        header,
    };
    if verification.header.kind != kinds::SUMMARY {
        if !packed.cells.is_empty() {
            return Err(place.broken("malformed", "cells", "belong to a summary"));
        }
        return Ok((verification, None));
    }
    if verification.desk.is_some() {
        return Err(place.broken("wrong-source", "header.source", "a desk signs no summary"));
    }
    let summary = decode_body(&verification.body).map_err(|error| place.malformed(&error))?;
    if summary.unit != verification.header.source {
        let detail = "the figures are of another unit than the source";
        return Err(place.broken("wrong-source", "body.unit", detail));
    }
    let mismatch = |field: &str, detail: &dyn std::fmt::Display| {
        place.broken("cells-do-not-match", field, detail)
    };
    let cells = open_cells(&summary, &packed.cells);
    let cells = cells.map_err(|error| mismatch(&error.field, &error.reason))?;
    let disclosed = Disclosed::new(cells).map_err(|error| mismatch("cells", &error))?;
    verification.summary = Some(VerifiedSummary {
        summary,
        own: disclosed.figures(Scope::Own),
        subtree: disclosed.figures(Scope::Subtree),
        withheld: disclosed.withheld(),
        explained: Explained::default(),
    });
    Ok((verification, Some(disclosed)))
}

fn key_ids(envelope: &Envelope) -> Vec<String> {
    envelope.signatures.iter().map(|signature| signature.key_id.clone()).collect()
}

/// The summaries of a period: each was added by the unit above it, none is left out unsaid, and
/// totals are the sums of their parts.
fn figures(
    trust: &Trust,
    pack: &Pack,
    beside: Beside<'_>,
) -> Result<Vec<Verification>, Box<Broken>> {
    let mut tree = fold::Tree::new(&pack.head, grants(trust));
    let keys = Keys::of(trust, beside.witnesses);
    for (part, packed) in &pack.statements {
        let place = Place { part: *part, envelope: &packed.envelope };
        let (verification, disclosed) =
            statement(trust, &keys, place, packed, pack.head.exported_unix_ms)?;
        let (Some(found), Some(disclosed)) = (&verification.summary, disclosed) else {
            return Err(place.broken("unknown-type", "header.type", "is no summary"));
        };
        if found.summary.kind != SummaryKind::Reported {
            return Err(place.broken("malformed", "body.kind", "is no reported summary"));
        }
        if found.summary.period.to_string() != pack.head.period {
            return Err(place.broken("malformed", "body.period", "is not that of the file"));
        }
        tree.add(place, verification, disclosed)?;
    }
    tree.finish()
}

/// Who was ever granted by whom.
fn grants(trust: &Trust) -> BTreeSet<(UnitCode, UnitCode)> {
    let pairs = trust.all().filter_map(|known| {
        let Delegation { unit, issuer, desk, .. } = &known.delegation;
        issuer.clone().filter(|_| desk.is_none()).map(|issuer| (issuer, unit.clone()))
    });
    pairs.collect()
}

/// The exporter's signature over everything before it.
fn open_seal(
    trust: &Trust,
    pack: &Pack,
    at: UnixMillis,
) -> Result<(Header, Option<HeldRevocations>), Box<Broken>> {
    let (part, envelope) = &pack.seal;
    let place = Place { part: *part, envelope };
    let opened = open(trust, place, at)?;
    let header = opened.statement.header;
    if header.kind != kinds::PACK {
        return Err(place.broken("unknown-type", "header.type", "is no seal of a pack"));
    }
    if header.source != pack.head.exporter || opened.signer.1.is_some() {
        return Err(place.broken("wrong-source", "header.source", "is not the exporter"));
    }
    if header.time_unix_ms != at {
        let detail = "is not when the file says that it was exported";
        return Err(place.broken("wrong-seal", "header.time_unix_ms", detail));
    }
    let body = pack::decode_seal(&opened.statement.body);
    let body = body.map_err(|error| place.malformed(&error))?;
    if body.sealed != pack.sealed {
        let detail = "bytes of the file are not those that were sealed";
        return Err(place.broken("wrong-seal", "body.sha256", detail));
    }
    Ok((header, body.held))
}
