//! Redis Sentinel: the gateway follows the master and ignores stale values of the previous one.

use std::time::Duration;

use tokio::time::Instant;

use super::deployments::{TempDir, expect_service};
use crate::support::{RedisServer, TestGateway, eventually};

/// Starts a sentinel that monitors the Redis on `port` as `mymaster`.
fn start_sentinel(dir: &TempDir, number: usize, port: u16) -> RedisServer {
    let path = dir.file(&format!("sentinel-{number}.conf"));
    let watch = format!("sentinel monitor mymaster 127.0.0.1 {port} 2\n");
    let rules = "sentinel down-after-milliseconds mymaster 700\nsentinel failover-timeout mymaster 5000\n";
    std::fs::write(&path, watch + rules).unwrap();
    RedisServer::start_sentinel(&path)
}

#[tokio::test]
async fn after_a_sentinel_failover_clients_receive_from_the_new_master() {
    let dir = TempDir::new();
    let master = RedisServer::start();
    let replica = RedisServer::start_with(&["--replicaof", &format!("127.0.0.1 {}", master.port())]);
    eventually("the replica is in step", || (replica.info("master_link_status") == "up").then_some(())).await;
    let sentinels: Vec<_> = (0..3).map(|number| start_sentinel(&dir, number, master.port())).collect();
    eventually("the sentinels know each other and the replica", || {
        let status = sentinels.iter().map(|sentinel| sentinel.info("master0"));
        status.clone().all(|line| line.contains("slaves=1") && line.contains("sentinels=3")).then_some(())
    })
    .await;
    let nodes: Vec<_> = sentinels[1..].iter().map(|s| format!("node=127.0.0.1:{}", s.port())).collect();
    let url = format!(
        "redis-sentinel://127.0.0.1:{}/0?sentinelServiceName=mymaster&{}",
        sentinels[0].port(),
        nodes.join("&")
    );
    let gateway = TestGateway::builder().redis(&master).set("redis.url", &url).start().await;
    expect_service(&gateway, &master, "before").await;
    let mut client = gateway.connect("/ws/failover?subscribe-broadcast").await;
    client.expect_nothing().await;
    master.kill();
    gateway.expect_log(&["WARN", "redis lost"]).await;
    let channel = gateway.channel("broadcast:failover");
    eventually("the gateway is subscribed at the new master", || {
        (replica.try_info("role").as_deref() == Some("master") && !replica.channels(&channel).is_empty())
            .then_some(())
    })
    .await;
    replica.publish(&channel, "from the new master");
    client.expect_text("from the new master").await;
    gateway.wait_for_redis().await;
    expect_service(&gateway, &replica, "after").await;
}

/// A master, its replica, and one sentinel that monitors them.
struct SentinelPair {
    master: RedisServer,
    replica: RedisServer,
    sentinel: RedisServer,
    _dir: TempDir,
}

/// `down-after-milliseconds` of the sentinel.
const DOWN_AFTER: Duration = Duration::from_millis(1500);

impl SentinelPair {
    async fn start() -> Self {
        let dir = TempDir::new();
        let master = RedisServer::start();
        let replica = RedisServer::start_with(&["--replicaof", &format!("127.0.0.1 {}", master.port())]);
        let (path, port) = (dir.file("sentinel.conf"), master.port());
        let milliseconds = DOWN_AFTER.as_millis();
        let rules = format!(
            "sentinel monitor mymaster 127.0.0.1 {port} 1\nsentinel down-after-milliseconds mymaster {milliseconds}\nsentinel failover-timeout mymaster 5000\n"
        );
        std::fs::write(&path, rules).unwrap();
        let sentinel = RedisServer::start_sentinel(&path);
        eventually("the sentinel knows a replica that is in step", || {
            let known = sentinel.info("master0").contains("slaves=1");
            (known && replica.info("master_link_status") == "up").then_some(())
        })
        .await;
        Self { master, replica, sentinel, _dir: dir }
    }

    fn url(&self) -> String {
        format!("redis-sentinel://127.0.0.1:{}/0?sentinelServiceName=mymaster", self.sentinel.port())
    }

    async fn gateway(&self) -> TestGateway {
        self.gateway_with("").await
    }

    /// Starts a gateway with a settings file.
    async fn gateway_with(&self, rules: &str) -> TestGateway {
        TestGateway::builder().redis(&self.master).set("redis.url", &self.url()).rules(rules).start().await
    }

