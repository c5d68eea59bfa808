//! What a visitor shows of itself.

use std::fmt;
use std::net::IpAddr;

use ring::digest;

/// What a visitor shows of itself, from its request.
#[derive(Default)]
pub struct Credentials {
    /// The value of the session cookie.
    pub session_cookie: Option<String>,
    /// The token, where tokens are taken.
    pub token: Option<Token>,
    /// The headers that the callback is given: names in lower case, and values.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The address that it comes from, behind trusted proxies; none through a unix socket.
    pub address: Option<IpAddr>,
    /// Whether that is the visitor's own.
    pub client_address: ClientAddress,
}

/// Whose the address is that a request comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ClientAddress {
    /// The visitor's own, as far as can be known.
    Own(IpAddr),
    /// This machine's, that of a trusted proxy, or none: a unix socket.
    #[default]
    Local,
    /// That of a proxy that is not trusted, since it says that it passes a request on.
    UnknownProxy,
}

/// A token as it was sent. Whoever has it is that visitor, so `Debug` shows none of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Box<str>);

impl Token {
    /// Takes a token.
    pub fn new(token: &str) -> Self {
        Self(token.into())
    }

    /// Returns the token itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns what tells it from other tokens.
    pub fn fingerprint(&self) -> Fingerprint {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest::digest(&digest::SHA256, self.0.as_bytes()).as_ref());
        Fingerprint(Box::new(bytes))
    }
}

/// What tells tokens apart: their SHA-256, of which `Debug` shows nothing either. Boxed, as it stands where most have
/// something shorter.
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
