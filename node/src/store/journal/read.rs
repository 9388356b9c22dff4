//! Reads a journal: leaves, roots at any size, proofs.
//!
//! Everything rests on durable rows. A size is the caller's: what is appended meanwhile does not
//! matter.

use std::collections::BTreeMap;

use lianxi_proto::merkle::{self, Hash, Node, Span};

use super::{TILE, gap, missing_tile, read_row, read_tile, read_tile_key, tile_key};
use crate::{
    domain::unit::UnitCode,
    store::{Error, Store, Table},
};

/// Levels of nodes that one tile spans.
const TILE_LEVELS: u32 = 8;

/// Number of leaves of the unit's journal.
///
/// # Errors
///
/// The store's.
pub async fn size(store: &dyn Store, unit: &UnitCode) -> Result<u64, Error> {
    let mut size = 0;
    if let Some((key, value)) = store.last(unit, Table::Journal, b"").await? {
        let (first, leaves) = read_row(&key, &value)?;
        size = first + leaves.len() as u64;
    }
    if let Some((key, _)) = store.last(unit, Table::JournalTiles, &[u8::MAX]).await? {
        size = size.max((read_tile_key(&key)?.1 + 1) * TILE);
    }
    Ok(size)
}

/// Leaves from index `from` to the end of its tile, with their indexes; those that were pruned are
/// not there.
///
/// # Errors
///
/// The store's.
pub async fn leaves(
    store: &dyn Store,
    unit: &UnitCode,
    from: u64,
) -> Result<Vec<(u64, Vec<u8>)>, Error> {
    let start = from / TILE * TILE;
    let after = start.checked_sub(1).map(u64::to_be_bytes);
    let after = after.as_ref().map(<[u8; 8]>::as_slice);
    let limit = usize::try_from(TILE).unwrap_or(usize::MAX);
    let rows = store.scan(unit, Table::Journal, b"", after, limit).await?;
    let mut found = Vec::new();
    for (key, value) in rows {
        let (first, leaves) = read_row(&key, &value)?;
        if first >= start + TILE {
            break;
        }
        let leaves = (first..).zip(leaves).filter(|(index, _)| *index >= from);
        found.extend(leaves.map(|(index, leaf)| (index, leaf.to_vec())));
    }
    Ok(found)
}

/// Root of the journal's first `size` leaves.
///
/// # Errors
///
/// The store's; [`Error::Engine`] if the journal is shorter.
pub async fn root_at(store: &dyn Store, unit: &UnitCode, size: u64) -> Result<Hash, Error> {
    if size == 0 {
        return Ok(merkle::empty_root());
    }
    Ok(Hashes::new(store, unit).spans(&[Span { start: 0, end: size }]).await?[0])
}

/// Proof that leaf `index` is among the first `size` leaves.
///
/// # Errors
///
/// The store's; [`Error::Engine`] if it is not.
pub async fn inclusion(
    store: &dyn Store,
    unit: &UnitCode,
    index: u64,
    size: u64,
) -> Result<Vec<Hash>, Error> {
    let spans = merkle::inclusion_spans(index, size);
    let spans = spans.ok_or_else(|| Error::Engine(gap(index)))?;
    Hashes::new(store, unit).spans(&spans).await
}

/// Proof that the first `old_size` leaves are the beginning of the first `new_size`.
///
/// # Errors
///
/// The store's; [`Error::Engine`] if the old size is the larger one, or the journal is shorter.
pub async fn consistency(
    store: &dyn Store,
    unit: &UnitCode,
    old_size: u64,
    new_size: u64,
) -> Result<Vec<Hash>, Error> {
    let spans = merkle::consistency_spans(old_size, new_size);
    let spans = spans.ok_or_else(|| Error::Engine(gap(old_size)))?;
    Hashes::new(store, unit).spans(&spans).await
}

/// A full tile's root and hashes.
///
/// # Errors
///
/// The store's; [`Error::Engine`] if the row is damaged.
pub async fn tile(
    store: &dyn Store,
    unit: &UnitCode,
    level: u8,
    index: u64,
) -> Result<Option<(Hash, Vec<Hash>)>, Error> {
    let row = store.get(unit, Table::JournalTiles, &tile_key(level, index)).await?;
    row.map(|row| read_tile(&row)).transpose()
}

/// Hashes of nodes, with the tiles that were read for one proof.
struct Hashes<'a> {
    store: &'a dyn Store,
    unit: &'a UnitCode,
    /// Full and unfinished tiles by level and index.
    tiles: BTreeMap<(u8, u64), Vec<Hash>>,
}

impl<'a> Hashes<'a> {
    fn new(store: &'a dyn Store, unit: &'a UnitCode) -> Self {
        Self { store, unit, tiles: BTreeMap::new() }
    }

    async fn spans(&mut self, spans: &[Span]) -> Result<Vec<Hash>, Error> {
        let mut hashes = Vec::with_capacity(spans.len());
        for span in spans {
            let mut parts = Vec::new();
            for node in span.perfect() {
                parts.push(self.node(node).await?);
            }
            hashes.push(merkle::fold(&parts).expect("invariant: a proof has no empty span"));
        }
        Ok(hashes)
    }

    async fn node(&mut self, node: Node) -> Result<Hash, Error> {
        let level = u8::try_from(node.level / TILE_LEVELS)
            .map_err(|_| Error::Engine("a node is too high".to_owned()))?;
        let within = node.level % TILE_LEVELS;
        let first = node.index << within;
        let key = (level, first / TILE);
        if !self.tiles.contains_key(&key) {
            let tile = self.tile(level, first / TILE).await?;
            self.tiles.insert(key, tile);
        }
        let start = usize::try_from(first % TILE).unwrap_or(usize::MAX);
        let hashes = self.tiles[&key].get(start..start + (1 << within));
        hashes.map(merkle::root).ok_or_else(|| Error::Engine(gap(first << (8 * level))))
    }

    /// Hashes of a tile, also of an unfinished one.
    async fn tile(&self, level: u8, index: u64) -> Result<Vec<Hash>, Error> {
        let stored =
            self.store.get(self.unit, Table::JournalTiles, &tile_key(level, index)).await?;
        if let Some(tile) = stored {
            return Ok(read_tile(&tile)?.1);
        }
        let Some(below) = level.checked_sub(1) else {
            let leaves = leaves(self.store, self.unit, index * TILE).await?;
            let mut hashes = Vec::with_capacity(leaves.len());
            for (expected, (found, leaf)) in (index * TILE..).zip(leaves) {
                if found != expected {
                    return Err(Error::Engine(missing_tile(level, index)));
                }
                hashes.push(merkle::leaf_hash(&leaf));
            }
            return Ok(hashes);
        };
        let prefix = tile_key(below, index * TILE);
        let (level_byte, from) = (&prefix[..1], (index * TILE).checked_sub(1));
        let after = from.map(|from| tile_key(below, from));
        let limit = usize::try_from(TILE).unwrap_or(usize::MAX);
        let tiles = self
            .store
            .scan(self.unit, Table::JournalTiles, level_byte, after.as_deref(), limit)
            .await?;
        let mut hashes = Vec::with_capacity(tiles.len());
        for (expected, (key, tile)) in (index * TILE..).zip(tiles) {
            if read_tile_key(&key)?.1 != expected {
                return Err(Error::Engine(missing_tile(below, expected)));
            }
            hashes.push(read_tile(&tile)?.0);
        }
        Ok(hashes)
    }
}
