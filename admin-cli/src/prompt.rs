//! Asking the person: on a terminal with a label, secrets without echo; else a line of standard
//! input for each answer, in the order in which they would be asked.
//!
//! A secret is never an argument: every user of the machine can list those.

use std::{
    fmt::Display,
    io::{self, IsTerminal as _},
};

use anyhow::Context as _;
use lianxi_node::process::secret::hidden;
use zeroize::Zeroizing;

use crate::{failure::Failure, output::Output, texts::Text};

/// Asks for something that may be seen.
///
/// # Errors
///
/// Nothing more can be read.
pub(crate) fn ask(output: &Output, text: Text, values: &[&dyn Display]) -> anyhow::Result<String> {
    if io::stdin().is_terminal() {
        output.note(output.fill(text, values));
    }
    Ok(line()?.to_string())
}

/// Asks for a secret, without echo.
///
/// # Errors
///
/// Nothing more can be read, or there is no terminal to ask at.
pub(crate) fn secret(
    output: &Output,
    text: Text,
    values: &[&dyn Display],
) -> anyhow::Result<Zeroizing<String>> {
    if !io::stdin().is_terminal() {
        return line();
    }
    let prompt = format!("{}: ", output.fill(text, values));
    hidden(&prompt).context("cannot ask at the terminal")
}

/// Asks for a new password, twice where a person types.
///
/// # Errors
///
/// As of [`secret`]; the two differ.
pub(crate) fn new_password(
    output: &Output,
    values: &[&dyn Display],
) -> anyhow::Result<Zeroizing<String>> {
    let password = secret(output, Text::AskNewPassword, values)?;
    if io::stdin().is_terminal() && password != secret(output, Text::AskAgain, &[])? {
        return Err(
            Failure::Usage("the two passwords differ: give the command again".into()).into()
        );
    }
    Ok(password)
}

fn line() -> anyhow::Result<Zeroizing<String>> {
    let mut line = Zeroizing::new(String::new());
    if io::stdin().read_line(&mut line).context("cannot read the answer")? == 0 {
        return Err(Failure::Usage("standard input ended before every answer".to_owned()).into());
    }
    Ok(Zeroizing::new(line.trim_end_matches(['\r', '\n']).to_owned()))
}
