//! EXPIRE and its variants, TTL and PERSIST.

use bytes::Bytes;

use super::{
    call::CommandCall,
    options::{self, AT_MILLISECONDS, AT_SECONDS, MILLISECONDS, SECONDS, TimeUnit},
    spec::{CommandSpec, printable},
};
use crate::embedded::{
    integer,
    reply::{NOT_AN_INTEGER, Reply},
};

pub(crate) const COMMANDS: &[CommandSpec] = &[
    CommandSpec::fallible("expire", -3, |call| expire(call, SECONDS, "expire")),
    CommandSpec::fallible("pexpire", -3, |call| expire(call, MILLISECONDS, "pexpire")),
    CommandSpec::fallible("expireat", -3, |call| expire(call, AT_SECONDS, "expireat")),
    CommandSpec::fallible("pexpireat", -3, |call| expire(call, AT_MILLISECONDS, "pexpireat")),
    CommandSpec::infallible("persist", 2, |call| Reply::count(usize::from(call.persist(&call.args[1])))),
    CommandSpec::infallible("ttl", 2, |call| Reply::Integer(call.ttl(&call.args[1], SECONDS))),
    CommandSpec::infallible("pttl", 2, |call| Reply::Integer(call.ttl(&call.args[1], MILLISECONDS))),
];

fn expire(call: &mut CommandCall<'_>, unit: TimeUnit, name: &str) -> Result<Reply, Reply> {
    let key = &call.args[1];
    let conditions = ExpireConditions::parse(&call.args[3..])?;
    let value = integer::parse(&call.args[2]).ok_or(NOT_AN_INTEGER)?;
    let deadline = unit.deadline(value, call.store.clock.now_ms());
    let deadline = deadline.ok_or_else(|| options::invalid_expire_time(name))?;
    if !call.exists(key) || !conditions.are_met(call.expiry(key), deadline) {
        return Ok(Reply::Integer(0));
    }
    call.expire_at(key, deadline);
    Ok(Reply::Integer(1))
}

/// An option of EXPIRE: NX, XX, GT or LT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ExpireCondition {
    NoExpiry,
    HasExpiry,
    Later,
    Earlier,
}

/// The options of one command. All of them must be met.
#[derive(Debug, Default)]
struct ExpireConditions(Vec<ExpireCondition>);

impl ExpireConditions {
    fn parse(args: &[Bytes]) -> Result<Self, Reply> {
        let mut found = Self::default();
        for arg in args {
            found.0.push(match &arg.to_ascii_uppercase()[..] {
                b"NX" => ExpireCondition::NoExpiry,
                b"XX" => ExpireCondition::HasExpiry,
                b"GT" => ExpireCondition::Later,
                b"LT" => ExpireCondition::Earlier,
                _ => return Err(Reply::error(&format!("ERR Unsupported option {}", printable(arg, 128)))),
            });
        }
        if found.0.contains(&ExpireCondition::NoExpiry)
            && found.0.iter().any(|condition| *condition != ExpireCondition::NoExpiry)
        {
            let text = "ERR NX and XX, GT or LT options at the same time are not compatible";
            return Err(Reply::error(text));
        }
        if found.0.contains(&ExpireCondition::Later) && found.0.contains(&ExpireCondition::Earlier) {
            return Err(Reply::error("ERR GT and LT options at the same time are not compatible"));
        }
        Ok(found)
    }

    /// Compares with the current expiry. No expiry counts as infinite.
    fn are_met(&self, current: Option<i64>, deadline: i64) -> bool {
        self.0.iter().all(|condition| match condition {
            ExpireCondition::NoExpiry => current.is_none(),
            ExpireCondition::HasExpiry => current.is_some(),
            ExpireCondition::Later => current.is_some_and(|current| deadline > current),
            ExpireCondition::Earlier => current.is_none_or(|current| deadline < current),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(options: &str, current: Option<i64>, deadline: i64, expected: bool) {
        let args: Vec<Bytes> =
            options.split_whitespace().map(|word| Bytes::copy_from_slice(word.as_bytes())).collect();
        assert_eq!(ExpireConditions::parse(&args).unwrap().are_met(current, deadline), expected, "{options}");
    }

    #[test]
    fn a_key_without_expiry_counts_as_never_expiring() {
        check("", None, 5, true);
        check("NX", None, 5, true);
        check("NX", Some(1), 5, false);
        check("XX", None, 5, false);
        check("XX gt", Some(4), 5, true);
        check("GT", Some(5), 5, false);
        check("GT", None, 5, false);
        check("LT", None, 5, true);
        check("LT", Some(5), 5, false);
        check("LT", Some(6), 5, true);
    }
}
