//! Figures that a node answered: as JSON, and as cells of a table.
//!
//! Promises that a missing figure is never a zero, and that nothing is calculated here but the
//! quotient of a ratio, the estimate of a distinct count, the quantiles of a histogram and what the
//! catalogue derives.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail};
use lianxi_node::domain::{
    derived::{Derived, Operand},
    distinct::Distinct,
    histogram::{Histogram, Quantile},
};
use lianxi_proto::{
    local::v1::{ScopeChange, UnitFigures},
    types::v1::{
        Cell, Component, Coverage, DistinctComponent, HistogramComponent, RatioComponent, Scope,
        Summary, component::Value as WireValue,
    },
};
use serde_json::{Map, Value, json};

use crate::{table::grouped, values, words};

/// One figure, ready to be shown.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Figure {
    /// Number of records.
    Count(u64),
    /// Sum in thousandths.
    Sum { milli: i128, terms: u64 },
    /// Two counts.
    Ratio { numerator: u64, denominator: u64 },
    /// Extremes in thousandths.
    Extreme { min_milli: Option<i64>, max_milli: Option<i64> },
    /// Number of different values.
    Distinct { estimate: u64, exact: bool },
    /// How many values there are, and the quantiles in [`SHOWN`]; `None`: no values.
    Histogram { terms: u64, quantiles: Option<[Quantile; SHOWN.len()]> },
}

/// Quantiles that are shown, with their words and thousandths.
const SHOWN: [(&str, u16); 3] = [("p50", 500), ("p90", 900), ("p99", 990)];

/// Figures of one unit for one scope by indicator, all groups together.
pub(crate) type Totals = BTreeMap<String, Figure>;

/// Reads a component.
///
/// # Errors
///
/// It has no value, or its bytes are malformed.
pub(crate) fn figure(component: Option<&Component>) -> anyhow::Result<Figure> {
    match component.and_then(|component| component.value.as_ref()) {
        Some(WireValue::Count(count)) => Ok(Figure::Count(*count)),
        Some(WireValue::Sum(sum)) => {
            let bytes: [u8; 16] =
                sum.sum_milli.as_slice().try_into().context("a sum that is not 16 bytes long")?;
            Ok(Figure::Sum { milli: i128::from_be_bytes(bytes), terms: sum.terms })
        }
        Some(WireValue::Ratio(RatioComponent { numerator, denominator })) => {
            Ok(Figure::Ratio { numerator: *numerator, denominator: *denominator })
        }
        Some(WireValue::Extreme(extreme)) => {
            Ok(Figure::Extreme { min_milli: extreme.min_milli, max_milli: extreme.max_milli })
        }
        Some(WireValue::Distinct(distinct)) => distinct_figure(distinct),
        Some(WireValue::Histogram(histogram)) => histogram_figure(histogram),
        None => bail!("a figure of a kind that this program does not know"),
    }
}

fn distinct_figure(distinct: &DistinctComponent) -> anyhow::Result<Figure> {
    let set = Distinct::from_parts(distinct.hashes.clone(), &distinct.registers)
        .context("a distinct count that is malformed")?;
    Ok(Figure::Distinct { estimate: set.estimate(), exact: set.is_exact() })
}

fn histogram_figure(histogram: &HistogramComponent) -> anyhow::Result<Figure> {
    let (buckets, counts) = (histogram.buckets.iter(), histogram.counts.iter());
    let values = Histogram::from_parts(buckets.copied(), counts.copied())
        .context("a histogram that is malformed")?;
    let [p50, p90, p99] = SHOWN.map(|(_, permille)| values.quantile(permille));
    let quantiles = p50.zip(p90).zip(p99).map(|((p50, p90), p99)| [p50, p90, p99]);
    Ok(Figure::Histogram { terms: values.total(), quantiles })
}

/// The totals of `unit` in `scope`, by indicator.
///
/// # Errors
///
/// A cell is malformed.
pub(crate) fn totals(cells: &[Cell], scope: Scope) -> anyhow::Result<Totals> {
    cells
        .iter()
        .filter(|cell| cell.scope() == scope && cell.group.is_empty())
        .map(|cell| {
            let figure = figure(cell.component.as_ref())
                .with_context(|| format!("indicator {}", cell.indicator))?;
            Ok((cell.indicator.clone(), figure))
        })
        .collect()
}

