//! What a figure is made of: parts that add without loss, in any order.
//!
//! Whoever shows a rate or a mean divides; nothing here does. Additions are checked: a total that
//! leaves its range is an error, never a wrapped number.

use crate::domain::{
    distinct::{self, Distinct},
    histogram::{self, Histogram},
    indicator::Contribution,
};

/// Version of the stored form.
const FORMAT: u8 = 1;

/// Why components do not add, or bytes are no component.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// Components of two measures.
    #[error("a {0} and a {1} do not add")]
    Mismatch(MeasureKind, MeasureKind),
    /// A total leaves its integer range.
    #[error("the total leaves the range of a {0}")]
    Overflow(MeasureKind),
    /// More is taken out of a total than went in.
    #[error("the total of a {0} does not hold what is taken out of it")]
    Underflow(MeasureKind),
    /// An extreme or a set cannot be made smaller: compute it again from what is left.
    #[error("nothing can be taken out of a {0}")]
    NotRemovable(MeasureKind),
    /// Bytes of another format version.
    #[error("stored component has format {0}, but this program reads {FORMAT}: upgrade it")]
    Format(u8),
    /// Bytes that were never written.
    #[error("stored component is damaged")]
    Damaged,
    /// A set that was never written.
    #[error("stored component is damaged")]
    Distinct(#[from] distinct::Error),
    /// A histogram that was never written.
    #[error("stored component is damaged")]
    Histogram(#[from] histogram::Error),
}

/// Kind of a measure, and of its components.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum MeasureKind {
    /// Number of records.
    Count,
    /// Sum of a value.
    Sum,
    /// Records that meet a condition, of those that meet another.
    Ratio,
    /// Smallest and largest value.
    Extreme,
    /// Number of different values.
    Distinct,
    /// How values spread.
    Histogram,
}

impl MeasureKind {
    /// The word of the catalogue.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Sum => "sum",
            Self::Ratio => "ratio",
            Self::Extreme => "extreme",
            Self::Distinct => "distinct",
            Self::Histogram => "histogram",
        }
    }
}

impl std::fmt::Display for MeasureKind {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// A mergeable total.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Component {
    /// Number of records.
    Count(u64),
    /// Sum in thousandths of the indicator's unit, and the number of its terms.
    Sum {
        /// The sum.
        sum_milli: i128,
        /// Number of terms.
        terms: u64,
    },
    /// Counts of records.
    Ratio {
        /// Records that meet the numerator's condition.
        numerator: u64,
        /// Records that meet the denominator's.
        denominator: u64,
    },
    /// Extremes in thousandths of the indicator's unit; `None`: no values.
    Extreme {
        /// Smallest value.
        min_milli: Option<i64>,
        /// Largest value.
        max_milli: Option<i64>,
    },
    /// Different values.
    Distinct(Distinct),
    /// Values by bucket, in thousandths of the indicator's unit.
    Histogram(Histogram),
}

impl Component {
    /// Returns the total of no records.
    pub fn zero(measure: MeasureKind) -> Self {
        match measure {
            MeasureKind::Count => Self::Count(0),
            MeasureKind::Sum => Self::Sum { sum_milli: 0, terms: 0 },
            MeasureKind::Ratio => Self::Ratio { numerator: 0, denominator: 0 },
            MeasureKind::Extreme => Self::Extreme { min_milli: None, max_milli: None },
            MeasureKind::Distinct => Self::Distinct(Distinct::default()),
            MeasureKind::Histogram => Self::Histogram(Histogram::default()),
        }
    }

    /// Which measure the total is of.
    pub fn kind(&self) -> MeasureKind {
        match self {
            Self::Count(_) => MeasureKind::Count,
            Self::Sum { .. } => MeasureKind::Sum,
            Self::Ratio { .. } => MeasureKind::Ratio,
            Self::Extreme { .. } => MeasureKind::Extreme,
            Self::Distinct(_) => MeasureKind::Distinct,
            Self::Histogram(_) => MeasureKind::Histogram,
        }
    }

    /// True if no record went in.
    pub fn is_zero(&self) -> bool {
        match self {
            Self::Count(count) => *count == 0,
            Self::Sum { terms, .. } => *terms == 0,
            Self::Ratio { numerator, denominator } => (*numerator, *denominator) == (0, 0),
            Self::Extreme { min_milli, .. } => min_milli.is_none(),
            Self::Distinct(set) => set.is_exact() && set.hashes().is_empty(),
            Self::Histogram(histogram) => histogram.total() == 0,
        }
    }

