//! Reads the streams of channels, for clients that resume.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};
use tracing::{error, warn};

use super::command_client::CommandClient;
use super::error_reply::ErrorClass;
use super::history_script::{CURE, digest, is_refusal};
use super::reads::ReadFailed;
use super::reply::{CommandFailure, CommandReply};
use crate::metrics::Counters;
use crate::telemetry::LogThrottle;
use crate::wire::{Channel, EntryId, HistoryNames};

/// `KEYS`: the stream. `ARGV`: the id after which entries are read (empty: the last ones), most entries, most bytes, largest
/// message, and 1 if the last entry up to that id is to be compared. Returns one string: a line with what is known of the
/// stream, then each entry as `ID SIZE`, a line end, and the message. A script, because XRANGE is bounded in entries only, and
/// because all of it has to be of one moment.
///
/// If the stream has no entry up to the id, the line also has what Redis knows of messages that are gone: how many it ever
/// added to the stream (since Redis 7.0), and for how many seconds it has been running.
pub(super) const READ: &str = include_str!("history_read.lua");

/// Most bytes of messages in one reply. Each counts 64 more, so that a script that reads tiny ones does not block Redis for
/// long.
const MAX_REPLY_BYTES: usize = 1 << 20;

/// Reads in flight per shard, so that many clients that resume at once need little memory.
const MAX_IN_FLIGHT: usize = 16;

/// Subscriptions of a shard that read histories at the same time: each may hold several pages.
const MAX_READING: usize = 8;

/// The last id behind which Redis reads.
const LAST_START: EntryId = EntryId { ms: u64::MAX, seq: u64::MAX - 1 };

/// Pauses between retries while Redis temporarily refuses, and the time after which retrying stops.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_millis(500);
const RETRY_TIMEOUT: Duration = Duration::from_mins(1);

/// A message of a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    /// Its id.
    pub id: EntryId,
    /// The message; none if it is larger than `messages.max_delivery_bytes`.
    pub payload: Option<Bytes>,
}

/// Messages of a history, and what was known of its stream at that moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HistoryPage {
    /// The messages, in the order of publication.
    pub entries: Vec<HistoryEntry>,
    /// Redis' time in Unix milliseconds; none if Redis refuses to tell it.
    pub now_ms: Option<u64>,
    /// Seconds for which Redis has been running, if the stream has no entry up to the id, and Redis tells it.
    pub uptime_seconds: Option<u64>,
    /// Whether a limit has cut the messages: those after the last one, or before the first of the last ones.
    pub has_more: bool,
    /// Number of messages in the stream.
    pub length: u64,
    /// Number of messages that were ever added to the stream, if it has no entry up to the id, and Redis tells it.
    pub added: Option<u64>,
    /// The first entry of the stream.
    pub first: Option<EntryId>,
    /// The last entry of the stream.
    pub last: Option<EntryId>,
    /// Whether the last message up to the id is the one that was to be compared with it.
    pub is_value_before: bool,
    /// Whether the stream has the entry with the id behind which it was read.
    pub has_entry: bool,
}

impl HistoryPage {
    /// Parses the reply of the script. `value`: the digest of the message to compare.
    fn parse(reply: &Bytes, value: Option<&str>) -> Option<Self> {
        let mut rest = reply.clone();
        let head = take_line(&mut rest)?;
        let mut words = head.split(' ');
        let mut next = || words.next();
        let mut page = Self {
            entries: Vec::new(),
            now_ms: next()?.parse().ok(),
            uptime_seconds: next()?.parse().ok(),
            has_more: next()? == "1",
            length: next()?.parse().ok()?,
            added: next()?.parse().ok(),
            first: EntryId::parse(next()?),
            last: EntryId::parse(next()?),
            is_value_before: next()? == value.unwrap_or_default(),
            has_entry: next()? == "1",
        };
        while !rest.is_empty() {
            let line = take_line(&mut rest)?;
            let (id, size) = line.split_once(' ')?;
            let payload = match size {
                "-1" => None,
                size => {
                    let size: usize = size.parse().ok().filter(|size| *size <= rest.len())?;
                    Some(rest.split_to(size))
                }
            };
            page.entries.push(HistoryEntry { id: EntryId::parse(id)?, payload });
        }
        Some(page)
    }
}

/// Removes the first line.
fn take_line(rest: &mut Bytes) -> Option<String> {
    let end = rest.iter().position(|byte| *byte == b'\n')?;
    let line = std::str::from_utf8(&rest[..end]).ok()?.to_owned();
    rest.advance(end + 1);
    Some(line)
}

/// One shard's reads of histories.
#[derive(Debug)]
pub(super) struct HistoryReader {
    commands: Rc<CommandClient>,
    names: HistoryNames,
    digest: String,
    max_message_bytes: usize,
    in_flight: Semaphore,
    permits: Arc<Semaphore>,
    counters: Arc<Counters>,
    refused: LogThrottle,
}

impl HistoryReader {
    pub(super) fn new(
        commands: Rc<CommandClient>,
        names: HistoryNames,
        max_message_bytes: usize,
        counters: Arc<Counters>,
    ) -> Self {
        let in_flight = Semaphore::new(MAX_IN_FLIGHT);
        let refused = LogThrottle::default();
        let permits = Arc::new(Semaphore::new(MAX_READING));
        Self {
            commands,
            names,
            digest: digest(READ),
            max_message_bytes,
            in_flight,
            permits,
            counters,
            refused,
        }
    }

