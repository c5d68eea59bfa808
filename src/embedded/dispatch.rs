//! One request: found in the table, checked in Redis' order, run at once or queued for EXEC.

use bytes::Bytes;

use super::{
    client::Transaction,
    commands::{self, CommandCall, CommandHandler, CommandSpec, When},
    reply::Reply,
    store::{MemoryStore, NAME_BYTES},
};

/// Runs a request of the client in `slot` and queues its reply.
pub(crate) fn dispatch(store: &mut MemoryStore, slot: usize, args: &[Bytes]) {
    let Some(name) = args.first() else { return };
    store.requests += 1;
    if name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:") {
        store.cut(slot, "it speaks HTTP, possibly to attack the store across protocols");
        return;
    }
    let reply = match commands::find(args).and_then(|command| allowed(store, slot, command)) {
        Ok(command) => run_or_queue(store, slot, command, args),
        Err(refusal) if name.eq_ignore_ascii_case(b"exec") => abort(store, slot, refusal),
        Err(refusal) => {
            refuse(store, slot);
            refusal
        }
    };
    store.answer(slot, &reply);
}

/// Ends the transaction whose EXEC itself was refused.
fn abort(store: &mut MemoryStore, slot: usize, refusal: Reply) -> Reply {
    store.end_transaction(slot);
    match refusal {
        Reply::Error(text) => {
            let reason = text.strip_prefix("ERR ").unwrap_or(&text);
            Reply::error(&format!("EXECABORT Transaction discarded because of: {reason}"))
        }
        other => other,
    }
}

fn allowed(
    store: &mut MemoryStore,
    slot: usize,
    command: &'static CommandSpec,
) -> Result<&'static CommandSpec, Reply> {
    let client = &mut store.clients[slot];
    client.last_command = command.name;
    if client.only_listens() && !matches!(command.when, When::InSubscriberMode | When::Always) {
        let name = command.name;
        return Err(Reply::error(&format!(
            "ERR Can't execute '{name}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context"
        )));
    }
    Ok(command)
}

fn run_or_queue(
    store: &mut MemoryStore,
    slot: usize,
    command: &'static CommandSpec,
    args: &[Bytes],
) -> Reply {
    let at_once = matches!(command.when, When::NotQueued | When::Always);
    if store.clients[slot].transaction.is_none() || at_once {
        return run(command, &mut CommandCall { store, slot, args });
    }
    match queue(store, slot, args) {
        Ok(()) => Reply::Simple("QUEUED"),
        Err(refusal) => {
            refuse(store, slot);
            refusal
        }
    }
}

fn queue(store: &mut MemoryStore, slot: usize, args: &[Bytes]) -> Result<(), Reply> {
    let bytes = NAME_BYTES + args.iter().map(|arg| arg.len() + size_of::<Bytes>()).sum::<usize>();
    store.reserve(bytes)?;
    let transaction = store.clients[slot].transaction.get_or_insert_default();
    transaction.held_bytes += bytes;
    // Copies: slices would keep the read buffer alive until EXEC.
    transaction.queue.push(args.iter().map(|arg| Bytes::copy_from_slice(arg)).collect());
    Ok(())
}

/// Runs a command.
fn run(command: &CommandSpec, call: &mut CommandCall<'_>) -> Reply {
    match command.handler {
        CommandHandler::Infallible(run) => run(call),
        CommandHandler::Fallible(run) => run(call).unwrap_or_else(|error| error),
        CommandHandler::Exec => exec(call).unwrap_or_else(|error| error),
    }
}

/// Runs the queued commands. They were found when they were queued, so finding them again cannot fail.
fn exec(call: &mut CommandCall<'_>) -> Result<Reply, Reply> {
    if call.store.clients[call.slot].transaction.is_none() {
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
    for args in transaction.queue {
        let command = commands::find(&args)?;
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

/// Makes EXEC refuse the transaction that is being queued, if there is one.
fn refuse(store: &mut MemoryStore, slot: usize) {
    if let Some(Transaction { broken, .. }) = &mut store.clients[slot].transaction {
        *broken = true;
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::select};

    use super::*;
    use crate::embedded::limits::StoreLimits;

    const WORDS: &str = "get set setex psetex setnx getset getdel getex mget mset strlen incr decrby del exists keys \
        scan dbsize flushdb flushall expire pexpire persist ttl publish subscribe psubscribe unsubscribe punsubscribe \
        pubsub channels numsub multi exec discard watch unwatch ping hello auth select client list info config reset \
        quit eval script a b c __keyspace@0__:a 0 1 2 3 -1 9223372036854775807 * a* ex px nx xx get keepttl exat gt lt count match";

    fn word() -> impl Strategy<Value = Bytes> {
        let words: Vec<&'static str> = WORDS.split_whitespace().collect();
        select(words).prop_map(|word| Bytes::from_static(word.as_bytes()))
    }

    proptest! {
        #[test]
        fn whatever_clients_say_nothing_of_them_stays(
            requests in vec((0..3_usize, vec(word(), 1..5)), 0..80),
            max_memory_bytes in select(vec![0, 2_000, 100_000]),
            max_output_bytes in select(vec![0, 300, 100_000]),
        ) {
            let limits = StoreLimits { max_memory_bytes, max_output_bytes, ..StoreLimits::default() };
            let mut store = MemoryStore::new(limits);
            let address = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
            let slots = [0; 3].map(|_| store.enter(address, address));
            for (client, request) in requests {
                dispatch(&mut store, slots[client], &request);
                prop_assert!(store.keyspace.used_bytes() <= max_memory_bytes);
                for slot in slots {
                    prop_assert!(store.output(slot).pending().len() <= max_output_bytes);
                }
            }
            for slot in slots {
                store.leave(slot);
            }
            (0..16).for_each(|db| store.flush(db));
            prop_assert!(store.is_clean());
        }
    }
}
