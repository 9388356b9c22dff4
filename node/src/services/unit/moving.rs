//! The outbox of a unit whose parent is another one from a day on.

use std::sync::Arc;

use super::{
    Unit, Work,
    outbox::{OutboxRow, outbox_prefix, sequence_of},
};
use crate::{
    domain::unit::UnitCode,
    services::exchange::Lane,
    statement::header::{self, StatementId, kinds},
    store::{self, Table},
};

/// Rows that one commit moves: each is one removed and two written.
const PER_COMMIT: usize = 60;

impl Unit {
    /// What waits for `from` waits for `to`, in its order. What concerned their link alone is dropped.
    ///
    /// # Errors
    ///
    /// The store's; what was moved before stays moved.
    pub async fn hand_over_outbox(
        self: &Arc<Self>,
        from: &UnitCode,
        to: &UnitCode,
    ) -> Result<(), store::Error> {
        for lane in Lane::ALL {
            let prefix = outbox_prefix(from, lane);
            loop {
                let mut work = self.begin().await;
                let rows =
                    self.store.scan(&self.code, Table::Outbox, &prefix, None, PER_COMMIT).await?;
                if rows.is_empty() {
                    break;
                }
                for (key, value) in rows {
                    let row = OutboxRow::decode(&value)?;
                    let id = row.statement_id()?;
                    if !self.is_of_one_link(id).await? {
                        work.enqueue_sized(to, lane, id, row.bytes);
                    }
                    work.remove_row(lane, key, &row);
                }
                work.commit().await?;
            }
        }
        Ok(())
    }

    async fn is_of_one_link(&self, id: StatementId) -> Result<bool, store::Error> {
        let kept = self.statement(id).await?;
        let header = kept.and_then(|kept| header::decode(&kept.payload).ok());
        Ok(header.is_none_or(|statement| statement.header.kind == kinds::REJECTION))
    }

    /// Removes what waits for `peer` in a lane up to `last`, in the commit of `work`.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn drop_outbox(
        &self,
        work: &mut Work,
        peer: &UnitCode,
        lane: Lane,
        last: u64,
    ) -> Result<(), store::Error> {
        let prefix = outbox_prefix(peer, lane);
        let rows = self.store.scan(&self.code, Table::Outbox, &prefix, None, 200).await?;
        for (key, value) in rows {
            if sequence_of(&key)? <= last {
                work.remove_row(lane, key, &OutboxRow::decode(&value)?);
            }
        }
        Ok(())
    }
}
