//! One suite that every engine passes.
//!
//! `run` is given a function that opens the store in a directory, and reopens it there. Each check
//! has a directory of its own. A check panics with what it found; it is called from tests only.

use std::{
    collections::BTreeMap,
    future::Future,
    ops::Bound,
    path::{Path, PathBuf},
    sync::Arc,
};

use lianxi_proto::merkle;

use super::{
    Batch, Entry, Error, MAX_BATCH_OPERATIONS, MAX_KEY_BYTES, MAX_VALUE_BYTES, Precondition, Store,
    Table,
    journal::{self, TILE},
};
use crate::{
    domain::{
        journal::{Act, Actor, Leaf},
        unit::UnitCode,
    },
    statement,
};

/// Puts the engine that `open` opens through the whole suite, in directories below `root`.
///
/// # Panics
///
/// If the engine breaks a promise of [`Store`].
pub async fn run<F, O>(root: &Path, open: O)
where
    F: Future<Output = Arc<dyn Store>>,
    O: Fn(PathBuf) -> F,
{
    let fresh = |name: &str| open(root.join(name));
    writes_are_read_back(&*fresh("read-back").await).await;
    units_and_tables_do_not_mix(&*fresh("mix").await).await;
    a_batch_is_one(&*fresh("atomic").await).await;
    preconditions_hold_at_commit(&*fresh("preconditions").await).await;
    batches_keep_their_order(&*fresh("order").await).await;
    prefixes_end_where_they_end(&*fresh("prefixes").await).await;
    pages_follow_each_other(&*fresh("pages").await).await;
    limits_are_kept(&*fresh("limits").await).await;
    units_are_listed(&*fresh("units").await).await;
    random_work_equals_a_map(&*fresh("model").await).await;
    leaves_stand_with_their_batches(&*fresh("leaves").await).await;
    leaves_stand_in_the_journal_of_another_unit(&*fresh("other-journal").await).await;
    a_journal_goes_on_where_it_ended(|| fresh("journal")).await;
    what_was_committed_is_there_again(|| fresh("reopen")).await;
}

fn unit(code: &str) -> UnitCode {
    code.parse().expect("invariant: a literal code")
}

async fn put(store: &dyn Store, unit: &UnitCode, table: Table, key: &[u8], value: &[u8]) {
    let mut batch = Batch::new(unit);
    batch.put(table, key, value);
    store.submit(batch).await.expect("put");
}

async fn get(store: &dyn Store, unit: &UnitCode, table: Table, key: &[u8]) -> Option<Vec<u8>> {
    store.get(unit, table, key).await.expect("get")
}

async fn keys(store: &dyn Store, unit: &UnitCode, table: Table, prefix: &[u8]) -> Vec<Vec<u8>> {
    let entries = store.scan(unit, table, prefix, None, usize::MAX).await.expect("scan");
    entries.into_iter().map(|(key, _)| key).collect()
}

async fn writes_are_read_back(store: &dyn Store) {
    let a = unit("A");
    for (key, value) in [(&b"k"[..], &b"v"[..]), (b"", b"empty key"), (b"empty value", b"")] {
        put(store, &a, Table::Meta, key, value).await;
        assert_eq!(get(store, &a, Table::Meta, key).await.as_deref(), Some(value));
    }
    put(store, &a, Table::Meta, b"k", b"second").await;
    assert_eq!(get(store, &a, Table::Meta, b"k").await.as_deref(), Some(&b"second"[..]));

    let mut batch = Batch::new(&a);
    batch.delete(Table::Meta, *b"k");
    batch.delete(Table::Meta, *b"never there");
    store.submit(batch).await.expect("delete");
    assert_eq!(get(store, &a, Table::Meta, b"k").await, None);
    assert_eq!(store.scan(&a, Table::Meta, b"k", None, 9).await.expect("scan"), []);
    assert_eq!(store.last(&a, Table::Records, b"").await.expect("last"), None);
}

