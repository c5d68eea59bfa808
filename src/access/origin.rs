//! The Origin rule: a page of another site must not use a visitor's session.
//!
//! It holds whenever a session cookie is sent (CWE-1385, cross-site WebSocket hijacking).

use std::fmt;

use super::site::{Entry, Site};

/// The origins that may connect with a session cookie, besides the host that the request itself names.
#[derive(Debug, Clone, Default)]
pub struct Allowed {
    all: bool,
    list: Vec<Entry>,
}

/// Why an origin is refused; its text names both sides and a hint that helps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    origin: String,
    host: String,
}

impl Refused {
    /// Takes both as far as they are to be shown.
    fn new(origin: &str, host: &str) -> Self {
        Self { origin: origin.chars().take(200).collect(), host: host.chars().take(200).collect() }
    }

    /// Returns the origin, as far as it is to be shown.
    pub fn origin(&self) -> &str {
        &self.origin
    }
}

impl std::error::Error for Refused {}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (origin, host) = (self.origin.escape_debug(), self.host.escape_debug());
        let only = "a visitor's session is accepted from the site's own pages only";
        if self.origin == "null" {
            return write!(
                f,
                "the page has no origin (null), as one from a file, in a sandboxed frame or behind a redirect, and this server's host is {host}: {only}. \
                 Serve the page from the site; no setting admits null alone, since any site can make such a frame"
            );
        }
        let site = Site::parse(&self.origin).filter(|site| site.scheme.is_some());
        let listed = Entry::parse(&self.origin).ok();
        if !site.zip(listed).is_some_and(|(site, entry)| entry.admits(&site)) {
            return write!(
                f,
                "{origin} is no origin that a browser sends, and this server's host is {host}: {only}"
            );
        }
        write!(
            f,
            "the page's origin {origin} is not this server's host {host}: {only}. \
             Behind nginx, pass the host on with the line\n    proxy_set_header Host $host;\n\
             or name the origin in the setting origin.allowed"
        )
    }
}

impl Allowed {
    /// Takes the setting's list: origins (`https://www.example.com`), host names, both with all their subdomains where
    /// the host begins with a dot or `*.`, as Django has it, or `*` for all.
    ///
    /// # Errors
    ///
    /// When an entry can match nothing; says why.
    pub fn new(list: &[String]) -> Result<Self, String> {
        let all = list.iter().any(|entry| entry.trim() == "*");
        let entries = list.iter().map(|entry| entry.trim()).filter(|entry| *entry != "*");
        let list = entries
            .map(|entry| Entry::parse(entry).map_err(|unfit| format!("{entry:?} {unfit}")))
            .collect::<Result<_, _>>()?;
        Ok(Self { all, list })
    }

    /// Checks the `Origin` lines of a request against its `Host`.
    ///
    /// Host names are compared, and ports only if both name one. No origin at all is allowed: it is no browser.
    ///
    /// # Errors
    ///
    /// When the origin is another host's, `null`, malformed, or given twice.
    pub fn check(&self, origins: &[&[u8]], host: &str) -> Result<(), Refused> {
        let [origin] = origins else {
            let text = String::from_utf8_lossy(&origins.join(&b", "[..])).into_owned();
            return if origins.is_empty() { Ok(()) } else { Err(Refused::new(&text, host)) };
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
        if admitted { Ok(()) } else { Err(Refused::new(&text, host)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(allowed: &[&str], origin: &str, host: &str, expected: bool) {
        let allowed: Vec<_> = allowed.iter().map(|entry| (*entry).to_owned()).collect();
        let allowed = Allowed::new(&allowed).unwrap();
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
        let allowed = Allowed::default();
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
        let refused =
            Allowed::default().check(&[b"https://evil.example"], "example.com").unwrap_err().to_string();
        for part in ["evil.example", "example.com", "proxy_set_header Host $host;"] {
            assert!(refused.contains(part), "{refused}");
        }
    }

    #[test]
    fn the_refusal_never_advises_what_has_no_effect() {
        for origin in
            ["null", "file://", "wss://a.example", "https://a.example/b", "https://a b", "a.example"]
        {
            let refused =
                Allowed::default().check(&[origin.as_bytes()], "b.example").unwrap_err().to_string();
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
                Allowed::default().check(&[origin.as_bytes()], "b.example").unwrap_err().to_string();
            assert!(refused.contains("origin.allowed"), "{refused}");
            check(&[origin], origin, "b.example", true);
        }
    }
}
