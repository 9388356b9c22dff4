//! `lianxi node join`: one unit by its token, or all units of a file.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use futures::{StreamExt, stream};
use lianxi_node::{
    clock::SystemClock,
    config::HostConfig,
    node::{self, Host, JoinOptions, Options},
    process::{self, secret},
    telemetry::Metrics,
};
use lianxi_proto::admin::v1::{InviteRequest, JoinRequest, JoinResponse};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    super::{Context, opens::Sealed, status},
    asked::Asked,
    list::{Entry, List},
    offline,
};
use crate::{client::Client, failure::Failure, table::Table, texts::Text, values, words};

/// Clock skew that the operator is warned of.
const SKEW_WARNING_MS: i64 = 5 * 60 * 1_000;

/// Units of one file that join at a time: enough to hide the way to the parent.
const AT_ONCE: usize = 8;

/// Arguments of `lianxi node join`.
///
/// With a node running in the directory the unit joins there, beside the others; else the
/// directory becomes a new host.
#[derive(Debug, clap::Args)]
pub(crate) struct Join {
    /// The token, or `-` to read it from standard input
    #[arg(required_unless_present = "file")]
    token: Option<String>,
    /// Join all units of a file that `lianxi node invite --file` made; can be cut off and given again
    #[arg(long, value_name = "JOIN", conflicts_with = "token")]
    file: Option<PathBuf>,
    /// Address for the unit's own children, if a new host is made
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Address that children dial, if it is not the one of --listen; can be given more than once
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Vec<String>,
    #[command(flatten)]
    sealed: Sealed,
    /// Check the token and the parent, keep nothing
    #[arg(long)]
    dry_run: bool,
}

impl Join {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let sealed = self.sealed.sealing(context)?;
        let options = JoinOptions { listen: self.listen, advertise: self.advertise, sealed };
        let Some(token) = self.token else {
            let file = self.file.context("name a token or a file")?;
            if options.sealed.is_some() {
                let text =
                    "--encrypt goes with one token: join with the first unit's, then by the file";
                return Err(Failure::Usage(text.to_owned()).into());
            }
            let asked = Asked::beside(&file);
            return JoinAll { context, options, dry_run: self.dry_run, asked }.run(&file).await;
        };
        let token = token_of(token)?;
        match context.client().await {
            Ok(client) => join_here(context, &client, token, self.dry_run).await,
            Err(Failure::NoNode(_)) => offline::join(context, &token, options, self.dry_run).await,
            Err(failure) => Err(failure.into()),
        }
    }
}

/// The token itself; `-` stands for standard input, so that it shows in no list of processes.
pub(super) fn token_of(argument: String) -> anyhow::Result<String> {
    let mut token = argument;
    if token == "-" {
        token.clear();
        // A token is a few hundred bytes: more is a wrong file.
        std::io::stdin()
            .take(64 * 1024)
            .read_to_string(&mut token)
            .context("cannot read the token")?;
    }
    Ok(token.trim().to_owned())
}

async fn join_here(
    context: &Context<'_>,
    client: &Client,
    token: String,
    dry_run: bool,
) -> anyhow::Result<()> {
    let began = Instant::now();
    let answer = client.node().join(JoinRequest { token, dry_run }).await;
    let joined = answer.context("cannot join")?.into_inner();
    let took = began.elapsed();
    let output = context.output();
    if joined.clock_skew_ms.abs() >= SKEW_WARNING_MS {
        output.note(output.fill(Text::SkewWarning, &[&values::length(joined.clock_skew_ms)]));
    }
    if output.is_json() {
        return Ok(output.document(&joined_json(&joined, dry_run, took))?);
    }
    if dry_run {
        output.note(output.fill(Text::JoinWouldWork, &[&joined.unit, &joined.parent]));
    } else {
        let took = offline::seconds(took);
        output.note(output.fill(Text::Joined, &[&joined.unit, &joined.parent, &took]));
    }
    Ok(())
}

fn joined_json(joined: &JoinResponse, dry_run: bool, took: Duration) -> Value {
    json!({
        "unit": joined.unit,
        "title": joined.title,
        "parent": joined.parent,
        "level": words::level(joined.level).json,
        "clock_skew_ms": joined.clock_skew_ms,
        "delegation_ends_unix_ms": joined.delegation_ends_unix_ms,
        "dry_run": dry_run,
        "took_ms": offline::millis(took),
    })
}

/// What became of one unit of the file.
#[derive(Clone, Debug)]
enum Outcome {
    /// It joined by this command; how long that took.
    Joined(Duration),
    /// It had joined before.
    Already,
    /// Nothing stands in its way; a dry run.
    Would,
    /// It did not join, and why.
    Failed(String),
}

/// The join of all units of a file.
struct JoinAll<'a> {
    context: &'a Context<'a>,
    options: JoinOptions,
    dry_run: bool,
    asked: Asked,
}

/// The node that the units join: one that runs already, or one that this command runs meanwhile.
struct Place {
    client: Client,
    own: Option<Arc<Host>>,
}

