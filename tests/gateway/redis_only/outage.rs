//! Loss and return of Redis: clients stay connected and get new values once and in order.

use crate::support::client::TestClient;
use crate::support::sessions::{connect, log_in, redis_key, session_key};
use crate::support::{Fault, Proxy, RedisServer, Side, TestGateway, eventually, unique, within_deadline};

/// Three clients on three channels. Each has received the persisted value of its channel, by replay or live.
struct OutageScenario {
    gateway: TestGateway,
    changed: TestClient,
    replayed: TestClient,
    live: TestClient,
}

impl OutageScenario {
    async fn start(redis: &RedisServer, url: &str, settings: &[(&str, &str)]) -> Self {
        let mut builder = TestGateway::builder().redis(redis).set("redis.url", url);
        for (key, value) in settings {
            builder = builder.set(key, value);
        }
        let gateway = builder.start().await;
        redis.persist(&gateway.channel("broadcast:changed"), "changed 1");
        redis.persist(&gateway.channel("broadcast:replayed"), "replayed 1");
        let mut changed = gateway.connect("/ws/changed?subscribe-broadcast").await;
        changed.expect_text("changed 1").await;
        let mut replayed = gateway.connect("/ws/replayed?subscribe-broadcast").await;
        replayed.expect_text("replayed 1").await;
        let mut live = gateway.connect("/ws/live?subscribe-broadcast").await;
        redis.persist(&gateway.channel("broadcast:live"), "live 1");
        redis.publish(&gateway.channel("broadcast:live"), "live 1");
        live.expect_text("live 1").await;
        Self { gateway, changed, replayed, live }
    }

    /// Writes and publishes a new value of one channel.
    fn publish_change(&self, redis: &RedisServer) {
        redis.persist(&self.gateway.channel("broadcast:changed"), "changed 2");
        redis.publish(&self.gateway.channel("broadcast:changed"), "changed 2");
    }

    async fn wait_until_resubscribed(&self, redis: &RedisServer) {
        eventually("redis is connected again", || {
            (self.gateway.count_log(&["redis connected"]) == 2).then_some(())
        })
        .await;
        assert_eq!(self.gateway.count_log(&["WARN", "redis lost"]), 1);
        let subscribed = redis.channels(&self.gateway.channel("broadcast:"));
        for facility in ["changed", "replayed", "live"] {
            let channel = self.gateway.channel(&format!("broadcast:{facility}"));
            assert!(subscribed.contains(&channel), "{channel} is not among {subscribed:?}");
        }
    }

    /// Expects that all clients are connected and none has received anything.
    async fn expect_nothing(&mut self) {
        self.changed.expect_nothing().await;
        self.replayed.expect_nothing().await;
        self.live.expect_nothing().await;
    }

    async fn expect_change(&mut self) {
        self.changed.expect_text("changed 2").await;
        self.expect_nothing().await;
    }
}

#[tokio::test]
async fn after_a_lost_subscription_connection_only_changed_values_are_delivered_and_once() {
    let redis = RedisServer::start();
    let mut scenario = OutageScenario::start(&redis, &redis.url(), &[]).await;
    let key = scenario.gateway.channel("broadcast:changed");
    let replies = redis.pipeline(&[
        &[b"CLIENT", b"KILL", b"TYPE", b"pubsub"],
        &[b"SETEX", key.as_bytes(), b"60", b"changed 2"],
        &[b"PUBLISH", key.as_bytes(), b"changed 2"],
    ]);
    assert_eq!(replies[2].integer(), 0, "no subscriber received it");
    scenario.wait_until_resubscribed(&redis).await;
    scenario.expect_change().await;
}

#[tokio::test]
async fn after_a_restart_of_an_empty_redis_clients_are_subscribed_again() {
    let mut redis = RedisServer::start();
    let mut scenario = OutageScenario::start(&redis, &redis.url(), &[]).await;
    redis.kill();
    scenario.gateway.expect_log(&["WARN", "redis lost"]).await;
    let refused = scenario.gateway.request("/ws/new?subscribe-broadcast").expect_status(503).await;
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    redis.restart();
    scenario.wait_until_resubscribed(&redis).await;
    scenario.expect_nothing().await;
}

