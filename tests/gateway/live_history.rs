//! Version 2 in facilities that keep a history: ids, resuming, and publishers that only publish.

use serde_json::{Value, json};

use crate::support::TestGateway;
use crate::support::events::SseClient;
use crate::support::live::LiveClient;

const RULES: &str = "[[history]]\nfacility = [\"h-*\"]\nmessages = 1000\n";
const FLAGS: &[&str] = &["subscribe-broadcast"];

async fn start() -> TestGateway {
    TestGateway::builder().rules(RULES).start().await
}

/// Publishes texts as a client does, with the script.
async fn post(gateway: &TestGateway, facility: &str, texts: &[&str]) {
    for text in texts {
        gateway.post(&format!("/ws/{facility}?publish-broadcast"), text).expect_status(204).await;
    }
}

/// Expects messages with ids, and returns these.
async fn ids(client: &mut LiveClient, texts: &[&str]) -> Vec<Value> {
    let mut ids = Vec::new();
    for text in texts {
        let message = client.next().await;
        assert_eq!((&message["t"], &message["d"]), (&json!("msg"), &json!(text)), "{message}");
        assert!(message["id"].is_string() && message["last"].is_null(), "{message}");
        ids.push(message["id"].clone());
    }
    ids
}

#[tokio::test]
async fn a_message_of_a_history_arrives_once_with_its_id_and_one_that_is_only_published_without() {
    let gateway = start().await;
    let mut plain = gateway.connect("/ws/h-1?subscribe-broadcast").await;
    let mut client = gateway.live("/ws/h-1?subscribe-broadcast").await;
    client.next().await;
    post(&gateway, "h-1", &["one"]).await;
    gateway.publish("broadcast:h-1", "two");
    gateway.publish("broadcast:h-1", "one");
    post(&gateway, "h-1", &["one", "three"]).await;
    let first = ids(&mut client, &["one"]).await;
    for text in ["two", "one"] {
        client.expect(json!({"t": "msg", "f": "h-1", "a": "broadcast", "d": text})).await;
    }
    let last = ids(&mut client, &["one", "three"]).await;
    assert!(first[0].as_str() < last[0].as_str() && last[0].as_str() < last[1].as_str());
    client.expect_nothing().await;
    for text in ["one", "two", "one", "one", "three"] {
        plain.expect_text(text).await;
    }
    plain.expect_nothing().await;
}

#[tokio::test]
async fn a_client_resumes_behind_the_entry_that_it_names() {
    let gateway = start().await;
    let mut client = gateway.live("/ws/h-1?subscribe-broadcast").await;
    client.next().await;
    post(&gateway, "h-1", &["a", "b", "c"]).await;
    let known = ids(&mut client, &["a", "b", "c"]).await;
    for since in [known[0].clone(), json!({"broadcast": known[0]})] {
        client.send(json!({"t": "sub", "f": "h-1", "flags": FLAGS, "since": since})).await;
        let answer = client.next().await;
        assert_eq!(answer["recovered"], true, "{answer}");
        assert_eq!(ids(&mut client, &["b", "c"]).await, known[1..]);
        client.expect_nothing().await;
    }
    let answer = client.subscribe("h-1", FLAGS).await;
    assert_eq!(answer["ids"], json!({"broadcast": known[2]}));
    assert_eq!(client.next().await["last"], true);
    let empty = client.subscribe("h-2", FLAGS).await["ids"].clone();
    client.send(json!({"t": "sub", "f": "h-2", "flags": FLAGS, "since": empty})).await;
    assert_eq!(client.next().await["recovered"], true);
    // A stream that is not there proves nothing about a client that does not say when it was there.
    client.send(json!({"t": "sub", "f": "h-2", "flags": FLAGS, "since": {"broadcast": "0-0"}})).await;
    assert_eq!(client.next().await["recovered"], false);
    client.expect(json!({"t": "gap", "f": "h-2"})).await;
    client.send(json!({"t": "sub", "f": "h-1", "flags": FLAGS, "last": 2})).await;
    assert!(client.next().await["recovered"].is_null());
    assert_eq!(ids(&mut client, &["b", "c"]).await, known[1..]);
    post(&gateway, "h-1", &["d"]).await;
    ids(&mut client, &["d"]).await;
    let target = format!("/ws/h-1?subscribe-broadcast&since={}", known[1].as_str().unwrap());
    let mut other = gateway.live(&target).await;
    assert_eq!(other.next().await["recovered"], true);
    ids(&mut other, &["c", "d"]).await;
    other.expect_nothing().await;
}

