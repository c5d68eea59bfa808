//! Presence: a client that has the flag is told who is in its facility, and who comes and goes.

use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::task::Poll;
use std::time::Duration;

use tokio::task::spawn_local;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::client::{LiveClient, send};
use super::facility::LiveFacility;
use crate::access::Grant;
use crate::hub::{Listener, Replay};
use crate::presence::{PresenceRoom, Present, presence_channel, read_present};
use crate::shard::state::ShardState;
use crate::wire::Form;
use crate::wire::live::{PresenceObject, frame_of};

/// Time between two readings of a room, so that many who come together cost one.
const PAUSE: Duration = Duration::from_millis(100);

/// Time between two lists that tell another number of anonymous visitors.
const COUNT_PAUSE: Duration = Duration::from_secs(2);

/// Time after a loss of Redis within which nobody is told of as gone: the other gateways write their visitors again.
const GRACE: Duration = Duration::from_secs(5);

/// Time before a room is subscribed to again after Redis was lost.
const RETRY: Duration = Duration::from_secs(1);

/// A client's place in a room; dropping it leaves.
pub(super) struct PresencePlace {
    room: Rc<PresenceRoom>,
    listener: Rc<Listener>,
}

impl Drop for PresencePlace {
    fn drop(&mut self) {
        self.room.remove(&self.listener);
    }
}

/// Counts a connection and its facilities for presence, as the users that they have now.
pub(super) fn attend(client: &mut LiveClient, state: &ShardState) {
    let presence = &state.process.presence;
    if !presence.is_counted() {
        return;
    }
    let LiveClient { facilities, attendance, identity, id, .. } = client;
    presence.update_user(attendance, identity.user.as_ref(), || id.to_string());
    for facility in facilities.iter_mut().filter(|facility| facility.is_open) {
        let user = facility.own.as_ref().map(|own| own.visitor().identity.user.clone());
        let user = user.unwrap_or_else(|| identity.user.clone());
        let name = facility.handshake.facility.as_str();
        presence.update_facility(&mut facility.attendance, name, user.as_ref(), || id.to_string());
    }
}

/// Returns whether the client is told who is in a facility: it is granted, and visitors are counted there.
pub(super) fn is_told(state: &ShardState, facility: &LiveFacility, grant: &Grant) -> bool {
    grant.presence && state.process.presence.seconds_of(facility.name()).is_some()
}

/// Gives a facility a place in its room, or takes it away.
pub(super) fn take_place(
    facility: &mut LiveFacility,
    is_told: bool,
    listener: &Rc<Listener>,
    state: &Rc<ShardState>,
) {
    if !is_told {
        facility.place = None;
        return;
    }
    if facility.place.is_some() {
        return;
    }
    let name = facility.name();
    let room = state.presence_rooms.enter(name, |room| {
        let watching = watch(room, name.to_owned(), state.clone());
        AbortOnDropHandle::new(spawn_local(watching))
    });
    room.add(listener);
    // Otherwise the first reading tells all.
    if let Some(present) = room.present() {
        send(listener, state, &here(name, &present));
    }
    facility.place = Some(PresencePlace { room, listener: listener.clone() });
}

fn here(facility: &str, present: &Present) -> String {
    let users = present.users.iter().map(|user| &**user);
    PresenceObject::Here { users: users.collect(), anonymous: present.anonymous }.encode(facility)
}

/// Reads a room when a gateway says that it has changed, and from time to time, because entries of a gateway that was killed
/// go stale without a word.
async fn watch(room: Weak<PresenceRoom>, facility: String, state: Rc<ShardState>) {
    let namespace = &state.process.settings.namespace;
    let channel = presence_channel(namespace, &facility);
    let interval = state.process.presence.seconds_of(&facility).unwrap_or(60).div_ceil(3);
    let interval = Duration::from_secs(interval.into());
    // Delivers nothing: its queue shows that a message has come.
    let listener = Rc::new(Listener::parked(Form::Objects, state.sockets.clock.get(), u32::MAX));
    let subscription = loop {
        let subscription = state.hub.join(std::slice::from_ref(&channel));
        match subscription.joined().await {
            Ok(()) => break subscription,
            Err(_) => sleep(RETRY).await,
        }
    };
    subscription.open_part(&listener, &Replay::default());
    let (mut keeps_until, mut counted_at, mut is_owed) = (Instant::now(), Instant::now(), false);
    loop {
        if !state.redis_up.get() {
            keeps_until = Instant::now() + GRACE;
        }
        let found = read_present(&state.store, namespace, &facility).await;
        let Some(room) = room.upgrade() else { return };
        match found {
            Some(found) => {
                let keeps = Instant::now() < keeps_until;
                is_owed = update(&room, &facility, found, keeps, &mut counted_at, &state);
            }
            None => keeps_until = Instant::now() + GRACE,
        }
        drop(room);
        sleep(PAUSE).await;
        let has_changed = poll_fn(|cx| {
            listener.watch(cx);
            if !listener.has_queued() {
                return Poll::Pending;
            }
            listener.discard_queued();
            Poll::Ready(())
        });
        let wait = if is_owed { interval.min(COUNT_PAUSE) } else { interval };
        let _ = timeout(wait, has_changed).await;
    }
}

/// Tells the listeners of a room what has changed. `keeps`: nobody is told of as gone. Returns whether they have not been told
/// of another number of anonymous visitors, which they are at most every two seconds: a list of all tells it.
fn update(
    room: &PresenceRoom,
    facility: &str,
    mut found: Present,
    keeps: bool,
    counted_at: &mut Instant,
    state: &ShardState,
) -> bool {
    let tell = |object: &str| {
        room.for_each(|listener| {
            // Counted: a client that does not read must not be told of all who come and go.
            listener.send(&frame_of(object, listener.form), &state.sockets.limits);
        });
    };
    let before = room.present();
    if let Some(before) = before.as_ref().filter(|_| keeps) {
        found.users.extend(before.users.iter().cloned());
        found.anonymous = found.anonymous.max(before.anonymous);
    }
    room.replace(found.clone());
    let Some(before) = before else {
        tell(&here(facility, &found));
        return false;
    };
    for user in found.users.difference(&before.users) {
        tell(&PresenceObject::Join(user).encode(facility));
    }
    for user in before.users.difference(&found.users) {
        tell(&PresenceObject::Leave(user).encode(facility));
    }
    let is_owed = found.anonymous != before.anonymous;
    if is_owed && *counted_at + COUNT_PAUSE <= Instant::now() {
        *counted_at = Instant::now();
        tell(&here(facility, &found));
    } else if is_owed {
        room.replace(Present { anonymous: before.anonymous, ..found });
        return true;
    }
    false
}
