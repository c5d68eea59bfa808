//! The filter of a listener: messages that it does not receive, recognised by topic and digest.
//!
//! The caller decides which messages to exclude, when each was sent, and how long it may take to arrive. The filter
//! compares, and knows about losses of messages: a loss and the re-read value after it reach all listeners between two
//! deliveries, so no task of a connection could adapt its filter in time.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use bytes::Bytes;

use super::digests::Digester;
use super::run::Run;
use crate::wire::{EntryId, Form};

/// The excluded messages of one listener, in the order in which they were added. One pointer before the first one, and
/// after the last has expired.
#[derive(Debug, Default)]
pub(super) struct DigestFilter(Option<Box<FilterParts>>);

#[derive(Debug, Default)]
struct FilterParts {
    exclusions: VecDeque<Exclusion>,
    /// Topics whose messages up to an id were read from a history, and may still arrive.
    read_to: Vec<(u32, EntryId)>,
}

#[derive(Debug)]
struct Exclusion {
    topic: u32,
    digest: u64,
    /// A number of the caller, which never decreases from one exclusion to the next.
    tag: u32,
    /// The shard's second at which the exclusion expires; [`NOT_SENT`] until the message was sent.
    expiry: u32,
    /// The message was sent before a loss: it arrives as a re-read value, or not at all.
    value_only: bool,
}

const NOT_SENT: u32 = u32::MAX;

impl DigestFilter {
    pub(super) fn is_empty(&self) -> bool {
        self.0.as_ref().is_none_or(|parts| parts.exclusions.is_empty() && parts.read_to.is_empty())
    }

    fn exclusions(&self) -> impl Iterator<Item = &Exclusion> {
        self.0.iter().flat_map(|parts| parts.exclusions.iter())
    }

    fn exclusions_mut(&mut self) -> impl Iterator<Item = &mut Exclusion> {
        self.0.iter_mut().flat_map(|parts| parts.exclusions.iter_mut())
    }

    fn retain(&mut self, keep: impl FnMut(&Exclusion) -> bool) {
        if let Some(parts) = &mut self.0 {
            parts.exclusions.retain(keep);
        }
    }

    /// Excludes the messages of a topic up to an id.
    pub(super) fn set_read_to(&mut self, topic: u32, id: EntryId) {
        let read_to = &mut self.0.get_or_insert_default().read_to;
        read_to.retain(|(known, _)| *known != topic);
        read_to.push((topic, id));
    }

    /// Takes the id up to which the messages of a topic are excluded. Ids rise: after a newer message none is.
    pub(super) fn take_read_to(&mut self, topic: u32) -> Option<EntryId> {
        let read_to = &mut self.0.as_mut()?.read_to;
        let index = read_to.iter().position(|(known, _)| *known == topic)?;
        Some(read_to.swap_remove(index).1)
    }

    /// Excludes one message of a topic, which has not been sent yet.
    pub(super) fn add(&mut self, topic: u32, digest: u64, tag: u32) {
        let exclusion = Exclusion { topic, digest, tag, expiry: NOT_SENT, value_only: false };
        self.0.get_or_insert_default().exclusions.push_back(exclusion);
    }

    /// Marks the messages with tags below `below` as sent. They expire in the shard's second `expiry`, if they have no
    /// earlier expiry.
    pub(super) fn mark_sent(&mut self, below: u32, expiry: u32) {
        for exclusion in self.exclusions_mut().take_while(|exclusion| exclusion.tag < below) {
            exclusion.expiry = exclusion.expiry.min(expiry);
        }
    }

    /// Removes the oldest exclusion that matches a live message. Returns whether there was one.
    pub(super) fn take_match(&mut self, topic: u32, digest: u64) -> bool {
        let Some(FilterParts { exclusions, .. }) = self.0.as_deref_mut() else { return false };
        let found = exclusions.iter().position(|exclusion| {
            exclusion.topic == topic && exclusion.digest == digest && !exclusion.value_only
        });
        found.is_some_and(|index| exclusions.remove(index).is_some())
    }

