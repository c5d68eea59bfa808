//! What the broker hears besides messages: what happens to the keys of sessions, and hints about users.

use std::collections::HashMap;

use fred::types::KeyspaceEvent;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::broker::Broker;
use super::events::{self, Telling, Touch};
use super::inbox::Inbox;
use crate::wire::Channel;

impl Broker {
    /// Asks, beside everything else, whether Redis tells of keys.
    pub(super) fn ask_whether(&mut self) {
        self.asked = Instant::now();
        // What it forbids to ask is not asked again on this connection, nor is a cluster, where each node tells of its
        // own keys only and one is listened to.
        if self.target.is_cluster() || self.tells == Some(Telling::Unknown) {
            return;
        }
        if let Some(set) = self.events_set {
            let _ = self.telling.0.try_send(if set { Telling::Yes } else { Telling::No });
            return;
        }
        let (client, told) = (self.reader.clone(), self.telling.0.clone());
        tokio::task::spawn_local(async move {
            if let Some(telling) = events::telling(&client).await {
                // An older answer that still waits says the same.
                let _ = told.try_send(telling);
            }
        });
    }

    /// Tells the shards whether Redis tells of keys, if that is news.
    pub(super) async fn tell_whether(&mut self, telling: Telling) {
        if !self.up || self.tells.replace(telling) == Some(telling) {
            return;
        }
        debug!(?telling, "keyspace events");
        self.tell_all(|| Inbox::Events(telling != Telling::No)).await;
    }

    /// Redis refuses the channels that tell of keys: sessions are read again now and then instead.
    pub(super) async fn do_without_events(&mut self, reason: &str) {
        if self.tells.replace(Telling::Unknown) != Some(Telling::No) {
            warn!(
                error = reason,
                "redis refuses to tell what happens to sessions; allow its user to subscribe to it (ACL SETUSER … &__keyspace@*), or a logout may take session.recheck_seconds to be noticed"
            );
        }
        self.tell_all(|| Inbox::Events(false)).await;
    }

    /// Hands on what has happened to keys.
    pub(super) async fn pass_events(&mut self, first: Result<KeyspaceEvent, RecvError>) {
        let mut next = Some(first);
        let mut parted: Vec<HashMap<Channel, Touch>> = vec![HashMap::new(); self.shards.len()];
        while let Some(event) = next.take() {
            match event {
                Ok(event) => self.note(&event, &mut parted),
                Err(RecvError::Lagged(_)) => self.tell_all(|| Inbox::Overlooked).await,
                Err(RecvError::Closed) => {}
            }
            next = match self.events.try_recv() {
                Ok(event) => Some(Ok(event)),
                Err(TryRecvError::Lagged(count)) => Some(Err(RecvError::Lagged(count))),
                Err(_) => None,
            };
        }
        for (shard, touched) in parted.into_iter().enumerate().filter(|(_, touched)| !touched.is_empty()) {
            self.tell(shard, Inbox::Touched(touched.into_iter().collect())).await;
        }
    }

    fn note(&mut self, event: &KeyspaceEvent, parted: &mut [HashMap<Channel, Touch>]) {
        let Some((channel, touch)) = events::touch(event) else { return };
        let Some(interest) = self.interests.get_mut(channel.as_str()) else { return };
        for (shard, _) in &interest.tickets {
            let last = parted[*shard].entry(channel.clone()).or_insert(touch);
            // A key that was deleted and written again counts as deleted: one looks anyway.
            if touch == Touch::Deleted {
                *last = touch;
            }
        }
    }

    /// Hands hints on, and questions of the doctor's to one shard.
    pub(super) async fn pass_hints(&mut self) {
        let (hints, questions) = self.pump.hints.take();
        if !hints.is_empty() {
            self.tell_all(|| Inbox::Hints(hints.clone())).await;
        }
        for question in questions {
            self.tell(0, Inbox::Asked(question)).await;
        }
    }
}
