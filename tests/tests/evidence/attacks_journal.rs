//! P10: history cannot be rewritten unnoticed, not by a node's own administrators either.
//!
//! Journals cut off, rewritten, forked, put back from an old copy; cosignatures, proofs and
//! checkpoints that are forged or another's. Each is refused for its own reason and on the record.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, path::Path, sync::Arc};

use lianxi_node::{
    domain::{
        journal::{Act, Actor},
        unit::UnitCode,
    },
    services::{
        exchange::{Occasion, Offer, Witnessing},
        hosted::Hosted,
        journal::{Filter, Finding, MAX_CHILD_WITNESSES},
        witness::AlarmRow,
    },
    statement::journal::{Evidence, Line},
    store::{
        Batch, Store, Table, journal,
        sled::{Options, SledStore},
    },
};
use lianxi_proto::{
    admin::v1::{CheckpointRequest, ProveRequest, VerifyJournalRequest},
    merkle,
    note::{self, Checkpoint, Note},
    types::v1::Level,
};
use lianxi_tests::{federation::Federation, wait::until};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

fn code(code: &str) -> UnitCode {
    code.parse().unwrap()
}

fn origin(unit: &str) -> String {
    note::origin("test.example", unit)
}

fn hosted(federation: &Federation, unit: &str) -> Arc<Hosted> {
    federation.host(unit).units().get(&code(unit)).unwrap()
}

/// A city and one district, each on a host of its own.
async fn two() -> Federation {
    let mut federation = Federation::city("C").await;
    federation.add_host("C-1", "C", Level::District).await;
    federation.wait_for_link("C-1", true).await;
    federation
}

async fn do_something(unit: &Hosted, times: usize) {
    for number in 0..times {
        let act = Act::done(Actor::node(), "test.act", format!("{} {number}", unit.unit.code));
        unit.unit.record(act).await.unwrap();
    }
}

/// Makes a checkpoint of `unit` and waits until `witness` has cosigned it; returns its size.
async fn witnessed(unit: &Hosted, witness: &str) -> u64 {
    let size = unit.journal.checkpoint().await.unwrap().unwrap().checkpoint.size;
    until(&format!("{witness} to cosign {size} leaves"), async || {
        let name = origin(witness);
        let cosigned = unit.journal.cosigned_up_to(u64::MAX, Some(&name)).await.unwrap()?;
        (cosigned.checkpoint.size >= size).then_some(())
    })
    .await;
    size
}

async fn audit(unit: &Hosted, act: &str) -> Vec<Line> {
    let filter = Filter { act: act.to_owned(), ..Filter::default() };
    let (mut lines, mut from) = (Vec::new(), 0);
    loop {
        let page = unit.journal.show(from, &filter).await.unwrap();
        lines.extend(page.lines.into_iter().map(|(_, line)| line));
        from = page.next_index;
        if from >= page.size {
            return lines;
        }
    }
}

async fn alarm(unit: &Hosted) -> AlarmRow {
    until(&format!("an alarm at {}", unit.unit.code), async || {
        unit.witness.list_alarms().await.unwrap().into_iter().next()
    })
    .await
}

