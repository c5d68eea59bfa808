//! Health checks for supervisors and load balancers of the operator.

use serde_json::{Value, json};

use super::refusal::Refusal;
use super::shards::Shards;
use crate::shard::ask::ShardStatus;

/// Returns the answer if all shards run their tasks. Redis has no influence: a restart would not bring it back.
///
/// # Errors
///
/// When a shard does not answer in time.
pub(super) async fn live(shards: &Shards) -> Result<Value, Refusal> {
    let statuses = shards.statuses().await;
    match statuses.iter().position(Option::is_none) {
        // At the end of a drain, shards end before the process.
        Some(shard) if !shards.is_stopping() => Err(Refusal::Unresponsive(shard)),
        _ => Ok(json!({ "status": "live" })),
    }
}

/// Returns the answer if the gateway accepts clients.
///
/// # Errors
///
/// When it stops, or Redis is not connected or refuses a channel of Socket.IO, or a shard does not answer in time.
pub(super) async fn ready(shards: &Shards) -> Result<Value, Refusal> {
    if shards.is_stopping() {
        return Err(Refusal::Draining);
    }
    for (shard, status) in shards.statuses().await.into_iter().enumerate() {
        match status {
            Some(ShardStatus::Ready) => {}
            Some(ShardStatus::Draining) => return Err(Refusal::Draining),
            Some(ShardStatus::NoRedis) => return Err(Refusal::NoRedis),
            Some(ShardStatus::NoSessionRedis) => return Err(Refusal::NoSessionRedis),
            Some(ShardStatus::RefusedChannel(channel)) => return Err(Refusal::RefusedChannel(channel)),
            None => return Err(Refusal::Unresponsive(shard)),
        }
    }
    Ok(json!({ "status": "ready" }))
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::admin::ask_queues;
    use crate::shard::ask::Ask;
    use crate::wire::Channel;

    /// Answers each question with this status until the queue is closed.
    async fn answer_all(mut asks: mpsc::Receiver<Ask>, status: ShardStatus) {
        while let Some(ask) = asks.recv().await {
            if let Ask::Status(answer) = ask {
                let _ = answer.send(status.clone());
            }
        }
    }

    fn error(result: Result<Value, Refusal>) -> Option<Refusal> {
        result.err()
    }

    #[tokio::test(start_paused = true)]
    async fn a_shard_that_hangs_makes_the_gateway_neither_live_nor_ready() {
        let stop = CancellationToken::new();
        let (shards, mut queues) = ask_queues(3, stop.clone());
        tokio::spawn(answer_all(queues.remove(2), ShardStatus::Ready));
        tokio::spawn(answer_all(queues.remove(0), ShardStatus::Ready));
        // The hanging shard takes nothing; its queue fills up, and the answer stays the same.
        for _ in 0..20 {
            assert_eq!(error(live(&shards).await), Some(Refusal::Unresponsive(1)));
            assert_eq!(error(ready(&shards).await), Some(Refusal::Unresponsive(1)));
        }
        drop(queues);
        assert_eq!(error(live(&shards).await), Some(Refusal::Unresponsive(1)), "it has ended");
        assert!(!shards.are_live().await);
        stop.cancel();
        assert!(shards.are_live().await);
        assert_eq!(error(live(&shards).await), None, "as it should when the server stops");
        assert_eq!(error(ready(&shards).await), Some(Refusal::Draining));
    }

    #[tokio::test(start_paused = true)]
    async fn one_shard_that_cannot_serve_handshakes_makes_the_gateway_not_ready() {
        let channel = Channel::from_redis("socketio");
        for (status, refusal) in [
            (ShardStatus::NoRedis, Refusal::NoRedis),
            (ShardStatus::NoSessionRedis, Refusal::NoSessionRedis),
            (ShardStatus::Draining, Refusal::Draining),
            (ShardStatus::RefusedChannel(channel.clone()), Refusal::RefusedChannel(channel)),
        ] {
            let (shards, mut queues) = ask_queues(2, CancellationToken::new());
            tokio::spawn(answer_all(queues.remove(1), status));
            tokio::spawn(answer_all(queues.remove(0), ShardStatus::Ready));
            assert_eq!(error(ready(&shards).await), Some(refusal));
            assert_eq!(error(live(&shards).await), None);
        }
    }
}
