//! `lianxi node revoke`: end a grant or a key at once.

use anyhow::Context as _;
use lianxi_node::domain::unit::{DeskId, UnitCode};
use lianxi_proto::{
    admin::v1::{RevokeRequest, RevokeResponse},
    types::v1::RevocationReason,
};
use serde_json::json;

use super::super::Context;
use crate::{texts::Text, values::Past};

/// Why something is revoked.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Reason {
    /// Somebody else may have the keys
    KeyStolen,
    /// Nobody has the keys any more
    KeyLost,
    /// The keys were used for what they are not for
    Misuse,
    /// The unit or desk is no more
    Closed,
}

/// Arguments of `lianxi node revoke`.
#[derive(Debug, clap::Args)]
pub(crate) struct Revoke {
    /// Unit that is revoked, or whose desk or key is
    revoked: UnitCode,
    /// Desk of it
    #[arg(long)]
    desk: Option<DeskId>,
    /// One key alone, by its id
    #[arg(long, value_name = "ID")]
    key: Option<String>,
    /// Why
    #[arg(long, value_enum)]
    reason: Reason,
    /// A sentence for people
    #[arg(long, default_value = "")]
    text: String,
    /// From when on the keys may have been in other hands: an instant, a day, or 3d for three days
    /// ago; what they signed since then is not believed
    #[arg(long, value_name = "TIME")]
    compromised_since: Option<Past>,
    /// Unit of this host that revokes: the parent, or one above it [default: the one that the host
    /// is for]
    #[arg(long)]
    unit: Option<UnitCode>,
    /// Say what would end, and end nothing
    #[arg(long)]
    dry_run: bool,
}

impl Revoke {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let client = context.client().await?;
        let reason = match self.reason {
            Reason::KeyStolen => RevocationReason::KeyStolen,
            Reason::KeyLost => RevocationReason::KeyLost,
            Reason::Misuse => RevocationReason::Misuse,
            Reason::Closed => RevocationReason::Closed,
        };
        let request = RevokeRequest {
            unit: context.unit(&client, self.unit).await?,
            revoked: self.revoked.to_string(),
            desk: self.desk.map(|desk| desk.to_string()).unwrap_or_default(),
            key_id: self.key.unwrap_or_default(),
            compromised_since_unix_ms: self.compromised_since.map_or(0, Past::unix_ms),
            reason: reason.into(),
            text: self.text,
            dry_run: self.dry_run,
        };
        let answer = client.node().revoke(request).await.context("cannot revoke")?;
        show(context, &answer.into_inner(), self.dry_run)
    }
}

fn show(context: &Context<'_>, revoked: &RevokeResponse, dry_run: bool) -> anyhow::Result<()> {
    let output = context.output();
    if output.is_json() {
        let document = json!({
            "unit": revoked.unit,
            "desk": revoked.desk,
            "by": revoked.by,
            "whole": revoked.whole,
            "key_ids": revoked.key_ids,
            "was_linked": revoked.was_linked,
            "below": revoked.below,
            "dry_run": dry_run,
        });
        return Ok(output.document(&document)?);
    }
    let holder = if revoked.desk.is_empty() {
        revoked.unit.clone()
    } else {
        format!("{}/{}", revoked.unit, revoked.desk)
    };
    let text = if dry_run { Text::WouldRevoke } else { Text::Revoked };
    output.note(output.fill(text, &[&holder, &revoked.by, &revoked.key_ids.len()]));
    for key_id in &revoked.key_ids {
        output.line(key_id)?;
    }
    if !revoked.below.is_empty() && revoked.whole {
        output.note(output.fill(Text::RevokedBelow, &[&revoked.below.join(", ")]));
    }
    Ok(())
}
