//! Redis Cluster: slot migration, failover, and failures confined to one node.

use std::time::Duration;

use tokio::time::Instant;

use super::deployments::{TempDir, run};
use crate::support::client::TestClient;
use crate::support::redis::RedisReply;
use crate::support::{RedisServer, TestGateway, eventually, within_deadline};

/// Returns how many messages of a kind a node has exchanged over the cluster bus. CLUSTER INFO omits zero counters.
fn cluster_messages(node: &RedisServer, kind: &str) -> u64 {
    let info = bulk_text(node, &["CLUSTER", "INFO"]);
    let name = format!("cluster_stats_messages_{kind}:");
    info.lines().find_map(|line| line.strip_prefix(&name)).map_or(0, |count| count.trim().parse().unwrap())
}

#[tokio::test]
async fn in_a_cluster_messages_of_any_node_arrive_also_after_a_restart() {
    let mut cluster = TestCluster::start_with(3, "yes").await;
    let url = cluster.url();
    let builder = TestGateway::builder().redis(&cluster.nodes[0]).set("redis.url", &url);
    let gateway = builder.start().await;
    let mut clients = Vec::new();
    // Kills connections only on nodes without the subscription, which stays.
    for node in cluster.nodes.iter().filter(|node| node.channels("").is_empty()) {
        node.kill_clients("normal");
    }
    for facility in ["a", "b", "c", "d"] {
        let target = format!("/ws/{facility}?subscribe-broadcast&publish-broadcast&echo");
        clients.push(gateway.connect(&target).await);
    }
    for round in ["before", "after"] {
        for (client, facility) in clients.iter_mut().zip(["a", "b", "c", "d"]) {
            for node in &cluster.nodes {
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
        // When the subscription moves to a node that lags, that node would deliver older messages a second time.
        eventually("all nodes have what was published", || {
            let count = |what| cluster.nodes.iter().map(|node| cluster_messages(node, what)).sum::<u64>();
            (count("publish_sent") == count("publish_received") && count("publish_sent") > 0).then_some(())
        })
        .await;
        for node in 0..cluster.nodes.len() {
            cluster.nodes[node].stop();
            cluster.nodes[node].restart();
            cluster.wait_until_ok().await;
            gateway.wait_for_redis().await;
        }
        for facility in ["a", "b", "c", "d"] {
            let channel = gateway.channel(&format!("broadcast:{facility}"));
            eventually("the channel is subscribed", || {
                cluster.nodes.iter().any(|node| !node.channels(&channel).is_empty()).then_some(())
            })
            .await;
        }
    }
}

/// A cluster of masters. Unless full coverage is required, it keeps serving the other slots when one master is down.
pub(super) struct TestCluster {
    pub(super) nodes: Vec<RedisServer>,
    _dirs: Vec<TempDir>,
}

/// Starts a node. A node that restarts reads its view of the cluster from `dir`, which outlives its process.
fn start_node(dir: &TempDir, full_coverage: &str) -> RedisServer {
    let options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000"];
    let coverage = ["--cluster-require-full-coverage", full_coverage, "--dir", &dir.file("")];
    RedisServer::start_with(&[options, coverage].concat())
}

/// Returns a bulk reply as text.
fn bulk_text(node: &RedisServer, command: &[&str]) -> String {
    String::from_utf8(node.command(command).bulk().unwrap()).unwrap()
}

impl TestCluster {
    pub(super) async fn start(masters: usize) -> Self {
        Self::start_with(masters, "no").await
    }

    /// Starts a cluster; `full_coverage` is `cluster-require-full-coverage`.
    async fn start_with(masters: usize, full_coverage: &str) -> Self {
        let dirs: Vec<_> = (0..masters).map(|_| TempDir::new()).collect();
        let nodes: Vec<_> = dirs.iter().map(|dir| start_node(dir, full_coverage)).collect();
        let addresses: Vec<_> = nodes.iter().map(|node| format!("127.0.0.1:{}", node.port())).collect();
        let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
        run("redis-cli", &[&["--cluster", "create"][..], &addresses, &["--cluster-yes"]].concat());
        let cluster = Self { nodes, _dirs: dirs };
        cluster.wait_until_ok().await;
        cluster
    }

    async fn wait_until_ok(&self) {
        let is_ok = |node| bulk_text(node, &["CLUSTER", "INFO"]).contains("cluster_state:ok");
        eventually("the cluster", || self.nodes.iter().all(is_ok).then_some(())).await;
    }

    pub(super) fn url(&self) -> String {
        format!("redis-cluster://127.0.0.1:{}", self.nodes[0].port())
    }

    async fn gateway(&self) -> TestGateway {
        let url = self.url();
        let builder = TestGateway::builder().redis(&self.nodes[0]).set("redis.url", &url);
        builder
            .set("redis.command_timeout_seconds", "3")
            .set("redis.publish_wait_seconds", "5")
            .set("server.shards", "1")
            .start()
            .await
    }

    /// Returns a facility whose broadcast key belongs to a slot of this node.
    pub(super) fn facility_on(&self, gateway: &TestGateway, node: usize) -> String {
        let holds = |facility: &String| {
            let key = gateway.channel(&format!("broadcast:{facility}"));
            let found = self.nodes[node].connection().try_command(&["GET", &key]);
            matches!(found, Ok(RedisReply::Bulk(_)))
        };
        (0..1000).map(|number| format!("f{number}")).find(holds).unwrap()
    }

    /// Returns the index of the node with the gateway's subscription.
    pub(super) async fn subscribed_node(&self, gateway: &TestGateway) -> usize {
        let control = gateway.channel("ws4redis:control");
        let subscribes = |node: &RedisServer| {
            let RedisReply::Array(count) = node.command(&["PUBSUB", "NUMSUB", &control]) else {
                panic!("no array")
            };
            count[1].integer() == 1
        };
        eventually("the subscription", || self.nodes.iter().position(subscribes)).await
    }
}

#[tokio::test]
async fn a_slot_that_moves_to_another_node_is_served_without_disruption() {
    let cluster = TestCluster::start(3).await;
    let gateway = cluster.gateway().await;
    let (facility, other) = (cluster.facility_on(&gateway, 0), cluster.facility_on(&gateway, 1));
    let target = |facility: &str| format!("/ws/{facility}?subscribe-broadcast&publish-broadcast&echo");
    let mut stays = gateway.connect(&target(&facility)).await;
    let mut elsewhere = gateway.connect(&target(&other)).await;
    let [source, destination, _] = &cluster.nodes[..] else { panic!("three nodes") };
    let key = gateway.channel(&format!("broadcast:{facility}"));
    let slot = source.command(&["CLUSTER", "KEYSLOT", &key]).integer().to_string();
    let (from, to) = (bulk_text(source, &["CLUSTER", "MYID"]), bulk_text(destination, &["CLUSTER", "MYID"]));
    destination.command(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from]);
    source.command(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to]);
    // The key does not exist on the source: ASK redirects reads and writes to the destination.
    for round in ["asked", "asked again"] {
        let mut client = gateway.connect(&target(&facility)).await;
        if round == "asked again" {
            client.expect_text("asked").await;
        }
        stays.send_text(round).await;
        stays.expect_text(round).await;
        client.expect_text(round).await;
        elsewhere.send_text(round).await;
        elsewhere.expect_text(round).await;
    }
    for node in [destination, source] {
        node.command(&["CLUSTER", "SETSLOT", &slot, "NODE", &to]);
    }
    gateway.connect(&target(&facility)).await.expect_text("asked again").await;
    stays.send_text("moved").await;
    stays.expect_text("moved").await;
    gateway.connect(&target(&facility)).await.expect_text("moved").await;
    assert_eq!(destination.get(&key).as_deref(), Some(&b"moved"[..]));
    elsewhere.expect_nothing().await;
    assert_eq!(gateway.count_log(&["WARN", "redis lost"]), 0);
}

