//! `lianxi verify`: checks a pack with the root key alone, and shows what it proves.
//!
//! Needs no node, no network and no clock. Nothing of a file is shown unless all of it holds.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use lianxi_node::{
    domain::{explanation::Explained, summary::FigureSet, unit::UnitCode},
    identity::{
        custody::Roots,
        trust::{Root, Standing},
    },
    statement::{
        delegation::level_to_proto,
        pack::{MAX_FILE_BYTES, read_revocations},
        summary::{figures_to_proto, to_proto},
    },
    verify::{
        Beside, Broken, Completeness, Link, Outside, Resting, RootKey, Verification, Verified,
        VerifiedSummary, Witness, verify_beside,
    },
};
use lianxi_proto::{
    envelope::VerifyingKey, local::v1::UnitFigures, note::parse_key, types::v1::Scope,
};
use serde_json::{Value, json};

use super::{
    Context,
    revocations::{self, Shown},
    summary,
};
use crate::{failure::Failure, figures, output::Output, table::Table, texts::Text, values, words};

/// Largest file of a root key.
const MAX_ROOT_BYTES: u64 = 64 * 1024;

/// Digits of a key id or digest in tables; `--json` has all.
const SHOWN_DIGITS: usize = 12;

/// Arguments of `lianxi verify`.
#[derive(Debug, clap::Args)]
pub(crate) struct Verify {
    /// Pack to check
    file: PathBuf,
    /// The city's public root key, from somewhere else than the pack
    #[arg(long, value_name = "FILE")]
    root: PathBuf,
    /// What was revoked since the export: a file of `lianxi node revocations --out`
    #[arg(long, value_name = "FILE")]
    revocations: Option<PathBuf>,
    /// How root keys followed each other: a file of `lianxi pack root --grants`
    #[arg(long, value_name = "FILE")]
    roots: Option<PathBuf>,
    /// Key of a witness outside the tree, from somewhere else than the pack: the line that
    /// `lianxi journal witness key` prints there; the option once for each
    #[arg(long, value_name = "KEY", value_parser = parse_key)]
    witness: Vec<(String, VerifyingKey)>,
    /// Show this unit and those below it alone
    #[arg(long)]
    unit: Option<UnitCode>,
    /// Levels below the first unit to show [default: all]
    #[arg(long)]
    depth: Option<usize>,
}

impl Verify {
    /// Runs the command.
    pub(crate) fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let output = context.output();
        let root = String::from_utf8(read(&self.root, MAX_ROOT_BYTES)?);
        let root: Result<RootKey, _> =
            root.map_err(|_| lianxi_node::verify::RootKeyError::Title).and_then(|it| it.parse());
        let root = match root {
            Ok(root) => root,
            Err(error) => {
                let text = format!("{}: {error}", self.root.display());
                return Err(Failure::Usage(text).into());
            }
        };
        let file = read(&self.file, MAX_FILE_BYTES)?;
        let beside = match &self.revocations {
            None => Vec::new(),
            Some(path) => read_revocations(&read(path, MAX_FILE_BYTES)?)
                .map_err(|fault| Failure::Usage(format!("{}: {fault}", path.display())))?,
        };
        let roots = match &self.roots {
            None => Roots(Vec::new()),
            Some(path) => {
                let text = String::from_utf8(read(path, MAX_ROOT_BYTES)?).unwrap_or_default();
                let parsed = text.parse::<Roots>();
                parsed.map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))?
            }
        };
        let beside = Beside { revocations: &beside, roots: &roots.0, witnesses: &self.witness };
        let verified = match verify_beside(&file, &root, beside) {
            Ok(verified) => verified,
            Err(broken) => {
                if output.is_json() {
                    output.document(&broken_json(&broken))?;
                }
                return Err(Failure::Broken(broken).into());
            }
        };
        let shown = self.shown(&verified);
        if output.is_json() {
            return Ok(output.document(&document(&verified, &root, &shown)?)?);
        }
        print(output, &verified, &root, &shown)
    }

    /// What is to be shown, with its depth below the first.
    fn shown<'a>(&self, verified: &'a Verified) -> Vec<(usize, &'a Verification)> {
        let first = self.unit.as_ref().unwrap_or(&verified.head.unit);
        let depth_of = |one: &Verification| {
            let chain = verified.chain(&one.header.source);
            let at = chain.iter().position(|link| link.delegation.unit == *first)?;
            Some(chain.len() - 1 - at)
        };
        let within = |depth: &usize| self.depth.is_none_or(|limit| *depth <= limit);
        let mut shown: Vec<_> = verified
            .statements
            .iter()
            .filter_map(|one| Some((depth_of(one).filter(within)?, one)))
            .collect();
        // A unit before those below it, branch by branch.
        shown.sort_by_cached_key(|(_, one)| {
            let chain = verified.chain(&one.header.source);
            chain.into_iter().map(|link| link.delegation.unit).collect::<Vec<_>>()
        });
        shown
    }
}

