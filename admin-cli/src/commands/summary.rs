//! `lianxi summary`: publish, show and pull signed figures.

use std::collections::BTreeSet;

use anyhow::Context as _;
use clap::Subcommand;
use lianxi_node::domain::{catalogue::Catalogue, derived::Derived, period::Period, unit::UnitCode};
use lianxi_proto::{
    local::v1::{
        PublishSummaryRequest, PublishSummaryResponse, PublishedSummary, PullSummaryRequest,
        ShowCatalogueRequest, ShowSummaryRequest, UnitFigures,
    },
    types::v1::{Coverage, CoverageGap, Scope},
};
use serde_json::{Value, json};

use super::{Context, catalogue};
use crate::{
    client::Client,
    figures::{self, Figure},
    output::Output,
    table::Table,
    texts::{Lang, Text},
    values::{self, Span},
    words,
};

/// What to do with figures.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Compute, sign and send up the summaries of a period
    Publish(Publish),
    /// Show the newest reported summary that the unit holds
    Show(Show),
    /// Ask the tree under the unit for live figures, over the links
    Pull(Pull),
}

/// Arguments of `lianxi summary publish`.
#[derive(Debug, clap::Args)]
pub(crate) struct Publish {
    /// Period, e.g. 2011-07, 2011-Q3, 2011, 2011-07/2011-09
    #[arg(long)]
    period: Period,
    /// Unit to publish for; can be given more than once [default: all units of the host]
    #[arg(long)]
    unit: Vec<UnitCode>,
}

/// Arguments of `lianxi summary show`.
#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    /// Period, e.g. 2011-07
    #[arg(long)]
    period: Period,
    /// Unit that holds the summary [default: the one that the host is for]
    #[arg(long)]
    unit: Option<UnitCode>,
    /// Unit that the figures are of: the unit itself or a direct child [default: the unit]
    #[arg(long)]
    of: Option<UnitCode>,
}

/// Arguments of `lianxi summary pull`.
#[derive(Debug, clap::Args)]
pub(crate) struct Pull {
    /// Period, e.g. 2011-07, 2011-Q3, 2011, 2011-07/2011-09
    #[arg(long)]
    period: Period,
    /// Unit that asks [default: the one that the host is for]
    #[arg(long)]
    unit: Option<UnitCode>,
    /// Levels of descendants to list
    #[arg(long, default_value_t = 1)]
    depth: u32,
    /// When to stop waiting for answers; what is missing is named
    #[arg(long, value_name = "TIME", default_value = "10s")]
    deadline: Span,
    /// Oldest cached answer that is good enough
    #[arg(long, value_name = "TIME", default_value = "0s")]
    max_age: Span,
}

impl Verb {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        match self {
            Self::Publish(publish) => publish.run(context).await,
            Self::Show(show) => show.run(context).await,
            Self::Pull(pull) => pull.run(context).await,
        }
    }
}

impl Publish {
    async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let client = context.client().await?;
        let units = self.unit.iter().map(ToString::to_string).collect();
        let request = PublishSummaryRequest { units, period: self.period.to_string() };
        let answer = client.summaries().publish(request).await.context("cannot publish")?;
        let PublishSummaryResponse { published, unchanged } = answer.into_inner();
        let output = context.output();
        if output.is_json() {
            let published: Vec<Value> = published.iter().map(published_json).collect();
            let document = json!({ "published": published, "unchanged": unchanged });
            return Ok(output.document(&document)?);
        }
        let mut table = Table::new()
            .text(output.text(Text::Published))
            .number(output.text(Text::Version))
            .text(output.text(Text::Id));
        for summary in &published {
            let id = values::id(&summary.statement_id);
            table.row([&summary.unit, &summary.version.to_string(), &id]);
        }
        output.table(&table, Text::NothingNew)?;
        if !published.is_empty() && !unchanged.is_empty() {
            output.note(format!("{}: {}", output.text(Text::Unchanged), unchanged.join(" ")));
        }
        Ok(())
    }
}

fn published_json(summary: &PublishedSummary) -> Value {
    json!({
        "unit": summary.unit,
        "version": summary.version,
        "statement_id": values::id(&summary.statement_id),
    })
}

