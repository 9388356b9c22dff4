//! How values spread: counts in fixed buckets, from which any quantile can be read.
//!
//! The buckets are the same everywhere and for ever, so histograms add without loss in any order,
//! and a value can be taken out again. All of it is in integers. A quantile is the middle of its
//! bucket: within 1.6 % (1/64) of a value that was put in, and exact below 64 thousandths.

use std::collections::BTreeMap;

/// Largest distance of a quantile from the value that it stands for, in thousandths: 1.6 %.
pub const RELATIVE_ERROR_MILLI: u32 = 16;

/// Highest bucket; the lowest is its negative.
pub const HIGHEST_BUCKET: i16 = 1887;

/// Below this magnitude every value has its own bucket.
const LINEAR: u64 = 64;
/// Buckets for each doubling above.
const PER_DOUBLING: u64 = 32;
/// Bits that tell the buckets of a doubling apart.
const BUCKET_BITS: u32 = 5;

/// Why parts are no histogram.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// Not one count for each bucket.
    #[error("{buckets} buckets with {counts} counts: give one count for each bucket")]
    Lengths {
        /// Buckets given.
        buckets: usize,
        /// Counts given.
        counts: usize,
    },
    /// A bucket that no value falls into.
    #[error("bucket {0} is not within ±{HIGHEST_BUCKET}")]
    Range(usize),
    /// Buckets that do not ascend.
    #[error("bucket {0} is not above the one before it: sort them and drop repeated ones")]
    Unsorted(usize),
    /// A bucket with nothing in it.
    #[error("bucket {0} is empty: leave it out")]
    Empty(usize),
    /// More values than can be counted.
    #[error("the counts leave the range of 64 bits")]
    Overflow,
}

/// What is read from a histogram.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Quantile {
    /// In thousandths of the unit.
    pub milli: i64,
    /// True if it is a value that was put in, false if it is within the relative error of one.
    pub is_exact: bool,
}

/// Counts of values by bucket.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Histogram {
    counts: BTreeMap<i16, u64>,
    total: u64,
}

impl Histogram {
    /// Returns the histogram of ascending `buckets` with their `counts`; both empty: no values.
    ///
    /// # Errors
    ///
    /// Anything that this module would not have written.
    pub fn from_parts(
        buckets: impl ExactSizeIterator<Item = i32>,
        counts: impl ExactSizeIterator<Item = u64>,
    ) -> Result<Self, Error> {
        if buckets.len() != counts.len() {
            return Err(Error::Lengths { buckets: buckets.len(), counts: counts.len() });
        }
        let mut histogram = Self::default();
        for (position, (bucket, count)) in buckets.zip(counts).enumerate() {
            let bucket = i16::try_from(bucket).map_err(|_| Error::Range(position))?;
            if bucket.unsigned_abs() > HIGHEST_BUCKET.unsigned_abs() {
                return Err(Error::Range(position));
            }
            if histogram.counts.last_key_value().is_some_and(|(last, _)| *last >= bucket) {
                return Err(Error::Unsorted(position));
            }
            if count == 0 {
                return Err(Error::Empty(position));
            }
            histogram.total = histogram.total.checked_add(count).ok_or(Error::Overflow)?;
            histogram.counts.insert(bucket, count);
        }
        Ok(histogram)
    }

    /// Number of values.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Buckets with their counts, ascending; none is empty.
    pub fn buckets(&self) -> impl ExactSizeIterator<Item = (i16, u64)> {
        self.counts.iter().map(|(bucket, count)| (*bucket, *count))
    }

    /// Adds a value in thousandths; false, and nothing is changed, if there are too many.
    #[must_use]
    pub fn insert(&mut self, milli: i64) -> bool {
        let Some(total) = self.total.checked_add(1) else { return false };
        self.total = total;
        // At most `total`, which fits.
        *self.counts.entry(bucket_of(milli)).or_default() += 1;
        true
    }

    /// Takes a value out; false, and nothing is changed, if its bucket is empty.
    #[must_use]
    pub fn remove(&mut self, milli: i64) -> bool {
        let bucket = bucket_of(milli);
        let Some(count) = self.counts.get_mut(&bucket) else { return false };
        *count -= 1;
        self.total -= 1;
        if *count == 0 {
            self.counts.remove(&bucket);
        }
        true
    }

