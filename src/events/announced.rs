//! A client whose connection Django knows about.

use std::cell::Cell;
use std::rc::Weak;
use std::sync::Arc;

use bytes::Bytes;

use super::queue::EventDelivery;
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

/// A connected client. Dropping it announces that it has disconnected: so each `connect` has exactly one `disconnect`.
pub struct AnnouncedClient {
    events: Events,
    pub(super) scope: ClientScope,
    pub(super) sid: Box<str>,
    pub(super) user: Option<Arc<str>>,
    reason: Cell<DisconnectReason>,
}

impl AnnouncedClient {
    pub(super) fn new(events: Events, scope: ClientScope, sid: Box<str>, user: Option<Arc<str>>) -> Self {
        Self { events, scope, sid, user, reason: Cell::new(DisconnectReason::TransportClose) }
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
        self.events.tell(EventKind::User, |encoder| encoder.client(EventKind::User, self, None, None));
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
            enabled.writer.push(json, EventDelivery::AtMostOnce(Weak::new()));
        }
    }
}

impl Drop for AnnouncedClient {
    fn drop(&mut self) {
        let reason = self.reason.get();
        self.events.tell(EventKind::Disconnect, |encoder| {
            encoder.client(EventKind::Disconnect, self, Some(reason), None)
        });
    }
}
