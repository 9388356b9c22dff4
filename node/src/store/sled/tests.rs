use futures::FutureExt;

use super::*;
use crate::store::conformance;
use crate::store::{MAX_KEY_BYTES, MAX_VALUE_BYTES};

mod rewriting;
mod tampering;

fn unit() -> UnitCode {
    "BOS-01".parse().unwrap()
}

fn one(key: &str, value: impl Into<Vec<u8>>) -> Batch {
    let mut batch = Batch::new(&unit());
    batch.put(Table::Meta, key, value);
    batch
}

fn options() -> Options {
    Options { reserve_bytes: 0, ..Options::default() }
}

#[tokio::test]
async fn sled_with_its_barrier_conforms() {
    let directory = tempfile::tempdir().unwrap();
    conformance::run(directory.path(), |path| async move {
        Arc::new(SledStore::open(&path, options()).unwrap()) as Arc<dyn Store>
    })
    .await;
}

#[tokio::test]
async fn sled_without_its_barrier_conforms() {
    let directory = tempfile::tempdir().unwrap();
    conformance::run(directory.path(), |path| async move {
        let options = Options { barrier: false, ..options() };
        Arc::new(SledStore::open(&path, options).unwrap()) as Arc<dyn Store>
    })
    .await;
}

fn sealed(cipher: Cipher) -> Options {
    let secret = Some(HostSecret::new([7; 32].into()));
    Options { secret, cipher, ..options() }
}

#[tokio::test]
async fn an_encrypted_sled_conforms_with_either_cipher() {
    for cipher in [Cipher::Aes256Gcm, Cipher::Sm4Gcm] {
        let directory = tempfile::tempdir().unwrap();
        conformance::run(directory.path(), |path| async move {
            let options = Options { barrier: false, ..sealed(cipher) };
            Arc::new(SledStore::open(&path, options).unwrap()) as Arc<dyn Store>
        })
        .await;
    }
}

/// Keys as the services write them, in the tables that hide ends of keys.
fn hidden_rows() -> Vec<(Table, Vec<u8>)> {
    let cell = |group: u8| [&b"2011-07\0overdue\0"[..], &[0, 0, 0, 1], &[group; 16]].concat();
    let mut rows = vec![
        (Table::Accounts, b"wangwei".to_vec()),
        (Table::Records, b"case\0".to_vec()),
        (Table::Records, b"other\0Mill Street 7".to_vec()),
    ];
    for number in 0_u8..40 {
        rows.push((Table::Records, format!("case\0Mill Street {number}").into_bytes()));
        rows.push((Table::Components, cell(number)));
        let value = u64::from(number) * 1_000_003;
        rows.push((Table::ComponentValues, [&cell(number % 3)[..], &value.to_be_bytes()].concat()));
    }
    rows
}

async fn all(store: &SledStore, table: Table, prefix: &[u8], page: usize) -> Vec<Entry> {
    let (mut found, mut after): (Vec<Entry>, Option<Vec<u8>>) = (Vec::new(), None);
    loop {
        let entries = store.scan(&unit(), table, prefix, after.as_deref(), page).await.unwrap();
        let Some((last, _)) = entries.last() else { return found };
        after = Some(last.clone());
        found.extend(entries);
    }
}

