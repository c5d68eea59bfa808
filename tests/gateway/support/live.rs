//! A client of version 2.

use std::panic::Location;

use serde_json::Value;

use super::TestGateway;
use super::client::{Request, TEXT, TestClient};

/// The subprotocol of version 2.
pub const SUBPROTOCOL: &str = "ws4redis.2";

/// An open socket of version 2.
pub struct LiveClient {
    pub client: TestClient,
    /// The first object.
    pub hello: Value,
    /// Of the names of its channels.
    prefix: String,
    /// Broadcast channels to which it has subscribed.
    channels: Vec<String>,
}

/// Returns whether an object is the fence of a client.
fn is_fence(object: &Value) -> bool {
    object["d"].as_str().is_some_and(|text| text.starts_with('\u{1}'))
}

impl TestGateway {
    /// Returns a handshake that offers version 2.
    pub fn live_request(&self, target: &str) -> Request {
        self.request(target).with("Sec-WebSocket-Protocol", SUBPROTOCOL)
    }

    /// Opens a socket of version 2.
    #[track_caller]
    pub fn live(&self, target: &str) -> impl Future<Output = LiveClient> {
        LiveClient::open(self.live_request(target))
    }
}

impl LiveClient {
    /// Opens a socket, and reads the first object.
    #[track_caller]
    pub fn open(request: Request) -> impl Future<Output = Self> {
        let prefix = request.prefix();
        let connected = request.connect();
        async move {
            let client = connected.await;
            let channels = client.channel().map(str::to_owned).into_iter().collect();
            let mut opened = Self { client, hello: Value::Null, prefix, channels };
            opened.hello = opened.next().await;
            assert_eq!(opened.hello["t"], "hello", "{}", opened.hello);
            opened
        }
    }

    /// Sends an object.
    pub async fn send(&mut self, object: Value) {
        self.client.send_text(&object.to_string()).await;
    }

    /// Returns the next object, whatever it is but a fence of another client.
    #[track_caller]
    pub fn next(&mut self) -> impl Future<Output = Value> {
        let place = Location::caller();
        async move {
            loop {
                let object = self.read(place).await;
                if !is_fence(&object) {
                    return object;
                }
            }
        }
    }

    async fn read(&mut self, place: &'static Location<'static>) -> Value {
        let frame = self.client.next_message().await;
        let text = String::from_utf8_lossy(&frame.payload).into_owned();
        assert_eq!(frame.opcode, TEXT, "{place}: {text}");
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("{place}: {text}"))
    }

    /// Expects this object.
    #[track_caller]
    pub fn expect(&mut self, object: Value) -> impl Future<Output = ()> {
        let place = Location::caller();
        let next = self.next();
        async move { assert_eq!(next.await, object, "{place}") }
    }

    /// Expects that nothing has been sent so far.
    #[track_caller]
    pub fn expect_nothing(&mut self) -> impl Future<Output = ()> {
        let place = Location::caller();
        async move {
            let channel = self.channels.last();
            if let Some(fence) = channel.and_then(|channel| self.client.publish_fence(channel)) {
                let mut object = self.read(place).await;
                while object["d"] != fence {
                    assert!(is_fence(&object), "{place}: nothing was expected, not {object}");
                    object = self.read(place).await;
                }
                return;
            }
            self.client.send_ping(b"fence").await;
            let frame = self.client.next_message().await;
            let text = String::from_utf8_lossy(&frame.payload);
            assert_eq!(text, "fence", "{place}: nothing was expected");
        }
    }

    /// Subscribes, and returns the answer.
    #[track_caller]
    pub fn subscribe(&mut self, facility: &str, flags: &[&str]) -> impl Future<Output = Value> {
        let place = Location::caller();
        let request = serde_json::json!({"t": "sub", "f": facility, "flags": flags});
        async move {
            self.send(request).await;
            let answer = self.next().await;
            assert!(answer["t"] == "sub" || answer["t"] == "err", "{place}: {answer}");
            let channel = format!("{}broadcast:{}", self.prefix, answer["f"].as_str().unwrap_or_default());
            self.channels.retain(|known| *known != channel);
            if answer["ok"].as_array().is_some_and(|ok| ok.iter().any(|flag| flag == "broadcast")) {
                self.channels.push(channel);
            }
            answer
        }
    }
}
