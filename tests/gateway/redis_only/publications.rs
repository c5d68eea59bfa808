//! What clients publish while Redis fails: at most once, in order, and acknowledged before a close is answered.

use crate::support::client::{Client, frame};
use crate::support::{Fault, Proxy, RedisServer, Side, TestGateway, eventually};

struct Scene {
    redis: RedisServer,
    proxy: Proxy,
    gateway: TestGateway,
    client: Client,
}

impl Scene {
    async fn set(settings: &[(&str, &str)]) -> Self {
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
    let mut scene = Scene::set(&[]).await;
    let mut monitor = scene.redis.monitor();
    scene.proxy.when("PUBLISH", Fault::CutReply);
    scene.client.send_text("once").await;
    let reason = scene.client.expect_close(1011).await;
    assert!(reason.contains("lost"), "{reason}");
    scene.proxy.release();
    scene.gateway.wait_for_redis().await;
    // Another one's goes through the connection that was made since.
    let mut other = scene.gateway.connect("/ws/chat?publish-broadcast&subscribe-broadcast&echo").await;
    other.expect_text("once").await;
    other.send_text("after").await;
    other.expect_text("after").await;
    let published = monitor.commands("\"PUBLISH\"");
    assert_eq!(published.len(), 2, "{published:?}");
    assert!(published[0].contains("once") && published[1].contains("after"), "{published:?}");
}

#[tokio::test]
async fn a_publication_that_never_reached_redis_is_not_repeated_either() {
    let mut scene = Scene::set(&[]).await;
    let mut monitor = scene.redis.monitor();
    scene.proxy.when("SETEX", Fault::HoldCommands);
    scene.client.send_text("never").await;
    scene.proxy.expect_hit("SETEX").await;
    scene.proxy.cut(Side::Store);
    scene.client.expect_close(1011).await;
    scene.proxy.release();
    scene.gateway.wait_for_redis().await;
    let mut other = scene.gateway.connect("/ws/chat?publish-broadcast&subscribe-broadcast&echo").await;
    other.send_text("after").await;
    other.expect_text("after").await;
    let published = monitor.commands("\"PUBLISH\"");
    assert_eq!(published.len(), 1, "{published:?}");
}

#[tokio::test]
async fn publications_wait_for_redis_and_are_sent_in_order_when_it_is_back() {
    const MESSAGES: usize = 200;
    let mut scene = Scene::set(&[("redis.publish_wait_seconds", "60")]).await;
    let mut second = scene.gateway.connect("/ws/chat?publish-broadcast").await;
    let mut monitor = scene.redis.monitor();
    scene.lose_redis().await;
    for number in 0..MESSAGES {
        scene.client.send_text(&format!("first {number:03}")).await;
        second.send_text(&format!("second {number:03}")).await;
    }
    // Both are heard to the end: what they publish waits, they do not.
    scene.client.send_ping(b"heard").await;
    scene.client.expect_pong(b"heard").await;
    second.send_ping(b"heard").await;
    second.expect_pong(b"heard").await;
    let refused = scene.gateway.request("/ws/chat").expect_status(503).await;
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    assert!(monitor.commands("\"PUBLISH\"").is_empty());
    scene.proxy.accept();
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
    // Nobody was closed for it.
    scene.client.send_close(1000, "").await;
    scene.client.expect_close(1000).await;
}

#[tokio::test]
async fn a_publication_queued_behind_unconfirmed_ones_waits_for_the_next_connection() {
    let mut scene = Scene::set(&[("redis.publish_wait_seconds", "60")]).await;
    let mut monitor = scene.redis.monitor();
    let mut published = Vec::new();
    // No more pipelines than these are under way at a time.
    let mut others = Vec::new();
    for _ in 0..2 {
        others.push(scene.gateway.connect("/ws/chat?publish-broadcast").await);
    }
    scene.proxy.hold_replies(Side::Store);
    for (number, other) in others.iter_mut().enumerate() {
        other.send_text(&format!("written {number}")).await;
        eventually("it is written", || {
            published.extend(monitor.commands("\"PUBLISH\""));
            (published.len() == number + 1).then_some(())
        })
        .await;
    }
    scene.client.send_text("not written").await;
    scene.client.send_ping(b"heard").await;
    scene.client.expect_pong(b"heard").await;
    scene.proxy.cut(Side::Store);
    scene.proxy.release();
    for mut other in others {
        other.expect_close(1011).await;
    }
    eventually("what had not been written", || {
        published.extend(monitor.commands("\"PUBLISH\""));
        (published.len() == 3).then_some(())
    })
    .await;
    assert!(published[2].contains("not written"), "{published:?}");
    scene.client.send_close(1000, "").await;
    scene.client.expect_close(1000).await;
}

#[tokio::test]
async fn a_publication_that_has_waited_too_long_closes_its_client_with_1013() {
    let mut scene = Scene::set(&[("redis.publish_wait_seconds", "1")]).await;
    let mut silent = scene.gateway.connect("/ws/chat?publish-broadcast").await;
    let mut monitor = scene.redis.monitor();
    scene.lose_redis().await;
    scene.client.send_text("too late").await;
    let reason = scene.client.expect_close(1013).await;
    assert!(reason.contains("redis"), "{reason}");
    silent.expect_nothing().await;
    scene.proxy.accept();
    scene.gateway.wait_for_redis().await;
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
    let mut scene = Scene::set(&settings).await;
    let mut first = scene.gateway.connect("/ws/chat?publish-broadcast").await;
    let mut monitor = scene.redis.monitor();
    scene.lose_redis().await;
    let message = "x".repeat(100_000);
    for _ in 0..6 {
        first.send_text(&message).await;
    }
    // The rest of what may wait, and one more.
    for _ in 0..5 {
        scene.client.send_text(&message).await;
    }
    scene.client.expect_close(1013).await;
    scene.proxy.accept();
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
    let mut scene = Scene::set(&[]).await;
    scene.proxy.when("PUBLISH", Fault::HoldReplies);
    scene.client.send_text("last words").await;
    scene.client.send_close(4001, "bye").await;
    scene.proxy.expect_hit("PUBLISH").await;
    // A later client's ping is answered, on the same thread, and the close is not.
    let mut other = scene.gateway.request("/ws/other").open().await;
    other.send_raw(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    other.read_response().await.unwrap();
    let early = scene.client.stream.try_read(&mut [0; 64]);
    assert!(early.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));
    scene.proxy.release();
    scene.client.expect_close(4001).await;
    assert_eq!(
        scene.redis.get(&scene.gateway.channel("broadcast:chat")).as_deref(),
        Some(&b"last words"[..])
    );
}

#[tokio::test]
async fn a_close_after_a_lost_publication_is_answered_with_1011() {
    let mut scene = Scene::set(&[]).await;
    scene.proxy.when("PUBLISH", Fault::CutReply);
    scene.client.send_text("last words").await;
    scene.client.send_close(1000, "").await;
    scene.client.expect_close(1011).await;
}

#[tokio::test]
async fn connection_losses_during_publications_neither_duplicate_nor_reorder_any() {
    let mut scene = Scene::set(&[]).await;
    let mut monitor = scene.redis.monitor();
    let mut published = Vec::new();
    for round in 0..8 {
        let mut client = scene.gateway.connect("/ws/chat?publish-broadcast").await;
        for number in 0..500 {
            if number == 250 {
                eventually("a publication", || {
                    published.extend(monitor.commands("\"PUBLISH\""));
                    published.iter().any(|command| command.contains(&format!("r{round} "))).then_some(())
                })
                .await;
            }
            if number == 300 {
                scene.proxy.cut(Side::Store);
            }
            // It may have been closed already.
            let _ = client.try_send_raw(&frame(0x81, format!("r{round} {number:03}").as_bytes())).await;
        }
        scene.gateway.wait_for_redis().await;
    }
    scene.client.send_text("end").await;
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
    // Which of two things is seen first after the stop is left to chance.
    for _ in 0..6 {
        let mut scene = Scene::set(&[("redis.command_timeout_seconds", "1")]).await;
        scene.redis.pause();
        scene.client.send_text("kept").await;
        scene.client.send_ping(b"heard").await;
        scene.client.expect_pong(b"heard").await;
        scene.gateway.signal("STOP");
        scene.redis.resume();
        tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
        scene.gateway.signal("CONT");
        scene.client.send_close(1000, "").await;
        scene.client.expect_close(1000).await;
    }
}
