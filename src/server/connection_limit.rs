//! File descriptors: how many clients they allow, beside what the server needs itself.

use tracing::{info, warn};

use crate::settings::Settings;

/// Descriptors that a process needs whatever its settings: standard streams, log, signals, listeners, and files that are
/// read (`/proc`, `/etc/hosts`, certificates).
const OWN: usize = 32;

/// Descriptors of a shard: its runtime's, and its connections to Redis, of which a new one is made while an old one
/// ends.
const OF_SHARD: usize = 12;

/// Most sockets above the limit of connections that are still answered, with 503; above that they are closed unheard.
const MOST_REFUSED: usize = 1_000;

/// Where the descriptors are what limits, one socket in so many may be one that is answered with 503.
const REFUSED_PART: usize = 8;

/// How many sockets of clients there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLimit {
    /// Connections that are served.
    pub served: usize,
    /// Sockets above that which are answered, with 503.
    pub refused: usize,
}

impl ConnectionLimit {
    /// Lets the process open as many files as the system allows it, and says so if they are few.
    pub fn raise(settings: &Settings, with_embedded: bool) -> Self {
        let files =
            rlimit::increase_nofile_limit(u64::MAX).ok().and_then(|files| usize::try_from(files).ok());
        let embedded = if with_embedded { settings.embedded.max_clients } else { 0 };
        let callback = settings.callback.as_ref().map_or(0, |callback| callback.max_calls);
        let reserve = OWN + OF_SHARD * settings.server.shards + callback;
        // The embedded store is for trying out: it takes what there is.
        let reserve = reserve + embedded.min(files.unwrap_or(usize::MAX) / 4);
        let limit = Self::of(settings.server.max_connections, files.unwrap_or(usize::MAX), reserve);
        let (connections, files) = (limit.served, files.unwrap_or(usize::MAX));
        if connections < 16 {
            warn!(
                files,
                reserve,
                connections,
                "open files are limited to hardly more than the server needs itself; raise LimitNOFILE (ulimit -n)"
            );
        } else if connections < settings.server.max_connections && files < 1024 {
            warn!(
                files,
                reserve,
                connections,
                "open files are few, so connections are limited below server.max_connections; raise LimitNOFILE (ulimit -n)"
            );
        } else if connections < settings.server.max_connections {
            info!(
                files,
                reserve,
                connections,
                "open files are limited, so connections are limited below server.max_connections; for more raise LimitNOFILE (ulimit -n)"
            );
        }
        limit
    }

    fn of(max_connections: usize, files: usize, reserve: usize) -> Self {
        let room = files.saturating_sub(reserve).max(2);
        let refused = (room / REFUSED_PART).clamp(1, MOST_REFUSED);
        Self { served: max_connections.min(room - refused), refused }
    }

    /// Returns how many sockets may be open at a time.
    pub fn open(self) -> usize {
        self.served.saturating_add(self.refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_get_what_the_server_does_not_need_itself() {
        for (max_connections, files, reserve, served, refused) in [
            (100_000, 1_048_576, 100, 100_000, 1_000),
            (100_000, 128, 56, 63, 9),
            (10, 128, 56, 10, 9),
            (100_000, 20_000, 56, 18_944, 1_000),
            (100_000, 40, 56, 1, 1),
            (100_000, usize::MAX, 56, 100_000, 1_000),
        ] {
            let limit = ConnectionLimit::of(max_connections, files, reserve);
            assert_eq!(limit, ConnectionLimit { served, refused }, "{max_connections} {files} {reserve}");
            assert!(files < reserve + 2 || limit.open() <= files - reserve);
        }
    }
}
