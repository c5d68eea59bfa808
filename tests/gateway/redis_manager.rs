//! Messages of python-socketio's `RedisManager`: what clients get of them.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

use crate::support::RedisServer;
use crate::support::client::TestClient;
use crate::support::redis::RedisReply;
use crate::support::socket_io::{SocketIoGateway, join};

/// Replaces placeholders by `{"$bytes": base64}`, as the records have it.
fn fill(value: &mut Value, attachments: &[Vec<u8>]) {
    if value["_placeholder"] == true {
        let number = usize::try_from(value["num"].as_u64().unwrap()).unwrap();
        *value = serde_json::json!({"$bytes": BASE64_STANDARD.encode(&attachments[number])});
        return;
    }
    match value {
        Value::Array(values) => values.iter_mut().for_each(|value| fill(value, attachments)),
        Value::Object(values) => values.values_mut().for_each(|value| fill(value, attachments)),
        _ => {}
    }
}

/// Reads an event: its namespace, its array with attachments filled in, and whether it has to be acknowledged.
async fn next_event(client: &mut TestClient) -> (String, Value, bool) {
    let frame = client.next_message().await;
    let packet = String::from_utf8(frame.payload).unwrap();
    let start = packet.find('[').unwrap();
    let (head, json) = packet.split_at(start);
    let mut event: Value = serde_json::from_str(json).unwrap();
    let (count, namespace) = match head.strip_prefix("45") {
        Some(rest) => rest.split_once('-').map(|(count, rest)| (count.parse().unwrap(), rest)).unwrap(),
        None => (0, head.strip_prefix("42").unwrap()),
    };
    // Django asks for an acknowledgement of some.
    let unasked = namespace.trim_end_matches(|c: char| c.is_ascii_digit());
    let (namespace, is_asked) = (unasked, unasked != namespace);
    let mut attachments = Vec::new();
    for _ in 0..count {
        let frame = client.next_message().await;
        assert_eq!(frame.opcode, 2, "{packet}");
        attachments.push(frame.payload);
    }
    fill(&mut event, &attachments);
    let namespace = if namespace.is_empty() { "/" } else { namespace.trim_end_matches(',') };
    (namespace.to_owned(), event, is_asked)
}

/// Publishes all records of a release, and compares what two clients get: one that is in all rooms, and one that is in none.
async fn check_records(text: &str) {
    let server = SocketIoGateway::start_with(&[("socketio.redis_manager.pickle", "true")]).await;
    let mut inside = server.open().await;
    let sids = [join(&mut inside, "/").await, join(&mut inside, "/chat").await];
    let mut outside = server.open().await;
    join(&mut outside, "/").await;
    join(&mut outside, "/chat").await;
    let records: Vec<Value> = serde_json::from_str(text).unwrap();
    assert!(records.len() > 50);
    for room in ["user:42", "room-a", "room-b", "42", "abcDEF123_sid-AA"] {
        server.call("enter_room", "/", &sids[0], room);
        server.call("enter_room", "/chat", &sids[1], room);
    }
    let mut events = 0;
    for record in &records {
        let expected = &record["client_gets"];
        let ends = record["name"] == "close_room";
        if ends || record["name"] == "emit_custom_channel" {
            continue;
        }
        for published in record["published"].as_array().unwrap() {
            let payload = BASE64_STANDARD.decode(published["payload_base64"].as_str().unwrap()).unwrap();
            server.publish(payload);
        }
        if expected.is_null() || record["published"].as_array().unwrap().is_empty() {
            continue;
        }
        events += 1;
        let mut array = vec![expected["event"].clone()];
        array.extend(expected["args"].as_array().unwrap().iter().cloned());
        let expected_event = (
            expected["namespace"].as_str().unwrap().to_owned(),
            Value::Array(array),
            record["name"] == "emit_callback_from_server",
        );
        assert_eq!(next_event(&mut inside).await, expected_event, "{}", record["call"]);
        if expected["rooms"].is_null() {
            assert_eq!(next_event(&mut outside).await, expected_event, "{}", record["call"]);
        }
    }
    assert!(events > 25, "{events}");
    server.emit("/", "null", "0");
    for client in [&mut inside, &mut outside] {
        assert_eq!(next_event(client).await.1, serde_json::json!(["e", 0]));
    }
}

#[tokio::test]
async fn clients_get_what_python_socketio_4_6_1_emits() {
    check_records(include_str!("../fixtures/socketio/python-socketio-4.6.1.json")).await;
}

#[tokio::test]
async fn clients_get_what_python_socketio_5_13_0_emits() {
    check_records(include_str!("../fixtures/socketio/python-socketio-5.13.0.json")).await;
}

