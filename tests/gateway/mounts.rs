//! Several paths of Socket.IO clients in one gateway.

use crate::support::RedisServer;
use crate::support::client::TestClient;
use crate::support::socket_io::{V4, builder, join, open};

const SOCKET: &str = "/socket/?EIO=4&transport=websocket";
const MESSENGER: &str = "/websocket?EIO=4&transport=websocket";

/// Publishes an event for a room, or for everybody if it is null.
fn emit(channel: &str, room: &str, argument: u32) {
    let message = format!(
        r#"{{"method": "emit", "event": "e", "data": [{argument}], "binary": false, "room": {room}}}"#
    );
    assert!(RedisServer::shared().publish(channel, message) > 0, "no subscriber");
}

fn call(channel: &str, method: &str, sid: &str, room: &str) {
    let message = format!(r#"{{"method": "{method}", "sid": "{sid}", "room": "{room}", "namespace": "/"}}"#);
    assert!(RedisServer::shared().publish(channel, message) > 0, "no subscriber");
}

#[tokio::test]
async fn mounts_share_neither_rooms_nor_ids() {
    let (builder, channel) = builder();
    let builder = builder.set("socketio.yunity.enabled", "true").set("socketio.messenger.enabled", "true");
    let gateway = builder.set("socketio.messenger.redis_manager", "true").start().await;
    let connect = async |target: &str| -> (TestClient, String, String) {
        let (mut client, open) = open(gateway.request(target)).await;
        let sid = join(&mut client, "/").await;
        (client, sid, open["sid"].as_str().unwrap().to_owned())
    };
    let (mut main, main_sid, _) = connect(V4).await;
    let (mut socket, socket_sid, _) = connect(SOCKET).await;
    let (mut messenger, messenger_sid, _) = connect(MESSENGER).await;
    emit(&channel, "null", 1);
    main.expect_text(r#"42["e",1]"#).await;
    messenger.expect_text(r#"42["e",1]"#).await;
    // A client that RedisManager does not reach can neither be addressed nor moved nor disconnected.
    for method in ["enter_room", "disconnect"] {
        call(&channel, method, &socket_sid, "a");
    }
    call(&channel, "enter_room", &messenger_sid, "a");
    emit(&channel, "\"a\"", 2);
    emit(&channel, &format!("{:?}", [&socket_sid, &main_sid, &messenger_sid]), 3);
    main.expect_text(r#"42["e",3]"#).await;
    messenger.expect_text(r#"42["e",2]"#).await;
    messenger.expect_text(r#"42["e",3]"#).await;
    call(&channel, "close_room", "", "a");
    emit(&channel, "[\"a\"]", 4);
    for client in [&mut main, &mut socket, &mut messenger] {
        client.expect_nothing().await;
    }
}

#[tokio::test]
async fn a_secret_id_is_worth_nothing_on_another_mount() {
    let (builder, _) = builder();
    let gateway = builder.set("socketio.yunity.enabled", "true").start().await;
    let handshake = gateway.stream("/socket/?EIO=4&transport=polling").without("Accept");
    let answer = handshake.expect_status(200).await;
    let open: serde_json::Value = serde_json::from_str(&answer.body[1..]).unwrap();
    let sid = open["sid"].as_str().unwrap();
    let poll = |path: &str| {
        let target = format!("{path}?EIO=4&transport=polling&sid={sid}");
        let body = "40";
        let request = gateway.stream(&target).without("Accept").method("POST");
        request.with("Content-Length", body.len().to_string()).followed_by(body.as_bytes())
    };
    let refused = poll("/socket.io/").expect_status(400).await;
    assert!(refused.body.contains(r#""code":1"#), "{refused:?}");
    poll("/socket").expect_status(200).await;
}

#[tokio::test]
async fn a_bridge_works_without_the_main_path_and_nothing_below_it_is_served() {
    let builder = crate::support::TestGateway::builder();
    let builder = builder.set("socketio.yunity.enabled", "true").set("socketio.yunity.path", "/a/,/b");
    let gateway = builder.start().await;
    for path in ["/a", "/a/", "/b", "/b/"] {
        gateway.request(&format!("{path}?EIO=3&transport=websocket")).expect_status(101).await;
    }
    for path in ["/socket.io/", "/socket/", "/a/b", "/a//", "/ab"] {
        gateway.request(&format!("{path}?EIO=3&transport=websocket")).expect_status(404).await;
    }
}
