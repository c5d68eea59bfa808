//! Sessions in a store with keyspace events.

use std::time::Duration;

use tokio::time::Instant;

use crate::support::sessions::{connect, log_in, redis_key, session_key};
use crate::support::{RedisServer, TestGateway};

/// An interval of periodic session checks that no test outlasts.
const NO_RECHECKS: (&str, &str) = ("session.recheck_seconds", "1000");

async fn notifying_gateway() -> (&'static RedisServer, TestGateway) {
    let redis = RedisServer::with_keyspace_events();
    let gateway = TestGateway::builder().redis(redis).set(NO_RECHECKS.0, NO_RECHECKS.1).start().await;
    gateway.expect_log(&["keyspace events", "Yes"]).await;
    (redis, gateway)
}

fn publish(redis: &RedisServer, gateway: &TestGateway, name: &str, text: &str) {
    redis.publish(&gateway.channel(name), text);
}

#[tokio::test]
async fn a_deleted_session_closes_its_sockets_after_a_short_delay() {
    let (redis, gateway) = notifying_gateway().await;
    let (key, next) = (session_key(), session_key());
    let cookie = log_in(redis, &key, "7", "john", &[]);
    let mut client = connect(&gateway, "/ws/x?subscribe-user", &cookie).await;
    // Django does so at login and at a password change: a new key, which the browser learns from the response.
    log_in(redis, &next, "7", "john", &[]);
    let begun = Instant::now();
    redis.command(&["DEL", &redis_key(&key)]);
    client.expect_close(4401).await;
    assert!(begun.elapsed() > Duration::from_millis(950), "{:?}", begun.elapsed());
    let mut client = connect(&gateway, "/ws/x?subscribe-user", &format!("sessionid={next}")).await;
    publish(redis, &gateway, "user:john:x", "still here");
    client.expect_text("still here").await;
}

#[tokio::test]
async fn a_rewritten_session_is_read_again_at_once() {
    let (redis, gateway) = notifying_gateway().await;
    let key = session_key();
    let cookie = log_in(redis, &key, "7", "john", &["old"]);
    let mut client = connect(&gateway, "/ws/x?subscribe-group", &cookie).await;
    redis.persist(&gateway.channel("group:new:x"), "welcome");
    log_in(redis, &key, "7", "john", &["new"]);
    client.expect_text("welcome").await;
    publish(redis, &gateway, "group:old:x", "lost");
    publish(redis, &gateway, "group:new:x", "to the new");
    client.expect_text("to the new").await;
}

#[tokio::test]
async fn a_change_between_the_first_read_and_the_101_is_noticed() {
    let (redis, gateway) = notifying_gateway().await;
    // In either order of the two, no socket may stay connected as john without a session.
    for _ in 0..50 {
        let key = session_key();
        let cookie = log_in(redis, &key, "7", "john", &[]);
        let request = gateway.request("/ws/x?subscribe-user").header("Cookie", &cookie);
        let opening = tokio::spawn(async move { request.send().await });
        redis.command(&["DEL", &redis_key(&key)]);
        let (response, client) = opening.await.unwrap();
        assert_eq!(response.status, 101);
        drop(client);
    }
    let key = session_key();
    let cookie = log_in(redis, &key, "7", "john", &[]);
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(connect(&gateway, "/ws/x?subscribe-user", &cookie).await);
    }
    redis.command(&["DEL", &redis_key(&key)]);
    for client in &mut clients {
        client.expect_close(4401).await;
    }
}

#[tokio::test]
async fn sessions_in_a_separate_redis_and_database_are_watched_there() {
    let (redis, sessions) = (RedisServer::shared(), RedisServer::with_keyspace_events());
    let url = format!("{}/3", sessions.url().trim_end_matches("/0"));
    let gateway = TestGateway::builder()
        .set("session.redis_url", &url)
        .set(NO_RECHECKS.0, NO_RECHECKS.1)
        .set("server.shards", "2")
        .start()
        .await;
    gateway.expect_log(&["keyspace events", "Yes"]).await;
    let (key, cookie) = {
        let key = session_key();
        let cookie = format!("sessionid={key}");
        (key, cookie)
    };
    let mut database = sessions.connection();
    database.command(&["SELECT", "3"]);
    let content = |groups: &str| {
        format!(r#"{{"_auth_user_id": "7", "ws4redis:username": "john", "ws4redis:memberof": [{groups}]}}"#)
    };
    database.command(&["SET", &redis_key(&key), &content(""), "EX", "1000"]);
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(connect(&gateway, "/ws/x?subscribe-user&subscribe-group", &cookie).await);
    }
    redis.persist(&gateway.channel("group:new:x"), "welcome");
    database.command(&["SET", &redis_key(&key), &content(r#""new""#), "EX", "1000"]);
    for client in &mut clients {
        client.expect_text("welcome").await;
    }
    database.command(&["DEL", &redis_key(&key)]);
    for client in &mut clients {
        client.expect_close(4401).await;
    }
}

#[tokio::test]
async fn a_session_whose_ttl_is_shortened_ends_at_the_new_time() {
    let (redis, gateway) = notifying_gateway().await;
    let (key, other) = (session_key(), session_key());
    let cookie = log_in(redis, &key, "7", "john", &[]);
    let mut client = connect(&gateway, "/ws/x?subscribe-user", &cookie).await;
    let cookie = log_in(redis, &other, "8", "mary", &[]);
    let mut others = connect(&gateway, "/ws/x?subscribe-user", &cookie).await;
    redis.command(&["PEXPIRE", &redis_key(&key), "1500"]);
    redis.command(&["PEXPIRE", &redis_key(&other), "500000"]);
    client.expect_close(4401).await;
    publish(redis, &gateway, "user:mary:x", "still here");
    others.expect_text("still here").await;
}
