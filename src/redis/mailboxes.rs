//! A connection that waits for the members of sorted sets, and takes them: the mailboxes of Django Channels' core layer.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::ops::Range;
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::time::timeout;

use super::connection::{OUT_OF_SYNC, RedisConnection};
use super::error_reply::describe_text;
use super::target::Target;
use crate::codec::resp::RespToken;

/// Seconds for which Redis waits for a member.
const WAIT_SECONDS: u64 = 5;

/// Most members that are taken from a mailbox with one command.
const MAX_TAKEN: usize = 100;

/// Bytes of members that are passed on together, and that one command is meant to take.
const PIECE_BYTES: usize = 1 << 20;

/// Members of a mailbox that Redis refuses to count: it is tried once, and seems far from full.
const UNKNOWN_HELD: usize = 1;

/// A connection to the mailboxes on one server.
pub(crate) struct MailboxReader {
    connection: RedisConnection,
    keys: Vec<String>,
    answer_timeout: Duration,
    /// Mailboxes that have members, and how many.
    filled: VecDeque<(usize, usize)>,
    /// The mailbox whose members are being read, and the values of the reply that have not been read yet: members and scores.
    reading: (usize, usize),
    /// The largest member of the last reply.
    largest: usize,
}

/// What was taken from a mailbox, oldest first.
#[derive(Debug, Default)]
pub(crate) struct MailboxContent {
    /// The index of the mailbox.
    pub(crate) mailbox: usize,
    /// The members that it had; 0 if an earlier content has said that.
    pub(crate) held: usize,
    /// The score of the oldest member: the time at which it was sent, by its sender's clock.
    pub(crate) sent_at: Option<f64>,
    /// Those that were taken.
    pub(crate) members: Vec<Bytes>,
    /// The sizes of those above the limit, which were discarded.
    pub(crate) oversize: Vec<usize>,
}

impl MailboxContent {
    fn of(mailbox: usize, held: usize) -> Self {
        Self { mailbox, held, ..Self::default() }
    }
}

impl MailboxReader {
    /// Connects. Members above `max_bytes` are discarded.
    ///
    /// # Errors
    ///
    /// With a description.
    pub(crate) async fn open(target: &Target, keys: Vec<String>, max_bytes: usize) -> Result<Self, String> {
        let connection = target.dial(max_bytes).await?;
        let (filled, reading, largest) = (VecDeque::new(), (0, 0), 0);
        Ok(Self { connection, keys, answer_timeout: target.command_timeout(), filled, reading, largest })
    }

    /// Takes members of one mailbox, and waits some seconds for them if all mailboxes are empty. Returns nothing if none has
    /// arrived. Not safe to cancel: members that were taken would be lost.
    ///
    /// # Errors
    ///
    /// With a description, when the connection is lost, or Redis refuses a command.
    pub(crate) async fn take(&mut self) -> Result<Option<MailboxContent>, String> {
        if self.reading.1 > 0 {
            return self.read_members(0).await.map(Some);
        }
        let Some((mailbox, held)) = self.filled.pop_front() else { return self.wait().await };
        // Large ones come a few at a time: Redis keeps a reply in memory until it is read.
        let count = (PIECE_BYTES / self.largest.max(1)).clamp(1, MAX_TAKEN);
        let key = self.keys[mailbox].clone();
        self.connection.command("ZPOPMIN", &[key.as_bytes(), count.to_string().as_bytes()]);
        let RespToken::Array(values) = self.header(Duration::ZERO).await? else {
            return Err(OUT_OF_SYNC.to_owned());
        };
        // Each member has a score.
        if !values.is_multiple_of(2) {
            return Err(OUT_OF_SYNC.to_owned());
        }
        self.reading = (mailbox, values);
        self.largest = 0;
        let left = held.saturating_sub(count);
        if left > 0 && values > 0 {
            self.filled.push_front((mailbox, left));
        }
        self.read_members(held).await.map(Some)
    }

