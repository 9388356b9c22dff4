//! The processes of a division and of a merge are killed, and the command is given again until it was
//! done: one tree comes out, with every figure in one total and every open item at one unit.
//!
//! Real processes, as a user starts them: a city, a district, two streets, one with two communities.
//! `LIANXI_KILL_SEED` sets where the moments of the kills begin, `LIANXI_KILL_ROUNDS` how many cities.

use std::path::Path;

use jiff::{Timestamp, tz::TimeZone};
use lianxi_tests::{
    federation::{CATALOGUE, MAPPING},
    numbers::{Numbers, setting},
    processes::{ask, tell},
    wait::until,
};
use serde_json::Value;
use tokio::time::sleep;

use super::{
    merge::rows,
    reform_kill::{City, state},
};

const HOSTS: [&str; 4] = ["C", "C-1", "C-1-1", "C-1-2"];

/// Rows of the divided street, of its communities, and of its sibling.
const ROWS: [(&str, &str, u32); 4] = [
    ("C-1-1", "C-1-1", 3),
    ("C-1-1", "C-1-1-1", 4),
    ("C-1-1", "C-1-1-2", 5),
    ("C-1-2", "C-1-2", 6),
];
const ALL: u32 = 3 + 4 + 5 + 6;

/// Tasks and whistles of the street that is divided: what goes, and what stays until it merges.
struct Items {
    tasks: [String; 2],
    whistles: [String; 2],
    /// When the next answer to each of the whistles is due.
    due: [Value; 2],
}

fn today() -> String {
    // Of the catalogue's time zone: what is ordered for today happens at once.
    let zone = TimeZone::get("America/New_York").unwrap();
    Timestamp::now().to_zoned(zone).date().to_string()
}

async fn city(month: &str) -> City {
    let mut city = City::alone(CATALOGUE).await;
    city.add_host("C-1", "C", "district").await;
    city.add_host("C-1-1", "C-1", "street").await;
    city.add_host("C-1-2", "C-1", "street").await;
    city.add_unit("C-1-1-1", "C-1-1").await;
    city.add_unit("C-1-1-2", "C-1-1").await;
    city.wait_for_included("C", 6).await;
    let mapping = city.file("mapping.toml", MAPPING);
    let (mut from, day) = (100, format!("{month}-01"));
    for (host, unit, count) in ROWS {
        let text = rows(from, unit, &[(count, &day)]);
        let text = format!("case,unit,opened,closed,type,address\n{text}");
        let file = city.file("rows.csv", &text);
        tell(&city.dir(host), &["record", "import", &file, "--mapping", &mapping]).await;
        from += 100;
    }
    for host in ["C-1-1", "C-1-2", "C-1", "C"] {
        tell(&city.dir(host), &["summary", "publish", "--period", month]).await;
    }
    wait_for_count(&city.dir("C"), "C", month, ALL).await;
    city
}

async fn wait_for_count(dir: &Path, unit: &str, month: &str, count: u32) {
    until(&format!("{count} cases at {unit}"), async || {
        let shown = ask(dir, &["summary", "show", "--unit", unit, "--period", month]).await.ok()?;
        let coverage = &shown["coverage"];
        let is_whole = coverage["included"] == coverage["expected"];
        (is_whole && shown["subtree"]["received"]["count"] == count).then_some(())
    })
    .await;
}

