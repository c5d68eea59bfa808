//! Settings: the shipped file, a file of the operator's, the environment and flags become checked [`Settings`].
//!
//! Two stages: `raw` holds what was written, this module what the program uses (durations, sizes, patterns).
//! The built-in defaults are the shipped `settings.toml` itself, so the two cannot drift apart.

mod auth;
mod client_heartbeats;
mod environment;
mod error;
mod file;
mod jwt;
mod ranges;
mod raw;
mod redis_url;
mod visitors;

use std::ffi::OsString;
use std::fmt;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use config::{Config, File, FileFormat};

use crate::access::session::Reading;
use crate::access::token::Verifier;
use crate::access::{AllowedOrigins, Proxies, Rule};
use crate::wire::Namespace;
use raw::Raw;

pub use auth::Callback;
pub use client_heartbeats::ClientHeartbeat;
pub use error::Error;
pub use redis_url::{Address, RedisUrl, Servers};

/// The shipped settings file, which is their manual.
pub const SHIPPED: &str = include_str!("../../settings.toml");

/// Returns the settings file for a new site: the shipped one, but for what is as it is only because
/// django-websocket-redis has it so.
pub fn recommended() -> String {
    SHIPPED.replacen("\nanonymous_publish = true\n", "\nanonymous_publish = false\n", 1)
}

/// All settings, checked.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a setting of its own")]
pub struct Settings {
    /// Path prefix of the WebSockets, with both slashes.
    pub websocket_url: String,
    /// What paths of requests begin with before the facility: the same, or a slash where a proxy takes it away.
    pub path_prefix: String,
    /// Seconds for which a client's message is persisted; 0 means not at all.
    pub expire_seconds: u64,
    /// Prefix of all channels.
    pub namespace: Namespace,
    /// The heartbeat text, if there is one.
    pub heartbeat: Option<Bytes>,
    /// Whether facilities with a colon get all their channels.
    pub facility_colons: bool,
    /// Whether visitors who are not logged in may publish.
    pub anonymous_publish: bool,
    /// The listening side.
    pub server: Server,
    /// The Redis side.
    pub redis: Redis,
    /// Sizes of messages and queues.
    pub messages: Messages,
    /// Keeping idle connections honest.
    pub ping: Ping,
    /// Who visitors are.
    pub session: Session,
    /// Whom to ask by HTTP who visitors are.
    pub callback: Option<Callback>,
    /// Whose tokens are trusted, if any.
    pub jwt: Option<Verifier>,
    /// The site's own rules.
    pub access: Vec<Rule>,
    /// Origins allowed beside the request's own host.
    pub origins: AllowedOrigins,
    /// Whether logs are JSON.
    pub log_json: bool,
    /// Whether the demo page is served.
    pub demo: bool,
    /// Bounds of the embedded store.
    pub embedded: crate::embedded::Limits,
}

/// The listening side.
#[derive(Debug, Clone)]
pub struct Server {
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
pub struct Redis {
    /// The URL, or none for 127.0.0.1:6379 with the embedded store in reserve.
    pub url: Option<RedisUrl>,
    /// How TLS is spoken, where the URL says so.
    pub tls: Tls,
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
pub struct Tls {
    /// Certificates of the authorities that are trusted; else those of the machine.
    pub ca_file: Option<PathBuf>,
    /// The certificate that is shown, and its key.
    pub client: Option<(PathBuf, PathBuf)>,
    /// Whether the server's certificate is verified.
    pub verify: bool,
}

/// Sizes of messages and queues, in bytes.
#[derive(Debug, Clone)]
pub struct Messages {
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
pub struct Session {
    /// Name of the session cookie.
    pub cookie: String,
    /// How sessions are found and read.
    pub reading: Reading,
    /// A Redis of their own, if they have one.
    pub redis: Option<Redis>,
    /// Whether Redis tells what happens to sessions, if that is set and need not be asked.
    pub events: Option<bool>,
    /// Seconds after which the session of an open socket is read again.
    pub recheck_seconds: u32,
}

/// Keeping idle connections honest, in whole seconds.
#[derive(Debug, Clone, Copy)]
pub struct Ping {
    /// Silence after which a client is pinged.
    pub interval_seconds: u32,
    /// Time for its answer.
    pub timeout_seconds: u32,
}

/// Returns the settings file: the one that is named, or `settings.toml` in the working directory, if there is one.
pub fn file(named: Option<PathBuf>) -> Option<PathBuf> {
    named.or_else(|| Some(PathBuf::from("settings.toml")).filter(|path| path.exists()))
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path, mode) => write!(f, "unix:{} (permissions {mode:04o})", path.display()),
        }
    }
}

