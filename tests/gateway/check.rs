//! `ws4redis check`: mounts and channels, and with `--listen` what passes through Redis.

use std::process::{Output, Stdio};

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::support::gateway::binary;
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
    assert_eq!(output.status.code(), Some(0), "{said}");
    for part in [
        "Socket.IO: /socket.io/, Engine.IO 3 and 4, polling and websocket, namespaces / /room-*",
        "channel ws4redis:control, changes that the Django package reports: subscribed",
        "channel socketio, RedisManager of python-socketio in JSON, pickle is off: subscribed",
        "pattern socket.io#/#*, events of emitters and servers of Node: refused (NOPERM",
        "ACL SETUSER … &socket.io#/room-*#*",
    ] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
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
