//! Two hosts that share no network, as a user runs them: real processes, files alone between them, and
//! SIGKILL in the middle of an import.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use lianxi_tests::{
    binary::run,
    federation::{CATALOGUE, MAPPING},
    ports::free_address,
    processes::{Node, ask, command, tell},
    wait::until,
};

/// Notices in one file.
const NOTICES: usize = 40;

/// Times that the import is killed.
const KILLS: u64 = 8;

const ROWS: &str = "case,unit,opened,closed,type,address\n\
1,C-1,2011-07-01 08:00:00,2011-07-01 09:00:00,light,1 Main St\n\
2,C-1,2011-07-02 08:00:00,,light,2 Main St\n";

/// From here on the host listens nowhere: an address would travel by file.
fn cut_off(dir: &Path) {
    let path = dir.join("node.toml");
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("listen = ")).collect();
    assert!(lines.len() < text.lines().count());
    fs::write(&path, lines.join("\n")).unwrap();
}

/// City and district, joined and then parted for good.
async fn parted(place: &Path) -> (Node, Node) {
    let (city, district) = (place.join("C"), place.join("C-1"));
    let listen = free_address().to_string();
    let mut init = vec!["node", "init", "--code", "C", "--level", "city", "--title", "City"];
    init.extend(["--domain", "gap.example", "--listen", &listen]);
    tell(&city, &init).await;
    let above = Node::start(&city).await;
    fs::write(place.join("catalogue.json"), CATALOGUE).unwrap();
    fs::write(place.join("mapping.toml"), MAPPING).unwrap();
    fs::write(place.join("rows.csv"), ROWS).unwrap();
    let catalogue = place.join("catalogue.json");
    tell(&city, &["catalogue", "publish", catalogue.to_str().unwrap()]).await;
    let invite = ["node", "invite", "C-1", "--level", "district", "--title", "District"];
    let token = tell(&city, &invite).await["token"].as_str().unwrap().to_owned();
    tell(&district, &["node", "join", &token, "--listen", &free_address().to_string()]).await;
    let below = Node::start(&district).await;
    until("the catalogue at the district", async || {
        let status = ask(&district, &["node", "status"]).await.ok()?;
        (status["units"][0]["catalogue"] == "kit@1").then_some(())
    })
    .await;
    let city = above.kill().await;
    cut_off(&city);
    let above = Node::start(&city).await;
    until("the end of the link", async || {
        let status = ask(&district, &["node", "status"]).await.ok()?;
        (status["units"][0]["parent_link"] == "down").then_some(())
    })
    .await;
    (above, below)
}

/// Carries a file from one host to the other, and says what became of it.
async fn carry(from: &Path, to: &Path, unit: &str, stick: &Path) -> serde_json::Value {
    let file = stick.to_str().unwrap();
    tell(from, &["courier", "export", "--to", unit, "--out", file, "--force"]).await;
    tell(to, &["courier", "import", file]).await["files"][0].clone()
}

async fn notices(dir: &Path) -> usize {
    tell(dir, &["notice", "list"]).await["notices"].as_array().unwrap().len()
}

#[tokio::test]
async fn an_import_that_is_killed_anywhere_goes_on_and_nothing_else_than_files_is_needed() {
    let place = tempfile::tempdir().unwrap();
    let (above, mut below) = parted(place.path()).await;
    let (city, district) = (above.dir.clone(), below.dir.clone());
    for number in 0..NOTICES {
        let (number, text) = (format!("N{number}"), "before the first frost ".repeat(100));
        let mut issue = vec!["notice", "issue", "--number", &number, "--title", "Lights"];
        issue.extend(["--text", &text, "--to", "C-1", "--level", "district"]);
        issue.extend(["--duty-item", "street-light-inspection", "--due", "2090-01-31"]);
        tell(&city, &issue).await;
    }
    let stick: PathBuf = place.path().join("down.courier");
    let file = stick.to_str().unwrap();
    tell(&city, &["courier", "export", "--to", "C-1", "--out", file]).await;
    for round in 0..KILLS {
        let mut import = command(["courier", "import", file, "--dir"]);
        import.arg(&district).stdout(Stdio::null()).stderr(Stdio::null());
        let mut importing = import.spawn().unwrap();
        // The moment is the machine's: whatever was reached, the next round goes on from it.
        tokio::time::sleep(Duration::from_millis(20 + 15 * round)).await;
        let dir = below.kill().await;
        importing.wait().await.unwrap();
        below = Node::start(&dir).await;
    }
    let last = tell(&district, &["courier", "import", file]).await["files"][0].clone();
    assert_eq!(
        (&last["waiting"], last["gaps"].as_array().unwrap().len()),
        (&0.into(), 0),
        "{last}"
    );
    assert_eq!(notices(&district).await, NOTICES);

    let mapping = place.path().join("mapping.toml");
    let rows = place.path().join("rows.csv");
    let import =
        ["record", "import", rows.to_str().unwrap(), "--mapping", mapping.to_str().unwrap()];
    tell(&district, &import).await;
    tell(&district, &["summary", "publish", "--period", "2011-07"]).await;
    let up = place.path().join("up.courier");
    until("the district's report at the city", async || {
        carry(&district, &city, "C", &up).await;
        let shown = ["summary", "show", "--period", "2011-07", "--of", "C-1"];
        let shown = ask(&city, &shown).await.ok()?;
        (shown["subtree"]["received"]["count"] == 2).then_some(())
    })
    .await;
    carry(&city, &district, "C-1", &stick).await;
    carry(&district, &city, "C", &up).await;
    for (dir, peer) in [(&city, "C-1"), (&district, "C")] {
        let state = tell(dir, &["courier", "status"]).await["peers"][0].clone();
        let told = (&state["peer"], &state["linked"], &state["gaps"]);
        assert_eq!(told, (&peer.into(), &false.into(), &serde_json::json!([])), "{state}");
        let status = tell(dir, &["node", "status"]).await;
        assert_eq!(status["units"][0]["quarantined"], 0, "{status}");
    }
    assert_eq!(tell(&city, &["courier", "status"]).await["peers"][0]["waiting"], 0);
    let text = run(place.path(), ["courier", "import", file, "--dir", "C"]).await;
    text.fails(6, &["not-a-reader"]);
    drop((above, below));
}
