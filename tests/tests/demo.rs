//! `lianxi demo` as a user runs it: right figures, within its memory, whatever is killed.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use lianxi_tests::{
    binary::{Answer, run},
    boston::{COLUMNS, Figures, example, expected, flat, shared, unpacked},
    processes::{Memory, command, none_work_in, subtrees, working_in},
    skip::skip,
};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines},
    process::{Child, ChildStderr},
    sync::{Mutex, MutexGuard},
    time::{interval, timeout},
};

/// One demo at a time: two would take each other's processors, and their time is reported.
static TURN: Mutex<()> = Mutex::const_new(());

/// How long a demo may take here, with much else on the machine.
const LIMIT: Duration = Duration::from_secs(400);

/// What all processes may take together: 3 GB.
const MEMORY_LIMIT_KIB: u64 = 3_000_000_000 / 1024;

/// A running demo.
struct Demo {
    child: Child,
    progress: Lines<BufReader<ChildStderr>>,
    /// Where its processes work.
    place: PathBuf,
    _turn: MutexGuard<'static, ()>,
}

/// What a demo that ended left.
struct Ended {
    status: ExitStatus,
    document: Value,
    progress: String,
}

impl Demo {
    /// Starts a demo whose state is in `place`, kept if the arguments say so.
    async fn start(place: &Path, arguments: &[OsString]) -> Self {
        let turn = TURN.lock().await;
        let mut command = command(["demo", "--json"]);
        command.args(arguments).env("TMPDIR", place);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let progress = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, progress, place: place.to_owned(), _turn: turn }
    }

    async fn keeping(place: &Path, more: &[&str]) -> Self {
        let mut arguments = vec!["--keep".into(), place.as_os_str().to_owned()];
        arguments.extend(more.iter().map(OsString::from));
        Self::start(place, &arguments).await
    }

    /// Waits until it has told `text`.
    async fn told(&mut self, text: &str) {
        let reading = async {
            let mut all = Vec::new();
            while let Some(line) = self.progress.next_line().await.unwrap() {
                if line.contains(text) {
                    return;
                }
                all.push(line);
            }
            panic!("ended before {text:?}: {all:#?}");
        };
        timeout(LIMIT, reading).await.unwrap_or_else(|_| panic!("never told {text:?}"));
    }

    /// Reads the document of a demo that stays up.
    async fn document(&mut self) -> Value {
        let stdout = self.child.stdout.as_mut().unwrap();
        let reading = async {
            let (mut bytes, mut part) = (Vec::new(), vec![0; 64 * 1024]);
            loop {
                let length = stdout.read(&mut part).await.unwrap();
                assert!(length > 0, "ended before its document did");
                bytes.extend_from_slice(&part[..length]);
                if let Ok(document) = serde_json::from_slice(&bytes) {
                    return document;
                }
            }
        };
        timeout(LIMIT, reading).await.expect("a document in time")
    }

    fn pid(&self) -> i32 {
        self.child.id().unwrap().cast_signed()
    }

    fn signal(&self, signal: &str) {
        signal_to(signal, &[self.pid()]);
    }

    /// Its hosts, and what else it has started.
    fn children(&self) -> Vec<i32> {
        let pid = self.pid();
        working_in(&self.place).into_iter().filter(|child| *child != pid).collect()
    }

    /// Waits until it ends, and until every process it had started has ended by itself.
    async fn ended(mut self) -> Ended {
        let mut output = String::new();
        let mut stdout = self.child.stdout.take().unwrap();
        let mut lines = Vec::new();
        let progress = async {
            while let Ok(Some(line)) = self.progress.next_line().await {
                lines.push(line);
            }
        };
        let all =
            async { tokio::join!(self.child.wait(), stdout.read_to_string(&mut output), progress) };
        let (status, ..) = timeout(LIMIT, all).await.expect("an end in time");
        none_work_in(&self.place).await;
        let document = serde_json::from_str(&output).unwrap_or_default();
        Ended { status: status.unwrap(), document, progress: lines.join("\n") }
    }

    /// Kills the demo and every process of it at once.
    async fn kill_all(self) {
        let mut all = self.children();
        assert!(!all.is_empty());
        all.push(self.pid());
        signal_to("KILL", &all);
        self.ended().await;
    }
}

