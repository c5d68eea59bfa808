//! The receiving side of a broker: from the bytes of the connection to instructions that wait to be passed on.

use std::cell::Cell;
use std::future::pending;
use std::sync::Arc;

use tracing::warn;

use super::batch::Batcher;
use super::control_inbox::ControlInbox;
use super::directives::{DirectiveQueue, packets_of};
use super::key_events::KeyEvents;
use super::link::{Link, LinkEvent};
use super::router::DirectiveRouter;
use super::subscriptions::Subscriptions;
use super::twins::TwinFinder;
use crate::metrics::Counters;
use crate::redis::{SubscriberEvent, Target};
use crate::settings::Settings;
use crate::sources::{BridgeOrders, Instruction, Source, SourceReader};
use crate::telemetry::LogThrottle;
use crate::wire::socket_io::EventData;
use crate::wire::{Channel, Directive, EmitTarget, Message, MountSet, NodeId};

/// An event between messages: everything that arrived before it is passed on first.
#[derive(Debug)]
pub(super) enum ControlEvent {
    /// The fence was answered, possibly with an error.
    Fence(Option<String>),
    /// Redis refuses a command.
    Refused(String),
    /// The connection was lost.
    Lost(String),
}

/// The connection, the subscriptions, which know the source of each message, and the instructions of received messages.
/// All of it is bounded, so that a slow shard costs no memory.
pub(super) struct Intake {
    pub(super) link: Link,
    pub(super) subscriptions: Subscriptions,
    pub(super) messages: Batcher,
    pub(super) key_events: KeyEvents,
    pub(super) control: ControlInbox,
    pub(super) directives: DirectiveQueue,
    sources: SourceReader,
    twins: TwinFinder,
    /// The mount of `socketio.path`, which messages of Node's emitters are for.
    main: MountSet,
    /// The mounts that messages of `RedisManager` are for.
    managed: MountSet,
    /// All mounts: a client that waits for an answer may be on any.
    all: MountSet,
    /// The mounts of clients of yunity-sockets.
    yunity: MountSet,
    /// The mounts of clients of the messenger.
    messenger: MountSet,
    router: DirectiveRouter,
    /// Nothing more is read until it is taken, so that events and messages stay in order.
    control_event: Option<ControlEvent>,
    counters: Arc<Counters>,
    oversize: LogThrottle,
    unreadable: LogThrottle,
}

impl Intake {
    pub(super) fn new(
        target: &Target,
        settings: &Settings,
        node: NodeId,
        counters: &Arc<Counters>,
        router: DirectiveRouter,
    ) -> Self {
        let redis = &settings.redis;
        let history = (!settings.history.is_empty()).then(|| settings.history_names());
        Self {
            link: Link::new(target, settings),
            subscriptions: Subscriptions::new(redis.unsubscribe_linger),
            messages: Batcher::new(redis.receiver_messages, redis.max_pending_bytes),
            key_events: KeyEvents::default(),
            control: ControlInbox::new(counters.clone()),
            directives: DirectiveQueue::new(redis.max_pending_bytes),
            sources: SourceReader::new(settings, Some(node)),
            twins: TwinFinder::new(history, target.is_cluster()),
            main: settings.socket_io.mounts_with(|mount| mount.is_main),
            all: settings.socket_io.mounts_with(|_| true),
            managed: settings.socket_io.mounts_with(|mount| mount.redis_manager),
            yunity: settings.socket_io.mounts_with(|mount| mount.yunity),
            messenger: settings.socket_io.mounts_with(|mount| mount.messenger),
            router,
            control_event: None,
            counters: counters.clone(),
            oversize: LogThrottle::default(),
            unreadable: LogThrottle::default(),
        }
    }

