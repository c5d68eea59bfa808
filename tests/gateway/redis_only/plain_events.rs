//! What Django is told about clients of facilities, by the key of `events.to`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::event_log::{EventLog, fixed};
use crate::support::events::SseClient;
use crate::support::redis::RedisReply;
use crate::support::sessions::{connect, john, mary, redis_key, session_key};
use crate::support::{RedisServer, TestGateway, eventually, unique};

const FACILITY: &str = "/ws/x1?subscribe-broadcast&publish-broadcast&publish-user&publish-session";

async fn start(log: &EventLog, settings: &[(&str, &str)]) -> TestGateway {
    let mut builder = TestGateway::builder().set("events.to", &log.setting()).set("events.facility", "x*,y");
    for (key, value) in settings {
        builder = builder.set(key, value);
    }
    builder.start().await
}

#[tokio::test]
async fn a_client_is_announced_with_its_user_and_once_gone() {
    let log = EventLog::new();
    let gateway = start(&log, &[]).await;
    let start = log.expect("node", 1).await;
    assert_eq!(fixed(&start[0]), json!({"type": "node", "state": "start"}));
    let mut client = connect(&gateway, FACILITY, &john(&session_key())).await;
    let connected = log.expect("connect", 1).await;
    let sid = connected[0]["sid"].as_str().unwrap();
    let node = connected[0]["node"].as_str().unwrap();
    let number = sid.strip_prefix(&node[..12]).and_then(|rest| rest.strip_prefix('-')).unwrap();
    assert!(number.parse::<u64>().is_ok(), "{sid}");
    let expected =
        json!({"type": "connect", "dialect": "relay", "facility": "x1", "sid": sid, "user": "john"});
    assert_eq!((fixed(&connected[0]), node), (expected, start[0]["node"].as_str().unwrap()));
    client.send_close(1000, "").await;
    let gone = log.expect("disconnect", 1).await;
    let expected = json!({"type": "disconnect", "dialect": "relay", "facility": "x1", "sid": sid, "user": "john", "reason": "transport close"});
    assert_eq!(fixed(&gone[0]), expected);
    // Another facility is not selected.
    let mut other = gateway.connect("/ws/other?subscribe-broadcast").await;
    other.send_close(1000, "").await;
    other.expect_close(1000).await;
    let last = gateway.connect("/ws/y").await;
    assert_eq!(log.expect("connect", 2).await[1]["user"], Value::Null);
    drop(last);
    assert_eq!(log.expect("disconnect", 2).await[1]["facility"], "y");
}

#[tokio::test]
async fn a_socket_of_version_2_counts_once_for_each_facility() {
    let log = EventLog::new();
    let gateway = start(&log, &[]).await;
    let mut client = gateway.live("/ws/").await;
    for facility in ["x1", "x2", "other"] {
        client.subscribe(facility, &["subscribe-broadcast", "publish-broadcast"]).await;
    }
    client.send(json!({"t": "pub", "f": "x2", "d": "hi", "r": 1})).await;
    client.expect(json!({"t": "ok", "r": 1})).await;
    client.send(json!({"t": "unsub", "f": "x1"})).await;
    let sid = client.hello["c"].clone();
    let connected = log.expect("connect", 2).await;
    for (event, facility) in connected.iter().zip(["x1", "x2"]) {
        let expected =
            json!({"type": "connect", "dialect": "live", "facility": facility, "sid": sid, "user": null});
        assert_eq!(fixed(event), expected);
    }
    let message = log.expect("message", 1).await.remove(0);
    assert_eq!((&message["dialect"], &message["facility"]), (&json!("live"), &json!("x2")), "{message}");
    assert_eq!((&message["data"], &message["audiences"]), (&json!("hi"), &json!(["broadcast"])), "{message}");
    assert_eq!(log.expect("disconnect", 1).await[0]["facility"], "x1");
    drop(client);
    assert_eq!(log.expect("disconnect", 2).await[1]["facility"], "x2");
}

#[tokio::test]
async fn messages_come_with_their_audiences_and_in_order_and_without_session_keys() {
    let log = EventLog::new();
    let gateway = start(&log, &[("heartbeat", "hb")]).await;
    let key = session_key();
    let mut client = connect(&gateway, FACILITY, &john(&key)).await;
    client.send_text("hb").await;
    for number in 0..200 {
        client.send_text(&format!("ż\" {number}")).await;
    }
    client.send_binary(b"\xff\x00").await;
    let messages = log.expect("message", 201).await;
    for (number, message) in messages[..200].iter().enumerate() {
        assert_eq!(message["data"], format!("ż\" {number}"), "{number}");
    }
    let sid = log.expect("connect", 1).await[0]["sid"].clone();
    let expected = json!({
        "type": "message", "dialect": "relay", "facility": "x1", "sid": sid, "user": "john",
        "audiences": ["broadcast", "user:john", "session"], "data": "/wA=", "binary": true
    });
    assert_eq!(fixed(&messages[200]), expected);
    let all = serde_json::to_string(&log.all()).unwrap();
    assert!(!all.contains(&key), "a session key is a credential");
}

