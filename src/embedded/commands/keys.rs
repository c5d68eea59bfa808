//! Commands for keys and databases: DEL, EXISTS, TYPE, KEYS, SCAN, DBSIZE and FLUSHDB.

use bytes::Bytes;

use super::{call::CommandCall, spec::CommandSpec};
use crate::embedded::{
    glob, integer,
    keyspace::{DATABASES, KeyEntry},
    reply::{NOT_AN_INTEGER, OK, Reply, SYNTAX},
};

pub(crate) const COMMANDS: &[CommandSpec] = &[
    CommandSpec::infallible("del", -2, del),
    CommandSpec::infallible("unlink", -2, del),
    CommandSpec::infallible("exists", -2, exists),
    CommandSpec::infallible("type", 2, key_type),
    CommandSpec::infallible("keys", 2, keys),
    CommandSpec::fallible("scan", -2, scan),
    CommandSpec::infallible("dbsize", 1, |call| Reply::count(call.store.keyspace.len(call.db()).0)),
    CommandSpec::fallible("flushdb", -1, flushdb),
    CommandSpec::fallible("flushall", -1, flushall),
];

fn del(call: &mut CommandCall<'_>) -> Reply {
    Reply::count(call.args[1..].iter().filter(|key| call.delete(key)).count())
}

fn exists(call: &mut CommandCall<'_>) -> Reply {
    Reply::count(call.args[1..].iter().filter(|key| call.exists(key)).count())
}

fn key_type(call: &mut CommandCall<'_>) -> Reply {
    Reply::Simple(call.type_of(&call.args[1]).unwrap_or("none"))
}

fn keys(call: &mut CommandCall<'_>) -> Reply {
    let (now, pattern) = (call.store.clock.now_ms(), &call.args[1]);
    let entries = call.store.keyspace.entries(call.db());
    let found = entries.filter(|entry| !entry.is_due(now) && glob::matches(pattern, &entry.key));
    Reply::Array(found.map(|entry| Reply::Bulk(entry.key.clone())).collect())
}

fn scan(call: &mut CommandCall<'_>) -> Result<Reply, Reply> {
    let cursor = std::str::from_utf8(&call.args[1]).ok().and_then(|text| text.parse::<u64>().ok());
    let cursor = cursor.ok_or_else(|| Reply::error("ERR invalid cursor"))?;
    let cursor = usize::try_from(cursor).unwrap_or(usize::MAX);
    let options = ScanOptions::parse(&call.args[2..])?;
    let now = call.store.clock.now_ms();
    let (next, entries) = call.store.keyspace.scan(call.db(), cursor, options.count);
    let found = entries.filter(|entry| !entry.is_due(now) && options.match_entry(entry));
    let found = found.map(|entry| Reply::Bulk(entry.key.clone())).collect();
    Ok(Reply::Array(vec![Reply::Bulk(Bytes::from(next.to_string())), Reply::Array(found)]))
}

/// The options of SCAN.
struct ScanOptions {
    pattern: Option<Bytes>,
    count: usize,
    /// The requested type; none for keys of all types.
    type_name: Option<Bytes>,
}

impl ScanOptions {
    fn parse(args: &[Bytes]) -> Result<Self, Reply> {
        let mut options = Self { pattern: None, count: 10, type_name: None };
        let (pairs, []) = args.as_chunks::<2>() else { return Err(SYNTAX) };
        for [name, value] in pairs {
            match &name.to_ascii_uppercase()[..] {
                b"MATCH" => options.pattern = Some(value.clone()),
                b"TYPE" => options.type_name = Some(value.clone()),
                b"COUNT" => {
                    let count = integer::parse(value).ok_or(NOT_AN_INTEGER)?;
                    options.count = usize::try_from(count).ok().filter(|&count| count > 0).ok_or(SYNTAX)?;
                }
                _ => return Err(SYNTAX),
            }
        }
        Ok(options)
    }

    fn match_entry(&self, entry: &KeyEntry) -> bool {
        let own = entry.value.type_name().as_bytes();
        self.type_name.as_ref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(own))
            && self.pattern.as_ref().is_none_or(|pattern| glob::matches(pattern, &entry.key))
    }
}

fn flushdb(call: &mut CommandCall<'_>) -> Result<Reply, Reply> {
    check_flush_mode(call.args)?;
    call.store.flush(call.db());
    Ok(OK)
}

fn flushall(call: &mut CommandCall<'_>) -> Result<Reply, Reply> {
    check_flush_mode(call.args)?;
    (0..DATABASES).for_each(|db| call.store.flush(db));
    Ok(OK)
}

fn check_flush_mode(args: &[Bytes]) -> Result<(), Reply> {
    match args {
        [_] => Ok(()),
        [_, mode] if mode.eq_ignore_ascii_case(b"sync") || mode.eq_ignore_ascii_case(b"async") => Ok(()),
        _ => Err(SYNTAX),
    }
}
