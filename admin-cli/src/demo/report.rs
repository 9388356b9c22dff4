//! What the demo shows in the end: one JSON document, or a table for a joint meeting.
//!
//! Everything in it is an answer of a node; nothing is calculated from the rows.

use std::time::Duration;

use lianxi_proto::{
    local::v1::{EscalationState, NoticeState, UnitFigures},
    types::v1::{Level, ReceiptStage, Scope},
};
use serde_json::{Value, json};

use super::{pack::Files, work::Imported};
use crate::{
    commands::{escalation, notice, record, summary},
    figures::{self, Figure, Totals},
    output::Output,
    table::Table,
    texts::Text,
    values, words,
};

/// Counts that the meeting's table shows, by indicator.
const SHOWN: [&str; 4] = ["received", "closed", "open", "overdue"];

/// Numerator and denominator of the rate that the meeting's table shows.
const ON_TIME: (&str, &str) = ("closed_within_target", "with_target");

/// What happened.
#[derive(Debug)]
pub(crate) struct Report {
    /// Unit that pulled.
    pub(crate) root: String,
    /// Period of the pull.
    pub(crate) period: String,
    /// Months that the rows belong to.
    pub(crate) months: Vec<String>,
    /// The pull's answers, the highest level first.
    pub(crate) units: Vec<UnitFigures>,
    /// Headings of indicators by id.
    pub(crate) columns: Vec<(String, String)>,
    /// What the hosts said of the files.
    pub(crate) imports: Vec<Imported>,
    /// The notice with its receipts, as the city sees it.
    pub(crate) notice: NoticeState,
    /// The whistle, as the district sees it.
    pub(crate) escalation: EscalationState,
    /// Everything that was reported, as a file.
    pub(crate) pack: Files,
    /// Processes of the federation.
    pub(crate) processes: usize,
    /// From the start to the last answer.
    pub(crate) elapsed: Duration,
}

impl Report {
    /// True if every unit is in the city's figures.
    pub(crate) fn is_complete(&self) -> anyhow::Result<bool> {
        match self.units.iter().find(|answer| answer.unit == self.root) {
            Some(root) => Ok(figures::is_complete(figures::coverage(root)?)),
            None => Ok(false),
        }
    }

    /// The document of `--json`; `docs/demo.md` describes it.
    ///
    /// # Errors
    ///
    /// An answer is malformed.
    pub(crate) fn json(&self) -> anyhow::Result<Value> {
        let units = self.units.iter().map(unit_json).collect::<anyhow::Result<Vec<_>>>()?;
        let imports: Vec<Value> = self.imports.iter().map(import_json).collect();
        Ok(json!({
            "version": env!("CARGO_PKG_VERSION"),
            "period": self.period,
            "months": self.months,
            "units": units,
            "imports": imports,
            "notice": notice_json(&self.notice),
            "escalation": escalation::state_json(&self.escalation),
            "pack": {
                "file": self.pack.pack,
                "root_key": self.pack.root,
                "statements": self.pack.statements,
            },
            "processes": self.processes,
            "elapsed_ms": u64::try_from(self.elapsed.as_millis()).unwrap_or(u64::MAX),
        }))
    }

    /// Prints the meeting's table, the notice and the whistle.
    ///
    /// # Errors
    ///
    /// An answer is malformed, or standard output cannot be written.
    pub(crate) fn print(&self, output: &Output) -> anyhow::Result<()> {
        let root = self.units.iter().find(|answer| answer.unit == self.root);
        let title = root.map_or(self.root.as_str(), |root| root.title.as_str());
        output.line(output.fill(Text::DemoHeading, &[&title, &self.period]))?;
        output.line("")?;
        output.table(&self.table(output)?, Text::NoFigures)?;
        if let Some(root) = root {
            summary::print_missing(output, figures::coverage(root)?)?;
        }
        output.line("")?;
        output.line(self.notice_line(output))?;
        output.line(self.whistle_line(output))?;
        Ok(())
    }

