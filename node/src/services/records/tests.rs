use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::store::sled::{Options, SledStore};

const EXTRA: &str = r#"{"id": "late", "version": 1, "title": "t", "title_zh": "t",
    "record_type": "visit", "about": "work", "unit": "1", "filter": "minutes != null && minutes > 30",
    "group": "kind", "measure": "count"},"#;

fn catalogue(version: u64, extra: &str, kinds_version: u32) -> Catalogue {
    let document = format!(
        r#"{{"name": "test", "version": {version}, "title": "t", "title_zh": "t",
        "time_zone": "Asia/Shanghai",
        "record_types": {{"visit": {{"title": "t", "title_zh": "t", "key": "id", "time": "at",
            "schema": {{"type": "object", "required": ["id", "at"], "additionalProperties": false,
                "properties": {{
                    "id": {{"type": "string", "minLength": 1, "maxLength": 32, "x-class": "none"}},
                    "at": {{"type": "string", "format": "date-time", "x-class": "none"}},
                    "kind": {{"type": ["string", "null"], "maxLength": 32, "x-class": "none"}},
                    "minutes": {{"type": ["integer", "null"], "x-class": "none"}}
                }}}}}}}},
        "indicators": [{extra}
            {{"id": "all", "version": 1, "title": "t", "title_zh": "t", "record_type": "visit",
              "about": "work", "unit": "1", "group": "kind", "measure": "count"}},
            {{"id": "time", "version": 1, "title": "t", "title_zh": "t", "record_type": "visit",
              "about": "work", "unit": "min", "group": "kind",
              "measure": {{"sum": {{"value": "minutes"}}}}}},
            {{"id": "longest", "version": 1, "title": "t", "title_zh": "t", "record_type": "visit",
              "about": "work", "unit": "min", "group": "kind",
              "measure": {{"extreme": {{"value": "minutes"}}}}}},
            {{"id": "spread", "version": 1, "title": "t", "title_zh": "t", "record_type": "visit",
              "about": "work", "unit": "min", "group": "kind",
              "measure": {{"histogram": {{"value": "minutes"}}}}}},
            {{"id": "kinds", "version": {kinds_version}, "title": "t", "title_zh": "t",
              "record_type": "visit", "about": "work", "unit": "1",
              "measure": {{"distinct": {{"value": "kind"}}}}}},
            {{"id": "share", "version": 1, "title": "t", "title_zh": "t", "record_type": "visit",
              "about": "work", "unit": "1", "measure": {{"ratio": {{
                "numerator": "minutes != null && minutes > 30",
                "denominator": "minutes != null"}}}}}}
        ]}}"#
    );
    Catalogue::parse(document.as_bytes()).unwrap()
}

fn standard() -> Catalogue {
    catalogue(1, "", 1)
}

struct Bench {
    records: Records,
    store: Arc<SledStore>,
    _directory: TempDir,
}

fn bench(quota_bytes: Option<u64>) -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let options = Options { barrier: false, reserve_bytes: 0, ..Options::default() };
    let store = Arc::new(SledStore::open(directory.path(), options).unwrap());
    let records = Records::new(
        "310101".parse().unwrap(),
        store.clone(),
        Arc::new(crate::clock::SystemClock),
        quota_bytes,
    );
    Bench { records, store, _directory: directory }
}

fn visit(id: u64, day: &str, kind: &str, minutes: Option<i64>) -> Value {
    let kind = if kind.is_empty() { Value::Null } else { json!(kind) };
    json!({"id": id.to_string(), "at": format!("{day}T08:00:00Z"), "kind": kind, "minutes": minutes})
}

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

async fn total(records: &Records, catalogue: &Catalogue, period: &str, id: &str) -> Component {
    let all = records.components(catalogue, &period.parse().unwrap()).await.unwrap();
    let found = all.into_iter().find(|each| each.indicator == id && each.group.is_empty());
    found.unwrap().component
}

#[tokio::test]
async fn figures_equal_a_recount_whatever_changes() {
    let (bench, catalogue) = (bench(None), standard());
    let mut dice = Dice(7);
    for round in 0..12 {
        let documents = (0..150).map(|_| {
            let day = format!("2024-{:02}-{:02}", 1 + dice.below(3), 1 + dice.below(28));
            let kind = ["", "fire", "water", "noise"][usize::try_from(dice.below(4)).unwrap()];
            let minutes = (dice.below(5) > 0).then(|| i64::try_from(dice.below(90)).unwrap() - 5);
            visit(dice.below(400), &day, kind, minutes)
        });
        let documents = documents.collect();
        bench.records.apply(&catalogue, "visit", documents).await.unwrap();
        for period in ["2024-01", "2024-02", "2024-Q1", "2024", "2023"] {
            let period = period.parse().unwrap();
            let kept = bench.records.components(&catalogue, &period).await.unwrap();
            let flat = bench.records.recount(&catalogue, &period).await.unwrap();
            assert_eq!(kept, flat, "round {round}, {period}");
        }
    }
    let (count, bytes) = bench.records.count().await.unwrap();
    let kept = bench.records.list("visit", None, 1000).await.unwrap();
    assert_eq!(kept.len() as u64, count);
    let sizes =
        kept.iter().map(|each| "visit".len() + 1 + each.key.len() + 1 + each.document.len());
    assert_eq!(sizes.sum::<usize>() as u64, bytes);
}

