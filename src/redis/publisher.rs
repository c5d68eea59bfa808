//! Publishes the messages of clients: SETEX and PUBLISH, or the script of histories, of many clients in one pipeline, in order,
//! at most once.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, Semaphore};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};
use tracing::{error, warn};

use super::command_client::{CommandBatch, CommandClient};
use super::discovery::Discovery;
use super::error_reply::{ErrorClass, cure};
use super::history_script::{self, PublicationHistory, ScriptCalls};
use super::publish_acks::{PublishAcks, PublishError};
use super::reply::{CommandFailure, CommandReplies, CommandReply};
use crate::metrics::Counters;
use crate::settings::Settings;
use crate::telemetry::LogThrottle;
use crate::wire::Channel;

/// Most publications in one pipeline, and the bytes at which it is full.
const BATCH: usize = 512;
const BATCH_BYTES: usize = 1 << 20;

/// Pipelines in flight: one is written while the other awaits its replies. More would make each smaller, and small ones
/// cost Redis more per message. Publications that arrive while both are in flight wait for the older one's replies,
/// which adds at most one round trip.
const MAX_IN_FLIGHT: u32 = 2;

/// Scheduler turns and time that a pipeline waits at most for further publications.
const TURNS: usize = 4;
const GATHERING: Duration = Duration::from_millis(1);

/// Interval between checks for a connection while publications wait.
const LOOK: Duration = Duration::from_millis(50);

/// Recent acknowledgements that are remembered where sentinels may promote another master.
const REMEMBERED: usize = 65_536;

/// Time for which they are remembered, unless there are more than `REMEMBERED`.
const MEMORY: Duration = Duration::from_secs(10);

struct Publication {
    channels: Rc<[Channel]>,
    payload: Bytes,
    /// None where messages are not kept in streams.
    history: Option<Box<PublicationHistory>>,
    acks: Rc<PublishAcks>,
    since: Instant,
}

impl Publication {
    /// Bytes counted against the queue's limit.
    fn cost(&self) -> usize {
        self.payload.len() + PublishAcks::OVERHEAD_BYTES
    }

    /// Returns whether the script publishes to the channel at this index.
    fn is_scripted(&self, index: usize) -> bool {
        self.history.as_ref().is_some_and(|history| history.has(index))
    }
}

/// A queue of publications, written in batches.
pub(super) struct Publisher {
    commands: Rc<CommandClient>,
    discovery: Arc<Discovery>,
    /// Whether sentinels may promote another master, so that [`doubt`](Self::doubt) runs.
    tracks_doubt: bool,
    /// Recent acknowledgements and when they arrived.
    acknowledged: RefCell<VecDeque<(Instant, Weak<PublishAcks>)>>,
    queue: RefCell<VecDeque<Publication>>,
    /// Shared by all publishers of the shard.
    queued_bytes: Rc<Cell<usize>>,
    wake: Notify,
    in_flight: Arc<Semaphore>,
    pipelines: u32,
    expire_seconds: u64,
    wait: Duration,
    max_queued_bytes: usize,
    script_digest: Rc<str>,
    counters: Arc<Counters>,
    unkept: LogThrottle,
    refused: LogThrottle,
}

impl Publisher {
    pub(super) fn new(
        commands: Rc<CommandClient>,
        discovery: Arc<Discovery>,
        tracks_doubt: bool,
        settings: &Settings,
        counters: Arc<Counters>,
    ) -> Rc<Self> {
        Rc::new(Self {
            commands,
            discovery,
            tracks_doubt,
            acknowledged: RefCell::default(),
            queue: RefCell::default(),
            queued_bytes: Rc::default(),
            wake: Notify::new(),
            in_flight: Arc::new(Semaphore::new(MAX_IN_FLIGHT as usize)),
            pipelines: MAX_IN_FLIGHT,
            expire_seconds: settings.expire_seconds,
            wait: settings.redis.publish_wait,
            max_queued_bytes: settings.redis.max_pending_bytes,
            script_digest: history_script::digest(history_script::PUBLISH).into(),
            counters,
            unkept: LogThrottle::default(),
            refused: LogThrottle::default(),
        })
    }

    /// Returns another publisher that shares this one's byte limit. It has one pipeline in flight, or a redirected command
    /// could be overtaken by a later one.
    pub(super) fn sibling(&self) -> Rc<Self> {
        Rc::new(Self {
            commands: self.commands.clone(),
            discovery: self.discovery.clone(),
            tracks_doubt: false,
            acknowledged: RefCell::default(),
            queue: RefCell::default(),
            queued_bytes: self.queued_bytes.clone(),
            wake: Notify::new(),
            in_flight: Arc::new(Semaphore::new(1)),
            pipelines: 1,
            expire_seconds: self.expire_seconds,
            wait: self.wait,
            max_queued_bytes: self.max_queued_bytes,
            script_digest: self.script_digest.clone(),
            counters: self.counters.clone(),
            unkept: LogThrottle::default(),
            refused: LogThrottle::default(),
        })
    }

