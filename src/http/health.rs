//! The probe of load balancers: the process is alive. It deliberately says nothing of Redis, load or version, since
//! everybody may ask.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response};

use super::Rejection;

/// Its path. Where every path is a facility, this one is too, and there is no probe.
pub(super) const PATH: &str = "/health";

/// Answers a probe. Probes come every few seconds, so nothing of them is logged or counted.
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
