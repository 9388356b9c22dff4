//! Packs: figures of a period, or one statement, in one file that needs nothing else but the root
//! key to be checked.
//!
//! A pack holds what was signed, as it was signed; the exporting unit adds its seal over the whole.

use std::collections::BTreeSet;

use lianxi_proto::{
    cells::withhold,
    note::{self, Note},
};

use super::{
    error::{ErrorKind, ServiceError},
    exchange::{Parcel, Question},
    hosted::Hosted,
    summaries::{self, Collected},
    unit::{self, Draft, Unit},
};
use crate::{
    domain::{
        delegation::Delegation,
        period::Period,
        summary::Scope,
        unit::{Level, UnitCode},
    },
    identity::trust::Subject,
    statement::{
        Envelope, SaltedCell,
        header::{self, StatementId, kinds},
        journal::Evidence,
        pack::{Fault, Head, HeldRevocations, Packed, Part, SealBody, Writer, encode_seal},
        revocation::Proven,
        summary::{decode_body, open_cells},
    },
    store,
};

/// Why a pack was not made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is nothing to pack for the period.
    #[error(
        "unit {unit} has reported nothing for {period}; publish it with `lianxi summary publish --period {period}`"
    )]
    NothingReported {
        /// The unit.
        unit: UnitCode,
        /// The period.
        period: String,
    },
    /// No such statement is held.
    #[error("unit {0} holds no statement {1}; take an id from a list, e.g. `lianxi notice list`")]
    NoStatement(UnitCode, StatementId),
    /// Withheld cells named by an indicator that no summary has.
    #[error("no summary of the period has an indicator {0:?}; `lianxi catalogue show` lists them")]
    NoIndicator(String),
    /// The summaries could not be collected.
    #[error("cannot collect the summaries")]
    Summaries(#[from] summaries::Error),
    /// The seal could not be made.
    #[error("cannot seal the pack")]
    Unit(#[from] unit::Error),
    /// A part does not fit.
    #[error("cannot write the pack")]
    Pack(#[from] Fault),
    /// The store failed.
    #[error("cannot read the store")]
    Store(#[from] store::Error),
}

impl ServiceError for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NothingReported { .. } => ErrorKind::FailedPrecondition,
            Self::NoStatement(..) => ErrorKind::NotFound,
            Self::NoIndicator(_) => ErrorKind::InvalidArgument,
            Self::Summaries(error) => error.kind(),
            Self::Unit(_) | Self::Pack(_) => ErrorKind::Internal,
            Self::Store(error) => error.kind(),
        }
    }
}

/// A pack that was made.
#[derive(Clone, Debug)]
pub struct Exported {
    /// Its bytes, in the order of the file.
    pub pieces: Vec<Vec<u8>>,
    /// SHA-256 of everything before the seal, which the seal names.
    pub sha256: [u8; 32],
    /// Statements in it.
    pub statements: usize,
    /// Units in the figures whose statements are not in it.
    pub missing: Vec<(UnitCode, String)>,
}

/// Packs the reported figures of the unit's subtree. Cells of the `withheld` indicators are
/// replaced by their hashes.
///
/// # Errors
///
/// [`Error::NothingReported`], [`Error::NoIndicator`], or what kept it from being made.
pub async fn period(
    hosted: &Hosted,
    period: &Period,
    question: &Question,
    withheld: &[String],
) -> Result<Exported, Error> {
    let unit = &hosted.unit;
    let collected = match hosted.summaries.collect(question, period).await {
        Err(summaries::Error::NotFound { unit, period }) => {
            return Err(Error::NothingReported { unit, period });
        }
        other => other?,
    };
    let catalogue = catalogue(hosted, &collected.dataschema).await?;
    let Collected { parcels, missing, statements, .. } = collected;
    let mut found = BTreeSet::new();
    let mut packed = Vec::with_capacity(parcels.len());
    for parcel in parcels {
        packed.push(withhold_cells(parcel, withheld, &mut found)?);
    }
    if let Some(unknown) = withheld.iter().find(|indicator| !found.contains(indicator.as_str())) {
        return Err(Error::NoIndicator(unknown.clone()));
    }
    let missing: Vec<_> =
        missing.into_iter().map(|(unit, reason)| (unit, reason.to_owned())).collect();
    let mut subjects: BTreeSet<Subject> =
        statements.into_iter().map(|(unit, _)| (unit, None)).collect();
    subjects.extend(missing.iter().map(|(unit, _)| (unit.clone(), None)));
    let head = Head { missing, ..head(unit, unit.code.clone(), period.to_string()) };
    write(unit, head, subjects, catalogue, packed)
}

