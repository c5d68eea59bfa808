//! GET, SET and their variants, and counters.

use bytes::Bytes;

use super::{
    call::CommandCall,
    options::{self, Lifetime, MILLISECONDS, SECONDS, SetCondition, SetOptions, TimeUnit},
    spec::{CommandSpec, wrong_arity},
};
use crate::embedded::{
    integer,
    reply::{NOT_AN_INTEGER, OK, Reply},
};

pub(crate) const COMMANDS: &[CommandSpec] = &[
    CommandSpec::fallible("get", 2, get),
    CommandSpec::fallible("set", -3, set),
    CommandSpec::fallible("setex", 4, setex),
    CommandSpec::fallible("psetex", 4, psetex),
    CommandSpec::fallible("setnx", 3, setnx),
    CommandSpec::fallible("getset", 3, getset),
    CommandSpec::fallible("getdel", 2, getdel),
    CommandSpec::fallible("getex", -2, getex),
    CommandSpec::infallible("mget", -2, mget),
    CommandSpec::fallible("mset", -3, mset),
    CommandSpec::fallible("strlen", 2, strlen),
    CommandSpec::fallible("getrange", 4, getrange),
    CommandSpec::fallible("incr", 2, incr),
    CommandSpec::fallible("decr", 2, decr),
    CommandSpec::fallible("incrby", 3, incrby),
    CommandSpec::fallible("decrby", 3, decrby),
];

fn get(call: &mut CommandCall<'_>) -> Result<Reply, Reply> {
    call.value_or_nil(&call.args[1])
}

fn set(call: &mut CommandCall<'_>) -> Result<Reply, Reply> {
    let [_, key, value, rest @ ..] = call.args else { return Err(wrong_arity("set")) };
    let options = SetOptions::parse_set(rest)?;
    let now = call.store.clock.now_ms();
    let deadline = match &options.lifetime {
        Lifetime::Until(unit, text) => Some(options::positive_deadline(*unit, text, now, "set")?),
        _ => None,
    };
    let old = if options.get { call.value(key)? } else { None };
    // This removes an expired key, whose expiry KEEPTTL would keep.
    let exists = call.exists(key);
    let written = match options.condition {
        SetCondition::Always => true,
        SetCondition::Absent => !exists,
        SetCondition::Present => exists,
    };
    if written {
        let kept = if options.lifetime == Lifetime::Keep { call.expiry(key) } else { None };
        call.put(key, value, deadline.or(kept))?;
        call.notify(key, "set");
        if deadline.is_some() {
            call.notify(key, "expire");
        }
    }
    Ok(match (options.get, written) {
        (true, _) => old.map_or(Reply::Nil, Reply::Bulk),
        (false, true) => OK,
        (false, false) => Reply::Nil,
    })
}

fn setex(call: &mut CommandCall<'_>) -> Result<Reply, Reply> {
    set_with_expiry(call, SECONDS, "setex")
}

fn psetex(call: &mut CommandCall<'_>) -> Result<Reply, Reply> {
    set_with_expiry(call, MILLISECONDS, "psetex")
}

fn set_with_expiry(call: &mut CommandCall<'_>, unit: TimeUnit, name: &str) -> Result<Reply, Reply> {
    let [_, key, time, value] = call.args else { return Err(wrong_arity(name)) };
    let deadline = options::positive_deadline(unit, time, call.store.clock.now_ms(), name)?;
    call.put(key, value, Some(deadline))?;
    call.notify(key, "set");
    call.notify(key, "expire");
    Ok(OK)
}

fn setnx(call: &mut CommandCall<'_>) -> Result<Reply, Reply> {
    let [_, key, value] = call.args else { return Err(wrong_arity("setnx")) };
    if call.exists(key) {
        return Ok(Reply::Integer(0));
    }
    call.put(key, value, None)?;
    call.notify(key, "set");
    Ok(Reply::Integer(1))
}

fn getset(call: &mut CommandCall<'_>) -> Result<Reply, Reply> {
    let [_, key, value] = call.args else { return Err(wrong_arity("getset")) };
    let old = call.value_or_nil(key)?;
    call.put(key, value, None)?;
    call.notify(key, "set");
    Ok(old)
}

fn getdel(call: &mut CommandCall<'_>) -> Result<Reply, Reply> {
    let old = call.value_or_nil(&call.args[1])?;
    call.delete(&call.args[1]);
    Ok(old)
}

fn getex(call: &mut CommandCall<'_>) -> Result<Reply, Reply> {
    let [_, key, rest @ ..] = call.args else { return Err(wrong_arity("getex")) };
    let options = SetOptions::parse_getex(rest)?;
    // Redis validates the time only if the key exists.
    let Some(value) = call.value(key)? else { return Ok(Reply::Nil) };
    let now = call.store.clock.now_ms();
    match options.lifetime {
        Lifetime::Until(unit, text) => {
            let deadline = options::positive_deadline(unit, &text, now, "getex")?;
            call.expire_at(key, deadline);
        }
        Lifetime::Persist => {
            call.persist(key);
        }
        Lifetime::Unspecified | Lifetime::Keep => {}
    }
    Ok(Reply::Bulk(value))
}

fn mget(call: &mut CommandCall<'_>) -> Reply {
    Reply::Array(call.args[1..].iter().map(|key| call.value_or_nil(key).unwrap_or(Reply::Nil)).collect())
}

fn mset(call: &mut CommandCall<'_>) -> Result<Reply, Reply> {
    let (pairs, []) = call.args[1..].as_chunks::<2>() else { return Err(wrong_arity("mset")) };
    for [key, value] in pairs {
        call.put(key, value, None)?;
        call.notify(key, "set");
    }
    Ok(OK)
}

fn strlen(call: &mut CommandCall<'_>) -> Result<Reply, Reply> {
    Ok(Reply::count(call.value(&call.args[1])?.map_or(0, |value| value.len())))
}

fn getrange(call: &mut CommandCall<'_>) -> Result<Reply, Reply> {
    let [start, end] = [2, 3].map(|index| integer::parse(&call.args[index]).ok_or(NOT_AN_INTEGER));
    let (start, end) = (start?, end?);
    let value = call.value(&call.args[1])?.unwrap_or_default();
    let length = i64::try_from(value.len()).unwrap_or(i64::MAX);
    // Negative numbers count from the end.
    let index = |number: i64| if number < 0 { number.saturating_add(length).max(0) } else { number };
    let backwards = start < 0 && end < 0 && start > end;
    let (start, end) = (index(start), index(end).min(length - 1));
    if backwards || start > end {
        return Ok(Reply::Bulk(Bytes::new()));
    }
    let [start, end] = [start, end + 1].map(|index| usize::try_from(index).unwrap_or_default());
    Ok(Reply::Bulk(value.slice(start..end)))
}

fn incr(call: &mut CommandCall<'_>) -> Result<Reply, Reply> {
    call.increment(&call.args[1], 1)
}

fn decr(call: &mut CommandCall<'_>) -> Result<Reply, Reply> {
    call.increment(&call.args[1], -1)
}

fn incrby(call: &mut CommandCall<'_>) -> Result<Reply, Reply> {
    let step = integer::parse(&call.args[2]).ok_or(NOT_AN_INTEGER)?;
    call.increment(&call.args[1], step)
}

fn decrby(call: &mut CommandCall<'_>) -> Result<Reply, Reply> {
    let step = integer::parse(&call.args[2]).ok_or(NOT_AN_INTEGER)?;
    let step = step.checked_neg().ok_or_else(|| Reply::error("ERR decrement would overflow"))?;
    call.increment(&call.args[1], step)
}
