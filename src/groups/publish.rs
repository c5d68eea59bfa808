//! Messages of pages for Django: to a channel that a worker reads, or to a group that consumers are in.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::Notify;
use tracing::warn;

use super::layer_writer::LayerWriter;
use crate::access::{Identity, session_hash};
use crate::metrics::Counters;
use crate::settings::{ChannelLayer, ChannelsDestination, ChannelsPublishRule, Settings};
use crate::telemetry::LogThrottle;
use crate::wire::Facility;

/// Messages that are written together.
const MAX_WRITTEN: usize = 100;

/// Bytes that a queued message takes in addition to its text.
const OVERHEAD: usize = 256;

/// Publishes the messages of a shard's pages, at most once.
pub struct ChannelsPublisher {
    rules: Arc<[ChannelsPublishRule]>,
    writer: LayerWriter,
    queue: RefCell<VecDeque<PageMessage>>,
    bytes: Cell<usize>,
    max_bytes: usize,
    changed: Notify,
    counters: Arc<Counters>,
    lost: LogThrottle,
}

/// A page whose messages Django gets.
pub struct PageSender {
    rule: usize,
    facility: Box<str>,
    user: Option<Arc<str>>,
    /// A hash of the session's key, never the key.
    session: Option<Box<str>>,
}

/// A message of a page.
pub(super) struct PageMessage {
    pub(super) to: ChannelsDestination,
    pub(super) kind: String,
    pub(super) text: String,
    pub(super) user: Option<Arc<str>>,
    pub(super) session: Option<Box<str>>,
    pub(super) facility: Box<str>,
}

impl ChannelsPublisher {
    /// Starts to connect to the layer's servers; `None` without a rule. Must be called on the shard's runtime.
    pub(super) fn new(
        layer: &ChannelLayer,
        settings: &Settings,
        counters: &Arc<Counters>,
    ) -> Option<Rc<Self>> {
        let rules = settings.channels.publish.clone();
        if rules.is_empty() {
            return None;
        }
        Some(Rc::new(Self {
            rules,
            writer: LayerWriter::new(layer)?,
            queue: RefCell::default(),
            bytes: Cell::default(),
            max_bytes: settings.redis.max_pending_bytes,
            changed: Notify::new(),
            counters: counters.clone(),
            lost: LogThrottle::default(),
        }))
    }

    /// Returns the sender of a page; `None` if no rule names its facility.
    pub fn sender(&self, facility: &Facility, identity: &Identity) -> Option<PageSender> {
        let rule = self.rules.iter().position(|rule| rule.facilities.admit(facility))?;
        Some(PageSender {
            rule,
            facility: facility.as_str().into(),
            user: identity.user.as_ref().or(identity.user_id.as_ref()).cloned(),
            session: identity.session.as_ref().map(|key| session_hash(key).into()),
        })
    }

    /// Queues a message of a page. Messages that are no text, and those above the bound of the queue, are dropped and counted.
    pub fn publish(&self, sender: &PageSender, message: &[u8]) {
        let size = message.len() + OVERHEAD;
        let (Ok(text), Some(rule)) = (std::str::from_utf8(message), self.rules.get(sender.rule)) else {
            return self.count_lost(1, "it is no text");
        };
        if self.bytes.get() + size > self.max_bytes {
            return self.count_lost(1, "too many of them wait for Redis");
        }
        self.bytes.set(self.bytes.get() + size);
        self.queue.borrow_mut().push_back(PageMessage {
            to: rule.to.clone(),
            kind: rule.kind.clone(),
            text: text.to_owned(),
            user: sender.user.clone(),
            session: sender.session.clone(),
            facility: sender.facility.clone(),
        });
        self.changed.notify_one();
    }

    /// Writes until the task is aborted.
    pub async fn run(self: Rc<Self>) {
        loop {
            let messages: Vec<_> = {
                let mut queue = self.queue.borrow_mut();
                let count = queue.len().min(MAX_WRITTEN);
                queue.drain(..count).collect()
            };
            if messages.is_empty() {
                self.changed.notified().await;
                continue;
            }
            let bytes: usize = messages.iter().map(|message| message.text.len() + OVERHEAD).sum();
            self.bytes.set(self.bytes.get() - bytes);
            if let Err((count, reason)) = self.writer.write(&messages).await {
                self.count_lost(count, &reason);
            }
        }
    }

    fn count_lost(&self, count: u64, reason: &str) {
        Counters::add(&self.counters.lost_channel_messages, count);
        if let Some(suppressed) = self.lost.allow() {
            warn!(count, reason, suppressed, "messages of pages did not reach Django Channels");
        }
    }
}
