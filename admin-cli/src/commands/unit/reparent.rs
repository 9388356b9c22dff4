//! `lianxi unit reparent`: a unit comes under another parent, from a day on.

use std::time::Duration;

use anyhow::Context as _;
use lianxi_node::domain::unit::UnitCode;
use lianxi_proto::admin::v1::{ListReformsRequest, Reform, ReparentRequest};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{
    super::Context,
    reforms::{print, reform_json},
};
use crate::{client::Client, texts::Text, values::Span};

/// Time between two looks at who has answered.
const LOOK: Duration = Duration::from_millis(300);

/// Arguments of `lianxi unit reparent`.
///
/// Given at a unit above the unit and both parents. The unit keeps its code, keys, records, journal
/// and open items; its node dials the new parent by itself on the day.
#[derive(Debug, clap::Args)]
pub(crate) struct Reparent {
    /// Unit that moves, with everything below it
    moving: UnitCode,
    /// Its new parent
    #[arg(long, value_name = "CODE")]
    under: UnitCode,
    /// First day there, e.g. 2026-12-01; a period belongs to the parent of its last day
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

impl Reparent {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let (client, output) = (context.client().await?, context.output());
        let request = ReparentRequest {
            unit: context.unit(&client, self.unit).await?,
            moving: self.moving.to_string(),
            to: self.under.to_string(),
            on: self.on,
            text: self.text,
            dry_run: self.dry_run,
        };
        let unit = request.unit.clone();
        let answer = client.reforms().reparent(request).await.context("cannot order this")?;
        let reform = answer.into_inner().reform.context("the node answered without the reform")?;
        let wait = Duration::from_millis(self.deadline.as_short_ms().into());
        let reform = answered(&client, unit, reform, Instant::now() + wait).await?;
        if output.is_json() {
            let mut document = reform_json(&reform);
            document["dry_run"] = json!(self.dry_run);
            return Ok(output.document(&document)?);
        }
        print(output, &reform)?;
        let text = if self.dry_run { Text::WouldReparent } else { Text::Reparented };
        output.note(output.fill(text, &[&reform.moving, &reform.from, &reform.to, &reform.on]));
        Ok(())
    }
}

/// The reform once all have answered, or as it is when the time is over.
pub(super) async fn answered(
    client: &Client,
    unit: String,
    mut reform: Reform,
    until: Instant,
) -> anyhow::Result<Reform> {
    while !reform.silent.is_empty() && Instant::now() < until {
        sleep(LOOK).await;
        let request = ListReformsRequest { unit: unit.clone(), id: reform.id.clone() };
        let answer = client.reforms().list(request).await.context("cannot ask who answered")?;
        if let Some(newer) = answer.into_inner().reforms.pop() {
            reform = newer;
        }
    }
    Ok(reform)
}
