//! Durable state of one host: ordered tables of bytes per unit, changed only by atomic batches.
//!
//! Every engine passes the same conformance suite. Values begin with a format version that the
//! owner of the table writes; this layer sees bytes. It never interprets a key or a value.

pub mod conformance;
pub mod format;
pub mod gate;
pub mod journal;
pub mod lock;
pub mod memory;
pub mod sled;
pub mod vault;

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use async_trait::async_trait;
use tokio::sync::oneshot;

use self::vault::Vault;
use crate::{
    clock::UnixMillis,
    domain::{journal::Leaf, unit::UnitCode},
    statement,
};

/// Most writes, and most preconditions, of one batch: beyond it sled's memory grows without bound.
pub const MAX_BATCH_OPERATIONS: usize = 256;

/// Largest value; larger documents are stored in parts.
pub const MAX_VALUE_BYTES: usize = 64 * 1024;

/// Longest key, the unit's code not counted.
pub const MAX_KEY_BYTES: usize = 512;

/// A table; the number is part of stored keys and never reused.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum Table {
    /// Facts about the unit or host itself: identity, epoch, counters.
    Meta = 1,
    /// Records by type and key.
    Records = 2,
    /// Components of indicators over the unit's own records.
    Components = 3,
    /// Ordered values behind extremes and distinct counts.
    ComponentValues = 4,
    /// Statements by id: envelopes as they were signed.
    Statements = 5,
    /// Cells beside summaries, in chunks.
    Cells = 6,
    /// Outbox rows by peer, lane and sequence.
    Outbox = 7,
    /// Cursors of what was taken in, by peer and lane.
    Inbox = 8,
    /// Newest summary by period and unit.
    Summaries = 9,
    /// Notices by id.
    Notices = 10,
    /// Receipts by notice and unit.
    Receipts = 11,
    /// Escalations by id.
    Escalations = 12,
    /// Catalogues by name and version.
    Catalogues = 13,
    /// Verified delegations by unit and desk.
    Delegations = 14,
    /// Tokens by id.
    Tokens = 15,
    /// Statements that were refused.
    Quarantine = 16,
    /// Imports by id.
    Imports = 17,
    /// Direct children.
    Children = 18,
    /// Leaves of the journal by the index of a row's first one; written by [`Batch::journal`].
    Journal = 19,
    /// Newest checkpoints of neighbours, by unit.
    Witnessed = 20,
    /// Full tiles of the journal's hashes by level and index.
    JournalTiles = 21,
    /// Own checkpoints by size.
    Checkpoints = 22,
    /// Accounts of the host by name.
    Accounts = 25,
    /// Sessions by the hash of their token.
    Sessions = 26,
    /// Tokens of systems by number.
    ApiTokens = 27,
    /// Acts that wait for a second person, by number.
    Approvals = 28,
    /// Keys of sealed bodies that were given, by statement and grant.
    Grants = 29,
    /// Readers whose keys have yet to be given, by statement.
    Granting = 30,
    /// What is kept of children's certificates: their ends and recoveries, by child.
    Recoveries = 31,
    /// The change of the unit's keys that is under way.
    Rotations = 36,
    /// The last grant of a root key that was shown to somebody and is not believed here yet.
    Successions = 34,
    /// Newest delegation of the unit that a neighbour holds, by neighbour.
    Acquaintances = 37,
    /// Revocations by id.
    Revocations = 23,
    /// Deliveries that a peer holds, by peer, lane and sequence: kept to send them again.
    Delivered = 43,
    /// Statements of peers that they sent here themselves, by peer and number: kept to return them.
    Received = 44,
    /// Epochs that were opened, by unit and epoch.
    Epochs = 45,
    /// The unit on its way from one host to another: what is awaited, staged, or was given away. Never
    /// part of what goes along.
    Transfers = 32,
    /// Desks that are going to be closed, by desk.
    DeskOrders = 33,
    /// Reforms that concern the unit, by order.
    Reforms = 39,
    /// Courier files: what was written for each neighbour and taken in from it.
    Courier = 41,
    /// Statements that its old parent returned to the unit and that wait to be taken in, by order,
    /// number and place.
    Returned = 40,
    /// Own statements about a case that came back after a restore and cannot follow yet, by case and
    /// number.
    OwnSteps = 48,
    /// Ids of the statements with which units that merged into this one handed over the keys that read
    /// what is sealed to them.
    Inherited = 35,
    /// Evidence that statements of units which have ended were there before, by statement.
    Shown = 38,
    /// What the program of each child says that it speaks, by child.
    Programs = 47,
    /// Open items that went from a unit that was divided to its sibling, by item; at both of them.
    Handed = 42,
}

