//! A WebSocket client that can send anything, valid or not.

use std::io;
use std::net::SocketAddr;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::redis::RedisClient;
use super::{unique, within_deadline};

pub const CONTINUATION: u8 = 0;
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// Prefix of the messages that prove that nothing was sent before them.
const FENCE: &str = "\u{1}fence";

/// An HTTP request; a valid handshake unless changed.
#[derive(Clone)]
pub struct Request {
    address: SocketAddr,
    namespace: String,
    redis_port: u16,
    method: String,
    target: String,
    version: String,
    headers: Vec<(String, Vec<u8>)>,
    trailing: Vec<u8>,
    receive_buffer: Option<u32>,
}

/// The response to a request.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Response {
    /// Returns the first header of that name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

impl Request {
    /// Returns a valid handshake.
    pub fn handshake(address: SocketAddr, target: &str, namespace: &str, redis_port: u16) -> Self {
        let headers = [
            ("Host", address.to_string()),
            ("Upgrade", "websocket".to_owned()),
            ("Connection", "Upgrade".to_owned()),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==".to_owned()),
            ("Sec-WebSocket-Version", "13".to_owned()),
        ];
        Self {
            address,
            namespace: namespace.to_owned(),
            redis_port,
            method: "GET".to_owned(),
            target: target.to_owned(),
            version: "HTTP/1.1".to_owned(),
            headers: headers.map(|(name, value)| (name.to_owned(), value.into_bytes())).into(),
            trailing: Vec::new(),
            receive_buffer: None,
        }
    }

    /// Returns the prefix of its gateway's channels.
    pub fn prefix(&self) -> String {
        if self.namespace.is_empty() { String::new() } else { format!("{}:", self.namespace) }
    }

    pub fn method(mut self, method: &str) -> Self {
        method.clone_into(&mut self.method);
        self
    }

    pub fn version(mut self, version: &str) -> Self {
        version.clone_into(&mut self.version);
        self
    }

    /// Adds a header line.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Removes a header.
    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
        self
    }

    /// Replaces a header.
    pub fn with(self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.without(name).header(name, value)
    }

    /// Appends bytes after the head, in the same write.
    pub fn followed_by(mut self, bytes: &[u8]) -> Self {
        self.trailing.extend_from_slice(bytes);
        self
    }

    /// Limits the kernel's receive buffer, so that an idle client exerts backpressure early.
    pub fn receive_buffer(mut self, bytes: u32) -> Self {
        self.receive_buffer = Some(bytes);
        self
    }

    /// Returns the request as bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = format!("{} {} {}\r\n", self.method, self.target, self.version).into_bytes();
        for (name, value) in &self.headers {
            bytes.extend_from_slice(name.as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(&self.trailing);
        bytes
    }

    /// Opens the connection without sending anything.
    pub async fn open(&self) -> TestClient {
        let socket = TcpSocket::new_v4().unwrap();
        if let Some(bytes) = self.receive_buffer {
            socket.set_recv_buffer_size(bytes).unwrap();
        }
        let stream = within_deadline("a connection", socket.connect(self.address)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let facility = self.target.strip_prefix("/ws/").and_then(|trailing| trailing.split('?').next());
        let channel = facility.filter(|_| self.target.contains("subscribe-broadcast")).map(|facility| {
            let prefix = if self.namespace.is_empty() { "" } else { ":" };
            format!("{}{prefix}broadcast:{facility}", self.namespace)
        });
        TestClient {
            stream,
            buffer: BytesMut::new(),
            channel,
            redis_port: self.redis_port,
            fence: String::new(),
        }
    }

    /// Sends the request and returns the response and the connection.
    #[track_caller]
    pub fn send(self) -> impl Future<Output = (Response, TestClient)> {
        within_deadline("a response to the request", async move {
            let mut client = self.open().await;
            client.send_raw(&self.bytes()).await;
            let response = client.read_response().await.unwrap();
            (response, client)
        })
    }

    /// Sends the request, and returns the status if the server answers before it closes.
    pub async fn try_send(self) -> Option<u16> {
        let mut client = self.open().await;
        client.try_send_raw(&self.bytes()).await.ok()?;
        let response = within_deadline("a response or the end", client.read_response()).await;
        response.ok().map(|response| response.status)
    }

    /// Sends the request, expects this status, and returns the response.
    #[track_caller]
    pub fn expect_status(self, status: u16) -> impl Future<Output = Response> {
        let place = std::panic::Location::caller();
        let sent = self.send();
        async move {
            let response = sent.await.0;
            assert_eq!(response.status, status, "{place}: {response:?}");
            response
        }
    }

    /// Sends the request and expects 101.
    #[track_caller]
    pub fn connect(self) -> impl Future<Output = TestClient> {
        let place = std::panic::Location::caller();
        let sent = self.send();
        async move {
            let (response, client) = sent.await;
            assert_eq!(response.status, 101, "{place}: {response:?}");
            client
        }
    }
}

/// A frame from the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The first byte without the opcode: FIN and the reserved bits.
    pub flags: u8,
    pub opcode: u8,
    pub payload: Vec<u8>,
}

