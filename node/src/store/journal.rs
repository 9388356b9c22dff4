//! Rows of a unit's journal: what an engine's writer adds to a commit, whichever engine it is.
//!
//! Leaves stand in rows of [`Table::Journal`], keyed by the index of their first leaf; a group
//! commit makes one row per unit, split where a tile ends or a row would be too large. Every 256
//! leaves fill a tile (C2SP `tlog-tiles`): a row of [`Table::JournalTiles`] with their hashes,
//! and 256 tiles fill one of the level above. The unfinished right edge is in memory, and is
//! read again from behind the last full tile when a store is opened.
//!
//! Promises that a leaf has one index for ever, and that a commit holds either its leaves or
//! nothing. Must not know what a leaf says.

mod read;

use std::collections::BTreeMap;

use lianxi_proto::merkle::{self, Hash};

pub use self::read::{consistency, inclusion, leaves, root_at, size, tile};
use super::{Error, Table};
use crate::domain::unit::UnitCode;

/// Hashes of a full tile.
pub const TILE: u64 = 256;

/// Longest leaf.
pub const MAX_LEAF_BYTES: usize = 4 * 1024;

/// Entries of one row are at most this long together.
const MAX_ROW_BYTES: usize = 48 * 1024;

/// Format of rows and tiles.
const FORMAT: u8 = 1;

const HASH_BYTES: usize = 32;

/// A leaf on its way into the journal.
#[derive(Clone, Debug)]
pub(crate) struct NewLeaf {
    bytes: Vec<u8>,
    hash: Hash,
}

impl NewLeaf {
    /// Hashes the leaf, in the thread of whoever submits it.
    pub(crate) fn of(bytes: Vec<u8>) -> Self {
        let hash = merkle::leaf_hash(&bytes);
        Self { bytes, hash }
    }

    /// Bytes of the leaf.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }
}

/// Rows of one unit as the writer's engine sees them.
pub(crate) trait Rows {
    /// The value at `key`.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, String>;
    /// The entry with the highest key.
    fn last(&self, table: Table) -> Result<Option<super::Entry>, String>;
    /// All entries from `key` on.
    fn from(&self, table: Table, key: &[u8]) -> Result<Vec<super::Entry>, String>;
}

/// Journals of all units that wrote since the store was opened.
#[derive(Default)]
pub(crate) struct Journals {
    logs: BTreeMap<UnitCode, Log>,
    dirty: Vec<UnitCode>,
    rows: usize,
}

impl Journals {
    /// Rows that [`Self::drain`] would return.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Adds leaves of `unit` and returns the index of the first; the rows come with the next
    /// [`Self::drain`].
    pub(crate) fn append(
        &mut self,
        unit: &UnitCode,
        leaves: &[NewLeaf],
        rows: &impl Rows,
    ) -> Result<u64, String> {
        if !self.logs.contains_key(unit) {
            self.logs.insert(unit.clone(), Log::load(rows)?);
        }
        let log = self.logs.get_mut(unit).expect("invariant: it was put there");
        let first = log.next;
        let before = log.rows();
        if before == 0 && !leaves.is_empty() {
            self.dirty.push(unit.clone());
        }
        for leaf in leaves {
            log.append(leaf);
        }
        self.rows += log.rows() - before;
        Ok(first)
    }

    /// Reads the end of `unit`'s journal again before its next leaf: its rows were changed from outside.
    /// Leaves that were appended must have been drained.
    pub(crate) fn forget(&mut self, unit: &UnitCode) {
        self.logs.remove(unit);
    }

    /// Takes the rows of all leaves appended since.
    pub(crate) fn drain(&mut self) -> Vec<(UnitCode, Table, Vec<u8>, Vec<u8>)> {
        let mut drained = Vec::with_capacity(self.rows);
        for unit in self.dirty.drain(..) {
            let log = self.logs.get_mut(&unit).expect("invariant: it was put there");
            log.end_row();
            for (table, key, value) in log.done.drain(..) {
                drained.push((unit.clone(), table, key, value));
            }
        }
        self.rows = 0;
        drained
    }
}

/// The end of one unit's journal.
#[derive(Debug, Default)]
struct Log {
    next: u64,
    /// Hashes of the unfinished tile of each level.
    edge: Vec<Vec<Hash>>,
    row_first: u64,
    row: Vec<u8>,
    done: Vec<(Table, Vec<u8>, Vec<u8>)>,
}

impl Log {
    fn load(rows: &impl Rows) -> Result<Self, String> {
        let mut next = 0;
        if let Some((key, value)) = rows.last(Table::Journal)? {
            let (first, leaves) = read_row(&key, &value).map_err(|error| error.to_string())?;
            next = first + leaves.len() as u64;
        }
        // Pruning may have dropped every row below the last full tile.
        if let Some((key, _)) = rows.last_tile()? {
            next = next.max((key + 1) * TILE);
        }
        let mut edge = vec![Vec::new()];
        let full = next / TILE * TILE;
        for (key, value) in rows.from(Table::Journal, &full.to_be_bytes())? {
            let (first, leaves) = read_row(&key, &value).map_err(|error| error.to_string())?;
            if first != full + edge[0].len() as u64 {
                return Err(gap(full + edge[0].len() as u64));
            }
            edge[0].extend(leaves.iter().map(|leaf| merkle::leaf_hash(leaf)));
        }
        if full + edge[0].len() as u64 != next {
            return Err(gap(full + edge[0].len() as u64));
        }
        let mut above = next / TILE;
        for level in 0.. {
            if above == 0 {
                break;
            }
            let mut hashes = Vec::new();
            for index in above / TILE * TILE..above {
                let tile = rows.get(Table::JournalTiles, &tile_key(level, index))?;
                let tile = tile.ok_or_else(|| missing_tile(level, index))?;
                hashes.push(read_tile(&tile).map_err(|error| error.to_string())?.0);
            }
            edge.push(hashes);
            above /= TILE;
        }
        Ok(Self { next, edge, row_first: next, ..Self::default() })
    }

