//! Bodies for their readers alone, over real hosts: what a relay can find, what a forger can make of
//! a sealed body, and how a reader that comes later is let in.

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use lianxi_node::{
    clock::{Clock as _, SystemClock},
    domain::unit::UnitCode,
    identity::sealed::{ContentKey, Reader},
    link::Tap,
    statement::{
        Envelope,
        header::{self, Header, Sealing, StatementId, kinds},
        rejection,
        sealed::{self, KeyGrant, Outline, SealedBody, encode_body, encode_grant},
    },
};
use lianxi_proto::{
    admin::v1::{AddDeskRequest, QuarantineRequest, RevokeRequest},
    envelope,
    link::v1::{Frame, Lane, frame},
    local::v1::{
        AddEscalationDeskRequest, EscalationState, IssueNoticeRequest, MarkNoticeRequest,
        NoticeState, RaiseEscalationRequest, ShareEscalationRequest, ShareNoticeRequest,
        ShowEscalationRequest, ShowNoticeRequest, StepEscalationRequest,
    },
    types::v1::{
        Escalation, EscalationKind, EscalationStep, Level, Notice, ReceiptStage, RevocationReason,
    },
};
use lianxi_tests::{
    federation::Federation,
    hostile::{Hostile, HostileLink},
    log,
    wait::until,
};
use prost::Message as _;
use tonic::{Code, Status};

/// What only readers may see. Each is long enough not to turn up by chance.
const NOTICE_TITLE: &str = "clear the fire exits of the old market";
const NOTICE_TEXT: &str = "begin with the east gate behind the bakery";
const RECEIPT_NOTE: &str = "eleven exits cleared before the evening";
const WHISTLE_TITLE: &str = "gas smell at the market hall";
const WHISTLE_TEXT: &str = "strongest near the third staircase";
const STEP_NOTE: &str = "two fitters on their way with a meter";

const BODIES: [&str; 6] =
    [NOTICE_TITLE, NOTICE_TEXT, RECEIPT_NOTE, WHISTLE_TITLE, WHISTLE_TEXT, STEP_NOTE];

fn notice() -> Notice {
    Notice {
        number: "〔2026〕17号".into(),
        title: NOTICE_TITLE.into(),
        text: NOTICE_TEXT.into(),
        level: Level::Community.into(),
        duty_item: "street-light-inspection".into(),
        due_unix_ms: 4_000_000_000_000,
        ..Notice::default()
    }
}

fn whistle() -> Escalation {
    Escalation {
        number: "〔2026〕1号".into(),
        kind: EscalationKind::Emergency.into(),
        title: WHISTLE_TITLE.into(),
        text: WHISTLE_TEXT.into(),
        lead_desk: "GAS".into(),
        answer_within_ms: 600_000,
        arrive_within_ms: 1_800_000,
        approved_by: "street head".into(),
        ..Escalation::default()
    }
}

async fn issue(federation: &Federation, to: &str) -> Vec<u8> {
    let request = IssueNoticeRequest {
        unit: "C".into(),
        destination: to.into(),
        notice: Some(notice()),
        exercise: false,
    };
    let issued = federation.client("C").notices().issue(request).await.unwrap();
    issued.into_inner().notice_id
}

async fn shown(federation: &Federation, unit: &str, id: &[u8]) -> Result<NoticeState, Status> {
    let request = ShowNoticeRequest { unit: unit.into(), notice_id: id.to_vec() };
    Ok(federation.client(unit).notices().show(request).await?.into_inner())
}

async fn wait_for_stage(
    federation: &Federation,
    at: &str,
    id: &[u8],
    stage: ReceiptStage,
    units: usize,
) -> NoticeState {
    until(&format!("{units} units at {stage:?} at {at}"), async || {
        let state = shown(federation, at, id).await.ok()?;
        let reached = state.recipients.iter().filter(|unit| unit.stage() == stage).count();
        (reached == units).then_some(state)
    })
    .await
}

async fn share(
    federation: &Federation,
    by: &str,
    id: &[u8],
    to: &str,
) -> Result<NoticeState, Status> {
    let request = ShareNoticeRequest {
        unit: by.into(),
        notice_id: id.to_vec(),
        to: to.into(),
        dry_run: false,
    };
    Ok(federation.client(by).notices().share(request).await?.into_inner())
}

