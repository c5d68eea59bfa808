//! What a shard tells of itself for the metrics.

use std::sync::atomic::Ordering;

use tokio::runtime::Handle;
use tokio::task::yield_now;

use super::state::ShardState;
use crate::engine::TransportState;
use crate::hub::topic_count;
use crate::metrics::{CellsSample, ProcessSample, SampledForm, ShardSample};
use crate::wire::Form;

/// Clients that are counted before the shard's other tasks run.
const COUNTED_TOGETHER: usize = 5_000;

/// Clients by dialect and form, each with the same place in the list of connections.
const FORMS: [(&str, &str); 6] = [
    ("relay", "websocket"),
    ("relay", "event-stream"),
    ("live", "websocket"),
    ("live", "event-stream"),
    ("socket_io", "websocket"),
    ("socket_io", "polling"),
];

/// Returns what a shard has counted, and counts its clients. Waits for the shard's other tasks only.
pub(super) async fn sample(state: &ShardState) -> ShardSample {
    let (mut clients, mut largest_outbox) = ([0; FORMS.len()], 0);
    let mut from = Some(0);
    while let Some(first) = from {
        from = state.hub.with(|hub| {
            let mut last = None;
            let mut count = 0;
            for (position, listener) in hub.listeners_from(first).take(COUNTED_TOGETHER) {
                clients[place_of(listener.form)] += 1;
                largest_outbox = largest_outbox.max(listener.queued_bytes());
                last = Some(position + 1);
                count += 1;
            }
            last.filter(|_| count == COUNTED_TOGETHER)
        });
        yield_now().await;
    }
    let mut first = 0;
    loop {
        let sessions = state.engine.sessions_from(first, COUNTED_TOGETHER);
        let Some(last) = sessions.last() else { break };
        first = last.slot as usize + 1;
        for session in &sessions {
            let has_socket = session.transport.get() == TransportState::WebSocket;
            clients[if has_socket { 4 } else { 5 }] += 1;
            largest_outbox = largest_outbox.max(session.listener.queued_bytes());
        }
        yield_now().await;
    }
    let forms = FORMS.iter().zip(clients);
    ShardSample {
        cells: CellsSample::take(),
        forms: forms.map(|(&(dialect, form), clients)| SampledForm { dialect, form, clients }).collect(),
        largest_outbox,
        topics: state.hub.with(|hub| topic_count(hub)),
        busy: Handle::current().metrics().worker_total_busy_duration(0),
        has_redis: [state.redis_up.get() && state.store.is_connected(), state.session_lookups.is_connected()],
        process: (state.number == 0).then(|| process(state)),
    }
}

fn place_of(form: Form) -> usize {
    match form {
        Form::Frames => 0,
        Form::Events | Form::NamedEvents => 1,
        Form::Objects => 2,
        Form::ObjectEvents => 3,
        Form::Packets | Form::PrefixedPackets => 4,
    }
}

fn process(state: &ShardState) -> ProcessSample {
    let process = &state.process;
    let outboxes = &process.outboxes;
    ProcessSample {
        counters: process.counters.values().to_vec(),
        levels: vec![
            (
                "sockets",
                "Open client sockets, those of unfinished handshakes included",
                process.connections.load(Ordering::Relaxed) as u64,
            ),
            (
                "sockets_max",
                "Client sockets above which handshakes get 503",
                process.most_connections() as u64,
            ),
            ("outbox_bytes", "Bytes that wait for slow clients", outboxes.used() as u64),
            (
                "outbox_high_water_bytes",
                "The most bytes that have waited for slow clients since the start, sampled each second",
                outboxes.high_water() as u64,
            ),
            ("outbox_max_bytes", "messages.outbox_total_bytes", outboxes.max_bytes() as u64),
        ],
    }
}
