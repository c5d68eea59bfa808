//! Version 2: who is in a facility, over dialects and gateways.

use serde_json::{Value, json};

use crate::support::live::LiveClient;
use crate::support::sessions::{log_in, session_key};
use crate::support::{RedisServer, TestGateway, unique};

const RULES: &str = "[[presence]]\nfacility = [\"chat-*\"]\nseconds = 3\n\
    [[access]]\nfacility = [\"chat-*\", \"\", \"other\"]\nanonymous = [\"*\"]\nusers = [\"*\", \"presence\"]\n";

async fn start(redis: &RedisServer, namespace: &str) -> TestGateway {
    TestGateway::builder().redis(redis).namespace(namespace).rules(RULES).start().await
}

async fn open(gateway: &TestGateway, redis: &RedisServer, user: &str) -> LiveClient {
    let cookie = log_in(redis, &session_key(), user, user, &[]);
    LiveClient::open(gateway.live_request("/ws/").header("Cookie", &cookie)).await
}

/// Returns the next object about presence that is not about this user.
async fn next_about_others(client: &mut LiveClient, own: &str) -> Value {
    loop {
        let object = client.next().await;
        if object["u"] != own {
            return object;
        }
    }
}

#[tokio::test]
async fn clients_are_told_who_is_here_and_who_comes_and_goes_over_dialects_and_gateways() {
    let redis = RedisServer::start();
    let namespace = unique("presence");
    let (gateway, other) = (start(&redis, &namespace).await, start(&redis, &namespace).await);
    let mut john = open(&gateway, &redis, "john").await;
    let answer = john.subscribe("chat-1", &["subscribe-broadcast", "presence"]).await;
    assert_eq!(answer["ok"], json!(["broadcast", "presence"]));
    let here = john.next().await;
    assert_eq!((&here["t"], &here["f"]), (&json!("here"), &json!("chat-1")), "{here}");
    // Over a plain socket of another gateway.
    let cookie = log_in(&redis, &session_key(), "mary", "mary", &[]);
    let plain = other.request("/ws/chat-1?subscribe-broadcast").header("Cookie", &cookie).connect().await;
    assert_eq!(next_about_others(&mut john, "john").await, json!({"t": "join", "f": "chat-1", "u": "mary"}));
    // A second tab is no news, and an anonymous visitor is a number.
    let mut tab = open(&other, &redis, "mary").await;
    tab.subscribe("chat-1", &["presence"]).await;
    let here = tab.next().await;
    assert_eq!((&here["t"], &here["users"]), (&json!("here"), &json!(["john", "mary"])), "{here}");
    let anonymous = other.connect("/ws/chat-1?subscribe-broadcast").await;
    let here =
        |anonymous| json!({"t": "here", "f": "chat-1", "users": ["john", "mary"], "anonymous": anonymous});
    assert_eq!(next_about_others(&mut john, "john").await, here(1));
    drop(anonymous);
    assert_eq!(next_about_others(&mut john, "john").await, here(0));
    drop(plain);
    tab.send(json!({"t": "unsub", "f": "chat-1", "r": 1})).await;
    assert_eq!(next_about_others(&mut john, "john").await, json!({"t": "leave", "f": "chat-1", "u": "mary"}));
}

#[tokio::test]
async fn visitors_of_a_gateway_that_is_killed_leave_by_themselves() {
    let redis = RedisServer::start();
    let namespace = unique("presence");
    let (gateway, other) = (start(&redis, &namespace).await, start(&redis, &namespace).await);
    let mut john = open(&gateway, &redis, "john").await;
    john.subscribe("chat-1", &["presence"]).await;
    john.next().await;
    let mut mary = open(&other, &redis, "mary").await;
    mary.subscribe("chat-1", &["subscribe-broadcast"]).await;
    assert_eq!(next_about_others(&mut john, "john").await, json!({"t": "join", "f": "chat-1", "u": "mary"}));
    other.signal("KILL");
    assert_eq!(next_about_others(&mut john, "john").await, json!({"t": "leave", "f": "chat-1", "u": "mary"}));
}

#[tokio::test]
async fn presence_needs_a_rule_that_names_it_and_a_facility_that_is_counted() {
    let redis = RedisServer::start();
    let gateway = start(&redis, &unique("presence")).await;
    let flags = ["subscribe-broadcast", "presence"];
    let mut anonymous = gateway.live("/ws/").await;
    assert_eq!(anonymous.subscribe("chat-1", &flags).await["no"], json!(["presence"]));
    anonymous.expect_nothing().await;
    let mut john = open(&gateway, &redis, "john").await;
    assert_eq!(john.subscribe("other", &flags).await["no"], json!(["presence"]));
    john.expect_nothing().await;
    let rules = "[[presence]]\nfacility = [\"*\"]\n";
    let without_access = TestGateway::builder().redis(&redis).rules(rules).start().await;
    let mut john = open(&without_access, &redis, "john").await;
    assert_eq!(john.subscribe("chat-1", &flags).await["no"], json!(["presence"]));
}