fn signal_to(signal: &str, processes: &[i32]) {
    let mut kill = std::process::Command::new("kill");
    kill.arg(format!("-{signal}")).args(processes.iter().map(ToString::to_string));
    // Fails if one ended in between.
    let _ = kill.stderr(Stdio::null()).status().unwrap();
}

fn assert_right(document: &Value, expected: &Figures) {
    let found: Figures = subtrees(document, COLUMNS);
    assert_eq!((found.len(), expected.len()), (312, 312));
    for (unit, figures) in expected {
        assert_eq!(&found[unit], figures, "{unit}: {COLUMNS:?}");
    }
    for unit in document["units"].as_array().unwrap() {
        let coverage = &unit["coverage"];
        assert_eq!(coverage["included"], coverage["expected"], "{}", unit["unit"]);
    }
    assert_eq!(document["units"][0]["coverage"]["expected"], 312);
    let notice = &document["notice"];
    assert!(notice["issued_to"].as_u64().unwrap() > 0);
    assert_eq!(notice["receipts"], notice["issued_to"]);
    assert_eq!(document["escalation"]["state"], "closed");
    assert_eq!(document["processes"], 58);
    assert!(document["elapsed_ms"].as_u64().unwrap() > 0);
}

/// Checks the pack that a demo left, as anybody can: with the root key that lies beside it.
async fn verify(place: &Path, pack: &Path) -> Answer {
    let root = place.join("root.pub");
    let arguments = [OsStr::new("verify"), pack.as_os_str(), "--root".as_ref(), root.as_os_str()];
    run(place, arguments.into_iter().chain(["--json".as_ref()])).await
}

/// The pack says what the pull said, each report signed and witnessed, and not one byte else.
async fn assert_pack_proves(place: &Path, expected: &Figures) {
    let pack = place.join("pack.lianxi");
    let document = verify(place, &pack).await.json();
    assert_eq!(document["valid"], true);
    assert_eq!(
        (&document["statement_count"], &document["totals_not_recomputed"]),
        (&312.into(), &0.into())
    );
    let units = serde_json::json!({ "units": document["statements"] });
    assert_eq!(&subtrees(&units, COLUMNS), expected);
    for one in document["statements"].as_array().unwrap() {
        let witnesses = one["journal"]["witnesses"].as_array().unwrap();
        assert!(!witnesses.is_empty(), "{}: {}", one["unit"], one["journal"]);
        assert_eq!(one["chain"].as_array().unwrap()[0]["unit"], "BOS");
    }
    let whole = std::fs::read(&pack).unwrap();
    let changed = place.join("changed.lianxi");
    for place_of_byte in (0..40).map(|part| part * (whole.len() - 1) / 39) {
        let mut bytes = whole.clone();
        bytes[place_of_byte] ^= 1;
        std::fs::write(&changed, bytes).unwrap();
        verify(place, &changed).await.fails(6, &[]);
    }
}

