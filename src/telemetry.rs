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
    let filter = wanted.as_deref().map(str::parse::<Targets>).transpose();
    let senseless = filter.as_ref().err().map(ToString::to_string);
    let filter = filter.ok().flatten().unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO));
    let (registry, layer) =
        (tracing_subscriber::registry().with(filter), fmt::layer().with_writer(writer).with_target(false));
    if json {
        registry.with(layer.json().flatten_event(true)).init();
    } else {
        registry.with(layer.with_ansi(io::stderr().is_terminal())).init();
    }
    if let Some(error) = senseless {
        tracing::warn!(
            error,
            "RUST_LOG cannot be understood and is ignored; for example RUST_LOG=ws4redis=debug"
        );
    }
    guard
}

/// Keeps a log line that many messages could cause to one per second.
#[derive(Debug, Default)]
pub struct Seldom {
    last: Cell<Option<Instant>>,
    unsaid: Cell<u64>,
}

impl Seldom {
    /// Returns how many lines were left out since the last one, if it is time for the next.
    pub fn due(&self) -> Option<u64> {
        if self.last.get().is_some_and(|last| last.elapsed() < Duration::from_secs(1)) {
            self.unsaid.set(self.unsaid.get() + 1);
            return None;
        }
        self.last.set(Some(Instant::now()));
        Some(self.unsaid.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_line_comes_once_a_second_and_tells_what_was_left_out() {
        let seldom = Seldom::default();
        assert_eq!([seldom.due(), seldom.due(), seldom.due()], [Some(0), None, None]);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!([seldom.due(), seldom.due()], [Some(2), None]);
    }
}
