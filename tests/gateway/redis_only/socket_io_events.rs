//! What Django is told about Socket.IO clients and by them, and its acknowledgements.

use serde_json::{Value, json};

use crate::support::event_log::{EventLog, fixed};
use crate::support::sessions::{john, session_key};
use crate::support::socket_io::{SocketIoGateway, V4, builder, join, open, text};
use crate::support::tokens::{key_file, path, token};
use crate::support::{RedisServer, eventually};

async fn start(log: &EventLog, settings: &[(&str, &str)]) -> SocketIoGateway {
    let to = log.setting();
    let common = [("events.to", to.as_str()), ("events.facility", ""), ("socketio.events_per_second", "0")];
    SocketIoGateway::start_with(&[&common[..], settings].concat()).await
}

#[tokio::test]
async fn connect_and_disconnect_have_the_reasons_of_the_official_server() {
    let log = EventLog::new();
    let server =
        start(&log, &[("socketio.ping_interval_ms", "300"), ("socketio.ping_timeout_ms", "300")]).await;
    let mut reasons = Vec::new();
    let mut next = async |reason: &'static str| {
        reasons.push(reason);
        let gone = log.expect("disconnect", reasons.len()).await;
        assert_eq!(gone.last().unwrap()["reason"], reason, "{gone:#?}");
        gone.last().unwrap().clone()
    };
    let (mut client, sid) = server.connect("/chat").await;
    let connected = log.expect("connect", 1).await;
    let expected =
        json!({"type": "connect", "dialect": "socket_io", "namespace": "/chat", "sid": sid, "user": null});
    assert_eq!(fixed(&connected[0]), expected);
    client.send_text("41/chat,").await;
    assert_eq!(next("client namespace disconnect").await["sid"], sid.as_str());
    let (client, sid) = server.connect("/").await;
    server.call("disconnect", "/", &sid, "");
    next("server namespace disconnect").await;
    drop(client);
    let (mut client, _) = server.connect("/").await;
    client.send_close(1000, "").await;
    next("transport close").await;
    let (client, _) = server.connect("/").await;
    drop(client);
    next("transport close").await;
    let (mut client, _) = server.connect("/").await;
    client.send_text("48").await;
    next("parse error").await;
    let (_silent, _) = server.connect("/").await;
    next("ping timeout").await;
    let _silent = server.connect_polling().await;
    next("ping timeout").await;
    let (polling, _) = server.connect_polling().await;
    polling.post("1").expect_status(200).await;
    next("transport close").await;
    let (polling, _) = server.connect_polling().await;
    polling.post("41").expect_status(200).await;
    next("client namespace disconnect").await;
    assert_eq!(log.of("connect").len(), reasons.len());
}

