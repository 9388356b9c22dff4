//! A mergeable set of hashes that tells how many different values it holds.
//!
//! Exact up to [`EXACT_LIMIT`] values, a HyperLogLog above. The form depends on the set alone,
//! never on the order of insertions and merges, so that signed bytes are the same wherever they are
//! computed. Only the estimate, which is shown and never signed, is computed in floating point.
//!
//! The standard error above the limit is 1.6 % (1.04 / √4096).

use sha2::{Digest, Sha256};

/// Largest set that is kept exactly.
pub const EXACT_LIMIT: usize = 512;

/// Registers of the sketch.
pub const REGISTERS: usize = 1 << PRECISION;

/// Standard error of an estimate above [`EXACT_LIMIT`], in thousandths: 1.6 %.
pub const STANDARD_ERROR_MILLI: u32 = 16;

const PRECISION: u32 = 12;
const HIGHEST_RANK: u8 = 64 - 12 + 1;

/// Why parts are no set.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// Both forms at once.
    #[error("a set has hashes or registers, not both")]
    BothForms,
    /// Too many hashes for the exact form.
    #[error("{0} hashes are above the exact form's {EXACT_LIMIT}: send registers")]
    TooManyHashes(usize),
    /// Hashes that do not ascend.
    #[error("hash {0} is not above the one before it: sort them and drop repeated ones")]
    Unsorted(usize),
    /// Not as many registers as the precision has.
    #[error("a sketch has {REGISTERS} registers, not {0}")]
    RegisterCount(usize),
    /// A register that no hash reaches.
    #[error("register {0} is above {HIGHEST_RANK}")]
    RegisterValue(usize),
    /// A sketch of nothing: the empty set is exact.
    #[error("all registers are 0: the empty set has no registers")]
    EmptySketch,
}

/// A set of 64-bit hashes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Distinct(Form);

#[derive(Clone, Debug, Eq, PartialEq)]
enum Form {
    Exact(Vec<u64>),
    Sketch(Box<[u8; REGISTERS]>),
}

impl Default for Distinct {
    fn default() -> Self {
        Self(Form::Exact(Vec::new()))
    }
}

/// Returns the hash of a value: the first 8 bytes of its SHA-256, big-endian.
pub fn hash(value: &[u8]) -> u64 {
    let digest: [u8; 32] = Sha256::digest(value).into();
    u64::from_be_bytes(*digest.first_chunk().unwrap_or(&[0; 8]))
}

impl Distinct {
    /// Returns the set that `hashes` or `registers` describe; both empty: the empty set.
    ///
    /// # Errors
    ///
    /// Anything that this module would not have written.
    pub fn from_parts(hashes: Vec<u64>, registers: &[u8]) -> Result<Self, Error> {
        if registers.is_empty() {
            if hashes.len() > EXACT_LIMIT {
                return Err(Error::TooManyHashes(hashes.len()));
            }
            let unsorted = hashes.windows(2).position(|pair| pair[0] >= pair[1]);
            return match unsorted {
                Some(position) => Err(Error::Unsorted(position + 1)),
                None => Ok(Self(Form::Exact(hashes))),
            };
        }
        if !hashes.is_empty() {
            return Err(Error::BothForms);
        }
        let registers: Box<[u8; REGISTERS]> = registers
            .to_vec()
            .into_boxed_slice()
            .try_into()
            .map_err(|_| Error::RegisterCount(registers.len()))?;
        if let Some(position) = registers.iter().position(|&rank| rank > HIGHEST_RANK) {
            return Err(Error::RegisterValue(position));
        }
        if registers.iter().all(|&rank| rank == 0) {
            return Err(Error::EmptySketch);
        }
        Ok(Self(Form::Sketch(registers)))
    }

    /// Adds a hash; a repeated one changes nothing.
    pub fn insert(&mut self, hash: u64) {
        match &mut self.0 {
            Form::Exact(hashes) => {
                let Err(position) = hashes.binary_search(&hash) else { return };
                hashes.insert(position, hash);
                if hashes.len() > EXACT_LIMIT {
                    let mut registers = Box::new([0; REGISTERS]);
                    hashes.iter().for_each(|&hash| raise(&mut registers, hash));
                    self.0 = Form::Sketch(registers);
                }
            }
            Form::Sketch(registers) => raise(registers, hash),
        }
    }

