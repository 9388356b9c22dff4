//! `lianxi catalogue diff`: what one catalogue changes of another.

use std::path::PathBuf;

use anyhow::Context as _;
use lianxi_node::domain::{
    catalogue::{
        Catalogue,
        changes::{self, Change},
    },
    unit::UnitCode,
};
use lianxi_proto::local::v1::ShowCatalogueRequest;
use serde_json::{Value, json};

use super::super::Context;
use crate::{failure::Failure, output::Output, table::Table, texts::Text, words};

/// Arguments of `lianxi catalogue diff`.
#[derive(Debug, clap::Args)]
pub(crate) struct Diff {
    /// The catalogue, JSON
    file: PathBuf,
    /// The one before it, JSON [default: the one in force at the unit]
    #[arg(long, value_name = "FILE")]
    before: Option<PathBuf>,
    /// Unit whose catalogue in force is the one before [default: the one that the host is for]
    #[arg(long, conflicts_with = "before")]
    unit: Option<UnitCode>,
}

impl Diff {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let after = super::read(&self.file)?.catalogue;
        let before = match &self.before {
            Some(before) => super::read(before)?.catalogue,
            None => in_force(context, self.unit).await?,
        };
        let changes = changes::between(&before, &after);
        let output = context.output();
        if output.is_json() {
            let changes: Vec<Value> = changes.iter().map(change_json).collect();
            output.document(&json!({
                "before": before.label(),
                "after": after.label(),
                "changes": changes,
            }))?;
        } else {
            output.facts([
                (Text::CatalogueBefore, before.label()),
                (Text::CatalogueAfter, after.label()),
            ])?;
            output.table(&table(output, &changes), Text::NoChanges)?;
        }
        match changes.iter().filter(|change| change.effect.is_refused()).count() {
            0 => Ok(()),
            refused => Err(Failure::MayNotFollow(refused).into()),
        }
    }
}

async fn in_force(context: &Context<'_>, unit: Option<UnitCode>) -> anyhow::Result<Catalogue> {
    let client = context.client().await?;
    let unit = context.unit(&client, unit).await?;
    let answer = client.catalogues().show(ShowCatalogueRequest { unit }).await;
    let shown = answer.context("cannot show the catalogue in force")?.into_inner();
    Catalogue::parse(&shown.document).context("the catalogue in force is none to this program")
}

fn change_json(change: &Change) -> Value {
    json!({
        "place": change.place,
        "change": change.kind.as_str(),
        "effect": change.effect.as_str(),
        "refused": change.effect.is_refused(),
    })
}

fn table(output: &Output, changes: &[Change]) -> Table {
    let mut table = Table::new()
        .text(output.text(Text::Place))
        .text(output.text(Text::Change))
        .text(output.text(Text::Effect));
    for change in changes {
        table.row([
            change.place.as_str(),
            output.text(words::change(change.kind)),
            output.text(words::effect(change.effect)),
        ]);
    }
    table
}
