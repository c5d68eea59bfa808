//! Settings of `[channels]`, `[[channels.groups]]` and `[[channels.publish]]`.

use std::fmt;
use std::sync::Arc;

use serde::Deserialize;

use super::channels_tables::{ChannelsPublishRule, RawGroupRule, RawPublishRule, tables};
use super::delivery::GroupDelivery;
use super::error::SettingsError;
use super::fields::{invalid, list, require};
use super::redis_url::{RedisUrl, Servers};
use super::sections::RedisSettings;
use crate::access::{GroupNames, GroupRule, GroupTemplate};

/// Settings of `[channels]`, checked.
#[derive(Debug, Clone)]
pub struct ChannelsSettings {
    /// Whether the section is on.
    pub is_enabled: bool,
    /// The layer of Django Channels, also if the section is off.
    written: ChannelLayer,
    /// The groups that audiences hear; none if the section is off.
    pub rules: Arc<[GroupRule]>,
    /// Which names of groups Django accepts.
    pub names: GroupNames,
    /// The forms of delivery, by the numbers in the rules.
    pub deliveries: Arc<[GroupDelivery]>,
    /// What goes from pages to Django; none if the section is off.
    pub publish: Arc<[ChannelsPublishRule]>,
}

/// The layer of Django Channels: how its messages are stored and encoded.
#[derive(Clone)]
pub struct ChannelLayer {
    /// Which of the two layers of `channels_redis`.
    pub kind: LayerKind,
    /// Prefix of its keys and channels.
    pub prefix: String,
    /// Its servers, in their order, with the other settings of `[redis]`.
    pub hosts: Vec<RedisSettings>,
    /// Whether messages are JSON in place of msgpack.
    pub is_json: bool,
    /// The keys that encrypt its messages, as written.
    pub encryption_keys: Vec<String>,
    /// Messages that Django leaves in a mailbox of the gateway.
    pub capacity: usize,
    /// Seconds for which the last message of a group is kept; 0 means not at all.
    pub keep_seconds: u32,
    /// Whether byte strings within JSON are refused in place of base64.
    pub refuses_bytes: bool,
}

impl ChannelsSettings {
    /// Returns the layer of Django Channels; `None` if the section is off, or has no rule.
    pub fn layer(&self) -> Option<&ChannelLayer> {
        let is_used = self.is_enabled && !(self.rules.is_empty() && self.publish.is_empty());
        is_used.then_some(&self.written)
    }

    /// Returns whether a group has the name of a user, which visitors may choose, without other text.
    pub fn has_group_of_name_alone(&self) -> bool {
        self.rules.iter().filter_map(|rule| rule.group.as_ref()).any(GroupTemplate::is_user_alone)
    }
}

/// Shows no key.
impl fmt::Debug for ChannelLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, prefix, .. } = self;
        f.debug_struct("ChannelLayer")
            .field("kind", kind)
            .field("prefix", prefix)
            .field("hosts", &self.hosts)
            .field("is_json", &self.is_json)
            .field("encryption_keys", &self.encryption_keys.len())
            .field("capacity", &self.capacity)
            .field("keep_seconds", &self.keep_seconds)
            .field("refuses_bytes", &self.refuses_bytes)
            .finish()
    }
}

/// The layers of `channels_redis`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerKind {
    /// `RedisPubSubChannelLayer`: PUBLISH and SUBSCRIBE.
    PubSub,
    /// `RedisChannelLayer`: sorted sets.
    Core,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawChannels {
    enabled: bool,
    layer: String,
    prefix: String,
    #[serde(deserialize_with = "list")]
    hosts: Vec<String>,
    serializer: String,
    #[serde(deserialize_with = "list")]
    symmetric_encryption_keys: Vec<String>,
    capacity: u32,
    keep_seconds: u32,
    bytes: String,
    #[serde(deserialize_with = "tables")]
    groups: Vec<RawGroupRule>,
    #[serde(deserialize_with = "tables")]
    publish: Vec<RawPublishRule>,
}

