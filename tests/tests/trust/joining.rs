//! Many units join at once, and all units of a host by one file, however often that is cut off.

use std::{
    collections::BTreeSet, fs, os::unix::fs::PermissionsExt as _, path::Path, process::Stdio,
};

use futures::future::join_all;
use lianxi_node::node::{self, JoinOptions};
use lianxi_proto::types::v1::Level;
use lianxi_tests::{
    binary::{Running, command, run},
    federation::Federation,
    ports::free_address,
    wait::until,
};
use serde_json::Value;

const HUNDRED: usize = 100;

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_children_join_at_once() {
    let city = Federation::city("C").await;
    let mut tokens = Vec::new();
    for number in 1..=HUNDRED {
        let token = city.invite(&format!("C-{number}"), "C", Level::District).await.unwrap();
        tokens.push((number, token));
    }
    let directory = tempfile::tempdir().unwrap();
    let join = |(number, token): (usize, String)| {
        let dir = directory.path().join(number.to_string());
        async move { node::join_offline(&dir, &token, JoinOptions::default()).await }
    };
    let joined = join_all(tokens.into_iter().map(join)).await;
    let units: BTreeSet<String> =
        joined.into_iter().map(|joined| joined.unwrap().unit.to_string()).collect();
    assert_eq!(units.len(), HUNDRED);
    city.wait_for_roster("C", HUNDRED + 1).await;
}

/// A city as a process.
async fn city(place: &Path) -> Running {
    let listen = free_address().to_string();
    let made = run(
        place,
        [
            "node",
            "init",
            "--dir",
            "city",
            "--code",
            "C",
            "--level",
            "city",
            "--title",
            "City",
            "--domain",
            "test.example",
            "--listen",
            &listen,
        ],
    );
    made.await.succeeds();
    Running::start(place, "city").await
}

