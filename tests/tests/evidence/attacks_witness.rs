//! Witnesses outside the tree: a root without a parent is seen by another root; what is shown to that
//! one and does not go on is an alarm, nobody cosigns in its name, and alarms are settled by two people.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, path::Path, process::Command, sync::Arc};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use lianxi_node::{
    domain::{
        journal::{Act, Actor},
        unit::UnitCode,
    },
    services::{
        hosted::Hosted,
        witness::{PeerError, SettleError},
    },
    statement::journal::read,
    store::journal,
    verify::{Beside, Verified, verify_beside},
};
use lianxi_proto::{
    admin::v1::StatusRequest,
    envelope::{Signer, pre_authentication_encoding},
    note::{Checkpoint, Note, key_text, parse_key},
};
use lianxi_tests::{acts::refusals, binary, federation::Federation, wait::until};
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{self, ServerConfig, pki_types::PrivateKeyDer},
};

const SUBJECT: &str = "test.example/unit/C";

fn hosted(federation: &Federation, unit: &str) -> Arc<Hosted> {
    let code: UnitCode = unit.parse().unwrap();
    federation.host(unit).units().get(&code).unwrap()
}

fn by() -> Actor {
    Actor::uid(0)
}

async fn acts(unit: &Hosted, times: usize) {
    for number in 0..times {
        let act = Act::done(Actor::node(), "test.act", number.to_string());
        unit.unit.record(act).await.unwrap();
    }
}

/// Two cities that know each other's keys: C is witnessed by D.
async fn two_roots() -> (Federation, Federation) {
    let (of_c, of_d) = (Federation::city("C").await, Federation::city("D").await);
    let (subject, witness) = (hosted(&of_c, "C"), hosted(&of_d, "D"));
    subject.witness.add_peer(by(), &witness.witness.own_key(), false).await.unwrap();
    witness.witness.add_peer(by(), &subject.witness.own_key(), false).await.unwrap();
    (of_c, of_d)
}

/// One file each way; returns the size that was cosigned.
async fn cosign(subject: &Hosted, witness: &Hosted) -> u64 {
    let request = subject.witness.request_of_peer("test.example/unit/D", None).await.unwrap();
    let given = witness.witness.cosign_for_peer(by(), &request.text, false).await.unwrap();
    assert_eq!((given.size, &*given.name), (request.size, SUBJECT));
    let taken = subject.witness.take_from_peer(by(), &given.note, false).await.unwrap();
    assert_eq!(taken.name, "test.example/unit/D");
    taken.size
}