    /// Returns true if nothing is queued or in flight.
    pub(super) fn is_idle(&self) -> bool {
        self.queue.borrow().is_empty() && self.in_flight.available_permits() == self.pipelines as usize
    }

    /// Returns true if the next publication can be written. SETEX and the script need the channel's own node,
    /// PUBLISH any.
    fn is_ready(&self) -> bool {
        let queue = self.queue.borrow();
        match queue.front() {
            Some(next) if self.expire_seconds > 0 || next.history.is_some() => {
                self.commands.has(next.channels.iter().map(|channel| channel.as_str().as_bytes()))
            }
            _ => self.commands.is_up(),
        }
    }

    /// Queues a publication. Its outcome is reported to `acks`.
    pub(super) fn queue(
        &self,
        channels: Rc<[Channel]>,
        payload: Bytes,
        history: Option<Box<PublicationHistory>>,
        acks: Rc<PublishAcks>,
    ) {
        let publication = Publication { channels, payload, history, acks, since: Instant::now() };
        if self.queued_bytes.get() + publication.cost() > self.max_queued_bytes {
            return self.settle(&publication, Err(PublishError::Waited));
        }
        self.queued_bytes.set(self.queued_bytes.get() + publication.cost());
        self.queue.borrow_mut().push_back(publication);
        self.wake.notify_one();
    }

    /// Waits until nothing is queued or in flight. Cancel-safe.
    pub(super) async fn settled(&self) {
        while !self.queue.borrow().is_empty() {
            sleep(LOOK).await;
        }
        // Holding all permits means that nothing is in flight.
        let _ = self.in_flight.acquire_many(self.pipelines).await;
    }

    /// Writes queued publications. Never returns.
    pub(super) async fn run(self: Rc<Self>) {
        loop {
            self.wake.notified().await;
            while !self.queue.borrow().is_empty() {
                if !self.is_ready() {
                    self.refuse_old();
                    sleep(LOOK).await;
                    continue;
                }
                let Ok(permit) = self.in_flight.clone().acquire_owned().await else { return };
                self.gather().await;
                // The connection may have been lost during the waits; nothing of the queue is written yet.
                if !self.is_ready() {
                    continue;
                }
                let batch = self.take();
                let replies = self.commands.send(self.encode(&batch));
                let mut written = Box::pin(self.clone().settle_all(batch, replies));
                // The first poll queues the pipeline, so the order is kept.
                if poll_fn(|cx| Poll::Ready(written.as_mut().poll(cx))).await.is_pending() {
                    tokio::task::spawn_local(async move {
                        written.await;
                        drop(permit);
                    });
                }
            }
        }
    }

    /// Yields to the tasks that read from clients while that yields more publications: larger pipelines cost Redis less
    /// per message.
    async fn gather(&self) {
        let since = Instant::now();
        for _ in 0..TURNS {
            let before = self.queue.borrow().len();
            if before >= BATCH || self.queued_bytes.get() >= BATCH_BYTES {
                return;
            }
            yield_now().await;
            if self.queue.borrow().len() == before || since.elapsed() >= GATHERING {
                return;
            }
        }
    }

    fn take(&self) -> Vec<Publication> {
        let mut queue = self.queue.borrow_mut();
        let mut batch = Vec::with_capacity(queue.len().min(BATCH));
        let mut bytes = 0;
        while batch.len() < BATCH && bytes < BATCH_BYTES {
            let Some(publication) = queue.pop_front() else { break };
            bytes += publication.cost();
            batch.push(publication);
        }
        self.queued_bytes.set(self.queued_bytes.get() - bytes);
        batch
    }

    fn refuse_old(&self) {
        let old = |publication: &mut Publication| publication.since.elapsed() >= self.wait;
        while let Some(publication) = self.queue.borrow_mut().pop_front_if(old) {
            self.queued_bytes.set(self.queued_bytes.get() - publication.cost());
            self.settle(&publication, Err(PublishError::Waited));
        }
    }

    /// Encodes a batch.
    fn encode(&self, publications: &[Publication]) -> CommandBatch {
        let mut batch = self.commands.batch();
        let mut scripts = ScriptCalls::new(&self.script_digest, self.commands.is_cluster());
        let expire = self.expire_seconds.to_string();
        for publication in publications {
            for (index, channel) in publication.channels.iter().enumerate() {
                if let Some(history) = &publication.history
                    && scripts.add(&mut batch, (channel, index), history, &expire, &publication.payload)
                {
                    continue;
                }
                let channel = channel.as_str().as_bytes();
                if self.expire_seconds > 0 {
                    batch.add("SETEX", &[channel, expire.as_bytes(), &publication.payload]);
                }
                batch.add("PUBLISH", &[channel, &publication.payload]);
            }
        }
        batch
    }

