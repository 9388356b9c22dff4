//! `lianxi quarantine`: statements that were refused, here or by a peer, and what becomes of them.

use anyhow::Context as _;
use clap::Subcommand;
use lianxi_node::domain::unit::UnitCode;
use lianxi_proto::admin::v1::{
    QuarantineOutcome, QuarantineRequest, QuarantinedStatement, SettleQuarantinedRequest,
};
use serde_json::{Value, json};

use super::Context;
use crate::{client::Client, failure::Failure, output::Output, table::Table, texts::Text, values};

/// Ids of one call.
const AT_ONCE: usize = 100;

/// What to do with refused statements.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// List statements that the unit refused, and refusals that it got back
    List(List),
    /// Show one of them
    Show(Show),
    /// Judge them again by the rules of today; what holds is taken in
    Replay(Settle),
    /// Take in what holds by now, ask the sender for a corrected one of the rest; send again what a neighbour refused
    Fix(Settle),
    /// Throw them away; their senders are told why
    Discard(Discard),
}

/// Arguments of `lianxi quarantine list`.
#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// Unit [default: the one that the host is for]
    #[arg(long)]
    unit: Option<UnitCode>,
    /// At most so many, the oldest first [default: all]
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

/// Arguments of `lianxi quarantine show`.
#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    /// Id of the statement in the list, or its beginning
    id: String,
    /// Unit [default: the one that the host is for]
    #[arg(long)]
    unit: Option<UnitCode>,
}

/// Which statements.
#[derive(Debug, clap::Args)]
pub(crate) struct Which {
    /// Ids of statements in the list, or their beginnings
    #[arg(required_unless_present_any = ["all", "refused_for"])]
    ids: Vec<String>,
    /// All that wait
    #[arg(long, conflicts_with_all = ["ids", "refused_for"])]
    all: bool,
    /// All that were refused for this reason, e.g. unknown-catalogue
    #[arg(long, value_name = "WORD", conflicts_with = "ids")]
    refused_for: Option<String>,
    /// Unit [default: the one that the host is for]
    #[arg(long)]
    unit: Option<UnitCode>,
    /// Say what would become of them, change nothing
    #[arg(long)]
    dry_run: bool,
}

/// Arguments of `lianxi quarantine replay` and `fix`.
#[derive(Debug, clap::Args)]
pub(crate) struct Settle {
    #[command(flatten)]
    which: Which,
    /// What the sender is to correct
    #[arg(long, value_name = "TEXT", default_value = "")]
    text: String,
}

/// Arguments of `lianxi quarantine discard`.
#[derive(Debug, clap::Args)]
pub(crate) struct Discard {
    #[command(flatten)]
    which: Which,
    /// Why; the sender reads it
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

impl Verb {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        match self {
            Self::List(list) => list.run(context).await,
            Self::Show(show) => show.run(context).await,
            Self::Replay(settle) => settle.which.run(context, Act::Replay, settle.text).await,
            Self::Fix(settle) => settle.which.run(context, Act::Fix, settle.text).await,
            Self::Discard(discard) => {
                discard.which.run(context, Act::Discard, discard.reason).await
            }
        }
    }
}

/// Everything that waits, page by page; at most `limit`.
async fn all(
    client: &Client,
    unit: &str,
    limit: Option<usize>,
) -> anyhow::Result<Vec<QuarantinedStatement>> {
    let mut statements = Vec::new();
    let mut request = QuarantineRequest { unit: unit.to_owned(), ..QuarantineRequest::default() };
    loop {
        let answer = client.node().quarantine(request.clone()).await;
        let page = answer.context("cannot list the refused statements")?.into_inner();
        statements.extend(page.statements);
        let is_enough = limit.is_some_and(|limit| statements.len() >= limit);
        if page.next.is_empty() || is_enough {
            statements.truncate(limit.unwrap_or(usize::MAX));
            return Ok(statements);
        }
        request.after = page.next;
    }
}

/// The one whose id begins so.
fn by_id<'a>(
    statements: &'a [QuarantinedStatement],
    id: &str,
) -> anyhow::Result<&'a QuarantinedStatement> {
    let mut found = statements.iter().filter(|one| one.id.starts_with(id) && !id.is_empty());
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => {
            Err(Failure::NotFound(format!("no refused statement waits under {id:?}")).into())
        }
        (Some(_), Some(_)) => {
            let text = format!("more than one id begins with {id:?}: give more of it");
            Err(Failure::Usage(text).into())
        }
    }
}

impl List {
    async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let client = context.client().await?;
        let unit = context.unit(&client, self.unit).await?;
        let statements = all(&client, &unit, self.limit).await?;
        let output = context.output();
        if output.is_json() {
            let statements: Vec<Value> = statements.iter().map(statement_json).collect();
            return Ok(output.document(&json!({ "unit": unit, "statements": statements }))?);
        }
        Ok(output.table(&table(output, &statements), Text::NoQuarantine)?)
    }
}