async fn gap(federation: &Federation) -> (String, u64) {
    let status = federation.client("C").node().status(StatusRequest {}).await.unwrap();
    let unit = status.into_inner().units.remove(0);
    (unit.witness_gap, unit.open_alarms)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_is_seen_outside_its_tree_and_its_packs_say_by_whom() {
    let (of_c, of_d) = two_roots().await;
    let (subject, witness) = (hosted(&of_c, "C"), hosted(&of_d, "D"));
    assert_eq!(gap(&of_c).await.0, "no-parent");
    of_c.publish("C", "2011-07").await;
    acts(&subject, 3).await;
    let first = cosign(&subject, &witness).await;
    acts(&subject, 300).await;
    assert!(cosign(&subject, &witness).await > first);
    assert_eq!(gap(&of_c).await.0, "");
    of_c.clock.shift_to(31 * 24 * 60 * 60 * 1_000);
    assert_eq!(gap(&of_c).await.0, "peer-silent");
    of_c.clock.shift_to(0);

    let place = tempfile::tempdir().unwrap();
    let host = of_c.directory("C").display().to_string();
    let out = |name: &str| place.path().join(name).display().to_string();
    let (pack, root) = (out("c.pack"), out("root.pub"));
    let export = ["pack", "export", "--period", "2011-07", "--out", &pack, "--dir", &host];
    binary::run(place.path(), export).await.succeeds();
    let export = ["pack", "root", "--out", &root, "--dir", &host];
    binary::run(place.path(), export).await.succeeds();

    let (bytes, key) = (fs::read(&pack).unwrap(), witness.witness.own_key());
    let root_key = fs::read_to_string(&root).unwrap().parse().unwrap();
    let seen = |keys: &[(String, _)]| -> Result<Verified, _> {
        verify_beside(&bytes, &root_key, Beside { witnesses: keys, ..Beside::default() })
    };
    let outside = |verified: &Verified| {
        let witnessed = verified.statements[0].witnessed.as_ref().unwrap();
        witnessed.outside.iter().map(|one| one.name.clone()).collect::<Vec<_>>()
    };
    let named = seen(&[parse_key(&key).unwrap()]).unwrap();
    assert_eq!(outside(&named), ["test.example/unit/D"]);
    assert!(outside(&seen(&[]).unwrap()).is_empty(), "who does not know the witness sees none");
    let stranger = Signer::from_seed(&[9; 32]).verifying_key();
    let stranger = key_text("test.example/unit/D", &stranger);
    assert!(outside(&seen(&[parse_key(&stranger).unwrap()]).unwrap()).is_empty());

    let verify = ["verify", &pack, "--root", &root, "--witness", &key];
    let shown = binary::run(place.path(), verify).await.succeeds();
    assert!(shown.contains("test.example/unit/D"), "{shown}");
    let python = python(&pack, &root, &key);
    assert!(python.starts_with("valid\nseen by test.example/unit/D at "), "{python}");
    assert!(python.trim_end().ends_with(": C"), "{python}");
}

fn python(pack: &str, root: &str, key: &str) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/verify_pack.py");
    let answer = Command::new("python3")
        .arg(script)
        .args([pack, "--root", root, "--witness", key])
        .output()
        .unwrap();
    String::from_utf8(answer.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_back_is_an_alarm_at_the_witness_outside_and_a_file_that_comes_again_is_none() {
    let (mut of_c, of_d) = two_roots().await;
    let witness = hosted(&of_d, "D");
    let backup = tempfile::tempdir().unwrap();
    let first = {
        let subject = hosted(&of_c, "C");
        let early = subject.witness.request_of_peer("test.example/unit/D", None).await.unwrap();
        cosign(&subject, &witness).await;
        of_c.stop("C").await;
        copy(&of_c.directory("C").join("store"), backup.path());
        early
    };
    of_c.start("C").await;
    {
        let subject = hosted(&of_c, "C");
        acts(&subject, 20).await;
        cosign(&subject, &witness).await;
    }
    // An old file that comes again is told, and no alarm.
    let again = witness.witness.cosign_for_peer(by(), &first.text, false).await.unwrap_err();
    assert!(matches!(again, PeerError::Stale(_)), "{again}");
    assert!(witness.witness.list_alarms().await.unwrap().is_empty());

    of_c.stop("C").await;
    let store = of_c.directory("C").join("store");
    fs::remove_dir_all(&store).unwrap();
    copy(backup.path(), &store);
    of_c.start("C").await;
    let subject = hosted(&of_c, "C");
    acts(&subject, 1).await;
    let back = subject.witness.request_of_peer("test.example/unit/D", None).await.unwrap();
    let tried = witness.witness.cosign_for_peer(by(), &back.text, true).await.unwrap_err();
    assert!(matches!(tried, PeerError::Breach { .. }), "{tried}");
    assert!(witness.witness.list_alarms().await.unwrap().is_empty(), "a dry run");
    for _ in 0..2 {
        let refused = witness.witness.cosign_for_peer(by(), &back.text, false).await.unwrap_err();
        let PeerError::Breach { alarm, .. } = &refused else { panic!("{refused}") };
        let alarms = witness.witness.list_alarms().await.unwrap();
        assert_eq!((alarms.len(), &*alarms[0].breach, &alarms[0].id), (1, "rollback", alarm));
    }
    assert_eq!(refused_for(&of_d).await, ["stale", "rollback", "rollback", "rollback"]);

    // Grown past what was seen, it is another history all the same.
    acts(&subject, 60).await;
    let longer = subject.witness.request_of_peer("test.example/unit/D", None).await.unwrap();
    let elsewhere = witness.witness.cosign_for_peer(by(), &longer.text, false).await.unwrap_err();
    let PeerError::Elsewhere { held, .. } = elsewhere else { panic!("{elsewhere}") };
    let request = subject.witness.request_of_peer("test.example/unit/D", Some(held)).await.unwrap();
    let split = witness.witness.cosign_for_peer(by(), &request.text, false).await.unwrap_err();
    assert!(matches!(split, PeerError::Breach { .. }), "{split}");
    let alarms = witness.witness.list_alarms().await.unwrap();
    assert_eq!(
        alarms.iter().map(|alarm| &*alarm.breach).collect::<Vec<_>>(),
        ["rollback", "split-view"]
    );
    // Anybody who knows the key sees what the alarm says.
    let (name, key) = parse_key(&subject.witness.own_key()).unwrap();
    for note in [&alarms[1].held, &alarms[1].offered] {
        Note::parse(note).unwrap().verify(&name, &key).unwrap();
    }
}

async fn refused_for(federation: &Federation) -> Vec<String> {
    refusals(federation, "D", "journal.witness.cosign", SUBJECT).await
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

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_cosigned_for_a_stranger_or_by_another_key() {
    let (of_c, of_d) = two_roots().await;
    let (subject, witness) = (hosted(&of_c, "C"), hosted(&of_d, "D"));
    let request = subject.witness.request_of_peer("test.example/unit/D", None).await.unwrap();
    let judge = async |text: String| witness.witness.cosign_for_peer(by(), &text, false).await;

    // The same name, signed by somebody else.
    let stranger = Signer::from_seed(&[9; 32]);
    let (head, note) = request.text.split_once("\n\n").unwrap();
    let checkpoint = Checkpoint::of(&Note::parse(note).unwrap()).unwrap();
    let forged = format!("{head}\n\n{}", checkpoint.sign(&stranger));
    assert!(matches!(judge(forged).await, Err(PeerError::Signature(_))));
    let other = Checkpoint { origin: "other.example/unit/C".to_owned(), ..checkpoint.clone() };
    let unknown = judge(format!("old 0\n\n{}", other.sign(&stranger))).await;
    assert!(matches!(unknown, Err(PeerError::Unknown(_))));
    for text in ["", "old x\n\n", "old 0\nAA\n\nx", &request.text[..request.text.len() - 9]] {
        let refused = judge(text.to_owned()).await;
        assert!(matches!(refused, Err(PeerError::Malformed { .. })), "{text:?}: {refused:?}");
    }
    assert_eq!(refused_for(&of_d).await, ["bad-signature"]);

    // A cosignature in the witness's name by another key, and one of another checkpoint.
    let mut forged = Note::parse(note).unwrap();
    forged.cosign("test.example/unit/D", &stranger, 1_760_000_000);
    let taken = subject.witness.take_from_peer(by(), &forged.to_string(), false).await;
    assert!(matches!(taken, Err(PeerError::Signature(_))), "{taken:?}");
    let own = subject.unit.keys();
    let mut other = Checkpoint { size: 1, ..checkpoint }.sign(&own.statement);
    other.cosign("test.example/unit/D", &witness.unit.keys().statement, 1_760_000_000);
    let taken = subject.witness.take_from_peer(by(), &other.to_string(), false).await;
    assert!(matches!(taken, Err(PeerError::NotOurs)), "{taken:?}");
    let unsigned = subject.witness.take_from_peer(by(), note, false).await;
    assert!(matches!(unsigned, Err(PeerError::Unknown(_))), "{unsigned:?}");
    assert_eq!(subject.witness.peers().await.unwrap()[0].cosigned_size, 0);

    // A mistyped key, the own key, and a peer that was taken away.
    let key = subject.witness.own_key();
    let add = |key: String| async move { witness.witness.add_peer(by(), &key, false).await };
    let mistyped = key.replacen('+', "0+", 1);
    let itself = subject.witness.add_peer(by(), &key, false).await;
    assert!(matches!(itself, Err(PeerError::Itself(_))));
    let witness = hosted(&of_d, "D");
    assert!(matches!(add(mistyped).await, Err(PeerError::Key(_))));
    witness.witness.remove_peer(by(), SUBJECT, true).await.unwrap();
    witness.witness.remove_peer(by(), SUBJECT, false).await.unwrap();
    let gone = witness.witness.cosign_for_peer(by(), &request.text, false).await;
    assert!(matches!(gone, Err(PeerError::Unknown(_))));
}

/// Shows D a second history of C: what somebody with the key of C could make. Returns the alarm's id.
async fn forked(subject: &Hosted, witness: &Hosted) -> String {
    acts(subject, 5).await;
    cosign(subject, witness).await;
    let size = journal::size(subject.unit.store.as_ref(), &subject.unit.code).await.unwrap();
    let fork = Checkpoint { origin: SUBJECT.to_owned(), size: size + 1, root: [7; 32] };
    let held = witness.witness.peers().await.unwrap()[0].held.clone().unwrap();
    let held = Checkpoint::of(&Note::parse(&held.checkpoint).unwrap()).unwrap();
    let request = format!("old {}\n\n{}", held.size, fork.sign(&subject.unit.keys().statement));
    let refused = witness.witness.cosign_for_peer(by(), &request, false).await.unwrap_err();
    let PeerError::Breach { alarm, .. } = refused else { panic!("{refused}") };
    alarm
}

/// A certificate for `localhost`, as PEM, and what a server shows it with.
fn receiver() -> (String, TlsAcceptor) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let config = builder.with_single_cert(vec![made.cert.der().clone()], key).unwrap();
    (made.cert.pem(), TlsAcceptor::from(Arc::new(config)))
}

/// Head and body of one request, which is answered with `status`.
async fn taken(listener: &TcpListener, tls: &TlsAcceptor, status: &str) -> (String, Vec<u8>) {
    let (stream, _) = listener.accept().await.unwrap();
    let mut stream = tls.accept(stream).await.unwrap();
    let mut bytes = Vec::new();
    loop {
        let mut part = [0; 4096];
        let read = stream.read(&mut part).await.unwrap();
        bytes.extend_from_slice(&part[..read]);
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap().to_lowercase();
        let length = head.split("content-length: ").nth(1).unwrap().lines().next().unwrap();
        if bytes.len() >= end + 4 + length.trim().parse::<usize>().unwrap() {
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.flush().await.unwrap();
            return (head, bytes.split_off(end + 4));
        }
    }
}

/// HMAC (RFC 2104) with SHA-256 and a key of at most 64 bytes, from the definition.
fn hmac(key: &[u8], text: &[u8]) -> String {
    let padded = |byte: u8| -> Vec<u8> {
        (0..64).map(|at| key.get(at).copied().unwrap_or(0) ^ byte).collect()
    };
    let inner = Sha256::digest([&padded(0x36)[..], text].concat());
    hex::encode(Sha256::digest([&padded(0x5c)[..], &inner[..]].concat()))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alarm_is_posted_to_the_right_receiver_alone_until_it_is_taken_and_not_again() {
    const SECRET: &[u8] = b"a secret of at least 32 bytes, shared";
    let (of_c, mut of_d) = two_roots().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let ((certificate, right), (_, wrong)) = (receiver(), receiver());
    let directory = of_d.directory("D");
    of_d.stop("D").await;
    fs::write(directory.join("ca.pem"), certificate).unwrap();
    fs::write(directory.join("secret"), [SECRET, b"\n"].concat()).unwrap();
    let config = directory.join("node.toml");
    let text = fs::read_to_string(&config).unwrap();
    let alarms = format!(
        "[alarms]\nwebhook = \"https://localhost:{port}/alarms\"\nca_file = \"ca.pem\"\n\
         secret_file = \"secret\"\n"
    );
    fs::write(&config, format!("{text}\n{alarms}")).unwrap();
    of_d.start("D").await;
    let (subject, witness) = (hosted(&of_c, "C"), hosted(&of_d, "D"));
    let id = forked(&subject, &witness).await;

    // Somebody else in the receiver's place is told nothing.
    let (stream, _) = listener.accept().await.unwrap();
    assert!(wrong.accept(stream).await.is_err());
    let (_, refused) = taken(&listener, &right, "503 Service Unavailable").await;
    let (head, body) = taken(&listener, &right, "204 No Content").await;
    assert_eq!(refused, body, "tried again");
    assert!(head.starts_with("post /alarms http/1.1"), "{head}");
    assert!(head.contains(&format!("lianxi-signature: sha256={}", hmac(SECRET, &body))), "{head}");
    let posted: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((&posted["id"], &posted["reason"]), (&id.into(), &"split-view".into()));
    // The statement proves itself with the key of the witness.
    let envelope = &posted["envelope"];
    let bytes =
        |value: &serde_json::Value| BASE64_STANDARD.decode(value.as_str().unwrap()).unwrap();
    let signed = pre_authentication_encoding(
        envelope["payloadType"].as_str().unwrap(),
        &bytes(&envelope["payload"]),
    );
    let key = witness.unit.keys().statement.verifying_key();
    assert!(key.holds(&signed, &bytes(&envelope["signatures"][0]["sig"])));
    until("the alarm to be told", async || {
        witness.witness.untold_alarms().await.unwrap().is_empty().then_some(())
    })
    .await;
    drop(witness);
    of_d.stop("D").await;
    of_d.start("D").await;
    assert!(hosted(&of_d, "D").witness.untold_alarms().await.unwrap().is_empty(), "not again");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alarm_is_settled_by_two_people_and_leaves_as_a_file() {
    let (of_c, of_d) = two_roots().await;
    let (subject, witness) = (hosted(&of_c, "C"), hosted(&of_d, "D"));
    let alarm = forked(&subject, &witness).await;
    let settle = async |approvers: &[&str], text: &str| {
        let approvers = approvers.iter().map(|&name| name.to_owned()).collect();
        witness.witness.settle_alarm(by(), &alarm, approvers, text, false).await
    };
    for few in [&["li"][..], &["li", "li"], &["li", ""], &[]] {
        let refused = settle(few, "a backup was put back").await;
        assert!(matches!(refused, Err(SettleError::Approvers)), "{few:?}");
    }
    assert!(matches!(settle(&["li", "wang"], " ").await, Err(SettleError::Text)));
    assert_eq!(witness.witness.open_alarms().await.unwrap(), 1);
    let place = tempfile::tempdir().unwrap();
    let host = of_d.directory("D").display().to_string();
    let status = binary::run(place.path(), ["node", "status", "--dir", &host]).await.succeeds();
    assert!(status.contains("1 alarms about journals are not settled"), "{status}");
    let doctor = binary::run(place.path(), ["node", "doctor", "--dir", &host]).await;
    assert_ne!(doctor.code, 0);

    // As a file it stands alone.
    let out = |name: &str| place.path().join(name).display().to_string();
    let (pack, root) = (out("alarm.pack"), out("root.pub"));
    let export = ["pack", "export", "--statement", &alarm, "--out", &pack, "--dir", &host];
    binary::run(place.path(), export).await.succeeds();
    binary::run(place.path(), ["pack", "root", "--out", &root, "--dir", &host]).await.succeeds();
    let shown = binary::run(place.path(), ["verify", &pack, "--root", &root]).await.succeeds();
    assert!(shown.contains("lianxi.alarm.v1") && shown.contains(&alarm), "{shown}");

    let args = ["journal", "alarms", "--settle", &alarm, "--found", "the store of C was put back"];
    let two = ["--approved-by", "li", "--approved-by", "wang", "--dir", &host];
    binary::run(place.path(), args.into_iter().chain(two)).await.succeeds();
    assert!(matches!(settle(&["li", "wang"], "again").await, Err(SettleError::Again(_))));
    assert_eq!(witness.witness.open_alarms().await.unwrap(), 0);
    let listed = binary::run(place.path(), ["journal", "alarms", "--dir", &host]).await.succeeds();
    assert!(listed.contains("li, wang: the store of C was put back"), "{listed}");
    let unknown = witness.witness.settle_alarm(by(), "no-id", vec![], "x", false).await;
    assert!(matches!(unknown, Err(SettleError::Unknown(_))));
    let reasons = refusals(&of_d, "D", "journal.alarm.settle", &alarm).await;
    assert_eq!(reasons, ["approvers", "approvers", "approvers", "approvers", "text", "settled"]);
    let store = witness.unit.store.as_ref();
    let leaves = journal::leaves(store, &witness.unit.code, 0).await.unwrap();
    let lines: Vec<_> = leaves.iter().map(|(_, leaf)| read(leaf).unwrap()).collect();
    let done = lines.iter().filter(|line| line.name == "journal.alarm.settle");
    assert_eq!(done.filter(|line| line.refused.is_empty()).count(), 1);
}
