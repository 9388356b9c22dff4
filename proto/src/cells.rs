//! Commits to the cells of a summary, so that each can be withheld without breaking the signature:
//! an RFC 6962 Merkle tree over salted cells.
//!
//! Promises that cells which open under a root are the ones that were sealed, each at its own
//! place. Must not read a cell. The salts come from the caller: 16 random bytes, fresh for every
//! cell and version, or a withheld cell could be guessed.

use crate::{
    merkle::{self, root},
    types::v1::SaltedCell,
};

/// Bytes of a salt.
pub const SALT_BYTES: usize = 16;

/// Bytes of a leaf hash.
const HASH_BYTES: usize = 32;

/// Why cells do not open.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// There are more or fewer cells than were signed.
    #[error("{found} cells, but {expected} were signed")]
    Count {
        /// Cells that came.
        found: usize,
        /// Cells under the root.
        expected: u32,
    },
    /// An index beyond the last.
    #[error("cell index {index} is not below {count}")]
    IndexOutOfRange {
        /// The index.
        index: u32,
        /// Cells under the root.
        count: u32,
    },
    /// An index that came before; so another one is missing.
    #[error("cell index {0} is there twice")]
    IndexTwice(u32),
    /// Neither disclosed (salt of 16 bytes and cell) nor withheld (hash of 32 bytes alone).
    #[error("cell {0} is neither disclosed nor withheld")]
    Malformed(u32),
    /// The cells are not the ones that were signed.
    #[error("cells do not match the signed root")]
    Root,
}

/// Hash of a disclosed cell: SHA-256(0x00 || salt || cell).
pub fn leaf_hash(salt: &[u8; SALT_BYTES], cell: &[u8]) -> [u8; HASH_BYTES] {
    hash_leaf(salt, cell)
}

/// Salts serialised cells with the salts beside them, and returns them with their root. The index
/// of a cell is its position.
///
/// No cell is empty: a serialised `Cell` never is, and [`open`] refuses one.
pub fn seal(cells: Vec<(Vec<u8>, [u8; SALT_BYTES])>) -> (Vec<SaltedCell>, [u8; HASH_BYTES]) {
    let leaves: Vec<_> = cells.iter().map(|(cell, salt)| leaf_hash(salt, cell)).collect();
    let cells = (0..).zip(cells).map(|(index, (cell, salt))| SaltedCell {
        index,
        salt: salt.to_vec(),
        cell,
        leaf_sha256: Vec::new(),
    });
    (cells.collect(), root(&leaves))
}

/// Checks cells against the signed root and number, and returns them by index; `None` for a
/// withheld one.
///
/// # Errors
///
/// - [`Error::Count`], [`Error::IndexOutOfRange`], [`Error::IndexTwice`]: not every index exactly once.
/// - [`Error::Malformed`]: a cell that is neither disclosed nor withheld.
/// - [`Error::Root`]: a cell, salt or hash was changed or stands at another's place.
pub fn open(root: &[u8], count: u32, cells: &[SaltedCell]) -> Result<Vec<Option<Vec<u8>>>, Error> {
    // Before anything is allocated: the number is a stranger's.
    if usize::try_from(count) != Ok(cells.len()) {
        return Err(Error::Count { found: cells.len(), expected: count });
    }
    let mut placed: Vec<Option<&SaltedCell>> = vec![None; cells.len()];
    for cell in cells {
        let place = usize::try_from(cell.index).ok().and_then(|index| placed.get_mut(index));
        let place = place.ok_or(Error::IndexOutOfRange { index: cell.index, count })?;
        if place.replace(cell).is_some() {
            return Err(Error::IndexTwice(cell.index));
        }
    }
    let leaves: Vec<_> =
        placed.iter().flatten().map(|cell| leaf(cell)).collect::<Result<_, _>>()?;
    if self::root(&leaves)[..] != *root {
        return Err(Error::Root);
    }
    let opened = placed.iter().flatten();
    Ok(opened.map(|cell| cell.leaf_sha256.is_empty().then(|| cell.cell.clone())).collect())
}

