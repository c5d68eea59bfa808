//! The limit of connections: how many clients the file descriptors allow, minus a reserve for the server itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tracing::{info, warn};

use crate::settings::Settings;

/// Descriptors of the process: standard streams, log, signals, listeners, and files that are read (`/proc`,
/// `/etc/hosts`, certificates).
const PROCESS_FILES: usize = 32;

/// Descriptors of a shard: its runtime, and its connections to Redis, one more while a connection is replaced.
const SHARD_FILES: usize = 12;

/// Descriptors of a listener for the operator: its runtime, its socket, and one that is accepted and closed.
const ADMIN_FILES: usize = 8;

/// Most sockets above the limit of connections that are answered with 503; further ones are closed unread.
const MAX_REFUSED: usize = 1_000;

/// If the descriptors are the limit, one socket in this many may be answered with 503.
const REFUSED_SHARE: usize = 8;

/// The number of client sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLimit {
    /// Connections that are served.
    pub served: usize,
    /// Further sockets, which are answered with 503.
    pub refused: usize,
}

/// The limits in force, which a reload changes.
#[derive(Debug, Clone)]
pub struct ConnectionLimits {
    /// Connections that are served.
    pub served: Arc<AtomicUsize>,
    /// Sockets that may be open at once.
    pub open: Arc<AtomicUsize>,
    files: usize,
    reserve: usize,
}

impl ConnectionLimits {
    /// Changes the limit of connections, within that of open files.
    pub fn set(&self, max_connections: usize) {
        let limit = ConnectionLimit::of(max_connections, self.files, self.reserve);
        if limit.served < max_connections {
            let connections = limit.served;
            info!(
                connections,
                "open files limit the connections below server.max_connections; raise LimitNOFILE and restart"
            );
        }
        self.served.store(limit.served, Ordering::Relaxed);
        self.open.store(limit.open(), Ordering::Relaxed);
    }
}

impl ConnectionLimit {
    /// Raises the limit of open files to what the system allows, and warns if that is low.
    pub fn raise(settings: &Settings, with_embedded: bool) -> ConnectionLimits {
        let files =
            rlimit::increase_nofile_limit(u64::MAX).ok().and_then(|files| usize::try_from(files).ok());
        let embedded = if with_embedded { settings.embedded.limits.max_clients } else { 0 };
        let callback = settings.callback.as_ref().map_or(0, |callback| callback.max_calls);
        let admin = settings.admin.iter().chain(&settings.socket_io.yunity.admin);
        let admin: usize = admin.map(|admin| ADMIN_FILES + admin.max_connections).sum();
        let reserve = PROCESS_FILES + SHARD_FILES * settings.server.shards + callback + admin;
        // The embedded store is for development and takes at most a quarter.
        let reserve = reserve + embedded.min(files.unwrap_or(usize::MAX) / 4);
        let files = files.unwrap_or(usize::MAX);
        let limit = Self::of(settings.server.max_connections, files, reserve);
        let connections = limit.served;
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
        ConnectionLimits {
            served: Arc::new(AtomicUsize::new(limit.served)),
            open: Arc::new(AtomicUsize::new(limit.open())),
            files,
            reserve,
        }
    }

    fn of(max_connections: usize, files: usize, reserve: usize) -> Self {
        let available = files.saturating_sub(reserve).max(2);
        let refused = (available / REFUSED_SHARE).clamp(1, MAX_REFUSED);
        Self { served: max_connections.min(available - refused), refused }
    }

    /// Returns how many sockets may be open at once.
    fn open(self) -> usize {
        self.served.saturating_add(self.refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_get_the_descriptors_beyond_the_reserve() {
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
