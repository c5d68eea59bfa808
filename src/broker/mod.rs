//! The pub/sub side of Redis: one subscription connection for the whole process.
//!
//! It keeps Redis in step with what the shards want, hands them what Redis sends, and after a loss brings everything
//! back: channels first, then the persisted values that were missed. It waits for shards, never for a client.

mod acknowledge;
mod batch;
mod event;
mod hints;
mod keyspace;
mod keyspace_support;
mod recovery;
mod retries;
mod subscriptions;

use std::cell::Cell;
use std::future::pending;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep_until};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info, warn};

use self::batch::{ControlEvent, Pump};
pub use self::event::{BrokerEvent, Call, Role};
use self::keyspace::Support;
use self::recovery::Recovered;
use self::subscriptions::Subscriptions;
use crate::hub::{Generation, SubscriptionRequest};
use crate::metrics::Counters;
use crate::redis::CommandClient;
use crate::redis::RedisConnection;
use crate::redis::Subscriber;
use crate::redis::Target;
use crate::redis::error_reply::HintThrottle;
use crate::redis::pause;
use crate::redis::{Lookups, Store};
use crate::settings::Settings;
use crate::telemetry::LogThrottle;
use crate::wire::{Channel, Topic};

/// Silence after which the connection is tried with a fence.
const KEEPALIVE: Duration = Duration::from_secs(2);

/// Batches of values that may wait for the broker.
const RECOVERIES: usize = 4;

/// Time after which it is said again why Redis cannot be reached.
const UNREACHABLE_LOG_PAUSE: Duration = Duration::from_mins(1);

/// First pause before a lost connection is made again.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// How much later it is looked once more whether a step is answered: a process that stood still has not read yet.
const GRACE: Duration = Duration::from_millis(500);

/// Time for the answer to a fence where another connection to the same Redis got none in its whole time.
const SUSPICION: Duration = Duration::from_secs(1);

#[cfg(test)]
pub(crate) use subscriptions::SIZES;

type Dialing = Pin<Box<dyn Future<Output = Result<RedisConnection, String>>>>;
type Leaving = Pin<Box<dyn Future<Output = ()>>>;

/// What was told to Redis, and is not answered yet.
struct Asked {
    channels: Vec<Channel>,
    since: Instant,
    refusal: Option<String>,
    /// Whether its time was over when that was last looked at.
    late: bool,
}

/// Returns the channel to subscribe to for a topic, if its messages come from Redis.
pub fn upstream(topic: &Topic) -> Option<Channel> {
    topic.channel()
}

/// The pub/sub side of Redis.
pub struct Broker {
    subscriber: Option<Subscriber>,
    dialing: Option<Dialing>,
    /// Ends when the connection has to be given up. It is kept, as it counts the time for which a node is absent.
    leaving: Option<Leaving>,
    /// Pause before the next attempt.
    pause: Duration,
    max_bytes: usize,
    patience: Duration,
    control: Option<Channel>,
    /// Probes whether Redis publishes keyspace events.
    commands: Rc<CommandClient>,
    /// Keeps up to date where the server is.
    _following: AbortOnDropHandle<()>,
    keyspace_support: (mpsc::Sender<Support>, mpsc::Receiver<Support>),
    keyspace_events: Option<Support>,
    /// The configured answer to whether Redis publishes keyspace events, if it is set.
    events_set: Option<bool>,
    asked: Instant,
    store: Rc<Store>,
    shards: Vec<mpsc::Sender<BrokerEvent>>,
    subscriptions: Subscriptions,
    pump: Pump,
    step: Option<Asked>,
    /// Whether another connection to this Redis got no answer in time.
    suspected: bool,
    /// The channel of a key that Redis refuses, which is tried again for all of its kind.
    refused_key: Option<Channel>,
    /// Values that were read again. They go out after a fence: what was published before they were read has come then.
    recovered: Vec<Recovered>,
    fenced: Vec<Recovered>,
    recoveries: (mpsc::Sender<Recovered>, mpsc::Receiver<Recovered>),
    up: bool,
    down_since: Instant,
    last_step: Instant,
    /// Changes with every loss: a recovery of an older epoch stops.
    epoch: Rc<Cell<u64>>,
    target: Target,
    counters: Arc<Counters>,
    lag: LogThrottle,
    refused: LogThrottle,
    refused_ping: HintThrottle,
    not_now: HintThrottle,
    /// Why Redis could not be reached, and when that was said.
    last_error: Option<(String, Instant)>,
}

