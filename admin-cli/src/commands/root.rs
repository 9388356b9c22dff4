//! `lianxi root`: custody of the root key, on the root's host and on the machine where it is kept.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::Subcommand;
use lianxi_node::{
    clock::{Clock as _, SystemClock},
    domain::delegation::{Delegation, Suite},
    identity::{
        custody::{Request, Signed},
        keys::RootKey,
        shares::{self, Share},
    },
    node::{self, Following},
    process,
    process::secret,
    verify::RootKey as PublicRoot,
};
use serde_json::json;
use zeroize::Zeroizing;

use super::{Context, opens::OpensStore};
use crate::{
    arguments::block_on,
    failure::Failure,
    texts::Text,
    values::{self, Past},
};

/// Name of the configuration in a host's directory.
const CONFIG: &str = "node.toml";

/// What to do with the root key.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Show the root key of a stopped host, and whether it lies there
    Show(Show),
    /// Split the root key of a stopped host into shares
    Split(Split),
    /// Make a root key that is to follow another one, on the machine where it is kept
    New(New),
    /// Check that shares belong together and give the key back
    VerifyShares(VerifyShares),
    /// Put the root key together from shares, into a directory of the machine where it is kept
    Restore(Restore),
    /// Write what the root key is to sign, from a stopped host
    Request(AskFor),
    /// Sign a request, on the machine where the root key is kept
    Sign(Sign),
    /// Take in what the root key signed, at a stopped host
    Install(Install),
    /// Take the root key from a stopped host, once the shares gave it back
    Remove(Remove),
}

impl Verb {
    /// Runs the command.
    pub(crate) fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        match self {
            Self::Show(show) => block_on(show.run(context)),
            Self::Split(split) => block_on(split.run(context)),
            Self::New(new) => new.run(context),
            Self::VerifyShares(verify) => verify.run(context),
            Self::Restore(restore) => restore.run(context),
            Self::Request(request) => block_on(request.run(context)),
            Self::Sign(sign) => sign.run(context),
            Self::Install(install) => block_on(install.run(context)),
            Self::Remove(remove) => block_on(remove.run(context)),
        }
    }
}

/// Arguments of `lianxi root show`.
#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    #[command(flatten)]
    opens: OpensStore,
}

impl Show {
    async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let config = context.dir().join(CONFIG);
        let facts = node::root_facts(&config, &self.opens.lock(&config)?).await;
        let facts = facts.context("cannot read the root")?;
        let output = context.output();
        if output.is_json() {
            return Ok(output.document(&json!({
                "unit": facts.unit.to_string(),
                "trust_domain": facts.trust_domain,
                "suite": facts.suite,
                "key_id": facts.key_id,
                "delegation_ends_unix_ms": facts.delegation_ends_unix_ms,
                "on_disk": facts.on_disk,
            }))?);
        }
        let place = if facts.on_disk { Text::RootOnDisk } else { Text::RootElsewhere };
        Ok(output.facts([
            (Text::Unit, facts.unit.to_string()),
            (Text::RootKey, format!("{} {}", facts.suite, facts.key_id)),
            (Text::RootDelegationEnds, values::time(facts.delegation_ends_unix_ms)),
            (Text::RootKeyLies, output.text(place).to_owned()),
        ])?)
    }
}

/// Arguments of `lianxi root split`.
#[derive(Debug, clap::Args)]
pub(crate) struct Split {
    /// Number of shares
    #[arg(long, value_name = "N")]
    shares: u8,
    /// Number of shares that give the key back
    #[arg(long, value_name = "K")]
    threshold: u8,
    /// New directory for the shares, best on a medium that is taken out
    #[arg(long, value_name = "DIRECTORY")]
    out: PathBuf,
    /// File descriptor from which the passphrase of sealed keys is read
    #[arg(long, value_name = "N")]
    passphrase_fd: Option<u32>,
}

impl Split {
    async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let config = context.dir().join(CONFIG);
        let fd = self.passphrase_fd;
        let ask = |method| Ok::<_, process::Error>(secret::for_start(method, fd)?);
        let made = node::split_root(&config, (self.threshold, self.shares), ask).await;
        let made = made.context("cannot split the root key")?;
        let files = keep_shares(&self.out, &made)?;
        let output = context.output();
        if output.is_json() {
            let key_id = &made[0].key_id;
            let document = json!({
                "files": files, "threshold": self.threshold, "key_id": key_id,
            });
            return Ok(output.document(&document)?);
        }
        for file in &files {
            output.line(file.display().to_string())?;
        }
        output.note(output.fill(Text::RootSplit, &[&files.len(), &self.threshold]));
        Ok(())
    }
}

