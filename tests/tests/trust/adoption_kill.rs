//! The processes of an adoption are killed while a tree comes under its city; both come out with one
//! tree, however often the command has to be given again.
//!
//! Real processes, as a user starts them: a city, a district that began before it, a street of that.
//! `LIANXI_KILL_SEED` sets where the moments of the kills begin.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use lianxi_tests::{
    boston,
    ports::free_address,
    processes::{Node, ask, tell},
    wait::{until, until_done},
};
use tokio::time::sleep;

struct Trees {
    directory: tempfile::TempDir,
    nodes: BTreeMap<String, Node>,
}

impl Trees {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut trees = Self { directory, nodes: BTreeMap::new() };
        trees.root("C", "city").await;
        trees.root("C-7", "district").await;
        let invite = ["node", "invite", "C-7-1", "--level", "street", "--title", "Street"];
        let token = tell(&trees.dir("C-7"), &invite).await["token"].as_str().unwrap().to_owned();
        let listen = free_address().to_string();
        tell(&trees.dir("C-7-1"), &["node", "join", &token, "--listen", &listen]).await;
        trees.start_node("C-7-1").await;
        trees
    }

    fn dir(&self, unit: &str) -> PathBuf {
        self.directory.path().join(unit)
    }

    async fn root(&mut self, unit: &str, level: &str) {
        let (root, listen) = (self.dir(unit), free_address().to_string());
        let mut init = vec!["node", "init", "--code", unit, "--level", level, "--title", unit];
        init.extend(["--domain", "test.example", "--listen", &listen]);
        tell(&root, &init).await;
        self.start_node(unit).await;
        let catalogue = boston::catalogue();
        tell(&root, &["catalogue", "publish", catalogue.to_str().unwrap()]).await;
    }

    async fn start_node(&mut self, unit: &str) {
        let node = Node::start(&self.dir(unit)).await;
        self.nodes.insert(unit.to_owned(), node);
    }

    async fn kill(&mut self, unit: &str) {
        self.nodes.remove(unit).unwrap().kill().await;
        self.start_node(unit).await;
    }

    /// Fingerprint of the root key that a unit rests on.
    async fn fingerprint(&self, unit: &str) -> String {
        let place = tempfile::tempdir().unwrap();
        let out = place.path().join("root.pub");
        let shown = tell(&self.dir(unit), &["pack", "root", "--out", out.to_str().unwrap()]).await;
        shown["fingerprint"].as_str().unwrap().to_owned()
    }
}

impl Drop for Trees {
    fn drop(&mut self) {
        // The hosts' logs say what went wrong.
        self.directory.disable_cleanup(std::thread::panicking());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_whose_hosts_are_killed_while_it_comes_under_its_city_is_one_with_it() {
    let seed = std::env::var("LIANXI_KILL_SEED").map_or(11, |text| text.parse().unwrap());
    let mut numbers: u64 = seed;
    let mut moment = || {
        numbers = numbers.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        Duration::from_millis(numbers >> 57)
    };
    let mut trees = Trees::start().await;
    let root = trees.fingerprint("C-7").await;
    let offer =
        ["node", "adopt", "C-7", "--level", "district", "--title", "District", "--root", &root];
    let token = tell(&trees.dir("C"), &offer).await["token"].as_str().unwrap().to_owned();
    // Killed while the command runs, on either side; given again until it was done.
    for unit in ["C-7", "C", "C-7", "C", "C-7"] {
        let (dir, token) = (trees.dir("C-7"), token.clone());
        let adopting = tokio::spawn(async move {
            ask(&dir, &["node", "adopt", "--token", &token]).await.map(|_| ())
        });
        sleep(moment()).await;
        trees.kill(unit).await;
        // It may have been done, or not: either is right.
        let _ = adopting.await.unwrap();
    }
    until_done("the district to come under the city", async || {
        ask(&trees.dir("C-7"), &["node", "adopt", "--token", &token]).await
    })
    .await;
    for unit in ["C-7-1", "C-7", "C"] {
        sleep(moment()).await;
        trees.kill(unit).await;
    }
    until("one tree of three", async || {
        let pull = ["summary", "pull", "--period", "2030-01", "--depth", "3"];
        let pulled = ask(&trees.dir("C"), &pull).await.ok()?;
        let own = pulled["units"].as_array()?.iter().find(|one| one["unit"] == "C")?;
        let coverage = &own["coverage"];
        (coverage["included"] == 3 && coverage["expected"] == 3).then_some(())
    })
    .await;
    let city = trees.fingerprint("C").await;
    for unit in ["C", "C-7", "C-7-1"] {
        let dir = trees.dir(unit);
        until(&format!("{unit} to rest on the city"), async || {
            (trees.fingerprint(unit).await == city).then_some(())
        })
        .await;
        tell(&dir, &["journal", "verify"]).await;
        let refused = tell(&dir, &["quarantine", "list"]).await;
        assert_eq!(refused["statements"], serde_json::json!([]), "{unit}");
        let alarms = tell(&dir, &["journal", "alarms"]).await;
        assert_eq!(alarms["alarms"], serde_json::json!([]), "{unit}");
    }
    // The city took it in once, whatever was repeated.
    let shown = tell(&trees.dir("C"), &["journal", "show", "--act", "node.adopt"]).await;
    let lines = shown["lines"].as_array().unwrap().iter();
    let done = lines.filter(|line| line["name"] == "node.adopt" && line["refused"] == "");
    assert_eq!(done.count(), 1);
}
