//! How much may be on its way to the peer at once, in all lanes but that of escalations.
//!
//! What was given to the transport cannot be overtaken. So the pace follows the line: it begins with
//! one frame, grows while acknowledgements come back in good time, and shrinks when they show that
//! frames queue somewhere on the way. A whistle finds a second or two of other traffic before it,
//! whatever the line carries; on a line that needs longer than that for one frame, the rest of it.

use std::time::Duration;

/// Bytes that may always be on their way, and at the beginning of a session: one frame of the bulk
/// lane.
const LEAST_BYTES: usize = 16 * 1024;

/// Bytes that are enough for any line.
const MOST_BYTES: usize = 1024 * 1024;

/// Longest time that a frame may have queued on its way.
const QUEUE: Duration = Duration::from_secs(1);

/// Longest time, the frame's own included, after which more may be on its way: a narrow line that is
/// busy with one frame for longer is full.
const FULL: Duration = Duration::from_secs(1);

/// The pace of one session.
#[derive(Debug)]
pub(super) struct Pace {
    window_bytes: usize,
    /// Quickest acknowledgement: a way without a queue.
    quickest: Option<Duration>,
    /// Until the first queue is seen the pace doubles with each round.
    doubles: bool,
    /// When it last shrank: what was sent before says nothing about it.
    shrank_at: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { window_bytes: LEAST_BYTES, quickest: None, doubles: true, shrank_at: Duration::ZERO }
    }
}

impl Pace {
    /// True if `bytes` may be sent beside `flying_bytes` that are on their way; one delivery always may.
    pub(super) fn has_room(&self, flying_bytes: usize, bytes: usize) -> bool {
        flying_bytes == 0 || flying_bytes.saturating_add(bytes) <= self.window_bytes
    }

    /// The peer holds `bytes`, the last of which were sent at `sent_at`.
    pub(super) fn acknowledged(&mut self, bytes: usize, sent_at: Duration, now: Duration) {
        let took = now.saturating_sub(sent_at);
        let quickest = self.quickest.map_or(took, |quickest| quickest.min(took));
        self.quickest = Some(quickest);
        if took.saturating_sub(quickest) <= QUEUE {
            if took > FULL {
                return;
            }
            let grown = if self.doubles { bytes } else { bytes * LEAST_BYTES / self.window_bytes };
            self.window_bytes = self.window_bytes.saturating_add(grown).min(MOST_BYTES);
        } else if sent_at >= self.shrank_at {
            self.window_bytes = (self.window_bytes / 2).max(LEAST_BYTES);
            self.doubles = false;
            self.shrank_at = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// Sends frames as fast as the pace lets it over a line of so many bytes per second with a queue
    /// without end; returns the longest time that a frame of the second half of the run queued, and the
    /// bytes that arrived per second.
    fn over_a_line(bytes_per_second: f64, delay: Duration, frame: usize) -> (Duration, f64) {
        let one = Duration::from_secs_f64(frame as f64 / bytes_per_second);
        let (mut pace, mut now, mut free_at) = (Pace::default(), Duration::ZERO, Duration::ZERO);
        let mut flying: VecDeque<(Duration, Duration, Duration)> = VecDeque::new();
        let (mut worst, mut arrived) = (Duration::ZERO, 0);
        let frames = 4_000;
        for number in 0..frames {
            while !pace.has_room(flying.len() * frame, frame) {
                let (sent_at, queued, back_at) = flying.pop_front().expect("something is flying");
                now = now.max(back_at);
                pace.acknowledged(frame, sent_at, now);
                arrived += frame;
                if number > frames / 2 {
                    worst = worst.max(queued);
                }
            }
            let begins = free_at.max(now);
            free_at = begins + one;
            flying.push_back((now, begins - now, free_at + delay));
        }
        (worst, arrived as f64 / now.as_secs_f64())
    }

    #[test]
    fn on_a_narrow_line_one_frame_is_on_its_way() {
        let (queued, rate) = over_a_line(8_000.0, Duration::from_millis(50), 16 * 1024);
        assert_eq!(queued, Duration::ZERO);
        assert!(rate > 7_700.0, "{rate}");
    }

    #[test]
    fn small_frames_on_a_narrow_line_queue_for_little_more_than_two_seconds() {
        let (queued, rate) = over_a_line(8_000.0, Duration::from_millis(300), 2_000);
        assert!(queued < Duration::from_millis(2_500), "{queued:?}");
        assert!(rate > 7_800.0, "{rate}");
    }

    #[test]
    fn a_wide_and_long_line_is_filled() {
        let (queued, rate) = over_a_line(100_000_000.0, Duration::from_millis(300), 16 * 1024);
        assert!(queued < Duration::from_millis(100), "{queued:?}");
        assert!(rate > 2_500_000.0, "{rate}");
    }

    #[test]
    fn one_late_round_shrinks_the_pace_once() {
        let mut pace = Pace::default();
        pace.acknowledged(16 * 1024, Duration::ZERO, Duration::from_millis(10));
        let before = pace.window_bytes;
        for late in [3, 4, 5] {
            pace.acknowledged(16 * 1024, Duration::ZERO, Duration::from_secs(late));
        }
        assert_eq!(pace.window_bytes, before / 2);
        assert!(pace.has_room(0, 1_000_000), "nothing is on its way");
        assert!(!pace.has_room(1, 1_000_000));
    }
}
