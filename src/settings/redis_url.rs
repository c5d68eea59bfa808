//! Redis URLs, parsed like redis-py does, so that Django and the gateway can share one. They contain passwords.

use std::borrow::Cow;
use std::fmt::{self, Write};
use std::path::PathBuf;

use percent_encoding::percent_decode_str;
use url::form_urlencoded;

use super::error::SettingsError;

/// A parsed Redis URL. `Debug` and `Display` mask its passwords.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl {
    scheme: &'static str,
    /// The server or servers.
    pub servers: Servers,
    /// Whether the connections speak TLS.
    pub tls: bool,
    /// The ACL user.
    pub username: Option<String>,
    /// The password.
    pub password: Option<String>,
    /// The number of the database.
    pub database: u8,
}

/// Host and port.
pub type Address = (String, u16);

/// The server or servers that a URL names.
#[derive(Clone, PartialEq, Eq)]
pub enum Servers {
    /// One server.
    Single(Address),
    /// One server, by its Unix socket.
    Unix(PathBuf),
    /// The master of a service, found by any of these sentinels.
    Sentinel {
        /// The sentinels.
        sentinels: Vec<Address>,
        /// The name of the service.
        service: String,
        /// The ACL user of the sentinels themselves.
        username: Option<String>,
        /// The password of the sentinels themselves.
        password: Option<String>,
    },
    /// A cluster, found by any of these nodes.
    Cluster(Vec<Address>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum UrlKind {
    Single,
    Unix,
    Sentinel,
    Cluster,
}

const SCHEMES: [(&str, UrlKind, bool); 7] = [
    ("redis", UrlKind::Single, false),
    ("rediss", UrlKind::Single, true),
    ("unix", UrlKind::Unix, false),
    ("redis-sentinel", UrlKind::Sentinel, false),
    ("rediss-sentinel", UrlKind::Sentinel, true),
    ("redis-cluster", UrlKind::Cluster, false),
    ("rediss-cluster", UrlKind::Cluster, true),
];

/// Parameters of redis-py that are settings here.
const SETTINGS: [(&str, &str); 7] = [
    ("socket_timeout", "redis.command_timeout_seconds"),
    ("socket_connect_timeout", "redis.connect_timeout_seconds"),
    ("timeout", "redis.command_timeout_seconds"),
    ("ssl_ca_certs", "redis.ca_file"),
    ("ssl_certfile", "redis.client_cert_file"),
    ("ssl_keyfile", "redis.client_key_file"),
    ("ssl_cert_reqs", "redis.verify_certificate"),
];

const REDIS_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

impl Default for RedisUrl {
    /// The Redis on 127.0.0.1:6379.
    fn default() -> Self {
        let servers = Servers::Single(("127.0.0.1".to_owned(), REDIS_PORT));
        Self { scheme: "redis", servers, tls: false, username: None, password: None, database: 0 }
    }
}

type Problem = Cow<'static, str>;

impl RedisUrl {
    /// Returns the start of a command line that reaches this Redis from its own machine. It has neither a host nor a
    /// secret, because the demo page shows it to everybody.
    pub fn command_line(&self) -> String {
        let port = match &self.servers {
            Servers::Single((_, port)) if *port != REDIS_PORT => format!(" -p {port}"),
            _ => String::new(),
        };
        let database = if self.database == 0 { String::new() } else { format!(" -n {}", self.database) };
        format!("redis-cli{port}{database}")
    }

    /// Parses the value of a setting; none if it is empty.
    pub(super) fn written(url: &str, key: &'static str) -> Result<Option<Self>, SettingsError> {
        if url.is_empty() {
            return Ok(None);
        }
        let parsed = Self::parse(url);
        parsed.map(Some).map_err(|problem| SettingsError::Invalid { key, problem: problem.into_owned() })
    }

    /// Parses a URL. Errors quote no part that may be a secret.
    fn parse(url: &str) -> Result<Self, Problem> {
        let known = SCHEMES.iter().find_map(|(scheme, kind, tls)| {
            Some((*scheme, *kind, *tls, url.strip_prefix(scheme)?.strip_prefix(':')?))
        });
        let (scheme, kind, tls, rest) = known.ok_or(
            "expected redis://, rediss://, unix:, redis-sentinel:// or redis-cluster://, for example redis://127.0.0.1:6379/0",
        )?;
        if url.contains('#') {
            return Err("in user and password write @ / : # % as %40 %2F %3A %23 %25".into());
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = match rest.strip_prefix("//") {
            Some(rest) => rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash)),
            None if kind == UrlKind::Unix => ("", rest),
            None => return Err(format!("expected {scheme}://host:port").into()),
        };
        let (login, host) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (username, password) = login.split_once(':').unwrap_or((login, ""));
        let mut query = Query::parse(query)?;
        let part = |written: &str, queried: Option<String>| match decoded(written)? {
            own if own.is_empty() => Ok(queried),
            own => Ok::<_, Problem>(Some(own)),
        };
        let username = part(username, query.take("username"))?;
        let password = part(password, query.take("password"))?;
        let database = match (query.take("db"), kind) {
            (Some(number), _) => number,
            (None, UrlKind::Unix) => String::new(),
            (None, _) => decoded(path)?.trim_matches('/').to_owned(),
        };
        let database = match database.trim() {
            "" => 0,
            number => number.parse().map_err(|_| "the database has to be a number from 0 to 255")?,
        };
        let servers = match kind {
            UrlKind::Single => Servers::Single(address(host, REDIS_PORT)?),
            UrlKind::Unix => Servers::Unix(socket(host, path)?),
            UrlKind::Sentinel => Servers::Sentinel {
                sentinels: query.nodes(host, SENTINEL_PORT)?,
                service: query.take("sentinelServiceName").ok_or(
                    "the name of the service is missing: ?sentinelServiceName=mymaster, as `sentinel monitor` calls it",
                )?,
                username: query.take("sentinelUsername"),
                password: query.take("sentinelPassword"),
            },
            UrlKind::Cluster if database != 0 => return Err("a cluster has database 0 only".into()),
            UrlKind::Cluster => Servers::Cluster(query.nodes(host, REDIS_PORT)?),
        };
        query.expect_empty()?;
        Ok(Self { scheme, servers, tls, username, password, database })
    }
}

/// The parameters that are not consumed yet.
struct Query(Vec<(String, String)>);

impl Query {
    fn parse(query: &str) -> Result<Self, Problem> {
        let mut pairs = Vec::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            if value.is_empty() {
                return Err("a parameter has no value; in a password write & as %26".into());
            }
            pairs.push((name.into_owned(), value.into_owned()));
        }
        Ok(Self(pairs))
    }

