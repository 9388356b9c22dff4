//! `lianxi escalation`: whistles upward and the desks' steps.

use anyhow::Context as _;
use clap::{Subcommand, ValueEnum};
use lianxi_node::domain::unit::{DeskId, UnitCode};
use lianxi_proto::{
    local::v1::{
        AddEscalationDeskRequest, EscalationHistory, EscalationState, ListEscalationsRequest,
        RaiseEscalationRequest, ShareEscalationRequest, ShowEscalationRequest,
        StepEscalationRequest,
    },
    types::v1::{Escalation, EscalationKind, EscalationStep},
};
use serde_json::{Value, json};

use super::{
    Context,
    notice::{Share, given_json, print_readers},
};
use crate::{
    client::Client,
    output::Output,
    table::Table,
    texts::Text,
    values::{self, Span},
    words,
};

/// What to do with whistles.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Blow the whistle as a street (吹哨)
    Raise(Box<Raise>),
    /// List cases that the unit raised or is called for
    List(List),
    /// Show a case with its history
    Show(Show),
    /// The desk will come (应哨)
    Answer(Step),
    /// The desk is there (报到)
    Arrive(Step),
    /// The desk says that it is dealt with (处置)
    Handled(Step),
    /// The street closes the case (销号)
    Close(Step),
    /// The street takes the whistle back (撤哨)
    Withdraw(Step),
    /// Call one more desk of the called unit, and give it the sealed body
    AddDesk(AddDesk),
    /// Give the sealed body to a unit that is no side of the case
    Share(Share),
}

/// Kind of a whistle, which decides its limits.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    /// 日常
    Routine,
    /// 攻坚
    Hard,
    /// 应急
    Emergency,
}

impl From<Kind> for EscalationKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Routine => Self::Routine,
            Kind::Hard => Self::Hard,
            Kind::Emergency => Self::Emergency,
        }
    }
}

/// Arguments of `lianxi escalation raise`.
#[derive(Debug, clap::Args)]
pub(crate) struct Raise {
    /// Number that people say
    #[arg(long)]
    number: String,
    /// Kind, which decides the limits of the catalogue
    #[arg(long, value_enum)]
    kind: Kind,
    /// What it is about, without personal data
    #[arg(long)]
    title: String,
    /// More about it, without personal data
    #[arg(long, default_value = "")]
    text: String,
    /// Desk that leads
    #[arg(long)]
    desk: DeskId,
    /// Desk that helps; can be given more than once
    #[arg(long)]
    co_desk: Vec<DeskId>,
    /// Unit of the desks, an ancestor [default: the parent]
    #[arg(long)]
    to: Option<UnitCode>,
    /// Limit to answer [default: the catalogue's]
    #[arg(long, value_name = "TIME")]
    answer_within: Option<Span>,
    /// Limit to arrive [default: the catalogue's]
    #[arg(long, value_name = "TIME")]
    arrive_within: Option<Span>,
    /// Role or post that approved the whistle, never a name
    #[arg(long)]
    approved_by: String,
    /// An exercise: never counted in live figures or lamps
    #[arg(long)]
    exercise: bool,
    /// Street that raises [default: the one that the host is for]
    #[arg(long)]
    unit: Option<UnitCode>,
}

/// Arguments of `lianxi escalation list`.
#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// Unit [default: the one that the host is for]
    #[arg(long)]
    unit: Option<UnitCode>,
}

/// Arguments of `lianxi escalation show`.
#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    /// Id or number of the case
    case: String,
    /// Unit [default: the one that the host is for]
    #[arg(long)]
    unit: Option<UnitCode>,
}

/// Arguments of the steps of a case.
#[derive(Debug, clap::Args)]
pub(crate) struct Step {
    /// Id or number of the case
    case: String,
    /// Desk that takes the step [default: the unit itself]
    #[arg(long)]
    desk: Option<DeskId>,
    /// What there is to say, without personal data
    #[arg(long, default_value = "")]
    note: String,
    /// Unit [default: the one that the host is for]
    #[arg(long)]
    unit: Option<UnitCode>,
}

/// Arguments of `lianxi escalation add-desk`.
#[derive(Debug, clap::Args)]
pub(crate) struct AddDesk {
    /// Id or number of the case
    case: String,
    /// Desk of the called unit
    #[arg(long)]
    desk: DeskId,
    /// Say what would not hold, change nothing
    #[arg(long)]
    dry_run: bool,
    /// Side of the case [default: the one that the host is for]
    #[arg(long)]
    unit: Option<UnitCode>,
}

