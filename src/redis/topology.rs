//! Polls the nodes of a cluster for the assignment of slots.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::address::{ConnectOptions, ServerAddress};
use super::connection::RedisConnection;
use super::discovery::{Discovery, Endpoint, POLL_TIMEOUT, ServerLocation};
use super::reply_value::ReplyValue;
use super::slots::Slots;

/// Polling interval while nothing requests a poll.
const PERIOD: Duration = Duration::from_secs(1);

/// Largest value in a reply.
const MAX_BYTES: usize = 64 * 1024;

/// Keeps the slots of the cluster up to date. Never returns.
pub(super) async fn follow(options: ConnectOptions, discovery: Arc<Discovery>) {
    let seeds = options.addresses();
    let mut connection: Option<RedisConnection> = None;
    let mut turn = 0_usize;
    loop {
        let polled_at = Instant::now();
        // After a failed node the next one is polled; after all known nodes, those in the URL.
        let nodes = discovery.slots().map_or_else(Vec::new, |slots| slots.nodes().to_vec());
        let node = nodes.iter().chain(&seeds).nth(turn % (nodes.len() + seeds.len()).max(1)).cloned();
        let Some(node) = node else { return };
        match timeout(POLL_TIMEOUT, poll(&options, &discovery, &node, &mut connection))
            .await
            .unwrap_or(Err("no answer".to_owned()))
        {
            Ok(slots) => {
                discovery.set(ServerLocation::Cluster(Arc::new(slots)), polled_at, polled_at);
                discovery.wait_until_due(polled_at, PERIOD).await;
            }
            Err(reason) => {
                connection = None;
                turn = turn.wrapping_add(1);
                discovery.fail(reason);
                discovery.wait_until_due(polled_at, Duration::from_millis(100)).await;
            }
        }
    }
}

async fn poll(
    options: &ConnectOptions,
    discovery: &Discovery,
    node: &ServerAddress,
    connection: &mut Option<RedisConnection>,
) -> Result<Slots, String> {
    let connection = if let Some(connection) = connection {
        connection
    } else {
        let endpoint = Endpoint { server: node.clone(), term: discovery.term() };
        connection.insert(RedisConnection::dial_node(options, endpoint, MAX_BYTES).await?)
    };
    let reply = connection.call(&["CLUSTER", "SLOTS"]).await?;
    if let ReplyValue::Error(reason) = reply {
        return Err(reason);
    }
    let slots = Slots::read(&reply, connection.server());
    // A reset node knows no slots; keep the last map and ask another.
    if slots.nodes().is_empty() { Err("CLUSTERDOWN the cluster has no slots".to_owned()) } else { Ok(slots) }
}
