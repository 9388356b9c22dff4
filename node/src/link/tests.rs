//! Whole links over pipes and byte streams, with exchanges that live in memory.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use lianxi_proto::link::v1::{self as pb, Frame, frame::Kind, link_client::LinkClient};
use tokio::{
    io::{copy_bidirectional, duplex},
    net::TcpListener,
    sync::mpsc,
    task::AbortHandle,
};

use super::{
    LinkHost, Options, Tap, Uplink,
    dial::{Dial, Io, Once},
    driver::{Broken, Driver, Ending},
    pipe::pipe,
    session::{Closed, Heartbeat, Role},
    testing::{MemoryExchange, envelope, soon, surroundings, text, unit},
    wire::{self, MAX_FRAME_BYTES, Malformed},
};
use crate::{
    clock::{Clock, SystemClock},
    domain::unit::UnitCode,
    identity::{
        certificates,
        keys::UnitKeys,
        tls::{ParentPin, Purpose, ServerTls, UnitTls, connect},
    },
    services::{
        connection::{Connection, Turn},
        exchange::{Downlinks, Lane, NoAnswer, Question, Wanted},
    },
    store, watch,
};

/// A wire between two hosts that can be cut.
struct Cable {
    parent: LinkHost,
    child: UnitCode,
    plugged: Mutex<Option<AbortHandle>>,
}

impl Cable {
    fn new(parent: &LinkHost) -> Arc<Self> {
        let parent = parent.clone();
        Arc::new(Self { parent, child: unit("DISTRICT"), plugged: Mutex::default() })
    }

    fn cut(&self) {
        self.plugged.lock().unwrap().take().unwrap().abort();
    }
}

#[async_trait]
impl Dial for Cable {
    async fn dial(&self) -> Result<Box<dyn Io>, String> {
        let (near, mut near_end) = duplex(16 * 1024);
        let (mut far_end, far) = duplex(16 * 1024);
        let copying = tokio::spawn(async move {
            copy_bidirectional(&mut near_end, &mut far_end).await.ok();
        });
        *self.plugged.lock().unwrap() = Some(copying.abort_handle());
        let connection = Connection {
            from: None,
            unit: unit("CITY"),
            peer: Some(self.child.clone()),
            certified: None,
            turn: Turn::default(),
        };
        let parent = self.parent.clone();
        tokio::spawn(async move { parent.serve_stream(far, connection).await });
        Ok(Box::new(near))
    }
}

/// A parent that is never there.
struct Nowhere;

#[async_trait]
impl Dial for Nowhere {
    async fn dial(&self) -> Result<Box<dyn Io>, String> {
        Err("nobody listens at city.example:7443; start the parent".to_owned())
    }
}

fn host() -> LinkHost {
    LinkHost::new(Options::default(), Arc::new(SystemClock))
}

struct Pair {
    city: Arc<MemoryExchange>,
    district: Arc<MemoryExchange>,
    downlinks: Arc<dyn Downlinks>,
    hosts: Vec<LinkHost>,
}

impl Pair {
    fn units() -> (Arc<MemoryExchange>, Arc<MemoryExchange>) {
        (MemoryExchange::new("CITY", None), MemoryExchange::new("DISTRICT", Some("CITY")))
    }

    /// Both units on one host.
    fn on_one_host(options: Options) -> Self {
        let (city, district) = Self::units();
        let host = LinkHost::new(options, Arc::new(SystemClock));
        let downlinks = host.downlinks(&unit("CITY"));
        host.attach(city.clone(), None);
        host.attach(district.clone(), Some(Uplink::Local { parent: unit("CITY") }));
        Self { city, district, downlinks, hosts: vec![host] }
    }

    /// Each unit on its own host, with a cable between them.
    fn on_two_hosts(options: Options) -> (Self, Arc<Cable>) {
        let (city, district) = Self::units();
        let above = LinkHost::new(options.clone(), Arc::new(SystemClock));
        let below = LinkHost::new(options, Arc::new(SystemClock));
        let downlinks = above.downlinks(&unit("CITY"));
        let cable = Cable::new(&above);
        above.attach(city.clone(), None);
        let uplink = Uplink::Through { parent: unit("CITY"), dial: cable.clone() };
        below.attach(district.clone(), Some(uplink));
        (Self { city, district, downlinks, hosts: vec![below, above] }, cable)
    }

