//! The scripts of histories, as `redis/history.lua` and `redis/history_read.lua` define them.

use std::fmt::{Display, Write};

use bytes::{Bytes, BytesMut};

use super::{
    call::CommandCall,
    options::{self, SECONDS},
    streams,
};
use crate::embedded::{
    integer,
    message_log::{LogEntry, LogId, MessageLog},
    reply::{NOT_AN_INTEGER, Reply},
    scripts::sha1_hex,
};

fn wrong_arguments() -> Reply {
    Reply::error("ERR wrong number of arguments for a script")
}

/// Appends a message to a stream, persists it, and publishes it to the live channel and to the channel.
pub(super) fn publish(
    call: &mut CommandCall<'_>,
    stream: &Bytes,
    channel: &Bytes,
    more: &[Bytes],
) -> Result<Reply, Reply> {
    let [messages, seconds, expire, message, live] = more else { return Err(wrong_arguments()) };
    let most = integer::parse(messages).and_then(|most| usize::try_from(most).ok()).ok_or(NOT_AN_INTEGER)?;
    let now = call.store.clock.now_ms();
    let ends = options::positive_deadline(SECONDS, seconds, now, "expire")?;
    let persists =
        if expire == "0" { None } else { Some(options::positive_deadline(SECONDS, expire, now, "setex")?) };
    let field = Bytes::from_static(b"d");
    let id = streams::append_next(call, stream, &[field, message.clone()], most)?;
    call.expire_at(stream, ends);
    if persists.is_some() {
        call.put(channel, message, persists)?;
        call.notify(channel, "set");
        call.notify(channel, "expire");
    }
    let with_id = Bytes::from([id.as_bytes(), b" ", message].concat());
    call.store.publish(live, &with_id);
    Ok(Reply::count(call.store.publish(channel, message)))
}

/// What an entry counts in addition to its message, as in the script.
const ENTRY_OVERHEAD: usize = 64;

/// A part of a stream.
struct StreamPart {
    lines: Vec<BytesMut>,
    is_cut: bool,
}

/// The limits of a part.
struct PartLimits {
    entries: usize,
    bytes: usize,
    message_bytes: usize,
}

/// Takes entries up to the limits.
fn take<'a>(entries: impl Iterator<Item = &'a LogEntry>, limits: &PartLimits) -> StreamPart {
    let mut part = StreamPart { lines: Vec::new(), is_cut: false };
    let mut room = limits.bytes;
    for entry in entries {
        let message = message_of(entry).filter(|message| message.len() <= limits.message_bytes);
        let bytes = message.map_or(0, Bytes::len) + ENTRY_OVERHEAD;
        if part.lines.len() == limits.entries || !part.lines.is_empty() && bytes > room {
            part.is_cut = true;
            break;
        }
        room = room.saturating_sub(bytes);
        let mut line = BytesMut::new();
        let size = message.map_or_else(|| "-1".to_owned(), |message| message.len().to_string());
        // Writing to a buffer cannot fail.
        let _ = writeln!(line, "{} {size}", entry.id);
        line.extend_from_slice(message.map_or(&[], |message| message));
        part.lines.push(line);
    }
    part
}

/// Returns the messages after an id or, without one, the last ones.
pub(super) fn read(
    call: &mut CommandCall<'_>,
    stream: &Bytes,
    after: &Bytes,
    more: &[Bytes],
) -> Result<Reply, Reply> {
    let [entries, bytes, message_bytes, compares] = more else { return Err(wrong_arguments()) };
    let number = |text: &Bytes| {
        integer::parse(text).and_then(|number| usize::try_from(number).ok()).ok_or(NOT_AN_INTEGER)
    };
    let (entries, bytes, message_bytes) = (number(entries)?, number(bytes)?, number(message_bytes)?);
    let limits = PartLimits { entries, bytes, message_bytes };
    let empty = MessageLog::default();
    let after = if after.is_empty() {
        None
    } else {
        Some(streams::parse_id(after, 0).ok_or_else(streams::invalid_id)?)
    };
    let (now, running) = (call.store.clock.now_ms(), call.store.clock.uptime_seconds());
    let log = call.stream(stream)?.unwrap_or(&empty);
    let all = LogId::default()..=LogId::MAX;
    let part = if let Some(after) = after {
        let rest = after.next().map(|start| start..=LogId::MAX);
        take(rest.iter().flat_map(|rest| log.range(rest)), &limits)
    } else {
        let mut part = take(log.range(&all).rev(), &limits);
        part.lines.reverse();
        part
    };
    let (mut added, mut uptime, mut digest, mut has_entry) = (None, None, None, false);
    if let Some(after) = after {
        if let Some(older) = log.range(&(LogId::default()..=after)).next_back() {
            has_entry = older.id == after;
            digest = (compares == "1").then(|| sha1_hex(message_of(older).map_or(&[], |message| message)));
        } else {
            added = (log.added() > 0).then(|| log.added());
            uptime = Some(running);
        }
    }
    let (first, last) = (log.range(&all).next(), log.range(&all).next_back());
    let head = format!(
        "{} {} {} {} {} {} {} {} {}\n",
        now,
        known(uptime),
        u8::from(part.is_cut),
        log.len(),
        known(added),
        known(first.map(|entry| entry.id)),
        known(last.map(|entry| entry.id)),
        known(digest),
        u8::from(has_entry)
    );
    let mut reply = BytesMut::from(head.as_bytes());
    part.lines.iter().for_each(|line| reply.extend_from_slice(line));
    Ok(Reply::Bulk(reply.freeze()))
}

/// Returns a word of the first line.
fn known(value: Option<impl Display>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// Returns the message of an entry.
fn message_of(entry: &LogEntry) -> Option<&Bytes> {
    entry.fields.chunks(2).rfind(|pair| pair[0] == "d").and_then(|pair| pair.get(1))
}
