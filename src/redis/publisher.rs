//! Publishing what clients say: SETEX and PUBLISH of many clients in one pipeline, at most once, in order.

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
use tracing::warn;

use super::command_client::{CommandBatch, CommandClient};
use super::discovery::Discovery;
use super::error_reply::{ErrorClass, hint};
use super::reply::{CommandFailure, CommandReplies, CommandReply};
use super::{PublishAcks, PublishError};
use crate::metrics::Counters;
use crate::telemetry::LogThrottle;
use crate::wire::Channel;

/// Publications of one pipeline, and their bytes.
const BATCH: usize = 512;
const BATCH_BYTES: usize = 1 << 20;

/// Pipelines under way: one is written while the replies to the other come. With more of them each is smaller, and costs
/// Redis more for each message. What comes while both are under way waits for the older one's replies, so that a Redis far
/// away adds up to once its round trip.
const MAX_IN_FLIGHT: u32 = 2;

/// Turns of the runtime, and time, for which a pipeline waits at most while publications come in.
const TURNS: usize = 4;
const GATHERING: Duration = Duration::from_millis(1);

/// How often a Redis that cannot be reached is looked for while publications wait.
const LOOK: Duration = Duration::from_millis(50);

/// Publications that were acknowledged of late and are remembered, where sentinels may name another master.
const REMEMBERED: usize = 65_536;

/// How long they are remembered at least.
const MEMORY: Duration = Duration::from_secs(10);

struct Publication {
    channels: Rc<[Channel]>,
    payload: Bytes,
    acks: Rc<PublishAcks>,
    since: Instant,
}

impl Publication {
    /// Bytes that it counts in the queue.
    fn cost(&self) -> usize {
        self.payload.len() + PublishAcks::OVERHEAD_BYTES
    }
}

/// The publications of one shard.
pub(super) struct Publisher {
    commands: Rc<CommandClient>,
    discovery: Arc<Discovery>,
    /// Whether sentinels may name another master, so that [`doubt`](Self::doubt) runs.
    tracks_doubt: bool,
    /// Whose publications were acknowledged of late, and when.
    acknowledged: RefCell<VecDeque<(Instant, Weak<PublishAcks>)>>,
    queue: RefCell<VecDeque<Publication>>,
    /// Of all publishers of the shard.
    queued_bytes: Rc<Cell<usize>>,
    wake: Notify,
    in_flight: Arc<Semaphore>,
    pipelines: u32,
    expire_seconds: u64,
    wait: Duration,
    max_queued_bytes: usize,
    counters: Arc<Counters>,
    unkept: LogThrottle,
    refused: LogThrottle,
}