impl JoinAll<'_> {
    async fn run(self, file: &Path) -> anyhow::Result<()> {
        let list = List::read(file)?;
        let began = Instant::now();
        let mut outcomes = BTreeMap::new();
        match self.place(&list, &mut outcomes).await? {
            Some(place) => {
                let joined = self.join(&place.client, &list, &mut outcomes).await;
                if let Some(host) = place.own {
                    host.shutdown().await;
                }
                joined?;
            }
            None => self.check(&list, &mut outcomes).await,
        }
        self.tell(&list, &outcomes, began.elapsed())
    }

    /// The node of the directory; made by the first unit of the file if there is none. `None`: the
    /// first unit did not join, or nothing is to be kept.
    async fn place(
        &self,
        list: &List,
        outcomes: &mut BTreeMap<String, Outcome>,
    ) -> anyhow::Result<Option<Place>> {
        match self.context.client().await {
            Ok(client) => return Ok(Some(Place { client, own: None })),
            Err(Failure::NoNode(_)) if self.dry_run => return Ok(None),
            Err(Failure::NoNode(_)) => {}
            Err(failure) => return Err(failure.into()),
        }
        let dir = self.context.dir();
        let config = dir.join(offline::CONFIG);
        if !config.exists() {
            let first = &list.entries()[0];
            let Some(token) = &first.token else {
                let text = format!("line {}: {} needs a token", first.line, first.unit);
                return Err(Failure::Usage(text).into());
            };
            let began = Instant::now();
            let outcome = match node::join_offline(dir, token, self.options.clone()).await {
                Ok(_) => Outcome::Joined(began.elapsed()),
                Err(error) => {
                    let reason = Outcome::Failed(error.to_string());
                    outcomes.insert(first.unit.to_string(), reason);
                    return Ok(None);
                }
            };
            outcomes.insert(first.unit.to_string(), outcome);
        }
        let config = HostConfig::load(&config)?;
        let ask = |method| Ok::<_, process::Error>(secret::for_start(method, None)?);
        let lock = node::open_lock(&config, ask)?;
        let (clock, metrics) = (Arc::new(SystemClock), Metrics::installed());
        let host = Host::bind(config, Options { clock, metrics, tap: None, lock }).await;
        let host = host.context("cannot serve the units meanwhile")?;
        let client = self.context.client().await?;
        Ok(Some(Place { client, own: Some(host) }))
    }

    /// Group by group, so that a parent of the file is in before its children.
    async fn join(
        &self,
        client: &Client,
        list: &List,
        outcomes: &mut BTreeMap<String, Outcome>,
    ) -> anyhow::Result<()> {
        let units = status(client).await?.units;
        let mut served: BTreeSet<String> = units.into_iter().map(|unit| unit.unit).collect();
        let (inside, total) = (list.units(), list.entries().len());
        let output = self.context.output();
        for group in list.generations() {
            let served_by_now = served.clone();
            let mut joining = stream::iter(group)
                .map(|entry| {
                    let served = &served_by_now;
                    // A parent that only would join can be asked for nothing yet.
                    let waits = self.dry_run
                        && entry.parent.as_ref().is_some_and(|parent| inside.contains(parent));
                    async move { (entry, self.one(client, entry, served, waits).await) }
                })
                .buffer_unordered(AT_ONCE);
            while let Some((entry, outcome)) = joining.next().await {
                if matches!(outcome, Outcome::Joined(_) | Outcome::Already) {
                    served.insert(entry.unit.to_string());
                }
                outcomes.entry(entry.unit.to_string()).or_insert(outcome);
                output.progress(output.fill(Text::JoinProgress, &[&outcomes.len(), &total]));
            }
        }
        Ok(())
    }

    async fn one(
        &self,
        client: &Client,
        entry: &Entry,
        served: &BTreeSet<String>,
        waits: bool,
    ) -> Outcome {
        if served.contains(entry.unit.as_str()) {
            return Outcome::Already;
        }
        let began = Instant::now();
        let token = match (&entry.token, &entry.parent) {
            (Some(token), _) => token.clone(),
            (None, _) if waits => return Outcome::Would,
            (None, Some(parent)) if served.contains(parent.as_str()) => {
                match self.token(client, entry, parent.as_str()).await {
                    Ok(token) => token,
                    Err(reason) => return Outcome::Failed(reason),
                }
            }
            (None, Some(parent)) => {
                return Outcome::Failed(format!("{parent} is not served by this host"));
            }
            (None, None) => return Outcome::Failed("has no token and no parent".to_owned()),
        };
        let dry_run = self.dry_run;
        if dry_run && token.is_empty() {
            return Outcome::Would;
        }
        match client.node().join(JoinRequest { token, dry_run }).await {
            Ok(_) if dry_run => Outcome::Would,
            Ok(_) => Outcome::Joined(began.elapsed()),
            Err(status) => Outcome::Failed(status.message().to_owned()),
        }
    }

    /// A token of the parent, or the one that an earlier run asked for.
    async fn token(&self, client: &Client, entry: &Entry, parent: &str) -> Result<String, String> {
        match self.invite(client, entry, parent).await {
            Ok(token) if self.dry_run => Ok(token),
            Ok(token) => {
                let kept = self.asked.keep(&entry.unit, &token);
                kept.map(|()| token).map_err(|error| format!("its token cannot be kept: {error}"))
            }
            Err(status) => self.asked.token(&entry.unit).ok_or_else(|| status.message().to_owned()),
        }
    }

    async fn invite(
        &self,
        client: &Client,
        entry: &Entry,
        parent: &str,
    ) -> Result<String, tonic::Status> {
        let request = InviteRequest {
            unit: parent.to_owned(),
            child: entry.unit.to_string(),
            child_level: words::wire_level(entry.level),
            child_title: entry.title.clone(),
            valid_for_ms: 0,
            dry_run: self.dry_run,
            root_key: String::new(),
        };
        Ok(client.node().invite(request).await?.into_inner().token)
    }

    /// Without a node: the tokens and the ways to the parents, nothing else.
    async fn check(&self, list: &List, outcomes: &mut BTreeMap<String, Outcome>) {
        let inside = list.units();
        for entry in list.entries() {
            if outcomes.contains_key(entry.unit.as_str()) {
                continue;
            }
            let of_the_file = entry.parent.as_ref().filter(|parent| inside.contains(parent));
            let outcome = match (&entry.token, of_the_file) {
                _ if !self.dry_run => Outcome::Failed("the unit before it did not join".to_owned()),
                (Some(token), _) => match node::check_token(self.context.dir(), token).await {
                    Ok(_) => Outcome::Would,
                    Err(error) => Outcome::Failed(error.to_string()),
                },
                (None, Some(_)) => Outcome::Would,
                (None, None) => Outcome::Failed("has no token".to_owned()),
            };
            outcomes.insert(entry.unit.to_string(), outcome);
        }
    }

    fn tell(
        &self,
        list: &List,
        outcomes: &BTreeMap<String, Outcome>,
        took: Duration,
    ) -> anyhow::Result<()> {
        let output = self.context.output();
        let of = |entry: &Entry| outcomes.get(entry.unit.as_str());
        let failed = |entry: &&Entry| !matches!(of(entry), Some(outcome) if outcome.is_good());
        let failures = list.entries().iter().filter(failed).count();
        let joined = |entry: &&Entry| matches!(of(entry), Some(Outcome::Joined(_)));
        let joined = list.entries().iter().filter(joined).count();
        if output.is_json() {
            let units: Vec<Value> =
                list.entries().iter().map(|entry| outcome_json(entry, of(entry))).collect();
            output.document(&json!({
                "units": units,
                "joined": joined,
                "failed": failures,
                "dry_run": self.dry_run,
                "took_ms": offline::millis(took),
            }))?;
        } else {
            let mut table = Table::new()
                .text(output.text(Text::Unit))
                .text(output.text(Text::Title))
                .text(output.text(Text::Parent))
                .text(output.text(Text::State))
                .text(output.text(Text::Reason));
            for entry in list.entries() {
                let (state, reason) = of(entry).map_or((Text::JoinFailed, ""), Outcome::shown);
                let parent = entry.parent.as_ref().map(ToString::to_string).unwrap_or_default();
                let unit = entry.unit.to_string();
                table.row([&unit, &entry.title, &parent, output.text(state), reason]);
            }
            output.table(&table, Text::NoUnits)?;
            let total = list.entries().len();
            let took = offline::seconds(took);
            output.note(output.fill(Text::JoinedOfFile, &[&joined, &total, &failures, &took]));
        }
        if failures > 0 {
            return Err(Failure::NotJoined(failures).into());
        }
        if !self.dry_run {
            self.asked.forget();
        }
        Ok(())
    }
}

