//! The state of a shard, shared by its parts and by the dialects.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::ask::Descriptions;
use super::connection_id::{ConnectionId, ConnectionIds};
use crate::access::Policy;
use crate::engine::{EngineCall, EngineTable, Gathering, NamedSessions, SidCipher};
use crate::events::{Events, StartGate};
use crate::groups::{PendingMessages, ShardGroups};
use crate::http::{self, EngineMounts, HttpConfig, PageValues, RequestRules, StaticFiles, Times};
use crate::hub::{Hub, Limits, LocalIndex, LocalTopics, OutboxMemory, ShardMemory, SharedHub};
use crate::metrics::Counters;
use crate::presence::{Presence, PresenceRooms};
use crate::redis::{Lookups, Store, Target};
use crate::reloadable::Reloadable;
use crate::settings::{RedisUrl, Settings};
use crate::socket::{Keepalive, SocketContext};
use crate::stream::Permit;
use crate::telemetry::LogThrottle;
use crate::unfinished::UnfinishedMemory;
use crate::visitors::watch::Leases;
use crate::visitors::{Callback, CallbackTransport, Identifier, LargeValues, RateLimits, Sessions, Visitors};
use crate::wire::{Channel, MountSet, NodeId};

/// Bytes of one read of a client's socket, in the buffer that all connections of a shard share.
const READ_BYTES: usize = 64 * 1024;

/// State shared by all shards.
#[derive(Clone)]
pub struct ProcessState {
    /// The settings.
    pub settings: Arc<Settings>,
    /// The Redis of the messages.
    pub target: Target,
    /// The Redis of the sessions, if they have one of their own.
    pub session_target: Option<Target>,
    /// Counters.
    pub counters: Arc<Counters>,
    /// The transport to the callback, if there is one.
    pub transport: Option<CallbackTransport>,
    /// Permits for reading large sessions.
    pub large: LargeValues,
    /// Number of open connections.
    pub connections: Arc<AtomicUsize>,
    /// Number of connections above which handshakes are refused. A reload may change it.
    pub max_connections: Arc<AtomicUsize>,
    /// Memory of all outboxes.
    pub outboxes: Arc<OutboxMemory>,
    /// Rate limits of publications.
    pub rate_limits: Arc<RateLimits>,
    /// Memory of unfinished messages.
    pub unfinished: Arc<UnfinishedMemory>,
    /// Encrypts the places of sessions in the ids of Socket.IO clients.
    pub sids: Arc<SidCipher>,
    /// Number of polling sessions whose clients have not joined a namespace and come back yet.
    pub newcomers: Arc<AtomicUsize>,
    /// Requests for the sessions of each shard.
    pub engine_calls: Arc<[mpsc::Sender<EngineCall>]>,
    /// The shards that have clients in rooms and namespaces of Socket.IO.
    pub room_index: Arc<LocalIndex>,
    /// Who is online.
    pub presence: Presence,
    /// Messages of Channels groups that are about to be kept.
    pub kept: Arc<PendingMessages>,
    /// The ids of connections.
    pub ids: Arc<ConnectionIds>,
    /// The id of the process.
    pub node: NodeId,
    /// Lets the first shard write the first event.
    pub start_gate: StartGate,
}

impl ProcessState {
    /// Returns whether there are more connections than are served.
    pub fn is_full(&self) -> bool {
        self.connections.load(Ordering::Relaxed) > self.most_connections()
    }

    /// Returns the number of connections above which handshakes are refused.
    pub fn most_connections(&self) -> usize {
        self.max_connections.load(Ordering::Relaxed)
    }
}

