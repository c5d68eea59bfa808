//! Reads the histories of a facility, for clients that resume.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{join_all, try_join_all};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::proof::{may_be_removed, position, position_ago, reaches_back};
use super::refusal::RequestRefusal;
use super::resume::Resume;
use crate::redis::{HistoryPage, ReadFailed};
use crate::settings::HistoryLimits;
use crate::shard::state::ShardState;
use crate::wire::{Channel, EntryId, Facility};

/// Most bytes of messages that one subscription reads, in outboxes.
const MAX_OUTBOXES: usize = 8;

/// Most messages of one reading. Bytes are the limit that counts.
const MAX_MESSAGES: usize = 1 << 20;

/// Time in which a connection to Redis that is dead is noticed, in addition to `redis.command_timeout_seconds`.
const DETECTION: Duration = Duration::from_secs(5);

/// What was read.
#[derive(Debug, Default)]
pub(super) struct HistoryRead {
    /// The messages, each with the position of its channel and with its id, in the order of publication.
    pub(super) messages: Vec<(usize, EntryId, Bytes)>,
    /// For each channel: the id up to which messages were read, if any were to be read.
    pub(super) read_to: Vec<Option<EntryId>>,
    /// For each channel: from where a client continues that has got the messages; none if it is not known.
    pub(super) continues: Vec<Option<EntryId>>,
    /// For each channel: the position directly before the messages that are left, if others are missing.
    pub(super) before: Vec<Option<EntryId>>,
    /// For each channel: whether its value is among the messages, or before them.
    pub(super) has_value: Vec<bool>,
    /// Whether nothing is missing; none if the client does not resume.
    pub(super) is_complete: Option<bool>,
}

/// The right to read histories. It bounds the memory of all that are being read at once.
pub(super) struct ReadPermit {
    _own: Option<OwnedSemaphorePermit>,
    _shared: Option<OwnedSemaphorePermit>,
}

impl ReadPermit {
    /// Waits for the turn of a connection, if it is open, and then for that of its shard: no connection can keep the others
    /// waiting.
    ///
    /// # Errors
    ///
    /// When the server of a history is not reachable. It is awaited first, so that it keeps no turn.
    pub(super) async fn acquire(
        state: &ShardState,
        channels: &[Channel],
        own: Option<Arc<Semaphore>>,
    ) -> Result<Self, RequestRefusal> {
        let reaches = channels.iter().map(|channel| state.store.reaches_history(channel));
        if join_all(reaches).await.contains(&false) {
            return Err(RequestRefusal::Unavailable);
        }
        let own = match own {
            Some(own) => own.acquire_owned().await.ok(),
            None => None,
        };
        let shared = state.store.history_permits().acquire_owned().await.ok();
        Ok(Self { _own: own, _shared: shared })
    }
}

/// A reading of the histories of a facility's channels.
pub(super) struct HistoryReading<'a> {
    pub(super) state: &'a ShardState,
    pub(super) facility: &'a Facility,
    pub(super) limits: HistoryLimits,
    pub(super) resume: Option<&'a Resume>,
}

