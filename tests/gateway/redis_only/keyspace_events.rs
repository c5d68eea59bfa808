//! Keyspace events from a Redis that evicts keys, is lost, or denies them.

use crate::support::redis::KEYSPACE_EVENTS;
use crate::support::sessions::{connect, log_in, redis_key, session_key, write_session};
use crate::support::{Fault, Proxy, RedisServer, Side, TestGateway, eventually};

/// An interval of periodic session checks that no test outlasts.
const NO_RECHECKS: (&str, &str) = ("session.recheck_seconds", "1000");

async fn notifying_gateway() -> (RedisServer, TestGateway) {
    let redis = RedisServer::start_with(&KEYSPACE_EVENTS);
    let gateway = TestGateway::builder().redis(&redis).set(NO_RECHECKS.0, NO_RECHECKS.1).start().await;
    gateway.expect_log(&["keyspace events", "Yes"]).await;
    (redis, gateway)
}

fn publish(redis: &RedisServer, gateway: &TestGateway, name: &str, text: &str) {
    redis.publish(&gateway.channel(name), text);
}

#[tokio::test]
async fn an_evicted_session_copy_is_no_logout_and_a_deleted_one_is() {
    let (redis, gateway) = notifying_gateway().await;
    let key = session_key();
    let copy = format!(":1:django.contrib.sessions.cached_db{key}");
    let content = r#"{"_auth_user_id": "7", "ws4redis:username": "john"}"#;
    redis.command(&["SET", &copy, content, "EX", "1000"]);
    let mut client = connect(&gateway, "/ws/x?subscribe-user", &format!("sessionid={key}")).await;
    // Below the size of the connection buffers: Redis evicts every key it can.
    redis.command(&["CONFIG", "SET", "maxmemory-policy", "allkeys-random"]);
    redis.command(&["CONFIG", "SET", "maxmemory", "1"]);
    eventually("the copy is evicted", || redis.get(&copy).is_none().then_some(())).await;
    redis.command(&["CONFIG", "SET", "maxmemory", "0"]);
    // The other event is sent later, and its socket is closed after a further delay.
    let other = session_key();
    let cookie = log_in(&redis, &other, "8", "mary", &[]);
    let mut shown = connect(&gateway, "/ws/x?subscribe-user", &cookie).await;
    redis.command(&["DEL", &redis_key(&other)]);
    shown.expect_close(4401).await;
    publish(&redis, &gateway, "user:john:x", "still here");
    client.expect_text("still here").await;
    redis.command(&["SET", &copy, content, "EX", "1000"]);
    redis.command(&["DEL", &copy]);
    client.expect_close(4401).await;
}

#[tokio::test]
async fn after_a_reconnect_sessions_are_read_again() {
    let redis = RedisServer::start_with(&KEYSPACE_EVENTS);
    let proxy = Proxy::to(&redis);
    let gateway = TestGateway::builder()
        .redis(&redis)
        .set("redis.url", &proxy.url())
        .set(NO_RECHECKS.0, NO_RECHECKS.1)
        .start()
        .await;
    let (key, other) = (session_key(), session_key());
    let cookie = log_in(&redis, &key, "7", "john", &[]);
    let mut client = connect(&gateway, "/ws/x?subscribe-user", &cookie).await;
    let mut stays =
        connect(&gateway, "/ws/x?subscribe-user", &log_in(&redis, &other, "8", "mary", &[])).await;
    proxy.refuse().await;
    gateway.expect_log(&["redis lost"]).await;
    redis.command(&["DEL", &redis_key(&key)]);
    proxy.accept();
    proxy.cut(Side::Subscriber);
    client.expect_close(4401).await;
    gateway.wait_for_redis().await;
    publish(&redis, &gateway, "user:mary:x", "still here");
    stays.expect_text("still here").await;
    // The sessions are watched again.
    redis.command(&["DEL", &redis_key(&other)]);
    stays.expect_close(4401).await;
}

#[tokio::test]
async fn keyspace_events_are_probed_and_never_configured() {
    let redis = RedisServer::start();
    let mut monitor = redis.monitor();
    let gateway = TestGateway::builder().redis(&redis).start().await;
    gateway.expect_log(&["keyspace events", "No"]).await;
    let key = session_key();
    write_session(&redis, &key, "{}");
    let _client = connect(&gateway, "/ws/x?subscribe-session", &format!("sessionid={key}")).await;
    assert_eq!(monitor.commands("__keyspace"), Vec::<String>::new());
    let statistics = redis.command(&["INFO", "commandstats"]).bulk().unwrap();
    let statistics = String::from_utf8(statistics).unwrap();
    let used = |command: &str| statistics.contains(&format!("cmdstat_{command}:"));
    assert!(used("config|get") && !used("config|set"), "{statistics}");
}

#[tokio::test]
async fn without_permission_for_keyspace_events_sessions_are_read_periodically() {
    let redis = RedisServer::start_with(&KEYSPACE_EVENTS);
    redis.command(&[
        "ACL",
        "SETUSER",
        "gate",
        "on",
        ">secret",
        "~*",
        "resetchannels",
        "&*:broadcast:*",
        "&*:user:*",
        "+@all",
        "-config",
    ]);
    let url = format!("redis://gate:secret@127.0.0.1:{}", redis.port());
    let gateway = TestGateway::builder()
        .redis(&redis)
        .set("redis.url", &url)
        .set("session.recheck_seconds", "1")
        .set("server.shards", "1")
        .start()
        .await;
    gateway.expect_log(&["refuses the control channel", "ws4redis:control"]).await;
    let opening = (0..8).map(|number| {
        let cookie = log_in(&redis, &session_key(), &format!("8{number}"), &format!("u{number}"), &[]);
        tokio::spawn(gateway.request("/ws/x?subscribe-user").header("Cookie", &cookie).send())
    });
    let mut refused_together = Vec::new();
    for opened in opening.collect::<Vec<_>>() {
        refused_together.push(opened.await.unwrap().1);
    }
    for _ in 0..2 {
        let key = session_key();
        let cookie = log_in(&redis, &key, "7", "john", &[]);
        let mut client = connect(&gateway, "/ws/x?subscribe-user", &cookie).await;
        publish(&redis, &gateway, "user:john:x", "welcome");
        client.expect_text("welcome").await;
        redis.command(&["DEL", &redis_key(&key)]);
        client.expect_close(4401).await;
    }
    gateway.expect_log(&["refuses keyspace events", "__keyspace@"]).await;
    assert_eq!(gateway.count_log(&["refuses keyspace events"]), 1);
}

