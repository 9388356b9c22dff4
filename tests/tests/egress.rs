//! P1 on real rows: nothing of a record leaves its node.
//!
//! A federation with Boston's units imports real rows, reports, answers pulls, passes notices and
//! whistles, whose sealed bodies nobody but their readers may see either. Captured is what left: every frame of every link before encryption, whether it goes
//! through a socket or a pipe; the log at its most talkative, third-party crates included; traces
//! and metrics as a collector and a scraper get them; what the local socket says of bad rows. No
//! address, case number or coordinate of the imported rows may be in it.
//!
//! Left out of the search: an address shorter than `search::SHORTEST` bytes (`4 O St`; the same
//! row's full location is looked for), and a coordinate with fewer decimals than that gives. Both
//! are few, and the test says how many at most.
//!
//! The log and the subscriber belong to a process: each test runs its federation in a process of
//! its own, which is this test binary again.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
};

use flate2::read::MultiGzDecoder;
use lianxi_node::{
    config::TelemetryConfig,
    domain::{mapping::Mapping, unit::UnitCode},
    link::Tap,
    telemetry,
};
use lianxi_proto::{
    admin::v1::AddDeskRequest,
    enrolment::v1::{ConfirmRequest, ReserveRequest},
    link::v1::{Frame, frame},
    local::v1::{
        ImportOptions, IssueNoticeRequest, MarkNoticeRequest, RaiseEscalationRequest,
        ShowEscalationRequest, ShowNoticeRequest, StepEscalationRequest,
    },
    types::v1::{Escalation, EscalationKind, EscalationStep, Level, Notice, ReceiptStage, Scope},
};
use lianxi_tests::{
    collector::Collector,
    federation::{Federation, count},
    processes::metrics_page,
    search::{Search, Values},
    wait::until,
};
use prost::Message as _;

/// Directory for what is captured, in the process that runs the federation.
const DIRECTORY: &str = "LIANXI_TEST_EGRESS";

/// Tells that process to let an address out.
const PLANT: &str = "LIANXI_TEST_EGRESS_PLANT";

/// Streets whose communities keep records.
const STREETS: [&str; 2] = ["BOS-01-W01", "BOS-13-W04"];

const PERIOD: &str = "2011-07";

/// What stands in the bodies of notice, receipt and whistle.
const BODIES: [&str; 4] =
    ["inspect street lights", "begin at Elm Road", "12 lamps checked", "gas smell at the market"];

#[test]
fn nothing_of_a_record_is_in_what_left_the_nodes() {
    let Some(captured) = captured("nothing_of_a_record_is_in_what_left_the_nodes", false) else {
        return;
    };
    let search = Boston::load().search();
    let holds = |place: &str, text: &str| {
        captured[place].windows(text.len()).any(|part| part == text.as_bytes())
    };
    assert!(holds("log", "TRACE h2") && holds("log", "host is down"), "the log is cut short");
    assert!(holds("replies", "RowError"), "no bad row was answered");
    for (place, bytes) in &captured {
        assert!(!bytes.is_empty(), "nothing was captured of the {place}");
        let found = search.find(bytes);
        assert!(found.is_empty(), "{} values are in the {place}: {found:#?}", found.len());
        let read: Vec<_> = BODIES.into_iter().filter(|body| holds(place, body)).collect();
        assert!(read.is_empty(), "bodies are in the {place}: {read:?}");
    }
}

#[test]
fn a_planted_address_is_found_wherever_it_gets_out() {
    let Some(captured) = captured("a_planted_address_is_found_wherever_it_gets_out", true) else {
        return;
    };
    let boston = Boston::load();
    let planted = boston.planted();
    let search = boston.search();
    let of = |place: &str| search.find(&captured[place]).into_keys().collect::<Vec<_>>();
    for place in ["frames", "log", "traces"] {
        assert!(of(place).iter().any(|found| planted.contains(found)), "not in the {place}");
    }
    assert_eq!(of("replies"), [""; 0], "found where nothing was planted");
}

