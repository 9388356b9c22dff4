//! One lane on its way in: hands each delivery over once, in order, and says how far everything is
//! durable.

use std::collections::VecDeque;

use super::Closed;
use crate::services::exchange::{Arrival, Cursor, Lane};

pub(super) struct InLane {
    lane: Lane,
    epoch: Option<u64>,
    /// The epoch was named by a delivery of this stream: it cannot change any more.
    fixed: bool,
    /// Last position that was taken from the stream.
    taken: u64,
    durable: u64,
    waiting: VecDeque<(Arrival, usize)>,
    handing: bool,
    /// Handed over and not yet durable, with their sizes.
    handed: VecDeque<(u64, usize, bool)>,
    bytes: usize,
    acknowledge: bool,
    /// Nothing more of this lane is taken from the stream: there is no room for it.
    stopped: bool,
}

impl InLane {
    pub(super) fn new(lane: Lane) -> Self {
        Self {
            lane,
            epoch: None,
            fixed: false,
            taken: 0,
            durable: 0,
            waiting: VecDeque::new(),
            handing: false,
            handed: VecDeque::new(),
            bytes: 0,
            acknowledge: false,
            stopped: false,
        }
    }

    /// Lets go of what is not durable: the peer still has it, and the next stream brings it again.
    pub(super) fn stop(&mut self) {
        self.stopped = true;
        self.bytes = 0;
        self.waiting.clear();
        self.handed.clear();
        self.handing = false;
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped
    }

    pub(super) fn begin(&mut self, cursor: Cursor) {
        self.epoch = Some(cursor.link_epoch);
        self.taken = cursor.lane_seq;
        self.durable = cursor.lane_seq;
    }

    pub(super) fn take(&mut self, arrival: Arrival, size_bytes: usize) -> Result<(), Closed> {
        if self.stopped {
            return Ok(());
        }
        let Cursor { link_epoch, lane_seq, .. } = arrival.cursor;
        if self.epoch != Some(link_epoch) {
            if self.fixed {
                let text = "it changes the epoch of a lane within one stream";
                return Err(Closed::Protocol(text.to_owned()));
            }
            self.epoch = Some(link_epoch);
            self.taken = 0;
            self.durable = 0;
        }
        self.fixed = true;
        if lane_seq <= self.taken {
            self.acknowledge |= self.durable > 0;
            return Ok(());
        }
        if arrival.after > self.taken {
            let (lane, after, have) = (self.lane, arrival.after, self.taken);
            return Err(Closed::Gap { lane, lane_seq, after, have });
        }
        self.taken = lane_seq;
        self.bytes += size_bytes;
        self.waiting.push_back((arrival, size_bytes));
        Ok(())
    }

    /// The next delivery to hand over, if none is on its way.
    pub(super) fn hand(&mut self) -> Option<Arrival> {
        if self.handing || self.stopped {
            return None;
        }
        let (arrival, size_bytes) = self.waiting.pop_front()?;
        self.handing = true;
        self.handed.push_back((arrival.cursor.lane_seq, size_bytes, false));
        Some(arrival)
    }

    pub(super) fn was_handed(&mut self) {
        self.handing = false;
    }

    /// Takes in that the commit of `lane_seq` is durable. Commits may resolve in any order; the
    /// cursor moves over the unbroken beginning only.
    pub(super) fn committed(&mut self, lane_seq: u64) {
        if let Some(entry) = self.handed.iter_mut().find(|entry| entry.0 == lane_seq) {
            entry.2 = true;
        }
        while let Some(&(lane_seq, size_bytes, true)) = self.handed.front() {
            self.handed.pop_front();
            self.bytes -= size_bytes;
            self.durable = lane_seq;
            self.acknowledge = true;
        }
    }

    pub(super) fn must_acknowledge(&self) -> bool {
        self.acknowledge
    }

    /// One acknowledgement for everything that became durable since the last one.
    pub(super) fn acknowledgement(&mut self) -> Option<Cursor> {
        let link_epoch = self.epoch?;
        std::mem::take(&mut self.acknowledge).then_some(Cursor {
            lane: self.lane,
            link_epoch,
            lane_seq: self.durable,
        })
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}
