//! Writes messages as the layers of Django Channels do.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::task::spawn_local;
use tokio_util::task::AbortOnDropHandle;

use super::publish::PageMessage;
use crate::codec::fernet::FernetKeys;
use crate::codec::msgpack;
use crate::redis::{CommandClient, CommandReply, ReplyValue, Target};
use crate::settings::{ChannelLayer, ChannelsDestination, LayerKind};
use crate::wire::layer_host;
use crate::wire::socket_io::push_json_string;

/// Largest reply that is read: members of a group.
const MAX_BYTES: usize = 1 << 20;

/// Most members of a group that get a message.
const LAST_MEMBER: &str = "9999";

/// Defaults of the core layer: messages in a mailbox, their seconds, and those of a membership.
const CAPACITY: i64 = 100;
const EXPIRY_SECONDS: u64 = 60;
const MEMBERSHIP_SECONDS: u64 = 86_400;

/// The connections to the servers of a layer.
pub(super) struct LayerWriter {
    kind: LayerKind,
    prefix: String,
    is_json: bool,
    keys: FernetKeys,
    hosts: Vec<LayerHost>,
    /// Follow the servers of sentinels.
    _discoveries: Vec<AbortOnDropHandle<()>>,
    /// The server of the next message to a channel: the core layer uses them in turn.
    next_host: Cell<usize>,
    /// The score of the last message, in microseconds: the order within a mailbox.
    last_score: Cell<u64>,
}

/// A server of the layer.
struct LayerHost {
    commands: CommandClient,
    /// It was waited for in vain: until it is back, no other message waits for it.
    is_down: Cell<bool>,
}

type Written = Result<(), String>;

impl LayerWriter {
    /// Starts to connect; `None` if TLS cannot be set up, which the broker has reported.
    pub(super) fn new(layer: &ChannelLayer) -> Option<Self> {
        let targets: Vec<_> = layer.hosts.iter().map(Target::new).collect::<Result<_, _>>().ok()?;
        let connect = |target: &Target| LayerHost {
            commands: CommandClient::new(target, target.command_timeout(), MAX_BYTES),
            is_down: Cell::default(),
        };
        Some(Self {
            kind: layer.kind,
            prefix: layer.prefix.clone(),
            is_json: layer.is_json,
            keys: FernetKeys::new(&layer.encryption_keys),
            hosts: targets.iter().map(connect).collect(),
            _discoveries: targets
                .into_iter()
                .map(|target| AbortOnDropHandle::new(spawn_local(target.follow())))
                .collect(),
            next_host: Cell::default(),
            last_score: Cell::default(),
        })
    }

    /// Writes messages in order.
    ///
    /// # Errors
    ///
    /// With the number of those that were not written, and the reason of the last one.
    pub(super) async fn write(&self, messages: &[PageMessage]) -> Result<(), (u64, String)> {
        let mut failed = (0, String::new());
        for message in messages {
            let written = match (self.kind, &message.to) {
                (LayerKind::PubSub, to) => self.publish(message, to).await,
                (LayerKind::Core, ChannelsDestination::Channel(name)) => self.to_channel(message, name).await,
                (LayerKind::Core, ChannelsDestination::Group(name)) => self.to_group(message, name).await,
            };
            if let Err(reason) = written {
                failed = (failed.0 + 1, reason);
            }
        }
        if failed.0 == 0 { Ok(()) } else { Err(failed) }
    }

    /// Publishes as the pubsub layer does. A channel has no prefix there.
    async fn publish(&self, message: &PageMessage, to: &ChannelsDestination) -> Written {
        let channel = match to {
            ChannelsDestination::Channel(name) => name.clone(),
            ChannelsDestination::Group(name) => format!("{}__group__{name}", self.prefix),
        };
        let host = &self.hosts[layer_host(&channel, self.hosts.len())];
        let body = self.body(message, &[]);
        self.call(host, "PUBLISH", &[channel.as_bytes(), &body]).await.map(drop)
    }

    /// Puts a message into the mailbox of a channel that workers read.
    async fn to_channel(&self, message: &PageMessage, name: &str) -> Written {
        let host = self.next_host.get();
        self.next_host.set((host + 1) % self.hosts.len());
        self.put(&self.hosts[host], &[&self.prefix, name].concat(), &self.body(message, &[])).await
    }

