//! What a request says about its visitor's machine, kept for the operator.

use std::net::IpAddr;

/// Most bytes of a User-Agent header that are kept: browsers send 100 to 200.
const MAX_USER_AGENT_BYTES: usize = 256;

/// What a request says about its visitor's machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientDetails {
    /// The visitor's address behind trusted proxies; none through a unix socket.
    pub address: Option<IpAddr>,
    /// The start of its User-Agent header, if there was one.
    pub user_agent: Option<Box<str>>,
}

impl ClientDetails {
    /// Keeps the start of a User-Agent header.
    pub fn new(address: Option<IpAddr>, user_agent: Option<&str>) -> Self {
        let user_agent = user_agent.map(|text| &text[..text.floor_char_boundary(MAX_USER_AGENT_BYTES)]);
        Self { address, user_agent: user_agent.map(Into::into) }
    }
}
