//! Packs of real hosts years later: who had seen what, over however many links it came; who was
//! revoked since; whatever the suite. Checked by `lianxi verify` and by the Python program.

use std::{fs, path::Path};

use lianxi_node::{
    domain::{delegation::Suite, unit::UnitCode},
    statement::header::StatementId,
};
use lianxi_proto::{
    admin::v1::RevokeRequest,
    local::v1::{IssueNoticeRequest, ShowSummaryRequest},
    types::v1::{Level, Notice, RevocationReason},
};
use lianxi_tests::{
    binary::{Answer, run},
    federation::{CATALOGUE, Federation},
    python::Python,
    wait::until,
};
use serde_json::Value;

const ROWS: &str = "\
1,C-1-1-1,2011-07-01 08:00:00,2011-07-01 09:00:00,light,1 Main St
2,C-1-1-2,2011-07-03 08:00:00,2011-07-03 08:30:00,hole,3 Main St
3,C-1,2011-07-05 08:00:00,,tree,5 Main St
";

/// Hosts that report July, from below, until the city has it from `included` units.
async fn report(federation: &Federation, hosts: &[&str], included: u32) {
    for host in hosts {
        federation.import(host, ROWS).await;
    }
    for host in hosts {
        federation.publish(host, "2011-07").await;
    }
    until("the report of all units", async || {
        let (unit, period) = ("C".to_owned(), "2011-07".to_owned());
        let request = ShowSummaryRequest { unit, of: String::new(), period };
        let shown = federation.client("C").summaries().show(request).await.ok()?.into_inner();
        (shown.summary?.coverage?.included == included).then_some(())
    })
    .await;
}

/// Makes a checkpoint of every unit, and waits until another unit has cosigned what was reported.
async fn witnessed(federation: &Federation) {
    for host in federation.units() {
        for hosted in federation.host(&host).units().all() {
            let made = hosted.journal.checkpoint().await.unwrap().unwrap().checkpoint.size;
            until(&format!("a witness of {}", hosted.unit.code), async || {
                let covering = hosted.journal.covering(made - 1).await.unwrap()?;
                (covering.witnesses().count() > 0).then_some(())
            })
            .await;
        }
    }
}

async fn at_city(federation: &Federation, place: &Path, arguments: &[&str]) -> Answer {
    let dir = federation.directory("C");
    run(place, [arguments, &["--dir", dir.to_str().unwrap()]].concat()).await
}

async fn export(federation: &Federation, place: &Path, file: &str) {
    let arguments = ["pack", "export", "--period", "2011-07", "--unit", "C", "--out", file];
    let _ = at_city(federation, place, &arguments).await.succeeds();
    if !place.join("root.pub").exists() {
        let _ = at_city(federation, place, &["pack", "root", "--out", "root.pub"]).await.succeeds();
    }
}

async fn verify(place: &Path, file: &str, more: &[&str]) -> Value {
    run(place, [&["verify", file, "--root", "root.pub", "--json"], more].concat()).await.json()
}

/// What the Python program says about a file.
fn python_says(python: &Python, place: &Path, file: &str, more: &[&str]) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/verify_pack.py");
    let mut command = python.run(&script);
    command.current_dir(place).args([file, "--root", "root.pub"]).args(more);
    let output = command.output().unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn python() -> Option<Python> {
    Python::find("packs_evidence", Path::new(env!("CARGO_TARGET_TMPDIR")))
}

