//! The catalogues that ship: clean, and every indicator of the default one counts what its name says.
//! The flat calculation here knows the rows and the calendar, and nothing of the catalogue.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::{Timestamp, ToSpan, civil::Date, tz::TimeZone};
use lianxi_node::{
    clock::SystemClock,
    domain::{
        catalogue::{Catalogue, lint},
        component::Component,
        derived::Operand,
        histogram::Histogram,
        period::Period,
    },
    services::records::Records,
    store::sled::{Options, SledStore},
};
use lianxi_tests::federation::Federation;
use serde_json::{Value, json};

const DEFAULT: &str = include_str!("../../../deploy/catalogues/default.json");
const BOSTON: &str = include_str!("../../../deploy/catalogues/boston.json");

#[test]
fn the_shipped_catalogues_raise_no_doubt() {
    for document in [DEFAULT, BOSTON] {
        let catalogue = Catalogue::parse(document.as_bytes()).unwrap();
        assert_eq!(lint::doubts(&catalogue, document.len()), []);
        assert!(!catalogue.duty_list.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_default_catalogue_is_published_as_it_ships() {
    let federation = Federation::city_of("C", DEFAULT, None).await;
    federation.wait_for_catalogue("C").await;
    federation.publish("C", "2026-W53").await;
}

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: i64) -> i64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        i64::try_from(self.0 >> 33).unwrap() % limit
    }

    fn is(&mut self, of: i64) -> bool {
        self.below(of) == 0
    }

    fn word(&mut self, words: &[&'static str]) -> &'static str {
        words[usize::try_from(self.below(words.len().try_into().unwrap())).unwrap()]
    }

    /// A time in the last weeks of 2026, whose last ISO week is the 53rd.
    fn time(&mut self) -> String {
        let start: Timestamp = "2026-11-20T00:00:00Z".parse().unwrap();
        (start + self.below(60 * 86_400).seconds()).to_string()
    }

    /// A time up to so many hours after another; now and then none.
    fn after(&mut self, time: &str, hours: i64) -> Option<String> {
        let time: Timestamp = time.parse().unwrap();
        let later = time + (self.below(hours * 3600) + 1).seconds();
        (!self.is(4)).then(|| later.to_string())
    }
}

const TYPES: [&str; 11] = [
    "case",
    "whistle",
    "task",
    "meeting",
    "resolution",
    "burden",
    "rating",
    "member",
    "service",
    "need",
    "profile",
];

/// A random row of a type. Cases are due after they are filed, and near due before that.
fn row(record_type: &str, id: i64, dice: &mut Dice) -> Value {
    let (at, key) = (dice.time(), id.to_string());
    match record_type {
        "case" => case(&key, &at, dice),
        "whistle" => json!({
            "whistle_id": key, "raised_at": at,
            "kind": dice.word(&["routine", "hard", "emergency"]), "joint": dice.is(3),
            "desk": dice.word(&["gas", "fire"]), "answer_due_at": dice.after(&at, 9),
            "answered_at": dice.after(&at, 12), "arrived_at": dice.after(&at, 40),
            "raised_level_at": dice.after(&at, 60)
        }),
        "task" => json!({
            "task_id": key, "issued_at": at,
            "admission": dice.word(&["duty-list", "approval", "none"]),
            "refused_at": dice.after(&at, 50), "refusal_upheld": dice.is(2),
            "due_at": dice.after(&at, 400), "done_at": dice.after(&at, 500)
        }),
        "meeting" => json!({"meeting_id": key, "planned_at": at, "held_at": dice.after(&at, 24)}),
        "resolution" => json!({
            "resolution_id": key, "resolved_at": at, "due_at": dice.after(&at, 300),
            "done_at": dice.after(&at, 600)
        }),
        "burden" => json!({
            "entry_id": key, "noted_at": at, "forms": dice.below(20), "data_items": dice.below(90),
            "meetings": dice.below(9), "over_cap": dice.is(3)
        }),
        "rating" => json!({
            "rating_id": key, "rated_at": at, "direction": dice.word(&["up", "down"]),
            "score": dice.below(101)
        }),
        "member" => json!({"member_id": key, "registered_at": at, "left_at": dice.after(&at, 900)}),
        "service" => json!({"service_id": key, "served_at": at, "minutes": dice.below(300)}),
        "need" => json!({"need_id": key, "raised_at": at, "project_at": dice.after(&at, 200)}),
        "profile" => json!({
            "profile_id": key, "valid_from": at, "valid_until": dice.after(&at, 900),
            "level": dice.word(&["street", "community"]), "residents": dice.below(9_000)
        }),
        other => panic!("no rows of {other}"),
    }
}

fn case(key: &str, at: &str, dice: &mut Dice) -> Value {
    let warn = dice.after(at, 200);
    let due = warn.as_deref().and_then(|warn| dice.after(warn, 200));
    let rating = dice.word(&["satisfied", "basically", "dissatisfied", ""]);
    let rating = (!rating.is_empty()).then_some(rating);
    json!({
        "case_id": key, "filed_at": at, "source": dice.word(&["hotline", "grid", "online"]),
        "category": "road", "contact_due_at": dice.after(at, 24), "contacted_at": dice.after(at, 30),
        "warn_at": warn, "due_at": due, "closed_at": dice.after(at, 700), "extended": dice.is(3),
        "reopened": dice.below(3), "routed_at": dice.after(at, 5), "returned_at": dice.after(at, 9),
        "called_back_at": dice.after(at, 800), "solved": dice.is(2),
        "rating": rating,
        "repeat_of": dice.is(5).then_some("7")
    })
}

/// Civil day of an instant, eight hours east of Greenwich.
fn day(instant: Timestamp) -> Date {
    TimeZone::fixed(jiff::tz::offset(8)).to_datetime(instant).date()
}

struct Row<'a>(&'a Value);

impl Row<'_> {
    fn time(&self, field: &str) -> Option<Timestamp> {
        self.0[field].as_str().map(|text| text.parse().unwrap())
    }

    fn text(&self, field: &str) -> &str {
        self.0[field].as_str().unwrap_or_default()
    }

    fn is(&self, field: &str) -> bool {
        self.0[field] == json!(true)
    }

    fn has(&self, field: &str) -> bool {
        !self.0[field].is_null()
    }

    fn not_after(&self, field: &str, limit: &str) -> bool {
        self.time(field).zip(self.time(limit)).is_some_and(|(time, limit)| time <= limit)
    }

    fn number(&self, field: &str) -> i64 {
        self.0[field].as_i64().unwrap()
    }
}

