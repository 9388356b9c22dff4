//! `lianxi node leave`: a unit leaves the tree, or its parent lets it go.

use std::time::Duration;

use anyhow::Context as _;
use lianxi_node::domain::unit::UnitCode;
use lianxi_proto::admin::v1::{LeaveRequest, LeaveResponse, LeaveState};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::super::Context;
use crate::{failure::Failure, output::Output, table::Table, texts::Text, values::Span};

/// Time between two looks at how far it is.
const LOOK: Duration = Duration::from_millis(300);

/// Arguments of `lianxi node leave`.
///
/// The unit sends what waits, announces its leaving, and waits for the end that its parent signs.
/// What it said before stays verifiable. Cut off, the same command goes on.
#[derive(Debug, clap::Args)]
pub(crate) struct Leave {
    /// At the parent: child that is gone and cannot say so itself
    #[arg(long)]
    child: Option<UnitCode>,
    /// Unit of this host that leaves, or whose child is gone [default: the one that the host is for]
    #[arg(long)]
    unit: Option<UnitCode>,
    /// A sentence for people
    #[arg(long, default_value = "")]
    text: String,
    /// How long to wait for the parent, e.g. 60s
    #[arg(long, value_name = "TIME", default_value = "60s")]
    deadline: Span,
    /// List open notices and escalations, and what waits to be sent; change nothing
    #[arg(long)]
    dry_run: bool,
}

impl Leave {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let (client, output) = (context.client().await?, context.output());
        let request = LeaveRequest {
            unit: context.unit(&client, self.unit).await?,
            child: self.child.map(|child| child.to_string()).unwrap_or_default(),
            text: self.text,
            dry_run: self.dry_run,
        };
        let until = Instant::now() + Duration::from_millis(self.deadline.as_short_ms().into());
        loop {
            let answer = client.node().leave(request.clone()).await.context("cannot leave")?;
            let left = answer.into_inner();
            if self.dry_run || left.state() == LeaveState::Left {
                return show(output, &left, self.dry_run);
            }
            if Instant::now() >= until {
                show(output, &left, self.dry_run)?;
                return Err(Failure::NotLeft(left.parent).into());
            }
            output.progress(output.fill(Text::LeaveWaits, &[&left.unsent, &left.parent]));
            sleep(LOOK).await;
        }
    }
}

fn show(output: &Output, left: &LeaveResponse, dry_run: bool) -> anyhow::Result<()> {
    if output.is_json() {
        let open: Vec<Value> = left
            .open
            .iter()
            .map(|item| json!({ "kind": item.kind, "number": item.number, "party": item.party }))
            .collect();
        let state = match left.state() {
            LeaveState::Draining => "draining",
            LeaveState::Announced => "announced",
            LeaveState::Left => "left",
            LeaveState::Unspecified => "unknown",
        };
        return Ok(output.document(&json!({
            "unit": left.unit,
            "parent": left.parent,
            "state": state,
            "unsent": left.unsent,
            "open": open,
            "dry_run": dry_run,
        }))?);
    }
    if !left.open.is_empty() {
        let mut table = Table::new()
            .text(output.text(Text::Kind))
            .text(output.text(Text::Number))
            .text(output.text(Text::Peer));
        for item in &left.open {
            table.row([&item.kind, &item.number, &item.party]);
        }
        output.table(&table, Text::NoUnits)?;
    }
    let text = match left.state() {
        LeaveState::Left => Text::HasLeft,
        LeaveState::Draining | LeaveState::Announced | LeaveState::Unspecified => Text::WouldLeave,
    };
    output.note(output.fill(text, &[&left.unit, &left.parent, &left.unsent, &left.open.len()]));
    Ok(())
}
