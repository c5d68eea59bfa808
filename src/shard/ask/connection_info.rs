//! What is public about a connection.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::SystemTime;

use crate::stream::Traffic;

/// Longest facility that is shown, in bytes: a page of the listing is bounded.
const MAX_FACILITY_BYTES: usize = 1_024;

/// Most bytes of the names of facilities, of audiences and of groups that are shown.
const MAX_NAMES_BYTES: usize = 4_096;

/// What is public about an open connection. It has neither cookies nor session keys.
#[derive(Debug, Clone)]
pub struct ConnectionInfo {
    /// Its public id; none for a session of Socket.IO before it has joined a namespace.
    pub id: Option<String>,
    /// The protocol that its client speaks.
    pub dialect: &'static str,
    /// What carries its messages: `websocket`, `event-stream` or `polling`.
    pub form: &'static str,
    /// Its facility; none for dialects in which it may have several.
    pub facility: Option<String>,
    /// The facilities of a socket that may have several; none for other dialects.
    pub facilities: Option<Vec<String>>,
    /// The namespaces that it has joined; none for the relay, which has no namespaces.
    pub namespaces: Option<Vec<NamespaceInfo>>,
    /// The audiences that it listens to; none for Socket.IO, which has namespaces.
    pub audiences: Option<Vec<String>>,
    /// Its user's name, or primary key if the name is not known; none for an anonymous visitor.
    pub user: Option<Arc<str>>,
    /// The names of its user's groups.
    pub groups: Vec<String>,
    /// The hash of its session; none without a session.
    pub session: Option<String>,
    /// The other end of its socket.
    pub peer: ConnectionPeer,
    /// The visitor's address, if it is kept.
    pub address: Option<IpAddr>,
    /// What the visitor's program calls itself, if it is kept.
    pub user_agent: Option<String>,
    /// When it was accepted.
    pub since: SystemTime,
    /// Seconds since it was accepted.
    pub age_seconds: u64,
    /// Seconds since its client has sent something; none for an event stream, whose client cannot.
    pub idle_seconds: Option<u64>,
    /// Messages from the client; none if they are not counted.
    pub received: Option<u64>,
    /// Bytes in both directions; none if the system does not count them.
    pub traffic: Option<Traffic>,
    /// Messages that were delivered.
    pub delivered: u64,
    /// Messages that were dropped because the client read too slowly.
    pub dropped: u64,
    /// Bytes that its socket has not accepted yet.
    pub waiting_bytes: usize,
}

/// A client of Socket.IO in a namespace.
#[derive(Debug, Clone)]
pub struct NamespaceInfo {
    /// The namespace.
    pub name: String,
    /// The client's public id there; none if it is the secret id of the session, too.
    pub sid: Option<String>,
    /// Its user's name there, or primary key if the name is not known; none for an anonymous visitor.
    pub user: Option<Arc<str>>,
}

/// The other end of a connection.
#[derive(Debug, Clone, Copy)]
pub enum ConnectionPeer {
    /// A TCP socket.
    Address(SocketAddr),
    /// A unix socket.
    Unix,
    /// No socket at the moment: the client polls.
    None,
}

impl ConnectionInfo {
    /// Returns what is known of each connection of a dialect and a form: nothing.
    pub fn new(dialect: &'static str, form: &'static str) -> Self {
        Self {
            id: None,
            dialect,
            form,
            facility: None,
            facilities: None,
            namespaces: None,
            audiences: None,
            user: None,
            groups: Vec::new(),
            session: None,
            peer: ConnectionPeer::None,
            address: None,
            user_agent: None,
            since: SystemTime::UNIX_EPOCH,
            age_seconds: 0,
            idle_seconds: None,
            received: None,
            traffic: None,
            delivered: 0,
            dropped: 0,
            waiting_bytes: 0,
        }
    }

    /// Leaves out names that do not fit.
    #[must_use]
    pub fn shortened(mut self) -> Self {
        if let Some(facility) = &mut self.facility {
            facility.truncate(facility.floor_char_boundary(MAX_FACILITY_BYTES));
        }
        let lists = [self.facilities.as_mut(), self.audiences.as_mut(), Some(&mut self.groups)];
        for names in lists.into_iter().flatten() {
            let mut left = MAX_NAMES_BYTES;
            let fitting = names.iter().take_while(|name| {
                let fits = name.len() < left;
                left = left.saturating_sub(name.len() + 1);
                fits
            });
            names.truncate(fitting.count());
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_bounded() {
        let info = ConnectionInfo {
            facility: Some("€".repeat(400)),
            facilities: Some(vec!["x".repeat(1_000); 10]),
            audiences: Some(vec!["x".repeat(5_000), "y".into()]),
            groups: vec!["g".into(); 10],
            ..ConnectionInfo::new("relay", "websocket")
        };
        let shown = info.shortened();
        assert_eq!(shown.facility, Some("€".repeat(341)));
        assert_eq!((shown.facilities.unwrap().len(), shown.audiences.unwrap().len()), (4, 0));
        assert_eq!(shown.groups.len(), 10);
    }
}
