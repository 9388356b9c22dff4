//! An order that is given again, and orders that have to wait for another one.
//!
//! Promises that whoever did not see the answer to an order can give it again: it is the same order,
//! nothing is done twice. Of a division that one of its parts refused nothing is waited for.

use super::{Reforms, Wanted, row::Row};
use crate::{clock::UnixMillis, domain::reform::Order, statement::header::StatementId, store};

impl Reforms {
    /// The orders that this unit gave, the oldest first, without those that came to nothing.
    pub(super) async fn own_orders(&self) -> Result<Vec<(StatementId, Row)>, store::Error> {
        let mut rows = self.rows().await?;
        rows.retain(|(_, row)| row.by == self.unit.code && !row.asked_only);
        let whole = |(id, row): &(StatementId, Row)| row.whole().unwrap_or(*id);
        let refused: Vec<StatementId> =
            rows.iter().filter(|(_, row)| row.is_refused()).map(whole).collect();
        rows.retain(|row| !refused.contains(&whole(row)));
        Ok(rows)
    }

    /// The newest order that says the same, if it is on its way, or was carried out and stands.
    pub(super) fn given_before(
        &self,
        wanted: &Wanted,
        rows: &[(StatementId, Row)],
        now: UnixMillis,
    ) -> Option<StatementId> {
        let same = rows.iter().rev().find(|(_, row)| row.whole().is_none() && row.says(wanted));
        let (id, row) = same?;
        // Of a division each child goes by itself.
        let is_part = |part: &Row| part.whole() == Some(*id);
        let on_its_way =
            rows.iter().any(|(one, row)| (one == id || is_part(row)) && row.is_pending(now));
        let stands = row.moved_unix_ms.is_some() && self.stands(row);
        (on_its_way || stands).then_some(*id)
    }

    /// True if everybody is where an order that was carried out put him.
    fn stands(&self, row: &Row) -> bool {
        let trust = self.unit.trust();
        match &row.parts {
            Some(parts) => parts.children.iter().all(|child| trust.parent(child) == Some(&row.to)),
            None => trust.parent(&row.unit) == Some(&row.to),
        }
    }
}

/// What has to be done before an order can be given, if there is such.
pub(super) fn barring(rows: &[(StatementId, Row)], order: &Order, now: UnixMillis) -> Option<Row> {
    let bars =
        |row: &Row| row.bars(order, now) || order.steps().iter().any(|step| row.bars(step, now));
    rows.iter().map(|(_, row)| row).find(|row| bars(row)).cloned()
}
