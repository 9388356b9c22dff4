//! Between what the store is asked for and what sled holds: keys with their unit and table, and,
//! in an encrypted store, hidden parts of keys and encrypted values.

use std::sync::Arc;

use ::sled::{Db, IVec};

use super::key;
use crate::{
    domain::{protection::Cipher, unit::UnitCode},
    store::{
        Entry, Error, Table,
        vault::{Batched, Form, Vault},
    },
};

/// What stands in sled, or is to.
pub(super) type Row = (IVec, IVec);

/// How keys and values stand in sled.
#[derive(Clone, Debug)]
pub(super) struct Codec(Option<Arc<Vault>>);

/// A range of sled's keys, and how what is in it becomes the entries that were asked for.
pub(super) struct Plan {
    pub(super) range: key::Range,
    /// Entries of the range to read at most.
    pub(super) limit: usize,
    gathered: Option<Asked>,
}

struct Asked {
    prefix: Vec<u8>,
    after: Option<Vec<u8>>,
    limit: usize,
}

impl Plan {
    /// True if the whole range has to be read.
    pub(super) fn is_gathered(&self) -> bool {
        self.gathered.is_some()
    }
}

impl Codec {
    pub(super) fn new(vault: Option<Arc<Vault>>) -> Self {
        Self(vault)
    }

    pub(super) fn vault(&self) -> Option<&Arc<Vault>> {
        self.0.as_ref()
    }

    pub(super) fn cipher(&self) -> Cipher {
        self.0.as_ref().map_or(Cipher::None, |vault| vault.cipher())
    }

    /// sled's key; `None`: nothing of this unit can be there unless its data key was lost.
    pub(super) fn key(
        &self,
        unit: &UnitCode,
        table: Table,
        key: &[u8],
    ) -> Result<Option<Vec<u8>>, Error> {
        let Some(vault) = &self.0 else { return Ok(Some(key::encode(unit, table, key))) };
        let stored = vault.stored_key(table as u8, unit.as_str(), key)?;
        Ok(stored.map(|stored| key::encode(unit, table, &stored)))
    }

    /// How to scan; `None`: there can be nothing.
    pub(super) fn plan(
        &self,
        (unit, table): (&UnitCode, Table),
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Option<Plan>, Error> {
        let Some(vault) = &self.0 else {
            let range = key::range(unit, table, prefix, after);
            return Ok(range.map(|range| Plan { range, limit, gathered: None }));
        };
        match vault.form(table as u8, unit.as_str(), prefix)? {
            Form::Ranged(prefix) => {
                let after = after.map(|after| vault.stored_key(table as u8, unit.as_str(), after));
                let after = after.transpose()?.flatten();
                let range = key::range(unit, table, &prefix, after.as_deref());
                Ok(range.map(|range| Plan { range, limit, gathered: None }))
            }
            Form::Gathered(head) => {
                let after = after.map(<[u8]>::to_vec);
                let gathered = Some(Asked { prefix: prefix.to_vec(), after, limit });
                let range = key::range(unit, table, &head, None);
                Ok(range.map(|range| Plan { range, limit: usize::MAX, gathered }))
            }
        }
    }

    /// The entries of a plan, from what stood in its range.
    pub(super) fn entries(
        &self,
        unit: &UnitCode,
        table: Table,
        plan: Plan,
        rows: Vec<Row>,
    ) -> Result<Vec<Entry>, Error> {
        let opened = rows.into_iter().map(|(key, value)| self.open(unit, table, &key, &value));
        let Some(asked) = plan.gathered else { return opened.collect() };
        let mut entries = opened.collect::<Result<Vec<_>, _>>()?;
        let is_asked = |key: &[u8]| {
            key.starts_with(&asked.prefix) && asked.after.as_deref().is_none_or(|after| key > after)
        };
        entries.retain(|(key, _)| is_asked(key));
        entries.sort_unstable();
        entries.truncate(asked.limit);
        Ok(entries)
    }

    /// An entry of a unit and table, its key without what stands before it.
    pub(super) fn open(
        &self,
        unit: &UnitCode,
        table: Table,
        key: &[u8],
        value: &[u8],
    ) -> Result<Entry, Error> {
        let Some(vault) = &self.0 else { return Ok(key::decode(unit, key, value)) };
        let (key, _) = key::decode(unit, key, b"");
        let name = || format!("{table:?}");
        vault.open_row((table as u8, &name), unit.as_str(), &key, value)
    }

    /// An entry as it would stand in a store that is not encrypted.
    pub(super) fn open_raw(&self, key: &[u8], value: &[u8]) -> Result<(Vec<u8>, Vec<u8>), Error> {
        let Some(vault) = &self.0 else { return Ok((key.to_vec(), value.to_vec())) };
        let split = key::split(key);
        let (table, unit, head) = split.ok_or_else(|| damaged_key(key))?;
        let name = || table.to_string();
        let (rest, value) = vault.open_row((table, &name), unit, &key[head..], value)?;
        Ok(([&key[..head], &rest].concat(), value))
    }

    /// What is to stand in sled for an entry whose `key` is whole. `db` is asked whether a unit
    /// without data key has rows all the same.
    pub(super) fn seal(
        &self,
        batched: &mut Batched,
        key: IVec,
        value: Option<IVec>,
        db: &Db,
    ) -> Result<(IVec, Option<IVec>), Error> {
        let Some(vault) = &self.0 else { return Ok((key, value)) };
        let (table, unit, head) = key::split(&key).ok_or_else(|| damaged_key(&key))?;
        let rest = &key[head..];
        let stored = |rest: Vec<u8>| IVec::from([&key[..head], &rest].concat());
        let Some(value) = value else {
            let rest = vault.stored_key(table, unit, rest)?;
            return Ok((rest.map_or_else(|| key.clone(), stored), None));
        };
        let has_rows = || {
            let units = super::units(db).map_err(|error| Error::Engine(error.to_string()))?;
            Ok(units.iter().any(|known| known.as_str() == unit))
        };
        let (rest, sealed) = vault.seal(batched, (table, unit, rest), &value, has_rows)?;
        Ok((stored(rest), Some(sealed.into())))
    }
}

fn damaged_key(key: &[u8]) -> Error {
    Error::Engine(format!("the key {} of a stored value is none", hex::encode(key)))
}