    fn send_both_ways(&self, from: usize, to: usize) {
        for number in from..to {
            for lane in Lane::ALL {
                self.district.send("CITY", lane, &format!("up {number}"));
                self.city.send("DISTRICT", lane, &format!("down {number}"));
            }
        }
    }

    /// Waits until `count` deliveries per lane arrived on both sides; each once and in order.
    async fn expect(&self, count: usize) {
        for (exchange, peer, word) in
            [(&self.city, "DISTRICT", "up"), (&self.district, "CITY", "down")]
        {
            exchange.until(|it| it.log().len() >= count * Lane::ALL.len()).await;
            exchange.until(|it| it.waiting_rows(peer) == 0).await;
            for lane in Lane::ALL {
                let log = exchange.log();
                let came: Vec<&str> =
                    log.iter().filter(|row| row.0 == lane).map(|row| row.1.as_str()).collect();
                let expected: Vec<String> = (0..count).map(|n| format!("{word} {n}")).collect();
                assert_eq!(came, expected, "{lane:?}");
            }
        }
    }

    async fn up(&self) {
        self.city.until(|it| it.events().iter().any(|event| event == "DISTRICT up")).await;
        self.district.until(|it| it.events().iter().any(|event| event == "CITY up")).await;
    }

    async fn shutdown(&self) {
        for host in &self.hosts {
            soon(host.shutdown()).await;
        }
    }
}

#[tokio::test]
async fn every_lane_delivers_both_ways_over_a_pipe() {
    let pair = Pair::on_one_host(Options::default());
    pair.send_both_ways(0, 100);
    pair.expect(100).await;
    pair.shutdown().await;
}

#[tokio::test]
async fn every_lane_delivers_both_ways_between_hosts() {
    let (pair, _cable) = Pair::on_two_hosts(Options::default());
    pair.send_both_ways(0, 100);
    pair.expect(100).await;
    pair.shutdown().await;
}

#[tokio::test]
async fn a_cut_link_comes_back_and_resumes_from_the_cursor() {
    let (pair, cable) = Pair::on_two_hosts(Options::default());
    for round in 0..5 {
        pair.send_both_ways(round * 20, round * 20 + 10);
        pair.city.until(|it| it.log().len() > round * 100 + 20).await;
        cable.cut();
        pair.send_both_ways(round * 20 + 10, round * 20 + 20);
        pair.expect(round * 20 + 20).await;
    }
    pair.shutdown().await;
}

#[tokio::test]
async fn a_unit_may_be_attached_before_its_parent() {
    let (city, district) = Pair::units();
    let host = host();
    host.attach(district.clone(), Some(Uplink::Local { parent: unit("CITY") }));
    district.send("CITY", Lane::Escalation, "whistle");
    host.attach(city.clone(), None);
    city.until(|it| it.log().len() == 1).await;
    soon(host.shutdown()).await;
}

#[tokio::test]
async fn nothing_is_acknowledged_before_it_is_durable_and_reading_goes_on() {
    let pair = Pair::on_one_host(Options::default());
    pair.city.hold_commits();
    for number in 0..20 {
        pair.district.send("CITY", Lane::Notice, &number.to_string());
    }
    // All twenty are handed over although not one commit has settled.
    pair.city.until(|it| it.calls_of_receive() == 20).await;
    assert_eq!(pair.district.waiting_rows("CITY"), 20);
    pair.city.settle_commits(|| Ok(()));
    pair.district.until(|it| it.waiting_rows("CITY") == 0).await;
    pair.shutdown().await;
}

#[tokio::test]
async fn a_failed_commit_is_no_acknowledgement_and_ends_the_link_with_its_reason() {
    let pair = Pair::on_one_host(Options::default());
    pair.city.hold_commits();
    pair.district.send("CITY", Lane::Notice, "lost");
    pair.city.until(|it| it.calls_of_receive() == 1).await;
    pair.city.settle_commits(|| Err(store::Error::Engine("torn".into())));
    pair.city.until(|it| it.events().iter().any(|event| event.contains("torn"))).await;
    assert_eq!(pair.district.waiting_rows("CITY"), 1);
    pair.shutdown().await;
}

