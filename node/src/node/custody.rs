//! The root key of a host that does not run: split into shares, asked to sign, put back to use
//! elsewhere, and taken from the host.
//!
//! Promises that the key leaves the host only as shares, that it is removed only once shares gave it
//! back, and that each step and each refused one is in the journal.

use std::path::{Path, PathBuf};

use lianxi_proto::envelope::VerifyingKey;

use super::{
    Error, open_lock,
    protection::{Stopped, word},
};
use crate::{
    clock::{Clock as _, SystemClock, UnixMillis},
    config::HostConfig,
    domain::{
        delegation::Delegation,
        journal::{Act, Leaf},
        protection::Method,
        unit::UnitCode,
    },
    identity::{
        custody::{Request, Signed},
        keys::{self, Lock, RootKey, Secret},
        shares::{self, Share},
        trust::Trust,
    },
    services::{
        enrolments::{Identity, put_delegation, replacing},
        error::ErrorKind,
        host::OperationError,
        roots,
        rotations::{self, Rotation},
    },
    store::Batch,
};

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// What is known of the root of a host.
#[derive(Clone, Debug)]
pub struct RootFacts {
    /// The unit at the top.
    pub unit: UnitCode,
    /// Trust domain.
    pub trust_domain: String,
    /// Suite of the root key.
    pub suite: String,
    /// Id of the root key.
    pub key_id: String,
    /// The root's own delegation ends.
    pub delegation_ends_unix_ms: UnixMillis,
    /// True if the private key lies on this host.
    pub on_disk: bool,
}

/// Says what is known of the root.
///
/// # Errors
///
/// The host runs, or is no root's.
pub async fn root_facts(config_file: &Path, lock: &Lock) -> Result<RootFacts, Error> {
    let root = Root::open(config_file, lock).await?;
    let key = root.trust.root_key();
    let suite = crate::statement::delegation::suite_from_proto(key.suite().into());
    let facts = RootFacts {
        unit: root.unit.clone(),
        trust_domain: root.trust.trust_domain().to_owned(),
        suite: suite.map(|suite| suite.to_string()).unwrap_or_default(),
        key_id: key.key_id().to_owned(),
        delegation_ends_unix_ms: root.own()?.not_after_unix_ms,
        on_disk: RootKey::path(&root.keys()).exists(),
    };
    root.stopped.store.close().await?;
    Ok(facts)
}

/// Splits the root key of the host. Nothing is removed.
///
/// # Errors
///
/// The host runs, is no root's, its keys do not open, or the numbers make no sense.
pub async fn split_root<E: From<Error>>(
    config_file: &Path,
    (threshold, count): (u8, u8),
    ask: impl FnOnce(Method) -> Result<Secret, E>,
) -> Result<Vec<Share>, E> {
    let config = HostConfig::load(config_file).map_err(Error::Config)?;
    let lock = open_lock(&config, ask)?;
    let root = Root::open(config_file, &lock).await?;
    let place = keys::Place::new(root.keys(), lock);
    let split = RootKey::load(place).map_err(|error| (word(&error), refused(&error)));
    let split = split.and_then(|RootKey(key)| {
        let made = shares::split(&key, root.trust.trust_domain(), threshold, count);
        made.map_err(|error| ("numbers", refused(&error)))
    });
    Ok(root.done("root.split", split).await?)
}

/// The root key that is to follow.
#[derive(Clone, Debug)]
pub struct Following {
    /// Its public half, with its trust domain.
    pub key: VerifyingKey,
    /// Since when somebody else may have had the one before; 0: it is replaced in peace.
    pub compromised_since_unix_ms: UnixMillis,
}

/// Asks for the root's own delegation anew, good for `days` from now. If keys of the unit are being
/// changed, it names the new ones, and the former ones while they are to hold.
///
/// With `following` it asks the root key for its last one, which names that key as the next. Once that
/// is installed and the children hold it, it asks the next root key for its first one.
///
/// # Errors
///
/// The host runs, is no root's, or children have yet to hold the grant that names the next root key.
pub async fn request_root(
    config_file: &Path,
    lock: &Lock,
    days: u32,
    following: Option<Following>,
) -> Result<Request, Error> {
    let root = Root::open(config_file, lock).await?;
    let (own, now) = (root.own()?, SystemClock.now_unix_ms());
    if following.is_some() || root.trust.names_successor().is_some() {
        let asked = root.succession(following, now).await;
        return root.done("root.rotate", asked).await;
    }
    let next = own.serial.saturating_add(1).max(u64::try_from(now).unwrap_or_default());
    // The beginning stays: what was granted under it before is judged by the newest one, too.
    let rotation = Rotation::load(root.stopped.store.as_ref(), &root.unit).await?;
    let own = rotation.map_or_else(
        || own.clone(),
        |rotation| {
            let overlap = root.stopped.config.keys.overlap.as_millis();
            let overlap_ms = i64::try_from(overlap).unwrap_or(i64::MAX);
            let with_former = rotation.names_former_at(now, overlap_ms);
            replacing(&own, &rotation.request(&own, with_former), now)
        },
    );
    let delegation = Delegation {
        not_after_unix_ms: now.saturating_add(i64::from(days).saturating_mul(DAY_MS)),
        serial: next,
        ..own
    };
    let request = Request::new(delegation).map_err(|error| ("request", refused(&error)));
    root.done("root.request", request).await
}