impl Show {
    async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let client = context.client().await?;
        let holder = context.unit(&client, self.unit).await?;
        let request = ShowSummaryRequest {
            unit: holder.clone(),
            of: self.of.map(String::from).unwrap_or_default(),
            period: self.period.to_string(),
        };
        let answer = client.summaries().show(request).await.context("cannot show the summary")?;
        let figures = answer.into_inner();
        let derived = derived_of(&document(&client, &holder).await);
        let output = context.output();
        if output.is_json() {
            return Ok(output.document(&unit_json(&figures, &derived)?)?);
        }
        print_unit(output, &figures, &derived)
    }
}

fn unit_json(figures: &UnitFigures, derived: &[Derived]) -> anyhow::Result<Value> {
    let mut document = figures::unit_json(figures)?;
    document["derived"] = figures::derived_json(derived, &figures.cells)?;
    Ok(document)
}

/// Prints one unit's figures: own beside subtree, groups below their totals.
fn print_unit(output: &Output, figures: &UnitFigures, derived: &[Derived]) -> anyhow::Result<()> {
    let (summary, coverage) = (figures::summary(figures)?, figures::coverage(figures)?);
    output.line(format!("{} {}", figures.unit, figures.title))?;
    let as_of = values::time(summary.as_of_unix_ms);
    output.facts([
        (Text::Period, summary.period.clone()),
        (Text::Version, summary.version.to_string()),
        (Text::AsOf, as_of),
        (Text::Coverage, format!("{}/{}", coverage.included, coverage.expected)),
    ])?;
    let incomplete = !figures::is_complete(coverage);
    let mut table = Table::new()
        .text(output.text(Text::Indicator))
        .text(output.text(Text::Group))
        .number(output.text(Text::Own))
        .number(output.text(Text::Subtree));
    let keys: BTreeSet<(&str, &str)> =
        figures.cells.iter().map(|cell| (cell.indicator.as_str(), cell.group.as_str())).collect();
    for (indicator, group) in keys {
        let shown = |scope: Scope, incomplete: bool| -> anyhow::Result<String> {
            let cell = figures.cells.iter().find(|cell| {
                cell.indicator == indicator && cell.group == group && cell.scope() == scope
            });
            let figure = cell.map(|cell| figures::figure(cell.component.as_ref())).transpose()?;
            Ok(figure.map_or_else(|| "–".to_owned(), |figure| figure.shown(incomplete)))
        };
        let (own, subtree) = (shown(Scope::Own, false)?, shown(Scope::Subtree, incomplete)?);
        table.row([indicator, group, &own, &subtree]);
    }
    let own = figures::totals(&figures.cells, Scope::Own)?;
    let subtree = figures::totals(&figures.cells, Scope::Subtree)?;
    for figure in derived {
        let own = figures::shown_derived(figures::derived(figure, &own), false);
        let subtree = figures::shown_derived(figures::derived(figure, &subtree), incomplete);
        table.row([figure.id.as_str(), "", &own, &subtree]);
    }
    output.table(&table, Text::NoFigures)?;
    print_scope(output, figures)?;
    print_missing(output, coverage)
}

/// Says since when figures are of another scope, and what they are on the old one where that is known.
fn print_scope(output: &Output, figures: &UnitFigures) -> anyhow::Result<()> {
    for change in &figures.scope_changes {
        let (text, other) = match change.came {
            true => (Text::ScopeCame, &change.from),
            false => (Text::ScopeWent, &change.to),
        };
        let values: [&dyn std::fmt::Display; 4] =
            [&change.from_day, &change.moving, other, &change.units];
        output.line(format!("{}: {}", figures.unit, output.fill(text, &values)))?;
    }
    if figures.comparable_cells.is_empty() {
        return Ok(());
    }
    output.line(output.text(Text::ComparableScope))?;
    let incomplete = !figures::is_complete(figures::coverage(figures)?);
    for (indicator, figure) in figures::totals(&figures.comparable_cells, Scope::Subtree)? {
        output.line(format!("  {indicator} {}", figure.shown(incomplete)))?;
    }
    Ok(())
}

