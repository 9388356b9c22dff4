//! What readers and the writer share: the handle, what is not yet durable, and failure.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use ::sled::{Db, IVec};
use tokio::sync::watch;

use crate::store::Error;

/// Keys of the group that is applied and whose barrier has not returned.
#[derive(Default)]
struct InFlight {
    group: u64,
    keys: BTreeSet<IVec>,
}

/// What readers and the writer share.
pub(super) struct Shared {
    /// sled's directory.
    pub(super) engine: PathBuf,
    pub(super) statistics: Counters,
    db: RwLock<Option<Db>>,
    failure: OnceLock<String>,
    in_flight: Mutex<InFlight>,
    /// Number of the last durable group; `u64::MAX` after a failure.
    durable: watch::Sender<u64>,
}

impl Shared {
    pub(super) fn new(engine: PathBuf, db: Db) -> Self {
        Self {
            engine,
            statistics: Counters::default(),
            db: RwLock::new(Some(db)),
            failure: OnceLock::new(),
            in_flight: Mutex::new(InFlight { group: 1, keys: BTreeSet::new() }),
            durable: watch::Sender::new(0),
        }
    }

    /// Reads with `read`, then waits until what it may have seen is durable: `touches` says
    /// whether it can have seen one of the keys in flight.
    ///
    /// An acknowledgement is often decided by a read ("this was taken in already"), so a read must
    /// not show what a power cut can still take back. Keys are in flight from before they are
    /// applied, so nothing slips through between the read and the look.
    pub(super) async fn read<T>(
        &self,
        read: impl FnOnce(&Db) -> Result<T, ::sled::Error>,
        touches: impl FnOnce(&BTreeSet<IVec>) -> bool,
    ) -> Result<T, Error> {
        self.check()?;
        let found = {
            let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
            let db = db.as_ref().ok_or(Error::Closed)?;
            read(db).map_err(|error| Error::Engine(error.to_string()))?
        };
        let awaited = {
            let in_flight = self.in_flight();
            let is_touched = !in_flight.keys.is_empty() && touches(&in_flight.keys);
            is_touched.then_some(in_flight.group)
        };
        if let Some(group) = awaited {
            let mut durable = self.durable.subscribe();
            let _ = durable.wait_for(|durable| *durable >= group).await;
            self.check()?;
        }
        Ok(found)
    }

    /// Fails with what the store failed with.
    pub(super) fn check(&self) -> Result<(), Error> {
        self.failure.get().map_or(Ok(()), |text| Err(Error::Engine(text.clone())))
    }

    /// Remembers the first failure and wakes all readers.
    pub(super) fn fail(&self, text: String) {
        let _ = self.failure.set(text);
        self.durable.send_replace(u64::MAX);
    }

    /// Notes that `keys` are about to be applied.
    pub(super) fn begin_apply<'a>(&self, keys: impl Iterator<Item = &'a IVec>) {
        self.in_flight().keys.extend(keys.cloned());
    }

    /// Notes that all that was applied is durable.
    pub(super) fn settle_group(&self) {
        let group = {
            let mut in_flight = self.in_flight();
            in_flight.keys.clear();
            in_flight.group += 1;
            in_flight.group - 1
        };
        self.durable.send_replace(group);
    }

    /// Takes the handle away; later reads find the store closed.
    pub(super) fn take_db(&self) -> Option<Db> {
        self.db.write().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn in_flight(&self) -> MutexGuard<'_, InFlight> {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts since the store was opened.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Statistics {
    /// Groups settled.
    pub groups: u64,
    /// Batches settled, refused ones included.
    pub batches: u64,
    /// Operations applied.
    pub operations: u64,
    /// Barriers that returned.
    pub barriers: u64,
}

/// The counters behind [`Statistics`].
#[derive(Default)]
pub(super) struct Counters {
    groups: AtomicU64,
    batches: AtomicU64,
    operations: AtomicU64,
    barriers: AtomicU64,
}

impl Counters {
    pub(super) fn count_group(&self, batches: usize, operations: usize) {
        self.groups.fetch_add(1, Ordering::Relaxed);
        self.batches.fetch_add(batches as u64, Ordering::Relaxed);
        self.operations.fetch_add(operations as u64, Ordering::Relaxed);
    }

    pub(super) fn count_barrier(&self) {
        self.barriers.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> Statistics {
        Statistics {
            groups: self.groups.load(Ordering::Relaxed),
            batches: self.batches.load(Ordering::Relaxed),
            operations: self.operations.load(Ordering::Relaxed),
            barriers: self.barriers.load(Ordering::Relaxed),
        }
    }
}
