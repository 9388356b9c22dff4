//! What the link drives: one [`Exchange`] per hosted unit takes statements in and gives them out,
//! and [`Downlinks`] is how a unit reaches its linked children for a live pull.
//!
//! The link moves frames and knows nothing of what statements mean; this side knows nothing of
//! sockets.

use std::time::Duration;

use async_trait::async_trait;

use crate::{
    clock::UnixMillis,
    domain::{
        epoch::{Number, Reach},
        preview::Program,
        unit::UnitCode,
    },
    statement::{Envelope, SaltedCell, header::StatementId, journal::Evidence, revocation::Proven},
    store::{self, Commit},
    watch,
};

/// Queue of a link. Order of urgency, the most urgent first.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum Lane {
    /// Whistles and their steps.
    Escalation = 1,
    /// Notices and receipts.
    Notice = 2,
    /// Summaries, and rejections.
    Summary = 3,
    /// Catalogues.
    Catalogue = 4,
    /// Anything large.
    Bulk = 5,
}

impl Lane {
    /// All lanes, the most urgent first.
    pub const ALL: [Self; 5] =
        [Self::Escalation, Self::Notice, Self::Summary, Self::Catalogue, Self::Bulk];

    /// The word used everywhere.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Escalation => "escalation",
            Self::Notice => "notice",
            Self::Summary => "summary",
            Self::Catalogue => "catalogue",
            Self::Bulk => "bulk",
        }
    }
}

/// A place in a lane.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Cursor {
    /// The lane.
    pub lane: Lane,
    /// Epoch of the sender's outbox.
    pub link_epoch: u64,
    /// Position; 0: nothing yet.
    pub lane_seq: u64,
}

/// What a unit says of itself to one peer.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Trust domain.
    pub trust_domain: String,
    /// The unit.
    pub unit: UnitCode,
    /// Delegations from the root's own down to the unit's.
    pub chain: Vec<Envelope>,
    /// The unit's epoch.
    pub epoch: u64,
    /// What was durably taken in from the peer.
    pub received: Vec<Cursor>,
    /// The unit's clock.
    pub clock_unix_ms: UnixMillis,
    /// To the parent: digest of the own subtree's delegations. To a child: of what is held of its
    /// subtree.
    pub roster_sha256: [u8; 32],
    /// Highest catalogue, `name@version`, or empty.
    pub catalogue: String,
    /// Digest of the revocations that are held.
    pub revocations_sha256: [u8; 32],
    /// To a child: where it dials this unit. To the parent: where this unit dials it.
    pub addresses: Vec<String>,
    /// What was seen of the peer.
    pub seen: Seen,
    /// How the unit's epoch was opened; `None` in the first one.
    pub opening: Option<ShownOpening>,
    /// How far the unit is.
    pub reach: Reach,
    /// It was rolled back and waits for an epoch.
    pub stopped: bool,
    /// What its program says of itself.
    pub program: Program,
}

/// The highest that one side has seen of the other.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Seen {
    /// Newest statement of the other side that was taken in.
    pub newest: Newest,
    /// Payload that opened that epoch; `None` in the first one.
    pub opening_sha256: Option<[u8; 32]>,
    /// Newest checkpoint of the other side that was cosigned: a signed note, or empty.
    pub checkpoint: String,
    /// What the other side has acknowledged, per lane.
    pub acknowledged: Vec<Cursor>,
}

/// A unit's newest statement that was taken in, by number. Old rows do not know which one it was.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Newest {
    /// Its number.
    pub number: Number,
    /// Its id.
    pub id: Option<StatementId>,
}

/// An epoch's opening as it is shown to one peer.
#[derive(Clone, Debug, PartialEq)]
pub struct ShownOpening {
    /// The statement.
    pub envelope: Envelope,
    /// Newest checkpoint before it that the peer cosigned: a signed note, or empty.
    pub checkpoint: String,
}

/// What two sides may do that have met.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Meeting {
    /// Everything.
    Open,
    /// One of them was rolled back: they compare journals, and send no statements.
    Quiet,
}

/// A statement that comes back to its source.
#[derive(Clone, Debug, PartialEq)]
pub struct Returned {
    /// As its source signed it.
    pub envelope: Envelope,
    /// For a summary: its cells.
    pub cells: Vec<SaltedCell>,
}

/// Some of a unit's own statements, in the order of their numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// The statements.
    pub statements: Vec<Returned>,
    /// Nothing comes after them.
    pub last: bool,
}

/// Why a link is not made. Travels to the child.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{reason}: {detail}")]
pub struct Refusal {
    /// Fixed word of `Refusal.reason`.
    pub reason: &'static str,
    /// One sentence with the remedy.
    pub detail: String,
}

/// A delivery that came in.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// Its place.
    pub cursor: Cursor,
    /// Place of the delivery before it in the lane.
    pub after: u64,
    /// As its source signed it.
    pub envelope: Envelope,
    /// For a summary: its cells.
    pub cells: Vec<SaltedCell>,
    /// For a statement by a key that has ended: that it was there before.
    pub evidence: Option<Evidence>,
}

