//! The pub/sub side of Redis: one subscription connection for the whole process.
//!
//! The broker subscribes to the channels that the shards want, passes on what Redis publishes, and recovers from a loss:
//! it subscribes again, then re-reads the persisted values that were missed. It waits for shards, never for a client.

mod batch;
mod control_inbox;
mod directives;
mod event;
mod groups;
mod intake;
mod key_events;
mod keyspace_support;
mod link;
mod messages;
mod recovery;
mod router;
mod shard_queues;
mod subscriptions;
mod twins;

use std::future::{pending, ready};
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{error, info, warn};

pub use self::event::{BrokerEvent, Call, RoutedDirective, SubscriptionEvent};
pub use self::groups::{GroupsEvent, serve_groups};
use self::intake::{ControlEvent, Intake};
use self::keyspace_support::{Detection, KeyspaceSupport, Support};
use self::link::{ChangeOutcome, LinkEvent};
use self::messages::Messages;
pub use self::router::DirectiveRouter;
use self::shard_queues::ShardQueues;
#[cfg(test)]
pub(crate) use self::subscriptions::SIZES;
use self::subscriptions::{Confirmed, Refused, shards};
use crate::hub::SubscriptionRequest;
use crate::metrics::Counters;
use crate::redis::error_reply::{ErrorClass, HintThrottle, cure};
use crate::redis::{Lookups, Store, Target};
use crate::settings::Settings;
use crate::sources::{Source, own_channels};
use crate::telemetry::LogThrottle;
use crate::wire::{Channel, NodeId, Topic};

/// Returns the Redis channel of a topic and the channel's source; `None` if the topic has no channel.
fn upstream(topic: &Topic) -> Option<(Channel, Source)> {
    let channel = topic.channel()?;
    let source = Source::of(&channel);
    Some((channel, source))
}

/// The pub/sub side of a Redis. `E` is its events: [`BrokerEvent`] where messages are published,
/// [`SubscriptionEvent`] where only sessions are stored.
pub struct Broker<E> {
    intake: Intake,
    keyspace: KeyspaceSupport,
    shards: ShardQueues<E>,
    messages: Option<Messages>,
    counters: Arc<Counters>,
    refused_for_now: HintThrottle,
    refused_channel: LogThrottle,
}

impl Broker<BrokerEvent> {
    /// Creates the broker of messages and, unless sessions are stored in another Redis, of their key events. Must be
    /// called on the runtime of the shard that owns `store`.
    pub fn for_messages(
        target: &Target,
        settings: &Settings,
        node: NodeId,
        store: Rc<Store>,
        shards: Vec<mpsc::Sender<BrokerEvent>>,
        counters: &Arc<Counters>,
        router: DirectiveRouter,
    ) -> Self {
        let detection = if needs_events(settings) { detection(target, settings) } else { Detection::Off };
        let keyspace = KeyspaceSupport::new(store.lookups().commands().clone(), detection);
        let messages = Messages::new(shards.clone(), store, counters);
        let intake = Intake::new(target, settings, node, counters, router);
        let mut broker = Self::new(intake, keyspace, shards, counters);
        broker.messages = Some(messages);
        for (channel, source) in own_channels(settings) {
            broker.intake.subscriptions.pin(&channel, source);
        }
        broker
    }
}

impl Broker<SubscriptionEvent> {
    /// Creates the broker of the key events of a Redis that holds only sessions. Must be called on the runtime of the
    /// shard that owns `lookups`.
    pub fn for_sessions(
        target: &Target,
        settings: &Settings,
        node: NodeId,
        lookups: &Lookups,
        shards: Vec<mpsc::Sender<SubscriptionEvent>>,
        counters: &Arc<Counters>,
    ) -> Self {
        let keyspace = KeyspaceSupport::new(lookups.commands().clone(), detection(target, settings));
        let intake = Intake::new(target, settings, node, counters, DirectiveRouter::default());
        Self::new(intake, keyspace, shards, counters)
    }
}

