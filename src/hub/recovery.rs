//! After a loss of messages: a topic is paused until its persisted value has been re-read, so that no older message
//! follows a newer one.

use bytes::Bytes;

use super::Run;
use super::routing::{Generation, Hub, JoinError, MemberState};
use crate::wire::Topic;

impl Hub {
    /// Pauses all subscribed topics until the persisted value of each has been re-read. Joining members wait, too,
    /// because the value that they have read may be older or newer.
    pub fn pause(&mut self) {
        for topic in self.topics.values_mut().filter(|topic| topic.subscribed) {
            let was_live = topic.is_live();
            topic.paused.get_or_insert_default();
            for slot in &topic.members {
                if let MemberState::Joining(pending) = &mut self.members[slot.member as usize].state {
                    pending.stale = true;
                    pending.topics_left += usize::from(was_live);
                }
            }
        }
    }

    /// Handles Redis' refusal of a subscription: its joining members fail. For open members the broker retries after a
    /// back-off, and the next member that joins makes it retry at once.
    pub fn on_refused(&mut self, topic: &Topic, generation: Generation) {
        let Some(id) = self.topics.find(topic.as_ref()) else { return };
        let topic = &mut self.topics[id];
        if topic.requested != Some(generation) {
            return;
        }
        topic.refused = true;
        for slot in &topic.members {
            if let MemberState::Joining(pending) = &mut self.members[slot.member as usize].state {
                pending.fail(JoinError::Refused);
            }
        }
        self.resume(id, None);
    }

    /// Pauses a topic that Redis had refused and now accepts, until its persisted value has been re-read.
    pub fn on_regained(&mut self, topic: &Topic) {
        if let Some(id) = self.topics.find(topic.as_ref()) {
            let topic = &mut self.topics[id];
            // A subscribed topic is live or already paused.
            if !topic.subscribed {
                topic.paused.get_or_insert_default();
            }
        }
    }

    /// Delivers the re-read value of a topic, if it is new, then the messages of the pause, and goes live.
    pub fn recover(&mut self, topic: &Topic, value: Option<&Bytes>) {
        if let Some(id) = self.topics.find(topic.as_ref()) {
            self.resume(id, value);
        }
    }

    pub(super) fn resume(&mut self, id: u32, value: Option<&Bytes>) {
        let topic = &mut self.topics[id];
        let Some(paused) = topic.paused.take() else { return };
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            let is_known = topic.recent.contains(self.digester.digest(value)) || paused.contains(value);
            if !is_known {
                self.deliver_value(id, value);
            }
        }
        self.open_listeners(id).for_each(|listener| listener.recover_echoes(id));
        if let Some(run) = Run::join(paused.runs) {
            self.deliver_now(id, &run);
        }
        self.complete_joins(id);
    }

    /// Handles the loss of Redis: no topic is subscribed any more, joining members fail, and all topics are paused until
    /// their persisted values have been re-read.
    pub fn on_lost(&mut self) {
        self.pause();
        self.topics.values_mut().for_each(|topic| topic.subscribed = false);
        for (_, member) in &mut self.members {
            match &mut member.state {
                MemberState::Joining(pending) => pending.fail(JoinError::Lost),
                MemberState::Open(listener) => listener.mark_echoes_stale(),
                MemberState::Muted => {}
            }
        }
    }

    /// Delivers a re-read value to open members. Joining members read the value themselves.
    fn deliver_value(&mut self, id: u32, value: &Bytes) {
        let (digest, run) = (self.digester.digest(value), Run::of(value));
        self.topics[id].recent.push(digest);
        for listener in self.open_listeners(id) {
            listener.deliver_value(id, &run, digest, &self.limits);
        }
    }
}
