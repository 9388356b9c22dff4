//! One import from the file on the disk to its report, and what is written down about it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::PathBuf,
    sync::Arc,
};

use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::{
    Error, Event, Inner, MAX_NAME_CHARS, Options, RESERVE_BYTES, Report, blocking, chain,
    rows::Place,
    scan::{Chunk, Scan, UnitRows, scan},
    spool,
};
use crate::{
    clock::UnixMillis,
    domain::{mapping::Mapping, unit::UnitCode},
    services::records::{Applied, Growth, Progress, Records},
    store::{self, Batch, Table},
};

/// Version of what is written down.
const FORMAT: u8 = 1;

/// First byte of the keys of the host's rows; rows of units have another.
const HOST_ROW: u8 = 1;

/// Finished imports that stay written down.
const KEPT: u64 = 100;

/// Units that are written to at once: they share the store's barriers.
const UNITS_AT_ONCE: usize = 64;

/// Time between two events of progress.
const PROGRESS_MS: UnixMillis = 500;

/// An import as it is written down.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Job {
    pub(super) id: u64,
    file_name: String,
    all_or_nothing: bool,
    phase: Phase,
    bytes: u64,
    /// Where the rows end that this account holds.
    offset: u64,
    line: u64,
    rows: u64,
    imported: u64,
    updated: u64,
    unchanged: u64,
    elsewhere: u64,
    rejected: u64,
    kept_nothing: bool,
    periods: BTreeSet<String>,
    pub(super) begun_unix_ms: UnixMillis,
    ended_unix_ms: UnixMillis,
    failure: String,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Phase {
    /// All rows are checked before the first is applied.
    Checking,
    Applying,
    Done,
    Failed,
}

impl Job {
    pub(super) fn new(id: u64, options: &Options, bytes: u64) -> Self {
        let phase = if options.all_or_nothing { Phase::Checking } else { Phase::Applying };
        Self {
            id,
            file_name: options.file_name.chars().take(MAX_NAME_CHARS).collect(),
            all_or_nothing: options.all_or_nothing,
            phase,
            bytes,
            offset: 0,
            line: 1,
            rows: 0,
            imported: 0,
            updated: 0,
            unchanged: 0,
            elsewhere: 0,
            rejected: 0,
            kept_nothing: false,
            periods: BTreeSet::new(),
            begun_unix_ms: 0,
            ended_unix_ms: 0,
            failure: String::new(),
        }
    }

    fn key(id: u64) -> Vec<u8> {
        [&[HOST_ROW], id.to_be_bytes().as_slice()].concat()
    }

    fn encode(&self) -> Vec<u8> {
        let json = serde_json::to_vec(self).expect("invariant: an import holds numbers and text");
        [&[FORMAT], json.as_slice()].concat()
    }

    fn decode(key: &[u8], value: &[u8]) -> Result<Self, Error> {
        let id = key.last_chunk().map_or(0, |id| u64::from_be_bytes(*id));
        match value.split_first() {
            Some((&FORMAT, json)) => {
                serde_json::from_slice(json).map_err(|_| Error::Unreadable(id))
            }
            Some(_) | None => Err(Error::Unreadable(id)),
        }
    }

    fn place(&self) -> Place {
        Place { offset: self.offset, line: self.line }
    }

    /// Adds what became of the rows of a chunk, and moves to its end.
    fn advance(&mut self, tally: &Tally) {
        self.offset = tally.end.offset;
        self.line = tally.end.line;
        self.rows += tally.rows;
        self.elsewhere += tally.elsewhere;
        self.rejected += tally.rejected;
        self.imported += tally.applied.imported;
        self.updated += tally.applied.updated;
        self.unchanged += tally.applied.unchanged;
        self.periods.extend(tally.applied.months.iter().map(ToString::to_string));
    }

    fn carry(&mut self, progress: Progress) {
        self.imported += progress.imported;
        self.updated += progress.updated;
        self.unchanged += progress.unchanged;
        self.periods.extend(progress.months);
    }

