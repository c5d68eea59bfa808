//! The core layer: the process is a member of each group that somebody hears, with mailboxes of its own.
//!
//! A member is named `gw.<hex>!<group>`. Channels takes the part up to the exclamation mark for the mailbox, and sends the names
//! of the receivers with each message, so the group comes back with it. A mailbox holds 100 messages unless Django's settings
//! say otherwise; several of them hold more, because a group is in one of them by its hash.

use std::collections::{HashMap, HashSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use foldhash::fast::RandomState;
use tokio::sync::mpsc;
use tokio::task::{JoinSet, spawn_local};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tracing::{debug, error, info, warn};

use super::deliveries::{GroupDeliveries, GroupsEvent};
use super::mailboxes::{MAX_WAITING, MailboxEvent, PAUSE, drain, mailbox_on};
use super::wanted::GroupWant;
use crate::broker::event::Call;
use crate::hub::SubscriptionRequest;
use crate::metrics::Counters;
use crate::redis::{CommandClient, CommandFailure, CommandReply, MailboxContent, Target, TargetError};
use crate::settings::{ChannelLayer, RedisSettings, Settings};
use crate::telemetry::LogThrottle;
use crate::wire::{crc32, layer_host};

/// Mailboxes of a process.
const MAILBOXES: usize = 16;

/// Seconds after which Channels drops the messages of a mailbox, by default, and those after which they are nearly as old.
const EXPIRY_SECONDS: f64 = 60.0;
const NEARLY_EXPIRED: f64 = 54.0;

/// Seconds for which a membership is valid, as Channels assumes by default.
const MEMBERSHIP_SECONDS: &str = "86400";

/// Shortest time between two renewals, which find out that Redis has lost a membership, and groups that are renewed per second
/// in the long run.
const RENEWAL: Duration = Duration::from_secs(5);
const RENEWED_PER_SECOND: u32 = 200;

/// Largest reply to a command: they are numbers.
const MAX_REPLY: usize = 1 << 10;

/// Groups that are joined with one pipeline.
const MAX_JOINED: usize = 500;

/// Time before a group that Redis has refused is joined again.
const REFUSED_PAUSE: Duration = Duration::from_secs(30);

/// The process as a member of groups.
pub(super) struct CoreLayer {
    hosts: Vec<CoreHost>,
    /// The names of the mailboxes, up to and including the exclamation mark.
    mailboxes: Vec<String>,
    prefix: String,
    /// Messages that Django leaves in a mailbox.
    capacity: usize,
    deliveries: GroupDeliveries,
    groups: HashMap<Box<str>, GroupMembership, RandomState>,
    /// Groups that nobody hears any more, oldest first.
    idle: VecDeque<(Instant, Box<str>)>,
    linger: Duration,
    /// Groups that Redis has refused, with the time of the next attempt.
    refusals: VecDeque<(Instant, Box<str>)>,
    joins: JoinSet<JoinOutcome>,
    counters: Arc<Counters>,
    refused: LogThrottle,
    full: LogThrottle,
    expired: LogThrottle,
}

/// A server of the layer.
struct CoreHost {
    target: Target,
    commands: Rc<CommandClient>,
    /// Groups to be joined.
    due: HashSet<Box<str>, RandomState>,
    is_joining: bool,
    /// The connection to its mailboxes was lost and is not open again.
    is_lost: bool,
}

/// The process in a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct GroupMembership {
    is_joined: bool,
}

struct JoinOutcome {
    host: usize,
    /// Whether the process was no member before, or why it is none.
    groups: Vec<(Box<str>, Result<bool, CommandFailure>)>,
}

impl CoreLayer {
    /// Must be called on a local task set.
    pub(super) fn new(
        layer: &ChannelLayer,
        settings: &Settings,
        deliveries: GroupDeliveries,
        counters: &Arc<Counters>,
    ) -> Result<Self, TargetError> {
        let host = |redis: &RedisSettings| {
            let target = Target::new(redis)?;
            Ok(CoreHost {
                commands: Rc::new(CommandClient::new(&target, redis.command_timeout, MAX_REPLY)),
                target,
                due: HashSet::default(),
                is_joining: false,
                is_lost: false,
            })
        };
        let hosts: Vec<_> = layer.hosts.iter().map(host).collect::<Result<_, TargetError>>()?;
        let mailboxes = (0..MAILBOXES).map(|number| mailbox_on(number % hosts.len(), hosts.len())).collect();
        Ok(Self {
            hosts,
            mailboxes,
            prefix: layer.prefix.clone(),
            capacity: layer.capacity,
            deliveries,
            groups: HashMap::default(),
            idle: VecDeque::new(),
            linger: settings.redis.unsubscribe_linger,
            refusals: VecDeque::new(),
            joins: JoinSet::new(),
            counters: counters.clone(),
            refused: LogThrottle::default(),
            full: LogThrottle::default(),
            expired: LogThrottle::default(),
        })
    }

