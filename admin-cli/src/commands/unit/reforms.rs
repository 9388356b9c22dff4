//! `lianxi unit reforms`: reforms that concern a unit, and how one is shown.

use anyhow::Context as _;
use lianxi_node::domain::unit::UnitCode;
use lianxi_proto::admin::v1::{ListReformsRequest, Reform, ReformAnswer};
use serde_json::{Value, json};

use super::super::Context;
use crate::{output::Output, table::Table, texts::Text, values};

/// Arguments of `lianxi unit reforms`.
#[derive(Debug, clap::Args)]
pub(crate) struct Reforms {
    /// Unit of this host [default: the one that the host is for]
    #[arg(long)]
    unit: Option<UnitCode>,
}

impl Reforms {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context<'_>) -> anyhow::Result<()> {
        let (client, output) = (context.client().await?, context.output());
        let unit = context.unit(&client, self.unit).await?;
        let request = ListReformsRequest { unit, id: Vec::new() };
        let answer = client.reforms().list(request).await.context("cannot list the reforms")?;
        let reforms = answer.into_inner().reforms;
        if output.is_json() {
            let reforms: Vec<Value> = reforms.iter().map(reform_json).collect();
            return Ok(output.document(&json!({ "reforms": reforms }))?);
        }
        let mut table = Table::new()
            .text(output.text(Text::Unit))
            .text(output.text(Text::OldParent))
            .text(output.text(Text::NewParent))
            .text(output.text(Text::FromDay))
            .text(output.text(Text::State))
            .text(output.text(Text::NotAnswered));
        for reform in &reforms {
            let state = output.text(state(reform).1);
            let silent = reform.silent.join(", ");
            let row = [&reform.moving, &reform.from, &reform.to, &reform.on, state, &silent];
            table.row(row);
        }
        Ok(output.table(&table, Text::NoReforms)?)
    }
}

/// How far a reform is: as data, and for people.
fn state(reform: &Reform) -> (&'static str, Text) {
    if reform.answers.iter().any(|answer| !answer.refused.is_empty()) {
        ("refused", Text::ReformRefused)
    } else if reform.ended || (!reform.merge && reform.released_unix_ms > 0) {
        ("done", Text::ReformDone)
    } else if reform.moved_unix_ms > 0 {
        ("moved", Text::ReformMoved)
    } else if reform.silent.is_empty() {
        ("dated", Text::ReformDated)
    } else {
        ("ordered", Text::ReformOrdered)
    }
}

/// A reform as data.
pub(super) fn reform_json(reform: &Reform) -> Value {
    json!({
        "id": values::id(&reform.id),
        "by": reform.by,
        "unit": reform.moving,
        "from": reform.from,
        "to": reform.to,
        "on": reform.on,
        "text": reform.text,
        "merge": reform.merge,
        "split": reform.divides,
        "items": reform.items.iter().map(|id| values::id(id)).collect::<Vec<_>>(),
        "part_of": if reform.part_of.is_empty() { String::new() } else { values::id(&reform.part_of) },
        "children": reform.children,
        "state": state(reform).0,
        "answers": reform.answers.iter().map(answer_json).collect::<Vec<_>>(),
        "silent": reform.silent,
        "moved_unix_ms": reform.moved_unix_ms,
        "released_unix_ms": reform.released_unix_ms,
    })
}

fn answer_json(answer: &ReformAnswer) -> Value {
    let open = answer.open.iter();
    let open: Vec<Value> = open
        .map(|item| {
            json!({
                "kind": item.kind,
                "id": values::id(&item.id),
                "number": item.number,
                "party": item.party,
                "successor": item.successor,
            })
        })
        .collect();
    json!({
        "unit": answer.unit,
        "records": answer.records,
        "accounts": answer.accounts,
        "notices": answer.notices,
        "escalations": answer.escalations,
        "clocks": answer.clocks,
        "open": open,
        "successor": answer.successor,
        "refused": answer.refused,
    })
}

/// Prints what a reform concerns, unit by unit, with who has it from the day on.
pub(super) fn print(output: &Output, reform: &Reform) -> anyhow::Result<()> {
    let mut table = Table::new()
        .text(output.text(Text::Unit))
        .number(output.text(Text::Records))
        .number(output.text(Text::Accounts))
        .number(output.text(Text::Notices))
        .number(output.text(Text::Escalations))
        .number(output.text(Text::Clocks))
        .text(output.text(Text::Successor));
    for answer in &reform.answers {
        let counts = [
            answer.records.to_string(),
            answer.accounts.to_string(),
            answer.notices.to_string(),
            answer.escalations.to_string(),
            answer.clocks.to_string(),
        ];
        let [records, accounts, notices, escalations, clocks] = &counts;
        let unit = &answer.unit;
        table.row([unit, records, accounts, notices, escalations, clocks, &answer.successor]);
    }
    output.table(&table, Text::NobodyAnswered)?;
    for answer in &reform.answers {
        for item in &answer.open {
            let (kind, number, party) = (&item.kind, &item.number, &item.party);
            let mut line = format!("{}  {kind} {number} ({party})", answer.unit);
            if !item.successor.is_empty() {
                line.push_str(&format!(" → {}", item.successor));
            }
            output.line(line)?;
        }
        if !answer.refused.is_empty() {
            output.note(output.fill(Text::PartRefused, &[&answer.unit, &answer.refused]));
        }
    }
    if (reform.merge || reform.divides) && !reform.children.is_empty() {
        let (count, first) = (reform.children.len().to_string(), reform.children.join(", "));
        output.note(output.fill(Text::ChildrenCome, &[&count, &reform.to, &first]));
    }
    for unit in &reform.silent {
        output.note(output.fill(Text::PartSilent, &[unit]));
    }
    Ok(())
}