    fn table(&self, output: &Output) -> anyhow::Result<Table> {
        let mut table = Table::new()
            .text(output.text(Text::Unit))
            .text(output.text(Text::Title))
            .number(output.text(Text::Coverage));
        for id in SHOWN {
            let heading = self.columns.iter().find(|column| column.0 == id);
            table = table.number(heading.map_or(id, |heading| heading.1.as_str()));
        }
        let mut table = table.number(output.text(Text::DemoOnTime));
        for answer in &self.units {
            if !matches!(answer.level(), Level::City | Level::District) {
                continue;
            }
            let coverage = figures::coverage(answer)?;
            let incomplete = !figures::is_complete(coverage);
            let totals = figures::totals(&answer.cells, Scope::Subtree)?;
            let mut row = vec![
                answer.unit.clone(),
                answer.title.clone(),
                format!("{}/{}", coverage.included, coverage.expected),
            ];
            row.extend(SHOWN.map(|id| summary::shown(totals.get(id), coverage, incomplete)));
            row.push(on_time(&totals, incomplete));
            table.row(row);
        }
        Ok(table)
    }

    fn notice_line(&self, output: &Output) -> String {
        let notice = self.notice.notice.clone().unwrap_or_default();
        let counted = notice::stages_json(&self.notice.recipients);
        let stages: Vec<String> = words::STAGES
            .iter()
            .map(|stage| words::stage((*stage).into()))
            .filter(|word| counted[word.json] != 0)
            .map(|word| format!("{} {}", counted[word.json], word.shown(output.lang())))
            .collect();
        let values: [&dyn std::fmt::Display; 4] =
            [&notice.number, &notice.title, &self.notice.recipients.len(), &stages.join(", ")];
        output.fill(Text::DemoNoticeLine, &values)
    }

    fn whistle_line(&self, output: &Output) -> String {
        let state = &self.escalation;
        let desk = state.escalation.as_ref().map_or("", |whistle| whistle.lead_desk.as_str());
        let values: [&dyn std::fmt::Display; 6] = [
            &escalation::number(state),
            &state.source,
            &desk,
            &state.destination,
            &words::step(state.state).shown(output.lang()),
            &words::lamp(&state.lamp, output.lang()),
        ];
        output.fill(Text::DemoWhistleLine, &values)
    }
}

fn on_time(totals: &Totals, incomplete: bool) -> String {
    match (totals.get(ON_TIME.0), totals.get(ON_TIME.1)) {
        (Some(Figure::Count(numerator)), Some(Figure::Count(denominator))) => {
            figures::rate(*numerator, *denominator, incomplete)
        }
        _ => "–".to_owned(),
    }
}

fn unit_json(answer: &UnitFigures) -> anyhow::Result<Value> {
    let totals = |scope| -> anyhow::Result<Value> {
        Ok(figures::totals_json(&figures::totals(&answer.cells, scope)?, Figure::flat))
    };
    Ok(json!({
        "unit": answer.unit,
        "level": words::level(answer.level).json,
        "parent": answer.parent,
        "title": answer.title,
        "coverage": figures::coverage_json(figures::coverage(answer)?),
        "own": totals(Scope::Own)?,
        "subtree": totals(Scope::Subtree)?,
    }))
}

fn import_json(import: &Imported) -> Value {
    let mut document = record::report_json(&import.report);
    document["file"] = json!(import.file);
    document["host"] = json!(import.host);
    document
}

fn notice_json(state: &NoticeState) -> Value {
    let notice = state.notice.clone().unwrap_or_default();
    let receipts = state
        .recipients
        .iter()
        .filter(|recipient| recipient.stage() != ReceiptStage::Unspecified)
        .count();
    json!({
        "notice_id": values::id(&state.notice_id),
        "number": notice.number,
        "title": notice.title,
        "issuer": state.issuer,
        "destination": state.destination,
        "level": words::level(notice.level).json,
        "due_unix_ms": notice.due_unix_ms,
        "issued_to": state.recipients.len(),
        "receipts": receipts,
        "stages": notice::stages_json(&state.recipients),
    })
}

#[cfg(test)]
mod tests {
    use lianxi_proto::{
        local::v1::Recipient,
        types::v1::{
            Cell, Component, Coverage, Escalation, EscalationStep, ExtremeComponent, Notice,
            SumComponent, Summary, component::Value as WireValue,
        },
    };

    use super::*;
    use crate::texts::Lang;

