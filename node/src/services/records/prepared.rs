//! A record on its way into the store: checked, in its stored form, with what it adds to figures.

use serde_json::Value;

use super::{
    MAX_RECORD_BYTES,
    stored::{self, cell_key, cell_prefix},
};
use crate::domain::{
    catalogue::Catalogue,
    indicator::{Contribution, Indicator},
    period::Month,
    record::{RecordType, Violation},
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
        let month = record_type
            .month(record, &catalogue.time_zone)
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
        let mut parts = month_part(month);
        for (indicator, contribution) in contributions {
            push_parts(&mut parts, month, indicator, contribution, record);
        }
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

/// What a stored record adds. It was valid once; an indicator that cannot deal with it any more
/// does not count it, here and always.
pub(super) fn parts_of(catalogue: &Catalogue, record_type: &str, record: &Value) -> Vec<Part> {
    let month = catalogue
        .record_type(record_type)
        .and_then(|declared| declared.month(record, &catalogue.time_zone).ok());
    let Some(month) = month else { return Vec::new() };
    let mut parts = month_part(month);
    for indicator in catalogue.indicators.iter().filter(|each| each.record_type == record_type) {
        if let Ok(Some(contribution)) = indicator.contributions(record) {
            push_parts(&mut parts, month, indicator, contribution, record);
        }
    }
    parts
}

fn month_part(month: Month) -> Vec<Part> {
    vec![Part {
        cell: cell_key(&cell_prefix(month, "", 0), ""),
        group: String::new(),
        contribution: Contribution::Count,
    }]
}

fn push_parts(
    parts: &mut Vec<Part>,
    month: Month,
    indicator: &Indicator,
    contribution: Contribution,
    record: &Value,
) {
    let prefix = cell_prefix(month, &indicator.id, indicator.version);
    let groups = std::iter::once(String::new()).chain(indicator.group_value(record));
    parts.extend(groups.map(|group| Part { cell: cell_key(&prefix, &group), group, contribution }));
}
