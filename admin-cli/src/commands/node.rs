//! `lianxi node`: set up, join, run and watch the node of a host.

mod adopt;
mod asked;
mod doctor;
mod invite;
mod join;
mod leave;
mod list;
mod offline;
pub(super) mod preview;
mod protect;
mod renewal;
mod restore;
mod revocations;
mod revoke;
mod rotate;
mod view;

use anyhow::Context as _;
use clap::Subcommand;
use lianxi_node::domain::unit::UnitCode;
use lianxi_proto::admin::v1::UnitsRequest;
use serde_json::{Value, json};

pub(crate) use self::offline::Run;
use super::{Context, status};
use crate::{arguments::block_on, texts::Text};

/// What to do with the node.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Make a host with the root of a new tree
    Init(offline::Init),
    /// Make a token that brings a child in, or a file of tokens for many
    Invite(invite::Invite),
    /// Join under the parent that a token names, or all units of a file
    Join(join::Join),
    /// Take a root with its tree in below a unit, or bring a root below the unit of an offer
    Adopt(adopt::Adopt),
    /// Serve the units of the host until stopped
    Run(Run),
    /// Seal the keys of a stopped host with a passphrase or a credential
    ProtectKeys(protect::Protect),
    /// Write the keys of a stopped host in clear again
    UnprotectKeys(protect::Unprotect),
    /// Change the passphrase of the keys of a stopped host
    ChangePassphrase(protect::ChangePassphrase),
    /// Show the host and its units
    Status(Status),
    /// Look for what will bite: clocks, certificates, keys, disk, links
    Doctor(doctor::Doctor),
    /// Renew the certificates of the host's units now
    Renew(renewal::Renew),
    /// Replace keys of a unit, without a gap and without an alarm
    RotateKey(rotate::RotateKey),
    /// Leave the tree, or let a child go that is gone
    Leave(leave::Leave),
    /// Let a child in whose certificate ended too long ago or too often
    Recover(renewal::Recover),
    /// Open a new epoch on a host whose store was brought back
    Restore(restore::Restore),
    /// Show the epochs that a unit and its neighbours opened, with what was lost
    Epochs(restore::Epochs),
    /// Show the units that a unit knows
    Units(Units),
    /// Show which children a new program here would cut off
    Preview(preview::Preview),
    /// End the grant of a unit or desk below, or one key of it, at once
    Revoke(revoke::Revoke),
    /// Show who was revoked since when, or write it to a file
    Revocations(revocations::Revocations),
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
            Self::Adopt(adopt) => block_on(adopt.run(context)),
            Self::Run(run) => run.run(context),
            Self::ProtectKeys(protect) => block_on(protect.run(context)),
            Self::UnprotectKeys(unprotect) => block_on(unprotect.run(context)),
            Self::ChangePassphrase(change) => block_on(change.run(context)),
            Self::Status(status) => block_on(status.run(context)),
            Self::Doctor(doctor) => block_on(doctor.run(context)),
            Self::Renew(renew) => block_on(renew.run(context)),
            Self::RotateKey(rotate) => block_on(rotate.run(context)),
            Self::Leave(leave) => block_on(leave.run(context)),
            Self::Recover(recover) => block_on(recover.run(context)),
            Self::Restore(restore) => block_on(restore.run(context)),
            Self::Epochs(epochs) => block_on(epochs.run(context)),
            Self::Preview(preview) => block_on(preview.run(context)),
            Self::Units(units) => block_on(units.run(context)),
            Self::Revoke(revoke) => block_on(revoke.run(context)),
            Self::Revocations(revocations) => block_on(revocations.run(context)),
        }
    }
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
