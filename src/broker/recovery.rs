//! After messages were lost: the persisted values of all channels are read again and handed out, behind a fence.

use std::cell::Cell;
use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep, timeout};

use super::Broker;
use super::event::BrokerEvent;
use crate::redis::Store;
use crate::wire::Channel;
use crate::wire::key_of;

/// Channels whose values are read again together.
const RECOVERY_BATCH: usize = 500;

/// Time for reading values again, after which what was held back goes out without them.
const RECOVERY_PATIENCE: Duration = Duration::from_secs(10);

/// Values that were read again, with the shards that want them, and the epoch in which they were read.
pub(super) struct Recovered {
    epoch: u64,
    values: Vec<(Channel, Vec<usize>, Option<Bytes>)>,
}

impl Broker {
    /// Reads the persisted values of all channels again, beside everything else.
    pub(super) fn recover(&self) {
        self.recover_these(self.subscriptions.live());
    }

    /// Reads the persisted values of these channels again, for the shards that want them.
    pub(super) fn recover_these(&self, mut live: Vec<(Channel, Vec<usize>)>) {
        let (store, done) = (self.store.clone(), self.recoveries.0.clone());
        // Not all channels carry messages; what was held back there goes on without a value.
        let control = self.control.clone();
        live.retain(|(channel, _)| control.as_ref() != Some(channel));
        let (current, epoch) = (self.epoch.clone(), self.epoch.get());
        // What a node of a cluster keeps waits for that node only.
        let mut by_node: HashMap<_, Vec<_>> = HashMap::new();
        for channel in live {
            by_node.entry(store.node_of(&channel.0)).or_default().push(channel);
        }
        for live in by_node.into_values() {
            let (store, done, current) = (store.clone(), done.clone(), current.clone());
            tokio::task::spawn_local(async move {
                for channels in live.chunks(RECOVERY_BATCH) {
                    let carry = |channel: &&Channel| key_of(channel).is_none();
                    let names: Vec<_> =
                        channels.iter().map(|(channel, _)| channel).filter(carry).cloned().collect();
                    let values = read_again(&store, &names, &current, epoch).await;
                    let mut values: HashMap<_, _> = names.into_iter().zip(values).collect();
                    let with_value = |(channel, shards): &(Channel, Vec<usize>)| {
                        (channel.clone(), shards.clone(), values.remove(channel).flatten())
                    };
                    let values = channels.iter().map(with_value).collect();
                    if current.get() != epoch || done.send(Recovered { epoch, values }).await.is_err() {
                        return;
                    }
                }
            });
        }
    }

    /// Hands out values that were read again, behind all messages that came before the fence.
    pub(super) async fn tell_recovered(&mut self) {
        if self.fenced.is_empty() {
            return;
        }
        let mut parted = vec![Vec::new(); self.shards.len()];
        for recovered in self.fenced.drain(..).filter(|recovered| recovered.epoch == self.epoch.get()) {
            for (channel, shards, value) in recovered.values {
                for shard in shards {
                    parted[shard].push((channel.clone(), value.clone()));
                }
            }
        }
        for (shard, values) in parted.into_iter().enumerate() {
            if !values.is_empty() {
                self.tell(shard, BrokerEvent::Recovered(values)).await;
            }
        }
    }
}

/// Reads values until it succeeds, or the epoch is over, or patience ends: then there are none.
async fn read_again(store: &Store, channels: &[Channel], epoch: &Cell<u64>, now: u64) -> Vec<Option<Bytes>> {
    let begun = Instant::now();
    while epoch.get() == now && begun.elapsed() < RECOVERY_PATIENCE {
        let left = RECOVERY_PATIENCE.saturating_sub(begun.elapsed());
        if let Ok(Ok(values)) = timeout(left, store.persisted(channels)).await {
            return values;
        }
        sleep(Duration::from_millis(100)).await;
    }
    vec![None; channels.len()]
}
