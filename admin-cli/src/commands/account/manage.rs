//! What administrators and heads do with accounts.

use anyhow::Context as _;
use lianxi_node::clock::{Clock as _, SystemClock};
use lianxi_proto::admin::v1::{
    AddAccountRequest, CloseAccountRequest, DelegateRequest, GrantRequest, ListAccountsRequest,
    LockRequest, RecallRequest, ResetFactorRequest, WithdrawRequest,
};
use serde_json::{Value, json};

use super::{Context, RoleAt, view};
use crate::{texts::Text, values, values::Moment};

/// Arguments of `lianxi account list`.
#[derive(Debug, clap::Args)]
pub(crate) struct List {}

impl List {
    pub(super) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        list(context, 0).await
    }
}

/// Arguments of `lianxi account dormant`.
#[derive(Debug, clap::Args)]
pub(crate) struct Dormant {
    /// Days without a login
    #[arg(long, default_value_t = 90)]
    days: u32,
}

impl Dormant {
    pub(super) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        list(context, i64::from(self.days) * 86_400_000).await
    }
}

async fn list(context: &Context<'_>, dormant_for_ms: i64) -> anyhow::Result<()> {
    let client = context.client().await?;
    let answer = client.accounts().list(ListAccountsRequest { dormant_for_ms }).await;
    let accounts = answer.context("cannot list the accounts")?.into_inner().accounts;
    let output = context.output();
    if output.is_json() {
        let accounts: Vec<Value> = accounts.iter().map(view::account_json).collect();
        return Ok(output.document(&json!({ "accounts": accounts }))?);
    }
    Ok(output.table(&view::account_table(output, &accounts), Text::NoAccounts)?)
}

/// Arguments of `lianxi account add`.
#[derive(Debug, clap::Args)]
pub(crate) struct Add {
    /// Name of the account, never given again to another person
    name: String,
    /// What people call the person
    #[arg(long)]
    title: String,
    /// Role and its unit, e.g. operator@310101001; an administrator's without a unit
    #[arg(long, value_name = "ROLE@UNIT")]
    role: Vec<RoleAt>,
}

impl Add {
    pub(super) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let client = context.client().await?;
        let roles = self.role.into_iter().map(|role| role.0).collect();
        let request = AddAccountRequest { name: self.name, title: self.title, roles };
        let answer = client.accounts().add(request).await.context("cannot add the account")?;
        view::activation(context.output(), &answer.into_inner())
    }
}

/// Arguments of `lianxi account grant`.
#[derive(Debug, clap::Args)]
pub(crate) struct Grant {
    /// Name of the account
    name: String,
    /// Role and its unit, e.g. operator@310101001; an administrator's without a unit
    #[arg(value_name = "ROLE@UNIT")]
    role: RoleAt,
}

impl Grant {
    pub(super) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let client = context.client().await?;
        let shown = view::grant(&self.role.0);
        let request = GrantRequest { name: self.name.clone(), grant: Some(self.role.0) };
        client.accounts().grant(request).await.context("cannot grant the role")?;
        view::done(context.output(), &self.name, Text::RoleGranted, &[&self.name, &shown])
    }
}

/// Arguments of `lianxi account withdraw`.
#[derive(Debug, clap::Args)]
pub(crate) struct Withdraw {
    /// Name of the account
    name: String,
    /// Role and its unit, e.g. operator@310101001; an administrator's without a unit
    #[arg(value_name = "ROLE@UNIT")]
    role: RoleAt,
}

impl Withdraw {
    pub(super) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let client = context.client().await?;
        let shown = view::grant(&self.role.0);
        let request = WithdrawRequest { name: self.name.clone(), grant: Some(self.role.0) };
        client.accounts().withdraw(request).await.context("cannot take the role back")?;
        view::done(context.output(), &self.name, Text::RoleWithdrawn, &[&self.name, &shown])
    }
}

/// Arguments of `lianxi account lock`.
#[derive(Debug, clap::Args)]
pub(crate) struct Lock {
    /// Name of the account
    name: String,
}

impl Lock {
    pub(super) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let client = context.client().await?;
        let request = LockRequest { name: self.name.clone(), unlock: false };
        client.accounts().lock(request).await.context("cannot lock the account")?;
        view::done(context.output(), &self.name, Text::AccountLocked, &[&self.name])
    }
}

/// Arguments of `lianxi account unlock`.
#[derive(Debug, clap::Args)]
pub(crate) struct Unlock {
    /// Name of the account
    name: String,
}

impl Unlock {
    pub(super) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let client = context.client().await?;
        let request = LockRequest { name: self.name.clone(), unlock: true };
        client.accounts().lock(request).await.context("cannot unlock the account")?;
        view::done(context.output(), &self.name, Text::AccountUnlocked, &[&self.name])
    }
}

/// Arguments of `lianxi account reset-factor`.
#[derive(Debug, clap::Args)]
pub(crate) struct ResetFactor {
    /// Name of the account
    name: String,
}

impl ResetFactor {
    pub(super) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let client = context.client().await?;
        let request = ResetFactorRequest { name: self.name };
        let answer = client.accounts().reset_factor(request).await;
        let made = answer.context("cannot reset the second factor")?.into_inner();
        view::activation(context.output(), &made)
    }
}

/// Arguments of `lianxi account close`.
#[derive(Debug, clap::Args)]
pub(crate) struct Close {
    /// Name of the account
    name: String,
    /// Account that takes the open items over
    #[arg(long, value_name = "NAME")]
    successor: String,
    /// Show what would be handed over, change nothing
    #[arg(long)]
    dry_run: bool,
}

impl Close {
    pub(super) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let client = context.client().await?;
        let (name, successor, dry_run) = (self.name, self.successor, self.dry_run);
        let request = CloseAccountRequest { name, successor: successor.clone(), dry_run };
        let answer = client.accounts().close(request).await.context("cannot close the account")?;
        view::handed_over(context.output(), &successor, &answer.into_inner(), dry_run)
    }
}

/// Arguments of `lianxi account delegate`.
#[derive(Debug, clap::Args)]
pub(crate) struct Delegate {
    /// Account that stands in
    #[arg(long, value_name = "NAME")]
    to: String,
    /// When it begins [default: at once]
    #[arg(long, value_name = "TIME")]
    from: Option<Moment>,
    /// When it ends, e.g. 2026-01-31 (its end) or 7d
    #[arg(long, value_name = "TIME")]
    until: Moment,
}

impl Delegate {
    pub(super) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let client = context.client().await?;
        let from_unix_ms = self.from.map_or_else(|| SystemClock.now_unix_ms(), Moment::unix_ms);
        let until_unix_ms = self.until.unix_ms();
        let request = DelegateRequest { to: self.to.clone(), from_unix_ms, until_unix_ms };
        client.accounts().delegate(request).await.context("cannot delegate")?;
        let (from, until) = (values::time(from_unix_ms), values::time(until_unix_ms));
        view::done(context.output(), &self.to, Text::Delegated, &[&self.to, &from, &until])
    }
}

/// Arguments of `lianxi account recall`.
#[derive(Debug, clap::Args)]
pub(crate) struct Recall {}

impl Recall {
    pub(super) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let client = context.client().await?;
        let answer = client.accounts().recall(RecallRequest {}).await;
        let ended = answer.context("cannot end the delegations")?.into_inner().ended;
        let output = context.output();
        if output.is_json() {
            return Ok(output.document(&json!({ "ended": ended }))?);
        }
        output.note(output.fill(Text::Recalled, &[&ended]));
        Ok(())
    }
}
