//! `lianxi desk`: departments inside a unit.

use anyhow::Context as _;
use clap::Subcommand;
use lianxi_node::domain::unit::{DeskId, UnitCode};
use lianxi_proto::admin::v1::AddDeskRequest;
use serde_json::json;

use super::Context;
use crate::texts::Text;

/// What to do with desks.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Add a desk with keys of its own, signed by its unit
    Add(Add),
}

/// Arguments of `lianxi desk add`.
#[derive(Debug, clap::Args)]
pub(crate) struct Add {
    /// Id of the desk within its unit, e.g. INSPECTION
    desk: DeskId,
    /// What people call it
    #[arg(long)]
    title: String,
    /// Its line of business, e.g. fire, housing
    #[arg(long)]
    line: String,
    /// Unit of the desk [default: the one that the host is for]
    #[arg(long)]
    unit: Option<UnitCode>,
}

impl Verb {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        match self {
            Self::Add(add) => add.run(context).await,
        }
    }
}

impl Add {
    async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let client = context.client().await?;
        let unit = context.unit(&client, self.unit).await?;
        let (desk, title, line) = (self.desk.to_string(), self.title, self.line);
        let request = AddDeskRequest { unit, desk, title, line };
        let answer = client.node().add_desk(request).await.context("cannot add the desk")?;
        let desk = answer.into_inner().desk.context("the node answered without the desk")?;
        let output = context.output();
        if output.is_json() {
            let document = json!({
                "unit": desk.unit,
                "desk": desk.desk,
                "title": desk.title,
                "line": desk.line,
            });
            return Ok(output.document(&document)?);
        }
        output.note(output.fill(Text::DeskAdded, &[&desk.desk, &desk.unit]));
        Ok(())
    }
}
