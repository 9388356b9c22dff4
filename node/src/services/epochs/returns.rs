//! A restored unit's own statements on their way back, and how long they are kept for it.

use std::cmp::Ordering;

use prost::Message as _;

use super::{
    EpochRow, Epochs, KEPT_MS,
    rows::{ReturnRow, received_key, received_prefix},
};
use crate::{
    clock::UnixMillis,
    domain::{
        epoch::{Number, Reason},
        journal::{Act, Actor, Leaf, Statement as Named},
        unit::UnitCode,
    },
    services::{
        exchange::{Page, Returned},
        unit,
    },
    statement::header::{self, Header, StatementId},
    store::{self, Batch, Table},
};

const FORMAT: u8 = 1;

/// Statements of one page.
const PAGE: usize = 16;

/// Bytes of one page: below what a frame takes, whatever the last statement adds.
const PAGE_BYTES: usize = 96 * 1024;

/// Rows that one sweep forgets at most.
const SWEEP: usize = 200;

/// A statement of `peer` that it sent here itself, to be kept for it. Goes into the batch that
/// takes the statement in.
pub(in crate::services) fn keep_received(batch: &mut Batch, header: &Header, now: UnixMillis) {
    let number = Number { epoch: header.epoch, seq: header.seq };
    let mut row = vec![FORMAT];
    row.extend_from_slice(&now.to_be_bytes());
    row.extend_from_slice(header.id.as_bytes());
    batch.put(Table::Received, received_key(&header.source, number), row);
}

fn read_received(
    key: &[u8],
    value: &[u8],
) -> Result<(Number, UnixMillis, StatementId), store::Error> {
    let damaged = || store::Error::Engine("a row of a received statement is damaged".to_owned());
    let number = key.last_chunk::<16>().ok_or_else(damaged)?;
    let long = |at: usize| -> [u8; 8] {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&number[at..at + 8]);
        bytes
    };
    let number = Number { epoch: u64::from_be_bytes(long(0)), seq: u64::from_be_bytes(long(8)) };
    let [FORMAT, rest @ ..] = value else { return Err(damaged()) };
    let (time, id) = rest.split_first_chunk::<8>().ok_or_else(damaged)?;
    let id = StatementId::try_from(id).map_err(|_| damaged())?;
    Ok((number, i64::from_be_bytes(*time), id))
}

impl Epochs {
    /// Statements of `peer` above `after` that it sent here itself, as many as fit a frame.
    ///
    /// # Errors
    ///
    /// The store's.
    pub(in crate::services) async fn returned(
        &self,
        peer: &UnitCode,
        after: Number,
    ) -> Result<Page, store::Error> {
        let (store, own) = (self.unit.store.as_ref(), &self.unit.code);
        let (prefix, from) = (received_prefix(peer), received_key(peer, after));
        let rows = store.scan(own, Table::Received, &prefix, Some(&from), PAGE).await?;
        let (mut statements, mut bytes, mut last) = (Vec::new(), 0, rows.len() < PAGE);
        for (key, value) in rows {
            let (_, _, id) = read_received(&key, &value)?;
            let Some(envelope) = self.unit.statement(id).await? else { continue };
            let cells = self.unit.cells(id).await?;
            bytes += envelope.encoded_len();
            bytes += cells.iter().map(prost::Message::encoded_len).sum::<usize>();
            if bytes > PAGE_BYTES && !statements.is_empty() {
                last = false;
                break;
            }
            statements.push(Returned { envelope, cells });
        }
        Ok(Page { statements, last })
    }

    /// The oldest own restore whose loss `peer` has not returned, and how far it is.
    async fn unreturned(
        &self,
        peer: &UnitCode,
    ) -> Result<Option<(EpochRow, ReturnRow)>, store::Error> {
        let (store, own) = (self.unit.store.as_ref(), &self.unit.code);
        for row in EpochRow::list(store, own, Some(own)).await? {
            let known = ReturnRow::load(store, own, row.epoch, peer).await?;
            let after = row.return_after.unwrap_or(row.after);
            let known = known.unwrap_or(ReturnRow { after, done: false });
            if Reason::of(&row.reason) == Some(Reason::Restore) && !known.done {
                return Ok(Some((row, known)));
            }
        }
        Ok(None)
    }

    /// Number above which `peer` is to return statements of this unit; `None`: nothing is wanted.
    ///
    /// # Errors
    ///
    /// The store's.
    pub(in crate::services) async fn wanted(
        &self,
        peer: &UnitCode,
    ) -> Result<Option<Number>, store::Error> {
        Ok(self.unreturned(peer).await?.map(|(_, known)| known.after.into()))
    }