    /// Adds two totals. The order of additions does not matter.
    ///
    /// # Errors
    ///
    /// - [`Error::Mismatch`]: totals of two measures.
    /// - [`Error::Overflow`]: a total leaves its integer range.
    pub fn add(&self, other: &Self) -> Result<Self, Error> {
        let overflow = || Error::Overflow(self.kind());
        let counts = |a: &u64, b: &u64| a.checked_add(*b).ok_or_else(overflow);
        Ok(match (self, other) {
            (Self::Count(a), Self::Count(b)) => Self::Count(counts(a, b)?),
            (
                Self::Sum { sum_milli: a, terms: a_terms },
                Self::Sum { sum_milli: b, terms: b_terms },
            ) => Self::Sum {
                sum_milli: a.checked_add(*b).ok_or_else(overflow)?,
                terms: counts(a_terms, b_terms)?,
            },
            (
                Self::Ratio { numerator: a, denominator: a_of },
                Self::Ratio { numerator: b, denominator: b_of },
            ) => Self::Ratio { numerator: counts(a, b)?, denominator: counts(a_of, b_of)? },
            (
                Self::Extreme { min_milli: a_min, max_milli: a_max },
                Self::Extreme { min_milli: b_min, max_milli: b_max },
            ) => Self::Extreme {
                min_milli: a_min.iter().chain(b_min).min().copied(),
                max_milli: a_max.iter().chain(b_max).max().copied(),
            },
            (Self::Distinct(a), Self::Distinct(b)) => {
                let mut set = a.clone();
                set.merge(b);
                Self::Distinct(set)
            }
            (Self::Histogram(a), Self::Histogram(b)) => {
                Self::Histogram(a.merged(b).ok_or_else(overflow)?)
            }
            _ => return Err(Error::Mismatch(self.kind(), other.kind())),
        })
    }

    /// Adds what one record contributes.
    ///
    /// # Errors
    ///
    /// As [`add`](Self::add); the total is then as it was.
    pub fn insert(&mut self, contribution: &Contribution) -> Result<(), Error> {
        if let (Self::Distinct(set), Contribution::Distinct(hash)) = (&mut *self, contribution) {
            set.insert(*hash);
            return Ok(());
        }
        if let (Self::Histogram(histogram), Contribution::Histogram(milli)) =
            (&mut *self, contribution)
        {
            let fits = histogram.insert(*milli);
            return fits.then_some(()).ok_or(Error::Overflow(MeasureKind::Histogram));
        }
        *self = self.add(&Self::from(contribution))?;
        Ok(())
    }

    /// Takes out what one record contributed.
    ///
    /// # Errors
    ///
    /// - [`Error::NotRemovable`]: extremes and sets are computed again from what is left.
    /// - [`Error::Underflow`]: the total never held it.
    /// - As [`add`](Self::add). The total is then as it was.
    pub fn remove(&mut self, contribution: &Contribution) -> Result<(), Error> {
        if let (Self::Histogram(histogram), Contribution::Histogram(milli)) =
            (&mut *self, contribution)
        {
            let was_in = histogram.remove(*milli);
            return was_in.then_some(()).ok_or(Error::Underflow(MeasureKind::Histogram));
        }
        *self = self.subtract(&Self::from(contribution))?;
        Ok(())
    }

    /// Takes a total out of this one.
    ///
    /// # Errors
    ///
    /// As [`remove`](Self::remove).
    pub fn subtract(&self, taken: &Self) -> Result<Self, Error> {
        let underflow = || Error::Underflow(taken.kind());
        let counts = |a: &u64, b: &u64| a.checked_sub(*b).ok_or_else(underflow);
        Ok(match (self, taken) {
            (Self::Count(a), Self::Count(b)) => Self::Count(counts(a, b)?),
            (
                Self::Sum { sum_milli: a, terms: a_terms },
                Self::Sum { sum_milli: b, terms: b_terms },
            ) => Self::Sum {
                sum_milli: a.checked_sub(*b).ok_or_else(|| Error::Overflow(taken.kind()))?,
                terms: counts(a_terms, b_terms)?,
            },
            (
                Self::Ratio { numerator: a, denominator: a_of },
                Self::Ratio { numerator: b, denominator: b_of },
            ) => Self::Ratio { numerator: counts(a, b)?, denominator: counts(a_of, b_of)? },
            (Self::Histogram(a), Self::Histogram(b)) => {
                Self::Histogram(a.without(b).ok_or_else(underflow)?)
            }
            (own, _) if own.kind() == taken.kind() => return Err(Error::NotRemovable(own.kind())),
            (own, _) => return Err(Error::Mismatch(own.kind(), taken.kind())),
        })
    }

