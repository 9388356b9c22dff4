//! Lamps (亮灯): the state of a deadline, computed from timestamps alone.
//!
//! A lamp is never stored: whoever has the timestamps computes the same colour again.

use crate::clock::UnixMillis;

/// Colour of a deadline; prints as a word.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Lamp {
    /// 正常
    Green,
    /// 临期
    Yellow,
    /// 超期
    Red,
    /// 暂停
    Grey,
}

impl Lamp {
    /// The English word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Green => "green",
            Self::Yellow => "yellow",
            Self::Red => "red",
            Self::Grey => "grey",
        }
    }

    /// The Chinese word.
    pub fn as_str_zh(self) -> &'static str {
        match self {
            Self::Green => "正常",
            Self::Yellow => "临期",
            Self::Red => "超期",
            Self::Grey => "暂停",
        }
    }
}

impl std::fmt::Display for Lamp {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.pad(self.as_str())
    }
}

/// When a lamp turns yellow: in the last part of the time that was given.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Warning {
    last_percent: u8,
}

impl Warning {
    /// Yellow in the last `percent` of the time, 0 to 100.
    pub fn last_percent(percent: u8) -> Option<Self> {
        (percent <= 100).then_some(Self { last_percent: percent })
    }

    fn begins(self, started: UnixMillis, due: UnixMillis) -> i128 {
        let given = (i128::from(due) - i128::from(started)).max(0);
        i128::from(due) - given * i128::from(self.last_percent) / 100
    }
}

/// The last quarter.
impl Default for Warning {
    fn default() -> Self {
        Self { last_percent: 25 }
    }
}

/// An approved stop of a clock.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Pause {
    /// When it began.
    pub from: UnixMillis,
    /// When it ended; `None`: it goes on.
    pub to: Option<UnixMillis>,
}

/// The timestamps of something that is due.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Deadline {
    /// When the time began to run.
    pub started: UnixMillis,
    /// When it is due, pauses aside; the last moment that is in time.
    pub due: UnixMillis,
    /// When it was done.
    pub done: Option<UnixMillis>,
    /// Pauses that do not overlap. What is left when one begins is left when it ends.
    pub pauses: Vec<Pause>,
}

impl Deadline {
    /// A deadline without pauses.
    pub fn new(started: UnixMillis, due: UnixMillis, done: Option<UnixMillis>) -> Self {
        Self { started, due, done, pauses: Vec::new() }
    }

    /// Computes the colour at `now`. What is done keeps the colour it had: green in time, red late.
    pub fn lamp(&self, now: UnixMillis, warning: Warning) -> Lamp {
        let judged = self.done.map_or(now, |done| done.min(now));
        let open = self.done.is_none_or(|done| done > now);
        if open && self.pauses.iter().any(|pause| pause.holds(judged)) {
            return Lamp::Grey;
        }
        let running = i128::from(judged) - self.paused_before(judged);
        if running > i128::from(self.due) {
            Lamp::Red
        } else if open && running > warning.begins(self.started, self.due) {
            Lamp::Yellow
        } else {
            Lamp::Green
        }
    }

    fn paused_before(&self, instant: UnixMillis) -> i128 {
        let length = |pause: &Pause| {
            let to = pause.to.map_or(instant, |to| to.min(instant));
            (i128::from(to) - i128::from(pause.from)).max(0)
        };
        self.pauses.iter().map(length).sum()
    }
}

impl Pause {
    fn holds(self, instant: UnixMillis) -> bool {
        self.from <= instant && self.to.is_none_or(|to| instant < to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lamp(deadline: &Deadline, now: UnixMillis) -> Lamp {
        deadline.lamp(now, Warning::default())
    }

    #[test]
    fn turns_yellow_in_the_last_quarter_and_red_after_the_deadline() {
        let deadline = Deadline::new(1000, 1400, None);
        for (now, colour) in [
            (900, Lamp::Green),
            (1000, Lamp::Green),
            (1300, Lamp::Green),
            (1301, Lamp::Yellow),
            (1400, Lamp::Yellow),
            (1401, Lamp::Red),
        ] {
            assert_eq!(lamp(&deadline, now), colour, "at {now}");
        }
    }

    #[test]
    fn the_warning_is_declared() {
        let deadline = Deadline::new(0, 100, None);
        let at = |percent, now| deadline.lamp(now, Warning::last_percent(percent).unwrap());
        assert_eq!(at(0, 100), Lamp::Green);
        assert_eq!(at(100, 1), Lamp::Yellow);
        assert_eq!(at(10, 90), Lamp::Green);
        assert_eq!(at(10, 91), Lamp::Yellow);
        assert_eq!(Warning::last_percent(101), None);
    }

    #[test]
    fn what_is_done_keeps_its_colour() {
        assert_eq!(lamp(&Deadline::new(0, 100, Some(99)), 500), Lamp::Green);
        assert_eq!(lamp(&Deadline::new(0, 100, Some(100)), 500), Lamp::Green);
        assert_eq!(lamp(&Deadline::new(0, 100, Some(101)), 500), Lamp::Red);
    }

    #[test]
    fn a_past_colour_can_be_computed_again() {
        let done = Deadline::new(0, 100, Some(99));
        assert_eq!(lamp(&done, 98), Lamp::Yellow, "as it was before it was done");
        assert_eq!(lamp(&done, 10), Lamp::Green);
    }

    #[test]
    fn a_pause_is_grey_and_moves_the_deadline() {
        let mut deadline = Deadline::new(0, 100, None);
        deadline.pauses = vec![Pause { from: 50, to: None }];
        assert_eq!(lamp(&deadline, 49), Lamp::Green);
        assert_eq!(lamp(&deadline, 50), Lamp::Grey);
        assert_eq!(lamp(&deadline, 9000), Lamp::Grey);
        deadline.pauses = vec![Pause { from: 50, to: Some(1050) }];
        assert_eq!(lamp(&deadline, 1050), Lamp::Green);
        assert_eq!(lamp(&deadline, 1076), Lamp::Yellow);
        assert_eq!(lamp(&deadline, 1100), Lamp::Yellow);
        assert_eq!(lamp(&deadline, 1101), Lamp::Red);
        deadline.done = Some(1100);
        assert_eq!(lamp(&deadline, 5000), Lamp::Green);
    }

    #[test]
    fn extreme_timestamps_do_not_overflow() {
        let deadline = Deadline {
            started: i64::MIN,
            due: i64::MAX,
            done: None,
            pauses: vec![Pause { from: i64::MIN, to: Some(i64::MAX) }],
        };
        assert_eq!(lamp(&deadline, i64::MAX), Lamp::Green);
        assert_eq!(lamp(&Deadline::new(100, 0, None), 1), Lamp::Red, "due before it started");
    }
}
