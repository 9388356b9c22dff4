//! P2 across a power cut: a host is recorded at work, then cut off at a thousand points.
//!
//! Each state that a cut could leave is built, opened by a host, and asked for everything that had
//! been acknowledged by then. `LIANXI_CUT_POINTS` sets the number of cuts, `LIANXI_CUT_SEED` where
//! they fall. The same states built as if `fdatasync` did nothing must lose something, else these
//! tests would prove nothing.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use lianxi_node::{
    clock::SystemClock,
    config::HostConfig,
    identity::keys::Lock,
    node::{Host, Options},
    telemetry::Metrics,
};
use lianxi_proto::{
    admin::v1::{StatusRequest, VerifyJournalRequest},
    local::v1::{CountRequest, ListNoticesRequest, ShowSummaryRequest},
    types::v1::Scope,
};
use lianxi_tests::{
    binary::{Answer, command, run},
    client::Client,
    federation::{CATALOGUE, MAPPING, count},
    numbers::{Numbers, setting},
    ports::free_address,
    power_cut::{Disk, Event, Kept, Recorder, listing},
    skip::skip,
    wait::until,
};

const UNITS: [(&str, &str, &str); 3] =
    [("C-1", "C", "district"), ("C-1-1", "C-1", "street"), ("C-1-1-1", "C-1-1", "community")];
const MONTH: &str = "2011-07";
const FILES: u64 = 12;

/// Rows of a file.
fn rows() -> u64 {
    setting("LIANXI_CUT_ROWS", 8)
}

/// A host at work that is recorded. Its directory is `host` below what is watched.
struct Recorded {
    place: PathBuf,
    recorder: Recorder,
}

impl Recorded {
    async fn run(&self, words: &str, more: &[&str]) -> Answer {
        let mut arguments: Vec<&str> = words.split(' ').collect();
        arguments.extend(more);
        arguments.extend(["--dir", "watched/host"]);
        run(&self.place, arguments).await
    }

    /// Runs a command that is recorded itself, until it ends.
    async fn run_recorded(&self, arguments: &[&str]) {
        let mut command = command(&self.place, arguments);
        let output = command.envs(self.recorder.environment()).output().await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    async fn start(&self) -> tokio::process::Child {
        let log = fs::File::options().create(true).append(true).open(self.place.join("host.log"));
        let mut command = command(&self.place, ["node", "run", "--dir", "watched/host"]);
        command.envs(self.recorder.environment()).stderr(log.unwrap());
        let child = command.spawn().unwrap();
        until("an answer of the host", async || {
            (self.run("node status", &[]).await.code == 0).then_some(())
        })
        .await;
        child
    }

    /// Imports file `number` and notes what was acknowledged.
    async fn import(&self, number: u64) {
        let mut file = "case,unit,opened,closed,type,address\n".to_owned();
        for row in 0..rows() {
            let unit = ["C", "C-1", "C-1-1", "C-1-1-1"][(row % 4) as usize];
            let case = number * rows() + row;
            file += &format!("{case},{unit},2011-07-01 08:00:00,,light,{case} Main St\n");
        }
        fs::write(self.place.join("rows.csv"), file).unwrap();
        let import = "record import rows.csv --mapping mapping.toml --json";
        let report = self.run(import, &[]).await.json();
        assert_eq!(report["imported"], rows());
        self.recorder.mark(&format!("files {}", number + 1));
    }

    /// A working day: a host is made, serves four levels, imports, reports, sends a notice, is
    /// killed, starts again and is stopped.
    async fn work(&self) {
        let listen = free_address().to_string();
        let init = "node init --code C --level city --title City --domain cut.example";
        let mut arguments: Vec<&str> = init.split(' ').collect();
        arguments.extend(["--listen", &listen, "--dir", "watched/host"]);
        self.run_recorded(&arguments).await;
        self.recorder.mark("unit C");
        let mut child = self.start().await;
        fs::write(self.place.join("catalogue.json"), CATALOGUE).unwrap();
        fs::write(self.place.join("mapping.toml"), MAPPING).unwrap();
        let _ = self.run("catalogue publish catalogue.json", &[]).await.succeeds();
        for (unit, parent, level) in UNITS {
            let invite = format!("node invite {unit} --unit {parent} --level {level} --json");
            let invited = self.run(&invite, &["--title", unit]).await.json();
            let join = ["node", "join", invited["token"].as_str().unwrap()].join(" ");
            let _ = self.run(&join, &[]).await.succeeds();
            self.recorder.mark(&format!("unit {unit}"));
        }
        until("the catalogue at every unit", async || {
            let status = self.run("node status --json", &[]).await.json();
            let units = status["units"].as_array()?;
            units.iter().all(|unit| unit["catalogue"] == "kit@1").then_some(())
        })
        .await;
        for number in 0..FILES {
            self.import(number).await;
            if number == FILES / 2 {
                child.kill().await.unwrap();
                child = self.start().await;
            }
        }
        let published = self.run(&format!("summary publish --period {MONTH}"), &[]).await;
        let _ = published.succeeds();
        self.recorder.mark(&format!("report {}", FILES * rows() / 4));
        let issue = "notice issue --number N1 --title Lights --to C --level community --due 7d \
                     --duty-item street-light-inspection --json";
        let issued = self.run(issue, &[]).await.json();
        self.recorder.mark(&format!("notice {}", issued["notice_id"].as_str().unwrap()));
        // SIGTERM: the host closes its store and ends by itself.
        let id = child.id().unwrap().to_string();
        assert!(std::process::Command::new("kill").arg(&id).status().unwrap().success());
        assert!(child.wait().await.unwrap().success());
        self.recorder.mark("stopped");
    }
}

/// What had been acknowledged at a cut.
#[derive(Debug, Default)]
struct Acknowledged {
    units: Vec<String>,
    files: u64,
    /// Records of the city's own in its report.
    report: Option<u64>,
    notices: Vec<String>,
}

impl Acknowledged {
    fn add(&mut self, mark: &str) {
        let (kind, rest) = mark.split_once(' ').unwrap_or((mark, ""));
        match kind {
            "unit" => self.units.push(rest.to_owned()),
            "files" => self.files = rest.parse().unwrap(),
            "report" => self.report = Some(rest.parse().unwrap()),
            "notice" => self.notices.push(rest.to_owned()),
            "stopped" => {}
            other => panic!("a mark {other:?}"),
        }
    }

