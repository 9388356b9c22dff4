//! What the journal costs: the same commits with and without a leaf each, in one run.
//!
//! A commit is that of a statement: envelope, outbox row, two counters. Rounds with and without
//! leaves take turns on the same store, so that a busy machine slows both. Prints one JSON document:
//! commits per second and the share that the journal takes, at 1 and at 64 waiters.
//!
//! `LIANXI_BENCH_ROUNDS` sets the number of pairs of rounds, `LIANXI_BENCH_SECONDS` the time of one.

use std::{
    io::Write,
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
    store::{
        Batch, Error, Store, Table,
        sled::{Options, SledStore},
    },
};
use tokio::time::Instant;

const ENVELOPE_BYTES: usize = 600;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(async {
        let mut report = serde_json::Map::new();
        for waiters in [1, 64] {
            report.insert(waiters.to_string(), measure(waiters).await?);
        }
        Ok::<_, Box<dyn std::error::Error>>(report)
    })?;
    writeln!(std::io::stdout(), "{}", serde_json::to_string_pretty(&report)?)?;
    Ok(())
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Rounds in pairs; which of the two is first changes from pair to pair.
async fn measure(waiters: u64) -> Result<serde_json::Value, Box<dyn std::error::Error>> {
    let directory = tempfile::tempdir()?;
    let options = Options { reserve_bytes: 0, ..Options::default() };
    let store: Arc<dyn Store> = Arc::new(SledStore::open(directory.path(), options)?);
    let length = Duration::from_millis(setting("LIANXI_BENCH_SECONDS", 1) * 1_000);
    let number = Arc::new(AtomicU64::new(0));
    round(&store, waiters, length, true, &number).await?;
    let (mut without, mut with, mut shares) = (Vec::new(), Vec::new(), Vec::new());
    for pair in 0..setting("LIANXI_BENCH_ROUNDS", 15) {
        let mut rates = [0.0; 2];
        for turn in 0..2 {
            let journals = (pair + turn) % 2 == 1;
            let rate = round(&store, waiters, length, journals, &number).await?;
            rates[usize::from(journals)] = rate;
        }
        without.push(rates[0]);
        with.push(rates[1]);
        shares.push(1.0 - rates[1] / rates[0]);
    }
    store.close().await?;
    Ok(serde_json::json!({
        "waiters": waiters,
        "commits_per_s_without": median(&mut without).round(),
        "commits_per_s_with": median(&mut with).round(),
        "journal_takes_share": (median(&mut shares) * 1_000.0).round() / 1_000.0,
    }))
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Commits per second of `waiters` that each wait for one commit before the next.
async fn round(
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
