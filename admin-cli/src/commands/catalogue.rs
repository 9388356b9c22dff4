//! `lianxi catalogue`: judge one, preview what it would do, publish it, show what is in force.

mod diff;
mod lint;
mod preview;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::Subcommand;
use lianxi_node::domain::{catalogue::Catalogue, unit::UnitCode};
use lianxi_proto::local::v1::{
    PublishCatalogueRequest, PublishCatalogueResponse, ShowCatalogueRequest,
};
use serde_json::{Value, json};

use super::Context;
use crate::{
    client::Client,
    failure::Failure,
    output::Output,
    table::Table,
    texts::{Lang, Text},
    values,
};

/// What to do with the catalogue.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Check a catalogue, and tell what in it is hardly meant; asks no node
    Lint(lint::Lint),
    /// Show what a catalogue changes of the one in force, or of another file
    Diff(diff::Diff),
    /// Sign a catalogue and send it to the whole subtree
    Publish(Publish),
    /// Show what a catalogue would do to the children, publish nothing
    Preview(preview::Preview),
    /// Show the catalogue in force
    Show(Show),
    /// Print a catalogue that ships with this program, to begin from; asks no node
    Shipped(Shipped),
}

/// Arguments of `lianxi catalogue publish`.
#[derive(Debug, clap::Args)]
pub(crate) struct Publish {
    /// The catalogue, JSON
    file: PathBuf,
    /// Unit that publishes [default: the one that the host is for]
    #[arg(long)]
    unit: Option<UnitCode>,
    /// Check only, publish nothing
    #[arg(long)]
    dry_run: bool,
}

/// Arguments of `lianxi catalogue show`.
#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    /// Unit [default: the one that the host is for]
    #[arg(long)]
    unit: Option<UnitCode>,
}

/// Arguments of `lianxi catalogue shipped`.
#[derive(Debug, clap::Args)]
pub(crate) struct Shipped {
    /// Which one
    #[arg(value_enum, default_value_t = Which::Default)]
    which: Which,
}

/// Catalogues that ship with this program.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Which {
    /// What a joint meeting asks for, in Chinese and English
    Default,
    /// The service requests of Boston, which the demo has
    Boston,
}

impl Verb {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        match self {
            Self::Lint(lint) => lint.run(context),
            Self::Diff(diff) => diff.run(context).await,
            Self::Publish(publish) => publish.run(context).await,
            Self::Preview(preview) => preview.run(context).await,
            Self::Show(show) => show.run(context).await,
            Self::Shipped(shipped) => shipped.run(context),
        }
    }
}

/// A catalogue of a file.
struct Read {
    catalogue: Catalogue,
    bytes: usize,
}

fn read(file: &Path) -> anyhow::Result<Read> {
    let place = file.display();
    let document = fs::read(file).with_context(|| format!("cannot read {place}"))?;
    let catalogue =
        Catalogue::parse(&document).map_err(|error| Failure::Usage(format!("{place}: {error}")))?;
    Ok(Read { catalogue, bytes: document.len() })
}

impl Publish {
    async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let file = self.file.display();
        let document = fs::read(&self.file).with_context(|| format!("cannot read {file}"))?;
        let client = context.client().await?;
        let unit = context.unit(&client, self.unit).await?;
        let published = publish(&client, &unit, document, self.dry_run)
            .await
            .with_context(|| format!("cannot publish {file}"))?;
        let output = context.output();
        let PublishCatalogueResponse { name, version, children, statement_id } = &published;
        if output.is_json() {
            let document = json!({
                "unit": unit,
                "name": name,
                "version": version,
                "children": children,
                "dry_run": self.dry_run,
                "statement_id": values::id(statement_id),
            });
            return Ok(output.document(&document)?);
        }
        output.note(if self.dry_run {
            output.fill(Text::CatalogueGood, &[name, version])
        } else {
            output.fill(Text::CataloguePublished, &[name, version, children])
        });
        Ok(())
    }
}

/// Publishes `document` as `unit`.
///
/// # Errors
///
/// What the node says.
pub(crate) async fn publish(
    client: &Client,
    unit: &str,
    document: Vec<u8>,
    dry_run: bool,
) -> Result<PublishCatalogueResponse, tonic::Status> {
    let request = PublishCatalogueRequest { unit: unit.to_owned(), document, dry_run };
    Ok(client.catalogues().publish(request).await?.into_inner())
}

