//! Reaching Redis: URLs, connection settings, clients that come back, and a look at what is there.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use fred::prelude::*;
use fred::types::config::{ClusterDiscoveryPolicy, ServerConfig, TlsConnector, UnresponsiveConfig};
use fred::types::{CustomCommand, RespVersion};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::discovery::{Discovery, Spot};
use super::error_reply::{hint, is_reply};
use super::line::{IS_REPLICA, Line};
use super::{sentinel, tls, topology};
use crate::settings::{self, Address, RedisUrl, Servers};
use crate::wire::{Channel, mask_sessions};

/// Waits between attempts to reach Redis: the first, doubled with each attempt, up to the last; and what chance adds,
/// so that many gateways do not come back in step.
const FIRST_BACKOFF_MS: u32 = 50;
const LAST_BACKOFF_MS: u32 = 3_000;
const JITTER_MS: u32 = 300;

/// Time for an attempt to reach a node of a cluster before another one is tried.
const HURRY: Duration = Duration::from_secs(1);

/// Why a URL cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unusable(String);

/// A Redis and how to talk to it.
#[derive(Debug, Clone)]
pub struct Target {
    config: Config,
    settings: settings::Redis,
    name: String,
    discovery: Arc<Discovery>,
    suspicion: Arc<Notify>,
}

/// What is found at the other end.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// `redis_version` or `valkey_version`.
    pub version: Option<String>,
    /// `standalone`, `sentinel` or `cluster`.
    pub mode: Option<String>,
    /// Time for one command and its reply.
    pub round_trip: Duration,
    /// How PING is refused, and what to do about it.
    pub refusal: Option<String>,
}

impl Target {
    /// Takes the settings; without a URL it is the Redis on 127.0.0.1:6379.
    ///
    /// # Errors
    ///
    /// When the URL cannot be understood, or TLS cannot be set up.
    pub fn new(settings: &settings::Redis) -> Result<Self, Unusable> {
        let name =
            settings.url.as_ref().map_or_else(|| "redis://127.0.0.1:6379".to_owned(), ToString::to_string);
        let mut config =
            settings.url.as_ref().map_or_else(|| Ok(Config::default()), |url| config(url, &settings.tls))?;
        config.version = RespVersion::RESP3;
        let discovery = Discovery::new(&config.server);
        Ok(Self { config, settings: settings.clone(), name, discovery, suspicion: Arc::default() })
    }

    /// Returns the number of the database.
    pub fn database(&self) -> u8 {
        self.config.database.unwrap_or(0)
    }

    /// Tells whether it is a cluster, each node of which tells of its own keys only.
    pub(super) fn is_cluster(&self) -> bool {
        self.config.server.is_clustered()
    }

    /// Returns how fred connects.
    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// Returns the time for a connection attempt.
    pub(super) fn connect_timeout(&self) -> Duration {
        self.settings.connect_timeout
    }

    /// Returns what knows where the server is.
    pub(super) fn discovery(&self) -> &Arc<Discovery> {
        &self.discovery
    }

    /// Returns the longest pause between two attempts. Where others tell who the master is, they bound the load.
    pub(super) fn longest_pause(&self) -> Duration {
        if self.discovery.asks() { Duration::from_millis(500) } else { Duration::from_secs(3) }
    }

    /// Keeps up to date where the server is, as long as it is polled.
    pub(super) async fn follow(self) {
        match self.config.server {
            ServerConfig::Sentinel { .. } => sentinel::follow(self).await,
            ServerConfig::Clustered { .. } => topology::follow(self).await,
            _ => {}
        }
    }

    /// Connects to where the server is now, within the time for an attempt. One that is elsewhere meanwhile, as when the
    /// one before takes connections and says nothing, is followed.
    ///
    /// # Errors
    ///
    /// With a description.
    pub(super) async fn dial(&self, max_bytes: usize) -> Result<Line, String> {
        let dialing = async {
            loop {
                let spot: Spot = self.discovery.locate().await?;
                // In a cluster another node will do.
                let hurry = async {
                    if !self.is_cluster() {
                        pending::<()>().await;
                    }
                    tokio::time::sleep(HURRY).await;
                };
                tokio::select! {
                    line = Line::dial(self, spot.clone(), max_bytes) => return line,
                    () = self.discovery.left(&spot) => {}
                    () = hurry => {}
                }
            }
        };
        let line = tokio::time::timeout(self.settings.connect_timeout, dialing).await;
        let line = line.unwrap_or_else(|_| Err("no answer".to_owned()));
        if line.is_ok() {
            self.discovery.note_reached();
        }
        line
    }