#[tokio::test]
async fn without_the_entry_in_the_history_the_client_is_told_of_a_gap() {
    let gateway = start().await;
    post(&gateway, "h-1", &["a"]).await;
    let mut client = gateway.live("/ws/").await;
    client.send(json!({"t": "sub", "f": "h-1", "flags": FLAGS, "since": "1-1"})).await;
    assert_eq!(client.next().await["recovered"], false);
    // In its place: a client that is cut off behind messages continues there.
    client.expect(json!({"t": "gap", "f": "h-1"})).await;
    ids(&mut client, &["a"]).await;
    client.send(json!({"t": "sub", "f": "none", "flags": FLAGS, "since": "1-1"})).await;
    assert_eq!(client.next().await["recovered"], false);
    client.expect(json!({"t": "gap", "f": "none"})).await;
    client.expect_nothing().await;
    gateway.live_request("/ws/h-1?subscribe-broadcast&since=x").expect_status(400).await;
}

#[tokio::test]
async fn own_messages_of_a_history_come_back_only_with_echo() {
    let gateway = start().await;
    let mut client = gateway.live("/ws/h-1?subscribe-broadcast&publish-broadcast").await;
    client.next().await;
    client.send(json!({"t": "pub", "f": "h-1", "d": "mine", "r": 1})).await;
    client.expect(json!({"t": "ok", "r": 1})).await;
    post(&gateway, "h-1", &["mine"]).await;
    ids(&mut client, &["mine"]).await;
    client.expect_nothing().await;
}

#[tokio::test]
async fn an_event_source_resumes_by_the_last_event_id() {
    let gateway = start().await;
    let mut client = gateway.live("/ws/h-1?subscribe-broadcast").await;
    client.next().await;
    post(&gateway, "h-1", &["a", "b"]).await;
    let known = ids(&mut client, &["a", "b"]).await;
    let request = gateway.stream("/ws/h-1?v=2&subscribe-broadcast");
    let mut stream = SseClient::open(request.with("Last-Event-ID", known[0].as_str().unwrap())).await;
    let mut next = async || serde_json::from_str::<Value>(&stream.next().await.1).unwrap();
    assert_eq!(next().await["t"], "hello");
    assert_eq!(next().await["recovered"], true);
    assert_eq!(next().await["id"], known[1]);
}

#[tokio::test]
async fn a_client_that_resumes_during_a_flood_gets_each_message_once_and_in_order() {
    let gateway = start().await;
    let mut first = gateway.live("/ws/h-1?subscribe-broadcast").await;
    first.next().await;
    post(&gateway, "h-1", &["start"]).await;
    let start = ids(&mut first, &["start"]).await.remove(0);
    let mut publisher = gateway.live("/ws/").await;
    publisher.subscribe("h-1", &["publish-broadcast"]).await;
    let mut readers = Vec::new();
    for number in 0..200 {
        publisher.send(json!({"t": "pub", "f": "h-1", "d": number.to_string()})).await;
        if number % 40 == 0 {
            let mut reader = gateway.live("/ws/").await;
            reader.send(json!({"t": "sub", "f": "h-1", "flags": FLAGS, "since": start})).await;
            readers.push(reader);
        }
    }
    for reader in &mut readers {
        assert_eq!(reader.next().await["recovered"], true);
        for number in 0..200 {
            assert_eq!(reader.next().await["d"], number.to_string());
        }
        reader.expect_nothing().await;
    }
}
