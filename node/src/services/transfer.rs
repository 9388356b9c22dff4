//! A unit goes to another host with its keys, records, journal and open items (换机).
//!
//! Promises that exactly one host runs the unit, wherever a machine stops: the old host gives it up in
//! the commit that names the file, before anybody can fetch the file; the new host lets it begin in one
//! commit, after the whole file was checked. The file opens with the key of the host that it is for and
//! no other. The unit begins in a new epoch, so that two copies can never be taken for one. Must not
//! change a row on the way, and must not decide who may do this.

mod error;
mod file;
mod rows;

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

pub use self::{
    error::Error,
    file::{Facts, Written, check, export, stage, unstage},
    rows::{Announced, Arrived, Departed, is_staged},
};
use super::{enrolments::Identity, host::OperationError, leaving::OpenItem};
use crate::{
    clock::UnixMillis,
    domain::{
        journal::{Act, Actor, Leaf},
        unit::UnitCode,
    },
    identity::keys::Place,
    statement::transfer::{Head, Request, decode_request, encode_request},
    store::{Batch, Store, Table},
};

/// Name of the act in both journals.
const ACT: &str = "unit.export";

/// How the text of a request begins.
const PREFIX: &str = "lianxi-move1.";

/// What a new host says of itself, as text.
pub fn request_text(request: &Request) -> String {
    format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(encode_request(request)))
}

/// Reads what a new host says of itself.
///
/// # Errors
///
/// [`Error::Request`].
pub fn read_request(text: &str) -> Result<Request, Error> {
    let pasted: String = text.chars().filter(|one| !one.is_whitespace()).collect();
    let encoded = pasted.strip_prefix(PREFIX).and_then(|it| URL_SAFE_NO_PAD.decode(it).ok());
    let encoded = encoded.ok_or(Error::NoRequest)?;
    Ok(decode_request(&encoded)?)
}

/// The leaf that names a file, the same at both hosts.
fn leaf(unit: &UnitCode, by: &str, sha256: [u8; 32]) -> Leaf {
    Leaf::Act(Act::done(Actor::recorded(by), ACT, unit.as_str()).about(sha256))
}

/// The unit is given up here: one commit, and the digest of the file is a leaf of it.
///
/// # Errors
///
/// The store's.
pub async fn depart(store: &dyn Store, departed: &Departed) -> Result<(), Error> {
    let mut batch = Batch::new(&departed.unit);
    departed.put(&mut batch);
    let leaf = leaf(&departed.unit, &departed.by, departed.sha256);
    batch.journal(departed.stopped_unix_ms, &leaf);
    Ok(store.submit(batch).await?)
}

/// The unit is here: one commit. Before it nothing of the file counts.
///
/// # Errors
///
/// [`Error::Identity`], the store's.
pub async fn arrive(
    store: &dyn Store,
    head: &Head,
    mut identity: Identity,
    arrived: &Arrived,
) -> Result<(), Error> {
    if let Some(parent) = &mut identity.parent
        && !head.parent_addresses.is_empty()
    {
        parent.addresses.clone_from(&head.parent_addresses);
    }
    let mut batch = Batch::new(&head.unit);
    identity.put(&mut batch);
    rows::end_staging(&mut batch);
    arrived.put(&mut batch);
    batch.journal(head.time_unix_ms, &leaf(&head.unit, &head.by, arrived.sha256));
    Ok(store.submit(batch).await?)
}

/// Forgets everything of a unit that is known to be elsewhere, but that it went.
///
/// # Errors
///
/// The store's; can be given again.
pub async fn forget(store: &dyn Store, departed: &Departed, keys: &Place) -> Result<(), Error> {
    let mut batch = Batch::new(&departed.unit);
    departed.put(&mut batch);
    store.submit(batch).await?;
    crate::identity::keys::transfer::erase(keys)?;
    file::erase_rows(store, &departed.unit).await
}

