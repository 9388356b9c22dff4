//! The frames of a courier file: those of a link, one after the other.

use bytes::Bytes;
use lianxi_proto::link::v1::{self as pb, Frame, frame::Kind};
use prost::Message as _;

use super::wire::{self, VERSION};
use crate::{
    domain::epoch::Number,
    services::{
        courier::{Codec, Message},
        exchange::{Arrival, Departure, Page, Witnessing},
    },
    statement::header::Malformed,
};

/// Messages of files as frames of the link.
#[derive(Clone, Copy, Debug, Default)]
pub struct Frames;

impl Codec for Frames {
    fn encode(&self, message: Message) -> Option<Bytes> {
        let mut limit = wire::MAX_FRAME_BYTES;
        let frame = match message {
            Message::Hello(standing) => wire::hello(*standing),
            Message::Revocations(items) => wire::revocations(&items),
            Message::Introduction(delegations) => {
                wire::frame(Kind::Introduction(pb::Introduction { delegations }))
            }
            Message::Acquainted(payload_sha256) => wire::acquainted(payload_sha256),
            Message::Witnessing(said) => wire::witnessing(said),
            Message::ReturnRequest(after) => wire::return_request(after),
            Message::Returned(page) => wire::returned(page),
            Message::Delivery(arrival) => {
                limit = wire::max_bytes(arrival.cursor.lane);
                let Arrival { cursor, after, envelope, cells, evidence } = *arrival;
                wire::delivery(Departure { cursor, after, envelope, cells, evidence })
            }
        };
        (frame.encoded_len() <= limit).then(|| wire::encode(&frame))
    }

    fn decode(&self, frame: Bytes) -> Result<Message, Malformed> {
        let broken = |malformed: wire::Malformed| Malformed::new("frame", malformed);
        let Frame { kind } = wire::decode(frame).map_err(broken)?;
        let kind = kind.ok_or_else(|| broken(wire::Malformed::Unreadable))?;
        if let Kind::Hello(hello) = &kind {
            check_version(hello)?;
        }
        let message = message(kind).map_err(broken)?;
        message.ok_or_else(|| Malformed::new("frame", "is of a kind that no file holds"))
    }
}

fn check_version(hello: &pb::Hello) -> Result<(), Malformed> {
    let (lowest, highest) = (hello.version_min, hello.version_max);
    if lowest > VERSION || highest < VERSION {
        let reason = format!(
            "is of versions {lowest} to {highest} of the link, this program knows {VERSION}; install \
             one that knows a common one"
        );
        return Err(Malformed::new("hello.version_max", reason));
    }
    Ok(())
}

/// The message of a frame; `None`: no file holds such a frame.
fn message(kind: Kind) -> Result<Option<Message>, wire::Malformed> {
    Ok(Some(match kind {
        Kind::Hello(hello) => Message::Hello(Box::new(wire::standing(hello)?)),
        Kind::Revocations(frame) => Message::Revocations(wire::proven(frame)?),
        Kind::Introduction(introduction) => Message::Introduction(introduction.delegations),
        Kind::Acquainted(frame) => Message::Acquainted(wire::acquaintance(&frame)?),
        Kind::CheckpointOffer(offer) => Message::Witnessing(wire::offer(offer)?),
        Kind::CheckpointVerdict(verdict) => Message::Witnessing(wire::verdict(verdict)?),
        Kind::CheckpointHeld(held) => Message::Witnessing(Witnessing::Held { size: held.size }),
        Kind::ReturnRequest(request) => {
            let (epoch, seq) = (request.after_epoch, request.after_seq);
            Message::ReturnRequest(Number { epoch, seq })
        }
        Kind::Returned(page) => {
            let last = page.last;
            Message::Returned(Page { statements: wire::statements(page)?, last })
        }
        Kind::Delivery(delivery) => Message::Delivery(Box::new(wire::arrival(delivery)?)),
        Kind::Refusal(_)
        | Kind::Acknowledgement(_)
        | Kind::Heartbeat(_)
        | Kind::PullRequest(_)
        | Kind::PullItem(_)
        | Kind::PullEnd(_)
        | Kind::PullCancel(_) => return Ok(None),
    }))
}
