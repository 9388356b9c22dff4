//! How many refusals of one source are written down: what strangers can cause must not fill a
//! journal that is kept for ever.
//!
//! Promises that of each source some refusals a minute are written, and of all others the number;
//! that memory and leaves of a minute are bounded however many sources there are.

use std::collections::BTreeMap;

use super::journal::{Act, Actor};
use crate::clock::UnixMillis;

/// Refusals of one source that are written in a window.
pub const WRITTEN: u32 = 20;

/// Sources that are told apart in a window; the rest are counted together.
pub const SOURCES: usize = 64;

/// Length of a window.
pub const WINDOW_MS: i64 = 60_000;

/// Name of the act that counts what was left out.
const LEFT_OUT: &str = "refusals.left-out";

/// What of one source was not written in a window that is over.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LeftOut {
    /// The source; `None`: all that were not told apart.
    pub source: Option<String>,
    /// Refusals.
    pub count: u64,
}

impl LeftOut {
    /// As it stands in the journal.
    pub fn act(&self) -> Act {
        let subject = format!("{} of {}", self.count, self.source.as_deref().unwrap_or("others"));
        Act::refused(Actor::node(), LEFT_OUT, subject, "too-many")
    }
}

/// Refusals of one minute.
#[derive(Debug, Default)]
pub struct Window {
    begun_unix_ms: UnixMillis,
    sources: BTreeMap<String, Count>,
    others: u64,
}

#[derive(Debug, Default)]
struct Count {
    written: u32,
    left_out: u64,
}

impl Window {
    /// True if a refusal of `source` is to be written; else it is counted.
    pub fn take(&mut self, source: &str) -> bool {
        if !self.sources.contains_key(source) {
            if self.sources.len() >= SOURCES {
                self.others += 1;
                return false;
            }
            self.sources.insert(source.to_owned(), Count::default());
        }
        let Some(count) = self.sources.get_mut(source) else { return false };
        if count.written < WRITTEN {
            count.written += 1;
            return true;
        }
        count.left_out += 1;
        false
    }

    /// Begins a new window if this one is over, or if the clock was set back. Gives what was left
    /// out of it.
    pub fn turn(&mut self, now: UnixMillis) -> Vec<LeftOut> {
        let age = now.saturating_sub(self.begun_unix_ms);
        if (0..WINDOW_MS).contains(&age) {
            return Vec::new();
        }
        let over = std::mem::take(self);
        self.begun_unix_ms = now;
        let of_source = |(source, count): (String, Count)| {
            let left_out = LeftOut { source: Some(source), count: count.left_out };
            (left_out.count > 0).then_some(left_out)
        };
        let mut left_out: Vec<_> = over.sources.into_iter().filter_map(of_source).collect();
        if over.others > 0 {
            left_out.push(LeftOut { source: None, count: over.others });
        }
        left_out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = 1_760_000_000_000;

    fn window() -> Window {
        let mut window = Window::default();
        assert_eq!(window.turn(NOW), []);
        window
    }

    #[test]
    fn of_one_source_some_are_written_and_the_rest_are_counted() {
        let mut window = window();
        let written = (0..1_000).filter(|_| window.take("192.0.2.7")).count();
        assert_eq!(written, WRITTEN as usize);
        assert!(window.take("192.0.2.8"), "another source is not kept out");
        assert_eq!(window.turn(NOW + WINDOW_MS - 1), []);
        let source = Some("192.0.2.7".to_owned());
        let left_out = [LeftOut { source, count: 1_000 - u64::from(WRITTEN) }];
        assert_eq!(window.turn(NOW + WINDOW_MS), left_out);
        assert_eq!(window.turn(NOW + 2 * WINDOW_MS), [], "told once");
        assert!(window.take("192.0.2.7"));
    }

    #[test]
    fn a_stranger_with_many_addresses_makes_a_bounded_number_of_leaves() {
        let mut window = window();
        let sources = 100_000_u64;
        let mut leaves = (0..sources).filter(|source| window.take(&source.to_string())).count();
        assert_eq!(leaves, SOURCES);
        let left_out = window.turn(NOW + WINDOW_MS);
        let others = LeftOut { source: None, count: sources - SOURCES as u64 };
        assert_eq!(left_out, [others]);
        leaves = 0;
        for source in (0..sources).cycle().take(500_000) {
            leaves += usize::from(window.take(&(source % 3_000).to_string()));
        }
        leaves += window.turn(NOW + 2 * WINDOW_MS).len();
        assert!(leaves <= SOURCES * (WRITTEN as usize + 1) + 1, "{leaves}");
    }

    #[test]
    fn a_clock_that_is_set_back_begins_a_new_window() {
        let mut window = window();
        for _ in 0..=WRITTEN {
            window.take("a");
        }
        assert_eq!(window.turn(NOW - 1).len(), 1);
    }
}
