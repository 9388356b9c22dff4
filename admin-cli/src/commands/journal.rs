//! `lianxi journal`: the audit log of a unit, its checkpoints, and proofs.

mod alarms;
mod witness;

use std::{collections::VecDeque, num::NonZeroU32};

use anyhow::Context as _;
use clap::Subcommand;
use lianxi_node::{
    clock::{Clock as _, SystemClock},
    domain::unit::UnitCode,
};
use lianxi_proto::admin::v1::{
    CheckpointRequest, CheckpointResponse, Cosigner, JournalLine, ProveRequest, ProveResponse,
    PruneJournalRequest, ShowJournalRequest, VerifyJournalRequest, VerifyJournalResponse,
};
use serde_json::{Value, json};

use super::Context;
use crate::{
    client::Client,
    failure::Failure,
    output::Output,
    table::Table,
    texts::Text,
    values::{self, Span},
};

/// What to do with a journal.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Show the audit log: who did what, and when
    Show(Show),
    /// Make a checkpoint and wait for a neighbour to cosign it
    Checkpoint(Checkpoint),
    /// Prove that a statement or leaf stands in the journal
    Prove(Prove),
    /// Check the stored journal for anything changed, removed or put back
    Verify(Verify),
    /// List journals that do not go on from what was seen of them, and settle what was found out
    Alarms(alarms::Alarms),
    /// Witnesses outside the tree: a root has no parent that could be one
    #[command(subcommand)]
    Witness(witness::Verb),
    /// Drop leaves that are older than they have to be kept
    Prune(Prune),
}

/// Arguments of `lianxi journal show`.
#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    /// Unit [default: the one that the host is for]
    #[arg(long)]
    unit: Option<UnitCode>,
    /// Only leaves, acts and statements whose name begins so, e.g. `act`, `node.` or `lianxi.notice`
    #[arg(long, default_value = "")]
    act: String,
    /// Only what was done by whoever begins so, e.g. `uid:1000` or `unit:BOS`
    #[arg(long, default_value = "")]
    actor: String,
    /// Only what happened within this time, e.g. `7d`
    #[arg(long)]
    last: Option<Span>,
    /// Newest lines to show
    #[arg(long, default_value = "100")]
    limit: NonZeroU32,
}

/// Arguments of `lianxi journal checkpoint`.
#[derive(Debug, clap::Args)]
pub(crate) struct Checkpoint {
    /// Unit [default: the one that the host is for]
    #[arg(long)]
    unit: Option<UnitCode>,
    /// Longest time to wait for a cosignature, at most 1m
    #[arg(long, default_value = "10s")]
    wait: Span,
}

/// Arguments of `lianxi journal prove`.
#[derive(Debug, clap::Args)]
pub(crate) struct Prove {
    /// Unit [default: the one that the host is for]
    #[arg(long)]
    unit: Option<UnitCode>,
    /// Id of a statement
    #[arg(required_unless_present = "leaf", conflicts_with = "leaf")]
    statement: Option<String>,
    /// Index of a leaf
    #[arg(long)]
    leaf: Option<u64>,
}

/// Arguments of `lianxi journal verify`.
#[derive(Debug, clap::Args)]
pub(crate) struct Verify {
    /// Unit [default: the one that the host is for]
    #[arg(long)]
    unit: Option<UnitCode>,
}

/// Arguments of `lianxi journal prune`.
#[derive(Debug, clap::Args)]
pub(crate) struct Prune {
    /// Unit [default: the one that the host is for]
    #[arg(long)]
    unit: Option<UnitCode>,
    /// Tell what would be dropped, drop nothing
    #[arg(long)]
    dry_run: bool,
}

impl Verb {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        match self {
            Self::Show(show) => show.run(context).await,
            Self::Checkpoint(checkpoint) => checkpoint.run(context).await,
            Self::Prove(prove) => prove.run(context).await,
            Self::Verify(verify) => verify.run(context).await,
            Self::Alarms(alarms) => alarms.run(context).await,
            Self::Witness(verb) => verb.run(context).await,
            Self::Prune(prune) => prune.run(context).await,
        }
    }
}

