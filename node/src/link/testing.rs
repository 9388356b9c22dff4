//! An exchange that keeps everything in memory, for tests of the link: real cursors, real order,
//! no meaning.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use tokio::{
    sync::{Notify, oneshot},
    time::timeout,
};

use crate::{
    clock::SystemClock,
    domain::{
        epoch::{Number, Reach},
        preview::Program,
        unit::UnitCode,
    },
    link::{driver::Surroundings, session::Heartbeat},
    services::exchange::{
        Arrival, Cursor, Departure, Error, Exchange, Lane, LinkEvent, Meeting, Occasion, Page,
        Parcel, Question, Refusal, Seen, Standing, Witnessing,
    },
    statement::{Envelope, revocation::Proven},
    store::{self, Commit},
    watch,
};

pub(crate) fn unit(code: &str) -> UnitCode {
    code.parse().unwrap()
}

pub(crate) fn envelope(text: &str) -> Envelope {
    Envelope { payload: text.to_owned().into_bytes().into(), ..Envelope::default() }
}

pub(crate) fn text(envelope: &Envelope) -> String {
    String::from_utf8(envelope.payload.to_vec()).unwrap()
}

pub(crate) fn surroundings(stop: watch::Receiver<bool>) -> Surroundings {
    Surroundings { clock: Arc::new(SystemClock), heartbeat: Heartbeat::default(), tap: None, stop }
}

/// Time limit of everything that is waited for: a test that hangs says so.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(30), future).await.expect("nothing happened for 30 s")
}

/// Position, the position before it, and what is sent.
type Row = (u64, u64, Envelope);

#[derive(Default)]
struct State {
    outbox: BTreeMap<(UnitCode, Lane), Vec<Row>>,
    last_seq: u64,
    cursors: BTreeMap<(UnitCode, Lane), Cursor>,
    /// What came in, lane by lane.
    log: Vec<(Lane, String)>,
    calls_of_receive: usize,
    introduced: Vec<String>,
    roster: Vec<Envelope>,
    revocations: Vec<Proven>,
    refusal: Option<Refusal>,
    events: Vec<String>,
    hold_answers: bool,
    hold_commits: bool,
    held: Vec<oneshot::Sender<Result<(), store::Error>>>,
    answers_begun: usize,
    answers_dropped: usize,
}

pub(crate) struct MemoryExchange {
    unit: UnitCode,
    parent: Option<UnitCode>,
    epoch: u64,
    state: Mutex<State>,
    outbox: watch::Sender<u64>,
    rosters: watch::Sender<u64>,
    pub(crate) changed: Notify,
}

struct Dropped<'a>(&'a MemoryExchange);

impl Drop for Dropped<'_> {
    fn drop(&mut self) {
        self.0.state().answers_dropped += 1;
        self.0.changed.notify_waiters();
    }
}

