//! Components of indicators that a catalogue brings: built beside the others, shown when whole.
//!
//! What is built is written down. Figures are read only of what is, so that a build that was cut
//! off shows nothing; the next call clears its remains and begins again.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{
    Error, Records, State,
    prepared::Part,
    stored::{self, BUILT, split_cell_key},
};
use crate::{
    domain::catalogue::{Catalogue, Finest},
    store::{Batch, Table},
};

/// Removals of one batch.
const REMOVALS: usize = 250;

/// Indicators that components exist of.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Built(BTreeSet<BuiltIndicator>);

#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
struct BuiltIndicator {
    id: String,
    version: u32,
    /// What else decides which component a record counts in.
    basis: String,
}

impl Built {
    /// What a catalogue needs.
    pub(super) fn of(catalogue: &Catalogue) -> Self {
        let times: Vec<_> = catalogue
            .record_types
            .values()
            .map(|declared| format!("{}.{}", declared.name(), declared.time_field()))
            .collect();
        let basis = format!("{} {}", catalogue.time_zone_name, times.join(" "));
        let all = BuiltIndicator { id: String::new(), version: 0, basis };
        let indicators = catalogue.indicators.iter().map(|indicator| {
            let declared = catalogue.record_type(&indicator.record_type);
            let days = match catalogue.finest {
                Finest::Month => "",
                Finest::Day => " by day",
            };
            let basis = format!(
                "{} {}.{} {}{days}",
                catalogue.time_zone_name,
                indicator.record_type,
                declared.map_or("", |declared| declared.time_field()),
                hex::encode(indicator.definition_sha256()),
            );
            BuiltIndicator { id: indicator.id.clone(), version: indicator.version, basis }
        });
        Self(indicators.chain(std::iter::once(all)).collect())
    }

    pub(super) fn decode(value: &[u8]) -> Result<Self, Error> {
        let json = stored::unversioned("the list of built indicators", value)?;
        serde_json::from_slice(json)
            .map_err(|_| Error::Damaged("the list of built indicators".to_owned()))
    }

    fn encode(&self) -> Vec<u8> {
        let json = serde_json::to_vec(self).expect("invariant: the list holds numbers and text");
        stored::versioned(&json)
    }

    fn has(&self, id: &str, version: u32) -> bool {
        self.0.iter().any(|built| built.id == id && built.version == version)
    }
}

impl Records {
    /// Makes what is built into `wanted`.
    pub(super) async fn build(
        &self,
        catalogue: &Catalogue,
        state: &mut State,
        wanted: Built,
    ) -> Result<(), Error> {
        let kept = Built(state.built.0.intersection(&wanted.0).cloned().collect());
        if state.counters.records > 0 {
            self.write_built(&kept).await?;
            for table in [Table::Components, Table::ComponentValues] {
                self.clear(table, &kept).await?;
            }
            self.fill(catalogue, state, &kept).await?;
        }
        self.write_built(&wanted).await?;
        state.built = wanted;
        Ok(())
    }

    async fn write_built(&self, built: &Built) -> Result<(), Error> {
        let mut batch = Batch::new(&self.unit);
        batch.put(Table::Meta, BUILT, built.encode());
        Ok(self.store.submit(batch).await?)
    }

    /// Removes what belongs to no indicator of `kept`.
    async fn clear(&self, table: Table, kept: &Built) -> Result<(), Error> {
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = self.scan(table, &[], after.as_deref()).await?;
            let mut removed = Vec::new();
            for (key, _) in &page {
                let (_, indicator, version) = split_cell_key(key)?;
                if !kept.has(indicator, version) {
                    removed.push(key);
                }
            }
            for keys in removed.chunks(REMOVALS) {
                let mut batch = Batch::new(&self.unit);
                for key in keys {
                    batch.delete(table, key.as_slice());
                }
                self.store.submit(batch).await?;
            }
            match page.into_iter().last() {
                Some((last, _)) => after = Some(last),
                None => return Ok(()),
            }
        }
    }

    /// Adds all records to the components of indicators that are not in `kept`.
    async fn fill(
        &self,
        catalogue: &Catalogue,
        state: &mut State,
        kept: &Built,
    ) -> Result<(), Error> {
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = self.scan(Table::Records, &[], after.as_deref()).await?;
            let mut session = self.session(state);
            for (key, value) in &page {
                let mut parts: Vec<Part> = Vec::new();
                for part in self.stored_parts(catalogue, key, value)? {
                    let (_, indicator, version) = split_cell_key(&part.cell)?;
                    if !kept.has(indicator, version) {
                        parts.push(part);
                    }
                }
                if !session.fits(None, parts.iter(), 0)? {
                    session.flush(None).await?;
                }
                // A page that fails is not submitted, and the build begins again.
                for part in &parts {
                    session.add(part).await?;
                }
            }
            let flushed = session.flush(None).await;
            session.settle().await.and(flushed)?;
            state.counters = session.counters();
            state.stored_counters = session.into_stored_counters();
            match page.into_iter().last() {
                Some((last, _)) => after = Some(last),
                None => return Ok(()),
            }
        }
    }
}
