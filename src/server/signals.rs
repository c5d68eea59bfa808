//! What each signal does.
//!
//! SIGTERM, SIGINT and SIGQUIT stop the server, and so does SIGHUP when its terminal is closed; without a terminal it reloads
//! the settings. SIGUSR1 and SIGUSR2, which make other servers reopen logs, are handled because their default action would end the process and show the
//! clients 1006. All other signals keep their default action; Rust ignores SIGPIPE.
//!
//! The end of standard input stops the server as well, if its parent is watched.

use std::fs::File;
use std::io::{self, Read};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tracing::info;

/// Whether the server ends with the process that started it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parent {
    /// Standard input is a pipe from the parent: its end, even by a kill of the parent, stops the server.
    Watched,
    /// Standard input is not read.
    Unwatched,
}

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
    /// Ends with standard input; `None` if the parent is not watched, or has ended.
    parent: Option<oneshot::Receiver<()>>,
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
    pub fn new(parent: Parent) -> io::Result<Self> {
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
            parent: match parent {
                Parent::Watched => Some(end_of_stdin()?),
                Parent::Unwatched => None,
            },
        })
    }

    /// Waits for a signal that stops the server, or for the end of its parent. Calls `reload` for each SIGHUP that does not.
    pub async fn stop(&mut self, reload: impl Fn()) {
        let parent = self.parent.take();
        let parent_end = async {
            match parent {
                Some(end) => drop(end.await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.wait(Stops::WithHangup, reload) => {}
            () = parent_end => info!("standard input was closed"),
        }
    }

    /// Waits for a second signal, which ends a draining server at once. SIGHUP does not count: when a terminal is closed,
    /// both the kernel and the shell send one.
    pub async fn stop_at_once(&mut self) {
        self.wait(Stops::WithoutHangup, || {}).await;
    }

    async fn wait(&mut self, stops: Stops, reload: impl Fn()) {
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
                    Stops::WithHangup => reload(),
                    Stops::WithoutHangup => {}
                },
            }
        }
    }
}

/// Reads standard input on a thread of its own, since nothing else can wait for a file; the receiver is ready at its end.
fn end_of_stdin() -> io::Result<oneshot::Receiver<()>> {
    let (sender, receiver) = oneshot::channel::<()>();
    let read = move || {
        let mut ignored = [0; 512];
        loop {
            match io::stdin().read(&mut ignored) {
                Ok(0) => break,
                Err(error) if error.kind() != io::ErrorKind::Interrupted => break,
                _ => {}
            }
        }
        drop(sender);
    };
    std::thread::Builder::new().name("stdin".to_owned()).spawn(read)?;
    Ok(receiver)
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
