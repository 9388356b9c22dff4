//! Epochs on the local socket, for [`NodeHandler`](super::nodes::NodeHandler).

use lianxi_proto::admin::v1 as pb;
use tonic::Status;

use super::{
    access::Caller,
    status::{to_status, unit},
};
use crate::{
    domain::{epoch::Reason, unit::UnitCode},
    services::{
        epochs::{EpochRow, Order},
        host::Units,
    },
};

/// Opens an epoch for each unit that is named, or for all.
pub(super) async fn open(
    units: &Units,
    caller: Caller,
    request: pb::OpenEpochRequest,
) -> Result<pb::OpenEpochResponse, Status> {
    let order = Order {
        reason: Reason::Restore,
        approvers: approvers(&caller, request.approved_by),
        text: request.text,
        by: caller.actor,
        dry_run: request.dry_run,
    };
    let mut hosted = Vec::new();
    for code in &request.units {
        hosted.push(units.find(&unit(code)?).map_err(to_status)?);
    }
    if hosted.is_empty() {
        hosted = units.all();
    }
    // From the bottom up: a unit sends nothing to a parent that stands still, and its parent here may
    // have forgotten its numbers with it.
    hosted.sort_by_key(|one| std::cmp::Reverse(one.unit.level));
    let mut epochs = Vec::new();
    for one in hosted {
        let opened = one.epochs.begin(order.clone()).await.map_err(to_status)?;
        epochs.push(message(&one.unit.code, &opened));
    }
    Ok(pb::OpenEpochResponse { epochs })
}

/// Where the host has accounts they approve; elsewhere whoever is named.
pub(super) fn approvers(caller: &Caller, named: Vec<String>) -> Vec<String> {
    match (&caller.identity, &caller.confirmed_by) {
        (Some(identity), Some(second)) => vec![identity.name.to_string(), second.to_string()],
        (Some(identity), None) => vec![identity.name.to_string()],
        (None, _) => named,
    }
}

/// Epochs that a unit and its peers opened.
pub(super) async fn list(
    units: &Units,
    request: pb::EpochsRequest,
) -> Result<pb::EpochsResponse, Status> {
    let hosted = units.find(&unit(&request.unit)?).map_err(to_status)?;
    let epochs = hosted.epochs.list().await.map_err(to_status)?;
    let epochs = epochs.iter().map(|row| message(&hosted.unit.code, row)).collect();
    Ok(pb::EpochsResponse { epochs })
}

fn message(by: &UnitCode, row: &EpochRow) -> pb::Epoch {
    let lost = row.lost();
    pb::Epoch {
        unit: row.unit.to_string(),
        epoch: row.epoch,
        reason: row.reason.clone(),
        approvers: row.approvers.clone(),
        text: row.text.clone(),
        opened_unix_ms: row.opened_unix_ms,
        seen_by: by.to_string(),
        lost_after_epoch: lost.after.epoch,
        lost_after_seq: lost.after.seq,
        lost_to_epoch: lost.to.epoch,
        lost_to_seq: lost.to.seq,
        lost_statements: lost.statements(),
        lost_leaves_from: lost.journal_from,
        lost_leaves_to: lost.journal_to,
        lost_after_unix_ms: row.lost_after_unix_ms,
        lost_until_unix_ms: row.lost_until_unix_ms,
        withdrawn: row.withdrawn.clone(),
        returned: row.returned,
        sent_again: row.again,
        not_kept: row.gone,
    }
}