#[tokio::test]
async fn a_full_disk_stops_the_lane_that_it_refuses_and_no_other() {
    let pair = Pair::on_one_host(Options::default());
    pair.city.hold_commits();
    pair.district.send("CITY", Lane::Notice, "no room");
    pair.city.until(|it| it.calls_of_receive() == 1).await;
    pair.city.settle_commits(|| Err(store::Error::DiskFull { free_bytes: 1, reserve_bytes: 2 }));
    let rests = "DISTRICT: lane notice rests: the disk is full";
    pair.city.until(|it| it.events().iter().any(|event| event.starts_with(rests))).await;
    pair.district.send("CITY", Lane::Escalation, "whistle");
    pair.city.until(|it| it.log().iter().any(|(_, text)| text == "whistle")).await;
    pair.district.until(|it| it.waiting_rows("CITY") == 1).await;
    assert!(!pair.city.events().iter().any(|event| event.contains("down")));
    pair.shutdown().await;
}

#[tokio::test]
async fn delegations_arrive_before_what_their_holders_sign() {
    let (pair, _cable) = Pair::on_two_hosts(Options::default());
    pair.up().await;
    pair.district.delegate("desk");
    pair.district.send("CITY", Lane::Escalation, "signed by the desk");
    pair.city.until(|it| it.log().len() == 1).await;
    assert_eq!(pair.city.introduced(), ["desk"]);
    pair.shutdown().await;
}

#[tokio::test]
async fn a_refused_child_learns_why() {
    for on_one_host in [true, false] {
        let pair = if on_one_host {
            Pair::on_one_host(Options::default())
        } else {
            Pair::on_two_hosts(Options::default()).0
        };
        pair.city.refuse("revoked", "the unit was revoked; join it again");
        let words = "the parent refuses the link (revoked): the unit was revoked; join it again";
        pair.district.until(|it| it.events().iter().any(|event| event.ends_with(words))).await;
        assert!(pair.downlinks.linked().is_empty());
        pair.shutdown().await;
    }
}

#[tokio::test]
async fn a_parent_that_is_not_there_is_reported_and_dialled_again() {
    let (_, district) = Pair::units();
    let host = host();
    let uplink = Uplink::Through { parent: unit("CITY"), dial: Arc::new(Nowhere) };
    host.attach(district.clone(), Some(uplink));
    district
        .until(|it| it.events().iter().filter(|e| e.contains("nobody listens")).count() >= 3)
        .await;
    soon(host.shutdown()).await;
}

fn question(deadline: Duration) -> Question {
    Question {
        wanted: Wanted::Live,
        period: "2011-07".to_owned(),
        deadline,
        max_age: Duration::ZERO,
        depth: 0,
        traceparent: String::new(),
    }
}

#[tokio::test]
async fn a_pull_brings_the_childs_answer() {
    for pair in [Pair::on_one_host(Options::default()), Pair::on_two_hosts(Options::default()).0] {
        pair.up().await;
        assert_eq!(pair.downlinks.linked(), [unit("DISTRICT")]);
        let question = question(Duration::from_secs(20));
        let parcels = pair.downlinks.pull(&unit("DISTRICT"), question).await.unwrap();
        assert_eq!(text(&parcels[0].envelope), "2011-07 of DISTRICT");
        pair.shutdown().await;
        assert!(pair.downlinks.linked().is_empty());
    }
}

#[tokio::test]
async fn a_pull_without_a_link_says_so() {
    let host = host();
    let downlinks = host.downlinks(&unit("CITY"));
    let answer = downlinks.pull(&unit("DISTRICT"), question(Duration::from_secs(20))).await;
    assert_eq!(answer.unwrap_err(), NoAnswer::NoLink);
}

