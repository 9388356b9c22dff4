//! Who has to hear of what a unit learned about other units.
//!
//! Promises that whoever needs a delegation hears of it, and that a child that joins wakes the link
//! upward and its own, not those of all its siblings: a host may have a thousand of them.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::Unit;
use crate::{domain::unit::UnitCode, watch};

/// Senders to the links of one unit.
#[derive(Debug, Default)]
pub(super) struct Rosters {
    /// To the parent goes everything of the subtree.
    above: watch::Sender<u64>,
    /// To a child goes what it is, and what is above it.
    below: Mutex<BTreeMap<UnitCode, watch::Sender<u64>>>,
}

fn wake(sender: &watch::Sender<u64>) {
    sender.send_modify(|count| *count += 1);
}

impl Rosters {
    fn below(&self) -> MutexGuard<'_, BTreeMap<UnitCode, watch::Sender<u64>>> {
        self.below.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn to_parent(&self) -> watch::Receiver<u64> {
        self.above.subscribe()
    }

    fn to_child(&self, child: &UnitCode) -> watch::Receiver<u64> {
        self.below().entry(child.clone()).or_default().subscribe()
    }

    /// Something that everybody needs: a revocation.
    pub(super) fn wake_all(&self) {
        wake(&self.above);
        self.below().values().for_each(wake);
    }

    /// Delegations of these units, or of desks of theirs; `is_above` tells whether one is this unit
    /// or above it.
    fn wake_for(&self, units: &[UnitCode], is_above: impl Fn(&UnitCode) -> bool) {
        if units.iter().any(is_above) {
            return self.wake_all();
        }
        wake(&self.above);
        let below = self.below();
        units.iter().filter_map(|unit| below.get(unit)).for_each(wake);
    }
}

impl Unit {
    /// Changes whenever `peer` may need a delegation or a revocation that is new.
    pub fn roster_changes(&self, peer: &UnitCode) -> watch::Receiver<u64> {
        if self.parent().as_ref() == Some(peer) {
            self.rosters.to_parent()
        } else {
            self.rosters.to_child(peer)
        }
    }

    /// Delegations of `units`, or of their desks, were taken in.
    pub(super) fn roster_learned(&self, units: &[UnitCode]) {
        if units.is_empty() {
            return;
        }
        let trust = self.trust();
        let is_above = |unit: &UnitCode| trust.is_in_subtree(&self.code, unit);
        self.rosters.wake_for(units, is_above);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(code: &str) -> UnitCode {
        code.parse().expect("a code")
    }

    #[test]
    fn a_child_wakes_the_link_upward_and_its_own_and_what_is_above_wakes_all() {
        let rosters = Rosters::default();
        let mut links =
            [rosters.to_parent(), rosters.to_child(&unit("A")), rosters.to_child(&unit("B"))];
        let mut woken = |act: &dyn Fn(&Rosters)| {
            act(&rosters);
            links.each_mut().map(|link| {
                let changed = link.has_changed().expect("the sender is there");
                link.borrow_and_update();
                changed
            })
        };
        let is_above = |of: &UnitCode| *of == unit("CITY");
        assert_eq!(woken(&|it| it.wake_for(&[unit("A")], is_above)), [true, true, false]);
        assert_eq!(woken(&|it| it.wake_for(&[unit("A-1")], is_above)), [true, false, false]);
        assert_eq!(woken(&|it| it.wake_for(&[unit("B"), unit("CITY")], is_above)), [true; 3]);
        assert_eq!(woken(&|it| it.wake_all()), [true; 3]);
        assert_eq!(woken(&|_| ()), [false; 3]);
    }
}
