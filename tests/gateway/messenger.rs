//! The bridge for the messenger: its tasks become events, and its clients report themselves.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::support::client::TestClient;
use crate::support::socket_io::{join, open};
use crate::support::{RedisServer, TestGateway, unique};

struct Messenger {
    gateway: TestGateway,
    channel: String,
    key: String,
}

impl Messenger {
    async fn start(settings: &[(&str, &str)]) -> Self {
        let (channel, key) = (unique("notifications"), unique("socket_connections"));
        let mut builder = TestGateway::builder()
            .set("socketio.messenger.enabled", "true")
            .set("socketio.messenger.channel", &channel)
            .set("socketio.messenger.connections_key", &key)
            .variable("RUST_LOG", "ws4redis=debug");
        for (key, value) in settings {
            builder = builder.set(key, value);
        }
        Self { gateway: builder.start().await, channel, key }
    }

    async fn connect(&self) -> (TestClient, String) {
        let (mut client, _) = open(self.gateway.request("/websocket/?EIO=4&transport=websocket")).await;
        let sid = join(&mut client, "/").await;
        (client, sid)
    }

    fn publish(&self, message: &Value) {
        let receivers = RedisServer::shared().publish(&self.channel, message.to_string());
        assert!(receivers > 0, "no subscriber");
    }
}

fn event(name: &str, argument: &Value) -> String {
    format!("42{}", json!([name, argument]))
}

#[tokio::test]
async fn each_task_becomes_its_event() {
    let messenger = Messenger::start(&[]).await;
    let (mut one, first) = messenger.connect().await;
    let (mut two, second) = messenger.connect().await;
    for task in ["user_online", "user_offline", "update_user"] {
        let message = json!({"task": task, "user": {"id": 7}});
        messenger.publish(&message);
        for client in [&mut one, &mut two] {
            client.expect_text(&event("server-action:update_user_online", &message)).await;
        }
    }
    let chat =
        json!({"task": "send_chat_message_to_sids", "sids": [first, first, "gone"], "data": {"room": 1}});
    messenger.publish(&chat);
    let put =
        json!({"task": "put_to_socket", "data": {"socket_id": second, "action": "act", "x": [1, null]}});
    messenger.publish(&put);
    for _ in 0..2 {
        one.expect_text(&event("server-action:chat_message", &json!({"data": chat}))).await;
    }
    two.expect_text(&event("act", &json!({"data": put["data"]}))).await;
    for wrong in [
        json!({"task": "unknown"}),
        json!({"task": 1}),
        json!({"task": "send_chat_message_to_sids", "sids": {"a": 1}}),
        json!({"task": "put_to_socket", "data": {"socket_id": first}}),
        json!({"users": ["a"], "payload": 1}),
        json!([]),
    ] {
        messenger.publish(&wrong);
    }
    messenger.publish(&json!({"task": "update_user"}));
    for client in [&mut one, &mut two] {
        client.expect_text(&event("server-action:update_user_online", &json!({"task": "update_user"}))).await;
        client.expect_nothing().await;
    }
    messenger
        .gateway
        .expect_log(&["DEBUG", "task of the messenger", "send_chat_message_to_sids", "receivers=3"])
        .await;
    messenger.gateway.expect_log(&["WARN", "malformed or too large"]).await;
}

#[tokio::test]
async fn a_site_can_add_tasks_and_both_bridges_can_share_a_path_and_a_channel() {
    let tasks = r#"
[[socketio.messenger.tasks]]
task = "invite"
event = "invited:{kind}"
to = "{rooms}"
data = '{"from": {from.name}, "all": {message}}'

[[socketio.messenger.tasks]]
task = "update_user"
event = "changed"
"#;
    let channel = unique("notifications");
    let gateway = TestGateway::builder()
        .rules(tasks)
        .set("socketio.messenger.enabled", "true")
        .set("socketio.messenger.channel", &channel)
        .set("socketio.messenger.path", "/socket/")
        .set("socketio.yunity.enabled", "true")
        .set("socketio.yunity.channel", &channel)
        .start()
        .await;
    let (mut client, _) = open(gateway.request("/socket/?EIO=4&transport=websocket")).await;
    let sid = join(&mut client, "/").await;
    let message = json!({"task": "invite", "kind": "call", "rooms": sid, "from": {"name": "john"}});
    assert_eq!(RedisServer::shared().publish(&channel, message.to_string()), 1);
    let expected = format!(r#"42["invited:call",{{"from":"john","all":{message}}}]"#);
    client.expect_text(&expected).await;
    let message = json!({"task": "update_user", "users": ["nobody"], "payload": 1});
    RedisServer::shared().publish(&channel, message.to_string());
    client.expect_text(&event("changed", &message)).await;
    client.expect_nothing().await;
}

mod redis_only {
    use super::*;

    #[tokio::test]
    async fn connections_are_gathered_in_a_key() {
        let messenger = Messenger::start(&[]).await;
        let redis = RedisServer::shared();
        let (mut one, first) = messenger.connect().await;
        let (mut two, second) = messenger.connect().await;
        // Nobody asks yet.
        for _ in 0..3 {
            let unasked = json!({"action": "pong", "socket_id": "unasked", "token": "t"});
            one.send_text(&event("ng-action", &unasked)).await;
        }
        one.expect_nothing().await;
        assert_eq!(redis.get(&messenger.key), None);
        // Whatever stood there before is replaced.
        redis.command(&["SET", &messenger.key, "[1]"]);
        messenger.publish(&json!({"task": "gather_active_connections"}));
        for (client, sid) in [(&mut one, &first), (&mut two, &second)] {
            let frame = client.next_message().await;
            assert!(frame.payload.starts_with(br#"42["server-action:ping",{"message":"#), "{frame:?}");
            let answer = json!({"action": "pong", "socket_id": sid, "token": "t"});
            client.send_text(&event("ng-action", &answer)).await;
            client.send_text(&event("ng-action", &json!({"action": "other"}))).await;
            // Only the first report of a client counts.
            client.send_text(&event("ng-action", &answer)).await;
        }
        let expected = [&first, &second].map(|sid| json!({"socket_id": sid, "token": "t"}));
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let list: Vec<Value> = serde_json::from_slice(&redis.get(&messenger.key).unwrap()).unwrap();
            if list.len() == 2 {
                assert!(expected.iter().all(|item| list.contains(item)), "{list:?}");
                break;
            }
            assert!(Instant::now() < deadline, "{list:?}");
            sleep(Duration::from_millis(20)).await;
        }
    }
}
