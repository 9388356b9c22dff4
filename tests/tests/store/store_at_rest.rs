//! A store encrypted at rest, as an administrator and a thief of the disk meet it: nothing of a
//! record is found in any file of the host, whatever was done and however it ended; the wrong keys
//! open nothing; a rewriting that is killed anywhere loses nothing and leaves nothing in clear.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use lianxi_node::{
    domain::{protection::Cipher, unit::UnitCode},
    store::{
        Batch, Store as _, Table,
        sled::{self, Options, SledStore, Stage},
        vault::HostSecret,
    },
};
use lianxi_tests::{
    binary,
    federation::{CATALOGUE, MAPPING},
    processes::program,
    wait::until,
};

const PASSPHRASE: &str = "correct horse battery";
const WRONG: &str = "wrong horse battery";

const HEADING: &str = "case,unit,opened,closed,type,address\n";

/// What stands in records, and must not be found on the disk.
const PLANTED: [&str; 2] = ["CASE-ZQX-77", "Zanzibar Quay"];

/// Runs `lianxi` with the words of `line`, without a terminal, and with descriptor 3 open on
/// `passphrase`.
fn lianxi(place: &Path, line: &str, passphrase: &str) -> Output {
    fs::write(place.join("pass"), format!("{passphrase}\n")).unwrap();
    let answer = Command::new("sh")
        .args(["-c", &format!("exec setsid -w \"$0\" {line} 3<pass")])
        .arg(program())
        .current_dir(place)
        .env("LC_ALL", "C")
        .env_remove("CREDENTIALS_DIRECTORY")
        .stdin(Stdio::null())
        .output();
    fs::remove_file(place.join("pass")).unwrap();
    answer.unwrap()
}

#[track_caller]
fn done(place: &Path, line: &str) -> serde_json::Value {
    let output = lianxi(place, &format!("{line} --json"), PASSPHRASE);
    assert!(output.status.success(), "{line}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

#[track_caller]
fn refused(place: &Path, line: &str, passphrase: &str, code: i32, words: &str) {
    let output = lianxi(place, line, passphrase);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{line}: {said}");
    assert!(said.contains(words), "{line}: {said}");
    assert!(!said.contains(passphrase) && !said.contains("panicked"), "{said}");
}

fn city(place: &Path) {
    let init = "node init --dir host --code C --level city --title C --domain c.example";
    done(place, &format!("{init} --listen 127.0.0.1:0"));
    fs::write(place.join("catalogue.json"), CATALOGUE).unwrap();
    fs::write(place.join("mapping.toml"), MAPPING).unwrap();
}

fn rows(place: &Path, first: u32, count: u32) {
    let row = |number: u32| {
        format!("CASE-ZQX-77{number},C,2011-07-01 08:00:00,,light,{number} Zanzibar Quay\n")
    };
    let rows: String = (first..first + count).map(row).collect();
    fs::write(place.join("rows.csv"), format!("{HEADING}{rows}")).unwrap();
}

/// The host, as long as it runs.
struct Node(tokio::process::Child);

impl Node {
    async fn start(place: &Path) -> Self {
        fs::write(place.join("opens"), format!("{PASSPHRASE}\n")).unwrap();
        let log = fs::File::options().create(true).append(true).open(place.join("log")).unwrap();
        let script = "exec \"$0\" node run --dir host --passphrase-fd 3 3<opens";
        let mut command = tokio::process::Command::new("sh");
        command.args(["-c", script]).arg(program()).current_dir(place);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
        let node = Self(command.env("LC_ALL", "C").spawn().unwrap());
        until("an answer of the host", async || {
            let answer = binary::run(place, ["node", "status", "--dir", "host"]).await;
            (answer.code == 0).then_some(())
        })
        .await;
        node
    }

    async fn kill(mut self) {
        self.0.kill().await.unwrap();
    }
}

async fn ask(place: &Path, line: &str) -> String {
    let words = line.split_whitespace().chain(["--dir", "host"]);
    binary::run(place, words).await.succeeds()
}

async fn import(place: &Path, first: u32, count: u32) {
    rows(place, first, count);
    ask(place, "record import rows.csv --mapping mapping.toml").await;
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let (mut files, mut open) = (Vec::new(), vec![directory.to_owned()]);
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                open.push(entry.path());
            } else if kind.is_file() {
                files.push(entry.path());
            }
        }
    }
    files
}

