//! The bridge for yunity-sockets: a client names its session in the event `authenticate`, a key in Redis has the user of that
//! session, and notifications name users.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::sleep;

use super::namespaces::{apply_identity, socket_identity};
use crate::engine::{EngineSession, NamedSession, NamespaceSocket};
use crate::hub::Run;
use crate::redis::StoredValue;
use crate::shard::state::ShardState;
use crate::wire::socket_io::{JsonMembers, SocketPacket, unescape_json};
use crate::wire::{Channel, KeyEvent, Mount, Topic, channel_of, key_of};

/// The event that a client sends to name its session.
pub(super) const AUTHENTICATE: &str = "authenticate";

/// The member with the session id.
const SESSION_ID: &str = "sessionId";

/// Longest session id.
const MAX_ID_BYTES: usize = 128;

/// Longest name of a user.
const MAX_USER_BYTES: usize = 256;

/// Keys that are read together.
const CHUNK: usize = 500;

/// Applies the session that a client names. There is no answer, as in the original.
pub(super) fn authenticate(
    state: &Rc<ShardState>,
    session: &EngineSession,
    socket: &mut NamespaceSocket,
    packet: SocketPacket<'_>,
) {
    let Some(named) = &state.named_sessions else { return };
    let Some(id) = packet.arguments().next().and_then(session_id) else { return };
    let Some(sender) = &mut socket.sender else { return };
    let known = sender.session.as_ref().map(|held| held.key().clone());
    if let Some(key) = known.filter(|key| *key.id == *id) {
        refresh(state, key);
        return;
    }
    let (share, is_new) = named.hold(&id, session.slot);
    let key = share.key().clone();
    sender.session = Some(share);
    let user = key.user.borrow().clone();
    set_user(state, session, socket, user);
    if is_new { watch(state, key) } else { refresh(state, key) }
}

/// Returns the session id in the argument of the event: a text or an integer.
fn session_id(argument: &str) -> Option<Box<str>> {
    let mut members = JsonMembers::new(argument)?.flatten();
    let (_, raw) = members.find(|(key, _)| unescape_json(key).is_some_and(|key| key == SESSION_ID))?;
    let is_integer = !raw.is_empty() && raw.bytes().all(|byte| byte.is_ascii_digit());
    let id = if is_integer { raw.into() } else { unescape_json(raw)? };
    let is_id = (1..=MAX_ID_BYTES).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
    is_id.then(|| id.into())
}

/// Subscribes to the events of a key, and reads it.
fn watch(state: &Rc<ShardState>, key: Rc<NamedSession>) {
    let name = state.process.settings.socket_io.yunity.key(&key.id);
    let subscription = state.hub.join(&[channel_of(state.process.target.database(), &name)]);
    let state = state.clone();
    // Bounded by the ids in use.
    tokio::task::spawn_local(async move {
        // This ends in any case: Redis acknowledges, refuses or is lost. A read before could miss a change.
        let _ = subscription.joined().await;
        if key.is_used() {
            key.set_watch(subscription);
            read(&state, &key).await;
        }
    });
}

fn refresh(state: &Rc<ShardState>, key: Rc<NamedSession>) {
    let state = state.clone();
    tokio::task::spawn_local(async move { read(&state, &key).await });
}

/// Reads a key until no change has been reported since.
async fn read(state: &ShardState, key: &Rc<NamedSession>) {
    key.is_stale.set(true);
    if key.is_reading.replace(true) {
        return;
    }
    let name = state.process.settings.socket_io.yunity.key(&key.id);
    while key.is_stale.replace(false) && key.is_used() {
        // A loss of Redis is followed by a read of all keys.
        if let Ok(values) = state.store.lookups().read(std::slice::from_ref(&name)).await
            && let Some(value) = values.into_iter().next()
            && !key.is_stale.get()
        {
            apply(state, key, &value);
        }
    }
    key.is_reading.set(false);
}

