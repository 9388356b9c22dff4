//! A city with every district, street and community, a process for each of the first three levels:
//! joined, reported, pulled, and a notice to every community with its receipts.
//!
//! One district of Shanghai by default. `LIANXI_FAN_OUT=all` joins the whole city: 6,760 units in
//! 251 processes. Prints what each step took, with the memory and processor time of all processes
//! (`-- --nocapture`).

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use futures::{StreamExt as _, stream};
use lianxi_proto::{
    local::v1::{
        ImportOptions, IssueNoticeRequest, PullSummaryRequest, ShowNoticeRequest,
        ShowSummaryRequest, UnitFigures,
    },
    types::v1::{Level, Notice, ReceiptStage, Scope},
};
use lianxi_tests::{
    binary::run,
    client::Client,
    federation::{CATALOGUE, count, mapping_json},
    ports::free_address,
    processes::{Memory, Node, ask, configure, processor_time, tell, working_in},
    wait::while_it_advances,
};
use tempfile::TempDir;
use tokio::time::Instant;

const UNITS: &str = include_str!("../../deploy/examples/shanghai/units.csv");
const CITY: &str = "31";
/// The district that is joined by default.
const DISTRICT: &str = "310109";
const PERIOD: &str = "2011-07";

/// Hosts that something is done to at a time.
const AT_ONCE: usize = 4;

/// Cache and threads of each host, because all share one machine: as the demo does.
const SMALL: [(&str, &str, i64); 2] = [("store", "cache_mib", 4), ("host", "worker_threads", 2)];

#[derive(Clone, Debug)]
struct Unit {
    code: String,
    title: String,
    level: String,
    parent: String,
}

/// The units of the whole city, or of the city and one district.
fn units() -> Vec<Unit> {
    let rows = csv::Reader::from_reader(UNITS.as_bytes()).into_records().map(Result::unwrap);
    let all: Vec<Unit> = rows
        .map(|row| {
            let of = |column: usize| row[column].to_owned();
            Unit { code: of(0), title: of(1), level: of(2), parent: of(3) }
        })
        .collect();
    let wanted = std::env::var("LIANXI_FAN_OUT");
    let district = wanted.as_deref().unwrap_or(DISTRICT);
    if district == "all" {
        return all;
    }
    assert!(all.iter().any(|unit| unit.code == district && unit.parent == CITY), "{district}");
    let is_wanted = |unit: &Unit| unit.code == CITY || unit.code.starts_with(district);
    all.into_iter().filter(is_wanted).collect()
}

struct City {
    units: Vec<Unit>,
    nodes: Vec<Node>,
    directory: TempDir,
}

impl City {
    fn dir(&self, host: &str) -> PathBuf {
        self.directory.path().join(host)
    }

    fn client(&self, host: &str) -> Client {
        Client::new(&self.dir(host).join("admin.sock"))
    }

    fn at(&self, level: &str) -> Vec<Unit> {
        self.units.iter().filter(|unit| unit.level == level).cloned().collect()
    }

    fn hosts(&self) -> usize {
        self.units.len() - self.at("community").len()
    }

    async fn root(units: Vec<Unit>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut city = Self { units, nodes: Vec::new(), directory };
        let dir = city.dir(CITY);
        let listen = free_address().to_string();
        let init = ["node", "init", "--code", CITY, "--level", "city", "--title", "上海市"];
        let place = ["--domain", "shanghai.example", "--listen", &listen];
        tell(&dir, &[&init[..], &place].concat()).await;
        make_small(&dir);
        city.nodes.push(Node::start(&dir).await);
        let catalogue = city.directory.path().join("catalogue.json");
        fs::write(&catalogue, CATALOGUE).unwrap();
        tell(&dir, &["catalogue", "publish", catalogue.to_str().unwrap()]).await;
        city
    }

    /// Adds a host for each of the units and what it serves beside them, by a file of invitations.
    async fn add_hosts(&mut self, heads: Vec<Unit>) {
        let nodes: Vec<Node> = stream::iter(heads)
            .map(|head| self.add_host(head))
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        self.nodes.extend(nodes);
    }

