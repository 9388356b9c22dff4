//! The exact link that does not hold.

use std::fmt;

use crate::{
    domain::unit::UnitCode,
    identity::trust,
    statement::{
        Envelope,
        header::{self, Malformed},
        pack::Fault,
    },
};

/// Why a file is not believed: where it breaks, and in which fixed word.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Broken {
    /// Fixed word; `docs/protocol.md` lists them.
    pub reason: &'static str,
    /// Number of the part in the file, from 0; `None`: the file as a whole.
    pub part: Option<usize>,
    /// Unit that the part says it is of. If its signature does not hold, this is a claim.
    pub unit: Option<UnitCode>,
    /// Id of the statement, as it claims.
    pub statement_id: Option<String>,
    /// Type of the statement, as it claims.
    pub kind: Option<String>,
    /// The field at fault as a dotted path; empty: the whole.
    pub field: String,
    /// One sentence.
    pub detail: String,
}

impl std::error::Error for Broken {}

impl fmt::Display for Broken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.reason)?;
        if let Some(part) = self.part {
            write!(formatter, " at part {part}")?;
        }
        if let Some(kind) = &self.kind {
            write!(formatter, ", {kind}")?;
        }
        if let Some(unit) = &self.unit {
            write!(formatter, " of {unit}")?;
        }
        if let Some(id) = &self.statement_id {
            write!(formatter, ", statement {id}")?;
        }
        if !self.field.is_empty() {
            write!(formatter, ", field {}", self.field)?;
        }
        write!(formatter, ": {}", self.detail)
    }
}

/// A part that is being judged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) part: usize,
    pub(super) envelope: &'a Envelope,
}

impl Place<'_> {
    /// What does not hold here.
    pub(super) fn broken(
        self,
        reason: &'static str,
        field: &str,
        detail: impl fmt::Display,
    ) -> Box<Broken> {
        // Read without belief, to name the part for whoever has to look.
        let claimed = header::decode(&self.envelope.payload).ok().map(|claimed| claimed.header);
        let about = claimed.as_ref().map(|header| {
            let is_grant = header.kind == header::kinds::DELEGATION;
            let subject = header.subject.parse().ok().filter(|_| is_grant);
            subject.unwrap_or_else(|| header.source.clone())
        });
        Box::new(Broken {
            reason,
            part: Some(self.part),
            unit: about,
            statement_id: claimed.as_ref().map(|header| header.id.to_string()),
            kind: claimed.map(|header| header.kind),
            field: field.to_owned(),
            detail: detail.to_string(),
        })
    }

    pub(super) fn distrusted(self, error: &trust::Error) -> Box<Broken> {
        self.broken(error.reason(), error.field(), error)
    }

    pub(super) fn malformed(self, error: &Malformed) -> Box<Broken> {
        self.broken("malformed", &error.field, &error.reason)
    }
}

impl From<Fault> for Box<Broken> {
    fn from(fault: Fault) -> Self {
        let field = match &fault {
            Fault::Malformed(_, error) => error.field.clone(),
            Fault::NotAPack
            | Fault::NoRevocations
            | Fault::Version(_)
            | Fault::TooLarge
            | Fault::Truncated(_)
            | Fault::TrailingBytes
            | Fault::NotCanonical(_)
            | Fault::PartOrder(_) => String::new(),
        };
        Self::new(Broken {
            reason: fault.reason(),
            part: fault.part(),
            unit: None,
            statement_id: None,
            kind: None,
            field,
            detail: fault.to_string(),
        })
    }
}
