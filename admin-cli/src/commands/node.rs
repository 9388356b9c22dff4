//! `lianxi node`: set up, join, run and watch the node of a host.

mod offline;
mod view;

use std::{io::Read, net::SocketAddr};

use anyhow::Context as _;
use clap::Subcommand;
use lianxi_node::domain::unit::{Level, UnitCode};
use lianxi_proto::admin::v1::{
    InviteRequest, InviteResponse, JoinRequest, JoinResponse, UnitsRequest,
};
use serde_json::{Value, json};

pub(crate) use self::offline::Run;
use super::{Context, status};
use crate::{
    arguments::block_on, client::Client, failure::Failure, texts::Text, values, values::Span, words,
};

/// Clock skew that the operator is warned of.
const SKEW_WARNING_MS: i64 = 5 * 60 * 1_000;

/// What to do with the node.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Make a host with the root of a new tree
    Init(offline::Init),
    /// Make a token that brings a child in
    Invite(Invite),
    /// Join under the parent that a token names
    Join(Join),
    /// Serve the units of the host until stopped
    Run(Run),
    /// Show the host and its units
    Status(Status),
    /// Show the units that a unit knows
    Units(Units),
}

/// Arguments of `lianxi node invite`.
#[derive(Debug, clap::Args)]
pub(crate) struct Invite {
    /// Code of the child
    child: UnitCode,
    /// Level of the child: city, district, street or community
    #[arg(long)]
    level: Level,
    /// What people call the child
    #[arg(long)]
    title: String,
    /// Parent, a unit of this host [default: the one that the host is for]
    #[arg(long)]
    unit: Option<UnitCode>,
    /// How long the token can be used, e.g. 72h
    #[arg(long, value_name = "TIME", default_value = "72h")]
    valid_for: Span,
}

/// Arguments of `lianxi node join`.
///
/// With a node running in the directory the unit joins there, beside the others; else the
/// directory becomes a new host.
#[derive(Debug, clap::Args)]
pub(crate) struct Join {
    /// The token, or `-` to read it from standard input
    token: String,
    /// Address for the unit's own children, if a new host is made
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Address that children dial, if it is not the one of --listen; can be given more than once
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Vec<String>,
    /// Check the token and the parent, keep nothing; needs a running node
    #[arg(long)]
    dry_run: bool,
}

/// Arguments of `lianxi node status`.
#[derive(Debug, clap::Args)]
pub(crate) struct Status {}

/// Arguments of `lianxi node units`.
#[derive(Debug, clap::Args)]
pub(crate) struct Units {
    /// Unit whose knowledge is shown [default: the one that the host is for]
    #[arg(long)]
    unit: Option<UnitCode>,
}

impl Verb {
    /// Runs the command.
    pub(crate) fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        match self {
            Self::Init(init) => block_on(init.run(context)),
            Self::Invite(invite) => block_on(invite.run(context)),
            Self::Join(join) => block_on(join.run(context)),
            Self::Run(run) => run.run(context),
            Self::Status(status) => block_on(status.run(context)),
            Self::Units(units) => block_on(units.run(context)),
        }
    }
}

impl Invite {
    async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let client = context.client().await?;
        let request = InviteRequest {
            unit: context.unit(&client, self.unit).await?,
            child: self.child.to_string(),
            child_level: words::wire_level(self.level),
            child_title: self.title,
            valid_for_ms: self.valid_for.as_ms(),
        };
        let answer = client.node().invite(request).await.context("cannot invite")?;
        let InviteResponse { token, expires_unix_ms } = answer.into_inner();
        let output = context.output();
        if output.is_json() {
            let document = json!({ "token": token, "expires_unix_ms": expires_unix_ms });
            return Ok(output.document(&document)?);
        }
        output.line(token)?;
        output.note(output.fill(Text::InviteHint, &[&values::time(expires_unix_ms)]));
        Ok(())
    }
}

impl Join {
    async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let token = token(self.token)?;
        match context.client().await {
            Ok(client) => join_here(context, &client, token, self.dry_run).await,
            Err(Failure::NoNode(_)) if self.dry_run => {
                let text = "--dry-run needs a running node: leave it out to make a new host";
                Err(Failure::Usage(text.to_owned()).into())
            }
            Err(Failure::NoNode(_)) => {
                offline::join(context, &token, self.listen, self.advertise).await
            }
            Err(failure) => Err(failure.into()),
        }
    }
}

/// The token itself; `-` stands for standard input, so that it shows in no list of processes.
fn token(argument: String) -> anyhow::Result<String> {
    let mut token = argument;
    if token == "-" {
        token.clear();
        // A token is a few hundred bytes: more is a wrong file.
        std::io::stdin()
            .take(64 * 1024)
            .read_to_string(&mut token)
            .context("cannot read the token")?;
    }
    Ok(token.trim().to_owned())
}

async fn join_here(
    context: &Context<'_>,
    client: &Client,
    token: String,
    dry_run: bool,
) -> anyhow::Result<()> {
    let answer = client.node().join(JoinRequest { token, dry_run }).await;
    let joined = answer.context("cannot join")?.into_inner();
    let output = context.output();
    if joined.clock_skew_ms.abs() >= SKEW_WARNING_MS {
        output.note(output.fill(Text::SkewWarning, &[&values::length(joined.clock_skew_ms)]));
    }
    if output.is_json() {
        return Ok(output.document(&joined_json(&joined, dry_run))?);
    }
    let text = if dry_run { Text::JoinWouldWork } else { Text::Joined };
    output.note(output.fill(text, &[&joined.unit, &joined.parent]));
    Ok(())
}

fn joined_json(joined: &JoinResponse, dry_run: bool) -> Value {
    json!({
        "unit": joined.unit,
        "title": joined.title,
        "parent": joined.parent,
        "level": words::level(joined.level).json,
        "clock_skew_ms": joined.clock_skew_ms,
        "delegation_ends_unix_ms": joined.delegation_ends_unix_ms,
        "dry_run": dry_run,
    })
}

impl Status {
    async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let client = context.client().await?;
        let status = status(&client).await?;
        if context.output().is_json() {
            return Ok(context.output().document(&view::status_json(&status))?);
        }
        view::print_status(context.output(), &status)
    }
}

impl Units {
    async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let client = context.client().await?;
        let unit = context.unit(&client, self.unit).await?;
        let answer = client.node().units(UnitsRequest { unit: unit.clone() }).await;
        let units = answer.context("cannot list the units")?.into_inner().units;
        let output = context.output();
        if output.is_json() {
            let units: Vec<Value> = units.iter().map(view::known_json).collect();
            return Ok(output.document(&json!({ "unit": unit, "units": units }))?);
        }
        Ok(output.table(&view::known_table(output, &units), Text::NoUnits)?)
    }
}
