//! When a command that listens ends.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use super::CommandError;

/// The end of a command that listens: after a time, or by SIGINT or SIGTERM.
pub(super) struct ListenEnd {
    until: Option<Instant>,
    interrupted: Signal,
    terminated: Signal,
}

impl ListenEnd {
    /// Installs the handlers. Without `seconds` only a signal is the end.
    ///
    /// # Errors
    ///
    /// When a handler cannot be installed.
    pub(super) fn new(seconds: Option<u64>) -> Result<Self, CommandError> {
        Ok(Self {
            until: seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds)),
            interrupted: signal(SignalKind::interrupt()).map_err(CommandError::Stdio)?,
            terminated: signal(SignalKind::terminate()).map_err(CommandError::Stdio)?,
        })
    }

    /// Waits for the end. Cancel-safe.
    pub(super) async fn reached(&mut self) {
        let time = async {
            match self.until {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupted.recv() => {}
            _ = self.terminated.recv() => {}
            () = time => {}
        }
    }
}
