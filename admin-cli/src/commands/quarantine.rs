//! `lianxi quarantine`: statements that were refused, here or by a peer.

use anyhow::Context as _;
use clap::Subcommand;
use lianxi_node::domain::unit::UnitCode;
use lianxi_proto::admin::v1::{QuarantineRequest, QuarantinedStatement};
use serde_json::{Value, json};

use super::Context;
use crate::{output::Output, table::Table, texts::Text, values};

/// What to do with refused statements.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// List statements that the unit refused, and refusals that it got back
    List(List),
}

/// Arguments of `lianxi quarantine list`.
#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// Unit [default: the one that the host is for]
    #[arg(long)]
    unit: Option<UnitCode>,
}

impl Verb {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        match self {
            Self::List(list) => list.run(context).await,
        }
    }
}

impl List {
    async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let client = context.client().await?;
        let unit = context.unit(&client, self.unit).await?;
        let request = QuarantineRequest { unit: unit.clone() };
        let answer = client.node().quarantine(request).await;
        let statements =
            answer.context("cannot list the refused statements")?.into_inner().statements;
        let output = context.output();
        if output.is_json() {
            let statements: Vec<Value> = statements.iter().map(statement_json).collect();
            return Ok(output.document(&json!({ "unit": unit, "statements": statements }))?);
        }
        Ok(output.table(&table(output, &statements), Text::NoQuarantine)?)
    }
}

fn statement_json(statement: &QuarantinedStatement) -> Value {
    json!({
        "peer": statement.peer,
        "refused_here": statement.refused_here,
        "claimed_source": statement.claimed_source,
        "claimed_type": statement.claimed_type,
        "reason": statement.reason,
        "field": statement.field,
        "detail": statement.detail,
        "time_unix_ms": statement.time_unix_ms,
        "payload_sha256": hex::encode(&statement.payload_sha256),
    })
}

fn table(output: &Output, statements: &[QuarantinedStatement]) -> Table {
    let mut table = Table::new()
        .text(output.text(Text::Time))
        .text(output.text(Text::Peer))
        .text(output.text(Text::RefusedBy))
        .text(output.text(Text::ClaimedSource))
        .text(output.text(Text::ClaimedType))
        .text(output.text(Text::Reason))
        .text(output.text(Text::Field))
        .text(output.text(Text::Detail));
    for statement in statements {
        let refused_by =
            if statement.refused_here { Text::RefusedHere } else { Text::RefusedThere };
        table.row([
            &values::time(statement.time_unix_ms),
            &statement.peer,
            output.text(refused_by),
            &statement.claimed_source,
            &statement.claimed_type,
            &statement.reason,
            &statement.field,
            &statement.detail,
        ]);
    }
    table
}
