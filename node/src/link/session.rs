//! One link as a pure state machine: no sockets, no clock, no tasks.
//!
//! A driver feeds it frames and the results of its [`Effect`]s, and takes frames from it one by
//! one, whenever the transport has room: so that the most urgent frame is chosen at the last
//! moment. The session promises that every delivery is handed over exactly once and in order per
//! lane, that nothing is acknowledged before it is durable, that delegations go before the
//! deliveries that need them, and that silence and broken peers end it with a reason.

mod effect;
mod inbound;
mod outbound;
mod pace;
mod pulls;
mod returns;
#[cfg(test)]
mod tests;
mod witnesses;

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use lianxi_proto::link::v1::{self as pb, Frame, frame::Kind};
use prost::Message;
use sha2::{Digest, Sha256};

pub use self::{
    effect::{Closed, Effect, Heartbeat, Now, Role},
    outbound::{FETCH_LIMIT, WINDOW_BYTES, WINDOW_DELIVERIES},
    pulls::{MAX_ANSWER_BYTES, MAX_QUESTIONS},
};
use self::{
    inbound::InLane,
    outbound::{Next, OutLane},
    pace::Pace,
    pulls::{Came, Pulls},
    returns::{Next as NextReturn, Returns},
    witnesses::Witnesses,
};
use super::wire::{self, Malformed, VERSION};
use crate::{
    domain::{epoch::Number, unit::UnitCode},
    services::exchange::{
        Cursor, Departure, Lane, Meeting, NoAnswer, Page, Parcel, Question, Refusal, Standing,
        Witnessing,
    },
    statement::{Envelope, revocation::Proven},
};

/// Bytes that came in and are not yet durable, from which on no further frame is taken.
pub const MAX_UNSETTLED_BYTES: usize = 2 * 1024 * 1024;

/// Time for which a lane without room is left alone: the others go on, then a new link tries it.
pub const REST_WITHOUT_ROOM: Duration = Duration::from_secs(30);

/// Bytes of delegations that share one frame of introduction.
const INTRODUCTION_BYTES: usize = 64 * 1024;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    /// Waits for the peer's hello.
    Greeting,
    /// The peer's hello is being judged.
    Judging,
    Open,
    Closed,
}

/// What is kept of the peer's hello until it is judged.
#[derive(Debug, Default)]
struct Greeted {
    received: Vec<Cursor>,
    roster_sha256: [u8; 32],
    revocations_sha256: [u8; 32],
    clock_skew_ms: i64,
}

/// Revocations on their way out and in: they go before everything that they may forbid.
#[derive(Default)]
struct Flood {
    own_sha256: [u8; 32],
    due: bool,
    fetching: bool,
    /// What the peer has, as far as this stream tells.
    shared: BTreeSet<[u8; 32]>,
    frames: VecDeque<Frame>,
    came: VecDeque<Vec<Proven>>,
    taking: bool,
}

impl Flood {
    /// While true, nothing else of substance may leave.
    fn is_behind(&self) -> bool {
        self.due || self.fetching || !self.frames.is_empty()
    }

    /// While true, nothing else of substance is taken in.
    fn is_taking(&self) -> bool {
        self.taking || !self.came.is_empty()
    }
}

/// Delegations that this side sends ahead of its deliveries.
#[derive(Default)]
struct Roster {
    own_sha256: [u8; 32],
    due: bool,
    fetching: bool,
    introduced: BTreeSet<[u8; 32]>,
    frames: VecDeque<Frame>,
}

impl Roster {
    /// While true, no delivery may leave.
    fn is_behind(&self) -> bool {
        self.due || self.fetching || !self.frames.is_empty()
    }
}

/// What this side says of the peer's delegation: once the link is up, and whenever it changed.
#[derive(Default)]
struct Acquaintance {
    due: bool,
    asking: bool,
    told: Option<[u8; 32]>,
    frame: Option<Frame>,
    came: Option<[u8; 32]>,
    taking: bool,
}