impl HistoryReading<'_> {
    /// Returns the positions from which a client continues in the channels without earlier messages. Read before these are
    /// joined: what is published afterwards reaches the client, which continues behind it.
    ///
    /// # Errors
    ///
    /// When Redis is lost.
    pub(super) async fn starts(&self, channels: &[Channel]) -> Result<Vec<Option<EntryId>>, ReadFailed> {
        // A user may be in hundreds of groups.
        let starts = channels.iter().map(async |channel| {
            let is_read = matches!(self.resume, Some(Resume::Last(_))) || self.since(channel).is_some();
            let page = if is_read { None } else { self.state.store.history_last(channel, 0).await? };
            Ok(page.map(|page| position(&page, self.limits)))
        });
        try_join_all(starts).await
    }

    /// Reads the histories of joined channels, given with their values and with what was read before.
    ///
    /// # Errors
    ///
    /// When Redis is lost, or there is no memory for them.
    pub(super) async fn read(
        &self,
        channels: &[Channel],
        values: &[Option<Bytes>],
        starts: &[Option<EntryId>],
    ) -> Result<HistoryRead, RequestRefusal> {
        let mut read = HistoryRead::default();
        let mut is_complete = true;
        for (index, channel) in channels.iter().enumerate() {
            let value = values.get(index).and_then(Option::as_ref);
            let mut before = None;
            let (continues, read_to, has_value) = match (self.since(channel), self.resume) {
                (Some(since), _) => {
                    let known = read.messages.len();
                    let after = self.read_after(channel, since, (index, value), &mut read).await?;
                    is_complete &= after.is_complete;
                    let left = read.messages.get(known).filter(|_| !after.is_complete);
                    before = left.map(|(_, id, _)| id.before());
                    (after.continues, after.read_to, after.has_value)
                }
                (None, Some(Resume::Last(count))) => {
                    let page = self.state.store.history_last(channel, *count).await?;
                    let known = page.as_ref().map(|page| (position(page, self.limits), page.last));
                    let (_, has_value) = self.add(&mut read, (index, value), page)?;
                    (known.map(|(position, _)| position), known.and_then(|(_, last)| last), has_value)
                }
                (None, _) => {
                    is_complete = false;
                    (starts.get(index).copied().flatten(), None, false)
                }
            };
            read.before.push(before);
            read.continues.push(continues);
            read.read_to.push(read_to);
            read.has_value.push(has_value);
        }
        // Stable: messages of one channel stay in order.
        read.messages.sort_by_key(|(_, id, _)| *id);
        if let Some(Resume::Last(count)) = self.resume {
            read.messages.drain(..read.messages.len().saturating_sub(*count));
        }
        read.is_complete = match self.resume {
            // Ids rise in one channel only: another one may have a message before the entry that the client has not got.
            Some(Resume::Since(_)) => Some(is_complete && channels.len() < 2),
            Some(Resume::SinceEach(_) | Resume::After(..)) => Some(is_complete),
            Some(Resume::Last(_)) | None => None,
        };
        Ok(read)
    }

    /// Returns the position behind which the history of a channel is read; none if it is not read, or from its end.
    fn since(&self, channel: &Channel) -> Option<EntryId> {
        match self.resume? {
            Resume::Since(id) => Some(*id),
            Resume::After(ids, _) => ids.iter().find(|(known, _)| known == channel).map(|(_, id)| *id),
            Resume::SinceEach(ids) => {
                let namespace = &self.state.process.settings.namespace;
                let audience = audience_in_messages(namespace.audience_of(channel, self.facility));
                ids.iter().find(|(name, _)| name == audience).map(|(_, id)| *id)
            }
            Resume::Last(_) => None,
        }
    }

    /// Reads the messages of a channel behind a position.
    async fn read_after(
        &self,
        channel: &Channel,
        since: EntryId,
        (index, value): (usize, Option<&Bytes>),
        read: &mut HistoryRead,
    ) -> Result<ReadAfter, RequestRefusal> {
        let Self { state, limits, .. } = *self;
        let settings = &state.process.settings;
        let max_bytes = settings.messages.outbox_bytes.saturating_mul(MAX_OUTBOXES);
        let value_bytes = value.map(|value| &value[..]);
        let mut page = state.store.history_after(channel, since, MAX_MESSAGES, value_bytes).await?;
        let mut after = ReadAfter { is_complete: false, ..ReadAfter::default() };
        if let Some(first) = &page {
            let delivered = match self.resume {
                Some(Resume::After(_, until)) => {
                    position_ago(first, until.elapsed() + settings.redis.command_timeout + DETECTION, limits)
                }
                _ => None,
            };
            after.is_complete = reaches_back(first, since, limits)
                || delivered.is_some_and(|delivered| {
                    may_be_removed(first, since, limits) && reaches_back(first, delivered, limits)
                });
            after.has_value = first.is_value_before;
        }
        while let Some(next) = page.take() {
            let (has_more, last, end) = (next.has_more, next.last, next.entries.last().map(|entry| entry.id));
            after.continues = Some(position(&next, limits));
            let (is_whole, has_value) = self.add(read, (index, value), Some(next))?;
            after.is_complete &= is_whole;
            after.has_value |= has_value;
            let bytes: usize = read.messages.iter().map(|(_, _, message)| message.len()).sum();
            match end {
                Some(end) if has_more && bytes < max_bytes => {
                    page = state.store.history_after(channel, end, MAX_MESSAGES, None).await?;
                    after.is_complete &= page.is_some();
                }
                _ => {
                    after.read_to = if has_more { end } else { last };
                    after.is_complete &= !has_more;
                }
            }
        }
        Ok(after)
    }

    /// Adds the messages of a page, counted as memory of the outboxes. Returns whether none is too large to be delivered, and
    /// whether one of them is the value.
    fn add(
        &self,
        read: &mut HistoryRead,
        (index, value): (usize, Option<&Bytes>),
        page: Option<HistoryPage>,
    ) -> Result<(bool, bool), RequestRefusal> {
        let (mut is_whole, mut has_value) = (true, false);
        for entry in page.into_iter().flat_map(|page| page.entries) {
            match entry.payload {
                Some(payload) => {
                    has_value |= value == Some(&payload);
                    let held = self.state.sockets.limits.memory.hold(&payload);
                    read.messages.push((index, entry.id, held));
                }
                None => is_whole = false,
            }
        }
        let has_capacity = self.state.hub.with(|hub| hub.check_capacity(&[]));
        if has_capacity { Ok((is_whole, has_value)) } else { Err(RequestRefusal::NoMemory) }
    }
}

/// Returns how messages name an audience: a user by its kind alone.
pub(super) fn audience_in_messages(audience: &str) -> &str {
    if audience.starts_with("user:") { "user" } else { audience }
}

/// What was read of one channel behind a position.
#[derive(Default)]
struct ReadAfter {
    /// From where the client continues.
    continues: Option<EntryId>,
    /// The id up to which messages were read.
    read_to: Option<EntryId>,
    /// Whether nothing is missing.
    is_complete: bool,
    /// Whether the value is among the messages, or the last one before them.
    has_value: bool,
}

impl From<ReadFailed> for RequestRefusal {
    fn from(_: ReadFailed) -> Self {
        Self::Unavailable
    }
}