/// Files below the host's directory in which a planted text stands.
fn files_with_planted(place: &Path) -> Vec<PathBuf> {
    let holds = |file: &PathBuf| {
        let bytes = fs::read(file).unwrap();
        let is_in = |text: &&str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
        PLANTED.iter().any(is_in)
    };
    files_below(&place.join("host")).into_iter().filter(holds).collect()
}

#[track_caller]
fn assert_nothing_planted(place: &Path, when: &str) {
    let found = files_with_planted(place);
    assert!(found.is_empty(), "{when}: {found:?}");
}

async fn records(place: &Path) -> u64 {
    let status: serde_json::Value =
        serde_json::from_str(&ask(place, "node status --json").await).unwrap();
    status["units"][0]["records"].as_u64().unwrap()
}

/// Made encrypted, a host has nothing in clear from its first byte on, keys included.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_made_encrypted_never_had_anything_in_clear() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path();
    let init = "node init --dir host --code C --level city --title C --domain c.example \
                --listen 127.0.0.1:0";
    refused(place, &format!("{init} --encrypt rot13 --passphrase-fd 3"), PASSPHRASE, 2, "sm4-gcm");
    refused(place, &format!("{init} --passphrase-fd 3"), PASSPHRASE, 2, "--encrypt");
    refused(
        place,
        &format!("{init} --encrypt sm4-gcm --passphrase-fd 3"),
        "short",
        5,
        "12 characters",
    );
    done(place, &format!("{init} --encrypt sm4-gcm --passphrase-fd 3"));
    let cipher = SledStore::cipher_of(&place.join("host/store")).unwrap();
    assert_eq!(cipher, Some(Cipher::Sm4Gcm));
    let text = fs::read_to_string(place.join("host/node.toml")).unwrap();
    assert!(text.contains("encrypt = \"sm4-gcm\"") && text.contains("protect = \"passphrase\""));
    fs::write(place.join("catalogue.json"), CATALOGUE).unwrap();
    fs::write(place.join("mapping.toml"), MAPPING).unwrap();
    refused(place, "node run --dir host", PASSPHRASE, 5, "no terminal");
    refused(place, "node run --dir host --passphrase-fd 3", WRONG, 6, "the passphrase is wrong");
    let node = Node::start(place).await;
    ask(place, "catalogue publish catalogue.json").await;
    import(place, 0, 100).await;
    assert_eq!(records(place).await, 100);
    assert_nothing_planted(place, "running");
    node.kill().await;
    assert_nothing_planted(place, "killed");
    let keys: Vec<PathBuf> = files_below(&place.join("host/keys"))
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "keys"))
        .collect();
    assert!(keys.len() >= 3, "{keys:?}");
    for path in keys {
        // Magic, then the version of a sealed file.
        assert_eq!(fs::read(&path).unwrap()[11], 3, "{}", path.display());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_record_is_on_the_disk_of_an_encrypted_host() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path();
    city(place);
    let node = Node::start(place).await;
    ask(place, "catalogue publish catalogue.json").await;
    import(place, 0, 300).await;
    node.kill().await;
    assert!(!files_with_planted(place).is_empty(), "the search finds what is in clear");

    let opens = "--dir host --passphrase-fd 3";
    refused(
        place,
        "store encrypt --dir host",
        PASSPHRASE,
        5,
        "run `lianxi node protect-keys` first",
    );
    done(place, &format!("node protect-keys {opens}"));
    refused(place, &format!("store encrypt {opens}"), WRONG, 6, "the passphrase is wrong");
    refused(place, &format!("store rotate-key {opens}"), PASSPHRASE, 5, "is not encrypted");
    let dry = done(place, &format!("store encrypt --cipher sm4-gcm --dry-run {opens}"));
    assert_eq!((&dry["before"], &dry["after"]), (&"none".into(), &"sm4-gcm".into()), "{dry}");
    assert!(!files_with_planted(place).is_empty(), "a dry run changes nothing");
    let made = done(place, &format!("store encrypt --cipher sm4-gcm {opens}"));
    assert_eq!(made["entries"].as_u64(), dry["entries"].as_u64());
    assert_nothing_planted(place, "encrypted");
    refused(place, &format!("store encrypt --cipher sm4-gcm {opens}"), PASSPHRASE, 5, "already");
    refused(place, &format!("node unprotect-keys {opens}"), PASSPHRASE, 5, "store decrypt");
    refused(place, "node run --dir host", PASSPHRASE, 5, "no terminal");
    refused(place, &format!("node run {opens}"), WRONG, 6, "the passphrase is wrong");
    refused(place, &format!("store rotate-key {opens}"), WRONG, 6, "the passphrase is wrong");

    let node = Node::start(place).await;
    assert_eq!(records(place).await, 300);
    import(place, 300, 300).await;
    ask(place, "summary publish --period 2011-07").await;
    assert!(ask(place, "node status").await.contains("sm4-gcm"));
    assert!(ask(place, "record list --type request --limit 1000").await.contains("Zanzibar"));
    assert_nothing_planted(place, "running");
    node.kill().await;
    assert_nothing_planted(place, "killed");

    done(place, &format!("store rotate-key {opens}"));
    done(place, &format!("store decrypt {opens}"));
    assert!(!files_with_planted(place).is_empty(), "in clear again");
    done(place, &format!("store encrypt {opens}"));
    assert_nothing_planted(place, "encrypted again");
    let node = Node::start(place).await;
    assert_eq!(records(place).await, 600);
    let acts = ask(place, "journal show --act store. --json").await;
    for act in ["store.encrypt", "store.rotate-key", "store.decrypt", "wrong-secret"] {
        assert!(acts.contains(act), "{act}: {acts}");
    }
    assert!(ask(place, "journal verify").await.contains('C'));
    node.kill().await;
}

