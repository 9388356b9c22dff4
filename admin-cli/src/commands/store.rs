//! `lianxi store`: the store of a stopped host, encrypted at rest or in clear.

use anyhow::Context as _;
use clap::Subcommand;
use lianxi_node::{
    domain::protection::Cipher,
    node::{self, StoreRewritten},
    store::sled::Stage,
};
use serde_json::json;

use super::{
    Context,
    opens::{Opens, cipher, config_file},
};
use crate::{arguments::block_on, output::Output, texts::Text, values};

/// What to do with the store.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Encrypt the store of a stopped host, with keys that its passphrase or credential opens
    Encrypt(Encrypt),
    /// Write the store of a stopped host in clear again
    Decrypt(Rewrite),
    /// Encrypt the store of a stopped host anew, under new keys
    RotateKey(Rewrite),
}

impl Verb {
    /// Runs the command.
    pub(crate) fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        match self {
            Self::Encrypt(Encrypt { cipher, rewrite }) => {
                let act = ("store.encrypt", Some(cipher));
                block_on(rewrite.run(context, act, Text::StoreEncrypted))
            }
            Self::Decrypt(rewrite) => {
                let act = ("store.decrypt", Some(Cipher::None));
                block_on(rewrite.run(context, act, Text::StoreDecrypted))
            }
            Self::RotateKey(rewrite) => {
                block_on(rewrite.run(context, ("store.rotate-key", None), Text::StoreEncrypted))
            }
        }
    }
}

/// Arguments of `lianxi store encrypt`.
#[derive(Debug, clap::Args)]
pub(crate) struct Encrypt {
    /// aes-256-gcm, or sm4-gcm (GB/T 32907)
    #[arg(long, default_value = "aes-256-gcm", value_parser = cipher)]
    cipher: Cipher,
    #[command(flatten)]
    rewrite: Rewrite,
}

/// Arguments of `lianxi store decrypt` and `lianxi store rotate-key`.
#[derive(Debug, clap::Args)]
pub(crate) struct Rewrite {
    #[command(flatten)]
    opens: Opens,
    /// Read the whole store and say what would be done
    #[arg(long)]
    dry_run: bool,
}

impl Rewrite {
    async fn run(
        self,
        context: &Context<'_>,
        act: (&'static str, Option<Cipher>),
        done: Text,
    ) -> anyhow::Result<()> {
        let config = config_file(context)?;
        let secret = self.opens.secret_if_sealed(context)?;
        let output = context.output();
        let mut progress = |stage| told(output, stage);
        let made =
            node::rewrite_store(&config, secret.as_ref(), act, self.dry_run, &mut progress).await;
        let made = made.context("cannot rewrite the store")?;
        shown(output, &made, self.dry_run, done)
    }
}

fn told(output: &Output, stage: Stage) {
    match stage {
        Stage::Copied(entries) => output.progress(output.fill(Text::StoreCopied, &[&entries])),
        Stage::Comparing => output.progress(output.text(Text::StoreCompared)),
        Stage::Ready | Stage::Switched => output.progress(output.text(Text::StoreErasing)),
        Stage::Erased => {}
    }
}

fn shown(output: &Output, made: &StoreRewritten, dry_run: bool, done: Text) -> anyhow::Result<()> {
    if output.is_json() {
        return Ok(output.document(&json!({
            "before": made.before.name(),
            "after": made.after.name(),
            "entries": made.entries,
            "store_bytes": made.store_bytes,
            "free_disk_bytes": made.free_bytes,
            "dry_run": dry_run,
        }))?);
    }
    output.facts([
        (Text::StoreBefore, made.before.name().to_owned()),
        (Text::StoreAfter, made.after.name().to_owned()),
        (Text::StoreEntries, made.entries.to_string()),
        (Text::StoreSize, values::size(made.store_bytes)),
    ])?;
    output.note(output.text(if dry_run { Text::StoreWouldBeRewritten } else { done }));
    Ok(())
}
