//! What a whistle waits beside a saturated bulk lane: on loopback, and over a line of 64 kbit/s.
//!
//! Two link hosts over TLS on real sockets; their units keep nothing, so that the link alone is
//! measured. The line is a proxy that passes on 8,000 bytes a second and lets the sockets' buffers
//! fill, as a modem behind a fast network card does. Whistles leave one by one, without and with bulk
//! frames of the largest size that always wait. Prints one JSON document, times in milliseconds, and
//! ends with 1 if a target is not met.
//!
//! `LIANXI_BENCH_WHISTLES` sets how many whistles go over loopback, `LIANXI_BENCH_SLOW_WHISTLES` how
//! many over the line.

#![allow(clippy::unwrap_used, reason = "a measurement that cannot set its scene has to fail")]

use std::{
    io::Write as _,
    net::SocketAddr,
    process::ExitCode,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use lianxi_node::{
    clock::{Clock as _, SystemClock},
    domain::{
        epoch::{Number, Reach},
        preview::Program,
        unit::UnitCode,
    },
    identity::{
        certificates,
        keys::UnitKeys,
        tls::{ParentPin, Purpose, ServerTls, UnitTls, connect},
    },
    link::{
        LinkHost, Options, Uplink,
        dial::{Dial, Io},
        wire::MAX_BULK_FRAME_BYTES,
    },
    services::{
        connection::{Connection, Turn},
        exchange::{
            Arrival, Cursor, Departure, Error, Exchange, Lane, LinkEvent, Meeting, Occasion, Page,
            Parcel, Question, Refusal, Seen, Standing, Witnessing,
        },
    },
    statement::{Envelope, revocation::Proven},
    store::Commit,
    watch,
};
use lianxi_tests::numbers::{Numbers, setting};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};

const DOMAIN: &str = "bench.example";

/// 64 kbit/s.
const LINE_BYTES_PER_SECOND: u32 = 8_000;

/// Bytes that the line takes at a time: small beside a frame.
const LINE_PIECE: usize = 400;

/// A whistle's statement, about.
const WHISTLE_BYTES: usize = 900;

/// What a frame holds beside the statement, at most.
const FRAME_OVERHEAD: usize = 200;

/// A bulk statement: its frame is as large as the lane lets it be.
const BULK_BYTES: usize = MAX_BULK_FRAME_BYTES - FRAME_OVERHEAD;

/// Most that a whistle may wait beside bulk more than without, on loopback.
const LOOPBACK_TARGET: Duration = Duration::from_millis(100);

/// Pauses between whistles, so that each finds the link as bulk alone leaves it.
const PAUSES_MS: (u64, u64) = (5, 40);
const SLOW_PAUSES_MS: (u64, u64) = (4_000, 8_000);

/// Time that bulk has to fill the way before the first whistle.
const FILL: Duration = Duration::from_secs(20);

fn unit(code: &str) -> UnitCode {
    code.parse().unwrap()
}

/// A unit that sends whistles when told to, and bulk without end while that is switched on.
struct Talker {
    unit: UnitCode,
    parent: Option<UnitCode>,
    whistles: Mutex<Vec<u64>>,
    sends_bulk: AtomicBool,
    outbox: watch::Sender<u64>,
    still: watch::Sender<u64>,
    bulk: Envelope,
    arrived: mpsc::UnboundedSender<(Lane, Instant)>,
}

impl Talker {
    fn new(
        code: &str,
        parent: Option<&str>,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<(Lane, Instant)>) {
        let (arrived, arrivals) = mpsc::unbounded_channel();
        let payload = vec![7; BULK_BYTES];
        let talker = Self {
            unit: unit(code),
            parent: parent.map(unit),
            whistles: Mutex::default(),
            sends_bulk: AtomicBool::new(false),
            outbox: watch::Sender::new(0),
            still: watch::Sender::new(0),
            bulk: Envelope { payload: payload.into(), ..Envelope::default() },
            arrived,
        };
        (Arc::new(talker), arrivals)
    }

    fn whistle(&self, lane_seq: u64) {
        self.whistles.lock().unwrap().push(lane_seq);
        self.outbox.send_modify(|version| *version += 1);
    }

