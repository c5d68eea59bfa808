//! Answers the admin listener.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;

use super::ask::{
    Ask, CloseRequest, ClosedConnections, ConnectionFilter, ReceiverQuery, ShardStatus, Snapshot,
};
use super::names::{channels, users};
use super::sample::sample;
use super::state::ShardState;
use crate::dialects::socket_io;
use crate::engine::{EngineSession, TransportState};
use crate::hub::Listener;
use crate::settings::MountSettings;

/// Most connections of an answer. They describe themselves before the shard's other tasks run: a few hundred microseconds.
const MAX_CONNECTIONS: usize = 100;

/// Time for the descriptions. Each task needs one turn only, so it passes only if one has failed.
const TIMEOUT: Duration = Duration::from_millis(500);

/// Answers one question at a time. Waits for questions, and for connections to
/// describe themselves. Never returns.
pub(super) async fn answer_asks(state: Rc<ShardState>, mut asks: mpsc::Receiver<Ask>) {
    while let Some(ask) = asks.recv().await {
        // An answer that is not awaited any more is dropped.
        match ask {
            Ask::Status(answer) => drop(answer.send(status(&state))),
            Ask::Metrics(answer) if answer.is_closed() => {}
            Ask::Metrics(answer) => drop(answer.send(sample(&state).await)),
            Ask::Receivers(query, answer) => drop(answer.send(count(&state, query))),
            Ask::Channels(_, answer) | Ask::Groups(_, answer) if answer.is_closed() => {}
            Ask::Users(_, answer) if answer.is_closed() => {}
            Ask::Channels(query, answer) => drop(answer.send(channels(&state, &query, false).await)),
            Ask::Groups(query, answer) => drop(answer.send(channels(&state, &query, true).await)),
            Ask::Users(query, answer) => drop(answer.send(users(&state, &query))),
            Ask::YunityClients { from, limit, answer } => {
                drop(answer.send(socket_io::yunity_clients(&state, from, limit.min(MAX_CONNECTIONS))));
            }
            Ask::Close { answer, .. } if answer.is_closed() => {}
            Ask::Close { request, from, answer } => drop(answer.send(close(&state, request, from).await)),
            Ask::Snapshot { answer, .. } if answer.is_closed() => {}
            Ask::Snapshot { from, limit, filter, answer } => {
                drop(answer.send(snapshot(&state, from, limit, &filter).await));
            }
        }
    }
    // The end of the admin listener is not the end of the shard.
    std::future::pending::<()>().await;
}

/// Counts the clients of a query; `None` if a path is not served.
fn count(state: &ShardState, query: ReceiverQuery) -> Option<usize> {
    match query {
        ReceiverQuery::Channel(channel) => Some(state.hub.with(|hub| hub.member_count(&channel.into()))),
        ReceiverQuery::Clients(paths, target) => {
            let settings = &state.process.settings.socket_io;
            let is_served = |path: &str| settings.mounts.iter().any(|mount| mount.path == path);
            if !paths.iter().all(|path| is_served(path)) {
                return None;
            }
            let is_meant = |mount: &MountSettings| paths.iter().any(|path| **path == mount.path);
            let mounts = settings.mounts_with(is_meant);
            Some(mounts.iter().map(|mount| socket_io::count(state, mount, &target)).sum())
        }
    }
}

/// Makes the same checks as a handshake, without waiting.
fn status(state: &ShardState) -> ShardStatus {
    if state.stopping.is_cancelled() {
        ShardStatus::Draining
    } else if !state.redis_up.get() || !state.store.is_connected() {
        ShardStatus::NoRedis
    } else if !state.session_lookups.is_connected() {
        ShardStatus::NoSessionRedis
    } else if let Some(channel) = &*state.emits_refused.borrow() {
        ShardStatus::RefusedChannel(channel.clone())
    } else {
        ShardStatus::Ready
    }
}

/// The first position of a session of Socket.IO, which is followed by its slot. Those below are of members of the hub.
const SESSIONS: usize = usize::MAX / 2 + 1;

