//! Frames: their size, and how they map to what [`exchange`](crate::services::exchange) speaks.
//!
//! Every frame that leaves fits [`MAX_FRAME_BYTES`]; every field of a frame that came in is checked
//! here before anything else sees it. Envelopes and cells pass through untouched.

use std::time::Duration;

use bytes::Bytes;
use lianxi_proto::{
    link::v1::{self as pb, Frame, frame::Kind},
    types::v1::SummaryKind,
};
use prost::Message;

use crate::{
    domain::{
        epoch::{Number, Reach},
        preview::{self, MAX_SOFTWARE_BYTES, Program, Protocols},
    },
    services::exchange::{
        Arrival, Cursor, Departure, Lane, Newest, NoAnswer, Offer, Page, Parcel, Question,
        Returned, Seen, ShownOpening, Standing, Wanted, Witnessing,
    },
    statement::{journal::Evidence, revocation::Proven, transfer::addresses},
};

/// Largest serialised frame.
pub const MAX_FRAME_BYTES: usize = 256 * 1024;

/// Largest serialised frame of [`Lane::Bulk`], so that nothing urgent waits behind one.
pub const MAX_BULK_FRAME_BYTES: usize = 16 * 1024;

/// The only protocol version so far.
pub const VERSION: u32 = preview::PROTOCOL;

/// Most cursors that a hello may list.
const MAX_CURSORS: usize = 16;

/// Most delegations beside an offered checkpoint.
pub const MAX_COSIGNERS: usize = 16;
/// SHA-256 of nothing: what a sender that says nothing of revocations holds.
const NO_REVOCATIONS_SHA256: [u8; 32] = [
    0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24,
    0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
];

/// What is wrong with a frame that came in.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Malformed {
    /// Over [`MAX_FRAME_BYTES`].
    #[error("a frame is over the limit of 262144 bytes")]
    TooLarge,
    /// No protobuf message, or a kind that this version does not know.
    #[error("a frame cannot be read")]
    Unreadable,
    /// A field breaks its comment in the contract.
    #[error("field {field} of a {frame} frame {problem}")]
    Field {
        /// Kind of the frame.
        frame: &'static str,
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
}

fn field(frame: &'static str, field: &'static str, problem: &'static str) -> Malformed {
    Malformed::Field { frame, field, problem }
}

/// Serialises a frame.
pub fn encode(frame: &Frame) -> Bytes {
    frame.encode_to_vec().into()
}

/// Reads a frame.
///
/// # Errors
///
/// [`Malformed::TooLarge`] and [`Malformed::Unreadable`].
pub fn decode(bytes: Bytes) -> Result<Frame, Malformed> {
    if bytes.len() > MAX_FRAME_BYTES {
        return Err(Malformed::TooLarge);
    }
    Frame::decode(bytes).map_err(|_| Malformed::Unreadable)
}

/// Largest frame of `lane`.
pub(crate) fn max_bytes(lane: Lane) -> usize {
    if lane == Lane::Bulk { MAX_BULK_FRAME_BYTES } else { MAX_FRAME_BYTES }
}

pub(crate) fn frame(kind: Kind) -> Frame {
    Frame { kind: Some(kind) }
}

fn lane_to_proto(lane: Lane) -> i32 {
    let lane = match lane {
        Lane::Escalation => pb::Lane::Escalation,
        Lane::Notice => pb::Lane::Notice,
        Lane::Summary => pb::Lane::Summary,
        Lane::Catalogue => pb::Lane::Catalogue,
        Lane::Bulk => pb::Lane::Bulk,
    };
    lane.into()
}

fn lane_from_proto(number: i32, kind: &'static str) -> Result<Lane, Malformed> {
    match pb::Lane::try_from(number) {
        Ok(pb::Lane::Escalation) => Ok(Lane::Escalation),
        Ok(pb::Lane::Notice) => Ok(Lane::Notice),
        Ok(pb::Lane::Summary) => Ok(Lane::Summary),
        Ok(pb::Lane::Catalogue) => Ok(Lane::Catalogue),
        Ok(pb::Lane::Bulk) => Ok(Lane::Bulk),
        Ok(pb::Lane::Unspecified) | Err(_) => Err(field(kind, "lane", "names no lane")),
    }
}

