//! What `ws4redis check` says about mounts, sources and channels.

use super::findings::Findings;
use crate::redis::{Tap, Target};
use crate::settings::{HistoryLimits, HistoryRule, MountSettings, NamespacePattern, Settings};
use crate::sources::{Source, own_channels};
use crate::wire::engine_io::EngineVersion;

/// Largest message while the channels are tested; nothing of it is used.
const MAX_BYTES: usize = 1 << 20;

/// The message for which the memory of a history is estimated, and Redis' own bytes: per entry, and per stream, whose length
/// is exceeded by up to one node (measured with Redis 7.0, MEMORY USAGE).
const TYPICAL_MESSAGE_BYTES: u64 = 500;
const ENTRY_BYTES: u64 = 140;
const HISTORY_BYTES: u64 = 5 << 10;

/// The number of channels for which it is estimated.
const MANY_CHANNELS: u64 = 1_000;

/// Returns a line for each mount: a path that serves a protocol.
pub(super) fn mounts(settings: &Settings) -> Vec<String> {
    let socket_io = &settings.socket_io;
    if socket_io.mounts.is_empty() {
        return vec!["Socket.IO: off".to_owned()];
    }
    let versions = socket_io.versions.iter().map(|version| match version {
        EngineVersion::V3 => "3",
        EngineVersion::V4 => "4",
    });
    let versions: Vec<_> = versions.collect();
    let transports = [("polling", socket_io.polling), ("websocket", socket_io.websocket)];
    let transports = transports.into_iter().filter(|(_, is_on)| *is_on).map(|(name, _)| name);
    let transports: Vec<_> = transports.collect();
    let namespaces = socket_io.namespaces.iter().map(|namespace| match namespace {
        NamespacePattern::Exact(name) => name.clone(),
        NamespacePattern::Prefix(prefix) => format!("{prefix}*"),
    });
    let namespaces: Vec<_> = namespaces.collect();
    let described = format!(
        "Engine.IO {}, {}, namespaces {}",
        versions.join(" and "),
        transports.join(" and "),
        namespaces.join(" ")
    );
    socket_io
        .mounts
        .iter()
        .map(|mount| {
            format!(
                "Socket.IO: {}/, {described}, {}",
                mount.path,
                reached_by(mount, socket_io.emitter.is_enabled)
            )
        })
        .collect()
}

/// Returns what reaches the clients of a mount.
fn reached_by(mount: &MountSettings, has_emitters: bool) -> String {
    let sources = [
        (mount.is_main && has_emitters, "emitters of Node"),
        (mount.redis_manager, "RedisManager"),
        (mount.yunity, "yunity-sockets"),
        (mount.messenger, "messenger"),
    ];
    let sources = sources.into_iter().filter(|(reaches, _)| *reaches).map(|(_, name)| name);
    let sources: Vec<_> = sources.collect();
    if sources.is_empty() {
        "reached by nothing in Redis".to_owned()
    } else {
        format!("reached by {}", sources.join(" and "))
    }
}

/// Returns a line for each `[[history]]` table: what it keeps, and the memory that one channel can take.
pub(super) fn histories(settings: &Settings) -> Vec<String> {
    let line = |rule: &HistoryRule| {
        let HistoryLimits { messages, seconds } = rule.limits;
        let memory = HISTORY_BYTES + u64::from(messages) * (TYPICAL_MESSAGE_BYTES + ENTRY_BYTES);
        format!(
            "history: {}, {messages} messages for {seconds} s; a channel with messages of {TYPICAL_MESSAGE_BYTES} bytes takes up to {} KiB of Redis' memory, {} channels {} MiB",
            rule.patterns.join(" "),
            memory.div_ceil(1 << 10),
            MANY_CHANNELS,
            (memory * MANY_CHANNELS).div_ceil(1 << 20),
        )
    };
    settings.history.iter().map(line).collect()
}

/// Subscribes for a moment, and returns a line for each channel and pattern of the gateway itself.
///
/// # Errors
///
/// With a description, when the connection is lost.
pub(super) async fn channels(settings: &Settings, target: &Target) -> Result<Findings, String> {
    let mut tap = Tap::open(target, MAX_BYTES).await?;
    let (mut findings, mut refused, mut all) = (Findings::default(), 0, 0);
    for (channel, source) in own_channels(settings) {
        let (kind, command) =
            if source.is_pattern() { ("pattern", "psubscribe") } else { ("channel", "subscribe") };
        let outcome = match tap.subscribe(&channel, source.is_pattern()).await? {
            None => "subscribed".to_owned(),
            Some(reason) => {
                refused += usize::from(source.is_socket_io());
                let name = channel.as_str();
                format!("refused ({reason}); allow it with ACL SETUSER \u{2026} +{command} &{name}")
            }
        };
        all += usize::from(source.is_socket_io());
        findings.note(format!("{kind} {}, {}: {outcome}", channel.as_str(), meaning(source, settings)));
    }
    if refused > 0 {
        findings.problem(format!(
            "socketio: Redis refuses {refused} of {all} channels and patterns; clients of Socket.IO get 503. The lines above say how to allow them"
        ));
    } else if all > 0 {
        findings.note("socketio: Redis permits all channels and patterns".to_owned());
    }
    Ok(findings)
}

fn meaning(source: Source, settings: &Settings) -> &'static str {
    match source {
        Source::Relay | Source::Keyspace => "messages",
        Source::Control => "changes that the Django package reports",
        Source::RedisManager if settings.socket_io.redis_manager.pickle => {
            "RedisManager of python-socketio in JSON and pickle"
        }
        Source::RedisManager => "RedisManager of python-socketio in JSON, pickle is off",
        Source::Emitter => "events of emitters and servers of Node",
        Source::EmitterRequest => "rooms and disconnects of emitters and servers of Node",
        Source::Notifications => "notifications and tasks for the bridges",
    }
}