/// `A` with a key that begins like the rest of `A-1`, and the neighbours on both sides.
async fn units_and_tables_do_not_mix(store: &dyn Store) {
    let units = ["A", "A-1", "A1", "AA", "B"].map(unit);
    let tables = [Table::Meta, Table::Records, Table::Components];
    for unit in &units {
        for table in tables {
            for key in [&b"-1"[..], b"1", b"A", b"\x00", b"\xff\xff"] {
                let value = format!("{unit} {table:?} {key:?}");
                put(store, unit, table, key, value.as_bytes()).await;
            }
        }
    }
    for unit in &units {
        for table in tables {
            let entries = store.scan(unit, table, b"", None, 99).await.expect("scan");
            assert_eq!(entries.len(), 5, "{unit} {table:?}: {entries:?}");
            for (key, value) in entries {
                assert_eq!(value, format!("{unit} {table:?} {key:?}").into_bytes());
            }
            let last = store.last(unit, table, b"").await.expect("last").map(|(key, _)| key);
            assert_eq!(last.as_deref(), Some(&b"\xff\xff"[..]), "{unit} {table:?}");
        }
    }
    assert_eq!(store.scan(&unit("A0"), Table::Meta, b"", None, 9).await.expect("scan"), []);
}

async fn a_batch_is_one(store: &dyn Store) {
    let a = unit("A");
    let mut batch = Batch::new(&a);
    for number in 0..MAX_BATCH_OPERATIONS {
        batch.put(Table::Records, number.to_be_bytes(), *b"v");
    }
    batch.require(Table::Meta, *b"never there", *b"x");
    assert!(matches!(store.submit(batch.clone()).await, Err(Error::Conflict)));
    assert_eq!(keys(store, &a, Table::Records, b"").await.len(), 0, "a refused batch left traces");

    batch.preconditions.clear();
    store.submit(batch).await.expect("commit");
    assert_eq!(keys(store, &a, Table::Records, b"").await.len(), MAX_BATCH_OPERATIONS);

    // The last of several writes to one key stands.
    let mut batch = Batch::new(&a);
    batch.put(Table::Meta, *b"k", *b"1");
    batch.delete(Table::Meta, *b"k");
    batch.put(Table::Meta, *b"k", *b"2");
    batch.put(Table::Meta, *b"gone", *b"1");
    batch.delete(Table::Meta, *b"gone");
    store.submit(batch).await.expect("commit");
    assert_eq!(get(store, &a, Table::Meta, b"k").await.as_deref(), Some(&b"2"[..]));
    assert_eq!(get(store, &a, Table::Meta, b"gone").await, None);
}

async fn preconditions_hold_at_commit(store: &dyn Store) {
    let a = unit("A");
    let attempt = |expected: Option<&[u8]>, value: &[u8]| {
        let mut batch = Batch::new(&a);
        let expected = expected.map(<[u8]>::to_vec);
        batch.preconditions.push(Precondition { table: Table::Meta, key: b"k".to_vec(), expected });
        batch.put(Table::Meta, *b"k", value);
        store.submit(batch)
    };
    assert!(matches!(attempt(Some(b"1"), b"x").await, Err(Error::Conflict)));
    attempt(None, b"1").await.expect("absent");
    assert!(matches!(attempt(None, b"x").await, Err(Error::Conflict)));
    assert!(matches!(attempt(Some(b"2"), b"x").await, Err(Error::Conflict)));
    assert!(matches!(attempt(Some(b""), b"x").await, Err(Error::Conflict)));
    attempt(Some(b"1"), b"2").await.expect("equal");

    // Submitted together: each sees what those before it did, in the same group or not.
    let commits = [
        attempt(Some(b"2"), b"3"),
        attempt(Some(b"2"), b"lost"),
        attempt(Some(b"3"), b"4"),
        attempt(None, b"lost"),
    ];
    let results = futures::future::join_all(commits).await;
    let held: Vec<_> = results.iter().map(Result::is_ok).collect();
    assert_eq!(held, [true, false, true, false]);
    assert_eq!(get(store, &a, Table::Meta, b"k").await.as_deref(), Some(&b"4"[..]));

    let mut remove = Batch::new(&a);
    remove.delete(Table::Meta, *b"k");
    let removed = store.submit(remove);
    let again = attempt(None, b"5");
    removed.await.expect("delete");
    again.await.expect("absent after a deletion before it");

    // Other units' keys of the same name do not count.
    let mut other = Batch::new(&unit("B"));
    other.require_absent(Table::Meta, *b"k");
    store.submit(other).await.expect("absent at B");
}

