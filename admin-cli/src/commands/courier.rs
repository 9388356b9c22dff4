//! `lianxi courier`: files that carry statements across an air gap (摆渡包).
//!
//! Promises that a file which was written is whole, and that what a file lacks is told: a gap has an
//! exit code of its own.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use clap::Subcommand;
use lianxi_node::{domain::unit::UnitCode, services::courier::Error as CourierError};
use lianxi_proto::admin::v1::{
    CourierExportRequest, CourierExported, CourierGap, CourierImportOptions, CourierImportRequest,
    CourierImported, CourierPeer, CourierStatusRequest, courier_export_response::Kind as Written,
    courier_import_request::Part, courier_import_response::Kind as Took,
};
use serde_json::{Value, json};

use super::Context;
use crate::{
    client::Client,
    durable::{self, Existing},
    failure::Failure,
    output::Output,
    table::Table,
    texts::Text,
    values::{self, Size},
};

/// Bytes of a file in one message.
const CHUNK_BYTES: usize = 512 * 1024;

/// What to do with courier files.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Write what waits for a neighbour into a file that it alone can open
    Export(Export),
    /// Take a neighbour's file in; repeating it does no harm
    Import(Import),
    /// What waits for each neighbour, which file was last, what is missing
    Status(Status),
}

/// Arguments of `lianxi courier export`.
#[derive(Debug, clap::Args)]
pub(crate) struct Export {
    /// Parent or child that it is for [default: the parent]
    #[arg(long, value_name = "UNIT")]
    to: Option<UnitCode>,
    /// Unit that sends [default: the one that the host is for]
    #[arg(long)]
    unit: Option<UnitCode>,
    /// File to write; further ones get its name with .2, .3 and so on
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Largest file, 384KiB to 64MiB
    #[arg(long, value_name = "SIZE", default_value = "16MiB")]
    max_size: Size,
    /// Write over the file if it is there
    #[arg(long)]
    force: bool,
    /// Say what would be written, write nothing
    #[arg(long)]
    dry_run: bool,
}

/// Arguments of `lianxi courier import`.
#[derive(Debug, clap::Args)]
pub(crate) struct Import {
    /// Files to take in
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Unit that they are for [default: whichever of the host can open them]
    #[arg(long)]
    unit: Option<UnitCode>,
    /// Verify, take nothing in
    #[arg(long)]
    dry_run: bool,
}

/// Arguments of `lianxi courier status`.
#[derive(Debug, clap::Args)]
pub(crate) struct Status {
    /// Unit [default: the one that the host is for]
    #[arg(long)]
    unit: Option<UnitCode>,
}

impl Verb {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        match self {
            Self::Export(export) => export.run(context).await,
            Self::Import(import) => import.run(context).await,
            Self::Status(status) => status.run(context).await,
        }
    }
}

/// Where a file of an export goes.
fn place(out: &Path, part: u32) -> PathBuf {
    if part == 1 {
        return out.to_owned();
    }
    let mut name = out.as_os_str().to_owned();
    name.push(format!(".{part}"));
    name.into()
}

/// A file on its way from the node.
struct Coming {
    path: PathBuf,
    size_bytes: u64,
    bytes: Vec<u8>,
}