    fn send_bulk(&self, on: bool) {
        self.sends_bulk.store(on, Ordering::Relaxed);
        self.outbox.send_modify(|version| *version += 1);
    }
}

fn departure(lane: Lane, lane_seq: u64, envelope: Envelope) -> Departure {
    let cursor = Cursor { lane, link_epoch: 1, lane_seq };
    Departure { cursor, after: lane_seq - 1, envelope, cells: Vec::new(), evidence: None }
}

#[async_trait]
impl Exchange for Talker {
    fn unit(&self) -> &UnitCode {
        &self.unit
    }

    fn parent(&self) -> Option<UnitCode> {
        self.parent.clone()
    }

    async fn standing(&self, _: &UnitCode) -> Result<Standing, Error> {
        Ok(Standing {
            trust_domain: DOMAIN.to_owned(),
            unit: self.unit.clone(),
            chain: Vec::new(),
            epoch: 1,
            received: Vec::new(),
            clock_unix_ms: SystemClock.now_unix_ms(),
            roster_sha256: [0; 32],
            catalogue: String::new(),
            addresses: Vec::new(),
            revocations_sha256: [0; 32],
            seen: Seen::default(),
            opening: None,
            reach: Reach::default(),
            stopped: false,
            program: Program::own(),
        })
    }

    async fn meet(&self, _: &UnitCode, _: &Standing) -> Result<Meeting, Refusal> {
        Ok(Meeting::Open)
    }

    async fn roster(&self, _: &UnitCode) -> Result<Vec<Envelope>, Error> {
        Ok(Vec::new())
    }

    async fn introduce(&self, _: &UnitCode, _: Vec<Envelope>) -> Result<(), Error> {
        Ok(())
    }

    async fn held(&self, _: &UnitCode) -> Result<Option<[u8; 32]>, Error> {
        Ok(None)
    }

    async fn acquainted(&self, _: &UnitCode, _: [u8; 32]) -> Result<(), Error> {
        Ok(())
    }

    async fn revocations(&self) -> Vec<Proven> {
        Vec::new()
    }

    async fn take_revocations(&self, _: &UnitCode, _: Vec<Proven>) -> Result<(), Error> {
        Ok(())
    }

    async fn receive(&self, _: &UnitCode, arrival: Arrival) -> Result<Commit, Error> {
        let (resolve, commit) = Commit::pending();
        self.arrived.send((arrival.cursor.lane, Instant::now())).ok();
        resolve.send(Ok(())).ok();
        Ok(commit)
    }

