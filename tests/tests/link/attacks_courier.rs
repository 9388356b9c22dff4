//! Courier files that must not be believed: each is refused with its own reason and stands in the
//! journal, and nothing of it is taken in.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, path::Path, sync::Arc};

use lianxi_node::{
    domain::unit::UnitCode,
    services::{hosted::Hosted, journal::Filter},
};
use lianxi_proto::{
    admin::v1::{CourierImportOptions, OpenEpochRequest, RevokeRequest, StatusRequest},
    local::v1::ShowSummaryRequest,
    types::v1::{Level, RevocationReason},
};
use lianxi_tests::{federation::Federation, wait::until};
use tonic::{Code, Status};

/// A city, and a district that no network reaches any more.
async fn apart() -> Federation {
    let mut federation = Federation::city("C").await;
    for district in ["C-1", "C-2"] {
        federation.add_host(district, "C", Level::District).await;
        federation.wait_for_catalogue(district).await;
    }
    federation.wait_for_roster("C", 3).await;
    federation.cut_off("C").await;
    federation.wait_for_link("C-1", false).await;
    federation
}

fn hosted(federation: &Federation, unit: &str) -> Arc<Hosted> {
    let code: UnitCode = unit.parse().unwrap();
    federation.host(unit).units().get(&code).unwrap()
}

/// Refusals of files in the journal of `unit`, the newest last.
async fn refusals(federation: &Federation, unit: &str) -> Vec<String> {
    let filter = Filter { act: "courier.import".to_owned(), ..Filter::default() };
    let page = hosted(federation, unit).journal.show(0, &filter).await.unwrap();
    page.lines.into_iter().map(|(_, line)| line.refused).filter(|it| !it.is_empty()).collect()
}

/// The file is refused with `reason` alone, on the record.
async fn refused(federation: &Federation, at: &str, file: &[u8], reason: &str) {
    let before = refusals(federation, at).await.len();
    let error = federation.take_file(at, file).await.unwrap_err();
    assert!(error.message().contains(&format!("({reason})")), "{error}");
    let found = refusals(federation, at).await;
    assert_eq!((found.len(), found.last().unwrap().as_str()), (before + 1, reason));
}

async fn has_report(federation: &Federation, at: &str, of: &str) -> bool {
    let request = ShowSummaryRequest { unit: at.into(), of: of.into(), period: "2011-07".into() };
    federation.client(at).summaries().show(request).await.is_ok()
}

