//! Settings as they are written, and their check.

use bytes::Bytes;
use serde::{Deserialize, Deserializer};
use std::path::PathBuf;
use std::time::Duration;

use super::auth::RawAuth;
use super::client_heartbeats;
use super::file;
use super::visitors::{RawRule, RawSession};
use super::{Error, Listen, Messages, Ping, Redis, RedisUrl, Server, Settings, Tls, cores};
use crate::access::{AllowedOrigins, Proxies, Rule};
use crate::embedded::Limits;
use crate::wire::Namespace;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    websocket_url: String,
    expire: i64,
    prefix: String,
    heartbeat: String,
    facility_colons: bool,
    anonymous_publish: bool,
    server: RawServer,
    redis: RawRedis,
    messages: RawMessages,
    ping: RawPing,
    session: RawSession,
    auth: RawAuth,
    origin: RawOrigin,
    log: RawLog,
    demo: RawDemo,
    embedded: RawEmbedded,
    /// The site's rules: there are none unless it has some.
    #[serde(default)]
    access: Vec<RawRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawServer {
    listen: String,
    unix_mode: String,
    #[serde(deserialize_with = "list")]
    trusted_proxies: Vec<String>,
    websocket_url_stripped: bool,
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
struct RawRedis {
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
struct RawMessages {
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
    #[serde(deserialize_with = "list")]
    client_heartbeats: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPing {
    interval_seconds: u32,
    timeout_seconds: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawOrigin {
    #[serde(deserialize_with = "list")]
    allowed: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLog {
    format: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDemo {
    enabled: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_field_names, reason = "the keys are called so")]
struct RawEmbedded {
    max_memory_bytes: usize,
    max_clients: usize,
    max_output_bytes: usize,
}

/// Reads a list, or a text with commas, as the environment has it.
pub(super) fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        List(Vec<String>),
        Text(String),
    }
    Ok(match Either::deserialize(deserializer)? {
        Either::List(list) => list,
        Either::Text(text) => {
            text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
        }
    })
}

impl Raw {
    pub(super) fn check(self) -> Result<Settings, Error> {
        let prefix_ok = self.websocket_url.starts_with('/') && self.websocket_url.ends_with('/');
        require(prefix_ok, "websocket_url", "must begin and end with a slash, for example /ws/")?;
        let plain = !self.prefix.chars().any(char::is_control);
        require(plain, "prefix", "must not hold control characters")?;
        require(self.heartbeat.len() <= 1024, "heartbeat", "must not be longer than 1024 bytes")?;
        let stripped = self.server.websocket_url_stripped;
        let path_prefix = if stripped { "/" } else { &self.websocket_url }.to_owned();
        let redis = self.redis.check()?;
        let demo = match self.demo.enabled.as_str() {
            "auto" => redis.url.is_none() && path_prefix != "/",
            "on" if path_prefix == "/" => {
                return Err(senseless(
                    "demo.enabled",
                    "there is no path for the demo where every one is a facility",
                ));
            }
            "on" => true,
            "off" => false,
            _ => return Err(senseless("demo.enabled", "expected auto, on or off")),
        };
        let log_json = match self.log.format.as_str() {
            "text" => false,
            "json" => true,
            _ => return Err(senseless("log.format", "expected text or json")),
        };
        let namespace = Namespace::new(&self.prefix);
        let session = self.session.check(&redis, &namespace)?;
        let access = self.access.iter().map(RawRule::check).collect::<Result<Vec<_>, _>>()?;
        let contradicts = !self.anonymous_publish && access.iter().any(Rule::allows_anonymous_publish);
        require(
            !contradicts,
            "anonymous_publish",
            "is false, but an [[access]] table gives anonymous visitors a publish- flag; set it to true, so that the tables decide",
        )?;
        let server = self.server.check()?;
        let jwt = self.auth.jwt.check()?;
        let callback = self.auth.callback()?;
        // Otherwise handshakes end before it is said what they wait for.
        let sooner = callback.as_ref().is_none_or(|callback| callback.timeout < server.handshake);
        require(sooner, "auth.callback_timeout_seconds", "must be less than server.handshake_seconds")?;
        let origins = AllowedOrigins::new(&self.origin.allowed)
            .map_err(|problem| Error::Senseless { key: "origin.allowed", problem })?;
        Ok(Settings {
            websocket_url: self.websocket_url,
            path_prefix,
            expire_seconds: u64::try_from(self.expire).unwrap_or(0),
            namespace,
            heartbeat: (!self.heartbeat.is_empty()).then(|| Bytes::from(self.heartbeat)),
            facility_colons: self.facility_colons,
            anonymous_publish: self.anonymous_publish,
            server,
            redis,
            messages: self.messages.check()?,
            ping: self.ping.check(),
            session,
            jwt,
            callback,
            access,
            origins,
            log_json,
            demo,
            embedded: self.embedded.check(),
        })
    }
}

impl RawServer {
    fn check(self) -> Result<Server, Error> {
        let mode = u32::from_str_radix(&self.unix_mode, 8).ok().filter(|mode| *mode <= 0o777);
        let mode = mode.ok_or_else(|| {
            senseless("server.unix_mode", "expected permissions in octal, for example 0660")
        })?;
        let listen = match self.listen.strip_prefix("unix:") {
            Some(path) => Listen::Unix(PathBuf::from(path), mode),
            None => Listen::Tcp(self.listen),
        };
        let sound = match &listen {
            Listen::Unix(path, _) => path.is_absolute(),
            Listen::Tcp(address) => address
                .rsplit_once(':')
                .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok()),
        };
        require(sound, "server.listen", "expected host:port or unix:/path, for example 127.0.0.1:8000")?;
        let trusted_proxies = Proxies::new(&self.trusted_proxies).map_err(|entry| Error::Senseless {
            key: "server.trusted_proxies",
            problem: format!(
                "{entry:?} is neither an address, nor a network like 10.0.0.0/8 with nothing behind its prefix, nor unix"
            ),
        })?;
        Ok(Server {
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
    fn check(self) -> Result<Redis, Error> {
        let path = |text: &str| Some(PathBuf::from(text)).filter(|path| !path.as_os_str().is_empty());
        let client = match (path(&self.client_cert_file), path(&self.client_key_file)) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            (Some(_), None) => {
                return Err(senseless(
                    "redis.client_key_file",
                    "is empty, and redis.client_cert_file is not",
                ));
            }
            (None, Some(_)) => {
                return Err(senseless(
                    "redis.client_cert_file",
                    "is empty, and redis.client_key_file is not",
                ));
            }
        };
        let tls = Tls { ca_file: path(&self.ca_file), client, verify: self.verify_certificate };
        Ok(Redis {
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
    fn check(self) -> Result<Messages, Error> {
        require(
            self.outbox_hard_bytes >= self.outbox_bytes,
            "messages.outbox_hard_bytes",
            "must not be less than messages.outbox_bytes",
        )?;
        let drop_oldest = match self.when_slow.as_str() {
            "close" => false,
            "drop-oldest" => true,
            _ => return Err(senseless("messages.when_slow", "expected close or drop-oldest")),
        };
        Ok(Messages {
            max_message_bytes: self.max_message_bytes,
            max_delivery_bytes: self.max_delivery_bytes,
            outbox_bytes: self.outbox_bytes,
            outbox_seconds: self.outbox_seconds,
            outbox_hard_bytes: self.outbox_hard_bytes,
            outbox_total_bytes: self.outbox_total_bytes,
            drop_oldest,
            publish_bytes: self.publish_bytes,
            // One message fits in any case.
            unfinished_total_bytes: self.unfinished_total_bytes.max(self.max_message_bytes),
            message_seconds: self.message_seconds,
            client_heartbeats: client_heartbeats::parse(&self.client_heartbeats)?,
        })
    }
}

impl RawPing {
    fn check(self) -> Ping {
        Ping { interval_seconds: self.interval_seconds, timeout_seconds: self.timeout_seconds }
    }
}

impl RawEmbedded {
    fn check(self) -> Limits {
        let Self { max_memory_bytes, max_clients, max_output_bytes } = self;
        Limits { max_memory_bytes, max_clients, max_output_bytes, ..Limits::default() }
    }
}

fn seconds(seconds: u32) -> Duration {
    Duration::from_secs(u64::from(seconds))
}

/// Reads a secret from a file; line ends behind it are none of it.
pub(super) fn secret(path: &str, key: &'static str) -> Result<String, Error> {
    let text = file::read_text(path.as_ref()).map_err(|problem| unreadable(path, key, &problem))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// Reads a file of keys.
pub(super) fn bytes(path: &str, key: &'static str) -> Result<Vec<u8>, Error> {
    file::read(path.as_ref()).map_err(|problem| unreadable(path, key, &problem))
}

fn unreadable(path: &str, key: &'static str, problem: &str) -> Error {
    Error::Senseless { key, problem: format!("cannot read {path}: {problem}") }
}

pub(super) fn senseless(key: &'static str, problem: &str) -> Error {
    Error::Senseless { key, problem: problem.to_owned() }
}

pub(super) fn require(condition: bool, key: &'static str, problem: &str) -> Result<(), Error> {
    if condition { Ok(()) } else { Err(senseless(key, problem)) }
}