/// One link, seen from one end. See the module's documentation.
pub struct Session {
    role: Role,
    peer: UnitCode,
    heartbeat: Heartbeat,
    state: State,
    now: Now,
    sent_at: Duration,
    heard_at: Duration,
    greeted: Greeted,
    control: VecDeque<Frame>,
    effects: VecDeque<Effect>,
    outbound: [OutLane; Lane::ALL.len()],
    pace: Pace,
    inbound: [InLane; Lane::ALL.len()],
    introductions: VecDeque<Vec<Envelope>>,
    introducing: bool,
    roster: Roster,
    acquaintance: Acquaintance,
    flood: Flood,
    pulls: Pulls,
    witnesses: Witnesses,
    returns: Returns,
    /// No statement may pass, because one side was rolled back.
    quiet: bool,
    progressed: bool,
    /// The first lane that has no room here, and since when.
    without_room: Option<(Lane, Duration)>,
}

fn index(lane: Lane) -> usize {
    lane as usize - 1
}

impl Session {
    /// Begins a session. A child goes on with [`Self::begin`]; a parent waits for the hello.
    pub fn new(role: Role, peer: UnitCode, heartbeat: Heartbeat, now: Now) -> Self {
        Self {
            role,
            peer,
            heartbeat,
            state: State::Greeting,
            now,
            sent_at: now.elapsed,
            heard_at: now.elapsed,
            greeted: Greeted::default(),
            control: VecDeque::new(),
            effects: VecDeque::new(),
            outbound: Lane::ALL.map(OutLane::new),
            pace: Pace::default(),
            inbound: Lane::ALL.map(InLane::new),
            introductions: VecDeque::new(),
            introducing: false,
            roster: Roster::default(),
            acquaintance: Acquaintance::default(),
            flood: Flood::default(),
            pulls: Pulls::default(),
            witnesses: Witnesses::default(),
            returns: Returns::default(),
            quiet: false,
            progressed: false,
            without_room: None,
        }
    }

    /// The child's own standing: it greets first.
    pub fn begin(&mut self, standing: Standing) {
        if self.state == State::Greeting {
            self.greet(standing);
        }
    }

    fn greet(&mut self, standing: Standing) {
        for cursor in &standing.received {
            self.inbound[index(cursor.lane)].begin(*cursor);
        }
        self.roster.own_sha256 = standing.roster_sha256;
        self.flood.own_sha256 = standing.revocations_sha256;
        self.control.push_back(wire::hello(standing));
    }

    /// The peer was met and may link. A parent gives its own standing, with which it greets.
    pub fn accepted(&mut self, meeting: Meeting, standing: Option<Standing>) {
        if self.state != State::Judging {
            return;
        }
        if let Some(standing) = standing {
            self.greet(standing);
        }
        let greeted = std::mem::take(&mut self.greeted);
        for cursor in &greeted.received {
            self.outbound[index(cursor.lane)].begin(Some(*cursor));
        }
        // What a child needs of the desks above it is little: it is introduced on every stream.
        self.roster.due |=
            self.role == Role::Parent || greeted.roster_sha256 != self.roster.own_sha256;
        self.acquaintance.due = true;
        self.flood.due |= greeted.revocations_sha256 != self.flood.own_sha256;
        self.state = State::Open;
        self.quiet = meeting == Meeting::Quiet;
        self.heard_at = self.now.elapsed;
        self.effects.push_back(Effect::Up { clock_skew_ms: greeted.clock_skew_ms });
        self.witnesses.opened();
        if !self.quiet {
            self.returns.opened();
        }
        self.pump();
    }

    /// The peer may not link. A parent says so before the stream ends.
    pub fn refused(&mut self, refusal: Refusal) {
        if matches!(self.state, State::Greeting | State::Judging) {
            let frame = wire::frame(Kind::Refusal(pb::Refusal {
                reason: refusal.reason.to_owned(),
                detail: refusal.detail.clone(),
            }));
            self.close(Closed::Refusing(refusal));
            if self.role == Role::Parent {
                self.control.push_back(frame);
            }
        }
    }

    /// The child may no longer link: an open link ends too, with the reason and what proves it.
    pub fn banished(&mut self, refusal: Refusal, proof: &[Proven]) {
        if self.state == State::Open {
            let told = wire::frame(Kind::Refusal(pb::Refusal {
                reason: refusal.reason.to_owned(),
                detail: refusal.detail.clone(),
            }));
            self.close(Closed::Refusing(refusal));
            let proof = proof.chunks(wire::MAX_REVOCATIONS).map(wire::revocations);
            self.control.extend(proof.chain([told]));
        } else {
            self.refused(refusal);
        }
    }