/// Expects the close code of an unconfirmed or refused publication. The client may receive the message first, through
/// another node, although it was not stored.
async fn expect_publication_failure(client: &mut TestClient) {
    loop {
        let frame = client.next_frame().await;
        if frame.opcode == 8 {
            let code = u16::from_be_bytes([frame.payload[0], frame.payload[1]]);
            return assert!([1011, 1013].contains(&code), "{code}");
        }
    }
}

#[tokio::test]
async fn an_unresponsive_node_affects_only_its_own_slots() {
    let cluster = TestCluster::start(3).await;
    let gateway = cluster.gateway().await;
    let subscribed = cluster.subscribed_node(&gateway).await;
    let (unresponsive, healthy) = ((subscribed + 1) % 3, (subscribed + 2) % 3);
    let (unresponsive_facility, healthy_facility) =
        (cluster.facility_on(&gateway, unresponsive), cluster.facility_on(&gateway, healthy));
    let target = |facility: &str| format!("/ws/{facility}?subscribe-broadcast&publish-broadcast&echo");
    let mut on_unresponsive = gateway.connect(&target(&unresponsive_facility)).await;
    let mut on_healthy = gateway.connect(&target(&healthy_facility)).await;
    let mut others = Vec::new();
    for _ in 0..8 {
        others.push((
            gateway.connect(&format!("/ws/{unresponsive_facility}?publish-broadcast")).await,
            gateway.connect(&format!("/ws/{healthy_facility}?publish-broadcast")).await,
        ));
    }
    cluster.nodes[unresponsive].pause();
    on_unresponsive.send_text("to a node that hangs").await;
    // Publications of one batch to different nodes are independent.
    for (unresponsive, healthy) in &mut others {
        unresponsive.send_text("to a node that hangs").await;
        healthy.send_text("to a healthy one").await;
    }
    for _ in &others {
        on_healthy.expect_text("to a healthy one").await;
    }
    let begun = Instant::now();
    let mut refused = Box::pin(gateway.request(&target(&unresponsive_facility)).send());
    let mut last = None;
    let mut number = 0;
    while last.is_none() && begun.elapsed() < Duration::from_secs(10) {
        number += 1;
        let message = format!("message {number}");
        on_healthy.send_text(&message).await;
        on_healthy.expect_text(&message).await;
        let mut client = gateway.connect(&target(&healthy_facility)).await;
        client.expect_text(&message).await;
        let answer = tokio::time::timeout(Duration::from_millis(50), &mut refused).await;
        last = answer.ok().map(|(response, _)| response);
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!(last.map(|response| response.status), Some(503), "the stored value cannot be read");
    expect_publication_failure(&mut on_unresponsive).await;
    for (unresponsive, healthy) in &mut others {
        expect_publication_failure(unresponsive).await;
        healthy.expect_nothing().await;
    }
    assert_eq!(gateway.count_log(&["WARN", "redis lost"]), 0);
    cluster.nodes[unresponsive].resume();
    within_deadline("the facility is served again", async {
        while gateway.request(&target(&unresponsive_facility)).send().await.0.status != 101 {}
    })
    .await;
}

#[tokio::test]
async fn live_messages_do_not_wait_for_values_of_an_unresponsive_node() {
    let cluster = TestCluster::start(3).await;
    let gateway = cluster.gateway().await;
    let subscribed = cluster.subscribed_node(&gateway).await;
    let (unresponsive, healthy) = ((subscribed + 1) % 3, (subscribed + 2) % 3);
    let (unresponsive_facility, healthy_facility) =
        (cluster.facility_on(&gateway, unresponsive), cluster.facility_on(&gateway, healthy));
    let mut on_healthy = gateway.connect(&format!("/ws/{healthy_facility}?subscribe-broadcast")).await;
    let _on_unresponsive = gateway.connect(&format!("/ws/{unresponsive_facility}?subscribe-broadcast")).await;
    cluster.nodes[unresponsive].pause();
    cluster.nodes[subscribed].kill_clients("pubsub");
    let channel = gateway.channel(&format!("broadcast:{healthy_facility}"));
    eventually("the gateway is subscribed again", || {
        let alive = [subscribed, healthy].map(|node| &cluster.nodes[node]);
        alive.iter().any(|node| !node.channels(&channel).is_empty()).then_some(())
    })
    .await;
    let begun = Instant::now();
    cluster.nodes[healthy].publish(&channel, "live");
    on_healthy.expect_text("live").await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    cluster.nodes[unresponsive].resume();
}

#[tokio::test]
async fn a_planned_failover_of_a_node_closes_no_client_whose_message_arrives() {
    let cluster = TestCluster::start(3).await;
    let dir = TempDir::new();
    let replica = start_node(&dir, "no");
    let master = bulk_text(&cluster.nodes[0], &["CLUSTER", "MYID"]);
    replica.command(&["CLUSTER", "MEET", "127.0.0.1", &cluster.nodes[0].port().to_string()]);
    eventually("the replica knows its master", || {
        let replicate = replica.connection().try_command(&["CLUSTER", "REPLICATE", &master]);
        matches!(replicate, Ok(RedisReply::Status(_))).then_some(())
    })
    .await;
    let gateway = cluster.gateway().await;
    let facility = cluster.facility_on(&gateway, 0);
    eventually("the replica is in step", || (replica.info("master_link_status") == "up").then_some(())).await;
    let target = format!("/ws/{facility}?subscribe-broadcast&publish-broadcast&echo");
    let mut client = gateway.connect(&target).await;
    replica.command(&["CLUSTER", "FAILOVER"]);
    let mut promoted = None;
    let mut number = 0;
    while promoted.is_none_or(|promoted: Instant| promoted.elapsed() < Duration::from_secs(1)) {
        number += 1;
        let message = format!("message {number}");
        client.send_text(&message).await;
        client.expect_text(&message).await;
        if promoted.is_none() && replica.info("role") == "master" {
            promoted = Some(Instant::now());
        }
    }
    gateway.connect(&target).await.expect_text(&format!("message {number}")).await;
    let key = gateway.channel(&format!("broadcast:{facility}"));
    assert_eq!(replica.get(&key), Some(format!("message {number}").into_bytes()));
    assert_eq!(gateway.count_log(&["WARN", "redis lost"]), 0);
}

#[tokio::test]
async fn a_node_removed_from_the_cluster_is_left_although_it_still_answers() {
    let cluster = TestCluster::start(3).await;
    let gateway = cluster.gateway().await;
    let subscribed = cluster.subscribed_node(&gateway).await;
    let mut client = gateway.connect("/ws/chat?subscribe-broadcast").await;
    let removed = &cluster.nodes[subscribed];
    let successor = &cluster.nodes[(subscribed + 1) % 3];
    let (address, id) = (format!("127.0.0.1:{}", removed.port()), bulk_text(removed, &["CLUSTER", "MYID"]));
    let weight = format!("{id}=0");
    run("redis-cli", &["--cluster", "rebalance", &address, "--cluster-weight", &weight]);
    run("redis-cli", &["--cluster", "del-node", &format!("127.0.0.1:{}", successor.port()), &id]);
    let channel = gateway.channel("broadcast:chat");
    eventually("the gateway has subscribed at another node", || {
        let others = cluster.nodes.iter().filter(|node| node.port() != removed.port());
        others.into_iter().any(|node| !node.channels(&channel).is_empty()).then_some(())
    })
    .await;
    successor.publish(&channel, "live");
    client.expect_text("live").await;
}

#[tokio::test]
async fn publications_redirected_to_a_dead_node_share_one_timeout() {
    let cluster = TestCluster::start(3).await;
    let gateway = cluster.gateway().await;
    let subscribed = cluster.subscribed_node(&gateway).await;
    let [source, dead] = [(subscribed + 1) % 3, (subscribed + 2) % 3];
    let (facility, dead_facility) =
        (cluster.facility_on(&gateway, source), cluster.facility_on(&gateway, dead));
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(gateway.connect(&format!("/ws/{facility}?publish-broadcast")).await);
    }
    let [source, dead] = [source, dead].map(|node| &cluster.nodes[node]);
    let key = gateway.channel(&format!("broadcast:{facility}"));
    let slot = source.command(&["CLUSTER", "KEYSLOT", &key]).integer().to_string();
    let to = bulk_text(dead, &["CLUSTER", "MYID"]);
    source.command(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to]);
    dead.pause();
    let knows = async {
        while gateway.request(&format!("/ws/{dead_facility}?subscribe-broadcast")).send().await.0.status
            != 503
        {}
    };
    within_deadline("the gateway knows that the node is dead", knows).await;
    let begun = Instant::now();
    for client in &mut clients {
        client.send_text("redirected").await;
    }
    for client in &mut clients {
        expect_publication_failure(client).await;
    }
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
    dead.resume();
}
