//! Server addresses, and everything that a connection needs besides: login, database and TLS.

use std::fmt;
use std::sync::Arc;

use rustls::ClientConfig;

use super::tls;
use crate::settings::{self, Address, RedisUrl, Servers};

/// The address of a Redis server, a cluster node or a sentinel. Cheap to clone: it is the key of several maps.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ServerAddress {
    pub(crate) host: Arc<str>,
    pub(crate) port: u16,
}

impl ServerAddress {
    pub(crate) fn new(host: &str, port: u16) -> Self {
        Self { host: host.into(), port }
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// How to connect: the URL, with TLS set up if it asks for TLS. `Debug` masks passwords.
#[derive(Debug, Clone)]
pub(crate) struct ConnectOptions {
    pub(crate) url: RedisUrl,
    pub(crate) tls: Option<Arc<ClientConfig>>,
}

impl ConnectOptions {
    /// Takes the settings. Without a URL it is the Redis on 127.0.0.1:6379.
    ///
    /// # Errors
    ///
    /// When TLS cannot be set up, with the key of the setting and the cure.
    pub(crate) fn new(settings: &settings::RedisSettings) -> Result<Self, String> {
        let url = settings.url.clone().unwrap_or_default();
        let tls = url.tls.then(|| tls::client_config(&settings.tls)).transpose()?;
        Ok(Self { url, tls: tls.map(Arc::new) })
    }

    pub(crate) fn is_cluster(&self) -> bool {
        matches!(self.url.servers, Servers::Cluster(_))
    }

    /// Returns the addresses in the URL: the server, the sentinels, or nodes of the cluster.
    pub(crate) fn addresses(&self) -> Vec<ServerAddress> {
        let address = |(host, port): &Address| ServerAddress::new(host, *port);
        match &self.url.servers {
            Servers::Single(server) => vec![address(server)],
            Servers::Unix(path) => vec![ServerAddress::new(&path.to_string_lossy(), 0)],
            Servers::Sentinel { sentinels: all, .. } | Servers::Cluster(all) => {
                all.iter().map(address).collect()
            }
        }
    }
}