    /// Ends the session; without effect on one that has ended.
    pub fn close(&mut self, closed: Closed) {
        if self.state == State::Closed {
            return;
        }
        self.state = State::Closed;
        self.control.clear();
        self.effects.clear();
        for pull_id in self.pulls.close() {
            self.effects.push_back(Effect::Settled { pull_id, answer: Err(NoAnswer::NoLink) });
        }
        self.effects.push_back(Effect::Close(closed));
    }

    /// Tells the time. Called before every other input.
    pub fn tick(&mut self, now: Now) {
        self.now = now;
        if !self.wants_frames() {
            // What is not read cannot be heard.
            self.heard_at = now.elapsed;
        }
        if now.elapsed >= self.heard_at + self.heartbeat.dead {
            self.close(Closed::Silent(self.heartbeat.dead));
        }
        if let Some((lane, since)) = self.without_room
            && now.elapsed >= since + REST_WITHOUT_ROOM
        {
            self.close(Closed::NoRoom(lane));
        }
        let quiet = now.elapsed >= self.sent_at + self.heartbeat.idle;
        if quiet && self.state == State::Open && self.control.is_empty() {
            let clock_unix_ms = now.unix_ms;
            self.control.push_back(wire::frame(Kind::Heartbeat(pb::Heartbeat { clock_unix_ms })));
        }
    }

    /// When [`Self::tick`] has something to do at the latest.
    pub fn deadline(&self) -> Duration {
        let dead = self.heard_at + self.heartbeat.dead;
        let rested = self.without_room.map(|(_, since)| since + REST_WITHOUT_ROOM);
        let dead = rested.map_or(dead, |rested| dead.min(rested));
        if self.state == State::Open && self.control.is_empty() {
            dead.min(self.sent_at + self.heartbeat.idle)
        } else {
            dead
        }
    }

    /// True while frames may be taken from the stream.
    pub fn wants_frames(&self) -> bool {
        let unsettled: usize = self.inbound.iter().map(InLane::bytes).sum();
        match self.state {
            State::Greeting => true,
            State::Open => {
                unsettled < MAX_UNSETTLED_BYTES
                    && self.introductions.len() < 64
                    && self.flood.came.len() < 64
            }
            State::Judging | State::Closed => false,
        }
    }

    /// True once something was delivered or taken in for good: the link does its work.
    pub fn has_progressed(&self) -> bool {
        self.progressed
    }

    /// The next thing to do.
    pub fn effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// The outbox to the peer changed.
    pub fn outbox_changed(&mut self) {
        self.outbound.iter_mut().for_each(OutLane::changed);
        self.pump();
    }

    /// A delegation or a revocation is new.
    pub fn roster_changed(&mut self) {
        if self.state != State::Closed {
            self.roster.due = true;
            self.flood.due = true;
            self.acquaintance.due = true;
            self.pump();
        }
    }

    /// What [`Effect::FetchHeld`] brought: the peer's delegation, as far as it is durable here.
    pub fn held(&mut self, payload_sha256: Option<[u8; 32]>) {
        self.acquaintance.asking = false;
        if payload_sha256.is_some() && payload_sha256 != self.acquaintance.told {
            self.acquaintance.told = payload_sha256;
            self.acquaintance.frame = payload_sha256.map(wire::acquainted);
        }
        self.pump();
    }

    /// What [`Effect::Acquainted`] said is kept.
    pub fn took_acquaintance(&mut self) {
        self.acquaintance.taking = false;
        self.pump();
    }

    /// The unit made a checkpoint of its journal.
    pub fn checkpoint_changed(&mut self) {
        if self.state == State::Open {
            self.witnesses.changed();
            self.pump();
        }
    }

    /// What [`Effect::Witness`] brought.
    pub fn witnessed(&mut self, answers: Vec<Witnessing>) {
        self.witnesses.answered(answers);
        self.pump();
    }

    /// What [`Effect::Fetch`] brought.
    pub fn fetched(&mut self, lane: Lane, departures: Vec<Departure>) {
        let taken = self.outbound[index(lane)].fetched(departures);
        self.settle(taken);
    }