#[tokio::test]
async fn a_pull_past_its_deadline_is_given_up_on_both_sides() {
    let pair = Pair::on_one_host(Options::default());
    pair.district.hold_answers();
    pair.up().await;
    let question = question(Duration::from_millis(30));
    let answer = soon(pair.downlinks.pull(&unit("DISTRICT"), question)).await;
    assert_eq!(answer.unwrap_err(), NoAnswer::Deadline);
    pair.district.until(|it| it.answers_dropped() == 1).await;
    pair.shutdown().await;
}

#[tokio::test]
async fn a_dropped_pull_is_cancelled_at_the_child() {
    let pair = Pair::on_one_host(Options::default());
    pair.district.hold_answers();
    pair.up().await;
    let downlinks = Arc::clone(&pair.downlinks);
    let pull = tokio::spawn(async move {
        downlinks.pull(&unit("DISTRICT"), question(Duration::from_secs(600))).await
    });
    pair.district.until(|it| it.answers_begun() == 1).await;
    assert_eq!(pair.district.answers_dropped(), 0);
    pull.abort();
    pair.district.until(|it| it.answers_dropped() == 1).await;
    pair.shutdown().await;
}

#[tokio::test]
async fn a_pull_over_a_link_that_ends_is_settled_at_once() {
    let pair = Pair::on_one_host(Options::default());
    pair.district.hold_answers();
    pair.up().await;
    let downlinks = Arc::clone(&pair.downlinks);
    let pull = tokio::spawn(async move {
        downlinks.pull(&unit("DISTRICT"), question(Duration::from_secs(600))).await
    });
    pair.district.until(|it| it.answers_begun() == 1).await;
    pair.shutdown().await;
    assert_eq!(soon(pull).await.unwrap().unwrap_err(), NoAnswer::NoLink);
}

/// Frames that pass, with their ends.
#[derive(Default)]
struct Seen(Mutex<Vec<(String, Bytes)>>);

impl Tap for Seen {
    fn frame(&self, from: &UnitCode, to: &UnitCode, bytes: &[u8]) {
        let way = format!("{from}>{to}");
        self.0.lock().unwrap().push((way, Bytes::copy_from_slice(bytes)));
    }
}

impl Seen {
    fn saw(&self, way: &str, payload: &str) -> bool {
        self.0.lock().unwrap().iter().any(|(seen, bytes)| {
            let frame = wire::decode(bytes.clone()).unwrap();
            matches!(frame.kind, Some(Kind::Delivery(pb::Delivery { envelope: Some(e), .. }))
                if seen == way && text(&e) == payload)
        })
    }
}

#[tokio::test]
async fn the_tap_sees_every_delivery_on_pipes_and_between_hosts() {
    for on_one_host in [true, false] {
        let seen = Arc::new(Seen::default());
        let options = Options { tap: Some(seen.clone()), ..Options::default() };
        let pair =
            if on_one_host { Pair::on_one_host(options) } else { Pair::on_two_hosts(options).0 };
        pair.send_both_ways(0, 1);
        pair.expect(1).await;
        assert!(seen.saw("DISTRICT>CITY", "up 0"));
        assert!(seen.saw("CITY>DISTRICT", "down 0"));
        assert!(!seen.saw("DISTRICT>CITY", "down 0"));
        pair.shutdown().await;
    }
}

fn raw_hello() -> Frame {
    wire::frame(Kind::Hello(pb::Hello {
        version_min: 1,
        version_max: 1,
        unit: "DISTRICT".to_owned(),
        roster_sha256: vec![0; 32],
        revocations_sha256: vec![0; 32],
        ..pb::Hello::default()
    }))
}

/// A parent's driver with the other end of its pipe in the test's hand.
struct Raw {
    to_parent: mpsc::Sender<Bytes>,
    from_parent: std::pin::Pin<Box<dyn Stream<Item = Result<Frame, Broken>> + Send>>,
    driver: tokio::task::JoinHandle<Ending>,
    city: Arc<MemoryExchange>,
    _stop: watch::Sender<bool>,
}