async fn batches_keep_their_order(store: &dyn Store) {
    let a = unit("A");
    let commits: Vec<_> = (0_u32..3_000)
        .map(|number| {
            let mut batch = Batch::new(&a);
            batch.put(Table::Meta, *b"newest", number.to_be_bytes());
            batch.put(Table::Records, number.to_be_bytes(), *b"");
            store.submit(batch)
        })
        .collect();
    // An empty batch waits for all before it, awaited or not.
    drop(commits);
    store.submit(Batch::new(&a)).await.expect("empty batch");
    let newest = get(store, &a, Table::Meta, b"newest").await;
    assert_eq!(newest.as_deref(), Some(&2_999_u32.to_be_bytes()[..]));
    assert_eq!(keys(store, &a, Table::Records, b"").await.len(), 3_000);
}

async fn prefixes_end_where_they_end(store: &dyn Store) {
    let a = unit("A");
    let all: [&[u8]; 9] =
        [b"", b"\x00", b"a", b"a\x00", b"a\xff", b"a\xff\xff", b"b", b"\xff", b"\xff\xff\x01"];
    let mut batch = Batch::new(&a);
    for key in all {
        batch.put(Table::Statements, key, key);
        batch.put(Table::Components, key, *b"neighbour");
    }
    store.submit(batch).await.expect("commit");
    let prefixes: [&[u8]; 9] =
        [b"", b"a", b"a\xff", b"a\xff\xff", b"a\xff\xff\xff", b"\xff", b"\xff\xff", b"c", b"\x00"];
    for prefix in prefixes {
        let mut expected: Vec<_> =
            all.iter().filter(|key| key.starts_with(prefix)).map(|key| key.to_vec()).collect();
        expected.sort();
        assert_eq!(keys(store, &a, Table::Statements, prefix).await, expected, "{prefix:?}");
        let last = store.last(&a, Table::Statements, prefix).await.expect("last");
        assert_eq!(last.map(|(key, _)| key), expected.last().cloned(), "{prefix:?}");
    }
}

async fn pages_follow_each_other(store: &dyn Store) {
    let a = unit("A");
    let mut batch = Batch::new(&a);
    for number in 0_u8..100 {
        batch.put(Table::Outbox, [b'p', number], [number]);
    }
    batch.put(Table::Outbox, *b"o", *b"before");
    batch.put(Table::Outbox, *b"q", *b"after");
    store.submit(batch).await.expect("commit");

    let (mut after, mut seen): (Option<Vec<u8>>, Vec<u8>) = (None, Vec::new());
    loop {
        let page = store.scan(&a, Table::Outbox, b"p", after.as_deref(), 7).await.expect("scan");
        assert!(page.len() <= 7);
        let Some((key, _)) = page.last() else { break };
        after = Some(key.clone());
        seen.extend(page.iter().map(|(_, value)| value[0]));
    }
    assert_eq!(seen, (0..100).collect::<Vec<_>>());

    let scan = |after: &'static [u8], limit| {
        let page = store.scan(&a, Table::Outbox, b"p", Some(after), limit);
        async move { page.await.expect("scan").into_iter().map(|(key, _)| key).collect::<Vec<_>>() }
    };
    assert_eq!(scan(b"a", 1).await, [b"p\x00"], "after a key below the prefix");
    assert_eq!(scan(b"p", 1).await, [b"p\x00"], "after the prefix itself");
    assert_eq!(scan(b"p\x00", 1).await, [b"p\x01"], "strictly above");
    assert_eq!(scan(b"p\x00\x00", 1).await, [b"p\x01"], "after a key that is not there");
    assert_eq!(scan(b"p\x63", 9).await, [] as [Vec<u8>; 0], "after the last");
    assert_eq!(scan(b"z", 9).await, [] as [Vec<u8>; 0], "after a key above the prefix");
    assert_eq!(scan(b"a", 0).await, [] as [Vec<u8>; 0], "nothing asked");
}

