//! The credentials of a request.

use std::fmt;
use std::net::IpAddr;

use ring::digest;

use crate::wire::ClientDetails;

/// The credentials of a request.
#[derive(Default)]
pub struct Credentials {
    /// The value of the session cookie.
    pub session_cookie: Option<String>,
    /// The token, if tokens are accepted.
    pub token: Option<Token>,
    /// The headers that are passed on to the callback: names in lower case, and values.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The client address behind trusted proxies; `None` through a unix socket.
    pub address: Option<IpAddr>,
    /// Whether that address belongs to the visitor alone.
    pub client_address: ClientAddress,
    /// What the operator wants to know about the client, if that is kept.
    pub details: Option<Box<ClientDetails>>,
}

/// The owner of the address that a request comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ClientAddress {
    /// The visitor.
    Own(IpAddr),
    /// This machine, a trusted proxy, or no address: a unix socket.
    #[default]
    Local,
    /// A proxy that is not in `server.trusted_proxies`: the request has a forwarding header.
    UnknownProxy,
}

/// A token as it was sent. It is a bearer credential, so `Debug` shows none of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Box<str>);

impl Token {
    /// Wraps a token.
    pub fn new(token: &str) -> Self {
        Self(token.into())
    }

    /// Returns the token itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the token's fingerprint.
    pub fn fingerprint(&self) -> Fingerprint {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest::digest(&digest::SHA256, self.0.as_bytes()).as_ref());
        Fingerprint(Box::new(bytes))
    }
}

/// SHA-256 of a token. `Debug` shows nothing of it either. Boxed, because the other variants of `AuthSource` are
/// smaller.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Fingerprint(Box<[u8; 32]>);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(***)")
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprint(***)")
    }
}
