//! How accounts look: roles, tables, documents.

use std::fmt::Display;

use lianxi_proto::admin::v1::{
    Account, ActivationResponse, CloseAccountResponse, HeldRole, RoleGrant, WhoamiResponse,
};
use serde_json::{Value, json};

use crate::{output::Output, table::Table, texts::Text, values};

/// A role as it is typed: `operator@310101001`.
pub(super) fn grant(grant: &RoleGrant) -> String {
    if grant.unit.is_empty() {
        grant.role.clone()
    } else {
        format!("{}@{}", grant.role, grant.unit)
    }
}

/// Roles as they are typed.
pub(super) fn grants(grants: &[RoleGrant]) -> String {
    grants.iter().map(grant).collect::<Vec<_>>().join(", ")
}

fn of_held(held: &HeldRole) -> String {
    held.grant.as_ref().map(grant).unwrap_or_default()
}

/// A role in force, with the head whose deputy the person is.
pub(super) fn held(output: &Output, held: &HeldRole) -> String {
    if held.on_behalf_of.is_empty() {
        return of_held(held);
    }
    output.fill(Text::DeputyOf, &[&of_held(held), &held.on_behalf_of])
}

pub(super) fn whoami_json(me: &WhoamiResponse) -> Value {
    let roles = me
        .roles
        .iter()
        .map(|held| json!({ "role": of_held(held), "on_behalf_of": held.on_behalf_of }));
    json!({
        "name": me.name,
        "uid": me.uid,
        "roles": roles.collect::<Vec<_>>(),
        "token": me.token,
        "accounts_exist": me.accounts_exist,
    })
}

pub(super) fn account_json(account: &Account) -> Value {
    let deputies = account.deputies.iter().map(|deputy| {
        json!({
            "name": deputy.name,
            "from_unix_ms": deputy.from_unix_ms,
            "until_unix_ms": deputy.until_unix_ms,
        })
    });
    json!({
        "name": account.name,
        "title": account.title,
        "roles": account.roles.iter().map(grant).collect::<Vec<_>>(),
        "state": account.state,
        "created_unix_ms": account.created_unix_ms,
        "last_login_unix_ms": account.last_login_unix_ms,
        "deputies": deputies.collect::<Vec<_>>(),
        "tokens": account.tokens,
        "successor": account.successor,
    })
}

pub(super) fn account_table(output: &Output, accounts: &[Account]) -> Table {
    let mut table = Table::new()
        .text(output.text(Text::Account))
        .text(output.text(Text::Person))
        .text(output.text(Text::RolesState))
        .text(output.text(Text::Roles))
        .text(output.text(Text::LastLogin));
    for account in accounts {
        table.row([
            account.name.clone(),
            account.title.clone(),
            account.state.clone(),
            grants(&account.roles),
            values::time(account.last_login_unix_ms),
        ]);
    }
    table
}

/// Shows an activation code, once.
pub(crate) fn activation(output: &Output, made: &ActivationResponse) -> anyhow::Result<()> {
    if output.is_json() {
        let document = json!({ "name": made.name, "activation_code": made.activation_code });
        return Ok(output.document(&document)?);
    }
    output.line(&made.activation_code)?;
    output.note(output.fill(Text::ActivationHint, &[&made.name, &made.name]));
    Ok(())
}

/// Shows what went to a successor.
pub(crate) fn handed_over(
    output: &Output,
    successor: &str,
    counts: &CloseAccountResponse,
    dry_run: bool,
) -> anyhow::Result<()> {
    if output.is_json() {
        let document = json!({
            "successor": successor,
            "approvals": counts.approvals,
            "deputies": counts.deputies,
            "tokens_ended": counts.tokens_ended,
            "sessions_ended": counts.sessions_ended,
            "dry_run": dry_run,
        });
        return Ok(output.document(&document)?);
    }
    let text = if dry_run { Text::WouldHandOver } else { Text::HandedOver };
    let values: [&dyn Display; 5] = [
        &successor,
        &counts.approvals,
        &counts.deputies,
        &counts.tokens_ended,
        &counts.sessions_ended,
    ];
    output.note(output.fill(text, &values));
    Ok(())
}

/// Says that something about an account is done.
pub(super) fn done(
    output: &Output,
    name: &str,
    text: Text,
    values: &[&dyn Display],
) -> anyhow::Result<()> {
    if output.is_json() {
        return Ok(output.document(&json!({ "name": name, "done": true }))?);
    }
    output.note(output.fill(text, values));
    Ok(())
}