#[tokio::test]
async fn a_thousand_handshakes_of_a_hundred_sessions_need_a_bounded_number_of_reads() {
    for events in [&[][..], &KEYSPACE_EVENTS] {
        let redis = RedisServer::start_with(events);
        let gateway = TestGateway::builder().redis(&redis).start().await;
        let cookies: Vec<_> = (0..100)
            .map(|number| {
                log_in(&redis, &session_key(), &number.to_string(), &format!("u{number}"), &["all"])
            })
            .collect();
        let mut monitor = redis.monitor();
        let opening = (0..1000).map(|number| {
            let request = gateway.request("/ws/x?subscribe-user&subscribe-group");
            tokio::spawn(request.header("Cookie", &cookies[number % 100]).send())
        });
        let mut clients = Vec::new();
        for opened in opening.collect::<Vec<_>>() {
            let (response, client) = opened.await.unwrap();
            assert_eq!(response.status, 101);
            clients.push(client);
        }
        let reads = monitor.commands("GET").iter().filter(|line| !line.contains("CONFIG")).count();
        // Without sharing, each handshake reads four templates and the identity key, twice with keyspace events, and two
        // persisted values.
        let readings = if events.is_empty() { 1 } else { 2 };
        let most = 1000 * ((4 + 1) * readings + 2);
        assert!(reads <= most, "{reads} reads, at most {most}");
        publish(&redis, &gateway, "group:all:x", "to all");
        for client in &mut clients {
            client.expect_text("to all").await;
        }
    }
}

/// Deletes a session at different moments of a handshake while another socket uses it: in the end no socket may have its
/// channels.
#[tokio::test]
async fn a_deletion_during_a_handshake_is_not_overwritten_by_an_earlier_read() {
    let redis = RedisServer::start_with(&KEYSPACE_EVENTS);
    let proxy = Proxy::to(&redis);
    let gateway = TestGateway::builder()
        .redis(&redis)
        .set("redis.url", &proxy.url())
        .set("session.keyspace_events", "on")
        .set("server.shards", "1")
        .set(NO_RECHECKS.0, NO_RECHECKS.1)
        .start()
        .await;
    for engine in ["cache", "cached_db"] {
        for moment in ["\r\nGETRANGE\r\n", "\r\nPTTL\r\n"] {
            let key = session_key();
            let stored = format!(":1:django.contrib.sessions.{engine}{key}");
            let content = r#"{"_auth_user_id": "7", "ws4redis:username": "john"}"#;
            redis.command(&["SET", &stored, content, "EX", "1000"]);
            let cookie = format!("sessionid={key}");
            let mut before = connect(&gateway, "/ws/x?subscribe-user", &cookie).await;
            proxy.inject(moment, Fault::HoldReplies);
            let request = gateway.request("/ws/x?subscribe-user").header("Cookie", &cookie);
            let opening = tokio::spawn(async move { request.send().await });
            proxy.expect_hit(moment).await;
            redis.command(&["DEL", &stored]);
            // The event arrives on another connection than the held replies.
            publish(&redis, &gateway, "user:john:x", "after the deletion");
            before.expect_text("after the deletion").await;
            proxy.release();
            before.expect_close(4401).await;
            let (response, mut during) = opening.await.unwrap();
            assert_eq!(response.status, 101);
            // The socket is closed with the session, or it is anonymous.
            during.send_ping(b"alive?").await;
            let frame = loop {
                let frame = during.next_frame().await;
                if frame.payload != b"after the deletion" && frame.payload != b"alive?" {
                    break Some(frame);
                }
                if redis.channels(&gateway.channel("user:")).is_empty() {
                    break None;
                }
                during.send_ping(b"alive?").await;
                tokio::task::yield_now().await;
            };
            assert!(frame.is_none_or(|frame| frame.payload.starts_with(&4401_u16.to_be_bytes())), "{engine}");
        }
    }
}

#[tokio::test]
async fn a_socket_is_watched_after_the_previous_one_of_its_session_has_closed() {
    let (redis, gateway) = notifying_gateway().await;
    for engine in ["cache", "cached_db"] {
        let key = session_key();
        let stored = format!(":1:django.contrib.sessions.{engine}{key}");
        let content = r#"{"_auth_user_id": "7", "ws4redis:username": "john"}"#;
        redis.command(&["SET", &stored, content, "EX", "1000"]);
        let cookie = format!("sessionid={key}");
        let mut last = connect(&gateway, "/ws/x?subscribe-user", &cookie).await;
        // Each client connects while the previous one disconnects, as in a page reload.
        for _ in 0..20 {
            let request = gateway.request("/ws/x?subscribe-user").header("Cookie", &cookie);
            let next = tokio::spawn(async move { request.connect().await });
            drop(last);
            last = next.await.unwrap();
        }
        redis.command(&["DEL", &stored]);
        last.expect_close(4401).await;
    }
}