impl Figure {
    /// One JSON number for the demo's flat shape; `null` for no value.
    ///
    /// Of extremes the largest; a ratio and a histogram are objects, as in [`full`](Self::full).
    pub(crate) fn flat(&self) -> Value {
        match self {
            Self::Count(count) => json!(count),
            Self::Sum { milli, .. } => decimal(*milli),
            Self::Ratio { numerator, denominator } => {
                json!({ "numerator": numerator, "denominator": denominator })
            }
            Self::Extreme { max_milli, .. } => {
                max_milli.map_or(Value::Null, |max| decimal(max.into()))
            }
            Self::Distinct { estimate, .. } => json!(estimate),
            Self::Histogram { terms, quantiles } => histogram_json(*terms, quantiles.as_ref()),
        }
    }

    /// The whole figure with its kind.
    pub(crate) fn full(&self) -> Value {
        match self {
            Self::Count(count) => json!({ "kind": "count", "count": count }),
            Self::Sum { milli, terms } => {
                json!({ "kind": "sum", "sum": decimal(*milli), "terms": terms })
            }
            Self::Ratio { numerator, denominator } => {
                json!({ "kind": "ratio", "numerator": numerator, "denominator": denominator })
            }
            Self::Extreme { min_milli, max_milli } => {
                let side =
                    |milli: &Option<i64>| milli.map_or(Value::Null, |milli| decimal(milli.into()));
                json!({ "kind": "extreme", "min": side(min_milli), "max": side(max_milli) })
            }
            Self::Distinct { estimate, exact } => {
                json!({ "kind": "distinct", "estimate": estimate, "exact": exact })
            }
            Self::Histogram { terms, quantiles } => {
                let mut figure = histogram_json(*terms, quantiles.as_ref());
                figure["kind"] = json!("histogram");
                figure
            }
        }
    }

    /// The figure as a table shows it; `incomplete` marks a rate over incomplete coverage.
    pub(crate) fn shown(&self, incomplete: bool) -> String {
        match self {
            Self::Count(count) => grouped((*count).into()),
            Self::Sum { milli, .. } => shown_decimal(*milli),
            Self::Ratio { numerator, denominator } => rate(*numerator, *denominator, incomplete),
            Self::Extreme { min_milli, max_milli } => match (min_milli, max_milli) {
                (Some(min), Some(max)) => {
                    format!("{} … {}", shown_decimal((*min).into()), shown_decimal((*max).into()))
                }
                _ => "–".to_owned(),
            },
            Self::Distinct { estimate, exact } => {
                format!("{}{}", if *exact { "" } else { "≈" }, grouped((*estimate).into()))
            }
            Self::Histogram { quantiles: None, .. } => "–".to_owned(),
            Self::Histogram { quantiles: Some([p50, p90, _]), .. } => {
                format!("{} / {}", shown_quantile(*p50), shown_quantile(*p90))
            }
        }
    }
}

/// A derived figure in thousandths, from the totals of one scope; `None`: one of them is not there, or
/// nothing to divide by.
pub(crate) fn derived(figure: &Derived, totals: &Totals) -> Option<i128> {
    let operand = |id: &str| match totals.get(id)? {
        Figure::Count(count) => Some(Operand::of_count(*count)),
        Figure::Sum { milli, terms } => Some(Operand { milli: *milli, terms: *terms }),
        Figure::Ratio { .. }
        | Figure::Extreme { .. }
        | Figure::Distinct { .. }
        | Figure::Histogram { .. } => None,
    };
    let [of, other] = figure.operands();
    figure.milli([operand(of)?, operand(other)?])
}

/// A derived figure as a table shows it; a star if `incomplete`, as of a rate.
pub(crate) fn shown_derived(milli: Option<i128>, incomplete: bool) -> String {
    let star = if incomplete { "*" } else { "" };
    milli.map_or_else(|| "–".to_owned(), |milli| format!("{}{star}", shown_decimal(milli)))
}

