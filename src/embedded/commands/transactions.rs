//! MULTI, DISCARD, WATCH and UNWATCH. EXEC is in the dispatcher, because it dispatches the queued commands.

use super::{
    call::CommandCall,
    spec::{CommandHandler, CommandSpec, When},
};
use crate::embedded::{
    client::Transaction,
    reply::{OK, Reply},
};

pub(crate) const COMMANDS: &[CommandSpec] = &[
    CommandSpec::fallible("multi", 1, multi).when(When::NotQueued),
    CommandSpec::new("exec", 1, CommandHandler::Exec).when(When::NotQueued),
    CommandSpec::fallible("discard", 1, discard).when(When::NotQueued),
    CommandSpec::fallible("watch", -2, watch).when(When::NotQueued),
    CommandSpec::infallible("unwatch", 1, unwatch),
];

fn multi(call: &mut CommandCall<'_>) -> Result<Reply, Reply> {
    if call.client().transaction.is_some() {
        return Err(Reply::error("ERR MULTI calls can not be nested"));
    }
    call.client().transaction = Some(Transaction::default());
    Ok(OK)
}

fn discard(call: &mut CommandCall<'_>) -> Result<Reply, Reply> {
    if call.client().transaction.is_none() {
        return Err(Reply::error("ERR DISCARD without MULTI"));
    }
    call.store.end_transaction(call.slot);
    Ok(OK)
}

fn watch(call: &mut CommandCall<'_>) -> Result<Reply, Reply> {
    if call.client().transaction.is_some() {
        return Err(Reply::error("ERR WATCH inside MULTI is not allowed"));
    }
    for key in &call.args[1..] {
        call.store.watch(call.slot, key)?;
    }
    Ok(OK)
}

fn unwatch(call: &mut CommandCall<'_>) -> Reply {
    call.store.unwatch(call.slot);
    OK
}
