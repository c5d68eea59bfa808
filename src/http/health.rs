//! The health check for load balancers: the process is alive. Public, so it reveals nothing about Redis, load or version.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response};

use super::Rejection;

/// Its path. Where every path is a facility, this one is a facility too, and there is no health check.
pub(super) const PATH: &str = "/health";

/// Answers a health check. These come every few seconds, so they are neither logged nor counted.
pub(super) fn response<B>(request: &Request<B>) -> Result<Response<Full<Bytes>>, Rejection> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return Err(Rejection::Method);
    }
    let mut response = Response::new(Full::from("alive\n"));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}
