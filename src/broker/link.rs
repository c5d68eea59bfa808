//! The connection for subscriptions: opened, probed with fences, and closed when it stops answering.

use std::future::pending;
use std::pin::Pin;
use std::time::Duration;

use tokio::task::spawn_local;
use tokio::time::{Instant, sleep_until};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info, warn};

use crate::redis::error_reply::{HintThrottle, cure};
use crate::redis::{RedisConnection, Subscriber, SubscriberEvent, SubscriptionChange, Target, pause};
use crate::settings::Settings;
use crate::wire::Channel;

/// Silence after which the connection is probed with a fence.
const KEEPALIVE: Duration = Duration::from_secs(2);

/// Interval at which the same reason for an unreachable Redis is logged again.
const UNREACHABLE_LOG_INTERVAL: Duration = Duration::from_mins(1);

/// First pause before a lost connection is opened again.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// How much later an exceeded deadline is checked again before the connection counts as lost: a process that was
/// suspended has not read the answer yet.
const GRACE: Duration = Duration::from_millis(500);

/// Time for the answer to a fence after another connection to the same Redis got no answer within its own limit.
const SUSPECTED_TIMEOUT: Duration = Duration::from_secs(1);

type Dialing = Pin<Box<dyn Future<Output = Result<RedisConnection, String>>>>;
type Moved = Pin<Box<dyn Future<Output = ()>>>;

/// A change that was sent, and whose fence is not answered yet.
struct PendingChange {
    channels: Vec<Channel>,
    since: Instant,
    refusal: Option<String>,
    /// The deadline had passed at its last check.
    overdue: bool,
}

/// The outcome of a change whose fence was answered.
pub(super) struct ChangeOutcome {
    /// The channels of its SUBSCRIBE.
    pub(super) channels: Vec<Channel>,
    /// Why Redis refuses the SUBSCRIBE.
    pub(super) refusal: Option<String>,
}

/// An event of the link.
pub(super) enum LinkEvent {
    /// Input was read, or the connection was lost.
    Input(Result<(), String>),
    /// A connection was opened.
    Connected,
    /// The connection must not be used any longer.
    Unusable(String),
    /// Something is due to be sent.
    Due,
}

/// The connection for subscriptions, or the attempts to open one.
pub(super) struct Link {
    target: Target,
    /// Keeps track of where the server is.
    _discovery: AbortOnDropHandle<()>,
    subscriber: Option<Subscriber>,
    /// No more input is read from the subscriber.
    closing: bool,
    dialing: Option<Dialing>,
    /// Ends when the server is no longer the one to use. Kept while connected, because it measures how long a cluster
    /// node has been absent.
    moved: Option<Moved>,
    /// Pause before the next attempt.
    pause: Duration,
    max_bytes: usize,
    answer_timeout: Duration,
    pending: Option<PendingChange>,
    /// Another connection to this Redis got no answer in time.
    suspected: bool,
    last_answer: Instant,
    /// Connected, and all wanted channels are confirmed or refused.
    is_up: bool,
    down_since: Instant,
    /// Why Redis was unreachable, and when that was logged.
    last_error: Option<(String, Instant)>,
    refused_ping: HintThrottle,
}

impl Link {
    /// Must be called on a local task set.
    pub(super) fn new(target: &Target, settings: &Settings) -> Self {
        Self {
            target: target.clone(),
            _discovery: AbortOnDropHandle::new(spawn_local(target.clone().follow())),
            subscriber: None,
            closing: false,
            dialing: None,
            moved: None,
            pause: Duration::ZERO,
            max_bytes: settings.messages.max_delivery_bytes,
            answer_timeout: settings.redis.command_timeout,
            pending: None,
            suspected: false,
            last_answer: Instant::now(),
            is_up: false,
            down_since: Instant::now(),
            last_error: None,
            refused_ping: HintThrottle::default(),
        }
    }

    /// Sets the size of the largest message that is read.
    #[must_use]
    pub(super) fn with_max_bytes(self, max_bytes: usize) -> Self {
        Self { max_bytes, ..self }
    }

