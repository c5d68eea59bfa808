//! The visitor's profile for the demo page, which only pages of this server can read.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Request, Response};

use super::Rejection;
use super::http_config::HttpConfig;
use super::request::HandshakeRequest;
use super::visitor::{TokenSource, credentials, token};
use crate::access::Peer;
use crate::wire::{Handshake, HandshakeError};

/// Replaces the prefix of a WebSocket's path. Facility and flags are the same, as the callback's answer may depend on them.
const PATH_PREFIX: &str = "/whoami/";

/// Set by browsers, not by pages (Fetch Metadata): the relation between this server and the origin of the request.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// Returns the handshake whose visitor is requested, if the demo page is served.
pub(super) fn handshake<B>(request: &Request<B>, config: &HttpConfig) -> Result<Handshake, HandshakeError> {
    let uri = request.uri();
    match config.files {
        Some(_) => Handshake::parse(uri.path(), uri.query(), PATH_PREFIX),
        None => Err(HandshakeError::OutsidePrefix),
    }
}

/// Checks the request.
pub(super) fn check<B>(
    request: &Request<B>,
    handshake: Result<Handshake, HandshakeError>,
    peer: Peer,
    config: &HttpConfig,
) -> Result<HandshakeRequest, Rejection> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return Err(Rejection::Method);
    }
    // A page can send cookies without an Origin header in a request that needs no CORS.
    let mut sites = request.headers().get_all(&SEC_FETCH_SITE).iter();
    if sites.any(|site| site != "same-origin" && site != "none") {
        return Err(Rejection::Foreign);
    }
    let mut credentials = credentials(request, peer, config)?;
    let handshake = handshake?;
    credentials.token = token(request, TokenSource::Plain, config)?;
    Ok(HandshakeRequest { handshake, credentials })
}

/// Returns the answer. It has no CORS headers, so pages of other origins cannot read it.
pub(super) fn response(profile: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(profile));
    let headers = response.headers_mut();
    for (name, value) in [
        (CONTENT_TYPE, "application/json"),
        (CACHE_CONTROL, "no-store"),
        (CONNECTION, "close"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (RESOURCE_POLICY, "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}
