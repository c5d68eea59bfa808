//! Which connections a question is about.

use std::net::IpAddr;

use super::{ConnectionInfo, ConnectionPeer};

/// What a connection has to be. What is not set is the same for all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConnectionFilter {
    /// Its public id, in any namespace.
    pub id: Option<Box<str>>,
    /// Its user, in any namespace.
    pub user: Option<Box<str>>,
    /// A group of its user.
    pub group: Option<Box<str>>,
    /// The hash of its session.
    pub session: Option<Box<str>>,
    /// Its facility, or one of them.
    pub facility: Option<Box<str>>,
    /// Its dialect.
    pub dialect: Option<Box<str>>,
    /// What carries its messages.
    pub form: Option<Box<str>>,
    /// A namespace that it has joined.
    pub namespace: Option<Box<str>>,
    /// The visitor's address, if it is kept, else that of the other end of the socket.
    pub address: Option<IpAddr>,
}

impl ConnectionFilter {
    /// Returns whether all connections match.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns whether a connection, before it is shortened, is meant.
    pub fn matches(&self, info: &ConnectionInfo) -> bool {
        let namespaces = || info.namespaces.iter().flatten();
        let users = info.user.iter().chain(namespaces().filter_map(|joined| joined.user.as_ref()));
        let facilities = info.facility.iter().chain(info.facilities.iter().flatten());
        let address = info.address.or(match info.peer {
            ConnectionPeer::Address(peer) => Some(peer.ip()),
            ConnectionPeer::Unix | ConnectionPeer::None => None,
        });
        let ids = info.id.iter().chain(namespaces().filter_map(|joined| joined.sid.as_ref()));
        is_one(self.id.as_deref(), ids)
            && is_one(self.user.as_deref(), users)
            && is_one(self.group.as_deref(), &info.groups)
            && is_one(self.session.as_deref(), &info.session)
            && is_one(self.facility.as_deref(), facilities)
            && is_one(self.dialect.as_deref(), [info.dialect])
            && is_one(self.form.as_deref(), [info.form])
            && is_one(self.namespace.as_deref(), namespaces().map(|joined| &joined.name))
            && self.address.is_none_or(|wanted| address.is_some_and(|own| own.to_canonical() == wanted))
    }
}

/// Returns whether one of these names is wanted; each is if none is named.
fn is_one(wanted: Option<&str>, names: impl IntoIterator<Item: AsRef<str>>) -> bool {
    wanted.is_none_or(|wanted| names.into_iter().any(|name| name.as_ref() == wanted))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::ask::NamespaceInfo;

    #[test]
    fn all_conditions_have_to_hold_and_a_missing_value_matches_none() {
        let relay = ConnectionInfo {
            id: Some("a-1".into()),
            facility: Some("news".into()),
            user: Some("john".into()),
            groups: vec!["red".into(), "blue".into()],
            session: Some("0123456789abcdef".into()),
            peer: ConnectionPeer::Address("[::ffff:10.0.0.1]:5".parse().unwrap()),
            ..ConnectionInfo::new("relay", "websocket")
        };
        let namespace = |user: &str| NamespaceInfo {
            name: "/chat".into(),
            sid: Some(user.to_uppercase()),
            user: Some(user.into()).filter(|_| !user.is_empty()),
        };
        let polling = ConnectionInfo {
            namespaces: Some(vec![namespace(""), namespace("mary")]),
            ..ConnectionInfo::new("socket_io", "polling")
        };
        let live = ConnectionInfo {
            facilities: Some(vec!["a".into(), "news".into()]),
            address: Some("192.0.2.7".parse().unwrap()),
            peer: relay.peer,
            ..ConnectionInfo::new("live", "event-stream")
        };
        let all = [&relay, &live, &polling];
        let none = ConnectionFilter::default;
        let name = |name: &str| Some(name.into());
        for (filter, expected) in [
            (none(), &all[..]),
            (ConnectionFilter { id: name("a-1"), ..none() }, &[&relay]),
            (ConnectionFilter { id: name("MARY"), ..none() }, &[&polling]),
            (ConnectionFilter { user: name("john"), ..none() }, &[&relay]),
            (ConnectionFilter { user: name("mary"), ..none() }, &[&polling]),
            (ConnectionFilter { user: name("mary"), form: name("websocket"), ..none() }, &[]),
            (ConnectionFilter { group: name("blue"), user: name("john"), ..none() }, &[&relay]),
            (ConnectionFilter { session: name("0123456789abcdef"), ..none() }, &[&relay]),
            (ConnectionFilter { facility: name("news"), ..none() }, &[&relay, &live]),
            (ConnectionFilter { facility: name("news"), dialect: name("live"), ..none() }, &[&live]),
            (ConnectionFilter { namespace: name("/chat"), ..none() }, &[&polling]),
            (ConnectionFilter { namespace: name("/"), ..none() }, &[]),
            (ConnectionFilter { address: "10.0.0.1".parse().ok(), ..none() }, &[&relay]),
            (ConnectionFilter { address: "192.0.2.7".parse().ok(), ..none() }, &[&live]),
            (ConnectionFilter { address: "192.0.2.8".parse().ok(), ..none() }, &[]),
        ] {
            let found: Vec<_> =
                all.iter().filter(|info| filter.matches(info)).map(|info| info.form).collect();
            let expected: Vec<_> = expected.iter().map(|info| info.form).collect();
            assert_eq!(found, expected, "{filter:?}");
        }
        assert!(none().is_empty() && !ConnectionFilter { user: name(""), ..none() }.is_empty());
    }
}
