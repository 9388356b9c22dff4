//! P6 on real rows: components that are kept record by record and folded through the tree equal
//! the calculation over all rows at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Cursor, Read, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use flate2::{Compression, read::MultiGzDecoder, write::GzEncoder};
use lianxi_node::{
    clock::SystemClock,
    domain::{
        catalogue::Catalogue, component::Component, mapping::Mapping, period::Period,
        unit::UnitCode,
    },
    services::{
        imports::{Imports, Options, Report, Targets},
        records::Records,
    },
    store::sled::{Options as StoreOptions, SledStore},
};
use lianxi_tests::skip::skip;
use tempfile::TempDir;
use tokio::sync::mpsc;

const COLUMNS: [&str; 9] = [
    "received",
    "closed",
    "open",
    "with_target",
    "closed_within_target",
    "overdue",
    "close_seconds",
    "longest_close_seconds",
    "distinct_types",
];

/// Figures of a unit in the order of [`COLUMNS`].
type Figures = BTreeMap<String, [i128; 9]>;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn example(name: &str) -> PathBuf {
    root().join("deploy/examples/boston-311").join(name)
}

fn text(name: &str) -> String {
    std::fs::read_to_string(example(name)).unwrap()
}

/// The rows that are not shipped, and what they add up to.
fn shared() -> Option<PathBuf> {
    let folder = root().join("../shared/data/boston-311");
    folder.join("expected-2011-07-09.csv").exists().then_some(folder)
}

fn unpacked(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    MultiGzDecoder::new(std::fs::File::open(path).unwrap()).read_to_end(&mut bytes).unwrap();
    bytes
}

/// The host of all units.
struct Host {
    catalogue: Arc<Catalogue>,
    records: BTreeMap<UnitCode, Arc<Records>>,
}

impl Targets for Host {
    fn records(&self, unit: &UnitCode) -> Option<Arc<Records>> {
        self.records.get(unit).cloned()
    }

    fn catalogue(&self, _: &UnitCode) -> Option<Arc<Catalogue>> {
        Some(self.catalogue.clone())
    }
}

struct City {
    host: Arc<Host>,
    imports: Imports,
    store: Arc<SledStore>,
    /// Parents by unit; units above come first.
    tree: Vec<(String, String)>,
    _directory: TempDir,
}

fn tree() -> Vec<(String, String)> {
    let text = text("units.csv");
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let mut tree: Vec<(String, String)> = reader
        .records()
        .map(|row| row.unwrap())
        .map(|row| (row[0].to_owned(), row[3].to_owned()))
        .collect();
    tree.sort_by_key(|(unit, _)| unit.matches('-').count());
    tree
}

fn city() -> City {
    let directory = tempfile::tempdir().unwrap();
    let options = StoreOptions { barrier: false, reserve_bytes: 0, ..StoreOptions::default() };
    let store = Arc::new(SledStore::open(&directory.path().join("store"), options).unwrap());
    let catalogue = Arc::new(Catalogue::parse(text("catalogue.json").as_bytes()).unwrap());
    let tree = tree();
    let records = tree.iter().map(|(unit, _)| {
        let unit: UnitCode = unit.parse().unwrap();
        (unit.clone(), Arc::new(Records::new(unit, store.clone(), None)))
    });
    let host = Arc::new(Host { catalogue, records: records.collect() });
    let imports = Imports::new(
        store.clone(),
        "BOS".parse().unwrap(),
        directory.path().join("imports"),
        host.clone(),
        Arc::new(SystemClock),
    );
    City { host, imports, store, tree, _directory: directory }
}

impl City {
    async fn import(&self, file: &[u8]) -> Report {
        let mapping = Mapping::from_toml(&text("mapping.toml"), |name| {
            std::fs::read_to_string(example(name))
        });
        let mapping = mapping.unwrap().to_json();
        let options = Options { mapping, all_or_nothing: true, ..Options::default() };
        let mut upload = self.imports.begin(options).await.unwrap();
        for chunk in file.chunks(64 * 1024) {
            upload.write(chunk).await.unwrap();
        }
        let (events, mut received) = mpsc::channel(16);
        let listener = tokio::spawn(async move { while received.recv().await.is_some() {} });
        let report = upload.finish(events).await.unwrap();
        listener.await.unwrap();
        assert_eq!((report.rejected, report.elsewhere), (0, 0));
        report
    }

    /// Adds each unit's own components to its parent's, from the communities up.
    async fn folded(&self, period: &str) -> Figures {
        let period: Period = period.parse().unwrap();
        let mut totals: BTreeMap<String, Vec<Component>> = BTreeMap::new();
        for (unit, records) in &self.host.records {
            let all = records.components(&self.host.catalogue, &period).await.unwrap();
            let own = COLUMNS.map(|id| {
                let mut of_id = all.iter().filter(|each| each.indicator == id);
                of_id.find(|each| each.group.is_empty()).unwrap().component.clone()
            });
            totals.insert(unit.to_string(), own.to_vec());
        }
        for (unit, parent) in self.tree.iter().rev().filter(|(_, parent)| !parent.is_empty()) {
            let child = totals[unit].clone();
            let parent = totals.get_mut(parent).unwrap();
            for (total, part) in parent.iter_mut().zip(&child) {
                *total = total.add(part).unwrap();
            }
        }
        let figures = |all: Vec<Component>| all.iter().map(figure).collect::<Vec<_>>();
        totals.into_iter().map(|(unit, all)| (unit, figures(all).try_into().unwrap())).collect()
    }
}

