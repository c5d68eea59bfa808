//! A shard's thread: accepts connections, ticks, and drains at the end.

use std::rc::Rc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{Instrument, debug_span, field, warn};

use super::BrokerLink;
use super::ask::Ask;
use super::deliver::{deliver, deliver_groups, deliver_session_events, send_requests};
use super::reload::{ReloadCall, apply_reloads};
use super::snapshot::answer_asks;
use super::state::{ConnectionPermit, ShardState};
use crate::broker::{BrokerEvent, GroupsEvent, SubscriptionEvent};
use crate::dialects::{self, socket_io};
use crate::engine::{EngineCall, TICKS_PER_SECOND};
use crate::http::{self, HttpEnd};
use crate::hub::{Ending, Hub};
use crate::socket;
use crate::stream::{Accepted, DiscardLimits, Permit, Stream};

/// Ticks per second; each handles that fraction of the connections.
const TICKS: usize = TICKS_PER_SECOND as usize;

/// A tick that is this late shows that the process was suspended.
const STANDSTILL: Duration = Duration::from_secs(1);

/// Fewest connections closed per second when the server stops: so few do not overload the server they reconnect to.
const MIN_CLOSES_PER_SECOND: u32 = 10;

/// What a shard receives from the other threads.
#[derive(Debug)]
pub struct ShardLinks {
    /// The link to the broker.
    pub messages: BrokerLink<BrokerEvent>,
    /// The link to the broker of the sessions' Redis, if they have one of their own.
    pub sessions: Option<BrokerLink<SubscriptionEvent>>,
    /// The link to the groups of Django Channels, if a layer is configured.
    pub groups: Option<BrokerLink<GroupsEvent>>,
    /// Requests of Socket.IO clients that other shards received.
    pub engine_calls: mpsc::Receiver<EngineCall>,
    /// Settings that were reloaded.
    pub reloads: mpsc::Receiver<ReloadCall>,
    /// Questions of the admin listener, if there is one.
    pub asks: Option<mpsc::Receiver<Ask>>,
}

/// Runs a shard until `stop`, then drains it. Ends early only if one of its tasks has failed.
pub async fn run(state: Rc<ShardState>, links: ShardLinks, stop: CancellationToken) {
    let ShardLinks { messages, sessions, groups, engine_calls, reloads, asks } = links;
    let mut tasks = JoinSet::new();
    tasks.spawn_local(deliver(state.clone(), messages.inbox));
    tasks.spawn_local(send_requests(state.number, state.hub.clone(), messages.calls));
    tasks.spawn_local(tick(state.clone()));
    tasks.spawn_local(socket_io::serve_calls(state.clone(), engine_calls));
    tasks.spawn_local(state.visitors.leases.clone().run());
    tasks.spawn_local(apply_reloads(state.clone(), reloads));
    if state.named_sessions.is_some() {
        tasks.spawn_local(socket_io::read_session_keys(state.clone()));
    }
    if let Some(sessions) = sessions {
        tasks.spawn_local(deliver_session_events(state.clone(), sessions.inbox));
        tasks.spawn_local(send_requests(state.number, state.session_hub.clone(), sessions.calls));
    }
    // It ends by itself, so it is none of the tasks that must not end.
    let _verifying = (state.number == 0 && !state.process.settings.history.is_empty()).then(|| {
        let state = state.clone();
        let verify = async move { state.store.verify_histories(&state.process.settings).await };
        AbortOnDropHandle::new(tokio::task::spawn_local(verify))
    });
    if let Some((link, groups)) = groups.zip(state.groups.as_ref()) {
        tasks.spawn_local(deliver_groups(groups.hub.clone(), link.inbox));
        tasks.spawn_local(send_requests(state.number, groups.hub.clone(), link.calls));
        tasks.spawn_local(groups.joined.clone().run());
        if let Some(publisher) = &groups.publisher {
            tasks.spawn_local(publisher.clone().run());
        }
    }
    if let Some(asks) = asks {
        tasks.spawn_local(answer_asks(state.clone(), asks));
    }
    tokio::select! {
        () = stop.cancelled() => drain(&state).await,
        _ = tasks.join_next() => {}
    }
}

/// Serves an accepted socket in a task of its own.
pub fn serve(state: &Rc<ShardState>, accepted: Accepted, permit: Permit) {
    let permit = ConnectionPermit::new(state, permit);
    // Created only if debug lines are logged.
    let span = debug_span!(
        "connection",
        id = %permit.public_id(),
        peer = accepted
            .address
            .map_or_else(|| field::display("unix".to_owned()), |address| field::display(address.to_string())),
        facility = field::Empty,
        user = field::Empty
    );
    tokio::task::spawn_local(serve_http(permit, accepted).instrument(span));
}

