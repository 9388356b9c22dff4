//! `lianxi unit receive`, `move-host`, `export`, `import`, `confirm`: a unit goes to another host.
//!
//! The file is sealed by the old host and opened by the new one; this program only carries it.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use futures::stream;
use lianxi_node::{
    domain::unit::UnitCode,
    node::{JoinOptions, receive_offline},
    services::transfer::request_text,
};
use lianxi_proto::admin::v1::{
    AnnounceMoveRequest, ConfirmMoveRequest, DownloadUnitRequest, ExportUnitRequest,
    ImportUnitRequest, ReceiveUnitRequest, UnitFileChunk, UnitMove,
};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;

use super::super::Context;
use crate::{
    client::Client,
    durable::{self, Existing, Growing},
    failure::Failure,
    output::Output,
    table::Table,
    texts::Text,
};

/// Bytes of one chunk to the node.
const CHUNK_BYTES: usize = 256 * 1024;

/// Longest confirmation that is read.
const MAX_CONFIRMATION_BYTES: u64 = 256 * 1024;

/// Arguments of `lianxi unit receive`.
///
/// With a node running in the directory the unit will be served there, beside the others; else the
/// directory becomes a new host, to be started before the import.
#[derive(Debug, clap::Args)]
pub(crate) struct Receive {
    /// Unit that is to come
    unit: UnitCode,
    /// Address for the unit's own children, if a new host is made
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Address that children dial, if it is not the one of --listen; can be given more than once
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Vec<String>,
}

impl Receive {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let output = context.output();
        let (request, addresses) = match context.client().await {
            Ok(client) => {
                let unit = self.unit.to_string();
                let request = ReceiveUnitRequest { unit, addresses: self.advertise };
                let answer = client.transfers().receive(request).await;
                let answer = answer.context("cannot await the unit")?.into_inner();
                (answer.request, answer.addresses)
            }
            Err(Failure::NoNode(_)) => {
                let options = JoinOptions {
                    listen: self.listen,
                    advertise: self.advertise,
                    ..JoinOptions::default()
                };
                let made = receive_offline(context.dir(), &self.unit, options).await;
                let made = made.context("cannot make the host")?;
                (request_text(&made), made.addresses)
            }
            Err(failure) => return Err(failure.into()),
        };
        if output.is_json() {
            let document = json!({
                "unit": self.unit.as_str(),
                "request": request,
                "addresses": addresses,
            });
            return Ok(output.document(&document)?);
        }
        output.line(request)?;
        output.note(output.text(Text::MoveAwaited));
        Ok(())
    }
}

/// Arguments of `lianxi unit move-host`.
#[derive(Debug, clap::Args)]
pub(crate) struct MoveHost {
    /// Unit of this host that goes
    unit: UnitCode,
    /// What `lianxi unit receive` printed at the new host
    #[arg(long, value_name = "REQUEST")]
    to: String,
    /// Show what would be moved, tell nobody
    #[arg(long)]
    dry_run: bool,
}

impl MoveHost {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let (client, output) = (context.client().await?, context.output());
        let (unit, dry_run) = (self.unit.to_string(), self.dry_run);
        let request = AnnounceMoveRequest { unit, to: self.to, dry_run };
        let answer = client.transfers().announce(request).await;
        let shown = answer.context("cannot tell the children")?.into_inner();
        if output.is_json() {
            return document(output, &shown, dry_run);
        }
        print(output, &shown)?;
        if dry_run {
            would(output, &shown);
        } else {
            let addresses = shown.addresses.join(", ");
            output.note(output.fill(Text::MoveAnnounced, &[&shown.unit, &addresses]));
        }
        Ok(())
    }
}

/// Arguments of `lianxi unit export`.
///
/// From then on the unit never runs here again. The command can be given again, also for another new
/// host, until the arrival is confirmed.
#[derive(Debug, clap::Args)]
pub(crate) struct Export {
    /// Unit of this host that goes
    unit: UnitCode,
    /// What `lianxi unit receive` printed at the new host
    #[arg(long, value_name = "REQUEST")]
    to: String,
    /// File to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Write over the file if it is there
    #[arg(long)]
    force: bool,
    /// Who approves it: two people, the option once for each. Accounts approve where there are any
    #[arg(long, value_name = "NAME")]
    approved_by: Vec<String>,
    /// Go even though some children do not know the new address
    #[arg(long)]
    leave_behind: bool,
    /// Show what would be moved, stop nothing
    #[arg(long)]
    dry_run: bool,
}

