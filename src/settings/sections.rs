//! The checked settings, section by section.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::client_heartbeats::ClientHeartbeat;
use super::redis_url::RedisUrl;
use crate::access::Proxies;
use crate::access::session::Reading;
use crate::embedded::StoreLimits;

/// Settings of `[server]`.
#[derive(Debug, Clone)]
pub struct ServerSettings {
    /// The address to listen on.
    pub listen: Listen,
    /// Proxies whose forwarding headers are trusted.
    pub trusted_proxies: Proxies,
    /// Number of shards.
    pub shards: usize,
    /// Limit of concurrent connections.
    pub max_connections: usize,
    /// Timeout of each phase of a request: reading its head and body, looking up its visitor, and writing the response.
    pub handshake: Duration,
    /// Time that an HTTP connection may be idle between requests.
    pub keepalive: Duration,
    /// Limit of a request head, in bytes.
    pub max_header_bytes: usize,
    /// Limit of the number of headers.
    pub max_headers: usize,
    /// Time over which clients are disconnected on shutdown.
    pub drain: Duration,
    /// Time for the closing handshake, in whole seconds.
    pub linger_seconds: u32,
    /// `SO_SNDBUF` of a client's socket, in bytes.
    pub send_buffer_bytes: usize,
}

/// An address to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// `host:port`.
    Tcp(String),
    /// A Unix socket: path and permissions.
    Unix(PathBuf, u32),
}

/// Settings of `[redis]`, or of the sessions' own Redis.
#[derive(Debug, Clone)]
pub struct RedisSettings {
    /// The URL; none means 127.0.0.1:6379 with the embedded store as a fallback.
    pub url: Option<RedisUrl>,
    /// TLS, if the URL asks for it.
    pub tls: TlsSettings,
    /// Timeout of a connection attempt.
    pub connect_timeout: Duration,
    /// Timeout of a command.
    pub command_timeout: Duration,
    /// Time that publications wait for an unreachable Redis.
    pub publish_wait: Duration,
    /// Time for which a channel without listeners stays subscribed.
    pub unsubscribe_linger: Duration,
    /// Capacity of the receive buffer, in messages.
    pub receiver_messages: usize,
    /// Capacity of the receive buffer, in bytes.
    pub max_pending_bytes: usize,
}

/// Settings of `[embedded]`.
#[derive(Debug, Clone)]
pub struct EmbeddedSettings {
    /// When the store starts.
    pub starts: EmbeddedStart,
    /// The limits of the store.
    pub limits: StoreLimits,
    /// The file that keeps its strings over a restart.
    pub snapshot: Option<PathBuf>,
}

/// When the embedded store starts, if nothing listens at its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EmbeddedStart {
    /// Without a Redis URL, at 127.0.0.1:6379.
    WithoutUrl,
    /// Also at the address of the Redis URL, if that is a port of this machine.
    AlsoAtUrl,
    /// Never.
    Never,
}

/// TLS to Redis.
#[derive(Debug, Clone)]
pub struct TlsSettings {
    /// Trusted authorities; none means those of the system.
    pub ca_file: Option<PathBuf>,
    /// The client certificate and its key.
    pub client: Option<(PathBuf, PathBuf)>,
    /// Whether the server's certificate is verified.
    pub verify: bool,
}

/// Settings of `[messages]`: sizes of messages and queues, in bytes.
#[derive(Debug, Clone)]
pub struct MessageSettings {
    /// Largest message from a client.
    pub max_message_bytes: usize,
    /// Largest message from Redis.
    pub max_delivery_bytes: usize,
    /// Bytes queued for a slow client, in addition to the first message.
    pub outbox_bytes: usize,
    /// Seconds for which more than that may be queued.
    pub outbox_seconds: u32,
    /// Hard limit of the bytes queued for one client.
    pub outbox_hard_bytes: usize,
    /// Limit of the bytes queued for all clients together.
    pub outbox_total_bytes: usize,
    /// Whether a slow client loses its oldest messages instead of its connection.
    pub drop_oldest: bool,
    /// Bytes in flight to Redis per client.
    pub publish_bytes: usize,
    /// Bytes of incomplete messages of all clients together.
    pub unfinished_total_bytes: usize,
    /// Seconds within which a client has to complete a message.
    pub message_seconds: u32,
    /// Most facilities on one socket of version 2.
    pub max_facilities: usize,
    /// Heartbeats of client libraries: answered, never published.
    pub client_heartbeats: Vec<ClientHeartbeat>,
}

/// Settings of `[session]`.
#[derive(Debug, Clone)]
pub struct SessionSettings {
    /// Name of the session cookie.
    pub cookie: String,
    /// Where sessions are stored, and how they are encoded.
    pub reading: Reading,
    /// The Redis of the sessions, if it is a separate one.
    pub redis: Option<RedisSettings>,
    /// Whether Redis sends keyspace events; none means that the gateway probes it.
    pub events: Option<bool>,
    /// Seconds after which the session of an open connection is revalidated.
    pub recheck_seconds: u32,
}

/// Settings of `[ping]`, in whole seconds.
#[derive(Debug, Clone, Copy)]
pub struct PingSettings {
    /// Idle time after which a client is pinged.
    pub interval_seconds: u32,
    /// Time for the pong.
    pub timeout_seconds: u32,
}

impl Listen {
    /// Parses `host:port` or `unix:/path`; a socket gets these permissions.
    pub(super) fn parse(text: String, mode: u32) -> Option<Self> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Some(Self::Unix(PathBuf::from(path), mode)).filter(|_| path.starts_with('/'));
        }
        let (host, port) = text.rsplit_once(':')?;
        let is_sound = !host.is_empty() && port.parse::<u16>().is_ok();
        is_sound.then_some(Self::Tcp(text))
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path, mode) => write!(f, "unix:{} (permissions {mode:04o})", path.display()),
        }
    }
}
