//! Publications while Redis fails: at most once, in order, and acknowledged before a close is answered.

use crate::support::client::{TestClient, frame};
use crate::support::{Fault, Proxy, RedisServer, Side, TestGateway, eventually};

struct PublicationScenario {
    redis: RedisServer,
    proxy: Proxy,
    gateway: TestGateway,
    client: TestClient,
}

impl PublicationScenario {
    async fn start(settings: &[(&str, &str)]) -> Self {
        let redis = RedisServer::start();
        let proxy = Proxy::to(&redis);
        let mut builder = TestGateway::builder().redis(&redis).set("redis.url", &proxy.url());
        builder = builder.set("server.shards", "1");
        for (key, value) in settings {
            builder = builder.set(key, value);
        }
        let gateway = builder.start().await;
        let client = gateway.connect("/ws/chat?publish-broadcast").await;
        Self { redis, proxy, gateway, client }
    }

    async fn lose_redis(&self) {
        self.proxy.refuse().await;
        self.gateway.expect_log(&["WARN", "redis lost"]).await;
    }
}

#[tokio::test]
async fn a_publication_with_a_lost_acknowledgement_is_not_repeated_and_its_client_is_closed() {
    let mut scenario = PublicationScenario::start(&[]).await;
    let mut monitor = scenario.redis.monitor();
    scenario.proxy.inject("PUBLISH", Fault::CutReply);
    scenario.client.send_text("once").await;
    let reason = scenario.client.expect_close(1011).await;
    assert!(reason.contains("lost"), "{reason}");
    scenario.proxy.release();
    scenario.gateway.wait_for_redis().await;
    // A publication of another client goes through the new connection.
    let mut other = scenario.gateway.connect("/ws/chat?publish-broadcast&subscribe-broadcast&echo").await;
    other.expect_text("once").await;
    other.send_text("after").await;
    other.expect_text("after").await;
    let published = monitor.commands("\"PUBLISH\"");
    assert_eq!(published.len(), 2, "{published:?}");
    assert!(published[0].contains("once") && published[1].contains("after"), "{published:?}");
}

#[tokio::test]
async fn a_publication_that_never_reached_redis_is_not_repeated_either() {
    let mut scenario = PublicationScenario::start(&[]).await;
    let mut monitor = scenario.redis.monitor();
    scenario.proxy.inject("SETEX", Fault::HoldCommands);
    scenario.client.send_text("never").await;
    scenario.proxy.expect_hit("SETEX").await;
    scenario.proxy.cut(Side::Store);
    scenario.client.expect_close(1011).await;
    scenario.proxy.release();
    scenario.gateway.wait_for_redis().await;
    let mut other = scenario.gateway.connect("/ws/chat?publish-broadcast&subscribe-broadcast&echo").await;
    other.send_text("after").await;
    other.expect_text("after").await;
    let published = monitor.commands("\"PUBLISH\"");
    assert_eq!(published.len(), 1, "{published:?}");
}

#[tokio::test]
async fn publications_wait_for_redis_and_are_sent_in_order_when_it_is_back() {
    const MESSAGES: usize = 200;
    let mut scenario = PublicationScenario::start(&[("redis.publish_wait_seconds", "60")]).await;
    let mut second = scenario.gateway.connect("/ws/chat?publish-broadcast").await;
    let mut monitor = scenario.redis.monitor();
    scenario.lose_redis().await;
    for number in 0..MESSAGES {
        scenario.client.send_text(&format!("first {number:03}")).await;
        second.send_text(&format!("second {number:03}")).await;
    }
    // Both clients are read completely: their publications wait, the clients do not.
    scenario.client.send_ping(b"heard").await;
    scenario.client.expect_pong(b"heard").await;
    second.send_ping(b"heard").await;
    second.expect_pong(b"heard").await;
    let refused = scenario.gateway.request("/ws/chat").expect_status(503).await;
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    assert!(monitor.commands("\"PUBLISH\"").is_empty());
    scenario.proxy.accept();
    let mut published = Vec::new();
    eventually("all publications", || {
        published.extend(monitor.commands("\"PUBLISH\""));
        (published.len() >= MESSAGES * 2).then_some(())
    })
    .await;
    for who in ["first", "second"] {
        let own = published.iter().filter(|command| command.contains(who));
        assert!(own.clone().is_sorted() && own.count() == MESSAGES, "{who}: {published:?}");
    }
    // The client was not closed meanwhile.
    scenario.client.send_close(1000, "").await;
    scenario.client.expect_close(1000).await;
}

#[tokio::test]
async fn a_publication_queued_behind_unconfirmed_ones_waits_for_the_next_connection() {
    let mut scenario = PublicationScenario::start(&[("redis.publish_wait_seconds", "60")]).await;
    let mut monitor = scenario.redis.monitor();
    let mut published = Vec::new();
    // As many clients as there may be pipelines in flight.
    let mut others = Vec::new();
    for _ in 0..2 {
        others.push(scenario.gateway.connect("/ws/chat?publish-broadcast").await);
    }
    scenario.proxy.hold_replies(Side::Store);
    for (number, other) in others.iter_mut().enumerate() {
        other.send_text(&format!("written {number}")).await;
        eventually("it is written", || {
            published.extend(monitor.commands("\"PUBLISH\""));
            (published.len() == number + 1).then_some(())
        })
        .await;
    }
    scenario.client.send_text("not written").await;
    scenario.client.send_ping(b"heard").await;
    scenario.client.expect_pong(b"heard").await;
    scenario.proxy.cut(Side::Store);
    scenario.proxy.release();
    for mut other in others {
        other.expect_close(1011).await;
    }
    eventually("what had not been written", || {
        published.extend(monitor.commands("\"PUBLISH\""));
        (published.len() == 3).then_some(())
    })
    .await;
    assert!(published[2].contains("not written"), "{published:?}");
    scenario.client.send_close(1000, "").await;
    scenario.client.expect_close(1000).await;
}

