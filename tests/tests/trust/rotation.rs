//! Keys are replaced while everything goes on: no gap, no alarm, and what was signed before counts.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use lianxi_node::{
    clock::Clock as _,
    domain::delegation::{Delegation, KeyUse, PublicKey, Suite},
    identity::{
        issue,
        keys::{NextKeys, Place},
    },
};
use lianxi_proto::{
    admin::v1::{AlarmsRequest, KeyRotation, RenewRequest, RotateKeyRequest, StatusRequest},
    envelope::Signer,
    local::v1::ShowSummaryRequest,
    types::v1::Level,
};
use lianxi_tests::{
    acts::refusals, binary::run, federation::Federation, python::Python, wait::until,
};
use tonic::Status;

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

const ROWS: &str = "\
1,C-1-1-1,2011-07-01 08:00:00,2011-07-01 09:00:00,light,1 Main St
2,C-1-1-2,2011-07-03 08:00:00,2011-07-03 08:30:00,hole,3 Main St
";

async fn rotate(federation: &Federation, unit: &str, replaced: &[&str]) -> Result<(), Status> {
    let replaced = replaced.iter().map(ToString::to_string).collect();
    let request = RotateKeyRequest { unit: unit.to_owned(), replaced, dry_run: false };
    federation.client(unit).node().rotate_key(request).await.map(drop)
}

async fn rotation(federation: &Federation, unit: &str) -> Option<KeyRotation> {
    let status = federation.client(unit).node().status(StatusRequest {}).await.unwrap();
    let units = status.into_inner().units;
    units.into_iter().find(|status| status.unit == unit).unwrap().key_rotation
}

async fn wait_for(federation: &Federation, unit: &str, stage: &str) {
    until(&format!("the keys of {unit} to be {stage}"), async || {
        let rotation = rotation(federation, unit).await;
        let found = rotation.map_or("retired".to_owned(), |rotation| rotation.stage);
        (found == stage).then_some(())
    })
    .await;
}

/// Ids of the keys for a use that `at` believes `unit` to have.
fn keys(federation: &Federation, at: &str, unit: &str, key_use: KeyUse) -> Vec<Vec<u8>> {
    let hosted = federation.host(at).units().get(&at.parse().unwrap()).unwrap();
    let trust = hosted.unit.trust();
    let known = trust.delegation(&unit.parse().unwrap(), None).unwrap();
    let keys = known.delegation.keys.iter().filter(|key| key.key_use == key_use);
    keys.map(|key| key.bytes.clone()).collect()
}

/// Makes the change of keys of `unit` end: the overlap is over.
async fn retire(federation: &Federation, unit: &str) {
    federation.clock.shift_to(8 * DAY_MS);
    wait_for(federation, unit, "retired").await;
}

async fn publish(federation: &Federation, units: &[&str]) {
    for unit in units {
        federation.publish(unit, "2011-07").await;
    }
}

async fn wait_for_report(federation: &Federation, of: &str, included: u32) {
    until(&format!("the report of {of}"), async || {
        let request = ShowSummaryRequest {
            unit: "C".to_owned(),
            of: if of == "C" { String::new() } else { of.to_owned() },
            period: "2011-07".to_owned(),
        };
        let shown = federation.client("C").summaries().show(request).await.ok()?.into_inner();
        (shown.summary?.coverage?.included == included).then_some(())
    })
    .await;
}

async fn no_alarms(federation: &Federation) {
    for unit in federation.units() {
        let request = AlarmsRequest { unit: unit.clone() };
        let alarms = federation.client(&unit).journals().alarms(request).await.unwrap();
        assert!(alarms.into_inner().alarms.is_empty(), "an alarm at {unit}");
    }
}

async fn export_and_verify(federation: &Federation, place: &Path, name: &str) {
    let dir = federation.directory("C");
    let dir = dir.to_str().unwrap();
    let export =
        ["pack", "export", "--period", "2011-07", "--unit", "C", "--dir", dir, "--out", name];
    run(place, export.to_vec()).await.succeeds();
    verify(place, name).await;
}

async fn verify(place: &Path, name: &str) {
    run(place, vec!["verify", name, "--root", "root.pub"]).await.succeeds();
    let temporary = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let Some(python) = Python::find("the second verifier", temporary) else { return };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/verify_pack.py");
    let (file, root) = (place.join(name), place.join("root.pub"));
    let answer = python.run(&script).arg(file).arg("--root").arg(root).output().unwrap();
    assert!(answer.status.success(), "{name}: {answer:?}");
}

