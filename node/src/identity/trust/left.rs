//! Units that have left the tree: their grant was revoked as closed.

use super::Trust;
use crate::{
    clock::UnixMillis,
    domain::{revocation::Reason, unit::UnitCode},
};

impl Trust {
    /// True if the unit has left: it is expected to report no longer.
    pub fn has_left(&self, unit: &UnitCode) -> bool {
        let revoked = self.revoked(unit, None);
        revoked.is_some_and(|known| known.revocation.reason == Reason::Closed)
    }

    /// True if the unit had left at `time`.
    pub fn had_left(&self, unit: &UnitCode, time: UnixMillis) -> bool {
        let revoked = self.revoked(unit, None);
        revoked.is_some_and(|known| {
            known.revocation.reason == Reason::Closed && known.cutoff() <= time
        })
    }

    /// Number of units in the subtree of `head`, itself included, without those that have left and
    /// what was below them.
    pub fn staying(&self, head: &UnitCode) -> u32 {
        if self.delegation(head, None).is_none() || self.has_left(head) {
            return 0;
        }
        // Ends, because each step is to a lower level.
        let below = self.children(head).into_iter().map(|child| self.staying(child));
        below.fold(1, u32::saturating_add)
    }
}
