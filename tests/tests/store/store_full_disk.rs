//! P2 on a full disk: writes are refused or fail, and everything acknowledged is there afterwards.
//!
//! The disk is a small tmpfs in a mount namespace of its own, so that nothing outside is touched.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, path::Path, time::Duration};

use lianxi_node::{
    domain::unit::UnitCode,
    store::{
        Batch, Error, Store, Table,
        sled::{Options, SledStore},
    },
};
use lianxi_tests::small_disk;

const VALUE_BYTES: usize = 4 * 1024;

fn unit() -> UnitCode {
    "BOS-01-W03".parse().unwrap()
}

fn open(directory: &Path, reserve_bytes: u64) -> SledStore {
    SledStore::open(directory, Options { reserve_bytes, ..Options::default() }).unwrap()
}

fn value(number: u32) -> Vec<u8> {
    number.to_be_bytes().repeat(VALUE_BYTES / 4)
}

/// Writes numbered records until the store refuses; returns how many were acknowledged, and why.
async fn fill(store: &SledStore, first: u32) -> (u32, Error) {
    for number in first.. {
        let mut batch = Batch::new(&unit());
        batch.put(Table::Records, number.to_be_bytes(), value(number));
        let commit = tokio::time::timeout(Duration::from_secs(60), store.submit(batch));
        if let Err(error) = commit.await.expect("a commit on a full disk never resolved") {
            return (number, error);
        }
    }
    unreachable!("the disk never became full")
}

async fn assert_all_there(store: &SledStore, count: u32) {
    for number in 0..count {
        let found = store.get(&unit(), Table::Records, &number.to_be_bytes()).await.unwrap();
        assert!(found == Some(value(number)), "record {number} of {count} is lost");
    }
}

#[tokio::test]
#[ignore = "started by the other tests"]
async fn child_reaches_its_reserve() {
    let Some(disk) = small_disk::mounted(64) else { return };
    let ballast = disk.join("ballast");
    fs::write(&ballast, vec![1; 16 << 20]).unwrap();
    let store = open(&disk.join("store"), 16 << 20);
    let (count, error) = fill(&store, 0).await;
    assert!(matches!(error, Error::DiskFull { reserve_bytes: 16_777_216, .. }), "{error}");
    assert!(count > 100, "only {count} records fitted");
    assert_all_there(&store, count).await;

    // Deletions are the way out, so they are taken.
    let mut delete = Batch::new(&unit());
    delete.delete(Table::Records, 0_u32.to_be_bytes());
    store.submit(delete).await.unwrap();

    fs::remove_file(&ballast).unwrap();
    let mut again = Batch::new(&unit());
    again.put(Table::Records, 0_u32.to_be_bytes(), value(0));
    store.submit(again).await.unwrap();
    let (count, error) = fill(&store, count).await;
    assert!(matches!(error, Error::DiskFull { .. }), "{error}");
    store.close().await.unwrap();
    drop(store);
    assert_all_there(&open(&disk.join("store"), 0), count).await;
}

#[tokio::test]
#[ignore = "started by the other tests"]
async fn child_runs_out_of_disk() {
    let Some(disk) = small_disk::mounted(64) else { return };
    let ballast = disk.join("ballast");
    fs::write(&ballast, vec![1; 16 << 20]).unwrap();
    let store = open(&disk.join("store"), 0);
    let (count, error) = fill(&store, 0).await;
    let Error::Engine(text) = &error else { panic!("{error}") };
    assert!(text.contains("No space left"), "{text}");
    assert!(count > 100, "only {count} records fitted");
    let later = store.submit(Batch::new(&unit())).await;
    assert!(matches!(later, Err(Error::Engine(_))), "{later:?}");
    assert!(store.close().await.is_err());
    drop(store);

    fs::remove_file(&ballast).unwrap();
    let store = open(&disk.join("store"), 0);
    assert_all_there(&store, count).await;
    let (more, _) = fill(&store, count + 1).await;
    assert!(more > count + 1, "the store takes nothing after space returned");
}

#[test]
fn a_disk_at_its_reserve_refuses_writes_and_loses_nothing() {
    small_disk::run(
        "a_disk_at_its_reserve_refuses_writes_and_loses_nothing",
        "store_full_disk::child_reaches_its_reserve",
        &[],
    );
}

#[test]
fn a_disk_that_is_full_ends_the_store_and_loses_nothing() {
    small_disk::run(
        "a_disk_that_is_full_ends_the_store_and_loses_nothing",
        "store_full_disk::child_runs_out_of_disk",
        &[],
    );
}