#[tokio::test]
async fn clients_get_what_python_socketio_5_14_1_emits() {
    check_records(include_str!("../fixtures/socketio/python-socketio-5.14.1.json")).await;
}

#[tokio::test]
async fn clients_get_what_python_socketio_5_15_0_emits() {
    check_records(include_str!("../fixtures/socketio/python-socketio-5.15.0.json")).await;
}

#[tokio::test]
async fn clients_get_what_python_socketio_5_18_1_emits() {
    check_records(include_str!("../fixtures/socketio/python-socketio-5.18.1.json")).await;
}

#[tokio::test]
async fn a_publisher_of_generation_3_is_recognised_and_the_setting_ends_doubt() {
    let emit = |host: &str, data: &str| {
        format!(
            r#"{{"method":"emit","event":"e","data":{data},"binary":false,"namespace":"/","room":null,"skip_sid":null,"callback":null,"host_id":"{host}"}}"#
        )
    };
    let server = SocketIoGateway::start().await;
    let (mut client, _) = server.connect("/").await;
    for (host, data, expected) in [
        ("a", "[1,2]", r#"42["e",1,2]"#),
        ("a", "7", r#"42["e",7]"#),
        ("a", "[1,2]", r#"42["e",[1,2]]"#),
        ("a", "[null]", r#"42["e",[null]]"#),
        ("b", "[null]", r#"42["e"]"#),
        ("b", "[]", r#"42["e"]"#),
        ("b", "[1, {\"x\": NaN}]", r#"42["e",1,{"x":null}]"#),
        ("c", "null", r#"42["e"]"#),
        ("c", "[]", r#"42["e",[]]"#),
    ] {
        server.publish(emit(host, data));
        client.expect_text(expected).await;
    }
    let server = SocketIoGateway::start_with(&[("socketio.redis_manager.list_argument", "g3")]).await;
    let (mut client, _) = server.connect("/").await;
    server.publish(emit("b", "[1,2]"));
    client.expect_text(r#"42["e",[1,2]]"#).await;
}

#[tokio::test]
async fn numbers_that_json_does_not_have_are_null_and_counted() {
    let server = SocketIoGateway::start().await;
    let (mut client, _) = server.connect("/").await;
    server.emit("/", "null", "[NaN, Infinity, 1.5]");
    client.expect_text(r#"42["e",[null,null,1.5]]"#).await;
    server.gateway.signal("TERM");
    server.gateway.expect_log(&["counts:", "replaced_numbers=2"]).await;
}

#[tokio::test]
async fn a_union_of_rooms_reaches_each_client_once_without_the_skipped_ones() {
    let server = SocketIoGateway::start().await;
    let (mut both, both_sid) = server.connect("/").await;
    let (mut one, one_sid) = server.connect("/").await;
    let (mut old, old_sid) = server.connect_v3().await;
    for (sid, room) in [(&both_sid, "a"), (&both_sid, "b"), (&one_sid, "b"), (&old_sid, "42")] {
        server.call("enter_room", "/", sid, room);
    }
    server.emit("/", &format!(r#"["a", "b", "none", 42, "{one_sid}", "{both_sid}"]"#), "1");
    for client in [&mut both, &mut one, &mut old] {
        client.expect_text(r#"42["e",1]"#).await;
    }
    let skip = |room: &str, skip: &str| {
        server.publish(format!(
            r#"{{"method":"emit","event":"e","data":[2],"binary":false,"namespace":"/","room":{room},"skip_sid":{skip}}}"#
        ));
    };
    skip("null", &format!(r#"["{one_sid}", "{old_sid}"]"#));
    skip(r#""b""#, &format!("{both_sid:?}"));
    both.expect_text(r#"42["e",2]"#).await;
    one.expect_text(r#"42["e",2]"#).await;
    // An empty name and an empty list are nobody, and an unknown room is empty.
    for room in [r#""""#, "[]", r#""none""#, r#"["none"]"#] {
        server.emit("/", room, "3");
    }
    server.call("leave_room", "/", &both_sid, "a");
    server.call("close_room", "/", "", "b");
    // Its own room cannot be closed or left.
    server.call("close_room", "/", "", &both_sid);
    server.call("leave_room", "/", &both_sid, &both_sid);
    for room in [r#""a""#, r#""b""#] {
        server.emit("/", room, "4");
    }
    server.emit("/", &format!("{both_sid:?}"), "5");
    both.expect_text(r#"42["e",5]"#).await;
    server.emit("/", "null", "6");
    for client in [&mut both, &mut one, &mut old] {
        client.expect_text(r#"42["e",6]"#).await;
    }
}

#[tokio::test]
async fn a_room_that_is_entered_and_the_next_message_keep_their_order_on_each_shard() {
    let server = SocketIoGateway::start_with(&[("server.shards", "4")]).await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(server.connect("/").await);
    }
    for round in 0..50 {
        let room = format!("room-{round}");
        let enter = |(_, sid): &(_, String)| {
            format!(r#"{{"method":"enter_room","sid":"{sid}","room":"{room}","namespace":"/"}}"#)
        };
        let mut messages: Vec<String> = clients.iter().map(enter).collect();
        for number in 0..3 {
            messages.push(format!(
                r#"{{"method":"emit","event":"e","data":[{round},{number}],"binary":false,"namespace":"/","room":"{room}"}}"#
            ));
        }
        messages.push(format!(r#"{{"method":"close_room","room":"{room}","namespace":"/"}}"#));
        RedisServer::shared().publish_pipelined(&server.channel, messages);
        for (client, _) in &mut clients {
            for number in 0..3 {
                client.expect_text(&format!(r#"42["e",{round},{number}]"#)).await;
            }
        }
    }
}

#[tokio::test]
async fn a_client_that_django_disconnects_gets_a_packet_and_then_the_end() {
    let server = SocketIoGateway::start().await;
    let (mut client, sid) = server.connect("/").await;
    let chat = join(&mut client, "/chat").await;
    server.call("disconnect", "/", &sid, "");
    client.expect_text("41").await;
    server.emit("/chat", "null", "1");
    client.expect_text(r#"42/chat,["e",1]"#).await;
    server.call("disconnect", "/chat", &chat, "");
    client.expect_text("41/chat,").await;
    client.expect_close(1000).await;
    let (mut old, old_sid) = server.connect_v3().await;
    server.call("disconnect", "/", &old_sid, "");
    old.expect_text("41").await;
    old.expect_close(1000).await;
}

#[tokio::test]
async fn an_acknowledgement_goes_back_to_the_publisher_that_asked_for_it() {
    // Each shard counts the ids of its own questions.
    let settings = [("socketio.ack_seconds", "1"), ("server.shards", "1")];
    let server = SocketIoGateway::start_with(&settings).await;
    let (mut client, sid) = server.connect("/").await;
    let (mut old, old_sid) = server.connect_v3().await;
    let mut subscriber = RedisServer::shared().connection();
    subscriber.command(&["SUBSCRIBE", &server.channel]);
    let mut next = || match subscriber.reply() {
        RedisReply::Array(mut items) => String::from_utf8(items.pop().unwrap().bulk().unwrap()).unwrap(),
        other => panic!("{other:?}"),
    };
    let ask = |room: &str, number: u32| {
        let message = format!(
            r#"{{"method":"emit","event":"q","data":[1],"binary":false,"namespace":"/","room":"{room}","skip_sid":null,"callback":["{room}","/",{number}],"host_id":"host"}}"#
        );
        server.publish(&message);
        message
    };
    for (target, client, id) in [(&sid, &mut client, 1), (&old_sid, &mut old, 2)] {
        let question = ask(target, 7);
        client.expect_text(&format!(r#"42{id}["q",1]"#)).await;
        for packet in ["439[0]", &format!(r#"43{id}["a",{{"b":null}}]"#), &format!("43{id}[2]")] {
            client.send_text(packet).await;
        }
        let expected = format!(
            r#"{{"method":"callback","host_id":"host","sid":"{target}","namespace":"/","id":7,"args":["a",{{"b":null}}]}}"#
        );
        assert_eq!([next(), next()], [question, expected]);
    }
    // One that comes too late is not published, and would be in front of the next one.
    let questions = [ask(&sid, 8)];
    client.expect_text(r#"423["q",1]"#).await;
    tokio::time::sleep(std::time::Duration::from_millis(1_300)).await;
    let questions = [&questions[..], &[ask(&sid, 9)]].concat();
    client.expect_text(r#"424["q",1]"#).await;
    client.send_text("433[1]").await;
    client.send_text("434[2]").await;
    assert_eq!([next(), next()], *questions);
    assert!(next().ends_with(r#""id":9,"args":[2]}"#));
}

#[tokio::test]
async fn a_question_in_pickle_is_answered_in_pickle() {
    let server = SocketIoGateway::start_with(&[("socketio.redis_manager.pickle", "true")]).await;
    let (mut client, sid) = server.connect("/").await;
    let mut subscriber = RedisServer::shared().connection();
    subscriber.command(&["SUBSCRIBE", &server.channel]);
    let mut next = || match subscriber.reply() {
        RedisReply::Array(mut items) => items.pop().unwrap().bulk().unwrap(),
        other => panic!("{other:?}"),
    };
    let text =
        |text: &str| [b"X", &u32::try_from(text.len()).unwrap().to_le_bytes()[..], text.as_bytes()].concat();
    let message = |head: &[u8], pairs: &[(&str, Vec<u8>)]| {
        let pairs = pairs.iter().flat_map(|(key, value)| [text(key), value.clone()].concat());
        [head, b"}(", &pairs.collect::<Vec<u8>>(), b"u."].concat()
    };
    let callback = [b"(", &text(&sid)[..], &text("/"), b"K\x07t"].concat();
    let question = message(
        b"\x80\x02",
        &[
            ("method", text("emit")),
            ("event", text("q")),
            ("data", b"N".to_vec()),
            ("namespace", text("/")),
            ("room", text(&sid)),
            ("skip_sid", b"N".to_vec()),
            ("callback", callback),
            ("host_id", text("host")),
        ],
    );
    server.publish(&question);
    assert_eq!(next(), question);
    client.expect_text(r#"421["q"]"#).await;
    client.send_text(r#"461-1[{"_placeholder":true,"num":0},true]"#).await;
    client.send_binary(b"\xff").await;
    let answer = message(
        b"\x80\x03",
        &[
            ("method", text("callback")),
            ("host_id", text("host")),
            ("sid", text(&sid)),
            ("namespace", text("/")),
            ("id", b"L7L\n".to_vec()),
            ("args", b"](B\x01\0\0\0\xff\x88e".to_vec()),
        ],
    );
    assert_eq!(next(), answer);
}

#[tokio::test]
async fn lone_surrogates_of_a_pickled_text_arrive_as_escapes() {
    let server = SocketIoGateway::start_with(&[("socketio.redis_manager.pickle", "true")]).await;
    let (mut client, _) = server.connect("/").await;
    server.publish(
        b"\x80\x04}(\x8c\x06method\x8c\x04emit\x8c\x05event\x8c\x01e\x8c\x04data\x8c\x05a\xed\xa0\xbdbu.",
    );
    client.expect_text(r#"42["e","a\ud83db"]"#).await;
    server.publish(
        b"\x80\x04}(\x8c\x06method\x8c\x04emit\x8c\x05event\x8c\x01e\x8c\x04data}\x8c\x05a\xed\xa0\xbdbK\x01su.",
    );
    client.expect_text(r#"42["e",{"a\ud83db":1}]"#).await;
}

#[tokio::test]
async fn unreadable_messages_reach_nobody_and_are_logged_without_their_content() {
    let settings = [("socketio.max_attachments", "20"), ("socketio.redis_manager.pickle", "true")];
    let server = SocketIoGateway::start_with(&settings).await;
    let (mut client, _) = server.connect("/").await;
    let attachments = [r#""AA==""#; 11].join(",");
    for message in [
        "secret",
        r#"["secret"]"#,
        r#"{"method":"secret"}"#,
        r#"{"event":"secret"}"#,
        r#"{"method":"emit","event":"e","data":[secret],"binary":false}"#,
        r#"{"method":"emit","event":7,"data":["secret"],"binary":false}"#,
        r#"{"method":"emit","event":"e","data":["secret"],"binary":false,"namespace":"/\u0000"}"#,
        r#"{"method":"emit","event":"e","data":[["secret"],"!"],"binary":true}"#,
        r#"{"method":"emit","event":"e","data":[[{"_placeholder":true,"num":1}],"AA=="],"binary":true}"#,
        r#"{"method":"emit","event":"e","data":"secret","binary":true}"#,
        r#"{"method":"emit","event":"e","data":["secret"],"binary":false,"room":{}}"#,
        r#"{"method":"emit","event":"e","data":["secret"],"binary":false,"room":[1.5]}"#,
        r#"{"method":"enter_room","sid":"secret"}"#,
        // Clients take the session for broken, and drop their connection.
        r#"{"method":"emit","event":"disconnect","data":["secret"],"binary":false}"#,
        r#"{"method":"emit","event":"disconn\u0065ct","data":["secret"],"binary":false}"#,
        &format!(r#"{{"method":"emit","event":"e","data":[["secret"],{attachments}],"binary":true}}"#),
    ] {
        server.publish(message);
    }
    server.publish(b"\x80\x04secret");
    server.publish(b"\x80\x04}(\x8c\x06method\x8c\x04emit\x8c\x05event\x8c\x0adisconnectu.");
    server.publish(r#"{"method":"callback","host_id":"x","sid":"s","namespace":"/","id":1,"args":[]}"#);
    server.emit("/", "null", "1");
    client.expect_text(r#"42["e",1]"#).await;
    server.gateway.expect_log(&["message on a Socket.IO channel is malformed"]).await;
    assert_eq!(server.gateway.count_log(&["secret"]), 0);
}
