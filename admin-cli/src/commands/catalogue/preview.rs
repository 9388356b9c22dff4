//! `lianxi catalogue preview`: what a new catalogue would do to the children.

use std::{fs, path::PathBuf};

use anyhow::Context as _;
use lianxi_node::domain::{preview::Outlook, unit::UnitCode};
use lianxi_proto::local::v1::{
    ChildUnderCatalogue, PreviewCatalogueRequest, PreviewCatalogueResponse,
};
use serde_json::{Value, json};

use super::super::{Context, node::preview};
use crate::{output::Output, table::Table, texts::Text, words};

/// Arguments of `lianxi catalogue preview`.
#[derive(Debug, clap::Args)]
pub(crate) struct Preview {
    /// The catalogue, JSON
    file: PathBuf,
    /// Unit that would publish it [default: the one that the host is for]
    #[arg(long)]
    unit: Option<UnitCode>,
}

impl Preview {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let file = self.file.display();
        let document = fs::read(&self.file).with_context(|| format!("cannot read {file}"))?;
        let client = context.client().await?;
        let unit = context.unit(&client, self.unit).await?;
        let request = PreviewCatalogueRequest { unit: unit.clone(), document };
        let answer = client.catalogues().preview(request).await;
        let previewed = answer.with_context(|| format!("cannot preview {file}"))?.into_inner();
        let PreviewCatalogueResponse { name, version, format, children } = previewed;
        let output = context.output();
        if output.is_json() {
            let children: Vec<Value> = children.iter().map(child_json).collect();
            output.document(&json!({
                "unit": unit,
                "name": name,
                "version": version,
                "format": format,
                "children": children,
            }))?;
        } else {
            output.facts([
                (Text::Catalogue, format!("{name}@{version}")),
                (Text::CatalogueFormat, format.to_string()),
            ])?;
            output.table(&table(output, &children), Text::NoChildren)?;
        }
        preview::verdict(children.iter().map(outlook))
    }
}

/// A series that ends is a break too, whatever the child's program reads.
fn outlook(child: &ChildUnderCatalogue) -> &str {
    let goes_on = child.removed.is_empty() && child.changed.is_empty();
    if goes_on { &child.outlook } else { Outlook::Breaks.as_str() }
}

fn child_json(child: &ChildUnderCatalogue) -> Value {
    json!({
        "unit": child.unit,
        "title": child.title,
        "software": child.software,
        "catalogue_format": child.catalogue_format,
        "document": child.outlook,
        "period": child.period,
        "removed": child.removed,
        "changed": child.changed,
        "behind": child.behind,
        "outlook": outlook(child),
    })
}

fn table(output: &Output, children: &[ChildUnderCatalogue]) -> Table {
    let mut table = Table::new()
        .text(output.text(Text::Unit))
        .text(output.text(Text::Title))
        .text(output.text(Text::Software))
        .number(output.text(Text::CatalogueFormat))
        .text(output.text(Text::LastReport))
        .text(output.text(Text::SeriesEnd))
        .text(output.text(Text::SeriesBeginAnew))
        .text(output.text(Text::AwaitsCatalogue))
        .text(output.text(Text::Outlook));
    for child in children {
        table.row([
            &child.unit,
            &child.title,
            &preview::software(output, &child.software),
            &preview::format(child.catalogue_format),
            &child.period,
            &child.removed.join(", "),
            &child.changed.join(", "),
            output.text(if child.behind { Text::Yes } else { Text::No }),
            words::outlook(outlook(child)).shown(output.lang()),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_that_ends_or_begins_anew_is_a_break() {
        let child = |removed: &[&str], changed: &[&str]| ChildUnderCatalogue {
            outlook: "fine".to_owned(),
            removed: removed.iter().map(ToString::to_string).collect(),
            changed: changed.iter().map(ToString::to_string).collect(),
            ..ChildUnderCatalogue::default()
        };
        assert_eq!(outlook(&child(&[], &[])), "fine");
        assert_eq!(outlook(&child(&["open"], &[])), "breaks");
        assert_eq!(outlook(&child(&[], &["open"])), "breaks");
        let unheard = ChildUnderCatalogue { outlook: "unknown".to_owned(), ..child(&[], &[]) };
        assert_eq!(outlook(&unheard), "unknown");
    }
}
