//! Reading keys: GETs of many clients in one pipeline, one GET for all who wait for the same key.

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry as MapEntry;
use std::fmt::Debug;
use std::hash::Hash;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use foldhash::fast::RandomState;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::address::ServerAddress;
use super::command_client::CommandClient;
use super::error_reply::{ErrorClass, HintThrottle, hint};
use super::reply::{CommandFailure, CommandReply};
use crate::metrics::Counters;
use crate::telemetry::LogThrottle;

/// Keys of one pipeline.
const BATCH: usize = 500;

/// Pipelines under way to a server: more brings nothing, as measured.
const MAX_IN_FLIGHT: usize = 4;

/// Pauses before a key is read again that Redis could not give out at the moment, and the time after which that ends;
/// who waits for it has a shorter deadline in most cases.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_mins(1);

/// Redis was lost, or did not answer in time, before a value came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("redis was lost while a key was read")]
pub struct ReadFailed;

/// Why a value did not come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadError {
    /// Redis was lost, or did not answer in time.
    Lost,
    /// Redis cannot give it out at the moment.
    Temporary,
}

/// What is known of a key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoredValue {
    /// Its value; none where there is none, it is too big, or Redis refuses to give it out.
    pub value: Option<Bytes>,
    /// Whether Redis refused, for example because its user may not read the key.
    pub refused: bool,
    /// Whether it is too big.
    pub too_big: bool,
    /// Whether the value goes on.
    pub is_partial: bool,
    /// Milliseconds that it has to live, if that was asked for and it ends.
    pub lives_ms: Option<u64>,
}

impl StoredValue {
    /// Tells whether there is no such key.
    pub fn is_absent(&self) -> bool {
        self.value.is_none() && !self.refused && !self.too_big
    }
}

pub(super) type ReadResult = Result<StoredValue, ReadError>;

/// What is asked of each key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadKind {
    /// Its value.
    Value,
    /// Its value, and the time that it has to live.
    ValueAndTtl,
    /// Its value as far as it is not too big, and the time that it has to live. One byte more shows that it goes on.
    Head,
}

/// A key that can be read. `Debug` is what the log shows of it.
pub(super) trait ReadKey: AsRef<str> + Clone + Eq + Hash + Debug + 'static {}

impl<K: AsRef<str> + Clone + Eq + Hash + Debug + 'static> ReadKey for K {}

/// Who waits for a key.
type Waiting<K> = (K, Vec<oneshot::Sender<ReadResult>>);

/// What is read from one server. Where that does not answer, nobody waits for it who reads from another.
#[derive(Debug)]
struct ReadQueue<K> {
    /// Who waits for which key, as long as its GET has not been written: a read may be shared only with those who
    /// were in the hub before that, or a message between the GET and their joining would be missed by both.
    waiting: HashMap<K, Vec<oneshot::Sender<ReadResult>>, RandomState>,
    in_flight: usize,
}

impl<K> Default for ReadQueue<K> {
    fn default() -> Self {
        Self { waiting: HashMap::default(), in_flight: 0 }
    }
}

/// The reads of one shard, of keys of one kind.
#[derive(Debug)]
pub(super) struct Reads<K> {
    commands: Rc<CommandClient>,
    /// What the keys hold, for the log.
    what: &'static str,
    /// By node, in a cluster; else there is one.
    queues: RefCell<HashMap<Option<ServerAddress>, ReadQueue<K>, RandomState>>,
    wake: Notify,
    /// What is asked of each key.
    kind: ReadKind,
    max_bytes: usize,
    counters: Arc<Counters>,
    refused: LogThrottle,
    temporary: RefCell<HintThrottle>,
    too_big: LogThrottle,
}

impl<K: ReadKey> Reads<K> {
    pub(super) fn new(
        commands: Rc<CommandClient>,
        what: &'static str,
        kind: ReadKind,
        max_bytes: usize,
        counters: Arc<Counters>,
    ) -> Rc<Self> {
        Rc::new(Self {
            commands,
            what,
            queues: RefCell::default(),
            wake: Notify::new(),
            kind,
            max_bytes,
            counters,
            refused: LogThrottle::default(),
            temporary: RefCell::default(),
            too_big: LogThrottle::default(),
        })
    }

    /// Reads keys, in their order. What Redis cannot give out at the moment is read again, until who waits gives up.
    ///
    /// # Errors
    ///
    /// When Redis is lost, or does not answer in time.
    pub(super) async fn read(
        &self,
        keys: impl Iterator<Item = K> + Clone,
    ) -> Result<Vec<StoredValue>, ReadFailed> {
        let (begun, mut pause) = (Instant::now(), FIRST_PAUSE);
        loop {
            match self.read_once(keys.clone()).await {
                Ok(entries) => return Ok(entries),
                Err(ReadError::Temporary) if begun.elapsed() < PATIENCE => {
                    sleep(pause).await;
                    pause = (pause * 2).min(LAST_PAUSE);
                }
                Err(_) => return Err(ReadFailed),
            }
        }
    }

    async fn read_once(&self, keys: impl Iterator<Item = K>) -> Result<Vec<StoredValue>, ReadError> {
        let reading: Vec<_> = keys.map(|key| self.queue(key)).collect();
        let mut entries = Vec::with_capacity(reading.len());
        for entry in reading {
            entries.push(entry.await.map_err(|_| ReadError::Lost)??);
        }
        Ok(entries)
    }

    fn queue(&self, key: K) -> oneshot::Receiver<ReadResult> {
        let (answer, receiver) = oneshot::channel();
        let node = self.commands.node_of(key.as_ref().as_bytes());
        self.queues.borrow_mut().entry(node).or_default().waiting.entry(key).or_default().push(answer);
        self.wake.notify_one();
        receiver
    }

