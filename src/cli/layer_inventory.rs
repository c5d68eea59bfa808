//! What `ws4redis check` says about the groups of Django Channels.

use super::findings::Findings;
use crate::redis::{Tap, Target, has_keys};
use crate::settings::{ChannelLayer, LayerKind, RedisSettings, Settings};
use crate::sources::escape_pattern;
use crate::wire::Channel;

/// Largest message while a subscription is tested; nothing of it is used.
const MAX_BYTES: usize = 1 << 20;

/// Returns lines about the rules.
pub(super) fn rules(settings: &Settings) -> Vec<String> {
    let channels = &settings.channels;
    if !channels.is_enabled {
        return vec!["Channels: off".to_owned()];
    }
    let mut lines = Vec::new();
    if let Some(layer) = channels.layer() {
        let kind = match layer.kind {
            LayerKind::PubSub => "pubsub",
            LayerKind::Core => "core",
        };
        let (groups, publish) = (channels.rules.len(), channels.publish.len());
        let plural = |count| if count == 1 { "" } else { "s" };
        lines.push(format!(
            "Channels: layer {kind}, prefix {}, {groups} [[channels.groups]] table{}, {publish} [[channels.publish]] table{}",
            layer.prefix,
            plural(groups),
            plural(publish)
        ));
    }
    if channels.has_group_of_name_alone() {
        lines.push(
            "warning: Channels: group = \"{user}\": a visitor who may choose a name hears any group of that name; use {user_id}, or put text before it"
                .to_owned(),
        );
    }
    if channels.rules.is_empty() {
        lines.push("Channels: no [[channels.groups]] table, so no group reaches a page".to_owned());
    }
    lines
}

/// Examines the servers of a layer. Must be called within a `LocalSet`.
pub(super) async fn servers(layer: &ChannelLayer) -> Findings {
    let mut findings = Findings::default();
    for redis in &layer.hosts {
        if let Err(problem) = examine(layer, redis, &mut findings).await {
            findings.problem(format!("Channels: {problem}"));
        }
    }
    findings
}

async fn examine(layer: &ChannelLayer, redis: &RedisSettings, findings: &mut Findings) -> Result<(), String> {
    let target = Target::new(redis).map_err(|error| error.to_string())?;
    let name = target.name().to_owned();
    let failed = |reason: String| format!("{name}: {reason}; {}", target.hint(&reason));
    if layer.kind == LayerKind::PubSub {
        let prefix = format!("{}__group__", layer.prefix);
        let channel = Channel::from_redis(&format!("{prefix}ws4redis.check"));
        let mut tap = Tap::open(&target, MAX_BYTES).await.map_err(failed)?;
        match tap.subscribe(&channel, false).await.map_err(failed)? {
            None => findings.note(format!("Channels: {name}: groups can be subscribed")),
            Some(reason) => findings.problem(format!(
                "Channels: {name}: groups are refused ({reason}); allow them with ACL SETUSER \u{2026} &{prefix}*"
            )),
        }
    }
    let key = format!("{}:group:", layer.prefix);
    match (layer.kind, has_keys(&target, &format!("{}*", escape_pattern(&key))).await) {
        (LayerKind::PubSub, Ok(true)) => findings.note(format!(
            "warning: Channels: {name} has keys {key}*, so Django uses the core layer, and channels.layer = \"pubsub\" hears nothing of it; set channels.layer = \"core\""
        )),
        (LayerKind::Core, Ok(true)) => {
            findings.note(format!("Channels: {name} has keys {key}*, as the core layer writes them"));
        }
        (LayerKind::Core, Ok(false)) => {
            findings.note(format!("Channels: {name} has no keys {key}* yet: no consumer is in a group"));
        }
        // The user of the pubsub layer may have no right but SUBSCRIBE.
        (LayerKind::PubSub, _) => {}
        (LayerKind::Core, Err(reason)) => return Err(failed(reason)),
    }
    Ok(())
}
