//! A client whose connection Django knows about.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use bytes::Bytes;

use super::queue::{EventDelivery, QueueFull};
use super::{DisconnectReason, Events};
use crate::wire::{Channel, EventKind};

/// The part of the gateway that a client is connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientScope {
    /// A facility, by a WebSocket or a stream of events, and the dialect that the client speaks.
    Facility(Box<str>, &'static str),
    /// A namespace of Socket.IO.
    Namespace(Box<str>),
}

/// What became of the `connect` of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ConnectEvent {
    /// Connects are not selected.
    NotWanted,
    /// It was accepted.
    Queued,
    /// It was dropped: Django does not know the client.
    Dropped,
}

/// A message of a client whose publication Redis has not acknowledged.
struct UnacknowledgedMessage {
    number: u32,
    user: Option<Arc<str>>,
    channels: Rc<[Channel]>,
    payload: Bytes,
}

/// A connected client. Dropping it announces that it has disconnected, unless its `connect` was dropped: so each `connect` has
/// exactly one `disconnect`, and each `disconnect` a `connect`.
pub struct AnnouncedClient {
    events: Events,
    connect: ConnectEvent,
    pub(super) scope: ClientScope,
    pub(super) sid: Box<str>,
    pub(super) user: Option<Arc<str>>,
    reason: Cell<DisconnectReason>,
    /// Bounded by the publications in flight of a client, which share the payloads.
    unacknowledged: VecDeque<UnacknowledgedMessage>,
}

impl AnnouncedClient {
    pub(super) fn new(events: Events, scope: ClientScope, sid: Box<str>, user: Option<Arc<str>>) -> Self {
        Self {
            events,
            connect: ConnectEvent::NotWanted,
            scope,
            sid,
            user,
            reason: Cell::new(DisconnectReason::TransportClose),
            unacknowledged: VecDeque::new(),
        }
    }

    /// Records what became of its `connect`.
    pub(super) fn set_connect(&mut self, result: Result<(), QueueFull>) {
        self.connect = if result.is_ok() { ConnectEvent::Queued } else { ConnectEvent::Dropped };
    }

    /// Returns the user that was announced.
    pub fn user(&self) -> Option<&Arc<str>> {
        self.user.as_ref()
    }

    /// Announces another user, if it is another one.
    pub fn set_user(&mut self, user: Option<&Arc<str>>) {
        if self.user.as_ref() != user {
            self.user = user.cloned();
            self.announce_user();
        }
    }

    /// Announces the user, whether it has changed or not.
    pub fn announce_user(&self) {
        if self.connect != ConnectEvent::Dropped {
            self.events.tell(EventKind::User, |encoder| encoder.client(EventKind::User, self, None, None));
        }
    }

    /// Sets why the client disconnects.
    pub fn set_reason(&self, reason: DisconnectReason) {
        self.reason.set(reason);
    }

    /// Records that the client publishes a message, which Django is told after Redis has acknowledged this publication.
    pub fn publish(&mut self, number: u32, channels: &Rc<[Channel]>, payload: &Bytes) {
        if self.events.wanted(EventKind::Message).is_some() {
            let (user, channels, payload) = (self.user.clone(), channels.clone(), payload.clone());
            self.unacknowledged.push_back(UnacknowledgedMessage { number, user, channels, payload });
        }
    }

    /// Returns whether it has messages that Redis has not acknowledged.
    pub fn has_unacknowledged(&self) -> bool {
        !self.unacknowledged.is_empty()
    }

    /// Tells the messages whose publications have numbers below `below`: Redis has acknowledged these.
    pub fn acknowledge(&mut self, below: u32, audiences: impl Fn(&[Channel]) -> Vec<String>) {
        let Self { events, scope: ClientScope::Facility(facility, dialect), sid, unacknowledged, .. } = self
        else {
            return;
        };
        let Some(enabled) = events.wanted(EventKind::Message) else { return };
        while let Some(message) = unacknowledged.pop_front_if(|message| message.number < below) {
            let UnacknowledgedMessage { user, channels, payload, .. } = message;
            let audiences = audiences(&channels);
            let json = enabled.encoder.message(
                (facility, dialect),
                Some(sid),
                user.as_deref(),
                &audiences,
                &payload,
            );
            let _counted = enabled.writer.push(json, EventDelivery::AtMostOnce(Weak::new()));
        }
    }
}

impl Drop for AnnouncedClient {
    fn drop(&mut self) {
        let Some(enabled) = self.events.wanted(EventKind::Disconnect) else { return };
        let json = || enabled.encoder.client(EventKind::Disconnect, self, Some(self.reason.get()), None);
        match self.connect {
            ConnectEvent::Queued => enabled.writer.push_end(json()),
            ConnectEvent::Dropped => {}
            ConnectEvent::NotWanted => {
                let _counted = enabled.writer.push(json(), EventDelivery::AtLeastOnce);
            }
        }
    }
}
