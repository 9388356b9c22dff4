//! What goes on from what was seen, and what does not.

use lianxi_proto::merkle::{Hash, leaf_hash, root};

use super::*;

fn leaves(count: u8, changed: Option<usize>) -> Vec<Hash> {
    let mut leaves: Vec<_> = (0..count).map(|number| leaf_hash(&[number])).collect();
    if let Some(changed) = changed {
        leaves[changed] = leaf_hash(b"another");
    }
    leaves
}

fn checkpoint(leaves: &[Hash]) -> Checkpoint {
    Checkpoint { origin: "city/unit/A".to_owned(), size: leaves.len() as u64, root: root(leaves) }
}

/// The proof of RFC 9162 between two sizes of one tree.
fn offer(leaves: &[Hash], old_size: u64) -> Offer {
    let spans = merkle::consistency_spans(old_size, leaves.len() as u64).unwrap();
    let place = |leaf: u64| usize::try_from(leaf).unwrap();
    let hash = |span: &merkle::Span| root(&leaves[place(span.start)..place(span.end)]);
    Offer { old_size, consistency: spans.iter().map(hash).collect(), ..Offer::default() }
}

#[test]
fn a_longer_journal_with_a_proof_goes_on() {
    let (old, new) = (leaves(5, None), leaves(9, None));
    let compared = compare(&checkpoint(&old), &checkpoint(&new), &offer(&new, 5));
    assert_eq!(compared, Comparison::Follows);
    let same = compare(&checkpoint(&old), &checkpoint(&old), &offer(&old, 5));
    assert_eq!(same, Comparison::Same);
    // A proof from elsewhere says nothing, for or against.
    let elsewhere = compare(&checkpoint(&old), &checkpoint(&new), &offer(&new, 3));
    assert_eq!(elsewhere, Comparison::Elsewhere);
}

#[test]
fn a_shorter_journal_is_a_rollback() {
    let (old, new) = (leaves(5, None), leaves(4, None));
    let compared = compare(&checkpoint(&old), &checkpoint(&new), &Offer::default());
    assert_eq!(compared, Comparison::Breach(Breach::Rollback));
}

#[test]
fn another_history_is_a_split_view_at_any_size() {
    let old = leaves(5, None);
    for (size, changed) in [(5, 0), (5, 4), (6, 0), (9, 4)] {
        let new = leaves(size, Some(changed));
        let compared = compare(&checkpoint(&old), &checkpoint(&new), &offer(&new, 5));
        assert_eq!(compared, Comparison::Breach(Breach::SplitView), "{size}, {changed}");
    }
}

#[test]
fn a_forged_proof_is_a_split_view() {
    let (old, new) = (leaves(5, None), leaves(9, None));
    let good = offer(&new, 5);
    for place in 0..good.consistency.len() {
        let mut forged = good.clone();
        forged.consistency[place][0] ^= 1;
        let compared = compare(&checkpoint(&old), &checkpoint(&new), &forged);
        assert_eq!(compared, Comparison::Breach(Breach::SplitView), "hash {place}");
    }
    let none = Offer { consistency: Vec::new(), ..good };
    let compared = compare(&checkpoint(&old), &checkpoint(&new), &none);
    assert_eq!(compared, Comparison::Breach(Breach::SplitView));
}
