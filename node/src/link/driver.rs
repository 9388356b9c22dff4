//! Runs one [`Session`] over one transport and one [`Exchange`], in one task.
//!
//! Calls of the exchange are futures beside the loop, never in it: reading goes on while commits
//! settle. It never looks into an envelope.

use std::{collections::BTreeMap, pin::pin, sync::Arc, time::Duration};

use futures::{
    Stream, StreamExt,
    future::{AbortHandle, Abortable, BoxFuture, FutureExt},
    stream::FuturesUnordered,
};
use lianxi_proto::link::v1::Frame;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until, timeout},
};
use tracing::{Instrument, debug, debug_span, error, info};

use super::{
    Tap,
    hub::Opened,
    session::{Closed, Effect, FETCH_LIMIT, Heartbeat, Now, Role, Session},
    wire::{self, Malformed},
};
use crate::{
    clock::Clock,
    domain::{epoch::Number, unit::UnitCode},
    services::exchange::{
        self, Arrival, Departure, Exchange, Lane, LinkEvent, Meeting, NoAnswer, Page, Parcel,
        Question, Refusal, Standing, Witnessing,
    },
    statement::{Envelope, revocation::Proven},
    store::{self, Commit},
    watch,
};

/// Longest time that a closed session waits for its last frames to leave, and again for calls of
/// the exchange that have begun.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// What a transport carries: a frame, wrapped.
pub trait Wire: Send + Sized + 'static {
    /// Wraps a frame.
    fn wrap(frame: Frame) -> Self;

    /// What the peer is told at the end, where the transport has words for it.
    fn ending(_closed: &Closed) -> Option<Self> {
        None
    }
}

impl Wire for Frame {
    fn wrap(frame: Frame) -> Self {
        frame
    }
}

/// Why nothing more comes from a transport.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Broken {
    /// The peer sent no proper frame.
    Malformed(Malformed),
    /// The transport failed, or the peer ended it with these words.
    Failed(String),
}

/// From the hub to a running session.
#[derive(Debug)]
pub enum Command {
    /// Ask the child.
    Ask {
        /// Id of the pull.
        pull_id: u64,
        /// The question.
        question: Question,
        /// Gets the answer.
        reply: oneshot::Sender<Result<Vec<Parcel>, NoAnswer>>,
    },
    /// Nobody waits any more.
    Cancel {
        /// Id of the pull.
        pull_id: u64,
    },
    /// End the session.
    Close(Closed),
    /// End the session of a child that may no longer link.
    Banish {
        /// Why.
        refusal: Refusal,
        /// What proves it.
        proof: Vec<Proven>,
    },
}

/// What every session of a host shares.
#[derive(Clone)]
pub struct Surroundings {
    /// Clock of the host.
    pub clock: Arc<dyn Clock>,
    /// How long a link may be quiet.
    pub heartbeat: Heartbeat,
    /// Sees every frame; tests only.
    pub tap: Option<Arc<dyn Tap>>,
    /// Becomes true when everything is to end.
    pub stop: watch::Receiver<bool>,
}

/// How a session ended.
#[derive(Clone, Debug)]
pub struct Ending {
    /// Why.
    pub closed: Closed,
    /// It delivered or took in something for good.
    pub progressed: bool,
}

enum Done {
    Standing(Result<Standing, exchange::Error>),
    Judged(Result<(Meeting, Option<Standing>), Refusal>),
    Wanted(Result<Option<Number>, exchange::Error>),
    GivenBack(Result<Page, exchange::Error>),
    Fetched(Lane, Result<Vec<Departure>, exchange::Error>),
    Roster(Result<Vec<Envelope>, exchange::Error>),
    Introduced(Result<(), exchange::Error>),
    Witnessed(Result<Vec<Witnessing>, exchange::Error>),
    Held(Result<Option<[u8; 32]>, exchange::Error>),
    Acquainted(Result<(), exchange::Error>),
    Revocations(Vec<Proven>),
    Revoked(Result<(), exchange::Error>),
    Handed(Lane, u64, Result<Commit, exchange::Error>),
    Committed(Lane, u64, Result<(), store::Error>),
    Told(Lane, Result<(), exchange::Error>),
    Answered(u64, Option<Result<Vec<Parcel>, NoAnswer>>),
}