impl Show {
    async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let client = context.client().await?;
        let unit = context.unit(&client, self.unit).await?;
        let request = ShowCatalogueRequest { unit };
        let answer = client.catalogues().show(request).await;
        let shown = answer.context("cannot show the catalogue")?.into_inner();
        let document: Value = serde_json::from_slice(&shown.document)
            .context("the node answered with a catalogue that is no JSON")?;
        let output = context.output();
        if output.is_json() {
            let document = json!({
                "name": shown.name,
                "version": shown.version,
                "source": shown.source,
                "document": document,
            });
            return Ok(output.document(&document)?);
        }
        let catalogue = format!("{}@{}", shown.name, shown.version);
        output.facts([(Text::Catalogue, catalogue), (Text::Source, shown.source)])?;
        Ok(output.table(&table(output, &document), Text::NoIndicators)?)
    }
}

impl Shipped {
    fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let document = match self.which {
            Which::Default => include_str!("../../../deploy/catalogues/default.json"),
            Which::Boston => include_str!("../../../deploy/catalogues/boston.json"),
        };
        // As it is, with and without --json: it is a file to begin from.
        let output = context.output();
        Ok(document.lines().try_for_each(|line| output.line(line))?)
    }
}

fn table(output: &Output, document: &Value) -> Table {
    let mut table = Table::new()
        .text(output.text(Text::Indicator))
        .text(output.text(Text::Title))
        .text(output.text(Text::Measure));
    for indicator in indicators(document) {
        let heading = heading_of(indicator, output.lang());
        table.row([id_of(indicator), &heading, measure_of(indicator)]);
    }
    table
}

/// Indicators of a catalogue's document, as far as they can be read.
pub(crate) fn indicators(document: &Value) -> &[Value] {
    document.get("indicators").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Id of an indicator.
pub(crate) fn id_of(indicator: &Value) -> &str {
    indicator.get("id").and_then(Value::as_str).unwrap_or_default()
}

/// What people call an indicator; its id if it says nothing.
pub(crate) fn title_of(indicator: &Value, lang: Lang) -> &str {
    let keys: &[&str] = match lang {
        Lang::En => &["title", "id"],
        Lang::Zh => &["title_zh", "title", "id"],
    };
    let title = keys.iter().find_map(|key| indicator.get(key).and_then(Value::as_str));
    title.unwrap_or_default()
}

/// What people call an indicator, with its unit if it has one.
pub(crate) fn heading_of(indicator: &Value, lang: Lang) -> String {
    let title = title_of(indicator, lang);
    match indicator.get("unit").and_then(Value::as_str) {
        // `1` is UCUM for a plain number.
        None | Some("" | "1") => title.to_owned(),
        Some(unit) => format!("{title} ({unit})"),
    }
}

/// Name of a measure: a word, or the one key of a table.
fn measure_of(indicator: &Value) -> &str {
    match indicator.get("measure") {
        Some(Value::String(name)) => name,
        Some(Value::Object(parts)) => parts.keys().next().map_or("", String::as_str),
        Some(_) | None => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_come_in_the_language_asked_for() {
        let document = json!({ "indicators": [
            { "id": "received", "title": "Received", "title_zh": "受理" },
            { "id": "open", "unit": "1", "measure": "count" },
            { "id": "time", "unit": "s", "title": "Time", "measure": { "sum": { "value": "x" } } },
        ]});
        let indicators = indicators(&document);
        assert_eq!(title_of(&indicators[0], Lang::Zh), "受理");
        assert_eq!(title_of(&indicators[0], Lang::En), "Received");
        assert_eq!(title_of(&indicators[1], Lang::Zh), "open");
        assert_eq!(heading_of(&indicators[1], Lang::En), "open");
        assert_eq!(heading_of(&indicators[2], Lang::En), "Time (s)");
        let measures: Vec<&str> = indicators.iter().map(measure_of).collect();
        assert_eq!(measures, ["", "count", "sum"]);
    }

    #[test]
    fn a_document_of_another_shape_shows_no_indicators() {
        assert!(indicators(&json!([])).is_empty());
        assert!(indicators(&json!({ "indicators": 3 })).is_empty());
    }
}
