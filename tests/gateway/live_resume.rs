//! Resuming with version 2: from where each audience continues, and what proves that nothing is missing.

use serde_json::{Value, json};

use crate::support::events::SseClient;
use crate::support::live::LiveClient;
use crate::support::sessions::{log_in, session_key};
use crate::support::{RedisServer, TestGateway, eventually};

const RULES: &str = "[[history]]\nfacility = [\"short\"]\nseconds = 1\n[[history]]\nfacility = [\"h\"]\n";
const BOTH: &[&str] = &["subscribe-broadcast", "subscribe-user"];

async fn start() -> TestGateway {
    TestGateway::builder().rules(RULES).start().await
}

/// Opens a socket of john.
async fn open(gateway: &TestGateway, cookie: &str) -> LiveClient {
    LiveClient::open(gateway.live_request("/ws/").header("Cookie", cookie)).await
}

fn john() -> String {
    log_in(RedisServer::shared(), &session_key(), "7", "john", &[])
}

/// Adds a message to the stream of a channel, of at most so many.
fn add(gateway: &TestGateway, channel: &str, most: &str, text: &str) {
    let stream = gateway.channel(&format!("ws4redis:history:{channel}"));
    RedisServer::shared().command(&["XADD", &stream, "MAXLEN", "=", most, "*", "d", text]);
}

/// Asks for what follows, and returns the answer.
async fn resume(client: &mut LiveClient, facility: &str, flags: &[&str], since: &Value) -> Value {
    client.send(json!({"t": "sub", "f": facility, "flags": flags, "since": since})).await;
    client.next().await
}

#[tokio::test]
async fn an_audience_of_which_no_message_follows_has_its_position_in_the_answer() {
    let (gateway, cookie) = (start().await, john());
    for text in ["a", "b"] {
        add(&gateway, "broadcast:h", "100", text);
    }
    let mut client = open(&gateway, &cookie).await;
    client.send(json!({"t": "sub", "f": "h", "flags": BOTH, "last": 5})).await;
    let mut since = client.next().await["ids"].clone();
    assert!(since["user"].is_string() && since["broadcast"].is_null(), "{since}");
    assert_eq!(client.next().await["d"], "a");
    since["broadcast"] = client.next().await["id"].clone();
    drop(client);
    add(&gateway, "user:john:h", "100", "while away");
    let mut client = open(&gateway, &cookie).await;
    let answer = resume(&mut client, "h", BOTH, &since).await;
    assert_eq!((&answer["recovered"], &answer["ids"]["user"]), (&json!(true), &Value::Null), "{answer}");
    assert!(answer["ids"]["broadcast"].is_string(), "{answer}");
    let message = client.next().await;
    assert_eq!((&message["a"], &message["d"]), (&json!("user"), &json!("while away")));
    client.expect_nothing().await;
}

#[tokio::test]
async fn an_audience_that_the_client_does_not_name_is_a_gap() {
    let (gateway, cookie) = (start().await, john());
    let mut client = open(&gateway, &cookie).await;
    let ids = client.subscribe("h", BOTH).await["ids"].clone();
    assert!(ids["broadcast"].is_string() && ids["user"].is_string(), "{ids}");
    let answer = resume(&mut client, "h", BOTH, &json!({"broadcast": ids["broadcast"]})).await;
    assert_eq!(answer["recovered"], false, "{answer}");
    client.expect(json!({"t": "gap", "f": "h"})).await;
    // One id cannot be that of two audiences.
    let answer = resume(&mut client, "h", BOTH, &ids["broadcast"]).await;
    assert_eq!(answer["recovered"], false, "{answer}");
    client.expect(json!({"t": "gap", "f": "h"})).await;
    assert_eq!(resume(&mut client, "h", BOTH, &ids).await["recovered"], true);
    client.expect_nothing().await;
}

