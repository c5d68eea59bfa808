//! `ws4redis check`: mounts and channels, and with `--listen` what passes through Redis.

use std::process::{Output, Stdio};

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::support::gateway::binary;
use crate::support::sessions::{john, session_key};
use crate::support::socket_io::SocketIoGateway;
use crate::support::{DEADLINE, RedisServer, signal, unique, within_deadline};

/// A running `ws4redis check --listen`.
struct Listening {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Listening {
    async fn start(settings: &[(&str, &str)]) -> Self {
        let mut command = binary();
        command.args(["check", "--listen"]).stdout(Stdio::piped());
        for (key, value) in settings {
            command.args(["--set", &format!("{key}={value}")]);
        }
        let mut child = Command::from(command).kill_on_drop(true).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut listening = Self { child, lines };
        while !listening.next().await.starts_with("listening") {}
        listening
    }

    async fn next(&mut self) -> String {
        within_deadline("a line", self.lines.next_line()).await.unwrap().expect("the command has ended")
    }

    #[track_caller]
    fn expect(&mut self, parts: &[&str]) -> impl Future<Output = ()> {
        let place = std::panic::Location::caller();
        async move {
            let line = self.next().await;
            assert!(parts.iter().all(|part| line.contains(part)), "{place}: {parts:?} not in {line}");
            assert!(!line.contains("secret"), "{place}: {line}");
        }
    }

