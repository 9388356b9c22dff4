//! Values on the command line and in tables: durations, times, ids.

use std::{str::FromStr, time::Duration};

use jiff::{Timestamp, tz::TimeZone};
use lianxi_node::clock::{Clock, SystemClock, UnixMillis};
use uuid::Uuid;

/// Why a value was not accepted.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum Error {
    /// No number with a unit of time.
    #[error("{0:?} is no duration: write a number and ms, s, m, h or d, such as 30m")]
    Duration(String),
    /// No number with a unit of size.
    #[error("{0:?} is no size: write a number and B, KiB, MiB or GiB, such as 16MiB")]
    Size(String),
    /// Neither an instant, a day nor a duration.
    #[error(
        "{0:?} is no time: write 2026-01-31T12:00:00+08:00, 2026-01-31 (its end), or 7d from here"
    )]
    Time(String),
    /// Neither an instant, a day nor a duration.
    #[error(
        "{0:?} is no time: write 2026-01-31T12:00:00+08:00, 2026-01-31 (its beginning), or 3d for three days ago"
    )]
    Past(String),
}

/// A duration such as `500ms`, `10s`, `30m`, `72h`, `7d`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Span(Duration);

impl Span {
    /// In milliseconds, as the contract's signed fields have it.
    pub(crate) fn as_ms(self) -> i64 {
        i64::try_from(self.0.as_millis()).unwrap_or(i64::MAX)
    }

    /// In milliseconds, as the contract's short fields have it.
    pub(crate) fn as_short_ms(self) -> u32 {
        u32::try_from(self.0.as_millis()).unwrap_or(u32::MAX)
    }
}

impl FromStr for Span {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let error = || Error::Duration(text.to_owned());
        let unit_at = text.find(|character: char| !character.is_ascii_digit()).ok_or_else(error)?;
        let (number, unit) = text.split_at(unit_at);
        let unit_ms: u64 = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(error()),
        };
        let number: u64 = number.parse().map_err(|_| error())?;
        number.checked_mul(unit_ms).map(Duration::from_millis).map(Self).ok_or_else(error)
    }
}

/// A point in time: an instant with its offset, a day (its last second here), or a duration from
/// the start of the command.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Moment(UnixMillis);

impl Moment {
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub(crate) fn unix_ms(self) -> UnixMillis {
        self.0
    }

    fn parse(text: &str, now: UnixMillis, zone: &TimeZone) -> Result<Self, Error> {
        if let Ok(instant) = text.parse::<Timestamp>() {
            return Ok(Self(instant.as_millisecond()));
        }
        if let Ok(span) = text.parse::<Span>() {
            return Ok(Self(now.saturating_add(span.as_ms())));
        }
        let error = |_| Error::Time(text.to_owned());
        let day: jiff::civil::Date = text.parse().map_err(error)?;
        let end = day.at(23, 59, 59, 0).to_zoned(zone.clone()).map_err(error)?;
        Ok(Self(end.timestamp().as_millisecond()))
    }
}

impl FromStr for Moment {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text, SystemClock.now_unix_ms(), &TimeZone::system())
    }
}

/// A point in time that is over: an instant with its offset, a day (its first second here), or a
/// duration back from the start of the command.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Past(UnixMillis);

impl Past {
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub(crate) fn unix_ms(self) -> UnixMillis {
        self.0
    }

    fn parse(text: &str, now: UnixMillis, zone: &TimeZone) -> Result<Self, Error> {
        if let Ok(instant) = text.parse::<Timestamp>() {
            return Ok(Self(instant.as_millisecond()));
        }
        if let Ok(span) = text.parse::<Span>() {
            return Ok(Self(now.saturating_sub(span.as_ms())));
        }
        let error = |_| Error::Past(text.to_owned());
        let day: jiff::civil::Date = text.parse().map_err(error)?;
        let start = day.to_zoned(zone.clone()).map_err(error)?;
        Ok(Self(start.timestamp().as_millisecond()))
    }
}

impl FromStr for Past {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text, SystemClock.now_unix_ms(), &TimeZone::system())
    }
}

/// A time for tables, in the zone of this machine; empty for 0.
pub(crate) fn time(unix_ms: UnixMillis) -> String {
    time_in(unix_ms, TimeZone::system())
}

fn time_in(unix_ms: UnixMillis, zone: TimeZone) -> String {
    match Timestamp::from_millisecond(unix_ms) {
        Ok(instant) if unix_ms != 0 => {
            instant.to_zoned(zone).strftime("%Y-%m-%d %H:%M:%S").to_string()
        }
        Ok(_) | Err(_) => String::new(),
    }
}

/// A number of bytes such as `500KiB`, `16MiB`, `1GiB`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Size(u64);

