use std::{
    collections::BTreeMap,
    io::Write,
    sync::atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use tempfile::TempDir;

use super::*;
use crate::{
    clock::SystemClock,
    domain::component::Component,
    store::{
        Batch, Commit, Entry, Table, Usage,
        sled::{Options as StoreOptions, SledStore},
    },
};

const CATALOGUE: &str = r#"{"name": "test", "version": 1, "title": "t", "title_zh": "t",
    "time_zone": "Asia/Shanghai",
    "record_types": {"visit": {"title": "t", "title_zh": "t", "key": "id", "time": "at",
        "schema": {"type": "object", "required": ["id", "at"], "additionalProperties": false,
            "properties": {
                "id": {"type": "string", "minLength": 1, "maxLength": 32, "x-class": "none"},
                "at": {"type": "string", "format": "date-time", "x-class": "none"},
                "kind": {"type": "string", "enum": ["fire", "water"], "x-class": "none"},
                "minutes": {"type": ["integer", "null"], "x-class": "none"}
            }}}},
    "indicators": [
        {"id": "all", "version": 1, "title": "t", "title_zh": "t", "record_type": "visit",
         "about": "work", "unit": "1", "measure": "count"},
        {"id": "time", "version": 1, "title": "t", "title_zh": "t", "record_type": "visit",
         "about": "work", "unit": "min", "group": "kind",
         "measure": {"sum": {"value": "minutes"}}}
    ]}"#;

const MAPPING: &str = r#"{"record_type": "visit", "trim": true, "empty_as_null": true,
    "time_zone": "Asia/Shanghai",
    "unit": {"column": "place", "lookup": {"a": "310101", "b": "310102", "far": "310109"},
        "otherwise": "310101"},
    "fields": {
        "id": {"column": "number"},
        "at": {"column": "time", "kind": "date-time", "format": "%Y-%m-%d %H:%M"},
        "kind": {"column": "sort"},
        "minutes": {"column": "minutes", "kind": "integer"}
    }}"#;

const HEADING: &str = "number,time,sort,minutes,place\n";

/// A store that fails for good at its nth commit, as a process does that is killed.
struct Mortal {
    store: Arc<SledStore>,
    left: AtomicU64,
}

impl Mortal {
    fn is_alive(&self) -> bool {
        self.left.load(Ordering::SeqCst) > 0
    }

    fn check(&self) -> Result<(), store::Error> {
        if self.is_alive() { Ok(()) } else { Err(store::Error::Closed) }
    }
}

#[async_trait]
impl Store for Mortal {
    async fn get(
        &self,
        unit: &UnitCode,
        table: Table,
        key: &[u8],
    ) -> Result<Option<Vec<u8>>, store::Error> {
        self.check()?;
        self.store.get(unit, table, key).await
    }

    async fn scan(
        &self,
        unit: &UnitCode,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Entry>, store::Error> {
        self.check()?;
        self.store.scan(unit, table, prefix, after, limit).await
    }

    async fn last(
        &self,
        unit: &UnitCode,
        table: Table,
        prefix: &[u8],
    ) -> Result<Option<Entry>, store::Error> {
        self.check()?;
        self.store.last(unit, table, prefix).await
    }

    fn submit(&self, batch: Batch) -> Commit {
        let step = |left: u64| left.checked_sub(1);
        match self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, step) {
            Ok(left) if left > 1 => self.store.submit(batch),
            // The last one reaches the disk, and nobody hears of it.
            Ok(_) => {
                drop(self.store.submit(batch));
                Commit::pending().1
            }
            Err(_) => Commit::pending().1,
        }
    }

    async fn units(&self) -> Result<Vec<UnitCode>, store::Error> {
        self.store.units().await
    }

    fn usage(&self) -> Result<Usage, store::Error> {
        self.store.usage()
    }

    async fn close(&self) -> Result<(), store::Error> {
        self.store.close().await
    }
}

struct Units {
    catalogue: Option<Arc<Catalogue>>,
    records: BTreeMap<UnitCode, Arc<Records>>,
}

impl Targets for Units {
    fn records(&self, unit: &UnitCode) -> Option<Arc<Records>> {
        self.records.get(unit).cloned()
    }

    fn catalogue(&self, _: &UnitCode) -> Option<Arc<Catalogue>> {
        self.catalogue.clone()
    }
}

struct Bench {
    imports: Imports,
    units: Arc<Units>,
    spool: PathBuf,
    sled: Arc<SledStore>,
    directory: TempDir,
}

fn sled_in(directory: &TempDir) -> Arc<SledStore> {
    let options = StoreOptions { barrier: false, reserve_bytes: 0, ..StoreOptions::default() };
    Arc::new(SledStore::open(&directory.path().join("store"), options).unwrap())
}