#[tokio::test]
async fn streams_and_posts_count_as_clients_of_facilities() {
    let log = EventLog::new();
    let gateway = start(&log, &[]).await;
    let mut stream = SseClient::open(gateway.stream("/ws/x1?subscribe-broadcast")).await;
    log.expect("connect", 1).await;
    let post = gateway.post("/ws/x1?publish-broadcast&publish-user", "posted");
    post.header("Cookie", john(&session_key())).expect_status(204).await;
    let posted = log.expect("message", 1).await;
    let expected = json!({
        "type": "message", "dialect": "relay", "facility": "x1", "user": "john",
        "audiences": ["broadcast", "user:john"], "data": "posted", "binary": false
    });
    assert_eq!(fixed(&posted[0]), expected);
    // Unread data would make a reset of the end.
    stream.expect("posted").await;
    drop(stream);
    assert_eq!(log.expect("disconnect", 1).await[0]["reason"], "transport close");
}

#[tokio::test]
async fn a_changed_user_is_announced_and_the_end_of_a_session_has_its_reason() {
    let redis = RedisServer::with_keyspace_events();
    let log = EventLog::on(redis);
    let gateway = TestGateway::builder()
        .redis(redis)
        .set("events.to", &log.setting())
        .set("events.facility", "x*")
        .start()
        .await;
    let key = session_key();
    let write = |content: &str| {
        redis.command(&["SET", &redis_key(&key), content, "EX", "1000"]);
    };
    let content = |id: u32, name: &str| {
        format!(
            r#"{{"_auth_user_id": "{id}", "_auth_user_hash": "h", "ws4redis:username": "{name}", "ws4redis:memberof": []}}"#
        )
    };
    write(&content(7, "john"));
    let mut client = connect(&gateway, FACILITY, &format!("sessionid={key}")).await;
    log.expect("connect", 1).await;
    write(&content(8, "mary"));
    let changed = log.expect("user", 1).await;
    assert_eq!(changed[0]["user"], "mary");
    redis.command(&["DEL", &redis_key(&key)]);
    client.expect_close(4401).await;
    let gone = log.expect("disconnect", 1).await;
    assert_eq!(gone[0]["reason"], "session ended");
    assert_eq!(log.of("connect").len(), 1);
}

#[tokio::test]
async fn a_list_keeps_the_newest_and_a_channel_gets_each() {
    let key = unique("events");
    let redis = RedisServer::shared();
    let settings = [("events.facility", "x*"), ("events.keep", "5"), ("events.what", "message")];
    let to_list = format!("list:{key}");
    let list = TestGateway::start_with(&[&settings[..], &[("events.to", &to_list)]].concat()).await;
    let mut client = list.connect(FACILITY).await;
    for number in 0..20 {
        client.send_text(&number.to_string()).await;
    }
    let items = eventually("the last message is in the list", || {
        let RedisReply::Array(items) = redis.command(&["LRANGE", &key, "0", "-1"]) else { panic!() };
        let data = |item: RedisReply| {
            serde_json::from_slice::<Value>(&item.bulk().unwrap()).unwrap()["data"].clone()
        };
        let items: Vec<_> = items.into_iter().map(data).collect();
        (items.last() == Some(&json!("19"))).then_some(items)
    })
    .await;
    assert_eq!(items, ["15", "16", "17", "18", "19"]);

    let channel = unique("events");
    let mut subscriber = redis.connection();
    subscriber.command(&["SUBSCRIBE", &channel]);
    let to_channel = format!("channel:{channel}");
    let gateway = TestGateway::start_with(&[&settings[..], &[("events.to", &to_channel)]].concat()).await;
    let mut client = gateway.connect(FACILITY).await;
    client.send_text("hello").await;
    let RedisReply::Array(mut message) = subscriber.reply() else { panic!() };
    let event: Value = serde_json::from_slice(&message.pop().unwrap().bulk().unwrap()).unwrap();
    assert_eq!(event["data"], "hello");
}