    /// Waits for the first member, and counts the others.
    async fn wait(&mut self) -> Result<Option<MailboxContent>, String> {
        let wait = WAIT_SECONDS.to_string();
        let mut arguments: Vec<&[u8]> = self.keys.iter().map(String::as_bytes).collect();
        arguments.push(wait.as_bytes());
        self.connection.command("BZPOPMIN", &arguments);
        match self.header(Duration::from_secs(WAIT_SECONDS)).await? {
            RespToken::Nil => return Ok(None),
            RespToken::Array(3) => {}
            _ => return Err(OUT_OF_SYNC.to_owned()),
        }
        let key = self.word().await?;
        let mailbox = self.keys.iter().position(|own| own.as_bytes() == key).ok_or(OUT_OF_SYNC)?;
        self.reading = (mailbox, 2);
        let first = self.read_members(1).await?;
        for key in &self.keys {
            self.connection.command("ZCARD", &[key.as_bytes()]);
        }
        for mailbox in 0..self.keys.len() {
            // The first member must not be lost because Redis refuses to count the others.
            let held = match self.token(Duration::ZERO, true).await? {
                (RespToken::Integer(held), end) => {
                    self.connection.incoming().advance(end);
                    usize::try_from(held).unwrap_or_default()
                }
                (RespToken::Error(_), end) => {
                    self.connection.incoming().advance(end);
                    UNKNOWN_HELD
                }
                _ => return Err(OUT_OF_SYNC.to_owned()),
            };
            if held > 0 {
                self.filled.push_back((mailbox, held));
            }
        }
        Ok(Some(first))
    }

    /// Reads members and their scores, until the end of the reply or until enough of them have been read.
    async fn read_members(&mut self, held: usize) -> Result<MailboxContent, String> {
        let mut content = MailboxContent::of(self.reading.0, held);
        let mut bytes = 0;
        while self.reading.1 > 1 && bytes < PIECE_BYTES {
            let size = match self.token(Duration::ZERO, false).await? {
                (RespToken::Bulk(range), end) => {
                    content.members.push(self.consume(range, end));
                    content.members.last().map_or(0, Bytes::len)
                }
                (RespToken::Oversize(length), end) => {
                    self.connection.incoming().advance(end);
                    self.connection.discard(length);
                    content.oversize.push(length);
                    length
                }
                _ => return Err(OUT_OF_SYNC.to_owned()),
            };
            let score = self.word().await?;
            if content.sent_at.is_none() {
                content.sent_at = std::str::from_utf8(&score).ok().and_then(|score| score.parse().ok());
            }
            bytes += size;
            self.largest = self.largest.max(size);
            self.reading.1 -= 2;
        }
        Ok(content)
    }

    /// Reads a value that has no bytes, or the length of an array.
    async fn header(&mut self, later: Duration) -> Result<RespToken, String> {
        let (token, end) = self.token(later, true).await?;
        if let RespToken::Error(range) = token {
            return Err(describe_text(&String::from_utf8_lossy(&self.consume(range, end))));
        }
        self.connection.incoming().advance(end);
        Ok(token)
    }

    /// Reads a name or a number as text, whatever the limit of members.
    async fn word(&mut self) -> Result<Bytes, String> {
        match self.token(Duration::ZERO, true).await? {
            (RespToken::Bulk(range) | RespToken::Status(range), end) => Ok(self.consume(range, end)),
            _ => Err(OUT_OF_SYNC.to_owned()),
        }
    }

    fn consume(&mut self, range: Range<usize>, end: usize) -> Bytes {
        let bytes = Bytes::copy_from_slice(&self.connection.received()[range]);
        self.connection.incoming().advance(end);
        bytes
    }

    /// Waits for a token at the beginning of the input, which Redis may send `later` than usual. Returns it with its end.
    async fn token(&mut self, later: Duration, is_word: bool) -> Result<(RespToken, usize), String> {
        let within = self.answer_timeout + later;
        let connection = &mut self.connection;
        let reading = async {
            poll_fn(|cx| connection.poll_write(cx)).await?;
            loop {
                let token = if is_word { connection.word(0) } else { connection.token(0) };
                if let Some(token) = token.map_err(|error| error.to_string())? {
                    return Ok(token);
                }
                poll_fn(|cx| connection.poll_read(cx)).await?;
            }
        };
        timeout(within, reading).await.map_err(|_| format!("no answer within {} s", within.as_secs()))?
    }
}