/// An upload is killed at once after it was begun, again and again: what is spooled is encrypted.
#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_is_killed_leaves_nothing_in_clear_and_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path();
    city(place);
    let opens = "--dir host --passphrase-fd 3";
    done(place, &format!("node protect-keys {opens}"));
    done(place, &format!("store encrypt {opens}"));
    let mut node = Node::start(place).await;
    ask(place, "catalogue publish catalogue.json").await;
    rows(place, 0, 20_000);
    let spooled = || {
        let files = files_below(&place.join("host/imports"));
        files.iter().map(|file| fs::metadata(file).map_or(0, |file| file.len())).sum::<u64>()
    };
    for least in [100_000, 600_000, 1_000_000] {
        let words = ["record", "import", "rows.csv", "--mapping", "mapping.toml", "--dir", "host"];
        let mut importing = binary::command(place, words);
        importing.stdout(Stdio::null()).stderr(Stdio::null());
        let mut importing = importing.spawn().unwrap();
        until("a part of the file in the spool", async || (spooled() >= least).then_some(())).await;
        node.kill().await;
        assert_nothing_planted(place, "killed with a spooled file");
        importing.wait().await.unwrap();
        node = Node::start(place).await;
    }
    ask(place, "record import rows.csv --mapping mapping.toml").await;
    assert_eq!(records(place).await, 20_000);
    assert_eq!(files_below(&place.join("host/imports")), [] as [PathBuf; 0]);
    assert_nothing_planted(place, "imported");
    node.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_whose_configuration_asks_for_an_encrypted_store_does_not_start_without() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path();
    city(place);
    let opens = "--dir host --passphrase-fd 3";
    done(place, &format!("node protect-keys {opens}"));
    let config = place.join("host/node.toml");
    let text = fs::read_to_string(&config).unwrap() + "\n[store]\nencrypt = \"aes-256-gcm\"\n";
    fs::write(&config, text).unwrap();
    refused(place, &format!("node run {opens}"), PASSPHRASE, 5, "[store] encrypt asks for");
    done(place, &format!("store encrypt --cipher sm4-gcm {opens}"));
    refused(place, &format!("node run {opens}"), PASSPHRASE, 5, "is encrypted with sm4-gcm");
    done(place, &format!("store encrypt {opens}"));
    refused(place, &format!("store decrypt {opens}"), PASSPHRASE, 5, "asks for encryption");
    Node::start(place).await.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_another_host_do_not_open_the_store() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path();
    city(place);
    let opens = "--dir host --passphrase-fd 3";
    done(place, &format!("node protect-keys {opens}"));
    done(place, &format!("store encrypt {opens}"));
    let other = tempfile::tempdir().unwrap();
    city(other.path());
    done(other.path(), &format!("node protect-keys {opens}"));
    let key = Path::new("host/keys/host.key");
    fs::copy(other.path().join(key), place.join(key)).unwrap();
    refused(place, &format!("node run {opens}"), PASSPHRASE, 6, "from the same backup");
}

const DIRECTORY: &str = "LIANXI_TEST_STORE";
const TO: &str = "LIANXI_TEST_CIPHER";

fn unit() -> UnitCode {
    "BOS-01".parse().unwrap()
}

fn options() -> Options {
    let secret = Some(HostSecret::new([7; 32].into()));
    Options { reserve_bytes: 0, secret, ..Options::default() }
}

