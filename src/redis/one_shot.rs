//! One-time commands: `ws4redis check` and `ws4redis publish`.

use std::time::Duration;

use tokio::task::spawn_local;
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::command_client::CommandClient;
use super::error_reply::{cure, describe_text};
use super::history_reader;
use super::history_script::{self, PublicationHistory, ScriptCalls};
use super::reply::{CommandFailure, CommandReply};
use super::reply_value::ReplyValue;
use super::target::Target;
use crate::settings::{HistoryLimits, Settings};
use crate::wire::{Audience, Channel, Facility};

/// Largest value that is read.
const MAX_BYTES: usize = 1 << 20;

/// Most SCANs of one search.
const MAX_SCANS: usize = 1_000;

/// The findings of `ws4redis check`.
#[derive(Debug, Clone, Default)]
pub struct ServerReport {
    /// `redis_version` or `valkey_version`.
    pub version: Option<String>,
    /// `standalone`, `sentinel` or `cluster`.
    pub mode: Option<String>,
    /// Round-trip time of one command.
    pub round_trip: Duration,
    /// The error reply to PING with its cure, if PING is refused.
    pub refusal: Option<String>,
}

/// Connects and collects the findings. Must be called within a `LocalSet`.
///
/// # Errors
///
/// With a description, when Redis cannot be reached or refuses.
pub async fn examine(target: &Target) -> Result<ServerReport, String> {
    let _following = AbortOnDropHandle::new(spawn_local(target.clone().follow()));
    let mut connection = target.dial(MAX_BYTES).await?;
    let command_timeout = target.command_timeout();
    let late = |_| format!("no answer within {} s", command_timeout.as_secs());
    let begun = Instant::now();
    let refusal = match timeout(command_timeout, connection.call(&["PING"])).await.map_err(late)?? {
        // An error reply proves that Redis is alive.
        ReplyValue::Error(reason) => {
            let reason = describe_text(&reason);
            Some(format!("{reason}{}", cure(&reason)))
        }
        _ => None,
    };
    let round_trip = begun.elapsed();
    // A restricted ACL refuses INFO, which is fine.
    let info = timeout(command_timeout, connection.call(&["INFO"])).await.map_err(late)??;
    let field = |name: &str| {
        let mut lines = info.text().unwrap_or_default().lines();
        lines
            .find_map(|connection| connection.strip_prefix(name)?.strip_prefix(':'))
            .map(|value| value.trim().to_owned())
    };
    Ok(ServerReport {
        version: field("valkey_version").or_else(|| field("redis_version")),
        mode: field("redis_mode"),
        round_trip,
        refusal,
    })
}

/// Returns whether a Redis has a key that matches a pattern; a large Redis is searched in part. Must be called within a
/// `LocalSet`.
///
/// # Errors
///
/// With a description, when Redis cannot be reached or refuses.
pub async fn has_keys(target: &Target, pattern: &str) -> Result<bool, String> {
    let _following = AbortOnDropHandle::new(spawn_local(target.clone().follow()));
    let mut connection = target.dial(MAX_BYTES).await?;
    let mut cursor = "0".to_owned();
    for _ in 0..MAX_SCANS {
        let words = ["SCAN", &cursor, "MATCH", pattern, "COUNT", "1000"];
        let scanning = connection.call(&words);
        let late = |_| format!("no answer within {} s", target.command_timeout().as_secs());
        let reply = timeout(target.command_timeout(), scanning).await.map_err(late)??;
        if let ReplyValue::Error(reason) = reply {
            return Err(describe_text(&reason));
        }
        let [next, found] = reply.list() else { return Err("the reply to SCAN is malformed".to_owned()) };
        if !found.list().is_empty() {
            return Ok(true);
        }
        next.text().unwrap_or("0").clone_into(&mut cursor);
        if cursor == "0" {
            break;
        }
    }
    Ok(false)
}

/// A message to channels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedMessage {
    /// The channels.
    pub channels: Vec<Channel>,
    /// The message.
    pub payload: Vec<u8>,
    /// Seconds for which it is persisted; 0 if it is not.
    pub expire_seconds: u64,
    /// The limits of the facility's history, if it has one.
    pub history: Option<HistoryLimits>,
}

/// Why messages were not published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishFailure {
    /// The number of messages that were published to all their channels before. The next one may have been, to some.
    pub published: usize,
    /// Whether Redis was reached.
    pub was_connected: bool,
    /// A description.
    pub reason: String,
}

