//! Live pulls on one stream: questions of the parent, answers of the child, several at a time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use lianxi_proto::link::v1::Frame;
use prost::Message;

use super::Closed;
use crate::{
    link::wire::{self, MAX_FRAME_BYTES},
    services::exchange::{NoAnswer, Parcel, Question},
};

/// Most questions of the parent that a child works on at once.
pub const MAX_QUESTIONS: usize = 32;

/// Most bytes of one answer.
pub const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;

#[derive(Default)]
struct Answer {
    parcels: Vec<Parcel>,
    bytes: usize,
}

/// What came of a frame that belongs to an answer.
pub(super) enum Came {
    /// The answer goes on, or nobody waits for it.
    Nothing,
    /// The question is settled.
    Settled(Result<Vec<Parcel>, NoAnswer>),
    /// The answer is too large: the child is to stop.
    Excessive,
}

/// Both sides of the pulls; a parent asks, a child answers.
#[derive(Default)]
pub(super) struct Pulls {
    asked: BTreeMap<u64, Answer>,
    answering: BTreeSet<u64>,
    frames: VecDeque<(u64, Frame)>,
}

impl Pulls {
    pub(super) fn ask(&mut self, pull_id: u64, question: Question) {
        self.asked.insert(pull_id, Answer::default());
        self.frames.push_back((pull_id, wire::pull_request(pull_id, question)));
    }

    /// True if the question was open.
    pub(super) fn cancel(&mut self, pull_id: u64) -> bool {
        let open = self.asked.remove(&pull_id).is_some();
        if open {
            self.frames.retain(|(id, _)| *id != pull_id);
            self.frames.push_back((pull_id, wire::pull_cancel(pull_id)));
        }
        open
    }

    pub(super) fn came(&mut self, pull_id: u64, parcel: Parcel, size_bytes: usize) -> Came {
        let Some(answer) = self.asked.get_mut(&pull_id) else { return Came::Nothing };
        answer.bytes += size_bytes;
        if answer.bytes > MAX_ANSWER_BYTES {
            self.cancel(pull_id);
            return Came::Excessive;
        }
        answer.parcels.push(parcel);
        Came::Nothing
    }

    pub(super) fn ended(&mut self, pull_id: u64, outcome: Result<(), NoAnswer>) -> Came {
        match self.asked.remove(&pull_id) {
            Some(answer) => Came::Settled(outcome.map(|()| answer.parcels)),
            None => Came::Nothing,
        }
    }

    /// Takes a question in; false if it is refused because too many are open.
    pub(super) fn question(&mut self, pull_id: u64) -> Result<bool, Closed> {
        if self.answering.contains(&pull_id) {
            return Err(Closed::Protocol("it uses the id of an open pull again".to_owned()));
        }
        if self.answering.len() >= MAX_QUESTIONS {
            self.end(pull_id, Err(NoAnswer::Refused));
            return Ok(false);
        }
        self.answering.insert(pull_id);
        Ok(true)
    }

    /// Answers a question with nothing.
    pub(super) fn refuse(&mut self, pull_id: u64) {
        self.end(pull_id, Err(NoAnswer::Refused));
    }

    /// Drops what is left of an answer; true if it was still being made.
    pub(super) fn cancelled(&mut self, pull_id: u64) -> bool {
        self.frames.retain(|(id, _)| *id != pull_id);
        self.answering.remove(&pull_id)
    }

    /// Queues an answer. One that fits no frame is withheld whole: part of it would pass for all.
    pub(super) fn answered(&mut self, pull_id: u64, answer: Result<Vec<Parcel>, NoAnswer>) {
        if !self.answering.remove(&pull_id) {
            return;
        }
        let items = answer.and_then(|parcels| {
            let items: Vec<Frame> =
                parcels.into_iter().map(|parcel| wire::pull_item(pull_id, parcel)).collect();
            let fits = items.iter().all(|item| item.encoded_len() <= MAX_FRAME_BYTES);
            if fits { Ok(items) } else { Err(NoAnswer::Refused) }
        });
        let outcome =
            items.map(|items| self.frames.extend(items.into_iter().map(|item| (pull_id, item))));
        self.end(pull_id, outcome);
    }

    fn end(&mut self, pull_id: u64, outcome: Result<(), NoAnswer>) {
        self.frames.push_back((pull_id, wire::pull_end(pull_id, outcome)));
    }

    pub(super) fn is_waiting(&self) -> bool {
        !self.frames.is_empty()
    }

    pub(super) fn next(&mut self) -> Option<Frame> {
        self.frames.pop_front().map(|(_, frame)| frame)
    }

    /// Ends everything; the ids of open questions come back.
    pub(super) fn close(&mut self) -> Vec<u64> {
        self.frames.clear();
        self.answering.clear();
        std::mem::take(&mut self.asked).into_keys().collect()
    }
}