impl Verb {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        match self {
            Self::Raise(raise) => raise.run(context).await,
            Self::List(list) => list.run(context).await,
            Self::Show(show) => show.run(context).await,
            Self::Answer(step) => step.run(context, EscalationStep::Answered).await,
            Self::Arrive(step) => step.run(context, EscalationStep::Arrived).await,
            Self::Handled(step) => step.run(context, EscalationStep::Handled).await,
            Self::Close(step) => step.run(context, EscalationStep::Closed).await,
            Self::Withdraw(step) => step.run(context, EscalationStep::Withdrawn).await,
            Self::AddDesk(add) => add.run(context).await,
            Self::Share(share) => share_case(share, context).await,
        }
    }
}

impl Raise {
    async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let client = context.client().await?;
        let escalation = Escalation {
            number: self.number,
            kind: EscalationKind::from(self.kind).into(),
            title: self.title,
            text: self.text,
            lead_desk: self.desk.to_string(),
            co_desks: self.co_desk.iter().map(ToString::to_string).collect(),
            answer_within_ms: self.answer_within.map_or(0, Span::as_ms),
            arrive_within_ms: self.arrive_within.map_or(0, Span::as_ms),
            approved_by: self.approved_by,
        };
        let request = RaiseEscalationRequest {
            unit: context.unit(&client, self.unit).await?,
            destination: self.to.map(String::from).unwrap_or_default(),
            escalation: Some(escalation),
            exercise: self.exercise,
        };
        let answer =
            client.escalations().raise(request).await.context("cannot raise the whistle")?;
        let (state, output) = (answer.into_inner(), context.output());
        if output.is_json() {
            return Ok(output.document(&state_json(&state))?);
        }
        let id = values::id(&state.escalation_id);
        output.note(output.fill(Text::WhistleRaised, &[&number(&state), &id]));
        Ok(())
    }
}

/// Cases that `unit` knows.
///
/// # Errors
///
/// What the node says.
pub(crate) async fn list(client: &Client, unit: &str) -> anyhow::Result<Vec<EscalationState>> {
    let request = ListEscalationsRequest { unit: unit.to_owned() };
    let answer = client.escalations().list(request).await.context("cannot list whistles")?;
    Ok(answer.into_inner().escalations)
}

/// Number of a case.
pub(crate) fn number(state: &EscalationState) -> &str {
    state.escalation.as_ref().map_or("", |escalation| escalation.number.as_str())
}

/// The id that an argument means: an id, or a number that one case of the unit has.
async fn id_of(client: &Client, unit: &str, argument: &str) -> anyhow::Result<Vec<u8>> {
    if let Some(id) = values::id_bytes(argument) {
        return Ok(id);
    }
    let cases = list(client, unit).await?;
    let numbers = cases.iter().map(|state| (number(state), state.escalation_id.as_slice()));
    super::by_number(argument, numbers)
}

impl List {
    async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let client = context.client().await?;
        let unit = context.unit(&client, self.unit).await?;
        let cases = list(&client, &unit).await?;
        let output = context.output();
        if output.is_json() {
            let cases: Vec<Value> = cases.iter().map(state_json).collect();
            return Ok(output.document(&json!({ "unit": unit, "escalations": cases }))?);
        }
        Ok(output.table(&list_table(output, &cases), Text::NoWhistles)?)
    }
}

fn list_table(output: &Output, cases: &[EscalationState]) -> Table {
    let mut table = Table::new()
        .text(output.text(Text::Number))
        .text(output.text(Text::Kind))
        .text(output.text(Text::Title))
        .text(output.text(Text::WhistleFrom))
        .text(output.text(Text::WhistleTo))
        .text(output.text(Text::Desk))
        .text(output.text(Text::State))
        .text(output.text(Text::Lamp))
        .text(output.text(Text::Due))
        .text(output.text(Text::Id));
    for state in cases {
        let escalation = state.escalation.clone().unwrap_or_default();
        table.row([
            &escalation.number,
            words::kind(escalation.kind).shown(output.lang()),
            &escalation.title,
            &state.source,
            &state.destination,
            &escalation.lead_desk,
            words::step(state.state).shown(output.lang()),
            words::lamp(&state.lamp, output.lang()),
            &values::time(state.due_unix_ms),
            &values::id(&state.escalation_id),
        ]);
    }
    table
}

impl Show {
    async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let client = context.client().await?;
        let unit = context.unit(&client, self.unit).await?;
        let escalation_id = id_of(&client, &unit, &self.case).await?;
        print_state(context.output(), &show(&client, &unit, escalation_id).await?)
    }
}

/// Asks `unit` for one case.
///
/// # Errors
///
/// What the node says.
pub(crate) async fn show(
    client: &Client,
    unit: &str,
    escalation_id: Vec<u8>,
) -> anyhow::Result<EscalationState> {
    let request = ShowEscalationRequest { unit: unit.to_owned(), escalation_id };
    Ok(client.escalations().show(request).await.context("cannot show the whistle")?.into_inner())
}

