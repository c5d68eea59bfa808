//! A shard and its thread: what it serves, from its start until it is drained.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::BrokerLink;
use super::prepare::Prepared;
use crate::access::Policy;
use crate::http::{self, HttpConfig, Served, StaticFiles, Times};
use crate::hub::{Ending, Hub, Limits, OutboxMemory, ShardMemory, SharedHub};
use crate::metrics::Counters;
use crate::redis::{Lookups, Store, Target};
use crate::settings::Settings;
use crate::socket::{self, Connection, ConnectionPermit, Keepalive, Parts};
use crate::stream::{Accepted, Discard, Permit, Stream};
use crate::telemetry::LogThrottle;
use crate::unfinished::UnfinishedMemory;
use crate::visitors::RateLimits;
use crate::visitors::watch::Leases;
use crate::visitors::{Callback, CallbackTransport, Identifier, LargeValues, Sessions, Visitors};

/// Bytes of one read of a client's socket, in the buffer that all connections of a shard share.
const READ_BYTES: usize = 64 * 1024;

/// Parts of a second: each tick takes care of that part of the connections.
const TICKS: usize = 4;

/// A tick that comes so late shows that the process stood still.
const STANDSTILL: Duration = Duration::from_secs(1);

/// Clients sent away per second at least, when the server stops: so few are no stampede.
const LEAVERS_PER_SECOND: u32 = 10;

/// One thread's share of the server.
pub struct Shard {
    pub(super) number: usize,
    pub(super) settings: Arc<Settings>,
    front: HttpConfig,
    pub(super) visitors: Rc<Visitors>,
    pub(super) hub: Rc<SharedHub>,
    /// Where is wanted to hear what happens to sessions: the same, unless they lie in a Redis of their own.
    pub(super) watches: Rc<SharedHub>,
    pub(super) parts: Rc<Parts>,
    pub(super) redis_up: Cell<bool>,
    /// Cancelled when the server stops.
    pub(super) stopping: CancellationToken,
    /// Connections of the whole process that are served.
    pub(super) most_connections: usize,
    unwatched: LogThrottle,
    outboxes: Arc<OutboxMemory>,
    crowded: LogThrottle,
    unsaid_refusals: Cell<u64>,
    pub(super) no_redis: LogThrottle,
    sessions: Rc<Lookups>,
}

/// What all shards share.
#[derive(Clone)]
pub struct Shared {
    /// The settings.
    pub settings: Arc<Settings>,
    /// Redis.
    pub target: Target,
    /// The Redis where sessions lie, if they have one of their own.
    pub session_target: Option<Target>,
    /// What is counted for the whole process.
    pub counters: Arc<Counters>,
    /// The transport to the callback, if there is one.
    pub transport: Option<CallbackTransport>,
    /// Permits for large sessions.
    pub large: LargeValues,
    /// Connections of the whole process.
    pub live: Arc<AtomicUsize>,
    /// Connections of the whole process that are served.
    pub most_connections: usize,
    /// What all outboxes of the process hold.
    pub outboxes: Arc<OutboxMemory>,
    /// What visitors of the whole process may publish in a time.
    pub rate_limits: Arc<RateLimits>,
    /// What the process holds of unfinished messages.
    pub unfinished: Arc<UnfinishedMemory>,
}

