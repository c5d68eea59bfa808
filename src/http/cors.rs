//! Which pages of other origins may read answers, and send what needs leave (Fetch standard, "CORS protocol"): those that
//! the Origin rule admits. WebSockets know no such thing, and the demo page's questions are for its own origin.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderValue, ORIGIN, VARY,
};
use hyper::{Method, Request, Response, StatusCode};

use super::Rejection;
use super::event_stream;
use super::routes::HttpConfig;
use super::visitor::check_origin;
use crate::access::Peer;
use crate::wire::{Handshake, Malformed};

/// The headers that our own client sends and that need leave.
const HEADERS: HeaderValue = HeaderValue::from_static("authorization, content-type, x-ws4redis");

const METHODS: HeaderValue = HeaderValue::from_static("GET, POST");

/// Seconds for which a browser need not ask again.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

/// What an answer says of other origins.
#[derive(Debug, Default)]
pub(super) struct Cors {
    /// Whether the answer depends on the origin at all.
    varies: bool,
    /// The origin that may read it.
    reader: Option<HeaderValue>,
}

impl Cors {
    /// Works it out for a request. Only streams, publications and the questions before them are read by scripts.
    pub(super) fn of<B>(request: &Request<B>, peer: Peer, config: &HttpConfig) -> Self {
        let varies =
            event_stream::wants_events(request) || event_stream::publishes(request) || is_preflight(request);
        let origin = request.headers().get(ORIGIN).filter(|_| varies);
        // With credentials a star has no meaning to browsers, so it is always the very origin.
        let reader = origin.filter(|_| check_origin(request, peer, config).is_ok()).cloned();
        Self { varies, reader }
    }

    /// Adds the headers.
    pub(super) fn add_to(&self, headers: &mut HeaderMap) {
        if self.varies {
            headers.insert(VARY, HeaderValue::from_static("origin"));
        }
        if let Some(reader) = &self.reader {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, reader.clone());
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("retry-after"));
        }
    }
}

/// Tells whether a browser asks what a page may send.
pub(super) fn is_preflight<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    request.method() == Method::OPTIONS
        && headers.contains_key(ORIGIN)
        && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// Answers that question. The browser compares; what is not listed it does not send.
pub(super) fn preflight<B>(
    request: &Request<B>,
    handshake: Result<Handshake, Malformed>,
    peer: Peer,
    config: &HttpConfig,
) -> Result<Response<Full<Bytes>>, Rejection> {
    check_origin(request, peer, config)?;
    handshake?;
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HEADERS);
    headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    Ok(response)
}