    fn report(&self) -> Report {
        Report {
            import_id: self.id,
            rows: self.rows,
            imported: self.imported,
            updated: self.updated,
            unchanged: self.unchanged,
            elsewhere: self.elsewhere,
            rejected: self.rejected,
            kept_nothing: self.kept_nothing,
            periods: self.periods.clone(),
        }
    }
}

/// What became of rows.
struct Tally {
    rows: u64,
    elsewhere: u64,
    rejected: u64,
    applied: Applied,
    end: Place,
}

impl Tally {
    fn of(chunk: &Chunk) -> Self {
        Self {
            rows: chunk.rows,
            elsewhere: chunk.elsewhere,
            rejected: chunk.rejected,
            applied: Applied::default(),
            end: chunk.end,
        }
    }
}

/// Tells how far a file is, not too often.
struct Teller<'a> {
    inner: &'a Inner,
    events: &'a mpsc::Sender<Event>,
    bytes: u64,
    told_unix_ms: UnixMillis,
}

impl Teller<'_> {
    /// Whether anybody listens makes no difference to the import.
    async fn tell(&mut self, chunk: &mut Chunk, rows: u64) {
        for error in chunk.errors.drain(..) {
            let _ = self.events.send(Event::RowError(error)).await;
        }
        let now = self.inner.clock.now_unix_ms();
        if now.abs_diff(self.told_unix_ms) >= PROGRESS_MS.unsigned_abs() {
            self.told_unix_ms = now;
            let bytes_done = chunk.end.offset;
            let event = Event::Progress { rows, bytes_received: self.bytes, bytes_done };
            let _ = self.events.send(event).await;
        }
    }
}

impl Inner {
    pub(super) fn file(&self, id: u64) -> PathBuf {
        self.directory.join(format!("{id}.csv"))
    }

    pub(super) fn mapping_file(&self, id: u64) -> PathBuf {
        self.directory.join(format!("{id}.mapping.json"))
    }

    pub(super) fn check_disk(&self) -> Result<(), Error> {
        let usage = self.store.usage()?;
        if usage.free_bytes < RESERVE_BYTES {
            return Err(Error::DiskFull(self.directory.clone()));
        }
        Ok(())
    }

    pub(super) async fn next_id(&self) -> Result<u64, Error> {
        let last = self.store.last(&self.host, Table::Imports, &[HOST_ROW]).await?;
        let last = last.and_then(|(key, _)| key.last_chunk().map(|id| u64::from_be_bytes(*id)));
        Ok(last.unwrap_or_default() + 1)
    }

    pub(super) async fn write_down(&self, job: &Job) -> Result<(), Error> {
        let mut batch = Batch::new(&self.host);
        batch.put(Table::Imports, Job::key(job.id), job.encode());
        if let Some(old) = job.id.checked_sub(KEPT) {
            batch.delete(Table::Imports, Job::key(old));
        }
        Ok(self.store.submit(batch).await?)
    }

    /// Finishes what was cut off, the oldest first. Fails only if it must be tried again later.
    pub(super) async fn finish_pending(
        &self,
        events: &mpsc::Sender<Event>,
    ) -> Result<Vec<Report>, Error> {
        let mut reports = Vec::new();
        for job in self.pending().await? {
            let id = job.id;
            tracing::info!(import = id, rows = job.rows, "import goes on");
            let (path, vault) = (self.mapping_file(id), self.store.vault());
            let mapping = blocking(move || spool::read_file(&path, vault.as_deref())).await;
            let mapping = mapping.and_then(|json| Ok(Arc::new(Mapping::from_json(&json)?)));
            let result = match mapping {
                Ok(mapping) => self.run_job(job, mapping, events).await,
                Err(error) => self.end_badly(job, error).await,
            };
            match result {
                Ok(report) => reports.push(report),
                Err(error) if self.is_pending(id).await? => return Err(error),
                Err(error) => {
                    tracing::error!(import = id, error = %chain(&error), "import failed");
                }
            }
        }
        Ok(reports)
    }