    /// Waits until the sentinel names the replica as the master.
    async fn wait_until_promoted(&self) -> Instant {
        let port = self.replica.port().to_string();
        let mut sentinel = self.sentinel.connection();
        eventually("the sentinel names the replica", || {
            let named = sentinel.command(&["SENTINEL", "get-master-addr-by-name", "mymaster"]);
            format!("{named:?}").contains(&format!("{:?}", port.as_bytes())).then(Instant::now)
        })
        .await
    }
}

#[tokio::test]
async fn a_history_that_the_new_master_has_leaves_no_gap() {
    let pair = SentinelPair::start().await;
    let gateway = pair.gateway_with("[[history]]\nfacility = [\"h\"]\n").await;
    let mut client = gateway.live("/ws/h?subscribe-broadcast").await;
    client.next().await;
    let post = |text: &'static str| gateway.post("/ws/h?publish-broadcast", text).expect_status(204);
    post("before").await;
    let before = client.next().await;
    assert_eq!(before["d"], "before");
    assert!(pair.master.command(&["WAIT", "1", "5000"]).integer() > 0);
    pair.master.kill();
    eventually("the replica is promoted", || {
        (pair.replica.try_info("role").as_deref() == Some("master")).then_some(())
    })
    .await;
    // Nobody is subscribed yet, or somebody is: read or heard, it comes once.
    let [stream, live] =
        ["history", "live"].map(|kind| gateway.channel(&format!("ws4redis:{kind}:broadcast:h")));
    let script = include_str!("../../../src/redis/history.lua");
    let channel = gateway.channel("broadcast:h");
    pair.replica.command(&["EVAL", script, "2", &stream, &channel, "100", "60", "0", "meanwhile", &live]);
    gateway.wait_for_redis().await;
    post("after").await;
    for text in ["meanwhile", "after"] {
        let message = client.next().await;
        assert_eq!(message["d"], text, "{message}");
    }
    let since = before["id"].as_str().unwrap();
    let mut other = gateway.live(&format!("/ws/h?subscribe-broadcast&since={since}")).await;
    assert_eq!(other.next().await["recovered"], true);
    for text in ["meanwhile", "after"] {
        assert_eq!(other.next().await["d"], text);
    }
}

/// Fails over from a master that stops answering. Returns the time until the first handshake succeeds, since the failure
/// and since the promotion.
async fn fail_over_silently(pair: &SentinelPair, gateway: &TestGateway) -> (Duration, Duration) {
    let channel = gateway.channel("broadcast:chat");
    pair.master.persist(&channel, "old");
    let mut stays = gateway.connect("/ws/chat?subscribe-broadcast").await;
    stays.expect_text("old").await;
    pair.master.pause();
    let begun = Instant::now();
    let named = pair.wait_until_promoted().await;
    eventually("the gateway is subscribed at the new master", || {
        (!pair.replica.channels(&channel).is_empty()).then_some(())
    })
    .await;
    gateway.wait_for_redis().await;
    let (since_death, since_named) = (begun.elapsed(), named.elapsed());
    pair.replica.persist(&channel, "new");
    pair.replica.publish(&channel, "new");
    stays.expect_text("new").await;
    // The old master resumes and considers itself master until the sentinel demotes it.
    pair.master.resume();
    for _ in 0..20 {
        gateway.connect("/ws/chat?subscribe-broadcast").await.expect_text("new").await;
        let subscribed = pair.master.channels(&channel);
        assert!(subscribed.is_empty(), "subscribed at the old master: {subscribed:?}");
    }
    pair.replica.publish(&channel, "newer");
    stays.expect_text("newer").await;
    (since_death, since_named)
}

#[tokio::test]
async fn an_unresponsive_master_is_left_as_soon_as_sentinel_names_its_successor() {
    let pair = SentinelPair::start().await;
    let gateway = pair.gateway().await;
    let (_, since_named) = fail_over_silently(&pair, &gateway).await;
    assert!(since_named < Duration::from_secs(3), "{since_named:?} after the successor was named");
}

