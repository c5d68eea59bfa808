//! The Redis ACL user recommended in docs/security.md has exactly the rights that the gateway needs.

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::support::gateway::binary;
use crate::support::redis::{KEYSPACE_EVENTS, RedisClient, RedisReply, encode};
use crate::support::socket_io::{V4, join, open};
use crate::support::{RedisServer, TestGateway, eventually, unique};

const SECURITY: &str = include_str!("../../../docs/security.md");
const PASSWORD: &str = "fixture";
const KEY: &str = "abcdefghijklmnopqrstuvwxyz012345";
/// The key template in the ACL lines of the document.
const CACHE: &str = "cache :1:django.contrib.sessions.cache{key}";

/// A right that only the line for everything has.
const EVENTS: &str = " +xadd ";

/// Returns the ACL line for a prefix, with a password.
fn acl_line(prefix: &str) -> String {
    let lines = SECURITY.lines().filter(|line| line.starts_with("ACL SETUSER ws4redis reset "));
    let lines: Vec<_> = lines.filter(|line| !line.contains(EVENTS)).collect();
    assert_eq!(lines.len(), 2, "one without a prefix, one with it");
    let colon = if prefix.is_empty() { "" } else { ":" };
    let wanted = format!(" ~{prefix}{colon}broadcast:* ");
    let line = lines.into_iter().find(|line| line.contains(&wanted)).unwrap();
    line.replace(">PASSWORD", &format!(">{PASSWORD}"))
}

/// Returns the rows of the table of session engines: key template, key patterns and event patterns. A table row with
/// several templates becomes several rows.
fn rows() -> Vec<[String; 3]> {
    let table = SECURITY.lines().skip_while(|line| !line.starts_with("| sessions |")).skip(2);
    let rows = table.take_while(|line| line.starts_with('|')).flat_map(|line| {
        let code: Vec<_> = line.split('`').skip(1).step_by(2).collect();
        let [.., templates, keys, events] = code[..] else { panic!("three pieces of code in {line}") };
        let templates: Vec<_> = templates.trim_matches(['[', ']', '"']).split("\", \"").collect();
        templates.into_iter().map(move |template| [template, keys, events].map(str::to_owned))
    });
    let rows: Vec<_> = rows.collect();
    assert_eq!(rows[0][0], CACHE);
    rows
}

/// Returns the ACL line for the sessions of a row.
fn session_acl_line([_, keys, events]: &[String; 3]) -> String {
    let line = acl_line("");
    let [_, cache_keys, cache_events] = &rows()[0];
    let changed = line.replace(cache_keys, keys).replace(cache_events, events);
    assert!(changed.contains(keys) && changed.contains(events), "{changed}");
    changed
}

fn set_user(redis: &RedisServer, line: &str) {
    redis.command(&line.split(' ').collect::<Vec<_>>());
    redis.command(&["ACL", "LOG", "RESET"]);
}

async fn start(redis: &RedisServer, prefix: &str, template: &str) -> TestGateway {
    let url = format!("redis://ws4redis:{PASSWORD}@127.0.0.1:{}", redis.port());
    let secret = fixture()["settings"]["SECRET_KEY"].as_str().unwrap().to_owned();
    let builder = TestGateway::builder()
        .redis(redis)
        .namespace(prefix)
        .set("redis.url", &url)
        .set("session.keyspace_events", "on");
    let builder = builder.set("redis.unsubscribe_linger_seconds", "0").set("session.recheck_seconds", "1");
    builder.set("session.keys", template).set("session.secret_key", &secret).start().await
}