impl Table {
    /// Every table, in the order of their numbers.
    pub fn all() -> impl Iterator<Item = Self> {
        std::iter::successors(Some(Self::Meta), |table| table.next())
    }

    /// The table of a number.
    pub fn of(number: u32) -> Option<Self> {
        Self::all().find(|table| *table as u32 == number)
    }

    /// A new table has to be put here, or what is in it would stay behind when a unit goes to another
    /// host.
    fn next(self) -> Option<Self> {
        match self {
            Self::Meta => Some(Self::Records),
            Self::Records => Some(Self::Components),
            Self::Components => Some(Self::ComponentValues),
            Self::ComponentValues => Some(Self::Statements),
            Self::Statements => Some(Self::Cells),
            Self::Cells => Some(Self::Outbox),
            Self::Outbox => Some(Self::Inbox),
            Self::Inbox => Some(Self::Summaries),
            Self::Summaries => Some(Self::Notices),
            Self::Notices => Some(Self::Receipts),
            Self::Receipts => Some(Self::Escalations),
            Self::Escalations => Some(Self::Catalogues),
            Self::Catalogues => Some(Self::Delegations),
            Self::Delegations => Some(Self::Tokens),
            Self::Tokens => Some(Self::Quarantine),
            Self::Quarantine => Some(Self::Imports),
            Self::Imports => Some(Self::Children),
            Self::Children => Some(Self::Journal),
            Self::Journal => Some(Self::Witnessed),
            Self::Witnessed => Some(Self::JournalTiles),
            Self::JournalTiles => Some(Self::Checkpoints),
            Self::Checkpoints => Some(Self::Revocations),
            Self::Revocations => Some(Self::Accounts),
            Self::Accounts => Some(Self::Sessions),
            Self::Sessions => Some(Self::ApiTokens),
            Self::ApiTokens => Some(Self::Approvals),
            Self::Approvals => Some(Self::Grants),
            Self::Grants => Some(Self::Granting),
            Self::Granting => Some(Self::Recoveries),
            Self::Recoveries => Some(Self::Transfers),
            Self::Transfers => Some(Self::DeskOrders),
            Self::DeskOrders => Some(Self::Successions),
            Self::Successions => Some(Self::Rotations),
            Self::Rotations => Some(Self::Acquaintances),
            Self::Acquaintances => Some(Self::Reforms),
            Self::Reforms => Some(Self::Returned),
            Self::Returned => Some(Self::Inherited),
            Self::Inherited => Some(Self::Shown),
            Self::Shown => Some(Self::Courier),
            Self::Courier => Some(Self::Delivered),
            Self::Delivered => Some(Self::Received),
            Self::Received => Some(Self::Epochs),
            Self::Epochs => Some(Self::OwnSteps),
            Self::OwnSteps => Some(Self::Programs),
            Self::Programs => Some(Self::Handed),
            Self::Handed => None,
        }
    }
}

/// Why the store did not do what was asked.
///
/// Nothing was written, except that after [`Error::Engine`] and [`Error::Closed`] only the opened
/// store can tell: a commit may have reached the disk without being acknowledged.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A precondition of the batch does not hold.
    #[error("the stored state changed meanwhile")]
    Conflict,
    /// More than [`MAX_BATCH_OPERATIONS`].
    #[error("a batch of {0} operations is over the limit of 256")]
    BatchTooLarge(usize),
    /// More than [`MAX_VALUE_BYTES`] or [`MAX_KEY_BYTES`].
    #[error("a value or key of {0} bytes is over the limit")]
    ValueTooLarge(usize),
    /// The disk is full, or nearly so: the reserve is kept free.
    #[error("the disk is full: {free_bytes} bytes are free, {reserve_bytes} are kept in reserve")]
    DiskFull {
        /// Bytes free on the file system.
        free_bytes: u64,
        /// Bytes that must stay free.
        reserve_bytes: u64,
    },
    /// What waits in a lane uses up its budget.
    #[error(
        "{bytes} bytes wait in lane {lane}, {budget_bytes} are allowed; reach the peer, or raise the \
         lane's budget under [lanes] in node.toml"
    )]
    LaneFull {
        /// The lane.
        lane: &'static str,
        /// Bytes that wait.
        bytes: u64,
        /// Bytes that may.
        budget_bytes: u64,
    },
    /// Another process has the store open.
    #[error("the store is in use by {holder}; stop that process first")]
    Locked {
        /// Process id and start time of the holder, as it wrote them.
        holder: String,
    },
    /// The store was written by a later version.
    #[error("the store has format {found}, this program knows up to {known}; use a newer program")]
    Format {
        /// Format found.
        found: u32,
        /// Highest format known.
        known: u32,
    },
    /// The store is encrypted, and nothing was given that opens it.
    #[error(
        "the store is encrypted and the host's keys are not open; give the passphrase or credential"
    )]
    Sealed,
    /// The host's keys are not those that the store was encrypted with.
    #[error(
        "the store does not open with this host's keys; bring keys/host.key and the store back from the same backup"
    )]
    WrongKey,
    /// The data key of a unit is gone, or another store's.
    #[error(
        "the data key of unit {unit} is gone; bring the store back from a backup, with all its files"
    )]
    KeyMissing {
        /// The unit.
        unit: String,
    },
    /// A stored value is not what was written at its place.
    #[error(
        "a value of unit {unit} in table {table} was changed or moved on the disk and does not open; bring the store back from a backup"
    )]
    Tampered {
        /// The unit.
        unit: String,
        /// The table.
        table: String,
    },
    /// The unit goes, or went, to another host.
    #[error("unit {0} is on its way to another host, and nothing of it is changed here; ask there")]
    Moved(String),
    /// A staged copy is not equal to what was copied; nothing was changed.
    #[error("the copy of the store differs from it; nothing was changed, look after the disk")]
    CopyDiffers,
    /// The engine failed; the store must be opened again.
    #[error("the store failed: {0}")]
    Engine(String),
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