    fn rows(&self) -> usize {
        self.done.len() + usize::from(!self.row.is_empty())
    }

    fn append(&mut self, leaf: &NewLeaf) {
        if self.row.len() + leaf.bytes.len() > MAX_ROW_BYTES {
            self.end_row();
        }
        if self.row.is_empty() {
            self.row_first = self.next;
            self.row.push(FORMAT);
        }
        prost::encoding::encode_varint(leaf.bytes.len() as u64, &mut self.row);
        self.row.extend_from_slice(&leaf.bytes);
        self.next += 1;
        self.grow(0, leaf.hash);
        if self.next.is_multiple_of(TILE) {
            self.end_row();
        }
    }

    fn grow(&mut self, level: usize, hash: Hash) {
        if self.edge.len() <= level {
            self.edge.push(Vec::new());
        }
        self.edge[level].push(hash);
        if self.edge[level].len() as u64 == TILE {
            let tile = std::mem::take(&mut self.edge[level]);
            let root = merkle::root(&tile);
            let number = u8::try_from(level).expect("invariant: 8 levels hold 2^64 leaves");
            let index = (self.next - 1) >> (8 * (level + 1));
            let mut value = Vec::with_capacity(1 + HASH_BYTES * (tile.len() + 1));
            value.push(FORMAT);
            value.extend_from_slice(&root);
            value.extend_from_slice(tile.as_flattened());
            self.done.push((Table::JournalTiles, tile_key(number, index), value));
            self.grow(level + 1, root);
        }
    }

    fn end_row(&mut self) {
        if !self.row.is_empty() {
            let row = std::mem::take(&mut self.row);
            self.done.push((Table::Journal, self.row_first.to_be_bytes().to_vec(), row));
        }
    }
}

/// The last full tile of level 0, by its index.
trait LastTile {
    fn last_tile(&self) -> Result<Option<(u64, Vec<u8>)>, String>;
}

impl<R: Rows> LastTile for R {
    fn last_tile(&self) -> Result<Option<(u64, Vec<u8>)>, String> {
        // Levels are keyed from the highest down, so that the last row is one of level 0.
        let Some((key, value)) = self.last(Table::JournalTiles)? else { return Ok(None) };
        let (level, index) = read_tile_key(&key).map_err(|error| error.to_string())?;
        Ok((level == 0).then_some((index, value)))
    }
}

/// Key of a tile: 255 - level, index.
fn tile_key(level: u8, index: u64) -> Vec<u8> {
    let mut key = vec![u8::MAX - level];
    key.extend_from_slice(&index.to_be_bytes());
    key
}

fn read_tile_key(key: &[u8]) -> Result<(u8, u64), Error> {
    let damaged = || Error::Engine("a key of the journal's tiles is damaged".to_owned());
    let (level, index) = key.split_first().ok_or_else(damaged)?;
    let index = index.try_into().map_err(|_| damaged())?;
    Ok((u8::MAX - level, u64::from_be_bytes(index)))
}

/// Index of the first leaf of a row, and its leaves.
pub(crate) fn read_row<'a>(key: &[u8], value: &'a [u8]) -> Result<(u64, Vec<&'a [u8]>), Error> {
    let first = key.try_into().map(u64::from_be_bytes);
    let first = first.map_err(|_| Error::Engine("a key of the journal is damaged".to_owned()))?;
    let damaged = || Error::Engine(format!("the journal's row from leaf {first} on is damaged"));
    let (format, mut rest) = value.split_first().ok_or_else(damaged)?;
    check_format(*format)?;
    let mut leaves = Vec::new();
    while !rest.is_empty() {
        let length = prost::encoding::decode_varint(&mut rest).map_err(|_| damaged())?;
        let length = usize::try_from(length).map_err(|_| damaged())?;
        let (leaf, after) = rest.split_at_checked(length).ok_or_else(damaged)?;
        leaves.push(leaf);
        rest = after;
    }
    Ok((first, leaves))
}

/// Root of a tile, and its hashes.
pub(crate) fn read_tile(value: &[u8]) -> Result<(Hash, Vec<Hash>), Error> {
    let damaged = || Error::Engine("a tile of the journal is damaged".to_owned());
    let (format, rest) = value.split_first().ok_or_else(damaged)?;
    check_format(*format)?;
    let (hashes, odd) = rest.as_chunks::<HASH_BYTES>();
    match hashes.split_first() {
        Some((root, hashes)) if odd.is_empty() && hashes.len() as u64 == TILE => {
            Ok((*root, hashes.to_vec()))
        }
        _ => Err(damaged()),
    }
}

fn check_format(found: u8) -> Result<(), Error> {
    if found == FORMAT {
        return Ok(());
    }
    Err(Error::Format { found: found.into(), known: FORMAT.into() })
}

fn gap(index: u64) -> String {
    format!("the journal has no leaf {index}; bring the store back from a backup")
}

fn missing_tile(level: u8, index: u64) -> String {
    format!("the journal has no tile {index} of level {level}; bring the store back from a backup")
}
