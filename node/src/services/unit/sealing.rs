//! Bodies that only their readers can read: sealing them, reading them, and the keys that were
//! given later.
//!
//! An opened body lives as long as the request that asked for it: what is kept is the envelope.

use std::sync::PoisonError;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Unit;
use crate::{
    clock::UnixMillis,
    domain::unit::{DeskId, UnitCode},
    identity::{
        sealed::{self, ContentKey, Reader},
        sealed_file,
        trust::Subject,
    },
    services::intake::Refused,
    statement::{
        header::{self, Header, Malformed, Sealing, Statement, StatementId},
        sealed::{
            Outline, SealedBody, SealedKey, decode_body, decode_key, encode_body, encode_key,
        },
    },
    store::{self, Batch, Table, format},
};

const FORMAT: u8 = 1;

/// Who may read a body, and what those who pass it on have to know.
#[derive(Clone, Debug)]
pub struct Seal {
    /// Readers, the source itself included if it has to read it again.
    pub readers: Vec<Reader>,
    /// For those in between.
    pub outline: Option<Outline>,
}

/// Seals `body` under `header`, which then says so; returns the payload.
pub(super) fn encode(
    header: &mut Header,
    body: &[u8],
    seal: &Seal,
) -> Result<Vec<u8>, sealed::Error> {
    let key = ContentKey::generate();
    let key_commitment = key.commitment();
    header.sealing = Some(Sealing { key_commitment, outline: seal.outline.clone() });
    let sealed = key.seal(&header::header_sha256(header), &seal.readers, body)?;
    Ok(header::encode(header, &encode_body(&sealed)))
}

/// Why a sealed body was not read. That it is for others is no error.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is no sealed body.
    #[error("the sealed body is malformed at {0}")]
    Malformed(#[from] Malformed),
    /// It does not open.
    #[error(transparent)]
    Seal(#[from] sealed::Error),
}

impl From<ReadError> for Refused {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Malformed(malformed) => malformed.into(),
            ReadError::Seal(error) => {
                let field = match error {
                    sealed::Error::Body => "body.ciphertext",
                    sealed::Error::PublicKey(_)
                    | sealed::Error::SealedKey(_)
                    | sealed::Error::Commitment(_) => "body.recipients",
                };
                Self::new("bad-seal", field, error.to_string())
            }
        }
    }
}

/// A key that was given to a reader after its statement was made.
#[derive(Clone, Debug)]
pub struct Given {
    /// Unit that gave it.
    pub by: UnitCode,
    /// Who may read since then.
    pub to: Subject,
    /// When, the giver's clock.
    pub time_unix_ms: UnixMillis,
    /// The key, for this unit or its desks.
    pub keys: Vec<SealedKey>,
}

#[derive(Deserialize, Serialize)]
struct GivenRow {
    by: UnitCode,
    unit: UnitCode,
    desk: Option<DeskId>,
    time_unix_ms: UnixMillis,
    /// Serialised sealed keys, hex.
    keys: Vec<String>,
}

impl Given {
    /// Key and value in [`Table::Grants`], of the grant with id `grant`.
    pub fn row(&self, statement: StatementId, grant: StatementId) -> (Table, Vec<u8>, Vec<u8>) {
        let row = GivenRow {
            by: self.by.clone(),
            unit: self.to.0.clone(),
            desk: self.to.1.clone(),
            time_unix_ms: self.time_unix_ms,
            keys: self.keys.iter().map(|key| hex::encode(encode_key(key))).collect(),
        };
        let key = [statement.as_bytes().as_slice(), grant.as_bytes()].concat();
        (Table::Grants, key, format::write(FORMAT, &row))
    }

    fn read(value: &[u8]) -> Result<Self, store::Error> {
        let row: GivenRow = format::read(FORMAT, value)?;
        let key = |text: &String| {
            let bytes = hex::decode(text).ok()?;
            decode_key(&bytes).ok()
        };
        let keys = row.keys.iter().map(key).collect::<Option<Vec<_>>>();
        let keys = keys.ok_or_else(|| store::Error::Engine("a stored key is damaged".into()))?;
        let (by, to, time_unix_ms) = (row.by, (row.unit, row.desk), row.time_unix_ms);
        Ok(Self { by, to, time_unix_ms, keys })
    }
}

impl Unit {
    /// What is inside a file that was sealed for this unit.
    ///
    /// # Errors
    ///
    /// [`sealed_file::Error`]: it is for others, or does not open.
    pub fn open_file(&self, sealed: &[u8]) -> Result<Vec<u8>, sealed_file::Error> {
        let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
        let mut plain = Vec::with_capacity(sealed.len());
        sealed_file::open_file(&ring, sealed, &mut plain)?;
        Ok(plain)
    }

