//! Events that Django asks clients to acknowledge, and the way of the acknowledgements back.

use std::rc::Rc;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tracing::debug;

use super::reach;
use crate::engine::EngineSession;
use crate::hub::Run;
use crate::metrics::Counters;
use crate::shard::state::ShardState;
use crate::wire::engine_io::EngineType;
use crate::wire::form::store_packet;
use crate::wire::socket_io::encode::push_event;
use crate::wire::socket_io::{SocketPacket, pickled_callback, push_json_string};
use crate::wire::{AckOrigin, AskedEvent, EmitTarget, Mount};

/// Sends an event to each client that it is for. All get the same ack id, so that they share the bytes.
pub(super) fn ask(state: &ShardState, mount: Mount, target: &EmitTarget, asked: &Arc<AskedEvent>) {
    let clients = reach::clients(state, mount, target);
    if clients.is_empty() {
        return;
    }
    let (now, id) = (state.engine.now(), state.engine.next_ack_id());
    let expired = expired(state, now);
    let mut packet = String::from(EngineType::Message.digit());
    push_event(&mut packet, &target.namespace, Some(id), &asked.event);
    let mut packets = BytesMut::new();
    store_packet(&mut packets, &packet, asked.event.attachments());
    let run = Run::new(packets.freeze(), 1);
    for (session, index) in clients {
        let mut sockets = session.sockets.borrow_mut();
        let socket = &mut sockets[index];
        socket.acks.get_or_insert_default().add(id, &asked.origin, now, expired);
        state.rooms.deliver_to(socket.member.number(), &run);
    }
}

/// Publishes a client's acknowledgement, if it was asked for. Unknown ids are no breach, as with the official servers.
pub(super) fn acknowledge(
    session: &EngineSession,
    state: &Rc<ShardState>,
    packet: SocketPacket<'_>,
    attachments: &[Bytes],
) {
    let expired = expired(state, session.last_received.get());
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
fn expired(state: &ShardState, now: u64) -> u64 {
    now.saturating_sub(u64::from(state.process.settings.socket_io.ack_seconds) * 1_000)
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