/// Both checkpoints of an alarm are signed by the accused: anybody can see what it says.
fn evidence_holds(accused: &Hosted, alarm: &AlarmRow) {
    let keys = accused.unit.trust().statement_keys(&accused.unit.code, None);
    for text in [&alarm.held, &alarm.offered] {
        let note = Note::parse(text).unwrap();
        assert!(
            keys.iter().any(|key| note.verify(&origin(accused.unit.code.as_str()), key).is_ok())
        );
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}

fn put_back(backup: &Path, directory: &Path) {
    fs::remove_dir_all(directory.join("store")).unwrap();
    copy(backup, &directory.join("store"));
}

/// The store of a host that is stopped, as its administrator can open it.
fn open(directory: &Path) -> SledStore {
    let options = Options { reserve_bytes: 0, ..Options::default() };
    SledStore::open(&directory.join("store"), options).unwrap()
}

/// However many children cosign, and however late the parent does.
#[tokio::test(flavor = "multi_thread")]
async fn among_many_children_the_parents_cosignature_has_its_place() {
    let mut federation = two().await;
    for number in 0..=MAX_CHILD_WITNESSES + 4 {
        federation.add_unit(&format!("C-1-{number}"), "C-1", Level::Street).await;
    }
    federation.stop("C").await;
    let district = hosted(&federation, "C-1");
    do_something(&district, 1).await;
    let size = district.journal.checkpoint().await.unwrap().unwrap().checkpoint.size;
    let names = async || {
        let newest = district.journal.newest().await.unwrap().unwrap();
        assert_eq!(newest.checkpoint.size, size);
        newest.witnesses().map(str::to_owned).collect::<Vec<_>>()
    };
    until("as many children as are kept", async || {
        (names().await.len() == MAX_CHILD_WITNESSES).then_some(())
    })
    .await;
    // All are told where they stand; those that are not kept must not be asked for ever.
    for number in 0..=MAX_CHILD_WITNESSES + 4 {
        let child = hosted(&federation, &format!("C-1-{number}"));
        until(&format!("C-1-{number} to hold {size} leaves of C-1"), async || {
            let held = child.witness.held(&code("C-1")).await.unwrap()?;
            let held = Checkpoint::of(&Note::parse(&held.checkpoint).unwrap()).unwrap();
            (held.size == size).then_some(())
        })
        .await;
        // A thousand siblings would otherwise each keep a thousand.
        let trust = child.unit.trust();
        assert!(trust.children(&code("C-1")).len() <= 1, "C-1-{number} learnt its siblings");
    }
    federation.start("C").await;
    until("the parent's cosignature", async || {
        let name = origin("C");
        let cosigned = district.journal.cosigned_up_to(u64::MAX, Some(&name)).await.unwrap()?;
        (cosigned.checkpoint.size >= size).then_some(())
    })
    .await;
}

#[tokio::test]
async fn parent_and_child_cosign_each_other_and_evidence_names_the_witness() {
    let federation = two().await;
    let (city, district) = (hosted(&federation, "C"), hosted(&federation, "C-1"));
    witnessed(&city, "C-1").await;
    witnessed(&district, "C").await;

    // A statement that the district signed: proved by the district's journal, seen by the city.
    federation.publish("C-1", "2026-01").await;
    let line = audit(&district, "statement-out").await.pop().unwrap();
    let id: lianxi_node::statement::header::StatementId = line.subject.parse().unwrap();
    witnessed(&district, "C").await;
    let evidence = district.journal.evidence_of(id).await.unwrap().unwrap();
    let keys = city.unit.trust().statement_keys(&code("C-1"), None);
    let note = evidence.verify(&origin("C-1"), &keys).unwrap();
    let witness = city.unit.trust().statement_keys(&code("C"), None);
    assert!(witness.iter().any(|key| note.verify_cosignature(&origin("C"), key).is_ok()));
    assert!(evidence.verify(&origin("C"), &keys).is_err(), "it is another unit's journal");

    // The same over the local socket.
    let request =
        ProveRequest { unit: "C-1".into(), statement_id: id.as_bytes().to_vec(), leaf_index: 0 };
    let client = federation.client("C-1");
    let proof = client.journals().prove(request).await.unwrap().into_inner();
    assert_eq!(Evidence::of_message(proof.evidence.unwrap()).unwrap(), evidence);
    let [witness] = &proof.witnesses[..] else { panic!("{:?}", proof.witnesses) };
    assert_eq!((witness.unit.as_str(), witness.same_host), ("C", false));
    let request = CheckpointRequest { unit: "C".into(), wait_ms: 10_000 };
    let made = federation.client("C").journals().checkpoint(request).await.unwrap().into_inner();
    assert!(made.is_root && made.witnesses.iter().any(|witness| witness.unit == "C-1"));
}

#[tokio::test]
async fn what_happens_is_in_the_journal_once_and_by_whom() {
    let federation = two().await;
    let (city, district) = (hosted(&federation, "C"), hosted(&federation, "C-1"));
    federation.wait_for_catalogue("C-1").await;
    assert_eq!(audit(&city, "node.init").await.len(), 1);
    assert_eq!(audit(&city, "node.start").await.len(), 1);
    assert_eq!(audit(&city, "config").await.len(), 1);
    assert_eq!(audit(&district, "node.join").await.len(), 1);
    let delegated = audit(&city, "delegation").await;
    assert!(delegated.iter().any(|line| line.subject == "C-1"), "{delegated:?}");
    assert_eq!(audit(&district, "statement-in").await.len(), 1, "the catalogue");

    federation.import("C-1", "1,C-1,2026-01-02 10:00:00,,hole,A\n").await;
    let records = audit(&district, "record").await;
    assert_eq!(records.iter().filter(|line| line.event == "record").count(), 1);
    let store = district.unit.store.as_ref();
    let rows = store.scan(&code("C-1"), Table::Journal, b"", None, 9_999).await.unwrap();
    let holds = |row: &[u8], text: &[u8]| row.windows(text.len()).any(|part| part == text);
    assert!(rows.iter().any(|(_, row)| holds(row, b"node.join")), "names are in clear");
    assert!(!rows.iter().any(|(_, row)| holds(row, b"hole")), "contents are not there at all");
    federation.import("C-1", "1,C-1,2026-01-02 10:00:00,,hole,A\n").await;
    let again = audit(&district, "record").await;
    assert_eq!(again.iter().filter(|line| line.event == "record").count(), 1, "nothing changed");
}

#[tokio::test]
async fn a_store_restored_from_an_old_backup_is_an_alarm_at_the_parent() {
    let mut federation = two().await;
    let received = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = received.local_addr().unwrap();
    federation.stop("C").await;
    let config = federation.directory("C").join("node.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{text}\n[alarms]\nwebhook = \"http://{address}/alarm\"\n"))
        .unwrap();
    federation.start("C").await;
    federation.wait_for_link("C-1", true).await;
    witnessed(&hosted(&federation, "C-1"), "C").await;

    federation.stop("C-1").await;
    let backup = tempfile::tempdir().unwrap();
    copy(&federation.directory("C-1").join("store"), backup.path());
    federation.start("C-1").await;
    do_something(&hosted(&federation, "C-1"), 9).await;
    federation.wait_for_link("C-1", true).await;
    let size = witnessed(&hosted(&federation, "C-1"), "C").await;
    federation.stop("C-1").await;
    put_back(backup.path(), &federation.directory("C-1"));
    federation.start("C-1").await;

    let city = hosted(&federation, "C");
    let alarm = alarm(&city).await;
    assert_eq!((alarm.unit.as_str(), alarm.breach.as_str()), ("C-1", "rollback"));
    evidence_holds(&hosted(&federation, "C-1"), &alarm);
    let held = Checkpoint::of(&Note::parse(&alarm.held).unwrap()).unwrap();
    assert_eq!(held.size, size);
    assert_eq!(audit(&city, "lianxi.alarm").await.len(), 1, "the alarm is a leaf");
    let district = hosted(&federation, "C-1");
    let refused =
        until("the district to be told", async || audit(&district, "journal.cosign").await.pop())
            .await;
    assert_eq!(refused.refused, "rollback");

    let (mut stream, _) = received.accept().await.unwrap();
    let mut request = vec![0; 64 * 1024];
    let read = stream.read(&mut request).await.unwrap();
    let text = String::from_utf8_lossy(&request[..read]).into_owned();
    assert!(text.starts_with("POST /alarm HTTP/1.1\r\n"), "{text}");
    assert!(text.contains("\"reason\":\"rollback\"") && text.contains(&alarm.id), "{text}");
    stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
}