#[tokio::test]
async fn hidden_keys_are_found_listed_once_and_ordered_where_it_matters() {
    for cipher in [Cipher::None, Cipher::Aes256Gcm] {
        let directory = tempfile::tempdir().unwrap();
        let store = SledStore::open(directory.path(), sealed(cipher)).unwrap();
        let rows = hidden_rows();
        for (table, key) in &rows {
            let mut batch = Batch::new(&unit());
            batch.require_absent(*table, key.clone());
            batch.put(*table, key.clone(), [b"value of ", &key[..]].concat());
            store.submit(batch).await.unwrap();
            let mut again = Batch::new(&unit());
            again.require_absent(*table, key.clone());
            assert!(matches!(store.submit(again).await, Err(Error::Conflict)));
            let mut right = Batch::new(&unit());
            right.require(*table, key.clone(), [b"value of ", &key[..]].concat());
            store.submit(right).await.unwrap();
        }
        for table in [Table::Accounts, Table::Records, Table::Components, Table::ComponentValues] {
            let mut written: Vec<_> =
                rows.iter().filter(|row| row.0 == table).map(|row| row.1.clone()).collect();
            written.sort();
            for page in [1, 7, 1000] {
                let mut found = all(&store, table, b"", page).await;
                found.sort();
                let keys: Vec<_> = found.iter().map(|(key, _)| key.clone()).collect();
                assert_eq!(keys, written, "{cipher} {table:?} by {page}");
                let fits = |(key, value): &Entry| *value == [b"value of ", &key[..]].concat();
                assert!(found.iter().all(fits));
            }
        }
        let cell = [&b"2011-07\0overdue\0"[..], &[0, 0, 0, 1], &[1; 16]].concat();
        let values = all(&store, Table::ComponentValues, &cell, 4).await;
        assert!(values.is_sorted() && values.len() == 13, "{cipher}: {values:?}");
        let last = store.last(&unit(), Table::ComponentValues, &cell).await.unwrap();
        assert_eq!(last.as_ref(), values.last());
        let some = store.scan(&unit(), Table::Records, b"case\0Mill Street 1", None, 99).await;
        assert_eq!(some.unwrap().len(), 11, "{cipher}");

        let mut batch = Batch::new(&unit());
        batch.delete(Table::Records, *b"case\0Mill Street 7");
        store.submit(batch).await.unwrap();
        let gone = store.get(&unit(), Table::Records, b"case\0Mill Street 7").await.unwrap();
        assert_eq!(gone, None, "{cipher}");
        assert_eq!(all(&store, Table::Records, b"case\0", 9).await.len(), 40);
    }
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let (mut files, mut open) = (Vec::new(), vec![directory.to_owned()]);
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { open.push(path) } else { files.push(path) }
        }
    }
    files
}

fn is_on_disk(directory: &Path, text: &[u8]) -> bool {
    files_below(directory).iter().any(|file| {
        let bytes = std::fs::read(file).unwrap();
        bytes.windows(text.len()).any(|window| window == text)
    })
}

#[tokio::test]
async fn an_encrypted_store_shows_neither_values_nor_hidden_keys() {
    for cipher in [Cipher::None, Cipher::Aes256Gcm, Cipher::Sm4Gcm] {
        let directory = tempfile::tempdir().unwrap();
        let store = SledStore::open(directory.path(), sealed(cipher)).unwrap();
        for (table, key) in hidden_rows() {
            let mut batch = Batch::new(&unit());
            batch.put(table, key, *b"a value in clear");
            store.submit(batch).await.unwrap();
        }
        store.close().await.unwrap();
        for text in [&b"Mill Street"[..], b"wangwei", b"in clear", &1_000_003_u64.to_be_bytes()] {
            let found = is_on_disk(directory.path(), text);
            assert_eq!(found, cipher == Cipher::None, "{cipher}: {text:?}");
        }
    }
}

#[tokio::test]
async fn an_encrypted_store_opens_with_its_hosts_keys_alone() {
    let directory = tempfile::tempdir().unwrap();
    let right = sealed(Cipher::Aes256Gcm);
    let store = SledStore::open(directory.path(), right.clone()).unwrap();
    store.submit(one("kept", "value")).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    let without = SledStore::open(directory.path(), options());
    assert!(matches!(without, Err(Error::Sealed)));
    let wrong = Options { secret: Some(HostSecret::new([8; 32].into())), ..right.clone() };
    let wrong = SledStore::open(directory.path(), wrong);
    assert!(matches!(wrong, Err(Error::WrongKey)));
    let store = SledStore::open(directory.path(), right).unwrap();
    let value = store.get(&unit(), Table::Meta, b"kept").await.unwrap();
    assert_eq!(value.as_deref(), Some(&b"value"[..]));
}

