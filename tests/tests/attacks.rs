//! Attempts to break in over real hosts: each is refused with its own reason, logged, shown to the
//! operator, and costs nobody else anything.

use lianxi_node::{
    clock::{Clock as _, SystemClock},
    domain::{
        component::{Component, MeasureKind},
        period::Period,
        summary::{Coverage, FigureKey, FigureSet, Figures, Summary, SummaryKind},
    },
    identity::{
        certificates,
        keys::UnitKeys,
        tls::{self, Purpose, UnitTls},
        token::Token,
    },
    node::{self, JoinOptions},
    statement::{
        Envelope, SaltedCell,
        header::{self, Header, kinds},
        rejection,
        summary::{encode_body, seal},
    },
};
use lianxi_proto::{
    admin::v1::{QuarantineRequest, QuarantinedStatement, StatusRequest, UnitStatus},
    envelope::{self, Signer},
    link::v1::{Heartbeat, Hello, Lane, frame::Kind},
    local::v1::{
        IssueNoticeRequest, RaiseEscalationRequest, ShowEscalationRequest, ShowNoticeRequest,
        ShowSummaryRequest, UnitFigures,
    },
    types::v1::{
        Escalation, EscalationEvent, EscalationKind, EscalationStep, Level, Notice, ReceiptStage,
        Scope,
    },
};
use lianxi_tests::{
    federation::{Federation, count},
    hostile::{Hostile, HostileLink, sign},
    log,
    wait::until,
};
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::{Code, Status};

const PERIOD: &str = "2011-07";

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// A federation in which one unit is in hostile hands and linked to its parent.
struct Breach {
    federation: Federation,
    parent: String,
    culprit: Hostile,
    link: HostileLink,
    version: u64,
}

impl Breach {
    /// Takes over `unit`, whose host stops.
    async fn of(unit: &str) -> Self {
        log::capture();
        let mut federation = Federation::four_levels().await;
        federation.stop(unit).await;
        let culprit = Hostile::take_over(&federation.directory(unit), unit).await;
        let parent = culprit.identity.parent.as_ref().unwrap().unit.to_string();
        let link = culprit.link().await;
        Self { federation, parent, culprit, link, version: 0 }
    }

    /// Takes over another unit, whose host stops.
    async fn accomplice(&mut self, unit: &str) -> Hostile {
        self.federation.stop(unit).await;
        Hostile::take_over(&self.federation.directory(unit), unit).await
    }

    /// Keys of another unit on the culprit's own host.
    async fn hosted(&self, unit: &str) -> Hostile {
        Hostile::take_over(&self.federation.directory(unit), unit).await
    }

    /// Sends what is to be refused, and looks at all that must come of it.
    async fn is_refused(
        &mut self,
        attack: &str,
        lane: Lane,
        (envelope, cells): (Envelope, Vec<SaltedCell>),
        (reason, field): (&str, &str),
    ) {
        let digest = envelope::payload_sha256(&envelope);
        let lane_seq = self.link.deliver(lane, envelope, cells).await;
        self.link.acknowledged(lane, lane_seq).await;

        let trust = &self.culprit.trust;
        let (source, rejection) = self
            .link
            .statement(|envelope| {
                let opened = trust.open(envelope, SystemClock.now_unix_ms()).ok()?;
                let header = opened.statement.header;
                let rejection = rejection::decode_body(&opened.statement.body).ok();
                let rejection = rejection.filter(|_| header.kind == kinds::REJECTION)?;
                (rejection.payload_sha256 == digest).then_some((header.source, rejection))
            })
            .await;
        assert_eq!(source.as_str(), self.parent, "{attack}");
        let told = (rejection.reason.as_str(), rejection.field.as_str());
        assert_eq!(told, (reason, field), "{attack}: {}", rejection.detail);

        let shown = self.quarantined(&digest).await;
        let shown = shown.unwrap_or_else(|| panic!("{attack}: the operator sees nothing"));
        assert!(shown.refused_here, "{attack}");
        assert_eq!((shown.reason.as_str(), shown.field.as_str()), (reason, field), "{attack}");
        assert_eq!(shown.peer, self.culprit.unit().as_str(), "{attack}");
        assert!(!shown.detail.is_empty(), "{attack}");

        let parts = ["statement refused", &hex::encode(digest), &format!("reason={reason:?}")];
        assert!(log::find(&parts).is_some(), "{attack}: no line in the log");
    }

