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
/// message. Returns one string: a line with what is known of the stream, then each entry as `ID SIZE`, a line end, and the
/// message. A script, because XRANGE is bounded in entries only, and because all of it has to be of one moment.
pub(super) const READ: &str = include_str!("history_read.lua");

/// Most bytes of messages in one reply.
const MAX_REPLY_BYTES: usize = 1 << 20;

/// Reads in flight per shard, so that many clients that resume at once need little memory.
const MAX_IN_FLIGHT: usize = 16;

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
    /// Whether the stream has the entry after which the messages were read.
    pub has_start: bool,
    /// Whether a limit has cut the messages: those after the last one, or before the first of the last ones.
    pub has_more: bool,
    /// Number of messages in the stream.
    pub length: u64,
    /// The first entry of the stream.
    pub first: Option<EntryId>,
    /// The last entry of the stream.
    pub last: Option<EntryId>,
}

impl HistoryPage {
    /// Parses the reply of the script.
    fn parse(reply: &Bytes) -> Option<Self> {
        let mut rest = reply.clone();
        let head = take_line(&mut rest)?;
        let mut words = head.split(' ');
        let mut next = || words.next();
        let mut page = Self {
            entries: Vec::new(),
            has_start: next()? == "1",
            has_more: next()? == "1",
            length: next()?.parse().ok()?,
            first: EntryId::parse(next()?),
            last: EntryId::parse(next()?),
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
        Self { commands, names, digest: digest(READ), max_message_bytes, in_flight, counters, refused }
    }

    /// Reads at most `count` messages of a channel: those after an entry or, without one, the last ones. The page is empty if
    /// the channel cannot have a history, or Redis refuses the script. Retries while Redis temporarily refuses.
    ///
    /// # Errors
    ///
    /// When Redis is lost, or gives no answer in time.
    pub(super) async fn read(
        &self,
        channel: &Channel,
        after: Option<EntryId>,
        count: usize,
    ) -> Result<HistoryPage, ReadFailed> {
        let Some(stream) = self.names.stream(channel) else { return Ok(HistoryPage::default()) };
        let key = stream.as_str().as_bytes();
        let after = after.map(|id| id.to_string()).unwrap_or_default();
        // One message always fits, and one over the limit is left out.
        let most = MAX_REPLY_BYTES.min(self.max_message_bytes);
        let [count, bytes, largest] = [count, most, self.max_message_bytes].map(|number| number.to_string());
        let arguments = [b"1", key, after.as_bytes(), count.as_bytes(), bytes.as_bytes(), largest.as_bytes()];
        let Ok(_permit) = self.in_flight.acquire().await else { return Err(ReadFailed) };
        let (begun, mut pause) = (Instant::now(), FIRST_PAUSE);
        self.commands.wait_for_node(key).await;
        let mut script = ("EVALSHA", self.digest.as_str());
        loop {
            let mut batch = self.commands.batch();
            batch.add_keyed(script.0, key, &[&[script.1.as_bytes()], &arguments[..]].concat());
            match self.commands.send(batch).await.pop() {
                Some(Ok(reply)) => return Ok(page_of(channel, &reply)),
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
                    return Ok(HistoryPage::default());
                }
                Some(Err(CommandFailure::Lost)) | None => return Err(ReadFailed),
            }
        }
    }

    fn note_refused(&self, reason: &str) {
        Counters::count(&self.counters.refused_reads);
        if let Some(suppressed) = self.refused.allow() {
            let cure = if is_refusal(reason) { CURE } else { "see Redis' log" };
            error!(error = %reason, suppressed, "Redis refuses to read a history, which counts as empty; {cure}");
        }
    }
}

fn page_of(channel: &Channel, reply: &CommandReply) -> HistoryPage {
    let page = match reply {
        CommandReply::Value(Some(reply)) => HistoryPage::parse(reply),
        _ => None,
    };
    page.unwrap_or_else(|| {
        warn!(?channel, "cannot parse the history of this channel; it counts as empty");
        HistoryPage::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reply_of_the_script_is_parsed_and_anything_else_is_not() {
        let page = HistoryPage::parse(&Bytes::from_static(b"1 0 5 1-0 9-2\n8-0 3\na\nb9-2 -1\n")).unwrap();
        let id = |ms, seq| EntryId { ms, seq };
        let entries = vec![
            HistoryEntry { id: id(8, 0), payload: Some(Bytes::from_static(b"a\nb")) },
            HistoryEntry { id: id(9, 2), payload: None },
        ];
        let (first, last) = (Some(id(1, 0)), Some(id(9, 2)));
        let expected = HistoryPage { entries, has_start: true, has_more: false, length: 5, first, last };
        assert_eq!(page, expected);
        assert_eq!(HistoryPage::parse(&Bytes::from_static(b"0 0 0 - -\n")), Some(HistoryPage::default()));
        for other in ["", "0 0 0 -", "0 0 x - -\n", "0 0 1 - -\n8-0 3\nab", "0 0 1 - -\n8 1\na"] {
            assert_eq!(HistoryPage::parse(&Bytes::from(other)), None, "{other:?}");
        }
    }
}
