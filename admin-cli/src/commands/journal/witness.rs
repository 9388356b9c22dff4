//! `lianxi journal witness`: witnesses outside the tree. What goes between the two sides is text, one
//! file each way.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Subcommand;
use lianxi_node::domain::unit::UnitCode;
use lianxi_proto::admin::v1::{
    AddPeerRequest, CosignPeerRequest, Peer, PeerCosignature, PeersRequest, PeersResponse,
    RemovePeerRequest, RequestCosignatureRequest, TakeCosignatureRequest,
};
use serde_json::{Value, json};

use super::super::Context;
use crate::{
    durable::{self, Existing},
    failure::Failure,
    output::Output,
    table::Table,
    texts::Text,
    values,
};

/// Longest file that is read.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// What to do with witnesses outside the tree.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// The line by which a witness knows this unit; both sides compare it by another way, e.g. by phone
    Key(OfUnit),
    /// Name a witness by the line that `key` prints at its side; given again, a newer key of it
    Add(Add),
    /// Take a witness away; named again, it begins anew
    Remove(Remove),
    /// The witnesses, and what was cosigned last on either side
    List(OfUnit),
    /// Write the file by which a witness is asked to cosign the newest checkpoint
    Request(Request),
    /// Cosign what a witness asks for, if its journal goes on from what was cosigned before
    Cosign(Cosign),
    /// Take in the file that `cosign` wrote at the other side
    Take(Take),
}

/// A unit of the host.
#[derive(Debug, clap::Args)]
pub(crate) struct OfUnit {
    /// Unit [default: the one that the host is for]
    #[arg(long)]
    unit: Option<UnitCode>,
}

/// Arguments of `lianxi journal witness add`.
#[derive(Debug, clap::Args)]
pub(crate) struct Add {
    /// The line that `lianxi journal witness key` prints at the other side
    key: String,
    #[command(flatten)]
    of: OfUnit,
    /// Check the key, keep nothing
    #[arg(long)]
    dry_run: bool,
}

/// Arguments of `lianxi journal witness remove`.
#[derive(Debug, clap::Args)]
pub(crate) struct Remove {
    /// Name of the witness
    name: String,
    #[command(flatten)]
    of: OfUnit,
    /// Look for it, take nothing away
    #[arg(long)]
    dry_run: bool,
}

/// Arguments of `lianxi journal witness request`.
#[derive(Debug, clap::Args)]
pub(crate) struct Request {
    /// Name of the witness [default: the only one]
    name: Option<String>,
    #[command(flatten)]
    of: OfUnit,
    /// Size of the journal that the proof goes on from [default: what the witness cosigned last]
    #[arg(long, value_name = "SIZE")]
    from: Option<u64>,
    /// File to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Write over the file if it is there
    #[arg(long)]
    force: bool,
    /// Say what would be asked for, write nothing
    #[arg(long)]
    dry_run: bool,
}

/// Arguments of `lianxi journal witness cosign`.
#[derive(Debug, clap::Args)]
pub(crate) struct Cosign {
    /// File that `request` wrote at the other side
    file: PathBuf,
    #[command(flatten)]
    of: OfUnit,
    /// File to write, for the other side
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Write over the file if it is there
    #[arg(long)]
    force: bool,
    /// Compare, cosign and keep nothing
    #[arg(long)]
    dry_run: bool,
}

/// Arguments of `lianxi journal witness take`.
#[derive(Debug, clap::Args)]
pub(crate) struct Take {
    /// File that `cosign` wrote at the other side
    file: PathBuf,
    #[command(flatten)]
    of: OfUnit,
    /// Check it, keep nothing
    #[arg(long)]
    dry_run: bool,
}

impl Verb {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        match self {
            Self::Key(key) => key.key(context).await,
            Self::Add(add) => add.run(context).await,
            Self::Remove(remove) => remove.run(context).await,
            Self::List(list) => list.list(context).await,
            Self::Request(request) => request.run(context).await,
            Self::Cosign(cosign) => cosign.run(context).await,
            Self::Take(take) => take.run(context).await,
        }
    }
}

