//! The WebSocket handshake itself (RFC 6455, section 4.2).

use std::borrow::Cow;
use std::net::IpAddr;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN,
    SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
    TRANSFER_ENCODING, UPGRADE,
};
use hyper::{Method, Request, Response, StatusCode, Version};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::Rejection;
use super::routes::{Arrival, Front};
use crate::access::token::Untrusted;
use crate::access::{Credentials, Token, cookie_value};
use crate::wire::{Handshake, Malformed, parameters};

/// Offered subprotocols that begin with this are tokens, never answered.
const TOKEN_PROTOCOL: &str = "bearer.";

/// The query parameter that is a token.
const TOKEN_PARAMETER: &str = "access_token";

/// What the 101 says.
pub(super) struct Acceptance {
    accept: String,
    protocol: Option<HeaderValue>,
}

/// Returns the names of the headers by which the callback knows visitors; `more` are the site's own.
pub fn names_passed_on(more: &[String]) -> Vec<HeaderName> {
    let more = more.iter().filter_map(|name| name.parse().ok());
    [COOKIE, AUTHORIZATION].into_iter().chain(more).collect()
}

/// Checks a request to a WebSocket path: first whether it is a handshake at all, then the Origin rule, then the rest,
/// `handshake` last, which is what its path and query were parsed to.
pub(super) fn check<B>(
    request: &Request<B>,
    handshake: Result<Handshake, Malformed>,
    address: Option<IpAddr>,
    front: &Front,
) -> Result<(Arrival, Acceptance), Rejection> {
    let headers = request.headers();
    is_upgrade(request)?;
    let host = only(headers, &HOST).ok_or(Rejection::Bad("the request has to have one Host header"))?;
    let cookies = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes);
    let session_cookie = cookie_value(cookies, &front.session_cookie);
    let passed_on = front.passed_on.as_ref().map(|names| passed_on(headers, names)).unwrap_or_default();
    // The site may know a visitor by anything that it is given.
    if session_cookie.is_some() || !passed_on.is_empty() {
        let origins: Vec<_> = headers.get_all(ORIGIN).iter().map(HeaderValue::as_bytes).collect();
        front.origins.check(&origins, &String::from_utf8_lossy(host.as_bytes()))?;
    }
    if only(headers, &SEC_WEBSOCKET_VERSION).is_none_or(|version| version.as_bytes() != b"13") {
        return Err(Rejection::Version);
    }
    let key = only(headers, &SEC_WEBSOCKET_KEY)
        .ok_or(Rejection::Bad("Sec-WebSocket-Key header is missing or given twice"))?;
    if !BASE64_STANDARD.decode(key.as_bytes()).is_ok_and(|key| key.len() == 16) {
        return Err(Rejection::Bad("Sec-WebSocket-Key header has to be 16 bytes in base64"));
    }
    let (handshake, protocol) = (handshake?, protocol(headers)?);
    let token = if front.tokens { token(request.uri().query(), headers)? } else { None };
    let credentials = Credentials { session_cookie, token, headers: passed_on, address };
    let acceptance = Acceptance { accept: derive_accept_key(key.as_bytes()), protocol };
    Ok((Arrival { handshake, credentials }, acceptance))
}

/// Returns the visitor's headers of these names. Several lines of cookies are one, as for Django.
fn passed_on(headers: &HeaderMap, names: &[HeaderName]) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for name in names {
        let values = headers.get_all(name).iter().map(HeaderValue::as_bytes);
        let values: Vec<_> = if *name == COOKIE && headers.contains_key(COOKIE) {
            vec![values.collect::<Vec<_>>().join(&b"; "[..])]
        } else {
            values.map(<[u8]>::to_vec).collect()
        };
        found.extend(values.into_iter().map(|value| (name.as_str().to_owned(), value)));
    }
    found
}

fn is_upgrade<B>(request: &Request<B>) -> Result<(), Rejection> {
    let headers = request.headers();
    if request.method() != Method::GET {
        return Err(Rejection::NoUpgrade("HTTP method must be a GET"));
    }
    if request.version() != Version::HTTP_11 {
        return Err(Rejection::OldHttp);
    }
    if !only(headers, &UPGRADE).is_some_and(|upgrade| upgrade.as_bytes().eq_ignore_ascii_case(b"websocket")) {
        return Err(Rejection::NoUpgrade(
            "this path serves WebSockets only; behind nginx, add proxy_set_header Upgrade $http_upgrade",
        ));
    }
    if !tokens(headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade")) {
        return Err(Rejection::NoUpgrade(
            "the Connection header does not say upgrade; behind nginx, add proxy_set_header Connection \"upgrade\"",
        ));
    }
    // A body could smuggle what a proxy in front takes for a second request.
    let length = headers.get_all(CONTENT_LENGTH).iter().any(|length| length.as_bytes() != b"0");
    if length || headers.contains_key(TRANSFER_ENCODING) {
        return Err(Rejection::Bad("a WebSocket handshake has no body"));
    }
    Ok(())
}

/// Returns the first offered subprotocol that is no token.
fn protocol(headers: &HeaderMap) -> Result<Option<HeaderValue>, Rejection> {
    let mut offered = tokens(headers, &SEC_WEBSOCKET_PROTOCOL).peekable();
    if offered.peek().is_none() {
        return Ok(None);
    }
    let name = offered.find(|name| !name.starts_with(TOKEN_PROTOCOL));
    let name = name.ok_or(Rejection::Bad("offer a subprotocol beside the bearer token"))?;
    HeaderValue::from_str(name).map(Some).map_err(|_| Rejection::Bad("Sec-WebSocket-Protocol is malformed"))
}

/// Returns the token that the query or an offered subprotocol holds. Which of several is meant nobody can tell.
fn token(query: Option<&str>, headers: &HeaderMap) -> Result<Option<Token>, Rejection> {
    let offered = tokens(headers, &SEC_WEBSOCKET_PROTOCOL);
    let offered = offered.filter_map(|name| name.strip_prefix(TOKEN_PROTOCOL)).map(Cow::Borrowed);
    let mut shown = parameters(query, TOKEN_PARAMETER).chain(offered);
    let Some(first) = shown.next() else { return Ok(None) };
    if first.is_empty() || shown.any(|other| other != first) {
        return Err(Untrusted::Unclear.into());
    }
    Ok(Some(Token::new(&first)))
}

/// Returns the header's value if there is exactly one.
pub(super) fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// Returns the comma-separated items of all lines of a header.
fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|token| !token.is_empty())
}

impl Acceptance {
    /// Returns the 101.
    pub(super) fn response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        if let Ok(accept) = HeaderValue::try_from(self.accept) {
            headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
        }
        if let Some(protocol) = self.protocol {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, protocol);
        }
        response
    }
}
