//! What the broker hears besides messages: what happens to the keys of sessions, and hints about users.

use std::time::Duration;

use tokio::time::{Instant, timeout};
use tracing::{debug, info, warn};

use super::broker::Broker;
use super::events::{self, Telling};
use super::inbox::Inbox;
use crate::hub::Ticket;
use crate::wire::Channel;

/// How long the question waits for a connection: then it is asked anew anyway.
const PATIENCE: Duration = Duration::from_secs(30);

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
        let (commands, told) = (self.commands.clone(), self.telling.0.clone());
        tokio::task::spawn_local(async move {
            // The connection for commands may come back later than that for subscriptions.
            let up = timeout(PATIENCE, commands.until_up()).await.is_ok();
            if up && let Some(telling) = events::telling(&commands).await {
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

    /// Redis refuses the channels that tell of keys: sessions are read again periodically instead. One of the channels
    /// is tried again for all.
    pub(super) async fn do_without_events(&mut self, channel: &Channel, reason: &str) {
        if self.refused_key.is_none() {
            self.refused_key = Some(channel.clone());
        } else if self.refused_key.as_ref() == Some(channel) {
            return;
        }
        if self.tells.replace(Telling::Unknown) != Some(Telling::No) {
            warn!(
                error = reason,
                "redis refuses to tell what happens to sessions; allow its user to subscribe to it (ACL SETUSER … &__keyspace@*), or a logout may take session.recheck_seconds to be noticed"
            );
        }
        self.tell_all(|| Inbox::Events(false)).await;
    }

    /// Keeps a refused channel of a key among those that are tried again, though no session wants it any more.
    pub(super) fn keep_trying(&mut self, channel: &Channel) {
        if self.refused_key.as_ref() == Some(channel) {
            self.interests.want(channel.clone(), 0, Ticket::MIN);
        }
    }

    /// Redis allows the channel of a key that it refused: sessions may be watched again.
    pub(super) fn regain_events(&mut self, channel: &Channel) {
        if self.refused_key.take_if(|refused| refused == channel).is_some() {
            info!("redis allows keyspace events again");
            self.interests.leave(channel, 0, Instant::now());
            self.tells = None;
            self.ask_whether();
        }
    }

    /// Hands on what has happened to keys.
    pub(super) async fn pass_events(&mut self) {
        let (touches, overlooked) = self.pump.touches.take();
        if overlooked {
            self.tell_all(|| Inbox::Overlooked).await;
        }
        let mut parted = vec![Vec::new(); self.shards.len()];
        for (channel, touch) in touches {
            let Some(interest) = self.interests.get_mut(channel.as_str()) else { continue };
            for (shard, _) in &interest.tickets {
                parted[*shard].push((channel.clone(), touch));
            }
        }
        for (shard, touched) in parted.into_iter().enumerate().filter(|(_, touched)| !touched.is_empty()) {
            self.tell(shard, Inbox::Touched(touched)).await;
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