    /// Returns true if no instruction waits. A control event may.
    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
            && self.control.is_empty()
            && self.key_events.is_empty()
            && self.directives.is_empty()
    }

    /// Returns true if neither an instruction nor a control event waits.
    pub(super) fn is_drained(&self) -> bool {
        self.is_empty() && self.control_event.is_none()
    }

    /// Waits for an event of the link. Input is read only when nothing waits to be passed on. Safe to cancel.
    pub(super) async fn link_event(&mut self) -> LinkEvent {
        let read = self.is_drained();
        self.link.event(read, self.subscriptions.next_due()).await
    }

    /// Waits for input and takes it, unless a control event waits. Safe to cancel.
    pub(super) async fn receive(&mut self) {
        if self.control_event.is_some() {
            pending::<()>().await;
        }
        let input = self.link.fill().await;
        self.take_input(input);
    }

    /// Takes what was read, up to the next control event.
    pub(super) fn take_input(&mut self, input: Result<(), String>) {
        match input {
            Ok(()) => self.collect(),
            Err(reason) => {
                self.twins.reset();
                self.control_event = Some(ControlEvent::Lost(reason));
            }
        }
    }

    /// Returns the control event, and takes what was read behind it.
    pub(super) fn take_control_event(&mut self) -> Option<ControlEvent> {
        let event = self.control_event.take();
        if let Some(ControlEvent::Fence(_) | ControlEvent::Refused(_)) = event {
            self.collect();
        }
        event
    }

    fn collect(&mut self) {
        while self.control_event.is_none() {
            match self.link.next_event() {
                Ok(Some(SubscriberEvent::Message(message))) => self.take_message(message, None),
                Ok(Some(SubscriberEvent::PatternMessage(pattern, message))) => {
                    self.take_message(message, Some(&pattern));
                }
                Ok(Some(SubscriberEvent::Oversize(channel, bytes))) => self.drop_oversize(&channel, bytes),
                Ok(Some(SubscriberEvent::Acknowledged)) => self.twins.interrupt(),
                Ok(Some(SubscriberEvent::Fence(refusal))) => {
                    self.twins.interrupt();
                    self.control_event = Some(ControlEvent::Fence(refusal));
                }
                Ok(Some(SubscriberEvent::Refused(reason))) => {
                    self.control_event = Some(ControlEvent::Refused(reason));
                }
                Ok(None) => return,
                Err(reason) => self.control_event = Some(ControlEvent::Lost(reason)),
            }
        }
    }

    /// Decodes a message by the source of its channel, or of the pattern that it matched, and queues the instruction.
    fn take_message(&mut self, message: Message, pattern: Option<&[u8]>) {
        let name = pattern.unwrap_or_else(|| message.channel());
        let Some((number, channel, source)) = self.subscriptions.find(name) else { return };
        if source == Source::Control && !self.control.admit() {
            return;
        }
        let (mounts, receivers) = (self.mounts_of(source), Cell::new(0));
        let is_wanted = |target: &EmitTarget| {
            receivers.set(self.router.receivers(mounts, target));
            receivers.get() != 0
        };
        match self.sources.read(source, message, is_wanted) {
            Some(Instruction::Deliver(message)) => {
                let is_twin = self.twins.is_second(&message);
                self.messages.push(number, message, is_twin);
            }
            Some(Instruction::KeyChanged(event)) => self.key_events.add(channel, event),
            Some(Instruction::Invalidate(invalidation)) => self.control.add_invalidation(invalidation),
            Some(Instruction::Query(query)) => self.control.add_query(query),
            Some(Instruction::Emit(emit)) => {
                self.note_replaced(&emit.1);
                self.directives.emit(mounts, receivers.get(), emit.0, &emit.1);
            }
            Some(Instruction::Direct(directive)) => {
                if let Directive::Ask(_, asked) = &*directive {
                    self.note_replaced(&asked.event);
                }
                let is_answer = matches!(*directive, Directive::Answer(..));
                let mounts = if is_answer { self.all } else { mounts };
                if let Some(routed) = self.router.route(mounts, *directive) {
                    self.directives.push(routed);
                }
            }
            Some(Instruction::Bridge(orders)) => self.take_orders(*orders),
            None if source == Source::Control => self.control.note_malformed(),
            None if source.is_socket_io() => self.note_unreadable(channel, source),
            Some(Instruction::Ignore) | None => {}
        }
    }

    /// Queues what a message of the bridges asks for.
    fn take_orders(&mut self, orders: BridgeOrders) {
        let BridgeOrders { notification, emits, gathers } = orders;
        let notification = notification.map(|(users, event)| Directive::Notify(users, packets_of(&event)));
        let gathering = gathers.then_some(Directive::BeginGathering);
        let routed = notification.and_then(|directive| self.router.route(self.yunity, directive));
        let routed = routed
            .into_iter()
            .chain(gathering.and_then(|directive| self.router.route(self.messenger, directive)));
        for directive in routed {
            self.directives.push(directive);
        }
        for (target, event) in emits {
            let shards = self.router.receivers(self.messenger, &target);
            if shards != 0 {
                self.directives.emit(self.messenger, shards, target, &event);
            }
        }
    }

    /// Returns the mounts whose clients the messages of a source reach.
    fn mounts_of(&self, source: Source) -> MountSet {
        if source == Source::RedisManager { self.managed } else { self.main }
    }

    /// Counts numbers that JSON does not have: JavaScript clients drop their connection at the text that Python writes.
    fn note_replaced(&self, event: &EventData) {
        if event.replaced() > 0 {
            Counters::add(&self.counters.replaced_numbers, event.replaced() as u64);
        }
    }

    /// Counts a message for Socket.IO clients that cannot be read. Its content is not logged.
    fn note_unreadable(&self, channel: &Channel, source: Source) {
        Counters::count(&self.counters.unreadable_emits);
        if let Some(suppressed) = self.unreadable.allow() {
            let cure = if source == Source::RedisManager {
                ", or in pickle; not delivered. For python-socketio before 5.14.0 set socketio.redis_manager.pickle"
            } else {
                "; not delivered"
            };
            warn!(?channel, suppressed, "message on a Socket.IO channel is malformed or too large{cure}");
        }
    }

    fn drop_oversize(&self, channel: &Channel, bytes: usize) {
        if let Some(suppressed) = self.oversize.allow() {
            warn!(
                ?channel,
                bytes,
                suppressed,
                "message from redis too big; not delivered. See messages.max_delivery_bytes"
            );
        }
        Counters::count(&self.counters.oversized_deliveries);
    }
}
