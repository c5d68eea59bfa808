//! The Lua scripts of redis-py's lock, django-redis' `incr` and the gateway's histories, which the store runs without Lua.
//!
//! A script is recognised by the digest of its words, joined by single blanks, so its indentation does not matter.

use std::{collections::HashMap, fmt::Write};

use sha1::{Digest, Sha1};

/// What a known script does.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Script {
    /// Adds to a counter that exists.
    AddIfPresent,
    /// Adds to a counter.
    Add,
    /// Deletes a lock if the token matches.
    Release,
    /// Extends the time to live of a lock if the token matches.
    Extend,
    /// Resets the time to live of a lock if the token matches.
    Reacquire,
    /// Appends a message to a history and publishes it.
    HistoryPublish,
    /// Reads a part of a history.
    HistoryRead,
}

const KNOWN: [(&str, Script); 7] = [
    ("a18fab0ac0660f36408271b6d581f0d87b887c1a", Script::AddIfPresent),
    ("8cd00688c05c46bde4a2e60658ef20a2e5c0b248", Script::Add),
    ("2aef8d7ce63503709a01cbf6ad6bb4b93d5c3909", Script::Release),
    ("829408cc83d4524666232bd8beebe3bcf873ac70", Script::Extend),
    ("042112cf75a3fdabb4e02600ce494eff4b2d2906", Script::Reacquire),
    ("80c54a4765be60079cbc1bf438c9f9ec3234f957", Script::HistoryPublish),
    ("97c753653ae2acac3e82acc1120ef70b395cbb93", Script::HistoryRead),
];

/// Bound of the cache: a client may send a known script with any indentation, and each spelling has its own digest.
const MAX_CACHED_SCRIPTS: usize = 64;

/// Scripts that were loaded, by the digest that EVALSHA takes.
#[derive(Debug, Default)]
pub(crate) struct ScriptCache {
    by_digest: HashMap<String, Script>,
}

impl ScriptCache {
    /// Adds a script and returns it with its digest; `None` means that it is not a known one.
    pub(crate) fn load(&mut self, text: &[u8]) -> Option<(String, Script)> {
        let words: Vec<&[u8]> = text.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).collect();
        let normalised = sha1_hex(&words.join(&b' '));
        let (_, script) = KNOWN.iter().find(|(digest, _)| *digest == normalised)?;
        if self.by_digest.len() >= MAX_CACHED_SCRIPTS {
            self.by_digest.clear();
        }
        let digest = sha1_hex(text);
        self.by_digest.insert(digest.clone(), *script);
        Some((digest, *script))
    }

    /// Returns the script with a digest, in upper or lower case.
    pub(crate) fn get(&self, digest: &[u8]) -> Option<Script> {
        let digest = std::str::from_utf8(digest).ok()?.to_ascii_lowercase();
        self.by_digest.get(&digest).copied()
    }

    /// Removes all scripts.
    pub(crate) fn clear(&mut self) {
        self.by_digest.clear();
    }
}

/// Returns the SHA-1 digest in lower-case hexadecimal digits: the name of a Lua script in Redis.
pub(crate) fn sha1_hex(text: &[u8]) -> String {
    Sha1::digest(text).iter().fold(String::with_capacity(40), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::{Script, ScriptCache, sha1_hex};

    #[test]
    fn the_scripts_of_histories_are_known() {
        let load = |text: &str| ScriptCache::default().load(text.as_bytes()).map(|(_, script)| script);
        let publish = load(include_str!("../redis/history.lua"));
        assert!(matches!(publish, Some(Script::HistoryPublish)), "{publish:?}");
        let read = load(include_str!("../redis/history_read.lua"));
        assert!(matches!(read, Some(Script::HistoryRead)), "{read:?}");
    }

    #[test]
    fn digests_are_those_of_the_rfc() {
        assert_eq!(sha1_hex(b"abc"), "a9993e364706816aba3e25717850c26c9cd0d89d");
        assert_eq!(sha1_hex(b""), "da39a3ee5e6b4b0d3255bfef95601890afd80709");
        assert_eq!(sha1_hex(&b"01234567".repeat(80)), "dea356a2cddd90c7a7ecedc5ebb563934f460452");
    }
}