/// Whoever takes a unit's data key away has erased the unit; nothing else is lost, and it is said.
#[tokio::test]
async fn without_its_data_key_a_unit_is_gone_and_its_absence_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let store = SledStore::open(directory.path(), sealed(Cipher::Aes256Gcm)).unwrap();
    let other: UnitCode = "BOS-02".parse().unwrap();
    for unit in [unit(), other.clone()] {
        let mut batch = Batch::new(&unit);
        batch.put(Table::Meta, *b"kept", *b"value");
        batch.put(Table::Records, *b"case\0Mill Street", *b"value");
        store.submit(batch).await.unwrap();
    }
    store.close().await.unwrap();
    drop(store);
    let is_key = |path: &&PathBuf| path.ends_with("keys/BOS-01");
    let files = files_below(directory.path());
    std::fs::remove_file(files.iter().find(is_key).unwrap()).unwrap();
    let store = SledStore::open(directory.path(), sealed(Cipher::Aes256Gcm)).unwrap();
    let gone = |error: &Error| matches!(error, Error::KeyMissing { unit } if unit == "BOS-01");
    assert!(gone(&store.get(&unit(), Table::Meta, b"kept").await.unwrap_err()));
    let record = store.get(&unit(), Table::Records, b"case\0Mill Street").await;
    assert!(gone(&record.unwrap_err()));
    assert!(gone(&store.scan(&unit(), Table::Records, b"", None, 9).await.unwrap_err()));
    assert!(store.get(&other, Table::Records, b"case\0Mill Street").await.unwrap().is_some());
}

#[tokio::test]
async fn a_snapshot_that_was_cut_off_does_not_keep_the_store_shut() {
    let directory = tempfile::tempdir().unwrap();
    let store = SledStore::open(directory.path(), options()).unwrap();
    store.submit(one("kept", "value")).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    // What a full disk or a kill in the middle of opening leaves, newer than any other.
    let cut_off = directory.path().join("sled/snap.7FFFFFFFFFFFFFFF.generating");
    std::fs::write(&cut_off, "").unwrap();
    let store = SledStore::open(directory.path(), options()).unwrap();
    let value = store.get(&unit(), Table::Meta, b"kept").await.unwrap();
    assert_eq!(value.as_deref(), Some(&b"value"[..]));
    assert!(!cut_off.exists());
}

/// A barrier that says when it is reached and returns what it is told.
struct Gate {
    reached: tokio::sync::mpsc::UnboundedSender<()>,
    open: mpsc::Receiver<io::Result<()>>,
}

impl Barrier for Gate {
    fn wait(&mut self, _: &Db) -> io::Result<()> {
        let _ = self.reached.send(());
        self.open.recv().unwrap_or(Ok(()))
    }
}

struct Gated {
    store: SledStore,
    reached: tokio::sync::mpsc::UnboundedReceiver<()>,
    open: mpsc::Sender<io::Result<()>>,
    _directory: tempfile::TempDir,
}

fn gated() -> Gated {
    let directory = tempfile::tempdir().unwrap();
    let (reach, reached) = tokio::sync::mpsc::unbounded_channel();
    let (open, opened) = mpsc::channel();
    let gate = Gate { reached: reach, open: opened };
    let store = SledStore::open_with(directory.path(), &options(), |_, _| Ok(Some(Box::new(gate))))
        .unwrap();
    Gated { store, reached, open, _directory: directory }
}

#[tokio::test]
async fn a_commit_resolves_after_the_barrier_and_not_before() {
    let mut gated = gated();
    let mut commit = gated.store.submit(one("k", "v"));
    gated.reached.recv().await.unwrap();
    assert!((&mut commit).now_or_never().is_none(), "acknowledged before the barrier");
    gated.open.send(Ok(())).unwrap();
    commit.await.unwrap();
}

#[tokio::test]
async fn what_gathers_while_a_barrier_runs_shares_the_next_one() {
    let mut gated = gated();
    let first = gated.store.submit(one("first", "v"));
    gated.reached.recv().await.unwrap();
    let rest: Vec<_> = (0..64).map(|n| gated.store.submit(one(&format!("{n}"), "v"))).collect();
    gated.open.send(Ok(())).unwrap();
    gated.open.send(Ok(())).unwrap();
    first.await.unwrap();
    for commit in rest {
        commit.await.unwrap();
    }
    let statistics = gated.store.statistics();
    assert_eq!((statistics.batches, statistics.groups, statistics.barriers), (65, 2, 2));
}

