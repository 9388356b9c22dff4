use std::sync::Arc;

use jiff::{Timestamp, ToSpan, civil, civil::Date, tz::TimeZone};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::{
    domain::catalogue::Finest,
    services::records::OwnComponent,
    store::sled::{Options, SledStore},
};

/// One indicator of each kind that a stock can be of, beside flows.
fn catalogue(time_zone: &str, finest: &str) -> Catalogue {
    let open = json!({"from": "at", "until": "closed"});
    let indicator = |id: &str, measure: Value, more: Value| {
        let mut indicator = json!({
            "id": id, "version": 1, "title": id, "title_zh": id, "record_type": "case",
            "about": "work", "unit": "1", "measure": measure
        });
        indicator.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        indicator
    };
    let share = json!({"ratio": {"numerator": "cost > 50", "denominator": "true"}});
    let closed = json!({"extreme": {"value": "closed == null ? null : closed - at"}});
    let document = json!({
        "name": "test", "version": 1, "format": 2, "title": "t", "title_zh": "t",
        "time_zone": time_zone, "finest": finest,
        "record_types": {"case": {"title": "t", "title_zh": "t", "key": "id", "time": "at",
            "schema": {"type": "object", "required": ["id", "at", "cost"], "properties": {
                "id": {"type": "integer", "x-class": "none"},
                "at": {"type": "string", "format": "date-time", "x-class": "none"},
                "due": {"type": ["string", "null"], "format": "date-time", "x-class": "none"},
                "closed": {"type": ["string", "null"], "format": "date-time", "x-class": "none"},
                "kind": {"type": ["string", "null"], "maxLength": 32, "x-class": "none"},
                "cost": {"type": "integer", "x-class": "none"}
            }}}},
        "indicators": [
            indicator("filed", json!("count"), json!({"group": "kind"})),
            indicator("done", json!("count"), json!({"time": "closed", "group": "kind"})),
            indicator("slowest", closed, json!({"unit": "s"})),
            indicator("open", json!("count"), json!({"stock": open, "group": "kind"})),
            indicator("oldest", json!("age"), json!({"stock": open, "group": "kind", "unit": "s"})),
            indicator("cost", json!({"sum": {"value": "cost"}}), json!({"stock": open})),
            indicator("dear", share, json!({"stock": open})),
            indicator("spread", json!({"histogram": {"value": "cost"}}), json!({"stock": open})),
            indicator("overdue", json!("count"), json!({
                "stock": {"from": "due", "until": "closed"}, "filter": "cost > 20"
            }))
        ]
    });
    Catalogue::parse(&serde_json::to_vec(&document).unwrap()).unwrap()
}

struct Bench {
    units: Vec<Records>,
    _directory: TempDir,
}

fn bench(units: usize) -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let options = Options { barrier: false, reserve_bytes: 0, ..Options::default() };
    let store = Arc::new(SledStore::open(directory.path(), options).unwrap());
    let records = |unit| {
        let code = format!("3101{unit:02}").parse().unwrap();
        Records::new(code, store.clone(), Arc::new(crate::clock::SystemClock), None)
    };
    Bench { units: (0..units).map(records).collect(), _directory: directory }
}

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: i64) -> i64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        i64::try_from(self.0 >> 33).unwrap() % limit
    }

    fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(i64::try_from(length).unwrap())).unwrap()
    }
}

/// A raw row: what the flat calculation knows of a record.
#[derive(Clone, Debug)]
struct Row {
    at: Timestamp,
    due: Option<Timestamp>,
    closed: Option<Timestamp>,
    kind: Option<&'static str>,
    cost: i64,
}

impl Row {
    /// A case of the winter of 2020: its last ISO week is the 53rd and ends in 2021.
    fn random(dice: &mut Dice) -> Self {
        let start: Timestamp = "2020-11-01T00:00:00Z".parse().unwrap();
        let at = start + dice.below(90 * 86_400).seconds();
        let mut later = |days: i64| {
            // Some go before they come, most stay over an end of a month, some stay for good.
            let hours = dice.below(days * 24) - 24;
            (dice.below(4) > 0).then(|| at + hours.hours())
        };
        Self {
            at,
            due: later(20),
            closed: later(45),
            kind: [None, Some("fire"), Some("water")][dice.index(3)],
            cost: dice.below(100),
        }
    }

