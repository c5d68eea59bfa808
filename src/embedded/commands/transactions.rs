//! MULTI, EXEC, DISCARD, WATCH, UNWATCH.

use super::{CommandCall, CommandSpec, When, run};
use crate::embedded::{
    client::Transaction,
    reply::{OK, Reply},
};

pub(crate) const COMMANDS: &[CommandSpec] = &[
    CommandSpec::fallible("multi", 1, multi).when(When::AtOnce),
    CommandSpec::fallible("exec", 1, exec).when(When::AtOnce),
    CommandSpec::fallible("discard", 1, discard).when(When::AtOnce),
    CommandSpec::fallible("watch", -2, watch).when(When::AtOnce),
    CommandSpec::infallible("unwatch", 1, unwatch),
];

fn multi(call: &mut CommandCall<'_>) -> Result<Reply, Reply> {
    if call.client().transaction.is_some() {
        return Err(Reply::error("ERR MULTI calls can not be nested"));
    }
    call.client().transaction = Some(Transaction::default());
    Ok(OK)
}

fn exec(call: &mut CommandCall<'_>) -> Result<Reply, Reply> {
    if call.client().transaction.is_none() {
        return Err(Reply::error("ERR EXEC without MULTI"));
    }
    let (transaction, changed) = call.store.end_transaction(call.slot);
    let transaction = transaction.unwrap_or_default();
    if transaction.broken {
        return Err(Reply::error("EXECABORT Transaction discarded because of previous errors."));
    }
    if changed {
        return Ok(Reply::NilArray);
    }
    let (mut replies, mut length) = (Vec::with_capacity(transaction.queue.len()), 0);
    for (command, args) in transaction.queue {
        let reply = run(command, &mut CommandCall { store: &mut *call.store, slot: call.slot, args: &args });
        length += reply.max_encoded_len();
        if length > call.store.limits.max_output_bytes {
            call.store.cut(call.slot, "the replies of a transaction exceed embedded.max_output_bytes");
            return Ok(Reply::Nil);
        }
        replies.push(reply);
    }
    Ok(Reply::Array(replies))
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