fn bench() -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let sled = sled_in(&directory);
    bench_on(directory, sled.clone(), sled, None)
}

fn bench_on(
    directory: TempDir,
    sled: Arc<SledStore>,
    store: Arc<dyn Store>,
    quota: Option<u64>,
) -> Bench {
    let records = ["310101", "310102"].map(|code| {
        let unit: UnitCode = code.parse().unwrap();
        (unit.clone(), Arc::new(Records::new(unit, store.clone(), Arc::new(SystemClock), quota)))
    });
    let catalogue = Some(Arc::new(Catalogue::parse(CATALOGUE.as_bytes()).unwrap()));
    let units = Arc::new(Units { catalogue, records: records.into() });
    let spool = directory.path().join("imports");
    let host = "310101".parse().unwrap();
    let imports = Imports::new(store, host, spool.clone(), units.clone(), Arc::new(SystemClock));
    Bench { imports, units, spool, sled, directory }
}

fn options() -> Options {
    Options { mapping: MAPPING.as_bytes().to_vec(), ..Options::default() }
}

impl Bench {
    async fn import(
        &self,
        options: Options,
        file: &[u8],
    ) -> Result<(Report, Vec<RowError>), Error> {
        let mut upload = self.imports.begin(options).await?;
        for chunk in file.chunks(1000) {
            upload.write(chunk).await?;
        }
        let (events, mut received) = mpsc::channel(4);
        let listener = tokio::spawn(async move {
            let mut errors = Vec::new();
            while let Some(event) = received.recv().await {
                if let Event::RowError(error) = event {
                    errors.push(error);
                }
            }
            errors
        });
        let report = upload.finish(events).await?;
        Ok((report, listener.await.unwrap()))
    }

    async fn figure(&self, unit: &str, id: &str) -> Component {
        let unit = unit.parse().unwrap();
        let catalogue = self.units.catalogue(&unit).unwrap();
        let records = self.units.records(&unit).unwrap();
        let period = "2024".parse().unwrap();
        let all = records.components(&catalogue, &period).await.unwrap();
        assert_eq!(all, records.recount(&catalogue, &period).await.unwrap());
        let mut all = all.into_iter();
        all.find(|each| each.indicator == id && each.group.is_empty()).unwrap().component
    }

    async fn counts(&self) -> [u64; 2] {
        let mut counts = [0; 2];
        for (count, unit) in counts.iter_mut().zip(["310101", "310102"]) {
            let Component::Count(found) = self.figure(unit, "all").await else { panic!() };
            *count = found;
        }
        counts
    }

    fn spooled(&self) -> usize {
        std::fs::read_dir(&self.spool).map_or(0, Iterator::count)
    }
}

fn rows(count: u64) -> String {
    let mut file = HEADING.to_owned();
    for number in 0..count {
        let place = ["a", "b", "far"][usize::try_from(number % 3).unwrap()];
        let month = 1 + number % 4;
        let line = format!("{number},2024-{month:02}-05 08:00,fire,{},{place}\n", number % 50);
        file.push_str(&line);
    }
    file
}

#[tokio::test]
async fn rows_reach_their_units_and_a_second_time_changes_nothing() {
    let bench = bench();
    let file = rows(300);
    let (report, errors) = bench.import(options(), file.as_bytes()).await.unwrap();
    let periods = ["2024-01", "2024-02", "2024-03", "2024-04"].map(str::to_owned).into();
    let expected = Report {
        import_id: 1,
        rows: 300,
        imported: 200,
        elsewhere: 100,
        periods,
        ..Report::default()
    };
    assert_eq!((report, errors), (expected, vec![]));
    assert_eq!(bench.counts().await, [100, 100]);
    let (report, _) = bench.import(options(), file.as_bytes()).await.unwrap();
    assert_eq!((report.import_id, report.imported, report.updated), (2, 0, 0));
    assert_eq!((report.unchanged, report.elsewhere), (200, 100));
    assert_eq!(bench.spooled(), 0);
}

#[tokio::test]
async fn changed_rows_move_the_figures() {
    let bench = bench();
    let file = format!("{HEADING}1,2024-01-05 08:00,fire,10,a\n2,2024-01-05 08:00,fire,5,a\n");
    bench.import(options(), file.as_bytes()).await.unwrap();
    let file = format!("{HEADING}1,2024-01-05 08:00,fire,7,a\n2,2024-01-05 08:00,fire,5,a\n");
    let (report, _) = bench.import(options(), file.as_bytes()).await.unwrap();
    assert_eq!((report.updated, report.unchanged), (1, 1));
    let sum = Component::Sum { sum_milli: 12_000, terms: 2 };
    assert_eq!(bench.figure("310101", "time").await, sum);
}

