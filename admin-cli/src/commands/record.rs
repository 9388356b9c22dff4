//! `lianxi record`: records, which never leave the node.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Subcommand;
use lianxi_node::domain::unit::UnitCode;
use lianxi_proto::local::v1::{
    CountRequest, ImportOptions, ImportReport, ListRequest, Record, RowError, UnitCount,
};
use serde_json::{Value, json};

use super::{
    Context,
    import::{self, Event, Rows},
};
use crate::{failure::Failure, output::Output, table::Table, texts::Text, values};

/// Bad rows that a table shows; with `--json` there are all.
const SHOWN_ROW_ERRORS: usize = 100;

/// What to do with records.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Import the rows of a CSV file; safe to repeat
    Import(Import),
    /// List records of a unit in the order of their keys
    List(List),
    /// Count the records of each unit of the host
    Count(Count),
}

/// Arguments of `lianxi record import`.
#[derive(Debug, clap::Args)]
pub(crate) struct Import {
    /// CSV file, gzip or not; `-` for standard input
    file: PathBuf,
    /// Mapping of columns to fields; its look-up tables lie beside it
    #[arg(long, value_name = "FILE")]
    mapping: PathBuf,
    /// Keep nothing if one row is bad
    #[arg(long)]
    all_or_nothing: bool,
    /// Check everything, keep nothing
    #[arg(long)]
    dry_run: bool,
}

/// Arguments of `lianxi record list`.
#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// Record type of the catalogue
    #[arg(long = "type", value_name = "TYPE")]
    record_type: String,
    /// Unit [default: the one that the host is for]
    #[arg(long)]
    unit: Option<UnitCode>,
    /// Key of the last record of the page before
    #[arg(long, default_value = "")]
    after: String,
    /// Records on the page, at most 1000
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
}

/// Arguments of `lianxi record count`.
#[derive(Debug, clap::Args)]
pub(crate) struct Count {}

impl Verb {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        match self {
            Self::Import(import) => import.run(context).await,
            Self::List(list) => list.run(context).await,
            Self::Count(count) => count.run(context).await,
        }
    }
}

impl Import {
    async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let options = ImportOptions {
            mapping: import::mapping(&self.mapping)?.to_json(),
            all_or_nothing: self.all_or_nothing,
            dry_run: self.dry_run,
            file_name: self.file.display().to_string(),
        };
        let is_stdin = self.file.as_os_str() == "-";
        let rows = if is_stdin { Rows::Stdin } else { Rows::File(self.file) };
        let output = context.output();
        let size = rows.size().map_or_else(|| "?".to_owned(), values::size);
        let client = context.client().await?;
        let mut bad = BadRows::new(if output.is_json() { usize::MAX } else { SHOWN_ROW_ERRORS });
        let report = import::import(&client, options, &rows, |event| match event {
            Event::Progress { progress, sent_bytes } => {
                let sent = values::size(sent_bytes);
                output.progress(output.fill(Text::ImportProgress, &[&progress.rows, &sent, &size]));
            }
            Event::RowError(error) => bad.take(error),
        });
        let report = report.await?;
        print_report(output, &report, &bad)?;
        // The rows that are good stand, but a script has to learn that some are not.
        if report.rejected > 0 {
            Err(Failure::RejectedRows(report.rejected).into())
        } else {
            Ok(())
        }
    }
}

/// Bad rows as they come in; the first `limit` are kept.
struct BadRows {
    limit: usize,
    kept: Vec<RowError>,
    more: u64,
}

impl BadRows {
    fn new(limit: usize) -> Self {
        Self { limit, kept: Vec::new(), more: 0 }
    }

    fn take(&mut self, error: RowError) {
        if self.kept.len() < self.limit {
            self.kept.push(error);
        } else {
            self.more += 1;
        }
    }
}

fn print_report(output: &Output, report: &ImportReport, bad: &BadRows) -> anyhow::Result<()> {
    if output.is_json() {
        let errors: Vec<Value> = bad.kept.iter().map(row_error_json).collect();
        let mut document = report_json(report);
        document["row_errors"] = Value::Array(errors);
        return Ok(output.document(&document)?);
    }
    if !bad.kept.is_empty() {
        output.table(&row_error_table(output, &bad.kept), Text::NoRecords)?;
    }
    if bad.more > 0 {
        output.line(output.fill(Text::MoreRowErrors, &[&bad.more]))?;
    }
    let mut table = Table::new();
    for heading in [
        Text::Rows,
        Text::Imported,
        Text::Updated,
        Text::Unchanged,
        Text::Elsewhere,
        Text::Rejected,
    ] {
        table = table.number(output.text(heading));
    }
    let mut table = table.text(output.text(Text::Months));
    let numbers = [
        report.rows,
        report.imported,
        report.updated,
        report.unchanged,
        report.elsewhere,
        report.rejected,
    ];
    table.row(numbers.iter().map(u64::to_string).chain([report.periods.join(" ")]));
    output.table(&table, Text::NoRecords)?;
    if report.kept_nothing {
        output.note(output.text(Text::KeptNothing));
    }
    Ok(())
}