impl Settings {
    /// Reads the settings: built-in, then `file`, then the environment
    /// `vars`, then `assignments` of the form `KEY=VALUE`. Returns warnings about variables that mean nothing, too.
    ///
    /// # Errors
    ///
    /// When a file cannot be read, a key is unknown, or a value cannot be used.
    pub fn load(
        file: Option<&Path>,
        vars: impl Iterator<Item = (OsString, OsString)>,
        assignments: &[String],
    ) -> Result<(Self, Vec<String>), Error> {
        let shipped = Config::builder().add_source(File::from_str(SHIPPED, FileFormat::Toml)).build()?;
        let known = environment::keys(&shipped);
        let mut builder = Config::builder().add_source(shipped);
        if let Some(path) = file {
            let name = path.display().to_string();
            let text =
                file::read_text(path).map_err(|problem| Error::Unreadable(format!("{name}: {problem}")))?;
            let written = Config::builder().add_source(file::Written { name, text }).build()?;
            // The site's rules are no part of the shipped file; their own keys are checked as they are read.
            let unknown = |key: &String| key != "access" && !known.contains(key);
            if let Some(key) = environment::keys(&written).into_iter().find(unknown) {
                return Err(Error::Unknown {
                    file: path.to_owned(),
                    hint: environment::nearest(&key, &known),
                    key,
                });
            }
            builder = builder.add_source(written);
        }
        let (overrides, warnings) = environment::read(vars, &known)?;
        for (key, value) in overrides {
            builder = builder.set_override(key, value)?;
        }
        for assignment in assignments {
            let (key, value) = assignment.split_once('=').ok_or_else(|| {
                // What follows may be a secret under the wrong sign.
                let name = |c: &char| c.is_ascii_alphanumeric() || "._".contains(*c);
                Error::Assignment(assignment.chars().take_while(name).collect())
            })?;
            builder = builder.set_override(key.trim(), value)?;
        }
        let settings = builder.build()?;
        ranges::check(&settings)?;
        let raw: Raw = settings.try_deserialize()?;
        Ok((raw.check()?, warnings))
    }

    /// Returns the built-in settings.
    ///
    /// # Errors
    ///
    /// Never, as long as the shipped file is whole; a test keeps it so.
    pub fn built_in() -> Result<Self, Error> {
        let shipped = Config::builder().add_source(File::from_str(SHIPPED, FileFormat::Toml)).build()?;
        shipped.try_deserialize::<Raw>()?.check()
    }
}

