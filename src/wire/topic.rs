//! Topics: what members of the hub listen to.

use std::fmt;
use std::sync::Arc;

use super::{Channel, Mount};

/// The kind of a topic's name. A dialect with topics of its own adds a scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// The name is that of a Redis channel.
    Channel,
    /// A namespace of Socket.IO: all sockets in it.
    Namespace,
    /// A room in a namespace of Socket.IO.
    Room,
    /// A user of yunity-sockets.
    BridgeUser,
    /// A group of Django Channels, in one form of delivery.
    Group,
}

/// The number of a form in which messages of Channels groups are delivered: that of a rule's `deliver` and `types`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupForm(u8);

impl GroupForm {
    /// Forms that the settings may have.
    pub const MAX: usize = 128;

    /// Wraps a number, which must be less than [`Self::MAX`]: it is a byte of ASCII in the name of a topic.
    pub const fn new(number: u8) -> Self {
        Self(number & 0x7f)
    }

    /// Returns the number.
    pub fn number(self) -> usize {
        self.0.into()
    }
}

/// Marks of the scopes that are not channels.
const NAMESPACE_MARK: &str = "\0n";
const ROOM_MARK: &str = "\0r";
const USER_MARK: &str = "\0u";
const GROUP_MARK: &str = "\0g";
const LABELLED_GROUP_MARK: &str = "\0l";

/// The scope and the name of a topic. Opaque to the hub, and cheap to clone.
///
/// Both are packed into one shared string: a field for the scope would add 8 bytes to each topic, and a comparison to
/// each delivery. A name in [`Scope::Channel`] is stored as it is; other scopes have to prepend a mark that begins with
/// NUL. No channel name begins with it: each begins with the site's prefix, the name of an audience, or `__keyspace@`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Topic(Arc<str>);

impl Topic {
    /// Returns the topic of a namespace on a mount. Its name must not contain NUL.
    pub fn namespace(mount: Mount, name: &str) -> Self {
        Self([NAMESPACE_MARK, mount.mark().encode_utf8(&mut [0; 4]), name].concat().into())
    }

    /// Returns the topic of a room in a namespace on a mount. NUL separates the names, because no namespace contains it.
    pub fn room(mount: Mount, namespace: &str, room: &str) -> Self {
        let mark = mount.mark();
        Self([ROOM_MARK, mark.encode_utf8(&mut [0; 4]), namespace, "\0", room].concat().into())
    }

    /// Returns the topic of a user of yunity-sockets on a mount. It is no room: publishers of rooms cannot name it.
    pub fn bridge_user(mount: Mount, user: &str) -> Self {
        Self([USER_MARK, mount.mark().encode_utf8(&mut [0; 4]), user].concat().into())
    }

    /// Returns the topic of a group of Django Channels, in one form of delivery.
    pub fn group(form: GroupForm, name: &str) -> Self {
        Self([GROUP_MARK, char::from(form.0).encode_utf8(&mut [0; 4]), name].concat().into())
    }

    /// Returns the topic of a group, in one form of delivery, for listeners of version 2, whose messages begin with a label.
    pub fn labelled_group(form: GroupForm, name: &str, label: &str) -> Self {
        let form = char::from(form.0);
        Self(format!("{LABELLED_GROUP_MARK}{form}{}:{label}{name}", label.len()).into())
    }

    /// Returns the name of the Channels group, if the scope is that of groups.
    pub fn group_name(&self) -> Option<&str> {
        if let Some((label, behind)) = self.split_label() {
            return behind.get(label..);
        }
        (self.scope() == Scope::Group).then(|| &self.0[GROUP_MARK.len() + 1..])
    }

    /// Returns the label of a group's messages, if they have one.
    pub fn group_label(&self) -> Option<&str> {
        let (label, behind) = self.split_label()?;
        behind.get(..label)
    }

    /// Returns the length of a label, and the label with the name of the group behind it.
    fn split_label(&self) -> Option<(usize, &str)> {
        let behind = self.0.strip_prefix(LABELLED_GROUP_MARK)?;
        let (length, behind) = behind.get(1..)?.split_once(':')?;
        Some((length.parse().ok()?, behind))
    }

