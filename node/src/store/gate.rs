//! A store as one unit sees it, that can be closed for that unit while the host goes on.
//!
//! Promises that nothing which is submitted after [`Gate::close`] reaches the store, whoever still holds
//! the unit. Reads go on.

use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;

use super::{Batch, Commit, Entry, Error, Store, Table, Usage, vault::Vault};
use crate::domain::unit::UnitCode;

/// The store of a host, open or closed for one unit.
pub struct Gate {
    store: Arc<dyn Store>,
    /// Held for reading while a batch is handed over, so that closing waits for it.
    closed: RwLock<bool>,
}

impl Gate {
    /// An open gate before `store`.
    pub fn new(store: Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Self { store, closed: RwLock::new(false) })
    }

    /// From here on everything that is submitted is refused.
    pub fn close(&self) {
        *self.closed.write().unwrap_or_else(PoisonError::into_inner) = true;
    }

    /// Lets batches through again.
    pub fn open(&self) {
        *self.closed.write().unwrap_or_else(PoisonError::into_inner) = false;
    }
}

#[async_trait]
impl Store for Gate {
    async fn get(
        &self,
        unit: &UnitCode,
        table: Table,
        key: &[u8],
    ) -> Result<Option<Vec<u8>>, Error> {
        self.store.get(unit, table, key).await
    }

    async fn scan(
        &self,
        unit: &UnitCode,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Entry>, Error> {
        self.store.scan(unit, table, prefix, after, limit).await
    }

    async fn last(
        &self,
        unit: &UnitCode,
        table: Table,
        prefix: &[u8],
    ) -> Result<Option<Entry>, Error> {
        self.store.last(unit, table, prefix).await
    }

    fn submit(&self, batch: Batch) -> Commit {
        let closed = self.closed.read().unwrap_or_else(PoisonError::into_inner);
        if *closed {
            let (sender, commit) = Commit::pending();
            // The receiver is in `commit`.
            let _ = sender.send(Err(Error::Moved(batch.unit.to_string())));
            return commit;
        }
        self.store.submit(batch)
    }

    async fn units(&self) -> Result<Vec<UnitCode>, Error> {
        self.store.units().await
    }

    fn vault(&self) -> Option<Arc<Vault>> {
        self.store.vault()
    }

    fn usage(&self) -> Result<Usage, Error> {
        self.store.usage()
    }

    async fn close(&self) -> Result<(), Error> {
        self.store.close().await
    }
}
