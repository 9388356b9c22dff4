//! `lianxi notice`: tasks downward and their receipts.

use anyhow::Context as _;
use clap::Subcommand;
use lianxi_node::domain::unit::{Level, UnitCode};
use lianxi_proto::{
    local::v1::{
        IssueNoticeRequest, IssueNoticeResponse, KeyGiven, ListNoticesRequest, MarkNoticeRequest,
        NoticeState, Recipient, ShareNoticeRequest, ShowNoticeRequest,
    },
    types::v1::{Notice, ReceiptStage},
};
use serde_json::{Map, Value, json};

use super::Context;
use crate::{
    client::Client,
    failure::Failure,
    output::Output,
    table::Table,
    texts::Text,
    values::{self, Moment},
    words,
};

/// What to do with notices.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Sign a notice and send it to the units of a level
    Issue(Box<Issue>),
    /// List notices that the unit issued, relays or has received
    List(List),
    /// Show a notice with the receipts of the unit's subtree
    Show(Show),
    /// Sign that a person has seen the notice (签收)
    Sign(Mark),
    /// Sign that the task is done (办结)
    Done(Mark),
    /// Give the sealed body to a unit that joined later, or that has to read along
    Share(Share),
}

/// Arguments of `lianxi notice issue`.
#[derive(Debug, clap::Args)]
pub(crate) struct Issue {
    /// Number that people say, e.g. 〔2026〕17号
    #[arg(long)]
    number: String,
    /// What it is about
    #[arg(long)]
    title: String,
    /// The task
    #[arg(long, default_value = "")]
    text: String,
    /// Head of the subtree that it is for: the unit itself or a descendant
    #[arg(long)]
    to: UnitCode,
    /// Level of the units that have to act
    #[arg(long)]
    level: Level,
    /// Item of the duty list that the task falls under
    #[arg(long, default_value = "", required_unless_present = "approval")]
    duty_item: String,
    /// Number of the approval for a task outside the duty list
    #[arg(long, default_value = "")]
    approval: String,
    /// When it has to be done: 7d, 2026-01-31, 2026-01-31T18:00:00+08:00
    #[arg(long, value_name = "TIME")]
    due: Moment,
    /// Authority that comes with the task
    #[arg(long, default_value = "")]
    authority: String,
    /// People who come with the task
    #[arg(long, default_value = "")]
    people: String,
    /// Money that comes with the task
    #[arg(long, default_value = "")]
    funds: String,
    /// An exercise: never counted in live figures
    #[arg(long)]
    exercise: bool,
    /// Unit that issues [default: the one that the host is for]
    #[arg(long)]
    unit: Option<UnitCode>,
}

/// Arguments of `lianxi notice list`.
#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// Unit [default: the one that the host is for]
    #[arg(long)]
    unit: Option<UnitCode>,
}

/// Arguments of `lianxi notice show`.
#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    /// Id or number of the notice
    notice: String,
    /// Unit [default: the one that the host is for]
    #[arg(long)]
    unit: Option<UnitCode>,
}

/// Arguments of `lianxi notice sign` and `done`.
#[derive(Debug, clap::Args)]
pub(crate) struct Mark {
    /// Id or number of the notice
    notice: String,
    /// What was done, without personal data
    #[arg(long, default_value = "")]
    note: String,
    /// Unit that has received it [default: the one that the host is for]
    #[arg(long)]
    unit: Option<UnitCode>,
}

/// Arguments of `lianxi notice share` and `lianxi escalation share`.
#[derive(Debug, clap::Args)]
pub(crate) struct Share {
    /// Id or number
    pub(super) case: String,
    /// Unit above or below that may read it from then on
    #[arg(long)]
    pub(super) to: UnitCode,
    /// Say what would not hold, change nothing
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Unit that reads it and gives it [default: the one that the host is for]
    #[arg(long)]
    pub(super) unit: Option<UnitCode>,
}

impl Verb {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        match self {
            Self::Issue(issue) => issue.run(context).await,
            Self::List(list) => list.run(context).await,
            Self::Show(show) => show.run(context).await,
            Self::Sign(mark) => mark.run(context, ReceiptStage::Seen).await,
            Self::Done(mark) => mark.run(context, ReceiptStage::Done).await,
            Self::Share(share) => share.run(context).await,
        }
    }
}

impl Issue {
    async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let client = context.client().await?;
        let notice = Notice {
            number: self.number.clone(),
            title: self.title,
            text: self.text,
            level: words::wire_level(self.level),
            duty_item: self.duty_item,
            approval: self.approval,
            due_unix_ms: self.due.unix_ms(),
            authority: self.authority,
            people: self.people,
            funds: self.funds,
        };
        let request = IssueNoticeRequest {
            unit: context.unit(&client, self.unit).await?,
            destination: self.to.to_string(),
            notice: Some(notice),
            exercise: self.exercise,
        };
        let answer = client.notices().issue(request).await.context("cannot issue the notice")?;
        let IssueNoticeResponse { notice_id, issued_to } = answer.into_inner();
        let (id, output) = (values::id(&notice_id), context.output());
        if output.is_json() {
            return Ok(output.document(&json!({ "notice_id": id, "issued_to": issued_to }))?);
        }
        output.note(output.fill(Text::NoticeIssued, &[&self.number, &issued_to, &id]));
        Ok(())
    }
}