/// The root keys that the file rests on, in the order in which one is believed for another.
fn roots_json(verified: &Verified) -> Vec<Value> {
    let root = |root: &Root| {
        json!({
            "key_id": root.key_id(),
            "standing": root.standing.as_str(),
            "unit": root.unit.as_ref().map(ToString::to_string),
            "next": root.next,
            "compromised_since_unix_ms": root.compromised_since_unix_ms,
        })
    };
    verified.roots().iter().map(root).collect()
}

/// In which direction each further root key is believed.
fn print_roots(output: &Output, verified: &Verified) -> anyhow::Result<()> {
    for root in verified.roots() {
        let unit = root.unit.as_ref().map(ToString::to_string).unwrap_or_default();
        let text = match root.standing {
            Standing::Given => continue,
            Standing::Next => Text::NextRootKey,
            Standing::Former => Text::FormerRootKey,
        };
        output.line(output.fill(text, &[&root.key_id(), &unit]))?;
    }
    Ok(())
}

/// Reads a whole file of at most `limit` bytes.
fn read(path: &Path, limit: u64) -> anyhow::Result<Vec<u8>> {
    let cannot = || format!("cannot read {}", path.display());
    let file = File::open(path).with_context(cannot)?;
    let mut bytes = Vec::new();
    // One byte more, so that a larger file is seen to be one.
    file.take(limit + 1).read_to_end(&mut bytes).with_context(cannot)?;
    Ok(bytes)
}

fn broken_json(broken: &Broken) -> Value {
    json!({
        "valid": false,
        "broken": {
            "reason": broken.reason,
            "part": broken.part,
            "unit": broken.unit.as_ref().map(ToString::to_string),
            "statement_id": broken.statement_id,
            "type": broken.kind,
            "field": broken.field,
            "detail": broken.detail,
        },
    })
}

fn document(
    verified: &Verified,
    root: &RootKey,
    shown: &[(usize, &Verification)],
) -> anyhow::Result<Value> {
    let head = &verified.head;
    let statements = shown
        .iter()
        .map(|(_, one)| statement_json(verified, one))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let missing: Vec<Value> = head
        .missing
        .iter()
        .map(|(unit, reason)| json!({ "unit": unit.to_string(), "reason": reason }))
        .collect();
    let explained = explained(verified);
    Ok(json!({
        "valid": true,
        "trust_domain": head.trust_domain,
        "root_key": root.fingerprint(),
        "roots": roots_json(verified),
        "unit": head.unit.to_string(),
        "period": head.period,
        "exporter": head.exporter.to_string(),
        "exported_unix_ms": head.exported_unix_ms,
        "catalogue": verified.catalogue.as_ref().map(|catalogue| &catalogue.label),
        "revocations": revocations_json(verified),
        "statement_count": verified.statements.len(),
        "totals_recomputed": explained.0,
        "totals_not_recomputed": explained.1,
        "missing": missing,
        "statements": statements,
    }))
}

/// Revocations of the file and beside it, the first in time first.
fn revoked<'a>(output: Option<&'a Output>, verified: &'a Verified) -> Vec<Shown<'a>> {
    let found = &verified.revocations;
    let mut shown: Vec<Shown<'_>> = found
        .items
        .iter()
        .map(|one| {
            let left_out =
                found.left_out.iter().any(|other| other.payload_sha256 == one.payload_sha256);
            let remark = match (one.in_file, left_out) {
                (true, _) => None,
                (false, true) => Some(Text::RevocationLeftOut),
                (false, false) => Some(Text::RevocationBeside),
            };
            let remark = output.zip(remark).map_or("", |(output, text)| output.text(text));
            let (revocation, by) = (&one.revocation, &one.by);
            Shown { revocation, by, time_unix_ms: one.time_unix_ms, counts: one.counts, remark }
        })
        .collect();
    shown.sort_by_key(|one| one.time_unix_ms);
    shown
}

