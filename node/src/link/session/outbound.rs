//! One lane on its way out: what was fetched from the outbox, what is in flight, what the peer
//! holds. Sends each delivery once per stream, in order, within the window.

use std::{collections::VecDeque, time::Duration};

use lianxi_proto::link::v1::Frame;
use prost::Message;

use super::Closed;
use crate::{
    link::wire,
    services::exchange::{Cursor, Departure, Lane},
};

/// Most deliveries of a lane that may be unacknowledged.
pub const WINDOW_DELIVERIES: usize = 64;

/// Most bytes of a lane that may be unacknowledged; one delivery is always allowed.
pub const WINDOW_BYTES: usize = 256 * 1024;

/// Time without an acknowledgement after which a lane is taken for one that the peer rests.
const RESTS_AFTER: Duration = Duration::from_secs(15);

/// Most deliveries fetched at once, so that a full outbox costs little memory.
pub const FETCH_LIMIT: usize = 8;

/// What the next delivery of a lane turned out to be.
pub(super) enum Next {
    /// Nothing to send, or the window is full.
    Nothing,
    /// To be sent.
    Frame(Box<Frame>),
    /// The delivery fits no frame: its lane stops, because the receiver would miss it.
    TooLarge {
        /// Its place.
        lane_seq: u64,
        /// Its serialised size.
        size_bytes: usize,
    },
}

pub(super) struct OutLane {
    lane: Lane,
    /// What the peer said in its hello.
    peer_has: Option<Cursor>,
    epoch: Option<u64>,
    fetched_to: u64,
    sent_to: u64,
    acknowledged: u64,
    told: u64,
    telling: bool,
    ready: VecDeque<Departure>,
    /// Place, bytes, and when it was sent.
    flying: VecDeque<(u64, usize, Duration)>,
    flying_bytes: usize,
    /// The outbox may hold more than was fetched.
    stale: bool,
    fetching: bool,
    stopped: bool,
}

impl OutLane {
    pub(super) fn new(lane: Lane) -> Self {
        Self {
            lane,
            peer_has: None,
            epoch: None,
            fetched_to: 0,
            sent_to: 0,
            acknowledged: 0,
            told: 0,
            telling: false,
            ready: VecDeque::new(),
            flying: VecDeque::new(),
            flying_bytes: 0,
            stale: true,
            fetching: false,
            stopped: false,
        }
    }

    pub(super) fn begin(&mut self, peer_has: Option<Cursor>) {
        self.peer_has = peer_has;
    }

    pub(super) fn changed(&mut self) {
        self.stale = true;
    }

    /// Position above which the outbox is to be read, if it is to be read now.
    pub(super) fn fetch(&mut self) -> Option<u64> {
        if !self.stale || self.fetching || self.stopped || !self.ready.is_empty() {
            return None;
        }
        if self.flying.len() >= WINDOW_DELIVERIES || self.flying_bytes >= WINDOW_BYTES {
            return None;
        }
        self.fetching = true;
        self.stale = false;
        Some(self.fetched_to)
    }

    pub(super) fn fetched(&mut self, departures: Vec<Departure>) -> Result<(), Closed> {
        self.fetching = false;
        // A short answer is the end of the outbox; a change meanwhile has set the mark again.
        self.stale |= departures.len() >= FETCH_LIMIT;
        for mut departure in departures {
            let Cursor { lane, link_epoch, lane_seq } = departure.cursor;
            let epoch = *self.epoch.get_or_insert(link_epoch);
            if self.fetched_to == 0 && self.peer_has.is_none_or(|has| has.link_epoch != epoch) {
                // To a peer that has nothing of this outbox, its first row follows nothing.
                departure.after = 0;
            }
            if lane != self.lane || epoch != link_epoch || lane_seq <= self.fetched_to {
                return Err(Closed::Outbox(self.lane));
            }
            self.fetched_to = lane_seq;
            if self.peer_has.is_some_and(|has| has.link_epoch == epoch && lane_seq <= has.lane_seq)
            {
                self.sent_to = lane_seq;
                self.acknowledged = lane_seq;
            } else {
                self.ready.push_back(departure);
            }
        }
        Ok(())
    }

    /// True if [`Self::next`] has something.
    pub(super) fn is_waiting(&self) -> bool {
        self.ready.front().is_some_and(|departure| !self.stopped && self.has_room(departure))
    }

    fn has_room(&self, departure: &Departure) -> bool {
        let bytes = self.flying_bytes.saturating_add(approximate_bytes(departure));
        self.flying.is_empty() || (self.flying.len() < WINDOW_DELIVERIES && bytes <= WINDOW_BYTES)
    }

    /// Bytes that are on their way.
    pub(super) fn flying_bytes(&self) -> usize {
        self.flying_bytes
    }

    /// True if the peer seems to rest the lane: what was sent of it does not hold up others.
    pub(super) fn rests(&self, now: Duration) -> bool {
        self.flying.front().is_some_and(|(.., at)| now > *at + RESTS_AFTER)
    }

    /// Bytes of the next delivery, if it may leave as far as this lane is concerned.
    pub(super) fn waits(&self) -> Option<usize> {
        let next = self.ready.front().filter(|_| self.is_waiting());
        next.map(approximate_bytes)
    }

    pub(super) fn next(&mut self, now: Duration) -> Next {
        if !self.is_waiting() {
            return Next::Nothing;
        }
        let Some(departure) = self.ready.pop_front() else { return Next::Nothing };
        let weight = approximate_bytes(&departure);
        let lane_seq = departure.cursor.lane_seq;
        let frame = wire::delivery(departure);
        let size_bytes = frame.encoded_len();
        if size_bytes > wire::max_bytes(self.lane) {
            self.stopped = true;
            self.ready.clear();
            return Next::TooLarge { lane_seq, size_bytes };
        }
        self.sent_to = lane_seq;
        self.flying_bytes += weight;
        self.flying.push_back((lane_seq, weight, now));
        Next::Frame(Box::new(frame))
    }

    /// Takes in that the peer holds everything up to `cursor`: its bytes, and when the last of them
    /// were sent.
    pub(super) fn acknowledge(&mut self, cursor: Cursor) -> Result<(usize, Duration), Closed> {
        if self.epoch != Some(cursor.link_epoch) || cursor.lane_seq > self.sent_to {
            return Err(Closed::Protocol("it acknowledges what was not sent".to_owned()));
        }
        let (mut held_bytes, mut last_at) = (0, Duration::ZERO);
        while let Some(&(lane_seq, bytes, sent_at)) = self.flying.front() {
            if lane_seq > cursor.lane_seq {
                break;
            }
            self.flying.pop_front();
            self.flying_bytes -= bytes;
            held_bytes += bytes;
            last_at = sent_at;
        }
        self.acknowledged = self.acknowledged.max(cursor.lane_seq);
        Ok((held_bytes, last_at))
    }

    /// What the outbox is to be told, one at a time: acknowledgements that come meanwhile are
    /// told together.
    pub(super) fn tell(&mut self) -> Option<Cursor> {
        let link_epoch = self.epoch?;
        if self.telling || self.acknowledged <= self.told {
            return None;
        }
        self.telling = true;
        self.told = self.acknowledged;
        Some(Cursor { lane: self.lane, link_epoch, lane_seq: self.told })
    }

    pub(super) fn was_told(&mut self) {
        self.telling = false;
    }
}

fn approximate_bytes(departure: &Departure) -> usize {
    let cells: usize = departure.cells.iter().map(Message::encoded_len).sum();
    departure.envelope.encoded_len() + cells
}
