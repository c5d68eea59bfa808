//! The pub/sub side of Redis: one subscription connection for the whole process.
//!
//! It keeps Redis in step with what the shards want, hands them what Redis sends, and after a loss brings everything
//! back: channels first, then the persisted values that were missed. It waits for shards, never for a client.

use std::cell::Cell;
use std::future::pending;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use fred::prelude::*;
use fred::types::{KeyspaceEvent, Message};
use tokio::sync::broadcast::Receiver;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, error, info, warn};

use super::connect::{Guard, Target, describe};
use super::events::{Telling, key_of};
use super::inbox::{Call, Inbox, Role};
use super::interests::Interests;
use super::pump::Pump;
use super::recovery::Recovered;
use super::subscriber::{Outcome, Subscriber};
use super::{Lookups, Store};
use crate::counters::Counters;
use crate::hub::{Order, Ticket};
use crate::settings::Settings;
use crate::telemetry::Seldom;
use crate::wire::Channel;

/// Silence after which the connection is tried with a fence.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Batches of values that may wait for the broker.
const RECOVERIES: usize = 4;

/// Time after which it is said again why Redis cannot be reached.
const COMPLAINTS: Duration = Duration::from_mins(1);

/// How often is asked whether Redis tells of keys: that may be switched at any time.
const LOOKS: Duration = Duration::from_secs(30);

type Stepping = Pin<Box<dyn Future<Output = Outcome>>>;

/// The pub/sub side of Redis.
pub struct Broker {
    subscriber: Subscriber,
    messages: Receiver<Message>,
    errors: Receiver<(Error, Option<Server>)>,
    connects: Receiver<Server>,
    pub(super) events: Receiver<KeyspaceEvent>,
    pub(super) control: Option<Channel>,
    /// The connection on which is asked whether Redis tells of keys, what it said, and when it was asked.
    pub(super) reader: Client,
    pub(super) telling: (mpsc::Sender<Telling>, mpsc::Receiver<Telling>),
    pub(super) tells: Option<Telling>,
    /// Whether Redis tells of keys, if that is set.
    pub(super) events_set: Option<bool>,
    pub(super) asked: Instant,
    pub(super) store: Rc<Store>,
    pub(super) shards: Vec<mpsc::Sender<Inbox>>,
    pub(super) interests: Interests,
    pub(super) pump: Pump,
    step: Option<Stepping>,
    /// Values that were read again. They go out after a fence: what was published before they were read has come then.
    pub(super) recovered: Vec<Recovered>,
    pub(super) fenced: Vec<Recovered>,
    pub(super) recoveries: (mpsc::Sender<Recovered>, mpsc::Receiver<Recovered>),
    connected: bool,
    pub(super) up: bool,
    down_since: Instant,
    last_step: Instant,
    /// Changes with every loss: a recovery of an older epoch stops.
    pub(super) epoch: Rc<Cell<u64>>,
    pub(super) target: Target,
    counters: Arc<Counters>,
    lag: Seldom,
    refused: Seldom,
    /// Why Redis could not be reached, and when that was said.
    complaint: Option<(String, Instant)>,
    _connection: Guard,
}

impl Broker {
    /// Connects. Must be called on the runtime of the shard whose store it is given.
    pub fn new(
        role: Role,
        target: &Target,
        settings: &Settings,
        lookups: &Lookups,
        store: Rc<Store>,
        shards: Vec<mpsc::Sender<Inbox>>,
        counters: &Arc<Counters>,
    ) -> Self {
        let (client, connection) = target.subscribing_client();
        let control = if let Role::Messages(control) = role { Some(control) } else { None };
        Self {
            events: client.keyspace_event_rx(),
            reader: lookups.client().clone(),
            telling: mpsc::channel(1),
            tells: None,
            events_set: settings.session.events,
            asked: Instant::now(),
            messages: client.message_rx(),
            errors: client.error_rx(),
            connects: client.reconnect_rx(),
            subscriber: Subscriber::new(client),
            store,
            shards,
            interests: Interests::new(settings.redis.unsubscribe_linger),
            pump: Pump::new(
                control.clone(),
                settings.messages.max_delivery_bytes,
                settings.redis.max_pending_bytes,
                counters.clone(),
            ),
            control,
            step: None,
            recovered: Vec::new(),
            fenced: Vec::new(),
            recoveries: mpsc::channel(RECOVERIES),
            connected: false,
            up: false,
            down_since: Instant::now(),
            last_step: Instant::now(),
            epoch: Rc::default(),
            target: target.clone(),
            counters: counters.clone(),
            lag: Seldom::default(),
            refused: Seldom::default(),
            complaint: None,
            _connection: connection,
        }
    }

