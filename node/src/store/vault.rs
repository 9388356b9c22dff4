//! Encryption of a store at rest: what an engine puts on the disk in the place of keys and values.
//!
//! Promises that a value tells nothing without the host's keys, and opens only where it was written:
//! unit, table, key and format are bound to it. What was changed or moved is an error that names unit and
//! table, never an absent value. Each unit has a data key of its own, wrapped by the store's key,
//! which the host's keys wrap: without its file nothing of the unit opens any more.
//! Does not notice an older value of the same key, nor a missing row: that is what journals and
//! their witnesses are for. `docs/adr/0016-a-store-encrypted-at-rest.md` has the reasons.

mod cipher;
mod files;
mod rows;
mod spool;

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use aws_lc_rs::{hkdf::Prk, hmac};
use zeroize::Zeroizing;

use self::cipher::{Key, SECRET_BYTES, derive, secret};
pub(crate) use self::rows::{Batched, Form};
pub use self::spool::{SpoolReader, SpoolWriter};
use super::Error;
use crate::{domain::protection::Cipher, telemetry::Metrics};

/// Bytes of a salt. One is drawn at random for each batch of the engine and for each file: of 2^40
/// of them, two are the same with a chance of 2^-49.
const SALT_BYTES: usize = 16;

/// What the host's keys give to wrap the store's key with. `Debug` shows nothing of it.
#[derive(Clone)]
pub struct HostSecret(Arc<Zeroizing<[u8; SECRET_BYTES]>>);

impl HostSecret {
    /// Takes 32 secret bytes.
    pub fn new(bytes: Zeroizing<[u8; SECRET_BYTES]>) -> Self {
        Self(Arc::new(bytes))
    }

    fn derive(&self) -> Prk {
        secret(&self.0)
    }
}

impl fmt::Debug for HostSecret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("HostSecret")
    }
}

/// The keys of one encrypted store.
pub struct Vault {
    directory: PathBuf,
    cipher: Cipher,
    id: [u8; SALT_BYTES],
    secret: Prk,
    units: RwLock<BTreeMap<String, Arc<UnitKeys>>>,
    metrics: Metrics,
}

/// What is derived from one unit's data key.
pub(crate) struct UnitKeys {
    cipher: Cipher,
    rows: Prk,
    index: hmac::Key,
}

impl UnitKeys {
    fn of(cipher: Cipher, data_key: &[u8; SECRET_BYTES]) -> Self {
        let rows = secret(data_key);
        let mut index = Zeroizing::new([0; SECRET_BYTES]);
        derive(&rows, "lianxi index v1", &[], index.as_mut_slice());
        Self { cipher, rows, index: hmac::Key::new(hmac::HMAC_SHA256, index.as_slice()) }
    }

    fn batch_key(&self, salt: &[u8; SALT_BYTES]) -> Key {
        let key = Key::derive(self.cipher, &self.rows, "rows", salt);
        key.expect("invariant: a vault has a cipher")
    }
}

impl Vault {
    /// Makes the keys of a new store in `directory`, durably.
    ///
    /// # Errors
    ///
    /// [`Error::Engine`] if the files cannot be written, or `cipher` is none.
    pub fn create(directory: &Path, cipher: Cipher, host: &HostSecret) -> Result<(), Error> {
        let (id, store_key): ([u8; SALT_BYTES], _) = (random(), Zeroizing::new(random()));
        let wrapping = Key::derive(cipher, &host.derive(), "store key", &id)
            .ok_or_else(|| Error::Engine("no cipher was chosen for the store".to_owned()))?;
        files::create(directory, cipher, &id, &wrapping, &store_key)
    }

    /// Opens the keys in `directory`.
    ///
    /// # Errors
    ///
    /// - [`Error::WrongKey`]: they are another host's.
    /// - [`Error::Engine`]: they are damaged or gone.
    pub fn open(directory: &Path, host: &HostSecret) -> Result<Self, Error> {
        let wrapped = files::read(directory)?;
        let wrapping = Key::derive(wrapped.cipher, &host.derive(), "store key", &wrapped.id);
        let wrapping = wrapping.ok_or_else(|| files::damaged(directory))?;
        let store_key = files::unwrap(&wrapped, &wrapping).ok_or(Error::WrongKey)?;
        Ok(Self {
            directory: directory.to_owned(),
            cipher: wrapped.cipher,
            id: wrapped.id,
            secret: secret(&store_key),
            units: RwLock::default(),
            metrics: Metrics::installed(),
        })
    }

    /// With what the store is encrypted.
    pub fn cipher(&self) -> Cipher {
        self.cipher
    }

    /// The keys of a unit; `None`: it has none, so nothing of it was written.
    fn unit(&self, unit: &str) -> Result<Option<Arc<UnitKeys>>, Error> {
        let held = self.units.read().unwrap_or_else(PoisonError::into_inner).get(unit).cloned();
        if held.is_some() {
            return Ok(held);
        }
        let Some((salt, sealed)) = files::read_unit(&self.directory, unit)? else {
            return Ok(None);
        };
        let opened = self.unit_wrapping(&salt).open(0, &self.unit_context(unit), &sealed);
        let opened = opened.map(Zeroizing::new);
        let data_key = opened.and_then(|key| key.as_slice().try_into().ok().map(Zeroizing::new));
        let data_key = data_key.ok_or_else(|| Error::KeyMissing { unit: unit.to_owned() })?;
        Ok(Some(self.hold(unit, &data_key)))
    }

    /// The keys of a unit, made if there are none. Asked before the first row of a unit is written;
    /// `has_rows` says whether there are some all the same, whose key is gone then.
    fn unit_or_new(
        &self,
        unit: &str,
        has_rows: impl FnOnce() -> Result<bool, Error>,
    ) -> Result<Arc<UnitKeys>, Error> {
        if let Some(held) = self.unit(unit)? {
            return Ok(held);
        }
        if has_rows()? {
            return Err(Error::KeyMissing { unit: unit.to_owned() });
        }
        let (salt, data_key) = (random(), Zeroizing::new(random::<SECRET_BYTES>()));
        let mut sealed = Vec::with_capacity(SECRET_BYTES + cipher::TAG_BYTES);
        sealed.extend_from_slice(data_key.as_slice());
        self.unit_wrapping(&salt).seal(0, &self.unit_context(unit), &mut sealed, 0);
        files::write_unit(&self.directory, unit, &salt, &sealed)?;
        Ok(self.hold(unit, &data_key))
    }

    fn hold(&self, unit: &str, data_key: &[u8; SECRET_BYTES]) -> Arc<UnitKeys> {
        let keys = Arc::new(UnitKeys::of(self.cipher, data_key));
        let mut units = self.units.write().unwrap_or_else(PoisonError::into_inner);
        units.insert(unit.to_owned(), Arc::clone(&keys));
        keys
    }

    fn unit_wrapping(&self, salt: &[u8; SALT_BYTES]) -> Key {
        let key = Key::derive(self.cipher, &self.secret, "unit key", salt);
        key.expect("invariant: a vault has a cipher")
    }

    fn unit_context(&self, unit: &str) -> Vec<u8> {
        [&self.id[..], unit.as_bytes()].concat()
    }

    fn tampered(&self, table: String, unit: &str) -> Error {
        self.metrics.store_tampered(&table);
        tracing::error!(%unit, %table, "a stored value does not open");
        Error::Tampered { unit: unit.to_owned(), table }
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Vault").field("cipher", &self.cipher).finish_non_exhaustive()
    }
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("invariant: the operating system gives random bytes");
    bytes
}
