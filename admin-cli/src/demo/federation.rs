//! Brings the federation up: hosts as processes, level by level, joined by real tokens.
//!
//! Every step looks first at what is there, so that a demo that was cut off goes on.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    fs,
    num::{NonZeroU16, NonZeroU32},
    path::Path,
    process::Stdio,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, bail};
use futures::{StreamExt, TryStreamExt, stream};
use lianxi_node::{
    config::HostConfig,
    domain::{delegation::Suite, unit::Level},
    node::{self, InitOptions},
};
use lianxi_proto::admin::v1::{InviteRequest, JoinRequest};
use tokio::{
    io::AsyncWriteExt,
    time::{Instant, sleep},
};
use tonic::Code;

use super::{
    home::{Home, write_whole},
    plan::{Plan, Unit},
    processes::Processes,
};
use crate::{client::Client, commands::status, output::Output, texts::Text, words};

/// Trust domain of the example.
const DOMAIN: &str = "boston.example";

/// Hosts that are brought up at a time: enough to keep two processors busy, few enough to leave
/// memory alone.
const HOSTS_AT_ONCE: usize = 4;

/// Cache of each host's store: the 58 share one machine.
const CACHE_MIB: u32 = 4;

/// Threads of each host.
const WORKERS: u16 = 2;

/// How often, and after which pause, a join that was cut off is tried again: its process may
/// still be at work.
const JOIN_AGAIN_TIMES: usize = 10;
const JOIN_AGAIN: Duration = Duration::from_millis(500);

/// How long a token can be used: longer than any demo needs.
const TOKEN_MS: i64 = 60 * 60 * 1_000;

/// A federation that is up or coming up.
#[derive(Debug)]
pub(crate) struct Federation<'a> {
    /// Where to tell how far it is.
    pub(crate) output: &'a Output,
    /// What it consists of.
    pub(crate) plan: &'a Plan,
    /// Where it lives.
    pub(crate) home: &'a Home,
    /// What runs it.
    pub(crate) processes: &'a Processes,
    began: Instant,
    clients: Mutex<BTreeMap<String, Client>>,
}

impl<'a> Federation<'a> {
    /// A federation without a running host.
    pub(crate) fn new(
        output: &'a Output,
        plan: &'a Plan,
        home: &'a Home,
        processes: &'a Processes,
    ) -> Self {
        Self { output, plan, home, processes, began: Instant::now(), clients: Mutex::default() }
    }

    /// Time since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Tells a step with the time since the start.
    pub(crate) fn tell(&self, text: Text, values: &[&dyn Display]) {
        let seconds = self.elapsed().as_secs_f64();
        self.output.note(format!("[{seconds:6.1} s] {}", self.output.fill(text, values)));
    }

    /// The client of the host that serves `code`.
    ///
    /// # Errors
    ///
    /// That host is not up.
    pub(crate) fn client(&self, code: &str) -> anyhow::Result<Client> {
        let clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(code) {
            return Ok(client.clone());
        }
        let unit = self.plan.units().iter().find(|unit| unit.code == code);
        let host = unit.and_then(|unit| clients.get(&unit.parent));
        host.cloned().with_context(|| format!("the host of {code} is not up"))
    }

    /// Brings all hosts up and joins all units.
    ///
    /// # Errors
    ///
    /// The first host that does not start, or join that fails.
    pub(crate) async fn bring_up(&self) -> anyhow::Result<()> {
        self.root().await?;
        for level in [Level::District, Level::Street] {
            let heads = self.plan.hosts_at(level);
            let count = heads.len();
            let up = self.each_host(heads, async |head| self.host(head).await).await?.len();
            let level = words::level(words::wire_level(level)).shown(self.output.lang());
            self.tell(Text::DemoHosts, &[&up, &count, &level]);
        }
        let streets = self.plan.hosts_at(Level::Street);
        let expected: usize = streets.iter().map(|head| self.plan.served_by(head).len() - 1).sum();
        let joined = self.each_host(streets, async |head| self.guests(head).await).await?;
        self.tell(Text::DemoCommunities, &[&joined.iter().sum::<usize>(), &expected]);
        Ok(())
    }

    /// Does `work` for each host, a few at a time, and returns what came of it in any order.
    ///
    /// # Errors
    ///
    /// The first that fails.
    pub(crate) async fn each_host<'h, T>(
        &self,
        heads: Vec<&'h Unit>,
        work: impl AsyncFn(&'h Unit) -> anyhow::Result<T>,
    ) -> anyhow::Result<Vec<T>> {
        let work = &work;
        stream::iter(heads)
            .map(|head| async move { work(head).await.with_context(|| head.code.clone()) })
            .buffer_unordered(HOSTS_AT_ONCE)
            .try_collect()
            .await
    }

    async fn root(&self) -> anyhow::Result<()> {
        let root = self.plan.root();
        let dir = self.home.host(&root.code);
        if !is_host(&dir) {
            let options = InitOptions {
                sealed: None,
                dir: dir.clone(),
                code: root.code.parse()?,
                level: root.level,
                title: root.title.clone(),
                trust_domain: DOMAIN.to_owned(),
                suite: Suite::Ed25519,
                listen: Some(self.home.address(&root.code)?),
                advertise: Vec::new(),
            };
            Box::pin(node::init(options)).await.context("cannot make the root")?;
        }
        self.start(root).await?;
        self.tell(Text::DemoRoot, &[&root.code]);
        Ok(())
    }

