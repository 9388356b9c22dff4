//! P9: what is refused waits, is told, can be judged again, mended and thrown away, and never
//! stops its lane or fills the disk.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use lianxi_node::{
    domain::{quarantine::PEER_STATEMENTS, unit::UnitCode},
    services::{hosted::Hosted, journal::Filter},
    statement::{Envelope, journal::Line},
};
use lianxi_proto::{
    admin::v1::{
        QuarantineOutcome, QuarantineRequest, QuarantinedStatement, SettleQuarantinedRequest,
    },
    link::v1::Lane,
    local::v1::ShowSummaryRequest,
};
use lianxi_tests::{
    breach::{Breach, status},
    federation::Federation,
    wait::until,
};
use tonic::Code;

async fn page(federation: &Federation, request: QuarantineRequest) -> Vec<QuarantinedStatement> {
    let mut node = federation.client(&request.unit).node();
    node.quarantine(request).await.unwrap().into_inner().statements
}

async fn waiting(federation: &Federation, unit: &str) -> Vec<QuarantinedStatement> {
    page(federation, QuarantineRequest { unit: unit.into(), ..QuarantineRequest::default() }).await
}

fn order(unit: &str, ids: &[&QuarantinedStatement], text: &str) -> SettleQuarantinedRequest {
    SettleQuarantinedRequest {
        unit: unit.to_owned(),
        ids: ids.iter().map(|one| one.id.clone()).collect(),
        text: text.to_owned(),
        dry_run: false,
    }
}

async fn replay(federation: &Federation, order: SettleQuarantinedRequest) -> QuarantineOutcome {
    let mut node = federation.client(&order.unit).node();
    node.replay_quarantined(order).await.unwrap().into_inner().outcomes.remove(0)
}

async fn fix(federation: &Federation, order: SettleQuarantinedRequest) -> QuarantineOutcome {
    let mut node = federation.client(&order.unit).node();
    node.fix_quarantined(order).await.unwrap().into_inner().outcomes.remove(0)
}

fn hosted(federation: &Federation, unit: &str) -> Arc<Hosted> {
    let code: UnitCode = unit.parse().unwrap();
    federation.host(unit).units().get(&code).unwrap()
}

/// Acts on the quarantine in the journal: what, and how it ended.
async fn acts(federation: &Federation, unit: &str) -> Vec<(String, String)> {
    let filter = Filter { act: "quarantine.".to_owned(), ..Filter::default() };
    let page = hosted(federation, unit).journal.show(0, &filter).await.unwrap();
    page.lines.into_iter().map(|(_, line)| (line.name, line.refused)).collect()
}

