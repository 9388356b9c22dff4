//! `lianxi node renew` and `lianxi node recover`: certificates before and after their end.

use anyhow::Context as _;
use lianxi_node::domain::unit::UnitCode;
use lianxi_proto::admin::v1::{ChildRecovery, RecoverRequest, RenewRequest, UnitStatus};
use serde_json::{Value, json};

use super::super::{Context, status};
use crate::{client::Client, failure::Failure, output::Output, table::Table, texts::Text, values};

/// Arguments of `lianxi node renew`.
#[derive(Debug, clap::Args)]
pub(crate) struct Renew {
    /// Unit of this host [default: all of them]
    #[arg(long)]
    unit: Option<UnitCode>,
    /// Show when the certificates end, change nothing
    #[arg(long)]
    dry_run: bool,
}

impl Renew {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let client = context.client().await?;
        let units = match self.unit {
            Some(unit) => vec![unit.to_string()],
            None => parents_first(status(&client).await?.units),
        };
        let mut rows = Vec::new();
        let mut failed = 0;
        for unit in units {
            let row = renew(&client, unit, self.dry_run).await;
            failed += usize::from(row.reason.is_some());
            rows.push(row);
        }
        show(context.output(), &rows, self.dry_run)?;
        if failed > 0 {
            return Err(Failure::NotRenewed(failed).into());
        }
        Ok(())
    }
}

/// Parents first: a child of this host asks its parent with the parent's new certificate.
fn parents_first(mut units: Vec<UnitStatus>) -> Vec<String> {
    units.sort_by_key(|unit| unit.level);
    units.into_iter().map(|unit| unit.unit).collect()
}

/// What became of one unit.
struct Renewed {
    unit: String,
    before: i64,
    ends: i64,
    delegation: i64,
    reason: Option<String>,
}

async fn renew(client: &Client, unit: String, dry_run: bool) -> Renewed {
    let answer = client.node().renew(RenewRequest { unit: unit.clone(), dry_run }).await;
    match answer.map(tonic::Response::into_inner) {
        Ok(renewed) => Renewed {
            unit,
            before: renewed.certificate_ended_unix_ms,
            ends: renewed.certificate_ends_unix_ms,
            delegation: renewed.delegation_ends_unix_ms,
            reason: None,
        },
        Err(status) => {
            let reason = Some(status.message().to_owned());
            Renewed { unit, before: 0, ends: 0, delegation: 0, reason }
        }
    }
}

fn show(output: &Output, rows: &[Renewed], dry_run: bool) -> anyhow::Result<()> {
    if output.is_json() {
        let units: Vec<Value> = rows
            .iter()
            .map(|row| {
                json!({
                    "unit": row.unit,
                    "certificate_ended_unix_ms": row.before,
                    "certificate_ends_unix_ms": row.ends,
                    "delegation_ends_unix_ms": row.delegation,
                    "reason": row.reason,
                })
            })
            .collect();
        return Ok(output.document(&json!({ "units": units, "dry_run": dry_run }))?);
    }
    let mut table = Table::new()
        .text(output.text(Text::Unit))
        .text(output.text(Text::CertificateEnded))
        .text(output.text(Text::CertificateEnds))
        .text(output.text(Text::DelegationEnds))
        .text(output.text(Text::Reason));
    for row in rows {
        let time = |time: i64| if time == 0 { String::new() } else { values::time(time) };
        let reason = row.reason.clone().unwrap_or_default();
        table.row([
            row.unit.clone(),
            time(row.before),
            time(row.ends),
            time(row.delegation),
            reason,
        ]);
    }
    Ok(output.table(&table, Text::NoUnits)?)
}

/// Arguments of `lianxi node recover`.
///
/// Without --approve it lists the children that recovered, or were refused.
#[derive(Debug, clap::Args)]
pub(crate) struct Recover {
    /// Child that is past its budget and to be let in once, within seven days
    #[arg(long, value_name = "CHILD")]
    approve: Option<UnitCode>,
    /// Parent, a unit of this host [default: the one that the host is for]
    #[arg(long)]
    unit: Option<UnitCode>,
    /// Check, approve nothing
    #[arg(long, requires = "approve")]
    dry_run: bool,
}

impl Recover {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let (client, output) = (context.client().await?, context.output());
        let unit = context.unit(&client, self.unit).await?;
        let Some(child) = self.approve else { return list(output, &client, &unit).await };
        let (child, dry_run) = (child.to_string(), self.dry_run);
        let request = RecoverRequest { unit, child: child.clone(), dry_run };
        let answer = client.node().recover(request).await.context("cannot approve")?;
        let until = answer.into_inner().approved_until_unix_ms;
        if output.is_json() {
            let document =
                json!({ "child": child, "approved_until_unix_ms": until, "dry_run": dry_run });
            return Ok(output.document(&document)?);
        }
        let text = if dry_run { Text::RecoveryWouldWork } else { Text::RecoveryApproved };
        output.note(output.fill(text, &[&child, &values::time(until)]));
        Ok(())
    }
}

async fn list(output: &Output, client: &Client, unit: &str) -> anyhow::Result<()> {
    let units = status(client).await?.units;
    let found = units.into_iter().find(|status| status.unit == unit);
    let recoveries = found.map(|status| status.recoveries).unwrap_or_default();
    if output.is_json() {
        let children: Vec<Value> = recoveries.iter().map(recovery_json).collect();
        return Ok(output.document(&json!({ "unit": unit, "children": children }))?);
    }
    Ok(output.table(&recoveries_table(output, &recoveries), Text::NoRecoveries)?)
}

/// A recovery in JSON.
pub(super) fn recovery_json(recovery: &ChildRecovery) -> Value {
    json!({
        "child": recovery.child,
        "certificate_ends_unix_ms": recovery.certificate_ends_unix_ms,
        "recent": recovery.recent,
        "allowed": recovery.allowed,
        "recovered_unix_ms": recovery.recovered_unix_ms,
        "refused": recovery.refused,
        "refused_unix_ms": recovery.refused_unix_ms,
        "approved_until_unix_ms": recovery.approved_until_unix_ms,
    })
}

/// Recoveries as a table.
pub(super) fn recoveries_table(output: &Output, recoveries: &[ChildRecovery]) -> Table {
    let mut table = Table::new()
        .text(output.text(Text::Recovered))
        .text(output.text(Text::LastTime))
        .number(output.text(Text::InThirtyDays))
        .number(output.text(Text::RefusedCount))
        .text(output.text(Text::ApprovedUntil));
    for recovery in recoveries {
        let time = |time: i64| if time == 0 { String::new() } else { values::time(time) };
        table.row([
            recovery.child.clone(),
            time(recovery.recovered_unix_ms),
            format!("{}/{}", recovery.recent, recovery.allowed),
            recovery.refused.to_string(),
            time(recovery.approved_until_unix_ms),
        ]);
    }
    table
}
