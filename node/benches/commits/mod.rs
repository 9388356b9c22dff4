//! The commit of a statement, over and over: what the benchmarks of the store measure.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use lianxi_node::{
    domain::{
        journal::{Leaf, Statement},
        unit::UnitCode,
    },
    store::{Batch, Error, Store, Table},
};
use tokio::time::Instant;

const ENVELOPE_BYTES: usize = 600;

/// A number from the environment.
pub(crate) fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// The middle one.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Commits per second of `waiters` that each wait for one commit before the next.
pub(crate) async fn round(
    store: &Arc<dyn Store>,
    waiters: u64,
    length: Duration,
    journals: bool,
    number: &Arc<AtomicU64>,
) -> Result<f64, Error> {
    let begun = Instant::now();
    let work = (0..waiters).map(|_| {
        let (store, number) = (Arc::clone(store), Arc::clone(number));
        tokio::spawn(async move {
            let mut commits = 0_u64;
            while begun.elapsed() < length {
                let number = number.fetch_add(1, Ordering::Relaxed);
                store.submit(batch(number, journals)).await?;
                commits += 1;
            }
            Ok::<_, Error>(commits)
        })
    });
    let work: Vec<_> = work.collect();
    let mut commits = 0;
    for one in work {
        commits += one.await.map_err(|error| Error::Engine(error.to_string()))??;
    }
    Ok(f64::from(u32::try_from(commits).unwrap_or(u32::MAX)) / begun.elapsed().as_secs_f64())
}

/// The commit of a statement: envelope, outbox row, two counters, and a leaf if it `journals`.
fn batch(number: u64, journals: bool) -> Batch {
    let unit: UnitCode = "BOS-10-W18".parse().expect("invariant: a literal code");
    let mut id = [0; 16];
    id[..8].copy_from_slice(&number.to_be_bytes());
    let envelope = [0x5a; ENVELOPE_BYTES];
    let mut batch = Batch::new(&unit);
    if journals {
        let leaf = batch.journal(
            1_760_000_000_000,
            &Leaf::StatementOut(Statement {
                id,
                kind: "lianxi.summary.v1".to_owned(),
                source: unit,
                payload_sha256: [7; 32],
            }),
        );
        batch.put_indexed(Table::Statements, id, 2, &envelope, leaf);
    } else {
        batch.put(Table::Statements, id, [&[1][..], &envelope].concat());
    }
    batch.put(Table::Outbox, [&b"BOS-10\0\x03"[..], &number.to_be_bytes()].concat(), [0; 33]);
    batch.put(Table::Meta, *b"counter/lane/BOS-10", number.to_be_bytes());
    batch.put(Table::Meta, *b"counter/source", [0; 17]);
    batch
}
