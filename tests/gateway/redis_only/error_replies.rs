//! Error replies: Redis is alive, so no client is disconnected, and the log names a cure for each.

use std::path::PathBuf;

use crate::support::redis::{RedisClient, encode};
use crate::support::sessions::{connect, log_in, session_key};
use crate::support::{RedisServer, TestGateway, eventually, unique};

/// A Redis whose snapshots fail: it refuses writes, and PING.
struct FailingSnapshots {
    redis: RedisServer,
    dir: PathBuf,
}

impl FailingSnapshots {
    fn start() -> Self {
        let dir = std::env::temp_dir().join(unique("ws4redis-unsaving"));
        std::fs::create_dir_all(&dir).unwrap();
        let redis = RedisServer::start_with(&["--dir", &dir.display().to_string(), "--save", "3600 1"]);
        // A directory in place of the dump file makes the final rename fail.
        std::fs::create_dir_all(dir.join("dump.rdb")).unwrap();
        Self { redis, dir }
    }

    async fn fail(&self) {
        self.redis.command(&["SET", "dirty", "x"]);
        self.redis.command(&["BGSAVE"]);
        eventually("a snapshot that failed", || {
            (self.redis.info("rdb_last_bgsave_status") == "err").then_some(())
        })
        .await;
    }
}

impl Drop for FailingSnapshots {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// A script that keeps Redis busy until it is killed; Redis answers other commands with BUSY.
struct BusyScript {
    caller: RedisClient,
    killer: RedisClient,
}

impl BusyScript {
    async fn start(redis: &RedisServer) -> Self {
        redis.command(&["CONFIG", "SET", "busy-reply-threshold", "1"]);
        let (mut caller, mut killer) = (redis.connection(), redis.connection());
        let mut script = Vec::new();
        encode(&mut script, &["EVAL", "while true do end", "0"]);
        caller.send(&script);
        let mut ping = Vec::new();
        encode(&mut ping, &["PING"]);
        eventually("Redis is busy", || {
            killer.send(&ping);
            format!("{:?}", killer.reply()).contains("BUSY").then_some(())
        })
        .await;
        Self { caller, killer }
    }

