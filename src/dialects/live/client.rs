//! The state of an open connection.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::answers::Answers;
use super::facility::LiveFacility;
use super::refusal::RequestRefusal;
use super::request_limit::RequestLimit;
use super::subscribe::JoinReport;
use crate::access::{ClientAddress, Credentials, Identity};
use crate::events::{AnnouncedClient, DisconnectReason};
use crate::hub::{Listener, Subscription, send_exempt};
use crate::presence::Attendance;
use crate::redis::PublishAcks;
use crate::shard::state::ShardState;
use crate::visitors::Visitor;
use crate::visitors::watch::PartialHold;
use crate::wire::Facility;
use crate::wire::live::{ErrorReply, frame_of};

/// The state of an open connection: its visitor, its subscriptions and its publications.
pub(super) struct LiveClient {
    /// The public id of the connection.
    pub(super) id: Rc<str>,
    /// Makes the connection known to the hub. Its topics are those of its facilities.
    pub(super) subscription: Subscription,
    /// In the order of their requests. At most `messages.max_facilities`.
    pub(super) facilities: Vec<LiveFacility>,
    /// The number of the last join.
    pub(super) last_join: u64,
    /// Joins that have ended, and wait to be applied.
    pub(super) reports: Rc<RefCell<Vec<JoinReport>>>,
    /// Its subscriptions read histories one after the other; none before the first one that does.
    pub(super) reads: Option<Arc<Semaphore>>,
    /// Its share in the visitor's lease; none if the visitor cannot change.
    pub(super) share: Option<PartialHold>,
    /// What it counts as for presence; none if it is not counted.
    pub(super) attendance: Option<Box<Attendance>>,
    /// The identity that the client was told.
    pub(super) identity: Identity,
    /// For the callback, which answers for one facility at a time; none without a callback.
    pub(super) credentials: Option<Rc<Credentials>>,
    pub(super) client_address: ClientAddress,
    /// None before the first publication.
    pub(super) acks: Option<Rc<PublishAcks>>,
    /// Facilities that were left before Redis has acknowledged their publications: Django hears of these before their end.
    pub(super) leaving: Vec<(Box<AnnouncedClient>, Facility)>,
    pub(super) request_limit: RequestLimit,
    /// Publications that the client wants to be answered: the number of each, and the client's own.
    pub(super) unanswered: VecDeque<(u32, i64)>,
    pub(super) received: u64,
    pub(super) answers: Answers,
    /// Messages that its outbox had dropped when losses were last noted.
    pub(super) dropped: u64,
    /// When it was last told of a gap.
    pub(super) gap_at: Option<Instant>,
}

impl LiveClient {
    /// Returns the position of a facility.
    pub(super) fn position(&self, facility: &Facility) -> Option<usize> {
        self.facilities.iter().position(|known| known.handshake.facility == *facility)
    }

    /// Leaves a facility, and returns it.
    pub(super) fn leave(&mut self, position: usize, reason: DisconnectReason) -> LiveFacility {
        let mut facility = self.facilities.remove(position);
        facility.earlier.set(None, None);
        if let Some(announced) = facility.announced.take() {
            announced.set_reason(reason);
            if announced.has_unacknowledged() {
                self.leaving.push((announced, facility.handshake.facility.clone()));
            }
        }
        facility
    }

    /// Returns the visitor as it is now.
    pub(super) fn visitor(&self) -> Visitor {
        self.share.as_ref().map(|share| share.visitor().clone()).unwrap_or_default()
    }

    /// Returns the bytes of publications that Redis has not acknowledged.
    pub(super) fn bytes_in_flight(&self) -> usize {
        self.acks.as_ref().map_or(0, |acks| acks.bytes())
    }
}

/// Sends an object of the gateway itself. It is not dropped: the client's requests bound the number of answers, because
/// nothing more is read from a client whose outbox is long.
pub(super) fn send(listener: &Listener, state: &ShardState, object: &str) {
    send_exempt(listener, &frame_of(object, listener.form), &state.sockets.limits);
}

/// Refuses a request.
pub(super) fn refuse(
    listener: &Listener,
    state: &ShardState,
    request: Option<i64>,
    facility: Option<&str>,
    refusal: RequestRefusal,
) {
    let reply = ErrorReply { request, facility, code: refusal.code(), why: refusal.why() };
    send(listener, state, &reply.encode());
}