impl Size {
    /// In bytes.
    pub(crate) fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for Size {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let error = || Error::Size(text.to_owned());
        let unit_at = text.find(|character: char| !character.is_ascii_digit()).ok_or_else(error)?;
        let (number, unit) = text.split_at(unit_at);
        let unit_bytes: u64 = match unit {
            "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => return Err(error()),
        };
        let number: u64 = number.parse().map_err(|_| error())?;
        number.checked_mul(unit_bytes).map(Self).ok_or_else(error)
    }
}

/// A length of time for tables, in its largest fitting units.
pub(crate) fn length(ms: i64) -> String {
    let seconds = ms.unsigned_abs() / 1_000;
    let sign = if ms < 0 { "-" } else { "" };
    let text = match seconds {
        0 => format!("{} ms", ms.unsigned_abs()),
        1..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds / 60),
        7_200..=172_799 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    };
    format!("{sign}{text}")
}

/// A number of bytes for tables.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (bytes, 0);
    let mut rest = 0;
    while value >= 1_024 && unit + 1 < UNITS.len() {
        rest = value % 1_024;
        value /= 1_024;
        unit += 1;
    }
    if unit == 0 {
        format!("{value} B")
    } else {
        format!("{value}.{} {}", rest * 10 / 1_024, UNITS[unit])
    }
}

/// An id of 16 bytes as its UUID; other lengths in hex.
pub(crate) fn id(bytes: &[u8]) -> String {
    Uuid::from_slice(bytes).map_or_else(|_| hex::encode(bytes), |id| id.to_string())
}

/// The bytes of an id written as a UUID.
pub(crate) fn id_bytes(text: &str) -> Option<Vec<u8>> {
    Uuid::parse_str(text).ok().map(|id| id.as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_need_a_number_and_a_unit() {
        assert_eq!("16MiB".parse::<Size>().unwrap().bytes(), 16 * 1024 * 1024);
        assert_eq!("384KiB".parse::<Size>().unwrap().bytes(), 393_216);
        for bad in ["", "16", "MiB", "1.5MiB", "16 MiB", "16MB", "99999999999999GiB", "-1B"] {
            assert_eq!(bad.parse::<Size>(), Err(Error::Size(bad.to_owned())), "{bad}");
        }
    }

    #[test]
    fn durations_need_a_number_and_a_unit() {
        assert_eq!("500ms".parse::<Span>().unwrap().as_ms(), 500);
        assert_eq!("72h".parse::<Span>().unwrap().as_ms(), 259_200_000);
        assert_eq!("7d".parse::<Span>().unwrap().as_ms(), 604_800_000);
        for bad in
            ["", "10", "s", "-3s", "1.5h", "10 s", "99999999999999999999s", "9999999999999999d"]
        {
            assert_eq!(bad.parse::<Span>(), Err(Error::Duration(bad.to_owned())), "{bad}");
        }
    }

    #[test]
    fn a_moment_is_an_instant_a_day_or_from_here() {
        let parse = |text| Moment::parse(text, 1_000, &TimeZone::UTC).map(Moment::unix_ms);
        assert_eq!(parse("1970-01-01T08:00:05+08:00"), Ok(5_000));
        assert_eq!(parse("1970-01-01"), Ok(86_399_000));
        assert_eq!(parse("2s"), Ok(3_000));
        assert_eq!(parse("tomorrow"), Err(Error::Time("tomorrow".to_owned())));
        assert_eq!(parse("2026-02-30"), Err(Error::Time("2026-02-30".to_owned())));
    }

    #[test]
    fn a_past_is_an_instant_a_day_or_from_here_back() {
        let zone = TimeZone::fixed(jiff::tz::offset(8));
        let parse = |text: &str| Past::parse(text, 10_000_000, &zone).map(Past::unix_ms);
        assert_eq!(parse("1970-01-01T01:00:00+00:00"), Ok(3_600_000));
        assert_eq!(parse("1970-01-02"), Ok(16 * 3_600_000));
        assert_eq!(parse("1h"), Ok(6_400_000));
        assert_eq!(parse("soon"), Err(Error::Past("soon".to_owned())));
    }

    #[test]
    fn times_and_lengths_read_well() {
        assert_eq!(time_in(1_000, TimeZone::UTC), "1970-01-01 00:00:01");
        assert_eq!(time_in(0, TimeZone::UTC), "");
        assert_eq!(time_in(i64::MAX, TimeZone::UTC), "");
        assert_eq!(length(-1_500), "-1 s");
        assert_eq!(length(250), "250 ms");
        assert_eq!(length(3 * 86_400_000), "3 d");
        assert_eq!(size(1_023), "1023 B");
        assert_eq!(size(1_536), "1.5 KiB");
        assert_eq!(size(u64::MAX), "16777215.9 TiB");
    }

    #[test]
    fn ids_go_there_and_back() {
        let text = "0190b6a0-0000-7000-8000-000000000001";
        assert_eq!(id(&id_bytes(text).unwrap()), text);
        assert_eq!(id(&[1, 2]), "0102");
        assert_eq!(id_bytes("17号"), None);
    }
}
