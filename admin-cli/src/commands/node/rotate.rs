//! `lianxi node rotate-key`: other keys for a unit, step by step.

use anyhow::Context as _;
use lianxi_node::domain::{rotation::Replaced, unit::UnitCode};
use lianxi_proto::admin::v1::{KeyRotation, RotateKeyRequest};
use serde_json::{Value, json};

use super::super::Context;
use crate::{output::Output, texts::Text, values};

/// Which keys are replaced.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Use {
    /// The key that signs statements and the journal
    Statement,
    /// The key that signs the grants of children and desks
    Delegation,
    /// The key that notices and whistles are sealed to
    Agreement,
    /// The CA of the certificates for children
    Ca,
    /// All of these
    All,
    /// The root key of a root, which lies on its host
    Root,
}

impl Use {
    fn replaced(self) -> Vec<String> {
        let one = match self {
            Self::Statement => Replaced::Statement,
            Self::Delegation => Replaced::Delegation,
            Self::Agreement => Replaced::Agreement,
            Self::Ca => Replaced::Ca,
            Self::Root => Replaced::Root,
            Self::All => return Replaced::ALL.iter().map(ToString::to_string).collect(),
        };
        vec![one.to_string()]
    }
}

/// Arguments of `lianxi node rotate-key`.
///
/// The node does the steps by itself; `lianxi node status` shows how far they are.
#[derive(Debug, clap::Args)]
pub(crate) struct RotateKey {
    /// Which key
    #[arg(long = "use", value_enum, default_value = "statement")]
    key_use: Use,
    /// Unit of this host [default: the one that the host is for]
    #[arg(long)]
    unit: Option<UnitCode>,
    /// Check, and replace nothing
    #[arg(long)]
    dry_run: bool,
}

impl RotateKey {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let (client, output) = (context.client().await?, context.output());
        let unit = context.unit(&client, self.unit).await?;
        let (replaced, dry_run) = (self.key_use.replaced(), self.dry_run);
        let request = RotateKeyRequest { unit: unit.clone(), replaced, dry_run };
        let answer = client.node().rotate_key(request).await.context("cannot replace the key")?;
        let rotation = answer.into_inner().rotation.unwrap_or_default();
        if output.is_json() {
            let mut document = rotation_json(&rotation);
            document["unit"] = json!(unit);
            document["dry_run"] = json!(dry_run);
            return Ok(output.document(&document)?);
        }
        let text = if dry_run { Text::RotationWouldWork } else { Text::RotationBegun };
        output.note(output.fill(text, &[&unit, &rotation.replaced.join(", ")]));
        Ok(())
    }
}

/// A change of keys in JSON.
pub(super) fn rotation_json(rotation: &KeyRotation) -> Value {
    json!({
        "replaced": rotation.replaced,
        "stage": rotation.stage,
        "started_unix_ms": rotation.started_unix_ms,
        "children": rotation.children,
        "missing": rotation.missing,
        "unsent": rotation.unsent,
        "ungranted": rotation.ungranted,
        "unwitnessed": rotation.unwitnessed,
        "overlap_ends_unix_ms": rotation.overlap_ends_unix_ms,
        "failure": rotation.failure,
    })
}

/// How far a change of keys is, in one line.
pub(super) fn rotation_line(output: &Output, unit: &str, rotation: &KeyRotation) -> String {
    let replaced = rotation.replaced.join(", ");
    let all = rotation.children;
    let held = all.saturating_sub(u32::try_from(rotation.missing.len()).unwrap_or(u32::MAX));
    let mut line = match rotation.stage.as_str() {
        "prepared" => output.fill(Text::RotationPrepared, &[&unit, &replaced]),
        "granted" => {
            let missing = rotation.missing.join(", ");
            output.fill(Text::RotationGranted, &[&unit, &replaced, &held, &all, &missing])
        }
        _ => {
            let until = values::time(rotation.overlap_ends_unix_ms);
            output.fill(Text::RotationInUse, &[&unit, &replaced, &until, &rotation.unsent])
        }
    };
    if !rotation.failure.is_empty() {
        line.push_str(": ");
        line.push_str(&rotation.failure);
    }
    line
}