impl MemoryExchange {
    pub(crate) fn new(code: &str, parent: Option<&str>) -> Arc<Self> {
        Arc::new(Self {
            unit: unit(code),
            parent: parent.map(unit),
            epoch: 77,
            state: Mutex::default(),
            outbox: watch::Sender::new(0),
            rosters: watch::Sender::new(0),
            changed: Notify::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn send(&self, peer: &str, lane: Lane, text: &str) {
        self.send_envelope(peer, lane, envelope(text));
    }

    pub(crate) fn send_envelope(&self, peer: &str, lane: Lane, envelope: Envelope) {
        let mut state = self.state();
        // Gaps in the numbers are usual: `after` says what comes before.
        state.last_seq += 3;
        let lane_seq = state.last_seq;
        let have = state.cursors.get(&(unit(&format!("ACK-{peer}")), lane)).map(|c| c.lane_seq);
        let rows = state.outbox.entry((unit(peer), lane)).or_default();
        let after = rows.last().map(|row| row.0).or(have).unwrap_or(0);
        rows.push((lane_seq, after, envelope));
        drop(state);
        self.outbox.send_modify(|version| *version += 1);
    }

    pub(crate) fn delegate(&self, text: &str) {
        self.state().roster.push(envelope(text));
        self.rosters.send_modify(|version| *version += 1);
    }

    pub(crate) fn refuse(&self, reason: &'static str, detail: &str) {
        self.state().refusal = Some(Refusal { reason, detail: detail.to_owned() });
    }

    pub(crate) fn hold_answers(&self) {
        self.state().hold_answers = true;
    }

    pub(crate) fn hold_commits(&self) {
        self.state().hold_commits = true;
    }

    /// Settles the commits that were held, and holds none from here on.
    pub(crate) fn settle_commits(&self, result: impl Fn() -> Result<(), store::Error>) {
        let mut state = self.state();
        state.hold_commits = false;
        for resolve in state.held.drain(..) {
            resolve.send(result()).ok();
        }
    }

    pub(crate) fn waiting_rows(&self, peer: &str) -> usize {
        let peer = unit(peer);
        self.state()
            .outbox
            .iter()
            .filter(|(key, _)| key.0 == peer)
            .map(|(_, rows)| rows.len())
            .sum()
    }

    pub(crate) fn log(&self) -> Vec<(Lane, String)> {
        self.state().log.clone()
    }

    pub(crate) fn introduced(&self) -> Vec<String> {
        self.state().introduced.clone()
    }

    pub(crate) fn events(&self) -> Vec<String> {
        self.state().events.clone()
    }

    pub(crate) fn answers_begun(&self) -> usize {
        self.state().answers_begun
    }

    pub(crate) fn answers_dropped(&self) -> usize {
        self.state().answers_dropped
    }

    pub(crate) fn calls_of_receive(&self) -> usize {
        self.state().calls_of_receive
    }

    /// Waits until `condition` holds; every change of the exchange is looked at.
    pub(crate) async fn until(&self, condition: impl Fn(&Self) -> bool) {
        soon(self.wait(condition)).await;
    }

    async fn wait(&self, condition: impl Fn(&Self) -> bool) {
        loop {
            let changed = self.changed.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            if condition(self) {
                return;
            }
            changed.await;
        }
    }
}

#[async_trait]
impl Exchange for MemoryExchange {
    fn unit(&self) -> &UnitCode {
        &self.unit
    }

    fn parent(&self) -> Option<UnitCode> {
        self.parent.clone()
    }

    async fn standing(&self, peer: &UnitCode) -> Result<Standing, Error> {
        let state = self.state();
        let received = state.cursors.iter().filter(|(key, _)| key.0 == *peer).map(|(_, c)| *c);
        let count = state.roster.len().max(state.introduced.len());
        Ok(Standing {
            trust_domain: "test".to_owned(),
            unit: self.unit.clone(),
            chain: Vec::new(),
            epoch: 1,
            received: received.collect(),
            clock_unix_ms: 0,
            roster_sha256: [u8::try_from(count).unwrap(); 32],
            catalogue: String::new(),
            addresses: Vec::new(),
            revocations_sha256: [u8::try_from(state.revocations.len()).unwrap(); 32],
            seen: Seen::default(),
            opening: None,
            reach: Reach::default(),
            stopped: false,
            program: Program::own(),
        })
    }

    async fn meet(&self, _certified: &UnitCode, _hello: &Standing) -> Result<Meeting, Refusal> {
        self.state().refusal.clone().map_or(Ok(Meeting::Open), Err)
    }

    async fn roster(&self, _peer: &UnitCode) -> Result<Vec<Envelope>, Error> {
        Ok(self.state().roster.clone())
    }

    async fn introduce(&self, _peer: &UnitCode, delegations: Vec<Envelope>) -> Result<(), Error> {
        tokio::task::yield_now().await;
        self.state().introduced.extend(delegations.iter().map(text));
        self.changed.notify_waiters();
        Ok(())
    }

    async fn held(&self, _peer: &UnitCode) -> Result<Option<[u8; 32]>, Error> {
        Ok(None)
    }

    async fn acquainted(&self, _peer: &UnitCode, _sha256: [u8; 32]) -> Result<(), Error> {
        Ok(())
    }

    async fn revocations(&self) -> Vec<Proven> {
        self.state().revocations.clone()
    }

    async fn take_revocations(&self, _peer: &UnitCode, items: Vec<Proven>) -> Result<(), Error> {
        tokio::task::yield_now().await;
        self.state().revocations.extend(items);
        self.changed.notify_waiters();
        Ok(())
    }

    async fn receive(&self, peer: &UnitCode, arrival: Arrival) -> Result<Commit, Error> {
        tokio::task::yield_now().await;
        let (resolve, commit) = Commit::pending();
        {
            let mut state = self.state();
            state.calls_of_receive += 1;
            let key = (peer.clone(), arrival.cursor.lane);
            let have = state
                .cursors
                .get(&key)
                .filter(|cursor| cursor.link_epoch == arrival.cursor.link_epoch)
                .map_or(0, |cursor| cursor.lane_seq);
            let lane_seq = arrival.cursor.lane_seq;
            if arrival.after > have {
                return Err(Error::Gap { lane_seq, after: arrival.after, have });
            }
            if lane_seq > have {
                state.cursors.insert(key, arrival.cursor);
                state.log.push((arrival.cursor.lane, text(&arrival.envelope)));
            }
        }
        let mut state = self.state();
        if state.hold_commits {
            state.held.push(resolve);
        } else {
            resolve.send(Ok(())).unwrap();
        }
        drop(state);
        self.changed.notify_waiters();
        Ok(commit)
    }

    async fn outgoing(
        &self,
        peer: &UnitCode,
        lane: Lane,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Departure>, Error> {
        let state = self.state();
        let rows = state.outbox.get(&(peer.clone(), lane)).into_iter().flatten();
        Ok(rows
            .filter(|row| row.0 > after)
            .take(limit)
            .map(|(lane_seq, after, envelope)| Departure {
                cursor: Cursor { lane, link_epoch: self.epoch, lane_seq: *lane_seq },
                after: *after,
                envelope: envelope.clone(),
                cells: Vec::new(),
                evidence: None,
            })
            .collect())
    }

    async fn acknowledged(&self, peer: &UnitCode, cursor: Cursor) -> Result<(), Error> {
        let mut state = self.state();
        if let Some(rows) = state.outbox.get_mut(&(peer.clone(), cursor.lane)) {
            rows.retain(|row| row.0 > cursor.lane_seq);
        }
        state.cursors.insert((unit(&format!("ACK-{peer}")), cursor.lane), cursor);
        drop(state);
        self.changed.notify_waiters();
        Ok(())
    }

    fn outbox_changes(&self, _peer: &UnitCode) -> watch::Receiver<u64> {
        self.outbox.subscribe()
    }

    fn roster_changes(&self, _peer: &UnitCode) -> watch::Receiver<u64> {
        self.rosters.subscribe()
    }

    fn checkpoint_changes(&self) -> watch::Receiver<u64> {
        watch::Sender::new(0).subscribe()
    }

    async fn witness(&self, _: &UnitCode, _: Occasion) -> Result<Vec<Witnessing>, Error> {
        Ok(Vec::new())
    }

    fn standing_changes(&self) -> watch::Receiver<u64> {
        watch::Sender::new(0).subscribe()
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

    async fn answer(&self, question: Question) -> Vec<Parcel> {
        if self.state().hold_answers {
            let _dropped = Dropped(self);
            self.state().answers_begun += 1;
            self.changed.notify_waiters();
            std::future::pending::<()>().await;
        }
        let envelope = envelope(&format!("{} of {}", question.period, self.unit));
        vec![Parcel { envelope, cells: Vec::new(), evidence: None }]
    }

    fn note(&self, peer: &UnitCode, event: LinkEvent) {
        let text = match event {
            LinkEvent::Up { .. } => format!("{peer} up"),
            LinkEvent::Resting { reason } => format!("{peer}: {reason}"),
            LinkEvent::Down { reason } => format!("{peer} down: {reason}"),
        };
        self.state().events.push(text);
        self.changed.notify_waiters();
    }
}
