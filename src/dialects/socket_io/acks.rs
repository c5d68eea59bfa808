//! Events that Django asks clients to acknowledge, and the way of the acknowledgements back.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use tracing::debug;

use super::outgoing::send_event;
use super::reach;
use crate::engine::EngineSession;
use crate::metrics::Counters;
use crate::shard::state::ShardState;
use crate::wire::socket_io::encode::push_event;
use crate::wire::socket_io::{SocketPacket, pickled_callback, push_json_string};
use crate::wire::{AckOrigin, AskedEvent, EmitTarget, Mount};

/// Sends an event to each client that it is for, with an ack id of its own.
pub(super) fn ask(state: &ShardState, mount: Mount, target: &EmitTarget, asked: &Arc<AskedEvent>) {
    let (now, expired) = (state.engine.now(), expired(state));
    for (session, index) in reach::clients(state, mount, target) {
        let mut sockets = session.sockets.borrow_mut();
        let id = sockets[index].acks.get_or_insert_default().add(&asked.origin, now, expired);
        drop(sockets);
        send_event(&session, &state.sockets.limits, asked.event.attachments(), |out| {
            push_event(out, &target.namespace, Some(id), &asked.event);
        });
    }
}

/// Publishes a client's acknowledgement, if it was asked for. Unknown ids are no breach, as with the official servers.
pub(super) fn acknowledge(
    session: &EngineSession,
    state: &Rc<ShardState>,
    packet: SocketPacket<'_>,
    attachments: &[Bytes],
) {
    let expired = expired(state);
    let mut sockets = session.sockets.borrow_mut();
    let socket = sockets.iter_mut().find(|socket| socket.namespace() == packet.namespace);
    let origin = socket.and_then(|socket| socket.acks.as_mut()?.take(packet.id?, expired));
    drop(sockets);
    let Some(origin) = origin else { return };
    let answer = if origin.is_pickled {
        pickled_callback(&origin, packet.data, attachments)
    } else {
        // JSON cannot express attachments; python-socketio itself fails there.
        attachments.is_empty().then(|| callback(&origin, packet.data).into_bytes())
    };
    let Some(answer) = answer else {
        return Counters::count(&state.process.counters.unanswered_callbacks);
    };
    let state = state.clone();
    // Bounded by the acknowledgements that clients owe.
    tokio::task::spawn_local(async move {
        if let Err(error) = state.store.announce(origin.channel.as_str(), answer).await {
            Counters::count(&state.process.counters.unanswered_callbacks);
            debug!(error, "an acknowledgement could not be published");
        }
    });
}

/// Returns the time before which an event was sent that is too old for an acknowledgement.
fn expired(state: &ShardState) -> u64 {
    state.engine.now().saturating_sub(u64::from(state.process.settings.socket_io.ack_seconds) * 1_000)
}

/// Returns the message that python-socketio expects.
fn callback(origin: &AckOrigin, arguments: &str) -> String {
    let mut answer = String::from(r#"{"method":"callback","host_id":"#);
    push_json_string(&mut answer, &origin.host_id);
    answer.push_str(r#","sid":"#);
    push_json_string(&mut answer, &origin.sid);
    answer.push_str(r#","namespace":"#);
    push_json_string(&mut answer, &origin.namespace);
    answer + &format!(r#","id":{},"args":{arguments}}}"#, origin.id)
}
