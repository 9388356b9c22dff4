//! Imports: files of rows that become records of the host's units, whatever happens in between.
//!
//! An uploaded file is spooled, synced and written down before the first row is applied. What is
//! applied is written down too: by the host from chunk to chunk, by each unit in the same commit
//! as its records. After a crash [`Imports::resume`] goes on from there, so that every row counts
//! once. Imports of one host wait for each other, an interrupted one goes first: a file never
//! overtakes an older one. Reasons and logs never hold a value of a row.

mod job;
mod rows;
mod scan;
mod spool;

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{
    sync::{Mutex, mpsc},
    task,
};

use self::{job::Job, spool::Spool};
use crate::{
    clock::Clock,
    domain::{
        catalogue::Catalogue,
        mapping::{self, Mapping},
        unit::UnitCode,
    },
    services::records::{self, Records},
    store::{self, Store},
    telemetry::metrics::{Metrics, Outcome},
};

/// Bytes of the disk that an upload leaves free.
const RESERVE_BYTES: u64 = 256 * 1024 * 1024;

/// Bytes between two looks at the disk.
const LOOK_BYTES: u64 = 16 * 1024 * 1024;

/// Longest name of a file that is kept.
const MAX_NAME_CHARS: usize = 255;

/// Why an import was refused, or ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The mapping is wrong, or does not fit the file.
    #[error(transparent)]
    Mapping(#[from] mapping::Error),
    /// A unit of the mapping has no catalogue.
    #[error("unit {0} has no catalogue yet; publish one, or wait until its parent's arrives")]
    NoCatalogue(UnitCode),
    /// A unit's catalogue has no such record type.
    #[error(
        "catalogue {catalogue} of unit {unit} has no record type {record_type:?}; correct \
         record_type of the mapping, or publish a catalogue that has it"
    )]
    RecordType {
        /// The unit.
        unit: UnitCode,
        /// The mapping's record type.
        record_type: String,
        /// `name@version`.
        catalogue: String,
    },
    /// The file is no CSV.
    #[error("the file is {0}")]
    Kind(&'static str),
    /// The file has no rows at all.
    #[error("the file is empty; its first row must name the columns")]
    Empty,
    /// The first row is malformed.
    #[error("the heading in line 1 cannot be read: {0}")]
    Heading(&'static str),
    /// The packed file does not unpack.
    #[error("the packed file is damaged or cut off; pack it and send it again")]
    Gzip,
    /// The file is too large.
    #[error("the file is larger than {0} bytes unpacked; divide it")]
    TooLarge(u64),
    /// The disk is full.
    #[error(
        "the disk of {} is full: an import leaves {} MiB free; make room and import the file again",
        .0.display(),
        RESERVE_BYTES >> 20
    )]
    DiskFull(PathBuf),
    /// A spooled file cannot be written or read.
    #[error("the spooled file {} cannot be used", .path.display())]
    Spool {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// A unit's records cannot be written.
    #[error(transparent)]
    Records(#[from] records::Error),
    /// The store failed.
    #[error("cannot write down the import")]
    Store(#[from] store::Error),
    /// A row about an import was never written by a program that this one knows.
    #[error("what was written down about import {0} cannot be read; use a newer program")]
    Unreadable(u64),
    /// The node stops.
    #[error("the import was cut off; it goes on when the node starts again")]
    CutOff,
}

impl Error {
    fn spool(path: &Path, error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::StorageFull {
            return Self::DiskFull(path.parent().unwrap_or(path).to_owned());
        }
        Self::Spool { path: path.to_owned(), error }
    }

    /// The store's part in it.
    fn store(&self) -> Option<&store::Error> {
        match self {
            Self::Store(error) | Self::Records(records::Error::Store(error)) => Some(error),
            Self::Mapping(_)
            | Self::NoCatalogue(_)
            | Self::RecordType { .. }
            | Self::Kind(_)
            | Self::Empty
            | Self::Heading(_)
            | Self::Gzip
            | Self::TooLarge(_)
            | Self::DiskFull(_)
            | Self::Spool { .. }
            | Self::Records(_)
            | Self::Unreadable(_)
            | Self::CutOff => None,
        }
    }
}

/// The units that rows can be given to.
pub trait Targets: Send + Sync + 'static {
    /// Records of a unit of this host; `None`: the unit is on another.
    fn records(&self, unit: &UnitCode) -> Option<Arc<Records>>;

    /// Catalogue in force at a unit of this host; `None`: none yet.
    fn catalogue(&self, unit: &UnitCode) -> Option<Arc<Catalogue>>;
}

/// What is asked of an import.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The mapping as JSON.
    pub mapping: Vec<u8>,
    /// Keep nothing if one row is bad. False: the good rows stand.
    pub all_or_nothing: bool,
    /// Check everything, keep nothing.
    pub dry_run: bool,
    /// Name of the file, for messages.
    pub file_name: String,
}

