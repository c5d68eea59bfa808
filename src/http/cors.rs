//! CORS for streams and publications (Fetch standard, "CORS protocol"): allows the origins that the Origin rule admits.
//!
//! Not for WebSockets, which have no CORS, nor for the demo page, which serves its own origin only.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, HeaderMap,
    HeaderValue, ORIGIN, VARY,
};
use hyper::{Request, Response, StatusCode};

use super::Rejection;
use super::http_config::HttpConfig;
use super::request::{is_preflight, publishes, requests_events, requests_identity};
use super::visitor::check_origin;
use crate::access::Peer;
use crate::wire::{Handshake, HandshakeError};

/// Headers of our own client that need a preflight.
const HEADERS: HeaderValue = HeaderValue::from_static("authorization, content-type, x-ws4redis");

const METHODS: HeaderValue = HeaderValue::from_static("GET, POST");

/// Seconds for which a browser may cache the answer to a preflight.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

/// The CORS headers of an answer.
#[derive(Debug, Default)]
pub(super) struct Cors {
    /// Whether the answer depends on the origin.
    varies: bool,
    /// The origin whose pages may read it.
    reader: Option<HeaderValue>,
}

impl Cors {
    /// Returns the headers for a request: none unless it is a stream, a publication or a preflight.
    pub(super) fn of<B>(request: &Request<B>, peer: Peer, config: &HttpConfig) -> Self {
        let varies = requests_events(request)
            || requests_identity(request)
            || publishes(request)
            || is_preflight(request);
        let origin = request.headers().get(ORIGIN).filter(|_| varies);
        // Browsers reject a star where credentials are allowed, so the origin itself is named.
        let reader = origin.filter(|_| check_origin(request, peer, config).is_ok()).cloned();
        Self { varies, reader }
    }

    /// Returns the headers for a request of an Engine.IO client.
    pub(super) fn of_engine<B>(request: &Request<B>, peer: Peer, config: &HttpConfig) -> Self {
        let origin = request.headers().get(ORIGIN);
        let reader = origin.filter(|_| check_origin(request, peer, config).is_ok()).cloned();
        Self { varies: true, reader }
    }

    /// Returns whether the page that sends the request may read the answer.
    pub(super) fn has_reader(&self) -> bool {
        self.reader.is_some()
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

/// Answers a preflight with everything that is allowed; the browser compares.
pub(super) fn preflight<B>(
    request: &Request<B>,
    handshake: Result<Handshake, HandshakeError>,
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
