//! `lianxi unit`: where units stand in the tree.

mod reforms;
mod reparent;

use clap::Subcommand;

use super::Context;

/// What to do with units.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Order a unit under another parent, from a day on (机构改革)
    Reparent(reparent::Reparent),
    /// List reforms with what is concerned, and who has not answered
    Reforms(reforms::Reforms),
}

impl Verb {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        match self {
            Self::Reparent(reparent) => reparent.run(context).await,
            Self::Reforms(reforms) => reforms.run(context).await,
        }
    }
}