/// State shared by the parts of a shard.
pub struct ShardState {
    /// The shard's number; the first one is 0.
    pub number: usize,
    /// State shared by all shards.
    pub process: ProcessState,
    /// The HTTP side.
    pub http: HttpConfig,
    /// State shared by the sockets.
    pub sockets: SocketContext,
    /// The settings that a reload changes, and the others as at the start.
    pub settings: Reloadable<Settings>,
    /// Decides what visitors may subscribe and publish to.
    pub policy: Reloadable<Policy>,
    /// The visitors' identities, leases and rate limits.
    pub visitors: Visitors,
    /// The facilities whose clients are told who comes and goes.
    pub presence_rooms: PresenceRooms,
    /// The sessions of Socket.IO clients.
    pub engine: EngineTable,
    /// The namespaces and rooms of Socket.IO clients.
    pub rooms: Rc<LocalTopics>,
    /// The session ids of yunity-sockets, if that bridge is on.
    pub named_sessions: Option<Rc<NamedSessions>>,
    /// The reports of the messenger's clients.
    pub gathering: Gathering,
    /// The subscriptions to messages.
    pub hub: Rc<SharedHub>,
    /// The subscriptions to events of sessions: the same hub, unless sessions have a Redis of their own.
    pub session_hub: Rc<SharedHub>,
    /// The groups of Django Channels, if a layer is configured.
    pub groups: Option<ShardGroups>,
    /// Publishes messages and reads their persisted values.
    pub store: Rc<Store>,
    /// Tells Django about clients.
    pub events: Events,
    /// The connection to the Redis of the sessions.
    pub session_lookups: Rc<Lookups>,
    /// Whether the broker is connected to Redis.
    pub redis_up: Cell<bool>,
    /// A channel that Redis refuses and whose messages are for clients of Socket.IO, if there is one.
    pub emits_refused: RefCell<Option<Channel>>,
    /// Cancelled when the server stops.
    pub stopping: CancellationToken,
    /// Number of connections of this shard.
    pub connections: Cell<usize>,
    /// Time after which a publication has reached Redis or failed.
    pub publish_timeout: Duration,
    /// Limits the log lines about Redis failing during handshakes.
    pub no_redis: LogThrottle,
    /// Limits the log lines about events of Socket.IO clients.
    pub client_events: LogThrottle,
    /// Limits the log lines about sockets that epoll refuses.
    pub unwatched: LogThrottle,
    /// Limits the log lines about full outboxes.
    pub full_outboxes: LogThrottle,
    /// Full outboxes that have not been logged yet.
    pub unlogged_refusals: Cell<u64>,
    /// What connections tell the admin listener about themselves.
    pub descriptions: Descriptions,
}

impl ShardState {
    /// Sets a shard up and connects it to Redis. Must be called on the shard's own runtime.
    pub fn new(number: usize, process: ProcessState) -> Rc<Self> {
        let ProcessState { settings, target, session_target, counters, .. } = &process;
        let limits = Limits {
            outbox_bytes: settings.messages.outbox_bytes,
            outbox_seconds: settings.messages.outbox_seconds,
            outbox_hard_bytes: settings.messages.outbox_hard_bytes,
            drop_oldest: settings.messages.drop_oldest,
            memory: ShardMemory::new(process.outboxes.clone()),
        };
        let publish_timeout = settings.redis.publish_wait + settings.redis.command_timeout * 2;
        let stopping = CancellationToken::new();
        let store = Rc::new(Store::new(target, settings, counters));
        let events = Events::new(number, settings, &store, process.node, &process.start_gate, counters);
        let session_lookups = match session_target {
            Some(target) => Rc::new(Lookups::connect(target, &settings.redis, counters)),
            None => store.lookups(),
        };
        let hub = SharedHub::new(Hub::new(limits.clone()).with_names(settings.live_names()));
        let rooms = LocalTopics::new(limits.clone(), process.room_index.part(number));
        let session_hub = match session_target {
            Some(_) => SharedHub::new(Hub::new(limits.clone())),
            None => hub.clone(),
        };
        let identifier = identifier(&process, settings, session_lookups.clone(), store.lookups());
        let identifier = Rc::new(Reloadable::new(identifier));
        let database = session_target.as_ref().unwrap_or(target).database();
        let leases = Leases::new(identifier.clone(), session_hub.clone(), database);
        let has_yunity = settings.socket_io.mounts.iter().any(|mount| mount.yunity);
        Rc::new(Self {
            number,
            groups: ShardGroups::new(settings, &limits, &store, counters, &process.kept),
            http: http_config(&process, publish_timeout, stopping.clone()),
            sockets: socket_context(&process, limits),
            policy: Reloadable::new(policy(settings)),
            settings: Reloadable::new(Settings::clone(settings)),
            visitors: Visitors { identifier, leases, rate_limits: process.rate_limits.clone() },
            presence_rooms: PresenceRooms::default(),
            engine: EngineTable::new(number, process.sids.clone()),
            rooms,
            named_sessions: has_yunity.then(Rc::default),
            gathering: Gathering::default(),
            hub,
            session_hub,
            store,
            events,
            session_lookups,
            redis_up: Cell::new(false),
            emits_refused: RefCell::default(),
            stopping,
            connections: Cell::new(0),
            publish_timeout,
            no_redis: LogThrottle::default(),
            client_events: LogThrottle::default(),
            unwatched: LogThrottle::default(),
            full_outboxes: LogThrottle::default(),
            unlogged_refusals: Cell::default(),
            descriptions: Descriptions::default(),
            process,
        })
    }

