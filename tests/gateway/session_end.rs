//! Sessions that end and users that change while sockets are open, without keyspace events. The embedded store always
//! sends them, so they are disabled by setting.

use std::time::Duration;

use tokio::time::Instant;

use crate::support::redis::RedisReply;
use crate::support::sessions::{
    connect, hint, john, log_in, mary, redis_key, session_key, write_session, write_user,
};
use crate::support::{RedisServer, TestGateway, TestSite, eventually};

const AUDIENCES: &str = "subscribe-group&subscribe-user&subscribe-session";

/// An interval of periodic session checks that no test outlasts.
const NO_RECHECKS: (&str, &str) = ("session.recheck_seconds", "1000");

/// Disables keyspace events.
const NO_KEYSPACE_EVENTS: (&str, &str) = ("session.keyspace_events", "off");

/// The earliest close after a deleted session (one second), minus a tolerance for the test's clock.
const MIN_CLOSE_DELAY: Duration = Duration::from_millis(950);

async fn without_rechecks() -> TestGateway {
    TestGateway::start_with(&[NO_RECHECKS, NO_KEYSPACE_EVENTS]).await
}

async fn with_rechecks() -> TestGateway {
    TestGateway::start_with(&[("session.recheck_seconds", "1"), NO_KEYSPACE_EVENTS]).await
}

fn delete(key: &str) {
    RedisServer::shared().command(&["DEL", &redis_key(key)]);
}

#[tokio::test]
async fn a_deleted_session_closes_exactly_its_own_sockets_with_4401() {
    let gateway = with_rechecks().await;
    let (key, other) = (session_key(), session_key());
    let (cookie, marys) = (john(&key), mary(&other));
    let mut first = connect(&gateway, "/ws/x?subscribe-user", &cookie).await;
    let mut second = connect(&gateway, "/ws/y?subscribe-broadcast", &cookie).await;
    let mut marys = connect(&gateway, "/ws/x?subscribe-user", &marys).await;
    let mut nobodys = gateway.connect("/ws/x?subscribe-broadcast").await;
    delete(&key);
    first.expect_close(4401).await;
    second.expect_close(4401).await;
    marys.expect_nothing().await;
    nobodys.expect_nothing().await;
}

#[tokio::test]
async fn an_expired_session_closes_its_sockets_long_before_the_next_check() {
    let gateway = without_rechecks().await;
    let key = session_key();
    let cookie = john(&key);
    RedisServer::shared().command(&["PEXPIRE", &redis_key(&key), "500"]);
    let mut client = connect(&gateway, "/ws/x?subscribe-user", &cookie).await;
    client.expect_close(4401).await;
}

#[tokio::test]
async fn a_session_that_is_extended_keeps_its_sockets() {
    let gateway = without_rechecks().await;
    let key = session_key();
    let cookie = john(&key);
    RedisServer::shared().command(&["PEXPIRE", &redis_key(&key), "1000"]);
    let mut client = connect(&gateway, "/ws/x?subscribe-user", &cookie).await;
    let other = session_key();
    let mut others = {
        let cookie = mary(&other);
        RedisServer::shared().command(&["PEXPIRE", &redis_key(&other), "1000"]);
        connect(&gateway, "/ws/x?subscribe-user", &cookie).await
    };
    RedisServer::shared().command(&["PEXPIRE", &redis_key(&key), "100000"]);
    // The other session proves that the original expiry has passed.
    others.expect_close(4401).await;
    gateway.publish("user:john:x", "still here");
    client.expect_text("still here").await;
}

#[tokio::test]
async fn changed_groups_change_the_channels_of_an_open_socket() {
    let gateway = with_rechecks().await;
    let (redis, key) = (RedisServer::shared(), session_key());
    let cookie = log_in(redis, &key, "7", "john", &["old", "stays"]);
    let mut client = connect(&gateway, &format!("/ws/x?{AUDIENCES}"), &cookie).await;
    redis.persist(&gateway.channel("group:new:x"), "kept for the new");
    redis.persist(&gateway.channel("group:stays:x"), "known already");
    log_in(redis, &key, "7", "john", &["stays", "new"]);
    client.expect_text("kept for the new").await;
    for (channel, text) in
        [("group:old:x", "lost"), ("group:new:x", "1"), ("group:stays:x", "2"), ("user:john:x", "3")]
    {
        gateway.publish(channel, text);
    }
    for text in ["1", "2", "3"] {
        client.expect_text(text).await;
    }
    client.expect_nothing().await;
}

