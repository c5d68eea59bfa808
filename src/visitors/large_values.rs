//! Values too large to decode on a shard's thread: at most [`PERMITS`] at a time are read and decoded in the process.
//!
//! A value is read only after a permit is acquired, and the blocking job holds the permit until it ends, even if its
//! waiters are gone. This bounds memory and threads for any number of visitors.

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::timeout;
use tracing::warn;

use super::IdentifyError;
use crate::redis::Lookups;
use crate::telemetry::LogThrottle;

/// Values decoded concurrently. Each takes up to 4 MiB compressed, 4 MiB decompressed, and its decoder's memory
/// (xz: 9 MiB).
const PERMITS: usize = 2;

/// Keys that may wait for a permit. None of them has been read yet.
const WAITING: usize = 64;

/// Time that a key waits for a permit: within the handshake timeout, which may need two reads.
const PERMIT_TIMEOUT: Duration = Duration::from_secs(4);

/// The permits that all shards share.
#[derive(Debug, Clone)]
pub struct LargeValues {
    permits: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

impl Default for LargeValues {
    fn default() -> Self {
        Self { permits: Arc::new(Semaphore::new(PERMITS)), waiting: Arc::new(Semaphore::new(WAITING)) }
    }
}

/// The result of reading a key: the decoded value, if there is one, and its time to live in milliseconds.
pub(super) type LargeRead<T> = Result<(Option<T>, Option<u64>), IdentifyError>;

/// A key, and the index of its template, which selects the decoder.
type Id = (usize, Box<str>);

/// Decodes a value with the decoder of a template.
type Decode<T> = dyn Fn(usize, &[u8]) -> T + Send + Sync;

/// The tasks that wait for the next read of a key.
type Waiters<T> = Vec<oneshot::Sender<LargeRead<T>>>;

/// Reads large values of one kind for one shard.
pub(super) struct LargeReads<T> {
    shared: LargeValues,
    keys: Rc<Lookups>,
    decode: Arc<Decode<T>>,
    /// A waiter joins a read only if it arrived before the read began: later changes are not in it.
    waiters: RefCell<HashMap<Id, Waiters<T>, RandomState>>,
    crowded: LogThrottle,
}

impl<T: Clone + Send + 'static> LargeReads<T> {
    pub(super) fn new(
        shared: LargeValues,
        keys: Rc<Lookups>,
        decode: impl Fn(usize, &[u8]) -> T + Send + Sync + 'static,
    ) -> Rc<Self> {
        let (decode, waiters) = (Arc::new(decode), RefCell::default());
        Rc::new(Self { shared, keys, decode, waiters, crowded: LogThrottle::default() })
    }

    /// Reads and decodes the value of a key. Concurrent calls for the same key share one read.
    ///
    /// # Errors
    ///
    /// When Redis is lost, or too many other keys wait.
    pub(super) async fn read(self: &Rc<Self>, number: usize, key: &str) -> LargeRead<T> {
        let (waiter, outcome) = oneshot::channel();
        match self.waiters.borrow_mut().entry((number, key.into())) {
            Entry::Occupied(mut waiters) => waiters.get_mut().push(waiter),
            Entry::Vacant(vacant) => {
                tokio::task::spawn_local(self.clone().serve(vacant.key().clone()));
                vacant.insert(vec![waiter]);
            }
        }
        outcome.await.unwrap_or(Err(IdentifyError::Busy))
    }

    /// Reads a key, and again for waiters that arrived meanwhile, until there are none.
    async fn serve(self: Rc<Self>, id: Id) {
        while self.keep_if_awaited(&id) {
            let permit = self.permit().await;
            let waiters = self.waiters.borrow_mut().get_mut(&id).map(std::mem::take).unwrap_or_default();
            if waiters.iter().all(oneshot::Sender::is_closed) {
                continue;
            }
            let outcome = match permit {
                Some(permit) => self.decoded(&id, permit).await,
                None => Err(self.warn_busy()),
            };
            for waiter in waiters {
                let _ = waiter.send(outcome.clone());
            }
        }
    }

    /// Returns whether a key has waiters, and removes its entry if it has none.
    fn keep_if_awaited(&self, id: &Id) -> bool {
        let mut waiters = self.waiters.borrow_mut();
        let is_awaited = waiters.get(id).is_some_and(|waiters| !waiters.is_empty());
        if !is_awaited {
            waiters.remove(id);
        }
        is_awaited
    }

    async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        let permits = &self.shared.permits;
        if let Ok(permit) = permits.clone().try_acquire_owned() {
            return Some(permit);
        }
        let _waiting = self.shared.waiting.try_acquire().ok()?;
        timeout(PERMIT_TIMEOUT, permits.clone().acquire_owned()).await.ok()?.ok()
    }

    async fn decoded(&self, (number, key): &Id, permit: OwnedSemaphorePermit) -> LargeRead<T> {
        let entry = self.keys.read_whole(key).await?;
        let Some(value) = entry.value else { return Ok((None, None)) };
        let (decode, number) = (self.decode.clone(), *number);
        let job = tokio::task::spawn_blocking(move || {
            let decoded = decode(number, &value);
            drop(value);
            drop(permit);
            decoded
        });
        // The decoders do not panic; the job is cancelled only when the shard stops.
        job.await.map(|decoded| (Some(decoded), entry.lives_ms)).map_err(|_| IdentifyError::Busy)
    }

    fn warn_busy(&self) -> IdentifyError {
        if let Some(suppressed) = self.crowded.allow() {
            warn!(
                suppressed,
                "too many large sessions at a time, their handshakes get 503. Sessions above 16 KiB take long to decode: store less in them"
            );
        }
        IdentifyError::Busy
    }
}

/// Keys are secret, so `Debug` shows none.
impl<T> fmt::Debug for LargeReads<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LargeReads").field("shared", &self.shared).finish_non_exhaustive()
    }
}
