//! The main job over real hosts: figures up, notices down, whistles up and back.

use std::collections::BTreeMap;

use lianxi_proto::{
    admin::v1::{AddDeskRequest, StatusRequest},
    local::v1::{
        EscalationState, IssueNoticeRequest, MarkNoticeRequest, NoticeState,
        RaiseEscalationRequest, ShowEscalationRequest, ShowNoticeRequest, StepEscalationRequest,
        UnitFigures,
    },
    types::v1::{Escalation, EscalationKind, EscalationStep, Level, Notice, ReceiptStage, Scope},
};
use lianxi_tests::{
    federation::{Federation, count},
    wait::until,
};
use tonic::Code;

const ROWS: &str = "\
1,C-1-1-1,2011-07-01 08:00:00,2011-07-01 09:00:00,light,1 Main St
2,C-1-1-1,2011-07-02 08:00:00,,light,2 Main St
3,C-1-1-2,2011-07-03 08:00:00,2011-07-03 08:30:00,hole,3 Main St
4,C-1-2-1,2011-07-04 08:00:00,,hole,4 Main St
5,C-2-1-1,2011-07-05 08:00:00,,tree,5 Main St
6,C,2011-07-06 08:00:00,,tree,6 Main St
";

const HOSTS_WITH_ROWS: [&str; 4] = ["C", "C-1-1", "C-1-2", "C-2-1"];

