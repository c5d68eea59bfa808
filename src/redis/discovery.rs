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
pub(crate) enum Known {
    /// Nothing, because of this.
    Nothing(String),
    /// The one server that takes everything.
    Master(ServerAddress),
    /// The nodes of a cluster.
    Cluster(Arc<Slots>),
}

/// What is known, and since when.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) known: Known,
    /// When the question was asked whose answer confirmed it last.
    pub(crate) confirmed: Instant,
    /// Rises when connections have to be made anew.
    pub(crate) term: u64,
    /// Since when the server before may have been none any more: what it acknowledged later is in doubt.
    pub(crate) doubtful: Instant,
}

/// A server, and the term in which it was found.
#[derive(Debug, Clone)]
pub(crate) struct Spot {
    pub(crate) server: ServerAddress,
    pub(crate) term: u64,
}

/// Where connections go to; shared by all of a process to the same Redis.
#[derive(Debug)]
pub(crate) struct Discovery {
    place: watch::Sender<Place>,
    /// When an answer was wanted last.
    wanted: watch::Sender<Instant>,
    /// Changes when a connection was made.
    reached: watch::Sender<()>,
    /// Whether the broker is served: then a shard that is not has a fault of its own.
    served: AtomicBool,
    /// Whether others are asked; else there is only the server of the URL.
    asks: bool,
}

impl Discovery {
    pub(crate) fn new(options: &ConnectOptions) -> Arc<Self> {
        let server = match options.url.servers {
            Servers::Sentinel { .. } | Servers::Cluster(_) => None,
            Servers::Single(_) | Servers::Unix(_) => options.addresses().into_iter().next(),
        };
        let asks = server.is_none();
        let known =
            server.map_or_else(|| Known::Nothing("nobody has answered yet".to_owned()), Known::Master);
        let now = Instant::now();
        Arc::new(Self {
            place: watch::Sender::new(Place { known, confirmed: now, term: 0, doubtful: now }),
            wanted: watch::Sender::new(now),
            reached: watch::Sender::new(()),
            served: AtomicBool::new(false),
            asks,
        })
    }

    /// Tells whether others are asked where the server is.
    pub(crate) fn asks(&self) -> bool {
        self.asks
    }

    /// Returns the present term.
    pub(crate) fn term(&self) -> u64 {
        self.place.borrow().term
    }

    /// Returns a cluster's slots, as far as they are known.
    pub(crate) fn slots(&self) -> Option<Arc<Slots>> {
        if let Known::Cluster(slots) = &self.place.borrow().known { Some(slots.clone()) } else { None }
    }

    /// Watches what is known.
    pub(crate) fn watch(&self) -> watch::Receiver<Place> {
        self.place.subscribe()
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
    pub(crate) async fn locate(&self) -> Result<Spot, String> {
        let now = Instant::now();
        let mut places = self.place.subscribe();
        if self.asks {
            self.refresh();
            let confirmed = places.wait_for(|place| place.confirmed >= now);
            // Nobody knows better than what was heard last; but that may be a master that was replaced meanwhile.
            let _ = timeout(LOCATE, confirmed).await;
        }
        let place = self.place.borrow();
        let server = match &place.known {
            Known::Nothing(reason) => return Err(reason.clone()),
            _ if self.asks && place.confirmed < now => return Err("no answer to where redis is".to_owned()),
            Known::Master(server) => server.clone(),
            Known::Cluster(slots) => slots.any().ok_or("the cluster has no nodes")?,
        };
        Ok(Spot { server, term: place.term })
    }

    /// Waits until connections to there have to be given up.
    pub(crate) async fn left(&self, spot: &Spot) {
        let gone = |place: &Place| match &place.known {
            Known::Cluster(slots) => !slots.has(&spot.server),
            _ => place.term != spot.term,
        };
        let mut places = self.place.subscribe();
        // The sender lives as long as this.
        while places.wait_for(gone).await.is_ok_and(|place| matches!(place.known, Known::Cluster(_))) {
            // While roles change, CLUSTER SLOTS may leave a node out that is there.
            if timeout(ABSENT, places.wait_for(|place| !gone(place))).await.is_err() {
                return;
            }
        }
    }

    /// Notes that the server is no master any more: all connections to it are given up.
    pub(crate) fn leave(&self, spot: &Spot) {
        self.place.send_if_modified(|place| {
            let present = place.term == spot.term;
            if present {
                place.term += 1;
                place.doubtful =
                    place.doubtful.max(Instant::now().checked_sub(UNNOTICED).unwrap_or(place.doubtful));
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
    pub(crate) fn set(&self, known: Known, asked: Instant, settled: Instant) {
        self.place.send_modify(|place| {
            place.confirmed = place.confirmed.max(asked);
            if matches!((&place.known, &known), (Known::Master(old), Known::Master(new)) if old != new) {
                place.term += 1;
                place.doubtful = settled;
            }
            place.known = known;
        });
    }

    /// Takes the reason why nothing is known, where nothing was.
    pub(crate) fn fail(&self, reason: String) {
        self.place.send_if_modified(|place| {
            let nothing = matches!(place.known, Known::Nothing(_));
            if nothing {
                place.known = Known::Nothing(reason);
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
