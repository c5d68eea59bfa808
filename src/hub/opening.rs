//! What a member gets before it goes live: values, messages of a history, and what was held.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};

use super::digests::Digester;
use super::hold::PendingJoin;
use super::labels::TopicLabels;
use super::listener::Listener;
use super::listener::replay::{queue_replay, replay_run, replay_value};
use super::outbox::Limits;
use super::run::Run;
use super::value_cache::ValueCache;
use crate::wire::EntryId;
use crate::wire::form::store;

/// What was read for a joining member. A topic is named by its index among the member's own.
#[derive(Debug, Default)]
pub struct Replay<'a> {
    /// The value of each topic; those behind the last one have none.
    pub values: &'a [Option<Bytes>],
    /// Messages of histories, each with its topic, in the order of delivery. Each begins with its id and a blank.
    pub history: &'a [(usize, Bytes)],
    /// The id of each topic up to which its history was read: messages up to it are not delivered again.
    pub read_to: &'a [Option<EntryId>],
    /// Nothing is written yet: the task of the connection does not run.
    pub(super) is_queued: bool,
}

impl<'a> Replay<'a> {
    /// Combines values, messages of histories, and the ids up to which these were read.
    pub fn new(
        values: &'a [Option<Bytes>],
        history: &'a [(usize, Bytes)],
        read_to: &'a [Option<EntryId>],
    ) -> Self {
        Self { values, history, read_to, is_queued: false }
    }
}

/// A member that is being opened.
pub(super) struct MemberOpening<'a> {
    pub(super) listener: &'a Rc<Listener>,
    pub(super) topics: &'a [u32],
    pub(super) labels: &'a TopicLabels,
    pub(super) value_cache: &'a mut ValueCache,
    pub(super) digester: &'a Digester,
    pub(super) limits: &'a Limits,
}

