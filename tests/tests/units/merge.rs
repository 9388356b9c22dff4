//! A unit merges into its sibling on its day (撤并): what it has open goes to that, its figures go on
//! to count, and it ends.

use jiff::{Span, Timestamp, civil::Date, tz::TimeZone};
use lianxi_proto::{
    admin::v1::{
        AddDeskRequest, ListReformsRequest, MergeRequest, QuarantineRequest, Reform, StatusRequest,
    },
    local::v1::{
        EscalationState, IssueNoticeRequest, MarkNoticeRequest, NoticeState,
        RaiseEscalationRequest, ShowEscalationRequest, ShowNoticeRequest, ShowSummaryRequest,
        StepEscalationRequest, UnitFigures,
    },
    types::v1::{Escalation, EscalationKind, EscalationStep, Level, Notice, ReceiptStage, Scope},
};
use lianxi_tests::{
    acts::acts,
    binary::run,
    federation::{Federation, count},
    wait::until,
};
use tonic::{Code, Status};

pub(super) const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// Days from today to the day of the merge.
pub(super) const AHEAD: i64 = 7;

async fn merge(
    federation: &Federation,
    by: &str,
    merging: &str,
    into: &str,
    days: i64,
    dry_run: bool,
) -> Result<Reform, Status> {
    let request = MergeRequest {
        unit: by.into(),
        merging: merging.into(),
        into: into.into(),
        on: day(days),
        text: "one street of two".into(),
        dry_run,
    };
    let answer = federation.client(by).reforms().merge(request).await?;
    Ok(answer.into_inner().reform.unwrap())
}

/// The civil day `days` after today, where the kit's catalogue says that days begin.
pub(super) fn date(days: i64) -> Date {
    let zone = TimeZone::get("America/New_York").unwrap();
    Timestamp::now().to_zoned(zone).date().saturating_add(Span::new().days(days))
}

pub(super) fn day(days: i64) -> String {
    date(days).to_string()
}

/// A month, with a day in its middle: the one before that of the merge, or that one itself.
pub(super) fn month(of_merge: bool) -> (String, String) {
    let mut first = date(AHEAD).first_of_month();
    if !of_merge {
        first = first.saturating_sub(Span::new().days(1)).first_of_month();
    }
    let text = first.to_string();
    (text[..7].to_owned(), format!("{}-15", &text[..7]))
}

pub(super) async fn reform(federation: &Federation, unit: &str, id: &[u8]) -> Option<Reform> {
    let request = ListReformsRequest { unit: unit.into(), id: id.to_vec() };
    let listed = federation.client(unit).reforms().list(request).await.ok()?;
    listed.into_inner().reforms.pop()
}

pub(super) async fn wait_for_answers(federation: &Federation, by: &str, id: &[u8]) -> Reform {
    until("the answers of all three", async || {
        let seen = reform(federation, by, id).await?;
        seen.silent.is_empty().then_some(seen)
    })
    .await
}

pub(super) async fn parent_of(federation: &Federation, unit: &str) -> String {
    let status = federation.client(unit).node().status(StatusRequest {}).await.unwrap();
    let units = status.into_inner().units;
    units.into_iter().find(|status| status.unit == unit).unwrap().parent
}

/// Lets the day come and waits until the unit has ended, as `by` knows.
async fn let_it_end(federation: &Federation, by: &str, hosts: &[&str], id: &[u8]) {
    federation.clock.shift_to((AHEAD + 1) * DAY_MS);
    until("the end of the unit", async || {
        for host in hosts {
            federation.host(host).carry_reforms_on().await;
        }
        reform(federation, by, id).await?.ended.then_some(())
    })
    .await;
}

pub(super) async fn reported(
    federation: &Federation,
    at: &str,
    of: &str,
    period: &str,
) -> Option<UnitFigures> {
    let request = ShowSummaryRequest { unit: at.into(), of: of.into(), period: period.into() };
    Some(federation.client(at).summaries().show(request).await.ok()?.into_inner())
}

pub(super) async fn wait_for_count(federation: &Federation, at: &str, period: &str, received: u64) {
    until(&format!("{received} cases at {at} for {period}"), async || {
        let figures = reported(federation, at, at, period).await?;
        let held = count(&figures, "received", Scope::Subtree);
        let coverage = figures.summary?.coverage?;
        (held == received && coverage.included == coverage.expected).then_some(())
    })
    .await;
}

pub(super) async fn nothing_is_quarantined(federation: &Federation) {
    for unit in federation.units() {
        let request = QuarantineRequest { unit: unit.clone(), ..QuarantineRequest::default() };
        let listed = federation.client(&unit).node().quarantine(request).await.unwrap();
        let listed = listed.into_inner().statements;
        assert!(listed.is_empty(), "at {unit}: {listed:?}");
    }
}

