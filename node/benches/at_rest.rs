//! What encryption at rest costs: the same commits, and the same reads, on a store in clear and on
//! encrypted ones, in one run.
//!
//! Rounds on the stores take turns, so that a busy machine slows all. Prints one JSON document: commits
//! per second at 1 and at 64 waiters, reads per second, and the share that each cipher takes.
//!
//! `LIANXI_BENCH_ROUNDS` sets the number of turns, `LIANXI_BENCH_SECONDS` the time of one round.

mod commits;

use std::{
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use lianxi_node::{
    domain::{protection::Cipher, unit::UnitCode},
    store::{
        Store, Table,
        sled::{Options, SledStore},
        vault::HostSecret,
    },
};
use tokio::time::Instant;
use zeroize::Zeroizing;

use commits::{median, round, setting};

type Failed = Box<dyn std::error::Error>;

const CIPHERS: [Cipher; 3] = [Cipher::None, Cipher::Aes256Gcm, Cipher::Sm4Gcm];

fn main() -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(async {
        let mut report = serde_json::Map::new();
        for waiters in [1, 64] {
            report.insert(format!("commits, {waiters} waiters"), measure(Some(waiters)).await?);
        }
        report.insert("reads".to_owned(), measure(None).await?);
        Ok::<_, Failed>(report)
    })?;
    writeln!(std::io::stdout(), "{}", serde_json::to_string_pretty(&report)?)?;
    Ok(())
}

/// A store and the number of commits in it.
struct Measured {
    cipher: Cipher,
    store: Arc<dyn Store>,
    number: Arc<AtomicU64>,
    rates: Vec<f64>,
    _directory: tempfile::TempDir,
}

impl Measured {
    fn new(cipher: Cipher) -> Result<Self, Failed> {
        let directory = tempfile::tempdir()?;
        let secret = Some(HostSecret::new(Zeroizing::new([7; 32])));
        let options = Options { reserve_bytes: 0, cipher, secret, ..Options::default() };
        let store: Arc<dyn Store> = Arc::new(SledStore::open(directory.path(), options)?);
        let (number, rates) = (Arc::default(), Vec::new());
        Ok(Self { cipher, store, number, rates, _directory: directory })
    }
}

/// Rounds by turns; the first of a turn changes. `waiters`: of commits; `None`: reads.
async fn measure(waiters: Option<u64>) -> Result<serde_json::Value, Failed> {
    let length = Duration::from_millis(setting("LIANXI_BENCH_SECONDS", 1) * 1_000);
    let mut stores = CIPHERS.into_iter().map(Measured::new).collect::<Result<Vec<_>, _>>()?;
    for one in &stores {
        round(&one.store, 64, length, true, &one.number).await?;
    }
    let mut shares = [Vec::new(), Vec::new(), Vec::new()];
    for turn in 0..usize::try_from(setting("LIANXI_BENCH_ROUNDS", 15))? {
        let mut rates = [0.0; CIPHERS.len()];
        for at in (0..CIPHERS.len()).map(|at| (at + turn) % CIPHERS.len()) {
            let one = &mut stores[at];
            rates[at] = match waiters {
                Some(waiters) => round(&one.store, waiters, length, true, &one.number).await?,
                None => reads(one, length).await?,
            };
            one.rates.push(rates[at]);
        }
        for (share, rate) in shares.iter_mut().zip(rates) {
            share.push(1.0 - rate / rates[0]);
        }
    }
    let mut report = serde_json::Map::new();
    for (one, shares) in stores.iter_mut().zip(&mut shares) {
        one.store.close().await?;
        let (rate, share) = (median(&mut one.rates).round(), median(shares));
        let share = (share * 1_000.0).round() / 1_000.0;
        let told = serde_json::json!({ "per_s": rate, "share_taken": share });
        report.insert(one.cipher.name().to_owned(), told);
    }
    Ok(report.into())
}

/// Statements read per second, one after the other, in an order that no cache foresees.
async fn reads(one: &Measured, length: Duration) -> Result<f64, Failed> {
    let unit: UnitCode = "BOS-10-W18".parse()?;
    let count = one.number.load(Ordering::Relaxed);
    let (begun, mut at, mut done) = (Instant::now(), 1_u64, 0_u32);
    while begun.elapsed() < length {
        at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mut id = [0; 16];
        id[..8].copy_from_slice(&((at >> 33) % count).to_be_bytes());
        let found = one.store.get(&unit, Table::Statements, &id).await?;
        done += u32::from(found.is_some());
    }
    Ok(f64::from(done) / begun.elapsed().as_secs_f64())
}
