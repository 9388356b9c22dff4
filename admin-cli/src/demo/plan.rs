//! Which units there are, and which host serves which: one host for the city, for each district
//! and for each street; a street's host serves its communities too.

use std::{collections::BTreeMap, fmt};

use lianxi_node::domain::unit::{self, Level, UnitCode};
use serde::Deserialize;

/// Why a list of units was not accepted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The list is no CSV with the four columns.
    #[error("the list of units cannot be read")]
    Csv(#[from] csv::Error),
    /// A code or level is none.
    #[error("line {line} of the list of units")]
    Line {
        /// Line from 1, the heading counted.
        line: u64,
        /// What is wrong.
        #[source]
        source: unit::Error,
    },
    /// The units are no tree.
    #[error("{0}: {1}")]
    Tree(String, TreeFault),
}

/// What keeps units from being a tree.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum TreeFault {
    /// The code is there twice.
    Twice,
    /// The parent is not in the list.
    NoParent,
    /// The parent does not stand above it.
    ParentNotAbove,
    /// A second unit without a parent.
    SecondRoot,
    /// A community whose parent is no street has no host.
    NoHost,
    /// There is no unit without a parent.
    NoRoot,
}

impl fmt::Display for TreeFault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Twice => "the code is there twice",
            Self::NoParent => "its parent is not in the list",
            Self::ParentNotAbove => "its parent does not stand above it",
            Self::SecondRoot => "a second unit without a parent",
            Self::NoHost => "a community has to stand under a street",
            Self::NoRoot => "no unit is without a parent",
        })
    }
}

#[derive(Deserialize)]
struct Row {
    code: String,
    name: String,
    level: String,
    parent: String,
}

/// A unit of the plan.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Unit {
    /// Code.
    pub(crate) code: String,
    /// What people call it.
    pub(crate) title: String,
    /// Level.
    pub(crate) level: Level,
    /// Code of the parent; empty at the root.
    pub(crate) parent: String,
}

/// Units as a tree, with their hosts.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    units: Vec<Unit>,
}

impl Plan {
    /// Reads a list of units: CSV with `code,name,level,parent`.
    ///
    /// # Errors
    ///
    /// [`Error`], with the line or unit.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let mut units = Vec::new();
        for row in csv::Reader::from_reader(text.as_bytes()).deserialize() {
            let row: Row = row?;
            let line = u64::try_from(units.len()).unwrap_or(u64::MAX).saturating_add(2);
            let failed = |source| Error::Line { line, source };
            let code: UnitCode = row.code.parse().map_err(failed)?;
            let level: Level = row.level.parse().map_err(failed)?;
            units.push(Unit { code: code.into(), title: row.name, level, parent: row.parent });
        }
        check(&units)?;
        Ok(Self { units })
    }

    /// All units in the order of the list.
    pub(crate) fn units(&self) -> &[Unit] {
        &self.units
    }

    /// The unit without a parent.
    pub(crate) fn root(&self) -> &Unit {
        let root = self.units.iter().find(|unit| unit.parent.is_empty());
        root.expect("invariant: a plan is checked to have a root")
    }

    /// Heads of hosts at a level.
    pub(crate) fn hosts_at(&self, level: Level) -> Vec<&Unit> {
        self.units.iter().filter(|unit| unit.level == level && is_host(unit)).collect()
    }

    /// Heads of all hosts, the highest level first.
    pub(crate) fn hosts(&self) -> Vec<&Unit> {
        HOST_LEVELS.iter().flat_map(|level| self.hosts_at(*level)).collect()
    }

    /// Direct children of a unit.
    pub(crate) fn children(&self, code: &str) -> Vec<&Unit> {
        self.units.iter().filter(|unit| unit.parent == code).collect()
    }

    /// Units that the host of `head` serves, `head` first.
    pub(crate) fn served_by<'a>(&'a self, head: &'a Unit) -> Vec<&'a Unit> {
        let guests = self.children(&head.code).into_iter().filter(|unit| !is_host(unit));
        std::iter::once(head).chain(guests).collect()
    }

    /// The first district with a street that has a community, and that street.
    pub(crate) fn scene(&self) -> Option<(&Unit, &Unit)> {
        self.hosts_at(Level::District).into_iter().find_map(|district| {
            let streets = self.children(&district.code);
            let street = streets.into_iter().find(|street| !self.children(&street.code).is_empty());
            street.map(|street| (district, street))
        })
    }
}