    /// Waits for the replies and reports the outcomes.
    async fn settle_all(
        self: Rc<Self>,
        batch: Vec<Publication>,
        replies: impl Future<Output = CommandReplies>,
    ) {
        let term = self.discovery.term();
        let replies = replies.await;
        // Acknowledgements of a former master are void: its writes are discarded.
        let left = self.discovery.term() != term;
        let mut replies = replies.into_iter();
        for publication in &batch {
            let mut result = if left { Err(PublishError::Lost) } else { Ok(()) };
            let mut published = false;
            for index in 0..publication.channels.len() {
                let is_scripted = publication.is_scripted(index);
                if self.expire_seconds > 0 && !is_scripted {
                    result = result.and(self.note_unkept(replies.next()));
                }
                let judged = self.judge(replies.next(), is_scripted);
                published |= judged.is_ok();
                result = if judged == Err(PublishError::Lost) { judged } else { result.and(judged) };
            }
            // A partly published message must not be repeated.
            if published && result.is_err() {
                result = Err(PublishError::Lost);
            }
            self.settle(publication, result);
        }
        if !left && self.tracks_doubt {
            self.remember(&batch);
        }
    }

    /// Remembers acknowledged publications.
    fn remember(&self, batch: &[Publication]) {
        let (now, mut acknowledged) = (Instant::now(), self.acknowledged.borrow_mut());
        while acknowledged.len() > REMEMBERED
            || acknowledged.front().is_some_and(|(when, _)| now - *when > MEMORY)
        {
            acknowledged.pop_front();
        }
        acknowledged.extend(batch.iter().map(|publication| (now, Rc::downgrade(&publication.acks))));
    }

    /// On each change of master, reports as lost what the former master acknowledged when the new one may already have
    /// been promoted: those writes were discarded. Never returns.
    pub(super) async fn doubt(self: Rc<Self>) {
        let mut states = self.discovery.watch();
        let mut term = states.borrow_and_update().term;
        while let Ok(state) = states.wait_for(|state| state.term != term).await.map(|state| state.clone()) {
            term = state.term;
            for (when, acks) in self.acknowledged.take() {
                if when >= state.doubtful_since
                    && let Some(acks) = acks.upgrade()
                {
                    Counters::count(&self.counters.lost_publications);
                    acks.doubt();
                }
            }
        }
    }

    /// A message that could not be persisted is still delivered.
    fn note_unkept(&self, reply: Option<Result<CommandReply, CommandFailure>>) -> Result<(), PublishError> {
        match reply {
            Some(Ok(_)) => {}
            // It is unknown whether it was written.
            Some(Err(CommandFailure::Lost)) | None => return Err(PublishError::Lost),
            // A replica publishes, and only to its own subscribers.
            Some(Err(CommandFailure::Refused(error))) if ErrorClass::of(&error) == ErrorClass::NotMaster => {
                return Err(PublishError::Lost);
            }
            Some(Err(CommandFailure::Refused(error))) => {
                if let Some(suppressed) = self.unkept.allow() {
                    warn!(%error, suppressed, "redis did not persist a client's message, it is delivered only{}", cure(&error));
                }
                Counters::count(&self.counters.unkept_publications);
            }
        }
        Ok(())
    }

    fn judge(
        &self,
        reply: Option<Result<CommandReply, CommandFailure>>,
        is_scripted: bool,
    ) -> Result<(), PublishError> {
        match reply {
            Some(Ok(_)) => Ok(()),
            Some(Err(CommandFailure::Refused(error))) => {
                if is_scripted && history_script::is_refusal(&error) {
                    if let Some(suppressed) = self.refused.allow() {
                        let cure = history_script::CURE;
                        error!(%error, suppressed, "redis refuses the script of [[history]], the client is closed; {cure}");
                    }
                } else if let Some(suppressed) = self.refused.allow() {
                    warn!(%error, suppressed, "redis refused a client's message, the client is closed{}", cure(&error));
                }
                // A temporary error means that the command was not executed, so a retry is safe.
                let is_passing = ErrorClass::of(&error) == ErrorClass::Temporary;
                Err(if is_passing { PublishError::Waited } else { PublishError::Lost })
            }
            Some(Err(CommandFailure::Lost)) | None => Err(PublishError::Lost),
        }
    }

    fn settle(&self, publication: &Publication, result: Result<(), PublishError>) {
        match result {
            Ok(()) => {}
            Err(PublishError::Lost) => Counters::count(&self.counters.lost_publications),
            Err(PublishError::Waited) => Counters::count(&self.counters.refused_publications),
        }
        publication.acks.settle(publication.payload.len(), result);
    }
}