    /// What [`Effect::FetchRoster`] brought. Only what was not introduced on this stream is sent.
    pub fn roster(&mut self, delegations: Vec<Envelope>) {
        self.roster.fetching = false;
        let mut batch = Vec::new();
        let mut bytes = 0;
        for envelope in delegations {
            if !self.roster.introduced.insert(Sha256::digest(&envelope.payload).into()) {
                continue;
            }
            bytes += envelope.encoded_len();
            batch.push(envelope);
            if bytes >= INTRODUCTION_BYTES {
                self.introduce(std::mem::take(&mut batch));
                bytes = 0;
            }
        }
        if !batch.is_empty() {
            self.introduce(batch);
        }
        self.pump();
    }

    /// What [`Effect::FetchRevocations`] brought. Only what the peer may not have is sent.
    pub fn revocations(&mut self, items: Vec<Proven>) {
        self.flood.fetching = false;
        let shared = &mut self.flood.shared;
        let new = |item: &Proven| shared.insert(Sha256::digest(&item.revocation.payload).into());
        let new: Vec<Proven> = items.into_iter().filter(new).collect();
        self.flood.frames.extend(new.chunks(wire::MAX_REVOCATIONS).map(wire::revocations));
        self.pump();
    }

    /// What [`Effect::Revoke`] brought is kept.
    pub fn took_revocations(&mut self) {
        self.flood.taking = false;
        self.pump();
    }

    fn introduce(&mut self, delegations: Vec<Envelope>) {
        let introduction = pb::Introduction { delegations };
        self.roster.frames.push_back(wire::frame(Kind::Introduction(introduction)));
    }

    /// What [`Effect::Introduce`] brought is kept.
    pub fn introduced(&mut self) {
        self.introducing = false;
        self.pump();
    }

    /// The commit of the lane's delivery on the way is submitted.
    pub fn handed(&mut self, lane: Lane) {
        self.inbound[index(lane)].was_handed();
        self.pump();
    }

    /// There is no room for what came in a lane. It stops, nothing of it is acknowledged, and the others
    /// go on; after a while the link ends, and the next one brings it again.
    pub fn no_room(&mut self, lane: Lane) {
        self.inbound[index(lane)].stop();
        self.without_room.get_or_insert((lane, self.now.elapsed));
        self.pump();
    }

    /// True after [`Self::no_room`].
    pub fn is_without_room(&self, lane: Lane) -> bool {
        self.inbound[index(lane)].is_stopped()
    }

    /// The commit of a delivery is durable.
    pub fn committed(&mut self, lane: Lane, lane_seq: u64) {
        self.inbound[index(lane)].committed(lane_seq);
        self.progressed = true;
    }

    /// What [`Effect::Acknowledged`] said is done.
    pub fn told(&mut self, lane: Lane) {
        self.outbound[index(lane)].was_told();
        self.pump();
    }

    /// What [`Effect::WantReturns`] or [`Effect::TakeReturned`] brought: above which number the
    /// peer is to return statements of this side.
    pub fn returns_wanted(&mut self, after: Option<Number>) {
        self.returns.wanted(after);
        self.pump();
    }

    /// What [`Effect::GiveBack`] brought.
    pub fn returned(&mut self, page: Page) {
        self.returns.made(page);
        self.pump();
    }

    /// Asks the child. Settled by [`Effect::Settled`], unless cancelled.
    pub fn ask(&mut self, pull_id: u64, question: Question) {
        if self.role == Role::Parent && self.state == State::Open && !self.quiet {
            self.pulls.ask(pull_id, question);
        } else {
            self.effects.push_back(Effect::Settled { pull_id, answer: Err(NoAnswer::NoLink) });
        }
    }

    /// Nobody waits for the answer any more.
    pub fn cancel(&mut self, pull_id: u64) {
        self.pulls.cancel(pull_id);
    }

    /// What [`Effect::Answer`] brought.
    pub fn answered(&mut self, pull_id: u64, answer: Result<Vec<Parcel>, NoAnswer>) {
        self.pulls.answered(pull_id, answer);
    }

    /// True if [`Self::frame`] has one.
    pub fn has_frame(&self) -> bool {
        if !self.control.is_empty() {
            return true;
        }
        self.state == State::Open
            && (self.inbound.iter().any(InLane::must_acknowledge)
                || self.acquaintance.frame.is_some()
                || !self.flood.frames.is_empty()
                || (!self.flood.is_behind()
                    && (self.witnesses.is_waiting() || !self.roster.frames.is_empty()))
                || (!self.flood.is_behind()
                    && !self.roster.is_behind()
                    && (self.pulls.is_waiting()
                        || self.returns.is_waiting()
                        || Lane::ALL.into_iter().any(|lane| self.next_bytes(lane).is_some()))))
    }