    /// Returns the URL with secrets masked.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Notes that a connection got no answer in time: the broker finds out whether Redis is lost, for all shards.
    pub(super) fn suspect(&self) {
        self.suspicion.notify_one();
    }

    /// Waits until a connection got no answer in time. Safe to cancel.
    pub(super) async fn suspected(&self) {
        self.suspicion.notified().await;
    }

    /// Says what to do about an error of a connection.
    pub fn cure(&self, reason: &str) -> &'static str {
        let says = |words: &[&str]| words.iter().any(|word| reason.contains(word));
        if !hint(reason).is_empty() {
            hint(reason)
        } else if !tls::cure(reason).is_empty() {
            tls::cure(reason)
        } else if self.config.tls.is_some() && says(&["no answer"]) {
            "nothing answers there, or it does not speak TLS: check host and port in redis.url"
        } else if says(&["NOAUTH"]) {
            hint("NOAUTH")
        } else if says(&["invalid password"]) {
            "check user and password in redis.url"
        } else if says(&["DB index"]) {
            "it has no database of this number: check the end of redis.url"
        } else if says(&["lookup", "resolve", "Name or service"]) {
            "there is no host of this name: check redis.url"
        } else if says(&["Decode", "frame_type", "Protocol", "parse", "unknown command"]) {
            "what answers there is no Redis of version 6 or later: check host and port in redis.url"
        } else if says(&[IS_REPLICA]) {
            "name the master in redis.url, or let sentinels find it: redis-sentinel://"
        } else if says(&["sentinel"]) {
            "check the sentinels and sentinelServiceName in redis.url"
        } else if self.settings.url.is_some() {
            "start Redis, or check redis.url; without it, the embedded store is used"
        } else {
            "start Redis or ws4redis, or set redis.url"
        }
    }

    /// Makes a client that connects, and connects again for as long as it lives.
    pub(super) fn client(&self, command_timeout: Duration) -> (Client, Guard) {
        let connection = ConnectionConfig {
            connection_timeout: self.settings.connect_timeout,
            internal_command_timeout: self.settings.command_timeout,
            // What was written is never written again: publications are at most once.
            max_command_attempts: 1,
            unresponsive: UnresponsiveConfig {
                max_timeout: Some(self.settings.command_timeout * 2),
                interval: Duration::from_secs(1),
            },
            ..ConnectionConfig::default()
        };
        let performance =
            PerformanceConfig { default_command_timeout: command_timeout, ..PerformanceConfig::default() };
        let client = Client::new(self.config.clone(), Some(performance), Some(connection), Some(backoff()));
        let guard = Guard(tokio::task::spawn_local(keep(client.clone())).abort_handle());
        (client, guard)
    }
}

/// Keeps a client connected as long as it lives.
#[derive(Debug)]
pub(super) struct Guard(AbortHandle);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Connects at once, which fred's own retrying does not, and again whenever fred gives up, as on errors about a
/// configuration that may be mended meanwhile.
async fn keep(client: Client) {
    let mut backoff = backoff();
    while !matches!(client.connect().await, Ok(Ok(()))) {
        let delay = backoff.next_delay().unwrap_or(LAST_BACKOFF_MS.into());
        tokio::time::sleep(Duration::from_millis(delay)).await;
    }
}

fn backoff() -> ReconnectPolicy {
    let mut policy = ReconnectPolicy::new_exponential(0, FIRST_BACKOFF_MS, LAST_BACKOFF_MS, 2);
    policy.set_jitter(JITTER_MS);
    policy
}

