//! Discovery: the server that connections go to. Connections themselves are made elsewhere.
//!
//! All sentinels are polled twice a second and again before each connection attempt: a master that dies silently
//! closes no connection, and a planned failover leaves the old master running. Of contradictory answers, the one with
//! the highest configuration epoch wins. In a cluster the nodes are polled for their slots.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::address::{ConnectOptions, ServerAddress};
use super::slots::Slots;
use crate::settings::Servers;

/// Polling interval, and timeout of one poll.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(500);
pub(crate) const POLL_TIMEOUT: Duration = Duration::from_secs(1);

/// Shortest interval between two polls of the same server.
const GAP: Duration = Duration::from_millis(20);

/// How long a promotion may go unnoticed if no sentinel reported a failover in progress.
pub(crate) const UNNOTICED: Duration = Duration::from_secs(3);

/// How long a cluster node must be missing from CLUSTER SLOTS before its connections are closed.
const ABSENT: Duration = Duration::from_secs(3);

/// How long a connection attempt waits for a fresh answer.
const LOCATE: Duration = Duration::from_secs(2);

/// Where the server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ServerLocation {
    /// Unknown, with the reason.
    Unknown(String),
    /// The only server, or the master.
    Master(ServerAddress),
    /// The nodes of a cluster.
    Cluster(Arc<Slots>),
}

/// The present location, and how fresh it is.
#[derive(Debug, Clone)]
pub(crate) struct DiscoveryState {
    pub(crate) location: ServerLocation,
    /// When the latest poll that confirmed it was sent.
    pub(crate) confirmed: Instant,
    /// Increases whenever existing connections must be replaced.
    pub(crate) term: u64,
    /// Acknowledgements of the former master after this instant may be lost: it may have been demoted by then.
    pub(crate) doubtful_since: Instant,
}

/// A server, and the term in which it was discovered.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    pub(crate) server: ServerAddress,
    pub(crate) term: u64,
}

/// The location of one Redis, shared by all connections of the process.
#[derive(Debug)]
pub(crate) struct Discovery {
    state: watch::Sender<DiscoveryState>,
    /// When a fresh answer was last requested.
    wanted: watch::Sender<Instant>,
    /// Notified whenever a connection is made.
    reached: watch::Sender<()>,
    /// Whether the broker is connected. If it is and a shard is not, the shard's failure is logged.
    served: AtomicBool,
    /// Whether sentinels or cluster nodes are polled; otherwise the URL names the only server.
    is_dynamic: bool,
}

impl Discovery {
    pub(crate) fn new(options: &ConnectOptions) -> Arc<Self> {
        let server = match options.url.servers {
            Servers::Sentinel { .. } | Servers::Cluster(_) => None,
            Servers::Single(_) | Servers::Unix(_) => options.addresses().into_iter().next(),
        };
        let is_dynamic = server.is_none();
        let location = server.map_or_else(
            || ServerLocation::Unknown("no sentinel or cluster node has answered yet".to_owned()),
            ServerLocation::Master,
        );
        let now = Instant::now();
        Arc::new(Self {
            state: watch::Sender::new(DiscoveryState {
                location,
                confirmed: now,
                term: 0,
                doubtful_since: now,
            }),
            wanted: watch::Sender::new(now),
            reached: watch::Sender::new(()),
            served: AtomicBool::new(false),
            is_dynamic,
        })
    }

    /// Returns true if sentinels or cluster nodes are polled for the location.
    pub(crate) fn is_dynamic(&self) -> bool {
        self.is_dynamic
    }

    /// Returns the current term.
    pub(crate) fn term(&self) -> u64 {
        self.state.borrow().term
    }

    /// Returns the slots of a cluster, once known.
    pub(crate) fn slots(&self) -> Option<Arc<Slots>> {
        if let ServerLocation::Cluster(slots) = &self.state.borrow().location {
            Some(slots.clone())
        } else {
            None
        }
    }

    /// Returns a receiver of the location.
    pub(crate) fn watch(&self) -> watch::Receiver<DiscoveryState> {
        self.state.subscribe()
    }

    /// Requests a poll now.
    pub(crate) fn refresh(&self) {
        self.wanted.send_replace(Instant::now());
    }

