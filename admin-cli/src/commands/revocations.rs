//! Revocations as `lianxi node revocations` and `lianxi verify` show them.

use lianxi_node::{clock::UnixMillis, domain::revocation::Revocation, domain::unit::UnitCode};
use serde_json::{Value, json};

use crate::{output::Output, table::Table, texts::Text, values};

/// A revocation with what came of it.
#[derive(Clone, Debug)]
pub(crate) struct Shown<'a> {
    /// What it ends.
    pub(crate) revocation: &'a Revocation,
    /// Who revokes.
    pub(crate) by: &'a UnitCode,
    /// When it says that it was signed.
    pub(crate) time_unix_ms: UnixMillis,
    /// False if whoever revoked had no right to.
    pub(crate) counts: bool,
    /// What else is to be said.
    pub(crate) remark: &'a str,
}

impl Shown<'_> {
    fn since_unix_ms(&self) -> UnixMillis {
        self.revocation.cutoff(self.time_unix_ms)
    }

    /// As data.
    pub(crate) fn json(&self) -> Value {
        let Revocation { unit, desk, key_ids, serial, reason, text, .. } = self.revocation;
        json!({
            "unit": unit.to_string(),
            "desk": desk.as_ref().map(ToString::to_string),
            "by": self.by.to_string(),
            "since_unix_ms": self.since_unix_ms(),
            "signed_unix_ms": self.time_unix_ms,
            "reason": reason.as_str(),
            "text": text,
            "whole": *serial > 0,
            "key_ids": key_ids,
            "counts": self.counts,
        })
    }
}

/// One row for each.
pub(crate) fn table(output: &Output, shown: &[Shown<'_>]) -> Table {
    let mut table = Table::new()
        .text(output.text(Text::Unit))
        .text(output.text(Text::RevokedBy))
        .text(output.text(Text::RevokedSince))
        .text(output.text(Text::SignedAt))
        .text(output.text(Text::Reason))
        .text(output.text(Text::RevocationRemark));
    for one in shown {
        let counts = if one.counts { "" } else { output.text(Text::RevocationVoid) };
        let remarks = [counts, one.remark, one.revocation.text.as_str()];
        let remarks: Vec<&str> = remarks.into_iter().filter(|it| !it.is_empty()).collect();
        table.row([
            one.revocation.holder(),
            one.by.to_string(),
            values::time(one.since_unix_ms()),
            values::time(one.time_unix_ms),
            one.revocation.reason.as_str().to_owned(),
            remarks.join("; "),
        ]);
    }
    table
}