    fn document(&self, id: i64) -> Value {
        let text = |instant: Option<Timestamp>| instant.map(|instant| instant.to_string());
        json!({
            "id": id, "at": self.at.to_string(), "due": text(self.due),
            "closed": text(self.closed), "kind": self.kind, "cost": self.cost
        })
    }
}

/// Civil day of an instant, eight hours east of Greenwich.
fn day(instant: Timestamp) -> Date {
    let east = TimeZone::fixed(jiff::tz::offset(8));
    east.to_datetime(instant).date()
}

fn is_there(from: Option<Timestamp>, until: Option<Timestamp>, last: Date) -> bool {
    let came = from.is_some_and(|from| day(from) <= last);
    // What went on the day on which it came, or before, was never there.
    let went = until.is_some_and(|until| day(until) <= last || from.map(day) >= Some(day(until)));
    came && !went
}

/// What the indicators say of raw rows, counted one by one.
fn flat(rows: &[Row], period: &Period) -> BTreeMap<(&'static str, String), Component> {
    let (first, last) = (period.first_day(), period.last_day());
    let end: Timestamp = format!("{}T00:00:00+08:00", last.tomorrow().unwrap()).parse().unwrap();
    let mut totals = BTreeMap::new();
    let mut add = |indicator: &'static str, group: &str, one: Component| {
        let total = totals
            .entry((indicator, group.to_owned()))
            .or_insert_with(|| Component::zero(one.kind()));
        *total = total.add(&one).unwrap();
    };
    let groups = |row: &Row| std::iter::once("").chain(row.kind).collect::<Vec<_>>();
    for row in rows {
        if (first..=last).contains(&day(row.at)) {
            groups(row).iter().for_each(|group| add("filed", group, Component::Count(1)));
        }
        if row.closed.is_some_and(|closed| (first..=last).contains(&day(closed))) {
            groups(row).iter().for_each(|group| add("done", group, Component::Count(1)));
        }
        if is_there(row.at.into(), row.closed, last) {
            let age = Some((end.as_millisecond()) - row.at.as_millisecond());
            for group in groups(row) {
                add("open", group, Component::Count(1));
                add("oldest", group, Component::Extreme { min_milli: age, max_milli: age });
            }
            add("cost", "", Component::Sum { sum_milli: i128::from(row.cost) * 1000, terms: 1 });
            let numerator = u64::from(row.cost > 50);
            add("dear", "", Component::Ratio { numerator, denominator: 1 });
            let cost = crate::domain::indicator::Contribution::Histogram(row.cost * 1000);
            add("spread", "", Component::from(&cost));
        }
        if row.cost > 20 && is_there(row.due, row.closed, last) {
            add("overdue", "", Component::Count(1));
        }
    }
    totals
}

fn by_key(components: Vec<OwnComponent>) -> BTreeMap<(String, String), Component> {
    components.into_iter().map(|own| ((own.indicator, own.group), own.component)).collect()
}

/// Folds communities → streets → districts → city along a random tree, as units do.
fn fold(
    mut parts: Vec<BTreeMap<(String, String), Component>>,
    dice: &mut Dice,
) -> Vec<(String, String, Component)> {
    while parts.len() > 1 {
        let start = dice.index(parts.len());
        let end = (start + 1 + dice.index(3)).min(parts.len());
        let mut parent = BTreeMap::<(String, String), Component>::new();
        for (key, component) in parts.drain(start..end).flatten() {
            let total = parent.entry(key).or_insert_with(|| Component::zero(component.kind()));
            *total = total.add(&component).unwrap();
        }
        parts.push(parent);
    }
    let root = parts.remove(0).into_iter().filter(|(_, component)| !component.is_zero());
    root.map(|((indicator, group), component)| (indicator, group, component)).collect()
}

const PERIODS: [&str; 12] = [
    "2020-10",
    "2020-11",
    "2020-12",
    "2021-01",
    "2021-03",
    "2020-Q4",
    "2020",
    "2020-11/2021-02",
    "2020-11-30",
    "2021-01-17",
    "2020-W53",
    "2021-W01",
];

