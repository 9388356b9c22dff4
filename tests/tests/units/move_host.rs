//! A unit goes to another host with its keys, records, journal and open items; exactly one host runs it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use lianxi_node::{
    domain::unit::UnitCode,
    services::{hosted::Hosted, unit::decode_envelope},
    statement::header::{self, kinds},
    store::Table,
};
use lianxi_proto::{
    admin::v1::{EpochsRequest, OpenEpochRequest, StatusRequest},
    local::v1::{IssueNoticeRequest, ListNoticesRequest, MarkNoticeRequest, ShowNoticeRequest},
    types::v1::{Level, Notice, ReceiptStage, Scope},
};
use lianxi_tests::{
    acts::acts,
    binary::{Answer, run},
    federation::{Federation, count},
    wait::until,
};
use prost::Message as _;
use serde_json::Value;
use tempfile::TempDir;

fn code(code: &str) -> UnitCode {
    code.parse().unwrap()
}

fn hosted(federation: &Federation, unit: &str) -> Option<Arc<Hosted>> {
    federation.host(unit).units().get(&code(unit))
}

/// City, district, and a street with two communities below it, each but the communities on a host of
/// its own; records of a community, and a task that waits for the street.
async fn city() -> Federation {
    let mut federation = Federation::city("C").await;
    federation.add_host("C-1", "C", Level::District).await;
    federation.add_host("C-1-1", "C-1", Level::Street).await;
    for community in ["C-1-1-1", "C-1-1-2"] {
        federation.add_unit(community, "C-1-1", Level::Community).await;
    }
    for unit in ["C-1", "C-1-1", "C-1-1-1"] {
        federation.wait_for_link(unit, true).await;
        federation.wait_for_catalogue(unit).await;
    }
    federation.wait_for_roster("C", 5).await;
    federation
}

/// `lianxi` at the directory of a host.
async fn at(federation: &Federation, host: &str, arguments: &[&str]) -> Answer {
    let dir = federation.directory(host);
    run(&dir, [arguments, &["--dir", dir.to_str().unwrap()]].concat()).await
}

async fn json(federation: &Federation, host: &str, arguments: &[&str]) -> Value {
    let answer = at(federation, host, &[arguments, &["--json"]].concat()).await;
    assert_eq!(answer.code, 0, "{}: {}", answer.shown, answer.stderr);
    serde_json::from_str(&answer.stdout).unwrap()
}

/// Why a command failed, in one line.
async fn refused(federation: &Federation, host: &str, arguments: &[&str]) -> String {
    let answer = at(federation, host, arguments).await;
    assert_ne!(answer.code, 0, "{} was to be refused", answer.shown);
    answer.stderr
}

const TWO: [&str; 4] = ["--approved-by", "li", "--approved-by", "wang"];

/// Waits until every child of `unit` knows where it is going to be, and exports it.
async fn export(federation: &Federation, unit: &str, request: &str, out: &str) -> Value {
    json(federation, unit, &["unit", "move-host", unit, "--to", request]).await;
    let asked = ["unit", "move-host", unit, "--to", request, "--dry-run"];
    until("the children to know the new address", async || {
        let shown = json(federation, unit, &asked).await;
        let children = shown["children"].as_array().unwrap();
        children.iter().all(|child| child["knows"] == true).then_some(())
    })
    .await;
    let export = ["unit", "export", unit, "--to", request, "--out", out];
    json(federation, unit, &[&export[..], &TWO].concat()).await
}

async fn import(federation: &Federation, host: &str, file: &Path) -> Value {
    let import = ["unit", "import", file.to_str().unwrap()];
    json(federation, host, &[&import[..], &TWO].concat()).await
}

/// A task of the city for the district.
async fn issue(federation: &Federation) -> Vec<u8> {
    let notice = Notice {
        number: "〔2026〕17号".into(),
        title: "clear fire exit".into(),
        text: "text".into(),
        level: Level::District.into(),
        duty_item: "street-light-inspection".into(),
        due_unix_ms: 4_000_000_000_000,
        ..Notice::default()
    };
    let request = IssueNoticeRequest {
        unit: "C".into(),
        destination: "C-1".into(),
        notice: Some(notice),
        exercise: false,
    };
    federation.client("C").notices().issue(request).await.unwrap().into_inner().notice_id
}

