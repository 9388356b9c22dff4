//! The key of one statement to more readers than it can name: signed grants, a few at a time.
//!
//! The list of readers is in the batch of the statement itself. It shrinks in the same batches that
//! hold the grants, and a start goes on with what a stop left.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Draft, Unit, Work};
use crate::{
    domain::unit::UnitCode,
    services::exchange::Lane,
    statement::{
        header::{self, StatementId, kinds},
        sealed::{KeyGrant, MAX_GRANTED, encode_grant},
    },
    store::{self, Table, format},
};

/// Readers of one list: it stays below the store's limit for values.
const PER_LIST: usize = 1_000;

const FORMAT: u8 = 1;

/// Readers that have yet to get a key.
#[derive(Deserialize, Serialize)]
struct Waiting {
    statement: String,
    lane: u8,
    /// Those with the same parent stand together.
    readers: Vec<UnitCode>,
}

fn key(id: StatementId, part: usize) -> Vec<u8> {
    let mut key = id.as_bytes().to_vec();
    key.extend_from_slice(&u32::try_from(part).unwrap_or(u32::MAX).to_be_bytes());
    key
}

impl Work {
    /// Gives the key of a kept statement to units below, however many, after the statement itself.
    pub fn grant_all(&mut self, mut readers: Vec<UnitCode>, lane: Lane, id: StatementId) {
        {
            let trust = self.unit.trust();
            readers.sort_by_cached_key(|unit| (trust.parent(unit).cloned(), unit.clone()));
        }
        for (part, list) in readers.chunks(PER_LIST).enumerate() {
            let waiting =
                Waiting { statement: id.to_string(), lane: lane as u8, readers: list.to_vec() };
            self.batch.put(Table::Granting, key(id, part), format::write(FORMAT, &waiting));
            self.fans_out = true;
        }
    }
}

impl Unit {
    /// Goes on with every list that is left.
    pub(super) async fn grant_waiting(self: &Arc<Self>) -> Result<(), store::Error> {
        loop {
            let mut work = self.begin().await;
            let next = self.store.scan(&self.code, Table::Granting, b"", None, 1).await?;
            let Some((key, row)) = next.into_iter().next() else { return Ok(()) };
            let mut waiting: Waiting = format::read(FORMAT, &row)?;
            let lane = Lane::ALL.into_iter().find(|lane| *lane as u8 == waiting.lane);
            let (Some(lane), Ok(id)) = (lane, waiting.statement.parse::<StatementId>()) else {
                return Err(store::Error::Engine("a list of readers is damaged".into()));
            };
            let rest = waiting.readers.split_off(self.group(&waiting.readers));
            self.grant(&mut work, id, lane, &waiting.readers).await?;
            if rest.is_empty() {
                work.batch.delete(Table::Granting, key);
            } else {
                waiting.readers = rest;
                work.batch.put(Table::Granting, key, format::write(FORMAT, &waiting));
            }
            work.commit().await?;
        }
    }

    /// How many of the first readers have the same parent, and so go the same way.
    fn group(&self, readers: &[UnitCode]) -> usize {
        let trust = self.trust();
        let first = readers.first().and_then(|unit| trust.parent(unit));
        let same = readers.iter().take_while(|unit| trust.parent(unit) == first).count();
        same.clamp(1, MAX_GRANTED).min(readers.len())
    }

    async fn grant(
        &self,
        work: &mut Work,
        id: StatementId,
        lane: Lane,
        readers: &[UnitCode],
    ) -> Result<(), store::Error> {
        let failed = |error: &dyn std::fmt::Display| {
            store::Error::Engine(format!("cannot give the key of {id}: {error}"))
        };
        let envelope = self.statement(id).await?.ok_or_else(|| failed(&"it is missing"))?;
        let statement = header::decode(&envelope.payload).map_err(|error| failed(&error))?;
        let content_key = self.content_key(&statement, &[]).map_err(|error| failed(&error))?;
        let content_key = content_key.ok_or_else(|| failed(&"this unit is no reader"))?;
        let mut recipients = Vec::new();
        for reader in self.readers(readers.iter().map(|unit| (unit, None))) {
            match content_key.seal_to(&statement.header_sha256, &reader) {
                Ok(sealed) => recipients.push(sealed),
                // One unit's bad key keeps nobody else from reading.
                Err(error) => tracing::warn!(unit = %self.code, %error, "key not given"),
            }
        }
        if recipients.is_empty() {
            return Ok(());
        }
        let grant =
            KeyGrant { statement_id: id, recipients, statement: None, desk: None, succeeds: None };
        let mut draft = Draft::new(kinds::KEY_GRANT, id.to_string(), encode_grant(&grant));
        draft.exercise = statement.header.exercise;
        let signed = work.sign(&draft).map_err(|error| failed(&error))?;
        let mut hops: Vec<_> = readers.iter().filter_map(|unit| self.child_above(unit)).collect();
        hops.sort();
        hops.dedup();
        work.enqueue_all(&hops, lane, signed.id);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_fit_a_value_of_the_store_whatever_the_codes() {
        let code: UnitCode = "A".repeat(40).parse().unwrap();
        let waiting = Waiting {
            statement: "01a200ab-abb4-70e1-9bbb-ff35bdb01918".to_owned(),
            lane: Lane::Notice as u8,
            readers: vec![code; PER_LIST],
        };
        assert!(format::write(FORMAT, &waiting).len() <= store::MAX_VALUE_BYTES);
    }
}