impl Raw {
    fn new(heartbeat: Heartbeat) -> Self {
        let (city, _) = Pair::units();
        let (near, far) = pipe();
        let (stop, stopped) = watch::channel(false);
        let around = super::driver::Surroundings { heartbeat, ..surroundings(stopped) };
        let (_, commands) = mpsc::unbounded_channel();
        let driver = Driver::new(Role::Parent, unit("DISTRICT"), city.clone(), around, commands);
        let (outbound, inbound) = far.split();
        let driver = tokio::spawn(driver.run(outbound, inbound));
        let (to_parent, from_parent) = near.split();
        Self { to_parent, from_parent: Box::pin(from_parent), driver, city, _stop: stop }
    }

    async fn greet(&mut self) {
        self.to_parent.send(wire::encode(&raw_hello())).await.unwrap();
        let answer = self.from_parent.next().await.unwrap().unwrap();
        assert!(matches!(answer.kind, Some(Kind::Hello(_))));
    }
}

#[tokio::test]
async fn an_oversize_frame_on_a_pipe_ends_the_link_and_is_reported() {
    let mut raw = Raw::new(Heartbeat::default());
    raw.greet().await;
    raw.to_parent.send(vec![0; MAX_FRAME_BYTES + 1].into()).await.unwrap();
    let ending = soon(raw.driver).await.unwrap();
    assert_eq!(ending.closed, Closed::Malformed(Malformed::TooLarge));
    let events = raw.city.events();
    assert!(events.iter().any(|e| e.contains("over the limit of 262144")), "{events:?}");
}

#[tokio::test]
async fn bytes_that_are_no_frame_end_the_link() {
    let mut raw = Raw::new(Heartbeat::default());
    raw.greet().await;
    raw.to_parent.send(Bytes::from_static(&[0xff; 20])).await.unwrap();
    let ending = soon(raw.driver).await.unwrap();
    assert_eq!(ending.closed, Closed::Malformed(Malformed::Unreadable));
}

#[tokio::test]
async fn a_silent_peer_gets_heartbeats_and_is_then_given_up() {
    let idle = Duration::from_millis(20);
    let mut raw = Raw::new(Heartbeat { idle, dead: Duration::from_millis(90) });
    raw.greet().await;
    let mut heartbeats = 0;
    while let Some(frame) = soon(raw.from_parent.next()).await {
        heartbeats += usize::from(matches!(frame.unwrap().kind, Some(Kind::Heartbeat(_))));
    }
    assert!(heartbeats >= 1);
    let ending = soon(raw.driver).await.unwrap();
    assert!(matches!(ending.closed, Closed::Silent(_)), "{}", ending.closed);
    assert!(!ending.progressed);
}

#[tokio::test]
async fn an_oversize_frame_between_hosts_is_answered_with_resource_exhausted() {
    let (city, _) = Pair::units();
    let host = host();
    host.attach(city.clone(), None);
    let (near, far) = duplex(64 * 1024);
    let connection = Connection {
        from: None,
        unit: unit("CITY"),
        peer: Some(unit("DISTRICT")),
        certified: None,
        turn: Turn::default(),
    };
    let serving = host.clone();
    tokio::spawn(async move { serving.serve_stream(far, connection).await });
    let channel = tonic::transport::Endpoint::from_static("http://test.invalid")
        .connect_with_connector(Once::new(near))
        .await
        .unwrap();
    let huge = envelope(&"x".repeat(MAX_FRAME_BYTES));
    let huge = pb::Delivery { lane: 3, lane_seq: 1, envelope: Some(huge), ..Default::default() };
    let frames =
        stream::iter([raw_hello(), wire::frame(Kind::Delivery(huge))]).chain(stream::pending());
    let mut answers = LinkClient::new(channel).open(frames).await.unwrap().into_inner();
    let status = soon(async {
        loop {
            match answers.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream ended without a status"),
                Err(status) => return status,
            }
        }
    })
    .await;
    assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    let reported = |it: &MemoryExchange| {
        it.events().iter().any(|event| event.contains("over the limit of 262144"))
    };
    city.until(reported).await;
    soon(host.shutdown()).await;
}

