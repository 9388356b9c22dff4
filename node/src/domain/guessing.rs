//! What follows from guessing: whoever fails again and again waits, each time for longer.
//!
//! Promises that no guess is judged while its account, token or source is locked, and that memory
//! of sources is bounded however many there are. Knows no clock: moments are given.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};

use crate::clock::UnixMillis;

/// First lock-out; each further failure doubles it.
const FIRST_LOCK_MS: i64 = 60_000;

/// Longest lock-out: an attacker must not keep a person out for a day.
const LONGEST_LOCK_MS: i64 = 30 * 60_000;

/// Sources that are told apart; one more takes the place of the one that is silent for longest.
const SOURCES: usize = 4_096;

/// Silence after which a source begins anew.
const FORGOTTEN_MS: i64 = 60 * 60_000;

/// Failures in a row, and what follows from them.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Guessing {
    /// Failures since the last success.
    pub failures: u32,
    /// Until when even the right secret is refused.
    pub locked_until_unix_ms: UnixMillis,
}

impl Guessing {
    /// True while nothing is accepted.
    pub fn is_locked(&self, now: UnixMillis) -> bool {
        now < self.locked_until_unix_ms
    }

    /// After one more failure: from the `limit`-th on there is a lock, each time for longer.
    #[must_use]
    pub fn failed(self, limit: u32, now: UnixMillis) -> Self {
        let failures = self.failures.saturating_add(1);
        let over = failures.checked_sub(limit);
        let lock_ms = over.map(|over| LONGEST_LOCK_MS.min(FIRST_LOCK_MS << over.min(10)));
        let locked_until_unix_ms = lock_ms.map_or(self.locked_until_unix_ms, |ms| now + ms);
        Self { failures, locked_until_unix_ms }
    }
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    guessing: Guessing,
    last_unix_ms: UnixMillis,
}

/// Failures by the address that they came from: one IPv4 address, or one IPv6 network of 64 bits,
/// which is what one line is given.
#[derive(Debug, Default)]
pub struct Sources(BTreeMap<IpAddr, Seen>);

impl Sources {
    /// Until when nothing from `address` is judged; `None`: it is.
    pub fn locked_until(&self, address: IpAddr, now: UnixMillis) -> Option<UnixMillis> {
        let guessing = self.0.get(&line(address))?.guessing;
        guessing.is_locked(now).then_some(guessing.locked_until_unix_ms)
    }

    /// Counts a failure from `address`: from the `limit`-th on it is locked.
    pub fn failed(&mut self, address: IpAddr, limit: u32, now: UnixMillis) {
        let source = line(address);
        let is_over = |seen: &Seen| now.saturating_sub(seen.last_unix_ms) >= FORGOTTEN_MS;
        let known = self.0.get(&source).filter(|seen| !is_over(seen));
        let guessing = known.map_or_else(Guessing::default, |seen| seen.guessing);
        if !self.0.contains_key(&source) && self.0.len() >= SOURCES {
            let oldest = self.0.iter().min_by_key(|(_, seen)| seen.last_unix_ms);
            if let Some(oldest) = oldest.map(|(source, _)| *source) {
                self.0.remove(&oldest);
            }
        }
        let seen = Seen { guessing: guessing.failed(limit, now), last_unix_ms: now };
        self.0.insert(source, seen);
    }
}

fn line(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let network = address.to_bits() & !u128::from(u64::MAX);
            std::net::Ipv6Addr::from_bits(network).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guessing_locks_for_longer_each_time_and_never_for_a_day() {
        let mut guessing = Guessing::default();
        for _ in 0..4 {
            guessing = guessing.failed(5, 1_000);
            assert!(!guessing.is_locked(1_000));
        }
        let mut last = 0;
        for _ in 0..4 {
            guessing = guessing.failed(5, 1_000);
            let lock = guessing.locked_until_unix_ms - 1_000;
            assert!(lock >= 2 * last && guessing.is_locked(1_000 + lock - 1), "{lock}");
            assert!(!guessing.is_locked(1_000 + lock));
            last = lock;
        }
        assert_eq!(last, 8 * FIRST_LOCK_MS);
        let tried = Guessing { failures: u32::MAX, ..guessing }.failed(5, 0);
        assert_eq!(tried.locked_until_unix_ms, LONGEST_LOCK_MS);
    }

    #[test]
    fn one_line_is_one_source_whichever_of_its_addresses_it_uses() {
        let mut sources = Sources::default();
        for host in 1..=3_u16 {
            let address = format!("2001:db8:0:7::{host:x}").parse().unwrap();
            assert_eq!(sources.locked_until(address, 0), None);
            sources.failed(address, 3, 0);
        }
        let locked = |address: &str| sources.locked_until(address.parse().unwrap(), 0);
        assert_eq!(locked("2001:db8:0:7:ffff::1"), Some(FIRST_LOCK_MS));
        assert_eq!(locked("2001:db8:0:8::1"), None, "another line");
        let mut sources = Sources::default();
        for address in ["192.0.2.7", "::ffff:192.0.2.7"] {
            sources.failed(address.parse().unwrap(), 2, 0);
        }
        assert!(sources.locked_until("192.0.2.7".parse().unwrap(), 0).is_some());
        assert!(sources.locked_until("192.0.2.8".parse().unwrap(), 0).is_none());
    }

    #[test]
    fn memory_is_bounded_and_a_silent_source_begins_anew() {
        let mut sources = Sources::default();
        let address = |number: u32| IpAddr::from(number.to_be_bytes());
        for number in 0..20_000 {
            sources.failed(address(number), 1, i64::from(number));
        }
        assert_eq!(sources.0.len(), SOURCES);
        assert!(sources.locked_until(address(19_999), 20_000).is_some());
        let later = 20_000 + FORGOTTEN_MS;
        sources.failed(address(19_999), 2, later);
        assert_eq!(sources.locked_until(address(19_999), later), None);
    }
}