/// Notices that `unit` knows.
///
/// # Errors
///
/// What the node says.
pub(crate) async fn list(client: &Client, unit: &str) -> anyhow::Result<Vec<NoticeState>> {
    let request = ListNoticesRequest { unit: unit.to_owned() };
    let answer = client.notices().list(request).await.context("cannot list notices")?;
    Ok(answer.into_inner().notices)
}

/// The id that an argument means: an id, or a number that one notice of the unit has.
async fn id_of(client: &Client, unit: &str, argument: &str) -> anyhow::Result<Vec<u8>> {
    if let Some(id) = values::id_bytes(argument) {
        return Ok(id);
    }
    let notices = list(client, unit).await?;
    let numbers = notices.iter().map(|state| (number(state), state.notice_id.as_slice()));
    super::by_number(argument, numbers)
}

fn number(state: &NoticeState) -> &str {
    state.notice.as_ref().map_or("", |notice| notice.number.as_str())
}

impl List {
    async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let client = context.client().await?;
        let unit = context.unit(&client, self.unit).await?;
        let notices = list(&client, &unit).await?;
        let output = context.output();
        if output.is_json() {
            let notices: Vec<Value> = notices.iter().map(state_json).collect();
            return Ok(output.document(&json!({ "unit": unit, "notices": notices }))?);
        }
        Ok(output.table(&list_table(output, &notices), Text::NoNotices)?)
    }
}

fn list_table(output: &Output, notices: &[NoticeState]) -> Table {
    let mut table = Table::new()
        .text(output.text(Text::Number))
        .text(output.text(Text::Title))
        .text(output.text(Text::Issuer))
        .text(output.text(Text::Destination))
        .text(output.text(Text::Due))
        .number(output.text(Text::Recipients));
    for stage in words::STAGES {
        table = table.number(words::stage(stage.into()).shown(output.lang()));
    }
    let mut table = table.text(output.text(Text::Id));
    for state in notices {
        let notice = state.notice.clone().unwrap_or_default();
        let mut row = vec![
            notice.number,
            notice.title,
            state.issuer.clone(),
            state.destination.clone(),
            values::time(notice.due_unix_ms),
            state.recipients.len().to_string(),
        ];
        row.extend(words::STAGES.map(|stage| at_stage(&state.recipients, stage).to_string()));
        row.push(values::id(&state.notice_id));
        table.row(row);
    }
    table
}

/// Recipients whose furthest stage is `stage`.
fn at_stage(recipients: &[Recipient], stage: ReceiptStage) -> usize {
    recipients.iter().filter(|recipient| recipient.stage() == stage).count()
}

/// How many recipients are at each stage, in JSON.
pub(crate) fn stages_json(recipients: &[Recipient]) -> Value {
    let stages: Map<String, Value> = words::STAGES
        .iter()
        .map(|stage| {
            let word = words::stage((*stage).into()).json;
            (word.to_owned(), json!(at_stage(recipients, *stage)))
        })
        .collect();
    Value::Object(stages)
}

/// A notice with its receipts in JSON.
pub(crate) fn state_json(state: &NoticeState) -> Value {
    let notice = state.notice.clone().unwrap_or_default();
    let recipients: Vec<Value> = state.recipients.iter().map(recipient_json).collect();
    json!({
        "notice_id": values::id(&state.notice_id),
        "number": notice.number,
        "title": notice.title,
        "text": notice.text,
        "issuer": state.issuer,
        "destination": state.destination,
        "level": words::level(notice.level).json,
        "duty_item": notice.duty_item,
        "approval": notice.approval,
        "due_unix_ms": notice.due_unix_ms,
        "authority": notice.authority,
        "people": notice.people,
        "funds": notice.funds,
        "issued_unix_ms": state.issued_unix_ms,
        "exercise": state.exercise,
        "sealed_for_others": state.sealed_for_others,
        "given": given_json(&state.given),
        "stages": stages_json(&state.recipients),
        "recipients": recipients,
    })
}

fn recipient_json(recipient: &Recipient) -> Value {
    json!({
        "unit": recipient.unit,
        "title": recipient.title,
        "stage": words::stage(recipient.stage).json,
        "reason": recipient.reason,
        "note": recipient.note,
        "stage_unix_ms": recipient.stage_unix_ms,
    })
}

impl Show {
    async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let client = context.client().await?;
        let unit = context.unit(&client, self.unit).await?;
        let notice_id = id_of(&client, &unit, &self.notice).await?;
        let state = show(&client, &unit, notice_id).await?;
        print_state(context.output(), &state)
    }
}

