//! What waits for the peers of a unit: rows of the outbox by peer, lane and place, and how much of
//! each lane's budget they take.
//!
//! Promises that a row leaves only when its peer holds it, or the peer is gone for good, and that a
//! lane whose budget is used up takes no more of this unit's own new statements, while whistles and
//! what others sent through it always go on.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicI64, Ordering},
};

use super::{FORMAT, Unit, Work};
use crate::{
    clock::UnixMillis,
    domain::unit::UnitCode,
    services::exchange::{Cursor, Departure, Lane},
    statement::header::StatementId,
    store::{self, Batch, Table},
};

/// Format of rows with their size.
const SIZED_FORMAT: u8 = 2;

const SIZED_ROW_BYTES: usize = 37;

/// Format of a lane's end that the next delivery does not follow.
const BRIDGED_FORMAT: u8 = 2;

/// Share of a budget, in percent, from which on it is an early alarm.
const EARLY_PERCENT: u64 = 80;

/// Bytes that may wait, lane by lane.
#[derive(Clone, Debug, Default)]
pub struct Budgets([Option<u64>; Lane::ALL.len()]);

impl Budgets {
    /// Budgets of these lanes; the others, and escalations, have none.
    pub fn of(budgets: &[(Lane, u64)]) -> Self {
        Self(Lane::ALL.map(|lane| {
            let own = budgets.iter().find(|(of, _)| *of == lane && lane != Lane::Escalation);
            own.map(|(_, bytes)| *bytes)
        }))
    }

    fn get(&self, lane: Lane) -> Option<u64> {
        self.0[place(lane)]
    }

    /// What this unit itself wants to send has to fit.
    fn check(&self, queued: &Queued, lane: Lane, new_bytes: u64) -> Result<(), store::Error> {
        let Some(budget_bytes) = self.get(lane) else { return Ok(()) };
        let bytes = queued.get(lane);
        if new_bytes > 0 && bytes.saturating_add(new_bytes) > budget_bytes {
            return Err(store::Error::LaneFull { lane: lane.as_str(), bytes, budget_bytes });
        }
        Ok(())
    }
}

/// What waits in one lane, for all peers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LaneState {
    /// The lane.
    pub lane: Lane,
    /// Deliveries.
    pub waiting: u64,
    /// Bytes that were stored for them.
    pub bytes: u64,
    /// Bytes that may wait; `None`: no limit.
    pub budget_bytes: Option<u64>,
    /// When the oldest was put there.
    pub oldest_unix_ms: Option<UnixMillis>,
}

impl LaneState {
    /// True if so much waits that somebody should look.
    pub fn is_nearly_full(&self) -> bool {
        self.budget_bytes.is_some_and(|budget| nearly(self.bytes, budget))
    }
}

fn nearly(bytes: u64, budget: u64) -> bool {
    bytes.saturating_mul(100) >= budget.saturating_mul(EARLY_PERCENT)
}

/// What waits in the outboxes of a unit, lane by lane.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct OutboxState {
    /// Each lane.
    pub lanes: [LaneState; Lane::ALL.len()],
}

impl OutboxState {
    /// Deliveries of all lanes.
    pub fn waiting(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.waiting).sum()
    }

    /// When the oldest of all was put there.
    pub fn oldest_unix_ms(&self) -> Option<UnixMillis> {
        self.lanes.iter().filter_map(|lane| lane.oldest_unix_ms).min()
    }
}

fn place(lane: Lane) -> usize {
    lane as usize - 1
}

/// Bytes that wait, as far as this process counted; read anew from the store at each start.
#[derive(Debug, Default)]
pub(super) struct Queued {
    bytes: [AtomicI64; Lane::ALL.len()],
    told: Mutex<[bool; Lane::ALL.len()]>,
}

impl Queued {
    fn get(&self, lane: Lane) -> u64 {
        u64::try_from(self.bytes[place(lane)].load(Ordering::Relaxed)).unwrap_or(0)
    }

    fn add(&self, lane: Lane, by: i64) {
        self.bytes[place(lane)].fetch_add(by, Ordering::Relaxed);
    }

