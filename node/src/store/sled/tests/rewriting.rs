//! A store is encrypted, gets new keys, is written in clear again.

use super::*;
use crate::{
    domain::journal::{Act, Actor, Leaf},
    store::journal,
};

async fn filled(directory: &Path, options: Options) -> Vec<(Table, Vec<u8>, Vec<u8>)> {
    let store = SledStore::open(directory, options).unwrap();
    let mut written = Vec::new();
    for (number, (table, key)) in hidden_rows().into_iter().enumerate() {
        let mut batch = Batch::new(&unit());
        let value = format!("a value in clear {number}").into_bytes();
        batch.put(table, key.clone(), value.clone());
        let act = Act::done(Actor::node(), "test", number.to_string());
        batch.journal(1_760_000_000_000, &Leaf::Act(act));
        store.submit(batch).await.unwrap();
        written.push((table, key, value));
    }
    store.close().await.unwrap();
    written
}

fn act() -> Option<Batch> {
    let mut batch = Batch::new(&unit());
    let act = Act::done(Actor::node(), "store.encrypt", "store");
    batch.journal(1_760_000_000_001, &Leaf::Act(act));
    Some(batch)
}

async fn assert_there(
    directory: &Path,
    options: Options,
    written: &[(Table, Vec<u8>, Vec<u8>)],
    leaves: u64,
) {
    let store = SledStore::open(directory, options).unwrap();
    for (table, key, value) in written {
        let found = store.get(&unit(), *table, key).await.unwrap();
        assert_eq!(found.as_ref(), Some(value), "{table:?} {key:?}");
    }
    assert_eq!(journal::size(&store, &unit()).await.unwrap(), leaves);
    journal::root_at(&store, &unit(), leaves).await.unwrap();
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_store_is_rewritten_there_and_back_and_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let options = sealed(Cipher::None);
    let written = filled(path, options.clone()).await;
    let mut leaves = written.len() as u64;
    let mut vaults = Vec::new();
    let ways = [Cipher::Aes256Gcm, Cipher::Aes256Gcm, Cipher::Sm4Gcm, Cipher::None];
    let mut before = Cipher::None;
    for cipher in ways {
        let mut stages = Vec::new();
        let mut progress = |stage| stages.push(stage);
        let done = rewrite(path, &options, cipher, act(), &mut progress).await.unwrap();
        assert_eq!(done.before, before);
        assert_eq!(stages[stages.len() - 2..], [Stage::Switched, Stage::Erased]);
        leaves += 1;
        assert_there(path, options.clone(), &written, leaves).await;
        assert_eq!(SledStore::cipher_of(path).unwrap(), Some(cipher));
        assert_eq!(is_on_disk(path, b"a value in clear"), cipher == Cipher::None, "{cipher}");
        let generations = std::fs::read_dir(path).unwrap();
        let generations = generations.filter(|entry| entry.as_ref().unwrap().path().is_dir());
        assert_eq!(generations.count(), 1, "{cipher}");
        vaults.extend(files_below(path).iter().find(|file| file.ends_with("vault")).cloned());
        before = cipher;
    }
    vaults.dedup();
    assert_eq!(vaults.len(), 3, "each rewriting has keys of its own");
}

#[tokio::test]
async fn a_store_that_does_not_open_whole_is_not_rewritten() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let options = sealed(Cipher::Aes256Gcm);
    let written = filled(path, options.clone()).await;
    let store = SledStore::open(path, options.clone()).unwrap();
    let key = store.codec.key(&unit(), Table::Records, b"case\0Mill Street 3").unwrap().unwrap();
    let put = |db: &Db| db.insert(&key, &b"other"[..]).map(drop);
    store.shared.read(put, |_| true).await.unwrap();
    store.submit(one("more", "value")).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    let refused = rewrite(path, &options, Cipher::None, act(), &mut |_| {}).await;
    assert!(matches!(refused, Err(Error::Tampered { .. })), "{refused:?}");
    assert_eq!(SledStore::cipher_of(path).unwrap(), Some(Cipher::Aes256Gcm));
    assert!(!is_on_disk(path, b"a value in clear"), "nothing of the copy is left");
    let store = SledStore::open(path, options).unwrap();
    let (table, key, value) = &written[0];
    assert_eq!(store.get(&unit(), *table, key).await.unwrap().as_ref(), Some(value));
}

#[tokio::test]
async fn a_store_in_use_or_without_the_hosts_keys_is_not_rewritten() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let options = sealed(Cipher::Aes256Gcm);
    let store = SledStore::open(path, options.clone()).unwrap();
    let refused = rewrite(path, &options, Cipher::None, None, &mut |_| {}).await;
    assert!(matches!(refused, Err(Error::Locked { .. })), "{refused:?}");
    store.close().await.unwrap();
    drop(store);
    let bare = Options { secret: None, ..options };
    let refused = rewrite(path, &bare, Cipher::None, None, &mut |_| {}).await;
    assert!(matches!(refused, Err(Error::Sealed)), "{refused:?}");
}
