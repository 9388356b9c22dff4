//! Reads a spooled file and makes its rows into records, a chunk at a time.
//!
//! This is the work of the processor; it runs on a thread of its own, one chunk ahead of the
//! store. A chunk ends at a place, so that an import can go on after it.

use std::{
    collections::{BTreeMap, HashMap},
    io::{BufReader, Read, Seek, SeekFrom},
    path::Path,
    sync::Arc,
};

use csv::ByteRecord;
use tokio::{runtime::Handle, sync::mpsc};

use super::{
    Error, RowError, Targets,
    rows::{Next, Place, Rows},
    spool::Spooled,
};
use crate::{
    domain::{
        catalogue::Catalogue,
        mapping::{Bound, Mapping},
        record::{RecordType, Violation},
        unit::UnitCode,
    },
    services::records::{Prepared, Progress, Records},
    store::vault::Vault,
};

/// A chunk ends at this many rows, bytes of records, or bad rows.
const CHUNK_ROWS: u64 = if cfg!(test) { 300 } else { 4096 };
const CHUNK_BYTES: u64 = 4 * 1024 * 1024;
const CHUNK_ERRORS: usize = 512;

/// Errors that are told of one row.
const ERRORS_PER_ROW: usize = 8;

const UTF8_MARK: &[u8] = b"\xEF\xBB\xBF";

/// What to read.
pub(super) struct Scan {
    pub(super) mapping: Arc<Mapping>,
    pub(super) targets: Arc<dyn Targets>,
    /// What encrypts the file.
    pub(super) vault: Option<Arc<Vault>>,
    /// Where to begin, and how many rows come before it.
    pub(super) place: Place,
    pub(super) rows_before: u64,
    /// Number of the import whose rows may be in the store already.
    pub(super) import: Option<u64>,
}

/// Rows up to a place.
pub(super) struct Chunk {
    pub(super) units: BTreeMap<UnitCode, UnitRows>,
    /// What units that came up had taken in before the import was cut off.
    pub(super) carried: BTreeMap<UnitCode, Progress>,
    pub(super) errors: Vec<RowError>,
    pub(super) rows: u64,
    pub(super) elsewhere: u64,
    pub(super) rejected: u64,
    pub(super) end: Place,
    bytes: u64,
}

/// Rows of one unit in the file's order, with their numbers.
pub(super) struct UnitRows {
    pub(super) records: Arc<Records>,
    pub(super) catalogue: Arc<Catalogue>,
    pub(super) rows: Vec<(u64, Prepared)>,
}

/// A unit of this host that takes rows.
struct Target {
    records: Arc<Records>,
    catalogue: Arc<Catalogue>,
    /// Last row that it has already.
    done: u64,
}

/// Reads all of the file at `path`; ends early, without an error, if nobody takes the chunks.
pub(super) fn scan(path: &Path, scan: Scan, out: &mpsc::Sender<Chunk>) -> Result<(), Error> {
    let vault = scan.vault.clone();
    let (bound, width, begin) = open_heading(path, vault.as_deref(), &scan.mapping)?;
    let place = if scan.place == Place::START { begin } else { scan.place };
    let file = Spooled::open(path, vault.as_deref())?;
    let input = BufReader::with_capacity(256 * 1024, file);
    let failed = |error| Error::spool(path, error);
    let mut rows = Rows::new(input, scan.mapping.delimiter(), place).map_err(failed)?;
    let mut maker = Maker::new(scan, bound, width);
    let mut row = ByteRecord::new();
    let mut chunk = Chunk::new(place);
    loop {
        match rows.next(&mut row).map_err(failed)? {
            Next::Row(line) => maker.take(&mut chunk, line, &row)?,
            Next::Malformed(line, reason) => maker.malformed(&mut chunk, line, reason),
            Next::End => break,
        }
        if chunk.is_full() {
            chunk.end = rows.place();
            let full = std::mem::replace(&mut chunk, Chunk::new(rows.place()));
            if out.blocking_send(full).is_err() {
                return Ok(());
            }
        }
    }
    chunk.end = rows.place();
    let _ = out.blocking_send(chunk);
    Ok(())
}

