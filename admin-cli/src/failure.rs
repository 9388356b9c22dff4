//! Why a command failed: the text for the person, and the exit code for the script.
//!
//! The exit codes are promised in `docs/cli.md`.

use std::{error::Error, io, path::PathBuf};

use lianxi_node::{
    identity::{custody, keys, shares},
    node, process,
    services::error::{ErrorKind, ServiceError},
    verify::Broken,
};
use tonic::Code;

use crate::texts::{Lang, Text};

/// What this program itself finds wrong; what a node finds wrong comes as a [`tonic::Status`].
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Nothing listens at the socket of the directory.
    #[error("no node runs in {}", .0.display())]
    NoNode(PathBuf),
    /// The socket belongs to another user.
    #[error("the socket {} belongs to another user", .0.display())]
    NotAllowed(PathBuf),
    /// The system takes no socket path of this length.
    #[error("the socket path {} is longer than 107 bytes", .0.display())]
    PathTooLong(PathBuf),
    /// An argument is wrong in a way that only shows later.
    #[error("{0}")]
    Usage(String),
    /// A thing that was named is not there.
    #[error("{0}")]
    NotFound(String),
    /// A file with a session or token is not safe, or not there.
    #[error("{} {reason}", .path.display())]
    TokenFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The import ended, with bad rows.
    #[error("{0} rows were rejected")]
    RejectedRows(u64),
    /// Units of a file that did not join.
    #[error("{0} units did not join")]
    NotJoined(usize),
    /// Units whose certificates were not renewed.
    #[error("{0} units were not renewed")]
    NotRenewed(usize),
    /// The parent has yet to end the unit's grant.
    #[error("{0} has not answered yet")]
    NotLeft(String),
    /// Something will bite, and there is time.
    #[error("{0} warnings")]
    Warnings(usize),
    /// Something bites.
    #[error("{0} alarms")]
    Alarms(usize),
    /// A file stands where another should be written.
    #[error("{} is there already", .0.display())]
    FileExists(PathBuf),
    /// A file that does not hold.
    #[error("{0}")]
    Broken(Box<Broken>),
    /// The stored journal is not as it was written.
    #[error("the journal is not as it was written: {0} findings")]
    BrokenJournal(usize),
    /// Something before what a courier file brought is missing.
    #[error("{0} gaps: something before what the files brought is missing")]
    CourierGap(usize),
    /// A preview in which not every child goes on.
    #[error("{broken} children would break, of {unknown} nothing is known")]
    WouldBreak {
        /// Children that would break.
        broken: usize,
        /// Children of which nothing is known.
        unknown: usize,
    },
    /// A catalogue that may not follow the one before it.
    #[error("it may not follow the catalogue before: {0} changes are refused")]
    MayNotFollow(usize),
    /// A catalogue in which something is hardly meant.
    #[error("{0} doubts")]
    Doubts(usize),
    /// A person or the system asked to stop.
    #[error("stopped before the end")]
    Interrupted,
}

