//! The checked settings, section by section.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::client_heartbeats::ClientHeartbeat;
use super::redis_url::RedisUrl;
use crate::access::Proxies;
use crate::access::session::Reading;

/// The listening side.
#[derive(Debug, Clone)]
pub struct ServerSettings {
    /// Where to listen.
    pub listen: Listen,
    /// The proxies that are believed about addresses and hosts.
    pub trusted_proxies: Proxies,
    /// Number of shards.
    pub shards: usize,
    /// Connections at a time.
    pub max_connections: usize,
    /// Time for each part of a request: its head, its body, what is looked up for it, and for the client to take the answer.
    pub handshake: Duration,
    /// Time that an HTTP connection may be idle between two requests.
    pub keepalive: Duration,
    /// Limit of a request head, in bytes.
    pub max_header_bytes: usize,
    /// Limit of the number of headers.
    pub max_headers: usize,
    /// Time over which clients are sent away at the end.
    pub drain: Duration,
    /// Time for a close frame to arrive, in whole seconds.
    pub linger_seconds: u32,
    /// `SO_SNDBUF` of a client's socket, in bytes.
    pub send_buffer_bytes: usize,
}

/// An address to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// `host:port`.
    Tcp(String),
    /// A unix socket: its path and its permissions.
    Unix(PathBuf, u32),
}

/// The Redis side.
#[derive(Debug, Clone)]
pub struct RedisSettings {
    /// The URL, or none for 127.0.0.1:6379 with the embedded store in reserve.
    pub url: Option<RedisUrl>,
    /// How TLS is spoken, where the URL says so.
    pub tls: TlsSettings,
    /// Time for a connection attempt.
    pub connect_timeout: Duration,
    /// Time for the reply to a command.
    pub command_timeout: Duration,
    /// Time that publications wait for a lost Redis.
    pub publish_wait: Duration,
    /// Time that a channel without listeners stays subscribed.
    pub unsubscribe_linger: Duration,
    /// Slots of the receiver of messages.
    pub receiver_messages: usize,
    /// Bytes that may wait in that receiver.
    pub max_pending_bytes: usize,
}

/// TLS to Redis.
#[derive(Debug, Clone)]
pub struct TlsSettings {
    /// Certificates of the authorities that are trusted; else those of the machine.
    pub ca_file: Option<PathBuf>,
    /// The certificate that is shown, and its key.
    pub client: Option<(PathBuf, PathBuf)>,
    /// Whether the server's certificate is verified.
    pub verify: bool,
}

/// Sizes of messages and queues, in bytes.
#[derive(Debug, Clone)]
pub struct MessageSettings {
    /// Largest message from a client.
    pub max_message_bytes: usize,
    /// Largest message from Redis.
    pub max_delivery_bytes: usize,
    /// What may wait for a slow client behind the first message.
    pub outbox_bytes: usize,
    /// Seconds for which more than that may wait.
    pub outbox_seconds: u32,
    /// What may wait for a client at any time.
    pub outbox_hard_bytes: usize,
    /// What may wait for all clients together.
    pub outbox_total_bytes: usize,
    /// Whether a slow client loses its oldest messages instead of its connection.
    pub drop_oldest: bool,
    /// What a client may have under way to Redis.
    pub publish_bytes: usize,
    /// What all clients may have sent of messages that are not whole.
    pub unfinished_total_bytes: usize,
    /// Seconds that a client has for one message.
    pub message_seconds: u32,
    /// Texts of client libraries that are answered and never published.
    pub client_heartbeats: Vec<ClientHeartbeat>,
}

/// Who visitors are: Django's sessions.
#[derive(Debug, Clone)]
pub struct SessionSettings {
    /// Name of the session cookie.
    pub cookie: String,
    /// How sessions are found and read.
    pub reading: Reading,
    /// A Redis of their own, if they have one.
    pub redis: Option<RedisSettings>,
    /// Whether Redis tells what happens to sessions, if that is set and need not be asked.
    pub events: Option<bool>,
    /// Seconds after which the session of an open socket is read again.
    pub recheck_seconds: u32,
}

/// Keeping idle connections honest, in whole seconds.
#[derive(Debug, Clone, Copy)]
pub struct PingSettings {
    /// Silence after which a client is pinged.
    pub interval_seconds: u32,
    /// Time for its answer.
    pub timeout_seconds: u32,
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path, mode) => write!(f, "unix:{} (permissions {mode:04o})", path.display()),
        }
    }
}