impl Pull {
    async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let client = context.client().await?;
        let request = PullSummaryRequest {
            unit: context.unit(&client, self.unit).await?,
            period: self.period.to_string(),
            deadline_ms: self.deadline.as_short_ms(),
            max_age_ms: self.max_age.as_short_ms(),
            depth: self.depth,
        };
        let output = context.output();
        let unit = request.unit.clone();
        let answers = pull(&client, request).await?;
        let catalogue = document(&client, &unit).await;
        let derived = derived_of(&catalogue);
        if output.is_json() {
            let units = answers
                .iter()
                .map(|answer| unit_json(answer, &derived))
                .collect::<anyhow::Result<Vec<_>>>()?;
            let document = json!({ "period": self.period.to_string(), "units": units });
            return Ok(output.document(&document)?);
        }
        let columns = columns(&catalogue, &answers, output.lang());
        output.table(&pulled_table(output, &columns, &derived, &answers)?, Text::NoFigures)?;
        for answer in &answers {
            print_scope(output, answer)?;
        }
        match answers.iter().find(|answer| answer.unit == unit) {
            Some(head) => print_missing(output, figures::coverage(head)?),
            None => Ok(()),
        }
    }
}

/// Pulls, and puts the higher levels first; within a level by code.
///
/// # Errors
///
/// What the node says.
pub(crate) async fn pull(
    client: &Client,
    request: PullSummaryRequest,
) -> anyhow::Result<Vec<UnitFigures>> {
    let answer = client.summaries().pull(request).await.context("cannot pull")?;
    let mut stream = answer.into_inner();
    let mut answers = Vec::new();
    while let Some(figures) = stream.message().await.context("cannot pull")? {
        answers.push(figures);
    }
    answers.sort_by(|one, other| (one.level, &one.unit).cmp(&(other.level, &other.unit)));
    Ok(answers)
}

/// Indicators by id with their headings, in the catalogue's order.
///
/// Without a readable catalogue the ids that came stand for themselves.
pub(crate) async fn indicator_columns(
    client: &Client,
    unit: &str,
    answers: &[UnitFigures],
    lang: Lang,
) -> Vec<(String, String)> {
    columns(&document(client, unit).await, answers, lang)
}

/// The catalogue in force; null if there is none that can be read.
async fn document(client: &Client, unit: &str) -> Value {
    let request = ShowCatalogueRequest { unit: unit.to_owned() };
    let shown = client.catalogues().show(request).await.map(tonic::Response::into_inner);
    shown.ok().and_then(|shown| serde_json::from_slice(&shown.document).ok()).unwrap_or_default()
}

/// What a catalogue derives of its figures.
fn derived_of(document: &Value) -> Vec<Derived> {
    let catalogue = Catalogue::parse(document.to_string().as_bytes());
    catalogue.map(|catalogue| catalogue.derived).unwrap_or_default()
}

/// Indicators of the answers with their headings from a catalogue, in its order.
pub(crate) fn columns(
    document: &Value,
    answers: &[UnitFigures],
    lang: Lang,
) -> Vec<(String, String)> {
    let there: BTreeSet<&str> = answers
        .iter()
        .flat_map(|answer| &answer.cells)
        .map(|cell| cell.indicator.as_str())
        .collect();
    let mut columns: Vec<(String, String)> = catalogue::indicators(document)
        .iter()
        .filter(|indicator| there.contains(catalogue::id_of(indicator)))
        .map(|indicator| {
            (catalogue::id_of(indicator).to_owned(), catalogue::heading_of(indicator, lang))
        })
        .collect();
    for id in there {
        if !columns.iter().any(|column| column.0 == id) {
            columns.push((id.to_owned(), id.to_owned()));
        }
    }
    columns
}

/// One row per unit, one column per indicator, subtree figures.
fn pulled_table(
    output: &Output,
    columns: &[(String, String)],
    derived: &[Derived],
    answers: &[UnitFigures],
) -> anyhow::Result<Table> {
    let mut table = Table::new()
        .text(output.text(Text::Unit))
        .text(output.text(Text::Title))
        .number(output.text(Text::Coverage));
    for (_, title) in columns {
        table = table.number(title);
    }
    for figure in derived {
        table = table.number(match output.lang() {
            Lang::En => &figure.title,
            Lang::Zh => &figure.title_zh,
        });
    }
    for answer in answers {
        let coverage = figures::coverage(answer)?;
        let totals = figures::totals(&answer.cells, Scope::Subtree)?;
        let incomplete = !figures::is_complete(coverage);
        let mut row = vec![
            answer.unit.clone(),
            answer.title.clone(),
            format!("{}/{}", coverage.included, coverage.expected),
        ];
        row.extend(columns.iter().map(|(id, _)| shown(totals.get(id), coverage, incomplete)));
        row.extend(derived.iter().map(|figure| {
            let milli = figures::derived(figure, &totals).filter(|_| coverage.included > 0);
            figures::shown_derived(milli, incomplete)
        }));
        table.row(row);
    }
    Ok(table)
}