    async fn outgoing(
        &self,
        _: &UnitCode,
        lane: Lane,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Departure>, Error> {
        let count = u64::try_from(limit).unwrap();
        Ok(match lane {
            Lane::Escalation => {
                let payload = vec![1; WHISTLE_BYTES];
                let whistle = Envelope { payload: payload.into(), ..Envelope::default() };
                let waiting = self.whistles.lock().unwrap();
                let waiting = waiting.iter().filter(|lane_seq| **lane_seq > after).take(limit);
                waiting.map(|lane_seq| departure(lane, *lane_seq, whistle.clone())).collect()
            }
            Lane::Bulk if self.sends_bulk.load(Ordering::Relaxed) => {
                let next = after + 1..=after + count;
                next.map(|lane_seq| departure(lane, lane_seq, self.bulk.clone())).collect()
            }
            Lane::Bulk | Lane::Notice | Lane::Summary | Lane::Catalogue => Vec::new(),
        })
    }

    async fn acknowledged(&self, _: &UnitCode, cursor: Cursor) -> Result<(), Error> {
        if cursor.lane == Lane::Escalation {
            self.whistles.lock().unwrap().retain(|lane_seq| *lane_seq > cursor.lane_seq);
        }
        Ok(())
    }

    fn outbox_changes(&self, _: &UnitCode) -> watch::Receiver<u64> {
        self.outbox.subscribe()
    }

    fn roster_changes(&self, _: &UnitCode) -> watch::Receiver<u64> {
        self.still.subscribe()
    }

    fn checkpoint_changes(&self) -> watch::Receiver<u64> {
        self.still.subscribe()
    }

    async fn witness(&self, _: &UnitCode, _: Occasion) -> Result<Vec<Witnessing>, Error> {
        Ok(Vec::new())
    }

    fn standing_changes(&self) -> watch::Receiver<u64> {
        self.still.subscribe()
    }

    async fn returns_wanted(&self, _: &UnitCode) -> Result<Option<Number>, Error> {
        Ok(None)
    }

    async fn take_returned(&self, _: &UnitCode, _: Page) -> Result<Option<Number>, Error> {
        Ok(None)
    }

    async fn returned(&self, _: &UnitCode, _: Number) -> Result<Page, Error> {
        Ok(Page::default())
    }

    async fn answer(&self, _: Question) -> Vec<Parcel> {
        Vec::new()
    }

    fn note(&self, peer: &UnitCode, event: LinkEvent) {
        if let LinkEvent::Down { reason } | LinkEvent::Resting { reason } = event {
            panic!("the link to {peer}: {reason}");
        }
    }
}

/// How the child reaches its parent.
struct Way {
    address: String,
    pin: ParentPin,
    tls: UnitTls,
}

#[async_trait]
impl Dial for Way {
    async fn dial(&self) -> Result<Box<dyn Io>, String> {
        let (tls, clock) = (Some(&self.tls), Arc::new(SystemClock));
        match connect(&self.address, &self.pin, Purpose::Link, tls, clock).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// A parent and a child with a link between them.
struct Pair {
    child: Arc<Talker>,
    arrivals: mpsc::UnboundedReceiver<(Lane, Instant)>,
    _hosts: [LinkHost; 2],
    next: u64,
    bulk_frames: u32,
}

fn host() -> LinkHost {
    LinkHost::new(Options::default(), Arc::new(SystemClock))
}

impl Pair {
    async fn new(is_slow: bool) -> Self {
        let now = SystemClock.now_unix_ms();
        let parent_keys = UnitKeys::generate(&unit("CITY"), DOMAIN, now).unwrap();
        let keys = UnitKeys::generate(&unit("DISTRICT"), DOMAIN, now).unwrap();
        let request = certificates::request(&keys.tls).unwrap();
        let issuer = (&parent_keys.ca_certificate, &parent_keys.ca);
        let client = certificates::issue_client(&unit("DISTRICT"), DOMAIN, &request, issuer, now);
        let tls = UnitTls::new(&unit("DISTRICT"), DOMAIN, &keys, client.ok(), now).unwrap();
        let server = ServerTls::new(Arc::new(SystemClock));
        server.set(&UnitTls::new(&unit("CITY"), DOMAIN, &parent_keys, None, now).unwrap()).unwrap();
        let certificate = certificates::read(tls.client_certificate.as_ref().unwrap()).unwrap();
        server.bind(&unit("CITY"), &unit("DISTRICT"), certificate.key_sha256);

        let (parent, arrivals) = Talker::new("CITY", None);
        let (child, _) = Talker::new("DISTRICT", Some("CITY"));
        let (above, below) = (host(), host());
        above.attach(parent, None);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, server, above.clone()));
        let address = if is_slow { slow_line(address).await } else { address };
        let ca_sha256 = parent_keys.ca_sha256();
        let trust_domain = Some(DOMAIN.to_owned());
        let pin = ParentPin { unit: unit("CITY"), trust_domain, ca_sha256, further: Vec::new() };
        let dial = Arc::new(Way { address: address.to_string(), pin, tls });
        below.attach(child.clone(), Some(Uplink::Through { parent: unit("CITY"), dial }));
        let mut pair = Self { child, arrivals, _hosts: [above, below], next: 1, bulk_frames: 0 };
        pair.whistle().await;
        pair
    }

    /// Time from a whistle's commit at the child until it is handed to the parent.
    async fn whistle(&mut self) -> Duration {
        let begun = Instant::now();
        self.child.whistle(self.next);
        self.next += 1;
        loop {
            let (lane, at) = self.arrivals.recv().await.unwrap();
            if lane == Lane::Escalation {
                return at - begun;
            }
            self.bulk_frames += 1;
        }
    }

