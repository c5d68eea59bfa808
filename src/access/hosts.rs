//! Which `Host` headers a listener for the operator answers.
//!
//! A page can point a name of its own at 127.0.0.1 (DNS rebinding). Its requests then reach a loopback listener, and for
//! the browser they are same-origin; only the `Host` header gives them away.

use std::net::IpAddr;

use super::site::Site;

/// The hosts that are answered: loopback names and addresses with any port, and the listed ones.
#[derive(Debug, Clone, Default)]
pub struct AllowedHosts(Vec<Site>);

impl AllowedHosts {
    /// Parses `admin.hosts`: `host` stands for any port, `host:port` for that port.
    ///
    /// # Errors
    ///
    /// With the entry that is neither.
    pub fn new(list: &[String]) -> Result<Self, String> {
        let parse = |entry: &String| parse(entry).ok_or_else(|| entry.clone());
        list.iter().map(parse).collect::<Result<_, _>>().map(Self)
    }

    /// Returns whether the list is empty: only loopback hosts are answered.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether a `Host` header is answered.
    pub fn admit(&self, host: &str) -> bool {
        let Some(site) = parse(host) else { return false };
        let is_listed = |listed: &Site| {
            listed.host == site.host
                && (listed.port.is_none() || listed.port == Some(site.port.unwrap_or(80)))
        };
        is_loopback(&site.host) || self.0.iter().any(is_listed)
    }
}

/// Returns whether a host, in lower case and without its port, can only be this machine.
pub fn is_loopback(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

fn parse(text: &str) -> Option<Site> {
    Site::parse(text).filter(|site| site.scheme.is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(list: &[&str]) -> Result<AllowedHosts, String> {
        AllowedHosts::new(&list.iter().map(|entry| (*entry).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn only_loopback_hosts_are_admitted_by_default() {
        let none = AllowedHosts::default();
        for host in ["localhost", "LocalHost:9000", "127.0.0.1", "127.8.9.10:1", "[::1]", "[::1]:9000"] {
            assert!(none.admit(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example:9000",
            "localhost.",
            "localhost@evil.example",
            "http://localhost",
            "localhost/",
            "localhost:",
            "localhost:x",
            "localhost:80:80",
            "127.1",
            "0x7f.0.0.1",
            "2130706433",
            "0.0.0.0",
            "10.0.0.1",
            "::1",
            "[::2]",
            "[::1",
            " localhost",
            "local\u{212a}host",
        ] {
            assert!(!none.admit(host), "{host}");
        }
    }

    #[test]
    fn a_listed_host_without_a_port_is_admitted_with_every_port() {
        let hosts = hosts(&["Gateway.internal", "10.0.0.5:9000", "web.example:80"]).unwrap();
        for host in ["gateway.internal", "GATEWAY.internal:1", "10.0.0.5:9000", "web.example", "localhost:1"]
        {
            assert!(hosts.admit(host), "{host}");
        }
        for host in ["10.0.0.5", "10.0.0.5:9001", "a.gateway.internal", "web.example:81"] {
            assert!(!hosts.admit(host), "{host}");
        }
    }

    #[test]
    fn an_entry_that_is_no_host_is_refused() {
        for entry in ["", "*", "http://a.example", "a.example/x", "a b", "a.example:", "::1"] {
            assert_eq!(hosts(&["localhost", entry]).err().as_deref(), Some(entry));
        }
    }
}
