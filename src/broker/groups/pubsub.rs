//! The pubsub layer: one SUBSCRIBE per group that somebody hears, on the server that the layer chooses for it.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::deliveries::{GroupDeliveries, GroupsEvent};
use super::wanted::GroupWant;
use crate::broker::event::Call;
use crate::broker::link::{ChangeOutcome, Link, LinkEvent};
use crate::broker::subscriptions::Subscriptions;
use crate::hub::{Generation, SubscriptionRequest};
use crate::metrics::Counters;
use crate::redis::error_reply::{ErrorClass, HintThrottle, cure};
use crate::redis::{SubscriberEvent, Target, TargetError};
use crate::settings::{ChannelLayer, Settings};
use crate::sources::Source;
use crate::telemetry::LogThrottle;
use crate::wire::{Channel, layer_host};

/// The servers of a layer.
pub(super) struct PubSubHosts {
    hosts: Vec<PubSubHost>,
    /// What the layer puts in front of a group's name.
    prefix: String,
    deliveries: GroupDeliveries,
    /// The server whose events are handled first.
    turn: usize,
    counters: Arc<Counters>,
    refused_for_now: HintThrottle,
    refused: LogThrottle,
}

/// A server: its connection and its subscriptions. All of these are for one subscriber, the table of wanted groups.
struct PubSubHost {
    link: Link,
    subscriptions: Subscriptions,
    /// It was up and is not. Whoever joins is told at once.
    is_lost: bool,
}

impl PubSubHost {
    /// Opens a connection, or sends what is due: a change of subscriptions, or a keepalive.
    fn send_due(&mut self) {
        let now = Instant::now();
        self.link.open();
        let Self { link, subscriptions, .. } = self;
        let is_due = subscriptions.has_queued()
            || subscriptions.next_due().is_some_and(|due| due <= now)
            || link.needs_probe(now)
            || !(link.is_up() || subscriptions.is_behind());
        if link.is_idle() && is_due {
            link.send(subscriptions.next_change(now), now);
        }
    }
}

impl PubSubHosts {
    /// Must be called on a local task set.
    pub(super) fn new(
        layer: &ChannelLayer,
        settings: &Settings,
        deliveries: GroupDeliveries,
        counters: &Arc<Counters>,
    ) -> Result<Self, TargetError> {
        let max_bytes = deliveries.max_stored_bytes();
        let host = |redis| {
            Ok(PubSubHost {
                link: Link::new(&Target::new(redis)?, settings).with_max_bytes(max_bytes),
                subscriptions: Subscriptions::new(settings.redis.unsubscribe_linger),
                is_lost: false,
            })
        };
        Ok(Self {
            hosts: layer.hosts.iter().map(host).collect::<Result<_, TargetError>>()?,
            prefix: format!("{}__group__", layer.prefix),
            deliveries,
            turn: 0,
            counters: counters.clone(),
            refused_for_now: HintThrottle::default(),
            refused: LogThrottle::default(),
        })
    }

    /// Serves the shards until all of them have ended.
    pub(super) async fn run(mut self, mut calls: mpsc::Receiver<Call>) {
        loop {
            self.hosts.iter_mut().for_each(PubSubHost::send_due);
            self.turn = (self.turn + 1) % self.hosts.len().max(1);
            tokio::select! {
                call = calls.recv() => match call {
                    Some((shard, requests)) => self.apply_requests(shard, requests).await,
                    None => return,
                },
                (index, event) = next_event(&mut self.hosts, self.turn) => self.on_event(index, event).await,
            }
        }
    }

    fn channel(&self, group: &str) -> Channel {
        Channel::from_redis(&[&self.prefix, group].concat())
    }

    async fn apply_requests(&mut self, shard: usize, requests: Vec<SubscriptionRequest>) {
        let mut confirmed = Vec::new();
        for request in requests {
            let (SubscriptionRequest::Subscribe(topic, _) | SubscriptionRequest::Unsubscribe(topic)) =
                &request;
            let Some(group) = topic.group_name() else { continue };
            let channel = self.channel(group);
            let host = layer_host(channel.as_str(), self.hosts.len());
            let PubSubHost { link, subscriptions, is_lost } = &mut self.hosts[host];
            match &request {
                SubscriptionRequest::Subscribe(topic, generation) => {
                    let want = GroupWant { topic: topic.clone(), shard, generation: *generation };
                    self.deliveries.wanted.add(group, want);
                    let is_confirmed = subscriptions.subscribe(&channel, Source::Relay, 0, Generation::MIN);
                    if is_confirmed {
                        confirmed.push((topic.clone(), *generation));
                    } else if *is_lost && !link.is_up() {
                        let event = GroupsEvent::Refused(topic.clone(), *generation);
                        self.deliveries.send(shard, event).await;
                    }
                }
                SubscriptionRequest::Unsubscribe(topic) => {
                    if self.deliveries.wanted.remove(group, topic, shard) {
                        subscriptions.unsubscribe(&channel, 0, Instant::now());
                    }
                }
            }
        }
        if !confirmed.is_empty() {
            self.deliveries.send(shard, GroupsEvent::Subscribed(confirmed)).await;
        }
    }

