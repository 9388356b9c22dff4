//! An open item that goes to a successor, as a step of a reform carries it.
//!
//! Promises that what was decoded is within bounds. Whether the item is the sender's to hand over is
//! decided where it is taken in.

use lianxi_proto::types::v1 as pb;

use super::{
    Envelope,
    escalation::{step_from_proto, step_to_proto},
    header::{Malformed, unit_at},
    notice::{stage_from_proto, stage_to_proto},
    sealed::{SealedKey, decode_key, encode_key},
};
use crate::{
    clock::UnixMillis,
    domain::{
        escalation::Taken,
        notice::Stage,
        unit::{DeskId, UnitCode},
    },
};

/// Most receipts of one step: each has a note of up to 1 KiB.
pub const MAX_RECEIPTS: usize = 16;

/// Most desks, steps or keys of one item.
const MAX_LIST: usize = 256;

/// Longest note.
const MAX_NOTE_BYTES: usize = 1_024;

/// Longest fixed word of a refusal.
const MAX_REASON_BYTES: usize = 64;

/// Stage of a notice at one unit.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HandedReceipt {
    /// The unit.
    pub unit: UnitCode,
    /// Its furthest stage.
    pub stage: Stage,
    /// Rule that refused it.
    pub reason: String,
    /// What was done.
    pub note: String,
    /// The signer's clock.
    pub time_unix_ms: UnixMillis,
}

/// An open item with where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Handed {
    /// The notice or whistle, as it was signed.
    pub statement: Envelope,
    /// Of a notice: stages as known at the unit.
    pub receipts: Vec<HandedReceipt>,
    /// Of a whistle: desks that were called later.
    pub added: Vec<DeskId>,
    /// Of a whistle: desks that act no more, each with the one in its place.
    pub succeeded: Vec<(DeskId, DeskId)>,
    /// Of a whistle: its steps.
    pub taken: Vec<Taken>,
    /// Keys that were given to the unit later.
    pub given: Vec<SealedKey>,
}

pub(super) fn handed_to_proto(handed: &Handed) -> pb::ReformHanded {
    let receipt = |receipt: &HandedReceipt| pb::ReformReceipt {
        unit: receipt.unit.to_string(),
        stage: stage_to_proto(receipt.stage).into(),
        reason: receipt.reason.clone(),
        note: receipt.note.clone(),
        time_unix_ms: receipt.time_unix_ms,
    };
    let taken = |taken: &Taken| pb::ReformTaken {
        step: step_to_proto(taken.step).into(),
        unit: taken.unit.to_string(),
        desk: taken.desk.as_ref().map(ToString::to_string).unwrap_or_default(),
        note: taken.note.clone(),
        time_unix_ms: taken.time_unix_ms,
    };
    let succeeded = handed.succeeded.iter().map(|(former, successor)| pb::ReformSucceeded {
        former: former.to_string(),
        successor: successor.to_string(),
    });
    pb::ReformHanded {
        statement: Some(handed.statement.clone()),
        receipts: handed.receipts.iter().map(receipt).collect(),
        added_desks: handed.added.iter().map(ToString::to_string).collect(),
        succeeded: succeeded.collect(),
        taken: handed.taken.iter().map(taken).collect(),
        given_keys: handed.given.iter().map(encode_key).collect(),
    }
}

pub(super) fn handed_from_proto(message: pb::ReformHanded) -> Result<Handed, Malformed> {
    for (field, length, limit) in [
        ("body.handed.receipts", message.receipts.len(), MAX_RECEIPTS),
        ("body.handed.added_desks", message.added_desks.len(), MAX_LIST),
        ("body.handed.succeeded", message.succeeded.len(), MAX_LIST),
        ("body.handed.taken", message.taken.len(), MAX_LIST),
        ("body.handed.given_keys", message.given_keys.len(), MAX_LIST),
    ] {
        if length > limit {
            return Err(Malformed::new(field, format_args!("{length} are over {limit}")));
        }
    }
    let statement = message.statement;
    let statement =
        statement.ok_or_else(|| Malformed::new("body.handed.statement", "is missing"))?;
    let succeeded = |one: pb::ReformSucceeded| {
        let field = "body.handed.succeeded";
        Ok((desk(field, &one.former)?, desk(field, &one.successor)?))
    };
    Ok(Handed {
        statement,
        receipts: message.receipts.into_iter().map(receipt).collect::<Result<_, _>>()?,
        added: message
            .added_desks
            .iter()
            .map(|one| desk("body.handed.added_desks", one))
            .collect::<Result<_, _>>()?,
        succeeded: message.succeeded.into_iter().map(succeeded).collect::<Result<_, _>>()?,
        taken: message.taken.into_iter().map(taken).collect::<Result<_, _>>()?,
        given: message.given_keys.iter().map(|key| decode_key(key)).collect::<Result<_, _>>()?,
    })
}

