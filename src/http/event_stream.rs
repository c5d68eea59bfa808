//! Server-sent events and publications by POST, at the address of the WebSocket: for networks that block WebSockets.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Response};

use super::Rejection;
use super::cors::Cors;
use super::http_config::HttpConfig;
use super::request::{HandshakeRequest, is_own_client};
use super::visitor::{TokenSource, credentials, token};
use crate::access::Peer;
use crate::wire::{Handshake, HandshakeError};

/// Headers of every stream. They keep caches from storing it and nginx from buffering it.
const HEADERS: [(HeaderName, HeaderValue); 4] = [
    (CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8")),
    (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    (CONNECTION, HeaderValue::from_static("close")),
];

/// Milliseconds after which an `EventSource` reconnects, chosen at random for each stream: clients that lost their
/// connections together do not reconnect together.
const RETRY_MS: std::ops::RangeInclusive<u32> = 2_000..=8_000;

/// The head of the answer, and the first lines of the stream.
#[derive(Debug)]
pub struct StreamHead(pub(super) Bytes);

fn retry() -> String {
    format!("retry: {}\n\n", rand::random_range(RETRY_MS))
}

/// Returns the head of the answer. Without lines of the stream behind it some proxies would keep it back.
pub(super) fn head(cors: &Cors) -> StreamHead {
    let mut headers = HeaderMap::from_iter(HEADERS);
    cors.add_to(&mut headers);
    let mut head = b"HTTP/1.1 200 OK\r\n".to_vec();
    for (name, value) in &headers {
        head.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    head.extend([b"\r\n", retry().as_bytes()].concat());
    StreamHead(head.into())
}

/// Returns a stream that ends at once. An `EventSource` reconnects after it, and never after a status other than 200 (HTML
/// standard, section 9.2.3).
pub(super) fn retry_later() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(retry()));
    response.headers_mut().extend(HEADERS);
    response
}

/// Checks a request for a stream of events, or one that publishes.
pub(super) fn check<B>(
    request: &Request<B>,
    handshake: Result<Handshake, HandshakeError>,
    peer: Peer,
    config: &HttpConfig,
) -> Result<HandshakeRequest, Rejection> {
    let mut credentials = credentials(request, peer, config)?;
    let mut handshake = handshake?;
    if is_own_client(request) {
        // Our own client gets the same from a stream as from a WebSocket.
        handshake.flags = handshake.flags.without_event_names();
    }
    credentials.token = token(request, TokenSource::Plain, config)?;
    Ok(HandshakeRequest { handshake, credentials })
}
