//! Notices of units that merged into this one: it decides, marks and shows in their place.

use super::{Error, FORMAT, Notices, READERS_INSIDE, ReceiptRow, Row, receipt_key};
use crate::{
    domain::{notice::Stage, unit::UnitCode},
    services::{
        intake::{Arrived, Refused},
        unit::{Part, Unit},
    },
    statement::{
        handed::{Handed, HandedReceipt, MAX_RECEIPTS},
        header::{Header, StatementId},
    },
    store::{self, Table, format},
};

/// A row to write.
type Written = (Table, Vec<u8>, Vec<u8>);

impl Notices {
    /// Those of this unit, if it is `addressed`, and of the units that merged into it which have to act
    /// on a notice and have not said that it came.
    pub(super) async fn deciders(
        &self,
        header: &Header,
        addressed: bool,
    ) -> Result<Vec<UnitCode>, store::Error> {
        let Some(destination) = &header.destination else { return Ok(Vec::new()) };
        let mut waiting: Vec<UnitCode> =
            addressed.then(|| self.unit.code.clone()).into_iter().collect();
        {
            let trust = self.unit.trust();
            let acts = |unit: &&&UnitCode| {
                let level = trust.delegation(unit, None).map(|known| known.delegation.level);
                trust.heir(unit) == &self.unit.code
                    && level == Some(self.unit.level)
                    && trust.is_in_subtree(unit, destination)
                    && !trust.had_left(unit, header.time_unix_ms)
            };
            let inherited = trust.inherited(&self.unit.code);
            waiting.extend(inherited.iter().filter(acts).map(|unit| (*unit).clone()));
        }
        let Ok((level, _)) = super::outline(header) else { return Ok(Vec::new()) };
        if level != self.unit.level {
            waiting.retain(|unit| *unit == self.unit.code);
        }
        let mut deciders = Vec::new();
        for unit in waiting {
            if self.receipt(&receipt_key(header.id, &unit)).await?.is_none() {
                deciders.push(unit);
            }
        }
        Ok(deciders)
    }

    /// Units in whose name a stage is marked: this one, and those that merged into it and are not as
    /// far.
    pub(super) async fn marking(
        &self,
        (id, row): (StatementId, &Row),
        stage: Stage,
        part: Option<&Part>,
    ) -> Result<Vec<UnitCode>, Error> {
        let (mut marking, mut first) = (Vec::new(), None);
        let own = &self.unit.code;
        let mut acting = self.unit.own_and_inherited();
        match part {
            Some(part) if part.of == *own => acting.retain(|unit| unit != own),
            Some(part) => acting.push(part.of.clone()),
            None => {}
        }
        for unit in acting {
            let Some(before) = self.receipt(&receipt_key(id, &unit)).await? else { continue };
            match stage.check_follows(before.stage()) {
                Ok(()) => marking.push(unit),
                Err(error) => first = first.or(Some(error)),
            }
        }
        if !marking.is_empty() {
            return Ok(marking);
        }
        let handed = part.filter(|part| part.of == *own);
        Err(match first {
            Some(error) => error.into(),
            None if handed.is_some() => {
                let to = handed.map(|part| part.to.clone());
                Error::HandedOn(to.unwrap_or_else(|| own.clone()))
            }
            None if row.addressed => Error::Sealed(row.issuer.clone()),
            None => Error::NotAddressed,
        })
    }

