//! The words of a session: what it is told, what it wants done, why it ends.

use std::time::Duration;

use crate::{
    clock::UnixMillis,
    domain::epoch::Number,
    link::wire::Malformed,
    services::exchange::{
        Arrival, Cursor, Lane, NoAnswer, Occasion, Page, Parcel, Question, Refusal, Standing,
    },
    statement::{Envelope, revocation::Proven},
};

/// Which end of the link this is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// Dials, introduces its subtree, answers pulls.
    Child,
    /// Judges, asks pulls.
    Parent,
}

/// How long a link may be quiet.
#[derive(Clone, Copy, Debug)]
pub struct Heartbeat {
    /// Time without a frame sent, after which a heartbeat is. Default: 10 s.
    pub idle: Duration,
    /// Time without a frame received, after which the link is dead. Default: 30 s.
    pub dead: Duration,
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self { idle: Duration::from_secs(10), dead: Duration::from_secs(30) }
    }
}

/// The time, as the driver tells it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Now {
    /// Time since an arbitrary start, never running backwards.
    pub elapsed: Duration,
    /// The unit's clock.
    pub unix_ms: UnixMillis,
}

/// Why a session ended.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Closed {
    /// The peer will not link.
    #[error("the parent refuses the link ({}): {}", .reason, .detail)]
    Refused {
        /// Word of the refusal.
        reason: String,
        /// Its sentence.
        detail: String,
    },
    /// This side will not link.
    #[error("the link was refused ({}): {}", .0.reason, .0.detail)]
    Refusing(Refusal),
    /// The peer broke the protocol.
    #[error("the peer breaks the protocol: {0}")]
    Protocol(String),
    /// The peer sent a frame that is malformed or too large.
    #[error("the peer breaks the protocol: {0}")]
    Malformed(#[from] Malformed),
    /// Something between two deliveries was lost; the next link resumes from the cursor.
    #[error(
        "delivery {lane_seq} of lane {lane:?} follows {after}, but only {have} was taken in; \
         the next link resumes there"
    )]
    Gap {
        /// The lane.
        lane: Lane,
        /// Position of the delivery.
        lane_seq: u64,
        /// What it says comes before it.
        after: u64,
        /// The cursor.
        have: u64,
    },
    /// The outbox of a lane does not run forward, or began anew.
    #[error("the outbox of lane {0:?} does not run forward; the next link reads it anew")]
    Outbox(Lane),
    /// There was no room for what came in a lane; the next link brings it again.
    #[error("there was no room for what comes in lane {}; the next link brings it again", .0.as_str())]
    NoRoom(Lane),
    /// Nothing came for too long.
    #[error("the peer was silent for {} s", .0.as_secs())]
    Silent(Duration),
    /// This unit could not take in or give out.
    #[error("{0}")]
    Failed(String),
    /// The stream ended.
    #[error("the stream ended: {0}")]
    Ended(String),
    /// The unit was found to be rolled back, or began a new epoch.
    #[error("the unit has to greet anew: its epoch changed, or has to")]
    Renewed,
    /// A newer link of the same child took over.
    #[error("a newer link of the same child took over")]
    Replaced,
    /// The host stops, or the unit's link is set up anew.
    #[error("the host stops")]
    Stopped,
}

/// What the driver is to do.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Meet the peer, then [`Session::accepted`](super::Session::accepted) or [`Session::refused`](super::Session::refused).
    Judge(Box<Standing>),
    /// The link is up.
    Up {
        /// This unit's clock minus the peer's.
        clock_skew_ms: i64,
    },
    /// Read the outbox above `after`, at most [`FETCH_LIMIT`](super::FETCH_LIMIT), then [`Session::fetched`](super::Session::fetched).
    Fetch {
        /// The lane.
        lane: Lane,
        /// Position.
        after: u64,
    },
    /// Read the own roster, then [`Session::roster`](super::Session::roster).
    FetchRoster,
    /// Read which delegation of the peer is held, then [`Session::held`](super::Session::held).
    FetchHeld,
    /// Keep that the peer holds this delegation, then [`Session::took_acquaintance`](super::Session::took_acquaintance).
    Acquainted([u8; 32]),
    /// Read the revocations that are held, then [`Session::revocations`](super::Session::revocations).
    FetchRevocations,
    /// Take revocations in, then [`Session::took_revocations`](super::Session::took_revocations).
    Revoke(Vec<Proven>),
    /// Take delegations in, then [`Session::introduced`](super::Session::introduced).
    Introduce(Vec<Envelope>),
    /// See what is to be said about journals, then [`Session::witnessed`](super::Session::witnessed).
    Witness(Occasion),
    /// Take a delivery in; once its commit is submitted [`Session::handed`](super::Session::handed), once it is durable
    /// [`Session::committed`](super::Session::committed).
    Receive(Arrival),
    /// See whether own statements are wanted back, then [`Session::returns_wanted`](super::Session::returns_wanted).
    WantReturns,
    /// Keep own statements that came back, then [`Session::returns_wanted`](super::Session::returns_wanted).
    TakeReturned(Page),
    /// Collect the peer's own statements, then [`Session::returned`](super::Session::returned).
    GiveBack(Number),
    /// Tell the outbox what the peer holds, then [`Session::told`](super::Session::told).
    Acknowledged(Cursor),
    /// Answer a live pull, then [`Session::answered`](super::Session::answered).
    Answer {
        /// Id of the pull.
        pull_id: u64,
        /// The question.
        question: Question,
    },
    /// The parent no longer waits for this answer.
    StopAnswer {
        /// Id of the pull.
        pull_id: u64,
    },
    /// A question of this side is settled.
    Settled {
        /// Id of the pull.
        pull_id: u64,
        /// The answer.
        answer: Result<Vec<Parcel>, NoAnswer>,
    },
    /// A lane stopped until the next link; the others go on.
    LaneStopped {
        /// The lane.
        lane: Lane,
        /// Position of the delivery that cannot be sent.
        lane_seq: u64,
        /// Its size.
        size_bytes: usize,
    },
    /// The session is over. Frames that [`Session::frame`](super::Session::frame) still has are to be sent.
    Close(Closed),
}