fn revocations_json(verified: &Verified) -> Value {
    let found = &verified.revocations;
    let (completeness, others) = match found.completeness {
        Completeness::Unsaid => ("unsaid", None),
        Completeness::All => ("all", Some(0)),
        Completeness::Others(others) => ("others", Some(others)),
        Completeness::Known(others) => ("known", Some(others)),
    };
    let left_out = found.left_out.iter().map(|one| hex::encode(one.payload_sha256));
    let resting = |one: &Resting| {
        json!({
            "unit": one.unit.to_string(),
            "desk": one.desk.as_ref().map(ToString::to_string),
            "issuer": one.issuer.to_string(),
            "since_unix_ms": one.since_unix_ms,
        })
    };
    json!({
        "items": revoked(None, verified).iter().map(Shown::json).collect::<Value>(),
        "in_file": found.items.iter().filter(|one| one.in_file).count(),
        "completeness": completeness,
        "others_held": others,
        "left_out": left_out.collect::<Value>(),
        "resting": found.resting.iter().map(resting).collect::<Value>(),
    })
}

/// Who was revoked since when, and what can be known of those that are not in the file.
fn print_revocations(output: &Output, verified: &Verified) -> anyhow::Result<()> {
    let shown = revoked(Some(output), verified);
    if !shown.is_empty() {
        output.line("")?;
        output.table(&revocations::table(output, &shown), Text::NoRevocations)?;
    }
    let completeness = match verified.revocations.completeness {
        Completeness::All => None,
        Completeness::Unsaid => Some(output.text(Text::RevocationsUnsaid).to_owned()),
        Completeness::Others(others) => Some(output.fill(Text::RevocationsOthers, &[&others])),
        Completeness::Known(others) => Some(output.fill(Text::RevocationsKnown, &[&others])),
    };
    if let Some(text) = completeness {
        output.line(text)?;
    }
    let mut resting: BTreeMap<&UnitCode, Vec<String>> = BTreeMap::new();
    for one in &verified.revocations.resting {
        let holder = match &one.desk {
            None => one.unit.to_string(),
            Some(desk) => format!("{}/{desk}", one.unit),
        };
        resting.entry(&one.issuer).or_default().push(holder);
    }
    for (issuer, holders) in resting {
        output.line(output.fill(Text::Resting, &[issuer, &holders.join(", ")]))?;
    }
    Ok(())
}

/// Totals of the whole file that were added up again, and that could not be.
fn explained(verified: &Verified) -> (usize, usize) {
    let of = verified.statements.iter().filter_map(|one| one.summary.as_ref());
    of.fold((0, 0), |(recomputed, unexplained), found| {
        let Explained { recomputed: here, unexplained: not } = &found.explained;
        (recomputed + usize::try_from(*here).unwrap_or(usize::MAX), unexplained + not.len())
    })
}

fn statement_json(verified: &Verified, one: &Verification) -> anyhow::Result<Value> {
    let header = &one.header;
    let mut value = match &one.summary {
        Some(found) => figures::unit_json(&unit_figures(verified, one, found))?,
        None => json!({ "unit": header.source.to_string(), "statement_id": header.id.to_string() }),
    };
    let chain: Vec<Value> = verified.chain(&header.source).iter().map(link_json).collect();
    let mut more = json!({
        "type": header.kind,
        "subject": header.subject,
        "signed_unix_ms": header.time_unix_ms,
        "desk": one.desk.as_ref().map(ToString::to_string),
        "key_ids": one.key_ids,
        "payload_sha256": hex::encode(one.payload_sha256),
        "exercise": header.exercise,
        "sealed": header.sealing.is_some(),
        "chain": chain,
    });
    more["journal"] = one.witnessed.as_ref().map_or(Value::Null, |witnessed| {
        let witness =
            |it: &Witness| json!({ "unit": it.unit.to_string(), "unix_ms": it.time_unix_ms });
        let outside = |it: &Outside| json!({ "name": it.name, "unix_ms": it.time_unix_ms });
        json!({
            "unit": witnessed.journal.to_string(),
            "leaf_index": witnessed.leaf_index,
            "witnesses": witnessed.witnesses.iter().map(witness).collect::<Value>(),
            "outside": witnessed.outside.iter().map(outside).collect::<Value>(),
        })
    });
    if let Some(found) = &one.summary {
        let keys = found.explained.unexplained.iter().map(
            |key| json!({ "indicator": key.indicator, "version": key.version, "group": key.group }),
        );
        more["cells_withheld"] = json!(found.withheld);
        more["totals_recomputed"] = json!(found.explained.recomputed);
        more["totals_not_recomputed"] = keys.collect();
    }
    if let (Some(value), Value::Object(more)) = (value.as_object_mut(), more) {
        value.extend(more);
    }
    Ok(value)
}

