//! The processes of a reform are killed while units move; they come out under their new parent, with
//! every figure in one total.
//!
//! Real processes, as a user starts them: a city, two districts, a street with two communities.
//! `LIANXI_KILL_SEED` sets where the moments of the kills begin.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::{Timestamp, tz::TimeZone};
use lianxi_tests::{
    boston::example,
    ports::free_address,
    processes::{Node, ask, tell},
    wait::until,
};
use serde_json::Value;
use tokio::time::sleep;

struct City {
    directory: tempfile::TempDir,
    nodes: BTreeMap<String, Node>,
}

impl City {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut city = Self { directory, nodes: BTreeMap::new() };
        let (root, listen) = (city.dir("C"), free_address().to_string());
        let mut init = vec!["node", "init", "--code", "C", "--level", "city", "--title", "City"];
        init.extend(["--domain", "test.example", "--listen", &listen]);
        tell(&root, &init).await;
        city.start_node("C").await;
        let catalogue = example("catalogue.json");
        tell(&root, &["catalogue", "publish", catalogue.to_str().unwrap()]).await;
        city.add_host("C-1", "C", "district").await;
        city.add_host("C-2", "C", "district").await;
        city.add_host("C-1-1", "C-1", "street").await;
        for community in ["C-1-1-1", "C-1-1-2"] {
            let token = city.invite(community, "C-1-1", "community").await;
            tell(&city.dir("C-1-1"), &["node", "join", &token]).await;
        }
        city.wait_for_included("C", 6).await;
        city
    }

    fn dir(&self, unit: &str) -> PathBuf {
        self.directory.path().join(unit)
    }

    async fn start_node(&mut self, unit: &str) {
        let node = Node::start(&self.dir(unit)).await;
        self.nodes.insert(unit.to_owned(), node);
    }

    async fn invite(&self, unit: &str, parent: &str, level: &str) -> String {
        let arguments = ["node", "invite", unit, "--level", level, "--title", unit];
        let answer = tell(&self.dir(parent), &arguments).await;
        answer["token"].as_str().unwrap().to_owned()
    }

    async fn add_host(&mut self, unit: &str, parent: &str, level: &str) {
        let token = self.invite(unit, parent, level).await;
        tell(&self.dir(unit), &["node", "join", &token, "--listen", &free_address().to_string()])
            .await;
        self.start_node(unit).await;
    }

    /// Waits until a live pull of `unit` has `units` units in it, and none that is missing.
    async fn wait_for_included(&self, unit: &str, units: u64) {
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
}

async fn state(dir: &Path) -> Option<Value> {
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
    let seed = std::env::var("LIANXI_KILL_SEED").map_or(7, |text| text.parse().unwrap());
    let mut numbers: u64 = seed;
    let mut moment = || {
        numbers = numbers.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        Duration::from_millis(numbers >> 57)
    };
    let mut city = City::start().await;
    let zone = TimeZone::get("America/New_York").unwrap();
    for (from, to) in [("C-1", "C-2"), ("C-2", "C-1"), ("C-1", "C-2")] {
        // Of its time zone: the day of the move is today, so it happens at once.
        let today = Timestamp::now().to_zoned(zone.clone()).date().to_string();
        let order =
            ["unit", "reparent", "C-1-1", "--under", to, "--on", &today, "--deadline", "0s"];
        tell(&city.dir("C"), &order).await;
        for unit in ["C-1-1", to, "C-1-1", from, "C-1-1"] {
            sleep(moment()).await;
            city.nodes.remove(unit).unwrap().kill().await;
            city.start_node(unit).await;
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
        for dir in ["C", "C-1", "C-2", "C-1-1"].map(|unit| city.dir(unit)) {
            let refused = tell(&dir, &["quarantine", "list"]).await;
            assert_eq!(refused["statements"], serde_json::json!([]), "{}", dir.display());
            tell(&dir, &["journal", "verify"]).await;
        }
    }
}