/// Packs one statement that the unit holds.
///
/// # Errors
///
/// [`Error::NoStatement`], or what kept it from being made.
pub async fn statement(hosted: &Hosted, id: StatementId) -> Result<Exported, Error> {
    let unit = &hosted.unit;
    let envelope = unit.statement(id).await?;
    let envelope = envelope.ok_or_else(|| Error::NoStatement(unit.code.clone(), id))?;
    let statement = header::decode(&envelope.payload).map_err(|error| damaged(&error))?;
    let cells = match statement.header.kind.as_str() {
        kinds::SUMMARY => unit.cells(id).await?,
        _ => Vec::new(),
    };
    let evidence = hosted.journal.evidence_of(id).await?;
    let source = statement.header.source;
    let named = evidence.iter().flat_map(|evidence| witnesses(unit, evidence));
    let mut subjects: BTreeSet<Subject> = named.map(|witness| (witness, None)).collect();
    let desks = unit.trust().all().map(|known| &known.delegation).fold(
        BTreeSet::new(),
        |mut subjects: BTreeSet<Subject>, delegation| {
            if delegation.unit == source {
                subjects.insert((source.clone(), delegation.desk.clone()));
            }
            subjects
        },
    );
    let head = head(unit, source, String::new());
    subjects.extend(desks);
    write(unit, head, subjects, None, vec![Packed { envelope, cells, evidence }])
}

/// Units that signed the checkpoint of `evidence` and are known here: their grants make them
/// witnesses.
fn witnesses(unit: &Unit, evidence: &Evidence) -> Vec<UnitCode> {
    let Ok(note) = Note::parse(&evidence.checkpoint) else { return Vec::new() };
    let prefix = note::origin(&unit.trust_domain, "");
    let named = note.names().filter_map(|name| name.strip_prefix(&prefix)?.parse().ok());
    let trust = unit.trust();
    named.filter(|unit| trust.delegation(unit, None).is_some()).collect()
}

fn head(unit: &Unit, of: UnitCode, period: String) -> Head {
    Head {
        trust_domain: unit.trust_domain.clone(),
        exporter: unit.code.clone(),
        exported_unix_ms: unit.clock.now_unix_ms(),
        unit: of,
        period,
        missing: Vec::new(),
    }
}

/// The catalogue in force, if it is the one that the figures were made under.
async fn catalogue(
    hosted: &Hosted,
    dataschema: &str,
) -> Result<Option<(UnitCode, Envelope)>, Error> {
    let Some(in_force) = hosted.catalogues.in_force() else { return Ok(None) };
    if in_force.catalogue.label() != dataschema {
        return Ok(None);
    }
    let envelope = hosted.unit.statement(in_force.statement_id).await?;
    // It comes without evidence: by a key that has ended since, it would be believed by nobody.
    let (trust, now) = (hosted.unit.trust(), hosted.unit.clock.now_unix_ms());
    let envelope = envelope.filter(|envelope| !trust.is_by_ended_key(envelope, now));
    Ok(envelope.map(|envelope| (in_force.source, envelope)))
}

fn withhold_cells(
    parcel: Parcel,
    withheld: &[String],
    found: &mut BTreeSet<String>,
) -> Result<Packed, store::Error> {
    let Parcel { envelope, cells, evidence } = parcel;
    if withheld.is_empty() {
        return Ok(Packed { envelope, cells, evidence });
    }
    let statement = header::decode(&envelope.payload).map_err(|error| damaged(&error))?;
    let summary = decode_body(&statement.body).map_err(|error| damaged(&error))?;
    let opened = open_cells(&summary, &cells).map_err(|error| damaged(&error))?;
    let mut by_index = cells;
    by_index.sort_by_key(|cell| cell.index);
    let hide = |(cell, opened): (&SaltedCell, Option<(Scope, _, _)>)| match opened {
        Some((_, crate::domain::summary::FigureKey { indicator, .. }, _))
            if withheld.contains(&indicator) =>
        {
            found.insert(indicator);
            withhold(cell)
        }
        Some(_) | None => cell.clone(),
    };
    let cells = by_index.iter().zip(opened).map(hide).collect();
    Ok(Packed { envelope, cells, evidence })
}