    async fn add_host(&self, head: Unit) -> Node {
        let dir = self.dir(&head.code);
        let (list, tokens) = (dir.with_extension("csv"), dir.with_extension("join.csv"));
        let mut rows = "code,level,title,parent\n".to_owned();
        let guests = self.units.iter().filter(|unit| unit.level == "community");
        let guests = guests.filter(|unit| unit.parent == head.code);
        writeln!(rows, "{},{},{},", head.code, head.level, head.title).unwrap();
        for unit in guests {
            writeln!(rows, "{},{},{},{}", unit.code, unit.level, unit.title, unit.parent).unwrap();
        }
        fs::write(&list, rows).unwrap();
        let (list, tokens) = (list.to_str().unwrap(), tokens.to_str().unwrap());
        let invite = ["node", "invite", "--file", list, "--out", tokens];
        tell(&self.dir(&head.parent), &invite).await;
        let listen = free_address().to_string();
        let dir_text = dir.to_str().unwrap();
        let join = ["node", "join", "--file", tokens, "--dir", dir_text, "--listen", &listen];
        run(self.directory.path(), join).await.succeeds();
        make_small(&dir);
        Node::start(&dir).await
    }

    /// Waits until every unit of the hosts has the catalogue and a link to its parent.
    async fn wait_for_links(&self) {
        let hosts: Vec<&Path> = self.nodes.iter().map(|node| node.dir.as_path()).collect();
        while_it_advances("the catalogue and a link at every unit", async || {
            let ready: Vec<usize> = stream::iter(hosts.iter().copied())
                .map(ready)
                .buffer_unordered(AT_ONCE)
                .collect()
                .await;
            let ready = ready.iter().sum::<usize>();
            if ready == self.units.len() { Ok(()) } else { Err(ready) }
        })
        .await;
    }

    /// One row for each community, at its host.
    async fn import(&self) {
        let streets = self.at("street");
        stream::iter(streets)
            .for_each_concurrent(AT_ONCE, |street| async move {
                let mut rows = "case,unit,opened,closed,type,address\n".to_owned();
                let own = self.units.iter().filter(|unit| unit.parent == street.code);
                for unit in own {
                    let code = &unit.code;
                    writeln!(rows, "{code},{code},2011-07-01 08:00:00,,light,").unwrap();
                }
                let options = ImportOptions {
                    mapping: mapping_json(),
                    all_or_nothing: true,
                    file_name: "rows.csv".into(),
                    ..ImportOptions::default()
                };
                let client = self.client(&street.code);
                let (_, errors) = client.import(options, rows.as_bytes()).await.unwrap();
                assert!(errors.is_empty(), "{errors:?}");
            })
            .await;
    }

    async fn publish(&self) {
        for level in ["street", "district", "city"] {
            stream::iter(self.at(level))
                .for_each_concurrent(AT_ONCE, |head| async move {
                    tell(&self.dir(&head.code), &["summary", "publish", "--period", PERIOD]).await;
                })
                .await;
        }
        let request =
            ShowSummaryRequest { unit: CITY.into(), of: String::new(), period: PERIOD.into() };
        let report = while_it_advances("the report of every unit at the city", async || {
            let shown = self.client(CITY).summaries().show(request.clone()).await;
            let Ok(shown) = shown.map(tonic::Response::into_inner) else { return Err(0) };
            let included = included(&shown);
            let is_whole = included == self.units.len() && received(&shown) == self.communities();
            if is_whole { Ok(shown) } else { Err(included) }
        })
        .await;
        assert_eq!(received(&report), self.communities());
    }

    fn communities(&self) -> u64 {
        u64::try_from(self.at("community").len()).unwrap()
    }

    async fn pull(&self, max_age_ms: u32) -> BTreeMap<String, UnitFigures> {
        let request = PullSummaryRequest {
            unit: CITY.into(),
            period: PERIOD.into(),
            deadline_ms: 60_000,
            max_age_ms,
            depth: 3,
        };
        let mut items = self.client(CITY).summaries().pull(request).await.unwrap().into_inner();
        let mut figures = BTreeMap::new();
        while let Some(item) = items.message().await.unwrap() {
            figures.insert(item.unit.clone(), item);
        }
        assert_eq!(figures.len(), self.units.len());
        assert_eq!(included(&figures[CITY]), self.units.len());
        assert_eq!(received(&figures[CITY]), self.communities());
        figures
    }

