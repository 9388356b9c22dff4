//! What a new program or a new catalogue at a unit would do to its children, before it is there.
//!
//! Rests on what the children said of their programs in their hellos and on what they reported: it
//! asks nobody and changes nothing. Promises that a child of which nothing is known is never called
//! fine. Must not say anything of units below the children: they are not known here.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    catalogues::{self, Catalogues},
    exchange::{Lane, Standing},
    summaries::Summaries,
    unit::Unit,
};
use crate::{
    clock::UnixMillis,
    domain::{
        preview::{BrokenSeries, Outlook, Program, Protocols},
        unit::UnitCode,
    },
    store::{self, Batch, Table, format},
};

/// Format of the rows of [`Table::Programs`].
const FORMAT: u8 = 1;

/// A hello that says nothing new is written down again after this time, so that a street that comes
/// back at once costs no commits.
const WRITTEN_AGAIN_MS: i64 = 60 * 60 * 1_000;

/// What a child's program said of itself in its newest hello.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Heard {
    /// The program.
    pub program: Program,
    /// When, exact to the hour.
    pub greeted_unix_ms: UnixMillis,
}

#[derive(Deserialize, Serialize)]
struct Row {
    software: String,
    lowest: u32,
    highest: u32,
    catalogue_format: u32,
    greeted_unix_ms: UnixMillis,
}

impl Heard {
    fn encode(&self) -> Vec<u8> {
        let Program { software, protocols, catalogue_format } = &self.program;
        let row = Row {
            software: software.clone(),
            lowest: protocols.lowest,
            highest: protocols.highest,
            catalogue_format: *catalogue_format,
            greeted_unix_ms: self.greeted_unix_ms,
        };
        format::write(FORMAT, &row)
    }

    fn decode(bytes: &[u8]) -> Result<Self, store::Error> {
        let row: Row = format::read(FORMAT, bytes)?;
        let program = Program {
            software: row.software,
            protocols: Protocols { lowest: row.lowest, highest: row.highest },
            catalogue_format: row.catalogue_format,
        };
        Ok(Self { program, greeted_unix_ms: row.greeted_unix_ms })
    }

    /// True if it is to be written over `before`. A hello in a courier file may be older than one
    /// over a link.
    fn replaces(&self, before: &Self) -> bool {
        let later_ms = self.greeted_unix_ms.saturating_sub(before.greeted_unix_ms);
        later_ms >= WRITTEN_AGAIN_MS || (later_ms >= 0 && self.program != before.program)
    }
}

/// What a change would do to one child.
#[derive(Clone, Debug)]
pub struct Child {
    /// The child.
    pub unit: UnitCode,
    /// Its title.
    pub title: String,
    /// What its program said; `None`: it never greeted.
    pub heard: Option<Heard>,
    /// What becomes of it.
    pub outlook: Outlook,
}

/// What a catalogue would do to one child.
#[derive(Clone, Debug)]
pub struct UnderCatalogue {
    /// The child, with what its program makes of the document.
    pub child: Child,
    /// The newest period that it reported; `None`: it reported nothing.
    pub period: Option<String>,
    /// Series of that report that would break.
    pub broken: BrokenSeries,
    /// The catalogue in force is still on its way there.
    pub behind: bool,
}

/// What a catalogue would do.
#[derive(Clone, Debug)]
pub struct CataloguePreview {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: u64,
    /// Format of its document.
    pub format: u32,
    /// To each child, in the order of codes.
    pub children: Vec<UnderCatalogue>,
}

/// Previews of one unit.
#[derive(Debug)]
pub struct Previews {
    unit: Arc<Unit>,
    catalogues: Arc<Catalogues>,
    summaries: Arc<Summaries>,
}

impl Previews {
    /// Previews of `unit`.
    pub fn new(unit: Arc<Unit>, catalogues: Arc<Catalogues>, summaries: Arc<Summaries>) -> Self {
        Self { unit, catalogues, summaries }
    }