async fn limits_are_kept(store: &dyn Store) {
    let a = unit("A");
    let mut largest = Batch::new(&a);
    let (key, value) = (vec![0xff; MAX_KEY_BYTES], vec![7; MAX_VALUE_BYTES]);
    largest.put(Table::Cells, key.clone(), value.clone());
    store.submit(largest).await.expect("the largest key and value");
    assert_eq!(get(store, &a, Table::Cells, &key).await, Some(value.clone()));

    let mut too_many = Batch::new(&a);
    for number in 0..=MAX_BATCH_OPERATIONS {
        too_many.put(Table::Meta, number.to_be_bytes(), *b"");
    }
    assert!(matches!(store.submit(too_many).await, Err(Error::BatchTooLarge(257))));

    let mut long_value = Batch::new(&a);
    long_value.put(Table::Meta, *b"k", vec![0; MAX_VALUE_BYTES + 1]);
    assert!(matches!(store.submit(long_value).await, Err(Error::ValueTooLarge(65_537))));

    let mut long_key = Batch::new(&a);
    long_key.put(Table::Meta, *b"other", *b"");
    long_key.put(Table::Meta, vec![0; MAX_KEY_BYTES + 1], *b"");
    assert!(matches!(store.submit(long_key).await, Err(Error::ValueTooLarge(513))));
    assert_eq!(keys(store, &a, Table::Meta, b"").await.len(), 0, "a refused batch left traces");
}

async fn units_are_listed(store: &dyn Store) {
    assert_eq!(store.units().await.expect("units"), []);
    let longest = "9".repeat(40);
    let codes = ["B", "A-1", "A", longest.as_str()];
    for code in codes {
        put(store, &unit(code), Table::Children, b"\xff\xff\xff", b"").await;
        put(store, &unit(code), Table::Meta, b"", b"").await;
    }
    let expected = [longest.as_str(), "A", "A-1", "B"].map(unit);
    assert_eq!(store.units().await.expect("units"), expected);
    let mut batch = Batch::new(&unit("A"));
    batch.delete(Table::Meta, *b"");
    batch.delete(Table::Children, *b"\xff\xff\xff");
    store.submit(batch).await.expect("delete");
    let expected = [longest.as_str(), "A-1", "B"].map(unit);
    assert_eq!(store.units().await.expect("units"), expected);
    let usage = store.usage().expect("usage");
    assert!(usage.free_bytes > 0, "{usage:?}");
}

/// A small generator (xorshift): the same work in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    fn key(&mut self) -> Vec<u8> {
        let length = self.below(4);
        (0..length)
            .map(|_| [0, b'a', b'b', 0xff][usize::try_from(self.below(4)).unwrap_or(0)])
            .collect()
    }
}

