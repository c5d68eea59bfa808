//! What a command is: its name, the number of its words, when it may run, and the function that runs it.

use super::call::CommandCall;
use crate::embedded::reply::Reply;

/// The states of a client in which a command runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// Refused in subscriber mode; queued after MULTI.
    Normal,
    /// Allowed in subscriber mode; queued after MULTI.
    InSubscriberMode,
    /// Refused in subscriber mode; runs at once after MULTI.
    NotQueued,
    /// Allowed in subscriber mode; runs at once after MULTI.
    Always,
}

/// The function that runs a command.
#[derive(Debug)]
pub(crate) enum CommandHandler {
    Infallible(fn(&mut CommandCall<'_>) -> Reply),
    Fallible(fn(&mut CommandCall<'_>) -> Result<Reply, Reply>),
    /// EXEC, which dispatches other commands and is therefore part of the dispatcher.
    Exec,
}

/// A command or subcommand.
#[derive(Debug)]
pub(crate) struct CommandSpec {
    /// In lower case; a subcommand as `client|id`.
    pub(crate) name: &'static str,
    /// Number of words including the name; a negative number is a minimum.
    arity: i8,
    pub(crate) when: When,
    pub(crate) handler: CommandHandler,
    pub(super) subcommands: &'static [CommandSpec],
}

impl CommandSpec {
    pub(super) const fn infallible(
        name: &'static str,
        arity: i8,
        run: fn(&mut CommandCall<'_>) -> Reply,
    ) -> Self {
        Self::new(name, arity, CommandHandler::Infallible(run))
    }

    pub(super) const fn fallible(
        name: &'static str,
        arity: i8,
        run: fn(&mut CommandCall<'_>) -> Result<Reply, Reply>,
    ) -> Self {
        Self::new(name, arity, CommandHandler::Fallible(run))
    }

    pub(super) const fn new(name: &'static str, arity: i8, handler: CommandHandler) -> Self {
        Self { name, arity, when: When::Normal, handler, subcommands: &[] }
    }

    pub(super) const fn when(mut self, when: When) -> Self {
        self.when = when;
        self
    }

    pub(super) const fn subcommands(mut self, subcommands: &'static [CommandSpec]) -> Self {
        self.subcommands = subcommands;
        self
    }

    /// Returns whether the command takes this number of words.
    pub(super) fn accepts(&self, words: usize) -> bool {
        let arity = usize::from(self.arity.unsigned_abs());
        if self.arity < 0 { words >= arity } else { words == arity }
    }
}

/// Returns the error for a wrong number of arguments.
pub(super) fn wrong_arity(name: &str) -> Reply {
    Reply::error(&format!("ERR wrong number of arguments for '{name}' command"))
}

/// Returns at most `most` bytes of a client's text for an error reply. Like Redis, it stops at a zero byte.
pub(super) fn printable(text: &[u8], most: usize) -> String {
    let end = text.iter().position(|&byte| byte == 0).unwrap_or(text.len()).min(most);
    String::from_utf8_lossy(&text[..end]).into_owned()
}
