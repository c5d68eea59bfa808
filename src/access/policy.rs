//! Authorization: which channels a handshake may subscribe to and publish to.

use std::sync::Arc;

use super::rules::{self, RuleVerdict};
use super::{GroupGrant, GroupNames, GroupRule, Identity, Rate, Rule};
use crate::wire::{Audience, AudienceKind, Channel, Facility, Flags, Handshake, Namespace};

/// The channels that a handshake was granted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grant {
    /// The channels to subscribe to, in the order of subscription and replay.
    pub subscribe: Vec<Channel>,
    /// The channels to publish to.
    pub publish: Vec<Channel>,
    /// Whether the client receives its own messages.
    pub echo: bool,
    /// Whether the client is told who else is there: only by a rule that names it.
    pub presence: bool,
    /// The limit of its publications.
    pub rate: Rate,
    /// The groups of Django Channels that it hears.
    pub groups: GroupGrant,
}

/// Grants channels to handshakes.
///
/// Without access rules of the site everything is allowed, except the channels of an identity that the visitor lacks.
#[derive(Debug, Clone)]
pub struct Policy {
    namespace: Namespace,
    facility_colons: bool,
    anonymous_publish: bool,
    rules: Vec<Rule>,
    group_rules: Arc<[GroupRule]>,
    group_names: GroupNames,
}

/// The site's access rules refuse a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the site's access rules do not allow this")]
pub struct Denied;

impl Policy {
    /// Creates a policy. `facility_colons` grants user, group and session channels for facilities with a colon as well.
    /// Anonymous visitors may publish unless [`anonymous_publish`](Self::anonymous_publish) forbids it.
    pub fn new(namespace: Namespace, facility_colons: bool, rules: Vec<Rule>) -> Self {
        Self {
            namespace,
            facility_colons,
            anonymous_publish: true,
            rules,
            group_rules: Arc::default(),
            group_names: GroupNames::default(),
        }
    }

    /// Sets the groups of Django Channels that audiences hear.
    #[must_use]
    pub fn with_groups(self, group_rules: Arc<[GroupRule]>, group_names: GroupNames) -> Self {
        Self { group_rules, group_names, ..self }
    }

    /// Returns which names of groups Django accepts.
    pub fn group_names(&self) -> GroupNames {
        self.group_names
    }

    /// Sets whether anonymous visitors may publish.
    #[must_use]
    pub fn anonymous_publish(self, anonymous_publish: bool) -> Self {
        Self { anonymous_publish, ..self }
    }

    /// Returns whether any visitor may subscribe to channels of the facility.
    pub fn admits_subscribers(&self, facility: &Facility) -> bool {
        rules::admit_subscribers(&self.rules, facility)
    }

    /// Returns the channels of a handshake that this visitor may use. Flags outside `allowed` are ignored.
    ///
    /// # Errors
    ///
    /// When a rule refuses the handshake, or there are rules and none matches the facility.
    pub fn grant(
        &self,
        handshake: &Handshake,
        identity: &Identity,
        allowed: Option<Flags>,
    ) -> Result<Grant, Denied> {
        let Handshake { facility, flags } = handshake;
        let RuleVerdict::Allowed(flags, rate) = rules::decide(&self.rules, facility, *flags, identity) else {
            return Err(Denied);
        };
        let flags = allowed.map_or(flags, |allowed| flags.within(allowed));
        let mute = identity.user_id.is_none() && !self.anonymous_publish;
        let flags = if mute { flags.without_publish() } else { flags };
        let channels = |wanted: fn(Flags, AudienceKind) -> bool| {
            let kinds = AudienceKind::ALL.into_iter().filter(|kind| wanted(flags, *kind));
            let mut channels: Vec<Channel> = Vec::new();
            for channel in kinds.flat_map(|kind| self.channels(kind, facility, identity)) {
                // A group may be listed twice; a channel is subscribed to once.
                if !channels.contains(&channel) {
                    channels.push(channel);
                }
            }
            channels
        };
        let (subscribe, publish) = (channels(Flags::subscribes), channels(Flags::publishes));
        let groups = self.groups(flags, facility, identity);
        let presence = flags.presence() && !self.rules.is_empty();
        Ok(Grant { subscribe, publish, echo: flags.echo(), presence, rate, groups })
    }