    /// Opens the host in `dir` and looks for all of it. `Err` says what is not there.
    async fn check(&self, dir: &Path) -> Result<(), String> {
        let config = HostConfig::load(&dir.join("node.toml")).map_err(|e| format!("{e}"))?;
        let options = Options {
            clock: Arc::new(SystemClock),
            metrics: Metrics::installed(),
            tap: None,
            lock: Lock::none(),
        };
        let host = Host::bind(config, options).await.map_err(|error| format!("{error:#}"))?;
        let found = self.look(&Client::new(&dir.join("admin.sock"))).await;
        host.shutdown().await;
        found
    }

    async fn look(&self, client: &Client) -> Result<(), String> {
        let status = client.node().status(StatusRequest {}).await.map_err(|e| e.to_string())?;
        let served: Vec<String> =
            status.into_inner().units.into_iter().map(|unit| unit.unit).collect();
        let missing = self.units.iter().find(|unit| !served.contains(unit));
        missing.map_or(Ok(()), |unit| Err(format!("{unit} is not served")))?;
        self.look_for_records(client).await?;
        for unit in &served {
            let request = VerifyJournalRequest { unit: unit.clone() };
            let verified = client.journals().verify(request).await;
            let verified = verified.map_err(|error| error.to_string())?.into_inner();
            if let Some(finding) = verified.findings.first() {
                return Err(format!("journal of {unit}: {}", finding.detail));
            }
        }
        let notices = client.notices().list(ListNoticesRequest { unit: "C".into() }).await;
        let notices = notices.map_err(|error| error.to_string())?.into_inner().notices;
        let known: Vec<String> = notices.iter().map(|one| id_text(&one.notice_id)).collect();
        let missing = self.notices.iter().find(|id| !known.contains(id));
        missing.map_or(Ok(()), |id| Err(format!("notice {id} is not there, only {known:?}")))
    }