/// Publishes messages in order, persists them, and keeps them in the histories of their channels. Returns the number of
/// subscribers of each channel of each message, as Redis has reported it. Must be called within a `LocalSet`.
///
/// # Errors
///
/// When Redis cannot be reached or refuses.
pub async fn publish_once(
    settings: &Settings,
    target: &Target,
    messages: &[PublishedMessage],
) -> Result<Vec<Vec<i64>>, PublishFailure> {
    let _following = AbortOnDropHandle::new(spawn_local(target.clone().follow()));
    let connected = connect(target).await;
    let commands =
        connected.map_err(|reason| PublishFailure { published: 0, was_connected: false, reason })?;
    let mut receivers = Vec::with_capacity(messages.len());
    for (published, message) in messages.iter().enumerate() {
        let counts = publish_message(settings, &commands, message).await;
        receivers.push(counts.map_err(|reason| PublishFailure { published, was_connected: true, reason })?);
    }
    Ok(receivers)
}

async fn publish_message(
    settings: &Settings,
    commands: &CommandClient,
    message: &PublishedMessage,
) -> Result<Vec<i64>, String> {
    let PublishedMessage { channels, payload, expire_seconds, history } = message;
    let history = history.map(|limits| PublicationHistory::new(&settings.history_names(), channels, limits));
    let (mut receivers, expire) = (Vec::with_capacity(channels.len()), expire_seconds.to_string());
    for (index, channel) in channels.iter().enumerate() {
        let name = channel.as_str().as_bytes();
        commands.wait_for_node(name).await;
        let scripted = match &history {
            Some(history) => run_script(commands, (channel, index), history, &expire, payload).await,
            None => None,
        };
        let reply = if let Some(reply) = scripted {
            reply?
        } else {
            if *expire_seconds > 0 {
                let stored = commands.call("SETEX", &[name, expire.as_bytes(), payload]).await;
                stored.map_err(|(reason, _)| reason)?;
            }
            commands.call("PUBLISH", &[name, payload]).await.map_err(|(reason, _)| reason)?
        };
        receivers.push(if let CommandReply::Integer(count) = reply { count } else { 0 });
    }
    Ok(receivers)
}

/// Publishes and reads as histories need it. Must be called within a `LocalSet`.
///
/// # Errors
///
/// With a description and the cure, when Redis cannot be reached or refuses.
pub async fn probe_history(settings: &Settings, target: &Target) -> Result<(), String> {
    let _following = AbortOnDropHandle::new(spawn_local(target.clone().follow()));
    try_history(settings, &connect(target).await?).await
}

/// Publishes and reads as histories need it, in a facility that nobody uses.
///
/// # Errors
///
/// With a description and the cure, when Redis is lost or refuses.
pub(super) async fn try_history(settings: &Settings, commands: &CommandClient) -> Result<(), String> {
    let channel = settings.namespace.channel(Audience::Broadcast, &Facility::new("ws4redis-check"));
    let limits = HistoryLimits { messages: 1, seconds: 1 };
    let history = PublicationHistory::new(&settings.history_names(), std::slice::from_ref(&channel), limits);
    commands.wait_for_node(channel.as_str().as_bytes()).await;
    if let Some(Err(reason)) = run_script(commands, (&channel, 0), &history, "0", b"check").await {
        return Err(reason);
    }
    let Some(stream) = settings.history_names().stream(&channel) else { return Ok(()) };
    let key = stream.as_str().as_bytes();
    let mut batch = commands.batch();
    batch.add_keyed(
        "EVAL",
        key,
        &[history_reader::READ.as_bytes(), b"1", key, b"", b"1", b"100", b"100", b"0"],
    );
    script_outcome(commands.send(batch).await.pop()).map(drop)
}

/// Connects. The command client only retries; the first attempt returns the reason of a failure.
async fn connect(target: &Target) -> Result<CommandClient, String> {
    drop(target.dial(MAX_BYTES).await?);
    let commands = CommandClient::new(target, target.command_timeout(), MAX_BYTES);
    let up = timeout(target.command_timeout(), commands.until_up()).await;
    up.map_err(|_| "connection closed".to_owned())?;
    Ok(commands)
}

/// Publishes by the script of histories. None if the channel has no history.
async fn run_script(
    commands: &CommandClient,
    channel: (&Channel, usize),
    history: &PublicationHistory,
    expire: &str,
    payload: &[u8],
) -> Option<Result<CommandReply, String>> {
    let mut batch = commands.batch();
    let mut scripts = ScriptCalls::new("", commands.is_cluster());
    if !scripts.add(&mut batch, channel, history, expire, payload) {
        return None;
    }
    Some(script_outcome(commands.send(batch).await.pop()))
}

/// Returns the reply of a script, or a description of the failure with its cure.
fn script_outcome(reply: Option<Result<CommandReply, CommandFailure>>) -> Result<CommandReply, String> {
    match reply {
        Some(Ok(reply)) => Ok(reply),
        Some(Err(CommandFailure::Refused(reason))) if history_script::is_refusal(&reason) => {
            Err(format!("{reason}; {}", history_script::CURE))
        }
        Some(Err(CommandFailure::Refused(reason))) => Err(reason),
        Some(Err(CommandFailure::Lost)) | None => Err("redis was lost".to_owned()),
    }
}