/// Exit codes, as `docs/cli.md` promises them.
pub(crate) mod exit {
    /// Something went wrong that no argument can mend.
    pub(crate) const FAILED: u8 = 1;
    /// An argument is wrong; clap uses the same number.
    pub(crate) const USAGE: u8 = 2;
    /// No node runs in the directory, or a parent is not reached.
    pub(crate) const UNAVAILABLE: u8 = 3;
    /// What was named is not there.
    pub(crate) const NOT_FOUND: u8 = 4;
    /// The state of things does not allow it.
    pub(crate) const PRECONDITION: u8 = 5;
    /// Not allowed, or not believed.
    pub(crate) const DENIED: u8 = 6;
    /// Disk or quota full.
    pub(crate) const EXHAUSTED: u8 = 7;
    /// It took too long or was cut off.
    pub(crate) const CUT_OFF: u8 = 8;
    /// The import ended, and at least one row was bad.
    pub(crate) const REJECTED_ROWS: u8 = 9;
    /// Some units of a file did not join.
    pub(crate) const NOT_JOINED: u8 = 10;
    /// The doctor found something that has time, or a catalogue raises doubts.
    pub(crate) const WARNINGS: u8 = 11;
    /// The doctor found something that has none.
    pub(crate) const ALARMS: u8 = 12;
    /// What was to be verified does not hold.
    pub(crate) const BROKEN: u8 = 13;
    /// The act waits for a second person.
    pub(crate) const WAITS: u8 = 14;
    /// A preview in which a child would break, or of which nothing is known.
    pub(crate) const WOULD_BREAK: u8 = 16;
    /// A courier file was taken in, and something before what it brought is missing.
    pub(crate) const GAP: u8 = 17;
    /// Ctrl-C or SIGTERM before the end.
    pub(crate) const INTERRUPTED: u8 = 130;
}

impl Failure {
    fn exit_code(&self) -> u8 {
        match self {
            Self::NoNode(_) => exit::UNAVAILABLE,
            Self::NotAllowed(_) | Self::Broken(_) | Self::TokenFile { .. } => exit::DENIED,
            Self::FileExists(_) | Self::MayNotFollow(_) => exit::PRECONDITION,
            Self::PathTooLong(_) | Self::Usage(_) => exit::USAGE,
            Self::NotFound(_) => exit::NOT_FOUND,
            Self::RejectedRows(_) => exit::REJECTED_ROWS,
            Self::NotJoined(_) => exit::NOT_JOINED,
            Self::NotRenewed(_) => exit::UNAVAILABLE,
            Self::NotLeft(_) => exit::CUT_OFF,
            Self::Warnings(_) | Self::Doubts(_) => exit::WARNINGS,
            Self::Alarms(_) => exit::ALARMS,
            Self::BrokenJournal(_) => exit::BROKEN,
            Self::CourierGap(_) => exit::GAP,
            Self::WouldBreak { .. } => exit::WOULD_BREAK,
            Self::Interrupted => exit::INTERRUPTED,
        }
    }

    fn remedy(&self, lang: Lang) -> Option<String> {
        match self {
            Self::NoNode(dir) => Some(Text::RemedyNoNode.fill(lang, &[&dir.display()])),
            Self::NotAllowed(_) => Some(Text::RemedyNotAllowed.get(lang).to_owned()),
            Self::TokenFile { .. } => Some(Text::RemedyTokenFile.get(lang).to_owned()),
            Self::PathTooLong(_) => Some(Text::RemedyPathTooLong.get(lang).to_owned()),
            Self::RejectedRows(_) => Some(Text::RemedyRejectedRows.get(lang).to_owned()),
            Self::NotJoined(_) => Some(Text::RemedyNotJoined.get(lang).to_owned()),
            Self::NotRenewed(_) => Some(Text::RemedyNotRenewed.get(lang).to_owned()),
            Self::NotLeft(_) => Some(Text::RemedyNotLeft.get(lang).to_owned()),
            Self::Warnings(_) | Self::Alarms(_) => Some(Text::RemedyDoctor.get(lang).to_owned()),
            Self::FileExists(_) => Some(Text::RemedyFileExists.get(lang).to_owned()),
            Self::Broken(_) => Some(Text::RemedyBroken.get(lang).to_owned()),
            Self::BrokenJournal(_) => Some(Text::RemedyBrokenJournal.get(lang).to_owned()),
            Self::CourierGap(_) => Some(Text::RemedyCourierGap.get(lang).to_owned()),
            Self::WouldBreak { .. } => Some(Text::RemedyWouldBreak.get(lang).to_owned()),
            Self::MayNotFollow(_) => Some(Text::RemedyMayNotFollow.get(lang).to_owned()),
            Self::Doubts(_) => Some(Text::RemedyDoubts.get(lang).to_owned()),
            Self::Usage(_) | Self::NotFound(_) | Self::Interrupted => None,
        }
    }
}