    /// Returns the server that a poll sent after this call confirms; in a cluster any node.
    ///
    /// # Errors
    ///
    /// With the reason, when there is no fresh answer.
    pub(crate) async fn locate(&self) -> Result<Endpoint, String> {
        let now = Instant::now();
        let mut states = self.state.subscribe();
        if self.is_dynamic {
            self.refresh();
            let confirmed = states.wait_for(|state| state.confirmed >= now);
            // An older answer could name a master that has been replaced meanwhile, so it is not used.
            let _ = timeout(LOCATE, confirmed).await;
        }
        let state = self.state.borrow();
        let server = match &state.location {
            ServerLocation::Unknown(reason) => return Err(reason.clone()),
            _ if self.is_dynamic && state.confirmed < now => {
                return Err("no sentinel or cluster node answers".to_owned());
            }
            ServerLocation::Master(server) => server.clone(),
            ServerLocation::Cluster(slots) => slots.any().ok_or("the cluster has no nodes")?,
        };
        Ok(Endpoint { server, term: state.term })
    }

    /// Waits until connections to this endpoint must be closed.
    pub(crate) async fn left(&self, endpoint: &Endpoint) {
        let gone = |state: &DiscoveryState| match &state.location {
            ServerLocation::Cluster(slots) => !slots.has(&endpoint.server),
            _ => state.term != endpoint.term,
        };
        let mut states = self.state.subscribe();
        // The sender lives as long as `self`.
        while states
            .wait_for(gone)
            .await
            .is_ok_and(|state| matches!(state.location, ServerLocation::Cluster(_)))
        {
            // During a failover, CLUSTER SLOTS may omit a node that is still there.
            if timeout(ABSENT, states.wait_for(|state| !gone(state))).await.is_err() {
                return;
            }
        }
    }

    /// Records that the server is no longer the master: all connections to it are closed.
    pub(crate) fn leave(&self, endpoint: &Endpoint) {
        self.state.send_if_modified(|state| {
            let present = state.term == endpoint.term;
            if present {
                state.term += 1;
                state.doubtful_since = state
                    .doubtful_since
                    .max(Instant::now().checked_sub(UNNOTICED).unwrap_or(state.doubtful_since));
            }
            present
        });
        self.refresh();
    }

    /// Records that a connection was made, so that others retry at once.
    pub(crate) fn note_reached(&self) {
        self.reached.send_replace(());
    }

    /// Records whether the broker is connected.
    pub(crate) fn note_served(&self, served: bool) {
        self.served.store(served, Ordering::Relaxed);
    }

    /// Returns true if the broker is connected.
    pub(crate) fn is_served(&self) -> bool {
        self.served.load(Ordering::Relaxed)
    }

    /// Returns a receiver that is notified whenever a connection is made.
    pub(crate) fn reached(&self) -> watch::Receiver<()> {
        self.reached.subscribe()
    }

    /// Records the location from a poll sent at `polled_at`. If it is a new master, acknowledgements since `settled` are
    /// doubtful.
    pub(crate) fn set(&self, location: ServerLocation, polled_at: Instant, settled: Instant) {
        self.state.send_modify(|state| {
            state.confirmed = state.confirmed.max(polled_at);
            if matches!((&state.location, &location), (ServerLocation::Master(old), ServerLocation::Master(new)) if old != new) {
                state.term += 1;
                state.doubtful_since = settled;
            }
            state.location = location;
        });
    }

    /// Records why polling failed, unless a location is known.
    pub(crate) fn fail(&self, reason: String) {
        self.state.send_if_modified(|state| {
            let nothing = matches!(state.location, ServerLocation::Unknown(_));
            if nothing {
                state.location = ServerLocation::Unknown(reason);
            }
            nothing
        });
    }

    /// Waits until the next poll after the one sent at `polled_at`.
    pub(crate) async fn wait_until_due(&self, polled_at: Instant, period: Duration) {
        sleep(GAP).await;
        let mut wanted = self.wanted.subscribe();
        tokio::select! {
            () = sleep(period) => {}
            _ = wanted.wait_for(|wanted| *wanted > polled_at) => {}
        }
    }
}

/// Pauses after a failure; another connection's success ends the pause early.
pub(crate) async fn pause(duration: Duration, reached: &mut watch::Receiver<()>) {
    tokio::select! {
        () = sleep(duration) => {}
        Ok(()) = reached.changed() => {}
    }
}
