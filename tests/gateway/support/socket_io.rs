//! Clients of Socket.IO over WebSockets, packet by packet, and a publisher that writes what python-socketio writes.

use std::future::Future;

use serde_json::Value;

use super::client::{Request, TestClient};
use super::gateway::GatewayBuilder;
use super::{RedisServer, TestGateway, unique};

/// The path of clients of protocol 4.
pub const V4: &str = "/socket.io/?EIO=4&transport=websocket";
/// The path of clients of protocol 3.
pub const V3: &str = "/socket.io/?EIO=3&transport=websocket";

/// A gateway for Socket.IO, and the channel of its `RedisManager`.
pub struct SocketIoGateway {
    pub gateway: TestGateway,
    pub channel: String,
}

/// Configures a gateway, and returns the channel of its `RedisManager`.
pub fn builder() -> (GatewayBuilder, String) {
    let channel = unique("socketio");
    let builder = TestGateway::builder()
        .set("socketio.enabled", "true")
        .set("socketio.namespaces", "/,/chat,/room-*")
        .set("socketio.redis_manager.channels", &channel);
    (builder, channel)
}

impl SocketIoGateway {
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    pub async fn start_with(settings: &[(&str, &str)]) -> Self {
        let (mut builder, channel) = builder();
        for (key, value) in settings {
            builder = builder.set(key, value);
        }
        Self { gateway: builder.start().await, channel }
    }

    /// Starts one with a Redis of its own.
    pub async fn start_on(redis: &RedisServer, settings: &[(&str, &str)]) -> Self {
        let (mut builder, channel) = builder();
        for (key, value) in settings {
            builder = builder.set(key, value);
        }
        Self { gateway: builder.redis(redis).start().await, channel }
    }

    /// Opens a session of protocol 4.
    pub async fn open(&self) -> TestClient {
        open(self.gateway.request(V4)).await.0
    }

    /// Connects a client of protocol 4 to a namespace. Returns its public id.
    pub async fn connect(&self, namespace: &str) -> (TestClient, String) {
        let mut client = self.open().await;
        let sid = join(&mut client, namespace).await;
        (client, sid)
    }

    /// Connects a client of protocol 3. Returns the id that it takes for its own.
    pub async fn connect_v3(&self) -> (TestClient, String) {
        let (mut client, open) = open(self.gateway.request(V3)).await;
        client.expect_text("40").await;
        (client, open["sid"].as_str().unwrap().to_owned())
    }

    /// Publishes a message as python-socketio does.
    #[track_caller]
    pub fn publish(&self, message: impl AsRef<[u8]>) {
        assert!(RedisServer::shared().publish(&self.channel, message) > 0, "no subscriber");
    }

    /// Emits an event with one argument, in generation 4.
    #[track_caller]
    pub fn emit(&self, namespace: &str, room: &str, argument: &str) {
        self.publish(format!(
            r#"{{"method": "emit", "event": "e", "data": [{argument}], "binary": false, "namespace": "{namespace}", "room": {room}, "skip_sid": null, "callback": null, "host_id": "h"}}"#
        ));
    }

    /// Publishes another method with a sid and a room.
    #[track_caller]
    pub fn call(&self, method: &str, namespace: &str, sid: &str, room: &str) {
        self.publish(format!(
            r#"{{"method": "{method}", "sid": "{sid}", "room": "{room}", "namespace": "{namespace}", "host_id": "h"}}"#
        ));
    }
}

/// Connects, and returns the content of the open packet.
pub async fn open(request: Request) -> (TestClient, Value) {
    let mut client = request.connect().await;
    let packet = text(&mut client).await;
    let open = serde_json::from_str(packet.strip_prefix('0').unwrap()).unwrap();
    (client, open)
}

/// Returns the next text.
#[track_caller]
pub fn text(client: &mut TestClient) -> impl Future<Output = String> {
    let next = client.next_message();
    async move {
        let frame = next.await;
        assert_eq!(frame.opcode, 1, "{frame:?}");
        String::from_utf8(frame.payload).unwrap()
    }
}

/// Joins a namespace in protocol 4. Returns the public id.
pub async fn join(client: &mut TestClient, namespace: &str) -> String {
    let suffix = if namespace == "/" { String::new() } else { format!("{namespace},") };
    client.send_text(&format!("40{suffix}")).await;
    let answer = text(client).await;
    let answer: Value = serde_json::from_str(answer.strip_prefix(&format!("40{suffix}")).unwrap()).unwrap();
    answer["sid"].as_str().unwrap().to_owned()
}

/// The path of clients of protocol 4 that poll.
pub const POLL_V4: &str = "/socket.io/?EIO=4&transport=polling";
/// The path of clients of protocol 3 that poll.
pub const POLL_V3: &str = "/socket.io/?EIO=3&transport=polling";

/// A session that polls.
pub struct PollingClient {
    gateway: std::net::SocketAddr,
    request: Request,
    target: String,
    pub sid: String,
}

impl SocketIoGateway {
    /// Opens a session that polls. Returns what its first payload holds behind the open packet.
    pub async fn open_polling(&self, target: &str) -> (PollingClient, String) {
        let request = self.gateway.stream(target).without("Accept");
        let answer = request.clone().expect_status(200).await;
        let body = answer.body;
        let start = body.find('{').unwrap();
        let mut values = serde_json::Deserializer::from_str(&body[start..]).into_iter::<Value>();
        let open = values.next().unwrap().unwrap();
        let rest = body[start + values.byte_offset()..].trim_start_matches('\u{1e}').to_owned();
        let sid = open["sid"].as_str().unwrap().to_owned();
        let target = format!("{target}&sid={sid}");
        (
            PollingClient {
                gateway: self.gateway.address(),
                request: self.gateway.stream(&target).without("Accept"),
                target,
                sid,
            },
            rest,
        )
    }

    /// Connects a session of protocol 4 that polls to the main namespace. Returns its public id.
    pub async fn connect_polling(&self) -> (PollingClient, String) {
        let (client, _) = self.open_polling(POLL_V4).await;
        client.post("40").expect_status(200).await;
        let answer = client.poll().await;
        let answer: Value = serde_json::from_str(answer.strip_prefix("40").unwrap()).unwrap();
        (client, answer["sid"].as_str().unwrap().to_owned())
    }
}

impl PollingClient {
    /// Returns the request for the next packets.
    pub fn get(&self) -> Request {
        self.request.clone()
    }

    /// Returns the next packets.
    #[track_caller]
    pub fn poll(&self) -> impl Future<Output = String> {
        let answer = self.get().expect_status(200);
        async move { answer.await.body }
    }

    /// Begins a poll, and returns its connection. Nothing shows that a poll waits: posts that are sent after it have been
    /// answered.
    pub async fn begin_poll(&self) -> TestClient {
        let request = self.get();
        let mut connection = request.open().await;
        connection.send_raw(&request.bytes()).await;
        for _ in 0..5 {
            self.post("3").expect_status(200).await;
        }
        connection
    }

    /// Returns a request that sends packets.
    pub fn post(&self, body: impl AsRef<[u8]>) -> Request {
        let body = body.as_ref();
        let request = self.get().method("POST").with("Content-Type", "text/plain;charset=UTF-8");
        request.with("Content-Length", body.len().to_string()).followed_by(body)
    }

    /// Returns the handshake of a WebSocket for this session.
    pub fn upgrade(&self, server: &SocketIoGateway) -> Request {
        debug_assert_eq!(self.gateway, server.gateway.address());
        server.gateway.request(&self.target.replace("transport=polling", "transport=websocket"))
    }
}
