//! Adds a unit's figures up again from what it and its children signed, and tells what cannot be
//! added because it is withheld.
//!
//! Promises that a total counts as recomputed only if every part of it is known: a figure that could
//! be hidden is never taken for one that is not there. The rules are those of
//! `roll_up` of [`super::summary`].

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::{
    component::Component,
    summary::{Child, Coverage, CoverageInput, FigureKey, Figures, Scope, is_declared_by, roll_up},
    unit::UnitCode,
};

/// Place of a figure among the cells of a summary: own ones first, each scope by key.
type Place = (Scope, FigureKey);

/// Cells are not in the order of scope and key, or one is there twice.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("cells are not in the order of scope, indicator, version and group")]
pub struct Disorder;

/// The figures of one summary, as far as they are disclosed.
#[derive(Clone, Debug, Default)]
pub struct Disclosed {
    figures: BTreeMap<Place, Component>,
    /// Withheld cells lie between these places; `None`: the end.
    hidden: Vec<(Option<Place>, Option<Place>)>,
    withheld: u32,
}

/// What is known of one figure.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Known<'a> {
    Value(&'a Component),
    Absent,
    /// It could be among the withheld ones.
    Hidden,
}

impl Disclosed {
    /// Takes the cells of a summary in the order of their index; `None` for a withheld one.
    ///
    /// # Errors
    ///
    /// [`Disorder`]: then a withheld cell could be any figure.
    pub fn new(cells: Vec<Option<(Scope, FigureKey, Component)>>) -> Result<Self, Disorder> {
        let mut disclosed = Self::default();
        let mut last: Option<Place> = None;
        let mut run = false;
        for cell in cells {
            let Some((scope, key, component)) = cell else {
                disclosed.withheld += 1;
                run = true;
                continue;
            };
            let place = (scope, key);
            if last.as_ref().is_some_and(|last| *last >= place) {
                return Err(Disorder);
            }
            if run {
                disclosed.hidden.push((last.take(), Some(place.clone())));
                run = false;
            }
            last = Some(place.clone());
            disclosed.figures.insert(place, component);
        }
        if run {
            disclosed.hidden.push((last, None));
        }
        Ok(disclosed)
    }

    /// Number of withheld cells.
    pub fn withheld(&self) -> u32 {
        self.withheld
    }

    /// Disclosed figures of one scope.
    pub fn figures(&self, scope: Scope) -> Figures {
        let of_scope = self.figures.iter().filter(|((of, _), _)| *of == scope);
        of_scope.map(|((_, key), component)| (key.clone(), component.clone())).collect()
    }

    fn keys(&self, scope: Scope) -> impl Iterator<Item = &FigureKey> {
        self.figures.keys().filter(move |(of, _)| *of == scope).map(|(_, key)| key)
    }

    fn at(&self, scope: Scope, key: &FigureKey) -> Known<'_> {
        let place = (scope, key.clone());
        if let Some(component) = self.figures.get(&place) {
            return Known::Value(component);
        }
        let covers = |(from, to): &(Option<Place>, Option<Place>)| {
            from.as_ref().is_none_or(|from| *from < place)
                && to.as_ref().is_none_or(|to| place < *to)
        };
        if self.hidden.iter().any(covers) { Known::Hidden } else { Known::Absent }
    }

    /// True if the unit certainly counts nothing itself.
    fn counts_nothing(&self) -> bool {
        let begins_later =
            |(from, _): &(Option<Place>, Option<Place>)| matches!(from, Some((Scope::Subtree, _)));
        self.keys(Scope::Own).next().is_none() && self.hidden.iter().all(begins_later)
    }

    /// Whether the unit's catalogue declares what a child counts under `key`; `None`: withheld.
    fn declares(&self, key: &FigureKey) -> Option<bool> {
        if self.counts_nothing() {
            return Some(true);
        }
        match self.at(Scope::Own, &is_declared_by(key)) {
            Known::Value(_) => Some(true),
            Known::Absent => Some(false),
            Known::Hidden => None,
        }
    }
}

/// What came of adding a unit's figures up again.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Explained {
    /// Totals that are what was signed.
    pub recomputed: u32,
    /// Totals that are signed, but of which a part is withheld or not at hand.
    pub unexplained: Vec<FigureKey>,
}

/// A total that is not the sum of its parts.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct WrongTotal {
    /// Which.
    pub key: FigureKey,
    /// What the parts add up to, if they do.
    pub expected: Option<Component>,
}

