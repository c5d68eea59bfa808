//! Redis URLs, which hold passwords.

use std::fmt;

use super::Error;

/// A Redis URL. `Debug` and `Display` mask its password.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl(String);

impl RedisUrl {
    /// Takes a URL as it is written; none if it is empty.
    pub(super) fn written(url: String, key: &'static str) -> Result<Option<Self>, Error> {
        const SCHEMES: [&str; 7] = [
            "redis:",
            "rediss:",
            "unix:",
            "redis-sentinel:",
            "rediss-sentinel:",
            "redis-cluster:",
            "rediss-cluster:",
        ];
        if url.is_empty() {
            return Ok(None);
        }
        if SCHEMES.iter().any(|scheme| url.starts_with(scheme)) {
            return Ok(Some(Self(url)));
        }
        let problem = "expected redis://, rediss://, unix:, redis-sentinel:// or redis-cluster://, for example redis://127.0.0.1:6379/0";
        Err(Error::Senseless { key, problem: problem.to_owned() })
    }

    /// Returns the URL with its password.
    pub fn secret(&self) -> &str {
        &self.0
    }

    /// Returns the URL with all that may be a secret masked, however it is written: a password may hold an `@` that
    /// should have been escaped.
    pub fn masked(&self) -> String {
        let (scheme, rest) = self.0.split_once(':').unwrap_or(("", &self.0));
        let rest = match rest.rsplit_once('@') {
            Some((_, host)) => format!("//***@{host}"),
            // Without a host, what stands in its place may be a password.
            None if scheme != "unix" && !url::Url::parse(&self.0).is_ok_and(|url| url.has_host()) => {
                "***".to_owned()
            }
            None => rest.to_owned(),
        };
        let rest = match rest.split_once('?') {
            Some((path, query)) if query.to_ascii_lowercase().contains("password") => format!("{path}?***"),
            _ => rest,
        };
        format!("{scheme}:{rest}")
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.masked())
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.masked())
    }
}