    /// Returns the server's URL with secrets masked.
    pub(super) fn name(&self) -> &str {
        self.target.name()
    }

    pub(super) fn is_up(&self) -> bool {
        self.is_up
    }

    /// Returns true if a change can be sent: one at a time, so that an error can be assigned to its channels.
    pub(super) fn is_idle(&self) -> bool {
        self.subscriber.is_some() && self.pending.is_none()
    }

    /// Returns true if a fence is due without any change.
    pub(super) fn needs_probe(&self, now: Instant) -> bool {
        self.suspected || now - self.last_answer >= KEEPALIVE
    }

    /// Starts to open a connection, after a pause, if there is none.
    pub(super) fn open(&mut self) {
        if self.subscriber.is_some() || self.dialing.is_some() {
            return;
        }
        let (wait, target, max_bytes) = (self.pause, self.target.clone(), self.max_bytes);
        self.pause = (self.pause * 2).clamp(FIRST_PAUSE, target.longest_pause());
        self.dialing = Some(Box::pin(async move {
            if !wait.is_zero() {
                pause(wait, &mut target.discovery().reached()).await;
            }
            target.dial(max_bytes).await
        }));
    }

    /// Sends a change, followed by a fence.
    pub(super) fn send(&mut self, change: SubscriptionChange, now: Instant) {
        if let Some(subscriber) = &mut self.subscriber {
            subscriber.send(&change);
            let channels = change.subscribe;
            self.pending = Some(PendingChange { channels, since: now, refusal: None, overdue: false });
        }
    }

    /// Waits for input (if `read`), a new connection, the server's move, the suspicion of another connection, the
    /// deadline of an answer, and until something is due to be sent. `due` is when the subscriptions change next.
    /// Safe to cancel.
    pub(super) async fn event(&mut self, read: bool, due: Option<Instant>) -> LinkEvent {
        let deadline = self.deadline(due);
        let is_connected = self.subscriber.is_some();
        let subscriber = self.subscriber.as_mut().filter(|_| read);
        tokio::select! {
            input = async { match subscriber { Some(subscriber) => subscriber.fill().await, None => pending().await } } => {
                LinkEvent::Input(input)
            }
            dialed = async { match &mut self.dialing { Some(dialing) => dialing.await, None => pending().await } } => {
                self.on_dialed(dialed)
            }
            () = async { match &mut self.moved { Some(moved) => moved.await, None => pending().await } } => {
                LinkEvent::Unusable("another server is the master now, or this one is a replica".to_owned())
            }
            () = self.target.suspected(), if is_connected => {
                self.suspected = true;
                LinkEvent::Due
            }
            () = sleep_until(deadline), if is_connected => {
                if self.mark_overdue() {
                    LinkEvent::Unusable(format!("no answer within {} s", self.answer_timeout.as_secs()))
                } else {
                    LinkEvent::Due
                }
            }
        }
    }

    /// Waits for input. Safe to cancel.
    pub(super) async fn fill(&mut self) -> Result<(), String> {
        match &mut self.subscriber {
            Some(subscriber) if !self.closing => subscriber.fill().await,
            _ => pending().await,
        }
    }

    /// Returns the next event of the input that was read.
    ///
    /// # Errors
    ///
    /// When Redis sends what no subscriber expects.
    pub(super) fn next_event(&mut self) -> Result<Option<SubscriberEvent>, String> {
        self.subscriber.as_mut().map_or(Ok(None), Subscriber::next)
    }

    fn on_dialed(&mut self, dialed: Result<RedisConnection, String>) -> LinkEvent {
        self.dialing = None;
        match dialed {
            Ok(connection) => {
                let (discovery, endpoint) = (self.target.discovery().clone(), connection.endpoint().clone());
                self.moved = Some(Box::pin(async move { discovery.left(&endpoint).await }));
                self.subscriber = Some(Subscriber::new(connection));
                LinkEvent::Connected
            }
            Err(reason) => {
                self.warn_unreachable(&reason);
                LinkEvent::Due
            }
        }
    }

