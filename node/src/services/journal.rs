//! A unit's own journal: its checkpoints, and evidence that a leaf stands in it.
//!
//! Promises that a checkpoint covers durable leaves only, and that evidence names the first
//! checkpoint after the leaf that a witness cosigned, so that it shows how early the leaf was
//! there. Leaves themselves are written by whoever changes something; see `Batch::journal`.

mod audit;
mod verify;

use std::{
    cmp::Reverse,
    sync::{Arc, Mutex as StdMutex, PoisonError},
};

use lianxi_proto::note::{self, Checkpoint, Note};
use tokio::sync::Mutex;

pub use self::{
    audit::{Filter, Page, Pruned},
    verify::{Finding, Verified},
};
use super::{
    unit::Unit,
    witness::{PEER, Peer},
};
use crate::{
    domain::unit::UnitCode,
    statement::{header::StatementId, journal::Evidence},
    store::{self, Batch, Table, format, journal},
    watch,
};

/// Format of stored notes.
const FORMAT: u8 = 1;

/// Checkpoints read at once.
const PAGE: usize = 64;

/// Cosigned checkpoints that are shown to other witnesses.
const RECENT: usize = 4;

/// Children's cosignatures that a checkpoint keeps: a unit may have a thousand children, and more
/// of them prove no more. The parent's is kept beside them whenever it comes.
pub const MAX_CHILD_WITNESSES: usize = 16;

/// Witnesses after which the children have been told: one of two is another than the one told.
const TOLD_AT: usize = 2;

/// A unit's own journal.
#[derive(Debug)]
pub struct Journal {
    unit: Arc<Unit>,
    origin: String,
    /// One checkpoint is made at a time, and its row changed by one at a time.
    writing: Mutex<()>,
    recent: StdMutex<Vec<Signed>>,
    made: watch::Sender<u64>,
    cosigned: watch::Sender<u64>,
}

/// A checkpoint with its size.
#[derive(Clone, Debug)]
pub struct Signed {
    /// What it says.
    pub checkpoint: Checkpoint,
    /// With signature and cosignatures.
    pub note: Note,
}

impl Signed {
    /// Reads a note.
    pub(super) fn of(note: Note) -> Result<Self, note::Error> {
        Ok(Self { checkpoint: Checkpoint::of(&note)?, note })
    }

    /// Names of the journals whose owners cosigned.
    pub fn witnesses(&self) -> impl Iterator<Item = &str> {
        self.note.names().filter(|name| *name != self.checkpoint.origin)
    }
}

impl Journal {
    /// The journal of `unit`.
    pub fn new(unit: Arc<Unit>) -> Self {
        Self {
            origin: note::origin(&unit.trust_domain, unit.code.as_str()),
            unit,
            writing: Mutex::default(),
            recent: StdMutex::default(),
            made: watch::Sender::new(0),
            cosigned: watch::Sender::new(0),
        }
    }