    /// Writes what is queued, for ever.
    pub(super) async fn run(self: Rc<Self>) {
        loop {
            self.wake.notified().await;
            while let Some((node, batch)) = self.take() {
                let reads = self.clone();
                tokio::task::spawn_local(async move {
                    reads.answer(batch).await;
                    reads.finish(node);
                });
            }
        }
    }

    /// Takes what is next for a server to which not too much is under way.
    fn take(&self) -> Option<(Option<ServerAddress>, Vec<Waiting<K>>)> {
        let mut queues = self.queues.borrow_mut();
        let due = |queue: &ReadQueue<K>| queue.in_flight < MAX_IN_FLIGHT && !queue.waiting.is_empty();
        let (node, queue) = queues.iter_mut().find(|(_, queue)| due(queue))?;
        queue.in_flight += 1;
        if queue.waiting.len() <= BATCH {
            return Some((node.clone(), queue.waiting.drain().collect()));
        }
        let keys: Vec<_> = queue.waiting.keys().take(BATCH).cloned().collect();
        Some((node.clone(), keys.iter().filter_map(|key| queue.waiting.remove_entry(key)).collect()))
    }

    fn finish(&self, node: Option<ServerAddress>) {
        let stays = node.is_none();
        if let MapEntry::Occupied(mut entry) = self.queues.borrow_mut().entry(node) {
            let queue = entry.get_mut();
            queue.in_flight -= 1;
            if !queue.waiting.is_empty() {
                self.wake.notify_one();
            } else if queue.in_flight == 0 && !stays {
                entry.remove();
            }
        }
    }

    async fn answer(&self, batch: Vec<Waiting<K>>) {
        let mut commands = self.commands.batch();
        for (key, _) in &batch {
            match self.kind {
                ReadKind::Head => {
                    let last = self.max_bytes.to_string();
                    commands.add("GETRANGE", &[key.as_ref().as_bytes(), b"0", last.as_bytes()]);
                }
                ReadKind::Value | ReadKind::ValueAndTtl => commands.add("GET", &[key.as_ref().as_bytes()]),
            }
            if self.kind != ReadKind::Value {
                commands.add("PTTL", &[key.as_ref().as_bytes()]);
            }
        }
        if let Some((key, _)) = batch.first() {
            self.commands.wait_for_node(key.as_ref().as_bytes()).await;
        }
        let mut replies = self.commands.send(commands).await.into_iter();
        for (key, waiting) in batch {
            let value = replies.next().unwrap_or(Err(CommandFailure::Lost));
            let ttl = if self.kind == ReadKind::Value { None } else { replies.next() };
            let answer = self.judge(&key, value, ttl);
            for waiter in waiting {
                // Who gave up waiting does not mind.
                let _ = waiter.send(answer.clone());
            }
        }
    }

    fn judge(
        &self,
        key: &K,
        value: Result<CommandReply, CommandFailure>,
        ttl: Option<Result<CommandReply, CommandFailure>>,
    ) -> ReadResult {
        let value = match value {
            Ok(CommandReply::Value(value)) => value,
            Ok(CommandReply::TooLarge(bytes)) => return Ok(self.note_too_big(key, bytes)),
            Ok(_) => None,
            Err(CommandFailure::Refused(error)) if ErrorClass::of(&error) == ErrorClass::Denied => {
                if let Some(suppressed) = self.refused.allow() {
                    let hint = hint(&error);
                    warn!(?key, %error, suppressed, "redis refused a {}, it counts as absent; {hint}", self.what);
                }
                Counters::count(&self.counters.refused_reads);
                return Ok(StoredValue { refused: true, ..StoredValue::default() });
            }
            Err(CommandFailure::Refused(error)) => return self.note_temporary(&error),
            Err(CommandFailure::Lost) => return Err(ReadError::Lost),
        };
        // -1: it does not end; -2: it is gone.
        let lives_ms = match ttl {
            Some(Ok(CommandReply::Integer(-2))) => return Ok(StoredValue::default()),
            Some(Ok(CommandReply::Integer(ttl))) => u64::try_from(ttl).ok(),
            Some(Err(CommandFailure::Refused(error))) if ErrorClass::of(&error) != ErrorClass::Denied => {
                return self.note_temporary(&error);
            }
            Some(Err(CommandFailure::Lost)) => return Err(ReadError::Lost),
            _ => None,
        };
        // To GETRANGE what is not there is empty, and whether it is there may have changed before PTTL, or that is refused.
        let value = value.filter(|value| self.kind != ReadKind::Head || !value.is_empty());
        Ok(match value.as_ref().map(Bytes::len) {
            Some(bytes) if bytes > self.max_bytes && self.kind == ReadKind::Head => {
                StoredValue { value, lives_ms, is_partial: true, ..StoredValue::default() }
            }
            Some(bytes) if bytes > self.max_bytes => self.note_too_big(key, bytes),
            _ => StoredValue { value, lives_ms, ..StoredValue::default() },
        })
    }

    /// Redis cannot give a value out at the moment, which says nothing of whether there is one.
    fn note_temporary(&self, error: &str) -> ReadResult {
        if self.temporary.borrow_mut().allow(error) {
            warn!(%error, "redis cannot give out a {} at the moment, handshakes wait; {}", self.what, hint(error));
        }
        Counters::count(&self.counters.refused_reads);
        Err(ReadError::Temporary)
    }

    fn note_too_big(&self, key: &K, bytes: usize) -> StoredValue {
        if let Some(suppressed) = self.too_big.allow() {
            warn!(?key, bytes, suppressed, "{} too big, it counts as absent", self.what);
        }
        Counters::count(&self.counters.oversized_deliveries);
        StoredValue { too_big: true, ..StoredValue::default() }
    }
}