impl Broker {
    /// Connects to where `lookups` is connected. Must be called on the runtime of the shard whose store it is given.
    pub fn new(
        role: Role,
        target: &Target,
        settings: &Settings,
        lookups: &Lookups,
        store: Rc<Store>,
        shards: Vec<mpsc::Sender<BrokerEvent>>,
        counters: &Arc<Counters>,
    ) -> Self {
        let control = if let Role::Messages(control) = role { Some(control) } else { None };
        Self {
            subscriber: None,
            dialing: None,
            leaving: None,
            pause: Duration::ZERO,
            max_bytes: settings.messages.max_delivery_bytes,
            patience: settings.redis.command_timeout,
            keyspace_support: mpsc::channel(1),
            keyspace_events: None,
            events_set: settings.session.events,
            asked: Instant::now(),
            commands: lookups.commands().clone(),
            _following: AbortOnDropHandle::new(spawn_local(target.clone().follow())),
            store,
            shards,
            subscriptions: Subscriptions::new(settings.redis.unsubscribe_linger),
            pump: Pump::new(
                control.clone(),
                (settings.redis.receiver_messages, settings.redis.max_pending_bytes),
                counters.clone(),
            ),
            control,
            step: None,
            suspected: false,
            refused_key: None,
            recovered: Vec::new(),
            fenced: Vec::new(),
            recoveries: mpsc::channel(RECOVERIES),
            up: false,
            down_since: Instant::now(),
            last_step: Instant::now(),
            epoch: Rc::default(),
            target: target.clone(),
            counters: counters.clone(),
            lag: LogThrottle::default(),
            refused: LogThrottle::default(),
            refused_ping: HintThrottle::default(),
            not_now: HintThrottle::default(),
            last_error: None,
        }
    }

    /// Serves the shards until all of them are gone.
    pub async fn run(mut self, mut calls: mpsc::Receiver<Call>) {
        loop {
            self.take_step();
            let due = self.next_look();
            tokio::select! {
                call = calls.recv() => match call {
                    Some((shard, requests)) => self.apply_requests(shard, requests).await,
                    None => return,
                },
                () = self.pump.ready(&mut self.subscriber) => self.pass_on().await,
                line = async { match &mut self.dialing { Some(dialing) => dialing.await, None => pending().await } } => self.connect(line),
                () = async { match &mut self.leaving { Some(leaving) => leaving.await, None => pending().await } } => {
                    self.on_lost("the master is another server now, or this one is a replica").await;
                }
                Some(recovered) = self.recoveries.1.recv() => self.recovered.push(recovered),
                Some(keyspace_support) = self.keyspace_support.1.recv() => self.publish_support(keyspace_support).await,
                () = self.target.suspected(), if self.subscriber.is_some() => self.suspected = true,
                () = sleep_until(due), if self.subscriber.is_some() => if self.is_overdue() {
                    self.on_lost(&format!("no answer within {} s", self.patience.as_secs())).await;
                },
            }
        }
    }
    /// Begins what is due: to connect, or to tell Redis something, or to try it where nothing was told for long.
    fn take_step(&mut self) {
        let now = Instant::now();
        let Some(subscriber) = &mut self.subscriber else {
            if self.dialing.is_none() {
                self.dial();
            }
            return;
        };
        let due = self.subscriptions.has_queued()
            || self.subscriptions.next_due().is_some_and(|due| due <= now)
            || now - self.last_step >= KEEPALIVE
            || !self.recovered.is_empty()
            || self.suspected
            // While channels are postponed, it cannot be up yet.
            || !(self.up || self.subscriptions.is_behind());
        if self.step.is_none() && due {
            self.fenced = std::mem::take(&mut self.recovered);
            let step = self.subscriptions.step(now);
            subscriber.begin(&step);
            self.step = Some(Asked { channels: step.subscribe, since: now, refusal: None, late: false });
        }
    }

