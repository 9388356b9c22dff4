//! The lock on the keys of a host: opened before it runs, put on, taken off and changed while it
//! does not.
//!
//! Promises that nothing is changed under a running node, and that each change is in the journal.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Error, at_rest, host, setup};
use crate::{
    clock::{Clock as _, SystemClock},
    config::HostConfig,
    domain::{
        journal::{Act, Leaf},
        unit::UnitCode,
    },
    identity::keys::{self, Cost, Lock, Method, Secret},
    services::{enrolments::Identity, error::ErrorKind},
    store::{Batch, Store},
};

/// Opens the keys of a host that is to run. `ask` is called for what opens them, if anything is
/// needed.
///
/// # Errors
///
/// [`Error::Protection`] if they are not protected as the configuration asks, [`Error::Keys`], or
/// what `ask` gives.
pub fn open_lock<E: From<Error>>(
    config: &HostConfig,
    ask: impl FnOnce(Method) -> Result<Secret, E>,
) -> Result<Lock, E> {
    let keys = config.keys_dir();
    let found = Lock::method(&keys).map_err(Error::Keys)?;
    let wanted = config.keys.protect;
    if wanted != Method::None && wanted != found {
        return Err(Error::Protection { wanted, found }.into());
    }
    if found == Method::None {
        return Ok(Lock::none());
    }
    let secret = ask(found)?;
    Ok(Lock::open(&keys, &secret).map_err(Error::Keys)?)
}

/// Seals the keys of the stopped host in `config_file`'s directory. Gives the files that were
/// changed; with `dry_run`, those that would be.
///
/// # Errors
///
/// [`Error::Store`] while the host runs, [`Error::Keys`].
pub async fn protect_keys(
    config_file: &Path,
    secret: &Secret,
    dry_run: bool,
) -> Result<Vec<PathBuf>, Error> {
    let stopped = Stopped::open(config_file, Some(secret))?;
    let changed = keys::protect(&stopped.config.keys_dir(), secret, Cost::default(), dry_run);
    stopped.done("keys.protect", changed, dry_run).await
}

/// Writes the keys of a stopped host in clear again. Gives the files as [`protect_keys`].
///
/// # Errors
///
/// As [`protect_keys`].
pub async fn unprotect_keys(
    config_file: &Path,
    secret: &Secret,
    dry_run: bool,
) -> Result<Vec<PathBuf>, Error> {
    let stopped = Stopped::open(config_file, Some(secret))?;
    if stopped.store.vault().is_some() {
        let refused = Err(keys::Error::StoreSealed(stopped.config.keys_dir()));
        return stopped.done("keys.unprotect", refused, dry_run).await;
    }
    let changed = keys::unprotect(&stopped.config.keys_dir(), secret, dry_run);
    stopped.done("keys.unprotect", changed, dry_run).await
}

/// Lets `new` open the keys of a stopped host in the place of `old`.
///
/// # Errors
///
/// As [`protect_keys`].
pub async fn change_secret(
    config_file: &Path,
    old: &Secret,
    new: &Secret,
    dry_run: bool,
) -> Result<(), Error> {
    let stopped = Stopped::open(config_file, Some(old))?;
    let keys = stopped.config.keys_dir();
    let changed = keys::change_secret(&keys, old, new, Cost::default(), dry_run);
    stopped.done("keys.change-secret", changed, dry_run).await
}

/// A host that does not run: its store is open here, and so nowhere else.
pub(super) struct Stopped {
    pub(super) config: HostConfig,
    pub(super) store: Arc<dyn Store>,
}

impl Stopped {
    /// Opens the host's store, if it is encrypted with what `secret` opens.
    pub(super) fn open(config_file: &Path, secret: Option<&Secret>) -> Result<Self, Error> {
        let config = HostConfig::load(config_file)?;
        let lock = match secret.filter(|_| at_rest::is_encrypted(&config)) {
            Some(secret) => Lock::open(&config.keys_dir(), secret).map_err(Error::Keys)?,
            None => Lock::none(),
        };
        Self::open_with(config, &lock)
    }

    /// Opens the host's store, if it is encrypted with what `lock` opens.
    pub(super) fn open_with(config: HostConfig, lock: &Lock) -> Result<Self, Error> {
        let store = host::open_store(&config, lock)?;
        Ok(Self { config, store })
    }

    /// Journals what became of it, at the host's head unit, and closes the store.
    pub(super) async fn done<T>(
        self,
        name: &'static str,
        result: Result<T, keys::Error>,
        dry_run: bool,
    ) -> Result<T, Error> {
        let actor = setup::whoever_runs_this();
        let act = match &result {
            Ok(_) if dry_run => None,
            Ok(_) => Some(Act::done(actor, name, "keys")),
            Err(error) => Some(Act::refused(actor, name, "keys", word(error))),
        };
        if let (Some(act), Some(unit)) = (act, self.head().await?) {
            let mut batch = Batch::new(&unit);
            batch.journal(SystemClock.now_unix_ms(), &Leaf::Act(act));
            self.store.submit(batch).await?;
        }
        self.store.close().await?;
        result.map_err(Error::Keys)
    }

    /// The unit at the highest level, the first by code.
    pub(super) async fn head(&self) -> Result<Option<UnitCode>, Error> {
        let mut found = Vec::new();
        for unit in self.store.units().await? {
            let identity = Identity::load(self.store.as_ref(), &unit).await;
            if let Ok(Some(identity)) = identity {
                found.push((identity.level, unit));
            }
        }
        Ok(found.into_iter().min().map(|(_, unit)| unit))
    }
}

/// Reason word of a refused attempt.
pub(super) fn word(error: &keys::Error) -> &'static str {
    match error {
        keys::Error::WrongSecret(_) | keys::Error::Sealed(_) => "wrong-secret",
        keys::Error::WeakSecret(_) => "weak-secret",
        keys::Error::OtherMethod { .. } => "other-method",
        keys::Error::StoreSealed(_) => "store-encrypted",
        keys::Error::Missing(_) | keys::Error::Exists(_) => "precondition",
        keys::Error::Mode { .. }
        | keys::Error::Owner { .. }
        | keys::Error::Damaged { .. }
        | keys::Error::File { .. }
        | keys::Error::Generate(_)
        | keys::Error::Certificate(_) => "failed",
    }
}

/// How a caller has to react.
pub(super) fn kind(error: &keys::Error) -> ErrorKind {
    match error {
        keys::Error::WrongSecret(_) => ErrorKind::PermissionDenied,
        keys::Error::WeakSecret(_) => ErrorKind::InvalidArgument,
        keys::Error::Sealed(_)
        | keys::Error::OtherMethod { .. }
        | keys::Error::StoreSealed(_)
        | keys::Error::Missing(_)
        | keys::Error::Exists(_)
        | keys::Error::Mode { .. }
        | keys::Error::Owner { .. } => ErrorKind::FailedPrecondition,
        keys::Error::Damaged { .. }
        | keys::Error::File { .. }
        | keys::Error::Generate(_)
        | keys::Error::Certificate(_) => ErrorKind::Internal,
    }
}