type Totals = BTreeMap<(String, String), Component>;

/// Flat totals of one period.
struct Flat {
    first: Date,
    last: Date,
    totals: Totals,
}

impl Flat {
    fn add(&mut self, indicator: &str, group: &str, one: &Component) {
        let groups: BTreeSet<&str> = ["", group].into();
        for group in groups {
            let key = (indicator.to_owned(), group.to_owned());
            let total = self.totals.entry(key).or_insert_with(|| Component::zero(one.kind()));
            *total = total.add(one).unwrap();
        }
    }

    fn is_in(&self, time: Option<Timestamp>) -> bool {
        time.is_some_and(|time| (self.first..=self.last).contains(&day(time)))
    }

    fn count(&mut self, indicator: &str, group: &str, counts: bool) {
        if counts {
            self.add(indicator, group, &Component::Count(1));
        }
    }

    /// A share of the rows whose time is in the period.
    fn share(&mut self, indicator: &str, time: Option<Timestamp>, of: bool) {
        self.share_of(indicator, "", time, of, true);
    }

    fn share_of(
        &mut self,
        indicator: &str,
        group: &str,
        time: Option<Timestamp>,
        of: bool,
        all: bool,
    ) {
        if self.is_in(time) && (of || all) {
            let (numerator, denominator) = (of.into(), all.into());
            self.add(indicator, group, &Component::Ratio { numerator, denominator });
        }
    }

    fn sum(&mut self, indicator: &str, value: i64, counts: bool) {
        if counts {
            let sum_milli = i128::from(value) * 1000;
            self.add(indicator, "", &Component::Sum { sum_milli, terms: 1 });
        }
    }

    fn spread(&mut self, indicator: &str, from: Option<Timestamp>, to: Option<Timestamp>) {
        if let Some((from, to)) = from.zip(to).filter(|_| self.is_in(to)) {
            let mut histogram = Histogram::default();
            assert!(histogram.insert(to.as_millisecond() - from.as_millisecond()));
            self.add(indicator, "", &Component::Histogram(histogram));
        }
    }

