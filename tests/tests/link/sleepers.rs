//! Units that were away until their certificates ended come back, with the keys that they joined
//! with: by themselves within the budget, past it when a person at the parent says so.

use lianxi_proto::{
    admin::v1::{ChildRecovery, RecoverRequest, RenewRequest, StatusRequest},
    local::v1::ShowSummaryRequest,
    types::v1::{Level, Scope},
};
use lianxi_tests::{
    federation::{Federation, count},
    wait::until,
};
use tonic::Code;

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

async fn recoveries(federation: &Federation, unit: &str) -> Vec<ChildRecovery> {
    let status = federation.client(unit).node().status(StatusRequest {}).await.unwrap();
    let units = status.into_inner().units;
    units.into_iter().find(|status| status.unit == unit).unwrap().recoveries
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_slept_for_two_months_comes_back_without_a_visit() {
    let mut federation = Federation::four_levels().await;
    let rows = "1,C-1-1-1,2011-07-01 08:00:00,,light,1 Main St\n";
    federation.import("C-1-1", rows).await;
    federation.stop("C-1-1").await;
    federation.stop("C-1").await;
    // The rest of the city goes on, and renews its own meanwhile.
    federation.clock.shift_to(60 * DAY_MS);
    federation.host("C").renew_certificates().await;

    // The street wakes first and finds nobody; then its district does.
    federation.start("C-1-1").await;
    federation.wait_for_link("C-1-1", false).await;
    federation.start("C-1").await;
    federation.wait_for_link("C-1", true).await;
    let seen = recoveries(&federation, "C").await;
    assert_eq!((seen.len(), seen[0].child.as_str(), seen[0].recent), (1, "C-1", 1));

    let renewed = federation.host("C-1-1").renew_certificates().await;
    let all = ["C-1-1", "C-1-1-1", "C-1-1-2"].map(|unit| unit.parse().unwrap());
    let by_itself = recoveries(&federation, "C-1").await.iter().any(|one| one.recent == 1);
    assert!(renewed == all || by_itself, "{renewed:?}");
    for unit in ["C-1-1", "C-1-1-1", "C-1-1-2"] {
        federation.wait_for_link(unit, true).await;
    }
    // What it knows comes up to the city.
    federation.publish("C-1-1", "2011-07").await;
    until("the report of the branch at the city", async || {
        let request =
            ShowSummaryRequest { unit: "C".into(), of: "C-1".into(), period: "2011-07".into() };
        let held = federation.client("C").summaries().show(request).await.ok()?.into_inner();
        (count(&held, "received", Scope::Subtree) == 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn past_the_budget_the_parent_has_to_say_so() {
    let mut federation = Federation::city("C").await;
    federation.add_host("C-1", "C", Level::District).await;
    federation.wait_for_link("C-1", true).await;
    federation.stop("C-1").await;
    federation.clock.shift_to(150 * DAY_MS);
    federation.host("C").renew_certificates().await;
    federation.start("C-1").await;

    let renew = async |dry_run| {
        let request = RenewRequest { unit: "C-1".into(), dry_run };
        federation.client("C-1").node().renew(request).await
    };
    renew(true).await.unwrap();
    let refused = renew(false).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("lianxi node recover --approve C-1"), "{refused}");
    let seen = recoveries(&federation, "C").await;
    assert!(seen[0].refused >= 1 && seen[0].recent == 0, "{seen:?}");

    let recover = async |child: &str, dry_run| {
        let request = RecoverRequest { unit: "C".into(), child: child.into(), dry_run };
        federation.client("C").node().recover(request).await
    };
    assert_eq!(recover("C-2", false).await.unwrap_err().code(), Code::NotFound);
    recover("C-1", true).await.unwrap();
    renew(false).await.unwrap_err();
    recover("C-1", false).await.unwrap();
    renew(false).await.unwrap();
    federation.wait_for_link("C-1", true).await;
    let seen = recoveries(&federation, "C").await;
    assert_eq!((seen[0].recent, seen[0].refused), (1, 0));
}
