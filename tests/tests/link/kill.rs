//! A street's process is killed in the middle of imports and reports; every figure is right.
//!
//! Real processes, as a user starts them: a city, a district, two streets with their communities,
//! on Boston's rows of July 2011. `LIANXI_KILL_ROUNDS` sets the number of rounds,
//! `LIANXI_KILL_SEED` where they begin.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use lianxi_tests::{
    boston::{self, COLUMNS, Figures, example, flat, tree, unpacked},
    numbers::{Numbers, setting},
    ports::free_address,
    processes::{Node, ask, subtrees, tell},
    wait::until,
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

const MONTH: &str = "2011-07";
const DISTRICT: &str = "BOS-10";
/// The street that is killed, with 671 rows of 17 communities, and its neighbour.
const STREETS: [&str; 2] = ["BOS-10-W18", "BOS-10-W20"];

struct City {
    nodes: BTreeMap<String, Node>,
    rows: PathBuf,
    directory: TempDir,
}

fn is_served(unit: &str) -> bool {
    let is_below = |street: &str| unit.strip_prefix(street).is_some_and(|rest| !rest.is_empty());
    ["BOS", DISTRICT].contains(&unit)
        || STREETS.contains(&unit)
        || STREETS.iter().any(|street| is_below(street))
}

fn served() -> Vec<String> {
    tree().into_iter().map(|(unit, _)| unit).filter(|unit| is_served(unit)).collect()
}

impl City {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("BOS");
        let listen = free_address().to_string();
        let mut init = vec!["node", "init", "--code", "BOS", "--level", "city"];
        init.extend(["--title", "Boston", "--domain", "boston.example", "--listen", &listen]);
        tell(&root, &init).await;
        let rows = directory.path().join("rows.csv");
        let mut city = Self { nodes: BTreeMap::new(), rows, directory };
        city.start_node("BOS").await;
        let catalogue = boston::catalogue();
        tell(&root, &["catalogue", "publish", catalogue.to_str().unwrap()]).await;
        city.add_host(DISTRICT, "BOS", "district").await;
        for street in STREETS {
            city.add_host(street, DISTRICT, "street").await;
            for (unit, _) in tree().iter().filter(|(_, parent)| parent == street) {
                let token = city.invite(unit, street, "community").await;
                tell(&city.dir(street), &["node", "join", &token]).await;
            }
        }
        city.wait_for_all().await;
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

    /// Waits until every unit has the catalogue and the city pulls from all of them.
    async fn wait_for_all(&self) {
        let served = served().len();
        until("the catalogue at every unit", async || {
            let mut units = 0;
            for host in self.nodes.keys() {
                let status = ask(&self.dir(host), &["node", "status"]).await.ok()?;
                let all = status["units"].as_array()?;
                units += all.iter().filter(|unit| unit["catalogue"] == "boston-311@1").count();
            }
            (units == served).then_some(())
        })
        .await;
        self.pull().await;
    }

    /// Figures of all units, pulled through the city once every unit is in them.
    async fn pull(&self) -> Figures {
        until("a pull with every unit in it", async || {
            let pull = ["summary", "pull", "--period", MONTH, "--depth", "3"];
            whole(&ask(&self.dir("BOS"), &pull).await.ok()?)
        })
        .await
    }

    /// The city's own report, once it is `expected`.
    async fn wait_for_report(&self, expected: &[i128; 9]) {
        until(&format!("a report of {expected:?}"), async || {
            let shown =
                ask(&self.dir("BOS"), &["summary", "show", "--period", MONTH]).await.ok()?;
            let document = serde_json::json!({ "units": [shown] });
            let is_whole = shown["coverage"]["included"] == served().len();
            (is_whole && subtrees(&document, COLUMNS)["BOS"] == *expected).then_some(())
        })
        .await;
    }

    async fn import(&self, host: &str) -> Result<Value, String> {
        import(&self.dir(host), &self.rows, false).await
    }

    /// Does `work` at the first street, kills its process after `moment` and starts it again.
    /// `Some` if the work was acknowledged.
    async fn kill_during(
        &mut self,
        moment: Duration,
        work: impl Future<Output = Result<Value, String>>,
    ) -> Option<Value> {
        let street = STREETS[0];
        let node = self.nodes.remove(street).unwrap();
        let killed = async {
            sleep(moment).await;
            node.kill().await
        };
        let (answer, _) = tokio::join!(work, killed);
        self.start_node(street).await;
        answer.ok()
    }
}

impl Drop for City {
    fn drop(&mut self) {
        // The hosts' logs say what went wrong.
        self.directory.disable_cleanup(std::thread::panicking());
    }
}

async fn import(dir: &Path, rows: &Path, all_or_nothing: bool) -> Result<Value, String> {
    let mapping = example("mapping.toml");
    let (rows, mapping) = (rows.to_str().unwrap(), mapping.to_str().unwrap());
    let mut arguments = vec!["record", "import", rows, "--mapping", mapping];
    arguments.extend(all_or_nothing.then_some("--all-or-nothing"));
    ask(dir, &arguments).await
}

