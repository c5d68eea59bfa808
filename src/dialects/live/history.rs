//! Reads the histories of a facility, for clients that resume.

use bytes::Bytes;

use crate::redis::{HistoryPage, ReadFailed};
use crate::settings::HistoryLimits;
use crate::shard::state::ShardState;
use crate::wire::{Channel, EntryId, Facility};

/// Most bytes of messages that one subscription reads, in outboxes.
const MAX_OUTBOXES: usize = 8;

/// Most messages of one reading. Bytes are the limit that counts.
const MAX_MESSAGES: usize = 1 << 20;

/// Which messages of a history a client wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Resume {
    /// Those after an entry, which may be of any audience.
    Since(EntryId),
    /// Those after an entry of each audience that is named as in messages.
    SinceEach(Vec<(String, EntryId)>),
    /// Those after an entry of each channel: after a loss.
    After(Vec<(Channel, EntryId)>),
    /// The last ones.
    Last(usize),
}

/// What was read.
#[derive(Debug, Default)]
pub(super) struct HistoryRead {
    /// The messages, each with the position of its channel and with its id, in the order of publication.
    pub(super) messages: Vec<(usize, EntryId, Bytes)>,
    /// For each channel: the id up to which messages were read, if any were to be read.
    pub(super) read_to: Vec<Option<EntryId>>,
    /// For each channel: the last id of its history.
    pub(super) last: Vec<Option<EntryId>>,
    /// Whether nothing is missing; none if the client does not resume.
    pub(super) is_complete: Option<bool>,
}

/// Reads the histories of channels.
///
/// # Errors
///
/// When Redis is lost.
pub(super) async fn read_history(
    state: &ShardState,
    facility: &Facility,
    channels: &[Channel],
    resume: Option<&Resume>,
    limits: HistoryLimits,
) -> Result<HistoryRead, ReadFailed> {
    let mut read = HistoryRead::default();
    let mut starts = Vec::new();
    for (position, channel) in channels.iter().enumerate() {
        let since = since_of(state, facility, channel, resume);
        let (last, read_to) = match (since, resume) {
            (Some(since), _) => {
                let after = read_after(state, channel, since, position, &mut read).await?;
                let reaches_back = after.is_whole && reaches_back(&after.first, since, limits);
                // Before the first message every history has its start.
                let has_start = after.first.has_start || since == EntryId::default();
                starts.push((has_start && after.is_whole, reaches_back));
                (after.last, after.read_to)
            }
            (None, Some(Resume::Last(count))) => {
                let page = state.store.history_last(channel, *count).await?;
                let last = page.last;
                add(&mut read, position, page);
                (last, last)
            }
            (None, _) => (state.store.history_last(channel, 1).await?.last, None),
        };
        read.read_to.push(read_to);
        read.last.push(last);
    }
    // Stable: messages of one channel stay in order.
    read.messages.sort_by_key(|(_, id, _)| *id);
    if let Some(Resume::Last(count)) = resume {
        read.messages.drain(..read.messages.len().saturating_sub(*count));
    }
    read.is_complete = match resume {
        // The entry is in the history of one channel, and the others have lost nothing since.
        Some(Resume::Since(_)) => {
            Some(starts.iter().any(|(has, _)| *has) && starts.iter().all(|(has, back)| *has || *back))
        }
        Some(Resume::SinceEach(_) | Resume::After(_)) => Some(starts.iter().all(|(has, back)| *has && *back)),
        Some(Resume::Last(_)) | None => None,
    };
    Ok(read)
}

/// Returns how messages name an audience: a user by its kind alone.
pub(super) fn audience_in_messages(audience: &str) -> &str {
    if audience.starts_with("user:") { "user" } else { audience }
}

/// Returns the entry after which the history of a channel is read.
fn since_of(
    state: &ShardState,
    facility: &Facility,
    channel: &Channel,
    resume: Option<&Resume>,
) -> Option<EntryId> {
    match resume? {
        Resume::Since(id) => Some(*id),
        Resume::After(ids) => ids.iter().find(|(known, _)| known == channel).map(|(_, id)| *id),
        Resume::SinceEach(ids) => {
            let audience = state.process.settings.namespace.audience_of(channel, facility);
            ids.iter().find(|(name, _)| name == audience_in_messages(audience)).map(|(_, id)| *id)
        }
        Resume::Last(_) => None,
    }
}

/// What was read of one channel after an entry.
struct ReadAfter {
    /// What the first page says about the history, without its messages.
    first: HistoryPage,
    /// The last id of the history.
    last: Option<EntryId>,
    /// The id up to which messages were read.
    read_to: Option<EntryId>,
    /// Whether all messages were read.
    is_whole: bool,
}

/// Reads the messages of a channel after an entry.
async fn read_after(
    state: &ShardState,
    channel: &Channel,
    since: EntryId,
    position: usize,
    read: &mut HistoryRead,
) -> Result<ReadAfter, ReadFailed> {
    let max_bytes = state.process.settings.messages.outbox_bytes.saturating_mul(MAX_OUTBOXES);
    let mut page = state.store.history_after(channel, since, MAX_MESSAGES).await?;
    let first = HistoryPage { entries: Vec::new(), ..page.clone() };
    let mut is_whole = true;
    loop {
        let (has_more, last, end) = (page.has_more, page.last, page.entries.last().map(|entry| entry.id));
        is_whole &= add(read, position, page);
        let bytes: usize = read.messages.iter().map(|(_, _, message)| message.len()).sum();
        match end {
            Some(end) if has_more && bytes < max_bytes => {
                page = state.store.history_after(channel, end, MAX_MESSAGES).await?;
            }
            _ => {
                let read_to = if has_more { end } else { last };
                return Ok(ReadAfter { first, last, read_to, is_whole: is_whole && !has_more });
            }
        }
    }
}

/// Adds the messages of a page. Returns false if one is too large to be delivered.
fn add(read: &mut HistoryRead, position: usize, page: HistoryPage) -> bool {
    let mut is_whole = true;
    for entry in page.entries {
        match entry.payload {
            Some(payload) => read.messages.push((position, entry.id, payload)),
            None => is_whole = false,
        }
    }
    is_whole
}

/// Returns whether a history without the entry has all messages after it: it has older ones, or has dropped none.
fn reaches_back(page: &HistoryPage, since: EntryId, limits: HistoryLimits) -> bool {
    page.has_start
        || page.first.is_some_and(|first| first <= since)
        || page.length < u64::from(limits.messages)
}
