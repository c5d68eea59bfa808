//! The last message of each group, kept in Redis for pages that open later.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use foldhash::fast::RandomState;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tracing::warn;

use crate::redis::{CommandClient, CommandFailure};
use crate::telemetry::LogThrottle;
use crate::wire::{Channel, Namespace};

/// Messages that are written together.
const MAX_WRITTEN: usize = 200;

/// Time after which a message is not written any more: another gateway may have kept a later one.
const MAX_AGE: Duration = Duration::from_secs(1);

/// Pause after Redis was lost.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Returns the key of a group's last message.
pub fn kept_key(namespace: &Namespace, group: &str) -> Channel {
    Channel::from_redis(&namespace.own(&format!("channels:{group}")))
}

/// The messages that are not in Redis yet. All shards read them: a page that opens behind one of them gets it, not the one that
/// Redis still has.
#[derive(Debug, Default)]
pub struct PendingMessages(Mutex<PendingTable>);

#[derive(Debug, Default)]
struct PendingTable {
    /// The latest message of each group.
    messages: HashMap<Box<str>, PendingMessage, RandomState>,
    bytes: usize,
}

#[derive(Debug)]
struct PendingMessage {
    message: Bytes,
    since: Instant,
    is_being_written: bool,
}

impl PendingMessages {
    fn table(&self) -> MutexGuard<'_, PendingTable> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the message of a group that is not in Redis yet.
    pub fn get(&self, group: &str) -> Option<Bytes> {
        self.table().messages.get(group).map(|pending| pending.message.clone())
    }

    /// Adds a message in place of the earlier one of its group. Returns false if there are more than `max_bytes` then.
    fn add(&self, group: &str, message: &[u8], max_bytes: usize) -> bool {
        let mut table = self.table();
        let replaced = table.messages.get(group).map_or(0, |pending| pending.message.len());
        let bytes = table.bytes - replaced + message.len();
        if bytes <= max_bytes {
            table.bytes = bytes;
            let (message, since) = (Bytes::copy_from_slice(message), Instant::now());
            table.messages.insert(group.into(), PendingMessage { message, since, is_being_written: false });
        }
        bytes <= max_bytes
    }

    /// Begins to write some messages. Those that are too old are dropped.
    fn begin(&self) -> Vec<(Box<str>, Bytes)> {
        let mut table = self.table();
        table.retain(|pending| pending.since.elapsed() < MAX_AGE);
        let waiting = table.messages.iter_mut().filter(|(_, pending)| !pending.is_being_written);
        let begun = waiting.take(MAX_WRITTEN).map(|(group, pending)| {
            pending.is_being_written = true;
            (group.clone(), pending.message.clone())
        });
        begun.collect()
    }

    /// Ends the writing of messages: those that were `lost` wait again, the others are in Redis, or refused. A later message of
    /// a group has taken the place of the one that was written.
    fn end(&self, lost: bool) {
        let mut table = self.table();
        if lost {
            table.messages.values_mut().for_each(|pending| pending.is_being_written = false);
        } else {
            table.retain(|pending| !pending.is_being_written);
        }
    }
}

impl PendingTable {
    fn retain(&mut self, keep: impl Fn(&PendingMessage) -> bool) {
        self.messages.retain(|_, pending| keep(pending));
        self.bytes = self.messages.values().map(|pending| pending.message.len()).sum();
    }
}

/// Writes the last message of each group, as Django has published it: it may be encrypted.
pub struct KeptMessages {
    commands: Rc<CommandClient>,
    namespace: Namespace,
    seconds: String,
    pending: Arc<PendingMessages>,
    max_bytes: usize,
    changed: Notify,
    dropped: LogThrottle,
}

impl KeptMessages {
    /// Messages are kept for so many seconds. At most `max_bytes` wait.
    pub(crate) fn new(
        commands: Rc<CommandClient>,
        namespace: &Namespace,
        seconds: u32,
        max_bytes: usize,
        pending: Arc<PendingMessages>,
    ) -> Rc<Self> {
        Rc::new(Self {
            commands,
            namespace: namespace.clone(),
            seconds: seconds.to_string(),
            pending,
            max_bytes,
            changed: Notify::new(),
            dropped: LogThrottle::default(),
        })
    }

    /// Keeps a message in place of the earlier one of its group.
    pub fn keep(&self, group: &str, message: &[u8]) {
        if self.pending.add(group, message, self.max_bytes) {
            self.changed.notify_one();
        } else if let Some(suppressed) = self.dropped.allow() {
            warn!(
                suppressed,
                "too many messages of Channels groups wait to be kept; later pages get an older one"
            );
        }
    }

    /// Writes until the task is aborted.
    pub async fn run(self: Rc<Self>) {
        loop {
            self.commands.until_up().await;
            let begun = self.pending.begin();
            if begun.is_empty() {
                self.changed.notified().await;
                continue;
            }
            let mut batch = self.commands.batch();
            for (group, message) in &begun {
                let key = kept_key(&self.namespace, group);
                batch.add("SETEX", &[key.as_str().as_bytes(), self.seconds.as_bytes(), message]);
            }
            let replies = self.commands.send(batch).await;
            let refusal = replies.iter().find_map(|reply| match reply {
                Err(CommandFailure::Refused(reason)) => Some(reason),
                _ => None,
            });
            if let Some(reason) = refusal
                && let Some(suppressed) = self.dropped.allow()
            {
                warn!(%reason, suppressed, "redis refuses to keep messages of Channels groups; later pages do not get them. Allow SETEX of ws4redis:channels:*");
            }
            let is_lost = replies.contains(&Err(CommandFailure::Lost));
            self.pending.end(is_lost);
            if is_lost {
                sleep(RETRY_PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_message_is_pending_until_it_is_written_or_too_old() {
        let pending = PendingMessages::default();
        let get = |group| pending.get(group).map(|message| String::from_utf8_lossy(&message).into_owned());
        assert!(pending.add("a", b"1", 10) && pending.add("b", b"1", 10));
        assert!(!pending.add("c", b"123456789", 10) && pending.add("a", b"2", 10));
        assert_eq!(pending.begin().len(), 2);
        assert_eq!((get("a").as_deref(), get("c")), (Some("2"), None), "it is being written");
        assert!(pending.add("a", b"3", 10));
        pending.end(false);
        assert_eq!((get("a").as_deref(), get("b")), (Some("3"), None), "another one has been written");
        assert_eq!(pending.begin(), [("a".into(), Bytes::from_static(b"3"))]);
        pending.end(true);
        assert_eq!(pending.begin(), [("a".into(), Bytes::from_static(b"3"))], "Redis was lost");
        pending.end(true);
        tokio::time::advance(MAX_AGE).await;
        assert!(pending.begin().is_empty() && get("a").is_none());
        assert!(pending.add("c", b"0123456789", 10), "dropped messages count no more");
    }
}
