//! One thread, one runtime, one hub: a shard owns its connections from accept to close.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::access::{Grant, Policy};
use crate::counters::Counters;
use crate::http::{self, Arrival, Front, Rejection, StaticFiles};
use crate::hub::{Desk, Ending, Hub, Limits, NotJoined, Run, Subscription};
use crate::reception::{NotReceived, Reception, Sessions, Visitor};
use crate::redis::{Call, Inbox, Lookups, Store, Target};
use crate::settings::Settings;
use crate::socket::{self, Beats, Connection, Leases, Parts};
use crate::stream::Stream;
use crate::telemetry::Seldom;
use crate::wire::Channel;

/// Bytes of one read of a client's socket, in the buffer that all connections of a shard share.
const READ_BYTES: usize = 64 * 1024;

/// Parts of a second: each tick takes care of that part of the connections.
const TICKS: usize = 4;

/// A tick that comes so late shows that the process stood still.
const STANDSTILL: Duration = Duration::from_secs(1);

/// What the broker may have told and the shard not yet taken: batches of up to a mebibyte.
pub const INBOX: usize = 64;

/// Batches that a shard takes together, and joins.
const JOINED: usize = INBOX;

/// Sockets above the limit of connections that are still answered, with 503; above that they are closed unheard.
const REFUSED: usize = 1_000;

/// Clients sent away per second at least, when the server stops: so few are no stampede.
const LEAVERS_PER_SECOND: u32 = 10;

/// One thread's share of the server.
pub struct Shard {
    number: usize,
    settings: Arc<Settings>,
    front: Front,
    policy: Policy,
    reception: Reception,
    leases: Leases,
    desk: Rc<Desk>,
    parts: Rc<Parts>,
    redis_up: Cell<bool>,
    stopping: Cell<bool>,
    /// Connections of the whole process.
    live: Arc<AtomicUsize>,
    /// Connections of this shard.
    own: Cell<usize>,
}

/// A connection's share of the limit.
struct Place(Rc<Shard>);

/// What is ready when a handshake is answered.
struct Prepared {
    subscription: Subscription,
    visitor: Visitor,
    grant: Grant,
    persisted: Vec<Option<Bytes>>,
}

impl Shard {
    /// Sets a shard up and connects it to Redis. Must be called on its own runtime.
    pub fn new(
        number: usize,
        settings: Arc<Settings>,
        target: &Target,
        session_target: Option<&Target>,
        counters: &Arc<Counters>,
        live: Arc<AtomicUsize>,
    ) -> Rc<Self> {
        let limits = Limits {
            outbox_bytes: settings.messages.outbox_bytes,
            drop_oldest: settings.messages.drop_oldest,
        };
        let heartbeat = settings.heartbeat.as_deref().map(String::from_utf8_lossy).unwrap_or_default();
        let files = StaticFiles::new(&settings.websocket_url, settings.namespace.as_str(), &heartbeat);
        let front = Front {
            websocket_url: settings.websocket_url.clone(),
            session_cookie: settings.session.cookie.clone(),
            origins: settings.origins.clone(),
            files: settings.demo.then_some(files),
            handshake: settings.server.handshake,
            max_header_bytes: settings.server.max_header_bytes,
            max_headers: settings.server.max_headers,
            counters: counters.clone(),
            foreign: Seldom::default(),
        };
        let store = Rc::new(Store::new(target, &settings, counters));
        let sessions = match session_target {
            Some(target) => Rc::new(Lookups::connect(target, &settings.redis, counters)),
            None => store.lookups(),
        };
        let sessions =
            Sessions::new(settings.session.reading.clone(), &settings.namespace, sessions, store.lookups());
        let reception = Reception::new(sessions);
        let parts = Parts {
            store,
            clock: Cell::new(1),
            buffer: vec![0; READ_BYTES].into_boxed_slice().into(),
            beats: Beats::new(settings.heartbeat.clone(), settings.ping),
            limits,
            max_message_bytes: settings.messages.max_message_bytes,
            publish_bytes: settings.messages.publish_bytes,
            publish_patience: settings.redis.publish_wait + settings.redis.command_timeout * 2,
            linger: Duration::from_secs(settings.server.linger_seconds.into()),
            counters: counters.clone(),
        };
        Rc::new(Self {
            number,
            front,
            policy: Policy::new(
                settings.namespace.clone(),
                settings.facility_colons,
                settings.access.clone(),
            ),
            reception,
            leases: Leases::default(),
            desk: Desk::new(Hub::new(limits)),
            parts: Rc::new(parts),
            redis_up: Cell::new(false),
            stopping: Cell::new(false),
            live,
            own: Cell::new(0),
            settings,
        })
    }

