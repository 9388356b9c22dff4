//! Body of `lianxi.summary.v1`, and the salted cells beside it.

use lianxi_proto::{cells, types::v1 as pb};
use prost::Message;

use super::{SaltedCell, header::Malformed};
use crate::domain::{
    component::Component,
    distinct::Distinct,
    histogram::Histogram,
    summary::{
        Coverage, CoverageGap, CoverageInput, CoverageState, FigureKey, FigureSet, Figures, Scope,
        Summary, SummaryKind,
    },
    unit::UnitCode,
};

/// Most cells of one summary.
pub const MAX_CELLS: u32 = 20_000;

/// Largest serialised cell: room for the largest figure that children can fold into, a histogram
/// with something in every bucket.
const MAX_CELL_BYTES: usize = 48 * 1024;

/// Figures sealed for signing.
#[derive(Clone, Debug)]
pub struct Sealed {
    /// Root that the summary signs.
    pub root: [u8; 32],
    /// The cells in order.
    pub cells: Vec<SaltedCell>,
}

/// Serialises and salts figures; own ones first, each scope in the order of keys.
///
/// # Errors
///
/// The random source failed.
pub fn seal(figures: &FigureSet) -> Result<Sealed, crate::random::Error> {
    let scopes = [(Scope::Own, &figures.own), (Scope::Subtree, &figures.subtree)];
    let mut leaves = Vec::with_capacity(figures.own.len() + figures.subtree.len());
    for (scope, figures) in scopes {
        for (key, component) in figures {
            let mut salt = [0; 16];
            crate::random::fill(&mut salt)?;
            leaves.push((cell_to_proto(key, scope, component).encode_to_vec(), salt));
        }
    }
    let (cells, root) = cells::seal(leaves);
    Ok(Sealed { root, cells })
}

/// Checks cells against the root that `summary` signs and reads their figures.
///
/// # Errors
///
/// [`Malformed`] at `cells` if they do not belong to the root, one is withheld, or one is malformed.
pub fn unseal(summary: &Summary, salted: &[SaltedCell]) -> Result<FigureSet, Malformed> {
    let mut figures = FigureSet::default();
    for cell in open_cells(summary, salted)? {
        let (scope, key, component) =
            cell.ok_or_else(|| Malformed::new("cells", "one is withheld"))?;
        let into = match scope {
            Scope::Own => &mut figures.own,
            Scope::Subtree => &mut figures.subtree,
        };
        if into.insert(key, component).is_some() {
            return Err(Malformed::new("cells", "one figure is there twice"));
        }
    }
    Ok(figures)
}

/// A figure with its place among the cells.
pub type OpenedCell = (Scope, FigureKey, Component);

/// Checks cells against the root that `summary` signs and reads those that are disclosed, by index.
///
/// # Errors
///
/// [`Malformed`] at `cells` if they do not belong to the root, or one is malformed.
pub fn open_cells(
    summary: &Summary,
    salted: &[SaltedCell],
) -> Result<Vec<Option<OpenedCell>>, Malformed> {
    let opened = cells::open(&summary.cells_root, summary.cells_count, salted)
        .map_err(|error| Malformed::new("cells", error))?;
    opened.into_iter().map(|cell| cell.map(|bytes| read_cell(&bytes)).transpose()).collect()
}

fn read_cell(bytes: &[u8]) -> Result<OpenedCell, Malformed> {
    if bytes.len() > MAX_CELL_BYTES {
        return Err(Malformed::new("cells", "one is over 49152 bytes"));
    }
    let cell = pb::Cell::decode(bytes).map_err(|_| Malformed::new("cells", "one is no cell"))?;
    let (key, scope, component) = cell_from_proto(cell)?;
    Ok((scope, key, component))
}

/// Maps one figure to the contract.
pub fn cell_to_proto(key: &FigureKey, scope: Scope, component: &Component) -> pb::Cell {
    let scope = match scope {
        Scope::Own => pb::Scope::Own,
        Scope::Subtree => pb::Scope::Subtree,
    };
    pb::Cell {
        indicator: key.indicator.clone(),
        indicator_version: key.version,
        group: key.group.clone(),
        scope: scope.into(),
        component: Some(component_to_proto(component)),
    }
}

