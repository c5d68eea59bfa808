//! From Redis to the shards: all that is ready becomes one run of frames per channel, encoded once.

use std::collections::VecDeque;
use std::future::pending;
use std::sync::Arc;

use bytes::BytesMut;
use tracing::warn;

use super::events::{self, Touches};
use super::feed::{Feed, Heard, Message};
use super::hints::Hints;
use super::interests::Interests;
use crate::counters::Counters;
use crate::hub::{Opcode, Run, encode};
use crate::telemetry::Seldom;
use crate::wire::Channel;

/// Bounds of one batch. They only keep a batch from growing while a flood comes in; the next one follows at once. Places
/// in it have 16 bits.
const BATCH_MESSAGES: usize = 8_192;
const BATCH_BYTES: usize = 1 << 20;

/// Takes messages in, bounded in bytes, and makes runs of them.
#[derive(Debug)]
pub(super) struct Pump {
    /// Messages that were taken in, and their bytes.
    waiting: VecDeque<Message>,
    waiting_bytes: usize,
    /// Messages that were lost since that was last asked for.
    lost: u64,
    /// What came besides messages. Nothing more is read until it is taken: what comes later is of a later time.
    news: Option<News>,
    /// The control channel, and what came from it.
    control: Option<Channel>,
    pub(super) hints: Hints,
    /// Keys to which something has happened.
    pub(super) touches: Touches,
    runs: Vec<Growing>,
    max_pending: (usize, usize),
    counters: Arc<Counters>,
    too_big: Seldom,
}

/// What Redis says besides messages.
#[derive(Debug)]
pub(super) enum News {
    /// The step is over; the fence itself was perhaps refused.
    Fence(Option<String>),
    /// Something was refused.
    Refused(String),
    /// The connection was lost.
    Lost(String),
}

#[derive(Debug)]
struct Growing {
    channel: Channel,
    /// The number of what is known of the channel.
    interest: u32,
    shards: u64,
    frames: BytesMut,
    messages: u32,
}

impl Pump {
    /// `max_pending` are the messages, and their bytes, that may wait.
    pub(super) fn new(
        control: Option<Channel>,
        max_pending: (usize, usize),
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            control,
            hints: Hints::new(counters.clone()),
            touches: Touches::default(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            lost: 0,
            news: None,
            runs: Vec::new(),
            max_pending,
            counters,
            too_big: Seldom::default(),
        }
    }

    /// Waits until there is something to hand on. Safe to cancel.
    pub(super) async fn ready(&mut self, feed: &mut Option<Feed>) {
        if self.is_quiet() && self.news.is_none() {
            self.watch(feed).await;
        }
    }

    /// Tells whether nothing waits to be handed on but news.
    pub(super) fn is_quiet(&self) -> bool {
        self.waiting.is_empty() && self.hints.is_empty() && self.touches.is_empty() && self.lost == 0
    }

    /// Waits for what comes next, and takes in all that has come then. Safe to cancel.
    pub(super) async fn watch(&mut self, feed: &mut Option<Feed>) {
        match feed {
            Some(feed) if self.news.is_none() => match feed.fill().await {
                Ok(()) => self.collect(feed),
                Err(reason) => self.news = Some(News::Lost(reason)),
            },
            _ => pending().await,
        }
    }

    /// Takes in all that has come, up to the next news.
    fn collect(&mut self, feed: &mut Feed) {
        while self.news.is_none() {
            match feed.next() {
                Ok(Some(Heard::Message(message))) => self.keep(message),
                Ok(Some(Heard::Oversize(channel, bytes))) => self.note_too_big(&channel, bytes),
                Ok(Some(Heard::Acknowledged)) => {}
                Ok(Some(Heard::Fence(refusal))) => self.news = Some(News::Fence(refusal)),
                Ok(Some(Heard::Refused(reason))) => self.news = Some(News::Refused(reason)),
                Ok(None) => return,
                Err(reason) => self.news = Some(News::Lost(reason)),
            }
        }
    }

    /// Returns what came besides messages, and takes in what has come behind it.
    pub(super) fn take_news(&mut self, feed: &mut Option<Feed>) -> Option<News> {
        let news = self.news.take();
        if let (Some(News::Fence(_) | News::Refused(_)), Some(feed)) = (&news, feed) {
            self.collect(feed);
        }
        news
    }

    fn keep(&mut self, message: Message) {
        if self.control.as_ref().is_some_and(|control| message.channel() == control.as_str().as_bytes()) {
            return self.hints.keep(message.payload());
        }
        if let Some(channel) = events::about_keys(message.channel()) {
            return self.touches.keep(channel, message.payload());
        }
        self.waiting_bytes += message.payload().len();
        self.waiting.push_back(message);
        let (max_messages, max_bytes) = self.max_pending;
        if self.waiting.len() > max_messages || self.waiting_bytes > max_bytes {
            self.lose();
        }
    }

    fn note_too_big(&mut self, channel: &Channel, bytes: usize) {
        if let Some(unsaid) = self.too_big.due() {
            warn!(
                ?channel,
                bytes,
                unsaid,
                "message from redis too big, it is not delivered (messages.max_delivery_bytes)"
            );
        }
        Counters::count(&self.counters.oversized_deliveries);
    }

    /// Too much waits: it is let go of, and the persisted values make up for it.
    fn lose(&mut self) {
        self.lost += self.waiting.len() as u64;
        self.waiting = VecDeque::new();
        self.waiting_bytes = 0;
    }

    /// Returns how many messages were lost since the last call; they came before all that wait.
    pub(super) fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    fn add(&mut self, message: &Message, interests: &mut Interests) {
        let payload = message.payload();
        // What comes from a subscription that was given up is older than what its next listener reads.
        let interest = interests.find(message.channel()).filter(|(.., interest)| interest.is_asked());
        let Some((number, channel, interest)) = interest.filter(|_| !payload.is_empty()) else { return };
        let opcode = Opcode::of(payload);
        // A place in an older batch is another's by now, or nobody's.
        if self.runs.get(usize::from(interest.place)).is_none_or(|run| run.interest != number) {
            let shards = interest.tickets.iter().fold(0, |shards, (shard, _)| shards | 1 << shard);
            interest.place = u16::try_from(self.runs.len()).expect("a batch has fewer messages");
            let (channel, frames) = (channel.clone(), BytesMut::new());
            self.runs.push(Growing { channel, interest: number, shards, frames, messages: 0 });
        }
        let run = &mut self.runs[usize::from(interest.place)];
        run.messages += 1;
        encode(&mut run.frames, opcode, payload);
    }

    /// Makes a batch of what waits, parted by shard.
    pub(super) fn batch(&mut self, interests: &mut Interests, shards: usize) -> Vec<Vec<(Channel, Run)>> {
        let (mut messages, mut bytes) = (0, 0);
        while messages < BATCH_MESSAGES && bytes < BATCH_BYTES {
            let Some(message) = self.waiting.pop_front() else { break };
            messages += 1;
            bytes += message.payload().len();
            self.add(&message, interests);
        }
        self.waiting_bytes -= bytes;
        let mut parted = vec![Vec::new(); shards];
        for Growing { channel, shards, frames, messages, .. } in self.runs.drain(..) {
            let frames = Run::new(frames.freeze(), messages);
            let mut left = shards;
            while left != 0 {
                let shard = left.trailing_zeros() as usize;
                left &= left - 1;
                if left == 0 {
                    // Mostly there is one shard: only more of them have to count who has it.
                    parted[shard].push((channel, frames));
                    break;
                }
                parted[shard].push((channel.clone(), frames.clone()));
            }
        }
        parted
    }
}