    /// Whose receipt it is: its source's, or that of a unit which merged into the source.
    pub(super) fn receipt_of<'a>(&self, arrived: &'a Arrived) -> Result<&'a UnitCode, Refused> {
        let source = arrived.source();
        let Some(of) = &arrived.statement.header.on_behalf_of else { return Ok(source) };
        if let Ok(item) = arrived.statement.header.subject.parse()
            && let Some(of) = self.unit.speaks_for(arrived, item)?
        {
            return Ok(of);
        }
        if self.unit.trust().inherited(source).contains(&of) {
            return Ok(of);
        }
        let detail = format!("{of} has not merged into {source}");
        Err(Refused::new("wrong-source", "header.on_behalf_of", detail))
    }

    /// Adds units that said something of a notice whose destination has merged into another: its
    /// subtree is another one by now.
    pub(super) async fn add_reporting(
        &self,
        id: StatementId,
        destination: &UnitCode,
        addressed: &mut Vec<(UnitCode, String)>,
    ) -> Result<(), store::Error> {
        let stays = self.unit.trust().heir(destination) == destination;
        if stays && self.unit.part(id).await?.is_none() {
            return Ok(());
        }
        for receipt in self.receipts(id).await? {
            if addressed.iter().all(|(unit, _)| *unit != receipt.unit) {
                let title = {
                    let trust = self.unit.trust();
                    let known = trust.delegation(&receipt.unit, None);
                    known.map(|known| known.delegation.title.clone()).unwrap_or_default()
                };
                addressed.push((receipt.unit, title));
            }
        }
        addressed.sort();
        Ok(())
    }

    /// What units said of a notice, as known here.
    async fn receipts(&self, id: StatementId) -> Result<Vec<HandedReceipt>, store::Error> {
        let damaged = || store::Error::Engine("the key of a receipt is damaged".to_owned());
        let store = &self.unit.store;
        let rows = store.scan(&self.unit.code, Table::Receipts, id.as_bytes(), None, usize::MAX);
        let mut receipts = Vec::new();
        for (key, value) in rows.await? {
            let unit =
                key.get(id.as_bytes().len()..).and_then(|unit| std::str::from_utf8(unit).ok());
            let unit = unit.and_then(|unit| unit.parse().ok()).ok_or_else(damaged)?;
            let row: ReceiptRow = format::read(FORMAT, &value)?;
            let Some(stage) = row.stage() else { continue };
            let ReceiptRow { reason, note, time_unix_ms, .. } = row;
            receipts.push(HandedReceipt { unit, stage, reason, note, time_unix_ms });
        }
        Ok(receipts)
    }

    /// An open notice that this unit itself has to act on; its keys are left out.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn to_hand_part(&self, id: StatementId) -> Result<Option<Handed>, Error> {
        let own = &self.unit.code;
        let mut receipts = self.receipts(id).await?;
        receipts.retain(|receipt| receipt.unit == *own);
        let is_open =
            receipts.iter().any(|receipt| !matches!(receipt.stage, Stage::Done | Stage::Refused));
        let Some(statement) = self.unit.statement(id).await?.filter(|_| is_open) else {
            return Ok(None);
        };
        Ok(Some(Handed {
            statement,
            receipts,
            added: Vec::new(),
            succeeded: Vec::new(),
            taken: Vec::new(),
            given: Vec::new(),
        }))
    }

    /// The notices that this unit, or one that merged into it, issued or has to act on, with all that
    /// was said of them.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn to_hand_over(&self) -> Result<Vec<Handed>, Error> {
        let own = self.unit.own_and_inherited();
        let mut items = Vec::new();
        for state in self.list().await? {
            let receipts = self.receipts(state.id).await?;
            let acts = |receipt: &HandedReceipt| {
                own.contains(&receipt.unit)
                    && !matches!(receipt.stage, Stage::Done | Stage::Refused)
            };
            let Some(statement) = self.unit.statement(state.id).await? else { continue };
            if !own.contains(&state.issuer) && !receipts.iter().any(acts) {
                continue;
            }
            let given = state.given.into_iter().flat_map(|given| given.keys).collect::<Vec<_>>();
            let mut chunks: Vec<_> = receipts.chunks(MAX_RECEIPTS).map(<[_]>::to_vec).collect();
            if chunks.is_empty() {
                chunks.push(Vec::new());
            }
            items.extend(chunks.into_iter().map(|receipts| Handed {
                statement: statement.clone(),
                receipts,
                added: Vec::new(),
                succeeded: Vec::new(),
                taken: Vec::new(),
                given: given.iter().take(READERS_INSIDE).cloned().collect(),
            }));
        }
        Ok(items)
    }
}

/// Rows of a notice that a unit which merges into this one hands over; what is known here already
/// stays.
///
/// # Errors
///
/// The store's.
pub(in crate::services) async fn handed_rows(
    unit: &Unit,
    header: &Header,
    receipts: &[HandedReceipt],
) -> Result<Vec<Written>, store::Error> {
    let mut rows = Vec::new();
    let (store, own) = (&unit.store, &unit.code);
    let key = header.id.as_bytes();
    if store.get(own, Table::Notices, key).await?.is_none() {
        let row = Row {
            issuer: header.source.clone(),
            destination: header.destination.clone().unwrap_or_else(|| own.clone()),
            issued_unix_ms: header.time_unix_ms,
            exercise: header.exercise,
            addressed: false,
        };
        rows.push((Table::Notices, key.to_vec(), format::write(FORMAT, &row)));
    }
    for receipt in receipts {
        let key = receipt_key(header.id, &receipt.unit);
        let before = store.get(own, Table::Receipts, &key).await?;
        let before: Option<ReceiptRow> =
            before.map(|row| format::read(FORMAT, &row)).transpose()?;
        if receipt.stage.supersedes(before.and_then(|row| row.stage())) {
            let row = ReceiptRow {
                stage: receipt.stage as u8,
                reason: receipt.reason.clone(),
                note: receipt.note.clone(),
                time_unix_ms: receipt.time_unix_ms,
            };
            rows.push((Table::Receipts, key, format::write(FORMAT, &row)));
        }
    }
    Ok(rows)
}
