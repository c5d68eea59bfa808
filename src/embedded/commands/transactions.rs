//! MULTI, EXEC, DISCARD, WATCH, UNWATCH.

use super::{Call, Command, When, run};
use crate::embedded::{
    client::Transaction,
    reply::{OK, Reply},
};

pub(crate) const COMMANDS: &[Command] = &[
    Command::fallible("multi", 1, multi).when(When::AtOnce),
    Command::fallible("exec", 1, exec).when(When::AtOnce),
    Command::fallible("discard", 1, discard).when(When::AtOnce),
    Command::fallible("watch", -2, watch).when(When::AtOnce),
    Command::sure("unwatch", 1, unwatch),
];

fn multi(call: &mut Call<'_>) -> Result<Reply, Reply> {
    if call.client().transaction.is_some() {
        return Err(Reply::error("ERR MULTI calls can not be nested"));
    }
    call.client().transaction = Some(Transaction::default());
    Ok(OK)
}

fn exec(call: &mut Call<'_>) -> Result<Reply, Reply> {
    if call.client().transaction.is_none() {
        return Err(Reply::error("ERR EXEC without MULTI"));
    }
    let (transaction, changed) = call.state.end_transaction(call.slot);
    let transaction = transaction.unwrap_or_default();
    if transaction.broken {
        return Err(Reply::error("EXECABORT Transaction discarded because of previous errors."));
    }
    if changed {
        return Ok(Reply::NilArray);
    }
    let (mut replies, mut length) = (Vec::with_capacity(transaction.queue.len()), 0);
    for (command, args) in transaction.queue {
        let reply = run(command, &mut Call { state: &mut *call.state, slot: call.slot, args: &args });
        length += reply.max_encoded_len();
        if length > call.state.limits.max_output_bytes {
            call.state.cut(call.slot, "the replies of a transaction exceed embedded.max_output_bytes");
            return Ok(Reply::Nil);
        }
        replies.push(reply);
    }
    Ok(Reply::Array(replies))
}

fn discard(call: &mut Call<'_>) -> Result<Reply, Reply> {
    if call.client().transaction.is_none() {
        return Err(Reply::error("ERR DISCARD without MULTI"));
    }
    call.state.end_transaction(call.slot);
    Ok(OK)
}

fn watch(call: &mut Call<'_>) -> Result<Reply, Reply> {
    if call.client().transaction.is_some() {
        return Err(Reply::error("ERR WATCH inside MULTI is not allowed"));
    }
    for key in &call.args[1..] {
        call.state.watch(call.slot, key)?;
    }
    Ok(OK)
}

fn unwatch(call: &mut Call<'_>) -> Reply {
    call.state.unwatch(call.slot);
    OK
}
