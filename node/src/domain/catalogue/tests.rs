use serde_json::json;

use super::*;
use crate::domain::{
    indicator::Contribution,
    preview::{BrokenSeries, Reported},
};

fn document() -> Value {
    json!({
        "name": "sample",
        "version": 3,
        "title": "Sample",
        "title_zh": "样例",
        "time_zone": "Asia/Shanghai",
        "record_types": {
            "case": {
                "title": "Case",
                "title_zh": "案件",
                "key": "number",
                "time": "at",
                "schema": {
                    "type": "object",
                    "required": ["number", "at"],
                    "properties": {
                        "number": {"type": "string", "maxLength": 20, "x-class": "identifier"},
                        "at": {"type": "string", "format": "date-time", "x-class": "none"},
                        "phone": {"type": "string", "x-class": "contact"},
                        "kind": {"type": "string", "maxLength": 20, "x-class": "none"}
                    }
                }
            }
        },
        "indicators": [{
            "id": "filed", "version": 1, "title": "Filed", "title_zh": "立案数",
            "record_type": "case", "about": "work", "unit": "1", "measure": "count"
        }]
    })
}

fn parse(document: &Value) -> Result<Catalogue, Error> {
    Catalogue::parse(&serde_json::to_vec(document).unwrap())
}

#[test]
fn a_document_of_a_later_format_is_refused_before_what_it_brings() {
    assert_eq!(parse(&document()).unwrap().format, 1);
    let mut later = document();
    later["format"] = json!(FORMAT + 1);
    later["tide_tables"] = json!([]);
    let error = parse(&later).unwrap_err();
    assert_eq!(error, Error::Format(u64::from(FORMAT) + 1));
    assert!(error.to_string().contains("install a later one"), "{error}");
    assert_eq!(error.pointer(), "/format");
    later["format"] = json!(0);
    assert!(matches!(parse(&later), Err(Error::Invalid { .. })));
}

#[test]
fn what_format_2_brought_asks_for_it() {
    let mut days = document();
    days["finest"] = json!("day");
    let error = parse(&days).unwrap_err();
    assert_eq!(error.pointer(), "/finest");
    assert!(error.to_string().contains("set \"format\": 2"), "{error}");
    days["format"] = json!(2);
    assert_eq!(parse(&days).unwrap().finest, Finest::Day);
    let mut stock = document();
    stock["indicators"][0]["stock"] = json!({"from": "at", "until": "null"});
    assert_eq!(parse(&stock).unwrap_err().pointer(), "/indicators/0");
    stock["format"] = json!(2);
    assert!(parse(&stock).unwrap().indicators[0].stock.is_some());
}

#[test]
fn derived_figures_are_of_counts_and_sums_about_work() {
    let refused = |figures: Value| {
        let mut document = document();
        document["format"] = json!(2);
        let indicators = document["indicators"].as_array_mut().unwrap();
        let mut people = indicators[0].clone();
        people["id"] = json!("people");
        people["about"] = json!("person");
        let mut share = indicators[0].clone();
        share["id"] = json!("share");
        share["measure"] = json!({"ratio": {"numerator": "true", "denominator": "true"}});
        indicators.extend([people, share]);
        document["derived"] = figures;
        parse(&document).map(|catalogue| catalogue.derived.len()).map_err(|error| error.to_string())
    };
    let figure = |id: &str, formula: Value| {
        let mut figure = json!({"id": id, "title": "t", "title_zh": "t"});
        figure.as_object_mut().unwrap().extend(formula.as_object().unwrap().clone());
        figure
    };
    let per = |names: [&str; 2]| json!([figure("rate", json!({"per": names, "times": 100}))]);
    assert_eq!(refused(per(["filed", "filed"])), Ok(1));
    for (figures, place, word) in [
        (per(["filed", "nothing"]), "/derived/0/per", "no indicator"),
        (per(["filed", "share"]), "/derived/0/per", "is a ratio"),
        (per(["people", "filed"]), "/derived/0/per", "about persons"),
        (json!([figure("gap", json!({"gap": ["filed", "filed"]}))]), "/derived/0/gap", "a sum"),
        (json!([figure("rate", json!({}))]), "/derived/0", "either"),
        (json!([figure("filed", json!({"per": ["filed", "filed"]}))]), "/derived/0/id", "twice"),
        (
            json!([figure("rate", json!({"per": ["filed", "filed"], "times": 0}))]),
            "/derived/0/times",
            "at least",
        ),
    ] {
        let error = refused(figures.clone()).unwrap_err();
        assert!(error.starts_with(place) && error.contains(word), "{figures}: {error}");
    }
    let mut early = document();
    early["derived"] = per(["filed", "filed"]);
    assert_eq!(parse(&early).unwrap_err().pointer(), "/derived");
}

