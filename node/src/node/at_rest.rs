//! The store of a host at rest: what opens it, and its rewriting, encrypted or in clear, while the
//! host is stopped.
//!
//! Promises that a host whose configuration asks for an encrypted store does not start on another,
//! and that a rewriting is in the journal of the head unit exactly if it was done.

use std::{fs, io, path::PathBuf};

use super::{Error, open_lock, protection::Stopped, setup};
use crate::{
    clock::{Clock as _, SystemClock},
    config::HostConfig,
    domain::{
        journal::{Act, Leaf},
        protection::{Cipher, Method},
    },
    identity::keys::{Lock, Secret},
    services::{error::ErrorKind, host::OperationError},
    store::{
        Batch,
        sled::{Options, SledStore, Stage, count, rewrite},
        vault::HostSecret,
    },
};

/// What the host's keys give for the store.
const PURPOSE: &str = "the store";

/// What became of a store, or would.
#[derive(Clone, Debug)]
pub struct StoreRewritten {
    /// With what it was encrypted.
    pub before: Cipher,
    /// With what it is.
    pub after: Cipher,
    /// Entries of all units.
    pub entries: u64,
    /// Bytes of its files before.
    pub store_bytes: u64,
    /// Bytes free beside them.
    pub free_bytes: u64,
}

/// Directory of the store.
pub(super) fn directory(config: &HostConfig) -> PathBuf {
    config.data_dir().join("store")
}

/// Settings of the store, which `lock` opens if it is encrypted.
pub(super) fn options(config: &HostConfig, lock: &Lock) -> Options {
    Options {
        cache_bytes: config.cache_bytes(),
        reserve_bytes: config.reserve_bytes(),
        secret: lock.derived(PURPOSE).map(HostSecret::new),
        // For a store that is not there yet; what another one is encrypted with, it says itself.
        cipher: config.store.encrypt,
        ..Options::default()
    }
}

/// True if there is a store and it is encrypted. What cannot be read is told by its opening.
pub(super) fn is_encrypted(config: &HostConfig) -> bool {
    matches!(SledStore::cipher_of(&directory(config)), Ok(Some(Cipher::Aes256Gcm | Cipher::Sm4Gcm)))
}

/// Refuses a store that is not encrypted as the configuration asks.
pub(super) fn check(config: &HostConfig) -> Result<(), Error> {
    let wanted = config.store.encrypt;
    let found = SledStore::cipher_of(&directory(config))?.unwrap_or_default();
    if wanted == Cipher::None || wanted == found {
        return Ok(());
    }
    Err(Error::StoreProtection { wanted, found })
}

/// What opens the store of a stopped host: nothing if it is not encrypted, else the host's keys,
/// for which `ask` is called.
///
/// # Errors
///
/// [`Error::Config`], [`Error::Keys`], or what `ask` gives.
pub fn lock_of_store<E: From<Error>>(
    config_file: &std::path::Path,
    ask: impl FnOnce(Method) -> Result<Secret, E>,
) -> Result<Lock, E> {
    let config = HostConfig::load(config_file).map_err(Error::Config)?;
    if is_encrypted(&config) { open_lock(&config, ask) } else { Ok(Lock::none()) }
}

/// Rewrites the store of the stopped host in `config_file`'s directory, encrypted with `cipher`
/// under new keys. With `dry_run`, reads all of it and says what would be done.
///
/// # Errors
///
/// [`Error::Store`] while the host runs or if a value does not open, [`Error::Keys`] if `secret` does
/// not open the host's keys, [`Error::Operation`] if the store is as it was asked for already, if
/// the host's keys are not sealed, or if an import is not finished.
pub async fn rewrite_store(
    config_file: &std::path::Path,
    secret: Option<&Secret>,
    (act, cipher): (&'static str, Option<Cipher>),
    dry_run: bool,
    progress: &mut (dyn FnMut(Stage) + Send),
) -> Result<StoreRewritten, Error> {
    let config = HostConfig::load(config_file)?;
    let store = directory(&config);
    let before = SledStore::cipher_of(&store)?;
    let before = before.ok_or_else(|| refused("the host has no store yet"))?;
    let lock = match secret {
        None => Lock::none(),
        Some(secret) => match Lock::open(&config.keys_dir(), secret) {
            Ok(lock) => lock,
            Err(error) if before == Cipher::None => {
                let stopped = Stopped::open_with(config, &Lock::none())?;
                return stopped.done(act, Err(error), dry_run).await;
            }
            Err(error) => return Err(Error::Keys(error)),
        },
    };
    let after = wanted(&config, before, cipher, &lock)?;
    no_import_waits(&config)?;
    let stopped = Stopped::open_with(config, &lock)?;
    let (head, usage) = (stopped.head().await?, stopped.store.usage()?);
    stopped.store.close().await?;
    let Stopped { config, .. } = stopped;
    let options = options(&config, &lock);
    let entries = if dry_run {
        count(&store, &options).await?
    } else {
        let leaf = head.map(|unit| {
            let mut batch = Batch::new(&unit);
            let done = Act::done(setup::whoever_runs_this(), act, after.name());
            batch.journal(SystemClock.now_unix_ms(), &Leaf::Act(done));
            batch
        });
        rewrite(&store, &options, after, leaf, progress).await?.entries
    };
    let (store_bytes, free_bytes) = (usage.store_bytes, usage.free_bytes);
    Ok(StoreRewritten { before, after, entries, store_bytes, free_bytes })
}

/// What the store is to be encrypted with; `cipher` is none for new keys of the same.
fn wanted(
    config: &HostConfig,
    before: Cipher,
    cipher: Option<Cipher>,
    lock: &Lock,
) -> Result<Cipher, Error> {
    let after = cipher.unwrap_or(before);
    if after == Cipher::None && before == Cipher::None {
        return Err(refused("the store is not encrypted; `lianxi store encrypt` does that"));
    }
    if after == Cipher::None && config.store.encrypt != Cipher::None {
        return Err(refused("[store] encrypt in node.toml asks for encryption; change it first"));
    }
    if cipher.is_some() && after != Cipher::None && after == before {
        let text = format!(
            "the store is encrypted with {before} already; `lianxi store rotate-key` gives it new keys"
        );
        return Err(refused(&text));
    }
    if after != Cipher::None && !lock.seals() {
        return Err(refused(
            "the host's keys are in clear, and the store's would lie beside them; run `lianxi node protect-keys` first",
        ));
    }
    Ok(after)
}

/// Spooled files are encrypted with the store's keys, or in clear beside a store in clear.
fn no_import_waits(config: &HostConfig) -> Result<(), Error> {
    let path = config.data_dir().join("imports");
    let waits = match fs::read_dir(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(source) => return Err(Error::File { action: "read", path, source }),
        Ok(mut entries) => entries.next().is_some(),
    };
    if waits {
        return Err(refused(
            "an import is not finished; start the host, wait until it is, stop it and give the command again",
        ));
    }
    Ok(())
}

fn refused(text: &str) -> Error {
    let kind = ErrorKind::FailedPrecondition;
    OperationError { kind, text: text.to_owned() }.into()
}
