//! The Origin rule: a page of another site must not use a visitor's session.
//!
//! It applies whenever a session cookie is sent (CWE-1385, cross-site WebSocket hijacking).

use std::fmt;

use super::allowed_hosts::HostPatterns;
use super::site::{OriginPattern, Site};

/// The origins that may connect with a session cookie, in addition to the request's own host.
#[derive(Debug, Clone, Default)]
pub struct AllowedOrigins {
    all: bool,
    list: Vec<OriginPattern>,
    hosts: HostPatterns,
}

/// The refusal of an origin. Its text names the origin, the host and the cure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginRefused {
    origin: String,
    host: String,
}

impl OriginRefused {
    /// Truncates both to the length that is shown.
    fn new(origin: &str, host: &str) -> Self {
        Self { origin: origin.chars().take(200).collect(), host: host.chars().take(200).collect() }
    }

    /// Returns the origin, truncated for display.
    pub fn origin(&self) -> &str {
        &self.origin
    }
}

impl std::error::Error for OriginRefused {}

impl fmt::Display for OriginRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (origin, host) = (self.origin.escape_debug(), self.host.escape_debug());
        let only = "visitor sessions are accepted only from pages of the site";
        if self.origin == "null" {
            return write!(
                f,
                "the page has no origin (null), as one from a file, in a sandboxed frame or behind a redirect, and the host is {host}: {only}. \
                 Serve the page from the site; no setting admits null alone, since any site can make such a frame"
            );
        }
        if self.origin.is_empty() {
            return write!(f, "the request has no Origin, and the host is {host}: {only}");
        }
        let site = Site::parse(&self.origin).filter(|site| site.scheme.is_some());
        let listed = OriginPattern::parse(&self.origin).ok();
        if !site.zip(listed).is_some_and(|(site, entry)| entry.admits(&site)) {
            return write!(
                f,
                "{origin} is not an origin that a browser sends, and the host is {host}: {only}"
            );
        }
        write!(
            f,
            "the origin {origin} of the page does not match the host {host}: {only}. \
             Behind nginx, add the line: proxy_set_header Host $http_host; \
             otherwise add the origin to the setting origin.allowed"
        )
    }
}

impl AllowedOrigins {
    /// Parses `origin.allowed`: origins (`https://www.example.com`), host names, both including subdomains if the host
    /// starts with a dot or `*.` as in Django, or `*` for all.
    ///
    /// # Errors
    ///
    /// When an entry can match nothing, with the reason.
    pub fn new(list: &[String]) -> Result<Self, String> {
        let all = list.iter().any(|entry| entry.trim() == "*");
        let entries = list.iter().map(|entry| entry.trim()).filter(|entry| *entry != "*");
        let list = entries
            .map(|entry| OriginPattern::parse(entry).map_err(|error| format!("{entry:?} {error}")))
            .collect::<Result<_, _>>()?;
        Ok(Self { all, list, hosts: HostPatterns::default() })
    }

    /// Adds `origin.allowed_hosts`: hosts as in Django's `ALLOWED_HOSTS`.
    ///
    /// # Errors
    ///
    /// When an entry is no host, with the reason.
    pub fn with_hosts(self, hosts: &[String]) -> Result<Self, String> {
        Ok(Self { hosts: HostPatterns::new(hosts)?, ..self })
    }

