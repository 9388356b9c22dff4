//! Attempts to move units that one has no power over, or to take steps that are somebody else's.

use lianxi_node::{
    domain::{reform::Order, reform::StepKind},
    grpc::enrolment::GrpcDoor,
    identity::{certificates, keys::Place, keys::UnitKeys, token::Token},
    services::{
        enrolments::{Door as _, DoorError},
        reforms::Due,
    },
    statement::{
        enrolment::Application,
        header::{StatementId, kinds},
        reform::{Step, encode_body, encode_step},
    },
};
use lianxi_proto::{
    admin::v1::{ListReformsRequest, QuarantineRequest, Reform, ReparentRequest, StatusRequest},
    link::v1::Lane,
};
use lianxi_tests::{acts::refusals, federation::Federation, hostile::Hostile, wait::until};
use std::sync::Arc;
use tonic::{Code, Status};

fn day(days: i64) -> String {
    let zone = jiff::tz::TimeZone::get("America/New_York").unwrap();
    let today = jiff::Timestamp::now().to_zoned(zone).date();
    today.saturating_add(jiff::Span::new().days(days)).to_string()
}

async fn reparent(
    federation: &Federation,
    by: &str,
    moving: &str,
    to: &str,
    days: i64,
) -> Result<Reform, Status> {
    let request = ReparentRequest {
        unit: by.into(),
        moving: moving.into(),
        to: to.into(),
        on: day(days),
        text: String::new(),
        dry_run: false,
    };
    let answer = federation.client(by).reforms().reparent(request).await?;
    Ok(answer.into_inner().reform.unwrap())
}

async fn reform(federation: &Federation, unit: &str, id: &[u8]) -> Option<Reform> {
    let request = ListReformsRequest { unit: unit.into(), id: id.to_vec() };
    federation.client(unit).reforms().list(request).await.ok()?.into_inner().reforms.pop()
}

async fn parent_of(federation: &Federation, unit: &str) -> String {
    let status = federation.client(unit).node().status(StatusRequest {}).await.unwrap();
    let units = status.into_inner().units;
    units.into_iter().find(|status| status.unit == unit).unwrap().parent
}