async fn random_work_equals_a_map(store: &dyn Store) {
    let (a, mut random) = (unit("A"), Random(0x9E37_79B9_7F4A_7C15));
    let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    for round in 0_u32..400 {
        let mut batch = Batch::new(&a);
        for _ in 0..random.below(6) {
            let key = random.key();
            if random.below(3) == 0 {
                model.remove(&key);
                batch.delete(Table::Statements, key);
            } else {
                model.insert(key.clone(), round.to_be_bytes().to_vec());
                batch.put(Table::Statements, key, round.to_be_bytes());
            }
        }
        store.submit(batch).await.expect("commit");
        let (prefix, after) = (random.key(), random.key());
        let limit = usize::try_from(random.below(9)).unwrap_or(0);
        let expected: Vec<Entry> = model
            .range::<[u8], _>((Bound::Excluded(after.as_slice()), Bound::Unbounded))
            .filter(|(key, _)| key.starts_with(&prefix))
            .take(limit)
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        let found = store.scan(&a, Table::Statements, &prefix, Some(&after), limit).await;
        assert_eq!(found.expect("scan"), expected, "{round}: {prefix:?} after {after:?}");
        let expected = model.iter().rfind(|(key, _)| key.starts_with(&prefix));
        let found = store.last(&a, Table::Statements, &prefix).await.expect("last");
        assert_eq!(
            found.as_ref().map(|(key, value)| (key, value)),
            expected,
            "{round}: {prefix:?}"
        );
        assert_eq!(get(store, &a, Table::Statements, &after).await.as_ref(), model.get(&after));
    }
}

fn act(subject: &str) -> Leaf {
    Leaf::Act(Act::done(Actor::node(), "test.act", subject))
}

async fn subjects(store: &dyn Store, unit: &UnitCode) -> Vec<String> {
    let (mut found, mut from) = (Vec::new(), 0);
    let size = journal::size(store, unit).await.expect("size");
    while from < size {
        for (index, leaf) in journal::leaves(store, unit, from).await.expect("leaves") {
            assert_eq!(index, found.len() as u64, "{unit}: leaves are in order, without a gap");
            found.push(statement::journal::read(&leaf).expect("leaf").subject);
        }
        from = (from / TILE + 1) * TILE;
    }
    assert_eq!(found.len() as u64, size);
    found
}

async fn leaves_stand_in_the_journal_of_another_unit(store: &dyn Store) {
    let (host, head) = (unit("HOST0"), unit("A"));
    let commit = |required: Option<&'static [u8]>| {
        let mut batch = Batch::new(&host);
        batch.journal_in(&head);
        match required {
            None => batch.require_absent(Table::Accounts, *b"wangwei"),
            Some(value) => batch.require(Table::Accounts, *b"wangwei", value),
        }
        batch.put(Table::Accounts, *b"wangwei", *b"row");
        batch.journal(1, &Leaf::Act(Act::done(Actor::node(), "account.add", "wangwei")));
        store.submit(batch)
    };
    commit(None).await.expect("commit");
    assert!(matches!(commit(None).await, Err(Error::Conflict)), "neither row nor leaf");
    commit(Some(b"row")).await.expect("commit");
    assert_eq!(journal::size(store, &head).await.expect("size"), 2);
    assert_eq!(journal::size(store, &host).await.expect("size"), 0);
    assert_eq!(get(store, &host, Table::Accounts, b"wangwei").await.as_deref(), Some(&b"row"[..]));
}

/// A leaf is there exactly if its batch is, in the order of the batches, by units, and its index
/// is in the row that asked for it.
async fn leaves_stand_with_their_batches(store: &dyn Store) {
    let units = [unit("A"), unit("B")];
    let mut commits = Vec::new();
    for number in 0_u32..700 {
        let mut batch = Batch::new(&units[number as usize % 2]);
        batch.journal(1, &act(&format!("{number} first")));
        let leaf = batch.journal(1, &act(&format!("{number} second")));
        if number % 7 == 3 {
            batch.require(Table::Meta, *b"never there", *b"x");
        }
        batch.put_indexed(Table::Records, number.to_be_bytes(), 9, b"rest", leaf);
        commits.push(store.submit(batch));
    }
    let results = futures::future::join_all(commits).await;
    for (place, unit) in units.iter().enumerate() {
        let expected: Vec<_> = (0..700)
            .filter(|number| number % 2 == place && number % 7 != 3)
            .flat_map(|number| [format!("{number} first"), format!("{number} second")])
            .collect();
        let found = subjects(store, unit).await;
        assert_eq!(found, expected, "{unit}");
        for (key, value) in store.scan(unit, Table::Records, b"", None, 999).await.expect("scan") {
            let number = u32::from_be_bytes(key.try_into().expect("key"));
            assert!(results[number as usize].is_ok(), "{number}");
            let index: [u8; 8] = value[1..9].try_into().expect("index");
            let index = usize::try_from(u64::from_be_bytes(index)).expect("index");
            assert_eq!(found[index], format!("{number} second"));
            assert_eq!((value[0], &value[9..]), (9, &b"rest"[..]));
        }
    }
    let mut too_long = Batch::new(&units[0]);
    too_long.leaves.push(journal::NewLeaf::of(vec![0; journal::MAX_LEAF_BYTES + 1]));
    assert!(matches!(store.submit(too_long).await, Err(Error::ValueTooLarge(4_097))));
}

