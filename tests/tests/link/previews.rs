//! What a new program or catalogue would do to the children is told before it is there, from what
//! they said and reported; who says nothing is never called fine.

use std::collections::BTreeMap;

use lianxi_node::domain::catalogue::FORMAT;
use lianxi_proto::{
    admin::v1::{ChildOutlook, PreviewRequest},
    link::v1::{Hello, frame::Kind},
    local::v1::{
        ChildUnderCatalogue, PreviewCatalogueRequest, ShowCatalogueRequest, ShowSummaryRequest,
    },
    types::v1::{Level, Scope},
};
use lianxi_tests::{
    binary::run,
    federation::{CATALOGUE, Federation, count},
    hostile::{Hostile, HostileLink},
    wait::until,
};
use serde_json::{Value, json};
use tonic::{Code, Status};

/// Exit code of a preview in which not every child goes on, as `docs/cli.md` promises it.
const WOULD_BREAK: i32 = 16;

const PERIOD: &str = "2011-07";

/// A city with two districts, each on a host of its own.
async fn city() -> Federation {
    let mut federation = Federation::city("C").await;
    for district in ["C-1", "C-2"] {
        federation.add_host(district, "C", Level::District).await;
        federation.wait_for_link(district, true).await;
        federation.wait_for_catalogue(district).await;
    }
    federation
}

async fn preview(
    federation: &Federation,
    lowest: u32,
    highest: u32,
) -> BTreeMap<String, ChildOutlook> {
    let request =
        PreviewRequest { unit: "C".into(), protocol_lowest: lowest, protocol_highest: highest };
    let answer = federation.client("C").node().preview(request).await.unwrap();
    answer.into_inner().children.into_iter().map(|child| (child.unit.clone(), child)).collect()
}

async fn under(
    federation: &Federation,
    document: &Value,
) -> Result<BTreeMap<String, ChildUnderCatalogue>, Status> {
    let document = serde_json::to_vec(document).unwrap();
    let request = PreviewCatalogueRequest { unit: "C".into(), document };
    let answer = federation.client("C").catalogues().preview(request).await?.into_inner();
    Ok(answer.children.into_iter().map(|child| (child.unit.clone(), child)).collect())
}

/// Links as the stopped `unit`, with a hello of its own; what it says is kept once it is greeted.
async fn greets(federation: &Federation, unit: &str, say: impl FnOnce(&mut Hello)) -> HostileLink {
    let hostile = Hostile::take_over(&federation.directory(unit), unit).await;
    let mut link = hostile.open().await;
    let mut hello = hostile.hello();
    say(&mut hello);
    link.send(Kind::Hello(hello)).await;
    let frame = link.next().await;
    assert!(matches!(frame, Ok(Some(Kind::Hello(_)))), "{frame:?}");
    link
}

