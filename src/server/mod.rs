//! The server: accepts connections, distributes them over the shards, and drains at the end.
//!
//! The first shard runs on the main thread with the broker and the accept loop, so that with one core nothing crosses
//! threads.

mod accept;
mod announcement;
mod connection_limit;
mod embedded_store;
mod groups;
pub mod listeners;
mod memory;
mod reload;
mod signals;
mod systemd;

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, bail};
use sd_notify::NotifyState;
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use self::accept::accept;
use self::announcement::announce;
use self::connection_limit::ConnectionLimit;
pub use self::embedded_store::address_without_redis;
use self::embedded_store::start_embedded;
use self::groups::start_groups;
use self::listeners::{Listeners, SocketFile};
pub use self::reload::ReloadSource;
use self::reload::Reloader;
pub use self::signals::Parent;
use self::signals::Signals;
use self::systemd::{feed_watchdog, notify};
use crate::admin::{self, AdminPublisher, ReloadQuestion, RouteSet, Shards};
use crate::broker::{Broker, BrokerEvent, Call, DirectiveRouter, SubscriptionEvent};
use crate::engine::{EngineCall, SidCipher};
use crate::events::{Events, StartGate};
use crate::hub::{LocalIndex, OutboxMemory};
use crate::presence::{Presence, PresenceChange, PresenceWriter};
use crate::redis::Target;
use crate::settings::Settings;
use crate::shard::ask::Ask;
use crate::shard::state::{ProcessState, ShardState};
use crate::shard::{self, BrokerLink, INBOX, ShardLinks};
use crate::stream::{Accepted, Permit};
use crate::unfinished::UnfinishedMemory;
use crate::visitors::{CallbackTransport, LargeValues};
use crate::wire::NodeId;

/// Capacity of the queues of subscription requests to the broker and of accepted sockets to a shard.
const QUEUE_CAPACITY: usize = 1024;

/// An https callback cannot be verified.
const NO_AUTHORITIES: &str = "auth.callback_url: this machine has no certificates of authorities for https";

/// Reports to the main thread that a shard's thread has ended, even by a panic.
struct ThreadEnd(mpsc::Sender<()>);

impl Drop for ThreadEnd {
    fn drop(&mut self) {
        // The queue has capacity for all threads.
        let _ = self.0.try_send(());
    }
}

/// The broker's ends of its links to the shards.
type BrokerChannels<E> = (Vec<mpsc::Sender<E>>, mpsc::Receiver<Call>);

/// Serves until a signal, or until a watched parent closes standard input, then drains.
///
/// # Errors
///
/// When the address cannot be bound, or a thread cannot be started or ends early.
pub fn run(settings: Settings, source: ReloadSource, target: Target, parent: Parent) -> anyhow::Result<()> {
    runtime()?.block_on(serve(Arc::new(settings), source, target, parent))
}

fn runtime() -> anyhow::Result<LocalRuntime> {
    Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .context("cannot start a runtime")
}

