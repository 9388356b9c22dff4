//! Handshakes between a host and a child, good and bad.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::*;

const NOW: UnixMillis = 1_760_000_000_000;
const DAY: i64 = 24 * 60 * 60 * 1000;
const DOMAIN: &str = "boston.example";

#[derive(Clone)]
struct SetClock(Arc<AtomicI64>);

impl SetClock {
    fn at(now: UnixMillis) -> Self {
        Self(Arc::new(AtomicI64::new(now)))
    }
}

impl Clock for SetClock {
    fn now_unix_ms(&self) -> UnixMillis {
        self.0.load(Ordering::Relaxed)
    }
}

fn code(text: &str) -> UnitCode {
    text.parse().unwrap()
}

fn keys(unit: &str) -> UnitKeys {
    UnitKeys::generate(&code(unit), DOMAIN, NOW).unwrap()
}

/// A host that serves BOS, and a child of it.
struct Hosts {
    clock: SetClock,
    parent: UnitKeys,
    server: Arc<ServerTls>,
    child: UnitKeys,
}

impl Hosts {
    fn new() -> Self {
        let clock = SetClock::at(NOW);
        let server = Arc::new(ServerTls::new(Arc::new(clock.clone())));
        let parent = keys("BOS");
        server.set(&UnitTls::new(&code("BOS"), DOMAIN, &parent, None, NOW).unwrap()).unwrap();
        Self { clock, parent, server, child: keys("BOS-01") }
    }

    fn pin(&self) -> ParentPin {
        ParentPin {
            unit: code("BOS"),
            trust_domain: Some(DOMAIN.to_owned()),
            ca_sha256: self.parent.ca_sha256(),
            further: Vec::new(),
        }
    }

    /// Certificate of `unit` for the child's key, by the CA of `issuer`.
    fn client(&self, unit: &str, domain: &str, issuer: &UnitKeys) -> UnitTls {
        let request = certificates::request(&self.child.tls).unwrap();
        let issuer = (&issuer.ca_certificate, &issuer.ca);
        let certificate =
            certificates::issue_client(&code(unit), domain, &request, issuer, NOW).unwrap();
        UnitTls::new(&code(unit), domain, &self.child, Some(certificate), NOW).unwrap()
    }

    /// Both ends of one handshake; each side's error as it sees it. The child reads a byte that
    /// the parent sends, because in TLS 1.3 a refusal of its certificate comes only then.
    async fn meet(
        &self,
        pin: &ParentPin,
        purpose: Purpose,
        client: Option<&UnitTls>,
        client_now: UnixMillis,
    ) -> (Result<Accepted<TcpStream>, AcceptError>, Result<(), String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = async {
            let (stream, _) = listener.accept().await.unwrap();
            let mut accepted = self.server.accept(stream).await;
            if let Ok(accepted) = &mut accepted {
                accepted.stream.write_all(b"!").await.unwrap();
                accepted.stream.flush().await.unwrap();
            }
            accepted
        };
        let clock = Arc::new(SetClock::at(client_now));
        let child = async {
            let stream = connect(&address, pin, purpose, client, clock).await;
            let mut stream = stream.map_err(|error| error.to_string())?;
            let mut byte = [0];
            let read = stream.read_exact(&mut byte).await;
            read.map(drop).map_err(|error| refusal(&error).unwrap_or_else(|| error.to_string()))
        };
        tokio::join!(server, child)
    }
}

#[tokio::test]
async fn a_child_is_its_peer_once_its_key_is_bound() {
    let hosts = Hosts::new();
    let client = hosts.client("BOS-01", DOMAIN, &hosts.parent);
    let (accepted, child) = hosts.meet(&hosts.pin(), Purpose::Link, Some(&client), NOW).await;
    assert_eq!(child, Ok(()));
    let accepted = accepted.unwrap();
    assert_eq!((accepted.unit, accepted.purpose), (code("BOS"), Purpose::Link));
    assert_eq!(accepted.peer, None, "it has yet to confirm");
    let peer = accepted.certified.unwrap();
    assert_eq!(peer.unit, code("BOS-01"));
    assert_eq!(accepted.stream.get_ref().1.alpn_protocol(), Some(ALPN));
    hosts.server.bind(&code("BOS"), &code("BOS-01"), peer.key_sha256);
    let (accepted, _) = hosts.meet(&hosts.pin(), Purpose::Link, Some(&client), NOW).await;
    assert_eq!(accepted.unwrap().peer, Some(code("BOS-01")));
}