/// Sum of a column of the imports' reports.
fn total(document: &Value, column: &str) -> u64 {
    let imports = document["imports"].as_array().unwrap();
    imports.iter().map(|import| import[column].as_u64().unwrap()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn three_months_give_the_published_figures_within_the_memory_that_is_promised() {
    let Some(folder) = shared() else {
        let remedy = "put the rows of July to September 2011 beside the repository";
        return skip("demo", "../shared/data/boston-311 is not there", remedy);
    };
    let place = tempfile::tempdir().unwrap();
    let mut arguments: Vec<OsString> = vec!["--once".into()];
    for month in ["07", "08", "09"] {
        let file = folder.join(format!("2011-{month}.csv.gz"));
        arguments.extend(["--rows".into(), file.into_os_string()]);
    }
    let demo = Demo::start(place.path(), &arguments).await;
    let (pid, place) = (demo.pid(), demo.place.clone());
    let mut ended = std::pin::pin!(demo.ended());
    let (mut peak, mut samples) = (Memory::default(), interval(Duration::from_millis(500)));
    let ended = loop {
        tokio::select! {
            ended = &mut ended => break ended,
            _ = samples.tick() => {
                let mut all = working_in(&place);
                all.push(pid);
                peak = peak.max(Memory::of(&all));
            }
        }
    };
    assert_eq!(ended.status.code(), Some(0), "{}", ended.progress);
    assert_right(&ended.document, &expected(&folder));
    assert_eq!(total(&ended.document, "imported"), 31_828);
    eprintln!("demo: {} ms; peak of all processes: {peak:?}", ended.document["elapsed_ms"]);
    assert!((1..MEMORY_LIMIT_KIB).contains(&peak.proportional_kib), "{peak:?}");
    // Counts the program once for each process, and it is several times as large unoptimised.
    if !cfg!(debug_assertions) {
        assert!((1..MEMORY_LIMIT_KIB).contains(&peak.resident_kib), "{peak:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demo_that_is_killed_again_and_again_goes_on_and_its_figures_are_right() {
    let place = tempfile::tempdir().unwrap();
    let place = place.path();

    let mut demo = Demo::keeping(place, &["--once"]).await;
    demo.told("BOS is up").await;
    demo.signal("INT");
    let ended = demo.ended().await;
    assert_eq!(ended.status.code(), Some(130), "{}", ended.progress);

    // Killed alone while streets join: its processes end by themselves.
    let mut demo = Demo::keeping(place, &["--once"]).await;
    demo.told("15 of 15 hosts up").await;
    assert!(demo.children().len() >= 16);
    demo.signal("KILL");
    assert_eq!(demo.ended().await.status.code(), None);

    // Killed with all its processes while the rows are imported, and while they are reported.
    for (before, at) in [("in force at all 312 units", "import"), ("9854 rows kept", "publish")] {
        let mut demo = Demo::keeping(place, &["--once"]).await;
        demo.told(before).await;
        assert_eq!(demo.children().len(), 58, "{at}");
        demo.kill_all().await;
    }

    let right = flat(&[unpacked(&example("2011-07.csv.gz"))], |_| true);
    let keys = keys_in(place);
    let ended = Demo::keeping(place, &["--once"]).await.ended().await;
    assert_eq!(ended.status.code(), Some(0), "{}", ended.progress);
    assert_right(&ended.document, &right);
    assert_eq!(total(&ended.document, "unchanged"), 9854, "all rows were in");
    assert_pack_proves(place, &right).await;

    // Once more, to stay up until Ctrl-C.
    let mut demo = Demo::keeping(place, &[]).await;
    let document = demo.document().await;
    assert_right(&document, &right);
    assert_eq!(total(&document, "unchanged"), 9854);
    assert_eq!(document["notice"]["notice_id"], ended.document["notice"]["notice_id"]);
    assert_eq!(document["escalation"]["history"], ended.document["escalation"]["history"]);
    assert_eq!(keys_in(place), keys, "nobody joined again");
    assert_eq!(demo.children().len(), 58);
    demo.signal("INT");
    let ended = demo.ended().await;
    assert_eq!(ended.status.code(), Some(0), "{}", ended.progress);
}

/// Units that have keys, each with the time at which they were made.
fn keys_in(place: &Path) -> Vec<(PathBuf, std::time::SystemTime)> {
    let folders = |path: &Path| -> Vec<PathBuf> {
        std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect()
    };
    let mut keys = Vec::new();
    for host in folders(&place.join("hosts")) {
        // The host has keys of its own beside them.
        for unit in folders(&host.join("keys")).into_iter().filter(|path| path.is_dir()) {
            let oldest = folders(&unit).into_iter().filter(|path| path.is_file());
            let made = oldest.map(|file| file.metadata().unwrap().modified().unwrap()).min();
            keys.push((unit, made.unwrap()));
        }
    }
    keys.sort();
    assert_eq!(keys.len(), 312);
    keys
}