#[tokio::test(flavor = "multi_thread")]
async fn the_parent_tells_which_children_a_new_program_would_cut_off() {
    let mut federation = city().await;
    let all = preview(&federation, 1, 1).await;
    assert_eq!(all.len(), 2);
    let own = format!("lianxi-node/{}", env!("CARGO_PKG_VERSION"));
    for child in all.values() {
        assert_eq!((child.software.as_str(), child.outlook.as_str()), (&*own, "fine"));
        assert_eq!((child.protocol_lowest, child.protocol_highest), (1, 1));
        assert!(child.linked && child.greeted_unix_ms > 0, "{child:?}");
    }
    let later = preview(&federation, 2, 9).await;
    assert!(later.values().all(|child| child.outlook == "breaks"), "{later:?}");

    // A program of another day in the second district, and then one that does not say what it is.
    federation.stop("C-2").await;
    let link = greets(&federation, "C-2", |hello| {
        hello.version_max = 7;
        hello.software = "gateway/7".to_owned();
        hello.catalogue_format = 3;
    })
    .await;
    let later = preview(&federation, 2, 9).await;
    assert_eq!((&*later["C-1"].outlook, &*later["C-2"].outlook), ("breaks", "fine"));
    assert_eq!((&*later["C-2"].software, later["C-2"].catalogue_format), ("gateway/7", 3));
    drop(link);
    let _link = greets(&federation, "C-2", |hello| hello.version_max = 1).await;
    assert_eq!(preview(&federation, 1, 1).await["C-2"].outlook, "unknown");
    assert_eq!(preview(&federation, 2, 9).await["C-2"].outlook, "breaks");

    // What was said outlasts a restart, also of those that are not there.
    federation.stop("C-1").await;
    federation.stop("C").await;
    federation.start("C").await;
    let after = preview(&federation, 1, 1).await;
    assert_eq!((&*after["C-1"].software, &*after["C-1"].outlook), (&*own, "fine"));
    assert!(!after["C-1"].linked, "{after:?}");
    assert_eq!(after["C-2"].outlook, "unknown");
    let nothing = PreviewRequest { unit: "C".into(), protocol_lowest: 0, protocol_highest: 1 };
    let refused = federation.client("C").node().preview(nothing).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn units_of_the_same_host_go_along() {
    let mut federation = Federation::city("C").await;
    federation.add_unit("C-1", "C", Level::District).await;
    federation.wait_for_link("C-1", true).await;
    let later = preview(&federation, 2, 9).await;
    assert!(later["C-1"].same_host && later["C-1"].outlook == "fine", "{later:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_parent_tells_whose_series_a_new_catalogue_would_break() {
    let mut federation = city().await;
    let row = "1,C-1,2011-07-01 08:00:00,2011-07-02 08:00:00,light,1 Main St\n";
    federation.import("C-1", row).await;
    federation.publish("C-1", PERIOD).await;
    until("the report of the district", async || {
        let request =
            ShowSummaryRequest { unit: "C".into(), of: "C-1".into(), period: PERIOD.into() };
        let held = federation.client("C").summaries().show(request).await.ok()?.into_inner();
        (count(&held, "received", Scope::Subtree) == 1).then_some(())
    })
    .await;

    let mut next: Value = serde_json::from_str(CATALOGUE).unwrap();
    next["version"] = json!(2);
    let same = under(&federation, &next).await.unwrap();
    assert_eq!(same["C-1"].period, PERIOD);
    for child in same.values() {
        assert_eq!(child.outlook, "fine", "{child:?}");
        assert!(child.removed.is_empty() && child.changed.is_empty(), "{child:?}");
        assert!(!child.behind, "{child:?}");
    }

    let indicators = next["indicators"].as_array_mut().unwrap();
    indicators.retain(|indicator| indicator["id"] != "types");
    let received = indicators.iter_mut().find(|indicator| indicator["id"] == "received").unwrap();
    received["version"] = json!(2);
    federation.stop("C-2").await;
    let _link = greets(&federation, "C-2", |hello| hello.software = "gateway/0".to_owned()).await;
    let broken = under(&federation, &next).await.unwrap();
    assert_eq!(
        (&*broken["C-1"].removed, &*broken["C-1"].changed),
        (&["types".into()][..], &["received".into()][..])
    );
    assert_eq!((&*broken["C-2"].outlook, &*broken["C-2"].period), ("unknown", ""));
    assert!(broken["C-2"].behind, "its hello held no catalogue");

    // It was a preview: nothing is published, and the same version cannot be.
    let shown = ShowCatalogueRequest { unit: "C".into() };
    let shown = federation.client("C").catalogues().show(shown).await.unwrap().into_inner();
    assert_eq!(shown.version, 1);
    next["version"] = json!(1);
    let refused = under(&federation, &next).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_say_by_their_exit_code_whether_every_child_goes_on() {
    let federation = city().await;
    let place = federation.directory("C");
    let asks = async |line: &str| run(&place, line.split_whitespace()).await;
    let shown = asks("node preview --dir . --json").await.json();
    assert_eq!(shown["children"][1]["outlook"], "fine", "{shown}");
    let broken = asks("node preview --dir . --protocol 2").await;
    broken.fails(WOULD_BREAK, &["2 children would break"]);

    let mut next: Value = serde_json::from_str(CATALOGUE).unwrap();
    next["version"] = json!(2);
    std::fs::write(place.join("next.json"), next.to_string()).unwrap();
    let shown = asks("catalogue preview next.json --dir . --json").await.json();
    assert_eq!((&shown["version"], &shown["children"][0]["outlook"]), (&json!(2), &json!("fine")));
    next["format"] = json!(FORMAT + 1);
    std::fs::write(place.join("next.json"), next.to_string()).unwrap();
    let refused = asks("catalogue preview next.json --dir .").await;
    refused.fails(2, &["/format", "install a later one"]);
}
