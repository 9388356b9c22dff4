//! Spans of civil days that figures are of: the texts of `Summary.period`.
//!
//! A text has one meaning and a period has one text. A period has no time zone and no clock: the
//! catalogue's time zone says when its days begin.

use std::{fmt, str::FromStr};

use jiff::{
    ToSpan,
    civil::{Date, ISOWeekDate, Weekday},
};

/// Longest [`Period::Months`].
pub const MAX_MONTHS: usize = 600;

const REMEDY: &str = "write a day 2011-07-01, a week 2011-W27, a month 2011-07, a quarter 2011-Q3, \
                      a year 2011, or months 2011-07/2011-09";

/// Why a text is no period.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// None of the forms.
    #[error("{0:?} is no period: {REMEDY}")]
    Form(String),
    /// The form is right, but the calendar has no such day, week, month or quarter.
    #[error("{0:?} is not in the calendar: {REMEDY}")]
    Calendar(String),
    /// Months that end before they begin, or where they begin.
    #[error("{from}/{to} does not run forward: put the earlier month first, or write one month")]
    Order {
        /// First month.
        from: Month,
        /// Last month.
        to: Month,
    },
    /// Too many months.
    #[error("{0} months are too long a period: use at most {MAX_MONTHS}")]
    TooLong(usize),
}

/// A calendar month, the base period of components.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Month {
    year: i16,
    month: i8,
}

impl Month {
    /// Returns the month, if the calendar has it: years 1 to 9999, months 1 to 12.
    pub fn new(year: i16, month: i8) -> Option<Self> {
        ((1..=9999).contains(&year) && (1..=12).contains(&month)).then_some(Self { year, month })
    }

    /// Returns the month that holds `date`.
    ///
    /// # Errors
    ///
    /// [`Error::Calendar`]: before the year 1.
    pub fn of_date(date: Date) -> Result<Self, Error> {
        Self::new(date.year(), date.month()).ok_or_else(|| Error::Calendar(date.to_string()))
    }

    /// The year.
    pub fn year(self) -> i16 {
        self.year
    }

    /// The month of the year, from 1.
    pub fn month(self) -> i8 {
        self.month
    }

    /// First day.
    pub fn first_day(self) -> Date {
        Date::constant(self.year, self.month, 1)
    }

    /// Last day.
    pub fn last_day(self) -> Date {
        self.first_day().last_of_month()
    }

    fn index(self) -> i32 {
        i32::from(self.year) * 12 + i32::from(self.month) - 1
    }

    fn at_index(index: i32) -> Option<Self> {
        let year = i16::try_from(index.div_euclid(12)).ok()?;
        Self::new(year, i8::try_from(index.rem_euclid(12)).ok()? + 1)
    }

    fn through(self, last: Self) -> Vec<Self> {
        (self.index()..=last.index()).filter_map(Self::at_index).collect()
    }
}

impl fmt::Display for Month {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:04}-{:02}", self.year, self.month)
    }
}

impl FromStr for Month {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text.parse()? {
            Period::Month(month) => Ok(month),
            Period::Day(_)
            | Period::Week { .. }
            | Period::Quarter { .. }
            | Period::Year(_)
            | Period::Months { .. } => Err(Error::Form(text.to_owned())),
        }
    }
}

/// What a summary is of.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Period {
    /// `2011-07-01`
    Day(Date),
    /// `2011-W27`, Monday to Sunday (ISO 8601).
    Week {
        /// ISO year.
        year: i16,
        /// Week of the ISO year, from 1.
        week: i8,
    },
    /// `2011-07`
    Month(Month),
    /// `2011-Q3`
    Quarter {
        /// The year.
        year: i16,
        /// 1 to 4.
        quarter: i8,
    },
    /// `2011`
    Year(i16),
    /// `2011-07/2011-09`, both included; at least two months.
    Months {
        /// First month.
        from: Month,
        /// Last month.
        to: Month,
    },
}