    /// Keeps what a child says of its program. `is_now`: over a link, not in a file that may be old.
    /// Durable with the next commit that is waited for.
    ///
    /// # Errors
    ///
    /// The store's.
    pub(super) async fn greeted(
        &self,
        child: &UnitCode,
        hello: &Standing,
        is_now: bool,
    ) -> Result<(), store::Error> {
        let now = self.unit.clock.now_unix_ms();
        let greeted_unix_ms = if is_now { now } else { hello.clock_unix_ms.min(now) };
        let heard = Heard { program: hello.program.clone(), greeted_unix_ms };
        if self.heard(child).await?.is_some_and(|before| !heard.replaces(&before)) {
            return Ok(());
        }
        let mut batch = Batch::new(&self.unit.code);
        batch.put(Table::Programs, child.as_str(), heard.encode());
        self.unit.store.submit(batch).await
    }

    async fn heard(&self, child: &UnitCode) -> Result<Option<Heard>, store::Error> {
        let key = child.as_str().as_bytes();
        let row = self.unit.store.get(&self.unit.code, Table::Programs, key).await?;
        row.map(|row| Heard::decode(&row)).transpose()
    }

    /// Children that may link, with their titles.
    fn children(&self) -> Vec<(UnitCode, String)> {
        let trust = self.unit.trust();
        let children = trust.children(&self.unit.code).into_iter();
        let may_link = children.filter(|child| trust.revoked(child, None).is_none());
        let title = |child: &UnitCode| {
            let known = trust.delegation(child, None);
            known.map(|known| known.delegation.title.clone()).unwrap_or_default()
        };
        may_link.map(|child| (child.clone(), title(child))).collect()
    }

    /// What becomes of the links to the children once this unit's host speaks `planned` only.
    /// `goes_along` tells units of this very host: they get the new program with it.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn of_protocols(
        &self,
        planned: Protocols,
        goes_along: impl Fn(&UnitCode) -> bool,
    ) -> Result<Vec<Child>, store::Error> {
        let mut children = Vec::new();
        for (unit, title) in self.children() {
            let heard = self.heard(&unit).await?;
            let outlook = if goes_along(&unit) {
                Outlook::Fine
            } else {
                Outlook::of_protocols(heard.as_ref().map(|heard| &heard.program), planned)
            };
            children.push(Child { unit, title, heard, outlook });
        }
        Ok(children)
    }

    /// What becomes of the children once `document` is published here.
    ///
    /// # Errors
    ///
    /// The document could not be published here, or the store's.
    pub async fn of_catalogue(
        &self,
        document: &[u8],
    ) -> Result<CataloguePreview, catalogues::Error> {
        let catalogue = self.catalogues.check(document)?;
        let reports = self.summaries.last_reports().await?;
        let mut children = Vec::new();
        for (unit, title) in self.children() {
            let heard = self.heard(&unit).await?;
            let program = heard.as_ref().map(|heard| &heard.program);
            let outlook = Outlook::of_format(program, catalogue.format);
            let report = reports.get(&unit);
            let broken = report
                .map(|(_, reported)| BrokenSeries::of(reported, &catalogue))
                .unwrap_or_default();
            children.push(UnderCatalogue {
                behind: heard.is_none() || self.unit.is_waiting(&unit, Lane::Catalogue).await?,
                period: report.map(|(period, _)| period.clone()),
                broken,
                child: Child { unit, title, heard, outlook },
            });
        }
        let (name, version, format) = (catalogue.name.clone(), catalogue.version, catalogue.format);
        Ok(CataloguePreview { name, version, format, children })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(software: &str, greeted_unix_ms: UnixMillis) -> Heard {
        let program = Program { software: software.to_owned(), ..Program::own() };
        Heard { program, greeted_unix_ms }
    }

    #[test]
    fn what_is_kept_comes_back_as_it_was_said() {
        let protocols = Protocols { lowest: 2, highest: 7 };
        let program = Program { software: "p/3".to_owned(), protocols, catalogue_format: 5 };
        let heard = Heard { program, greeted_unix_ms: 1_760_000_000_000 };
        assert_eq!(Heard::decode(&heard.encode()).unwrap(), heard);
    }

    #[test]
    fn a_hello_is_written_when_it_says_something_new_or_after_an_hour() {
        let before = heard("p/1", 10 * WRITTEN_AGAIN_MS);
        let after = |software, ms| heard(software, 10 * WRITTEN_AGAIN_MS + ms).replaces(&before);
        assert!(!after("p/1", WRITTEN_AGAIN_MS - 1));
        assert!(after("p/1", WRITTEN_AGAIN_MS));
        assert!(after("p/2", 0));
        assert!(!after("p/0", -1), "an old file says nothing about today");
    }
}