    /// Checks the `Origin` lines of a request against its `Host`.
    ///
    /// Host names are compared, and ports only if both have one. A request without an origin is allowed, because browsers
    /// always send one, unless there are hosts as in Django's `ALLOWED_HOSTS`, which Channels compares with every request.
    ///
    /// # Errors
    ///
    /// When the origin is another host's, `null`, malformed, or given twice.
    pub fn check(&self, origins: &[&[u8]], host: &str) -> Result<(), OriginRefused> {
        let [origin] = origins else {
            let text = String::from_utf8_lossy(&origins.join(&b", "[..])).into_owned();
            let is_allowed =
                origins.is_empty() && (self.all || self.hosts.is_empty() || self.hosts.admit(None));
            return if is_allowed { Ok(()) } else { Err(OriginRefused::new(&text, host)) };
        };
        if self.all {
            return Ok(());
        }
        let text = String::from_utf8_lossy(origin);
        let site = Site::parse(&text).filter(|site| site.scheme.is_some());
        let own = Site::parse(host).filter(|own| own.scheme.is_none());
        let admitted = site.is_some_and(|site| {
            let is_own = own.is_some_and(|own| {
                site.host == own.host && (site.port.is_none() || own.port.is_none() || site.port == own.port)
            });
            is_own || self.list.iter().any(|entry| entry.admits(&site))
        });
        if admitted || self.hosts.admit(Some(&text)) { Ok(()) } else { Err(OriginRefused::new(&text, host)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(allowed: &[&str], origin: &str, host: &str, expected: bool) {
        let allowed: Vec<_> = allowed.iter().map(|entry| (*entry).to_owned()).collect();
        let allowed = AllowedOrigins::new(&allowed).unwrap();
        assert_eq!(allowed.check(&[origin.as_bytes()], host).is_ok(), expected, "{origin} on {host}");
    }

    #[test]
    fn hosts_are_compared_and_ports_only_if_both_name_one() {
        check(&[], "https://example.com", "example.com", true);
        check(&[], "https://EXAMPLE.com", "example.COM", true);
        check(&[], "https://example.com", "example.com:8443", true);
        check(&[], "https://example.com:8443", "example.com", true);
        check(&[], "https://example.com:8443", "example.com:8443", true);
        check(&[], "https://example.com:8443", "example.com:8444", false);
        check(&[], "http://[::1]:8000", "[::1]:8000", true);
        check(&[], "http://[::1]:8000", "[::2]:8000", false);
    }

    #[test]
    fn foreign_and_malformed_origins_are_refused() {
        for origin in [
            "null",
            "",
            "https://evil.example",
            "https://example.com.evil.example",
            "https://example.com@evil.example",
            "https://evil.example\\example.com",
            "https://example.com/",
            "https://example.com/path",
            "example.com",
            "://example.com",
            "https://",
            "https://example.com:port",
            "https://example.com, https://example.com",
        ] {
            check(&[], origin, "example.com", false);
        }
        let allowed = AllowedOrigins::default();
        assert!(allowed.check(&[], "example.com").is_ok());
        assert!(allowed.check(&[b"https://example.com", b"https://example.com"], "example.com").is_err());
        assert!(allowed.check(&[b"https://\xff"], "example.com").is_err());
    }

    #[test]
    fn a_list_or_a_star_allows_more() {
        check(&["https://a.example"], "https://a.example", "b.example", true);
        check(&["https://a.example"], "http://a.example", "b.example", false);
        check(&["a.example"], "http://a.example:81", "b.example", true);
        check(&["a.example"], "http://b.example", "b.example", true);
        check(&["*"], "null", "b.example", true);
    }

    #[test]
    fn the_refusal_names_both_hosts_and_the_cure() {
        let refused = AllowedOrigins::default()
            .check(&[b"https://evil.example"], "example.com")
            .unwrap_err()
            .to_string();
        for part in ["evil.example", "example.com", "proxy_set_header Host $http_host;"] {
            assert!(refused.contains(part), "{refused}");
        }
    }

    #[test]
    fn the_refusal_never_suggests_a_setting_without_effect() {
        for origin in
            ["null", "file://", "wss://a.example", "https://a.example/b", "https://a b", "a.example"]
        {
            let refused =
                AllowedOrigins::default().check(&[origin.as_bytes()], "b.example").unwrap_err().to_string();
            assert!(refused.contains("b.example"), "{refused}");
            assert!(!refused.contains("origin.allowed") && !refused.contains("proxy_set"), "{refused}");
        }
        for origin in [
            "https://a.example",
            "http://[::1]:8000",
            "capacitor://localhost",
            "https://xn--mnchen-3ya.example:1",
        ] {
            let refused =
                AllowedOrigins::default().check(&[origin.as_bytes()], "b.example").unwrap_err().to_string();
            assert!(refused.contains("origin.allowed"), "{refused}");
            check(&[origin], origin, "b.example", true);
        }
    }
}