async fn add_desk(federation: &Federation, unit: &str, desk: &str) {
    let request = AddDeskRequest {
        unit: unit.into(),
        desk: desk.into(),
        title: desk.into(),
        line: "utilities".into(),
    };
    federation.client(unit).node().add_desk(request).await.unwrap();
}

/// Raises the whistle at C-1-1 for `to` and waits until it was given to its desks.
async fn raise(federation: &Federation, to: &str) -> Vec<u8> {
    raise_by(federation, "C-1-1", to).await
}

async fn raise_by(federation: &Federation, street: &str, to: &str) -> Vec<u8> {
    let request = RaiseEscalationRequest {
        unit: street.into(),
        destination: to.into(),
        escalation: Some(whistle()),
        exercise: false,
    };
    let raised = federation.client(street).escalations().raise(request).await.unwrap();
    let id = raised.into_inner().escalation_id;
    wait_for_case(federation, street, &id, |case| case.state() == EscalationStep::Routed).await;
    id
}

async fn case(federation: &Federation, unit: &str, id: &[u8]) -> Result<EscalationState, Status> {
    let request = ShowEscalationRequest { unit: unit.into(), escalation_id: id.to_vec() };
    Ok(federation.client(unit).escalations().show(request).await?.into_inner())
}

async fn wait_for_case(
    federation: &Federation,
    at: &str,
    id: &[u8],
    wanted: impl Fn(&EscalationState) -> bool,
) -> EscalationState {
    until(&format!("the case at {at}"), async || {
        case(federation, at, id).await.ok().filter(&wanted)
    })
    .await
}

async fn step(
    federation: &Federation,
    unit: &str,
    id: &[u8],
    step: EscalationStep,
    desk: &str,
) -> Result<EscalationState, Status> {
    let request = StepEscalationRequest {
        unit: unit.into(),
        escalation_id: id.to_vec(),
        step: step.into(),
        desk: desk.into(),
        note: STEP_NOTE.into(),
    };
    Ok(federation.client(unit).escalations().step(request).await?.into_inner())
}

async fn call_desk(
    federation: &Federation,
    unit: &str,
    id: &[u8],
    desk: &str,
) -> Result<EscalationState, Status> {
    let request = AddEscalationDeskRequest {
        unit: unit.into(),
        escalation_id: id.to_vec(),
        desk: desk.into(),
        dry_run: false,
    };
    Ok(federation.client(unit).escalations().add_desk(request).await?.into_inner())
}

#[derive(Default)]
struct Frames(Mutex<Vec<Vec<u8>>>);

impl Tap for Frames {
    fn frame(&self, _: &UnitCode, _: &UnitCode, bytes: &[u8]) {
        self.0.lock().unwrap().push(bytes.to_vec());
    }
}

/// Which of the bodies stand in `bytes`.
fn found_in(bytes: &[u8]) -> Vec<&'static str> {
    let holds = |text: &&&str| bytes.windows(text.len()).any(|part| part == text.as_bytes());
    BODIES.iter().filter(holds).copied().collect()
}

/// Every byte below a directory.
fn bytes_below(directory: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            bytes.extend(bytes_below(&path));
        } else if path.is_file() {
            bytes.extend(std::fs::read(&path).unwrap());
        }
    }
    bytes
}

