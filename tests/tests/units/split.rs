//! A unit is divided on its day (分设): named children and open items are its new sibling's from then
//! on, everything else stays, and no figure is counted twice or lost.

use lianxi_proto::{
    admin::v1::{Reform, SplitRequest},
    types::v1::{EscalationStep, Level, ReceiptStage, Scope, component::Value},
};
use lianxi_tests::{
    acts::acts,
    federation::{Federation, count},
    wait::until,
};
use tonic::{Code, Status};

use super::merge::{
    AHEAD, DAY_MS, add_desk, case, day, issue, mark, month, nothing_is_quarantined, notice,
    parent_of, raise, reform, reported, rows, step, wait_for_answers, wait_for_case,
    wait_for_count, wait_for_stage,
};

pub(super) async fn split(
    federation: &Federation,
    (by, dividing, into): (&str, &str, &str),
    children: &[&str],
    items: &[&[u8]],
    (days, dry_run): (i64, bool),
) -> Result<Reform, Status> {
    let request = SplitRequest {
        unit: by.into(),
        dividing: dividing.into(),
        into: into.into(),
        on: day(days),
        text: "two streets of one".into(),
        dry_run,
        children: children.iter().map(ToString::to_string).collect(),
        items: items.iter().map(|item| item.to_vec()).collect(),
    };
    let answer = federation.client(by).reforms().split(request).await?;
    Ok(answer.into_inner().reform.unwrap())
}

/// Four levels, and a street `C-1-3` that has joined under `C-1`.
pub(super) async fn with_a_new_street() -> Federation {
    let mut federation = Federation::four_levels().await;
    federation.add_host("C-1-3", "C-1", Level::Street).await;
    federation.wait_for_catalogue("C-1-3").await;
    federation.wait_for_roster("C", 13).await;
    federation
}

async fn carry_on(federation: &Federation) {
    for host in ["C-1-1", "C-1-3", "C-1", "C"] {
        federation.host(host).carry_reforms_on().await;
    }
}

/// Waits until each of the units has agreed and been told.
pub(super) async fn wait_until_settled(federation: &Federation, by: &str, id: &[u8]) {
    until("the agreement of all", async || {
        carry_on(federation).await;
        reform(federation, by, id).await?.settled.then_some(())
    })
    .await;
}

