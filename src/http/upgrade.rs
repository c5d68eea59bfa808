//! Checks a WebSocket handshake and answers it with 101 (RFC 6455, section 4.2).

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING, UPGRADE,
};
use hyper::{Method, Request, Response, StatusCode, Version};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::Rejection;
use super::http_config::HttpConfig;
use super::request::{HandshakeRequest, offers_websocket, only, tokens};
use super::visitor::{TOKEN_PROTOCOL, TokenSource, credentials, token};
use crate::access::{Credentials, Peer};
use crate::wire::live::SUBPROTOCOL;
use crate::wire::{Handshake, HandshakeError};

/// The head of a 101.
pub struct Acceptance {
    accept: String,
    protocol: Option<HeaderValue>,
}

/// Checks a request to a WebSocket path: that it is a handshake, then the Origin rule, then the rest, its path and query
/// (`handshake`) last.
pub(super) fn check<B>(
    request: &Request<B>,
    handshake: Result<Handshake, HandshakeError>,
    peer: Peer,
    config: &HttpConfig,
) -> Result<(HandshakeRequest, Acceptance), Rejection> {
    let (mut credentials, mut acceptance) = check_without_path(request, peer, config)?;
    let handshake = handshake?;
    acceptance.protocol = protocol(request.headers())?;
    credentials.token = token(request, TokenSource::Handshake, config)?;
    Ok((HandshakeRequest { handshake, credentials }, acceptance))
}

/// Checks a handshake except for its path, its query and its subprotocols.
pub(super) fn check_without_path<B>(
    request: &Request<B>,
    peer: Peer,
    config: &HttpConfig,
) -> Result<(Credentials, Acceptance), Rejection> {
    let headers = request.headers();
    is_upgrade(request)?;
    let credentials = credentials(request, peer, config)?;
    if only(headers, &SEC_WEBSOCKET_VERSION).is_none_or(|version| version.as_bytes() != b"13") {
        return Err(Rejection::Version);
    }
    let key = only(headers, &SEC_WEBSOCKET_KEY)
        .ok_or(Rejection::Bad("Sec-WebSocket-Key header is missing or repeated"))?;
    if !BASE64_STANDARD.decode(key.as_bytes()).is_ok_and(|key| key.len() == 16) {
        return Err(Rejection::Bad("Sec-WebSocket-Key header has to be 16 bytes in base64"));
    }
    Ok((credentials, Acceptance { accept: derive_accept_key(key.as_bytes()), protocol: None }))
}

fn is_upgrade<B>(request: &Request<B>) -> Result<(), Rejection> {
    let headers = request.headers();
    if request.method() != Method::GET {
        return Err(Rejection::NoUpgrade(
            "HTTP method must be a GET; a POST publishes with the header X-WS4Redis: 1",
        ));
    }
    if request.version() != Version::HTTP_11 {
        return Err(Rejection::OldHttp);
    }
    if !offers_websocket(headers) {
        return Err(Rejection::NoUpgrade(
            "this path serves WebSockets only; behind nginx, add proxy_set_header Upgrade $http_upgrade",
        ));
    }
    if !tokens(headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade")) {
        return Err(Rejection::NoUpgrade(
            "the Connection header does not contain upgrade; behind nginx, add proxy_set_header Connection \"upgrade\"",
        ));
    }
    // A proxy in front could take a body for a second request (request smuggling).
    let length = headers.get_all(CONTENT_LENGTH).iter().any(|length| length.as_bytes() != b"0");
    if length || headers.contains_key(TRANSFER_ENCODING) {
        return Err(Rejection::Bad("a WebSocket handshake has no body"));
    }
    Ok(())
}

/// Returns version 2 if it is offered, else the first offered subprotocol that is not a bearer token.
fn protocol(headers: &HeaderMap) -> Result<Option<HeaderValue>, Rejection> {
    let mut offered = tokens(headers, &SEC_WEBSOCKET_PROTOCOL).peekable();
    if offered.peek().is_none() {
        return Ok(None);
    }
    let is_live = tokens(headers, &SEC_WEBSOCKET_PROTOCOL).any(|name| name == SUBPROTOCOL);
    let name = offered.find(|name| !name.starts_with(TOKEN_PROTOCOL));
    let name = if is_live { Some(SUBPROTOCOL) } else { name };
    let name = name.ok_or(Rejection::Bad("offer another subprotocol in addition to the bearer token"))?;
    HeaderValue::from_str(name).map(Some).map_err(|_| Rejection::Bad("Sec-WebSocket-Protocol is malformed"))
}

impl Acceptance {
    /// Returns whether the client speaks version 2.
    pub(super) fn is_live(&self) -> bool {
        self.protocol.as_ref().is_some_and(|protocol| protocol == SUBPROTOCOL)
    }

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
