//! `lianxi node preview`: which children a new program here would cut off.

use anyhow::Context as _;
use lianxi_node::domain::{
    preview::{Outlook, Protocols},
    unit::UnitCode,
};
use lianxi_proto::admin::v1::{ChildOutlook, PreviewRequest};
use serde_json::{Value, json};

use super::super::Context;
use crate::{failure::Failure, output::Output, table::Table, texts::Text, values, words};

/// Arguments of `lianxi node preview`.
///
/// Without `--protocol`, run the `lianxi` of the new package before that is installed: it asks for
/// what it speaks itself.
#[derive(Debug, clap::Args)]
pub(crate) struct Preview {
    /// Unit whose children are looked at [default: the one that the host is for]
    #[arg(long)]
    unit: Option<UnitCode>,
    /// Lowest protocol version that the new program speaks [default: what this program speaks]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    protocol: Option<u32>,
}

impl Preview {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let client = context.client().await?;
        let unit = context.unit(&client, self.unit).await?;
        let from = |lowest| Protocols { lowest, highest: u32::MAX };
        let Protocols { lowest, highest } = self.protocol.map_or(Protocols::OWN, from);
        let request = PreviewRequest {
            unit: unit.clone(),
            protocol_lowest: lowest,
            protocol_highest: highest,
        };
        let answer = client.node().preview(request).await;
        let children = answer.context("cannot preview the change")?.into_inner().children;
        let output = context.output();
        if output.is_json() {
            let children: Vec<Value> = children.iter().map(child_json).collect();
            output.document(&json!({
                "unit": unit,
                "protocol_lowest": lowest,
                "protocol_highest": self.protocol.map_or(Some(highest), |_| None),
                "children": children,
            }))?;
        } else {
            output.table(&table(output, &children), Text::NoChildren)?;
        }
        verdict(children.iter().map(|child| child.outlook.as_str()))
    }
}

/// The end of a preview: a failure unless every child goes on.
pub(crate) fn verdict<'a>(outlooks: impl Iterator<Item = &'a str>) -> anyhow::Result<()> {
    let (mut broken, mut unknown) = (0, 0);
    for outlook in outlooks {
        if outlook == Outlook::Breaks.as_str() {
            broken += 1;
        } else if outlook != Outlook::Fine.as_str() {
            unknown += 1;
        }
    }
    match (broken, unknown) {
        (0, 0) => Ok(()),
        (broken, unknown) => Err(Failure::WouldBreak { broken, unknown }.into()),
    }
}

fn child_json(child: &ChildOutlook) -> Value {
    json!({
        "unit": child.unit,
        "title": child.title,
        "linked": child.linked,
        "same_host": child.same_host,
        "software": child.software,
        "protocol_lowest": child.protocol_lowest,
        "protocol_highest": child.protocol_highest,
        "catalogue_format": child.catalogue_format,
        "greeted_unix_ms": child.greeted_unix_ms,
        "outlook": child.outlook,
    })
}

fn table(output: &Output, children: &[ChildOutlook]) -> Table {
    let mut table = Table::new()
        .text(output.text(Text::Unit))
        .text(output.text(Text::Title))
        .text(output.text(Text::Link))
        .text(output.text(Text::Software))
        .number(output.text(Text::ProtocolVersions))
        .number(output.text(Text::CatalogueFormat))
        .text(output.text(Text::LastHello))
        .text(output.text(Text::Outlook));
    for child in children {
        let link = output.text(if child.linked { Text::LinkUp } else { Text::LinkDown });
        table.row([
            &child.unit,
            &child.title,
            link,
            &software(output, &child.software),
            &range(child.protocol_lowest, child.protocol_highest),
            &format(child.catalogue_format),
            &values::time(child.greeted_unix_ms),
            words::outlook(&child.outlook).shown(output.lang()),
        ]);
    }
    table
}

/// Name of a program for tables.
pub(crate) fn software(output: &Output, software: &str) -> String {
    if software.is_empty() { output.text(Text::Unknown).to_owned() } else { software.to_owned() }
}

/// Format of a document for tables; empty: unknown.
pub(crate) fn format(format: u32) -> String {
    if format == 0 { String::new() } else { format.to_string() }
}

fn range(lowest: u32, highest: u32) -> String {
    match (lowest, highest) {
        (_, 0) => String::new(),
        (lowest, highest) if lowest == highest => highest.to_string(),
        (lowest, highest) => format!("{lowest}–{highest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{exit, exit_code};

    #[test]
    fn only_a_preview_in_which_every_child_goes_on_ends_well() {
        let code = |outlooks: &[&str]| {
            verdict(outlooks.iter().copied()).map_or_else(|error| exit_code(&error), |()| 0)
        };
        assert_eq!(code(&[]), 0);
        assert_eq!(code(&["fine", "fine"]), 0);
        assert_eq!(code(&["fine", "breaks"]), exit::WOULD_BREAK);
        assert_eq!(code(&["fine", "unknown"]), exit::WOULD_BREAK);
        // A word of a later node is not taken for good.
        assert_eq!(code(&["splendid"]), exit::WOULD_BREAK);
    }

    #[test]
    fn versions_are_shown_as_one_number_or_a_range() {
        assert_eq!(range(1, 1), "1");
        assert_eq!(range(1, 3), "1–3");
        assert_eq!(range(0, 0), "");
    }
}
