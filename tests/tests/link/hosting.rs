//! What a host needs for each unit that it serves: memory, and no thread of its own.
//!
//! The host is a real one, and every unit has a link of its own over TLS, to a parent on another host:
//! more than units need whose parent is beside them. 100 units, or as many as `LIANXI_HOSTED` says; what
//! the host needs without them is taken off. Prints the figures (`-- --nocapture`).

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use lianxi_tests::{
    binary::run,
    federation::CATALOGUE,
    ports::free_address,
    processes::{Node, ask, tell},
    wait::while_it_advances,
};
use tempfile::TempDir;

/// Units that are added by default.
const UNITS: usize = 100;

/// Units that the host has before, so that everything that is made once is there.
const BEFORE: usize = 10;

/// Units that join by one command.
const OF_A_COMMAND: usize = 100;

/// Most memory of an idle unit.
const MAX_KIB: u64 = 300;

struct City {
    place: TempDir,
    parent: Node,
    units: usize,
}

/// Memory of a process that is its own alone, and its threads.
fn needs(pid: i32) -> (u64, usize) {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Private_Dirty:")).unwrap();
    let kib = line.split_whitespace().next().unwrap().parse().unwrap();
    (kib, fs::read_dir(format!("/proc/{pid}/task")).unwrap().count())
}

impl City {
    async fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let dir = place.path().join("city");
        let listen = free_address().to_string();
        let init = ["node", "init", "--code", "C", "--level", "city", "--title", "City"];
        tell(&dir, &[&init[..], &["--domain", "test.example", "--listen", &listen]].concat()).await;
        let parent = Node::start(&dir).await;
        let catalogue = place.path().join("catalogue.json");
        fs::write(&catalogue, CATALOGUE).unwrap();
        tell(&dir, &["catalogue", "publish", catalogue.to_str().unwrap()]).await;
        Self { place, parent, units: 0 }
    }

    fn host(&self) -> PathBuf {
        self.place.path().join("host")
    }

    /// Adds units to the stopped host.
    async fn add(&mut self, units: usize) {
        let all: Vec<usize> = (self.units..self.units + units).collect();
        for numbers in all.chunks(OF_A_COMMAND) {
            let list = self.place.path().join(format!("{}.csv", numbers[0]));
            let tokens = list.with_extension("join");
            let mut rows = "code,level,title,parent\n".to_owned();
            for number in numbers {
                writeln!(rows, "S-{number:05},street,S{number},C").unwrap();
            }
            fs::write(&list, rows).unwrap();
            let (list, tokens) = (list.to_str().unwrap(), tokens.to_str().unwrap());
            tell(&self.parent.dir, &["node", "invite", "--file", list, "--out", tokens]).await;
            let listen = free_address().to_string();
            let host = self.host();
            let join = ["node", "join", "--file", tokens, "--dir", host.to_str().unwrap()];
            run(self.place.path(), [&join[..], &["--listen", &listen]].concat()).await.succeeds();
        }
        self.units += units;
    }

    /// Starts the host, and says what it needs once all its units are linked and have the catalogue.
    async fn needs(&self) -> (u64, usize) {
        let host = Node::start(&self.host()).await;
        while_it_advances("a link and the catalogue of every unit", async || {
            let ready = ready(&host.dir).await;
            if ready == self.units { Ok(()) } else { Err(ready) }
        })
        .await;
        let found = needs(host.pid());
        host.kill().await;
        found
    }
}

async fn ready(host: &Path) -> usize {
    let Ok(status) = ask(host, &["node", "status"]).await else { return 0 };
    let units = status["units"].as_array().unwrap().iter();
    units.filter(|unit| unit["parent_link"] == "up" && unit["catalogue"] == "kit@1").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unit_needs_little_memory_and_no_thread() {
    let wanted = std::env::var("LIANXI_HOSTED").ok();
    let units = wanted.map_or(UNITS, |text| text.parse().expect("LIANXI_HOSTED: a number"));
    let mut city = City::new().await;
    city.add(BEFORE).await;
    let (before_kib, before) = city.needs().await;
    city.add(units).await;
    let (kib, threads) = city.needs().await;
    let each = kib.saturating_sub(before_kib) / u64::try_from(units).unwrap();
    eprintln!("{units} units more: {each} KiB each, {kib} KiB in all, {threads} threads");
    assert!(each <= MAX_KIB, "{each} KiB for each of {units} units");
    // One that waits for the disk may just be there or not.
    assert!(threads <= before + 2, "{threads} threads with the units, {before} before");
}