    /// Returns the shard's connection to the key side of Redis.
    pub fn store(&self) -> Rc<Store> {
        self.parts.store.clone()
    }

    /// Serves until `stop`, then drains. Ends early only if something in here is broken.
    pub async fn run(
        self: Rc<Self>,
        inbox: mpsc::Receiver<Inbox>,
        calls: mpsc::Sender<Call>,
        stop: CancellationToken,
    ) {
        let mut tasks = JoinSet::new();
        tasks.spawn_local(self.clone().deliver(inbox));
        tasks.spawn_local(self.clone().call(calls));
        tasks.spawn_local(self.clone().tick());
        tokio::select! {
            () = stop.cancelled() => self.drain().await,
            _ = tasks.join_next() => {}
        }
    }

    /// Takes a client's socket and serves it.
    pub fn take(self: &Rc<Self>, stream: Stream) {
        if self.live.fetch_add(1, Ordering::Relaxed) > self.settings.server.max_connections + REFUSED {
            self.live.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        self.own.set(self.own.get() + 1);
        let place = Place(self.clone());
        tokio::task::spawn_local(self.clone().greet(stream, place));
    }

    /// The handshake. It ends by spawning the connection, so that nothing of it stays.
    async fn greet(self: Rc<Self>, stream: Stream, place: Place) {
        if stream.tune(self.settings.server.send_buffer_bytes).is_err() {
            return;
        }
        let opened = http::serve(stream, &self.front, async |arrival| self.prepare(arrival).await).await;
        let Some(http::Opened { stream, early, prepared }) = opened else { return };
        let Prepared { subscription, visitor, grant, persisted } = prepared;
        // What it would be given is not whole: better a client that comes again than one that misses something.
        let unsound = !matches!(subscription.is_stale(), Ok(false));
        let connection = Connection::open(self.parts.clone(), stream, subscription, grant, &persisted);
        let recheck = self.settings.session.recheck_seconds;
        self.leases.add(visitor, connection.listener(), self.parts.clock.get(), recheck);
        if unsound {
            connection.end(Ending::Slow);
        }
        tokio::task::spawn_local(async move {
            connection.run(early).await;
            drop(place);
        });
    }

    /// Everything between a sound handshake and its 101: who, what, joined, acknowledged, read.
    async fn prepare(&self, arrival: Arrival) -> Result<Prepared, Rejection> {
        if self.stopping.get() {
            return Err(Rejection::Stopping);
        }
        if self.live.load(Ordering::Relaxed) > self.settings.server.max_connections {
            return Err(Rejection::Full);
        }
        if !self.redis_up.get() || !self.parts.store.is_up().await {
            return Err(Rejection::NoRedis);
        }
        let received = self.reception.receive(&arrival.credentials, &arrival.handshake);
        let visitor = timeout(self.settings.server.handshake, received).await;
        let visitor = visitor.unwrap_or(Err(NotReceived::NoRedis))?;
        let grant = self.policy.grant(arrival.handshake, &visitor.identity, visitor.allowed)?;
        let subscription = self.desk.join(&grant.subscribe);
        let reading = async {
            loop {
                subscription.joined().await?;
                subscription.begin_reading();
                let persisted = self.parts.store.persisted(&grant.subscribe).await;
                if !subscription.is_stale()? {
                    return persisted.map_err(|_| Rejection::NoRedis);
                }
            }
        };
        let persisted =
            timeout(self.settings.server.handshake, reading).await.unwrap_or(Err(Rejection::NoRedis))?;
        Ok(Prepared { subscription, visitor, grant, persisted })
    }

    /// Delivers what the broker sends. All that is there is taken together, and runs of a channel are joined.
    async fn deliver(self: Rc<Self>, mut inbox: mpsc::Receiver<Inbox>) {
        let mut waiting = Vec::with_capacity(JOINED);
        while inbox.recv_many(&mut waiting, JOINED).await > 0 {
            let mut batches = Vec::new();
            for item in waiting.drain(..) {
                match item {
                    Inbox::Deliver(runs) => batches.push(runs),
                    item => {
                        self.deliver_joined(&mut batches);
                        self.note(item);
                    }
                }
            }
            self.deliver_joined(&mut batches);
        }
    }

    fn deliver_joined(&self, batches: &mut Vec<Vec<(Channel, Run)>>) {
        let runs =
            if batches.len() > 1 { join(batches.drain(..)) } else { batches.pop().unwrap_or_default() };
        self.desk.with(|hub| runs.into_iter().for_each(|(channel, run)| hub.deliver(&channel, run)));
    }

    /// Takes what the broker tells besides messages.
    fn note(&self, item: Inbox) {
        self.desk.with(|hub| match item {
            // Taken by the caller, with what else is there.
            Inbox::Deliver(_) => {}
            Inbox::Subscribed(channels) => {
                for (channel, ticket) in channels {
                    hub.subscribed(&channel, ticket);
                }
            }
            Inbox::Refused(channel, ticket) => hub.refused(&channel, ticket),
            Inbox::Up => self.redis_up.set(true),
            Inbox::Lost => {
                self.redis_up.set(false);
                hub.lost();
            }
            Inbox::Pause => hub.pause(),
            Inbox::Recovered(values) => {
                for (channel, value) in values {
                    hub.recover(&channel, value.as_ref());
                }
            }
        });
    }

    /// Tells the broker which channels are wanted.
    async fn call(self: Rc<Self>, calls: mpsc::Sender<Call>) {
        loop {
            let orders = self.desk.orders().await;
            if calls.send((self.number, orders)).await.is_err() {
                return;
            }
        }
    }

    /// Heartbeats, pings and whatever else is due, for a part of the connections at a time.
    async fn tick(self: Rc<Self>) {
        let mut ticks = interval(Duration::from_millis(1000 / TICKS as u64));
        // A process that was stopped for a while goes on where it was, instead of catching up.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut stood_still = false;
        for part in (0..TICKS).cycle() {
            // Before the first tick after a standstill, the sockets are read: pongs that wait there count.
            let late = ticks.tick().await.elapsed() > STANDSTILL;
            stood_still = late && !stood_still;
            if stood_still {
                continue;
            }
            let now = self.parts.clock.get() + u32::from(part == 0);
            self.parts.clock.set(now);
            if part == 0 {
                self.clone().renew_leases(now);
            }
            self.desk.with(|hub| socket::tick(hub.listeners(part, TICKS), now, &self.parts.beats));
        }
    }

    /// Reads the sessions again for which it is time.
    fn renew_leases(self: Rc<Self>, now: u32) {
        for key in self.leases.due(now) {
            let shard = self.clone();
            tokio::task::spawn_local(async move {
                let recheck = shard.settings.session.recheck_seconds;
                shard.leases.renew(&key, &shard.reception, || shard.parts.clock.get(), recheck).await;
            });
        }
    }

    /// Sends all clients away, spread over the drain time, and waits for what they published.
    async fn drain(&self) {
        self.stopping.set(true);
        let end = Instant::now() + self.settings.server.drain + self.parts.linger;
        let listeners: Vec<_> = self.desk.with(|hub| hub.listeners(0, 1).cloned().collect());
        let count = u32::try_from(listeners.len()).unwrap_or(u32::MAX);
        // A tenth of the time is left for the last ones.
        let spread =
            (self.settings.server.drain * 9 / 10).min(Duration::from_secs(1) * count / LEAVERS_PER_SECOND);
        let begun = Instant::now();
        for (index, listener) in (0_u32..).zip(listeners) {
            let due = spread * index / count.max(1);
            if let Some(early) = due.checked_sub(begun.elapsed()) {
                sleep(early).await;
            }
            listener.end(Ending::GoingAway);
        }
        while self.own.get() > 0 && Instant::now() < end {
            // Handshakes that were under way have become connections meanwhile.
            self.desk.with(|hub| hub.listeners(0, 1).for_each(|listener| listener.end(Ending::GoingAway)));
            sleep(Duration::from_millis(20)).await;
        }
        let _ = timeout(self.settings.redis.command_timeout, self.parts.store.settled()).await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.live.fetch_sub(1, Ordering::Relaxed);
        self.0.own.set(self.0.own.get() - 1);
    }
}

impl From<NotReceived> for Rejection {
    fn from(failure: NotReceived) -> Self {
        match failure {
            NotReceived::NoRedis => Self::NoRedis,
        }
    }
}

impl From<NotJoined> for Rejection {
    fn from(failure: NotJoined) -> Self {
        match failure {
            NotJoined::Lost => Self::NoRedis,
            NotJoined::Refused => Self::Unsubscribable,
            NotJoined::Flooded => Self::Flooded,
        }
    }
}

/// Joins the runs of each channel, in order.
fn join(batches: impl Iterator<Item = Vec<(Channel, Run)>>) -> Vec<(Channel, Run)> {
    let mut places = std::collections::HashMap::<Channel, usize, foldhash::fast::RandomState>::default();
    let mut joined: Vec<(Channel, Vec<Run>)> = Vec::new();
    for (channel, run) in batches.flatten() {
        let place = *places.entry(channel.clone()).or_insert(joined.len());
        if place == joined.len() {
            joined.push((channel, Vec::new()));
        }
        joined[place].1.push(run);
    }
    joined.into_iter().filter_map(|(channel, runs)| Some((channel, Run::join(runs)?))).collect()
}
