//! Statements that were refused: here, or by a peer that sent its signed reason back.
//!
//! A refused statement never stops its lane. It waits as it came, with what came beside it, until
//! somebody settles it: it is judged again, its sender is asked for another, or it is thrown away. What
//! is settled is gone from here and stands in the journal. Promises a bound for each neighbour and for
//! all; past it a refusal is still signed, told and journalled, and only the statement is not kept.

mod settle;

use serde::{Deserialize, Serialize};

pub use self::settle::{Error, Order, Outcome, Settled, Verb, settle};
use super::{
    exchange::Lane,
    intake::{Arrived, Plan, Refused, Reply, Undecided},
    unit::{Draft, Unit, decode_envelope},
};
use crate::{
    clock::UnixMillis,
    domain::{
        journal::{Leaf, Refusal},
        quarantine::{Ledger, WARNING_PERCENT},
        unit::UnitCode,
    },
    statement::{
        Envelope,
        header::{self, StatementId, kinds},
        rejection::{self, Rejection, later},
    },
    store::{self, Batch, Store, Table, format},
};

const FORMAT: u8 = 1;

/// Longest detail: it can quote what came, and goes back in a statement.
const MAX_DETAIL_CHARS: usize = 256;

/// Bytes of a kept statement per row: below the store's limit for values.
const CHUNK_BYTES: usize = 48 * 1024;

/// Entries of one page.
pub const PAGE: usize = 1_000;

const ENTRY: &[u8] = b"entry/";
const KEPT: &[u8] = b"kept/";
/// Where envelopes stood alone.
const ENVELOPE: &[u8] = b"envelope/";

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
    /// Subject that it claims.
    #[serde(default)]
    pub subject: String,
    /// Id that it claims, hex, or empty.
    #[serde(default)]
    pub statement_id: String,
    /// Bytes that are kept of it; 0: it is not.
    #[serde(default)]
    pub size_bytes: u64,
    /// How often it was judged again, or sent again.
    #[serde(default)]
    pub tries: u32,
    /// What the sender was asked to correct, or empty.
    #[serde(default)]
    pub asked: String,
}

impl Entry {
    fn sha256(&self) -> [u8; 32] {
        let mut digest = [0; 32];
        // One that is damaged is nobody's.
        let _ = hex::decode_to_slice(&self.payload_sha256, &mut digest);
        digest
    }

    fn key(&self) -> Vec<u8> {
        let mut key = ENTRY.to_vec();
        key.extend_from_slice(&self.time_unix_ms.to_be_bytes());
        key.extend_from_slice(&self.sha256()[..8]);
        key
    }

    /// Under which it is found again.
    pub fn id(&self) -> String {
        hex::encode(&self.key()[ENTRY.len()..])
    }

    fn put(&self, batch: &mut Batch) {
        batch.put(Table::Quarantine, self.key(), format::write(FORMAT, self));
    }

    fn row(&self) -> (Table, Vec<u8>, Vec<u8>) {
        (Table::Quarantine, self.key(), format::write(FORMAT, self))
    }

    /// What the journal calls it.
    fn named(&self) -> String {
        let kind = if self.claimed_kind.is_empty() { "statement" } else { &self.claimed_kind };
        format!(
            "{} {kind} {}",
            self.peer,
            &self.payload_sha256[..16.min(self.payload_sha256.len())]
        )
    }
}

/// What is claimed by a payload whose signature does not hold. Never believed.
struct Claim {
    source: String,
    kind: String,
    subject: String,
    id: Option<StatementId>,
}

fn claim(envelope: &Envelope) -> Claim {
    match header::decode(&envelope.payload) {
        Ok(statement) => Claim {
            source: statement.header.source.to_string(),
            kind: statement.header.kind.chars().take(64).collect(),
            subject: statement.header.subject.chars().take(64).collect(),
            id: Some(statement.header.id),
        },
        Err(_) => {
            Claim { source: String::new(), kind: String::new(), subject: String::new(), id: None }
        }
    }
}