async fn serve(
    settings: Arc<Settings>,
    source: ReloadSource,
    target: Target,
    parent: Parent,
) -> anyhow::Result<()> {
    let embedded_address = address_without_redis(&settings).await;
    // Dropped at the end, when nothing is written any more.
    let _embedded = match &embedded_address {
        Some(address) => start_embedded(&settings, address)?,
        None => None,
    };
    let mut signals = Signals::new(parent).context("cannot install signal handlers")?;
    let stop = CancellationToken::new();
    let mut listeners = Listeners::open(&settings.server.listen).await?;
    listeners.tune(settings.server.send_buffer_bytes)?;
    let (reload_sender, reload_questions) = mpsc::channel(reload::QUEUE_CAPACITY);
    let (admin, mut asks) = start_admin(&settings, &target, reload_sender, &stop).await?;
    let _removed_at_the_end = (listeners.take_file(), &admin.file);
    let session_target = settings.session.redis.as_ref().map(Target::new).transpose()?;
    let shards = settings.server.shards;
    let (message_channels, mut message_links) = links(shards);
    let (session_channels, mut session_links) = session_target.as_ref().map(|_| links(shards)).unzip();
    let (group_channels, mut group_links) = settings.channels.layer().map(|_| links(shards)).unzip();
    let mut next_links = || {
        let groups = group_links.as_mut().and_then(Vec::pop);
        Some((message_links.pop()?, session_links.as_mut().and_then(Vec::pop), groups))
    };
    let (ended, mut ends) = mpsc::channel::<()>(shards);
    let (engine_calls, mut engine_inboxes) = engine_channels(shards);
    let (reload_calls, mut reload_inboxes): (Vec<_>, Vec<_>) =
        (0..shards).map(|_| mpsc::channel(reload::QUEUE_CAPACITY)).unzip();
    let limits = ConnectionLimit::raise(&settings, embedded_address.is_some());
    let process = process_state(&settings, target, session_target, limits.served.clone(), engine_calls)?;
    let counters = process.counters.clone();
    let _giving_back = AbortOnDropHandle::new(tokio::task::spawn_local(memory::release_after_peaks(
        process.connections.clone(),
        process.outboxes.clone(),
    )));

    let mut others = Vec::new();
    for number in (1..shards).rev() {
        let (process, stop, ended) = (process.clone(), stop.clone(), ended.clone());
        let (messages, sessions, groups) = next_links().context("a shard has no link to the broker")?;
        let engine_calls = engine_inboxes.pop().context("a shard has no queue of requests")?;
        let reloads = reload_inboxes.pop().context("a shard has no queue of settings")?;
        let links = ShardLinks { messages, sessions, groups, engine_calls, reloads, asks: asks.pop() };
        let (sender, sockets) = mpsc::channel(QUEUE_CAPACITY);
        let work = move || {
            let _ended = ThreadEnd(ended);
            runtime()?.block_on(async {
                serve_shard(ShardState::new(number, process), links, sockets, stop).await;
                anyhow::Ok(())
            })
        };
        let thread = std::thread::Builder::new().name(format!("shard-{number}")).spawn(work)?;
        others.push((sender, thread));
    }

    let first = ShardState::new(0, process.clone());
    first.events.node_started();
    let events = first.events.clone();
    let finish_presence = start_presence(&first);
    let mut brokers = start_brokers(&process, &first, message_channels, session_channels);
    let leave_groups = start_groups(&process, &first, group_channels, &mut brokers)?;
    let (messages, sessions, groups) = next_links().context("a shard has no link to the broker")?;
    let engine_calls = engine_inboxes.pop().context("a shard has no queue of requests")?;
    let reloads = reload_inboxes.pop().context("a shard has no queue of settings")?;
    let links = ShardLinks { messages, sessions, groups, engine_calls, reloads, asks: asks.pop() };
    let mut serving = tokio::task::spawn_local(shard::run(first.clone(), links, stop.clone()));
    announce(&settings, &listeners);
    notify(&[NotifyState::Ready]);
    let _watchdog = admin.shards.clone().and_then(feed_watchdog);

    let senders: Vec<_> = others.iter().map(|(sender, _)| sender.clone()).collect();
    let mut accepting = tokio::task::spawn_local(accept(
        listeners,
        first,
        senders,
        process.connections.clone(),
        limits.open.clone(),
    ));
    let hangup = Arc::new(Notify::new());
    let reloader = Reloader::new(source, settings.clone(), limits, reload_calls);
    let _reloading =
        AbortOnDropHandle::new(tokio::task::spawn_local(reloader.run(hangup.clone(), reload_questions)));
    drop(ended);
    let ended_early = tokio::select! {
        () = signals.stop(|| hangup.notify_one()) => false,
        _ = brokers.join_next() => true,
        _ = &mut serving => true,
        _ = &mut accepting => true,
        // Without other shards there is no sender.
        _ = ends.recv(), if !others.is_empty() => true,
    };
    accepting.abort();
    if ended_early {
        bail!("a part of the server has ended unexpectedly; see the log above");
    }
    notify(&[NotifyState::Stopping]);
    info!(at_most_seconds = settings.server.drain.as_secs(), "stopping; a second signal stops at once");
    stop.cancel();
    if drained(serving, ends, &mut signals).await {
        leave_groups.await;
        finish_presence.await;
        tell_stop(&events, settings.redis.command_timeout).await;
    }
    counters.log();
    others.into_iter().try_for_each(|(_, thread)| outcome(thread))
}

