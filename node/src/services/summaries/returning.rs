//! Own reports that were withdrawn, or came back after a restore: the newest version that a peer
//! knows is the one that the next one follows.

use std::collections::BTreeSet;

use tokio::sync::MutexGuard;

use super::{FORMAT, Pointer, Summaries, summary_key};
use crate::{
    domain::{period::Period, summary::SummaryKind},
    statement::{
        header::{self, Statement, StatementId},
        summary::decode_body,
    },
    store::{self, Batch, Table, format},
};

impl Summaries {
    /// While it is held, nothing is published: a report that is under way would follow the version that
    /// it has read, and put it in the place of one that came back meanwhile. Taken before the unit's
    /// work is begun.
    pub(in crate::services) async fn hold(&self) -> MutexGuard<'_, ()> {
        self.publishing.lock().await
    }

    /// The period is computed again, and published if it changed.
    pub(in crate::services) fn wait_for(&self, period: &str) {
        self.waiting.add(period.to_owned());
    }

    /// Takes back that `withdrawn` were reported: the version before them is the newest again.
    ///
    /// # Errors
    ///
    /// The store's.
    pub(in crate::services) async fn take_back(
        &self,
        batch: &mut Batch,
        period: &str,
        withdrawn: &BTreeSet<StatementId>,
    ) -> Result<(), store::Error> {
        let Ok(period) = period.parse::<Period>() else { return Ok(()) };
        let Some(mut pointer) = self.pointer(&period, &self.unit.code).await? else {
            return Ok(());
        };
        let key = summary_key(&period.to_string(), &self.unit.code);
        if !withdrawn.contains(&pointer.id()?) {
            return Ok(());
        }
        while withdrawn.contains(&pointer.id()?) {
            let Some(before) = self.before(&pointer).await? else {
                batch.delete(Table::Summaries, key);
                return Ok(());
            };
            pointer = before;
        }
        batch.put(Table::Summaries, key, format::write(FORMAT, &pointer));
        Ok(())
    }

    /// The version that one superseded.
    async fn before(&self, pointer: &Pointer) -> Result<Option<Pointer>, store::Error> {
        let Some((summary, _)) = self.load(pointer).await? else { return Ok(None) };
        let Some(id) = summary.supersedes else { return Ok(None) };
        let Ok(id) = StatementId::try_from(&id[..]) else { return Ok(None) };
        let Some(envelope) = self.unit.statement(id).await? else { return Ok(None) };
        let damaged = |error: header::Malformed| {
            store::Error::Engine(format!("a stored summary cannot be read: {error}"))
        };
        let statement = header::decode(&envelope.payload).map_err(damaged)?;
        let summary = decode_body(&statement.body).map_err(damaged)?;
        Ok(Some(Pointer {
            version: summary.version,
            statement_id: id.to_string(),
            payload_sha256: hex::encode(lianxi_proto::envelope::payload_sha256(&envelope)),
            received_unix_ms: statement.header.time_unix_ms,
        }))
    }

    /// Puts an own report that came back as the newest version, unless a newer one is there.
    ///
    /// # Errors
    ///
    /// The store's.
    pub(in crate::services) async fn replay(
        &self,
        batch: &mut Batch,
        statement: &Statement,
        payload_sha256: [u8; 32],
    ) -> Result<(), store::Error> {
        let Ok(summary) = decode_body(&statement.body) else { return Ok(()) };
        if summary.kind != SummaryKind::Reported || summary.unit != self.unit.code {
            return Ok(());
        }
        let key = summary_key(&summary.period.to_string(), &self.unit.code);
        let row = self.unit.store.get(&self.unit.code, Table::Summaries, &key).await?;
        let known: Option<Pointer> =
            row.as_deref().map(|row| format::read(FORMAT, row)).transpose()?;
        let id = statement.header.id.to_string();
        let is_newest =
            |known: Pointer| known.version > summary.version || known.statement_id == id;
        if known.is_some_and(is_newest) {
            return Ok(());
        }
        match row {
            Some(row) => batch.require(Table::Summaries, key.clone(), row),
            None => batch.require_absent(Table::Summaries, key.clone()),
        }
        let pointer = Pointer {
            version: summary.version,
            statement_id: id,
            payload_sha256: hex::encode(payload_sha256),
            received_unix_ms: statement.header.time_unix_ms,
        };
        batch.put(Table::Summaries, key, format::write(FORMAT, &pointer));
        Ok(())
    }
}