/// Units that the own report of `unit` includes.
async fn received(federation: &Federation, unit: &str) -> Option<u32> {
    let request =
        ShowSummaryRequest { unit: unit.to_owned(), of: String::new(), period: "2011-07".into() };
    let shown = federation.client(unit).summaries().show(request).await.ok()?.into_inner();
    Some(shown.summary?.coverage?.included)
}

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// The next rejection that the culprit is told: reason and detail.
async fn told(breach: &mut Breach, digest: [u8; 32], reason: &str) -> String {
    breach
        .link
        .statement(|envelope| {
            let statement = lianxi_node::statement::header::decode(&envelope.payload).ok()?;
            let rejection = lianxi_node::statement::rejection::decode_body(&statement.body).ok()?;
            let is_it = rejection.payload_sha256 == digest && rejection.reason == reason;
            is_it.then_some(rejection.detail)
        })
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_holds_by_the_rules_of_today_is_taken_in_and_its_sender_is_told() {
    let mut breach = Breach::of("C-1-1").await;
    breach.goes_on().await;
    let early = breach.summary(|header| header.time_unix_ms += 10 * DAY_MS);
    let digest = lianxi_proto::envelope::payload_sha256(&early.0);
    let lane_seq = breach.link.deliver(Lane::Summary, early.0, early.1).await;
    breach.link.acknowledged(Lane::Summary, lane_seq).await;
    let found = waiting(&breach.federation, "C-1").await;
    assert_eq!(found.len(), 1);
    assert!(found[0].size_bytes > 0 && found[0].claimed_source == "C-1-1", "{found:?}");

    let still = replay(&breach.federation, order("C-1", &[&found[0]], "")).await;
    assert_eq!((still.outcome.as_str(), &still.reason), ("still-refused", &found[0].reason));
    assert_eq!(waiting(&breach.federation, "C-1").await[0].tries, 1);

    breach.federation.clock.shift_to(10 * DAY_MS);
    let dry = SettleQuarantinedRequest { dry_run: true, ..order("C-1", &[&found[0]], "") };
    assert_eq!(replay(&breach.federation, dry).await.outcome, "taken-in");
    assert_eq!(waiting(&breach.federation, "C-1").await.len(), 1, "it was a dry run");
    let taken = replay(&breach.federation, order("C-1", &[&found[0]], "")).await;
    assert_eq!(taken.outcome, "taken-in");
    told(&mut breach, digest, "withdrawn").await;
    assert!(waiting(&breach.federation, "C-1").await.is_empty());
    assert_eq!(status(&breach.federation, "C-1").await.quarantined, 0);
    let held = lianxi_tests::breach::report(&breach.federation, "C-1", "C-1-1").await.unwrap();
    let received =
        lianxi_tests::federation::count(&held, "received", lianxi_proto::types::v1::Scope::Subtree);
    assert_eq!(received, 9_999, "its cells were kept with it");
    let expected = [
        ("quarantine.replay".to_owned(), found[0].reason.clone()),
        ("quarantine.replay".into(), String::new()),
    ];
    assert_eq!(acts(&breach.federation, "C-1").await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_is_asked_for_a_corrected_one_and_told_what_is_thrown_away() {
    let mut breach = Breach::of("C-1-1").await;
    let (envelope, mut cells) = breach.summary(|_| {});
    cells.pop();
    let digest = lianxi_proto::envelope::payload_sha256(&envelope);
    let lane_seq = breach.link.deliver(Lane::Summary, envelope, cells).await;
    breach.link.acknowledged(Lane::Summary, lane_seq).await;
    let found = waiting(&breach.federation, "C-1").await.remove(0);

    let asked = fix(&breach.federation, order("C-1", &[&found], "send all the cells")).await;
    assert_eq!(asked.outcome, "asked");
    assert_eq!(told(&mut breach, digest, "correct").await, "send all the cells");
    let request = QuarantineRequest {
        unit: "C-1".into(),
        id: found.id.clone(),
        ..QuarantineRequest::default()
    };
    assert_eq!(page(&breach.federation, request).await[0].asked, "send all the cells");

    let mut node = breach.federation.client("C-1").node();
    let silent = node.discard_quarantined(order("C-1", &[&found], " ")).await.unwrap_err();
    assert_eq!(silent.code(), Code::InvalidArgument);
    let unknown = QuarantinedStatement { id: "00".repeat(16), ..found.clone() };
    let nothing = node.discard_quarantined(order("C-1", &[&unknown], "why")).await.unwrap_err();
    assert_eq!(nothing.code(), Code::NotFound);
    let gone = node.discard_quarantined(order("C-1", &[&found], "superseded")).await.unwrap();
    assert_eq!(gone.into_inner().outcomes[0].outcome, "discarded");
    assert_eq!(told(&mut breach, digest, "discarded").await, "superseded");
    assert!(waiting(&breach.federation, "C-1").await.is_empty());
    let names: Vec<String> =
        acts(&breach.federation, "C-1").await.into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["quarantine.fix", "quarantine.discard"]);
    breach.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_neighbour_that_sends_what_does_not_hold_fills_its_own_share_and_nothing_stops() {
    let mut breach = Breach::of("C-1-1").await;
    let mut last = 0;
    for _ in 0..=PEER_STATEMENTS {
        let (envelope, mut cells) = breach.summary(|_| {});
        cells.pop();
        last = breach.link.deliver(Lane::Summary, envelope, cells).await;
        breach.link.acknowledged(Lane::Summary, last).await;
    }
    assert!(last > PEER_STATEMENTS);
    let full = status(&breach.federation, "C-1").await;
    assert_eq!((full.quarantined, full.quarantine_percent), (PEER_STATEMENTS, 100));
    assert_eq!(full.quarantine_left_out, 1);
    breach.goes_on().await;

    // Page by page, each once.
    let mut request =
        QuarantineRequest { unit: "C-1".into(), limit: 200, ..QuarantineRequest::default() };
    let mut ids = Vec::new();
    loop {
        let mut node = breach.federation.client("C-1").node();
        let answer = node.quarantine(request.clone()).await.unwrap().into_inner();
        assert!(answer.statements.len() <= 200);
        ids.extend(answer.statements.into_iter().map(|one| one.id));
        if answer.next.is_empty() {
            break;
        }
        request.after = answer.next;
    }
    let count = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!((ids.len(), count as u64), (count, PEER_STATEMENTS));

    // There is room again once some are settled, and a start counts the same.
    for some in ids[..150].chunks(100) {
        let discard = SettleQuarantinedRequest {
            unit: "C-1".into(),
            ids: some.to_vec(),
            text: "of no use".into(),
            dry_run: false,
        };
        breach.federation.client("C-1").node().discard_quarantined(discard).await.unwrap();
    }
    let after = status(&breach.federation, "C-1").await;
    assert_eq!((after.quarantined, after.quarantine_left_out), (PEER_STATEMENTS - 150, 0));
    breach.federation.stop("C-1").await;
    breach.federation.start("C-1").await;
    let started = status(&breach.federation, "C-1").await;
    assert_eq!(started.quarantined, PEER_STATEMENTS - 150);
    assert_eq!(started.quarantine_percent, after.quarantine_percent);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_refused_and_comes_again_is_acknowledged_and_leaves_no_second_trace() {
    let mut breach = Breach::of("C-1-1").await;
    let (envelope, mut cells) = breach.summary(|_| {});
    cells.pop();
    for _ in 0..2 {
        let lane_seq = breach.link.deliver(Lane::Summary, envelope.clone(), cells.clone()).await;
        breach.link.acknowledged(Lane::Summary, lane_seq).await;
        breach.goes_on().await;
    }
    assert_eq!(waiting(&breach.federation, "C-1").await.len(), 1);
    let refused = events(&breach.federation, "statement-refused").await;
    assert_eq!(refused.len(), 1, "{refused:?}");
    let rejections = events(&breach.federation, "lianxi.rejection").await;
    assert_eq!(rejections.len(), 1, "its sender is told once: {rejections:?}");

    // Refused for another reason, that is told.
    let unsigned = Envelope { signatures: Vec::new(), ..envelope };
    let lane_seq = breach.link.deliver(Lane::Summary, unsigned, cells).await;
    breach.link.acknowledged(Lane::Summary, lane_seq).await;
    assert_eq!(events(&breach.federation, "statement-refused").await.len(), 2);
    breach.goes_on().await;
}

/// Leaves of the district's journal of that kind, or about statements of that type.
async fn events(federation: &Federation, act: &str) -> Vec<Line> {
    let filter = Filter { act: act.to_owned(), ..Filter::default() };
    let page = hosted(federation, "C-1").journal.show(0, &filter).await.unwrap();
    page.lines.into_iter().map(|(_, line)| line).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_neighbour_refused_is_sent_again_by_a_person_alone_and_leaves_both_lists() {
    let mut federation = Federation::four_levels().await;
    let ahead = federation.own_clock("C-1-1");
    ahead.shift_to(5 * DAY_MS);
    federation.stop("C-1-1").await;
    federation.start("C-1-1").await;
    federation.wait_for_link("C-1-1", true).await;
    federation.publish("C-1-1", "2011-07").await;
    // The street reports anew with each community: all of it is refused, and told.
    let refused = until("every refusal at the street", async || {
        let own = received(&federation, "C-1-1").await?;
        let here = waiting(&federation, "C-1-1").await;
        let is_told = waiting(&federation, "C-1").await.len() == here.len() && !here.is_empty();
        let is_sent = status(&federation, "C-1-1").await.outbox == 0;
        (own == 3 && is_told && is_sent).then_some(here)
    })
    .await;
    assert!(refused.iter().all(|one| !one.refused_here && one.peer == "C-1"), "{refused:?}");
    let again = replay(&federation, order("C-1-1", &[&refused[0]], "")).await;
    assert_eq!(again.outcome, "cannot", "only its receiver judges it");

    // Nothing was sent again by itself.
    assert_eq!(waiting(&federation, "C-1").await.len(), refused.len());

    federation.clock.shift_to(5 * DAY_MS);
    for one in &refused {
        let sent = fix(&federation, order("C-1-1", &[one], "")).await;
        assert_eq!(sent.outcome, "sent-again", "{sent:?}");
    }
    until("the report at the district", async || {
        let request =
            ShowSummaryRequest { unit: "C-1".into(), of: "C-1-1".into(), period: "2011-07".into() };
        federation.client("C-1").summaries().show(request).await.ok()
    })
    .await;
    for unit in ["C-1", "C-1-1"] {
        until(&format!("nothing to wait at {unit}"), async || {
            waiting(&federation, unit).await.is_empty().then_some(())
        })
        .await;
    }
}