#[tokio::test]
async fn a_session_that_changes_its_user_moves_its_sockets_to_the_new_users_channels() {
    let gateway = without_rechecks().await;
    let (redis, key) = (RedisServer::shared(), session_key());
    let cookie = log_in(redis, &key, "7", "john", &[]);
    let mut client = connect(&gateway, "/ws/x?subscribe-user&publish-user", &cookie).await;
    log_in(redis, &key, "8", "mary", &[]);
    hint(&gateway, "7", "login");
    let said = |user: &str| redis.get(&gateway.channel(&format!("user:{user}:x")));
    eventually("mary's channel has a listener", || {
        (redis.publish(&gateway.channel("user:mary:x"), "are you there?") > 0).then_some(())
    })
    .await;
    gateway.publish("user:john:x", "to john");
    client.send_text("from mary").await;
    eventually("what mary said", || (said("mary").as_deref() == Some(b"from mary")).then_some(())).await;
    assert_eq!(said("john"), None);
    gateway.publish("user:mary:x", "the end");
    loop {
        let payload = client.next_message().await.payload;
        assert_ne!(payload, b"to john");
        assert_ne!(payload, b"from mary", "an own message is suppressed on the new channels as well");
        if payload == b"the end" {
            break;
        }
    }
}

#[tokio::test]
async fn an_announced_logout_closes_the_sockets_of_the_ended_session() {
    let gateway = without_rechecks().await;
    let (key, other) = (session_key(), session_key());
    let (cookie, others) = (john(&key), john(&other));
    let mut client = connect(&gateway, "/ws/x?subscribe-user", &cookie).await;
    let mut elsewhere = connect(&gateway, "/ws/x?subscribe-user", &others).await;
    let begun = Instant::now();
    delete(&key);
    hint(&gateway, "7", "logout");
    client.expect_close(4401).await;
    // A login deletes the old session as well, and the browser needs a moment to receive the new cookie.
    assert!(begun.elapsed() >= MIN_CLOSE_DELAY, "{:?}", begun.elapsed());
    gateway.publish("user:john:x", "still logged in elsewhere");
    elsewhere.expect_text("still logged in elsewhere").await;
}

