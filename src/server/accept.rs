//! The accept loop: distributes sockets over the shards.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{info, warn};

use super::listeners::Listeners;
use crate::shard::{self, state::ShardState};
use crate::stream::{Accepted, Permit};

/// Pause after a failed accept, for example without free file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Shortest time between two log lines about failed accepts.
const ACCEPT_LOG_PAUSE: Duration = Duration::from_mins(1);

/// Accepts connections for the shards in turn. Never returns. Above `most` sockets, a client is closed unread.
pub(super) async fn accept(
    mut listeners: Listeners,
    own: Rc<ShardState>,
    others: Vec<mpsc::Sender<(Accepted, Permit)>>,
    live: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
) {
    let mut failures = AcceptFailures::default();
    for turn in (0..=others.len()).cycle() {
        let (accepted, permit) = loop {
            match listeners.accept().await {
                Ok(accepted) => {
                    failures.end();
                    if let Some(permit) = Permit::take(&live, most.load(Ordering::Relaxed)) {
                        break (accepted, permit);
                    }
                }
                // The client gave up while it was in the backlog.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    failures.begin(&error);
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        };
        let Some(sender) = turn.checked_sub(1).map(|index| &others[index]) else {
            shard::serve(&own, accepted, permit);
            continue;
        };
        // If the shard has ended, the process is about to end.
        let _ = sender.send((accepted, permit)).await;
    }
}

/// Logs failures to accept and recoveries, at most one pair per minute: at the limit of descriptors both alternate
/// quickly.
#[derive(Default)]
struct AcceptFailures {
    failing: bool,
    logged: bool,
    last: Option<Instant>,
    suppressed: u64,
}

impl AcceptFailures {
    fn begin(&mut self, error: &io::Error) {
        if std::mem::replace(&mut self.failing, true) {
            return;
        }
        if self.last.is_some_and(|last| last.elapsed() < ACCEPT_LOG_PAUSE) {
            self.suppressed += 1;
            return;
        }
        (self.logged, self.last) = (true, Some(Instant::now()));
        let suppressed = std::mem::take(&mut self.suppressed);
        warn!(%error, suppressed, "cannot accept connections; raise the limit of open files (LimitNOFILE, ulimit -n)");
    }

    fn end(&mut self) {
        if std::mem::replace(&mut self.failing, false) && std::mem::replace(&mut self.logged, false) {
            info!("accepting connections again");
        }
    }
}