/// Derived figures in JSON, by scope; null for no value.
///
/// # Errors
///
/// A cell is malformed.
pub(crate) fn derived_json(figures: &[Derived], cells: &[Cell]) -> anyhow::Result<Value> {
    let of_scope = |scope| -> anyhow::Result<Value> {
        let totals = totals(cells, scope)?;
        let values = figures.iter().map(|figure| {
            let value = derived(figure, &totals).map_or(Value::Null, decimal);
            (figure.id.clone(), value)
        });
        Ok(Value::Object(values.collect()))
    };
    Ok(json!({ "own": of_scope(Scope::Own)?, "subtree": of_scope(Scope::Subtree)? }))
}

fn histogram_json(terms: u64, quantiles: Option<&[Quantile; SHOWN.len()]>) -> Value {
    let mut figure = json!({ "terms": terms });
    for (position, (word, _)) in SHOWN.into_iter().enumerate() {
        let milli = quantiles.map(|quantiles| quantiles[position].milli);
        figure[word] = milli.map_or(Value::Null, |milli| decimal(milli.into()));
    }
    figure
}

fn shown_quantile(quantile: Quantile) -> String {
    let mark = if quantile.is_exact { "" } else { "≈" };
    format!("{mark}{}", shown_decimal(quantile.milli.into()))
}

/// `numerator` of `denominator` in per cent with one decimal, cut, and a star if `incomplete`.
pub(crate) fn rate(numerator: u64, denominator: u64, incomplete: bool) -> String {
    if denominator == 0 {
        return "–".to_owned();
    }
    let tenths = u128::from(numerator) * 1_000 / u128::from(denominator);
    format!("{}.{} %{}", tenths / 10, tenths % 10, if incomplete { "*" } else { "" })
}

/// Thousandths as a JSON number: an integer if whole.
fn decimal(milli: i128) -> Value {
    if milli % 1_000 == 0
        && let Some(number) = serde_json::Number::from_i128(milli / 1_000)
    {
        return number.into();
    }
    decimal_text(milli).parse::<f64>().map_or(Value::Null, Value::from)
}

fn decimal_text(milli: i128) -> String {
    let (whole, rest) = (milli.unsigned_abs() / 1_000, milli.unsigned_abs() % 1_000);
    format!("{}{whole}.{rest:03}", if milli < 0 { "-" } else { "" })
}

fn shown_decimal(milli: i128) -> String {
    if milli % 1_000 == 0 {
        return grouped(milli / 1_000);
    }
    let sign = if milli < 0 && milli > -1_000 { "-" } else { "" };
    let rest = format!("{:03}", milli.unsigned_abs() % 1_000);
    format!("{sign}{}.{}", grouped(milli / 1_000), rest.trim_end_matches('0'))
}

/// The coverage of a summary; an answer without one is refused, because P4 forbids figures without.
///
/// # Errors
///
/// There is no summary or no coverage in it.
pub(crate) fn coverage(figures: &UnitFigures) -> anyhow::Result<&Coverage> {
    summary(figures)?.coverage.as_ref().context("figures came without their coverage")
}

/// The summary of an answer.
///
/// # Errors
///
/// There is none.
pub(crate) fn summary(figures: &UnitFigures) -> anyhow::Result<&Summary> {
    figures.summary.as_ref().context("figures came without their summary")
}

/// True if every unit that should be in is in.
pub(crate) fn is_complete(coverage: &Coverage) -> bool {
    coverage.included >= coverage.expected && coverage.gaps.is_empty()
}

/// Coverage in JSON.
pub(crate) fn coverage_json(coverage: &Coverage) -> Value {
    let gaps: Vec<Value> = coverage
        .gaps
        .iter()
        .map(|gap| {
            json!({
                "unit": gap.unit,
                "state": words::coverage(gap.state).json,
                "units": gap.units,
                "reason": gap.reason,
                "last_known_unix_ms": gap.last_known_unix_ms,
            })
        })
        .collect();
    json!({
        "expected": coverage.expected,
        "included": coverage.included,
        "stale": coverage.stale,
        "absent": coverage.absent,
        "quarantined": coverage.quarantined,
        "zero": coverage.zero,
        "by_parent": coverage.by_parent,
        "gaps": gaps,
    })
}