/// Adds up every total of `unit` from its own figures and the totals of the included children.
/// `None` stands for a child whose summary is not at hand.
///
/// # Errors
///
/// [`WrongTotal`]: the first, in the order of keys, that is not the sum of its parts.
pub fn explain(
    unit: &Disclosed,
    children: &[Option<&Disclosed>],
) -> Result<Explained, Box<WrongTotal>> {
    let at_hand = || children.iter().flatten();
    let mut keys: BTreeSet<&FigureKey> = unit.figures.keys().map(|(_, key)| key).collect();
    keys.extend(at_hand().flat_map(|child| child.keys(Scope::Subtree)));
    let mut explained = Explained::default();
    for key in keys {
        let total = unit.at(Scope::Subtree, key);
        match sum(unit, children, key) {
            Sum::Hidden if matches!(total, Known::Value(_)) => {
                explained.unexplained.push(key.clone());
            }
            Sum::Hidden => {}
            Sum::Of(expected) => match total {
                Known::Hidden => {}
                Known::Value(signed) if expected.as_ref() == Some(signed) => {
                    explained.recomputed += 1;
                }
                Known::Absent if expected.is_none() => {}
                Known::Value(_) | Known::Absent => {
                    return Err(Box::new(WrongTotal { key: key.clone(), expected }));
                }
            },
            Sum::Impossible => {
                return Err(Box::new(WrongTotal { key: key.clone(), expected: None }));
            }
        }
    }
    Ok(explained)
}

/// What the parts of a total come to.
enum Sum {
    Of(Option<Component>),
    Hidden,
    /// They do not fit each other, so no unit adds them.
    Impossible,
}

fn sum(unit: &Disclosed, children: &[Option<&Disclosed>], key: &FigureKey) -> Sum {
    let mut parts = vec![unit.at(Scope::Own, key)];
    match unit.declares(key) {
        Some(false) => {}
        None => return Sum::Hidden,
        Some(true) => {
            let of = |child: &Option<&'_ Disclosed>| child.is_none();
            if children.iter().any(of) {
                return Sum::Hidden;
            }
            parts.extend(children.iter().flatten().map(|child| child.at(Scope::Subtree, key)));
        }
    }
    if parts.contains(&Known::Hidden) {
        return Sum::Hidden;
    }
    let mut total: Option<Component> = None;
    for part in parts {
        let Known::Value(component) = part else { continue };
        let added = match &total {
            None => Ok(component.clone()),
            Some(so_far) => so_far.add(component),
        };
        match added {
            Ok(added) => total = Some(added),
            Err(_) => return Sum::Impossible,
        }
    }
    Sum::Of(total)
}

/// The first figure that the unit's catalogue declares and an included child certainly does not
/// count: such a child would have been left out.
pub fn not_counted(unit: &Disclosed, child: &Disclosed) -> Option<FigureKey> {
    let declared = unit.keys(Scope::Own).filter(|key| key.group.is_empty());
    declared.into_iter().find(|key| child.at(Scope::Subtree, key) == Known::Absent).cloned()
}

/// Counts the coverage of a unit again from that of its included children, each with the digest of
/// its payload and its version. What it says of missing branches is taken as it is.
///
/// Returns the first field that differs.
pub fn recount(
    signed: &Coverage,
    included: &BTreeMap<UnitCode, (&Coverage, [u8; 32], u64)>,
) -> Result<(), &'static str> {
    let mut children = BTreeMap::new();
    for input in &signed.inputs {
        let child = child_of(signed, input, included).ok_or("inputs")?;
        children.insert(input.unit.clone(), child);
    }
    let (_, counted) = roll_up(&Figures::new(), &children);
    let differs = [
        ("expected", counted.expected != signed.expected),
        ("included", counted.included != signed.included),
        ("stale", counted.stale != signed.stale),
        ("absent", counted.absent != signed.absent),
        ("quarantined", counted.quarantined != signed.quarantined),
        ("zero", counted.zero != signed.zero),
        ("by_parent", counted.by_parent != signed.by_parent),
        ("inputs", counted.inputs != signed.inputs),
        ("gaps", counted.gaps != signed.gaps),
    ];
    match differs.iter().find(|(_, differs)| *differs) {
        Some((field, _)) => Err(field),
        None => Ok(()),
    }
}

/// Words of gaps, as the fold writes them.
const GAP_REASONS: [&str; 6] =
    ["no-link", "deadline", "no-report", "refused", "other-version", "moving"];