/// Runs one planned failover while clients publish one after the other. Returns how many were closed with an unconfirmed
/// publication.
async fn fail_over_planned(pair: &SentinelPair, gateway: &TestGateway) -> usize {
    const PUBLISHERS: usize = 120;
    let mut publishers = Vec::new();
    for number in 0..PUBLISHERS {
        publishers.push(gateway.connect(&format!("/ws/p{number}?publish-broadcast")).await);
    }
    pair.sentinel.command(&["SENTINEL", "FAILOVER", "mymaster"]);
    let mut promoted = None;
    for publisher in &mut publishers {
        publisher.send_text("kept").await;
        if promoted.is_none() && pair.replica.try_info("role").as_deref() == Some("master") {
            promoted = Some(Instant::now());
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    let named = pair.wait_until_promoted().await;
    eventually("the gateway is at the new master", || {
        (gateway.count_log(&["redis connected"]) == 2).then_some(())
    })
    .await;
    gateway.wait_for_redis().await;
    assert!(named.elapsed() < Duration::from_secs(3), "{:?} after the successor was named", named.elapsed());
    assert!(promoted.is_some(), "all was published before the failover");
    let mut unconfirmed = 0;
    for (number, publisher) in publishers.iter_mut().enumerate() {
        let kept = pair.replica.get(&gateway.channel(&format!("broadcast:p{number}")));
        if kept.as_deref() != Some(b"kept") {
            publisher.expect_close(1011).await;
            unconfirmed += 1;
        }
    }
    unconfirmed
}

#[tokio::test]
async fn a_planned_failover_is_followed_at_once_and_no_publication_is_lost_silently() {
    let pair = SentinelPair::start().await;
    let gateway = pair.gateway().await;
    fail_over_planned(&pair, &gateway).await;
    let channel = gateway.channel("broadcast:chat");
    pair.replica.persist(&channel, "new");
    gateway.connect("/ws/chat?subscribe-broadcast").await.expect_text("new").await;
}

/// Repeated failovers that take minutes: only with `./tests/run --long`. The regular suite runs each kind once.
#[expect(clippy::print_stdout, reason = "the times are what it is run for")]
#[tokio::test]
async fn after_any_failover_the_gateway_recovers_within_down_after_plus_three_seconds() {
    if std::env::var("WS4REDIS_TESTS_LONG").is_err() {
        return;
    }
    for round in 0..6 {
        let pair = SentinelPair::start().await;
        let gateway = pair.gateway().await;
        let (since_death, since_named) = fail_over_silently(&pair, &gateway).await;
        println!("round {round}: back {since_death:?} after the death, {since_named:?} after the naming");
        assert!(since_death < DOWN_AFTER + Duration::from_secs(3), "{since_death:?}");
        let pair = SentinelPair::start().await;
        let gateway = pair.gateway().await;
        let unconfirmed = fail_over_planned(&pair, &gateway).await;
        println!("round {round}: {unconfirmed} publishers were closed with an unconfirmed publication");
    }
}

#[tokio::test]
async fn a_replica_is_never_used_as_the_master() {
    let master = RedisServer::start();
    let replica = RedisServer::start_with(&["--replicaof", &format!("127.0.0.1 {}", master.port())]);
    eventually("the replica is in step", || (replica.info("master_link_status") == "up").then_some(())).await;
    let gateway = TestGateway::builder().redis(&replica).without_redis().start().await;
    gateway.expect_log(&["WARN", "redis cannot be reached", "replica"]).await;
    gateway.request("/ws/chat?subscribe-broadcast").expect_status(503).await;
    replica.command(&["REPLICAOF", "NO", "ONE"]);
    gateway.wait_for_redis().await;
}

#[tokio::test]
async fn a_demoted_master_is_left_and_clients_that_publish_to_it_are_closed() {
    let (redis, other) = (RedisServer::start(), RedisServer::start());
    let gateway = TestGateway::builder().redis(&redis).set("expire", "60").start().await;
    let mut publisher = gateway.connect("/ws/other?publish-broadcast").await;
    let mut idle = gateway.connect("/ws/chat?subscribe-broadcast").await;
    let (port, now) = (other.port().to_string(), Instant::now());
    redis.command(&["REPLICAOF", "127.0.0.1", &port]);
    publisher.send_text("to a replica").await;
    publisher.expect_close(1011).await;
    // The gateway notices the demotion without publications, for the subscriptions too.
    gateway.expect_log(&["WARN", "redis lost"]).await;
    assert!(now.elapsed() < Duration::from_secs(5), "{:?}", now.elapsed());
    gateway.request("/ws/chat?subscribe-broadcast").expect_status(503).await;
    redis.command(&["REPLICAOF", "NO", "ONE"]);
    gateway.wait_for_redis().await;
    redis.publish(&gateway.channel("broadcast:chat"), "after");
    idle.expect_text("after").await;
}

#[tokio::test]
async fn a_demoted_master_is_left_even_without_publications() {
    let (redis, other) = (RedisServer::start(), RedisServer::start());
    let gateway = TestGateway::builder().redis(&redis).start().await;
    redis.command(&["REPLICAOF", "127.0.0.1", &other.port().to_string()]);
    gateway.expect_log(&["WARN", "redis lost", "replica"]).await;
    redis.command(&["REPLICAOF", "NO", "ONE"]);
    gateway.wait_for_redis().await;
}
