//! Stored forms of records and figures: keys, and values that begin with a format version.
//!
//! | table | key | value |
//! |---|---|---|
//! | `Records` | record type, 0, record key | version, salt of the journal's leaf (from version 2 on), JSON with sorted names |
//! | `Components` | month or day, 0, indicator, 0, version, group (hashed) | version, group, component |
//! | `Components` | `stock`, 0, indicator, 0, version, [`Side`], `m` or `d`, month or day, group (hashed) | version, group, component |
//! | `ComponentValues` | key of the component, value as 8 ordered bytes | version, count |
//! | `Imports` | `PROGRESS` | version, JSON of [`Progress`](super::Progress) |
//! | `Meta` | `COUNTERS`, `BUILT` | version, numbers; version, JSON |
//!
//! Months and days come first in the key of a component, so that a period costs one scan for each month
//! or day and indicator. The indicator with the empty name counts all records of the month. Stocks are
//! read from the end of a period on, so their indicator comes first.

use sha2::{Digest, Sha256};

use jiff::civil::Date;

use super::Error;
use crate::{
    domain::{component::Component, period::Month},
    store,
};

/// Key of [`Counters`] in `Meta`.
pub(super) const COUNTERS: &[u8] = b"records/counters";

/// Key of the indicators that components exist of, in `Meta`.
pub(super) const BUILT: &[u8] = b"records/built";

/// Key of the progress of an import in `Imports`; the host's own rows begin with 1.
pub(super) const PROGRESS: &[u8] = &[2];

/// Version of all forms here.
pub(super) const FORMAT: u8 = 1;

/// Version of records with the salt of their leaf.
const SALTED: u8 = 2;

/// Bytes of a salt: too many to be guessed.
const SALT_BYTES: usize = 16;

/// Bytes of a hashed group at the end of a component's key.
const GROUP_BYTES: usize = 16;

pub(super) fn record_key(record_type: &str, key: &str) -> Vec<u8> {
    [record_type.as_bytes(), &[0], key.as_bytes()].concat()
}

/// Splits the key of a record into type and key.
pub(super) fn split_record_key(key: &[u8]) -> Result<(&str, &str), Error> {
    str::from_utf8(key)
        .ok()
        .and_then(|text| text.split_once('\0'))
        .ok_or_else(|| Error::Damaged("the key of a record".to_owned()))
}

/// A stored record without its salt: version 1, JSON.
pub(super) fn unsalted(value: Vec<u8>) -> Result<Vec<u8>, Error> {
    match value.split_first() {
        Some((&SALTED, rest)) => {
            let document = rest.get(SALT_BYTES..);
            document.map(versioned).ok_or_else(|| Error::Damaged("a record".to_owned()))
        }
        Some(_) | None => Ok(value),
    }
}

/// Salts a record of version 1 for the journal. Returns the row, and the digest for its leaf:
/// SHA-256(salt || key of the row || 0x00 || JSON). Whoever removes the row removes the salt, and
/// the digest tells nothing any more.
pub(super) fn salted(key: &[u8], value: &[u8], salt: &[u8; SALT_BYTES]) -> (Vec<u8>, [u8; 32]) {
    let document = value.get(1..).unwrap_or_default();
    let row = [&[SALTED], &salt[..], document].concat();
    let digest = Sha256::new_with_prefix(salt).chain_update(key).chain_update([0]);
    (row, digest.chain_update(document).finalize().into())
}

/// Fresh salts, drawn at once: each draw is a call of the system.
pub(super) fn salts(count: usize) -> Result<Vec<[u8; SALT_BYTES]>, Error> {
    let mut salts = vec![[0; SALT_BYTES]; count];
    crate::random::fill(salts.as_flattened_mut()).map_err(|error| {
        Error::Store(store::Error::Engine(format!("no random numbers: {error}")))
    })?;
    Ok(salts)
}

/// Puts the version before a value.
pub(super) fn versioned(value: &[u8]) -> Vec<u8> {
    [&[FORMAT], value].concat()
}

/// Takes the version off a value.
pub(super) fn unversioned<'value>(what: &str, value: &'value [u8]) -> Result<&'value [u8], Error> {
    match value.split_first() {
        Some((&FORMAT, rest)) => Ok(rest),
        Some((&later, _)) => Err(Error::Format { what: what.to_owned(), found: later }),
        None => Err(Error::Damaged(what.to_owned())),
    }
}

/// First part of the keys of stocks; after all months and days.
const STOCK: &str = "stock";

/// Where a component's key says that what is there has not gone: after all months.
const OPEN: &str = "~";

