//! Keys and values of an encrypted store as the engine holds them.
//!
//! A value: version, salt of its batch, number within the batch, then the encrypted content and its
//! tag. The key of a batch is derived from the unit's data key and the salt, the nonce is the number:
//! no two values are ever encrypted under the same key and nonce. Bound to it: the version, and the
//! whole key as the engine has it, with table and unit.
//!
//! A key stays as it is, so that the engine keeps its order, but for what [`hidden`] says: there
//! stands a keyed hash, and the content begins with the length (2 bytes) and the bytes that the hash
//! stands for. Entries that differ in their hidden part alone have an order of the store's own.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use aws_lc_rs::hmac;

use super::{
    SALT_BYTES, UnitKeys, Vault,
    cipher::{Key, TAG_BYTES},
    random,
};
use crate::store::{Entry, Error, Table};

const VERSION: u8 = 1;

/// Bytes of a keyed hash in a key.
const HASH_BYTES: usize = 16;

/// Bytes before the encrypted content: version, salt, number.
const HEAD_BYTES: usize = 1 + SALT_BYTES + 4;

/// Bytes of a group at the end of a component's key.
const GROUP_BYTES: usize = 16;

/// Parts of a key that are replaced by a hash of everything up to their end; the last one ends
/// where the key does.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Hidden(Vec<Range<usize>>);

/// What a key of `table` must not show: the names of records and people, groups, and single values
/// behind extremes and distinct counts. All else in keys is made by the program: numbers, codes of
/// units and desks, names of indicators and record types, months, ids, digests.
fn hidden(table: u8, key: &[u8]) -> Hidden {
    let after_zero = |from: usize| {
        let rest = key.get(from..)?;
        Some(from + rest.iter().position(|byte| *byte == 0)? + 1)
    };
    let from = if table == Table::Accounts as u8 {
        Some(0)
    } else if table == Table::Records as u8 {
        after_zero(0)
    } else if table == Table::Components as u8 || table == Table::ComponentValues as u8 {
        // Month, zero, indicator, zero, version.
        after_zero(0).and_then(after_zero).map(|version| version + 4)
    } else {
        None
    };
    let mut parts = Vec::new();
    let Some(from) = from.filter(|from| *from < key.len()) else { return Hidden(parts) };
    let group = from + GROUP_BYTES;
    if table == Table::ComponentValues as u8 && group < key.len() {
        parts.push(from..group);
        parts.push(group..key.len());
    } else {
        parts.push(from..key.len());
    }
    Hidden(parts)
}

/// How a range of keys is found among those of the engine.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Form {
    /// The engine's own range over this prefix holds what is asked for, in its order.
    Ranged(Vec<u8>),
    /// The range over this prefix has to be read whole, opened, cut to what is asked for and put in
    /// order.
    Gathered(Vec<u8>),
}

/// Values of one batch of the engine on their way to the disk.
pub(crate) struct Batched {
    /// Drawn with the first value: without encryption none is needed.
    salt: Option<[u8; SALT_BYTES]>,
    next: u32,
    keys: BTreeMap<String, (Arc<UnitKeys>, Key)>,
}

impl Batched {
    /// Begins a batch with a salt of its own.
    pub(crate) fn new() -> Self {
        Self { salt: None, next: 0, keys: BTreeMap::new() }
    }
}

impl Vault {
    /// The engine's key for `key`; `None`: the unit has no data key, so that there is no such row
    /// unless its key was lost.
    pub(crate) fn stored_key(
        &self,
        table: u8,
        unit: &str,
        key: &[u8],
    ) -> Result<Option<Vec<u8>>, Error> {
        let hidden = hidden(table, key);
        if hidden.0.is_empty() {
            return Ok(Some(key.to_vec()));
        }
        Ok(self.unit(unit)?.map(|keys| hash_parts(&keys, table, key, &hidden)))
    }

    /// How entries with `prefix` are found.
    pub(crate) fn form(&self, table: u8, unit: &str, prefix: &[u8]) -> Result<Form, Error> {
        let hidden = hidden(table, prefix);
        let Some(first) = hidden.0.first() else { return Ok(Form::Ranged(prefix.to_vec())) };
        let whole_group = first.len() == GROUP_BYTES && table == Table::ComponentValues as u8;
        let head = match self.unit(unit)? {
            // All values of one component: their order is asked for, and hidden.
            Some(keys) if whole_group && hidden.0.len() == 1 => {
                hash_parts(&keys, table, prefix, &hidden)
            }
            Some(_) | None => prefix[..first.start].to_vec(),
        };
        Ok(Form::Gathered(head))
    }

