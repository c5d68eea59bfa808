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

use tokio::sync::mpsc;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep_until};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info, warn};

use super::commands::Commands;
use super::connect::Target;
use super::discovery::pause;
use super::error_reply::Reminder;
use super::events::Telling;
use super::feed::Feed;
use super::inbox::{Call, Inbox, Role};
use super::interests::Interests;
use super::line::Line;
use super::pump::{News, Pump};
use super::recovery::Recovered;
use super::{Lookups, Store};
use crate::counters::Counters;
use crate::hub::{Order, Ticket};
use crate::settings::Settings;
use crate::telemetry::Seldom;
use crate::wire::Channel;

/// Silence after which the connection is tried with a fence.
const KEEPALIVE: Duration = Duration::from_secs(2);

/// Batches of values that may wait for the broker.
const RECOVERIES: usize = 4;

/// Time after which it is said again why Redis cannot be reached.
const COMPLAINTS: Duration = Duration::from_mins(1);

/// First pause before a lost connection is made again.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// How much later it is looked once more whether a step is answered: a process that stood still has not read yet.
const GRACE: Duration = Duration::from_millis(500);

/// Time for the answer to a fence where another connection to the same Redis got none in its whole time.
const SUSPICION: Duration = Duration::from_secs(1);

type Dialing = Pin<Box<dyn Future<Output = Result<Line, String>>>>;
type Leaving = Pin<Box<dyn Future<Output = ()>>>;

/// What was told to Redis, and is not answered yet.
pub(super) struct Asked {
    pub(super) channels: Vec<Channel>,
    since: Instant,
    pub(super) refusal: Option<String>,
    /// Whether its time was over when that was last looked at.
    late: bool,
}

/// The pub/sub side of Redis.
pub struct Broker {
    pub(super) feed: Option<Feed>,
    dialing: Option<Dialing>,
    /// Ends when the connection has to be given up. It is kept, as it counts the time for which a node is absent.
    leaving: Option<Leaving>,
    /// Pause before the next attempt.
    pause: Duration,
    max_bytes: usize,
    patience: Duration,
    pub(super) control: Option<Channel>,
    /// By which is asked whether Redis tells of keys.
    pub(super) commands: Rc<Commands>,
    /// Keeps up to date where the server is.
    _following: AbortOnDropHandle<()>,
    pub(super) telling: (mpsc::Sender<Telling>, mpsc::Receiver<Telling>),
    pub(super) tells: Option<Telling>,
    /// Whether Redis tells of keys, if that is set.
    pub(super) events_set: Option<bool>,
    pub(super) asked: Instant,
    pub(super) store: Rc<Store>,
    pub(super) shards: Vec<mpsc::Sender<Inbox>>,
    pub(super) interests: Interests,
    pub(super) pump: Pump,
    pub(super) step: Option<Asked>,
    /// Whether another connection to this Redis got no answer in time.
    pub(super) suspected: bool,
    /// The channel of a key that Redis refuses, which is tried again for all of its kind.
    pub(super) refused_key: Option<Channel>,
    /// Values that were read again. They go out after a fence: what was published before they were read has come then.
    pub(super) recovered: Vec<Recovered>,
    pub(super) fenced: Vec<Recovered>,
    pub(super) recoveries: (mpsc::Sender<Recovered>, mpsc::Receiver<Recovered>),
    pub(super) up: bool,
    down_since: Instant,
    pub(super) last_step: Instant,
    /// Changes with every loss: a recovery of an older epoch stops.
    pub(super) epoch: Rc<Cell<u64>>,
    pub(super) target: Target,
    counters: Arc<Counters>,
    lag: Seldom,
    pub(super) refused: Seldom,
    pub(super) refused_ping: Reminder,
    pub(super) not_now: Reminder,
    /// Why Redis could not be reached, and when that was said.
    complaint: Option<(String, Instant)>,
}

impl Broker {
    /// Connects to where `lookups` is connected. Must be called on the runtime of the shard whose store it is given.
    pub fn new(
        role: Role,
        target: &Target,
        settings: &Settings,
        lookups: &Lookups,
        store: Rc<Store>,
        shards: Vec<mpsc::Sender<Inbox>>,
        counters: &Arc<Counters>,
    ) -> Self {
        let control = if let Role::Messages(control) = role { Some(control) } else { None };
        Self {
            feed: None,
            dialing: None,
            leaving: None,
            pause: Duration::ZERO,
            max_bytes: settings.messages.max_delivery_bytes,
            patience: settings.redis.command_timeout,
            telling: mpsc::channel(1),
            tells: None,
            events_set: settings.session.events,
            asked: Instant::now(),
            commands: lookups.commands().clone(),
            _following: AbortOnDropHandle::new(spawn_local(target.clone().follow())),
            store,
            shards,
            interests: Interests::new(settings.redis.unsubscribe_linger),
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
            lag: Seldom::default(),
            refused: Seldom::default(),
            refused_ping: Reminder::default(),
            not_now: Reminder::default(),
            complaint: None,
        }
    }

