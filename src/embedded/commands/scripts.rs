//! EVAL, EVALSHA and SCRIPT.

use bytes::Bytes;

use super::{call::CommandCall, history_scripts, options::MILLISECONDS, spec::CommandSpec};
use crate::embedded::{
    integer,
    reply::{NOT_AN_INTEGER, OK, Reply},
    scripts::Script,
};

pub(crate) const COMMANDS: &[CommandSpec] = &[
    CommandSpec::fallible("eval", -3, eval),
    CommandSpec::fallible("evalsha", -3, evalsha),
    CommandSpec::infallible("script", -2, |_| Reply::Nil).subcommands(SCRIPT),
];

const SCRIPT: &[CommandSpec] = &[
    CommandSpec::fallible("script|load", 3, load),
    CommandSpec::infallible("script|exists", -3, exists),
    CommandSpec::infallible("script|flush", -2, flush),
];

/// Adds a script to the cache and returns it with its digest.
fn cache(call: &mut CommandCall<'_>, text: &[u8]) -> Result<(String, Script), Reply> {
    call.store.scripts.load(text).ok_or_else(|| {
        Reply::error(
            "ERR the embedded store runs only the scripts of redis-py's lock, django-redis' incr and histories",
        )
    })
}

fn load(call: &mut CommandCall<'_>) -> Result<Reply, Reply> {
    let (digest, _) = cache(call, &call.args[2])?;
    Ok(Reply::Bulk(Bytes::from(digest)))
}

fn exists(call: &mut CommandCall<'_>) -> Reply {
    let is_cached = |digest: &Bytes| call.store.scripts.get(digest).is_some();
    Reply::Array(call.args[2..].iter().map(|digest| Reply::Integer(i64::from(is_cached(digest)))).collect())
}

fn flush(call: &mut CommandCall<'_>) -> Reply {
    call.store.scripts.clear();
    OK
}

fn eval(call: &mut CommandCall<'_>) -> Result<Reply, Reply> {
    check_key_count(call.args)?;
    let (_, script) = cache(call, &call.args[1])?;
    execute(call, script)
}

fn evalsha(call: &mut CommandCall<'_>) -> Result<Reply, Reply> {
    let script = call.store.scripts.get(&call.args[1]);
    let script = script.ok_or_else(|| Reply::error("NOSCRIPT No matching script. Please use EVAL."))?;
    check_key_count(call.args)?;
    execute(call, script)
}

fn check_key_count(args: &[Bytes]) -> Result<(), Reply> {
    let count = integer::parse(&args[2]).ok_or(NOT_AN_INTEGER)?;
    match usize::try_from(count) {
        Ok(count) if count <= args.len() - 3 => Ok(()),
        Ok(_) => Err(Reply::error("ERR Number of keys can't be greater than number of args")),
        Err(_) => Err(Reply::error("ERR Number of keys can't be negative")),
    }
}

fn execute(call: &mut CommandCall<'_>, script: Script) -> Result<Reply, Reply> {
    let [_, _, _, key, argument, more @ ..] = call.args else {
        return Err(Reply::error("ERR wrong number of arguments for a script"));
    };
    match script {
        Script::AddIfPresent if call.value(key)?.is_none() => Ok(Reply::Nil),
        Script::AddIfPresent | Script::Add => increment(call, key, argument),
        Script::Release | Script::Extend | Script::Reacquire => {
            if call.value(key)?.is_none_or(|token| token != argument) {
                return Ok(Reply::Integer(0));
            }
            lock(call, script, key, more)
        }
        Script::HistoryPublish => history_scripts::publish(call, key, argument, more),
        Script::HistoryRead => history_scripts::read(call, key, argument, more),
    }
}

fn increment(call: &mut CommandCall<'_>, key: &[u8], step: &[u8]) -> Result<Reply, Reply> {
    call.increment(key, integer::parse(step).ok_or(NOT_AN_INTEGER)?)
}

fn lock(call: &mut CommandCall<'_>, script: Script, key: &[u8], more: &[Bytes]) -> Result<Reply, Reply> {
    if let Script::Release = script {
        call.delete(key);
        return Ok(Reply::Integer(1));
    }
    let time = more.first().and_then(|time| integer::parse(time)).ok_or(NOT_AN_INTEGER)?;
    let left = call.ttl(key, MILLISECONDS);
    let replaces = more.get(1).is_some_and(|flag| flag != "0");
    let time = match script {
        Script::Extend if left < 0 => return Ok(Reply::Integer(0)),
        Script::Extend if !replaces => time.saturating_add(left),
        _ => time,
    };
    call.expire_at(key, call.store.clock.now_ms().saturating_add(time));
    Ok(Reply::Integer(1))
}
