//! Figures that are not counted but calculated from two that are, by whoever shows them.
//!
//! Nothing of it is signed or sent, and nothing is rounded before the end: the figures that it is
//! calculated from are, and whoever has them calculates the same.

use serde::Deserialize;

use crate::domain::{
    component::Component,
    indicator::{About, Indicator, MeasureKind},
};

/// What a figure is calculated from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Operand {
    /// The total in thousandths.
    pub milli: i128,
    /// Records in it.
    pub terms: u64,
}

impl Operand {
    /// The operand that a count or a sum is; `None`: another component.
    pub fn of(component: &Component) -> Option<Self> {
        match component {
            Component::Count(count) => Some(Self::of_count(*count)),
            Component::Sum { sum_milli, terms } => Some(Self { milli: *sum_milli, terms: *terms }),
            Component::Ratio { .. }
            | Component::Extreme { .. }
            | Component::Distinct(_)
            | Component::Histogram(_) => None,
        }
    }

    /// The operand that a count is.
    pub fn of_count(count: u64) -> Self {
        Self { milli: i128::from(count) * 1000, terms: count }
    }
}

/// How a figure is calculated.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Formula {
    /// So many of one for each of another.
    Per {
        /// Indicator.
        of: String,
        /// Indicator.
        per: String,
        /// For how many.
        times: u32,
    },
    /// The mean of one less the mean of another.
    Gap {
        /// Indicator, a sum.
        of: String,
        /// Indicator, a sum.
        less: String,
    },
}

/// A derived figure.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Derived {
    /// Id, unlike that of any indicator.
    pub id: String,
    /// English title.
    pub title: String,
    /// Chinese title.
    pub title_zh: String,
    /// How it is calculated.
    pub formula: Formula,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Declared {
    pub(crate) id: String,
    pub(crate) title: String,
    pub(crate) title_zh: String,
    #[serde(default)]
    per: Option<[String; 2]>,
    #[serde(default)]
    times: Option<u32>,
    #[serde(default)]
    gap: Option<[String; 2]>,
}

impl Derived {
    /// Checks; a fault comes with its pointer within the figure.
    pub(crate) fn new(
        declared: Declared,
        indicators: &[Indicator],
    ) -> Result<Self, (&'static str, String)> {
        let Declared { id, title, title_zh, per, times, gap } = declared;
        let formula = match (per, gap, times) {
            (Some(names), None, times) => {
                check(&names, "/per", &[MeasureKind::Count, MeasureKind::Sum], indicators)?;
                let [of, per] = names;
                let times = times.unwrap_or(1);
                if times == 0 {
                    return Err(("/times", "is at least 1".to_owned()));
                }
                Formula::Per { of, per, times }
            }
            (None, Some(names), None) => {
                check(&names, "/gap", &[MeasureKind::Sum], indicators)?;
                let [of, less] = names;
                Formula::Gap { of, less }
            }
            (_, _, _) => {
                let reason = "give either \"per\": [\"…\", \"…\"], which may have \"times\", or \
                              \"gap\": [\"…\", \"…\"]";
                return Err(("", reason.to_owned()));
            }
        };
        Ok(Self { id, title, title_zh, formula })
    }

    /// The indicators that it is calculated from.
    pub fn operands(&self) -> [&str; 2] {
        match &self.formula {
            Formula::Per { of, per, .. } => [of, per],
            Formula::Gap { of, less } => [of, less],
        }
    }

    /// Calculates it, in thousandths, cut; `None`: there is nothing to divide by, or it leaves the
    /// range.
    pub fn milli(&self, [of, other]: [Operand; 2]) -> Option<i128> {
        match self.formula {
            Formula::Per { times, .. } => {
                of.milli.checked_mul(i128::from(times))?.checked_mul(1000)?.checked_div(other.milli)
            }
            Formula::Gap { .. } => {
                let (terms, other_terms) = (i128::from(of.terms), i128::from(other.terms));
                let difference = of
                    .milli
                    .checked_mul(other_terms)?
                    .checked_sub(other.milli.checked_mul(terms)?)?;
                difference.checked_div(terms.checked_mul(other_terms)?)
            }
        }
    }
}

fn check(
    names: &[String; 2],
    pointer: &'static str,
    kinds: &[MeasureKind],
    indicators: &[Indicator],
) -> Result<(), (&'static str, String)> {
    for name in names {
        let indicator = indicators.iter().find(|indicator| indicator.id == *name);
        let indicator =
            indicator.ok_or_else(|| (pointer, format!("{name:?} is no indicator of this list")))?;
        if !kinds.contains(&indicator.kind()) {
            let words: Vec<&str> = kinds.iter().map(|kind| kind.as_str()).collect();
            let reason =
                format!("{name:?} is a {}: use a {}", indicator.kind(), words.join(" or a "));
            return Err((pointer, reason));
        }
        if indicator.about == About::Person {
            let reason = "is about persons: a calculated figure would tell what is not shown";
            return Err((pointer, format!("{name:?} {reason}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn derived(formula: Formula) -> Derived {
        let word = || "t".to_owned();
        Derived { id: word(), title: word(), title_zh: word(), formula }
    }

    #[test]
    fn so_many_for_each_of_another() {
        let times = |times| derived(Formula::Per { of: "a".into(), per: "b".into(), times });
        let count = Operand::of_count;
        assert_eq!(times(10_000).milli([count(737), count(97_200)]), Some(75_823));
        assert_eq!(times(1).milli([count(1), count(3)]), Some(333));
        assert_eq!(times(1).milli([count(1), count(0)]), None, "nothing to divide by");
        let huge = Operand { milli: i128::MAX, terms: 1 };
        assert_eq!(times(10).milli([huge, count(1)]), None, "never wrapped");
    }

    #[test]
    fn a_gap_is_that_of_the_means() {
        let gap = derived(Formula::Gap { of: "a".into(), less: "b".into() });
        let (up, down) =
            (Operand { milli: 250_000, terms: 3 }, Operand { milli: 90_000, terms: 1 });
        // 83.333… less 90.
        assert_eq!(gap.milli([up, down]), Some(-6_666));
        assert_eq!(gap.milli([up, Operand { milli: 0, terms: 0 }]), None);
        assert_eq!(Operand::of(&Component::Count(2)), Some(Operand { milli: 2000, terms: 2 }));
        assert_eq!(Operand::of(&Component::Ratio { numerator: 1, denominator: 2 }), None);
    }
}
