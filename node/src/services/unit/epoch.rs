//! Numbers that begin anew, and deliveries that are sent again.
//!
//! Promises that no number of an epoch is used twice where a peer has seen the first use, and that
//! what a restored peer lost of this unit's outbox stands there again, in its old order.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, hash_map::Entry},
    sync::Arc,
};

use async_trait::async_trait;

use super::{
    Counters, FORMAT, LINK_EPOCH_KEY, Unit, Work, again, draw_link_epoch,
    outbox::{OutboxRow, outbox_key, outbox_prefix, sequence_of},
};
use crate::{
    clock::UnixMillis,
    domain::{
        epoch::{Number, Reach},
        journal::{Act, Actor, Leaf},
        unit::UnitCode,
    },
    services::exchange::{Cursor, Lane},
    statement::header::{self, StatementId},
    store::{self, Batch, Table, journal},
    watch,
};

/// Rows moved in one batch: each is put and deleted.
const PAGE: usize = 100;

/// Deliveries taken out in one batch: each is deleted and noted, and another may follow what was
/// before it.
const REMOVED_AT_ONCE: i64 = 40;

/// Bytes of an outbox key behind the peer: a zero, the lane, the place.
const OUTBOX_TAIL_BYTES: usize = 10;

/// Bytes of a row of [`Table::Delivered`].
const DELIVERED_BYTES: usize = 49;

/// What was put into an outbox again.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Redelivered {
    /// Deliveries that wait again.
    pub again: u64,
    /// Deliveries that are no longer kept.
    pub gone: u64,
}

/// What was taken out of the outboxes.
#[derive(Debug, Default)]
pub struct Removed {
    /// Deliveries that no longer wait.
    pub deliveries: i64,
    /// A batch does not hold all of them: some still wait.
    pub more: bool,
    /// Place of the last one that still does, by lane.
    ends: BTreeMap<Vec<u8>, u64>,
}

/// A statement that was taken out of the outboxes: its number stands for another one at a peer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Withdrawn {
    /// Its id.
    pub id: StatementId,
    /// Its type.
    pub kind: String,
    /// What it was about.
    pub subject: String,
}

/// Knows when what was sent has arrived for good.
#[async_trait]
pub trait FinalReceipts: Send + Sync {
    /// When the last final receipt of a statement that went to `peer` came; `None`: one is missing
    /// yet. What has its end at the next hop, or is not kept, is as old as can be.
    async fn final_at(
        &self,
        peer: &UnitCode,
        id: StatementId,
    ) -> Result<Option<UnixMillis>, store::Error>;
}

/// A row of [`Table::Delivered`].
pub(super) struct Delivered {
    after: u64,
    id: [u8; 16],
    enqueued_unix_ms: UnixMillis,
    link_epoch: u64,
    acknowledged_unix_ms: UnixMillis,
}

/// Peer of an outbox row.
fn peer_of(key: &[u8]) -> Result<UnitCode, store::Error> {
    let peer = key.len().checked_sub(OUTBOX_TAIL_BYTES).and_then(|end| key.get(..end));
    let peer = peer.and_then(|peer| std::str::from_utf8(peer).ok()?.parse().ok());
    peer.ok_or_else(|| store::Error::Engine("an outbox key is damaged".into()))
}

