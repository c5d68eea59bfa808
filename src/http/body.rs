//! Reads the body of a request, within bounds.

use std::pin::pin;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::Request;
use hyper::body::{Body, Frame};

use super::Rejection;
use crate::unfinished::{Unfinished, UnfinishedMemory};

/// Reads a body within a limit.
pub(super) async fn read_body<B>(
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
                // The announced length has arrived. Otherwise a body that is complete would be waited for once more, and
                // need memory that unfinished ones may hold.
                if body.is_end_stream() {
                    break;
                }
                if !share.set(message.len()) {
                    return Err(Rejection::Unfinished);
                }
            }
            // Trailers have no meaning here.
            Ok(Err(_)) => {}
            Err(error) if error.is::<LengthLimitError>() => return Err(Rejection::TooBig(most_bytes)),
            Err(_) => return Err(Rejection::Bad("the message is incomplete")),
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
        (read_body(Request::new(body), most_bytes, &UnfinishedMemory::new(1 << 20)).await, most_held.get())
    }

    #[tokio::test]
    async fn a_message_of_small_pieces_holds_no_buffers() {
        let (message, most_held) = read(1000, 1000).await;
        assert_eq!(message.ok().as_deref(), Some(&[b'x'; 1000][..]));
        assert_eq!(most_held, 0, "pieces that were still held when the next one was read");
    }

    #[tokio::test]
    async fn a_message_that_arrives_whole_needs_no_memory_for_unfinished_ones() {
        let memory = UnfinishedMemory::new(0);
        let body = http_body_util::Full::new(Bytes::from(vec![b'x'; 100_000]));
        assert!(read_body(Request::new(body), 100_000, &memory).await.is_ok());
        let body = Dripping { left: 100_000, buffer: Arc::from([b'x'; 1]), most_held: Rc::default() };
        assert!(matches!(read_body(Request::new(body), 100_000, &memory).await, Err(Rejection::Unfinished)));
    }

    #[tokio::test]
    async fn a_message_that_is_too_long_is_refused_at_the_limit() {
        assert!(matches!(read(1001, 1000).await.0, Err(Rejection::TooBig(1000))));
    }
}
