//! What a command is, how it is found, and what it can reach while it runs.

use bytes::Bytes;

use crate::embedded::{client::Client, reply::Reply, store::MemoryStore};

/// In which situations a command runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// Not while a RESP2 client listens; queued after MULTI.
    Usually,
    /// Also while a RESP2 client listens; queued after MULTI.
    Listening,
    /// Not while a RESP2 client listens; at once after MULTI.
    AtOnce,
    /// At once, whatever the client does.
    Always,
}

/// How a command runs: those that cannot fail say so.
#[derive(Debug)]
pub(crate) enum CommandHandler {
    Infallible(fn(&mut CommandCall<'_>) -> Reply),
    Fallible(fn(&mut CommandCall<'_>) -> Result<Reply, Reply>),
}

/// A command or subcommand.
#[derive(Debug)]
pub(crate) struct CommandSpec {
    /// In lower case; a subcommand as `client|id`.
    pub(crate) name: &'static str,
    /// Words including the name; negative: at least as many.
    arity: i8,
    pub(crate) when: When,
    run: CommandHandler,
    subcommands: &'static [CommandSpec],
}

impl CommandSpec {
    pub(crate) const fn infallible(
        name: &'static str,
        arity: i8,
        run: fn(&mut CommandCall<'_>) -> Reply,
    ) -> Self {
        Self { name, arity, when: When::Usually, run: CommandHandler::Infallible(run), subcommands: &[] }
    }

    pub(crate) const fn fallible(
        name: &'static str,
        arity: i8,
        run: fn(&mut CommandCall<'_>) -> Result<Reply, Reply>,
    ) -> Self {
        Self { name, arity, when: When::Usually, run: CommandHandler::Fallible(run), subcommands: &[] }
    }

    pub(crate) const fn when(mut self, when: When) -> Self {
        self.when = when;
        self
    }

    pub(crate) const fn subcommands(mut self, subcommands: &'static [CommandSpec]) -> Self {
        self.subcommands = subcommands;
        self
    }

    fn accepts(&self, words: usize) -> bool {
        let arity = usize::from(self.arity.unsigned_abs());
        if self.arity < 0 { words >= arity } else { words == arity }
    }

    /// Makes the error for a wrong number of arguments.
    pub(crate) fn wrong_arity(&self) -> Reply {
        wrong_arity(self.name)
    }
}

/// A command that is being run.
pub(crate) struct CommandCall<'a> {
    pub(crate) store: &'a mut MemoryStore,
    pub(crate) slot: usize,
    /// All words, the name included.
    pub(crate) args: &'a [Bytes],
}

impl CommandCall<'_> {
    /// Returns who asks.
    pub(crate) fn client(&mut self) -> &mut Client {
        &mut self.store.clients[self.slot]
    }

    /// Returns the database that the client has selected.
    pub(crate) fn db(&self) -> usize {
        self.store.clients[self.slot].db
    }
}

const TABLES: [&[CommandSpec]; 8] = [
    super::strings::COMMANDS,
    super::keys::COMMANDS,
    super::expiry::COMMANDS,
    super::pubsub::COMMANDS,
    super::transactions::COMMANDS,
    super::client::COMMANDS,
    super::admin::COMMANDS,
    super::scripts::COMMANDS,
];

/// Returns how many commands there are, subcommands not counted.
pub(crate) fn count() -> usize {
    TABLES.iter().map(|table| table.len()).sum()
}

/// Finds the command or subcommand for a request and checks its number of words.
pub(crate) fn find(args: &[Bytes]) -> Result<&'static CommandSpec, Reply> {
    let name = args.first().map_or(&[][..], |name| name);
    let mut all = TABLES.iter().flat_map(|table| table.iter());
    let command = all.find(|command| name.eq_ignore_ascii_case(command.name.as_bytes()));
    let mut command = command.ok_or_else(|| unknown(args))?;
    if !command.subcommands.is_empty() && args.len() > 1 {
        command = subcommand(command, &args[1])?;
    }
    if command.accepts(args.len()) { Ok(command) } else { Err(command.wrong_arity()) }
}

/// Runs a command.
pub(crate) fn run(command: &CommandSpec, call: &mut CommandCall<'_>) -> Reply {
    match command.run {
        CommandHandler::Infallible(run) => run(call),
        CommandHandler::Fallible(run) => run(call).unwrap_or_else(|error| error),
    }
}

/// Makes the error for a wrong number of arguments.
pub(crate) fn wrong_arity(name: &str) -> Reply {
    Reply::error(&format!("ERR wrong number of arguments for '{name}' command"))
}

/// Returns the part of a client's bytes that may go into an error text.
pub(crate) fn printable(text: &[u8], most: usize) -> String {
    let end = text.iter().position(|&byte| byte == 0).unwrap_or(text.len()).min(most);
    String::from_utf8_lossy(&text[..end]).into_owned()
}

fn subcommand(command: &'static CommandSpec, name: &[u8]) -> Result<&'static CommandSpec, Reply> {
    let mut all = command.subcommands.iter();
    let found = all.find(|sub| {
        let own = sub.name.split_once('|').map_or("", |(_, own)| own);
        name.eq_ignore_ascii_case(own.as_bytes())
    });
    found.ok_or_else(|| {
        let (name, container) = (printable(name, 128), command.name.to_ascii_uppercase());
        Reply::error(&format!("ERR unknown subcommand '{name}'. Try {container} HELP."))
    })
}

fn unknown(args: &[Bytes]) -> Reply {
    let mut shown = String::new();
    for arg in &args[1..] {
        if shown.len() >= 128 {
            break;
        }
        let arg = printable(arg, 128 - shown.len());
        shown = format!("{shown}'{arg}' ");
    }
    let name = printable(&args[0], 128);
    Reply::error(&format!("ERR unknown command '{name}', with args beginning with: {shown}"))
}
