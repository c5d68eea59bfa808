//! The Origin rule: a page of another site must not use a visitor's session.
//!
//! It holds whenever a session cookie is sent (CWE-1385, cross-site WebSocket hijacking).

use std::fmt;

/// The origins that may connect with a session cookie, beside the host that the request itself names.
#[derive(Debug, Clone, Default)]
pub struct Allowed {
    all: bool,
    list: Vec<Site>,
}

/// Why an origin is refused; its text names both sides and the usual cure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    origin: String,
    host: String,
}

impl Refused {
    /// Returns the origin, as far as it is to be shown.
    pub fn origin(&self) -> &str {
        &self.origin
    }
}

impl std::error::Error for Refused {}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the page's origin {} is not this server's host {}: a visitor's session is accepted from the site's own pages only. \
             Behind nginx, pass the host on with the line\n    proxy_set_header Host $host;\n\
             or name the origin in the setting origin.allowed",
            self.origin.escape_debug(),
            self.host.escape_debug(),
        )
    }
}

/// Host and, if it was named, port; the scheme only where a list names it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Site {
    scheme: Option<String>,
    host: String,
    port: Option<u16>,
}

impl Allowed {
    /// Takes the setting's list: origins (`https://www.example.com`), host names, or `*` for all.
    ///
    /// # Errors
    ///
    /// With the entry that is neither.
    pub fn new(list: &[String]) -> Result<Self, String> {
        let all = list.iter().any(|entry| entry == "*");
        let sites = list.iter().filter(|entry| *entry != "*");
        let list =
            sites.map(|entry| Site::parse(entry).ok_or_else(|| entry.clone())).collect::<Result<_, _>>()?;
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
            return if origins.is_empty() {
                Ok(())
            } else {
                Err(Refused { origin: text, host: host.to_owned() })
            };
        };
        let text = String::from_utf8_lossy(origin);
        let refused =
            || Refused { origin: text.chars().take(200).collect(), host: host.chars().take(200).collect() };
        if self.all {
            return Ok(());
        }
        let site = Site::parse(&text).filter(|site| site.scheme.is_some()).ok_or_else(refused)?;
        let own = Site::parse(host).filter(|own| own.scheme.is_none());
        let matches = |other: &Site| {
            site.host == other.host
                && (site.port.is_none() || other.port.is_none() || site.port == other.port)
                && other.scheme.as_ref().is_none_or(|scheme| Some(scheme) == site.scheme.as_ref())
        };
        if own.as_ref().is_some_and(matches) || self.list.iter().any(matches) {
            Ok(())
        } else {
            Err(refused())
        }
    }
}

impl Site {
    /// Reads `[scheme://]host[:port]`, and nothing else: no path, no user, no backslash.
    fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme, rest)) => (Some(scheme.to_ascii_lowercase()), rest),
            None => (None, text),
        };
        if scheme.as_ref().is_some_and(|s| !s.starts_with(|c: char| c.is_ascii_lowercase())) {
            return None;
        }
        let (host, port) = match rest.strip_prefix('[') {
            Some(v6) => {
                let (address, port) = v6.split_once(']')?;
                address.parse::<std::net::Ipv6Addr>().ok()?;
                (&rest[..address.len() + 2], port)
            }
            None => rest.split_at(rest.find(':').unwrap_or(rest.len())),
        };
        let port = match port {
            "" => None,
            port => Some(port.strip_prefix(':')?.parse().ok()?),
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._[]:".contains(c) || !c.is_ascii();
        (!host.is_empty() && host.chars().all(plain)).then(|| Self {
            scheme,
            host: host.to_lowercase(),
            port,
        })
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
        assert_eq!(Allowed::new(&["a b".to_owned()]).unwrap_err(), "a b");
    }

    #[test]
    fn the_refusal_names_both_hosts_and_the_cure() {
        let refused =
            Allowed::default().check(&[b"https://evil.example"], "example.com").unwrap_err().to_string();
        for part in ["evil.example", "example.com", "proxy_set_header Host $host;"] {
            assert!(refused.contains(part), "{refused}");
        }
    }
}