/// A delivery that is to go out.
#[derive(Clone, Debug)]
pub struct Departure {
    /// Its place.
    pub cursor: Cursor,
    /// Place of the delivery before it in the lane.
    pub after: u64,
    /// As its source signed it.
    pub envelope: Envelope,
    /// For a summary: its cells.
    pub cells: Vec<SaltedCell>,
    /// For a statement by a key that has ended: that it was there before.
    pub evidence: Option<Evidence>,
}

/// Why an arrival could not be settled. Says nothing about the statement itself: an invalid one is
/// quarantined and its lane goes on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The delivery does not follow the cursor: something before it is missing.
    #[error("delivery {lane_seq} follows {after}, but only {have} was taken in")]
    Gap {
        /// Its position.
        lane_seq: u64,
        /// What it says comes before it.
        after: u64,
        /// The cursor.
        have: u64,
    },
    /// The store failed; nothing was taken in.
    #[error("cannot store what the link brought")]
    Store(#[from] store::Error),
    /// The peer is parent or child no more: it moved, or this unit did.
    #[error("{0} is neither parent nor child of this unit any more")]
    NoPeer(UnitCode),
    /// An introduced delegation does not hold.
    #[error("an introduced delegation does not hold: {0}")]
    Introduction(String),
}

/// What a pull asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Wanted {
    /// Figures as they are.
    Live,
    /// What was reported, verbatim.
    Reported {
        /// Digest of the payload; `None`: the newest version.
        payload_sha256: Option<[u8; 32]>,
    },
}

/// A question of a pull.
#[derive(Clone, Debug)]
pub struct Question {
    /// Live or reported.
    pub wanted: Wanted,
    /// Period, as in `Summary.period`.
    pub period: String,
    /// Time left for the answer.
    pub deadline: Duration,
    /// Oldest cached answer that will do.
    pub max_age: Duration,
    /// Levels of descendants whose own envelopes come along.
    pub depth: u32,
    /// Trace context, or empty.
    pub traceparent: String,
}

/// A summary with its cells.
#[derive(Clone, Debug)]
pub struct Parcel {
    /// As its source signed it.
    pub envelope: Envelope,
    /// All its cells.
    pub cells: Vec<SaltedCell>,
    /// Of a reported one: that it stands in a journal.
    pub evidence: Option<Evidence>,
}

/// Why a child gave no answer: a fixed word of `CoverageGap.reason`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NoAnswer {
    /// No link is open.
    NoLink,
    /// The deadline came first.
    Deadline,
    /// The answer did not hold.
    Refused,
}

impl NoAnswer {
    /// The word of the contract.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoLink => "no-link",
            Self::Deadline => "deadline",
            Self::Refused => "refused",
        }
    }
}

/// The open links to a unit's children. Implemented by `link`.
#[async_trait]
pub trait Downlinks: Send + Sync + 'static {
    /// Asks `child`; its parcels come back with its own last. Dropping the future cancels the
    /// question at the child.
    async fn pull(&self, child: &UnitCode, question: Question) -> Result<Vec<Parcel>, NoAnswer>;

    /// Children with an open link.
    fn linked(&self) -> Vec<UnitCode>;

    /// Tells `child` why, and ends its link at once if one is open. What proves it goes first.
    fn close(&self, child: &UnitCode, refusal: Refusal, proof: Vec<Proven>);
}

/// What the two sides of a link say about their journals.
#[derive(Clone, Debug, PartialEq)]
pub enum Witnessing {
    /// How much of the receiver's journal the sender holds.
    Held {
        /// Size of the checkpoint that it cosigned last; 0: none.
        size: u64,
    },
    /// The sender's newest checkpoint.
    Offer(Box<Offer>),
    /// The receiver's checkpoint, cosigned by the sender.
    Cosigned {
        /// Signed note.
        checkpoint: String,
    },
    /// The receiver's checkpoint was not cosigned.
    Refused {
        /// Fixed word of `CheckpointVerdict.refused`.
        reason: String,
    },
}

/// A checkpoint to be cosigned.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Offer {
    /// Signed note.
    pub checkpoint: String,
    /// Size from which `consistency` proves.
    pub old_size: u64,
    /// From `old_size` to the checkpoint.
    pub consistency: Vec<[u8; 32]>,
    /// An earlier or the same checkpoint with cosignatures of the sender's other children, or empty.
    pub witnessed: String,
    /// From `witnessed` to the checkpoint.
    pub witnessed_consistency: Vec<[u8; 32]>,
    /// Delegations of those who cosigned `witnessed`.
    pub cosigners: Vec<Envelope>,
}

/// Why something may have to be said about journals.
#[derive(Clone, Debug)]
pub enum Occasion {
    /// The link is up.
    Opened,
    /// The unit made a checkpoint.
    Checkpoint,
    /// The peer said something.
    Said(Witnessing),
}

