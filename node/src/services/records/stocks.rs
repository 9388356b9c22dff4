//! What is there at the end of a day: read from what came and went after it.
//!
//! All of it that went after the day, less all that came after it. So the stock of a period that ended
//! long ago is right again as soon as a record of it changes, and one that ended just now is read from
//! few components. An age asks for what went after the day alone: when that came is kept in order.

use std::collections::BTreeMap;

use jiff::civil::Date;

use super::{
    Error, PAGE, Records,
    session::Session,
    stored::{self, Counters, Side, decode_cell, ordered, stock_day, stock_month, unordered},
};
use crate::{
    domain::{
        catalogue::Catalogue,
        component::Component,
        indicator::{Indicator, Measure},
        period::{Month, Period},
        stock::end_milli,
    },
    store::Table,
};

/// After the keys of all groups of one month or day: longer than the hash of one.
const AFTER_GROUPS: [u8; 17] = [0xff; 17];

/// Components by group.
type Groups = BTreeMap<String, Component>;

/// A stored component of one group.
struct Cell {
    key: Vec<u8>,
    group: String,
    component: Component,
}

impl Records {
    /// The stock of an indicator at the end of a period: groups in which something is there.
    pub(super) async fn stock(
        &self,
        catalogue: &Catalogue,
        indicator: &Indicator,
        period: &Period,
    ) -> Result<Groups, Error> {
        let day = period.last_day();
        let went = self.after(indicator, Side::Until, day).await?;
        if matches!(indicator.measure, Measure::Age) {
            return self.ages(&went, end_milli(day, &catalogue.time_zone)).await;
        }
        let mut groups = Groups::new();
        for cell in went {
            add(&mut groups, cell.group, &cell.component)?;
        }
        let mut came = Groups::new();
        for cell in self.after(indicator, Side::From, day).await? {
            add(&mut came, cell.group, &cell.component)?;
        }
        for (group, component) in came {
            let there = groups.get_mut(&group).ok_or(Error::Lost)?;
            *there = there.subtract(&component)?;
        }
        groups.retain(|_, component| !component.is_zero());
        Ok(groups)
    }

    /// The ages at `end_milli` of what was there then, of what went after it.
    async fn ages(&self, went: &[Cell], end_milli: i64) -> Result<Groups, Error> {
        let clock = self.clock.as_ref();
        let counters = Counters::default();
        let values = Session::new(self.store.as_ref(), &self.unit, clock, counters, None);
        let mut groups = Groups::new();
        for cell in went {
            let Component::Extreme { min_milli: Some(first), max_milli: Some(last) } =
                cell.component
            else {
                continue;
            };
            if first >= end_milli {
                continue;
            }
            let last = if last < end_milli {
                last
            } else {
                let below = values.below(&cell.key, ordered(end_milli)).await?;
                unordered(below.ok_or(Error::Lost)?)
            };
            let ages = Component::Extreme {
                min_milli: Some(end_milli - last),
                max_milli: Some(end_milli - first),
            };
            add(&mut groups, cell.group.clone(), &ages)?;
        }
        Ok(groups)
    }

    /// One side of a stock after a day.
    async fn after(
        &self,
        indicator: &Indicator,
        side: Side,
        day: Date,
    ) -> Result<Vec<Cell>, Error> {
        let prefix = stored::stock_prefix(&indicator.id, indicator.version, side);
        // Periods end in the years 1 to 9999.
        let month = Month::of_date(day).map_err(|_| Error::Lost)?;
        let end = |mut key: Vec<u8>| {
            key.extend(AFTER_GROUPS);
            key
        };
        let months = [prefix.as_slice(), b"m"].concat();
        let mut cells = self.cells(&months, end(stock_month(&prefix, Some(month)))).await?;
        if day < month.last_day() {
            let mut days = stock_day(&prefix, day);
            let after = end(days.clone());
            days.truncate(days.len() - 2);
            cells.extend(self.cells(&days, after).await?);
        }
        Ok(cells)
    }

    async fn cells(&self, prefix: &[u8], mut after: Vec<u8>) -> Result<Vec<Cell>, Error> {
        let mut cells = Vec::new();
        loop {
            let page = self.scan(Table::Components, prefix, Some(&after)).await?;
            let is_last = page.len() < PAGE;
            for (key, value) in page {
                let (group, component) = decode_cell(&value)?;
                after.clone_from(&key);
                cells.push(Cell { key, group, component });
            }
            if is_last {
                return Ok(cells);
            }
        }
    }
}

fn add(groups: &mut Groups, group: String, component: &Component) -> Result<(), Error> {
    let total = groups.entry(group).or_insert_with(|| Component::zero(component.kind()));
    *total = total.add(component)?;
    Ok(())
}

#[cfg(test)]
mod tests;
