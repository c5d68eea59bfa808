//! Few file descriptors and too many clients: the connections to Redis have priority.

use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::support::{RedisServer, TestGateway, eventually};

/// Opens silent connections and reopens each one that is closed, until the returned set is dropped.
fn open_idle_connections(gateway: &TestGateway, count: usize) -> tokio::task::JoinSet<()> {
    let mut crowd = tokio::task::JoinSet::new();
    for _ in 0..count {
        let address = gateway.address();
        crowd.spawn(async move {
            loop {
                if let Ok(mut stream) = TcpStream::connect(address).await {
                    let _ = stream.read(&mut [0; 100]).await;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }
    crowd
}

#[tokio::test]
async fn redis_is_reached_after_its_restart_when_half_open_connections_use_up_descriptors() {
    let mut redis = RedisServer::start();
    let gateway = TestGateway::builder().redis(&redis).file_limit(128).start().await;
    gateway.expect_log(&["WARN", "open files", "connections="]).await;
    let mut client = gateway.connect("/ws/x?subscribe-broadcast").await;
    let crowd = open_idle_connections(&gateway, 200);
    eventually("the places are taken", || (gateway.open_files() > 80).then_some(())).await;
    redis.restart();
    eventually("redis is connected again", || (gateway.count_log(&["redis connected"]) >= 2).then_some(()))
        .await;
    client.expect_nothing().await;
    assert_eq!(gateway.count_log(&["cannot accept"]), 0, "descriptors are left for everything else");
    drop(crowd);
    eventually("the crowd is gone", || (gateway.open_files() < 60).then_some(())).await;
    gateway.wait_for_redis().await;
}

#[tokio::test]
async fn above_the_descriptor_limit_handshakes_get_503() {
    let redis = RedisServer::start();
    let gateway = TestGateway::builder().redis(&redis).file_limit(128).start().await;
    let mut clients = Vec::new();
    let refused = loop {
        assert!(clients.len() < 128, "a descriptor for each of {}", clients.len());
        let (response, client) = gateway.request("/ws/x").send().await;
        if response.status != 101 {
            break response;
        }
        clients.push(client);
    };
    assert_eq!((refused.status, refused.header("Retry-After")), (503, Some("2")));
    assert!(clients.len() > 40, "only {} fit", clients.len());
    drop(clients);
    gateway.wait_for_redis().await;
}
