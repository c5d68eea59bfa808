//! PUBLISH, SUBSCRIBE, PSUBSCRIBE and back, PUBSUB.

use bytes::Bytes;

use super::{Call, Command, When};
use crate::embedded::{glob, pubsub::Kind, reply::Reply};

pub(crate) const COMMANDS: &[Command] = &[
    Command::sure("publish", 3, publish),
    Command::sure("subscribe", -2, |call| subscribe(call, Kind::Channel, "subscribe")).when(When::Listening),
    Command::sure("psubscribe", -2, |call| subscribe(call, Kind::Pattern, "psubscribe"))
        .when(When::Listening),
    Command::sure("unsubscribe", -1, |call| unsubscribe(call, Kind::Channel, "unsubscribe"))
        .when(When::Listening),
    Command::sure("punsubscribe", -1, |call| unsubscribe(call, Kind::Pattern, "punsubscribe"))
        .when(When::Listening),
    Command::sure("pubsub", -2, |_| Reply::Nil).subcommands(PUBSUB),
];

const PUBSUB: &[Command] = &[
    Command::fallible("pubsub|channels", -2, channels),
    Command::sure("pubsub|numsub", -2, numsub),
    Command::sure("pubsub|numpat", 2, |call| Reply::count(call.state.pubsub.sizes().1)),
];

fn publish(call: &mut Call<'_>) -> Reply {
    Reply::count(call.state.publish(&call.args[1], &call.args[2]))
}

fn subscribe(call: &mut Call<'_>, kind: Kind, word: &'static str) -> Reply {
    let mut replies = Vec::with_capacity(call.args.len() - 1);
    for name in &call.args[1..] {
        replies.push(match call.state.subscribe(call.slot, kind, name) {
            Ok(()) => acknowledge(call, word, Reply::Bulk(name.clone())),
            Err(error) => error,
        });
    }
    Reply::Sequence(replies)
}

fn unsubscribe(call: &mut Call<'_>, kind: Kind, word: &'static str) -> Reply {
    let names = match &call.args[1..] {
        [] => call.state.subscribed(call.slot, kind),
        names => names.to_vec(),
    };
    if names.is_empty() {
        return acknowledge(call, word, Reply::Nil);
    }
    let mut replies = Vec::with_capacity(names.len());
    for name in names {
        call.state.unsubscribe(call.slot, kind, &name);
        replies.push(acknowledge(call, word, Reply::Bulk(name)));
    }
    Reply::Sequence(replies)
}

fn acknowledge(call: &mut Call<'_>, word: &'static str, name: Reply) -> Reply {
    Reply::Push(vec![Reply::text(word), name, Reply::count(call.client().subscriptions())])
}

fn channels(call: &mut Call<'_>) -> Result<Reply, Reply> {
    let pattern: Option<&Bytes> = match &call.args[2..] {
        [] => None,
        [pattern] => Some(pattern),
        _ => {
            return Err(Reply::error(
                "ERR unknown subcommand or wrong number of arguments for 'channels'. Try PUBSUB HELP.",
            ));
        }
    };
    let found = call
        .state
        .pubsub
        .channels()
        .filter(|name| pattern.is_none_or(|pattern| glob::matches(pattern, name)));
    Ok(Reply::Array(found.cloned().map(Reply::Bulk).collect()))
}

fn numsub(call: &mut Call<'_>) -> Reply {
    let counts = |name: &Bytes| [Reply::Bulk(name.clone()), Reply::count(call.state.pubsub.count(name))];
    Reply::Array(call.args[2..].iter().flat_map(counts).collect())
}
