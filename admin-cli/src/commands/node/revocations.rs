//! `lianxi node revocations`: who was revoked since when, for people and for a file.

use std::path::PathBuf;

use anyhow::Context as _;
use lianxi_node::{
    domain::unit::UnitCode,
    statement::{
        header,
        pack::write_revocations,
        revocation::{Proven, decode_body},
    },
};
use lianxi_proto::local::v1::RevocationsRequest;
use serde_json::{Value, json};

use super::super::{
    Context,
    revocations::{Shown, table},
};
use crate::{
    durable::{self, Existing},
    texts::Text,
};

/// Arguments of `lianxi node revocations`.
#[derive(Debug, clap::Args)]
pub(crate) struct Revocations {
    /// Unit whose knowledge is shown [default: the one that the host is for]
    #[arg(long)]
    unit: Option<UnitCode>,
    /// Also write them to this file, for `lianxi verify --revocations`
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Write over the file
    #[arg(long, requires = "out")]
    force: bool,
}

impl Revocations {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let output = context.output();
        let existing = if self.force { Existing::Replace } else { Existing::Keep };
        if let Some(out) = &self.out {
            durable::check(out, existing)?;
        }
        let client = context.client().await?;
        let unit = context.unit(&client, self.unit).await?;
        let request = RevocationsRequest { unit: unit.clone() };
        let answer = client.packs().revocations(request).await;
        let mut stream = answer.context("cannot list the revocations")?.into_inner();
        let (mut items, mut counts) = (Vec::new(), Vec::new());
        while let Some(answer) = stream.message().await.context("cannot list the revocations")? {
            let item = answer.item.context("the node answered without a revocation")?;
            items.push(Proven::from_proto(item).context("the node's revocation")?);
            counts.push(answer.counts);
        }
        if let Some(out) = &self.out {
            durable::write(out, &write_revocations(&items)?, existing)?;
            output.note(output.fill(Text::RevocationsWritten, &[&out.display(), &items.len()]));
        }
        let read = |proven: &Proven| {
            let statement = header::decode(&proven.revocation.payload)?;
            let revocation = decode_body(&statement.body)?;
            Ok((revocation, statement.header.source, statement.header.time_unix_ms))
        };
        let read: Result<Vec<_>, header::Malformed> = items.iter().map(read).collect();
        let read = read.context("the node's revocation")?;
        let shown = read.iter().zip(counts).map(|((revocation, by, time_unix_ms), counts)| Shown {
            revocation,
            by,
            time_unix_ms: *time_unix_ms,
            counts,
            remark: "",
        });
        let shown: Vec<Shown<'_>> = shown.collect();
        if output.is_json() {
            let listed: Vec<Value> = shown.iter().map(Shown::json).collect();
            let document = json!({ "unit": unit, "revocations": listed, "file": self.out });
            return Ok(output.document(&document)?);
        }
        Ok(output.table(&table(output, &shown), Text::NoRevocations)?)
    }
}
