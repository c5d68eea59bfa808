//! One session of Engine.IO: a client, over polling or a WebSocket.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;

use smallvec::SmallVec;

use super::{PendingAcks, SenderState, Sid};
use crate::access::Fingerprint;
use crate::events::{AnnouncedClient, DisconnectReason};
use crate::hub::{Listener, LocalMember};
use crate::presence::Attendance;
use crate::stream::Permit;
use crate::unfinished::Unfinished;
use crate::visitors::TokenBucket;
use crate::visitors::watch::{LeaseHold, PartialHold};
use crate::wire::engine_io::EngineVersion;
use crate::wire::socket_io::AttachmentCollector;
use crate::wire::{Mount, Topic};

/// One session of Engine.IO. Times are in milliseconds of the table's clock.
pub struct EngineSession {
    /// The secret id: only the client learns it.
    pub sid: Sid,
    /// Its place in the shard's table.
    pub slot: u32,
    /// The path that the client uses.
    pub mount: Mount,
    /// The client's protocol.
    pub version: EngineVersion,
    /// The hub's side of the connection.
    pub listener: Rc<Listener>,
    /// The namespaces that the client has joined, in order.
    pub sockets: RefCell<SmallVec<[NamespaceSocket; 1]>>,
    /// The message whose attachments are missing.
    pub collector: RefCell<AttachmentCollector>,
    /// Its bytes in the memory of the process; none if no attachment is missing.
    pub unfinished: RefCell<Option<Box<Unfinished>>>,
    /// Its share in the visitor's lease; none if the visitor cannot change.
    pub lease: RefCell<Option<LeaseHold>>,
    /// What carries its packets at the moment, and how far an upgrade is.
    pub transport: Cell<TransportState>,
    /// State that only polling needs; none over a WebSocket.
    pub poll: RefCell<Option<Box<PollState>>>,
    /// Since when attachments are missing; 0 if none are.
    pub collecting_since: Cell<u64>,
    /// When it was opened.
    pub opened: u64,
    /// When the client last sent a packet.
    pub last_received: Cell<u64>,
    /// When the server last sent a ping.
    pub last_ping: Cell<u64>,
    /// Why it ends soon, if it does.
    pub deadline: Cell<Deadline>,
    /// Packets of the client in namespaces that it has joined.
    pub received: Cell<u32>,
    /// How often the client was refused a namespace.
    pub refused_connects: Cell<u8>,
    /// Limits its events, in all namespaces together; none before the first one.
    pub event_limit: OnceCell<Box<TokenBucket>>,
    /// Seconds after its opening at which none of its joins counts any more.
    joins_until: Cell<u32>,
    /// What Django is told about its end, if its listener does not show it.
    pub end_reason: Cell<Option<DisconnectReason>>,
}

/// What carries the packets of a session, and how far its upgrade is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransportState {
    /// A WebSocket.
    WebSocket,
    /// Polling.
    Polling,
    /// Polling; the client has requested a WebSocket.
    UpgradeRequested,
    /// Polling; the client tests its new WebSocket, and polls are answered at once.
    UpgradeProbed,
}

/// The state of a session that polls.
#[expect(clippy::struct_excessive_bools, reason = "they are independent of each other")]
pub struct PollState {
    /// Counts the session as a connection.
    pub permit: Permit,
    /// Counts it among the sessions whose client has not joined a namespace and come back yet.
    pub newcomer: Option<Permit>,
    /// Fingerprint of the session cookie, without which the id is worth nothing; none if no session was read.
    pub credential: Option<Fingerprint>,
    /// Whether the client wants attachments in base64.
    pub wants_base64: bool,
    /// A poll has come.
    pub has_polled: bool,
    /// A poll waits.
    pub is_waiting: bool,
    /// A post is on its way.
    pub is_posting: bool,
    /// The client has closed the session.
    pub is_closed: bool,
    /// When the latest upgrade to a WebSocket began.
    pub upgrade_began: u64,
    /// The number of that upgrade: a WebSocket of an earlier one is too late.
    pub upgrade: u64,
    /// The WebSocket of that upgrade.
    pub probing: Option<Rc<Listener>>,
    /// When a poll was last answered without a packet.
    pub noop_at: u64,
    /// When the end of the session was carried out; 0 if it has not ended.
    pub ended_at: u64,
}

