//! Events of clients: those that are selected go to Django, and no event ever reaches another client by itself.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use tracing::warn;

use super::bridges::{BridgeEvent, bridge_event};
use super::namespaces::{apply_identity, socket_identity};
use super::outgoing::send_event;
use super::{messenger, yunity};
use crate::access::{Rate, name_fits};
use crate::engine::{EngineSession, NamespaceSocket};
use crate::events::ClientEvent;
use crate::metrics::Counters;
use crate::settings::SocketIoSettings;
use crate::shard::state::ShardState;
use crate::socket::Close;
use crate::visitors::TokenBucket;
use crate::wire::socket_io::encode::push_ack;
use crate::wire::socket_io::{JsonMembers, SocketPacket, unescape_json};
use crate::wire::{ClientAnswer, ClientName, Mount};

/// Most characters of a name in the log.
const MAX_LOGGED_NAME: usize = 100;

/// Handles an event of a client. Returns why the session has to end, if it has to.
pub(super) fn receive_event(
    session: &EngineSession,
    state: &Rc<ShardState>,
    packet: SocketPacket<'_>,
    attachments: &[Bytes],
) -> Option<Close> {
    let settings = &state.process.settings.socket_io;
    // A packet that was decoded has a name, and its namespace was joined.
    let name = packet.event_name()?;
    let mut sockets = session.sockets.borrow_mut();
    let socket = sockets.iter_mut().find(|socket| socket.namespace() == packet.namespace)?;
    let bridge = bridge_event(session, state, packet, &name);
    if settings.client_events.is_empty() && settings.login.event.is_empty() && bridge.is_none() {
        ignore(state, packet.namespace, &name);
        return None;
    }
    let bytes = packet.data.len() + attachments.iter().map(Bytes::len).sum::<usize>();
    if !session.event_limit.get_or_init(|| Box::new(TokenBucket::new(rate(settings)))).take(bytes) {
        return Some(Close::TooFast);
    }
    let sender = socket.sender.get_or_insert_default();
    match bridge {
        Some(BridgeEvent::Authenticate) => {
            yunity::authenticate(state, session, socket, packet);
            return None;
        }
        Some(BridgeEvent::Report) => {
            if !messenger::report(state, sender, packet) {
                Counters::count(&state.process.counters.ignored_events);
            }
            return None;
        }
        None => {}
    }
    let is_login = !name.is_empty() && settings.login.event == *name;
    if is_login {
        log_in(session, state, socket, packet);
    }
    let is_selected = settings.client_events.iter().any(|event| event.selects(packet.namespace, &name));
    if !is_selected || !state.events.are_enabled() {
        if !is_login {
            ignore(state, packet.namespace, &name);
        }
        return None;
    }
    let identity = socket_identity(session, socket);
    let arguments = packet.arguments().collect::<Vec<_>>().join(",");
    let event = ClientEvent {
        namespace: packet.namespace,
        sid: &state.engine.public_id(session, socket),
        user: identity.user.as_deref(),
        name: &name,
        arguments: &format!("[{arguments}]"),
        attachments,
        is_binary: packet.kind.is_binary(),
        id: packet.id,
    };
    if state.events.pass_on(&event, &session.listener).is_err() {
        return Some(Close::EventsWaiting);
    }
    if let (Some(id), Some(sender)) = (packet.id, &mut socket.sender) {
        sender.unanswered.add(id, session.last_received.get());
    }
    None
}

/// Counts an event that is not passed on.
fn ignore(state: &ShardState, namespace: &str, name: &str) {
    Counters::count(&state.process.counters.ignored_events);
    if let Some(suppressed) = state.client_events.allow() {
        let is_selected =
            state.process.settings.socket_io.client_events.iter().any(|event| event.selects(namespace, name));
        let cure = match (is_selected, state.events.are_enabled()) {
            (false, true) => "is not selected; Django does not get it. Select it by socketio.client_events",
            (false, false) => {
                "is not selected; Django does not get it. Select it by socketio.client_events, and set events.to"
            }
            (true, _) => "goes nowhere, because events.to is empty. Set events.to",
        };
        // A client chooses both.
        let name: String = name.chars().take(MAX_LOGGED_NAME).collect();
        warn!(suppressed, event = ?name, ?namespace, "an event of a Socket.IO client {cure}");
    }
}

fn rate(settings: &SocketIoSettings) -> Rate {
    Rate {
        messages_per_second: settings.events_per_second,
        bytes_per_second: settings.event_bytes_per_second,
        burst_seconds: 1,
    }
}

/// Applies the login event: the visitor has logged in, and, if `trust_client` is set, the event names the user.
fn log_in(
    session: &EngineSession,
    state: &ShardState,
    socket: &mut NamespaceSocket,
    packet: SocketPacket<'_>,
) {
    let login = &state.process.settings.socket_io.login;
    if login.trust_client
        && let Some(claimed) = packet.arguments().next().and_then(|argument| claim(argument, &login.field))
        && let Some(sender) = &mut socket.sender
    {
        sender.claimed_user = Some(claimed);
    }
    let identity = socket_identity(session, socket);
    if identity.user.is_none() {
        return;
    }
    let is_new = socket.announced.as_ref().is_some_and(|client| client.user() != identity.user.as_ref());
    apply_identity(session, socket, &identity, state);
    // Otherwise it was announced with the new user.
    if !is_new && let Some(announced) = &socket.announced {
        announced.announce_user();
    }
}

/// Returns the user that an object names: a text or a number.
fn claim(argument: &str, field: &str) -> Option<Arc<str>> {
    let mut members = JsonMembers::new(argument)?.flatten();
    let (_, raw) = members.find(|(key, _)| unescape_json(key).is_some_and(|key| key == field))?;
    let is_number = !raw.is_empty() && raw.bytes().all(|byte| byte.is_ascii_digit());
    let name = if is_number { raw.into() } else { unescape_json(raw)? };
    let is_name = !name.is_empty() && name_fits(&name) && !name.contains(char::is_control);
    is_name.then(|| (*name).into())
}

/// Sends Django's acknowledgement of an event, if the client waits for it.
pub(super) fn acknowledge_event(
    state: &ShardState,
    mount: Mount,
    client: &ClientName,
    answer: &ClientAnswer,
) {
    let (ClientName { namespace, sid }, ClientAnswer { id, arguments }) = (client, answer);
    let milliseconds = u64::from(state.process.settings.socket_io.ack_seconds) * 1_000;
    let since = state.engine.now().saturating_sub(milliseconds);
    state.engine.find(sid, mount, namespace, |session, index| {
        let is_awaited = session.sockets.borrow_mut()[index]
            .sender
            .as_mut()
            .is_some_and(|sender| sender.unanswered.take(*id, since));
        if is_awaited {
            send_event(session, &state.sockets.limits, arguments.attachments(), |out| {
                push_ack(out, namespace, *id, arguments);
            });
        }
    });
}
