//! What a visitor may hear and say: the channels of a handshake.

use super::rules::{self, Verdict};
use super::{Identity, Rate, Rule};
use crate::wire::{Audience, AudienceKind, Channel, Facility, Flags, Handshake, Namespace};

/// What a visitor was allowed: a handshake became channels.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grant {
    /// The channels to hear, in the order of subscription and replay.
    pub subscribe: Vec<Channel>,
    /// The channels to speak to.
    pub publish: Vec<Channel>,
    /// Whether the client gets its own messages back.
    pub echo: bool,
    /// What it may publish.
    pub rate: Rate,
}

/// The rules by which handshakes become grants.
///
/// Without rules of the site's own: everything, except what needs an identity that the visitor lacks.
#[derive(Debug, Clone)]
pub struct Policy {
    namespace: Namespace,
    facility_colons: bool,
    rules: Vec<Rule>,
}

/// The site's rules refuse a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the site's access rules do not allow this")]
pub struct Denied;

impl Policy {
    /// Takes the prefix of all channels, whether facilities with a colon get all their channels, and the site's rules.
    pub fn new(namespace: Namespace, facility_colons: bool, rules: Vec<Rule>) -> Self {
        Self { namespace, facility_colons, rules }
    }

    /// Returns what this visitor gets of what the handshake asks for. `allowed` narrows what the rules allow.
    ///
    /// # Errors
    ///
    /// When a rule refuses the handshake, or there are rules and none is about the facility.
    pub fn grant(
        &self,
        handshake: &Handshake,
        identity: &Identity,
        allowed: Option<Flags>,
    ) -> Result<Grant, Denied> {
        let Handshake { facility, flags } = handshake;
        let Verdict::Allowed(flags, rate) = rules::decide(&self.rules, facility, *flags, identity) else {
            return Err(Denied);
        };
        let flags = allowed.map_or(flags, |allowed| flags.within(allowed));
        let channels = |wanted: fn(Flags, AudienceKind) -> bool| {
            let kinds = AudienceKind::ALL.into_iter().filter(|kind| wanted(flags, *kind));
            let mut channels: Vec<Channel> = Vec::new();
            for channel in kinds.flat_map(|kind| self.channels(kind, facility, identity)) {
                // A group may be named twice; a channel is joined once.
                if !channels.contains(&channel) {
                    channels.push(channel);
                }
            }
            channels
        };
        let (subscribe, publish) = (channels(Flags::subscribes), channels(Flags::publishes));
        Ok(Grant { subscribe, publish, echo: flags.echo(), rate })
    }

    /// Returns the channels of one kind of audience; none where the identity lacks what it needs.
    fn channels(&self, kind: AudienceKind, facility: &Facility, identity: &Identity) -> Vec<Channel> {
        // "group:a:b:x" is group a with facility b:x, or group a:b with facility x: one of the two gets nothing.
        if kind != AudienceKind::Broadcast && facility.has_colon() && !self.facility_colons {
            return Vec::new();
        }
        let clear = |name: &&str| !self.facility_colons || !name.contains(':');
        let audiences: Vec<Audience<'_>> = match kind {
            AudienceKind::Broadcast => vec![Audience::Broadcast],
            AudienceKind::Group => {
                identity.groups.iter().map(|name| &**name).filter(clear).map(Audience::Group).collect()
            }
            AudienceKind::User => {
                identity.user.as_deref().filter(clear).map(Audience::User).into_iter().collect()
            }
            AudienceKind::Session => identity.session.as_ref().map(Audience::Session).into_iter().collect(),
        };
        audiences.into_iter().map(|audience| self.namespace.channel(audience, facility)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::SessionKey;

    const ALL: &str = "subscribe-session&subscribe-user&subscribe-group&subscribe-broadcast&publish-user";

    fn john() -> Identity {
        Identity {
            session: Some(SessionKey::new("key")),
            user_id: Some("1".into()),
            user: Some("john".into()),
            groups: ["staff", "a:b"].into_iter().collect(),
        }
    }

    #[track_caller]
    fn check(colons: bool, path: &str, identity: &Identity, subscribe: &[&str], publish: &[&str]) {
        let handshake = Handshake::parse(path, Some(ALL), "/ws/").unwrap();
        let grant =
            Policy::new(Namespace::default(), colons, Vec::new()).grant(&handshake, identity, None).unwrap();
        let names = |channels: &[Channel]| channels.iter().map(|c| c.as_str().to_owned()).collect::<Vec<_>>();
        assert_eq!(names(&grant.subscribe), subscribe);
        assert_eq!(names(&grant.publish), publish);
    }

    #[test]
    fn channels_come_in_the_order_broadcast_groups_user_session() {
        let expected = ["broadcast:x", "group:staff:x", "group:a:b:x", "user:john:x", "session:key:x"];
        check(false, "/ws/x", &john(), &expected, &["user:john:x"]);
    }

    #[test]
    fn a_group_that_is_named_twice_is_one_channel() {
        let john = Identity { groups: ["a", "b", "a"].into_iter().collect(), ..Identity::default() };
        check(false, "/ws/x", &john, &["broadcast:x", "group:a:x", "group:b:x"], &[]);
    }

    #[test]
    fn an_anonymous_visitor_gets_no_channel_that_needs_an_identity() {
        check(false, "/ws/x", &Identity::anonymous(), &["broadcast:x"], &[]);
    }

    #[test]
    fn colons_never_make_two_audiences_one_channel() {
        check(false, "/ws/b:x", &john(), &["broadcast:b:x"], &[]);
        let expected = ["broadcast:b:x", "group:staff:b:x", "user:john:b:x", "session:key:b:x"];
        check(true, "/ws/b:x", &john(), &expected, &["user:john:b:x"]);
    }
}