/// True if the node did nothing yet, because a second person has to confirm.
fn waits_for_a_second_person(status: &tonic::Status) -> bool {
    status.metadata().contains_key("lianxi-approval")
}

/// Exit code for what a node answered.
fn code_of_status(code: Code) -> u8 {
    match code {
        Code::InvalidArgument | Code::OutOfRange => exit::USAGE,
        Code::Unavailable => exit::UNAVAILABLE,
        Code::NotFound => exit::NOT_FOUND,
        Code::FailedPrecondition | Code::AlreadyExists => exit::PRECONDITION,
        Code::PermissionDenied | Code::Unauthenticated => exit::DENIED,
        Code::ResourceExhausted => exit::EXHAUSTED,
        Code::DeadlineExceeded | Code::Cancelled | Code::Aborted => exit::CUT_OFF,
        Code::Ok | Code::Unknown | Code::Unimplemented | Code::Internal | Code::DataLoss => {
            exit::FAILED
        }
    }
}

/// Exit code for what the node's own code found wrong in this process: while a host was made,
/// joined or run.
fn code_of_kind(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::InvalidArgument => exit::USAGE,
        ErrorKind::NotFound => exit::NOT_FOUND,
        ErrorKind::AlreadyExists | ErrorKind::FailedPrecondition => exit::PRECONDITION,
        ErrorKind::PermissionDenied | ErrorKind::Unauthenticated => exit::DENIED,
        ErrorKind::ResourceExhausted => exit::EXHAUSTED,
        ErrorKind::Unavailable => exit::UNAVAILABLE,
        ErrorKind::Internal => exit::FAILED,
    }
}