    fn set(&self, lane: Lane, bytes: u64) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.bytes[place(lane)].store(bytes, Ordering::Relaxed);
    }

    /// True once when a lane comes near its budget, and again after it was well below.
    fn comes_near(&self, budgets: &Budgets, lane: Lane) -> bool {
        let Some(budget) = budgets.get(lane) else { return false };
        let is_near = nearly(self.get(lane), budget);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let was_near = std::mem::replace(&mut told[place(lane)], is_near);
        is_near && !was_near
    }
}

/// What one piece of work adds to a lane.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Added {
    pub(super) rows: i64,
    pub(super) bytes: i64,
}

impl Unit {
    /// At most `limit` deliveries of a lane to `peer` above `after`.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn outgoing(
        &self,
        peer: &UnitCode,
        lane: Lane,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Departure>, store::Error> {
        let prefix = outbox_prefix(peer, lane);
        let from = outbox_key(peer, lane, after);
        let link_epoch = self.link_epoch();
        let rows = self.store.scan(&self.code, Table::Outbox, &prefix, Some(&from), limit).await?;
        let mut departures = Vec::with_capacity(rows.len());
        for (key, value) in rows {
            let lane_seq = sequence_of(&key)?;
            let row = OutboxRow::decode(&value)?;
            let id = row.statement_id()?;
            let envelope = self.statement(id).await?.ok_or_else(|| {
                store::Error::Engine(format!("the statement {id} of an outbox row is missing"))
            })?;
            let cells = if lane == Lane::Summary { self.cells(id).await? } else { Vec::new() };
            let cursor = Cursor { lane, link_epoch, lane_seq };
            departures.push(Departure {
                cursor,
                after: row.after,
                envelope,
                cells,
                evidence: None,
            });
        }
        Ok(departures)
    }

    /// Removes outbox rows that the peer holds, and keeps what they say in case it loses it.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn acknowledged(&self, peer: &UnitCode, cursor: Cursor) -> Result<(), store::Error> {
        if cursor.link_epoch != self.link_epoch() {
            return Ok(());
        }
        self.settle(peer, cursor, true).await
    }

    async fn settle(
        &self,
        peer: &UnitCode,
        cursor: Cursor,
        keeps: bool,
    ) -> Result<(), store::Error> {
        const PAGE: usize = store::MAX_BATCH_OPERATIONS / 2;
        let prefix = outbox_prefix(peer, cursor.lane);
        loop {
            let rows = self.store.scan(&self.code, Table::Outbox, &prefix, None, PAGE).await?;
            let mut batch = Batch::new(&self.code);
            // What goes out makes room.
            batch.urgent();
            let (mut settled, mut bytes) = (0, 0);
            for (key, value) in rows {
                if sequence_of(&key)? > cursor.lane_seq {
                    break;
                }
                settled += 1;
                bytes += i64::from(OutboxRow::decode(&value)?.bytes);
                if keeps {
                    let row = self.delivered(&value, cursor.link_epoch)?;
                    batch.put(Table::Delivered, key.clone(), row);
                }
                batch.delete(Table::Outbox, key);
            }
            let more = settled == PAGE;
            if !batch.is_empty() {
                self.store.submit(batch).await?;
                let rows = i64::try_from(settled).unwrap_or(i64::MAX);
                self.queued_changed(cursor.lane, -rows, -bytes);
                self.metrics.statements_sent(cursor.lane.as_str(), settled as u64);
            }
            if !more {
                return Ok(());
            }
        }
    }

    /// Number of deliveries that wait for `peer`.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn waiting_for(&self, peer: &UnitCode) -> Result<u64, store::Error> {
        let mut count = 0;
        for lane in Lane::ALL {
            let prefix = outbox_prefix(peer, lane);
            let rows =
                self.store.scan(&self.code, Table::Outbox, &prefix, None, usize::MAX).await?;
            count += rows.len() as u64;
        }
        Ok(count)
    }

    /// Drops what waits for a peer that has left: it will never ask for it.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn forget_outbox(&self, peer: &UnitCode) -> Result<(), store::Error> {
        for lane in Lane::ALL {
            let cursor = Cursor { lane, link_epoch: self.link_epoch(), lane_seq: u64::MAX };
            self.settle(peer, cursor, false).await?;
        }
        Ok(())
    }

    /// What waits, lane by lane.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn outbox_state(&self) -> Result<OutboxState, store::Error> {
        let mut state = OutboxState {
            lanes: Lane::ALL.map(|lane| LaneState {
                lane,
                waiting: 0,
                bytes: 0,
                budget_bytes: self.budgets.get(lane),
                oldest_unix_ms: None,
            }),
        };
        let mut after = None::<Vec<u8>>;
        loop {
            let rows =
                self.store.scan(&self.code, Table::Outbox, b"", after.as_deref(), 1_000).await?;
            for (key, value) in &rows {
                let row = OutboxRow::decode(value)?;
                let lane = &mut state.lanes[place(lane_of(key)?)];
                lane.waiting += 1;
                lane.bytes += u64::from(row.bytes);
                let oldest = lane
                    .oldest_unix_ms
                    .map_or(row.enqueued_unix_ms, |oldest| oldest.min(row.enqueued_unix_ms));
                lane.oldest_unix_ms = Some(oldest);
            }
            match rows.last() {
                Some((key, _)) if rows.len() == 1_000 => after = Some(key.clone()),
                _ => return Ok(state),
            }
        }
    }

    /// Counts anew what waits, after rows left in another way than to their peer.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn recount_outbox(&self) -> Result<(), store::Error> {
        for lane in self.outbox_state().await?.lanes {
            self.queued.set(lane.lane, lane.bytes);
        }
        Ok(())
    }

    /// Rows of a lane came or went, with their bytes.
    pub(super) fn queued_changed(&self, lane: Lane, rows: i64, bytes: i64) {
        self.metrics.outbox_changed(rows);
        self.queued.add(lane, bytes);
        if self.queued.comes_near(&self.budgets, lane) {
            tracing::warn!(
                unit = %self.code, lane = lane.as_str(), bytes = self.queued.get(lane),
                budget_bytes = self.budgets.get(lane),
                "what waits in a lane comes near its budget"
            );
        }
    }
    /// True if a delivery of `lane` waits for `peer`.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn is_waiting(&self, peer: &UnitCode, lane: Lane) -> Result<bool, store::Error> {
        let prefix = outbox_prefix(peer, lane);
        Ok(!self.store.scan(&self.code, Table::Outbox, &prefix, None, 1).await?.is_empty())
    }
}

