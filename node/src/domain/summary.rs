//! Summaries: figures with coverage, and how a unit's own and its children's are added up.
//!
//! A child that is missing is never zero: it is left out of the totals and named in the coverage.

use std::collections::BTreeMap;

use crate::{
    clock::UnixMillis,
    domain::{component::Component, period::Period, unit::UnitCode},
};

/// Why figures could not be added up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Counts of units that contradict each other.
    #[error("the coverage contradicts itself at {0}")]
    Coverage(&'static str),
}

/// Whose records a figure holds.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Scope {
    /// The unit's own.
    Own,
    /// Own and all descendants' that the coverage includes.
    Subtree,
}

/// Which figure: everything but the value.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct FigureKey {
    /// Indicator id.
    pub indicator: String,
    /// Version of the indicator.
    pub version: u32,
    /// Group, or empty for all together.
    pub group: String,
}

/// Figures of one scope.
pub type Figures = BTreeMap<FigureKey, Component>;

/// Own and subtree figures of a unit.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct FigureSet {
    /// Over the unit's own records.
    pub own: Figures,
    /// Over the included subtree.
    pub subtree: Figures,
}

/// What became of a unit's figures.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CoverageState {
    /// 已报
    Included,
    /// 沿用上期: the newest known figures are of an older report.
    Stale,
    /// 未报
    Absent,
    /// 异常
    Quarantined,
    /// 零报告
    Zero,
    /// 代报
    ByParent,
}

/// What a direct child contributed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CoverageInput {
    /// The child.
    pub unit: UnitCode,
    /// What became of it.
    pub state: CoverageState,
    /// Digest of the payload that was added.
    pub payload_sha256: Option<[u8; 32]>,
    /// Version that was added.
    pub version: u64,
}

/// A branch that is not in the totals.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CoverageGap {
    /// Head of the branch.
    pub unit: UnitCode,
    /// Why it is not in.
    pub state: CoverageState,
    /// Units of the branch.
    pub units: u32,
    /// Fixed word of the contract.
    pub reason: String,
    /// Time of the newest known figures.
    pub last_known_unix_ms: Option<UnixMillis>,
}

/// Which units the subtree figures hold; counts include the unit itself.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Coverage {
    /// Units that should be in.
    pub expected: u32,
    /// Units that are in.
    pub included: u32,
    /// Units with older figures only.
    pub stale: u32,
    /// Units without figures.
    pub absent: u32,
    /// Units whose figures were refused.
    pub quarantined: u32,
    /// Included units with nothing to report, as they state.
    pub zero: u32,
    /// Included units that their parent entered.
    pub by_parent: u32,
    /// Direct children.
    pub inputs: Vec<CoverageInput>,
    /// Missing branches of the whole subtree.
    pub gaps: Vec<CoverageGap>,
}

impl Coverage {
    /// True if every expected unit is in.
    pub fn is_complete(&self) -> bool {
        self.included == self.expected
    }

    /// Checks that the counts fit each other.
    ///
    /// # Errors
    ///
    /// [`Error::Coverage`] with the field that does not fit.
    pub fn check(&self) -> Result<(), Error> {
        let missing = [self.stale, self.absent, self.quarantined];
        let parts = missing.iter().try_fold(self.included, |sum, part| sum.checked_add(*part));
        if parts != Some(self.expected) {
            return Err(Error::Coverage("expected"));
        }
        let gaps = self.gaps.iter().try_fold(0_u32, |sum, gap| sum.checked_add(gap.units));
        let is_empty = |gap: &CoverageGap| gap.units == 0;
        if gaps != self.expected.checked_sub(self.included) || self.gaps.iter().any(is_empty) {
            return Err(Error::Coverage("gaps"));
        }
        if self.included == 0 || self.zero > self.included || self.by_parent > self.included {
            return Err(Error::Coverage("included"));
        }
        Ok(())
    }
}

/// Reported or live.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SummaryKind {
    /// Kept and superseded.
    Reported,
    /// Answers a pull, no report.
    Live,
}