impl Period {
    /// Returns the months that the period consists of, in order; `None` for a day or a week, which
    /// no months add up to.
    pub fn months(&self) -> Option<Vec<Month>> {
        let (from, to) = match *self {
            Self::Day(_) | Self::Week { .. } => return None,
            Self::Month(month) => (month, month),
            Self::Quarter { year, quarter } => {
                (Month { year, month: quarter * 3 - 2 }, Month { year, month: quarter * 3 })
            }
            Self::Year(year) => (Month { year, month: 1 }, Month { year, month: 12 }),
            Self::Months { from, to } => (from, to),
        };
        Some(from.through(to))
    }

    /// Returns the days of a day or a week, in order; `None` for what is made of months.
    pub fn days(&self) -> Option<Vec<Date>> {
        match *self {
            Self::Day(day) => Some(vec![day]),
            Self::Week { .. } => Some(self.first_day().series(1.day()).take(7).collect()),
            Self::Month(_) | Self::Quarter { .. } | Self::Year(_) | Self::Months { .. } => None,
        }
    }

    /// First day.
    pub fn first_day(&self) -> Date {
        match *self {
            Self::Day(day) => day,
            Self::Week { year, week } => monday(year, week)
                .unwrap_or_else(|| unreachable!("invariant: a week is checked when it is made")),
            Self::Month(month) => month.first_day(),
            Self::Quarter { year, quarter } => Date::constant(year, quarter * 3 - 2, 1),
            Self::Year(year) => Date::constant(year, 1, 1),
            Self::Months { from, .. } => from.first_day(),
        }
    }

    /// Last day, included.
    pub fn last_day(&self) -> Date {
        match *self {
            Self::Day(day) => day,
            Self::Week { .. } => self.first_day().saturating_add(6.days()),
            Self::Month(month) => month.last_day(),
            Self::Quarter { year, quarter } => Date::constant(year, quarter * 3, 1).last_of_month(),
            Self::Year(year) => Date::constant(year, 12, 31),
            Self::Months { to, .. } => to.last_day(),
        }
    }
}

fn monday(year: i16, week: i8) -> Option<Date> {
    ISOWeekDate::new(year, week, Weekday::Monday).ok().map(ISOWeekDate::date)
}

impl From<Month> for Period {
    fn from(month: Month) -> Self {
        Self::Month(month)
    }
}

impl fmt::Display for Period {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Day(day) => write!(formatter, "{day}"),
            Self::Week { year, week } => write!(formatter, "{year:04}-W{week:02}"),
            Self::Month(month) => write!(formatter, "{month}"),
            Self::Quarter { year, quarter } => write!(formatter, "{year:04}-Q{quarter}"),
            Self::Year(year) => write!(formatter, "{year:04}"),
            Self::Months { from, to } => write!(formatter, "{from}/{to}"),
        }
    }
}

impl FromStr for Period {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if let Some((from, to)) = text.split_once('/') {
            return months(from.parse()?, to.parse()?);
        }
        let form = || Error::Form(text.to_owned());
        let calendar = || Error::Calendar(text.to_owned());
        let year = digits(text.get(..4).ok_or_else(form)?).ok_or_else(form)?;
        if year == 0 {
            return Err(calendar());
        }
        let rest = text.get(4..).ok_or_else(form)?;
        if rest.is_empty() {
            return Ok(Self::Year(year));
        }
        let rest = rest.strip_prefix('-').ok_or_else(form)?;
        if let Some(week) = rest.strip_prefix('W') {
            let week = small(week, 2).ok_or_else(form)?;
            return monday(year, week).map(|_| Self::Week { year, week }).ok_or_else(calendar);
        }
        if let Some(quarter) = rest.strip_prefix('Q') {
            let quarter = small(quarter, 1).ok_or_else(form)?;
            let exists = (1..=4).contains(&quarter);
            return exists.then_some(Self::Quarter { year, quarter }).ok_or_else(calendar);
        }
        let Some((month, day)) = rest.split_once('-') else {
            let month = small(rest, 2).ok_or_else(form)?;
            return Month::new(year, month).map(Self::Month).ok_or_else(calendar);
        };
        let month = small(month, 2).ok_or_else(form)?;
        let day = small(day, 2).ok_or_else(form)?;
        Date::new(year, month, day).map(Self::Day).map_err(|_| calendar())
    }
}

fn months(from: Month, to: Month) -> Result<Period, Error> {
    if from >= to {
        return Err(Error::Order { from, to });
    }
    let count = from.through(to).len();
    if count > MAX_MONTHS { Err(Error::TooLong(count)) } else { Ok(Period::Months { from, to }) }
}