fn of<'a>(document: &'a Value, unit: &str) -> &'a Value {
    let statements = document["statements"].as_array().unwrap();
    statements.iter().find(|statement| statement["unit"] == unit).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_communitys_evidence_comes_through_every_relay() {
    let federation = Federation::four_levels().await;
    report(&federation, &["C-1-1", "C-1-2", "C-2-1", "C-1", "C-2", "C"], 12).await;
    witnessed(&federation).await;
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    export(&federation, place, "pack.lianxi").await;
    let document = verify(place, "pack.lianxi", &[]).await;
    // From the street's host over the district to the city: the leaf of its own journal, and who
    // cosigned the checkpoint over it.
    for (unit, witness) in [("C-1-1-1", "C-1-1"), ("C-1-1", "C-1"), ("C-1", "C")] {
        let journal = &of(&document, unit)["journal"];
        assert_eq!(journal["unit"], unit, "{journal}");
        let witnesses = journal["witnesses"].as_array().unwrap();
        assert!(witnesses.iter().any(|it| it["unit"] == witness), "{unit}: {journal}");
    }
    let Some(python) = python() else { return };
    assert_eq!(python_says(&python, place, "pack.lianxi", &[]), "valid");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_says_who_was_revoked_and_a_newer_list_counts_for_an_older_pack() {
    let federation = Federation::four_levels().await;
    report(&federation, &["C-1-1", "C-1-2", "C-2-1", "C-1", "C-2", "C"], 12).await;
    witnessed(&federation).await;
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    export(&federation, place, "before.lianxi").await;
    let before = verify(place, "before.lianxi", &[]).await;
    assert_eq!(before["revocations"]["completeness"], "all");
    assert_eq!(before["revocations"]["items"], serde_json::json!([]));

    // Cosignatures tell the second: the end lies in a later one.
    federation.clock.shift_to(10_000);
    let order = RevokeRequest {
        unit: "C".to_owned(),
        revoked: "C-1-1".to_owned(),
        reason: RevocationReason::KeyStolen.into(),
        text: "laptop stolen".to_owned(),
        ..RevokeRequest::default()
    };
    federation.client("C").node().revoke(order).await.unwrap();
    let street: UnitCode = "C-1-1".parse().unwrap();
    let district: UnitCode = "C-1".parse().unwrap();
    until("the revocation at the district", async || {
        let hosted = federation.host("C-1").units().get(&district).unwrap();
        hosted.unit.trust().revoked(&street, None).map(drop)
    })
    .await;
    export(&federation, place, "after.lianxi").await;
    let after = verify(place, "after.lianxi", &[]).await;
    let item = &after["revocations"]["items"][0];
    assert_eq!((item["unit"].as_str(), item["by"].as_str()), (Some("C-1-1"), Some("C")));
    assert_eq!((item["counts"].as_bool(), item["whole"].as_bool()), (Some(true), Some(true)));
    assert_eq!(after["revocations"]["completeness"], "all");
    // What the street reported while its keys were its own is there, with who saw it.
    let witnesses = of(&after, "C-1-1")["journal"]["witnesses"].as_array().unwrap();
    assert!(!witnesses.is_empty());
    let shown = run(place, ["verify", "after.lianxi", "--root", "root.pub"]).await.succeeds();
    assert!(shown.contains("laptop stolen") && shown.contains("revoked by"), "{shown}");

    let list = ["node", "revocations", "--out", "revoked", "--json"];
    let listed = at_city(&federation, place, &list).await.json();
    assert_eq!(listed["revocations"][0]["unit"], "C-1-1");
    at_city(&federation, place, &list).await.fails(5, &["is there already"]);
    let beside = ["--revocations", "revoked"];
    let later = verify(place, "before.lianxi", &beside).await;
    assert_eq!(later["revocations"]["items"][0]["unit"], "C-1-1");
    assert_eq!(later["revocations"]["in_file"], 0);
    let wrong = ["verify", "before.lianxi", "--root", "root.pub", "--revocations", "root.pub"];
    run(place, wrong).await.fails(2, &["lianxi node revocations --out"]);
    let Some(python) = python() else { return };
    assert_eq!(python_says(&python, place, "after.lianxi", &[]), "valid");
    assert_eq!(python_says(&python, place, "before.lianxi", &beside), "valid");
}

/// One notice in a file: who issued it is proved, its body stays with its readers.
#[tokio::test(flavor = "multi_thread")]
async fn a_single_notice_is_proved_and_its_body_stays_sealed() {
    let mut federation = Federation::city("C").await;
    federation.add_host("C-1", "C", Level::District).await;
    federation.wait_for_catalogue("C-1").await;
    let notice = Notice {
        number: "〔2026〕17号".into(),
        title: "planted-title".into(),
        text: "before the first frost".into(),
        level: Level::District.into(),
        duty_item: "street-light-inspection".into(),
        due_unix_ms: 4_000_000_000_000,
        ..Notice::default()
    };
    let (unit, destination) = ("C".to_owned(), "C-1".to_owned());
    let request = IssueNoticeRequest { unit, destination, notice: Some(notice), exercise: false };
    let issued = federation.client("C").notices().issue(request).await.unwrap().into_inner();
    witnessed(&federation).await;
    let id = StatementId::try_from(&issued.notice_id[..]).unwrap().to_string();
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    let arguments = ["pack", "export", "--statement", &id, "--unit", "C", "--out", "notice.lianxi"];
    let _ = at_city(&federation, place, &arguments).await.succeeds();
    let _ = at_city(&federation, place, &["pack", "root", "--out", "root.pub"]).await.succeeds();
    let document = verify(place, "notice.lianxi", &[]).await;
    let one = of(&document, "C");
    assert_eq!(
        (one["type"].as_str(), one["sealed"].as_bool()),
        (Some("lianxi.notice.v1"), Some(true))
    );
    assert_eq!(one["statement_id"], id);
    assert_eq!(one["journal"]["witnesses"][0]["unit"], "C-1");
    let shown = run(place, ["verify", "notice.lianxi", "--root", "root.pub"]).await.succeeds();
    assert!(shown.contains("sealed to its readers"), "{shown}");
    let file = fs::read(place.join("notice.lianxi")).unwrap();
    assert!(!file.windows(13).any(|part| part == b"planted-title"));
    let Some(python) = python() else { return };
    assert_eq!(python_says(&python, place, "notice.lianxi", &[]), "valid");
    let mut changed = file.clone();
    changed[file.len() / 2] ^= 1;
    fs::write(place.join("notice.lianxi"), changed).unwrap();
    let refused = run(place, ["verify", "notice.lianxi", "--root", "root.pub"]).await;
    refused.fails(6, &["at part"]);
    assert_ne!(python_says(&python, place, "notice.lianxi", &[]), "valid");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_federation_in_sm2_exports_a_pack_that_two_programs_check() {
    let mut federation = Federation::city_in(Suite::Sm2Sm3, "C", CATALOGUE, None).await;
    federation.add_host("C-1", "C", Level::District).await;
    federation.add_unit("C-1-1", "C-1", Level::Street).await;
    for unit in ["C-1", "C-1-1"] {
        federation.wait_for_catalogue(unit).await;
    }
    federation.wait_for_roster("C", 3).await;
    report(&federation, &["C-1", "C"], 3).await;
    witnessed(&federation).await;
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    export(&federation, place, "pack.lianxi").await;
    let document = verify(place, "pack.lianxi", &[]).await;
    assert_eq!(document["statement_count"], 3);
    let witnesses = of(&document, "C-1-1")["journal"]["witnesses"].as_array().unwrap();
    assert!(!witnesses.is_empty());
    let Some(python) = python() else { return };
    assert_eq!(python_says(&python, place, "pack.lianxi", &[]), "valid");
    let good = fs::read(place.join("pack.lianxi")).unwrap();
    for number in 1..12 {
        let mut changed = good.clone();
        let at = good.len() * number / 12;
        changed[at] ^= 1 << (number % 8);
        fs::write(place.join("changed.lianxi"), &changed).unwrap();
        let refused =
            run(place, ["verify", "changed.lianxi", "--root", "root.pub", "--json"]).await;
        refused.fails(6, &[]);
        let broken: Value = serde_json::from_str(&refused.stdout).unwrap();
        let reason = broken["broken"]["reason"].as_str().unwrap();
        let unit = broken["broken"]["unit"].as_str().unwrap_or_default();
        let said = python_says(&python, place, "changed.lianxi", &[]);
        assert_eq!(said, format!("{reason} {unit}").trim(), "byte {at}");
    }
}