    async fn quarantined(&self, digest: &[u8]) -> Option<QuarantinedStatement> {
        let request = QuarantineRequest { unit: self.parent.clone() };
        let mut node = self.federation.client(&self.parent).node();
        let listed = node.quarantine(request).await.unwrap().into_inner().statements;
        listed.into_iter().find(|statement| statement.payload_sha256 == digest)
    }

    /// A good summary of the culprit is still taken, on the same link.
    async fn goes_on(&mut self) {
        self.version += 1;
        let received = 100 + self.version;
        let (summary, cells) = summary(self.culprit.unit().as_str(), received, self.version);
        let header = self.culprit.header(kinds::SUMMARY);
        let envelope = self.culprit.sign(&header, &encode_body(&summary));
        let lane_seq = self.link.deliver(Lane::Summary, envelope, cells).await;
        self.link.acknowledged(Lane::Summary, lane_seq).await;
        let unit = self.culprit.unit().to_string();
        let held = report(&self.federation, &self.parent, &unit).await.unwrap();
        assert_eq!(count(&held, "received", Scope::Subtree), received);
    }

    /// A summary of the culprit with a header that the caller changes.
    fn summary(&self, change: impl FnOnce(&mut Header)) -> (Envelope, Vec<SaltedCell>) {
        let (summary, cells) = summary(self.culprit.unit().as_str(), 9_999, 9_999);
        let mut header = self.culprit.header(kinds::SUMMARY);
        change(&mut header);
        (self.culprit.sign(&header, &encode_body(&summary)), cells)
    }
}

/// Figures of one indicator of the kit's catalogue.
/// Everything that the kit's catalogue declares, zero but for `component`.
fn figures(component: Component, group: &str) -> FigureSet {
    let key = |indicator: &str, group: &str| FigureKey {
        indicator: indicator.into(),
        version: 1,
        group: group.into(),
    };
    let mut figures = Figures::from([
        (key("closed", ""), Component::zero(MeasureKind::Count)),
        (key("close_seconds", ""), Component::zero(MeasureKind::Sum)),
        (key("types", ""), Component::zero(MeasureKind::Distinct)),
    ]);
    figures.insert(key("received", group), component);
    FigureSet { own: figures.clone(), subtree: figures }
}

fn summary_of(unit: &str, figures: &FigureSet, version: u64) -> (Summary, Vec<SaltedCell>) {
    let sealed = seal(figures).unwrap();
    let summary = Summary {
        unit: unit.parse().unwrap(),
        period: PERIOD.parse::<Period>().unwrap(),
        kind: SummaryKind::Reported,
        version,
        supersedes: None,
        cells_root: sealed.root,
        cells_count: u32::try_from(sealed.cells.len()).unwrap(),
        coverage: Coverage { expected: 1, included: 1, ..Coverage::default() },
        as_of_unix_ms: SystemClock.now_unix_ms(),
    };
    (summary, sealed.cells)
}

fn summary(unit: &str, received: u64, version: u64) -> (Summary, Vec<SaltedCell>) {
    summary_of(unit, &figures(Component::Count(received), ""), version)
}

/// A summary that the unit itself makes and signs.
fn own_summary(unit: &Hostile, received: u64) -> (Envelope, Vec<SaltedCell>) {
    let (summary, cells) = summary(unit.unit().as_str(), received, 1);
    (unit.sign(&unit.header(kinds::SUMMARY), &encode_body(&summary)), cells)
}

/// What `unit` holds as the report of `of`.
async fn report(federation: &Federation, unit: &str, of: &str) -> Result<UnitFigures, Status> {
    let request = ShowSummaryRequest { unit: unit.into(), of: of.into(), period: PERIOD.into() };
    Ok(federation.client(unit).summaries().show(request).await?.into_inner())
}

