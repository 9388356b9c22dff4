//! Revocation over real hosts: a revoked unit is cut off at once, everywhere and for good, what it
//! signed or invited falls with it, and nobody revokes what is not below him.

use lianxi_node::{
    clock::{Clock as _, SystemClock},
    domain::{
        revocation::{Reason, Revocation},
        unit::UnitCode,
    },
    identity::{issue, tls, tls::Purpose},
    node::{self, JoinOptions},
    services::host::Units,
    statement::{
        Envelope,
        header::{self, kinds},
        journal::Evidence,
        rejection,
        revocation::Proven,
    },
};
use lianxi_proto::{
    admin::v1::{RevokeRequest, RevokeResponse},
    envelope,
    link::v1::{Lane, Revocations, frame::Kind},
    note::Note,
    types::v1::{Level, RevocationReason},
};
use lianxi_tests::{
    acts::{acts, refusals},
    breach::{Breach, own_summary, status},
    federation::Federation,
    hostile::Hostile,
    log,
    wait::until,
};
use tokio::io::AsyncReadExt as _;
use tonic::{Code, Status};

fn order(by: &str, unit: &str) -> RevokeRequest {
    RevokeRequest {
        unit: by.to_owned(),
        revoked: unit.to_owned(),
        reason: RevocationReason::KeyStolen.into(),
        text: "laptop stolen".to_owned(),
        ..RevokeRequest::default()
    }
}

async fn revoke(federation: &Federation, order: RevokeRequest) -> Result<RevokeResponse, Status> {
    let mut node = federation.client(&order.unit).node();
    Ok(node.revoke(order).await?.into_inner())
}

fn code(unit: &str) -> UnitCode {
    unit.parse().unwrap()
}

fn holds_revoked(units: &Units, at: &str, revoked: &str) -> bool {
    let hosted = units.get(&code(at)).unwrap();
    hosted.unit.trust().revocations().any(|known| known.revocation.unit == code(revoked))
}

