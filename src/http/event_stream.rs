//! Server-sent events and publications by POST, at the address of the WebSocket: for networks that block WebSockets.

use std::pin::pin;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Frame};
use hyper::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Response};

use super::Rejection;
use super::cors::Cors;
use super::http_config::HttpConfig;
use super::request::{HandshakeRequest, is_own_client};
use super::visitor::{TokenSource, credentials, token};
use crate::access::Peer;
use crate::unfinished::{Unfinished, UnfinishedMemory};
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

/// Reads the message of a request that publishes.
pub(super) async fn message<B>(
    request: Request<B>,
    most_bytes: usize,
    memory: &Arc<UnfinishedMemory>,
) -> Result<Bytes, Rejection>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    // Refused before the first read: a client that waits for a 100 never sends the body.
    if request.body().size_hint().lower() > most_bytes as u64 {
        return Err(Rejection::TooBig(most_bytes));
    }
    let mut body = pin!(Limited::new(request.into_body(), most_bytes));
    let (mut message, mut share) = (BytesMut::new(), Unfinished::new(memory));
    // Copied, because a short piece would keep a whole buffer of hyper's allocated.
    while let Some(piece) = body.frame().await {
        match piece.map(Frame::into_data) {
            Ok(Ok(data)) => {
                message.extend_from_slice(&data);
                if !share.set(message.len()) {
                    return Err(Rejection::Unfinished);
                }
            }
            // Trailers have no meaning here.
            Ok(Err(_)) => {}
            Err(error) if error.is::<LengthLimitError>() => return Err(Rejection::TooBig(most_bytes)),
            Err(_) => return Err(Rejection::Bad("the message is incomplete")),
        }
        // The announced length has arrived. Without this, a body that is complete would be waited for once more.
        if body.is_end_stream() {
            break;
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

    /// A body of single bytes, each in a large buffer of its own.
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
    async fn a_message_of_small_pieces_holds_no_buffers() {
        let (message, most_held) = read(1000, 1000).await;
        assert_eq!(message.ok().as_deref(), Some(&[b'x'; 1000][..]));
        assert_eq!(most_held, 0, "pieces that were still held when the next one was read");
    }

    #[tokio::test]
    async fn a_message_that_is_too_long_is_refused_at_the_limit() {
        assert!(matches!(read(1001, 1000).await.0, Err(Rejection::TooBig(1000))));
    }
}
