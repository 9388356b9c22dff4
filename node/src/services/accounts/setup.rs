//! How accounts begin: the first three administrators at once, everybody else by activation.
//!
//! Nobody sees another's password or secret: a person takes an account over with a one-time code,
//! sets a password, and proves that the app shows the right codes before anything is kept.

use zeroize::Zeroizing;

use super::{
    Accounts, Error, by, new_secret,
    rows::{Account, Activation},
    sha256,
};
use crate::{
    clock::UnixMillis,
    domain::{
        account::{AccountName, Guessing},
        journal::{Act, Actor},
        role::{Grant, Role},
    },
    identity::{factor::Secret, password},
};

/// How long a set-up or an activation may take between its two steps.
const PENDING_MS: i64 = 15 * 60_000;

/// How long an activation code can be used.
const ACTIVATION_MS: i64 = 72 * 3_600_000;

/// Activations under way at a time: each is held in memory.
const MAX_PENDING: usize = 64;

/// What activation codes begin with.
const ACTIVATION_PREFIX: &str = "lxa_";

/// One of the first three.
#[derive(Debug)]
pub struct FirstAdministrator {
    /// Name of the account.
    pub name: AccountName,
    /// What people call the person.
    pub title: String,
    /// The password that the person chose.
    pub password: Zeroizing<String>,
}

/// What an app needs; shown once.
#[derive(Debug)]
pub struct Prepared {
    /// Whose.
    pub name: AccountName,
    /// Secret of the second factor as an `otpauth` URI.
    pub uri: Zeroizing<String>,
}

/// A set-up between its two steps.
pub(super) struct Pending {
    ends_unix_ms: UnixMillis,
    accounts: Vec<(Account, Secret)>,
}

/// An activation between its two steps.
pub(super) struct Activating {
    ends_unix_ms: UnixMillis,
    code: [u8; 32],
    password: String,
    secret: Secret,
}

impl Accounts {
    /// Begins the first three accounts: system, security and audit administrator.
    ///
    /// # Errors
    ///
    /// [`Error::SetUp`], [`Error::ThreePeople`], a password that does not hold.
    pub async fn begin_setup(
        &self,
        people: [FirstAdministrator; 3],
        uid: u32,
    ) -> Result<Vec<Prepared>, Error> {
        let mut setup = self.setup.lock().await;
        if self.exist().await {
            let act = Act::refused(Actor::uid(uid), "account.setup", "", "set-up");
            self.record(act).await?;
            return Err(Error::SetUp);
        }
        let [one, two, three] = &people;
        if one.name == two.name || one.name == three.name || two.name == three.name {
            return Err(Error::ThreePeople);
        }
        let roles =
            [Role::SystemAdministrator, Role::SecurityAdministrator, Role::AuditAdministrator];
        let now = self.now();
        let (mut accounts, mut prepared) = (Vec::new(), Vec::new());
        for (person, role) in people.into_iter().zip(roles) {
            self.parts.rules.check_password(&person.name, &person.password)?;
            let mut account = new_account(person.name, person.title, now);
            account.grants.insert(Grant::new(role, None)?);
            account.password = Some(hash(person.password).await?);
            account.password_changed_unix_ms = now;
            let secret = new_factor()?;
            prepared.push(self.prepared(&account.name, &secret));
            accounts.push((account, secret));
        }
        *setup = Some(Pending { ends_unix_ms: now + PENDING_MS, accounts });
        Ok(prepared)
    }

    fn prepared(&self, name: &AccountName, secret: &Secret) -> Prepared {
        let uri = Zeroizing::new(secret.to_uri(&self.parts.host, name.as_str()));
        Prepared { name: name.clone(), uri }
    }

    /// Makes the first three accounts, once each app has shown a code.
    ///
    /// # Errors
    ///
    /// [`Error::NoSetup`], [`Error::Code`] with the name whose code is wrong.
    pub async fn finish_setup(&self, codes: [&str; 3], uid: u32) -> Result<(), Error> {
        let mut setup = self.setup.lock().await;
        let now = self.now();
        if self.exist().await {
            return Err(Error::SetUp);
        }
        let pending = setup.as_ref().filter(|pending| now < pending.ends_unix_ms);
        let pending = pending.ok_or(Error::NoSetup)?;
        let mut ready = Vec::new();
        for ((account, secret), code) in pending.accounts.iter().zip(codes) {
            let step = secret.verify(code, now, i64::MIN);
            let step = step.ok_or_else(|| Error::Code(account.name.to_string()))?;
            let factor = Some(secret.to_hex());
            ready.push(Account { factor, last_step: step, ..account.clone() });
        }
        let names: Vec<&str> = ready.iter().map(|account| account.name.as_str()).collect();
        let act = Act::done(Actor::uid(uid), "account.setup", names.join(" "));
        self.change(act, |edit| {
            for account in ready {
                edit.put_account(account);
            }
            Ok(())
        })
        .await?;
        *setup = None;
        Ok(())
    }

    /// A new activation code of an account, and the row that accepts it.
    pub(super) fn new_activation(&self) -> Result<(Zeroizing<String>, Activation), Error> {
        let code = Zeroizing::new(new_secret(ACTIVATION_PREFIX)?);
        let ends_unix_ms = self.now() + ACTIVATION_MS;
        let activation = Activation { sha256: sha256(&code), ends_unix_ms };
        Ok((code, activation))
    }

