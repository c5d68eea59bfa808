//! The bridge for yunity-sockets while Redis is lost.

use crate::support::RedisServer;
use crate::support::redis::ALL_EVENTS;
use crate::yunity::Bridge;

#[tokio::test]
async fn sessions_are_read_again_after_redis_was_lost() {
    let redis = RedisServer::start_with(&ALL_EVENTS);
    let mut bridge = Bridge::start_with_events(&redis).await;
    bridge.set("s1", "user1");
    let mut client = bridge.authenticated("s1", "user1").await;
    // The subscription is lost, and with it the event of this change.
    redis.kill_clients("pubsub");
    bridge.set("s1", "user2");
    bridge.expect_hears_at_last(&mut client, "user2").await;
}
