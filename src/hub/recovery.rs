//! When messages were lost: channels are held back until their persisted values have been read again, so that nothing
//! older follows something newer.

use bytes::Bytes;

use super::Run;
use super::routing::{Generation, Hub, NotJoined, Outlet};
use crate::wire::Topic;

impl Hub {
    /// Holds back all channels that Redis sends, until the persisted value of each has been read again. Who is joining
    /// one waits, too: what it has read may be older than that value, or newer.
    pub fn pause(&mut self) {
        for topic in self.topics.values_mut().filter(|topic| topic.subscribed) {
            let settled = topic.is_settled();
            topic.paused.get_or_insert_default();
            for place in &topic.listeners {
                if let Outlet::Joining(held) = &mut self.members[place.member as usize].outlet {
                    held.stale = true;
                    held.awaited += usize::from(settled);
                }
            }
        }
    }

    /// Takes Redis' refusal of a channel: those who are joining it cannot. For those who listen already the broker tries
    /// it again, and the next one who comes has it tried at once.
    pub fn refused(&mut self, topic: &Topic, generation: Generation) {
        let Some(id) = self.topics.find(topic.as_ref()) else { return };
        let topic = &mut self.topics[id];
        if topic.told != Some(generation) {
            return;
        }
        topic.refused = true;
        for place in &topic.listeners {
            if let Outlet::Joining(held) = &mut self.members[place.member as usize].outlet {
                held.fail(NotJoined::Refused);
            }
        }
        self.resume(id, None);
    }

    /// Holds a channel back that Redis refused and sends from now on, until its persisted value has been read again.
    pub fn regained(&mut self, topic: &Topic) {
        if let Some(id) = self.topics.find(topic.as_ref()) {
            let topic = &mut self.topics[id];
            // What is subscribed is settled, or is held back already.
            if !topic.subscribed {
                topic.paused.get_or_insert_default();
            }
        }
    }

    /// Gives a channel the value that was read again, if it is new, and then what was held back.
    pub fn recover(&mut self, topic: &Topic, value: Option<&Bytes>) {
        if let Some(id) = self.topics.find(topic.as_ref()) {
            self.resume(id, value);
        }
    }

    pub(super) fn resume(&mut self, id: u32, value: Option<&Bytes>) {
        let topic = &mut self.topics[id];
        let Some(paused) = topic.paused.take() else { return };
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            let known = topic.recent.knows(self.digester.digest(value));
            if !known && !paused.runs.iter().any(|run| run.payloads().any(|held| held == value)) {
                self.deliver_value(id, value);
            }
        }
        self.open_listeners(id).for_each(|listener| listener.recover_echoes(id));
        if let Some(run) = Run::join(paused.runs) {
            self.deliver_now(id, &run);
        }
        self.let_in(id);
    }

    /// Notes that Redis was lost: no channel is subscribed, nobody can join, and what comes next is held back until
    /// the persisted values have been read again.
    pub fn lost(&mut self) {
        self.pause();
        self.topics.values_mut().for_each(|topic| topic.subscribed = false);
        for (_, member) in &mut self.members {
            match &mut member.outlet {
                Outlet::Joining(held) => held.fail(NotJoined::Lost),
                Outlet::Open(listener) => listener.mark_echoes_stale(),
                Outlet::Silent => {}
            }
        }
    }

    /// Delivers a value that was read again; who is joining reads for itself.
    fn deliver_value(&mut self, id: u32, value: &Bytes) {
        let (digest, run) = (self.digester.digest(value), Run::of(value));
        self.topics[id].recent.note(digest);
        for listener in self.open_listeners(id) {
            listener.deliver_value(id, &run, digest, &self.limits);
        }
    }
}