impl Outcome {
    fn is_good(&self) -> bool {
        !matches!(self, Self::Failed(_))
    }

    fn shown(&self) -> (Text, &str) {
        match self {
            Self::Joined(_) => (Text::JoinDone, ""),
            Self::Already => (Text::JoinedBefore, ""),
            Self::Would => (Text::WouldJoin, ""),
            Self::Failed(reason) => (Text::JoinFailed, reason),
        }
    }
}

fn outcome_json(entry: &Entry, outcome: Option<&Outcome>) -> Value {
    let state = match outcome {
        Some(Outcome::Joined(_)) => "joined",
        Some(Outcome::Already) => "already",
        Some(Outcome::Would) => "would-join",
        Some(Outcome::Failed(_)) | None => "failed",
    };
    let took = match outcome {
        Some(Outcome::Joined(took)) => Some(offline::millis(*took)),
        Some(Outcome::Already | Outcome::Would | Outcome::Failed(_)) | None => None,
    };
    json!({
        "unit": entry.unit.as_str(),
        "title": entry.title,
        "parent": entry.parent.as_ref().map(ToString::to_string),
        "state": state,
        "reason": outcome.map(|outcome| outcome.shown().1).filter(|reason| !reason.is_empty()),
        "took_ms": took,
    })
}
