//! What of `NodeService` is about refused statements.

use std::sync::Arc;

use lianxi_proto::admin::v1 as pb;
use tonic::{Response, Status};

use super::status::{to_status, unit};
use crate::{
    domain::journal::Actor,
    services::{
        host::Units,
        quarantine::{self, Entry, Order, Outcome, PAGE, Settled, Verb},
    },
};

fn shown(entry: Entry) -> pb::QuarantinedStatement {
    pb::QuarantinedStatement {
        id: entry.id(),
        peer: entry.peer.to_string(),
        refused_here: entry.refused_here,
        claimed_source: entry.claimed_source,
        claimed_type: entry.claimed_kind,
        reason: entry.reason,
        field: entry.field,
        detail: entry.detail,
        time_unix_ms: entry.time_unix_ms,
        payload_sha256: hex::decode(entry.payload_sha256).unwrap_or_default(),
        subject: entry.subject,
        statement_id: hex::decode(entry.statement_id).unwrap_or_default(),
        size_bytes: entry.size_bytes,
        tries: entry.tries,
        asked: entry.asked,
    }
}

fn outcome(Settled { id, outcome }: Settled) -> pb::QuarantineOutcome {
    let word = |word: &str| pb::QuarantineOutcome {
        id: id.clone(),
        outcome: word.to_owned(),
        ..pb::QuarantineOutcome::default()
    };
    match outcome {
        Outcome::TakenIn => word("taken-in"),
        Outcome::Asked => word("asked"),
        Outcome::SentAgain => word("sent-again"),
        Outcome::Discarded => word("discarded"),
        Outcome::Cannot(detail) => {
            pb::QuarantineOutcome { detail: detail.to_owned(), ..word("cannot") }
        }
        Outcome::StillRefused(refused) => pb::QuarantineOutcome {
            reason: refused.reason.to_owned(),
            field: refused.field,
            detail: refused.detail,
            ..word("still-refused")
        },
    }
}

/// A page of what waits, or one of it.
pub(super) async fn list(
    units: &Arc<Units>,
    request: pb::QuarantineRequest,
) -> Result<pb::QuarantineResponse, Status> {
    let hosted = units.find(&unit(&request.unit)?).map_err(to_status)?;
    let (store, own) = (hosted.unit.store.as_ref(), &hosted.unit.code);
    if !request.id.is_empty() {
        let found = quarantine::find(store, own, &request.id).await.map_err(to_status)?;
        let found = found.ok_or_else(|| to_status(quarantine::Error::NotFound(request.id)))?;
        return Ok(pb::QuarantineResponse { statements: vec![shown(found)], next: String::new() });
    }
    let limit = match usize::try_from(request.limit) {
        Ok(0) => PAGE,
        Ok(limit) if limit <= PAGE => limit,
        Ok(_) | Err(_) => {
            return Err(Status::invalid_argument("a page has at most 1,000 statements"));
        }
    };
    let after = Some(request.after.as_str()).filter(|after| !after.is_empty());
    let page = quarantine::page(store, own, after, limit).await.map_err(to_status)?;
    let next = page.last().filter(|_| page.len() == limit).map(Entry::id).unwrap_or_default();
    let statements = page.into_iter().map(shown).collect();
    Ok(pb::QuarantineResponse { statements, next })
}

/// Carries an order out.
pub(super) async fn settle(
    units: &Arc<Units>,
    verb: Verb,
    by: Actor,
    request: pb::SettleQuarantinedRequest,
) -> Result<Response<pb::SettleQuarantinedResponse>, Status> {
    let hosted = units.find(&unit(&request.unit)?).map_err(to_status)?;
    let order = Order { verb, ids: request.ids, text: request.text, dry_run: request.dry_run, by };
    let settled = quarantine::settle(&hosted, &order).await.map_err(to_status)?;
    let outcomes = settled.into_iter().map(outcome).collect();
    Ok(Response::new(pb::SettleQuarantinedResponse { outcomes }))
}
