//! Reaching Redis: the URL and its settings become a target, to which connections are made.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use fred::prelude::Config;
use fred::types::config::{ClusterDiscoveryPolicy, Server, ServerConfig, TlsConnector};
use tokio::sync::Notify;

use super::connection::{IS_REPLICA, RedisConnection};
use super::discovery::{Discovery, Spot};
use super::error_reply::hint;
use super::{sentinel, tls, topology};
use crate::settings::{self, Address, RedisUrl, Servers};
use crate::wire::mask_sessions;

/// Time for an attempt to reach a node of a cluster before another one is tried.
const HURRY: Duration = Duration::from_secs(1);

/// Why a URL cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TargetError(String);

/// A Redis and how to talk to it.
#[derive(Debug, Clone)]
pub struct Target {
    config: Config,
    settings: settings::Redis,
    name: String,
    discovery: Arc<Discovery>,
    suspicion: Arc<Notify>,
}

impl Target {
    /// Takes the settings; without a URL it is the Redis on 127.0.0.1:6379.
    ///
    /// # Errors
    ///
    /// When the URL cannot be understood, or TLS cannot be set up.
    pub fn new(settings: &settings::Redis) -> Result<Self, TargetError> {
        let name =
            settings.url.as_ref().map_or_else(|| "redis://127.0.0.1:6379".to_owned(), ToString::to_string);
        let config =
            settings.url.as_ref().map_or_else(|| Ok(Config::default()), |url| config(url, &settings.tls))?;
        let discovery = Discovery::new(&config.server);
        Ok(Self { config, settings: settings.clone(), name, discovery, suspicion: Arc::default() })
    }

    /// Returns the number of the database.
    pub fn database(&self) -> u8 {
        self.config.database.unwrap_or(0)
    }

    /// Tells whether it is a cluster, each node of which tells of its own keys only.
    pub(crate) fn is_cluster(&self) -> bool {
        self.config.server.is_clustered()
    }

    /// Returns how fred connects.
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// Returns the time for a connection attempt.
    pub(crate) fn connect_timeout(&self) -> Duration {
        self.settings.connect_timeout
    }

    /// Returns the time for the reply to a command.
    pub(crate) fn command_timeout(&self) -> Duration {
        self.settings.command_timeout
    }

    /// Returns what knows where the server is.
    pub(crate) fn discovery(&self) -> &Arc<Discovery> {
        &self.discovery
    }

    /// Returns the longest pause between two attempts. Where others tell who the master is, they bound the load.
    pub(crate) fn longest_pause(&self) -> Duration {
        if self.discovery.asks() { Duration::from_millis(500) } else { Duration::from_secs(3) }
    }

    /// Keeps up to date where the server is, as long as it is polled.
    pub(crate) async fn follow(self) {
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
    pub(crate) async fn dial(&self, max_bytes: usize) -> Result<RedisConnection, String> {
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
                    connection = RedisConnection::dial(self, spot.clone(), max_bytes) => return connection,
                    () = self.discovery.left(&spot) => {}
                    () = hurry => {}
                }
            }
        };
        let connection = tokio::time::timeout(self.settings.connect_timeout, dialing).await;
        let connection = connection.unwrap_or_else(|_| Err("no answer".to_owned()));
        if connection.is_ok() {
            self.discovery.note_reached();
        }
        connection
    }

    /// Returns the URL with secrets masked.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Notes that a connection got no answer in time: the broker finds out whether Redis is lost, for all shards.
    pub(crate) fn suspect(&self) {
        self.suspicion.notify_one();
    }

    /// Waits until a connection got no answer in time. Safe to cancel.
    pub(crate) async fn suspected(&self) {
        self.suspicion.notified().await;
    }

    /// Says what to do about an error of a connection.
    pub fn hint(&self, reason: &str) -> &'static str {
        let says = |words: &[&str]| words.iter().any(|word| reason.contains(word));
        if !hint(reason).is_empty() {
            hint(reason)
        } else if !tls::hint(reason).is_empty() {
            tls::hint(reason)
        } else if self.config.tls.is_some() && says(&["no answer"]) {
            "nothing answers there, or it does not speak TLS: check host and port in redis.url"
        } else if says(&["NOAUTH"]) {
            hint("NOAUTH")
        } else if says(&["invalid password", "ERR AUTH"]) {
            "check user and password in redis.url"
        } else if says(&["DB index"]) {
            "it has no database of this number: check the end of redis.url"
        } else if self.config.tls.is_none() && says(&["reset by peer"]) {
            "the server closes the connection: if it speaks TLS, write rediss:// in redis.url; otherwise check host and port"
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
}

/// Returns how fred connects to what the URL names.
fn config(url: &RedisUrl, tls: &settings::Tls) -> Result<Config, TargetError> {
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
    let tls = url.tls.then(|| tls::client_config(tls)).transpose().map_err(TargetError)?;
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

/// Describes an error by its text: no session keys, no control characters.
pub(crate) fn describe_text(text: &str) -> String {
    // Redis quotes the arguments of a command that it does not know: a message would stand in the log.
    let text = text.split_once(", with args beginning with").map_or(text, |(before, _)| before);
    mask_sessions(text).escape_debug().to_string()
}
