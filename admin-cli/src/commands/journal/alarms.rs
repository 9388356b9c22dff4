//! `lianxi journal alarms`: what does not go on in a neighbour's journal, and what two people found.

use anyhow::Context as _;
use lianxi_node::domain::unit::UnitCode;
use lianxi_proto::admin::v1::{
    AlarmsRequest, AlarmsResponse, HeldCheckpoint, JournalAlarm, SettleAlarmRequest,
};
use serde_json::{Value, json};

use super::super::Context;
use crate::{table::Table, texts::Text, values};

/// Arguments of `lianxi journal alarms`.
#[derive(Debug, clap::Args)]
pub(crate) struct Alarms {
    /// Unit [default: the one that the host is for]
    #[arg(long)]
    unit: Option<UnitCode>,
    /// Say of this alarm what was found; it stays listed
    #[arg(long, value_name = "ID", requires = "found")]
    settle: Option<String>,
    /// What was found, a sentence
    #[arg(long, value_name = "TEXT", requires = "settle")]
    found: Option<String>,
    /// Who stands for it: two people, the option once for each. Accounts do where there are any
    #[arg(long, value_name = "NAME", requires = "settle")]
    approved_by: Vec<String>,
    /// Settle nothing, only say what would be
    #[arg(long, requires = "settle")]
    dry_run: bool,
}

impl Alarms {
    /// Runs the command.
    pub(crate) async fn run(mut self, context: &Context<'_>) -> anyhow::Result<()> {
        match self.settle.take() {
            Some(id) => self.settle(id, context).await,
            None => self.list(context).await,
        }
    }

    async fn settle(self, id: String, context: &Context<'_>) -> anyhow::Result<()> {
        let client = context.client().await?;
        let unit = context.unit(&client, self.unit).await?;
        let request = SettleAlarmRequest {
            unit: unit.clone(),
            id: id.clone(),
            found: self.found.unwrap_or_default(),
            approved_by: self.approved_by,
            dry_run: self.dry_run,
        };
        let settled = client.journals().settle_alarm(request).await;
        let settled = settled.context("cannot settle the alarm")?.into_inner();
        let alarm = settled.alarm.unwrap_or_default();
        let output = context.output();
        if output.is_json() {
            let alarm = alarm_json(&alarm);
            let document = json!({ "unit": unit, "alarm": alarm, "dry_run": self.dry_run });
            return Ok(output.document(&document)?);
        }
        let text = if self.dry_run { Text::WouldSettleAlarm } else { Text::AlarmSettled };
        Ok(output.line(output.fill(text, &[&id, &alarm.approvers.join(", ")]))?)
    }

    async fn list(self, context: &Context<'_>) -> anyhow::Result<()> {
        let client = context.client().await?;
        let unit = context.unit(&client, self.unit).await?;
        let answer = client.journals().alarms(AlarmsRequest { unit: unit.clone() }).await;
        let known: AlarmsResponse = answer.context("cannot list the alarms")?.into_inner();
        let output = context.output();
        if output.is_json() {
            let alarms: Vec<Value> = known.alarms.iter().map(alarm_json).collect();
            let held: Vec<Value> = known.held.iter().map(held_json).collect();
            let document = json!({ "unit": unit, "alarms": alarms, "held": held });
            return Ok(output.document(&document)?);
        }
        let mut table = Table::new()
            .text(output.text(Text::Time))
            .text(output.text(Text::Unit))
            .text(output.text(Text::Reason))
            .text(output.text(Text::Witness))
            .text(output.text(Text::Id))
            .text(output.text(Text::Settled));
        for alarm in &known.alarms {
            let (approvers, found) = (alarm.approvers.join(", "), &alarm.found);
            let settled = match alarm.settled_unix_ms {
                0 => String::new(),
                time => format!("{} {approvers}: {found}", values::time(time)),
            };
            table.row([
                &values::time(alarm.time_unix_ms),
                &alarm.journal,
                &alarm.reason,
                &alarm.witness,
                &alarm.id,
                &settled,
            ]);
        }
        Ok(output.table(&table, Text::NoAlarms)?)
    }
}

fn alarm_json(alarm: &JournalAlarm) -> Value {
    json!({
        "id": alarm.id,
        "unit": alarm.unit,
        "journal": alarm.journal,
        "reason": alarm.reason,
        "witness": alarm.witness,
        "time_unix_ms": alarm.time_unix_ms,
        "held": alarm.held,
        "offered": alarm.offered,
        "settled_unix_ms": alarm.settled_unix_ms,
        "approvers": alarm.approvers,
        "found": alarm.found,
    })
}

fn held_json(held: &HeldCheckpoint) -> Value {
    json!({
        "unit": held.unit,
        "size": held.size,
        "time_unix_ms": held.time_unix_ms,
        "checkpoint": held.checkpoint,
        "others": held.others,
    })
}
