//! The labels of topics that have listeners of version 2, whose messages name their facility and audience.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use foldhash::fast::RandomState;

use super::listener::Listener;
use super::member::{Member, MemberState, SuspendedPart};
use super::run::Run;
use super::topic::TopicTable;
use super::value_cache::ValueCache;
use crate::wire::live::{LiveLabel, LiveNames};
use crate::wire::{EntryId, Form, Topic};

/// The labels of topics that have such listeners. Empty on a site that has none, so that a delivery costs it one comparison.
#[derive(Debug, Default)]
pub(super) struct TopicLabels {
    names: LiveNames,
    labels: HashMap<u32, CountedLabel, RandomState>,
}

/// A label, and the number of its topic's listeners that need it.
#[derive(Debug)]
struct CountedLabel {
    label: Arc<LiveLabel>,
    listeners: u32,
    /// The last id of a topic whose messages have ids.
    last_id: Cell<Option<EntryId>>,
}

impl TopicLabels {
    /// Creates labels by a rule.
    pub(super) fn new(names: LiveNames) -> Self {
        Self { names, labels: HashMap::default() }
    }

    /// Counts a listener of topics, if it needs their labels.
    pub(super) fn enter_all(&mut self, listener: &Listener, ids: &[u32], topics: &TopicTable) {
        if listener.form.has_objects() {
            for id in ids {
                self.enter(*id, topics.name(*id));
            }
        }
    }

    fn enter(&mut self, id: u32, topic: &Topic) {
        let names = &self.names;
        let create = || CountedLabel {
            label: Arc::new(
                topic.group_label().map_or_else(|| names.label(topic.as_ref()), LiveLabel::of_head),
            ),
            listeners: 0,
            last_id: Cell::new(None),
        };
        self.labels.entry(id).or_insert_with(create).listeners += 1;
    }

    /// Ends the count of a listener of a topic.
    pub(super) fn exit(&mut self, id: u32) {
        if let Some(counted) = self.labels.get_mut(&id) {
            counted.listeners -= 1;
            if counted.listeners == 0 {
                self.labels.remove(&id);
            }
        }
        if self.labels.is_empty() {
            self.labels = HashMap::default();
        }
    }

    /// Sets the label of a run of this topic that all of its listeners get, and notes its last id.
    #[inline]
    pub(super) fn on_run(&self, id: u32, run: &Run) {
        if !self.labels.is_empty() {
            self.label(id, run, false);
            self.note_id(id, run);
        }
    }

    /// Notes the last id of a run of this topic, which all of its listeners get.
    pub(super) fn note_id(&self, id: u32, run: &Run) {
        if !self.labels.is_empty()
            && let Some(counted) = self.labels.get(&id).filter(|counted| counted.label.has_ids)
        {
            counted.last_id.set(counted.last_id.get().max(run.last_id()));
        }
    }

    /// Suspends a member that reads on from its last ids when messages may have been lost.
    pub(super) fn suspend(&mut self, member: &mut Member) {
        let mut topics = member.memberships.iter().map(|membership| membership.topic);
        let has_ids = |topic| self.labels.get(&topic).is_some_and(|counted| counted.label.has_ids);
        // Topics with ids have no other members than those that need them.
        if !self.labels.is_empty()
            && let Some(listener) = member.listener().cloned()
            && topics.any(has_ids)
        {
            let last_id = |topic| self.labels.get(&topic).and_then(|counted| counted.last_id.get());
            let topics = member.memberships.iter().map(|membership| membership.topic);
            let last_ids: Vec<_> = topics.map(|topic| (topic, last_id(topic))).collect();
            for (topic, _) in &last_ids {
                self.exit(*topic);
            }
            member.state = MemberState::Suspended(Box::new(SuspendedPart { listener, last_ids }));
        }
    }

    /// Returns a value of a topic, given with its digest, encoded for a listener. A labelled one is not shared: listeners of
    /// other topics may have the same value.
    pub(super) fn value_run(
        &self,
        cache: &mut ValueCache,
        (value, digest): (&Bytes, u64),
        id: u32,
        form: Form,
    ) -> Run {
        if !form.has_objects() {
            return cache.encode(value, digest, form);
        }
        let run = Run::of(value);
        self.label(id, &run, true);
        run
    }

    /// Sets the label of a run of this topic, if a listener needs it. `is_last`: it is the topic's value.
    #[inline]
    pub(super) fn label(&self, id: u32, run: &Run, is_last: bool) {
        if !self.labels.is_empty()
            && let Some(counted) = self.labels.get(&id)
        {
            run.set_label(&counted.label, is_last);
        }
    }
}
