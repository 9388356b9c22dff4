//! What the journal costs: the same commits with and without a leaf each, in one run.
//!
//! A commit is that of a statement: envelope, outbox row, two counters. Rounds with and without
//! leaves take turns on the same store, so that a busy machine slows both. Prints one JSON document:
//! commits per second and the share that the journal takes, at 1 and at 64 waiters.
//!
//! `LIANXI_BENCH_ROUNDS` sets the number of pairs of rounds, `LIANXI_BENCH_SECONDS` the time of one.

mod commits;

use std::{
    io::Write,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use lianxi_node::store::{
    Store,
    sled::{Options, SledStore},
};

use commits::{median, round, setting};

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