fn cell_from_proto(cell: pb::Cell) -> Result<(FigureKey, Scope, Component), Malformed> {
    let scope = match cell.scope() {
        pb::Scope::Unspecified => return Err(Malformed::new("cells.scope", "is unset")),
        pb::Scope::Own => Scope::Own,
        pb::Scope::Subtree => Scope::Subtree,
    };
    if cell.indicator.is_empty() || cell.indicator.len() > 64 {
        return Err(Malformed::new("cells.indicator", "has 1 to 64 bytes"));
    }
    let component = cell.component.ok_or_else(|| Malformed::new("cells.component", "is unset"))?;
    let component = component_from_proto(component)?;
    let key =
        FigureKey { indicator: cell.indicator, version: cell.indicator_version, group: cell.group };
    Ok((key, scope, component))
}

/// Maps a component to the contract.
pub fn component_to_proto(component: &Component) -> pb::Component {
    use pb::component::Value;
    let value = match component {
        Component::Count(count) => Value::Count(*count),
        Component::Sum { sum_milli, terms } => Value::Sum(pb::SumComponent {
            sum_milli: sum_milli.to_be_bytes().to_vec(),
            terms: *terms,
        }),
        Component::Ratio { numerator, denominator } => {
            Value::Ratio(pb::RatioComponent { numerator: *numerator, denominator: *denominator })
        }
        Component::Extreme { min_milli, max_milli } => {
            Value::Extreme(pb::ExtremeComponent { min_milli: *min_milli, max_milli: *max_milli })
        }
        Component::Distinct(distinct) => Value::Distinct(pb::DistinctComponent {
            hashes: distinct.hashes().to_vec(),
            registers: distinct.registers().to_vec(),
        }),
        Component::Histogram(histogram) => {
            let (buckets, counts) =
                histogram.buckets().map(|(bucket, count)| (i32::from(bucket), count)).unzip();
            Value::Histogram(pb::HistogramComponent { buckets, counts })
        }
    };
    pb::Component { value: Some(value) }
}

/// Maps a component from the contract.
///
/// # Errors
///
/// [`Malformed`] with the field.
pub fn component_from_proto(component: pb::Component) -> Result<Component, Malformed> {
    use pb::component::Value;
    let value = component.value.ok_or_else(|| Malformed::new("cells.component", "is unset"))?;
    Ok(match value {
        Value::Count(count) => Component::Count(count),
        Value::Sum(sum) => Component::Sum {
            sum_milli: i128::from_be_bytes(
                sum.sum_milli
                    .as_slice()
                    .try_into()
                    .map_err(|_| Malformed::new("cells.component.sum_milli", "has 16 bytes"))?,
            ),
            terms: sum.terms,
        },
        Value::Ratio(ratio) => {
            Component::Ratio { numerator: ratio.numerator, denominator: ratio.denominator }
        }
        Value::Extreme(extreme) => {
            Component::Extreme { min_milli: extreme.min_milli, max_milli: extreme.max_milli }
        }
        Value::Distinct(distinct) => Component::Distinct(
            Distinct::from_parts(distinct.hashes, &distinct.registers)
                .map_err(|error| Malformed::new("cells.component.distinct", error))?,
        ),
        Value::Histogram(histogram) => Component::Histogram(
            Histogram::from_parts(histogram.buckets.into_iter(), histogram.counts.into_iter())
                .map_err(|error| Malformed::new("cells.component.histogram", error))?,
        ),
    })
}

/// Maps a summary to the contract.
pub fn to_proto(summary: &Summary) -> pb::Summary {
    let kind = match summary.kind {
        SummaryKind::Reported => pb::SummaryKind::Reported,
        SummaryKind::Live => pb::SummaryKind::Live,
    };
    pb::Summary {
        unit: summary.unit.to_string(),
        period: summary.period.to_string(),
        kind: kind.into(),
        version: summary.version,
        supersedes: summary.supersedes.map(Vec::from).unwrap_or_default(),
        cells_root: summary.cells_root.to_vec(),
        cells_count: summary.cells_count,
        coverage: Some(coverage_to_proto(&summary.coverage)),
        as_of_unix_ms: summary.as_of_unix_ms,
    }
}

