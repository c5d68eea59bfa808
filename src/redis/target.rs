//! A Redis to connect to: its URL, its settings and its discovery.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::address::ConnectOptions;
use super::connection::{IS_REPLICA, RedisConnection};
use super::discovery::{Discovery, Endpoint};
use super::error_reply::hint;
use super::{sentinel, tls, topology};
use crate::settings::{self, Servers};

/// Time after which the attempt to reach a cluster node is abandoned for another node.
const HURRY: Duration = Duration::from_secs(1);

/// Why the settings of a Redis are unusable.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TargetError(String);

/// A Redis to connect to. Clones share the discovery.
#[derive(Debug, Clone)]
pub struct Target {
    options: ConnectOptions,
    settings: settings::RedisSettings,
    name: String,
    discovery: Arc<Discovery>,
    suspicion: Arc<Notify>,
}

impl Target {
    /// Takes the settings. Without a URL it is the Redis on 127.0.0.1:6379.
    ///
    /// # Errors
    ///
    /// When TLS cannot be set up.
    pub fn new(settings: &settings::RedisSettings) -> Result<Self, TargetError> {
        let options = ConnectOptions::new(settings).map_err(TargetError)?;
        let discovery = Discovery::new(&options);
        let name = options.url.to_string();
        Ok(Self { options, settings: settings.clone(), name, discovery, suspicion: Arc::default() })
    }

    /// Returns the number of the database.
    pub fn database(&self) -> u8 {
        self.options.url.database
    }

    /// Returns true for a cluster. There each node reports events of its own keys only.
    pub(crate) fn is_cluster(&self) -> bool {
        self.options.is_cluster()
    }

    /// Returns how to connect.
    pub(crate) fn options(&self) -> &ConnectOptions {
        &self.options
    }

    /// Returns the timeout of a connection attempt.
    pub(crate) fn connect_timeout(&self) -> Duration {
        self.settings.connect_timeout
    }

    /// Returns the timeout of a command.
    pub(crate) fn command_timeout(&self) -> Duration {
        self.settings.command_timeout
    }

    /// Returns the discovery of the server.
    pub(crate) fn discovery(&self) -> &Arc<Discovery> {
        &self.discovery
    }

    /// Returns the longest pause between attempts. Discovery bounds their load, so that with it the pause is shorter.
    pub(crate) fn longest_pause(&self) -> Duration {
        if self.discovery.is_dynamic() { Duration::from_millis(500) } else { Duration::from_secs(3) }
    }

    /// Runs the discovery. Returns at once if the URL names the server.
    pub(crate) async fn follow(self) {
        match self.options.url.servers {
            Servers::Sentinel { .. } => sentinel::follow(self.options, self.discovery, self.name).await,
            Servers::Cluster(_) => topology::follow(self.options, self.discovery).await,
            Servers::Single(_) | Servers::Unix(_) => {}
        }
    }

    /// Connects to the current server, within the connection timeout. If the master changes meanwhile, the attempt moves
    /// to the new one: the former may accept connections and never answer.
    ///
    /// # Errors
    ///
    /// With a description.
    pub(crate) async fn dial(&self, max_bytes: usize) -> Result<RedisConnection, String> {
        let dialing = async {
            loop {
                let endpoint: Endpoint = self.discovery.locate().await?;
                // In a cluster any other node serves as well.
                let hurry = async {
                    if !self.is_cluster() {
                        pending::<()>().await;
                    }
                    tokio::time::sleep(HURRY).await;
                };
                tokio::select! {
                    connection = RedisConnection::dial(&self.options, endpoint.clone(), max_bytes) => return connection,
                    () = self.discovery.left(&endpoint) => {}
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

    /// Records that a connection got no reply in time. The broker then verifies whether Redis is lost, for all shards.
    pub(crate) fn suspect(&self) {
        self.suspicion.notify_one();
    }

    /// Waits until a connection got no reply in time. Cancel-safe.
    pub(crate) async fn suspected(&self) {
        self.suspicion.notified().await;
    }

    /// Returns the cure for a connection error.
    pub fn hint(&self, reason: &str) -> &'static str {
        let mentions = |words: &[&str]| words.iter().any(|word| reason.contains(word));
        if !hint(reason).is_empty() {
            hint(reason)
        } else if !tls::hint(reason).is_empty() {
            tls::hint(reason)
        } else if self.options.tls.is_some() && mentions(&["no answer"]) {
            "no answer: the server is down or does not speak TLS; check host and port in redis.url"
        } else if mentions(&["NOAUTH"]) {
            hint("NOAUTH")
        } else if mentions(&["invalid password", "ERR AUTH"]) {
            "check user and password in redis.url"
        } else if mentions(&["DB index"]) {
            "the database does not exist: check the number at the end of redis.url"
        } else if self.options.tls.is_none() && mentions(&["reset by peer"]) {
            "the server closes the connection: if it speaks TLS, write rediss:// in redis.url; otherwise check host and port"
        } else if mentions(&["lookup", "resolve", "Name or service"]) {
            "the host name does not resolve: check redis.url"
        } else if mentions(&["Decode", "frame_type", "Protocol", "parse", "unknown command"]) {
            "the server is not Redis 6 or later: check host and port in redis.url"
        } else if mentions(&[IS_REPLICA]) {
            "name the master in redis.url, or use sentinels: redis-sentinel://"
        } else if mentions(&["sentinel"]) {
            "check the sentinels and sentinelServiceName in redis.url"
        } else if self.settings.url.is_some() {
            "start Redis, or correct redis.url; without a redis.url the embedded store is used"
        } else {
            "start Redis or ws4redis, or set redis.url"
        }
    }
}
