//! RFC 6962 Merkle trees over SHA-256: hashes, the tree's right edge, and proofs.
//!
//! Promises that an accepted proof can only have been made from the tree under the given root
//! (RFC 9162 §2.1). Must not know what a leaf means or where hashes are kept: makers of proofs are
//! told which ranges of leaves they have to hash, checkers work on what they are given.

use sha2::{Digest, Sha256};

/// A SHA-256 hash.
pub type Hash = [u8; 32];

/// Marks of leaves and nodes (RFC 6962 §2.1), so that none can pass for the other.
const LEAF: [u8; 1] = [0];
const NODE: [u8; 1] = [1];

/// Hash of a leaf: SHA-256(0x00 || content).
pub fn leaf_hash(content: &[u8]) -> Hash {
    leaf_hash_of(&[content])
}

/// Hash of a leaf whose content is the concatenation of `parts`.
pub fn leaf_hash_of(parts: &[&[u8]]) -> Hash {
    let mut hash = Sha256::new_with_prefix(LEAF);
    for part in parts {
        hash.update(part);
    }
    hash.finalize().into()
}

/// Hash of a node: SHA-256(0x01 || left || right).
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    Sha256::new_with_prefix(NODE).chain_update(left).chain_update(right).finalize().into()
}

/// Root of the empty tree: SHA-256 of nothing.
pub fn empty_root() -> Hash {
    Sha256::digest([]).into()
}

/// Root over leaf hashes (RFC 6962 §2.1).
pub fn root(leaves: &[Hash]) -> Hash {
    let mut frontier = Frontier::default();
    for leaf in leaves {
        frontier.append(*leaf);
    }
    frontier.root()
}

/// The right edge of a tree: the roots of its largest perfect subtrees, from left to right.
///
/// All that is needed to append leaves and to know the root; 32 bytes per doubling of the size.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Frontier {
    size: u64,
    subtrees: Vec<Hash>,
}

impl Frontier {
    /// A tree of `size` leaves with these perfect subtrees, in the order of
    /// [`Span::perfect`] over all leaves; `None` if their number does not fit the size.
    pub fn of(size: u64, subtrees: Vec<Hash>) -> Option<Self> {
        (usize::try_from(size.count_ones()) == Ok(subtrees.len()))
            .then_some(Self { size, subtrees })
    }

    /// Number of leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds a leaf by its hash.
    pub fn append(&mut self, leaf: Hash) {
        let mut hash = leaf;
        for _ in 0..self.size.trailing_ones() {
            let left = self.subtrees.pop().expect("invariant: one subtree per bit of the size");
            hash = node_hash(&left, &hash);
        }
        self.subtrees.push(hash);
        self.size += 1;
    }

    /// Root of the tree.
    pub fn root(&self) -> Hash {
        fold(&self.subtrees).unwrap_or_else(empty_root)
    }
}

/// Joins the roots of adjacent perfect subtrees, from left to right, to the root over all of them;
/// `None` for none.
pub fn fold(subtrees: &[Hash]) -> Option<Hash> {
    let mut rest = subtrees.iter().rev();
    let last = *rest.next()?;
    Some(rest.fold(last, |right, left| node_hash(left, &right)))
}

/// Leaves from `start` to below `end` that are one subtree of a proof.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Span {
    /// First leaf.
    pub start: u64,
    /// One past the last.
    pub end: u64,
}

/// A perfect subtree: 2^`level` leaves from `index` · 2^`level` on.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Node {
    /// Height over the leaves.
    pub level: u32,
    /// Place among the nodes of the level.
    pub index: u64,
}

impl Span {
    /// The perfect subtrees that the span consists of, from left to right. Their roots, put through
    /// [`fold`], are the hash of the span.
    pub fn perfect(self) -> Vec<Node> {
        let (mut start, mut nodes) = (self.start, Vec::new());
        while start < self.end {
            let fits = (self.end - start).ilog2();
            let level = if start == 0 { fits } else { fits.min(start.trailing_zeros()) };
            nodes.push(Node { level, index: start >> level });
            start += 1 << level;
        }
        nodes
    }
}

/// Spans whose hashes prove that leaf `index` is in a tree of `size` (RFC 9162 §2.1.3.1), in the
/// order of the proof; `None` if it is not.
pub fn inclusion_spans(index: u64, size: u64) -> Option<Vec<Span>> {
    if index >= size {
        return None;
    }
    let (mut span, mut spans) = (Span { start: 0, end: size }, Vec::new());
    while span.end - span.start > 1 {
        let (left, right) = halves(span);
        let (into, beside) = if index < left.end { (left, right) } else { (right, left) };
        spans.push(beside);
        span = into;
    }
    spans.reverse();
    Some(spans)
}

