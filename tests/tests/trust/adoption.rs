//! A tree that was started at a lower level comes under its city, with everything that it had said.

#![allow(clippy::unwrap_used, reason = "a test that cannot set its scene has to fail")]

use std::{fs, path::Path, sync::Arc};

use lianxi_node::{
    domain::{delegation::Suite, unit::Level},
    identity::{issue, keys::RootKey},
    services::roots,
    store::{Batch, Table},
};
use lianxi_proto::{
    admin::v1::{AdoptRequest, AdoptResponse, InviteRequest},
    local::v1::{IssueNoticeRequest, ListNoticesRequest, RootKeyRequest, ShowSummaryRequest},
    types::v1::{Level as WireLevel, Notice},
};
use lianxi_tests::{
    acts::acts,
    binary::run,
    federation::{CATALOGUE, Federation},
    python::Python,
    wait::until,
};
use prost::Message as _;
use tonic::{Code, Status};

const ROWS: &str = "\
1,C-7-1-1,2011-07-01 08:00:00,2011-07-01 09:00:00,light,1 Main St
2,C-7-1-1,2011-07-03 08:00:00,2011-07-03 08:30:00,hole,3 Main St
";

/// City `C` with district `C-1`, and district `C-7` as a root of its own over street `C-7-1`, whose
/// host serves community `C-7-1-1`.
async fn two_trees() -> Federation {
    two_trees_of("test.example", Suite::Ed25519).await
}

async fn two_trees_of(domain: &str, suite: Suite) -> Federation {
    let mut federation = Federation::city("C").await;
    federation.add_host("C-1", "C", WireLevel::District).await;
    federation.add_root("C-7", Level::District, domain, suite).await;
    federation.add_host("C-7-1", "C-7", WireLevel::Street).await;
    federation.add_unit("C-7-1-1", "C-7-1", WireLevel::Community).await;
    federation.wait_for_roster("C", 2).await;
    federation.wait_for_roster("C-7", 3).await;
    federation
}

async fn fingerprint(federation: &Federation, unit: &str) -> String {
    let request = RootKeyRequest { unit: unit.to_owned() };
    let text = federation.client(unit).packs().root_key(request).await.unwrap().into_inner();
    let key: lianxi_node::verify::RootKey = text.root_key.parse().unwrap();
    key.fingerprint().to_owned()
}

async fn offer_to(
    federation: &Federation,
    by: &str,
    child: &str,
    level: WireLevel,
    root_key: String,
) -> Result<String, Status> {
    let request = InviteRequest {
        unit: by.to_owned(),
        child: child.to_owned(),
        child_level: level.into(),
        child_title: format!("Unit {child}"),
        valid_for_ms: 0,
        dry_run: false,
        root_key,
    };
    Ok(federation.client(by).node().invite(request).await?.into_inner().token)
}

async fn offer(federation: &Federation) -> String {
    let root_key = fingerprint(federation, "C-7").await;
    offer_to(federation, "C", "C-7", WireLevel::District, root_key).await.unwrap()
}

async fn accept(federation: &Federation, token: &str) -> Result<AdoptResponse, Status> {
    accept_as(federation, "C-7", token, false).await
}

async fn accept_as(
    federation: &Federation,
    unit: &str,
    token: &str,
    dry_run: bool,
) -> Result<AdoptResponse, Status> {
    let (unit, token) = (unit.to_owned(), token.to_owned());
    let request = AdoptRequest { unit: unit.clone(), token, signed: Vec::new(), dry_run };
    Ok(federation.client(&unit).node().adopt(request).await?.into_inner())
}

fn notice() -> Notice {
    Notice {
        number: "〔2026〕17号".into(),
        title: "inspect street lights".into(),
        text: "before the first frost".into(),
        level: WireLevel::Community.into(),
        duty_item: "street-light-inspection".into(),
        due_unix_ms: 4_000_000_000_000,
        ..Notice::default()
    }
}

/// The root that `unit` believes in, and the fingerprint of its key.
fn root_at(federation: &Federation, unit: &str) -> (String, String) {
    let hosted = federation.host(unit).units().get(&unit.parse().unwrap()).unwrap();
    let trust = hosted.unit.trust();
    (trust.root().unwrap().to_string(), trust.root_key().key_id().to_owned())
}

async fn wait_for_root(federation: &Federation, unit: &str, root: &str) {
    until(&format!("{unit} to rest on {root}"), async || {
        (root_at(federation, unit).0 == root).then_some(())
    })
    .await;
}

