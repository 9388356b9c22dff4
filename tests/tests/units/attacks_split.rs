//! Attempts to divide units that one has no power over, to name what is not theirs, and to act on
//! items that went to somebody else.

use lianxi_node::{
    domain::{
        notice::{Receipt, Stage},
        reform::{Division, Order, StepKind},
        summary::{Coverage, CoverageGap, CoverageState, Summary},
    },
    services::intake::{Arrived, Undecided},
    statement::{
        Envelope,
        handed::Handed,
        header::{self, Sealing, StatementId, kinds},
        notice::encode_receipt,
        reform::{Step, encode_body, encode_step, order_to_grant},
        sealed::Outline,
        summary::encode_body as encode_summary,
    },
};
use lianxi_proto::{
    link::v1::Lane,
    types::v1::{Level, ReceiptStage},
};
use lianxi_tests::{
    acts::{acts, refusals},
    breach::summary,
    federation::Federation,
    hostile::{Hostile, HostileLink},
    wait::until,
};
use tonic::Code;

use super::{
    attacks_reform::quarantined,
    merge::{day, issue, parent_of, reform, wait_for_stage},
    split::{split, wait_until_settled, with_a_new_street},
};

fn order(unit: &str, from: &str, to: &str, children: &[&str], items: &[[u8; 16]]) -> Order {
    let keys = |child: &&str| (child.parse().unwrap(), [0; 32]);
    Order {
        trust_domain: "test.example".into(),
        unit: unit.parse().unwrap(),
        from: from.parse().unwrap(),
        to: to.parse().unwrap(),
        on: day(7).parse().unwrap(),
        effective_unix_ms: 4_000_000_000_000,
        keys_sha256: [0; 32],
        text: String::new(),
        merge: false,
        division: Some(Division {
            children: children.iter().map(keys).collect(),
            items: items.to_vec(),
        }),
    }
}

async fn deliver(link: &mut HostileLink, lane: Lane, envelope: Envelope) {
    let lane_seq = link.deliver(lane, envelope, Vec::new()).await;
    link.acknowledged(lane, lane_seq).await;
}