impl Work {
    /// Puts a kept statement into the outbox to `peer`.
    pub fn enqueue(&mut self, peer: &UnitCode, lane: Lane, id: StatementId) {
        let bytes = self.bytes_of(id);
        self.enqueue_sized(peer, lane, id, bytes);
    }

    /// As [`Self::enqueue`], with the bytes that were stored for the row alone.
    pub(super) fn enqueue_sized(
        &mut self,
        peer: &UnitCode,
        lane: Lane,
        id: StatementId,
        bytes: u32,
    ) {
        let end = self.next.lanes.entry((peer.clone(), lane)).or_default();
        let row = OutboxRow {
            after: end.follows,
            id: *id.as_bytes(),
            enqueued_unix_ms: self.unit.clock.now_unix_ms(),
            bytes,
        };
        let last = end.last + 1;
        *end = LaneEnd { last, follows: last };
        let end = end.encode();
        let added = &mut self.added[place(lane)];
        added.rows += 1;
        added.bytes += i64::from(bytes);
        self.batch.put(Table::Outbox, outbox_key(peer, lane, last), row.encode());
        self.batch.put(Table::Meta, super::lane_key(peer, lane), end);
        if !self.peers.contains(peer) {
            self.peers.push(peer.clone());
        }
    }

    /// What is put into a lane next follows `place`: what was behind that is gone for good.
    pub(super) fn follow(&mut self, peer: &UnitCode, lane: Lane, place: u64) {
        let Some(end) = self.next.lanes.get_mut(&(peer.clone(), lane)) else { return };
        if end.follows > place {
            end.follows = place;
            self.batch.put(Table::Meta, super::lane_key(peer, lane), end.encode());
        }
    }

    /// Takes a row out of an outbox in this batch.
    pub(super) fn remove_row(&mut self, lane: Lane, key: Vec<u8>, row: &OutboxRow) {
        self.batch.delete(Table::Outbox, key);
        let added = &mut self.added[place(lane)];
        added.rows -= 1;
        added.bytes -= i64::from(row.bytes);
    }

