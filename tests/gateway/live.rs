//! Version 2: negotiation, subscriptions and messages of several facilities on one socket.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::support::client::{TEXT, frame};
use crate::support::live::{LiveClient, SUBPROTOCOL};
use crate::support::sessions::{log_in, session_key};
use crate::support::{DEADLINE, RedisServer, TestGateway};

const BROADCAST: &[&str] = &["subscribe-broadcast"];

#[tokio::test]
async fn version_2_is_chosen_wherever_it_is_offered_and_other_sockets_stay_plain() {
    let gateway = TestGateway::start().await;
    for offered in ["ws4redis.2", "bearer.x, ws4redis.2", "other, ws4redis.2", "ws4redis.2, bearer.x"] {
        let request = gateway.request("/ws/x").with("Sec-WebSocket-Protocol", offered);
        let (response, _) = request.send().await;
        assert_eq!((response.status, response.header("sec-websocket-protocol")), (101, Some(SUBPROTOCOL)));
    }
    let request = gateway.request("/ws/x?subscribe-broadcast");
    let mut plain = request.with("Sec-WebSocket-Protocol", "ws4redis.1").connect().await;
    gateway.publish("broadcast:x", "hello");
    plain.expect_text("hello").await;
}

#[tokio::test]
async fn a_socket_without_a_facility_greets_and_subscribes_by_messages() {
    let gateway = TestGateway::start().await;
    let mut client = gateway.live("/ws/").await;
    let hello = client.hello.clone();
    assert!(hello["c"].as_str().is_some_and(|id| id.len() > 12), "{hello}");
    assert_eq!((&hello["user"], &hello["v"]), (&json!(null), &json!(2)));
    client.expect_nothing().await;
    for facility in ["a", "b"] {
        let answer = client.subscribe(facility, BROADCAST).await;
        assert_eq!(answer, json!({"t": "sub", "f": facility, "ok": ["broadcast"], "no": []}));
    }
    gateway.publish("broadcast:a", "one \"quoted\"\n");
    client.expect(json!({"t": "msg", "f": "a", "a": "broadcast", "d": "one \"quoted\"\n"})).await;
    gateway.publish("broadcast:b", b"\xff\x00");
    client.expect(json!({"t": "msg", "f": "b", "a": "broadcast", "b": "/wA="})).await;
    client.send(json!({"t": "unsub", "f": "a", "r": 1})).await;
    client.expect(json!({"t": "ok", "r": 1})).await;
    gateway.publish("broadcast:a", "two");
    client.expect_nothing().await;
    client.send(json!({"t": "unsub", "f": "a", "r": 2})).await;
    client
        .expect(json!({"t": "err", "r": 2, "f": "a", "code": 404, "why": "not subscribed to this facility"}))
        .await;
}

#[tokio::test]
async fn the_facility_of_the_address_is_the_first_subscription_and_its_last_value_is_marked() {
    let gateway = TestGateway::start().await;
    let key = gateway.channel("broadcast:x");
    RedisServer::shared().persist(&key, "kept");
    let mut client = gateway.live("/ws/x?subscribe-broadcast&subscribe-user&publish-broadcast").await;
    client
        .expect(json!({"t": "sub", "f": "x", "ok": ["broadcast", "publish-broadcast"], "no": ["user"]}))
        .await;
    client.expect(json!({"t": "msg", "f": "x", "a": "broadcast", "d": "kept", "last": true})).await;
    gateway.publish("broadcast:x", "live");
    client.expect(json!({"t": "msg", "f": "x", "a": "broadcast", "d": "live"})).await;
    client.subscribe("x", BROADCAST).await;
    client.expect(json!({"t": "msg", "f": "x", "a": "broadcast", "d": "kept", "last": true})).await;
    client.expect_nothing().await;
}

#[tokio::test]
async fn audiences_are_named_and_equal_messages_of_two_facilities_stay_apart() {
    let gateway = TestGateway::start().await;
    let key = session_key();
    let cookie = log_in(RedisServer::shared(), &key, "7", "john", &["staff", "a:b"]);
    let mut client = LiveClient::open(gateway.live_request("/ws/").header("Cookie", &cookie)).await;
    assert_eq!(client.hello["user"], "john");
    let flags = ["subscribe-broadcast", "subscribe-group", "subscribe-user", "subscribe-session"];
    let answer = client.subscribe("x", &flags).await;
    assert_eq!(answer["ok"], json!(["broadcast", "group", "user", "session"]), "{answer}");
    for (channel, audience) in [
        ("broadcast:x".to_owned(), "broadcast"),
        ("group:staff:x".to_owned(), "group:staff"),
        ("group:a:b:x".to_owned(), "group:a:b"),
        ("user:john:x".to_owned(), "user"),
        (format!("session:{key}:x"), "session"),
    ] {
        gateway.publish(&channel, "hi");
        client.expect(json!({"t": "msg", "f": "x", "a": audience, "d": "hi"})).await;
    }
}