pub(crate) fn hello(standing: Standing) -> Frame {
    let received = cursors_to_proto(&standing.received);
    frame(Kind::Hello(pb::Hello {
        version_min: standing.program.protocols.lowest,
        version_max: standing.program.protocols.highest,
        software: standing.program.software,
        catalogue_format: standing.program.catalogue_format,
        trust_domain: standing.trust_domain,
        unit: standing.unit.to_string(),
        chain: standing.chain,
        epoch: standing.epoch,
        received,
        clock_unix_ms: standing.clock_unix_ms,
        roster_sha256: standing.roster_sha256.to_vec(),
        catalogue: standing.catalogue,
        addresses: standing.addresses,
        revocations_sha256: standing.revocations_sha256.to_vec(),
        seen: Some(pb::Seen {
            epoch: standing.seen.newest.number.epoch,
            seq: standing.seen.newest.number.seq,
            statement_id: standing
                .seen
                .newest
                .id
                .map(|id| id.as_bytes().to_vec())
                .unwrap_or_default(),
            opening_sha256: standing.seen.opening_sha256.map(Vec::from).unwrap_or_default(),
            checkpoint: standing.seen.checkpoint,
            acknowledged: cursors_to_proto(&standing.seen.acknowledged),
        }),
        opening: standing.opening.map(|shown| pb::Opening {
            envelope: Some(shown.envelope),
            checkpoint: shown.checkpoint,
        }),
        reached: Some(pb::Reached {
            seq: standing.reach.number.seq,
            journal_size: standing.reach.journal_size,
            stopped: standing.stopped,
        }),
    }))
}

/// Most revocations of one frame.
pub(crate) const MAX_REVOCATIONS: usize = 16;

pub(crate) fn revocations(items: &[Proven]) -> Frame {
    let items = items.iter().map(Proven::to_proto).collect();
    frame(Kind::Revocations(pb::Revocations { items }))
}

pub(crate) fn proven(frame: pb::Revocations) -> Result<Vec<Proven>, Malformed> {
    if frame.items.len() > MAX_REVOCATIONS {
        return Err(field("revocations", "items", "are more than 16"));
    }
    let items = frame.items.into_iter().map(Proven::from_proto);
    items
        .collect::<Result<_, _>>()
        .map_err(|_| field("revocations", "items", "lacks a revocation or its chain"))
}

pub(crate) fn standing(mut hello: pb::Hello) -> Result<Standing, Malformed> {
    let received = cursors("received", &hello.received)?;
    let program = program(&mut hello)?;
    let seen = hello.seen.unwrap_or_default();
    let reached = hello.reached.unwrap_or_default();
    let opening = hello.opening.map(|opening| {
        let envelope = opening.envelope;
        let envelope = envelope.ok_or_else(|| field("hello", "opening", "lacks its statement"))?;
        Ok(ShownOpening { envelope, checkpoint: opening.checkpoint })
    });
    Ok(Standing {
        trust_domain: hello.trust_domain,
        unit: hello.unit.parse().map_err(|_| field("hello", "unit", "is no unit code"))?,
        chain: hello.chain,
        epoch: hello.epoch,
        received,
        clock_unix_ms: hello.clock_unix_ms,
        roster_sha256: hello
            .roster_sha256
            .try_into()
            .map_err(|_| field("hello", "roster_sha256", "is not 32 bytes long"))?,
        catalogue: hello.catalogue,
        addresses: addresses("hello.addresses", hello.addresses)
            .map_err(|_| field("hello", "addresses", "holds no address"))?,
        revocations_sha256: match hello.revocations_sha256.as_slice() {
            [] => NO_REVOCATIONS_SHA256,
            digest => digest
                .try_into()
                .map_err(|_| field("hello", "revocations_sha256", "is not 32 bytes long"))?,
        },
        seen: Seen {
            newest: Newest {
                number: Number { epoch: seen.epoch, seq: seen.seq },
                id: match seen.statement_id.as_slice() {
                    [] => None,
                    id => Some(
                        id.try_into()
                            .map_err(|_| field("hello", "seen", "holds no id of a statement"))?,
                    ),
                },
            },
            opening_sha256: match seen.opening_sha256.as_slice() {
                [] => None,
                digest => Some(
                    digest
                        .try_into()
                        .map_err(|_| field("hello", "seen", "holds no digest of 32 bytes"))?,
                ),
            },
            checkpoint: seen.checkpoint,
            acknowledged: cursors("seen", &seen.acknowledged)?,
        },
        opening: opening.transpose()?,
        reach: Reach {
            number: Number { epoch: hello.epoch, seq: reached.seq },
            journal_size: reached.journal_size,
        },
        stopped: reached.stopped,
        program,
    })
}

