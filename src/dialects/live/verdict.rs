//! Which flags of a subscription are granted.

use crate::access::Grant;
use crate::wire::{AudienceKind, Channel, Facility, Flags, Handshake, Namespace};

/// The names of flags that are granted and refused, as the client is told. `subscribe-` is left out.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(in crate::dialects) struct Verdict {
    pub(in crate::dialects) granted: Vec<String>,
    pub(in crate::dialects) refused: Vec<String>,
}

impl Verdict {
    /// Compares what was asked for with what is granted.
    pub(in crate::dialects) fn new(
        namespace: &Namespace,
        handshake: &Handshake,
        grant: &Grant,
        has_presence: bool,
    ) -> Self {
        let Handshake { facility, flags } = handshake;
        let mut verdict = Self::default();
        let has = |channels: &[Channel], kind: AudienceKind| {
            channels.iter().any(|channel| is_of(namespace.audience_of(channel, facility), kind.word()))
        };
        for kind in AudienceKind::ALL.into_iter().filter(|kind| flags.subscribes(*kind)) {
            let is_granted = has(&grant.subscribe, kind) || grant.groups.is_heard_by(kind);
            verdict.add(kind.word().to_owned(), is_granted);
        }
        for kind in AudienceKind::ALL.into_iter().filter(|kind| flags.publishes(*kind)) {
            verdict.add(format!("publish-{}", kind.word()), has(&grant.publish, kind));
        }
        if flags.presence() {
            verdict.add(Flags::PRESENCE_NAME.to_owned(), has_presence);
        }
        verdict
    }

    /// Returns the verdict with those granted flags alone that are to be kept; the others count as refused.
    pub(super) fn restrict(mut self, keep: impl Fn(&String) -> bool) -> Self {
        let (granted, refused) = self.granted.into_iter().partition(keep);
        self.granted = granted;
        self.refused.extend::<Vec<_>>(refused);
        self
    }

    /// Returns whether the flag `presence` is granted.
    pub(super) fn has_presence(&self) -> bool {
        self.granted.iter().any(|flag| flag == Flags::PRESENCE_NAME)
    }

    fn add(&mut self, name: String, is_granted: bool) {
        if is_granted { &mut self.granted } else { &mut self.refused }.push(name);
    }
}

/// Returns whether an audience is the one that a client names: by its kind, or as `group:NAME`.
fn is_of(audience: &str, name: &str) -> bool {
    // Only a kind is a prefix: groups may contain colons, and `group:a` is not `group:a:b`.
    let is_of_kind = || audience.split_once(':').is_some_and(|(kind, _)| kind == name);
    audience == name || is_of_kind()
}

/// Returns those of a facility's channels that a client names. A user and a session are named by their kind alone.
pub(super) fn select(
    namespace: &Namespace,
    facility: &Facility,
    channels: &[Channel],
    names: &[String],
) -> Vec<Channel> {
    let is_named = |channel: &&Channel| {
        let audience = namespace.audience_of(channel, facility);
        names.iter().any(|name| is_of(audience, name))
    };
    channels.iter().filter(is_named).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Audience;

    #[test]
    fn a_flag_without_a_channel_is_refused() {
        let namespace = Namespace::new("p");
        let facility = Facility::new("x");
        let flags = Flags::named([
            "subscribe-broadcast",
            "subscribe-group",
            "subscribe-user",
            "publish-user",
            "publish-session",
            "presence",
            "echo",
        ]);
        let channel = |audience| namespace.channel(audience, &facility);
        let grant = Grant {
            subscribe: vec![channel(Audience::Broadcast), channel(Audience::User("john"))],
            publish: vec![channel(Audience::User("john"))],
            ..Grant::default()
        };
        let handshake = Handshake { facility: facility.clone(), flags };
        let verdict = Verdict::new(&namespace, &handshake, &grant, false);
        assert_eq!(verdict.granted, ["broadcast", "user", "publish-user"]);
        assert_eq!(verdict.refused, ["group", "publish-session", "presence"]);
    }

    #[test]
    fn audiences_are_named_by_kind_or_group() {
        let (namespace, facility) = (Namespace::default(), Facility::new("x"));
        let audiences = [
            Audience::Broadcast,
            Audience::Group("a"),
            Audience::Group("ab"),
            Audience::Group("a:b"),
            Audience::User("u"),
        ];
        let channels = audiences.map(|audience| namespace.channel(audience, &facility));
        let selected = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let selected = select(&namespace, &facility, &channels, &names);
            selected.iter().map(|channel| channel.as_str().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(selected(&["broadcast", "user"]), ["broadcast:x", "user:u:x"]);
        assert_eq!(selected(&["group:a"]), ["group:a:x"]);
        assert_eq!(selected(&["group"]), ["group:a:x", "group:ab:x", "group:a:b:x"]);
        assert_eq!(selected(&["group:a:b"]), ["group:a:b:x"]);
        assert!(selected(&["group:a:"]).is_empty());
        assert!(selected(&["", "other", "broad"]).is_empty());
    }
}
