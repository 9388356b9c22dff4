//! Bodies of `lianxi.notice.v1` and `lianxi.receipt.v1`.

use lianxi_proto::types::v1 as pb;
use prost::Message;

use super::{
    delegation::{level_from_proto, level_to_proto},
    header::Malformed,
};
use crate::domain::notice::{Notice, Receipt, Stage};

/// Maps a notice to the contract.
pub fn to_proto(notice: &Notice) -> pb::Notice {
    pb::Notice {
        number: notice.number.clone(),
        title: notice.title.clone(),
        text: notice.text.clone(),
        level: level_to_proto(notice.level).into(),
        duty_item: notice.duty_item.clone(),
        approval: notice.approval.clone(),
        due_unix_ms: notice.due_unix_ms,
        authority: notice.authority.clone(),
        people: notice.people.clone(),
        funds: notice.funds.clone(),
    }
}

/// Maps a notice from the contract, unchecked beyond its types.
///
/// # Errors
///
/// [`Malformed`] with the field.
pub fn from_proto(body: pb::Notice) -> Result<Notice, Malformed> {
    let level = level_from_proto(body.level)
        .ok_or_else(|| Malformed::new("body.level", "is none of the four levels"))?;
    Ok(Notice {
        number: body.number,
        title: body.title,
        text: body.text,
        level,
        duty_item: body.duty_item,
        approval: body.approval,
        due_unix_ms: body.due_unix_ms,
        authority: body.authority,
        people: body.people,
        funds: body.funds,
    })
}

/// Serialises the body.
pub fn encode_body(notice: &Notice) -> Vec<u8> {
    to_proto(notice).encode_to_vec()
}

/// Parses the body and checks what every notice must hold.
///
/// # Errors
///
/// [`Malformed`] with the field.
pub fn decode_body(bytes: &[u8]) -> Result<Notice, Malformed> {
    let body = pb::Notice::decode(bytes).map_err(|error| Malformed::new("body", error))?;
    let notice = from_proto(body)?;
    notice.check().map_err(|error| Malformed::new("body", error))?;
    Ok(notice)
}

/// Maps a stage to the contract.
pub fn stage_to_proto(stage: Stage) -> pb::ReceiptStage {
    match stage {
        Stage::Durable => pb::ReceiptStage::Durable,
        Stage::Validated => pb::ReceiptStage::Validated,
        Stage::Seen => pb::ReceiptStage::Seen,
        Stage::Done => pb::ReceiptStage::Done,
        Stage::Refused => pb::ReceiptStage::Refused,
    }
}

/// Maps a stage from the contract; `None` for an unset or unknown one.
pub fn stage_from_proto(stage: pb::ReceiptStage) -> Option<Stage> {
    match stage {
        pb::ReceiptStage::Unspecified => None,
        pb::ReceiptStage::Durable => Some(Stage::Durable),
        pb::ReceiptStage::Validated => Some(Stage::Validated),
        pb::ReceiptStage::Seen => Some(Stage::Seen),
        pb::ReceiptStage::Done => Some(Stage::Done),
        pb::ReceiptStage::Refused => Some(Stage::Refused),
    }
}

/// Serialises a receipt.
pub fn encode_receipt(receipt: &Receipt) -> Vec<u8> {
    pb::Receipt {
        notice_id: receipt.notice_id.to_vec(),
        stage: stage_to_proto(receipt.stage).into(),
        reason: receipt.reason.clone(),
        note: receipt.note.clone(),
    }
    .encode_to_vec()
}

/// Parses a receipt.
///
/// # Errors
///
/// [`Malformed`] with the field.
pub fn decode_receipt(bytes: &[u8]) -> Result<Receipt, Malformed> {
    let body = pb::Receipt::decode(bytes).map_err(|error| Malformed::new("body", error))?;
    let stage = stage_from_proto(body.stage())
        .ok_or_else(|| Malformed::new("body.stage", "is no stage of a receipt"))?;
    let notice_id = body
        .notice_id
        .as_slice()
        .try_into()
        .map_err(|_| Malformed::new("body.notice_id", "has 16 bytes"))?;
    if body.reason.len() > 64 {
        return Err(Malformed::new("body.reason", "has at most 64 bytes"));
    }
    if body.note.len() > 1_024 {
        return Err(Malformed::new("body.note", "has at most 1,024 bytes"));
    }
    Ok(Receipt { notice_id, stage, reason: body.reason, note: body.note })
}
