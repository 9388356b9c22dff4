//! What needs no running node: making a host, and being the node.

use std::{
    io::{self, Read},
    net::SocketAddr,
    thread,
    time::Duration,
};

use anyhow::Context as _;
use lianxi_node::{
    domain::{
        delegation::Suite,
        unit::{Level, UnitCode},
    },
    node::{self, InitOptions, JoinOptions},
    process,
};
use rustix::process::Signal;
use serde_json::json;
use tokio::time::Instant;

use super::super::{Context, opens::Sealed};
use crate::texts::Text;

/// Name of the configuration in a host's directory.
pub(super) const CONFIG: &str = "node.toml";

/// Arguments of `lianxi node init`.
#[derive(Debug, clap::Args)]
pub(crate) struct Init {
    /// Code of the unit, e.g. BOS
    #[arg(long)]
    code: UnitCode,
    /// Level of the unit: city, district, street or community
    #[arg(long)]
    level: Level,
    /// What people call it
    #[arg(long)]
    title: String,
    /// Trust domain of the tree, e.g. boston.example
    #[arg(long)]
    domain: String,
    /// Suite in which the whole tree signs: ed25519, or sm2-sm3 (GM/T 0003)
    #[arg(long, default_value_t = Suite::Ed25519)]
    suite: Suite,
    /// Address for children, e.g. 0.0.0.0:7400
    #[arg(long, value_name = "ADDRESS")]
    listen: SocketAddr,
    /// Address that children dial, if it is not the one of --listen; can be given more than once
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Vec<String>,
    #[command(flatten)]
    sealed: Sealed,
}

impl Init {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let (code, dir, output) = (self.code.to_string(), context.dir(), context.output());
        let sealed = self.sealed.sealing(context)?;
        let options = InitOptions {
            sealed,
            dir: dir.to_owned(),
            code: self.code,
            level: self.level,
            title: self.title,
            trust_domain: self.domain,
            suite: self.suite,
            listen: Some(self.listen),
            advertise: self.advertise,
        };
        node::init(options).await.context("cannot make the host")?;
        if output.is_json() {
            let document = json!({ "unit": code, "dir": dir, "config": dir.join(CONFIG) });
            return Ok(output.document(&document)?);
        }
        let shown = dir.display();
        output.note(output.fill(Text::InitDone, &[&code, &shown, &shown]));
        Ok(())
    }
}

/// Makes the directory a new host for the unit that the token names.
pub(super) async fn join(
    context: &Context<'_>,
    token: &str,
    options: JoinOptions,
    dry_run: bool,
) -> anyhow::Result<()> {
    let (dir, output) = (context.dir(), context.output());
    let began = Instant::now();
    let joined = if dry_run {
        node::check_token(dir, token).await
    } else {
        node::join_offline(dir, token, options).await
    };
    let joined = joined.context("cannot join")?;
    let took = began.elapsed();
    let (unit, parent) = (joined.unit.to_string(), joined.parent.to_string());
    if output.is_json() {
        return Ok(output.document(&json!({
            "unit": unit,
            "parent": parent,
            "dir": dir,
            "config": dir.join(CONFIG),
            "dry_run": dry_run,
            "took_ms": millis(took),
        }))?);
    }
    if dry_run {
        output.note(output.fill(Text::JoinWouldWork, &[&unit, &parent]));
    } else {
        let shown = [&unit as &dyn std::fmt::Display, &parent, &dir.display(), &seconds(took)];
        output.note(output.fill(Text::JoinedOffline, &shown));
    }
    Ok(())
}

/// A time as scripts read it.
pub(super) fn millis(took: Duration) -> u64 {
    u64::try_from(took.as_millis()).unwrap_or(u64::MAX)
}

/// A time as people read it.
pub(super) fn seconds(took: Duration) -> String {
    format!("{:.2} s", took.as_secs_f64())
}

/// Arguments of `lianxi node run`.
#[derive(Debug, clap::Args)]
pub(crate) struct Run {
    /// Stop when standard input closes: a pipe whose other end ends with the program that holds it
    #[arg(long)]
    until_stdin_closes: bool,
    /// File descriptor from which the passphrase of the keys is read
    #[arg(long, value_name = "N")]
    passphrase_fd: Option<u32>,
}

impl Run {
    /// Runs the command.
    pub(crate) fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        if self.until_stdin_closes {
            thread::Builder::new()
                .name("stdin".to_owned())
                .spawn(|| stop_at_the_end_of(io::stdin().lock()))
                .context("cannot wait for the end of standard input")?;
        }
        Ok(process::run(&context.dir().join(CONFIG), self.passphrase_fd)?)
    }
}

/// Asks this process to stop once `input` has ended, as SIGTERM from outside would.
fn stop_at_the_end_of(input: impl Read) {
    wait_for_the_end_of(input);
    // Cannot fail: a process may always signal itself.
    let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::TERM);
}

/// Returns when `input` has ended; what comes through it is ignored.
fn wait_for_the_end_of(mut input: impl Read) {
    // An error is an end too: nobody can be heard through this input any more.
    let _ = io::copy(&mut input, &mut io::sink());
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn the_end_of_input_is_seen_whatever_came_before() {
        let (receiver, mut sender) = io::pipe().unwrap();
        let waiting = thread::spawn(|| wait_for_the_end_of(receiver));
        sender.write_all(&[b'x'; 200]).unwrap();
        assert!(!waiting.is_finished());
        drop(sender);
        waiting.join().unwrap();
    }
}