/// Finds the mapping's columns in the first row; returns where the second begins.
fn open_heading(
    path: &Path,
    vault: Option<&Vault>,
    mapping: &Arc<Mapping>,
) -> Result<(Bound, usize, Place), Error> {
    let failed = |error| Error::spool(path, error);
    let mut file = Spooled::open(path, vault)?;
    let mut begin = [0; 1024];
    let mut read = 0;
    while read < begin.len() {
        match file.read(&mut begin[read..]).map_err(failed)? {
            0 => break,
            more => read += more,
        }
    }
    let begin = &begin[..read];
    check_kind(begin)?;
    let offset = if begin.starts_with(UTF8_MARK) { UTF8_MARK.len() as u64 } else { 0 };
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    let place = Place { offset, line: 1 };
    let mut rows = Rows::new(BufReader::new(file), mapping.delimiter(), place).map_err(failed)?;
    let mut heading = ByteRecord::new();
    match rows.next(&mut heading).map_err(failed)? {
        Next::Row(_) => {}
        Next::Malformed(_, reason) => return Err(Error::Heading(reason)),
        Next::End => return Err(Error::Empty),
    }
    if heading.iter().any(|column| str::from_utf8(column).is_err()) {
        return Err(Error::Kind("not UTF-8; save it as CSV in UTF-8"));
    }
    Ok((mapping.bind(&heading)?, heading.len(), rows.place()))
}

/// Refuses what people send instead of CSV.
fn check_kind(begin: &[u8]) -> Result<(), Error> {
    if begin.starts_with(b"PK\x03\x04") || begin.starts_with(b"\xD0\xCF\x11\xE0") {
        return Err(Error::Kind("a workbook or ZIP archive; save the sheet as CSV in UTF-8"));
    }
    if begin.starts_with(b"\xFF\xFE") || begin.starts_with(b"\xFE\xFF") || begin.contains(&0) {
        return Err(Error::Kind("UTF-16 or no text; save it as CSV in UTF-8"));
    }
    Ok(())
}

/// Makes rows into records.
struct Maker {
    mapping: Arc<Mapping>,
    host: Arc<dyn Targets>,
    bound: Bound,
    width: usize,
    row: u64,
    rows_before: u64,
    import: Option<u64>,
    targets: HashMap<UnitCode, Option<Target>>,
}

impl Maker {
    fn new(scan: Scan, bound: Bound, width: usize) -> Self {
        Self {
            mapping: scan.mapping,
            host: scan.targets,
            bound,
            width,
            row: scan.rows_before,
            rows_before: scan.rows_before,
            import: scan.import,
            targets: HashMap::new(),
        }
    }

    fn take(&mut self, chunk: &mut Chunk, line: u64, row: &ByteRecord) -> Result<(), Error> {
        self.row += 1;
        chunk.rows += 1;
        if row.len() != self.width {
            let reason = format!(
                "the row has {} cells and the heading {}; a separator or quotation mark may be \
                 missing",
                row.len(),
                self.width
            );
            chunk.reject(vec![RowError::of_row(line, reason)]);
            return Ok(());
        }
        let unit = match self.bound.unit(row) {
            Ok(unit) => unit,
            Err(error) => {
                chunk.reject(vec![RowError::of_column(line, error)]);
                return Ok(());
            }
        };
        if !self.targets.contains_key(&unit) {
            let target = self.find(chunk, &unit)?;
            self.targets.insert(unit.clone(), target);
        }
        let Some(Some(target)) = self.targets.get(&unit) else {
            chunk.elsewhere += 1;
            return Ok(());
        };
        if self.row <= target.done {
            return Ok(());
        }
        match self.make(target, row) {
            Ok(prepared) => chunk.push(unit, target, self.row, prepared),
            Err(Bad::Cell(error)) => chunk.reject(vec![RowError::of_column(line, error)]),
            Err(Bad::Record(violations)) => {
                let violations = violations.into_iter().take(ERRORS_PER_ROW);
                chunk.reject(violations.map(|broken| self.broken(line, broken)).collect());
            }
        }
        Ok(())
    }