/// Creates the state that all shards share.
fn process_state(
    settings: &Arc<Settings>,
    target: Target,
    session_target: Option<Target>,
    max_connections: Arc<AtomicUsize>,
    engine_calls: Vec<mpsc::Sender<EngineCall>>,
) -> anyhow::Result<ProcessState> {
    let transport =
        settings.callback.as_ref().map(CallbackTransport::new).transpose().context(NO_AUTHORITIES)?;
    Ok(ProcessState {
        settings: settings.clone(),
        target,
        session_target,
        counters: Arc::default(),
        transport,
        large: LargeValues::default(),
        connections: Arc::default(),
        max_connections,
        outboxes: OutboxMemory::new(settings.messages.outbox_total_bytes),
        rate_limits: Arc::default(),
        unfinished: UnfinishedMemory::new(
            settings.messages.unfinished_total_bytes.max(settings.socket_io.max_payload_bytes),
        ),
        newcomers: Arc::default(),
        engine_calls: engine_calls.into(),
        sids: Arc::new(SidCipher::random().context("cannot create a key for the ids of clients")?),
        room_index: LocalIndex::new(settings.server.shards),
        presence: Presence::new(
            &settings.presence,
            settings.events.tells_presence(),
            settings.grants_presence(),
        ),
        kept: Arc::default(),
        ids: Arc::default(),
        node: NodeId::random(),
        start_gate: StartGate::default(),
    })
}

/// Starts the broker of the messages, and that of the sessions if they have a Redis of their own.
fn start_brokers(
    process: &ProcessState,
    first: &ShardState,
    (inboxes, requests): BrokerChannels<BrokerEvent>,
    session_channels: Option<BrokerChannels<SubscriptionEvent>>,
) -> JoinSet<()> {
    let ProcessState { settings, target, session_target, counters, node, .. } = process;
    let mut brokers = JoinSet::new();
    let (sids, store) = (process.sids.clone(), first.store.clone());
    let router = DirectiveRouter::new(process.room_index.clone(), move |sid| sids.shard_of(sid));
    let broker = Broker::for_messages(target, settings, *node, store, inboxes, counters, router);
    brokers.spawn_local(broker.run(requests));
    if let Some((target, (inboxes, requests))) = session_target.as_ref().zip(session_channels) {
        let broker = Broker::for_sessions(target, settings, *node, &first.session_lookups, inboxes, counters);
        brokers.spawn_local(broker.run(requests));
    }
    brokers
}

/// Tells Django that the process stops: no client is left.
async fn tell_stop(events: &Events, limit: Duration) {
    events.node_stopped();
    let _ = tokio::time::timeout(limit, events.settled()).await;
    events.warn_of_unwritten();
}

/// The listeners for the operator, and what else asks the shards.
struct AdminParts {
    /// The file of a socket, which is removed with it.
    file: Option<SocketFile>,
    /// The shards' queues; none if nobody asks.
    shards: Option<Shards>,
}

