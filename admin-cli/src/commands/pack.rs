//! `lianxi pack`: signed figures or one statement as a file that stands alone.
//!
//! Promises that a file which was written verifies: it is checked before it gets its name.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::Subcommand;
use lianxi_node::{
    domain::{period::Period, unit::UnitCode},
    identity::custody::Roots,
    statement::header::StatementId,
    verify::{RootKey, verify},
};
use lianxi_proto::local::v1::{
    ExportPackRequest, PackFacts, RootKeyRequest, export_pack_response::Kind,
};
use serde_json::json;

use super::Context;
use crate::{
    client::Client,
    durable::{self, Existing},
    failure::Failure,
    output::Output,
    texts::Text,
    values::Span,
};

/// What to do with packs.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Write the reported figures of a subtree, or one statement, with all that proves them
    Export(Export),
    /// Print the public root key that packs are checked with
    Root(Root),
}

/// Arguments of `lianxi pack export`.
#[derive(Debug, clap::Args)]
pub(crate) struct Export {
    /// Period of the reported figures, e.g. 2011-07, 2011-07/2011-09
    #[arg(long, required_unless_present = "statement", conflicts_with = "statement")]
    period: Option<Period>,
    /// Id of one statement that the unit holds: a summary, a notice, a receipt
    #[arg(long, value_name = "ID")]
    statement: Option<StatementId>,
    /// Unit that exports [default: the one that the host is for]
    #[arg(long)]
    unit: Option<UnitCode>,
    /// File to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Write over the file if it is there
    #[arg(long)]
    force: bool,
    /// When to stop waiting for the units below; what does not come is named
    #[arg(long, value_name = "TIME", default_value = "30s")]
    deadline: Span,
    /// Indicator whose figures are replaced by their hashes; can be given more than once
    #[arg(long, value_name = "INDICATOR", conflicts_with = "statement")]
    withhold: Vec<String>,
}

/// Arguments of `lianxi pack root`.
#[derive(Debug, clap::Args)]
pub(crate) struct Root {
    /// Unit whose root key it is [default: the one that the host is for]
    #[arg(long)]
    unit: Option<UnitCode>,
    /// File to write instead of standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// File for the grants by which root keys name each other: `lianxi verify --roots` takes it for
    /// packs that are older or younger than a root key
    #[arg(long, value_name = "FILE")]
    grants: Option<PathBuf>,
    /// Write over the file if it is there
    #[arg(long)]
    force: bool,
}

impl Verb {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        match self {
            Self::Export(export) => export.run(context).await,
            Self::Root(root) => root.run(context).await,
        }
    }
}

fn existing(force: bool) -> Existing {
    if force { Existing::Replace } else { Existing::Keep }
}

impl Export {
    async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let (output, existing) = (context.output(), existing(self.force));
        durable::check(&self.out, existing)?;
        let client = context.client().await?;
        let request = ExportPackRequest {
            unit: context.unit(&client, self.unit).await?,
            period: self.period.map(|period| period.to_string()).unwrap_or_default(),
            statement_id: self.statement.map(|id| id.as_bytes().to_vec()).unwrap_or_default(),
            deadline_ms: self.deadline.as_short_ms(),
            withhold: self.withhold,
        };
        let (facts, bytes) = export(&client, request, output).await?;
        durable::write(&self.out, &bytes, existing)?;
        if output.is_json() {
            let document = json!({
                "file": self.out,
                "statements": facts.statements,
                "missing": facts.missing,
                "size_bytes": bytes.len(),
            });
            return Ok(output.document(&document)?);
        }
        output.note(output.fill(Text::PackDone, &[&self.out.display(), &facts.statements]));
        if !facts.missing.is_empty() {
            output.note(output.fill(Text::PackMissing, &[&facts.missing.join(", ")]));
        }
        Ok(())
    }
}

/// Exports, and verifies what came.
///
/// # Errors
///
/// What the node says, or [`Failure::Broken`].
pub(crate) async fn export(
    client: &Client,
    request: ExportPackRequest,
    output: &Output,
) -> anyhow::Result<(PackFacts, Vec<u8>)> {
    let answer = client.packs().export(request).await.context("cannot export")?;
    let mut stream = answer.into_inner();
    let mut facts: Option<PackFacts> = None;
    let mut bytes = Vec::new();
    while let Some(answer) = stream.message().await.context("cannot export")? {
        match answer.kind {
            Some(Kind::Facts(came)) => facts = Some(came),
            Some(Kind::Chunk(chunk)) => bytes.extend_from_slice(&chunk),
            None => bail!("the node answered something that this program does not know"),
        }
        if let Some(facts) = &facts {
            let size = facts.size_bytes / 1024;
            output.progress(output.fill(Text::PackCollected, &[&facts.statements, &size]));
        }
    }
    let facts = facts.context("the node answered without saying what the pack is")?;
    let root: RootKey = facts.root_key.parse().context("the node's root key")?;
    match verify(&bytes, &root) {
        Ok(_) => Ok((facts, bytes)),
        Err(broken) => {
            let failure = Failure::Broken(broken);
            Err(failure).context("what the node exported does not hold; nothing was written")
        }
    }
}

/// The root key that a node believes in.
///
/// # Errors
///
/// What the node says.
pub(crate) async fn root_key(client: &Client, unit: String) -> anyhow::Result<RootKey> {
    Ok(root_and_grants(client, unit).await?.0)
}

async fn root_and_grants(client: &Client, unit: String) -> anyhow::Result<(RootKey, Roots)> {
    let answer = client.packs().root_key(RootKeyRequest { unit }).await;
    let answer = answer.context("cannot ask for the root key")?.into_inner();
    let root = answer.root_key.parse().context("the node's root key")?;
    Ok((root, Roots(answer.root_grants)))
}

impl Root {
    async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let output = context.output();
        let client = context.client().await?;
        let unit = context.unit(&client, self.unit).await?;
        let (root, grants) = root_and_grants(&client, unit).await?;
        if let Some(out) = &self.grants {
            durable::write(out, grants.to_text().as_bytes(), existing(self.force))?;
        }
        if let Some(out) = &self.out {
            durable::write(out, root.to_string().as_bytes(), existing(self.force))?;
            let values: [&dyn std::fmt::Display; 3] =
                [&out.display(), &root.trust_domain(), &root.fingerprint()];
            output.note(output.fill(Text::RootKeyWritten, &values));
        }
        if output.is_json() {
            let document = json!({
                "trust_domain": root.trust_domain(),
                "suite": root.suite().to_string(),
                "public_key": hex::encode(root.key().public_key()),
                "fingerprint": root.fingerprint(),
                "file": self.out,
            });
            return Ok(output.document(&document)?);
        }
        if self.out.is_none() {
            output.data(root.to_string().as_bytes())?;
        }
        Ok(())
    }
}