    /// Returns the form of delivery, if the scope is that of groups.
    pub fn group_form(&self) -> Option<GroupForm> {
        (self.scope() == Scope::Group).then(|| GroupForm::new(self.0.as_bytes()[GROUP_MARK.len()]))
    }

    /// Returns the kind of the name.
    pub fn scope(&self) -> Scope {
        match self.0.as_bytes() {
            [0, b'n', ..] => Scope::Namespace,
            [0, b'r', ..] => Scope::Room,
            [0, b'u', ..] => Scope::BridgeUser,
            [0, b'g' | b'l', ..] => Scope::Group,
            _ => Scope::Channel,
        }
    }

    /// Returns the name of the namespace: empty if the topic is in none.
    pub fn namespace_name(&self) -> &str {
        match self.scope() {
            Scope::Channel | Scope::BridgeUser | Scope::Group => "",
            Scope::Namespace => &self.0[NAMESPACE_MARK.len() + 1..],
            Scope::Room => self.0[ROOM_MARK.len() + 1..].split('\0').next().unwrap_or_default(),
        }
    }

    /// Returns the Redis channel of this name, if the scope is that of channels. Copies no string.
    pub fn channel(&self) -> Option<Channel> {
        match self.scope() {
            Scope::Channel => Some(Channel::from_shared(self.0.clone())),
            Scope::Namespace | Scope::Room | Scope::BridgeUser | Scope::Group => None,
        }
    }
}

impl From<Channel> for Topic {
    /// Copies no string.
    fn from(channel: Channel) -> Self {
        Self(channel.into_shared())
    }
}

/// The packed form, for directories.
impl AsRef<str> for Topic {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// Shows the name as [`Channel`] does: session keys are masked, because this is meant for logs.
impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&Channel::from_shared(self.0.clone()), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_and_its_topic_share_one_name() {
        let channel = Channel::from_redis("session:abc:x");
        let topic = Topic::from(channel.clone());
        assert_eq!(topic.as_ref().as_ptr(), channel.as_str().as_ptr());
        assert_eq!(topic.channel(), Some(channel));
        assert_eq!(format!("{topic:?}"), "session:***:x", "a log shows no session key");
    }

    #[test]
    fn a_group_has_a_topic_for_each_form_of_delivery() {
        let (one, other) = (GroupForm::new(0), GroupForm::new(127));
        let topic = Topic::group(other, "chat_5");
        assert_eq!((topic.group_name(), topic.group_form()), (Some("chat_5"), Some(other)));
        assert_ne!(topic, Topic::group(one, "chat_5"));
        assert!(topic.channel().is_none() && topic.namespace_name().is_empty());
        assert_eq!(topic.group_label(), None);
        for name in ["chat_5", "5:x", ""] {
            let labelled = Topic::labelled_group(other, name, "1:é");
            assert_eq!((labelled.group_name(), labelled.group_form()), (Some(name), Some(other)));
            assert_eq!((labelled.group_label(), labelled.channel()), (Some("1:é"), None));
        }
        assert_eq!(Topic::from(Channel::from_redis("g")).group_name(), None);
    }

    #[test]
    fn a_room_belongs_to_its_namespace() {
        let [mount, other] = [0, 1].map(|number| Mount::new(number).unwrap());
        let (namespace, room) = (Topic::namespace(mount, "/chat"), Topic::room(mount, "/chat", "a\0b"));
        assert_eq!((namespace.scope(), room.scope()), (Scope::Namespace, Scope::Room));
        assert_eq!((namespace.namespace_name(), room.namespace_name()), ("/chat", "/chat"));
        assert!(namespace.channel().is_none() && room.channel().is_none());
        assert_ne!(Topic::room(mount, "/chat", "a"), Topic::room(mount, "/", "chat\0a"));
        assert_ne!(Topic::room(mount, "/", "a"), Topic::room(other, "/", "a"), "mounts share no rooms");
        assert_ne!(Topic::namespace(mount, "/"), Topic::namespace(other, "/"));
    }
}