#[tokio::test]
async fn the_number_of_facilities_is_bounded_and_a_repeated_one_replaces_the_first() {
    let gateway = TestGateway::start_with(&[("messages.max_facilities", "2")]).await;
    let mut client = gateway.live("/ws/a?subscribe-broadcast").await;
    client.next().await;
    client.subscribe("b", BROADCAST).await;
    assert_eq!(client.subscribe("b", &["subscribe-user"]).await["no"], json!(["user"]));
    assert_eq!(client.subscribe("c", BROADCAST).await["code"], 409);
    gateway.publish("broadcast:b", "not subscribed any more");
    client.expect_nothing().await;
    client.send(json!({"t": "unsub", "f": "a"})).await;
    assert_eq!(client.subscribe("c", BROADCAST).await["t"], "sub");
}

#[tokio::test]
async fn each_request_with_a_number_is_answered_even_if_a_later_one_replaces_it() {
    let gateway = TestGateway::start().await;
    let mut client = gateway.live("/ws/").await;
    for (number, kind) in (1..).zip(["sub", "sub", "unsub", "sub"]) {
        client.send(json!({"t": kind, "f": "a", "flags": BROADCAST, "r": number})).await;
    }
    let mut answers = Vec::new();
    for _ in 0..4 {
        let answer = client.next().await;
        answers.push((answer["r"].as_i64(), answer["code"].as_i64()));
    }
    answers.sort_unstable();
    let numbers: Vec<_> = answers.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, [Some(1), Some(2), Some(3), Some(4)]);
    assert_eq!((answers[2].1, answers[3].1), (None, None), "{answers:?}");
    assert!(answers.iter().all(|(_, code)| matches!(code, None | Some(409))), "{answers:?}");
}