async fn open_items(city: &City) -> Items {
    let gas = ["desk", "add", "GAS", "--title", "Gas", "--line", "utilities"];
    tell(&city.dir("C-1"), &gas).await;
    let mut tasks = Vec::new();
    for (by, number) in [("C", "〔2026〕1号"), ("C-1", "〔2026〕2号")] {
        let issue = ["notice", "issue", "--number", number, "--title", "lamps", "--to", "C-1-1"];
        let more = ["--level", "street", "--duty-item", "street-light-inspection", "--due", "30d"];
        let issued = tell(&city.dir(by), &[&issue[..], &more].concat()).await;
        let id = issued["notice_id"].as_str().unwrap().to_owned();
        wait_for_stage(&city.dir(by), &id, "validated").await;
        tasks.push(id);
    }
    let (mut whistles, mut due) = (Vec::new(), Vec::new());
    for number in ["〔2026〕1号", "〔2026〕2号"] {
        let raise = ["escalation", "raise", "--number", number, "--kind", "emergency"];
        let more = ["--title", "gas smell", "--desk", "GAS", "--approved-by", "street head"];
        let raised = tell(&city.dir("C-1-1"), &[&raise[..], &more].concat()).await;
        let id = raised["escalation_id"].as_str().unwrap().to_owned();
        due.push(wait_for_case(&city.dir("C-1-1"), &id, "routed").await["due_unix_ms"].clone());
        whistles.push(id);
    }
    Items {
        tasks: tasks.try_into().unwrap(),
        whistles: whistles.try_into().unwrap(),
        due: due.try_into().unwrap(),
    }
}

async fn wait_for_stage(dir: &Path, task: &str, stage: &str) {
    until(&format!("{task} {stage} at {}", dir.display()), async || {
        let shown = ask(dir, &["notice", "show", task]).await.ok()?;
        let recipients = shown["recipients"].as_array()?;
        assert_eq!(recipients.len(), 1, "one unit has it: {shown}");
        (recipients[0]["stage"] == stage).then_some(())
    })
    .await;
}

async fn wait_for_case(dir: &Path, case: &str, state: &str) -> Value {
    until(&format!("{case} {state} at {}", dir.display()), async || {
        let shown = ask(dir, &["escalation", "show", case]).await.ok()?;
        (shown["state"] == state).then_some(shown)
    })
    .await
}

/// Gives an order at the district while hosts are killed, and again until it was taken.
async fn order(city: &mut City, numbers: &mut Numbers, order: &[&str]) -> Value {
    for _ in 0..3 {
        let dir = city.dir("C-1");
        let given: Vec<String> = order.iter().map(ToString::to_string).collect();
        let giving = tokio::spawn(async move {
            let given: Vec<&str> = given.iter().map(String::as_str).collect();
            ask(&dir, &given).await
        });
        sleep(numbers.millis(0, 250)).await;
        // The one that gives the order as often as all others.
        let unit = if numbers.coin() { "C-1" } else { HOSTS[numbers.below(HOSTS.len())] };
        city.kill(unit).await;
        // It may have been done, or not: either is right.
        let _ = giving.await.unwrap();
    }
    let taken =
        until("the order to be taken", async || ask(&city.dir("C-1"), order).await.ok()).await;
    for _ in 0..3 {
        sleep(numbers.millis(0, 250)).await;
        city.kill(HOSTS[numbers.below(HOSTS.len())]).await;
    }
    taken
}

/// Waits until an order that was given at the district was carried out.
async fn wait_until_done(city: &City, taken: &Value) {
    until("the end of the reform", async || {
        let seen = state(&city.dir("C-1")).await?;
        assert_ne!(seen["state"], "refused", "{seen}");
        let listed = ask(&city.dir("C-1"), &["unit", "reforms"]).await.ok()?;
        let listed = listed["reforms"].as_array()?.clone();
        let seen = listed.iter().find(|one| one["id"] == taken["id"])?;
        (seen["state"] == "done").then_some(())
    })
    .await;
}

/// How often an act was done at a unit.
async fn times(city: &City, unit: &str, act: &str) -> usize {
    let shown = tell(&city.dir(unit), &["journal", "show", "--act", act]).await;
    let lines = shown["lines"].as_array().unwrap().iter();
    lines.filter(|line| line["name"] == act && line["refused"] == "").count()
}