fn child_of(
    signed: &Coverage,
    input: &CoverageInput,
    included: &BTreeMap<UnitCode, (&Coverage, [u8; 32], u64)>,
) -> Option<Child> {
    if input.payload_sha256.is_some() {
        let (coverage, payload_sha256, version) = included.get(&input.unit)?;
        return Some(Child::Reported {
            coverage: (*coverage).clone(),
            subtree: Figures::new(),
            payload_sha256: *payload_sha256,
            version: *version,
        });
    }
    let gap = signed.gaps.iter().find(|gap| gap.unit == input.unit)?;
    let reason = GAP_REASONS.into_iter().find(|reason| gap.reason == *reason)?;
    Some(Child::Missing {
        state: gap.state,
        reason,
        units: gap.units,
        last_known_unix_ms: gap.last_known_unix_ms,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(indicator: &str, group: &str) -> FigureKey {
        FigureKey { indicator: indicator.to_owned(), version: 1, group: group.to_owned() }
    }

    fn code(text: &str) -> UnitCode {
        text.parse().unwrap()
    }

    fn figures(pairs: &[(&str, &str, u64)]) -> Figures {
        let figure = |(indicator, group, count): &(&str, &str, u64)| {
            (key(indicator, group), Component::Count(*count))
        };
        pairs.iter().map(figure).collect()
    }

    type Cells = Vec<Option<(Scope, FigureKey, Component)>>;

    fn cells(own: &Figures, subtree: &Figures) -> Cells {
        let of = |scope, figures: &Figures| -> Cells {
            let one =
                |(key, value): (&FigureKey, &Component)| Some((scope, key.clone(), value.clone()));
            figures.iter().map(one).collect()
        };
        [of(Scope::Own, own), of(Scope::Subtree, subtree)].concat()
    }

    fn disclosed(own: &Figures, subtree: &Figures) -> Disclosed {
        Disclosed::new(cells(own, subtree)).unwrap()
    }

    fn withheld(own: &Figures, subtree: &Figures, indicator: &str) -> Disclosed {
        let hide = |cell: Option<(Scope, FigureKey, Component)>| {
            cell.filter(|(_, key, _)| key.indicator != indicator)
        };
        Disclosed::new(cells(own, subtree).into_iter().map(hide).collect()).unwrap()
    }

    /// A parent with two children, of which one has a group that the others do not have.
    fn family() -> [(Figures, Figures); 3] {
        let one = figures(&[("closed", "", 2), ("open", "", 3), ("open", "water", 3)]);
        let two = figures(&[("closed", "", 1), ("open", "", 4), ("open", "fire", 4)]);
        let own = figures(&[("closed", "", 5), ("open", "", 0)]);
        let total = figures(&[
            ("closed", "", 8),
            ("open", "", 7),
            ("open", "fire", 4),
            ("open", "water", 3),
        ]);
        [(own, total), (one.clone(), one), (two.clone(), two)]
    }

    #[test]
    fn what_the_fold_adds_up_is_explained_in_full() {
        let [parent, one, two] = family().map(|(own, subtree)| disclosed(&own, &subtree));
        let explained = explain(&parent, &[Some(&one), Some(&two)]).unwrap();
        assert_eq!(explained, Explained { recomputed: 4, unexplained: vec![] });
        assert_eq!(not_counted(&parent, &one), None);
        let reported = |figures: Figures| Child::Reported {
            coverage: Coverage { expected: 1, included: 1, ..Coverage::default() },
            subtree: figures,
            payload_sha256: [1; 32],
            version: 1,
        };
        let [(own, total), (_, one), (_, two)] = family();
        let children = BTreeMap::from([(code("A-1"), reported(one)), (code("A-2"), reported(two))]);
        assert_eq!(roll_up(&own, &children).0, total);
    }

    #[test]
    fn a_total_that_is_not_the_sum_of_its_parts_is_found() {
        let [(own, total), one, two] = family();
        let [one, two] = [one, two].map(|(own, subtree)| disclosed(&own, &subtree));
        for changed in total.keys() {
            let mut wrong = total.clone();
            wrong.insert(changed.clone(), Component::Count(99));
            let error = explain(&disclosed(&own, &wrong), &[Some(&one), Some(&two)]).unwrap_err();
            assert_eq!((error.key, error.expected), (changed.clone(), total.get(changed).cloned()));
            let mut left_out = total.clone();
            left_out.remove(changed);
            explain(&disclosed(&own, &left_out), &[Some(&one), Some(&two)]).unwrap_err();
        }
        // A child left out, or added twice.
        explain(&disclosed(&own, &total), &[Some(&one)]).unwrap_err();
        explain(&disclosed(&own, &total), &[Some(&one), Some(&two), Some(&two)]).unwrap_err();
    }

    #[test]
    fn a_total_with_a_withheld_part_is_named_and_the_others_are_recomputed() {
        let [(own, total), (own_1, one), two] = family();
        let parent = disclosed(&own, &total);
        let two = disclosed(&two.0, &two.1);
        let one = withheld(&own_1, &one, "open");
        let explained = explain(&parent, &[Some(&one), Some(&two)]).unwrap();
        assert_eq!(explained.recomputed, 1);
        let open = ["", "fire", "water"].map(|group| key("open", group));
        assert_eq!(explained.unexplained, open);
        // Not at hand at all: nothing is recomputed, nothing is wrong.
        let explained = explain(&parent, &[None, Some(&two)]).unwrap();
        assert_eq!((explained.recomputed, explained.unexplained.len()), (0, 4));
    }

    #[test]
    fn an_indicator_withheld_everywhere_hides_nothing_else() {
        let all = family().map(|(own, subtree)| withheld(&own, &subtree, "open"));
        let explained = explain(&all[0], &[Some(&all[1]), Some(&all[2])]).unwrap();
        assert_eq!(explained, Explained { recomputed: 1, unexplained: vec![] });
        // The wrong total that is left is still found.
        let [(own, mut total), ..] = family();
        total.insert(key("closed", ""), Component::Count(9));
        let wrong = withheld(&own, &total, "open");
        explain(&wrong, &[Some(&all[1]), Some(&all[2])]).unwrap_err();
    }

    #[test]
    fn a_hidden_figure_is_never_taken_for_one_that_is_not_there() {
        let [(own, total), ..] = family();
        let hidden = withheld(&own, &total, "open");
        assert_eq!(hidden.at(Scope::Own, &key("open", "x")), Known::Hidden);
        assert_eq!(hidden.at(Scope::Subtree, &key("zzz", "")), Known::Hidden);
        assert_eq!(hidden.at(Scope::Own, &key("abc", "")), Known::Absent);
        let (own, total) = (figures(&[("a", "", 1), ("b", "", 1)]), Figures::new());
        let first = withheld(&own, &total, "a");
        assert_eq!(first.at(Scope::Own, &key("b", "x")), Known::Absent);
        assert!(!first.counts_nothing());
    }

    #[test]
    fn a_child_that_does_not_count_what_is_declared_cannot_be_included() {
        let [(own, total), (own_1, mut one), _] = family();
        one.remove(&key("closed", ""));
        let parent = disclosed(&own, &total);
        assert_eq!(not_counted(&parent, &disclosed(&own_1, &one)), Some(key("closed", "")));
    }

    #[test]
    fn cells_out_of_order_or_twice_are_refused() {
        let [(own, total), ..] = family();
        let mut swapped = cells(&own, &total);
        swapped.swap(0, 1);
        assert_eq!(Disclosed::new(swapped).unwrap_err(), Disorder);
        let mut twice = cells(&own, &total);
        twice.insert(1, twice[0].clone());
        assert_eq!(Disclosed::new(twice).unwrap_err(), Disorder);
    }

    #[test]
    fn every_count_of_the_coverage_is_counted_again() {
        let leaf = Coverage { expected: 1, included: 1, ..Coverage::default() };
        let reported = Child::Reported {
            coverage: leaf.clone(),
            subtree: Figures::new(),
            payload_sha256: [7; 32],
            version: 3,
        };
        let missing = Child::Missing {
            state: crate::domain::summary::CoverageState::Absent,
            reason: "no-report",
            units: 2,
            last_known_unix_ms: None,
        };
        let children = BTreeMap::from([(code("A-1"), reported), (code("A-2"), missing)]);
        let (_, signed) = roll_up(&Figures::new(), &children);
        let included = BTreeMap::from([(code("A-1"), (&leaf, [7; 32], 3))]);
        recount(&signed, &included).unwrap();
        let other = BTreeMap::from([(code("A-1"), (&leaf, [7; 32], 2))]);
        assert_eq!(recount(&signed, &other), Err("inputs"));
        assert_eq!(recount(&signed, &BTreeMap::new()), Err("inputs"));
        let wrong = Coverage { zero: 1, ..signed.clone() };
        assert_eq!(recount(&wrong, &included), Err("zero"));
        let mut wrong = signed.clone();
        wrong.gaps[0].units = 3;
        assert_eq!(recount(&wrong, &included), Err("expected"));
        let mut wrong = signed;
        wrong.inputs.pop();
        assert_eq!(recount(&wrong, &included), Err("expected"));
    }
}