/// How a link ended or did not begin, and what it learned.
#[derive(Clone, Debug)]
pub enum LinkEvent {
    /// The link is up.
    Up {
        /// This unit's clock minus the peer's at hello.
        clock_skew_ms: i64,
    },
    /// A lane rests because there is no room for what it brings; the others go on.
    Resting {
        /// One sentence for the operator.
        reason: String,
    },
    /// The link is down.
    Down {
        /// One sentence for the operator.
        reason: String,
    },
}

/// One hosted unit as its links see it.
#[async_trait]
pub trait Exchange: Send + Sync + 'static {
    /// The unit.
    fn unit(&self) -> &UnitCode;

    /// The unit's parent; `None` at the root.
    fn parent(&self) -> Option<UnitCode>;

    /// What the unit says of itself to `peer`.
    async fn standing(&self, peer: &UnitCode) -> Result<Standing, Error>;

    /// Judges the peer's hello: its chain must hold and name `certified`, the unit of its
    /// certificate (for a pipe: the unit that the host put there), which must be this unit's parent
    /// or a child of it that was not revoked. Rows of the outbox that the peer has are removed. An
    /// epoch that the peer opened is taken in; a side that is not as far as the other has seen it is
    /// to send nothing.
    async fn meet(&self, certified: &UnitCode, hello: &Standing) -> Result<Meeting, Refusal>;

    /// Delegations that `peer` needs, issuers before issued. The parent: those of the own subtree,
    /// itself and its desks included. A child: those of the desks of this unit and of the units
    /// above it, whose steps the child has to verify.
    async fn roster(&self, peer: &UnitCode) -> Result<Vec<Envelope>, Error>;

    /// Takes in delegations that `peer` introduces, durably.
    async fn introduce(&self, peer: &UnitCode, delegations: Vec<Envelope>) -> Result<(), Error>;

    /// The newest delegation of `peer` that is durable here, by the digest of its payload.
    async fn held(&self, peer: &UnitCode) -> Result<Option<[u8; 32]>, Error>;

    /// Keeps that `peer` holds the delegation of this unit with that digest, durably.
    async fn acquainted(&self, peer: &UnitCode, payload_sha256: [u8; 32]) -> Result<(), Error>;

    /// The revocations that are held, each with its proof.
    async fn revocations(&self) -> Vec<Proven>;

    /// Takes in the revocations that `peer` passes on, durably. One that does not hold is refused and
    /// recorded; it does not end the link.
    async fn take_revocations(&self, peer: &UnitCode, items: Vec<Proven>) -> Result<(), Error>;

    /// Takes one delivery in. Returns once its commit is submitted: calls for one peer and lane are
    /// made in order, without waiting for the commit; acknowledge when it resolves. A delivery at
    /// or below the cursor is settled without effect.
    async fn receive(&self, peer: &UnitCode, arrival: Arrival) -> Result<Commit, Error>;

    /// At most `limit` deliveries of a lane to `peer` above `after`, in order.
    async fn outgoing(
        &self,
        peer: &UnitCode,
        lane: Lane,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Departure>, Error>;

    /// The peer holds everything up to `cursor`.
    async fn acknowledged(&self, peer: &UnitCode, cursor: Cursor) -> Result<(), Error>;

    /// Changes whenever the outbox to `peer` has something new.
    fn outbox_changes(&self, peer: &UnitCode) -> watch::Receiver<u64>;

    /// Changes whenever a delegation or a revocation is new that `peer` may need.
    fn roster_changes(&self, peer: &UnitCode) -> watch::Receiver<u64>;

    /// Changes whenever the unit made a checkpoint of its journal.
    fn checkpoint_changes(&self) -> watch::Receiver<u64>;

    /// What is to be said to `peer` about journals. What it cosigned, or refused, is durable.
    async fn witness(&self, peer: &UnitCode, occasion: Occasion) -> Result<Vec<Witnessing>, Error>;

    /// Changes whenever peers have to be greeted anew: the unit was found to be rolled back, or opened
    /// an epoch.
    fn standing_changes(&self) -> watch::Receiver<u64>;

    /// Number above which `peer` is to return statements of this unit; `None`: nothing is wanted.
    async fn returns_wanted(&self, peer: &UnitCode) -> Result<Option<Number>, Error>;

    /// Keeps statements of this unit that `peer` returned; then as [`Self::returns_wanted`].
    async fn take_returned(&self, peer: &UnitCode, page: Page) -> Result<Option<Number>, Error>;

    /// Statements of `peer` above `after` that it sent here itself, as many as fit a frame.
    async fn returned(&self, peer: &UnitCode, after: Number) -> Result<Page, Error>;

    /// Answers a pull, the unit's own summary last; nothing if it has none that was asked for.
    async fn answer(&self, question: Question) -> Vec<Parcel>;

    /// Notes the state of the link to `peer`, for status.
    fn note(&self, peer: &UnitCode, event: LinkEvent);
}
