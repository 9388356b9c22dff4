//! `lianxi node invite`: a token for one child, or a file of tokens for many.

use std::{collections::BTreeSet, path::PathBuf};

use anyhow::Context as _;
use lianxi_node::domain::unit::{Level, UnitCode};
use lianxi_proto::admin::v1::{InviteRequest, InviteResponse};
use serde_json::json;
use tonic::Code;

use super::{
    super::{Context, status},
    list::{self, Entry, List},
};
use crate::{client::Client, failure::Failure, texts::Text, values, values::Span, words};

/// Arguments of `lianxi node invite`.
///
/// Without --file for one child, whose token is printed. With --file for all units that LIST
/// names, a CSV table with the columns code, level, title, and parent for a unit whose parent
/// joins by the same file; their tokens go to the file JOIN, for `lianxi node join --file JOIN`.
#[derive(Debug, clap::Args)]
pub(crate) struct Invite {
    /// Code of the child
    #[arg(required_unless_present = "file")]
    child: Option<UnitCode>,
    /// Level of the child: city, district, street or community
    #[arg(long, required_unless_present = "file")]
    level: Option<Level>,
    /// What people call the child
    #[arg(long, required_unless_present = "file")]
    title: Option<String>,
    /// Parent, a unit of this host [default: the one that the host is for]
    #[arg(long)]
    unit: Option<UnitCode>,
    /// How long the token can be used, e.g. 72h
    #[arg(long, value_name = "TIME", default_value = "72h")]
    valid_for: Span,
    /// Invite all units of a table
    #[arg(long, value_name = "LIST", conflicts_with_all = ["child", "level", "title"])]
    file: Option<PathBuf>,
    /// New file for the tokens of --file, which its owner alone can read
    #[arg(long, value_name = "JOIN", requires = "file")]
    out: Option<PathBuf>,
    /// Check whether the children can be invited, make no token
    #[arg(long)]
    dry_run: bool,
}

impl Invite {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let client = context.client().await?;
        let unit = context.unit(&client, self.unit.clone()).await?;
        match (self.child, self.level, self.title, self.file) {
            (.., Some(file)) => {
                let inviting = Inviting {
                    context,
                    client,
                    unit: unit.parse()?,
                    valid_for_ms: self.valid_for.as_ms(),
                };
                inviting.all(List::read(&file)?, self.out, self.dry_run).await
            }
            (Some(child), Some(level), Some(title), None) => {
                let request = InviteRequest {
                    unit,
                    child: child.to_string(),
                    child_level: words::wire_level(level),
                    child_title: title,
                    valid_for_ms: self.valid_for.as_ms(),
                    dry_run: self.dry_run,
                    root_key: String::new(),
                };
                one(context, &client, request).await
            }
            // The parser asks for all three, or for the file.
            _ => Err(Failure::Usage("name the child, its --level and its --title".into()).into()),
        }
    }
}

async fn one(context: &Context<'_>, client: &Client, request: InviteRequest) -> anyhow::Result<()> {
    let (child, dry_run) = (request.child.clone(), request.dry_run);
    let answer = client.node().invite(request).await.context("cannot invite")?;
    let InviteResponse { token, expires_unix_ms } = answer.into_inner();
    let output = context.output();
    if output.is_json() {
        let document = json!({
            "unit": child,
            "token": if dry_run { None } else { Some(token) },
            "expires_unix_ms": expires_unix_ms,
            "dry_run": dry_run,
        });
        return Ok(output.document(&document)?);
    }
    if dry_run {
        output.note(output.fill(Text::InviteWouldWork, &[&child]));
        return Ok(());
    }
    output.line(token)?;
    output.note(output.fill(Text::InviteHint, &[&values::time(expires_unix_ms)]));
    Ok(())
}

/// Invitations for all units of a table.
struct Inviting<'a> {
    context: &'a Context<'a>,
    client: Client,
    unit: UnitCode,
    valid_for_ms: i64,
}

