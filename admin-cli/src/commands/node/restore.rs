//! `lianxi node restore` and `lianxi node epochs`: numbers begin anew after a store was brought back.

use anyhow::Context as _;
use lianxi_node::domain::unit::UnitCode;
use lianxi_proto::admin::v1::{Epoch, EpochsRequest, OpenEpochRequest};
use serde_json::{Value, json};

use super::super::Context;
use crate::{output::Output, table::Table, texts::Text, values};

/// Arguments of `lianxi node restore`.
///
/// Run it once on a host whose store came from a backup or a snapshot.
#[derive(Debug, clap::Args)]
pub(crate) struct Restore {
    /// Unit of this host [default: all of them, because all were brought back]
    #[arg(long)]
    unit: Option<UnitCode>,
    /// Who approves it: two people, the option once for each. Accounts approve where there are any
    #[arg(long, value_name = "NAME")]
    approved_by: Vec<String>,
    /// A sentence for people
    #[arg(long, default_value = "")]
    text: String,
    /// Say what is lost and would be withdrawn, change nothing
    #[arg(long)]
    dry_run: bool,
}

impl Restore {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let client = context.client().await?;
        let request = OpenEpochRequest {
            units: self.unit.iter().map(ToString::to_string).collect(),
            text: self.text,
            approved_by: self.approved_by,
            dry_run: self.dry_run,
        };
        let answer = client.node().open_epoch(request).await.context("cannot open an epoch")?;
        let epochs = answer.into_inner().epochs;
        let output = context.output();
        if output.is_json() {
            let epochs: Vec<Value> = epochs.iter().map(epoch_json).collect();
            return Ok(output.document(&json!({ "epochs": epochs, "dry_run": self.dry_run }))?);
        }
        for epoch in &epochs {
            let text = if self.dry_run { Text::EpochWouldOpen } else { Text::EpochOpened };
            output.note(output.fill(text, &[&epoch.unit, &epoch.epoch]));
        }
        show(output, &epochs)
    }
}

/// Arguments of `lianxi node epochs`.
#[derive(Debug, clap::Args)]
pub(crate) struct Epochs {
    /// Unit of this host [default: the one that the host is for]
    #[arg(long)]
    unit: Option<UnitCode>,
}

impl Epochs {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let client = context.client().await?;
        let unit = context.unit(&client, self.unit).await?;
        let answer = client.node().epochs(EpochsRequest { unit: unit.clone() }).await;
        let epochs = answer.context("cannot list the epochs")?.into_inner().epochs;
        let output = context.output();
        if output.is_json() {
            let epochs: Vec<Value> = epochs.iter().map(epoch_json).collect();
            return Ok(output.document(&json!({ "unit": unit, "epochs": epochs }))?);
        }
        show(output, &epochs)
    }
}

fn epoch_json(epoch: &Epoch) -> Value {
    json!({
        "unit": epoch.unit,
        "epoch": epoch.epoch,
        "reason": epoch.reason,
        "approvers": epoch.approvers,
        "text": epoch.text,
        "opened_unix_ms": epoch.opened_unix_ms,
        "seen_by": epoch.seen_by,
        "lost_after": { "epoch": epoch.lost_after_epoch, "seq": epoch.lost_after_seq },
        "lost_to": { "epoch": epoch.lost_to_epoch, "seq": epoch.lost_to_seq },
        "lost_statements": epoch.lost_statements,
        "lost_leaves_from": epoch.lost_leaves_from,
        "lost_leaves_to": epoch.lost_leaves_to,
        "lost_after_unix_ms": epoch.lost_after_unix_ms,
        "lost_until_unix_ms": epoch.lost_until_unix_ms,
        "withdrawn": epoch.withdrawn,
        "returned": epoch.returned,
        "sent_again": epoch.sent_again,
        "not_kept": epoch.not_kept,
    })
}

fn show(output: &Output, epochs: &[Epoch]) -> anyhow::Result<()> {
    let mut table = Table::new()
        .text(output.text(Text::Unit))
        .number(output.text(Text::Epoch))
        .text(output.text(Text::Reason))
        .text(output.text(Text::ApprovedBy))
        .number(output.text(Text::LostStatements))
        .number(output.text(Text::Returned))
        .number(output.text(Text::LostLeaves));
    for epoch in epochs {
        table.row([
            epoch.unit.clone(),
            epoch.epoch.to_string(),
            epoch.reason.clone(),
            epoch.approvers.join(", "),
            epoch.lost_statements.to_string(),
            epoch.returned.to_string(),
            epoch.lost_leaves_to.saturating_sub(epoch.lost_leaves_from).to_string(),
        ]);
    }
    output.table(&table, Text::NoEpochs)?;
    for epoch in epochs.iter().filter(|epoch| epoch.unit == epoch.seen_by) {
        let leaves = epoch.lost_leaves_to.saturating_sub(epoch.lost_leaves_from);
        if leaves > 0 {
            let time = |time: i64| if time == 0 { "?".to_owned() } else { values::time(time) };
            let (after, until) = (time(epoch.lost_after_unix_ms), time(epoch.lost_until_unix_ms));
            output.note(output.fill(Text::EnterAgain, &[&epoch.unit, &leaves, &after, &until]));
        }
        for statement in &epoch.withdrawn {
            output.note(output.fill(Text::WithdrawnStatement, &[&epoch.unit, statement]));
        }
    }
    Ok(())
}