/// The cell with its leaf hash instead of its salt and figure. A withheld cell stays as it is.
pub fn withhold(cell: &SaltedCell) -> SaltedCell {
    if !cell.leaf_sha256.is_empty() {
        return cell.clone();
    }
    let leaf_sha256 = hash_leaf(&cell.salt, &cell.cell).to_vec();
    SaltedCell { index: cell.index, salt: Vec::new(), cell: Vec::new(), leaf_sha256 }
}

/// Leaf hash of a cell as it came.
fn leaf(cell: &SaltedCell) -> Result<[u8; HASH_BYTES], Error> {
    let malformed = |_| Error::Malformed(cell.index);
    let empty = [&cell.salt, &cell.cell, &cell.leaf_sha256].map(|field| field.is_empty());
    match empty {
        [false, false, true] => {
            let salt = cell.salt.as_slice().try_into().map_err(malformed)?;
            Ok(leaf_hash(salt, &cell.cell))
        }
        [true, true, false] => cell.leaf_sha256.as_slice().try_into().map_err(malformed),
        [..] => Err(Error::Malformed(cell.index)),
    }
}

fn hash_leaf(salt: &[u8], cell: &[u8]) -> [u8; HASH_BYTES] {
    merkle::leaf_hash_of(&[salt, cell])
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    /// Leaves and roots of 0 to 8 of them, from the tests of Certificate Transparency (RFC 6962).
    const LEAVES: [&str; 8] = [
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    ];
    const ROOTS: [&str; 9] = [
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];

    fn sealed(count: u8) -> (Vec<SaltedCell>, [u8; 32]) {
        seal((0..count).map(|number| (vec![number, 1, 2], [number; 16])).collect())
    }

    fn shape(cell: &mut SaltedCell, salt: usize, bytes: usize, hash: usize) {
        cell.salt = vec![1; salt];
        cell.cell = vec![1; bytes];
        cell.leaf_sha256 = vec![1; hash];
    }

    #[test]
    fn roots_are_those_of_rfc_6962() {
        let leaves: Vec<_> =
            LEAVES.iter().map(|leaf| hash_leaf(&[], &hex::decode(leaf).unwrap())).collect();
        for (count, expected) in ROOTS.iter().enumerate() {
            assert_eq!(hex::encode(root(&leaves[..count])), *expected, "{count} leaves");
        }
    }

    #[test]
    fn a_leaf_is_the_salt_followed_by_the_cell() {
        let salt: [u8; 16] = hex::decode(LEAVES[7]).unwrap().try_into().unwrap();
        let expected = Sha256::digest([&[0], &salt[..], b"cell"].concat());
        assert_eq!(leaf_hash(&salt, b"cell")[..], expected[..]);
        assert_ne!(leaf_hash(&salt, b"cell"), leaf_hash(&[0; 16], b"cell"));
    }

    #[test]
    fn sealed_cells_open_whatever_their_number_and_order() {
        for count in 0..=33 {
            let (mut cells, root) = sealed(count);
            cells.reverse();
            let opened = open(&root, count.into(), &cells).unwrap();
            let expected: Vec<_> = (0..count).map(|number| Some(vec![number, 1, 2])).collect();
            assert_eq!(opened, expected);
        }
    }

    #[test]
    fn any_cells_can_be_withheld_without_breaking_the_root() {
        let (cells, root) = sealed(5);
        for mask in 0..32u8 {
            let withheld = |cell: &SaltedCell| mask >> cell.index & 1 == 1;
            let sent: Vec<_> = cells
                .iter()
                .map(|cell| if withheld(cell) { withhold(cell) } else { cell.clone() })
                .collect();
            let opened = open(&root, 5, &sent).unwrap();
            for (cell, opened) in cells.iter().zip(opened) {
                assert_eq!(opened, (!withheld(cell)).then(|| cell.cell.clone()));
            }
        }
    }

    #[test]
    fn a_withheld_cell_shows_neither_salt_nor_figure() {
        let (cells, _) = sealed(1);
        let withheld = withhold(&cells[0]);
        assert!(withheld.salt.is_empty() && withheld.cell.is_empty());
        assert_eq!(withheld.leaf_sha256, leaf_hash(&[0; 16], &[0, 1, 2]));
        assert_eq!(withhold(&withheld), withheld);
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let (cells, root) = sealed(5);
        let mut sent = cells.clone();
        sent[2] = withhold(&cells[2]);
        for position in 0..sent.len() {
            for field in 0..3 {
                for bit in 0.. {
                    let mut changed = sent.clone();
                    let cell = &mut changed[position];
                    let bytes = match field {
                        0 => &mut cell.salt,
                        1 => &mut cell.cell,
                        _ => &mut cell.leaf_sha256,
                    };
                    let Some(byte) = bytes.get_mut(bit / 8) else { break };
                    *byte ^= 1 << (bit % 8);
                    assert_eq!(open(&root, 5, &changed), Err(Error::Root));
                }
            }
        }
        for bit in 0..256 {
            let mut root = root;
            root[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(&root, 5, &sent), Err(Error::Root));
        }
    }

    #[test]
    fn a_root_of_another_length_is_refused() {
        let (cells, root) = sealed(2);
        for wrong in [&[][..], &root[..31], &[&root[..], &[0]].concat()] {
            assert_eq!(open(wrong, 2, &cells), Err(Error::Root));
        }
        assert_eq!(open(&[], 0, &[]), Err(Error::Root));
    }

    #[test]
    fn a_missing_or_additional_cell_is_refused() {
        let (cells, root) = sealed(4);
        let missing = Err(Error::Count { found: 3, expected: 4 });
        assert_eq!(open(&root, 4, &cells[..3]), missing);
        let additional = Err(Error::Count { found: 4, expected: 3 });
        assert_eq!(open(&root, 3, &cells), additional);
        let none = Err(Error::Count { found: 4, expected: u32::MAX });
        assert_eq!(open(&root, u32::MAX, &cells), none);
        assert_eq!(open(&root, 0, &cells), Err(Error::Count { found: 4, expected: 0 }));
    }

    #[test]
    fn an_index_twice_or_out_of_range_is_refused() {
        let (cells, root) = sealed(4);
        let mut twice = cells.clone();
        twice[3].index = 1;
        assert_eq!(open(&root, 4, &twice), Err(Error::IndexTwice(1)));
        for index in [4, u32::MAX] {
            let mut beyond = cells.clone();
            beyond[3].index = index;
            assert_eq!(open(&root, 4, &beyond), Err(Error::IndexOutOfRange { index, count: 4 }));
        }
    }

    #[test]
    fn swapped_places_are_refused() {
        let (mut cells, root) = sealed(4);
        (cells[0].index, cells[3].index) = (3, 0);
        assert_eq!(open(&root, 4, &cells), Err(Error::Root));
    }

    #[test]
    fn a_cell_that_is_neither_disclosed_nor_withheld_is_refused() {
        let (cells, root) = sealed(3);
        let forms = [
            (0, 0, 0),
            (16, 0, 0),
            (0, 3, 0),
            (15, 3, 0),
            (17, 3, 0),
            (16, 3, 32),
            (16, 0, 32),
            (0, 3, 32),
            (0, 0, 31),
            (0, 0, 33),
        ];
        for (salt, bytes, hash) in forms {
            let mut changed = cells.clone();
            shape(&mut changed[1], salt, bytes, hash);
            let verdict = open(&root, 3, &changed);
            assert_eq!(verdict, Err(Error::Malformed(1)), "{salt}, {bytes}, {hash} bytes");
        }
    }

    /// The bytes under the hash are the same, only the border between salt and cell moved.
    #[test]
    fn the_border_between_salt_and_cell_cannot_move() {
        let (mut cells, root) = sealed(2);
        let moved = cells[0].salt.pop().unwrap();
        cells[0].cell.insert(0, moved);
        assert_eq!(open(&root, 2, &cells), Err(Error::Malformed(0)));
    }

    /// Without marks, two leaves could be presented as one whose content is both hashes.
    #[test]
    fn a_node_does_not_pass_for_a_leaf() {
        let (cells, root) = sealed(2);
        let inner: Vec<u8> =
            cells.iter().flat_map(|cell| hash_leaf(&cell.salt, &cell.cell)).collect();
        let forged = SaltedCell {
            index: 0,
            salt: inner[..16].to_vec(),
            cell: inner[16..].to_vec(),
            leaf_sha256: Vec::new(),
        };
        assert_eq!(open(&root, 1, &[forged]), Err(Error::Root));
    }
}
