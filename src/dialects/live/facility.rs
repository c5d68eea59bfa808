//! One subscription of a connection: a facility, and what the visitor may do in it.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use tokio_util::task::AbortOnDropHandle;

use super::presence::PresencePlace;
use super::resume::Resume;
use super::verdict::Verdict;
use crate::dialects::groups::LayerClient;
use crate::dialects::relay::EchoTopics;
use crate::events::AnnouncedClient;
use crate::hub::Subscription;
use crate::presence::Attendance;
use crate::visitors::TokenBucket;
use crate::visitors::watch::PartialHold;
use crate::wire::{Channel, EntryId, Handshake};

/// The parts of an earlier subscription that deliver until the one in its place has joined. The task that joins ends them.
#[derive(Default)]
pub(super) struct EarlierParts {
    pub(super) subscription: Cell<Option<Subscription>>,
    pub(super) layer: Cell<Option<Box<LayerClient>>>,
    /// Whether it has heard groups of Django Channels.
    heard_groups: Cell<bool>,
}

impl EarlierParts {
    /// Lets parts deliver.
    pub(super) fn set(&self, subscription: Option<Subscription>, layer: Option<Box<LayerClient>>) {
        self.heard_groups.set(layer.as_ref().is_some_and(|layer| layer.hears_groups()));
        self.subscription.set(subscription);
        self.layer.set(layer);
    }
}

/// One subscription of a connection.
pub(super) struct LiveFacility {
    pub(super) handshake: Handshake,
    /// None before its first channels are joined, and while it reads on after a loss.
    pub(super) subscription: Option<Subscription>,
    /// Where its histories are read on; none if nothing is read.
    pub(super) resume: Option<Resume>,
    /// From where each channel with a history continues if no message has come since.
    pub(super) read_to: Vec<(Channel, EntryId)>,
    /// The client's number of the request that is not answered yet.
    pub(super) request: Option<i64>,
    /// Numbers the joins of a connection: the report of an older one is ignored.
    pub(super) join: u64,
    /// The task that joins its channels, or more of them.
    pub(super) joining: Option<AbortOnDropHandle<()>>,
    /// Whether its first channels have been joined.
    pub(super) is_open: bool,
    /// Whether an earlier subscription to the facility was open when this one was asked for.
    pub(super) replaces_open: bool,
    /// What delivers until this one holds the messages.
    pub(super) earlier: Rc<EarlierParts>,
    /// The channels that it listens to, those that are being joined included.
    pub(super) subscribes: Vec<Channel>,
    /// The channels that it publishes to; none if it may not publish.
    pub(super) publishes: Option<Rc<[Channel]>>,
    pub(super) echo_topics: EchoTopics,
    pub(super) verdict: Verdict,
    /// None if publications are not limited.
    pub(super) rate_limit: Option<Arc<TokenBucket>>,
    /// The visitor in this facility, if the callback has answered for it alone.
    pub(super) own: Option<PartialHold>,
    /// What it has to do with Django Channels; none for most.
    pub(super) layer: Option<Box<LayerClient>>,
    /// None if Django is told nothing about it.
    pub(super) announced: Option<Box<AnnouncedClient>>,
    /// What it counts as for presence; none if it is not counted.
    pub(super) attendance: Option<Box<Attendance>>,
    /// Its place among those who are told who comes and goes.
    pub(super) place: Option<PresencePlace>,
    /// Messages may have been lost, and the client has not been told.
    pub(super) owes_gap: bool,
}

impl LiveFacility {
    /// Creates a subscription whose channels are not joined yet.
    pub(super) fn new(handshake: Handshake, resume: Option<Resume>, request: Option<i64>) -> Self {
        Self {
            handshake,
            subscription: None,
            resume,
            read_to: Vec::new(),
            request,
            join: 0,
            joining: None,
            is_open: false,
            replaces_open: false,
            earlier: Rc::default(),
            subscribes: Vec::new(),
            publishes: None,
            echo_topics: EchoTopics::none(),
            verdict: Verdict::default(),
            rate_limit: None,
            own: None,
            layer: None,
            announced: None,
            attendance: None,
            place: None,
            owes_gap: false,
        }
    }

    /// Takes the place of an earlier subscription to the facility, whose messages go on until this one has joined.
    pub(super) fn replace(&mut self, mut earlier: Self) {
        if !earlier.is_open {
            // It has not joined, and passes on what it was to replace.
            earlier.subscription = earlier.earlier.subscription.take();
            earlier.layer = earlier.earlier.layer.take();
            earlier.owes_gap |= earlier.earlier.heard_groups.get() && earlier.layer.is_none();
        }
        if earlier.is_open || earlier.replaces_open {
            self.replaces_open = true;
            // One that is about to read on has lost messages.
            let is_whole = earlier.subscription.as_ref().is_some_and(|old| old.last_ids().is_none());
            self.owes_gap = earlier.owes_gap || !is_whole;
            self.subscription = earlier.subscription;
            self.layer = earlier.layer;
            self.announced = earlier.announced;
        }
    }

    /// Returns whether it waits for its channels.
    pub(super) fn is_joining(&self) -> bool {
        self.subscription.is_none() && self.joining.is_some()
    }

    /// Returns its name.
    pub(super) fn name(&self) -> &str {
        self.handshake.facility.as_str()
    }
}
