//! Attempts to get or break a link of real hosts: each is refused with its own reason, logged, shown to the
//! operator, and costs nobody else anything.

use lianxi_node::{
    clock::{Clock as _, SystemClock},
    domain::{delegation::Delegation, unit::Level},
    identity::{
        certificates, issue,
        keys::UnitKeys,
        tls::{self, Purpose, UnitTls},
    },
};
use lianxi_proto::{
    link::v1::{Heartbeat, Hello, Introduction, Lane, frame::Kind},
    types::v1::Scope,
};
use lianxi_tests::{
    acts::refusals,
    breach::{Breach, DAY_MS, own_summary, report},
    federation::{Federation, count},
    hostile::{Hostile, HostileLink},
    log,
    wait::until,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tonic::Code;

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
    let refused = until("five refusals in the journal", async || {
        let refused = refusals(&breach.federation, "C-1", "link.accept", "127.0.0.1").await;
        (refused.len() == 5).then_some(refused)
    })
    .await;
    assert_eq!(refused, ["no-certificate", "wrong-ca", "wrong-ca", "wrong-key", "wrong-ca"]);
}

/// What a street could grant if nobody looked: to a unit elsewhere, in another's name, above itself,
/// for longer than it has, to its own parent.
#[tokio::test(flavor = "multi_thread")]
async fn a_grant_that_reaches_too_far_is_refused_and_on_the_record() {
    let mut breach = Breach::of("C-1-1").await;
    let culprit = &breach.culprit;
    let now = SystemClock.now_unix_ms();
    let own = culprit.trust.delegation(culprit.unit(), None).unwrap().delegation.clone();
    let new_keys = || {
        let subject = "C-1-1-9".parse().unwrap();
        UnitKeys::generate(&subject, &own.trust_domain, now).unwrap().public_keys()
    };
    let child = |unit: &str| Delegation {
        unit: unit.parse().unwrap(),
        level: Level::Community,
        issuer: Some(culprit.unit().clone()),
        not_before_unix_ms: now,
        keys: new_keys(),
        serial: u64::try_from(now).unwrap() + 1,
        ..own.clone()
    };
    let mut others_name = child("C-1-2-9");
    others_name.issuer = Some("C-1-2".parse().unwrap());
    let mut higher = child("C-1-1-9");
    higher.level = Level::Street;
    let mut longer = child("C-1-1-9");
    longer.not_after_unix_ms += DAY_MS;
    for (attack, grant, reason) in [
        ("a grant in another's name", others_name, "wrong-source"),
        ("a grant to a unit elsewhere", child("C-1-2-1"), "outside-subtree"),
        ("a grant at its own level", higher, "outside-subtree"),
        ("a grant beyond its own expiry", longer, "expired"),
        ("a grant to its own parent", child("C-1"), "outside-subtree"),
    ] {
        let subject = grant.unit.to_string();
        let before = refusals(&breach.federation, "C-1", "delegation.take", &subject).await;
        let delegations = vec![issue::sign(&grant, &culprit.keys.delegation, now)];
        let introduction = Kind::Introduction(Introduction { delegations });
        breach.link.send(introduction).await;
        assert!(breach.link.end().await.is_err(), "{attack}: the link goes on");
        let refused = refusals(&breach.federation, "C-1", "delegation.take", &subject).await;
        assert_eq!(refused[before.len()..], [reason], "{attack}");
        let parent = breach.federation.host("C-1").units().get(&"C-1".parse().unwrap()).unwrap();
        let known = parent.unit.trust().delegation(&grant.unit, None).cloned();
        assert!(known.is_none_or(|known| known.delegation.serial != grant.serial), "{attack}");
        breach.link = culprit.link().await;
    }
    breach.goes_on().await;
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
    let refused = until("two refusals in the journal", async || {
        let refused = refusals(&federation, "C", "link.accept", "127.0.0.1").await;
        (refused.len() == 2).then_some(refused)
    })
    .await;
    assert_eq!(refused, ["tls-version", "tls-version"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_self_signed_an_expired_and_a_not_yet_valid_certificate_are_refused() {
    let breach = Breach::of("C-1-1").await;
    let culprit = &breach.culprit;
    let directory = breach.federation.directory("C-1").join("keys").join("C-1");
    let parent = UnitKeys::load(&directory).unwrap();
    let domain = &culprit.identity.trust_domain;
    let server = &culprit.identity.server_certificate;
    let issued_at = |time| {
        let request = certificates::request(&culprit.keys.tls).unwrap();
        let issuer = (&parent.ca_certificate, &parent.ca);
        let client = certificates::issue_client(culprit.unit(), domain, &request, issuer, time);
        let client = Some(client.unwrap());
        UnitTls::restore(culprit.unit(), domain, &culprit.keys, server.clone(), client)
    };
    let now = SystemClock.now_unix_ms();
    let (told, line) = refusal_of(culprit, Some(&issued_at(now - 40 * DAY_MS))).await;
    assert!(told.contains("compare the clocks") && line.contains("expired"), "{told} {line}");
    let (told, line) = refusal_of(culprit, Some(&issued_at(now + 10 * DAY_MS))).await;
    assert!(told.contains("compare the clocks") && line.contains("not valid yet"), "{told} {line}");

    // A certificate that its own key signed.
    let keys = breach.federation.directory("C-1-1").join("keys").join("C-1-1");
    let mut keys = UnitKeys::load(&keys).unwrap();
    std::mem::swap(&mut keys.tls, &mut keys.ca);
    let itself = Some(keys.ca_certificate.clone());
    let itself = UnitTls::restore(culprit.unit(), domain, &keys, server.clone(), itself);
    let (_, line) = refusal_of(culprit, Some(&itself)).await;
    assert!(line.contains("the handshake for C-1 failed"), "{line}");

    let refused = until("three refusals in the journal", async || {
        let refused = refusals(&breach.federation, "C-1", "link.accept", "127.0.0.1").await;
        (refused.len() == 3).then_some(refused)
    })
    .await;
    assert_eq!(refused, ["expired", "not-valid-yet", "wrong-ca"]);
    // The real one still links.
    culprit.link().await;
}

/// Passes one connection on to `address` and gives what the client sent.
async fn recording(address: String) -> (String, JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = listener.local_addr().unwrap().to_string();
    let recorded = tokio::spawn(async move {
        let (mut child, _) = listener.accept().await.unwrap();
        let mut parent = TcpStream::connect(address).await.unwrap();
        let (mut from_child, mut to_child) = child.split();
        let (mut from_parent, mut to_parent) = parent.split();
        let mut sent = Vec::new();
        let upward = async {
            let mut bytes = [0; 4096];
            loop {
                match from_child.read(&mut bytes).await {
                    Ok(0) | Err(_) => break,
                    Ok(count) => {
                        sent.extend_from_slice(&bytes[..count]);
                        to_parent.write_all(&bytes[..count]).await.unwrap();
                    }
                }
            }
        };
        tokio::select! {
            () = upward => {}
            _ = tokio::io::copy(&mut from_parent, &mut to_child) => {}
        }
        sent
    });
    (near, recorded)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_captured_session_played_again_changes_nothing() {
    let Breach { federation, mut culprit, link, .. } = Breach::of("C-1-1").await;
    drop(link);
    let addresses = &mut culprit.identity.parent.as_mut().unwrap().addresses;
    let address = addresses[0].clone();
    let (near, recorded) = recording(address.clone()).await;
    *addresses = vec![near];
    let mut link = culprit.link().await;
    let (summary, cells) = own_summary(&culprit, 5);
    let lane_seq = link.deliver(Lane::Summary, summary, cells).await;
    link.acknowledged(Lane::Summary, lane_seq).await;
    drop(link);
    let recorded = recorded.await.unwrap();
    assert!(recorded.len() > 2_000, "only {} bytes of a session", recorded.len());
    let journal = federation.host("C-1").units().get(&"C-1".parse().unwrap()).unwrap();
    let held = || async { report(&federation, "C-1", "C-1-1").await.unwrap() };
    let before = held().await;
    assert_eq!(count(&before, "received", Scope::Subtree), 5);

    let mut again = TcpStream::connect(&address).await.unwrap();
    // The first record is the greeting; the others go once the parent has answered it.
    let first = 5 + usize::from(u16::from_be_bytes([recorded[3], recorded[4]]));
    again.write_all(&recorded[..first]).await.unwrap();
    let mut answer = vec![0; 5];
    again.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer[0], 22, "the parent greets whoever comes");
    // It may hang up before it has read all of it.
    let _ = again.write_all(&recorded[first..]).await;
    let _ = again.read_to_end(&mut answer).await;
    let from = again.local_addr().unwrap();
    let line = until("the line in the log", async || {
        log::find(&["connection refused", &format!("{from}")])
    })
    .await;
    assert!(line.contains("the handshake for C-1 failed"), "{line}");
    let refused = until("the refusal in the journal", async || {
        let refused = refusals(&federation, "C-1", "link.accept", "127.0.0.1").await;
        (!refused.is_empty()).then_some(refused)
    })
    .await;
    assert_eq!(refused, ["handshake"]);
    assert_eq!(held().await, before);
    assert!(!journal.linked_children().iter().any(|child| child.as_str() == "C-1-1"));
}