    /// Keys to seal to for those who have one; who has none is logged and cannot read.
    pub fn readers<'a>(
        &self,
        subjects: impl IntoIterator<Item = (&'a UnitCode, Option<&'a DeskId>)>,
    ) -> Vec<Reader> {
        let trust = self.trust();
        let mut readers = Vec::new();
        for (unit, desk) in subjects {
            // What was open with a unit that merged into another is that one's to read.
            let unit = trust.heir(unit);
            match trust.reader(unit, desk) {
                Some(reader) if readers.contains(&reader) => {}
                Some(reader) => readers.push(reader),
                None => {
                    tracing::warn!(unit = %self.code, reader = %unit, "no agreement key is known")
                }
            }
        }
        readers
    }

    /// The body of a statement, opened with the keys of this unit and its desks; `None` if it is
    /// sealed for others. `given`: keys that did not come inside it; one that does not hold counts
    /// for nothing.
    ///
    /// # Errors
    ///
    /// [`ReadError`] for a body that names this unit and does not open.
    pub fn read(
        &self,
        statement: &Statement,
        given: &[SealedKey],
    ) -> Result<Option<Bytes>, ReadError> {
        if statement.header.sealing.is_none() {
            return Ok(Some(statement.body.clone()));
        }
        let body = decode_body(&statement.body)?;
        let Some(key) = self.key_of(statement, &body, given)? else { return Ok(None) };
        Ok(Some(key.open(&statement.header_sha256, &body)?.into()))
    }

    /// The key of a sealed statement, to give it to others; `None` if this unit has none.
    ///
    /// # Errors
    ///
    /// As [`Unit::read`].
    pub fn content_key(
        &self,
        statement: &Statement,
        given: &[SealedKey],
    ) -> Result<Option<ContentKey>, ReadError> {
        if statement.header.sealing.is_none() {
            return Ok(None);
        }
        self.key_of(statement, &decode_body(&statement.body)?, given)
    }

    fn key_of(
        &self,
        statement: &Statement,
        body: &SealedBody,
        given: &[SealedKey],
    ) -> Result<Option<ContentKey>, ReadError> {
        for key in given {
            if let Ok(Some(key)) = self.try_keys(statement, std::slice::from_ref(key)) {
                return Ok(Some(key));
            }
        }
        Ok(self.try_keys(statement, &body.recipients)?)
    }

    /// Opens the first of `keys` that is for this unit or a desk of it; `None` if none is.
    ///
    /// # Errors
    ///
    /// One that is and does not hold.
    pub fn try_keys(
        &self,
        statement: &Statement,
        keys: &[SealedKey],
    ) -> Result<Option<ContentKey>, sealed::Error> {
        let Some(sealing) = &statement.header.sealing else { return Ok(None) };
        let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
        ring.content_key(&statement.header_sha256, &sealing.key_commitment, keys)
    }

    /// Those of `keys` that this unit or a desk of it opens.
    pub fn own_keys(&self, keys: &[SealedKey]) -> Vec<SealedKey> {
        let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
        keys.iter().filter(|key| ring.holds(&key.key_id)).cloned().collect()
    }

    /// Keys of a statement that were given before, whatever is still on its way to the store.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn keys_given(&self, id: StatementId) -> Result<Vec<SealedKey>, store::Error> {
        // An empty batch waits for those before it.
        self.store.submit(Batch::new(&self.code)).await?;
        Ok(self.given(id).await?.into_iter().flat_map(|given| given.keys).collect())
    }

    /// Keys of a statement that were given later, here or by this unit, the oldest first.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn given(&self, id: StatementId) -> Result<Vec<Given>, store::Error> {
        let mut given = Vec::new();
        let mut after = None::<Vec<u8>>;
        loop {
            let prefix = id.as_bytes();
            let rows =
                self.store.scan(&self.code, Table::Grants, prefix, after.as_deref(), 1_000).await?;
            for (_, value) in &rows {
                given.push(Given::read(value)?);
            }
            match rows.last() {
                Some((key, _)) if rows.len() == 1_000 => after = Some(key.clone()),
                _ => break,
            }
        }
        given.sort_by_key(|one| one.time_unix_ms);
        Ok(given)
    }

    /// Seals the key of a kept statement for one more reader; `None` if this unit cannot read it, or
    /// it is not here.
    ///
    /// # Errors
    ///
    /// The reader's key is unusable; the store's.
    pub async fn seal_kept(
        &self,
        id: StatementId,
        (unit, desk): &Subject,
    ) -> Result<Option<SealedKey>, super::Error> {
        let Some(envelope) = self.statement(id).await? else { return Ok(None) };
        let damaged = |error: &dyn std::fmt::Display| {
            store::Error::Engine(format!("a stored statement cannot be read: {error}"))
        };
        let statement = header::decode(&envelope.payload).map_err(|error| damaged(&error))?;
        let given: Vec<_> = self.given(id).await?.into_iter().flat_map(|one| one.keys).collect();
        let key = self.content_key(&statement, &given).map_err(|error| damaged(&error))?;
        let reader = self.trust().reader(unit, desk.as_ref());
        let (Some(key), Some(reader)) = (key, reader) else { return Ok(None) };
        Ok(Some(key.seal_to(&statement.header_sha256, &reader)?))
    }

    /// Where a statement for `destination` goes on from here: down if it is below, else up if it
    /// came from below.
    ///
    /// # Errors
    ///
    /// [`Refused`] if this unit is not on the way.
    pub fn next_hop(&self, destination: &UnitCode, from_child: bool) -> Result<UnitCode, Refused> {
        let above = if from_child { self.parent() } else { None };
        self.child_above(destination).or(above).ok_or_else(|| {
            Refused::new("malformed", "header.destination", "is not on the way through this unit")
        })
    }

    /// The next unit on the way to `unit`: the child above it, or else the parent.
    pub fn hop_to(&self, unit: &UnitCode) -> Option<UnitCode> {
        self.child_above(unit).or_else(|| self.parent())
    }

    /// The direct child whose subtree holds `unit`.
    pub fn child_above(&self, unit: &UnitCode) -> Option<UnitCode> {
        let trust = self.trust();
        let mut below = unit;
        loop {
            let above = trust.parent(below)?;
            if *above == self.code {
                return Some(below.clone());
            }
            below = above;
        }
    }
}