/// Returns how fred connects to what the URL names.
fn config(url: &RedisUrl, tls: &settings::Tls) -> Result<Config, Unusable> {
    let servers =
        |all: &[Address]| all.iter().map(|(host, port)| Server::new(host.as_str(), *port)).collect();
    let server = match &url.servers {
        Servers::Single((host, port)) => ServerConfig::new_centralized(host.as_str(), *port),
        Servers::Unix(path) => ServerConfig::Unix { path: path.clone() },
        Servers::Sentinel { sentinels, service, username, password } => ServerConfig::Sentinel {
            hosts: servers(sentinels),
            service_name: service.clone(),
            username: username.clone(),
            password: password.clone(),
        },
        Servers::Cluster(nodes) => {
            ServerConfig::Clustered { hosts: servers(nodes), policy: ClusterDiscoveryPolicy::default() }
        }
    };
    let tls = url.tls.then(|| tls::client_config(tls)).transpose().map_err(Unusable)?;
    Ok(Config {
        server,
        username: url.username.clone(),
        password: url.password.clone(),
        // Without a SELECT, for which a user needs the right.
        database: Some(url.database).filter(|number| *number != 0),
        tls: tls.map(|tls| TlsConnector::from(tls).into()),
        ..Config::default()
    })
}

/// Describes an error of Redis' or fred's: no session keys, no control characters.
pub fn describe(error: &Error) -> String {
    // fred shows an I/O error in its Debug form; what it says in words stands in there.
    let details = error.details();
    let words =
        details.split_once("message: \"").and_then(|(_, rest)| rest.split_once('"')).map(|(words, _)| words);
    describe_text(words.unwrap_or(details))
}

/// Describes an error by its text: no session keys, no control characters.
pub(super) fn describe_text(text: &str) -> String {
    // Redis quotes the arguments of a command that it does not know: a message would stand in the log.
    let text = text.split_once(", with args beginning with").map_or(text, |(before, _)| before);
    mask_sessions(text).escape_debug().to_string()
}

/// Makes a client that tries once.
async fn connect_once(target: &Target) -> Result<(Client, Guard), String> {
    let patience = target.settings.connect_timeout + target.settings.command_timeout;
    let (client, guard) = target.client(target.settings.command_timeout);
    match tokio::time::timeout(patience, client.wait_for_connect()).await {
        Ok(Ok(())) => Ok((client, guard)),
        Ok(Err(error)) => Err(describe(&error)),
        Err(_) => Err(format!("no answer within {} s", patience.as_secs())),
    }
}

/// Connects and looks at what is there.
///
/// # Errors
///
/// With a description, when Redis cannot be reached or refuses.
pub async fn examine(target: &Target) -> Result<Found, String> {
    let (client, _guard) = connect_once(target).await?;
    let begun = tokio::time::Instant::now();
    let refusal = match client.ping::<()>(None).await {
        Ok(()) => None,
        // It lives.
        Err(error) if is_reply(error.details()) => {
            let reason = describe(&error);
            Some(format!("{reason}; {}", hint(&reason)))
        }
        Err(error) => return Err(describe(&error)),
    };
    let round_trip = begun.elapsed();
    // Under a narrow ACL user this is refused, which is no fault.
    let info: String = client.info(None).await.unwrap_or_default();
    let field = |name: &str| {
        info.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(|value| value.trim().to_owned())
    };
    Ok(Found {
        version: field("valkey_version").or_else(|| field("redis_version")),
        mode: field("redis_mode"),
        round_trip,
        refusal,
    })
}

/// Publishes one message to the channels, and keeps it for `expire_seconds` if that is not 0. Returns how many
/// subscribers Redis counted.
///
/// # Errors
///
/// With a description, when Redis cannot be reached or refuses.
pub async fn publish_once(
    target: &Target,
    channels: &[Channel],
    payload: &[u8],
    expire_seconds: u64,
) -> Result<i64, String> {
    let (client, _guard) = connect_once(target).await?;
    let failed = |error: Error| describe(&error);
    let mut receivers = 0;
    for channel in channels {
        if expire_seconds > 0 {
            let setex = CustomCommand::new_static("SETEX", None, false);
            let arguments: Vec<Value> =
                vec![channel.as_str().into(), expire_seconds.to_string().into(), payload.into()];
            client.custom::<(), _>(setex, arguments).await.map_err(failed)?;
        }
        receivers += client.publish::<i64, _, _>(channel.as_str(), payload).await.map_err(failed)?;
    }
    Ok(receivers)
}