#[test]
fn series_break_where_an_indicator_is_gone_or_has_another_version() {
    let catalogue = parse(&document()).unwrap();
    let of = |id: &str, version| {
        BrokenSeries::of(&Reported::from([(id.to_owned(), version)]), &catalogue)
    };
    assert!(of("filed", 1).is_empty());
    assert!(of("filed", 2).changed.contains("filed"));
    assert!(of("settled", 1).removed.contains("settled"));
}

/// Puts `value` at `pointer` and returns the place and reason of the refusal.
fn refused(pointer: &str, value: Value) -> (String, String) {
    let mut document = document();
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    let parent = document.pointer_mut(parent).unwrap();
    match (parent.as_array_mut(), name.parse::<usize>()) {
        (Some(items), Ok(index)) if index < items.len() => items[index] = value,
        (Some(items), _) => items.push(value),
        (None, _) => parent[name] = value,
    }
    match parse(&document) {
        Ok(_) => panic!("{pointer} was accepted"),
        Err(error) => (error.pointer().to_owned(), error.to_string()),
    }
}

#[test]
fn a_document_reads_as_declared() {
    let catalogue = parse(&document()).unwrap();
    assert_eq!(catalogue.label(), "sample@3");
    assert_eq!(catalogue.time_zone.iana_name(), Some("Asia/Shanghai"));
    assert_eq!(catalogue.record_type("case").unwrap().title_zh(), "案件");
    assert_eq!(catalogue.indicator("filed").unwrap().title_zh, "立案数");
    assert!(!catalogue.has_duty_item("filed"));
    let emergency = catalogue.limits_for(EscalationKind::Emergency);
    assert_eq!(emergency.arrive, Duration::from_secs(30 * 60));
    assert_eq!(catalogue.limits.len(), 3);
    assert_eq!(catalogue.warning, Warning::default());
}

#[test]
fn lists_and_limits_read_as_declared() {
    let mut document = document();
    document["duty_list"] = json!([{"id": "salt", "title": "Salt", "title_zh": "撒盐"}]);
    document["approvals"] = json!(["〔2026〕17号"]);
    document["limits"] = json!({"hard": {"answer": "90m", "arrive": "2d"}});
    document["lamp"] = json!({"yellow_last_percent": 10});
    let catalogue = parse(&document).unwrap();
    assert!(catalogue.has_duty_item("salt"));
    assert!(catalogue.has_approval("〔2026〕17号") && !catalogue.has_approval("〔2026〕18号"));
    let hard = catalogue.limits_for(EscalationKind::Hard);
    assert_eq!(hard.answer, Duration::from_secs(90 * 60));
    assert_eq!(hard.arrive, Duration::from_secs(2 * 24 * 60 * 60));
    assert_eq!(
        catalogue.limits_for(EscalationKind::Routine),
        Limits::default_for(EscalationKind::Routine)
    );
    assert_eq!(catalogue.warning, Warning::last_percent(10).unwrap());
}

#[test]
fn what_is_no_json_or_too_large_is_refused() {
    assert!(matches!(Catalogue::parse(b"{"), Err(Error::Json(_))));
    assert!(matches!(Catalogue::parse(b"\xff"), Err(Error::Json(_))));
    let large = vec![b' '; MAX_DOCUMENT_BYTES + 1];
    assert_eq!(Catalogue::parse(&large).unwrap_err(), Error::TooLarge(large.len()));
    let deep = [b"[".repeat(40_000), b"]".repeat(40)].concat();
    assert!(matches!(Catalogue::parse(&deep), Err(Error::Json(_))));
}