/// Arguments of `lianxi root new`.
#[derive(Debug, clap::Args)]
pub(crate) struct New {
    /// Trust domain of the tree, as `lianxi root show` tells it
    #[arg(long)]
    domain: String,
    /// Suite of its signatures: ed25519 or sm2-sm3
    #[arg(long, default_value = "ed25519")]
    suite: Suite,
    /// Number of shares
    #[arg(long, value_name = "N")]
    shares: u8,
    /// Number of shares that give the key back
    #[arg(long, value_name = "K")]
    threshold: u8,
    /// New directory for the shares and the public key, `root.pub`
    #[arg(long, value_name = "DIRECTORY")]
    out: PathBuf,
}

impl New {
    fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let RootKey(next) = RootKey::generate(self.suite);
        let public = PublicRoot::new(self.domain.clone(), next.verifying_key())?;
        let made = shares::split(&next, &self.domain, self.threshold, self.shares)?;
        let files = keep_shares(&self.out, &made)?;
        let path = self.out.join("root.pub");
        write_new(&path, &public.to_string())?;
        let output = context.output();
        if output.is_json() {
            return Ok(output.document(&json!({
                "files": files, "root": path, "threshold": self.threshold, "key_id": next.key_id(),
            }))?);
        }
        for file in files.iter().chain([&path]) {
            output.line(file.display().to_string())?;
        }
        let values: [&dyn std::fmt::Display; 3] = [&next.key_id(), &files.len(), &self.threshold];
        output.note(output.fill(Text::RootMade, &values));
        Ok(())
    }
}

/// Writes shares into a new directory, and proves them.
fn keep_shares(directory: &Path, made: &[Share]) -> anyhow::Result<Vec<PathBuf>> {
    let new = fs::DirBuilder::new().mode(0o700).create(directory);
    new.with_context(|| format!("cannot make the directory {}", directory.display()))?;
    let mut files = Vec::new();
    for share in made {
        let path = directory.join(format!("share-{}.txt", share.index));
        write_new(&path, &share.to_text())?;
        files.push(path);
    }
    // From what was written, not from memory: only this can be read later.
    shares::prove(read_shares(&files)?)?;
    Ok(files)
}

/// Arguments of `lianxi root verify-shares`.
#[derive(Debug, clap::Args)]
pub(crate) struct VerifyShares {
    /// Files of shares
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

impl VerifyShares {
    fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let given = read_shares(&self.files)?;
        let (domain, count) = (given[0].trust_domain.clone(), given.len());
        let root = shares::prove(given)?;
        let output = context.output();
        if output.is_json() {
            let document =
                json!({ "trust_domain": domain, "key_id": root.key_id(), "shares": count });
            return Ok(output.document(&document)?);
        }
        output.note(output.fill(Text::SharesFit, &[&count, &domain, &root.key_id()]));
        Ok(())
    }
}

/// Arguments of `lianxi root restore`.
#[derive(Debug, clap::Args)]
pub(crate) struct Restore {
    /// Directory for `root.keys`
    #[arg(long, value_name = "DIRECTORY")]
    out: PathBuf,
    /// Files of shares
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

impl Restore {
    fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let root = RootKey(shares::combine(&read_shares(&self.files)?)?);
        root.save(&self.out).context("cannot keep the root key")?;
        let output = context.output();
        let path = RootKey::path(&self.out);
        if output.is_json() {
            return Ok(output.document(&json!({ "file": path, "key_id": root.0.key_id() }))?);
        }
        output.note(output.fill(Text::RootRestored, &[&path.display(), &root.0.key_id()]));
        Ok(())
    }
}

/// Arguments of `lianxi root request`.
#[derive(Debug, clap::Args)]
pub(crate) struct AskFor {
    /// New file for the request
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// How long the new delegation is good for
    #[arg(long, value_name = "DAYS", default_value_t = 3650)]
    days: u32,
    /// Ask for the last delegation of this root key, which names the one of this file as the next:
    /// what `lianxi root new` wrote, or the root key of the tree that this one comes under
    #[arg(long, value_name = "FILE")]
    next: Option<PathBuf>,
    /// Since when somebody else may have had this root key: an instant, a day, or 3d for three days ago
    #[arg(long, value_name = "TIME", requires = "next")]
    compromised_since: Option<Past>,
    #[command(flatten)]
    opens: OpensStore,
}

impl AskFor {
    async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let config = context.dir().join(CONFIG);
        let lock = self.opens.lock(&config)?;
        let following = match &self.next {
            None => None,
            Some(path) => {
                let next: PublicRoot =
                    read(path)?.parse().with_context(|| path.display().to_string())?;
                let since = self.compromised_since.map_or(0, Past::unix_ms);
                Some(Following { key: next.key().clone(), compromised_since_unix_ms: since })
            }
        };
        let request = node::request_root(&config, &lock, self.days, following).await;
        let request = request.context("cannot ask the root key")?;
        write_new(&self.out, &request.to_text())?;
        shown(context, request.delegation(), Text::RootRequested, &self.out)
    }
}