    /// Sends a signal, and expects the end with exit code 0.
    async fn end(mut self, name: &str) {
        signal(self.child.id().unwrap(), name);
        let status = within_deadline("the end of the command", self.child.wait()).await.unwrap();
        assert_eq!(status.code(), Some(0), "{name}");
    }
}

async fn run(arguments: &[&str]) -> Output {
    let output = Command::from(binary()).args(arguments).kill_on_drop(true).output();
    within_deadline("the end of the command", output).await.unwrap()
}

fn emit(event: &str, rest: &str) -> String {
    format!(r#"{{"method":"emit","event":"{event}","data":["secret"],"binary":false,{rest}}}"#)
}

#[tokio::test]
async fn listening_prints_each_message_with_its_receivers_and_no_contents() {
    let redis = RedisServer::start();
    let socket = std::env::temp_dir().join(unique("ws4redis-admin"));
    let admin = format!("unix:{}", socket.display());
    let own = [("admin.listen", admin.as_str()), ("socketio.emitter.enabled", "true")];
    let server = SocketIoGateway::start_on(&redis, &own).await;
    let url = redis.url();
    let settings = [
        ("redis.url", url.as_str()),
        ("prefix", server.gateway.namespace()),
        ("socketio.enabled", "true"),
        ("socketio.namespaces", "/,/chat"),
        ("socketio.redis_manager.channels", &server.channel),
    ];
    let settings = [&settings[..], &own].concat();
    let mut listening = Listening::start(&settings).await;
    let (_one, sid) = server.connect("/").await;
    let (_two, _) = server.connect("/").await;
    let _relay = server.gateway.connect("/ws/room?subscribe-broadcast").await;

    let publish = |channel: &str, payload: &str| {
        redis.publish(channel, payload);
    };
    publish(&server.gateway.channel("broadcast:room"), "secret");
    listening.expect(&["relay ", "audience=broadcast facility=room sockets=1"]).await;
    publish(&server.gateway.channel("user:john:room"), "secret");
    listening.expect(&["audience=user:john facility=room sockets=0 (reached nobody"]).await;
    publish(&server.gateway.channel("session:secretkey:room"), "x");
    listening.expect(&["audience=session:*** facility=room sockets=0"]).await;
    publish(&server.gateway.channel("broadcast:room"), "");
    listening.expect(&["dropped relay ", "it is empty"]).await;

    let python = |message: &str| publish(&server.channel, message);
    python(&emit("news", r#""namespace":"/""#));
    listening.expect(&["redis_manager ", r#"event="news" namespace="/" sockets=2"#]).await;
    python(&emit("news", &format!(r#""room":["none","{sid}"]"#)));
    listening.expect(&[r#"rooms=["none", ""#, "sockets=1"]).await;
    python(&emit("news", r#""room":"none""#));
    listening.expect(&[r#"rooms=["none"] sockets=0 (reached nobody"#]).await;
    python(&emit("news", r#""namespace":"/chat""#));
    let parts =
        [r#"event="news" namespace="/chat""#, "no client of this gateway is connected to namespace /chat"];
    listening.expect(&parts).await;
    python(&emit("disconnect", r#""namespace":"/""#));
    listening.expect(&["dropped ", "the name of the event is reserved by Socket.IO"]).await;
    python(&emit("news", r#""room":[]"#));
    listening.expect(&["dropped redis_manager ", "names no room"]).await;
    python(&emit("news", r#""namespace":"/nope""#));
    listening.expect(&["dropped ", "namespace /nope is not in socketio.namespaces"]).await;
    python("\u{80}");
    listening.expect(&["dropped ", "malformed"]).await;
    redis.publish(&server.channel, b"\x80\x04secret");
    listening.expect(&["dropped ", "pickle is off: set socketio.redis_manager.pickle = true"]).await;
    python(&format!(r#"{{"method":"enter_room","sid":"{sid}","room":"a\nb","namespace":"/"}}"#));
    listening.expect(&[r#"enter_room="a\nb""#, "sockets=1"]).await;
    let node = "0123456789abcdef0123456789abcdef";
    python(&format!(
        r#"{{"method":"callback","host_id":"{node}","sid":"{sid}","namespace":"/","id":7,"args":["secret"]}}"#
    ));
    listening.expect(&[&format!(r#" acknowledgement=7 namespace="/" sid="{sid}" sockets=1"#)]).await;

    publish("socket.io#/#", r#"["u",{"type":2,"data":["news","secret"]},{"except":["a\nb"]}]"#);
    listening.expect(&["emitter ", r#"event="news""#, r#"except=["a\nb"] sockets=1"#]).await;
    publish("socket.io-request#/#", r#"{"type":2,"opts":{},"rooms":["all"]}"#);
    listening.expect(&["emitter ", r#"enter_rooms=["all"]"#, "sockets=2"]).await;
    publish("socket.io#/nope#", r#"["u",{"type":2,"data":["news"],"nsp":"/nope"},{}]"#);
    listening.expect(&["dropped emitter ", "namespace /nope is not in socketio.namespaces"]).await;
    listening.end("INT").await;
}

#[tokio::test]
async fn listening_names_sources_that_are_off_and_counts_nothing_without_the_admin_listener() {
    let redis = RedisServer::start();
    let url = redis.url();
    let mut listening = Listening::start(&[("redis.url", &url)]).await;
    redis.publish("socketio", emit("news", r#""room":null"#));
    listening.expect(&["dropped redis_manager socketio ", "set socketio.enabled = true"]).await;
    redis.publish("broadcast:room", "secret");
    listening.expect(&["relay broadcast:room", "sockets=?"]).await;
    listening.end("TERM").await;
    let mut listening = Listening::start(&[("redis.url", &url), ("socketio.enabled", "true")]).await;
    redis.publish("socket.io#/#", r#"["u",{"type":2,"data":["news"]},{}]"#);
    listening.expect(&["dropped emitter ", "set socketio.emitter.enabled = true"]).await;
    listening.end("INT").await;
    let output = run(&["check", "--listen", "--seconds", "1", "--set", &format!("redis.url={url}")]).await;
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stdout).contains("admin.listen"), "{output:?}");
}

#[tokio::test]
async fn check_names_mounts_and_channels_and_what_redis_refuses() {
    let user = ["--user", "gate", "on", ">p", "~*", "&ws4redis:*", "&socketio", "+@all"];
    let redis = RedisServer::start_with(&user);
    let url = format!("redis.url=redis://gate:p@127.0.0.1:{}", redis.port());
    let output = run(&["check", "--set", &url]).await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("Socket.IO: off") && !said.contains("socketio"), "{said}");
    let sets = ["socketio.enabled=true", "socketio.namespaces=/,/room-*", "socketio.emitter.enabled=true"];
    let sets = sets.iter().flat_map(|set| ["--set", set]);
    let arguments: Vec<_> = ["check", "--set", &url].into_iter().chain(sets).collect();
    let output = run(&arguments).await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("found 1 problem"), "{output:?}");
    for part in [
        "Socket.IO: /socket.io/, Engine.IO 3 and 4, polling and websocket, namespaces / /room-*",
        "channel ws4redis:control, changes that the Django package reports: subscribed",
        "channel socketio, RedisManager of python-socketio in JSON, pickle is off: subscribed",
        "pattern socket.io#/#*, events of emitters and servers of Node: refused (NOPERM",
        "ACL SETUSER … +psubscribe &socket.io#/room-*#*",
        "socketio: Redis refuses 4 of 5 channels and patterns; clients of Socket.IO get 503",
    ] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
}

/// Runs `check` with these settings. Returns its output, and expects this exit code.
#[track_caller]
fn check(code: i32, sets: &[&str]) -> impl Future<Output = String> {
    let place = std::panic::Location::caller();
    let sets = sets.iter().flat_map(|set| ["--set", set]).map(str::to_owned);
    let arguments: Vec<_> = std::iter::once("check".to_owned()).chain(sets).collect();
    async move {
        let output = run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).await;
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert_eq!(output.status.code(), Some(code), "{place}: {said}");
        said
    }
}

/// Starts a Redis with a user `gate` who has these rights, and returns the setting of its URL.
fn redis_with(rights: &str) -> (RedisServer, String) {
    let rights = rights.split(' ').collect::<Vec<_>>();
    let redis = RedisServer::start_with(&[&["--user", "gate", "on", ">p"], &rights[..]].concat());
    let url = format!("redis.url=redis://gate:p@127.0.0.1:{}", redis.port());
    (redis, url)
}

#[track_caller]
fn expect_parts(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "{part} is not in {said}");
    }
}

const BASE: &str = "+get +getrange +pttl +publish +subscribe +unsubscribe +ping +info &ws4redis:*";

#[tokio::test]
async fn check_tries_what_events_need_and_changes_nothing() {
    let stream = "events.to=stream:ws4redis:events";
    let presence = "+zadd +zrem +zremrangebyscore +zcard +zscore +expire +eval ~ws4redis:online*";
    let (redis, url) = redis_with(&format!("{BASE} {presence}"));
    let said = check(1, &[&url, stream]).await;
    expect_parts(
        &said,
        &["events: stream:ws4redis:events, Redis refuses XADD (NOPERM", "Django gets no events"],
    );
    expect_parts(
        &said,
        &["ACL SETUSER … +xadd ~ws4redis:events", "presence: users of the site, Redis permits"],
    );
    drop(redis);
    let (redis, url) = redis_with(&format!("{BASE} {presence} +xadd +rpush +ltrim ~ws4redis:events"));
    let said = check(0, &[&url, stream]).await;
    expect_parts(&said, &["events: stream:ws4redis:events, Redis permits XADD", "without MULTI and EXEC"]);
    let said = check(0, &[&url, "events.to=list:ws4redis:events"]).await;
    expect_parts(&said, &["events: list:ws4redis:events, Redis permits LTRIM; RPUSH was not tested"]);
    let said = check(0, &[&url, "events.to=channel:told"]).await;
    expect_parts(&said, &["events: channel:told, PUBLISH was not tested, because Redis refuses MULTI"]);
    redis.command(&["ACL", "SETUSER", "gate", "+multi", "+exec"]);
    let said = check(0, &[&url, stream]).await;
    assert!(!said.contains("without MULTI"), "{said}");
    let said = check(0, &[&url, "events.to=list:ws4redis:events"]).await;
    expect_parts(&said, &["events: list:ws4redis:events, Redis permits RPUSH and LTRIM"]);
    let said = check(1, &[&url, "events.to=channel:told"]).await;
    expect_parts(
        &said,
        &["events: channel:told, Redis refuses PUBLISH (NOPERM", "ACL SETUSER … +publish &told"],
    );
    redis.command(&["ACL", "SETUSER", "gate", "-rpush"]);
    let said = check(1, &[&url, "events.to=list:ws4redis:events"]).await;
    expect_parts(&said, &["Redis refuses RPUSH (NOPERM", "ACL SETUSER … +rpush ~ws4redis:events"]);
    redis.command(&["SET", "ws4redis:events", "x"]);
    redis.command(&["ACL", "SETUSER", "gate", "+rpush"]);
    let said = check(1, &[&url, "events.to=list:ws4redis:events"]).await;
    expect_parts(
        &said,
        &["events: list:ws4redis:events, Redis refuses LTRIM (WRONGTYPE", "stored under this key"],
    );
    redis.command(&["DEL", "ws4redis:events"]);
    let said = check(0, &[&url, "events.to=list:ws4redis:events"]).await;
    assert_eq!(redis.command(&["DBSIZE"]).integer(), 0, "{said}");
    let said = check(1, &[&url, "socketio.client_events=save", "events.to="]).await;
    expect_parts(&said, &["events: off, and socketio.client_events selects events", "Set events.to"]);
    expect_parts(&check(0, &[&url]).await, &["events: off", "presence: off"]);
}

#[tokio::test]
async fn check_tries_what_presence_needs() {
    let file = std::env::temp_dir().join(unique("ws4redis-settings"));
    std::fs::write(&file, "[[presence]]\nfacility = [\"chat-*\"]\n").unwrap();
    let rights = "+zadd +zrem +zremrangebyscore +zcard +expire ~ws4redis:online*";
    let (redis, url) = redis_with(&format!("{BASE} {rights}"));
    let run_check = async |code: i32| {
        let output = run(&["--settings", file.to_str().unwrap(), "check", "--set", &url]).await;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(code), "{said}");
        said
    };
    let said = run_check(1).await;
    expect_parts(
        &said,
        &["presence: 1 table and users of the site, Redis refuses ZADD, ZREM, ZREMRANGEBYSCORE"],
    );
    expect_parts(&said, &["ACL SETUSER … +zadd +zrem +zremrangebyscore +expire ~ws4redis:presence:chat-*"]);
    redis.command(&["ACL", "SETUSER", "gate", "~ws4redis:presence:chat-*"]);
    let said = run_check(0).await;
    expect_parts(&said, &["presence: 1 table and users of the site, Redis permits", "without EVAL"]);
    redis.command(&["ACL", "SETUSER", "gate", "+eval", "+zscore"]);
    assert!(!run_check(0).await.contains("without EVAL"));
    assert_eq!(redis.command(&["DBSIZE"]).integer(), 0);
    std::fs::remove_file(file).unwrap();
}

#[tokio::test]
async fn check_tries_what_the_bridges_need() {
    let bridges = ["socketio.yunity.enabled=true", "socketio.messenger.enabled=true"];
    let gathers = "socketio.messenger.connections_key=socket_connections";
    let (redis, url) = redis_with(&format!("{BASE} &notifications"));
    let said = check(1, &[&url, bridges[0], bridges[1], gathers]).await;
    assert_eq!(said.matches("channel notifications").count(), 1, "{said}");
    expect_parts(
        &said,
        &[
            "yunity-sockets: Redis refuses GETRANGE, PTTL and GET (NOPERM",
            "ACL SETUSER … +getrange +pttl +get ~session-store-*",
        ],
    );
    expect_parts(
        &said,
        &["messenger: Redis refuses SET, EVAL", "+set +eval +strlen +getrange +setrange ~socket_connections"],
    );
    expect_parts(&said, &["socketio: Redis permits all channels and patterns"]);
    let more = "~session-store-* ~socket_connections +set +eval +strlen +getrange +setrange";
    redis.command(&[&["ACL", "SETUSER", "gate"], &more.split(' ').collect::<Vec<_>>()[..]].concat());
    let said = check(0, &[&url, bridges[0], bridges[1], gathers]).await;
    expect_parts(
        &said,
        &["yunity-sockets: Redis permits GETRANGE, PTTL and GET", "messenger: Redis permits SET"],
    );
    assert_eq!(redis.command(&["DBSIZE"]).integer(), 0);
}

#[tokio::test]
async fn check_says_whether_redis_publishes_keyspace_events() {
    let redis = RedisServer::start();
    let url = format!("redis.url={}", redis.url());
    let flags = |flags: &str| {
        redis.command(&["CONFIG", "SET", "notify-keyspace-events", flags]);
    };
    let yunity = "socketio.yunity.enabled=true";
    let said = check(0, &[&url, yunity, "socketio.yunity.recheck_seconds=7"]).await;
    expect_parts(
        &said,
        &["keyspace events: off; sessions are read again every 30 s, those of yunity-sockets every 7 s"],
    );
    expect_parts(&said, &["set notify-keyspace-events to KA"]);
    let said = check(0, &[&url]).await;
    expect_parts(&said, &["keyspace events: off; sessions are read again every 30 s. ", "to Kgx"]);
    flags("Kgxe");
    expect_parts(&check(0, &[&url]).await, &["keyspace events: on"]);
    let said = check(0, &[&url, yunity]).await;
    expect_parts(
        &said,
        &["keyspace events: on, without those of plain writes; sessions of yunity-sockets are read again"],
    );
    flags("KA");
    let said = check(0, &[&url, yunity]).await;
    assert!(said.contains("keyspace events: on\n"), "{said}");
    let (_redis, url) = redis_with(BASE);
    expect_parts(&check(0, &[&url]).await, &["keyspace events: unknown, because Redis refuses CONFIG GET"]);
    let said = check(0, &[&url, "session.keyspace_events=off"]).await;
    expect_parts(
        &said,
        &["keyspace events: off by session.keyspace_events; sessions are read again every 30 s"],
    );
}

#[tokio::test]
async fn check_of_a_used_address_names_the_possible_owners_and_listening_skips_it() {
    let redis = RedisServer::start();
    let (url, server) =
        (format!("redis.url={}", redis.url()), std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let listen = format!("server.listen={}", server.local_addr().unwrap());
    let said = check(0, &[&url, &listen]).await;
    expect_parts(&said, &["is in use, by ws4redis or another program"]);
    let arguments = ["check", "--listen", "--seconds", "1", "--set", &url, "--set", &listen];
    let output = run(&arguments).await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!said.contains("in use") && said.contains("listen: 127.0.0.1:"), "{said}");
}

#[tokio::test]
async fn listening_without_redis_exits_with_69_and_seconds_need_listen() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("redis.url=redis://{free}");
    let quick = "redis.connect_timeout_seconds=1";
    for (arguments, code) in [
        (&["check", "--listen", "--set", &url, "--set", quick][..], 69),
        (&["check", "--seconds", "1", "--set", &url, "--set", quick], 64),
    ] {
        assert_eq!(run(arguments).await.status.code(), Some(code), "{arguments:?}");
    }
    let redis = RedisServer::start();
    let mut listening = Listening::start(&[("redis.url", &redis.url())]).await;
    redis.kill();
    let status = tokio::time::timeout(DEADLINE, listening.child.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(69), "the connection is lost");
}

/// Returns the exit code and the lines of `ws4redis check` with these arguments.
async fn check_of(arguments: &[&str]) -> (i32, String) {
    let url = format!("redis.url={}", RedisServer::shared().url());
    let output = run(&[&["check", "--set", &url][..], arguments].concat()).await;
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
}

#[tokio::test]
async fn a_cookie_is_tried_under_each_key_and_at_an_address() {
    let (key, prefix) = (session_key(), format!("prefix={}", unique("trial")));
    let cookie = john(&key);
    let rules = std::env::temp_dir().join(unique("ws4redis-rules"));
    let text = "[[access]]\nfacility = [\"chat\"]\nusers = [\"subscribe-user\", \"publish-broadcast\"]\n";
    std::fs::write(&rules, text).unwrap();
    let file = rules.to_str().unwrap();
    let url = "/ws/chat?subscribe-user&publish-broadcast&publish-user";
    let base = ["--settings", file, "--set", &prefix];
    let with = |arguments: &[&'static str]| {
        [&base[..], arguments].concat().iter().map(|word| (*word).to_owned()).collect::<Vec<_>>()
    };
    let check = async |arguments: Vec<String>| {
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        check_of(&arguments).await
    };
    let mut arguments = with(&["--url", url, "--cookie"]);
    arguments.push(cookie.clone());
    let (code, said) = check(arguments).await;
    assert_eq!(code, 0, "{said}");
    assert!(!said.contains(&key), "{said}");
    let channel = |name: &str| format!("{}:{name}", prefix.trim_start_matches("prefix="));
    for part in [
        "cookie: has the form of session.key_pattern",
        "  key :1:django.contrib.sessions.cache{key}: a session, ",
        "  key session:{key}: no such key",
        "visitor: john (key 7), groups staff, red team",
        &format!("facility chat: subscribes to {}\n", channel("user:john:chat")),
        &format!("facility chat: publishes to {}\n", channel("broadcast:chat")),
    ] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    for (arguments, code, part) in [
        (&["--url", "/ws/chat?subscribe-user", "--user", "mary"][..], 0, "user:mary:chat"),
        (
            &["--url", "https://site.example/ws/chat?subscribe-user"],
            0,
            "facility chat: subscribes to nothing",
        ),
        (&["--url", "/ws/other", "--user", "mary"], 1, "facility other: refused with 403"),
        (&["--url", "/elsewhere/chat"], 64, ""),
        (&["--url", "/ws/"], 64, ""),
        (&["--cookie", "0123456789abcdef0123456789abcdef"], 1, "no key of session.keys has a session"),
        (&["--cookie", "short"], 1, "does not have the form"),
    ] {
        let (found, said) = check(with(arguments)).await;
        assert!(found == code && said.contains(part), "{arguments:?}: {found}: {said}");
    }
    std::fs::remove_file(rules).unwrap();
}