    /// Serves the shards until all of them are gone.
    pub async fn run(mut self, mut calls: mpsc::Receiver<Call>) {
        loop {
            self.take_step();
            let due = self.next_look();
            tokio::select! {
                call = calls.recv() => match call {
                    Some((shard, orders)) => self.obey(shard, orders).await,
                    None => return,
                },
                () = self.pump.ready(&mut self.feed) => self.pass_on().await,
                line = async { match &mut self.dialing { Some(dialing) => dialing.await, None => pending().await } } => self.connect(line),
                () = async { match &mut self.leaving { Some(leaving) => leaving.await, None => pending().await } } => {
                    self.lose("the master is another server now, or this one is a replica").await;
                }
                Some(recovered) = self.recoveries.1.recv() => self.recovered.push(recovered),
                Some(telling) = self.telling.1.recv() => self.tell_whether(telling).await,
                () = self.target.suspected(), if self.feed.is_some() => self.suspected = true,
                () = sleep_until(due), if self.feed.is_some() => if self.is_overdue() {
                    self.lose(&format!("no answer within {} s", self.patience.as_secs())).await;
                },
            }
        }
    }
    /// Begins what is due: to connect, or to tell Redis something, or to try it where nothing was told for long.
    fn take_step(&mut self) {
        let now = Instant::now();
        let Some(feed) = &mut self.feed else {
            if self.dialing.is_none() {
                self.dial();
            }
            return;
        };
        let due = self.interests.has_queued()
            || self.interests.next_due().is_some_and(|due| due <= now)
            || now - self.last_step >= KEEPALIVE
            || !self.recovered.is_empty()
            || self.suspected
            // While channels are postponed, it cannot be up yet.
            || !(self.up || self.interests.is_behind());
        if self.step.is_none() && due {
            self.fenced = std::mem::take(&mut self.recovered);
            let step = self.interests.step(now);
            feed.begin(&step);
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

    fn connect(&mut self, line: Result<Line, String>) {
        self.dialing = None;
        match line {
            Ok(line) => {
                let (discovery, spot) = (self.target.discovery().clone(), line.spot().clone());
                self.leaving = Some(Box::pin(async move { discovery.left(&spot).await }));
                self.feed = Some(Feed::new(line));
                // Whatever was refused is tried again on every connection.
                self.tells = None;
                if let Some(control) = &self.control {
                    self.interests.want(control.clone(), 0, Ticket::MIN);
                }
            }
            Err(reason) => self.complain(&reason),
        }
    }

    /// When something is due that nobody else wakes for.
    fn next_look(&self) -> Instant {
        if let (Some(asked), Some(feed)) = (&self.step, &self.feed) {
            let grace = if asked.late { GRACE } else { Duration::ZERO };
            let patience = if self.suspected { self.patience.min(SUSPICION) } else { self.patience };
            return asked.since.max(feed.last_read()) + patience + grace;
        }
        let keepalive = self.last_step + KEEPALIVE;
        self.interests.next_due().map_or(keepalive, |due| due.min(keepalive))
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
            match self.pump.take_news(&mut self.feed) {
                Some(News::Fence(refusal)) => self.finish(refusal).await,
                Some(News::Refused(reason)) => match &mut self.step {
                    Some(asked) => asked.refusal = Some(reason),
                    None => self.lose(&reason).await,
                },
                Some(News::Lost(reason)) => self.lose(&reason).await,
                None => {}
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
                Order::Leave(channel) => {
                    self.interests.leave(&channel, shard, Instant::now());
                    self.keep_trying(&channel);
                }
            }
        }
        if !had.is_empty() {
            self.tell(shard, Inbox::Subscribed(had)).await;
        }
    }

    /// Hands a batch on, and what goes before it.
    async fn deliver(&mut self) {
        if !self.pump.hints.is_empty() {
            self.pass_hints().await;
        }
        if self.pump.hints.take_dropped() {
            self.tell_all(|| Inbox::Overlooked).await;
        }
        if !self.pump.touches.is_empty() {
            self.pass_events().await;
        }
        let lost = self.pump.take_lost();
        if lost > 0 {
            self.lagged(lost).await;
        }
        for (shard, runs) in self.pump.batch(&mut self.interests, self.shards.len()).into_iter().enumerate() {
            if !runs.is_empty() {
                self.tell(shard, Inbox::Deliver(runs)).await;
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

    pub(super) async fn lose(&mut self, reason: &str) {
        // What came before the loss goes out before it: later it would follow newer values. Nothing more is read.
        let mut feed = self.feed.take();
        self.leaving = None;
        loop {
            while !self.pump.is_quiet() {
                self.deliver().await;
            }
            if self.pump.take_news(&mut feed).is_none() {
                break;
            }
        }
        self.step = None;
        self.suspected = false;
        self.refused_key = None;
        self.recovered.clear();
        self.fenced.clear();
        self.interests.lost();
        self.target.discovery().note_served(false);
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

    pub(super) async fn rise(&mut self) {
        self.up = true;
        self.target.discovery().note_served(true);
        self.pause = Duration::ZERO;
        self.complaint = None;
        let elapsed_ms = u64::try_from(self.down_since.elapsed().as_millis()).unwrap_or(u64::MAX);
        info!(redis = self.target.name(), elapsed_ms, "redis connected");
        self.tell_all(|| Inbox::Up).await;
        self.recover();
        self.ask_whether();
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
                () = self.pump.watch(&mut self.feed) => {}
            }
        }
    }
}
