//! The lock on the keys of a host that does not run: put on, taken off, changed.

use std::path::PathBuf;

use anyhow::Context as _;
use lianxi_node::node;
use serde_json::json;

use super::super::{
    Context,
    opens::{Opens, config_file, new_passphrase},
};
use crate::texts::Text;

/// Arguments of `lianxi node protect-keys`.
#[derive(Debug, clap::Args)]
pub(crate) struct Protect {
    #[command(flatten)]
    opens: Opens,
    /// Only say which files would be sealed
    #[arg(long)]
    dry_run: bool,
}

impl Protect {
    /// Runs the command.
    pub(super) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let config = config_file(context)?;
        let secret = self.opens.new_secret(context)?;
        let sealed = node::protect_keys(&config, &secret, self.dry_run).await;
        let sealed = sealed.context("cannot seal the keys")?;
        let text = if self.dry_run { Text::KeysWouldBeSealed } else { Text::KeysSealed };
        told(context, &sealed, self.dry_run, text)
    }
}

/// Arguments of `lianxi node unprotect-keys`.
#[derive(Debug, clap::Args)]
pub(crate) struct Unprotect {
    #[command(flatten)]
    opens: Opens,
    /// Only say which files would be written in clear
    #[arg(long)]
    dry_run: bool,
}

impl Unprotect {
    /// Runs the command.
    pub(super) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let config = config_file(context)?;
        let secret = self.opens.secret(context)?;
        let opened = node::unprotect_keys(&config, &secret, self.dry_run).await;
        let opened = opened.context("cannot write the keys in clear")?;
        let text = if self.dry_run { Text::KeysWouldBeOpened } else { Text::KeysOpened };
        told(context, &opened, self.dry_run, text)
    }
}

/// Arguments of `lianxi node change-passphrase`.
#[derive(Debug, clap::Args)]
pub(crate) struct ChangePassphrase {
    #[command(flatten)]
    opens: Opens,
    /// File descriptor from which the new passphrase is read
    #[arg(long, value_name = "N")]
    new_passphrase_fd: Option<u32>,
    /// Only check what opens the keys now
    #[arg(long)]
    dry_run: bool,
}

impl ChangePassphrase {
    /// Runs the command.
    pub(super) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let config = config_file(context)?;
        let old = self.opens.secret(context)?;
        let new = new_passphrase(self.new_passphrase_fd, context)?;
        let changed = node::change_secret(&config, &old, &new, self.dry_run).await;
        changed.context("cannot change the passphrase")?;
        let text = if self.dry_run { Text::PassphraseFits } else { Text::PassphraseChanged };
        told(context, &[], self.dry_run, text)
    }
}

fn told(context: &Context<'_>, files: &[PathBuf], dry_run: bool, text: Text) -> anyhow::Result<()> {
    let output = context.output();
    if output.is_json() {
        return Ok(output.document(&json!({ "files": files, "dry_run": dry_run }))?);
    }
    for file in files {
        output.line(file.display().to_string())?;
    }
    output.note(output.fill(text, &[&files.len()]));
    Ok(())
}