#[tokio::test]
async fn a_second_history_is_an_alarm_however_long_it_is() {
    let mut federation = two().await;
    witnessed(&hosted(&federation, "C-1"), "C").await;
    federation.stop("C-1").await;
    let backup = tempfile::tempdir().unwrap();
    copy(&federation.directory("C-1").join("store"), backup.path());
    federation.start("C-1").await;
    do_something(&hosted(&federation, "C-1"), 3).await;
    federation.wait_for_link("C-1", true).await;
    let size = witnessed(&hosted(&federation, "C-1"), "C").await;
    federation.stop("C-1").await;
    put_back(backup.path(), &federation.directory("C-1"));

    // The copy goes on, out of the city's sight, until it is the longer one.
    federation.stop("C").await;
    federation.start("C-1").await;
    do_something(&hosted(&federation, "C-1"), 300).await;
    federation.start("C").await;
    let city = hosted(&federation, "C");
    let alarm = alarm(&city).await;
    assert_eq!((alarm.unit.as_str(), alarm.breach.as_str()), ("C-1", "split-view"));
    evidence_holds(&hosted(&federation, "C-1"), &alarm);
    let offered = Checkpoint::of(&Note::parse(&alarm.offered).unwrap()).unwrap();
    assert!(offered.size > size, "{} after {size}", offered.size);
    // One breach is one alarm, however often the link opens.
    let district = hosted(&federation, "C-1");
    do_something(&district, 1).await;
    district.journal.checkpoint().await.unwrap();
    until("the second refusal", async || {
        (audit(&district, "journal.cosign").await.len() >= 2).then_some(())
    })
    .await;
    assert_eq!(city.witness.list_alarms().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_rewritten_leaf_is_found_and_its_whole_cover_up_is_an_alarm_at_the_parent() {
    let mut federation = two().await;
    let district = hosted(&federation, "C-1");
    do_something(&district, 5).await;
    let size = witnessed(&district, "C").await;
    drop(district);
    federation.stop("C-1").await;
    federation.stop("C").await;
    let store = open(&federation.directory("C-1"));
    let unit = code("C-1");
    let rows = store.scan(&unit, Table::Journal, b"", None, 9_999).await.unwrap();
    let needle = b"C-1 3";
    let (key, value) = rows
        .iter()
        .find(|(_, value)| value.windows(needle.len()).any(|part| part == needle))
        .unwrap();
    let at = value.windows(needle.len()).position(|part| part == needle).unwrap();
    let mut changed = value.clone();
    changed[at + 4] = b'4';
    let mut batch = Batch::new(&unit);
    batch.put(Table::Journal, key.clone(), changed);
    store.submit(batch).await.unwrap();
    store.close().await.unwrap();
    drop(store);

    federation.start("C-1").await;
    let found = hosted(&federation, "C-1").journal.verify().await.unwrap();
    assert!(found.findings.contains(&Finding::Root(size)), "{:?}", found.findings);
    let client = federation.client("C-1");
    let request = VerifyJournalRequest { unit: "C-1".into() };
    let told = client.journals().verify(request).await.unwrap().into_inner();
    assert!(told.findings.iter().any(|finding| finding.reason == "root"), "{told:?}");
    federation.stop("C-1").await;

    // The administrator removes the checkpoints that tell: nothing is left to see here.
    let store = open(&federation.directory("C-1"));
    let mut batch = Batch::new(&unit);
    for (key, _) in store.scan(&unit, Table::Checkpoints, b"", None, 99).await.unwrap() {
        batch.delete(Table::Checkpoints, key);
    }
    store.submit(batch).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    federation.start("C-1").await;
    let found = hosted(&federation, "C-1").journal.verify().await.unwrap();
    assert_eq!(found.findings, []);
    federation.start("C").await;
    let alarm = alarm(&hosted(&federation, "C")).await;
    assert_eq!((alarm.unit.as_str(), alarm.breach.as_str()), ("C-1", "split-view"));
}

#[tokio::test]
async fn a_journal_that_was_cut_off_or_robbed_of_a_leaf_or_tile_names_the_place() {
    let mut federation = Federation::city("C").await;
    let city = hosted(&federation, "C");
    do_something(&city, 700).await;
    city.journal.checkpoint().await.unwrap();
    let size = city.journal.size().await.unwrap();
    assert_eq!(city.journal.verify().await.unwrap().findings, []);
    drop(city);
    federation.stop("C").await;
    let whole = tempfile::tempdir().unwrap();
    copy(&federation.directory("C").join("store"), whole.path());
    // More of the end goes than a start adds again.
    for (word, after, limit) in [("truncated", size - 100, 200), ("gap", 299, 1)] {
        put_back(whole.path(), &federation.directory("C"));
        let store = open(&federation.directory("C"));
        remove(&store, Table::Journal, after.to_be_bytes().to_vec(), limit).await;
        store.close().await.unwrap();
        drop(store);
        federation.start("C").await;
        let found = findings(&federation).await;
        let expected = |one: &Finding| match (word, one) {
            ("truncated", Finding::Truncated { signed, found }) => *signed == size && *found < size,
            ("gap", Finding::Gap(place)) => *place == 300,
            _ => false,
        };
        assert!(found.iter().any(expected), "{word}: {found:?}");
        federation.stop("C").await;
    }

    // Without a tile a host does not start; this one runs.
    put_back(whole.path(), &federation.directory("C"));
    federation.start("C").await;
    let after = [&[255][..], &0_u64.to_be_bytes()].concat();
    remove(federation.host("C").store().as_ref(), Table::JournalTiles, after, 1).await;
    let found = findings(&federation).await;
    assert!(found.contains(&Finding::NoTile { level: 0, index: 1 }), "{found:?}");
    federation.host("C").shutdown().await;
}

async fn remove(store: &dyn Store, table: Table, after: Vec<u8>, limit: usize) {
    let unit = code("C");
    let mut batch = Batch::new(&unit);
    for (key, _) in store.scan(&unit, table, b"", Some(&after), limit).await.unwrap() {
        batch.delete(table, key);
    }
    assert!(!batch.is_empty());
    store.submit(batch).await.unwrap();
}

/// What `lianxi journal verify` finds at the city, which the local socket tells too.
async fn findings(federation: &Federation) -> Vec<Finding> {
    let found = hosted(federation, "C").journal.verify().await.unwrap().findings;
    let request = VerifyJournalRequest { unit: "C".into() };
    let told = federation.client("C").journals().verify(request).await.unwrap().into_inner();
    let told: Vec<_> = told.findings.iter().map(|finding| finding.reason.as_str()).collect();
    assert_eq!(told, found.iter().map(Finding::word).collect::<Vec<_>>());
    found
}

#[tokio::test]
async fn a_forged_cosignature_is_refused() {
    let federation = two().await;
    let (city, district) = (hosted(&federation, "C"), hosted(&federation, "C-1"));
    federation.host("C").shutdown().await;
    do_something(&district, 1).await;
    let made = district.journal.checkpoint().await.unwrap().unwrap();
    // The district signs in the city's name: with its own key, which is not the city's.
    let mut forged = made.note.clone();
    forged.cosign(&origin("C"), &district.unit.keys().statement, 1_800_000_000);
    let said = Witnessing::Cosigned { checkpoint: forged.to_string() };
    district.witness.on(&code("C"), Occasion::Said(said)).await.unwrap();
    // And a true cosignature of the city, of another checkpoint.
    let other = Checkpoint { size: made.checkpoint.size + 1, ..made.checkpoint.clone() };
    let mut other = other.sign(&district.unit.keys().statement);
    other.cosign(&origin("C"), &city.unit.keys().statement, 1_800_000_000);
    let said = Witnessing::Cosigned { checkpoint: other.to_string() };
    district.witness.on(&code("C"), Occasion::Said(said)).await.unwrap();
    let refused = audit(&district, "journal.cosign").await;
    assert_eq!(refused.len(), 2);
    assert!(refused.iter().all(|line| line.refused == "bad-cosignature"), "{refused:?}");
    let covering = district.journal.covering(made.checkpoint.size - 1).await.unwrap().unwrap();
    assert_eq!(covering.witnesses().count(), 0);
}

#[tokio::test]
async fn a_checkpoint_of_another_unit_is_refused() {
    let mut federation = two().await;
    federation.add_host("C-2", "C", Level::District).await;
    federation.wait_for_link("C-2", true).await;
    let city = hosted(&federation, "C");
    let district = hosted(&federation, "C-1");
    let others = hosted(&federation, "C-2").journal.checkpoint().await.unwrap().unwrap();
    let size = others.checkpoint.size;
    let own_name_other_key = Checkpoint { origin: origin("C-1"), ..others.checkpoint.clone() }
        .sign(&hosted(&federation, "C-2").unit.keys().statement);
    let other_name_own_key = others.checkpoint.sign(&district.unit.keys().statement);
    for checkpoint in [others.note.clone(), own_name_other_key, other_name_own_key] {
        let offer = Offer { checkpoint: checkpoint.to_string(), ..Offer::default() };
        let said = Occasion::Said(Witnessing::Offer(Box::new(offer)));
        let answer = city.witness.on(&code("C-1"), said).await.unwrap();
        assert_eq!(answer, [Witnessing::Refused { reason: "bad-checkpoint".into() }], "{size}");
    }
    assert_eq!(audit(&city, "journal.offer").await.len(), 3);
    assert_eq!(city.witness.list_alarms().await.unwrap().len(), 0, "nobody's history is in doubt");
}

#[tokio::test]
async fn a_forged_consistency_proof_is_refused_and_an_alarm() {
    let federation = two().await;
    let (city, district) = (hosted(&federation, "C"), hosted(&federation, "C-1"));
    let size = witnessed(&district, "C").await;
    let root = merkle::leaf_hash(b"another history");
    let forged = Checkpoint { origin: origin("C-1"), size: size + 8, root };
    let forged = forged.sign(&district.unit.keys().statement);
    let offer = Offer {
        checkpoint: forged.to_string(),
        old_size: size,
        consistency: vec![root; 4],
        ..Offer::default()
    };
    let said = Occasion::Said(Witnessing::Offer(Box::new(offer)));
    let answer = city.witness.on(&code("C-1"), said).await.unwrap();
    assert_eq!(answer, [Witnessing::Refused { reason: "split-view".into() }]);
    assert_eq!(alarm(&city).await.breach, "split-view");
}

/// The parent could show each child a history of its own, and suppress an alarm about itself.
#[tokio::test]
async fn children_find_out_that_their_parent_shows_each_another_history() {
    let mut federation = two().await;
    federation.add_host("C-2", "C", Level::District).await;
    federation.wait_for_link("C-2", true).await;
    let city = hosted(&federation, "C");
    let (first, second) = (hosted(&federation, "C-1"), hosted(&federation, "C-2"));
    let size = witnessed(&city, "C-1").await;
    witnessed(&city, "C-2").await;
    // What the first child is shown bears the other's cosignature, and it was checked.
    until("C-1 to see that C-2 saw the same", async || {
        let held = first.witness.held(&code("C")).await.unwrap()?;
        held.others.contains(&origin("C-2")).then_some(())
    })
    .await;

    // To the second child, the city shows a history of its own at some size, and gets it cosigned.
    let root = merkle::leaf_hash(b"what C-2 saw");
    let fork = Checkpoint { origin: origin("C"), size, root };
    let mut fork = fork.sign(&city.unit.keys().statement);
    fork.cosign(&origin("C-2"), &second.unit.keys().statement, 1_800_000_000);
    // To the first, it shows the true one, and, as it has to, what the other cosigned.
    do_something(&city, 4).await;
    let newest = city.journal.checkpoint().await.unwrap().unwrap();
    let store = city.unit.store.as_ref();
    let proof =
        journal::consistency(store, &code("C"), size, newest.checkpoint.size).await.unwrap();
    let held = first.witness.held(&code("C")).await.unwrap().unwrap();
    let held = Checkpoint::of(&Note::parse(&held.checkpoint).unwrap()).unwrap();
    let from_held =
        journal::consistency(store, &code("C"), held.size, newest.checkpoint.size).await.unwrap();
    let cosigner = city.unit.trust().delegation(&code("C-2"), None).unwrap().envelope.clone();
    let offer = Offer {
        checkpoint: newest.note.only(&origin("C")).to_string(),
        old_size: held.size,
        consistency: from_held,
        witnessed: fork.to_string(),
        witnessed_consistency: proof,
        cosigners: vec![cosigner],
    };
    let said = Occasion::Said(Witnessing::Offer(Box::new(offer)));
    let answer = first.witness.on(&code("C"), said).await.unwrap();
    assert_eq!(answer, [Witnessing::Refused { reason: "split-view".into() }]);
    let alarm = alarm(&first).await;
    assert_eq!((alarm.unit.as_str(), alarm.breach.as_str()), ("C", "split-view"));
    evidence_holds(&city, &alarm);
}

#[tokio::test]
async fn an_alarm_travels_up_and_is_kept_at_each_level() {
    let mut federation = Federation::city("C").await;
    federation.add_host("C-1", "C", Level::District).await;
    federation.add_host("C-1-1", "C-1", Level::Street).await;
    federation.wait_for_link("C-1-1", true).await;
    federation.wait_for_link("C-1", true).await;
    let (city, district) = (hosted(&federation, "C"), hosted(&federation, "C-1"));
    let street = hosted(&federation, "C-1-1");
    let size = witnessed(&street, "C-1").await;
    let root = merkle::leaf_hash(b"another history");
    let forged = Checkpoint { origin: origin("C-1-1"), size, root };
    let forged = forged.sign(&street.unit.keys().statement);
    let offer = Offer { checkpoint: forged.to_string(), ..Offer::default() };
    let said = Occasion::Said(Witnessing::Offer(Box::new(offer)));
    let answer = district.witness.on(&code("C-1-1"), said).await.unwrap();
    assert_eq!(answer, [Witnessing::Refused { reason: "split-view".into() }]);
    let alarm = alarm(&city).await;
    assert_eq!((alarm.unit.as_str(), alarm.witness.as_str()), ("C-1-1", "C-1"));
    evidence_holds(&street, &alarm);
    assert_eq!(audit(&city, "lianxi.alarm").await[0].event, "statement-in");
}

#[tokio::test]
async fn leaves_are_kept_for_180_days_and_what_is_left_stays_provable() {
    let federation = Federation::city("C").await;
    let city = hosted(&federation, "C");
    do_something(&city, 600).await;
    let days = |days: i64| federation.clock.shift_to(days * 24 * 60 * 60 * 1_000);
    days(179);
    let kept = city.journal.prune(Actor::node(), 180, false).await.unwrap();
    assert_eq!((kept.leaves, kept.first_index), (0, 0));
    // Less than the law asks for is not done, whatever is asked.
    let kept = city.journal.prune(Actor::node(), 7, false).await.unwrap();
    assert_eq!(kept.leaves, 0);
    days(181);
    let would = city.journal.prune(Actor::node(), 180, true).await.unwrap();
    assert_eq!(would.leaves, 512, "whole tiles");
    assert!(city.journal.evidence(3).await.unwrap().is_none(), "no checkpoint yet");
    city.journal.checkpoint().await.unwrap();
    assert!(city.journal.evidence(3).await.unwrap().is_some());
    let pruned = city.journal.prune(Actor::node(), 180, false).await.unwrap();
    assert_eq!(pruned, would);
    do_something(&city, 300).await;
    city.journal.checkpoint().await.unwrap();
    assert!(city.journal.evidence(3).await.unwrap().is_none(), "its content is gone");
    let keys = city.unit.trust().statement_keys(&code("C"), None);
    for index in [512, 599, 700] {
        let evidence = city.journal.evidence(index).await.unwrap().unwrap();
        evidence.verify(&origin("C"), &keys).unwrap();
    }
    let verified = city.journal.verify().await.unwrap();
    assert_eq!((verified.findings, verified.first_index), (Vec::new(), 512));
    assert_eq!(audit(&city, "journal.prune").await.len(), 1);
}
