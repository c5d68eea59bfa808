//! XADD, XLEN, XRANGE and XREVRANGE.

use std::ops::RangeInclusive;

use bytes::Bytes;

use super::{
    call::CommandCall,
    spec::{CommandSpec, wrong_arity},
};
use crate::embedded::{
    integer,
    message_log::{LogEntry, LogId, MessageLog},
    reply::{NOT_AN_INTEGER, Reply, SYNTAX},
};

pub(crate) const COMMANDS: &[CommandSpec] = &[
    CommandSpec::fallible("xadd", -5, xadd),
    CommandSpec::fallible("xlen", 2, xlen),
    CommandSpec::fallible("xrange", -4, |call| xrange(call, false)),
    CommandSpec::fallible("xrevrange", -4, |call| xrange(call, true)),
];

pub(super) fn invalid_id() -> Reply {
    Reply::error("ERR Invalid stream ID specified as stream command argument")
}

/// Parses `ms` or `ms-number`; the number is `missing` if it is absent.
pub(super) fn parse_id(text: &[u8], missing: u64) -> Option<LogId> {
    let number = |text: &[u8]| {
        let is_number = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
        if is_number { std::str::from_utf8(text).ok()?.parse().ok() } else { None }
    };
    match text.iter().position(|byte| *byte == b'-') {
        Some(dash) => Some(LogId(number(&text[..dash])?, number(&text[dash + 1..])?)),
        None => Some(LogId(number(text)?, missing)),
    }
}

/// The id that an entry gets.
enum IdChoice {
    /// `*`
    Next,
    /// `ms-*`
    NextOf(u64),
    Given(LogId),
}

impl IdChoice {
    fn parse(text: &[u8]) -> Option<Self> {
        if text == b"*" {
            return Some(Self::Next);
        }
        if let Some(ms) = text.strip_suffix(b"-*") {
            return parse_id(ms, 0).filter(|_| !ms.contains(&b'-')).map(|id| Self::NextOf(id.0));
        }
        parse_id(text, 0).map(Self::Given)
    }

    /// Returns the id after `last`; none if there is none.
    fn after(&self, last: LogId, now: u64) -> Option<LogId> {
        match self {
            Self::Next => last.next().map(|next| next.max(LogId(now, 0))),
            Self::NextOf(ms) => match ms.cmp(&last.0) {
                std::cmp::Ordering::Less => None,
                std::cmp::Ordering::Equal => last.next().filter(|next| next.0 == *ms),
                std::cmp::Ordering::Greater => Some(LogId(*ms, 0)),
            },
            Self::Given(id) => Some(*id).filter(|id| *id > last),
        }
    }
}

/// The options of XADD.
#[derive(Default)]
struct AddOptions {
    must_exist: bool,
    /// Most entries. An approximate length is kept exactly.
    most: Option<usize>,
}

impl AddOptions {
    /// Parses the words behind the key; also returns those behind the options.
    fn parse(mut args: &[Bytes]) -> Result<(Self, &[Bytes]), Reply> {
        let mut options = Self::default();
        loop {
            match args {
                [name, rest @ ..] if name.eq_ignore_ascii_case(b"nomkstream") => {
                    options.must_exist = true;
                    args = rest;
                }
                [name, rest @ ..] if name.eq_ignore_ascii_case(b"maxlen") => {
                    let (is_approximate, rest) = match rest {
                        [mark, rest @ ..] if mark == "~" => (true, rest),
                        [mark, rest @ ..] if mark == "=" => (false, rest),
                        _ => (false, rest),
                    };
                    let [length, rest @ ..] = rest else { return Err(SYNTAX) };
                    let length = integer::parse(length).ok_or(NOT_AN_INTEGER)?;
                    let length = usize::try_from(length);
                    let length = length.map_err(|_| Reply::error("ERR The MAXLEN argument must be >= 0."))?;
                    options.most = Some(length);
                    args = match rest {
                        [limit, count, rest @ ..] if limit.eq_ignore_ascii_case(b"limit") => {
                            integer::parse(count).ok_or(NOT_AN_INTEGER)?;
                            if !is_approximate {
                                return Err(Reply::error(
                                    "ERR syntax error, LIMIT cannot be used without the special ~ option",
                                ));
                            }
                            rest
                        }
                        _ => rest,
                    };
                }
                _ => return Ok((options, args)),
            }
        }
    }
}

fn xadd(call: &mut CommandCall<'_>) -> Result<Reply, Reply> {
    let (options, rest) = AddOptions::parse(&call.args[2..])?;
    let [id, fields @ ..] = rest else { return Err(wrong_arity("xadd")) };
    let choice = IdChoice::parse(id).ok_or_else(invalid_id)?;
    if fields.is_empty() || fields.len() % 2 == 1 {
        return Err(wrong_arity("xadd"));
    }
    if matches!(choice, IdChoice::Given(LogId(0, 0))) {
        return Err(Reply::error("ERR The ID specified in XADD must be greater than 0-0"));
    }
    let key = &call.args[1];
    if call.stream(key)?.is_none() && options.must_exist {
        return Ok(Reply::Nil);
    }
    let id = append(call, key, &choice, fields, options.most)?;
    Ok(Reply::Bulk(Bytes::from(id.to_string())))
}

