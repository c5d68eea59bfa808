//! A subscription for the operator's eyes: `ws4redis check`. It has no part in deliveries.

use std::collections::VecDeque;

use bytes::Bytes;
use tokio::task::spawn_local;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::subscriber::{Subscriber, SubscriberEvent, SubscriptionChange};
use super::target::Target;
use crate::wire::{Channel, Message};

/// Messages that may arrive while a name is being subscribed; further ones are dropped.
const MAX_WAITING: usize = 1_000;

/// A subscription to a few names.
pub struct Tap {
    _following: AbortOnDropHandle<()>,
    subscriber: Subscriber,
    target: Target,
    waiting: VecDeque<TapEvent>,
}

/// Something that passes through Redis.
#[derive(Debug)]
pub enum TapEvent {
    /// A message, with the pattern that it matched if there is one.
    Message(Option<Bytes>, Message),
    /// A message above the size limit, with its channel and its size in bytes.
    Oversize(Channel, usize),
}

impl Tap {
    /// Connects. Must be called within a `LocalSet`.
    ///
    /// # Errors
    ///
    /// With a description, when Redis cannot be reached or refuses.
    pub async fn open(target: &Target, max_bytes: usize) -> Result<Self, String> {
        let following = AbortOnDropHandle::new(spawn_local(target.clone().follow()));
        let subscriber = Subscriber::new(target.dial(max_bytes).await?);
        Ok(Self { _following: following, subscriber, target: target.clone(), waiting: VecDeque::new() })
    }

    /// Subscribes to a channel or a pattern. Returns why Redis refuses it, if it does.
    ///
    /// # Errors
    ///
    /// With a description, when the connection is lost.
    pub async fn subscribe(&mut self, name: &Channel, by_pattern: bool) -> Result<Option<String>, String> {
        let change = SubscriptionChange { subscribe: vec![name.clone()], by_pattern, ..Default::default() };
        self.subscriber.send(&change);
        let within = self.target.command_timeout();
        let late = |_| format!("no answer within {} s", within.as_secs());
        timeout(within, self.outcome()).await.map_err(late)?
    }

    async fn outcome(&mut self) -> Result<Option<String>, String> {
        let mut refusal = None;
        loop {
            match self.subscriber.next()? {
                Some(SubscriberEvent::Refused(reason)) => refusal = Some(reason),
                Some(SubscriberEvent::Fence(_)) => return Ok(refusal),
                Some(event) => {
                    let event = event_of(event).filter(|_| self.waiting.len() < MAX_WAITING);
                    self.waiting.extend(event);
                }
                None => self.subscriber.fill().await?,
            }
        }
    }

    /// Waits for what passes next. Safe to cancel.
    ///
    /// # Errors
    ///
    /// With a description, when the connection is lost.
    pub async fn next(&mut self) -> Result<TapEvent, String> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Ok(event);
            }
            match self.subscriber.next()? {
                Some(event) => self.waiting.extend(event_of(event)),
                None => self.subscriber.fill().await?,
            }
        }
    }
}

fn event_of(event: SubscriberEvent) -> Option<TapEvent> {
    match event {
        SubscriberEvent::Message(message) => Some(TapEvent::Message(None, message)),
        SubscriberEvent::PatternMessage(pattern, message) => Some(TapEvent::Message(Some(pattern), message)),
        SubscriberEvent::Oversize(channel, bytes) => Some(TapEvent::Oversize(channel, bytes)),
        SubscriberEvent::Fence(_) | SubscriberEvent::Refused(_) | SubscriberEvent::Acknowledged => None,
    }
}