    /// Bytes of the next delivery of a lane, if it may leave now.
    fn next_bytes(&self, lane: Lane) -> Option<usize> {
        let bytes = self.outbound[index(lane)].waits().filter(|_| self.may_depart())?;
        // Whistles overtake what waits here; what is on its way, they cannot.
        if lane == Lane::Escalation {
            return Some(bytes);
        }
        let paced = Lane::ALL.into_iter().filter(|of| *of != Lane::Escalation);
        let flying = paced.map(|of| {
            let outbound = &self.outbound[index(of)];
            if of == lane || !outbound.rests(self.now.elapsed) {
                outbound.flying_bytes()
            } else {
                0
            }
        });
        self.pace.has_room(flying.sum(), bytes).then_some(bytes)
    }

    /// True while deliveries of this side may leave.
    fn may_depart(&self) -> bool {
        !self.quiet && !self.returns.is_behind()
    }

    /// The most urgent frame to send.
    pub fn frame(&mut self) -> Option<Frame> {
        let frame = self.control.pop_front().or_else(|| self.open_frame())?;
        self.sent_at = self.now.elapsed;
        self.pump();
        Some(frame)
    }

    fn open_frame(&mut self) -> Option<Frame> {
        if self.state != State::Open {
            return None;
        }
        let acknowledgement = self.inbound.iter_mut().find_map(InLane::acknowledgement);
        if let Some(cursor) = acknowledgement {
            return Some(wire::acknowledgement(cursor));
        }
        if let Some(frame) = self.flood.frames.pop_front() {
            return Some(frame);
        }
        if let Some(frame) = self.acquaintance.frame.take() {
            return Some(frame);
        }
        if self.flood.is_behind() {
            return None;
        }
        if let Some(frame) = self.roster.frames.pop_front() {
            return Some(frame);
        }
        if let Some(frame) = self.witnesses.frame() {
            return Some(frame);
        }
        if self.roster.is_behind() {
            return None;
        }
        if let Some(frame) = self.returns.frame() {
            return Some(frame);
        }
        let urgent = self.departure(Lane::Escalation).or_else(|| self.pulls.next());
        urgent.or_else(|| Lane::ALL.into_iter().find_map(|lane| self.departure(lane)))
    }

    fn departure(&mut self, lane: Lane) -> Option<Frame> {
        self.next_bytes(lane)?;
        match self.outbound[index(lane)].next(self.now.elapsed) {
            Next::Nothing => None,
            Next::Frame(frame) => Some(*frame),
            Next::TooLarge { lane_seq, size_bytes } => {
                self.effects.push_back(Effect::LaneStopped { lane, lane_seq, size_bytes });
                None
            }
        }
    }

    /// Takes a frame from the stream.
    pub fn received(&mut self, frame: Frame) {
        if self.state == State::Closed {
            return;
        }
        self.heard_at = self.now.elapsed;
        let size_bytes = frame.encoded_len();
        let taken = match (self.state, frame.kind) {
            (_, None) => Err(Closed::Malformed(Malformed::Unreadable)),
            (State::Greeting, Some(Kind::Hello(hello))) => self.hello(hello),
            (State::Greeting, Some(Kind::Refusal(refusal))) if self.role == Role::Child => {
                Err(Closed::Refused { reason: refusal.reason, detail: refusal.detail })
            }
            (State::Open, Some(kind)) => self.open(kind, size_bytes),
            (State::Greeting | State::Judging | State::Closed, Some(_)) => {
                Err(Closed::Protocol("its first frame is no hello".to_owned()))
            }
        };
        self.settle(taken);
    }

    fn settle(&mut self, taken: Result<(), Closed>) {
        match taken {
            Ok(()) => self.pump(),
            Err(closed) => self.close(closed),
        }
    }