/// The district passes a notice of the city and a whistle to the city on. It is searched whole:
/// every file of its host, every frame of every link, and all that its interface says.
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_holds_and_shows_nothing_of_a_body() {
    let frames = Arc::new(Frames::default());
    let mut federation = Federation::four_levels_with(Some(frames.clone())).await;
    add_desk(&federation, "C", "GAS").await;
    let id = issue(&federation, "C-1").await;
    wait_for_stage(&federation, "C", &id, ReceiptStage::Validated, 4).await;
    let request = MarkNoticeRequest {
        unit: "C-1-1-1".into(),
        notice_id: id.clone(),
        stage: ReceiptStage::Done.into(),
        note: RECEIPT_NOTE.into(),
    };
    federation.client("C-1-1").notices().mark(request).await.unwrap();
    let at_the_city = wait_for_stage(&federation, "C", &id, ReceiptStage::Done, 1).await;
    assert!(at_the_city.recipients.iter().any(|unit| unit.note == RECEIPT_NOTE));
    let case_id = raise(&federation, "C").await;
    step(&federation, "C", &case_id, EscalationStep::Answered, "GAS").await.unwrap();
    let answered = |case: &EscalationState| case.state() == EscalationStep::Answered;
    let at_the_street = wait_for_case(&federation, "C-1-1", &case_id, answered).await;
    assert_eq!(at_the_street.history.last().unwrap().note, STEP_NOTE);
    assert_eq!(at_the_street.escalation.unwrap().title, WHISTLE_TITLE);

    // What the relay shows: number, level, due date and stages, and that it is sealed.
    let relayed = wait_for_stage(&federation, "C-1", &id, ReceiptStage::Done, 1).await;
    assert!(relayed.sealed_for_others);
    let Notice { number, title, text, level, due_unix_ms, .. } = relayed.notice.clone().unwrap();
    assert_eq!((number.as_str(), due_unix_ms), ("〔2026〕17号", 4_000_000_000_000));
    assert_eq!((level, title.as_str(), text.as_str()), (Level::Community.into(), "", ""));
    let passed = case(&federation, "C-1", &case_id).await.unwrap();
    assert!(passed.sealed_for_others);
    assert_eq!(passed.escalation.as_ref().unwrap().number, "〔2026〕1号");
    let said = format!("{relayed:?} {passed:?}");
    assert_eq!(found_in(said.as_bytes()), [""; 0]);
    let refused = share(&federation, "C-1", &id, "C-1-1").await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");

    for host in ["C", "C-1", "C-1-1"] {
        federation.stop(host).await;
    }
    assert_eq!(found_in(&bytes_below(&federation.directory("C-1"))), [""; 0]);
    let sent = std::mem::take(&mut *frames.0.lock().unwrap());
    for kind in ["notice", "receipt", "escalation", "escalation-event"] {
        let name = format!("lianxi.{kind}.v1");
        let is_there = |bytes: &Vec<u8>| {
            matches!(Frame::decode(&bytes[..]).unwrap().kind, Some(frame::Kind::Delivery(_)))
                && bytes.windows(name.len()).any(|part| part == name.as_bytes())
        };
        assert!(sent.iter().any(is_there), "no {kind} was sent");
    }
    assert_eq!(found_in(&sent.concat()), [""; 0], "on a link");
    // The search itself works: a reader keeps the notes of those who reported to it.
    assert_eq!(found_in(&bytes_below(&federation.directory("C"))), [RECEIPT_NOTE, STEP_NOTE]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unit_that_joins_later_gets_the_notice_from_one_that_reads_it_on_the_record() {
    let mut federation = Federation::four_levels().await;
    let id = issue(&federation, "C-1").await;
    wait_for_stage(&federation, "C", &id, ReceiptStage::Validated, 4).await;
    federation.add_unit("C-1-1-3", "C-1-1", Level::Community).await;
    federation.wait_for_catalogue("C-1-1-3").await;
    federation.wait_for_roster("C", 13).await;
    assert_eq!(shown(&federation, "C-1-1-3", &id).await.unwrap_err().code(), Code::NotFound);

    let request = ShareNoticeRequest {
        unit: "C".into(),
        notice_id: id.clone(),
        to: "C-1-1-3".into(),
        dry_run: true,
    };
    let tried = federation.client("C").notices().share(request).await.unwrap().into_inner();
    assert!(tried.given.is_empty());
    let given = share(&federation, "C", &id, "C-1-1-3").await.unwrap().given;
    assert_eq!((given[0].by.as_str(), given[0].unit.as_str()), ("C", "C-1-1-3"));
    let state = wait_for_stage(&federation, "C", &id, ReceiptStage::Validated, 5).await;
    assert_eq!(state.given.len(), 1);
    let at_the_unit = shown(&federation, "C-1-1-3", &id).await.unwrap();
    assert_eq!(at_the_unit.notice.unwrap().text, NOTICE_TEXT);
    assert_eq!(at_the_unit.given, state.given);

    let again = share(&federation, "C", &id, "C-1-1-3").await.unwrap_err();
    assert_eq!(again.code(), Code::AlreadyExists, "{again}");
    // A community reads, but may give to nobody beside it.
    let aside = share(&federation, "C-1-1-3", &id, "C-1-2-1").await.unwrap_err();
    assert_eq!(aside.code(), Code::FailedPrecondition, "{aside}");

    // The district has the statement, and reads it from now on.
    share(&federation, "C", &id, "C-1").await.unwrap();
    let reads = until("the district to read", async || {
        shown(&federation, "C-1", &id).await.ok().filter(|state| !state.sealed_for_others)
    })
    .await;
    assert_eq!(reads.notice.unwrap().title, NOTICE_TITLE);
    assert_eq!(reads.recipients.len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sealed_to_a_unit_that_was_revoked() {
    let frames = Arc::new(Frames::default());
    let federation = Federation::four_levels_with(Some(frames.clone())).await;
    let order = RevokeRequest {
        unit: "C".into(),
        revoked: "C-1-2-1".into(),
        reason: RevocationReason::KeyStolen.into(),
        ..RevokeRequest::default()
    };
    federation.client("C").node().revoke(order).await.unwrap();
    let id = issue(&federation, "C-1").await;
    wait_for_stage(&federation, "C", &id, ReceiptStage::Validated, 3).await;
    let sent = std::mem::take(&mut *frames.0.lock().unwrap());
    let readers = sent.iter().find_map(|frame| {
        let Some(frame::Kind::Delivery(delivery)) = Frame::decode(&frame[..]).unwrap().kind else {
            return None;
        };
        let statement = header::decode(&delivery.envelope?.payload).unwrap();
        (statement.header.id.as_bytes()[..] == id)
            .then(|| sealed::decode_body(&statement.body).unwrap().recipients.len())
    });
    // The city itself, and three of four communities.
    assert_eq!(readers, Some(1 + 3));
    let refused = share(&federation, "C", &id, "C-1-2-1").await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("revoked"), "{refused}");
}

/// More readers than a notice names itself: they get their keys by grants, which go on after a stop.
#[tokio::test(flavor = "multi_thread")]
async fn a_notice_for_many_is_read_by_each_of_them_and_by_nobody_between() {
    const MANY: usize = 40;
    let frames = Arc::new(Frames::default());
    let mut federation = Federation::city_with("C", Some(frames.clone())).await;
    federation.add_host("C-1", "C", Level::District).await;
    for street in ["C-1-1", "C-1-2"] {
        federation.add_unit(street, "C-1", Level::Street).await;
    }
    let communities: Vec<_> =
        (0..MANY).map(|number| format!("C-1-{}-{number}", 1 + number % 2)).collect();
    for community in &communities {
        federation.add_unit(community, &community[..5], Level::Community).await;
        federation.wait_for_catalogue(community).await;
    }
    federation.wait_for_roster("C", MANY + 4).await;
    let id = issue(&federation, "C-1").await;
    federation.stop("C").await;
    federation.start("C").await;
    wait_for_stage(&federation, "C", &id, ReceiptStage::Validated, MANY).await;
    for unit in &communities {
        let state = shown(&federation, unit, &id).await.unwrap();
        assert_eq!(state.notice.unwrap().text, NOTICE_TEXT, "{unit}");
        assert_eq!(state.given.len(), 1, "{unit}");
        assert_eq!(state.given[0].by, "C");
    }
    for relay in ["C-1", "C-1-1", "C-1-2"] {
        assert!(shown(&federation, relay, &id).await.unwrap().sealed_for_others, "{relay}");
    }
    let sent = std::mem::take(&mut *frames.0.lock().unwrap());
    assert_eq!(found_in(&sent.concat()), [""; 0]);
    let (mut grants, mut largest) = (0, 0);
    for frame in sent {
        if let Some(frame::Kind::Delivery(delivery)) = Frame::decode(&frame[..]).unwrap().kind {
            let payload = delivery.envelope.unwrap().payload;
            let header = header::decode(&payload).unwrap().header;
            largest = largest.max(payload.len());
            grants += usize::from(header.kind == kinds::KEY_GRANT);
        }
    }
    // One for each street, over each of its links.
    assert!(grants >= 2 + 2 + MANY, "{grants}");
    assert!(largest <= envelope::MAX_PAYLOAD_BYTES);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_desk_that_is_called_later_acts_and_both_sides_know() {
    let federation = Federation::four_levels().await;
    for desk in ["GAS", "WATER", "FIRE"] {
        add_desk(&federation, "C-1", desk).await;
    }
    let id = raise(&federation, "C-1").await;
    let early = step(&federation, "C-1", &id, EscalationStep::Answered, "WATER").await;
    assert_eq!(early.unwrap_err().code(), Code::PermissionDenied);
    let nobody = call_desk(&federation, "C-1", &id, "POWER").await.unwrap_err();
    assert_eq!(nobody.code(), Code::NotFound, "{nobody}");
    let called = call_desk(&federation, "C-1", &id, "GAS").await.unwrap_err();
    assert_eq!(called.code(), Code::InvalidArgument, "{called}");

    let state = call_desk(&federation, "C-1", &id, "WATER").await.unwrap();
    assert_eq!(state.added_desks, ["WATER"]);
    assert_eq!((state.given[0].unit.as_str(), state.given[0].desk.as_str()), ("C-1", "WATER"));
    step(&federation, "C-1", &id, EscalationStep::Answered, "WATER").await.unwrap();
    let answered = |case: &EscalationState| case.history.len() == 2;
    let at_the_street = wait_for_case(&federation, "C-1-1", &id, answered).await;
    assert_eq!(at_the_street.history[1].desk, "WATER");
    assert_eq!(at_the_street.added_desks, ["WATER"]);
    assert_eq!(at_the_street.given[0].by, "C-1");
    assert_eq!(at_the_street.given[0].desk, "WATER");

    // The street may call too.
    call_desk(&federation, "C-1-1", &id, "FIRE").await.unwrap();
    let both = |case: &EscalationState| case.added_desks.len() == 2;
    let at_the_district = wait_for_case(&federation, "C-1", &id, both).await;
    assert_eq!(at_the_district.given[1].by, "C-1-1");
    step(&federation, "C-1", &id, EscalationStep::Answered, "FIRE").await.unwrap();

    // A unit above is given the whistle, and has no say in the case.
    let request = ShareEscalationRequest {
        unit: "C-1".into(),
        escalation_id: id.clone(),
        to: "C".into(),
        dry_run: false,
    };
    assert_eq!(case(&federation, "C", &id).await.unwrap_err().code(), Code::NotFound);
    federation.client("C-1").escalations().share(request).await.unwrap();
    let at_the_city = wait_for_case(&federation, "C", &id, |_| true).await;
    assert_eq!(at_the_city.escalation.unwrap().text, WHISTLE_TEXT);
    let refused = call_desk(&federation, "C", &id, "WATER").await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    let refused = step(&federation, "C", &id, EscalationStep::Closed, "").await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_seems_to_be_personal_is_refused_before_it_is_sealed() {
    let federation = Federation::four_levels().await;
    let request = IssueNoticeRequest {
        unit: "C".into(),
        destination: "C-1".into(),
        notice: Some(Notice { text: "call 13812345678".into(), ..notice() }),
        exercise: false,
    };
    let refused = federation.client("C").notices().issue(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    let request = RaiseEscalationRequest {
        unit: "C-1-1".into(),
        destination: String::new(),
        escalation: Some(Escalation { text: "call 13812345678".into(), ..whistle() }),
        exercise: false,
    };
    let refused = federation.client("C-1-1").escalations().raise(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
}

/// A street in hostile hands, linked to its district.
struct Forger {
    federation: Federation,
    culprit: Hostile,
    link: HostileLink,
}

impl Forger {
    async fn new() -> Self {
        log::capture();
        let mut federation = Federation::four_levels().await;
        add_desk(&federation, "C-1", "GAS").await;
        federation.stop("C-1-1").await;
        let culprit = Hostile::take_over(&federation.directory("C-1-1"), "C-1-1").await;
        let link = culprit.link().await;
        Self { federation, culprit, link }
    }

    fn header(&self, kind: &str, subject: &str) -> Header {
        Header {
            subject: subject.to_owned(),
            destination: Some("C-1".parse().unwrap()),
            ..self.culprit.header(kind)
        }
    }

    /// A good whistle, taken apart.
    fn whistle(&self) -> (Header, SealedBody, ContentKey) {
        let key = ContentKey::generate();
        let header = self.header(kinds::ESCALATION, &whistle().number);
        let body = whistle().encode_to_vec();
        let (header, body) = self.culprit.seal(&header, &key, &["C-1-1", "C-1"], &body);
        (header, body, key)
    }

    async fn send(&mut self, lane: Lane, envelope: Envelope) {
        let lane_seq = self.link.deliver(lane, envelope, Vec::new()).await;
        self.link.acknowledged(lane, lane_seq).await;
    }

    /// Sends what is to be refused; the sender is told, the operator sees it, and neither says
    /// anything of a body.
    async fn is_refused(
        &mut self,
        attack: &str,
        lane: Lane,
        envelope: Envelope,
        expected: (&str, &str),
    ) {
        let digest = envelope::payload_sha256(&envelope);
        self.send(lane, envelope).await;
        let trust = &self.culprit.trust;
        let told = self
            .link
            .statement(|envelope| {
                let opened = trust.open(envelope, SystemClock.now_unix_ms()).ok()?;
                let is_rejection = opened.statement.header.kind == kinds::REJECTION;
                let told = rejection::decode_body(&opened.statement.body).ok();
                told.filter(|told| is_rejection && told.payload_sha256 == digest)
            })
            .await;
        let words = (told.reason.as_str(), told.field.as_str());
        assert_eq!(words, expected, "{attack}: {}", told.detail);
        let request = QuarantineRequest { unit: "C-1".into(), ..QuarantineRequest::default() };
        let mut node = self.federation.client("C-1").node();
        let listed = node.quarantine(request).await.unwrap().into_inner().statements;
        let entry = listed.iter().find(|entry| entry.payload_sha256 == digest).unwrap();
        assert_eq!((entry.reason.as_str(), entry.field.as_str()), expected, "{attack}");
        assert_eq!(found_in(format!("{listed:?}").as_bytes()), [""; 0], "{attack}");
        let parts = ["statement refused", &hex::encode(digest)];
        let line = log::find(&parts).unwrap_or_else(|| panic!("{attack}: no line in the log"));
        assert_eq!(found_in(line.as_bytes()), [""; 0], "{attack}");
    }

    /// A good whistle is still taken, on the same link.
    async fn goes_on(&mut self) -> Vec<u8> {
        let (header, body, _) = self.whistle();
        let good = self.culprit.sign(&header, &encode_body(&body));
        self.send(Lane::Escalation, good).await;
        let id = header.id.as_bytes().to_vec();
        let taken = case(&self.federation, "C-1", &id).await.unwrap();
        assert_eq!(taken.escalation.unwrap().title, WHISTLE_TITLE);
        id
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_not_sealed_or_sealed_for_others_is_refused() {
    let mut forger = Forger::new().await;
    let lane = Lane::Escalation;
    let not_sealed = ("not-sealed", "header.key_commitment");
    let header = forger.header(kinds::ESCALATION, &whistle().number);
    let clear = forger.culprit.sign(&header, &whistle().encode_to_vec());
    forger.is_refused("a whistle in the clear", lane, clear, not_sealed).await;
    let header = forger.header(kinds::ESCALATION_EVENT, "");
    let clear = forger.culprit.sign(&header, b"");
    forger.is_refused("a step in the clear", lane, clear, not_sealed).await;
    let header = forger.header(kinds::RECEIPT, &header.id.to_string());
    let clear = forger.culprit.sign(&header, b"");
    forger.is_refused("a receipt in the clear", Lane::Notice, clear, not_sealed).await;

    let not_a_reader = ("not-a-reader", "body.recipients");
    let readers = ["C-1-1", "C"];
    let header = forger.header(kinds::ESCALATION, &whistle().number);
    let body = whistle().encode_to_vec();
    let others = forger.culprit.sign_sealed(&header, &readers, &body);
    forger.is_refused("a whistle for others", lane, others, not_a_reader).await;
    let header = forger.header(kinds::ESCALATION_EVENT, &header.id.to_string());
    let others = forger.culprit.sign_sealed(&header, &readers, b"");
    forger.is_refused("a step for others", lane, others, not_a_reader).await;
    let mut header = forger.header(kinds::RECEIPT, &header.id.to_string());
    header.sealing = Some(receipt_sealing(ReceiptStage::Seen));
    let others = forger.culprit.sign_sealed(&header, &readers, b"");
    forger.is_refused("a receipt for others", Lane::Notice, others, not_a_reader).await;
    forger.goes_on().await;
}

fn receipt_sealing(stage: ReceiptStage) -> Sealing {
    let stage = lianxi_node::statement::notice::stage_from_proto(stage).unwrap();
    let outline = Some(Outline::Receipt { stage, reason: String::new() });
    Sealing { key_commitment: [0; 32], outline }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_body_opens_under_its_own_header_and_with_its_own_key_alone() {
    let mut forger = Forger::new().await;
    let lane = Lane::Escalation;
    let (keys, text) = (("bad-seal", "body.recipients"), ("bad-seal", "body.ciphertext"));

    let (header, body, _) = forger.whistle();
    let other = Header { id: forger.culprit.header("").id, ..header.clone() };
    let moved = forger.culprit.sign(&other, &encode_body(&body));
    forger.is_refused("a body under another header", lane, moved, keys).await;

    // The keys are made anew for the header, the ciphertext is not.
    let (header, body, key) = forger.whistle();
    let other = Header { id: forger.culprit.header("").id, ..header };
    let district = forger.culprit.reader("C-1");
    let sealed_key = key.seal_to(&header::header_sha256(&other), &district).unwrap();
    let moved = SealedBody { recipients: vec![sealed_key], ..body };
    let moved = forger.culprit.sign(&other, &encode_body(&moved));
    forger.is_refused("a ciphertext under another header", lane, moved, text).await;

    let (header, mut body, _) = forger.whistle();
    district.key_id().clone_into(&mut body.recipients[0].key_id);
    body.recipients.truncate(1);
    let relabelled = forger.culprit.sign(&header, &encode_body(&body));
    forger.is_refused("the key of another reader", lane, relabelled, keys).await;

    // Everything fits but the commitment: one ciphertext could mean two things to two readers.
    let (header, _, _) = forger.whistle();
    let other = ContentKey::generate();
    let digest = header::header_sha256(&header);
    let swapped = other.seal(&digest, &[district], &whistle().encode_to_vec()).unwrap();
    let swapped = forger.culprit.sign(&header, &encode_body(&swapped));
    forger.is_refused("a key that the header does not name", lane, swapped, keys).await;
    forger.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_cut_or_changed_in_a_sealed_body_is_refused() {
    let mut forger = Forger::new().await;
    let (keys, text) = (("bad-seal", "body.recipients"), ("bad-seal", "body.ciphertext"));
    type Change = fn(&mut SealedBody);
    let changes: [(&str, (&str, &str), Change); 6] = [
        ("a cut ciphertext", text, |body| body.ciphertext.truncate(body.ciphertext.len() - 1)),
        ("a ciphertext without its tag", ("malformed", "body.ciphertext"), |body| {
            body.ciphertext.truncate(15);
        }),
        ("a changed ciphertext", text, |body| body.ciphertext[0] ^= 1),
        ("a changed nonce", text, |body| body.nonce[0] ^= 1),
        ("a changed key", keys, |body| body.recipients[1].sealed_key[0] ^= 1),
        ("a changed secret", keys, |body| body.recipients[1].encapsulated[0] ^= 1),
    ];
    for (attack, expected, change) in changes {
        let (header, mut body, _) = forger.whistle();
        change(&mut body);
        let changed = forger.culprit.sign(&header, &encode_body(&body));
        forger.is_refused(attack, Lane::Escalation, changed, expected).await;
    }
    forger.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_that_says_something_else_than_its_sealed_body_is_refused() {
    let mut forger = Forger::new().await;
    let header = forger.header(kinds::ESCALATION, "〔2026〕99号");
    let body = whistle().encode_to_vec();
    let lie = forger.culprit.sign_sealed(&header, &["C-1"], &body);
    let expected = ("malformed", "header.subject");
    forger.is_refused("another number", Lane::Escalation, lie, expected).await;

    let notice = StatementId::generate(1);
    let receipt = |stage: ReceiptStage| lianxi_proto::types::v1::Receipt {
        notice_id: notice.as_bytes().to_vec(),
        stage: stage.into(),
        ..lianxi_proto::types::v1::Receipt::default()
    };
    let mut header = forger.header(kinds::RECEIPT, &notice.to_string());
    header.sealing = Some(receipt_sealing(ReceiptStage::Done));
    let body = receipt(ReceiptStage::Refused).encode_to_vec();
    let lie = forger.culprit.sign_sealed(&header, &["C-1"], &body);
    let expected = ("malformed", "header.outline");
    forger.is_refused("another stage", Lane::Notice, lie, expected).await;
    forger.goes_on().await;
}

/// A grant of `key` for the statement with this header, to these readers.
fn grant(
    header: &Header,
    key: &ContentKey,
    readers: &[Reader],
    change: impl FnOnce(&mut KeyGrant),
) -> Vec<u8> {
    let digest = header::header_sha256(header);
    let recipients = readers.iter().map(|reader| key.seal_to(&digest, reader).unwrap());
    let mut grant = KeyGrant {
        statement_id: header.id,
        recipients: recipients.collect(),
        statement: None,
        desk: None,
        succeeds: None,
    };
    change(&mut grant);
    encode_grant(&grant)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_not_the_givers_to_give_is_refused() {
    let mut forger = Forger::new().await;
    let lane = Lane::Escalation;
    let (whistle, body, key) = forger.whistle();
    let good = forger.culprit.sign(&whistle, &encode_body(&body));
    forger.send(lane, good.clone()).await;
    let district = [forger.culprit.reader("C-1")];
    let id = whistle.id.to_string();

    let header = forger.header(kinds::KEY_GRANT, &id);
    let other = ContentKey::generate();
    let body = grant(&whistle, &other, &district, |_| {});
    let wrong = forger.culprit.sign(&header, &body);
    let bad_seal = ("bad-seal", "body.recipients");
    forger.is_refused("another key", lane, wrong, bad_seal).await;

    let header = forger.header(kinds::KEY_GRANT, &id);
    let elsewhere = Header { subject: "moved".into(), ..whistle.clone() };
    let wrong = forger.culprit.sign(&header, &grant(&elsewhere, &key, &district, |_| {}));
    forger.is_refused("a key for another header", lane, wrong, bad_seal).await;

    let header = forger.header(kinds::KEY_GRANT, &id);
    let own = [forger.culprit.reader("C-1-1")];
    let wrong = forger.culprit.sign(&header, &grant(&whistle, &key, &own, |_| {}));
    let unknown = ("unknown-key", "body.recipients");
    forger.is_refused("a key for somebody else", lane, wrong, unknown).await;

    let header = Header { destination: None, ..forger.header(kinds::KEY_GRANT, &id) };
    let wrong = forger.culprit.sign(&header, &grant(&whistle, &key, &district, |_| {}));
    let upward = ("malformed", "header.destination");
    forger.is_refused("keys for many from below", lane, wrong, upward).await;

    let header = forger.header(kinds::KEY_GRANT, &id);
    let missing = Header { id: forger.culprit.header("").id, ..whistle.clone() };
    let body = grant(&missing, &key, &district, |grant| grant.statement = Some(good));
    let wrong = forger.culprit.sign(&header, &body);
    let inside = ("malformed", "body.statement");
    forger.is_refused("another statement inside", lane, wrong, inside).await;

    let header = forger.header(kinds::KEY_GRANT, &id);
    let body = grant(&whistle, &key, &district, |grant| {
        grant.desk = Some("POWER".parse().unwrap());
    });
    let wrong = forger.culprit.sign(&header, &body);
    let no_desk = ("malformed", "body.desk");
    forger.is_refused("a desk that is not there", lane, wrong, no_desk).await;
    forger.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_calls_a_desk_to_the_case_of_somebody_else() {
    let mut forger = Forger::new().await;
    add_desk(&forger.federation, "C-1", "WATER").await;
    let id = raise_by(&forger.federation, "C-1-2", "C-1").await;
    let statement_id = StatementId::try_from(&id[..]).unwrap();
    // The forger knows the id alone.
    let key = ContentKey::generate();
    let sealed = key.seal_to(&[0; 32], &forger.culprit.reader("C-1-1")).unwrap();
    let body = encode_grant(&KeyGrant {
        statement_id,
        recipients: vec![sealed],
        statement: None,
        desk: Some("WATER".parse().unwrap()),
        succeeds: None,
    });
    let header = forger.header(kinds::KEY_GRANT, &statement_id.to_string());
    let call = forger.culprit.sign(&header, &body);
    let expected = ("wrong-source", "body.desk");
    forger.is_refused("a sibling's case", Lane::Escalation, call, expected).await;
    let state = case(&forger.federation, "C-1", &id).await.unwrap();
    assert!(state.added_desks.is_empty() && state.given.is_empty(), "{state:?}");
    forger.goes_on().await;
}