/// Totals in JSON, each as `render` has it.
pub(crate) fn totals_json(totals: &Totals, render: fn(&Figure) -> Value) -> Value {
    let map: Map<String, Value> =
        totals.iter().map(|(indicator, figure)| (indicator.clone(), render(figure))).collect();
    Value::Object(map)
}

/// Everything that a node answered about one unit, in JSON.
///
/// # Errors
///
/// The answer is malformed.
pub(crate) fn unit_json(figures: &UnitFigures) -> anyhow::Result<Value> {
    let summary = summary(figures)?;
    let cells = figures.cells.iter().map(cell_json).collect::<anyhow::Result<Vec<_>>>()?;
    Ok(json!({
        "unit": figures.unit,
        "title": figures.title,
        "level": words::level(figures.level).json,
        "parent": figures.parent,
        "period": summary.period,
        "version": summary.version,
        "as_of_unix_ms": summary.as_of_unix_ms,
        "statement_id": values::id(&figures.statement_id),
        "coverage": coverage_json(coverage(figures)?),
        "own": totals_json(&totals(&figures.cells, Scope::Own)?, Figure::full),
        "subtree": totals_json(&totals(&figures.cells, Scope::Subtree)?, Figure::full),
        "cells": cells,
        "scope_changes": figures.scope_changes.iter().map(scope_json).collect::<Vec<_>>(),
        "comparable": totals_json(&totals(&figures.comparable_cells, Scope::Subtree)?, Figure::full),
    }))
}

fn scope_json(change: &ScopeChange) -> Value {
    json!({
        "unit": change.moving,
        "from": change.from,
        "to": change.to,
        "from_day": change.from_day,
        "came": change.came,
        "units": change.units,
    })
}

fn cell_json(cell: &Cell) -> anyhow::Result<Value> {
    let scope = match cell.scope() {
        Scope::Own => "own",
        Scope::Subtree => "subtree",
        Scope::Unspecified => "unknown",
    };
    Ok(json!({
        "indicator": cell.indicator,
        "indicator_version": cell.indicator_version,
        "group": cell.group,
        "scope": scope,
        "figure": figure(cell.component.as_ref())?.full(),
    }))
}

#[cfg(test)]
mod tests {
    use lianxi_proto::types::v1::{CoverageGap, ExtremeComponent, SumComponent};

    use super::*;

    fn cell(indicator: &str, scope: Scope, group: &str, value: WireValue) -> Cell {
        Cell {
            indicator: indicator.to_owned(),
            indicator_version: 1,
            group: group.to_owned(),
            scope: scope.into(),
            component: Some(Component { value: Some(value) }),
        }
    }

    fn sum(milli: i128) -> WireValue {
        WireValue::Sum(SumComponent { sum_milli: milli.to_be_bytes().to_vec(), terms: 2 })
    }

    #[test]
    fn totals_hold_one_scope_without_groups() {
        let cells = [
            cell("received", Scope::Own, "", WireValue::Count(1)),
            cell("received", Scope::Subtree, "", WireValue::Count(31_828)),
            cell("received", Scope::Subtree, "pothole", WireValue::Count(7)),
            cell("close_seconds", Scope::Subtree, "", sum(114_524_938_975_000)),
        ];
        let subtree = totals_json(&totals(&cells, Scope::Subtree).unwrap(), Figure::flat);
        assert_eq!(subtree, json!({ "received": 31_828, "close_seconds": 114_524_938_975_u64 }));
        let own = totals_json(&totals(&cells, Scope::Own).unwrap(), Figure::flat);
        assert_eq!(own, json!({ "received": 1 }));
    }

    #[test]
    fn a_sum_that_is_not_whole_is_a_decimal() {
        assert_eq!(decimal(1_500), json!(1.5));
        assert_eq!(decimal(-1), json!(-0.001));
        assert_eq!(decimal(-2_000), json!(-2));
        assert_eq!(shown_decimal(-500), "-0.5");
        assert_eq!(shown_decimal(1_234_567), "1,234.567");
        assert_eq!(shown_decimal(-1_234_000), "-1,234");
    }

