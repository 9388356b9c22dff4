//! A desk is closed on its day: what it has open goes to a named successor, clocks run on.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use jiff::{Timestamp, ToSpan as _, tz::TimeZone};
use lianxi_proto::{
    admin::v1::AddDeskRequest,
    local::v1::{
        EscalationState, RaiseEscalationRequest, ShowEscalationRequest, StepEscalationRequest,
    },
    types::v1::{Escalation, EscalationKind, EscalationStep, Level},
};
use lianxi_tests::{acts::acts, binary::run, federation::Federation, wait::until};
use serde_json::Value;
use tonic::Status;

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// A district with two desks, and a street whose whistle the first of them answered.
async fn called() -> (Federation, Vec<u8>) {
    let mut federation = Federation::city("C").await;
    federation.add_host("C-1", "C", Level::District).await;
    federation.add_host("C-1-1", "C-1", Level::Street).await;
    federation.wait_for_catalogue("C-1-1").await;
    for desk in ["GAS", "WATER"] {
        let desk = AddDeskRequest {
            unit: "C-1".into(),
            desk: desk.into(),
            title: desk.into(),
            line: "utilities".into(),
        };
        federation.client("C-1").node().add_desk(desk).await.unwrap();
    }
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
    let id = raised.into_inner().escalation_id;
    wait_for(&federation, "C-1-1", &id, EscalationStep::Routed).await;
    step(&federation, "C-1", &id, EscalationStep::Answered, "GAS").await.unwrap();
    wait_for(&federation, "C-1-1", &id, EscalationStep::Answered).await;
    (federation, id)
}

async fn case(federation: &Federation, at: &str, id: &[u8]) -> Option<EscalationState> {
    let request = ShowEscalationRequest { unit: at.into(), escalation_id: id.to_vec() };
    Some(federation.client(at).escalations().show(request).await.ok()?.into_inner())
}

async fn wait_for(federation: &Federation, at: &str, id: &[u8], step: EscalationStep) {
    until(&format!("{step:?} at {at}"), async || {
        (case(federation, at, id).await?.state() == step).then_some(())
    })
    .await;
}

async fn step(
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
    federation.client(unit).escalations().step(request).await.map(|_| ())
}

/// The day `days` after today, where the kit's catalogue says that days begin.
fn day(days: i64) -> String {
    let zone = TimeZone::get("America/New_York").unwrap();
    let today = Timestamp::now().to_zoned(zone).date();
    today.saturating_add(days.days()).to_string()
}

async fn close(
    federation: &Federation,
    successor: &str,
    on: &str,
    more: &[&str],
) -> Result<Value, String> {
    let dir = federation.directory("C-1");
    let close = ["desk", "close", "GAS", "--successor", successor, "--on", on, "--json", "--dir"];
    let answer = run(&dir, [&close[..], &[dir.to_str().unwrap()], more].concat()).await;
    if answer.code != 0 {
        return Err(answer.stderr);
    }
    Ok(serde_json::from_str(&answer.stdout).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_desk_has_open_goes_to_its_successor_on_the_day() {
    let (federation, id) = called().await;
    let asked = close(&federation, "WATER", &day(7), &["--dry-run"]).await.unwrap();
    assert_eq!((&asked["open"][0]["number"], &asked["clocks"]), (&"〔2026〕1号".into(), &1.into()));
    let due = case(&federation, "C-1-1", &id).await.unwrap().due_unix_ms;
    let ordered = close(&federation, "WATER", &day(7), &[]).await.unwrap();
    assert_eq!(ordered["closed"], false);
    federation.host("C-1").carry_reforms_on().await;
    let before = case(&federation, "C-1", &id).await.unwrap();
    assert!(before.added_desks.is_empty(), "not before its day");

    federation.clock.shift_to(8 * DAY_MS);
    federation.host("C-1").carry_reforms_on().await;
    until("the successor at the street", async || {
        let seen = case(&federation, "C-1-1", &id).await?;
        (seen.added_desks == ["WATER"]).then_some(())
    })
    .await;
    let seen = case(&federation, "C-1-1", &id).await.unwrap();
    assert_eq!((seen.state(), seen.due_unix_ms), (EscalationStep::Answered, due), "clocks run on");
    let late = step(&federation, "C-1", &id, EscalationStep::Arrived, "GAS").await.unwrap_err();
    assert!(late.message().contains("a desk that was called"), "{late}");
    for one in [EscalationStep::Arrived, EscalationStep::Handled] {
        step(&federation, "C-1", &id, one, "WATER").await.unwrap();
        wait_for(&federation, "C-1-1", &id, one).await;
    }
    step(&federation, "C-1-1", &id, EscalationStep::Closed, "").await.unwrap();
    wait_for(&federation, "C-1", &id, EscalationStep::Closed).await;
    let acts = acts(&federation, "C-1").await;
    let closed = acts.iter().filter(|act| act.name == "desk.close").collect::<Vec<_>>();
    assert_eq!(closed.len(), 1, "once, however often it is looked at: {closed:?}");
    assert_eq!(closed[0].subject, "GAS to WATER");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_desk_is_not_closed_to_itself_to_nobody_or_backdated() {
    let (federation, id) = called().await;
    for (successor, on, said) in [
        ("GAS", day(0), "from itself"),
        ("FIRE", day(0), "has no desk FIRE"),
        ("WATER", day(-1), "is over"),
        ("WATER", "soon".to_owned(), "is no day"),
    ] {
        let error = close(&federation, successor, &on, &[]).await.unwrap_err();
        assert!(error.contains(said), "{successor} {on}: {error}");
    }
    let refused = acts(&federation, "C-1").await;
    let refused = refused.iter().filter(|act| act.name == "desk.close");
    assert_eq!(refused.count(), 3, "each refusal is on the record");
    let still = case(&federation, "C-1", &id).await.unwrap();
    assert!(still.added_desks.is_empty());
    let closed = close(&federation, "WATER", &day(0), &[]).await.unwrap();
    assert_eq!(closed["closed"], true);
    let error = close(&federation, "WATER", &day(0), &[]).await.unwrap_err();
    assert!(error.contains("has no desk GAS"), "{error}");
}