/// What the killed process runs: it tells each stage, and goes on when it is told to.
#[test]
#[ignore = "a child of the other tests: cargo test -p lianxi-tests --test store -- store_at_rest"]
fn child_rewrites_stage_by_stage() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let cipher = Cipher::named(&std::env::var(TO).unwrap()).unwrap();
    let mut progress = |stage: Stage| {
        let mut out = std::io::stdout().lock();
        out.write_all(format!("&{stage:?}\n").as_bytes()).unwrap();
        out.flush().unwrap();
        std::io::stdin().read_line(&mut String::new()).unwrap();
    };
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let directory = Path::new(&directory);
        sled::rewrite(directory, &options(), cipher, None, &mut progress).await.unwrap();
    });
}

/// Rewrites the store and kills the process at its `nth` stage. Gives that stage, `None` if it ended
/// before.
fn killed_at(directory: &Path, to: Cipher, nth: usize) -> Option<String> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "store_at_rest::child_rewrites_stage_by_stage",
            "--ignored",
            "--nocapture",
        ])
        .env(DIRECTORY, directory)
        .env(TO, to.name())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let (mut input, mut seen) = (child.stdin.take().unwrap(), 0);
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        let Some((_, stage)) = line.split_once("&") else { continue };
        if seen == nth {
            child.kill().unwrap();
            child.wait().unwrap();
            return Some(stage.to_owned());
        }
        seen += 1;
        input.write_all(b"go on\n").unwrap();
    }
    assert!(child.wait().unwrap().success());
    None
}

const ENTRIES: u32 = 700;

async fn fill(directory: &Path) {
    let store = SledStore::open(directory, options()).unwrap();
    for number in 0..ENTRIES {
        let mut batch = Batch::new(&unit());
        let key = format!("case\0CASE-ZQX-77 {number}");
        batch.put(Table::Records, key, format!("{number} Zanzibar Quay").repeat(20));
        drop(store.submit(batch));
    }
    store.close().await.unwrap();
}

async fn assert_whole(directory: &Path, when: &str) {
    let store = SledStore::open(directory, options()).unwrap();
    for number in 0..ENTRIES {
        let key = format!("case\0CASE-ZQX-77 {number}");
        let found = store.get(&unit(), Table::Records, key.as_bytes()).await.unwrap();
        let value = format!("{number} Zanzibar Quay").repeat(20);
        assert_eq!(found, Some(value.into_bytes()), "{when}: {number}");
    }
    let all = store.scan(&unit(), Table::Records, b"", None, usize::MAX).await.unwrap();
    assert_eq!(all.len(), usize::try_from(ENTRIES).unwrap(), "{when}");
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_rewriting_that_is_killed_at_any_stage_loses_nothing_and_can_be_given_again() {
    let ways = [
        (Cipher::None, Cipher::Aes256Gcm),
        (Cipher::Aes256Gcm, Cipher::Aes256Gcm),
        (Cipher::Aes256Gcm, Cipher::None),
    ];
    for (from, to) in ways {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("host");
        fs::create_dir(&place).unwrap();
        fill(&place).await;
        if from != Cipher::None {
            sled::rewrite(&place, &options(), from, None, &mut |_| {}).await.unwrap();
        }
        let mut stages = Vec::new();
        while let Some(stage) = killed_at(&place, to, stages.len()) {
            let when = format!("{from} to {to}, killed at {stage}");
            let is_switched = ["Switched", "Erased"].contains(&stage.as_str());
            // Whoever opens the store next finds one of the two, whole, and nothing else.
            assert_whole(&place, &when).await;
            let is = SledStore::cipher_of(&place).unwrap();
            assert_eq!(is, Some(if is_switched { to } else { from }), "{when}");
            if is == Some(Cipher::Aes256Gcm) {
                assert_nothing_planted(directory.path(), &when);
            }
            let generations = fs::read_dir(&place).unwrap();
            let generations = generations.filter(|entry| entry.as_ref().unwrap().path().is_dir());
            assert_eq!(generations.count(), 1, "{when}");
            if is_switched {
                sled::rewrite(&place, &options(), from, None, &mut |_| {}).await.unwrap();
            }
            stages.push(stage);
        }
        let told = |word: &str| stages.iter().filter(|stage| stage.starts_with(word)).count();
        assert!(told("Copied") >= 3, "{stages:?}");
        for word in ["Comparing", "Ready", "Switched", "Erased"] {
            assert_eq!(told(word), 1, "{stages:?}");
        }
        assert_whole(&place, "done").await;
        assert_eq!(SledStore::cipher_of(&place).unwrap(), Some(to));
    }
}
