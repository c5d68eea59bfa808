//! The settings as written, and the check of each section.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use serde::Deserialize;

use super::admin::RawAdmin;
use super::auth::RawAuth;
use super::channels::RawChannels;
use super::client_heartbeats;
use super::error::SettingsError;
use super::events::RawEvents;
use super::fields::{invalid, list, require, seconds};
use super::history::RawHistoryRule;
use super::presence::RawPresenceRule;
use super::redis_url::RedisUrl;
use super::sections::{
    EmbeddedSettings, EmbeddedStart, Listen, MessageSettings, PingSettings, RedisSettings, ServerSettings,
    TlsSettings,
};
use super::socket_io::RawSocketIo;
use super::visitors::{RawRule, RawSession};
use crate::access::Proxies;
use crate::embedded::StoreLimits;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    pub(super) websocket_url: String,
    pub(super) expire: i64,
    pub(super) prefix: String,
    pub(super) heartbeat: String,
    pub(super) facility_colons: bool,
    pub(super) anonymous_publish: bool,
    pub(super) server: RawServer,
    pub(super) redis: RawRedis,
    pub(super) messages: RawMessages,
    pub(super) ping: RawPing,
    pub(super) session: RawSession,
    pub(super) auth: RawAuth,
    pub(super) origin: RawOrigin,
    pub(super) admin: RawAdmin,
    pub(super) log: RawLog,
    pub(super) demo: RawDemo,
    pub(super) socketio: RawSocketIo,
    pub(super) events: RawEvents,
    pub(super) channels: RawChannels,
    pub(super) embedded: RawEmbedded,
    /// The site's rules; none by default.
    #[serde(default)]
    pub(super) access: Vec<RawRule>,
    /// The facilities whose visitors are kept in Redis; none by default.
    #[serde(default)]
    pub(super) presence: Vec<RawPresenceRule>,
    /// The facilities whose messages are kept in streams; none by default.
    #[serde(default)]
    pub(super) history: Vec<RawHistoryRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawServer {
    listen: String,
    unix_mode: String,
    #[serde(deserialize_with = "list")]
    trusted_proxies: Vec<String>,
    pub(super) websocket_url_stripped: bool,
    shards: usize,
    max_connections: usize,
    handshake_seconds: u32,
    keepalive_seconds: u32,
    max_header_bytes: usize,
    max_headers: usize,
    drain_seconds: u32,
    linger_seconds: u32,
    send_buffer_bytes: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRedis {
    url: String,
    ca_file: String,
    client_cert_file: String,
    client_key_file: String,
    verify_certificate: bool,
    connect_timeout_seconds: u32,
    command_timeout_seconds: u32,
    publish_wait_seconds: u32,
    unsubscribe_linger_seconds: u32,
    receiver_messages: usize,
    max_pending_bytes: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawMessages {
    max_message_bytes: usize,
    max_delivery_bytes: usize,
    outbox_bytes: usize,
    outbox_seconds: u32,
    outbox_hard_bytes: usize,
    outbox_total_bytes: usize,
    when_slow: String,
    publish_bytes: usize,
    unfinished_total_bytes: usize,
    message_seconds: u32,
    max_facilities: usize,
    #[serde(deserialize_with = "list")]
    client_heartbeats: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPing {
    interval_seconds: u32,
    timeout_seconds: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawOrigin {
    #[serde(deserialize_with = "list")]
    pub(super) allowed: Vec<String>,
    #[serde(deserialize_with = "list")]
    pub(super) allowed_hosts: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLog {
    pub(super) filter: String,
    pub(super) format: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDemo {
    pub(super) enabled: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawEmbedded {
    enabled: String,
    snapshot_file: String,
    max_memory_bytes: usize,
    max_clients: usize,
    max_output_bytes: usize,
}

impl RawServer {
    pub(super) fn check(self) -> Result<ServerSettings, SettingsError> {
        let mode = u32::from_str_radix(&self.unix_mode, 8).ok().filter(|mode| *mode <= 0o777);
        let mode = mode
            .ok_or_else(|| invalid("server.unix_mode", "expected permissions in octal, for example 0660"))?;
        let listen = Listen::parse(self.listen, mode).ok_or_else(|| {
            invalid("server.listen", "expected host:port or unix:/path, for example 127.0.0.1:8000")
        })?;
        let trusted_proxies = Proxies::new(&self.trusted_proxies).map_err(|entry| SettingsError::Invalid {
            key: "server.trusted_proxies",
            problem: format!(
                "{entry:?} is neither an address, nor a network like 10.0.0.0/8 with nothing behind its prefix, nor unix"
            ),
        })?;
        Ok(ServerSettings {
            listen,
            trusted_proxies,
            shards: if self.shards == 0 { cores().min(64) } else { self.shards },
            max_connections: self.max_connections,
            handshake: seconds(self.handshake_seconds),
            keepalive: seconds(self.keepalive_seconds),
            max_header_bytes: self.max_header_bytes,
            max_headers: self.max_headers,
            drain: seconds(self.drain_seconds),
            linger_seconds: self.linger_seconds,
            send_buffer_bytes: self.send_buffer_bytes,
        })
    }
}

impl RawRedis {
    pub(super) fn check(self) -> Result<RedisSettings, SettingsError> {
        let path = |text: &str| Some(PathBuf::from(text)).filter(|path| !path.as_os_str().is_empty());
        let client = match (path(&self.client_cert_file), path(&self.client_key_file)) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            (Some(_), None) => {
                return Err(invalid("redis.client_key_file", "is empty, and redis.client_cert_file is not"));
            }
            (None, Some(_)) => {
                return Err(invalid("redis.client_cert_file", "is empty, and redis.client_key_file is not"));
            }
        };
        let tls = TlsSettings { ca_file: path(&self.ca_file), client, verify: self.verify_certificate };
        Ok(RedisSettings {
            tls,
            url: RedisUrl::written(&self.url, "redis.url")?,
            connect_timeout: seconds(self.connect_timeout_seconds),
            command_timeout: seconds(self.command_timeout_seconds),
            publish_wait: seconds(self.publish_wait_seconds),
            unsubscribe_linger: seconds(self.unsubscribe_linger_seconds),
            receiver_messages: self.receiver_messages,
            max_pending_bytes: self.max_pending_bytes,
        })
    }
}

impl RawMessages {
    pub(super) fn check(self) -> Result<MessageSettings, SettingsError> {
        require(
            self.outbox_hard_bytes >= self.outbox_bytes,
            "messages.outbox_hard_bytes",
            "must not be less than messages.outbox_bytes",
        )?;
        let drop_oldest = match self.when_slow.as_str() {
            "close" => false,
            "drop-oldest" => true,
            _ => return Err(invalid("messages.when_slow", "expected close or drop-oldest")),
        };
        Ok(MessageSettings {
            max_message_bytes: self.max_message_bytes,
            max_delivery_bytes: self.max_delivery_bytes,
            outbox_bytes: self.outbox_bytes,
            outbox_seconds: self.outbox_seconds,
            outbox_hard_bytes: self.outbox_hard_bytes,
            outbox_total_bytes: self.outbox_total_bytes,
            drop_oldest,
            publish_bytes: self.publish_bytes,
            // One message must always fit.
            unfinished_total_bytes: self.unfinished_total_bytes.max(self.max_message_bytes),
            message_seconds: self.message_seconds,
            max_facilities: self.max_facilities,
            client_heartbeats: client_heartbeats::parse(&self.client_heartbeats)?,
        })
    }
}

impl RawPing {
    pub(super) fn check(self) -> PingSettings {
        PingSettings { interval_seconds: self.interval_seconds, timeout_seconds: self.timeout_seconds }
    }
}

impl RawEmbedded {
    pub(super) fn check(self) -> Result<EmbeddedSettings, SettingsError> {
        let Self { max_memory_bytes, max_clients, max_output_bytes, .. } = self;
        let starts = match self.enabled.as_str() {
            "auto" => EmbeddedStart::WithoutUrl,
            "on" => EmbeddedStart::AlsoAtUrl,
            "off" => EmbeddedStart::Never,
            _ => return Err(invalid("embedded.enabled", "expected auto, on or off")),
        };
        let limits =
            StoreLimits { max_memory_bytes, max_clients, max_output_bytes, ..StoreLimits::default() };
        let snapshot = Some(PathBuf::from(self.snapshot_file)).filter(|path| !path.as_os_str().is_empty());
        Ok(EmbeddedSettings { starts, limits, snapshot })
    }
}

/// Returns the number of CPU cores available to the process.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}