    /// Bytes that this batch stores for a statement and that no row counts yet.
    fn bytes_of(&self, id: StatementId) -> u32 {
        let is_counted =
            |row: &[u8]| OutboxRow::decode(row).is_ok_and(|row| row.id == *id.as_bytes());
        let (mut bytes, mut counted) = (0, false);
        for (table, key, value) in &self.batch.writes {
            let Some(value) = value else { continue };
            if *table == Table::Outbox {
                counted |= is_counted(value);
            } else if matches!(table, Table::Statements | Table::Cells)
                && key.starts_with(id.as_bytes())
            {
                bytes += value.len();
            }
        }
        if counted { 0 } else { u32::try_from(bytes).unwrap_or(u32::MAX) }
    }

    /// What this unit itself sends has to fit the budgets of its lanes.
    pub(super) fn check_budgets(&self) -> Result<(), store::Error> {
        for (lane, added) in Lane::ALL.into_iter().zip(self.added) {
            let new_bytes = u64::try_from(added.bytes).unwrap_or(0);
            self.unit.budgets.check(&self.unit.queued, lane, new_bytes)?;
        }
        Ok(())
    }
}

fn lane_of(key: &[u8]) -> Result<Lane, store::Error> {
    let lane = key.len().checked_sub(9).and_then(|at| key.get(at));
    lane.and_then(|lane| Lane::ALL.into_iter().find(|known| *known as u8 == *lane))
        .ok_or_else(|| store::Error::Engine("an outbox key is damaged".into()))
}

pub(super) fn outbox_prefix(peer: &UnitCode, lane: Lane) -> Vec<u8> {
    let mut key = peer.as_str().as_bytes().to_vec();
    key.extend_from_slice(&[0, lane as u8]);
    key
}

pub(super) fn outbox_key(peer: &UnitCode, lane: Lane, lane_seq: u64) -> Vec<u8> {
    let mut key = outbox_prefix(peer, lane);
    key.extend_from_slice(&lane_seq.to_be_bytes());
    key
}

pub(super) fn sequence_of(key: &[u8]) -> Result<u64, store::Error> {
    let tail = key.last_chunk::<8>();
    tail.map(|bytes| u64::from_be_bytes(*bytes))
        .ok_or_else(|| store::Error::Engine("an outbox key is damaged".into()))
}

/// Where a lane of an outbox ends.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct LaneEnd {
    /// Place of the newest delivery that was ever put there.
    pub(super) last: u64,
    /// Place that the next one follows: lower where the newest ones were taken out again.
    pub(super) follows: u64,
}

impl LaneEnd {
    fn encode(&self) -> Vec<u8> {
        if self.follows == self.last {
            return [&[FORMAT][..], &self.last.to_be_bytes()].concat();
        }
        let places = [self.last.to_be_bytes(), self.follows.to_be_bytes()].concat();
        [&[BRIDGED_FORMAT][..], &places].concat()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, store::Error> {
        let damaged = || store::Error::Engine("a counter in the store is damaged".into());
        let (&found, rest) = bytes.split_first().ok_or_else(damaged)?;
        let (longs, odd) = rest.as_chunks::<8>();
        let longs: Vec<u64> = longs.iter().map(|bytes| u64::from_be_bytes(*bytes)).collect();
        match (found, longs.as_slice(), odd) {
            (FORMAT, &[last], []) => Ok(Self { last, follows: last }),
            (BRIDGED_FORMAT, &[last, follows], []) => Ok(Self { last, follows }),
            (FORMAT | BRIDGED_FORMAT, _, _) => Err(damaged()),
            (found, _, _) => {
                let known = u32::from(BRIDGED_FORMAT);
                Err(store::Error::Format { found: u32::from(found), known })
            }
        }
    }
}

/// A delivery that waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct OutboxRow {
    /// Place of the delivery before it.
    pub(super) after: u64,
    /// Its statement.
    pub(super) id: [u8; 16],
    /// When it was put there.
    pub(super) enqueued_unix_ms: UnixMillis,
    /// Bytes that were stored for it alone.
    pub(super) bytes: u32,
}