async fn root_key(federation: &Federation, place: &Path) {
    let dir = federation.directory("C");
    let dir = dir.to_str().unwrap();
    run(place, vec!["pack", "root", "--out", "root.pub", "--dir", dir]).await.succeeds();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_key_is_replaced_and_what_it_signed_counts() {
    let federation = Federation::four_levels().await;
    let place = tempfile::tempdir().unwrap();
    federation.import("C-1-1", ROWS).await;
    publish(&federation, &["C-1-1", "C-1-2", "C-2-1", "C-1", "C-2", "C"]).await;
    wait_for_report(&federation, "C", 12).await;
    root_key(&federation, place.path()).await;
    export_and_verify(&federation, place.path(), "before.lianxi").await;

    let former = keys(&federation, "C", "C-1", KeyUse::Statement);
    rotate(&federation, "C-1", &["statement"]).await.unwrap();
    let again = rotate(&federation, "C-1", &["statement"]).await.unwrap_err();
    assert!(again.message().contains("are being changed"), "{again}");
    wait_for(&federation, "C-1", "in-use").await;
    let both = keys(&federation, "C", "C-1", KeyUse::Statement);
    assert_eq!((both.len(), &both[0]), (2, &former[0]));
    assert_eq!(keys(&federation, "C-1-1", "C-1", KeyUse::Statement), both);
    retire(&federation, "C-1").await;
    until("the last grant at the city", async || {
        (keys(&federation, "C", "C-1", KeyUse::Statement) == both[1..]).then_some(())
    })
    .await;

    // The figures were signed with the key that has ended; a witness saw them before.
    export_and_verify(&federation, place.path(), "after.lianxi").await;
    verify(place.path(), "before.lianxi").await;
    federation.import("C-1-2", "9,C-1-2-1,2011-07-09 08:00:00,,tree,6 Main St\n").await;
    publish(&federation, &["C-1-2", "C-1"]).await;
    wait_for_report(&federation, "C", 12).await;
    export_and_verify(&federation, place.path(), "new.lianxi").await;
    no_alarms(&federation).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_keys_of_a_district_are_replaced_and_its_branch_goes_on() {
    let mut federation = Federation::four_levels().await;
    let place = tempfile::tempdir().unwrap();
    federation.import("C-1-1", ROWS).await;
    publish(&federation, &["C-1-1", "C-1-2", "C-2-1", "C-1", "C-2", "C"]).await;
    wait_for_report(&federation, "C", 12).await;
    root_key(&federation, place.path()).await;

    rotate(&federation, "C-1", &["statement", "delegation", "agreement", "ca"]).await.unwrap();
    wait_for(&federation, "C-1", "in-use").await;
    federation.clock.shift_to(8 * DAY_MS);
    // The former CA holds until the children have certificates of the new one.
    for (host, street) in [("C-1-1", "C-1-1"), ("C-1-2", "C-1-2")] {
        let request = RenewRequest { unit: street.to_owned(), dry_run: false };
        federation.client(host).node().renew(request).await.unwrap();
    }
    retire(&federation, "C-1").await;

    // Links are made anew with the new CA, a new child joins under it, and old figures verify.
    federation.stop("C-1-1").await;
    federation.start("C-1-1").await;
    federation.wait_for_link("C-1-1", true).await;
    federation.add_unit("C-1-3", "C-1", Level::Street).await;
    federation.wait_for_roster("C", 13).await;
    export_and_verify(&federation, place.path(), "after.lianxi").await;
    no_alarms(&federation).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn new_keys_wait_for_a_child_that_is_away_and_a_stop_loses_nothing() {
    let mut federation = Federation::four_levels().await;
    federation.stop("C-1-2").await;
    rotate(&federation, "C-1", &["statement"]).await.unwrap();
    until("the street to be missing", async || {
        let rotation = rotation(&federation, "C-1").await?;
        (rotation.stage == "granted" && rotation.missing == ["C-1-2"]).then_some(())
    })
    .await;
    federation.stop("C-1").await;
    federation.start("C-1").await;
    wait_for(&federation, "C-1", "granted").await;
    federation.start("C-1-2").await;
    wait_for(&federation, "C-1", "in-use").await;
    federation.stop("C-1").await;
    federation.start("C-1").await;
    retire(&federation, "C-1").await;
    no_alarms(&federation).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_replaces_its_keys_with_its_root_key() {
    let federation = Federation::four_levels().await;
    let place = tempfile::tempdir().unwrap();
    federation.import("C-1-1", ROWS).await;
    publish(&federation, &["C-1-1", "C-1-2", "C-2-1", "C-1", "C-2", "C"]).await;
    wait_for_report(&federation, "C", 12).await;
    root_key(&federation, place.path()).await;
    rotate(&federation, "C", &["statement", "delegation"]).await.unwrap();
    wait_for(&federation, "C", "in-use").await;
    retire(&federation, "C").await;
    // The catalogue was signed with the key that has ended, too.
    export_and_verify(&federation, place.path(), "after.lianxi").await;
    no_alarms(&federation).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parent_puts_no_key_of_its_own_in_the_name_of_its_child() {
    let federation = Federation::four_levels().await;
    let [city, district] = ["C", "C-1"].map(|code| {
        let code = code.parse().unwrap();
        federation.host(&format!("{code}")).units().get(&code).unwrap()
    });
    let granted = keys(&federation, "C-1", "C-1", KeyUse::Statement);
    let forged = {
        let trust = city.unit.trust();
        let known = trust.delegation(&district.unit.code, None).unwrap().delegation.clone();
        let key = PublicKey {
            suite: Suite::Ed25519,
            bytes: Signer::from_seed(&[77; 32]).public_key().to_vec(),
            key_use: KeyUse::Statement,
        };
        let keys = known.keys.iter().cloned().chain([key]).collect();
        Delegation { keys, serial: known.serial + 1, ..known }
    };
    let now = federation.clock.now_unix_ms();
    let envelope = issue::sign(&forged, &city.unit.keys().delegation, now);
    city.unit.learn(&[envelope]).await.unwrap();
    until("the district to refuse the grant", async || {
        let refused = refusals(&federation, "C-1", "delegation.take", "own").await;
        (refused == ["foreign-keys"]).then_some(())
    })
    .await;
    assert_eq!(keys(&federation, "C-1", "C-1", KeyUse::Statement), granted);
}

/// Waits until the city says that only its root key can go on.
async fn asked_for(city: &Federation, stage: &str) {
    until("the root key to be asked for", async || {
        let rotation = rotation(city, "C").await?;
        (rotation.stage == stage && rotation.failure.contains("lianxi root request")).then_some(())
    })
    .await;
}

/// Lets the root key, which lies in `safe`, grant what the stopped host of the city asks for.
async fn granted_by_file(city: &Federation, safe: &Path, number: u32) {
    let dir = city.directory("C");
    let dir = dir.to_str().unwrap();
    let (request, signed) = (format!("request-{number}.txt"), format!("signed-{number}.txt"));
    for line in [
        vec!["root", "request", "--dir", dir, "--out", &request],
        vec!["root", "sign", &request, "--key", safe.to_str().unwrap(), "--out", &signed],
        vec!["root", "install", "--dir", dir, &signed],
    ] {
        run(safe, line).await.succeeds();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_key_in_a_safe_grants_by_file_and_a_cut_change_goes_on() {
    let mut city = Federation::city("C").await;
    let safe = tempfile::tempdir().unwrap();
    fs::set_permissions(safe.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let keys_of_city = city.directory("C").join("keys/C");
    fs::rename(keys_of_city.join("root.keys"), safe.path().join("root.keys")).unwrap();
    let config = city.directory("C").join("node.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{text}\n[keys]\noverlap = \"0s\"\n")).unwrap();
    city.stop("C").await;
    city.start("C").await;
    let former = keys(&city, "C", "C", KeyUse::Statement);
    rotate(&city, "C", &["statement"]).await.unwrap();
    asked_for(&city, "prepared").await;
    city.stop("C").await;
    granted_by_file(&city, safe.path(), 1).await;
    // The power went between the key file and the row that says so.
    let place = Place::from(&keys_of_city);
    NextKeys::load(&place).unwrap().take_into_use(&place).unwrap();
    city.start("C").await;
    asked_for(&city, "in-use").await;
    let both = keys(&city, "C", "C", KeyUse::Statement);
    assert_eq!((both.len(), &both[0]), (2, &former[0]));
    city.stop("C").await;
    granted_by_file(&city, safe.path(), 2).await;
    city.start("C").await;
    wait_for(&city, "C", "retired").await;
    assert_eq!(keys(&city, "C", "C", KeyUse::Statement), both[1..]);
    until("the file of new keys to go", async || {
        (!keys_of_city.join("next.keys").exists()).then_some(())
    })
    .await;
}