async fn published(federation: &Federation, unit: &str) {
    federation.publish(unit, "2011-07").await;
    until("the report", async || has_report(federation, unit, unit).await.then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_for_another_unit_is_refused() {
    let federation = apart().await;
    published(&federation, "C-1").await;
    let file = federation.courier_file("C-1", "C").await;
    refused(&federation, "C-2", &file, "not-a-reader").await;
    // Not even its sender can open it.
    refused(&federation, "C-1", &file, "not-a-reader").await;
    let options = CourierImportOptions { unit: "C-9".into(), dry_run: false };
    let unknown: Status = federation.take_file_as("C", &file, options).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    assert!(federation.take_file("C", &file).await.unwrap().taken > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_changed_or_cut_off_anywhere_is_refused() {
    let federation = apart().await;
    published(&federation, "C-1").await;
    let file = federation.courier_file("C-1", "C").await;
    let mut places: Vec<usize> = (0..file.len()).step_by(file.len() / 40).collect();
    places.extend([file.len() - 1, 14, 15, 17, 18, 60, 90]);
    for place in places {
        let mut changed = file.clone();
        changed[place] ^= 0x20;
        let error = federation.take_file("C", &changed).await.unwrap_err();
        assert_eq!(error.code(), Code::PermissionDenied, "{place}: {error}");
        let error = federation.take_file("C", &file[..place]).await.unwrap_err();
        assert_eq!(error.code(), Code::PermissionDenied, "{place}: {error}");
    }
    let longer = [&file[..], b"more"].concat();
    refused(&federation, "C", &longer, "changed").await;
    assert!(!has_report(&federation, "C", "C-1").await);
    assert_eq!(federation.courier_state("C", "C-1").await.imported_number, 0);
    let tries = refusals(&federation, "C").await.len();
    assert!(tries > 80, "{tries}");
    assert!(federation.take_file("C", &file).await.unwrap().taken > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_verifies_and_takes_nothing_in() {
    let federation = apart().await;
    published(&federation, "C-1").await;
    let file = federation.courier_file("C-1", "C").await;
    let options = CourierImportOptions { unit: String::new(), dry_run: true };
    let would = federation.take_file_as("C", &file, options.clone()).await.unwrap();
    assert!(would.deliveries > 0 && would.taken == 0, "{would:?}");
    assert!(!has_report(&federation, "C", "C-1").await);
    assert_eq!(federation.courier_state("C", "C-1").await.imported_number, 0);
    let mut changed = file.clone();
    *changed.last_mut().unwrap() ^= 1;
    federation.take_file_as("C", &changed, options).await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_a_revoked_unit_is_refused() {
    let federation = apart().await;
    published(&federation, "C-1").await;
    let file = federation.courier_file("C-1", "C").await;
    let revoke = RevokeRequest {
        unit: "C".into(),
        revoked: "C-1".into(),
        reason: RevocationReason::KeyStolen.into(),
        compromised_since_unix_ms: 1,
        ..RevokeRequest::default()
    };
    federation.client("C").node().revoke(revoke).await.unwrap();
    refused(&federation, "C", &file, "revoked").await;
    assert!(!has_report(&federation, "C", "C-1").await);
    let error = federation.courier_files("C", "C-1", 0).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition, "nothing is written for it: {error}");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}

async fn open_epoch(federation: &Federation, unit: &str) {
    let request = OpenEpochRequest {
        units: vec![unit.to_owned()],
        text: "the disk failed".to_owned(),
        approved_by: vec!["li".to_owned(), "wang".to_owned()],
        dry_run: false,
    };
    federation.client(unit).node().open_epoch(request).await.unwrap();
}

/// Puts the store of `unit` back to where `then` finds it.
async fn roll_back(federation: &mut Federation, unit: &str, then: &Path) {
    federation.stop(unit).await;
    let store = federation.directory(unit).join("store");
    fs::remove_dir_all(&store).unwrap();
    copy(then, &store);
    federation.start(unit).await;
}

async fn backup(federation: &mut Federation, unit: &str) -> tempfile::TempDir {
    federation.stop(unit).await;
    let backup = tempfile::tempdir().unwrap();
    copy(&federation.directory(unit).join("store"), backup.path());
    federation.start(unit).await;
    backup
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolled_back_sender_is_found_out() {
    let mut federation = apart().await;
    federation.carry("C-1", "C").await;
    let then = backup(&mut federation, "C-1").await;
    published(&federation, "C-1").await;
    federation.carry("C-1", "C").await;
    assert!(has_report(&federation, "C", "C-1").await);
    roll_back(&mut federation, "C-1", then.path()).await;

    // It numbers its files anew and does not know it.
    let forked = federation.courier_file("C-1", "C").await;
    refused(&federation, "C", &forked, "forked").await;
    // The next number is free; what it says is less than what it said.
    let behind = federation.courier_file("C-1", "C").await;
    refused(&federation, "C", &behind, "rolled-back").await;
    // A file of the other side tells it: it stands still until two people open an epoch.
    federation.carry("C", "C-1").await;
    let status = federation.client("C-1").node().status(StatusRequest {}).await.unwrap();
    assert!(status.into_inner().units[0].rolled_back.contains("lianxi node restore"));
    let still = federation.courier_files("C-1", "C", 0).await.unwrap().report;
    assert_eq!((still.withheld.as_str(), still.deliveries), ("stopped", 0));

    open_epoch(&federation, "C-1").await;
    // First it asks for what it had sent, then everything goes on.
    let asks = federation.courier_files("C-1", "C", 0).await.unwrap();
    assert_eq!(asks.report.withheld, "returns");
    federation.take_file("C", &asks.files[0]).await.unwrap();
    federation.carry("C", "C-1").await;
    assert!(has_report(&federation, "C-1", "C-1").await, "its own report came back");
    let goes_on = federation.carry("C-1", "C").await;
    assert_eq!((goes_on.number, goes_on.withheld.as_str()), (2, ""), "{goes_on:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_from_before_a_restore_is_refused() {
    let mut federation = apart().await;
    published(&federation, "C-1").await;
    let old = federation.courier_file("C-1", "C").await;
    let then = backup(&mut federation, "C-1").await;
    roll_back(&mut federation, "C-1", then.path()).await;
    open_epoch(&federation, "C-1").await;
    federation.carry("C-1", "C").await;
    refused(&federation, "C", &old, "old-epoch").await;
}
