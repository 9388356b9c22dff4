//! Units that were divided: who speaks for a unit about an item that went to its sibling.
//!
//! Promises that nobody is believed about the item of another unit without an order of a unit above
//! both, which names the item and both of them, and not before its day.

use super::{Error, SKEW_TOLERANCE_MS, Trust};
use crate::{clock::UnixMillis, domain::unit::UnitCode, statement::header::Header};

impl Trust {
    /// Checks that the source of a statement speaks for the unit of `on_behalf_of` about `item`, by
    /// the order that its header holds; returns that unit.
    ///
    /// # Errors
    ///
    /// Those of an order; [`Error::Reform`] for one that does not say so.
    pub fn check_handed<'a>(
        &self,
        header: &'a Header,
        item: &[u8; 16],
        now: UnixMillis,
    ) -> Result<&'a UnitCode, Error> {
        let refuse = |unit: &UnitCode, reason| Err(Error::Handed { unit: unit.clone(), reason });
        let Some(of) = &header.on_behalf_of else {
            return refuse(&header.source, "it does not say in whose name it speaks");
        };
        let (order, by, time) = self.open_order(&header.handed_by, Some(now))?;
        let Some(division) = &order.division else {
            return refuse(of, "the order divides nobody");
        };
        if order.unit != *of || order.to != header.source {
            return refuse(of, "the order is about other units");
        }
        if !division.items.contains(item) {
            return refuse(of, "the order does not name this item");
        }
        if !self.is_between_siblings(&order, &by, time)
            || !self.line_at(of, time).skip(1).any(|up| *up == by)
        {
            return refuse(of, "the order is by a unit that is not above both");
        }
        if header.time_unix_ms < order.effective_unix_ms.saturating_sub(SKEW_TOLERANCE_MS) {
            return refuse(of, "the day of the order has not come");
        }
        Ok(of)
    }
}
