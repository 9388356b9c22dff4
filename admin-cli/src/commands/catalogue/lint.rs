//! `lianxi catalogue lint`: whether a document is a catalogue, and what in it is hardly meant. Asks
//! no node.

use std::path::PathBuf;

use lianxi_node::domain::catalogue::lint::doubts;
use serde_json::{Value, json};

use super::{super::Context, Read};
use crate::{failure::Failure, table::Table, texts::Text, words};

/// Arguments of `lianxi catalogue lint`.
#[derive(Debug, clap::Args)]
pub(crate) struct Lint {
    /// The catalogue, JSON
    file: PathBuf,
}

impl Lint {
    /// Runs the command.
    pub(crate) fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let Read { catalogue, bytes } = super::read(&self.file)?;
        let doubts = doubts(&catalogue, bytes);
        let output = context.output();
        if output.is_json() {
            let doubts: Vec<Value> = doubts
                .iter()
                .map(|(place, doubt)| json!({ "place": place, "doubt": doubt.as_str() }))
                .collect();
            output.document(&json!({
                "catalogue": catalogue.label(),
                "bytes": bytes,
                "record_types": catalogue.record_types.len(),
                "indicators": catalogue.indicators.len(),
                "doubts": doubts,
            }))?;
        } else {
            output.facts([
                (Text::Catalogue, catalogue.label()),
                (Text::RecordTypes, catalogue.record_types.len().to_string()),
                (Text::Indicators, catalogue.indicators.len().to_string()),
            ])?;
            let mut table =
                Table::new().text(output.text(Text::Place)).text(output.text(Text::Doubt));
            for (place, doubt) in &doubts {
                table.row([place.as_str(), output.text(words::doubt(*doubt))]);
            }
            output.table(&table, Text::NoDoubts)?;
        }
        if doubts.is_empty() { Ok(()) } else { Err(Failure::Doubts(doubts.len()).into()) }
    }
}
