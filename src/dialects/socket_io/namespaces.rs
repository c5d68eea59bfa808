//! Joining namespaces, and the rooms that follow from a visitor's identity.

use std::rc::Rc;

use tokio::time::Instant;
use tracing::debug;

use super::auth_fields::selected_auth;
use super::describe::shown_sid;
use super::outgoing::{MAX_NAMESPACES, send_packet};
use crate::access::{Identity, Token};
use crate::engine::{Deadline, EngineSession, NamespaceSocket, Sid};
use crate::settings::SocketIoSettings;
use crate::shard::state::ShardState;
use crate::socket::Close;
use crate::visitors::watch::PartialHold;
use crate::wire::engine_io::EngineVersion;
use crate::wire::socket_io::encode::{push_connect_error, push_connected};
use crate::wire::socket_io::{JsonMembers, SocketPacket, unescape_json};
use crate::wire::{Mount, Topic, parameters};

/// Most rooms that Django can put a client into.
pub(super) const MAX_ROOMS: usize = 1_000;

/// Refused CONNECTs after which a client is closed: each may cost the verification of a token.
const MAX_REFUSED: u8 = 16;

/// Most joins at once, and one more per second: each is announced to Django. A page may join all its namespaces at once.
const JOIN_BURST: u32 = 16;

/// The member of a CONNECT's data that holds a token.
pub(super) const TOKEN: &str = "token";

/// Why a client cannot join a namespace; the official servers' texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ConnectError {
    Unknown,
    Unauthorized,
}

/// Joins a namespace, or refuses it. Returns why the connection has to end, if it has to.
pub(super) fn connect(
    session: &EngineSession,
    state: &Rc<ShardState>,
    packet: SocketPacket<'_>,
) -> Option<Close> {
    let namespace = packet.namespace;
    if session.is_connected(namespace) || session.sockets.borrow().len() >= MAX_NAMESPACES {
        // Clients of protocol 4 name the main namespace although they are in it.
        let is_implied = session.version == EngineVersion::V3 && namespace == "/";
        return (!is_implied).then(|| Close::Protocol("namespace joined twice, or too many".to_owned()));
    }
    // Messages would be missed. The client comes back when Redis does.
    if !state.redis_up.get() || state.emits_refused.borrow().is_some() {
        return Some(Close::Overloaded);
    }
    match admit(session, state, packet) {
        Ok(_) if !session.take_join(state.engine.now(), JOIN_BURST) => Some(Close::TooFast),
        Ok(lease) => {
            let identity = lease.as_ref().map_or_else(|| session_identity(session), token_identity);
            join(session, state, packet, lease, &identity);
            None
        }
        Err(error) => {
            let message = match error {
                ConnectError::Unknown => "Invalid namespace",
                ConnectError::Unauthorized => "Unauthorized",
            };
            debug!(?namespace, reason = message, "namespace refused");
            send_packet(session, &state.sockets.limits, |out| {
                push_connect_error(out, session.version, namespace, message, None);
            });
            // Clients of protocol 4 cannot do without the main namespace.
            let is_last = session.version == EngineVersion::V3 && session.sockets.borrow().is_empty();
            if is_last {
                return Some(Close::Disconnected);
            }
            let refused = session.refused_connects.get() + 1;
            session.refused_connects.set(refused);
            (refused >= MAX_REFUSED).then_some(Close::Refused)
        }
    }
}

/// Decides whether the client may join. Returns the lease of its token, if it sent one.
fn admit(
    session: &EngineSession,
    state: &Rc<ShardState>,
    packet: SocketPacket<'_>,
) -> Result<Option<PartialHold>, ConnectError> {
    if !serves(state, packet.namespace) {
        return Err(ConnectError::Unknown);
    }
    let since = Instant::now();
    let identified =
        token_of(packet).and_then(|token| state.visitors.identifier.get().identify_token(&token));
    let lease = match identified {
        Some(Ok(visitor)) => {
            let lease = state.visitors.leases.add(visitor, since, &session.listener, None);
            lease.map(|lease| PartialHold::new(lease, &session.listener))
        }
        // A token that is not valid is never "anonymous".
        Some(Err(_)) => return Err(ConnectError::Unauthorized),
        None => None,
    };
    let identity = lease.as_ref().map_or_else(|| session_identity(session), token_identity);
    if admits(session, state, &identity) { Ok(lease) } else { Err(ConnectError::Unauthorized) }
}

/// Returns whether clients may connect to a namespace.
pub(super) fn serves(state: &ShardState, namespace: &str) -> bool {
    state.settings.get().socket_io.namespaces.iter().any(|known| known.admits(namespace))
}

/// Returns whether a client with this identity may connect to namespaces.
pub(super) fn admits(session: &EngineSession, state: &ShardState, identity: &Identity) -> bool {
    let settings = &state.settings.get().socket_io;
    let is_user = identity.user.is_some() || identity.user_id.is_some();
    // Clients of yunity-sockets say who they are only afterwards.
    let is_admitted_anyway = || settings.mount(session.mount).is_some_and(|mount| mount.yunity);
    is_user || settings.anonymous || is_admitted_anyway()
}