async fn status(federation: &Federation, unit: &str) -> UnitStatus {
    let mut node = federation.client(unit).node();
    let units = node.status(StatusRequest {}).await.unwrap().into_inner().units;
    units.into_iter().find(|status| status.unit == unit).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tampered_summary_is_refused_and_the_lane_goes_on() {
    let mut breach = Breach::of("C-1-1").await;
    breach.goes_on().await;

    let (mut envelope, cells) = breach.summary(|_| {});
    let mut payload = envelope.payload.to_vec();
    *payload.last_mut().unwrap() ^= 1;
    envelope.payload = payload.into();
    let reason = ("bad-signature", "signatures");
    breach.is_refused("a flipped byte", Lane::Summary, (envelope, cells), reason).await;
    breach.goes_on().await;

    let (envelope, mut cells) = breach.summary(|_| {});
    let mut cell = cells[0].cell.to_vec();
    *cell.last_mut().unwrap() ^= 1;
    cells[0].cell = cell;
    let reason = ("cells-do-not-match", "cells");
    breach.is_refused("a flipped cell", Lane::Summary, (envelope, cells), reason).await;
    breach.goes_on().await;

    let (envelope, mut cells) = breach.summary(|_| {});
    cells.pop();
    breach.is_refused("a cell left out", Lane::Summary, (envelope, cells), reason).await;
    breach.goes_on().await;

    assert_eq!(status(&breach.federation, "C-1").await.quarantined, 3);

    // Back in good hands, the street's operator sees what was refused in its name.
    let Breach { mut federation, link, .. } = breach;
    drop(link);
    federation.start("C-1-1").await;
    let told = until("the reasons at the street", async || {
        let request = QuarantineRequest { unit: "C-1-1".into() };
        let listed = federation.client("C-1-1").node().quarantine(request).await.ok()?.into_inner();
        (listed.statements.len() == 3).then_some(listed.statements)
    })
    .await;
    assert!(told.iter().all(|statement| !statement.refused_here && statement.peer == "C-1"));
    assert_eq!(told.iter().filter(|it| it.reason == "cells-do-not-match").count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unit_speaks_for_nobody_but_itself() {
    let mut breach = Breach::of("C-1-1").await;

    let as_sibling = breach.summary(|header| header.source = "C-1-2".parse().unwrap());
    let reason = ("wrong-source", "header.source");
    breach.is_refused("a sibling's name", Lane::Summary, as_sibling, reason).await;

    let (other, cells) = summary("C-1-2", 9_999, 9_999);
    let header = breach.culprit.header(kinds::SUMMARY);
    let inside = (breach.culprit.sign(&header, &encode_body(&other)), cells);
    let reason = ("wrong-source", "body.unit");
    breach.is_refused("a sibling's figures", Lane::Summary, inside, reason).await;

    let sibling = breach.accomplice("C-1-2").await;
    let siblings = own_summary(&sibling, 9_999);
    let reason = ("outside-subtree", "header.source");
    breach.is_refused("a sibling's own summary", Lane::Summary, siblings, reason).await;

    let stranger = breach.accomplice("C-2-1").await;
    let strangers = own_summary(&stranger, 9_999);
    let reason = ("unknown-key", "signatures");
    breach.is_refused("another district's summary", Lane::Summary, strangers, reason).await;

    let community = breach.hosted("C-1-1-1").await;
    let communitys = own_summary(&community, 9_999);
    let reason = ("wrong-source", "header.source");
    breach.is_refused("a community's summary, relayed", Lane::Summary, communitys, reason).await;

    let (own, cells) = summary("C-1-1", 9_999, 9_999);
    let header = breach.culprit.header(kinds::SUMMARY);
    let delegation = &breach.culprit.keys.delegation;
    let wrong_key = (sign(&header, &encode_body(&own), delegation), cells.clone());
    let reason = ("unknown-key", "signatures");
    breach.is_refused("a key for other uses", Lane::Summary, wrong_key, reason).await;
    let new_key = (sign(&header, &encode_body(&own), &Signer::from_seed(&[7; 32])), cells);
    breach.is_refused("a key nobody knows", Lane::Summary, new_key, reason).await;

    breach.goes_on().await;
    for of in ["C-1-2", "C-2-1", "C-1-1-1"] {
        let held = report(&breach.federation, "C-1", of).await;
        assert_eq!(held.unwrap_err().code(), Code::NotFound, "{of}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_district_speaks_for_no_unit_outside_its_subtree() {
    let mut breach = Breach::of("C-1").await;
    let stranger = breach.accomplice("C-2-1").await;
    let strangers = own_summary(&stranger, 9_999);
    let reason = ("outside-subtree", "header.source");
    breach.is_refused("another district's summary", Lane::Summary, strangers, reason).await;
    breach.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_malformed_or_over_a_limit_is_refused_and_the_lane_goes_on() {
    let mut breach = Breach::of("C-1-1").await;
    let signed = |breach: &Breach, kind: &str, body: &[u8]| {
        (breach.culprit.sign(&breach.culprit.header(kind), body), Vec::new())
    };

    let unknown = signed(&breach, "lianxi.wish.v1", b"");
    let reason = ("unknown-type", "header.type");
    breach.is_refused("an unknown type", Lane::Summary, unknown, reason).await;
    let delegation = signed(&breach, kinds::DELEGATION, b"");
    breach.is_refused("a delegation as delivery", Lane::Summary, delegation, reason).await;
    let misplaced = breach.summary(|_| {});
    breach.is_refused("a wrong lane", Lane::Notice, misplaced, reason).await;

    let noise = signed(&breach, kinds::SUMMARY, &[0xff; 64]);
    breach.is_refused("noise", Lane::Summary, noise, ("malformed", "body")).await;
    breach.goes_on().await;

    let long = breach.summary(|header| header.subject = "x".repeat(20_000));
    let reason = ("malformed", "header.subject");
    breach.is_refused("a long subject", Lane::Summary, long, reason).await;
    let future = breach.summary(|header| header.time_unix_ms += 10 * DAY_MS);
    let reason = ("expired", "header.time_unix_ms");
    breach.is_refused("a statement of next week", Lane::Summary, future, reason).await;

    let (mut envelope, cells) = breach.summary(|_| {});
    envelope.payload_type = "application/json".into();
    let reason = ("malformed", "payload_type");
    breach.is_refused("another payload type", Lane::Summary, (envelope, cells), reason).await;
    let (mut envelope, cells) = breach.summary(|_| {});
    envelope.signatures.clear();
    let reason = ("malformed", "signatures");
    breach.is_refused("no signature", Lane::Summary, (envelope, cells), reason).await;

    // The second is also over what the store takes as one value.
    for size_bytes in [50_000, 200_000] {
        let large = signed(&breach, kinds::SUMMARY, &vec![0; size_bytes]);
        let reason = ("malformed", "payload");
        breach.is_refused("a large payload", Lane::Summary, large, reason).await;
        breach.goes_on().await;
    }

    let large = figures(Component::Count(1), &"x".repeat(70_000));
    let (summary, cells) = summary_of("C-1-1", &large, 9_999);
    let header = breach.culprit.header(kinds::SUMMARY);
    let large = (breach.culprit.sign(&header, &encode_body(&summary)), cells);
    let reason = ("cells-do-not-match", "cells");
    breach.is_refused("a large cell", Lane::Summary, large, reason).await;
    breach.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coverage_that_cannot_be_is_refused() {
    let mut breach = Breach::of("C-1-1").await;
    let (good, cells) = summary("C-1-1", 9_999, 9_999);
    let all = Coverage { expected: 4, included: 4, ..Coverage::default() };
    let some = Coverage { expected: 2, included: 1, ..Coverage::default() };
    let live = Summary { kind: SummaryKind::Live, version: 0, ..good.clone() };
    for (attack, bad, field) in [
        (
            "more units than there are",
            Summary { coverage: all, ..good.clone() },
            "body.coverage.expected",
        ),
        ("a unit that is nowhere", Summary { coverage: some, ..good }, "body.coverage"),
        ("a live answer as report", live, "body.kind"),
    ] {
        let header = breach.culprit.header(kinds::SUMMARY);
        let statement = (breach.culprit.sign(&header, &encode_body(&bad)), cells.clone());
        breach.is_refused(attack, Lane::Summary, statement, ("malformed", field)).await;
    }
    breach.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_that_do_not_add_up_take_nobody_elses_away() {
    let mut breach = Breach::of("C-1-2").await;
    let ratio = figures(Component::Ratio { numerator: 1, denominator: 2 }, "");
    let (bad, cells) = summary_of("C-1-2", &ratio, 1);
    let header = breach.culprit.header(kinds::SUMMARY);
    let envelope = breach.culprit.sign(&header, &encode_body(&bad));
    let lane_seq = breach.link.deliver(Lane::Summary, envelope, cells).await;
    breach.link.acknowledged(Lane::Summary, lane_seq).await;

    let row = "1,C-1-1-1,2011-07-01 08:00:00,,light,1 Main St\n";
    breach.federation.import("C-1-1", row).await;
    breach.federation.publish("C-1-1", PERIOD).await;
    let federation = &breach.federation;
    let city = until("the honest street's figures at the city", async || {
        let held = report(federation, "C", "").await.ok()?;
        (count(&held, "received", Scope::Subtree) == 1).then_some(held)
    })
    .await;
    let coverage = city.summary.unwrap().coverage.unwrap();
    let gap = coverage.gaps.iter().find(|gap| gap.unit == "C-1-2").unwrap();
    assert_eq!((gap.reason.as_str(), gap.units, coverage.quarantined), ("refused", 1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_a_childs_to_say_is_refused() {
    let mut breach = Breach::of("C-1-1").await;
    let reason = ("wrong-source", "header.source");

    let mut header = breach.culprit.header(kinds::NOTICE);
    header.destination = Some("C-1-2".parse().unwrap());
    let notice = (breach.culprit.sign(&header, &notice().encode_to_vec()), Vec::new());
    breach.is_refused("a notice from below", Lane::Notice, notice, reason).await;

    let header = breach.culprit.header(kinds::CATALOGUE);
    let catalogue = (breach.culprit.sign(&header, b""), Vec::new());
    breach.is_refused("a catalogue from below", Lane::Catalogue, catalogue, reason).await;

    let community = breach.hosted("C-1-1-1").await;
    let mut header = community.header(kinds::ESCALATION);
    header.destination = Some("C-1".parse().unwrap());
    let whistle = (community.sign(&header, &whistle().encode_to_vec()), Vec::new());
    breach.is_refused("a community's whistle", Lane::Escalation, whistle, reason).await;

    let id = raise(&breach.federation, "C-1-2").await;
    let event = |step: EscalationStep, desk: &str| EscalationEvent {
        escalation_id: id.clone(),
        step: step.into(),
        desk: desk.to_owned(),
        note: String::new(),
    };
    let mut header = breach.culprit.header(kinds::ESCALATION_EVENT);
    header.destination = Some("C-1".parse().unwrap());
    for (attack, step, desk, field) in [
        ("closing a sibling's case", EscalationStep::Closed, "", "body.step"),
        ("withdrawing a sibling's case", EscalationStep::Withdrawn, "", "body.step"),
        ("a step in a desk's name", EscalationStep::Answered, "WATER", "body.desk"),
    ] {
        let body = event(step, desk).encode_to_vec();
        let event = breach.culprit.sign_sealed(&header, &["C-1"], &body);
        let statement = (event, Vec::new());
        breach.is_refused(attack, Lane::Escalation, statement, ("wrong-source", field)).await;
        header.id = breach.culprit.header("").id;
    }
    let request = ShowEscalationRequest { unit: "C-1".into(), escalation_id: id };
    let shown = breach.federation.client("C-1").escalations().show(request).await.unwrap();
    assert_eq!(shown.into_inner().state(), EscalationStep::Returned);
    breach.goes_on().await;
}

fn notice() -> Notice {
    Notice {
        number: "〔2026〕17号".into(),
        title: "inspect street lights".into(),
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
        title: "gas smell at the market".into(),
        lead_desk: "WATER".into(),
        answer_within_ms: 600_000,
        arrive_within_ms: 1_800_000,
        approved_by: "street head".into(),
        ..Escalation::default()
    }
}

/// Raises a whistle for a desk that its district does not have; waits until it came back.
async fn raise(federation: &Federation, street: &str) -> Vec<u8> {
    let request = RaiseEscalationRequest {
        unit: street.into(),
        destination: String::new(),
        escalation: Some(Escalation { answer_within_ms: 0, arrive_within_ms: 0, ..whistle() }),
        exercise: false,
    };
    let mut escalations = federation.client(street).escalations();
    let id = escalations.raise(request).await.unwrap().into_inner().escalation_id;
    until("the whistle to come back", async || {
        let request = ShowEscalationRequest { unit: street.into(), escalation_id: id.clone() };
        let mut escalations = federation.client(street).escalations();
        let state = escalations.show(request).await.ok()?.into_inner();
        (state.state() == EscalationStep::Returned).then_some(())
    })
    .await;
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_comes_again_is_applied_once() {
    let mut breach = Breach::of("C-1-1").await;
    let (first, cells) = own_summary(&breach.culprit, 5);
    for _ in 0..3 {
        let lane_seq = breach.link.deliver(Lane::Summary, first.clone(), cells.clone()).await;
        breach.link.acknowledged(Lane::Summary, lane_seq).await;
    }
    let payload = header::decode(&first.payload).unwrap();
    let (other, other_cells) = summary("C-1-1", 6, 2);
    let same_id = breach.culprit.sign(&payload.header, &encode_body(&other));
    let lane_seq = breach.link.deliver(Lane::Summary, same_id, other_cells).await;
    breach.link.acknowledged(Lane::Summary, lane_seq).await;

    // A new link with a new epoch says it all again.
    breach.link = breach.culprit.link().await;
    let lane_seq = breach.link.deliver(Lane::Summary, first, cells).await;
    breach.link.acknowledged(Lane::Summary, lane_seq).await;

    let held = report(&breach.federation, "C-1", "C-1-1").await.unwrap();
    assert_eq!(count(&held, "received", Scope::Subtree), 5);
    assert_eq!(held.summary.unwrap().version, 1);
    assert_eq!(status(&breach.federation, "C-1").await.quarantined, 0);

    // An older version never replaces a newer one.
    breach.version = 6;
    breach.goes_on().await;
    let (old, cells) = summary("C-1-1", 3, 2);
    let header = breach.culprit.header(kinds::SUMMARY);
    let envelope = breach.culprit.sign(&header, &encode_body(&old));
    let lane_seq = breach.link.deliver(Lane::Summary, envelope, cells).await;
    breach.link.acknowledged(Lane::Summary, lane_seq).await;
    let held = report(&breach.federation, "C-1", "C-1-1").await.unwrap();
    assert_eq!(held.summary.unwrap().version, 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_the_protocol_ends_with_its_reason() {
    let mut breach = Breach::of("C-1-1").await;
    let (envelope, cells) = breach.summary(|_| {});
    let mut large = cells.clone();
    large[0].cell = vec![0; 300 * 1024];
    breach.link.deliver(Lane::Summary, envelope.clone(), large).await;
    assert_eq!(breach.link.end().await.unwrap_err().code(), Code::ResourceExhausted);

    breach.link = breach.culprit.link().await;
    breach.link.deliver(Lane::Unspecified, envelope.clone(), cells.clone()).await;
    let ended = breach.link.end().await.unwrap_err();
    assert_eq!(ended.code(), Code::InvalidArgument);
    assert!(ended.message().contains("names no lane"), "{ended}");

    breach.link = breach.culprit.open().await;
    breach.link.send(Kind::Heartbeat(Heartbeat { clock_unix_ms: 1 })).await;
    let ended = breach.link.end().await.unwrap_err();
    assert!(ended.message().contains("no hello"), "{ended}");

    let held = report(&breach.federation, "C-1", "C-1-1").await;
    assert_eq!(held.unwrap_err().code(), Code::NotFound);
    breach.link = breach.culprit.link().await;
    breach.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hello_that_does_not_hold_is_refused_with_its_reason() {
    let breach = Breach::of("C-1-1").await;
    let hello = breach.culprit.hello();
    let mut forged = hello.chain.clone();
    let last = forged.last_mut().unwrap();
    let mut payload = last.payload.to_vec();
    *payload.last_mut().unwrap() ^= 1;
    last.payload = payload.into();
    for (hello, reason) in [
        (Hello { unit: "C-1-2".into(), ..hello.clone() }, "certificate-mismatch"),
        (Hello { unit: "C-1".into(), ..hello.clone() }, "certificate-mismatch"),
        (Hello { trust_domain: "other.example".into(), ..hello.clone() }, "wrong-domain"),
        (Hello { chain: forged, ..hello.clone() }, "bad-chain"),
        (Hello { version_min: 2, version_max: 9, ..hello }, "version"),
    ] {
        let mut link = breach.culprit.open().await;
        link.send(Kind::Hello(hello)).await;
        match link.next().await {
            Ok(Some(Kind::Refusal(refusal))) => {
                assert_eq!(refusal.reason, reason, "{}", refusal.detail);
            }
            other => panic!("{reason}: {other:?}"),
        }
        assert!(link.end().await.is_ok());
    }
}

/// What the parent says to a connection, and its line in the log.
async fn refusal_of(culprit: &Hostile, client: Option<&UnitTls>) -> (String, String) {
    let mut io = culprit.dial(Purpose::Link, client).await.unwrap();
    let address = io.get_ref().0.local_addr().unwrap();
    let error = io.read_u8().await.unwrap_err();
    let told = tls::refusal(&error).unwrap_or_else(|| panic!("no word of the parent: {error}"));
    let line = until("the line in the log", async || {
        log::find(&["connection refused", &format!("{address}")])
    })
    .await;
    (told, line)
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_links_without_the_certificate_that_the_parent_gave() {
    let mut breach = Breach::of("C-1-1").await;
    let culprit = &breach.culprit;
    let (told, line) = refusal_of(culprit, None).await;
    assert!(told.contains("asks for a certificate"), "{told}");
    assert!(line.contains("shows no certificate"), "{line}");

    let domain = culprit.identity.trust_domain.clone();
    let now = SystemClock.now_unix_ms();
    let certified = |keys: &UnitKeys, issuer: &UnitKeys| {
        let request = certificates::request(&keys.tls).unwrap();
        let issuer = (&issuer.ca_certificate, &issuer.ca);
        let client =
            certificates::issue_client(culprit.unit(), &domain, &request, issuer, now).unwrap();
        let server = culprit.identity.server_certificate.clone();
        UnitTls::restore(culprit.unit(), &domain, keys, server, Some(client))
    };
    let false_parent = UnitKeys::generate(&"C-1".parse().unwrap(), &domain, now).unwrap();
    let (_, line) = refusal_of(culprit, Some(&certified(&culprit.keys, &false_parent))).await;
    assert!(line.contains("the handshake for C-1 failed"), "{line}");
    let by_itself = certified(&culprit.keys, &culprit.keys);
    let (_, line) = refusal_of(culprit, Some(&by_itself)).await;
    assert!(line.contains("the handshake for C-1 failed"), "{line}");

    // The parent's own CA for another key than the one that the child joined with.
    let directory = breach.federation.directory("C-1").join("keys").join("C-1");
    let parent = UnitKeys::load(&directory).unwrap();
    let thief = UnitKeys::generate(culprit.unit(), &domain, now).unwrap();
    let (_, line) = refusal_of(culprit, Some(&certified(&thief, &parent))).await;
    assert!(line.contains("another key than the one that C-1-1 joined with"), "{line}");

    // The door for joining needs no certificate, and leads nowhere else.
    let io = culprit.dial(Purpose::Enrol, None).await.unwrap();
    let refused = HostileLink::over(io).await.err().unwrap();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");

    let stranger = breach.accomplice("C-2-1").await;
    let (told, _) = refusal_of(&breach.culprit, Some(&stranger.tls())).await;
    assert!(told.contains("does not know the CA"), "{told}");
}

/// A ClientHello of TLS 1.2 that asks for `name`.
fn old_hello(name: &str) -> Vec<u8> {
    let short = |value: usize| u16::try_from(value).unwrap().to_be_bytes();
    let mut extensions = Vec::new();
    let mut extension = |number: u16, body: &[u8]| {
        extensions.extend_from_slice(&number.to_be_bytes());
        extensions.extend_from_slice(&short(body.len()));
        extensions.extend_from_slice(body);
    };
    let name_entry = [&[0][..], &short(name.len()), name.as_bytes()].concat();
    extension(0, &[&short(name_entry.len())[..], &name_entry].concat());
    extension(10, &[0, 2, 0, 23]);
    extension(11, &[1, 0]);
    extension(13, &[0, 4, 4, 3, 8, 4]);
    let body = [
        &[3, 3][..],
        &[7; 32],
        &[0, 0, 4, 0xc0, 0x2b, 0xc0, 0x2f, 1, 0],
        &short(extensions.len()),
        &extensions,
    ]
    .concat();
    let handshake = [&[1, 0][..], &short(body.len()), &body].concat();
    [&[22, 3, 1][..], &short(handshake.len()), &handshake].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_below_1_3_is_refused() {
    let federation = Federation::city("C").await;
    let address = federation.host("C").link_address().unwrap();
    for name in ["c.link.lianxi.internal", "c.enrol.lianxi.internal"] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&old_hello(name)).await.unwrap();
        let mut alert = [0; 7];
        stream.read_exact(&mut alert).await.unwrap();
        // Alert, fatal, protocol_version.
        assert_eq!((alert[0], &alert[5..]), (21, &[2, 70][..]), "{name}");
    }
}

/// Joins in a directory of its own; what the child is told if it may not.
async fn join(token: &str) -> Result<(), String> {
    let directory = tempfile::tempdir().unwrap();
    let child = directory.path().join("child");
    let joined = node::join_offline(&child, token, JoinOptions::default()).await;
    joined.map(|_| ()).map_err(|error| error.to_string())
}

async fn is_told(token: &str, words: &str) {
    let told = join(token).await.unwrap_err();
    assert!(told.contains(words), "{told}");
}

fn changed(token: &str, change: impl FnOnce(&mut Token)) -> String {
    let mut token: Token = token.parse().unwrap();
    change(&mut token);
    token.to_text().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_good_once_for_its_unit_at_its_parent() {
    let city = Federation::city("C").await;
    let token = city.invite("C-1", "C", Level::District).await.unwrap();
    is_told(&token[..token.len() - 9], "incomplete").await;

    let other_unit = changed(&token, |token| token.unit = "C-2".parse().unwrap());
    is_told(&other_unit, "the token is for C-1, a district").await;
    let other_level = changed(&token, |token| {
        token.level = lianxi_node::domain::unit::Level::Street;
    });
    is_told(&other_level, "the token is for C-1, a district").await;
    let other_secret = changed(&token, |token| token.secret[0] ^= 1);
    is_told(&other_secret, "no such token").await;

    let false_city = Federation::city("C").await;
    let false_address = false_city.host("C").link_address().unwrap().to_string();
    let misled = changed(&token, |token| token.addresses = vec![false_address]);
    is_told(&misled, "does not show the CA").await;
    let other_city = Federation::city("D").await;
    let other_address = other_city.host("D").link_address().unwrap().to_string();
    let misled = changed(&token, |token| token.addresses = vec![other_address]);
    is_told(&misled, "does not serve C").await;

    let above = city.invite("C-9", "C", Level::City).await.unwrap_err();
    assert_eq!(above.code(), Code::InvalidArgument, "{above}");

    join(&token).await.unwrap();
    is_told(&token, "the token was used").await;
    let again = city.invite("C-1", "C", Level::District).await.unwrap_err();
    assert_eq!(again.code(), Code::AlreadyExists, "{again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_token_is_refused_by_the_parents_clock() {
    let city = Federation::city("C").await;
    let token = city.invite("C-1", "C", Level::District).await.unwrap();
    city.clock.shift_to(4 * DAY_MS);
    is_told(&token, "the token has expired").await;
    city.clock.shift_to(0);
    join(&token).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_whose_clock_is_a_day_off_loses_nothing_and_the_skew_is_shown() {
    let mut federation = Federation::four_levels().await;
    let row = "1,C-1-1-1,2011-07-01 08:00:00,,light,1 Main St\n";
    federation.import("C-1-1", row).await;
    let clock = federation.own_clock("C-1-1");
    for (skew_ms, period, received) in [(-DAY_MS, "2011-07", 1), (DAY_MS, "2011-08", 0)] {
        federation.stop("C-1-1").await;
        clock.shift_to(skew_ms);
        federation.start("C-1-1").await;
        federation.wait_for_link("C-1-1", true).await;
        let shown_ms = status(&federation, "C-1-1").await.clock_skew_ms;
        assert!((shown_ms - skew_ms).abs() < 60_000, "{shown_ms} for {skew_ms}");

        federation.publish("C-1-1", period).await;
        until("the report of the skewed street", async || {
            let (unit, of, period) = ("C-1".into(), "C-1-1".into(), period.into());
            let request = ShowSummaryRequest { unit, of, period };
            let held = federation.client("C-1").summaries().show(request).await.ok()?.into_inner();
            let complete = held.summary.as_ref()?.coverage.as_ref()?.included == 3;
            (complete && count(&held, "received", Scope::Subtree) == received).then_some(())
        })
        .await;
        wait_for_receipts(&federation).await;
        assert_eq!(status(&federation, "C-1").await.quarantined, 0);
        assert_eq!(status(&federation, "C-1-1").await.quarantined, 0);
    }
}

/// Issues a notice to the communities of `C-1-1` and waits for their receipts.
async fn wait_for_receipts(federation: &Federation) {
    let request = IssueNoticeRequest {
        unit: "C".into(),
        destination: "C-1-1".into(),
        notice: Some(notice()),
        exercise: false,
    };
    let issued = federation.client("C").notices().issue(request).await.unwrap().into_inner();
    until("the receipts of the skewed communities", async || {
        let notice_id = issued.notice_id.clone();
        let request = ShowNoticeRequest { unit: "C".into(), notice_id };
        let state = federation.client("C").notices().show(request).await.ok()?.into_inner();
        let validated =
            |unit: &&lianxi_proto::local::v1::Recipient| unit.stage() == ReceiptStage::Validated;
        (state.recipients.iter().filter(validated).count() == 2).then_some(())
    })
    .await;
}