async fn wait_for_revocation(federation: &Federation, at: &str, revoked: &str) {
    until(&format!("the revocation of {revoked} at {at}"), async || {
        holds_revoked(federation.host(at).units(), at, revoked).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_unit_is_cut_off_at_once_and_every_node_knows() {
    let mut federation = Federation::four_levels().await;
    // A district and a street that are away when it happens.
    federation.stop("C-2-1").await;
    let would = RevokeRequest { dry_run: true, ..order("C", "C-1-1") };
    let would = revoke(&federation, would).await.unwrap();
    assert_eq!((would.by.as_str(), would.whole, would.key_ids.len()), ("C", true, 3));
    assert_eq!(would.below, ["C-1-1-1", "C-1-1-2"]);
    assert!(!holds_revoked(federation.host("C").units(), "C", "C-1-1"));
    federation.wait_for_link("C-1-1", true).await;

    // Not by its parent but by the city above it.
    revoke(&federation, order("C", "C-1-1")).await.unwrap();
    federation.wait_for_link("C-1-1", false).await;
    for unit in ["C", "C-1", "C-2", "C-1-1", "C-1-1-1", "C-1-1-2", "C-1-2", "C-1-2-1"] {
        wait_for_revocation(&federation, unit, "C-1-1").await;
    }
    let own = status(&federation, "C-1-1").await;
    for words in [&own.revoked, &own.parent_link_reason] {
        assert!(words.contains("revoke") && words.contains("join again"), "{words:?}");
    }
    assert!(own.revoked.contains("laptop stolen"), "{}", own.revoked);
    assert_eq!(status(&federation, "C-1").await.revoked_children, ["C-1-1"]);
    assert_eq!(status(&federation, "C").await.revoked_children, Vec::<String>::new());
    let again = revoke(&federation, order("C", "C-1-1")).await.unwrap_err();
    assert_eq!(again.code(), Code::AlreadyExists, "{again}");

    // Those that were away learn it when they link, and it outlives every restart.
    federation.start("C-2-1").await;
    for unit in ["C-2-1", "C-2-1-2"] {
        wait_for_revocation(&federation, unit, "C-1-1").await;
    }
    for unit in ["C-1", "C-1-1"] {
        federation.stop(unit).await;
        federation.start(unit).await;
    }
    assert!(holds_revoked(federation.host("C-1").units(), "C-1", "C-1-1"));
    let refused = until("the refusal after the restart", async || {
        let reason = status(&federation, "C-1-1").await.parent_link_reason;
        reason.contains("revoked").then_some(reason)
    })
    .await;
    assert!(refused.contains("invitation"), "{refused}");
    // The others go on.
    federation.wait_for_link("C-1-2", true).await;
    federation.wait_for_link("C-1", true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thief_with_all_keys_of_a_revoked_unit_gets_nowhere() {
    let mut breach = Breach::of("C-1-1").await;
    breach.goes_on().await;
    revoke(&breach.federation, order("C-1", "C-1-1")).await.unwrap();
    // On the open link: the proof, the reason, the end.
    let refusal = loop {
        let frame = breach.link.next().await.unwrap();
        if let Kind::Refusal(refusal) = frame.expect("the link ended without a word") {
            break refusal;
        }
    };
    assert_eq!(refusal.reason, "revoked", "{}", refusal.detail);
    breach.link.end().await.unwrap();

    // A new connection is refused in the handshake, with a word of its own.
    let tls = breach.culprit.tls();
    let mut io = breach.culprit.dial(Purpose::Link, Some(&tls)).await.unwrap();
    let address = io.get_ref().0.local_addr().unwrap().to_string();
    let told = tls::refusal(&io.read_u8().await.unwrap_err()).unwrap();
    assert!(told.contains("has revoked this unit"), "{told}");
    until("the line in the log", async || {
        log::find(&["connection refused", "the peer was revoked", &address])
    })
    .await;

    // The spent token with its secret brings no new certificate.
    let renewed = breach.culprit.renew().await.unwrap_err();
    assert!(renewed.contains("was revoked by C-1"), "{renewed}");

    // Each of it stands in the journal.
    let federation = &breach.federation;
    let done = acts(federation, "C-1").await;
    let revoked = done.iter().find(|act| act.name == "node.revoke").unwrap();
    assert!(revoked.actor.starts_with("uid:") && revoked.subject == "C-1-1", "{revoked:?}");
    let handshakes = refusals(federation, "C-1", "link.accept", "127.0.0.1").await;
    assert_eq!(handshakes, ["revoked"]);
    assert_eq!(refusals(federation, "C-1", "node.join", "C-1-1").await, ["revoked"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_by_a_revoked_unit_is_refused() {
    let mut breach = Breach::of("C-1").await;
    let street = breach.accomplice("C-1-1").await;
    let before = own_summary(&street, 7);
    let reason = ("outside-subtree", "header.source");
    let stranger = breach.accomplice("C-2-1").await;
    breach.is_refused("no child", Lane::Summary, own_summary(&stranger, 1), reason).await;

    revoke(&breach.federation, order("C", "C-1-1")).await.unwrap();
    let reason = ("revoked", "signatures");
    breach.is_refused("by a revoked unit", Lane::Summary, own_summary(&street, 8), reason).await;
    // Dated before, but nobody had seen it before.
    breach.is_refused("a backdated one by a stolen key", Lane::Summary, before, reason).await;
    breach.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_by_a_revoked_key_is_refused_and_the_unit_stays() {
    let mut breach = Breach::of("C-1-1").await;
    let key_ids = {
        let trust = &breach.culprit.trust;
        trust.key_ids(breach.culprit.unit(), None)
    };
    let unknown = RevokeRequest { key_id: "0".repeat(40), ..order("C-1", "C-1-1") };
    let refused = revoke(&breach.federation, unknown).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    assert!(refused.message().contains(&key_ids[0]), "{refused}");

    let one = RevokeRequest { key_id: key_ids[0].clone(), ..order("C-1", "C-1-1") };
    let revoked = revoke(&breach.federation, one).await.unwrap();
    assert!(!revoked.whole && revoked.key_ids == key_ids[..1]);
    let reason = ("ended-key", "signatures");
    let stolen = own_summary(&breach.culprit, 8);
    breach.is_refused("a statement by an ended key", Lane::Summary, stolen, reason).await;
    let (mut backdated, cells) = own_summary(&breach.culprit, 9);
    backdated = breach.culprit.backdated(&backdated, 60 * 60 * 1_000);
    let backdated = (backdated, cells);
    breach.is_refused("a backdated one by an ended key", Lane::Summary, backdated, reason).await;
    assert_eq!(status(&breach.federation, "C-1").await.revoked_children, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_revokes_what_is_not_below_him() {
    let mut breach = Breach::of("C-1-1").await;
    for (by, unit) in [("C-1", "C-2-1"), ("C-1", "C"), ("C-1", "C-1")] {
        let refused = revoke(&breach.federation, order(by, unit)).await.unwrap_err();
        let expected = if unit == "C-2-1" { Code::NotFound } else { Code::PermissionDenied };
        assert_eq!(refused.code(), expected, "{by} {unit}: {refused}");
    }
    let culprit = &breach.culprit;
    let trust_domain = culprit.identity.trust_domain.clone();
    let forged = |unit: &str| {
        let revocation = Revocation {
            trust_domain: trust_domain.clone(),
            unit: code(unit),
            desk: None,
            key_ids: vec!["0".repeat(40)],
            serial: u64::MAX,
            compromised_since_unix_ms: None,
            reason: Reason::Misuse,
            text: String::new(),
        };
        let (by, signer) = (culprit.unit(), &culprit.keys.delegation);
        let now = SystemClock.now_unix_ms();
        Proven {
            revocation: issue::sign_revocation(&revocation, by, signer, now),
            chain: culprit.trust.chain(by),
            place: None,
        }
    };
    for unit in ["C-1-2", "C-1", "C"] {
        let proven = forged(unit);
        let digest = envelope::payload_sha256(&proven.revocation);
        breach.link.send(Kind::Revocations(Revocations { items: vec![proven.to_proto()] })).await;
        let trust = &culprit.trust;
        let rejection = breach
            .link
            .statement(|envelope| {
                let opened = trust.open(envelope, SystemClock.now_unix_ms()).ok()?;
                let is_rejection = opened.statement.header.kind == kinds::REJECTION;
                let rejection = rejection::decode_body(&opened.statement.body).ok()?;
                (is_rejection && rejection.payload_sha256 == digest).then_some(rejection)
            })
            .await;
        assert_eq!(
            (rejection.reason.as_str(), rejection.field.as_str()),
            ("outside-subtree", "body.unit")
        );
        let shown = breach.quarantined(&digest).await.unwrap();
        assert_eq!(shown.claimed_type, kinds::REVOCATION);
    }
    breach.goes_on().await;
    assert_eq!(refusals(&breach.federation, "C-1", "node.revoke", "C-2-1").await, ["unknown-unit"]);
    assert_eq!(refusals(&breach.federation, "C-1", "node.revoke", "C").await, ["outside-subtree"]);
    for unit in ["C-1-2", "C-1"] {
        breach.federation.wait_for_link(unit, true).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn invitations_of_and_for_a_revoked_unit_die_and_a_new_one_brings_it_back() {
    let mut federation = Federation::four_levels().await;
    let of_revoked = federation.invite("C-1-1-9", "C-1-1", Level::Community).await.unwrap();
    revoke(&federation, order("C-1", "C-1-1")).await.unwrap();
    wait_for_revocation(&federation, "C-1-1", "C-1-1").await;
    let directory = tempfile::tempdir().unwrap();
    let join = async |name: &str, token: &str| {
        let joined =
            node::join_offline(&directory.path().join(name), token, JoinOptions::default()).await;
        joined.map(drop).map_err(|error| error.to_string())
    };
    let refused = join("child", &of_revoked).await.unwrap_err();
    assert!(refused.contains("was revoked by C-1"), "{refused}");

    let back = federation.invite("C-1-1", "C-1", Level::Street).await.unwrap();
    let late = federation.invite("C-1-1", "C-1", Level::Street).await.unwrap();
    federation.stop("C-1-1").await;
    join("back", &back).await.unwrap();
    assert_eq!(status(&federation, "C-1").await.revoked_children, Vec::<String>::new());
    // It has joined: a second invitation is of no use, and another revocation ends it too.
    let refused = join("twice", &late).await.unwrap_err();
    assert!(refused.contains("has joined already"), "{refused}");
    revoke(&federation, order("C-1", "C-1-1")).await.unwrap();
    let refused = join("again", &late).await.unwrap_err();
    assert!(refused.contains("was revoked by C-1"), "{refused}");

    // The keys of before stay dead whatever came since.
    let old = Hostile::take_over(&federation.directory("C-1-1"), "C-1-1").await;
    let refused = old.renew().await.unwrap_err();
    assert!(refused.contains("revoked"), "{refused}");
}

/// What `unit` can show about a statement that it took in, once a witness has cosigned it.
async fn cosigned_evidence(federation: &Federation, unit: &str, envelope: &Envelope) -> Evidence {
    let hosted = federation.host(unit).units().get(&code(unit)).unwrap();
    let id = header::decode(&envelope.payload).unwrap().header.id;
    until(&format!("cosigned evidence at {unit}"), async || {
        hosted.journal.checkpoint().await.unwrap();
        let evidence = hosted.journal.evidence_of(id).await.unwrap()?;
        let note = Note::parse(&evidence.checkpoint).unwrap();
        note.names().any(|name| name != hosted.journal.origin()).then_some(evidence)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_cosigned_before_a_theft_is_believed_and_nothing_else() {
    let mut breach = Breach::of("C-1-1").await;
    let (first, cells) = own_summary(&breach.culprit, 7);
    let lane_seq = breach.link.deliver(Lane::Summary, first.clone(), cells.clone()).await;
    breach.link.acknowledged(Lane::Summary, lane_seq).await;
    let evidence = cosigned_evidence(&breach.federation, "C-1", &first).await;
    let key_id = breach.culprit.trust.key_ids(breach.culprit.unit(), None)[0].clone();
    let one = RevokeRequest { key_id, ..order("C-1", "C-1-1") };
    // Cosignatures tell the second: the end lies in a later one.
    breach.federation.clock.shift_to(10_000);
    revoke(&breach.federation, one).await.unwrap();

    // At the parent: it had taken it in, so that it may come again.
    let lane_seq = breach.link.deliver(Lane::Summary, first.clone(), cells.clone()).await;
    breach.link.acknowledged(Lane::Summary, lane_seq).await;
    assert_eq!(status(&breach.federation, "C-1").await.quarantined, 0);
    // A new one with the evidence of the old one shows nothing.
    breach.link.evidence = Some(evidence.to_message());
    let reason = ("ended-key", "signatures");
    let later = own_summary(&breach.culprit, 8);
    breach.is_refused("the evidence of another", Lane::Summary, later, reason).await;

    // At the city, which never saw it: the evidence alone decides.
    wait_for_revocation(&breach.federation, "C", "C-1-1").await;
    let city = breach.federation.host("C").units().get(&code("C")).unwrap();
    let trust = city.unit.trust();
    let now = SystemClock.now_unix_ms() + 10_000;
    let witnessed = trust.witnessed_at(&first, &evidence, now).expect("a witness before the end");
    assert!(trust.open(&first, now).is_err());
    assert!(trust.open_witnessed(&first, now, Some(witnessed)).is_ok());
    let mut forged = evidence.clone();
    forged.leaf_index += 1;
    assert_eq!(trust.witnessed_at(&first, &forged, now), None);
    let note = Note::parse(&evidence.checkpoint).unwrap();
    let alone = Evidence { checkpoint: note.only(&note_owner(&note)).to_string(), ..evidence };
    assert_eq!(trust.witnessed_at(&first, &alone, now), None, "nobody but its owner saw it");
}

fn note_owner(note: &Note) -> String {
    note.text().lines().next().unwrap().to_owned()
}
