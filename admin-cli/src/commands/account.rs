//! `lianxi account`, `login`, `logout`, `whoami`: the people of a host.

mod begin;
mod manage;
mod token;
pub(super) mod view;

use anyhow::Context as _;
use clap::Subcommand;
use lianxi_proto::admin::v1::{LoginRequest, LogoutRequest, RoleGrant, WhoamiRequest};
use serde_json::json;

use super::Context;
use crate::{prompt, session, texts::Text, values};

/// What to do with accounts.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Make the first three: system, security and audit administrator
    Setup(begin::Setup),
    /// Take an account over with its activation code
    Activate(begin::Activate),
    /// Change a password
    Password(begin::Password),
    /// List accounts
    List(manage::List),
    /// List accounts that nobody has logged in to for long
    Dormant(manage::Dormant),
    /// Make an account; a second administrator confirms
    Add(manage::Add),
    /// Grant a role; a second administrator confirms
    Grant(manage::Grant),
    /// Take a role back; a second administrator confirms
    Withdraw(manage::Withdraw),
    /// Lock an account at once and end its sessions
    Lock(manage::Lock),
    /// Unlock an account, after wrong passwords too
    Unlock(manage::Unlock),
    /// Give an account back after a lost second factor; a second administrator confirms
    ResetFactor(manage::ResetFactor),
    /// Close an account and hand its open items over; a second administrator confirms
    Close(manage::Close),
    /// Name who stands in for you, the head, while you are away
    Delegate(manage::Delegate),
    /// End your delegations
    Recall(manage::Recall),
    /// Tokens with which systems call the node
    #[command(subcommand)]
    Token(token::Verb),
}

impl Verb {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        match self {
            Self::Setup(setup) => setup.run(context).await,
            Self::Activate(activate) => activate.run(context).await,
            Self::Password(password) => password.run(context).await,
            Self::List(list) => list.run(context).await,
            Self::Dormant(dormant) => dormant.run(context).await,
            Self::Add(add) => add.run(context).await,
            Self::Grant(grant) => grant.run(context).await,
            Self::Withdraw(withdraw) => withdraw.run(context).await,
            Self::Lock(lock) => lock.run(context).await,
            Self::Unlock(unlock) => unlock.run(context).await,
            Self::ResetFactor(reset) => reset.run(context).await,
            Self::Close(close) => close.run(context).await,
            Self::Delegate(delegate) => delegate.run(context).await,
            Self::Recall(recall) => recall.run(context).await,
            Self::Token(verb) => verb.run(context).await,
        }
    }
}

/// A role on the command line: `operator@310101001` of a unit, `audit-administrator` of the host.
#[derive(Clone, Debug)]
pub(crate) struct RoleAt(RoleGrant);

impl std::str::FromStr for RoleAt {
    type Err = lianxi_node::domain::role::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (role, unit) = text.split_once('@').unwrap_or((text, ""));
        role.parse::<lianxi_node::domain::role::Role>()?;
        Ok(Self(RoleGrant { role: role.to_owned(), unit: unit.to_owned() }))
    }
}

/// Arguments of `lianxi login`.
#[derive(Debug, clap::Args)]
pub(crate) struct Login {
    /// Name of the account; asked for if it is left out
    name: Option<String>,
}

impl Login {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let output = context.output();
        let name = match self.name {
            Some(name) => name,
            None => prompt::ask(output, Text::AskName, &[])?,
        };
        let password = prompt::secret(output, Text::AskPassword, &[&name])?.to_string();
        let code = prompt::ask(output, Text::AskCode, &[&name])?;
        let client = context.anonymous().await?;
        let request = LoginRequest { name: name.clone(), password, code };
        let answer = client.accounts().login(request).await.context("cannot log in")?;
        let logged_in = answer.into_inner();
        session::keep(&context.socket(), &logged_in.token)?;
        if output.is_json() {
            let ends = logged_in.ends_unix_ms;
            return Ok(output.document(&json!({ "name": name, "ends_unix_ms": ends }))?);
        }
        output.note(output.fill(Text::LoggedIn, &[&name, &values::time(logged_in.ends_unix_ms)]));
        Ok(())
    }
}

/// Arguments of `lianxi logout`.
#[derive(Debug, clap::Args)]
pub(crate) struct Logout {}

impl Logout {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let client = context.client().await?;
        let ended = client.accounts().logout(LogoutRequest {}).await;
        // A session that is over already needs no more than to be forgotten.
        session::forget(&context.socket())?;
        ended.context("cannot end the session")?;
        let output = context.output();
        if output.is_json() {
            return Ok(output.document(&json!({ "logged_out": true }))?);
        }
        output.note(output.text(Text::LoggedOut));
        Ok(())
    }
}

/// Arguments of `lianxi whoami`.
#[derive(Debug, clap::Args)]
pub(crate) struct Whoami {}

impl Whoami {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let client = context.client().await?;
        let answer = client.accounts().whoami(WhoamiRequest {}).await;
        let me = answer.context("cannot ask who is calling")?.into_inner();
        let output = context.output();
        if output.is_json() {
            return Ok(output.document(&view::whoami_json(&me))?);
        }
        if !me.accounts_exist {
            output.note(output.text(Text::NoAccountsYet));
        }
        let name = if me.name.is_empty() { format!("uid {}", me.uid) } else { me.name.clone() };
        let roles: Vec<String> = me.roles.iter().map(|held| view::held(output, held)).collect();
        Ok(output.facts([(Text::Account, name), (Text::Roles, roles.join(", "))])?)
    }
}