    /// Serves the shards until all of them have ended, then leaves all groups.
    pub(super) async fn run(mut self, max_bytes: usize, mut calls: mpsc::Receiver<Call>) {
        let (sender, mut events) = mpsc::channel(MAX_WAITING);
        let mut readers = JoinSet::new();
        for (number, host) in self.hosts.iter().enumerate() {
            let own = (0..self.mailboxes.len()).filter(|mailbox| mailbox % self.hosts.len() == number);
            let (own, target) = (own.collect(), host.target.clone());
            readers.spawn_local(drain(target, number, own, self.keys(), max_bytes, sender.clone()));
        }
        let mut ticks = interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut renewal = Instant::now() + RENEWAL;
        loop {
            self.join_due();
            tokio::select! {
                call = calls.recv() => match call {
                    Some((shard, requests)) => self.apply_requests(shard, requests).await,
                    None => break,
                },
                Some(event) = events.recv() => self.on_event(event).await,
                Some(outcome) = self.joins.join_next() => {
                    if let Ok(outcome) = outcome {
                        self.on_joined(outcome).await;
                    }
                }
                now = ticks.tick() => {
                    self.leave_idle(now);
                    self.retry_refused(now);
                    if now >= renewal {
                        renewal = now + self.renew();
                    }
                }
            }
        }
        drop(readers);
        self.leave_all().await;
    }

    fn keys(&self) -> Vec<String> {
        self.mailboxes.iter().map(|name| [&self.prefix, name.as_str()].concat()).collect()
    }

    fn host_of(&self, group: &str) -> usize {
        layer_host(group, self.hosts.len())
    }

    fn member(&self, group: &str) -> String {
        let mailbox = crc32(group.as_bytes()) as usize % self.mailboxes.len();
        [self.mailboxes[mailbox].as_str(), group].concat()
    }

    fn key(&self, group: &str) -> String {
        format!("{}:group:{group}", self.prefix)
    }

    async fn apply_requests(&mut self, shard: usize, requests: Vec<SubscriptionRequest>) {
        let mut confirmed = Vec::new();
        for request in requests {
            match request {
                SubscriptionRequest::Subscribe(topic, generation) => {
                    let Some(group) = topic.group_name() else { continue };
                    self.deliveries.wanted.add(group, GroupWant { topic: topic.clone(), shard, generation });
                    let host = self.host_of(group);
                    let is_joined = self.groups.get(group).is_some_and(|group| group.is_joined);
                    if is_joined {
                        confirmed.push((topic.clone(), generation));
                        continue;
                    }
                    self.groups.insert(group.into(), GroupMembership { is_joined: false });
                    self.hosts[host].due.insert(group.into());
                    if self.hosts[host].is_lost {
                        self.deliveries.send(shard, GroupsEvent::Refused(topic.clone(), generation)).await;
                    }
                }
                SubscriptionRequest::Unsubscribe(topic) => {
                    let Some(group) = topic.group_name() else { continue };
                    if self.deliveries.wanted.remove(group, &topic, shard) {
                        self.idle.push_back((Instant::now(), group.into()));
                    }
                }
            }
        }
        if !confirmed.is_empty() {
            self.deliveries.send(shard, GroupsEvent::Subscribed(confirmed)).await;
        }
    }

    /// Joins the groups that are due, with one pipeline per server at a time.
    fn join_due(&mut self) {
        for (number, host) in self.hosts.iter_mut().enumerate() {
            if host.is_joining || host.due.is_empty() {
                continue;
            }
            let groups: Vec<Box<str>> = host.due.iter().take(MAX_JOINED).cloned().collect();
            for group in &groups {
                host.due.remove(group);
            }
            host.is_joining = true;
            let commands = host.commands.clone();
            let members: Vec<_> = groups
                .into_iter()
                .map(|group| {
                    let mailbox = crc32(group.as_bytes()) as usize % self.mailboxes.len();
                    let member = [self.mailboxes[mailbox].as_str(), &group].concat();
                    (format!("{}:group:{group}", self.prefix), member, group)
                })
                .collect();
            self.joins.spawn_local(join(number, commands, members));
        }
    }

