//! The one place that turns errors of services into gRPC codes. Text of internal errors stays in
//! the log of the node.

use tonic::{Code, Status};

use crate::{
    domain::unit::{self, UnitCode},
    services::error::{ErrorKind, ServiceError},
    statement::header::{Malformed, StatementId},
};

/// Maps a service's error.
pub fn to_status(error: impl ServiceError) -> Status {
    let code = match error.kind() {
        ErrorKind::InvalidArgument => Code::InvalidArgument,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::AlreadyExists => Code::AlreadyExists,
        ErrorKind::PermissionDenied => Code::PermissionDenied,
        ErrorKind::Unauthenticated => Code::Unauthenticated,
        ErrorKind::FailedPrecondition => Code::FailedPrecondition,
        ErrorKind::ResourceExhausted => Code::ResourceExhausted,
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::Internal => {
            tracing::error!(error = %chain(&error), "request failed");
            return Status::internal("the node failed; its log has the reason");
        }
    };
    Status::new(code, chain(&error))
}

/// The error with its causes, `: ` between them.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Transparent errors repeat their cause.
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// Parses a unit's code.
pub fn unit(text: &str) -> Result<UnitCode, Status> {
    text.parse().map_err(|error: unit::Error| {
        Status::invalid_argument(format!("{text:?} is no code of a unit: {error}"))
    })
}

/// Parses a statement id.
pub fn statement_id(bytes: &[u8]) -> Result<StatementId, Status> {
    StatementId::try_from(bytes)
        .map_err(|_| Status::invalid_argument("an id of a statement has 16 bytes"))
}

/// Maps a field at fault.
pub fn malformed(error: &Malformed) -> Status {
    Status::invalid_argument(error.to_string())
}
