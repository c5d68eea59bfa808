//! The queues to the shards.

use tokio::sync::mpsc;

use super::event::SubscriptionEvent;
use super::intake::Intake;
use crate::sources::Source;

/// Channels in one [`SubscriptionEvent::Resumed`].
const RESUMED_TOGETHER: usize = 500;

/// The queues to the shards, by their numbers.
pub(super) struct ShardQueues<E>(Vec<mpsc::Sender<E>>);

impl<E> ShardQueues<E> {
    pub(super) fn new(senders: Vec<mpsc::Sender<E>>) -> Self {
        Self(senders)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Sends an event to a shard. Waits for the shard's thread, which waits for no client. What arrives from Redis
    /// meanwhile is received, so that Redis does not buffer it without bounds.
    pub(super) async fn send(&self, shard: usize, event: impl Into<E>, intake: &mut Intake) {
        loop {
            tokio::select! {
                biased;
                // The end of a shard ends the process; there is nothing to do here.
                permit = self.0[shard].reserve() => return if let Ok(permit) = permit { permit.send(event.into()) },
                () = intake.receive() => {}
            }
        }
    }

    /// Sends an event to all shards.
    pub(super) async fn send_all<T: Into<E>>(&self, event: impl Fn() -> T, intake: &mut Intake) {
        for shard in 0..self.len() {
            self.send(shard, event(), intake).await;
        }
    }

    /// Sends each shard its items, if it has some.
    pub(super) async fn send_each<I, T: Into<E>>(
        &self,
        per_shard: Vec<Vec<I>>,
        event: impl Fn(Vec<I>) -> T,
        intake: &mut Intake,
    ) {
        for (shard, items) in per_shard.into_iter().enumerate() {
            if !items.is_empty() {
                self.send(shard, event(items), intake).await;
            }
        }
    }
}

impl<E: From<SubscriptionEvent>> ShardQueues<E> {
    /// Resumes the channels that carry no messages.
    pub(super) async fn resume_keyspace(&self, intake: &mut Intake) {
        for channels in intake.subscriptions.confirmed(Source::Keyspace).chunks(RESUMED_TOGETHER) {
            let mut per_shard = vec![Vec::new(); self.len()];
            for (channel, shards) in channels {
                for shard in shards {
                    per_shard[*shard].push(channel.clone());
                }
            }
            self.send_each(per_shard, SubscriptionEvent::Resumed, intake).await;
        }
    }
}
