//! Somebody writes to the files of an encrypted store behind its back.

use super::*;

const KEY: &[u8] = b"case\0Mill Street 7";

/// A store with the same rows in two units, and its engine opened bare.
struct Bench {
    directory: tempfile::TempDir,
    options: Options,
}

impl Bench {
    async fn new(cipher: Cipher) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = sealed(cipher);
        let store = SledStore::open(directory.path(), options.clone()).unwrap();
        for code in ["BOS-01", "BOS-02"] {
            for value in ["first", "second"] {
                let mut batch = Batch::new(&code.parse().unwrap());
                batch.put(Table::Records, KEY, value);
                batch.put(Table::Records, *b"case\0Mill Street 8", value);
                batch.put(Table::Meta, *b"one", value);
                batch.put(Table::Notices, *b"one", value);
                store.submit(batch).await.unwrap();
            }
        }
        store.close().await.unwrap();
        Self { directory, options }
    }

    fn layout(&self) -> Layout {
        layout::read(self.directory.path()).unwrap().unwrap()
    }

    /// Changes what sled holds.
    fn behind(&self, change: impl FnOnce(&Db)) {
        let engine = self.layout().engine(self.directory.path());
        let db = open_engine(&engine, &self.options).unwrap();
        change(&db);
        db.flush().unwrap();
        drop(db);
        files::wait_until_released(&engine).unwrap();
    }

    fn open(&self) -> SledStore {
        SledStore::open(self.directory.path(), self.options.clone()).unwrap()
    }

    /// sled's key for a row.
    fn stored_key(&self, code: &str, table: Table, key: &[u8]) -> Vec<u8> {
        let store = self.open();
        let stored = store.codec.key(&code.parse().unwrap(), table, key).unwrap().unwrap();
        drop(store);
        stored
    }
}

fn is_tampered(error: &Error, in_table: Table) -> bool {
    let name = format!("{in_table:?}");
    matches!(error, Error::Tampered { unit, table } if unit == "BOS-01" && *table == name)
}

/// Reads the row, lists it, and asks for it as a precondition.
async fn assert_told(store: &SledStore, table: Table, key: &[u8], what: &str) {
    let got = store.get(&unit(), table, key).await;
    assert!(is_tampered(&got.unwrap_err(), table), "{what}");
    let scanned = store.scan(&unit(), table, b"", None, 99).await;
    assert!(is_tampered(&scanned.unwrap_err(), table), "{what}");
    let mut batch = Batch::new(&unit());
    batch.require(table, key, *b"second");
    assert!(is_tampered(&store.submit(batch).await.unwrap_err(), table), "{what}");
    let mut absent = Batch::new(&unit());
    absent.require_absent(table, key);
    assert!(is_tampered(&store.submit(absent).await.unwrap_err(), table), "{what}");
}

#[tokio::test]
async fn a_flipped_byte_at_every_position_of_a_value_is_told() {
    for cipher in [Cipher::Aes256Gcm, Cipher::Sm4Gcm] {
        let bench = Bench::new(cipher).await;
        let key = bench.stored_key("BOS-01", Table::Records, KEY);
        let store = bench.open();
        let whole = store.shared.read(|db| db.get(&key), |_| true).await.unwrap().unwrap();
        for position in 0..whole.len() {
            let mut changed = whole.to_vec();
            changed[position] ^= 1;
            let put = |db: &Db| db.insert(&key, changed).map(drop);
            store.shared.read(put, |_| true).await.unwrap();
            assert_told(&store, Table::Records, KEY, &format!("{cipher}, byte {position}")).await;
        }
        for length in 0..whole.len() {
            let put = |db: &Db| db.insert(&key, &whole[..length]).map(drop);
            store.shared.read(put, |_| true).await.unwrap();
            assert_told(&store, Table::Records, KEY, &format!("{cipher}, cut to {length}")).await;
        }
        // The store goes on with everything else.
        let other = "BOS-02".parse().unwrap();
        assert!(store.get(&other, Table::Records, KEY).await.unwrap().is_some());
        store.submit(one("more", "value")).await.unwrap();
    }
}

#[tokio::test]
async fn a_value_that_was_moved_to_another_key_table_or_unit_is_told() {
    let bench = Bench::new(Cipher::Aes256Gcm).await;
    let places = [
        ("BOS-01", Table::Records, &b"case\0Mill Street 8"[..]),
        ("BOS-01", Table::Notices, b"one"),
        ("BOS-02", Table::Records, KEY),
        ("BOS-02", Table::Meta, b"one"),
    ];
    for (code, table, from) in places {
        for (into, key) in [(Table::Records, KEY), (Table::Meta, b"one")] {
            let from = bench.stored_key(code, table, from);
            let to = bench.stored_key("BOS-01", into, key);
            let mut before = None;
            bench.behind(|db| before = db.insert(&to, db.get(&from).unwrap().unwrap()).unwrap());
            let store = bench.open();
            assert_told(&store, into, key, &format!("{code} {table:?} to {into:?}")).await;
            drop(store);
            bench.behind(|db| drop(db.insert(&to, before.unwrap()).unwrap()));
        }
    }
    let store = bench.open();
    assert_eq!(store.get(&unit(), Table::Records, KEY).await.unwrap().unwrap(), b"second");
}

/// What this layer cannot notice, as `docs/security.md` says: an older value of the same key opens,
/// and a row that was removed is not there. Journals and their witnesses are for that.
#[tokio::test]
async fn an_old_value_that_was_put_back_opens_here() {
    let bench = Bench::new(Cipher::Aes256Gcm).await;
    let key = bench.stored_key("BOS-01", Table::Meta, b"one");
    let mut old = None;
    bench.behind(|db| old = db.get(&key).unwrap());
    let store = bench.open();
    store.submit(one("one", "third")).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    bench.behind(|db| drop(db.insert(&key, old.unwrap()).unwrap()));
    let store = bench.open();
    assert_eq!(store.get(&unit(), Table::Meta, b"one").await.unwrap().unwrap(), b"second");
}

#[tokio::test]
async fn keys_that_were_changed_or_swapped_are_told() {
    let bench = Bench::new(Cipher::Aes256Gcm).await;
    let files = files_below(bench.directory.path());
    let file = |end: &str| files.iter().find(|path| path.ends_with(end)).unwrap();
    let vault = file("vault");
    let whole = std::fs::read(vault).unwrap();
    for position in 0..whole.len() {
        let mut changed = whole.clone();
        changed[position] ^= 1;
        std::fs::write(vault, &changed).unwrap();
        let opened = SledStore::open(bench.directory.path(), bench.options.clone());
        assert!(matches!(opened, Err(Error::Engine(_))), "byte {position}");
    }
    std::fs::write(vault, whole).unwrap();
    let (first, second) = (file("keys/BOS-01"), file("keys/BOS-02"));
    let whole = std::fs::read(first).unwrap();
    std::fs::copy(second, first).unwrap();
    let store = bench.open();
    let swapped = store.get(&unit(), Table::Meta, b"one").await.unwrap_err();
    assert!(matches!(&swapped, Error::KeyMissing { unit } if unit == "BOS-01"), "{swapped}");
    drop(store);
    for position in 0..whole.len() {
        let mut changed = whole.clone();
        changed[position] ^= 1;
        std::fs::write(first, &changed).unwrap();
        let store = bench.open();
        let read = store.get(&unit(), Table::Meta, b"one").await;
        assert!(matches!(read, Err(Error::Engine(_))), "byte {position}: {read:?}");
    }
}