    /// Adds all of `other`. The order of merges does not matter.
    pub fn merge(&mut self, other: &Self) {
        match (&mut self.0, &other.0) {
            (_, Form::Exact(hashes)) => hashes.iter().for_each(|&hash| self.insert(hash)),
            (Form::Exact(hashes), Form::Sketch(registers)) => {
                let mut registers = registers.clone();
                hashes.iter().for_each(|&hash| raise(&mut registers, hash));
                self.0 = Form::Sketch(registers);
            }
            (Form::Sketch(own), Form::Sketch(others)) => {
                own.iter_mut().zip(others.iter()).for_each(|(own, &other)| *own = other.max(*own));
            }
        }
    }

    /// True if [`estimate`](Self::estimate) is the exact number.
    pub fn is_exact(&self) -> bool {
        matches!(self.0, Form::Exact(_))
    }

    /// The hashes of an exact set, ascending; empty for a sketch.
    pub fn hashes(&self) -> &[u64] {
        match &self.0 {
            Form::Exact(hashes) => hashes,
            Form::Sketch(_) => &[],
        }
    }

    /// The registers of a sketch; empty for an exact set.
    pub fn registers(&self) -> &[u8] {
        match &self.0 {
            Form::Exact(_) => &[],
            Form::Sketch(registers) => registers.as_slice(),
        }
    }

    /// How many values the set holds: exactly, or within the standard error.
    pub fn estimate(&self) -> u64 {
        match &self.0 {
            Form::Exact(hashes) => hashes.len() as u64,
            Form::Sketch(registers) => estimate(registers),
        }
    }
}

fn raise(registers: &mut [u8; REGISTERS], hash: u64) {
    let index = (hash >> (64 - PRECISION)) as usize;
    // A set bit behind the index stops the count at the highest rank.
    let zeros = (hash << PRECISION | 1 << (PRECISION - 1)).leading_zeros();
    let rank = u8::try_from(zeros).unwrap_or(u8::MAX).saturating_add(1);
    registers[index] = registers[index].max(rank);
}

/// O. Ertl, "New cardinality estimation algorithms for HyperLogLog sketches" (2017), algorithm 6:
/// unbiased over the whole range without tables, unlike the original estimator between 2.5 and 5
/// values a register.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "for display; the result is positive and far below 2^53"
)]
fn estimate(registers: &[u8; REGISTERS]) -> u64 {
    let mut counts = [0_u32; HIGHEST_RANK as usize + 1];
    for &rank in registers {
        counts[usize::from(rank.min(HIGHEST_RANK))] += 1;
    }
    let m = REGISTERS as f64;
    let full = f64::from(counts[usize::from(HIGHEST_RANK)]);
    let mut z = m * tau(1.0 - full / m);
    for rank in (1..usize::from(HIGHEST_RANK)).rev() {
        z = 0.5 * (z + f64::from(counts[rank]));
    }
    z += m * sigma(f64::from(counts[0]) / m);
    (m * m / (2.0 * std::f64::consts::LN_2) / z).round() as u64
}

/// Ertl 2017, algorithm 5.
fn tau(mut x: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return 0.0;
    }
    let mut y = 1.0;
    let mut z = 1.0 - x;
    loop {
        x = x.sqrt();
        y *= 0.5;
        let next = z - (1.0 - x).powi(2) * y;
        if next >= z {
            return z / 3.0;
        }
        z = next;
    }
}