/// Takes in what the root key signed; all nodes learn it from this host. Gives what was granted.
///
/// # Errors
///
/// The host runs or is no root's, or the delegation does not hold.
pub async fn install_root(
    config_file: &Path,
    lock: &Lock,
    signed: &Signed,
    dry_run: bool,
) -> Result<Delegation, Error> {
    let root = Root::open(config_file, lock).await?;
    let now = SystemClock.now_unix_ms();
    let checked = root.trust.check(&signed.0, Some(now));
    let checked = checked.map_err(|error| (error.reason(), refused(&error)));
    if let (Ok(checked), false) = (&checked, dry_run)
        && checked.is_new()
    {
        let mut batch = Batch::new(&root.unit);
        put_delegation(&mut batch, checked.known(), now);
        root.stopped.store.submit(batch).await?;
    }
    let granted = checked.map(|checked| checked.known().delegation.clone());
    if dry_run && granted.is_ok() {
        root.stopped.store.close().await?;
        return granted.map_err(|(_, error)| error);
    }
    root.done("root.install", granted).await
}

/// Takes the root key from the host, once the shares gave it back. Gives its file.
///
/// # Errors
///
/// The host runs or is no root's, the shares do not give its root key, or it is not there.
pub async fn remove_root(
    config_file: &Path,
    lock: &Lock,
    given: Vec<Share>,
    dry_run: bool,
) -> Result<PathBuf, Error> {
    let root = Root::open(config_file, lock).await?;
    let path = RootKey::path(&root.keys());
    let proven = shares::prove(given).map_err(|error| ("shares", refused(&error)));
    let removed = proven.and_then(|key| {
        if key.key_id() != root.trust.root_key().key_id() {
            let text = "the shares give another root key than this host's; give those of this one";
            return Err(("other-key", precondition(text)));
        }
        if dry_run && path.exists() {
            return Ok(path);
        }
        RootKey::remove(&root.keys()).map_err(|error| (word(&error), refused(&error)))
    });
    if dry_run && removed.is_ok() {
        root.stopped.store.close().await?;
        return removed.map_err(|(_, error)| error);
    }
    root.done("root.remove", removed).await
}

/// A stopped host that serves the root of its tree.
struct Root {
    stopped: Stopped,
    unit: UnitCode,
    trust: Trust,
}

impl Root {
    /// `lock` opens the store, if it is encrypted.
    async fn open(config_file: &Path, lock: &Lock) -> Result<Self, Error> {
        let stopped = Stopped::open_with(HostConfig::load(config_file)?, lock)?;
        for unit in stopped.store.units().await? {
            let identity = Identity::load(stopped.store.as_ref(), &unit).await;
            let identity = identity.map_err(|error| refused(&error))?;
            let Some(identity) = identity.filter(|identity| identity.parent.is_none()) else {
                continue;
            };
            let trust = identity.load_trust(stopped.store.as_ref()).await;
            return Ok(Self { unit, trust: trust.map_err(|error| refused(&error))?, stopped });
        }
        stopped.store.close().await?;
        Err(precondition(
            "no unit of this host is the root of its tree; go to the host of the root",
        ))
    }

    /// What is asked of a root key that is replaced, or of the one that follows.
    async fn succession(
        &self,
        following: Option<Following>,
        now: UnixMillis,
    ) -> Result<Request, (&'static str, Error)> {
        let store = self.stopped.store.as_ref();
        let rotation = Rotation::load(store, &self.unit).await;
        if rotation.map_err(|error| ("store", refused(&error)))?.is_some() {
            let text =
                "keys of the unit are being changed; let that end first, see `lianxi node status`";
            return Err(("under-way", precondition(text)));
        }
        let asked = match following {
            Some(next) => {
                let since = next.compromised_since_unix_ms;
                roots::last_grant(&self.trust, &next.key, since, now)
            }
            None => {
                let missing = rotations::missing_at(store, &self.trust, &self.unit).await;
                let missing = missing.map_err(|error| ("store", refused(&error)))?;
                if !missing.is_empty() {
                    let missing: Vec<_> = missing.iter().map(ToString::to_string).collect();
                    let text = format!(
                        "{} have yet to hold the grant that names the next root key: start the host, and wait until `lianxi node status` misses nobody, or let them go",
                        missing.join(", ")
                    );
                    return Err(("missing", precondition(&text)));
                }
                roots::first_grant(&self.trust, now)
            }
        };
        let asked = asked.map_err(|error| ("order", refused(&error)))?;
        Request::new(asked).map_err(|error| ("request", refused(&error)))
    }

    fn keys(&self) -> PathBuf {
        self.stopped.config.keys_dir().join(self.unit.as_str())
    }

    fn own(&self) -> Result<Delegation, Error> {
        let known = self.trust.delegation(&self.unit, None);
        let known = known.ok_or_else(|| precondition("the root has no delegation of its own"))?;
        Ok(known.delegation.clone())
    }

    /// Journals what became of it, and closes the store.
    async fn done<T>(
        self,
        name: &'static str,
        result: Result<T, (&'static str, Error)>,
    ) -> Result<T, Error> {
        let (actor, subject) = (super::setup::whoever_runs_this(), self.unit.as_str());
        let act = match &result {
            Ok(_) => Act::done(actor, name, subject),
            Err((reason, _)) => Act::refused(actor, name, subject, reason),
        };
        let mut batch = Batch::new(&self.unit);
        batch.journal(SystemClock.now_unix_ms(), &Leaf::Act(act));
        self.stopped.store.submit(batch).await?;
        self.stopped.store.close().await?;
        result.map_err(|(_, error)| error)
    }
}

fn refused(error: &dyn std::error::Error) -> Error {
    precondition(&crate::grpc::status::chain(error))
}

fn precondition(text: &str) -> Error {
    let kind = ErrorKind::FailedPrecondition;
    OperationError { kind, text: text.to_owned() }.into()
}