pub(super) fn rows(from: u32, unit: &str, of: &[(u32, &str)]) -> String {
    let mut number = from;
    let mut rows = String::new();
    for (count, day) in of {
        for _ in 0..*count {
            rows.push_str(&format!("{number},{unit},{day} 08:00:00,,light,1 Main St\n"));
            number += 1;
        }
    }
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn a_community_merges_and_every_figure_stays_in_one_total() {
    let federation = Federation::four_levels().await;
    let ((before, in_before), (after, in_after)) = (month(false), month(true));
    for (host, from, unit, of) in [
        ("C-1-1", 100, "C-1-1-1", [(2, in_before.as_str()), (3, in_after.as_str())]),
        ("C-1-1", 200, "C-1-1-2", [(1, &in_before), (4, &in_after)]),
        ("C-1-2", 300, "C-1-2-1", [(5, &in_before), (6, &in_after)]),
    ] {
        federation.import(host, &rows(from, unit, &of)).await;
    }
    for host in ["C-1-1", "C-1-2", "C-2-1", "C-1", "C-2", "C"] {
        federation.publish(host, &before).await;
    }
    wait_for_count(&federation, "C", &before, 8).await;

    let asked = merge(&federation, "C-1-1", "C-1-1-1", "C-1-1-2", AHEAD, true).await.unwrap();
    let answered = wait_for_answers(&federation, "C-1-1", &asked.id).await;
    let of_unit = answered.answers.iter().find(|answer| answer.unit == "C-1-1-1").unwrap();
    assert_eq!((of_unit.records, of_unit.successor.as_str()), (5, "C-1-1-2"));
    let ordered = merge(&federation, "C-1-1", "C-1-1-1", "C-1-1-2", AHEAD, false).await.unwrap();
    wait_for_answers(&federation, "C-1-1", &ordered.id).await;
    federation.host("C-1-1").carry_reforms_on().await;
    assert_eq!(parent_of(&federation, "C-1-1-1").await, "C-1-1", "not before its day");
    let_it_end(&federation, "C-1-1", &["C-1-1"], &ordered.id).await;

    for host in ["C-1-1", "C-1-2", "C-2-1", "C-1", "C-2", "C"] {
        for period in [&before, &after] {
            federation.publish(host, period).await;
        }
    }
    // The month of the merge is the successor's, with what the merged unit had in it.
    wait_for_count(&federation, "C-1-1-2", &after, 7).await;
    wait_for_count(&federation, "C-1-1-2", &before, 1).await;
    for (unit, of_before, of_after) in [("C-1-1", 3, 7), ("C-1", 8, 13), ("C", 8, 13)] {
        wait_for_count(&federation, unit, &before, of_before).await;
        wait_for_count(&federation, unit, &after, of_after).await;
    }
    let pulled = federation.pull("C", &after).await;
    assert_eq!(count(&pulled["C"], "received", Scope::Subtree), 13, "live as reported");
    let figures = reported(&federation, "C-1-1-2", "C-1-1-2", &after).await.unwrap();
    let [change] = figures.scope_changes.as_slice() else { panic!("{:?}", figures.scope_changes) };
    assert_eq!((change.moving.as_str(), change.came), ("C-1-1-1", true));
    let comparable = figures.comparable_cells.iter().find(|cell| cell.indicator == "received");
    let comparable = comparable.unwrap().component.clone().unwrap().value.unwrap();
    assert_eq!(comparable, lianxi_proto::types::v1::component::Value::Count(4));

    // Nobody works as the merged unit any more; it can still be looked at.
    let refused = federation
        .client("C-1-1-1")
        .summaries()
        .publish(lianxi_proto::local::v1::PublishSummaryRequest {
            units: vec!["C-1-1-1".into()],
            period: after.clone(),
        })
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("C-1-1-2"), "{refused}");
    let place = tempfile::tempdir().unwrap();
    let dir = federation.directory("C-1-1");
    let dir = dir.to_str().unwrap();
    let _ = run(place.path(), ["pack", "root", "--out", "root.pub", "--dir", dir]).await.succeeds();
    for (unit, period) in [("C-1-1", &before), ("C-1-1", &after), ("C-1-1-2", &after)] {
        let file = format!("{unit}-{period}.lianxi");
        let export = ["pack", "export", "--period", period, "--unit", unit, "--dir", dir];
        let _ = run(place.path(), [&export[..], &["--out", &file]].concat()).await.succeeds();
        let verified = run(place.path(), ["verify", &file, "--root", "root.pub"]).await.succeeds();
        let of_it = verified.lines().find(|line| line.contains("C-1-1-1"));
        let of_it = of_it.unwrap_or_else(|| panic!("{unit} {period}: {verified}"));
        assert!(!of_it.contains("refused"), "{unit} {period}: {verified}");
    }
    nothing_is_quarantined(&federation).await;
}

