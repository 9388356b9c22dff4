//! One statement to many children: more than one batch holds.
//!
//! The first children are in the batch of the statement itself, with the list of the others beside
//! it. The list shrinks in the same batches that fill the outboxes, and a start goes on with what a
//! stop left.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Unit, Work};
use crate::{
    domain::unit::UnitCode,
    services::exchange::Lane,
    statement::header::StatementId,
    store::{self, Table, format},
};

/// Children of one batch: each takes two rows, and the state of a statement some more.
const PER_BATCH: usize = 100;

/// Children of one list: it stays below the store's limit for values.
const PER_LIST: usize = 1_000;

const FORMAT: u8 = 1;
const PREFIX: &[u8] = b"fan-out/";

/// Children that have yet to get a statement.
#[derive(Deserialize, Serialize)]
struct Waiting {
    statement: String,
    lane: u8,
    children: Vec<UnitCode>,
}

fn key(id: StatementId, part: usize) -> Vec<u8> {
    let mut key = [PREFIX, id.as_bytes()].concat();
    key.extend_from_slice(&u32::try_from(part).unwrap_or(u32::MAX).to_be_bytes());
    key
}

impl Work {
    /// Puts a kept statement into the outboxes to `children`, however many.
    pub fn enqueue_all(&mut self, children: &[UnitCode], lane: Lane, id: StatementId) {
        let (first, others) = children.split_at(children.len().min(PER_BATCH));
        for child in first {
            self.enqueue(child, lane, id);
        }
        for (part, list) in others.chunks(PER_LIST).enumerate() {
            let waiting =
                Waiting { statement: id.to_string(), lane: lane as u8, children: list.to_vec() };
            self.batch.put(Table::Meta, key(id, part), format::write(FORMAT, &waiting));
            self.fans_out = true;
        }
    }
}

impl Unit {
    /// Goes on with every list that is left, statements before their keys; returns at once without
    /// any.
    pub fn go_on_fanning_out(self: &Arc<Self>) {
        let unit = Arc::clone(self);
        tokio::spawn(async move {
            if let Err(error) = unit.fan_out().await {
                tracing::error!(unit = %unit.code, %error, "fan-out goes on at the next start");
            }
            if let Err(error) = unit.grant_waiting().await {
                tracing::error!(unit = %unit.code, %error, "granting goes on at the next start");
            }
        });
    }

    async fn fan_out(self: &Arc<Self>) -> Result<(), store::Error> {
        loop {
            let mut work = self.begin().await;
            let next = self.store.scan(&self.code, Table::Meta, PREFIX, None, 1).await?;
            let Some((key, row)) = next.into_iter().next() else { return Ok(()) };
            let mut waiting: Waiting = format::read(FORMAT, &row)?;
            let lane = Lane::ALL.into_iter().find(|lane| *lane as u8 == waiting.lane);
            let (Some(lane), Ok(id)) = (lane, waiting.statement.parse::<StatementId>()) else {
                return Err(store::Error::Engine("a list of children is damaged".into()));
            };
            let rest = waiting.children.split_off(waiting.children.len().min(PER_BATCH));
            for child in &waiting.children {
                work.enqueue(child, lane, id);
            }
            if rest.is_empty() {
                work.batch.delete(Table::Meta, key);
            } else {
                waiting.children = rest;
                work.batch.put(Table::Meta, key, format::write(FORMAT, &waiting));
            }
            work.commit().await?;
        }
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
            children: vec![code; PER_LIST],
        };
        assert!(format::write(FORMAT, &waiting).len() <= store::MAX_VALUE_BYTES);
    }
}
