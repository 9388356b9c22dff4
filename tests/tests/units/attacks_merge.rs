//! Attempts to merge units that one has no power over, to speak for a unit that has not merged into
//! one's own, and to go on as a unit that has merged.

use lianxi_node::{
    domain::{
        notice::{Receipt, Stage},
        reform::Order,
    },
    statement::{
        header::{Sealing, StatementId, kinds},
        notice::encode_receipt,
        reform::encode_body,
        sealed::Outline,
    },
};
use lianxi_proto::{
    admin::v1::{
        ListReformsRequest, MergeRequest, QuarantineRequest, Reform, RevokeRequest, StatusRequest,
    },
    link::v1::Lane,
    types::v1::Level,
};
use lianxi_tests::{acts::refusals, federation::Federation, hostile::Hostile, wait::until};
use tonic::{Code, Status};

fn day(days: i64) -> String {
    let zone = jiff::tz::TimeZone::get("America/New_York").unwrap();
    let today = jiff::Timestamp::now().to_zoned(zone).date();
    today.saturating_add(jiff::Span::new().days(days)).to_string()
}

async fn merge(
    federation: &Federation,
    by: &str,
    merging: &str,
    into: &str,
    days: i64,
) -> Result<Reform, Status> {
    let request = MergeRequest {
        unit: by.into(),
        merging: merging.into(),
        into: into.into(),
        on: day(days),
        text: String::new(),
        dry_run: false,
    };
    let answer = federation.client(by).reforms().merge(request).await?;
    Ok(answer.into_inner().reform.unwrap())
}

/// A district with two streets, each on a host of its own.
async fn two_streets() -> Federation {
    let mut federation = Federation::city("C").await;
    federation.add_host("C-1", "C", Level::District).await;
    for street in ["C-1-1", "C-1-2"] {
        federation.add_host(street, "C-1", Level::Street).await;
        federation.wait_for_catalogue(street).await;
    }
    federation.wait_for_roster("C", 4).await;
    federation
}