    async fn whistles(&mut self, count: u64, pauses_ms: (u64, u64)) -> Times {
        let mut numbers = Numbers::new(count);
        let mut waits = Vec::new();
        for _ in 0..count {
            sleep(numbers.millis(pauses_ms.0, pauses_ms.1)).await;
            waits.push(self.whistle().await);
        }
        waits.sort();
        Times(waits)
    }
}

async fn serve(listener: TcpListener, server: ServerTls, host: LinkHost) {
    while let Ok((stream, _)) = listener.accept().await {
        let accepted = server.accept(stream).await.unwrap();
        let (unit, peer, certified) = (accepted.unit, accepted.peer, accepted.certified);
        let host = host.clone();
        tokio::spawn(async move {
            host.serve_stream(
                accepted.stream,
                Connection { unit, peer, certified, from: None, turn: Turn::default() },
            )
            .await;
        });
    }
}

/// A proxy before `to` that passes on so much and no more; its address.
async fn slow_line(to: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let far = TcpStream::connect(to).await.unwrap();
            let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
            tokio::spawn(slowly(near_in, far_out));
            tokio::spawn(slowly(far_in, near_out));
        }
    });
    address
}

async fn slowly(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
) -> std::io::Result<()> {
    let mut piece = [0; LINE_PIECE];
    let mut free_at = Instant::now();
    loop {
        let read = from.read(&mut piece).await?;
        if read == 0 {
            return Ok(());
        }
        free_at = free_at.max(Instant::now());
        free_at += Duration::from_secs(1) * u32::try_from(read).unwrap() / LINE_BYTES_PER_SECOND;
        sleep_until(free_at).await;
        to.write_all(&piece[..read]).await?;
    }
}

/// Ascending.
struct Times(Vec<Duration>);

impl Times {
    fn at(&self, percent: usize) -> Duration {
        self.0[(self.0.len() * percent / 100).min(self.0.len() - 1)]
    }

    fn json(&self) -> serde_json::Value {
        let ms = |percent| self.at(percent).as_secs_f64() * 1_000.0;
        json!({ "p50": ms(50), "p99": ms(99), "most": ms(100) })
    }
}

/// Without what has come so far.
fn drained<T>(mut arrivals: mpsc::UnboundedReceiver<T>) -> mpsc::UnboundedReceiver<T> {
    while arrivals.try_recv().is_ok() {}
    arrivals
}

/// Whistles without and with bulk; `met` if the largest difference at 99 % is within the target.
async fn measure(
    is_slow: bool,
    count: u64,
    pauses: (u64, u64),
    target: Duration,
) -> serde_json::Value {
    let mut pair = Pair::new(is_slow).await;
    let idle = pair.whistles(count, if is_slow { (200, 400) } else { pauses }).await;
    pair.child.send_bulk(true);
    sleep(if is_slow { FILL } else { Duration::from_secs(1) }).await;
    let begun = Instant::now();
    pair.arrivals = drained(pair.arrivals);
    pair.bulk_frames = 0;
    let beside_bulk = pair.whistles(count, pauses).await;
    let took = begun.elapsed();
    let extra = beside_bulk.at(99).saturating_sub(idle.at(99));
    json!({
        "whistles": count,
        "idle_ms": idle.json(),
        "beside_bulk_ms": beside_bulk.json(),
        "extra_p99_ms": extra.as_secs_f64() * 1_000.0,
        "target_ms": target.as_secs_f64() * 1_000.0,
        "met": extra <= target,
        "bulk_bytes_per_second": f64::from(pair.bulk_frames) * BULK_BYTES as f64 / took.as_secs_f64(),
    })
}

fn main() -> std::io::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let report = runtime.block_on(async {
        let count = setting("LIANXI_BENCH_WHISTLES", 500);
        let loopback = measure(false, count, PAUSES_MS, LOOPBACK_TARGET).await;
        let frame = u32::try_from(MAX_BULK_FRAME_BYTES).unwrap();
        let two_frames = Duration::from_secs(2) * frame / LINE_BYTES_PER_SECOND;
        let count = setting("LIANXI_BENCH_SLOW_WHISTLES", 20);
        let slow = measure(true, count, SLOW_PAUSES_MS, two_frames).await;
        json!({ "loopback": loopback, "64_kbit_per_second": slow })
    });
    writeln!(std::io::stdout(), "{}", serde_json::to_string_pretty(&report)?)?;
    let all_met = report.as_object().unwrap().values().all(|line| line["met"] == true);
    Ok(if all_met { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