/// Spans whose hashes prove that the tree of `old_size` is the beginning of the one of `new_size`
/// (RFC 9162 §2.1.4.1); none if the sizes are equal or the old one is 0; `None` if it is larger.
pub fn consistency_spans(old_size: u64, new_size: u64) -> Option<Vec<Span>> {
    if old_size > new_size {
        return None;
    }
    if old_size == 0 || old_size == new_size {
        return Some(Vec::new());
    }
    let (mut span, mut spans) = (Span { start: 0, end: new_size }, Vec::new());
    while span.end != old_size {
        let (left, right) = halves(span);
        let (into, beside) = if old_size <= left.end { (left, right) } else { (right, left) };
        spans.push(beside);
        span = into;
    }
    if span.start > 0 {
        spans.push(span);
    }
    spans.reverse();
    Some(spans)
}

/// The two sides of a span of at least two leaves: the left one holds the largest power of two
/// that is smaller than their number.
fn halves(span: Span) -> (Span, Span) {
    let middle = span.start + (1 << (span.end - span.start - 1).ilog2());
    (Span { end: middle, ..span }, Span { start: middle, ..span })
}

/// True if `proof` shows that the leaf with `leaf_hash` stands at `index` of the tree of `size`
/// under `root` (RFC 9162 §2.1.3.2).
pub fn verify_inclusion(
    leaf_hash: &Hash,
    index: u64,
    size: u64,
    proof: &[Hash],
    root: &Hash,
) -> bool {
    if index >= size {
        return false;
    }
    let (mut node, mut last, mut hash) = (index, size - 1, *leaf_hash);
    for beside in proof {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            hash = node_hash(beside, &hash);
            // A node without a sibling moves up as it is.
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, beside);
        }
        node >>= 1;
        last >>= 1;
    }
    last == 0 && hash == *root
}