    fn hello(&mut self, hello: pb::Hello) -> Result<(), Closed> {
        let (lowest, highest) = (hello.version_min, hello.version_max);
        if lowest > VERSION || highest < VERSION {
            self.refused(Refusal {
                reason: "version",
                detail: format!(
                    "the peer speaks versions {lowest} to {highest} of the link, this unit \
                     {VERSION}; install a program that speaks a common one"
                ),
            });
            return Ok(());
        }
        let standing = wire::standing(hello)?;
        if standing.unit != self.peer {
            self.refused(Refusal {
                reason: "certificate-mismatch",
                detail: format!(
                    "the hello names {}, the certificate {}; use the certificate that was issued \
                     for the unit",
                    standing.unit, self.peer
                ),
            });
            return Ok(());
        }
        self.greeted = Greeted {
            received: standing.received.clone(),
            roster_sha256: standing.roster_sha256,
            revocations_sha256: standing.revocations_sha256,
            clock_skew_ms: self.now.unix_ms.saturating_sub(standing.clock_unix_ms),
        };
        self.state = State::Judging;
        self.effects.push_back(Effect::Judge(Box::new(standing)));
        Ok(())
    }

    fn open(&mut self, kind: Kind, size_bytes: usize) -> Result<(), Closed> {
        match (self.role, kind) {
            (_, kind @ (Kind::Delivery(_) | Kind::ReturnRequest(_) | Kind::Returned(_))) => {
                self.statements(kind, size_bytes)
            }
            (_, Kind::Acknowledgement(frame)) => {
                let cursor = wire::acknowledged(&frame)?;
                self.progressed = true;
                let (bytes, sent_at) = self.outbound[index(cursor.lane)].acknowledge(cursor)?;
                if cursor.lane != Lane::Escalation && bytes > 0 {
                    self.pace.acknowledged(bytes, sent_at, self.now.elapsed);
                }
                Ok(())
            }
            (_, Kind::Introduction(introduction)) => {
                self.introductions.push_back(introduction.delegations);
                Ok(())
            }
            (_, Kind::Heartbeat(_)) => Ok(()),
            (_, Kind::Acquainted(frame)) => {
                // A later one says all that an earlier one did.
                self.acquaintance.came = Some(wire::acquaintance(&frame)?);
                Ok(())
            }
            (_, Kind::CheckpointOffer(offer)) => self.witnesses.said(wire::offer(offer)?),
            (_, Kind::CheckpointVerdict(verdict)) => self.witnesses.said(wire::verdict(verdict)?),
            (_, Kind::CheckpointHeld(held)) => {
                self.witnesses.said(Witnessing::Held { size: held.size })
            }
            (_, Kind::Revocations(frame)) => self.take_revocations(frame),
            (Role::Child, Kind::Refusal(refusal)) => {
                Err(Closed::Refused { reason: refusal.reason, detail: refusal.detail })
            }
            (Role::Child, Kind::PullRequest(request)) => self.question(request),
            (Role::Child, Kind::PullCancel(cancel)) => {
                let pull_id = cancel.pull_id;
                if self.pulls.cancelled(pull_id) {
                    self.effects.push_back(Effect::StopAnswer { pull_id });
                }
                Ok(())
            }
            (Role::Parent, Kind::PullItem(item)) => {
                let pull_id = item.pull_id;
                let came = self.pulls.came(pull_id, wire::parcel(item)?, size_bytes);
                self.came(pull_id, came);
                Ok(())
            }
            (Role::Parent, Kind::PullEnd(end)) => {
                let came = self.pulls.ended(end.pull_id, wire::pull_outcome(&end));
                self.came(end.pull_id, came);
                Ok(())
            }
            (_, Kind::Hello(_)) | (Role::Parent, Kind::Refusal(_)) => {
                Err(Closed::Protocol("it greets twice".to_owned()))
            }
            (Role::Parent, Kind::PullRequest(_) | Kind::PullCancel(_))
            | (Role::Child, Kind::PullItem(_) | Kind::PullEnd(_)) => {
                Err(Closed::Protocol("only a parent pulls, and only a child answers".to_owned()))
            }
        }
    }

