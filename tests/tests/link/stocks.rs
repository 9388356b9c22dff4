//! Stocks, days and weeks over real hosts: pulled, reported, and corrected up to the city when a case
//! is closed late.

use lianxi_proto::{
    local::v1::{PublishCatalogueRequest, ShowCatalogueRequest, ShowSummaryRequest, UnitFigures},
    types::v1::{Scope, component::Value as Figure},
};
use lianxi_tests::{
    federation::{CATALOGUE, Federation, count},
    wait::until,
};
use serde_json::{Value, json};

const ROWS: &str = "\
1,C-1-1-1,2011-07-01 08:00:00,2011-07-01 09:00:00,light,1 Main St
2,C-1-1-1,2011-07-02 08:00:00,,light,2 Main St
3,C-1-1-2,2011-07-03 08:00:00,2011-07-04 08:30:00,hole,3 Main St
4,C-1-2-1,2011-07-04 08:00:00,,hole,4 Main St
5,C-2-1-1,2011-07-05 08:00:00,,tree,5 Main St
";

const STREETS: [&str; 3] = ["C-1-1", "C-1-2", "C-2-1"];

/// The kit's catalogue with days and stocks, in force everywhere, and the rows.
async fn federation() -> Federation {
    let federation = Federation::four_levels().await;
    let mut document: Value = serde_json::from_str(CATALOGUE).unwrap();
    document["version"] = json!(2);
    document["format"] = json!(2);
    document["finest"] = json!("day");
    let stock = |id: &str, measure: &str, unit: &str| {
        json!({
            "id": id, "version": 1, "title": id, "title_zh": id, "record_type": "request",
            "about": "work", "unit": unit, "measure": measure,
            "stock": {"from": "opened", "until": "closed"}
        })
    };
    let indicators = document["indicators"].as_array_mut().unwrap();
    indicators.extend([stock("open", "count", "1"), stock("oldest", "age", "s")]);
    let document = document.to_string().into_bytes();
    let request = PublishCatalogueRequest { unit: "C".into(), document, dry_run: false };
    federation.client("C").catalogues().publish(request).await.unwrap();
    for unit in federation.units() {
        until(&format!("the second catalogue at {unit}"), async || {
            let request = ShowCatalogueRequest { unit: unit.clone() };
            let shown = federation.client(&unit).catalogues().show(request).await.ok()?;
            (shown.into_inner().version == 2).then_some(())
        })
        .await;
    }
    for street in STREETS {
        federation.import(street, ROWS).await;
    }
    federation
}

/// Waits until the city's report of a period is whole and has so many open cases.
async fn wait_for_open(federation: &Federation, period: &str, open: u64) -> UnitFigures {
    until(&format!("{open} open at the city for {period}"), async || {
        let (unit, of) = ("C".into(), String::new());
        let request = ShowSummaryRequest { unit, of, period: period.into() };
        let shown = federation.client("C").summaries().show(request).await.ok()?.into_inner();
        let coverage = shown.summary.as_ref()?.coverage.as_ref()?;
        let is_whole = coverage.included == 12 && coverage.expected == 12;
        (is_whole && count(&shown, "open", Scope::Subtree) == open).then_some(shown)
    })
    .await
}

fn oldest_milli(figures: &UnitFigures) -> i64 {
    let of = |cell: &&lianxi_proto::types::v1::Cell| {
        cell.indicator == "oldest" && cell.scope() == Scope::Subtree
    };
    let component = figures.cells.iter().find(of).unwrap().component.as_ref().unwrap();
    match component.value.as_ref().unwrap() {
        Figure::Extreme(extreme) => extreme.max_milli.unwrap(),
        other => panic!("no extreme: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn days_weeks_and_stocks_are_pulled_and_late_closures_correct_every_report_between() {
    let federation = federation().await;
    for (period, received, open) in [
        ("2011-07-01", 1, 0),
        ("2011-07-02", 1, 1),
        ("2011-07-03", 1, 2),
        ("2011-07-04", 1, 2),
        ("2011-W26", 3, 2),
        ("2011-W27", 2, 3),
        ("2011-07", 5, 3),
        ("2011-Q3", 5, 3),
        ("2011", 5, 3),
    ] {
        let figures = federation.pull("C", period).await;
        assert_eq!(figures.len(), 12, "{period}");
        let subtree = |indicator| count(&figures["C"], indicator, Scope::Subtree);
        assert_eq!((subtree("received"), subtree("open")), (received, open), "{period}");
    }

    for period in ["2011-W27", "2011-07", "2011-08"] {
        for street in STREETS {
            federation.publish(street, period).await;
        }
        wait_for_open(&federation, period, 3).await;
    }
    let july = wait_for_open(&federation, "2011-07", 3).await;
    // From the second of July, eight o'clock, to the end of the month.
    assert_eq!(oldest_milli(&july), ((29 * 24 + 16) * 3600) * 1000);

    // Closed in August: July stays as it was, August is corrected.
    let closed = "2,C-1-1-1,2011-07-02 08:00:00,2011-08-05 08:00:00,light,2 Main St\n";
    federation.import("C-1-1", closed).await;
    for period in ["2011-W27", "2011-07", "2011-08"] {
        federation.publish("C-1-1", period).await;
    }
    let august = wait_for_open(&federation, "2011-08", 2).await.summary.unwrap();
    assert!(august.version > 1 && august.supersedes.len() == 16);
    let live = federation.pull("C", "2011-07").await;
    assert_eq!(count(&live["C"], "open", Scope::Subtree), 3);
    assert_eq!(live["C"].cells, wait_for_open(&federation, "2011-07", 3).await.cells);

    // It comes out that it was closed in the first week: all between are corrected.
    let earlier = closed.replace("2011-08-05", "2011-07-09");
    federation.import("C-1-1", &earlier).await;
    for period in ["2011-W27", "2011-07", "2011-08"] {
        federation.publish("C-1-1", period).await;
        wait_for_open(&federation, period, 2).await;
    }
}