impl<E: From<SubscriptionEvent>> Broker<E> {
    fn new(
        intake: Intake,
        keyspace: KeyspaceSupport,
        shards: Vec<mpsc::Sender<E>>,
        counters: &Arc<Counters>,
    ) -> Self {
        Self {
            intake,
            keyspace,
            shards: ShardQueues::new(shards),
            messages: None,
            counters: counters.clone(),
            refused_for_now: HintThrottle::default(),
            refused_channel: LogThrottle::default(),
        }
    }

    /// Serves the shards until all of them have ended.
    ///
    /// It waits for: requests of shards; an event of the link, which is input, a new connection, a failover, a suspicion
    /// or a deadline; re-read values; and the result of a probe. It does not wait while received messages are not passed
    /// on yet.
    pub async fn run(mut self, mut calls: mpsc::Receiver<Call>) {
        loop {
            self.send_due();
            let has_received = !self.intake.is_drained();
            tokio::select! {
                call = calls.recv() => match call {
                    Some((shard, requests)) => self.apply_requests(shard, requests).await,
                    None => return,
                },
                () = ready(()), if has_received => self.process_received().await,
                event = self.intake.link_event() => self.on_link_event(event).await,
                () = receive_values(&mut self.messages) => {}
                support = self.keyspace.next() => self.publish_support(support).await,
            }
        }
    }

    /// Opens a connection, or sends what is due: a subscription change, a fence for values, or a keepalive.
    fn send_due(&mut self) {
        let now = Instant::now();
        let Intake { link, subscriptions, .. } = &mut self.intake;
        link.open();
        if !link.is_idle() {
            return;
        }
        let recovery = self.messages.as_mut().map(|messages| &mut messages.recovery);
        let due = subscriptions.has_queued()
            || subscriptions.next_due().is_some_and(|due| due <= now)
            || link.needs_probe(now)
            || recovery.as_ref().is_some_and(|recovery| recovery.needs_fence())
            // A connection without channels is up after its first fence. While channels are postponed it is not.
            || !(link.is_up() || subscriptions.is_behind());
        if due {
            if let Some(recovery) = recovery {
                recovery.begin_fence();
            }
            link.send(subscriptions.next_change(now), now);
        }
    }

