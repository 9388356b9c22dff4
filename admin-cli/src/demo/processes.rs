//! Hosts as processes of the operating system.
//!
//! Promises that no process outlives the demo: each holds the end of a pipe and stops when the
//! other end closes, even if the demo is killed.

use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, bail};
use futures::future::join_all;
use lianxi_node::clock::{Clock, SystemClock};
use rustix::process::{Pid, Signal};
use tokio::{
    process::{ChildStdin, Command},
    sync::{mpsc, watch},
    time::{Instant, sleep, timeout},
};

use super::home::Home;
use crate::{client::Client, commands::status};

/// How long a host may take to answer after its start, its predecessor's end included.
const START_LIMIT: Duration = Duration::from_secs(60);

/// How long hosts may take to stop before they are killed.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// Pause between two looks at a host that starts.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Pause before a host that ended at its start is started again.
const START_AGAIN: Duration = Duration::from_millis(500);

/// Lines of a log that an error shows.
const LOG_LINES: usize = 3;

#[derive(Debug)]
struct Running {
    pid: Pid,
    /// Closes when it is dropped, which stops the process.
    _stdin: Option<ChildStdin>,
    ended: watch::Receiver<bool>,
}

/// The processes of a demo.
#[derive(Debug)]
pub(crate) struct Processes {
    program: PathBuf,
    running: Mutex<BTreeMap<String, Running>>,
    ends: mpsc::UnboundedSender<String>,
}

impl Processes {
    /// Will run `program`. The receiver gets the code of each host whose process ends unasked.
    pub(crate) fn new(program: PathBuf) -> (Self, mpsc::UnboundedReceiver<String>) {
        let (ends, receiver) = mpsc::unbounded_channel();
        (Self { program, running: Mutex::default(), ends }, receiver)
    }

    /// Starts the host of `code` and waits until it answers.
    ///
    /// A host that ends at its start is started again for a while: its predecessor may still be
    /// giving up the store and the address.
    ///
    /// # Errors
    ///
    /// It cannot be started or does not answer; the text holds the end of its log.
    pub(crate) async fn start(&self, home: &Home, code: &str) -> anyhow::Result<Client> {
        let limit = Instant::now() + START_LIMIT;
        loop {
            let begun_unix_ms = SystemClock.now_unix_ms();
            let mut running = self.spawn(home, code)?;
            let answer = ready(&home.host(code), begun_unix_ms, limit, &mut running.ended).await;
            if let Some(client) = answer {
                self.announce_end(code, running.ended.clone());
                self.lock().insert(code.to_owned(), running);
                return Ok(client);
            }
            stop(vec![running]).await;
            if Instant::now() >= limit {
                let log = home.log(code);
                bail!("the host of {code} did not start; {} ends: {}", log.display(), tail(&log));
            }
            sleep(START_AGAIN).await;
        }
    }

    fn spawn(&self, home: &Home, code: &str) -> anyhow::Result<Running> {
        let log = home.log(code);
        let out = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        let mut child = self
            .command()
            .args(["node", "run", "--until-stdin-closes", "--dir"])
            .arg(home.host(code))
            .stdin(Stdio::piped())
            .stderr(out.try_clone()?)
            .stdout(out)
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        let pid = pid.context("the process ended at once")?;
        // Taken out, because waiting for the child would close it.
        let stdin = child.stdin.take();
        let (ending, ended) = watch::channel(false);
        tokio::spawn(async move {
            let _ = child.wait().await;
            ending.send_replace(true);
        });
        Ok(Running { pid, _stdin: stdin, ended })
    }

    /// This program, in a group of its own: Ctrl-C reaches the demo alone, which stops the hosts.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        // Fifty small processes on one machine: the allocator's arenas would cost more than they.
        command.env("MALLOC_ARENA_MAX", "2").process_group(0).kill_on_drop(true);
        command
    }

    fn announce_end(&self, code: &str, mut ended: watch::Receiver<bool>) {
        let (ends, code) = (self.ends.clone(), code.to_owned());
        tokio::spawn(async move {
            let _ = ended.wait_for(|ended| *ended).await;
            // Nobody listens any more when the demo itself stops.
            let _ = ends.send(code);
        });
    }

    /// Number of the process of a host, while it runs.
    pub(crate) fn pid(&self, code: &str) -> Option<i32> {
        let running = self.lock();
        let process = running.get(code).filter(|process| !*process.ended.borrow())?;
        Some(process.pid.as_raw_nonzero().get())
    }

    /// Number of processes that run.
    pub(crate) fn count(&self) -> usize {
        self.lock().values().filter(|process| !*process.ended.borrow()).count()
    }

    /// Stops all processes and waits for their end.
    pub(crate) async fn stop_all(&self) {
        let running = std::mem::take(&mut *self.lock());
        stop(running.into_values().collect()).await;
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks all to stop, waits, kills those that do not.
async fn stop(running: Vec<Running>) {
    signal(&running, Signal::TERM);
    if timeout(STOP_LIMIT, all_ended(&running)).await.is_err() {
        signal(&running, Signal::KILL);
        all_ended(&running).await;
    }
}

fn signal(running: &[Running], signal: Signal) {
    for process in running.iter().filter(|process| !*process.ended.borrow()) {
        // Fails if it ended in between.
        let _ = rustix::process::kill_process(process.pid, signal);
    }
}

async fn all_ended(running: &[Running]) {
    join_all(running.iter().map(|process| {
        let mut ended = process.ended.clone();
        async move {
            let _ = ended.wait_for(|ended| *ended).await;
        }
    }))
    .await;
}

/// The client of the host in `dir` once it answers; `None` if its process ended or time is up.
async fn ready(
    dir: &Path,
    begun_unix_ms: i64,
    limit: Instant,
    ended: &mut watch::Receiver<bool>,
) -> Option<Client> {
    let answering = async {
        loop {
            if let Ok(client) = Client::connect(dir).await
                && let Ok(status) = status(&client).await
                // An older process that still answers is on its way out.
                && status.started_unix_ms >= begun_unix_ms
            {
                return client;
            }
            sleep(LOOK_AGAIN).await;
        }
    };
    tokio::select! {
        client = answering => Some(client),
        _ = ended.wait_for(|ended| *ended) => None,
        () = tokio::time::sleep_until(limit) => None,
    }
}

/// The last lines of a log.
fn tail(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("x.log");
        std::fs::write(&log, "one\ntwo\nthree\nfour\n").unwrap();
        assert_eq!(tail(&log), "two | three | four");
        assert_eq!(tail(&dir.path().join("none")), "");
    }

    #[tokio::test]
    async fn processes_are_stopped_and_awaited() {
        let plan =
            super::super::plan::Plan::parse("code,name,level,parent\nC,City,city,\n").unwrap();
        let home = Home::open(None, &plan).unwrap();
        let script = home.path().join("program");
        std::fs::write(&script, "#!/bin/sh\nexec cat\n").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        std::fs::set_permissions(&script, mode).unwrap();
        let (processes, _ends) = Processes::new(script);
        let running = processes.spawn(&home, "C").unwrap();
        let pid = running.pid;
        processes.lock().insert("C".to_owned(), running);
        assert_eq!(processes.count(), 1);
        processes.stop_all().await;
        assert_eq!(processes.count(), 0);
        assert!(rustix::process::test_kill_process(pid).is_err());
    }
}