#[tokio::test]
async fn a_read_shows_nothing_that_a_power_cut_could_take_back() {
    let mut gated = gated();
    let commit = gated.store.submit(one("k", "v"));
    gated.reached.recv().await.unwrap();
    let unit = unit();
    let mut get = gated.store.get(&unit, Table::Meta, b"k");
    let mut scan = gated.store.scan(&unit, Table::Meta, b"", None, 9);
    let mut last = gated.store.last(&unit, Table::Meta, b"k");
    let mut units = gated.store.units();
    assert!((&mut get).now_or_never().is_none(), "read before the barrier");
    assert!((&mut scan).now_or_never().is_none(), "scanned before the barrier");
    assert!((&mut last).now_or_never().is_none(), "found before the barrier");
    assert!((&mut units).now_or_never().is_none(), "listed before the barrier");
    // What the group does not touch is not held up.
    let other = gated.store.get(&unit, Table::Meta, b"other").now_or_never();
    assert_eq!(other.unwrap().unwrap(), None);
    let other = gated.store.scan(&unit, Table::Meta, b"l", None, 9).now_or_never();
    assert_eq!(other.unwrap().unwrap(), []);
    gated.open.send(Ok(())).unwrap();
    commit.await.unwrap();
    assert_eq!(get.await.unwrap().as_deref(), Some(&b"v"[..]));
    assert_eq!(scan.await.unwrap().len(), 1);
    assert!(last.await.unwrap().is_some());
    assert_eq!(units.await.unwrap(), [self::unit()]);
}

#[tokio::test]
async fn a_failed_barrier_acknowledges_nothing_and_ends_the_store() {
    let mut gated = gated();
    let failing = gated.store.submit(one("k", "v"));
    gated.reached.recv().await.unwrap();
    let unit = unit();
    let read = gated.store.get(&unit, Table::Meta, b"k");
    let waiting = gated.store.submit(one("later", "v"));
    gated.open.send(Err(io::Error::other("the disk is gone"))).unwrap();
    for failed in [failing.await, waiting.await, read.await.map(drop)] {
        let Err(Error::Engine(text)) = failed else { panic!("{failed:?}") };
        assert_eq!(text, "the disk is gone");
    }
    let later = gated.store.submit(one("much later", "v")).await;
    assert!(matches!(later, Err(Error::Engine(_))), "{later:?}");
    assert!(matches!(gated.store.close().await, Err(Error::Engine(_))));
}

#[tokio::test]
async fn the_barrier_runs_once_per_group_and_can_be_left_out() {
    for (barrier, expected) in [(true, 3), (false, 0)] {
        let directory = tempfile::tempdir().unwrap();
        let options = Options { barrier, ..options() };
        let store = SledStore::open(directory.path(), options).unwrap();
        for number in 0..3 {
            store.submit(one(&number.to_string(), "v")).await.unwrap();
        }
        store.submit(Batch::new(&unit())).await.unwrap();
        assert_eq!(store.statistics().groups, 4);
        assert_eq!(store.statistics().barriers, expected);
    }
}

#[tokio::test]
async fn a_disk_that_is_nearly_full_refuses_writes_and_takes_deletions() {
    let directory = tempfile::tempdir().unwrap();
    let store = SledStore::open(directory.path(), options()).unwrap();
    store.submit(one("k", "v")).await.unwrap();
    store.close().await.unwrap();
    drop(store);

    let options = Options { reserve_bytes: u64::MAX, ..options() };
    let store = SledStore::open(directory.path(), options).unwrap();
    let refused = store.submit(one("new", "v")).await;
    assert!(matches!(refused, Err(Error::DiskFull { reserve_bytes: u64::MAX, .. })), "{refused:?}");
    let mut urgent = one("new", "v");
    urgent.urgent();
    let refused = store.submit(urgent).await;
    let kept = u64::MAX / 4;
    assert!(
        matches!(refused, Err(Error::DiskFull { reserve_bytes, .. }) if reserve_bytes == kept),
        "{refused:?}"
    );
    let mut delete = Batch::new(&unit());
    delete.delete(Table::Meta, *b"k");
    store.submit(delete).await.unwrap();
    assert_eq!(store.scan(&unit(), Table::Meta, b"", None, 9).await.unwrap(), []);
}