fn file(federation: &Federation, host: &str, name: &str) -> PathBuf {
    federation.directory(host).join(name)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_district_moves_with_records_open_items_and_journal_and_everybody_finds_it() {
    let mut federation = city().await;
    federation.import("C-1", "1,C-1,2011-07-01 08:00:00,,light,1 Main St\n").await;
    federation.publish("C-1-1", "2011-07").await;
    federation.publish("C-1", "2011-07").await;
    let task = issue(&federation).await;
    until("the task at the district", async || {
        let request = ListNoticesRequest { unit: "C-1".into() };
        let listed = federation.client("C-1").notices().list(request).await.unwrap().into_inner();
        (listed.notices.len() == 1).then_some(())
    })
    .await;
    let request = federation.await_unit("new", "C-1").await;
    let plan =
        json(&federation, "C-1", &["unit", "move-host", "C-1", "--to", &request, "--dry-run"])
            .await;
    assert_eq!(
        (&plan["records"], &plan["notices"], &plan["clocks"]),
        (&1.into(), &1.into(), &1.into())
    );
    assert_eq!(plan["children"][0]["knows"], false, "a dry run tells nobody");
    let blind = ["unit", "export", "C-1", "--to", &request, "--out", "x"];
    let error = refused(&federation, "C-1", &[&blind[..], &TWO].concat()).await;
    assert!(error.contains("C-1-1 would not find C-1"), "{error}");
    let one = ["unit", "export", "C-1", "--to", &request, "--out", "x", "--approved-by", "li"];
    let error = refused(&federation, "C-1", &one).await;
    assert!(error.contains("two people"), "{error}");

    let exported = export(&federation, "C-1", &request, "unit").await;
    assert!(hosted(&federation, "C-1").is_none());
    let before = (exported["rows"].clone(), exported["sha256"].clone());
    let path = file(&federation, "C-1", "unit");
    // A stop changes nothing: it never runs there again.
    federation.stop("C-1").await;
    federation.start("C-1").await;
    assert!(hosted(&federation, "C-1").is_none());
    let checked =
        json(&federation, "new", &["unit", "import", path.to_str().unwrap(), "--dry-run"]).await;
    assert_eq!((checked["rows"].clone(), checked["sha256"].clone()), before);
    let import = ["unit", "import", path.to_str().unwrap(), "--confirmation", "here"];
    let imported = json(&federation, "new", &[&import[..], &TWO].concat()).await;
    assert_eq!(imported["epoch"], 2);
    let word = file(&federation, "new", "here");
    let confirm = ["unit", "confirm", "C-1", "--confirmation", word.to_str().unwrap()];
    let keys = federation.directory("C-1").join("keys/C-1");
    assert!(keys.exists());
    json(&federation, "C-1", &confirm).await;
    assert!(!keys.exists(), "its keys stay at the old host");
    let again = ["unit", "export", "C-1", "--to", &request, "--out", "y"];
    let error = refused(&federation, "C-1", &[&again[..], &TWO].concat()).await;
    assert!(error.contains("as was confirmed"), "{error}");
    federation.find_at("C-1", "new");
    federation.wait_for_link("C-1", true).await;
    federation.wait_for_link("C-1-1", true).await;

    // Nothing is lost in the eyes of its neighbours, and nothing is an alarm.
    for peer in ["C", "C-1-1"] {
        let epoch = until(&format!("the epoch at {peer}"), async || {
            let request = EpochsRequest { unit: peer.into() };
            let listed = federation.client(peer).node().epochs(request).await.ok()?.into_inner();
            listed.epochs.into_iter().find(|epoch| epoch.unit == "C-1")
        })
        .await;
        // Of leaves it misses those that it had seen and not yet cosigned, if there were any.
        assert_eq!((epoch.reason.as_str(), epoch.lost_statements), ("move", 0));
        let acts = acts(&federation, peer).await;
        assert!(acts.iter().all(|act| act.name != "epoch.stop"), "{peer} found a rollback");
    }
    let acts = acts(&federation, "C-1").await;
    let names: Vec<&str> = acts.iter().map(|act| act.name.as_str()).collect();
    let place = |name: &str| names.iter().position(|one| *one == name);
    assert!(place("unit.export") < place("epoch.open"), "{names:?}");
    // The task goes on where it stood, and new records count.
    let done = MarkNoticeRequest {
        unit: "C-1".into(),
        notice_id: task.clone(),
        stage: ReceiptStage::Done.into(),
        ..MarkNoticeRequest::default()
    };
    federation.client("C-1").notices().mark(done).await.unwrap();
    until("the receipt at the city", async || {
        let request = ShowNoticeRequest { unit: "C".into(), notice_id: task.clone() };
        let shown = federation.client("C").notices().show(request).await.unwrap().into_inner();
        shown.recipients.iter().any(|one| one.stage() == ReceiptStage::Done).then_some(())
    })
    .await;
    federation.import("C-1", "2,C-1,2011-07-02 08:00:00,,light,2 Main St\n").await;
    until("both records in the city's figures", async || {
        let pulled = federation.pull("C", "2011-07").await;
        (count(&pulled["C"], "received", Scope::Subtree) == 2).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_street_leaves_its_communities_behind_on_the_old_host_and_they_find_it() {
    let mut federation = city().await;
    let request = federation.await_unit("new", "C-1-1").await;
    export(&federation, "C-1-1", &request, "unit").await;
    let path = file(&federation, "C-1-1", "unit");
    import(&federation, "new", &path).await;
    federation.find_at("C-1-1", "new");
    federation.wait_for_link("C-1-1", true).await;
    for community in ["C-1-1-1", "C-1-1-2"] {
        federation.wait_for_link(community, true).await;
    }
    // One of them follows; there both are on one host again.
    let answer = json(&federation, "C-1-1", &["unit", "receive", "C-1-1-1"]).await;
    let request = answer["request"].as_str().unwrap().to_owned();
    export(&federation, "C-1-1-1", &request, "community").await;
    import(&federation, "C-1-1", &file(&federation, "C-1-1-1", "community")).await;
    let status = federation.client("C-1-1").node().status(StatusRequest {}).await.unwrap();
    assert_eq!(status.into_inner().units.len(), 2);
    until("the community at its street", async || {
        let status = federation.client("C-1-1").node().status(StatusRequest {}).await.ok()?;
        let units = status.into_inner().units;
        let community = units.into_iter().find(|unit| unit.unit == "C-1-1-1")?;
        (community.parent_link() == lianxi_proto::admin::v1::LinkState::Up).then_some(())
    })
    .await;
}

/// A file for C-1, and the new host that it is for.
async fn exported() -> (Federation, String, PathBuf) {
    let mut federation = city().await;
    // Enough for some chunks.
    let row = |number| format!("{number},C-1,2011-07-01 08:00:00,,light,{number} Main St\n");
    let rows: String = (0..700).map(row).collect();
    federation.import("C-1", &rows).await;
    let request = federation.await_unit("new", "C-1").await;
    export(&federation, "C-1", &request, "unit").await;
    let path = file(&federation, "C-1", "unit");
    (federation, request, path)
}

async fn import_is_refused(federation: &Federation, host: &str, path: &Path) -> String {
    let import = ["unit", "import", path.to_str().unwrap()];
    let error = refused(federation, host, &[&import[..], &TWO].concat()).await;
    assert!(federation.host(host).units().get(&code("C-1")).is_none(), "{error}");
    error
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tampered_or_cut_file_is_refused_with_the_place_and_leaves_nothing() {
    let (federation, _, path) = exported().await;
    let whole = fs::read(&path).unwrap();
    let place = TempDir::new().unwrap();
    let bad = place.path().join("bad");
    let chunk = 64 * 1024 + 16;
    assert!(whole.len() > 2 * chunk, "the file has {} bytes", whole.len());
    for (at, said) in [
        (3, "no sealed file"),
        (60, "refused"),
        (whole.len() / 2, "in chunk "),
        (whole.len() - 1, "in chunk "),
    ] {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        fs::write(&bad, &changed).unwrap();
        let error = import_is_refused(&federation, "new", &bad).await;
        assert!(error.contains(said), "byte {at}: {error}");
    }
    for length in [0, 40, chunk, whole.len() - chunk, whole.len() - 1] {
        fs::write(&bad, &whole[..length]).unwrap();
        let error = import_is_refused(&federation, "new", &bad).await;
        assert!(error.contains("refused") || error.contains("file"), "{length} bytes: {error}");
    }
    fs::write(&bad, [&whole[..], b"more"].concat()).unwrap();
    assert!(import_is_refused(&federation, "new", &bad).await.contains("in chunk "));
    let here = federation.directory("new");
    assert!(!here.join("keys/C-1").exists(), "keys were left behind");
    assert_eq!(fs::read_dir(here.join("transfers")).unwrap().count(), 0);
    // The right one is still good.
    import(&federation, "new", &path).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_good_for_one_host_one_unit_and_one_time() {
    let (mut federation, request, path) = exported().await;
    let third = federation.await_unit("third", "C-1").await;
    let error = import_is_refused(&federation, "third", &path).await;
    assert!(error.contains("sealed for others"), "{error}");
    let other = federation.await_unit("fourth", "C-1-1").await;
    let to = ["unit", "export", "C-1", "--to", &other, "--out", "x"];
    let error = refused(&federation, "C-1", &[&to[..], &TWO].concat()).await;
    assert!(error.contains("this is for C-1-1"), "{error}");
    let cut = ["unit", "export", "C-1", "--to", &third[..third.len() - 4], "--out", "x"];
    let error = refused(&federation, "C-1", &[&cut[..], &TWO].concat()).await;
    assert!(error.contains("cut or changed") || error.contains("is not what"), "{error}");
    // The host that gave it away does not take it back from its own file.
    let back = json(&federation, "C-1-1", &["unit", "receive", "C-1"]).await;
    assert_ne!(back["request"].as_str().unwrap(), request);
    import(&federation, "new", &path).await;
    let error = refused(&federation, "new", &["unit", "import", path.to_str().unwrap()]).await;
    assert!(error.contains("sealed for others"), "its key is gone: {error}");
    let error = refused(&federation, "new", &["unit", "receive", "C-1"]).await;
    assert!(error.contains("on this host already"), "{error}");
    let forged = file(&federation, "C-1", "forged");
    fs::write(&forged, b"I am there").unwrap();
    let confirm = ["unit", "confirm", "C-1", "--confirmation", forged.to_str().unwrap()];
    let error = refused(&federation, "C-1", &confirm).await;
    assert!(error.contains("does not confirm"), "{error}");
    // A true statement, of another unit and for another reason.
    let order = OpenEpochRequest {
        units: vec!["C-1-1".into()],
        text: "the disk failed".into(),
        approved_by: vec!["li".into(), "wang".into()],
        dry_run: false,
    };
    federation.client("C-1-1").node().open_epoch(order).await.unwrap();
    let child = hosted(&federation, "C-1-1").unwrap();
    let rows = child.unit.store.scan(&child.unit.code, Table::Statements, b"", None, usize::MAX);
    let statements = rows.await.unwrap().into_iter();
    let opening = statements.map(|(_, row)| decode_envelope(&row).unwrap()).find(|envelope| {
        let header = header::decode(&envelope.payload).unwrap().header;
        header.kind == kinds::EPOCH && header.source == child.unit.code
    });
    fs::write(&forged, opening.unwrap().encode_to_vec()).unwrap();
    let error = refused(&federation, "C-1", &confirm).await;
    assert!(error.contains("does not confirm"), "{error}");
    assert!(federation.directory("C-1").join("keys/C-1").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_copies_of_a_host_the_neighbours_know_one() {
    let (mut federation, _, path) = exported().await;
    // Somebody copied the whole machine that awaits the unit.
    federation.stop("new").await;
    let twin = federation.await_unit("twin", "C-1").await;
    assert!(!twin.is_empty());
    federation.stop("twin").await;
    let key = |host: &str| federation.directory(host).join("keys/transfer/C-1/transfer.keys");
    fs::copy(key("new"), key("twin")).unwrap();
    federation.start("new").await;
    federation.start("twin").await;
    import(&federation, "new", &path).await;
    until("the district's link", async || {
        let hosted = federation.host("new").units().get(&code("C-1"))?;
        hosted.link(&code("C")).up.then_some(())
    })
    .await;
    import(&federation, "twin", &path).await;
    let stopped = until("the twin to stand still", async || {
        federation.host("twin").units().get(&code("C-1"))?.epochs.stopped()
    })
    .await;
    assert_eq!(stopped.peer, code("C"));
    let first = federation.host("new").units().get(&code("C-1")).unwrap();
    assert!(!first.epochs.is_stopped(), "the one that came first goes on");
}

/// Real processes, killed with SIGKILL at random moments while the unit goes to and fro.
mod killed {
    use std::{fs, path::Path, time::Duration};

    use lianxi_tests::{
        numbers::{Numbers, setting},
        ports::free_address,
        processes::{Node, ask, command, tell},
        wait::until,
    };
    use tokio::time::sleep;

    const UNIT: &str = "C-1";
    const TWO: [&str; 4] = ["--approved-by", "li", "--approved-by", "wang"];

    async fn serves(dir: &Path) -> bool {
        let status = tell(dir, &["node", "status"]).await;
        status["units"].as_array().unwrap().iter().any(|unit| unit["unit"] == UNIT)
    }

    /// Gives a command at a node that is killed at some moment of it, and starts the node again.
    async fn cut_off(node: Node, arguments: &[&str], numbers: &mut Numbers) -> Node {
        let dir = node.dir.clone();
        let mut given = command(arguments);
        given.arg("--dir").arg(&dir);
        given.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let mut running = given.spawn().unwrap();
        sleep(numbers.moment(Duration::from_millis(400))).await;
        node.kill().await;
        running.wait().await.unwrap();
        Node::start(&dir).await
    }

    /// One way, with both hosts killed in the middle of everything.
    async fn go(mut from: Node, mut to: Node, numbers: &mut Numbers) -> (Node, Node) {
        let asked = tell(&to.dir, &["unit", "receive", UNIT]).await;
        let request = asked["request"].as_str().unwrap().to_owned();
        let file = from.dir.with_extension("unit");
        let file = file.to_str().unwrap();
        let export = ["unit", "export", UNIT, "--to", &request, "--force", "--out", file];
        let export = [&export[..], &TWO].concat();
        for _ in 0..3 {
            from = cut_off(from, &export, numbers).await;
            assert!(!serves(&to.dir).await, "it began before its file came");
        }
        // Wherever it was cut off: the same command ends it, and the file is good.
        tell(&from.dir, &export).await;
        assert!(!serves(&from.dir).await);
        let import = [&["unit", "import", file][..], &TWO].concat();
        for _ in 0..3 {
            to = cut_off(to, &import, numbers).await;
            assert!(!serves(&from.dir).await, "two hosts run the unit");
        }
        if !serves(&to.dir).await {
            tell(&to.dir, &import).await;
        }
        let word = from.dir.with_extension("word");
        let again = ["unit", "import", "--again", UNIT, "--confirmation", word.to_str().unwrap()];
        tell(&to.dir, &again).await;
        from = cut_off(
            from,
            &["unit", "confirm", UNIT, "--confirmation", word.to_str().unwrap()],
            numbers,
        )
        .await;
        if from.dir.join("keys").join(UNIT).exists() {
            tell(&from.dir, &["unit", "confirm", UNIT, "--confirmation", word.to_str().unwrap()])
                .await;
        }
        fs::remove_file(&word).unwrap();
        assert!(ask(&from.dir, &export).await.unwrap_err().contains("as was confirmed"));
        (from, to)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn exactly_one_host_runs_the_unit_wherever_either_was_killed() {
        let rounds = setting("LIANXI_MOVE_ROUNDS", 2);
        let seed = setting("LIANXI_MOVE_SEED", 20_261_122);
        let mut numbers = Numbers::new(seed);
        let place = tempfile::tempdir().unwrap();
        let (root, one, two) =
            (place.path().join("C"), place.path().join("one"), place.path().join("two"));
        let listen = free_address().to_string();
        let mut init = vec!["node", "init", "--code", "C", "--level", "city", "--title", "City"];
        init.extend(["--domain", "test.example", "--listen", &listen]);
        tell(&root, &init).await;
        let _root = Node::start(&root).await;
        let invite = ["node", "invite", UNIT, "--level", "district", "--title", "One"];
        let token = tell(&root, &invite).await["token"].as_str().unwrap().to_owned();
        tell(&one, &["node", "join", &token]).await;
        tell(&two, &["unit", "receive", UNIT]).await;
        let (mut from, mut to) = (Node::start(&one).await, Node::start(&two).await);
        for round in 0..rounds {
            (to, from) = go(from, to, &mut numbers).await;
            until("the link to the city", async || {
                let status = tell(&from.dir, &["node", "status"]).await;
                let units = status["units"].as_array().unwrap();
                let unit = units.iter().find(|unit| unit["unit"] == UNIT)?;
                (unit["parent_link"] == "up" || unit["link"] == "up").then_some(())
            })
            .await;
            let epochs = tell(&root, &["node", "epochs"]).await;
            let newest = epochs["epochs"].as_array().unwrap().last().unwrap().clone();
            assert_eq!(newest["epoch"], round + 2, "seed {seed}: {epochs}");
            assert_eq!(
                (&newest["reason"], &newest["lost_statements"]),
                (&"move".into(), &0.into())
            );
        }
    }
}