/// A ticket would let a session go on without its keys, and past a revocation.
#[tokio::test]
async fn no_session_is_resumed() {
    let hosts = Hosts::new();
    let config = rustls::ClientConfig::builder_with_details(
        Arc::new(rustls::crypto::aws_lc_rs::default_provider()),
        Arc::new(ClockTime(Arc::new(hosts.clock.clone()))),
    );
    // Unlike a child's own, this configuration keeps what it could resume with.
    let config = config
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots([&hosts.parent.ca_certificate]).unwrap())
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    for number in 0..3 {
        let server = async {
            let (stream, _) = listener.accept().await.unwrap();
            let mut accepted = hosts.server.accept(stream).await.unwrap();
            accepted.stream.write_all(b"!").await.unwrap();
            accepted.stream.flush().await.unwrap();
        };
        let client = async {
            let stream = TcpStream::connect(address).await.unwrap();
            let name = server_name(&code("BOS"), Purpose::Enrol);
            let mut stream = connector.connect(name, stream).await.unwrap();
            stream.read_exact(&mut [0]).await.unwrap();
            stream.get_ref().1.handshake_kind()
        };
        let ((), kind) = tokio::join!(server, client);
        assert_eq!(kind, Some(rustls::HandshakeKind::Full), "connection {number}");
    }
}

#[tokio::test]
async fn enrolment_needs_no_certificate_and_gives_no_peer() {
    let hosts = Hosts::new();
    let (accepted, child) = hosts.meet(&hosts.pin(), Purpose::Enrol, None, NOW).await;
    assert_eq!(child, Ok(()));
    let accepted = accepted.unwrap();
    assert_eq!((accepted.purpose, accepted.peer, accepted.certified), (Purpose::Enrol, None, None));
}

#[tokio::test]
async fn a_link_without_a_certificate_is_refused() {
    let hosts = Hosts::new();
    let (accepted, child) = hosts.meet(&hosts.pin(), Purpose::Link, None, NOW).await;
    assert!(accepted.unwrap_err().to_string().contains("join first"));
    assert!(child.unwrap_err().contains("join first"));
}

#[tokio::test]
async fn a_certificate_of_another_ca_domain_or_key_is_refused() {
    let hosts = Hosts::new();
    let pin = hosts.pin();
    let foreign = hosts.client("BOS-01", DOMAIN, &keys("BOS"));
    let (accepted, child) = hosts.meet(&pin, Purpose::Link, Some(&foreign), NOW).await;
    assert!(accepted.unwrap_err().to_string().contains("has to join again"));
    assert!(child.unwrap_err().contains("join again"));
    let elsewhere = hosts.client("BOS-01", "cambridge.example", &hosts.parent);
    let (accepted, child) = hosts.meet(&pin, Purpose::Link, Some(&elsewhere), NOW).await;
    let text = accepted.unwrap_err().to_string();
    assert!(text.contains("cambridge.example, not boston.example"), "{text}");
    assert!(child.is_err());
    // A valid certificate for a key that did not get to confirm.
    hosts.server.bind(&code("BOS"), &code("BOS-01"), [7; 32]);
    let stale = hosts.client("BOS-01", DOMAIN, &hosts.parent);
    let (accepted, _) = hosts.meet(&pin, Purpose::Link, Some(&stale), NOW).await;
    assert!(accepted.unwrap_err().to_string().contains("another key"));
    // A server certificate is no client certificate, though the same CA made it.
    let mut server = UnitTls::new(&code("BOS"), DOMAIN, &hosts.parent, None, NOW).unwrap();
    server.client_certificate = Some(server.server_certificate.clone());
    let (accepted, _) = hosts.meet(&pin, Purpose::Link, Some(&server), NOW).await;
    assert!(accepted.is_err());
}

#[tokio::test]
async fn a_wrong_ca_hash_is_told_with_the_remedy() {
    let hosts = Hosts::new();
    let pin = ParentPin { ca_sha256: [0xab; 32], ..hosts.pin() };
    let (accepted, child) = hosts.meet(&pin, Purpose::Enrol, None, NOW).await;
    let text = child.unwrap_err();
    assert!(text.contains("does not show the CA abababababababab of BOS"), "{text}");
    assert!(text.contains("ask the parent for a new token"), "{text}");
    assert!(accepted.is_err());
}

#[tokio::test]
async fn the_pinned_ca_must_have_signed_the_leaf() {
    // The pinned CA is in the chain, as anybody can put it there, but the leaf is another CA's.
    let hosts = Hosts::new();
    let thief = keys("BOS");
    let mut tls = UnitTls::new(&code("BOS"), DOMAIN, &thief, None, NOW).unwrap();
    tls.ca_certificate = hosts.parent.ca_certificate.clone();
    hosts.server.set(&tls).unwrap();
    let (accepted, child) = hosts.meet(&hosts.pin(), Purpose::Enrol, None, NOW).await;
    assert!(child.is_err() && accepted.is_err());
}

