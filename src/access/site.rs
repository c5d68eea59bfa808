//! Hosts and origins, as browsers send them and as operators list them.

use std::net::Ipv6Addr;

use url::Host;

/// A host with its scheme and port, if they are given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Site {
    pub(super) scheme: Option<String>,
    /// In lower case and ASCII (punycode); IPv6 in its shortest form.
    pub(super) host: String,
    pub(super) port: Option<u16>,
}

/// One entry of a list of origins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OriginPattern {
    site: Site,
    /// Whether the entry includes all subdomains.
    subdomains: bool,
}

/// Why an entry is refused: no browser sends an origin that it could match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum InvalidOrigin {
    /// Neither an origin nor a host.
    #[error(
        "is neither an origin like https://www.example.com nor a host like www.example.com, or .example.com with its subdomains"
    )]
    Neither,
    /// The origin of pages without one.
    #[error(
        "is the origin of files and sandboxed frames; any site can make such a frame, so it is never allowed. Name the page's own origin, for example https://www.example.com"
    )]
    Null,
    /// The URL of a WebSocket.
    #[error(
        "is the address of a WebSocket: browsers send the origin of the page, which begins with http:// or https://"
    )]
    Socket,
    /// Files have no origin.
    #[error("matches no page: browsers send the origin null for files")]
    File,
    /// More than an origin.
    #[error("has more than an origin, which ends with the host or its port: browsers send no path")]
    Path,
}

impl Site {
    /// Parses `[scheme://]host[:port]` and nothing else: no path, no user, no backslash.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme, rest)) => (Some(scheme.to_ascii_lowercase()), rest),
            None => (None, text),
        };
        if scheme.as_ref().is_some_and(|s| !s.starts_with(|c: char| c.is_ascii_lowercase())) {
            return None;
        }
        let (host, port) = if let Some(v6) = rest.strip_prefix('[') {
            let (address, port) = v6.split_once(']')?;
            (format!("[{}]", address.parse::<Ipv6Addr>().ok()?), port)
        } else {
            let (host, port) = rest.split_at(rest.find(':').unwrap_or(rest.len()));
            (in_ascii(host)?, port)
        };
        let port = match port {
            "" => None,
            port => Some(port.strip_prefix(':')?.parse().ok()?),
        };
        Some(Self { scheme, host, port })
    }

    /// Returns the port in effect: browsers omit the default port of a scheme.
    fn effective_port(&self) -> Option<u16> {
        self.port.or(match self.scheme.as_deref() {
            Some("http") => Some(80),
            Some("https") => Some(443),
            _ => None,
        })
    }
}

/// Returns a host name as browsers send it: in lower case, in punycode.
fn in_ascii(host: &str) -> Option<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c) || !c.is_ascii();
    if host.is_empty() || !host.chars().all(plain) {
        return None;
    }
    if host.is_ascii() {
        return Some(host.to_ascii_lowercase());
    }
    Host::parse(host).ok().map(|host| host.to_string())
}

impl OriginPattern {
    /// Parses an entry: an origin or a host. A leading dot or `*.` includes all subdomains; one trailing slash is
    /// ignored.
    ///
    /// # Errors
    ///
    /// When it can match nothing that browsers send.
    pub(super) fn parse(text: &str) -> Result<Self, InvalidOrigin> {
        if text.eq_ignore_ascii_case("null") {
            return Err(InvalidOrigin::Null);
        }
        let (scheme, rest) = text.split_once("://").map_or(("", text), |(scheme, rest)| (scheme, rest));
        match scheme.to_ascii_lowercase().as_str() {
            "ws" | "wss" => return Err(InvalidOrigin::Socket),
            "file" => return Err(InvalidOrigin::File),
            _ => {}
        }
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let dotted = rest.strip_prefix("*.").or_else(|| rest.strip_prefix('.'));
        let host = dotted.unwrap_or(rest);
        let whole = if text.contains("://") { format!("{scheme}://{host}") } else { host.to_owned() };
        let site = Site::parse(&whole).filter(|site| {
            // No page has a host with an empty label, except for the trailing dot of a fully qualified name.
            let name = site.host.strip_suffix('.').unwrap_or(&site.host);
            !name.split('.').any(str::is_empty) && (dotted.is_none() || !site.host.starts_with('['))
        });
        match site {
            Some(site) => Ok(Self { site, subdomains: dotted.is_some() }),
            None if rest.contains(['/', '?', '#']) => Err(InvalidOrigin::Path),
            None => Err(InvalidOrigin::Neither),
        }
    }

