//! The command `lianxi` as a person runs it: arguments in; text and an exit code out.

use std::{
    ffi::OsStr,
    fs::File,
    path::Path,
    process::{Output, Stdio},
    time::Duration,
};

use serde_json::Value;
use tokio::process::{Child, Command};

use crate::{processes::program, wait::until};

/// How long a command may take: a hang becomes a failure that can be read.
const LIMIT: Duration = Duration::from_secs(60);

/// `lianxi` in English in the working directory `place`; it ends with the test.
pub fn command<A: AsRef<OsStr>>(place: &Path, arguments: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(program());
    command.args(arguments).current_dir(place).stdin(Stdio::null()).kill_on_drop(true);
    command.env("LC_ALL", "C").env_remove("LIANXI_DIR");
    command
}

/// Runs `lianxi` in the working directory `place` to its end.
///
/// # Panics
///
/// It cannot be started, or does not end.
pub async fn run<A: AsRef<OsStr>>(place: &Path, arguments: impl IntoIterator<Item = A>) -> Answer {
    let mut command = command(place, arguments);
    let shown = format!("{:?}", command.as_std());
    let ended = tokio::time::timeout(LIMIT, command.output()).await;
    let Output { status, stdout, stderr } =
        ended.unwrap_or_else(|_| panic!("{shown} did not end")).unwrap();
    Answer {
        shown,
        code: status.code().unwrap_or(-1),
        stdout: String::from_utf8(stdout).unwrap(),
        stderr: String::from_utf8(stderr).unwrap(),
    }
}

/// What a command said.
#[derive(Debug)]
#[must_use]
pub struct Answer {
    /// The command, for messages.
    pub shown: String,
    /// Its exit code.
    pub code: i32,
    /// Data.
    pub stdout: String,
    /// Everything else.
    pub stderr: String,
}

impl Answer {
    /// Expects success, and gives the data.
    ///
    /// # Panics
    ///
    /// The command failed.
    #[track_caller]
    pub fn succeeds(self) -> String {
        assert!(self.code == 0, "{self:#?}");
        self.stdout
    }

    /// Expects success with `--json`.
    ///
    /// # Panics
    ///
    /// The command failed, or printed no JSON.
    #[track_caller]
    pub fn json(self) -> Value {
        serde_json::from_str(&self.succeeds()).unwrap()
    }

    /// Expects an exit code, and every one of `words` in the message.
    ///
    /// # Panics
    ///
    /// The command ended otherwise, or said something else.
    #[track_caller]
    pub fn fails(&self, code: i32, words: &[&str]) {
        assert!(self.code == code, "exit code {code} expected: {self:#?}");
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} expected in the message: {self:#?}");
        }
        assert!(!self.stderr.contains("panicked"), "{self:#?}");
    }
}

/// A host that runs; killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
}

impl Running {
    /// Runs the host in `place/dir`, with its log in `place/dir.log`, until it answers.
    ///
    /// # Panics
    ///
    /// It does not start.
    pub async fn start(place: &Path, dir: &str) -> Self {
        let log = File::options().create(true).append(true).open(place.join(format!("{dir}.log")));
        let mut command = command(place, ["node", "run", "--dir", dir]);
        command.stdout(Stdio::null()).stderr(log.unwrap());
        let running = Self { child: command.spawn().unwrap() };
        until(&format!("an answer of {dir}"), async || {
            (run(place, ["node", "status", "--dir", dir]).await.code == 0).then_some(())
        })
        .await;
        running
    }

    /// Its process.
    ///
    /// # Panics
    ///
    /// It has ended.
    pub fn id(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// Kills it and waits for its end.
    ///
    /// # Panics
    ///
    /// The system does not let it be killed.
    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}