    #[test]
    fn no_value_is_not_zero() {
        let none = ExtremeComponent { min_milli: None, max_milli: None };
        let figure = figure(Some(&Component { value: Some(WireValue::Extreme(none)) })).unwrap();
        assert_eq!(figure.flat(), Value::Null);
        assert_eq!(figure.shown(false), "–");
        assert_eq!(rate(0, 0, false), "–");
    }

    #[test]
    fn a_histogram_shows_its_quantiles() {
        let read = |buckets: &[i32], counts: &[u64]| {
            let histogram =
                HistogramComponent { buckets: buckets.to_vec(), counts: counts.to_vec() };
            figure(Some(&Component { value: Some(WireValue::Histogram(histogram)) }))
        };
        let none = read(&[], &[]).unwrap();
        assert_eq!(none.shown(false), "–");
        assert_eq!(none.flat(), json!({ "terms": 0, "p50": null, "p90": null, "p99": null }));
        // Bucket 512 holds 1,048.576 to 1,081.343.
        let some = read(&[1, 512], &[5, 5]).unwrap();
        assert_eq!(some.shown(false), "0.001 / ≈1,064.96");
        assert_eq!(
            some.full(),
            json!({ "kind": "histogram", "terms": 10, "p50": 0.001, "p90": 1064.96, "p99": 1064.96 })
        );
        assert!(read(&[2, 1], &[1, 1]).is_err());
    }

    #[test]
    fn a_rate_over_incomplete_coverage_says_so() {
        let ratio = Figure::Ratio { numerator: 737, denominator: 972 };
        assert_eq!(ratio.shown(false), "75.8 %");
        assert_eq!(ratio.shown(true), "75.8 %*");
        assert_eq!(rate(u64::MAX, u64::MAX, false), "100.0 %");
    }

    #[test]
    fn derived_figures_are_calculated_from_what_is_there() {
        let document = include_bytes!("../../deploy/catalogues/default.json");
        let catalogue = lianxi_node::domain::catalogue::Catalogue::parse(document).unwrap();
        let cells = [
            cell("filed", Scope::Subtree, "", WireValue::Count(31_828)),
            cell("residents", Scope::Subtree, "", sum(617_594_000)),
            cell("whistles", Scope::Subtree, "", WireValue::Count(3)),
            cell("rating_up", Scope::Subtree, "", sum(180_000)),
            cell("rating_down", Scope::Subtree, "", sum(150_500)),
        ];
        let json = derived_json(&catalogue.derived, &cells).unwrap();
        assert_eq!(json["subtree"]["filed_per_10k"], json!(515.354));
        assert_eq!(json["subtree"]["whistle_rate"], json!(0.009));
        assert_eq!(json["subtree"]["rating_gap"], json!(14.75));
        assert_eq!(json["subtree"]["tasks_per_community"], Value::Null, "nothing is no zero");
        assert_eq!(json["own"]["filed_per_10k"], Value::Null);
        assert_eq!(shown_derived(Some(515_354), true), "515.354*");
        assert_eq!(shown_derived(None, true), "–");
    }

    #[test]
    fn malformed_figures_are_refused_with_the_indicator() {
        let short = WireValue::Sum(SumComponent { sum_milli: vec![1; 15], terms: 1 });
        let error = totals(&[cell("hours", Scope::Own, "", short)], Scope::Own).unwrap_err();
        assert_eq!(error.to_string(), "indicator hours");
        assert!(figure(None).is_err());
        assert!(coverage(&UnitFigures::default()).is_err());
    }

    #[test]
    fn a_gap_makes_coverage_incomplete() {
        let mut coverage = Coverage { expected: 3, included: 3, ..Coverage::default() };
        assert!(is_complete(&coverage));
        coverage.gaps.push(CoverageGap {
            unit: "B".to_owned(),
            units: 1,
            ..CoverageGap::default()
        });
        assert!(!is_complete(&coverage));
        assert_eq!(coverage_json(&coverage)["gaps"][0]["unit"], "B");
    }
}