async fn known(place: &Path, dir: &str) -> BTreeSet<String> {
    let units = run(place, ["node", "units", "--dir", dir, "--json"]).await.json();
    let units = units["units"].as_array().unwrap();
    units.iter().map(|unit| unit["unit"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_processes_join_at_once() {
    let place = tempfile::tempdir().unwrap();
    let _city = city(place.path()).await;
    let rows: String = (1..=HUNDRED).map(|one| format!("C-{one},district,D{one}\n")).collect();
    fs::write(place.path().join("list.csv"), format!("code,level,title\n{rows}")).unwrap();
    let invite = ["node", "invite", "--dir", "city", "--file", "list.csv", "--out", "join.csv"];
    run(place.path(), invite).await.succeeds();

    let mut file = csv::Reader::from_path(place.path().join("join.csv")).unwrap();
    let rows: Vec<csv::StringRecord> = file.records().map(Result::unwrap).collect();
    assert_eq!(rows.len(), HUNDRED);
    // Each is a process of its own, and none waits for another.
    let mut joining = Vec::new();
    for row in &rows {
        let arguments = ["node", "join", &row[4], "--dir", &row[0]];
        let mut command = command(place.path(), arguments);
        joining.push(command.stderr(Stdio::null()).spawn().unwrap());
    }
    for (mut process, row) in joining.into_iter().zip(&rows) {
        assert!(process.wait().await.unwrap().success(), "{}", &row[0]);
        assert!(place.path().join(&row[0]).join("node.toml").exists());
    }
    assert_eq!(known(place.path(), "city").await.len(), HUNDRED + 1);
}

/// A street of the city with some communities, as a table that a person makes: in any order.
fn street_list(communities: usize) -> String {
    let rows = (1..=communities).map(|one| format!("C-1-{one},community,社区{one},C-1\n"));
    format!("code,level,title,parent\n{}C-1,street,街道,\n", rows.collect::<String>())
}

fn states(report: &Value) -> Vec<&str> {
    let units = report["units"].as_array().unwrap();
    units.iter().map(|unit| unit["state"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_street_and_its_communities_join_by_one_file_however_often_it_is_cut_off() {
    const COMMUNITIES: usize = 12;
    let temporary = tempfile::tempdir().unwrap();
    let place = temporary.path();
    let city = city(place).await;
    fs::write(place.join("list.csv"), street_list(COMMUNITIES)).unwrap();

    let invite = ["node", "invite", "--dir", "city", "--file", "list.csv"];
    let dry = run(place, invite.iter().chain(&["--dry-run", "--json"])).await.json();
    assert_eq!(states(&dry)[..2], ["invited", "by-its-host"]);
    run(place, invite.iter().chain(&["--out", "join.csv"])).await.succeeds();
    let mode = fs::metadata(place.join("join.csv")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "tokens are secrets");
    let again = run(place, invite.iter().chain(&["--out", "join.csv"])).await;
    again.fails(2, &["there already"]);

    let listen = free_address().to_string();
    let join = ["node", "join", "--file", "join.csv", "--dir", "street", "--listen", &listen];
    let dry = run(place, join.iter().chain(&["--dry-run", "--json"])).await.json();
    assert!(states(&dry).iter().all(|state| *state == "would-join"), "{dry}");
    assert!(!place.join("street").exists(), "a dry run keeps nothing");

    // Killed as soon as the keys of a unit are there, at another one each time.
    for one in ["C-1", "C-1-3", "C-1-8"] {
        let mut process = command(place, join).stdout(Stdio::null()).spawn().unwrap();
        until(&format!("keys of {one}"), async || {
            place.join("street/keys").join(one).exists().then_some(())
        })
        .await;
        process.kill().await.unwrap();
    }
    let report = run(place, join.iter().chain(&["--json"])).await.json();
    let good = |state: &&str| matches!(*state, "joined" | "already");
    assert_eq!(states(&report).iter().filter(|state| good(state)).count(), COMMUNITIES + 1);
    let report = run(place, join.iter().chain(&["--json"])).await.json();
    assert!(states(&report).iter().all(|state| *state == "already"), "{report}");

    let _street = Running::start(place, "street").await;
    until("the street's communities at the city", async || {
        (known(place, "city").await.len() == COMMUNITIES + 2).then_some(())
    })
    .await;
    city.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parent_that_is_away_burns_no_token_of_a_file() {
    let temporary = tempfile::tempdir().unwrap();
    let place = temporary.path();
    let running = city(place).await;
    fs::write(place.join("list.csv"), street_list(2)).unwrap();
    let invite = ["node", "invite", "--dir", "city", "--file", "list.csv", "--out", "join.csv"];
    run(place, invite).await.succeeds();
    running.kill().await;

    let listen = free_address().to_string();
    let join = ["node", "join", "--file", "join.csv", "--dir", "street", "--listen", &listen];
    let report = run(place, join.iter().chain(&["--json"])).await;
    report.fails(10, &["3 units did not join"]);
    let report: Value = serde_json::from_str(&report.stdout).unwrap();
    let reason = report["units"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("was not reached"), "{reason}");

    let _city = Running::start(place, "city").await;
    let report = run(place, join.iter().chain(&["--json"])).await.json();
    assert_eq!(states(&report), ["joined"; 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_starts_at_any_level_above_the_lowest() {
    let temporary = tempfile::tempdir().unwrap();
    let place = temporary.path();
    for (code, level, below) in [("D", "district", "street"), ("S", "street", "community")] {
        let listen = free_address().to_string();
        let init = [
            "node",
            "init",
            "--dir",
            code,
            "--code",
            code,
            "--level",
            level,
            "--title",
            "Root",
            "--domain",
            "test.example",
            "--listen",
            &listen,
        ];
        run(place, init).await.succeeds();
        let _root = Running::start(place, code).await;
        let child = format!("{code}-1");
        let invite = ["node", "invite", &child, "--level", below, "--title", "T", "--dir", code];
        let token = run(place, invite).await.succeeds();
        run(place, ["node", "join", token.trim(), "--dir", &child]).await.succeeds();
        assert_eq!(known(place, code).await.len(), 2);
        // A root takes nobody of its own level or above.
        let above = ["node", "invite", "X", "--level", level, "--title", "T", "--dir", code];
        run(place, above).await.fails(2, &["choose a lower level"]);
    }
}
