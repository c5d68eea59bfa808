//! The other way in, for networks that let no WebSocket through: a stream of server-sent events, and publications by
//! POST, at the same address.

use std::pin::pin;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Frame};
use hyper::header::{ACCEPT, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response};

use super::Rejection;
use super::cors::Cors;
use super::routes::{HandshakeRequest, HttpConfig};
use super::upgrade::offers_websocket;
use super::visitor::{Kind, credentials, token, tokens};
use crate::access::Peer;
use crate::unfinished::{Unfinished, UnfinishedMemory};
use crate::wire::{Handshake, Malformed, parameters};

/// Headers of every stream. Nothing on the way may keep it, nginx neither.
const HEADERS: [(HeaderName, HeaderValue); 4] = [
    (CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8")),
    (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    (CONNECTION, HeaderValue::from_static("close")),
];

/// Milliseconds after which an `EventSource` comes back, chosen for each stream: those that were all cut off together
/// would come back together.
const RETRY_MS: std::ops::RangeInclusive<u32> = 2_000..=8_000;

/// Query parameter of our own client, which reads statuses: name and value.
const CLIENT: (&str, &str) = ("client", "ws4redis");

/// A header that a page of another origin cannot send without being allowed to first (Fetch standard, "CORS-safelisted
/// request-header"), which only those are that the Origin rule admits.
pub(super) const OWN_HEADER: HeaderName = HeaderName::from_static("x-ws4redis");

fn retry() -> String {
    format!("retry: {}\n\n", rand::random_range(RETRY_MS))
}

/// Returns the head of the answer, and the first lines of the stream, so that proxies pass it on at once. It ends with
/// the connection.
pub(super) fn head(cors: &Cors) -> Bytes {
    let mut headers = HeaderMap::from_iter(HEADERS);
    cors.add_to(&mut headers);
    let mut head = b"HTTP/1.1 200 OK\r\n".to_vec();
    for (name, value) in &headers {
        head.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    head.extend([b"\r\n", retry().as_bytes()].concat());
    head.into()
}

/// Returns a stream that ends at once, which an `EventSource` takes for one that was cut off: by the standard it comes
/// back then, and never after a status other than 200 (HTML standard, section 9.2.3).
pub(super) fn come_again() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(retry()));
    response.headers_mut().extend(HEADERS);
    response
}

/// Tells whether a stream is asked for by a client that reads no statuses, as far as it does not say otherwise.
pub(super) fn is_native<B>(request: &Request<B>) -> bool {
    wants_events(request) && !is_marked(request)
}

fn is_marked<B>(request: &Request<B>) -> bool {
    parameters(request.uri().query(), CLIENT.0).any(|value| value == CLIENT.1)
}

/// Tells whether a stream of events is asked for.
pub(super) fn wants_events<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    let accepts = |item: &str| {
        let kind = item.split(';').next().unwrap_or_default();
        kind.trim().eq_ignore_ascii_case("text/event-stream")
    };
    request.method() == Method::GET && !offers_websocket(headers) && tokens(headers, &ACCEPT).any(accepts)
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
    config: &HttpConfig,
) -> Result<HandshakeRequest, Rejection> {
    let mut credentials = credentials(request, peer, config)?;
    let mut handshake = handshake?;
    if is_marked(request) {
        // Our own client gets the same by a stream as by a WebSocket.
        handshake.flags = handshake.flags.without_event_names();
    }
    credentials.token = token(request, Kind::Plain, config)?;
    Ok(HandshakeRequest { handshake, credentials })
}

/// Reads what is to be published.
pub(super) async fn message<B>(
    request: Request<B>,
    most_bytes: usize,
    memory: &Arc<UnfinishedMemory>,
) -> Result<Bytes, Rejection>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    // What is known to be too long is not read at all, so that a client that waits for a 100 never sends it.
    if request.body().size_hint().lower() > most_bytes as u64 {
        return Err(Rejection::TooBig(most_bytes));
    }
    let mut body = pin!(Limited::new(request.into_body(), most_bytes));
    let (mut message, mut share) = (BytesMut::new(), Unfinished::new(memory));
    // Each piece is copied and let go of: a short one would keep a whole buffer of hyper's.
    while let Some(piece) = body.frame().await {
        match piece.map(Frame::into_data) {
            Ok(Ok(data)) => {
                message.extend_from_slice(&data);
                if !share.set(message.len()) {
                    return Err(Rejection::Unfinished);
                }
            }
            // Trailers mean nothing here.
            Ok(Err(_)) => {}
            Err(error) if error.is::<LengthLimitError>() => return Err(Rejection::TooBig(most_bytes)),
            Err(_) => return Err(Rejection::Bad("the message did not come whole")),
        }
    }
    Ok(message.freeze())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::rc::Rc;
    use std::task::{Context, Poll};

    use super::*;

    /// A body of many single bytes, each the only one of a whole buffer.
    struct Dripping {
        left: usize,
        buffer: Arc<[u8]>,
        most_held: Rc<std::cell::Cell<usize>>,
    }

    struct Single(Arc<[u8]>);

    impl AsRef<[u8]> for Single {
        fn as_ref(&self) -> &[u8] {
            &self.0[..1]
        }
    }

    impl Body for Dripping {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.most_held.set(self.most_held.get().max(Arc::strong_count(&self.buffer) - 1));
            let Some(left) = self.left.checked_sub(1) else { return Poll::Ready(None) };
            self.left = left;
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_owner(Single(self.buffer.clone()))))))
        }
    }

    async fn read(bytes: usize, most_bytes: usize) -> (Result<Bytes, Rejection>, usize) {
        let most_held = Rc::default();
        let body =
            Dripping { left: bytes, buffer: Arc::from([b'x'; 8192]), most_held: Rc::clone(&most_held) };
        (message(Request::new(body), most_bytes, &UnfinishedMemory::new(1 << 20)).await, most_held.get())
    }

    #[tokio::test]
    async fn a_message_that_drips_in_holds_no_buffers() {
        let (message, most_held) = read(1000, 1000).await;
        assert_eq!(message.ok().as_deref(), Some(&[b'x'; 1000][..]));
        assert_eq!(most_held, 0, "pieces that were still held when the next one was asked for");
    }

    #[tokio::test]
    async fn a_message_that_is_too_long_ends_at_the_bound() {
        assert!(matches!(read(1001, 1000).await.0, Err(Rejection::TooBig(1000))));
    }
}
