//! Withdrawn statements, each with the outboxes that it was taken out of: those that are to be made
//! again, and those that go on as they are once a peer has shown that their number is their own.
//!
//! Promises that a statement and its outboxes are noted in the batch that withdraws it, and forgotten
//! in the one that puts it, or its successor, into them.

use super::{FORMAT, Unit, Work};
use crate::{
    domain::unit::UnitCode,
    services::exchange::Lane,
    statement::header::StatementId,
    store::{self, Batch, Table},
};

/// To be made again.
const AGAIN: &[u8] = b"again/";

/// Waits for a peer that returns it.
const HELD_BACK: &[u8] = b"held-back/";

/// Bytes of an id.
const ID_BYTES: usize = 16;

/// A withdrawn statement.
#[derive(Debug)]
pub struct TakenOut {
    /// Its id.
    pub id: StatementId,
    outboxes: Vec<(UnitCode, Lane)>,
    keys: Vec<Vec<u8>>,
}

fn damaged() -> store::Error {
    store::Error::Engine("a row of a withdrawn statement is damaged".to_owned())
}

/// Notes that a statement was taken out of the outbox and lane whose rows begin with `lane`.
pub(super) fn note(batch: &mut Batch, id: StatementId, lane: &[u8], is_made_again: bool) {
    let prefix = if is_made_again { AGAIN } else { HELD_BACK };
    batch.put(Table::Meta, [prefix, id.as_bytes(), lane].concat(), [FORMAT]);
}

/// The peer and lane whose rows begin with `lane`.
pub(super) fn outbox(lane: &[u8]) -> Result<(UnitCode, Lane), store::Error> {
    let (peer, lane) = lane.split_last_chunk::<2>().ok_or_else(damaged)?;
    let peer = std::str::from_utf8(peer).ok().and_then(|text| text.parse().ok());
    let lane = Lane::ALL.into_iter().find(|known| *known as u8 == lane[1]);
    peer.zip(lane).ok_or_else(damaged)
}

impl Unit {
    /// The next withdrawn statement that is to be made again.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn next_again(&self) -> Result<Option<TakenOut>, store::Error> {
        let first = self.store.scan(&self.code, Table::Meta, AGAIN, None, 1).await?;
        let Some((key, _)) = first.first() else { return Ok(None) };
        let id = key.get(AGAIN.len()..AGAIN.len() + ID_BYTES).ok_or_else(damaged)?;
        self.taken_out(AGAIN, StatementId::try_from(id).map_err(|_| damaged())?).await
    }

    /// The withdrawn statement of that id, if it waits for a peer that returns it.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn held_back(&self, id: StatementId) -> Result<Option<TakenOut>, store::Error> {
        self.taken_out(HELD_BACK, id).await
    }

    async fn taken_out(
        &self,
        prefix: &[u8],
        id: StatementId,
    ) -> Result<Option<TakenOut>, store::Error> {
        let of_id = [prefix, id.as_bytes()].concat();
        let rows = self.store.scan(&self.code, Table::Meta, &of_id, None, usize::MAX).await?;
        let keys: Vec<_> = rows.into_iter().map(|(key, _)| key).collect();
        let outboxes = keys.iter().map(|key| outbox(&key[of_id.len()..]));
        let outboxes: Vec<_> = outboxes.collect::<Result<_, _>>()?;
        Ok((!outboxes.is_empty()).then_some(TakenOut { id, outboxes, keys }))
    }
}

impl Work {
    /// Puts a statement where a withdrawn one waited, or nothing, and forgets that it was withdrawn.
    pub fn put_back(&mut self, taken_out: TakenOut, statement: Option<StatementId>) {
        for (peer, lane) in taken_out.outboxes {
            if let Some(id) = statement {
                self.enqueue(&peer, lane, id);
            }
        }
        for key in taken_out.keys {
            self.batch.delete(Table::Meta, key);
        }
    }
}