    /// True if something is there at the end of the period.
    fn stands(&self, from: Option<Timestamp>, until: Option<Timestamp>) -> bool {
        let came = from.is_some_and(|from| day(from) <= self.last);
        came && until.is_none_or(|until| day(until) > self.last)
    }

    fn row(&mut self, record_type: &str, row: &Row<'_>) {
        match record_type {
            "case" => self.case(row),
            "whistle" => {
                let at = row.time("raised_at");
                self.count("whistles", row.text("kind"), self.is_in(at));
                let (due, desk) = (row.time("answer_due_at"), row.text("desk"));
                let answered = row.not_after("answered_at", "answer_due_at");
                self.share_of("answered_on_time", desk, due, answered, true);
                self.spread("arrival", at, row.time("arrived_at"));
                self.share("raised_level", at, row.has("raised_level_at"));
                self.share("cross_area", at, row.is("joint"));
            }
            "task" => {
                let at = row.time("issued_at");
                self.count("tasks", "", self.is_in(at));
                self.share("admitted", at, row.text("admission") != "none");
                self.share("refusals_upheld", row.time("refused_at"), row.is("refusal_upheld"));
                let done = row.not_after("done_at", "due_at");
                self.share("tasks_on_time", row.time("due_at"), done);
            }
            "meeting" => self.share("meetings_held", row.time("planned_at"), row.has("held_at")),
            "resolution" => {
                self.share("resolutions_done", row.time("due_at"), row.has("done_at"));
            }
            "burden" => {
                let at = row.time("noted_at");
                for counter in ["forms", "data_items", "meetings"] {
                    self.sum(counter, row.number(counter), self.is_in(at));
                }
                self.share("over_cap", at, row.is("over_cap"));
            }
            "rating" => {
                let at = self.is_in(row.time("rated_at"));
                let indicator = format!("rating_{}", row.text("direction"));
                self.sum(&indicator, row.number("score"), at);
            }
            "member" => {
                let there = self.stands(row.time("registered_at"), row.time("left_at"));
                self.count("members", "", there);
            }
            "service" => {
                let at = self.is_in(row.time("served_at"));
                self.sum("service_time", row.number("minutes"), at);
            }
            "need" => self.share("conversion", row.time("raised_at"), row.has("project_at")),
            "profile" => {
                let there = self.stands(row.time("valid_from"), row.time("valid_until"));
                self.sum("residents", row.number("residents"), there);
                self.count("communities", "", there && row.text("level") == "community");
            }
            other => panic!("no flat calculation of {other}"),
        }
    }

    fn case(&mut self, row: &Row<'_>) {
        let [filed, warn, due, closed, called] =
            ["filed_at", "warn_at", "due_at", "closed_at", "called_back_at"].map(|it| row.time(it));
        self.count("filed", row.text("source"), self.is_in(filed));
        self.share("close_rate", due, closed.is_some());
        self.share("close_on_time", due, row.not_after("closed_at", "due_at"));
        self.share("rework", closed, row.number("reopened") > 0);
        self.share("extension", due, row.is("extended"));
        self.spread("close_time", filed, closed);
        let contacted = row.not_after("contacted_at", "contact_due_at");
        self.share("response", row.time("contact_due_at"), contacted);
        self.share("resolution", called, row.is("solved"));
        let satisfied = ["satisfied", "basically"].contains(&row.text("rating"));
        self.share_of("satisfaction", "", called, satisfied, row.has("rating"));
        self.share("call_back", closed, called.is_some());
        self.count("repeats", "", self.is_in(filed) && row.has("repeat_of"));
        self.share("repeat_share", filed, row.has("repeat_of"));
        self.share("self_found", filed, row.text("source") == "grid");
        self.share("returned", row.time("routed_at"), row.has("returned_at"));
        if !self.stands(filed, closed) {
            return;
        }
        self.count("open_stock", row.text("source"), true);
        let end = self.last.tomorrow().unwrap();
        let end: Timestamp = format!("{end}T00:00:00+08:00").parse().unwrap();
        let age = filed.map(|filed| end.as_millisecond() - filed.as_millisecond());
        self.add("oldest_open", "", &Component::Extreme { min_milli: age, max_milli: age });
        // Each open case has one lamp.
        let is_past = |time: Option<Timestamp>| time.is_some_and(|time| day(time) <= self.last);
        let lamp = match (is_past(due), is_past(warn)) {
            (true, _) => "red",
            (false, true) => "yellow",
            (false, false) => "green",
        };
        self.count(lamp, "", true);
    }
}