/// Serialises the body.
pub fn encode_body(summary: &Summary) -> Vec<u8> {
    to_proto(summary).encode_to_vec()
}

/// Parses the body and checks that its coverage does not contradict itself.
///
/// # Errors
///
/// [`Malformed`] with the field.
pub fn decode_body(bytes: &[u8]) -> Result<Summary, Malformed> {
    let body = pb::Summary::decode(bytes).map_err(|error| Malformed::new("body", error))?;
    let kind = match body.kind() {
        pb::SummaryKind::Unspecified => return Err(Malformed::new("body.kind", "is unset")),
        pb::SummaryKind::Reported => SummaryKind::Reported,
        pb::SummaryKind::Live => SummaryKind::Live,
    };
    if (kind == SummaryKind::Reported) != (body.version > 0) {
        return Err(Malformed::new("body.version", "is from 1 for a report and 0 for a live one"));
    }
    if body.cells_count > MAX_CELLS {
        return Err(Malformed::new("body.cells_count", "is at most 20,000"));
    }
    let supersedes = match body.supersedes.as_slice() {
        [] => None,
        bytes => {
            Some(bytes.try_into().map_err(|_| Malformed::new("body.supersedes", "has 16 bytes"))?)
        }
    };
    let coverage = body.coverage.ok_or_else(|| Malformed::new("body.coverage", "is unset"))?;
    Ok(Summary {
        unit: unit("body.unit", &body.unit)?,
        period: body
            .period
            .parse()
            .map_err(|_| Malformed::new("body.period", "is no period, use e.g. 2026-07"))?,
        kind,
        version: body.version,
        supersedes,
        cells_root: body
            .cells_root
            .as_slice()
            .try_into()
            .map_err(|_| Malformed::new("body.cells_root", "has 32 bytes"))?,
        cells_count: body.cells_count,
        coverage: coverage_from_proto(coverage)?,
        as_of_unix_ms: body.as_of_unix_ms,
    })
}

fn unit(field: &str, text: &str) -> Result<UnitCode, Malformed> {
    text.parse().map_err(|_| Malformed::new(field, "is no code of a unit"))
}

fn coverage_to_proto(coverage: &Coverage) -> pb::Coverage {
    pb::Coverage {
        expected: coverage.expected,
        included: coverage.included,
        stale: coverage.stale,
        absent: coverage.absent,
        quarantined: coverage.quarantined,
        zero: coverage.zero,
        by_parent: coverage.by_parent,
        inputs: coverage
            .inputs
            .iter()
            .map(|input| pb::CoverageInput {
                unit: input.unit.to_string(),
                state: state_to_proto(input.state).into(),
                payload_sha256: input.payload_sha256.map(Vec::from).unwrap_or_default(),
                version: input.version,
            })
            .collect(),
        gaps: coverage
            .gaps
            .iter()
            .map(|gap| pb::CoverageGap {
                unit: gap.unit.to_string(),
                state: state_to_proto(gap.state).into(),
                units: gap.units,
                reason: gap.reason.clone(),
                last_known_unix_ms: gap.last_known_unix_ms.unwrap_or_default(),
            })
            .collect(),
    }
}

fn coverage_from_proto(coverage: pb::Coverage) -> Result<Coverage, Malformed> {
    let inputs = coverage.inputs.into_iter().map(input_from_proto).collect::<Result<_, _>>()?;
    let gaps = coverage.gaps.into_iter().map(gap_from_proto).collect::<Result<_, _>>()?;
    let coverage = Coverage {
        expected: coverage.expected,
        included: coverage.included,
        stale: coverage.stale,
        absent: coverage.absent,
        quarantined: coverage.quarantined,
        zero: coverage.zero,
        by_parent: coverage.by_parent,
        inputs,
        gaps,
    };
    coverage.check().map_err(|error| Malformed::new("body.coverage", error))?;
    Ok(coverage)
}