/// Starts the listeners for the operator that are configured. Also returns the ends of the shards' queues of their questions,
/// which the watchdog of systemd uses, too.
async fn start_admin(
    settings: &Arc<Settings>,
    target: &Target,
    reloads: mpsc::Sender<ReloadQuestion>,
    stop: &CancellationToken,
) -> anyhow::Result<(AdminParts, Vec<mpsc::Receiver<Ask>>)> {
    let (operator, yunity) = (&settings.admin, &settings.socket_io.yunity.admin);
    if operator.is_none() && yunity.is_none() && !systemd::has_watchdog() {
        return Ok((AdminParts { file: None, shards: None }, Vec::new()));
    }
    let (shards, queues) = admin::ask_queues(settings.server.shards, stop.clone());
    let shards = shards.with_reloads(reloads);
    if let Some(yunity) = yunity {
        // It has no file: it listens on TCP only.
        admin::start(yunity.clone(), RouteSet::Yunity, shards.clone(), None).await?;
    }
    let file = match operator {
        Some(operator) => {
            let publisher = AdminPublisher::new(settings, target);
            admin::start(operator.clone(), RouteSet::Operator, shards.clone(), Some(publisher)).await?
        }
        None => None,
    };
    Ok((AdminParts { file, shards: Some(shards) }, queues))
}

/// Starts to write who is online. Returns the end: it writes that this process has no clients any more.
fn start_presence(first: &ShardState) -> impl Future<Output = ()> + use<> {
    let (process, events) = (&first.process, first.events.clone());
    let announce = move |user: &str, change| match change {
        PresenceChange::Online => events.online(user),
        PresenceChange::Offline => events.offline(user),
    };
    let namespace = &process.settings.namespace;
    let writer = PresenceWriter::new(&process.presence, &first.store, namespace, process.node, announce);
    let writing = writer.clone().map(|writer| AbortOnDropHandle::new(tokio::task::spawn_local(writer.run())));
    async move {
        drop(writing);
        if let Some(writer) = writer {
            writer.finish().await;
        }
    }
}

/// Waits until all shards have drained, or for a second signal. Returns whether they have.
async fn drained(
    first: tokio::task::JoinHandle<()>,
    mut others: mpsc::Receiver<()>,
    signals: &mut Signals,
) -> bool {
    let all = async {
        let _ = first.await;
        // Ends when every thread has dropped its sender.
        while others.recv().await.is_some() {}
    };
    tokio::select! {
        () = all => true,
        () = signals.stop_at_once() => {
            warn!("stopped at once");
            false
        }
    }
}

/// Returns the error of a thread that has ended, if it has one.
fn outcome(thread: JoinHandle<anyhow::Result<()>>) -> anyhow::Result<()> {
    if thread.is_finished()
        && let Ok(Err(error)) = thread.join()
    {
        return Err(error);
    }
    Ok(())
}

/// Creates the queues of requests for the sessions of each shard.
fn engine_channels(shards: usize) -> (Vec<mpsc::Sender<EngineCall>>, Vec<mpsc::Receiver<EngineCall>>) {
    (0..shards).map(|_| mpsc::channel(QUEUE_CAPACITY)).unzip()
}

/// Creates the links between a broker and its shards, in the order of the shards.
fn links<E>(shards: usize) -> (BrokerChannels<E>, Vec<BrokerLink<E>>) {
    let (calls, requests) = mpsc::channel(QUEUE_CAPACITY);
    let link = |_| {
        let (sender, inbox) = mpsc::channel(INBOX);
        (sender, BrokerLink { inbox, calls: calls.clone() })
    };
    let (inboxes, links) = (0..shards).map(link).unzip();
    ((inboxes, requests), links)
}

async fn serve_shard(
    state: Rc<ShardState>,
    links: ShardLinks,
    mut sockets: mpsc::Receiver<(Accepted, Permit)>,
    stop: CancellationToken,
) {
    let serving = state.clone();
    tokio::task::spawn_local(async move {
        while let Some((accepted, permit)) = sockets.recv().await {
            shard::serve(&serving, accepted, permit);
        }
    });
    shard::run(state, links, stop).await;
}
