//! What administrators and heads do with accounts: add, grant, lock, close, delegate.

use std::collections::BTreeSet;

use zeroize::Zeroizing;

use super::{
    Accounts, Error, by, keep_administrators, open_account,
    rows::{Account, Closed, Edit, State},
    setup::new_account,
};
use crate::{
    clock::UnixMillis,
    domain::{
        account::{self, AccountName, Deputy},
        guessing::Guessing,
        journal::Act,
        role::{Grant, Role, check_together},
    },
};

/// Accounts of one host, the closed ones counted.
const MAX_ACCOUNTS: usize = 2_000;

/// Deputies of one head, past and coming.
const MAX_DEPUTIES: usize = 32;

/// An account as administrators see it.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The account.
    pub account: Account,
    /// True if a person has taken it over.
    pub active: bool,
    /// Until when guessing keeps it locked; 0: it does not.
    pub locked_until_unix_ms: UnixMillis,
    /// Tokens of systems.
    pub tokens: usize,
}

/// What a closed account left to its successor.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct HandedOver {
    /// Acts that wait for a second person: the successor asks for them.
    pub approvals: usize,
    /// Tokens of systems that ended.
    pub tokens: usize,
    /// Heads who have the successor as their deputy.
    pub deputies: usize,
    /// Sessions that ended.
    pub sessions: usize,
}

impl Accounts {
    /// Makes an account; its person takes it over with the code that is returned, shown once.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`], roles that do not go together.
    pub async fn add(
        &self,
        actor: &AccountName,
        name: AccountName,
        title: String,
        grants: BTreeSet<Grant>,
    ) -> Result<Zeroizing<String>, Error> {
        let (code, activation) = self.new_activation()?;
        let now = self.now();
        let act = Act::done(by(actor), "account.add", with_grants(&name, &grants));
        self.change(act, |edit| {
            if edit.people.accounts.contains_key(&name) {
                return Err(Error::Exists(name));
            }
            if edit.people.accounts.len() >= MAX_ACCOUNTS {
                return Err(Error::TooMany(MAX_ACCOUNTS, "accounts"));
            }
            check_together(&grants)?;
            let mut account = new_account(name, title, now);
            account.grants = grants;
            account.activation = Some(activation);
            edit.put_account(account);
            Ok(code)
        })
        .await
    }

    /// Grants a role.
    ///
    /// # Errors
    ///
    /// [`Error::Oneself`], roles that do not go together.
    pub async fn grant(
        &self,
        actor: &AccountName,
        name: &AccountName,
        grant: Grant,
    ) -> Result<(), Error> {
        let act = Act::done(by(actor), "account.grant", format!("{name}: {grant}"));
        self.change(act, |edit| {
            if actor == name {
                return Err(Error::Oneself);
            }
            let mut account = open_account(&edit.people, name)?;
            account.grants.insert(grant);
            check_together(&account.grants)?;
            edit.put_account(account);
            Ok(())
        })
        .await
    }

    /// Takes a role back, from the account's tokens too.
    ///
    /// # Errors
    ///
    /// [`Error::NotHeld`], [`Error::Last`].
    pub async fn withdraw(
        &self,
        actor: &AccountName,
        name: &AccountName,
        grant: Grant,
    ) -> Result<(), Error> {
        let act = Act::done(by(actor), "account.withdraw", format!("{name}: {grant}"));
        self.change(act, |edit| {
            let mut account = open_account(&edit.people, name)?;
            if !account.grants.remove(&grant) {
                return Err(Error::NotHeld { name: name.clone(), grant: grant.to_string() });
            }
            if grant.role == Role::Head && !account.grants.iter().any(|one| one.role == Role::Head)
            {
                account.deputies.clear();
            }
            edit.put_account(account);
            keep_administrators(&edit.people)
        })
        .await
    }

    /// Locks an account at once and ends its sessions, or unlocks it, guessing too.
    ///
    /// # Errors
    ///
    /// [`Error::Oneself`], [`Error::Last`].
    pub async fn lock(
        &self,
        actor: &AccountName,
        name: &AccountName,
        locked: bool,
    ) -> Result<(), Error> {
        let act_name = if locked { "account.lock" } else { "account.unlock" };
        self.change(Act::done(by(actor), act_name, name.as_str()), |edit| {
            if actor == name {
                return Err(Error::Oneself);
            }
            let mut account = open_account(&edit.people, name)?;
            account.locked = locked;
            if locked {
                edit.end_sessions_of(name);
            } else {
                account.guessing = Guessing::default();
            }
            edit.put_account(account);
            keep_administrators(&edit.people)
        })
        .await
    }

    /// Gives an account back to a person who lost the password or the second factor: returns a
    /// code with which the person takes it over again. Nothing old works from then on.
    ///
    /// # Errors
    ///
    /// [`Error::Oneself`], [`Error::NotFound`].
    pub async fn reset_factor(
        &self,
        actor: &AccountName,
        name: &AccountName,
    ) -> Result<Zeroizing<String>, Error> {
        let (code, activation) = self.new_activation()?;
        self.change(Act::done(by(actor), "account.reset-factor", name.as_str()), |edit| {
            let mut account = open_account(&edit.people, name)?;
            account.password = None;
            account.factor = None;
            account.guessing = Guessing::default();
            account.activation = Some(activation);
            edit.end_sessions_of(name);
            edit.put_account(account);
            Ok(code)
        })
        .await
    }