/// Moves the clients of a session id to the user that its key has.
fn apply(state: &ShardState, key: &Rc<NamedSession>, value: &StoredValue) {
    if value.refused || value.too_big || value.is_partial || !key.is_used() {
        return;
    }
    let user = value.value.as_ref().and_then(|value| std::str::from_utf8(value).ok());
    let user: Option<Arc<str>> = user.filter(|user| user.len() <= MAX_USER_BYTES).map(Into::into);
    let Some(user) = user else {
        // Clients that have named a session before it exists wait for it.
        if key.user.borrow().is_some() {
            forget(state, key);
        }
        return;
    };
    if key.user.borrow().as_ref() == Some(&user) {
        return;
    }
    key.user.replace(Some(user.clone()));
    for_each_client(state, key, |session, socket| set_user(state, session, socket, Some(user.clone())));
}

/// Ends a session id: its clients stay connected, and a later value of its key means nothing to them.
fn forget(state: &ShardState, key: &Rc<NamedSession>) {
    for_each_client(state, key, |session, socket| {
        if let Some(sender) = &mut socket.sender {
            sender.session = None;
        }
        set_user(state, session, socket, None);
    });
}

fn for_each_client(
    state: &ShardState,
    key: &Rc<NamedSession>,
    mut action: impl FnMut(&EngineSession, &mut NamespaceSocket),
) {
    for slot in key.slots() {
        let Some(session) = state.engine.at(slot) else { continue };
        let mut sockets = session.sockets.borrow_mut();
        let mut holders = sockets.iter_mut().filter(|socket| {
            let held = socket.sender.as_ref().and_then(|sender| sender.session.as_ref());
            held.is_some_and(|held| Rc::ptr_eq(held.key(), key))
        });
        if let Some(socket) = holders.next() {
            action(&session, socket);
        }
    }
}

/// Makes a client hear the notifications of another user, or of none.
fn set_user(
    state: &ShardState,
    session: &EngineSession,
    socket: &mut NamespaceSocket,
    user: Option<Arc<str>>,
) {
    let Some(sender) = &mut socket.sender else { return };
    let former = std::mem::replace(&mut sender.claimed_user, user.clone());
    if former == user {
        return;
    }
    if let Some(former) = former {
        socket.member.exit(&Topic::bridge_user(session.mount, &former));
    }
    if let Some(user) = user {
        socket.member.enter(&Topic::bridge_user(session.mount, &user), usize::MAX);
    }
    let identity = socket_identity(session, socket);
    apply_identity(session, socket, &identity, state);
}

/// Sends a notification to the clients of users, in order and to each as often as it is named.
pub(super) fn notify(state: &ShardState, mount: Mount, users: &[Box<str>], packets: &Bytes) {
    let run = Run::new(packets.clone(), 1);
    for user in users {
        state.rooms.deliver(&Topic::bridge_user(mount, user), &run);
    }
}

/// Applies an event of a key in Redis. Events other than these mean nothing, as in the original.
pub fn session_key_changed(state: &Rc<ShardState>, channel: &Channel, event: KeyEvent) {
    let Some(keys) = &state.named_sessions else { return };
    let settings = &state.process.settings.socket_io.yunity;
    let id = key_of(channel).and_then(|key| settings.session_of(key));
    let Some(key) = id.and_then(|id| keys.find(id)) else { return };
    if event.is_deleted || event.is_expired {
        forget(state, &key);
    } else if event.is_written {
        refresh(state, key);
    }
}

/// Reads all keys when events may have been missed, and periodically as long as there are none. Never returns.
pub async fn read_session_keys(state: Rc<ShardState>) {
    let Some(keys) = state.named_sessions.clone() else { return };
    let settings = &state.process.settings.socket_io.yunity;
    loop {
        tokio::select! {
            () = keys.missed.notified() => {}
            () = sleep(settings.recheck) => {
                if keys.has_events.get() {
                    continue;
                }
            }
        }
        for chunk in keys.all().chunks(CHUNK) {
            let names: Vec<_> = chunk.iter().map(|key| settings.key(&key.id)).collect();
            let idle: Vec<_> = chunk.iter().map(|key| !key.is_reading.get()).collect();
            let Ok(values) = state.store.lookups().read(&names).await else { break };
            for ((key, value), was_idle) in chunk.iter().zip(&values).zip(idle) {
                // The read of a change that was reported meanwhile is newer.
                if was_idle && !key.is_reading.get() {
                    apply(&state, key, value);
                }
            }
        }
    }
}