/// What a component is of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Bucket {
    /// Records of a month.
    Month(Month),
    /// Records of a day.
    Day(Date),
    /// Records that came, or went, in a month or on a day.
    Stock,
}

/// Which end of its stay puts a record into a component of a stock.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Side {
    /// When it came.
    From,
    /// When it went.
    Until,
}

impl Side {
    fn as_byte(self) -> u8 {
        match self {
            Self::From => b'f',
            Self::Until => b'u',
        }
    }
}

/// Beginning of the keys of all components of one side of a stock.
pub(super) fn stock_prefix(indicator: &str, version: u32, side: Side) -> Vec<u8> {
    let mut key = cell_prefix(STOCK, indicator, version);
    key.push(side.as_byte());
    key
}

/// Beginning of the keys of one side in one month; `None`: in no month yet.
pub(super) fn stock_month(prefix: &[u8], month: Option<Month>) -> Vec<u8> {
    let month = month.map_or_else(|| OPEN.to_owned(), |month| month.to_string());
    [prefix, b"m", month.as_bytes()].concat()
}

/// Beginning of the keys of one side on one day.
pub(super) fn stock_day(prefix: &[u8], day: Date) -> Vec<u8> {
    [prefix, b"d", day.to_string().as_bytes()].concat()
}

/// Beginning of the keys of all components of one indicator in one month, or on one day.
pub(super) fn cell_prefix(
    bucket: impl std::fmt::Display,
    indicator: &str,
    version: u32,
) -> Vec<u8> {
    let mut key = bucket.to_string().into_bytes();
    key.push(0);
    key.extend_from_slice(indicator.as_bytes());
    key.push(0);
    key.extend_from_slice(&version.to_be_bytes());
    key
}

/// Key of the component of one group; the empty group is the total.
pub(super) fn cell_key(prefix: &[u8], group: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(prefix.len() + GROUP_BYTES + 8);
    key.extend_from_slice(prefix);
    if group.is_empty() {
        key.extend_from_slice(&[0; GROUP_BYTES]);
    } else {
        key.extend_from_slice(&Sha256::digest(group.as_bytes())[..GROUP_BYTES]);
    }
    key
}

/// Whose component the key of a component or of one of its values is: of what, indicator, version.
pub(super) fn split_cell_key(key: &[u8]) -> Result<(Bucket, &str, u32), Error> {
    let damaged = || Error::Damaged("the key of a component".to_owned());
    let mut parts = key.splitn(3, |byte| *byte == 0);
    let mut next = || parts.next().ok_or_else(damaged);
    let text = |part| str::from_utf8(part).map_err(|_| damaged());
    let bucket = match text(next()?)? {
        STOCK => Bucket::Stock,
        month if month.len() == 7 => Bucket::Month(month.parse().map_err(|_| damaged())?),
        day => Bucket::Day(day.parse().map_err(|_| damaged())?),
    };
    let indicator = text(next()?)?;
    let version = next()?.first_chunk().ok_or_else(damaged)?;
    Ok((bucket, indicator, u32::from_be_bytes(*version)))
}

pub(super) fn encode_cell(group: &str, component: &Component) -> Vec<u8> {
    let component = component.to_bytes();
    let mut value = Vec::with_capacity(3 + group.len() + component.len());
    value.push(FORMAT);
    let length = u16::try_from(group.len()).expect("invariant: groups have at most 128 characters");
    value.extend_from_slice(&length.to_be_bytes());
    value.extend_from_slice(group.as_bytes());
    value.extend_from_slice(&component);
    value
}

pub(super) fn decode_cell(value: &[u8]) -> Result<(String, Component), Error> {
    let damaged = || Error::Damaged("a component".to_owned());
    let rest = unversioned("a component", value)?;
    let (length, rest) = rest.split_first_chunk().ok_or_else(damaged)?;
    let length = usize::from(u16::from_be_bytes(*length));
    let (group, component) = rest.split_at_checked(length).ok_or_else(damaged)?;
    let group = String::from_utf8(group.to_vec()).map_err(|_| damaged())?;
    Ok((group, Component::from_bytes(component)?))
}

pub(super) fn value_key(cell: &[u8], value: u64) -> Vec<u8> {
    [cell, &value.to_be_bytes()].concat()
}

/// The value at the end of a key of `ComponentValues`.
pub(super) fn value_of(key: &[u8]) -> Result<u64, Error> {
    key.last_chunk()
        .map(|bytes| u64::from_be_bytes(*bytes))
        .ok_or_else(|| Error::Damaged("the key of a value".to_owned()))
}

/// Maps numbers so that the order of their bytes is theirs.
pub(super) fn ordered(value: i64) -> u64 {
    value.cast_unsigned() ^ (1 << 63)
}

