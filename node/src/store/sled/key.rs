//! Keys as sled sees them: `[table][length of the unit's code][code][key]`.
//!
//! The length stands before the code, so that no unit's keys can lie between another's: with the
//! code alone, `A` followed by a key that begins with `-1` would read like `A-1`.

use std::ops::Bound;

use ::sled::IVec;

use crate::{
    domain::unit::UnitCode,
    store::{Entry, Table},
};

/// Bounds of a range.
pub(super) type Range = (Bound<IVec>, Bound<IVec>);

/// Appends what stands before the key.
pub(super) fn write_prefix(buffer: &mut Vec<u8>, unit: &UnitCode, table: Table) {
    let code = unit.as_str().as_bytes();
    buffer.push(table as u8);
    buffer.push(u8::try_from(code.len()).expect("invariant: a code has at most 40 characters"));
    buffer.extend_from_slice(code);
}

/// The stored key.
pub(super) fn encode(unit: &UnitCode, table: Table, key: &[u8]) -> Vec<u8> {
    let mut buffer = Vec::with_capacity(2 + unit.as_str().len() + key.len());
    write_prefix(&mut buffer, unit, table);
    buffer.extend_from_slice(key);
    buffer
}

/// The entry without what stands before its key.
pub(super) fn decode(unit: &UnitCode, key: &[u8], value: &[u8]) -> Entry {
    (key[2 + unit.as_str().len()..].to_vec(), value.to_vec())
}

/// The first key above all that begin with `prefix`.
///
/// `prefix` begins with a table's number, which is never 0xff, so there is one.
pub(super) fn successor(mut prefix: Vec<u8>) -> Vec<u8> {
    while let Some(last) = prefix.pop() {
        if last < u8::MAX {
            prefix.push(last + 1);
            break;
        }
    }
    prefix
}

/// The range of keys that begin with `prefix` and are above `after`; `None`: there can be none.
pub(super) fn range(
    unit: &UnitCode,
    table: Table,
    prefix: &[u8],
    after: Option<&[u8]>,
) -> Option<Range> {
    let first = encode(unit, table, prefix);
    let end = successor(first.clone());
    let start = match after {
        Some(after) if after >= prefix => {
            let after = encode(unit, table, after);
            if after >= end {
                return None;
            }
            Bound::Excluded(after.into())
        }
        Some(_) | None => Bound::Included(first.into()),
    };
    Some((start, Bound::Excluded(end.into())))
}

/// The code inside a stored key, if it is one.
pub(super) fn unit(key: &[u8]) -> Option<UnitCode> {
    let length = usize::from(*key.get(1)?);
    std::str::from_utf8(key.get(2..2 + length)?).ok()?.parse().ok()
}

/// Number of the table, code of the unit, and where the key itself begins in a stored key.
pub(super) fn split(key: &[u8]) -> Option<(u8, &str, usize)> {
    let (table, length) = (*key.first()?, usize::from(*key.get(1)?));
    let unit = std::str::from_utf8(key.get(2..2 + length)?).ok()?;
    Some((table, unit, 2 + length))
}

/// What stands before the key in the stored `key` of `unit`.
pub(super) fn prefix_of(key: &[u8], unit: &UnitCode) -> Vec<u8> {
    key[..2 + unit.as_str().len()].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_successor_steps_over_full_bytes() {
        assert_eq!(successor(vec![1, 2]), [1, 3]);
        assert_eq!(successor(vec![1, 0xff, 0xff]), [2]);
    }

    #[test]
    fn units_are_read_from_keys_and_nothing_else() {
        let code: UnitCode = "BOS-01".parse().unwrap();
        assert_eq!(unit(&encode(&code, Table::Meta, b"x")), Some(code));
        assert_eq!(unit(&[1, 200, b'A']), None);
        assert_eq!(unit(&[1]), None);
        assert_eq!(unit(&[1, 1, b'a']), None);
    }
}