async fn let_it_happen(federation: &Federation, by: &str, id: &[u8]) {
    federation.clock.shift_to((AHEAD + 1) * DAY_MS);
    until("the end of the division", async || {
        carry_on(federation).await;
        let seen = reform(federation, by, id).await?;
        (seen.moved_unix_ms > 0 && seen.released_unix_ms > 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_street_is_divided_and_every_figure_stays_in_one_total() {
    let federation = with_a_new_street().await;
    let ((before, in_before), (after, in_after)) = (month(false), month(true));
    // What a flat count has, whoever reports it: 3 + 1 + 5 cases before, 2 + 4 + 6 after.
    for (host, from, unit, of) in [
        ("C-1-1", 100, "C-1-1", [(3, in_before.as_str()), (2, in_after.as_str())]),
        ("C-1-1", 200, "C-1-1-1", [(1, &in_before), (4, &in_after)]),
        ("C-1-1", 300, "C-1-1-2", [(5, &in_before), (6, &in_after)]),
    ] {
        federation.import(host, &rows(from, unit, &of)).await;
    }
    let hosts = ["C-1-1", "C-1-2", "C-1-3", "C-2-1", "C-1", "C-2", "C"];
    for host in hosts {
        federation.publish(host, &before).await;
    }
    wait_for_count(&federation, "C", &before, 9).await;
    wait_for_count(&federation, "C-1-1", &before, 9).await;

    let whole = ("C-1", "C-1-1", "C-1-3");
    let asked = split(&federation, whole, &["C-1-1-2"], &[], (AHEAD, true)).await.unwrap();
    let answered = wait_for_answers(&federation, "C-1", &asked.id).await;
    let records = |unit: &str| {
        let answer = answered.answers.iter().find(|answer| answer.unit == unit).unwrap();
        (answer.records, answer.successor.clone())
    };
    assert_eq!(records("C-1-1"), (5, "C-1-1".to_owned()), "its records stay");
    assert_eq!(records("C-1-1-2"), (11, "C-1-1-2".to_owned()), "a child keeps its own");
    let ordered = split(&federation, whole, &["C-1-1-2"], &[], (AHEAD, false)).await.unwrap();
    wait_until_settled(&federation, "C-1", &ordered.id).await;
    assert_eq!(parent_of(&federation, "C-1-1-2").await, "C-1-1", "not before its day");
    let_it_happen(&federation, "C-1", &ordered.id).await;
    assert_eq!(parent_of(&federation, "C-1-1-2").await, "C-1-3");
    assert_eq!(parent_of(&federation, "C-1-1-1").await, "C-1-1", "was not named");

    for host in hosts {
        for period in [&before, &after] {
            federation.publish(host, period).await;
        }
    }
    for (unit, of_before, of_after) in
        [("C-1-1", 9, 6), ("C-1-3", 0, 6), ("C-1", 9, 12), ("C", 9, 12)]
    {
        wait_for_count(&federation, unit, &before, of_before).await;
        wait_for_count(&federation, unit, &after, of_after).await;
    }
    let pulled = federation.pull("C", &after).await;
    assert_eq!(count(&pulled["C"], "received", Scope::Subtree), 12, "live as reported");
    // Both say so, and what came is left out of the comparable scope.
    for (unit, came) in [("C-1-1", false), ("C-1-3", true)] {
        let figures = reported(&federation, unit, unit, &after).await.unwrap();
        let [change] = figures.scope_changes.as_slice() else { panic!("{unit}: {figures:?}") };
        assert_eq!((change.moving.as_str(), change.came), ("C-1-1-2", came), "{unit}");
    }
    let figures = reported(&federation, "C-1-3", "C-1-3", &after).await.unwrap();
    let comparable = figures.comparable_cells.iter().find(|cell| cell.indicator == "received");
    let comparable = comparable.unwrap().component.clone().unwrap().value.unwrap();
    assert_eq!(comparable, Value::Count(0));
    nothing_is_quarantined(&federation).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn open_items_that_are_named_go_to_the_new_street_with_their_clocks() {
    let federation = with_a_new_street().await;
    add_desk(&federation, "C-1", "GAS").await;
    let goes = issue(&federation, "C", "C-1-1", Level::Street, "〔2026〕1号").await;
    let stays = issue(&federation, "C-1", "C-1-1", Level::Street, "〔2026〕2号").await;
    let whistle = raise(&federation, "C-1-1", "C-1", "〔2026〕1号").await;
    wait_for_case(&federation, "C-1-1", &whistle, EscalationStep::Routed).await;
    for (at, id) in [("C", &goes), ("C-1", &stays)] {
        wait_for_stage(&federation, at, id, "C-1-1", ReceiptStage::Validated).await;
    }
    let due = case(&federation, "C-1-1", &whistle).await.unwrap().due_unix_ms;
    let whole = ("C-1", "C-1-1", "C-1-3");
    let named: [&[u8]; 2] = [&goes, &whistle];
    let asked = split(&federation, whole, &["C-1-1-2"], &named, (AHEAD, true)).await.unwrap();
    let answered = wait_for_answers(&federation, "C-1", &asked.id).await;
    let of_unit = answered.answers.iter().find(|answer| answer.unit == "C-1-1").unwrap();
    assert_eq!((of_unit.notices, of_unit.escalations, of_unit.clocks), (2, 1, 3));
    for item in &of_unit.open {
        let successor = if item.id == stays { "C-1-1" } else { "C-1-3" };
        assert_eq!(item.successor, successor, "{item:?}");
    }

    let ordered = split(&federation, whole, &["C-1-1-2"], &named, (AHEAD, false)).await.unwrap();
    wait_until_settled(&federation, "C-1", &ordered.id).await;
    // Until the day the unit acts on what it has.
    step(&federation, "C-1", &whistle, EscalationStep::Answered, "GAS").await.unwrap();
    wait_for_case(&federation, "C-1-1", &whistle, EscalationStep::Answered).await;
    let_it_happen(&federation, "C-1", &ordered.id).await;
    until("the whistle at its new street", async || {
        case(&federation, "C-1-3", &whistle).await.map(drop)
    })
    .await;
    let seen = case(&federation, "C-1-3", &whistle).await.unwrap();
    assert_eq!(seen.state(), EscalationStep::Answered);
    assert_ne!((seen.due_unix_ms, due), (0, 0), "clocks run on");

    // Its steps reach the new street, which closes it; the divided one acts on it no more.
    for one in [EscalationStep::Arrived, EscalationStep::Handled] {
        step(&federation, "C-1", &whistle, one, "GAS").await.unwrap();
        wait_for_case(&federation, "C-1-3", &whistle, one).await;
    }
    let refused = step(&federation, "C-1-1", &whistle, EscalationStep::Closed, "").await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("C-1-3"), "{refused}");
    step(&federation, "C-1-3", &whistle, EscalationStep::Closed, "").await.unwrap();
    wait_for_case(&federation, "C-1", &whistle, EscalationStep::Closed).await;

    // So does the task, in the name of the divided street; the one that stays is its own.
    let refused = mark(&federation, "C-1-1", &goes, ReceiptStage::Done).await.unwrap_err();
    assert!(refused.message().contains("C-1-3"), "{refused}");
    mark(&federation, "C-1-3", &goes, ReceiptStage::Done).await.unwrap();
    wait_for_stage(&federation, "C", &goes, "C-1-1", ReceiptStage::Done).await;
    let seen = notice(&federation, "C", &goes).await.unwrap();
    assert!(seen.recipients.iter().any(|one| one.note == "cleared"), "{:?}", seen.recipients);
    assert!(mark(&federation, "C-1-3", &stays, ReceiptStage::Done).await.is_err());
    mark(&federation, "C-1-1", &stays, ReceiptStage::Done).await.unwrap();
    wait_for_stage(&federation, "C-1", &stays, "C-1-1", ReceiptStage::Done).await;
    for (unit, act) in [
        ("C-1", "unit.split"),
        ("C-1-1", "unit.split"),
        ("C-1-3", "unit.split"),
        ("C-1-1-2", "unit.split"),
        ("C-1-1", "unit.hand-over"),
        ("C-1-3", "unit.hand-over"),
        ("C-1-1-2", "unit.move"),
        ("C-1-1", "unit.release"),
    ] {
        let acts = acts(&federation, unit).await;
        assert!(acts.iter().any(|one| one.name == act), "{act} at {unit}");
    }
    nothing_is_quarantined(&federation).await;
}