/// A bad row, or one of several faults of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RowError {
    /// Line of the file where the row begins, from 1, the heading line counted.
    pub line: u64,
    /// Column of the file; empty: the row as a whole.
    pub column: String,
    /// JSON pointer into the record; empty: the row never became a record.
    pub record_path: String,
    /// JSON pointer into the schema.
    pub schema_path: String,
    /// What is wrong, without the value.
    pub reason: String,
}

/// What an import tells while it runs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Event {
    /// About twice a second.
    Progress {
        /// Rows that are done.
        rows: u64,
        /// Bytes of the unpacked file.
        bytes_received: u64,
        /// Bytes that are done.
        bytes_done: u64,
    },
    /// A bad row.
    RowError(RowError),
}

/// What became of a file.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Report {
    /// Number of the import on this host; 0 for a dry run.
    pub import_id: u64,
    /// Rows of the file.
    pub rows: u64,
    /// New records.
    pub imported: u64,
    /// Records that changed.
    pub updated: u64,
    /// Records that were there unchanged.
    pub unchanged: u64,
    /// Rows of units of other hosts.
    pub elsewhere: u64,
    /// Bad rows.
    pub rejected: u64,
    /// True after a dry run, and if all-or-nothing met a bad row.
    pub kept_nothing: bool,
    /// Months that rows of this host belong to, ascending.
    pub periods: BTreeSet<String>,
}

impl Report {
    fn count(&self) {
        let metrics = Metrics::installed();
        metrics.rows_imported(Outcome::Imported, self.imported);
        metrics.rows_imported(Outcome::Updated, self.updated);
        metrics.rows_imported(Outcome::Unchanged, self.unchanged);
        metrics.rows_imported(Outcome::Rejected, self.rejected);
    }
}

/// Imports of one host.
#[derive(Clone)]
pub struct Imports(Arc<Inner>);

struct Inner {
    store: Arc<dyn Store>,
    host: UnitCode,
    directory: PathBuf,
    targets: Arc<dyn Targets>,
    clock: Arc<dyn Clock>,
    uploads: AtomicU64,
    /// One import at a time.
    turn: Mutex<()>,
}

impl Imports {
    /// Imports into units of `targets`; `host` is the unit under whose code the host keeps its own
    /// rows, `directory` where files are spooled.
    pub fn new(
        store: Arc<dyn Store>,
        host: UnitCode,
        directory: PathBuf,
        targets: Arc<dyn Targets>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let uploads = AtomicU64::new(1);
        let turn = Mutex::new(());
        Self(Arc::new(Inner { store, host, directory, targets, clock, uploads, turn }))
    }

    /// Begins an upload.
    ///
    /// # Errors
    ///
    /// [`Error::Mapping`], [`Error::NoCatalogue`], [`Error::RecordType`], [`Error::DiskFull`] and
    /// [`Error::Spool`].
    pub async fn begin(&self, options: Options) -> Result<Upload, Error> {
        let mapping = Arc::new(Mapping::from_json(&options.mapping)?);
        scan::check_targets(self.0.targets.as_ref(), &mapping)?;
        self.0.check_disk()?;
        let number = self.0.uploads.fetch_add(1, Ordering::Relaxed);
        let directory = self.0.directory.clone();
        let name = format!("upload-{number}.csv");
        let vault = self.0.store.vault();
        let spool = blocking(move || Spool::create(&directory, &name, vault.as_deref())).await?;
        Ok(Upload {
            imports: self.clone(),
            options,
            mapping,
            spool: Some(spool),
            bytes: 0,
            looked_at: 0,
        })
    }

