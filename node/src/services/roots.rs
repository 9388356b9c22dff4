//! What a root key signs last and what the next one signs first: for a root whose key is replaced, and
//! for a root that comes under another one.
//!
//! Promises that the last grant names what the root key signed before, so that whoever learns of it
//! later believes that and nothing else. Signs nothing and stores nothing but the last grant that was
//! shown to somebody and is not believed here yet.

use lianxi_proto::envelope::VerifyingKey;
use prost::Message as _;

use crate::{
    clock::UnixMillis,
    domain::{
        delegation::{Delegation, FormerRoot, KeyChange, NextRoot},
        unit::UnitCode,
    },
    identity::trust::{Trust, root_name},
    statement::{Envelope, delegation::MAX_SEEN},
    store::{self, Batch, Store, Table},
};

/// Key of the row in [`Table::Successions`]. Value: version, envelope.
const KEY: &[u8] = b"last";

const FORMAT: u8 = 1;

/// Why nothing can be signed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// No delegation of the root.
    #[error("the root has no delegation of its own; restore a backup")]
    NoRoot,
    /// The root key has named its successor already.
    #[error(
        "the root key has named its successor already; have the next root key sign, or wait until it has"
    )]
    Named,
    /// The root key has not named a successor.
    #[error("the root key has named no successor; name one first with `lianxi root rotate`")]
    NotNamed,
    /// A key that signs nothing here.
    #[error("the next root key is of a suite that this program does not sign in")]
    Suite,
}

fn next_serial(last: u64, now: UnixMillis) -> u64 {
    u64::try_from(now).unwrap_or_default().max(last.saturating_add(1))
}

/// The last grant of the root's key: it names `next`, and everything that the key signed before.
/// `compromised_since`: from then on somebody else may have had the key; 0: never.
///
/// # Errors
///
/// [`Error`].
pub fn last_grant(
    trust: &Trust,
    next: &VerifyingKey,
    compromised_since: UnixMillis,
    now: UnixMillis,
) -> Result<Delegation, Error> {
    if trust.names_successor().is_some() {
        return Err(Error::Named);
    }
    let unit = trust.root().ok_or(Error::NoRoot)?;
    let history = trust.grants_of(unit, None);
    let own = &history.last().ok_or(Error::NoRoot)?.delegation;
    let key = root_name(next).ok_or(Error::Suite)?;
    let genuine = history.iter().rev().filter(|known| {
        compromised_since == 0 || known.delegation.serial < unsigned(compromised_since)
    });
    let mut seen: Vec<[u8; 32]> = genuine.map(|known| known.payload_sha256).collect();
    seen.extend(own.change.seen_sha256.iter().copied());
    seen.truncate(MAX_SEEN);
    let since = own.change.since_unix_ms;
    Ok(Delegation {
        serial: next_serial(own.serial, now),
        change: KeyChange {
            since_unix_ms: if compromised_since == 0 { since } else { compromised_since },
            seen_sha256: seen,
            next_root: Some(NextRoot { key, compromised_since_unix_ms: compromised_since }),
            ..own.change.clone()
        },
        ..own.clone()
    })
}

fn unsigned(time: UnixMillis) -> u64 {
    u64::try_from(time).unwrap_or_default()
}

/// The first grant of the next root key: that of before, with the name of the former root key.
///
/// # Errors
///
/// [`Error`].
pub fn first_grant(trust: &Trust, now: UnixMillis) -> Result<Delegation, Error> {
    let last = trust.names_successor().ok_or(Error::NotNamed)?;
    let own = &last.delegation;
    let key = root_name(trust.root_key()).ok_or(Error::Suite)?;
    Ok(Delegation {
        serial: next_serial(own.serial, now),
        change: KeyChange {
            next_root: None,
            former_root: Some(FormerRoot { key, last_sha256: last.payload_sha256 }),
            ..own.change.clone()
        },
        ..own.clone()
    })
}

/// The last grant that was shown to somebody and is not believed here yet.
///
/// # Errors
///
/// The store's.
pub async fn shown(store: &dyn Store, unit: &UnitCode) -> Result<Option<Envelope>, store::Error> {
    match store.get(unit, Table::Successions, KEY).await?.as_deref() {
        None => Ok(None),
        Some([FORMAT, envelope @ ..]) => Envelope::decode(envelope)
            .map(Some)
            .map_err(|_| store::Error::Engine("a stored last grant is damaged".into())),
        Some([found, ..]) => {
            Err(store::Error::Format { found: (*found).into(), known: FORMAT.into() })
        }
        Some([]) => Err(store::Error::Engine("a stored last grant is empty".into())),
    }
}

/// Keeps a last grant before it is shown: whoever accepted it names its digest.
///
/// # Errors
///
/// The store's.
pub async fn keep_shown(
    store: &dyn Store,
    unit: &UnitCode,
    last: &Envelope,
) -> Result<(), store::Error> {
    let mut value = vec![FORMAT];
    value.extend_from_slice(&last.encode_to_vec());
    let mut batch = Batch::new(unit);
    batch.put(Table::Successions, KEY, value);
    store.submit(batch).await
}