fn figure(component: &Component) -> i128 {
    match component {
        Component::Count(count) => i128::from(*count),
        Component::Sum { sum_milli, .. } => {
            assert_eq!(sum_milli % 1000, 0);
            sum_milli / 1000
        }
        Component::Extreme { max_milli, .. } => i128::from(max_milli.unwrap_or_default() / 1000),
        Component::Distinct(set) => {
            assert!(set.is_exact());
            i128::from(set.estimate())
        }
        Component::Ratio { .. } => panic!("no ratio is compared"),
    }
}

/// The same figures from the rows alone, with nothing of the node in it.
fn flat(files: &[Vec<u8>]) -> Figures {
    let parents: BTreeMap<String, String> = tree().into_iter().collect();
    let precincts: BTreeMap<&str, &String> =
        parents.keys().filter_map(|unit| Some((unit.splitn(4, '-').nth(3)?, unit))).collect();
    let mut figures: Figures = parents.keys().map(|unit| (unit.clone(), [0; 9])).collect();
    let mut types: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in files {
        let mut reader = csv::Reader::from_reader(file.as_slice());
        let headers = reader.headers().unwrap().clone();
        let at = |name: &str| headers.iter().position(|header| header == name).unwrap();
        let columns = ["open_dt", "target_dt", "closed_dt", "ontime", "type", "precinct"].map(at);
        for row in reader.records() {
            let row = row.unwrap();
            let [opened, target, closed, ontime, kind, precinct] =
                columns.map(|column| row[column].trim().to_owned());
            let [opened, target, closed] = [opened, target, closed].map(|text| instant(&text));
            let seconds = closed.map_or(0, |closed| i128::from(closed - opened.unwrap()));
            let city = "BOS".to_owned();
            let mut unit = (*precincts.get(precinct.as_str()).unwrap_or(&&city)).clone();
            while !unit.is_empty() {
                let is = |condition: bool| i128::from(condition);
                let within = closed.is_some_and(|closed| target.is_some_and(|t| closed <= t));
                let total = figures.get_mut(&unit).unwrap();
                total[0] += 1;
                total[1] += is(closed.is_some());
                total[2] += is(closed.is_none());
                total[3] += is(target.is_some());
                total[4] += is(within);
                total[5] += is(ontime == "OVERDUE");
                total[6] += seconds;
                total[7] = total[7].max(seconds);
                let kinds = types.entry(unit.clone()).or_default();
                kinds.extend((!kind.is_empty()).then(|| kind.clone()));
                total[8] = kinds.len() as i128;
                unit = parents[&unit].clone();
            }
        }
    }
    figures
}

/// Seconds since 1970 of a local time of Boston, by the rule in force since 2007: summer time from
/// the second Sunday of March to the first of November, at two o'clock.
fn instant(text: &str) -> Option<i64> {
    let mut numbers = text.split(['-', ' ', ':']).map(|number| number.parse::<i64>());
    let mut next = || numbers.next()?.ok();
    let [year, month, day] = [next()?, next()?, next()?];
    let [hour, minute, second] = [next()?, next()?, next()?];
    let sunday = |month: i64, nth: i64| {
        let first = days(year, month, 1);
        // 1970-01-01 was a Thursday.
        first + (10 - first.rem_euclid(7)) % 7 + 7 * (nth - 1)
    };
    let local = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    let begin = sunday(3, 2) * 86_400 + 2 * 3600;
    let end = sunday(11, 1) * 86_400 + 2 * 3600;
    let is_summer = (begin..end).contains(&local);
    Some(local + if is_summer { 4 * 3600 } else { 5 * 3600 })
}

/// Days from 1970-01-01 to a day of the Gregorian calendar.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let is_leap = |year: i64| (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    let lengths = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let years: i64 = (1970..year).map(|year| if is_leap(year) { 366 } else { 365 }).sum();
    let months: i64 = (1..month)
        .map(|month| {
            lengths[usize::try_from(month - 1).unwrap()] + i64::from(month == 2 && is_leap(year))
        })
        .sum();
    years + months + day - 1
}

fn assert_same(found: &Figures, expected: &Figures) {
    assert_eq!(found.len(), expected.len());
    for (unit, figures) in expected {
        assert_eq!(&found[unit], figures, "{unit}: {COLUMNS:?}");
    }
}

