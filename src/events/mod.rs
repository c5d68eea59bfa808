//! What Django is told about clients: who connects and disconnects, who they are, and what they say. Each event is an object
//! of JSON in a Redis stream, list or channel.
//!
//! Not here: which events of Socket.IO clients are selected (`dialects/socket_io`), and who is online (`presence`).

mod announced;
mod encode;
mod gate;
mod outcome;
mod queue;
mod reason;
mod writer;

pub use announced::{AnnouncedClient, ClientScope};
pub use encode::ClientEvent;
pub use gate::StartGate;
pub use queue::QueueFull;
pub use reason::DisconnectReason;

use std::rc::{Rc, Weak};
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::spawn_local;
use tokio_util::task::AbortOnDropHandle;

use crate::hub::Listener;
use crate::metrics::Counters;
use crate::redis::Store;
use crate::settings::Settings;
use crate::wire::{EventKind, Facility, NodeId};
use encode::EventEncoder;
use gate::GateWaiter;
use queue::EventDelivery;
use writer::EventWriter;

/// Tells Django about the clients of a shard. Without a destination it does nothing, and costs one pointer.
#[derive(Clone, Default)]
pub struct Events(Option<Rc<Enabled>>);

/// The parts that exist if there is a destination.
struct Enabled {
    settings: Arc<Settings>,
    encoder: EventEncoder,
    writer: Rc<EventWriter>,
    _running: AbortOnDropHandle<()>,
}

impl Events {
    /// Starts to write events over the connections of `store`. Must be called on the shard's runtime.
    pub fn new(
        shard: usize,
        settings: &Arc<Settings>,
        store: &Store,
        node: NodeId,
        gate: &StartGate,
        counters: &Arc<Counters>,
    ) -> Self {
        let Some(destination) = &settings.events.destination else { return Self(None) };
        if !settings.events.what.contains(EventKind::Node) {
            gate.open();
        }
        let writer = EventWriter::new(
            store.commands(),
            destination.clone(),
            settings.events.keep,
            &settings.redis,
            GateWaiter::new(gate.clone(), shard == 0, settings.redis.publish_wait),
            counters.clone(),
        );
        let running = AbortOnDropHandle::new(spawn_local(writer.clone().run()));
        let encoder = EventEncoder::new(node);
        Self(Some(Rc::new(Enabled { settings: settings.clone(), encoder, writer, _running: running })))
    }

    /// Returns whether there is a destination.
    pub fn are_enabled(&self) -> bool {
        self.0.is_some()
    }

    fn wanted(&self, kind: EventKind) -> Option<&Enabled> {
        self.0.as_deref().filter(|enabled| enabled.settings.events.what.contains(kind))
    }

    fn wants_any(&self, kinds: &[EventKind]) -> bool {
        kinds.iter().any(|kind| self.wanted(*kind).is_some())
    }

    /// Announces a client of a facility, with the dialect that it speaks. `None` if Django is told nothing about it.
    pub fn connect_facility(
        &self,
        (facility, dialect): (&Facility, &'static str),
        sid: impl FnOnce() -> String,
        user: Option<Arc<str>>,
    ) -> Option<Box<AnnouncedClient>> {
        let enabled = self.0.as_ref()?;
        let kinds = [EventKind::Connect, EventKind::Disconnect, EventKind::User, EventKind::Message];
        if !self.wants_any(&kinds) || !enabled.settings.events.facilities.admit(facility) {
            return None;
        }
        let scope = ClientScope::Facility(facility.as_str().into(), dialect);
        Some(Box::new(self.announce(scope, sid(), user, None)))
    }

    /// Announces a client of a namespace, perhaps with some of its credentials in JSON. `None` if Django is told nothing
    /// about such clients.
    pub fn connect_namespace(
        &self,
        namespace: &str,
        sid: impl FnOnce() -> String,
        user: Option<Arc<str>>,
        auth: impl FnOnce() -> Option<String>,
    ) -> Option<Box<AnnouncedClient>> {
        if !self.wants_any(&[EventKind::Connect, EventKind::Disconnect, EventKind::User]) {
            return None;
        }
        let scope = ClientScope::Namespace(namespace.into());
        Some(Box::new(self.announce(scope, sid(), user, auth().as_deref())))
    }

    fn announce(
        &self,
        scope: ClientScope,
        sid: String,
        user: Option<Arc<str>>,
        auth: Option<&str>,
    ) -> AnnouncedClient {
        let mut client = AnnouncedClient::new(self.clone(), scope, sid.into(), user);
        if let Some(enabled) = self.wanted(EventKind::Connect) {
            let json = enabled.encoder.client(EventKind::Connect, &client, None, auth);
            client.set_connect(enabled.writer.push(json, EventDelivery::AtLeastOnce));
        }
        client
    }

    /// Queues an event of a kind that is wanted.
    fn tell(&self, kind: EventKind, encode: impl FnOnce(&EventEncoder) -> String) {
        if let Some(enabled) = self.wanted(kind) {
            let _counted = enabled.writer.push(encode(&enabled.encoder), EventDelivery::AtLeastOnce);
        }
    }

    /// Tells that a user has come online.
    pub fn online(&self, user: &str) {
        self.tell(EventKind::Online, |encoder| encoder.presence(EventKind::Online, user));
    }

    /// Tells that a user has gone offline.
    pub fn offline(&self, user: &str) {
        self.tell(EventKind::Offline, |encoder| encoder.presence(EventKind::Offline, user));
    }

    /// Tells that the process has started. The first shard must call it once, or no other shard writes anything.
    pub fn node_started(&self) {
        self.tell(EventKind::Node, |encoder| encoder.node_state("start"));
    }

    /// Tells that the process stops. No client may be left.
    pub fn node_stopped(&self) {
        self.tell(EventKind::Node, |encoder| encoder.node_state("stop"));
    }

    /// Tells that a request has published a message.
    pub fn posted(
        &self,
        facility: &Facility,
        user: Option<&str>,
        audiences: impl FnOnce() -> Vec<String>,
        payload: &Bytes,
    ) {
        let enabled = self.wanted(EventKind::Message);
        if let Some(enabled) = enabled.filter(|enabled| enabled.settings.events.facilities.admit(facility)) {
            let json =
                enabled.encoder.message((facility.as_str(), "relay"), None, user, &audiences(), payload);
            let _counted = enabled.writer.push(json, EventDelivery::AtMostOnce(Weak::new()));
        }
    }

    /// Passes on the event of a Socket.IO client, whose connection ends if Redis cannot be reached.
    ///
    /// # Errors
    ///
    /// When too many events wait.
    pub fn pass_on(&self, event: &ClientEvent<'_>, sender: &Rc<Listener>) -> Result<(), QueueFull> {
        let Some(enabled) = &self.0 else { return Ok(()) };
        let delivery = EventDelivery::AtMostOnce(Rc::downgrade(sender));
        enabled.writer.try_push(enabled.encoder.client_event(event), delivery)
    }

    /// Waits until no event is queued or in flight. Cancel-safe.
    pub async fn settled(&self) {
        if let Some(enabled) = &self.0 {
            enabled.writer.settled().await;
        }
    }

    /// Logs the events that could not be written before the end of the process.
    pub fn warn_of_unwritten(&self) {
        if let Some(enabled) = &self.0 {
            enabled.writer.warn_of_unwritten();
        }
    }
}