/// What a host sends before it has a link. A new field does not compile here: it may hold nothing
/// of a record.
#[test]
fn a_joining_host_sends_names_and_keys_alone() {
    let ReserveRequest {
        token_id: _,
        secret: _,
        unit: _,
        level: _,
        keys: _,
        ca_sha256: _,
        certificate_request: _,
        host: _,
        proof: _,
        clock_unix_ms: _,
        // A root key, a grant, and the codes of the units below.
        adopted: _,
    } = ReserveRequest::default();
    let ConfirmRequest { token_id: _ } = ConfirmRequest::default();
}

/// Runs a federation in a process of its own and returns what left it, by place; `None` in that
/// process.
fn captured(test: &str, plant: bool) -> Option<BTreeMap<String, Vec<u8>>> {
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        let plant = std::env::var_os(PLANT).is_some();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(run(Path::new(&directory), plant));
        return None;
    }
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let written = File::create(&log).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(DIRECTORY, directory.path());
    if plant {
        command.env(PLANT, "1");
    }
    let output = written.try_clone().unwrap();
    let status = command.stdin(Stdio::null()).stdout(output).stderr(written).status().unwrap();
    if !status.success() {
        let log = std::fs::read(&log).unwrap();
        let end = String::from_utf8_lossy(&log[log.len().saturating_sub(4_000)..]).into_owned();
        panic!("the federation failed: {end}");
    }
    let files = std::fs::read_dir(directory.path()).unwrap().map(|file| file.unwrap());
    let read = |file: std::fs::DirEntry| {
        (file.file_name().into_string().unwrap(), std::fs::read(file.path()).unwrap())
    };
    Some(files.map(read).collect())
}

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples/boston-311").join(name)
}

fn catalogue() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/catalogues/boston.json");
    std::fs::read_to_string(path).unwrap()
}

fn text(name: &str) -> String {
    std::fs::read_to_string(example(name)).unwrap()
}

/// The example, cut to the streets of the test.
struct Boston {
    /// Unit and parent; units above come first.
    units: Vec<(String, String)>,
    file: Vec<u8>,
    /// Imported rows by heading, and their units.
    rows: Vec<(String, BTreeMap<String, String>)>,
}

impl Boston {
    fn load() -> Self {
        let wanted = |code: &str| {
            STREETS.iter().any(|street| street.starts_with(code) || code.starts_with(street))
        };
        let units = text("units.csv");
        let mut units: Vec<_> = csv::Reader::from_reader(units.as_bytes())
            .records()
            .map(|row| row.unwrap())
            .map(|row| (row[0].to_owned(), row[3].to_owned()))
            .filter(|(code, _)| wanted(code))
            .collect();
        units.sort_by_key(|(code, _)| code.matches('-').count());
        let mut file = Vec::new();
        let packed = File::open(example("2011-07.csv.gz")).unwrap();
        MultiGzDecoder::new(packed).read_to_end(&mut file).unwrap();
        let precincts: BTreeMap<String, String> = csv::Reader::from_path(example("precincts.csv"))
            .unwrap()
            .deserialize()
            .map(|row| row.unwrap())
            .collect();
        let mut rows = Vec::new();
        for row in csv::Reader::from_reader(&file[..]).deserialize() {
            let row: BTreeMap<String, String> = row.unwrap();
            let unit = precincts.get(row["precinct"].trim()).map_or("BOS", String::as_str);
            if units.iter().any(|(code, _)| code == unit) {
                rows.push((unit.to_owned(), row));
            }
        }
        Self { units, file, rows }
    }