#[tokio::test]
async fn a_record_that_is_there_unchanged_writes_nothing() {
    let (bench, catalogue) = (bench(None), standard());
    let documents: Vec<Value> =
        (0..500).map(|id| visit(id, "2024-01-05", "fire", Some(5))).collect();
    let first = bench.records.apply(&catalogue, "visit", documents.clone()).await.unwrap();
    assert_eq!((first.imported, first.updated, first.unchanged), (500, 0, 0));
    let before = bench.store.statistics().operations;
    let second = bench.records.apply(&catalogue, "visit", documents).await.unwrap();
    assert_eq!((second.imported, second.updated, second.unchanged), (0, 0, 500));
    assert_eq!(second.months, first.months);
    assert_eq!(bench.store.statistics().operations, before);
}

#[tokio::test]
async fn the_last_of_a_value_leaves_and_the_next_takes_its_place() {
    let (bench, catalogue) = (bench(None), standard());
    let documents = (0..1500_i64)
        .map(|id| visit(id.unsigned_abs(), "2024-01-05", &format!("kind {}", id % 700), Some(id)))
        .collect();
    bench.records.apply(&catalogue, "visit", documents).await.unwrap();
    let longest = || total(&bench.records, &catalogue, "2024-01", "longest");
    let (min_milli, max_milli) = (Some(0), Some(1_499_000));
    assert_eq!(longest().await, Component::Extreme { min_milli, max_milli });
    let Component::Distinct(kinds) = total(&bench.records, &catalogue, "2024-01", "kinds").await
    else {
        panic!("no set")
    };
    assert!(!kinds.is_exact());

    // Both ends go, then all but a few go or move to another month.
    let documents = vec![
        visit(0, "2024-01-05", "kind 0", None),
        visit(1499, "2024-01-05", "kind 99", Some(-7)),
        visit(1498, "2024-02-05", "kind 98", Some(1498)),
    ];
    bench.records.apply(&catalogue, "visit", documents).await.unwrap();
    let (min_milli, max_milli) = (Some(-7_000), Some(1_497_000));
    assert_eq!(longest().await, Component::Extreme { min_milli, max_milli });
    let documents = (3..1500).map(|id| visit(id, "2024-03-05", "", None)).collect();
    bench.records.apply(&catalogue, "visit", documents).await.unwrap();
    let (min_milli, max_milli) = (Some(1_000), Some(2_000));
    assert_eq!(longest().await, Component::Extreme { min_milli, max_milli });
    let Component::Distinct(kinds) = total(&bench.records, &catalogue, "2024-01", "kinds").await
    else {
        panic!("no set")
    };
    assert!(kinds.is_exact());
    assert_eq!(kinds.estimate(), 3);
    for period in ["2024-01", "2024-02", "2024-03"] {
        let period = period.parse().unwrap();
        let kept = bench.records.components(&catalogue, &period).await.unwrap();
        assert_eq!(kept, bench.records.recount(&catalogue, &period).await.unwrap());
    }
}