#[tokio::test]
async fn requests_in_a_loop_are_refused_and_the_socket_stays_open() {
    let gateway = TestGateway::start_with(&[("messages.max_facilities", "2")]).await;
    let mut client = gateway.live("/ws/").await;
    let mut codes = Vec::new();
    for _ in 0..300 {
        client.send(json!({"t": "auth", "token": "x"})).await;
    }
    for _ in 0..300 {
        codes.push(client.next().await["code"].clone());
    }
    assert!(
        codes[..40].iter().all(|code| *code == 401),
        "a page that opens all its facilities is not refused"
    );
    assert!(codes.contains(&json!(429)), "300 requests at once");
    client.send(json!({"t": "pub", "f": "a", "d": "x", "r": 7})).await;
    assert_eq!(client.next().await["code"], 404, "publications have limits of their own");
    let deadline = Instant::now() + DEADLINE;
    while client.subscribe("a", BROADCAST).await["t"] != "sub" {
        assert!(Instant::now() < deadline, "it may subscribe again later");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn access_rules_decide_about_each_subscription() {
    let rules = "[[access]]\nfacility = [\"\", \"open-*\"]\nanonymous = [\"subscribe-broadcast\"]\n";
    let gateway = TestGateway::builder().rules(rules).start().await;
    let mut client = gateway.live("/ws/").await;
    let flags = ["subscribe-broadcast", "publish-broadcast"];
    let answer = client.subscribe("open-1", &flags).await;
    assert_eq!((&answer["ok"], &answer["no"]), (&json!(["broadcast"]), &json!(["publish-broadcast"])));
    client.send(json!({"t": "sub", "f": "closed", "flags": flags, "r": 9})).await;
    let why = "the site's access rules do not allow this";
    client.expect(json!({"t": "err", "r": 9, "f": "closed", "code": 403, "why": why})).await;
    gateway.live_request("/ws/closed?subscribe-broadcast").expect_status(403).await;
}

#[tokio::test]
async fn what_cannot_be_understood_is_answered_and_broken_json_closes_with_1007() {
    let gateway = TestGateway::start().await;
    let mut client = gateway.live("/ws/").await;
    for (text, number) in [(r#"{"t":"dance","r":4}"#, json!(4)), ("[]", json!(null)), ("7", json!(null))] {
        client.client.send_text(text).await;
        let answer = client.next().await;
        assert_eq!((&answer["t"], &answer["code"], &answer["r"]), (&json!("err"), &json!(400), &number));
    }
    client.client.send_binary(b"{}").await;
    assert_eq!(client.next().await["code"], 400);
    client.send(json!({"t": "hb"})).await;
    client.expect(json!({"t": "hb"})).await;
    client.client.send_text("{\"t\":").await;
    assert_eq!(client.client.expect_close(1007).await, "message is not valid JSON");
}

#[tokio::test]
async fn heartbeats_of_the_gateway_are_objects() {
    let gateway = TestGateway::start_with(&[("heartbeat", "--heartbeat--")]).await;
    let mut client = gateway.live("/ws/x?publish-broadcast").await;
    client.next().await;
    client.expect(json!({"t": "hb"})).await;
    client.send(json!({"t": "pub", "f": "x", "d": "--heartbeat--", "r": 1})).await;
    let mut answer = client.next().await;
    while answer["t"] == "hb" {
        answer = client.next().await;
    }
    assert_eq!((&answer["code"], &answer["r"]), (&json!(400), &json!(1)));
}

#[tokio::test]
async fn a_client_that_loses_messages_because_it_reads_too_slowly_is_told_of_a_gap() {
    let settings = [
        ("messages.when_slow", "drop-oldest"),
        ("messages.outbox_bytes", "65536"),
        ("messages.outbox_seconds", "0"),
        ("server.send_buffer_bytes", "4096"),
    ];
    let gateway = TestGateway::start_with(&settings).await;
    let request = gateway.live_request("/ws/x?subscribe-broadcast").receive_buffer(4096);
    let mut client = LiveClient::open(request).await;
    client.next().await;
    let channel = gateway.channel("broadcast:x");
    let text = |number: usize| format!("{number} {}", "x".repeat(20_000));
    RedisServer::shared().publish_pipelined(&channel, (0..300).map(text));
    // Messages by number, and gaps.
    let mut received = Vec::new();
    let number_of = |object: &Value| {
        let text = object["d"].as_str()?;
        text.split(' ').next()?.parse::<usize>().ok()
    };
    // The outbox is not empty: more arrives than is read.
    let mut published = 300;
    while !received.contains(&None) {
        assert!(published < 500, "no gap was sent while messages waited");
        RedisServer::shared().publish_pipelined(&channel, (published..published + 2).map(text));
        published += 2;
        received.push(number_of(&client.next().await));
    }
    client.send(json!({"t": "hb"})).await;
    let mut object = client.next().await;
    while object["t"] != "hb" {
        received.push(number_of(&object));
        object = client.next().await;
    }
    gateway.publish("broadcast:x", format!("{published} end"));
    // Each hole has a gap behind it: at the latest when the outbox is empty.
    let owes_gap = |received: &[Option<usize>]| {
        let (mut next, mut is_owed, mut is_behind_gap) = (0, false, false);
        for number in received {
            is_owed = number.is_some_and(|number| is_owed || (number != next && !is_behind_gap));
            is_behind_gap = number.is_none();
            next = number.map_or(next, |number| number + 1);
        }
        is_owed
    };
    // The end is lost as well where it arrives in one run with messages before it: a gap says so, and another follows.
    while !received.contains(&Some(published)) || owes_gap(&received) {
        if received.last() == Some(&None) {
            published += 1;
            gateway.publish("broadcast:x", format!("{published} end"));
        }
        received.push(number_of(&client.next().await));
    }
}

#[tokio::test]
async fn last_values_of_many_facilities_do_not_make_a_client_slow() {
    let settings = [
        ("messages.outbox_bytes", "65536"),
        ("messages.outbox_seconds", "0"),
        ("server.send_buffer_bytes", "4096"),
    ];
    let gateway = TestGateway::start_with(&settings).await;
    let mut client = LiveClient::open(gateway.live_request("/ws/").receive_buffer(4096)).await;
    let value = "x".repeat(30_000);
    for number in 0..20 {
        RedisServer::shared().persist(&gateway.channel(&format!("broadcast:{number}")), &value);
    }
    for number in 0..20 {
        client.send(json!({"t": "sub", "f": number.to_string(), "flags": BROADCAST})).await;
    }
    let mut values = 0;
    while values < 20 {
        let object = client.next().await;
        if object["t"] == "msg" {
            assert_eq!((&object["last"], &object["d"]), (&json!(true), &json!(value)));
            values += 1;
        }
    }
}

#[tokio::test]
async fn answers_that_a_client_does_not_read_take_little_memory() {
    let settings = [("server.shards", "1"), ("server.send_buffer_bytes", "4096")];
    let gateway = TestGateway::start_with(&settings).await;
    let requests = frame(0x80 | TEXT, b"7").repeat(9_000);
    let (mut before, mut clients) = (0, Vec::new());
    for number in 0..31 {
        let mut client = LiveClient::open(gateway.live_request("/ws/").receive_buffer(4096)).await;
        client.client.send_raw(&requests).await;
        assert_eq!(client.next().await["code"], 400);
        // The first one takes what the gateway keeps.
        if number == 0 {
            before = gateway.resident_bytes();
        }
        clients.push(client);
    }
    let taken = gateway.resident_bytes().saturating_sub(before);
    assert!(taken < 30 * 700_000, "{taken} bytes for 30 clients");
    let mut client = clients.swap_remove(7);
    for _ in 1..9_000 {
        assert_eq!(client.next().await["code"], 400);
    }
    client.expect_nothing().await;
}
