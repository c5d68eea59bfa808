//! A connection that subscribes: SUBSCRIBE, PSUBSCRIBE and UNSUBSCRIBE, their acknowledgements, and messages.

use std::future::poll_fn;
use std::task::Poll;

use bytes::Bytes;
use tokio::time::Instant;
use tracing::debug;

use super::connection::{OUT_OF_SYNC, RedisConnection};
use super::error_reply::{ErrorClass, describe_text};
use crate::codec::resp::{NotResp, RespToken};
use crate::wire::{Channel, Message};

/// Channels to SUBSCRIBE to and to UNSUBSCRIBE from, sent in one pipeline that ends with a fence.
#[derive(Debug, Default)]
pub(crate) struct SubscriptionChange {
    pub(crate) unsubscribe: Vec<Channel>,
    pub(crate) subscribe: Vec<Channel>,
    /// Those of `subscribe` are patterns.
    pub(crate) by_pattern: bool,
}

/// What arrives on the connection.
#[derive(Debug)]
pub(crate) enum SubscriberEvent {
    /// A message.
    Message(Message),
    /// A message of a channel that matches a pattern, with the pattern.
    PatternMessage(Bytes, Message),
    /// A message above the size limit, with its channel and its size in bytes. It was discarded.
    Oversize(Channel, usize),
    /// The fence was answered, so the change before it was as well. The answer may be an error.
    Fence(Option<String>),
    /// Redis refuses the SUBSCRIBE, for this reason.
    Refused(String),
    /// One channel of the change is acknowledged.
    Acknowledged,
}

/// A connection that subscribes.
pub(crate) struct Subscriber {
    connection: RedisConnection,
    /// The text of the latest PING, which its answer repeats.
    fence: String,
    /// An UNSUBSCRIBE is unanswered; then a SUBSCRIBE. One error answers for all channels of a command.
    unsubscribing: bool,
    subscribing: bool,
    /// The fence is unanswered.
    fenced: bool,
    last_read: Instant,
}

impl Subscriber {
    /// Takes a connection on which no command is pending.
    pub(crate) fn new(connection: RedisConnection) -> Self {
        let (unsubscribing, subscribing, fenced) = (false, false, false);
        Self {
            connection,
            fence: String::new(),
            unsubscribing,
            subscribing,
            fenced,
            last_read: Instant::now(),
        }
    }

    /// Returns when something was read last.
    pub(crate) fn last_read(&self) -> Instant {
        self.last_read
    }

    /// Queues a change and a fence: a PING with a text of its own. They are written by [`Self::fill`].
    pub(crate) fn send(&mut self, change: &SubscriptionChange) {
        // UNSUBSCRIBE without channels would mean all of them; SUBSCRIBE without channels is an error.
        let subscribe = if change.by_pattern { "PSUBSCRIBE" } else { "SUBSCRIBE" };
        for (name, channels) in [("UNSUBSCRIBE", &change.unsubscribe), (subscribe, &change.subscribe)] {
            if !channels.is_empty() {
                let names: Vec<_> = channels.iter().map(|channel| channel.as_str().as_bytes()).collect();
                self.connection.command(name, &names);
            }
        }
        self.unsubscribing = !change.unsubscribe.is_empty();
        self.subscribing = !change.subscribe.is_empty();
        self.fence = format!("fence {:016x}", rand::random::<u64>());
        self.fenced = true;
        self.connection.command("PING", &[self.fence.as_bytes()]);
    }

    /// Writes what is queued, and waits for input. Safe to cancel.
    ///
    /// # Errors
    ///
    /// When the connection is lost.
    pub(crate) async fn fill(&mut self) -> Result<(), String> {
        poll_fn(|cx| {
            if let Poll::Ready(Err(reason)) = self.connection.poll_write(cx) {
                return Poll::Ready(Err(reason));
            }
            self.connection.poll_read(cx)
        })
        .await?;
        self.last_read = Instant::now();
        Ok(())
    }