    /// Notes how far a return is; `last`: it is over.
    ///
    /// # Errors
    ///
    /// The store's.
    pub(in crate::services) async fn returned_to(
        &self,
        peer: &UnitCode,
        number: Option<Number>,
        last: bool,
    ) -> Result<(), store::Error> {
        let Some((row, known)) = self.unreturned(peer).await? else { return Ok(()) };
        let before: Number = known.after.into();
        let after = number.filter(|number| number.cmp(&before) == Ordering::Greater);
        // A page that leads nowhere is the last one, whatever it says.
        let done = last || after.is_none();
        let mut batch = Batch::new(&self.unit.code);
        batch.urgent();
        let known = ReturnRow { after: after.unwrap_or(before).into(), done };
        known.put(&mut batch, &self.unit.code, row.epoch, peer);
        self.unit.store.submit(batch).await
    }

    /// The number of a returned statement if it is this unit's own and holds; else it is refused on
    /// the record.
    ///
    /// # Errors
    ///
    /// The store's.
    pub(in crate::services) async fn own(
        &self,
        peer: &UnitCode,
        returned: &Returned,
    ) -> Result<Option<header::Statement>, store::Error> {
        let now = self.unit.clock.now_unix_ms();
        let opened = {
            let trust = self.unit.trust();
            // It was there before the backup was made, or a key of this unit would not have signed it.
            trust.open_witnessed(&returned.envelope, now, Some(UnixMillis::MIN))
        };
        let reason = match opened {
            Ok(opened) if opened.statement.header.source == self.unit.code => {
                return Ok(Some(opened.statement));
            }
            Ok(_) => "wrong-source",
            Err(error) => error.reason(),
        };
        tracing::warn!(unit = %self.unit.code, %peer, reason, "returned statement refused");
        let subject = self.unit.code.as_str();
        self.unit.record(Act::refused(Actor::unit(peer), "epoch.return", subject, reason)).await?;
        Ok(None)
    }

    /// Puts a returned statement, as its own, into the batch that replays it.
    pub(in crate::services) fn keep_own(&self, batch: &mut Batch, header: &Header, one: &Returned) {
        let payload_sha256 = lianxi_proto::envelope::payload_sha256(&one.envelope);
        let leaf = batch.journal(
            self.unit.clock.now_unix_ms(),
            &Leaf::StatementIn(Named {
                id: *header.id.as_bytes(),
                kind: header.kind.clone(),
                source: header.source.clone(),
                payload_sha256,
            }),
        );
        batch.require_absent(Table::Statements, *header.id.as_bytes());
        unit::put_statement(batch, header.id, &one.envelope, leaf);
        unit::put_cells(batch, header.id, &one.cells);
    }

    /// Counts a statement that came back.
    ///
    /// # Errors
    ///
    /// The store's.
    pub(in crate::services) async fn count_returned(
        &self,
        peer: &UnitCode,
        batch: &mut Batch,
    ) -> Result<(), store::Error> {
        if let Some((row, _)) = self.unreturned(peer).await? {
            EpochRow { returned: row.returned + 1, ..row }.put(batch);
        }
        Ok(())
    }

    /// Forgets a bounded number of deliveries and statements that were kept long enough; true if
    /// there may be more.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn sweep(&self) -> Result<bool, store::Error> {
        let until = self.unit.clock.now_unix_ms() - KEPT_MS;
        let delivered = self.unit.forget_delivered(until, SWEEP, &self.receipts).await?;
        let (store, own) = (self.unit.store.as_ref(), &self.unit.code);
        let (mut batch, mut after) = (Batch::new(own), None::<Vec<u8>>);
        'pages: loop {
            let rows = store.scan(own, Table::Received, b"", after.as_deref(), 1_000).await?;
            for (key, value) in &rows {
                let (_, time, _) = read_received(key, value)?;
                if time < until {
                    batch.delete(Table::Received, key.clone());
                }
                if batch.len() >= SWEEP {
                    break 'pages;
                }
            }
            match rows.last() {
                Some((key, _)) if rows.len() == 1_000 => after = Some(key.clone()),
                _ => break,
            }
        }
        let received = batch.len();
        if received > 0 {
            store.submit(batch).await?;
        }
        Ok(delivered >= SWEEP || received >= SWEEP)
    }
}