impl Show {
    async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let client = context.client().await?;
        let unit = context.unit(&client, self.unit.clone()).await?;
        let lines = self.lines(&client, &unit).await?;
        let output = context.output();
        if output.is_json() {
            let lines: Vec<Value> = lines.iter().map(line_json).collect();
            return Ok(output.document(&json!({ "unit": unit, "lines": lines }))?);
        }
        let mut table = Table::new()
            .number(output.text(Text::LeafIndex))
            .text(output.text(Text::Time))
            .text(output.text(Text::Actor))
            .text(output.text(Text::Event))
            .text(output.text(Text::ActName))
            .text(output.text(Text::Subject))
            .text(output.text(Text::Reason));
        for line in &lines {
            table.row([
                &line.index.to_string(),
                &values::time(line.time_unix_ms),
                &line.actor,
                &line.event,
                &line.name,
                &line.subject,
                &line.refused,
            ]);
        }
        Ok(output.table(&table, Text::NoLeaves)?)
    }

    /// The newest matching lines, the oldest of them first.
    async fn lines(&self, client: &Client, unit: &str) -> anyhow::Result<VecDeque<JournalLine>> {
        let limit = usize::try_from(self.limit.get()).unwrap_or(usize::MAX);
        let ago = |last: Span| SystemClock.now_unix_ms().saturating_sub(last.as_ms());
        let since_unix_ms = self.last.map(ago).unwrap_or_default();
        let (mut lines, mut from_index) = (VecDeque::new(), 0);
        loop {
            let request = ShowJournalRequest {
                unit: unit.to_owned(),
                from_index,
                act: self.act.clone(),
                actor: self.actor.clone(),
                since_unix_ms,
            };
            let answer = client.journals().show(request).await;
            let page = answer.context("cannot read the journal")?.into_inner();
            lines.extend(page.lines);
            lines.drain(..lines.len().saturating_sub(limit));
            if page.next_index >= page.size {
                return Ok(lines);
            }
            from_index = page.next_index;
        }
    }
}

fn line_json(line: &JournalLine) -> Value {
    json!({
        "index": line.index,
        "time_unix_ms": line.time_unix_ms,
        "event": line.event,
        "actor": line.actor,
        "name": line.name,
        "subject": line.subject,
        "refused": line.refused,
        "digest": line.digest,
    })
}

fn witness_json(witness: &Cosigner) -> Value {
    json!({
        "unit": witness.unit,
        "time_unix_s": witness.time_unix_s,
        "same_host": witness.same_host,
    })
}

/// Says who saw the checkpoint, and what that is worth.
fn witness_lines(output: &Output, witnesses: &[Cosigner], is_root: bool) -> anyhow::Result<()> {
    for witness in witnesses {
        let seconds = i64::try_from(witness.time_unix_s).unwrap_or(i64::MAX);
        let time = values::time(seconds.saturating_mul(1_000));
        let text = if witness.same_host { Text::WitnessedHere } else { Text::Witnessed };
        output.line(output.fill(text, &[&witness.unit, &time]))?;
    }
    if witnesses.is_empty() {
        output.note(output.text(Text::Unwitnessed));
    }
    // A name of another tree is no code.
    if is_root && !witnesses.iter().any(|witness| witness.unit.contains('/')) {
        output.note(output.text(Text::RootWitness));
    }
    Ok(())
}

impl Checkpoint {
    async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let client = context.client().await?;
        let unit = context.unit(&client, self.unit).await?;
        let request = CheckpointRequest { unit: unit.clone(), wait_ms: self.wait.as_short_ms() };
        let answer = client.journals().checkpoint(request).await;
        let made: CheckpointResponse = answer.context("cannot make a checkpoint")?.into_inner();
        let output = context.output();
        if output.is_json() {
            let witnesses: Vec<Value> = made.witnesses.iter().map(witness_json).collect();
            return Ok(output.document(&json!({
                "unit": unit,
                "size": made.size,
                "checkpoint": made.checkpoint,
                "witnesses": witnesses,
                "is_root": made.is_root,
            }))?);
        }
        output.data(made.checkpoint.as_bytes())?;
        witness_lines(output, &made.witnesses, made.is_root)
    }
}