/// Describes up to `limit` connections that match a filter, from a position on: first those of the hub, then the sessions of
/// Socket.IO.
async fn snapshot(state: &ShardState, from: usize, limit: usize, filter: &Arc<ConnectionFilter>) -> Snapshot {
    let limit = limit.min(MAX_CONNECTIONS);
    if let Some(slot) = from.checked_sub(SESSIONS) {
        return sessions(state, slot, limit, filter);
    }
    let members = members(state, from, limit, filter).await;
    let next = members.next.unwrap_or(SESSIONS);
    Snapshot { next: Some(next), ..members }
}

fn sessions(state: &ShardState, from: usize, limit: usize, filter: &ConnectionFilter) -> Snapshot {
    let mut connections = Vec::new();
    for (number, session) in state.engine.sessions_from(from, MAX_CONNECTIONS + 1).iter().enumerate() {
        if number == MAX_CONNECTIONS || connections.len() == limit {
            return Snapshot { connections, next: Some(SESSIONS + session.slot as usize) };
        }
        let info = socket_io::describe(state, session);
        if filter.matches(&info) {
            connections.push(info.shortened());
        }
    }
    Snapshot { connections, next: None }
}

/// Has connections describe themselves, from a position on. A position is a connection's own until its end, so a connection
/// that stays open is in exactly one snapshot of a listing.
async fn members(state: &ShardState, from: usize, limit: usize, filter: &Arc<ConnectionFilter>) -> Snapshot {
    let asked = if filter.is_empty() { limit } else { MAX_CONNECTIONS };
    let members: Vec<(usize, Rc<Listener>)> = state.hub.with(|hub| {
        let members = hub.listeners_from(from).take(asked);
        members.map(|(position, listener)| (position, listener.clone())).collect()
    });
    state.descriptions.expect(members.len(), filter);
    for (_, listener) in &members {
        listener.request_description();
    }
    let _ = timeout(TIMEOUT, state.descriptions.complete()).await;
    // A description that comes later would be counted for another snapshot.
    for (_, listener) in &members {
        let _ = listener.take_description_request();
    }
    let mut found = state.descriptions.take();
    let last = if found.len() > limit {
        found.truncate(limit);
        found.last().map(|(position, _)| *position)
    } else {
        members.last().filter(|_| members.len() == asked).map(|(position, _)| *position)
    };
    let connections = found.into_iter().map(|(_, info)| info).collect();
    Snapshot { connections, next: last.map(|position| position + 1) }
}

/// Closes the connections that match a filter, of up to 100 from a position on.
async fn close(state: &Rc<ShardState>, request: Arc<CloseRequest>, from: usize) -> ClosedConnections {
    let filter = request.filter.clone();
    state.descriptions.begin_closing(request);
    let Some(slot) = from.checked_sub(SESSIONS) else {
        let Snapshot { next, .. } = members(state, from, MAX_CONNECTIONS, &filter).await;
        let closed = state.descriptions.end_closing();
        return ClosedConnections { closed, next: Some(next.unwrap_or(SESSIONS)) };
    };
    let mut found = state.engine.sessions_from(slot, MAX_CONNECTIONS + 1);
    let next = found.get(MAX_CONNECTIONS).map(|session| SESSIONS + session.slot as usize);
    found.truncate(MAX_CONNECTIONS);
    found.retain(|session| filter.matches(&socket_io::describe(state, session)));
    let is_over_socket = |session: &&Rc<EngineSession>| session.transport.get() == TransportState::WebSocket;
    state.descriptions.expect(found.iter().filter(is_over_socket).count(), &filter);
    let polling = found.iter().filter(|session| socket_io::close_by_operator(state, session)).count();
    let _ = timeout(TIMEOUT, state.descriptions.complete()).await;
    for session in &found {
        let _ = session.listener.take_description_request();
    }
    ClosedConnections { closed: state.descriptions.end_closing() + polling, next }
}
