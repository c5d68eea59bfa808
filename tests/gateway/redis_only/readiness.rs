//! The health checks of the admin listener while Redis goes and returns.

use std::net::SocketAddr;

use crate::support::client::Request;
use crate::support::{RedisServer, TestGateway, within_deadline};

async fn status(address: SocketAddr, path: &str) -> u16 {
    let request = Request::handshake(address, path, "", 0).without("Upgrade").without("Connection");
    request.send().await.0.status
}

#[tokio::test]
async fn a_refused_channel_of_socket_io_is_named_by_readiness() {
    let redis = RedisServer::start_with(&["--user", "gate", "on", ">p", "~*", "&ws4redis:*", "+@all"]);
    let url = format!("redis://gate:p@127.0.0.1:{}", redis.port());
    let builder = TestGateway::builder().redis(&redis).namespace("").set("redis.url", &url);
    let builder = builder.set("socketio.enabled", "true").set("admin.listen", "127.0.0.1:0");
    let gateway = builder.without_redis().start().await;
    let line = gateway.expect_log(&["admin listener: http://"]).await;
    let address = line.split("http://").nth(1).unwrap().trim_end().parse().unwrap();
    gateway.expect_log(&["refuses a Socket.IO channel", "+subscribe"]).await;
    let ready = || {
        let request = Request::handshake(address, "/health/ready", "", 0);
        request.without("Upgrade").without("Connection").send()
    };
    within_deadline("the refusal", async {
        loop {
            let (answer, _) = ready().await;
            if answer.body.contains("channel socketio") {
                assert_eq!(answer.status, 503);
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    redis.command(&["ACL", "SETUSER", "gate", "&socketio"]);
    within_deadline("readiness", async {
        while ready().await.0.status != 200 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn readiness_follows_redis_and_liveness_does_not() {
    let mut redis = RedisServer::start();
    let gateway = TestGateway::builder().redis(&redis).set("admin.listen", "127.0.0.1:0").start().await;
    let line = gateway.expect_log(&["admin listener: http://"]).await;
    let address = line.split("http://").nth(1).unwrap().trim_end().parse().unwrap();
    let ready_becomes = async |expected: u16| {
        within_deadline(&format!("/health/ready becomes {expected}"), async {
            while status(address, "/health/ready").await != expected {
                assert_eq!(status(address, "/health/live").await, 200);
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        })
        .await;
    };
    ready_becomes(200).await;
    redis.kill();
    ready_becomes(503).await;
    assert_eq!(status(address, "/health/live").await, 200);
    redis.restart();
    ready_becomes(200).await;
    gateway.connect("/ws/x?subscribe-broadcast").await.expect_nothing().await;
}