    /// Returns the stored form. The same total has the same bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![FORMAT, tag(self.kind())];
        match self {
            Self::Count(count) => bytes.extend(count.to_be_bytes()),
            Self::Sum { sum_milli, terms } => {
                bytes.extend(sum_milli.to_be_bytes());
                bytes.extend(terms.to_be_bytes());
            }
            Self::Ratio { numerator, denominator } => {
                bytes.extend(numerator.to_be_bytes());
                bytes.extend(denominator.to_be_bytes());
            }
            Self::Extreme { min_milli, max_milli } => {
                let extremes = min_milli.iter().chain(max_milli);
                bytes.extend(extremes.flat_map(|value| value.to_be_bytes()));
            }
            Self::Distinct(set) if set.is_exact() => {
                bytes.extend(set.hashes().iter().flat_map(|hash| hash.to_be_bytes()));
            }
            Self::Distinct(set) => {
                bytes[1] = SKETCH;
                bytes.extend(set.registers());
            }
            Self::Histogram(histogram) => {
                for (bucket, count) in histogram.buckets() {
                    bytes.extend(bucket.to_be_bytes());
                    bytes.extend(count.to_be_bytes());
                }
            }
        }
        bytes
    }

    /// Reads the stored form.
    ///
    /// # Errors
    ///
    /// - [`Error::Format`]: written by a newer program.
    /// - [`Error::Damaged`], [`Error::Distinct`], [`Error::Histogram`]: never written by any.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let [format, tag, rest @ ..] = bytes else { return Err(Error::Damaged) };
        if *format != FORMAT {
            return Err(Error::Format(*format));
        }
        let mut reader = Reader(rest);
        let component = match *tag {
            COUNT => Self::Count(reader.u64()?),
            SUM => {
                Self::Sum { sum_milli: i128::from_be_bytes(reader.take()?), terms: reader.u64()? }
            }
            RATIO => Self::Ratio { numerator: reader.u64()?, denominator: reader.u64()? },
            EXTREME if rest.is_empty() => Self::zero(MeasureKind::Extreme),
            EXTREME => {
                let min = i64::from_be_bytes(reader.take()?);
                let max = i64::from_be_bytes(reader.take()?);
                if min > max {
                    return Err(Error::Damaged);
                }
                Self::Extreme { min_milli: Some(min), max_milli: Some(max) }
            }
            EXACT => {
                let mut hashes = Vec::with_capacity(rest.len() / 8);
                while !reader.0.is_empty() {
                    hashes.push(reader.u64()?);
                }
                Self::Distinct(Distinct::from_parts(hashes, &[])?)
            }
            SKETCH => {
                let registers = std::mem::take(&mut reader.0);
                if registers.is_empty() {
                    return Err(Error::Damaged);
                }
                Self::Distinct(Distinct::from_parts(Vec::new(), registers)?)
            }
            HISTOGRAM => {
                let (mut buckets, mut counts) = (Vec::new(), Vec::new());
                while !reader.0.is_empty() {
                    buckets.push(i16::from_be_bytes(reader.take()?).into());
                    counts.push(reader.u64()?);
                }
                Self::Histogram(Histogram::from_parts(buckets.into_iter(), counts.into_iter())?)
            }
            _ => return Err(Error::Damaged),
        };
        if reader.0.is_empty() { Ok(component) } else { Err(Error::Damaged) }
    }
}

impl From<&Contribution> for Component {
    fn from(contribution: &Contribution) -> Self {
        match *contribution {
            Contribution::Count => Self::Count(1),
            Contribution::Sum(sum_milli) => Self::Sum { sum_milli, terms: 1 },
            Contribution::Ratio { numerator, denominator } => {
                Self::Ratio { numerator: numerator.into(), denominator: denominator.into() }
            }
            Contribution::Extreme(value) => {
                Self::Extreme { min_milli: Some(value), max_milli: Some(value) }
            }
            Contribution::Distinct(hash) => {
                let mut set = Distinct::default();
                set.insert(hash);
                Self::Distinct(set)
            }
            Contribution::Histogram(milli) => {
                let mut histogram = Histogram::default();
                // The first one fits.
                let _ = histogram.insert(milli);
                Self::Histogram(histogram)
            }
        }
    }
}