fn refused(reason: &str, field: &str) -> (String, String) {
    (reason.to_owned(), field.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_to_divide_that_does_not_hold_is_refused_and_journalled() {
    let federation = with_a_new_street().await;
    for (by, dividing, into, children, days, code, reason) in [
        ("C-1-1", "C-1-1", "C-1-3", &["C-1-1-1"][..], 7, Code::NotFound, "unknown"),
        ("C-2", "C-1-1", "C-1-3", &["C-1-1-1"], 7, Code::NotFound, "unknown"),
        ("C-1", "C-1", "C-1-3", &["C-1-1"], 7, Code::PermissionDenied, "not-above"),
        ("C", "C-1-1", "C-2-1", &["C-1-1-1"], 7, Code::InvalidArgument, "no-sibling"),
        ("C", "C-1-1", "C-2", &["C-1-1-1"], 7, Code::InvalidArgument, "no-sibling"),
        ("C", "C-1-1", "C-1-1-2", &["C-1-1-1"], 7, Code::InvalidArgument, "loop"),
        ("C-1", "C-1-1", "C-1-3", &["C-1-2-1"], 7, Code::InvalidArgument, "no-child"),
        ("C-1", "C-1-1", "C-1-3", &["C-1-3"], 7, Code::InvalidArgument, "no-child"),
        ("C", "C-1", "C-2", &["C-1-1-1"], 7, Code::InvalidArgument, "no-child"),
        ("C-1", "C-1-1", "C-1-3", &[], 7, Code::InvalidArgument, "nothing"),
        ("C-1", "C-1-1", "C-1-3", &["C-1-1-1"], -1, Code::InvalidArgument, "backdated"),
    ] {
        let whole = (by, dividing, into);
        let refused = split(&federation, whole, children, &[], (days, false)).await.unwrap_err();
        assert_eq!(refused.code(), code, "{by} {dividing} {into}: {refused}");
        let journalled = refusals(&federation, by, "unit.split", dividing).await;
        assert_eq!(journalled.last().map(String::as_str), Some(reason), "{by} {dividing} {into}");
    }
    // One that is under way bars others about any of those whom it names.
    let whole = ("C-1", "C-1-1", "C-1-3");
    split(&federation, whole, &["C-1-1-1"], &[], (7, false)).await.unwrap();
    let item = StatementId::generate(1_000);
    for whole in [("C-1", "C-1-1", "C-1-2"), ("C-1", "C-1-3", "C-1-2"), ("C-1", "C-1-2", "C-1-1")] {
        let named: [&[u8]; 1] = [item.as_bytes()];
        let refused = split(&federation, whole, &[], &named, (7, false)).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_divides_a_sibling_or_takes_anothers_child_along() {
    let mut federation = with_a_new_street().await;
    // The sibling, and a unit that is above one of the two alone.
    federation.stop("C-1-3").await;
    let culprit = Hostile::take_over(&federation.directory("C-1-3"), "C-1-3").await;
    let mut link = culprit.link().await;
    let wrong = order("C-1-1", "C-1", "C-1-3", &["C-1-1-1"], &[]);
    let envelope = culprit.sign(&culprit.header(kinds::REFORM), &encode_body(&wrong));
    deliver(&mut link, Lane::Summary, envelope).await;
    let from_below = refused("wrong-source", "header.source");
    assert_eq!(quarantined(&federation, "C-1").await, [from_below]);
    drop(link);

    // The parent of both names a child of the third one, or one that is no sibling. Whoever sees the
    // order refuses it.
    federation.stop("C-1").await;
    let parent = Hostile::take_over(&federation.directory("C-1"), "C-1").await;
    for (wrong, field) in [
        (order("C-1-1", "C-1", "C-1-2", &["C-1-2-1"], &[]), "body.division.children.unit"),
        (order("C-1-1", "C-1", "C-1-2-1", &["C-1-1-1"], &[]), "body.to"),
    ] {
        let envelope = parent.sign(&parent.header(kinds::REFORM), &encode_body(&wrong));
        let arrived = Arrived {
            peer: "C-1".parse().unwrap(),
            from_child: false,
            statement: header::decode(&envelope.payload).unwrap(),
            desk: None,
            payload_sha256: [0; 32],
            cells: Vec::new(),
            envelope,
        };
        let hosted = federation.host("C-1-2").units().get(&"C-1-2".parse().unwrap()).unwrap();
        match hosted.reforms.take(&arrived) {
            Err(Undecided::Refused(refused)) => {
                assert_eq!((refused.reason, refused.field.as_str()), ("outside-subtree", field));
            }
            other => panic!("{field}: {other:?}"),
        }
    }
    assert_eq!(parent_of(&federation, "C-1-1-1").await, "C-1-1");
}

/// A street that is to be divided, with a task that goes, ordered and settled, and that task.
async fn settled() -> (Federation, Vec<u8>, Vec<u8>) {
    let federation = with_a_new_street().await;
    let goes = issue(&federation, "C-1", "C-1-1", Level::Street, "〔2026〕1号").await;
    wait_for_stage(&federation, "C-1", &goes, "C-1-1", ReceiptStage::Validated).await;
    let whole = ("C-1", "C-1-1", "C-1-3");
    let ordered = split(&federation, whole, &["C-1-1-2"], &[&goes], (7, false)).await.unwrap();
    wait_until_settled(&federation, "C-1", &ordered.id).await;
    (federation, ordered.id, goes)
}

async fn signed_order(federation: &Federation, id: &[u8]) -> Envelope {
    let hosted = federation.host("C-1").units().get(&"C-1".parse().unwrap()).unwrap();
    let id = StatementId::try_from(id).unwrap();
    hosted.unit.statement(id).await.unwrap().unwrap()
}

/// A receipt of `culprit` that says, in the name of the divided street, that the task is done.
fn receipt(culprit: &Hostile, notice: StatementId, handed_by: Vec<u8>) -> Envelope {
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
    header.handed_by = handed_by.into();
    let outline = Outline::Receipt { stage: Stage::Done, reason: String::new() };
    header.sealing = Some(Sealing { key_commitment: [0; 32], outline: Some(outline) });
    culprit.sign_sealed(&header, &["C-1"], &encode_receipt(&receipt))
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_acts_on_a_handed_item_but_the_named_successor_from_the_day_on() {
    let (mut federation, id, goes) = settled().await;
    let order = signed_order(&federation, &id).await;
    let goes = StatementId::try_from(goes.as_slice()).unwrap();
    let whole = order_to_grant(&order);
    // One byte of it is another, in the body and in the signature.
    let mut altered = order.clone();
    let mut payload = altered.payload.to_vec();
    *payload.last_mut().unwrap() ^= 1;
    altered.payload = payload.into();
    let own = wrong_source();
    let mut stopped = Vec::new();
    let other = StatementId::generate(1_000);
    for (street, item, order, expected) in [
        ("C-1-2", goes, whole.clone(), own.clone()),
        ("C-1-3", other, whole.clone(), own.clone()),
        ("C-1-3", goes, whole.clone(), own.clone()),
        ("C-1-3", goes, order_to_grant(&altered), refused("bad-signature", "signatures")),
        ("C-1-3", goes, Vec::new(), refused("wrong-source", "header.on_behalf_of")),
    ] {
        if !stopped.contains(&street) {
            federation.stop(street).await;
            stopped.push(street);
        }
        let culprit = Hostile::take_over(&federation.directory(street), street).await;
        let mut link = culprit.link().await;
        deliver(&mut link, Lane::Notice, receipt(&culprit, item, order)).await;
        let last = quarantined(&federation, "C-1").await.pop();
        assert_eq!(last, Some(expected), "{street} {item}");
    }
}

fn wrong_source() -> (String, String) {
    refused("wrong-source", "header.handed_by")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_goes_to_the_named_successor_alone_and_only_what_was_named() {
    let (mut federation, id, goes) = settled().await;
    let id = StatementId::try_from(id.as_slice()).unwrap();
    let stays = issue(&federation, "C-1", "C-1-1", Level::Street, "〔2026〕2号").await;
    wait_for_stage(&federation, "C-1", &stays, "C-1-1", ReceiptStage::Validated).await;
    let statement = async |item: &[u8]| {
        let hosted = federation.host("C-1-1").units().get(&"C-1-1".parse().unwrap()).unwrap();
        let item = StatementId::try_from(item).unwrap();
        hosted.unit.statement(item).await.unwrap().unwrap()
    };
    let (goes, stays) = (statement(&goes).await, statement(&stays).await);
    let step = |statement: &Envelope| {
        let handed = Handed {
            statement: statement.clone(),
            receipts: Vec::new(),
            added: Vec::new(),
            succeeded: Vec::new(),
            taken: Vec::new(),
            given: Vec::new(),
        };
        encode_step(&Step { handed: Some(handed), ..Step::new(id, StepKind::Handed) })
    };
    federation.stop("C-1-1").await;
    let divided = Hostile::take_over(&federation.directory("C-1-1"), "C-1-1").await;
    let mut link = divided.link().await;
    let hand = |to: &str, body: &[u8]| {
        let mut header = divided.header(kinds::REFORM_STEP);
        header.destination = Some(to.parse().unwrap());
        divided.sign(&header, body)
    };
    for (to, body, reason, field) in [
        ("C-1-3", step(&goes), "too-early", "body.handed"),
        ("C-1", step(&goes), "wrong-source", "body.handed"),
    ] {
        deliver(&mut link, Lane::Summary, hand(to, &body)).await;
        until("the refusal", async || {
            (quarantined(&federation, to).await.pop() == Some(refused(reason, field))).then_some(())
        })
        .await;
    }
    federation.clock.shift_to(8 * 24 * 60 * 60 * 1000);
    deliver(&mut link, Lane::Summary, hand("C-1-3", &step(&stays))).await;
    let other = refused("wrong-source", "body.handed.statement");
    until("the refusal of an item that was not named", async || {
        (quarantined(&federation, "C-1-3").await.pop() == Some(other.clone())).then_some(())
    })
    .await;
    // The sibling of both does not even know who speaks.
    deliver(&mut link, Lane::Summary, hand("C-1-2", &step(&goes))).await;
    let unknown = refused("unknown-key", "signatures");
    until("the refusal by a unit that is not named", async || {
        (quarantined(&federation, "C-1-2").await.pop() == Some(unknown.clone())).then_some(())
    })
    .await;
}

/// A coverage of everything below `C-1`, with one unit more that is missing for `reason`.
fn coverage(missing: &str, reason: &str) -> Coverage {
    let gap = CoverageGap {
        unit: missing.parse().unwrap(),
        state: CoverageState::Absent,
        units: 1,
        reason: reason.into(),
        last_known_unix_ms: None,
    };
    Coverage { expected: 9, included: 8, absent: 1, gaps: vec![gap], ..Coverage::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unit_is_twice_in_a_coverage_only_while_it_moves() {
    let (mut federation, id, _) = settled().await;
    federation.clock.shift_to(8 * 24 * 60 * 60 * 1000);
    until("the end of the division", async || {
        for host in ["C-1-1", "C-1-3", "C-1"] {
            federation.host(host).carry_reforms_on().await;
        }
        (reform(&federation, "C-1", &id).await?.released_unix_ms > 0).then_some(())
    })
    .await;
    federation.wait_for_roster("C", 13).await;
    until("the move at the city", async || {
        let hosted = federation.host("C").units().get(&"C".parse().unwrap())?;
        let trust = hosted.unit.trust();
        (trust.parent(&"C-1-1-2".parse().unwrap())?.as_str() == "C-1-3").then_some(())
    })
    .await;
    federation.stop("C-1").await;
    let parent = Hostile::take_over(&federation.directory("C-1"), "C-1").await;
    let mut link = parent.link().await;
    let before = quarantined(&federation, "C").await;
    assert_eq!(before, []);
    for (missing, reason, holds) in [
        // It is in what its old parent reported last, and a gap at its new one.
        ("C-1-1-2", "moving", true),
        ("C-1-1-2", "no-report", false),
        ("C-1-1-1", "moving", false),
        ("C-2-1-1", "moving", false),
    ] {
        let (good, cells) = summary("C-1", 1, 9_999);
        let one = Summary { coverage: coverage(missing, reason), ..good };
        let envelope = parent.sign(&parent.header(kinds::SUMMARY), &encode_summary(&one));
        let lane_seq = link.deliver(Lane::Summary, envelope, cells).await;
        link.acknowledged(Lane::Summary, lane_seq).await;
        let last = quarantined(&federation, "C").await.pop();
        let expected = refused("malformed", "body.coverage.expected");
        assert_eq!(last, (!holds).then_some(expected), "{missing} {reason}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_division_that_one_refuses_moves_nobody_and_can_be_ordered_anew() {
    let federation = with_a_new_street().await;
    let whole = ("C-1", "C-1-1", "C-1-3");
    let nowhere = StatementId::generate(1_000);
    let wrong: [&[u8]; 1] = [nowhere.as_bytes()];
    let first = split(&federation, whole, &["C-1-1-2"], &wrong, (7, false)).await.unwrap();
    until("the refusal", async || {
        for host in ["C-1-1", "C-1-3", "C-1"] {
            federation.host(host).carry_reforms_on().await;
        }
        let seen = reform(&federation, "C-1", &first.id).await?;
        let refused = seen.answers.iter().any(|answer| answer.refused == "unknown-item");
        // Each child has answered, too: nothing of it is on its way any more.
        (refused && seen.silent.is_empty()).then_some(())
    })
    .await;
    let second = split(&federation, whole, &["C-1-1-2"], &[], (7, false)).await.unwrap();
    assert_ne!(second.id, first.id);
    wait_until_settled(&federation, "C-1", &second.id).await;
    assert!(!reform(&federation, "C-1", &first.id).await.unwrap().settled);
    // Given again it is the same one.
    let again = split(&federation, whole, &["C-1-1-2"], &[], (7, false)).await.unwrap();
    assert_eq!(again.id, second.id);
    federation.clock.shift_to(8 * 24 * 60 * 60 * 1000);
    until("the end of the division", async || {
        for host in ["C-1-1", "C-1-3", "C-1"] {
            federation.host(host).carry_reforms_on().await;
        }
        (reform(&federation, "C-1", &second.id).await?.released_unix_ms > 0).then_some(())
    })
    .await;
    assert_eq!(parent_of(&federation, "C-1-1-2").await, "C-1-3");
    let done = acts(&federation, "C-1").await;
    let done = done.iter().filter(|act| act.name == "unit.split" && act.refused.is_empty());
    assert_eq!(done.count(), 2, "twice ordered, whatever was repeated");
}