/// Late, changed and withdrawn rows, over random trees: the fold equals the flat calculation on the
/// raw rows for stocks and flows alike, and each unit's components equal its recount.
#[tokio::test]
async fn the_fold_of_stocks_equals_the_flat_calculation_on_raw_rows() {
    for finest in ["day", "month"] {
        let catalogue = catalogue("Asia/Shanghai", finest);
        let (bench, mut dice) = (bench(5), Dice(11));
        let mut rows: BTreeMap<(usize, i64), Row> = BTreeMap::new();
        for round in 0..6 {
            for (index, unit) in bench.units.iter().enumerate() {
                let mut documents = Vec::new();
                for _ in 0..40 {
                    let id = dice.below(70);
                    let row = Row::random(&mut dice);
                    documents.push(row.document(id));
                    rows.insert((index, id), row);
                }
                unit.apply(&catalogue, "case", documents).await.unwrap();
            }
            let raw: Vec<Row> = rows.values().cloned().collect();
            for text in PERIODS {
                let period: Period = text.parse().unwrap();
                if finest == "month" && period.months().is_none() {
                    let refused = bench.units[0].components(&catalogue, &period).await;
                    assert!(refused.unwrap_err().to_string().contains("\"finest\": \"day\""));
                    continue;
                }
                let mut parts = Vec::new();
                for unit in &bench.units {
                    let own = unit.components(&catalogue, &period).await.unwrap();
                    let again = unit.recount(&catalogue, &period).await.unwrap();
                    assert_eq!(own, again, "{finest}, round {round}, {period}");
                    parts.push(by_key(own));
                }
                let folded = fold(parts, &mut dice);
                let mut folded: BTreeMap<_, _> =
                    folded.into_iter().map(|(id, group, total)| ((id, group), total)).collect();
                folded.retain(|(id, _), _| id != "slowest");
                let flat: BTreeMap<_, _> = flat(&raw, &period)
                    .into_iter()
                    .map(|((id, group), total)| ((id.to_owned(), group), total))
                    .collect();
                assert_eq!(folded, flat, "{finest}, round {round}, {period}");
            }
        }
    }
}

fn case(id: i64, at: &str, closed: Option<&str>) -> Value {
    json!({"id": id, "at": at, "closed": closed, "cost": 1})
}

async fn total(records: &Records, catalogue: &Catalogue, period: &str, id: &str) -> Component {
    let all = records.components(catalogue, &period.parse().unwrap()).await.unwrap();
    all.into_iter().find(|each| each.indicator == id && each.group.is_empty()).unwrap().component
}

async fn open(records: &Records, catalogue: &Catalogue, periods: &[&str]) -> Vec<u64> {
    let mut counts = Vec::new();
    for period in periods {
        let Component::Count(count) = total(records, catalogue, period, "open").await else {
            panic!("no count")
        };
        counts.push(count);
    }
    counts
}

#[tokio::test]
async fn a_case_closed_late_changes_the_stock_of_all_periods_between() {
    let catalogue = catalogue("Asia/Shanghai", "day");
    let bench = bench(1);
    let records = &bench.units[0];
    let months = ["2024-01", "2024-02", "2024-03", "2024-04", "2024-12", "2030"];
    let (filed, closed) = ("2024-01-20T03:00:00Z", "2024-04-02T03:00:00Z");
    records.apply(&catalogue, "case", vec![case(1, filed, None)]).await.unwrap();
    assert_eq!(open(records, &catalogue, &months).await, [1, 1, 1, 1, 1, 1]);
    records.apply(&catalogue, "case", vec![case(1, filed, Some(closed))]).await.unwrap();
    assert_eq!(open(records, &catalogue, &months).await, [1, 1, 1, 0, 0, 0]);
    let days = ["2024-01-19", "2024-01-20", "2024-04-01", "2024-04-02", "2024-W13", "2024-W14"];
    assert_eq!(open(records, &catalogue, &days).await, [0, 1, 1, 0, 1, 0]);
    // It came out that it was closed much earlier; then, that it was not closed at all.
    let earlier = case(1, filed, Some("2024-02-10T03:00:00Z"));
    records.apply(&catalogue, "case", vec![earlier]).await.unwrap();
    assert_eq!(open(records, &catalogue, &months).await, [1, 0, 0, 0, 0, 0]);
    records.apply(&catalogue, "case", vec![case(1, filed, None)]).await.unwrap();
    assert_eq!(open(records, &catalogue, &months).await, [1, 1, 1, 1, 1, 1]);
    let age = total(records, &catalogue, "2024-01", "oldest").await;
    let milli = Some(((11 * 24 + 13) * 3600) * 1000);
    assert_eq!(age, Component::Extreme { min_milli: milli, max_milli: milli });
}