/// Text of an error with its causes, for the operator.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// One running session.
pub struct Driver {
    role: Role,
    peer: UnitCode,
    exchange: Arc<dyn Exchange>,
    around: Surroundings,
    began: Instant,
    session: Session,
    jobs: FuturesUnordered<BoxFuture<'static, Done>>,
    commands: mpsc::UnboundedReceiver<Command>,
    replies: BTreeMap<u64, oneshot::Sender<Result<Vec<Parcel>, NoAnswer>>>,
    answers: BTreeMap<u64, AbortHandle>,
    opened: Option<Box<dyn FnOnce() -> Opened + Send>>,
    listed: Option<Opened>,
    is_up: bool,
}

impl Driver {
    /// A session of `exchange`'s unit with `peer`, the unit that the peer's certificate names, or
    /// that the host put at the other end of a pipe.
    pub fn new(
        role: Role,
        peer: UnitCode,
        exchange: Arc<dyn Exchange>,
        around: Surroundings,
        commands: mpsc::UnboundedReceiver<Command>,
    ) -> Self {
        let now = Now { elapsed: Duration::ZERO, unix_ms: around.clock.now_unix_ms() };
        Self {
            session: Session::new(role, peer.clone(), around.heartbeat, now),
            role,
            peer,
            exchange,
            around,
            began: Instant::now(),
            jobs: FuturesUnordered::new(),
            commands,
            replies: BTreeMap::new(),
            answers: BTreeMap::new(),
            opened: None,
            listed: None,
            is_up: false,
        }
    }

    /// Calls `opened` once the link is up, and drops what it gave when the link is down.
    pub fn when_up(mut self, opened: impl FnOnce() -> Opened + Send + 'static) -> Self {
        self.opened = Some(Box::new(opened));
        self
    }

    /// Runs the session to its end.
    pub async fn run<W: Wire>(
        mut self,
        outbound: mpsc::Sender<W>,
        inbound: impl Stream<Item = Result<Frame, Broken>> + Send,
    ) -> Ending {
        let unit = self.exchange.unit().clone();
        let span = debug_span!("link.session", %unit, peer = %self.peer, role = ?self.role);
        async move {
            let closed = self.exchange_frames(&outbound, inbound).await;
            self.finish(&outbound, &closed).await;
            Ending { progressed: self.session.has_progressed(), closed }
        }
        .instrument(span)
        .await
    }

