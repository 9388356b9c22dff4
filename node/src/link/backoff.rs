//! How long the child waits before it dials again.

use std::time::Duration;

/// Upper bound of the first wait.
pub const FIRST: Duration = Duration::from_millis(100);

/// Upper bound of every wait.
pub const CAP: Duration = Duration::from_secs(120);

/// Exponential back-off with full jitter: each wait is drawn evenly from zero to a bound that
/// doubles, so that a parent that comes back is not met by all its children at once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The next wait. `random` is drawn evenly from all values.
    pub fn next(&mut self, random: u32) -> Duration {
        let bound = FIRST.saturating_mul(1 << self.failures.min(16)).min(CAP);
        self.failures = self.failures.saturating_add(1);
        bound.mul_f64(f64::from(random) / f64::from(u32::MAX))
    }

    /// Begins anew after a link that did its work.
    pub fn clear(&mut self) {
        self.failures = 0;
    }
}

/// Draws what [`Backoff::next`] wants.
pub fn random() -> u32 {
    let mut bytes = [0; 4];
    // Without randomness the longest wait is the safe one.
    if crate::random::fill(&mut bytes).is_err() {
        return u32::MAX;
    }
    u32::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_double_from_a_tenth_of_a_second_to_two_minutes() {
        let mut backoff = Backoff::default();
        let waits: Vec<Duration> = (0..40).map(|_| backoff.next(u32::MAX)).collect();
        assert_eq!(waits[..3], [100, 200, 400].map(Duration::from_millis));
        assert_eq!(waits[39], CAP);
        assert!(waits.is_sorted());
    }

    #[test]
    fn a_wait_is_anything_below_its_bound() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.next(0), Duration::ZERO);
        assert!(backoff.next(u32::MAX / 2) < Duration::from_millis(101));
    }

    #[test]
    fn success_makes_the_next_wait_short_again() {
        let mut backoff = Backoff::default();
        for _ in 0..20 {
            backoff.next(u32::MAX);
        }
        backoff.clear();
        assert_eq!(backoff.next(u32::MAX), FIRST);
    }
}
