//! Body of `lianxi.epoch.v1`.

use lianxi_proto::types::v1 as pb;
use prost::Message;

use super::{delegation::text, header::Malformed};
use crate::domain::epoch::{Number, Opening, Reason, check_approvers};

/// Serialises the body.
pub fn encode_body(opening: &Opening) -> Vec<u8> {
    let reason = match opening.reason {
        Reason::Restore => pb::EpochReason::Restore,
        Reason::Move => pb::EpochReason::Move,
    };
    pb::EpochOpening {
        trust_domain: opening.trust_domain.clone(),
        unit: opening.unit.to_string(),
        epoch: opening.epoch,
        reason: reason.into(),
        left_epoch: opening.left.epoch,
        left_seq: opening.left.seq,
        journal_size: opening.journal_size,
        checkpoint: opening.checkpoint.clone(),
        seen_checkpoint: opening.seen_checkpoint.clone(),
        approvers: opening.approvers.clone(),
        text: opening.text.clone(),
    }
    .encode_to_vec()
}

/// Parses the body. Checkpoints are not verified.
///
/// # Errors
///
/// [`Malformed`] with the field; two approvers are part of the form.
pub fn decode_body(bytes: &[u8]) -> Result<Opening, Malformed> {
    let body = pb::EpochOpening::decode(bytes).map_err(|error| Malformed::new("body", error))?;
    let reason = match pb::EpochReason::try_from(body.reason) {
        Ok(pb::EpochReason::Restore) => Reason::Restore,
        Ok(pb::EpochReason::Move) => Reason::Move,
        Ok(pb::EpochReason::Unspecified) | Err(_) => {
            return Err(Malformed::new("body.reason", "must be RESTORE or MOVE"));
        }
    };
    check_approvers(&body.approvers).map_err(|error| Malformed::new("body.approvers", error))?;
    let left = Number { epoch: body.left_epoch, seq: body.left_seq };
    if body.epoch <= left.epoch {
        return Err(Malformed::new("body.epoch", "is not above the epoch that was left"));
    }
    Ok(Opening {
        trust_domain: body.trust_domain,
        unit: body.unit.parse().map_err(|error| Malformed::new("body.unit", error))?,
        epoch: body.epoch,
        reason,
        left,
        journal_size: body.journal_size,
        checkpoint: body.checkpoint,
        seen_checkpoint: body.seen_checkpoint,
        approvers: body.approvers,
        text: text("body.text", body.text)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opening() -> Opening {
        Opening {
            trust_domain: "boston.example".to_owned(),
            unit: "BOS-01".parse().unwrap(),
            epoch: 2,
            reason: Reason::Restore,
            left: Number { epoch: 1, seq: 40 },
            journal_size: 90,
            checkpoint: "a note".to_owned(),
            seen_checkpoint: String::new(),
            approvers: vec!["li".to_owned(), "wang".to_owned()],
            text: "disk failed".to_owned(),
        }
    }

    fn refused(change: impl FnOnce(&mut pb::EpochOpening)) -> String {
        let mut body = pb::EpochOpening::decode(encode_body(&opening()).as_slice()).unwrap();
        change(&mut body);
        decode_body(&body.encode_to_vec()).unwrap_err().field
    }

    #[test]
    fn an_opening_comes_back_as_it_was_made() {
        assert_eq!(decode_body(&encode_body(&opening())).unwrap(), opening());
    }

    #[test]
    fn one_approver_no_reason_or_no_higher_epoch_is_no_opening() {
        assert_eq!(refused(|body| body.approvers.truncate(1)), "body.approvers");
        assert_eq!(refused(|body| body.approvers[1] = "li".to_owned()), "body.approvers");
        assert_eq!(refused(|body| body.reason = 0), "body.reason");
        assert_eq!(refused(|body| body.epoch = 1), "body.epoch");
        assert_eq!(refused(|body| body.unit.clear()), "body.unit");
        assert_eq!(refused(|body| body.text = "a\nb".to_owned()), "body.text");
    }
}