/// What a hello costs comes after the handshake: the next caller waits for it too.
#[tokio::test]
async fn a_childs_turn_lasts_until_its_link_is_up() {
    let (city, _) = Pair::units();
    let host = host();
    host.attach(city.clone(), None);
    let permit = Arc::new(());
    let (near, far) = duplex(64 * 1024);
    let connection = Connection {
        from: None,
        unit: unit("CITY"),
        peer: Some(unit("DISTRICT")),
        certified: None,
        turn: Turn::of(Arc::clone(&permit)),
    };
    let serving = host.clone();
    tokio::spawn(async move { serving.serve_stream(far, connection).await });
    let channel = tonic::transport::Endpoint::from_static("http://test.invalid")
        .connect_with_connector(Once::new(near))
        .await
        .unwrap();
    let (outbound, frames) = mpsc::channel(1);
    let frames = tokio_stream::wrappers::ReceiverStream::new(frames);
    let mut answers = LinkClient::new(channel).open(frames).await.unwrap().into_inner();
    assert_eq!(Arc::strong_count(&permit), 2, "it has not greeted");
    outbound.send(raw_hello()).await.unwrap();
    let first = soon(answers.message()).await.unwrap().unwrap();
    assert!(matches!(first.kind, Some(Kind::Hello(_))), "{first:?}");
    assert_eq!(Arc::strong_count(&permit), 1, "the link is up");
    soon(host.shutdown()).await;
}

#[tokio::test]
async fn a_childs_turn_ends_with_its_refusal() {
    let (city, _) = Pair::units();
    let host = host();
    host.attach(city.clone(), None);
    let permit = Arc::new(());
    let (near, far) = duplex(64 * 1024);
    let connection = Connection {
        from: None,
        unit: unit("CITY"),
        peer: Some(unit("ANOTHER")),
        certified: None,
        turn: Turn::of(Arc::clone(&permit)),
    };
    let serving = host.clone();
    tokio::spawn(async move { serving.serve_stream(far, connection).await });
    let channel = tonic::transport::Endpoint::from_static("http://test.invalid")
        .connect_with_connector(Once::new(near))
        .await
        .unwrap();
    let frames = stream::iter([raw_hello()]).chain(stream::pending());
    let mut answers = LinkClient::new(channel).open(frames).await.unwrap().into_inner();
    let refusal = soon(answers.message()).await.unwrap().unwrap();
    assert!(matches!(refusal.kind, Some(Kind::Refusal(_))), "{refusal:?}");
    soon(async {
        // The connection stays open for other calls: the turn is over all the same.
        while Arc::strong_count(&permit) > 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    soon(host.shutdown()).await;
}

#[tokio::test]
async fn a_caller_without_a_certificate_gets_no_link() {
    let (city, _) = Pair::units();
    let host = host();
    host.attach(city.clone(), None);
    let (near, far) = duplex(64 * 1024);
    let connection = Connection {
        from: None,
        unit: unit("CITY"),
        peer: None,
        certified: None,
        turn: Turn::default(),
    };
    let serving = host.clone();
    tokio::spawn(async move { serving.serve_stream(far, connection).await });
    let channel = tonic::transport::Endpoint::from_static("http://test.invalid")
        .connect_with_connector(Once::new(near))
        .await
        .unwrap();
    let answer = LinkClient::new(channel).open(stream::iter([raw_hello()])).await;
    assert_eq!(answer.unwrap_err().code(), tonic::Code::Unauthenticated);
    soon(host.shutdown()).await;
}

#[tokio::test]
async fn a_newer_link_of_a_child_replaces_the_older_one() {
    let (pair, cable) = Pair::on_two_hosts(Options::default());
    pair.up().await;
    // The same child dials again although its first stream looks alive to the parent.
    let again = MemoryExchange::new("DISTRICT", Some("CITY"));
    let other = host();
    let uplink = Uplink::Through { parent: unit("CITY"), dial: cable.clone() };
    other.attach(again.clone(), Some(uplink));
    again.until(|it| it.events().iter().any(|event| event == "CITY up")).await;
    let replaced = "CITY down: the stream ended: a newer link of the same child took over";
    pair.district.until(|it| it.events().iter().any(|event| event == replaced)).await;
    assert!(!pair.city.events().iter().any(|event| event.contains("newer link")));
    soon(other.shutdown()).await;
    pair.shutdown().await;
}

/// A city that listens on a real socket with real certificates, and what its child shows.
struct Secured {
    address: String,
    city: Arc<MemoryExchange>,
    above: LinkHost,
    pin: ParentPin,
    child: UnitTls,
}

const DOMAIN: &str = "test.example";

fn shown(keys: &UnitKeys, code: &str, issuer: &UnitKeys, now: i64) -> UnitTls {
    let request = certificates::request(&keys.tls).unwrap();
    let issuer = (&issuer.ca_certificate, &issuer.ca);
    let client = certificates::issue_client(&unit(code), DOMAIN, &request, issuer, now).unwrap();
    UnitTls::new(&unit(code), DOMAIN, keys, Some(client), now).unwrap()
}

impl Secured {
    /// `issued_by_parent: false`: the child's certificate comes from a CA of its own.
    async fn new(issued_by_parent: bool) -> Self {
        let now = SystemClock.now_unix_ms();
        let above_keys = UnitKeys::generate(&unit("CITY"), DOMAIN, now).unwrap();
        let below_keys = UnitKeys::generate(&unit("DISTRICT"), DOMAIN, now).unwrap();
        let issuer = if issued_by_parent { &above_keys } else { &below_keys };
        let child = shown(&below_keys, "DISTRICT", issuer, now);
        let tls = ServerTls::new(Arc::new(SystemClock));
        tls.set(&UnitTls::new(&unit("CITY"), DOMAIN, &above_keys, None, now).unwrap()).unwrap();
        let certificate = child.client_certificate.as_ref().unwrap();
        let key_sha256 = certificates::read(certificate).unwrap().key_sha256;
        tls.bind(&unit("CITY"), &unit("DISTRICT"), key_sha256);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (city, above) = (MemoryExchange::new("CITY", None), host());
        above.attach(city.clone(), None);
        let serving = above.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(accepted) = tls.accept(stream).await else { continue };
                let (unit, peer) = (accepted.unit, accepted.peer);
                let connection = Connection {
                    from: None,
                    unit,
                    peer,
                    certified: accepted.certified,
                    turn: Turn::default(),
                };
                let serving = serving.clone();
                tokio::spawn(async move {
                    serving.serve_stream(accepted.stream, connection).await;
                });
            }
        });
        let trust_domain = Some(DOMAIN.to_owned());
        let ca_sha256 = above_keys.ca_sha256();
        let pin = ParentPin { unit: unit("CITY"), trust_domain, ca_sha256, further: Vec::new() };
        Self { address, city, above, pin, child }
    }
}

