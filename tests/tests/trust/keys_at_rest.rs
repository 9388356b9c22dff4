//! Keys at rest, as an administrator meets them: sealed, opened at the start, changed, in clear
//! again; a wrong or missing passphrase keeps the host down and says why.

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

use lianxi_tests::{binary::run, processes::program, wait::until};

const RIGHT: &str = "correct horse battery";
const WRONG: &str = "wrong horse battery";

/// Runs `lianxi` with the words of `arguments` below `place`, in a session without a terminal, and
/// with descriptor 3 open on `passphrase` and 4 on `new`.
fn lianxi(place: &Path, arguments: &str, passphrase: &str, new: &str) -> Output {
    fs::write(place.join("pass"), format!("{passphrase}\n")).unwrap();
    fs::write(place.join("new"), format!("{new}\n")).unwrap();
    let script = format!("exec setsid -w \"$0\" {arguments} 3<pass 4<new");
    Command::new("sh")
        .args(["-c", &script])
        .arg(program())
        .current_dir(place)
        .env("LC_ALL", "C")
        .env_remove("CREDENTIALS_DIRECTORY")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[track_caller]
fn done(place: &Path, arguments: &str) -> String {
    let output = lianxi(place, arguments, RIGHT, "");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn refused(place: &Path, arguments: &str, passphrase: &str, words: &str) {
    let output = lianxi(place, arguments, passphrase, "");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{arguments} was done");
    assert!(said.contains(words), "{arguments}: {said}");
    assert!(!said.contains(passphrase), "a passphrase in a message: {said}");
}

fn city(place: &Path) {
    done(
        place,
        "node init --dir host --code C --level city --title C --domain c.example --listen 127.0.0.1:0",
    );
}

async fn runs(place: &Path, arguments: &str, credentials: Option<&Path>) {
    let script = format!("exec setsid -w \"$0\" {arguments} --until-stdin-closes 3<pass");
    let mut command = tokio::process::Command::new("sh");
    command.args(["-c", &script]).arg(program()).current_dir(place);
    command.env("LC_ALL", "C").stdin(Stdio::piped()).kill_on_drop(true);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    if let Some(directory) = credentials {
        command.env("CREDENTIALS_DIRECTORY", directory);
    }
    let mut running = command.spawn().unwrap();
    until("an answer of the host", async || {
        let answer = run(place, ["node", "status", "--dir", "host"]).await;
        (answer.code == 0).then_some(())
    })
    .await;
    refused(place, "node protect-keys --dir host --passphrase-fd 3", RIGHT, "open");
    drop(running.stdin.take());
    assert!(running.wait().await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_with_sealed_keys_starts_with_the_passphrase_alone() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path();
    city(place);
    let run = "node run --dir host";
    let protect = "node protect-keys --dir host --passphrase-fd 3";
    let dry = done(place, &format!("{protect} --dry-run --json"));
    assert!(dry.contains("root.keys") && dry.contains("unit.keys"), "{dry}");
    assert!(!place.join("host/keys/host.key").exists());
    refused(place, protect, "too short", "at least 12 characters");
    refused(place, "node protect-keys --dir host", "unused passphrase", "no terminal");
    done(place, protect);

    refused(place, run, RIGHT, "no terminal");
    refused(place, &format!("{run} --passphrase-fd 3"), WRONG, "the passphrase is wrong");
    fs::write(place.join("pass"), RIGHT).unwrap();
    runs(place, &format!("{run} --passphrase-fd 3"), None).await;

    refused(
        place,
        "node change-passphrase --dir host --passphrase-fd 4 --new-passphrase-fd 3",
        RIGHT,
        "at least 12 characters",
    );
    let change = "node change-passphrase --dir host --passphrase-fd 3 --new-passphrase-fd 4";
    let output = lianxi(place, change, RIGHT, "some other passphrase");
    assert!(output.status.success(), "{output:?}");
    let unprotect = "node unprotect-keys --dir host --passphrase-fd 3";
    refused(place, unprotect, RIGHT, "the passphrase is wrong");
    let output = lianxi(place, unprotect, "some other passphrase", "");
    assert!(output.status.success(), "{output:?}");
    runs(place, run, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_of_the_service_opens_the_keys() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path();
    city(place);
    let credentials = place.join("credentials");
    fs::create_dir(&credentials).unwrap();
    fs::write(credentials.join("lianxi-key"), [7; 32]).unwrap();
    fs::write(place.join("other-key"), [8; 32]).unwrap();
    done(place, "node protect-keys --dir host --credential credentials/lianxi-key");
    let run = "node run --dir host";
    refused(place, run, RIGHT, "the service has none named");
    refused(place, "node unprotect-keys --dir host --credential other-key", RIGHT, "is wrong");
    refused(
        place,
        "node unprotect-keys --dir host --passphrase-fd 3",
        RIGHT,
        "not with a passphrase",
    );
    runs(place, run, Some(&credentials)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_whose_configuration_asks_for_protection_does_not_start_without() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path();
    city(place);
    let config = place.join("host/node.toml");
    let text = fs::read_to_string(&config).unwrap() + "\n[keys]\nprotect = \"passphrase\"\n";
    fs::write(&config, text).unwrap();
    let run = "node run --dir host --passphrase-fd 3";
    refused(place, run, RIGHT, "[keys] protect asks for passphrase");
    done(place, "node protect-keys --dir host --passphrase-fd 3");
    fs::write(place.join("pass"), RIGHT).unwrap();
    runs(place, run, None).await;
}