#[tokio::test]
async fn months_come_and_go_with_their_records() {
    let (bench, catalogue) = (bench(None), standard());
    // 17:00 UTC on the last day of January is February in Shanghai.
    let late = json!({"id": "9", "at": "2024-01-31T17:00:00Z"});
    let documents = vec![visit(1, "2024-01-05", "", None), visit(2, "2023-11-05", "", None), late];
    bench.records.apply(&catalogue, "visit", documents).await.unwrap();
    let months = async || {
        let months = bench.records.months().await.unwrap();
        months.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(months().await, ["2023-11", "2024-01", "2024-02"]);
    let documents = vec![visit(2, "2024-01-06", "", None)];
    bench.records.apply(&catalogue, "visit", documents).await.unwrap();
    assert_eq!(months().await, ["2024-01", "2024-02"]);
}

#[tokio::test]
async fn an_indicator_without_records_is_there_and_is_zero() {
    let (bench, catalogue) = (bench(None), standard());
    let all = bench.records.components(&catalogue, &"2024-Q1".parse().unwrap()).await.unwrap();
    let ids: Vec<_> = all.iter().map(|each| each.indicator.as_str()).collect();
    assert_eq!(ids, ["all", "time", "longest", "spread", "kinds", "share"]);
    assert!(all.iter().all(|each| each.component.is_zero() && each.group.is_empty()));
    let error = bench.records.components(&catalogue, &"2024-W05".parse().unwrap()).await;
    assert!(matches!(error, Err(Error::Period(_))));
}

#[tokio::test]
async fn a_new_catalogue_brings_its_figures_with_it() {
    let (bench, old) = (bench(None), standard());
    let documents = (0..1200_i64)
        .map(|id| {
            visit(
                id.unsigned_abs(),
                "2024-01-05",
                ["fire", "water"][usize::from(id % 2 == 0)],
                Some(id % 60),
            )
        })
        .collect();
    bench.records.apply(&old, "visit", documents).await.unwrap();
    let new = catalogue(2, EXTRA, 2);
    let period = "2024-01".parse().unwrap();
    let kept = bench.records.components(&new, &period).await.unwrap();
    assert_eq!(kept, bench.records.recount(&new, &period).await.unwrap());
    assert_eq!(total(&bench.records, &new, "2024-01", "late").await, Component::Count(580));
    assert!(kept.iter().any(|each| each.indicator == "late" && each.group == "fire"));

    // Figures go on from there, and another process reads the same.
    let documents = vec![visit(31, "2024-01-05", "fire", Some(1))];
    let again = Records::new(
        "310101".parse().unwrap(),
        bench.store.clone(),
        Arc::new(crate::clock::SystemClock),
        None,
    );
    again.apply(&new, "visit", documents).await.unwrap();
    let kept = again.components(&new, &period).await.unwrap();
    assert_eq!(kept, again.recount(&new, &period).await.unwrap());
    assert_eq!(total(&again, &new, "2024-01", "late").await, Component::Count(579));

    // Another condition under the same version, as only another publisher's catalogue can bring it.
    let other = catalogue(3, &EXTRA.replace("> 30", "> 50"), 2);
    let kept = again.components(&other, &period).await.unwrap();
    assert_eq!(kept, again.recount(&other, &period).await.unwrap());
    assert_eq!(total(&again, &other, "2024-01", "late").await, Component::Count(180));

    // Back to the old one: nothing of the new one is left over.
    let kept = again.components(&old, &period).await.unwrap();
    assert_eq!(kept, again.recount(&old, &period).await.unwrap());
    let kept = again.components(&new, &period).await.unwrap();
    assert_eq!(kept, again.recount(&new, &period).await.unwrap());
}

#[tokio::test]
async fn a_full_quota_names_the_unit_and_keeps_what_was_written() {
    let (bench, catalogue) = (bench(Some(1000)), standard());
    let documents: Vec<Value> =
        (0..50).map(|id| visit(id, "2024-01-05", "fire", Some(5))).collect();
    let error = bench.records.apply(&catalogue, "visit", documents.clone()).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("310101") && text.contains("1000") && text.contains("raise"), "{text}");
    let (count, bytes) = bench.records.count().await.unwrap();
    assert!(count > 5 && bytes <= 1000, "{count} {bytes}");
    assert_eq!(total(&bench.records, &catalogue, "2024-01", "all").await, Component::Count(count));
    // What is there may change as long as it does not grow.
    let smaller = vec![visit(0, "2024-01-05", "", Some(5))];
    bench.records.apply(&catalogue, "visit", smaller).await.unwrap();
    let mut growth = Growth::default();
    let declared = catalogue.record_type("visit").unwrap();
    let prepare = |document| (0, Prepared::new(&catalogue, declared, document).unwrap());
    let rows: Vec<_> = documents.iter().map(prepare).collect();
    bench.records.measure(&rows[..2], &mut growth).await.unwrap();
    bench.records.check_growth(&growth).await.unwrap();
    bench.records.measure(&rows, &mut growth).await.unwrap();
    assert!(matches!(bench.records.check_growth(&growth).await, Err(Error::Quota { .. })));
}

#[tokio::test]
async fn one_bad_document_refuses_the_call_with_its_position() {
    let (bench, catalogue) = (bench(None), standard());
    let documents = vec![visit(1, "2024-01-05", "", None), json!({"id": "2", "at": "yesterday"})];
    let error = bench.records.apply(&catalogue, "visit", documents).await.unwrap_err();
    let Error::Invalid { position, violations } = error else { panic!("{error}") };
    assert_eq!((position, violations[0].record_path.as_str()), (1, "/at"));
    assert_eq!(bench.records.count().await.unwrap(), (0, 0));
    let error = bench.records.apply(&catalogue, "case", vec![]).await.unwrap_err();
    assert!(error.to_string().contains("test@1"), "{error}");
}

#[tokio::test]
async fn records_are_listed_page_by_page() {
    let (bench, catalogue) = (bench(None), standard());
    let documents = [3, 1, 2].map(|id| visit(id, "2024-01-05", "", None)).to_vec();
    bench.records.apply(&catalogue, "visit", documents).await.unwrap();
    let keys = async |after: Option<&str>| {
        let page = bench.records.list("visit", after, 2).await.unwrap();
        page.into_iter().map(|kept| kept.key).collect::<Vec<_>>()
    };
    assert_eq!(keys(None).await, ["1", "2"]);
    assert_eq!(keys(Some("2")).await, ["3"]);
    let page = bench.records.list("visit", None, 1).await.unwrap();
    let document = r#"{"at":"2024-01-05T08:00:00Z","id":"1","kind":null,"minutes":null}"#;
    assert_eq!(page[0].document, document.as_bytes());
    assert!(bench.records.list("vis", None, 9).await.unwrap().is_empty());
}