/// Days are those of the catalogue's time zone, also where one has 23 or 25 hours.
#[tokio::test]
async fn figures_of_days_and_weeks_begin_and_end_where_the_time_zone_says() {
    let catalogue = catalogue("America/New_York", "day");
    let bench = bench(1);
    let records = &bench.units[0];
    let times = [
        // The day on which clocks go back has 25 hours: 04:00Z to 05:00Z of the next day.
        ("2020-11-01T03:59:59Z", "2020-10-31"),
        ("2020-11-01T04:00:00Z", "2020-11-01"),
        ("2020-11-02T04:59:59Z", "2020-11-01"),
        ("2020-11-02T05:00:00Z", "2020-11-02"),
        // The week 2020-W53 begins on 28 December and ends on 3 January.
        ("2020-12-28T04:59:59Z", "2020-12-27"),
        ("2020-12-28T05:00:00Z", "2020-12-28"),
        ("2021-01-01T04:59:59Z", "2020-12-31"),
        ("2021-01-01T05:00:00Z", "2021-01-01"),
        ("2021-01-04T04:59:59Z", "2021-01-03"),
        ("2021-01-04T05:00:00Z", "2021-01-04"),
    ];
    let documents = times.iter().zip(1..).map(|((at, _), id)| case(id, at, None)).collect();
    records.apply(&catalogue, "case", documents).await.unwrap();
    let filed = async |period: &str| total(records, &catalogue, period, "filed").await;
    for (_, day) in times {
        let of_day = times.iter().filter(|(_, other)| *other == day).count() as u64;
        assert_eq!(filed(day).await, Component::Count(of_day), "{day}");
    }
    for (period, count) in [
        ("2020-10", 1),
        ("2020-11", 3),
        ("2020-12", 3),
        ("2021-01", 3),
        ("2020", 7),
        ("2021", 3),
        ("2020-W44", 3),
        ("2020-W45", 1),
        ("2020-W52", 1),
        ("2020-W53", 4),
        ("2021-W01", 1),
    ] {
        assert_eq!(filed(period).await, Component::Count(count), "{period}");
        let period = period.parse().unwrap();
        let own = records.components(&catalogue, &period).await.unwrap();
        assert_eq!(own, records.recount(&catalogue, &period).await.unwrap(), "{period}");
    }
    // Days are in the year of their date, weeks in the year that ISO 8601 gives them.
    let of_week = civil::date(2021, 1, 3).iso_week_date();
    assert_eq!((of_week.year(), of_week.week()), (2020, 53));
}

#[tokio::test]
async fn finer_figures_come_with_a_catalogue_that_asks_for_them_and_go_with_it() {
    let (months, days) = (catalogue("Asia/Shanghai", "month"), catalogue("Asia/Shanghai", "day"));
    let bench = bench(1);
    let records = &bench.units[0];
    let documents = (1..600).map(|id| {
        let at = format!("2024-{:02}-{:02}T08:00:00Z", 1 + id % 7, 1 + id % 28);
        let closed = format!("2024-{:02}-{:02}T08:00:00Z", 2 + id % 9, 1 + id % 27);
        case(id, &at, (id % 3 > 0).then_some(closed.as_str()))
    });
    records.apply(&months, "case", documents.collect()).await.unwrap();
    for catalogue in [&days, &months, &days] {
        for text in ["2024-02", "2024-02-13", "2024-W07"] {
            let period: Period = text.parse().unwrap();
            if period.days().is_some() && catalogue.finest == Finest::Month {
                assert!(records.components(catalogue, &period).await.is_err());
                continue;
            }
            let own = records.components(catalogue, &period).await.unwrap();
            assert_eq!(own, records.recount(catalogue, &period).await.unwrap(), "{period}");
            let open = own.iter().find(|each| each.indicator == "open").unwrap();
            assert!(!open.component.is_zero(), "{period}: {own:?}");
        }
        // Filed in the first seven months, closed in the ninth and tenth too: every third is open.
        let of: Vec<i8> = records.months().await.unwrap().iter().map(|it| it.month()).collect();
        assert_eq!(of, [1, 2, 3, 4, 5, 6, 7, 9, 10]);
    }
}