    fn search(&self) -> Search {
        let mut values = Values::default();
        let (mut without_address, mut without_place) = (0, 0);
        for (_, row) in &self.rows {
            assert!(values.integer(row["case_enquiry_id"].parse().unwrap()));
            let location = values.text(&row["location"]);
            let street = values.text(&row["location_street_name"]);
            without_address += usize::from(!location && !street);
            let latitude = values.decimal(&row["latitude"]);
            let longitude = values.decimal(&row["longitude"]);
            without_place += usize::from(!latitude && !longitude);
        }
        // Those of the city itself have none.
        let at_the_city = self.rows_of("BOS");
        assert!(without_address <= at_the_city, "{without_address} rows without an address");
        assert!(without_place <= 20, "{without_place} rows without a place");
        values.search()
    }

    fn rows_of(&self, head: &str) -> usize {
        let below = |unit: &str| unit == head || (head != "BOS" && unit.starts_with(head));
        self.rows.iter().filter(|(unit, _)| below(unit)).count()
    }

    /// Address of a row of a community.
    fn planted(&self) -> [String; 2] {
        let (_, row) = self.rows.iter().find(|(unit, _)| unit.starts_with(STREETS[0])).unwrap();
        ["location", "location_street_name"].map(|column| row[column].trim().to_owned())
    }

    fn hosts(&self) -> impl Iterator<Item = &str> {
        let alone = |code: &&str| code.matches('-').count() < 3;
        self.units.iter().map(|(code, _)| code.as_str()).filter(alone)
    }

    /// Real rows with something wrong: an address or case number stands where it must not.
    fn broken(&self) -> Vec<u8> {
        let of_a_community = |(unit, _): &&(String, BTreeMap<_, _>)| unit.starts_with(STREETS[0]);
        let rows = self.rows.iter().filter(of_a_community).map(|(_, row)| row);
        let wrong = [
            ("open_dt", "location"),
            ("closed_dt", "case_enquiry_id"),
            ("case_status", "location"),
            ("ontime", "location_street_name"),
            ("latitude", "location"),
            ("longitude", "case_enquiry_id"),
            ("zip", "location"),
            ("precinct", "location"),
        ];
        let mut writer = csv::Writer::from_writer(Vec::new());
        let headings: Vec<_> = self.rows[0].1.keys().collect();
        writer.write_record(&headings).unwrap();
        for ((at, from), row) in wrong.iter().cycle().zip(rows.take(40)) {
            let value = |heading: &&String| {
                if heading.as_str() == *at { &row[*from] } else { &row[*heading] }
            };
            writer.write_record(headings.iter().map(value)).unwrap();
        }
        let mut file = writer.into_inner().unwrap();
        let (_, row) = &self.rows[0];
        // Too many fields, an open quotation mark, bytes that are no text.
        writeln!(file, "{0},{0}", row["location"].repeat(30)).unwrap();
        file.extend_from_slice(row["location"].as_bytes());
        file.extend_from_slice(b"\xff\xfe\n\"");
        file.extend_from_slice(row["location"].as_bytes());
        file
    }
}

#[derive(Default)]
struct Frames(Mutex<Vec<(String, String, Vec<u8>)>>);

impl Tap for Frames {
    fn frame(&self, from: &UnitCode, to: &UnitCode, bytes: &[u8]) {
        self.0.lock().unwrap().push((from.to_string(), to.to_string(), bytes.to_vec()));
    }
}