/// What is asked for when a unit is given away.
#[derive(Clone, Debug)]
pub struct ExportOrder {
    /// The unit.
    pub unit: UnitCode,
    /// The new host.
    pub to: Request,
    /// Two people.
    pub approvers: Vec<String>,
    /// Who asks.
    pub by: Actor,
    /// Go even though some children do not know the new address.
    pub leave_behind: bool,
    /// Say what would be moved, stop nothing.
    pub dry_run: bool,
}

/// What is asked for when a unit is taken in.
#[derive(Clone, Debug)]
pub struct ImportOrder {
    /// The unit.
    pub unit: UnitCode,
    /// The uploaded file; `None`: it came before, and its confirmation is asked for again.
    pub sha256: Option<[u8; 32]>,
    /// Two people.
    pub approvers: Vec<String>,
    /// Who asks.
    pub by: Actor,
    /// Check the whole file, keep nothing.
    pub dry_run: bool,
}

/// What goes from one host to another.
#[derive(Clone, Debug, Default)]
pub struct Move {
    /// The unit; empty only before it is filled in.
    pub unit: String,
    /// Names of the hosts.
    pub from_host: String,
    /// The other one.
    pub to_host: String,
    /// Where children dial it there.
    pub addresses: Vec<String>,
    /// Its records.
    pub records: u64,
    /// Accounts with a role of the unit, which stay at the old host.
    pub accounts: Vec<String>,
    /// Open notices and whistles.
    pub open: Vec<OpenItem>,
    /// Statements that wait to be sent.
    pub unsent: u64,
    /// Children on other hosts, and whether they know the new address.
    pub children: Vec<(UnitCode, bool)>,
    /// What the file holds.
    pub facts: Facts,
    /// SHA-256 of the file.
    pub sha256: Option<[u8; 32]>,
    /// When it stopped at the old host.
    pub stopped_unix_ms: UnixMillis,
    /// Epoch that was opened at the new host.
    pub epoch: u64,
    /// The unit's word that it did so.
    pub confirmation: Vec<u8>,
}

/// What both hosts do for a move; implemented where the host is put together.
#[async_trait]
pub trait Transfers: Send + Sync + 'static {
    /// Awaits a unit: what its old host has to be told.
    async fn receive(
        &self,
        unit: &UnitCode,
        addresses: Vec<String>,
        by: Actor,
    ) -> Result<Request, OperationError>;

    /// Tells the children of a unit where they dial it from the move on.
    async fn announce(
        &self,
        unit: &UnitCode,
        to: &Request,
        by: Actor,
        dry_run: bool,
    ) -> Result<Move, OperationError>;

    /// Gives a unit away.
    async fn export_unit(&self, order: ExportOrder) -> Result<Move, OperationError>;

    /// The file of a unit that was given away.
    async fn exported(&self, unit: &UnitCode) -> Result<PathBuf, OperationError>;

    /// Where a file is taken in.
    fn uploads(&self) -> PathBuf;

    /// The unit that an uploaded file was sealed for.
    async fn sealed_for(&self, sha256: [u8; 32]) -> Result<UnitCode, OperationError>;

    /// Takes a unit in.
    async fn import_unit(&self, order: ImportOrder) -> Result<Move, OperationError>;

    /// Forgets a unit that is known to be elsewhere.
    async fn confirm(
        &self,
        unit: &UnitCode,
        confirmation: &[u8],
        by: Actor,
        dry_run: bool,
    ) -> Result<Move, OperationError>;
}

/// Which units of the store were given away.
///
/// # Errors
///
/// The store's.
pub async fn departed_units(store: &Arc<dyn Store>) -> Result<Vec<Departed>, Error> {
    let mut found = Vec::new();
    for unit in store.units().await? {
        if let Some(departed) = Departed::load(store.as_ref(), &unit).await? {
            found.push(departed);
        }
    }
    Ok(found)
}

/// True for a table whose rows stay at their host: what it keeps of moves, and how far its own imports
/// are, by numbers of its own.
fn stays(table: Table) -> bool {
    matches!(table, Table::Transfers | Table::Imports)
}