#[test]
fn unknown_and_missing_words_are_named_with_their_place() {
    let (place, reason) = refused("/indicator", json!([]));
    assert_eq!(place, "");
    assert!(reason.contains("unknown field `indicator`"), "{reason}");
    let (place, reason) = refused("/indicators/0", json!({"id": "x"}));
    assert_eq!(place, "/indicators/0");
    assert!(reason.contains("missing field"), "{reason}");
    let (place, reason) = refused("/indicators/0/filtr", json!("true"));
    assert_eq!(place, "/indicators/0");
    assert!(reason.contains("`filtr`") && reason.contains("`filter`"), "{reason}");
    let (place, _) = refused("/duty_list", json!([{"id": "x", "title": "x"}]));
    assert_eq!(place, "/duty_list/0");
}

#[test]
fn each_mistake_is_refused_at_its_place() {
    for (pointer, value, place) in [
        ("/name", json!("Sample"), "/name"),
        ("/name", json!("-x"), "/name"),
        ("/version", json!(0), "/version"),
        ("/time_zone", json!("Mars/Olympus"), "/time_zone"),
        ("/title_zh", json!(" "), "/title_zh"),
        ("/record_types", json!({}), "/record_types"),
        ("/record_types/Case", json!({}), "/record_types/Case"),
        ("/indicators/0/id", json!("Filed"), "/indicators/0/id"),
        ("/indicators/0/version", json!(0), "/indicators/0/version"),
        ("/indicators/0/measure", json!("mean"), "/indicators/0"),
        ("/indicators/0/record_type", json!("person"), "/indicators/0/record_type"),
        ("/indicators/0/unit", json!(""), "/indicators/0/unit"),
        ("/approvals", json!([""]), "/approvals/0"),
        ("/limits", json!({"urgent": {}}), "/limits"),
        ("/limits", json!({"hard": {"answer": "2h", "arrive": "1h"}}), "/limits/hard"),
        ("/limits", json!({"hard": {"answer": "soon", "arrive": "1h"}}), "/limits/hard"),
        ("/limits", json!({"hard": {"answer": "0s", "arrive": "1h"}}), "/limits/hard"),
        ("/limits", json!({"hard": {"answer": "1h", "arrive": "400d"}}), "/limits/hard"),
        ("/lamp", json!({"yellow_last_percent": 101}), "/lamp/yellow_last_percent"),
    ] {
        let (refused_at, reason) = refused(pointer, value.clone());
        assert_eq!(refused_at, place, "{pointer} = {value}: {reason}");
    }
}

#[test]
fn each_mistake_in_a_record_type_is_refused_at_its_place() {
    for (pointer, value, place) in [
        ("/key", json!("kind"), "/key"),
        ("/key", json!("none"), "/key"),
        ("/time", json!("kind"), "/time"),
        ("/schema/type", json!("array"), "/schema/type"),
        ("/schema/required", json!(["number"]), "/time"),
        ("/schema/$schema", json!("http://json-schema.org/draft-07/schema#"), "/schema/$schema"),
        ("/schema/properties/kind", json!({"type": "text"}), "/schema/properties/kind/type"),
        (
            "/schema/properties/kind",
            json!({"x-class": "secret"}),
            "/schema/properties/kind/x-class",
        ),
        (
            "/schema/properties/kind",
            json!({"$ref": "https://example.com/kind.json"}),
            "/schema/properties/kind/$ref",
        ),
        (
            "/schema/properties/kind",
            json!({"$ref": "file:///etc/passwd"}),
            "/schema/properties/kind/$ref",
        ),
    ] {
        let record_type = "/record_types/case";
        let (refused_at, reason) = refused(&format!("{record_type}{pointer}"), value.clone());
        assert_eq!(refused_at, format!("{record_type}{place}"), "{value}: {reason}");
    }
}

