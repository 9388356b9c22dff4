//! The root key itself is replaced: in peace on its host, from shares after a theft, and what was
//! signed under either key is verified with the other.

use std::{fs, path::Path};

use lianxi_node::{
    domain::delegation::Delegation,
    identity::{issue, keys::RootKey},
};
use lianxi_proto::{
    admin::v1::{KeyRotation, RotateKeyRequest, StatusRequest},
    local::v1::ShowSummaryRequest,
    types::v1::Level,
};
use lianxi_tests::{
    acts::acts,
    binary::{Answer, Running, run},
    federation::Federation,
    python::Python,
    wait::until,
};
use tonic::Status;

const ROWS: &str = "\
1,C-1-1,2011-07-01 08:00:00,2011-07-01 09:00:00,light,1 Main St
";

async fn rotate(federation: &Federation, unit: &str, replaced: &[&str]) -> Result<(), Status> {
    let replaced = replaced.iter().map(ToString::to_string).collect();
    let request = RotateKeyRequest { unit: unit.to_owned(), replaced, dry_run: false };
    federation.client(unit).node().rotate_key(request).await.map(drop)
}

async fn rotation(federation: &Federation, unit: &str) -> Option<KeyRotation> {
    let status = federation.client(unit).node().status(StatusRequest {}).await.unwrap();
    let units = status.into_inner().units;
    units.into_iter().find(|status| status.unit == unit).unwrap().key_rotation
}

/// Fingerprint of the root key that `unit` believes in.
fn root_key(federation: &Federation, unit: &str) -> String {
    let hosted = federation.host(unit).units().get(&unit.parse().unwrap()).unwrap();
    hosted.unit.trust().root_key().key_id().to_owned()
}

async fn wait_for_root(federation: &Federation, unit: &str, former: &str) -> String {
    until(&format!("the next root key at {unit}"), async || {
        Some(root_key(federation, unit)).filter(|key| key != former)
    })
    .await
}

async fn wait_for_report(federation: &Federation, included: u32) {
    until("the report of C", async || {
        let request = ShowSummaryRequest {
            unit: "C".to_owned(),
            of: String::new(),
            period: "2011-07".to_owned(),
        };
        let shown = federation.client("C").summaries().show(request).await.ok()?.into_inner();
        (shown.summary?.coverage?.included == included).then_some(())
    })
    .await;
}

async fn lianxi(federation: &Federation, place: &Path, arguments: &[&str]) {
    let dir = federation.directory("C");
    let mut all = arguments.to_vec();
    all.extend(["--unit", "C", "--dir", dir.to_str().unwrap()]);
    run(place, all).await.succeeds();
}

/// Both verifiers accept the pack; the standings of the root keys that it rests on.
async fn verifies(place: &Path, arguments: &[&str]) -> Vec<String> {
    let mut all = vec!["verify"];
    all.extend(arguments);
    all.push("--json");
    let shown = run(place, all).await.json();
    if let Some(python) =
        Python::find("the second verifier", Path::new(env!("CARGO_TARGET_TMPDIR")))
    {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/verify_pack.py");
        let answer = python.run(&script).args(arguments).current_dir(place).output().unwrap();
        assert!(answer.status.success(), "{arguments:?}: {answer:?}");
    }
    let roots = shown["roots"].as_array().unwrap().iter();
    roots.map(|root| root["standing"].as_str().unwrap().to_owned()).collect()
}

