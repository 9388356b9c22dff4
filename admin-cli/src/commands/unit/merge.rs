//! `lianxi unit merge`: a unit ends in its sibling, from a day on.

use std::time::Duration;

use anyhow::Context as _;
use lianxi_node::domain::unit::UnitCode;
use lianxi_proto::admin::v1::MergeRequest;
use serde_json::json;
use tokio::time::Instant;

use super::{
    super::Context,
    reforms::{print, reform_json},
    reparent::answered,
};
use crate::{texts::Text, values::Span};

/// Arguments of `lianxi unit merge`.
///
/// Given at a unit above both. On the day the unit comes under its sibling, its children come under
/// that too, what is open with it is handed over, and it ends. Its records stay in its archive, and
/// what it reported goes on to count.
#[derive(Debug, clap::Args)]
pub(crate) struct Merge {
    /// Unit that ends
    merging: UnitCode,
    /// Its sibling, of the same level, which has everything from then on
    #[arg(long, value_name = "CODE")]
    into: UnitCode,
    /// First day without it, e.g. 2026-12-01; the period of that day is the sibling's
    #[arg(long, value_name = "DATE")]
    on: String,
    /// Unit of this host that gives the order [default: the one that the host is for]
    #[arg(long)]
    unit: Option<UnitCode>,
    /// A sentence for people
    #[arg(long, default_value = "")]
    text: String,
    /// How long to wait for the answers of the units concerned, e.g. 10s
    #[arg(long, value_name = "TIME", default_value = "10s")]
    deadline: Span,
    /// Ask what would be concerned; order nothing
    #[arg(long)]
    dry_run: bool,
}

impl Merge {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let (client, output) = (context.client().await?, context.output());
        let request = MergeRequest {
            unit: context.unit(&client, self.unit).await?,
            merging: self.merging.to_string(),
            into: self.into.to_string(),
            on: self.on,
            text: self.text,
            dry_run: self.dry_run,
        };
        let unit = request.unit.clone();
        let answer = client.reforms().merge(request).await.context("cannot order this")?;
        let reform = answer.into_inner().reform.context("the node answered without the reform")?;
        let wait = Duration::from_millis(self.deadline.as_short_ms().into());
        let reform = answered(&client, unit, reform, Instant::now() + wait).await?;
        if output.is_json() {
            let mut document = reform_json(&reform);
            document["dry_run"] = json!(self.dry_run);
            return Ok(output.document(&document)?);
        }
        print(output, &reform)?;
        let text = if self.dry_run { Text::WouldMerge } else { Text::Merged };
        output.note(output.fill(text, &[&reform.moving, &reform.to, &reform.on]));
        Ok(())
    }
}
