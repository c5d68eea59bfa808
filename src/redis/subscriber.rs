//! The connection on which Redis tells what is published: SUBSCRIBE, its acknowledgements, and messages.

use std::future::poll_fn;
use std::ops::Range;
use std::task::Poll;

use bytes::Bytes;
use tokio::time::Instant;
use tracing::debug;

use super::connection::{OUT_OF_SYNC, RedisConnection};
use super::error_reply::{ErrorClass, describe_text};
use super::resp::Token;
use crate::wire::Channel;

/// The channels to SUBSCRIBE to and to UNSUBSCRIBE from, in one pipeline that ends with a fence.
#[derive(Debug, Default)]
pub(crate) struct SubscriptionChange {
    pub(crate) unsubscribe: Vec<Channel>,
    pub(crate) subscribe: Vec<Channel>,
}

/// What came for a channel.
#[derive(Debug)]
pub(crate) struct Message {
    /// As it came, with all that frames it.
    bytes: Bytes,
    channel: Range<usize>,
    payload: Range<usize>,
}

impl Message {
    /// The name of its channel. Whether it is text is not looked at: nobody wants such as is none.
    pub(crate) fn channel(&self) -> &[u8] {
        &self.bytes[self.channel.clone()]
    }

    /// What was published.
    pub(crate) fn payload(&self) -> &[u8] {
        &self.bytes[self.payload.clone()]
    }
}

/// What Redis says.
#[derive(Debug)]
pub(crate) enum SubscriberEvent {
    /// A message.
    Message(Message),
    /// A message that is too large, of so many bytes: it is passed over.
    Oversize(Channel, usize),
    /// All that was asked for in the step has been answered; the fence itself perhaps by an error.
    Fence(Option<String>),
    /// Redis refuses something, with its reason.
    Refused(String),
    /// An acknowledgement of a single channel.
    Acknowledged,
}

/// A connection that subscribes.
pub(crate) struct Subscriber {
    connection: RedisConnection,
    /// The text that the fence of the present step brings back.
    fence: String,
    /// Whether an UNSUBSCRIBE has no answer yet, and then a SUBSCRIBE: one error answers for all of its channels.
    unsubscribing: bool,
    subscribing: bool,
    /// Whether the fence has no answer yet.
    fenced: bool,
    last_read: Instant,
}

impl Subscriber {
    /// Takes a connection on which nothing has been said.
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

    /// When something came last.
    pub(crate) fn last_read(&self) -> Instant {
        self.last_read
    }

    /// Begins a step, at whose end Redis brings back a text of its own. It is written as what comes is read.
    pub(crate) fn begin(&mut self, step: &SubscriptionChange) {
        // A command without channels would mean all, or be an error.
        for (name, channels) in [("UNSUBSCRIBE", &step.unsubscribe), ("SUBSCRIBE", &step.subscribe)] {
            if !channels.is_empty() {
                let names: Vec<_> = channels.iter().map(|channel| channel.as_str().as_bytes()).collect();
                self.connection.command(name, &names);
            }
        }
        self.unsubscribing = !step.unsubscribe.is_empty();
        self.subscribing = !step.subscribe.is_empty();
        self.fence = format!("fence {:016x}", rand::random::<u64>());
        self.fenced = true;
        self.connection.command("PING", &[self.fence.as_bytes()]);
    }

    /// Waits until something has come. Safe to cancel.
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

    /// Takes the next of what has come.
    ///
    /// # Errors
    ///
    /// When that is none of what a subscriber is told.
    pub(crate) fn next(&mut self) -> Result<Option<SubscriberEvent>, String> {
        let malformed = |error: super::resp::Malformed| error.to_string();
        let Some((token, next)) = self.connection.word(0).map_err(malformed)? else { return Ok(None) };
        match token {
            Token::Array(length @ 2..=3) => self.array(length, next),
            // So it is answered while there is no subscription.
            Token::Bulk(place) => {
                let text = self.connection.incoming().split_to(next);
                self.check(&text[place])
            }
            Token::Error(place) => {
                let text = self.connection.incoming().split_to(next);
                let reason = describe_text(&String::from_utf8_lossy(&text[place]));
                if ErrorClass::of(&reason) == ErrorClass::Unauthenticated {
                    return Err(reason);
                }
                if std::mem::take(&mut self.unsubscribing) {
                    // What goes on coming is wanted by nobody, and is dropped.
                    debug!(error = %reason, "redis refuses to unsubscribe");
                    return Ok(Some(SubscriberEvent::Acknowledged));
                }
                if std::mem::take(&mut self.subscribing) {
                    return Ok(Some(SubscriberEvent::Refused(reason)));
                }
                // Replies come in order: this one belongs to the fence, and shows as well as any that all before it came.
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
        let mut parts = [const { None }; 3];
        for (number, part) in parts.iter_mut().enumerate().take(length) {
            // The third is the message; what goes before it is known, or was asked for.
            let token = if number == 2 { self.connection.token(next) } else { self.connection.word(next) };
            let Some((token, after)) = token.map_err(|error| error.to_string())? else {
                return Ok(None);
            };
            *part = Some(token);
            next = after;
        }
        let bytes = self.connection.incoming().split_to(next).freeze();
        match parts {
            [Some(Token::Bulk(kind)), Some(Token::Bulk(channel)), Some(third)] => {
                match (&bytes[kind], third) {
                    (b"message", Token::Bulk(payload)) => {
                        Ok(Some(SubscriberEvent::Message(Message { bytes, channel, payload })))
                    }
                    (b"message", Token::Oversize(length)) => {
                        self.connection.discard(length);
                        let channel = Channel::from_redis(&String::from_utf8_lossy(&bytes[channel]));
                        Ok(Some(SubscriberEvent::Oversize(channel, length)))
                    }
                    (b"subscribe", Token::Integer(_)) => {
                        self.subscribing = false;
                        Ok(Some(SubscriberEvent::Acknowledged))
                    }
                    (b"unsubscribe", Token::Integer(_)) => {
                        self.unsubscribing = false;
                        Ok(Some(SubscriberEvent::Acknowledged))
                    }
                    _ => Err(OUT_OF_SYNC.to_owned()),
                }
            }
            [Some(Token::Bulk(kind)), Some(Token::Bulk(text)), None] if &bytes[kind.clone()] == b"pong" => {
                self.check(&bytes[text])
            }
            _ => Err(OUT_OF_SYNC.to_owned()),
        }
    }

    fn check(&mut self, text: &[u8]) -> Result<Option<SubscriberEvent>, String> {
        if std::mem::take(&mut self.fenced) && text == self.fence.as_bytes() {
            Ok(Some(SubscriberEvent::Fence(None)))
        } else {
            Err(OUT_OF_SYNC.to_owned())
        }
    }
}