    /// Begins to take an account over.
    ///
    /// # Errors
    ///
    /// [`Error::Activation`] whatever is wrong with name or code; a password that does not hold.
    pub async fn begin_activation(
        &self,
        name: &str,
        code: &str,
        password: Zeroizing<String>,
        uid: u32,
    ) -> Result<Prepared, Error> {
        let account = self.activatable(name, code, uid).await?;
        self.parts.rules.check_password(&account.name, &password)?;
        let turn = self.turn.lock().await;
        let password = hash(password).await?;
        drop(turn);
        let (now, secret) = (self.now(), new_factor()?);
        let prepared = self.prepared(&account.name, &secret);
        let mut activations = self.activations.lock().await;
        activations.retain(|_, pending| now < pending.ends_unix_ms);
        if activations.len() >= MAX_PENDING {
            return Err(Error::TooMany(MAX_PENDING, "activations under way"));
        }
        let ends_unix_ms = now + PENDING_MS;
        let pending = Activating { ends_unix_ms, code: sha256(code), password, secret };
        activations.insert(account.name, pending);
        Ok(prepared)
    }

    async fn activatable(&self, name: &str, code: &str, uid: u32) -> Result<Account, Error> {
        let now = self.now();
        let account = {
            let people = self.people.read().await;
            let name = name.parse::<AccountName>().ok();
            name.and_then(|name| super::open_account(&people, &name).ok())
        };
        let fits = |account: &Account| {
            let activation = account.activation.as_ref();
            activation.is_some_and(|own| own.sha256 == sha256(code) && now < own.ends_unix_ms)
        };
        match account.filter(fits) {
            Some(account) => Ok(account),
            None => {
                let act = Act::refused(Actor::uid(uid), "account.activate", name, "activation");
                self.record(act).await?;
                Err(Error::Activation)
            }
        }
    }

    /// Takes an account over, once the app has shown a code.
    ///
    /// # Errors
    ///
    /// [`Error::Activation`], [`Error::Code`].
    pub async fn finish_activation(
        &self,
        name: &str,
        code: &str,
        one_time: &str,
        uid: u32,
    ) -> Result<(), Error> {
        let account = self.activatable(name, code, uid).await?;
        let now = self.now();
        let mut activations = self.activations.lock().await;
        let pending = activations.get(&account.name);
        let begun = |own: &&Activating| own.code == sha256(code) && now < own.ends_unix_ms;
        let pending = pending.filter(begun).ok_or(Error::Activation)?;
        let step = pending.secret.verify(one_time, now, i64::MIN);
        let step = step.ok_or_else(|| Error::Code(name.to_owned()))?;
        let (password, factor) = (pending.password.clone(), pending.secret.to_hex());
        let act = Act::done(by(&account.name), "account.activate", name);
        self.change(act, |edit| {
            let mut account = super::open_account(&edit.people, &account.name)?;
            account.password = Some(password);
            account.password_changed_unix_ms = now;
            account.factor = Some(factor);
            account.last_step = step;
            account.guessing = Guessing::default();
            account.activation = None;
            edit.end_sessions_of(&account.name);
            edit.put_account(account);
            Ok(())
        })
        .await?;
        activations.remove(&account.name);
        Ok(())
    }

    /// Changes a password, with the old one and a code.
    ///
    /// # Errors
    ///
    /// [`Error::Login`] whatever was wrong; a new password that does not hold.
    pub async fn change_password(
        &self,
        name: &str,
        old: Zeroizing<String>,
        code: &str,
        new: Zeroizing<String>,
        uid: u32,
    ) -> Result<(), Error> {
        let account = self.verify("account.password", name, old, code, uid).await?;
        self.parts.rules.check_password(&account.name, &new)?;
        let turn = self.turn.lock().await;
        let password = hash(new).await?;
        drop(turn);
        let now = self.now();
        self.change(Act::done(by(&account.name), "account.password", name), |edit| {
            let mut account = super::open_account(&edit.people, &account.name)?;
            account.password = Some(password);
            account.password_changed_unix_ms = now;
            edit.end_sessions_of(&account.name);
            edit.put_account(account);
            Ok(())
        })
        .await
    }
}

/// An account that nobody can log in to yet.
pub(super) fn new_account(name: AccountName, title: String, now: UnixMillis) -> Account {
    Account {
        name,
        title,
        grants: std::collections::BTreeSet::new(),
        deputies: Vec::new(),
        created_unix_ms: now,
        last_login_unix_ms: 0,
        locked: false,
        closed: None,
        password: None,
        password_changed_unix_ms: 0,
        factor: None,
        last_step: 0,
        guessing: Guessing::default(),
        activation: None,
    }
}

fn new_factor() -> Result<Secret, Error> {
    Secret::generate().map_err(|error| Error::Random(error.to_string()))
}

async fn hash(password: Zeroizing<String>) -> Result<String, Error> {
    let hashed = tokio::task::spawn_blocking(move || password::hash(&password)).await;
    Ok(hashed.map_err(|error| Error::Random(error.to_string()))??)
}