    async fn pending(&self) -> Result<Vec<Job>, Error> {
        let limit = usize::try_from(KEPT).unwrap_or(usize::MAX) + 1;
        let rows = self.store.scan(&self.host, Table::Imports, &[HOST_ROW], None, limit).await?;
        let mut pending = Vec::new();
        for (key, value) in rows {
            let job = Job::decode(&key, &value)?;
            if matches!(job.phase, Phase::Checking | Phase::Applying) {
                pending.push(job);
            }
        }
        Ok(pending)
    }

    async fn is_pending(&self, id: u64) -> Result<bool, Error> {
        Ok(self.pending().await?.iter().any(|job| job.id == id))
    }

    /// Runs an import from where it is to its end.
    pub(super) async fn run_job(
        &self,
        mut job: Job,
        mapping: Arc<Mapping>,
        events: &mpsc::Sender<Event>,
    ) -> Result<Report, Error> {
        match self.advance_job(&mut job, mapping, events).await {
            Ok(()) => {
                job.phase = Phase::Done;
                job.ended_unix_ms = self.clock.now_unix_ms();
                self.write_down(&job).await?;
                self.remove_files(job.id).await?;
                Ok(job.report())
            }
            Err(error) => self.end_badly(job, error).await,
        }
    }

    /// Gives an import up, unless it must go on later: because the store failed, or because half
    /// of an all-or-nothing file is in.
    async fn end_badly(&self, mut job: Job, error: Error) -> Result<Report, Error> {
        let is_half = job.all_or_nothing && job.phase == Phase::Applying;
        let is_full = matches!(error.store(), Some(store::Error::DiskFull { .. }));
        let is_cut_off = matches!(error, Error::CutOff);
        if is_cut_off || (error.store().is_some() && (is_half || !is_full)) {
            return Err(error);
        }
        job.phase = Phase::Failed;
        job.failure = chain(&error);
        job.ended_unix_ms = self.clock.now_unix_ms();
        if self.write_down(&job).await.is_ok() {
            self.remove_files(job.id).await?;
        }
        Err(error)
    }

    async fn advance_job(
        &self,
        job: &mut Job,
        mapping: Arc<Mapping>,
        events: &mpsc::Sender<Event>,
    ) -> Result<(), Error> {
        if job.phase == Phase::Checking {
            let checked = self.check(self.file(job.id), &mapping, job.bytes, events, false).await?;
            if checked.rejected > 0 {
                job.advance(&checked);
                job.kept_nothing = true;
                return Ok(());
            }
            job.phase = Phase::Applying;
            self.write_down(job).await?;
        }
        self.apply(job, mapping, events).await
    }

    /// Checks a file and tells what it would do.
    pub(super) async fn dry_run(
        &self,
        path: &std::path::Path,
        mapping: Arc<Mapping>,
        bytes: u64,
        events: &mpsc::Sender<Event>,
    ) -> Result<Report, Error> {
        let tally = self.check(path.to_owned(), &mapping, bytes, events, true).await?;
        let mut job = Job::new(0, &Options::default(), bytes);
        job.advance(&tally);
        job.kept_nothing = true;
        Ok(job.report())
    }

    /// Reads a file to its end and keeps nothing.
    async fn check(
        &self,
        path: PathBuf,
        mapping: &Arc<Mapping>,
        bytes: u64,
        events: &mpsc::Sender<Event>,
        preview: bool,
    ) -> Result<Tally, Error> {
        let mut teller = Teller { inner: self, events, bytes, told_unix_ms: 0 };
        let mut growth: BTreeMap<UnitCode, (Arc<Records>, Growth)> = BTreeMap::new();
        let (mut chunks, scanned) = self.start_scan(path, mapping.clone(), Place::START, 0, None);
        let mut total: Option<Tally> = None;
        while let Some(mut chunk) = chunks.recv().await {
            let mut tally = Tally::of(&chunk);
            for (unit, rows) in &chunk.units {
                if preview {
                    tally.applied.add(&rows.records.preview(&rows.rows).await?);
                }
                if rows.records.quota_bytes().is_some() {
                    let (_, growth) = growth
                        .entry(unit.clone())
                        .or_insert_with(|| (rows.records.clone(), Growth::default()));
                    rows.records.measure(&rows.rows, growth).await?;
                }
            }
            if let Some(before) = total {
                tally.rows += before.rows;
                tally.elsewhere += before.elsewhere;
                tally.rejected += before.rejected;
                tally.applied.add(&before.applied);
            }
            teller.tell(&mut chunk, tally.rows).await;
            total = Some(tally);
        }
        scanned.await.unwrap_or(Err(Error::CutOff))?;
        for (records, growth) in growth.values() {
            records.check_growth(growth).await?;
        }
        total.ok_or(Error::CutOff)
    }

