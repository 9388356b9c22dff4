//! Courier files by their numbers: which is new, which was there, and which must not be believed.
//!
//! A file is a picture of its sender as it was: unlike a link it cannot say how things are. So what
//! is concluded from one rests on the numbers of files alone, never on clocks. Pure comparison.

use super::epoch::Reach;

/// Smallest limit for a file that one statement with all its cells is sure to fit.
pub const MIN_FILE_BYTES: u64 = 384 * 1024;

/// Limit for a file unless another one is asked for.
pub const USUAL_FILE_BYTES: u64 = 16 * 1024 * 1024;

/// Largest file that is written or read: one is held in memory.
pub const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// Files of a neighbour whose digests are kept.
pub const KEPT_FILES: u64 = 256;

/// Number of an export: the sender's epoch, and the count of its exports in it.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct FileNumber {
    /// Epoch of the sender, from 1.
    pub epoch: u64,
    /// From 1.
    pub number: u64,
}

/// A file on its way in, in short.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Came {
    /// Its number.
    pub number: FileNumber,
    /// How far its sender was.
    pub reach: Reach,
    /// Digest of its manifest.
    pub sha256: [u8; 32],
}

/// Where a file stands among those of its sender.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Order {
    /// No file with a higher number was imported.
    New,
    /// This very file was.
    Again,
    /// One with a higher number was: it says nothing of how its sender is.
    Late,
}

impl Order {
    /// The word used everywhere.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Again => "again",
            Self::Late => "late",
        }
    }
}

/// Why a file is not believed although its signature holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Stale {
    /// Its sender has opened another epoch since.
    #[error(
        "the file is of epoch {epoch}, and its sender is in epoch {known}; ask it for a new one"
    )]
    OldEpoch {
        /// Of the file.
        epoch: u64,
        /// That is known here.
        known: u64,
    },
    /// Another file had its number.
    #[error(
        "another file with the number {0} was imported: the sender's store was rolled back; let it \
         take in a file of this unit, and open an epoch with `lianxi node restore`"
    )]
    Forked(u64),
    /// A later file says less than an earlier one did.
    #[error(
        "the sender is not as far as it was in an earlier file: its store was rolled back; let it \
         take in a file of this unit, and open an epoch with `lianxi node restore`"
    )]
    RolledBack,
}

impl Stale {
    /// The fixed word of the journal.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::OldEpoch { .. } => "old-epoch",
            Self::Forked(_) => "forked",
            Self::RolledBack => "rolled-back",
        }
    }
}

/// Judges a file by what was imported before: `newest` with the highest number, `same` the digest of
/// the one with its own number and part. `known_epoch`: the sender's newest epoch, whatever told of it.
///
/// # Errors
///
/// [`Stale`].
pub fn judge(
    file: &Came,
    newest: Option<(FileNumber, Reach)>,
    same: Option<[u8; 32]>,
    known_epoch: u64,
) -> Result<Order, Stale> {
    let FileNumber { epoch, number } = file.number;
    if epoch < known_epoch {
        return Err(Stale::OldEpoch { epoch, known: known_epoch });
    }
    if let Some(same) = same {
        return if same == file.sha256 { Ok(Order::Again) } else { Err(Stale::Forked(number)) };
    }
    match newest {
        Some((newest, _)) if newest > file.number => Ok(Order::Late),
        Some((newest, reach)) if newest.epoch == epoch && file.reach.is_behind(&reach) => {
            Err(Stale::RolledBack)
        }
        Some(_) | None => Ok(Order::New),
    }
}

/// What is missing before a delivery.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Gap {
    /// Last place that was taken in.
    pub have: u64,
    /// Place that the next delivery follows.
    pub after: u64,
}

/// Why the statements of a file stay behind.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Withheld {
    /// One side was rolled back and opened no epoch yet.
    Stopped,
    /// The sender needs its own statements back first.
    Returns,
}

impl Withheld {
    /// The word used everywhere.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Returns => "returns",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::epoch::Number;

    fn reach(epoch: u64, seq: u64) -> Reach {
        Reach { number: Number { epoch, seq }, journal_size: seq * 2 }
    }

    fn came(epoch: u64, number: u64, seq: u64) -> Came {
        let number = FileNumber { epoch, number };
        Came { number, reach: reach(epoch, seq), sha256: [u8::try_from(seq).unwrap(); 32] }
    }

    #[test]
    fn files_are_new_again_or_late_by_their_numbers() {
        let newest = Some((FileNumber { epoch: 1, number: 4 }, reach(1, 9)));
        assert_eq!(judge(&came(1, 1, 1), None, None, 1), Ok(Order::New));
        assert_eq!(judge(&came(1, 5, 9), newest, None, 1), Ok(Order::New));
        assert_eq!(judge(&came(1, 9, 12), newest, None, 1), Ok(Order::New), "some were lost");
        assert_eq!(judge(&came(1, 4, 9), newest, Some([9; 32]), 1), Ok(Order::Again));
        assert_eq!(judge(&came(1, 2, 3), newest, None, 1), Ok(Order::Late));
        assert_eq!(judge(&came(2, 1, 1), newest, None, 1), Ok(Order::New), "a new epoch");
    }

    #[test]
    fn a_sender_that_was_rolled_back_is_not_believed() {
        let newest = Some((FileNumber { epoch: 1, number: 4 }, reach(1, 9)));
        let forked = judge(&came(1, 4, 8), newest, Some([9; 32]), 1);
        assert_eq!(forked, Err(Stale::Forked(4)));
        assert_eq!(judge(&came(1, 5, 8), newest, None, 1), Err(Stale::RolledBack));
        let old = judge(&came(1, 5, 10), newest, None, 2);
        assert_eq!(old, Err(Stale::OldEpoch { epoch: 1, known: 2 }));
    }
}