#[tokio::test]
async fn auth_fields_are_told_and_a_token_only_by_its_name() {
    let log = EventLog::new();
    let key = path(&key_file("HS256"));
    for (fields, expected) in [
        ("page", json!({"page": {"a": 1}})),
        ("*", json!({"page": {"a": 1}, "x": null})),
        ("*,token", json!({"page": {"a": 1}, "x": null, "token": "secret"})),
    ] {
        let log = EventLog::new();
        let server = start(&log, &[("socketio.auth_fields", fields)]).await;
        let mut client = server.open().await;
        client.send_text(r#"40{"token":"secret", "page": {"a": 1}, "x":null}"#).await;
        text(&mut client).await;
        assert_eq!(log.expect("connect", 1).await[0]["auth"], expected, "{fields}");
        join(&mut client, "/chat").await;
        assert_eq!(log.expect("connect", 2).await[1]["auth"], json!({}), "none was sent");
        let (mut old, _) = server.connect_v3().await;
        old.send_text("40/chat?page=a%20b&access_token=secret&other=1").await;
        let connects = log.expect("connect", 4).await;
        let expected =
            if fields == "page" { json!({"page": "a b"}) } else { json!({"page": "a b", "other": "1"}) };
        assert_eq!((&connects[2]["auth"], &connects[3]["auth"]), (&json!({}), &expected));
    }
    // With a verified token the user is known.
    let server = start(
        &log,
        &[
            ("auth.jwt.algorithm", "HS256"),
            ("auth.jwt.key_file", key.to_str().unwrap()),
            ("socketio.client_events", "*"),
        ],
    )
    .await;
    let mut client = server.open().await;
    client.send_text(&format!(r#"40{{"token":"{}"}}"#, token("HS256", r#"{"sub":"john"}"#))).await;
    text(&mut client).await;
    let connected = log.expect("connect", 1).await;
    assert_eq!((&connected[0]["user"], connected[0].get("auth")), (&json!("john"), None));
    client.send_text(r#"42["hi"]"#).await;
    assert_eq!(log.expect("event", 1).await[0]["user"], "john");
}

#[tokio::test]
async fn selected_events_come_in_order_with_their_arguments_and_attachments() {
    let log = EventLog::new();
    let server = start(
        &log,
        &[("socketio.client_events", "number,/chat save_*,ch at"), ("socketio.event_bytes_per_second", "0")],
    )
    .await;
    let (mut client, sid) = server.connect("/").await;
    for number in 0..300 {
        client.send_text(&format!(r#"42["number",{number}]"#)).await;
    }
    client.send_text(r#"42["ignored",1]"#).await;
    client.send_text(r#"42["save_x"]"#).await;
    client
        .send_text(r#"452-7["number", {"a" : {"_placeholder":true,"num":1}},{"_placeholder":true,"num":0}]"#)
        .await;
    client.send_binary(b"\x01\x02").await;
    client.send_binary(b"").await;
    client.send_text(r#"429007199254740992["ch at","ż"]"#).await;
    let chat = join(&mut client, "/chat").await;
    client.send_text(r#"42/chat,["save_x",[1],null]"#).await;
    let events = log.expect("event", 303).await;
    for (number, event) in events[..300].iter().enumerate() {
        assert_eq!(event["args"], json!([number]), "{number}");
    }
    let expected = json!({
        "type": "event", "dialect": "socket_io", "namespace": "/", "sid": sid, "user": null, "event": "number",
        "args": [[{"a": {"_placeholder": true, "num": 1}}, {"_placeholder": true, "num": 0}], "AQI=", ""],
        "binary": true, "id": 7
    });
    assert_eq!(fixed(&events[300]), expected);
    assert_eq!(events[301]["id"], json!(9_007_199_254_740_992_u64));
    let expected = json!({
        "type": "event", "dialect": "socket_io", "namespace": "/chat", "sid": chat, "user": null,
        "event": "save_x", "args": [[1], null], "binary": false, "id": null
    });
    assert_eq!(fixed(&events[302]), expected);
    server
        .gateway
        .expect_log(&[
            "not selected",
            "event=\"ignored\" namespace=\"/\"",
            "Select it by socketio.client_events",
        ])
        .await;
    assert_eq!(server.gateway.count_log(&["not selected"]), 1);
    assert_eq!(server.gateway.count_log(&["set events.to"]), 0, "it is set");
}

/// Publishes what python-socketio publishes as the answer to a question of another server.
#[track_caller]
fn acknowledge(server: &SocketIoGateway, event: &Value, arguments: &str) {
    let (node, sid) = (event["node"].as_str().unwrap(), event["sid"].as_str().unwrap());
    let (namespace, id) = (event["namespace"].as_str().unwrap(), &event["id"]);
    server.publish(format!(
        r#"{{"method": "callback", "host_id": "{node}", "sid": "{sid}", "namespace": "{namespace}", "id": {id}, {arguments}}}"#
    ));
}

#[tokio::test]
async fn django_acknowledges_an_event_once_and_with_attachments() {
    let log = EventLog::new();
    let server = start(&log, &[("socketio.client_events", "*")]).await;
    let (mut client, _) = server.connect("/").await;
    join(&mut client, "/chat").await;
    client.send_text(r#"420["a"]"#).await;
    client.send_text(r#"42/chat,0["b"]"#).await;
    client.send_text(r#"42["c"]"#).await;
    let events = log.expect("event", 3).await;
    let foreign = json!({"node": "0".repeat(32), "sid": events[0]["sid"], "namespace": "/", "id": 0});
    acknowledge(&server, &foreign, r#""args": ["another process's"]"#);
    acknowledge(&server, &events[1], r#""args": [1, {"x": "ż"}]"#);
    client.expect_text(r#"43/chat,0[1,{"x":"ż"}]"#).await;
    acknowledge(&server, &events[1], r#""args": ["twice"]"#);
    let placeholder = r#"{"_placeholder": true, "num": 0}"#;
    acknowledge(&server, &events[0], &format!(r#""args": [[7, {placeholder}], "/wA="], "binary": true"#));
    client.expect_text(r#"461-0[7,{"_placeholder":true,"num":0}]"#).await;
    client.expect_binary(b"\xff\x00").await;
    let unasked = json!({"node": events[2]["node"], "sid": events[2]["sid"], "namespace": "/", "id": 9});
    acknowledge(&server, &unasked, r#""args": []"#);
    client.send_text(r#"421["d"]"#).await;
    let events = log.expect("event", 4).await;
    acknowledge(&server, &events[3], r#""args": [], "binary": false"#);
    client.expect_text("431[]").await;
    // Over polling and in protocol 3, too.
    let (polling, _) = server.connect_polling().await;
    polling.post(r#"4212["p"]"#).expect_status(200).await;
    acknowledge(&server, &log.expect("event", 5).await[4], r#""args": ["done"]"#);
    assert_eq!(polling.poll().await, r#"4312["done"]"#);
    let (mut old, _) = server.connect_v3().await;
    old.send_text(r#"420["old"]"#).await;
    acknowledge(&server, &log.expect("event", 6).await[5], r#""args": ["done"]"#);
    old.expect_text(r#"430["done"]"#).await;
}

#[tokio::test]
async fn a_client_that_sends_too_many_events_or_bytes_is_closed() {
    let log = EventLog::new();
    let limits = [("socketio.events_per_second", "5"), ("socketio.event_bytes_per_second", "1000")];
    let server = start(&log, &[&[("socketio.client_events", "a")][..], &limits].concat()).await;
    let (mut client, _) = server.connect("/").await;
    // Events that are not selected count, too.
    for name in ["a", "b", "a", "b", "a", "b", "a", "b"] {
        client.send_text(&format!(r#"42["{name}"]"#)).await;
    }
    client.expect_close(1008).await;
    assert_eq!(log.expect("event", 3).await.len(), 3);
    let (mut client, _) = server.connect("/").await;
    client.send_text(&format!(r#"42["a","{}"]"#, "x".repeat(1000))).await;
    client.expect_close(1008).await;
    let gone = log.expect("disconnect", 2).await;
    assert!(gone.iter().all(|event| event["reason"] == "forced server close"), "{gone:?}");
}

#[tokio::test]
async fn a_client_that_joins_too_often_is_closed_and_its_pairs_are_complete() {
    let log = EventLog::new();
    let server = start(&log, &[]).await;
    let mut client = server.open().await;
    for _ in 0..40 {
        client.send_text("40").await;
        client.send_text("41").await;
    }
    let code = loop {
        let frame = client.next_message().await;
        if frame.opcode == 8 {
            break u16::from_be_bytes([frame.payload[0], frame.payload[1]]);
        }
    };
    assert_eq!(code, 1008);
    let connects = log.expect("connect", 16).await.len();
    assert!((16..20).contains(&connects), "{connects}");
    assert_eq!(log.expect("disconnect", connects).await.len(), connects);
    // A page that joins all its namespaces at once is no flood.
    let mut page = server.open().await;
    for number in 0..16 {
        join(&mut page, &format!("/room-{number}")).await;
    }
}

#[tokio::test]
async fn auth_fields_above_four_kib_are_left_out() {
    let log = EventLog::new();
    let server = start(&log, &[("socketio.auth_fields", "*")]).await;
    let mut client = server.open().await;
    let large = "x".repeat(5_000);
    client.send_text(&format!(r#"40{{"a":1,"large":"{large}","b":2}}"#)).await;
    text(&mut client).await;
    assert_eq!(log.expect("connect", 1).await[0]["auth"], json!({"a": 1, "b": 2}));
}

#[tokio::test]
async fn an_event_that_redis_does_not_take_in_time_ends_its_session() {
    let mut redis = RedisServer::start();
    let log = EventLog::on(&redis);
    let (builder, channel) = builder();
    let gateway = builder
        .redis(&redis)
        .set("events.to", &log.setting())
        .set("events.facility", "")
        .set("socketio.client_events", "*")
        .set("redis.publish_wait_seconds", "1")
        .start()
        .await;
    let server = SocketIoGateway { gateway, channel };
    let (mut client, sid) = server.connect("/").await;
    let (mut quiet, _) = server.connect("/").await;
    log.expect("connect", 2).await;
    redis.stop();
    server.gateway.expect_log(&["WARN"]).await;
    client.send_text(r#"42["lost"]"#).await;
    client.expect_close(1013).await;
    redis.restart();
    let gone = log.expect("disconnect", 1).await;
    assert_eq!((&gone[0]["sid"], log.of("event").len()), (&json!(sid), 0));
    quiet.send_text(r#"42["heard"]"#).await;
    assert_eq!(log.expect("event", 1).await[0]["event"], "heard");
}

#[tokio::test]
async fn a_login_by_an_event_is_believed_only_where_the_site_says_so() {
    for trusts in [false, true] {
        let log = EventLog::new();
        let settings = [
            ("socketio.login.event", "login"),
            ("socketio.login.trust_client", if trusts { "true" } else { "false" }),
            ("socketio.user_room", "ws4redis:user:{user}"),
            ("socketio.client_events", "test"),
        ];
        let server = start(&log, &settings).await;
        let is_warned = server.gateway.count_log(&["socketio.login.trust_client"]) == 1;
        assert_eq!(is_warned, trusts, "{:#?}", server.gateway.log());
        let (mut client, _) = server.connect("/").await;
        client.send_text(r#"42["login",{"login":"mary"}]"#).await;
        client.send_text(r#"42["test"]"#).await;
        let event = log.expect("event", 1).await;
        assert_eq!(event[0]["user"], if trusts { json!("mary") } else { Value::Null });
        let users: Vec<_> = log.of("user").iter().map(|event| event["user"].clone()).collect();
        assert_eq!(users, if trusts { vec![json!("mary")] } else { Vec::new() });
        server.emit("/", r#""ws4redis:user:mary""#, "1");
        server.emit("/", "null", "2");
        for number in if trusts { &[1, 2][..] } else { &[2] } {
            client.expect_text(&format!(r#"42["e",{number}]"#)).await;
        }
        client.send_close(1000, "").await;
        assert_eq!(log.expect("disconnect", 1).await[0]["user"], event[0]["user"]);
        // With a session the event only says when.
        let request = server.gateway.request(V4).header("Cookie", john(&session_key()));
        let (mut known, _) = open(request).await;
        join(&mut known, "/").await;
        known.send_text(r#"42["login",{"login":7}]"#).await;
        let count = if trusts { 2 } else { 1 };
        let user = log.expect("user", count).await.pop().unwrap();
        assert_eq!(user["user"], if trusts { "7" } else { "john" });
        // The event itself is not selected, and is no reason for a hint either.
        assert_eq!(server.gateway.count_log(&["not selected"]), 0);
    }
}

#[tokio::test]
async fn events_of_many_clients_on_all_shards_arrive_completely() {
    let log = EventLog::new();
    let server = start(&log, &[("socketio.client_events", "*"), ("events.what", "")]).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(server.connect("/").await.0);
    }
    for round in 0..20 {
        for client in &mut clients {
            client.send_text(&format!(r#"42["n",{round}]"#)).await;
        }
    }
    let events = eventually("all events", || {
        let events = log.all();
        (events.len() == 400).then_some(events)
    })
    .await;
    let mut rounds = std::collections::HashMap::<String, Vec<u64>>::new();
    for event in events {
        assert_eq!(event["type"], "event");
        rounds.entry(event["sid"].to_string()).or_default().push(event["args"][0].as_u64().unwrap());
    }
    assert_eq!(rounds.len(), 20);
    assert!(rounds.values().all(|rounds| *rounds == (0..20).collect::<Vec<_>>()), "{rounds:?}");
}

#[tokio::test]
async fn clients_of_protocol_3_can_have_one_id_for_both_sides() {
    let log = EventLog::new();
    let server = start(&log, &[("socketio.eio3_ids", "same")]).await;
    let (mut old, secret) = server.connect_v3().await;
    old.send_text("40/chat").await;
    old.expect_text("40/chat,").await;
    let (_client, public) = server.connect("/").await;
    // The shards of both clients write in any order.
    let mut told: Vec<_> = log.expect("connect", 3).await.iter().map(|event| event["sid"].clone()).collect();
    told.retain(|sid| *sid != public);
    assert_eq!(told, [secret.clone(), format!("/chat#{secret}")]);
    for (namespace, sid) in [("/", &told[0]), ("/chat", &told[1])] {
        server.emit(namespace, &sid.to_string(), "1");
    }
    old.expect_text("42[\"e\",1]").await;
    old.expect_text("42/chat,[\"e\",1]").await;
}
