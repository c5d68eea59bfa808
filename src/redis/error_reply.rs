//! Error replies: how each is handled, and what the operator can do about it.
//!
//! An error reply proves that Redis is alive, so it is no lost connection, unless the connection itself is not
//! authenticated. The codes are those in Redis' source (`server.c`, `processCommand`).

use std::time::Duration;

use tokio::time::Instant;

use crate::wire::mask_sessions;

/// Interval at which the same hint is logged again.
const HINT_PERIOD: Duration = Duration::from_mins(1);

/// How an error reply is handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ErrorClass {
    /// The ACL forbids it, or the key holds another type: the key counts as absent.
    Denied,
    /// Redis cannot execute it at the moment: retry.
    Temporary,
    /// The connection is not authenticated: reconnect.
    Unauthenticated,
    /// The server is a replica: discover the master.
    NotMaster,
    /// Anything else.
    Other,
}

impl ErrorClass {
    /// Returns the class of an error reply.
    pub(crate) fn of(text: &str) -> Self {
        match code(text) {
            "NOPERM" | "WRONGTYPE" => Self::Denied,
            "BUSY" | "LOADING" | "MASTERDOWN" | "MISCONF" | "NOREPLICAS" | "NOSCRIPT" | "OOM"
            | "CLUSTERDOWN" | "TRYAGAIN" | "UNKILLABLE" | "MOVED" | "ASK" => Self::Temporary,
            "NOAUTH" | "WRONGPASS" => Self::Unauthenticated,
            "READONLY" => Self::NotMaster,
            _ => Self::Other,
        }
    }
}

/// Returns the error code, the first word of an error reply.
fn code(text: &str) -> &str {
    text.split(' ').next().unwrap_or_default()
}

/// Returns true if the ACL forbids the command itself, regardless of its arguments.
///
/// Redis writes `NOPERM … no permissions to run the 'subscribe' command`.
pub(crate) fn is_about_the_command(text: &str) -> bool {
    text.contains("to run the")
}

/// Returns true if a connection remains usable although PING got this error: Redis with failing snapshots refuses
/// only PING and writes.
pub(crate) fn is_usable(text: &str) -> bool {
    matches!(code(text), "NOPERM" | "MISCONF")
}

/// Returns the cure for an error reply; empty if none is known.
pub(crate) fn hint(text: &str) -> &'static str {
    match code(text) {
        "BUSY" => "a script runs for too long: wait, or stop it with SCRIPT KILL",
        "LOADING" => "it is loading its data: wait",
        "MASTERDOWN" => {
            "this replica has lost its master: repair the replication, or set replica-serve-stale-data yes"
        }
        "MISCONF" => {
            "its snapshots fail, so it refuses writes: see Redis' log for the reason (a full disk?), or set stop-writes-on-bgsave-error no"
        }
        "NOREPLICAS" => {
            "it has fewer replicas than min-replicas-to-write: start replicas, or lower the setting"
        }
        "OOM" => "its memory is full: raise maxmemory, or set a maxmemory-policy other than noeviction",
        "READONLY" => "this is a replica: redis.url must name the master",
        "CLUSTERDOWN" => "the cluster does not serve all slots: see CLUSTER INFO",
        "NOPERM" => "the ACL of its user does not allow this: docs/security.md shows a sufficient one",
        "WRONGTYPE" => "something else is stored under this key",
        "NOAUTH" => "set the password: redis://:PASSWORD@host:6379",
        "WRONGPASS" => "check user and password in redis.url",
        _ => "",
    }
}

/// Returns the cure for an error reply as the end of a log line; empty if none is known.
pub(crate) fn cure(text: &str) -> String {
    match hint(text) {
        "" => String::new(),
        hint => format!("; {hint}"),
    }
}

/// Masks session keys and control characters in the text of an error, for the log.
pub(crate) fn describe_text(text: &str) -> String {
    // Redis quotes the arguments of an unknown command: a message would appear in the log.
    let text = text.split_once(", with args beginning with").map_or(text, |(before, _)| before);
    mask_sessions(text).escape_debug().to_string()
}

/// Limits a hint to one per minute; an error with another code is logged at once.
#[derive(Debug, Default)]
pub(crate) struct HintThrottle(Option<(String, Instant)>);

impl HintThrottle {
    /// Returns true if an error with this code may be logged now, and records that it was.
    pub(crate) fn allow(&mut self, text: &str) -> bool {
        let code = code(text);
        if self.0.as_ref().is_some_and(|(last, when)| last == code && when.elapsed() < HINT_PERIOD) {
            return false;
        }
        self.0 = Some((code.to_owned(), Instant::now()));
        true
    }

    /// Clears the record. Returns true if something had been logged.
    pub(crate) fn reset(&mut self) -> bool {
        self.0.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_missing_permission_and_a_wrong_type_count_as_absent() {
        for (text, class) in [
            ("NOPERM this user has no permissions to access one of the keys", ErrorClass::Denied),
            ("WRONGTYPE Operation against a key holding the wrong kind of value", ErrorClass::Denied),
            ("BUSY Redis is busy running a script.", ErrorClass::Temporary),
            ("LOADING Redis is loading the dataset in memory", ErrorClass::Temporary),
            ("MASTERDOWN Link with MASTER is down", ErrorClass::Temporary),
            ("NOAUTH Authentication required.", ErrorClass::Unauthenticated),
            ("ERR unknown command 'GET'", ErrorClass::Other),
        ] {
            assert_eq!(ErrorClass::of(text), class, "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_hint_comes_once_a_minute_and_at_once_for_another_reason() {
        let mut throttle = HintThrottle::default();
        assert!(throttle.allow("BUSY a") && !throttle.allow("BUSY b") && throttle.allow("LOADING"));
        tokio::time::advance(HINT_PERIOD).await;
        assert!(throttle.allow("LOADING") && throttle.reset() && !throttle.reset());
    }
}