fn receipt(message: pb::ReformReceipt) -> Result<HandedReceipt, Malformed> {
    let stage = stage_from_proto(message.stage());
    let stage = stage.ok_or_else(|| Malformed::new("body.handed.receipts.stage", "is no stage"))?;
    let unit = unit_at("body.handed.receipts.unit", &message.unit)?;
    let note = bounded("body.handed.receipts.note", message.note, MAX_NOTE_BYTES)?;
    let reason = bounded("body.handed.receipts.reason", message.reason, MAX_REASON_BYTES)?;
    Ok(HandedReceipt { unit, stage, reason, note, time_unix_ms: message.time_unix_ms })
}

fn taken(message: pb::ReformTaken) -> Result<Taken, Malformed> {
    let step = step_from_proto(message.step());
    let desk = match message.desk.as_str() {
        "" => None,
        text => Some(desk("body.handed.taken.desk", text)?),
    };
    Ok(Taken {
        step: step.ok_or_else(|| Malformed::new("body.handed.taken.step", "is no step"))?,
        unit: unit_at("body.handed.taken.unit", &message.unit)?,
        desk,
        note: bounded("body.handed.taken.note", message.note, MAX_NOTE_BYTES)?,
        time_unix_ms: message.time_unix_ms,
    })
}

fn desk(field: &str, text: &str) -> Result<DeskId, Malformed> {
    text.parse().map_err(|_| Malformed::new(field, "is no id of a desk"))
}

fn bounded(field: &str, text: String, limit: usize) -> Result<String, Malformed> {
    if text.len() > limit {
        return Err(Malformed::new(field, format_args!("{} bytes are over {limit}", text.len())));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::escalation::Step;

    fn item() -> Handed {
        Handed {
            statement: Envelope::default(),
            receipts: vec![HandedReceipt {
                unit: "C-1-1-1".parse().unwrap(),
                stage: Stage::Seen,
                reason: String::new(),
                note: "on it".to_owned(),
                time_unix_ms: 7,
            }],
            added: vec!["GAS".parse().unwrap()],
            succeeded: vec![("GAS".parse().unwrap(), "WATER".parse().unwrap())],
            taken: vec![Taken {
                step: Step::Routed,
                unit: "C-1".parse().unwrap(),
                desk: None,
                note: String::new(),
                time_unix_ms: 8,
            }],
            given: Vec::new(),
        }
    }

    fn fault(change: impl FnOnce(&mut pb::ReformHanded)) -> String {
        let mut message = handed_to_proto(&item());
        change(&mut message);
        handed_from_proto(message).unwrap_err().field
    }

    #[test]
    fn an_item_comes_back_and_each_field_is_checked_by_name() {
        assert_eq!(handed_from_proto(handed_to_proto(&item())).unwrap(), item());
        assert_eq!(fault(|one| one.statement = None), "body.handed.statement");
        assert_eq!(fault(|one| one.receipts[0].unit.clear()), "body.handed.receipts.unit");
        assert_eq!(fault(|one| one.receipts[0].stage = 0), "body.handed.receipts.stage");
        let long = "x".repeat(2_000);
        assert_eq!(fault(|one| one.receipts[0].note = long), "body.handed.receipts.note");
        assert_eq!(fault(|one| one.added_desks[0].clear()), "body.handed.added_desks");
        assert_eq!(fault(|one| one.succeeded[0].former.clear()), "body.handed.succeeded");
        assert_eq!(fault(|one| one.taken[0].step = 0), "body.handed.taken.step");
        assert_eq!(fault(|one| one.taken[0].desk = " ".to_owned()), "body.handed.taken.desk");
        let many = vec![pb::ReformReceipt::default(); MAX_RECEIPTS + 1];
        assert_eq!(fault(|one| one.receipts = many), "body.handed.receipts");
    }
}
