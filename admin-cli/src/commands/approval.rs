//! `lianxi approval`: acts that wait for a second person.

use anyhow::Context as _;
use clap::Subcommand;
use lianxi_proto::{
    admin::v1::{
        ActivationResponse, Approval, CloseAccountResponse, ConfirmRequest, InviteResponse,
        ListApprovalsRequest, RefuseRequest,
    },
    local::v1::EscalationState,
};
use prost::Message as _;
use serde_json::{Value, json};

use super::{Context, account};
use crate::{output::Output, table::Table, texts::Text, values};

/// What to do with acts that wait.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// List what you asked for, and what you can decide
    List(List),
    /// Confirm an act as its second person; it is done at once
    Confirm(Decide),
    /// Refuse an act, or take back your own
    Refuse(Decide),
}

/// Arguments of `lianxi approval list`.
#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// Decided and lapsed ones too
    #[arg(long)]
    all: bool,
}

/// Arguments of `lianxi approval confirm` and `refuse`.
#[derive(Debug, clap::Args)]
pub(crate) struct Decide {
    /// Number under which the act waits
    id: u64,
}

impl Verb {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        match self {
            Self::List(list) => list.run(context).await,
            Self::Confirm(decide) => confirm(context, decide.id).await,
            Self::Refuse(decide) => refuse(context, decide.id).await,
        }
    }
}

impl List {
    async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let client = context.client().await?;
        let answer = client.approvals().list(ListApprovalsRequest { all: self.all }).await;
        let approvals = answer.context("cannot list what waits")?.into_inner().approvals;
        let output = context.output();
        if output.is_json() {
            let approvals: Vec<Value> = approvals.iter().map(approval_json).collect();
            return Ok(output.document(&json!({ "approvals": approvals }))?);
        }
        let mut table = Table::new()
            .number(output.text(Text::PersonNumber))
            .text(output.text(Text::Act))
            .text(output.text(Text::PersonSubject))
            .text(output.text(Text::AskedBy))
            .text(output.text(Text::RolesState))
            .text(output.text(Text::DecidedBy))
            .text(output.text(Text::Ends));
        for approval in &approvals {
            let details = approval.details.join("; ");
            let about = if details.is_empty() { approval.subject.clone() } else { details };
            table.row([
                approval.id.to_string(),
                approval.act.clone(),
                about,
                approval.asked_by.clone(),
                approval.state.clone(),
                approval.decided_by.clone(),
                values::time(approval.ends_unix_ms),
            ]);
        }
        Ok(output.table(&table, Text::NoApprovals)?)
    }
}

fn approval_json(approval: &Approval) -> Value {
    json!({
        "id": approval.id,
        "act": approval.act,
        "subject": approval.subject,
        "details": approval.details,
        "asked_by": approval.asked_by,
        "asked_unix_ms": approval.asked_unix_ms,
        "ends_unix_ms": approval.ends_unix_ms,
        "state": approval.state,
        "decided_by": approval.decided_by,
        "failure": approval.failure,
    })
}

async fn confirm(context: &Context<'_>, id: u64) -> anyhow::Result<()> {
    let client = context.client().await?;
    let answer = client.approvals().confirm(ConfirmRequest { id }).await;
    let confirmed = answer.context("cannot confirm")?.into_inner();
    let output = context.output();
    let approval = confirmed.approval.unwrap_or_default();
    if !output.is_json() {
        output.note(output.fill(Text::ApprovalDone, &[&approval.act]));
    }
    result(output, &approval, &confirmed.path, &confirmed.response)
}

/// What the confirmed act brought: a secret that is shown once, or a number.
fn result(output: &Output, approval: &Approval, path: &str, response: &[u8]) -> anyhow::Result<()> {
    match path.rsplit_once('.').map_or(path, |(_, method)| method) {
        "AccountService/Add" | "AccountService/ResetFactor" => {
            account::view::activation(output, &ActivationResponse::decode(response)?)
        }
        "AccountService/Close" => {
            let successor = approval.subject.rsplit(' ').next().unwrap_or_default();
            let counts = CloseAccountResponse::decode(response)?;
            account::view::handed_over(output, successor, &counts, false)
        }
        "NodeService/Invite" => {
            let InviteResponse { token, expires_unix_ms, .. } = InviteResponse::decode(response)?;
            if output.is_json() {
                let document = json!({ "token": token, "expires_unix_ms": expires_unix_ms });
                return Ok(output.document(&document)?);
            }
            output.line(token)?;
            output.note(output.fill(Text::InviteHint, &[&values::time(expires_unix_ms)]));
            Ok(())
        }
        "EscalationService/Raise" if output.is_json() => {
            let raised = EscalationState::decode(response)?;
            let document = json!({ "escalation": values::id(&raised.escalation_id) });
            Ok(output.document(&document)?)
        }
        _ if output.is_json() => Ok(output.document(&approval_json(approval))?),
        _ => Ok(()),
    }
}

async fn refuse(context: &Context<'_>, id: u64) -> anyhow::Result<()> {
    let client = context.client().await?;
    let answer = client.approvals().refuse(RefuseRequest { id }).await;
    let approval = answer.context("cannot refuse")?.into_inner().approval.unwrap_or_default();
    let output = context.output();
    if output.is_json() {
        return Ok(output.document(&approval_json(&approval))?);
    }
    output.note(output.fill(Text::ApprovalRefused, &[&approval.act]));
    Ok(())
}