/// Serves the requests of a connection. Ends by spawning what follows, whose task takes less memory.
async fn serve_http(permit: ConnectionPermit, accepted: Accepted) {
    let state = permit.state().clone();
    let stream = match Stream::new(accepted.socket) {
        Ok(stream) => stream,
        Err(error) => {
            if let Some(suppressed) = state.unwatched.allow() {
                warn!(%error, suppressed, "cannot watch a client's socket; it is closed. Raise fs.epoll.max_user_watches, or add memory");
            }
            return;
        }
    };
    let answer = |route| dialects::answer(&state, route);
    match http::serve(stream, accepted.address, &state.http, answer).await {
        HttpEnd::Upgraded(upgraded, opening) => opening.serve(upgraded, permit),
        HttpEnd::Answered(stream) => drop(tokio::task::spawn_local(end_http(permit, stream))),
        HttpEnd::Late => {}
    }
}

/// Ends an HTTP connection so that the client gets the last answer, even if it is still sending.
async fn end_http(permit: ConnectionPermit, stream: Stream) {
    stream.shutdown();
    let state = permit.state();
    let within = DiscardLimits { total: state.process.settings.server.handshake, idle: state.sockets.linger };
    stream.discard(&state.sockets.buffer, within, |_| false).await;
}

/// Sends heartbeats and pings, and does other periodic work. Waits for ticks only.
async fn tick(state: Rc<ShardState>) {
    let mut ticks = interval(Duration::from_millis(1000 / TICKS as u64));
    // After the process was suspended, missed ticks are not made up for.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut was_suspended = false;
    for part in (0..TICKS).cycle() {
        // Skipped once after a suspension, so that the sockets are read first: pongs that wait there count.
        let late = ticks.tick().await.elapsed() > STANDSTILL;
        was_suspended = late && !was_suspended;
        if was_suspended {
            continue;
        }
        let sockets = &state.sockets;
        let now = sockets.clock.get() + u32::from(part == 0);
        sockets.clock.set(now);
        state.hub.with(|hub| {
            let due = hub.listeners_from(0).filter(|(number, _)| number % TICKS == part);
            let due = due.map(|(_, listener)| listener);
            socket::tick(due, now, &sockets.keepalive, sockets.message_seconds(), &sockets.limits);
            hub.release_unused();
        });
        if let Some(groups) = &state.groups {
            groups.hub.with(Hub::release_unused);
        }
        socket_io::tick(&state, part, TICKS);
        warn_of_full_outboxes(&state);
    }
}

/// Logs, on the first shard, that clients were closed or refused because all outboxes together were full.
fn warn_of_full_outboxes(state: &ShardState) {
    if state.number > 0 {
        return;
    }
    let outboxes = &state.process.outboxes;
    let count = state.unlogged_refusals.get() + outboxes.take_refused();
    state.unlogged_refusals.set(count);
    if count > 0 && state.full_outboxes.allow().is_some() {
        state.unlogged_refusals.set(0);
        warn!(
            count,
            bytes = outboxes.used(),
            "outboxes full; clients that read slowly are closed with 1013, handshakes with kept messages get 503. Raise messages.outbox_total_bytes if the machine has memory for it"
        );
    }
}

/// Closes all connections, spread over the drain time, and waits for their publications.
async fn drain(state: &ShardState) {
    state.stopping.cancel();
    let drain = state.process.settings.server.drain;
    let end = Instant::now() + drain + state.sockets.linger;
    let mut listeners: Vec<_> =
        state.hub.with(|hub| hub.listeners_from(0).map(|(_, listener)| listener.clone()).collect());
    state.engine.with_part(0, 1, |session| listeners.push(session.listener.clone()));
    let count = u32::try_from(listeners.len()).unwrap_or(u32::MAX);
    // A tenth of the time is left for the last ones to close.
    let spread = (drain * 9 / 10).min(Duration::from_secs(1) * count / MIN_CLOSES_PER_SECOND);
    let begun = Instant::now();
    for (index, listener) in (0_u32..).zip(listeners) {
        let due = spread * index / count.max(1);
        if let Some(early) = due.checked_sub(begun.elapsed()) {
            sleep(early).await;
        }
        listener.end(Ending::Restart);
    }
    // A poll may wait on a connection of another shard.
    while (state.connections.get() > 0 || state.engine.has_waiting_polls()) && Instant::now() < end {
        // Handshakes that were in flight may have become connections meanwhile.
        state.hub.with(|hub| hub.listeners_from(0).for_each(|(_, listener)| listener.end(Ending::Restart)));
        state.engine.with_part(0, 1, |session| session.listener.end(Ending::Restart));
        sleep(Duration::from_millis(20)).await;
    }
    // Sessions without a waiting poll: nobody asks for their end any more.
    state.engine.clear();
    let written = async {
        state.store.settled().await;
        state.events.settled().await;
    };
    let _ = timeout(state.process.settings.redis.command_timeout, written).await;
    state.events.warn_of_unwritten();
}