/// Appends an entry with the next id to a stream of at most `most` entries, and returns the id.
pub(super) fn append_next(
    call: &mut CommandCall<'_>,
    key: &[u8],
    fields: &[Bytes],
    most: usize,
) -> Result<String, Reply> {
    append(call, key, &IdChoice::Next, fields, Some(most)).map(|id| id.to_string())
}

fn append(
    call: &mut CommandCall<'_>,
    key: &[u8],
    choice: &IdChoice,
    fields: &[Bytes],
    most: Option<usize>,
) -> Result<LogId, Reply> {
    let now = u64::try_from(call.store.clock.now_ms()).unwrap_or_default();
    let last = call.stream(key)?.map_or(LogId::default(), MessageLog::last_id);
    let id = choice.after(last, now).ok_or_else(|| {
        Reply::error("ERR The ID specified in XADD is equal or smaller than the target stream top item")
    })?;
    // Copied, because a slice would keep the whole read buffer alive.
    let fields = fields.iter().map(|text| Bytes::copy_from_slice(text)).collect();
    let db = call.db();
    let appended = call.store.keyspace.append(db, key, LogEntry { id, fields }, most);
    let removed = appended.map_err(|_| call.store.out_of_memory())?;
    call.notify(key, "xadd");
    if removed > 0 {
        call.notify(key, "xtrim");
    }
    Ok(id)
}

fn xlen(call: &mut CommandCall<'_>) -> Result<Reply, Reply> {
    Ok(Reply::count(call.stream(&call.args[1])?.map_or(0, MessageLog::len)))
}

/// Parses the start of an interval.
fn start_of(text: &[u8]) -> Result<LogId, Reply> {
    match text {
        b"-" => Ok(LogId::default()),
        b"+" => Ok(LogId::MAX),
        _ => match text.strip_prefix(b"(") {
            Some(text) => parse_id(text, 0)
                .ok_or_else(invalid_id)?
                .next()
                .ok_or_else(|| Reply::error("ERR invalid start ID for the interval")),
            None => parse_id(text, 0).ok_or_else(invalid_id),
        },
    }
}

/// Parses the end of an interval.
fn end_of(text: &[u8]) -> Result<LogId, Reply> {
    match text {
        b"-" => Ok(LogId::default()),
        b"+" => Ok(LogId::MAX),
        _ => match text.strip_prefix(b"(") {
            Some(text) => parse_id(text, u64::MAX)
                .ok_or_else(invalid_id)?
                .previous()
                .ok_or_else(|| Reply::error("ERR invalid end ID for the interval")),
            None => parse_id(text, u64::MAX).ok_or_else(invalid_id),
        },
    }
}

fn xrange(call: &mut CommandCall<'_>, is_reversed: bool) -> Result<Reply, Reply> {
    let [_, key, one, other, rest @ ..] = call.args else { return Err(wrong_arity("xrange")) };
    let (start, end) = if is_reversed { (other, one) } else { (one, other) };
    let ids: RangeInclusive<LogId> = start_of(start)?..=end_of(end)?;
    let count = match rest {
        [] => None,
        [name, count] if name.eq_ignore_ascii_case(b"count") => {
            Some(integer::parse(count).ok_or(NOT_AN_INTEGER)?.max(0))
        }
        _ => return Err(SYNTAX),
    };
    let Some(log) = call.stream(key)? else { return Ok(Reply::Array(Vec::new())) };
    if count == Some(0) {
        return Ok(Reply::NilArray);
    }
    let count = count.map_or(usize::MAX, |count| usize::try_from(count).unwrap_or(usize::MAX));
    let found = log.range(&ids);
    let entries = if is_reversed {
        found.rev().take(count).map(entry_reply).collect()
    } else {
        found.take(count).map(entry_reply).collect()
    };
    Ok(Reply::Array(entries))
}

fn entry_reply(entry: &LogEntry) -> Reply {
    let fields = entry.fields.iter().cloned().map(Reply::Bulk).collect();
    Reply::Array(vec![Reply::Bulk(Bytes::from(entry.id.to_string())), Reply::Array(fields)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_gets_a_larger_id_than_the_last_one() {
        let after = |choice: &[u8], last| IdChoice::parse(choice).unwrap().after(last, 100);
        assert_eq!(after(b"*", LogId(5, 3)), Some(LogId(100, 0)));
        assert_eq!(after(b"*", LogId(100, 3)), Some(LogId(100, 4)));
        assert_eq!(after(b"*", LogId(200, 3)), Some(LogId(200, 4)), "the clock went back");
        assert_eq!(after(b"*", LogId::MAX), None);
        assert_eq!(after(b"200-*", LogId(200, 3)), Some(LogId(200, 4)));
        assert_eq!(after(b"199-*", LogId(200, 3)), None);
        assert_eq!(after(b"7", LogId(6, 3)), Some(LogId(7, 0)));
        assert_eq!(after(b"7-1", LogId(7, 1)), None);
        for wrong in [&b"a"[..], b"", b"-", b"1-", b"-1", b"1-2-*", b"+1", b"1-2-3"] {
            assert!(IdChoice::parse(wrong).is_none(), "{}", wrong.escape_ascii());
        }
    }
}
