//! Courier: statements and acknowledgements cross an air gap as files, and nothing that happens
//! to a file on its way loses or doubles anything.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use lianxi_node::{domain::unit::UnitCode, services::hosted::Hosted};
use lianxi_proto::{
    admin::v1::{AddDeskRequest, StatusRequest},
    local::v1::{
        IssueNoticeRequest, ListNoticesRequest, MarkNoticeRequest, NoticeState,
        RaiseEscalationRequest, ShowEscalationRequest, ShowNoticeRequest, ShowSummaryRequest,
        StepEscalationRequest,
    },
    types::v1::{Escalation, EscalationKind, EscalationStep, Level, Notice, ReceiptStage, Scope},
};
use lianxi_tests::{
    federation::{Federation, count},
    wait::until,
};

/// A district, and a street with two communities on a host that no network reaches any more.
async fn apart() -> Federation {
    let mut federation = Federation::city("C").await;
    federation.add_host("C-1", "C", Level::District).await;
    federation.add_host("C-1-1", "C-1", Level::Street).await;
    for community in ["C-1-1-1", "C-1-1-2"] {
        federation.add_unit(community, "C-1-1", Level::Community).await;
    }
    for unit in ["C-1", "C-1-1", "C-1-1-1", "C-1-1-2"] {
        federation.wait_for_catalogue(unit).await;
        federation.wait_for_link(unit, true).await;
    }
    federation.wait_for_roster("C", 5).await;
    federation.cut_off("C-1").await;
    federation.wait_for_link("C-1", true).await;
    federation.wait_for_link("C-1-1", false).await;
    federation
}

fn hosted(federation: &Federation, unit: &str) -> Arc<Hosted> {
    let code: UnitCode = unit.parse().unwrap();
    federation.host(unit).units().get(&code).unwrap()
}

async fn issue(federation: &Federation, number: u32) -> Vec<u8> {
    let request = IssueNoticeRequest {
        unit: "C-1".into(),
        destination: "C-1".into(),
        notice: Some(Notice {
            number: format!("〔2026〕{number}号"),
            title: "inspect street lights".into(),
            text: "before the first frost ".repeat(170),
            level: Level::Community.into(),
            duty_item: "street-light-inspection".into(),
            due_unix_ms: 4_000_000_000_000,
            ..Notice::default()
        }),
        exercise: false,
    };
    federation.client("C-1").notices().issue(request).await.unwrap().into_inner().notice_id
}

async fn notice(federation: &Federation, unit: &str, id: &[u8]) -> Option<NoticeState> {
    let request = ShowNoticeRequest { unit: unit.to_owned(), notice_id: id.to_vec() };
    Some(federation.client(unit).notices().show(request).await.ok()?.into_inner())
}

async fn notices(federation: &Federation, unit: &str) -> usize {
    let request = ListNoticesRequest { unit: unit.to_owned() };
    federation.client(unit).notices().list(request).await.unwrap().into_inner().notices.len()
}

async fn received(federation: &Federation, at: &str, of: &str) -> Option<u64> {
    let request = ShowSummaryRequest { unit: at.into(), of: of.into(), period: "2011-07".into() };
    let shown = federation.client(at).summaries().show(request).await.ok()?.into_inner();
    Some(count(&shown, "received", Scope::Subtree))
}

async fn outbox(federation: &Federation, unit: &str) -> u64 {
    let status = federation.client(unit).node().status(StatusRequest {}).await.unwrap();
    status.into_inner().units.into_iter().find(|it| it.unit == unit).unwrap().outbox
}

/// The street has published, and its communities' reports are in its own.
async fn publish(federation: &Federation, rows: &str) {
    federation.import("C-1-1", rows).await;
    federation.publish("C-1-1", "2011-07").await;
    let expected = u64::try_from(rows.lines().count()).unwrap();
    until("the street's own report", async || {
        (received(federation, "C-1-1", "C-1-1").await == Some(expected)).then_some(())
    })
    .await;
}

const ROWS: &str = "\
1,C-1-1-1,2011-07-01 08:00:00,2011-07-01 09:00:00,light,1 Main St
2,C-1-1-2,2011-07-02 08:00:00,,light,2 Main St
";