/// Plans the quarantine of a statement and the signed reason to its sender.
pub fn refuse(
    unit: &Unit,
    peer: &UnitCode,
    kept: &rejection::Refused,
    refused: &Refused,
) -> Result<Plan, store::Error> {
    let payload_sha256 = lianxi_proto::envelope::payload_sha256(&kept.envelope);
    let claim = claim(&kept.envelope);
    let bytes = rejection::encode_refused(kept);
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
        subject: claim.subject,
        statement_id: claim.id.map(|id| hex::encode(id.as_bytes())).unwrap_or_default(),
        size_bytes: bytes.len() as u64,
        tries: 0,
        asked: String::new(),
    };
    tracing::warn!(
        unit = %unit.code, %peer, reason = refused.reason, field = %refused.field,
        claimed_source = %entry.claimed_source, claimed_kind = %entry.claimed_kind,
        payload_sha256 = %entry.payload_sha256, "statement refused"
    );
    unit.metrics.statement_quarantined(refused.reason);
    let mut plan = Plan::default();
    if admit(unit, peer, entry.size_bytes) {
        plan.writes.push(entry.row());
        for (number, chunk) in (0_u16..).zip(bytes.chunks(CHUNK_BYTES)) {
            let value = [&[FORMAT][..], chunk].concat();
            plan.writes.push((Table::Quarantine, kept_key(&payload_sha256, number), value));
        }
    }
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
    plan.replies.extend(reply(&entry, refused.reason, &entry.detail));
    Ok(plan)
}

/// As [`refuse`]. What waits already, refused for the same reason, is neither told nor journalled
/// again: a delivery that is sent again changes nothing.
pub async fn refuse_once(
    unit: &Unit,
    peer: &UnitCode,
    kept: &rejection::Refused,
    refused: &Refused,
) -> Result<Plan, store::Error> {
    if waits(unit, peer, kept, refused.reason).await? {
        tracing::info!(
            unit = %unit.code, %peer, reason = refused.reason, "refused before for the same reason"
        );
        return Ok(Plan::default());
    }
    refuse(unit, peer, kept, refused)
}

/// True if the very same waits, signatures and cells included, sent by `peer` and refused here for this
/// reason.
async fn waits(
    unit: &Unit,
    peer: &UnitCode,
    came: &rejection::Refused,
    reason: &str,
) -> Result<bool, store::Error> {
    if unit.quarantine().statements() == 0 {
        return Ok(false);
    }
    // It may still be on its way to the store: an empty batch waits for it.
    unit.store.submit(Batch::new(&unit.code)).await?;
    let payload_sha256 = lianxi_proto::envelope::payload_sha256(&came.envelope);
    let is_same =
        |kept: rejection::Refused| kept.envelope == came.envelope && kept.cells == came.cells;
    if !kept(unit, &payload_sha256).await?.0.is_some_and(is_same) {
        return Ok(false);
    }
    let waiting = of_digest(unit, &payload_sha256).await?;
    Ok(waiting.iter().any(|one| one.refused_here && one.peer == *peer && one.reason == reason))
}

/// Counts what is to wait; false: there is no room for it.
fn admit(unit: &Unit, peer: &UnitCode, bytes: u64) -> bool {
    let mut ledger = unit.quarantine();
    let before = ledger.percent();
    let admitted = ledger.admit(peer, bytes);
    let percent = ledger.percent();
    if !admitted && ledger.left_out() == 1 {
        tracing::error!(
            unit = %unit.code, %peer,
            "the quarantine is full: what is refused from here on is told to its sender and not kept; \
             settle what waits, see `lianxi quarantine list`"
        );
    } else if before < WARNING_PERCENT && percent >= WARNING_PERCENT {
        tracing::warn!(
            unit = %unit.code, %peer, percent,
            "the quarantine fills up; settle what waits, see `lianxi quarantine list`"
        );
    }
    admitted
}