#[tokio::test]
async fn a_child_of_the_same_ca_cannot_stand_in_for_the_parent() {
    let hosts = Hosts::new();
    let child = hosts.client("BOS-01", DOMAIN, &hosts.parent);
    let mut tls = child.clone();
    tls.unit = code("BOS");
    tls.ca_certificate = hosts.parent.ca_certificate.clone();
    tls.server_certificate = child.client_certificate.clone().unwrap();
    hosts.server.set(&tls).unwrap();
    let (_, seen) = hosts.meet(&hosts.pin(), Purpose::Enrol, None, NOW).await;
    let text = seen.unwrap_err();
    assert!(text.contains("is not BOS: the certificate is of unit BOS-01"), "{text}");
}

#[tokio::test]
async fn another_domain_is_told() {
    let hosts = Hosts::new();
    let pin = ParentPin { trust_domain: Some("x.example".to_owned()), ..hosts.pin() };
    let (_, child) = hosts.meet(&pin, Purpose::Enrol, None, NOW).await;
    assert!(child.unwrap_err().contains("trust domain boston.example, not x.example"));
}

#[tokio::test]
async fn a_unit_that_is_not_hosted_is_told() {
    let hosts = Hosts::new();
    let pin = ParentPin { unit: code("BOS-77"), ..hosts.pin() };
    let (accepted, child) = hosts.meet(&pin, Purpose::Link, None, NOW).await;
    assert!(matches!(accepted, Err(AcceptError::NotServed(_))));
    assert!(child.unwrap_err().contains("does not serve BOS-77"));
}

#[tokio::test]
async fn a_clock_a_day_off_links_and_one_a_year_off_is_told() {
    let hosts = Hosts::new();
    let client = hosts.client("BOS-01", DOMAIN, &hosts.parent);
    for now in [NOW - DAY, NOW + DAY] {
        let (accepted, child) = hosts.meet(&hosts.pin(), Purpose::Link, Some(&client), now).await;
        assert!(accepted.is_ok() && child == Ok(()));
    }
    let (_, late) = hosts.meet(&hosts.pin(), Purpose::Link, Some(&client), NOW + 365 * DAY).await;
    let text = late.unwrap_err();
    assert!(text.contains("expired") && text.contains("clocks"), "{text}");
    let (_, early) = hosts.meet(&hosts.pin(), Purpose::Link, Some(&client), NOW - 365 * DAY).await;
    assert!(early.unwrap_err().contains("not valid yet"));
}

#[tokio::test]
async fn an_expired_client_certificate_is_told_to_both_and_a_new_server_one_needs_no_restart() {
    let hosts = Hosts::new();
    let client = hosts.client("BOS-01", DOMAIN, &hosts.parent);
    let late = NOW + 31 * DAY;
    hosts.clock.0.store(late, Ordering::Relaxed);
    let renewed = UnitTls::new(&code("BOS"), DOMAIN, &hosts.parent, None, late).unwrap();
    hosts.server.set(&renewed).unwrap();
    let (accepted, child) = hosts.meet(&hosts.pin(), Purpose::Link, Some(&client), late).await;
    assert!(accepted.unwrap_err().to_string().contains("expired"));
    assert!(child.unwrap_err().contains("compare the clocks"));
    let (accepted, child) = hosts.meet(&hosts.pin(), Purpose::Enrol, None, late).await;
    assert!(accepted.is_ok() && child == Ok(()));
}

#[tokio::test]
async fn nobody_there_is_told_with_the_address() {
    let hosts = Hosts::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let clock = Arc::new(hosts.clock.clone());
    let error = connect(&address, &hosts.pin(), Purpose::Enrol, None, clock).await.unwrap_err();
    assert!(matches!(error, ConnectError::NotReached { .. }));
    assert!(error.to_string().contains(&address), "{error}");
}

#[tokio::test]
async fn what_is_no_tls_is_refused() {
    let hosts = Hosts::new();
    let (near, mut far) = tokio::io::duplex(1024);
    far.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    far.shutdown().await.unwrap();
    assert!(matches!(hosts.server.accept(near).await, Err(AcceptError::Io(_))));
}

#[test]
fn names_are_read_as_they_are_made() {
    for unit in ["310101002003", "BOS", "BOS-15-W22-2213"] {
        for purpose in [Purpose::Link, Purpose::Enrol] {
            let name = host_name(&code(unit), purpose);
            assert_eq!(read_server_name(&name), Some((code(unit), purpose)));
        }
    }
    for name in
        ["bos", "bos.x.lianxi.internal", "bos.link.lianxi.example", "b_s.link.lianxi.internal"]
    {
        assert_eq!(read_server_name(name), None, "{name}");
    }
    server_name(&code(&"A".repeat(40)), Purpose::Link);
}