    /// Begins to connect, after a pause.
    fn dial(&mut self) {
        let (wait, target, max_bytes) = (self.pause, self.target.clone(), self.max_bytes);
        self.pause = (self.pause * 2).clamp(FIRST_PAUSE, target.longest_pause());
        self.dialing = Some(Box::pin(async move {
            if !wait.is_zero() {
                pause(wait, &mut target.discovery().reached()).await;
            }
            target.dial(max_bytes).await
        }));
    }

    fn connect(&mut self, line: Result<RedisConnection, String>) {
        self.dialing = None;
        match line {
            Ok(line) => {
                let (discovery, spot) = (self.target.discovery().clone(), line.endpoint().clone());
                self.leaving = Some(Box::pin(async move { discovery.left(&spot).await }));
                self.subscriber = Some(Subscriber::new(line));
                // Whatever was refused is tried again on every connection.
                self.keyspace_events = None;
                if let Some(control) = &self.control {
                    self.subscriptions.want(control.clone(), 0, Generation::MIN);
                }
            }
            Err(reason) => self.warn_unreachable(&reason),
        }
    }

    /// When something is due that nobody else wakes for.
    fn next_look(&self) -> Instant {
        if let (Some(asked), Some(subscriber)) = (&self.step, &self.subscriber) {
            let grace = if asked.late { GRACE } else { Duration::ZERO };
            let patience = if self.suspected { self.patience.min(SUSPICION) } else { self.patience };
            return asked.since.max(subscriber.last_read()) + patience + grace;
        }
        let keepalive = self.last_step + KEEPALIVE;
        self.subscriptions.next_due().map_or(keepalive, |due| due.min(keepalive))
    }

    /// Tells whether Redis owes an answer for too long. Says so only if it does when asked once more.
    fn is_overdue(&mut self) -> bool {
        let overdue = self.next_look() <= Instant::now();
        self.step.as_mut().is_some_and(|asked| std::mem::replace(&mut asked.late, overdue) && overdue)
    }

    /// Hands on what has come, and then what has come besides messages.
    async fn pass_on(&mut self) {
        if !self.pump.is_quiet() {
            self.deliver().await;
        }
        if self.pump.is_quiet() {
            match self.pump.take_control_event(&mut self.subscriber) {
                Some(ControlEvent::Fence(refusal)) => self.finish(refusal).await,
                Some(ControlEvent::Refused(reason)) => match &mut self.step {
                    Some(asked) => asked.refusal = Some(reason),
                    None => self.on_lost(&reason).await,
                },
                Some(ControlEvent::Lost(reason)) => self.on_lost(&reason).await,
                None => {}
            }
        }
    }

    async fn apply_requests(&mut self, shard: usize, requests: Vec<SubscriptionRequest>) {
        let mut had = Vec::new();
        for order in requests {
            match order {
                SubscriptionRequest::Subscribe(topic, generation) => {
                    let Some(channel) = upstream(&topic) else { continue };
                    if self.subscriptions.want(channel.clone(), shard, generation) {
                        had.push((channel, generation));
                    }
                }
                SubscriptionRequest::Unsubscribe(topic) => {
                    let Some(channel) = upstream(&topic) else { continue };
                    self.subscriptions.leave(&channel, shard, Instant::now());
                    self.keep_trying(&channel);
                }
            }
        }
        if !had.is_empty() {
            self.tell(shard, BrokerEvent::Subscribed(had)).await;
        }
    }