/// Arguments of `lianxi root sign`.
#[derive(Debug, clap::Args)]
pub(crate) struct Sign {
    /// The request
    request: PathBuf,
    /// File of a share; as many as are needed
    #[arg(long, value_name = "FILE", required_unless_present = "key")]
    share: Vec<PathBuf>,
    /// Directory with the restored `root.keys`, instead of shares
    #[arg(long, value_name = "DIRECTORY", conflicts_with = "share")]
    key: Option<PathBuf>,
    /// New file for what is signed
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Only show what would be signed
    #[arg(long)]
    dry_run: bool,
}

impl Sign {
    fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let request: Request = read(&self.request)?.parse()?;
        let root = match &self.key {
            Some(directory) => RootKey::load(directory).context("cannot read the root key")?.0,
            None => shares::combine(&read_shares(&self.share)?)?,
        };
        let signed = request.sign(&root, SystemClock.now_unix_ms())?;
        if self.dry_run {
            return shown(context, request.delegation(), Text::RootWouldSign, &self.out);
        }
        write_new(&self.out, &signed.to_text())?;
        shown(context, request.delegation(), Text::RootSigned, &self.out)
    }
}

/// Arguments of `lianxi root install`.
#[derive(Debug, clap::Args)]
pub(crate) struct Install {
    /// What `root sign` wrote
    file: PathBuf,
    /// Only check it
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    opens: OpensStore,
}

impl Install {
    async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let signed: Signed = read(&self.file)?.parse()?;
        let config = context.dir().join(CONFIG);
        let lock = self.opens.lock(&config)?;
        let granted = node::install_root(&config, &lock, &signed, self.dry_run).await;
        let granted = granted.context("cannot take the delegation in")?;
        let text = if self.dry_run { Text::RootWouldInstall } else { Text::RootInstalled };
        shown(context, &granted, text, &self.file)
    }
}

/// Arguments of `lianxi root remove`.
#[derive(Debug, clap::Args)]
pub(crate) struct Remove {
    /// File of a share; at least as many as are needed
    #[arg(long, value_name = "FILE", required = true)]
    share: Vec<PathBuf>,
    /// Only prove the shares
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    opens: OpensStore,
}

impl Remove {
    async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let given = read_shares(&self.share)?;
        let config = context.dir().join(CONFIG);
        let lock = self.opens.lock(&config)?;
        let removed = node::remove_root(&config, &lock, given, self.dry_run).await;
        let removed = removed.context("cannot remove the root key")?;
        let output = context.output();
        if output.is_json() {
            return Ok(output.document(&json!({ "file": removed, "dry_run": self.dry_run }))?);
        }
        let text = if self.dry_run { Text::RootWouldBeRemoved } else { Text::RootRemoved };
        output.note(output.fill(text, &[&removed.display()]));
        Ok(())
    }
}

/// Shows what was asked for, signed or taken in, from the bytes that were.
fn shown(
    context: &Context<'_>,
    delegation: &Delegation,
    text: Text,
    file: &Path,
) -> anyhow::Result<()> {
    let output = context.output();
    let (unit, ends) = (delegation.unit.to_string(), delegation.not_after_unix_ms);
    if output.is_json() {
        return Ok(output.document(&json!({
            "unit": unit,
            "trust_domain": delegation.trust_domain,
            "level": delegation.level.to_string(),
            "serial": delegation.serial,
            "not_before_unix_ms": delegation.not_before_unix_ms,
            "not_after_unix_ms": ends,
            "keys": delegation.keys.len(),
            "accepted_suites":
                delegation.accepted_suites.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "file": file,
        }))?);
    }
    output.facts([
        (Text::Unit, format!("{unit} {}", delegation.title)),
        (Text::RootDomain, delegation.trust_domain.clone()),
        (Text::RootDelegationEnds, values::time(ends)),
    ])?;
    output.note(output.fill(text, &[&file.display()]));
    Ok(())
}

fn read_shares(files: &[PathBuf]) -> anyhow::Result<Vec<Share>> {
    let share = |path: &PathBuf| -> anyhow::Result<Share> {
        read(path)?.parse().with_context(|| path.display().to_string())
    };
    files.iter().map(share).collect()
}

pub(crate) fn read(path: &Path) -> anyhow::Result<Zeroizing<String>> {
    let text = fs::read_to_string(path).map(Zeroizing::new);
    text.map_err(|error| Failure::Usage(format!("cannot read {}: {error}", path.display())).into())
}

/// Writes a file that only its owner can read, and that was not there before.
fn write_new(path: &Path, text: &str) -> anyhow::Result<()> {
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(path);
    let written = file.and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.with_context(|| format!("cannot write {}", path.display()))
}