/// One run of everything a federation does, watched.
async fn run(directory: &Path, plant: bool) {
    let collector = Collector::start().await;
    let config = TelemetryConfig {
        otlp_endpoint: Some(collector.endpoint()),
        metrics_listen: "127.0.0.1:0".parse().ok(),
        log_level: "trace".to_owned(),
        ..TelemetryConfig::default()
    };
    let guard = telemetry::init(&config).await.unwrap();
    let boston = Boston::load();
    let frames = Arc::new(Frames::default());
    let mut federation = start(&boston, frames.clone()).await;
    let replies = import(&boston, &federation).await;
    report(&boston, &federation).await;
    let address = if plant { boston.planted()[0].clone() } else { "Elm Road".to_owned() };
    pass_notice(&boston, &federation).await;
    // A title travels in the clear, a body does not.
    let title = if plant { &address } else { "Gas supply" };
    blow_whistle(&federation, title).await;
    if plant {
        let span = tracing::info_span!(target: "lianxi_node", "plant", address);
        span.in_scope(|| tracing::trace!(target: "lianxi_node", address, "planted"));
    }

    let write = |name: &str, bytes: Vec<u8>| std::fs::write(directory.join(name), bytes).unwrap();
    write("replies", replies.into_bytes());
    write("page", metrics_page(guard.metrics_address().unwrap()).await);
    for host in boston.hosts() {
        federation.stop(host).await;
    }
    guard.shutdown().await;
    let exports = collector.traces();
    assert!(!collector.spans().is_empty());
    write("traces", exports.iter().flat_map(|export| export.encode_to_vec()).collect());
    let exports = collector.metrics();
    write("metrics", exports.iter().flat_map(|export| export.encode_to_vec()).collect());
    let frames = std::mem::take(&mut *frames.0.lock().unwrap());
    check_frames(&boston, &frames);
    write("frames", frames.into_iter().flat_map(|(_, _, bytes)| bytes).collect());
}

async fn start(boston: &Boston, tap: Arc<Frames>) -> Federation {
    let mut federation = Federation::city_of("BOS", &catalogue(), Some(tap)).await;
    for (code, parent) in &boston.units {
        match code.matches('-').count() {
            0 => {}
            1 => federation.add_host(code, parent, Level::District).await,
            2 => federation.add_host(code, parent, Level::Street).await,
            _ => federation.add_unit(code, parent, Level::Community).await,
        }
    }
    for unit in federation.units() {
        federation.wait_for_catalogue(&unit).await;
    }
    federation.wait_for_roster("BOS", boston.units.len()).await;
    federation
}

/// Imports the rows everywhere, then broken ones; returns all that was said.
async fn import(boston: &Boston, federation: &Federation) -> String {
    let mapping =
        Mapping::from_toml(&text("mapping.toml"), |name| std::fs::read_to_string(example(name)));
    let mapping = mapping.unwrap().to_json();
    let mut said = String::new();
    for host in boston.hosts() {
        let options = |all_or_nothing| ImportOptions {
            mapping: mapping.clone(),
            all_or_nothing,
            dry_run: false,
            file_name: "2011-07.csv".into(),
        };
        let (report, errors) =
            federation.client(host).import(options(true), &boston.file).await.unwrap();
        assert!(errors.is_empty(), "{host}: {errors:?}");
        assert_eq!(report.imported, boston.rows_of(host) as u64 * u64::from(has_rows(host)));
        let broken = boston.broken();
        for all_or_nothing in [true, false] {
            match federation.client(host).import(options(all_or_nothing), &broken).await {
                Ok((report, errors)) => said.push_str(&format!("{report:?} {errors:?}\n")),
                Err(status) => said.push_str(&format!("{status:?}\n")),
            }
        }
    }
    said
}

fn has_rows(host: &str) -> bool {
    host == "BOS" || STREETS.contains(&host)
}

async fn report(boston: &Boston, federation: &Federation) {
    for host in boston.hosts() {
        federation.publish(host, PERIOD).await;
    }
    let figures = federation.pull("BOS", PERIOD).await;
    assert_eq!(figures.len(), boston.units.len());
    assert!(count(&figures["BOS"], "received", Scope::Subtree) >= boston.rows.len() as u64);
}

