//! Statements that were refused: here, or by a peer that sent its signed reason back.
//!
//! A refused statement never stops its lane. Its envelope is kept as it came, unless it is larger
//! than any envelope may be: of such a one only the digest is kept.

use serde::{Deserialize, Serialize};

use super::{
    exchange::Lane,
    intake::{Arrived, Plan, Refused, Reply, Undecided},
    unit::{Draft, Unit, encode_envelope},
};
use crate::{
    clock::UnixMillis,
    domain::{
        journal::{Leaf, Refusal},
        unit::UnitCode,
    },
    statement::{
        Envelope,
        header::{self, StatementId, kinds},
        rejection::{self, Rejection},
    },
    store::{self, Store, Table, format},
};

const FORMAT: u8 = 1;

/// Longest detail: it can quote what came, and goes back in a statement.
const MAX_DETAIL_CHARS: usize = 256;

/// A refused statement.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Entry {
    /// Peer that sent it, or that refused it.
    pub peer: UnitCode,
    /// True: this unit refused it.
    pub refused_here: bool,
    /// Source that it claims, as far as it could be read.
    pub claimed_source: String,
    /// Type that it claims.
    pub claimed_kind: String,
    /// Fixed word of the contract.
    pub reason: String,
    /// Field at fault, or empty.
    pub field: String,
    /// One sentence.
    pub detail: String,
    /// When, this unit's clock.
    pub time_unix_ms: UnixMillis,
    /// Digest of the payload, hex.
    pub payload_sha256: String,
}

/// What is claimed by a payload whose signature does not hold. Never believed.
struct Claim {
    source: String,
    kind: String,
    id: Option<StatementId>,
}

fn claim(envelope: &Envelope) -> Claim {
    match header::decode(&envelope.payload) {
        Ok(statement) => Claim {
            source: statement.header.source.to_string(),
            kind: statement.header.kind.chars().take(64).collect(),
            id: Some(statement.header.id),
        },
        Err(_) => Claim { source: String::new(), kind: String::new(), id: None },
    }
}

/// Plans the quarantine of a statement and the signed reason to its sender.
pub fn refuse(
    unit: &Unit,
    peer: &UnitCode,
    envelope: &Envelope,
    refused: &Refused,
) -> Result<Plan, store::Error> {
    let payload_sha256 = lianxi_proto::envelope::payload_sha256(envelope);
    let claim = claim(envelope);
    let entry = Entry {
        peer: peer.clone(),
        refused_here: true,
        claimed_source: claim.source,
        claimed_kind: claim.kind,
        reason: refused.reason.to_owned(),
        field: refused.field.clone(),
        detail: refused.detail.chars().take(MAX_DETAIL_CHARS).collect(),
        time_unix_ms: unit.clock.now_unix_ms(),
        payload_sha256: hex::encode(payload_sha256),
    };
    tracing::warn!(
        unit = %unit.code, %peer, reason = refused.reason, field = %refused.field,
        claimed_source = %entry.claimed_source, claimed_kind = %entry.claimed_kind,
        payload_sha256 = %entry.payload_sha256, "statement refused"
    );
    unit.metrics.statement_quarantined(refused.reason);
    let mut plan = Plan::default();
    plan.writes.push(row(&entry, &payload_sha256));
    let source = entry.claimed_source.parse().ok();
    plan.leaves.push(Leaf::StatementRefused(Refusal {
        header: claim
            .id
            .zip(source)
            .map(|(id, source)| (*id.as_bytes(), entry.claimed_kind.clone(), source)),
        payload_sha256,
        peer: peer.clone(),
        reason: refused.reason.to_owned(),
    }));
    let bytes = encode_envelope(envelope);
    if bytes.len() <= store::MAX_VALUE_BYTES {
        let mut key = b"envelope/".to_vec();
        key.extend_from_slice(&payload_sha256);
        plan.writes.push((Table::Quarantine, key, bytes));
    }
    // A rejection of a rejection could go back and forth for ever.
    if entry.claimed_kind != kinds::REJECTION {
        let rejection = Rejection {
            payload_sha256,
            statement_id: claim.id.map(|id| *id.as_bytes()),
            reason: refused.reason.to_owned(),
            field: refused.field.clone(),
            detail: entry.detail.clone(),
        };
        let mut draft =
            Draft::new(kinds::REJECTION, entry.claimed_source, rejection::encode_body(&rejection));
        draft.destination = Some(peer.clone());
        plan.replies.push(Reply { draft, to: peer.clone(), lane: Lane::Summary });
    }
    Ok(plan)
}

fn row(entry: &Entry, payload_sha256: &[u8; 32]) -> (Table, Vec<u8>, Vec<u8>) {
    let mut key = b"entry/".to_vec();
    key.extend_from_slice(&entry.time_unix_ms.to_be_bytes());
    key.extend_from_slice(&payload_sha256[..8]);
    (Table::Quarantine, key, format::write(FORMAT, entry))
}

/// Takes in the signed reason of a peer that refused a statement of this unit.
///
/// # Errors
///
/// [`Undecided::Refused`] if it is malformed or not the peer's own.
pub fn take_rejection(unit: &Unit, arrived: &Arrived) -> Result<Plan, Undecided> {
    if arrived.source() != &arrived.peer {
        let detail = "a rejection goes over one link, from its source";
        return Err(Refused::new("wrong-source", "header.source", detail).into());
    }
    let rejection = rejection::decode_body(&arrived.statement.body)?;
    tracing::warn!(
        unit = %unit.code, peer = %arrived.peer, reason = %rejection.reason,
        field = %rejection.field, "peer refused a statement"
    );
    let entry = Entry {
        peer: arrived.peer.clone(),
        refused_here: false,
        claimed_source: arrived.statement.header.subject.clone(),
        claimed_kind: String::new(),
        reason: rejection.reason,
        field: rejection.field,
        detail: rejection.detail,
        time_unix_ms: unit.clock.now_unix_ms(),
        payload_sha256: hex::encode(rejection.payload_sha256),
    };
    let mut plan = Plan::default();
    plan.writes.push(row(&entry, &rejection.payload_sha256));
    Ok(plan)
}

/// Lists the newest refused statements of a unit, the oldest of them first.
///
/// # Errors
///
/// The store's.
pub async fn list(store: &dyn Store, unit: &UnitCode) -> Result<Vec<Entry>, store::Error> {
    let mut entries = Vec::new();
    let mut after = None::<Vec<u8>>;
    loop {
        let rows = store.scan(unit, Table::Quarantine, b"entry/", after.as_deref(), 1_000).await?;
        for (_, value) in &rows {
            entries.push(format::read(FORMAT, value)?);
        }
        match rows.last() {
            Some((key, _)) if rows.len() == 1_000 => after = Some(key.clone()),
            _ => return Ok(entries),
        }
    }
}
