//! P3: a store that was brought back sends nothing until two people open a new epoch; no number is
//! used twice, and what the neighbours keep finds its way back.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use lianxi_node::{
    domain::{
        epoch::{Number, Opening, Reason},
        unit::UnitCode,
    },
    services::{hosted::Hosted, journal::Filter},
    statement::{
        epoch::encode_body,
        header::{self, kinds},
        journal::Line,
    },
    store::Table,
};
use lianxi_proto::{
    admin::v1::{Epoch, EpochsRequest, OpenEpochRequest, StatusRequest, UnitStatus},
    link::v1::{Hello, Lane, Opening as Shown, Reached, Returned, ReturnedStatement, frame::Kind},
    local::v1::{
        IssueNoticeRequest, ListNoticesRequest, PublishCatalogueRequest, ShowNoticeRequest,
        ShowSummaryRequest, UnitFigures,
    },
    types::v1::{Level, Notice, ReceiptStage},
};
use lianxi_tests::{
    federation::{CATALOGUE, Federation},
    hostile::Hostile,
    wait::until,
};
use tempfile::TempDir;
use tonic::Code;

fn code(code: &str) -> UnitCode {
    code.parse().unwrap()
}

fn hosted(federation: &Federation, unit: &str) -> Arc<Hosted> {
    federation.host(unit).units().get(&code(unit)).unwrap()
}

/// City, district, and a street below it, each on a host of its own.
async fn three() -> Federation {
    let mut federation = Federation::city("C").await;
    federation.add_host("C-1", "C", Level::District).await;
    federation.add_host("C-1-1", "C-1", Level::Street).await;
    for unit in ["C-1", "C-1-1"] {
        federation.wait_for_link(unit, true).await;
        federation.wait_for_catalogue(unit).await;
    }
    federation.wait_for_roster("C", 3).await;
    federation
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}

/// Stops the host of `unit`, copies its store, and starts it again.
async fn backup(federation: &mut Federation, unit: &str) -> TempDir {
    federation.stop(unit).await;
    let backup = tempfile::tempdir().unwrap();
    copy(&federation.directory(unit).join("store"), backup.path());
    federation.start(unit).await;
    federation.wait_for_link(unit, true).await;
    backup
}

/// Stops the host of `unit` and puts the copy back.
async fn put_back(federation: &mut Federation, unit: &str, backup: &TempDir) {
    federation.stop(unit).await;
    let store = federation.directory(unit).join("store");
    fs::remove_dir_all(&store).unwrap();
    copy(backup.path(), &store);
    federation.start(unit).await;
}

async fn status(federation: &Federation, unit: &str) -> UnitStatus {
    let status = federation.client(unit).node().status(StatusRequest {}).await.unwrap();
    let units = status.into_inner().units;
    units.into_iter().find(|status| status.unit == unit).unwrap()
}

async fn standing_still(federation: &Federation, unit: &str) -> String {
    until(&format!("{unit} to find that it was rolled back"), async || {
        Some(status(federation, unit).await.rolled_back).filter(|reason| !reason.is_empty())
    })
    .await
}

fn order(units: &[&str], approvers: &[&str]) -> OpenEpochRequest {
    OpenEpochRequest {
        units: units.iter().map(|&unit| unit.to_owned()).collect(),
        text: "the disk failed".to_owned(),
        approved_by: approvers.iter().map(|&name| name.to_owned()).collect(),
        dry_run: false,
    }
}

async fn open(federation: &Federation, unit: &str) -> Epoch {
    let request = order(&[unit], &["li", "wang"]);
    let opened = federation.client(unit).node().open_epoch(request).await.unwrap();
    opened.into_inner().epochs.pop().unwrap()
}

async fn epochs(federation: &Federation, unit: &str) -> Vec<Epoch> {
    let request = EpochsRequest { unit: unit.to_owned() };
    federation.client(unit).node().epochs(request).await.unwrap().into_inner().epochs
}

async fn epoch_of(federation: &Federation, peer: &str, of: &str) -> Epoch {
    until(&format!("{peer} to take the epoch of {of}"), async || {
        epochs(federation, peer).await.into_iter().rev().find(|epoch| epoch.unit == of)
    })
    .await
}

