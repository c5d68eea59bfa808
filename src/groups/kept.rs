//! The last message of each group, kept in Redis for pages that open later.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use foldhash::fast::RandomState;
use tokio::sync::Notify;
use tokio::time::sleep;
use tracing::warn;

use crate::redis::{CommandClient, CommandFailure};
use crate::telemetry::LogThrottle;
use crate::wire::{Channel, Namespace};

/// Messages that are written together.
const MAX_WRITTEN: usize = 200;

/// Pause after Redis was lost.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Returns the key of a group's last message.
pub fn kept_key(namespace: &Namespace, group: &str) -> Channel {
    Channel::from_redis(&namespace.own(&format!("channels:{group}")))
}

/// Writes the last message of each group, as Django has published it: it may be encrypted.
pub struct KeptMessages {
    commands: Rc<CommandClient>,
    namespace: Namespace,
    seconds: String,
    /// The latest message of each group that is not written yet.
    waiting: RefCell<HashMap<Box<str>, Bytes, RandomState>>,
    bytes: Cell<usize>,
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
    ) -> Rc<Self> {
        Rc::new(Self {
            commands,
            namespace: namespace.clone(),
            seconds: seconds.to_string(),
            waiting: RefCell::default(),
            bytes: Cell::default(),
            max_bytes,
            changed: Notify::new(),
            dropped: LogThrottle::default(),
        })
    }

    /// Keeps a message in place of the earlier one of its group.
    pub fn keep(&self, group: &str, message: &[u8]) {
        let mut waiting = self.waiting.borrow_mut();
        let replaced = waiting.get(group).map_or(0, Bytes::len);
        let bytes = self.bytes.get() - replaced + message.len();
        if bytes > self.max_bytes {
            if let Some(suppressed) = self.dropped.allow() {
                warn!(
                    suppressed,
                    "too many messages of Channels groups wait to be kept; later pages get an older one"
                );
            }
            return;
        }
        self.bytes.set(bytes);
        waiting.insert(group.into(), Bytes::copy_from_slice(message));
        self.changed.notify_one();
    }

    /// Writes until the task is aborted.
    pub async fn run(self: Rc<Self>) {
        loop {
            let taken: Vec<_> = {
                let mut waiting = self.waiting.borrow_mut();
                let groups: Vec<_> = waiting.keys().take(MAX_WRITTEN).cloned().collect();
                groups.into_iter().filter_map(|group| waiting.remove_entry(&group)).collect()
            };
            if taken.is_empty() {
                self.changed.notified().await;
                continue;
            }
            let bytes: usize = taken.iter().map(|(_, message)| message.len()).sum();
            self.bytes.set(self.bytes.get() - bytes);
            self.commands.until_up().await;
            let mut batch = self.commands.batch();
            for (group, message) in &taken {
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
            if replies.contains(&Err(CommandFailure::Lost)) {
                sleep(RETRY_PAUSE).await;
            }
        }
    }
}
