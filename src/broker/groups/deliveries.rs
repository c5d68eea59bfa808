//! What the shards get: messages of groups, encoded once per form of delivery, and the state of their subscriptions.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::BytesMut;
use foldhash::fast::RandomState;
use tokio::sync::mpsc;
use tracing::warn;

use super::wanted::{GroupWant, WantedGroups};
use crate::hub::{Generation, Run};
use crate::metrics::Counters;
use crate::settings::{ChannelLayer, GroupDelivery, Settings};
use crate::sources::{GroupMessage, GroupReader, UndeliveredGroupMessage};
use crate::telemetry::LogThrottle;
use crate::wire::form::store;
use crate::wire::{GroupForm, Topic};

/// Bytes of encoded messages that are sent to the shards together.
const MAX_BYTES: usize = 1 << 20;

/// Keeps a message of a group, as it was published.
pub type KeepMessage = Box<dyn FnMut(&str, &[u8])>;

/// An event for the shards. The order of events counts.
#[derive(Debug)]
pub enum GroupsEvent {
    /// Messages, one run per topic.
    Deliver(Vec<(Topic, Run)>),
    /// The layer's server has confirmed topics.
    Subscribed(Vec<(Topic, Generation)>),
    /// The layer's server refuses a topic, or is down.
    Refused(Topic, Generation),
    /// Messages of these topics may have been lost.
    Missed(Vec<Topic>),
    /// A server of the layer was lost. Topics of other servers are confirmed again behind it.
    Lost,
}

/// Encodes messages for the shards that hear their groups.
pub(super) struct GroupDeliveries {
    pub(super) wanted: WantedGroups,
    reader: GroupReader,
    forms: Arc<[GroupDelivery]>,
    shards: Vec<mpsc::Sender<GroupsEvent>>,
    /// The runs that are being built, and their numbers by group: one for each form of delivery.
    runs: Vec<GroupRun>,
    numbers: HashMap<Box<str>, Vec<usize>, RandomState>,
    bytes: usize,
    messages: u64,
    /// Keeps the last message of a group.
    keep: KeepMessage,
    counters: Arc<Counters>,
    undelivered: LogThrottle,
}

/// Messages of a group in a form. Topics of version 2 share it with the plain one.
struct GroupRun {
    group: Box<str>,
    form: GroupForm,
    frames: BytesMut,
    messages: u32,
    /// The number of the message that was encoded last.
    last: u64,
}

impl GroupDeliveries {
    pub(super) fn new(
        layer: &ChannelLayer,
        settings: &Settings,
        shards: Vec<mpsc::Sender<GroupsEvent>>,
        counters: &Arc<Counters>,
        keep: KeepMessage,
    ) -> Self {
        Self {
            wanted: WantedGroups::default(),
            reader: GroupReader::new(layer, settings.messages.max_delivery_bytes),
            forms: settings.channels.deliveries.clone(),
            shards,
            runs: Vec::new(),
            numbers: HashMap::default(),
            bytes: 0,
            messages: 0,
            keep,
            counters: counters.clone(),
            undelivered: LogThrottle::default(),
        }
    }

    /// Returns the bytes that a message may have as it is stored or published.
    pub(super) fn max_stored_bytes(&self) -> usize {
        self.reader.max_stored_bytes()
    }

    /// Encodes a message of a group in each form in which a shard hears it.
    pub(super) fn add(&mut self, group: &str, message: &[u8]) {
        if self.wanted.of(group).is_empty() {
            return;
        }
        match self.reader.read(message, now()) {
            Ok(read) => {
                self.encode(group, &read);
                (self.keep)(group, message);
            }
            Err(reason) => self.note_undelivered(group, reason),
        }
    }

    /// Encodes a message that was stored in a mailbox of the core layer. Its group is part of the receivers' names.
    pub(super) fn add_received(&mut self, mailbox: &str, stored: &[u8]) {
        let read = self.reader.strip(stored);
        let read = read.and_then(|message| Ok((message, self.reader.read(message, now())?)));
        let (message, read) = match read {
            Ok(read) => read,
            Err(reason) => return self.note_undelivered("", reason),
        };
        let mut groups: Vec<_> =
            read.receivers.iter().filter_map(|receiver| receiver.strip_prefix(mailbox)).collect();
        groups.sort_unstable();
        groups.dedup();
        for group in groups {
            self.encode(group, &read);
            (self.keep)(group, message);
        }
    }