/// Returns the number of shards that the machine has cores for.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(vars: &[(&str, &str)], assignments: &[&str]) -> Result<(Settings, Vec<String>), Error> {
        let vars: Vec<_> = vars.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        let assignments: Vec<_> = assignments.iter().map(|a| (*a).to_owned()).collect();
        Settings::load(None, vars.into_iter(), &assignments)
    }

    #[test]
    fn the_shipped_file_is_the_built_in_settings() {
        let settings = Settings::built_in().unwrap();
        assert_eq!(settings.websocket_url, "/ws/");
        assert_eq!(settings.expire_seconds, 3600);
        assert_eq!(settings.server.listen, Listen::Tcp("127.0.0.1:8000".into()));
        assert!(settings.demo);
    }

    #[test]
    fn idle_http_connections_are_kept_longer_than_common_proxies_keep_theirs() {
        let kept = Settings::built_in().unwrap().server.keepalive;
        // Defaults of nginx's upstream keepalive_timeout, Traefik's idleConnTimeout and Caddy's keepalive.
        for proxy_seconds in [60, 90, 120] {
            assert!(kept > Duration::from_secs(proxy_seconds), "{kept:?}");
        }
    }

    #[test]
    fn where_every_path_is_a_facility_there_is_no_demo() {
        for (assignment, prefix) in [
            ("server.websocket_url_stripped=true", "/"),
            ("websocket_url=/", "/"),
            ("websocket_url=/x/", "/x/"),
        ] {
            let (settings, _) = load(&[], &[assignment]).unwrap();
            assert_eq!(
                (settings.path_prefix.as_str(), settings.demo),
                (prefix, prefix != "/"),
                "{assignment}"
            );
            let on = load(&[], &[assignment, "demo.enabled=on"]);
            let refused = on.err().map(|error| error.to_string());
            assert_eq!(refused.is_some(), prefix == "/", "{assignment}: {refused:?}");
            assert!(refused.is_none_or(|text| text.starts_with("demo.enabled: ")), "{assignment}");
        }
    }

    #[test]
    fn the_environment_speaks_upstreams_names() {
        let vars = [
            ("WS4REDIS_EXPIRE", "-1"),
            ("WS4REDIS_PREFIX", "0123"),
            ("WS4REDIS_HEARTBEAT", "--heartbeat--"),
            ("WEBSOCKET_URL", "/sockets/"),
            ("WS4REDIS_SERVER__SHARDS", "3"),
            ("WS4REDIS_ORIGIN__ALLOWED", "https://a.example, https://b.example"),
            ("WS4REDIS_REDIS__URL", "redis://:geheim@127.0.0.1:6380/2"),
        ];
        let (settings, warnings) = load(&vars, &["server.shards=2"]).unwrap();
        assert_eq!(settings.expire_seconds, 0);
        assert_eq!(settings.namespace.as_str(), "0123");
        assert_eq!(settings.heartbeat.as_deref(), Some(&b"--heartbeat--"[..]));
        assert_eq!(settings.websocket_url, "/sockets/");
        assert_eq!(settings.server.shards, 2);
        assert!(settings.origins.check(&[b"https://b.example"], "c.example").is_ok());
        assert!(settings.origins.check(&[b"https://c.example"], "d.example").is_err());
        assert!(!settings.demo, "with a Redis of one's own the demo is off");
        assert!(warnings.is_empty(), "{warnings:?}");
        let shown = format!("{settings:?}");
        assert!(shown.contains("redis://***@127.0.0.1:6380/2") && !shown.contains("geheim"), "{shown}");
    }

    #[test]
    fn variables_that_mean_nothing_are_warned_of_by_name() {
        let vars = [("WS4REDIS_SERVER_LISTEN", "x"), ("WS4REDIS_CONNECTION", "{}"), ("OTHER", "")];
        let (_, warnings) = load(&vars, &[]).unwrap();
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(
            warnings
                .iter()
                .any(|w| w.contains("WS4REDIS_SERVER_LISTEN") && w.contains("WS4REDIS_SERVER__LISTEN"))
        );
        assert!(warnings.iter().any(|w| w.contains("WS4REDIS_CONNECTION") && w.contains("redis.url")));
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_key() {
        for (assignment, expected) in [
            ("websocket_url=ws", "websocket_url: must begin and end with a slash"),
            ("server.listen=8000", "server.listen: expected host:port or unix:/path"),
            ("server.unix_mode=9", "server.unix_mode: "),
            ("server.trusted_proxies=unix,10.0.0.1/8", "server.trusted_proxies: \"10.0.0.1/8\" is neither"),
            ("messages.when_slow=wait", "messages.when_slow: expected close or drop-oldest"),
            ("redis.url=http://x", "redis.url: "),
            ("origin.allowed=a b", "origin.allowed: \"a b\" is neither"),
            ("demo.enabled=maybe", "demo.enabled: expected auto, on or off"),
            ("server.keepalive_seconds=0", "server.keepalive_seconds: must be an integer from 1 to 86400"),
            (
                "server.keepalive_seconds=86401",
                "server.keepalive_seconds: must be an integer from 1 to 86400",
            ),
            (
                "messages.max_message_bytes=0",
                "messages.max_message_bytes: must be an integer from 1 to 536870912",
            ),
            ("ping.interval_seconds=x", "ping.interval_seconds"),
            ("auth.jwt.issuer=x", "auth.jwt.algorithm: is empty"),
            ("auth.jwt.algorithm=HS256", "auth.jwt.key_file: either this or jwks_file"),
            ("auth.callback_timeout_seconds=10", "must be less than server.handshake_seconds"),
            ("server.nonsense=1", "nonsense"),
        ] {
            let error = load(&[], &["auth.callback_url=http://h/", assignment]).unwrap_err().to_string();
            assert!(error.contains(expected), "{assignment}: {error}");
        }
    }
}