async fn divide(city: &mut City, numbers: &mut Numbers, items: &Items, month: &str) {
    let day = today();
    let split = ["unit", "split", "C-1-1", "--into", "C-1-2", "--child", "C-1-1-2", "--on", &day];
    let named = ["--item", &items.tasks[0], "--item", &items.whistles[0], "--deadline", "0s"];
    let taken = order(city, numbers, &[&split[..], &named].concat()).await;
    wait_until_done(city, &taken).await;
    until("the whistle at its new street", async || {
        ask(&city.dir("C-1-2"), &["escalation", "show", &items.whistles[0]]).await.ok()
    })
    .await;
    city.wait_for_included("C-1-1", 2).await;
    city.wait_for_included("C-1-2", 2).await;
    city.wait_for_included("C", 6).await;
    wait_for_count(&city.dir("C-1-1"), "C-1-1", month, 3 + 4).await;
    wait_for_count(&city.dir("C-1-2"), "C-1-2", month, 5 + 6).await;
    wait_for_count(&city.dir("C"), "C", month, ALL).await;
    // Once, whatever was repeated; each of the items.
    assert_eq!(times(city, "C-1", "unit.split").await, 1);
    assert_eq!(times(city, "C-1-1", "unit.hand-over").await, 2);
    assert_eq!(times(city, "C-1-2", "unit.hand-over").await, 2);
    city.is_sound().await;
}

async fn merge(city: &mut City, numbers: &mut Numbers, items: &Items, month: &str) {
    let day = today();
    let merge = ["unit", "merge", "C-1-1", "--into", "C-1-2", "--on", &day, "--deadline", "0s"];
    let taken = order(city, numbers, &merge).await;
    wait_until_done(city, &taken).await;
    city.wait_for_included("C-1-2", 3).await;
    city.wait_for_included("C", 5).await;
    // What the merged street and its community reported goes on to count.
    wait_for_count(&city.dir("C-1-2"), "C-1-2", month, ALL).await;
    wait_for_count(&city.dir("C"), "C", month, ALL).await;
    assert_eq!(times(city, "C-1", "unit.merge").await, 1);
    for (task, by) in items.tasks.iter().zip(["C", "C-1"]) {
        until("the task at its last street", async || {
            ask(&city.dir("C-1-2"), &["notice", "done", task]).await.ok()
        })
        .await;
        wait_for_stage(&city.dir(by), task, "done").await;
        assert!(ask(&city.dir("C-1-2"), &["notice", "done", task]).await.is_err(), "twice");
    }
    for (case, due) in items.whistles.iter().zip(&items.due) {
        let seen = wait_for_case(&city.dir("C-1-2"), case, "routed").await;
        assert_eq!(seen["due_unix_ms"], *due, "clocks run on");
        for (verb, state) in [("answer", "answered"), ("arrive", "arrived"), ("handled", "handled")]
        {
            tell(&city.dir("C-1"), &["escalation", verb, case, "--desk", "GAS"]).await;
            wait_for_case(&city.dir("C-1-2"), case, state).await;
        }
        tell(&city.dir("C-1-2"), &["escalation", "close", case]).await;
        wait_for_case(&city.dir("C-1"), case, "closed").await;
    }
    let listed = tell(&city.dir("C-1-2"), &["escalation", "list"]).await;
    assert_eq!(listed["escalations"].as_array().unwrap().len(), 2, "{listed}");
    let listed = tell(&city.dir("C-1-2"), &["notice", "list"]).await;
    assert_eq!(listed["notices"].as_array().unwrap().len(), 2, "{listed}");
    city.is_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streets_that_are_killed_while_they_divide_and_merge_lose_and_double_nothing() {
    let (rounds, seed) = (setting("LIANXI_KILL_ROUNDS", 1), setting("LIANXI_KILL_SEED", 5));
    let month = today()[..7].to_owned();
    for round in 0..rounds {
        let mut numbers = Numbers::new(seed + round);
        let mut city = city(&month).await;
        let items = open_items(&city).await;
        divide(&mut city, &mut numbers, &items, &month).await;
        merge(&mut city, &mut numbers, &items, &month).await;
    }
}
