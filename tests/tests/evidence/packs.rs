//! Packs of real hosts: exported over the links, written once, and checked without any node.

use std::{fs, path::Path};

use lianxi_proto::local::v1::ShowSummaryRequest;
use lianxi_tests::{
    binary::{Answer, run},
    federation::Federation,
    wait::until,
};
use serde_json::Value;

const ROWS: &str = "\
1,C-1-1-1,2011-07-01 08:00:00,2011-07-01 09:00:00,light,1 Main St
2,C-1-1-2,2011-07-03 08:00:00,2011-07-03 08:30:00,hole,3 Main St
3,C-2-1-1,2011-07-05 08:00:00,,tree,5 Main St
4,C,2011-07-06 08:00:00,,tree,6 Main St
";

/// Four levels that have reported July, each unit's figures in the city's report.
async fn reported() -> Federation {
    let federation = Federation::four_levels().await;
    for host in ["C", "C-1-1", "C-2-1"] {
        federation.import(host, ROWS).await;
    }
    for host in ["C-1-1", "C-1-2", "C-2-1", "C-1", "C-2", "C"] {
        federation.publish(host, "2011-07").await;
    }
    until("the report of all units", async || {
        let request = ShowSummaryRequest {
            unit: "C".to_owned(),
            of: String::new(),
            period: "2011-07".to_owned(),
        };
        let shown = federation.client("C").summaries().show(request).await.ok()?.into_inner();
        let coverage = shown.summary?.coverage?;
        let received = shown.cells.iter().find(|cell| {
            cell.indicator == "received" && cell.scope() == lianxi_proto::types::v1::Scope::Subtree
        })?;
        let count = lianxi_proto::types::v1::component::Value::Count(4);
        let is_all = received.component.as_ref()?.value.as_ref()? == &count;
        (coverage.included == 12 && is_all).then_some(())
    })
    .await;
    federation
}

async fn export(federation: &Federation, place: &Path, unit: &str, more: &[&str]) -> Answer {
    let dir = federation.directory("C");
    let mut arguments = vec!["pack", "export", "--period", "2011-07", "--unit", unit, "--dir"];
    arguments.push(dir.to_str().unwrap());
    arguments.extend(more);
    run(place, arguments).await
}

async fn root_key(federation: &Federation, place: &Path) {
    let dir = federation.directory("C");
    let arguments = ["pack", "root", "--out", "root.pub", "--dir", dir.to_str().unwrap()];
    let _ = run(place, arguments).await.succeeds();
}

async fn verify(place: &Path, file: &str, more: &[&str]) -> Answer {
    run(place, [&["verify", file, "--root", "root.pub"], more].concat()).await
}