/// The signed word to the sender; a rejection of a rejection could go back and forth for ever.
fn reply(entry: &Entry, reason: &str, detail: &str) -> Option<Reply> {
    if entry.claimed_kind == kinds::REJECTION {
        return None;
    }
    let mut id = [0; 16];
    let has_id = hex::decode_to_slice(&entry.statement_id, &mut id).is_ok();
    let rejection = Rejection {
        payload_sha256: entry.sha256(),
        statement_id: has_id.then_some(id),
        reason: reason.to_owned(),
        field: entry.field.clone(),
        detail: detail.to_owned(),
    };
    let body = rejection::encode_body(&rejection);
    let mut draft = Draft::new(kinds::REJECTION, entry.claimed_source.clone(), body);
    draft.destination = Some(entry.peer.clone());
    Some(Reply { draft, to: entry.peer.clone(), lane: Lane::Summary })
}

/// What was refused before and holds as it comes again waits no more.
///
/// # Errors
///
/// The store's.
pub async fn clear(
    unit: &Unit,
    peer: &UnitCode,
    envelope: &Envelope,
    plan: &mut Plan,
) -> Result<(), store::Error> {
    if unit.quarantine().statements() == 0 {
        return Ok(());
    }
    let payload_sha256 = lianxi_proto::envelope::payload_sha256(envelope);
    let key = kept_key(&payload_sha256, 0);
    if unit.store.get(&unit.code, Table::Quarantine, &key).await?.is_none() {
        return Ok(());
    }
    let mut gone = of_digest(unit, &payload_sha256).await?;
    gone.retain(|one| one.refused_here && one.peer == *peer);
    for key in kept(unit, &payload_sha256).await?.1 {
        plan.deletes.push((Table::Quarantine, key));
    }
    for one in &gone {
        plan.deletes.push((Table::Quarantine, one.key()));
        unit.quarantine().release(peer, one.size_bytes);
    }
    plan.replies.extend(gone.first().and_then(|one| reply(one, later::WITHDRAWN, "")));
    Ok(())
}

fn kept_key(payload_sha256: &[u8; 32], number: u16) -> Vec<u8> {
    [KEPT, payload_sha256, &number.to_be_bytes()].concat()
}

/// Takes in the signed reason of a peer that refused a statement of this unit, or a later word about
/// one.
///
/// # Errors
///
/// [`Undecided::Refused`] if it is malformed or not the peer's own.
pub async fn take_rejection(unit: &Unit, arrived: &Arrived) -> Result<Plan, Undecided> {
    if arrived.source() != &arrived.peer {
        let detail = "a rejection goes over one link, from its source";
        return Err(Refused::new("wrong-source", "header.source", detail).into());
    }
    let rejection = rejection::decode_body(&arrived.statement.body)?;
    tracing::warn!(
        unit = %unit.code, peer = %arrived.peer, reason = %rejection.reason,
        field = %rejection.field, "peer refused a statement"
    );
    let known = of_digest(unit, &rejection.payload_sha256).await?;
    let known = known.into_iter().filter(|one| !one.refused_here && one.peer == arrived.peer);
    let mut plan = Plan::default();
    let mut is_known = false;
    for entry in known {
        is_known = true;
        if rejection.reason == later::WITHDRAWN {
            plan.deletes.push((Table::Quarantine, entry.key()));
            unit.quarantine().release(&entry.peer, entry.size_bytes);
            continue;
        }
        let mut entry = entry;
        if rejection.reason == later::CORRECT {
            entry.asked.clone_from(&rejection.detail);
        } else {
            entry.reason.clone_from(&rejection.reason);
            entry.field.clone_from(&rejection.field);
            entry.detail.clone_from(&rejection.detail);
        }
        plan.writes.push(entry.row());
    }
    if is_known || rejection.reason == later::WITHDRAWN {
        return Ok(plan);
    }
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
        subject: String::new(),
        statement_id: rejection.statement_id.map(hex::encode).unwrap_or_default(),
        size_bytes: 0,
        tries: 0,
        asked: String::new(),
    };
    if admit(unit, &entry.peer, 0) {
        plan.writes.push(entry.row());
    }
    Ok(plan)
}