impl Prove {
    async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let client = context.client().await?;
        let unit = context.unit(&client, self.unit).await?;
        let statement_id = match &self.statement {
            None => Vec::new(),
            Some(id) => values::id_bytes(id).ok_or_else(|| {
                Failure::Usage(format!("{id:?} is no id of a statement: it has 32 hex digits"))
            })?,
        };
        let leaf_index = self.leaf.unwrap_or_default();
        let request = ProveRequest { unit: unit.clone(), statement_id, leaf_index };
        let answer = client.journals().prove(request).await;
        let proof: ProveResponse = answer.context("cannot prove it")?.into_inner();
        let evidence = proof.evidence.unwrap_or_default();
        let output = context.output();
        let inclusion: Vec<String> = evidence.inclusion.iter().map(hex::encode).collect();
        if output.is_json() {
            let witnesses: Vec<Value> = proof.witnesses.iter().map(witness_json).collect();
            return Ok(output.document(&json!({
                "unit": unit,
                "leaf": hex::encode(&evidence.leaf),
                "leaf_index": evidence.leaf_index,
                "inclusion": inclusion,
                "checkpoint": evidence.checkpoint,
                "witnesses": witnesses,
            }))?);
        }
        output.facts([
            (Text::LeafIndex, evidence.leaf_index.to_string()),
            (Text::Leaf, hex::encode(&evidence.leaf)),
        ])?;
        for hash in &inclusion {
            output.line(hash)?;
        }
        output.data(evidence.checkpoint.as_bytes())?;
        witness_lines(output, &proof.witnesses, false)
    }
}

impl Verify {
    async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let client = context.client().await?;
        let unit = context.unit(&client, self.unit).await?;
        let answer = client.journals().verify(VerifyJournalRequest { unit: unit.clone() }).await;
        let found: VerifyJournalResponse = answer.context("cannot check the journal")?.into_inner();
        let output = context.output();
        if output.is_json() {
            let findings = found
                .findings
                .iter()
                .map(|finding| json!({ "reason": finding.reason, "detail": finding.detail }));
            output.document(&json!({
                "unit": unit,
                "size": found.size,
                "first_index": found.first_index,
                "root": hex::encode(&found.root),
                "checkpoints": found.checkpoints,
                "witnessed": found.witnessed,
                "findings": findings.collect::<Vec<Value>>(),
            }))?;
        } else {
            output.line(output.fill(
                Text::JournalChecked,
                &[&unit, &found.size, &found.checkpoints, &found.witnessed],
            ))?;
            for finding in &found.findings {
                output.line(&finding.detail)?;
            }
        }
        match found.findings.len() {
            0 => Ok(()),
            count => Err(Failure::BrokenJournal(count).into()),
        }
    }
}

impl Prune {
    async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let client = context.client().await?;
        let unit = context.unit(&client, self.unit).await?;
        let request = PruneJournalRequest { unit: unit.clone(), dry_run: self.dry_run };
        let pruned = client.journals().prune(request).await;
        let pruned = pruned.context("cannot prune the journal")?.into_inner();
        let output = context.output();
        if output.is_json() {
            return Ok(output.document(&json!({
                "unit": unit,
                "leaves": pruned.leaves,
                "first_index": pruned.first_index,
                "retention_days": pruned.retention_days,
                "dry_run": self.dry_run,
            }))?);
        }
        let text = if self.dry_run { Text::WouldPrune } else { Text::Pruned };
        Ok(output.line(output.fill(text, &[&pruned.leaves, &pruned.retention_days]))?)
    }
}
