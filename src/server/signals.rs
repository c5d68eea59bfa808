//! What each signal does.
//!
//! SIGTERM, SIGINT and SIGQUIT stop the server, and so does SIGHUP when its terminal is closed. SIGUSR1 and SIGUSR2, which
//! make other servers reopen logs or reload, are handled because their default action would end the process and show the
//! clients 1006. All other signals keep their default action; Rust ignores SIGPIPE.

use std::fs::File;
use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::info;

/// The handlers of all signals, from their creation on.
pub struct Signals {
    term: Signal,
    int: Signal,
    quit: Signal,
    user1: Signal,
    user2: Signal,
    /// `None` if the process was started with SIGHUP ignored, as by nohup.
    hup: Option<Signal>,
    terminal: bool,
}

/// Which signals stop the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stops {
    /// All of them, including SIGHUP.
    WithHangup,
    /// All of them except SIGHUP.
    WithoutHangup,
}

impl Signals {
    /// Installs the handlers.
    ///
    /// # Errors
    ///
    /// When a handler cannot be installed.
    pub fn new() -> io::Result<Self> {
        let take = |kind| signal(kind);
        Ok(Self {
            term: take(SignalKind::terminate())?,
            int: take(SignalKind::interrupt())?,
            quit: take(SignalKind::quit())?,
            user1: take(SignalKind::user_defined1())?,
            user2: take(SignalKind::user_defined2())?,
            hup: if ignores_hangup() { None } else { Some(take(SignalKind::hangup())?) },
            // It can be opened only if the process has a controlling terminal, even with redirected input and output.
            terminal: File::open("/dev/tty").is_ok(),
        })
    }

    /// Waits for a signal that stops the server.
    pub async fn stop(&mut self) {
        self.wait(Stops::WithHangup).await;
    }

    /// Waits for a second signal, which ends a draining server at once. SIGHUP does not count: when a terminal is closed,
    /// both the kernel and the shell send one.
    pub async fn stop_at_once(&mut self) {
        self.wait(Stops::WithoutHangup).await;
    }

    async fn wait(&mut self, stops: Stops) {
        loop {
            let hangup = async {
                match &mut self.hup {
                    Some(hup) => drop(hup.recv().await),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = self.term.recv() => return,
                _ = self.int.recv() => return,
                _ = self.quit.recv() => return,
                _ = self.user1.recv() => info!("SIGUSR1 ignored; logs go to standard error, there is nothing to reopen"),
                _ = self.user2.recv() => info!("SIGUSR2 ignored"),
                () = hangup => match stops {
                    Stops::WithHangup if self.terminal => return,
                    Stops::WithHangup => info!("SIGHUP ignored; settings are read at the start only, restart to change them"),
                    Stops::WithoutHangup => {}
                },
            }
        }
    }
}

/// Returns whether the process was started with SIGHUP ignored, which must stay so. There is no safe system call for
/// this; Linux shows it in `/proc/self/status`.
fn ignores_hangup() -> bool {
    const HANGUP: u64 = 1;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.unwrap_or(0) & (1 << (HANGUP - 1)) != 0
}