#[tokio::test]
async fn a_stream_is_trimmed() {
    let log = EventLog::new();
    let gateway = start(&log, &[("events.keep", "100")]).await;
    let mut client = gateway.connect(FACILITY).await;
    for number in 0..1000 {
        client.send_text(&number.to_string()).await;
    }
    eventually("the last message is in the stream", || {
        log.all().last().is_some_and(|event| event["data"] == "999").then_some(())
    })
    .await;
    let count = log.all().len();
    // MAXLEN ~ removes whole nodes of 100 entries.
    assert!((100..=300).contains(&count), "{count}");
}

#[tokio::test]
async fn without_a_destination_nothing_is_written() {
    let mut monitor = RedisServer::shared().monitor();
    let (builder, channel) = crate::support::socket_io::builder();
    let gateway = builder.set("socketio.client_events", "*").start().await;
    let server = crate::support::socket_io::SocketIoGateway { gateway, channel };
    let mut client = server.gateway.connect(FACILITY).await;
    client.send_text("text").await;
    let (mut socket, _) = server.connect("/").await;
    socket.send_text(r#"42["event"]"#).await;
    socket.send_text("41").await;
    server
        .gateway
        .expect_log(&["event=\"event\"", "goes nowhere, because events.to is empty. Set events.to"])
        .await;
    let written = monitor.commands(server.gateway.namespace());
    assert!(!written.is_empty(), "the monitor works");
    let about_clients = |command: &String| command.contains("connect") || command.contains("XADD");
    assert_eq!(written.iter().filter(|command| about_clients(command)).count(), 0, "{written:?}");
}

#[tokio::test]
async fn every_connect_has_one_disconnect_when_the_process_ends_and_the_node_stops_last() {
    let log = EventLog::new();
    let (builder, channel) = crate::support::socket_io::builder();
    let builder = builder.set("events.to", &log.setting()).set("server.drain_seconds", "2");
    let server = crate::support::socket_io::SocketIoGateway { gateway: builder.start().await, channel };
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(server.gateway.connect(FACILITY).await);
        clients.push(server.connect("/").await.0);
    }
    let stream = SseClient::open(server.gateway.stream("/ws/x1?subscribe-broadcast")).await;
    // It has no poll that waits.
    let polling = server.connect_polling().await;
    let mut gateway = server.gateway;
    gateway.signal("TERM");
    assert!(gateway.expect_exit().await.success());
    let events = log.all();
    assert_eq!(events.first().map(|event| &event["state"]), Some(&json!("start")));
    assert_eq!(events.last().map(|event| &event["state"]), Some(&json!("stop")));
    let sids = |kind: &str| {
        let mut sids: Vec<_> = log.of(kind).iter().map(|event| event["sid"].to_string()).collect();
        sids.sort();
        sids
    };
    let connected = sids("connect");
    assert!(connected.len() >= 22, "{connected:?}");
    assert_eq!(connected, sids("disconnect"));
    let shut_down = log.of("disconnect").iter().filter(|e| e["reason"] == "server shutting down").count();
    assert!(shut_down >= 22, "{:#?}", log.of("disconnect"));
    drop((clients, stream, polling));
}

#[tokio::test]
async fn what_happens_while_redis_is_away_is_told_when_it_is_back() {
    let mut redis = RedisServer::start();
    let log = EventLog::on(&redis);
    let gateway = TestGateway::builder()
        .redis(&redis)
        .set("events.to", &log.setting())
        .set("events.facility", "x*")
        .set("redis.publish_wait_seconds", "60")
        .start()
        .await;
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(gateway.connect("/ws/x1?subscribe-broadcast").await);
    }
    log.expect("connect", 5).await;
    redis.stop();
    for client in &mut clients {
        client.send_close(1000, "").await;
        client.expect_close(1000).await;
    }
    redis.restart();
    let gone = log.expect("disconnect", 5).await;
    assert!(gone.iter().all(|event| event["reason"] == "transport close"), "{gone:?}");
    // The memory of this Redis was empty, so this is all that came later.
    tokio::time::timeout(Duration::from_secs(5), gateway.wait_for_redis()).await.unwrap();
    drop(gateway.connect("/ws/x1").await);
    log.expect("disconnect", 6).await;
}

#[tokio::test]
async fn a_key_of_another_type_is_named_in_the_log_with_the_consequence() {
    let log = EventLog::new();
    RedisServer::shared().command(&["SET", &log.key, "text"]);
    let gateway = start(&log, &[]).await;
    let mut client = connect(&gateway, &format!("{FACILITY}&echo"), &mary(&session_key())).await;
    client.send_text("delivered all the same").await;
    client.expect_text("delivered all the same").await;
    gateway.expect_log(&["WRONGTYPE", "events.to", "Django does not get", "something else is stored"]).await;
}
