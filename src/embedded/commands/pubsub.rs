//! PUBLISH, SUBSCRIBE, UNSUBSCRIBE, their pattern variants, and PUBSUB.

use bytes::Bytes;

use super::{
    call::CommandCall,
    spec::{CommandSpec, When},
};
use crate::embedded::{glob, pubsub::SubscriptionKind, reply::Reply};

pub(crate) const COMMANDS: &[CommandSpec] = &[
    CommandSpec::infallible("publish", 3, publish),
    CommandSpec::infallible("subscribe", -2, |call| subscribe(call, SubscriptionKind::Channel, "subscribe"))
        .when(When::InSubscriberMode),
    CommandSpec::infallible("psubscribe", -2, |call| {
        subscribe(call, SubscriptionKind::Pattern, "psubscribe")
    })
    .when(When::InSubscriberMode),
    CommandSpec::infallible("unsubscribe", -1, |call| {
        unsubscribe(call, SubscriptionKind::Channel, "unsubscribe")
    })
    .when(When::InSubscriberMode),
    CommandSpec::infallible("punsubscribe", -1, |call| {
        unsubscribe(call, SubscriptionKind::Pattern, "punsubscribe")
    })
    .when(When::InSubscriberMode),
    CommandSpec::infallible("pubsub", -2, |_| Reply::Nil).subcommands(PUBSUB),
];

const PUBSUB: &[CommandSpec] = &[
    CommandSpec::fallible("pubsub|channels", -2, channels),
    CommandSpec::infallible("pubsub|numsub", -2, numsub),
    CommandSpec::infallible("pubsub|numpat", 2, |call| Reply::count(call.store.pubsub.sizes().1)),
];

fn publish(call: &mut CommandCall<'_>) -> Reply {
    Reply::count(call.store.publish(&call.args[1], &call.args[2]))
}

fn subscribe(call: &mut CommandCall<'_>, kind: SubscriptionKind, word: &'static str) -> Reply {
    let mut replies = Vec::with_capacity(call.args.len() - 1);
    for name in &call.args[1..] {
        replies.push(match call.store.subscribe(call.slot, kind, name) {
            Ok(()) => acknowledge(call, word, Reply::Bulk(name.clone())),
            Err(error) => error,
        });
    }
    Reply::Sequence(replies)
}

fn unsubscribe(call: &mut CommandCall<'_>, kind: SubscriptionKind, word: &'static str) -> Reply {
    let names = match &call.args[1..] {
        [] => call.store.subscriptions_of(call.slot, kind),
        names => names.to_vec(),
    };
    if names.is_empty() {
        return acknowledge(call, word, Reply::Nil);
    }
    let mut replies = Vec::with_capacity(names.len());
    for name in names {
        call.store.unsubscribe(call.slot, kind, &name);
        replies.push(acknowledge(call, word, Reply::Bulk(name)));
    }
    Reply::Sequence(replies)
}

fn acknowledge(call: &mut CommandCall<'_>, word: &'static str, name: Reply) -> Reply {
    Reply::Push(vec![Reply::text(word), name, Reply::count(call.client().subscriptions())])
}

fn channels(call: &mut CommandCall<'_>) -> Result<Reply, Reply> {
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
        .store
        .pubsub
        .channels()
        .filter(|name| pattern.is_none_or(|pattern| glob::matches(pattern, name)));
    Ok(Reply::Array(found.cloned().map(Reply::Bulk).collect()))
}

fn numsub(call: &mut CommandCall<'_>) -> Reply {
    let counts = |name: &Bytes| [Reply::Bulk(name.clone()), Reply::count(call.store.pubsub.count(name))];
    Reply::Array(call.args[2..].iter().flat_map(counts).collect())
}