impl RawChannels {
    /// Checks the section. `access` has the patterns of facilities of each `[[access]]` table.
    pub(super) fn check(
        self,
        redis: &RedisSettings,
        access: &[&[String]],
    ) -> Result<ChannelsSettings, SettingsError> {
        let kind = match self.layer.as_str() {
            "pubsub" => LayerKind::PubSub,
            "core" => LayerKind::Core,
            _ => return Err(invalid("channels.layer", "expected pubsub or core")),
        };
        let names = if kind == LayerKind::Core { GroupNames::Plain } else { GroupNames::Any };
        let is_json = match self.serializer.as_str() {
            "msgpack" => false,
            "json" => true,
            _ => return Err(invalid("channels.serializer", "expected msgpack or json")),
        };
        let refuses_bytes = match self.bytes.as_str() {
            "base64" => false,
            "refuse" => true,
            _ => return Err(invalid("channels.bytes", "expected base64 or refuse")),
        };
        require(
            !self.prefix.is_empty() && !self.prefix.chars().any(char::is_control),
            "channels.prefix",
            "must be the prefix of Django's CHANNEL_LAYERS, which is asgi unless it is set there",
        )?;
        let has_keys = self.symmetric_encryption_keys.iter().all(|key| !key.is_empty());
        require(has_keys, "channels.symmetric_encryption_keys", "has an empty key")?;
        let mut deliveries = Vec::new();
        let rules = self
            .groups
            .iter()
            .map(|rule| rule.check(names, access, &mut deliveries))
            .collect::<Result<Vec<_>, _>>()?;
        let publish = self.publish.iter().map(|rule| rule.check(names)).collect::<Result<Vec<_>, _>>()?;
        let written = ChannelLayer {
            kind,
            hosts: hosts(&self.hosts, redis, self.enabled)?,
            prefix: self.prefix,
            is_json,
            encryption_keys: self.symmetric_encryption_keys,
            capacity: self.capacity as usize,
            keep_seconds: self.keep_seconds,
            refuses_bytes,
        };
        Ok(ChannelsSettings {
            is_enabled: self.enabled,
            written,
            rules: if self.enabled { rules.into() } else { Arc::default() },
            names,
            deliveries: deliveries.into(),
            publish: if self.enabled { publish.into() } else { Arc::default() },
        })
    }
}

