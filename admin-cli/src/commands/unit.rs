//! `lianxi unit`: where units stand in the tree.

mod merge;
mod reforms;
mod reparent;
mod split;
mod transfer;

use clap::Subcommand;

use super::Context;

/// What to do with units.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Order a unit under another parent, from a day on (机构改革)
    Reparent(reparent::Reparent),
    /// Merge a unit into its sibling, from a day on (撤并)
    Merge(merge::Merge),
    /// Give named children and open items of a unit to its new sibling, from a day on (分设)
    Split(split::Split),
    /// Await a unit at its new host, or make that host; prints what the old one has to know (换机)
    Receive(transfer::Receive),
    /// Tell a unit's children where it is going to be, and show what it takes along
    MoveHost(transfer::MoveHost),
    /// Stop a unit here for good and write everything of it into a file for its new host
    Export(transfer::Export),
    /// Let a unit begin here from the file that its old host wrote
    Import(transfer::Import),
    /// Erase a unit here that is known to be at its new host
    Confirm(transfer::Confirm),
    /// List reforms with what is concerned, and who has not answered
    Reforms(reforms::Reforms),
}

impl Verb {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        match self {
            Self::Reparent(reparent) => reparent.run(context).await,
            Self::Merge(merge) => merge.run(context).await,
            Self::Split(split) => split.run(context).await,
            Self::Receive(receive) => receive.run(context).await,
            Self::MoveHost(announce) => announce.run(context).await,
            Self::Export(export) => export.run(context).await,
            Self::Import(import) => import.run(context).await,
            Self::Confirm(confirm) => confirm.run(context).await,
            Self::Reforms(reforms) => reforms.run(context).await,
        }
    }
}