    /// Serves the shards until all of them are gone.
    pub async fn run(mut self, mut calls: mpsc::Receiver<Call>) {
        loop {
            self.take_step();
            let next_leave = self.interests.next_leave().filter(|_| self.up && self.step.is_none());
            let keepalive = self.last_step + KEEPALIVE;
            tokio::select! {
                call = calls.recv() => match call {
                    Some((shard, orders)) => self.obey(shard, orders).await,
                    None => return,
                },
                ready = self.pump.ready(&mut self.messages) => {
                    if !ready {
                        return;
                    }
                    self.deliver().await;
                }
                error = self.errors.recv() => if let Ok((error, _)) = error { self.lose(&describe(&error)).await },
                server = self.connects.recv() => if server.is_ok() { self.connect().await },
                outcome = async { match &mut self.step { Some(step) => step.await, None => pending().await } } => {
                    self.step = None;
                    self.finish(outcome).await;
                }
                Some(recovered) = self.recoveries.1.recv() => self.recovered.push(recovered),
                event = self.events.recv() => self.pass_events(event).await,
                Some(telling) = self.telling.1.recv() => self.tell_whether(telling).await,
                () = sleep_until(next_leave.unwrap_or(keepalive)), if self.step.is_none() && self.connected => {}
            }
        }
    }

    /// Begins the next step, if there is something to tell Redis, or nothing was for long.
    fn take_step(&mut self) {
        let now = Instant::now();
        let due = self.interests.has_queued()
            || self.interests.next_leave().is_some_and(|due| due <= now)
            || now - self.last_step >= KEEPALIVE
            || !self.recovered.is_empty()
            || !self.up;
        if self.step.is_none() && self.connected && due {
            self.fenced = std::mem::take(&mut self.recovered);
            self.step = Some(Box::pin(self.subscriber.clone().take(self.interests.step(now))));
        }
    }

    async fn finish(&mut self, outcome: Outcome) {
        let now = Instant::now();
        self.last_step = now;
        if self.up && now - self.asked >= LOOKS {
            self.ask_whether();
        }
        match outcome {
            Outcome::Done(channels) => {
                // What came before the acknowledgement goes out before what follows from it.
                self.deliver_ready().await;
                let told = self.interests.subscribed(channels, now);
                self.tell_subscribed(told).await;
                self.tell_recovered().await;
                if !self.up && !self.interests.has_queued() {
                    self.rise().await;
                }
            }
            Outcome::Refused(channels, reason) => {
                for (shard, channel, ticket) in self.interests.refused(channels) {
                    if key_of(&channel).is_some() {
                        self.do_without_events(&reason).await;
                    } else if self.control.as_ref() == Some(&channel) {
                        warn!(error = %reason, "redis refuses the control channel; allow its user to subscribe to it (ACL SETUSER … &ws4redis:control), or changes of users may take session.recheck_seconds to be noticed");
                    } else if let Some(unsaid) = self.refused.due() {
                        error!(unsaid, ?channel, error = %reason, "redis refuses a channel; allow its user to subscribe to it (ACL SETUSER … &pattern)");
                    }
                    self.tell(shard, Inbox::Refused(channel, ticket)).await;
                }
            }
            Outcome::Lost(reason) => {
                self.lose(&reason).await;
                let subscriber = self.subscriber.clone();
                tokio::task::spawn_local(async move { subscriber.reconnect().await });
            }
        }
    }

    async fn obey(&mut self, shard: usize, orders: Vec<Order>) {
        let mut had = Vec::new();
        for order in orders {
            match order {
                Order::Want(channel, ticket) => {
                    if self.interests.want(channel.clone(), shard, ticket) {
                        had.push((channel, ticket));
                    }
                }
                Order::Leave(channel) => self.interests.leave(&channel, shard, Instant::now()),
            }
        }
        if !had.is_empty() {
            self.tell(shard, Inbox::Subscribed(had)).await;
        }
    }

    /// Hands a batch on. Returns how many messages it took.
    async fn deliver(&mut self) -> usize {
        if !self.pump.hints.is_empty() {
            self.pass_hints().await;
        }
        if self.pump.hints.take_dropped() {
            self.tell_all(|| Inbox::Overlooked).await;
        }
        let lost = self.pump.take_lost();
        if lost > 0 {
            self.lagged(lost).await;
        }
        let (messages, parted) = self.pump.batch(&mut self.interests, self.shards.len());
        for (shard, runs) in parted.into_iter().enumerate() {
            if !runs.is_empty() {
                self.tell(shard, Inbox::Deliver(runs)).await;
            }
        }
        messages
    }