async fn wait_for_report(federation: &Federation, at: &str, included: u32) {
    until(&format!("the report of {at}"), async || {
        let request = ShowSummaryRequest {
            unit: at.to_owned(),
            of: String::new(),
            period: "2011-07".to_owned(),
        };
        let shown = federation.client(at).summaries().show(request).await.ok()?.into_inner();
        (shown.summary?.coverage?.included == included).then_some(())
    })
    .await;
}

async fn lianxi(federation: &Federation, unit: &str, place: &Path, arguments: &[&str]) {
    let dir = federation.directory(unit);
    let mut all = arguments.to_vec();
    all.extend(["--unit", unit, "--dir", dir.to_str().unwrap()]);
    run(place, all).await.succeeds();
}

/// Both verifiers accept the pack, and say how many root keys it rests on.
async fn verifies(place: &Path, arguments: &[&str], roots: usize) {
    let mut all = vec!["verify"];
    all.extend(arguments);
    all.push("--json");
    let shown = run(place, all).await.json();
    assert_eq!(shown["roots"].as_array().unwrap().len(), roots, "{}", shown["roots"]);
    let temporary = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let Some(python) = Python::find("the second verifier", temporary) else { return };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/verify_pack.py");
    let answer = python.run(&script).args(arguments).current_dir(place).output().unwrap();
    assert!(answer.status.success(), "{arguments:?}: {answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_in_sm2_comes_under_a_city_in_sm2() {
    let suite = Suite::Sm2Sm3;
    let mut federation = Federation::city_in(suite, "C", CATALOGUE, None).await;
    federation.add_root("C-7", Level::District, "test.example", suite).await;
    federation.add_host("C-7-1", "C-7", WireLevel::Street).await;
    let token = offer(&federation).await;
    assert_eq!(accept(&federation, &token).await.unwrap().parent, "C");
    federation.wait_for_link("C-7", true).await;
    federation.wait_for_roster("C", 3).await;
    let city = fingerprint(&federation, "C").await;
    for unit in ["C-7", "C-7-1"] {
        wait_for_root(&federation, unit, "C").await;
        assert_eq!(root_at(&federation, unit).1, city);
    }
    for unit in ["C-7-1", "C-7", "C"] {
        federation.wait_for_catalogue(unit).await;
        federation.publish(unit, "2011-07").await;
    }
    wait_for_report(&federation, "C", 3).await;
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    lianxi(&federation, "C", place, &["pack", "root", "--out", "city.pub"]).await;
    let export = ["pack", "export", "--period", "2011-07", "--out", "sm2.lianxi"];
    lianxi(&federation, "C", place, &export).await;
    verifies(place, &["sm2.lianxi", "--root", "city.pub"], 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_district_comes_under_its_city_and_nothing_that_it_said_is_lost() {
    let mut federation = two_trees().await;
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    let request = lianxi_proto::local::v1::PublishCatalogueRequest {
        unit: "C-7".to_owned(),
        document: CATALOGUE.into(),
        dry_run: false,
    };
    federation.client("C-7").catalogues().publish(request).await.unwrap();
    for unit in ["C-7-1", "C-7-1-1"] {
        federation.wait_for_catalogue(unit).await;
    }
    federation.import("C-7-1", ROWS).await;
    for unit in ["C-7-1", "C-7"] {
        federation.publish(unit, "2011-07").await;
    }
    wait_for_report(&federation, "C-7", 3).await;
    lianxi(&federation, "C-7", place, &["pack", "root", "--out", "district.pub"]).await;
    lianxi(&federation, "C", place, &["pack", "root", "--out", "city.pub"]).await;
    let export = |name: &'static str| ["pack", "export", "--period", "2011-07", "--out", name];
    lianxi(&federation, "C-7", place, &export("before.lianxi")).await;
    verifies(place, &["before.lianxi", "--root", "district.pub"], 1).await;

    let token = offer(&federation).await;
    let tried = accept_as(&federation, "C-7", &token, true).await.unwrap();
    assert_eq!((tried.parent.as_str(), root_at(&federation, "C-7").0.as_str()), ("C", "C-7"));
    assert_eq!(accept(&federation, &token).await.unwrap().parent, "C");
    federation.wait_for_link("C-7", true).await;
    federation.wait_for_roster("C", 5).await;
    // Those below learn it over their links.
    let city = fingerprint(&federation, "C").await;
    for unit in ["C-7", "C-7-1", "C-7-1-1"] {
        wait_for_root(&federation, unit, "C").await;
        assert_eq!(root_at(&federation, unit).1, city);
    }
    // The same command again changes nothing.
    assert_eq!(accept(&federation, &token).await.unwrap().parent, "C");

    // Summaries go up, notices go down, also after a stop of each host.
    for unit in ["C-7-1", "C-7", "C"] {
        federation.stop(unit).await;
        federation.start(unit).await;
    }
    for unit in ["C-7-1", "C-7", "C-1", "C"] {
        federation.wait_for_catalogue(unit).await;
        federation.publish(unit, "2011-07").await;
    }
    wait_for_report(&federation, "C", 5).await;
    let issued = IssueNoticeRequest {
        unit: "C".to_owned(),
        destination: "C-7".to_owned(),
        notice: Some(notice()),
        exercise: false,
    };
    federation.client("C").notices().issue(issued).await.unwrap();
    until("the notice at the community", async || {
        let request = ListNoticesRequest { unit: "C-7-1-1".to_owned() };
        let listed = federation.client("C-7-1-1").notices().list(request).await.ok()?.into_inner();
        (!listed.notices.is_empty()).then_some(())
    })
    .await;
    // A unit that joins below it afterwards rests on the city from the first.
    federation.add_unit("C-7-1-2", "C-7-1", WireLevel::Community).await;
    assert_eq!(root_at(&federation, "C-7-1-2"), ("C".to_owned(), city));

    lianxi(&federation, "C", place, &export("after.lianxi")).await;
    lianxi(
        &federation,
        "C",
        place,
        &["pack", "root", "--out", "again.pub", "--grants", "roots.txt"],
    )
    .await;
    assert_eq!(
        fs::read(place.join("city.pub")).unwrap(),
        fs::read(place.join("again.pub")).unwrap()
    );
    // Either root key is enough for what is younger; the older file needs the grants beside it.
    verifies(place, &["after.lianxi", "--root", "city.pub"], 2).await;
    verifies(place, &["after.lianxi", "--root", "district.pub"], 2).await;
    verifies(place, &["before.lianxi", "--root", "district.pub"], 1).await;
    verifies(place, &["before.lianxi", "--root", "city.pub", "--roots", "roots.txt"], 2).await;
    run(place, vec!["verify", "before.lianxi", "--root", "city.pub"])
        .await
        .fails(6, &["unknown-key"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adoption_that_was_cut_off_before_its_last_write_is_run_again() {
    let mut federation = two_trees().await;
    let (unit, key) = ("C-7".parse().unwrap(), b"identity");
    let token = offer(&federation).await;
    let store = Arc::clone(federation.host("C-7").store());
    let before = store.get(&unit, Table::Meta, key).await.unwrap().unwrap();
    drop(store);
    accept(&federation, &token).await.unwrap();
    // What the last write of the command wrote is taken back: everything before it is durable.
    let store = Arc::clone(federation.host("C-7").store());
    let mut batch = Batch::new(&unit);
    assert_ne!(store.get(&unit, Table::Meta, key).await.unwrap().unwrap(), before);
    batch.put(Table::Meta, key, before);
    store.submit(batch).await.unwrap();
    drop(store);
    federation.stop("C-7").await;
    federation.start("C-7").await;
    assert_eq!(accept(&federation, &token).await.unwrap().parent, "C");
    federation.wait_for_link("C-7", true).await;
    for unit in ["C-7", "C-7-1", "C-7-1-1"] {
        wait_for_root(&federation, unit, "C").await;
    }
    federation.wait_for_roster("C", 5).await;
}

async fn refused(federation: &Federation, at: &str, act: &str, reason: &str, before: usize) {
    let found: usize = {
        let acts = acts(federation, at).await.into_iter();
        acts.filter(|line| line.name == act && line.refused == reason).count()
    };
    assert_eq!(found, before + 1, "{act} {reason} at {at}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_that_does_not_hold_is_refused_and_journalled() {
    let mut federation = two_trees().await;
    let root = fingerprint(&federation, "C-7").await;
    let other = fingerprint(&federation, "C").await;
    // Not below the city by level or code, or known here.
    for (child, level, reason) in [
        ("C-7", WireLevel::City, "level"),
        ("C", WireLevel::District, "loop"),
        ("C-1", WireLevel::District, "already-joined"),
    ] {
        let found = offer_to(&federation, "C", child, level, root.clone()).await;
        found.unwrap_err();
        refused(&federation, "C", "node.adopt.offer", reason, 0).await;
    }
    // The root key is another one than a person named above.
    let false_one = offer_to(&federation, "C", "C-7", WireLevel::District, other).await.unwrap();
    let error = accept(&federation, &false_one).await.unwrap_err();
    assert!(error.message().contains("compare the fingerprints"), "{error}");
    refused(&federation, "C", "node.adopt", "other-root", 0).await;
    refused(&federation, "C-7", "node.adopt", "refused-by-parent", 0).await;
    // An offer is no invitation, and an invitation no offer.
    let plain = federation.invite("C-7", "C", WireLevel::District).await.unwrap();
    accept(&federation, &plain).await.unwrap_err();
    refused(&federation, "C", "node.adopt", "no-offer", 0).await;
    // Of another unit, by a unit below, at a unit that has a parent.
    let token = offer(&federation).await;
    accept_as(&federation, "C-7-1", &token, false).await.unwrap_err();
    refused(&federation, "C-7-1", "node.adopt", "other-unit", 0).await;
    let below = offer_to(&federation, "C-7", "C-7-1", WireLevel::Street, root.clone()).await;
    assert_eq!(below.unwrap_err().code(), Code::AlreadyExists);
    // Used twice: by the root that it is for it is repeated, by another one refused.
    accept(&federation, &token).await.unwrap();
    federation.add_root("C-8", Level::District, "test.example", Suite::Ed25519).await;
    accept_as(&federation, "C-8", &token, false).await.unwrap_err();
    refused(&federation, "C-8", "node.adopt", "other-unit", 0).await;
    // Under a parent, nothing comes under another one by adoption.
    federation.add_root("B", Level::City, "test.example", Suite::Ed25519).await;
    let second = offer_to(&federation, "B", "C-7", WireLevel::District, root).await.unwrap();
    accept(&federation, &second).await.unwrap_err();
    refused(&federation, "C-7", "node.adopt", "has-parent", 0).await;
    // Expired.
    let late = fingerprint(&federation, "C-8").await;
    let late = offer_to(&federation, "C", "C-8", WireLevel::District, late).await.unwrap();
    federation.clock.shift_to(4 * 24 * 60 * 60 * 1000);
    accept_as(&federation, "C-8", &late, false).await.unwrap_err();
    refused(&federation, "C-8", "node.adopt", "token-expired", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_of_another_trust_domain_stays_out() {
    let federation = two_trees_of("other.example", Suite::Ed25519).await;
    let token = offer(&federation).await;
    let error = accept(&federation, &token).await.unwrap_err();
    assert!(error.message().contains("trust domain"), "{error}");
    refused(&federation, "C-7", "node.adopt", "wrong-domain", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_with_a_code_of_this_one_stays_out() {
    let mut federation = two_trees().await;
    federation.add_unit("F", "C-1", WireLevel::Street).await;
    federation.wait_for_roster("C", 3).await;
    federation.add_unit("F", "C-7", WireLevel::Street).await;
    let token = offer(&federation).await;
    let error = accept(&federation, &token).await.unwrap_err();
    assert!(error.message().contains("is a unit of this tree already"), "{error}");
    refused(&federation, "C", "node.adopt", "code-taken", 0).await;
    assert_eq!(root_at(&federation, "C-7").0, "C-7", "nothing was changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_that_named_somebody_else_is_not_taken_in() {
    let mut federation = two_trees().await;
    federation.add_root("B", Level::City, "test.example", Suite::Ed25519).await;
    let token = offer(&federation).await;
    // The district's root key signs that it goes under another city.
    let place = federation.directory("C-7").join("keys").join("C-7");
    let RootKey(root) = RootKey::load(place.as_path()).unwrap();
    let named = {
        let of = |unit: &str| federation.host(unit).units().get(&unit.parse().unwrap()).unwrap();
        let elsewhere = of("B").unit.trust().root_key().clone();
        let hosted = of("C-7");
        let now = lianxi_node::clock::Clock::now_unix_ms(&federation.clock);
        let last = roots::last_grant(&hosted.unit.trust(), &elsewhere, 0, now).unwrap();
        issue::sign(&last, &root, now)
    };
    let request = AdoptRequest {
        unit: "C-7".to_owned(),
        token,
        signed: named.encode_to_vec(),
        dry_run: false,
    };
    let error = federation.client("C-7").node().adopt(request).await.unwrap_err();
    assert!(error.message().contains("another root than the offer"), "{error}");
    refused(&federation, "C-7", "node.adopt", "other-root", 0).await;
}