#[async_trait]
impl Dial for Secured {
    async fn dial(&self) -> Result<Box<dyn Io>, String> {
        let clock = Arc::new(SystemClock);
        let child = Some(&self.child);
        match connect(&self.address, &self.pin, Purpose::Link, child, clock).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(super::driver::chain(&error)),
        }
    }
}

#[tokio::test]
async fn a_link_over_tls_delivers_and_pulls() {
    let secured = Arc::new(Secured::new(true).await);
    let (city, above) = (Arc::clone(&secured.city), secured.above.clone());
    let (district, below) = (MemoryExchange::new("DISTRICT", Some("CITY")), host());
    let downlinks = above.downlinks(&unit("CITY"));
    below.attach(district.clone(), Some(Uplink::Through { parent: unit("CITY"), dial: secured }));
    let pair = Pair { city, district, downlinks, hosts: vec![below, above] };
    pair.send_both_ways(0, 50);
    pair.expect(50).await;
    let question = question(Duration::from_secs(20));
    assert!(pair.downlinks.pull(&unit("DISTRICT"), question).await.is_ok());
    pair.shutdown().await;
}

#[tokio::test]
async fn a_child_whose_certificate_is_refused_learns_why() {
    let secured = Arc::new(Secured::new(false).await);
    let above = secured.above.clone();
    let (district, below) = (MemoryExchange::new("DISTRICT", Some("CITY")), host());
    let uplink = Uplink::Through { parent: unit("CITY"), dial: secured };
    below.attach(district.clone(), Some(uplink));
    district.until(|it| it.events().iter().any(|event| event.contains("join again"))).await;
    soon(below.shutdown()).await;
    soon(above.shutdown()).await;
}