    fn kill(mut self) {
        self.killer.command(&["SCRIPT", "KILL"]);
        self.caller.reply();
    }
}

/// Expects that a client receives a publication and that the gateway has not considered Redis lost.
async fn expect_delivery(gateway: &TestGateway, redis: &RedisServer, facility: &str) {
    let mut client = gateway.connect(&format!("/ws/{facility}?subscribe-broadcast")).await;
    redis.publish(&gateway.channel(&format!("broadcast:{facility}")), "live");
    client.expect_text("live").await;
    assert_eq!(gateway.count_log(&["redis lost"]), 0);
}

#[tokio::test]
async fn while_snapshots_fail_messages_are_delivered_and_the_cure_is_logged_once() {
    let unsaving = FailingSnapshots::start();
    let redis = &unsaving.redis;
    let gateway = TestGateway::builder().redis(redis).start().await;
    let mut open = gateway.connect("/ws/chat?subscribe-broadcast&publish-broadcast&echo").await;
    redis.persist(&gateway.channel("broadcast:kept"), "kept");
    unsaving.fail().await;
    for facility in ["a", "b", "c"] {
        expect_delivery(&gateway, redis, facility).await;
    }
    gateway.connect("/ws/kept?subscribe-broadcast").await.expect_text("kept").await;
    open.send_text("not kept, delivered").await;
    open.expect_text("not kept, delivered").await;
    gateway.expect_log(&["WARN", "did not persist", "MISCONF", "snapshot"]).await;
    assert_eq!(
        gateway.count_log(&["WARN", "refuses PING", "MISCONF", "snapshot"]),
        1,
        "{:#?}",
        gateway.log()
    );
    // New connections succeed as well.
    redis.kill_clients("pubsub");
    gateway.expect_log(&["redis lost"]).await;
    redis.kill_clients("normal");
    eventually("the gateway is back", || (gateway.count_log(&["redis connected"]) == 2).then_some(())).await;
    gateway.wait_for_redis().await;
    redis.publish(&gateway.channel("broadcast:chat"), "again");
    open.expect_text("again").await;
}

#[tokio::test]
async fn a_gateway_starts_while_snapshots_fail() {
    let unsaving = FailingSnapshots::start();
    unsaving.fail().await;
    let gateway = TestGateway::builder().redis(&unsaving.redis).start().await;
    expect_delivery(&gateway, &unsaving.redis, "chat").await;
}

#[tokio::test]
async fn a_handshake_waits_for_a_running_script_and_gets_its_persisted_message() {
    let redis = RedisServer::start();
    let gateway = TestGateway::builder().redis(&redis).start().await;
    let mut open = gateway.connect("/ws/chat?subscribe-broadcast").await;
    redis.persist(&gateway.channel("broadcast:chat"), "kept");
    redis.persist(&gateway.channel("broadcast:new"), "new");
    let script = BusyScript::start(&redis).await;
    // One channel with a subscription, and one without.
    let waiting = ["chat", "new"].map(|facility| {
        let request = gateway.request(&format!("/ws/{facility}?subscribe-broadcast"));
        tokio::spawn(async move { request.connect().await })
    });
    gateway.expect_log(&["WARN", "BUSY", "SCRIPT KILL"]).await;
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    assert!(waiting.iter().all(|handshake| !handshake.is_finished()), "they are answered too early");
    script.kill();
    for (handshake, message) in waiting.into_iter().zip(["kept", "new"]) {
        handshake.await.unwrap().expect_text(message).await;
    }
    redis.publish(&gateway.channel("broadcast:chat"), "live");
    open.expect_text("live").await;
    assert_eq!(gateway.count_log(&["redis lost"]), 0);
}

#[tokio::test]
async fn a_handshake_that_times_out_during_a_script_gets_503_and_the_log_says_why() {
    let redis = RedisServer::start();
    let builder = TestGateway::builder().redis(&redis).set("server.handshake_seconds", "4");
    let gateway = builder.set("auth.callback_timeout_seconds", "1").start().await;
    let _open = gateway.connect("/ws/chat?subscribe-broadcast").await;
    let cookie = log_in(&redis, &session_key(), "7", "john", &[]);
    let script = BusyScript::start(&redis).await;
    let refused = gateway.request("/ws/chat?subscribe-broadcast").expect_status(503).await;
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    gateway.expect_log(&["WARN", "503", "handshake"]).await;
    let visitor = gateway.request("/ws/chat?subscribe-user").header("Cookie", cookie.clone());
    visitor.expect_status(503).await;
    script.kill();
    gateway.wait_for_redis().await;
    let mut client = connect(&gateway, "/ws/chat?subscribe-user", &cookie).await;
    redis.publish(&gateway.channel("user:john:chat"), "hello");
    client.expect_text("hello").await;
    assert_eq!(gateway.count_log(&["redis lost"]), 0);
}

#[tokio::test]
async fn a_client_that_publishes_while_a_script_runs_is_closed_with_1013() {
    let redis = RedisServer::start();
    let gateway = TestGateway::builder().redis(&redis).start().await;
    let mut client = gateway.connect("/ws/chat?publish-broadcast").await;
    let script = BusyScript::start(&redis).await;
    client.send_text("refused").await;
    client.expect_close(1013).await;
    gateway.expect_log(&["WARN", "refused a client's message", "BUSY", "SCRIPT KILL"]).await;
    script.kill();
}

#[tokio::test]
async fn while_redis_refuses_writes_messages_are_delivered_but_not_stored_and_the_log_says_why() {
    for (settings, word, cure) in [
        (&["maxmemory", "1"][..], "OOM", "maxmemory"),
        (&["min-replicas-to-write", "1"], "NOREPLICAS", "min-replicas-to-write"),
    ] {
        let redis = RedisServer::start();
        let gateway = TestGateway::builder().redis(&redis).start().await;
        let mut client = gateway.connect("/ws/chat?subscribe-broadcast&publish-broadcast&echo").await;
        redis.command(&[&["CONFIG", "SET"], settings].concat());
        client.send_text("not kept").await;
        client.expect_text("not kept").await;
        gateway.expect_log(&["WARN", "did not persist", word, cure]).await;
        expect_delivery(&gateway, &redis, "other").await;
    }
}

#[tokio::test]
async fn a_key_refused_by_a_replica_without_master_does_not_count_as_absent() {
    let redis = RedisServer::start();
    let gateway = TestGateway::builder().redis(&redis).start().await;
    let _open = gateway.connect("/ws/chat?subscribe-broadcast").await;
    redis.persist(&gateway.channel("broadcast:chat"), "kept");
    redis.command(&["CONFIG", "SET", "replica-serve-stale-data", "no"]);
    redis.command(&["REPLICAOF", "127.0.0.1", "1"]);
    // The gateway leaves it as soon as it notices the role.
    gateway.request("/ws/chat?subscribe-broadcast").expect_status(503).await;
    gateway.expect_log(&["WARN", "MASTERDOWN", "replica"]).await;
    redis.command(&["REPLICAOF", "NO", "ONE"]);
    gateway.wait_for_redis().await;
    gateway.connect("/ws/chat?subscribe-broadcast").await.expect_text("kept").await;
}

#[tokio::test]
async fn while_redis_loads_a_snapshot_the_clients_stay_and_handshakes_wait() {
    let options = ["--enable-debug-command", "yes", "--loading-process-events-interval-bytes", "1024"];
    let redis = RedisServer::start_with(&options);
    let gateway = TestGateway::builder().redis(&redis).start().await;
    let mut open = gateway.connect("/ws/chat?subscribe-broadcast").await;
    let filler: Vec<_> = (0..1500).map(|number| format!("filler {number}")).collect();
    let commands: Vec<_> = filler.iter().map(|key| [&b"SET"[..], key.as_bytes(), b"x"]).collect();
    redis.pipeline(&commands.iter().map(|command| &command[..]).collect::<Vec<_>>());
    redis.persist(&gateway.channel("broadcast:chat"), "kept");
    redis.command(&["CONFIG", "SET", "key-load-delay", "1000"]);
    let (mut loader, mut reload) = (redis.connection(), Vec::new());
    encode(&mut reload, &["DEBUG", "RELOAD"]);
    loader.send(&reload);
    let mut other = redis.connection();
    let mut ping = Vec::new();
    encode(&mut ping, &["PING"]);
    eventually("it loads", || {
        other.send(&ping);
        format!("{:?}", other.reply()).contains("LOADING").then_some(())
    })
    .await;
    let mut joiner = gateway.connect("/ws/chat?subscribe-broadcast").await;
    joiner.expect_text("kept").await;
    gateway.expect_log(&["WARN", "LOADING", "wait"]).await;
    loader.reply();
    redis.publish(&gateway.channel("broadcast:chat"), "live");
    open.expect_text("live").await;
    assert_eq!(gateway.count_log(&["redis lost"]), 0);
}

#[tokio::test]
async fn after_a_password_change_clients_stay_and_new_ones_get_503_with_the_cure_in_the_log() {
    let redis = RedisServer::start();
    let gateway = TestGateway::builder().redis(&redis).start().await;
    let mut open = gateway.connect("/ws/chat?subscribe-broadcast").await;
    let mut control = redis.connection();
    control.command(&["CONFIG", "SET", "requirepass", "new"]);
    // Authenticated connections stay valid; new ones need the password.
    control.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    gateway.expect_log(&["WARN", "NOAUTH", "PASSWORD"]).await;
    gateway.request("/ws/chat?subscribe-broadcast").expect_status(503).await;
    control.command(&["PUBLISH", &gateway.channel("broadcast:chat"), "still heard"]);
    open.expect_text("still heard").await;
    assert_eq!(gateway.count_log(&["redis lost"]), 0);
    control.command(&["CONFIG", "SET", "requirepass", ""]);
    gateway.wait_for_redis().await;
}