impl Export {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let existing = if self.force { Existing::Replace } else { Existing::Keep };
        durable::check(&self.out, existing)?;
        let (client, output) = (context.client().await?, context.output());
        let request = ExportUnitRequest {
            unit: self.unit.to_string(),
            to: self.to,
            approved_by: self.approved_by,
            dry_run: self.dry_run,
            leave_behind: self.leave_behind,
        };
        let answer = client.transfers().export(request).await;
        let shown = answer.context("cannot export the unit")?.into_inner();
        if !self.dry_run {
            fetch(&client, &self.unit, &self.out, existing).await?;
        }
        if output.is_json() {
            return document(output, &shown, self.dry_run);
        }
        print(output, &shown)?;
        if self.dry_run {
            would(output, &shown);
        } else {
            let file = self.out.display();
            output.note(output.fill(Text::MoveExported, &[&shown.unit, &shown.to_host, &file]));
        }
        Ok(())
    }
}

/// Writes the exported file where it is wanted.
async fn fetch(
    client: &Client,
    unit: &UnitCode,
    out: &Path,
    existing: Existing,
) -> anyhow::Result<()> {
    let cannot = || format!("{unit} stopped here; give the command again for its file");
    let request = DownloadUnitRequest { unit: unit.to_string() };
    let answer = client.transfers().download(request).await.with_context(cannot)?;
    let (mut chunks, mut file) = (answer.into_inner(), Growing::begin(out, existing)?);
    while let Some(UnitFileChunk { chunk }) = chunks.message().await.with_context(cannot)? {
        file.add(&chunk).with_context(cannot)?;
    }
    file.finish().with_context(cannot)
}

/// Arguments of `lianxi unit import`.
#[derive(Debug, clap::Args)]
pub(crate) struct Import {
    /// File that the old host wrote
    #[arg(required_unless_present = "again")]
    file: Option<PathBuf>,
    /// Unit that came here before, to write its confirmation again
    #[arg(long, value_name = "UNIT", conflicts_with = "file", requires = "confirmation")]
    again: Option<UnitCode>,
    /// File to write for the old host: the unit's own word that it is here
    #[arg(long, value_name = "FILE")]
    confirmation: Option<PathBuf>,
    /// Who approves it: two people, the option once for each. Accounts approve where there are any
    #[arg(long, value_name = "NAME")]
    approved_by: Vec<String>,
    /// Check the whole file, keep nothing
    #[arg(long)]
    dry_run: bool,
}

impl Import {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        if let Some(path) = &self.confirmation {
            durable::check(path, Existing::Keep)?;
        }
        let (client, output) = (context.client().await?, context.output());
        let (unit, sha256) = match (&self.file, &self.again) {
            (Some(file), _) => upload(&client, file).await?,
            (None, unit) => (unit.iter().map(UnitCode::to_string).collect(), Vec::new()),
        };
        let request = ImportUnitRequest {
            unit,
            sha256,
            approved_by: self.approved_by,
            dry_run: self.dry_run || self.again.is_some(),
        };
        let answer = client.transfers().import(request).await;
        let shown = answer.context("cannot take the unit in")?.into_inner();
        if let Some(path) = self.confirmation.filter(|_| !self.dry_run) {
            durable::write(&path, &shown.confirmation, Existing::Keep)?;
        }
        if output.is_json() {
            return document(output, &shown, self.dry_run);
        }
        print(output, &shown)?;
        if self.dry_run {
            would(output, &shown);
        } else {
            let values: [&dyn std::fmt::Display; 3] = [&shown.unit, &shown.from_host, &shown.epoch];
            output.note(output.fill(Text::MoveImported, &values));
        }
        Ok(())
    }
}

/// Hands a file to the node: the unit that it was sealed for, and its SHA-256.
async fn upload(client: &Client, file: &Path) -> anyhow::Result<(String, Vec<u8>)> {
    let path = file.display().to_string();
    let file = tokio::fs::File::open(file).await.with_context(|| format!("cannot read {path}"))?;
    let chunks = stream::unfold(file, |mut file| async {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        let read = (&mut file).take(CHUNK_BYTES as u64).read_to_end(&mut chunk).await;
        // A file that cannot be read to its end is refused as one that was cut off.
        read.is_ok_and(|bytes| bytes > 0).then_some((UnitFileChunk { chunk }, file))
    });
    let uploaded = client.transfers().upload(chunks).await;
    let uploaded = uploaded.with_context(|| format!("{path} is refused"))?.into_inner();
    Ok((uploaded.unit, uploaded.sha256))
}