async fn audit(unit: &Hosted, act: &str) -> Vec<Line> {
    let filter = Filter { act: act.to_owned(), ..Filter::default() };
    let (mut lines, mut from) = (Vec::new(), 0);
    loop {
        let page = unit.journal.show(from, &filter).await.unwrap();
        lines.extend(page.lines.into_iter().map(|(_, line)| line));
        from = page.next_index;
        if from >= page.size {
            return lines;
        }
    }
}

async fn figures(federation: &Federation, at: &str, of: &str, period: &str) -> Option<UnitFigures> {
    let (unit, of, period) = (at.to_owned(), of.to_owned(), period.to_owned());
    let request = ShowSummaryRequest { unit, of, period };
    Some(federation.client(at).summaries().show(request).await.ok()?.into_inner())
}

async fn reported(federation: &Federation, at: &str, of: &str, period: &str) {
    until(&format!("the report of {of} for {period} at {at}"), async || {
        figures(federation, at, of, period).await
    })
    .await;
}

/// Waits until a peer cosigned everything that the unit has done.
async fn witnessed(unit: &Hosted, witness: &str) {
    let size = unit.journal.checkpoint().await.unwrap().unwrap().checkpoint.size;
    let name = lianxi_proto::note::origin("test.example", witness);
    until(&format!("{witness} to cosign {size} leaves"), async || {
        let cosigned = unit.journal.cosigned_up_to(u64::MAX, Some(&name)).await.unwrap()?;
        (cosigned.checkpoint.size >= size).then_some(())
    })
    .await;
}

async fn issue(federation: &Federation, number: &str) -> Vec<u8> {
    issue_at(federation, "C", "C-1", number).await
}

async fn issue_at(federation: &Federation, unit: &str, to: &str, number: &str) -> Vec<u8> {
    let request = IssueNoticeRequest {
        unit: unit.into(),
        destination: to.into(),
        notice: Some(Notice {
            number: number.to_owned(),
            title: "Check the street lights".into(),
            duty_item: "street-light-inspection".into(),
            level: Level::Street.into(),
            due_unix_ms: 4_000_000_000_000,
            text: "All lamps of the main roads.".into(),
            ..Notice::default()
        }),
        exercise: false,
    };
    federation.client(unit).notices().issue(request).await.unwrap().into_inner().notice_id
}

async fn received(federation: &Federation, notice_id: &[u8]) {
    until("the street's receipt at the city", async || {
        let request = ShowNoticeRequest { unit: "C".into(), notice_id: notice_id.to_vec() };
        let state = federation.client("C").notices().show(request).await.ok()?.into_inner();
        let done = state.recipients.iter().filter(|it| it.stage() == ReceiptStage::Validated);
        (done.count() == 1).then_some(())
    })
    .await;
}

async fn notices(federation: &Federation, unit: &str) -> usize {
    let request = ListNoticesRequest { unit: unit.to_owned() };
    federation.client(unit).notices().list(request).await.unwrap().into_inner().notices.len()
}