/// Roots and proofs are those of all leaves, whatever was in memory: through the ends of tiles of
/// two levels, and after each opening.
async fn a_journal_goes_on_where_it_ended<F>(open: impl Fn() -> F)
where
    F: Future<Output = Arc<dyn Store>>,
{
    let a = unit("A");
    let (mut hashes, mut sizes) = (Vec::new(), vec![0]);
    for leaves in [1_u64, 254, 1, 1, 700, 67, 65_000, 600] {
        let store = open().await;
        let mut commits = Vec::new();
        for chunk in 0..leaves.div_ceil(200) {
            let mut batch = Batch::new(&a);
            for number in chunk * 200..leaves.min((chunk + 1) * 200) {
                let leaf = act(&number.to_string());
                hashes.push(merkle::leaf_hash(&statement::journal::encode(1, &leaf)));
                batch.journal(1, &leaf);
            }
            commits.push(store.submit(batch));
        }
        for result in futures::future::join_all(commits).await {
            result.expect("commit");
        }
        let size = journal::size(&*store, &a).await.expect("size");
        assert_eq!(size, hashes.len() as u64);
        let root = merkle::root(&hashes);
        assert_eq!(journal::root_at(&*store, &a, size).await.expect("root"), root, "{size}");
        for old in &sizes {
            let proof = journal::consistency(&*store, &a, *old, size).await.expect("proof");
            let old_root = merkle::root(&hashes[..usize::try_from(*old).expect("size")]);
            let stored = journal::root_at(&*store, &a, *old).await.expect("root");
            assert_eq!(stored, old_root, "{old}");
            assert!(merkle::verify_consistency(*old, size, &proof, &old_root, &root), "{old}");
        }
        for index in [0, size / 3, size - 1] {
            let proof = journal::inclusion(&*store, &a, index, size).await.expect("proof");
            let leaf = &hashes[usize::try_from(index).expect("index")];
            assert!(merkle::verify_inclusion(leaf, index, size, &proof, &root), "{index}");
        }
        assert!(journal::root_at(&*store, &a, size + 1).await.is_err());
        sizes.push(size);
        store.close().await.expect("close");
    }
}

async fn what_was_committed_is_there_again<F>(open: impl Fn() -> F)
where
    F: Future<Output = Arc<dyn Store>>,
{
    let a = unit("A");
    for round in 0_u32..4 {
        let store = open().await;
        assert_eq!(keys(&*store, &a, Table::Records, b"").await.len(), 300 * round as usize);
        let mut newest = None;
        for number in 0_u32..300 {
            let mut batch = Batch::new(&a);
            batch.put(Table::Records, [round.to_be_bytes(), number.to_be_bytes()].concat(), *b"v");
            batch.put(Table::Meta, *b"round", round.to_be_bytes());
            newest = Some(store.submit(batch));
        }
        store.close().await.expect("close");
        newest.expect("invariant: 300 batches").await.expect("submitted before the closing");
        assert!(matches!(store.get(&a, Table::Meta, b"round").await, Err(Error::Closed)));
        assert!(matches!(store.submit(Batch::new(&a)).await, Err(Error::Closed)));
        store.close().await.expect("a second closing");
    }
}
