//! Carries out what Django asks for: events, rooms, and disconnects.

use super::acks::ask;
use super::namespaces::MAX_ROOMS;
use super::outgoing::send_packet;
use super::receive::GRACE;
use crate::engine::Deadline;
use crate::hub::Run;
use crate::metrics::Counters;
use crate::shard::state::ShardState;
use crate::wire::socket_io::encode::push_disconnect;
use crate::wire::{ClientName, Directive, EmitTarget, Topic};

/// Carries out directives for the clients of this shard, in order.
pub fn apply(state: &ShardState, directives: &[Directive]) {
    for directive in directives {
        match directive {
            Directive::Emit(target, packets, messages) => {
                emit(state, target, &Run::new(packets.clone(), *messages));
            }
            Directive::Ask(target, asked) => ask(state, target, asked),
            Directive::Disconnect(client) => disconnect(state, client),
            Directive::EnterRoom(client, room) => change_room(state, client, room, true),
            Directive::LeaveRoom(client, room) => change_room(state, client, room, false),
            Directive::CloseRoom(namespace, room) => {
                if may_change(state, room) {
                    state.rooms.clear(&Topic::room(namespace, room));
                }
            }
        }
    }
}

/// Delivers packets: each client gets them once, in whatever of the rooms it is.
fn emit(state: &ShardState, target: &EmitTarget, run: &Run) {
    let namespace = &target.namespace;
    let except = members(state, namespace, &target.except);
    match &target.rooms {
        None if except.is_empty() => state.rooms.deliver(&Topic::namespace(namespace), run),
        None => state.rooms.deliver_union(&[Topic::namespace(namespace)], &[], &except, run),
        Some(rooms) => {
            let single = members(state, namespace, rooms);
            let topics: Vec<_> = rooms.iter().map(|room| Topic::room(namespace, room)).collect();
            match &topics[..] {
                [topic] if single.is_empty() && except.is_empty() => state.rooms.deliver(topic, run),
                topics => state.rooms.deliver_union(topics, &single, &except, run),
            }
        }
    }
}

/// Returns the members with these public ids: a client's own room is found by its id, and takes no entry.
pub(super) fn members(state: &ShardState, namespace: &str, names: &[Box<str>]) -> Vec<u32> {
    let member = |name: &str| {
        state.engine.find(name, namespace, |session, index| session.sockets.borrow()[index].member.number())
    };
    names.iter().filter_map(|name| member(name)).collect()
}

fn disconnect(state: &ShardState, client: &ClientName) {
    let ClientName { namespace, sid } = client;
    state.engine.find(sid, namespace, |session, _| {
        send_packet(session, &state.sockets.limits, |out| push_disconnect(out, namespace));
        session.leave(namespace, Deadline::Grace(state.engine.now() + GRACE));
    });
}

fn change_room(state: &ShardState, client: &ClientName, room: &str, enters: bool) {
    let ClientName { namespace, sid } = client;
    if !may_change(state, room) {
        return;
    }
    let topic = Topic::room(namespace, room);
    let is_done = state.engine.find(sid, namespace, |session, index| {
        let socket = &session.sockets.borrow()[index];
        if enters {
            // The namespace and the own rooms do not count.
            return socket.member.enter(&topic, MAX_ROOMS + socket.own_rooms.len() + 1);
        }
        socket.member.exit(&topic);
        true
    });
    if is_done == Some(false) {
        Counters::count(&state.process.counters.ignored_room_changes);
    }
}

/// Returns whether Django may change a room: those of users and groups follow from identities. Counts a refusal.
fn may_change(state: &ShardState, room: &str) -> bool {
    let settings = &state.process.settings.socket_io;
    let mut templates = settings.user_room.iter().chain(&settings.group_room);
    let is_own = templates.any(|template| template.matches(room));
    if is_own && state.number == 0 {
        Counters::count(&state.process.counters.ignored_room_changes);
    }
    !is_own
}