impl Export {
    async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let output = context.output();
        let existing = if self.force { Existing::Replace } else { Existing::Keep };
        if !self.dry_run {
            durable::check(&self.out, existing)?;
        }
        let client = context.client().await?;
        let request = CourierExportRequest {
            unit: context.unit(&client, self.unit.clone()).await?,
            to: self.to.as_ref().map(ToString::to_string).unwrap_or_default(),
            max_bytes: self.max_size.bytes(),
            dry_run: self.dry_run,
        };
        let (files, report) = self.receive(&client, request, existing, output).await?;
        if output.is_json() {
            let document = json!({
                "unit": report.unit, "to": report.to, "number": report.number, "files": files,
                "deliveries": report.deliveries, "size_bytes": report.size_bytes,
                "withheld": report.withheld, "dry_run": self.dry_run,
            });
            return Ok(output.document(&document)?);
        }
        self.tell(output, &files, &report);
        Ok(())
    }

    async fn receive(
        &self,
        client: &Client,
        request: CourierExportRequest,
        existing: Existing,
        output: &Output,
    ) -> anyhow::Result<(Vec<PathBuf>, CourierExported)> {
        let answer = client.courier().export(request).await.context("cannot export")?;
        let mut stream = answer.into_inner();
        let (mut files, mut coming, mut report) = (Vec::new(), None::<Coming>, None);
        while let Some(answer) = stream.message().await.context("cannot export")? {
            match answer.kind {
                Some(Written::File(file)) => {
                    let path = place(&self.out, file.part);
                    let size = values::size(file.size_bytes);
                    let values: [&dyn std::fmt::Display; 3] =
                        [&path.display(), &file.deliveries, &size];
                    output.progress(output.fill(Text::CourierWriting, &values));
                    let size_bytes = file.size_bytes;
                    coming = Some(Coming { path, size_bytes, bytes: Vec::new() });
                }
                Some(Written::Chunk(chunk)) => {
                    let file = coming.as_mut().context("the node sent bytes of no file")?;
                    file.bytes.extend_from_slice(&chunk);
                    if file.bytes.len() as u64 == file.size_bytes {
                        durable::write(&file.path, &file.bytes, existing)?;
                        files.extend(coming.take().map(|file| file.path));
                    }
                }
                Some(Written::Report(last)) => report = Some(last),
                None => bail!("the node answered something that this program does not know"),
            }
        }
        let report = report.context("the node ended the export without a report")?;
        Ok((files, report))
    }

    fn tell(&self, output: &Output, files: &[PathBuf], report: &CourierExported) {
        let size = values::size(report.size_bytes);
        let values: [&dyn std::fmt::Display; 4] =
            [&report.to, &report.deliveries, &report.files, &size];
        if self.dry_run {
            output.note(output.fill(Text::CourierWouldExport, &values));
        } else {
            output.note(output.fill(Text::CourierExported, &values));
            for file in files {
                output.note(format!("  {}", file.display()));
            }
        }
        if let Some(text) = withheld(&report.withheld) {
            output.note(output.text(text));
        }
    }
}

/// Why statements stayed behind.
fn withheld(word: &str) -> Option<Text> {
    match word {
        "" => None,
        "returns" => Some(Text::CourierReturns),
        _ => Some(Text::CourierStopped),
    }
}

/// Reads a file; one that is too large is not read to its end.
fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let limit = lianxi_node::domain::courier::MAX_FILE_BYTES;
    let cannot = || format!("cannot read {}", path.display());
    let mut bytes = Vec::new();
    let file = File::open(path).with_context(cannot)?;
    file.take(limit + 1).read_to_end(&mut bytes).with_context(cannot)?;
    if bytes.len() as u64 > limit {
        let text = format!("{}: {}", path.display(), CourierError::TooLarge);
        return Err(Failure::Usage(text).into());
    }
    Ok(bytes)
}

impl Import {
    async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let output = context.output();
        let client = context.client().await?;
        let mut imported = Vec::new();
        for path in &self.files {
            let report = self.import(&client, path, output).await;
            let report = report.with_context(|| format!("cannot import {}", path.display()))?;
            if !output.is_json() {
                self.tell(output, path, &report);
            }
            imported.push((path, report));
        }
        if output.is_json() {
            let files: Vec<Value> =
                imported.iter().map(|(path, report)| imported_json(path, report)).collect();
            output.document(&json!({ "files": files, "dry_run": self.dry_run }))?;
        }
        // What a later file closed is no gap any more.
        let mut open = std::collections::BTreeMap::new();
        for (_, report) in &imported {
            open.insert((&report.unit, &report.from), report.gaps.len());
        }
        match open.values().sum() {
            0 => Ok(()),
            gaps => Err(Failure::CourierGap(gaps).into()),
        }
    }

    async fn import(
        &self,
        client: &Client,
        path: &Path,
        output: &Output,
    ) -> anyhow::Result<CourierImported> {
        let bytes = read(path)?;
        let options = CourierImportOptions {
            unit: self.unit.as_ref().map(ToString::to_string).unwrap_or_default(),
            dry_run: self.dry_run,
        };
        let mut parts = vec![CourierImportRequest { part: Some(Part::Options(options)) }];
        parts.extend(
            bytes
                .chunks(CHUNK_BYTES)
                .map(|chunk| CourierImportRequest { part: Some(Part::Chunk(chunk.to_vec())) }),
        );
        drop(bytes);
        let mut stream = client.courier().import(tokio_stream::iter(parts)).await?.into_inner();
        let mut report = None;
        while let Some(answer) = stream.message().await? {
            match answer.kind {
                Some(Took::Progress(progress)) => {
                    let values: [&dyn std::fmt::Display; 2] = [&progress.deliveries, &progress.of];
                    output.progress(output.fill(Text::CourierTaking, &values));
                }
                Some(Took::Report(last)) => report = Some(last),
                None => bail!("the node answered something that this program does not know"),
            }
        }
        report.context("the node ended the import without a report; import the file again")
    }

    fn tell(&self, output: &Output, path: &Path, report: &CourierImported) {
        let values: [&dyn std::fmt::Display; 6] = [
            &path.display(),
            &report.from,
            &report.number,
            &report.taken,
            &report.known,
            &report.waiting,
        ];
        if self.dry_run {
            let values: [&dyn std::fmt::Display; 4] =
                [&path.display(), &report.from, &report.number, &report.deliveries];
            output.note(output.fill(Text::CourierWouldImport, &values));
        } else {
            output.note(output.fill(Text::CourierImported, &values));
        }
        if report.order == "late" {
            output.note(output.text(Text::CourierLate));
        }
        if let Some(text) = withheld(&report.withheld) {
            output.note(output.text(text));
        }
        for gap in &report.gaps {
            output.note(output.fill(Text::CourierGap, &[&gap.lane, &gap.have, &gap.after]));
        }
    }
}

