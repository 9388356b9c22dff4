//! P6 on real rows: components that are kept record by record and folded through the tree equal
//! the calculation over all rows at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Cursor, Write},
    sync::Arc,
};

use flate2::{Compression, write::GzEncoder};
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
use lianxi_tests::{
    boston::{COLUMNS, Figures, catalogue, example, expected, flat, shared, text, tree, unpacked},
    skip::skip,
};
use tempfile::TempDir;
use tokio::sync::mpsc;

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

fn city() -> City {
    let directory = tempfile::tempdir().unwrap();
    let options = StoreOptions { barrier: false, reserve_bytes: 0, ..StoreOptions::default() };
    let store = Arc::new(SledStore::open(&directory.path().join("store"), options).unwrap());
    let catalogue = Arc::new(Catalogue::parse(&std::fs::read(catalogue()).unwrap()).unwrap());
    let tree = tree();
    let records = tree.iter().map(|(unit, _)| {
        let unit: UnitCode = unit.parse().unwrap();
        (unit.clone(), Arc::new(Records::new(unit, store.clone(), Arc::new(SystemClock), None)))
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
        Component::Ratio { .. } | Component::Histogram(_) => panic!("none is compared"),
    }
}

fn assert_same(found: &Figures, expected: &Figures) {
    assert_eq!(found.len(), expected.len());
    for (unit, figures) in expected {
        assert_eq!(&found[unit], figures, "{unit}: {COLUMNS:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shipped_month_folds_to_what_a_flat_calculation_gives() {
    let city = city();
    let packed = std::fs::read(example("2011-07.csv.gz")).unwrap();
    let rows = unpacked(&example("2011-07.csv.gz"));
    let report = city.import(&packed).await;
    assert_eq!((report.rows, report.imported), (9854, 9854));
    assert_eq!(report.periods, BTreeSet::from(["2011-07".to_owned()]));
    let expected = flat(&[rows], |_| true);
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
    assert_same(&city.folded("2011-Q3").await, &flat(&[changed], |_| true));
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