impl Step {
    async fn run(self, context: &Context<'_>, step: EscalationStep) -> anyhow::Result<()> {
        let client = context.client().await?;
        let unit = context.unit(&client, self.unit).await?;
        let request = StepEscalationRequest {
            escalation_id: id_of(&client, &unit, &self.case).await?,
            unit,
            step: step.into(),
            desk: self.desk.map(String::from).unwrap_or_default(),
            note: self.note,
        };
        let answer = client.escalations().step(request).await.context("cannot take the step")?;
        print_state(context.output(), &answer.into_inner())
    }
}

impl AddDesk {
    async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let client = context.client().await?;
        let unit = context.unit(&client, self.unit).await?;
        let escalation_id = id_of(&client, &unit, &self.case).await?;
        let (desk, dry_run) = (self.desk.to_string(), self.dry_run);
        let request = AddEscalationDeskRequest { unit, escalation_id, desk, dry_run };
        let answer =
            client.escalations().add_desk(request).await.context("cannot call the desk")?;
        let (state, output) = (answer.into_inner(), context.output());
        if dry_run {
            output.note(output.fill(Text::SharedDryRun, &[&number(&state), &self.desk]));
        }
        print_state(output, &state)
    }
}

async fn share_case(share: Share, context: &Context<'_>) -> anyhow::Result<()> {
    let client = context.client().await?;
    let unit = context.unit(&client, share.unit).await?;
    let escalation_id = id_of(&client, &unit, &share.case).await?;
    let (to, dry_run) = (share.to.to_string(), share.dry_run);
    let request = ShareEscalationRequest { unit, escalation_id, to, dry_run };
    let answer = client.escalations().share(request).await.context("cannot share the whistle")?;
    let (state, output) = (answer.into_inner(), context.output());
    if dry_run {
        output.note(output.fill(Text::SharedDryRun, &[&number(&state), &share.to]));
    }
    print_state(output, &state)
}

/// A case in JSON.
pub(crate) fn state_json(state: &EscalationState) -> Value {
    let escalation = state.escalation.clone().unwrap_or_default();
    let history: Vec<Value> = state.history.iter().map(history_json).collect();
    json!({
        "escalation_id": values::id(&state.escalation_id),
        "number": escalation.number,
        "kind": words::kind(escalation.kind).json,
        "title": escalation.title,
        "text": escalation.text,
        "source": state.source,
        "destination": state.destination,
        "lead_desk": escalation.lead_desk,
        "co_desks": escalation.co_desks,
        "added_desks": state.added_desks,
        "answer_within_ms": escalation.answer_within_ms,
        "arrive_within_ms": escalation.arrive_within_ms,
        "approved_by": escalation.approved_by,
        "raised_unix_ms": state.raised_unix_ms,
        "state": words::step(state.state).json,
        "lamp": state.lamp,
        "due_unix_ms": state.due_unix_ms,
        "exercise": state.exercise,
        "sealed_for_others": state.sealed_for_others,
        "given": given_json(&state.given),
        "history": history,
    })
}

fn history_json(entry: &EscalationHistory) -> Value {
    json!({
        "step": words::step(entry.step).json,
        "unit": entry.unit,
        "desk": entry.desk,
        "note": entry.note,
        "time_unix_ms": entry.time_unix_ms,
    })
}

fn print_state(output: &Output, state: &EscalationState) -> anyhow::Result<()> {
    if output.is_json() {
        return Ok(output.document(&state_json(state))?);
    }
    let escalation = state.escalation.clone().unwrap_or_default();
    let lang = output.lang();
    let facts = [
        (Text::Number, escalation.number),
        (Text::Kind, words::kind(escalation.kind).shown(lang).to_owned()),
        (Text::Title, escalation.title),
        (Text::WhistleFrom, state.source.clone()),
        (Text::WhistleTo, state.destination.clone()),
        (Text::Desk, escalation.lead_desk),
        (Text::State, words::step(state.state).shown(lang).to_owned()),
        (Text::Lamp, words::lamp(&state.lamp, lang).to_owned()),
        (Text::Due, values::time(state.due_unix_ms)),
        (Text::Id, values::id(&state.escalation_id)),
    ];
    output.facts(facts)?;
    if state.exercise {
        output.line(output.text(Text::Exercise))?;
    }
    for line in escalation.text.lines() {
        output.line(line)?;
    }
    print_readers(output, state.sealed_for_others, &state.given)?;
    let mut table = Table::new()
        .text(output.text(Text::Time))
        .text(output.text(Text::State))
        .text(output.text(Text::Unit))
        .text(output.text(Text::Desk))
        .text(output.text(Text::Note));
    for entry in &state.history {
        table.row([
            &values::time(entry.time_unix_ms),
            words::step(entry.step).shown(lang),
            &entry.unit,
            &entry.desk,
            &entry.note,
        ]);
    }
    if table.is_empty() {
        return Ok(());
    }
    Ok(output.table(&table, Text::NoWhistles)?)
}