const COUNT: u8 = 1;
const SUM: u8 = 2;
const RATIO: u8 = 3;
const EXTREME: u8 = 4;
const EXACT: u8 = 5;
const SKETCH: u8 = 6;
const HISTOGRAM: u8 = 7;

fn tag(kind: MeasureKind) -> u8 {
    match kind {
        MeasureKind::Count => COUNT,
        MeasureKind::Sum => SUM,
        MeasureKind::Ratio => RATIO,
        MeasureKind::Extreme => EXTREME,
        MeasureKind::Distinct => EXACT,
        MeasureKind::Histogram => HISTOGRAM,
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (head, rest) = self.0.split_first_chunk().ok_or(Error::Damaged)?;
        self.0 = rest;
        Ok(*head)
    }

    fn u64(&mut self) -> Result<u64, Error> {
        self.take().map(u64::from_be_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [MeasureKind; 6] = [
        MeasureKind::Count,
        MeasureKind::Sum,
        MeasureKind::Ratio,
        MeasureKind::Extreme,
        MeasureKind::Distinct,
        MeasureKind::Histogram,
    ];

    /// SplitMix64 (public domain, S. Vigna).
    fn next(state: &mut u64) -> u64 {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn contribution(kind: MeasureKind, random: u64) -> Contribution {
        let value = i64::from(i32::try_from(random >> 33).unwrap()) - (1 << 30);
        match kind {
            MeasureKind::Count => Contribution::Count,
            MeasureKind::Sum => Contribution::Sum(value.into()),
            MeasureKind::Ratio => {
                Contribution::Ratio { numerator: random & 1 == 1, denominator: random & 2 == 2 }
            }
            MeasureKind::Extreme => Contribution::Extreme(value),
            MeasureKind::Distinct => {
                Contribution::Distinct(distinct::hash(&(random % 2000).to_be_bytes()))
            }
            MeasureKind::Histogram => Contribution::Histogram(value),
        }
    }

    /// Folds communities → streets → districts → city along a random tree, as units do.
    fn fold(mut totals: Vec<Component>, state: &mut u64) -> Component {
        while totals.len() > 1 {
            let size = 1 + usize::try_from(next(state) % 4).unwrap();
            let start = usize::try_from(next(state) % totals.len() as u64).unwrap();
            let end = (start + size).min(totals.len());
            let zero = Component::zero(totals[0].kind());
            let parent = totals.drain(start..end).fold(zero, |a, b| a.add(&b).unwrap());
            totals.push(parent);
        }
        totals.remove(0)
    }

    #[test]
    fn the_fold_through_any_tree_equals_the_flat_calculation() {
        for seed in 0_u8..40 {
            let mut state = u64::from(seed);
            for kind in KINDS {
                let records: Vec<Contribution> = (0..next(&mut state) % 3000)
                    .map(|_| contribution(kind, next(&mut state)))
                    .collect();
                let mut flat = Component::zero(kind);
                let mut leaves = vec![Component::zero(kind); 1 + usize::from(seed)];
                for record in &records {
                    flat.insert(record).unwrap();
                    let leaf = usize::try_from(next(&mut state)).unwrap() % leaves.len();
                    leaves[leaf].insert(record).unwrap();
                }
                assert_eq!(fold(leaves, &mut state), flat, "seed {seed}, {kind}");
            }
        }
    }

    #[test]
    fn addition_is_commutative_associative_and_zero_is_neutral() {
        for seed in 0..40 {
            let mut state = seed;
            for kind in KINDS {
                let mut some = || {
                    let mut total = Component::zero(kind);
                    for _ in 0..next(&mut state) % 700 {
                        total.insert(&contribution(kind, next(&mut state))).unwrap();
                    }
                    total
                };
                let (a, b, c) = (some(), some(), some());
                assert_eq!(a.add(&b), b.add(&a));
                assert_eq!(a.add(&b).unwrap().add(&c), a.add(&b.add(&c).unwrap()),);
                assert_eq!(a.add(&Component::zero(kind)).unwrap(), a);
            }
        }
    }

    #[test]
    fn unlike_totals_do_not_add() {
        for a in KINDS {
            for b in KINDS {
                let sum = Component::zero(a).add(&Component::zero(b));
                assert_eq!(sum.is_ok(), a == b, "{a} + {b}");
            }
        }
    }

    #[test]
    fn a_total_that_leaves_its_range_is_an_error_and_changes_nothing() {
        let mut count = Component::Count(u64::MAX);
        assert_eq!(count.insert(&Contribution::Count), Err(Error::Overflow(MeasureKind::Count)));
        assert_eq!(count, Component::Count(u64::MAX));
        let sum = Component::Sum { sum_milli: i128::MAX, terms: 1 };
        assert_eq!(sum.add(&sum), Err(Error::Overflow(MeasureKind::Sum)));
        let terms = Component::Sum { sum_milli: 0, terms: u64::MAX };
        assert_eq!(terms.add(&terms), Err(Error::Overflow(MeasureKind::Sum)));
        let ratio = Component::Ratio { numerator: 0, denominator: u64::MAX };
        assert_eq!(ratio.add(&ratio), Err(Error::Overflow(MeasureKind::Ratio)));
    }

    #[test]
    fn taking_out_is_the_inverse_of_putting_in() {
        for kind in
            [MeasureKind::Count, MeasureKind::Sum, MeasureKind::Ratio, MeasureKind::Histogram]
        {
            let mut state = 7;
            let mut total = Component::zero(kind);
            let records: Vec<_> = (0..50).map(|_| contribution(kind, next(&mut state))).collect();
            records.iter().for_each(|record| total.insert(record).unwrap());
            records.iter().rev().for_each(|record| total.remove(record).unwrap());
            assert_eq!(total, Component::zero(kind));
            assert!(total.is_zero());
        }
        let mut count = Component::Count(0);
        assert_eq!(count.remove(&Contribution::Count), Err(Error::Underflow(MeasureKind::Count)));
        let mut histogram = Component::zero(MeasureKind::Histogram);
        assert_eq!(
            histogram.remove(&Contribution::Histogram(1)),
            Err(Error::Underflow(MeasureKind::Histogram))
        );
        let mut extreme = Component::zero(MeasureKind::Extreme);
        extreme.insert(&Contribution::Extreme(5)).unwrap();
        assert_eq!(
            extreme.remove(&Contribution::Extreme(5)),
            Err(Error::NotRemovable(MeasureKind::Extreme))
        );
        assert_eq!(
            extreme.remove(&Contribution::Count),
            Err(Error::Mismatch(MeasureKind::Extreme, MeasureKind::Count))
        );
    }

    #[test]
    fn stored_bytes_read_back() {
        let mut state = 3;
        for kind in KINDS {
            for size in [0, 1, 5, 3000] {
                let mut total = Component::zero(kind);
                for _ in 0..size {
                    total.insert(&contribution(kind, next(&mut state))).unwrap();
                }
                assert_eq!(Component::from_bytes(&total.to_bytes()), Ok(total));
            }
        }
    }

    #[test]
    fn bytes_of_format_1_stay_readable() {
        let stored = hex::decode("0102ffffffffffffffffffffffffffffff380000000000000002").unwrap();
        assert_eq!(
            Component::from_bytes(&stored),
            Ok(Component::Sum { sum_milli: -200, terms: 2 })
        );
        let stored = hex::decode("01057000000000000000ba7816bf8f01cfea").unwrap();
        let set = Distinct::from_parts(vec![0x7000 << 48, 0xba78_16bf_8f01_cfea], &[]).unwrap();
        assert_eq!(Component::from_bytes(&stored), Ok(Component::Distinct(set)));
    }

    #[test]
    fn damaged_bytes_are_refused() {
        for kind in KINDS {
            let mut total = Component::zero(kind);
            total.insert(&contribution(kind, u64::MAX)).unwrap();
            let bytes = total.to_bytes();
            for length in 0..bytes.len() {
                let read = Component::from_bytes(&bytes[..length]);
                assert!(read.is_err() || length == 2, "{kind} cut to {length}");
            }
            let longer = [bytes.as_slice(), &[0]].concat();
            assert!(Component::from_bytes(&longer).is_err(), "{kind}");
        }
        assert_eq!(Component::from_bytes(&[2, 1]), Err(Error::Format(2)));
        assert_eq!(Component::from_bytes(&[1, 9]), Err(Error::Damaged));
        assert_eq!(Component::from_bytes(&[1, SKETCH]), Err(Error::Damaged));
        let upside_down = [&[1, EXTREME][..], &1_i64.to_be_bytes(), &0_i64.to_be_bytes()].concat();
        assert_eq!(Component::from_bytes(&upside_down), Err(Error::Damaged));
    }
}
