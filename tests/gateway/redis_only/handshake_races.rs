//! Sessions, users and groups that change during a handshake, after its last read of them.

use tokio::task::JoinHandle;

use crate::support::client::{Response, TestClient};
use crate::support::redis::{KEYSPACE_EVENTS, Monitor};
use crate::support::sessions::{connect, log_in, redis_key, session_key};
use crate::support::{Fault, Proxy, RedisServer, TestGateway, eventually, within_deadline};

/// An interval of periodic session checks that no test outlasts.
const NO_RECHECKS: (&str, &str) = ("session.recheck_seconds", "1000");

/// Reads of persisted messages can be delayed by a proxy; sessions are in a separate Redis without delay.
struct RaceFixture {
    messages: RedisServer,
    sessions: RedisServer,
    proxy: Proxy,
    gateway: TestGateway,
    monitor: Monitor,
}

impl RaceFixture {
    async fn start(events: &[&str]) -> Self {
        let (messages, sessions) = (RedisServer::start(), RedisServer::start_with(events));
        let proxy = Proxy::to(&messages);
        let gateway = TestGateway::builder()
            .redis(&messages)
            .set("redis.url", &proxy.url())
            .set("session.redis_url", &format!("{}/0", sessions.url().trim_end_matches("/0")))
            .set("server.shards", "1")
            .set("server.handshake_seconds", "60")
            .set(NO_RECHECKS.0, NO_RECHECKS.1)
            .start()
            .await;
        let support = if events.is_empty() { "No" } else { "Yes" };
        gateway.expect_log(&["keyspace events", support]).await;
        let monitor = sessions.monitor();
        Self { messages, sessions, proxy, gateway, monitor }
    }

    /// Starts a handshake and returns when it has read the session for the last time and waits for john's persisted
    /// message.
    async fn begin_handshake(&mut self, cookie: &str, readings: usize) -> JoinHandle<(Response, TestClient)> {
        let key = self.gateway.channel("user:john:x");
        let read = format!("\r\nGET\r\n${}\r\n{key}\r\n", key.len());
        self.proxy.inject(&read, Fault::HoldReplies);
        let request = self.gateway.request("/ws/x?subscribe-user&subscribe-group").header("Cookie", cookie);
        let opening = tokio::spawn(async move { request.send().await });
        self.proxy.expect_hit(&read).await;
        let (mut read, monitor) = (0, &mut self.monitor);
        let session = cookie.strip_prefix("sessionid=").unwrap();
        eventually("the session is read for the last time", || {
            let commands = monitor.commands(session);
            read += commands.iter().filter(|command| command.starts_with("\"PTTL")).count();
            (read >= readings).then_some(())
        })
        .await;
        opening
    }

    /// Releases the handshake and expects 101.
    async fn finish_handshake(&self, opening: JoinHandle<(Response, TestClient)>) -> TestClient {
        self.proxy.release();
        let (response, client) = within_deadline("the handshake ends", opening).await.unwrap();
        assert_eq!(response.status, 101);
        client
    }

    /// Opens a socket of another visitor. Its close proves that the gateway has processed all earlier events.
    async fn marker(&self) -> MarkerSocket {
        let key = session_key();
        let cookie = log_in(&self.sessions, &key, "9", "zoe", &[]);
        let client = connect(&self.gateway, "/ws/marker", &cookie).await;
        MarkerSocket { client, key }
    }

    fn invalidate(&self, user: &str, reason: &str) {
        let hint = format!(r#"{{"v":1,"user":"{user}","reason":"{reason}"}}"#);
        self.messages.publish(&self.gateway.channel("ws4redis:control"), hint);
    }

    fn write_user(&self, value: &str) {
        self.messages.command(&["SET", &self.gateway.channel("ws4redis:identity:7"), value]);
    }

    async fn expect_channels(&self, expected: &[&str]) {
        let expected: Vec<_> = expected.iter().map(|name| self.gateway.channel(name)).collect();
        eventually("the channels of who it is now", || {
            let mut channels = self.messages.channels(&self.gateway.channel("group:"));
            channels.extend(self.messages.channels(&self.gateway.channel("user:")));
            (channels == expected).then_some(())
        })
        .await;
    }
}

struct MarkerSocket {
    client: TestClient,
    key: String,
}

impl MarkerSocket {
    fn delete(&self, fixture: &RaceFixture) {
        fixture.sessions.command(&["DEL", &redis_key(&self.key)]);
    }

    /// Waits until the gateway has processed all key events so far.
    async fn expect_events_processed(mut self, fixture: &RaceFixture) {
        self.delete(fixture);
        self.client.expect_close(4401).await;
    }

