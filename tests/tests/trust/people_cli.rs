//! People at the command line: the first three, a second person, another user of the system.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Stdio};

use lianxi_node::{
    clock::{Clock as _, SystemClock},
    identity::factor::Secret,
};
use lianxi_tests::{
    people::{PASSWORD, secret_of},
    processes::{Node, command, tell},
    skip::skip,
};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::{ChildStdin, Command},
};

/// A user that no machine gives a login to.
const NOBODY: u32 = 65_534;

/// What an app shows in some steps from now; a step works once, and one too early or late is good.
fn code(secret: &Secret, steps: i64) -> String {
    secret.code_at(SystemClock.now_unix_ms() + steps * 30_000)
}

async fn write(stdin: &mut ChildStdin, lines: &[&str]) {
    for line in lines {
        stdin.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }
}

/// `lianxi` for the host in `dir`, whose sessions are kept in `home`.
fn lianxi(dir: &Path, home: &Path, arguments: &[&str]) -> Command {
    let mut command = command(arguments);
    command.arg("--dir").arg(dir).env("XDG_RUNTIME_DIR", home);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs a command with answers; its exit code, standard output and standard error.
async fn answer(mut command: Command, answers: &[&str]) -> (i32, String, String) {
    let mut child = command.spawn().unwrap();
    // A command that needs no answer may be gone already.
    let mut stdin = child.stdin.take().unwrap();
    for line in answers {
        let _ = stdin.write_all(format!("{line}\n").as_bytes()).await;
    }
    drop(stdin);
    let output = child.wait_with_output().await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

/// A city whose socket is at `socket`, if it is named, and its three administrators' apps.
async fn city(dir: &Path, home: &Path, admin: &str) -> (Node, Vec<Secret>) {
    let init = [
        "node",
        "init",
        "--code",
        "C",
        "--level",
        "city",
        "--title",
        "City",
        "--domain",
        "test.example",
        "--listen",
        "127.0.0.1:0",
    ];
    tell(dir, &init).await;
    let file = dir.join("node.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{text}\n{admin}")).unwrap();
    let node = Node::start(dir).await;
    let setup = ["account", "setup", "--system", "sys", "--security", "sec", "--audit", "aud"];
    let mut child = lianxi(dir, home, &setup).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    write(&mut stdin, &[PASSWORD; 3]).await;
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut secrets = Vec::new();
    for _ in 0..3 {
        secrets.push(secret_of(&lines.next_line().await.unwrap().unwrap()));
    }
    let codes: Vec<String> = secrets.iter().map(|secret| code(secret, -1)).collect();
    write(&mut stdin, &[&codes[0], &codes[1], &codes[2]]).await;
    drop(stdin);
    let output = child.wait_with_output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    (node, secrets)
}

#[tokio::test]
async fn two_administrators_make_an_account_and_a_session_is_the_users_own() {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path().join("city");
    let [one, other] = ["one", "other"].map(|home| directory.path().join(home));
    let (_node, secrets) = city(&dir, &one, "").await;
    let add = ["account", "add", "zhaomin", "--title", "Z", "--role", "operator@C"];
    let (status, _, told) = answer(lianxi(&dir, &one, &add), &[]).await;
    assert_eq!(status, 6, "{told}");
    assert!(told.contains("lianxi login"), "{told}");

    for (home, name, secret) in [(&one, "sys", &secrets[0]), (&other, "sec", &secrets[1])] {
        let code = code(secret, 0);
        let login = lianxi(&dir, home, &["login", name]);
        let (status, _, told) = answer(login, &[PASSWORD, &code]).await;
        assert_eq!(status, 0, "{told}");
        let session = fs::read_dir(home.join("lianxi")).unwrap().next().unwrap().unwrap();
        assert_eq!(session.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
    let (status, _, told) = answer(lianxi(&dir, &one, &add), &[]).await;
    assert_eq!(status, 14, "{told}");
    let (status, listed, _) =
        answer(lianxi(&dir, &other, &["approval", "list", "--json"]), &[]).await;
    assert_eq!(status, 0);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let approval = &listed["approvals"][0];
    assert_eq!(
        (approval["act"].as_str(), approval["asked_by"].as_str()),
        (Some("account.add"), Some("sys"))
    );
    let id = approval["id"].to_string();
    let (status, _, told) = answer(lianxi(&dir, &one, &["approval", "confirm", &id]), &[]).await;
    assert_eq!(status, 6, "{told}");
    let confirm = ["approval", "confirm", &id, "--json"];
    let (status, made, told) = answer(lianxi(&dir, &other, &confirm), &[]).await;
    assert_eq!(status, 0, "{told}");
    let made: Value = serde_json::from_str(&made).unwrap();
    assert!(made["activation_code"].as_str().unwrap().starts_with("lxa_"));

    let (status, _, _) = answer(lianxi(&dir, &one, &["logout"]), &[]).await;
    assert_eq!(status, 0);
    let (status, me, _) = answer(lianxi(&dir, &one, &["whoami", "--json"]), &[]).await;
    let me: Value = serde_json::from_str(&me).unwrap();
    assert_eq!((status, me["name"].as_str()), (0, Some("")));
}

#[tokio::test]
async fn another_user_of_the_system_is_refused_until_the_host_is_opened_and_then_has_to_log_in() {
    let name =
        "another_user_of_the_system_is_refused_until_the_host_is_opened_and_then_has_to_log_in";
    if fs::metadata("/proc/self").map(|own| std::os::unix::fs::MetadataExt::uid(&own)).ok()
        != Some(0)
    {
        return skip(name, "only root can call as another user", "run the tests as root");
    }
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let (dir, open) = (directory.path().join("city"), directory.path().join("open"));
    let socket = open.join("a.sock");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o755)).unwrap();
    let home = directory.path().join("home");
    fs::create_dir(&home).unwrap();
    std::os::unix::fs::chown(&home, Some(NOBODY), None).unwrap();
    let admin = |open_to: &str| {
        format!("[admin]\nsocket = {:?}\nopen_to = {open_to:?}\n", socket.to_str().unwrap())
    };
    let (node, secrets) = city(&dir, directory.path(), &admin("owner")).await;
    // The program may lie where another user cannot go.
    let program = directory.path().join("lianxi");
    fs::copy(lianxi_tests::processes::program(), &program).unwrap();
    let as_nobody = |arguments: &[&str]| {
        let mut command = Command::new(&program);
        command.args(arguments).arg("--socket").arg(&socket).uid(NOBODY).kill_on_drop(true);
        command.env("XDG_RUNTIME_DIR", &home).current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let (status, _, told) = answer(as_nobody(&["node", "status"]), &[]).await;
    assert_eq!(status, 6, "{told}");
    // Even past the file's mode the node asks for the other end's uid.
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
    let (status, _, told) = answer(as_nobody(&["node", "status"]), &[]).await;
    assert_eq!(status, 6, "{told}");
    assert!(told.contains("user 65534 may not"), "{told}");

    let dir = node.kill().await;
    let text = fs::read_to_string(dir.join("node.toml")).unwrap();
    fs::write(dir.join("node.toml"), text.replace("\"owner\"", "\"everyone\"")).unwrap();
    let _node = Node::start(&dir).await;
    let (status, _, told) = answer(as_nobody(&["node", "status"]), &[]).await;
    assert_eq!(status, 6, "{told}");
    assert!(told.contains("lianxi login"), "{told}");
    let code = code(&secrets[2], 0);
    let (status, _, told) = answer(as_nobody(&["login", "aud"]), &[PASSWORD, &code]).await;
    assert_eq!(status, 0, "{told}");
    let (status, _, told) = answer(as_nobody(&["node", "status"]), &[]).await;
    assert_eq!(status, 0, "{told}");
    // The session of one user is none of another, not even of root.
    let session = fs::read_dir(home.join("lianxi")).unwrap().next().unwrap().unwrap().path();
    let stolen = directory.path().join("stolen");
    fs::write(&stolen, fs::read(session).unwrap()).unwrap();
    fs::set_permissions(&stolen, fs::Permissions::from_mode(0o600)).unwrap();
    let theft = ["account", "list", "--token-file", stolen.to_str().unwrap()];
    let (status, _, told) = answer(lianxi(&dir, directory.path(), &theft), &[]).await;
    assert_eq!(status, 6, "{told}");
    // Each refusal has its own word.
    let (status, shown, told) = answer(as_nobody(&["journal", "show", "--json"]), &[]).await;
    assert_eq!(status, 0, "{told}");
    let shown: Value = serde_json::from_str(&shown).unwrap();
    let lines = shown["lines"].as_array().unwrap().iter();
    let refused: Vec<_> = lines.map(|line| line["refused"].as_str().unwrap()).collect();
    for word in ["uid", "no-account", "session-of-another-user"] {
        assert!(refused.contains(&word), "{word}: {refused:?}");
    }
}