impl Delivered {
    fn statement_id(&self) -> Result<StatementId, store::Error> {
        StatementId::try_from(&self.id[..])
            .map_err(|_| store::Error::Engine("a kept delivery is damaged".into()))
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(DELIVERED_BYTES);
        bytes.push(FORMAT);
        bytes.extend_from_slice(&self.after.to_be_bytes());
        bytes.extend_from_slice(&self.id);
        bytes.extend_from_slice(&self.enqueued_unix_ms.to_be_bytes());
        bytes.extend_from_slice(&self.link_epoch.to_be_bytes());
        bytes.extend_from_slice(&self.acknowledged_unix_ms.to_be_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, store::Error> {
        let damaged = || store::Error::Engine("a delivered row is damaged".into());
        let Some((&FORMAT, rest)) = bytes.split_first() else { return Err(damaged()) };
        let rest: &[u8; DELIVERED_BYTES - 1] = rest.try_into().map_err(|_| damaged())?;
        let long = |at: usize| -> Result<[u8; 8], store::Error> {
            rest[at..at + 8].try_into().map_err(|_| damaged())
        };
        Ok(Self {
            after: u64::from_be_bytes(long(0)?),
            id: rest[8..24].try_into().map_err(|_| damaged())?,
            enqueued_unix_ms: i64::from_be_bytes(long(24)?),
            link_epoch: u64::from_be_bytes(long(32)?),
            acknowledged_unix_ms: i64::from_be_bytes(long(40)?),
        })
    }
}

impl Unit {
    /// Changes whenever peers have to be greeted anew.
    pub fn standing_changes(&self) -> watch::Receiver<u64> {
        self.standing.subscribe()
    }

    /// Ends every link of the unit, to be greeted anew.
    pub fn greet_anew(&self) {
        self.standing.send_modify(|count| *count += 1);
    }

    /// How far the unit is, as its store would say after a power cut.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn reach(&self) -> Result<Reach, store::Error> {
        let number = {
            let counters = self.counters.lock().await;
            Number { epoch: counters.epoch, seq: counters.seq }
        };
        let journal_size = journal::size(self.store.as_ref(), &self.code).await?;
        Ok(Reach { number, journal_size })
    }

    /// True if `peer` has taken in more of this outbox than was ever put there.
    pub async fn is_outrun(&self, peer: &UnitCode, received: &[Cursor]) -> bool {
        let counters = self.counters.lock().await;
        received.iter().any(|cursor| {
            let end = counters.lanes.get(&(peer.clone(), cursor.lane)).copied().unwrap_or_default();
            cursor.link_epoch == counters.link_epoch && cursor.lane_seq > end.last
        })
    }

    /// Begins the work that opens `epoch`: its numbers begin at 1 and its outbox has a new life.
    ///
    /// # Errors
    ///
    /// The system gives no random numbers.
    pub async fn begin_epoch(self: &Arc<Self>, epoch: u64) -> Result<Work, store::Error> {
        let link_epoch = draw_link_epoch()?;
        let mut work = self.begin().await;
        work.next = Counters { epoch, seq: 0, link_epoch, ..work.next };
        let row = [&[FORMAT][..], &link_epoch.to_be_bytes()].concat();
        work.batch.put(Table::Meta, LINK_EPOCH_KEY, row);
        Ok(work)
    }

    /// As the row of the outbox says, and when the peer held it.
    pub(super) fn delivered(&self, row: &[u8], link_epoch: u64) -> Result<Vec<u8>, store::Error> {
        let row = OutboxRow::decode(row)?;
        let delivered = Delivered {
            after: row.after,
            id: row.id,
            enqueued_unix_ms: row.enqueued_unix_ms,
            link_epoch,
            acknowledged_unix_ms: self.clock.now_unix_ms(),
        };
        Ok(delivered.encode())
    }

    /// True if `peer` has taken in something of a lane in the outbox' present life, as far as is kept.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn has_delivered(&self, peer: &UnitCode, lane: Lane) -> Result<bool, store::Error> {
        let prefix = outbox_prefix(peer, lane);
        let Some((_, row)) = self.store.last(&self.code, Table::Delivered, &prefix).await? else {
            return Ok(false);
        };
        Ok(Delivered::decode(&row)?.link_epoch == self.link_epoch())
    }