    /// Name of the journal, and of the key that signs and cosigns for its unit.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Number of leaves.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn size(&self) -> Result<u64, store::Error> {
        journal::size(self.unit.store.as_ref(), &self.unit.code).await
    }

    /// Changes whenever a checkpoint was made or cosigned.
    pub fn made(&self) -> watch::Receiver<u64> {
        self.made.subscribe()
    }

    /// Changes whenever a checkpoint was cosigned; holds its size.
    pub fn cosigned(&self) -> watch::Receiver<u64> {
        self.cosigned.subscribe()
    }

    /// The newest checkpoint, made anew if the journal grew; `None` for an empty journal.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn checkpoint(&self) -> Result<Option<Signed>, store::Error> {
        let _writing = self.writing.lock().await;
        let (store, unit) = (self.unit.store.as_ref(), &self.unit.code);
        let size = journal::size(store, unit).await?;
        let newest = self.newest().await?;
        if size == 0 || newest.as_ref().is_some_and(|newest| newest.checkpoint.size >= size) {
            return Ok(newest);
        }
        let root = journal::root_at(store, unit, size).await?;
        let checkpoint = Checkpoint { origin: self.origin.clone(), size, root };
        let note = checkpoint.sign(&self.unit.keys().statement);
        self.put(size, &note).await?;
        self.made.send_modify(|count| *count += 1);
        Ok(Some(Signed { checkpoint, note }))
    }

    /// The newest checkpoint that was made.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn newest(&self) -> Result<Option<Signed>, store::Error> {
        let row = self.unit.store.last(&self.unit.code, Table::Checkpoints, b"").await?;
        row.map(|(_, value)| decode(&value)).transpose()
    }

    /// The first checkpoint of more than `size` leaves that was cosigned, else the newest one.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn covering(&self, size: u64) -> Result<Option<Signed>, store::Error> {
        let (mut after, mut newest) = (size.to_be_bytes().to_vec(), None);
        loop {
            let scanned =
                self.unit.store.scan(&self.unit.code, Table::Checkpoints, b"", Some(&after), PAGE);
            let rows = scanned.await?;
            for (key, value) in &rows {
                let signed = decode(value)?;
                if signed.witnesses().next().is_some() {
                    return Ok(Some(signed));
                }
                after.clone_from(key);
                newest = Some(signed);
            }
            if rows.len() < PAGE {
                return Ok(newest);
            }
        }
    }

    /// The newest checkpoint of at most `size` leaves that `witness` cosigned; `None`: that anybody
    /// cosigned.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn cosigned_up_to(
        &self,
        size: u64,
        witness: Option<&str>,
    ) -> Result<Option<Signed>, store::Error> {
        let (mut newest, mut after) = (None, None::<Vec<u8>>);
        loop {
            let (store, unit) = (&self.unit.store, &self.unit.code);
            let rows = store.scan(unit, Table::Checkpoints, b"", after.as_deref(), PAGE).await?;
            for (_, value) in &rows {
                let signed = decode(value)?;
                if signed.checkpoint.size > size {
                    return Ok(newest);
                }
                let is_it = match witness {
                    Some(witness) => signed.witnesses().any(|name| name == witness),
                    None => signed.witnesses().next().is_some(),
                };
                newest = if is_it { Some(signed) } else { newest };
            }
            match rows.last() {
                Some((key, _)) if rows.len() == PAGE => after = Some(key.clone()),
                _ => return Ok(newest),
            }
        }
    }

    /// The newest checkpoint of this run that others than `unit` cosigned.
    pub(super) fn witnessed_by_others(&self, unit: &UnitCode) -> Option<Signed> {
        let name = note::origin(&self.unit.trust_domain, unit.as_str());
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.iter().find(|one| one.witnesses().any(|witness| witness != name)).cloned()
    }

    /// Adds the cosignatures of `cosigned`, which were verified, to the stored checkpoint, unless
    /// they are a child's, not of a peer outside the tree, and it has enough of those. False if no such
    /// checkpoint was made.
    ///
    /// # Errors
    ///
    /// The store's.
    pub(super) async fn add_cosignatures(
        &self,
        cosigned: &Signed,
        of_peer: bool,
    ) -> Result<bool, store::Error> {
        let _writing = self.writing.lock().await;
        let size = cosigned.checkpoint.size;
        let key = size.to_be_bytes();
        let row = self.unit.store.get(&self.unit.code, Table::Checkpoints, &key).await?;
        let Some(row) = row else { return Ok(false) };
        let mut known = decode(&row)?;
        let parent = self.unit.parent();
        let parent = parent.map(|unit| note::origin(&self.unit.trust_domain, unit.as_str()));
        let is_child = |witness: &&str| Some(*witness) != parent.as_deref();
        let is_full = known.witnesses().filter(is_child).count() >= MAX_CHILD_WITNESSES;
        if is_full && !of_peer && cosigned.witnesses().all(|witness| is_child(&witness)) {
            return Ok(known.note.text() == cosigned.note.text());
        }
        if !known.note.merge(&cosigned.note) {
            return Ok(false);
        }
        self.put(size, &known.note).await?;
        let witnesses = known.witnesses().count();
        self.remember(known);
        self.cosigned.send_modify(|newest| *newest = size.max(*newest));
        if witnesses <= TOLD_AT {
            // The other children are shown it.
            self.made.send_modify(|count| *count += 1);
        }
        Ok(true)
    }

    /// True if this unit made the checkpoint, with this very text.
    ///
    /// # Errors
    ///
    /// The store's.
    pub(super) async fn is_own(&self, signed: &Signed) -> Result<bool, store::Error> {
        let key = signed.checkpoint.size.to_be_bytes();
        let row = self.unit.store.get(&self.unit.code, Table::Checkpoints, &key).await?;
        let own = row.map(|row| decode(&row)).transpose()?;
        Ok(own.is_some_and(|own| own.note.text() == signed.note.text()))
    }

    /// Witnesses outside the tree, by name.
    ///
    /// # Errors
    ///
    /// The store's.
    pub(super) async fn peers(&self) -> Result<Vec<Peer>, store::Error> {
        let (store, unit) = (&self.unit.store, &self.unit.code);
        let rows = store.scan(unit, Table::Witnessed, PEER, None, PAGE).await?;
        rows.iter().map(|(_, row)| format::read(FORMAT, row)).collect()
    }

    /// The checkpoint that evidence of the leaf `index` rests on: the first that was cosigned; of a
    /// root with a witness outside its tree the first that this one cosigned, unless the key was
    /// replaced since: then the earlier one proves more.
    async fn witnessed(&self, index: u64) -> Result<Option<Signed>, store::Error> {
        let Some(first) = self.covering(index).await? else { return Ok(None) };
        let own = self.unit.keys().statement.verifying_key();
        if self.unit.parent().is_some() || first.note.verify(&self.origin, &own).is_err() {
            return Ok(Some(first));
        }
        let mut peers = self.peers().await?;
        peers.retain(|peer| peer.cosigned_size > index);
        let mut known = Some(first.clone());
        while let Some(one) = known.filter(|_| !peers.is_empty()) {
            if peers.iter().any(|peer| peer.cosigned(&one.note).is_some()) {
                return Ok(Some(one));
            }
            known = self.covering(one.checkpoint.size).await?;
        }
        Ok(Some(first))
    }

    fn remember(&self, cosigned: Signed) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.retain(|one| one.checkpoint.size != cosigned.checkpoint.size);
        recent.push(cosigned);
        recent.sort_by_key(|one| Reverse(one.checkpoint.size));
        recent.truncate(RECENT);
    }

    async fn put(&self, size: u64, note: &Note) -> Result<(), store::Error> {
        let mut batch = Batch::new(&self.unit.code);
        batch.urgent();
        batch.put(Table::Checkpoints, size.to_be_bytes(), encode(note));
        self.unit.store.submit(batch).await
    }

    /// Proof that the unit signed or took in the statement, and when at the latest.
    ///
    /// A unit that ended showed that itself, where this unit had what it had said. Else it rests on the
    /// first cosigned checkpoint that covers it, else on the newest one, which then
    /// bears no cosignature. `None` if the unit has no such statement, or no checkpoint covers it yet.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn evidence_of(&self, id: StatementId) -> Result<Option<Evidence>, store::Error> {
        let store = &self.unit.store;
        if let Some(row) = store.get(&self.unit.code, Table::Shown, id.as_bytes()).await? {
            return decode_shown(&row).map(Some);
        }
        match self.unit.leaf_of(id).await? {
            Some(index) => self.evidence(index).await,
            None => Ok(None),
        }
    }

    /// Proof that a leaf stands in the journal; as [`Self::evidence_of`]. `None` also if the leaf
    /// was pruned.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn evidence(&self, index: u64) -> Result<Option<Evidence>, store::Error> {
        let (store, unit) = (self.unit.store.as_ref(), &self.unit.code);
        let Some(covering) = self.witnessed(index).await? else { return Ok(None) };
        let leaves = journal::leaves(store, unit, index).await?;
        let Some((_, leaf)) = leaves.into_iter().next().filter(|(found, _)| *found == index) else {
            return Ok(None);
        };
        let inclusion = journal::inclusion(store, unit, index, covering.checkpoint.size).await?;
        let checkpoint = covering.note.to_string();
        Ok(Some(Evidence { leaf, leaf_index: index, inclusion, checkpoint }))
    }
}