/// Arguments of `lianxi unit confirm`.
#[derive(Debug, clap::Args)]
pub(crate) struct Confirm {
    /// Unit that went
    unit: UnitCode,
    /// What `lianxi unit import --confirmation` wrote at the new host
    #[arg(long, value_name = "FILE")]
    confirmation: PathBuf,
    /// Check the confirmation, erase nothing
    #[arg(long)]
    dry_run: bool,
}

impl Confirm {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let (client, output) = (context.client().await?, context.output());
        let path = self.confirmation.display().to_string();
        let cannot = || format!("cannot read {path}");
        let length = fs::metadata(&self.confirmation).with_context(cannot)?.len();
        if length > MAX_CONFIRMATION_BYTES {
            return Err(Failure::Usage(format!("{path} is too long for a confirmation")).into());
        }
        let request = ConfirmMoveRequest {
            unit: self.unit.to_string(),
            confirmation: fs::read(&self.confirmation).with_context(cannot)?,
            dry_run: self.dry_run,
        };
        let answer = client.transfers().confirm(request).await;
        let shown = answer.context("cannot erase the unit here")?.into_inner();
        if output.is_json() {
            return document(output, &shown, self.dry_run);
        }
        let text = if self.dry_run { Text::WouldConfirm } else { Text::MoveConfirmed };
        output.note(output.fill(text, &[&shown.unit, &shown.to_host]));
        Ok(())
    }
}

fn would(output: &Output, shown: &UnitMove) {
    let values: [&dyn std::fmt::Display; 3] = [&shown.unit, &shown.from_host, &shown.to_host];
    output.note(output.fill(Text::WouldMove, &values));
}

fn document(output: &Output, shown: &UnitMove, dry_run: bool) -> anyhow::Result<()> {
    let open = shown.open.iter();
    let open: Vec<Value> = open
        .map(|item| json!({ "kind": item.kind, "number": item.number, "party": item.party }))
        .collect();
    let children = shown.children.iter();
    let children: Vec<Value> =
        children.map(|child| json!({ "unit": child.unit, "knows": child.knows })).collect();
    Ok(output.document(&json!({
        "unit": shown.unit,
        "from_host": shown.from_host,
        "to_host": shown.to_host,
        "addresses": shown.addresses,
        "records": shown.records,
        "accounts": shown.accounts,
        "notices": shown.notices,
        "escalations": shown.escalations,
        "clocks": shown.clocks,
        "open": open,
        "successor": shown.unit,
        "unsent": shown.unsent,
        "children": children,
        "rows": shown.rows,
        "keys": shown.keys,
        "size_bytes": shown.size_bytes,
        "sha256": hex::encode(&shown.sha256),
        "stopped_unix_ms": shown.stopped_unix_ms,
        "epoch": shown.epoch,
        "dry_run": dry_run,
    }))?)
}

/// Prints what a unit takes along, and who does not find it there yet.
fn print(output: &Output, shown: &UnitMove) -> anyhow::Result<()> {
    let mut table = Table::new()
        .text(output.text(Text::Unit))
        .number(output.text(Text::Records))
        .number(output.text(Text::Accounts))
        .number(output.text(Text::Notices))
        .number(output.text(Text::Escalations))
        .number(output.text(Text::Clocks));
    table.row([
        shown.unit.clone(),
        shown.records.to_string(),
        shown.accounts.len().to_string(),
        shown.notices.to_string(),
        shown.escalations.to_string(),
        shown.clocks.to_string(),
    ]);
    output.table(&table, Text::NothingMoves)?;
    for item in &shown.open {
        output.line(format!("{}  {} {} ({})", shown.unit, item.kind, item.number, item.party))?;
    }
    for account in &shown.accounts {
        output.note(output.fill(Text::AccountStays, &[account]));
    }
    for child in shown.children.iter().filter(|child| !child.knows) {
        output.note(output.fill(Text::ChildUnknowing, &[&child.unit]));
    }
    Ok(())
}
