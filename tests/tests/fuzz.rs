//! What comes from outside, in every shape: the corpus in the tree, and changes of it.
//!
//! `LIANXI_FUZZ_SECONDS` sets how long each way in is tried, `LIANXI_FUZZ_SEED` where the changes
//! begin. What breaks one is written to a file, to be added to the corpus once it is mended.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use lianxi_node::{
    domain::unit::UnitCode,
    link::Tap,
    statement::{Envelope, courier, header},
};
use lianxi_proto::{
    admin::v1::CheckpointRequest,
    link::v1::{Frame, frame::Kind},
    local::v1::IssueNoticeRequest,
    types::v1::{Level, Notice},
};
use lianxi_tests::{
    binary::run,
    federation::{Federation, MAPPING},
    fuzz::TARGETS,
    numbers::{Numbers, setting},
};
use prost::Message as _;
use tokio::time::Instant;

fn corpus(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name)
}

/// Texts that mean something to one reader or another.
const WORDS: [&[u8]; 12] = [
    b"\n----\n",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
    b"\x00\x00\x00\x00",
    b"\n\n",
    "\u{2014} ".as_bytes(),
    b"lianxi.summary.v1",
    b"9223372036854775807",
    b"-1",
    b"\"\"",
    b"{}",
    "街道".as_bytes(),
];

/// One of `seeds`, changed in a few places.
fn changed(seeds: &[Vec<u8>], numbers: &mut Numbers) -> Vec<u8> {
    let mut bytes = seeds[numbers.below(seeds.len())].clone();
    for _ in 0..=numbers.below(6) {
        let at = numbers.below(bytes.len() + 1);
        let length = 1 + numbers.below(16);
        let end = (at + length).min(bytes.len());
        match numbers.below(8) {
            0 | 1 if at < bytes.len() => bytes[at] ^= 1 << numbers.below(8),
            2 if at < bytes.len() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][numbers.below(5)],
            3 => drop(bytes.drain(at..end)),
            4 => {
                let copied = bytes[at..end].to_vec();
                let place = numbers.below(bytes.len() + 1);
                bytes.splice(place..place, copied);
            }
            5 => drop(bytes.splice(at..at, WORDS[numbers.below(WORDS.len())].iter().copied())),
            6 => {
                let other = &seeds[numbers.below(seeds.len())];
                let from = numbers.below(other.len() + 1);
                let until = (from + 1 + numbers.below(200)).min(other.len());
                bytes.splice(at..end, other[from..until].iter().copied());
            }
            _ => bytes.truncate(at.max(1)),
        }
    }
    bytes
}

fn tried(name: &str) {
    let (_, target) = TARGETS.iter().find(|(of, _)| *of == name).unwrap();
    let mut files: Vec<PathBuf> =
        fs::read_dir(corpus(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let seeds: Vec<Vec<u8>> = files.iter().map(|path| fs::read(path).unwrap()).collect();
    assert!(!seeds.is_empty(), "no corpus for {name}");
    for (seed, path) in seeds.iter().zip(&files) {
        assert!(catch_unwind(|| target(seed)).is_ok(), "{} breaks {name}", path.display());
    }
    let mut numbers = Numbers::new(setting("LIANXI_FUZZ_SEED", 1));
    let end = Instant::now() + Duration::from_secs(setting("LIANXI_FUZZ_SECONDS", 3));
    let mut tries = 0_u64;
    while Instant::now() < end {
        let bytes = changed(&seeds, &mut numbers);
        if catch_unwind(AssertUnwindSafe(|| target(&bytes))).is_err() {
            let kept = std::env::temp_dir().join(format!("lianxi-fuzz-{name}-{tries}"));
            fs::write(&kept, &bytes).unwrap();
            panic!("{} breaks {name}", kept.display());
        }
        tries += 1;
    }
    assert!(tries > 100, "only {tries} changes of {name} in that time");
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                tried(stringify!($name));
            }
        )*

        #[test]
        fn every_target_is_tried_and_known_to_the_fuzzer() {
            let tried = [$(stringify!($name)),*];
            let all: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
            assert_eq!(all, tried);
            let manifest = fs::read_to_string(corpus("..").join("Cargo.toml")).unwrap();
            for name in all {
                assert!(manifest.contains(&format!("fuzz_targets/{name}.rs")), "{name}");
            }
        }
    };
}

targets! { session statement pack courier token note mapping filter config }

/// Every frame, with its sender and its receiver.
#[derive(Default)]
struct Frames(Mutex<Vec<(String, String, Vec<u8>)>>);

impl Tap for Frames {
    fn frame(&self, from: &UnitCode, to: &UnitCode, bytes: &[u8]) {
        self.0.lock().unwrap().push((from.to_string(), to.to_string(), bytes.to_vec()));
    }
}

const ROWS: &str = "\
1,C-1-1-1,2011-07-01 08:00:00,2011-07-01 09:00:00,light,1 Main St
2,C,2011-07-06 08:00:00,,tree,6 Main St
";

