//! A client whose connection Django knows about.

use std::cell::Cell;
use std::rc::Weak;
use std::sync::Arc;

use bytes::Bytes;

use super::queue::{EventDelivery, QueueFull};
use super::{DisconnectReason, Events};
use crate::wire::EventKind;

/// The part of the gateway that a client is connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientScope {
    /// A facility, by a WebSocket or a stream of events.
    Facility(Box<str>),
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

/// A connected client. Dropping it announces that it has disconnected, unless its `connect` was dropped: so each `connect` has
/// exactly one `disconnect`, and each `disconnect` a `connect`.
pub struct AnnouncedClient {
    events: Events,
    connect: ConnectEvent,
    pub(super) scope: ClientScope,
    pub(super) sid: Box<str>,
    pub(super) user: Option<Arc<str>>,
    reason: Cell<DisconnectReason>,
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

    /// Tells that the client has published a message.
    pub fn published(&self, audiences: impl FnOnce() -> Vec<String>, payload: &Bytes) {
        let ClientScope::Facility(facility) = &self.scope else { return };
        if let Some(enabled) = self.events.wanted(EventKind::Message) {
            let (sid, user) = (Some(&*self.sid), self.user.as_deref());
            let json = enabled.encoder.message(facility, sid, user, &audiences(), payload);
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
