//! One shard's reads and publications, over one connection (in a cluster one per node).

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, spawn_local};
use tracing::error;

use super::address::ServerAddress;
use super::command_client::CommandClient;
use super::history_reader::{HistoryPage, HistoryReader};
use super::history_script::PublicationHistory;
use super::lookups::{self, Lookups};
use super::one_shot::try_history;
use super::publish_acks::PublishAcks;
use super::publisher::Publisher;
use super::publisher_pool::PublisherPool;
use super::reads::{ReadFailed, ReadKind, Reads};
use super::target::Target;
use crate::metrics::Counters;
use crate::settings::{HistoryLimits, Settings};
use crate::wire::{Channel, EntryId, HistoryNames};

/// One shard's reads and publications.
pub struct Store {
    commands: Rc<CommandClient>,
    reads: Rc<Reads<Channel>>,
    lookups: Rc<Lookups>,
    publishers: PublisherPool,
    history_names: HistoryNames,
    histories: HistoryReader,
    tasks: Vec<AbortHandle>,
}

impl Store {
    /// Starts to connect, and reconnects while it lives. Must be called on the shard's runtime.
    pub fn new(target: &Target, settings: &Settings, counters: &Arc<Counters>) -> Self {
        let max_bytes = settings.messages.max_delivery_bytes.max(lookups::MAX_BYTES);
        let commands = Rc::new(CommandClient::new(target, settings.redis.command_timeout, max_bytes));
        let reads = Reads::new(
            commands.clone(),
            "persisted message",
            ReadKind::Value,
            settings.messages.max_delivery_bytes,
            counters.clone(),
        );
        let lookups = Rc::new(Lookups::new(commands.clone(), counters));
        let tracks_doubt = target.discovery().is_dynamic() && !target.is_cluster();
        let publisher = Publisher::new(
            commands.clone(),
            target.discovery().clone(),
            tracks_doubt,
            settings,
            counters.clone(),
        );
        let mut tasks = vec![spawn_local(reads.clone().run()).abort_handle()];
        if tracks_doubt {
            tasks.push(spawn_local(publisher.clone().doubt()).abort_handle());
        }
        let publishers = PublisherPool::new(commands.clone(), publisher);
        let history_names = settings.history_names();
        let histories = HistoryReader::new(
            commands.clone(),
            history_names.clone(),
            settings.messages.max_delivery_bytes,
            counters.clone(),
        );
        Self { commands, reads, lookups, publishers, history_names, histories, tasks }
    }

    /// Waits at most one second for a connection to Redis; returns false if there is none then. Cancel-safe.
    pub async fn wait_briefly_until_up(&self) -> bool {
        self.commands.wait_briefly_until_up().await
    }

    /// Returns whether Redis is reachable at the moment.
    pub fn is_connected(&self) -> bool {
        self.commands.is_up()
    }

    /// Reads the persisted messages of channels, in order. A key that Redis refuses to read counts as absent.
    ///
    /// # Errors
    ///
    /// When Redis is lost, or gives no answer in time.
    pub async fn persisted(&self, channels: &[Channel]) -> Result<Vec<Option<Bytes>>, ReadFailed> {
        let entries = self.reads.read(channels.iter().cloned()).await?;
        Ok(entries.into_iter().map(|entry| entry.value).collect())
    }

    /// In a cluster, returns the node that holds a channel's persisted message.
    pub(crate) fn node_of(&self, channel: &Channel) -> Option<ServerAddress> {
        self.commands.node_of(channel.as_str().as_bytes())
    }

    /// Publishes a message of the gateway itself.
    ///
    /// # Errors
    ///
    /// With a description, when Redis is lost or refuses.
    pub async fn announce(&self, channel: &str, payload: Vec<u8>) -> Result<(), String> {
        let published = self.commands.call("PUBLISH", &[channel.as_bytes(), &payload]).await;
        published.map(drop).map_err(|(reason, _)| reason)
    }

    /// Returns the reader for secret keys (sessions, users), which uses the same connection.
    pub fn lookups(&self) -> Rc<Lookups> {
        self.lookups.clone()
    }

    /// Returns the connections, for commands of other modules.
    pub(crate) fn commands(&self) -> Rc<CommandClient> {
        self.commands.clone()
    }

    /// Publishes a client's message to channels, and with `history` keeps it in their streams. The outcome is reported to
    /// `acks`.
    pub fn publish(
        &self,
        channels: Rc<[Channel]>,
        payload: Bytes,
        history: Option<HistoryLimits>,
        acks: Rc<PublishAcks>,
    ) {
        let history =
            history.map(|limits| Box::new(PublicationHistory::new(&self.history_names, &channels, limits)));
        self.publishers.queue(channels, payload, history, acks);
    }

    /// Waits for Redis, and logs an error if it refuses what histories need. Cancel-safe.
    pub(crate) async fn verify_histories(&self, settings: &Settings) {
        self.commands.until_up().await;
        if let Err(reason) = try_history(settings, &self.commands).await {
            error!(error = %reason, "Redis refuses what [[history]] needs; clients that publish to its facilities will be closed");
        }
    }

    /// Returns the permits that subscriptions need while they read histories, so that few of them hold messages at once.
    pub fn history_permits(&self) -> Arc<Semaphore> {
        self.histories.permits()
    }

    /// Waits at most one second for the server of a channel's history; returns false if it is not reachable then. Cancel-safe.
    pub async fn reaches_history(&self, channel: &Channel) -> bool {
        self.histories.reaches(channel).await
    }

    /// Reads at most `limit` messages of a channel's history that follow an entry, and compares a value with the last message
    /// up to that entry. None if the channel has no history, or Redis refuses to read it.
    ///
    /// # Errors
    ///
    /// When Redis is lost, or gives no answer in time.
    pub async fn history_after(
        &self,
        channel: &Channel,
        id: EntryId,
        limit: usize,
        value: Option<&[u8]>,
    ) -> Result<Option<HistoryPage>, ReadFailed> {
        self.histories.read(channel, Some(id), limit, value).await
    }

    /// Reads the last messages of a channel's history, at most `count`. None if the channel has no history, or Redis refuses
    /// to read it.
    ///
    /// # Errors
    ///
    /// When Redis is lost, or gives no answer in time.
    pub async fn history_last(
        &self,
        channel: &Channel,
        count: usize,
    ) -> Result<Option<HistoryPage>, ReadFailed> {
        self.histories.read(channel, None, count, None).await
    }

    /// Waits until no publication is queued or in flight. Cancel-safe.
    pub async fn settled(&self) {
        self.publishers.settled().await;
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}
