//! Trusted proxies: whose X-Forwarded-For, Forwarded and X-Forwarded-Host headers are used.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::ClientAddress;

/// The peer of a hop: of the connection itself, or of an earlier one that a proxy reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// An address; never an IPv4-mapped IPv6 address.
    Address(IpAddr),
    /// A process on the same machine, through a unix socket.
    Unix,
}

impl Peer {
    /// Creates a peer from the address of a socket.
    pub fn new(address: IpAddr) -> Self {
        Self::Address(address.to_canonical())
    }

    /// Returns the address, if there is one.
    pub fn address(self) -> Option<IpAddr> {
        match self {
            Self::Address(address) => Some(address),
            Self::Unix => None,
        }
    }

    /// Parses a hop as proxies write it: an address with or without a port, IPv6 with or without brackets, and nginx's
    /// `unix:`. Names such as `unknown` or `_hidden` are refused.
    fn parse(text: &str) -> Option<Self> {
        if text == "unix:" {
            return Some(Self::Unix);
        }
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        let address = bare.parse::<IpAddr>();
        let address = address.or_else(|_| text.parse::<SocketAddr>().map(|socket| socket.ip()));
        address.ok().map(Self::new)
    }
}

/// The trusted proxies: networks, and optionally every peer of a unix socket.
#[derive(Debug, Clone, Default)]
pub struct Proxies {
    unix: bool,
    networks: Vec<IpNet>,
}

impl Proxies {
    /// Parses `server.trusted_proxies`: addresses, networks (`10.0.0.0/8`) and `unix`.
    ///
    /// # Errors
    ///
    /// With an entry that is invalid, or has host bits set: then it is unclear which network was meant.
    pub fn new(list: &[String]) -> Result<Self, String> {
        let mut proxies = Self::default();
        for entry in list {
            if entry == "unix" {
                proxies.unix = true;
                continue;
            }
            let address = entry.parse::<IpAddr>().map(|address| IpNet::from(address.to_canonical()));
            let network = address.ok().or_else(|| entry.parse().ok());
            let network = network.filter(|network| network.trunc() == *network);
            proxies.networks.push(network.ok_or_else(|| entry.clone())?);
        }
        Ok(proxies)
    }

    /// Returns whether a peer's forwarding headers are used.
    pub fn trust(&self, peer: Peer) -> bool {
        match peer {
            Peer::Address(address) => self.networks.iter().any(|network| network.contains(&address)),
            Peer::Unix => self.unix,
        }
    }

    /// Returns the visitor: the last hop that is not a trusted proxy, or the first hop if all are trusted. Each proxy
    /// appends its own peer on the right, so everything to the left of an untrusted hop may be forged. A malformed hop
    /// ends the walk, because no known peer vouches for the hops before it.
    ///
    /// `Forwarded` (RFC 7239) is used only without `X-Forwarded-For`: most proxies set the latter and pass the former on
    /// as the client sent it.
    pub fn visitor(&self, peer: Peer, x_forwarded_for: &[&[u8]], forwarded: &[&[u8]]) -> Peer {
        if x_forwarded_for.is_empty() {
            self.walk(peer, forwarded, |element| Peer::parse(node(element)?))
        } else {
            self.walk(peer, x_forwarded_for, Peer::parse)
        }
    }

    /// Returns the owner of the visitor's address; `forwards` is whether the request has a forwarding header.
    pub fn client_address(&self, peer: Peer, visitor: Peer, forwards: bool) -> ClientAddress {
        match visitor {
            _ if forwards && !self.trust(peer) => ClientAddress::UnknownProxy,
            // A trusted proxy that does not report its peer.
            _ if visitor == peer && self.trust(peer) => ClientAddress::Local,
            Peer::Address(address) if !address.is_loopback() => ClientAddress::Own(address),
            _ => ClientAddress::Local,
        }
    }

    fn walk(&self, peer: Peer, lines: &[&[u8]], read: impl Fn(&str) -> Option<Peer>) -> Peer {
        let mut last = peer;
        for line in lines.iter().rev() {
            let line = String::from_utf8_lossy(line);
            // Split from the right at every comma: an unclosed quote of the client cannot hide a hop that a proxy
            // appended. A quoted comma yields two elements with an unbalanced quote, and both are refused.
            for hop in line.rsplit(',') {
                let Some(hop) = Some(last).filter(|last| self.trust(*last)).and_then(|_| read(hop.trim()))
                else {
                    return last;
                };
                last = hop;
            }
        }
        last
    }