    /// Returns the permits of subscriptions that read.
    pub(super) fn permits(&self) -> Arc<Semaphore> {
        self.permits.clone()
    }

    /// Waits at most one second for the server of a channel's history; returns false if it is not reachable then. Cancel-safe.
    pub(super) async fn reaches(&self, channel: &Channel) -> bool {
        match self.names.stream(channel) {
            Some(stream) => self.commands.wait_for_node(stream.as_str().as_bytes()).await,
            None => true,
        }
    }

    /// Reads at most `count` messages of a channel: those after an entry or, without one, the last ones. With an entry and a
    /// value, also compares this with the last message up to the entry. None if the channel cannot have a history, or Redis
    /// refuses to read it. Retries while Redis temporarily refuses.
    ///
    /// # Errors
    ///
    /// When Redis is lost, or gives no answer in time.
    pub(super) async fn read(
        &self,
        channel: &Channel,
        after: Option<EntryId>,
        count: usize,
        value: Option<&[u8]>,
    ) -> Result<Option<HistoryPage>, ReadFailed> {
        let Some(stream) = self.names.stream(channel) else { return Ok(None) };
        let key = stream.as_str().as_bytes();
        // Redis refuses to look for ids behind the last one that there can be.
        let after = after.map(|id| id.min(LAST_START).to_string()).unwrap_or_default();
        let value = value.map(digest);
        let compares: &[u8] = if value.is_some() { b"1" } else { b"0" };
        // One message always fits, and one over the limit is left out.
        let most = MAX_REPLY_BYTES.min(self.max_message_bytes);
        let [count, bytes, largest] = [count, most, self.max_message_bytes].map(|number| number.to_string());
        let (count, bytes, largest) = (count.as_bytes(), bytes.as_bytes(), largest.as_bytes());
        let arguments = [b"1", key, after.as_bytes(), count, bytes, largest, compares];
        let Ok(_permit) = self.in_flight.acquire().await else { return Err(ReadFailed) };
        let (begun, mut pause) = (Instant::now(), FIRST_PAUSE);
        self.commands.wait_for_node(key).await;
        let mut script = ("EVALSHA", self.digest.as_str());
        loop {
            let mut batch = self.commands.batch();
            batch.add_keyed(script.0, key, &[&[script.1.as_bytes()], &arguments[..]].concat());
            match self.commands.send(batch).await.pop() {
                Some(Ok(reply)) => return Ok(page_of(channel, &reply, value.as_deref())),
                Some(Err(CommandFailure::Refused(reason))) if reason.starts_with("NOSCRIPT") => {
                    script = ("EVAL", READ);
                }
                Some(Err(CommandFailure::Refused(reason)))
                    if ErrorClass::of(&reason) == ErrorClass::Temporary
                        && begun.elapsed() < RETRY_TIMEOUT =>
                {
                    sleep(pause).await;
                    pause = (pause * 2).min(LAST_PAUSE);
                }
                Some(Err(CommandFailure::Refused(reason))) => {
                    self.note_refused(&reason);
                    return Ok(None);
                }
                Some(Err(CommandFailure::Lost)) | None => return Err(ReadFailed),
            }
        }
    }

    fn note_refused(&self, reason: &str) {
        Counters::count(&self.counters.refused_reads);
        if let Some(suppressed) = self.refused.allow() {
            let cure = if is_refusal(reason) { CURE } else { "see Redis' log" };
            error!(error = %reason, suppressed, "Redis refuses to read a history; clients that resume are told of a gap; {cure}");
        }
    }
}

fn page_of(channel: &Channel, reply: &CommandReply, value: Option<&str>) -> Option<HistoryPage> {
    let page = match reply {
        CommandReply::Value(Some(reply)) => HistoryPage::parse(reply, value),
        _ => None,
    };
    if page.is_none() {
        warn!(?channel, "cannot parse the history of this channel; clients that resume are told of a gap");
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reply_of_the_script_is_parsed_and_anything_else_is_not() {
        let reply = Bytes::from_static(b"99 7 0 5 6 1-0 9-2 ab 1\n8-0 3\na\nb9-2 -1\n");
        let page = HistoryPage::parse(&reply, Some("ab")).unwrap();
        let id = |ms, seq| EntryId { ms, seq };
        let entries = vec![
            HistoryEntry { id: id(8, 0), payload: Some(Bytes::from_static(b"a\nb")) },
            HistoryEntry { id: id(9, 2), payload: None },
        ];
        let expected = HistoryPage {
            entries,
            now_ms: Some(99),
            uptime_seconds: Some(7),
            has_more: false,
            length: 5,
            added: Some(6),
            first: Some(id(1, 0)),
            last: Some(id(9, 2)),
            is_value_before: true,
            has_entry: true,
        };
        assert_eq!(page, expected);
        assert!(!HistoryPage::parse(&reply, None).unwrap().is_value_before);
        let empty = Bytes::from_static(b"- - 0 0 - - - - 0\n");
        assert_eq!(HistoryPage::parse(&empty, Some("ab")), Some(HistoryPage::default()));
        let head = "- - 0 1 - - - - 0";
        for other in ["", "- - 0 0 - - - -\n", head, "- - 0 x - - - - 0\n"]
            .map(str::to_owned)
            .into_iter()
            .chain(["\n8-0 3\nab", "\n8 1\na"].map(|rest| format!("{head}{rest}")))
        {
            assert_eq!(HistoryPage::parse(&Bytes::from(other.clone()), None), None, "{other:?}");
        }
    }
}