    /// Removes a parameter and returns its first value.
    fn take(&mut self, name: &str) -> Option<String> {
        let first = self.0.iter().find(|(own, _)| own == name)?.1.clone();
        self.0.retain(|(own, _)| own != name);
        Some(first)
    }

    /// Removes the `node` parameters. Returns the URL's host followed by these nodes.
    fn nodes(&mut self, host: &str, port: u16) -> Result<Vec<Address>, Problem> {
        let (nodes, rest) = std::mem::take(&mut self.0).into_iter().partition(|(name, _)| name == "node");
        self.0 = rest;
        let nodes: Vec<(String, String)> = nodes;
        let nodes = nodes.iter().map(|(_, node)| address(node, port));
        std::iter::once(address(host, port)).chain(nodes).collect()
    }

    fn expect_empty(&self) -> Result<(), Problem> {
        let Some((name, _)) = self.0.first() else { return Ok(()) };
        let setting = SETTINGS.iter().find(|(known, _)| known == name);
        let hint = setting.map_or_else(
            || "db, username and password are known; redis-sentinel:// also has sentinelServiceName, sentinelUsername, sentinelPassword and node, redis-cluster:// has node".to_owned(),
            |(_, setting)| format!("set {setting}"),
        );
        Err(format!("parameter {:?} is not known: {hint}", shortened(name)).into())
    }
}

fn shortened(name: &str) -> String {
    name.chars().take(40).collect()
}

fn decoded(text: &str) -> Result<String, Problem> {
    let text = percent_decode_str(text).decode_utf8();
    text.map(Cow::into_owned).map_err(|_| "a percent-encoded part is not UTF-8".into())
}

/// Parses `host[:port]`. The host defaults to `localhost`, like in redis-py.
fn address(written: &str, default_port: u16) -> Result<Address, Problem> {
    let bad = || {
        Problem::from(
            "expected host:port, for example 127.0.0.1:6379; in user and password write @ / : # % as %40 %2F %3A %23 %25",
        )
    };
    let (host, port) = if let Some(rest) = written.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or_else(bad)?;
        let address: std::net::Ipv6Addr = host.parse().map_err(|_| bad())?;
        let port = if rest.is_empty() { "" } else { rest.strip_prefix(':').ok_or_else(bad)? };
        (address.to_string(), port)
    } else {
        let (host, port) = written.split_once(':').unwrap_or((written, ""));
        (decoded(host)?, port)
    };
    let port = match port {
        "" => default_port,
        port => port.parse().ok().filter(|port| *port != 0).ok_or_else(bad)?,
    };
    let sound = |c: char| c.is_alphanumeric() || ".-_:".contains(c);
    if !host.chars().all(sound) {
        return Err(bad());
    }
    Ok((if host.is_empty() { "localhost".to_owned() } else { host.to_lowercase() }, port))
}

