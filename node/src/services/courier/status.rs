//! What waits for each neighbour, and what is missing from it.

use super::rows::{GapRow, load_in, load_out};
use crate::{
    clock::UnixMillis,
    domain::{courier::Gap, unit::UnitCode},
    services::{exchange::Lane, hosted::Hosted},
    store,
};

/// One neighbour as the courier sees it.
#[derive(Clone, Debug)]
pub struct PeerStatus {
    /// The neighbour.
    pub peer: UnitCode,
    /// It is the parent.
    pub is_parent: bool,
    /// A link to it is open.
    pub is_linked: bool,
    /// Statements that wait for it.
    pub waiting: u64,
    /// Newest export for it, and when; 0: none.
    pub exported: (u64, UnixMillis),
    /// Newest file that was imported from it, and when; 0: none.
    pub imported: (u64, UnixMillis),
    /// What is missing of its files.
    pub gaps: Vec<(Lane, Gap)>,
}

/// Every neighbour, the parent first.
///
/// # Errors
///
/// The store's.
pub async fn status(hosted: &Hosted) -> Result<Vec<PeerStatus>, store::Error> {
    let unit = &hosted.unit;
    let parent = unit.parent();
    let children: Vec<UnitCode> = {
        let trust = unit.trust();
        let all = trust.children(&unit.code);
        all.iter().filter(|child| !trust.has_left(child)).map(|&child| child.clone()).collect()
    };
    let linked = hosted.linked_children();
    let mut peers = Vec::new();
    for peer in parent.iter().chain(&children) {
        let (out, _) = load_out(unit.store.as_ref(), &unit.code, peer).await?;
        let (came, _) = load_in(unit.store.as_ref(), &unit.code, peer).await?;
        let is_parent = parent.as_ref() == Some(peer);
        let gaps = match &came {
            Some(came) => open(hosted, peer, &came.gaps).await?,
            None => Vec::new(),
        };
        peers.push(PeerStatus {
            peer: peer.clone(),
            is_parent,
            is_linked: if is_parent { hosted.link(peer).up } else { linked.contains(peer) },
            waiting: unit.waiting_for(peer).await?,
            exported: out.map(|out| (out.number, out.exported_unix_ms)).unwrap_or_default(),
            imported: came.map(|came| (came.number, came.imported_unix_ms)).unwrap_or_default(),
            gaps: gaps.iter().filter_map(|row| Some((row.lane()?, row.gap()))).collect(),
        });
    }
    Ok(peers)
}

/// Those of `gaps` that nothing has closed since, each as it is now.
pub(super) async fn open(
    hosted: &Hosted,
    peer: &UnitCode,
    gaps: &[GapRow],
) -> Result<Vec<GapRow>, store::Error> {
    let cursors = hosted.received(peer).await?;
    let still = |row: &GapRow| {
        let lane = row.lane()?;
        let cursor = cursors.iter().find(|cursor| cursor.lane == lane);
        let have = match cursor {
            Some(cursor) if cursor.link_epoch == row.link_epoch() => cursor.lane_seq,
            Some(_) | None => 0,
        };
        let gap = Gap { have, ..row.gap() };
        (gap.have < gap.after).then(|| GapRow::new(lane, row.link_epoch(), gap))
    };
    Ok(gaps.iter().filter_map(still).collect())
}
