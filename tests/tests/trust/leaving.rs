//! Units leave the tree: with nothing unsent, dated, known to every node, and expected no longer.

use lianxi_node::statement::{
    header::kinds,
    leave::{Leave, encode_body},
};
use lianxi_proto::{
    admin::v1::{LeaveRequest, LeaveResponse, LeaveState, QuarantineRequest, StatusRequest},
    link::v1::Lane,
    local::v1::IssueNoticeRequest,
    types::v1::{Level, Notice, Scope},
};
use lianxi_tests::{
    acts::{acts, refusals},
    federation::{Federation, count},
    hostile::Hostile,
    wait::until,
};
use tonic::{Code, Status};

async fn leave(
    federation: &Federation,
    unit: &str,
    child: &str,
    dry_run: bool,
) -> Result<LeaveResponse, Status> {
    let request =
        LeaveRequest { unit: unit.into(), child: child.into(), text: "merged".into(), dry_run };
    Ok(federation.client(unit).node().leave(request).await?.into_inner())
}

async fn included(federation: &Federation, unit: &str) -> (u32, u32) {
    let pulled = federation.pull(unit, "2011-07").await;
    let coverage = pulled[unit].summary.as_ref().unwrap().coverage.clone().unwrap();
    (coverage.included, coverage.expected)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unit_leaves_with_nothing_unsent_and_is_expected_no_longer() {
    let federation = Federation::four_levels().await;
    federation.import("C-1-1", "1,C-1-1-1,2011-07-01 08:00:00,,light,1 Main St\n").await;
    federation.publish("C-1-1", "2011-07").await;
    assert_eq!(included(&federation, "C-1").await, (7, 7));

    let notice = Notice {
        number: "〔2026〕1号".into(),
        title: "clear fire exit".into(),
        text: "text".into(),
        level: Level::Community.into(),
        duty_item: "street-light-inspection".into(),
        due_unix_ms: 4_000_000_000_000,
        ..Notice::default()
    };
    let request = IssueNoticeRequest {
        unit: "C-1".into(),
        destination: "C-1-1".into(),
        notice: Some(notice),
        exercise: false,
    };
    federation.client("C-1").notices().issue(request).await.unwrap();

    until("the task among what is open", async || {
        let dry = leave(&federation, "C-1-1-2", "", true).await.unwrap();
        assert_eq!(dry.parent, "C-1-1");
        assert_ne!(dry.state(), LeaveState::Left);
        let open = dry.open.first()?;
        assert_eq!((open.kind.as_str(), open.party.as_str()), ("notice", "C-1"));
        Some(())
    })
    .await;
    until("the community to have left", async || {
        let left = leave(&federation, "C-1-1-2", "", false).await.unwrap();
        (left.state() == LeaveState::Left).then_some(())
    })
    .await;
    // Every node learns of it, and nobody waits for its report.
    until("one unit less to be expected", async || {
        (included(&federation, "C-1").await == (6, 6)).then_some(())
    })
    .await;
    let pulled = federation.pull("C-1", "2011-07").await;
    assert_eq!(count(&pulled["C-1"], "received", Scope::Subtree), 1);
    until("empty outboxes: nothing waits for the one that left", async || {
        let status = federation.client("C-1-1").node().status(StatusRequest {}).await.ok()?;
        status.into_inner().units.iter().all(|unit| unit.outbox == 0).then_some(())
    })
    .await;
    let done = acts(&federation, "C-1-1-2").await;
    assert!(done.iter().any(|act| act.name == "node.leave" && act.refused.is_empty()));
    // It stays out.
    federation.wait_for_link("C-1-1-2", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parent_lets_a_child_go_that_is_gone() {
    let mut federation = Federation::four_levels().await;
    federation.stop("C-1-2").await;
    assert_eq!(included(&federation, "C-1").await.1, 7);
    let refused = leave(&federation, "C-1", "C-2-1", false).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    assert_eq!(refusals(&federation, "C-1", "node.leave", "C-2-1").await, ["no-child"]);
    leave(&federation, "C-1", "C-1-2", true).await.unwrap();
    assert_eq!(included(&federation, "C-1").await.1, 7, "a dry run changes nothing");
    let left = leave(&federation, "C-1", "C-1-2", false).await.unwrap();
    assert_eq!(left.state(), LeaveState::Left);
    assert_eq!(included(&federation, "C-1").await.1, 4);
    // When it comes back all the same, it is told.
    federation.start("C-1-2").await;
    until("the street to learn that it has left", async || {
        let left = leave(&federation, "C-1-2-1", "", true).await.ok()?;
        let status = federation.client("C-1-2").node().status(StatusRequest {}).await.ok()?;
        let units = status.into_inner().units;
        let street = units.into_iter().find(|unit| unit.unit == "C-1-2")?;
        (left.parent == "C-1-2" && street.parent_link_reason.contains("revoked")).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unit_with_units_below_it_and_a_root_do_not_leave() {
    let federation = Federation::four_levels().await;
    let refused = leave(&federation, "C-1-1", "", false).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("C-1-1-1, C-1-1-2"), "{refused}");
    assert_eq!(refusals(&federation, "C-1-1", "node.leave", "C-1-1").await, ["children"]);
    let refused = leave(&federation, "C", "", true).await.unwrap_err();
    assert!(refused.message().contains("root"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_leaves_for_another() {
    let mut federation = Federation::four_levels().await;
    federation.stop("C-1-1").await;
    let culprit = Hostile::take_over(&federation.directory("C-1-1"), "C-1-1").await;
    let mut link = culprit.link().await;
    for unit in ["C-1-2", "C-1", "C-1-1-1"] {
        let leave = Leave {
            trust_domain: "test.example".into(),
            unit: unit.parse().unwrap(),
            text: String::new(),
        };
        let envelope = culprit.sign(&culprit.header(kinds::LEAVE), &encode_body(&leave));
        let lane_seq = link.deliver(Lane::Summary, envelope, Vec::new()).await;
        link.acknowledged(Lane::Summary, lane_seq).await;
    }
    let request = QuarantineRequest { unit: "C-1".into(), ..QuarantineRequest::default() };
    let listed = federation.client("C-1").node().quarantine(request).await.unwrap().into_inner();
    let reasons = listed.statements.iter().filter(|one| one.field == "body.unit");
    assert!(reasons.clone().all(|one| one.reason == "wrong-source"));
    assert_eq!(reasons.count(), 3);
    assert_eq!(included(&federation, "C-1").await.1, 7, "nobody has left");
}