/// Returns the servers of the layer: those that are listed, or that of `redis.url`.
fn hosts(
    urls: &[String],
    redis: &RedisSettings,
    is_enabled: bool,
) -> Result<Vec<RedisSettings>, SettingsError> {
    let key = if urls.is_empty() { "redis.url" } else { "channels.hosts" };
    let urls = if urls.is_empty() {
        vec![redis.url.clone()]
    } else {
        urls.iter().map(|url| RedisUrl::written(url, "channels.hosts")).collect::<Result<_, _>>()?
    };
    for url in &urls {
        let is_cluster = url.as_ref().is_some_and(|url| matches!(url.servers, Servers::Cluster(_)));
        require(
            !(is_cluster && is_enabled),
            key,
            "is a cluster, which the layers of Channels cannot use; name their Redis in channels.hosts",
        )?;
    }
    Ok(urls.into_iter().map(|url| RedisSettings { url, ..redis.clone() }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{ChannelsDestination, Settings};

    /// Loads a settings file with this text behind `[channels]` and `enabled = true`.
    fn load(text: &str) -> Result<Settings, String> {
        let name = format!("ws4redis-channels-{}-{:?}", std::process::id(), std::thread::current().id());
        let file = std::env::temp_dir().join(name);
        std::fs::write(&file, format!("[channels]\nenabled = true\n{text}")).unwrap();
        let loaded = Settings::load(Some(&file), std::iter::empty(), &[]);
        std::fs::remove_file(file).unwrap();
        loaded.map(|(settings, _)| settings).map_err(|error| error.to_string())
    }

    const RULE: &str = "[[channels.groups]]\nfacility = [\"chat-*\"]\naudience = \"broadcast\"\n";

    #[test]
    fn the_section_is_off_by_default_and_without_a_rule() {
        let built_in = Settings::built_in().unwrap().channels;
        assert!(built_in.layer().is_none() && built_in.rules.is_empty());
        assert!(load("").unwrap().channels.layer().is_none());
    }

    #[test]
    fn rules_with_the_same_delivery_share_its_form() {
        let text = format!(
            "{RULE}group = \"a\"\n{RULE}group = \"b\"\n{RULE}group = \"c\"\ndeliver = \"message\"\n\
             [[channels.publish]]\nfacility = [\"*\"]\nto = \"channel:in\"\ntype = \"page.message\"\n"
        );
        let channels = load(&text).unwrap().channels;
        assert_eq!(channels.rules.iter().map(|rule| rule.form.number()).collect::<Vec<_>>(), [0, 0, 1]);
        assert_eq!(channels.deliveries.len(), 2);
        assert_eq!(channels.publish[0].to, ChannelsDestination::Channel("in".to_owned()));
        let layer = channels.layer().unwrap();
        assert_eq!((layer.kind, layer.prefix.as_str(), layer.hosts.len()), (LayerKind::PubSub, "asgi", 1));
    }

    #[test]
    fn a_group_that_clients_choose_needs_an_access_rule_for_its_facilities() {
        let open = format!("{RULE}group = \"{{facility}}\"\n");
        let access =
            |facility: &str| format!("{open}[[access]]\nfacility = [\"{facility}\"]\nusers = [\"*\"]\n");
        assert!(load(&open).unwrap_err().contains("without an [[access]] table"));
        assert!(load(&access("news")).unwrap_err().contains("without an [[access]] table"));
        assert!(load(&access("chat-*")).is_ok() && load(&access("*")).is_ok());
        let user = open.replace("broadcast", "user");
        assert!(load(&user).is_err(), "any user could choose any group");
        let own = |text: &str| text.replace("{facility}", "{facility}_{user_id}");
        assert!(load(&own(&user)).is_err(), "chat_7 may be another group");
        assert!(load(&own(&access("chat-*"))).is_ok());
        assert!(load(&access("*").replace("{facility}", "{user}_{facility}")).is_err());
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_a_cure() {
        for (text, expected) in [
            ("layer = \"x\"\n", "channels.layer: expected pubsub or core"),
            ("serializer = \"x\"\n", "channels.serializer: expected msgpack or json"),
            ("bytes = \"x\"\n", "channels.bytes: expected base64 or refuse"),
            ("prefix = \"\"\n", "channels.prefix: must be"),
            ("symmetric_encryption_keys = [\"\"]\n", "channels.symmetric_encryption_keys: has an empty key"),
            (RULE, "channels.groups.group: is empty"),
            (&format!("{RULE}group = \"a{{group}}\"\n"), "audience = \"group\""),
            (&format!("layer = \"core\"\n{RULE}group = \"a b\"\n"), "has a character that the core layer"),
            (&format!("{RULE}group = \"a\"\ndeliver = \"{{x\"\n"), "channels.groups.deliver: "),
            (&format!("{RULE}group = \"{{user}}_{{facility}}\"\n"), "channels.groups.group: is ambiguous"),
            (
                &format!("hosts = [\"redis-cluster://a\"]\n{RULE}group = \"a\"\n"),
                "channels.hosts: is a cluster",
            ),
            (&RULE.replace("broadcast", "all"), "channels.groups.audience: expected"),
            (
                "[[channels.publish]]\nfacility = [\"*\"]\nto = \"in\"\ntype = \"a\"\n",
                "channels.publish.to: ",
            ),
            (
                "[[channels.publish]]\nfacility = [\"*\"]\nto = \"group:a\"\ntype = \"_a\"\n",
                "channels.publish.type: ",
            ),
            ("keep_seconds = -1\n", "channels.keep_seconds: "),
        ] {
            let error = load(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
