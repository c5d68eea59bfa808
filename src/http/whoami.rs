//! The question of the demo page: who am I? Answered for pages of this very server only.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Request, Response};

use super::Rejection;
use super::routes::{HandshakeRequest, HttpConfig};
use super::visitor::{Kind, credentials, token};
use crate::access::Peer;
use crate::wire::{Handshake, Malformed};

/// Where it is asked: in the place of the prefix of a WebSocket's address, so that it is asked with the same facility and
/// flags. The callback may answer by these.
const PATH_PREFIX: &str = "/whoami/";

/// Where a request comes from, by the browser's own word (Fetch Metadata), which pages cannot set.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// Returns the handshake about which it is asked, where the demo page is served to ask.
pub(super) fn handshake<B>(request: &Request<B>, config: &HttpConfig) -> Result<Handshake, Malformed> {
    let uri = request.uri();
    match config.files {
        Some(_) => Handshake::parse(uri.path(), uri.query(), PATH_PREFIX),
        None => Err(Malformed::Elsewhere),
    }
}

/// Checks the question.
pub(super) fn check<B>(
    request: &Request<B>,
    handshake: Result<Handshake, Malformed>,
    peer: Peer,
    config: &HttpConfig,
) -> Result<HandshakeRequest, Rejection> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return Err(Rejection::Method);
    }
    // Requests that pages make without CORS have no Origin, but cookies.
    let mut sites = request.headers().get_all(&SEC_FETCH_SITE).iter();
    if sites.any(|site| site != "same-origin" && site != "none") {
        return Err(Rejection::Foreign);
    }
    let mut credentials = credentials(request, peer, config)?;
    let handshake = handshake?;
    credentials.token = token(request, Kind::Plain, config)?;
    Ok(HandshakeRequest { handshake, credentials })
}

/// Returns the answer. Without CORS headers no page of another origin can read it.
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