    /// Returns when an answer is overdue, or when something is due to be sent.
    fn deadline(&self, due: Option<Instant>) -> Instant {
        if let (Some(pending), Some(subscriber)) = (&self.pending, &self.subscriber) {
            let grace = if pending.overdue { GRACE } else { Duration::ZERO };
            let timeout =
                if self.suspected { self.answer_timeout.min(SUSPECTED_TIMEOUT) } else { self.answer_timeout };
            return pending.since.max(subscriber.last_read()) + timeout + grace;
        }
        let keepalive = self.last_answer + KEEPALIVE;
        due.map_or(keepalive, |due| due.min(keepalive))
    }

    /// Marks the pending change as overdue if its deadline has passed. Returns true if it was marked before.
    fn mark_overdue(&mut self) -> bool {
        let overdue = self.deadline(None) <= Instant::now();
        self.pending
            .as_mut()
            .is_some_and(|pending| std::mem::replace(&mut pending.overdue, overdue) && overdue)
    }

    /// Takes the error reply to the pending change.
    ///
    /// # Errors
    ///
    /// With the reason, if there is no pending change that it could answer.
    pub(super) fn refuse(&mut self, reason: String) -> Result<(), String> {
        match &mut self.pending {
            Some(pending) => {
                pending.refusal = Some(reason);
                Ok(())
            }
            None => Err(reason),
        }
    }

    /// Takes the answer to the fence, which may be an error: PING can be refused. Returns the outcome of the change.
    pub(super) fn finish(&mut self, refused_ping: Option<&str>, now: Instant) -> Option<ChangeOutcome> {
        let PendingChange { channels, refusal, .. } = self.pending.take()?;
        self.last_answer = now;
        self.suspected = false;
        match refused_ping {
            Some(reason) if self.refused_ping.allow(reason) => {
                warn!(redis = self.target.name(), error = %reason, "redis refuses PING; the connection is used nevertheless{}", cure(reason));
            }
            None if self.refused_ping.reset() => {
                info!(redis = self.target.name(), "redis answers PING again");
            }
            _ => {}
        }
        Some(ChangeOutcome { channels, refusal })
    }

    /// Notes that all wanted channels are confirmed or refused.
    pub(super) fn mark_up(&mut self) {
        self.is_up = true;
        self.target.discovery().note_served(true);
        self.pause = Duration::ZERO;
        self.last_error = None;
        let elapsed_ms = u64::try_from(self.down_since.elapsed().as_millis()).unwrap_or(u64::MAX);
        info!(redis = self.target.name(), elapsed_ms, "redis connected");
    }

    /// Stops reading; what was read can still be taken.
    pub(super) fn begin_close(&mut self) {
        self.closing = true;
        self.moved = None;
    }

    /// Closes the connection. Returns true if it was up.
    pub(super) fn close(&mut self, reason: &str) -> bool {
        self.subscriber = None;
        self.closing = false;
        self.pending = None;
        self.suspected = false;
        self.target.discovery().note_served(false);
        if !std::mem::take(&mut self.is_up) {
            self.warn_unreachable(reason);
            return false;
        }
        self.down_since = Instant::now();
        self.last_error = Some((reason.to_owned(), Instant::now()));
        warn!(redis = self.target.name(), error = %reason, "redis lost; clients stay connected, new ones get 503 until it is back");
        true
    }

    /// Logs why Redis cannot be reached: when the reason changes, and once a minute.
    fn warn_unreachable(&mut self, reason: &str) {
        let logged = self.last_error.as_ref();
        if logged.is_some_and(|(last, at)| last == reason && at.elapsed() < UNREACHABLE_LOG_INTERVAL) {
            debug!(error = %reason, "redis cannot be reached");
            return;
        }
        self.last_error = Some((reason.to_owned(), Instant::now()));
        let hint = self.target.hint(reason);
        warn!(redis = self.target.name(), error = %reason, "redis cannot be reached; clients get 503; {hint}");
    }
}