fn cursors_to_proto(cursors: &[Cursor]) -> Vec<pb::Cursor> {
    let cursor = |cursor: &Cursor| pb::Cursor {
        lane: lane_to_proto(cursor.lane),
        link_epoch: cursor.link_epoch,
        lane_seq: cursor.lane_seq,
    };
    cursors.iter().map(cursor).collect()
}

/// At most one place per lane.
fn cursors(name: &'static str, listed: &[pb::Cursor]) -> Result<Vec<Cursor>, Malformed> {
    if listed.len() > MAX_CURSORS {
        return Err(field("hello", name, "lists too many lanes"));
    }
    let mut cursors: Vec<Cursor> = Vec::with_capacity(listed.len());
    for cursor in listed {
        let lane = lane_from_proto(cursor.lane, "hello")?;
        if cursors.iter().any(|other| other.lane == lane) {
            return Err(field("hello", name, "lists a lane twice"));
        }
        let (link_epoch, lane_seq) = (cursor.link_epoch, cursor.lane_seq);
        cursors.push(Cursor { lane, link_epoch, lane_seq });
    }
    Ok(cursors)
}

/// What the peer says of its program. The name is shown to people: nothing but what can be seen.
fn program(hello: &mut pb::Hello) -> Result<Program, Malformed> {
    let software = std::mem::take(&mut hello.software);
    let is_seen = software.bytes().all(|byte| byte.is_ascii_graphic());
    if software.len() > MAX_SOFTWARE_BYTES || !is_seen {
        return Err(field("hello", "software", "is over 64 bytes, or not printable ASCII"));
    }
    Ok(Program {
        software,
        protocols: Protocols { lowest: hello.version_min, highest: hello.version_max },
        catalogue_format: hello.catalogue_format,
    })
}

pub(crate) fn return_request(after: Number) -> Frame {
    let Number { epoch, seq } = after;
    frame(Kind::ReturnRequest(pb::ReturnRequest { after_epoch: epoch, after_seq: seq }))
}

pub(crate) fn returned(page: Page) -> Frame {
    let statements = page
        .statements
        .into_iter()
        .map(|one| pb::ReturnedStatement { envelope: Some(one.envelope), cells: one.cells });
    frame(Kind::Returned(pb::Returned { statements: statements.collect(), last: page.last }))
}

pub(crate) fn statements(frame: pb::Returned) -> Result<Vec<Returned>, Malformed> {
    let statement = |one: pb::ReturnedStatement| {
        let envelope = one.envelope;
        let envelope =
            envelope.ok_or_else(|| field("returned", "statements", "lack a statement"))?;
        Ok(Returned { envelope, cells: one.cells })
    };
    frame.statements.into_iter().map(statement).collect()
}

pub(crate) fn delivery(departure: Departure) -> Frame {
    frame(Kind::Delivery(pb::Delivery {
        lane: lane_to_proto(departure.cursor.lane),
        link_epoch: departure.cursor.link_epoch,
        lane_seq: departure.cursor.lane_seq,
        after: departure.after,
        envelope: Some(departure.envelope),
        cells: departure.cells,
        evidence: departure.evidence.as_ref().map(Evidence::to_message),
    }))
}

