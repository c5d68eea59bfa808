//! Reads keys: GETs of many clients share a pipeline, and concurrent reads of one key share a GET.

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
use super::error_reply::{ErrorClass, HintThrottle, cure};
use super::reply::{CommandFailure, CommandReply};
use crate::metrics::Counters;
use crate::telemetry::LogThrottle;

/// Most keys in one pipeline.
const BATCH: usize = 500;

/// Pipelines in flight per server; more brought no gain when measured.
const MAX_IN_FLIGHT: usize = 4;

/// Pauses between retries while Redis temporarily refuses, and the time after which retrying stops; most callers have a
/// shorter deadline.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_millis(500);
const RETRY_TIMEOUT: Duration = Duration::from_mins(1);

/// Redis was lost, or gave no answer in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("redis was lost while a key was read")]
pub struct ReadFailed;

/// Why a read failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadError {
    /// Redis was lost, or gave no answer in time.
    Lost,
    /// Redis temporarily refuses.
    Temporary,
}

/// The result of reading a key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoredValue {
    /// The value; none if the key is absent, too large, or refused.
    pub value: Option<Bytes>,
    /// Whether Redis refused, for example because of its ACL.
    pub refused: bool,
    /// Whether this is only the beginning of the value.
    pub too_big: bool,
    /// Whether this is only the beginning of the value.
    pub is_partial: bool,
    /// The remaining TTL in milliseconds, if it was requested and the key expires.
    pub lives_ms: Option<u64>,
}

impl StoredValue {
    /// Returns true if the key does not exist.
    pub fn is_absent(&self) -> bool {
        self.value.is_none() && !self.refused && !self.too_big
    }
}

pub(super) type ReadResult = Result<StoredValue, ReadError>;

/// What is read of each key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadKind {
    /// The value.
    Value,
    /// The value and its TTL.
    ValueAndTtl,
    /// The value up to the size limit, and its TTL. One byte more is read to see whether it continues.
    Head,
}

/// A key that can be read. The log shows its `Debug` output.
pub(super) trait ReadKey: AsRef<str> + Clone + Eq + Hash + Debug + 'static {}

impl<K: AsRef<str> + Clone + Eq + Hash + Debug + 'static> ReadKey for K {}

/// A key and the reads that wait for it.
type Waiting<K> = (K, Vec<oneshot::Sender<ReadResult>>);

/// The reads from one server. Each server has its own queue, so an unreachable one delays only its own keys.
#[derive(Debug)]
struct ReadQueue<K> {
    /// Reads whose GET is not written yet. Only these are shared: a client that joins after the GET was written could
    /// miss a message published in between.
    waiting: HashMap<K, Vec<oneshot::Sender<ReadResult>>, RandomState>,
    in_flight: usize,
}

impl<K> Default for ReadQueue<K> {
    fn default() -> Self {
        Self { waiting: HashMap::default(), in_flight: 0 }
    }
}

/// One shard's reads of one kind of key.
#[derive(Debug)]
pub(super) struct Reads<K> {
    commands: Rc<CommandClient>,
    /// What the keys hold, for log lines.
    what: &'static str,
    /// By node in a cluster; otherwise there is one queue.
    queues: RefCell<HashMap<Option<ServerAddress>, ReadQueue<K>, RandomState>>,
    wake: Notify,
    /// What is read of each key.
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

    /// Reads keys, in order. Retries while Redis temporarily refuses.
    ///
    /// # Errors
    ///
    /// When Redis is lost, or gives no answer in time.
    pub(super) async fn read(
        &self,
        keys: impl Iterator<Item = K> + Clone,
    ) -> Result<Vec<StoredValue>, ReadFailed> {
        let (begun, mut pause) = (Instant::now(), FIRST_PAUSE);
        loop {
            match self.read_once(keys.clone()).await {
                Ok(entries) => return Ok(entries),
                Err(ReadError::Temporary) if begun.elapsed() < RETRY_TIMEOUT => {
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

    /// Sends queued reads. Never returns.
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

    /// Takes the next batch of a server that has capacity.
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
                // A closed receiver means that the caller has given up.
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
                    let cure = cure(&error);
                    warn!(?key, %error, suppressed, "redis refused a {}, which counts as absent{cure}", self.what);
                }
                Counters::count(&self.counters.refused_reads);
                return Ok(StoredValue { refused: true, ..StoredValue::default() });
            }
            Err(CommandFailure::Refused(error)) => return self.note_temporary(&error),
            Err(CommandFailure::Lost) => return Err(ReadError::Lost),
        };
        // -1: no TTL; -2: the key is gone.
        let lives_ms = match ttl {
            Some(Ok(CommandReply::Integer(-2))) => return Ok(StoredValue::default()),
            Some(Ok(CommandReply::Integer(ttl))) => u64::try_from(ttl).ok(),
            Some(Err(CommandFailure::Refused(error))) if ErrorClass::of(&error) != ErrorClass::Denied => {
                return self.note_temporary(&error);
            }
            Some(Err(CommandFailure::Lost)) => return Err(ReadError::Lost),
            _ => None,
        };
        // GETRANGE returns an empty string for an absent key. PTTL may be refused, or may see the key changed.
        let value = value.filter(|value| self.kind != ReadKind::Head || !value.is_empty());
        Ok(match value.as_ref().map(Bytes::len) {
            Some(bytes) if bytes > self.max_bytes && self.kind == ReadKind::Head => {
                StoredValue { value, lives_ms, is_partial: true, ..StoredValue::default() }
            }
            Some(bytes) if bytes > self.max_bytes => self.note_too_big(key, bytes),
            _ => StoredValue { value, lives_ms, ..StoredValue::default() },
        })
    }

    /// A temporary refusal is no result for the key: retry.
    fn note_temporary(&self, error: &str) -> ReadResult {
        if self.temporary.borrow_mut().allow(error) {
            warn!(%error, "redis temporarily refuses to read a {}, handshakes wait{}", self.what, cure(error));
        }
        Counters::count(&self.counters.refused_reads);
        Err(ReadError::Temporary)
    }

    fn note_too_big(&self, key: &K, bytes: usize) -> StoredValue {
        if let Some(suppressed) = self.too_big.allow() {
            warn!(?key, bytes, suppressed, "{} too big, counts as absent", self.what);
        }
        Counters::count(&self.counters.oversized_deliveries);
        StoredValue { too_big: true, ..StoredValue::default() }
    }
}
