//! Own notices and receipts that come back after a restore.
//!
//! Promises that an issuer has its notice again and that it goes on to whoever may have missed it,
//! and that a unit that decided or acted does neither a second time.

use super::{FORMAT, Notices, READERS_INSIDE, ReceiptRow, Row, outline, receipt_key};
use crate::{
    domain::notice::Receipt,
    services::{
        exchange::Lane,
        unit::{Draft, Work},
    },
    statement::{
        header::{Statement, StatementId},
        notice::decode_receipt,
        sealed::Outline,
    },
    store::{self, Table, format},
};

impl Notices {
    /// Puts an own notice as it was issued. It is sent to all once more, because of some of them it
    /// may have waited in the outbox that is lost; who has it passes it over by its id.
    pub(in crate::services) fn replay(&self, work: &mut Work, statement: &Statement) {
        let header = &statement.header;
        let told = outline(header).ok().zip(header.destination.as_ref());
        let Some(((level, _), destination)) = told else { return };
        let route = self.route(destination, level);
        work.enqueue_all(&route.children, Lane::Notice, header.id);
        let others = self.addressed(destination, level, header.time_unix_ms);
        let others = others.into_iter().map(|(unit, _)| unit);
        let others: Vec<_> = others.filter(|unit| *unit != self.unit.code).collect();
        if others.len() >= READERS_INSIDE {
            work.grant_all(others, Lane::Notice, header.id);
        }
        let row = Row {
            issuer: header.source.clone(),
            destination: destination.clone(),
            issued_unix_ms: header.time_unix_ms,
            exercise: header.exercise,
            addressed: route.addressed,
        };
        work.batch.require_absent(Table::Notices, *header.id.as_bytes());
        work.batch.put(Table::Notices, *header.id.as_bytes(), format::write(FORMAT, &row));
        if route.addressed
            && let Ok(Some(notice)) = self.open(statement, &[])
        {
            let receipt = self.decide(header.id, &notice);
            let row = ReceiptRow {
                stage: receipt.stage as u8,
                reason: receipt.reason,
                note: receipt.note,
                time_unix_ms: header.time_unix_ms,
            };
            let key = receipt_key(header.id, &self.unit.code);
            work.batch.put(Table::Receipts, key, format::write(FORMAT, &row));
        }
    }

    /// Puts the stage of an own receipt, unless a later one is there.
    ///
    /// # Errors
    ///
    /// The store's.
    pub(in crate::services) async fn replay_receipt(
        &self,
        work: &mut Work,
        statement: &Statement,
    ) -> Result<(), store::Error> {
        let header = &statement.header;
        let outline = header.sealing.as_ref().and_then(|sealing| sealing.outline.as_ref());
        let (Some(Outline::Receipt { stage, reason }), Ok(notice)) =
            (outline, header.subject.parse::<StatementId>())
        else {
            return Ok(());
        };
        // One for a unit that merged into this one is that unit's.
        let key = receipt_key(notice, header.on_behalf_of.as_ref().unwrap_or(&self.unit.code));
        let held = self.unit.store.get(&self.unit.code, Table::Receipts, &key).await?;
        let before: Option<ReceiptRow> =
            held.as_deref().map(|row| format::read(FORMAT, row)).transpose()?;
        if !stage.supersedes(before.and_then(|row| row.stage())) {
            return Ok(());
        }
        let row = ReceiptRow {
            stage: *stage as u8,
            reason: reason.clone(),
            note: self.note_of(statement),
            time_unix_ms: header.time_unix_ms,
        };
        match held {
            Some(held) => work.batch.require(Table::Receipts, key.clone(), held),
            None => work.batch.require_absent(Table::Receipts, key.clone()),
        }
        work.batch.put(Table::Receipts, key, format::write(FORMAT, &row));
        Ok(())
    }

    /// The note of an own receipt; those of earlier versions were sealed to the issuer alone.
    fn note_of(&self, receipt: &Statement) -> String {
        let body = self.unit.read(receipt, &[]).ok().flatten();
        let receipt = body.and_then(|body| decode_receipt(&body).ok());
        receipt.map(|receipt| receipt.note).unwrap_or_default()
    }

    /// An own receipt once more, for another number.
    pub(in crate::services) fn again(&self, statement: &Statement) -> Option<Draft> {
        let header = &statement.header;
        let outline = header.sealing.as_ref().and_then(|sealing| sealing.outline.as_ref());
        let Some(Outline::Receipt { stage, reason }) = outline else { return None };
        let notice_id: StatementId = header.subject.parse().ok()?;
        let receipt = Receipt {
            notice_id: *notice_id.as_bytes(),
            stage: *stage,
            reason: reason.clone(),
            note: self.note_of(statement),
        };
        let issuer = header.destination.as_ref()?;
        let unit = header.on_behalf_of.as_ref().unwrap_or(&self.unit.code);
        Some(self.receipt_draft(&receipt, unit, issuer, notice_id, header.exercise))
    }
}