/// Stored form of evidence that somebody else gave.
pub(super) fn encode_shown(evidence: &Evidence) -> Vec<u8> {
    let mut row = vec![FORMAT];
    row.extend(evidence.to_bytes());
    row
}

fn decode_shown(row: &[u8]) -> Result<Evidence, store::Error> {
    match row.split_first() {
        Some((&FORMAT, bytes)) => Evidence::of_bytes(bytes)
            .map_err(|error| store::Error::Engine(format!("evidence is damaged: {error}"))),
        Some((&found, _)) => {
            Err(store::Error::Format { found: found.into(), known: FORMAT.into() })
        }
        None => Err(store::Error::Engine("evidence in the store is damaged".to_owned())),
    }
}

pub(super) fn encode(note: &Note) -> Vec<u8> {
    [&[FORMAT], note.to_string().as_bytes()].concat()
}

pub(super) fn decode(value: &[u8]) -> Result<Signed, store::Error> {
    let damaged = || store::Error::Engine("a checkpoint in the store is damaged".to_owned());
    match value.split_first() {
        Some((&FORMAT, text)) => {
            let note = str::from_utf8(text).ok().and_then(|text| Note::parse(text).ok());
            note.and_then(|note| Signed::of(note).ok()).ok_or_else(damaged)
        }
        Some((&found, _)) => {
            Err(store::Error::Format { found: found.into(), known: FORMAT.into() })
        }
        None => Err(damaged()),
    }
}
