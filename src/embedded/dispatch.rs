//! Dispatches a request: finds the command, checks it in the order of Redis, and runs it or queues it for EXEC.

use bytes::Bytes;

use super::{
    client::{Client, Transaction},
    commands::{self, CommandCall, CommandHandler, CommandSpec, When},
    reply::Reply,
    store::{MemoryStore, NAME_BYTES},
};

/// Runs a request of the client in `slot` and queues its reply.
pub(crate) fn dispatch(store: &mut MemoryStore, slot: usize, args: &[Bytes]) {
    let Some(name) = args.first() else { return };
    store.requests += 1;
    // As in Redis: a web page can make a browser send POST to a local port, with commands in the body.
    if name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:") {
        store.disconnect(slot, "it sent HTTP, which may be a cross-protocol attack");
        return;
    }
    let found = commands::find(args).and_then(|command| {
        let client = &mut store.clients[slot];
        client.last_command = command.name;
        check_mode(client, command).map(|()| command)
    });
    let reply = match found {
        Ok(command) => run_or_queue(store, slot, command, args),
        Err(refusal) if name.eq_ignore_ascii_case(b"exec") => abort_transaction(store, slot, refusal),
        Err(refusal) => {
            fail_transaction(store, slot);
            refusal
        }
    };
    store.send_reply(slot, &reply);
}

/// Ends a transaction whose EXEC was refused, for example because of its number of arguments.
fn abort_transaction(store: &mut MemoryStore, slot: usize, refusal: Reply) -> Reply {
    store.end_transaction(slot);
    match refusal {
        Reply::Error(text) => {
            let reason = text.strip_prefix("ERR ").unwrap_or(&text);
            Reply::error(&format!("EXECABORT Transaction discarded because of: {reason}"))
        }
        other => other,
    }
}

fn check_mode(client: &Client, command: &CommandSpec) -> Result<(), Reply> {
    if client.in_subscriber_mode() && !matches!(command.when, When::InSubscriberMode | When::Always) {
        let name = command.name;
        return Err(Reply::error(&format!(
            "ERR Can't execute '{name}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context"
        )));
    }
    Ok(())
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
            fail_transaction(store, slot);
            refusal
        }
    }
}

fn queue(store: &mut MemoryStore, slot: usize, args: &[Bytes]) -> Result<(), Reply> {
    let bytes = NAME_BYTES + args.iter().map(|arg| arg.len() + size_of::<Bytes>()).sum::<usize>();
    store.reserve(bytes)?;
    let transaction = store.clients[slot].transaction.get_or_insert_default();
    transaction.reserved_bytes += bytes;
    // Copied, because slices would keep the whole read buffer alive until EXEC.
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

/// Runs the queued commands. Each was found when it was queued, so looking it up again cannot fail.
fn exec(call: &mut CommandCall<'_>) -> Result<Reply, Reply> {
    if call.store.clients[call.slot].transaction.is_none() {
        return Err(Reply::error("ERR EXEC without MULTI"));
    }
    let (transaction, key_changed) = call.store.end_transaction(call.slot);
    let transaction = transaction.unwrap_or_default();
    if transaction.must_abort {
        return Err(Reply::error("EXECABORT Transaction discarded because of previous errors."));
    }
    if key_changed {
        return Ok(Reply::NilArray);
    }
    let (mut replies, mut length) = (Vec::with_capacity(transaction.queue.len()), 0);
    for args in transaction.queue {
        let command = commands::find(&args)?;
        let reply = run(command, &mut CommandCall { store: &mut *call.store, slot: call.slot, args: &args });
        length += reply.max_encoded_len();
        if length > call.store.limits.max_output_bytes {
            call.store.disconnect(call.slot, "the replies of a transaction exceed embedded.max_output_bytes");
            return Ok(Reply::Nil);
        }
        replies.push(reply);
    }
    Ok(Reply::Array(replies))
}

/// Makes EXEC discard the open transaction, if there is one.
fn fail_transaction(store: &mut MemoryStore, slot: usize) {
    if let Some(Transaction { must_abort, .. }) = &mut store.clients[slot].transaction {
        *must_abort = true;
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
        fn random_requests_stay_within_the_limits_and_leave_nothing_behind(
            requests in vec((0..3_usize, vec(word(), 1..5)), 0..80),
            max_memory_bytes in select(vec![0, 2_000, 100_000]),
            max_output_bytes in select(vec![0, 300, 100_000]),
        ) {
            let limits = StoreLimits { max_memory_bytes, max_output_bytes, ..StoreLimits::default() };
            let mut store = MemoryStore::new(limits);
            let address = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
            let slots = [0; 3].map(|_| store.add_client(address, address));
            for (client, request) in requests {
                dispatch(&mut store, slots[client], &request);
                prop_assert!(store.keyspace.used_bytes() <= max_memory_bytes);
                for slot in slots {
                    prop_assert!(store.output(slot).pending().len() <= max_output_bytes);
                }
            }
            for slot in slots {
                store.remove_client(slot);
            }
            (0..16).for_each(|db| store.flush(db));
            prop_assert!(store.is_clean());
        }
    }
}