/// When a session without a namespace ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deadline {
    /// The client has joined a namespace.
    None,
    /// The client has to join a namespace until then.
    Connect(u64),
    /// The client was disconnected from its last namespace, and normally closes by itself.
    Grace(u64),
}

/// A client in a namespace: what Socket.IO calls a socket. Dropping it leaves the namespace and all rooms.
pub struct NamespaceSocket {
    /// The topic of the namespace.
    pub topic: Topic,
    /// The public id. Django addresses the client with it.
    pub sid: Sid,
    /// Its membership in the namespace and in rooms.
    pub member: LocalMember,
    /// The lease of the token that it joined the namespace with; none if its identity is that of the session.
    pub lease: Option<PartialHold>,
    /// What it counts as for presence; none if it is not counted.
    pub attendance: Option<Box<Attendance>>,
    /// Acknowledgements that it owes to Django.
    pub acks: Option<Box<PendingAcks>>,
    /// The rooms that follow from the visitor's identity.
    pub own_rooms: Box<[Topic]>,
    /// None if Django is told nothing about it.
    pub announced: Option<Box<AnnouncedClient>>,
    /// What its events have left; none before the first one.
    pub sender: Option<Box<SenderState>>,
}

impl EngineSession {
    /// Creates the session of a client that connects now.
    pub fn new(
        sid: Sid,
        slot: u32,
        mount: Mount,
        version: EngineVersion,
        listener: Rc<Listener>,
        now: u64,
        deadline: Deadline,
    ) -> Self {
        Self {
            sid,
            slot,
            mount,
            version,
            listener,
            sockets: RefCell::default(),
            collector: RefCell::default(),
            unfinished: RefCell::default(),
            lease: RefCell::default(),
            transport: Cell::new(TransportState::WebSocket),
            poll: RefCell::default(),
            collecting_since: Cell::new(0),
            opened: now,
            last_received: Cell::new(now),
            last_ping: Cell::new(now),
            deadline: Cell::new(deadline),
            received: Cell::new(0),
            refused_connects: Cell::new(0),
            event_limit: OnceCell::new(),
            joins_until: Cell::new(0),
            end_reason: Cell::default(),
        }
    }

    /// Counts a join. One join per second is forgotten. Returns false if there would be more than `burst`.
    pub fn take_join(&self, now: u64, burst: u32) -> bool {
        let seconds = u32::try_from(now.saturating_sub(self.opened) / 1_000).unwrap_or(u32::MAX);
        let until = self.joins_until.get().max(seconds).saturating_add(1);
        let is_allowed = until.saturating_sub(seconds) <= burst;
        if is_allowed {
            self.joins_until.set(until);
        }
        is_allowed
    }

    /// Returns whether the client has joined a namespace.
    pub fn is_connected(&self, namespace: &str) -> bool {
        self.sockets.borrow().iter().any(|socket| socket.namespace() == namespace)
    }

    /// Tells Django that the client has disconnected. Its namespaces may be left later.
    pub fn announce_end(&self) {
        let reason = self.end_reason.get().or_else(|| self.listener.ending().map(DisconnectReason::from));
        for socket in self.sockets.borrow_mut().iter_mut() {
            if let Some(announced) = socket.announced.take() {
                announced.set_reason(reason.unwrap_or(DisconnectReason::TransportClose));
            }
        }
    }

    /// Leaves all namespaces, and frees what only an open session needs: its connection may take seconds to close.
    pub fn release(&self) {
        self.announce_end();
        self.sockets.borrow_mut().clear();
        self.lease.take();
        self.collector.take();
        self.unfinished.take();
    }

    /// Leaves a namespace for a reason that Django is told, and ends the session at `deadline` if it was the last one. Returns
    /// false if the client is not in it.
    pub fn leave(&self, namespace: &str, deadline: Deadline, reason: DisconnectReason) -> bool {
        let mut sockets = self.sockets.borrow_mut();
        let Some(index) = sockets.iter().position(|socket| socket.namespace() == namespace) else {
            return false;
        };
        if let Some(announced) = sockets.remove(index).announced {
            announced.set_reason(reason);
        }
        if sockets.is_empty() {
            self.deadline.set(deadline);
        }
        true
    }
}

impl NamespaceSocket {
    /// Returns the namespace.
    pub fn namespace(&self) -> &str {
        self.topic.namespace_name()
    }
}