/// The report of an import in JSON.
pub(crate) fn report_json(report: &ImportReport) -> Value {
    json!({
        "import_id": report.import_id,
        "rows": report.rows,
        "imported": report.imported,
        "updated": report.updated,
        "unchanged": report.unchanged,
        "elsewhere": report.elsewhere,
        "rejected": report.rejected,
        "kept_nothing": report.kept_nothing,
        "periods": report.periods,
    })
}

fn row_error_json(error: &RowError) -> Value {
    json!({
        "line": error.line,
        "column": error.column,
        "record_path": error.record_path,
        "schema_path": error.schema_path,
        "reason": error.reason,
    })
}

fn row_error_table(output: &Output, errors: &[RowError]) -> Table {
    let mut table = Table::new()
        .number(output.text(Text::FileLine))
        .text(output.text(Text::Column))
        .text(output.text(Text::RecordPath))
        .text(output.text(Text::SchemaPath))
        .text(output.text(Text::Reason));
    for error in errors {
        let line = error.line.to_string();
        table.row([&line, &error.column, &error.record_path, &error.schema_path, &error.reason]);
    }
    table
}

impl List {
    async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let client = context.client().await?;
        let request = ListRequest {
            unit: context.unit(&client, self.unit).await?,
            record_type: self.record_type,
            after: self.after,
            limit: self.limit,
        };
        let answer = client.records().list(request).await.context("cannot list records")?;
        let records = answer.into_inner().records;
        let output = context.output();
        if output.is_json() {
            let records = records.iter().map(record_json).collect::<anyhow::Result<Vec<_>>>()?;
            return Ok(output.document(&json!({ "records": records }))?);
        }
        let mut table = Table::new().text(output.text(Text::Key)).text(output.text(Text::Document));
        for record in &records {
            table.row([record.key.as_str(), &String::from_utf8_lossy(&record.document)]);
        }
        output.table(&table, Text::NoRecords)?;
        let is_full = u32::try_from(records.len()) == Ok(self.limit);
        if let Some(last) = records.last().filter(|_| is_full) {
            output.note(output.fill(Text::MorePages, &[&last.key]));
        }
        Ok(())
    }
}

fn record_json(record: &Record) -> anyhow::Result<Value> {
    let document: Value = serde_json::from_slice(&record.document)
        .context("the node answered with a record that is no JSON")?;
    Ok(json!({ "key": record.key, "document": document }))
}

impl Count {
    async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let client = context.client().await?;
        let answer = client.records().count(CountRequest {}).await;
        let units = answer.context("cannot count records")?.into_inner().units;
        let output = context.output();
        if output.is_json() {
            let units: Vec<Value> = units.iter().map(count_json).collect();
            return Ok(output.document(&json!({ "units": units }))?);
        }
        let mut table = Table::new()
            .text(output.text(Text::Unit))
            .number(output.text(Text::Records))
            .number(output.text(Text::Bytes))
            .number(output.text(Text::Quota));
        for unit in &units {
            let quota =
                if unit.quota_bytes == 0 { String::new() } else { values::size(unit.quota_bytes) };
            table.row([&unit.unit, &unit.records.to_string(), &values::size(unit.bytes), &quota]);
        }
        Ok(output.table(&table, Text::NoUnits)?)
    }
}

fn count_json(unit: &UnitCount) -> Value {
    json!({
        "unit": unit.unit,
        "records": unit.records,
        "bytes": unit.bytes,
        "quota_bytes": unit.quota_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_rows_beyond_the_limit_are_counted() {
        let mut bad = BadRows::new(2);
        for line in 1..=5 {
            bad.take(RowError { line, ..RowError::default() });
        }
        assert_eq!(bad.kept.iter().map(|error| error.line).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(bad.more, 3);
    }

    #[test]
    fn a_report_says_everything_in_json() {
        let report = ImportReport {
            import_id: "7".to_owned(),
            rows: 6,
            imported: 1,
            updated: 1,
            unchanged: 1,
            elsewhere: 2,
            rejected: 1,
            kept_nothing: false,
            periods: vec!["2011-07".to_owned()],
        };
        let document = report_json(&report);
        assert_eq!(document["elsewhere"], 2);
        assert_eq!(document["periods"], json!(["2011-07"]));
    }
}