#[tokio::test]
async fn a_history_that_has_expired_is_no_complete_one() {
    let gateway = start().await;
    let flags = &["subscribe-broadcast"];
    let mut client = gateway.live("/ws/").await;
    let ids = client.subscribe("short", flags).await["ids"].clone();
    assert_eq!(resume(&mut client, "short", flags, &ids).await["recovered"], true);
    client.send(json!({"t": "unsub", "f": "short", "r": 1})).await;
    client.expect(json!({"t": "ok", "r": 1})).await;
    gateway.post("/ws/short?publish-broadcast", "lost").expect_status(204).await;
    let stream = gateway.channel("ws4redis:history:broadcast:short");
    let is_there = || RedisServer::shared().command(&["EXISTS", &stream]).integer() == 1;
    eventually("the expiry", || (!is_there()).then_some(())).await;
    let answer = resume(&mut client, "short", flags, &ids).await;
    assert_eq!(answer["recovered"], false, "{answer}");
    client.expect(json!({"t": "gap", "f": "short"})).await;
}

#[tokio::test]
async fn a_history_that_its_publisher_keeps_shorter_than_the_rule_says_is_no_complete_one() {
    let gateway = start().await;
    let flags = &["subscribe-broadcast"];
    let mut client = gateway.live("/ws/").await;
    let ids = client.subscribe("h", flags).await["ids"].clone();
    for text in ["a", "b", "c"] {
        add(&gateway, "broadcast:h", "3", text);
    }
    assert_eq!(resume(&mut client, "h", flags, &ids).await["recovered"], true);
    for text in ["a", "b", "c"] {
        assert_eq!(client.next().await["d"], text);
    }
    add(&gateway, "broadcast:h", "3", "d");
    let answer = resume(&mut client, "h", flags, &ids).await;
    assert_eq!(answer["recovered"], false, "{answer}");
    client.expect(json!({"t": "gap", "f": "h"})).await;
}

#[tokio::test]
async fn a_value_that_its_publisher_has_not_put_into_the_history_is_replayed() {
    let gateway = start().await;
    let key = gateway.channel("broadcast:h");
    let flags = &["subscribe-broadcast"];
    let value = json!({"t": "msg", "f": "h", "a": "broadcast", "d": "value", "last": true});
    let mut client = gateway.live("/ws/").await;
    gateway.post("/ws/h?publish-broadcast", "kept").expect_status(204).await;
    client.send(json!({"t": "sub", "f": "h", "flags": flags, "last": 5})).await;
    client.next().await;
    // The value is among the messages.
    let since = json!({"broadcast": client.next().await["id"]});
    client.expect_nothing().await;
    assert_eq!(resume(&mut client, "h", flags, &since).await["recovered"], true);
    client.expect_nothing().await;
    RedisServer::shared().persist(&key, "value");
    assert_eq!(resume(&mut client, "h", flags, &since).await["recovered"], true);
    client.expect(value.clone()).await;
    client.send(json!({"t": "sub", "f": "h", "flags": flags, "last": 5})).await;
    client.next().await;
    client.expect(value).await;
    assert_eq!(client.next().await["d"], "kept");
    client.expect_nothing().await;
}

#[tokio::test]
async fn an_event_source_that_got_no_message_resumes_by_the_id_of_its_first_event() {
    let (gateway, cookie) = (start().await, john());
    for (flags, is_one) in [("subscribe-broadcast", true), ("subscribe-broadcast&subscribe-user", false)] {
        let request = gateway.stream(&format!("/ws/h?v=2&{flags}")).header("Cookie", &cookie);
        let mut stream = SseClient::open(request).await;
        stream.next().await;
        let event = stream.client.read_until("\n\n").await.unwrap();
        let event = String::from_utf8(event).unwrap();
        let id =
            event.lines().find_map(|line| line.strip_prefix("id: ")).unwrap_or_else(|| panic!("{event}"));
        assert_eq!(id.starts_with('{'), !is_one, "{id}");
        let text = format!("behind {id}");
        gateway.post("/ws/h?publish-broadcast", &text).expect_status(204).await;
        let request = gateway.stream(&format!("/ws/h?v=2&{flags}")).header("Cookie", &cookie);
        let mut stream = SseClient::open(request.with("Last-Event-ID", id)).await;
        let mut next = async || serde_json::from_str::<Value>(&stream.next().await.1).unwrap();
        next().await;
        assert_eq!(next().await["recovered"], true);
        assert_eq!(next().await["d"], text);
    }
}