impl Shard {
    /// Sets a shard up and connects it to Redis. Must be called on its own runtime.
    pub fn new(number: usize, shared: Shared) -> Rc<Self> {
        let Shared { settings, target, session_target, counters, transport, large, .. } = shared;
        let Shared { live, most_connections, outboxes, rate_limits, unfinished, .. } = shared;
        let limits = Limits {
            outbox_bytes: settings.messages.outbox_bytes,
            outbox_seconds: settings.messages.outbox_seconds,
            outbox_hard_bytes: settings.messages.outbox_hard_bytes,
            drop_oldest: settings.messages.drop_oldest,
            memory: ShardMemory::new(outboxes.clone()),
        };
        let heartbeat = settings.heartbeat.as_deref().map(String::from_utf8_lossy).unwrap_or_default();
        let files = StaticFiles::new(
            &settings.websocket_url,
            settings.namespace.as_str(),
            &heartbeat,
            settings.expire_seconds,
        );
        let handshake = settings.server.handshake;
        let publish_patience = settings.redis.publish_wait + settings.redis.command_timeout * 2;
        let stopping = CancellationToken::new();
        let front = HttpConfig {
            path_prefix: settings.path_prefix.clone(),
            session_cookie: settings.session.cookie.clone(),
            origins: settings.origins.clone(),
            proxies: settings.server.trusted_proxies.clone(),
            tokens: settings.jwt.is_some(),
            passed_on: settings.callback.as_ref().map(|callback| http::names_passed_on(&callback.forward)),
            files: settings.demo.then_some(files),
            times: Times {
                request: handshake,
                // A body, the visitor, and then either a publication or channels that are joined.
                answer: handshake * 2 + handshake.max(publish_patience),
                idle: settings.server.keepalive,
            },
            stop: stopping.clone(),
            max_header_bytes: settings.server.max_header_bytes,
            max_headers: settings.server.max_headers,
            max_message_bytes: settings.messages.max_message_bytes,
            unfinished: unfinished.clone(),
            counters: counters.clone(),
            foreign: LogThrottle::default(),
        };
        let store = Rc::new(Store::new(&target, &settings, &counters));
        let sessions = match &session_target {
            Some(target) => Rc::new(Lookups::connect(target, &settings.redis, &counters)),
            None => store.lookups(),
        };
        let reading = settings.session.reading.clone();
        let reader = Sessions::new(reading, &settings.namespace, sessions.clone(), store.lookups(), large);
        let identifier = Rc::new(identifier(&settings, reader, transport, &counters));
        let hub = SharedHub::new(Hub::new(limits.clone()));
        let watches =
            if session_target.is_some() { SharedHub::new(Hub::new(limits.clone())) } else { hub.clone() };
        let database = session_target.as_ref().unwrap_or(&target).database();
        let leases = Leases::new(identifier.clone(), watches.clone(), database);
        let visitors = Rc::new(Visitors::new(identifier, leases, rate_limits));
        let parts = Parts {
            store,
            policy: Policy::new(
                settings.namespace.clone(),
                settings.facility_colons,
                settings.access.clone(),
            )
            .anonymous_publish(settings.anonymous_publish),
            join_patience: handshake,
            clock: Cell::new(1),
            buffer: vec![0; READ_BYTES].into_boxed_slice().into(),
            keepalive: Keepalive::new(
                settings.heartbeat.clone(),
                &settings.messages.client_heartbeats,
                settings.ping,
                settings.messages.message_seconds,
            ),
            limits,
            max_message_bytes: settings.messages.max_message_bytes,
            publish_bytes: settings.messages.publish_bytes,
            publish_patience,
            linger: Duration::from_secs(settings.server.linger_seconds.into()),
            counters: counters.clone(),
            unfinished,
            visitors: visitors.clone(),
            live,
            own: Cell::new(0),
        };
        Rc::new(Self {
            number,
            front,
            visitors,
            hub,
            watches,
            parts: Rc::new(parts),
            redis_up: Cell::new(false),
            stopping,
            unwatched: LogThrottle::default(),
            outboxes,
            crowded: LogThrottle::default(),
            unsaid_refusals: Cell::default(),
            no_redis: LogThrottle::default(),
            most_connections,
            sessions,
            settings,
        })
    }

    /// Returns the shard's connection to the key side of Redis.
    pub fn store(&self) -> Rc<Store> {
        self.parts.store.clone()
    }

    /// Returns the shard's connection to where sessions lie.
    pub fn sessions(&self) -> Rc<Lookups> {
        self.sessions.clone()
    }

    /// Serves until `stop`, then drains. Ends early only if something in here is broken. There is a second line where
    /// sessions lie in a Redis of their own.
    pub async fn run(
        self: Rc<Self>,
        messages: BrokerLink,
        sessions: Option<BrokerLink>,
        stop: CancellationToken,
    ) {
        let mut tasks = JoinSet::new();
        tasks.spawn_local(self.clone().deliver(messages.inbox));
        tasks.spawn_local(self.clone().call(self.hub.clone(), messages.calls));
        tasks.spawn_local(self.clone().tick());
        tasks.spawn_local(self.visitors.leases().clone().run());
        if let Some(sessions) = sessions {
            tasks.spawn_local(self.clone().watch(sessions.inbox));
            tasks.spawn_local(self.clone().call(self.watches.clone(), sessions.calls));
        }
        tokio::select! {
            () = stop.cancelled() => self.drain().await,
            _ = tasks.join_next() => {}
        }
    }

