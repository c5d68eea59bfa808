//! JSON answers, whole or in chunks.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::Response;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use serde_json::Value;

use super::refusal::Refusal;

const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// Collects the rest of a body. It runs when the chunk before has been written.
pub(super) type Rest = Pin<Box<dyn Future<Output = Result<ReplyBody, Refusal>>>>;

/// A body: a chunk, and what collects the others. An error ends the connection, so that the client notices that the rest is
/// missing.
pub(super) struct ReplyBody {
    chunk: Option<Bytes>,
    rest: Option<Rest>,
}

impl ReplyBody {
    /// Returns a body that begins with a chunk.
    pub(super) fn new(chunk: impl Into<Bytes>, rest: Option<Rest>) -> Self {
        Self { chunk: Some(chunk.into()), rest }
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = Refusal;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Refusal>>> {
        loop {
            if let Some(chunk) = self.chunk.take() {
                return Poll::Ready(Some(Ok(Frame::data(chunk))));
            }
            let Some(rest) = &mut self.rest else { return Poll::Ready(None) };
            match ready!(rest.as_mut().poll(cx)) {
                Ok(body) => *self = body,
                Err(refusal) => {
                    self.rest = None;
                    return Poll::Ready(Some(Err(refusal)));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.chunk.is_none() && self.rest.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let bytes = self.chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
        if self.rest.is_none() { SizeHint::with_exact(bytes) } else { SizeHint::default() }
    }
}

/// Returns an answer with status 200.
pub(super) fn json(value: &Value) -> Response<ReplyBody> {
    response(ReplyBody::new(format!("{value}\n"), None))
}

/// Returns an answer with status 200 and a body of JSON. No cache keeps it, and no page of another origin can embed it.
pub(super) fn response(body: ReplyBody) -> Response<ReplyBody> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    for (name, value) in [
        (CONTENT_TYPE, "application/json"),
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (RESOURCE_POLICY, "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}
