//! Logs: tracing to standard error, text or JSON.
//!
//! Field names, used everywhere: `facility`, `channel` (session keys masked), `bytes`, `close_code`, `reason`,
//! `error`, `elapsed_ms`, `redis` (URL without its password), `status`, `count`, `listener` (its setting). Never logged:
//! cookies, session keys, payloads. What a client chose is logged with `Debug`, which escapes control characters.

use std::cell::Cell;
use std::io::{self, IsTerminal};
use std::time::Duration;

use tokio::time::Instant;

use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::debug_fn;
use tracing_subscriber::prelude::*;
use tracing_subscriber::{Registry, fmt, reload};

/// Lines that are buffered for a slow reader of the log; further lines are dropped, so that logging never blocks a shard.
const BUFFERED_LINES: usize = 10_000;

/// What is logged: levels, and levels for targets.
#[derive(Debug, Clone)]
pub struct LogLevels(Targets);

impl LogLevels {
    /// Parses a list such as `info,ws4redis=debug`. An empty one is `info`.
    ///
    /// # Errors
    ///
    /// With the part that is neither. A target that cannot exist is refused as a typo, because it would silence everything.
    pub fn parse(wanted: &str) -> Result<Self, String> {
        filter(wanted).map(Self)
    }
}

/// Keeps the log of the process. Dropping it writes the buffered lines.
pub struct LogControl {
    _guard: WorkerGuard,
    levels: reload::Handle<Targets, Registry>,
    /// Whether `RUST_LOG` decides what is logged.
    is_by_variable: bool,
}

impl LogControl {
    /// Changes what is logged, unless `RUST_LOG` decides it.
    pub fn set_levels(&self, levels: &LogLevels) {
        if !self.is_by_variable {
            // The subscriber exists until the process ends.
            let _ = self.levels.reload(levels.0.clone());
        }
    }
}

/// Sets up logging for the process: these levels, unless the variable `RUST_LOG` says otherwise.
pub fn init(json: bool, levels: &LogLevels) -> LogControl {
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(BUFFERED_LINES)
        .thread_name("log")
        .finish(io::stderr());
    let wanted = std::env::var("RUST_LOG").ok().filter(|wanted| !wanted.is_empty());
    let by_variable = wanted.as_deref().map(filter).transpose();
    let invalid = by_variable.as_ref().err().cloned();
    let by_variable = by_variable.unwrap_or_default();
    let is_by_variable = by_variable.is_some();
    let (filter, levels) = reload::Layer::new(by_variable.unwrap_or_else(|| levels.0.clone()));
    let (registry, layer) =
        (tracing_subscriber::registry().with(filter), fmt::layer().with_writer(writer).with_target(false));
    if json {
        registry.with(layer.json().flatten_event(true).with_span_list(false)).init();
    } else {
        let fields = debug_fn(|writer, field, value| {
            let value = readable(&format!("{value:?}"));
            if field.name() == "message" {
                write!(writer, "{value}")
            } else {
                write!(writer, "{field}={value}")
            }
        });
        let layer = layer.fmt_fields(fields.delimited(" "));
        registry.with(layer.with_ansi(io::stderr().is_terminal())).init();
    }
    if let Some(error) = invalid {
        tracing::warn!(
            ?error,
            "RUST_LOG cannot be understood and is ignored; for example RUST_LOG=ws4redis=debug"
        );
    }
    LogControl { _guard: guard, levels, is_by_variable }
}

/// Returns a value of a text log without escaped quotes: an apostrophe replaces each, so that a client's text cannot end
/// the value of its field. Control characters are escaped.
fn readable(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    let mut rest = value;
    while let Some(c) = rest.chars().next() {
        let escapes = rest.len() - rest.trim_start_matches('\\').len();
        let (run, behind) = rest.split_at(escapes.max(c.len_utf8()));
        // Behind an even number the quote is the one that ends the value. Texts may be escaped more than once.
        let is_escaped = behind.starts_with('\'') || (behind.starts_with('"') && escapes % 2 == 1);
        if escapes > 0 && is_escaped {
            text.push('\'');
            rest = &behind[1..];
        } else {
            run.chars()
                .for_each(|c| if c.is_control() { text.extend(c.escape_debug()) } else { text.push(c) });
            rest = behind;
        }
    }
    text
}

/// The default levels.
fn default_levels() -> Targets {
    Targets::new().with_default(LevelFilter::INFO)
}

/// Parses a list of levels and of levels for targets: `info,ws4redis=debug`.
///
/// # Errors
///
/// With the part that is neither. A target that cannot exist is refused as a typo, because it would silence everything.
fn filter(wanted: &str) -> Result<Targets, String> {
    let parts: Vec<_> = wanted.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    let is_name =
        |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "_:-".contains(c));
    if let Some(part) = parts.iter().find(|part| !part.split('=').all(is_name)) {
        return Err((*part).to_owned());
    }
    if parts.is_empty() {
        Ok(default_levels())
    } else {
        parts.join(",").parse().map_err(|_| wanted.to_owned())
    }
}

/// Limits a log line to one per second.
#[derive(Debug, Default)]
pub struct LogThrottle {
    last: Cell<Option<Instant>>,
    suppressed: Cell<u64>,
}

impl LogThrottle {
    /// Returns the number of lines suppressed since the last one if a line may be logged now, else `None`.
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
    fn levels_and_targets_are_parsed_and_typos_refused() {
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

    #[test]
    fn a_text_log_has_no_escaped_quotes_and_no_control_characters() {
        let shown = |text: &str| readable(&format!("{text:?}"));
        assert_eq!(shown("the \"x\" of it's\n"), r#""the 'x' of it's\n""#);
        assert_eq!(shown("ends with \\"), r#""ends with \\""#);
        let origin = "\"x\" 'y'".escape_debug().to_string();
        assert_eq!(readable(&origin), "'x' 'y'");
        assert_eq!(shown(&origin), r#""'x' 'y'""#);
        assert_eq!(readable(&origin.escape_debug().to_string()), "'x' 'y'");
        assert_eq!(readable("ä\u{1b}[31mb\nc\\"), "ä\\u{1b}[31mb\\nc\\");
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_is_allowed_once_a_second_with_the_number_of_suppressed_ones() {
        let throttle = LogThrottle::default();
        assert_eq!([throttle.allow(), throttle.allow(), throttle.allow()], [Some(0), None, None]);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!([throttle.allow(), throttle.allow()], [Some(2), None]);
    }
}
