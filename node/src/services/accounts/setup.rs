//! How accounts begin: the first three administrators at once, everybody else by activation.
//!
//! Nobody sees another's password or secret: a person takes an account over with a one-time code,
//! sets a password, and proves that the app shows the right codes before anything is kept. Wrong
//! codes count as they do at a login: whoever guesses them waits.

use zeroize::Zeroizing;

use super::{
    Accounts, Error, by, new_secret,
    rows::{Account, Activation},
    sha256,
};
use crate::{
    clock::UnixMillis,
    domain::{
        account::AccountName,
        guessing::Guessing,
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
    /// Wrong codes so far.
    failures: u32,
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
        *setup = Some(Pending { ends_unix_ms: now + PENDING_MS, failures: 0, accounts });
        Ok(prepared)
    }

    fn prepared(&self, name: &AccountName, secret: &Secret) -> Prepared {
        let uri = Zeroizing::new(secret.to_uri(&self.parts.host, name.as_str()));
        Prepared { name: name.clone(), uri }
    }

    /// Makes the first three accounts, once each app has shown a code. After too many wrong ones the
    /// set-up is over.
    ///
    /// # Errors
    ///
    /// [`Error::SetUp`], [`Error::NoSetup`], [`Error::Code`] with the name whose code is wrong.
    pub async fn finish_setup(&self, codes: [&str; 3], uid: u32) -> Result<(), Error> {
        let mut setup = self.setup.lock().await;
        let now = self.now();
        let ready = match self.ready(setup.as_mut(), codes, now).await {
            Ok(ready) => ready,
            Err(error) => {
                let is_guessed = |pending: &Pending| pending.failures >= self.parts.rules.failures;
                if setup.as_ref().is_some_and(is_guessed) {
                    *setup = None;
                }
                let reason = error.reason().unwrap_or("set-up");
                let act = Act::refused(Actor::uid(uid), "account.setup", "", reason);
                self.record_refusal(&format!("uid:{uid}"), act).await?;
                return Err(error);
            }
        };
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

    /// The accounts of a set-up whose apps showed the right codes.
    async fn ready(
        &self,
        pending: Option<&mut Pending>,
        codes: [&str; 3],
        now: UnixMillis,
    ) -> Result<Vec<Account>, Error> {
        if self.exist().await {
            return Err(Error::SetUp);
        }
        let pending = pending.filter(|pending| now < pending.ends_unix_ms);
        let pending = pending.ok_or(Error::NoSetup)?;
        let mut ready = Vec::new();
        for ((account, secret), code) in pending.accounts.iter().zip(codes) {
            let Some(step) = secret.verify(code, now, i64::MIN) else {
                pending.failures += 1;
                return Err(Error::Code(account.name.to_string()));
            };
            let factor = Some(secret.seal(&self.parts.key, account.name.as_str()));
            ready.push(Account { factor, last_step: step, ..account.clone() });
        }
        Ok(ready)
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
        let turn = self.turn.lock().await;
        let account = self.activatable(name, code, uid).await?;
        self.parts.rules.check_password(&account.name, &password)?;
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

    /// The open account that `name` and `code` take over. One turn at a time, as at a login.
    async fn activatable(&self, name: &str, code: &str, uid: u32) -> Result<Account, Error> {
        let now = self.now();
        let account = {
            let people = self.people.read().await;
            let name = name.parse::<AccountName>().ok();
            name.and_then(|name| super::open_account(&people, &name).ok())
        };
        match account.ok_or("activation").and_then(|account| judge(account, code, now)) {
            Ok(account) => Ok(account),
            Err(reason) => {
                self.refuse_guess("account.activate", name, reason, uid).await?;
                Err(Error::Activation)
            }
        }
    }

    /// Takes an account over, once the app has shown a code.
    ///
    /// # Errors
    ///
    /// [`Error::Activation`], also after too many wrong codes; [`Error::Code`].
    pub async fn finish_activation(
        &self,
        name: &str,
        code: &str,
        one_time: &str,
        uid: u32,
    ) -> Result<(), Error> {
        let _turn = self.turn.lock().await;
        let account = self.activatable(name, code, uid).await?;
        let now = self.now();
        let mut activations = self.activations.lock().await;
        let begun = |own: &&Activating| own.code == sha256(code) && now < own.ends_unix_ms;
        let Some(pending) = activations.get(&account.name).filter(begun) else {
            self.refuse_guess("account.activate", name, "activation", uid).await?;
            return Err(Error::Activation);
        };
        let Some(step) = pending.secret.verify(one_time, now, i64::MIN) else {
            self.refuse_guess("account.activate", name, "wrong-code", uid).await?;
            return Err(Error::Code(name.to_owned()));
        };
        let factor = pending.secret.seal(&self.parts.key, account.name.as_str());
        let password = pending.password.clone();
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

/// The account, if its activation is under way and `code` is its code; else the word for what is
/// wrong.
fn judge(account: Account, code: &str, now: UnixMillis) -> Result<Account, &'static str> {
    // Without an activation there is nothing to guess, and nobody to be locked out.
    let activation = account.activation.as_ref().ok_or("activation")?;
    if account.guessing.is_locked(now) {
        return Err("locked-out");
    }
    if activation.sha256 != sha256(code) {
        return Err("wrong-activation");
    }
    if now >= activation.ends_unix_ms {
        return Err("activation-over");
    }
    Ok(account)
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