    async fn on_joined(&mut self, outcome: JoinOutcome) {
        let JoinOutcome { host, groups } = outcome;
        self.hosts[host].is_joining = false;
        let (mut confirmed, mut missed) = (Vec::new(), Vec::new());
        for (group, result) in groups {
            let Some(membership) = self.groups.get_mut(&group) else { continue };
            match result {
                Ok(is_new) => {
                    membership.is_joined = true;
                    // Nobody else hears it yet, or Redis has lost the membership.
                    missed.extend(is_new.then(|| group.clone()));
                    confirmed.push(group);
                }
                Err(CommandFailure::Lost) => {
                    self.hosts[host].due.insert(group);
                }
                Err(CommandFailure::Refused(reason)) => {
                    if let Some(suppressed) = self.refused.allow() {
                        error!(redis = self.hosts[host].target.name(), %group, error = %reason, suppressed, "redis refuses to join a Channels group, or to renew that; new clients of a group that is not joined get 503; retrying every 30 s. Allow the user of channels.hosts +zadd +expire +zrem +del +zcard +zpopmin +bzpopmin and the keys {}*", self.prefix);
                    }
                    // Redis has the membership until it expires, and renewals go on.
                    if membership.is_joined {
                        continue;
                    }
                    self.deliveries.refuse(&group).await;
                    self.refusals.push_back((Instant::now() + REFUSED_PAUSE, group));
                }
            }
        }
        self.deliveries.miss(missed).await;
        self.deliveries.confirm(confirmed).await;
    }

    async fn on_event(&mut self, event: MailboxEvent) {
        match event {
            MailboxEvent::Opened(host) => {
                info!(redis = self.hosts[host].target.name(), "redis connected for Channels groups");
                self.hosts[host].is_lost = false;
                // After a restart Redis may have lost the memberships.
                self.queue_all(host);
            }
            MailboxEvent::Lost(host, reason) => self.on_lost(host, &reason).await,
            MailboxEvent::Content(number, content) => {
                let is_full = self.take(number, &content);
                self.deliveries.flush().await;
                if is_full {
                    let mailboxes = self.mailboxes.len();
                    let is_in = |group: &&str| crc32(group.as_bytes()) as usize % mailboxes == number;
                    self.deliveries.miss(self.groups.keys().map(|group| &**group).filter(is_in)).await;
                }
            }
        }
    }

    async fn on_lost(&mut self, host: usize, reason: &str) {
        if std::mem::replace(&mut self.hosts[host].is_lost, true) {
            return debug!(redis = self.hosts[host].target.name(), error = %reason, "redis cannot be reached");
        }
        warn!(redis = self.hosts[host].target.name(), error = %reason, "redis lost for Channels groups; clients stay connected, new ones of these groups get 503 until it is back");
        Counters::count(&self.counters.redis_losses);
        self.deliveries.on_lost().await;
        let hosts = self.hosts.len();
        let mut others = Vec::new();
        for (group, membership) in &mut self.groups {
            if layer_host(group, hosts) == host {
                membership.is_joined = false;
            } else if membership.is_joined {
                others.push(group.clone());
            }
        }
        self.deliveries.confirm(others).await;
    }

