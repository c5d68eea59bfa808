//! What each signal does.
//!
//! SIGTERM, SIGINT and SIGQUIT stop the server; so does SIGHUP where a terminal is closed. SIGUSR1 and SIGUSR2, by which
//! other servers reopen logs or reload, would end the process if nobody took them, and its clients would see 1006. All
//! other signals do what the system does with them; Rust ignores SIGPIPE.

use std::fs::File;
use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::info;

/// Listens to the signals that a server gets, from its creation on.
pub struct Signals {
    term: Signal,
    int: Signal,
    quit: Signal,
    user1: Signal,
    user2: Signal,
    /// None where the process was started to ignore it, as by nohup.
    hup: Option<Signal>,
    terminal: bool,
}

/// Whether a hangup stops the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stops {
    /// It does so, too.
    WithHangup,
    /// Only a signal that somebody sends on purpose does.
    OnPurpose,
}

impl Signals {
    /// Begins to listen.
    ///
    /// # Errors
    ///
    /// When the system refuses.
    pub fn new() -> io::Result<Self> {
        let take = |kind| signal(kind);
        Ok(Self {
            term: take(SignalKind::terminate())?,
            int: take(SignalKind::interrupt())?,
            quit: take(SignalKind::quit())?,
            user1: take(SignalKind::user_defined1())?,
            user2: take(SignalKind::user_defined2())?,
            hup: if ignores_hangup() { None } else { Some(take(SignalKind::hangup())?) },
            // It can only be opened where the process has a terminal, wherever its input and output go.
            terminal: File::open("/dev/tty").is_ok(),
        })
    }

    /// Waits for a signal that stops the server.
    pub async fn stop(&mut self) {
        self.wait(Stops::WithHangup).await;
    }

    /// Waits for a signal that ends a server that is stopping already. A hangup does not: the kernel and the shell both
    /// send one when a terminal is closed.
    pub async fn stop_at_once(&mut self) {
        self.wait(Stops::OnPurpose).await;
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
                    Stops::OnPurpose => {}
                },
            }
        }
    }
}

/// Returns whether the process was started with SIGHUP ignored, which it has to leave so. There is no safe call that
/// asks for it, but Linux says it here.
fn ignores_hangup() -> bool {
    const HANGUP: u64 = 1;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.unwrap_or(0) & (1 << (HANGUP - 1)) != 0
}