#[tokio::test]
async fn what_cannot_wait_goes_into_the_reserve() {
    let directory = tempfile::tempdir().unwrap();
    let store = SledStore::open(directory.path(), options()).unwrap();
    let free_bytes = store.usage().unwrap().free_bytes;
    store.close().await.unwrap();
    drop(store);
    let options = Options { reserve_bytes: free_bytes.saturating_mul(2), ..options() };
    let store = SledStore::open(directory.path(), options).unwrap();
    let refused = store.submit(one("summary", "v")).await;
    assert!(matches!(refused, Err(Error::DiskFull { .. })), "{refused:?}");
    let mut urgent = one("whistle", "v");
    urgent.urgent();
    store.submit(urgent).await.unwrap();
    assert_eq!(store.scan(&unit(), Table::Meta, b"", None, 9).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_store_that_is_open_names_its_holder() {
    let directory = tempfile::tempdir().unwrap();
    let store = SledStore::open(directory.path(), options()).unwrap();
    let Err(Error::Locked { holder }) = SledStore::open(directory.path(), options()) else {
        panic!("opened twice");
    };
    assert!(holder.contains(&format!("process {} (", std::process::id())), "{holder}");
    drop(store);
    SledStore::open(directory.path(), options()).unwrap();
}

/// Pages of the largest values must not become files that nobody syncs.
#[tokio::test]
async fn the_largest_values_stay_in_the_synced_file() {
    let directory = tempfile::tempdir().unwrap();
    let store = SledStore::open(directory.path(), options()).unwrap();
    for round in 0_u8..3 {
        for number in 0_u8..64 {
            let mut batch = Batch::new(&unit());
            let key = [[number].as_slice(), &[b'k'; MAX_KEY_BYTES - 1]].concat();
            batch.put(Table::Cells, key, vec![round; MAX_VALUE_BYTES]);
            drop(store.submit(batch));
        }
    }
    store.submit(Batch::new(&unit())).await.unwrap();
    let blobs = std::fs::read_dir(directory.path().join("sled/blobs")).unwrap();
    assert_eq!(blobs.count(), 0);
    store.close().await.unwrap();
}

/// Prints commits per second of 500-byte values with an index entry each. Run it with
/// `cargo test --release -p lianxi-node --lib measure_commits -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: cargo test --release -p lianxi-node --lib measure_commits -- --ignored --nocapture"]
async fn measure_commits_per_second() {
    for (barrier, waiters, each) in [(true, 1, 4_000), (true, 64, 1_000), (false, 64, 1_000)] {
        let directory = tempfile::tempdir().unwrap();
        let options = Options { barrier, ..options() };
        let store = Arc::new(SledStore::open(directory.path(), options).unwrap());
        let begun = tokio::time::Instant::now();
        let writers = (0_u32..waiters).map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                for number in 0_u32..each {
                    let key = [writer.to_be_bytes(), number.to_be_bytes()].concat();
                    let mut batch = Batch::new(&unit());
                    batch.put(Table::Components, [b"i".as_slice(), &key].concat(), *b"");
                    batch.put(Table::Records, key, vec![7; 500]);
                    store.submit(batch).await.unwrap();
                }
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await.unwrap();
        }
        let per_second = f64::from(waiters * each) / begun.elapsed().as_secs_f64();
        let statistics = store.statistics();
        let usage = store.usage().unwrap();
        let line = format!(
            "barrier {barrier}, {waiters} waiters: {per_second:.0} commits/s, {statistics:?}, {} KiB\n",
            usage.store_bytes / 1024
        );
        io::Write::write_all(&mut io::stdout(), line.as_bytes()).unwrap();
    }
}
