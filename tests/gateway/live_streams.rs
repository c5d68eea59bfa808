//! Version 2 by server-sent events.

use serde_json::{Value, json};

use crate::support::events::SseClient;
use crate::support::{RedisServer, TestGateway};

#[tokio::test]
async fn a_stream_of_version_2_has_the_objects_of_a_socket() {
    let gateway = TestGateway::start().await;
    let key = gateway.channel("broadcast:x");
    RedisServer::shared().persist(&key, "kept");
    let mut stream = SseClient::open(gateway.stream("/ws/x?v=2&subscribe-broadcast&subscribe-user")).await;
    let mut next = async || {
        let (name, data) = stream.next().await;
        assert_eq!(name, "");
        serde_json::from_str::<Value>(&data).unwrap()
    };
    assert_eq!(next().await["t"], "hello");
    assert_eq!(next().await, json!({"t": "sub", "f": "x", "ok": ["broadcast"], "no": ["user"]}));
    assert_eq!(next().await, json!({"t": "msg", "f": "x", "a": "broadcast", "d": "kept", "last": true}));
    gateway.publish("broadcast:x", "a\nb");
    assert_eq!(next().await, json!({"t": "msg", "f": "x", "a": "broadcast", "d": "a\nb"}));
    gateway.post("/ws/x?publish-broadcast", "posted").expect_status(204).await;
    assert_eq!(next().await["d"], "posted");
}
