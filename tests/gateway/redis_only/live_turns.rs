//! Subscriptions take turns to read histories. A server that is not reachable takes none.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::cluster::TestCluster;
use crate::support::TestGateway;

const FLAGS: &[&str] = &["subscribe-broadcast"];

#[tokio::test]
async fn clients_of_a_dead_node_do_not_keep_others_from_resuming() {
    let cluster = TestCluster::start(3).await;
    let url = cluster.url();
    let builder = TestGateway::builder().redis(&cluster.nodes[0]).set("redis.url", &url);
    let builder = builder.rules("[[history]]\nfacility = [\"*\"]\n").set("server.shards", "1");
    let gateway = builder.start().await;
    let subscribed = cluster.subscribed_node(&gateway).await;
    let (dead, healthy) = ((subscribed + 1) % 3, (subscribed + 2) % 3);
    let (dead_facility, healthy_facility) =
        (cluster.facility_on(&gateway, dead), cluster.facility_on(&gateway, healthy));
    let mut client = gateway.live("/ws/").await;
    let ids = client.subscribe(&healthy_facility, FLAGS).await["ids"].clone();
    let mut waiting = Vec::new();
    for _ in 0..60 {
        waiting.push(gateway.live("/ws/").await);
    }
    let resume = |facility: &str| json!({"t": "sub", "f": facility, "flags": FLAGS, "since": ids});
    cluster.nodes[dead].kill();
    for client in &mut waiting {
        client.send(resume(&dead_facility)).await;
    }
    let begun = Instant::now();
    client.send(resume(&healthy_facility)).await;
    assert_eq!(client.next().await["recovered"], true);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    for client in &mut waiting {
        assert_eq!(client.next().await["code"], 503);
    }
}