async fn publish(dir: &Path) -> Result<Value, String> {
    ask(dir, &["summary", "publish", "--period", MONTH]).await
}

/// Figures of a pull that every unit is in.
fn whole(document: &Value) -> Option<Figures> {
    let figures = subtrees(document, COLUMNS);
    let units = document["units"].as_array()?;
    let is_whole = |unit: &Value| unit["coverage"]["included"] == unit["coverage"]["expected"];
    (units.iter().all(is_whole) && figures.len() == served().len()).then_some(figures)
}

/// Changes most rows of the street that is killed, differently for each seed: opens and closes
/// cases, moves types and deadlines.
fn change(rows: &[u8], seed: u64) -> Vec<u8> {
    let mut reader = csv::Reader::from_reader(rows);
    let headers = reader.headers().unwrap().clone();
    let at = |name: &str| headers.iter().position(|header| header == name).unwrap();
    let columns = ["target_dt", "closed_dt", "ontime", "type", "precinct"];
    let [target, closed, ontime, kind, precinct] = columns.map(at);
    let units = served();
    let of_street = |precinct: &str| units.contains(&format!("{}-{precinct}", STREETS[0]));
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(&headers).unwrap();
    let mut numbers = Numbers::new(seed);
    for row in reader.records() {
        let mut cells: Vec<String> = row.unwrap().iter().map(str::to_owned).collect();
        if !of_street(cells[precinct].trim()) {
            writer.write_record(&cells).unwrap();
            continue;
        }
        match numbers.next() % 6 {
            0 => cells[closed] = " ".to_owned(),
            1 => cells[closed] = format!("2012-02-{:02} 10:15:00", 1 + numbers.next() % 28),
            2 => cells[kind] = format!("Type {}", numbers.next() % 40),
            3 => cells[target] = "2011-08-30 08:00:00".to_owned(),
            4 => cells[ontime] = "OVERDUE".to_owned(),
            _ => {}
        }
        writer.write_record(&cells).unwrap();
    }
    writer.into_inner().unwrap()
}

fn assert_same(found: &Figures, expected: &Figures, when: &str) {
    assert_eq!(found.len(), served().len());
    for (unit, figures) in found {
        assert_eq!(figures, &expected[unit], "{unit} {when}: {COLUMNS:?}");
    }
}

/// Rows of a report that are in the store.
fn kept(report: &Value) -> u64 {
    ["imported", "updated", "unchanged"].iter().map(|key| report[key].as_u64().unwrap()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_street_that_is_killed_in_imports_and_reports_loses_and_doubles_nothing() {
    let (rounds, seed) = (setting("LIANXI_KILL_ROUNDS", 6), setting("LIANXI_KILL_SEED", 1));
    let original = unpacked(&example("2011-07.csv.gz"));
    let mut city = City::start().await;
    let street = city.dir(STREETS[0]);

    // An undisturbed month shows how long the work takes.
    fs::write(&city.rows, &original).unwrap();
    let begun = Instant::now();
    let report = city.import(STREETS[0]).await.unwrap();
    let import_time = begun.elapsed();
    let rows = kept(&report);
    assert_eq!((rows, report["imported"].as_u64()), (671, Some(671)));
    for host in ["BOS", DISTRICT, STREETS[1]] {
        city.import(host).await.unwrap();
    }
    let begun = Instant::now();
    publish(&street).await.unwrap();
    let publish_time = begun.elapsed();
    publish(&city.dir(STREETS[1])).await.unwrap();
    let expected = flat(std::slice::from_ref(&original), is_served);
    assert_same(&city.pull().await, &expected, "undisturbed");

    let mut last = original;
    for round in 0..rounds {
        let when = format!("in round {round} of seed {seed}");
        let mut numbers = Numbers::new(seed.wrapping_mul(1_000) + round);
        let changed = change(&last, numbers.next());
        fs::write(&city.rows, &changed).unwrap();

        let moment = numbers.moment(import_time);
        let rows_file = city.rows.clone();
        let work = import(&street, &rows_file, round % 2 == 1);
        let acknowledged = city.kill_during(moment, work).await;
        let after = city.import(STREETS[0]).await.unwrap();
        assert_eq!(kept(&after), rows, "{when}: {after}");
        if let Some(report) = &acknowledged {
            assert_eq!(kept(report), rows, "{when}: {report}");
            assert_eq!(after["unchanged"], rows, "{when}: what was acknowledged is there: {after}");
        }
        let again = city.import(STREETS[0]).await.unwrap();
        assert_eq!(again["unchanged"], rows, "{when}: {again}");
        let expected = flat(std::slice::from_ref(&changed), is_served);
        assert_same(&city.pull().await, &expected, &when);

        let moment = numbers.moment(publish_time);
        let work = publish(&street);
        if city.kill_during(moment, work).await.is_none() {
            publish(&street).await.unwrap();
        }
        city.wait_for_report(&expected["BOS"]).await;
        assert_same(&city.pull().await, &expected, &when);
        last = changed;
    }
}
