//! Four hosts on bad lines: slow, lossy, far, cut, and silent without a word.
//!
//! Real processes in network namespaces, one for each level. Needs root; installs what it lacks.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::PathBuf,
    process::Stdio,
    time::Duration,
};

use lianxi_tests::{
    federation::{CATALOGUE, MAPPING},
    lines::{LISTEN, Lines, PROXY_PORT, address, be_a_proxy},
    processes::{ask, program, tell},
    skip::skip,
    wait::until,
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Child;

/// The units from the top, each on a host of its own.
const UNITS: [&str; 4] = ["C", "C-1", "C-1-1", "C-1-1-1"];
const LEVELS: [&str; 4] = ["city", "district", "street", "community"];

/// One way; there and back it is twice as long.
const DELAY: Duration = Duration::from_millis(300);

#[tokio::test]
#[ignore = "a child of the other tests: cargo test -p lianxi-tests --test network"]
async fn a_far_line() {
    be_a_proxy().await;
}

struct Row {
    // Before the lines, whose namespaces they are in.
    nodes: BTreeMap<usize, Child>,
    proxies: Vec<Child>,
    lines: Lines,
    files: u64,
    directory: TempDir,
}

impl Row {
    /// City, district, street and community, each joined over its line.
    async fn start(lines: Lines) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("catalogue.json"), CATALOGUE).unwrap();
        fs::write(directory.path().join("mapping.toml"), MAPPING).unwrap();
        let proxies = (0..3).map(|number| lines.delay(number, DELAY, "a_far_line")).collect();
        let mut row = Self { nodes: BTreeMap::new(), proxies, lines, files: 0, directory };
        let init = "node init --code C --level city --title City --domain far.example";
        let words: Vec<&str> = init.split(' ').collect();
        row.told(0, &[words.as_slice(), &["--listen", LISTEN, "--advertise", &far(1)]].concat())
            .await;
        row.start_node(0).await;
        let catalogue = row.path("catalogue.json");
        tell(&row.dir(0), &["catalogue", "publish", catalogue.to_str().unwrap()]).await;
        for number in 1..UNITS.len() {
            let (unit, level) = (UNITS[number], LEVELS[number]);
            let invite = ["node", "invite", unit, "--level", level, "--title", unit];
            let invited = tell(&row.dir(number - 1), &invite).await;
            let mut join = vec!["node", "join", invited["token"].as_str().unwrap()];
            let advertise = far(number + 1);
            if number < 3 {
                join.extend(["--listen", LISTEN, "--advertise", &advertise]);
            }
            row.told(number, &join).await;
            row.start_node(number).await;
        }
        for (number, unit) in UNITS.iter().enumerate() {
            until(&format!("the catalogue at {unit}"), async || {
                (row.status(number).await?["catalogue"] == "kit@1").then_some(())
            })
            .await;
        }
        row
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn dir(&self, number: usize) -> PathBuf {
        self.path(UNITS[number])
    }

    fn command(&self, number: usize, arguments: &[&str]) -> tokio::process::Command {
        let mut command = self.lines.command(number, program());
        command.args(arguments).arg("--dir").arg(self.dir(number));
        command.env("LC_ALL", "C").env_remove("LIANXI_DIR");
        command
    }

    /// Runs a command inside the namespace: one that goes over the line.
    async fn told(&self, number: usize, arguments: &[&str]) {
        let output = self.command(number, arguments).output().await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    async fn start_node(&mut self, number: usize) {
        let log =
            File::options().create(true).append(true).open(self.dir(number).with_extension("log"));
        let mut command = self.command(number, &["node", "run"]);
        command.stdout(Stdio::null()).stderr(log.unwrap());
        self.nodes.insert(number, command.spawn().unwrap());
        until(&format!("an answer of {}", UNITS[number]), async || self.status(number).await).await;
    }

    async fn kill(&mut self, number: usize) {
        self.nodes.remove(&number).unwrap().kill().await.unwrap();
    }

    /// The status of the one unit of a host.
    async fn status(&self, number: usize) -> Option<Value> {
        let status = ask(&self.dir(number), &["node", "status"]).await.ok()?;
        status["units"].get(0).cloned()
    }

    async fn wait_for_link(&self, number: usize, state: &str) {
        until(&format!("the link of {} to be {state}", UNITS[number]), async || {
            (self.status(number).await?["parent_link"] == state).then_some(())
        })
        .await;
    }

    /// Imports `count` rows at a host, and reports the month.
    async fn work(&mut self, number: usize, count: u64) {
        self.files += 1;
        let rows: String = (0..count)
            .map(|row| {
                let case = self.files * 10_000 + row;
                format!("{case},{},2011-07-01 08:00:00,,light,{case} Main St\n", UNITS[number])
            })
            .collect();
        let file = self.path("rows.csv");
        fs::write(&file, format!("case,unit,opened,closed,type,address\n{rows}")).unwrap();
        let mapping = self.path("mapping.toml");
        let (file, mapping) = (file.to_str().unwrap(), mapping.to_str().unwrap());
        let dir = self.dir(number);
        let report = tell(&dir, &["record", "import", file, "--mapping", mapping]).await;
        assert_eq!(report["imported"], count);
        tell(&dir, &["summary", "publish", "--period", "2011-07"]).await;
    }

    /// Waits until the report that `number` has of its subtree counts `expected` records of
    /// `units` units.
    async fn wait_for_report(&self, number: usize, units: u64, expected: u64) {
        let show = ["summary", "show", "--period", "2011-07"];
        until(&format!("{expected} records in the report of {}", UNITS[number]), async || {
            let shown = ask(&self.dir(number), &show).await.ok()?;
            let is_all = shown["coverage"]["included"] == units;
            (is_all && shown["subtree"]["received"]["count"] == expected).then_some(())
        })
        .await;
    }

    /// Issues a notice from the city to the community.
    async fn issue(&self, number: &str) -> String {
        let mut words =
            vec!["notice", "issue", "--number", number, "--title", "Lights", "--to", "C"];
        words.extend([
            "--level",
            "community",
            "--due",
            "7d",
            "--duty-item",
            "street-light-inspection",
        ]);
        let issued = tell(&self.dir(0), &words).await;
        issued["notice_id"].as_str().unwrap().to_owned()
    }

    async fn wait_for_receipt(&self, notice: &str) {
        until(&format!("the receipt of {notice}"), async || {
            let shown = ask(&self.dir(0), &["notice", "show", notice]).await.ok()?;
            let stage = &shown["recipients"][0]["stage"];
            (stage == "validated").then_some(())
        })
        .await;
    }
}

impl Drop for Row {
    fn drop(&mut self) {
        for child in self.nodes.values_mut().chain(&mut self.proxies) {
            let _ = child.start_kill();
        }
        // The hosts' logs say what went wrong.
        self.directory.disable_cleanup(std::thread::panicking());
    }
}

/// What the children beyond a line dial: the proxy before their parent.
fn far(line: usize) -> String {
    format!("{}:{PROXY_PORT}", address(line))
}

fn lines(test: &str) -> Option<Lines> {
    match Lines::new(UNITS.len()) {
        Ok(lines) => Some(lines),
        Err(why) => {
            skip(test, &why, "run as root on Linux with iproute2 and nftables");
            None
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn four_levels_work_over_far_slow_lossy_cut_and_silent_lines() {
    let Some(lines) = lines("bad lines") else { return };
    let mut row = Row::start(lines).await;

    // Far, lossy, and the last line as slow as an old modem.
    for line in 1..UNITS.len() {
        row.lines.lose(line, 5);
    }
    row.lines.slow(3, 64);
    let first = row.issue("N1").await;
    for number in (0..UNITS.len()).rev() {
        row.work(number, 40).await;
    }
    row.wait_for_report(0, 4, 160).await;
    row.wait_for_receipt(&first).await;
    // Few packets carry all that: more of it, until some were lost.
    let mut records = 160;
    while (1..UNITS.len()).map(|line| row.lines.lost(line)).sum::<u64>() < 3 {
        row.work(3, 5).await;
        records += 5;
        assert!(records < 460, "60 rounds over bad lines, and they lost nothing");
        row.wait_for_report(0, 4, records).await;
    }

    // The line to the city goes silent, and nobody is told: both ends find out by themselves. The
    // district works on below it.
    row.lines.silence(1);
    row.wait_for_link(1, "down").await;
    let second = row.issue("N2").await;
    row.work(3, 10).await;
    row.work(2, 10).await;
    row.wait_for_report(1, 3, records - 20).await;
    row.lines.clear(1);
    row.wait_for_report(0, 4, records + 20).await;
    row.wait_for_receipt(&second).await;

    // A cable is out while the street is killed, and the street is back before the cable is.
    row.lines.plug(2, false);
    row.work(3, 5).await;
    row.kill(2).await;
    row.start_node(2).await;
    let third = row.issue("N3").await;
    row.wait_for_report(2, 2, records - 55).await;
    row.lines.plug(2, true);
    row.wait_for_report(0, 4, records + 25).await;
    row.wait_for_receipt(&third).await;
    for number in 0..UNITS.len() {
        let status = row.status(number).await.unwrap();
        assert_eq!(status["quarantined"], 0, "{status}");
    }
}
