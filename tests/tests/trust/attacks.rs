//! Attempts to break in over real hosts: each is refused with its own reason, logged, shown to the
//! operator, and costs nobody else anything.

use lianxi_node::{
    domain::{
        component::Component,
        summary::{Coverage, Summary, SummaryKind},
    },
    services::exchange::{self, Exchange as _},
    statement::{
        Envelope,
        header::{self, kinds},
        journal,
        summary::encode_body,
    },
    store::journal::leaves,
};
use lianxi_proto::{
    admin::v1::{OpenEpochRequest, QuarantineRequest},
    envelope::Signer,
    link::v1::Lane,
    local::v1::{
        IssueNoticeRequest, RaiseEscalationRequest, ShowEscalationRequest, ShowNoticeRequest,
        ShowSummaryRequest,
    },
    types::v1::{
        Escalation, EscalationEvent, EscalationKind, EscalationStep, Level, Notice, ReceiptStage,
        Scope,
    },
};
use lianxi_tests::{
    breach::{Breach, DAY_MS, PERIOD, figures, own_summary, report, status, summary, summary_of},
    federation::{Federation, count},
    hostile::sign,
    wait::until,
};
use prost::Message as _;
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn a_tampered_summary_is_refused_and_the_lane_goes_on() {
    let mut breach = Breach::of("C-1-1").await;
    breach.goes_on().await;

    let (mut envelope, cells) = breach.summary(|_| {});
    let mut payload = envelope.payload.to_vec();
    *payload.last_mut().unwrap() ^= 1;
    envelope.payload = payload.into();
    let reason = ("bad-signature", "signatures");
    breach.is_refused("a flipped byte", Lane::Summary, (envelope, cells), reason).await;
    breach.goes_on().await;

    let (envelope, mut cells) = breach.summary(|_| {});
    let mut cell = cells[0].cell.to_vec();
    *cell.last_mut().unwrap() ^= 1;
    cells[0].cell = cell;
    let reason = ("cells-do-not-match", "cells");
    breach.is_refused("a flipped cell", Lane::Summary, (envelope, cells), reason).await;
    breach.goes_on().await;

    let (envelope, mut cells) = breach.summary(|_| {});
    cells.pop();
    breach.is_refused("a cell left out", Lane::Summary, (envelope, cells), reason).await;
    breach.goes_on().await;

    assert_eq!(status(&breach.federation, "C-1").await.quarantined, 3);

    // Back in good hands, the street's operator sees what was refused in its name.
    let Breach { mut federation, link, .. } = breach;
    drop(link);
    federation.start("C-1-1").await;
    // Its numbers were used in its name: it goes on in an epoch of its own.
    let request = OpenEpochRequest {
        units: vec!["C-1-1".into()],
        text: "the keys were in other hands".into(),
        approved_by: vec!["li".into(), "wang".into()],
        dry_run: false,
    };
    federation.client("C-1-1").node().open_epoch(request).await.unwrap();
    let told = until("the reasons at the street", async || {
        let request = QuarantineRequest { unit: "C-1-1".into(), ..QuarantineRequest::default() };
        let listed = federation.client("C-1-1").node().quarantine(request).await.ok()?.into_inner();
        (listed.statements.len() == 3).then_some(listed.statements)
    })
    .await;
    assert!(told.iter().all(|statement| !statement.refused_here && statement.peer == "C-1"));
    assert_eq!(told.iter().filter(|it| it.reason == "cells-do-not-match").count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unit_speaks_for_nobody_but_itself() {
    let mut breach = Breach::of("C-1-1").await;

    let as_sibling = breach.summary(|header| header.source = "C-1-2".parse().unwrap());
    let reason = ("wrong-source", "header.source");
    breach.is_refused("a sibling's name", Lane::Summary, as_sibling, reason).await;

    let (other, cells) = summary("C-1-2", 9_999, 9_999);
    let header = breach.culprit.header(kinds::SUMMARY);
    let inside = (breach.culprit.sign(&header, &encode_body(&other)), cells);
    let reason = ("wrong-source", "body.unit");
    breach.is_refused("a sibling's figures", Lane::Summary, inside, reason).await;

    let sibling = breach.accomplice("C-1-2").await;
    let siblings = own_summary(&sibling, 9_999);
    let reason = ("outside-subtree", "header.source");
    breach.is_refused("a sibling's own summary", Lane::Summary, siblings, reason).await;

    let stranger = breach.accomplice("C-2-1").await;
    let strangers = own_summary(&stranger, 9_999);
    let reason = ("unknown-key", "signatures");
    breach.is_refused("another district's summary", Lane::Summary, strangers, reason).await;

    let community = breach.hosted("C-1-1-1").await;
    let communitys = own_summary(&community, 9_999);
    let reason = ("wrong-source", "header.source");
    breach.is_refused("a community's summary, relayed", Lane::Summary, communitys, reason).await;

    let (own, cells) = summary("C-1-1", 9_999, 9_999);
    let header = breach.culprit.header(kinds::SUMMARY);
    let delegation = &breach.culprit.keys.delegation;
    let wrong_key = (sign(&header, &encode_body(&own), delegation), cells.clone());
    let reason = ("unknown-key", "signatures");
    breach.is_refused("a key for other uses", Lane::Summary, wrong_key, reason).await;
    let new_key = (sign(&header, &encode_body(&own), &Signer::from_seed(&[7; 32])), cells);
    breach.is_refused("a key nobody knows", Lane::Summary, new_key, reason).await;

    breach.goes_on().await;
    for of in ["C-1-2", "C-2-1", "C-1-1-1"] {
        let held = report(&breach.federation, "C-1", of).await;
        assert_eq!(held.unwrap_err().code(), Code::NotFound, "{of}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_district_speaks_for_no_unit_outside_its_subtree() {
    let mut breach = Breach::of("C-1").await;
    let stranger = breach.accomplice("C-2-1").await;
    let strangers = own_summary(&stranger, 9_999);
    let reason = ("outside-subtree", "header.source");
    breach.is_refused("another district's summary", Lane::Summary, strangers, reason).await;
    breach.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_malformed_or_over_a_limit_is_refused_and_the_lane_goes_on() {
    let mut breach = Breach::of("C-1-1").await;
    let signed = |breach: &Breach, kind: &str, body: &[u8]| {
        (breach.culprit.sign(&breach.culprit.header(kind), body), Vec::new())
    };

    let unknown = signed(&breach, "lianxi.wish.v1", b"");
    let reason = ("unknown-type", "header.type");
    breach.is_refused("an unknown type", Lane::Summary, unknown, reason).await;
    let delegation = signed(&breach, kinds::DELEGATION, b"");
    breach.is_refused("a delegation as delivery", Lane::Summary, delegation, reason).await;
    let misplaced = breach.summary(|_| {});
    breach.is_refused("a wrong lane", Lane::Notice, misplaced, reason).await;

    let noise = signed(&breach, kinds::SUMMARY, &[0xff; 64]);
    breach.is_refused("noise", Lane::Summary, noise, ("malformed", "body")).await;
    breach.goes_on().await;

    let long = breach.summary(|header| header.subject = "x".repeat(20_000));
    let reason = ("malformed", "header.subject");
    breach.is_refused("a long subject", Lane::Summary, long, reason).await;
    let future = breach.summary(|header| header.time_unix_ms += 10 * DAY_MS);
    let reason = ("expired", "header.time_unix_ms");
    breach.is_refused("a statement of next week", Lane::Summary, future, reason).await;

    let (mut envelope, cells) = breach.summary(|_| {});
    envelope.payload_type = "application/json".into();
    let reason = ("malformed", "payload_type");
    breach.is_refused("another payload type", Lane::Summary, (envelope, cells), reason).await;
    let (mut envelope, cells) = breach.summary(|_| {});
    envelope.signatures.clear();
    let reason = ("malformed", "signatures");
    breach.is_refused("no signature", Lane::Summary, (envelope, cells), reason).await;

    // The second is also over what the store takes as one value.
    for size_bytes in [50_000, 200_000] {
        let large = signed(&breach, kinds::SUMMARY, &vec![0; size_bytes]);
        let reason = ("malformed", "payload");
        breach.is_refused("a large payload", Lane::Summary, large, reason).await;
        breach.goes_on().await;
    }

    let large = figures(Component::Count(1), &"x".repeat(70_000));
    let (summary, cells) = summary_of("C-1-1", &large, 9_999);
    let header = breach.culprit.header(kinds::SUMMARY);
    let large = (breach.culprit.sign(&header, &encode_body(&summary)), cells);
    let reason = ("cells-do-not-match", "cells");
    breach.is_refused("a large cell", Lane::Summary, large, reason).await;
    breach.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coverage_that_cannot_be_is_refused() {
    let mut breach = Breach::of("C-1-1").await;
    let (good, cells) = summary("C-1-1", 9_999, 9_999);
    let all = Coverage { expected: 4, included: 4, ..Coverage::default() };
    let some = Coverage { expected: 2, included: 1, ..Coverage::default() };
    let live = Summary { kind: SummaryKind::Live, version: 0, ..good.clone() };
    for (attack, bad, field) in [
        (
            "more units than there are",
            Summary { coverage: all, ..good.clone() },
            "body.coverage.expected",
        ),
        ("a unit that is nowhere", Summary { coverage: some, ..good }, "body.coverage"),
        ("a live answer as report", live, "body.kind"),
    ] {
        let header = breach.culprit.header(kinds::SUMMARY);
        let statement = (breach.culprit.sign(&header, &encode_body(&bad)), cells.clone());
        breach.is_refused(attack, Lane::Summary, statement, ("malformed", field)).await;
    }
    breach.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_that_do_not_add_up_take_nobody_elses_away() {
    let mut breach = Breach::of("C-1-2").await;
    let ratio = figures(Component::Ratio { numerator: 1, denominator: 2 }, "");
    let (bad, cells) = summary_of("C-1-2", &ratio, 1);
    let header = breach.culprit.header(kinds::SUMMARY);
    let envelope = breach.culprit.sign(&header, &encode_body(&bad));
    let lane_seq = breach.link.deliver(Lane::Summary, envelope, cells).await;
    breach.link.acknowledged(Lane::Summary, lane_seq).await;

    let row = "1,C-1-1-1,2011-07-01 08:00:00,,light,1 Main St\n";
    breach.federation.import("C-1-1", row).await;
    breach.federation.publish("C-1-1", PERIOD).await;
    let federation = &breach.federation;
    let city = until("the honest street's figures at the city", async || {
        let held = report(federation, "C", "").await.ok()?;
        (count(&held, "received", Scope::Subtree) == 1).then_some(held)
    })
    .await;
    let coverage = city.summary.unwrap().coverage.unwrap();
    let gap = coverage.gaps.iter().find(|gap| gap.unit == "C-1-2").unwrap();
    assert_eq!((gap.reason.as_str(), gap.units, coverage.quarantined), ("refused", 1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_a_childs_to_say_is_refused() {
    let mut breach = Breach::of("C-1-1").await;
    let reason = ("wrong-source", "header.source");

    let mut header = breach.culprit.header(kinds::NOTICE);
    header.destination = Some("C-1-2".parse().unwrap());
    let notice = (breach.culprit.sign(&header, &notice().encode_to_vec()), Vec::new());
    breach.is_refused("a notice from below", Lane::Notice, notice, reason).await;

    let header = breach.culprit.header(kinds::CATALOGUE);
    let catalogue = (breach.culprit.sign(&header, b""), Vec::new());
    breach.is_refused("a catalogue from below", Lane::Catalogue, catalogue, reason).await;

    let community = breach.hosted("C-1-1-1").await;
    let mut header = community.header(kinds::ESCALATION);
    header.destination = Some("C-1".parse().unwrap());
    let whistle = (community.sign(&header, &whistle().encode_to_vec()), Vec::new());
    breach.is_refused("a community's whistle", Lane::Escalation, whistle, reason).await;

    let id = raise(&breach.federation, "C-1-2").await;
    let event = |step: EscalationStep, desk: &str| EscalationEvent {
        escalation_id: id.clone(),
        step: step.into(),
        desk: desk.to_owned(),
        note: String::new(),
    };
    let mut header = breach.culprit.header(kinds::ESCALATION_EVENT);
    header.destination = Some("C-1".parse().unwrap());
    for (attack, step, desk, field) in [
        ("closing a sibling's case", EscalationStep::Closed, "", "body.step"),
        ("withdrawing a sibling's case", EscalationStep::Withdrawn, "", "body.step"),
        ("a step in a desk's name", EscalationStep::Answered, "WATER", "body.desk"),
    ] {
        let body = event(step, desk).encode_to_vec();
        let event = breach.culprit.sign_sealed(&header, &["C-1"], &body);
        let statement = (event, Vec::new());
        breach.is_refused(attack, Lane::Escalation, statement, ("wrong-source", field)).await;
        header.id = breach.culprit.header("").id;
    }
    let request = ShowEscalationRequest { unit: "C-1".into(), escalation_id: id };
    let shown = breach.federation.client("C-1").escalations().show(request).await.unwrap();
    assert_eq!(shown.into_inner().state(), EscalationStep::Returned);
    breach.goes_on().await;
}

fn notice() -> Notice {
    Notice {
        number: "〔2026〕17号".into(),
        title: "inspect street lights".into(),
        level: Level::Community.into(),
        duty_item: "street-light-inspection".into(),
        due_unix_ms: 4_000_000_000_000,
        ..Notice::default()
    }
}

fn whistle() -> Escalation {
    Escalation {
        number: "〔2026〕1号".into(),
        kind: EscalationKind::Emergency.into(),
        title: "gas smell at the market".into(),
        lead_desk: "WATER".into(),
        answer_within_ms: 600_000,
        arrive_within_ms: 1_800_000,
        approved_by: "street head".into(),
        ..Escalation::default()
    }
}

/// Raises a whistle for a desk that its district does not have; waits until it came back.
async fn raise(federation: &Federation, street: &str) -> Vec<u8> {
    let request = RaiseEscalationRequest {
        unit: street.into(),
        destination: String::new(),
        escalation: Some(Escalation { answer_within_ms: 0, arrive_within_ms: 0, ..whistle() }),
        exercise: false,
    };
    let mut escalations = federation.client(street).escalations();
    let id = escalations.raise(request).await.unwrap().into_inner().escalation_id;
    until("the whistle to come back", async || {
        let request = ShowEscalationRequest { unit: street.into(), escalation_id: id.clone() };
        let mut escalations = federation.client(street).escalations();
        let state = escalations.show(request).await.ok()?.into_inner();
        (state.state() == EscalationStep::Returned).then_some(())
    })
    .await;
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_comes_again_is_applied_once() {
    let mut breach = Breach::of("C-1-1").await;
    let (first, cells) = own_summary(&breach.culprit, 5);
    for _ in 0..3 {
        let lane_seq = breach.link.deliver(Lane::Summary, first.clone(), cells.clone()).await;
        breach.link.acknowledged(Lane::Summary, lane_seq).await;
    }
    let payload = header::decode(&first.payload).unwrap();
    let (other, other_cells) = summary("C-1-1", 6, 2);
    let same_id = breach.culprit.sign(&payload.header, &encode_body(&other));
    let lane_seq = breach.link.deliver(Lane::Summary, same_id, other_cells).await;
    breach.link.acknowledged(Lane::Summary, lane_seq).await;

    // A new link with a new epoch says it all again.
    breach.link = breach.culprit.link().await;
    let lane_seq = breach.link.deliver(Lane::Summary, first, cells).await;
    breach.link.acknowledged(Lane::Summary, lane_seq).await;

    let held = report(&breach.federation, "C-1", "C-1-1").await.unwrap();
    assert_eq!(count(&held, "received", Scope::Subtree), 5);
    assert_eq!(held.summary.unwrap().version, 1);
    assert_eq!(status(&breach.federation, "C-1").await.quarantined, 0);

    // An older version never replaces a newer one.
    breach.version = 6;
    breach.goes_on().await;
    let (old, cells) = summary("C-1-1", 3, 2);
    let header = breach.culprit.header(kinds::SUMMARY);
    let envelope = breach.culprit.sign(&header, &encode_body(&old));
    let lane_seq = breach.link.deliver(Lane::Summary, envelope, cells).await;
    breach.link.acknowledged(Lane::Summary, lane_seq).await;
    let held = report(&breach.federation, "C-1", "C-1-1").await.unwrap();
    assert_eq!(held.summary.unwrap().version, 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_whose_clock_is_a_day_off_loses_nothing_and_the_skew_is_shown() {
    let mut federation = Federation::four_levels().await;
    let row = "1,C-1-1-1,2011-07-01 08:00:00,,light,1 Main St\n";
    federation.import("C-1-1", row).await;
    let clock = federation.own_clock("C-1-1");
    for (skew_ms, period, received) in [(-DAY_MS, "2011-07", 1), (DAY_MS, "2011-08", 0)] {
        federation.stop("C-1-1").await;
        clock.shift_to(skew_ms);
        federation.start("C-1-1").await;
        federation.wait_for_link("C-1-1", true).await;
        let shown_ms = status(&federation, "C-1-1").await.clock_skew_ms;
        assert!((shown_ms - skew_ms).abs() < 60_000, "{shown_ms} for {skew_ms}");

        federation.publish("C-1-1", period).await;
        until("the report of the skewed street", async || {
            let (unit, of, period) = ("C-1".into(), "C-1-1".into(), period.into());
            let request = ShowSummaryRequest { unit, of, period };
            let held = federation.client("C-1").summaries().show(request).await.ok()?.into_inner();
            let complete = held.summary.as_ref()?.coverage.as_ref()?.included == 3;
            (complete && count(&held, "received", Scope::Subtree) == received).then_some(())
        })
        .await;
        wait_for_receipts(&federation).await;
        assert_eq!(status(&federation, "C-1").await.quarantined, 0);
        assert_eq!(status(&federation, "C-1-1").await.quarantined, 0);
    }
}

/// Issues a notice to the communities of `C-1-1` and waits for their receipts.
async fn wait_for_receipts(federation: &Federation) {
    let request = IssueNoticeRequest {
        unit: "C".into(),
        destination: "C-1-1".into(),
        notice: Some(notice()),
        exercise: false,
    };
    let issued = federation.client("C").notices().issue(request).await.unwrap().into_inner();
    until("the receipts of the skewed communities", async || {
        let notice_id = issued.notice_id.clone();
        let request = ShowNoticeRequest { unit: "C".into(), notice_id };
        let state = federation.client("C").notices().show(request).await.ok()?.into_inner();
        let validated =
            |unit: &&lianxi_proto::local::v1::Recipient| unit.stage() == ReceiptStage::Validated;
        (state.recipients.iter().filter(validated).count() == 2).then_some(())
    })
    .await;
}

/// Reasons of all statements that `unit` refused, as its journal has them.
async fn refused_statements(federation: &Federation, unit: &str) -> Vec<String> {
    let (store, unit) = (federation.host(unit).store(), unit.parse().unwrap());
    let (mut refused, mut from) = (Vec::new(), 0);
    loop {
        let page = leaves(store.as_ref(), &unit, from).await.unwrap();
        let Some((last, _)) = page.last() else { return refused };
        from = last + 1;
        let lines = page.iter().map(|(_, leaf)| journal::read(leaf).unwrap());
        let lines = lines.filter(|line| line.event == "statement-refused");
        refused.extend(lines.map(|line| line.refused));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tampered_byte_at_every_position_of_an_envelope_is_refused() {
    let breach = Breach::of("C-1-1").await;
    let (envelope, cells) = own_summary(&breach.culprit, 5);
    let hosted = breach.federation.host("C-1").units().get(&"C-1".parse().unwrap()).unwrap();
    let peer = breach.culprit.unit();
    let mut lane_seq = 0;
    let mut receive = async |envelope: Envelope| {
        lane_seq += 1;
        let lane = exchange::Lane::Summary;
        let cursor = exchange::Cursor { lane, link_epoch: 7, lane_seq };
        let arrival = exchange::Arrival {
            cursor,
            after: lane_seq - 1,
            envelope,
            cells: cells.clone(),
            evidence: None,
        };
        hosted.receive(peer, arrival).await.unwrap().await.unwrap();
    };
    let bytes = envelope.encode_to_vec();
    let (mut received, mut unreadable) = (0, 0);
    for position in 0..bytes.len() {
        let mut tampered = bytes.clone();
        tampered[position] ^= 1 << (position % 8);
        // What cannot be read as an envelope does not leave the frame: the link ends.
        let Ok(tampered) = Envelope::decode(tampered.as_slice()) else {
            unreadable += 1;
            continue;
        };
        assert_ne!(tampered, envelope, "byte {position} says nothing");
        receive(tampered).await;
        received += 1;
    }
    assert!(received > 250 && unreadable < 50, "{received} received, {unreadable} unreadable");
    let refused = refused_statements(&breach.federation, "C-1").await;
    assert_eq!(refused.len(), received);
    let expected = ["bad-signature", "unknown-key", "malformed"];
    assert!(refused.iter().all(|reason| expected.contains(&reason.as_str())), "{refused:?}");
    let held = report(&breach.federation, "C-1", "C-1-1").await;
    assert_eq!(held.unwrap_err().code(), Code::NotFound);
    // Untouched it is taken.
    receive(envelope).await;
    let held = report(&breach.federation, "C-1", "C-1-1").await.unwrap();
    assert_eq!(count(&held, "received", Scope::Subtree), 5);
}