    /// Applies the rest of a file, from where `job` is.
    async fn apply(
        &self,
        job: &mut Job,
        mapping: Arc<Mapping>,
        events: &mpsc::Sender<Event>,
    ) -> Result<(), Error> {
        let mut teller = Teller { inner: self, events, bytes: job.bytes, told_unix_ms: 0 };
        let path = self.file(job.id);
        let (mut chunks, scanned) =
            self.start_scan(path, mapping, job.place(), job.rows, Some(job.id));
        while let Some(mut chunk) = chunks.recv().await {
            let mut tally = Tally::of(&chunk);
            tally.applied = apply_chunk(job.id, job.rows, &mut chunk).await?;
            for progress in std::mem::take(&mut chunk.carried).into_values() {
                job.carry(progress);
            }
            job.advance(&tally);
            self.write_down(job).await?;
            teller.tell(&mut chunk, job.rows).await;
        }
        scanned.await.unwrap_or(Err(Error::CutOff))
    }

    fn start_scan(
        &self,
        path: PathBuf,
        mapping: Arc<Mapping>,
        place: Place,
        rows_before: u64,
        import: Option<u64>,
    ) -> (mpsc::Receiver<Chunk>, tokio::task::JoinHandle<Result<(), Error>>) {
        let (sender, receiver) = mpsc::channel(1);
        let (targets, vault) = (self.targets.clone(), self.store.vault());
        let what = Scan { mapping, targets, vault, place, rows_before, import };
        (receiver, tokio::task::spawn_blocking(move || scan(&path, what, &sender)))
    }

    async fn remove_files(&self, id: u64) -> Result<(), Error> {
        let paths = [self.file(id), self.mapping_file(id)];
        blocking(move || paths.iter().try_for_each(remove)).await
    }

    /// Removes files that belong to no import.
    pub(super) async fn remove_strays(&self) -> Result<(), Error> {
        let wanted: BTreeSet<PathBuf> = self
            .pending()
            .await?
            .iter()
            .flat_map(|job| [self.file(job.id), self.mapping_file(job.id)])
            .collect();
        let directory = self.directory.clone();
        blocking(move || {
            let entries = match fs::read_dir(&directory) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                entries => entries.map_err(|error| Error::spool(&directory, error))?,
            };
            for entry in entries {
                let path = entry.map_err(|error| Error::spool(&directory, error))?.path();
                if !wanted.contains(&path) {
                    remove(&path)?;
                }
            }
            Ok(())
        })
        .await
    }
}

fn remove(path: &PathBuf) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::spool(path, error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Applies the rows of many units at once, and waits until all are durable.
async fn apply_chunk(import: u64, from_row: u64, chunk: &mut Chunk) -> Result<Applied, Error> {
    let units = std::mem::take(&mut chunk.units);
    let carried = &chunk.carried;
    let applied: Vec<Applied> = stream::iter(units)
        .map(|(unit, UnitRows { records, catalogue, rows })| async move {
            let fresh =
                || Progress { import, from_row, through_row: from_row, ..Progress::default() };
            let mut progress = carried
                .get(&unit)
                .filter(|carried| carried.from_row == from_row)
                .cloned()
                .unwrap_or_else(fresh);
            records.apply_prepared(&catalogue, &rows, Some(&mut progress)).await
        })
        .buffer_unordered(UNITS_AT_ONCE)
        .try_collect()
        .await?;
    let mut total = Applied::default();
    for each in &applied {
        total.add(each);
    }
    Ok(total)
}