/// Reasons and fields of what `unit` has refused.
pub(super) async fn quarantined(federation: &Federation, unit: &str) -> Vec<(String, String)> {
    let request = QuarantineRequest { unit: unit.into(), ..QuarantineRequest::default() };
    let listed = federation.client(unit).node().quarantine(request).await.unwrap().into_inner();
    let refused = listed.statements.into_iter().filter(|one| one.refused_here);
    refused.map(|one| (one.reason, one.field)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_does_not_hold_is_refused_and_journalled() {
    let federation = Federation::four_levels().await;
    // A district takes another's street, or gives its own away: it may not even know the other.
    for (by, moving, to) in [("C-2", "C-1-1", "C-2"), ("C-1", "C-1-1", "C-2")] {
        let refused = reparent(&federation, by, moving, to, 7).await.unwrap_err();
        assert!(matches!(refused.code(), Code::PermissionDenied | Code::NotFound), "{refused}");
        let journalled = refusals(&federation, by, "unit.reparent", moving).await;
        assert!(matches!(journalled.as_slice(), [one] if one == "not-above" || one == "unknown"));
    }
    for (by, moving, to, days, code, reason) in [
        ("C-1", "C-1", "C-1-1", 7, Code::PermissionDenied, "not-above"),
        ("C", "C", "C-1", 7, Code::PermissionDenied, "not-above"),
        ("C", "C-1", "C-1-1", 7, Code::InvalidArgument, "loop"),
        ("C", "C-1-1", "C-2-1", 7, Code::InvalidArgument, "level"),
        ("C", "C-1-1", "C-1", 7, Code::AlreadyExists, "same-place"),
        ("C", "C-1-1", "C-9", 7, Code::NotFound, "unknown"),
        ("C", "C-1-1", "C-2", -1, Code::InvalidArgument, "backdated"),
        ("C", "C-1-1", "C-2", 400, Code::InvalidArgument, "too-far"),
    ] {
        let refused = reparent(&federation, by, moving, to, days).await.unwrap_err();
        assert_eq!(refused.code(), code, "{by} {moving} {to}: {refused}");
        let journalled = refusals(&federation, by, "unit.reparent", moving).await;
        assert_eq!(journalled.last().map(String::as_str), Some(reason), "{by} {moving} {to}");
    }
    for unit in ["C-1-1", "C-1-2", "C-2-1"] {
        assert_eq!(parent_of(&federation, unit).await, unit[..3]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_orders_from_below() {
    let mut federation = Federation::four_levels().await;
    federation.stop("C-1").await;
    let culprit = Hostile::take_over(&federation.directory("C-1"), "C-1").await;
    let order = |unit: &str, from: &str, to: &str| Order {
        trust_domain: "test.example".into(),
        unit: unit.parse().unwrap(),
        from: from.parse().unwrap(),
        to: to.parse().unwrap(),
        on: day(7).parse().unwrap(),
        effective_unix_ms: 4_000_000_000_000,
        keys_sha256: [0; 32],
        text: String::new(),
        merge: false,
        division: None,
    };
    let mut link = culprit.link().await;
    for order in [order("C-2-1", "C-2", "C-1"), order("C-1-1", "C-1", "C-2")] {
        let envelope = culprit.sign(&culprit.header(kinds::REFORM), &encode_body(&order));
        let lane_seq = link.deliver(Lane::Summary, envelope, Vec::new()).await;
        link.acknowledged(Lane::Summary, lane_seq).await;
    }
    let refused = ("wrong-source".to_owned(), "header.source".to_owned());
    assert_eq!(quarantined(&federation, "C").await, [refused.clone(), refused]);
    assert_eq!(parent_of(&federation, "C-2-1").await, "C-2");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_takes_anothers_step_of_a_reform() {
    let mut federation = Federation::four_levels().await;
    let ordered = reparent(&federation, "C", "C-1-1", "C-2", 7).await.unwrap();
    until("the answers", async || {
        reform(&federation, "C", &ordered.id).await?.silent.is_empty().then_some(())
    })
    .await;
    // The new parent says that the unit has moved, that the old one let it go, and answers again
    // with an invitation; it also makes a step of an order that nobody gave.
    federation.stop("C-2").await;
    let culprit = Hostile::take_over(&federation.directory("C-2"), "C-2").await;
    let mut link = culprit.link().await;
    let id = StatementId::try_from(ordered.id.as_slice()).unwrap();
    let none = StatementId::generate(1_000);
    for (id, kind) in [
        (id, StepKind::Moved),
        (id, StepKind::Released),
        (id, StepKind::Returned),
        (id, StepKind::Given),
        (none, StepKind::Answered),
    ] {
        let mut header = culprit.header(kinds::REFORM_STEP);
        header.destination = Some("C".parse().unwrap());
        let envelope = culprit.sign(&header, &encode_step(&Step::new(id, kind)));
        let lane_seq = link.deliver(Lane::Summary, envelope, Vec::new()).await;
        link.acknowledged(Lane::Summary, lane_seq).await;
    }
    let kind = ("wrong-source".to_owned(), "body.kind".to_owned());
    let unknown = ("malformed".to_owned(), "body.reform_id".to_owned());
    let expected = [kind.clone(), kind.clone(), kind.clone(), kind, unknown];
    assert_eq!(quarantined(&federation, "C").await, expected);
    let seen = reform(&federation, "C", &ordered.id).await.unwrap();
    assert_eq!((seen.moved_unix_ms, seen.released_unix_ms), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_invitation_of_a_reform_is_for_the_units_own_keys_alone_and_not_before_its_day() {
    let mut federation = Federation::four_levels().await;
    let ordered = reparent(&federation, "C", "C-1-1", "C-2", 7).await.unwrap();
    until("the answers", async || {
        reform(&federation, "C", &ordered.id).await?.silent.is_empty().then_some(())
    })
    .await;
    // Whoever is on the way sees the invitation.
    let token: Token = until("the invitation at the street", async || {
        let hosted = federation.host("C-1-1").units().get(&"C-1-1".parse().unwrap())?;
        let due = hosted.reforms.due(i64::MAX).await.unwrap();
        due.into_iter().find_map(|due| match due {
            Due::Move(moving) => Some(moving.token),
            _ => None,
        })
    })
    .await
    .parse()
    .unwrap();
    federation.stop("C-1-1").await;
    let honest = Hostile::take_over(&federation.directory("C-1-1"), "C-1-1").await;
    let place = tempfile::tempdir().unwrap();
    let place = Place::from(place.path().join("keys").as_path());
    let unit = "C-1-1".parse().unwrap();
    let suite = lianxi_node::domain::delegation::Suite::Ed25519;
    let now = 1_760_000_000_000;
    let others = UnitKeys::load_or_generate(place, suite, &unit, "test.example", now).unwrap();
    for (keys, reason) in [(&others, "other-keys"), (&honest.keys, "too-early")] {
        let refused = reserve(&federation, &token, keys).await.unwrap_err();
        assert!(matches!(refused, DoorError::Refused { .. }), "{refused}");
        let journalled = refusals(&federation, "C-2", "node.join", "C-1-1").await;
        assert_eq!(journalled.last().map(String::as_str), Some(reason));
    }
    // On its day it is good for the unit's own keys, and still for no others.
    federation.clock.shift_to(8 * 24 * 60 * 60 * 1000);
    assert!(reserve(&federation, &token, &others).await.is_err());
    reserve(&federation, &token, &honest.keys).await.unwrap();
}

async fn reserve(federation: &Federation, token: &Token, keys: &UnitKeys) -> Result<(), DoorError> {
    let clock = Arc::new(federation.clock.clone());
    let application = Application {
        adopted: None,
        token_id: token.id,
        secret: token.secret.clone(),
        unit: token.unit.clone(),
        level: token.level,
        keys: keys.public_keys(),
        ca_sha256: keys.ca_sha256(),
        certificate_request: certificates::request(&keys.tls).unwrap(),
        host: String::new(),
        clock_unix_ms: 1,
    };
    let pin = lianxi_node::identity::tls::ParentPin {
        unit: token.parent.clone(),
        trust_domain: Some(token.trust_domain.clone()),
        ca_sha256: token.ca_sha256,
        further: Vec::new(),
    };
    let door = GrpcDoor::new(clock);
    door.reserve(&token.addresses[0], &pin, &application, &keys.statement).await.map(drop)
}