pub(super) async fn issue(
    federation: &Federation,
    by: &str,
    to: &str,
    level: Level,
    number: &str,
) -> Vec<u8> {
    let notice = Notice {
        number: number.into(),
        title: "clear fire exit".into(),
        text: "text".into(),
        level: level.into(),
        duty_item: "street-light-inspection".into(),
        due_unix_ms: 4_000_000_000_000,
        ..Notice::default()
    };
    let request = IssueNoticeRequest {
        unit: by.into(),
        destination: to.into(),
        notice: Some(notice),
        exercise: false,
    };
    federation.client(by).notices().issue(request).await.unwrap().into_inner().notice_id
}

pub(super) async fn notice(federation: &Federation, at: &str, id: &[u8]) -> Option<NoticeState> {
    let request = ShowNoticeRequest { unit: at.into(), notice_id: id.to_vec() };
    Some(federation.client(at).notices().show(request).await.ok()?.into_inner())
}

/// Waits until `at` knows that `unit` is at `stage`.
pub(super) async fn wait_for_stage(
    federation: &Federation,
    at: &str,
    id: &[u8],
    unit: &str,
    stage: ReceiptStage,
) {
    until(&format!("{stage:?} of {unit} at {at}"), async || {
        let state = notice(federation, at, id).await?;
        state.recipients.iter().any(|one| one.unit == unit && one.stage() == stage).then_some(())
    })
    .await;
}

pub(super) async fn mark(
    federation: &Federation,
    unit: &str,
    id: &[u8],
    stage: ReceiptStage,
) -> Result<(), Status> {
    let request = MarkNoticeRequest {
        unit: unit.into(),
        notice_id: id.to_vec(),
        stage: stage.into(),
        note: "cleared".into(),
    };
    federation.client(unit).notices().mark(request).await.map(drop)
}

pub(super) async fn case(federation: &Federation, at: &str, id: &[u8]) -> Option<EscalationState> {
    let request = ShowEscalationRequest { unit: at.into(), escalation_id: id.to_vec() };
    Some(federation.client(at).escalations().show(request).await.ok()?.into_inner())
}

pub(super) async fn wait_for_case(
    federation: &Federation,
    at: &str,
    id: &[u8],
    step: EscalationStep,
) {
    until(&format!("{step:?} at {at}"), async || {
        (case(federation, at, id).await?.state() == step).then_some(())
    })
    .await;
}

pub(super) async fn step(
    federation: &Federation,
    unit: &str,
    id: &[u8],
    step: EscalationStep,
    desk: &str,
) -> Result<(), Status> {
    let request = StepEscalationRequest {
        unit: unit.into(),
        escalation_id: id.to_vec(),
        step: step.into(),
        desk: desk.into(),
        note: String::new(),
    };
    federation.client(unit).escalations().step(request).await.map(drop)
}

pub(super) async fn raise(federation: &Federation, by: &str, to: &str, number: &str) -> Vec<u8> {
    let escalation = Escalation {
        number: number.into(),
        kind: EscalationKind::Emergency.into(),
        title: "gas smell".into(),
        text: "at the market hall".into(),
        lead_desk: "GAS".into(),
        answer_within_ms: 600_000,
        arrive_within_ms: 1_800_000,
        approved_by: "street head".into(),
        ..Escalation::default()
    };
    let request = RaiseEscalationRequest {
        unit: by.into(),
        destination: to.into(),
        escalation: Some(escalation),
        exercise: false,
    };
    federation.client(by).escalations().raise(request).await.unwrap().into_inner().escalation_id
}

