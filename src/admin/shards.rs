//! The shards as the admin listener sees them: queues for questions, and a deadline for each answer.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::reload::ReloadQuestion;
use crate::shard::ask::{Ask, ShardStatus};

/// Questions that are queued for a shard; further ones wait, within the same deadline.
const QUEUE_CAPACITY: usize = 16;

/// Time for an answer of a shard, its queue included.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// The queues to all shards, shared by the listeners.
#[derive(Debug, Clone)]
pub struct Shards {
    asks: Vec<mpsc::Sender<Ask>>,
    stop: CancellationToken,
    listing: Arc<Mutex<()>>,
    /// Where reloads of the settings are asked for.
    reloads: mpsc::Sender<ReloadQuestion>,
}

/// Creates a queue for each shard. `stop` is cancelled when the server stops. Nobody answers questions for a reload.
pub fn ask_queues(shards: usize, stop: CancellationToken) -> (Shards, Vec<mpsc::Receiver<Ask>>) {
    let (asks, queues) = (0..shards).map(|_| mpsc::channel(QUEUE_CAPACITY)).unzip();
    let (reloads, _) = mpsc::channel(1);
    (Shards { asks, stop, listing: Arc::default(), reloads }, queues)
}

impl Shards {
    /// Sets where reloads of the settings are asked for.
    #[must_use]
    pub fn with_reloads(self, reloads: mpsc::Sender<ReloadQuestion>) -> Self {
        Self { reloads, ..self }
    }

    /// Asks for a reload. Returns whether somebody will answer.
    pub(super) async fn ask_to_reload(&self, question: ReloadQuestion) -> bool {
        self.reloads.send(question).await.is_ok()
    }

    /// Returns the number of shards.
    pub(super) fn count(&self) -> usize {
        self.asks.len()
    }

    /// Returns whether the server stops.
    pub(super) fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Waits until no other page of connections is collected. One at a time bounds their memory, and keeps a health check
    /// from waiting behind many of them.
    pub(super) async fn begin_listing(&self) -> MutexGuard<'_, ()> {
        self.listing.lock().await
    }

    /// Asks all shards for their status at once. `None` stands for a shard that does not answer in time.
    pub(super) async fn statuses(&self) -> Vec<Option<ShardStatus>> {
        self.ask_all(Ask::Status).await
    }

    /// Asks all shards at once. `None` stands for a shard that does not answer in time.
    pub(super) async fn ask_all<T>(&self, question: fn(oneshot::Sender<T>) -> Ask) -> Vec<Option<T>> {
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        let mut answers = Vec::with_capacity(self.count());
        // If one queue is full until the deadline, the others are still tried: a ready future needs no time.
        for shard in 0..self.count() {
            answers.push(self.send(shard, question, deadline).await);
        }
        let mut received = Vec::with_capacity(answers.len());
        for answer in answers {
            received.push(receive(answer, deadline).await);
        }
        received
    }

    /// Returns whether every shard runs its tasks. At the end of a drain they end before the process, and count as running.
    pub async fn are_live(&self) -> bool {
        self.statuses().await.iter().all(Option::is_some) || self.is_stopping()
    }

    /// Asks one shard. Returns `None` if it does not answer in time, or has ended.
    pub(super) async fn ask<T>(
        &self,
        shard: usize,
        question: impl FnOnce(oneshot::Sender<T>) -> Ask,
    ) -> Option<T> {
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        receive(self.send(shard, question, deadline).await, deadline).await
    }

    async fn send<T>(
        &self,
        shard: usize,
        question: impl FnOnce(oneshot::Sender<T>) -> Ask,
        deadline: Instant,
    ) -> Option<oneshot::Receiver<T>> {
        let (sender, answer) = oneshot::channel();
        timeout_at(deadline, self.asks.get(shard)?.send(question(sender))).await.ok()?.ok()?;
        Some(answer)
    }
}

async fn receive<T>(answer: Option<oneshot::Receiver<T>>, deadline: Instant) -> Option<T> {
    timeout_at(deadline, answer?).await.ok()?.ok()
}