    async fn exchange_frames<W: Wire>(
        &mut self,
        outbound: &mpsc::Sender<W>,
        inbound: impl Stream<Item = Result<Frame, Broken>> + Send,
    ) -> Closed {
        let mut inbound = pin!(inbound);
        let mut outbox = Changes::of(self.exchange.outbox_changes(&self.peer));
        let mut roster = Changes::of(self.exchange.roster_changes(&self.peer));
        let mut checkpoints = Changes::of(self.exchange.checkpoint_changes());
        let mut standing = Changes::of(self.exchange.standing_changes());
        let mut stop = self.around.stop.clone();
        if self.role == Role::Child {
            let (exchange, peer) = (Arc::clone(&self.exchange), self.peer.clone());
            self.spawn(async move { Done::Standing(exchange.standing(&peer).await) });
        }
        loop {
            self.tick();
            if roster.take() {
                // Looked at before anything is sent: a delivery may need the new delegation.
                self.session.roster_changed();
            }
            if let Some(closed) = self.perform() {
                return closed;
            }
            let deadline = self.began + self.session.deadline();
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => self.session.close(Closed::Stopped),
                Some(command) = self.commands.recv() => self.command(command),
                Some(done) = self.jobs.next() => self.done(done),
                () = outbox.wait() => self.session.outbox_changed(),
                () = roster.wait() => self.session.roster_changed(),
                () = standing.wait() => self.session.close(Closed::Renewed),
                () = checkpoints.wait() => self.session.checkpoint_changed(),
                permit = outbound.reserve(), if self.session.has_frame() => match permit {
                    Ok(permit) => {
                        if let Some(frame) = self.session.frame() {
                            self.tap(&frame);
                            permit.send(W::wrap(frame));
                        }
                    }
                    Err(_) => self.session.close(Closed::Ended("the peer went away".to_owned())),
                },
                frame = inbound.next(), if self.session.wants_frames() => self.came(frame),
                () = sleep_until(deadline) => {}
            }
        }
    }

    fn tick(&mut self) {
        let unix_ms = self.around.clock.now_unix_ms();
        self.session.tick(Now { elapsed: self.began.elapsed(), unix_ms });
    }

    fn tap(&self, frame: &Frame) {
        if let Some(tap) = &self.around.tap {
            tap.frame(self.exchange.unit(), &self.peer, &wire::encode(frame));
        }
    }

    fn came(&mut self, frame: Option<Result<Frame, Broken>>) {
        self.tick();
        match frame {
            Some(Ok(frame)) => self.session.received(frame),
            Some(Err(Broken::Malformed(malformed))) => {
                self.session.close(Closed::Malformed(malformed));
            }
            Some(Err(Broken::Failed(text))) => self.session.close(Closed::Ended(text)),
            None => self.session.close(Closed::Ended("the peer closed it".to_owned())),
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Ask { pull_id, question, reply } => {
                self.replies.insert(pull_id, reply);
                self.session.ask(pull_id, question);
            }
            Command::Cancel { pull_id } => {
                self.replies.remove(&pull_id);
                self.session.cancel(pull_id);
            }
            Command::Close(closed) => self.session.close(closed),
            Command::Banish { refusal, proof } => self.session.banished(refusal, &proof),
        }
    }

    fn spawn(&self, job: impl Future<Output = Done> + Send + 'static) {
        self.jobs.push(job.boxed());
    }

    /// Starts what the session wants done; its end, once it is there.
    fn perform(&mut self) -> Option<Closed> {
        while let Some(effect) = self.session.effect() {
            let (exchange, peer) = (Arc::clone(&self.exchange), self.peer.clone());
            match effect {
                Effect::Judge(hello) => self.judge(*hello),
                Effect::Up { clock_skew_ms } => self.up(clock_skew_ms),
                Effect::Fetch { lane, after } => self.spawn(async move {
                    Done::Fetched(lane, exchange.outgoing(&peer, lane, after, FETCH_LIMIT).await)
                }),
                Effect::FetchRoster => {
                    self.spawn(async move { Done::Roster(exchange.roster(&peer).await) });
                }
                Effect::FetchHeld => {
                    self.spawn(async move { Done::Held(exchange.held(&peer).await) });
                }
                Effect::Acquainted(payload_sha256) => self.spawn(async move {
                    Done::Acquainted(exchange.acquainted(&peer, payload_sha256).await)
                }),
                Effect::FetchRevocations => {
                    self.spawn(async move { Done::Revocations(exchange.revocations().await) });
                }
                Effect::Revoke(items) => self.spawn(async move {
                    Done::Revoked(exchange.take_revocations(&peer, items).await)
                }),
                Effect::Introduce(delegations) => self.spawn(async move {
                    Done::Introduced(exchange.introduce(&peer, delegations).await)
                }),
                Effect::Witness(occasion) => self
                    .spawn(async move { Done::Witnessed(exchange.witness(&peer, occasion).await) }),
                Effect::Receive(arrival) => self.receive(arrival),
                Effect::Acknowledged(cursor) => self.spawn(async move {
                    Done::Told(cursor.lane, exchange.acknowledged(&peer, cursor).await)
                }),
                Effect::WantReturns => {
                    self.spawn(async move { Done::Wanted(exchange.returns_wanted(&peer).await) })
                }
                Effect::TakeReturned(page) => self
                    .spawn(async move { Done::Wanted(exchange.take_returned(&peer, page).await) }),
                Effect::GiveBack(after) => self
                    .spawn(async move { Done::GivenBack(exchange.returned(&peer, after).await) }),
                Effect::Answer { pull_id, question } => self.answer(pull_id, question),
                Effect::StopAnswer { pull_id } => {
                    if let Some(answer) = self.answers.remove(&pull_id) {
                        answer.abort();
                    }
                }
                Effect::Settled { pull_id, answer } => {
                    if let Some(reply) = self.replies.remove(&pull_id) {
                        // Whoever asked may have gone.
                        reply.send(answer).ok();
                    }
                }
                Effect::LaneStopped { lane, lane_seq, size_bytes } => {
                    error!(peer = %self.peer, ?lane, lane_seq, size_bytes, "delivery fits no frame");
                }
                Effect::Close(closed) => return Some(closed),
            }
        }
        None
    }

    fn judge(&self, hello: Standing) {
        let (exchange, peer) = (Arc::clone(&self.exchange), self.peer.clone());
        let is_parent = self.role == Role::Parent;
        self.spawn(async move {
            let judged = async {
                let meeting = exchange.meet(&peer, &hello).await?;
                if !is_parent {
                    return Ok((meeting, None));
                }
                let standing = exchange.standing(&peer).await.map_err(|error| {
                    error!(error = %chain(&error), "cannot greet");
                    let detail = "the parent cannot read its store; it is tried again".to_owned();
                    Refusal { reason: "busy", detail }
                })?;
                Ok((meeting, Some(standing)))
            };
            Done::Judged(judged.await)
        });
    }

    fn up(&mut self, clock_skew_ms: i64) {
        info!(peer = %self.peer, clock_skew_ms, "link up");
        self.is_up = true;
        self.listed = self.opened.take().map(|opened| opened());
        self.exchange.note(&self.peer, LinkEvent::Up { clock_skew_ms });
    }

    fn receive(&self, arrival: Arrival) {
        let (exchange, peer) = (Arc::clone(&self.exchange), self.peer.clone());
        let (lane, lane_seq) = (arrival.cursor.lane, arrival.cursor.lane_seq);
        let span = debug_span!("link.receive", %peer, ?lane, lane_seq);
        let job =
            async move { Done::Handed(lane, lane_seq, exchange.receive(&peer, arrival).await) };
        self.spawn(job.instrument(span));
    }

    fn answer(&mut self, pull_id: u64, question: Question) {
        let exchange = Arc::clone(&self.exchange);
        let (abort, registration) = AbortHandle::new_pair();
        self.answers.insert(pull_id, abort);
        let span = debug_span!("link.answer", peer = %self.peer, pull_id);
        let answer = async move {
            match timeout(question.deadline, exchange.answer(question)).await {
                Ok(parcels) if parcels.is_empty() => Err(NoAnswer::Refused),
                Ok(parcels) => Ok(parcels),
                Err(_) => Err(NoAnswer::Deadline),
            }
        };
        let job = Abortable::new(answer, registration)
            .map(move |answer| Done::Answered(pull_id, answer.ok()));
        self.spawn(job.instrument(span));
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Standing(Ok(standing)) => self.session.begin(standing),
            Done::Judged(Ok((meeting, standing))) => self.session.accepted(meeting, standing),
            Done::Judged(Err(refusal)) => self.session.refused(refusal),
            Done::Fetched(lane, Ok(departures)) => {
                debug!(peer = %self.peer, ?lane, deliveries = departures.len(), "outbox read");
                self.session.fetched(lane, departures);
            }
            Done::Wanted(Ok(after)) => self.session.returns_wanted(after),
            Done::GivenBack(Ok(page)) => self.session.returned(page),
            Done::Roster(Ok(delegations)) => self.session.roster(delegations),
            Done::Held(Ok(payload_sha256)) => self.session.held(payload_sha256),
            Done::Acquainted(Ok(())) => self.session.took_acquaintance(),
            Done::Introduced(Ok(())) => self.session.introduced(),
            Done::Witnessed(Ok(answers)) => self.session.witnessed(answers),
            Done::Revocations(items) => self.session.revocations(items),
            Done::Revoked(Ok(())) => self.session.took_revocations(),
            Done::Handed(lane, _, Err(exchange::Error::Store(error)))
            | Done::Committed(lane, _, Err(error))
                if self.rests(lane, &error) => {}
            Done::Handed(lane, lane_seq, Ok(commit)) => {
                self.spawn(commit.map(move |result| Done::Committed(lane, lane_seq, result)));
                self.session.handed(lane);
            }
            Done::Committed(lane, lane_seq, Ok(())) => self.session.committed(lane, lane_seq),
            Done::Told(lane, Ok(())) => self.session.told(lane),
            Done::Answered(pull_id, answer) => {
                self.answers.remove(&pull_id);
                if let Some(answer) = answer {
                    self.session.answered(pull_id, answer);
                }
            }
            Done::Committed(_, _, Err(error)) => {
                self.fail(&exchange::Error::Store(error));
            }
            Done::Standing(Err(error))
            | Done::Fetched(_, Err(error))
            | Done::Wanted(Err(error))
            | Done::GivenBack(Err(error))
            | Done::Roster(Err(error))
            | Done::Held(Err(error))
            | Done::Acquainted(Err(error))
            | Done::Introduced(Err(error))
            | Done::Witnessed(Err(error))
            | Done::Revoked(Err(error))
            | Done::Handed(_, _, Err(error))
            | Done::Told(_, Err(error)) => self.fail(&error),
        }
    }

    /// True if a lane rests after this error, because there is no room for what it brings: the others
    /// go on.
    fn rests(&mut self, lane: Lane, error: &store::Error) -> bool {
        if self.session.is_without_room(lane) {
            // What came after it fails with it.
            return true;
        }
        let is_full = matches!(error, store::Error::DiskFull { .. });
        if is_full {
            error!(peer = %self.peer, lane = lane.as_str(), %error, "no room for what a lane brings");
            self.session.no_room(lane);
            let reason = format!("lane {} rests: {error}", lane.as_str());
            self.exchange.note(&self.peer, LinkEvent::Resting { reason });
        }
        is_full
    }

    fn fail(&mut self, error: &exchange::Error) {
        self.session.close(Closed::Failed(chain(error)));
    }

    async fn finish<W: Wire>(&mut self, outbound: &mpsc::Sender<W>, closed: &Closed) {
        self.listed = None;
        info!(peer = %self.peer, reason = %closed, "link down");
        self.answers.values().for_each(AbortHandle::abort);
        self.replies.clear();
        let last_words = async {
            while let Some(frame) = self.session.frame() {
                self.tap(&frame);
                outbound.send(W::wrap(frame)).await.ok();
            }
            if let Some(ending) = W::ending(closed) {
                outbound.send(ending).await.ok();
            }
        };
        if timeout(LAST_WORDS, last_words).await.is_err() {
            debug!(peer = %self.peer, "peer takes no last frame");
        }
        // A call of the exchange that has begun is not cut off in the middle, and what it submitted
        // is settled before the next session of this peer reads the cursors.
        let jobs = &mut self.jobs;
        let settled = async {
            while let Some(done) = jobs.next().await {
                if let Done::Handed(lane, lane_seq, Ok(commit)) = done {
                    let committed = commit.map(move |it| Done::Committed(lane, lane_seq, it));
                    jobs.push(committed.boxed());
                }
            }
        };
        if timeout(LAST_WORDS, settled).await.is_err() {
            error!(peer = %self.peer, "calls of the exchange do not settle");
        }
        if *closed != Closed::Replaced && (self.is_up || self.role == Role::Child) {
            let reason = closed.to_string();
            self.exchange.note(&self.peer, LinkEvent::Down { reason });
        }
    }
}

/// A watch that may lose its sender without waking its reader for ever.
struct Changes {
    receiver: watch::Receiver<u64>,
    is_open: bool,
}

impl Changes {
    fn of(mut receiver: watch::Receiver<u64>) -> Self {
        receiver.borrow_and_update();
        Self { receiver, is_open: true }
    }

    async fn wait(&mut self) {
        if self.is_open && self.receiver.changed().await.is_ok() {
            return;
        }
        self.is_open = false;
        std::future::pending().await
    }

    /// True if something changed since the last look.
    fn take(&mut self) -> bool {
        let changed = self.receiver.has_changed().unwrap_or(false);
        if changed {
            self.receiver.borrow_and_update();
        }
        changed
    }
}
