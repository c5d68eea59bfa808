//! A client for server-sent events, and requests that publish by POST.

use super::client::{Request, Response, TestClient};
use super::{TestGateway, within_deadline};

/// An event as (name, data); the name is empty for an ordinary message.
pub type SseEvent = (String, String);

/// An open event stream.
pub struct SseClient {
    pub client: TestClient,
    pub head: Response,
}

impl TestGateway {
    /// Returns a request for an event stream.
    pub fn stream(&self, target: &str) -> Request {
        let request = self.request(target).with("Accept", "text/event-stream");
        let request = request.without("Upgrade").without("Sec-WebSocket-Key");
        request.without("Sec-WebSocket-Version").with("Connection", "keep-alive")
    }

    /// Returns a POST that publishes `message`.
    pub fn post(&self, target: &str, message: impl AsRef<[u8]>) -> Request {
        let message = message.as_ref();
        let request = self.stream(target).method("POST").without("Accept").with("X-WS4Redis", "1");
        request.with("Content-Length", message.len().to_string()).followed_by(message)
    }
}

impl SseClient {
    /// Opens a stream.
    #[track_caller]
    pub fn open(request: Request) -> impl Future<Output = Self> {
        let place = std::panic::Location::caller();
        within_deadline("an event stream", async move {
            let mut client = request.open().await;
            client.send_raw(&request.bytes()).await;
            let head = client.read_head().await;
            assert_eq!(head.status, 200, "{place}: {head:?}");
            Self { client, head }
        })
    }

    /// Returns the next event; skips comments and other fields.
    #[track_caller]
    pub fn next(&mut self) -> impl Future<Output = SseEvent> {
        let place = std::panic::Location::caller();
        let next = async move {
            loop {
                let event =
                    self.client.read_until("\n\n").await.unwrap_or_else(|error| panic!("{place}: {error}"));
                let event = String::from_utf8(event).unwrap();
                let field = |name: &str| {
                    let lines = event.lines().filter_map(|line| line.strip_prefix(name));
                    lines.map(str::to_owned).reduce(|all, line| all + "\n" + &line)
                };
                if let Some(data) = field("data: ") {
                    return (field("event: ").unwrap_or_default(), data);
                }
            }
        };
        async move { within_deadline(&format!("{place}: an event"), next).await }
    }

    /// Expects an ordinary message with this text.
    #[track_caller]
    pub fn expect(&mut self, text: &str) -> impl Future<Output = ()> {
        let (place, text) = (std::panic::Location::caller(), text.to_owned());
        let next = self.next();
        async move { assert_eq!(next.await, (String::new(), text), "{place}") }
    }
}