    /// Returns both together, in any order; `None` if there are too many values.
    pub fn merged(&self, other: &Self) -> Option<Self> {
        let mut merged = self.clone();
        merged.total = self.total.checked_add(other.total)?;
        for (bucket, count) in &other.counts {
            *merged.counts.entry(*bucket).or_default() += count;
        }
        Some(merged)
    }

    /// Returns what is left without `taken`; `None` if it was never all in.
    pub fn without(&self, taken: &Self) -> Option<Self> {
        let mut left = self.clone();
        left.total = self.total.checked_sub(taken.total)?;
        for (bucket, count) in &taken.counts {
            let there = left.counts.get_mut(bucket)?;
            *there = there.checked_sub(*count)?;
            if *there == 0 {
                left.counts.remove(bucket);
            }
        }
        Some(left)
    }

    /// The smallest value that at least `permille` thousandths of all values do not exceed
    /// (nearest rank); `None` without values.
    pub fn quantile(&self, permille: u16) -> Option<Quantile> {
        let wanted = (u128::from(self.total) * u128::from(permille)).div_ceil(1_000).max(1);
        let mut seen = 0_u128;
        let bucket = self.counts.iter().find(|(_, count)| {
            seen += u128::from(**count);
            seen >= wanted
        });
        bucket.map(|(bucket, _)| middle_of(*bucket))
    }
}

/// The bucket of a value: that of its magnitude, negative for negative values.
fn bucket_of(milli: i64) -> i16 {
    // The lowest value has no positive counterpart and goes with its neighbour.
    let magnitude = milli.unsigned_abs().min(i64::MAX.unsigned_abs());
    let position = if magnitude < LINEAR {
        magnitude
    } else {
        // The leading bit tells the doubling, the five bits behind it the bucket.
        let doubling = magnitude.ilog2() - LINEAR.ilog2();
        let leading = magnitude >> (magnitude.ilog2() - BUCKET_BITS);
        LINEAR + u64::from(doubling) * PER_DOUBLING + (leading - PER_DOUBLING)
    };
    let position = i16::try_from(position).unwrap_or(HIGHEST_BUCKET);
    if milli < 0 { -position } else { position }
}

