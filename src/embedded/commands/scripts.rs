//! Lua without Lua: the few scripts that redis-py's lock and django-redis' `incr` send, known by their digest.
//!
//! The digest is taken of the words of the script joined by single blanks, so indentation does not matter.

use std::fmt::Write;

use bytes::Bytes;
use sha1::{Digest, Sha1};

use super::{CommandCall, CommandSpec, options::MILLISECONDS};
use crate::embedded::{
    integer,
    reply::{NOT_AN_INTEGER, OK, Reply},
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

/// A script that is understood.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Script {
    /// Adds to a counter that exists.
    AddIfPresent,
    /// Adds to a counter.
    Add,
    /// Deletes a lock that is one's own.
    Release,
    /// Gives one's own lock more time.
    Extend,
    /// Gives one's own lock a new time.
    Reacquire,
}

const KNOWN: [(&str, Script); 5] = [
    ("a18fab0ac0660f36408271b6d581f0d87b887c1a", Script::AddIfPresent),
    ("8cd00688c05c46bde4a2e60658ef20a2e5c0b248", Script::Add),
    ("2aef8d7ce63503709a01cbf6ad6bb4b93d5c3909", Script::Release),
    ("829408cc83d4524666232bd8beebe3bcf873ac70", Script::Extend),
    ("042112cf75a3fdabb4e02600ce494eff4b2d2906", Script::Reacquire),
];

/// How many spellings of the known scripts are remembered.
const MAX_SPELLINGS: usize = 64;

/// Finds out what a script means and remembers its name.
fn learn(call: &mut CommandCall<'_>, text: &[u8]) -> Result<(String, Script), Reply> {
    let words: Vec<&[u8]> = text.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).collect();
    let digest = sha1_hex(&words.join(&b' '));
    let known = KNOWN.iter().find(|(name, _)| *name == digest);
    let (_, script) = known.ok_or_else(|| {
        Reply::error("ERR the embedded store runs only the scripts of redis-py's lock and django-redis' incr")
    })?;
    let name = sha1_hex(text);
    if call.store.scripts.len() >= MAX_SPELLINGS {
        call.store.scripts.clear();
    }
    call.store.scripts.insert(name.clone(), *script);
    Ok((name, *script))
}

fn load(call: &mut CommandCall<'_>) -> Result<Reply, Reply> {
    let (name, _) = learn(call, &call.args[2])?;
    Ok(Reply::Bulk(Bytes::from(name)))
}

fn exists(call: &mut CommandCall<'_>) -> Reply {
    let known = |name: &Bytes| lookup(call, name).is_some();
    Reply::Array(call.args[2..].iter().map(|name| Reply::Integer(i64::from(known(name)))).collect())
}

fn flush(call: &mut CommandCall<'_>) -> Reply {
    call.store.scripts.clear();
    OK
}

fn lookup(call: &CommandCall<'_>, name: &[u8]) -> Option<Script> {
    let name = std::str::from_utf8(name).ok()?.to_ascii_lowercase();
    call.store.scripts.get(&name).copied()
}

fn eval(call: &mut CommandCall<'_>) -> Result<Reply, Reply> {
    check_key_count(call.args)?;
    let (_, script) = learn(call, &call.args[1])?;
    execute(call, script)
}

fn evalsha(call: &mut CommandCall<'_>) -> Result<Reply, Reply> {
    let script = lookup(call, &call.args[1]);
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
        Script::AddIfPresent if call.value(key).is_none() => Ok(Reply::Nil),
        Script::AddIfPresent | Script::Add => add(call, key, argument),
        Script::Release | Script::Extend | Script::Reacquire => {
            if call.value(key).is_none_or(|token| token != argument) {
                return Ok(Reply::Integer(0));
            }
            lock(call, script, key, more)
        }
    }
}

fn add(call: &mut CommandCall<'_>, key: &[u8], step: &[u8]) -> Result<Reply, Reply> {
    call.add(key, integer::parse(step).ok_or(NOT_AN_INTEGER)?)
}

fn lock(call: &mut CommandCall<'_>, script: Script, key: &[u8], more: &[Bytes]) -> Result<Reply, Reply> {
    if let Script::Release = script {
        call.delete(key);
        return Ok(Reply::Integer(1));
    }
    let time = more.first().and_then(|time| integer::parse(time)).ok_or(NOT_AN_INTEGER)?;
    let left = call.remaining(key, MILLISECONDS);
    let replaces = more.get(1).is_some_and(|flag| flag != "0");
    let time = match script {
        Script::Extend if left < 0 => return Ok(Reply::Integer(0)),
        Script::Extend if !replaces => time.saturating_add(left),
        _ => time,
    };
    call.expire_at(key, call.store.clock.now_ms().saturating_add(time));
    Ok(Reply::Integer(1))
}

/// Returns the SHA-1 digest in lower-case hexadecimal digits: the name of a Lua script in Redis.
fn sha1_hex(text: &[u8]) -> String {
    Sha1::digest(text).iter().fold(String::with_capacity(40), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::sha1_hex;

    #[test]
    fn digests_are_those_of_the_rfc() {
        assert_eq!(sha1_hex(b"abc"), "a9993e364706816aba3e25717850c26c9cd0d89d");
        assert_eq!(sha1_hex(b""), "da39a3ee5e6b4b0d3255bfef95601890afd80709");
        assert_eq!(sha1_hex(&b"01234567".repeat(80)), "dea356a2cddd90c7a7ecedc5ebb563934f460452");
    }
}
