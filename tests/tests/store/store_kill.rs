//! P2 under SIGKILL: what a killed process acknowledged is there when the store is opened again.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
};

use lianxi_node::{
    domain::{
        journal::{Act, Actor, Leaf},
        unit::UnitCode,
    },
    statement,
    store::{
        Batch, Error, Store, Table, journal,
        sled::{Options, SledStore},
    },
};
use lianxi_proto::merkle;

const DIRECTORY: &str = "LIANXI_TEST_STORE";
const WRITERS: u32 = 16;

fn unit() -> UnitCode {
    "BOS-01-W03".parse().unwrap()
}

fn open(directory: &Path) -> Result<SledStore, Error> {
    SledStore::open(directory, Options { reserve_bytes: 0, ..Options::default() })
}

fn key(writer: u32, number: u32) -> Vec<u8> {
    [writer.to_be_bytes(), number.to_be_bytes()].concat()
}

/// Long enough for a kill to fall between the parts of a batch.
fn value(writer: u32, number: u32) -> Vec<u8> {
    key(writer, number).repeat(40)
}

fn leaf(writer: u32, number: u32) -> Leaf {
    Leaf::Act(Act::done(Actor::node(), "test.commit", format!("{writer} {number}")))
}

/// What the killed process runs: writers that commit and say so, for ever.
#[test]
#[ignore = "started by the other tests"]
fn child_commits_until_it_is_killed() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let store = std::sync::Arc::new(open(Path::new(&directory)).unwrap());
        let writers =
            (0..WRITERS).map(|writer| tokio::spawn(commit_for_ever(store.clone(), writer)));
        futures::future::join_all(writers).await;
    });
}

async fn commit_for_ever(store: std::sync::Arc<SledStore>, writer: u32) {
    let last = store.last(&unit(), Table::Records, &writer.to_be_bytes()).await.unwrap();
    let first = last.map_or(0, |(key, _)| u32::from_be_bytes(key[4..].try_into().unwrap()) + 1);
    for number in first.. {
        let mut batch = Batch::new(&unit());
        batch.put(Table::Records, key(writer, number), value(writer, number));
        batch.put(Table::Meta, writer.to_be_bytes(), number.to_be_bytes());
        batch.journal(0, &leaf(writer, number));
        store.submit(batch).await.unwrap();
        let line = format!("ack {writer} {number}\n");
        std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
    }
}

fn start(directory: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "store_kill::child_commits_until_it_is_killed",
            "--ignored",
            "--nocapture",
        ])
        .env(DIRECTORY, directory)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

/// Kills the child after `acknowledgements`; returns the last number each writer was told of.
fn kill_after(mut child: Child, acknowledgements: usize) -> BTreeMap<u32, u32> {
    let mut acknowledged = BTreeMap::new();
    let mut seen = 0;
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while output.read_line(&mut line).unwrap() > 0 {
        // The last line may have been cut: an acknowledgement that nobody got.
        if let Some(words) = line.strip_prefix("ack ").and_then(|rest| rest.strip_suffix('\n')) {
            let (writer, number) = words.split_once(' ').unwrap();
            acknowledged.insert(writer.parse().unwrap(), number.parse().unwrap());
            seen += 1;
            if seen == acknowledgements {
                child.kill().unwrap();
            }
        }
        line.clear();
    }
    child.wait().unwrap();
    assert!(seen >= acknowledgements, "the child ended by itself after {seen} acknowledgements");
    acknowledged
}

#[tokio::test]
async fn what_a_killed_process_acknowledged_is_there_again() {
    let directory = tempfile::tempdir().unwrap();
    for acknowledgements in [1, 400, 1_000, 2_500] {
        let acknowledged = kill_after(start(directory.path()), acknowledgements);
        let store = open(directory.path()).unwrap();
        for (writer, last) in acknowledged {
            for number in 0..=last {
                let found = store.get(&unit(), Table::Records, &key(writer, number)).await.unwrap();
                assert_eq!(found, Some(value(writer, number)), "writer {writer}, {number}");
            }
        }
        batches_are_whole(&store).await;
        journal_is_whole(&store).await;
        store.close().await.unwrap();
    }
}

/// Each batch wrote a record and the writer's counter: one without the other is half a batch.
async fn batches_are_whole(store: &SledStore) {
    for writer in 0..WRITERS {
        let counter = store.get(&unit(), Table::Meta, &writer.to_be_bytes()).await.unwrap();
        let record = store.last(&unit(), Table::Records, &writer.to_be_bytes()).await.unwrap();
        assert_eq!(counter, record.map(|(key, _)| key[4..].to_vec()), "writer {writer}");
    }
}

/// Each batch wrote a leaf too: all of them are there, once, in an unbroken tree.
async fn journal_is_whole(store: &SledStore) {
    let size = journal::size(store, &unit()).await.unwrap();
    let (mut hashes, mut next) = (Vec::new(), [0; WRITERS as usize]);
    while (hashes.len() as u64) < size {
        let from = hashes.len() as u64;
        for (index, found) in journal::leaves(store, &unit(), from).await.unwrap() {
            assert_eq!(index, hashes.len() as u64);
            let subject = statement::journal::read(&found).unwrap().subject;
            let (writer, number) = subject.split_once(' ').unwrap();
            let writer: usize = writer.parse().unwrap();
            assert_eq!(number, next[writer].to_string(), "writer {writer}, leaf {index}");
            next[writer] += 1;
            hashes.push(merkle::leaf_hash(&found));
        }
    }
    for writer in 0..WRITERS {
        let counter = store.get(&unit(), Table::Meta, &writer.to_be_bytes()).await.unwrap();
        let counted = counter.map_or(0, |last| u32::from_be_bytes(last.try_into().unwrap()) + 1);
        assert_eq!(next[writer as usize], counted, "writer {writer}");
    }
    let root = journal::root_at(store, &unit(), size).await.unwrap();
    assert_eq!(root, merkle::root(&hashes), "tiles and leaves are one tree");
}

#[test]
fn a_store_that_another_process_holds_names_that_process() {
    let directory = tempfile::tempdir().unwrap();
    let mut child = start(directory.path());
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("ack ") {
        line.clear();
        assert!(output.read_line(&mut line).unwrap() > 0, "the child ended by itself");
    }
    let refused = open(directory.path());
    child.kill().unwrap();
    child.wait().unwrap();
    let Err(Error::Locked { holder }) = refused else { panic!("opened beside its holder") };
    let own = std::env::current_exe().unwrap();
    let name = own.file_name().unwrap().to_str().unwrap();
    assert!(holder.starts_with(&format!("process {} ({name})", child.id())), "{holder}");
    assert!(holder.contains("since 20"), "{holder}");
    open(directory.path()).unwrap();
}
