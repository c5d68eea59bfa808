//! Presence: a client that has the flag is told who is in its facility, and who comes and goes.

use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;

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

/// Added for each entry that was read and each shard of this gateway.
const PAUSE_PER_ENTRY: Duration = Duration::from_micros(100);

/// Time between two objects that tell another number of anonymous visitors.
const COUNT_PAUSE: Duration = Duration::from_secs(2);

/// Time after a loss of Redis within which no user is told of as gone: the other gateways write their visitors again.
const GRACE: Duration = Duration::from_secs(5);

/// Time before a room is subscribed to again after Redis was lost.
const RETRY: Duration = Duration::from_secs(1);

/// A client's place in a room; dropping it leaves.
pub(super) struct PresencePlace {
    room: Rc<PresenceRoom>,
    listener: Rc<Listener>,
    /// The client may have missed who joins and leaves, and has not been told again who is there.
    pub(super) owes_here: bool,
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
    facility.place = Some(PresencePlace { room, listener: listener.clone(), owes_here: false });
}

fn here(facility: &str, present: &Present) -> String {
    let users = present.users.iter().map(|user| &**user);
    PresenceObject::Here { users: users.collect(), anonymous: present.anonymous }.encode(facility)
}

/// Returns the object that tells a client again who is in a facility, if it is owed: what a slow client was told may have
/// been dropped, and nothing else repairs its list.
pub(super) fn take_here(facility: &mut LiveFacility) -> Option<String> {
    let place = facility.place.as_mut().filter(|place| place.owes_here)?;
    place.owes_here = false;
    // Otherwise the first reading tells it.
    let present = place.room.present()?;
    Some(here(facility.name(), &present))
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
    let (mut keeps_until, mut counted_at, mut is_crowded) = (Instant::now(), Instant::now(), false);
    // Redis was lost, and is not back.
    let mut is_lost = false;
    loop {
        let found = read_present(&state.store, namespace, &facility).await;
        is_lost |= listener.losses.take_of_channels() || !state.redis_up.get();
        if is_lost {
            // It may have lost its data, and all gateways need time to write theirs again.
            keeps_until = Instant::now() + GRACE;
            is_lost = !subscription.is_live();
        }
        let Some(room) = room.upgrade() else { return };
        let (mut pause, mut wait) = (PAUSE, interval);
        if let Some(found) = found {
            pause = pause_after(found.count, state.process.settings.server.shards).min(interval);
            if found.are_cut() && !std::mem::replace(&mut is_crowded, true) {
                warn!(
                    facility,
                    "this facility has more visitors than presence can tell; clients are not told of all who are there, and not of users who leave. Use [[presence]] and the flag `presence` in smaller facilities"
                );
            }
            let keeps = found.are_cut() || Instant::now() < keeps_until;
            if update(&room, &facility, found.present, keeps, &mut counted_at, &state) {
                wait = wait.min(COUNT_PAUSE);
            }
        } else {
            keeps_until = Instant::now() + GRACE;
        }
        drop(room);
        sleep(pause).await;
        if Instant::now() < keeps_until {
            wait = wait.min(keeps_until - Instant::now());
        }
        let has_changed = poll_fn(|cx| {
            listener.watch(cx);
            is_lost |= listener.losses.take_of_channels();
            if !(listener.has_queued() || is_lost && subscription.is_live()) {
                return Poll::Pending;
            }
            listener.discard_queued();
            Poll::Ready(())
        });
        let _ = timeout(wait, has_changed).await;
    }
}

/// Returns the time between two readings of a room. Redis' time for a reading grows with the entries, and each shard reads.
fn pause_after(entries: usize, shards: usize) -> Duration {
    let entries = u32::try_from(entries.saturating_mul(shards)).unwrap_or(u32::MAX);
    PAUSE.max(PAUSE_PER_ENTRY.saturating_mul(entries))
}

/// Tells the listeners of a room what has changed. `keeps`: an entry that is missing does not mean that a user has gone.
/// Returns whether they have not been told of another number of anonymous visitors, which they are at most every two
/// seconds.
fn update(
    room: &PresenceRoom,
    facility: &str,
    mut found: Present,
    keeps: bool,
    counted_at: &mut Instant,
    state: &ShardState,
) -> bool {
    let before = room.present();
    if let Some(before) = before.as_ref().filter(|_| keeps) {
        found.keep(before);
    }
    let Some(before) = before else {
        tell(room, &[here(facility, &found)], state);
        room.set_present(found);
        return false;
    };
    let joined = found.users.difference(&before.users).map(|user| PresenceObject::Join(user));
    let left = before.users.difference(&found.users).map(|user| PresenceObject::Leave(user));
    let mut objects: Vec<_> = joined.chain(left).map(|object| object.encode(facility)).collect();
    let has_other_number = found.anonymous != before.anonymous;
    let is_owed = has_other_number && counted_at.elapsed() < COUNT_PAUSE;
    if is_owed {
        found.anonymous = before.anonymous;
    } else if has_other_number {
        *counted_at = Instant::now();
        objects.push(PresenceObject::Anonymous(found.anonymous).encode(facility));
    }
    tell(room, &objects, state);
    room.set_present(found);
    is_owed
}

/// Sends objects to the listeners of a room, encoded once for sockets and once for streams.
fn tell(room: &PresenceRoom, objects: &[String], state: &ShardState) {
    let encode =
        |form| Bytes::from(objects.iter().flat_map(|object| frame_of(object, form)).collect::<Vec<_>>());
    let (frames, events) = (encode(Form::Objects), encode(Form::ObjectEvents));
    room.for_each(|listener| {
        let bytes = if listener.form.is_stream() { &events } else { &frames };
        // Counted: a client that does not read must not be told of all who come and go.
        listener.send(bytes, &state.sockets.limits);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_rooms_are_read_less_often_and_no_more_often_on_many_shards() {
        let pause = |entries, shards| pause_after(entries, shards).as_millis();
        assert_eq!([pause(0, 1), pause(100, 2), pause(1_000, 2), pause(10_000, 1)], [100, 100, 200, 1_000]);
        assert_eq!(pause(10_000, 4), 4_000);
    }
}