    /// Removes what uploads left behind that a crash cut off. Called once, before the first upload:
    /// it takes every file that no import is written down for as left behind.
    pub async fn tidy(&self) {
        if let Err(error) = self.0.remove_strays().await {
            tracing::warn!(error = %chain(&error), "spool cannot be tidied");
        }
    }

    /// Finishes the imports that a crash cut off, the oldest first. Called once. What cannot be
    /// finished is logged, and tried again before the next import.
    pub async fn resume(&self) -> Vec<Report> {
        let _turn = self.0.turn.lock().await;
        let (events, _) = mpsc::channel(1);
        match self.0.finish_pending(&events).await {
            Ok(reports) => {
                reports.iter().for_each(Report::count);
                reports
            }
            Err(error) => {
                tracing::error!(error = %chain(&error), "import cannot go on");
                Vec::new()
            }
        }
    }

    async fn run(&self, upload: Upload, events: mpsc::Sender<Event>) -> Result<Report, Error> {
        let Upload { options, mapping, spool, .. } = upload;
        let Some(mut spool) = spool else { return Err(Error::CutOff) };
        let (mut spool, bytes) = blocking(move || {
            let bytes = spool.finish()?;
            Ok((spool, bytes))
        })
        .await?;
        if options.dry_run {
            return self.0.dry_run(spool.path(), mapping, bytes, &events).await;
        }
        let _turn = self.0.turn.lock().await;
        self.0.finish_pending(&events).await?;
        let mut job = Job::new(self.0.next_id().await?, &options, bytes);
        job.begun_unix_ms = self.0.clock.now_unix_ms();
        let [file, mapping_file] = [self.0.file(job.id), self.0.mapping_file(job.id)];
        let vault = self.0.store.vault();
        blocking(move || {
            spool::write_file(&mapping_file, &options.mapping, vault.as_deref())?;
            spool.rename(file)
        })
        .await?;
        self.0.write_down(&job).await?;
        let report = self.0.run_job(job, mapping, &events).await?;
        report.count();
        Ok(report)
    }
}

/// A file on its way in. Dropping it before [`finish`](Self::finish) forgets it.
pub struct Upload {
    imports: Imports,
    options: Options,
    mapping: Arc<Mapping>,
    spool: Option<Spool>,
    bytes: u64,
    looked_at: u64,
}

impl Upload {
    /// Bytes of the unpacked file so far.
    pub fn bytes_received(&self) -> u64 {
        self.bytes
    }

    /// Takes the next bytes of the file.
    ///
    /// # Errors
    ///
    /// [`Error::Gzip`], [`Error::TooLarge`], [`Error::DiskFull`], [`Error::Spool`]; the upload is
    /// of no use afterwards.
    pub async fn write(&mut self, chunk: &[u8]) -> Result<(), Error> {
        let Some(mut spool) = self.spool.take() else { return Err(Error::CutOff) };
        let chunk = chunk.to_vec();
        let (spool, bytes) = blocking(move || {
            let bytes = spool.write(&chunk)?;
            Ok((spool, bytes))
        })
        .await?;
        self.spool = Some(spool);
        self.bytes = bytes;
        if bytes >= self.looked_at + LOOK_BYTES {
            self.looked_at = bytes;
            self.imports.0.check_disk()?;
        }
        Ok(())
    }

    /// Imports the file. Goes on to its end even if the caller does not wait for it; nobody need
    /// listen to `events`.
    ///
    /// # Errors
    ///
    /// Rows that were applied stay, and importing the file again is safe.
    pub async fn finish(self, events: mpsc::Sender<Event>) -> Result<Report, Error> {
        let imports = self.imports.clone();
        let run = tokio::spawn(async move { imports.run(self, events).await });
        run.await.unwrap_or(Err(Error::CutOff))
    }
}

/// Runs work that waits for the disk or needs the processor for long.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    task::spawn_blocking(work).await.unwrap_or(Err(Error::CutOff))
}

/// An error with its causes, for a log.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
