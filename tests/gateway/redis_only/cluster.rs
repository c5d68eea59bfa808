//! Redis Cluster: what concerns one node concerns only what is on it.

use super::deployments::{Directory, run};
use crate::support::{RedisServer, TestGateway, eventually};

/// Returns how many messages of a kind a node of a cluster has exchanged with the others; none is not told.
fn messages_of(node: &RedisServer, kind: &str) -> u64 {
    let info = String::from_utf8(node.command(&["CLUSTER", "INFO"]).bulk().unwrap()).unwrap();
    let name = format!("cluster_stats_messages_{kind}:");
    info.lines().find_map(|line| line.strip_prefix(&name)).map_or(0, |count| count.trim().parse().unwrap())
}

#[tokio::test]
async fn in_a_cluster_what_is_published_on_any_node_arrives_also_after_a_restart() {
    // Each keeps its view of the cluster in a directory that outlives its process.
    let dirs: Vec<_> = (0..3).map(|_| Directory::new()).collect();
    let options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--dir"];
    let start = |dir: &Directory| RedisServer::start_with(&[&options[..], &[&dir.file("")]].concat());
    let mut nodes: Vec<_> = dirs.iter().map(start).collect();
    let addresses: Vec<_> = nodes.iter().map(|node| format!("127.0.0.1:{}", node.port())).collect();
    let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
    run("redis-cli", &[&["--cluster", "create"][..], &addresses, &["--cluster-yes"]].concat());
    let cluster_is_ok = |nodes: &[RedisServer]| {
        let info = nodes.iter().map(|node| node.command(&["CLUSTER", "INFO"]).bulk().unwrap());
        info.map(|info| String::from_utf8(info).unwrap()).all(|info| info.contains("cluster_state:ok"))
    };
    eventually("the cluster", || cluster_is_ok(&nodes).then_some(())).await;
    let url = format!("redis-cluster://{}", addresses[0]);
    let gateway = TestGateway::builder().redis(&nodes[0]).set("redis.url", &url).start().await;
    let mut clients = Vec::new();
    // fred tells of each node to which it comes back; the subscription stays where it is.
    for node in nodes.iter().filter(|node| node.channels("").is_empty()) {
        node.kill_clients("normal");
    }
    for facility in ["a", "b", "c", "d"] {
        let target = format!("/ws/{facility}?subscribe-broadcast&publish-broadcast&echo");
        clients.push(gateway.connect(&target).await);
    }
    for round in ["before", "after"] {
        for (client, facility) in clients.iter_mut().zip(["a", "b", "c", "d"]) {
            for node in &nodes {
                let message = format!("{round} from {}", node.port());
                node.publish(&gateway.channel(&format!("broadcast:{facility}")), &message);
                client.expect_text(&message).await;
            }
            let message = format!("{round} to {facility}");
            client.send_text(&message).await;
            client.expect_text(&message).await;
            gateway.connect(&format!("/ws/{facility}?subscribe-broadcast")).await.expect_text(&message).await;
        }
        if round == "after" {
            break;
        }
        assert_eq!(gateway.count_log(&["WARN", "redis"]), 0);
        // A node that is behind would pass on once more what another one has, when the subscription moves to it.
        eventually("all nodes have what was published", || {
            let count = |what| nodes.iter().map(|node| messages_of(node, what)).sum::<u64>();
            (count("publish_sent") == count("publish_received") && count("publish_sent") > 0).then_some(())
        })
        .await;
        for index in 0..nodes.len() {
            nodes[index].stop();
            nodes[index].restart();
            eventually("the cluster", || cluster_is_ok(&nodes).then_some(())).await;
            gateway.wait_for_redis().await;
        }
        for facility in ["a", "b", "c", "d"] {
            let channel = gateway.channel(&format!("broadcast:{facility}"));
            eventually("the channel is subscribed", || {
                nodes.iter().any(|node| !node.channels(&channel).is_empty()).then_some(())
            })
            .await;
        }
    }
}
