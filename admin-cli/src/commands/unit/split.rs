//! `lianxi unit split`: parts of a unit are its sibling's, from a day on.

use std::time::Duration;

use anyhow::Context as _;
use lianxi_node::{domain::unit::UnitCode, statement::header::StatementId};
use lianxi_proto::admin::v1::{Reform, SplitRequest};
use serde_json::json;
use tokio::time::Instant;

use super::{
    super::Context,
    reforms::{print, reform_json},
    reparent::answered,
};
use crate::{client::Client, failure::Failure, texts::Text, values::Span};

/// Arguments of `lianxi unit split`.
///
/// Given at a unit above both, once the new unit has joined as a sibling of the old one. On the day
/// the named children come under the new unit with everything below them, and it acts on the named
/// open items, whose clocks run on. Everything else stays: records, accounts, desks, history. With
/// `--dry-run` and nothing named, it shows what there is to name.
#[derive(Debug, clap::Args)]
pub(crate) struct Split {
    /// Unit that is divided
    dividing: UnitCode,
    /// Its sibling, of the same level under the same parent, which has the parts from then on
    #[arg(long, value_name = "CODE")]
    into: UnitCode,
    /// A child of the unit that goes; can be given up to 24 times
    #[arg(long, value_name = "CODE")]
    child: Vec<UnitCode>,
    /// An open notice or whistle of the unit that goes, by number or id; up to 32 times
    #[arg(long, value_name = "NUMBER")]
    item: Vec<String>,
    /// First day of the new order, e.g. 2026-12-01; the period of that day is the sibling's
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

impl Split {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let (client, output) = (context.client().await?, context.output());
        let wait = Duration::from_millis(self.deadline.as_short_ms().into());
        let mut request = SplitRequest {
            unit: context.unit(&client, self.unit).await?,
            dividing: self.dividing.to_string(),
            into: self.into.to_string(),
            on: self.on,
            text: self.text,
            dry_run: self.dry_run,
            children: self.child.iter().map(ToString::to_string).collect(),
            items: Vec::new(),
        };
        request.items = items(&client, &request, &self.item, wait).await?;
        let reform = ordered(&client, request, wait).await?;
        if output.is_json() {
            let mut document = reform_json(&reform);
            document["dry_run"] = json!(self.dry_run);
            return Ok(output.document(&document)?);
        }
        print(output, &reform)?;
        let text = if self.dry_run { Text::WouldSplit } else { Text::SplitOrdered };
        let (children, items) = (reform.children.len(), reform.items.len());
        let values: [&dyn std::fmt::Display; 5] =
            [&reform.moving, &reform.to, &reform.on, &children, &items];
        output.note(output.fill(text, &values));
        Ok(())
    }
}

async fn ordered(client: &Client, request: SplitRequest, wait: Duration) -> anyhow::Result<Reform> {
    let unit = request.unit.clone();
    let answer = client.reforms().split(request).await.context("cannot order this")?;
    let reform = answer.into_inner().reform.context("the node answered without the reform")?;
    answered(client, unit, reform, Instant::now() + wait).await
}

/// Ids of the items; for those that are given by number, the unit that has them is asked.
async fn items(
    client: &Client,
    request: &SplitRequest,
    given: &[String],
    wait: Duration,
) -> anyhow::Result<Vec<Vec<u8>>> {
    let ids: Option<Vec<StatementId>> = given.iter().map(|one| one.parse().ok()).collect();
    if let Some(ids) = ids {
        return Ok(ids.iter().map(|id| id.as_bytes().to_vec()).collect());
    }
    let question = SplitRequest { dry_run: true, ..request.clone() };
    let asked = ordered(client, question, wait).await?;
    let open = asked.answers.into_iter().find(|answer| answer.unit == request.dividing);
    let open = open.map(|answer| answer.open).unwrap_or_default();
    let mut items = Vec::new();
    for one in given {
        if let Ok(id) = one.parse::<StatementId>() {
            items.push(id.as_bytes().to_vec());
            continue;
        }
        let mut found = open.iter().filter(|item| item.number == *one && !item.id.is_empty());
        match (found.next(), found.next()) {
            (Some(item), None) => items.push(item.id.clone()),
            (Some(_), Some(_)) => {
                let detail = format!("{one} is the number of several open items; give the id");
                return Err(Failure::Usage(detail).into());
            }
            (None, _) => {
                let unit = &request.dividing;
                let detail = format!(
                    "{unit} names no open item {one}; see what it has with --dry-run, or give the id"
                );
                return Err(Failure::Usage(detail).into());
            }
        }
    }
    Ok(items)
}