    /// Puts a message into the mailboxes of a group's members.
    async fn to_group(&self, message: &PageMessage, name: &str) -> Written {
        let key = format!("{}:group:{name}", self.prefix);
        let host = &self.hosts[layer_host(name, self.hosts.len())];
        let old = now_seconds().saturating_sub(MEMBERSHIP_SECONDS).to_string();
        self.call(host, "ZREMRANGEBYSCORE", &[key.as_bytes(), b"0", old.as_bytes()]).await?;
        let members = self.call(host, "ZRANGE", &[key.as_bytes(), b"0", LAST_MEMBER.as_bytes()]).await?;
        let CommandReply::Other(members) = members else { return Ok(()) };
        let mut mailboxes = BTreeMap::<&str, Vec<&str>>::new();
        for member in members.list().iter().filter_map(ReplyValue::text) {
            let mailbox = member.find('!').map_or(member, |at| &member[..=at]);
            mailboxes.entry(mailbox).or_default().push(member);
        }
        let mut outcome = Ok(());
        for (mailbox, receivers) in mailboxes {
            let host = &self.hosts[layer_host(mailbox, self.hosts.len())];
            let body = self.body(message, &receivers);
            let put = self.put(host, &[&self.prefix, mailbox].concat(), &body).await;
            // The other members get it.
            outcome = outcome.and(put);
        }
        outcome
    }

    /// Puts a message into a mailbox, unless it is full.
    async fn put(&self, host: &LayerHost, key: &str, body: &[u8]) -> Written {
        let old = now_seconds().saturating_sub(EXPIRY_SECONDS).to_string();
        self.call(host, "ZREMRANGEBYSCORE", &[key.as_bytes(), b"0", old.as_bytes()]).await?;
        let held = self.call(host, "ZCOUNT", &[key.as_bytes(), b"-inf", b"+inf"]).await?;
        if matches!(held, CommandReply::Integer(CAPACITY..)) {
            return Err(format!("a mailbox is full: it has {CAPACITY} messages that Django has not read"));
        }
        // Behind random bytes, equal messages are different members.
        let member = [&rand::random::<[u8; 12]>()[..], body].concat();
        let score = self.next_score();
        let score = format!("{}.{:06}", score / 1_000_000, score % 1_000_000);
        self.call(host, "ZADD", &[key.as_bytes(), score.as_bytes(), &member]).await?;
        let seconds = EXPIRY_SECONDS.to_string();
        self.call(host, "EXPIRE", &[key.as_bytes(), seconds.as_bytes()]).await.map(drop)
    }

    /// Returns the time in microseconds, later than the last one: messages of one page stay in order.
    fn next_score(&self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
        let score = now.max(self.last_score.get() + 1);
        self.last_score.set(score);
        score
    }

    async fn call(
        &self,
        LayerHost { commands, is_down }: &LayerHost,
        name: &'static str,
        arguments: &[&[u8]],
    ) -> Result<CommandReply, String> {
        let is_up = if is_down.get() { commands.is_up() } else { commands.wait_briefly_until_up().await };
        is_down.set(!is_up);
        if !is_up {
            return Err("redis cannot be reached".to_owned());
        }
        commands.call(name, arguments).await.map_err(|(reason, _)| reason)
    }

    /// Encodes and encrypts a message.
    fn body(&self, message: &PageMessage, receivers: &[&str]) -> Vec<u8> {
        let members = [
            ("type", Some(message.kind.as_str())),
            ("text", Some(message.text.as_str())),
            ("user", message.user.as_deref()),
            ("session", message.session.as_deref()),
            ("facility", Some(&*message.facility)),
        ];
        let body = if self.is_json { json(&members, receivers) } else { packed(&members, receivers) };
        self.keys.encrypt(&body, now_seconds(), rand::random())
    }
}

const RECEIVERS: &str = "__asgi_channel__";

fn packed(members: &[(&str, Option<&str>)], receivers: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    msgpack::push_map(&mut out, members.len() + usize::from(!receivers.is_empty()));
    for (name, value) in members {
        msgpack::push_text(&mut out, name);
        match value {
            Some(value) => msgpack::push_text(&mut out, value),
            None => msgpack::push_nil(&mut out),
        }
    }
    if !receivers.is_empty() {
        msgpack::push_text(&mut out, RECEIVERS);
        msgpack::push_list(&mut out, receivers.len());
        for receiver in receivers {
            msgpack::push_text(&mut out, receiver);
        }
    }
    out
}

fn json(members: &[(&str, Option<&str>)], receivers: &[&str]) -> Vec<u8> {
    let mut out = String::new();
    for (name, value) in members {
        out.push(if out.is_empty() { '{' } else { ',' });
        push_json_string(&mut out, name);
        out.push(':');
        match value {
            Some(value) => push_json_string(&mut out, value),
            None => out.push_str("null"),
        }
    }
    if !receivers.is_empty() {
        out.push_str(",\"__asgi_channel__\":");
        for (index, receiver) in receivers.iter().enumerate() {
            out.push(if index == 0 { '[' } else { ',' });
            push_json_string(&mut out, receiver);
        }
        out.push(']');
    }
    out.push('}');
    out.into_bytes()
}

fn now_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}
