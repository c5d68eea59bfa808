//! Logs: tracing to standard error, text or JSON.
//!
//! The names of fields, everywhere: `facility`, `channel` (session keys masked), `bytes`, `close_code`, `reason`,
//! `error`, `elapsed_ms`, `redis` (URL without its password), `status`, `count`. Never logged: cookies, session keys,
//! payloads. What a client chose is logged with `Debug`, which escapes control characters.

use std::io::{self, IsTerminal};

use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

/// Lines that may wait for whoever reads the log; above that, lines are dropped rather than clients kept waiting.
const WAITING_LINES: usize = 10_000;

/// Sets up logging for the whole process. What waits is written when the guard is dropped.
pub fn init(json: bool) -> WorkerGuard {
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(WAITING_LINES)
        .thread_name("log")
        .finish(io::stderr());
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_target(false);
    if json {
        subscriber.json().flatten_event(true).init();
    } else {
        subscriber.with_ansi(io::stderr().is_terminal()).init();
    }
    guard
}
