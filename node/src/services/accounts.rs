//! The people of a host: accounts, sessions, tokens of systems, and acts that wait for a second
//! person.
//!
//! They belong to the host and not to one of its units: their rows lie in the host's own space, so
//! that they stay whichever unit comes or goes. Promises that an act is in the journal of the
//! host's head unit before it takes effect, that every refusal is there too, and that nothing is
//! told of an account to whoever cannot log in to it. While no account exists, nothing here
//! refuses anybody.

mod approvals;
mod error;
mod login;
mod people;
mod rows;
mod setup;
mod tokens;

use std::{collections::BTreeMap, sync::Arc};

use sha2::{Digest as _, Sha256};
use tokio::sync::{Mutex, RwLock};

use self::rows::{Edit, People};
pub use self::{
    approvals::{Decision, NewApproval},
    error::Error,
    login::{Denied, Held, Identity, LoggedIn},
    people::{HandedOver, Listed},
    rows::{Account, ApiToken, Approval, Closed, Second, State},
    setup::{FirstAdministrator, Prepared},
    tokens::NewToken,
};
use super::host::Units;
use crate::{
    clock::{Clock, UnixMillis},
    domain::{
        account::{AccountName, Rules},
        journal::{Act, Actor, Leaf},
        role::Role,
        unit::UnitCode,
    },
    identity::{factor::Secret, keys::PeopleKey},
    store::{self, MAX_BATCH_OPERATIONS, Store},
};

/// What the people of a host are kept with.
#[derive(Clone)]
pub struct Parts {
    /// The host's store.
    pub store: Arc<dyn Store>,
    /// The host's clock.
    pub clock: Arc<dyn Clock>,
    /// The hosted units.
    pub units: Arc<Units>,
    /// The host's own space in the store.
    pub space: UnitCode,
    /// Name of the host, for the labels of authenticator apps.
    pub host: String,
    /// What the host asks of people.
    pub rules: Rules,
    /// Seals second factors.
    pub key: Arc<PeopleKey>,
}

/// The people of one host.
pub struct Accounts {
    parts: Parts,
    people: RwLock<People>,
    /// One login at a time: guesses cannot race past the lock-out, and one hash is in memory.
    turn: Mutex<()>,
    setup: Mutex<Option<setup::Pending>>,
    activations: Mutex<BTreeMap<AccountName, setup::Activating>>,
}

impl std::fmt::Debug for Accounts {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Accounts")
    }
}

impl Accounts {
    /// Reads the people of the host, and seals what an earlier version kept in clear.
    ///
    /// # Errors
    ///
    /// [`Error::Factor`] if the key is not the one that second factors were sealed with; the store's.
    pub async fn open(parts: Parts) -> Result<Arc<Self>, Error> {
        let load = People::load(parts.store.as_ref(), &parts.space, &parts.key);
        let (people, old) = load.await?;
        for some in old.chunks(MAX_BATCH_OPERATIONS) {
            let mut edit = Edit::new(&people, &parts.space);
            some.iter().for_each(|account| edit.put_account(account.clone()));
            parts.store.submit(edit.into_parts().1).await?;
        }
        Ok(Arc::new(Self {
            parts,
            people: RwLock::new(people),
            turn: Mutex::default(),
            setup: Mutex::default(),
            activations: Mutex::default(),
        }))
    }

    /// True if the host's `space` holds second factors that are sealed, so that their key has to be
    /// there.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn hold_factors(store: &dyn Store, space: &UnitCode) -> Result<bool, store::Error> {
        rows::any_sealed(store, space).await
    }

    fn factor(&self, account: &Account) -> Option<Secret> {
        account.secret(&self.parts.key)
    }

    /// True once the first administrators exist: roles hold from then on.
    pub async fn exist(&self) -> bool {
        !self.people.read().await.accounts.is_empty()
    }

    /// The hosted units.
    pub fn units(&self) -> &Units {
        &self.parts.units
    }

    fn now(&self) -> UnixMillis {
        self.parts.clock.now_unix_ms()
    }

    /// Puts a refused attempt into the journal of the host's head unit, within bounds for each
    /// `source`.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn record_refusal(&self, source: &str, act: Act) -> Result<(), store::Error> {
        tracing::info!(actor = %act.actor, act = act.name, outcome = ?act.outcome, "act");
        match self.parts.units.head() {
            Some(head) => head.unit.record_refusal(source, act).await,
            None => Ok(()),
        }
    }

    /// Puts an act into the journal of the host's head unit.
    ///
    /// # Errors
    ///
    /// The store's: what cannot be journalled is not to be done.
    pub async fn record(&self, act: Act) -> Result<(), store::Error> {
        tracing::info!(actor = %act.actor, act = act.name, outcome = ?act.outcome, "act");
        match self.parts.units.head() {
            Some(head) => head.unit.record(act).await,
            None => Ok(()),
        }
    }

    /// Makes a change, journalled as `act` in the same commit; a refusal is journalled too.
    async fn change<T>(
        &self,
        act: Act,
        edit: impl FnOnce(&mut Edit) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut people = self.people.write().await;
        let mut draft = Edit::new(&people, &self.parts.space);
        let value = match edit(&mut draft) {
            Ok(value) => value,
            Err(error) => {
                if let Some(reason) = error.reason() {
                    self.record(Act::refused(act.actor, act.name, act.subject, reason)).await?;
                }
                return Err(error);
            }
        };
        self.commit(&mut people, draft, Some(act)).await?;
        Ok(value)
    }

    /// Makes a change and journals `act`, both or neither.
    async fn commit(
        &self,
        people: &mut People,
        draft: Edit,
        act: Option<Act>,
    ) -> Result<(), store::Error> {
        let (next, mut batch) = draft.into_parts();
        if let Some((act, head)) = act.zip(self.parts.units.head()) {
            tracing::info!(actor = %act.actor, act = act.name, outcome = ?act.outcome, "act");
            batch.journal_in(&head.unit.code);
            batch.journal(self.now(), &Leaf::Act(act));
        }
        self.parts.store.submit(batch).await?;
        *people = next;
        Ok(())
    }
}

/// An act of an account, for the journal.
pub(crate) fn by(name: &AccountName) -> Actor {
    Actor::account(name.as_str())
}

fn sha256(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

/// An account that can be used: it is not closed.
fn open_account(people: &People, name: &AccountName) -> Result<Account, Error> {
    let account = people.accounts.get(name).filter(|account| account.closed.is_none());
    account.cloned().ok_or_else(|| Error::NotFound(name.clone()))
}

/// Refuses what would leave the host without one of its three administrators.
fn keep_administrators(people: &People) -> Result<(), Error> {
    let three = Role::ALL.into_iter().filter(|role| role.is_administrator());
    for role in three {
        let holds = |account: &Account| {
            account.closed.is_none()
                && !account.locked
                && account.grants.iter().any(|grant| grant.role == role)
        };
        if !people.accounts.values().any(holds) {
            return Err(Error::Last(role));
        }
    }
    Ok(())
}

/// A secret that is shown once: `prefix` and 256 random bits.
fn new_secret(prefix: &str) -> Result<String, Error> {
    use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
    let mut bytes = zeroize::Zeroizing::new([0; 32]);
    getrandom::fill(bytes.as_mut_slice()).map_err(|error| Error::Random(error.to_string()))?;
    Ok(format!("{prefix}{}", BASE64_URL_SAFE_NO_PAD.encode(bytes.as_slice())))
}