/// Parses the path of a Unix socket.
fn socket(host: &str, path: &str) -> Result<PathBuf, Problem> {
    let path = decoded(path)?;
    if !host.is_empty() || !path.starts_with('/') || path.len() < 2 || path.contains('\0') {
        return Err("expected unix:/path/to/redis.sock".into());
    }
    Ok(path.into())
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let login = if self.username.is_some() || self.password.is_some() { "***@" } else { "" };
        let mut query = String::new();
        let mut add = |name: &str, value: &dyn fmt::Display| {
            let separator = if query.is_empty() { '?' } else { '&' };
            write!(query, "{separator}{name}={value}")
        };
        match &self.servers {
            Servers::Unix(path) => {
                let slashes = if login.is_empty() { "" } else { "//" };
                write!(f, "unix:{slashes}{login}{}", path.display())?;
                if self.database != 0 {
                    add("db", &self.database)?;
                }
                return f.write_str(&query);
            }
            Servers::Single(address) => write!(f, "{}://{login}{}", self.scheme, HostPort(address))?,
            Servers::Sentinel { sentinels: nodes, .. } | Servers::Cluster(nodes) => {
                let (first, further) = nodes.split_first().ok_or(fmt::Error)?;
                write!(f, "{}://{login}{}", self.scheme, HostPort(first))?;
                if let Servers::Sentinel { service, .. } = &self.servers {
                    add("sentinelServiceName", &service.escape_debug())?;
                }
                for node in further {
                    add("node", &HostPort(node))?;
                }
            }
        }
        if self.database != 0 {
            write!(f, "/{}", self.database)?;
        }
        f.write_str(&query)
    }
}

struct HostPort<'a>(&'a Address);

impl fmt::Display for HostPort<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (host, port) = self.0;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(url: &str, shown: &str) {
        let read = RedisUrl::parse(url).map_or_else(Cow::into_owned, |url| url.to_string());
        assert_eq!(read, shown, "{url}");
    }

    #[test]
    fn a_command_line_has_port_and_database_and_no_secret() {
        for (url, line) in [
            ("redis://u:geheim@10.0.0.1:6379/0", "redis-cli"),
            ("redis://127.0.0.1:6380/2", "redis-cli -p 6380 -n 2"),
            ("unix:/run/redis.sock?db=1&password=geheim", "redis-cli -n 1"),
            ("redis-cluster://a:7000", "redis-cli"),
        ] {
            assert_eq!(RedisUrl::parse(url).map(|url| url.command_line()).unwrap(), line, "{url}");
        }
    }

    #[test]
    fn sentinels_and_clusters_have_their_nodes_in_the_query() {
        check(
            "redis-sentinel://u:geheim@a/2?sentinelServiceName=m&node=b:26380&sentinelPassword=geheim&node=[::1]",
            "redis-sentinel://***@a:26379/2?sentinelServiceName=m&node=b:26380&node=[::1]:26379",
        );
        check(
            "redis-sentinel://a?sentinelServiceName=m&db=3",
            "redis-sentinel://a:26379/3?sentinelServiceName=m",
        );
        check("rediss-cluster://a:7000?node=b&password=geheim", "rediss-cluster://***@a:7000?node=b:6379");
        check("redis-cluster://a/0", "redis-cluster://a:6379");
    }

    #[test]
    fn parameters_of_redis_py_that_are_settings_here_are_refused_with_their_setting() {
        for (name, setting) in [
            ("socket_timeout", "redis.command_timeout_seconds"),
            ("ssl_ca_certs", "redis.ca_file"),
            ("ssl_certfile", "redis.client_cert_file"),
            ("ssl_keyfile", "redis.client_key_file"),
            ("ssl_cert_reqs", "redis.verify_certificate"),
        ] {
            let problem = RedisUrl::parse(&format!("rediss://host?{name}=x")).expect_err(name);
            assert!(problem.ends_with(&format!("set {setting}")), "{problem}");
        }
    }

    #[test]
    fn an_invalid_redis_url_is_refused_and_not_quoted() {
        for url in [
            "redis:",
            "redis:geheim",
            "redis:joe:geheim@host:1/0",
            "redis://joe:12/geheim@host:1/0",
            "redis://:p@s/s#geheim%rd@host:1/0",
            "redis://:geheim",
            "redis://host:geheim",
            "redis://host:0",
            "redis://host:65536",
            "redis://host:6379/geheim",
            "redis://host/0/1x",
            "redis://host?geheim",
            "redis://host?password=a&geheim",
            "redis://:%ff@host",
            "redis://[geheim]:1",
            "redis://[::1]geheim",
            "redis://ho st",
            "redis://host\ngeheim",
            "unix:",
            "unix:geheim",
            "unix://geheim",
            "unix://geheim/run/redis.sock",
            "unix:/",
            "http://geheim",
            "REDIS://geheim",
        ] {
            let problem = RedisUrl::parse(url).map(|url| url.to_string()).expect_err(url);
            assert!(!problem.contains("geheim"), "{url}: {problem}");
        }
    }
}