fn link_json(link: &Link) -> Value {
    let grant = &link.delegation;
    json!({
        "unit": grant.unit.to_string(),
        "title": grant.title,
        "level": words::level(level_to_proto(grant.level).into()).json,
        "issuer": grant.issuer.as_ref().map(ToString::to_string),
        "serial": grant.serial,
        "not_before_unix_ms": grant.not_before_unix_ms,
        "not_after_unix_ms": grant.not_after_unix_ms,
        "payload_sha256": hex::encode(link.payload_sha256),
    })
}

/// A verified summary as the other commands show one.
fn unit_figures(verified: &Verified, one: &Verification, found: &VerifiedSummary) -> UnitFigures {
    let unit = &found.summary.unit;
    let grant = verified.delegation(unit);
    let set = FigureSet { own: found.own.clone(), subtree: found.subtree.clone() };
    UnitFigures {
        unit: unit.to_string(),
        title: grant.map(|grant| grant.title.clone()).unwrap_or_default(),
        level: grant.map(|grant| level_to_proto(grant.level).into()).unwrap_or_default(),
        parent: grant
            .and_then(|grant| grant.issuer.as_ref())
            .map(ToString::to_string)
            .unwrap_or_default(),
        summary: Some(to_proto(&found.summary)),
        cells: figures_to_proto(&set),
        envelope: None,
        statement_id: one.header.id.as_bytes().to_vec(),
        scope_changes: Vec::new(),
        comparable_cells: Vec::new(),
    }
}

fn print(
    output: &Output,
    verified: &Verified,
    root: &RootKey,
    shown: &[(usize, &Verification)],
) -> anyhow::Result<()> {
    let head = &verified.head;
    let exported = values::time(head.exported_unix_ms);
    let (recomputed, unexplained) = explained(verified);
    let mut totals = output.fill(Text::TotalsRecomputed, &[&recomputed]);
    if unexplained > 0 {
        totals = output.fill(Text::TotalsUnexplained, &[&totals, &unexplained]);
    }
    let label = verified.catalogue.as_ref().map(|catalogue| catalogue.label.clone());
    output.facts([
        (Text::Valid, output.text(Text::ValidFile).to_owned()),
        (Text::TrustDomain, head.trust_domain.clone()),
        (Text::RootKey, root.fingerprint().to_owned()),
        (Text::Unit, head.unit.to_string()),
        (Text::Period, head.period.clone()),
        (Text::Catalogue, label.unwrap_or_default()),
        (Text::Exported, output.fill(Text::ExportedBy, &[&exported, &head.exporter])),
        (Text::Statements, verified.statements.len().to_string()),
        (Text::Totals, if head.period.is_empty() { String::new() } else { totals }),
    ])?;
    let missing: Vec<String> =
        head.missing.iter().map(|(unit, reason)| format!("{unit} {reason}")).collect();
    if !missing.is_empty() {
        output.line(output.fill(Text::PackMissing, &[&missing.join(", ")]))?;
    }
    print_roots(output, verified)?;
    output.line("")?;
    print_figures(output, verified, shown)?;
    output.line("")?;
    output.table(&signers(output, verified, shown), Text::NoStatements)?;
    print_revocations(output, verified)?;
    let of = shown.first().and_then(|(_, one)| one.summary.as_ref());
    match of {
        Some(found) => {
            let coverage = to_proto(&found.summary).coverage.unwrap_or_default();
            summary::print_missing(output, &coverage)
        }
        None => Ok(()),
    }
}