async fn import_everywhere(federation: &Federation) {
    for host in HOSTS_WITH_ROWS {
        federation.import(host, ROWS).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_at_the_city_adds_up_every_units_own_records() {
    let federation = Federation::four_levels().await;
    import_everywhere(&federation).await;
    let figures = federation.pull("C", "2011-07").await;
    assert_eq!(figures.len(), 12);
    let subtree = |unit: &str, indicator| count(&figures[unit], indicator, Scope::Subtree);
    assert_eq!(subtree("C", "received"), 6);
    assert_eq!(subtree("C", "closed"), 2);
    assert_eq!(subtree("C-1", "received"), 4);
    assert_eq!(subtree("C-1-1", "received"), 3);
    assert_eq!(subtree("C-1-1-1", "received"), 2);
    assert_eq!(count(&figures["C"], "received", Scope::Own), 1);
    assert_eq!(count(&figures["C-1"], "received", Scope::Own), 0);
    for unit in figures.values() {
        let coverage = unit.summary.as_ref().unwrap().coverage.as_ref().unwrap();
        assert_eq!(coverage.included, coverage.expected, "{}", unit.unit);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_at_the_same_time_share_the_work_of_the_whole_tree() {
    let federation = Federation::four_levels().await;
    import_everywhere(&federation).await;
    let pull = |max_age_ms| federation.pull_at_most_old("C", "2011-07", max_age_ms);
    let ids = |figures: &BTreeMap<String, UnitFigures>| {
        figures.iter().map(|(unit, it)| (unit.clone(), it.statement_id.clone())).collect::<Vec<_>>()
    };
    // A live summary is signed once for each answer: the same ids are the same work.
    let (first, second) = tokio::join!(pull(600_000), pull(600_000));
    assert_eq!(first.len(), 12);
    assert_eq!(ids(&first), ids(&second));
    let fresh = pull(0).await;
    for (unit, figures) in &fresh {
        assert_ne!(figures.statement_id, first[unit].statement_id, "{unit}");
        assert_eq!(figures.cells.len(), first[unit].cells.len(), "{unit}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_import_of_the_same_rows_changes_nothing() {
    let federation = Federation::four_levels().await;
    let first = federation.import("C-1-1", ROWS).await;
    assert_eq!((first.imported, first.elsewhere, first.rejected), (3, 3, 0));
    let before = federation.pull("C", "2011-07").await;
    let second = federation.import("C-1-1", ROWS).await;
    assert_eq!((second.imported, second.updated, second.unchanged), (0, 0, 3));
    let after = federation.pull("C", "2011-07").await;
    for (unit, figures) in &before {
        assert_eq!(figures.cells, after[unit].cells, "{unit}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_one_street_stopped_the_totals_fall_by_its_subtree_and_the_coverage_names_it() {
    let mut federation = Federation::four_levels().await;
    import_everywhere(&federation).await;
    federation.stop("C-1-1").await;
    let figures = federation.pull("C", "2011-07").await;
    assert_eq!(figures.len(), 9);
    assert_eq!(count(&figures["C"], "received", Scope::Subtree), 3);
    assert_eq!(count(&figures["C-1"], "received", Scope::Subtree), 1);
    let coverage = figures["C"].summary.as_ref().unwrap().coverage.as_ref().unwrap();
    assert_eq!((coverage.expected, coverage.included, coverage.absent), (12, 9, 3));
    assert_eq!(coverage.gaps.len(), 1);
    assert_eq!((coverage.gaps[0].unit.as_str(), coverage.gaps[0].units), ("C-1-1", 3));
    assert_eq!(coverage.gaps[0].reason, "no-link");

    federation.start("C-1-1").await;
    federation.wait_for_link("C-1-1", true).await;
    let figures = federation.pull("C", "2011-07").await;
    assert_eq!(count(&figures["C"], "received", Scope::Subtree), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_roll_up_to_the_city_and_corrections_supersede_them() {
    let federation = Federation::four_levels().await;
    import_everywhere(&federation).await;
    for host in ["C-1-1", "C-1-2", "C-2-1"] {
        federation.publish(host, "2011-07").await;
    }
    wait_for_report(&federation, 6).await;
    let late = "7,C-1-1-1,2011-07-09 08:00:00,,light,7 Main St\n";
    federation.import("C-1-1", late).await;
    federation.publish("C-1-1", "2011-07").await;
    let report = wait_for_report(&federation, 7).await;
    let summary = report.summary.unwrap();
    assert!(summary.version > 1);
    assert_eq!(summary.supersedes.len(), 16);
}

async fn wait_for_report(federation: &Federation, received: u64) -> UnitFigures {
    until(&format!("a complete report of {received} at the city"), async || {
        let request = lianxi_proto::local::v1::ShowSummaryRequest {
            unit: "C".into(),
            of: String::new(),
            period: "2011-07".into(),
        };
        let shown = federation.client("C").summaries().show(request).await.ok()?.into_inner();
        let coverage = shown.summary.as_ref()?.coverage.as_ref()?;
        let complete = coverage.included == coverage.expected && coverage.expected == 12;
        (complete && count(&shown, "received", Scope::Subtree) == received).then_some(shown)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_renewed_at_half_life_and_used_without_a_restart() {
    const DAY_MS: i64 = 24 * 60 * 60 * 1000;
    let mut federation = Federation::city("C").await;
    federation.add_host("C-1", "C", Level::District).await;
    federation.wait_for_link("C-1", true).await;
    assert!(federation.host("C").renew_certificates().await.is_empty());
    federation.clock.shift_to(18 * DAY_MS);
    let renewed = federation.host("C").renew_certificates().await;
    assert_eq!(renewed, ["C".parse().unwrap()]);
    let renewed = federation.host("C-1").renew_certificates().await;
    assert_eq!(renewed, ["C-1".parse().unwrap()]);
    // The first certificates are over by then, and the parent was not started again.
    federation.clock.shift_to(40 * DAY_MS);
    federation.stop("C-1").await;
    federation.start("C-1").await;
    federation.wait_for_link("C-1", true).await;
}

fn notice(duty_item: &str) -> Notice {
    Notice {
        number: "〔2026〕17号".into(),
        title: "inspect street lights".into(),
        text: "before the first frost".into(),
        level: Level::Community.into(),
        duty_item: duty_item.into(),
        due_unix_ms: 4_000_000_000_000,
        ..Notice::default()
    }
}

async fn issue(federation: &Federation, notice: Notice) -> (Vec<u8>, u32) {
    let request = IssueNoticeRequest {
        unit: "C".into(),
        destination: "C-1".into(),
        notice: Some(notice),
        exercise: false,
    };
    let issued = federation.client("C").notices().issue(request).await.unwrap().into_inner();
    (issued.notice_id, issued.issued_to)
}

async fn wait_for_stage(
    federation: &Federation,
    notice_id: &[u8],
    stage: ReceiptStage,
    receipts: usize,
) -> NoticeState {
    until(&format!("{receipts} receipts of {stage:?}"), async || {
        let request = ShowNoticeRequest { unit: "C".into(), notice_id: notice_id.to_vec() };
        let state = federation.client("C").notices().show(request).await.ok()?.into_inner();
        let reached = state.recipients.iter().filter(|unit| unit.stage() == stage).count();
        (reached == receipts).then_some(state)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notice_reaches_every_community_of_one_district_and_its_receipts_come_back() {
    let federation = Federation::four_levels().await;
    let (notice_id, issued_to) = issue(&federation, notice("street-light-inspection")).await;
    assert_eq!(issued_to, 4);
    let state = wait_for_stage(&federation, &notice_id, ReceiptStage::Validated, 4).await;
    assert!(state.recipients.iter().all(|recipient| recipient.unit.starts_with("C-1-")));

    let mark = |stage: ReceiptStage| MarkNoticeRequest {
        unit: "C-1-2-1".into(),
        notice_id: notice_id.clone(),
        stage: stage.into(),
        note: "12 lamps checked".into(),
    };
    let community = federation.client("C-1-2-1");
    community.notices().mark(mark(ReceiptStage::Seen)).await.unwrap();
    community.notices().mark(mark(ReceiptStage::Done)).await.unwrap();
    wait_for_stage(&federation, &notice_id, ReceiptStage::Done, 1).await;
    let again = community.notices().mark(mark(ReceiptStage::Seen)).await.unwrap_err();
    assert_eq!(again.code(), Code::FailedPrecondition);

    let other = federation.client("C-2-1");
    let request = ShowNoticeRequest { unit: "C-2-1-1".into(), notice_id };
    assert_eq!(other.notices().show(request).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notice_reaches_more_children_than_one_batch_holds() {
    let mut federation = Federation::city("C").await;
    for number in 1..=130 {
        federation.add_unit(&format!("C-{number:03}"), "C", Level::Community).await;
    }
    federation.wait_for_catalogue("C-130").await;
    let request = IssueNoticeRequest {
        unit: "C".into(),
        destination: "C".into(),
        notice: Some(notice("street-light-inspection")),
        exercise: false,
    };
    let issued = federation.client("C").notices().issue(request).await.unwrap().into_inner();
    assert_eq!(issued.issued_to, 130);
    wait_for_stage(&federation, &issued.notice_id, ReceiptStage::Validated, 130).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notice_outside_the_duty_list_is_refused_by_the_receivers() {
    let federation = Federation::four_levels().await;
    let (notice_id, _) = issue(&federation, notice("fill-in-another-form")).await;
    let state = wait_for_stage(&federation, &notice_id, ReceiptStage::Refused, 4).await;
    assert!(state.recipients.iter().all(|unit| unit.reason == "outside-duty-list"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notice_reaches_a_street_that_was_offline() {
    let mut federation = Federation::four_levels().await;
    federation.stop("C-1-1").await;
    let (notice_id, _) = issue(&federation, notice("street-light-inspection")).await;
    wait_for_stage(&federation, &notice_id, ReceiptStage::Validated, 2).await;
    federation.start("C-1-1").await;
    wait_for_stage(&federation, &notice_id, ReceiptStage::Validated, 4).await;
}

async fn raise(federation: &Federation, desk: &str) -> EscalationState {
    let request = RaiseEscalationRequest {
        unit: "C-1-1".into(),
        destination: String::new(),
        escalation: Some(Escalation {
            number: "〔2026〕1号".into(),
            kind: EscalationKind::Emergency.into(),
            title: "gas smell at the market".into(),
            lead_desk: desk.into(),
            approved_by: "street head".into(),
            ..Escalation::default()
        }),
        exercise: false,
    };
    federation.client("C-1-1").escalations().raise(request).await.unwrap().into_inner()
}

async fn wait_for_step(federation: &Federation, unit: &str, id: &[u8], step: EscalationStep) {
    until(&format!("{step:?} at {unit}"), async || {
        let request = ShowEscalationRequest { unit: unit.to_owned(), escalation_id: id.to_vec() };
        let state = federation.client(unit).escalations().show(request).await.ok()?.into_inner();
        (state.state() == step).then_some(())
    })
    .await;
}

fn step(unit: &str, id: &[u8], step: EscalationStep, desk: &str) -> StepEscalationRequest {
    StepEscalationRequest {
        unit: unit.into(),
        escalation_id: id.to_vec(),
        step: step.into(),
        desk: desk.into(),
        note: String::new(),
    }
}

async fn add_gas_desk(federation: &Federation) {
    let desk = AddDeskRequest {
        unit: "C-1".into(),
        desk: "GAS".into(),
        title: "Gas supply".into(),
        line: "utilities".into(),
    };
    federation.client("C-1").node().add_desk(desk).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whistle_is_answered_by_a_desk_and_closed_by_the_street_alone() {
    let federation = Federation::four_levels().await;
    add_gas_desk(&federation).await;
    let raised = raise(&federation, "GAS").await;
    assert_eq!(raised.destination, "C-1");
    assert_eq!(raised.due_unix_ms - raised.raised_unix_ms, 600_000);
    let id = raised.escalation_id;
    wait_for_step(&federation, "C-1-1", &id, EscalationStep::Routed).await;

    let mut district = federation.client("C-1").escalations();
    let early = district.step(step("C-1", &id, EscalationStep::Arrived, "GAS")).await.unwrap_err();
    assert_eq!(early.code(), Code::FailedPrecondition);
    let closing = district.step(step("C-1", &id, EscalationStep::Closed, "")).await.unwrap_err();
    assert_eq!(closing.code(), Code::PermissionDenied);
    for next in [EscalationStep::Answered, EscalationStep::Arrived, EscalationStep::Handled] {
        district.step(step("C-1", &id, next, "GAS")).await.unwrap();
    }
    wait_for_step(&federation, "C-1-1", &id, EscalationStep::Handled).await;
    let mut street = federation.client("C-1-1").escalations();
    street.step(step("C-1-1", &id, EscalationStep::Closed, "")).await.unwrap();
    wait_for_step(&federation, "C-1", &id, EscalationStep::Closed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whistle_for_a_desk_that_does_not_exist_comes_back() {
    let federation = Federation::four_levels().await;
    let raised = raise(&federation, "WATER").await;
    wait_for_step(&federation, "C-1-1", &raised.escalation_id, EscalationStep::Returned).await;
}

/// Megabytes that a host keeps free, from its next start.
fn keep_free(federation: &Federation, unit: &str, reserve_mib: u64) {
    let path = federation.directory(unit).join("node.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(!text.contains("[store]"), "the host was set up with a table of its own");
    std::fs::write(&path, format!("{text}\n[store]\nreserve_mib = {reserve_mib}\n")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whistle_gets_through_where_the_disk_has_room_for_nothing_else() {
    let mut federation = Federation::four_levels().await;
    add_gas_desk(&federation).await;
    let status = |federation: &Federation| {
        let client = federation.client("C-1");
        async move { client.node().status(StatusRequest {}).await.unwrap().into_inner() }
    };
    let free_mib = status(&federation).await.free_disk_bytes / 1_048_576;
    federation.stop("C-1").await;
    let config = federation.directory("C-1").join("node.toml");
    let before = std::fs::read(&config).unwrap();
    keep_free(&federation, "C-1", free_mib * 2);
    federation.start("C-1").await;

    let (notice_id, _) = issue(&federation, notice("street-light-inspection")).await;
    until("the lane of notices rests, and says so", async || {
        let units = status(&federation).await.units;
        let own = units.iter().find(|unit| unit.unit == "C-1")?;
        own.parent_link_reason.starts_with("lane notice rests: the disk is full").then_some(())
    })
    .await;
    let id = raise(&federation, "GAS").await.escalation_id;
    wait_for_step(&federation, "C-1-1", &id, EscalationStep::Routed).await;
    let mut district = federation.client("C-1").escalations();
    district.step(step("C-1", &id, EscalationStep::Answered, "GAS")).await.unwrap();
    wait_for_step(&federation, "C-1-1", &id, EscalationStep::Answered).await;
    let units = status(&federation).await.units;
    assert!(units.iter().any(|unit| unit.parent_link_reason.starts_with("lane notice rests")));

    federation.stop("C-1").await;
    std::fs::write(&config, before).unwrap();
    federation.start("C-1").await;
    wait_for_stage(&federation, &notice_id, ReceiptStage::Validated, 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_that_is_full_takes_no_more_notices_until_its_peers_are_back() {
    let mut federation = Federation::city("C").await;
    federation.add_host("C-1", "C", Level::District).await;
    federation.wait_for_catalogue("C-1").await;
    federation.stop("C").await;
    let config = federation.directory("C").join("node.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("{text}\n[lanes]\nnotice_mib = 1\n")).unwrap();
    federation.start("C").await;
    federation.stop("C-1").await;

    let long = || IssueNoticeRequest {
        unit: "C".into(),
        destination: "C".into(),
        notice: Some(Notice {
            level: Level::District.into(),
            text: "All lamps. ".repeat(300),
            ..notice("street-light-inspection")
        }),
        exercise: false,
    };
    let mut issued = 0;
    let full = loop {
        match federation.client("C").notices().issue(long()).await {
            Ok(_) => issued += 1,
            Err(status) => break status,
        }
        assert!(issued < 1_000, "a megabyte holds no thousand notices");
    };
    assert_eq!(full.code(), Code::ResourceExhausted);
    assert!(full.message().contains("lane notice"), "{full}");
    let status = federation.client("C").node().status(StatusRequest {}).await.unwrap();
    let lanes = status.into_inner().units.remove(0).lanes;
    let [lane] = &lanes[..] else { panic!("{lanes:?}") };
    assert_eq!((&*lane.lane, lane.waiting, lane.budget_bytes), ("notice", issued, 1_048_576));
    assert!(lane.bytes > 1_000_000 && lane.bytes <= 1_048_576, "{}", lane.bytes);

    federation.start("C-1").await;
    until("the lane to be empty", async || {
        let status = federation.client("C").node().status(StatusRequest {}).await.unwrap();
        status.into_inner().units[0].lanes.is_empty().then_some(())
    })
    .await;
    federation.client("C").notices().issue(long()).await.unwrap();
}
