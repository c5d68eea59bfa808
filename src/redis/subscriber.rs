//! SUBSCRIBE with an acknowledgement.
//!
//! fred's `subscribe` returns when the command is queued, drops Redis' reply, and gives the error of a refused one to
//! the command that comes next. So every step ends with a fence: a PING with a text of its own, on the same
//! connection, alone. Nothing else may run on this client.

use std::time::Duration;

use fred::prelude::*;
use fred::types::{ClusterHash, CustomCommand};
use tokio::time::sleep;

use super::commands::is_reply;
use super::connect::describe;
use super::interests::Step;
use crate::wire::Channel;

/// Pauses before the fences after a refusal, until one comes back whole: the refusal has shifted the replies.
const PAUSES: [Duration; 4] = [
    Duration::from_millis(1),
    Duration::from_millis(10),
    Duration::from_millis(50),
    Duration::from_millis(250),
];

/// The connection that subscribes.
#[derive(Debug, Clone)]
pub(super) struct Subscriber {
    client: Client,
    /// In a cluster fred sends every SUBSCRIBE of a client to the node of this slot, so that is where the fence goes.
    slot: u16,
}

/// What became of a step.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Redis has done it all.
    Done(Vec<Channel>),
    /// Redis subscribed none of these channels, for the reason given.
    Refused(Vec<Channel>, String),
    /// The connection cannot be trusted any more.
    Lost(String),
}

impl Subscriber {
    pub(super) fn new(client: Client) -> Self {
        let slot = fred::util::redis_keyslot(client.id().as_bytes());
        Self { client, slot }
    }

    /// Takes a step and waits for Redis' acknowledgement.
    pub(super) async fn take(self, step: Step) -> Outcome {
        let Step { unsubscribe, subscribe } = step;
        let names = |channels: &[Channel]| {
            channels.iter().map(|channel| channel.as_str().to_owned()).collect::<Vec<_>>()
        };
        // All are handed to fred in one go, and written as one: the reply to a SUBSCRIBE that is refused would be dropped
        // if it came before the PING that gets it. A command without channels would mean all, or be an error.
        let (unsubscribed, subscribed, fenced) = tokio::join!(
            biased;
            async {
                if unsubscribe.is_empty() {
                    Ok(())
                } else {
                    self.client.unsubscribe(names(&unsubscribe)).await
                }
            },
            async {
                if subscribe.is_empty() { Ok(()) } else { self.client.subscribe(names(&subscribe)).await }
            },
            self.fence(),
        );
        if let Err(error) = unsubscribed.and(subscribed) {
            return Outcome::Lost(describe(&error));
        }
        match fenced {
            Ok(true) => Outcome::Done(subscribe),
            Ok(false) => Outcome::Lost("replies out of step".to_owned()),
            Err(error) if is_reply(error.details()) && self.settle().await => {
                Outcome::Refused(subscribe, describe(&error))
            }
            Err(error) => Outcome::Lost(describe(&error)),
        }
    }

    /// Brings commands and replies into step again after an error. Tells whether it succeeded.
    async fn settle(&self) -> bool {
        for pause in PAUSES {
            // A reply that is one too many comes while nothing waits for it, and is dropped.
            sleep(pause).await;
            if matches!(self.fence().await, Ok(true)) {
                return true;
            }
        }
        false
    }

    /// Tells whether the reply to a PING of its own is the right one.
    async fn fence(&self) -> Result<bool, Error> {
        let text = format!("fence {:016x}", rand::random::<u64>());
        let ping = CustomCommand::new_static("PING", ClusterHash::Custom(self.slot), false);
        let reply: Value = self.client.custom(ping, vec![text.clone()]).await?;
        Ok(reply.as_string().is_some_and(|reply| reply == text))
    }

    /// Drops the connection; fred makes another.
    pub(super) async fn reconnect(&self) {
        if self.client.is_connected() {
            // It fails only where fred is reconnecting already.
            let _ = self.client.force_reconnection().await;
        }
    }
}