/// Every statement of `source` that `at` holds, by number.
async fn numbers(at: &Hosted, source: &str) -> BTreeMap<(u64, u64), Vec<String>> {
    let store = &at.unit.store;
    let rows = store.scan(&at.unit.code, Table::Statements, b"", None, usize::MAX).await.unwrap();
    let mut numbers = BTreeMap::<_, Vec<String>>::new();
    for (_, row) in rows {
        let envelope = lianxi_node::services::unit::decode_envelope(&row).unwrap();
        let header = header::decode(&envelope.payload).unwrap().header;
        if header.source.as_str() == source && header.seq > 0 {
            numbers.entry((header.epoch, header.seq)).or_default().push(header.id.to_string());
        }
    }
    numbers
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_brought_back_sends_nothing_until_two_people_open_an_epoch() {
    let mut federation = three().await;
    federation.publish("C-1", "2026-01").await;
    reported(&federation, "C", "C-1", "2026-01").await;
    witnessed(&hosted(&federation, "C-1"), "C").await;
    let copy = backup(&mut federation, "C-1").await;
    federation.import("C-1", "1,C-1,2026-02-02 10:00:00,,hole,A\n").await;
    federation.publish("C-1", "2026-02").await;
    reported(&federation, "C", "C-1", "2026-02").await;
    witnessed(&hosted(&federation, "C-1"), "C").await;
    put_back(&mut federation, "C-1", &copy).await;

    let reason = standing_still(&federation, "C-1").await;
    assert!(reason.contains("`lianxi node restore`") && !reason.contains(" 0 stat"), "{reason}");
    federation.publish("C-1", "2026-03").await;
    let seen = until("the city to see it", async || {
        Some(status(&federation, "C").await.rolled_back_peers).filter(|peers| !peers.is_empty())
    })
    .await;
    assert_eq!(seen, ["C-1"]);
    // The street below is told to stand still too.
    until("the street to see it", async || {
        let peers = status(&federation, "C-1-1").await.rolled_back_peers;
        (peers == ["C-1"]).then_some(())
    })
    .await;
    assert!(status(&federation, "C-1").await.outbox > 0, "its report waits");
    assert!(figures(&federation, "C", "C-1", "2026-03").await.is_none());
    let district = hosted(&federation, "C-1");
    assert!(!audit(&district, "epoch.stop").await.is_empty(), "it is on the record");

    // One person alone, or the same twice, opens nothing.
    for approvers in [&["li"][..], &["li", "LI"], &["li", ""]] {
        let refused = federation.client("C-1").node().open_epoch(order(&["C-1"], approvers)).await;
        assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument, "{approvers:?}");
    }
    assert_eq!(audit(&district, "epoch.open").await.len(), 3);
    assert!(!status(&federation, "C-1").await.rolled_back.is_empty());
    let dry = OpenEpochRequest { dry_run: true, ..order(&["C-1"], &[]) };
    let dry = federation.client("C-1").node().open_epoch(dry).await.unwrap().into_inner();
    assert!(dry.epochs[0].lost_statements > 0 && dry.epochs[0].epoch == 2, "{dry:?}");
    assert_eq!(status(&federation, "C-1").await.epoch, 1);

    let opened = open(&federation, "C-1").await;
    assert_eq!((opened.epoch, opened.reason.as_str()), (2, "restore"));
    assert!(opened.lost_leaves_to > opened.lost_leaves_from, "{opened:?}");
    assert!(opened.lost_until_unix_ms >= opened.lost_after_unix_ms, "{opened:?}");
    reported(&federation, "C", "C-1", "2026-03").await;
    assert_eq!(status(&federation, "C-1").await.rolled_back, "");
    for peer in ["C", "C-1-1"] {
        let taken = epoch_of(&federation, peer, "C-1").await;
        assert_eq!((taken.epoch, &taken.approvers[..]), (2, &["li".to_owned(), "wang".into()][..]));
        // It takes the epoch first, and then counts the unit as whole.
        until(&format!("{peer} to trust the unit again"), async || {
            status(&federation, peer).await.rolled_back_peers.is_empty().then_some(())
        })
        .await;
    }
    let taken = epoch_of(&federation, "C", "C-1").await;
    assert!(taken.lost_statements > 0 && taken.lost_leaves_to > taken.lost_leaves_from);
    assert_eq!(audit(&hosted(&federation, "C"), "epoch.take").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_announced_epoch_ends_the_alarm_and_its_first_leaf_names_the_last_cosigned_checkpoint() {
    let mut federation = three().await;
    witnessed(&hosted(&federation, "C-1"), "C").await;
    let copy = backup(&mut federation, "C-1").await;
    federation.publish("C-1", "2026-02").await;
    reported(&federation, "C", "C-1", "2026-02").await;
    witnessed(&hosted(&federation, "C-1"), "C").await;
    put_back(&mut federation, "C-1", &copy).await;
    standing_still(&federation, "C-1").await;
    let city = hosted(&federation, "C");
    until("the alarm", async || city.witness.list_alarms().await.unwrap().pop()).await;
    let held = city.witness.held(&code("C-1")).await.unwrap().unwrap();

    open(&federation, "C-1").await;
    let district = hosted(&federation, "C-1");
    let lines = audit(&district, "").await;
    let first = lines.iter().find(|line| line.event == "epoch").unwrap();
    assert_eq!((first.name.as_str(), first.actor.as_str()), ("restore", "li, wang"));
    let (seen, _) = lianxi_node::statement::journal::checkpoint(&held.checkpoint).unwrap();
    assert!(first.subject.ends_with(&format!(" of {seen}")), "{first:?} of {seen}");
    let at = lines.iter().position(|line| line.event == "epoch").unwrap();
    assert_eq!(lines[at + 1].name, kinds::EPOCH, "then its statement");

    // The journal goes on, and the city cosigns it again.
    epoch_of(&federation, "C", "C-1").await;
    witnessed(&district, "C").await;
    let held = city.witness.held(&code("C-1")).await.unwrap().unwrap();
    assert!(held.breaches.is_empty(), "{held:?}");
    // The street may have raised one too, which comes up when it can.
    let alarms = city.witness.list_alarms().await.unwrap();
    let own = alarms.iter().filter(|alarm| alarm.witness == code("C"));
    assert_eq!(own.count(), 1, "the one from before");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_neighbours_had_sent_since_the_backup_is_sent_again_and_applied_once() {
    let mut federation = three().await;
    let early = issue(&federation, "1").await;
    received(&federation, &early).await;
    let copy = backup(&mut federation, "C-1").await;
    let late = issue(&federation, "2").await;
    received(&federation, &late).await;
    federation.publish("C-1-1", "2026-02").await;
    reported(&federation, "C-1", "C-1-1", "2026-02").await;
    assert_eq!(notices(&federation, "C-1").await, 2);
    put_back(&mut federation, "C-1", &copy).await;
    standing_still(&federation, "C-1").await;
    assert_eq!(notices(&federation, "C-1").await, 1);

    open(&federation, "C-1").await;
    until("the city's notice again", async || {
        (notices(&federation, "C-1").await == 2).then_some(())
    })
    .await;
    reported(&federation, "C-1", "C-1-1", "2026-02").await;
    let taken = epoch_of(&federation, "C", "C-1").await;
    assert!(taken.sent_again > 0 && taken.not_kept == 0, "{taken:?}");
    assert_eq!(notices(&federation, "C-1-1").await, 2, "each once");
    let third = issue(&federation, "3").await;
    received(&federation, &third).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_a_child_had_seen_comes_back_although_the_parent_cosigned_what_followed() {
    let mut federation = three().await;
    // From here on the city sees nothing of the district.
    federation.stop("C").await;
    federation.stop("C-1").await;
    let backup = tempfile::tempdir().unwrap();
    copy(&federation.directory("C-1").join("store"), backup.path());
    federation.start("C-1").await;
    federation.wait_for_link("C-1-1", true).await;
    issue_at(&federation, "C-1", "C-1-1", "1").await;
    until("the notice at the street", async || {
        (notices(&federation, "C-1-1").await == 1).then_some(())
    })
    .await;
    federation.stop("C-1-1").await;

    // The copy meets the city first, which misses nothing: the number of the notice is used again.
    put_back(&mut federation, "C-1", &backup).await;
    assert_eq!(notices(&federation, "C-1").await, 0);
    federation.start("C").await;
    federation.wait_for_link("C-1", true).await;
    for period in ["2026-01", "2026-02"] {
        federation.publish("C-1", period).await;
        reported(&federation, "C", "C-1", period).await;
    }
    witnessed(&hosted(&federation, "C-1"), "C").await;
    assert_eq!(status(&federation, "C-1").await.rolled_back, "", "nobody found it");

    open(&federation, "C-1").await;
    federation.start("C-1-1").await;
    until("the notice at its issuer again", async || {
        (notices(&federation, "C-1").await == 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_number_is_used_twice_however_the_unit_went_on_before_it_knew() {
    used_once(&["2026-03"], &["2026-03"]).await;
}

/// Then the numbers alone show nothing: it has the one that the city knows, for something else.
#[tokio::test(flavor = "multi_thread")]
async fn no_number_is_used_twice_by_a_unit_that_did_as_much_again_or_more() {
    used_once(&["2026-03", "2026-05"], &["2026-03", "2026-05"]).await;
    // What has a number above all that were used twice goes out as it is.
    used_once(&["2026-03", "2026-05", "2026-06"], &["2026-03", "2026-05"]).await;
}

/// A copy of the district publishes `alone` before it meets the city again, which holds two reports
/// that the copy has not; `withdrawn` are those whose numbers are taken.
async fn used_once(alone: &[&str], withdrawn: &[&str]) {
    let mut federation = three().await;
    let copy = backup(&mut federation, "C-1").await;
    for period in ["2026-01", "2026-02"] {
        federation.publish("C-1", period).await;
        reported(&federation, "C", "C-1", period).await;
    }
    let before = numbers(&hosted(&federation, "C"), "C-1").await;
    // The copy goes on alone: its numbers are those that the city knows for others.
    federation.stop("C").await;
    put_back(&mut federation, "C-1", &copy).await;
    for period in alone {
        federation.publish("C-1", period).await;
    }
    federation.start("C").await;
    standing_still(&federation, "C-1").await;
    federation.publish("C-1", "2026-04").await;
    let opened = open(&federation, "C-1").await;
    let told: Vec<_> =
        withdrawn.iter().map(|period| format!("lianxi.summary.v1 {period}")).collect();
    assert_eq!(opened.withdrawn, told, "it is told, not lost");
    reported(&federation, "C", "C-1", "2026-04").await;
    // A report is made again by itself, under a number of the new epoch.
    for period in alone {
        reported(&federation, "C", "C-1", period).await;
    }

    let after = numbers(&hosted(&federation, "C"), "C-1").await;
    assert!(after.len() > before.len());
    assert!(after.values().all(|ids| ids.len() == 1), "{after:?}");
    for (number, id) in &before {
        assert_eq!(&after[number], id, "what was said stands");
    }
    // What the city returned has its old numbers, and they are in nobody else's use.
    until("the returned reports", async || {
        let own = numbers(&hosted(&federation, "C-1"), "C-1").await;
        before
            .iter()
            .all(|(number, id)| own.get(number).is_some_and(|own| own.contains(&id[0])))
            .then_some(())
    })
    .await;
    let opened = epochs(&federation, "C-1").await.pop().unwrap();
    assert!(opened.returned >= 2 && opened.returned <= opened.lost_statements, "{opened:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unit_that_lost_nothing_of_its_own_finds_that_it_lost_what_it_had_taken_in() {
    let mut federation = three().await;
    let copy = backup(&mut federation, "C-1-1").await;
    let sent = numbers(&hosted(&federation, "C-1-1"), "C-1-1").await;
    let document = CATALOGUE.replace("\"version\": 1", "\"version\": 2");
    let request =
        PublishCatalogueRequest { unit: "C".into(), document: document.into(), dry_run: false };
    federation.client("C").catalogues().publish(request).await.unwrap();
    let new_catalogue = async |federation: &Federation| {
        until("the new catalogue at the street", async || {
            (status(federation, "C-1-1").await.catalogue == "kit@2").then_some(())
        })
        .await;
    };
    new_catalogue(&federation).await;
    until("the street's acknowledgement at the district", async || {
        let outbox = status(&federation, "C-1").await.outbox;
        (outbox == 0).then_some(())
    })
    .await;
    assert_eq!(numbers(&hosted(&federation, "C-1-1"), "C-1-1").await, sent, "it said nothing");
    put_back(&mut federation, "C-1-1", &copy).await;
    let reason = standing_still(&federation, "C-1-1").await;
    assert!(reason.contains("`lianxi node restore`"), "{reason}");
    assert_eq!(status(&federation, "C-1-1").await.catalogue, "kit@1");
    open(&federation, "C-1-1").await;
    new_catalogue(&federation).await;
    let lost = epoch_of(&federation, "C-1", "C-1-1").await;
    assert_eq!((lost.sent_again, lost.lost_statements), (1, 0), "{lost:?}");
}

/// The opening of an epoch that `culprit` would show.
fn opening(culprit: &Hostile, epoch: u64, approvers: &[&str]) -> Shown {
    let body = Opening {
        trust_domain: "test.example".to_owned(),
        unit: culprit.unit().clone(),
        epoch,
        reason: Reason::Restore,
        left: Number::default(),
        journal_size: 0,
        checkpoint: String::new(),
        seen_checkpoint: String::new(),
        approvers: approvers.iter().map(|&name| name.to_owned()).collect(),
        text: String::new(),
    };
    let header = header::Header { epoch, seq: 1, ..culprit.header(kinds::EPOCH) };
    let envelope = Some(culprit.sign(&header, &encode_body(&body)));
    Shown { envelope, checkpoint: String::new() }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_that_nobody_approved_or_that_is_anothers_is_refused_by_the_neighbours() {
    let mut federation = three().await;
    federation.add_host("C-2", "C", Level::District).await;
    federation.wait_for_link("C-2", true).await;
    for unit in ["C-1", "C-2"] {
        federation.stop(unit).await;
    }
    let culprit = Hostile::take_over(&federation.directory("C-1"), "C-1").await;
    let sibling = Hostile::take_over(&federation.directory("C-2"), "C-2").await;
    let shown = [
        None,
        Some(opening(&culprit, 2, &[])),
        Some(opening(&culprit, 2, &["li"])),
        Some(opening(&culprit, 2, &["li", "li"])),
        Some(opening(&culprit, 3, &["li", "wang"])),
        Some(opening(&sibling, 2, &["li", "wang"])),
    ];
    let count = shown.len();
    for opening in shown {
        let mut link = culprit.open().await;
        link.send(Kind::Hello(Hello { epoch: 2, opening, ..culprit.hello() })).await;
        let Ok(Some(Kind::Refusal(refusal))) = link.next().await else { panic!("it links") };
        assert_eq!(refusal.reason, "bad-epoch", "{refusal:?}");
    }
    let city = hosted(&federation, "C");
    let refused = audit(&city, "link.open").await;
    assert_eq!(refused.len(), count);
    assert!(refused.iter().all(|line| line.refused == "bad-epoch"), "{refused:?}");
    assert!(epochs(&federation, "C").await.is_empty());

    // The same with two approvers is taken, once.
    for _ in 0..2 {
        let opening = Some(opening(&culprit, 2, &["li", "wang"]));
        let mut link = culprit.open().await;
        link.send(Kind::Hello(Hello { epoch: 2, opening, ..culprit.hello() })).await;
        assert!(matches!(link.next().await, Ok(Some(Kind::Hello(_)))));
    }
    assert_eq!(epochs(&federation, "C").await.len(), 1);
    assert_eq!(audit(&city, "epoch.take").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_taken_from_a_unit_in_an_epoch_or_at_a_number_that_was_passed() {
    let mut federation = three().await;
    federation.publish("C-1", "2026-01").await;
    reported(&federation, "C", "C-1", "2026-01").await;
    witnessed(&hosted(&federation, "C-1"), "C").await;
    federation.stop("C-1").await;
    let culprit = Hostile::take_over(&federation.directory("C-1"), "C-1").await;
    let reached = |seq, journal_size| Some(Reached { seq, journal_size, stopped: false });
    let behind = [reached(0, u64::MAX), reached(u64::MAX, 1), None];
    let mut hellos: Vec<Hello> = Vec::new();
    hellos.extend(behind.map(|reached| Hello { reached, ..culprit.hello() }));
    for hello in hellos.clone() {
        quiet_end(&culprit, hello).await;
    }
    // Once it is in its second epoch, the first one is over, however far it claims to be there.
    let opening = Some(opening(&culprit, 2, &["li", "wang"]));
    let mut link = culprit.open().await;
    link.send(Kind::Hello(Hello { epoch: 2, opening, ..culprit.hello() })).await;
    assert!(matches!(link.next().await, Ok(Some(Kind::Hello(_)))));
    drop(link);
    quiet_end(&culprit, culprit.hello()).await;
    assert_eq!(status(&federation, "C").await.rolled_back_peers, ["C-1"]);
    assert_eq!(numbers(&hosted(&federation, "C"), "C-1").await.len(), 2, "report and opening");
}

/// Whoever is behind and delivers all the same is cut off, and nothing is taken in.
async fn quiet_end(culprit: &Hostile, hello: Hello) {
    let mut link = culprit.open().await;
    link.send(Kind::Hello(hello)).await;
    assert!(matches!(link.next().await, Ok(Some(Kind::Hello(_)))));
    let header = header::Header { seq: 77, ..culprit.header(kinds::LEAVE) };
    link.deliver(Lane::Summary, culprit.sign(&header, b"x"), Vec::new()).await;
    let end = link.end().await.unwrap_err();
    assert!(end.message().contains("rolled back"), "{end:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_neighbour_returns_a_unit_nothing_but_its_own() {
    let mut federation = three().await;
    let copy = backup(&mut federation, "C-1").await;
    federation.publish("C-1", "2026-02").await;
    reported(&federation, "C", "C-1", "2026-02").await;
    federation.stop("C-1-1").await;
    put_back(&mut federation, "C-1", &copy).await;
    standing_still(&federation, "C-1").await;
    open(&federation, "C-1").await;
    let culprit = Hostile::take_over(&federation.directory("C-1-1"), "C-1-1").await;
    let mut link = culprit.link().await;
    let asked = async {
        loop {
            if let Kind::ReturnRequest(asked) = link.next().await.unwrap().unwrap() {
                return asked;
            }
        }
    };
    let asked = asked.await;
    let own = culprit.header(kinds::LEAVE);
    let forged =
        header::Header { source: code("C-1"), epoch: 1, seq: 40, ..culprit.header(kinds::LEAVE) };
    let ids = [own.id, forged.id];
    let statements = [culprit.sign(&own, b"x"), culprit.sign(&forged, b"x")];
    let statements = statements
        .map(|envelope| ReturnedStatement { envelope: Some(envelope), cells: Vec::new() });
    let page = Returned { statements: statements.to_vec(), last: true };
    link.send(Kind::Returned(page)).await;
    let district = hosted(&federation, "C-1");
    let refused = until("both refusals", async || {
        Some(audit(&district, "epoch.return").await).filter(|lines| lines.len() == 2)
    })
    .await;
    assert!(asked.after_epoch <= 1);
    assert!(refused.iter().all(|line| line.refused == "wrong-source"), "{refused:?}");
    for id in ids {
        assert!(district.unit.statement(id).await.unwrap().is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_for_a_neighbour_is_kept_for_35_days_and_no_longer() {
    const DAY_MS: i64 = 24 * 3_600_000;
    let federation = three().await;
    let notice = issue(&federation, "1").await;
    received(&federation, &notice).await;
    federation.publish("C-1", "2026-01").await;
    reported(&federation, "C", "C-1", "2026-01").await;
    let city = hosted(&federation, "C");
    let kept = async || {
        let mut rows = [0; 2];
        for (count, table) in rows.iter_mut().zip([Table::Delivered, Table::Received]) {
            let store = &city.unit.store;
            *count = store.scan(&code("C"), table, b"", None, usize::MAX).await.unwrap().len();
        }
        rows
    };
    until("the acknowledgements", async || (kept().await[0] > 1).then_some(())).await;
    let before = kept().await;
    assert!(before.iter().all(|&count| count > 0), "{before:?}");
    federation.clock.shift_to(34 * DAY_MS);
    assert!(!city.epochs.sweep().await.unwrap());
    assert!(kept().await.iter().zip(before).all(|(&now, before)| now >= before));
    federation.clock.shift_to(36 * DAY_MS);
    assert!(!city.epochs.sweep().await.unwrap());
    let after = kept().await;
    assert!(after.iter().zip(before).all(|(&now, before)| now < before), "{after:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_final_receipt_is_kept_although_the_next_hop_has_it() {
    const DAY_MS: i64 = 24 * 3_600_000;
    let mut federation = three().await;
    federation.stop("C-1-1").await;
    let notice = issue(&federation, "1").await;
    let city = hosted(&federation, "C");
    let is_kept = async || {
        let own = &city.unit.code;
        let rows =
            city.unit.store.scan(own, Table::Delivered, b"", None, usize::MAX).await.unwrap();
        rows.iter().any(|(_, row)| row.windows(notice.len()).any(|part| part == notice))
    };
    until("the district's acknowledgement", async || is_kept().await.then_some(())).await;
    federation.clock.shift_to(36 * DAY_MS);
    city.epochs.sweep().await.unwrap();
    assert!(is_kept().await, "the street has not said that it came");

    federation.clock.shift_to(0);
    federation.start("C-1-1").await;
    received(&federation, &notice).await;
    federation.clock.shift_to(34 * DAY_MS);
    city.epochs.sweep().await.unwrap();
    assert!(is_kept().await, "the final receipt is 34 days old");
    federation.clock.shift_to(36 * DAY_MS);
    city.epochs.sweep().await.unwrap();
    assert!(!is_kept().await, "the final receipt is 36 days old");
}
