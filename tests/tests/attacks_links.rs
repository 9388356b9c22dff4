//! Attempts to get or break a link of real hosts: each is refused with its own reason, logged, shown to the
//! operator, and costs nobody else anything.

use lianxi_node::{
    clock::{Clock as _, SystemClock},
    identity::{
        certificates,
        keys::UnitKeys,
        tls::{self, Purpose, UnitTls},
    },
};
use lianxi_proto::link::v1::{Heartbeat, Hello, Lane, frame::Kind};
use lianxi_tests::{
    breach::{Breach, report},
    federation::Federation,
    hostile::{Hostile, HostileLink},
    log,
    wait::until,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
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