/// Returns the token in a CONNECT: in its object, or in protocol 4 in its query. A value that is no text is returned as its
/// JSON, which is no valid token; null is as good as none.
fn token_of(packet: SocketPacket<'_>) -> Option<Token> {
    if packet.query.is_some() {
        return parameters(packet.query, TOKEN).next().map(|token| Token::new(&token));
    }
    // Of a member that is given twice, the last counts, as in the site's own code.
    let members = JsonMembers::new(packet.data)?.flatten();
    let (_, raw) = members.filter(|(key, _)| unescape_json(key).is_some_and(|key| key == TOKEN)).last()?;
    let token = unescape_json(raw).unwrap_or_else(|| raw.into());
    (raw != "null").then(|| Token::new(&token))
}

fn join(
    session: &EngineSession,
    state: &Rc<ShardState>,
    packet: SocketPacket<'_>,
    lease: Option<PartialHold>,
    identity: &Identity,
) {
    let (settings, namespace) = (&state.process.settings.socket_io, packet.namespace);
    let is_same = settings.eio3_same_ids && session.version == EngineVersion::V3;
    let topic = state.rooms.share(Topic::namespace(session.mount, namespace));
    let sid = if is_same { session.sid } else { Sid::random() };
    let own_rooms = own_rooms(settings, session.mount, namespace, identity);
    // Before the answer: Django may emit as soon as the client has it, and the broker must know the client's rooms.
    let member = state.rooms.join(&session.listener, session.slot);
    for topic in std::iter::once(&topic).chain(&own_rooms) {
        member.enter(topic, usize::MAX);
    }
    send_packet(session, &state.sockets.limits, |out| {
        push_connected(out, session.version, namespace, &state.engine.text(&sid, session.slot));
    });
    let mut socket = NamespaceSocket {
        topic,
        sid,
        member,
        lease,
        attendance: None,
        acks: None,
        own_rooms,
        announced: None,
        sender: None,
    };
    attend(session, &mut socket, identity, state);
    if state.events.are_enabled() {
        let id = || state.engine.public_id(session, &socket);
        let auth = || selected_auth(settings, packet);
        socket.announced = state.events.connect_namespace(namespace, id, identity.user.clone(), auth);
    }
    // A session that polls has no span of its own.
    debug!(?namespace, sid = ?shown_sid(state, session, &socket), user = ?identity.user, "namespace joined");
    session.sockets.borrow_mut().push(socket);
    session.deadline.set(Deadline::None);
}

/// Returns the rooms that follow from an identity.
fn own_rooms(
    settings: &SocketIoSettings,
    mount: Mount,
    namespace: &str,
    identity: &Identity,
) -> Box<[Topic]> {
    let user = settings.user_room.iter().zip(&identity.user).map(|(template, user)| template.room(user));
    let groups = settings.group_room.iter();
    let groups = groups.flat_map(|template| identity.groups.iter().map(|group| template.room(group)));
    user.chain(groups).map(|room| Topic::room(mount, namespace, &room)).collect()
}

/// Counts a client for presence, under its public id.
fn attend(session: &EngineSession, socket: &mut NamespaceSocket, identity: &Identity, state: &ShardState) {
    let mut attendance = socket.attendance.take();
    let id = || state.engine.public_id(session, socket);
    state.process.presence.update(&mut attendance, socket.namespace(), identity.user.as_ref(), id);
    socket.attendance = attendance;
}

/// Applies a changed visitor: rooms of its user and groups are left and entered, without a reconnect.
pub(super) fn reauthorize(session: &EngineSession, state: &ShardState) {
    for socket in session.sockets.borrow_mut().iter_mut() {
        let identity = socket_identity(session, socket);
        apply_identity(session, socket, &identity, state);
    }
}

/// Applies an identity to a client in a namespace: its own rooms, presence, and what Django knows of it.
pub(super) fn apply_identity(
    session: &EngineSession,
    socket: &mut NamespaceSocket,
    identity: &Identity,
    state: &ShardState,
) {
    let settings = &state.process.settings.socket_io;
    let rooms = own_rooms(settings, session.mount, socket.namespace(), identity);
    socket.own_rooms.iter().filter(|room| !rooms.contains(room)).for_each(|room| socket.member.exit(room));
    for room in &rooms {
        socket.member.enter(room, usize::MAX);
    }
    socket.own_rooms = rooms;
    attend(session, socket, identity, state);
    if let Some(announced) = &mut socket.announced {
        announced.set_user(identity.user.as_ref());
    }
}

/// Returns the identity of a client in a namespace: that of its token or of its session, with the user that it says to be
/// where clients are believed.
pub(super) fn socket_identity(session: &EngineSession, socket: &NamespaceSocket) -> Identity {
    let mut identity = socket.lease.as_ref().map_or_else(|| session_identity(session), token_identity);
    if let Some(claimed) = socket.sender.as_ref().and_then(|sender| sender.claimed_user.as_ref()) {
        identity.user = Some(claimed.clone());
    }
    identity
}

fn token_identity(lease: &PartialHold) -> Identity {
    lease.visitor().identity.clone()
}

/// Returns the identity of a session.
pub(super) fn session_identity(session: &EngineSession) -> Identity {
    session.lease.borrow().as_ref().map(|lease| lease.visitor().identity.clone()).unwrap_or_default()
}