/// One connection.
pub struct TestClient {
    pub stream: TcpStream,
    buffer: BytesMut,
    /// Full name of its broadcast channel, if it is subscribed to one.
    channel: Option<String>,
    redis_port: u16,
    /// The last fence that this client sent.
    fence: String,
}

/// Returns a masked frame.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let mut bytes = head(first, payload.len() as u64, true);
    bytes.extend_from_slice(&mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// Returns the head of a frame, without the masking key.
pub fn head(first: u8, length: u64, masked: bool) -> Vec<u8> {
    let mask = if masked { 0x80 } else { 0 };
    let mut bytes = vec![first];
    match length {
        0..126 => bytes.push(mask | u8::try_from(length).unwrap()),
        126..0x1_0000 => {
            bytes.push(mask + 126);
            bytes.extend_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
        }
        _ => {
            bytes.push(mask + 127);
            bytes.extend_from_slice(&length.to_be_bytes());
        }
    }
    bytes
}

impl TestClient {
    /// Writes raw bytes.
    pub async fn send_raw(&mut self, bytes: &[u8]) {
        within_deadline("the server takes bytes", self.stream.write_all(bytes)).await.unwrap();
    }

    /// Writes raw bytes; fails if the server has closed the connection.
    pub async fn try_send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        within_deadline("the server takes bytes", self.stream.write_all(bytes)).await
    }

    pub async fn send_text(&mut self, text: &str) {
        self.send_raw(&frame(0x80 | TEXT, text.as_bytes())).await;
    }

    pub async fn send_binary(&mut self, payload: &[u8]) {
        self.send_raw(&frame(0x80 | BINARY, payload)).await;
    }

    pub async fn send_ping(&mut self, payload: &[u8]) {
        self.send_raw(&frame(0x80 | PING, payload)).await;
    }

    pub async fn send_pong(&mut self, payload: &[u8]) {
        self.send_raw(&frame(0x80 | PONG, payload)).await;
    }

    pub async fn send_close(&mut self, code: u16, reason: &str) {
        let payload = [&code.to_be_bytes(), reason.as_bytes()].concat();
        self.send_raw(&frame(0x80 | CLOSE, &payload)).await;
    }

    /// Shuts down the sending side only.
    pub async fn half_close(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// Reads more bytes into the buffer. Returns 0 at EOF.
    async fn fill(&mut self) -> io::Result<usize> {
        self.buffer.reserve(64 * 1024);
        self.stream.read_buf(&mut self.buffer).await
    }

    /// Reads a response, with its body unless the status forbids one.
    pub async fn read_response(&mut self) -> io::Result<Response> {
        let mut response = self.try_read_head().await?;
        if ![101, 204].contains(&response.status) {
            let length =
                response.header("content-length").map_or(usize::MAX, |length| length.parse().unwrap());
            while self.buffer.len() < length && self.fill().await? > 0 {}
            let length = length.min(self.buffer.len());
            response.body = String::from_utf8_lossy(&self.buffer[..length]).into_owned();
            self.buffer.advance(length);
        }
        Ok(response)
    }

    /// Reads up to and including `text`, and returns these bytes.
    pub async fn read_until(&mut self, text: &str) -> io::Result<Vec<u8>> {
        loop {
            if let Some(at) = self.buffer.windows(text.len()).position(|window| window == text.as_bytes()) {
                return Ok(self.buffer.split_to(at + text.len()).to_vec());
            }
            if self.fill().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Reads the head of a response only.
    pub async fn read_head(&mut self) -> Response {
        within_deadline("the head of a response", self.try_read_head()).await.unwrap()
    }

    async fn try_read_head(&mut self) -> io::Result<Response> {
        let end = loop {
            if let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            if self.fill().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        let head = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
        self.buffer.advance(end);
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no status line: {head:?}"));
        let headers = lines.filter_map(|line| line.split_once(": "));
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Ok(Response { status, headers, body: String::new() })
    }

    /// Reads the next frame of any kind; `None` at EOF. A reset is an error.
    pub async fn read_frame(&mut self) -> io::Result<Option<Frame>> {
        let frame = self.read_frame_or_end().await?;
        let is_whole = frame.is_some() || self.buffer.is_empty();
        assert!(is_whole, "the server ended within a frame: {:?}", self.buffer);
        Ok(frame)
    }

    /// Reads the next frame of any kind; `None` at EOF, also within a frame.
    pub async fn read_frame_or_end(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some((frame, length)) = parse(&self.buffer) {
                self.buffer.advance(length);
                return Ok(Some(frame));
            }
            if self.fill().await? == 0 {
                return Ok(None);
            }
        }
    }

    /// Reads the next frame; panics at the deadline, at EOF and at a reset.
    #[track_caller]
    pub fn next_frame(&mut self) -> impl Future<Output = Frame> {
        let place = std::panic::Location::caller();
        let frame = within_deadline("a frame", self.read_frame());
        async move {
            match frame.await {
                Ok(Some(frame)) => frame,
                end => panic!("{place}: a frame was expected, not {end:?}"),
            }
        }
    }

    /// Returns the next frame. Answers pings and skips fences of other clients.
    #[track_caller]
    pub fn next_message(&mut self) -> impl Future<Output = Frame> {
        let place = std::panic::Location::caller();
        async move {
            loop {
                match within_deadline(&format!("{place}: a message"), self.read_frame()).await {
                    Ok(Some(frame)) if frame.opcode == PING => self.send_pong(&frame.payload).await,
                    Ok(Some(frame)) if self.is_fence_of_other_client(&frame) => {}
                    Ok(Some(frame)) => return frame,
                    end => panic!("{place}: a message was expected, not {end:?}"),
                }
            }
        }
    }

    fn is_fence_of_other_client(&self, frame: &Frame) -> bool {
        frame.payload.starts_with(FENCE.as_bytes()) && frame.payload != self.fence.as_bytes()
    }

    /// Expects a text message.
    #[track_caller]
    pub fn expect_text(&mut self, text: &str) -> impl Future<Output = ()> {
        self.expect(TEXT, text.as_bytes().to_owned())
    }

    /// Expects a binary message.
    #[track_caller]
    pub fn expect_binary(&mut self, payload: &[u8]) -> impl Future<Output = ()> {
        self.expect(BINARY, payload.to_owned())
    }

    /// Expects a pong with this payload.
    #[track_caller]
    pub fn expect_pong(&mut self, payload: &[u8]) -> impl Future<Output = ()> {
        self.expect(PONG, payload.to_owned())
    }

    #[track_caller]
    fn expect(&mut self, opcode: u8, payload: Vec<u8>) -> impl Future<Output = ()> {
        let place = std::panic::Location::caller();
        let next = self.next_message();
        async move {
            let frame = next.await;
            let expected = Frame { flags: 0x80, opcode, payload };
            assert!(frame == expected, "{place}: {} instead of {}", show(&frame), show(&expected));
        }
    }

    /// Returns the full name of its broadcast channel, if it is subscribed to one.
    pub fn channel(&self) -> Option<&str> {
        self.channel.as_deref()
    }

    /// Publishes a fence on a channel, and returns it: Redis may deliver a message later than the gateway answers a ping.
    /// `None` if Redis is down.
    pub fn publish_fence(&self, channel: &str) -> Option<String> {
        let fence = unique(FENCE);
        RedisClient::open(self.redis_port).ok()?.command(&["PUBLISH", channel, &fence]);
        Some(fence)
    }

    /// Expects that the server has sent nothing so far: publishes a fence and expects it as the next message. A client
    /// without a broadcast channel sends a ping as the fence.
    #[track_caller]
    pub fn expect_nothing(&mut self) -> impl Future<Output = ()> {
        let place = std::panic::Location::caller();
        async move {
            let fence = unique(FENCE);
            fence.clone_into(&mut self.fence);
            let expected = if let Some(channel) = &self.channel {
                RedisClient::to(self.redis_port).command(&["PUBLISH", channel, &fence]);
                Frame { flags: 0x80, opcode: TEXT, payload: fence.into_bytes() }
            } else {
                self.send_ping(fence.as_bytes()).await;
                Frame { flags: 0x80, opcode: PONG, payload: fence.into_bytes() }
            };
            let frame = self.next_message().await;
            assert!(frame == expected, "{place}: nothing was expected, not {}", show(&frame));
        }
    }

    /// Expects a close frame with this code, echoes it as browsers do, and returns its reason.
    #[track_caller]
    pub fn expect_close(&mut self, code: u16) -> impl Future<Output = String> {
        let place = std::panic::Location::caller();
        async move {
            let frame = self.next_message().await;
            assert_eq!(frame.opcode, CLOSE, "{place}: {} instead of a close", show(&frame));
            // If this answers a close frame of the client, the server may have closed the connection.
            let _ = self.try_send_raw(&self::frame(0x80 | CLOSE, &frame.payload)).await;
            let got = frame.payload.first_chunk().map(|code| u16::from_be_bytes(*code));
            let reason = String::from_utf8(frame.payload.get(2..).unwrap_or_default().to_owned()).unwrap();
            assert_eq!(got, Some(code), "{place}: closed with {reason:?}");
            reason
        }
    }

    /// Expects EOF with nothing before it.
    #[track_caller]
    pub fn expect_end(&mut self) -> impl Future<Output = ()> {
        let place = std::panic::Location::caller();
        let end = within_deadline("the end of the connection", self.read_frame());
        async move {
            match end.await {
                Ok(None) => {}
                other => panic!("{place}: the end was expected, not {other:?}"),
            }
        }
    }

    /// Expects the connection to end, by EOF or reset, and discards what comes before.
    #[track_caller]
    pub fn expect_disconnect(&mut self) -> impl Future<Output = ()> {
        within_deadline("the connection goes", async move {
            while matches!(self.fill().await, Ok(count) if count > 0) {}
        })
    }
}

fn show(frame: &Frame) -> String {
    let Frame { flags, opcode, payload } = frame;
    let start = String::from_utf8_lossy(&payload[..payload.len().min(100)]).into_owned();
    format!("frame {flags:#x} {opcode} of {} bytes {start:?}", payload.len())
}

/// Returns the first frame and its encoded length, if it is complete.
fn parse(buffer: &[u8]) -> Option<(Frame, usize)> {
    let (first, second) = (*buffer.first()?, *buffer.get(1)?);
    assert_eq!(second & 0x80, 0, "a server must not mask");
    let (length, at) = match second {
        126 => (u64::from(u16::from_be_bytes(buffer.get(2..4)?.try_into().unwrap())), 4),
        127 => (u64::from_be_bytes(buffer.get(2..10)?.try_into().unwrap()), 10),
        length => (u64::from(length), 2),
    };
    let end = at + usize::try_from(length).unwrap();
    let payload = buffer.get(at..end)?.to_owned();
    Some((Frame { flags: first & 0xf0, opcode: first & 0x0f, payload }, end))
}