#[tokio::test]
async fn a_publication_that_has_waited_too_long_closes_its_client_with_1013() {
    let mut scenario = PublicationScenario::start(&[("redis.publish_wait_seconds", "1")]).await;
    let mut silent = scenario.gateway.connect("/ws/chat?publish-broadcast").await;
    let mut monitor = scenario.redis.monitor();
    scenario.lose_redis().await;
    scenario.client.send_text("too late").await;
    let reason = scenario.client.expect_close(1013).await;
    assert!(reason.contains("redis"), "{reason}");
    silent.expect_nothing().await;
    scenario.proxy.accept();
    scenario.gateway.wait_for_redis().await;
    silent.send_text("in time").await;
    let mut published = Vec::new();
    eventually("the publication", || {
        published.extend(monitor.commands("\"PUBLISH\""));
        published.iter().any(|command| command.contains("in time")).then_some(())
    })
    .await;
    assert_eq!(published.len(), 1, "{published:?}");
}

#[tokio::test]
async fn publications_above_the_queue_limit_close_their_client_with_1013_and_others_keep_waiting() {
    let settings = [
        ("redis.publish_wait_seconds", "60"),
        ("redis.max_pending_bytes", "1048576"),
        ("messages.publish_bytes", "2000000"),
    ];
    let mut scenario = PublicationScenario::start(&settings).await;
    let mut first = scenario.gateway.connect("/ws/chat?publish-broadcast").await;
    let mut monitor = scenario.redis.monitor();
    scenario.lose_redis().await;
    let message = "x".repeat(100_000);
    for _ in 0..6 {
        first.send_text(&message).await;
    }
    // Fills the queue and exceeds it by one message.
    for _ in 0..5 {
        scenario.client.send_text(&message).await;
    }
    scenario.client.expect_close(1013).await;
    scenario.proxy.accept();
    let mut published = 0;
    eventually("what has waited", || {
        published += monitor.commands("\"PUBLISH\"").len();
        (published == 10).then_some(())
    })
    .await;
    first.expect_nothing().await;
}

#[tokio::test]
async fn a_close_is_answered_only_after_the_publications_before_it_are_acknowledged() {
    let mut scenario = PublicationScenario::start(&[]).await;
    scenario.proxy.inject("PUBLISH", Fault::HoldReplies);
    scenario.client.send_text("last words").await;
    scenario.client.send_close(4001, "bye").await;
    scenario.proxy.expect_hit("PUBLISH").await;
    // A later request on the same thread is answered while the close is not.
    let mut other = scenario.gateway.request("/ws/other").open().await;
    other.send_raw(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    other.read_response().await.unwrap();
    let early = scenario.client.stream.try_read(&mut [0; 64]);
    assert!(early.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));
    scenario.proxy.release();
    scenario.client.expect_close(4001).await;
    assert_eq!(
        scenario.redis.get(&scenario.gateway.channel("broadcast:chat")).as_deref(),
        Some(&b"last words"[..])
    );
}

#[tokio::test]
async fn a_close_after_a_lost_publication_is_answered_with_1011() {
    let mut scenario = PublicationScenario::start(&[]).await;
    scenario.proxy.inject("PUBLISH", Fault::CutReply);
    scenario.client.send_text("last words").await;
    scenario.client.send_close(1000, "").await;
    scenario.client.expect_close(1011).await;
}

#[tokio::test]
async fn connection_losses_during_publications_neither_duplicate_nor_reorder_any() {
    let mut scenario = PublicationScenario::start(&[]).await;
    let mut monitor = scenario.redis.monitor();
    let mut published = Vec::new();
    for round in 0..8 {
        let mut client = scenario.gateway.connect("/ws/chat?publish-broadcast").await;
        for number in 0..500 {
            if number == 250 {
                eventually("a publication", || {
                    published.extend(monitor.commands("\"PUBLISH\""));
                    published.iter().any(|command| command.contains(&format!("r{round} "))).then_some(())
                })
                .await;
            }
            if number == 300 {
                scenario.proxy.cut(Side::Store);
            }
            // The connection may be closed already.
            let _ = client.try_send_raw(&frame(0x81, format!("r{round} {number:03}").as_bytes())).await;
        }
        scenario.gateway.wait_for_redis().await;
    }
    scenario.client.send_text("end").await;
    eventually("the last publication", || {
        published.extend(monitor.commands("\"PUBLISH\""));
        published.iter().any(|command| command.contains("\"end\"")).then_some(())
    })
    .await;
    for round in 0..8 {
        let own: Vec<_> =
            published.iter().filter(|command| command.contains(&format!("r{round} "))).collect();
        assert!(own.is_sorted_by(|a, b| a < b), "doubled or out of order: {own:?}");
    }
}

#[tokio::test]
async fn acknowledgements_received_while_the_process_was_paused_are_not_lost() {
    // After SIGCONT either the timeout or the reply can be seen first; repeats to cover both.
    for _ in 0..6 {
        let mut scenario = PublicationScenario::start(&[("redis.command_timeout_seconds", "1")]).await;
        scenario.redis.pause();
        scenario.client.send_text("kept").await;
        scenario.client.send_ping(b"heard").await;
        scenario.client.expect_pong(b"heard").await;
        scenario.gateway.signal("STOP");
        scenario.redis.resume();
        tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
        scenario.gateway.signal("CONT");
        scenario.client.send_close(1000, "").await;
        scenario.client.expect_close(1000).await;
    }
}