pub(super) async fn add_desk(federation: &Federation, unit: &str, desk: &str) {
    let desk = AddDeskRequest {
        unit: unit.into(),
        desk: desk.into(),
        title: desk.to_lowercase(),
        line: "utilities".into(),
    };
    federation.client(unit).node().add_desk(desk).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_street_merges_with_its_communities_and_what_it_has_open_goes_on_at_its_successor() {
    let federation = Federation::four_levels().await;
    add_desk(&federation, "C-1", "GAS").await;
    let (_, (after, in_after)) = (month(false), month(true));
    let of = [(3, in_after.as_str())];
    federation.import("C-1-1", &rows(100, "C-1-1", &of)).await;
    federation.import("C-1-1", &rows(200, "C-1-1-1", &of)).await;
    federation.import("C-1-2", &rows(300, "C-1-2-1", &of)).await;
    let to_all = issue(&federation, "C-1", "C-1", Level::Street, "〔2026〕1号").await;
    let to_one = issue(&federation, "C", "C-1-1", Level::Street, "〔2026〕2号").await;
    let by_it = issue(&federation, "C-1-1", "C-1-1", Level::Community, "〔2026〕3号").await;
    let whistle = raise(&federation, "C-1-1", "C-1", "〔2026〕1号").await;
    wait_for_case(&federation, "C-1-1", &whistle, EscalationStep::Routed).await;
    for id in [&to_all, &to_one] {
        wait_for_stage(&federation, "C-1", id, "C-1-1", ReceiptStage::Validated).await;
    }
    wait_for_stage(&federation, "C-1", &to_all, "C-1-2", ReceiptStage::Validated).await;
    for unit in ["C-1-1-1", "C-1-1-2"] {
        wait_for_stage(&federation, "C-1-1", &by_it, unit, ReceiptStage::Validated).await;
    }
    // Its successor is done with its own part of the task: that of the merged street is open.
    mark(&federation, "C-1-2", &to_all, ReceiptStage::Done).await.unwrap();
    let due = case(&federation, "C-1-1", &whistle).await.unwrap().due_unix_ms;

    let ordered = merge(&federation, "C-1", "C-1-1", "C-1-2", AHEAD, false).await.unwrap();
    let answered = wait_for_answers(&federation, "C-1", &ordered.id).await;
    assert_eq!(answered.children, ["C-1-1-1", "C-1-1-2"]);
    let of_unit = answered.answers.iter().find(|answer| answer.unit == "C-1-1").unwrap();
    assert_eq!((of_unit.notices, of_unit.escalations, of_unit.clocks), (3, 1, 4));
    assert_eq!(of_unit.successor, "C-1-2");
    let_it_end(&federation, "C-1", &["C-1-1", "C-1-2", "C-1"], &ordered.id).await;
    for unit in ["C-1-1-1", "C-1-1-2"] {
        until("its communities under its successor", async || {
            (parent_of(&federation, unit).await == "C-1-2").then_some(())
        })
        .await;
        federation.wait_for_link(unit, true).await;
    }

    // The whistle goes on with its clocks, the desk hears of the successor, and that closes.
    let seen = case(&federation, "C-1-2", &whistle).await.unwrap();
    assert_eq!((seen.state(), seen.due_unix_ms), (EscalationStep::Routed, due), "clocks run on");
    for one in [EscalationStep::Answered, EscalationStep::Arrived, EscalationStep::Handled] {
        step(&federation, "C-1", &whistle, one, "GAS").await.unwrap();
        wait_for_case(&federation, "C-1-2", &whistle, one).await;
    }
    let refused =
        step(&federation, "C-1-1", &whistle, EscalationStep::Closed, "").await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    step(&federation, "C-1-2", &whistle, EscalationStep::Closed, "").await.unwrap();
    wait_for_case(&federation, "C-1", &whistle, EscalationStep::Closed).await;

    // Tasks that it had are done in its place, and its issuers learn of it.
    for (issuer, id) in [("C-1", &to_all), ("C", &to_one)] {
        mark(&federation, "C-1-2", id, ReceiptStage::Done).await.unwrap();
        wait_for_stage(&federation, issuer, id, "C-1-1", ReceiptStage::Done).await;
    }
    let twice = mark(&federation, "C-1-2", &to_all, ReceiptStage::Done).await.unwrap_err();
    assert_eq!(twice.code(), Code::FailedPrecondition);
    // What it had asked of its communities is answered to its successor.
    mark(&federation, "C-1-1-1", &by_it, ReceiptStage::Done).await.unwrap();
    wait_for_stage(&federation, "C-1-2", &by_it, "C-1-1-1", ReceiptStage::Done).await;
    let seen = notice(&federation, "C-1-2", &by_it).await.unwrap();
    assert!(seen.recipients.iter().any(|one| one.note == "cleared"), "{:?}", seen.recipients);
    // A new task goes to the one street that is left.
    let new = issue(&federation, "C-1", "C-1", Level::Street, "〔2026〕4号").await;
    wait_for_stage(&federation, "C-1", &new, "C-1-2", ReceiptStage::Validated).await;
    assert_eq!(notice(&federation, "C-1", &new).await.unwrap().recipients.len(), 1);

    for host in ["C-1-1", "C-1-2", "C-2-1", "C-1", "C-2", "C"] {
        federation.publish(host, &after).await;
    }
    for (unit, received) in [("C-1-2", 9), ("C-1", 9), ("C", 9)] {
        wait_for_count(&federation, unit, &after, received).await;
    }
    for (unit, act) in [
        ("C-1", "unit.merge"),
        ("C-1-2", "unit.merge"),
        ("C-1-1", "unit.move"),
        ("C-1-1", "unit.hand-over"),
        ("C-1-2", "unit.reparent"),
        ("C-1", "node.revoke"),
    ] {
        let acts = acts(&federation, unit).await;
        assert!(acts.iter().any(|one| one.name == act), "{act} at {unit}");
    }
    nothing_is_quarantined(&federation).await;
}