#[tokio::test(flavor = "multi_thread")]
async fn figures_notices_receipts_and_whistles_go_by_files_alone() {
    let federation = apart().await;
    let desk = AddDeskRequest {
        unit: "C-1".into(),
        desk: "GAS".into(),
        title: "Gas supply".into(),
        line: "utilities".into(),
    };
    federation.client("C-1").node().add_desk(desk).await.unwrap();
    publish(&federation, ROWS).await;
    let raise = RaiseEscalationRequest {
        unit: "C-1-1".into(),
        destination: String::new(),
        escalation: Some(Escalation {
            number: "〔2026〕1号".into(),
            kind: EscalationKind::Emergency.into(),
            title: "gas smell at the market".into(),
            lead_desk: "GAS".into(),
            approved_by: "street head".into(),
            ..Escalation::default()
        }),
        exercise: false,
    };
    let raised = federation.client("C-1-1").escalations().raise(raise).await.unwrap().into_inner();
    let task = issue(&federation, 1).await;

    let up = federation.carry("C-1-1", "C-1").await;
    assert!(up.taken >= 2 && up.waiting == 0 && up.gaps.is_empty(), "{up:?}");
    assert_eq!((up.order.as_str(), up.number, up.last), ("new", 1, true));
    assert_eq!(received(&federation, "C-1", "C-1-1").await, Some(2));
    until("the district's report at the city", async || {
        (received(&federation, "C", "C-1").await == Some(2)).then_some(())
    })
    .await;

    let down = federation.carry("C-1", "C-1-1").await;
    assert!(down.taken >= 2, "{down:?}");
    let step = async |unit: &str| {
        let request = ShowEscalationRequest {
            unit: unit.to_owned(),
            escalation_id: raised.escalation_id.clone(),
        };
        let shown = federation.client(unit).escalations().show(request).await.unwrap();
        shown.into_inner().state()
    };
    assert_eq!(step("C-1-1").await, EscalationStep::Routed);
    for community in ["C-1-1-1", "C-1-1-2"] {
        until(&format!("the notice at {community}"), async || {
            notice(&federation, community, &task).await
        })
        .await;
    }
    let mark = MarkNoticeRequest {
        unit: "C-1-1-1".into(),
        notice_id: task.clone(),
        stage: ReceiptStage::Done.into(),
        note: "12 lamps checked".into(),
    };
    let mut community = federation.client("C-1-1-1").notices();
    let seen = MarkNoticeRequest { stage: ReceiptStage::Seen.into(), ..mark.clone() };
    community.mark(seen).await.unwrap();
    community.mark(mark).await.unwrap();
    let answered = StepEscalationRequest {
        unit: "C-1".into(),
        escalation_id: raised.escalation_id.clone(),
        step: EscalationStep::Answered.into(),
        desk: "GAS".into(),
        note: String::new(),
    };
    federation.client("C-1").escalations().step(answered).await.unwrap();
    until("both receipts at the street", async || {
        let state = notice(&federation, "C-1-1", &task).await?;
        let is_done = |stage| state.recipients.iter().any(|it| it.stage() == stage);
        (is_done(ReceiptStage::Done) && is_done(ReceiptStage::Validated)).then_some(())
    })
    .await;

    federation.carry("C-1-1", "C-1").await;
    let state = notice(&federation, "C-1", &task).await.unwrap();
    let stage = |stage| state.recipients.iter().filter(|it| it.stage() == stage).count();
    assert_eq!((stage(ReceiptStage::Done), stage(ReceiptStage::Validated)), (1, 1), "{state:?}");
    federation.carry("C-1", "C-1-1").await;
    assert_eq!(step("C-1-1").await, EscalationStep::Answered);
    // What was acknowledged in both directions waits no more.
    federation.carry("C-1-1", "C-1").await;
    let state = federation.courier_state("C-1", "C-1-1").await;
    assert_eq!((state.waiting, state.linked, state.gaps.len()), (0, false, 0), "{state:?}");
    assert_eq!(outbox(&federation, "C-1-1").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn neighbours_witness_each_other_by_files() {
    let federation = apart().await;
    for _ in 0..2 {
        federation.carry("C-1-1", "C-1").await;
        federation.carry("C-1", "C-1-1").await;
    }
    let (street, district) = (hosted(&federation, "C-1-1"), hosted(&federation, "C-1"));
    for (unit, witness) in [(&street, "C-1"), (&district, "C-1-1")] {
        let newest = unit.journal.newest().await.unwrap().unwrap().checkpoint.size;
        let covering = unit.journal.covering(newest / 2).await.unwrap().unwrap();
        let name = lianxi_proto::note::origin("test.example", witness);
        assert!(covering.witnesses().any(|found| found == name), "{witness}");
        assert!(unit.witness.list_alarms().await.unwrap().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_comes_twice_late_or_never_changes_nothing() {
    let federation = apart().await;
    publish(&federation, ROWS).await;
    let first = federation.courier_file("C-1-1", "C-1").await;
    let raw = "3,C-1-1-1,2011-07-03 08:00:00,,light,3 Main St\n";
    federation.import("C-1-1", raw).await;
    federation.publish("C-1-1", "2011-07").await;
    until("the correction", async || {
        (received(&federation, "C-1-1", "C-1-1").await == Some(3)).then_some(())
    })
    .await;
    let lost = federation.courier_file("C-1-1", "C-1").await;
    let third = federation.courier_file("C-1-1", "C-1").await;

    let came = federation.take_file("C-1", &third).await.unwrap();
    assert!(came.taken > 0 && came.known == 0, "{came:?}");
    assert_eq!(received(&federation, "C-1", "C-1-1").await, Some(3));
    let again = federation.take_file("C-1", &third).await.unwrap();
    assert_eq!((again.taken, again.known, again.order.as_str()), (0, came.taken, "again"));
    let late = federation.take_file("C-1", &first).await.unwrap();
    assert_eq!((late.taken, late.order.as_str()), (0, "late"), "{late:?}");
    let late = federation.take_file("C-1", &lost).await.unwrap();
    assert_eq!((late.taken, late.known, late.order.as_str()), (0, came.taken, "late"));
    assert_eq!(received(&federation, "C-1", "C-1-1").await, Some(3));
    assert!(hosted(&federation, "C-1").witness.list_alarms().await.unwrap().is_empty());
    federation.carry("C-1", "C-1-1").await;
    assert_eq!(outbox(&federation, "C-1-1").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_part_is_a_gap_that_closes_in_any_order() {
    let federation = apart().await;
    for number in 0..260 {
        issue(&federation, number).await;
    }
    let written = federation.courier_files("C-1", "C-1-1", 384 * 1024).await.unwrap();
    assert!(written.files.len() >= 3, "{} files", written.files.len());
    assert!(written.files.iter().all(|file| file.len() <= 384 * 1024));
    assert_eq!(written.report.files as usize, written.files.len());

    let last = federation.take_file("C-1-1", written.files.last().unwrap()).await.unwrap();
    assert!(last.taken == 0 && last.waiting == last.deliveries && last.last, "{last:?}");
    assert_eq!(last.gaps.len(), 1);
    assert_eq!((last.gaps[0].lane.as_str(), last.gaps[0].have), ("notice", 0));
    let state = federation.courier_state("C-1-1", "C-1").await;
    assert_eq!((state.gaps.len(), notices(&federation, "C-1-1").await), (1, 0));
    let mut rest = written.files.clone();
    rest.pop();
    for file in &rest {
        let came = federation.take_file("C-1-1", file).await.unwrap();
        assert!(came.taken > 0 && came.taken == came.deliveries, "{came:?}");
    }
    let closed = federation.take_file("C-1-1", written.files.last().unwrap()).await.unwrap();
    assert_eq!((closed.taken, closed.gaps.len()), (closed.deliveries, 0));
    assert_eq!(notices(&federation, "C-1-1").await, 260);

    // The next file in the other direction says how far it came: nothing is sent again.
    federation.carry("C-1-1", "C-1").await;
    assert_eq!(federation.courier_state("C-1", "C-1-1").await.waiting, 0);
}