fn middle_of(bucket: i16) -> Quantile {
    let position = u64::from(bucket.unsigned_abs());
    let (magnitude, width) = if position < LINEAR {
        (position, 1)
    } else {
        let (doubling, leading) =
            ((position - LINEAR) / PER_DOUBLING, (position - LINEAR) % PER_DOUBLING);
        let width = 2_u64 << doubling;
        ((PER_DOUBLING + leading) * width + width / 2, width)
    };
    let magnitude = i64::try_from(magnitude).unwrap_or(i64::MAX);
    Quantile { milli: if bucket < 0 { -magnitude } else { magnitude }, is_exact: width == 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SplitMix64 (public domain, S. Vigna).
    fn next(state: &mut u64) -> u64 {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A value of any magnitude and sign.
    fn value(state: &mut u64) -> i64 {
        let shift = u32::try_from(next(state) % 64).unwrap();
        next(state).cast_signed() >> shift
    }

    fn of(values: &[i64]) -> Histogram {
        let mut histogram = Histogram::default();
        values.iter().for_each(|value| assert!(histogram.insert(*value)));
        histogram
    }

    #[test]
    fn buckets_ascend_with_the_values_and_stay_within_the_error() {
        let mut state = 1;
        let mut values: Vec<i64> = (0..20_000).map(|_| value(&mut state)).collect();
        values.extend([0, 1, -1, 63, 64, 65, 66, -63, -64, -65, i64::MAX, i64::MIN, i64::MIN + 1]);
        values.sort_unstable();
        assert!(values.windows(2).all(|pair| bucket_of(pair[0]) <= bucket_of(pair[1])));
        for value in values {
            let bucket = bucket_of(value);
            assert!(bucket.unsigned_abs() <= HIGHEST_BUCKET.unsigned_abs());
            let Quantile { milli, is_exact } = middle_of(bucket);
            let off = i128::from(milli).abs_diff(value.into());
            assert!(off * 64 <= u128::from(value.unsigned_abs()), "{value} shows as {milli}");
            assert!(!is_exact || off == 0, "{value} shows as {milli}");
            assert_eq!(bucket_of(milli), bucket, "the middle is inside");
        }
    }

    #[test]
    fn neighbouring_buckets_leave_no_room_between_them() {
        for bucket in -HIGHEST_BUCKET..HIGHEST_BUCKET {
            let (low, high) = (middle_of(bucket).milli, middle_of(bucket + 1).milli);
            // Between the two middles there is the one or the other, nothing else.
            let (mut from, mut to) = (low, high);
            while to - from > 1 {
                let middle = from + (to - from) / 2;
                if bucket_of(middle) == bucket { from = middle } else { to = middle }
            }
            assert_eq!((bucket_of(from), bucket_of(to)), (bucket, bucket + 1));
        }
        assert_eq!((bucket_of(i64::MIN), bucket_of(i64::MAX)), (-HIGHEST_BUCKET, HIGHEST_BUCKET));
    }

    #[test]
    fn quantiles_are_those_of_the_sorted_values() {
        let mut state = 2;
        for size in [1, 2, 3, 10, 999, 5_000_usize] {
            let mut values: Vec<i64> = (0..size).map(|_| value(&mut state)).collect();
            let histogram = of(&values);
            values.sort_unstable();
            for permille in [0, 1, 500, 501, 900, 990, 999, 1_000_u16] {
                let rank = (size * usize::from(permille)).div_ceil(1_000).max(1);
                let exact = values[rank - 1];
                let read = histogram.quantile(permille).unwrap().milli;
                assert_eq!(bucket_of(read), bucket_of(exact), "{permille} of {size}");
            }
        }
        assert_eq!(Histogram::default().quantile(500), None);
        let three = of(&[10, 20, 30]);
        assert_eq!(three.quantile(500), Some(Quantile { milli: 20, is_exact: true }));
        assert_eq!(three.quantile(900), Some(Quantile { milli: 30, is_exact: true }));
    }

    #[test]
    fn what_is_taken_out_was_never_in() {
        let mut state = 3;
        let values: Vec<i64> = (0..500).map(|_| value(&mut state)).collect();
        let (kept, gone) = values.split_at(200);
        let mut histogram = of(&values);
        gone.iter().for_each(|value| assert!(histogram.remove(*value)));
        assert_eq!(histogram, of(kept));
        let mut one = of(&[5]);
        assert!(!one.remove(6) && one.remove(5) && !one.remove(5));
        assert_eq!(one, Histogram::default());
    }

    #[test]
    fn parts_make_the_same_histogram_again() {
        let mut state = 4;
        let values: Vec<i64> = (0..3_000).map(|_| value(&mut state)).collect();
        let histogram = of(&values);
        let buckets: Vec<i32> = histogram.buckets().map(|(bucket, _)| bucket.into()).collect();
        let counts: Vec<u64> = histogram.buckets().map(|(_, count)| count).collect();
        let again = Histogram::from_parts(buckets.into_iter(), counts.into_iter());
        assert_eq!(again, Ok(histogram));
    }

    #[test]
    fn parts_that_were_never_written_are_refused() {
        let read = |buckets: &[i32], counts: &[u64]| {
            Histogram::from_parts(buckets.iter().copied(), counts.iter().copied())
        };
        assert_eq!(read(&[1], &[]), Err(Error::Lengths { buckets: 1, counts: 0 }));
        assert_eq!(read(&[1, 1], &[1, 1]), Err(Error::Unsorted(1)));
        assert_eq!(read(&[2, -2], &[1, 1]), Err(Error::Unsorted(1)));
        assert_eq!(read(&[0, 1888], &[1, 1]), Err(Error::Range(1)));
        assert_eq!(read(&[-1888], &[1]), Err(Error::Range(0)));
        assert_eq!(read(&[i32::MIN], &[1]), Err(Error::Range(0)));
        assert_eq!(read(&[1], &[0]), Err(Error::Empty(0)));
        assert_eq!(read(&[1, 2], &[u64::MAX, 1]), Err(Error::Overflow));
        assert!(read(&[], &[]).unwrap().buckets().len() == 0);
    }

    #[test]
    fn too_many_values_are_an_error_and_change_nothing() {
        let full = Histogram::from_parts([7].into_iter(), [u64::MAX].into_iter()).unwrap();
        let mut more = full.clone();
        assert!(!more.insert(7));
        assert_eq!(more, full);
        assert_eq!(full.merged(&of(&[1])), None);
    }
}
