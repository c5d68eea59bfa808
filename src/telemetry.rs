//! Logs: tracing to standard error, text or JSON.
//!
//! The names of fields, everywhere: `facility`, `channel` (session keys masked), `bytes`, `close_code`, `reason`,
//! `error`, `elapsed_ms`, `redis` (URL without its password), `status`, `count`. Never logged: cookies, session keys,
//! payloads. What a client chose is logged with `Debug`, which escapes control characters.

use std::cell::Cell;
use std::io::{self, IsTerminal};
use std::time::Duration;

use tokio::time::Instant;

use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt;
use tracing_subscriber::prelude::*;

/// Lines that may wait for whoever reads the log; above that, lines are dropped rather than clients kept waiting.
const WAITING_LINES: usize = 10_000;

/// Sets up logging for the whole process. What waits is written when the guard is dropped.
pub fn init(json: bool) -> WorkerGuard {
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(WAITING_LINES)
        .thread_name("log")
        .finish(io::stderr());
    let wanted = std::env::var("RUST_LOG").ok().filter(|wanted| !wanted.is_empty());
    let filter = wanted.as_deref().map_or_else(|| Ok(everything()), filter);
    let senseless = filter.as_ref().err().cloned();
    let filter = filter.unwrap_or_else(|_| everything());
    let (registry, layer) =
        (tracing_subscriber::registry().with(filter), fmt::layer().with_writer(writer).with_target(false));
    if json {
        registry.with(layer.json().flatten_event(true)).init();
    } else {
        registry.with(layer.with_ansi(io::stderr().is_terminal())).init();
    }
    if let Some(error) = senseless {
        tracing::warn!(
            ?error,
            "RUST_LOG cannot be understood and is ignored; for example RUST_LOG=ws4redis=debug"
        );
    }
    guard
}

/// What is logged where nothing else is wanted.
fn everything() -> Targets {
    Targets::new().with_default(LevelFilter::INFO)
}

/// Reads a list of levels, and of levels of targets: `info,ws4redis=debug`.
///
/// # Errors
///
/// When a part of it is neither, with that part. What would name a target that cannot be is a slip, and would silence
/// everything.
fn filter(wanted: &str) -> Result<Targets, String> {
    let parts: Vec<_> = wanted.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    let is_name =
        |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "_:-".contains(c));
    if let Some(part) = parts.iter().find(|part| !part.split('=').all(is_name)) {
        return Err((*part).to_owned());
    }
    if parts.is_empty() { Ok(everything()) } else { parts.join(",").parse().map_err(|_| wanted.to_owned()) }
}

/// Keeps a log line that many messages could cause to one per second.
#[derive(Debug, Default)]
pub struct LogThrottle {
    last: Cell<Option<Instant>>,
    suppressed: Cell<u64>,
}

impl LogThrottle {
    /// Returns how many lines were left out since the last one, if it is time for the next.
    pub fn allow(&self) -> Option<u64> {
        if self.last.get().is_some_and(|last| last.elapsed() < Duration::from_secs(1)) {
            self.suppressed.set(self.suppressed.get() + 1);
            return None;
        }
        self.last.set(Some(Instant::now()));
        Some(self.suppressed.take())
    }
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn levels_and_targets_are_read_and_slips_refused() {
        let ours = |wanted: &str| {
            filter(wanted).map(|targets| {
                [Level::ERROR, Level::INFO, Level::DEBUG]
                    .map(|level| targets.would_enable("ws4redis::telemetry", &level))
            })
        };
        for wanted in ["", "info", " info, ", "INFO", "ws4redis", "hyper=trace,info", "3"] {
            assert!(ours(wanted).unwrap()[..2] == [true, true], "{wanted:?}");
        }
        for wanted in ["ws4redis=debug", "warn, ws4redis=debug", "debug", "ws4redis::telemetry=trace"] {
            assert_eq!(ours(wanted), Ok([true; 3]), "{wanted:?}");
        }
        assert_eq!(ours("off"), Ok([false; 3]));
        for slip in
            ["\"debug\"", "'info'", ".*", "ws4redis=", "=debug", "ws4redis=loud", "a b", "ws4redis[x]=debug"]
        {
            assert!(ours(slip).is_err(), "{slip:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_comes_once_a_second_and_tells_what_was_left_out() {
        let seldom = LogThrottle::default();
        assert_eq!([seldom.allow(), seldom.allow(), seldom.allow()], [Some(0), None, None]);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!([seldom.allow(), seldom.allow()], [Some(2), None]);
    }
}
