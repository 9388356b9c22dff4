//! The example that this program carries with it, so that an installed binary runs the demo
//! anywhere: `deploy/examples/boston-311` and `deploy/catalogues/boston.json`.
//!
//! Source of the rows: Analyze Boston, "311 service requests", Open Data Commons PDDL.

use anyhow::{Context as _, bail};
use lianxi_node::domain::mapping::Mapping;

use crate::commands::import::Rows;

/// The units: code, name, level, parent.
pub(super) const UNITS: &str = include_str!("../../../deploy/examples/boston-311/units.csv");

/// The catalogue.
pub(super) const CATALOGUE: &[u8] = include_bytes!("../../../deploy/catalogues/boston.json");

/// The mapping of the columns.
const MAPPING: &str = include_str!("../../../deploy/examples/boston-311/mapping.toml");

/// The look-up table that the mapping names.
const PRECINCTS: &str = include_str!("../../../deploy/examples/boston-311/precincts.csv");

/// The rows of July 2011.
const ROWS: &[u8] = include_bytes!("../../../deploy/examples/boston-311/2011-07.csv.gz");

/// Name of the rows in messages.
const ROWS_NAME: &str = "2011-07.csv.gz";

/// The shipped rows with their name.
pub(super) fn rows() -> (String, Rows) {
    (ROWS_NAME.to_owned(), Rows::Embedded(ROWS))
}

/// The shipped mapping with its look-up table.
///
/// # Errors
///
/// The shipped files do not fit each other.
pub(super) fn mapping() -> anyhow::Result<Mapping> {
    Mapping::from_toml(MAPPING, |name| match name {
        "precincts.csv" => Ok(PRECINCTS.to_owned()),
        other => Err(format!("{other} is not shipped")),
    })
    .context("the shipped mapping is wrong")
}

/// The first item of the shipped duty list.
///
/// # Errors
///
/// The shipped catalogue has none.
pub(super) fn duty_item() -> anyhow::Result<String> {
    let catalogue: serde_json::Value =
        serde_json::from_slice(CATALOGUE).context("the shipped catalogue is no JSON")?;
    match catalogue.pointer("/duty_list/0/id").and_then(serde_json::Value::as_str) {
        Some(item) => Ok(item.to_owned()),
        None => bail!("the shipped catalogue has no duty list"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{super::plan::Plan, *};

    #[test]
    fn the_shipped_files_fit_each_other() {
        let plan = Plan::parse(UNITS).unwrap();
        let codes: BTreeSet<&str> = plan.units().iter().map(|unit| unit.code.as_str()).collect();
        let units = mapping().unwrap().units().unwrap();
        for unit in &units {
            assert!(codes.contains(unit.as_str()), "{unit} is no unit of the example");
        }
        assert!(units.iter().any(|unit| unit.as_str() == plan.root().code));
        assert!(!duty_item().unwrap().is_empty());
    }

    #[test]
    fn the_shipped_catalogue_has_every_indicator_of_the_demo() {
        let catalogue: serde_json::Value = serde_json::from_slice(CATALOGUE).unwrap();
        let ids: BTreeSet<&str> = catalogue["indicators"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|indicator| indicator["id"].as_str())
            .collect();
        for id in [
            "received",
            "closed",
            "open",
            "with_target",
            "closed_within_target",
            "overdue",
            "close_seconds",
            "longest_close_seconds",
            "distinct_types",
        ] {
            assert!(ids.contains(id), "{id} is missing");
        }
    }
}
