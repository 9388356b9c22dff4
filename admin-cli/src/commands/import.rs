//! Streams a file of rows to a node. Shared by `lianxi record import` and the demo.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    pin::pin,
};

use anyhow::Context as _;
use lianxi_node::domain::mapping::Mapping;
use lianxi_proto::local::v1::{
    ImportOptions, ImportProgress, ImportReport, ImportRequest, RowError,
    import_event::Event as WireEvent, import_request::Part,
};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use crate::{client::Client, failure::Failure};

/// Bytes of the file in one message: the most that the contract allows.
const CHUNK_BYTES: usize = 64 * 1024;

/// Messages on their way before the file is read on.
const CHUNKS_AHEAD: usize = 8;

/// Rows to import.
#[derive(Clone, Debug)]
pub(crate) enum Rows {
    /// A file.
    File(PathBuf),
    /// Standard input.
    Stdin,
    /// What this program carries with it.
    Embedded(&'static [u8]),
}

impl Rows {
    fn open(&self) -> anyhow::Result<Box<dyn Read + Send>> {
        Ok(match self {
            Self::File(path) => {
                let file = fs::File::open(path);
                Box::new(file.with_context(|| format!("cannot read {}", path.display()))?)
            }
            Self::Stdin => Box::new(io::stdin()),
            Self::Embedded(bytes) => Box::new(*bytes),
        })
    }

    /// Size of the file in bytes, if it can be known.
    pub(crate) fn size(&self) -> Option<u64> {
        match self {
            Self::File(path) => fs::metadata(path).ok().map(|metadata| metadata.len()),
            Self::Stdin => None,
            Self::Embedded(bytes) => u64::try_from(bytes.len()).ok(),
        }
    }
}

/// What a node tells while it imports.
#[derive(Debug)]
pub(crate) enum Event {
    /// How far it is, and how many bytes of the file were sent.
    Progress {
        /// The node's word.
        progress: ImportProgress,
        /// Bytes of the file, packed or not.
        sent_bytes: u64,
    },
    /// One bad row.
    RowError(RowError),
}

/// Reads a mapping with its look-up tables, which lie beside it.
///
/// # Errors
///
/// The mapping or a look-up table cannot be read or is wrong; the text names the place.
pub(crate) fn mapping(path: &Path) -> anyhow::Result<Mapping> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let beside = path.parent().unwrap_or_else(|| Path::new(""));
    let parsed = if path.extension().is_some_and(|extension| extension == "json") {
        Mapping::from_json(text.as_bytes())
    } else {
        Mapping::from_toml(&text, |name| read_beside(beside, name))
    };
    parsed.map_err(|error| Failure::Usage(format!("{}: {error}", path.display())).into())
}

/// Reads a look-up table of the mapping in `folder`. A mapping can come from somebody else: it names
/// what lies beside it, in its folder or below, and leads to no other file.
fn read_beside(folder: &Path, name: &str) -> io::Result<String> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let (folder, file) = (fs::canonicalize(folder)?, fs::canonicalize(folder.join(name))?);
    if !file.starts_with(&folder) {
        return Err(io::Error::other("it lies outside the folder of the mapping; copy it there"));
    }
    fs::read_to_string(file)
}

/// Imports `rows` and tells `on_event` what happens; ends with the node's report.
///
/// # Errors
///
/// The rows cannot be read, or what the node says. Rows that the node acknowledged stay.
pub(crate) async fn import(
    client: &Client,
    options: ImportOptions,
    rows: &Rows,
    mut on_event: impl FnMut(Event),
) -> anyhow::Result<ImportReport> {
    let source = rows.open()?;
    let (requests, waiting) = mpsc::channel(CHUNKS_AHEAD);
    let (sent, sent_bytes) = watch::channel(0);
    // Held until the file is read to its end: a file that cannot be read must cut the import off
    // and not end it, or the node would take the rows so far for the whole.
    let hold = requests.clone();
    let reader = tokio::task::spawn_blocking(move || send(source, options, &requests, &sent));
    let mut exchange = pin!(exchange(client, waiting, sent_bytes, &mut on_event));
    let early = tokio::select! {
        report = &mut exchange => Some(report),
        read = reader => {
            read.context("cannot read the rows")?.context("cannot read the rows")?;
            None
        }
    };
    drop(hold);
    match early {
        Some(report) => report,
        None => exchange.await,
    }
}

async fn exchange(
    client: &Client,
    waiting: mpsc::Receiver<ImportRequest>,
    sent_bytes: watch::Receiver<u64>,
    on_event: &mut impl FnMut(Event),
) -> anyhow::Result<ImportReport> {
    let answer = client.records().import(ReceiverStream::new(waiting)).await;
    let mut events = answer.context("cannot import")?.into_inner();
    let mut report = None;
    while let Some(event) = events.message().await.context("cannot import")? {
        match event.event {
            Some(WireEvent::Progress(progress)) => {
                on_event(Event::Progress { progress, sent_bytes: *sent_bytes.borrow() });
            }
            Some(WireEvent::RowError(error)) => on_event(Event::RowError(error)),
            Some(WireEvent::Report(last)) => report = Some(last),
            None => {}
        }
    }
    report.context("the node ended the import without a report")
}

/// Sends the options and the file. Ends early if nobody listens: then the node has said why.
fn send(
    mut source: Box<dyn Read + Send>,
    options: ImportOptions,
    requests: &mpsc::Sender<ImportRequest>,
    sent: &watch::Sender<u64>,
) -> io::Result<()> {
    let mut part = Part::Options(options);
    let mut total = 0_u64;
    while requests.blocking_send(ImportRequest { part: Some(part) }).is_ok() {
        sent.send_replace(total);
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        let limit = u64::try_from(CHUNK_BYTES).unwrap_or(u64::MAX);
        source.by_ref().take(limit).read_to_end(&mut chunk)?;
        if chunk.is_empty() {
            break;
        }
        total = total.saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
        part = Part::Chunk(chunk);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_sent_after_its_options_in_chunks_that_the_contract_allows() {
        let (requests, mut waiting) = mpsc::channel(100);
        let (sent, sent_bytes) = watch::channel(0);
        let bytes: Vec<u8> = (0..200_000_u32).map(|byte| (byte % 251) as u8).collect();
        let source = Box::new(io::Cursor::new(bytes.clone()));
        let options =
            ImportOptions { file_name: "rows.csv".to_owned(), ..ImportOptions::default() };
        send(source, options.clone(), &requests, &sent).unwrap();
        drop(requests);
        assert_eq!(waiting.blocking_recv().unwrap().part, Some(Part::Options(options)));
        let mut received = Vec::new();
        while let Some(ImportRequest { part: Some(Part::Chunk(chunk)) }) = waiting.blocking_recv() {
            assert!(chunk.len() <= CHUNK_BYTES);
            received.extend(chunk);
        }
        assert!(received == bytes);
        assert_eq!(*sent_bytes.borrow(), 200_000);
    }

    #[test]
    fn a_node_that_hangs_up_ends_the_reading() {
        let (requests, waiting) = mpsc::channel(1);
        drop(waiting);
        let (sent, _) = watch::channel(0);
        send(Box::new(io::repeat(0)), ImportOptions::default(), &requests, &sent).unwrap();
    }

    #[test]
    fn a_mapping_that_is_not_there_is_told_by_name() {
        let error = mapping(Path::new("/nowhere/m.toml")).unwrap_err();
        assert_eq!(error.to_string(), "cannot read /nowhere/m.toml");
    }
}