#[tokio::test]
async fn an_invalidation_by_session_digest_closes_its_sockets() {
    let gateway = without_rechecks().await;
    // Reference digest from Python: hashlib.sha256(b"ws4redis:session:" + key).
    let (key, digest) = (
        "d19e57d19e57d19e57d19e57d19e5700",
        "e3ac6707df1c1ee22849a92b0e5ba55caa9b6a663e790a104b808dfc3a0d9df2",
    );
    let other = session_key();
    write_session(RedisServer::shared(), key, "{}");
    write_session(RedisServer::shared(), &other, "{}");
    let mut client = connect(&gateway, "/ws/x?subscribe-session", &format!("sessionid={key}")).await;
    let mut others = connect(&gateway, "/ws/x?subscribe-session", &format!("sessionid={other}")).await;
    let hint = format!(r#"{{"v":1,"ended":"{digest}"}}"#);
    gateway.publish("ws4redis:control", &hint);
    delete(key);
    gateway.publish("ws4redis:control", &hint);
    client.expect_close(4401).await;
    others.expect_nothing().await;
}

#[tokio::test]
async fn an_invalidation_only_triggers_a_check() {
    let gateway = without_rechecks().await;
    let key = session_key();
    let mut client = connect(&gateway, &format!("/ws/x?{AUDIENCES}"), &john(&key)).await;
    for reason in ["logout", "deleted", "user", "groups", "refresh", "nonsense"] {
        hint(&gateway, "7", reason);
    }
    for nonsense in
        ["", "{", "[]", r#"{"v":2,"user":"7"}"#, r#"{"v":1,"user":7}"#, "\u{0}", &"[".repeat(5000)]
    {
        gateway.publish("ws4redis:control", nonsense);
    }
    // A second session, which has ended, proves that the invalidations have been processed.
    let other = session_key();
    let mut ended = connect(&gateway, "/ws/x?subscribe-user", &john(&other)).await;
    delete(&other);
    hint(&gateway, "7", "logout");
    ended.expect_close(4401).await;
    gateway.publish("group:staff:x", "all is as it was");
    client.expect_text("all is as it was").await;
    client.expect_nothing().await;
}

#[tokio::test]
async fn a_deactivated_user_is_disconnected_and_cannot_reconnect() {
    let gateway = without_rechecks().await;
    let key = session_key();
    let cookie = john(&key);
    let mut client = connect(&gateway, &format!("/ws/x?{AUDIENCES}"), &cookie).await;
    let mut spying = connect(&gateway, "/ws/y?subscribe-user", &cookie).await;
    write_user(&gateway, "7", r#"{"v":1,"active":false}"#);
    hint(&gateway, "7", "user");
    client.expect_close(4401).await;
    spying.expect_close(4401).await;
    eventually("john's channels have no listener", || {
        RedisServer::shared().channels(&gateway.channel("user:john")).is_empty().then_some(())
    })
    .await;
    let mut again = connect(&gateway, &format!("/ws/x?{AUDIENCES}"), &cookie).await;
    let session = format!("session:{key}:x");
    gateway.publish(&session, "the session goes on");
    again.expect_text("the session goes on").await;
    assert!(RedisServer::shared().channels(&gateway.channel("user:")).is_empty());
}

#[tokio::test]
async fn a_changed_password_closes_the_sockets_of_older_sessions() {
    let gateway = without_rechecks().await;
    let (key, changing) = (session_key(), session_key());
    let mut stolen = connect(&gateway, "/ws/x?subscribe-user", &john(&key)).await;
    write_session(
        RedisServer::shared(),
        &changing,
        r#"{"_auth_user_id": "7", "_auth_user_hash": "new", "ws4redis:username": "john"}"#,
    );
    write_user(&gateway, "7", r#"{"v":1,"active":true,"username":"john","groups":[],"auth_hashes":["new"]}"#);
    let mut own = connect(&gateway, "/ws/x?subscribe-user", &format!("sessionid={changing}")).await;
    hint(&gateway, "7", "user");
    stolen.expect_close(4401).await;
    gateway.publish("user:john:x", "still here");
    own.expect_text("still here").await;
}

#[tokio::test]
async fn changed_groups_in_the_identity_key_apply_at_once_on_every_shard() {
    let gateway = TestGateway::start_with(&[NO_RECHECKS, NO_KEYSPACE_EVENTS, ("server.shards", "3")]).await;
    let key = session_key();
    let cookie = john(&key);
    let mut clients = Vec::new();
    for _ in 0..6 {
        clients.push(connect(&gateway, "/ws/x?subscribe-group", &cookie).await);
    }
    write_user(
        &gateway,
        "7",
        r#"{"v":1,"active":true,"username":"john","groups":["new"],"auth_hashes":["h"]}"#,
    );
    RedisServer::shared().persist(&gateway.channel("group:new:x"), "welcome");
    hint(&gateway, "7", "groups");
    for client in &mut clients {
        client.expect_text("welcome").await;
    }
    gateway.publish("group:staff:x", "lost");
    gateway.publish("group:new:x", "to the new");
    for client in &mut clients {
        client.expect_text("to the new").await;
    }
}

#[tokio::test]
async fn a_visitor_whose_access_is_revoked_is_closed_with_1008() {
    let text = r#"
        [[access]]
        facility = "staff"
        groups.staff = ["subscribe-broadcast"]
        refused = "403"

        [[access]]
        facility = "*"
        anonymous = ["subscribe-*"]
    "#;
    let gateway = TestGateway::builder()
        .rules(text)
        .set(NO_RECHECKS.0, NO_RECHECKS.1)
        .set(NO_KEYSPACE_EVENTS.0, NO_KEYSPACE_EVENTS.1)
        .start()
        .await;
    let (redis, key) = (RedisServer::shared(), session_key());
    let cookie = log_in(redis, &key, "7", "john", &["staff"]);
    let mut client = connect(&gateway, "/ws/staff?subscribe-broadcast", &cookie).await;
    log_in(redis, &key, "7", "john", &[]);
    hint(&gateway, "7", "groups");
    client.expect_close(1008).await;
    gateway.request("/ws/staff?subscribe-broadcast").header("Cookie", &cookie).expect_status(403).await;
}

#[tokio::test]
async fn a_missing_cache_copy_does_not_end_a_session_stored_in_the_database() {
    let gateway = with_rechecks().await;
    let (redis, key, shown) = (RedisServer::shared(), session_key(), session_key());
    let copy = format!(":1:django.contrib.sessions.cached_db{key}");
    let content = r#"{"_auth_user_id": "7", "ws4redis:username": "john"}"#;
    redis.command(&["SET", &copy, content, "EX", "1000"]);
    let mut client = connect(&gateway, "/ws/x?subscribe-user", &format!("sessionid={key}")).await;
    redis.command(&["DEL", &copy]);
    // Another session is checked equally often and proves that both were checked.
    let mut other = connect(&gateway, "/ws/x?subscribe-user", &mary(&shown)).await;
    delete(&shown);
    other.expect_close(4401).await;
    gateway.publish("user:john:x", "still here");
    client.expect_text("still here").await;
    // An announced logout ends the session.
    hint(&gateway, "7", "logout");
    client.expect_close(4401).await;
}

#[tokio::test]
async fn without_a_cache_copy_the_identity_key_still_applies() {
    let gateway = without_rechecks().await;
    let (redis, key) = (RedisServer::shared(), session_key());
    let copy = format!(":1:django.contrib.sessions.cached_db{key}");
    let content = r#"{"_auth_user_id": "7", "_auth_user_hash": "h", "ws4redis:username": "john"}"#;
    redis.command(&["SET", &copy, content, "EX", "1000"]);
    let mut client =
        connect(&gateway, "/ws/x?subscribe-user&subscribe-group", &format!("sessionid={key}")).await;
    redis.command(&["DEL", &copy]);
    redis.persist(&gateway.channel("group:new:x"), "welcome");
    write_user(
        &gateway,
        "7",
        r#"{"v":1,"active":true,"username":"john","groups":["new"],"auth_hashes":["h"]}"#,
    );
    hint(&gateway, "7", "groups");
    client.expect_text("welcome").await;
    write_user(&gateway, "7", r#"{"v":1,"active":false}"#);
    hint(&gateway, "7", "user");
    client.expect_close(4401).await;
}

/// Returns the payload of a message from Redis.
fn payload(message: RedisReply) -> Vec<u8> {
    let RedisReply::Array(mut parts) = message else { panic!("{message:?}") };
    parts.pop().unwrap().bulk().unwrap()
}

#[tokio::test]
async fn the_doctor_receives_the_view_of_this_server() {
    let site = TestSite::always_returning("null").await;
    let gateway = TestGateway::builder()
        .set("heartbeat", "--beat--")
        .set("auth.callback_url", &site.url())
        .set("auth.callback_secret", "geheim")
        .start()
        .await;
    let redis = RedisServer::shared();
    let nonce = "0123456789abcdef0123456789abcdef";
    let (own, foreign) = (session_key(), session_key());
    write_session(redis, &own, &format!(r#"{{"ws4redis:doctor": "{nonce}"}}"#));
    john(&foreign);
    for (session, probe) in [
        (own.clone(), "read"),
        (foreign, "unreadable"),
        (session_key(), "missing"),
        ("x:y".to_owned(), "unreadable"),
    ] {
        let mut answers = redis.connection();
        answers.command(&["SUBSCRIBE", &gateway.channel(&format!("ws4redis:doctor:{nonce}"))]);
        gateway.publish("ws4redis:control", format!(r#"{{"v":1,"doctor":"{nonce}","session":"{session}"}}"#));
        let answer: serde_json::Value = serde_json::from_slice(&payload(answers.reply())).unwrap();
        assert_eq!(answer["probe"], probe, "{answer}");
        assert_eq!(answer["prefix"], gateway.namespace());
        assert_eq!(answer["heartbeat"], "--beat--");
        assert_eq!(answer["keys"][0], ":1:django.contrib.sessions.cache{key}");
        assert_eq!(answer["callback"], true);
        assert_eq!(answer["callback_path"], "/identity/");
        assert_eq!(answer["unreachable"], serde_json::json!([]));
        assert_eq!(
            (&answer["events"], &answer["socketio"], &answer["presence"]),
            (&"".into(), &false.into(), &false.into())
        );
        assert_eq!(answer["socketio_channels"], serde_json::json!([]));
        // Reference from Python: hmac.new(b"geheim", b"ws4redis:doctor:0123…", "sha256").
        assert_eq!(
            answer["callback_proof"],
            "1d69e725052c6f26549983fa2094aec30010b4d4d09de4d4f01ce1fda22526d9"
        );
        assert!(!answer.to_string().contains(&session));
    }
}

#[tokio::test]
async fn the_doctor_learns_which_facilities_nobody_may_subscribe_to() {
    let rules = r#"
        [[access]]
        facility = "inbox"
        users = ["publish-broadcast"]

        [[access]]
        facility = ["news", "chat-*"]
        users = ["subscribe-*"]

        [[access]]
        facility = [""]
    "#;
    let gateway = TestGateway::builder().rules(rules).start().await;
    let nonce = "0123456789abcdef0123456789abcdef";
    let mut answers = RedisServer::shared().connection();
    answers.command(&["SUBSCRIBE", &gateway.channel(&format!("ws4redis:doctor:{nonce}"))]);
    let asked = r#"["news","inbox","chat-1","other"]"#;
    gateway.publish("ws4redis:control", format!(r#"{{"v":1,"doctor":"{nonce}","facilities":{asked}}}"#));
    let answer: serde_json::Value = serde_json::from_slice(&payload(answers.reply())).unwrap();
    assert_eq!(answer["unreachable"], serde_json::json!(["inbox", "other"]));
    assert_eq!(answer["callback_path"], serde_json::Value::Null);
}

#[tokio::test]
async fn a_deactivated_user_is_closed_with_4401_even_if_a_rule_refuses_them() {
    let text = r#"
        [[access]]
        facility = "members"
        users = ["subscribe-*"]
        refused = "403"

        [[access]]
        facility = [""]
    "#;
    let gateway = TestGateway::builder().rules(text).set(NO_RECHECKS.0, NO_RECHECKS.1).start().await;
    let cookie = john(&session_key());
    let mut client = connect(&gateway, "/ws/members?subscribe-user", &cookie).await;
    write_user(&gateway, "7", r#"{"v":1,"active":false}"#);
    hint(&gateway, "7", "user");
    client.expect_close(4401).await;
}

#[tokio::test]
async fn an_unreadable_identity_key_makes_its_user_anonymous() {
    let gateway = without_rechecks().await;
    let redis = RedisServer::shared();
    let name = gateway.channel("ws4redis:identity:7");
    let cookie = john(&session_key());
    let large = format!(r#"{{"v":1,"active":false,"x":"{}"}}"#, "x".repeat(5 << 20));
    let groups: Vec<_> = (0..1025).map(|number| format!("\"g{number}\"")).collect();
    let many = format!(
        r#"{{"v":1,"active":true,"username":"john","groups":[{}],"auth_hashes":null}}"#,
        groups.join(",")
    );
    let long = format!(
        r#"{{"v":1,"active":true,"username":"{}","groups":["staff"],"auth_hashes":null}}"#,
        "j".repeat(1025)
    );
    for command in
        [&["SET", &name, "{"][..], &["SET", &name, &large], &["SET", &name, &many], &["SET", &name, &long]]
    {
        redis.command(command);
        let _client = connect(&gateway, "/ws/x?subscribe-user&subscribe-group", &cookie).await;
        assert_eq!(redis.channels(&gateway.channel("")), Vec::<String>::new(), "{:.80}", command.join(" "));
    }
    gateway.expect_log(&["WARN", "identity key cannot be read"]).await;
}

#[tokio::test]
async fn a_socket_opened_while_its_user_was_inactive_follows_invalidations() {
    let gateway = without_rechecks().await;
    let cookie = john(&session_key());
    write_user(&gateway, "7", r#"{"v":1,"active":false}"#);
    let mut client = connect(&gateway, "/ws/x?subscribe-user", &cookie).await;
    RedisServer::shared().persist(&gateway.channel("user:john:x"), "welcome back");
    write_user(&gateway, "7", r#"{"v":1,"active":true,"username":"john","groups":[],"auth_hashes":["h"]}"#);
    hint(&gateway, "7", "user");
    client.expect_text("welcome back").await;
}