/// What a unit signs about one period; the figures hang under `cells_root`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Summary {
    /// Whose figures.
    pub unit: UnitCode,
    /// Which period.
    pub period: Period,
    /// Reported or live.
    pub kind: SummaryKind,
    /// From 1; 0 for a live one.
    pub version: u64,
    /// Id of the statement that this one replaces.
    pub supersedes: Option<[u8; 16]>,
    /// Merkle root over the salted cells.
    pub cells_root: [u8; 32],
    /// Number of cells.
    pub cells_count: u32,
    /// What the subtree figures hold.
    pub coverage: Coverage,
    /// When they were computed, the unit's clock.
    pub as_of_unix_ms: UnixMillis,
}

/// What is known of a direct child when its parent adds up.
#[derive(Clone, Debug)]
pub enum Child {
    /// Its figures are at hand.
    Reported {
        /// Its coverage.
        coverage: Coverage,
        /// Its subtree figures.
        subtree: Figures,
        /// Digest of its payload.
        payload_sha256: [u8; 32],
        /// Its version; 0 for a live one.
        version: u64,
    },
    /// They are not.
    Missing {
        /// Stale, absent or quarantined.
        state: CoverageState,
        /// Fixed word of the contract.
        reason: &'static str,
        /// Units of its subtree, itself included.
        units: u32,
        /// Time of the newest known figures.
        last_known_unix_ms: Option<UnixMillis>,
    },
}

/// Adds a unit's own figures and its children's. The order of children does not matter.
///
/// Only figures that the unit's own catalogue declares are added: a child with another version of
/// one of them is left out as a whole and named with `other-version`, and one whose components do
/// not fit or leave the range with `refused`: a child's mistake takes nobody else's figures away.
pub fn roll_up(own: &Figures, children: &BTreeMap<UnitCode, Child>) -> (Figures, Coverage) {
    let mut subtree = own.clone();
    let mut coverage = Coverage { expected: 1, included: 1, ..Coverage::default() };
    for (unit, child) in children {
        match child {
            Child::Reported { coverage: theirs, subtree: figures, payload_sha256, version } => {
                let units = theirs.expected;
                if speaks_other_version(own, figures) {
                    miss(&mut coverage, unit, CoverageState::Stale, units, "other-version", None);
                    continue;
                }
                let Some(sum) = sum_of(own, &subtree, figures) else {
                    miss(&mut coverage, unit, CoverageState::Quarantined, units, "refused", None);
                    continue;
                };
                subtree = sum;
                add_coverage(&mut coverage, theirs);
                let state = if theirs.zero > 0 && theirs.zero == theirs.included {
                    CoverageState::Zero
                } else {
                    CoverageState::Included
                };
                coverage.inputs.push(CoverageInput {
                    unit: unit.clone(),
                    state,
                    payload_sha256: Some(*payload_sha256),
                    version: *version,
                });
            }
            Child::Missing { state, reason, units, last_known_unix_ms } => {
                miss(&mut coverage, unit, *state, *units, reason, *last_known_unix_ms);
            }
        }
    }
    coverage.gaps.sort_by(|a, b| a.unit.cmp(&b.unit));
    (subtree, coverage)
}

/// True unless the child counts everything that this unit's catalogue declares, in its versions. One
/// that has no catalogue yet counts nothing, which is not zero.
fn speaks_other_version(own: &Figures, theirs: &Figures) -> bool {
    own.keys().any(|key| key.group.is_empty() && !theirs.contains_key(key))
}

/// What the unit's catalogue declares; a unit without one takes its children's word.
fn is_declared(own: &Figures, key: &FigureKey) -> bool {
    own.is_empty() || own.contains_key(&is_declared_by(key))
}

/// The figure that shows that a catalogue declares what `key` counts: the one of all groups.
pub(super) fn is_declared_by(key: &FigureKey) -> FigureKey {
    FigureKey { group: String::new(), ..key.clone() }
}