    fn encode(&mut self, group: &str, read: &GroupMessage) {
        let Self { wanted, reader, forms, runs, numbers, bytes, messages, .. } = self;
        let wants = wanted.of(group);
        *messages += 1;
        let mut failure = None;
        if !numbers.contains_key(group) {
            numbers.insert(group.into(), Vec::new());
        }
        let Some(own) = numbers.get_mut(group) else { return };
        for form in wants.iter().filter_map(|want| want.topic.group_form()) {
            let number = own.iter().copied().find(|number| runs[*number].form == form);
            let number = number.unwrap_or_else(|| {
                let (group, frames) = (group.into(), BytesMut::new());
                runs.push(GroupRun { group, form, frames, messages: 0, last: 0 });
                own.push(runs.len() - 1);
                runs.len() - 1
            });
            let run = &mut runs[number];
            if std::mem::replace(&mut run.last, *messages) == *messages {
                continue;
            }
            let Some(delivery) = forms.get(form.number()) else { continue };
            match reader.deliver(read, delivery) {
                Ok(Some(payload)) => {
                    store(&mut run.frames, &payload);
                    run.messages += 1;
                    *bytes += payload.len();
                }
                Ok(None) => {}
                Err(reason) => failure = Some(reason),
            }
        }
        if let Some(reason) = failure {
            self.note_undelivered(group, reason);
        }
    }

    /// Counts a message that is not delivered. Its content is not logged.
    fn note_undelivered(&self, group: &str, reason: UndeliveredGroupMessage) {
        Counters::count(&self.counters.undelivered_groups);
        if let Some(suppressed) = self.undelivered.allow() {
            warn!(?group, %reason, suppressed, "message of a Channels group not delivered");
        }
    }

    /// Counts a message above the size limit.
    pub(super) fn note_oversize(&self, group: &str, bytes: usize) {
        Counters::count(&self.counters.oversized_deliveries);
        if let Some(suppressed) = self.undelivered.allow() {
            warn!(
                ?group,
                bytes,
                suppressed,
                "message of a Channels group too big; not delivered. See messages.max_delivery_bytes"
            );
        }
    }

    /// Returns whether enough is encoded to be sent before more is read.
    pub(super) fn is_full(&self) -> bool {
        self.bytes >= MAX_BYTES
    }

    /// Sends what is encoded. Waits for the shards' threads, which wait for no client.
    pub(super) async fn flush(&mut self) {
        if self.runs.is_empty() {
            return;
        }
        self.numbers.clear();
        self.bytes = 0;
        let mut per_shard = vec![Vec::new(); self.shards.len()];
        for GroupRun { group, form, frames, messages, .. } in
            self.runs.drain(..).filter(|run| run.messages > 0)
        {
            let run = Run::new(frames.freeze(), messages);
            // Those of the time when it was encoded: requests of the shards are applied after a flush.
            for want in self.wanted.of(&group).iter().filter(|want| want.topic.group_form() == Some(form)) {
                per_shard[want.shard].push((want.topic.clone(), run.clone()));
            }
        }
        for (shard, runs) in per_shard.into_iter().enumerate() {
            if !runs.is_empty() {
                self.send(shard, GroupsEvent::Deliver(runs)).await;
            }
        }
    }

    /// Tells the shards that these groups are subscribed.
    pub(super) async fn confirm(&self, groups: impl IntoIterator<Item = impl AsRef<str>>) {
        let mut per_shard = vec![Vec::new(); self.shards.len()];
        for group in groups {
            for GroupWant { topic, shard, generation } in self.wanted.of(group.as_ref()) {
                per_shard[*shard].push((topic.clone(), *generation));
            }
        }
        for (shard, topics) in per_shard.into_iter().enumerate() {
            if !topics.is_empty() {
                self.send(shard, GroupsEvent::Subscribed(topics)).await;
            }
        }
    }

    /// Tells the shards that messages of these groups may have been lost.
    pub(super) async fn miss(&self, groups: impl IntoIterator<Item = impl AsRef<str>>) {
        let mut per_shard = vec![Vec::new(); self.shards.len()];
        for group in groups {
            for GroupWant { topic, shard, .. } in self.wanted.of(group.as_ref()) {
                per_shard[*shard].push(topic.clone());
            }
        }
        for (shard, topics) in per_shard.into_iter().enumerate() {
            if !topics.is_empty() {
                self.send(shard, GroupsEvent::Missed(topics)).await;
            }
        }
    }

    /// Tells the shards that a group is refused.
    pub(super) async fn refuse(&self, group: &str) {
        for want in self.wanted.of(group) {
            self.send(want.shard, GroupsEvent::Refused(want.topic.clone(), want.generation)).await;
        }
    }

    /// Tells all shards that a server was lost.
    pub(super) async fn on_lost(&self) {
        for shard in 0..self.shards.len() {
            self.send(shard, GroupsEvent::Lost).await;
        }
    }

    /// Sends an event to a shard.
    pub(super) async fn send(&self, shard: usize, event: GroupsEvent) {
        // The end of a shard ends the process; there is nothing to do here.
        let _ = self.shards[shard].send(event).await;
    }
}

/// Returns the seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}
