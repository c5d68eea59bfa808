//! The routes `/health/live` and `/health/ready`.

use super::{Admin, refused};
use crate::support::TestGateway;

#[tokio::test]
async fn a_gateway_without_redis_is_live_and_not_ready() {
    let builder = TestGateway::builder().set("admin.listen", "127.0.0.1:0");
    let admin = Admin::of(builder.set("redis.url", "redis://127.0.0.1:1").without_redis()).await;
    assert_eq!(admin.json("/health/live").await["status"], "live");
    refused(admin.get("/health/ready"), 503, "Redis is not connected").await;
    let admin = Admin::start(&[]).await;
    assert_eq!(admin.json("/health/ready").await["status"], "ready");
    // The sessions' own Redis counts, too.
    let sessions = TestGateway::builder().set("session.redis_url", "redis://127.0.0.1:1");
    let admin = Admin::of(sessions.set("admin.listen", "127.0.0.1:0")).await;
    refused(admin.get("/health/ready"), 503, "session.redis_url").await;
}

#[tokio::test]
async fn a_draining_gateway_is_live_and_not_ready() {
    let settings = [("server.drain_seconds", "60"), ("server.shards", "3")];
    let mut admin = Admin::start(&settings).await;
    let mut clients = Vec::new();
    for _ in 0..60 {
        clients.push(admin.gateway.connect("/ws/drain?subscribe-broadcast").await);
    }
    admin.gateway.signal("TERM");
    admin.gateway.expect_log(&["stopping"]).await;
    refused(admin.get("/health/ready"), 503, "draining").await;
    assert_eq!(admin.json("/health/live").await["status"], "live");
    admin.get("/connections").expect_status(200).await;
    admin.gateway.signal("TERM");
    assert_eq!(admin.gateway.expect_exit().await.code(), Some(0));
}