    fn cell(indicator: &str, scope: Scope, value: WireValue) -> Cell {
        Cell {
            indicator: indicator.to_owned(),
            indicator_version: 1,
            scope: scope.into(),
            component: Some(Component { value: Some(value) }),
            ..Cell::default()
        }
    }

    fn answer(unit: &str, level: Level, included: u32) -> UnitFigures {
        let coverage = Coverage { expected: 2, included, ..Coverage::default() };
        let sum = SumComponent { sum_milli: 90_061_000_i128.to_be_bytes().to_vec(), terms: 2 };
        let extreme = ExtremeComponent { min_milli: Some(61_000), max_milli: Some(90_000_000) };
        UnitFigures {
            unit: unit.to_owned(),
            title: format!("Title of {unit}"),
            level: level.into(),
            summary: Some(Summary { coverage: Some(coverage), ..Summary::default() }),
            cells: vec![
                cell("received", Scope::Own, WireValue::Count(1)),
                cell("received", Scope::Subtree, WireValue::Count(3)),
                cell("with_target", Scope::Subtree, WireValue::Count(2)),
                cell("closed_within_target", Scope::Subtree, WireValue::Count(1)),
                cell("close_seconds", Scope::Subtree, WireValue::Sum(sum)),
                cell("longest_close_seconds", Scope::Subtree, WireValue::Extreme(extreme)),
            ],
            ..UnitFigures::default()
        }
    }

    fn report(included: u32) -> Report {
        let recipient =
            |stage: ReceiptStage| Recipient { stage: stage.into(), ..Recipient::default() };
        Report {
            root: "C".to_owned(),
            period: "2011-07".to_owned(),
            months: vec!["2011-07".to_owned()],
            units: vec![answer("C", Level::City, included), answer("A", Level::Community, 2)],
            columns: vec![("received".to_owned(), "Received".to_owned())],
            imports: vec![],
            notice: NoticeState {
                notice: Some(Notice { number: "N".to_owned(), ..Notice::default() }),
                recipients: vec![
                    recipient(ReceiptStage::Validated),
                    recipient(ReceiptStage::Unspecified),
                ],
                ..NoticeState::default()
            },
            escalation: EscalationState {
                escalation: Some(Escalation { number: "W".to_owned(), ..Escalation::default() }),
                state: EscalationStep::Closed.into(),
                lamp: "done".to_owned(),
                ..EscalationState::default()
            },
            pack: Files { pack: "pack.lianxi".into(), root: "root.pub".into(), statements: 2 },
            processes: 2,
            elapsed: Duration::from_millis(1_500),
        }
    }

    #[test]
    fn the_document_has_the_promised_shape() {
        let document = report(2).json().unwrap();
        let unit = &document["units"][0];
        assert_eq!(unit["unit"], "C");
        assert_eq!(unit["level"], "city");
        assert_eq!(unit["parent"], "");
        assert_eq!(unit["coverage"]["expected"], 2);
        assert_eq!(unit["coverage"]["included"], 2);
        assert_eq!(unit["own"], json!({ "received": 1 }));
        assert_eq!(unit["subtree"]["received"], 3);
        assert_eq!(unit["subtree"]["close_seconds"].as_u64(), Some(90_061));
        assert_eq!(unit["subtree"]["longest_close_seconds"].as_u64(), Some(90_000));
        assert_eq!(document["notice"]["issued_to"], 2);
        assert_eq!(document["notice"]["receipts"], 1);
        assert_eq!(document["escalation"]["state"], "closed");
        assert_eq!(document["elapsed_ms"], 1_500);
    }

    #[test]
    fn the_table_shows_city_and_districts_with_their_coverage() {
        let output = Output::new(false, Lang::En);
        let table = report(2).table(&output).unwrap().render();
        assert!(table.contains("C     Title of C       2/2         3"), "{table}");
        assert!(table.contains("50.0 %\n"), "{table}");
        assert!(!table.contains("Title of A"));
        let incomplete = report(1);
        assert!(incomplete.table(&output).unwrap().render().contains("50.0 %*"));
        assert!(!incomplete.is_complete().unwrap());
    }

    #[test]
    fn stages_without_a_recipient_are_left_out() {
        let output = Output::new(false, Lang::Zh);
        assert_eq!(report(2).notice_line(&output), "任务 N《》下达 2 个单位：1 无回执, 1 已校验");
    }
}
