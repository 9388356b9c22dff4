//! What a host keeps of a unit's move: rows of [`Table::Transfers`], which never travel. One version
//! byte, then JSON.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::Error;
use crate::{
    clock::UnixMillis,
    domain::unit::UnitCode,
    store::{self, Batch, Store, Table},
};

const VERSION: u8 = 1;

/// The unit was given away.
const DEPARTED: &[u8] = b"departed";
/// The unit came here and has to open its epoch.
const ARRIVED: &[u8] = b"arrived";
/// Rows of the unit are being put here and do not count yet.
const STAGING: &[u8] = b"staging";
/// Where the unit is going to be dialled.
const ANNOUNCED: &[u8] = b"announced";

/// A unit that was given away by this host.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Departed {
    /// The unit.
    pub unit: UnitCode,
    /// Name of its new host.
    pub host: String,
    /// Where its children dial it there.
    pub addresses: Vec<String>,
    /// SHA-256 of the file.
    pub sha256: [u8; 32],
    /// Epoch that it was in.
    pub epoch: u64,
    /// Who gave it away, as the leaf says.
    pub by: String,
    /// Who approved it.
    pub approvers: Vec<String>,
    /// When.
    pub stopped_unix_ms: UnixMillis,
    /// When its arrival was confirmed.
    pub confirmed_unix_ms: Option<UnixMillis>,
}

impl Departed {
    /// Reads whether `unit` was given away.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn load(store: &dyn Store, unit: &UnitCode) -> Result<Option<Self>, store::Error> {
        load(store, unit, DEPARTED).await
    }

    pub(super) fn put(&self, batch: &mut Batch) {
        batch.put(Table::Transfers, DEPARTED, encode(self));
    }
}

/// A unit that came here from another host.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Arrived {
    /// Host that gave it away.
    pub host: String,
    /// SHA-256 of the file.
    pub sha256: [u8; 32],
    /// Epoch that it was in: the next one is opened here.
    pub epoch: u64,
    /// Who took it in.
    pub by: String,
    /// Who approved it.
    pub approvers: Vec<String>,
}

impl Arrived {
    /// Reads whether `unit` came from another host.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn load(store: &dyn Store, unit: &UnitCode) -> Result<Option<Self>, store::Error> {
        load(store, unit, ARRIVED).await
    }

    pub(super) fn put(&self, batch: &mut Batch) {
        // It came back to a host that gave it away once.
        batch.delete(Table::Transfers, DEPARTED);
        batch.delete(Table::Transfers, ANNOUNCED);
        batch.put(Table::Transfers, ARRIVED, encode(self));
    }
}

/// Where a unit is going to be dialled.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Announced {
    /// Addresses there.
    pub addresses: Vec<String>,
}

impl Announced {
    /// Reads what was announced.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn load(store: &dyn Store, unit: &UnitCode) -> Result<Self, store::Error> {
        Ok(load(store, unit, ANNOUNCED).await?.unwrap_or_default())
    }

    /// Keeps what is announced.
    pub fn put(&self, batch: &mut Batch) {
        batch.put(Table::Transfers, ANNOUNCED, encode(self));
    }
}

/// True while rows of the unit do not count yet.
///
/// # Errors
///
/// The store's.
pub async fn is_staged(store: &dyn Store, unit: &UnitCode) -> Result<bool, store::Error> {
    Ok(store.get(unit, Table::Transfers, STAGING).await?.is_some())
}

pub(super) async fn begin_staging(store: &dyn Store, unit: &UnitCode) -> Result<(), Error> {
    let mut batch = Batch::new(unit);
    batch.put(Table::Transfers, STAGING, [VERSION]);
    Ok(store.submit(batch).await?)
}

pub(super) fn end_staging(batch: &mut Batch) {
    batch.delete(Table::Transfers, STAGING);
}

fn encode(row: &impl Serialize) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    serde_json::to_writer(&mut bytes, row).expect("invariant: rows are plain data");
    bytes
}

async fn load<T: DeserializeOwned>(
    store: &dyn Store,
    unit: &UnitCode,
    key: &[u8],
) -> Result<Option<T>, store::Error> {
    let Some(bytes) = store.get(unit, Table::Transfers, key).await? else { return Ok(None) };
    let damaged = || store::Error::Engine(format!("a row of the move of {unit} is damaged"));
    match bytes.as_slice() {
        [VERSION, json @ ..] => serde_json::from_slice(json).map(Some).map_err(|_| damaged()),
        [found, ..] => {
            Err(store::Error::Format { found: u32::from(*found), known: u32::from(VERSION) })
        }
        [] => Err(damaged()),
    }
}