impl MemberOpening<'_> {
    /// Delivers values, then messages of histories, then what was held.
    pub(super) fn deliver(mut self, replay: &Replay<'_>, pending: PendingJoin) {
        for (index, (value, topic)) in replay.values.iter().zip(self.topics).enumerate() {
            if let Some(value) = value.as_ref().filter(|value| pending.needs(index, value)) {
                let digest = self.digester.digest(value);
                let run =
                    self.labels.value_run(self.value_cache, (value, digest), *topic, self.listener.form);
                if replay.is_queued {
                    queue_replay(self.listener, &run, self.limits);
                } else {
                    replay_value(self.listener, *topic, &run, digest, self.limits);
                }
            }
        }
        for messages in replay.history.chunk_by(|(one, _), (other, _)| one == other) {
            let mut stored = BytesMut::new();
            for (_, message) in messages {
                store(&mut stored, message);
            }
            let count = u32::try_from(messages.len()).unwrap_or(u32::MAX);
            self.replay_run(messages[0].0, &Run::new(stored.freeze(), count), replay.is_queued);
        }
        self.exclude_read(replay);
        for (index, run) in pending.into_runs() {
            // Others have had it, too, unlike what only this member has read.
            self.topics.get(index).iter().for_each(|topic| self.labels.note_id(**topic, &run));
            self.replay_run(index, &run, replay.is_queued);
        }
    }

    /// Excludes what was read from histories, and arrives only now.
    fn exclude_read(&self, replay: &Replay<'_>) {
        for (topic, id) in self.topics.iter().zip(replay.read_to) {
            if let Some(id) = id {
                self.listener.set_read_to(*topic, *id);
            }
        }
    }

    fn replay_run(&mut self, index: usize, run: &Run, is_queued: bool) {
        let Some(topic) = self.topics.get(index) else { return };
        self.labels.label(*topic, run, false);
        if is_queued {
            queue_replay(self.listener, run, self.limits);
        } else {
            replay_run(self.listener, *topic, run, self.limits, self.digester);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::Hub;
    use crate::wire::{Channel, Form, Topic};

    #[test]
    fn what_was_read_from_a_history_is_not_delivered_again_however_late_it_arrives() {
        let live = Topic::from(Channel::from_redis("ws4redis:live:broadcast:x"));
        let mut hub = Hub::new(Limits::default());
        let part = hub.join(std::slice::from_ref(&live));
        let listener = Rc::new(Listener::parked(Form::Objects, 1, 60));
        hub.deliver(&live, Run::of(b"4-0 held"));
        let history = [(0, Bytes::from_static(b"4-0 held")), (0, Bytes::from_static(b"5-0 read"))];
        let id = |ms| Some(EntryId { ms, seq: 0 });
        hub.open_part(part, &listener, &Replay::new(&[], &history, &[id(5)]));
        hub.deliver(&live, Run::of(b"5-0 read"));
        hub.deliver(&live, Run::join(vec![Run::of(b"5-0 read"), Run::of(b"6-0 new")]).unwrap());
        hub.deliver(&live, Run::of(b"7-0 newer"));
        let sent = listener.take_queued(1 << 20).concat();
        let sent = String::from_utf8_lossy(&sent);
        let ids: Vec<_> = sent.split(r#""id":""#).skip(1).map(|rest| &rest[..3]).collect();
        assert_eq!(ids, ["4-0", "5-0", "6-0", "7-0"]);
        hub.pause();
        hub.deliver(&live, Run::of(b"9-0 after a loss"));
        assert_eq!(hub.last_ids(part), Some(vec![(live, id(7))]));
        assert!(!listener.has_queued(), "it reads on instead");
    }

    #[test]
    fn a_part_that_joins_again_gets_the_history_again() {
        let live = Topic::from(Channel::from_redis("ws4redis:live:broadcast:x"));
        let mut hub = Hub::new(Limits::default());
        let listener = Rc::new(Listener::parked(Form::Objects, 1, 60));
        let history = [(0, Bytes::from_static(b"5-0 read"))];
        let read_to = [Some(EntryId { ms: 5, seq: 0 })];
        for _ in 0..2 {
            let part = hub.join(std::slice::from_ref(&live));
            hub.open_part(part, &listener, &Replay::new(&[], &history, &read_to));
            assert!(listener.has_queued());
            listener.discard_queued();
            hub.leave(part);
        }
    }

    fn topic(name: &str) -> Topic {
        Topic::from(Channel::from_redis(name))
    }

    #[test]
    fn a_part_that_leaves_after_a_loss_excludes_nothing_of_the_next_topics() {
        let mut hub = Hub::new(Limits::default());
        let listener = Rc::new(Listener::parked(Form::Objects, 1, 60));
        // Freed numbers are given again as long as a topic is left.
        hub.join(&[topic("broadcast:other")]);
        let part = hub.join(&[topic("broadcast:x"), topic("ws4redis:live:broadcast:x")]);
        let read_to = |ms| [None, Some(EntryId { ms, seq: 0 })];
        hub.open_part(part, &listener, &Replay::new(&[], &[], &read_to(9)));
        hub.pause();
        hub.leave(part);
        hub.take_requests();
        let part = hub.join(&[topic("ws4redis:live:broadcast:y"), topic("broadcast:y")]);
        let history = [(0, Bytes::from_static(b"5-0 of y"))];
        hub.open_part(part, &listener, &Replay::new(&[], &history, &[]));
        assert!(listener.has_queued());
    }

    #[test]
    fn a_part_that_leaves_topics_after_a_loss_keeps_the_last_ids_of_the_others() {
        let mut hub = Hub::new(Limits::default());
        let listener = Rc::new(Listener::parked(Form::Objects, 1, 60));
        let names = ["ws4redis:live:group:a:x", "ws4redis:live:group:b:x"].map(topic);
        let part = hub.join(&names);
        hub.open_part(part, &listener, &Replay::default());
        hub.deliver(&names[0], Run::of(b"4-0 a"));
        hub.deliver(&names[1], Run::of(b"7-0 b"));
        hub.pause();
        hub.retain_topics(part, |topic| *topic == names[1]);
        assert_eq!(hub.last_ids(part), Some(vec![(names[1].clone(), Some(EntryId { ms: 7, seq: 0 }))]));
    }
}