#[tokio::test]
async fn after_a_restart_with_persistent_data_values_written_meanwhile_are_delivered() {
    // A directory that outlives the process.
    let dir = std::env::temp_dir().join(unique("ws4redis-kept"));
    std::fs::create_dir_all(&dir).unwrap();
    let kept = dir.display().to_string();
    let options = ["--dir", &kept, "--appendonly", "yes", "--appendfsync", "always"];
    let mut redis = RedisServer::start_with(&options);
    let proxy = Proxy::to(&redis);
    let mut scenario = OutageScenario::start(&redis, &proxy.url(), &[]).await;
    redis.kill();
    proxy.refuse().await;
    redis.restart();
    assert_eq!(redis.get(&scenario.gateway.channel("broadcast:live")).as_deref(), Some(&b"live 1"[..]));
    scenario.publish_change(&redis);
    scenario.gateway.expect_log(&["WARN", "redis lost"]).await;
    proxy.accept();
    scenario.wait_until_resubscribed(&redis).await;
    scenario.expect_change().await;
    drop(redis);
    std::fs::remove_dir_all(dir).unwrap();
}

#[tokio::test]
async fn an_unresponsive_redis_is_detected_and_recovered_from() {
    let redis = RedisServer::start();
    let mut scenario =
        OutageScenario::start(&redis, &redis.url(), &[("redis.command_timeout_seconds", "1")]).await;
    redis.pause();
    let refused = scenario.gateway.request("/ws/new?subscribe-broadcast").expect_status(503).await;
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    scenario.gateway.expect_log(&["WARN", "redis lost"]).await;
    redis.resume();
    scenario.gateway.wait_for_redis().await;
    scenario.wait_until_resubscribed(&redis).await;
    scenario.publish_change(&redis);
    scenario.expect_change().await;
}

#[tokio::test]
async fn a_half_open_subscription_is_detected_and_the_value_published_meanwhile_delivered() {
    let redis = RedisServer::start();
    let proxy = Proxy::to(&redis);
    let mut scenario =
        OutageScenario::start(&redis, &proxy.url(), &[("redis.command_timeout_seconds", "1")]).await;
    proxy.hold_commands(Side::Subscriber);
    proxy.hold_replies(Side::Subscriber);
    scenario.publish_change(&redis);
    // A client that joins now gets the value by replay; the others must still receive it.
    let mut joiner = scenario.gateway.connect("/ws/changed?subscribe-broadcast").await;
    joiner.expect_text("changed 2").await;
    scenario.gateway.expect_log(&["WARN", "redis lost"]).await;
    scenario.wait_until_resubscribed(&redis).await;
    scenario.expect_change().await;
}

#[tokio::test]
async fn live_messages_during_a_recovery_come_once_and_after_the_value() {
    for (read, live, expected) in [
        ("2", &["3", "4"][..], &["2", "3", "4"][..]),
        ("3", &["2", "3", "4"], &["2", "3", "4"]),
        ("1", &["2"], &["2"]),
    ] {
        let redis = RedisServer::start();
        let proxy = Proxy::to(&redis);
        let gateway = TestGateway::builder().redis(&redis).set("redis.url", &proxy.url()).start().await;
        let channel = gateway.channel("broadcast:chat");
        redis.persist(&channel, "1");
        let mut client = gateway.connect("/ws/chat?subscribe-broadcast").await;
        client.expect_text("1").await;
        redis.persist(&channel, read);
        proxy.inject("\r\nGET\r\n", Fault::HoldReplies);
        proxy.cut(Side::Subscriber);
        proxy.expect_hit("\r\nGET\r\n").await;
        redis.publish_pipelined(&channel, live);
        proxy.release();
        for message in expected {
            client.expect_text(message).await;
        }
        client.expect_nothing().await;
    }
}

