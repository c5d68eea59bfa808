//! Values above what a shard decodes by itself: read and decoded few at a time for the whole process.
//!
//! A value is read only once there is a permit, and the job that decodes it holds the permit to its end, whoever has
//! gone meanwhile. So the memory and the threads are bounded, however many visitors come.

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

/// Values that are decoded at a time. Each takes up to 4 MiB as it lies in Redis, 4 MiB unpacked, and what its decoder
/// needs (xz: 9 MiB).
const PERMITS: usize = 2;

/// Keys that may wait for a permit, none of which has been read.
const WAITING: usize = 64;

/// How long a key waits for a permit: a handshake has some seconds, and may have to read twice.
const PATIENCE: Duration = Duration::from_secs(4);

/// What the shards of a process share.
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

/// What came of reading a key: what was decoded, if there is a value, and the milliseconds that the key has to live.
pub(super) type Outcome<T> = Result<(Option<T>, Option<u64>), IdentifyError>;

/// A key, and the number of the transport in which its value is decoded.
type Id = (usize, Box<str>);

/// Decodes a value in the transport of that number.
type Decode<T> = dyn Fn(usize, &[u8]) -> T + Send + Sync;

/// Those who wait for the next read of a key.
type Waiters<T> = Vec<oneshot::Sender<Outcome<T>>>;

/// Large values of one kind, for one shard.
pub(super) struct LargeReads<T> {
    shared: LargeValues,
    keys: Rc<Lookups>,
    decode: Arc<Decode<T>>,
    /// Who waits for which key. Only those share a read who came before it began: what changes later is not in it.
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

    /// Reads and decodes a key's value. All who wait for the same key share one read.
    ///
    /// # Errors
    ///
    /// When Redis is lost, or too many other keys wait.
    pub(super) async fn read(self: &Rc<Self>, number: usize, key: &str) -> Outcome<T> {
        let (waiter, outcome) = oneshot::channel();
        match self.waiters.borrow_mut().entry((number, key.into())) {
            Entry::Occupied(mut waiters) => waiters.get_mut().push(waiter),
            Entry::Vacant(place) => {
                tokio::task::spawn_local(self.clone().serve(place.key().clone()));
                place.insert(vec![waiter]);
            }
        }
        outcome.await.unwrap_or(Err(IdentifyError::Busy))
    }

    /// Reads a key, and once more for those who came meanwhile, until nobody waits for it.
    async fn serve(self: Rc<Self>, id: Id) {
        while self.is_wanted(&id) {
            let permit = self.permit().await;
            let waiters = self.waiters.borrow_mut().get_mut(&id).map(std::mem::take).unwrap_or_default();
            if waiters.iter().all(oneshot::Sender::is_closed) {
                continue;
            }
            let outcome = match permit {
                Some(permit) => self.decoded(&id, permit).await,
                None => Err(self.note_crowd()),
            };
            for waiter in waiters {
                // Who gave up waiting does not mind.
                let _ = waiter.send(outcome.clone());
            }
        }
    }

    /// Tells whether somebody waits for a key; if not, the next one begins anew.
    fn is_wanted(&self, id: &Id) -> bool {
        let mut waiters = self.waiters.borrow_mut();
        let wanted = waiters.get(id).is_some_and(|waiters| !waiters.is_empty());
        if !wanted {
            waiters.remove(id);
        }
        wanted
    }

    async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        let permits = &self.shared.permits;
        if let Ok(permit) = permits.clone().try_acquire_owned() {
            return Some(permit);
        }
        let _place = self.shared.waiting.try_acquire().ok()?;
        timeout(PATIENCE, permits.clone().acquire_owned()).await.ok()?.ok()
    }

    async fn decoded(&self, (number, key): &Id, permit: OwnedSemaphorePermit) -> Outcome<T> {
        let entry = self.keys.read_whole(key).await?;
        let Some(value) = entry.value else { return Ok((None, None)) };
        let (decode, number) = (self.decode.clone(), *number);
        let job = tokio::task::spawn_blocking(move || {
            let decoded = decode(number, &value);
            drop(value);
            drop(permit);
            decoded
        });
        // It does not panic, or is not run any more because the shard ends.
        job.await.map(|decoded| (Some(decoded), entry.lives_ms)).map_err(|_| IdentifyError::Busy)
    }

    fn note_crowd(&self) -> IdentifyError {
        if let Some(suppressed) = self.crowded.allow() {
            warn!(
                suppressed,
                "too many large sessions at a time, their handshakes get 503. Sessions above 16 KiB take long to decode: store less in them"
            );
        }
        IdentifyError::Busy
    }
}

/// Shows no key.
impl<T> fmt::Debug for LargeReads<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LargeReads").field("shared", &self.shared).finish_non_exhaustive()
    }
}