fn expected(folder: &Path) -> Figures {
    let mut reader = csv::Reader::from_path(folder.join("expected-2011-07-09.csv")).unwrap();
    let headers = reader.headers().unwrap().clone();
    assert_eq!(headers.iter().skip(2).collect::<Vec<_>>(), COLUMNS);
    reader
        .records()
        .map(|row| row.unwrap())
        .map(|row| {
            let figures: Vec<i128> = row.iter().skip(2).map(|cell| cell.parse().unwrap()).collect();
            (row[0].to_owned(), figures.try_into().unwrap())
        })
        .collect()
}

#[test]
fn the_clock_of_the_flat_calculation_is_right() {
    assert_eq!(instant("1970-01-01 00:00:00"), Some(5 * 3600));
    assert_eq!(instant("2011-07-01 01:32:33"), Some(1_309_498_353));
    assert_eq!(instant("2011-11-06 01:30:00"), Some(1_320_557_400));
    assert_eq!(instant("2011-11-06 02:00:00"), Some(1_320_562_800));
    assert_eq!(instant("2012-03-11 03:00:00"), Some(1_331_449_200));
    assert_eq!(instant(""), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shipped_month_folds_to_what_a_flat_calculation_gives() {
    let city = city();
    let packed = std::fs::read(example("2011-07.csv.gz")).unwrap();
    let rows = unpacked(&example("2011-07.csv.gz"));
    let report = city.import(&packed).await;
    assert_eq!((report.rows, report.imported), (9854, 9854));
    assert_eq!(report.periods, BTreeSet::from(["2011-07".to_owned()]));
    let expected = flat(&[rows]);
    assert_eq!((expected.len(), expected["BOS"][0]), (312, 9854));
    assert_same(&city.folded("2011-07").await, &expected);
    assert_same(&city.folded("2011").await, &expected);
    assert!(city.folded("2011-08").await.values().all(|figures| *figures == [0; 9]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_months_fold_to_the_published_totals_and_a_second_import_changes_nothing() {
    let Some(folder) = shared() else {
        let remedy = "put the rows of July to September 2011 beside the repository";
        return skip("boston_flat", "../shared/data/boston-311 is not there", remedy);
    };
    let city = city();
    let packed = ["07", "08", "09"]
        .map(|month| std::fs::read(folder.join(format!("2011-{month}.csv.gz"))).unwrap());
    let mut rows = 0;
    for file in &packed {
        rows += city.import(file).await.imported;
    }
    assert_eq!(rows, 31_828);
    let expected = expected(&folder);
    assert_eq!(expected.len(), 312);
    assert_same(&city.folded("2011-Q3").await, &expected);
    assert_same(&city.folded("2011-07/2011-09").await, &expected);

    let before = city.host.records[&"BOS".parse().unwrap()].count().await.unwrap();
    let batches = city.store.statistics().operations;
    for file in &packed {
        let report = city.import(file).await;
        assert_eq!((report.imported, report.updated), (0, 0));
        assert_eq!(report.unchanged, report.rows);
    }
    assert_same(&city.folded("2011-Q3").await, &expected);
    assert_eq!(city.host.records[&"BOS".parse().unwrap()].count().await.unwrap(), before);
    // All that is written is the account of the imports themselves.
    assert!(city.store.statistics().operations - batches < 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changed_rows_move_the_figures_exactly() {
    let city = city();
    city.import(&std::fs::read(example("2011-07.csv.gz")).unwrap()).await;
    let changed = change(&unpacked(&example("2011-07.csv.gz")));
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(&changed).unwrap();
    let report = city.import(&packed.finish().unwrap()).await;
    assert!(report.updated > 2000 && report.unchanged > 2000, "{report:?}");
    assert_same(&city.folded("2011-Q3").await, &flat(&[changed]));
}

/// Opens closed cases, closes open ones, moves types and deadlines: extremes and the last of a type
/// among them.
fn change(rows: &[u8]) -> Vec<u8> {
    let mut reader = csv::Reader::from_reader(Cursor::new(rows));
    let headers = reader.headers().unwrap().clone();
    let at = |name: &str| headers.iter().position(|header| header == name).unwrap();
    let [target, closed, ontime, kind] = ["target_dt", "closed_dt", "ontime", "type"].map(at);
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(&headers).unwrap();
    for (number, row) in reader.records().enumerate() {
        let mut cells: Vec<String> = row.unwrap().iter().map(str::to_owned).collect();
        match number % 7 {
            0 => cells[closed] = String::new(),
            1 => cells[closed] = "2013-11-03 01:15:00".to_owned(),
            2 => cells[kind] = "Street Lights, moved".to_owned(),
            3 => {
                cells[target] = " ".to_owned();
                cells[ontime] = "OVERDUE".to_owned();
            }
            _ => {}
        }
        if cells[closed].starts_with("2018") || cells[closed].starts_with("2019") {
            cells[closed] = "2012-01-01 00:00:00".to_owned();
        }
        writer.write_record(&cells).unwrap();
    }
    writer.into_inner().unwrap()
}
