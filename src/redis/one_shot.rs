//! One-time commands: `ws4redis check` and `ws4redis publish`.

use std::time::Duration;

use tokio::task::spawn_local;
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::command_client::CommandClient;
use super::error_reply::{cure, describe_text};
use super::reply::CommandReply;
use super::reply_value::ReplyValue;
use super::target::Target;
use crate::wire::Channel;

/// Largest value that is read.
const MAX_BYTES: usize = 1 << 20;

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

/// Publishes a message to channels, and persists it for `expire_seconds` if that is not 0. Returns the number of
/// subscribers that Redis reported. Must be called within a `LocalSet`.
///
/// # Errors
///
/// With a description, when Redis cannot be reached or refuses.
pub async fn publish_once(
    target: &Target,
    channels: &[Channel],
    payload: &[u8],
    expire_seconds: u64,
) -> Result<i64, String> {
    let _following = AbortOnDropHandle::new(spawn_local(target.clone().follow()));
    // The command client only retries; this attempt returns the reason of a failure.
    drop(target.dial(MAX_BYTES).await?);
    let commands = CommandClient::new(target, target.command_timeout(), MAX_BYTES);
    let up = timeout(target.command_timeout(), commands.until_up()).await;
    up.map_err(|_| "connection closed".to_owned())?;
    let (mut receivers, expire) = (0, expire_seconds.to_string());
    for channel in channels {
        let name = channel.as_str().as_bytes();
        commands.wait_for_node(name).await;
        if expire_seconds > 0 {
            commands
                .call("SETEX", &[name, expire.as_bytes(), payload])
                .await
                .map_err(|(reason, _)| reason)?;
        }
        let reply = commands.call("PUBLISH", &[name, payload]).await.map_err(|(reason, _)| reason)?;
        if let CommandReply::Integer(count) = reply {
            receivers += count;
        }
    }
    Ok(receivers)
}
