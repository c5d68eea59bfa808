//! The table of all commands, the lookup of a request in it, and COMMAND, which describes it.

use bytes::Bytes;

use super::{
    admin, client, expiry, keys, pubsub, scripts,
    spec::{CommandSpec, printable, wrong_arity},
    streams, strings, transactions,
};
use crate::embedded::reply::Reply;

const TABLES: [&[CommandSpec]; 10] = [
    strings::COMMANDS,
    streams::COMMANDS,
    keys::COMMANDS,
    expiry::COMMANDS,
    pubsub::COMMANDS,
    transactions::COMMANDS,
    client::COMMANDS,
    admin::COMMANDS,
    scripts::COMMANDS,
    &[CommandSpec::infallible("command", -1, |_| Reply::Array(Vec::new())).subcommands(COMMAND)],
];

const COMMAND: &[CommandSpec] = &[
    CommandSpec::infallible("command|count", 2, |_| Reply::count(count())),
    CommandSpec::infallible("command|docs", -2, |_| Reply::Map(Vec::new())),
];

/// Returns the number of commands, without subcommands.
fn count() -> usize {
    TABLES.iter().map(|table| table.len()).sum()
}

/// Finds the command or subcommand of a request and checks its number of words.
pub(crate) fn find(args: &[Bytes]) -> Result<&'static CommandSpec, Reply> {
    let name = args.first().map_or(&[][..], |name| name);
    let mut all = TABLES.iter().flat_map(|table| table.iter());
    let command = all.find(|command| name.eq_ignore_ascii_case(command.name.as_bytes()));
    let mut command = command.ok_or_else(|| unknown(args))?;
    if !command.subcommands.is_empty() && args.len() > 1 {
        command = subcommand(command, &args[1])?;
    }
    if command.accepts(args.len()) { Ok(command) } else { Err(wrong_arity(command.name)) }
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
