//! The end of a step: what Redis has acknowledged, and what it refuses. Refused channels are tried again with back-off.

use tokio::time::Instant;
use tracing::{error, info, warn};

use super::event::BrokerEvent;
use super::retries::Refused;
use super::{Asked, Broker};
use crate::hub::Generation;
use crate::redis::error_reply::{ErrorClass, hint};
use crate::wire::Channel;
use crate::wire::key_of;

/// How often Redis is asked whether it publishes keyspace events: that may be switched at any time.
const LOOKS: std::time::Duration = std::time::Duration::from_secs(30);

impl Broker {
    /// Redis has answered all that was asked in the step; the fence itself perhaps by an error.
    pub(super) async fn finish(&mut self, refused_ping: Option<String>) {
        let Some(Asked { channels, refusal, .. }) = self.step.take() else { return };
        let now = Instant::now();
        self.last_step = now;
        self.suspected = false;
        if self.up && now - self.asked >= LOOKS {
            self.probe_support();
        }
        self.note_refused_ping(refused_ping.as_deref());
        match refusal {
            None => {
                let acknowledged = self.subscriptions.subscribed(channels, now);
                self.tell_subscribed(acknowledged).await;
                self.tell_recovered().await;
            }
            Some(reason) if ErrorClass::of(&reason) == ErrorClass::Temporary => {
                if self.not_now.allow(&reason) {
                    warn!(redis = self.target.name(), error = %reason, "redis refuses to subscribe at the moment, handshakes wait; {}", hint(&reason));
                }
                self.subscriptions.postpone(channels, now);
                self.tell_recovered().await;
            }
            Some(reason) => {
                for refused in self.subscriptions.refused(channels, &reason, now) {
                    self.tell_refused(refused, &reason).await;
                }
                self.tell_recovered().await;
            }
        }
        if !self.up && !self.subscriptions.is_behind() {
            self.on_connected().await;
        }
    }

    /// PING was refused: Redis lives, and something is the matter with it.
    fn note_refused_ping(&mut self, reason: Option<&str>) {
        match reason {
            Some(reason) if self.refused_ping.allow(reason) => {
                warn!(redis = self.target.name(), error = %reason, "redis refuses PING, and lives; {}", hint(reason));
            }
            None if self.refused_ping.reset() => {
                info!(redis = self.target.name(), "redis answers PING again");
            }
            _ => {}
        }
    }

    async fn tell_refused(&mut self, refused: Refused, reason: &str) {
        let Refused { channel, generations, is_new } = refused;
        if key_of(&channel).is_some() {
            self.do_without_events(&channel, reason).await;
        } else if self.control.as_ref() == Some(&channel) {
            if is_new {
                warn!(error = %reason, "redis refuses the control channel, tried again with back-off; allow its user to subscribe to it (ACL SETUSER … &ws4redis:control), or changes of users may take session.recheck_seconds to be noticed");
            }
        } else if is_new && let Some(suppressed) = self.refused.allow() {
            error!(suppressed, ?channel, error = %reason, "redis refuses a channel, tried again with back-off; allow its user to subscribe to it (ACL SETUSER … &pattern)");
        }
        for (shard, generation) in generations {
            self.tell(shard, BrokerEvent::Refused(channel.clone(), generation)).await;
        }
    }

    /// Tells the shards which channels Redis sends now. What was published while it refused one was missed, so its
    /// persisted value is read again.
    async fn tell_subscribed(&mut self, acknowledged: Vec<(usize, Channel, Generation, bool)>) {
        let (mut parted, mut regained) = (vec![Vec::new(); self.shards.len()], Vec::new());
        for (shard, channel, generation, was_refused) in acknowledged {
            if was_refused {
                regained.push((shard, channel.clone()));
            }
            parted[shard].push((channel, generation));
        }
        let regained = self.take_regained(regained).await;
        for (shard, channels) in parted.into_iter().enumerate() {
            if !channels.is_empty() {
                self.tell(shard, BrokerEvent::Subscribed(channels)).await;
            }
        }
        if !regained.is_empty() {
            info!(channels = regained.len(), "redis allows channels again that it refused");
            // While Redis is not up, all values are read as soon as it is.
            if self.up {
                self.recover_these(regained);
            }
        }
    }

    /// Takes channels that Redis refused before. Returns those that carry messages, with the shards that want them.
    async fn take_regained(&mut self, regained: Vec<(usize, Channel)>) -> Vec<(Channel, Vec<usize>)> {
        let mut by_channel = std::collections::BTreeMap::<String, (Channel, Vec<usize>)>::new();
        for (shard, channel) in regained {
            if self.control.as_ref() == Some(&channel) {
                info!("redis allows the control channel again");
                self.tell_all(|| BrokerEvent::Overlooked).await;
            } else if key_of(&channel).is_some() {
                self.regain_events(&channel);
            } else {
                let entry = by_channel.entry(channel.as_str().to_owned());
                entry.or_insert_with(|| (channel, Vec::new())).1.push(shard);
            }
        }
        let regained: Vec<_> = by_channel.into_values().collect();
        for (channel, shards) in &regained {
            for shard in shards {
                self.tell(*shard, BrokerEvent::Regained(channel.clone())).await;
            }
        }
        regained
    }
}