    /// Frames that carry statements.
    fn statements(&mut self, kind: Kind, size_bytes: usize) -> Result<(), Closed> {
        if self.quiet {
            let text = "it sends statements although one side was rolled back";
            return Err(Closed::Protocol(text.to_owned()));
        }
        match kind {
            Kind::Delivery(delivery) => {
                let arrival = wire::arrival(delivery)?;
                self.inbound[index(arrival.cursor.lane)].take(arrival, size_bytes)
            }
            Kind::ReturnRequest(request) => {
                let (epoch, seq) = (request.after_epoch, request.after_seq);
                self.returns.asked(Number { epoch, seq })
            }
            Kind::Returned(page) => {
                let last = page.last;
                self.returns.came(wire::statements(page)?, last)
            }
            Kind::Hello(_)
            | Kind::Refusal(_)
            | Kind::Introduction(_)
            | Kind::Acknowledgement(_)
            | Kind::Heartbeat(_)
            | Kind::PullRequest(_)
            | Kind::PullItem(_)
            | Kind::PullEnd(_)
            | Kind::PullCancel(_)
            | Kind::CheckpointOffer(_)
            | Kind::CheckpointVerdict(_)
            | Kind::CheckpointHeld(_)
            | Kind::Revocations(_)
            | Kind::Acquainted(_) => Ok(()),
        }
    }

    fn take_revocations(&mut self, frame: pb::Revocations) -> Result<(), Closed> {
        let items = wire::proven(frame)?;
        let id = |item: &Proven| -> [u8; 32] { Sha256::digest(&item.revocation.payload).into() };
        self.flood.shared.extend(items.iter().map(id));
        self.flood.came.push_back(items);
        Ok(())
    }

    fn question(&mut self, request: pb::PullRequest) -> Result<(), Closed> {
        let pull_id = request.pull_id;
        let question = wire::question(request)?;
        if self.quiet {
            self.pulls.refuse(pull_id);
        } else if self.pulls.question(pull_id)? {
            self.effects.push_back(Effect::Answer { pull_id, question });
        }
        Ok(())
    }

    fn came(&mut self, pull_id: u64, came: Came) {
        let answer = match came {
            Came::Nothing => return,
            Came::Settled(answer) => answer,
            Came::Excessive => Err(NoAnswer::Refused),
        };
        self.effects.push_back(Effect::Settled { pull_id, answer });
    }

    fn get_acquainted(&mut self) {
        if self.acquaintance.due && !self.acquaintance.asking {
            self.acquaintance.due = false;
            self.acquaintance.asking = true;
            self.effects.push_back(Effect::FetchHeld);
        }
        if !self.acquaintance.taking
            && let Some(payload_sha256) = self.acquaintance.came.take()
        {
            self.acquaintance.taking = true;
            self.effects.push_back(Effect::Acquainted(payload_sha256));
        }
    }

    /// Turns what the inputs made possible into effects.
    fn pump(&mut self) {
        if self.state != State::Open {
            return;
        }
        if self.roster.due && !self.roster.fetching {
            self.roster.due = false;
            self.roster.fetching = true;
            self.effects.push_back(Effect::FetchRoster);
        }
        self.get_acquainted();
        if let Some(occasion) = self.witnesses.next() {
            self.effects.push_back(Effect::Witness(occasion));
        }
        if self.flood.due && !self.flood.fetching {
            self.flood.due = false;
            self.flood.fetching = true;
            self.effects.push_back(Effect::FetchRevocations);
        }
        if !self.flood.taking
            && let Some(items) = self.flood.came.pop_front()
        {
            self.flood.taking = true;
            self.effects.push_back(Effect::Revoke(items));
        }
        if !self.flood.is_taking()
            && !self.introducing
            && let Some(delegations) = self.introductions.pop_front()
        {
            self.introducing = true;
            self.effects.push_back(Effect::Introduce(delegations));
        }
        while let Some(next) = self.returns.next() {
            self.effects.push_back(match next {
                NextReturn::Look => Effect::WantReturns,
                NextReturn::Take(page) => Effect::TakeReturned(page),
                NextReturn::Give(after) => Effect::GiveBack(after),
            });
        }
        if self.quiet {
            return;
        }
        // Deliveries that came after an introduction may need it, and what is sent again to a restored
        // unit may follow its own statements.
        let may_receive = !self.introducing && !self.flood.is_taking() && !self.returns.is_behind();
        for lane in Lane::ALL {
            let outbound = &mut self.outbound[index(lane)];
            if let Some(after) = outbound.fetch() {
                self.effects.push_back(Effect::Fetch { lane, after });
            }
            if let Some(cursor) = outbound.tell() {
                self.effects.push_back(Effect::Acknowledged(cursor));
            }
            if may_receive && let Some(arrival) = self.inbound[index(lane)].hand() {
                self.effects.push_back(Effect::Receive(arrival));
            }
        }
    }
}
