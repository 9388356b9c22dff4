//! A street with its communities comes under another district: dated, by an order from above both.

use jiff::{Span, Timestamp, civil::Date, tz::TimeZone};
use lianxi_node::services::reforms::Due;
use lianxi_proto::{
    admin::v1::{
        AddDeskRequest, ListReformsRequest, QuarantineRequest, Reform, ReparentRequest,
        StatusRequest,
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
use tonic::Status;

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// Days from today to the day of the move.
const AHEAD: i64 = 7;

/// Orders `moving` under `to` from the day `days` after today on.
async fn reparent(
    federation: &Federation,
    by: &str,
    moving: &str,
    to: &str,
    days: i64,
    dry_run: bool,
) -> Result<Reform, Status> {
    let request = ReparentRequest {
        unit: by.into(),
        moving: moving.into(),
        to: to.into(),
        on: day(days),
        text: "reform of the districts".into(),
        dry_run,
    };
    let answer = federation.client(by).reforms().reparent(request).await?;
    Ok(answer.into_inner().reform.unwrap())
}

/// The civil day `days` after today, where the kit's catalogue says that days begin.
fn date(days: i64) -> Date {
    let zone = TimeZone::get("America/New_York").unwrap();
    Timestamp::now().to_zoned(zone).date().saturating_add(Span::new().days(days))
}

fn day(days: i64) -> String {
    date(days).to_string()
}

/// A month, with a day in its middle: the one before that of the move, or that one itself.
fn month(of_move: bool) -> (String, String) {
    let mut first = date(AHEAD).first_of_month();
    if !of_move {
        first = first.saturating_sub(Span::new().days(1)).first_of_month();
    }
    let text = first.to_string();
    (text[..7].to_owned(), format!("{}-15", &text[..7]))
}

async fn reform(federation: &Federation, unit: &str, id: &[u8]) -> Option<Reform> {
    let request = ListReformsRequest { unit: unit.into(), id: id.to_vec() };
    let listed = federation.client(unit).reforms().list(request).await.ok()?;
    listed.into_inner().reforms.pop()
}

/// Waits until the new parent has invited and the unit has that.
async fn wait_for_answers(federation: &Federation, by: &str, id: &[u8]) -> Reform {
    until("the answers of all three", async || {
        let seen = reform(federation, by, id).await?;
        seen.silent.is_empty().then_some(seen)
    })
    .await
}

async fn parent_of(federation: &Federation, unit: &str) -> String {
    let status = federation.client(unit).node().status(StatusRequest {}).await.unwrap();
    let units = status.into_inner().units;
    units.into_iter().find(|status| status.unit == unit).unwrap().parent
}

/// Carries the reforms of some hosts on, as they do by themselves every minute.
async fn carry_on(federation: &Federation, hosts: &[&str]) {
    for host in hosts {
        federation.host(host).carry_reforms_on().await;
    }
}

async fn reported(
    federation: &Federation,
    at: &str,
    of: &str,
    period: &str,
) -> Option<UnitFigures> {
    let request = ShowSummaryRequest { unit: at.into(), of: of.into(), period: period.into() };
    Some(federation.client(at).summaries().show(request).await.ok()?.into_inner())
}

async fn wait_for_count(federation: &Federation, at: &str, period: &str, received: u64) {
    until(&format!("{received} cases at {at} for {period}"), async || {
        let figures = reported(federation, at, at, period).await?;
        let held = count(&figures, "received", Scope::Subtree);
        let coverage = figures.summary?.coverage?;
        (held == received && coverage.included == coverage.expected).then_some(())
    })
    .await;
}

/// Orders the move of C-1-1 from C-1 to C-2, and waits until all have answered and the street has
/// its invitation.
async fn order(federation: &Federation) -> Reform {
    let ordered = reparent(federation, "C", "C-1-1", "C-2", AHEAD, false).await.unwrap();
    let answered = wait_for_answers(federation, "C", &ordered.id).await;
    until("the invitation at the street", async || {
        let hosted = federation.host("C-1-1").units().get(&"C-1-1".parse().unwrap())?;
        let due = hosted.reforms.due(i64::MAX).await.unwrap();
        due.iter().any(|due| matches!(due, Due::Move(_))).then_some(())
    })
    .await;
    answered
}

/// Lets the day come, at the hosts that run.
async fn let_the_day_come(federation: &Federation) {
    federation.clock.shift_to((AHEAD + 1) * DAY_MS);
    until("the street under its new parent", async || {
        carry_on(federation, &["C-1-1"]).await;
        (parent_of(federation, "C-1-1").await == "C-2").then_some(())
    })
    .await;
    federation.wait_for_link("C-1-1", true).await;
}

async fn wait_for_release(federation: &Federation, id: &[u8]) {
    until("the old parent to have let it go", async || {
        let seen = reform(federation, "C", id).await?;
        (seen.released_unix_ms > 0).then_some(())
    })
    .await;
}

/// Nobody has refused anything of anybody.
async fn nothing_is_quarantined(federation: &Federation) {
    for unit in federation.units() {
        let request = QuarantineRequest { unit: unit.clone(), ..QuarantineRequest::default() };
        let listed = federation.client(&unit).node().quarantine(request).await.unwrap();
        let listed = listed.into_inner().statements;
        assert!(listed.is_empty(), "at {unit}: {listed:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_street_moves_with_its_communities_on_its_day() {
    let federation = Federation::four_levels().await;
    let rows = "1,C-1-1-1,2011-07-01 08:00:00,,light,1 Main St\n";
    federation.import("C-1-1", rows).await;
    let asked = reparent(&federation, "C", "C-1-1", "C-2", AHEAD, true).await.unwrap();
    let answered = wait_for_answers(&federation, "C", &asked.id).await;
    assert_eq!(answered.answers.len(), 3);
    assert!(answered.answers.iter().all(|answer| answer.refused.is_empty()));
    carry_on(&federation, &["C-1-1", "C-2"]).await;
    let listed = ListReformsRequest { unit: "C".into(), id: Vec::new() };
    let listed = federation.client("C").reforms().list(listed).await.unwrap().into_inner();
    assert_eq!(listed.reforms, [], "a dry run orders nothing");

    let ordered = order(&federation).await;
    carry_on(&federation, &["C-1-1"]).await;
    assert_eq!(parent_of(&federation, "C-1-1").await, "C-1", "not before its day");
    let again = reparent(&federation, "C", "C-1-1", "C-2", AHEAD, false).await.unwrap();
    assert_eq!(again.id, ordered.id, "given again it is the same order");
    let other = reparent(&federation, "C", "C-1-1", "C-2", AHEAD + 1, false).await.unwrap_err();
    assert!(other.message().contains("already"), "{other}");

    let_the_day_come(&federation).await;
    wait_for_release(&federation, &ordered.id).await;
    for unit in ["C-1-1-1", "C-1-1-2"] {
        federation.wait_for_link(unit, true).await;
        assert_eq!(parent_of(&federation, unit).await, "C-1-1");
    }
    for (unit, act) in [
        ("C", "unit.reparent"),
        ("C-2", "unit.reparent"),
        ("C-1-1", "unit.move"),
        ("C-1", "unit.release"),
    ] {
        let acts = acts(&federation, unit).await;
        assert!(
            acts.iter().any(|one| one.name == act && one.subject == "C-1-1"),
            "{act} at {unit}"
        );
    }
    // Its old parent counts it no more, the new one does; the whole city is still there.
    until("each unit in the figures of one district", async || {
        let (old, new) =
            (federation.pull("C-1", "2030").await, federation.pull("C-2", "2030").await);
        let included = |pulled: &std::collections::BTreeMap<String, UnitFigures>, unit: &str| {
            pulled[unit].summary.as_ref().unwrap().coverage.as_ref().unwrap().included
        };
        ((included(&old, "C-1"), included(&new, "C-2")) == (4, 7)).then_some(())
    })
    .await;
    nothing_is_quarantined(&federation).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_period_is_in_the_totals_of_the_parent_of_its_last_day_and_of_no_other() {
    let federation = Federation::four_levels().await;
    let ((before, in_before), (after, in_after)) = (month(false), month(true));
    let rows = |from: u32, unit: &str, of_before: u32, of_after: u32| -> String {
        let row = |number, day: &str| format!("{number},{unit},{day} 08:00:00,,light,1 Main St\n");
        let one = (0..of_before).map(|number| row(from + number, &in_before));
        let two = (of_before..of_before + of_after).map(|number| row(from + number, &in_after));
        one.chain(two).collect()
    };
    // What a flat count over all records has, by the units that they are of.
    for (host, from, unit, of_before, of_after) in [
        ("C-1-1", 100, "C-1-1-1", 2, 3),
        ("C-1-1", 200, "C-1-1-2", 1, 4),
        ("C-1-2", 300, "C-1-2-1", 5, 6),
        ("C-2-1", 400, "C-2-1-1", 7, 8),
    ] {
        federation.import(host, &rows(from, unit, of_before, of_after)).await;
    }
    for period in [&before, &after] {
        for host in ["C-1-1", "C-1-2", "C-2-1", "C-1", "C-2", "C"] {
            federation.publish(host, period).await;
        }
    }
    wait_for_count(&federation, "C", &before, 15).await;
    wait_for_count(&federation, "C", &after, 21).await;
    wait_for_count(&federation, "C-1", &after, 13).await;
    let place = tempfile::tempdir().unwrap();
    let dir = federation.directory("C");
    let dir = dir.to_str().unwrap();
    let export = ["pack", "export", "--period", &before, "--unit", "C", "--dir", dir, "--out"];
    let _ = run(place.path(), ["pack", "root", "--out", "root.pub", "--dir", dir]).await.succeeds();
    let _ = run(place.path(), [&export[..], &["old.lianxi"]].concat()).await.succeeds();

    let ordered = order(&federation).await;
    let_the_day_come(&federation).await;
    wait_for_release(&federation, &ordered.id).await;
    // The month of the move is the new parent's as a whole, the one before stays the old one's.
    wait_for_count(&federation, "C-2", &after, 3 + 4 + 8).await;
    wait_for_count(&federation, "C-1", &after, 6).await;
    wait_for_count(&federation, "C", &after, 21).await;
    wait_for_count(&federation, "C-1", &before, 8).await;
    wait_for_count(&federation, "C-2", &before, 7).await;
    // A correction of the month before finds its way to the old parent.
    federation.import("C-1-1", &rows(500, "C-1-1-1", 1, 1)).await;
    for period in [&before, &after] {
        federation.publish("C-1-1", period).await;
    }
    wait_for_count(&federation, "C-1", &before, 9).await;
    wait_for_count(&federation, "C-2", &before, 7).await;
    wait_for_count(&federation, "C", &before, 16).await;
    wait_for_count(&federation, "C-2", &after, 16).await;
    wait_for_count(&federation, "C", &after, 22).await;

    check_marks(&federation, (&before, &after)).await;
    // What was exported before the move holds, and so does what is exported of that time now.
    let _ = run(place.path(), [&export[..], &["new.lianxi"]].concat()).await.succeeds();
    for file in ["old.lianxi", "new.lianxi"] {
        let _ = run(place.path(), ["verify", file, "--root", "root.pub"]).await.succeeds();
    }
    let export = ["pack", "export", "--period", &after, "--unit", "C", "--dir", dir, "--out"];
    let _ = run(place.path(), [&export[..], &["after.lianxi"]].concat()).await.succeeds();
    let _ = run(place.path(), ["verify", "after.lianxi", "--root", "root.pub"]).await.succeeds();
    nothing_is_quarantined(&federation).await;
}

/// Both parents say since when their figures are of another scope, the new one also what they are on
/// the old one; the city, which has both, says nothing.
async fn check_marks(federation: &Federation, (before, after): (&str, &str)) {
    let figures = reported(federation, "C-2", "C-2", after).await.unwrap();
    let [change] = figures.scope_changes.as_slice() else { panic!("{:?}", figures.scope_changes) };
    assert_eq!((change.moving.as_str(), change.came, change.units), ("C-1-1", true, 3));
    assert_eq!(change.from_day, day(AHEAD));
    let comparable = figures.comparable_cells.iter().find(|cell| cell.indicator == "received");
    let comparable = comparable.unwrap().component.clone().unwrap().value.unwrap();
    assert_eq!(comparable, lianxi_proto::types::v1::component::Value::Count(8));
    let figures = reported(federation, "C-1", "C-1", after).await.unwrap();
    let [change] = figures.scope_changes.as_slice() else { panic!("{:?}", figures.scope_changes) };
    assert_eq!((change.moving.as_str(), change.came), ("C-1-1", false));
    for (at, of, period) in [("C-2", "C-2", before), ("C-1", "C-1", before), ("C", "C", after)] {
        let figures = reported(federation, at, of, period).await.unwrap();
        assert_eq!(figures.scope_changes, [], "{of} for {period}");
        assert_eq!(figures.comparable_cells, []);
    }
    let figures = reported(federation, "C", "C-1", after).await.unwrap();
    assert_eq!(figures.scope_changes.len(), 1, "the city marks what its districts report");
}

fn notice(number: &str) -> Notice {
    Notice {
        number: number.into(),
        title: "clear fire exit".into(),
        text: "text".into(),
        level: Level::Community.into(),
        duty_item: "street-light-inspection".into(),
        due_unix_ms: 4_000_000_000_000,
        ..Notice::default()
    }
}

async fn issue(federation: &Federation, by: &str, number: &str) -> Vec<u8> {
    let request = IssueNoticeRequest {
        unit: by.into(),
        destination: "C-1-1".into(),
        notice: Some(notice(number)),
        exercise: false,
    };
    federation.client(by).notices().issue(request).await.unwrap().into_inner().notice_id
}

async fn shown(federation: &Federation, at: &str, id: &[u8]) -> Option<NoticeState> {
    let request = ShowNoticeRequest { unit: at.into(), notice_id: id.to_vec() };
    Some(federation.client(at).notices().show(request).await.ok()?.into_inner())
}

async fn wait_for_stage(federation: &Federation, at: &str, id: &[u8], stage: ReceiptStage) {
    until(&format!("{stage:?} at {at}"), async || {
        let state = shown(federation, at, id).await?;
        state.recipients.iter().any(|unit| unit.stage() == stage).then_some(())
    })
    .await;
}

async fn mark_done(federation: &Federation, unit: &str, id: &[u8]) {
    let request = MarkNoticeRequest {
        unit: unit.into(),
        notice_id: id.to_vec(),
        stage: ReceiptStage::Done.into(),
        note: String::new(),
    };
    federation.client(unit).notices().mark(request).await.unwrap();
}

async fn case(federation: &Federation, at: &str, id: &[u8]) -> Option<EscalationState> {
    let request = ShowEscalationRequest { unit: at.into(), escalation_id: id.to_vec() };
    Some(federation.client(at).escalations().show(request).await.ok()?.into_inner())
}

async fn wait_for_case(federation: &Federation, at: &str, id: &[u8], step: EscalationStep) {
    until(&format!("{step:?} at {at}"), async || {
        (case(federation, at, id).await?.state() == step).then_some(())
    })
    .await;
}

async fn step(federation: &Federation, unit: &str, id: &[u8], step: EscalationStep, desk: &str) {
    let request = StepEscalationRequest {
        unit: unit.into(),
        escalation_id: id.to_vec(),
        step: step.into(),
        desk: desk.into(),
        note: String::new(),
    };
    federation.client(unit).escalations().step(request).await.unwrap();
}

async fn raise(federation: &Federation) -> Vec<u8> {
    let escalation = Escalation {
        number: "〔2026〕1号".into(),
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
        unit: "C-1-1".into(),
        destination: "C-1".into(),
        escalation: Some(escalation),
        exercise: false,
    };
    let raised = federation.client("C-1-1").escalations().raise(request).await.unwrap();
    raised.into_inner().escalation_id
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_open_between_the_unit_and_its_old_parent_goes_on() {
    let federation = Federation::four_levels().await;
    let desk = AddDeskRequest {
        unit: "C-1".into(),
        desk: "GAS".into(),
        title: "gas".into(),
        line: "utilities".into(),
    };
    federation.client("C-1").node().add_desk(desk).await.unwrap();
    let by_city = issue(&federation, "C", "〔2026〕1号").await;
    let by_district = issue(&federation, "C-1", "〔2026〕2号").await;
    let whistle = raise(&federation).await;
    wait_for_case(&federation, "C-1-1", &whistle, EscalationStep::Routed).await;
    for id in [&by_city, &by_district] {
        wait_for_stage(&federation, "C-1-1-1", id, ReceiptStage::Validated).await;
    }
    let ordered = order(&federation).await;
    let of =
        |unit: &str| ordered.answers.iter().find(|answer| answer.unit == unit).unwrap().clone();
    let street = of("C-1-1");
    assert_eq!((street.notices, street.escalations, street.clocks), (2, 1, 3), "{street:?}");
    let district = of("C-1");
    assert_eq!((district.notices, district.escalations), (2, 1), "{district:?}");
    assert_eq!((district.successor.as_str(), street.successor.as_str()), ("C-1", "C-1-1"));

    let_the_day_come(&federation).await;
    wait_for_release(&federation, &ordered.id).await;
    // The desk of the old district comes all the same, and the street closes.
    step(&federation, "C-1", &whistle, EscalationStep::Answered, "GAS").await;
    wait_for_case(&federation, "C-1-1", &whistle, EscalationStep::Answered).await;
    step(&federation, "C-1", &whistle, EscalationStep::Arrived, "GAS").await;
    wait_for_case(&federation, "C-1-1", &whistle, EscalationStep::Arrived).await;
    // Whoever issued a task learns that it is done: the city, and the old district.
    for (issuer, id) in [("C", &by_city), ("C-1", &by_district)] {
        mark_done(&federation, "C-1-1-1", id).await;
        wait_for_stage(&federation, issuer, id, ReceiptStage::Done).await;
    }
    // The new district gives tasks from here on.
    let by_new = issue(&federation, "C-2", "〔2026〕3号").await;
    wait_for_stage(&federation, "C-2", &by_new, ReceiptStage::Validated).await;
    nothing_is_quarantined(&federation).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unit_moves_while_its_old_parent_is_away_and_what_waited_there_comes_after() {
    let mut federation = Federation::four_levels().await;
    let ((_, _), (after, in_after)) = (month(false), month(true));
    let rows = format!("1,C-1-1-1,{in_after} 08:00:00,,light,1 Main St\n");
    federation.import("C-1-1", &rows).await;
    for host in ["C-1-1", "C-1-2", "C-2-1", "C-1", "C-2", "C"] {
        federation.publish(host, &after).await;
    }
    wait_for_count(&federation, "C", &after, 1).await;
    let ordered = order(&federation).await;
    // A task is on its way: it waits at the old parent when that goes away.
    federation.stop("C-1-1").await;
    let task = issue(&federation, "C", "〔2026〕1号").await;
    until("the task at the old parent", async || shown(&federation, "C-1", &task).await).await;
    federation.stop("C-1").await;
    federation.start("C-1-1").await;
    let_the_day_come(&federation).await;
    // The figure is in the city's total once: the old parent's report still holds it.
    until("the new parent to name what it holds back", async || {
        let figures = reported(&federation, "C-2", "C-2", &after).await?;
        let held = count(&figures, "received", Scope::Subtree);
        let gaps = figures.summary?.coverage?.gaps;
        let moving = gaps.iter().any(|gap| gap.unit == "C-1-1" && gap.reason == "moving");
        (held == 0 && moving).then_some(())
    })
    .await;
    let figures = reported(&federation, "C", "C", &after).await.unwrap();
    assert_eq!(count(&figures, "received", Scope::Subtree), 1);

    federation.start("C-1").await;
    wait_for_release(&federation, &ordered.id).await;
    wait_for_count(&federation, "C-2", &after, 1).await;
    wait_for_count(&federation, "C-1", &after, 0).await;
    wait_for_count(&federation, "C", &after, 1).await;
    wait_for_stage(&federation, "C-1-1-1", &task, ReceiptStage::Validated).await;
    wait_for_stage(&federation, "C", &task, ReceiptStage::Validated).await;
    nothing_is_quarantined(&federation).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unit_whose_keys_are_replaced_before_its_day_moves_with_the_new_ones() {
    let mut federation = Federation::four_levels().await;
    let ordered = order(&federation).await;
    let request = lianxi_proto::admin::v1::RotateKeyRequest {
        unit: "C-1-1".into(),
        replaced: ["statement", "delegation", "agreement"].map(Into::into).to_vec(),
        dry_run: false,
    };
    federation.client("C-1-1").node().rotate_key(request).await.unwrap();
    until("the new keys in use", async || {
        let status = federation.client("C-1-1").node().status(StatusRequest {}).await.unwrap();
        let units = status.into_inner().units;
        let found = units.into_iter().find(|status| status.unit == "C-1-1").unwrap();
        (found.key_rotation?.stage == "in-use").then_some(())
    })
    .await;
    // The day may come before the new parent has heard of them: then it goes on by itself.
    federation.clock.shift_to((AHEAD + 1) * DAY_MS);
    until("the street under its new parent", async || {
        carry_on(&federation, &["C", "C-2", "C-1-1", "C-1"]).await;
        (parent_of(&federation, "C-1-1").await == "C-2").then_some(())
    })
    .await;
    wait_for_release(&federation, &ordered.id).await;
    nothing_is_quarantined(&federation).await;
    // What it granted with either key holds when its store is read again.
    federation.stop("C-1-1").await;
    federation.start("C-1-1").await;
    assert_eq!(parent_of(&federation, "C-1-1").await, "C-2");
}
