//! How much of what was refused is kept, and for whom.
//!
//! A neighbour that sends what does not hold must not fill the disk, nor take the place of what
//! others' mistakes need. Pure counting.

use std::collections::BTreeMap;

use super::unit::UnitCode;

/// Refused statements that wait, of one neighbour.
pub const PEER_STATEMENTS: u64 = 500;

/// Bytes of them.
pub const PEER_BYTES: u64 = 8 * 1024 * 1024;

/// Refused statements that wait, of all neighbours of a unit.
pub const UNIT_STATEMENTS: u64 = 5_000;

/// Bytes of them.
pub const UNIT_BYTES: u64 = 64 * 1024 * 1024;

/// Per cent from which a person is warned.
pub const WARNING_PERCENT: u32 = 80;

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Filled {
    statements: u64,
    bytes: u64,
}

impl Filled {
    fn with(self, bytes: u64) -> Self {
        Self { statements: self.statements + 1, bytes: self.bytes + bytes }
    }

    fn without(self, bytes: u64) -> Self {
        Self {
            statements: self.statements.saturating_sub(1),
            bytes: self.bytes.saturating_sub(bytes),
        }
    }

    fn fits(self, statements: u64, bytes: u64) -> bool {
        self.statements <= statements && self.bytes <= bytes
    }

    fn percent(self, statements: u64, bytes: u64) -> u32 {
        let most = (self.statements * 100 / statements).max(self.bytes * 100 / bytes);
        u32::try_from(most.min(100)).unwrap_or(100)
    }
}

/// What waits in the quarantine of one unit, by neighbour.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    peers: BTreeMap<UnitCode, Filled>,
    all: Filled,
    left_out: u64,
}

impl Ledger {
    /// Counts a statement that waits already.
    pub fn count(&mut self, peer: &UnitCode, bytes: u64) {
        let filled = self.peers.entry(peer.clone()).or_default();
        *filled = filled.with(bytes);
        self.all = self.all.with(bytes);
    }

    /// Counts a statement if there is room for it; else it is counted as left out.
    pub fn admit(&mut self, peer: &UnitCode, bytes: u64) -> bool {
        let filled = self.peers.get(peer).copied().unwrap_or_default().with(bytes);
        let fits = filled.fits(PEER_STATEMENTS, PEER_BYTES)
            && self.all.with(bytes).fits(UNIT_STATEMENTS, UNIT_BYTES);
        if fits {
            self.count(peer, bytes);
        } else {
            self.left_out += 1;
        }
        fits
    }

    /// A statement waits no more.
    pub fn release(&mut self, peer: &UnitCode, bytes: u64) {
        if let Some(filled) = self.peers.get_mut(peer) {
            *filled = filled.without(bytes);
            if filled.statements == 0 {
                self.peers.remove(peer);
            }
        }
        self.all = self.all.without(bytes);
        if self.percent() < WARNING_PERCENT {
            self.left_out = 0;
        }
    }

    /// Statements that wait.
    pub fn statements(&self) -> u64 {
        self.all.statements
    }

    /// How full it is: of the fullest neighbour, or of all.
    pub fn percent(&self) -> u32 {
        let peers = self.peers.values().map(|peer| peer.percent(PEER_STATEMENTS, PEER_BYTES));
        peers.max().unwrap_or(0).max(self.all.percent(UNIT_STATEMENTS, UNIT_BYTES))
    }

    /// Statements that were refused and not kept since it was full.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> UnitCode {
        text.parse().unwrap()
    }

    #[test]
    fn one_neighbour_does_not_take_the_room_of_another() {
        let mut ledger = Ledger::default();
        for _ in 0..PEER_STATEMENTS {
            assert!(ledger.admit(&code("A"), 10));
        }
        assert!(!ledger.admit(&code("A"), 10));
        assert!(ledger.admit(&code("B"), 10));
        assert_eq!((ledger.percent(), ledger.left_out()), (100, 1));
        assert_eq!(ledger.statements(), PEER_STATEMENTS + 1);
    }

    #[test]
    fn bytes_count_too_and_a_warning_comes_before_the_end() {
        let mut ledger = Ledger::default();
        let mut admitted = 0;
        while ledger.percent() < WARNING_PERCENT {
            assert!(ledger.admit(&code("A"), PEER_BYTES / 16));
            admitted += 1;
        }
        assert_eq!((admitted, ledger.left_out()), (13, 0));
        assert!(!ledger.admit(&code("A"), PEER_BYTES));
        ledger.release(&code("A"), PEER_BYTES / 16);
        assert_eq!((ledger.percent(), ledger.left_out()), (75, 0));
    }

    #[test]
    fn the_unit_has_a_limit_of_its_own() {
        let mut ledger = Ledger::default();
        let peers = UNIT_STATEMENTS / PEER_STATEMENTS;
        for peer in 0..peers {
            for _ in 0..PEER_STATEMENTS {
                assert!(ledger.admit(&code(&format!("A-{peer}")), 1));
            }
        }
        assert!(!ledger.admit(&code("B"), 1));
    }
}