    /// Takes a client and serves it.
    pub fn take(self: &Rc<Self>, accepted: Accepted, permit: Permit) {
        let place = ConnectionPermit::take(&self.parts, permit);
        tokio::task::spawn_local(self.clone().greet(accepted, place));
    }

    /// The handshake. It ends by spawning the connection, so that nothing of it stays.
    async fn greet(self: Rc<Self>, accepted: Accepted, place: ConnectionPermit) {
        let stream = match Stream::new(accepted.socket) {
            Ok(stream) => stream,
            Err(error) => {
                if let Some(suppressed) = self.unwatched.allow() {
                    warn!(%error, suppressed, "a client's socket cannot be watched; raise fs.epoll.max_user_watches, or give the machine more memory");
                }
                return;
            }
        };
        let served = http::serve(stream, accepted.address, &self.front, &*self).await;
        let http::Opened { stream, early, prepared, head } = match served {
            Served::Opened(opened) => opened,
            Served::Answered(stream) => {
                // In a task of its own, which takes less than the handshake's.
                tokio::task::spawn_local(self.end_http(stream, place));
                return;
            }
            Served::Late => return,
        };
        let Prepared {
            subscription,
            handshake,
            visitor,
            since,
            watch,
            in_flight,
            rate_limit,
            grant,
            persisted,
        } = prepared;
        // What it would be given is not whole: better a client that comes again than one that misses something.
        let unsound = !matches!(subscription.is_stale(), Ok(false));
        let mut connection =
            Connection::open(place, stream, subscription, handshake, grant, &persisted, head);
        connection.limit_by(rate_limit);
        connection.live_by(self.visitors.add(visitor, since, connection.listener(), watch));
        drop(in_flight);
        if unsound {
            connection.end(Ending::Slow);
        }
        tokio::task::spawn_local(connection.run(&early));
    }

    /// Ends an HTTP connection so that the client gets the last answer, even if it is still sending.
    async fn end_http(self: Rc<Self>, stream: Stream, place: ConnectionPermit) {
        stream.shutdown();
        let within = Discard { total: self.settings.server.handshake, silence: self.parts.linger };
        stream.discard(&self.parts.buffer, within, |_| false).await;
        drop(place);
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
            let Parts { keepalive, limits, .. } = &*self.parts;
            self.hub.with(|hub| {
                socket::tick(hub.listeners(part, TICKS), now, keepalive, limits);
                hub.forget_unused();
            });
            self.warn_of_full_outboxes();
        }
    }

    /// Says that clients were closed or refused because too much waited for all of them.
    fn warn_of_full_outboxes(&self) {
        if self.number > 0 {
            return;
        }
        let count = self.outboxes.take_refused();
        self.unsaid_refusals.set(self.unsaid_refusals.get() + count);
        if self.unsaid_refusals.get() > 0 && self.crowded.allow().is_some() {
            let (count, bytes) = (self.unsaid_refusals.take(), self.outboxes.used());
            warn!(
                count,
                bytes,
                "outboxes full; clients that read slowly are closed with 1013, handshakes with kept messages get 503. Raise messages.outbox_total_bytes if the machine has memory for it"
            );
        }
    }

    /// Sends all clients away, spread over the drain time, and waits for what they published.
    async fn drain(&self) {
        self.stopping.cancel();
        let end = Instant::now() + self.settings.server.drain + self.parts.linger;
        let listeners: Vec<_> = self.hub.with(|hub| hub.listeners(0, 1).cloned().collect());
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
            listener.end(Ending::Restart);
        }
        while self.parts.own.get() > 0 && Instant::now() < end {
            // Handshakes that were in flight have become connections meanwhile.
            self.hub.with(|hub| hub.listeners(0, 1).for_each(|listener| listener.end(Ending::Restart)));
            sleep(Duration::from_millis(20)).await;
        }
        let _ = timeout(self.settings.redis.command_timeout, self.parts.store.settled()).await;
    }
}

/// Returns the identifier, which calls the auth callback if the site has one.
fn identifier(
    settings: &Settings,
    reader: Sessions,
    transport: Option<CallbackTransport>,
    counters: &Arc<Counters>,
) -> Identifier {
    let recheck = Duration::from_secs(settings.session.recheck_seconds.into());
    let pattern = &settings.session.reading.pattern;
    let callback = settings.callback.as_ref().zip(transport);
    let callback = callback
        .map(|(asked, transport)| Callback::new(asked, &transport, pattern.clone(), counters.clone()));
    Identifier::new(reader, settings.jwt.clone(), callback, recheck)
}
