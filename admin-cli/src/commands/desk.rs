//! `lianxi desk`: departments inside a unit.

use anyhow::Context as _;
use clap::Subcommand;
use lianxi_node::domain::unit::{DeskId, UnitCode};
use lianxi_proto::admin::v1::{AddDeskRequest, CloseDeskRequest};
use serde_json::{Value, json};

use super::Context;
use crate::texts::Text;

/// What to do with desks.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Add a desk with keys of its own, signed by its unit
    Add(Add),
    /// Close a desk on a day, or merge it into another: what it has open goes to that (工作交接)
    #[command(visible_alias = "merge")]
    Close(Close),
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
            Self::Close(close) => close.run(context).await,
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

/// Arguments of `lianxi desk close`.
#[derive(Debug, clap::Args)]
pub(crate) struct Close {
    /// Desk that is closed
    desk: DeskId,
    /// Desk of the same unit that takes over
    #[arg(long, value_name = "DESK", visible_alias = "into")]
    successor: DeskId,
    /// First day without it, e.g. 2026-12-01; today: at once
    #[arg(long, value_name = "DATE")]
    on: String,
    /// Unit of the desk [default: the one that the host is for]
    #[arg(long)]
    unit: Option<UnitCode>,
    /// A sentence for people
    #[arg(long, default_value = "")]
    text: String,
    /// Show what would be handed over, change nothing
    #[arg(long)]
    dry_run: bool,
}

impl Close {
    async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let (client, output) = (context.client().await?, context.output());
        let (desk, successor) = (self.desk.to_string(), self.successor.to_string());
        let request = CloseDeskRequest {
            unit: context.unit(&client, self.unit).await?,
            desk: desk.clone(),
            successor: successor.clone(),
            on: self.on.clone(),
            text: self.text,
            dry_run: self.dry_run,
        };
        let unit = request.unit.clone();
        let answer = client.node().close_desk(request).await.context("cannot close the desk")?;
        let closing = answer.into_inner();
        if output.is_json() {
            let open = closing.open.iter();
            let open: Vec<Value> = open
                .map(
                    |item| json!({ "kind": item.kind, "number": item.number, "party": item.party }),
                )
                .collect();
            return Ok(output.document(&json!({
                "unit": unit,
                "desk": desk,
                "successor": successor,
                "on": self.on,
                "open": open,
                "clocks": closing.clocks,
                "closed": closing.closed,
                "dry_run": self.dry_run,
            }))?);
        }
        for item in &closing.open {
            output.line(format!("{} {} ({}) → {successor}", item.kind, item.number, item.party))?;
        }
        let text = match (self.dry_run, closing.closed) {
            (true, _) => Text::DeskWouldClose,
            (false, true) => Text::DeskClosed,
            (false, false) => Text::DeskClosesOn,
        };
        output.note(output.fill(text, &[&desk, &successor, &self.on, &closing.open.len()]));
        Ok(())
    }
}
