//! Graceful shutdown.

use std::time::Duration;

use tokio::time::Instant;

use crate::support::events::SseClient;
use crate::support::{TestGateway, eventually, within_deadline};

#[tokio::test]
async fn sigterm_and_sigint_close_all_clients_with_1012_and_exit_with_0() {
    for signal in ["TERM", "INT"] {
        let mut gateway = TestGateway::start().await;
        let mut clients = Vec::new();
        for number in 0..10 {
            clients.push(gateway.connect(&format!("/ws/{number}?subscribe-broadcast")).await);
        }
        gateway.signal(signal);
        for client in &mut clients {
            client.expect_close(1012).await;
            client.expect_end().await;
        }
        drop(clients);
        assert_eq!(gateway.expect_exit().await.code(), Some(0), "{signal}");
        assert_eq!(gateway.count_log(&["connection ended", "close_code=1012"]), 10);
    }
}

#[tokio::test]
async fn an_event_stream_ends_with_1012_on_shutdown() {
    let gateway = TestGateway::start().await;
    let mut events = SseClient::open(gateway.stream("/ws/x?subscribe-broadcast")).await;
    gateway.signal("TERM");
    let (name, data) = events.next().await;
    assert_eq!((name.as_str(), data.contains(r#""code":1012"#)), ("close", true), "{data}");
}

#[tokio::test]
async fn without_clients_the_server_stops_at_once() {
    let mut gateway = TestGateway::start_with(&[("server.drain_seconds", "60")]).await;
    gateway.expect_log(&["connection ended"]).await;
    let begun = Instant::now();
    gateway.signal("TERM");
    assert_eq!(gateway.expect_exit().await.code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn clients_are_closed_spread_over_the_drain_time() {
    let mut gateway = TestGateway::start_with(&[("server.drain_seconds", "3"), ("server.shards", "1")]).await;
    let begun = std::sync::Arc::new(std::sync::OnceLock::new());
    let mut leaving = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let mut client = gateway.connect("/ws/drain?subscribe-broadcast").await;
        let begun = begun.clone();
        leaving.spawn(async move {
            client.expect_close(1012).await;
            begun.get().map_or(Duration::ZERO, Instant::elapsed)
        });
    }
    begun.set(Instant::now()).unwrap();
    gateway.signal("TERM");
    let mut times = leaving.join_all().await;
    times.sort();
    let (first, middle, last) = (times[0], times[20], times[39]);
    // Upper limits leave room for a loaded machine: closed all at once, every time would be below a second.
    assert!(first < Duration::from_millis(1500), "{times:?}");
    assert!((Duration::from_millis(800)..Duration::from_secs(3)).contains(&middle), "{times:?}");
    assert!(last > Duration::from_secs(2) && last < Duration::from_secs(5), "{times:?}");
    assert_eq!(gateway.expect_exit().await.code(), Some(0));
}

#[tokio::test]
async fn clients_not_yet_closed_are_served_during_the_drain() {
    let mut gateway = TestGateway::start_with(&[("server.drain_seconds", "5"), ("server.shards", "1")]).await;
    let mut clients = Vec::new();
    for _ in 0..40 {
        clients.push(gateway.connect("/ws/drain?subscribe-broadcast").await);
    }
    gateway.signal("TERM");
    gateway.expect_log(&["stopping"]).await;
    gateway.publish("broadcast:drain", "last news");
    let mut served = 0;
    for client in &mut clients {
        if client.next_message().await.payload == b"last news" {
            served += 1;
            client.expect_close(1012).await;
        }
    }
    assert!(served >= 20, "{served} of 40 got what was published while they were sent away");
    drop(clients);
    assert_eq!(gateway.expect_exit().await.code(), Some(0));
}

#[tokio::test]
async fn new_clients_are_refused_during_shutdown() {
    let gateway = TestGateway::start_with(&[("server.drain_seconds", "5"), ("server.shards", "1")]).await;
    let mut clients = Vec::new();
    for _ in 0..30 {
        clients.push(gateway.connect("/ws/x").await);
    }
    let request = gateway.request("/ws/late");
    let mut late = request.open().await;
    let bytes = request.bytes();
    late.send_raw(&bytes[..20]).await;
    // A served later connection proves that the partial request has been read.
    gateway.connect("/ws/x").await.expect_nothing().await;
    gateway.signal("TERM");
    gateway.expect_log(&["stopping"]).await;
    late.send_raw(&bytes[20..]).await;
    let response = within_deadline("an answer", late.read_response()).await.unwrap();
    assert_eq!(response.status, 503, "{response:?}");
    assert!(response.body.contains("stopping") && response.header("retry-after").is_some(), "{response:?}");
    let address = gateway.address();
    eventually("connections are refused", || std::net::TcpStream::connect(address).err()).await;
}

#[tokio::test]
async fn a_second_signal_stops_at_once() {
    let settings = [("server.drain_seconds", "60"), ("server.shards", "1")];
    let mut gateway = TestGateway::start_with(&settings).await;
    let mut clients = Vec::new();
    for _ in 0..300 {
        clients.push(gateway.connect("/ws/x").await);
    }
    gateway.signal("TERM");
    gateway.expect_log(&["stopping"]).await;
    let begun = Instant::now();
    assert!(gateway.is_running());
    gateway.signal("TERM");
    gateway.expect_exit().await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    gateway.expect_log(&["stopped at once"]).await;
}

mod redis_only {
    use super::*;
    use crate::support::RedisServer;

    #[tokio::test]
    async fn publications_of_clients_are_completed_before_exit() {
        let redis = RedisServer::start();
        let mut gateway = TestGateway::builder().redis(&redis).start().await;
        let mut client = gateway.connect("/ws/last?publish-broadcast").await;
        redis.pause();
        client.send_text("last words").await;
        client.send_ping(b"taken").await;
        client.expect_pong(b"taken").await;
        gateway.signal("TERM");
        client.expect_close(1012).await;
        drop(client);
        redis.resume();
        assert_eq!(gateway.expect_exit().await.code(), Some(0));
        let kept = redis.get(&gateway.channel("broadcast:last"));
        assert_eq!(kept.as_deref(), Some(&b"last words"[..]));
    }

    #[tokio::test]
    async fn waiting_publications_are_sent_if_redis_returns_before_exit() {
        let mut redis = RedisServer::start();
        let settings = TestGateway::builder().redis(&redis).set("redis.command_timeout_seconds", "10");
        let mut gateway = settings.start().await;
        let mut client = gateway.connect("/ws/last?publish-broadcast").await;
        redis.kill();
        gateway.expect_log(&["WARN", "redis"]).await;
        client.send_text("last words").await;
        client.send_ping(b"taken").await;
        client.expect_pong(b"taken").await;
        gateway.signal("TERM");
        client.expect_close(1012).await;
        client.expect_end().await;
        drop(client);
        redis.restart();
        assert_eq!(gateway.expect_exit().await.code(), Some(0));
        let kept = redis.get(&gateway.channel("broadcast:last"));
        assert_eq!(kept.as_deref(), Some(&b"last words"[..]));
    }

    #[tokio::test]
    async fn without_redis_the_server_still_stops() {
        let redis = RedisServer::start();
        let mut gateway = TestGateway::builder().redis(&redis).start().await;
        let mut client = gateway.connect("/ws/x?subscribe-broadcast&publish-broadcast").await;
        redis.kill();
        gateway.expect_log(&["WARN", "redis"]).await;
        client.send_text("waits in vain").await;
        gateway.signal("TERM");
        client.expect_close(1012).await;
        drop(client);
        assert_eq!(gateway.expect_exit().await.code(), Some(0));
    }
}
