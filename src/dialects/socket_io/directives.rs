//! Carries out what Django asks for: events, rooms, and disconnects.

use super::acks::ask;
use super::client_events::acknowledge_event;
use super::namespaces::MAX_ROOMS;
use super::outgoing::send_packet;
use super::reach;
use super::receive::GRACE;
use super::{messenger, yunity};
use crate::engine::{Deadline, EngineSession};
use crate::events::DisconnectReason;
use crate::hub::Run;
use crate::metrics::Counters;
use crate::shard::state::ShardState;
use crate::wire::socket_io::encode::push_disconnect;
use crate::wire::{ClientName, Directive, DisconnectScope, EmitTarget, Mount, MountSet, Topic};

#[derive(Debug, Clone, Copy)]
enum RoomChange {
    Enter,
    Leave,
}

/// Carries out directives for the clients of this shard on these mounts, in order. Consecutive messages to the same clients
/// are joined.
pub fn apply<'a>(state: &ShardState, directives: impl Iterator<Item = (MountSet, &'a Directive)>) {
    let mut directives = directives.peekable();
    while let Some((mounts, directive)) = directives.next() {
        let Directive::Emit(target, packets, messages) = directive else {
            mounts.iter().for_each(|mount| carry_out(state, mount, directive));
            continue;
        };
        let mut runs = vec![Run::new(packets.clone(), *messages)];
        let is_same = |next: &(MountSet, &Directive)| {
            next.0 == mounts && matches!(next.1, Directive::Emit(same, ..) if same == target)
        };
        while let Some((_, Directive::Emit(_, packets, messages))) = directives.next_if(is_same) {
            runs.push(Run::new(packets.clone(), *messages));
        }
        if let Some(run) = Run::join(runs) {
            let run = run.with_volatile(target.is_volatile);
            mounts.iter().for_each(|mount| reach::deliver(state, mount, target, &run));
        }
    }
}

fn carry_out(state: &ShardState, mount: Mount, directive: &Directive) {
    match directive {
        // Joined by the caller.
        Directive::Emit(..) => {}
        Directive::Ask(target, asked) => ask(state, mount, target, asked),
        Directive::Answer(client, answer) => acknowledge_event(state, mount, client, answer),
        Directive::Disconnect(client) => disconnect(state, mount, client),
        Directive::EnterRoom(client, room) => change_room(state, mount, client, room, RoomChange::Enter),
        Directive::LeaveRoom(client, room) => change_room(state, mount, client, room, RoomChange::Leave),
        Directive::CloseRoom(namespace, room) => {
            if may_change(state, room, state.number == 0) {
                state.rooms.clear(&Topic::room(mount, namespace, room));
            }
        }
        Directive::Notify(users, packets) => yunity::notify(state, mount, users, packets),
        Directive::BeginGathering => messenger::begin_gathering(state),
        Directive::EnterRooms(target, rooms) => change_rooms(state, mount, target, rooms, RoomChange::Enter),
        Directive::LeaveRooms(target, rooms) => change_rooms(state, mount, target, rooms, RoomChange::Leave),
        Directive::DisconnectAll(target, scope) => disconnect_all(state, mount, target, *scope),
    }
}

fn disconnect(state: &ShardState, mount: Mount, client: &ClientName) {
    let ClientName { namespace, sid } = client;
    state.engine.find(sid, mount, namespace, |session, _| disconnect_from(state, session, namespace));
}

pub(super) fn disconnect_from(state: &ShardState, session: &EngineSession, namespace: &str) {
    send_packet(session, &state.sockets.limits, |out| push_disconnect(out, namespace));
    let deadline = Deadline::Grace(state.engine.now() + GRACE);
    session.leave(namespace, deadline, DisconnectReason::ServerNamespaceDisconnect);
}

fn disconnect_all(state: &ShardState, mount: Mount, target: &EmitTarget, scope: DisconnectScope) {
    for (session, _) in reach::clients(state, mount, target) {
        let namespaces: Vec<Box<str>> = match scope {
            DisconnectScope::Namespace => vec![target.namespace.clone()],
            DisconnectScope::Session => {
                session.sockets.borrow().iter().map(|socket| socket.namespace().into()).collect()
            }
        };
        for namespace in namespaces {
            disconnect_from(state, &session, &namespace);
        }
    }
}

fn change_room(state: &ShardState, mount: Mount, client: &ClientName, room: &str, change: RoomChange) {
    let ClientName { namespace, sid } = client;
    // No other shard has the client.
    if may_change(state, room, true) {
        let topic = Topic::room(mount, namespace, room);
        state.engine.find(sid, mount, namespace, |session, index| {
            apply_change(state, session, index, &topic, change);
        });
    }
}

fn change_rooms(
    state: &ShardState,
    mount: Mount,
    target: &EmitTarget,
    rooms: &[Box<str>],
    change: RoomChange,
) {
    let rooms = rooms.iter().filter(|room| may_change(state, room, state.number == 0));
    let topics: Vec<_> = rooms.map(|room| Topic::room(mount, &target.namespace, room)).collect();
    for (session, index) in reach::clients(state, mount, target) {
        for topic in &topics {
            apply_change(state, &session, index, topic, change);
        }
    }
}

fn apply_change(
    state: &ShardState,
    session: &EngineSession,
    index: usize,
    topic: &Topic,
    change: RoomChange,
) {
    let socket = &session.sockets.borrow()[index];
    match change {
        // The namespace and the own rooms do not count.
        RoomChange::Enter if !socket.member.enter(topic, MAX_ROOMS + socket.own_rooms.len() + 1) => {
            Counters::count(&state.process.counters.ignored_room_changes);
        }
        RoomChange::Enter => {}
        RoomChange::Leave => socket.member.exit(topic),
    }
}

/// Returns whether Django may change a room: those of users and groups follow from identities. A refusal is counted if
/// `counts` is set, which is so on one shard.
fn may_change(state: &ShardState, room: &str, counts: bool) -> bool {
    let settings = &state.process.settings.socket_io;
    let mut templates = settings.user_room.iter().chain(&settings.group_room);
    let is_own = templates.any(|template| template.matches(room));
    if is_own && counts {
        Counters::count(&state.process.counters.ignored_room_changes);
    }
    !is_own
}
