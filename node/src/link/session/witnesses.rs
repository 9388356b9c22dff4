//! What the two sides say about their journals on one stream: one occasion at a time, in order.

use std::collections::VecDeque;

use lianxi_proto::link::v1::Frame;

use super::Closed;
use crate::{
    link::wire,
    services::exchange::{Occasion, Witnessing},
};

/// Most frames of the peer that wait to be judged. More are no conversation.
const MAX_WAITING: usize = 16;

#[derive(Default)]
pub(super) struct Witnesses {
    waiting: VecDeque<Occasion>,
    is_busy: bool,
    frames: VecDeque<Frame>,
}

impl Witnesses {
    pub(super) fn opened(&mut self) {
        self.waiting.push_back(Occasion::Opened);
    }

    /// A new checkpoint; one that waits to be offered stands for all later ones.
    pub(super) fn changed(&mut self) {
        let waits = self.waiting.iter().any(|one| matches!(one, Occasion::Checkpoint));
        if !waits {
            self.waiting.push_back(Occasion::Checkpoint);
        }
    }

    pub(super) fn said(&mut self, said: Witnessing) -> Result<(), Closed> {
        if self.waiting.len() >= MAX_WAITING {
            return Err(Closed::Protocol("it does not wait for verdicts".to_owned()));
        }
        self.waiting.push_back(Occasion::Said(said));
        Ok(())
    }

    /// The next occasion, if none is being dealt with.
    pub(super) fn next(&mut self) -> Option<Occasion> {
        if self.is_busy {
            return None;
        }
        let next = self.waiting.pop_front();
        self.is_busy = next.is_some();
        next
    }

    pub(super) fn answered(&mut self, answers: Vec<Witnessing>) {
        self.is_busy = false;
        self.frames.extend(answers.into_iter().map(wire::witnessing));
    }

    pub(super) fn is_waiting(&self) -> bool {
        !self.frames.is_empty()
    }

    pub(super) fn frame(&mut self) -> Option<Frame> {
        self.frames.pop_front()
    }
}
