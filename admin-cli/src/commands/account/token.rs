//! `lianxi account token`: standing permissions of systems.

use anyhow::Context as _;
use clap::Subcommand;
use lianxi_proto::admin::v1::{AddTokenRequest, ApiToken, EndTokenRequest, ListTokensRequest};
use serde_json::{Value, json};

use super::{Context, RoleAt, view};
use crate::{table::Table, texts::Text, values, values::Span};

/// What to do with tokens.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Make a token of some of your own roles; it is shown once
    Add(Add),
    /// List your tokens
    List(List),
    /// End a token
    End(End),
}

/// Arguments of `lianxi account token add`.
#[derive(Debug, clap::Args)]
pub(crate) struct Add {
    /// What it is for
    title: String,
    /// Role and its unit, of those that you hold, e.g. operator@310101001
    #[arg(long, value_name = "ROLE@UNIT", required = true)]
    role: Vec<RoleAt>,
    /// Only this method, e.g. RecordService/Import; can be given more than once
    #[arg(long, value_name = "SERVICE/METHOD")]
    method: Vec<String>,
    /// How long it works, a year at most
    #[arg(long, value_name = "TIME", default_value = "90d")]
    valid_for: Span,
}

/// Arguments of `lianxi account token list`.
#[derive(Debug, clap::Args)]
pub(crate) struct List {}

/// Arguments of `lianxi account token end`.
#[derive(Debug, clap::Args)]
pub(crate) struct End {
    /// Number of the token
    id: u64,
}

impl Verb {
    pub(super) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        match self {
            Self::Add(add) => add.run(context).await,
            Self::List(list) => list.run(context).await,
            Self::End(end) => end.run(context).await,
        }
    }
}

impl Add {
    async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let client = context.client().await?;
        let request = AddTokenRequest {
            title: self.title,
            roles: self.role.into_iter().map(|role| role.0).collect(),
            methods: self.method,
            valid_for_ms: self.valid_for.as_ms(),
        };
        let answer = client.accounts().add_token(request).await.context("cannot make a token")?;
        let made = answer.into_inner();
        let output = context.output();
        if output.is_json() {
            let (token, id, ends) = (made.token, made.id, made.ends_unix_ms);
            let document = json!({ "token": token, "id": id, "ends_unix_ms": ends });
            return Ok(output.document(&document)?);
        }
        output.line(&made.token)?;
        let ends = values::time(made.ends_unix_ms);
        output.note(output.fill(Text::TokenShownOnce, &[&made.id, &ends]));
        Ok(())
    }
}

impl List {
    async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let client = context.client().await?;
        let answer = client.accounts().list_tokens(ListTokensRequest {}).await;
        let tokens = answer.context("cannot list the tokens")?.into_inner().tokens;
        let output = context.output();
        if output.is_json() {
            let tokens: Vec<Value> = tokens.iter().map(token_json).collect();
            return Ok(output.document(&json!({ "tokens": tokens }))?);
        }
        let mut table = Table::new()
            .number(output.text(Text::PersonNumber))
            .text(output.text(Text::Account))
            .text(output.text(Text::Title))
            .text(output.text(Text::Roles))
            .text(output.text(Text::Ends));
        for token in &tokens {
            table.row([
                token.id.to_string(),
                token.account.clone(),
                token.title.clone(),
                view::grants(&token.roles),
                values::time(token.ends_unix_ms),
            ]);
        }
        Ok(output.table(&table, Text::NoTokens)?)
    }
}

fn token_json(token: &ApiToken) -> Value {
    json!({
        "id": token.id,
        "account": token.account,
        "title": token.title,
        "roles": token.roles.iter().map(view::grant).collect::<Vec<_>>(),
        "methods": token.methods,
        "created_unix_ms": token.created_unix_ms,
        "ends_unix_ms": token.ends_unix_ms,
    })
}

impl End {
    async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let client = context.client().await?;
        let request = EndTokenRequest { id: self.id };
        client.accounts().end_token(request).await.context("cannot end the token")?;
        let output = context.output();
        if output.is_json() {
            return Ok(output.document(&json!({ "id": self.id, "ended": true }))?);
        }
        output.note(output.fill(Text::TokenEnded, &[&self.id]));
        Ok(())
    }
}
