//! Bodies of `lianxi.escalation.v1` and `lianxi.escalation-event.v1`.

use std::time::Duration;

use lianxi_proto::types::v1 as pb;
use prost::Message;

use super::header::Malformed;
use crate::domain::{
    escalation::{Escalation, Kind, Step},
    unit::DeskId,
};

/// One step of a case on its way to the other side.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EventBody {
    /// Header id of the escalation.
    pub escalation_id: [u8; 16],
    /// The step.
    pub step: Step,
    /// Desk that takes it.
    pub desk: Option<DeskId>,
    /// What it says.
    pub note: String,
}

/// Maps an escalation to the contract.
pub fn to_proto(escalation: &Escalation) -> pb::Escalation {
    pb::Escalation {
        number: escalation.number.clone(),
        kind: kind_to_proto(escalation.kind).into(),
        title: escalation.title.clone(),
        text: escalation.text.clone(),
        lead_desk: escalation.lead_desk.to_string(),
        co_desks: escalation.co_desks.iter().map(DeskId::to_string).collect(),
        answer_within_ms: millis(escalation.answer_within),
        arrive_within_ms: millis(escalation.arrive_within),
        approved_by: escalation.approved_by.clone(),
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Maps an escalation from the contract, unchecked beyond its types. Unset limits become zero.
///
/// # Errors
///
/// [`Malformed`] with the field.
pub fn from_proto(body: pb::Escalation) -> Result<Escalation, Malformed> {
    let kind = kind_from_proto(body.kind())
        .ok_or_else(|| Malformed::new("body.kind", "is no kind of escalation"))?;
    let lead_desk = desk("body.lead_desk", &body.lead_desk)?;
    let co_desks = body.co_desks.iter().map(|text| desk("body.co_desks", text));
    let co_desks = co_desks.collect::<Result<Vec<_>, _>>()?;
    if co_desks.len() > 16 {
        return Err(Malformed::new("body.co_desks", "holds at most 16 desks"));
    }
    Ok(Escalation {
        number: body.number,
        kind,
        title: body.title,
        text: body.text,
        lead_desk,
        co_desks,
        answer_within: limit("body.answer_within_ms", body.answer_within_ms)?,
        arrive_within: limit("body.arrive_within_ms", body.arrive_within_ms)?,
        approved_by: body.approved_by,
    })
}

fn desk(field: &str, text: &str) -> Result<DeskId, Malformed> {
    text.parse().map_err(|_| Malformed::new(field, "is no id of a desk"))
}

fn limit(field: &str, millis: i64) -> Result<Duration, Malformed> {
    u64::try_from(millis)
        .map(Duration::from_millis)
        .map_err(|_| Malformed::new(field, "is below zero"))
}

/// Serialises the body.
pub fn encode_body(escalation: &Escalation) -> Vec<u8> {
    to_proto(escalation).encode_to_vec()
}

/// Parses the body and checks what every escalation must hold.
///
/// # Errors
///
/// [`Malformed`] with the field.
pub fn decode_body(bytes: &[u8]) -> Result<Escalation, Malformed> {
    let body = pb::Escalation::decode(bytes).map_err(|error| Malformed::new("body", error))?;
    let escalation = from_proto(body)?;
    escalation.check().map_err(|error| Malformed::new("body", error))?;
    Ok(escalation)
}

/// Maps a kind to the contract.
pub fn kind_to_proto(kind: Kind) -> pb::EscalationKind {
    match kind {
        Kind::Routine => pb::EscalationKind::Routine,
        Kind::Hard => pb::EscalationKind::Hard,
        Kind::Emergency => pb::EscalationKind::Emergency,
    }
}

/// Maps a kind from the contract; `None` for an unset or unknown one.
pub fn kind_from_proto(kind: pb::EscalationKind) -> Option<Kind> {
    match kind {
        pb::EscalationKind::Unspecified => None,
        pb::EscalationKind::Routine => Some(Kind::Routine),
        pb::EscalationKind::Hard => Some(Kind::Hard),
        pb::EscalationKind::Emergency => Some(Kind::Emergency),
    }
}

/// Maps a step to the contract.
pub fn step_to_proto(step: Step) -> pb::EscalationStep {
    match step {
        Step::Routed => pb::EscalationStep::Routed,
        Step::Answered => pb::EscalationStep::Answered,
        Step::Arrived => pb::EscalationStep::Arrived,
        Step::Handled => pb::EscalationStep::Handled,
        Step::Closed => pb::EscalationStep::Closed,
        Step::Withdrawn => pb::EscalationStep::Withdrawn,
        Step::Returned => pb::EscalationStep::Returned,
    }
}

/// Maps a step from the contract; `None` for an unset or unknown one.
pub fn step_from_proto(step: pb::EscalationStep) -> Option<Step> {
    match step {
        pb::EscalationStep::Unspecified => None,
        pb::EscalationStep::Routed => Some(Step::Routed),
        pb::EscalationStep::Answered => Some(Step::Answered),
        pb::EscalationStep::Arrived => Some(Step::Arrived),
        pb::EscalationStep::Handled => Some(Step::Handled),
        pb::EscalationStep::Closed => Some(Step::Closed),
        pb::EscalationStep::Withdrawn => Some(Step::Withdrawn),
        pb::EscalationStep::Returned => Some(Step::Returned),
    }
}

/// Serialises a step.
pub fn encode_event(event: &EventBody) -> Vec<u8> {
    pb::EscalationEvent {
        escalation_id: event.escalation_id.to_vec(),
        step: step_to_proto(event.step).into(),
        desk: event.desk.as_ref().map(DeskId::to_string).unwrap_or_default(),
        note: event.note.clone(),
    }
    .encode_to_vec()
}

/// Parses a step.
///
/// # Errors
///
/// [`Malformed`] with the field.
pub fn decode_event(bytes: &[u8]) -> Result<EventBody, Malformed> {
    let body = pb::EscalationEvent::decode(bytes).map_err(|error| Malformed::new("body", error))?;
    let step = step_from_proto(body.step())
        .ok_or_else(|| Malformed::new("body.step", "is no step of an escalation"))?;
    let escalation_id = body
        .escalation_id
        .as_slice()
        .try_into()
        .map_err(|_| Malformed::new("body.escalation_id", "has 16 bytes"))?;
    if body.note.len() > 1_024 {
        return Err(Malformed::new("body.note", "has at most 1,024 bytes"));
    }
    let desk = match body.desk.as_str() {
        "" => None,
        text => Some(desk("body.desk", text)?),
    };
    Ok(EventBody { escalation_id, step, desk, note: body.note })
}
