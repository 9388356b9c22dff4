//! Stocks: what is there at the end of a day, told by when it came and when it went.
//!
//! Everything is decided by civil days of the catalogue's time zone, so that a stock at the end of a
//! day, a month or a year has one meaning and needs no clock. What came and went on one day was never
//! there at the end of any.

use jiff::{Timestamp, civil::Date, tz::TimeZone};

use crate::domain::period::Month;

/// When something came and when it went.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Span {
    /// When it came.
    pub from: Timestamp,
    /// When it went; `None`: it is still there.
    pub until: Option<Timestamp>,
}

/// The days at whose end something was there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stay {
    /// First of them.
    pub from: Date,
    /// First day after them; `None`: they go on.
    pub until: Option<Date>,
}

impl Span {
    /// Returns the days at whose end it was there; `None` if there were none, as when it went on the
    /// day on which it came or before, and outside the years 1 to 9999.
    pub fn stay(&self, tz: &TimeZone) -> Option<Stay> {
        let day = |instant| {
            let date = tz.to_datetime(instant).date();
            Month::of_date(date).ok().map(|_| date)
        };
        let from = day(self.from)?;
        let until = match self.until {
            Some(until) => Some(day(until)?),
            None => None,
        };
        until.is_none_or(|until| from < until).then_some(Stay { from, until })
    }

    /// Milliseconds since 1970 at which it came, for its age; parts are dropped. Never after the end
    /// of its day, also where a clock that is set back shows a day again.
    pub fn began_milli(&self, stay: &Stay, tz: &TimeZone) -> i64 {
        let began = self.from.as_nanosecond().div_euclid(1_000_000);
        let began = i64::try_from(began).unwrap_or(i64::MAX);
        began.min(end_milli(stay.from, tz) - 1)
    }
}

impl Stay {
    /// True if it was there at the end of `day`.
    pub fn holds(&self, day: Date) -> bool {
        self.from <= day && self.until.is_none_or(|until| day < until)
    }
}

/// Milliseconds since 1970 at which `day` ends, which is where the next one begins.
pub fn end_milli(day: Date, tz: &TimeZone) -> i64 {
    let next = day.tomorrow().and_then(|next| next.to_zoned(tz.clone()));
    next.map_or(Timestamp::MAX, |next| next.timestamp()).as_millisecond()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stay(from: &str, until: Option<&str>, tz: &TimeZone) -> Option<Stay> {
        let instant = |text: &str| text.parse().unwrap();
        Span { from: instant(from), until: until.map(instant) }.stay(tz)
    }

    fn date(text: &str) -> Date {
        text.parse().unwrap()
    }

    #[test]
    fn what_came_and_went_on_one_day_was_never_there_at_its_end() {
        let tz = TimeZone::get("Asia/Shanghai").unwrap();
        let day = "2024-02-29T16:00:00Z";
        assert_eq!(stay(day, Some("2024-03-01T15:59:59Z"), &tz), None);
        assert_eq!(stay(day, Some("2024-02-28T00:00:00Z"), &tz), None, "went before it came");
        let over_night = stay(day, Some("2024-03-01T16:00:00Z"), &tz).unwrap();
        assert!(over_night.holds(date("2024-03-01")), "midnight belongs to the next day");
        assert!(!over_night.holds(date("2024-02-29")) && !over_night.holds(date("2024-03-02")));
        let open = stay(day, None, &tz).unwrap();
        assert!(open.holds(date("9999-12-31")) && !open.holds(date("2024-02-29")));
    }

    #[test]
    fn days_end_where_the_next_begins_whatever_the_clocks_do() {
        let ends = |zone: &str, day: &str| {
            let milli = end_milli(date(day), &TimeZone::get(zone).unwrap());
            Timestamp::from_millisecond(milli).unwrap().to_string()
        };
        // 23 and 25 hours.
        assert_eq!(ends("America/New_York", "2024-03-10"), "2024-03-11T04:00:00Z");
        assert_eq!(ends("America/New_York", "2024-11-03"), "2024-11-04T05:00:00Z");
        // No midnight: the day begins at one o'clock.
        assert_eq!(ends("America/Sao_Paulo", "2018-11-03"), "2018-11-04T03:00:00Z");
        assert_eq!(end_milli(date("9999-12-31"), &TimeZone::UTC), Timestamp::MAX.as_millisecond());
    }

    #[test]
    fn an_age_is_never_negative_where_a_day_is_shown_again() {
        // Clocks went back from one minute past midnight to the evening before.
        let tz = TimeZone::get("America/St_Johns").unwrap();
        for minutes in 0..180 {
            let from: Timestamp = "2005-10-30T01:30:00Z".parse().unwrap();
            let span = Span { from: from + jiff::SignedDuration::from_mins(minutes), until: None };
            let stay = span.stay(&tz).unwrap();
            let began = span.began_milli(&stay, &tz);
            assert!(began < end_milli(stay.from, &tz), "{}", span.from);
            assert!(began >= end_milli(stay.from.yesterday().unwrap(), &tz), "{}", span.from);
        }
    }
}