    /// Returns the Channels groups of the audiences that the flags grant.
    fn groups(&self, flags: Flags, facility: &Facility, identity: &Identity) -> GroupGrant {
        let mut grant = GroupGrant::default();
        if self.group_rules.is_empty() {
            return grant;
        }
        for audience in AudienceKind::ALL.into_iter().filter(|kind| flags.subscribes(*kind)) {
            let is_entitled = match audience {
                AudienceKind::Broadcast => true,
                // A site without the Django package knows its users by their keys only.
                AudienceKind::User => identity.user_id.is_some(),
                AudienceKind::Group => !identity.groups.is_empty(),
                AudienceKind::Session => identity.session.is_some(),
            };
            if is_entitled && !self.is_ambiguous(audience, facility) {
                grant.add(&self.group_rules, self.group_names, audience, facility, identity);
            }
        }
        grant
    }

    /// Returns whether a facility has only its broadcast channel, because of its colon: "group:a:b:x" could be group a with
    /// facility b:x or group a:b with facility x.
    fn is_ambiguous(&self, kind: AudienceKind, facility: &Facility) -> bool {
        kind != AudienceKind::Broadcast && facility.has_colon() && !self.facility_colons
    }

    /// Returns the channels of one kind of audience; none if the identity is not entitled to it.
    fn channels(&self, kind: AudienceKind, facility: &Facility, identity: &Identity) -> Vec<Channel> {
        if self.is_ambiguous(kind, facility) {
            return Vec::new();
        }
        // Users without a name would share the channel "user::x".
        let is_unambiguous = |name: &&str| !(name.is_empty() || self.facility_colons && name.contains(':'));
        let audiences: Vec<Audience<'_>> = match kind {
            AudienceKind::Broadcast => vec![Audience::Broadcast],
            AudienceKind::Group => identity
                .groups
                .iter()
                .map(|name| &**name)
                .filter(is_unambiguous)
                .map(Audience::Group)
                .collect(),
            AudienceKind::User => {
                identity.user.as_deref().filter(is_unambiguous).map(Audience::User).into_iter().collect()
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
    fn users_and_groups_without_a_name_have_no_channel() {
        let nameless = Identity { user: Some("".into()), groups: ["", "a"].into_iter().collect(), ..john() };
        check(false, "/ws/x", &nameless, &["broadcast:x", "group:a:x", "session:key:x"], &[]);
        check(true, "/ws/x", &nameless, &["broadcast:x", "group:a:x", "session:key:x"], &[]);
    }

    #[test]
    fn without_anonymous_publish_only_logged_in_visitors_may_publish() {
        let all = "subscribe-broadcast&publish-broadcast&publish-session&echo";
        let handshake = Handshake::parse("/ws/x", Some(all), "/ws/").unwrap();
        let anonymous = Identity { session: Some(SessionKey::new("key")), ..Identity::default() };
        for (anonymous, identity, publishes) in
            [(true, &anonymous, 2), (false, &anonymous, 0), (true, &john(), 2), (false, &john(), 2)]
        {
            let policy = Policy::new(Namespace::default(), false, Vec::new()).anonymous_publish(anonymous);
            let grant = policy.grant(&handshake, identity, None).unwrap();
            assert_eq!((grant.subscribe.len(), grant.publish.len(), grant.echo), (1, publishes, true));
        }
    }

    #[test]
    fn colons_never_make_two_audiences_one_channel() {
        check(false, "/ws/b:x", &john(), &["broadcast:b:x"], &[]);
        let expected = ["broadcast:b:x", "group:staff:b:x", "user:john:b:x", "session:key:b:x"];
        check(true, "/ws/b:x", &john(), &expected, &["user:john:b:x"]);
    }
}