fn input_from_proto(input: pb::CoverageInput) -> Result<CoverageInput, Malformed> {
    let state = state_from_proto(input.state())
        .ok_or_else(|| Malformed::new("body.coverage.inputs.state", "is unset"))?;
    let payload_sha256 =
        match input.payload_sha256.as_slice() {
            [] => None,
            bytes => Some(bytes.try_into().map_err(|_| {
                Malformed::new("body.coverage.inputs.payload_sha256", "has 32 bytes")
            })?),
        };
    Ok(CoverageInput {
        unit: unit("body.coverage.inputs.unit", &input.unit)?,
        state,
        payload_sha256,
        version: input.version,
    })
}

fn gap_from_proto(gap: pb::CoverageGap) -> Result<CoverageGap, Malformed> {
    let state = state_from_proto(gap.state())
        .filter(|state| *state != CoverageState::Included)
        .ok_or_else(|| Malformed::new("body.coverage.gaps.state", "is no state of a gap"))?;
    if gap.reason.len() > 64 {
        return Err(Malformed::new("body.coverage.gaps.reason", "has at most 64 bytes"));
    }
    Ok(CoverageGap {
        unit: unit("body.coverage.gaps.unit", &gap.unit)?,
        state,
        units: gap.units,
        reason: gap.reason,
        last_known_unix_ms: Some(gap.last_known_unix_ms).filter(|time| *time != 0),
    })
}

fn state_to_proto(state: CoverageState) -> pb::CoverageState {
    match state {
        CoverageState::Included => pb::CoverageState::Included,
        CoverageState::Stale => pb::CoverageState::Stale,
        CoverageState::Absent => pb::CoverageState::Absent,
        CoverageState::Quarantined => pb::CoverageState::Quarantined,
        CoverageState::Zero => pb::CoverageState::Zero,
        CoverageState::ByParent => pb::CoverageState::ByParent,
    }
}

fn state_from_proto(state: pb::CoverageState) -> Option<CoverageState> {
    match state {
        pb::CoverageState::Unspecified => None,
        pb::CoverageState::Included => Some(CoverageState::Included),
        pb::CoverageState::Stale => Some(CoverageState::Stale),
        pb::CoverageState::Absent => Some(CoverageState::Absent),
        pb::CoverageState::Quarantined => Some(CoverageState::Quarantined),
        pb::CoverageState::Zero => Some(CoverageState::Zero),
        pb::CoverageState::ByParent => Some(CoverageState::ByParent),
    }
}

/// Figures of one scope as cells of the contract, for those who show them.
pub fn figures_to_proto(figures: &FigureSet) -> Vec<pb::Cell> {
    let cells = |scope, figures: &Figures| {
        figures
            .iter()
            .map(|(key, component)| cell_to_proto(key, scope, component))
            .collect::<Vec<_>>()
    };
    let mut all = cells(Scope::Own, &figures.own);
    all.extend(cells(Scope::Subtree, &figures.subtree));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::histogram::HIGHEST_BUCKET;

    /// Whatever children send, their sum can be sent on.
    #[test]
    fn the_largest_histogram_fits_into_a_cell() {
        let buckets = i32::from(-HIGHEST_BUCKET)..=i32::from(HIGHEST_BUCKET);
        let buckets: Vec<i32> = buckets.collect();
        let counts = vec![u64::MAX / buckets.len() as u64; buckets.len()];
        let histogram = Histogram::from_parts(buckets.into_iter(), counts.into_iter()).unwrap();
        let key =
            FigureKey { indicator: "i".repeat(64), version: u32::MAX, group: "组".repeat(128) };
        let component = Component::Histogram(histogram);
        let cell = cell_to_proto(&key, Scope::Subtree, &component).encode_to_vec();
        let (scope, read, figure) = read_cell(&cell).unwrap();
        assert_eq!((scope, read, figure), (Scope::Subtree, key, component));
        assert!(cell.len() > MAX_CELL_BYTES * 3 / 4, "{} bytes", cell.len());
    }
}
