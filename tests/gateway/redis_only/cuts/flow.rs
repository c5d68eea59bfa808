//! Publishers that write to many channels at once, and the list of what they have published.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::time::Instant;

use crate::support::RedisServer;
use crate::support::random::SeededRandom;
use crate::support::redis::{RedisClient, RedisReply, encode};

/// The script of the publishers, as Django's `RedisPublisher` calls it.
const PUBLISH: &str = include_str!("../../../../src/redis/history.lua");

/// A channel, as `user:u1:f-1`.
pub type Channel = String;

/// The messages of each channel in the order of publication, each not before its time.
pub type Published = HashMap<Channel, Vec<(String, Instant)>>;

/// Publishers, each with a thread.
pub struct Flow {
    publishers: Vec<JoinHandle<()>>,
    shared: Arc<FlowState>,
    seed: u64,
}

struct FlowState {
    port: u16,
    namespace: String,
    channels: Vec<Channel>,
    /// Messages of a history; none: messages are only published.
    history: Option<usize>,
    begun: Instant,
    /// Messages that have not been published.
    remaining: AtomicUsize,
    /// Held while a batch is published.
    publishing: RwLock<()>,
    /// Longest time between two batches of a publisher, in milliseconds.
    pause: usize,
}

impl Flow {
    /// Returns publishers of this number of messages, which do not publish before [`Self::start`].
    pub fn new(
        redis: &RedisServer,
        (namespace, channels): (&str, &[Channel]),
        (messages, pause): (usize, usize),
        history: Option<usize>,
        seed: u64,
    ) -> Self {
        let shared = Arc::new(FlowState {
            port: redis.port(),
            namespace: namespace.to_owned(),
            channels: channels.to_vec(),
            history,
            begun: Instant::now(),
            remaining: AtomicUsize::new(messages),
            publishing: RwLock::default(),
            pause,
        });
        Self { publishers: Vec::new(), shared, seed }
    }

    /// Starts to publish.
    pub fn start(&mut self) {
        let publishers = (0..4).map(|number| {
            let (state, seed) = (self.shared.clone(), self.seed);
            thread::spawn(move || state.publish_all(number, SeededRandom::new(seed, 1_000 + number)))
        });
        self.publishers = publishers.collect();
    }

    /// Returns whether all messages are published.
    pub fn has_ended(&self) -> bool {
        self.publishers.iter().all(JoinHandle::is_finished)
    }

    /// Does something while nothing is published.
    pub fn pause<T>(&self, action: impl FnOnce() -> T) -> T {
        let _paused = self.shared.publishing.write().unwrap();
        action()
    }

    /// Returns what was published since Redis was started without data.
    pub fn published(&self, redis: &RedisServer) -> Published {
        let lists = self.shared.channels.iter().map(|channel| {
            let list = redis.command(&["LRANGE", &format!("published:{channel}"), "0", "-1"]);
            let RedisReply::Array(texts) = list else { panic!("no list: {list:?}") };
            let texts = texts.into_iter().map(|text| {
                let text = String::from_utf8(text.bulk().unwrap()).unwrap();
                let (text, time) = text.split_once(' ').unwrap();
                (text.to_owned(), self.shared.begun + Duration::from_micros(time.parse().unwrap()))
            });
            (channel.clone(), texts.collect())
        });
        lists.collect()
    }

    /// Publishes a text in each channel.
    pub fn publish_everywhere(&self, redis: &RedisServer, text: &str) {
        let mut commands = Vec::new();
        for channel in &self.shared.channels {
            self.shared.encode_publication(&mut commands, channel, text);
        }
        let replies = redis.connection().try_pipeline(&commands, self.shared.channels.len()).unwrap();
        assert!(!replies.iter().any(is_error), "{replies:?}");
    }
}

impl FlowState {
    fn publish_all(&self, number: u64, mut random: SeededRandom) {
        let mut connection = None;
        let mut serial = 0;
        loop {
            let wanted = if random.percent(3) { 20 + random.below(80) } else { 1 + random.below(3) };
            let taken = self.remaining.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                (left > 0).then(|| left.saturating_sub(wanted))
            });
            let Ok(left) = taken else { return };
            let count = wanted.min(left);
            let mut commands = Vec::new();
            for _ in 0..count {
                serial += 1;
                self.encode_transaction(&mut commands, &format!("{number}-{serial}"), &mut random);
            }
            let paused = self.publishing.read().unwrap();
            if connection.is_none() {
                connection = RedisClient::open(self.port).ok();
            }
            let replies =
                connection.as_mut().and_then(|client| client.try_pipeline(&commands, 4 * count).ok());
            drop(paused);
            let is_done =
                replies.as_ref().is_some_and(|replies| replies.iter().all(|reply| !is_error(reply)));
            if !is_done {
                // Those that were published nevertheless are in the list, too; the next ones have other numbers.
                self.remaining.fetch_add(count, Ordering::Relaxed);
                connection = None;
                thread::sleep(Duration::from_millis(20));
            }
            thread::sleep(random.millis(self.pause));
        }
    }

    /// A message and its entry in the list come together, or neither.
    fn encode_transaction(&self, commands: &mut Vec<u8>, text: &str, random: &mut SeededRandom) {
        let channel = &self.channels[random.below(self.channels.len())];
        let padding = if random.percent(2) { 4_000 } else { random.below(100) };
        encode(commands, &["MULTI"]);
        self.encode_publication(commands, channel, &format!("{text} {}", "x".repeat(padding)));
        let entry = format!("{text} {}", self.begun.elapsed().as_micros());
        encode(commands, &["RPUSH", &format!("published:{channel}"), &entry]);
        encode(commands, &["EXEC"]);
    }

    fn encode_publication(&self, commands: &mut Vec<u8>, channel: &str, text: &str) {
        let plain = format!("{}:{channel}", self.namespace);
        let Some(messages) = self.history else { return encode(commands, &["PUBLISH", &plain, text]) };
        let stream = format!("{}:ws4redis:history:{channel}", self.namespace);
        let live = format!("{}:ws4redis:live:{channel}", self.namespace);
        let messages = messages.to_string();
        encode(commands, &["EVAL", PUBLISH, "2", &stream, &plain, &messages, "3600", "0", text, &live]);
    }
}

fn is_error(reply: &RedisReply) -> bool {
    match reply {
        RedisReply::Error(_) | RedisReply::Bulk(None) => true,
        RedisReply::Array(replies) => replies.iter().any(is_error),
        _ => false,
    }
}