    async fn on_link_event(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Input(input) => {
                self.intake.take_input(input);
                self.process_received().await;
            }
            LinkEvent::Connected => self.keyspace.reset(),
            LinkEvent::Unusable(reason) => self.on_lost(&reason).await,
            LinkEvent::Due => {}
        }
    }

    async fn apply_requests(&mut self, shard: usize, requests: Vec<SubscriptionRequest>) {
        let mut confirmed = Vec::new();
        let subscriptions = &mut self.intake.subscriptions;
        for request in requests {
            match request {
                SubscriptionRequest::Subscribe(topic, generation) => {
                    let Some((channel, source)) = upstream(&topic) else { continue };
                    // A broker without messages has no queue for them; only leases subscribe there.
                    if self.messages.is_none() && source != Source::Keyspace {
                        continue;
                    }
                    if subscriptions.subscribe(&channel, source, shard, generation) {
                        confirmed.push((channel, generation));
                    }
                }
                SubscriptionRequest::Unsubscribe(topic) => {
                    let Some((channel, _)) = upstream(&topic) else { continue };
                    subscriptions.unsubscribe(&channel, shard, Instant::now());
                }
            }
        }
        if !confirmed.is_empty() {
            let event = SubscriptionEvent::Subscribed(confirmed);
            self.shards.send(shard, event, &mut self.intake).await;
        }
    }

    /// Passes on what was received, up to one batch of messages, and then applies the control event behind it.
    async fn process_received(&mut self) {
        if !self.intake.is_empty() {
            self.pass_on().await;
        }
        if self.intake.is_empty() {
            match self.intake.take_control_event() {
                Some(ControlEvent::Fence(refused_ping)) => self.on_fence(refused_ping).await,
                Some(ControlEvent::Refused(reason)) => {
                    if let Err(reason) = self.intake.link.refuse(reason) {
                        self.on_lost(&reason).await;
                    }
                }
                Some(ControlEvent::Lost(reason)) => self.on_lost(&reason).await,
                None => {}
            }
        }
    }

    /// Passes on invalidations and key events, and one batch of messages.
    async fn pass_on(&mut self) {
        if let Some(messages) = &self.messages {
            messages.pass_control(&mut self.intake).await;
        }
        self.pass_key_events().await;
        if let Some(messages) = &mut self.messages {
            messages.pass_batch(&mut self.intake).await;
            if !self.intake.directives.is_empty() {
                messages.pass_directives(&mut self.intake).await;
            }
        }
    }

    async fn pass_key_events(&mut self) {
        if self.intake.key_events.is_empty() {
            return;
        }
        let (events, overflow) = self.intake.key_events.take();
        if overflow {
            self.send_all(|| SubscriptionEvent::EventsMissed).await;
        }
        let mut per_shard = vec![Vec::new(); self.shards.len()];
        for (channel, event) in events {
            for shard in self.intake.subscriptions.shards_of(&channel) {
                per_shard[shard].push((channel.clone(), event));
            }
        }
        self.shards.send_each(per_shard, SubscriptionEvent::KeyEvents, &mut self.intake).await;
    }

    /// Redis has answered the pending change.
    async fn on_fence(&mut self, refused_ping: Option<String>) {
        let now = Instant::now();
        let Intake { link, subscriptions, .. } = &mut self.intake;
        let outcome = link.finish(refused_ping.as_deref(), now);
        let Some(ChangeOutcome { channels, refusal }) = outcome else { return };
        if link.is_up() {
            self.keyspace.probe_if_due(now);
        }
        match refusal {
            None => {
                let confirmed = subscriptions.confirm(channels, now);
                self.on_confirmed(confirmed).await;
            }
            Some(reason) if ErrorClass::of(&reason) == ErrorClass::Temporary => {
                if self.refused_for_now.allow(&reason) {
                    warn!(redis = link.name(), error = %reason, "redis cannot subscribe at the moment; handshakes wait{}", cure(&reason));
                }
                subscriptions.postpone(channels, now);
            }
            Some(reason) => {
                for refused in subscriptions.refuse(channels, &reason, now) {
                    self.on_refused(refused, &reason).await;
                }
            }
        }
        if let Some(messages) = &mut self.messages {
            messages.send_recovered(&mut self.intake).await;
        }
        if !self.intake.link.is_up() && !self.intake.subscriptions.is_behind() {
            self.on_connected().await;
        }
    }

    /// Reports confirmed channels to the shards.
    async fn on_confirmed(&mut self, confirmed: Vec<Confirmed>) {
        let (mut per_shard, mut regained) = (vec![Vec::new(); self.shards.len()], Vec::new());
        let mut regains_emits = false;
        for Confirmed { channel, source, generations, was_refused } in confirmed {
            for (shard, generation) in &generations {
                per_shard[*shard].push((channel.clone(), *generation));
            }
            match source {
                Source::Relay if was_refused => regained.push((channel, shards(&generations))),
                Source::Keyspace if was_refused && self.keyspace.record_allowed(&channel) => {
                    self.intake.subscriptions.unpin(&channel, Instant::now());
                }
                Source::Control if was_refused => {
                    info!("redis allows the control channel again");
                    self.send_all(|| SubscriptionEvent::EventsMissed).await;
                }
                _ if was_refused && source.is_socket_io() => {
                    info!(?channel, "redis allows a Socket.IO channel again");
                    regains_emits = true;
                }
                _ => {}
            }
        }
        regained.retain(|(_, shards)| !shards.is_empty());
        if let Some(messages) = &self.messages {
            messages.hold_regained(&regained, &mut self.intake).await;
            if regains_emits {
                messages.report_refused_emits(&mut self.intake).await;
            }
        }
        self.shards.send_each(per_shard, SubscriptionEvent::Subscribed, &mut self.intake).await;
        if let Some(messages) = &self.messages {
            messages.recover_regained(regained, &self.intake);
        }
    }

    async fn on_refused(&mut self, refused: Refused, reason: &str) {
        let Refused { channel, source, generations, is_new } = refused;
        match source {
            Source::Keyspace => {
                if self.keyspace.record_refusal(&channel, reason) {
                    self.send_all(|| SubscriptionEvent::KeyspaceEvents { published: false, writes: false })
                        .await;
                }
                if self.keyspace.is_retried(&channel) {
                    self.intake.subscriptions.pin(&channel, source);
                }
            }
            Source::Control if is_new => {
                warn!(error = %reason, "redis refuses the control channel; changes of users may take session.recheck_seconds to be noticed; retrying with back-off. Allow its user to subscribe to it (ACL SETUSER … &ws4redis:control)");
            }
            Source::Relay if is_new => {
                if let Some(suppressed) = self.refused_channel.allow() {
                    error!(suppressed, ?channel, error = %reason, "redis refuses a channel; new clients of it get 503; retrying with back-off. Allow its user to subscribe to it (ACL SETUSER … &pattern)");
                }
            }
            _ if is_new && source.is_socket_io() => {
                error!(?channel, error = %reason, "redis refuses a Socket.IO channel or pattern; clients of Socket.IO get 503; retrying with back-off. Allow its user to subscribe to it (ACL SETUSER … +subscribe &channel; +psubscribe and a pattern literally)");
                if let Some(messages) = &self.messages {
                    messages.report_refused_emits(&mut self.intake).await;
                }
            }
            _ => {}
        }
        for (shard, generation) in generations {
            let event = SubscriptionEvent::Refused(channel.clone(), generation);
            self.shards.send(shard, event, &mut self.intake).await;
        }
    }

    /// All wanted channels are confirmed or refused.
    async fn on_connected(&mut self) {
        self.intake.link.mark_up();
        self.send_all(|| SubscriptionEvent::Up).await;
        if let Some(messages) = &self.messages {
            messages.recovery.start(self.intake.subscriptions.confirmed(Source::Relay));
        }
        self.shards.resume_keyspace(&mut self.intake).await;
        self.keyspace.probe();
    }

    /// The connection was lost, or must not be used any longer.
    async fn on_lost(&mut self, reason: &str) {
        // What was read before the loss is passed on before the shards are informed: later it would follow newer values.
        self.intake.link.begin_close();
        loop {
            while !self.intake.is_empty() {
                self.pass_on().await;
            }
            if self.intake.take_control_event().is_none() {
                break;
            }
        }
        if let Some(messages) = &mut self.messages {
            messages.recovery.cancel();
        }
        self.intake.subscriptions.reset();
        self.keyspace.reset();
        if self.intake.link.close(reason) {
            Counters::count(&self.counters.redis_losses);
            self.send_all(|| SubscriptionEvent::Lost).await;
        }
    }

    async fn publish_support(&mut self, support: Support) {
        if self.intake.link.is_up() && self.keyspace.record(support) {
            let published = support != Support::No;
            let writes = support == Support::Yes { writes: true };
            self.send_all(|| SubscriptionEvent::KeyspaceEvents { published, writes }).await;
        }
    }

    async fn send_all(&mut self, event: impl Fn() -> SubscriptionEvent) {
        self.shards.send_all(event, &mut self.intake).await;
    }
}

/// Waits for re-read values, which then wait for a fence. Safe to cancel.
async fn receive_values(messages: &mut Option<Messages>) {
    match messages {
        Some(messages) => messages.recovery.receive().await,
        None => pending().await,
    }
}

/// Returns whether this Redis has keys whose events are needed: sessions, unless they have a Redis of their own, or those of
/// yunity-sockets.
fn needs_events(settings: &Settings) -> bool {
    settings.session.redis.is_none() || settings.socket_io.mounts.iter().any(|mount| mount.yunity)
}

fn detection(target: &Target, settings: &Settings) -> Detection {
    match settings.session.events {
        _ if target.is_cluster() => Detection::Off,
        Some(set) => Detection::Configured(set),
        None => Detection::Probe,
    }
}