#[test]
fn a_member_that_stands_twice_is_refused() {
    let text = document().to_string().replacen("\"version\"", "\"version\":9,\"version\"", 1);
    let error = Catalogue::parse(text.as_bytes()).unwrap_err();
    assert!(error.to_string().contains("\"version\" stands twice"), "{error}");
}

#[test]
fn ids_are_unique() {
    let twice = document()["indicators"][0].clone();
    assert_eq!(refused("/indicators/1", twice).0, "/indicators/1/id");
    let item = json!({"id": "a", "title": "A", "title_zh": "甲"});
    assert_eq!(refused("/duty_list", json!([item, item])).0, "/duty_list/1/id");
}

#[test]
fn one_pass_gives_what_each_indicator_gives() {
    let catalogue = boston();
    let record = json!({
        "case_id": "101", "opened_at": "2011-07-01T05:32:33Z", "status": "Closed",
        "target_at": "2011-07-15T05:32:32Z", "closed_at": "2011-07-01T09:06:58Z",
        "ontime": "ONTIME", "type": "Street Light Outages"
    });
    let together: Vec<_> = catalogue
        .contributions("service-request", &record)
        .unwrap()
        .into_iter()
        .map(|(indicator, contribution)| (indicator.id.clone(), contribution))
        .collect();
    let each: Vec<_> = catalogue
        .indicators
        .iter()
        .filter_map(|each| {
            Some((each.id.clone(), each.contributions(&record, &TimeZone::UTC).unwrap()?))
        })
        .collect();
    assert_eq!(together, each);
    let ids: Vec<&str> = each.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(
        ids,
        [
            "received",
            "closed",
            "with_target",
            "closed_within_target",
            "close_seconds",
            "longest_close_seconds",
            "distinct_types",
            "on_time_share"
        ]
    );
    assert_eq!(each[4].1.contribution, Contribution::Sum(12_865_000));
    assert_eq!(each[5].1.contribution, Contribution::Extreme(12_865_000));
    assert!(catalogue.contributions("another", &record).unwrap().is_empty());
}

fn boston() -> Catalogue {
    let document = include_bytes!("../../../../deploy/catalogues/boston.json");
    Catalogue::parse(document).unwrap()
}

#[test]
fn the_boston_catalogue_counts_an_open_and_an_overdue_request() {
    let catalogue = boston();
    assert!(catalogue.has_duty_item("street-light-inspection"));
    let counted = |record: Value| -> Vec<String> {
        assert_eq!(catalogue.record_types["service-request"].validate(&record), []);
        let contributions = catalogue.contributions("service-request", &record).unwrap();
        contributions.into_iter().map(|(indicator, _)| indicator.id.clone()).collect()
    };
    let open = json!({
        "case_id": "1", "opened_at": "2011-07-01T00:00:00-04:00", "status": "Open",
        "target_at": null, "closed_at": null, "ontime": null, "type": "Pothole",
        "latitude": 42.2715, "longitude": -71, "location": "39 Lorraine St"
    });
    assert_eq!(counted(open), ["received", "open", "distinct_types"]);
    let late = json!({
        "case_id": "2", "opened_at": "2011-07-01T00:00:00Z", "status": "Closed",
        "target_at": "2011-07-02T00:00:00Z", "closed_at": "2011-07-02T00:00:01Z",
        "ontime": "OVERDUE"
    });
    assert_eq!(
        counted(late),
        [
            "received",
            "closed",
            "with_target",
            "overdue",
            "close_seconds",
            "longest_close_seconds",
            "on_time_share"
        ]
    );
}

#[test]
fn the_boston_catalogue_tells_no_place_person_or_case() {
    let catalogue = boston();
    let fields = catalogue.record_types["service-request"].fields();
    for classified in [
        "case_id",
        "location",
        "street",
        "zip",
        "latitude",
        "longitude",
        "title",
        "closure_reason",
        "closed_photo",
    ] {
        assert!(!fields[classified].is_open(), "{classified}");
    }
    for indicator in &catalogue.indicators {
        for (name, _) in indicator.bound_fields() {
            assert!(fields[name].is_open(), "{} names {name}", indicator.id);
        }
    }
}
