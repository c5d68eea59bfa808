//! Standard output of a command: text, with colours on a terminal, or JSON.

use std::io::{self, IsTerminal, Write};

use serde_json::Value;

use super::{CommandError, OutputFlags};

/// Standard output, in the form that the flags ask for.
#[derive(Debug, Clone, Copy)]
pub(super) struct CommandOutput {
    /// Whether to print JSON.
    pub(super) json: bool,
    has_colours: bool,
}

impl CommandOutput {
    /// Colours are for terminals, unless `NO_COLOR` is set (no-color.org).
    pub(super) fn new(flags: OutputFlags) -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { json: flags.json, has_colours: !flags.json && !plain && io::stdout().is_terminal() }
    }

    /// Returns a text that is less important than the others of its line.
    pub(super) fn dim(self, text: &str) -> String {
        if self.has_colours { format!("\u{1b}[2m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    /// Prints a line, as text or as JSON.
    ///
    /// # Errors
    ///
    /// When standard output fails.
    pub(super) fn print(
        self,
        json: impl FnOnce() -> Value,
        text: impl FnOnce() -> String,
    ) -> Result<(), CommandError> {
        let line = if self.json { json().to_string() } else { text() };
        writeln!(io::stdout(), "{line}").map_err(CommandError::Stdio)
    }
}

/// Prints a line about the command itself, to standard error: standard output is for what was asked for.
pub(super) fn note(line: &str) {
    // If standard error is closed, there is nowhere to report to.
    let _ = writeln!(io::stderr(), "{line}");
}