    /// How far `peer` has acknowledged the outbox' present life, per lane, as far as is kept.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn acknowledged_by(&self, peer: &UnitCode) -> Result<Vec<Cursor>, store::Error> {
        let (link_epoch, mut cursors) = (self.link_epoch(), Vec::new());
        for lane in Lane::ALL {
            let prefix = outbox_prefix(peer, lane);
            let Some((key, row)) = self.store.last(&self.code, Table::Delivered, &prefix).await?
            else {
                continue;
            };
            if Delivered::decode(&row)?.link_epoch == link_epoch {
                cursors.push(Cursor { lane, link_epoch, lane_seq: sequence_of(&key)? });
            }
        }
        Ok(cursors)
    }

    /// Puts what `peer` held once and has lost into its outbox again: everything above the cursors
    /// that it has now. Can be repeated.
    ///
    /// # Errors
    ///
    /// The store's; a part may wait again.
    pub async fn redeliver(
        self: &Arc<Self>,
        peer: &UnitCode,
        received: &[Cursor],
    ) -> Result<Redelivered, store::Error> {
        let link_epoch = self.link_epoch();
        let mut done = Redelivered::default();
        for lane in Lane::ALL {
            let cursor = received.iter().find(|cursor| cursor.lane == lane);
            let have = cursor.filter(|cursor| cursor.link_epoch == link_epoch);
            self.redeliver_lane(peer, lane, have.map(|have| have.lane_seq), &mut done).await?;
        }
        if done.again > 0 {
            self.metrics.outbox_changed(i64::try_from(done.again).unwrap_or(i64::MAX));
            self.outbox_sender(peer).send_modify(|count| *count += 1);
        }
        Ok(done)
    }

    async fn redeliver_lane(
        self: &Arc<Self>,
        peer: &UnitCode,
        lane: Lane,
        have: Option<u64>,
        done: &mut Redelivered,
    ) -> Result<(), store::Error> {
        let prefix = outbox_prefix(peer, lane);
        let mut last = have.unwrap_or(0);
        loop {
            let from = outbox_key(peer, lane, last);
            let rows =
                self.store.scan(&self.code, Table::Delivered, &prefix, Some(&from), PAGE).await?;
            let mut batch = Batch::new(&self.code);
            for (key, value) in &rows {
                let lane_seq = sequence_of(key)?;
                let row = Delivered::decode(value)?;
                done.gone += lane_seq.saturating_sub(last + 1);
                done.again += 1;
                let (id, enqueued_unix_ms) = (row.id, row.enqueued_unix_ms);
                // What it takes of the disk is kept either way.
                let row = OutboxRow { after: last, id, enqueued_unix_ms, bytes: 0 };
                batch.put(Table::Outbox, key.clone(), row.encode());
                batch.delete(Table::Delivered, key.clone());
                last = lane_seq;
            }
            let more = rows.len() == PAGE;
            if !batch.is_empty() {
                self.store.submit(batch).await?;
            }
            if !more && self.close_gap(peer, lane, last, done).await? {
                return Ok(());
            }
        }
    }

    /// The first delivery that waits behind `last` follows it, whatever was between them; if none waits,
    /// the next one does. False if an acknowledgement of an earlier link came in between, and took one
    /// from those that wait.
    async fn close_gap(
        self: &Arc<Self>,
        peer: &UnitCode,
        lane: Lane,
        last: u64,
        done: &mut Redelivered,
    ) -> Result<bool, store::Error> {
        let (prefix, from) = (outbox_prefix(peer, lane), outbox_key(peer, lane, last));
        let mut work = self.begin().await;
        let rows = self.store.scan(&self.code, Table::Outbox, &prefix, Some(&from), 1).await?;
        // In this order: a row goes from the one table to the other, never back by itself.
        let held = self.store.scan(&self.code, Table::Delivered, &prefix, Some(&from), 1).await?;
        if !held.is_empty() {
            return Ok(false);
        }
        match rows.into_iter().next() {
            Some((key, value)) => {
                let row = OutboxRow::decode(&value)?;
                if row.after <= last {
                    return Ok(true);
                }
                done.gone += row.after - last;
                work.batch.put(Table::Outbox, key, OutboxRow { after: last, ..row }.encode());
            }
            None => work.follow(peer, lane, last),
        }
        if !work.batch.is_empty() {
            work.submit(|| ()).await?;
        }
        Ok(true)
    }

    /// Statements of this unit that wait in its outboxes under a number up to `seen` and stand in the
    /// journal from leaf `proved` on: peers may know others by their numbers.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn doubtful(
        &self,
        seen: Number,
        proved: u64,
    ) -> Result<Vec<Withdrawn>, store::Error> {
        let mut found: HashMap<StatementId, Option<Withdrawn>> = HashMap::new();
        let mut after = None::<Vec<u8>>;
        loop {
            let scanned = self.store.scan(&self.code, Table::Outbox, b"", after.as_deref(), 1_000);
            let rows = scanned.await?;
            for (_, value) in &rows {
                let id = OutboxRow::decode(value)?.statement_id()?;
                if let Entry::Vacant(place) = found.entry(id) {
                    place.insert(self.doubt(id, seen, proved).await?);
                }
            }
            match rows.last() {
                Some((key, _)) if rows.len() == 1_000 => after = Some(key.clone()),
                _ => break,
            }
        }
        let mut doubtful: Vec<Withdrawn> = found.into_values().flatten().collect();
        doubtful.sort_by_key(|one| one.id);
        Ok(doubtful)
    }

    async fn doubt(
        &self,
        id: StatementId,
        seen: Number,
        proved: u64,
    ) -> Result<Option<Withdrawn>, store::Error> {
        let is_proved = self.leaf_of(id).await?.is_some_and(|leaf| leaf < proved);
        let Some(envelope) = self.statement(id).await? else { return Ok(None) };
        let Ok(statement) = header::decode(&envelope.payload) else { return Ok(None) };
        let header = statement.header;
        let number = Number { epoch: header.epoch, seq: header.seq };
        if is_proved || header.source != self.code || number > seen {
            return Ok(None);
        }
        Ok(Some(Withdrawn { id, kind: header.kind, subject: header.subject }))
    }

    /// Takes statements out of the outboxes in `batch`, as many as it holds, each with a leaf that says
    /// so; what waits behind one follows what was before it. Those of `again` are noted to be made
    /// again, the others to go on once a peer returns them.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn withdraw(
        &self,
        batch: &mut Batch,
        ids: &BTreeSet<StatementId>,
        again: &BTreeSet<StatementId>,
        by: &Actor,
    ) -> Result<Removed, store::Error> {
        let (mut removed, mut named) = (Removed::default(), BTreeSet::new());
        let mut before: Option<(Vec<u8>, u64)> = None;
        let rows = self.store.scan(&self.code, Table::Outbox, b"", None, usize::MAX).await?;
        for (key, value) in rows {
            let row = OutboxRow::decode(&value)?;
            let lane = key[..key.len() - 8].to_vec();
            let after = match before.take() {
                Some((same, after)) if same == lane => Some(after),
                Some(_) | None => None,
            };
            let id = row.statement_id()?;
            let is_withdrawn = ids.contains(&id);
            removed.more |= is_withdrawn && removed.deliveries >= REMOVED_AT_ONCE;
            if is_withdrawn && !removed.more {
                removed.deliveries += 1;
                if named.insert(id) {
                    let act = Act::done(by.clone(), "epoch.withdraw", id.to_string());
                    batch.journal(self.clock.now_unix_ms(), &Leaf::Act(act));
                }
                again::note(batch, id, &lane, again.contains(&id));
                before = Some((lane, after.unwrap_or(row.after)));
                batch.delete(Table::Outbox, key);
                continue;
            }
            removed.ends.insert(lane, sequence_of(&key)?);
            if let Some(after) = after {
                batch.put(Table::Outbox, key, OutboxRow { after, ..row }.encode());
            }
        }
        Ok(removed)
    }

    /// Forgets deliveries that their peer has held since before `until`, and whose final receipt came
    /// before it, at most `limit`; how many.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn forget_delivered(
        &self,
        until: UnixMillis,
        limit: usize,
        receipts: &dyn FinalReceipts,
    ) -> Result<usize, store::Error> {
        let (mut batch, mut after) = (Batch::new(&self.code), None::<Vec<u8>>);
        'pages: loop {
            let scanned =
                self.store.scan(&self.code, Table::Delivered, b"", after.as_deref(), 1_000);
            let rows = scanned.await?;
            for (key, value) in &rows {
                let row = Delivered::decode(value)?;
                if row.acknowledged_unix_ms >= until {
                    continue;
                }
                let came = receipts.final_at(&peer_of(key)?, row.statement_id()?).await?;
                if came.is_some_and(|came| came < until) {
                    batch.delete(Table::Delivered, key.clone());
                }
                if batch.len() >= limit.min(store::MAX_BATCH_OPERATIONS) {
                    break 'pages;
                }
            }
            match rows.last() {
                Some((key, _)) if rows.len() == 1_000 => after = Some(key.clone()),
                _ => break,
            }
        }
        let forgotten = batch.len();
        if forgotten > 0 {
            self.store.submit(batch).await?;
        }
        Ok(forgotten)
    }

    /// Sets the number that the unit is known to have reached at least, so that none below is used
    /// again.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn skip_to(self: &Arc<Self>, seen: Number) -> Result<(), store::Error> {
        let mut work = self.begin().await;
        if work.next.epoch == seen.epoch && work.next.seq < seen.seq {
            work.next.seq = seen.seq;
            work.commit().await?;
        }
        Ok(())
    }
}

impl Work {
    /// What is put into the outboxes next follows what is left there.
    ///
    /// # Errors
    ///
    /// A key is damaged.
    pub fn close_ranks(&mut self, removed: &Removed) -> Result<(), store::Error> {
        for (lane, place) in &removed.ends {
            let (peer, lane) = again::outbox(lane)?;
            self.follow(&peer, lane, *place);
        }
        Ok(())
    }
}