    async fn on_event(&mut self, index: usize, event: LinkEvent) {
        match event {
            LinkEvent::Input(Ok(())) => self.on_input(index).await,
            LinkEvent::Input(Err(reason)) | LinkEvent::Unusable(reason) => self.on_lost(index, &reason).await,
            LinkEvent::Connected | LinkEvent::Due => {}
        }
    }

    /// Passes on what was received, in order.
    async fn on_input(&mut self, index: usize) {
        loop {
            match self.hosts[index].link.next_event() {
                Ok(Some(SubscriberEvent::Message(message))) => {
                    if let Some(group) = self.group_of(message.channel()) {
                        self.deliveries.add(group, message.payload());
                    }
                    if self.deliveries.is_full() {
                        self.deliveries.flush().await;
                    }
                }
                Ok(Some(SubscriberEvent::Oversize(channel, bytes))) => {
                    self.deliveries.note_oversize(channel.as_str(), bytes);
                }
                Ok(Some(SubscriberEvent::Acknowledged | SubscriberEvent::PatternMessage(..))) => {}
                Ok(Some(SubscriberEvent::Fence(refused_ping))) => {
                    self.deliveries.flush().await;
                    self.on_fence(index, refused_ping).await;
                }
                Ok(Some(SubscriberEvent::Refused(reason))) => {
                    if let Err(reason) = self.hosts[index].link.refuse(reason) {
                        return self.on_lost(index, &reason).await;
                    }
                }
                Ok(None) => return self.deliveries.flush().await,
                Err(reason) => return self.on_lost(index, &reason).await,
            }
        }
    }

    /// Returns the group of a channel.
    fn group_of<'a>(&self, channel: &'a [u8]) -> Option<&'a str> {
        std::str::from_utf8(channel.strip_prefix(self.prefix.as_bytes())?).ok()
    }

    /// The server has answered the pending change.
    async fn on_fence(&mut self, index: usize, refused_ping: Option<String>) {
        let now = Instant::now();
        let PubSubHost { link, subscriptions, .. } = &mut self.hosts[index];
        let Some(ChangeOutcome { channels, refusal }) = link.finish(refused_ping.as_deref(), now) else {
            return;
        };
        match refusal {
            None => {
                let confirmed = subscriptions.confirm(channels, now);
                if confirmed.iter().any(|confirmed| confirmed.was_refused) {
                    info!("redis allows refused Channels groups again");
                }
                let groups = confirmed.iter().filter_map(|confirmed| self.name_of(&confirmed.channel));
                self.deliveries.confirm(groups).await;
            }
            Some(reason) if ErrorClass::of(&reason) == ErrorClass::Temporary => {
                if self.refused_for_now.allow(&reason) {
                    warn!(redis = link.name(), error = %reason, "redis cannot subscribe to Channels groups at the moment; handshakes wait{}", cure(&reason));
                }
                subscriptions.postpone(channels, now);
            }
            Some(reason) => {
                for refused in subscriptions.refuse(channels, &reason, now) {
                    if refused.is_new
                        && let Some(suppressed) = self.refused.allow()
                    {
                        error!(suppressed, channel = ?refused.channel, error = %reason, "redis refuses a Channels group; new clients of it get 503; retrying with back-off. Allow the user of channels.hosts to subscribe to it (ACL SETUSER … &{}*)", self.prefix);
                    }
                    if let Some(group) = self.name_of(&refused.channel) {
                        self.deliveries.refuse(group).await;
                    }
                }
            }
        }
        let PubSubHost { link, subscriptions, is_lost } = &mut self.hosts[index];
        if !link.is_up() && !subscriptions.is_behind() {
            link.mark_up();
            *is_lost = false;
        }
    }

    fn name_of<'a>(&self, channel: &'a Channel) -> Option<&'a str> {
        channel.as_str().strip_prefix(&self.prefix)
    }

    /// A connection was lost, or must not be used any longer. Messages that were published meanwhile are lost: Channels keeps
    /// none.
    async fn on_lost(&mut self, index: usize, reason: &str) {
        self.deliveries.flush().await;
        let PubSubHost { link, subscriptions, is_lost } = &mut self.hosts[index];
        subscriptions.reset();
        *is_lost = true;
        if link.close(reason) {
            Counters::count(&self.counters.redis_losses);
            self.deliveries.on_lost().await;
            for (other, host) in self.hosts.iter().enumerate() {
                if other != index {
                    let confirmed = host.subscriptions.confirmed(Source::Relay);
                    let groups = confirmed.iter().filter_map(|(channel, _)| self.name_of(channel));
                    self.deliveries.confirm(groups).await;
                }
            }
        }
    }
}

/// Waits for the next event of a server, beginning with one of them, so that none starves. Safe to cancel.
async fn next_event(hosts: &mut [PubSubHost], first: usize) -> (usize, LinkEvent) {
    let mut waits: Vec<_> = hosts
        .iter_mut()
        .enumerate()
        .map(|(index, PubSubHost { link, subscriptions, .. })| {
            let due = subscriptions.next_due();
            Box::pin(async move { (index, link.event(true, due).await) })
        })
        .collect();
    waits.rotate_left(first);
    poll_fn(|cx| {
        let mut ready = waits.iter_mut().map(|wait| wait.as_mut().poll(cx));
        ready.find(Poll::is_ready).unwrap_or(Poll::Pending)
    })
    .await
}
