//! A record on its way into the store: checked, in its stored form, with what it adds to figures.

use jiff::civil::Date;
use serde_json::Value;

use super::{
    MAX_RECORD_BYTES,
    stored::{self, Side, cell_key, cell_prefix, stock_day, stock_month, stock_prefix},
};
use crate::domain::{
    catalogue::{Catalogue, Finest},
    indicator::{Addition, Contribution, Indicator, Measure, When},
    period::Month,
    record::{self, RecordType, Violation},
    stock::Stay,
};

/// A valid record. Making one costs the processor; applying it costs the disk.
#[derive(Clone, Debug)]
pub struct Prepared {
    pub(super) key: Vec<u8>,
    pub(super) value: Vec<u8>,
    pub(super) month: Month,
    pub(super) parts: Vec<Part>,
}

/// What a record adds to one component.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Part {
    pub(super) cell: Vec<u8>,
    pub(super) group: String,
    pub(super) contribution: Contribution,
}

impl Prepared {
    /// Checks a record.
    ///
    /// # Errors
    ///
    /// The rules that it breaks.
    pub fn new(
        catalogue: &Catalogue,
        record_type: &RecordType,
        record: &Value,
    ) -> Result<Self, Vec<Violation>> {
        let violations = record_type.validate(record);
        if !violations.is_empty() {
            return Err(violations);
        }
        let broken = |path: &str, reason: String| {
            let record_path = if path.is_empty() { String::new() } else { format!("/{path}") };
            vec![Violation { record_path, schema_path: String::new(), reason }]
        };
        let key = record_type
            .key(record)
            .ok_or_else(|| broken(record_type.key_field(), "is no usable key".to_owned()))?;
        let (day, month) = day_of(catalogue, record_type, record)
            .map_err(|error| broken(record_type.time_field(), error.to_string()))?;
        let contributions = catalogue
            .contributions(record_type.name(), record)
            .map_err(|error| broken("", error.to_string()))?;
        let mut value = vec![stored::FORMAT];
        serde_json::to_writer(&mut value, record)
            .expect("invariant: a JSON value is written to memory");
        if value.len() > MAX_RECORD_BYTES {
            return Err(broken("", format!("is longer than {MAX_RECORD_BYTES} bytes")));
        }
        let parts = parts_of(catalogue, record, day, contributions);
        Ok(Self { key: stored::record_key(record_type.name(), &key), value, month, parts })
    }

    /// Month that the record counts in.
    pub fn month(&self) -> Month {
        self.month
    }

    /// Bytes that the record takes of a quota.
    pub fn bytes(&self) -> u64 {
        (self.key.len() + self.value.len()) as u64
    }
}

/// The day and the month that a record counts in.
fn day_of(
    catalogue: &Catalogue,
    declared: &RecordType,
    record: &Value,
) -> Result<(Date, Month), record::Error> {
    let day = declared.day(record, &catalogue.time_zone)?;
    let month = Month::of_date(day);
    let calendar = |error| record::Error::Calendar(declared.time_field().to_owned(), error);
    Ok((day, month.map_err(calendar)?))
}

/// What a stored record adds, and the day that it counts in. It was valid once; an indicator that
/// cannot deal with it any more does not count it, here and always.
pub(super) fn additions<'c>(
    catalogue: &'c Catalogue,
    record_type: &str,
    record: &Value,
) -> Option<(Date, Vec<(&'c Indicator, Addition)>)> {
    let declared = catalogue.record_type(record_type)?;
    let (day, _) = day_of(catalogue, declared, record).ok()?;
    let of_type = catalogue.indicators.iter().filter(|each| each.record_type == record_type);
    let added = of_type.filter_map(|indicator| {
        let addition = indicator.contributions(record, &catalogue.time_zone).ok()??;
        Some((indicator, addition))
    });
    Some((day, added.collect()))
}

/// The components that a record of `day` adds to.
pub(super) fn parts_of(
    catalogue: &Catalogue,
    record: &Value,
    day: Date,
    additions: Vec<(&Indicator, Addition)>,
) -> Vec<Part> {
    let records = Month::of_date(day).map(|month| Part {
        cell: cell_key(&cell_prefix(month, "", 0), ""),
        group: String::new(),
        contribution: Contribution::Count,
    });
    let mut parts: Vec<Part> = records.into_iter().collect();
    let with_days = catalogue.finest == Finest::Day;
    for (indicator, Addition { contribution, when }) in additions {
        let cells = match when {
            When::Stay(stay) => stock_cells(indicator, stay, with_days),
            When::Day(day) => flow_cells(indicator, day, with_days),
            When::Recorded => flow_cells(indicator, day, with_days),
        };
        for group in std::iter::once(String::new()).chain(indicator.group_value(record)) {
            parts.extend(cells.iter().map(|prefix| Part {
                cell: cell_key(prefix, &group),
                group: group.clone(),
                contribution,
            }));
        }
    }
    parts
}

/// The components that a record adds to that counts once, on a day.
fn flow_cells(indicator: &Indicator, day: Date, with_days: bool) -> Vec<Vec<u8>> {
    let (id, version) = (&indicator.id, indicator.version);
    let month = Month::of_date(day).ok().map(|month| cell_prefix(month, id, version));
    month.into_iter().chain(with_days.then(|| cell_prefix(day, id, version))).collect()
}

/// The components of a stock that a stay adds to: a stock is what went after a day, less what came
/// after it, so what came and went in one month, or on one day, is in neither. When what is there came
/// is all that its age asks for.
fn stock_cells(indicator: &Indicator, stay: Stay, with_days: bool) -> Vec<Vec<u8>> {
    let prefix = |side| stock_prefix(&indicator.id, indicator.version, side);
    let (from, until) = (prefix(Side::From), prefix(Side::Until));
    let is_flow = !matches!(indicator.measure, Measure::Age);
    let month = |day| Month::of_date(day).ok();
    let (came, went) = (month(stay.from), stay.until.and_then(month));
    let mut cells = Vec::with_capacity(4);
    if came != went {
        cells.push(stock_month(&until, went));
        cells.extend(is_flow.then(|| stock_month(&from, came)));
    }
    if with_days {
        cells.extend(stay.until.map(|day| stock_day(&until, day)));
        cells.extend(is_flow.then(|| stock_day(&from, stay.from)));
    }
    cells
}
