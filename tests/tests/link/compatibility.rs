//! The release before on either side of a link, and its directory under the program of the tree.
//!
//! Only what a release promises is asked: joins, figures, notices and receipts across the link, and
//! that a host goes on where the earlier program left it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use lianxi_tests::{
    federation::{CATALOGUE, MAPPING},
    ports::free_address,
    previous::previous,
    processes::{Node, ask, command_of, program, tell},
    wait::until,
};
use serde_json::Value;
use tempfile::TempDir;

const PERIOD: &str = "2011-07";
const COMMUNITIES: u64 = 3;

/// A city, and a street with some communities below it.
struct City {
    place: TempDir,
    /// Programs of the city's host and of the street's.
    programs: [PathBuf; 2],
}

/// Runs a program to its end, for a directory that has no running host yet.
async fn done(program: &Path, arguments: &[&str]) {
    let ended = command_of(program, arguments).output().await.unwrap();
    let words = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{arguments:?}: {words}");
}

impl City {
    fn dir(&self, host: &str) -> PathBuf {
        self.place.path().join(host)
    }

    fn path(&self, name: &str) -> String {
        self.dir(name).to_str().unwrap().to_owned()
    }

    async fn start(programs: [PathBuf; 2]) -> (Self, [Node; 2]) {
        let city = Self { place: tempfile::tempdir().unwrap(), programs };
        let listen = free_address().to_string();
        let (root, street) = (city.path("city"), city.path("street"));
        let init = ["node", "init", "--dir", &root, "--code", "C", "--level", "city"];
        let named = ["--title", "City", "--domain", "test.example", "--listen", &listen];
        done(&city.programs[0], &[&init[..], &named].concat()).await;
        let above = Node::start_with(&city.programs[0], &city.dir("city")).await;
        fs::write(city.dir("catalogue.json"), CATALOGUE).unwrap();
        tell(&above.dir, &["catalogue", "publish", &city.path("catalogue.json")]).await;

        let communities = (1..=COMMUNITIES).map(|one| format!("S-{one},community,S{one},S\n"));
        let list =
            format!("code,level,title,parent\nS,street,S,\n{}", communities.collect::<String>());
        fs::write(city.dir("list.csv"), list).unwrap();
        let (list, tokens) = (city.path("list.csv"), city.path("join.csv"));
        tell(&above.dir, &["node", "invite", "--file", &list, "--out", &tokens]).await;
        let listen = free_address().to_string();
        let join = ["node", "join", "--file", &tokens, "--dir", &street, "--listen", &listen];
        done(&city.programs[1], &join).await;
        let below = Node::start_with(&city.programs[1], &city.dir("street")).await;
        until("the catalogue at every unit", async || {
            let status = ask(&below.dir, &["node", "status"]).await.ok()?;
            let units = status["units"].as_array()?;
            units.iter().all(|unit| unit["catalogue"] == "kit@1").then_some(())
        })
        .await;
        (city, [above, below])
    }

    async fn import(&self, rows: &[u64]) {
        let rows: String = rows
            .iter()
            .map(|row| format!("{row},S-{},2011-07-01 08:00:00,,light,\n", row % COMMUNITIES + 1))
            .collect();
        let heading = "case,unit,opened,closed,type,address\n";
        fs::write(self.dir("rows.csv"), format!("{heading}{rows}")).unwrap();
        fs::write(self.dir("mapping.toml"), MAPPING).unwrap();
        let (rows, mapping) = (self.path("rows.csv"), self.path("mapping.toml"));
        tell(&self.dir("street"), &["record", "import", &rows, "--mapping", &mapping]).await;
        tell(&self.dir("street"), &["summary", "publish", "--period", PERIOD]).await;
    }

    /// Waits until the city's report and a live pull both have `received` over every unit.
    async fn has(&self, received: u64) {
        let units = COMMUNITIES + 2;
        let is_whole = |figures: &Value| {
            figures["coverage"]["included"] == units
                && figures["subtree"]["received"]["count"] == received
        };
        until(&format!("a report of {received}"), async || {
            let show = ["summary", "show", "--period", PERIOD];
            let shown = ask(&self.dir("city"), &show).await.ok()?;
            is_whole(&shown).then_some(())
        })
        .await;
        until(&format!("a pull of {received}"), async || {
            let pull = ["summary", "pull", "--period", PERIOD];
            let pulled = ask(&self.dir("city"), &pull).await.ok()?;
            let units = pulled["units"].as_array()?;
            units.iter().any(|unit| unit["unit"] == "C" && is_whole(unit)).then_some(())
        })
        .await;
    }

    async fn notice(&self, number: &str) {
        let issue = ["notice", "issue", "--number", number, "--title", "Lights", "--to", "S"];
        let more =
            ["--level", "community", "--due", "7d", "--duty-item", "street-light-inspection"];
        let issued = tell(&self.dir("city"), &[&issue[..], &more].concat()).await;
        let id = issued["notice_id"].as_str().unwrap().to_owned();
        until(&format!("receipts for {number}"), async || {
            let shown = ask(&self.dir("city"), &["notice", "show", &id]).await.ok()?;
            let recipients = shown["recipients"].as_array()?.clone();
            let checked = recipients.iter().filter(|one| one["stage"] == "validated").count();
            (checked as u64 == COMMUNITIES).then_some(())
        })
        .await;
    }
}

async fn they_get_along(above: &Path, below: &Path) {
    let (city, [_above, below]) = City::start([above.to_owned(), below.to_owned()]).await;
    city.import(&[1, 2, 3, 4]).await;
    city.has(4).await;
    city.notice("N-1").await;
    // What the earlier program left is what the tree's goes on with.
    let dir = below.kill().await;
    let _below = Node::start(&dir).await;
    city.import(&[5, 6]).await;
    city.has(6).await;
    city.notice("N-2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_release_before_works_below_this_one() {
    let Some(release) = previous() else { return };
    eprintln!("previous release: {}", release.name);
    they_get_along(program(), &release.program).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_release_before_works_above_this_one() {
    let Some(release) = previous() else { return };
    eprintln!("previous release: {}", release.name);
    they_get_along(&release.program, program()).await;
}
