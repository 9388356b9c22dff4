//! The one place that prints: data on standard output, everything else on standard error.
//!
//! Promises that with `--json` standard output holds one JSON document and nothing else, and that
//! a reader who goes away (`| head`) ends the output without an error.

use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
    sync::atomic::{AtomicBool, Ordering},
};

use serde::Serialize;

use crate::{
    failure,
    table::{Table, printable},
    texts::{Lang, Text},
};

/// Where and how to print.
#[derive(Debug)]
pub(crate) struct Output {
    json: bool,
    lang: Lang,
    /// Set while the last line on standard error is a progress line without its end.
    open_line: AtomicBool,
}

impl Output {
    /// Prints as asked for on the command line.
    pub(crate) fn new(json: bool, lang: Lang) -> Self {
        Self { json, lang, open_line: AtomicBool::new(false) }
    }

    /// True if one JSON document is asked for.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Language of headings and messages.
    pub(crate) fn lang(&self) -> Lang {
        self.lang
    }

    /// `text` in the language in use.
    pub(crate) fn text(&self, text: Text) -> &'static str {
        text.get(self.lang)
    }

    /// `text` with each `{}` replaced by a value, in order.
    pub(crate) fn fill(&self, text: Text, values: &[&dyn Display]) -> String {
        text.fill(self.lang, values)
    }

    /// Prints the JSON document of a command.
    ///
    /// # Errors
    ///
    /// Standard output cannot be written.
    pub(crate) fn document(&self, document: &impl Serialize) -> io::Result<()> {
        let mut text = serde_json::to_string_pretty(document)?;
        text.push('\n');
        self.data(text.as_bytes())
    }

    /// Prints a table, or the text `empty` to standard error if it has no rows.
    ///
    /// # Errors
    ///
    /// Standard output cannot be written.
    pub(crate) fn table(&self, table: &Table, empty: Text) -> io::Result<()> {
        if table.is_empty() {
            self.note(self.text(empty));
            return Ok(());
        }
        self.data(table.render().as_bytes())
    }

    /// Prints one line of data; control characters in it are replaced.
    ///
    /// # Errors
    ///
    /// Standard output cannot be written.
    pub(crate) fn line(&self, line: impl AsRef<str>) -> io::Result<()> {
        self.data(format!("{}\n", printable(line.as_ref())).as_bytes())
    }

    /// Prints facts, a line each; those without a value are left out.
    ///
    /// # Errors
    ///
    /// Standard output cannot be written.
    pub(crate) fn facts(&self, facts: impl IntoIterator<Item = (Text, String)>) -> io::Result<()> {
        let separator = self.text(Text::Is);
        for (name, value) in facts.into_iter().filter(|fact| !fact.1.is_empty()) {
            self.line(format!("{}{separator}{value}", self.text(name)))?;
        }
        Ok(())
    }

    /// Prints data verbatim.
    ///
    /// # Errors
    ///
    /// Standard output cannot be written.
    pub(crate) fn data(&self, bytes: &[u8]) -> io::Result<()> {
        self.end_progress();
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(failure::of_output)
    }

    /// Prints a message for the person at the terminal.
    pub(crate) fn note(&self, message: impl AsRef<str>) {
        self.end_progress();
        // Nobody can be told that standard error is gone.
        let _ = writeln!(io::stderr().lock(), "{}", printable(message.as_ref()));
    }

    /// Shows how far a long command is, over the line before; only on a terminal.
    pub(crate) fn progress(&self, message: impl AsRef<str>) {
        let mut stderr = io::stderr().lock();
        if stderr.is_terminal() {
            let _ = write!(stderr, "\r\x1b[2K{}", printable(message.as_ref()));
            let _ = stderr.flush();
            self.open_line.store(true, Ordering::Relaxed);
        }
    }

    fn end_progress(&self) {
        if self.open_line.swap(false, Ordering::Relaxed) {
            let _ = write!(io::stderr().lock(), "\r\x1b[2K");
        }
    }
}