    async fn host(&self, head: &Unit) -> anyhow::Result<()> {
        if !is_host(&self.home.host(&head.code)) {
            self.joined(head, async |token| self.join_offline(head, token).await).await?;
        }
        self.start(head).await
    }

    async fn start(&self, head: &Unit) -> anyhow::Result<()> {
        make_small(&self.home.host(&head.code), &head.code)?;
        let client = Box::pin(self.processes.start(self.home, &head.code)).await?;
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.insert(head.code.clone(), client);
        Ok(())
    }

    /// Joins the units that a street's host serves beside the street.
    async fn guests(&self, head: &Unit) -> anyhow::Result<usize> {
        let client = self.client(&head.code)?;
        let there: BTreeSet<String> =
            status(&client).await?.units.into_iter().map(|unit| unit.unit).collect();
        let guests = self.plan.served_by(head).into_iter().skip(1);
        let mut joined = 0;
        for guest in guests {
            if !there.contains(&guest.code) {
                self.joined(guest, async |token| join_running(&client, token).await).await?;
            }
            joined += 1;
        }
        Ok(joined)
    }

    /// Joins a unit with the token of an attempt that was cut off, or else with a new one.
    async fn joined(
        &self,
        unit: &Unit,
        join: impl AsyncFn(String) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        if let Some(token) = self.home.token(&unit.code) {
            for _ in 0..JOIN_AGAIN_TIMES {
                if join(token.clone()).await.is_ok() {
                    self.home.forget_token(&unit.code);
                    return Ok(());
                }
                sleep(JOIN_AGAIN).await;
            }
        }
        let token = self.invite(unit).await?;
        self.home.keep_token(&unit.code, &token)?;
        join(token).await?;
        self.home.forget_token(&unit.code);
        Ok(())
    }

    async fn invite(&self, unit: &Unit) -> anyhow::Result<String> {
        let request = InviteRequest {
            unit: unit.parent.clone(),
            child: unit.code.clone(),
            child_level: words::wire_level(unit.level),
            child_title: unit.title.clone(),
            valid_for_ms: TOKEN_MS,
            dry_run: false,
            root_key: String::new(),
        };
        let answer = self.client(&unit.parent)?.node().invite(request).await;
        Ok(answer.with_context(|| format!("cannot invite {}", unit.code))?.into_inner().token)
    }

    /// Joins as a person would on a new machine: `lianxi node join`, as a process of its own.
    async fn join_offline(&self, head: &Unit, token: String) -> anyhow::Result<()> {
        if is_host(&self.home.host(&head.code)) {
            // The process of the attempt that was cut off has ended well.
            return Ok(());
        }
        let mut child = self
            .processes
            .command()
            .args(["node", "join", "-", "--dir"])
            .arg(self.home.host(&head.code))
            .args(["--listen", &self.home.address(&head.code)?.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start `lianxi node join`")?;
        let mut stdin = child.stdin.take().context("`lianxi node join` takes no input")?;
        stdin.write_all(token.as_bytes()).await.context("cannot hand over the token")?;
        drop(stdin);
        let ended = child.wait_with_output().await.context("cannot wait for `lianxi node join`")?;
        if !ended.status.success() {
            bail!("cannot join: {}", String::from_utf8_lossy(&ended.stderr).trim());
        }
        Ok(())
    }
}

async fn join_running(client: &Client, token: String) -> anyhow::Result<()> {
    let request = JoinRequest { token, dry_run: false };
    match client.node().join(request).await {
        // The join had ended when an earlier demo was cut off.
        Err(status) if status.code() == Code::AlreadyExists => Ok(()),
        answer => answer.map(drop).context("cannot join"),
    }
}

fn config_file(dir: &Path) -> std::path::PathBuf {
    dir.join("node.toml")
}

fn is_host(dir: &Path) -> bool {
    config_file(dir).exists()
}

/// Gives a host little memory and few threads, because all hosts share one machine.
fn make_small(dir: &Path, name: &str) -> anyhow::Result<()> {
    let file = config_file(dir);
    let mut config = HostConfig::load(&file)?;
    name.clone_into(&mut config.host.name);
    config.host.worker_threads = NonZeroU16::new(WORKERS);
    if let Some(cache_mib) = NonZeroU32::new(CACHE_MIB) {
        config.store.cache_mib = cache_mib;
    }
    let text = config.to_toml();
    if fs::read_to_string(&file).is_ok_and(|old| old == text) {
        return Ok(());
    }
    write_whole(&file, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_host_keeps_its_address() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = HostConfig::default_for(dir.path());
        config.link.listen = Some("127.0.0.1:12345".parse().unwrap());
        fs::write(config_file(dir.path()), config.to_toml()).unwrap();
        make_small(dir.path(), "BOS-01").unwrap();
        let small = HostConfig::load(&config_file(dir.path())).unwrap();
        assert_eq!(small.link.listen, config.link.listen);
        assert_eq!(small.host.name, "BOS-01");
        assert_eq!(small.cache_bytes(), u64::from(CACHE_MIB) * 1024 * 1024);
        assert_eq!(small.worker_threads(), usize::from(WORKERS));
    }
}