const BAD: &str = "1,2024-01-05 08:00,fire,10,a
2,yesterday,fire,10,a
3,2024-01-05 08:00,gossip,10,b
4,2024-01-05 08:00,fire,10
5,2024-01-05 08:00,\"fire,10,a
6,2024-01-05 08:00,water,10,b
";

#[tokio::test]
async fn bad_rows_are_told_with_line_and_place_and_the_good_ones_stand() {
    let bench = bench();
    let (report, errors) =
        bench.import(options(), format!("{HEADING}{BAD}").as_bytes()).await.unwrap();
    assert_eq!((report.rows, report.imported, report.rejected), (6, 2, 4));
    assert!(!report.kept_nothing);
    let places: Vec<_> = errors
        .iter()
        .map(|each| {
            (each.line, each.column.as_str(), each.record_path.as_str(), each.schema_path.as_str())
        })
        .collect();
    assert_eq!(
        places,
        [
            (3, "time", "", ""),
            (4, "sort", "/kind", "/properties/kind/enum"),
            (5, "", "", ""),
            (6, "", "", ""),
        ]
    );
    assert!(errors[2].reason.contains("4 cells") && errors[3].reason.contains("never closed"));
    for error in &errors {
        assert!(
            !error.reason.contains("gossip") && !error.reason.contains("yesterday"),
            "{error:?}"
        );
    }
    assert_eq!(bench.counts().await, [1, 1]);
}

#[tokio::test]
async fn all_or_nothing_keeps_nothing_of_a_file_with_a_bad_row() {
    let bench = bench();
    let options = Options { all_or_nothing: true, ..options() };
    let file = format!("{HEADING}{BAD}");
    let (report, errors) = bench.import(options.clone(), file.as_bytes()).await.unwrap();
    assert_eq!((report.imported, report.rejected, report.kept_nothing), (0, 4, true));
    assert_eq!(errors.len(), 4);
    assert_eq!(bench.counts().await, [0, 0]);
    let (report, _) = bench.import(options, rows(30).as_bytes()).await.unwrap();
    assert_eq!((report.imported, report.kept_nothing), (20, false));
    assert_eq!(bench.spooled(), 0);
}

#[tokio::test]
async fn a_dry_run_tells_what_would_happen_and_keeps_nothing() {
    let bench = bench();
    bench.import(options(), rows(30).as_bytes()).await.unwrap();
    let before = bench.sled.statistics().operations;
    let options = Options { dry_run: true, ..options() };
    let (report, errors) =
        bench.import(options, format!("{}{}", rows(60), "x,y\n").as_bytes()).await.unwrap();
    assert_eq!((report.import_id, report.rows, report.kept_nothing), (0, 61, true));
    assert_eq!((report.imported, report.unchanged, report.elsewhere), (20, 20, 20));
    assert_eq!((report.rejected, errors.len()), (1, 1));
    assert_eq!(bench.sled.statistics().operations, before);
    assert_eq!((bench.counts().await, bench.spooled()), ([10, 10], 0));
}

#[tokio::test]
async fn a_packed_file_is_unpacked_and_a_cut_one_refused() {
    let bench = bench();
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packed.write_all(rows(30).as_bytes()).unwrap();
    let packed = packed.finish().unwrap();
    let error = bench.import(options(), &packed[..packed.len() - 3]).await.unwrap_err();
    assert!(matches!(error, Error::Gzip), "{error}");
    assert_eq!((bench.counts().await, bench.spooled()), ([0, 0], 0));
    let (report, _) = bench.import(options(), &packed).await.unwrap();
    assert_eq!(report.imported, 20);
}