    /// Encrypts a value for the engine's key `stored_key`. `has_rows` is asked if the unit has no
    /// data key yet.
    pub(crate) fn seal(
        &self,
        batched: &mut Batched,
        (table, unit, key): (u8, &str, &[u8]),
        value: &[u8],
        has_rows: impl FnOnce() -> Result<bool, Error>,
    ) -> Result<(Vec<u8>, Vec<u8>), Error> {
        let salt = *batched.salt.get_or_insert_with(random);
        if !batched.keys.contains_key(unit) {
            let keys = self.unit_or_new(unit, has_rows)?;
            let key = keys.batch_key(&salt);
            batched.keys.insert(unit.to_owned(), (keys, key));
        }
        let (keys, batch_key) = &batched.keys[unit];
        let hidden = hidden(table, key);
        let stored_key = hash_parts(keys, table, key, &hidden);
        let number = batched.next;
        batched.next = number.checked_add(1).ok_or(Error::BatchTooLarge(usize::MAX))?;
        let kept = hidden.0.first().map_or(&[][..], |first| &key[first.start..]);
        let mut sealed = Vec::with_capacity(HEAD_BYTES + 2 + kept.len() + value.len() + TAG_BYTES);
        sealed.push(VERSION);
        sealed.extend_from_slice(&salt);
        sealed.extend_from_slice(&number.to_be_bytes());
        if !hidden.0.is_empty() {
            let length = u16::try_from(kept.len()).map_err(|_| Error::ValueTooLarge(key.len()))?;
            sealed.extend_from_slice(&length.to_be_bytes());
            sealed.extend_from_slice(kept);
        }
        sealed.extend_from_slice(value);
        let context = context(table, unit, &stored_key);
        batch_key.seal(number.into(), &context, &mut sealed, HEAD_BYTES);
        Ok((stored_key, sealed))
    }

    /// The entry that stands in the engine under `stored_key`; `name` is the table's.
    ///
    /// # Errors
    ///
    /// [`Error::Tampered`], [`Error::KeyMissing`].
    pub(crate) fn open_row(
        &self,
        (table, name): (u8, &dyn Fn() -> String),
        unit: &str,
        stored_key: &[u8],
        sealed: &[u8],
    ) -> Result<Entry, Error> {
        let keys = self.unit(unit)?.ok_or_else(|| Error::KeyMissing { unit: unit.to_owned() })?;
        let entry = open(&keys, table, unit, stored_key, sealed);
        entry.ok_or_else(|| self.tampered(name(), unit))
    }
}

fn open(keys: &UnitKeys, table: u8, unit: &str, stored_key: &[u8], sealed: &[u8]) -> Option<Entry> {
    let (head, content) = sealed.split_at_checked(HEAD_BYTES)?;
    let (salt, number) = head.strip_prefix(&[VERSION])?.split_first_chunk::<SALT_BYTES>()?;
    let number = u32::from_be_bytes(number.try_into().ok()?);
    let context = context(table, unit, stored_key);
    let mut value = keys.batch_key(salt).open(number.into(), &context, content)?;
    // Hashes are as long as the key is hidden for: the shown part says whether there is one.
    let Some(from) = hidden(table, stored_key).0.first().map(|first| first.start) else {
        return Some((stored_key.to_vec(), value));
    };
    let (length, _) = value.split_first_chunk::<2>()?;
    let length = usize::from(u16::from_be_bytes(*length));
    let kept = value.get(2..2 + length)?;
    let key = [&stored_key[..from], kept].concat();
    value.drain(..2 + length);
    Some((key, value))
}

fn hash_parts(keys: &UnitKeys, table: u8, key: &[u8], hidden: &Hidden) -> Vec<u8> {
    let Some(first) = hidden.0.first() else { return key.to_vec() };
    let mut stored = key[..first.start].to_vec();
    for part in &hidden.0 {
        let mut hashed = hmac::Context::with_key(&keys.index);
        hashed.update(&[table]);
        hashed.update(&key[..part.end]);
        stored.extend_from_slice(&hashed.sign().as_ref()[..HASH_BYTES]);
    }
    stored
}

/// What a value is bound to.
fn context(table: u8, unit: &str, stored_key: &[u8]) -> Vec<u8> {
    let length = u8::try_from(unit.len()).expect("invariant: a code has at most 40 characters");
    [&[VERSION, table, length], unit.as_bytes(), stored_key].concat()
}
