//! A connection that waits for the members of sorted sets, and takes them: the mailboxes of Django Channels' core layer.

use std::future::poll_fn;
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::time::timeout;

use super::connection::{OUT_OF_SYNC, RedisConnection};
use super::error_reply::describe_text;
use super::target::Target;
use crate::codec::resp::RespToken;

/// Seconds for which Redis waits for a member.
const WAIT_SECONDS: u64 = 5;

/// Members that are taken from a mailbox with one command.
const TAKEN: usize = 100;

/// Deepest nesting of a reply.
const MAX_DEPTH: usize = 2;

/// A connection to the mailboxes on one server.
pub(crate) struct MailboxReader {
    connection: RedisConnection,
    keys: Vec<String>,
    answer_timeout: Duration,
}

/// What was taken from a mailbox, oldest first.
#[derive(Debug)]
pub(crate) struct MailboxContent {
    /// The index of the mailbox.
    pub(crate) mailbox: usize,
    /// The members that it had.
    pub(crate) held: usize,
    /// Those that were taken.
    pub(crate) members: Vec<Bytes>,
}

enum MailboxReply {
    Nil,
    Integer(i64),
    Text(Bytes),
    Array(Vec<Self>),
    Error(String),
}

impl MailboxReader {
    /// Connects. Members have at most `max_bytes`.
    ///
    /// # Errors
    ///
    /// With a description.
    pub(crate) async fn open(target: &Target, keys: Vec<String>, max_bytes: usize) -> Result<Self, String> {
        let connection = target.dial(max_bytes).await?;
        Ok(Self { connection, keys, answer_timeout: target.command_timeout() })
    }

    /// Waits some seconds for members, and takes them. Returns nothing if none has arrived. Not safe to cancel: members that
    /// were taken would be lost.
    ///
    /// # Errors
    ///
    /// With a description, when the connection is lost, or Redis refuses a command.
    pub(crate) async fn take(&mut self) -> Result<Vec<MailboxContent>, String> {
        let wait = WAIT_SECONDS.to_string();
        let mut arguments: Vec<&[u8]> = self.keys.iter().map(String::as_bytes).collect();
        arguments.push(wait.as_bytes());
        self.connection.command("BZPOPMIN", &arguments);
        let first = match self.reply(Duration::from_secs(WAIT_SECONDS)).await? {
            MailboxReply::Nil => return Ok(Vec::new()),
            MailboxReply::Array(parts) => first_of(parts),
            _ => None,
        };
        let (key, member) = first.ok_or(OUT_OF_SYNC)?;
        let number = self.keys.iter().position(|own| own.as_bytes() == key).ok_or(OUT_OF_SYNC)?;
        let mut contents = vec![MailboxContent { mailbox: number, held: 1, members: vec![member] }];
        for key in &self.keys {
            self.connection.command("ZCARD", &[key.as_bytes()]);
            self.connection.command("ZPOPMIN", &[key.as_bytes(), TAKEN.to_string().as_bytes()]);
        }
        for mailbox in 0..self.keys.len() {
            let MailboxReply::Integer(held) = self.reply(Duration::ZERO).await? else {
                return Err(OUT_OF_SYNC.to_owned());
            };
            let MailboxReply::Array(parts) = self.reply(Duration::ZERO).await? else {
                return Err(OUT_OF_SYNC.to_owned());
            };
            // Members and scores alternate.
            let members: Vec<_> = parts.into_iter().step_by(2).filter_map(MailboxReply::text).collect();
            if !members.is_empty() {
                let held = usize::try_from(held).unwrap_or(0);
                contents.push(MailboxContent { mailbox, held, members });
            }
        }
        Ok(contents)
    }

    /// Reads a reply, which Redis may give `later` than usual.
    async fn reply(&mut self, later: Duration) -> Result<MailboxReply, String> {
        let within = self.answer_timeout + later;
        let reading = async {
            poll_fn(|cx| self.connection.poll_write(cx)).await?;
            loop {
                if let Some((reply, end)) = read(&self.connection, 0, MAX_DEPTH)? {
                    self.connection.incoming().advance(end);
                    return Ok::<_, String>(reply);
                }
                poll_fn(|cx| self.connection.poll_read(cx)).await?;
            }
        };
        let reply = timeout(within, reading).await;
        match reply.map_err(|_| format!("no answer within {} s", within.as_secs()))?? {
            MailboxReply::Error(text) => Err(describe_text(&text)),
            reply => Ok(reply),
        }
    }
}

impl MailboxReply {
    fn text(self) -> Option<Bytes> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }
}

/// Returns the key and the member of a reply to BZPOPMIN.
fn first_of(parts: Vec<MailboxReply>) -> Option<(Bytes, Bytes)> {
    let mut parts = parts.into_iter();
    Some((parts.next()?.text()?, parts.next()?.text()?))
}

/// Parses a reply. Returns it with the offset of its end; `None` if it is incomplete.
fn read(
    connection: &RedisConnection,
    start: usize,
    depth: usize,
) -> Result<Option<(MailboxReply, usize)>, String> {
    let token = connection.token(start).map_err(|error| error.to_string())?;
    let Some((token, mut next)) = token else { return Ok(None) };
    let bytes = |range| Bytes::copy_from_slice(&connection.received()[range]);
    Ok(Some(match token {
        RespToken::Nil => (MailboxReply::Nil, next),
        RespToken::Integer(number) => (MailboxReply::Integer(number), next),
        RespToken::Bulk(range) | RespToken::Status(range) => (MailboxReply::Text(bytes(range)), next),
        RespToken::Error(range) => {
            (MailboxReply::Error(String::from_utf8_lossy(&bytes(range)).into_owned()), next)
        }
        RespToken::Oversize(length) => return Err(format!("a message of {length} bytes is too large")),
        RespToken::Array(_) if depth == 0 => return Err(OUT_OF_SYNC.to_owned()),
        RespToken::Array(length) => {
            // The vector grows with the bytes received, never with a length that the server announces.
            let mut parts = Vec::new();
            for _ in 0..length {
                let Some((part, after)) = read(connection, next, depth - 1)? else { return Ok(None) };
                parts.push(part);
                next = after;
            }
            (MailboxReply::Array(parts), next)
        }
    }))
}