/// Ertl 2017, algorithm 4.
fn sigma(mut x: f64) -> f64 {
    if x >= 1.0 {
        return f64::INFINITY;
    }
    let mut y = 1.0;
    let mut z = x;
    loop {
        x *= x;
        let next = z + x * y;
        y += y;
        if next <= z {
            return z;
        }
        z = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SplitMix64 (public domain, S. Vigna): reproducible values for properties.
    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }

        fn below(&mut self, bound: usize) -> usize {
            usize::try_from(self.next() % bound as u64).unwrap()
        }
    }

    fn set(hashes: impl IntoIterator<Item = u64>) -> Distinct {
        let mut set = Distinct::default();
        hashes.into_iter().for_each(|hash| set.insert(hash));
        set
    }

    fn values(range: std::ops::Range<u64>) -> impl Iterator<Item = u64> + Clone {
        range.map(|value| hash(&value.to_be_bytes()))
    }

    #[test]
    fn exact_at_the_limit_and_a_sketch_above_it() {
        let mut at_limit = set(values(0..512));
        assert!(at_limit.is_exact());
        assert_eq!(at_limit.estimate(), 512);
        at_limit.insert(hash(&7_u64.to_be_bytes()));
        assert!(at_limit.is_exact(), "a repeated value changes nothing");
        at_limit.insert(hash(&512_u64.to_be_bytes()));
        assert!(!at_limit.is_exact());
        assert_eq!(at_limit.registers().len(), REGISTERS);
        assert!(at_limit.hashes().is_empty());
    }

    #[test]
    fn the_form_does_not_depend_on_order_or_partition() {
        for seed in 0..60 {
            let mut random = Random(seed);
            let size = [3, 400, 512, 513, 700, 5000][random.below(6)];
            let mut hashes: Vec<u64> = values(0..size).collect();
            let flat = set(hashes.iter().copied());
            for index in (1..hashes.len()).rev() {
                hashes.swap(index, random.below(index + 1));
            }
            let repeated = hashes[random.below(hashes.len())];
            hashes.push(repeated);
            let parts = 1 + random.below(9);
            let mut sets = vec![Distinct::default(); parts];
            for hash in hashes {
                sets[random.below(parts)].insert(hash);
            }
            while sets.len() > 1 {
                let taken = sets.swap_remove(random.below(sets.len()));
                let into = random.below(sets.len());
                sets[into].merge(&taken);
            }
            assert_eq!(sets[0], flat, "seed {seed}, size {size}");
        }
    }

    #[test]
    fn merging_is_commutative_associative_and_idempotent() {
        let sizes = [0..3, 100..600, 300..900, 0..2000];
        let sets: Vec<Distinct> = sizes.into_iter().map(|range| set(values(range))).collect();
        let merged = |a: &Distinct, b: &Distinct| {
            let mut result = a.clone();
            result.merge(b);
            result
        };
        for a in &sets {
            assert_eq!(merged(a, a), *a);
            for b in &sets {
                assert_eq!(merged(a, b), merged(b, a));
                for c in &sets {
                    assert_eq!(merged(&merged(a, b), c), merged(a, &merged(b, c)));
                }
            }
        }
    }

    #[test]
    fn estimates_stay_within_three_standard_errors() {
        for size in [513_u32, 1000, 5000, 10_000, 20_000, 100_000, 300_000] {
            let start = u64::from(size) << 32;
            let estimate = set(values(start..start + u64::from(size))).estimate();
            let error = (estimate as f64 / f64::from(size) - 1.0).abs();
            assert!(error < 3.0 * 0.016_25, "{size} was estimated at {estimate}");
        }
    }

    #[test]
    fn the_mean_error_shows_no_bias() {
        let mut sum = 0.0;
        for round in 0..60_u64 {
            let start = round << 32;
            let estimate = set(values(start..start + 10_000)).estimate();
            sum += estimate as f64 / 10_000.0 - 1.0;
        }
        // The standard error of the mean of 60 is 0.21 %; the original estimator is 1 % off here.
        assert!((sum / 60.0).abs() < 0.006, "{}", sum / 60.0);
    }

    #[test]
    fn registers_are_as_defined() {
        let mut registers = [0; REGISTERS];
        raise(&mut registers, 0x0000_0000_0000_0000);
        assert_eq!(registers[0], 53);
        raise(&mut registers, 0xfff8_0000_0000_0000);
        assert_eq!(registers[4095], 1);
        raise(&mut registers, 0x0011_0000_0000_0000);
        assert_eq!(registers[1], 4);
    }

    #[test]
    fn the_hash_is_the_head_of_sha_256() {
        assert_eq!(hash(b"abc"), 0xba78_16bf_8f01_cfea);
    }

    #[test]
    fn parts_make_the_same_set_again() {
        for size in [0, 1, 512, 513, 4000] {
            let whole = set(values(0..size));
            let again = Distinct::from_parts(whole.hashes().to_vec(), whole.registers());
            assert_eq!(again, Ok(whole));
        }
    }

    #[test]
    fn parts_that_were_never_written_are_refused() {
        let one = |value| {
            let mut registers = vec![0; REGISTERS];
            registers[9] = value;
            registers
        };
        assert_eq!(Distinct::from_parts(vec![1], &one(1)), Err(Error::BothForms));
        assert_eq!(Distinct::from_parts(vec![1, 1], &[]), Err(Error::Unsorted(1)));
        assert_eq!(Distinct::from_parts(vec![1, 3, 2], &[]), Err(Error::Unsorted(2)));
        assert_eq!(Distinct::from_parts((0..513).collect(), &[]), Err(Error::TooManyHashes(513)));
        assert_eq!(Distinct::from_parts(vec![], &[1; 12]), Err(Error::RegisterCount(12)));
        assert_eq!(Distinct::from_parts(vec![], &one(54)), Err(Error::RegisterValue(9)));
        assert_eq!(Distinct::from_parts(vec![], &one(0)), Err(Error::EmptySketch));
    }
}