fn digits(text: &str) -> Option<i16> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn small(text: &str, length: usize) -> Option<i8> {
    (text.len() == length).then(|| digits(text)).flatten().and_then(|value| value.try_into().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn period(text: &str) -> Period {
        text.parse().unwrap()
    }

    fn month_texts(text: &str) -> Option<Vec<String>> {
        Some(period(text).months()?.iter().map(Month::to_string).collect())
    }

    #[test]
    fn each_form_reads_and_prints_the_same() {
        for text in [
            "2011-07-01",
            "2012-02-29",
            "2011-W27",
            "2020-W53",
            "2011-07",
            "2011-Q3",
            "2011",
            "2011-07/2011-09",
            "2011-11/2012-02",
            "0001-01",
        ] {
            assert_eq!(period(text).to_string(), text);
        }
    }

    #[test]
    fn months_of_each_form() {
        assert_eq!(month_texts("2011-07-01"), None);
        assert_eq!(month_texts("2011-W27"), None);
        assert_eq!(month_texts("2011-07").unwrap(), ["2011-07"]);
        assert_eq!(month_texts("2011-Q3").unwrap(), ["2011-07", "2011-08", "2011-09"]);
        assert_eq!(
            month_texts("2011-11/2012-02").unwrap(),
            ["2011-11", "2011-12", "2012-01", "2012-02"]
        );
        assert_eq!(month_texts("2011").unwrap().len(), 12);
    }

    #[test]
    fn days_of_each_form() {
        for (text, first, last) in [
            ("2011-07-01", "2011-07-01", "2011-07-01"),
            ("2011-W27", "2011-07-04", "2011-07-10"),
            ("2012-02", "2012-02-01", "2012-02-29"),
            ("2011-Q4", "2011-10-01", "2011-12-31"),
            ("2011", "2011-01-01", "2011-12-31"),
            ("2011-07/2011-09", "2011-07-01", "2011-09-30"),
        ] {
            assert_eq!(period(text).first_day().to_string(), first);
            assert_eq!(period(text).last_day().to_string(), last);
        }
    }

    #[test]
    fn days_and_weeks_are_made_of_days() {
        assert_eq!(period("2011-07").days(), None);
        assert_eq!(period("2024-02-29").days().unwrap().len(), 1);
        // The last week of an ISO year of 53 weeks ends in the next year.
        let days = period("2020-W53").days().unwrap();
        let texts: Vec<String> = days.iter().map(ToString::to_string).collect();
        assert_eq!((texts[0].as_str(), texts[6].as_str()), ("2020-12-28", "2021-01-03"));
        assert_eq!(texts.len(), 7);
        assert_eq!(period("2021-W01").first_day().to_string(), "2021-01-04");
        assert!("2021-W53".parse::<Period>().is_err());
    }

    #[test]
    fn what_is_no_period_is_refused_with_the_remedy() {
        for text in [
            "",
            "11",
            "2011-7",
            "2011-007",
            "2011-Q",
            "2011-Q03",
            "2011-W7",
            "2011-07-1",
            "+011",
            "2011-07-01T00:00Z",
            "2011 ",
            "2011-07/",
            "/2011-07",
            "2011/2012",
            "二〇一一",
            "2011年",
            "-011-07",
            "2011-07/2011-08/2011-09",
        ] {
            let error = text.parse::<Period>().unwrap_err();
            assert!(matches!(error, Error::Form(_)), "{text:?}: {error}");
            assert!(error.to_string().contains("2011-07/2011-09"), "{error}");
        }
        for text in ["2011-13", "2011-00", "2011-02-29", "2011-W53", "2011-Q5", "0000-01", "0000"] {
            let error = text.parse::<Period>().unwrap_err();
            assert!(matches!(error, Error::Calendar(_)), "{text:?}: {error}");
        }
        for text in ["2011-09/2011-07", "2011-07/2011-07"] {
            assert!(matches!(text.parse::<Period>(), Err(Error::Order { .. })));
        }
        assert_eq!("0001-01/9999-12".parse::<Period>(), Err(Error::TooLong(119_988)));
    }
}