async fn pass_notice(boston: &Boston, federation: &Federation) {
    let notice = Notice {
        number: "〔2011〕17号".into(),
        title: "inspect street lights".into(),
        text: "begin at Elm Road".into(),
        level: Level::Community.into(),
        duty_item: "street-light-inspection".into(),
        due_unix_ms: 4_000_000_000_000,
        ..Notice::default()
    };
    let request = IssueNoticeRequest {
        unit: "BOS".into(),
        destination: "BOS".into(),
        notice: Some(notice),
        exercise: false,
    };
    let issued = federation.client("BOS").notices().issue(request).await.unwrap().into_inner();
    let community = boston.units.last().unwrap().0.clone();
    for (stage, units) in [
        (ReceiptStage::Validated, issued.issued_to as usize),
        (ReceiptStage::Seen, 1),
        (ReceiptStage::Done, 1),
    ] {
        if stage != ReceiptStage::Validated {
            let request = MarkNoticeRequest {
                unit: community.clone(),
                notice_id: issued.notice_id.clone(),
                stage: stage.into(),
                note: "12 lamps checked".into(),
            };
            federation.client(&community).notices().mark(request).await.unwrap();
        }
        until(&format!("{units} receipts of {stage:?}"), async || {
            let notice_id = issued.notice_id.clone();
            let request = ShowNoticeRequest { unit: "BOS".into(), notice_id };
            let state = federation.client("BOS").notices().show(request).await.ok()?.into_inner();
            let reached = state.recipients.iter().filter(|unit| unit.stage() == stage).count();
            (reached == units).then_some(())
        })
        .await;
    }
}

async fn blow_whistle(federation: &Federation, title: &str) {
    let (street, district) = (STREETS[0], "BOS-01");
    let desk = AddDeskRequest {
        unit: district.into(),
        desk: "GAS".into(),
        title: title.into(),
        line: "utilities".into(),
    };
    federation.client(district).node().add_desk(desk).await.unwrap();
    let request = RaiseEscalationRequest {
        unit: street.into(),
        destination: String::new(),
        escalation: Some(Escalation {
            number: "〔2011〕1号".into(),
            kind: EscalationKind::Emergency.into(),
            title: "gas smell at the market".into(),
            lead_desk: "GAS".into(),
            approved_by: "street head".into(),
            ..Escalation::default()
        }),
        exercise: false,
    };
    let raised = federation.client(street).escalations().raise(request).await.unwrap();
    let escalation_id = raised.into_inner().escalation_id;
    let steps = [
        (district, EscalationStep::Answered),
        (district, EscalationStep::Arrived),
        (district, EscalationStep::Handled),
        (street, EscalationStep::Closed),
    ];
    for (unit, step) in steps {
        let request = StepEscalationRequest {
            unit: unit.into(),
            escalation_id: escalation_id.clone(),
            step: step.into(),
            desk: if unit == street { String::new() } else { "GAS".into() },
            note: String::new(),
        };
        // The case may still be on its way.
        until(&format!("{step:?} by {unit}"), async || {
            federation.client(unit).escalations().step(request.clone()).await.ok()
        })
        .await;
        let other = if unit == street { district } else { street };
        until(&format!("{step:?} at {other}"), async || {
            let escalation_id = escalation_id.clone();
            let request = ShowEscalationRequest { unit: other.into(), escalation_id };
            let mut client = federation.client(other).escalations();
            let state = client.show(request).await.ok()?.into_inner();
            (state.state() == step).then_some(())
        })
        .await;
    }
}

/// A search in nothing finds nothing: what had to leave did, from every community.
fn check_frames(boston: &Boston, frames: &[(String, String, Vec<u8>)]) {
    let mut left: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (from, _, bytes) in frames {
        let kind = match Frame::decode(&bytes[..]).unwrap().kind {
            Some(frame::Kind::Delivery(_)) => "delivery",
            Some(frame::Kind::PullItem(_)) => "answer",
            Some(_) | None => "other",
        };
        left.entry(from).or_default().insert(kind);
    }
    for (unit, _) in &boston.units[1..] {
        for kind in ["delivery", "answer"] {
            assert!(left[unit.as_str()].contains(kind), "{unit} sent no {kind}");
        }
    }
    for kind in ["summary", "notice", "receipt", "escalation", "escalation-event", "catalogue"] {
        let name = format!("lianxi.{kind}.v1");
        let holds = |bytes: &[u8]| bytes.windows(name.len()).any(|part| part == name.as_bytes());
        assert!(frames.iter().any(|(_, _, bytes)| holds(bytes)), "no {kind} was sent");
    }
}