/// Asks `unit` for one notice.
///
/// # Errors
///
/// What the node says.
pub(crate) async fn show(
    client: &Client,
    unit: &str,
    notice_id: Vec<u8>,
) -> anyhow::Result<NoticeState> {
    let request = ShowNoticeRequest { unit: unit.to_owned(), notice_id };
    Ok(client.notices().show(request).await.context("cannot show the notice")?.into_inner())
}

impl Mark {
    async fn run(self, context: &Context<'_>, stage: ReceiptStage) -> anyhow::Result<()> {
        if stage == ReceiptStage::Seen && !self.note.is_empty() {
            let text = "only `notice done` takes a --note: leave it out".to_owned();
            return Err(Failure::Usage(text).into());
        }
        let client = context.client().await?;
        let unit = context.unit(&client, self.unit).await?;
        let notice_id = id_of(&client, &unit, &self.notice).await?;
        let request = MarkNoticeRequest { unit, notice_id, stage: stage.into(), note: self.note };
        let answer = client.notices().mark(request).await.context("cannot sign the receipt")?;
        print_state(context.output(), &answer.into_inner())
    }
}

impl Share {
    async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let client = context.client().await?;
        let unit = context.unit(&client, self.unit).await?;
        let notice_id = id_of(&client, &unit, &self.case).await?;
        let (to, dry_run) = (self.to.to_string(), self.dry_run);
        let request = ShareNoticeRequest { unit, notice_id, to, dry_run };
        let answer = client.notices().share(request).await.context("cannot share the notice")?;
        let (state, output) = (answer.into_inner(), context.output());
        if dry_run {
            output.note(output.fill(Text::SharedDryRun, &[&number(&state), &self.to]));
        }
        print_state(output, &state)
    }
}

/// Keys that were given later, in JSON.
pub(crate) fn given_json(given: &[KeyGiven]) -> Vec<Value> {
    given
        .iter()
        .map(|one| {
            json!({
                "by": one.by,
                "unit": one.unit,
                "desk": one.desk,
                "time_unix_ms": one.time_unix_ms,
            })
        })
        .collect()
}

/// Says that a body is sealed for others, and who was given its key later.
///
/// # Errors
///
/// The output cannot be written.
pub(crate) fn print_readers(
    output: &Output,
    sealed_for_others: bool,
    given: &[KeyGiven],
) -> anyhow::Result<()> {
    if sealed_for_others {
        output.line(output.text(Text::SealedForOthers))?;
    }
    for one in given {
        let reader = match one.desk.as_str() {
            "" => one.unit.clone(),
            desk => format!("{} {desk}", one.unit),
        };
        let time = values::time(one.time_unix_ms);
        output.line(output.fill(Text::KeyGiven, &[&time, &one.by, &reader]))?;
    }
    Ok(())
}

fn print_state(output: &Output, state: &NoticeState) -> anyhow::Result<()> {
    if output.is_json() {
        return Ok(output.document(&state_json(state))?);
    }
    let notice = state.notice.clone().unwrap_or_default();
    let facts = [
        (Text::Number, notice.number),
        (Text::Title, notice.title),
        (Text::Issuer, state.issuer.clone()),
        (Text::Destination, state.destination.clone()),
        (Text::Due, values::time(notice.due_unix_ms)),
        (Text::Id, values::id(&state.notice_id)),
    ];
    output.facts(facts)?;
    if state.exercise {
        output.line(output.text(Text::Exercise))?;
    }
    for line in notice.text.lines() {
        output.line(line)?;
    }
    print_readers(output, state.sealed_for_others, &state.given)?;
    let mut table = Table::new()
        .text(output.text(Text::Unit))
        .text(output.text(Text::Title))
        .text(output.text(Text::Stage))
        .text(output.text(Text::Time))
        .text(output.text(Text::Reason))
        .text(output.text(Text::Note));
    for recipient in &state.recipients {
        table.row([
            &recipient.unit,
            &recipient.title,
            words::stage(recipient.stage).shown(output.lang()),
            &values::time(recipient.stage_unix_ms),
            &recipient.reason,
            &recipient.note,
        ]);
    }
    Ok(output.table(&table, Text::NoRecipients)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recipient_is_counted_at_one_stage() {
        let at = |stage: ReceiptStage| Recipient { stage: stage.into(), ..Recipient::default() };
        let recipients = [
            at(ReceiptStage::Validated),
            at(ReceiptStage::Validated),
            at(ReceiptStage::Unspecified),
            at(ReceiptStage::Refused),
        ];
        let stages = stages_json(&recipients);
        assert_eq!(stages["validated"], 2);
        assert_eq!(stages["none"], 1);
        assert_eq!(stages["refused"], 1);
        assert_eq!(stages["done"], 0);
    }
}