fn statement<'a>(document: &'a Value, unit: &str) -> &'a Value {
    let statements = document["statements"].as_array().unwrap();
    statements.iter().find(|statement| statement["unit"] == unit).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_city_exports_what_all_units_reported_and_anybody_can_check_it() {
    let federation = reported().await;
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    root_key(&federation, place).await;
    let exported =
        export(&federation, place, "C", &["--out", "pack.lianxi", "--json"]).await.json();
    assert_eq!(exported["statements"], 12);
    assert_eq!(exported["missing"], serde_json::json!([]));
    let document = verify(place, "pack.lianxi", &["--json"]).await.json();
    assert_eq!(document["valid"], true);
    assert_eq!(document["statement_count"], 12);
    assert_eq!(document["totals_not_recomputed"], 0);
    assert_eq!(statement(&document, "C")["subtree"]["received"]["count"], 4);
    let street = statement(&document, "C-1-1");
    assert_eq!(street["subtree"]["received"]["count"], 2);
    assert_eq!(street["chain"].as_array().unwrap().len(), 3);
    let shown = verify(place, "pack.lianxi", &["--unit", "C-1", "--depth", "1"]).await.succeeds();
    assert!(shown.contains("C > C-1 > C-1-1"), "{shown}");
    assert!(shown.contains("C-1-1") && !shown.contains("C-1-1-1") && !shown.contains("C-2"));

    // One flipped byte of what a street signed.
    let mut bytes = fs::read(place.join("pack.lianxi")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::write(place.join("changed.lianxi"), &bytes).unwrap();
    let refused = verify(place, "changed.lianxi", &["--json"]).await;
    refused.fails(6, &["at part"]);
    let broken: Value = serde_json::from_str(&refused.stdout).unwrap();
    assert_eq!(broken["valid"], false);
    assert!(broken["broken"]["part"].is_u64());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_street_that_is_away_is_named_and_its_report_is_there() {
    let mut federation = reported().await;
    federation.stop("C-2-1").await;
    federation.wait_for_link("C-1", true).await;
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    root_key(&federation, place).await;
    let exported =
        export(&federation, place, "C", &["--out", "pack.lianxi", "--json"]).await.json();
    // The district holds what the street sent; what went into that is out of reach.
    assert_eq!(exported["statements"], 10);
    let missing: Vec<&str> =
        exported["missing"].as_array().unwrap().iter().map(|it| it.as_str().unwrap()).collect();
    assert_eq!(missing, ["C-2-1-1 not-held", "C-2-1-2 not-held"]);
    let document = verify(place, "pack.lianxi", &["--json"]).await.json();
    assert_eq!(statement(&document, "C-2-1")["totals_recomputed"], 0);
    assert_eq!(statement(&document, "C")["totals_not_recomputed"], serde_json::json!([]));
    assert_eq!(statement(&document, "C")["subtree"]["received"]["count"], 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_indicator_is_withheld_at_every_unit_and_the_rest_is_proved() {
    let federation = reported().await;
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    root_key(&federation, place).await;
    let more = ["--out", "pack.lianxi", "--withhold", "closed"];
    let _ = export(&federation, place, "C", &more).await.succeeds();
    let document = verify(place, "pack.lianxi", &["--json"]).await.json();
    for one in document["statements"].as_array().unwrap() {
        assert_eq!(one["cells_withheld"], 2);
        assert!(one["subtree"].get("closed").is_none());
        assert!(one["subtree"].get("received").is_some());
    }
    assert_eq!(document["totals_not_recomputed"], 0);
    let unknown = export(&federation, place, "C", &["--out", "x", "--withhold", "clsoed"]).await;
    unknown.fails(2, &["clsoed", "lianxi catalogue show"]);
    assert!(!place.join("x").exists());
}

/// Names of units and files stay names: nothing is written but the file that was named.
#[tokio::test(flavor = "multi_thread")]
async fn an_export_writes_one_file_where_it_is_told_and_over_nothing() {
    let federation = reported().await;
    let outer = tempfile::tempdir().unwrap();
    let place = outer.path().join("in");
    fs::create_dir_all(place.join("folder")).unwrap();
    let place = place.as_path();
    let out = |path| ["--out", path];
    export(&federation, place, "C", &out("folder")).await.fails(2, &["is no file"]);
    export(&federation, place, "C", &out("missing/pack")).await.fails(4, &["cannot write"]);
    let _ = export(&federation, place, "C", &out("pack")).await.succeeds();
    let before = fs::read(place.join("pack")).unwrap();
    export(&federation, place, "C", &out("pack")).await.fails(5, &["is there already", "--force"]);
    assert_eq!(fs::read(place.join("pack")).unwrap(), before);
    let _ = export(&federation, place, "C", &["--out", "pack", "--force"]).await.succeeds();
    assert_ne!(fs::read(place.join("pack")).unwrap(), before);
    std::os::unix::fs::symlink("/dev/null", place.join("link")).unwrap();
    export(&federation, place, "C", &["--out", "link", "--force"]).await.fails(2, &["is no file"]);
    // A unit whose name would be a path is no unit, in an export as in what is read.
    export(&federation, place, "../C", &out("escaped")).await.fails(2, &[]);
    let names = |path: &Path| -> Vec<String> {
        let entries = fs::read_dir(path).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(names(place), ["folder", "link", "pack"]);
    assert_eq!(names(&place.join("folder")), Vec::<String>::new());
    assert_eq!(names(outer.path()), ["in"]);
    let nothing = run(
        place,
        ["pack", "export", "--period", "2010-01", "--out", "none", "--dir"]
            .into_iter()
            .map(str::to_owned)
            .chain([federation.directory("C").to_str().unwrap().to_owned()]),
    )
    .await;
    nothing.fails(5, &["lianxi summary publish"]);
}