impl OfUnit {
    async fn known(self, context: &Context<'_>) -> anyhow::Result<(String, PeersResponse)> {
        let client = context.client().await?;
        let unit = context.unit(&client, self.unit).await?;
        let answer = client.journals().peers(PeersRequest { unit: unit.clone() }).await;
        Ok((unit, answer.context("cannot list the witnesses")?.into_inner()))
    }

    async fn key(self, context: &Context<'_>) -> anyhow::Result<()> {
        let (unit, known) = self.known(context).await?;
        let output = context.output();
        if output.is_json() {
            return Ok(output.document(&json!({ "unit": unit, "key": known.own_key }))?);
        }
        Ok(output.line(&known.own_key)?)
    }

    async fn list(self, context: &Context<'_>) -> anyhow::Result<()> {
        let (unit, known) = self.known(context).await?;
        let output = context.output();
        if output.is_json() {
            let peers: Vec<Value> = known.peers.iter().map(peer_json).collect();
            return Ok(output.document(&json!({ "unit": unit, "witnesses": peers }))?);
        }
        let mut table = Table::new()
            .text(output.text(Text::Witness))
            .number(output.text(Text::CosignedByPeer))
            .text(output.text(Text::Time))
            .number(output.text(Text::CosignedForPeer))
            .text(output.text(Text::Time));
        for peer in &known.peers {
            table.row([
                &peer.name,
                &peer.cosigned_size.to_string(),
                &values::time(peer.cosigned_unix_ms),
                &peer.held_size.to_string(),
                &values::time(peer.held_unix_ms),
            ]);
        }
        Ok(output.table(&table, Text::NoPeers)?)
    }
}

fn peer_json(peer: &Peer) -> Value {
    json!({
        "name": peer.name,
        "keys": peer.keys,
        "added_unix_ms": peer.added_unix_ms,
        "cosigned_size": peer.cosigned_size,
        "cosigned_unix_ms": peer.cosigned_unix_ms,
        "held_size": peer.held_size,
        "held_unix_ms": peer.held_unix_ms,
    })
}

impl Add {
    async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let client = context.client().await?;
        let unit = context.unit(&client, self.of.unit).await?;
        let request = AddPeerRequest { unit: unit.clone(), key: self.key, dry_run: self.dry_run };
        let added = client.journals().add_peer(request).await.context("cannot add the witness")?;
        let peer = added.into_inner().peer.unwrap_or_default();
        let output = context.output();
        if output.is_json() {
            let peer = peer_json(&peer);
            let document = json!({ "unit": unit, "witness": peer, "dry_run": self.dry_run });
            return Ok(output.document(&document)?);
        }
        let text = if self.dry_run { Text::WouldAddPeer } else { Text::PeerAdded };
        Ok(output.line(output.fill(text, &[&peer.name, &unit]))?)
    }
}

impl Remove {
    async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let client = context.client().await?;
        let unit = context.unit(&client, self.of.unit).await?;
        let (name, dry_run) = (self.name, self.dry_run);
        let request = RemovePeerRequest { unit: unit.clone(), name: name.clone(), dry_run };
        client.journals().remove_peer(request).await.context("cannot remove the witness")?;
        let output = context.output();
        if output.is_json() {
            let document = json!({ "unit": unit, "name": name, "dry_run": dry_run });
            return Ok(output.document(&document)?);
        }
        let text = if dry_run { Text::WouldRemovePeer } else { Text::PeerRemoved };
        Ok(output.line(output.fill(text, &[&name, &unit]))?)
    }
}