async fn quarantined(federation: &Federation, unit: &str) -> Vec<(String, String)> {
    let request = QuarantineRequest { unit: unit.into(), ..QuarantineRequest::default() };
    let listed = federation.client(unit).node().quarantine(request).await.unwrap().into_inner();
    let refused = listed.statements.into_iter().filter(|one| one.refused_here);
    refused.map(|one| (one.reason, one.field)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_to_merge_that_does_not_hold_is_refused_and_journalled() {
    let federation = Federation::four_levels().await;
    for (by, merging, into, days, code, reason) in [
        ("C-1-1", "C-1-1-1", "C-1-2-1", 7, Code::NotFound, "unknown"),
        ("C-1", "C-1", "C-2", 7, Code::NotFound, "unknown"),
        ("C-1", "C-1", "C-1-1", 7, Code::PermissionDenied, "not-above"),
        ("C", "C-1", "C-1-1", 7, Code::InvalidArgument, "loop"),
        ("C", "C-1-1", "C-1-1-1", 7, Code::InvalidArgument, "loop"),
        ("C", "C-1-1", "C-2-1", 7, Code::InvalidArgument, "no-sibling"),
        ("C", "C-1-1-1", "C-1-2-1", 7, Code::InvalidArgument, "no-sibling"),
        ("C", "C-1-1", "C-1", 7, Code::AlreadyExists, "same-place"),
        ("C-1", "C-1-1", "C-1-2", -1, Code::InvalidArgument, "backdated"),
        ("C-1", "C-1-1", "C-1-2", 400, Code::InvalidArgument, "too-far"),
    ] {
        let refused = merge(&federation, by, merging, into, days).await.unwrap_err();
        assert_eq!(refused.code(), code, "{by} {merging} {into}: {refused}");
        let journalled = refusals(&federation, by, "unit.merge", merging).await;
        assert_eq!(journalled.last().map(String::as_str), Some(reason), "{by} {merging} {into}");
    }
    // One that is under way bars others about either of the two.
    merge(&federation, "C-1", "C-1-1", "C-1-2", 7).await.unwrap();
    for (merging, into, days) in [("C-1-1", "C-1-2", 8), ("C-1-2", "C-1-1", 7)] {
        let refused = merge(&federation, "C-1", merging, into, days).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
        let journalled = refusals(&federation, "C-1", "unit.merge", merging).await;
        assert_eq!(journalled.last().map(String::as_str), Some("pending"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_merges_a_sibling_into_itself() {
    let mut federation = two_streets().await;
    federation.stop("C-1-2").await;
    let culprit = Hostile::take_over(&federation.directory("C-1-2"), "C-1-2").await;
    let order = Order {
        trust_domain: "test.example".into(),
        unit: "C-1-1".parse().unwrap(),
        from: "C-1".parse().unwrap(),
        to: "C-1-2".parse().unwrap(),
        on: day(7).parse().unwrap(),
        effective_unix_ms: 4_000_000_000_000,
        keys_sha256: [0; 32],
        text: String::new(),
        merge: true,
        division: None,
    };
    let mut link = culprit.link().await;
    let envelope = culprit.sign(&culprit.header(kinds::REFORM), &encode_body(&order));
    let lane_seq = link.deliver(Lane::Summary, envelope, Vec::new()).await;
    link.acknowledged(Lane::Summary, lane_seq).await;
    let refused = ("wrong-source".to_owned(), "header.source".to_owned());
    assert_eq!(quarantined(&federation, "C-1").await, [refused]);
    let status = federation.client("C-1-1").node().status(StatusRequest {}).await.unwrap();
    assert_eq!(status.into_inner().units[0].parent, "C-1");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_answers_for_a_unit_that_did_not_merge_into_it() {
    let mut federation = two_streets().await;
    federation.stop("C-1-2").await;
    let culprit = Hostile::take_over(&federation.directory("C-1-2"), "C-1-2").await;
    let notice = StatementId::generate(1_000);
    let receipt = Receipt {
        notice_id: *notice.as_bytes(),
        stage: Stage::Done,
        reason: String::new(),
        note: "done, believe me".into(),
    };
    let mut header = culprit.header(kinds::RECEIPT);
    header.subject = notice.to_string();
    header.destination = Some("C-1".parse().unwrap());
    header.on_behalf_of = Some("C-1-1".parse().unwrap());
    let outline = Outline::Receipt { stage: Stage::Done, reason: String::new() };
    header.sealing = Some(Sealing { key_commitment: [0; 32], outline: Some(outline) });
    let envelope = culprit.sign_sealed(&header, &["C-1"], &encode_receipt(&receipt));
    let mut link = culprit.link().await;
    let lane_seq = link.deliver(Lane::Notice, envelope, Vec::new()).await;
    link.acknowledged(Lane::Notice, lane_seq).await;
    let refused = ("wrong-source".to_owned(), "header.on_behalf_of".to_owned());
    assert_eq!(quarantined(&federation, "C-1").await, [refused]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_merged_unit_that_goes_on_sending_is_refused() {
    let mut federation = two_streets().await;
    let ordered = merge(&federation, "C-1", "C-1-1", "C-1-2", 0).await.unwrap();
    until("the end of the street", async || {
        for host in ["C-1-1", "C-1-2", "C-1"] {
            federation.host(host).carry_reforms_on().await;
        }
        let request = ListReformsRequest { unit: "C-1".into(), id: ordered.id.clone() };
        let listed = federation.client("C-1").reforms().list(request).await.ok()?;
        listed.into_inner().reforms.pop()?.ended.then_some(())
    })
    .await;
    // Its own people are refused, and that is on the record.
    let request =
        RevokeRequest { unit: "C-1-1".into(), revoked: "C-1-2".into(), ..RevokeRequest::default() };
    let refused = federation.client("C-1-1").node().revoke(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert!(refused.message().contains("C-1-2"), "it names the successor: {refused}");
    let journalled = refusals(&federation, "C-1-1", "node.revoke", "C-1-1").await;
    assert_eq!(journalled, ["merged"]);
    // Whoever has its keys finds no link, and no one who believes what somebody else brings.
    federation.stop("C-1-1").await;
    let ended = Hostile::take_over(&federation.directory("C-1-1"), "C-1-1").await;
    let purpose = lianxi_node::identity::tls::Purpose::Link;
    let dialled = ended.dial(purpose, Some(&ended.tls())).await;
    if let Ok(io) = dialled {
        // TLS 1.3: the refusal comes after the client's own side is done.
        assert!(lianxi_tests::hostile::HostileLink::over(io).await.is_err());
    }
    federation.stop("C-1-2").await;
    let carrier = Hostile::take_over(&federation.directory("C-1-2"), "C-1-2").await;
    let mut header = ended.header(kinds::LEAVE);
    header.destination = Some("C-1".parse().unwrap());
    let mut link = carrier.link().await;
    let lane_seq = link.deliver(Lane::Summary, ended.sign(&header, b""), Vec::new()).await;
    link.acknowledged(Lane::Summary, lane_seq).await;
    assert_eq!(quarantined(&federation, "C-1").await[0].0, "revoked");
}