#[tokio::test]
async fn a_lagging_shard_is_counted_and_logged_and_delivers_the_last_value() {
    const MESSAGES: u32 = 20_000;
    let redis = RedisServer::start();
    let gateway = TestGateway::builder().redis(&redis).set("redis.receiver_messages", "64").start().await;
    let channel = gateway.channel("broadcast:chat");
    let mut client = gateway.connect("/ws/chat?subscribe-broadcast").await;
    let mut commands = Vec::new();
    for number in 1..=MESSAGES {
        let number = number.to_string();
        crate::support::redis::encode(&mut commands, &["SETEX", &channel, "60", &number]);
        crate::support::redis::encode(&mut commands, &["PUBLISH", &channel, &number]);
    }
    let mut publisher = redis.connection();
    let publishing = std::thread::spawn(move || {
        publisher.send(&commands);
        (0..MESSAGES * 2).for_each(|_| drop(publisher.reply()));
    });
    let (mut last, mut received) = (0, 0);
    within_deadline("the last message", async {
        while last < MESSAGES {
            let payload = client.next_message().await.payload;
            let number: u32 = String::from_utf8(payload).unwrap().parse().unwrap();
            assert!(number > last, "{number} after {last}");
            (last, received) = (number, received + 1);
        }
    })
    .await;
    publishing.join().unwrap();
    client.expect_nothing().await;
    assert!(received < MESSAGES, "nothing was lost, so nothing was tested");
    gateway.expect_log(&["WARN", "receive buffer overflow"]).await;
    drop(client);
    gateway.signal("TERM");
    let counts = gateway.expect_log(&["counts", "lagged_deliveries"]).await;
    assert!(!counts.contains("lagged_deliveries=0"), "{counts}");
}

#[tokio::test]
async fn small_messages_after_a_large_one_do_not_overflow_the_receive_buffer() {
    let redis = RedisServer::start();
    let gateway = TestGateway::builder().redis(&redis).set("anonymous_publish", "false").start().await;
    let mut client = gateway.connect("/ws/chat?subscribe-broadcast").await;
    let messages: Vec<_> =
        std::iter::once("x".repeat(5 << 20)).chain((0..200).map(|i| i.to_string())).collect();
    redis.publish_pipelined(&gateway.channel("broadcast:chat"), &messages);
    for message in &messages {
        client.expect_text(message).await;
    }
    client.expect_nothing().await;
    assert_eq!(gateway.count_log(&["WARN"]), 0);
}

#[tokio::test]
async fn repeated_connection_losses_under_load_end_with_a_connected_gateway() {
    let redis = RedisServer::start();
    let gateway = TestGateway::builder().redis(&redis).start().await;
    let mut client = gateway.connect("/ws/chat?subscribe-broadcast").await;
    let channel = gateway.channel("broadcast:chat");
    for round in 0..15 {
        let flood = format!("flood {round}");
        redis.publish_pipelined(&channel, std::iter::repeat_n(&flood, 2_000));
        redis.kill_clients("pubsub");
        redis.publish_pipelined(&channel, std::iter::repeat_n(&flood, 2_000));
        eventually("the gateway is subscribed again", || {
            (redis.publish(&channel, &flood) == 1).then_some(())
        })
        .await;
    }
    gateway.wait_for_redis().await;
    redis.publish(&channel, "end");
    within_deadline("the end", async { while client.next_message().await.payload != b"end" {} }).await;
}

#[tokio::test]
async fn a_session_with_a_huge_ttl_does_not_break_the_connection() {
    let redis = RedisServer::start();
    let gateway = TestGateway::builder().redis(&redis).start().await;
    let key = session_key();
    let cookie = log_in(&redis, &key, "7", "john", &[]);
    redis.command(&["PEXPIRE", &redis_key(&key), "7000000000000000000"]);
    let mut client = connect(&gateway, "/ws/chat?subscribe-user", &cookie).await;
    redis.publish(&gateway.channel("user:john:chat"), "heard");
    client.expect_text("heard").await;
}

#[tokio::test]
async fn a_name_longer_than_the_message_limit_does_not_break_the_subscription() {
    let redis = RedisServer::start();
    let builder = TestGateway::builder().redis(&redis).set("messages.max_delivery_bytes", "4");
    let gateway = builder.start().await;
    let facility = "long".repeat(100);
    let mut client = gateway.connect(&format!("/ws/{facility}?subscribe-broadcast")).await;
    let channel = gateway.channel(&format!("broadcast:{facility}"));
    redis.publish(&channel, "too long");
    redis.publish(&channel, "fits");
    client.expect_text("fits").await;
    assert_eq!(gateway.count_log(&["WARN", "redis lost"]), 0);
}