/// Writes a corpus from what a federation really says. Keys and tokens in it are of that test. Run
/// it with `cargo test -p lianxi-tests --test fuzz -- --ignored` after a change of the wire.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "writes into the tree: cargo test -p lianxi-tests --test fuzz -- --ignored"]
async fn the_corpus_is_written_anew() {
    let frames = Arc::new(Frames::default());
    let federation = Federation::four_levels_with(Some(frames.clone())).await;
    for host in ["C", "C-1-1"] {
        federation.import(host, ROWS).await;
        federation.publish(host, "2011-07").await;
    }
    let notice = Notice {
        number: "N1".into(),
        title: "Lights".into(),
        duty_item: "street-light-inspection".into(),
        level: Level::Community.into(),
        due_unix_ms: 4_000_000_000_000,
        ..Notice::default()
    };
    let request = IssueNoticeRequest {
        unit: "C".into(),
        destination: "C-1".into(),
        notice: Some(notice),
        exercise: false,
    };
    federation.client("C").notices().issue(request).await.unwrap();
    federation.pull("C", "2011-07").await;
    let request = CheckpointRequest { unit: "C-1".into(), wait_ms: 10_000 };
    let checkpoint = federation.client("C-1").journals().checkpoint(request).await.unwrap();
    let write = |target: &str, name: &str, bytes: &[u8]| {
        fs::create_dir_all(corpus(target)).unwrap();
        fs::write(corpus(target).join(name), bytes).unwrap();
    };
    write("note", "checkpoint", checkpoint.into_inner().checkpoint.as_bytes());
    write_frames(&frames.0.lock().unwrap(), &write);
    let token = federation.invite("C-3", "C", Level::District).await.unwrap();
    write("token", "test-token", token.as_bytes());
    write("mapping", "kit", format!("{MAPPING}\n----\ncase,unit,opened\n{ROWS}").as_bytes());
    let dir = federation.directory("C");
    let config = fs::read(dir.join("node.toml")).unwrap();
    write("config", "host", &config);
    write_courier(&federation, &write).await;
    let place = tempfile::tempdir().unwrap();
    let dir = dir.to_str().unwrap();
    for words in ["pack root --out root.pub", "pack export --period 2011-07 --out pack --unit C"] {
        let arguments = words.split(' ').chain(["--dir", dir]);
        let _ = run(place.path(), arguments).await.succeeds();
    }
    let mut pack = fs::read(place.path().join("root.pub")).unwrap();
    pack.extend(b"\n----\n");
    pack.extend(fs::read(place.path().join("pack")).unwrap());
    write("pack", "four-levels", &pack);
}

/// A courier file as it is inside its seal, and a block of it.
async fn write_courier(federation: &Federation, write: &impl Fn(&str, &str, &[u8])) {
    let file = federation.courier_file("C-1", "C").await;
    let hosted = federation.host("C").units().get(&"C".parse().unwrap()).unwrap();
    let plain = Bytes::from(hosted.unit.open_file(&file).unwrap());
    write("courier", "district-to-city", &plain);
    write("courier", "block", &courier::read(&plain).unwrap().blocks[0]);
}

/// Writes the corpus of courier files alone.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "writes into the tree: cargo test -p lianxi-tests --test fuzz -- --ignored"]
async fn the_corpus_of_courier_files_is_written_anew() {
    let federation = Federation::four_levels().await;
    federation.import("C-1-1", ROWS).await;
    federation.publish("C-1-1", "2011-07").await;
    let write = |target: &str, name: &str, bytes: &[u8]| {
        fs::create_dir_all(corpus(target)).unwrap();
        fs::write(corpus(target).join(name), bytes).unwrap();
    };
    write_courier(&federation, &write).await;
}

/// The envelopes that a frame carries.
fn envelopes(frame: &Kind) -> Vec<&Envelope> {
    match frame {
        Kind::Delivery(delivery) => delivery.envelope.iter().collect(),
        Kind::PullItem(item) => item.envelope.iter().collect(),
        Kind::Introduction(introduction) => introduction.delegations.iter().collect(),
        _ => Vec::new(),
    }
}

/// One file of frames per direction of a link, and each kind of envelope once.
fn write_frames(frames: &[(String, String, Vec<u8>)], write: &impl Fn(&str, &str, &[u8])) {
    for (from, to, end) in
        [("C-1-1", "C-1", 0), ("C-1", "C-1-1", 1), ("C-1", "C", 0), ("C", "C-1", 1)]
    {
        let mut bytes = vec![end];
        let mut kinds = std::collections::BTreeMap::new();
        for (_, _, frame) in
            frames.iter().filter(|(a, b, _)| (a.as_str(), b.as_str()) == (from, to))
        {
            let decoded = Frame::decode(frame.as_slice()).unwrap().kind.unwrap();
            let name = format!("{decoded:?}");
            let name = name.split('(').next().unwrap().to_lowercase();
            for envelope in envelopes(&decoded) {
                let header = header::decode(&envelope.payload).unwrap().header;
                let of = header.kind.as_str().replace('.', "-");
                write("statement", &of, &envelope.encode_to_vec());
            }
            let seen: &mut u32 = kinds.entry(name.clone()).or_default();
            *seen += 1;
            if name == "hello" || *seen > 4 || frame.len() > 6_000 {
                continue;
            }
            bytes.extend(u16::try_from(frame.len()).unwrap().to_be_bytes());
            bytes.extend(frame);
        }
        write("session", &format!("{from}-to-{to}"), &bytes);
    }
}