/// Undoes [`ordered`].
pub(super) fn unordered(value: u64) -> i64 {
    (value ^ (1 << 63)).cast_signed()
}

pub(super) fn encode_count(count: u64) -> Vec<u8> {
    versioned(&count.to_be_bytes())
}

pub(super) fn decode_count(value: &[u8]) -> Result<u64, Error> {
    unversioned("a count", value)?
        .try_into()
        .map(u64::from_be_bytes)
        .map_err(|_| Error::Damaged("a count".to_owned()))
}

/// What a unit's records take.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Counters {
    /// Number of records.
    pub(super) records: u64,
    /// Bytes of their keys and values.
    pub(super) bytes: u64,
    /// One more with each batch: each batch requires that the one before it was written.
    pub(super) sequence: u64,
}

impl Counters {
    pub(super) fn encode(self) -> Vec<u8> {
        let numbers = [self.records, self.bytes, self.sequence].map(u64::to_be_bytes);
        versioned(numbers.as_flattened())
    }

    pub(super) fn decode(value: &[u8]) -> Result<Self, Error> {
        let rest = unversioned("the counters of records", value)?;
        let (numbers, []) = rest.as_chunks::<8>() else {
            return Err(Error::Damaged("the counters of records".to_owned()));
        };
        match numbers {
            [records, bytes, sequence] => Ok(Self {
                records: u64::from_be_bytes(*records),
                bytes: u64::from_be_bytes(*bytes),
                sequence: u64::from_be_bytes(*sequence),
            }),
            _ => Err(Error::Damaged("the counters of records".to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_salted_record_reads_back_and_its_digest_needs_the_salt() {
        let plain = versioned(b"{}");
        let salts = salts(2).unwrap();
        let (row, digest) = salted(b"type\0key", &plain, &salts[0]);
        assert_eq!(unsalted(row.clone()).unwrap(), plain);
        assert_eq!(unsalted(plain.clone()).unwrap(), plain);
        let (_, other) = salted(b"type\0key", &plain, &salts[1]);
        assert_ne!(digest, other, "the same record has another digest under another salt");
        assert!(unsalted(row[..9].to_vec()).is_err());
    }

    #[test]
    fn the_order_of_numbers_is_the_order_of_their_keys() {
        let numbers = [i64::MIN, -1000, -1, 0, 1, 999, i64::MAX];
        for pair in numbers.windows(2) {
            assert!(value_key(b"c", ordered(pair[0])) < value_key(b"c", ordered(pair[1])));
            assert_eq!(unordered(ordered(pair[0])), pair[0]);
        }
    }

    #[test]
    fn keys_and_values_read_back() {
        let month = Month::new(2011, 7).unwrap();
        let key = cell_key(&cell_prefix(month, "received", 3), "water \0 pipe");
        assert_eq!(split_cell_key(&key).unwrap(), (Bucket::Month(month), "received", 3));
        let day = jiff::civil::date(2011, 7, 4);
        let key = cell_key(&cell_prefix(day, "received", 3), "");
        assert_eq!(split_cell_key(&key).unwrap(), (Bucket::Day(day), "received", 3));
        let side = stock_prefix("open", 1, Side::Until);
        for prefix in [stock_month(&side, None), stock_day(&side, day)] {
            let key = cell_key(&prefix, "");
            assert_eq!(split_cell_key(&key).unwrap(), (Bucket::Stock, "open", 1));
        }
        assert_eq!(value_of(&value_key(&key, 77)).unwrap(), 77);
        let cell = encode_cell("水管", &Component::Count(5));
        assert_eq!(decode_cell(&cell).unwrap(), ("水管".to_owned(), Component::Count(5)));
        let counters = Counters { records: 1, bytes: 2, sequence: 3 };
        assert_eq!(Counters::decode(&counters.encode()).unwrap(), counters);
        assert_eq!(split_record_key(&record_key("visit", "7\0")).unwrap(), ("visit", "7\0"));
    }

    #[test]
    fn damage_and_later_formats_are_told_apart() {
        assert!(matches!(decode_cell(&[]), Err(Error::Damaged(_))));
        assert!(matches!(decode_cell(&[FORMAT, 0]), Err(Error::Damaged(_))));
        assert!(matches!(decode_cell(&[FORMAT, 0, 9, 1]), Err(Error::Damaged(_))));
        assert!(matches!(decode_count(&[FORMAT, 1]), Err(Error::Damaged(_))));
        assert!(matches!(Counters::decode(&[9]), Err(Error::Format { found: 9, .. })));
        assert!(split_cell_key(b"2011-07").is_err());
        assert!(split_cell_key(b"never\0a\0\0\0\0\x01").is_err());
    }
}