#[tokio::test]
async fn the_connection_to_the_session_redis_may_be_replaced_at_any_time() {
    let (redis, sessions) = (RedisServer::start(), RedisServer::start());
    let builder = TestGateway::builder().redis(&redis).set("session.redis_url", &sessions.url());
    let gateway = builder.start().await;
    let cookie = log_in(&sessions, &session_key(), "7", "john", &[]);
    for round in 0..10 {
        sessions.kill_clients("normal");
        let mut client = connect(&gateway, "/ws/chat?subscribe-user", &cookie).await;
        redis.publish(&gateway.channel("user:john:chat"), format!("round {round}"));
        client.expect_text(&format!("round {round}")).await;
    }
}

#[tokio::test]
async fn an_unresponsive_redis_is_detected_while_channels_linger() {
    let redis = RedisServer::start();
    let builder = TestGateway::builder().redis(&redis).set("redis.command_timeout_seconds", "1");
    let gateway = builder.set("redis.unsubscribe_linger_seconds", "600").start().await;
    drop(gateway.connect("/ws/chat?subscribe-broadcast").await);
    gateway.expect_log(&["connection ended"]).await;
    redis.pause();
    gateway.expect_log(&["WARN", "redis lost", "no answer"]).await;
    redis.resume();
    gateway.wait_for_redis().await;
}

#[tokio::test]
async fn the_first_timeout_of_an_unresponsive_redis_reaches_all_shards_and_is_logged_once() {
    let redis = RedisServer::start();
    let builder = TestGateway::builder().redis(&redis).set("redis.command_timeout_seconds", "2");
    let gateway = builder.set("server.shards", "3").start().await;
    let mut open = gateway.connect("/ws/chat?subscribe-broadcast").await;
    // The next PING of the broker is ten seconds away: only reads for handshakes time out.
    open.expect_nothing().await;
    redis.pause();
    let begun = tokio::time::Instant::now();
    gateway.request("/ws/chat?subscribe-broadcast").expect_status(503).await;
    gateway.expect_log(&["WARN", "redis lost", "no answer within 2 s"]).await;
    assert!(begun.elapsed().as_secs() < 7, "it took {:?}", begun.elapsed());
    assert!(gateway.count_log(&["WARN", "Redis failed during a handshake"]) <= 1, "{:#?}", gateway.log());
    for _ in 0..6 {
        let begun = tokio::time::Instant::now();
        gateway.request("/ws/chat?subscribe-broadcast").expect_status(503).await;
        // Without the shared state, each shard would wait for a timeout of 2 s itself.
        assert!(begun.elapsed().as_millis() < 1_500, "a shard does not know: {:?}", begun.elapsed());
    }
    redis.resume();
    gateway.wait_for_redis().await;
    redis.publish(&gateway.channel("broadcast:chat"), "live");
    open.expect_text("live").await;
    assert_eq!(gateway.count_log(&["redis lost"]), 1);
}

#[tokio::test]
async fn one_unresponsive_connection_does_not_interrupt_the_others() {
    let redis = RedisServer::start();
    let proxy = Proxy::to(&redis);
    let builder = TestGateway::builder().redis(&redis).set("redis.url", &proxy.url());
    let gateway = builder.set("redis.command_timeout_seconds", "1").start().await;
    let mut open = gateway.connect("/ws/chat?subscribe-broadcast").await;
    proxy.hold_replies(Side::Store);
    gateway.request("/ws/chat?subscribe-broadcast").expect_status(503).await;
    gateway.expect_log(&["WARN", "Redis failed during a handshake"]).await;
    gateway.wait_for_redis().await;
    redis.publish(&gateway.channel("broadcast:chat"), "live");
    open.expect_text("live").await;
    assert_eq!(gateway.count_log(&["redis lost"]), 0);
}