impl Show {
    async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let client = context.client().await?;
        let unit = context.unit(&client, self.unit).await?;
        let statements = all(&client, &unit, None).await?;
        let one = by_id(&statements, &self.id)?;
        let output = context.output();
        if output.is_json() {
            return Ok(output.document(&statement_json(one))?);
        }
        let refused_by = if one.refused_here { Text::RefusedHere } else { Text::RefusedThere };
        let number = |number: u64| if number == 0 { String::new() } else { number.to_string() };
        Ok(output.facts([
            (Text::Id, one.id.clone()),
            (Text::Time, values::time(one.time_unix_ms)),
            (Text::Peer, one.peer.clone()),
            (Text::RefusedBy, output.text(refused_by).to_owned()),
            (Text::ClaimedSource, one.claimed_source.clone()),
            (Text::ClaimedType, one.claimed_type.clone()),
            (Text::Subject, one.subject.clone()),
            (Text::Reason, one.reason.clone()),
            (Text::Field, one.field.clone()),
            (Text::Detail, one.detail.clone()),
            (Text::AskedFor, one.asked.clone()),
            (Text::Tries, number(one.tries.into())),
            (Text::KeptBytes, number(one.size_bytes)),
            (Text::PayloadDigest, hex::encode(&one.payload_sha256)),
        ])?)
    }
}

/// What is done with refused statements.
#[derive(Clone, Copy)]
enum Act {
    Replay,
    Fix,
    Discard,
}

impl Which {
    fn chosen(&self, statements: &[QuarantinedStatement]) -> anyhow::Result<Vec<String>> {
        if !self.ids.is_empty() {
            let one = |id: &String| Ok(by_id(statements, id)?.id.clone());
            return self.ids.iter().map(one).collect();
        }
        let is_meant = |one: &&QuarantinedStatement| {
            self.refused_for.as_ref().is_none_or(|word| one.reason == *word)
        };
        Ok(statements.iter().filter(is_meant).map(|one| one.id.clone()).collect())
    }

    async fn run(self, context: &Context<'_>, act: Act, text: String) -> anyhow::Result<()> {
        let client = context.client().await?;
        let output = context.output();
        let unit = context.unit(&client, self.unit.clone()).await?;
        let ids = self.chosen(&all(&client, &unit, None).await?)?;
        let mut outcomes = Vec::new();
        for ids in ids.chunks(AT_ONCE) {
            let request = SettleQuarantinedRequest {
                unit: unit.clone(),
                ids: ids.to_vec(),
                text: text.clone(),
                dry_run: self.dry_run,
            };
            let mut node = client.node();
            let answer = match act {
                Act::Replay => node.replay_quarantined(request).await,
                Act::Fix => node.fix_quarantined(request).await,
                Act::Discard => node.discard_quarantined(request).await,
            };
            let answer = answer.context("cannot settle the refused statements")?;
            outcomes.extend(answer.into_inner().outcomes);
        }
        if output.is_json() {
            let outcomes: Vec<Value> = outcomes.iter().map(outcome_json).collect();
            let document = json!({ "unit": unit, "outcomes": outcomes, "dry_run": self.dry_run });
            return Ok(output.document(&document)?);
        }
        if self.dry_run {
            output.note(output.text(Text::NothingChanged));
        }
        Ok(output.table(&outcome_table(output, &outcomes), Text::NoQuarantine)?)
    }
}

fn outcome_json(outcome: &QuarantineOutcome) -> Value {
    json!({
        "id": outcome.id, "outcome": outcome.outcome, "reason": outcome.reason,
        "field": outcome.field, "detail": outcome.detail,
    })
}

fn outcome_table(output: &Output, outcomes: &[QuarantineOutcome]) -> Table {
    let mut table = Table::new()
        .text(output.text(Text::Id))
        .text(output.text(Text::Outcome))
        .text(output.text(Text::Reason))
        .text(output.text(Text::Field))
        .text(output.text(Text::Detail));
    for outcome in outcomes {
        let word = match outcome.outcome.as_str() {
            "taken-in" => Text::TakenIn,
            "still-refused" => Text::StillRefused,
            "asked" => Text::AskedSender,
            "sent-again" => Text::SentAgain,
            "discarded" => Text::Discarded,
            _ => Text::NothingDone,
        };
        table.row([
            &outcome.id,
            output.text(word),
            &outcome.reason,
            &outcome.field,
            &outcome.detail,
        ]);
    }
    table
}

fn statement_json(statement: &QuarantinedStatement) -> Value {
    json!({
        "id": statement.id,
        "peer": statement.peer,
        "refused_here": statement.refused_here,
        "claimed_source": statement.claimed_source,
        "claimed_type": statement.claimed_type,
        "subject": statement.subject,
        "reason": statement.reason,
        "field": statement.field,
        "detail": statement.detail,
        "time_unix_ms": statement.time_unix_ms,
        "payload_sha256": hex::encode(&statement.payload_sha256),
        "statement_id": values::id(&statement.statement_id),
        "size_bytes": statement.size_bytes,
        "tries": statement.tries,
        "asked": statement.asked,
    })
}

fn table(output: &Output, statements: &[QuarantinedStatement]) -> Table {
    let mut table = Table::new()
        .text(output.text(Text::Id))
        .text(output.text(Text::Time))
        .text(output.text(Text::Peer))
        .text(output.text(Text::RefusedBy))
        .text(output.text(Text::ClaimedSource))
        .text(output.text(Text::ClaimedType))
        .text(output.text(Text::Reason))
        .text(output.text(Text::Field))
        .text(output.text(Text::Detail));
    for statement in statements {
        let refused_by =
            if statement.refused_here { Text::RefusedHere } else { Text::RefusedThere };
        table.row([
            &statement.id,
            &values::time(statement.time_unix_ms),
            &statement.peer,
            output.text(refused_by),
            &statement.claimed_source,
            &statement.claimed_type,
            &statement.reason,
            &statement.field,
            &statement.detail,
        ]);
    }
    table
}