impl Request {
    async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let existing = existing(self.force);
        durable::check(&self.out, existing)?;
        let client = context.client().await?;
        let unit = context.unit(&client, self.of.unit).await?;
        let name = match self.name {
            Some(name) => name,
            None => {
                let known = client.journals().peers(PeersRequest { unit: unit.clone() }).await;
                let known = known.context("cannot list the witnesses")?.into_inner().peers;
                let [only] = &known[..] else {
                    let text = "name one witness: see `lianxi journal witness list`";
                    return Err(Failure::Usage(text.to_owned()).into());
                };
                only.name.clone()
            }
        };
        let request = RequestCosignatureRequest {
            unit: unit.clone(),
            name: name.clone(),
            from_size: self.from,
        };
        let made = client.journals().request_cosignature(request).await;
        let made = made.context("cannot make the request")?.into_inner();
        if !self.dry_run {
            durable::write(&self.out, made.request.as_bytes(), existing)?;
        }
        let output = context.output();
        if output.is_json() {
            return Ok(output.document(&json!({
                "unit": unit,
                "name": name,
                "size": made.size,
                "from_size": made.from_size,
                "file": self.out,
                "dry_run": self.dry_run,
            }))?);
        }
        let text = if self.dry_run { Text::WouldRequest } else { Text::CosignatureRequested };
        let file = self.out.display();
        Ok(output.line(output.fill(text, &[&name, &made.from_size, &made.size, &file]))?)
    }
}

impl Cosign {
    async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let existing = existing(self.force);
        durable::check(&self.out, existing)?;
        let request = read(&self.file)?;
        let client = context.client().await?;
        let unit = context.unit(&client, self.of.unit).await?;
        let request = CosignPeerRequest { unit: unit.clone(), request, dry_run: self.dry_run };
        let given = client.journals().cosign_peer(request).await.context("not cosigned")?;
        let given = given.into_inner().cosignature.unwrap_or_default();
        if !self.dry_run {
            durable::write(&self.out, given.checkpoint.as_bytes(), existing)?;
        }
        let texts = [Text::WouldCosign, Text::Cosigned];
        show(context.output(), &unit, &given, texts, self.dry_run)
    }
}

impl Take {
    async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let checkpoint = read(&self.file)?;
        let client = context.client().await?;
        let unit = context.unit(&client, self.of.unit).await?;
        let request =
            TakeCosignatureRequest { unit: unit.clone(), checkpoint, dry_run: self.dry_run };
        let taken = client.journals().take_cosignature(request).await;
        let taken = taken.context("the cosignature is not taken in")?;
        let taken = taken.into_inner().cosignature.unwrap_or_default();
        let texts = [Text::WouldTakeCosignature, Text::CosignatureTaken];
        show(context.output(), &unit, &taken, texts, self.dry_run)
    }
}

fn show(
    output: &Output,
    unit: &str,
    made: &PeerCosignature,
    [tried, done]: [Text; 2],
    dry_run: bool,
) -> anyhow::Result<()> {
    if output.is_json() {
        return Ok(output.document(&json!({
            "unit": unit,
            "name": made.name,
            "size": made.size,
            "time_unix_s": made.time_unix_s,
            "checkpoint": made.checkpoint,
            "dry_run": dry_run,
        }))?);
    }
    let text = if dry_run { tried } else { done };
    Ok(output.line(output.fill(text, &[&made.name, &made.size]))?)
}

fn existing(force: bool) -> Existing {
    if force { Existing::Replace } else { Existing::Keep }
}

fn read(path: &std::path::Path) -> anyhow::Result<String> {
    use std::io::Read as _;
    let what = || format!("cannot read {}", path.display());
    let file = std::fs::File::open(path).with_context(what)?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).with_context(what)?;
    let text = String::from_utf8(bytes).ok().filter(|text| text.len() as u64 <= MAX_FILE_BYTES);
    let no_text = || Failure::Usage(format!("{} is no such file: it is text", path.display()));
    Ok(text.ok_or_else(no_text)?)
}