    /// Encodes what a mailbox had. Returns whether it was full, so that Django may have dropped messages.
    fn take(&mut self, number: usize, content: &MailboxContent) -> bool {
        // Above, Django leaves more than the setting says.
        let is_nearly_full =
            content.held * 10 >= self.capacity * 9 && content.held <= self.capacity && content.held > 1;
        if is_nearly_full && let Some(suppressed) = self.full.allow() {
            warn!(
                held = content.held,
                capacity = self.capacity,
                suppressed,
                "a mailbox of a Channels group was nearly full; Django drops messages above its capacity. Raise it for the gateway in CHANNEL_LAYERS, \"channel_capacity\": {{\"gw.*\": 10000}}, and set channels.capacity to it"
            );
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let waited = content.sent_at.map_or(0.0, |sent_at| now - sent_at);
        if waited >= NEARLY_EXPIRED
            && let Some(suppressed) = self.expired.allow()
        {
            warn!(
                waited_seconds = waited.round(),
                suppressed,
                "messages of Channels groups waited long in a mailbox; Django drops them after {EXPIRY_SECONDS} s, so some may be lost. Check the load of the gateway, its connection to channels.hosts, and the clocks of both"
            );
        }
        for bytes in &content.oversize {
            self.deliveries.note_oversize("", *bytes);
        }
        for stored in &content.members {
            self.deliveries.add_received(&self.mailboxes[number], stored);
        }
        // One member may have been taken before the others were counted.
        is_nearly_full && content.held + 1 >= self.capacity
    }

    fn retry_refused(&mut self, now: Instant) {
        while let Some((_, group)) = self.refusals.pop_front_if(|(due, _)| *due <= now) {
            if self.groups.contains_key(&group) {
                let host = self.host_of(&group);
                self.hosts[host].due.insert(group);
            }
        }
    }

    /// Renews all memberships. Returns the time until the next renewal.
    fn renew(&mut self) -> Duration {
        let hosts = self.hosts.len();
        for (group, _) in self.groups.iter().filter(|(_, membership)| membership.is_joined) {
            self.hosts[layer_host(group, hosts)].due.insert(group.clone());
        }
        let groups = u32::try_from(self.groups.len()).unwrap_or(u32::MAX);
        RENEWAL.max(Duration::from_secs((groups / RENEWED_PER_SECOND).into()))
    }

    fn queue_all(&mut self, host: usize) {
        let hosts = self.hosts.len();
        let own = self.groups.keys().filter(|group| layer_host(group, hosts) == host).cloned();
        self.hosts[host].due.extend(own);
    }

    /// Leaves the groups that nobody has heard for a while: a page that is loaded again causes no command.
    fn leave_idle(&mut self, now: Instant) {
        while let Some((_, group)) = self.idle.pop_front_if(|(since, _)| *since + self.linger <= now) {
            if !self.deliveries.wanted.of(&group).is_empty() || self.groups.remove(&group).is_none() {
                continue;
            }
            let (key, member) = (self.key(&group), self.member(&group));
            let host = self.host_of(&group);
            self.hosts[host].due.remove(&group);
            let commands = self.hosts[host].commands.clone();
            // A membership that stays costs the publishers one mailbox.
            spawn_local(async move {
                let _ = commands.call("ZREM", &[key.as_bytes(), member.as_bytes()]).await;
            });
        }
    }

    /// Leaves all groups and deletes the mailboxes.
    async fn leave_all(&mut self) {
        let keys = self.keys();
        for (number, host) in self.hosts.iter().enumerate().filter(|(_, host)| host.commands.is_up()) {
            let mut batch = host.commands.batch();
            for group in self.groups.keys().filter(|group| self.host_of(group) == number) {
                batch.add("ZREM", &[self.key(group).as_bytes(), self.member(group).as_bytes()]);
            }
            for (_, key) in
                keys.iter().enumerate().filter(|(mailbox, _)| mailbox % self.hosts.len() == number)
            {
                batch.add("DEL", &[key.as_bytes()]);
            }
            let _ = timeout(PAUSE, host.commands.send(batch)).await;
        }
    }
}

/// Joins groups: keys, members, and names.
async fn join(
    host: usize,
    commands: Rc<CommandClient>,
    members: Vec<(String, String, Box<str>)>,
) -> JoinOutcome {
    commands.until_up().await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let score = format!("{}.{:06}", now.as_secs(), now.subsec_micros());
    let mut batch = commands.batch();
    for (key, member, _) in &members {
        batch.add("ZADD", &[key.as_bytes(), score.as_bytes(), member.as_bytes()]);
        batch.add("EXPIRE", &[key.as_bytes(), MEMBERSHIP_SECONDS.as_bytes()]);
    }
    let replies = commands.send(batch).await;
    let mut groups = Vec::with_capacity(members.len());
    for (index, (.., group)) in members.into_iter().enumerate() {
        let outcomes = replies.get(2 * index..2 * index + 2).unwrap_or_default();
        let failure = outcomes.iter().find_map(|outcome| outcome.as_ref().err().cloned());
        let failure = failure.or_else(|| outcomes.is_empty().then_some(CommandFailure::Lost));
        let is_new = matches!(outcomes.first(), Some(Ok(CommandReply::Integer(1))));
        groups.push((group, failure.map_or(Ok(is_new), Err)));
    }
    if groups.iter().any(|(_, result)| *result == Err(CommandFailure::Lost)) {
        sleep(PAUSE).await;
    }
    JoinOutcome { host, groups }
}