/// True if `proof` shows that the tree of `old_size` under `old_root` is the beginning of the tree
/// of `new_size` under `new_root` (RFC 9162 §2.1.4.2). The empty tree is the beginning of every one.
pub fn verify_consistency(
    old_size: u64,
    new_size: u64,
    proof: &[Hash],
    old_root: &Hash,
    new_root: &Hash,
) -> bool {
    if old_size > new_size {
        return false;
    }
    if old_size == new_size {
        return proof.is_empty() && old_root == new_root;
    }
    if old_size == 0 {
        return proof.is_empty() && *old_root == empty_root();
    }
    // The old tree is a perfect one: its root is where the proof begins, and is left out.
    let (first, rest) = match proof.split_first() {
        _ if old_size.is_power_of_two() => (old_root, proof),
        Some((first, rest)) => (first, rest),
        None => return false,
    };
    let (mut node, mut last) = (old_size - 1, new_size - 1);
    let shared = node.trailing_ones();
    node >>= shared;
    last >>= shared;
    let (mut old, mut new) = (*first, *first);
    for beside in rest {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            old = node_hash(beside, &old);
            new = node_hash(beside, &new);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            new = node_hash(&new, beside);
        }
        node >>= 1;
        last >>= 1;
    }
    last == 0 && old == *old_root && new == *new_root
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(count: u64) -> Vec<Hash> {
        (0..count).map(|number| leaf_hash(&number.to_be_bytes())).collect()
    }

    /// The definition of RFC 6962 §2.1, word for word: what all else is measured by.
    fn defined(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => Sha256::digest([]).into(),
            [leaf] => *leaf,
            [..] => {
                let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
                node_hash(&defined(left), &defined(right))
            }
        }
    }

    fn hashed(leaves: &[Hash], spans: &[Span]) -> Vec<Hash> {
        let hash = |start: u64, end: u64| defined(&leaves[start as usize..end as usize]);
        let span = |span: &Span| {
            let nodes = span.perfect();
            let hashes: Vec<_> = nodes
                .iter()
                .map(|node| hash(node.index << node.level, (node.index + 1) << node.level))
                .collect();
            assert_eq!(fold(&hashes), Some(hash(span.start, span.end)), "{span:?}");
            fold(&hashes).unwrap()
        };
        spans.iter().map(span).collect()
    }

    #[test]
    fn roots_are_those_of_the_definition() {
        let leaves = leaves(70);
        let mut frontier = Frontier::default();
        for size in 0..=70 {
            assert_eq!(root(&leaves[..size]), defined(&leaves[..size]), "{size}");
            assert_eq!(frontier.root(), defined(&leaves[..size]), "{size}");
            let nodes = Span { start: 0, end: size as u64 }.perfect();
            let hash = |node: &Node| {
                let start = (node.index << node.level) as usize;
                defined(&leaves[start..start + (1 << node.level)])
            };
            let rebuilt = Frontier::of(size as u64, nodes.iter().map(hash).collect());
            assert_eq!(rebuilt.as_ref(), Some(&frontier));
            if let Some(leaf) = leaves.get(size) {
                frontier.append(*leaf);
            }
        }
        assert_eq!(Frontier::of(3, vec![leaves[0]]), None);
    }

    #[test]
    fn every_leaf_is_proved_and_nothing_else() {
        let leaves = leaves(33);
        for size in 1..=33 {
            let root = defined(&leaves[..size]);
            for index in 0..size {
                let at = index as u64;
                let proof = hashed(&leaves, &inclusion_spans(at, size as u64).unwrap());
                let holds = |leaf: &Hash, at, size: usize, proof: &[Hash], root: &Hash| {
                    verify_inclusion(leaf, at, size as u64, proof, root)
                };
                assert!(holds(&leaves[index], at, size, &proof, &root), "{index} of {size}");
                for other in (0..size).filter(|other| *other != index) {
                    assert!(!holds(&leaves[other], at, size, &proof, &root));
                    assert!(!holds(&leaves[index], other as u64, size, &proof, &root));
                }
                assert!(!holds(&leaves[index], at, size, &proof, &leaf_hash(b"other")));
                assert!(!holds(&leaves[index], size as u64, size, &proof, &root));
                for position in 0..proof.len() {
                    let mut changed = proof.clone();
                    changed[position][7] ^= 1;
                    assert!(!holds(&leaves[index], at, size, &changed, &root));
                    changed.remove(position);
                    assert!(!holds(&leaves[index], at, size, &changed, &root));
                }
                let longer = [&proof[..], &[root]].concat();
                assert!(!holds(&leaves[index], at, size, &longer, &root));
            }
        }
        assert_eq!(inclusion_spans(3, 3), None);
    }

    #[test]
    fn every_beginning_is_proved_and_nothing_else() {
        let leaves = leaves(33);
        let mut forked = leaves.clone();
        for new in 0..=33_usize {
            let new_root = defined(&leaves[..new]);
            for old in 0..=new {
                let old_root = defined(&leaves[..old]);
                let spans = consistency_spans(old as u64, new as u64).unwrap();
                let proof = hashed(&leaves, &spans);
                let holds = |proof: &[Hash], old_root: &Hash, new_root: &Hash| {
                    verify_consistency(old as u64, new as u64, proof, old_root, new_root)
                };
                assert!(holds(&proof, &old_root, &new_root), "{old} of {new}");
                assert!(!holds(&proof, &leaf_hash(b"x"), &new_root));
                assert!(!holds(&[&proof[..], &[new_root]].concat(), &old_root, &new_root));
                if old > 0 {
                    assert!(!holds(&proof, &old_root, &leaf_hash(b"x")));
                    forked[old - 1][0] ^= 1;
                    assert!(!holds(&proof, &old_root, &defined(&forked[..new])));
                    assert!(!holds(&proof, &defined(&forked[..old]), &new_root));
                    forked[old - 1][0] ^= 1;
                }
                for position in 0..proof.len() {
                    let mut changed = proof.clone();
                    changed[position][31] ^= 0x80;
                    assert!(!holds(&changed, &old_root, &new_root));
                    changed.remove(position);
                    assert!(!holds(&changed, &old_root, &new_root));
                }
            }
            let larger = new as u64 + 1;
            assert_eq!(consistency_spans(larger, new as u64), None);
            assert!(!verify_consistency(larger, new as u64, &[], &new_root, &new_root));
        }
    }

    #[test]
    fn sizes_of_strangers_are_no_trouble() {
        let hash = leaf_hash(b"");
        for size in [0, 1, u64::MAX - 1, u64::MAX] {
            for proof in [&[][..], &[hash; 70]] {
                assert!(!verify_inclusion(&hash, u64::MAX, size, proof, &hash));
                assert!(!verify_consistency(u64::MAX, size, proof, &leaf_hash(b"1"), &hash));
                assert!(!verify_consistency(5, size, proof, &hash, &leaf_hash(b"1")));
            }
        }
    }
}