/// Kind of an error of the node's own code.
fn kind(cause: &(dyn Error + 'static)) -> Option<ErrorKind> {
    let of_node = cause.downcast_ref::<node::Error>().map(ServiceError::kind);
    let of_process = || cause.downcast_ref::<process::Error>().map(ServiceError::kind);
    of_node.or_else(of_process).or_else(|| kind_of_custody(cause))
}

/// Kind of what was wrong with shares, requests and secrets that a person brought.
fn kind_of_custody(cause: &(dyn Error + 'static)) -> Option<ErrorKind> {
    let brought = cause.is::<shares::Error>()
        || cause.is::<custody::Error>()
        || cause.is::<keys::Error>()
        || cause.is::<process::secret::Error>();
    brought.then_some(ErrorKind::FailedPrecondition)
}

/// What to do about an answer of a node whose own text may not say it.
fn remedy_of_status(code: Code) -> Option<Text> {
    match code {
        Code::Unavailable => Some(Text::RemedyUnavailable),
        Code::ResourceExhausted => Some(Text::RemedyExhausted),
        Code::Unimplemented => Some(Text::RemedyUnimplemented),
        Code::Internal | Code::Unknown | Code::DataLoss => Some(Text::RemedyInternal),
        Code::DeadlineExceeded => Some(Text::RemedyDeadline),
        Code::Ok
        | Code::Cancelled
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::PermissionDenied
        | Code::Unauthenticated => None,
    }
}

/// True if the system found no file of a name.
fn is_missing_file(cause: &(dyn Error + 'static)) -> bool {
    let error = cause.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// Exit code of a failed command.
pub(crate) fn exit_code(error: &anyhow::Error) -> u8 {
    for cause in error.chain() {
        if let Some(failure) = cause.downcast_ref::<Failure>() {
            return failure.exit_code();
        }
        if let Some(status) = cause.downcast_ref::<tonic::Status>() {
            if waits_for_a_second_person(status) {
                return exit::WAITS;
            }
            return code_of_status(status.code());
        }
        if let Some(kind) = kind(cause) {
            return code_of_kind(kind);
        }
        if is_missing_file(cause) {
            return exit::NOT_FOUND;
        }
    }
    exit::FAILED
}

/// Lines for the person: what failed, why, and what to do.
pub(crate) fn lines(error: &anyhow::Error, lang: Lang) -> Vec<String> {
    let causes: Vec<String> = error.chain().map(text_of_cause).collect();
    let mut lines = vec![format!("{}: {}", Text::Error.get(lang), causes.join(": "))];
    let remedy = error.chain().find_map(|cause| {
        if let Some(failure) = cause.downcast_ref::<Failure>() {
            return failure.remedy(lang);
        }
        let status = cause.downcast_ref::<tonic::Status>()?;
        remedy_of_status(status.code()).map(|text| text.get(lang).to_owned())
    });
    lines.extend(remedy.map(|remedy| format!("{}: {remedy}", Text::Remedy.get(lang))));
    lines
}

/// A status' own text, without the code's name and the metadata that its `Display` adds.
fn text_of_cause(cause: &(dyn Error + 'static)) -> String {
    match cause.downcast_ref::<tonic::Status>() {
        Some(status) if status.message().is_empty() => status.code().description().to_owned(),
        Some(status) => status.message().to_owned(),
        None => cause.to_string(),
    }
}

/// The reader of standard output went away.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads the output any more")]
struct ReaderGone;

/// Marks an error of standard output, so that it is told from a node that went away.
pub(crate) fn of_output(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return io::Error::new(io::ErrorKind::BrokenPipe, ReaderGone);
    }
    error
}

/// True if the reader of standard output went away, which is no failure.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let is_gone = |error: &io::Error| error.get_ref().is_some_and(|inner| inner.is::<ReaderGone>());
    error.chain().any(|cause| cause.downcast_ref().is_some_and(is_gone))
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn a_node_that_does_not_run_is_told_with_the_command_that_starts_it() {
        let error = anyhow::Error::new(Failure::NoNode("/srv/lx".into())).context("cannot ask");
        assert_eq!(exit_code(&error), exit::UNAVAILABLE);
        let lines = lines(&error, Lang::En);
        assert_eq!(lines[0], "error: cannot ask: no node runs in /srv/lx");
        assert!(lines[1].contains("lianxi node run --dir /srv/lx"), "{lines:?}");
    }

    #[test]
    fn a_status_keeps_its_text_and_gives_the_exit_code() {
        let status = tonic::Status::failed_precondition("the token is spent");
        let error = Err::<(), _>(status).context("cannot join").unwrap_err();
        assert_eq!(exit_code(&error), exit::PRECONDITION);
        assert_eq!(lines(&error, Lang::En), ["error: cannot join: the token is spent"]);
    }

    #[test]
    fn a_directory_that_is_a_host_already_is_a_matter_of_state_not_a_failure() {
        let error = anyhow::Error::new(node::Error::HostExists("/srv/lx".into()));
        assert_eq!(exit_code(&error.context("cannot join")), exit::PRECONDITION);
    }

    #[test]
    fn every_status_code_has_an_exit_code_other_than_success() {
        for code in 1..=16 {
            assert_ne!(code_of_status(Code::from_i32(code)), 0, "{code}");
        }
    }

    #[test]
    fn a_reader_that_went_away_is_recognised() {
        let error = anyhow::Error::new(of_output(io::ErrorKind::BrokenPipe.into()));
        assert!(is_broken_pipe(&error.context("print")));
        let full = anyhow::Error::new(of_output(io::ErrorKind::StorageFull.into()));
        assert!(!is_broken_pipe(&full));
    }

    #[test]
    fn a_node_that_went_away_is_a_failure() {
        let error = io::Error::from(io::ErrorKind::BrokenPipe);
        let error = anyhow::Error::new(tonic::Status::from_error(Box::new(error)));
        assert!(!is_broken_pipe(&error.context("cannot publish")));
    }
}