    /// Waits until the gateway has processed all invalidations so far.
    async fn expect_invalidations_processed(mut self, fixture: &RaceFixture) {
        self.delete(fixture);
        fixture.invalidate("9", "logout");
        self.client.expect_close(4401).await;
    }
}

#[tokio::test]
async fn a_session_deleted_during_a_handshake_closes_its_socket() {
    let mut fixture = RaceFixture::start(&KEYSPACE_EVENTS).await;
    let marker = fixture.marker().await;
    let key = session_key();
    let opening = fixture.begin_handshake(&log_in(&fixture.sessions, &key, "7", "john", &[]), 2).await;
    fixture.sessions.command(&["DEL", &redis_key(&key)]);
    marker.expect_events_processed(&fixture).await;
    fixture.finish_handshake(opening).await.expect_close(4401).await;
}

#[tokio::test]
async fn a_session_that_changes_its_user_during_a_handshake_changes_the_channels() {
    let mut fixture = RaceFixture::start(&KEYSPACE_EVENTS).await;
    let marker = fixture.marker().await;
    let key = session_key();
    let opening = fixture.begin_handshake(&log_in(&fixture.sessions, &key, "7", "john", &["old"]), 2).await;
    log_in(&fixture.sessions, &key, "8", "mary", &["new"]);
    marker.expect_events_processed(&fixture).await;
    let _client = fixture.finish_handshake(opening).await;
    fixture.expect_channels(&["group:new:x", "user:mary:x"]).await;
}

#[tokio::test]
async fn invalidations_during_a_handshake_apply_to_its_socket() {
    let mut fixture = RaceFixture::start(&[]).await;
    let active = r#"{"v":1,"active":true,"username":"johnny","groups":["new"],"auth_hashes":null}"#;
    for (written, reason) in
        [(Some(active), "groups"), (Some(r#"{"v":1,"active":false}"#), "user"), (None, "logout")]
    {
        let marker = fixture.marker().await;
        let key = session_key();
        fixture.messages.command(&["DEL", &fixture.gateway.channel("ws4redis:identity:7")]);
        let opening =
            fixture.begin_handshake(&log_in(&fixture.sessions, &key, "7", "john", &["old"]), 1).await;
        match written {
            Some(value) => fixture.write_user(value),
            None => drop(fixture.sessions.command(&["DEL", &redis_key(&key)])),
        }
        fixture.invalidate("7", reason);
        marker.expect_invalidations_processed(&fixture).await;
        let mut client = fixture.finish_handshake(opening).await;
        if reason == "groups" {
            fixture.expect_channels(&["group:new:x", "user:johnny:x"]).await;
        } else {
            client.expect_close(4401).await;
        }
    }
}

#[tokio::test]
async fn invalidations_dropped_during_a_handshake_trigger_another_session_read() {
    let mut fixture = RaceFixture::start(&[]).await;
    let mut marker = fixture.marker().await;
    let key = session_key();
    let opening = fixture.begin_handshake(&log_in(&fixture.sessions, &key, "7", "john", &[]), 1).await;
    fixture.sessions.command(&["DEL", &redis_key(&key)]);
    marker.delete(&fixture);
    let hints = (0..3_000).map(|user| format!(r#"{{"v":1,"user":"u{user}","reason":"logout"}}"#));
    fixture.messages.publish_pipelined(&fixture.gateway.channel("ws4redis:control"), hints);
    marker.client.expect_close(4401).await;
    fixture.finish_handshake(opening).await.expect_close(4401).await;
}

#[tokio::test]
async fn a_session_is_watched_if_keyspace_events_are_enabled_during_the_handshake() {
    let mut fixture = RaceFixture::start(&[]).await;
    let key = session_key();
    let opening = fixture.begin_handshake(&log_in(&fixture.sessions, &key, "7", "john", &[]), 1).await;
    fixture.sessions.command(&[
        "CONFIG",
        "SET",
        KEYSPACE_EVENTS[0].trim_start_matches('-'),
        KEYSPACE_EVENTS[1],
    ]);
    // The gateway probes the setting on each new connection. A connection without subscriptions has type normal.
    fixture.sessions.kill_clients("normal");
    fixture.gateway.expect_log(&["keyspace events", "Yes"]).await;
    let mut client = fixture.finish_handshake(opening).await;
    eventually("the session is watched", || {
        let watched = fixture.sessions.channels("__keyspace@0__");
        watched.iter().any(|channel| channel.ends_with(&key)).then_some(())
    })
    .await;
    fixture.sessions.command(&["DEL", &redis_key(&key)]);
    client.expect_close(4401).await;
}

/// Without a proxy: varies the moment of the deletion.
#[tokio::test]
async fn a_session_deleted_at_any_moment_of_a_handshake_never_yields_an_authenticated_socket() {
    let redis = RedisServer::start_with(&KEYSPACE_EVENTS);
    let gateway = TestGateway::builder()
        .redis(&redis)
        .set(NO_RECHECKS.0, NO_RECHECKS.1)
        .set("messages.max_delivery_bytes", "8388608")
        .start()
        .await;
    gateway.expect_log(&["keyspace events", "Yes"]).await;
    redis.persist(&gateway.channel("user:john:x"), "x".repeat(8 << 20));
    for step in 0..30 {
        let key = session_key();
        let cookie = log_in(&redis, &key, "7", "john", &[]);
        let request = gateway.request("/ws/x?subscribe-user").header("Cookie", &cookie);
        let mut client = request.open().await;
        client.send_raw(&request.bytes()).await;
        tokio::time::sleep(std::time::Duration::from_micros(400 * step)).await;
        redis.command(&["DEL", &redis_key(&key)]);
        assert_eq!(client.read_head().await.status, 101);
        drop(tokio::spawn(async move { while let Ok(Some(_)) = client.read_frame().await {} }));
    }
    eventually("no socket is subscribed to john's channel", || {
        redis.channels(&gateway.channel("user:")).is_empty().then_some(())
    })
    .await;
}