fn gaps_json(gaps: &[CourierGap]) -> Vec<Value> {
    gaps.iter()
        .map(|gap| json!({ "lane": gap.lane, "have": gap.have, "after": gap.after }))
        .collect()
}

fn imported_json(path: &Path, report: &CourierImported) -> Value {
    json!({
        "file": path, "unit": report.unit, "from": report.from, "number": report.number,
        "part": report.part, "last": report.last, "order": report.order,
        "deliveries": report.deliveries, "taken": report.taken, "known": report.known,
        "waiting": report.waiting, "gaps": gaps_json(&report.gaps), "withheld": report.withheld,
        "exported_unix_ms": report.exported_unix_ms,
    })
}

impl Status {
    async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let output = context.output();
        let client = context.client().await?;
        let unit = context.unit(&client, self.unit).await?;
        let request = CourierStatusRequest { unit: unit.clone() };
        let answer = client.courier().status(request).await;
        let peers = answer.context("cannot ask for the state of the courier")?.into_inner().peers;
        if output.is_json() {
            let peers: Vec<Value> = peers.iter().map(peer_json).collect();
            return Ok(output.document(&json!({ "unit": unit, "peers": peers }))?);
        }
        Ok(output.table(&table(output, &peers), Text::NoNeighbours)?)
    }
}

fn peer_json(peer: &CourierPeer) -> Value {
    json!({
        "peer": peer.peer, "parent": peer.parent, "linked": peer.linked, "waiting": peer.waiting,
        "exported_number": peer.exported_number, "exported_unix_ms": peer.exported_unix_ms,
        "imported_number": peer.imported_number, "imported_unix_ms": peer.imported_unix_ms,
        "gaps": gaps_json(&peer.gaps),
    })
}

fn table(output: &Output, peers: &[CourierPeer]) -> Table {
    let mut table = Table::new()
        .text(output.text(Text::Peer))
        .text(output.text(Text::Link))
        .number(output.text(Text::Waiting))
        .number(output.text(Text::LastExport))
        .text(output.text(Text::Time))
        .number(output.text(Text::LastImport))
        .text(output.text(Text::Time))
        .text(output.text(Text::Gaps));
    for peer in peers {
        let link = if peer.linked { Text::LinkUp } else { Text::LinkDown };
        let gap = |gap: &CourierGap| format!("{} {}..{}", gap.lane, gap.have + 1, gap.after);
        let gaps: Vec<String> = peer.gaps.iter().map(gap).collect();
        table.row([
            &peer.peer,
            output.text(link),
            &peer.waiting.to_string(),
            &peer.exported_number.to_string(),
            &values::time(peer.exported_unix_ms),
            &peer.imported_number.to_string(),
            &values::time(peer.imported_unix_ms),
            &gaps.join(", "),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_one_export_are_numbered_behind_the_name() {
        let out = Path::new("/media/usb/street.courier");
        assert_eq!(place(out, 1), out);
        assert_eq!(place(out, 3), Path::new("/media/usb/street.courier.3"));
    }
}