    /// Finds a unit that came up, and what it took in before the import was cut off.
    fn find(&self, chunk: &mut Chunk, unit: &UnitCode) -> Result<Option<Target>, Error> {
        let target = find_target(self.host.as_ref(), unit, self.mapping.record_type())?;
        let Some(mut target) = target else { return Ok(None) };
        let Some(import) = self.import else { return Ok(Some(target)) };
        let progress = Handle::current().block_on(target.records.progress())?;
        let is_ours = |each: &Progress| each.import == import && each.from_row == self.rows_before;
        if let Some(progress) = progress.filter(is_ours) {
            target.done = progress.through_row;
            chunk.carried.insert(unit.clone(), progress);
        }
        Ok(Some(target))
    }

    fn make(&self, target: &Target, row: &ByteRecord) -> Result<Prepared, Bad> {
        let record = self.bound.record(row).map_err(Bad::Cell)?;
        let record_type = record_type(&target.catalogue, self.mapping.record_type())
            .expect("invariant: a target's catalogue has the record type");
        Prepared::new(&target.catalogue, record_type, &record).map_err(Bad::Record)
    }

    fn broken(&self, line: u64, violation: Violation) -> RowError {
        let field = violation.record_path.split('/').nth(1).unwrap_or_default();
        RowError {
            line,
            column: self.mapping.column_of(field).unwrap_or_default().to_owned(),
            record_path: violation.record_path,
            schema_path: violation.schema_path,
            reason: violation.reason,
        }
    }

    fn malformed(&mut self, chunk: &mut Chunk, line: u64, reason: &str) {
        self.row += 1;
        chunk.rows += 1;
        chunk.reject(vec![RowError::of_row(line, reason.to_owned())]);
    }
}

enum Bad {
    Cell(crate::domain::mapping::RowError),
    Record(Vec<Violation>),
}

fn record_type<'c>(catalogue: &'c Catalogue, name: &str) -> Option<&'c RecordType> {
    catalogue.record_type(name)
}

/// Finds a unit of this host; `None`: it is on another.
fn find_target(host: &dyn Targets, unit: &UnitCode, name: &str) -> Result<Option<Target>, Error> {
    let Some(records) = host.records(unit) else { return Ok(None) };
    let catalogue = host.catalogue(unit).ok_or_else(|| Error::NoCatalogue(unit.clone()))?;
    if record_type(&catalogue, name).is_none() {
        return Err(Error::RecordType {
            unit: unit.clone(),
            record_type: name.to_owned(),
            catalogue: catalogue.label(),
        });
    }
    Ok(Some(Target { records, catalogue, done: 0 }))
}

/// Checks that every unit of the mapping that is on this host can take its records.
pub(super) fn check_targets(host: &dyn Targets, mapping: &Mapping) -> Result<(), Error> {
    for unit in mapping.units().unwrap_or_default() {
        find_target(host, &unit, mapping.record_type())?;
    }
    Ok(())
}

impl Chunk {
    fn new(place: Place) -> Self {
        Self {
            units: BTreeMap::new(),
            carried: BTreeMap::new(),
            errors: Vec::new(),
            rows: 0,
            elsewhere: 0,
            rejected: 0,
            end: place,
            bytes: 0,
        }
    }

    fn is_full(&self) -> bool {
        self.rows >= CHUNK_ROWS || self.bytes >= CHUNK_BYTES || self.errors.len() >= CHUNK_ERRORS
    }

    fn reject(&mut self, errors: Vec<RowError>) {
        self.rejected += 1;
        self.errors.extend(errors);
    }

    fn push(&mut self, unit: UnitCode, target: &Target, row: u64, prepared: Prepared) {
        self.bytes += prepared.bytes();
        let unit = self.units.entry(unit).or_insert_with(|| UnitRows {
            records: target.records.clone(),
            catalogue: target.catalogue.clone(),
            rows: Vec::new(),
        });
        unit.rows.push((row, prepared));
    }
}

impl RowError {
    fn of_row(line: u64, reason: String) -> Self {
        let [column, record_path, schema_path] = [const { String::new() }; 3];
        Self { line, column, record_path, schema_path, reason }
    }

    fn of_column(line: u64, error: crate::domain::mapping::RowError) -> Self {
        Self { column: error.column, ..Self::of_row(line, error.reason) }
    }
}
