//! Checks a stored journal against itself: every leaf against its tile, every tile against the one
//! above, every checkpoint against the leaves below it.
//!
//! Promises to name the first place at which something was changed, removed or put back. What was
//! rewritten together with all tiles and checkpoints shows at the neighbours alone, who hold what
//! they cosigned.

use std::collections::BTreeMap;

use lianxi_proto::merkle::{self, Frontier, Hash};

use super::{Journal, Signed, decode};
use crate::store::{self, Table, journal};

/// Findings that are told; more say nothing new.
const MAX_FINDINGS: usize = 20;

/// Rows read at once.
const PAGE: usize = 200;

/// What is wrong with a stored journal.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Finding {
    /// Leaves were removed from the middle.
    #[error("leaf {0} is missing")]
    Gap(u64),
    /// A leaf is not the one whose hash was kept.
    #[error("leaf {0} was rewritten: its hash is not the one in its tile")]
    Rewritten(u64),
    /// A tile was removed.
    #[error("tile {index} of level {level} is missing")]
    NoTile {
        /// Level.
        level: u8,
        /// Index.
        index: u64,
    },
    /// A tile does not follow from what is below it.
    #[error(
        "tile {index} of level {level} was rewritten: it does not follow from what is below it"
    )]
    Tile {
        /// Level.
        level: u8,
        /// Index.
        index: u64,
    },
    /// A checkpoint covers more leaves than there are.
    #[error(
        "the journal was cut off or put back: a checkpoint was signed over {signed} leaves, {found} are there"
    )]
    Truncated {
        /// Leaves under the checkpoint.
        signed: u64,
        /// Leaves found.
        found: u64,
    },
    /// A checkpoint has another root.
    #[error(
        "the history before leaf {0} was rewritten: a signed checkpoint over it has another root"
    )]
    Root(u64),
    /// A checkpoint is not signed by the unit.
    #[error("the checkpoint over {0} leaves is not signed by this unit")]
    Signature(u64),
    /// A row cannot be read.
    #[error("a row at leaf {0} cannot be read")]
    Unreadable(u64),
}

impl Finding {
    /// Fixed word.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Gap(_) => "gap",
            Self::Rewritten(_) => "rewritten",
            Self::NoTile { .. } => "no-tile",
            Self::Tile { .. } => "tile",
            Self::Truncated { .. } => "truncated",
            Self::Root(_) => "root",
            Self::Signature(_) => "signature",
            Self::Unreadable(_) => "unreadable",
        }
    }
}

/// What the check found.
#[derive(Clone, Debug, Default)]
pub struct Verified {
    /// Number of leaves.
    pub size: u64,
    /// Index of the first leaf that is kept.
    pub first_index: u64,
    /// Root over all.
    pub root: Hash,
    /// Checkpoints that were checked.
    pub checkpoints: u64,
    /// Those among them that bear a cosignature.
    pub witnessed: u64,
    /// What is wrong, the first place first; empty: nothing.
    pub findings: Vec<Finding>,
}