/// Units of four levels, by parent: city, districts, streets, communities.
const PARENTS: [Option<usize>; 8] =
    [None, Some(0), Some(0), Some(1), Some(2), Some(3), Some(3), Some(4)];

fn fold(parts: &[Totals], unit: usize) -> Totals {
    let mut totals = parts[unit].clone();
    let children = PARENTS.iter().enumerate().filter(|(_, parent)| **parent == Some(unit));
    for (key, component) in children.flat_map(|(child, _)| fold(parts, child)) {
        let total = totals.entry(key).or_insert_with(|| Component::zero(component.kind()));
        *total = total.add(&component).unwrap();
    }
    totals
}

#[tokio::test]
async fn every_indicator_of_the_default_catalogue_equals_the_flat_calculation() {
    let catalogue = Catalogue::parse(DEFAULT.as_bytes()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let options = Options { barrier: false, reserve_bytes: 0, ..Options::default() };
    let store = Arc::new(SledStore::open(directory.path(), options).unwrap());
    let units: Vec<Records> = (0..PARENTS.len())
        .map(|unit| {
            let code = format!("3101{unit:02}").parse().unwrap();
            Records::new(code, store.clone(), Arc::new(SystemClock), None)
        })
        .collect();
    let (mut dice, mut rows) = (Dice(3), BTreeMap::new());
    // The second time, rows are changed: closed late, reopened, moved to another day.
    for _ in 0..2 {
        for (index, unit) in units.iter().enumerate() {
            for record_type in TYPES {
                let ids: Vec<i64> = (0..12).map(|_| dice.below(16)).collect();
                let changed = ids.iter().map(|id| {
                    let row = row(record_type, *id, &mut dice);
                    rows.insert((index, record_type, *id), row.clone());
                    row
                });
                let documents = changed.collect();
                unit.apply(&catalogue, record_type, documents).await.unwrap();
            }
        }
    }
    let mut seen = BTreeSet::new();
    for text in ["2026-12", "2026-12-31", "2026-W53", "2026-Q4", "2026", "2027-01", "2027-03"] {
        let period: Period = text.parse().unwrap();
        let mut parts = Vec::new();
        for unit in &units {
            let own = unit.components(&catalogue, &period).await.unwrap();
            let own = own.into_iter().map(|own| ((own.indicator, own.group), own.component));
            parts.push(own.collect());
        }
        let mut folded = fold(&parts, 0);
        folded.retain(|_, component| !component.is_zero());
        let (first, last) = (period.first_day(), period.last_day());
        let mut flat = Flat { first, last, totals: Totals::new() };
        for ((_, record_type, _), row) in &rows {
            flat.row(record_type, &Row(row));
        }
        assert_eq!(folded, flat.totals, "{period}");
        seen.extend(folded.keys().map(|(indicator, _)| indicator.clone()));
        let total = |id: &str| match folded.get(&(id.to_owned(), String::new())) {
            Some(Component::Count(count)) => *count,
            _ => 0,
        };
        assert_eq!(
            total("red") + total("yellow") + total("green"),
            total("open_stock"),
            "{period}"
        );
    }
    let declared: BTreeSet<String> = catalogue.indicators.iter().map(|it| it.id.clone()).collect();
    assert_eq!(seen, declared, "each has counted something");
}

#[test]
fn derived_figures_of_the_default_catalogue_are_those_of_the_domain() {
    let catalogue = Catalogue::parse(DEFAULT.as_bytes()).unwrap();
    let count = Operand::of_count;
    let values: Vec<(&str, Option<i128>)> = [
        ("filed_per_10k", [count(31_828), count(617_594)], Some(515_354)),
        ("whistle_rate", [count(3), count(200)], Some(1_500)),
        ("tasks_per_community", [count(9), count(4)], Some(2_250)),
        (
            "rating_gap",
            [Operand { milli: 180_000, terms: 2 }, Operand { milli: 150_500, terms: 2 }],
            Some(14_750),
        ),
    ]
    .into_iter()
    .map(|(id, operands, expected)| {
        let figure = catalogue.derived.iter().find(|figure| figure.id == id).unwrap();
        assert_eq!(figure.milli(operands), expected, "{id}");
        (id, expected)
    })
    .collect();
    assert_eq!(values.len(), catalogue.derived.len());
}
