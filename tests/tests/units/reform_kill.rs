//! The processes of a reform are killed while units move; they come out under their new parent, with
//! every figure in one total.
//!
//! Real processes, as a user starts them: a city, two districts, a street with two communities.
//! `LIANXI_KILL_SEED` sets where the moments of the kills begin.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use jiff::{Timestamp, tz::TimeZone};
use lianxi_tests::{
    boston,
    numbers::{Numbers, setting},
    ports::free_address,
    processes::{Node, ask, tell},
    wait::until,
};
use serde_json::Value;
use tokio::time::sleep;

/// A city of processes.
pub(super) struct City {
    directory: tempfile::TempDir,
    nodes: BTreeMap<String, Node>,
}

impl City {
    /// The city `C` alone, with a catalogue.
    pub(super) async fn alone(catalogue: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut city = Self { directory, nodes: BTreeMap::new() };
        let (root, listen) = (city.dir("C"), free_address().to_string());
        let mut init = vec!["node", "init", "--code", "C", "--level", "city", "--title", "City"];
        init.extend(["--domain", "test.example", "--listen", &listen]);
        tell(&root, &init).await;
        city.start_node("C").await;
        let file = city.file("catalogue.json", catalogue);
        tell(&root, &["catalogue", "publish", &file]).await;
        city
    }

    /// Its path, once it is written.
    pub(super) fn file(&self, name: &str, text: &str) -> String {
        let file = self.directory.path().join(name);
        std::fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    }

    pub(super) fn dir(&self, unit: &str) -> PathBuf {
        self.directory.path().join(unit)
    }

    async fn start_node(&mut self, unit: &str) {
        let node = Node::start(&self.dir(unit)).await;
        self.nodes.insert(unit.to_owned(), node);
    }

    pub(super) async fn kill(&mut self, unit: &str) {
        self.nodes.remove(unit).unwrap().kill().await;
        self.start_node(unit).await;
    }

    async fn invite(&self, unit: &str, parent: &str, level: &str) -> String {
        let arguments = ["node", "invite", unit, "--level", level, "--title", unit];
        let answer = tell(&self.dir(parent), &arguments).await;
        answer["token"].as_str().unwrap().to_owned()
    }

    pub(super) async fn add_host(&mut self, unit: &str, parent: &str, level: &str) {
        let token = self.invite(unit, parent, level).await;
        tell(&self.dir(unit), &["node", "join", &token, "--listen", &free_address().to_string()])
            .await;
        self.start_node(unit).await;
    }

    /// A unit on the host of its parent.
    pub(super) async fn add_unit(&self, unit: &str, parent: &str) {
        let token = self.invite(unit, parent, "community").await;
        tell(&self.dir(parent), &["node", "join", &token]).await;
    }

    /// Waits until a live pull of `unit` has `units` units in it, and none that is missing.
    pub(super) async fn wait_for_included(&self, unit: &str, units: u64) {
        until(&format!("{units} units under {unit}"), async || {
            let pull = ["summary", "pull", "--period", "2030-01", "--depth", "3"];
            let pulled = ask(&self.dir(unit), &pull).await.ok()?;
            let all = pulled["units"].as_array()?;
            let own = all.iter().find(|one| one["unit"] == unit)?;
            let coverage = &own["coverage"];
            (coverage["included"] == units && coverage["expected"] == units).then_some(())
        })
        .await;
    }

    /// Everybody's journal is whole, and nobody refused anything or raised an alarm.
    pub(super) async fn is_sound(&self) {
        for unit in self.nodes.keys() {
            let dir = self.dir(unit);
            tell(&dir, &["journal", "verify"]).await;
            let refused = tell(&dir, &["quarantine", "list"]).await;
            assert_eq!(refused["statements"], serde_json::json!([]), "{unit}");
            let alarms = tell(&dir, &["journal", "alarms"]).await;
            assert_eq!(alarms["alarms"], serde_json::json!([]), "{unit}");
        }
    }
}

/// A city, two districts, a street with two communities.
async fn two_districts() -> City {
    let catalogue = std::fs::read_to_string(boston::catalogue()).unwrap();
    let mut city = City::alone(&catalogue).await;
    city.add_host("C-1", "C", "district").await;
    city.add_host("C-2", "C", "district").await;
    city.add_host("C-1-1", "C-1", "street").await;
    city.add_unit("C-1-1-1", "C-1-1").await;
    city.add_unit("C-1-1-2", "C-1-1").await;
    city.wait_for_included("C", 6).await;
    city
}

/// The newest reform that a unit knows.
pub(super) async fn state(dir: &Path) -> Option<Value> {
    let listed = ask(dir, &["unit", "reforms"]).await.ok()?;
    listed["reforms"].as_array()?.last().cloned()
}

impl Drop for City {
    fn drop(&mut self) {
        // The hosts' logs say what went wrong.
        self.directory.disable_cleanup(std::thread::panicking());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_killed_while_its_units_move_comes_out_under_the_new_parent() {
    let mut numbers = Numbers::new(setting("LIANXI_KILL_SEED", 7));
    let mut city = two_districts().await;
    let zone = TimeZone::get("America/New_York").unwrap();
    for (from, to) in [("C-1", "C-2"), ("C-2", "C-1"), ("C-1", "C-2")] {
        // Of its time zone: the day of the move is today, so it happens at once.
        let today = Timestamp::now().to_zoned(zone.clone()).date().to_string();
        let order =
            ["unit", "reparent", "C-1-1", "--under", to, "--on", &today, "--deadline", "0s"];
        tell(&city.dir("C"), &order).await;
        for unit in ["C-1-1", to, "C-1-1", from, "C-1-1"] {
            sleep(numbers.millis(0, 128)).await;
            city.kill(unit).await;
        }
        let seen = until(&format!("the move from {from} to {to}"), async || {
            let seen = state(&city.dir("C")).await?;
            (seen["state"] == "done" && seen["to"] == to).then_some(seen)
        })
        .await;
        assert_eq!(seen["from"], from);
        city.wait_for_included(to, 4).await;
        city.wait_for_included(from, 1).await;
        city.wait_for_included("C", 6).await;
        city.is_sound().await;
    }
}