    /// Returns the requested host: `X-Forwarded-Host` of a trusted peer, else `Host`.
    ///
    /// Of several values the last one is used, the only one that the peer itself has set: Apache appends the `Host` it
    /// received to the value that the client sent.
    pub fn host<'a>(&self, peer: Peer, x_forwarded_host: &[&'a [u8]], host: &'a [u8]) -> &'a [u8] {
        let Some(line) = x_forwarded_host.last().filter(|_| self.trust(peer)) else { return host };
        line.rsplit(|byte| *byte == b',').next().unwrap_or_default().trim_ascii()
    }
}

/// Returns the value of `for` in an element of `Forwarded`, if the element is well-formed and has exactly one.
fn node(element: &str) -> Option<&str> {
    let mut found = None;
    for pair in element.split(';') {
        let (name, value) = pair.trim().split_once('=')?;
        let quoted = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
        let value = quoted.unwrap_or(value);
        // No address contains an escape, and an unbalanced quote is malformed.
        if value.contains(['"', '\\']) {
            return None;
        }
        if name.eq_ignore_ascii_case("for") && found.replace(value).is_some() {
            return None;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(list: &[&str]) -> Proxies {
        Proxies::new(&list.iter().map(|entry| (*entry).to_owned()).collect::<Vec<_>>()).unwrap()
    }

    fn peer(text: &str) -> Peer {
        Peer::parse(text).unwrap()
    }

    /// Checks the visitor behind the trusted 10.0.0.0/8, `::1` and unix sockets.
    #[track_caller]
    fn check(from: &str, x_forwarded_for: &[&str], forwarded: &[&str], expected: &str) {
        let proxies = proxies(&["10.0.0.0/8", "::1", "unix"]);
        let x_forwarded_for: Vec<_> = x_forwarded_for.iter().map(|line| line.as_bytes()).collect();
        let forwarded: Vec<_> = forwarded.iter().map(|line| line.as_bytes()).collect();
        let visitor = proxies.visitor(peer(from), &x_forwarded_for, &forwarded);
        assert_eq!(visitor, peer(expected));
    }

    #[test]
    fn the_last_hop_that_is_not_trusted_is_the_visitor() {
        for (from, lines, expected) in [
            ("10.0.0.1", &["203.0.113.7"][..], "203.0.113.7"),
            ("unix:", &["203.0.113.7"], "203.0.113.7"),
            ("::1", &["2001:db8::7"], "2001:db8::7"),
            ("10.0.0.1", &["198.51.100.1, 203.0.113.7"], "203.0.113.7"),
            ("10.0.0.1", &["198.51.100.1, 203.0.113.7, 10.2.3.4,::1"], "203.0.113.7"),
            ("10.0.0.1", &["198.51.100.1,203.0.113.7", "10.2.3.4"], "203.0.113.7"),
            ("10.0.0.1", &["198.51.100.1", "203.0.113.7"], "203.0.113.7"),
            // nginx before nginx, through a unix socket.
            ("unix:", &["203.0.113.7, unix:"], "203.0.113.7"),
            // A visitor from the network of the proxies.
            ("10.0.0.1", &["10.9.9.9, 10.2.3.4"], "10.9.9.9"),
            ("10.0.0.1", &[], "10.0.0.1"),
            // From any other peer the header is ignored.
            ("203.0.113.9", &["198.51.100.1"], "203.0.113.9"),
            ("::2", &["198.51.100.1"], "::2"),
        ] {
            check(from, lines, &[], expected);
        }
        assert_eq!(Proxies::default().visitor(Peer::Unix, &[b"203.0.113.7"], &[]), Peer::Unix);
        assert_eq!(Proxies::default().visitor(peer("127.0.0.1"), &[b"::1"], &[]), peer("127.0.0.1"));
    }

    #[test]
    fn the_address_of_a_proxy_is_not_the_visitors() {
        let trusted = proxies(&["10.0.0.0/8", "unix"]);
        let own = |text: &str| ClientAddress::Own(text.parse().unwrap());
        for (from, line, forwards, expected) in [
            ("203.0.113.9", None, false, own("203.0.113.9")),
            ("203.0.113.9", Some("198.51.100.1"), true, ClientAddress::UnknownProxy),
            ("10.0.0.1", Some("203.0.113.7"), true, own("203.0.113.7")),
            ("10.0.0.1", Some("10.9.9.9"), true, own("10.9.9.9")),
            ("10.0.0.1", Some("127.0.0.1"), true, ClientAddress::Local),
            ("unix:", Some("203.0.113.7"), true, own("203.0.113.7")),
            ("unix:", None, false, ClientAddress::Local),
            // A trusted proxy that sends no visitor's address.
            ("10.0.0.1", None, false, ClientAddress::Local),
            ("10.0.0.1", Some("unknown"), true, ClientAddress::Local),
        ] {
            let lines: Vec<_> = line.iter().map(|line| line.as_bytes()).collect();
            let visitor = trusted.visitor(peer(from), &lines, &[]);
            assert_eq!(trusted.client_address(peer(from), visitor, forwards), expected, "{from} {line:?}");
        }
    }

    #[test]
    fn hops_are_written_in_many_ways() {
        for (hop, expected) in [
            ("203.0.113.7:4711", "203.0.113.7"),
            ("[2001:db8::7]", "2001:db8::7"),
            ("[2001:db8::7]:4711", "2001:db8::7"),
            ("::ffff:203.0.113.7", "203.0.113.7"),
            ("[::ffff:203.0.113.7]:80", "203.0.113.7"),
            ("\t203.0.113.7  ", "203.0.113.7"),
            ("2001:DB8:0::7", "2001:db8::7"),
        ] {
            check("10.0.0.1", &[hop], &[], expected);
        }
    }

    #[test]
    fn a_hop_that_cannot_be_read_ends_the_walk_at_the_last_good_one() {
        for hop in [
            "",
            " ",
            "unknown",
            "_hidden",
            "localhost",
            "203.0.113",
            "203.0.113.07",
            "203.0.113.7:port",
            "203.0.113.7:99999",
            "[203.0.113.7",
            "[2001:db8::7]4711",
            "[]",
            ":",
            "\"203.0.113.7\"",
            "203.0.113.7 198.51.100.1",
            "unix:/run/x",
            "\u{fffd}é",
        ] {
            check("10.0.0.1", &[hop], &[], "10.0.0.1");
            check("10.0.0.1", &[&format!("203.0.113.7, {hop}, 10.0.0.2")], &[], "10.0.0.2");
            check("10.0.0.1", &["203.0.113.7", hop, "10.0.0.2"], &[], "10.0.0.2");
            check("10.0.0.1", &[&format!("{hop}, 203.0.113.7")], &[], "203.0.113.7");
        }
        let trusted = proxies(&["10.0.0.0/8"]);
        let visitor = trusted.visitor(peer("10.0.0.1"), &[b"\xff\xfe, 203.0.113.7"], &[]);
        assert_eq!(visitor, peer("203.0.113.7"));
        assert_eq!(trusted.visitor(peer("10.0.0.1"), &[b"203.0.113.7, \xff"], &[]), peer("10.0.0.1"));
        let hops = vec!["10.1.1.1"; 100].join(", ");
        check("10.0.0.1", &[&format!("203.0.113.7, {hops}")], &[], "203.0.113.7");
        check("10.0.0.1", &[&",".repeat(16_000)], &[], "10.0.0.1");
    }

    #[test]
    fn forwarded_is_used_without_x_forwarded_for() {
        for (lines, expected) in [
            (&["for=203.0.113.7"][..], "203.0.113.7"),
            (&["For=\"203.0.113.7:4711\""], "203.0.113.7"),
            (&["for=\"[2001:db8::1]:4711\""], "2001:db8::1"),
            (&["for=\"[2001:db8::1]\";proto=https;by=10.0.0.1"], "2001:db8::1"),
            (&["proto=http; host=\"a.example:80\" ;for=203.0.113.7"], "203.0.113.7"),
            (&["for=198.51.100.1, for=203.0.113.7;proto=https, for=10.0.0.2"], "203.0.113.7"),
            (&["for=198.51.100.1", "for=203.0.113.7"], "203.0.113.7"),
            // A quote that the client left open, before what the proxy has added.
            (&["for=198.51.100.1;x=\", for=203.0.113.7"], "203.0.113.7"),
            // A client cannot start an element of its own after a comma in a quoted value.
            (&["for=203.0.113.7;host=\"x, for=198.51.100.1\""], "10.0.0.1"),
            (&["for=203.0.113.7;host=\"x, for=198.51.100.1;a=\\\"\""], "10.0.0.1"),
            (&["for=203.0.113.7;for=198.51.100.1"], "10.0.0.1"),
            (&["for=unknown"], "10.0.0.1"),
            (&["for=_SEVKISEK"], "10.0.0.1"),
            (&["for=\"203.0.113.7"], "10.0.0.1"),
            (&["for=\""], "10.0.0.1"),
            (&["for=203.0.113.7;"], "10.0.0.1"),
            (&["proto=https"], "10.0.0.1"),
            (&["203.0.113.7"], "10.0.0.1"),
            (&["="], "10.0.0.1"),
        ] {
            check("10.0.0.1", &[], lines, expected);
        }
        check("10.0.0.1", &["203.0.113.7"], &["for=198.51.100.1"], "203.0.113.7");
        check("10.0.0.1", &["unknown"], &["for=198.51.100.1"], "10.0.0.1");
        check("203.0.113.9", &[], &["for=198.51.100.1"], "203.0.113.9");
    }

    #[test]
    fn the_host_is_the_last_one_that_a_trusted_peer_names() {
        let trusted = proxies(&["10.0.0.1", "unix"]);
        for (from, lines, expected) in [
            ("10.0.0.1", &["www.example.com"][..], "www.example.com"),
            ("unix:", &["www.example.com:8443"], "www.example.com:8443"),
            ("10.0.0.1", &["evil.example, www.example.com"], "www.example.com"),
            ("10.0.0.1", &["evil.example", "www.example.com"], "www.example.com"),
            // An empty host, which no page can have.
            ("10.0.0.1", &["www.example.com,"], ""),
            ("10.0.0.1", &[], "upstream"),
            ("10.0.0.2", &["www.example.com"], "upstream"),
        ] {
            let lines: Vec<_> = lines.iter().map(|line| line.as_bytes()).collect();
            assert_eq!(trusted.host(peer(from), &lines, b"upstream"), expected.as_bytes(), "{lines:?}");
        }
    }

    #[test]
    fn the_list_has_addresses_networks_and_the_word_unix() {
        let trusted = proxies(&["192.0.2.1", "10.0.0.0/8", "2001:db8::/32", "::ffff:192.0.2.2"]);
        for (from, expected) in [
            ("192.0.2.1", true),
            ("192.0.2.2", true),
            ("192.0.2.3", false),
            ("::ffff:10.1.2.3", true),
            ("11.0.0.0", false),
            ("2001:db8:ffff::1", true),
            ("2001:db9::1", false),
            ("::a00:1", false),
            ("unix:", false),
        ] {
            assert_eq!(trusted.trust(peer(from)), expected, "{from}");
        }
        for entry in
            ["", "localhost", "10.0.0.1/8", "10.0.0.0/33", "unix:/run/x", "*", "10.", "[::1]", "1.2.3.4:5"]
        {
            assert_eq!(Proxies::new(&["unix".to_owned(), entry.to_owned()]).unwrap_err(), entry);
        }
    }

    proptest::proptest! {
        /// Whatever a client writes, what the trusted proxy adds behind it decides.
        #[test]
        fn nothing_to_the_left_of_the_last_hop_matters(left in "[ -~é]{0,40}", other in "[ -~]{0,40}") {
            let trusted = proxies(&["10.0.0.1"]);
            let added = format!("{left}, 203.0.113.7");
            let visitor = trusted.visitor(peer("10.0.0.1"), &[other.as_bytes(), added.as_bytes()], &[]);
            proptest::prop_assert_eq!(visitor, peer("203.0.113.7"));
            let added = format!("{left}, for=203.0.113.7");
            let visitor = trusted.visitor(peer("10.0.0.1"), &[], &[other.as_bytes(), added.as_bytes()]);
            proptest::prop_assert_eq!(visitor, peer("203.0.113.7"));
        }
    }
}