    /// Returns the next event of the input.
    ///
    /// # Errors
    ///
    /// When Redis sends what no subscriber expects, or the connection is not authenticated.
    pub(crate) fn next(&mut self) -> Result<Option<SubscriberEvent>, String> {
        let describe = |error: NotResp| error.to_string();
        let Some((token, next)) = self.connection.word(0).map_err(describe)? else { return Ok(None) };
        match token {
            RespToken::Array(length @ 2..=4) => self.array(length, next),
            // Without a subscription, PING is answered by its text alone.
            RespToken::Bulk(range) => {
                let text = self.connection.incoming().split_to(next);
                self.take_fence(&text[range])
            }
            RespToken::Error(range) => {
                let text = self.connection.incoming().split_to(next);
                let reason = describe_text(&String::from_utf8_lossy(&text[range]));
                if ErrorClass::of(&reason) == ErrorClass::Unauthenticated {
                    return Err(reason);
                }
                if std::mem::take(&mut self.unsubscribing) {
                    // Messages of these channels keep arriving, and match no subscription.
                    debug!(error = %reason, "redis refuses to unsubscribe");
                    return Ok(Some(SubscriberEvent::Acknowledged));
                }
                if std::mem::take(&mut self.subscribing) {
                    return Ok(Some(SubscriberEvent::Refused(reason)));
                }
                // Replies are in order, so this one answers the fence, and all before it have arrived.
                if std::mem::take(&mut self.fenced) {
                    return Ok(Some(SubscriberEvent::Fence(Some(reason))));
                }
                Err(reason)
            }
            _ => Err(OUT_OF_SYNC.to_owned()),
        }
    }

    fn array(&mut self, length: usize, start: usize) -> Result<Option<SubscriberEvent>, String> {
        let mut next = start;
        let mut parts = [const { None }; 4];
        for (number, part) in parts.iter_mut().enumerate().take(length) {
            // Only the last part, the payload, may be large.
            let is_last = number >= 2 && number + 1 == length;
            let token = if is_last { self.connection.token(next) } else { self.connection.word(next) };
            let Some((token, after)) = token.map_err(|error| error.to_string())? else {
                return Ok(None);
            };
            *part = Some(token);
            next = after;
        }
        let bytes = self.connection.incoming().split_to(next).freeze();
        match parts {
            [Some(RespToken::Bulk(kind)), Some(RespToken::Bulk(channel)), Some(third), None] => {
                match (&bytes[kind], third) {
                    (b"message", RespToken::Bulk(payload)) => {
                        Ok(Some(SubscriberEvent::Message(Message::new(bytes, channel, payload))))
                    }
                    (b"message", RespToken::Oversize(length)) => {
                        Ok(Some(self.oversize(&bytes[channel], length)))
                    }
                    (b"subscribe" | b"psubscribe", RespToken::Integer(_)) => {
                        self.subscribing = false;
                        Ok(Some(SubscriberEvent::Acknowledged))
                    }
                    (b"unsubscribe", RespToken::Integer(_)) => {
                        self.unsubscribing = false;
                        Ok(Some(SubscriberEvent::Acknowledged))
                    }
                    _ => Err(OUT_OF_SYNC.to_owned()),
                }
            }
            [
                Some(RespToken::Bulk(kind)),
                Some(RespToken::Bulk(pattern)),
                Some(RespToken::Bulk(channel)),
                Some(payload),
            ] if &bytes[kind.clone()] == b"pmessage" => match payload {
                RespToken::Bulk(payload) => {
                    let pattern = bytes.slice(pattern);
                    let message = Message::new(bytes, channel, payload);
                    Ok(Some(SubscriberEvent::PatternMessage(pattern, message)))
                }
                RespToken::Oversize(length) => Ok(Some(self.oversize(&bytes[channel], length))),
                _ => Err(OUT_OF_SYNC.to_owned()),
            },
            [Some(RespToken::Bulk(kind)), Some(RespToken::Bulk(text)), None, None]
                if &bytes[kind.clone()] == b"pong" =>
            {
                self.take_fence(&bytes[text])
            }
            _ => Err(OUT_OF_SYNC.to_owned()),
        }
    }

    /// Discards a payload above the size limit.
    fn oversize(&mut self, channel: &[u8], length: usize) -> SubscriberEvent {
        self.connection.discard(length);
        SubscriberEvent::Oversize(Channel::from_redis(&String::from_utf8_lossy(channel)), length)
    }

    fn take_fence(&mut self, text: &[u8]) -> Result<Option<SubscriberEvent>, String> {
        if std::mem::take(&mut self.fenced) && text == self.fence.as_bytes() {
            Ok(Some(SubscriberEvent::Fence(None)))
        } else {
            Err(OUT_OF_SYNC.to_owned())
        }
    }
}