impl Publisher {
    pub(super) fn new(
        commands: Rc<CommandClient>,
        discovery: Arc<Discovery>,
        tracks_doubt: bool,
        expire_seconds: u64,
        wait: Duration,
        max_queued_bytes: usize,
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
            expire_seconds,
            wait,
            max_queued_bytes,
            counters,
            unkept: LogThrottle::default(),
            refused: LogThrottle::default(),
        })
    }

    /// Makes another, for publications that do not wait for those of this one. It has one pipeline under way: a command
    /// that follows a redirection must not come behind a later one.
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
            counters: self.counters.clone(),
            unkept: LogThrottle::default(),
            refused: LogThrottle::default(),
        })
    }

    /// Tells whether nothing is queued or under way.
    pub(super) fn is_idle(&self) -> bool {
        self.queue.borrow().is_empty() && self.in_flight.available_permits() == self.pipelines as usize
    }

    /// Tells whether what is next can be written. In a cluster all have the same nodes; what is not kept goes to any.
    fn is_ready(&self) -> bool {
        let queue = self.queue.borrow();
        match queue.front() {
            Some(next) if self.expire_seconds > 0 => {
                self.commands.has(next.channels.iter().map(|channel| channel.as_str().as_bytes()))
            }
            _ => self.commands.is_up(),
        }
    }

    /// Queues a publication, which is settled through its acknowledgements.
    pub(super) fn queue(&self, channels: Rc<[Channel]>, payload: Bytes, acks: Rc<PublishAcks>) {
        let publication = Publication { channels, payload, acks, since: Instant::now() };
        if self.queued_bytes.get() + publication.cost() > self.max_queued_bytes {
            return self.settle(&publication, Err(PublishError::Waited));
        }
        self.queued_bytes.set(self.queued_bytes.get() + publication.cost());
        self.queue.borrow_mut().push_back(publication);
        self.wake.notify_one();
    }

    /// Waits until nothing is queued or under way. Safe to cancel.
    pub(super) async fn settled(&self) {
        while !self.queue.borrow().is_empty() {
            sleep(LOOK).await;
        }
        // All permits at once: nothing is under way.
        let _ = self.in_flight.acquire_many(self.pipelines).await;
    }

    /// Writes what is queued, for ever.
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
                // It may have been lost while those under way were waited for: what is not written yet waits.
                if !self.is_ready() {
                    continue;
                }
                let batch = self.take();
                let replies = self.commands.send(self.encode(&batch));
                let mut written = Box::pin(self.clone().settle_all(batch, replies));
                // Handed over by the first poll: pipelines stay in order.
                if poll_fn(|cx| Poll::Ready(written.as_mut().poll(cx))).await.is_pending() {
                    tokio::task::spawn_local(async move {
                        written.await;
                        drop(permit);
                    });
                }
            }
        }
    }

    /// Lets other tasks read what clients have sent, as long as that brings something: the larger a pipeline, the less
    /// Redis needs for each message.
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

    /// Makes the commands of a batch.
    fn encode(&self, publications: &[Publication]) -> CommandBatch {
        let mut batch = self.commands.batch();
        let expire = self.expire_seconds.to_string();
        for publication in publications {
            for channel in publication.channels.iter() {
                let channel = channel.as_str().as_bytes();
                if self.expire_seconds > 0 {
                    batch.add("SETEX", &[channel, expire.as_bytes(), &publication.payload]);
                }
                batch.add("PUBLISH", &[channel, &publication.payload]);
            }
        }
        batch
    }

    /// Waits for the replies and settles the batch.
    async fn settle_all(
        self: Rc<Self>,
        batch: Vec<Publication>,
        replies: impl Future<Output = CommandReplies>,
    ) {
        let term = self.discovery.term();
        let replies = replies.await;
        // What was acknowledged by one that is no master any more is known to nobody else.
        let left = self.discovery.term() != term;
        let mut replies = replies.into_iter();
        for publication in &batch {
            let mut result = if left { Err(PublishError::Lost) } else { Ok(()) };
            let mut published = false;
            for _ in publication.channels.iter() {
                if self.expire_seconds > 0 {
                    result = result.and(self.note_unkept(replies.next()));
                }
                let judged = self.judge(replies.next());
                published |= judged.is_ok();
                result = if judged == Err(PublishError::Lost) { judged } else { result.and(judged) };
            }
            // What went to some of its channels is not to be repeated.
            if published && result.is_err() {
                result = Err(PublishError::Lost);
            }
            self.settle(publication, result);
        }
        if !left && self.tracks_doubt {
            self.remember(&batch);
        }
    }

    /// Remembers publications that were acknowledged.
    fn remember(&self, batch: &[Publication]) {
        let (now, mut acknowledged) = (Instant::now(), self.acknowledged.borrow_mut());
        while acknowledged.len() > REMEMBERED
            || acknowledged.front().is_some_and(|(when, _)| now - *when > MEMORY)
        {
            acknowledged.pop_front();
        }
        acknowledged.extend(batch.iter().map(|publication| (now, Rc::downgrade(&publication.acks))));
    }

    /// Tells, whenever there is another master, those whose publications the one before has acknowledged as the other may
    /// have been promoted already: what is published to a master that is being replaced is lost. For ever.
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

    /// A message that is not kept is delivered all the same.
    fn note_unkept(&self, reply: Option<Result<CommandReply, CommandFailure>>) -> Result<(), PublishError> {
        match reply {
            Some(Ok(_)) => {}
            // Written or not: nobody knows.
            Some(Err(CommandFailure::Lost)) | None => return Err(PublishError::Lost),
            Some(Err(CommandFailure::Refused(error))) => {
                if let Some(suppressed) = self.unkept.allow() {
                    warn!(%error, suppressed, "redis did not keep a client's message; {}", hint(&error));
                }
                Counters::count(&self.counters.unkept_publications);
            }
        }
        Ok(())
    }

    fn judge(&self, reply: Option<Result<CommandReply, CommandFailure>>) -> Result<(), PublishError> {
        match reply {
            Some(Ok(_)) => Ok(()),
            Some(Err(CommandFailure::Refused(error))) => {
                if let Some(suppressed) = self.refused.allow() {
                    warn!(%error, suppressed, "redis refused a client's message; {}", hint(&error));
                }
                // It was not carried out, and may be later.
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