impl OutboxRow {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(SIZED_ROW_BYTES);
        bytes.push(SIZED_FORMAT);
        bytes.extend_from_slice(&self.after.to_be_bytes());
        bytes.extend_from_slice(&self.id);
        bytes.extend_from_slice(&self.enqueued_unix_ms.to_be_bytes());
        bytes.extend_from_slice(&self.bytes.to_be_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, store::Error> {
        let damaged = || store::Error::Engine("an outbox row is damaged".into());
        let (&found, rest) = bytes.split_first().ok_or_else(damaged)?;
        if found != FORMAT && found != SIZED_FORMAT {
            let known = u32::from(SIZED_FORMAT);
            return Err(store::Error::Format { found: u32::from(found), known });
        }
        let (after, rest) = rest.split_first_chunk().ok_or_else(damaged)?;
        let (id, rest) = rest.split_first_chunk().ok_or_else(damaged)?;
        let (enqueued, rest) = rest.split_first_chunk().ok_or_else(damaged)?;
        let bytes = match (found, rest) {
            (FORMAT, []) => 0,
            (SIZED_FORMAT, rest) => u32::from_be_bytes(rest.try_into().map_err(|_| damaged())?),
            (_, _) => return Err(damaged()),
        };
        Ok(Self {
            after: u64::from_be_bytes(*after),
            id: *id,
            enqueued_unix_ms: i64::from_be_bytes(*enqueued),
            bytes,
        })
    }

    pub(super) fn statement_id(&self) -> Result<StatementId, store::Error> {
        StatementId::try_from(&self.id[..])
            .map_err(|_| store::Error::Engine("an outbox row is damaged".into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_both_formats_are_read_and_others_are_not() {
        let row = OutboxRow { after: 7, id: [9; 16], enqueued_unix_ms: -5, bytes: 1_234 };
        let sized = row.encode();
        let read = OutboxRow::decode(&sized).expect("as written");
        assert_eq!(
            (read.after, read.id, read.enqueued_unix_ms, read.bytes),
            (7, [9; 16], -5, 1_234)
        );
        let mut plain = sized[..sized.len() - 4].to_vec();
        plain[0] = FORMAT;
        assert_eq!(OutboxRow::decode(&plain).expect("of an earlier version").bytes, 0);
        for damaged in [&sized[..sized.len() - 1], &plain[..plain.len() - 1], &[][..], &[3; 37]] {
            assert!(OutboxRow::decode(damaged).is_err(), "{damaged:?}");
        }
    }

    #[test]
    fn ends_of_lanes_are_read_in_both_formats_and_others_are_not() {
        let plain = LaneEnd { last: 7, follows: 7 };
        assert_eq!(plain.encode(), [&[FORMAT][..], &7_u64.to_be_bytes()].concat());
        let bridged = LaneEnd { last: 7, follows: 5 };
        for end in [plain, bridged] {
            assert_eq!(LaneEnd::decode(&end.encode()).expect("as written"), end);
        }
        let mut other = bridged.encode();
        other[0] = 3;
        for damaged in [&bridged.encode()[..16], &plain.encode()[..8], &[][..], &other[..]] {
            assert!(LaneEnd::decode(damaged).is_err(), "{damaged:?}");
        }
    }

    #[test]
    fn a_lane_is_over_its_budget_only_with_what_is_new_and_escalations_have_none() {
        let budgets = Budgets::of(&[(Lane::Notice, 100), (Lane::Escalation, 1)]);
        let queued = Queued::default();
        queued.add(Lane::Notice, 60);
        assert!(budgets.check(&queued, Lane::Notice, 40).is_ok());
        let full = budgets.check(&queued, Lane::Notice, 41).expect_err("over");
        assert!(full.to_string().contains("notice"), "{full}");
        queued.add(Lane::Notice, 1_000);
        assert!(budgets.check(&queued, Lane::Notice, 0).is_ok(), "it costs nothing");
        assert!(budgets.check(&queued, Lane::Summary, 1_000_000).is_ok(), "no budget was set");
        queued.add(Lane::Escalation, 1_000);
        assert!(budgets.check(&queued, Lane::Escalation, 1_000).is_ok(), "whistles always go");
    }
}
