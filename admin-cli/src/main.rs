//! The command `lianxi`, for IT staff and scripts.
//!
//! Reads arguments, runs one command, turns a failure into text and exit code; no other logic.

mod arguments;
mod client;
mod commands;
mod demo;
mod durable;
mod failure;
mod figures;
mod output;
mod prompt;
mod session;
mod table;
mod texts;
mod values;
mod words;

use std::process::ExitCode;

use clap::Parser;

use crate::{arguments::Arguments, output::Output, texts::Lang};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let lang = arguments.global.lang.unwrap_or_else(Lang::of_environment);
    let output = Output::new(arguments.global.json, lang);
    match arguments.run(&output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if failure::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            for line in failure::lines(&error, lang) {
                output.note(line);
            }
            ExitCode::from(failure::exit_code(&error))
        }
    }
}