pub(crate) fn arrival(delivery: pb::Delivery) -> Result<Arrival, Malformed> {
    let lane = lane_from_proto(delivery.lane, "delivery")?;
    if delivery.after >= delivery.lane_seq {
        return Err(field("delivery", "after", "is not below lane_seq"));
    }
    let envelope = delivery.envelope.ok_or_else(|| field("delivery", "envelope", "is missing"))?;
    let evidence = delivery.evidence.map(Evidence::of_message).transpose();
    Ok(Arrival {
        cursor: Cursor { lane, link_epoch: delivery.link_epoch, lane_seq: delivery.lane_seq },
        after: delivery.after,
        envelope,
        cells: delivery.cells,
        evidence: evidence.map_err(|_| field("delivery", "evidence", "has a broken hash"))?,
    })
}

pub(crate) fn acknowledgement(cursor: Cursor) -> Frame {
    frame(Kind::Acknowledgement(pb::Acknowledgement {
        lane: lane_to_proto(cursor.lane),
        link_epoch: cursor.link_epoch,
        lane_seq: cursor.lane_seq,
    }))
}

pub(crate) fn acknowledged(frame: &pb::Acknowledgement) -> Result<Cursor, Malformed> {
    let lane = lane_from_proto(frame.lane, "acknowledgement")?;
    Ok(Cursor { lane, link_epoch: frame.link_epoch, lane_seq: frame.lane_seq })
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

pub(crate) fn pull_request(pull_id: u64, question: Question) -> Frame {
    let (kind, payload_sha256) = match question.wanted {
        Wanted::Live => (SummaryKind::Unspecified, None),
        Wanted::Reported { payload_sha256 } => (SummaryKind::Reported, payload_sha256),
    };
    frame(Kind::PullRequest(pb::PullRequest {
        pull_id,
        period: question.period,
        deadline_ms: millis(question.deadline),
        max_age_ms: millis(question.max_age),
        depth: question.depth,
        traceparent: question.traceparent,
        kind: kind.into(),
        payload_sha256: payload_sha256.map(Vec::from).unwrap_or_default(),
    }))
}

pub(crate) fn question(request: pb::PullRequest) -> Result<Question, Malformed> {
    let wanted = match SummaryKind::try_from(request.kind) {
        Ok(SummaryKind::Unspecified | SummaryKind::Live) => Wanted::Live,
        Ok(SummaryKind::Reported) => Wanted::Reported {
            payload_sha256: match request.payload_sha256.as_slice() {
                [] => None,
                digest => Some(
                    digest
                        .try_into()
                        .map_err(|_| field("pull request", "payload_sha256", "has 32 bytes"))?,
                ),
            },
        },
        Err(_) => return Err(field("pull request", "kind", "is unknown")),
    };
    Ok(Question {
        wanted,
        period: request.period,
        deadline: Duration::from_millis(request.deadline_ms.into()),
        max_age: Duration::from_millis(request.max_age_ms.into()),
        depth: request.depth,
        traceparent: request.traceparent,
    })
}

pub(crate) fn pull_item(pull_id: u64, parcel: Parcel) -> Frame {
    let envelope = Some(parcel.envelope);
    frame(Kind::PullItem(pb::PullItem {
        pull_id,
        envelope,
        cells: parcel.cells,
        evidence: parcel.evidence.as_ref().map(Evidence::to_message),
    }))
}

pub(crate) fn parcel(item: pb::PullItem) -> Result<Parcel, Malformed> {
    let envelope = item.envelope.ok_or_else(|| field("pull item", "envelope", "is missing"))?;
    let evidence = item.evidence.map(Evidence::of_message).transpose();
    let evidence = evidence.map_err(|_| field("pull item", "evidence", "holds no hashes"))?;
    Ok(Parcel { envelope, cells: item.cells, evidence })
}

pub(crate) fn pull_end(pull_id: u64, outcome: Result<(), NoAnswer>) -> Frame {
    let reason = match outcome {
        Ok(()) => "",
        Err(NoAnswer::NoLink) => "no-link",
        Err(NoAnswer::Deadline) => "deadline",
        Err(NoAnswer::Refused) => "refused",
    };
    frame(Kind::PullEnd(pb::PullEnd { pull_id, reason: reason.to_owned() }))
}

pub(crate) fn pull_outcome(end: &pb::PullEnd) -> Result<(), NoAnswer> {
    match end.reason.as_str() {
        "" => Ok(()),
        "no-link" => Err(NoAnswer::NoLink),
        "deadline" => Err(NoAnswer::Deadline),
        _ => Err(NoAnswer::Refused),
    }
}

pub(crate) fn witnessing(said: Witnessing) -> Frame {
    let hashes = |hashes: Vec<[u8; 32]>| hashes.into_iter().map(Vec::from).collect();
    frame(match said {
        Witnessing::Held { size } => Kind::CheckpointHeld(pb::CheckpointHeld { size }),
        Witnessing::Offer(offer) => Kind::CheckpointOffer(pb::CheckpointOffer {
            checkpoint: offer.checkpoint,
            old_size: offer.old_size,
            consistency: hashes(offer.consistency),
            witnessed: offer.witnessed,
            witnessed_consistency: hashes(offer.witnessed_consistency),
            cosigners: offer.cosigners,
        }),
        Witnessing::Cosigned { checkpoint } => Kind::CheckpointVerdict(pb::CheckpointVerdict {
            cosigned: checkpoint,
            refused: String::new(),
        }),
        Witnessing::Refused { reason } => Kind::CheckpointVerdict(pb::CheckpointVerdict {
            cosigned: String::new(),
            refused: reason,
        }),
    })
}

pub(crate) fn offer(offer: pb::CheckpointOffer) -> Result<Witnessing, Malformed> {
    if offer.cosigners.len() > MAX_COSIGNERS {
        return Err(field("CheckpointOffer", "cosigners", "has more than 16"));
    }
    let hashes = |name, hashes: Vec<Vec<u8>>| {
        let hashes = hashes.into_iter().map(<[u8; 32]>::try_from).collect::<Result<_, _>>();
        hashes.map_err(|_| field("CheckpointOffer", name, "holds hashes of 32 bytes"))
    };
    Ok(Witnessing::Offer(Box::new(Offer {
        checkpoint: offer.checkpoint,
        old_size: offer.old_size,
        consistency: hashes("consistency", offer.consistency)?,
        witnessed: offer.witnessed,
        witnessed_consistency: hashes("witnessed_consistency", offer.witnessed_consistency)?,
        cosigners: offer.cosigners,
    })))
}

pub(crate) fn verdict(verdict: pb::CheckpointVerdict) -> Result<Witnessing, Malformed> {
    match (verdict.cosigned.is_empty(), verdict.refused.is_empty()) {
        (false, true) => Ok(Witnessing::Cosigned { checkpoint: verdict.cosigned }),
        (true, false) => {
            Ok(Witnessing::Refused { reason: verdict.refused.chars().take(64).collect() })
        }
        _ => Err(field("CheckpointVerdict", "cosigned", "or refused must be there, and not both")),
    }
}

pub(crate) fn acquainted(payload_sha256: [u8; 32]) -> Frame {
    frame(Kind::Acquainted(pb::Acquainted { payload_sha256: payload_sha256.to_vec() }))
}

pub(crate) fn acquaintance(frame: &pb::Acquainted) -> Result<[u8; 32], Malformed> {
    let digest = frame.payload_sha256.as_slice().try_into();
    digest.map_err(|_| field("Acquainted", "payload_sha256", "must have 32 bytes"))
}

pub(crate) fn pull_cancel(pull_id: u64) -> Frame {
    frame(Kind::PullCancel(pb::PullCancel { pull_id }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statement::Envelope;

    /// A UUID of version 7.
    const STATEMENT_ID: [u8; 16] = [1, 2, 3, 4, 5, 6, 0x70, 8, 0x80, 10, 11, 12, 13, 14, 15, 16];

    fn hello_frame() -> pb::Hello {
        pb::Hello {
            version_min: 1,
            version_max: 3,
            unit: "BOS-01".to_owned(),
            roster_sha256: vec![7; 32],
            addresses: vec!["10.1.2.3:7443".to_owned()],
            received: vec![pb::Cursor { lane: 1, link_epoch: 5, lane_seq: 9 }],
            revocations_sha256: vec![8; 32],
            epoch: 2,
            seen: Some(pb::Seen {
                epoch: 1,
                seq: 9,
                opening_sha256: vec![3; 32],
                statement_id: STATEMENT_ID.to_vec(),
                checkpoint: "a note".to_owned(),
                acknowledged: vec![pb::Cursor { lane: 2, link_epoch: 4, lane_seq: 8 }],
            }),
            opening: Some(pb::Opening {
                envelope: Some(Envelope::default()),
                checkpoint: "another".to_owned(),
            }),
            reached: Some(pb::Reached { seq: 3, journal_size: 70, stopped: true }),
            software: "another-node/7.1".to_owned(),
            catalogue_format: 4,
            ..pb::Hello::default()
        }
    }

    #[test]
    fn a_hello_survives_the_way_there_and_back() {
        let there = standing(hello_frame()).unwrap();
        let Some(Kind::Hello(back)) = hello(there).kind else { panic!("no hello") };
        assert_eq!(back, hello_frame());
    }

    #[test]
    fn a_hello_with_a_broken_field_names_the_field() {
        let unit = pb::Hello { unit: "../etc".to_owned(), ..hello_frame() };
        let roster = pb::Hello { roster_sha256: vec![7; 31], ..hello_frame() };
        let cursor = hello_frame().received[0];
        let twice = pb::Hello { received: vec![cursor, cursor], ..hello_frame() };
        let many = pb::Hello { received: vec![cursor; 17], ..hello_frame() };
        let lane = pb::Hello { received: vec![pb::Cursor { lane: 0, ..cursor }], ..hello_frame() };
        let long = pb::Hello { software: "n".repeat(65), ..hello_frame() };
        let seen = |seen| pb::Hello { seen: Some(seen), ..hello_frame() };
        let id = seen(pb::Seen { statement_id: vec![1; 16], ..pb::Seen::default() });
        let again = seen(pb::Seen { acknowledged: vec![cursor, cursor], ..pb::Seen::default() });
        let unseen = pb::Hello { software: "node\u{1b}[2J".to_owned(), ..hello_frame() };
        for (broken, name) in [
            (unit, "unit"),
            (roster, "roster_sha256"),
            (twice, "received"),
            (many, "received"),
            (lane, "lane"),
            (id, "seen"),
            (again, "seen"),
            (long, "software"),
            (unseen, "software"),
        ] {
            let problem = standing(broken).unwrap_err();
            assert!(
                matches!(problem, Malformed::Field { field, .. } if field == name),
                "{problem}"
            );
        }
    }

    #[test]
    fn a_delivery_must_have_a_lane_an_envelope_and_an_order() {
        let whole = pb::Delivery {
            lane: 3,
            link_epoch: 1,
            lane_seq: 2,
            after: 1,
            envelope: Some(Envelope::default()),
            cells: Vec::new(),
            evidence: None,
        };
        assert!(arrival(whole.clone()).is_ok());
        for broken in [
            pb::Delivery { lane: 0, ..whole.clone() },
            pb::Delivery { lane: 6, ..whole.clone() },
            pb::Delivery { after: 2, ..whole.clone() },
            pb::Delivery { lane_seq: 0, after: 0, ..whole.clone() },
            pb::Delivery { envelope: None, ..whole },
        ] {
            assert!(arrival(broken).is_err());
        }
    }

    #[test]
    fn bytes_that_are_no_frame_and_frames_too_large_are_refused() {
        assert_eq!(decode(Bytes::from_static(&[0xff; 9])), Err(Malformed::Unreadable));
        let bytes = vec![0; MAX_FRAME_BYTES + 1];
        assert_eq!(decode(bytes.into()), Err(Malformed::TooLarge));
    }
}
