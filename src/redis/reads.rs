//! Reading persisted messages: GETs of many clients in one pipeline, one GET for all who wait for the same key.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use bytes::Bytes;
use foldhash::fast::RandomState;
use fred::prelude::*;
use tokio::sync::{Notify, Semaphore, oneshot};
use tracing::warn;

use super::connect::describe;
use crate::counters::Counters;
use crate::telemetry::Seldom;
use crate::wire::Channel;

/// Keys of one pipeline.
const BATCH: usize = 500;

/// Pipelines under way: more brings nothing, as measured.
const UNDER_WAY: usize = 4;

/// Redis was lost, or did not answer in time, before a value came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("redis was lost while a persisted message was read")]
pub struct ReadFailed;

type Answer = Result<Option<Bytes>, ReadFailed>;

/// The reads of one shard.
#[derive(Debug)]
pub(super) struct Reads {
    client: Client,
    /// Who waits for which key, as long as its GET has not been written: a read may be shared only with those who
    /// were in the hub before that, or a message between the GET and their joining would be missed by both.
    waiting: RefCell<HashMap<Channel, Vec<oneshot::Sender<Answer>>, RandomState>>,
    bell: Notify,
    under_way: std::sync::Arc<Semaphore>,
    max_bytes: usize,
    counters: std::sync::Arc<Counters>,
    refused: Seldom,
    too_big: Seldom,
}

impl Reads {
    pub(super) fn new(client: Client, max_bytes: usize, counters: std::sync::Arc<Counters>) -> Rc<Self> {
        let under_way = std::sync::Arc::new(Semaphore::new(UNDER_WAY));
        let (waiting, bell) = (RefCell::default(), Notify::new());
        Rc::new(Self {
            client,
            waiting,
            bell,
            under_way,
            max_bytes,
            counters,
            refused: Seldom::default(),
            too_big: Seldom::default(),
        })
    }

    /// Queues the reading of a key; the answer comes through the receiver.
    pub(super) fn queue(&self, channel: &Channel) -> oneshot::Receiver<Answer> {
        let (answer, receiver) = oneshot::channel();
        self.waiting.borrow_mut().entry(channel.clone()).or_default().push(answer);
        self.bell.notify_one();
        receiver
    }

    /// Writes what is queued, for ever.
    pub(super) async fn run(self: Rc<Self>) {
        loop {
            self.bell.notified().await;
            while !self.waiting.borrow().is_empty() {
                let Ok(permit) = self.under_way.clone().acquire_owned().await else { return };
                let batch = self.take();
                let reads = self.clone();
                tokio::task::spawn_local(async move {
                    reads.read(batch).await;
                    drop(permit);
                });
            }
        }
    }

    fn take(&self) -> Vec<(Channel, Vec<oneshot::Sender<Answer>>)> {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.len() <= BATCH {
            return waiting.drain().collect();
        }
        let keys: Vec<_> = waiting.keys().take(BATCH).cloned().collect();
        keys.iter().filter_map(|key| waiting.remove_entry(key)).collect()
    }

    async fn read(&self, batch: Vec<(Channel, Vec<oneshot::Sender<Answer>>)>) {
        let pipeline = self.client.pipeline();
        let mut queued = Ok(());
        for (channel, _) in &batch {
            queued = queued.and(pipeline.get::<(), _>(channel.as_str()).await);
        }
        let mut values = if queued.is_ok() { pipeline.try_all::<Value>().await } else { Vec::new() };
        // Anything but one reply per key means that the connection broke.
        let whole = values.len() == batch.len();
        for (index, (channel, waiting)) in batch.into_iter().enumerate() {
            let answer = if whole {
                self.judge(&channel, std::mem::replace(&mut values[index], Ok(Value::Null)))
            } else {
                Err(ReadFailed)
            };
            for waiter in waiting {
                // Who gave up waiting does not mind.
                let _ = waiter.send(answer.clone());
            }
        }
    }

    fn judge(&self, channel: &Channel, reply: Result<Value, Error>) -> Answer {
        let value = match reply {
            Ok(value) => value.into_bytes(),
            Err(error) if is_reply(&error) => {
                if let Some(unsaid) = self.refused.due() {
                    warn!(?channel, error = %describe(&error), unsaid, "redis refused a persisted message, it is not replayed");
                }
                Counters::count(&self.counters.refused_reads);
                None
            }
            Err(_) => return Err(ReadFailed),
        };
        let Some(bytes) = value.as_ref().map(Bytes::len).filter(|bytes| *bytes > self.max_bytes) else {
            return Ok(value);
        };
        if let Some(unsaid) = self.too_big.due() {
            warn!(
                ?channel,
                bytes, unsaid, "persisted message too big, it is not replayed (messages.max_delivery_bytes)"
            );
        }
        Counters::count(&self.counters.oversized_deliveries);
        Ok(None)
    }
}

/// Tells an error that Redis answered from one about the connection: Redis' begin with a word in capitals.
pub(super) fn is_reply(error: &Error) -> bool {
    let word = error.details().split(' ').next().unwrap_or_default();
    let passing = ["LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "MOVED", "ASK"];
    word.len() >= 3 && word.bytes().all(|b| b.is_ascii_uppercase()) && !passing.contains(&word)
}