#[tokio::test]
async fn files_and_mappings_that_do_not_fit_are_refused_with_the_remedy() {
    let bench = bench();
    for (file, words) in [
        (&b""[..], "first row"),
        (b"number,time\n1,2\n", "no column \"place\""),
        (b"PK\x03\x04 sheet", "CSV"),
        (b"\xFF\xFEn\0u\0", "UTF-8"),
        (b"\"number\n", "line 1"),
        (b"\xCA\xB1\xBC\xE4,place\n", "UTF-8"),
    ] {
        let error = bench.import(options(), file).await.unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
    let marked = [b"\xEF\xBB\xBF", rows(3).as_bytes()].concat();
    assert_eq!(bench.import(options(), &marked).await.unwrap().0.imported, 2);
    let options = Options { mapping: b"{}".to_vec(), ..options() };
    assert!(matches!(bench.import(options, b"").await, Err(Error::Mapping(_))));
    let mapping = MAPPING.replace("visit", "case").into_bytes();
    let options = Options { mapping, ..Options::default() };
    let error = bench.import(options, b"").await.unwrap_err().to_string();
    assert!(error.contains("310101") && error.contains("test@1"), "{error}");
    assert_eq!(bench.spooled(), 0);
}

#[tokio::test]
async fn an_upload_that_is_not_finished_leaves_nothing() {
    let bench = bench();
    let mut upload = bench.imports.begin(options()).await.unwrap();
    upload.write(rows(10).as_bytes()).await.unwrap();
    assert_eq!(bench.spooled(), 1);
    drop(upload);
    assert_eq!(bench.spooled(), 0);
    std::fs::write(bench.spool.join("upload-9.csv"), "left behind").unwrap();
    bench.imports.tidy().await;
    assert_eq!(bench.spooled(), 0);
}

#[tokio::test]
async fn an_upload_that_begins_while_others_are_resumed_is_left_alone() {
    let bench = bench();
    let mut upload = bench.imports.begin(options()).await.unwrap();
    upload.write(rows(10).as_bytes()).await.unwrap();
    assert_eq!(bench.imports.resume().await, []);
    let (events, _) = mpsc::channel(1);
    assert_eq!(upload.finish(events).await.unwrap().rows, 10);
}

#[tokio::test]
async fn a_full_quota_ends_an_import_and_refuses_a_whole_one_before_it_begins() {
    let directory = tempfile::tempdir().unwrap();
    let sled = sled_in(&directory);
    let bench = bench_on(directory, sled.clone(), sled, Some(2000));
    let whole = Options { all_or_nothing: true, ..options() };
    let error = bench.import(whole.clone(), rows(300).as_bytes()).await.unwrap_err();
    assert!(error.to_string().contains("quota"), "{error}");
    assert_eq!(bench.counts().await, [0, 0]);
    let error = bench.import(options(), rows(300).as_bytes()).await.unwrap_err();
    assert!(error.to_string().contains("raise"), "{error}");
    let counts = bench.counts().await;
    assert!(counts.iter().sum::<u64>() > 0);
    assert_eq!((bench.spooled(), bench.imports.resume().await), (0, vec![]));
    let (report, _) = bench.import(whole, rows(30).as_bytes()).await.unwrap();
    assert_eq!(report.rejected, 0);
}

/// Kills the process at each of its commits in turn, and once not at all.
async fn kill_at_every_commit(all_or_nothing: bool) -> u64 {
    let mut file = rows(1500);
    file.push_str("1,2024-01-05 08:00,water,1,b\n");
    file.push_str(if all_or_nothing { "" } else { "x\n" });
    let rejected = u64::from(!all_or_nothing);
    let mut cut_off = 0;
    for commits in 1.. {
        let directory = tempfile::tempdir().unwrap();
        let sled = sled_in(&directory);
        let mortal = Arc::new(Mortal { store: sled.clone(), left: AtomicU64::new(commits) });
        let bench = bench_on(directory, sled, mortal, None);
        let options = Options { all_or_nothing, ..options() };
        let result = bench.import(options, file.as_bytes()).await;
        let Bench { imports, units, sled, directory, .. } = bench;
        drop((imports, units));
        // What the dead process sent to the disk is there or not before the next one looks.
        sled.submit(Batch::new(&"A".parse().unwrap())).await.unwrap();
        let bench = bench_on(directory, sled.clone(), sled, None);
        bench.imports.tidy().await;
        let resumed = bench.imports.resume().await;
        let is_whole = result.is_ok();
        let counts = bench.counts().await;
        assert_eq!(bench.spooled(), 0);
        let Some(report) =
            result.ok().map(|(report, _)| report).or_else(|| resumed.into_iter().next())
        else {
            // Not yet written down, or already at its end: never half.
            assert!(counts == [0, 0] || counts == [500, 500], "{commits}: {counts:?}");
            continue;
        };
        assert_eq!(counts, [500, 500], "{commits}");
        let what = (report.imported, report.updated, report.unchanged);
        assert_eq!(what, (1000, 1, 0), "{commits}");
        let rows = (report.rows, report.elsewhere, report.rejected, report.periods.len());
        assert_eq!(rows, (1501 + rejected, 500, rejected, 4), "{commits}");
        assert_eq!(bench.imports.resume().await, []);
        if is_whole {
            break;
        }
        cut_off += 1;
    }
    cut_off
}

#[tokio::test]
async fn an_import_that_was_killed_is_finished_and_every_row_counts_once() {
    assert!(kill_at_every_commit(false).await > 10);
}

#[tokio::test]
async fn a_whole_file_that_was_killed_is_finished_and_every_row_counts_once() {
    assert!(kill_at_every_commit(true).await > 10);
}