    /// Returns whether a value of a topic is excluded. The exclusion stays, because the message may arrive live, too.
    pub(super) fn excludes_value(&self, topic: u32, digest: u64) -> bool {
        self.exclusions().any(|exclusion| exclusion.topic == topic && exclusion.digest == digest)
    }

    /// Removes the exclusions of a topic that was left: another topic may get its number.
    pub(super) fn leave(&mut self, topic: u32) {
        self.retain(|exclusion| exclusion.topic != topic);
        self.take_read_to(topic);
    }

    /// Removes expired exclusions. Not called in an outage: no message arrives then, and afterwards each may arrive as a
    /// re-read value.
    pub(super) fn remove_expired(&mut self, now: u32) {
        self.retain(|exclusion| exclusion.expiry > now);
        if self.is_empty() {
            self.0 = None;
        }
    }

    /// Handles a loss of messages: a live message that equals one that was sent before is another one from now on.
    pub(super) fn on_lost(&mut self) {
        self.exclusions_mut().for_each(|exclusion| exclusion.value_only |= exclusion.expiry != NOT_SENT);
    }

    /// Handles the end of a topic's pause: messages that were sent before the loss cannot arrive any more.
    pub(super) fn on_recovered(&mut self, topic: u32) {
        self.retain(|exclusion| !(exclusion.value_only && exclusion.topic == topic));
    }
}

/// Passes the parts of a run that a listener's filter does not exclude to `send`, each with the whole, and counts their
/// messages as delivered.
pub(super) fn send_unfiltered(
    filter: &RefCell<DigestFilter>,
    (topic, form): (u32, Form),
    run: &Run,
    digester: &Digester,
    delivered: &Cell<u64>,
    send: impl Fn(&Bytes, &Bytes),
) {
    let read_to = filter.borrow_mut().take_read_to(topic);
    if let Some(id) = read_to {
        match run.after(id) {
            Some(newer) => send_unfiltered(filter, (topic, form), &newer, digester, delivered, send),
            None => filter.borrow_mut().set_read_to(topic, id),
        }
        return;
    }
    let bytes = run.in_form(form);
    // The part from `from` to `end` is to be sent.
    let (mut from, mut end) = (0, 0);
    for (digest, next_end) in run.ends_in(form, digester) {
        let start = std::mem::replace(&mut end, next_end);
        if filter.borrow_mut().take_match(topic, digest) {
            send(&bytes.slice(from..start), bytes);
            from = end;
        } else {
            delivered.set(delivered.get() + u64::from(end > start));
        }
    }
    send(&bytes.slice(from..), bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exclusion_matches_one_message_of_its_topic() {
        let mut filter = DigestFilter::default();
        filter.add(1, 7, 0);
        filter.add(1, 7, 1);
        assert!(!filter.take_match(2, 7));
        assert!(filter.take_match(1, 7));
        assert!(filter.take_match(1, 7));
        assert!(!filter.take_match(1, 7));
    }

    #[test]
    fn an_exclusion_expires_only_after_its_message_was_sent() {
        let mut filter = DigestFilter::default();
        filter.add(1, 7, 0);
        filter.add(1, 8, 1);
        filter.remove_expired(1000);
        filter.mark_sent(1, 1005);
        filter.remove_expired(1004);
        assert!(!filter.is_empty());
        filter.mark_sent(1, 1009);
        filter.remove_expired(1005);
        assert!(!filter.take_match(1, 7), "expired: the second call did not prolong it");
        assert!(filter.take_match(1, 8), "not sent, not expired");
    }

    #[test]
    fn after_a_loss_a_message_that_was_sent_before_matches_only_a_value() {
        let mut filter = DigestFilter::default();
        filter.add(1, 7, 0);
        filter.add(1, 8, 1);
        filter.mark_sent(1, 1005);
        filter.on_lost();
        assert!(filter.excludes_value(1, 7) && !filter.excludes_value(2, 7));
        assert!(!filter.take_match(1, 7), "a live message with this payload is another one");
        filter.on_recovered(1);
        assert!(!filter.excludes_value(1, 7));
        assert!(filter.excludes_value(1, 8) && filter.take_match(1, 8), "not sent before the loss");
    }
}
