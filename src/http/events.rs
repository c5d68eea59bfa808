//! The other way in, for networks that let no WebSocket through: a stream of server-sent events, and publications by
//! POST, at the same address.

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::header::{ACCEPT, HeaderName, UPGRADE};
use hyper::{Method, Request};

use super::Rejection;
use super::routes::{Arrival, Front};
use super::visitor::{Kind, credentials, token, tokens};
use crate::access::Peer;
use crate::wire::{Handshake, Malformed};

/// The head of the answer, and the first lines of the stream, so that proxies pass it on at once. It ends with the
/// connection. Nothing on the way may keep it, nginx neither.
pub const HEAD: Bytes = Bytes::from_static(
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-store\r\n\
      x-accel-buffering: no\r\nconnection: close\r\n\r\nretry: 3000\n\n",
);

/// A header that a page of another site cannot send without being allowed to first (Fetch standard, "CORS-safelisted
/// request-header"), which nobody is here.
const OWN_HEADER: HeaderName = HeaderName::from_static("x-ws4redis");

/// Tells whether a stream of events is asked for.
pub(super) fn wants_events<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    let accepts = |item: &str| {
        let kind = item.split(';').next().unwrap_or_default();
        kind.trim().eq_ignore_ascii_case("text/event-stream")
    };
    request.method() == Method::GET && !headers.contains_key(UPGRADE) && tokens(headers, &ACCEPT).any(accepts)
}

/// Tells whether something is to be published.
pub(super) fn publishes<B>(request: &Request<B>) -> bool {
    request.method() == Method::POST && request.headers().contains_key(OWN_HEADER)
}

/// Checks a request for a stream of events, or one that publishes.
pub(super) fn check<B>(
    request: &Request<B>,
    handshake: Result<Handshake, Malformed>,
    peer: Peer,
    front: &Front,
) -> Result<Arrival, Rejection> {
    let mut credentials = credentials(request, peer, front)?;
    let handshake = handshake?;
    credentials.token = token(request, Kind::Plain, front)?;
    Ok(Arrival { handshake, credentials })
}

/// Reads what is to be published.
pub(super) async fn message<B>(request: Request<B>, most_bytes: usize) -> Result<Bytes, Rejection>
where
    B: hyper::body::Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    match Limited::new(request.into_body(), most_bytes).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Rejection::TooBig(most_bytes)),
        Err(_) => Err(Rejection::Bad("the message did not come whole")),
    }
}
