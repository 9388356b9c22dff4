//! Open items that went from a unit that was divided to its sibling: who acts on which of them.
//!
//! Promises that an item is acted on by one unit at a time, and that what the sibling signs about it
//! holds the order by which it has it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Unit;
use crate::{
    domain::unit::UnitCode,
    services::intake::{Arrived, Refused},
    statement::{header::StatementId, reform::order_to_grant},
    store::{self, Table, format},
};

const FORMAT: u8 = 1;

/// An item that went to another unit.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Part {
    /// Id of the order.
    order: String,
    /// Unit that was divided.
    pub of: UnitCode,
    /// Its sibling, which acts on the item.
    pub to: UnitCode,
    /// Of a whistle, where it came from: steps and desks that the sibling was told.
    pub told: usize,
}

impl Part {
    /// An item that goes by `order`.
    pub fn new(order: StatementId, of: UnitCode, to: UnitCode, told: usize) -> Self {
        Self { order: order.to_string(), of, to, told }
    }

    /// The order.
    pub fn order(&self) -> Option<StatementId> {
        self.order.parse().ok()
    }

    /// As this, with so much told.
    pub fn told(self, told: usize) -> Self {
        Self { told, ..self }
    }

    /// Key and value in [`Table::Handed`].
    pub fn row(&self, item: StatementId) -> (Table, Vec<u8>, Vec<u8>) {
        (Table::Handed, item.as_bytes().to_vec(), format::write(FORMAT, self))
    }
}

impl Unit {
    /// What is known of an item that went from here to a sibling, or came from one.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn part(&self, item: StatementId) -> Result<Option<Part>, store::Error> {
        let row = self.store.get(&self.code, Table::Handed, item.as_bytes()).await?;
        row.map(|row| format::read(FORMAT, &row)).transpose()
    }

    /// Items that went from here to a sibling.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn parts_handed(&self) -> Result<Vec<(StatementId, Part)>, store::Error> {
        let damaged = || store::Error::Engine("the key of a handed item is damaged".to_owned());
        let rows = self.store.scan(&self.code, Table::Handed, b"", None, usize::MAX).await?;
        let mut parts = Vec::new();
        for (key, value) in rows {
            let id = StatementId::try_from(&key[..]).map_err(|_| damaged())?;
            let part: Part = format::read(FORMAT, &value)?;
            if part.of == self.code {
                parts.push((id, part));
            }
        }
        Ok(parts)
    }

    /// The order by which this unit has an item, as the header of a statement about it holds it.
    ///
    /// # Errors
    ///
    /// The store's; an order that is missing.
    pub async fn handed_by(&self, part: &Part) -> Result<Bytes, store::Error> {
        let missing = || store::Error::Engine("the order of a handed item is missing".to_owned());
        let order = self.statement(part.order().ok_or_else(missing)?).await?;
        Ok(order_to_grant(&order.ok_or_else(missing)?).into())
    }

    /// In whose name the source of a statement about `item` speaks, if an order says so.
    ///
    /// # Errors
    ///
    /// [`Refused`] for an order that does not say so.
    pub fn speaks_for<'a>(
        &self,
        arrived: &'a Arrived,
        item: StatementId,
    ) -> Result<Option<&'a UnitCode>, Refused> {
        let header = &arrived.statement.header;
        if header.handed_by.is_empty() {
            return Ok(None);
        }
        let checked = self.trust().check_handed(header, item.as_bytes(), self.clock.now_unix_ms());
        Ok(Some(checked?))
    }
}