    /// Applies settings that were reloaded: new handshakes follow them. Open connections have to be authorized again.
    pub fn apply(&self, settings: &Settings) {
        let identifier =
            identifier(&self.process, settings, self.session_lookups.clone(), self.store.lookups());
        self.visitors.identifier.set(identifier);
        self.http.rules.set(request_rules(settings));
        self.policy.set(policy(settings));
        self.settings.set(settings.clone());
    }
}

fn policy(settings: &Settings) -> Policy {
    Policy::new(settings.namespace.clone(), settings.facility_colons, settings.access.clone())
        .anonymous_publish(settings.anonymous_publish)
        .with_groups(settings.channels.rules.clone(), settings.channels.names)
}

fn request_rules(settings: &Settings) -> RequestRules {
    RequestRules {
        session_cookie: settings.session.cookie.clone(),
        origins: settings.origins.clone(),
        proxies: settings.server.trusted_proxies.clone(),
        tokens: settings.jwt.is_some(),
        passed_on: settings.callback.as_ref().map(|callback| http::names_passed_on(&callback.forward)),
    }
}

/// A connection's share of the connection limit and its id, from accept to its end. It keeps the shard's state.
pub struct ConnectionPermit {
    state: Rc<ShardState>,
    id: ConnectionId,
}

impl ConnectionPermit {
    /// Counts a connection for its shard; the process has counted it already. Both counts end when the permit is dropped.
    pub fn new(state: &Rc<ShardState>, permit: Permit) -> Self {
        permit.disarm();
        state.connections.set(state.connections.get() + 1);
        Self { state: state.clone(), id: state.process.ids.issue() }
    }

    /// Returns the shard's state.
    pub fn state(&self) -> &Rc<ShardState> {
        &self.state
    }

    /// Returns the connection's public id, which is unique over the processes of a site.
    pub fn public_id(&self) -> String {
        self.state.process.node.connection_id(self.id.number())
    }

    /// Returns when the connection was accepted.
    pub fn since(&self) -> SystemTime {
        self.state.process.ids.issued_at(self.id)
    }

    /// Returns the time since the connection was accepted.
    pub fn age(&self) -> Duration {
        self.state.process.ids.age(self.id)
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.state.process.connections.fetch_sub(1, Ordering::Relaxed);
        self.state.connections.set(self.state.connections.get() - 1);
    }
}