    /// Hands on all that has come by now, and not what comes meanwhile: that may have no end.
    async fn deliver_ready(&mut self) {
        let mut left = self.pump.collect(&mut self.messages);
        while left > 0 {
            match self.deliver().await {
                0 => return,
                messages => left = left.saturating_sub(messages),
            }
        }
    }

    /// Messages were lost between Redis and here: their channels get their persisted values instead.
    async fn lagged(&mut self, count: u64) {
        if let Some(unsaid) = self.lag.due() {
            warn!(
                count,
                unsaid, "messages from redis came too fast and are lost; reading the persisted ones again"
            );
        }
        Counters::add(&self.counters.lagged_deliveries, count);
        if self.up {
            // Values that are being read already may be older than what was lost now.
            self.epoch.set(self.epoch.get() + 1);
            self.tell_all(|| Inbox::Pause).await;
            self.recover();
            // Hints may have been among them.
            self.tell_all(|| Inbox::Overlooked).await;
        }
    }

    async fn connect(&mut self) {
        // Losses come through a queue of their own: those that wait there were before this.
        while !self.errors.is_empty() {
            if let Ok((error, _)) = self.errors.try_recv() {
                self.lose(&describe(&error)).await;
            }
        }
        // A second connection event without a loss between: something was missed, so begin anew.
        if self.connected {
            self.lose("reconnected").await;
        }
        self.connected = true;
        // Whatever was refused is tried again on every connection.
        self.tells = None;
        if let Some(control) = &self.control {
            self.interests.want(control.clone(), 0, 0);
        }
    }

    async fn lose(&mut self, reason: &str) {
        // What came before the loss goes out before it: later it would follow newer values.
        self.deliver_ready().await;
        self.connected = false;
        self.step = None;
        self.recovered.clear();
        self.fenced.clear();
        self.interests.lost();
        if !std::mem::replace(&mut self.up, false) {
            self.complain(reason);
            return;
        }
        self.down_since = Instant::now();
        self.epoch.set(self.epoch.get() + 1);
        Counters::count(&self.counters.redis_losses);
        self.complaint = Some((reason.to_owned(), Instant::now()));
        warn!(redis = self.target.name(), error = %reason, "redis lost; clients stay, new ones get 503 until it is back");
        self.tell_all(|| Inbox::Lost).await;
    }

    /// Says why Redis cannot be reached: when that changes, and once a minute.
    fn complain(&mut self, reason: &str) {
        let said = self.complaint.as_ref();
        if said.is_some_and(|(last, when)| last == reason && when.elapsed() < COMPLAINTS) {
            debug!(error = %reason, "redis cannot be reached");
            return;
        }
        self.complaint = Some((reason.to_owned(), Instant::now()));
        let cure = self.target.cure(reason);
        warn!(redis = self.target.name(), error = %reason, "redis cannot be reached, clients get 503; {cure}");
    }

    async fn rise(&mut self) {
        self.up = true;
        self.complaint = None;
        let elapsed_ms = u64::try_from(self.down_since.elapsed().as_millis()).unwrap_or(u64::MAX);
        info!(redis = self.target.name(), elapsed_ms, "redis connected");
        self.tell_all(|| Inbox::Up).await;
        self.recover();
        self.ask_whether();
    }

    async fn tell_subscribed(&mut self, told: Vec<(usize, Channel, Ticket)>) {
        let mut parted = vec![Vec::new(); self.shards.len()];
        for (shard, channel, ticket) in told {
            parted[shard].push((channel, ticket));
        }
        for (shard, channels) in parted.into_iter().enumerate() {
            if !channels.is_empty() {
                self.tell(shard, Inbox::Subscribed(channels)).await;
            }
        }
    }

    pub(super) async fn tell_all(&mut self, inbox: impl Fn() -> Inbox) {
        for shard in 0..self.shards.len() {
            self.tell(shard, inbox()).await;
        }
    }

    /// Tells a shard. The wait is for the shard's thread, which waits for no client; what comes from Redis meanwhile is
    /// taken in, so that its bytes stay bounded.
    pub(super) async fn tell(&mut self, shard: usize, inbox: Inbox) {
        loop {
            tokio::select! {
                biased;
                place = self.shards[shard].reserve() => {
                    // A shard that is gone ends the process; nothing to do here.
                    return if let Ok(place) = place { place.send(inbox) };
                }
                true = self.pump.watch(&mut self.messages) => {}
            }
        }
    }
}