/// How a unit of the table stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Standing {
    /// It gets a token.
    Invited,
    /// Its parent joins by the same table, and its host invites it.
    ByItsHost,
    /// It has joined.
    Joined,
}

impl Inviting<'_> {
    /// Looks at every unit before the first token is made: a table with a mistake makes none.
    async fn all(self, mut list: List, out: Option<PathBuf>, dry_run: bool) -> anyhow::Result<()> {
        let out = match out {
            Some(out) if out.exists() => return Err(list::exists(&out).into()),
            None if !dry_run => {
                return Err(Failure::Usage("name the file for the tokens with --out".into()).into());
            }
            out => out,
        };
        let hosted = status(&self.client).await?.units;
        let hosted: BTreeSet<UnitCode> =
            hosted.iter().filter_map(|unit| unit.unit.parse().ok()).collect();
        let standings = self.standings(&mut list, &hosted).await?;
        if let Some(out) = out.filter(|_| !dry_run) {
            for (entry, standing) in list.entries_mut().iter_mut().zip(&standings) {
                if *standing == Standing::Invited {
                    let answer = self.client.node().invite(self.request(entry, false)).await;
                    let answer = answer.with_context(|| format!("cannot invite {}", entry.unit))?;
                    entry.token = Some(answer.into_inner().token);
                }
            }
            list.write_new(&out)?;
        }
        self.tell(&list, &standings, dry_run)
    }

    async fn standings(
        &self,
        list: &mut List,
        hosted: &BTreeSet<UnitCode>,
    ) -> anyhow::Result<Vec<Standing>> {
        let inside = list.units();
        let mut standings = Vec::new();
        for entry in list.entries_mut() {
            let parent = entry.parent.get_or_insert_with(|| self.unit.clone()).clone();
            if inside.contains(&parent) && !hosted.contains(&parent) {
                standings.push(Standing::ByItsHost);
                continue;
            }
            let line = entry.line;
            match self.client.node().invite(self.request(entry, true)).await {
                Ok(_) => standings.push(Standing::Invited),
                Err(status) if status.code() == Code::AlreadyExists => {
                    standings.push(Standing::Joined);
                }
                Err(status) => {
                    return Err(status).with_context(|| format!("line {line}: {}", entry.unit));
                }
            }
        }
        Ok(standings)
    }

    fn request(&self, entry: &Entry, dry_run: bool) -> InviteRequest {
        InviteRequest {
            unit: entry.parent.as_ref().unwrap_or(&self.unit).to_string(),
            child: entry.unit.to_string(),
            child_level: words::wire_level(entry.level),
            child_title: entry.title.clone(),
            valid_for_ms: self.valid_for_ms,
            dry_run,
            root_key: String::new(),
        }
    }

    fn tell(&self, list: &List, standings: &[Standing], dry_run: bool) -> anyhow::Result<()> {
        let output = self.context.output();
        let count = |of| standings.iter().filter(|standing| **standing == of).count();
        let (invited, joined) = (count(Standing::Invited), count(Standing::Joined));
        let by_host = count(Standing::ByItsHost);
        if output.is_json() {
            let units = list.entries().iter().zip(standings).map(|(entry, standing)| {
                let state = match standing {
                    Standing::Invited => "invited",
                    Standing::ByItsHost => "by-its-host",
                    Standing::Joined => "joined",
                };
                let parent = entry.parent.as_ref().map(UnitCode::as_str);
                json!({ "unit": entry.unit.as_str(), "parent": parent, "state": state })
            });
            let units: Vec<_> = units.collect();
            return Ok(output.document(&json!({ "units": units, "dry_run": dry_run }))?);
        }
        let text = if dry_run { Text::InvitesWouldWork } else { Text::InvitesMade };
        output.note(output.fill(text, &[&invited, &by_host, &joined]));
        Ok(())
    }
}