impl Journal {
    /// Checks the whole stored journal. What is appended meanwhile is not looked at.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn verify(&self) -> Result<Verified, store::Error> {
        let checkpoints = self.checkpoints().await?;
        let mut check = Check {
            checkpoints,
            frontier: Frontier::default(),
            roots: Vec::new(),
            report: Verified {
                size: self.size().await?,
                first_index: self.first_kept().await?,
                ..Verified::default()
            },
        };
        let keys = self.unit.trust().statement_keys(&self.unit.code, None);
        for signed in check.checkpoints.values() {
            check.report.checkpoints += 1;
            check.report.witnessed += u64::from(signed.witnesses().next().is_some());
            if !keys.iter().any(|key| signed.note.verify(&self.origin, key).is_ok()) {
                check.report.findings.push(Finding::Signature(signed.checkpoint.size));
            }
        }
        let mut tile = 0;
        while tile * journal::TILE < check.report.size && check.report.findings.len() < MAX_FINDINGS
        {
            self.verify_tile(&mut check, tile).await?;
            tile += 1;
        }
        self.verify_above(&mut check).await?;
        let found = check.frontier.size();
        if let Some((&signed, _)) = check.checkpoints.last_key_value().filter(|it| *it.0 > found) {
            check.report.findings.push(Finding::Truncated { signed, found });
        }
        check.report.root = check.frontier.root();
        check.report.findings.truncate(MAX_FINDINGS);
        Ok(check.report)
    }

    /// All checkpoints by size.
    async fn checkpoints(&self) -> Result<BTreeMap<u64, Signed>, store::Error> {
        let (mut found, mut after) = (BTreeMap::new(), None::<Vec<u8>>);
        loop {
            let (store, unit) = (&self.unit.store, &self.unit.code);
            let rows = store.scan(unit, Table::Checkpoints, b"", after.as_deref(), PAGE).await?;
            for (_, row) in &rows {
                let signed = decode(row)?;
                found.insert(signed.checkpoint.size, signed);
            }
            match rows.last() {
                Some((key, _)) if rows.len() == PAGE => after = Some(key.clone()),
                _ => return Ok(found),
            }
        }
    }

    async fn verify_tile(&self, check: &mut Check, tile: u64) -> Result<(), store::Error> {
        let (store, unit) = (self.unit.store.as_ref(), &self.unit.code);
        let (start, size) = (tile * journal::TILE, check.report.size);
        let end = size.min(start + journal::TILE);
        let kept = journal::tile(store, unit, 0, tile).await.unwrap_or_default();
        if kept.is_none() && end == start + journal::TILE {
            check.report.findings.push(Finding::NoTile { level: 0, index: tile });
        }
        let Ok(leaves) = journal::leaves(store, unit, start).await else {
            check.report.findings.push(Finding::Unreadable(start));
            return Ok(());
        };
        let mut leaves = leaves.into_iter().peekable();
        for index in start..end {
            let place = usize::try_from(index - start).unwrap_or(usize::MAX);
            let tiled = kept.as_ref().and_then(|(_, hashes)| hashes.get(place)).copied();
            let leaf = leaves.next_if(|(found, _)| *found == index);
            let hash = leaf.map(|(_, leaf)| merkle::leaf_hash(&leaf));
            if hash.is_none() && index >= check.report.first_index {
                check.report.findings.push(Finding::Gap(index));
            }
            if hash.zip(tiled).is_some_and(|(hash, tiled)| hash != tiled) {
                check.report.findings.push(Finding::Rewritten(index));
            }
            let Some(hash) = hash.or(tiled) else { return Ok(()) };
            check.append(hash);
        }
        if let Some((root, hashes)) = kept {
            if merkle::root(&hashes) != root {
                check.report.findings.push(Finding::Tile { level: 0, index: tile });
            }
            check.roots.push(root);
        }
        Ok(())
    }

    /// Tiles above level 0.
    async fn verify_above(&self, check: &mut Check) -> Result<(), store::Error> {
        let (store, unit) = (self.unit.store.as_ref(), &self.unit.code);
        let (mut below, mut level) = (std::mem::take(&mut check.roots), 1);
        while below.len() as u64 >= journal::TILE {
            let mut roots = Vec::new();
            let full = below.chunks_exact(usize::try_from(journal::TILE).unwrap_or(usize::MAX));
            for (index, expected) in (0..).zip(full) {
                match journal::tile(store, unit, level, index).await.unwrap_or_default() {
                    None => check.report.findings.push(Finding::NoTile { level, index }),
                    Some((root, hashes)) => {
                        if hashes != expected || merkle::root(&hashes) != root {
                            check.report.findings.push(Finding::Tile { level, index });
                        }
                        roots.push(root);
                    }
                }
            }
            below = roots;
            level += 1;
        }
        Ok(())
    }
}

struct Check {
    checkpoints: BTreeMap<u64, Signed>,
    frontier: Frontier,
    /// Roots of full tiles.
    roots: Vec<Hash>,
    report: Verified,
}

impl Check {
    fn append(&mut self, hash: Hash) {
        self.frontier.append(hash);
        let size = self.frontier.size();
        if let Some(signed) = self.checkpoints.get(&size)
            && signed.checkpoint.root != self.frontier.root()
        {
            self.report.findings.push(Finding::Root(size));
        }
    }
}