/// One row per unit with its subtree figures; a withheld one is a dash.
fn print_figures(
    output: &Output,
    verified: &Verified,
    shown: &[(usize, &Verification)],
) -> anyhow::Result<()> {
    let of = |(depth, one): &(usize, &Verification)| {
        let found = one.summary.as_ref()?;
        Some((*depth, found.withheld, unit_figures(verified, one, found)))
    };
    let answers: Vec<(usize, u32, UnitFigures)> = shown.iter().filter_map(of).collect();
    if answers.is_empty() {
        return Ok(());
    }
    let document = verified.catalogue.as_ref();
    let document: Value = document
        .and_then(|catalogue| serde_json::from_slice(&catalogue.document).ok())
        .unwrap_or_default();
    let all: Vec<UnitFigures> = answers.iter().map(|(_, _, figures)| figures.clone()).collect();
    let columns = summary::columns(&document, &all, output.lang());
    let mut table = Table::new()
        .text(output.text(Text::Unit))
        .text(output.text(Text::Title))
        .number(output.text(Text::Coverage));
    for (_, heading) in &columns {
        table = table.number(heading);
    }
    let hides = answers.iter().any(|(_, withheld, _)| *withheld > 0);
    if hides {
        table = table.number(output.text(Text::Withheld));
    }
    for (depth, withheld, answer) in &answers {
        let coverage = figures::coverage(answer)?;
        let totals = figures::totals(&answer.cells, Scope::Subtree)?;
        let incomplete = !figures::is_complete(coverage);
        let mut row = vec![
            format!("{}{}", "  ".repeat(*depth), answer.unit),
            answer.title.clone(),
            format!("{}/{}", coverage.included, coverage.expected),
        ];
        let figure = |id: &String| summary::shown(totals.get(id), coverage, incomplete);
        row.extend(columns.iter().map(|(id, _)| figure(id)));
        row.extend(hides.then(|| withheld.to_string()));
        table.row(row);
    }
    Ok(output.table(&table, Text::NoFigures)?)
}

/// Who signed what, when, and by whose grants.
fn signers(output: &Output, verified: &Verified, shown: &[(usize, &Verification)]) -> Table {
    let mut table = Table::new()
        .text(output.text(Text::Unit))
        .text(output.text(Text::StatementType))
        .text(output.text(Text::Id))
        .text(output.text(Text::SignedAt))
        .text(output.text(Text::SigningKey))
        .text(output.text(Text::WitnessedBy))
        .text(output.text(Text::Chain));
    // A chain is the same for all statements of a unit.
    let mut chains: BTreeMap<&UnitCode, String> = BTreeMap::new();
    for (_, one) in shown {
        let source = &one.header.source;
        let chain = chains.entry(source).or_insert_with(|| {
            let steps = verified.chain(source);
            let step = |link: &Link| link.delegation.unit.to_string();
            steps.iter().map(step).collect::<Vec<_>>().join(" > ")
        });
        let who = match &one.desk {
            Some(desk) => format!("{source} {desk}"),
            None => source.to_string(),
        };
        let keys: Vec<&str> =
            one.key_ids.iter().map(|key| key.get(..SHOWN_DIGITS).unwrap_or(key)).collect();
        let kind = &one.header.kind;
        let sealed = || output.fill(Text::SealedType, &[kind]);
        table.row([
            who,
            if one.header.sealing.is_some() { sealed() } else { kind.clone() },
            one.header.id.to_string(),
            values::time(one.header.time_unix_ms),
            keys.join(" "),
            witnesses(output, one),
            chain.clone(),
        ]);
    }
    table
}

/// The first that saw it, which is what its age rests on, and how many did after that.
fn witnesses(output: &Output, one: &Verification) -> String {
    let all = one.witnessed.iter();
    let inside = all.clone().flat_map(|witnessed| &witnessed.witnesses);
    let inside = inside.map(|witness| (witness.time_unix_ms, witness.unit.to_string()));
    let count = inside.clone().count();
    let outside = all.flat_map(|witnessed| &witnessed.outside);
    let outside = outside.map(|witness| (witness.time_unix_ms, witness.name.clone()));
    let mut shown = Vec::new();
    if let Some((time, unit)) = inside.min() {
        let more = if count > 1 { format!(" +{}", count - 1) } else { String::new() };
        shown.push(format!("{unit} {}{more}", values::time(time)));
    }
    shown.extend(outside.map(|(time, name)| format!("{name} {}", values::time(time))));
    if shown.is_empty() { output.text(Text::NotWitnessed).to_owned() } else { shown.join(", ") }
}
