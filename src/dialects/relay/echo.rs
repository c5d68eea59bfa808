//! Echo suppression: without the flag `echo` a client does not receive its own messages.
//!
//! Each publication is excluded by the hub's filter of the client's listener from before it is sent until it has arrived,
//! or until some seconds after Redis has acknowledged it.

use crate::access::Grant;
use crate::hub::{Addition, Listener, Subscription};

/// Seconds for which an acknowledged publication is excluded: Redis delivers the message much sooner.
const KEPT_SECONDS: u32 = 5;

/// The topics of a client whose messages may be its own: those that it both subscribes and publishes to. None with the flag
/// `echo`.
pub(in crate::dialects) struct EchoTopics(Box<[u32]>);

impl EchoTopics {
    /// Returns no topics.
    pub(in crate::dialects) fn none() -> Self {
        Self(Box::default())
    }

    /// Returns the topics of a grant, those of a pending addition included.
    pub(in crate::dialects) fn new(
        grant: &Grant,
        subscription: &Subscription,
        addition: Option<&Addition>,
    ) -> Self {
        if grant.echo {
            return Self::none();
        }
        let own = subscription.topic_ids(&grant.publish);
        let Some(addition) = addition else { return Self(own) };
        Self(own.into_iter().chain(addition.joining().topic_ids(&grant.publish)).collect())
    }

    /// Excludes a publication. Called before it is sent, because its message may arrive before the acknowledgement.
    pub(in crate::dialects) fn exclude(
        &self,
        subscription: &Subscription,
        listener: &Listener,
        payload: &[u8],
        number: u32,
    ) {
        subscription.exclude(listener, &self.0, payload, number);
    }
}

/// Handles Redis' acknowledgement of the publications with numbers below `below`, in the shard's second `now`.
pub(in crate::dialects) fn acknowledge(listener: &Listener, below: u32, now: u32) {
    listener.mark_excluded_sent(below, now + KEPT_SECONDS);
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::hub::{Hub, Limits, Run, SharedHub};
    use crate::wire::{Channel, Form, Topic};

    #[test]
    fn an_own_message_is_excluded_until_some_seconds_after_its_acknowledgement() {
        let channels = ["a", "b"].map(Channel::from_redis);
        let topics = channels.clone().map(Topic::from);
        let hub = SharedHub::new(Hub::new(Limits::default()));
        let subscription = hub.join(&channels);
        let listener = Rc::new(Listener::parked(Form::Frames, 1000, 60));
        subscription.open(&listener, &[]);
        let publishes = channels[..1].to_vec();
        let grant = Grant { publish: publishes, ..Grant::default() };
        let own = EchoTopics::new(&grant, &subscription, None);
        let deliver = |topic: &Topic| {
            let before = listener.counts().0;
            hub.with(|hub| hub.deliver(topic, Run::of(b"x")));
            listener.counts().0 - before
        };
        for number in 0..2 {
            own.exclude(&subscription, &listener, b"x", number);
        }
        assert_eq!(deliver(&topics[1]), 1, "a topic that it does not publish to");
        assert_eq!([deliver(&topics[0]), deliver(&topics[0]), deliver(&topics[0])], [0, 0, 1]);

        own.exclude(&subscription, &listener, b"x", 2);
        acknowledge(&listener, 3, 1000);
        listener.remove_expired(1000 + KEPT_SECONDS);
        assert_eq!(deliver(&topics[0]), 1, "expired: the message is another client's");

        let with_echo = EchoTopics::new(&Grant { echo: true, ..grant }, &subscription, None);
        with_echo.exclude(&subscription, &listener, b"x", 3);
        assert_eq!(deliver(&topics[0]), 1);
    }
}
