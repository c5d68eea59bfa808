//! Discovery: which server the connections go to.
//!
//! Sentinels are asked, all of them, twice a second and anew before each connection attempt: a master that dies silently
//! closes nothing, and a planned failover leaves the old master running. Of answers that differ the one with the highest
//! configuration epoch counts. In a cluster its nodes are asked for their slots. Not here: the connections themselves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::address::{ConnectOptions, ServerAddress};
use super::slots::Slots;
use crate::settings::Servers;

/// How often is asked, and how long an answer may take.
pub(crate) const ASK: Duration = Duration::from_millis(500);
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

/// Least time between two questions to the same server.
const GAP: Duration = Duration::from_millis(20);

/// How long before it is noticed another master may have been promoted, where nobody has told of a failover.
pub(crate) const UNNOTICED: Duration = Duration::from_secs(3);

/// How long a node of a cluster has to be absent to be gone.
const ABSENT: Duration = Duration::from_secs(3);

/// How long a connection attempt waits for an answer.
const LOCATE: Duration = Duration::from_secs(2);

/// What is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ServerLocation {
    /// Nothing, because of this.
    Unknown(String),
    /// The one server that takes everything.
    Master(ServerAddress),
    /// The nodes of a cluster.
    Cluster(Arc<Slots>),
}

/// What is known, and since when.
#[derive(Debug, Clone)]
pub(crate) struct DiscoveryState {
    pub(crate) location: ServerLocation,
    /// When the question was asked whose answer confirmed it last.
    pub(crate) confirmed: Instant,
    /// Rises when connections have to be made anew.
    pub(crate) term: u64,
    /// Since when the server before may have been none any more: what it acknowledged later is in doubt.
    pub(crate) doubtful_since: Instant,
}

/// A server, and the term in which it was found.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    pub(crate) server: ServerAddress,
    pub(crate) term: u64,
}

/// Where connections go to; shared by all of a process to the same Redis.
#[derive(Debug)]
pub(crate) struct Discovery {
    state: watch::Sender<DiscoveryState>,
    /// When an answer was wanted last.
    wanted: watch::Sender<Instant>,
    /// Changes when a connection was made.
    reached: watch::Sender<()>,
    /// Whether the broker is served: then a shard that is not has a fault of its own.
    served: AtomicBool,
    /// Whether others are asked; else there is only the server of the URL.
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
            || ServerLocation::Unknown("nobody has answered yet".to_owned()),
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

    /// Tells whether others are asked where the server is.
    pub(crate) fn is_dynamic(&self) -> bool {
        self.is_dynamic
    }

    /// Returns the present term.
    pub(crate) fn term(&self) -> u64 {
        self.state.borrow().term
    }

    /// Returns a cluster's slots, as far as they are known.
    pub(crate) fn slots(&self) -> Option<Arc<Slots>> {
        if let ServerLocation::Cluster(slots) = &self.state.borrow().location {
            Some(slots.clone())
        } else {
            None
        }
    }

    /// Watches what is known.
    pub(crate) fn watch(&self) -> watch::Receiver<DiscoveryState> {
        self.state.subscribe()
    }

    /// Has the others asked now.
    pub(crate) fn refresh(&self) {
        self.wanted.send_replace(Instant::now());
    }

    /// Returns where the server is, as an answer says to a question that is asked now. In a cluster it is any node.
    ///
    /// # Errors
    ///
    /// With the reason, when nobody answers.
    pub(crate) async fn locate(&self) -> Result<Endpoint, String> {
        let now = Instant::now();
        let mut states = self.state.subscribe();
        if self.is_dynamic {
            self.refresh();
            let confirmed = states.wait_for(|state| state.confirmed >= now);
            // Nobody knows better than what was heard last; but that may be a master that was replaced meanwhile.
            let _ = timeout(LOCATE, confirmed).await;
        }
        let state = self.state.borrow();
        let server = match &state.location {
            ServerLocation::Unknown(reason) => return Err(reason.clone()),
            _ if self.is_dynamic && state.confirmed < now => {
                return Err("no answer to where redis is".to_owned());
            }
            ServerLocation::Master(server) => server.clone(),
            ServerLocation::Cluster(slots) => slots.any().ok_or("the cluster has no nodes")?,
        };
        Ok(Endpoint { server, term: state.term })
    }

    /// Waits until connections to there have to be given up.
    pub(crate) async fn left(&self, endpoint: &Endpoint) {
        let gone = |state: &DiscoveryState| match &state.location {
            ServerLocation::Cluster(slots) => !slots.has(&endpoint.server),
            _ => state.term != endpoint.term,
        };
        let mut states = self.state.subscribe();
        // The sender lives as long as this.
        while states
            .wait_for(gone)
            .await
            .is_ok_and(|state| matches!(state.location, ServerLocation::Cluster(_)))
        {
            // While roles change, CLUSTER SLOTS may leave a node out that is there.
            if timeout(ABSENT, states.wait_for(|state| !gone(state))).await.is_err() {
                return;
            }
        }
    }

    /// Notes that the server is no master any more: all connections to it are given up.
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

    /// Notes that a connection was made: others need not wait longer.
    pub(crate) fn note_reached(&self) {
        self.reached.send_replace(());
    }

    /// Notes whether the broker is served.
    pub(crate) fn note_served(&self, served: bool) {
        self.served.store(served, Ordering::Relaxed);
    }

    /// Tells whether the broker is served.
    pub(crate) fn is_served(&self) -> bool {
        self.served.load(Ordering::Relaxed)
    }

    /// Returns what tells when a connection is made.
    pub(crate) fn reached(&self) -> watch::Receiver<()> {
        self.reached.subscribe()
    }

    /// Takes what is known now.
    pub(crate) fn set(&self, location: ServerLocation, asked: Instant, settled: Instant) {
        self.state.send_modify(|state| {
            state.confirmed = state.confirmed.max(asked);
            if matches!((&state.location, &location), (ServerLocation::Master(old), ServerLocation::Master(new)) if old != new) {
                state.term += 1;
                state.doubtful_since = settled;
            }
            state.location = location;
        });
    }

    /// Takes the reason why nothing is known, where nothing was.
    pub(crate) fn fail(&self, reason: String) {
        self.state.send_if_modified(|state| {
            let nothing = matches!(state.location, ServerLocation::Unknown(_));
            if nothing {
                state.location = ServerLocation::Unknown(reason);
            }
            nothing
        });
    }

    /// Waits until the next question is due, after one that was asked at `asked`.
    pub(crate) async fn due(&self, asked: Instant, period: Duration) {
        sleep(GAP).await;
        let mut wanted = self.wanted.subscribe();
        tokio::select! {
            () = sleep(period) => {}
            _ = wanted.wait_for(|wanted| *wanted > asked) => {}
        }
    }
}

/// Pauses after failures, until a connection of somebody else's shows that there is no need for it.
pub(crate) async fn pause(duration: Duration, reached: &mut watch::Receiver<()>) {
    tokio::select! {
        () = sleep(duration) => {}
        Ok(()) = reached.changed() => {}
    }
}