/// A key with its value.
pub type Entry = (Vec<u8>, Vec<u8>);

/// What must hold for a batch to be committed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Precondition {
    /// Table of the key.
    pub table: Table,
    /// The key.
    pub key: Vec<u8>,
    /// The value it must have; `None`: absent.
    pub expected: Option<Vec<u8>>,
}

/// Changes of one unit that are committed together or not at all.
#[derive(Clone, Debug)]
pub struct Batch {
    pub(crate) unit: UnitCode,
    pub(crate) writes: Vec<(Table, Vec<u8>, Option<Vec<u8>>)>,
    pub(crate) preconditions: Vec<Precondition>,
    pub(crate) leaves: Vec<journal::NewLeaf>,
    /// Unit whose journal takes the leaves, if it is another one.
    pub(crate) journal_of: Option<UnitCode>,
    /// Writes that hold the index of a leaf: places in `writes` and in `leaves`.
    pub(crate) indexed: Vec<(usize, LeafNumber)>,
    /// May use the reserve of the disk.
    pub(crate) urgent: bool,
}

/// A leaf of a batch, by its place in it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LeafNumber(pub(crate) usize);

impl Batch {
    /// Begins an empty batch.
    pub fn new(unit: &UnitCode) -> Self {
        Self {
            unit: unit.clone(),
            writes: Vec::new(),
            preconditions: Vec::new(),
            leaves: Vec::new(),
            journal_of: None,
            indexed: Vec::new(),
            urgent: false,
        }
    }

    /// Lets this batch into the part of the disk's reserve that is kept for what cannot wait: whistles
    /// and what a link needs to bring them. Everything else is refused there.
    pub fn urgent(&mut self) {
        self.urgent = true;
    }

    /// Adds a leaf to the unit's journal, in the same commit: either it stands there with
    /// everything else of the batch, or nothing happened.
    pub fn journal(&mut self, time_unix_ms: UnixMillis, leaf: &Leaf) -> LeafNumber {
        let bytes = statement::journal::encode(time_unix_ms, leaf);
        self.leaves.push(journal::NewLeaf::of(bytes));
        LeafNumber(self.leaves.len() - 1)
    }

    /// Puts the leaves of this batch into the journal of another unit of the store, in the same commit:
    /// for rows that belong to the host, whose acts stand in the journal of its head unit.
    pub fn journal_in(&mut self, unit: &UnitCode) {
        self.journal_of = Some(unit.clone());
    }

    /// The unit whose journal takes the leaves.
    pub(crate) fn journal_unit(&self) -> &UnitCode {
        self.journal_of.as_ref().unwrap_or(&self.unit)
    }

    /// Writes at `key` the byte `format`, the index of `leaf` in the journal (8 bytes, big-endian)
    /// and `value`: so a row leads to its leaf without a table of its own.
    pub fn put_indexed(
        &mut self,
        table: Table,
        key: impl Into<Vec<u8>>,
        format: u8,
        value: &[u8],
        leaf: LeafNumber,
    ) {
        self.indexed.push((self.writes.len(), leaf));
        self.put(table, key, [&[format][..], &[0; 8], value].concat());
    }

    /// True after [`Self::urgent`].
    pub fn is_urgent(&self) -> bool {
        self.urgent
    }

    /// Writes `value` at `key`.
    pub fn put(&mut self, table: Table, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.writes.push((table, key.into(), Some(value.into())));
    }

    /// Removes `key`; an absent key is no error.
    pub fn delete(&mut self, table: Table, key: impl Into<Vec<u8>>) {
        self.writes.push((table, key.into(), None));
    }