    /// Returns whether the entry matches an origin. Scheme and port must be equal if the entry has a scheme, the port if
    /// it has a port alone.
    pub(super) fn admits(&self, origin: &Site) -> bool {
        let Self { site, subdomains } = self;
        let below = || {
            let before = origin.host.strip_suffix(&site.host).and_then(|rest| rest.strip_suffix('.'));
            *subdomains && before.is_some_and(|before| !before.is_empty())
        };
        let port = match &site.scheme {
            Some(_) => site.effective_port() == origin.effective_port(),
            None => site.port.is_none() || site.port == origin.effective_port(),
        };
        port && (site.host == origin.host || below())
            && site.scheme.as_ref().is_none_or(|scheme| Some(scheme) == origin.scheme.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(entry: &str, origin: &str, expected: bool) {
        let origin = Site::parse(origin).unwrap();
        assert_eq!(OriginPattern::parse(entry).unwrap().admits(&origin), expected, "{entry} and {origin:?}");
    }

    #[test]
    fn a_dot_before_the_host_stands_for_it_and_its_subdomains() {
        for entry in [".example.com", "*.example.com", "https://.example.com", "https://*.example.com"] {
            check(entry, "https://example.com", true);
            check(entry, "https://www.example.com", true);
            check(entry, "https://a.b.EXAMPLE.com", true);
            check(entry, "https://evilexample.com", false);
            check(entry, "https://example.com.evil.example", false);
            check(entry, "https://www.example.org", false);
        }
        check(".example.com", "http://www.example.com:8080", true);
        check("https://*.example.com", "http://www.example.com", false);
        check("https://*.example.com:8443", "https://www.example.com:8443", true);
        check("https://*.example.com:8443", "https://www.example.com", false);
    }

    #[test]
    fn names_are_compared_as_browsers_send_them() {
        check("https://münchen.example", "https://xn--mnchen-3ya.example", true);
        check("MÜNCHEN.example", "https://xn--mnchen-3ya.example:8443", true);
        check(".münchen.example", "https://www.xn--mnchen-3ya.example", true);
        check("https://xn--mnchen-3ya.example", "https://xn--mnchen-3ya.example", true);
        check("https://münchen.example", "https://munchen.example", false);
        check("https://例え.テスト:8443", "https://xn--r8jz45g.xn--zckzah:8443", true);
        check("http://[0:0:0::1]:8000", "http://[::1]:8000", true);
    }

    #[test]
    fn the_default_port_and_a_trailing_slash_are_accepted() {
        check("https://a.example:443", "https://a.example", true);
        check("http://a.example:80/", "http://a.example", true);
        check("https://a.example/", "https://a.example", true);
        check("a.example/", "http://a.example", true);
        check("a.example:443", "https://a.example", true);
        check("a.example:443", "http://a.example", false);
        // Another port is another origin.
        check("https://a.example", "https://a.example:8443", false);
        check("https://a.example:8443", "https://a.example", false);
        check("a.example", "https://a.example:8443", true);
        check("capacitor://localhost", "capacitor://localhost", true);
    }

    #[test]
    fn an_entry_that_can_match_nothing_is_refused_with_its_reason() {
        for (entry, unfit) in [
            ("null", InvalidOrigin::Null),
            ("wss://a.example", InvalidOrigin::Socket),
            ("WS://a.example/ws/", InvalidOrigin::Socket),
            ("file:///page.html", InvalidOrigin::File),
            ("https://a.example/path", InvalidOrigin::Path),
            ("https://a.example//", InvalidOrigin::Path),
            ("a.example?x", InvalidOrigin::Path),
            ("", InvalidOrigin::Neither),
            (".", InvalidOrigin::Neither),
            ("*.", InvalidOrigin::Neither),
            ("https://", InvalidOrigin::Neither),
            ("https://*", InvalidOrigin::Neither),
            ("https://user@a.example", InvalidOrigin::Neither),
            ("a b", InvalidOrigin::Neither),
            ("a..example", InvalidOrigin::Neither),
            ("..example.com", InvalidOrigin::Neither),
            ("www.*.example", InvalidOrigin::Neither),
            ("*example.com", InvalidOrigin::Neither),
            ("https://a.example:port", InvalidOrigin::Neither),
            ("https://a.example:99999", InvalidOrigin::Neither),
            ("::1", InvalidOrigin::Neither),
            ("*.[::1]", InvalidOrigin::Neither),
        ] {
            assert_eq!(OriginPattern::parse(entry), Err(unfit), "{entry}");
        }
    }
}