/// Writes the parts and seals them.
fn write(
    unit: &Unit,
    head: Head,
    mut subjects: BTreeSet<Subject>,
    catalogue: Option<(UnitCode, Envelope)>,
    packed: Vec<Packed>,
) -> Result<Exported, Error> {
    subjects.insert((unit.code.clone(), None));
    subjects.extend(catalogue.iter().map(|(source, _)| (source.clone(), None)));
    let (missing, statements) = (head.missing.clone(), packed.len());
    let exported_unix_ms = head.exported_unix_ms;
    let (mut writer, first) = Writer::begin();
    let mut pieces = vec![first, writer.part(Part::Head(head))?];
    let granted = delegations(unit, subjects);
    for (_, envelope) in &granted {
        pieces.push(writer.part(Part::Delegation(envelope.clone()))?);
    }
    let concerned: BTreeSet<UnitCode> = granted.into_iter().map(|(unit, _)| unit).collect();
    let (revocations, held) = revocations(unit, &concerned);
    for proven in revocations {
        pieces.push(writer.part(Part::Revocation(proven))?);
    }
    if let Some((_, envelope)) = catalogue {
        pieces.push(writer.part(Part::Catalogue(envelope))?);
    }
    for packed in packed {
        pieces.push(writer.part(Part::Statement(packed))?);
    }
    let sealed = writer.sealed();
    let body = SealBody { sealed: sealed.clone(), held: Some(held) };
    let draft = Draft::new(kinds::PACK, String::new(), encode_seal(&body));
    let seal = unit.sign_at(&draft, exported_unix_ms)?;
    pieces.push(writer.seal(seal.envelope)?);
    Ok(Exported { pieces, sha256: sealed.sha256, statements, missing })
}

/// What was revoked of the units that the file names, and a digest of all that is held: so that what
/// is not in the file is said.
fn revocations(unit: &Unit, concerned: &BTreeSet<UnitCode>) -> (Vec<Proven>, HeldRevocations) {
    let trust = unit.trust();
    let known = trust.revocations();
    let concerning = known.filter(|known| concerned.contains(&known.revocation.unit));
    let count = u32::try_from(trust.revocations().count()).unwrap_or(u32::MAX);
    let held = HeldRevocations { sha256: trust.revocations_sha256(), count };
    (concerning.map(|known| known.proven.clone()).collect(), held)
}

/// Every revocation that the unit holds, and whether it counts.
pub fn held_revocations(unit: &Unit) -> Vec<(Proven, bool)> {
    let trust = unit.trust();
    trust.revocations().map(|known| (known.proven.clone(), trust.counts(known))).collect()
}

/// All that was ever granted to `subjects` and to the units above them, issuers before issued.
fn delegations(unit: &Unit, subjects: BTreeSet<Subject>) -> Vec<(UnitCode, Envelope)> {
    let trust = unit.trust();
    let mut needed = BTreeSet::new();
    for subject in subjects {
        // Parents that a unit had once, too: all its grants are to hold.
        let above = trust.ever_above(&subject.0).into_iter().chain([&subject.0]);
        needed.extend(above.map(|unit| (unit.clone(), None)));
        needed.insert(subject);
    }
    let now = unit.clock.now_unix_ms();
    let is_needed = |subject: &Subject| needed.contains(subject);
    let mut known: Vec<_> = trust
        .all()
        .map(|known| (&known.delegation, &known.envelope))
        .filter(|(grant, _)| is_needed(&(grant.unit.clone(), grant.desk.clone())))
        .collect();
    // A grant by a key that ended counts because a later one of the same unit names it: that one first.
    let order = |(grant, envelope): &(&Delegation, &Envelope)| -> (Level, usize, _, _, bool, u64) {
        let ended = trust.is_by_ended_key(envelope, now);
        // One that merged into another of its level comes after that.
        let merges = trust.merges_of(&grant.unit);
        (grant.level, merges, grant.unit.clone(), grant.desk.clone(), ended, grant.serial)
    };
    known.sort_by_cached_key(order);
    known.into_iter().map(|(grant, envelope)| (grant.unit.clone(), envelope.clone())).collect()
}

fn damaged(error: &header::Malformed) -> store::Error {
    store::Error::Engine(format!("a stored statement cannot be read: {error}"))
}
