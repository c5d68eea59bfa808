//! Django's `ALLOWED_HOSTS` as a rule for origins: what `AllowedHostsOriginValidator` of Channels decides, except for malformed
//! origins, which it lets in.
//!
//! <https://github.com/django/channels/blob/main/channels/security/websocket.py>

use super::site::Site;

/// The entries of `origin.allowed_hosts`.
#[derive(Debug, Clone, Default)]
pub(super) struct HostPatterns {
    all: bool,
    patterns: Vec<HostPattern>,
}

/// A host, with its subdomains if it has a leading dot. With a scheme, scheme and port count as well.
#[derive(Debug, Clone)]
struct HostPattern {
    site: Site,
    subdomains: bool,
}

impl HostPatterns {
    /// Parses the entries.
    ///
    /// # Errors
    ///
    /// When an entry is no host, with the reason.
    pub(super) fn new(list: &[String]) -> Result<Self, String> {
        let mut hosts = Self::default();
        for entry in list.iter().map(|entry| entry.trim()) {
            if entry == "*" {
                hosts.all = true;
                continue;
            }
            hosts.patterns.push(HostPattern::parse(entry).ok_or_else(|| {
                format!("{entry:?} is not a host as in Django's ALLOWED_HOSTS, such as example.com, .example.com or *")
            })?);
        }
        Ok(hosts)
    }

    /// Returns whether there is no entry.
    pub(super) fn is_empty(&self) -> bool {
        !self.all && self.patterns.is_empty()
    }

    /// Returns whether the entries admit an origin; `None` is a request without one. A malformed one is never admitted.
    pub(super) fn admit(&self, origin: Option<&str>) -> bool {
        let Some(origin) = origin else { return self.all };
        // Browsers send names in punycode.
        let site = Site::parse(origin).filter(|site| site.scheme.is_some() && origin.is_ascii());
        match site {
            Some(site) => self.all || self.patterns.iter().any(|pattern| pattern.admits(&site)),
            None => self.all && origin == "null",
        }
    }
}

impl HostPattern {
    fn parse(entry: &str) -> Option<Self> {
        let (scheme, rest) =
            entry.split_once("://").map_or((None, entry), |(scheme, rest)| (Some(scheme), rest));
        let host = rest.strip_prefix('.').unwrap_or(rest);
        let whole = scheme.map_or_else(|| host.to_owned(), |scheme| format!("{scheme}://{host}"));
        let site = Site::parse(&whole).filter(|site| !site.host.split('.').any(str::is_empty))?;
        Some(Self { site, subdomains: host.len() < rest.len() })
    }

    fn admits(&self, origin: &Site) -> bool {
        let is_subdomain = || {
            let parent = origin.host.strip_suffix(&self.site.host);
            parent.is_some_and(|parent| parent.ends_with('.'))
        };
        let is_host = origin.host == self.site.host || self.subdomains && is_subdomain();
        is_host
            && (self.site.scheme.is_none()
                || self.site.scheme == origin.scheme && port(&self.site) == port(origin))
    }
}

/// Returns the port in effect.
fn port(site: &Site) -> Option<u16> {
    site.port.or(match site.scheme.as_deref() {
        Some("http" | "ws") => Some(80),
        Some("https" | "wss") => Some(443),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MATRIX: &str = include_str!("../../tests/fixtures/channels/origin-matrix.json");

    /// Origins that no browser sends, and that the validator of Channels lets in with some lists.
    const MALFORMED: [&str; 13] = [
        "",
        "//example.com",
        "example.com",
        "file://",
        "http://[bad",
        "http://bücher.example",
        "http://evil.com#example.com",
        "http://evil.com\\@example.com",
        "http://example.com/path",
        "http://example.com:99999",
        "http://example.com:abc",
        "http://example.com@evil.com",
        "example.com:80",
    ];

    #[test]
    fn origins_are_decided_as_channels_decides_unless_they_are_malformed() {
        let matrix: serde_json::Value = serde_json::from_str(MATRIX).unwrap();
        let cases = matrix["cases"].as_array().unwrap();
        assert_eq!(cases.len(), 216);
        let mut admitted = 0;
        for case in cases {
            let patterns =
                case["patterns"].as_array().unwrap().iter().map(|entry| entry.as_str().unwrap().to_owned());
            let hosts = HostPatterns::new(&patterns.collect::<Vec<_>>()).unwrap();
            let origin = case["origin"].as_str();
            let is_malformed = origin.is_some_and(|origin| MALFORMED.contains(&origin));
            let expected = case["allowed"] == true && !is_malformed;
            assert_eq!(hosts.admit(origin), expected, "{case}");
            admitted += u32::from(expected);
        }
        assert!(admitted > 30, "{admitted}");
    }

    #[test]
    fn entries_that_are_no_hosts_are_refused() {
        for entry in ["", ".", "a b", "http://", "example.com/path", "a..b", "user@example.com"] {
            assert!(HostPatterns::new(&[entry.to_owned()]).unwrap_err().contains("ALLOWED_HOSTS"), "{entry}");
        }
    }
}