/// A figure, or a dash if nobody reported: a zero would be a lie.
pub(crate) fn shown(figure: Option<&Figure>, coverage: &Coverage, incomplete: bool) -> String {
    match figure {
        Some(figure) if coverage.included > 0 => figure.shown(incomplete),
        Some(_) | None => "–".to_owned(),
    }
}

/// Names every branch that is not in the figures; says nothing if all are.
pub(crate) fn print_missing(output: &Output, coverage: &Coverage) -> anyhow::Result<()> {
    if figures::is_complete(coverage) {
        return Ok(());
    }
    let (included, expected) = (&coverage.included, &coverage.expected);
    output.line(output.fill(Text::OutsideCoverage, &[included, expected]))?;
    for gap in &coverage.gaps {
        output.line(missing(output, gap))?;
    }
    output.line(output.text(Text::IncompleteRate))?;
    Ok(())
}

fn missing(output: &Output, gap: &CoverageGap) -> String {
    let mut why = words::coverage(gap.state).shown(output.lang()).to_owned();
    if !gap.reason.is_empty() {
        why = format!("{why}, {}", gap.reason);
    }
    if gap.last_known_unix_ms != 0 {
        let since = values::time(gap.last_known_unix_ms);
        why = format!("{why}, {}", output.fill(Text::MissingSince, &[&since]));
    }
    output.fill(Text::Missing, &[&gap.unit, &gap.units, &why])
}

#[cfg(test)]
mod tests {
    use lianxi_proto::types::v1::{
        Cell, Component, CoverageState, RatioComponent, Summary, component::Value as WireValue,
    };

    use super::*;

    fn answer(unit: &str, included: u32) -> UnitFigures {
        let ratio = WireValue::Ratio(RatioComponent { numerator: 1, denominator: 3 });
        let cell = |indicator: &str, value| Cell {
            indicator: indicator.to_owned(),
            indicator_version: 1,
            scope: Scope::Subtree.into(),
            component: Some(Component { value: Some(value) }),
            ..Cell::default()
        };
        let gap = CoverageGap {
            unit: "BOS-01".to_owned(),
            state: CoverageState::Absent.into(),
            units: 2,
            reason: "no-link".to_owned(),
            ..CoverageGap::default()
        };
        let gaps = if included < 3 { vec![gap] } else { vec![] };
        let coverage = Coverage { expected: 3, included, gaps, ..Coverage::default() };
        UnitFigures {
            unit: unit.to_owned(),
            title: "波士顿".to_owned(),
            summary: Some(Summary { coverage: Some(coverage), ..Summary::default() }),
            cells: vec![cell("received", WireValue::Count(7)), cell("on_time", ratio)],
            ..UnitFigures::default()
        }
    }

    fn rendered(included: u32) -> String {
        let output = Output::new(false, Lang::En);
        let answers = [answer("BOS", included)];
        let document = json!({ "indicators": [
            { "id": "received", "title": "Received" },
            { "id": "elsewhere", "title": "Not answered" },
        ]});
        let columns = columns(&document, &answers, Lang::En);
        assert_eq!(columns.len(), 2);
        pulled_table(&output, &columns, &[], &answers).unwrap().render()
    }

    #[test]
    fn a_pull_shows_coverage_beside_every_figure() {
        let table = rendered(3);
        assert!(table.contains("unit  title   coverage  Received  on_time"), "{table}");
        assert!(table.contains("BOS   波士顿       3/3         7   33.3 %"), "{table}");
    }

    #[test]
    fn a_rate_over_incomplete_coverage_is_marked() {
        assert!(rendered(1).contains("33.3 %*"));
    }

    #[test]
    fn nobody_reported_is_not_zero() {
        let table = rendered(0);
        assert!(!table.contains('7') && table.contains('–'), "{table}");
    }

    #[test]
    fn missing_branches_are_named_with_the_reason() {
        let output = Output::new(false, Lang::Zh);
        let answer = answer("BOS", 1);
        let gap = &figures::coverage(&answer).unwrap().gaps[0];
        assert_eq!(missing(&output, gap), "缺：BOS-01（2 个单位）：未报, no-link");
    }
}