/// Counts what waits in the store of a unit.
///
/// # Errors
///
/// The store's.
pub async fn ledger(store: &dyn Store, unit: &UnitCode) -> Result<Ledger, store::Error> {
    let (mut ledger, mut after) = (Ledger::default(), None);
    loop {
        let page = page(store, unit, after.as_deref(), PAGE).await?;
        page.iter().for_each(|entry| ledger.count(&entry.peer, entry.size_bytes));
        match page.last() {
            Some(last) if page.len() == PAGE => after = Some(last.id()),
            _ => return Ok(ledger),
        }
    }
}

fn key_of(id: &str) -> Option<Vec<u8>> {
    let bytes = hex::decode(id).ok().filter(|bytes| bytes.len() == 16)?;
    Some([ENTRY, &bytes].concat())
}

/// Statements that wait, the oldest first, after the one with the id `after`.
///
/// # Errors
///
/// The store's.
pub async fn page(
    store: &dyn Store,
    unit: &UnitCode,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<Entry>, store::Error> {
    let after = after.and_then(key_of);
    let rows = store.scan(unit, Table::Quarantine, ENTRY, after.as_deref(), limit).await?;
    rows.iter().map(|(_, value)| format::read(FORMAT, value)).collect()
}

/// The one that waits under an id.
///
/// # Errors
///
/// The store's.
pub async fn find(
    store: &dyn Store,
    unit: &UnitCode,
    id: &str,
) -> Result<Option<Entry>, store::Error> {
    let Some(key) = key_of(id) else { return Ok(None) };
    let row = store.get(unit, Table::Quarantine, &key).await?;
    row.map(|row| format::read(FORMAT, &row)).transpose()
}

/// All that wait with a payload of this digest.
async fn of_digest(unit: &Unit, payload_sha256: &[u8; 32]) -> Result<Vec<Entry>, store::Error> {
    let (mut found, mut after) = (Vec::new(), None);
    if unit.quarantine().statements() == 0 {
        return Ok(found);
    }
    loop {
        let page = page(unit.store.as_ref(), &unit.code, after.as_deref(), PAGE).await?;
        after = page.last().filter(|_| page.len() == PAGE).map(Entry::id);
        found.extend(page.into_iter().filter(|entry| entry.sha256() == *payload_sha256));
        if after.is_none() {
            return Ok(found);
        }
    }
}

/// What is kept of a refused statement, and the keys of its rows.
async fn kept(
    unit: &Unit,
    payload_sha256: &[u8; 32],
) -> Result<(Option<rejection::Refused>, Vec<Vec<u8>>), store::Error> {
    let damaged = |error| store::Error::Engine(format!("a refused statement is damaged: {error}"));
    let prefix = [KEPT, payload_sha256].concat();
    let rows = unit.store.scan(&unit.code, Table::Quarantine, &prefix, None, 64).await?;
    let bytes: Vec<u8> = rows.iter().flat_map(|(_, value)| value.iter().skip(1).copied()).collect();
    let mut keys: Vec<Vec<u8>> = rows.into_iter().map(|(key, _)| key).collect();
    if !keys.is_empty() {
        return Ok((Some(rejection::decode_refused(&bytes).map_err(damaged)?), keys));
    }
    let key = [ENVELOPE, payload_sha256].concat();
    let Some(row) = unit.store.get(&unit.code, Table::Quarantine, &key).await? else {
        return Ok((None, keys));
    };
    keys.push(key);
    let envelope = decode_envelope(&row)?;
    Ok((Some(rejection::Refused { envelope, cells: Vec::new(), evidence: None }), keys))
}
