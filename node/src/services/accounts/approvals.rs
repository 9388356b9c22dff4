//! Acts that wait for a second person.
//!
//! Kept as the request that was made; done, once somebody else confirms, by the handler that would
//! have done it at once. What is waiting lapses by itself.

use super::{
    Accounts, Error, by,
    login::Identity,
    rows::{Approval, Second, State},
};
use crate::domain::{account::AccountName, journal::Act, role::Role};

/// Largest request that can wait: in base64 it has to fit into one stored value.
const MAX_MESSAGE_BYTES: usize = 40 * 1024;

/// Acts that wait at a time.
const MAX_WAITING: usize = 500;

/// How long what was decided or has lapsed is still listed.
const KEPT_MS: i64 = 30 * 24 * 3_600_000;

/// An act that somebody asks for.
#[derive(Clone, Debug)]
pub struct NewApproval {
    /// Who asks.
    pub asked_by: AccountName,
    /// Full path of the method.
    pub path: String,
    /// Name of the act.
    pub act: &'static str,
    /// What it is done to.
    pub subject: String,
    /// Who may confirm.
    pub second: Second,
    /// The serialised request.
    pub message: Vec<u8>,
}

/// What a confirmed act needs to be done.
#[derive(Clone, Debug)]
pub struct Decision {
    /// The act.
    pub approval: Approval,
    /// Its serialised request.
    pub message: Vec<u8>,
}

impl Accounts {
    /// Keeps an act until somebody decides. The same act asked for again is the same one.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`], [`Error::TooMany`].
    pub async fn ask(&self, new: NewApproval) -> Result<Approval, Error> {
        let now = self.now();
        let ends_unix_ms = now.saturating_add(self.parts.rules.approval_ms);
        let act = Act::done(by(&new.asked_by), "approval.ask", subject(new.act, &new.subject));
        self.change(act, |edit| {
            if new.message.len() > MAX_MESSAGE_BYTES {
                return Err(Error::TooLarge(new.message.len()));
            }
            let approvals = &edit.people.approvals;
            let waiting = || approvals.values().filter(|approval| approval.is_waiting(now));
            let same = |approval: &&Approval| {
                approval.asked_by == new.asked_by
                    && approval.path == new.path
                    && approval.message == new.message
            };
            if let Some(asked) = waiting().find(same) {
                return Ok(asked.clone());
            }
            if waiting().count() >= MAX_WAITING {
                return Err(Error::TooMany(MAX_WAITING, "acts waiting"));
            }
            let id = approvals.last_key_value().map_or(0, |(id, _)| *id) + 1;
            let old = approvals
                .values()
                .filter(|approval| now.saturating_sub(approval.ends_unix_ms) >= KEPT_MS);
            for id in old.map(|approval| approval.id).take(100).collect::<Vec<_>>() {
                edit.forget_approval(id);
            }
            let approval = Approval {
                id,
                path: new.path,
                act: new.act.to_owned(),
                subject: new.subject,
                asked_by: new.asked_by,
                asked_unix_ms: now,
                ends_unix_ms,
                second: new.second,
                decided_by: None,
                state: State::Waiting,
                message: new.message,
            };
            edit.put_approval(approval.clone());
            Ok(approval)
        })
        .await
    }

    /// Confirms or refuses an act as its second person.
    ///
    /// # Errors
    ///
    /// [`Error::NoApproval`], [`Error::SamePerson`], [`Error::NotSecond`].
    pub async fn decide(
        &self,
        id: u64,
        by_whom: &Identity,
        confirm: bool,
    ) -> Result<Decision, Error> {
        let now = self.now();
        let name = if confirm { "approval.confirm" } else { "approval.refuse" };
        let about = self.people.read().await.approvals.get(&id).map_or_else(
            || id.to_string(),
            |approval| format!("{id} {}", subject(&approval.act, &approval.subject)),
        );
        self.change(Act::done(by(&by_whom.name), name, about), |edit| {
            let approval = edit.people.approvals.get(&id);
            let approval = approval.filter(|approval| approval.is_waiting(now));
            let mut approval = approval.cloned().ok_or(Error::NoApproval(id))?;
            // Whoever asked may take the act back, but never confirm it.
            let own = approval.asked_by == by_whom.name;
            if own && confirm {
                return Err(Error::SamePerson);
            }
            if !own && !self.is_second(&approval.second, by_whom) {
                return Err(Error::NotSecond(words(&approval.second)));
            }
            approval.decided_by = Some(by_whom.name.clone());
            approval.state = if confirm { State::Confirmed } else { State::Refused };
            edit.put_approval(approval.clone());
            let message = approval.message.clone();
            Ok(Decision { approval, message })
        })
        .await
    }

    fn is_second(&self, second: &Second, identity: &Identity) -> bool {
        match second {
            Second::Administrator => {
                identity.holds(Role::SystemAdministrator)
                    || identity.holds(Role::SecurityAdministrator)
            }
            Second::Head(units) => identity.held.iter().any(|held| {
                held.grant.role == Role::Head && self.parts.units.covers(&held.grant, units)
            }),
        }
    }

    /// Keeps what became of a confirmed act.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn settle(&self, id: u64, result: Result<(), String>) -> Result<(), Error> {
        let people = self.people.read().await;
        let approval = people.approvals.get(&id).cloned().ok_or(Error::NoApproval(id))?;
        drop(people);
        let name = subject(&approval.act, &approval.subject);
        let actor = by(&approval.asked_by);
        let act = match &result {
            Ok(()) => Act::done(actor, "approval.done", name),
            Err(_) => Act::refused(actor, "approval.done", name, "failed"),
        };
        self.change(act, |edit| {
            let state = result.map_or_else(State::Failed, |()| State::Done);
            // The request is not needed any more, and may hold a token.
            edit.put_approval(Approval { state, message: Vec::new(), ..approval });
            Ok(())
        })
        .await
    }

    /// Lists what waits, or everything that is kept, the newest last: what the person asked for or
    /// can decide.
    pub async fn list_approvals(&self, identity: &Identity, all: bool) -> Vec<Approval> {
        let now = self.now();
        let people = self.people.read().await;
        let is_own = |approval: &&Approval| {
            approval.asked_by == identity.name || self.is_second(&approval.second, identity)
        };
        let shown = people.approvals.values().filter(is_own);
        let shown = shown.filter(|approval| all || approval.is_waiting(now));
        shown.cloned().collect()
    }
}

fn subject(act: &str, subject: &str) -> String {
    if subject.is_empty() { act.to_owned() } else { format!("{act} {subject}") }
}

fn words(second: &Second) -> String {
    match second {
        Second::Administrator => "a system or security administrator".to_owned(),
        Second::Head(units) => {
            let units: Vec<&str> =
                units.iter().map(crate::domain::unit::UnitCode::as_str).collect();
            format!("the head of {}", units.join(", "))
        }
    }
}