    /// Closes an account for good; its open items go to `successor`.
    ///
    /// # Errors
    ///
    /// [`Error::Successor`], [`Error::Last`], [`Error::Oneself`].
    pub async fn close(
        &self,
        actor: &AccountName,
        name: &AccountName,
        successor: &AccountName,
        dry_run: bool,
    ) -> Result<HandedOver, Error> {
        let now = self.now();
        let closing = |edit: &mut Edit| {
            if actor == name {
                return Err(Error::Oneself);
            }
            let account = open_account(&edit.people, name)?;
            let next = open_account(&edit.people, successor);
            if name == successor || next.is_err() {
                return Err(Error::Successor(successor.clone()));
            }
            let handed_over = hand_over(edit, name, &next?, now);
            let closed = Some(Closed { at_unix_ms: now, successor: successor.clone() });
            let empty = new_account(account.name, account.title, account.created_unix_ms);
            let last_login_unix_ms = account.last_login_unix_ms;
            edit.put_account(Account { closed, last_login_unix_ms, ..empty });
            keep_administrators(&edit.people)?;
            Ok(handed_over)
        };
        if dry_run {
            let people = self.people.read().await;
            return closing(&mut Edit::new(&people, &self.parts.space));
        }
        let act = Act::done(by(actor), "account.close", format!("{name}, then {successor}"));
        self.change(act, closing).await
    }

    /// Names who stands in for a head who is away.
    ///
    /// # Errors
    ///
    /// A deputy who audits or is the head, moments that do not hold.
    pub async fn delegate(
        &self,
        head: &AccountName,
        to: AccountName,
        from: UnixMillis,
        until: UnixMillis,
    ) -> Result<(), Error> {
        let act = Act::done(by(head), "account.delegate", to.as_str());
        self.change(act, |edit| {
            let mut account = open_account(&edit.people, head)?;
            let deputy = open_account(&edit.people, &to)?;
            if account.name == to {
                return Err(Error::Oneself);
            }
            let audits = |grant: &Grant| grant.role == Role::AuditAdministrator;
            if deputy.grants.iter().any(audits) {
                return Err(crate::domain::role::Error::AuditorActs(Role::Head).into());
            }
            if !account.grants.iter().any(|grant| grant.role == Role::Head) {
                return Err(account::Error::NotHead(Role::Head).into());
            }
            let now = self.now();
            account.deputies.retain(|deputy| now < deputy.until_unix_ms);
            if account.deputies.len() >= MAX_DEPUTIES {
                return Err(Error::TooMany(MAX_DEPUTIES, "deputies"));
            }
            account.deputies.push(Deputy::new(to, from, until)?);
            edit.put_account(account);
            Ok(())
        })
        .await
    }

    /// Ends the delegations of a head who is back.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn recall(&self, head: &AccountName) -> Result<usize, Error> {
        self.change(Act::done(by(head), "account.recall", head.as_str()), |edit| {
            let mut account = open_account(&edit.people, head)?;
            let ended = account.deputies.len();
            account.deputies.clear();
            edit.put_account(account);
            Ok(ended)
        })
        .await
    }

    /// Lists accounts in the order of their names: all, or those that nobody has logged in to for
    /// so long.
    pub async fn list(&self, dormant_ms: Option<i64>) -> Vec<Listed> {
        let now = self.now();
        let people = self.people.read().await;
        let is_dormant = |account: &&Account| {
            let seen = account.last_login_unix_ms.max(account.created_unix_ms);
            dormant_ms
                .is_none_or(|limit| account.closed.is_none() && now.saturating_sub(seen) >= limit)
        };
        let listed = |account: &Account| {
            let locked_until = account.guessing.locked_until_unix_ms;
            let own = people.tokens.values().filter(|token| token.account == account.name);
            Listed {
                active: account.password.is_some(),
                locked_until_unix_ms: if now < locked_until { locked_until } else { 0 },
                tokens: own.count(),
                account: account.clone(),
            }
        };
        people.accounts.values().filter(is_dormant).map(listed).collect()
    }
}

/// Gives what is open of `name` to `next`.
fn hand_over(edit: &mut Edit, name: &AccountName, next: &Account, now: UnixMillis) -> HandedOver {
    let mut counts = HandedOver::default();
    let asked = edit.people.approvals.values().filter(|approval| {
        approval.asked_by == *name && approval.state == State::Waiting && approval.is_waiting(now)
    });
    for mut approval in asked.cloned().collect::<Vec<_>>() {
        approval.asked_by = next.name.clone();
        edit.put_approval(approval);
        counts.approvals += 1;
    }
    let tokens = edit.people.tokens.values().filter(|token| token.account == *name);
    for id in tokens.map(|token| token.id).collect::<Vec<_>>() {
        edit.end_token(id);
        counts.tokens += 1;
    }
    let audits = next.grants.iter().any(|grant| grant.role == Role::AuditAdministrator);
    let heads = edit.people.accounts.values();
    let heads = heads.filter(|head| head.deputies.iter().any(|deputy| deputy.to == *name));
    for mut head in heads.cloned().collect::<Vec<_>>() {
        let can = !audits && head.name != next.name;
        for deputy in head.deputies.iter_mut().filter(|deputy| can && deputy.to == *name) {
            deputy.to = next.name.clone();
        }
        head.deputies.retain(|deputy| deputy.to != *name);
        counts.deputies += usize::from(can);
        edit.put_account(head);
    }
    let sessions = edit.people.sessions.values().filter(|session| session.account == *name);
    counts.sessions = sessions.count();
    edit.end_sessions_of(name);
    counts
}

fn with_grants(name: &AccountName, grants: &BTreeSet<Grant>) -> String {
    let grants: Vec<String> = grants.iter().map(ToString::to_string).collect();
    format!("{name}: {}", grants.join(", "))
}