/// Returns a session of user 1 in the format of django-redis-sessions.
fn fixture() -> serde_json::Value {
    let path = "tests/fixtures/sessions/dj52__redis_sessions_default__login.json";
    let path = format!("{}/{path}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Logs in user 1, whose name and groups are in the identity key.
fn log_in(redis: &RedisServer, gateway: &TestGateway, template: &str) {
    let (form, key) = template.split_once(' ').unwrap();
    let session = match form {
        "signed" => STANDARD.decode(fixture()["redis_keys"][0]["value_b64"].as_str().unwrap()).unwrap(),
        _ => br#"{"_auth_user_id": "1", "_auth_user_hash": "h"}"#.to_vec(),
    };
    redis.command(&[b"SET", key.replace("{key}", KEY).as_bytes(), &session, b"EX", b"1000"]);
    let user = r#"{"v":1,"active":true,"username":"john","groups":["staff"],"auth_hashes":null}"#;
    redis.command(&["SET", &gateway.channel("ws4redis:identity:1"), user, "EX", "1000"]);
}

/// Expects that Redis has denied no command.
#[track_caller]
fn expect_no_refusals(redis: &RedisServer) {
    assert_eq!(redis.command(&["ACL", "LOG"]), RedisReply::Array(Vec::new()));
}

/// Checks delivery, publishing, recovery after a connection loss, and the close at logout, for a logged-in client.
async fn expect_service(redis: &RedisServer, prefix: &str, template: &str) {
    let gateway = start(redis, prefix, template).await;
    log_in(redis, &gateway, template);
    let session = format!("session:{KEY}:x");
    let names = ["broadcast:x", "group:staff:x", "user:john:x", &session];
    let flags = ["broadcast", "group", "user", "session"]
        .map(|audience| format!("subscribe-{audience}&publish-{audience}"))
        .join("&");
    let connect = || {
        let request = gateway.request(&format!("/ws/x?{flags}"));
        request.header("Cookie", format!("sessionid={KEY}")).connect()
    };
    let mut first = connect().await;
    let mut second = connect().await;
    first.send_text("from a client").await;
    for _ in names {
        second.expect_text("from a client").await;
    }
    let mut third = connect().await;
    for name in names {
        third.expect_text("from a client").await;
        assert!(redis.get(&gateway.channel(name)).is_some(), "{name} is not kept");
    }
    redis.kill_clients("pubsub");
    redis.kill_clients("normal");
    gateway.expect_log(&["WARN", "redis lost"]).await;
    let prefix = gateway.channel("");
    let all_subscribed = || {
        let channels = redis.channels(&prefix);
        names.iter().all(|name| channels.contains(&gateway.channel(name))).then_some(())
    };
    eventually("the channels are subscribed again", all_subscribed).await;
    gateway.wait_for_redis().await;
    for name in names {
        redis.publish(&gateway.channel(name), name);
        for client in [&mut first, &mut second, &mut third] {
            client.expect_text(name).await;
        }
    }
    first.send_text("still here").await;
    for _ in names {
        second.expect_text("still here").await;
        third.expect_text("still here").await;
    }
    redis.command(&["DEL", &template.split_once(' ').unwrap().1.replace("{key}", KEY)]);
    for client in [&mut first, &mut second, &mut third] {
        client.expect_close(4401).await;
    }
    eventually("nothing is subscribed", || redis.channels(&prefix).is_empty().then_some(())).await;
    expect_no_refusals(redis);
}

#[tokio::test]
async fn the_documented_redis_user_has_enough_rights() {
    for prefix in ["", "demo"] {
        let redis = RedisServer::start();
        set_user(&redis, &acl_line(prefix));
        expect_service(&redis, prefix, CACHE).await;
    }
}

#[tokio::test]
async fn the_documented_redis_user_has_enough_rights_for_each_session_engine() {
    for row in rows() {
        // The deletion of a cached copy must be announced.
        let redis = RedisServer::start_with(&KEYSPACE_EVENTS);
        set_user(&redis, &session_acl_line(&row));
        expect_service(&redis, "", &row[0]).await;
    }
}

#[tokio::test]
async fn presence_needs_the_further_rights_of_the_document() {
    let redis = RedisServer::start();
    let further = SECURITY.lines().find(|line| line.starts_with("+zadd +zrem +zscore +zcard ")).unwrap();
    set_user(&redis, &format!("{} {further}", acl_line("")));
    let url = format!("redis://ws4redis:{PASSWORD}@127.0.0.1:{}", redis.port());
    let start = async || {
        let builder = TestGateway::builder().redis(&redis).namespace("").set("redis.url", &url);
        let builder = builder.set("session.keyspace_events", "on").set("session.keys", CACHE);
        builder.rules("[[presence]]\nfacility = [\"x\"]\nseconds = 3\n").start().await
    };
    let (one, two) = (start().await, start().await);
    log_in(&redis, &one, CACHE);
    let cookie = format!("sessionid={KEY}");
    let request =
        |gateway: &TestGateway| gateway.request("/ws/x?subscribe-broadcast").header("Cookie", &cookie);
    let (first, second) = (request(&one).connect().await, request(&two).connect().await);
    let anonymous = one.connect("/ws/x?subscribe-broadcast").await;
    let members = |key: &str| redis.command(&["ZCARD", key]).integer();
    eventually("all are counted", || {
        (members("ws4redis:online:john") == 2 && members("ws4redis:presence:x") == 3).then_some(())
    })
    .await;
    drop((first, anonymous));
    // Stale entries are looked for with each refresh.
    two.signal("KILL");
    drop(second);
    eventually("nobody is left", || (redis.command(&["DBSIZE"]).integer() <= 2).then_some(())).await;
    let user_keys = redis.command(&["KEYS", "ws4redis:online*"]);
    assert_eq!(user_keys, RedisReply::Array(Vec::new()));
    expect_no_refusals(&redis);
}

#[tokio::test]
async fn one_line_of_the_document_is_enough_for_socket_io_events_and_presence() {
    let line = SECURITY
        .lines()
        .find(|line| line.starts_with("ACL SETUSER ws4redis reset ") && line.contains(EVENTS));
    let line = line.unwrap().replace(">PASSWORD", &format!(">{PASSWORD}"));
    for (kind, further) in [("stream", ""), ("list", " +rpush +ltrim"), ("channel", " &ws4redis:events")] {
        let redis = RedisServer::start();
        set_user(&redis, &format!("{line}{further}"));
        let mut reader = redis.connection();
        reader.command(&["SUBSCRIBE", "ws4redis:events"]);
        let url = format!("redis://ws4redis:{PASSWORD}@127.0.0.1:{}", redis.port());
        let builder = TestGateway::builder().redis(&redis).namespace("").set("redis.url", &url);
        let builder = builder.set("session.keyspace_events", "on").set("session.keys", CACHE);
        let builder =
            builder.set("events.to", &format!("{kind}:ws4redis:events")).set("events.facility", "x");
        let builder = builder.set("socketio.enabled", "true").set("socketio.client_events", "*");
        let builder = builder.rules("[[presence]]\nfacility = [\"x\"]\nseconds = 3\n");
        let gateway = builder.start().await;
        log_in(&redis, &gateway, CACHE);
        let cookie = format!("sessionid={KEY}");
        let relay = gateway.request("/ws/x?subscribe-broadcast&publish-broadcast&echo");
        let mut relay = relay.header("Cookie", &cookie).connect().await;
        let (mut socket, _) = open(gateway.request(V4).header("Cookie", &cookie)).await;
        join(&mut socket, "/").await;
        // Several events make one pipeline.
        for number in 0..10 {
            relay.send_text("message").await;
            socket.send_text(&format!(r#"42["event",{number}]"#)).await;
        }
        for _ in 0..10 {
            relay.expect_text("message").await;
        }
        redis.publish(
            "socketio",
            r#"{"method":"emit","event":"e","data":[],"binary":false,"namespace":"/","host_id":"h","callback":["r","/",1]}"#,
        );
        socket.expect_text(r#"421["e"]"#).await;
        socket.send_text("431[]").await;
        eventually("the user is online", || {
            (redis.command(&["ZCARD", "ws4redis:online:john"]).integer() == 2).then_some(())
        })
        .await;
        drop((relay, socket));
        let has_all = || match kind {
            "stream" => redis.command(&["XLEN", "ws4redis:events"]).integer() >= 26,
            "list" => redis.command(&["LLEN", "ws4redis:events"]).integer() >= 26,
            _ => true,
        };
        eventually("start, online, offline, connects, disconnects and what clients sent", || {
            has_all().then_some(())
        })
        .await;
        for _ in 0..if kind == "channel" { 26 } else { 0 } {
            reader.reply();
        }
        expect_no_refusals(&redis);
    }
}

#[tokio::test]
async fn histories_need_the_further_rights_of_the_document() {
    let rules = "[[history]]\nfacility = [\"x\"]\nmessages = 10\n";
    let redis = RedisServer::start();
    let further = SECURITY.lines().find(|line| line.starts_with("+eval +evalsha +xadd +expire ")).unwrap();
    let url = format!("redis://ws4redis:{PASSWORD}@127.0.0.1:{}", redis.port());
    let file = std::env::temp_dir().join(unique("ws4redis-rights"));
    std::fs::write(&file, rules).unwrap();
    let check = || {
        let mut command = binary();
        let url = format!("redis.url={url}");
        command.arg("--settings").arg(&file).args(["--set", &url, "check"]).output().unwrap()
    };
    set_user(&redis, &format!("{} {further}", acl_line("")));
    assert!(check().status.success(), "{:?}", check());
    // It asks whether Redis publishes keyspace events, which this user may not.
    redis.command(&["ACL", "LOG", "RESET"]);
    let builder = TestGateway::builder().redis(&redis).namespace("").set("redis.url", &url).rules(rules);
    let gateway = builder.set("session.keyspace_events", "on").set("session.keys", CACHE).start().await;
    let mut client = gateway.connect("/ws/x?subscribe-broadcast&publish-broadcast&echo").await;
    client.send_text("one").await;
    client.expect_text("one").await;
    client.send_text("two").await;
    client.expect_text("two").await;
    assert_eq!(redis.command(&["XLEN", "ws4redis:history:broadcast:x"]).integer(), 2);
    expect_no_refusals(&redis);
    for word in further.split(' ') {
        let rest: Vec<_> = further.split(' ').filter(|other| *other != word).collect();
        set_user(&redis, &format!("{} {}", acl_line(""), rest.join(" ")));
        let output = check();
        // Only a pipeline with several publications needs the digest, and clients that resume the others.
        let is_needed = !["+evalsha", "+xinfo|stream", "+info", "+time"].contains(&word);
        assert_eq!(output.status.success(), !is_needed, "{word}: {output:?}");
    }
    std::fs::remove_file(file).unwrap();
}

#[tokio::test]
async fn the_bridges_need_the_further_rights_of_the_document() {
    let redis = RedisServer::start_with(&KEYSPACE_EVENTS);
    let mut line = acl_line("");
    for start in
        ["%R~session-store-* &notifications &__keyspace@0__:session-store-*", "+set +strlen +setrange +eval "]
    {
        line.push(' ');
        line.push_str(SECURITY.lines().find(|line| line.starts_with(start)).unwrap());
    }
    set_user(&redis, &line);
    let url = format!("redis://ws4redis:{PASSWORD}@127.0.0.1:{}", redis.port());
    let builder = TestGateway::builder().redis(&redis).namespace("").set("redis.url", &url);
    let builder = builder.set("session.keyspace_events", "on").set("session.keys", CACHE);
    let builder = builder.set("socketio.yunity.enabled", "true").set("socketio.messenger.enabled", "true");
    let gateway = builder.set("socketio.messenger.connections_key", "socket_connections").start().await;
    let (mut named, _) = open(gateway.request("/socket/?EIO=4&transport=websocket")).await;
    join(&mut named, "/").await;
    redis.command(&["SET", "session-store-s1", "7"]);
    named.send_text(r#"42["authenticate",{"sessionId":"s1"}]"#).await;
    eventually("the key is watched", || {
        (!redis.channels("__keyspace@0__:session-store-").is_empty()).then_some(())
    })
    .await;
    let (mut gathered, _) = open(gateway.request("/websocket/?EIO=4&transport=websocket")).await;
    join(&mut gathered, "/").await;
    redis.publish("notifications", r#"{"task":"gather_active_connections"}"#);
    gathered.next_message().await;
    gathered.send_text(r#"42["ng-action",{"action":"pong","socket_id":1,"token":2}]"#).await;
    eventually("the report is written", || {
        redis.get("socket_connections").filter(|list| list == br#"[{"socket_id": 1, "token": 2}]"#)
    })
    .await;
    redis.publish("notifications", r#"{"users":[7],"payload":1}"#);
    named.expect_text(r#"42["message",{"payload":1}]"#).await;
    expect_no_refusals(&redis);
}

/// Sends a command as the ACL user. Returns whether Redis permits it.
fn is_allowed(connection: &mut RedisClient, command: &str) -> bool {
    let mut bytes = Vec::new();
    encode(&mut bytes, &command.split(' ').collect::<Vec<_>>());
    connection.send(&bytes);
    !matches!(connection.reply(), RedisReply::Error(error) if error.starts_with("NOPERM"))
}

#[tokio::test]
async fn the_documented_redis_user_has_no_further_rights() {
    let redis = RedisServer::start();
    for prefix in ["", "demo:"] {
        set_user(&redis, &acl_line(prefix.trim_end_matches(':')));
        let mut user = redis.connection();
        user.command(&["AUTH", "ws4redis", PASSWORD]);
        let session = format!(":1:django.contrib.sessions.cache{KEY}");
        for refused in [
            format!("SETEX {session} 9 x"),
            format!("SET {session} x"),
            format!("DEL {session}"),
            format!("SETEX {prefix}ws4redis:identity:1 9 x"),
            format!("SETEX {prefix}session:{KEY} 9 x"),
            format!("GET {KEY}"),
            format!("GET {prefix}session:{KEY}"),
            format!("GET other:{prefix}broadcast:x"),
            format!("PUBLISH {session} x"),
            format!("PUBLISH {prefix}ws4redis:other x"),
            "SUBSCRIBE __keyspace@0__:other".to_owned(),
            "PSUBSCRIBE *".to_owned(),
            "KEYS *".to_owned(),
            "SCAN 0".to_owned(),
            "FLUSHDB".to_owned(),
            "EVAL return 0".to_owned(),
            "CONFIG GET notify-keyspace-events".to_owned(),
            "CLIENT LIST".to_owned(),
            "ACL WHOAMI".to_owned(),
        ] {
            assert!(!is_allowed(&mut user, &refused), "{refused}");
        }
        for allowed in [
            "SELECT 1".to_owned(),
            format!("PUBLISH {prefix}ws4redis:doctor:0123456789abcdef0123456789abcdef x"),
            format!("SUBSCRIBE {prefix}ws4redis:control"),
            format!("SUBSCRIBE __keyspace@0__:{session}"),
        ] {
            assert!(is_allowed(&mut user, &allowed), "{allowed}");
        }
    }
}