    /// Hands a batch on, and what goes before it.
    async fn deliver(&mut self) {
        if !self.pump.hints.is_empty() {
            self.pass_hints().await;
        }
        if self.pump.hints.take_dropped() {
            self.tell_all(|| BrokerEvent::Overlooked).await;
        }
        if !self.pump.key_events.is_empty() {
            self.pass_events().await;
        }
        let lost = self.pump.take_lost();
        if lost > 0 {
            self.lagged(lost).await;
        }
        for (shard, runs) in
            self.pump.batch(&mut self.subscriptions, self.shards.len()).into_iter().enumerate()
        {
            if !runs.is_empty() {
                self.tell(shard, BrokerEvent::Deliver(runs)).await;
            }
        }
    }

    /// Messages were lost between Redis and here: their channels get their persisted values instead.
    async fn lagged(&mut self, count: u64) {
        if let Some(suppressed) = self.lag.allow() {
            warn!(
                count,
                suppressed,
                "messages from redis came too fast and are lost; reading the persisted ones again"
            );
        }
        Counters::add(&self.counters.lagged_deliveries, count);
        if self.up {
            // Values that are being read already may be older than what was lost now.
            self.epoch.set(self.epoch.get() + 1);
            self.tell_all(|| BrokerEvent::Pause).await;
            self.recover();
            // Hints may have been among them.
            self.tell_all(|| BrokerEvent::Overlooked).await;
        }
    }

    async fn on_lost(&mut self, reason: &str) {
        // What came before the loss goes out before it: later it would follow newer values. Nothing more is read.
        let mut subscriber = self.subscriber.take();
        self.leaving = None;
        loop {
            while !self.pump.is_quiet() {
                self.deliver().await;
            }
            if self.pump.take_control_event(&mut subscriber).is_none() {
                break;
            }
        }
        self.step = None;
        self.suspected = false;
        self.refused_key = None;
        self.recovered.clear();
        self.fenced.clear();
        self.subscriptions.lost();
        self.target.discovery().note_served(false);
        if !std::mem::replace(&mut self.up, false) {
            self.warn_unreachable(reason);
            return;
        }
        self.down_since = Instant::now();
        self.epoch.set(self.epoch.get() + 1);
        Counters::count(&self.counters.redis_losses);
        self.last_error = Some((reason.to_owned(), Instant::now()));
        warn!(redis = self.target.name(), error = %reason, "redis lost; clients stay, new ones get 503 until it is back");
        self.tell_all(|| BrokerEvent::Lost).await;
    }

    /// Says why Redis cannot be reached: when that changes, and once a minute.
    fn warn_unreachable(&mut self, reason: &str) {
        let said = self.last_error.as_ref();
        if said.is_some_and(|(last, when)| last == reason && when.elapsed() < UNREACHABLE_LOG_PAUSE) {
            debug!(error = %reason, "redis cannot be reached");
            return;
        }
        self.last_error = Some((reason.to_owned(), Instant::now()));
        let hint = self.target.hint(reason);
        warn!(redis = self.target.name(), error = %reason, "redis cannot be reached, clients get 503; {hint}");
    }

    async fn on_connected(&mut self) {
        self.up = true;
        self.target.discovery().note_served(true);
        self.pause = Duration::ZERO;
        self.last_error = None;
        let elapsed_ms = u64::try_from(self.down_since.elapsed().as_millis()).unwrap_or(u64::MAX);
        info!(redis = self.target.name(), elapsed_ms, "redis connected");
        self.tell_all(|| BrokerEvent::Up).await;
        self.recover();
        self.probe_support();
    }

    async fn tell_all(&mut self, inbox: impl Fn() -> BrokerEvent) {
        for shard in 0..self.shards.len() {
            self.tell(shard, inbox()).await;
        }
    }

    /// Tells a shard. The wait is for the shard's thread, which waits for no client; what comes from Redis meanwhile is
    /// taken in, so that its bytes stay bounded.
    async fn tell(&mut self, shard: usize, inbox: BrokerEvent) {
        loop {
            tokio::select! {
                biased;
                place = self.shards[shard].reserve() => {
                    // A shard that is gone ends the process; nothing to do here.
                    return if let Ok(place) = place { place.send(inbox) };
                }
                () = self.pump.watch(&mut self.subscriber) => {}
            }
        }
    }
}