    /// Requires `key` to be absent at commit.
    pub fn require_absent(&mut self, table: Table, key: impl Into<Vec<u8>>) {
        self.preconditions.push(Precondition { table, key: key.into(), expected: None });
    }

    /// Requires `key` to have `value` at commit.
    pub fn require(&mut self, table: Table, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        let expected = Some(value.into());
        self.preconditions.push(Precondition { table, key: key.into(), expected });
    }

    /// Number of writes, leaves not counted.
    pub fn len(&self) -> usize {
        self.writes.len()
    }

    /// True without writes and leaves.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty() && self.leaves.is_empty()
    }

    /// Bytes of the keys and values written, and of the leaves.
    pub fn bytes(&self) -> usize {
        let sizes = self.writes.iter().map(|(_, key, value)| {
            let value_bytes = value.as_ref().map_or(0, Vec::len);
            key.len() + value_bytes
        });
        let leaves = self.leaves.iter().map(journal::NewLeaf::len);
        sizes.chain(leaves).sum()
    }
}

/// A submitted batch. Resolves when it is durable or refused. Dropping it cancels nothing.
pub struct Commit(oneshot::Receiver<Result<(), Error>>);

impl Commit {
    /// A commit together with the half that resolves it.
    pub fn pending() -> (oneshot::Sender<Result<(), Error>>, Self) {
        let (sender, receiver) = oneshot::channel();
        (sender, Self(receiver))
    }
}

impl Future for Commit {
    type Output = Result<(), Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|sent| sent.unwrap_or(Err(Error::Closed)))
    }
}

impl fmt::Debug for Commit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Commit")
    }
}

/// What every engine refuses before it looks at anything else.
fn check_limits(batch: &Batch) -> Result<(), Error> {
    let count = batch.writes.len().max(batch.preconditions.len()).max(batch.leaves.len());
    if count > MAX_BATCH_OPERATIONS {
        return Err(Error::BatchTooLarge(count));
    }
    let writes = batch.writes.iter().map(|(_, key, value)| (key, value));
    let preconditions = batch.preconditions.iter().map(|held| (&held.key, &held.expected));
    for (key, value) in writes.chain(preconditions) {
        let value_bytes = value.as_ref().map_or(0, Vec::len);
        if key.len() > MAX_KEY_BYTES {
            return Err(Error::ValueTooLarge(key.len()));
        }
        if value_bytes > MAX_VALUE_BYTES {
            return Err(Error::ValueTooLarge(value_bytes));
        }
    }
    let too_long = batch
        .leaves
        .iter()
        .map(journal::NewLeaf::len)
        .find(|bytes| *bytes > journal::MAX_LEAF_BYTES);
    too_long.map_or(Ok(()), |bytes| Err(Error::ValueTooLarge(bytes)))
}

/// Space taken and left.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Bytes of the store's files.
    pub store_bytes: u64,
    /// Bytes free on its file system.
    pub free_bytes: u64,
}

/// Ordered tables of bytes per unit, changed only by atomic batches.
///
/// What a read returns survives power loss too, so that an acknowledgement may rest on a read.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Returns the value at `key`, or `None`.
    async fn get(
        &self,
        unit: &UnitCode,
        table: Table,
        key: &[u8],
    ) -> Result<Option<Vec<u8>>, Error>;

    /// Returns at most `limit` entries whose key begins with `prefix` and is above `after`
    /// (`None`: from the first), in key order. No snapshot: commits may fall between two calls.
    ///
    /// An encrypted store hides ends of keys (see [`vault`]): entries that differ in such an end alone
    /// come in an order of its own, which stays, unless `prefix` reaches into it.
    async fn scan(
        &self,
        unit: &UnitCode,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Entry>, Error>;

    /// Returns the entry with the highest key that begins with `prefix`, or `None`.
    async fn last(
        &self,
        unit: &UnitCode,
        table: Table,
        prefix: &[u8],
    ) -> Result<Option<Entry>, Error>;

    /// Submits `batch`. Batches are applied in the order of this call, whether or not the result
    /// is awaited. Once the result is `Ok`, the changes survive power loss, and so does every batch
    /// submitted before; an empty batch waits for just that. [`Error`] says what an error means.
    fn submit(&self, batch: Batch) -> Commit;

    /// Units that have entries.
    async fn units(&self) -> Result<Vec<UnitCode>, Error>;

    /// What encrypts the store; files beside it that hold records are encrypted by the same. `None`:
    /// nothing is encrypted.
    fn vault(&self) -> Option<Arc<Vault>> {
        None
    }

    /// Space taken and left.
    fn usage(&self) -> Result<Usage, Error>;

    /// Waits until everything submitted is settled, then closes the files.
    async fn close(&self) -> Result<(), Error>;
}

impl fmt::Debug for dyn Store {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Store")
    }
}