    async fn look_for_records(&self, client: &Client) -> Result<(), String> {
        let counted = client.records().count(CountRequest {}).await.map_err(|e| e.to_string())?;
        let counted: BTreeMap<String, u64> =
            counted.into_inner().units.into_iter().map(|unit| (unit.unit, unit.records)).collect();
        // A file that was being imported may be there too.
        let least = self.files * rows() / 4;
        let most = (self.files + 1) * rows() / 4;
        for unit in self.units.iter().filter(|_| self.files > 0) {
            let found = counted.get(unit).copied().unwrap_or_default();
            if !(least..=most).contains(&found) {
                return Err(format!("{unit} has {found} records, of {least} to {most}"));
            }
        }
        let Some(reported) = self.report else { return Ok(()) };
        let request =
            ShowSummaryRequest { unit: "C".into(), of: String::new(), period: MONTH.into() };
        let shown = client.summaries().show(request).await.map_err(|e| e.to_string())?;
        let found = count(&shown.into_inner(), "received", Scope::Own);
        if found == reported { Ok(()) } else { Err(format!("{found} records are reported")) }
    }
}

/// An id as the command line prints it.
fn id_text(id: &[u8]) -> String {
    let id: [u8; 16] = id.try_into().unwrap();
    uuid::Uuid::from_bytes(id).to_string()
}

/// Where states are built: memory, if the system has such a place.
fn fast_directory() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap()
}

/// What a trial of cuts came to.
#[derive(Debug, Default)]
struct Trial {
    cuts: usize,
    /// Cuts with something in flight that was not safe.
    with_unsafe: usize,
    losses: Vec<String>,
}

/// Cuts at `cuts` points from the first acknowledgement on, and looks for all that was
/// acknowledged. Ends at the first loss if `stops`.
async fn cut(events: &[Event], cuts: usize, seed: u64, believes: bool, stops: bool) -> Trial {
    let first = events.iter().position(|event| matches!(event, Event::Mark(_))).unwrap();
    let mut numbers = Numbers::new(seed);
    let mut points: Vec<usize> =
        (0..cuts).map(|_| first + 1 + numbers.below(events.len() - first)).collect();
    points.sort_unstable();
    let place = fast_directory();
    let mut disk = Disk::new(events, believes);
    let mut acknowledged = Acknowledged::default();
    let (mut trial, mut reached) = (Trial::default(), 0);
    for (number, point) in points.into_iter().enumerate() {
        disk.advance(point);
        for event in &events[reached..point] {
            if let Event::Mark(mark) = event {
                acknowledged.add(mark);
            }
        }
        reached = point;
        let kept = Kept::ALL[number % Kept::ALL.len()];
        let target = place.path().join(number.to_string());
        disk.write_to(&target, kept, &mut numbers).unwrap();
        trial.cuts += 1;
        trial.with_unsafe += usize::from(disk.unsafe_changes() > 0);
        let checked = acknowledged.check(&target.join("host")).await;
        if let Err(lost) = checked {
            let event = format!("{:?}", events[point - 1]);
            let event: String = event.chars().take(80).collect();
            trial.losses.push(format!(
                "cut {number} of seed {seed} after event {point} ({event}), {kept:?} kept: {lost}"
            ));
            if stops {
                break;
            }
        }
        fs::remove_dir_all(&target).unwrap();
    }
    trial
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_a_power_cut_at_any_point() {
    let place = tempfile::tempdir().unwrap();
    let watched = place.path().join("watched");
    fs::create_dir(&watched).unwrap();
    let recorder = match Recorder::new(&watched, &place.path().join("record")) {
        Ok(recorder) => recorder,
        Err(why) => {
            return skip("power cuts", &why, "install a C compiler, on Linux with glibc");
        }
    };
    let recorded = Recorded { place: place.path().to_owned(), recorder };
    recorded.work().await;
    let events = recorded.recorder.events();

    // Nothing escaped the record: it rebuilds what is there.
    let rebuilt = place.path().join("rebuilt");
    let mut disk = Disk::new(&events, true);
    disk.advance(events.len());
    disk.write_to(&rebuilt, Kept::Everything, &mut Numbers::new(0)).unwrap();
    let (rebuilt, real) = (listing(&rebuilt).unwrap(), listing(&watched).unwrap());
    let differ = |path: &&PathBuf| rebuilt.get(*path) != real.get(*path);
    let different: Vec<&PathBuf> = rebuilt.keys().chain(real.keys()).filter(differ).collect();
    assert_eq!(different, Vec::<&PathBuf>::new());

    let cuts = setting("LIANXI_CUT_POINTS", 1_000) as usize;
    let seed = setting("LIANXI_CUT_SEED", 1);
    let trial = cut(&events, cuts, seed, true, false).await;
    assert_eq!(trial.losses, Vec::<String>::new());
    assert_eq!(trial.cuts, cuts);
    // Cuts into a quiet disk would prove little.
    assert!(trial.with_unsafe * 4 > cuts, "{trial:?}");

    // Without the barrier the same cuts lose something.
    let without = cut(&events, cuts, seed, false, true).await;
    assert!(!without.losses.is_empty(), "{without:?}");
}