    /// Sends a notice to every community and waits for the receipt of each that it was checked.
    async fn notice(&self) {
        let notice = Notice {
            number: "N-1".into(),
            title: "Look at the street lights".into(),
            level: Level::Community.into(),
            duty_item: "street-light-inspection".into(),
            due_unix_ms: 4_000_000_000_000,
            ..Notice::default()
        };
        let request = IssueNoticeRequest {
            unit: CITY.into(),
            destination: CITY.into(),
            notice: Some(notice),
            exercise: false,
        };
        let mut notices = self.client(CITY).notices();
        let notice_id = notices.issue(request).await.unwrap().into_inner().notice_id;
        while_it_advances("a receipt of every community", async || {
            let request = ShowNoticeRequest { unit: CITY.into(), notice_id: notice_id.clone() };
            let state = notices.clone().show(request).await.unwrap().into_inner();
            let checked = state.recipients.iter();
            let checked = checked.filter(|one| one.stage() == ReceiptStage::Validated).count();
            if checked == self.at("community").len() { Ok(()) } else { Err(checked) }
        })
        .await;
    }
}

/// Units of a host that have the catalogue, and a link to their parent if they have one.
async fn ready(host: &Path) -> usize {
    let Ok(status) = ask(host, &["node", "status"]).await else { return 0 };
    let units = status["units"].as_array().unwrap().iter();
    let is_ready = |unit: &&serde_json::Value| {
        unit["catalogue"] == "kit@1" && (unit["unit"] == CITY || unit["parent_link"] == "up")
    };
    units.filter(is_ready).count()
}

fn included(figures: &UnitFigures) -> usize {
    let coverage = figures.summary.as_ref().unwrap().coverage.as_ref().unwrap();
    usize::try_from(coverage.included).unwrap()
}

fn received(figures: &UnitFigures) -> u64 {
    count(figures, "received", Scope::Subtree)
}

fn make_small(dir: &Path) {
    for (section, key, value) in SMALL {
        configure(dir, section, key, value);
    }
}

/// What each step took.
struct Report {
    place: PathBuf,
    began: Instant,
    cpu_before: f64,
}

impl Report {
    fn of(place: &Path) -> Self {
        eprintln!("{:28} {:>9} {:>9} {:>12}", "step", "time s", "cpu s", "memory MiB");
        Self { place: place.to_owned(), began: Instant::now(), cpu_before: 0.0 }
    }

    fn step(&mut self, what: &str) {
        let took = self.began.elapsed().as_secs_f64();
        let mut processes = working_in(&self.place);
        let memory = Memory::of(&processes).proportional_kib / 1_024;
        // Commands that have ended count for this process, which waited for them.
        processes.push(std::process::id().cast_signed());
        let cpu: f64 = processes.iter().map(|pid| processor_time(*pid).as_secs_f64()).sum();
        let spent = cpu - self.cpu_before;
        eprintln!("{what:28} {took:9.2} {spent:9.2} {memory:12}");
        (self.cpu_before, self.began) = (cpu, Instant::now());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_unit_of_a_city_joins_reports_is_pulled_and_gets_a_notice() {
    let mut city = City::root(units()).await;
    let mut report = Report::of(city.directory.path());
    city.add_hosts(city.at("district")).await;
    city.add_hosts(city.at("street")).await;
    report.step("join");
    city.wait_for_links().await;
    report.step("links and catalogue");
    assert_eq!(city.nodes.len(), city.hosts());
    city.import().await;
    report.step("import");
    city.publish().await;
    report.step("publish, to the city");
    let first = city.pull(0).await;
    report.step("live pull");
    let again = city.pull(3_600_000).await;
    report.step("live pull, kept");
    assert_eq!(first[CITY].statement_id, again[CITY].statement_id);
    city.notice().await;
    report.step("notice, to the last receipt");
    let (units, hosts) = (city.units.len(), city.nodes.len());
    eprintln!("{units} units in {hosts} processes");
}