/// Levels whose units have a host of their own, the highest first.
pub(crate) const HOST_LEVELS: [Level; 3] = [Level::City, Level::District, Level::Street];

fn is_host(unit: &Unit) -> bool {
    HOST_LEVELS.contains(&unit.level)
}

fn check(units: &[Unit]) -> Result<(), Error> {
    let mut levels = BTreeMap::new();
    for unit in units {
        if levels.insert(unit.code.as_str(), unit.level).is_some() {
            return Err(Error::Tree(unit.code.clone(), TreeFault::Twice));
        }
    }
    let mut has_root = false;
    for unit in units {
        let fault = match levels.get(unit.parent.as_str()) {
            None if unit.parent.is_empty() && has_root => Some(TreeFault::SecondRoot),
            None if unit.parent.is_empty() => {
                has_root = true;
                None
            }
            None => Some(TreeFault::NoParent),
            Some(parent) if !parent.is_above(unit.level) => Some(TreeFault::ParentNotAbove),
            Some(parent) if !is_host(unit) && *parent != Level::Street => Some(TreeFault::NoHost),
            Some(_) => None,
        };
        if let Some(fault) = fault {
            return Err(Error::Tree(unit.code.clone(), fault));
        }
    }
    if has_root { Ok(()) } else { Err(Error::Tree("units".to_owned(), TreeFault::NoRoot)) }
}

#[cfg(test)]
mod tests {
    use super::{super::example, *};

    const SMALL: &str = "code,name,level,parent\nC,City,city,\nD,District,district,C\n\
                         S,Street,street,D\nA,Community A,community,S\nB,Community B,community,S\n";

    #[test]
    fn the_shipped_units_have_58_hosts() {
        let plan = Plan::parse(example::UNITS).unwrap();
        assert_eq!(plan.units().len(), 312);
        assert_eq!(plan.hosts().len(), 58);
        let served: usize = plan.hosts().iter().map(|head| plan.served_by(head).len()).sum();
        assert_eq!(served, 312);
        assert_eq!(plan.root().code, "BOS");
        let (district, street) = plan.scene().unwrap();
        assert_eq!(street.parent, district.code);
    }

    #[test]
    fn a_streets_host_serves_its_communities() {
        let plan = Plan::parse(SMALL).unwrap();
        let street = plan.hosts_at(Level::Street)[0];
        let codes: Vec<&str> =
            plan.served_by(street).iter().map(|unit| unit.code.as_str()).collect();
        assert_eq!(codes, ["S", "A", "B"]);
        assert_eq!(plan.served_by(plan.root()).len(), 1);
    }

    #[test]
    fn lists_that_are_no_tree_are_refused_with_the_unit() {
        for (added, code, fault) in [
            ("A,Again,community,S\n", "A", TreeFault::Twice),
            ("X,Lost,street,NONE\n", "X", TreeFault::NoParent),
            ("X,High,street,A\n", "X", TreeFault::ParentNotAbove),
            ("X,Other city,city,\n", "X", TreeFault::SecondRoot),
            ("X,Homeless,community,D\n", "X", TreeFault::NoHost),
        ] {
            match Plan::parse(&format!("{SMALL}{added}")) {
                Err(Error::Tree(unit, found)) => assert_eq!((unit.as_str(), found), (code, fault)),
                other => panic!("{added}: {other:?}"),
            }
        }
        assert!(matches!(Plan::parse("code,name,level,parent\n"), Err(Error::Tree(..))));
    }

    #[test]
    fn a_wrong_level_is_refused_with_its_line() {
        let error = Plan::parse(&format!("{SMALL}X,X,county,C\n")).unwrap_err();
        assert!(matches!(error, Error::Line { line: 7, .. }), "{error}");
        assert!(matches!(Plan::parse("code,name\nC,City\n"), Err(Error::Csv(_))));
    }
}
