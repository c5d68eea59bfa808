//! The groups of Django Channels as a shard uses them: the hub of their topics, the groups that Django has joined users to, kept
//! messages, and messages of pages to Django.
//!
//! Not here: which groups an audience hears (`access`), what messages mean (`sources`), and how they are received (`broker`).

mod joined;
mod kept;
mod layer_writer;
mod publish;

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use crate::hub::{Hub, Limits, SharedHub};
use crate::metrics::Counters;
use crate::redis::{ReadFailed, Store};
use crate::settings::{GroupDelivery, Settings};
use crate::sources::GroupReader;
use crate::wire::{Namespace, Topic};

pub use self::joined::{JoinedGroups, JoinedHold};
use self::kept::kept_key;
pub use self::kept::{KeptMessages, PendingMessages};
pub use self::publish::{ChannelsPublisher, PageSender};

/// The groups of a shard.
pub struct ShardGroups {
    /// The topics of groups. Not the hub of channels: its servers may be others, and are lost at other times.
    pub hub: Rc<SharedHub>,
    /// The groups that Django has joined users to.
    pub joined: Rc<JoinedGroups>,
    /// Publishes the messages of pages, if a rule says so.
    pub publisher: Option<Rc<ChannelsPublisher>>,
    /// Reads kept messages, if they are kept.
    reader: Option<GroupReader>,
    forms: Arc<[GroupDelivery]>,
    namespace: Namespace,
    store: Rc<Store>,
    /// Kept messages that are not in Redis yet.
    pending: Arc<PendingMessages>,
}

impl ShardGroups {
    /// Creates the groups of a shard; `None` without a layer. Must be called on the shard's runtime.
    pub fn new(
        settings: &Settings,
        limits: &Limits,
        store: &Rc<Store>,
        counters: &Arc<Counters>,
        pending: &Arc<PendingMessages>,
    ) -> Option<Self> {
        let layer = settings.channels.layer()?;
        let max_bytes = settings.messages.max_delivery_bytes;
        Some(Self {
            hub: SharedHub::new(Hub::of_layer(limits.clone())),
            joined: JoinedGroups::new(store.commands(), settings.namespace.clone()),
            publisher: ChannelsPublisher::new(layer, settings, counters),
            reader: (layer.keep_seconds > 0).then(|| GroupReader::new(layer, max_bytes)),
            forms: settings.channels.deliveries.clone(),
            namespace: settings.namespace.clone(),
            store: store.clone(),
            pending: pending.clone(),
        })
    }

    /// Reads the kept messages of groups, in their forms of delivery.
    ///
    /// # Errors
    ///
    /// When Redis is lost, or gives no answer in time.
    pub async fn kept(&self, topics: &[Topic]) -> Result<Vec<Option<Bytes>>, ReadFailed> {
        let Some(reader) = &self.reader else { return Ok(vec![None; topics.len()]) };
        let group = |topic: &'_ Topic| topic.group_name().unwrap_or_default().to_owned();
        let name = |topic: &Topic| kept_key(&self.namespace, &group(topic));
        // Before Redis is read: a message that is not pending any more is there.
        let pending: Vec<_> = topics.iter().map(|topic| self.pending.get(&group(topic))).collect();
        let kept = self.store.persisted(&topics.iter().map(name).collect::<Vec<_>>()).await?;
        let deliver = |(topic, message): (&Topic, Option<Bytes>)| {
            let form = topic.group_form().and_then(|form| self.forms.get(form.number()))?;
            // What cannot be read has been counted when it arrived.
            let message = reader.read_kept(&message?).ok()?;
            reader.deliver(&message, form).ok().flatten().map(Bytes::from)
        };
        let latest = pending.into_iter().zip(kept).map(|(pending, kept)| pending.or(kept));
        Ok(topics.iter().zip(latest).map(deliver).collect())
    }
}
