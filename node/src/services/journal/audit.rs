//! Reads a journal as an audit log, and drops what is older than has to be kept.

use super::Journal;
use crate::{
    clock::UnixMillis,
    domain::journal::{Act, Actor, Leaf, MIN_RETENTION_DAYS},
    statement::journal::{Line, read},
    store::{self, Batch, MAX_BATCH_OPERATIONS, Table, journal},
};

/// Leaves that one call looks at.
const SCANNED: u64 = 20 * journal::TILE;

/// Key of the first leaf that is kept, in [`Table::Meta`].
const PRUNED: &[u8] = b"journal/pruned";

/// What is looked for.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Beginning of the kind of leaf or of the name of an act or statement; empty: all.
    pub act: String,
    /// Beginning of the actor; empty: all.
    pub actor: String,
    /// Earliest time.
    pub since_unix_ms: UnixMillis,
}

impl Filter {
    fn takes(&self, line: &Line) -> bool {
        (line.event.starts_with(&self.act) || line.name.starts_with(&self.act))
            && line.actor.starts_with(&self.actor)
            && line.time_unix_ms >= self.since_unix_ms
    }
}

/// A part of the audit log.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// Matching leaves with their indexes.
    pub lines: Vec<(u64, Line)>,
    /// Where to go on; the size of the journal at its end.
    pub next_index: u64,
    /// Number of leaves.
    pub size: u64,
    /// Index of the first leaf that is kept.
    pub first_index: u64,
}

/// What pruning dropped, or would drop.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Pruned {
    /// Leaves dropped.
    pub leaves: u64,
    /// Index of the first leaf that is kept.
    pub first_index: u64,
}

impl Journal {
    /// Matching leaves from `from` on, and where to go on.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn show(&self, from: u64, filter: &Filter) -> Result<Page, store::Error> {
        let (store, unit) = (self.unit.store.as_ref(), &self.unit.code);
        let (size, first_index) = (self.size().await?, self.first_kept().await?);
        let from = from.max(first_index);
        let end = size.min(from.saturating_add(SCANNED));
        let mut page = Page { next_index: from, size, first_index, lines: Vec::new() };
        while page.next_index < end {
            for (index, leaf) in journal::leaves(store, unit, page.next_index).await? {
                let line =
                    read(&leaf).unwrap_or_else(|_| Line { event: "unknown", ..Line::default() });
                if filter.takes(&line) {
                    page.lines.push((index, line));
                }
            }
            page.next_index = size.min((page.next_index / journal::TILE + 1) * journal::TILE);
        }
        Ok(page)
    }

    /// Index of the first leaf that pruning has left.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn first_kept(&self) -> Result<u64, store::Error> {
        let row = self.unit.store.get(&self.unit.code, Table::Meta, PRUNED).await?;
        let index = row.as_deref().and_then(|row| row.last_chunk());
        Ok(index.map_or(0, |index| u64::from_be_bytes(*index)))
    }

    /// Drops the leaves of full tiles that are all older than `retention_days`. The tiles stay, so
    /// that what is left, and the journal as a whole, remain provable.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn prune(
        &self,
        actor: Actor,
        retention_days: u32,
        dry_run: bool,
    ) -> Result<Pruned, store::Error> {
        let days = i64::from(retention_days.max(MIN_RETENTION_DAYS));
        let before = self.unit.clock.now_unix_ms().saturating_sub(days * 24 * 60 * 60 * 1_000);
        let first = self.first_kept().await?;
        let end = self.old_until(first, before).await?;
        let pruned = Pruned { leaves: end - first, first_index: end };
        if pruned.leaves > 0 && !dry_run {
            self.drop_rows(first, end, actor).await?;
        }
        Ok(pruned)
    }

    /// End of the last full tile that holds nothing younger than `before`, from the one at `first` on.
    async fn old_until(&self, first: u64, before: UnixMillis) -> Result<u64, store::Error> {
        let (store, unit) = (self.unit.store.as_ref(), &self.unit.code);
        let (size, mut end) = (self.size().await?, first);
        while end + journal::TILE <= size {
            let leaves = journal::leaves(store, unit, end).await?;
            let is_old = |leaf: &[u8]| read(leaf).is_ok_and(|line| line.time_unix_ms < before);
            if !leaves.iter().all(|(_, leaf)| is_old(leaf)) {
                break;
            }
            end += journal::TILE;
        }
        Ok(end)
    }

    /// The mark of what is kept goes first: rows below it are not missed if the rest is cut off.
    async fn drop_rows(&self, first: u64, end: u64, actor: Actor) -> Result<(), store::Error> {
        let (store, unit) = (self.unit.store.as_ref(), &self.unit.code);
        let mut batch = Batch::new(unit);
        // It makes room.
        batch.urgent();
        batch.put(Table::Meta, PRUNED, [&[1][..], &end.to_be_bytes()].concat());
        let act = Act::done(actor, "journal.prune", format!("{first}-{end}"));
        batch.journal(self.unit.clock.now_unix_ms(), &Leaf::Act(act));
        store.submit(batch).await?;
        loop {
            let rows = store.scan(unit, Table::Journal, b"", None, MAX_BATCH_OPERATIONS).await?;
            let mut batch = Batch::new(unit);
            let old = |key: &[u8]| {
                key.first_chunk().is_some_and(|index| u64::from_be_bytes(*index) < end)
            };
            for (key, _) in rows.into_iter().filter(|(key, _)| old(key)) {
                batch.delete(Table::Journal, key);
            }
            if batch.is_empty() {
                return Ok(());
            }
            store.submit(batch).await?;
        }
    }
}