/// `None` if components of one indicator do not fit, or a total leaves its range.
fn sum_of(own: &Figures, total: &Figures, figures: &Figures) -> Option<Figures> {
    let mut sum = total.clone();
    for (key, component) in figures.iter().filter(|(key, _)| is_declared(own, key)) {
        let added = match total.get(key) {
            Some(so_far) => so_far.add(component).ok()?,
            None => component.clone(),
        };
        sum.insert(key.clone(), added);
    }
    Some(sum)
}

fn add_coverage(total: &mut Coverage, theirs: &Coverage) {
    total.expected = total.expected.saturating_add(theirs.expected);
    total.included = total.included.saturating_add(theirs.included);
    total.stale = total.stale.saturating_add(theirs.stale);
    total.absent = total.absent.saturating_add(theirs.absent);
    total.quarantined = total.quarantined.saturating_add(theirs.quarantined);
    total.zero = total.zero.saturating_add(theirs.zero);
    total.by_parent = total.by_parent.saturating_add(theirs.by_parent);
    total.gaps.extend(theirs.gaps.iter().cloned());
}

fn miss(
    total: &mut Coverage,
    unit: &UnitCode,
    state: CoverageState,
    units: u32,
    reason: &str,
    last_known_unix_ms: Option<UnixMillis>,
) {
    total.expected = total.expected.saturating_add(units);
    let count = match state {
        CoverageState::Stale => &mut total.stale,
        CoverageState::Quarantined => &mut total.quarantined,
        CoverageState::Absent
        | CoverageState::Included
        | CoverageState::Zero
        | CoverageState::ByParent => &mut total.absent,
    };
    *count = count.saturating_add(units);
    total.inputs.push(CoverageInput {
        unit: unit.clone(),
        state,
        payload_sha256: None,
        version: 0,
    });
    total.gaps.push(CoverageGap {
        unit: unit.clone(),
        state,
        units,
        reason: reason.to_owned(),
        last_known_unix_ms,
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> UnitCode {
        text.parse().unwrap()
    }

    fn figures(received: u64) -> Figures {
        figures_of_version(received, 1)
    }

    fn figures_of_version(received: u64, version: u32) -> Figures {
        let key = FigureKey { indicator: "received".into(), version, group: String::new() };
        Figures::from([(key, Component::Count(received))])
    }

    fn leaf(received: u64) -> Child {
        Child::Reported {
            coverage: Coverage { expected: 1, included: 1, ..Coverage::default() },
            subtree: figures(received),
            payload_sha256: [7; 32],
            version: 1,
        }
    }

    fn missing(units: u32) -> Child {
        Child::Missing {
            state: CoverageState::Absent,
            reason: "no-link",
            units,
            last_known_unix_ms: None,
        }
    }

    #[test]
    fn own_records_are_counted_beside_the_childrens() {
        let children = BTreeMap::from([(code("A-1"), leaf(3)), (code("A-2"), leaf(4))]);
        let (subtree, coverage) = roll_up(&figures(10), &children);
        assert_eq!(subtree, figures(17));
        assert_eq!((coverage.expected, coverage.included), (3, 3));
        assert!(coverage.is_complete());
        coverage.check().unwrap();
    }

    #[test]
    fn a_missing_branch_is_named_and_never_zero() {
        let children = BTreeMap::from([(code("A-1"), leaf(3)), (code("A-2"), missing(7))]);
        let (subtree, coverage) = roll_up(&figures(10), &children);
        assert_eq!(subtree, figures(13));
        assert_eq!((coverage.expected, coverage.included, coverage.absent), (9, 2, 7));
        assert_eq!(coverage.gaps[0].unit, code("A-2"));
        coverage.check().unwrap();
    }

    #[test]
    fn gaps_of_the_whole_subtree_are_carried_up() {
        let inner = BTreeMap::from([(code("A-1-1"), leaf(3)), (code("A-1-2"), missing(2))]);
        let (subtree, coverage) = roll_up(&figures(1), &inner);
        let street = Child::Reported { coverage, subtree, payload_sha256: [1; 32], version: 4 };
        let outer = BTreeMap::from([(code("A-1"), street)]);
        let (subtree, coverage) = roll_up(&figures(0), &outer);
        assert_eq!(subtree, figures(4));
        assert_eq!((coverage.expected, coverage.included), (5, 3));
        assert_eq!(coverage.gaps.len(), 1);
        assert_eq!(coverage.gaps[0].unit, code("A-1-2"));
        coverage.check().unwrap();
    }

    #[test]
    fn unlike_versions_never_add_up() {
        let child = Child::Reported {
            coverage: Coverage { expected: 4, included: 4, ..Coverage::default() },
            subtree: figures_of_version(5, 2),
            payload_sha256: [1; 32],
            version: 1,
        };
        let (subtree, coverage) = roll_up(&figures(1), &BTreeMap::from([(code("A-1"), child)]));
        assert_eq!(subtree, figures(1));
        assert_eq!((coverage.expected, coverage.included, coverage.stale), (5, 1, 4));
        assert_eq!(coverage.gaps[0].reason, "other-version");
    }

    #[test]
    fn a_child_whose_figures_do_not_fit_is_left_out_alone() {
        let key = figures(0).into_keys().next().unwrap();
        let ratio = Component::Ratio { numerator: 1, denominator: 2 };
        for figures_of_the_bad in [Figures::from([(key, ratio)]), figures(u64::MAX)] {
            let bad = Child::Reported {
                coverage: Coverage { expected: 4, included: 4, ..Coverage::default() },
                subtree: figures_of_the_bad,
                payload_sha256: [1; 32],
                version: 1,
            };
            let children = BTreeMap::from([(code("A-1"), leaf(3)), (code("A-2"), bad)]);
            let (subtree, coverage) = roll_up(&figures(10), &children);
            assert_eq!(subtree, figures(13));
            assert_eq!((coverage.expected, coverage.included, coverage.quarantined), (6, 2, 4));
            assert_eq!(coverage.gaps[0].reason, "refused");
            coverage.check().unwrap();
        }
    }

    #[test]
    fn a_child_without_a_catalogue_counts_nothing_and_that_is_not_zero() {
        let silent = Child::Reported {
            coverage: Coverage { expected: 3, included: 3, ..Coverage::default() },
            subtree: Figures::new(),
            payload_sha256: [1; 32],
            version: 1,
        };
        let (subtree, coverage) = roll_up(&figures(1), &BTreeMap::from([(code("A-1"), silent)]));
        assert_eq!(subtree, figures(1));
        assert_eq!((coverage.expected, coverage.included, coverage.stale), (4, 1, 3));
        assert_eq!(coverage.gaps[0].reason, "other-version");
    }

    #[test]
    fn what_the_catalogue_does_not_declare_is_not_added() {
        let mut theirs = figures(5);
        let key = FigureKey { indicator: "made-up".into(), version: 1, group: String::new() };
        theirs.insert(key, Component::Count(9));
        let child = Child::Reported {
            coverage: Coverage { expected: 1, included: 1, ..Coverage::default() },
            subtree: theirs,
            payload_sha256: [1; 32],
            version: 1,
        };
        let (subtree, coverage) = roll_up(&figures(1), &BTreeMap::from([(code("A-1"), child)]));
        assert_eq!(subtree, figures(6));
        assert!(coverage.is_complete());
    }

    #[test]
    fn coverage_that_contradicts_itself_is_found() {
        let good = Coverage { expected: 2, included: 2, ..Coverage::default() };
        good.check().unwrap();
        Coverage { included: 1, ..good.clone() }.check().unwrap_err();
        Coverage { expected: 3, absent: 1, ..good.clone() }.check().unwrap_err();
        Coverage { zero: 3, ..good.clone() }.check().unwrap_err();
        let gap = CoverageGap {
            unit: code("A-1"),
            state: CoverageState::Absent,
            units: 0,
            reason: "no-link".into(),
            last_known_unix_ms: None,
        };
        Coverage { gaps: vec![gap], ..good }.check().unwrap_err();
    }
}