fn http_config(process: &ProcessState, publish_timeout: Duration, stop: CancellationToken) -> HttpConfig {
    let settings = &process.settings;
    let heartbeat = settings.heartbeat.as_deref().map(String::from_utf8_lossy).unwrap_or_default();
    let files = || {
        let socket_io = &settings.socket_io;
        let main = socket_io.mounts.iter().find(|mount| mount.is_main);
        let path = main.map(|mount| format!("{}/", mount.path)).unwrap_or_default();
        let redis_cli =
            settings.redis.url.as_ref().map_or_else(|| "redis-cli".to_owned(), RedisUrl::command_line);
        StaticFiles::new(&PageValues {
            redis_cli: &redis_cli,
            websocket_url: &settings.websocket_url,
            prefix: settings.namespace.as_str(),
            heartbeat: &heartbeat,
            expire_seconds: settings.expire_seconds,
            socket_io_path: &path,
            socket_io_channel: socket_io.redis_manager.channels.first().map_or("", String::as_str),
        })
    };
    let handshake = settings.server.handshake;
    HttpConfig {
        path_prefix: settings.path_prefix.clone(),
        mounts: (!settings.socket_io.mounts.is_empty()).then(|| EngineMounts {
            paths: settings.socket_io.mounts.iter().map(|mount| mount.path.clone()).collect(),
            versions: settings.socket_io.versions.clone(),
            polling: settings.socket_io.polling,
            websocket: settings.socket_io.websocket,
            max_payload_bytes: settings.socket_io.max_payload_bytes,
            recorded: match settings.socket_io.yunity.admin {
                Some(_) => settings.socket_io.mounts_with(|mount| mount.yunity),
                None => MountSet::default(),
            },
        }),
        rules: Reloadable::new(request_rules(settings)),
        keeps_details: settings.admin.as_ref().is_some_and(|admin| admin.details),
        files: settings.demo.then(files),
        times: Times {
            request: handshake,
            // Reading a body, identifying the visitor, and then either publishing or joining channels.
            answer: handshake * 2 + handshake.max(publish_timeout),
            poll: settings.socket_io.ping_interval + settings.socket_io.ping_timeout + handshake,
            idle: settings.server.keepalive,
        },
        stop,
        max_header_bytes: settings.server.max_header_bytes,
        max_headers: settings.server.max_headers,
        max_message_bytes: settings.messages.max_message_bytes,
        unfinished: process.unfinished.clone(),
        counters: process.counters.clone(),
        foreign_origins: LogThrottle::default(),
    }
}

fn socket_context(process: &ProcessState, limits: Limits) -> SocketContext {
    let settings = &process.settings;
    SocketContext {
        // A time of 0 means "never" in `Liveness`.
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
        linger: Duration::from_secs(settings.server.linger_seconds.into()),
        unfinished: process.unfinished.clone(),
    }
}

fn identifier(
    process: &ProcessState,
    settings: &Settings,
    sessions: Rc<Lookups>,
    messages: Rc<Lookups>,
) -> Identifier {
    let ProcessState { transport, counters, large, .. } = process;
    let reading = settings.session.reading.clone();
    let pattern = reading.pattern.clone();
    let sessions = Sessions::new(reading, &settings.namespace, sessions, messages, large.clone());
    let callback = settings.callback.as_ref().zip(transport.as_ref());
    let callback =
        callback.map(|(callback, transport)| Callback::new(callback, transport, pattern, counters.clone()));
    let recheck = Duration::from_secs(settings.session.recheck_seconds.into());
    Identifier::new(sessions, settings.jwt.clone(), callback, recheck)
}

/// Returns the state of a shard whose Redis does not exist.
#[cfg(test)]
pub(crate) fn without_redis() -> Rc<ShardState> {
    use crate::settings::Servers;

    let mut settings = Settings::built_in().unwrap();
    let url = settings.redis.url.get_or_insert_default();
    url.servers = Servers::Unix("/nonexistent/redis.sock".into());
    ShardState::new(
        0,
        ProcessState {
            target: Target::new(&settings.redis).unwrap(),
            settings: Arc::new(settings),
            session_target: None,
            counters: Arc::default(),
            transport: None,
            large: LargeValues::default(),
            connections: Arc::default(),
            newcomers: Arc::default(),
            max_connections: Arc::new(AtomicUsize::new(1)),
            outboxes: OutboxMemory::new(1 << 20),
            rate_limits: Arc::default(),
            unfinished: UnfinishedMemory::new(1 << 20),
            engine_calls: Arc::default(),
            sids: Arc::new(SidCipher::random().unwrap()),
            room_index: Arc::default(),
            presence: Presence::default(),
            kept: Arc::default(),
            ids: Arc::default(),
            node: NodeId::random(),
            start_gate: StartGate::default(),
        },
    )
}
