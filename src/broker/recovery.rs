//! Recovery after a loss of messages: re-reads the persisted values of channels and delivers them behind a fence.

use std::cell::Cell;
use std::collections::HashMap;
use std::future::pending;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use crate::redis::Store;
use crate::wire::Channel;

/// Channels whose values are read by one request.
const RECOVERY_BATCH: usize = 500;

/// Batches of values that may wait for the broker, and as many for a fence.
const MAX_WAITING: usize = 4;

/// Time limit for reading values; after it, held messages are delivered without them.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause before values are requested again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Persisted values that were re-read, with the shards that want them.
struct RecoveredValues {
    epoch: u64,
    values: Vec<(Channel, Vec<usize>, Option<Bytes>)>,
}

/// Re-reads persisted values in the background.
///
/// Values go out behind a fence that was sent after they were read: then every message that was published before the
/// read has arrived, so no value is followed by an older message.
pub(super) struct Recovery {
    store: Rc<Store>,
    /// Counts the losses. Reads of an older epoch stop, and their values are dropped: they may be older than what was
    /// lost since.
    epoch: Rc<Cell<u64>>,
    /// Values for which no fence has been sent.
    read: Vec<RecoveredValues>,
    /// Values that wait for the answer to a fence.
    fenced: Vec<RecoveredValues>,
    sender: mpsc::Sender<RecoveredValues>,
    receiver: mpsc::Receiver<RecoveredValues>,
}

impl Recovery {
    pub(super) fn new(store: Rc<Store>) -> Self {
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        Self { store, epoch: Rc::default(), read: Vec::new(), fenced: Vec::new(), sender, receiver }
    }

    /// Starts to re-read the values of these channels, for the shards that want them.
    pub(super) fn start(&self, channels: Vec<(Channel, Vec<usize>)>) {
        // A slow node of a cluster delays its own channels only.
        let mut by_node: HashMap<_, Vec<_>> = HashMap::new();
        for channel in channels {
            by_node.entry(self.store.node_of(&channel.0)).or_default().push(channel);
        }
        for channels in by_node.into_values() {
            let (store, sender) = (self.store.clone(), self.sender.clone());
            let (current, epoch) = (self.epoch.clone(), self.epoch.get());
            tokio::task::spawn_local(async move {
                for channels in channels.chunks(RECOVERY_BATCH) {
                    let names: Vec<_> = channels.iter().map(|(channel, _)| channel).cloned().collect();
                    let values = read_values(&store, &names, &current, epoch).await;
                    let with_value = |((channel, shards), value): (&(Channel, Vec<usize>), _)| {
                        (channel.clone(), shards.clone(), value)
                    };
                    let values = channels.iter().zip(values).map(with_value).collect();
                    if current.get() != epoch || sender.send(RecoveredValues { epoch, values }).await.is_err()
                    {
                        return;
                    }
                }
            });
        }
    }

    /// Stops all reads and drops their values.
    pub(super) fn cancel(&mut self) {
        self.epoch.set(self.epoch.get() + 1);
        self.read.clear();
        self.fenced.clear();
    }

    /// Waits for values, and keeps them for the next fence. Safe to cancel.
    pub(super) async fn receive(&mut self) {
        if self.read.len() >= MAX_WAITING {
            return pending().await;
        }
        match self.receiver.recv().await {
            Some(values) => self.read.push(values),
            None => pending().await,
        }
    }

    /// Returns true if values wait for a fence.
    pub(super) fn needs_fence(&self) -> bool {
        !self.read.is_empty()
    }

    /// Notes that a fence is being sent.
    pub(super) fn begin_fence(&mut self) {
        self.fenced = std::mem::take(&mut self.read);
    }

    /// Returns the values behind the fence that was answered, per shard.
    pub(super) fn take_fenced(&mut self, shards: usize) -> Vec<Vec<(Channel, Option<Bytes>)>> {
        let mut per_shard = vec![Vec::new(); shards];
        for recovered in self.fenced.drain(..).filter(|recovered| recovered.epoch == self.epoch.get()) {
            for (channel, shards, value) in recovered.values {
                for shard in shards {
                    per_shard[shard].push((channel.clone(), value.clone()));
                }
            }
        }
        per_shard
    }
}

/// Reads values, with retries. Returns none of them when the epoch is over or the time limit is reached.
async fn read_values(
    store: &Store,
    channels: &[Channel],
    current: &Cell<u64>,
    epoch: u64,
) -> Vec<Option<Bytes>> {
    let begun = Instant::now();
    while current.get() == epoch && begun.elapsed() < RECOVERY_TIMEOUT {
        let left = RECOVERY_TIMEOUT.saturating_sub(begun.elapsed());
        if let Ok(Ok(values)) = timeout(left, store.persisted(channels)).await {
            return values;
        }
        sleep(RETRY_PAUSE).await;
    }
    vec![None; channels.len()]
}
