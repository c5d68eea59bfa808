//! What the broker hears besides messages: what happens to the keys of sessions, and hints about users.

use std::time::Duration;

use tokio::time::{Instant, timeout};
use tracing::{debug, info, warn};

use super::Broker;
use super::event::BrokerEvent;
use super::keyspace::{self, Support};
use crate::hub::Generation;
use crate::wire::Channel;

/// How long the query waits for a connection: then it is asked anew anyway.
const PATIENCE: Duration = Duration::from_secs(30);

impl Broker {
    /// Probes in the background whether Redis publishes keyspace events.
    pub(super) fn probe_support(&mut self) {
        self.asked = Instant::now();
        // What it forbids to ask is not asked again on this connection, nor is a cluster, where each node reports events of its
        // own keys only and one is listened to.
        if self.target.is_cluster() || self.keyspace_events == Some(Support::Unknown) {
            return;
        }
        if let Some(set) = self.events_set {
            let _ = self.keyspace_support.0.try_send(if set { Support::Yes } else { Support::No });
            return;
        }
        let (commands, told) = (self.commands.clone(), self.keyspace_support.0.clone());
        tokio::task::spawn_local(async move {
            // The connection for commands may come back later than that for subscriptions.
            let up = timeout(PATIENCE, commands.until_up()).await.is_ok();
            if up && let Some(keyspace_support) = keyspace::probe_support(&commands).await {
                // An older answer that still waits says the same.
                let _ = told.try_send(keyspace_support);
            }
        });
    }

    /// Publishes to the shards whether Redis publishes keyspace events, when that has changed.
    pub(super) async fn publish_support(&mut self, keyspace_support: Support) {
        if !self.up || self.keyspace_events.replace(keyspace_support) == Some(keyspace_support) {
            return;
        }
        debug!(?keyspace_support, "keyspace events");
        self.tell_all(|| BrokerEvent::Events(keyspace_support != Support::No)).await;
    }

    /// Redis refuses the channels that tell of keys: sessions are read again periodically instead. One of the channels
    /// is tried again for all.
    pub(super) async fn do_without_events(&mut self, channel: &Channel, reason: &str) {
        if self.refused_key.is_none() {
            self.refused_key = Some(channel.clone());
        } else if self.refused_key.as_ref() == Some(channel) {
            return;
        }
        if self.keyspace_events.replace(Support::Unknown) != Some(Support::No) {
            warn!(
                error = reason,
                "redis refuses to tell what happens to sessions; allow its user to subscribe to it (ACL SETUSER … &__keyspace@*), or a logout may take session.recheck_seconds to be noticed"
            );
        }
        self.tell_all(|| BrokerEvent::Events(false)).await;
    }

    /// Keeps a refused channel of a key among those that are tried again, though no session wants it any more.
    pub(super) fn keep_trying(&mut self, channel: &Channel) {
        if self.refused_key.as_ref() == Some(channel) {
            self.subscriptions.want(channel.clone(), 0, Generation::MIN);
        }
    }

    /// Redis allows the channel of a key that it refused: sessions may be watched again.
    pub(super) fn regain_events(&mut self, channel: &Channel) {
        if self.refused_key.take_if(|refused| refused == channel).is_some() {
            info!("redis allows keyspace events again");
            self.subscriptions.leave(channel, 0, Instant::now());
            self.keyspace_events = None;
            self.probe_support();
        }
    }

    /// Hands on what has happened to keys.
    pub(super) async fn pass_events(&mut self) {
        let (key_events, overlooked) = self.pump.key_events.take();
        if overlooked {
            self.tell_all(|| BrokerEvent::Overlooked).await;
        }
        let mut parted = vec![Vec::new(); self.shards.len()];
        for (channel, key_event) in key_events {
            let Some(subscription) = self.subscriptions.get_mut(channel.as_str()) else { continue };
            for (shard, _) in &subscription.generations {
                parted[*shard].push((channel.clone(), key_event));
            }
        }
        for (shard, key_events) in
            parted.into_iter().enumerate().filter(|(_, key_events)| !key_events.is_empty())
        {
            self.tell(shard, BrokerEvent::KeyEvents(key_events)).await;
        }
    }

    /// Hands hints on, and queries of the doctor's to one shard.
    pub(super) async fn pass_hints(&mut self) {
        let (hints, queries) = self.pump.hints.take();
        if !hints.is_empty() {
            self.tell_all(|| BrokerEvent::Hints(hints.clone())).await;
        }
        for query in queries {
            self.tell(0, BrokerEvent::Asked(query)).await;
        }
    }
}