async fn city() -> Federation {
    let mut federation = Federation::city("C").await;
    federation.add_host("C-1", "C", Level::District).await;
    federation.add_host("C-1-1", "C-1", Level::Street).await;
    for unit in ["C-1", "C-1-1"] {
        federation.wait_for_catalogue(unit).await;
    }
    federation.wait_for_roster("C", 3).await;
    federation.import("C-1-1", ROWS).await;
    for unit in ["C-1-1", "C-1", "C"] {
        federation.publish(unit, "2011-07").await;
    }
    wait_for_report(&federation, 3).await;
    federation
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_key_names_the_next_one_which_signs_once_every_child_holds_that() {
    let mut federation = city().await;
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    let export = |name: &'static str| ["pack", "export", "--period", "2011-07", "--out", name];
    lianxi(&federation, place, &["pack", "root", "--out", "former.pub"]).await;
    lianxi(&federation, place, &export("before.lianxi")).await;
    let former = root_key(&federation, "C");

    federation.stop("C-1").await;
    rotate(&federation, "C", &["root"]).await.unwrap();
    let waits = rotation(&federation, "C").await.unwrap();
    assert_eq!((waits.replaced, waits.stage.as_str()), (vec!["root".to_owned()], "granted"));
    assert_eq!(waits.missing, ["C-1"]);
    // Not before, also after a stop; and not twice.
    let again = rotate(&federation, "C", &["root"]).await.unwrap_err();
    assert!(again.message().contains("are being changed"), "{again}");
    let other = rotate(&federation, "C", &["statement"]).await.unwrap_err();
    assert!(other.message().contains("are being changed"), "{other}");
    federation.stop("C").await;
    federation.start("C").await;
    assert_eq!(rotation(&federation, "C").await.unwrap().missing, ["C-1"]);
    assert_eq!(root_key(&federation, "C"), former);
    // A token of these days holds the former root key, and is good later.
    let token = federation.invite("C-2", "C", Level::District).await.unwrap();

    federation.start("C-1").await;
    let next = wait_for_root(&federation, "C", &former).await;
    for unit in ["C-1", "C-1-1"] {
        assert_eq!(wait_for_root(&federation, unit, &former).await, next);
    }
    until("the end of the change", async || {
        rotation(&federation, "C").await.is_none().then_some(())
    })
    .await;
    let place_of_key = federation.directory("C").join("keys/C");
    until("the next root key in the place of the former", async || {
        let RootKey(kept) = RootKey::load(&place_of_key).unwrap();
        (kept.key_id() == next && !place_of_key.join("next-root/root.keys").exists()).then_some(())
    })
    .await;
    let used = acts(&federation, "C").await;
    assert!(used.iter().any(|act| act.name == "node.rotate-key.use" && act.subject == "C root"));

    federation.join(&token, "C-2").await;
    federation.add_host("C-3", "C", Level::District).await;
    for unit in ["C-2", "C-3"] {
        assert_eq!(root_key(&federation, unit), next);
        federation.wait_for_link(unit, true).await;
    }
    for unit in ["C", "C-1"] {
        federation.stop(unit).await;
        federation.start(unit).await;
        assert_eq!(root_key(&federation, unit), next);
    }
    federation.wait_for_link("C-1", true).await;
    lianxi(&federation, place, &["pack", "root", "--out", "next.pub", "--grants", "roots.txt"])
        .await;
    lianxi(&federation, place, &export("after.lianxi")).await;
    assert_eq!(verifies(place, &["after.lianxi", "--root", "next.pub"]).await, ["given", "former"]);
    assert_eq!(verifies(place, &["after.lianxi", "--root", "former.pub"]).await, ["given", "next"]);
    assert_eq!(verifies(place, &["before.lianxi", "--root", "former.pub"]).await, ["given"]);
    let beside = ["before.lianxi", "--root", "next.pub", "--roots", "roots.txt"];
    assert_eq!(verifies(place, &beside).await, ["given", "former"]);
    run(place, ["verify", "before.lianxi", "--root", "next.pub"]).await.fails(6, &["unknown-key"]);
    let changed = fs::read_to_string(place.join("roots.txt")).unwrap().replacen('A', "B", 1);
    fs::write(place.join("changed.txt"), changed).unwrap();
    run(place, ["verify", "before.lianxi", "--root", "next.pub", "--roots", "changed.txt"])
        .await
        .fails(2, &["damaged"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_former_root_key_signs_later_is_believed_by_nobody() {
    let federation = city().await;
    let former = root_key(&federation, "C");
    let place = federation.directory("C").join("keys/C");
    let RootKey(stolen) = RootKey::load(&place).unwrap();
    rotate(&federation, "C", &["root"]).await.unwrap();
    wait_for_root(&federation, "C-1", &former).await;
    let own = {
        let hosted = federation.host("C").units().get(&"C".parse().unwrap()).unwrap();
        let trust = hosted.unit.trust();
        trust.delegation(&"C".parse().unwrap(), None).unwrap().delegation.clone()
    };
    let now = lianxi_node::clock::Clock::now_unix_ms(&federation.clock);
    let forged = Delegation { serial: own.serial + 1, ..own };
    let forged = Delegation { change: Default::default(), ..forged };
    for time in [now, now - 1_000_000] {
        let forged = issue::sign(&forged, &stolen, time);
        let hosted = federation.host("C-1").units().get(&"C-1".parse().unwrap()).unwrap();
        hosted.unit.learn(&[forged]).await.unwrap_err();
    }
    let refused = acts(&federation, "C-1").await.into_iter();
    assert_eq!(refused.filter(|act| act.refused == "ended-key").count(), 2);
    // Only a root has a root key to replace.
    let below = rotate(&federation, "C-1", &["root"]).await.unwrap_err();
    assert!(below.message().contains("has a parent"), "{below}");
    let both = rotate(&federation, "C", &["root", "ca"]).await.unwrap_err();
    assert!(both.message().contains("by itself"), "{both}");
}

async fn command(place: &Path, line: &str) -> Answer {
    run(place, line.split_whitespace()).await
}

async fn done(place: &Path, line: &str) -> String {
    command(place, line).await.succeeds()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_root_key_is_replaced_from_its_shares() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path();
    done(place, "node init --dir city --code C --level city --title C --domain c.example --listen 127.0.0.1:0").await;
    done(place, "root split --dir city --shares 3 --threshold 2 --out paper").await;
    let shares = "--share paper/share-1.txt --share paper/share-2.txt";
    done(place, &format!("root remove --dir city {shares}")).await;
    let before = command(place, "root show --dir city --json").await.json();
    // A renewal that was asked for before, and is signed too late.
    done(place, "root request --dir city --out late.txt").await;
    done(place, "root new --domain c.example --shares 3 --threshold 2 --out next").await;
    let request =
        "root request --dir city --next next/root.pub --compromised-since 3d --out last.txt";
    done(place, request).await;
    // Fewer shares than are needed, and those of the next key, sign nothing that holds.
    command(place, "root sign last.txt --share paper/share-1.txt --out x.txt")
        .await
        .fails(5, &["2 are needed"]);
    let next_shares = "--share next/share-1.txt --share next/share-3.txt";
    command(place, &format!("root sign last.txt {next_shares} --out wrong.txt"))
        .await
        .fails(5, &["does not follow"]);
    done(place, &format!("root sign last.txt {shares} --out last-signed.txt")).await;
    // The next one signs nothing before the last one of the former is there.
    done(place, "root install --dir city last-signed.txt").await;
    let named = command(place, "root show --dir city --json").await.json();
    assert_eq!(named["key_id"], before["key_id"]);
    command(place, "root request --dir city --next next/root.pub --out again.txt")
        .await
        .fails(5, &["named its successor"]);
    done(place, "root request --dir city --out first.txt").await;
    done(place, &format!("root sign first.txt {next_shares} --out first-signed.txt")).await;
    done(place, "root install --dir city first-signed.txt").await;
    let after = command(place, "root show --dir city --json").await.json();
    assert_ne!(after["key_id"], before["key_id"]);
    // The former one is over: what it signs is not taken in any more.
    done(place, &format!("root sign late.txt {shares} --out late-signed.txt")).await;
    command(place, "root install --dir city late-signed.txt")
        .await
        .fails(5, &["has named its successor"]);
    let running = Running::start(place, "city").await;
    running.kill().await;
}
