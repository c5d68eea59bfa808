//! Why a request is refused: the only table of HTTP statuses.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_ORIGIN, ALLOW, CONNECTION, CONTENT_TYPE,
    HeaderValue, RETRY_AFTER, SEC_WEBSOCKET_VERSION, VARY,
};
use hyper::{Response, StatusCode};

use super::session_request::EngineError;
use crate::access::token::Untrusted;
use crate::access::{Denied, OriginRefused};
use crate::wire::HandshakeError;

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// A request to a WebSocket path that is not a handshake.
    #[error("client does not wish to upgrade to a websocket: {0}")]
    NoUpgrade(&'static str),
    /// HTTP/1.0.
    #[error(
        "HTTP server protocol must be 1.1 to upgrade to a websocket; behind nginx, add proxy_http_version 1.1"
    )]
    OldHttp,
    /// A malformed request.
    #[error("{0}")]
    Bad(&'static str),
    /// The path is not a valid facility.
    #[error("{0}")]
    Facility(#[from] HandshakeError),
    /// The Origin rule forbids it.
    #[error("{0}")]
    Origin(#[from] OriginRefused),
    /// A request for a profile by a page of another server.
    #[error("only pages of this server may request their visitor's profile")]
    Foreign,
    /// The `[[access]]` rules forbid it.
    #[error("{0}")]
    Denied(#[from] Denied),
    /// The token is not valid.
    #[error("{0}")]
    Untrusted(#[from] Untrusted),
    /// The callback refuses the visitor.
    #[error("the site refuses access here")]
    Refused,
    /// Unknown path.
    #[error(
        "nothing is served at this path; WebSockets are below {0} (set server.websocket_url_stripped if a proxy removes that prefix)"
    )]
    NotFound(String),
    /// The path of Socket.IO clients, which are not served.
    #[error("nothing is served at this path: Socket.IO is off; set socketio.enabled = true")]
    SocketIoOff,
    /// The script of Socket.IO's client, which servers in Node deliver.
    #[error("the gateway does not deliver the client of Socket.IO; take it from npm or a CDN")]
    ClientScript,
    /// A method other than GET and HEAD.
    #[error("only GET and HEAD are allowed here")]
    Method,
    /// A WebSocket version other than 13.
    #[error("unsupported WebSocket version: only 13 is supported")]
    Version,
    /// The headers for the callback are larger than any browser's.
    #[error("cookies and other headers about the visitor may have {0} bytes together")]
    HeadersTooLarge(usize),
    /// The message of a request is too large.
    #[error("messages may have {0} bytes at most")]
    TooBig(usize),
    /// The message of a request took too long.
    #[error("the message did not arrive in time")]
    Slow,
    /// The unfinished messages of all clients together take too much memory.
    #[error("too many unfinished messages; try again in a few seconds")]
    Unfinished,
    /// The visitor may not publish here.
    #[error(
        "you may not publish here: the address needs a flag such as ?publish-broadcast, and the site may reserve it for logged-in users (anonymous_publish, [[access]])"
    )]
    PublishDenied,
    /// The visitor publishes more than a rule allows.
    #[error("publishing too fast")]
    TooFast,
    /// A fault in a request of an Engine.IO client.
    #[error("{0}")]
    Engine(#[from] EngineError),
    /// Redis failed while a message was published.
    #[error("redis failed; delivery unconfirmed")]
    Lost,
    /// Redis cannot be reached, or did not answer in time.
    #[error("redis cannot be reached at the moment; try again in a few seconds")]
    NoRedis,
    /// Too many large sessions are waiting to be decoded.
    #[error("too many large sessions at the moment; try again in a few seconds")]
    Busy,
    /// The callback does not answer.
    #[error("the site cannot identify you at the moment; try again in a few seconds")]
    NoAnswer,
    /// Redis refuses the subscription of a channel.
    #[error("redis refuses to subscribe to this channel; see the server's log")]
    Unsubscribable,
    /// More messages arrived during the handshake than may be held.
    #[error("too many messages while connecting; try again in a few seconds")]
    Overflow,
    /// The outboxes of slow clients take too much memory.
    #[error("too much is buffered for slow clients; try again in a few seconds")]
    OutboxesFull,
    /// The limit of connections is reached.
    #[error("too many connections; try again in a few seconds")]
    Full,
    /// The server is stopping.
    #[error("the server is stopping; try again in a few seconds")]
    Stopping,
}

/// Seconds after which a client may try again.
const RETRY_SECONDS: HeaderValue = HeaderValue::from_static("2");

impl Rejection {
    /// Returns the status.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::NoUpgrade(_)
            | Self::OldHttp
            | Self::Bad(_)
            | Self::Facility(HandshakeError::NotUtf8 | HandshakeError::ControlCharacter) => {
                StatusCode::BAD_REQUEST
            }
            Self::Facility(HandshakeError::OutsidePrefix)
            | Self::NotFound(_)
            | Self::SocketIoOff
            | Self::ClientScript => StatusCode::NOT_FOUND,
            Self::Origin(_)
            | Self::Foreign
            | Self::Denied(_)
            | Self::Untrusted(_)
            | Self::Refused
            | Self::PublishDenied => StatusCode::FORBIDDEN,
            Self::HeadersTooLarge(_) => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Engine(EngineError::TooLarge) | Self::TooBig(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Slow => StatusCode::REQUEST_TIMEOUT,
            Self::TooFast => StatusCode::TOO_MANY_REQUESTS,
            Self::Lost => StatusCode::BAD_GATEWAY,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Version => StatusCode::UPGRADE_REQUIRED,
            Self::Engine(EngineError::NoMemory)
            | Self::NoRedis
            | Self::Busy
            | Self::NoAnswer
            | Self::Unsubscribable
            | Self::Overflow
            | Self::OutboxesFull
            | Self::Unfinished
            | Self::Full
            | Self::Stopping => StatusCode::SERVICE_UNAVAILABLE,
            Self::Engine(_) => StatusCode::BAD_REQUEST,
        }
    }

    /// Returns the answer: status, headers and one line of plain text.
    pub fn response(&self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::from(format!("{self}\n")));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        if matches!(self.status(), StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            headers.insert(RETRY_AFTER, RETRY_SECONDS);
        }
        match self {
            Self::Version => headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13")),
            Self::Method => headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD")),
            Self::Origin(refused) => HeaderValue::from_str(refused.origin()).ok().and_then(|origin| {
                // Lets the page read the refusal, so that its client stops reconnecting.
                headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
                headers.insert(VARY, HeaderValue::from_static("origin"));
                headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin)
            }),
            _ => None,
        };
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rejection_has_its_status() {
        for (rejection, status) in [
            (Rejection::NoUpgrade("x"), 400),
            (Rejection::OldHttp, 400),
            (Rejection::Bad("x"), 400),
            (Rejection::Facility(HandshakeError::OutsidePrefix), 404),
            (Rejection::Facility(HandshakeError::NotUtf8), 400),
            (Rejection::Facility(HandshakeError::ControlCharacter), 400),
            (Rejection::Foreign, 403),
            (Rejection::Denied(Denied), 403),
            (Rejection::Untrusted(Untrusted::Expired), 403),
            (Rejection::Refused, 403),
            (Rejection::NotFound("/ws/".into()), 404),
            (Rejection::SocketIoOff, 404),
            (Rejection::ClientScript, 404),
            (Rejection::Method, 405),
            (Rejection::PublishDenied, 403),
            (Rejection::HeadersTooLarge(1), 431),
            (Rejection::TooBig(1), 413),
            (Rejection::Slow, 408),
            (Rejection::TooFast, 429),
            (Rejection::Lost, 502),
            (Rejection::Engine(EngineError::Version), 400),
            (Rejection::Engine(EngineError::NoMemory), 503),
            (Rejection::Version, 426),
            (Rejection::NoRedis, 503),
            (Rejection::Busy, 503),
            (Rejection::NoAnswer, 503),
            (Rejection::Unsubscribable, 503),
            (Rejection::Overflow, 503),
            (Rejection::OutboxesFull, 503),
            (Rejection::Unfinished, 503),
            (Rejection::Full, 503),
            (Rejection::Stopping, 503),
        ] {
            let response = rejection.response();
            assert_eq!(response.status(), status, "{rejection:?}");
            let again = matches!(status, 503 | 429);
            assert_eq!(response.headers().contains_key(RETRY_AFTER), again, "{rejection:?}");
        }
        assert_eq!(Rejection::Version.response().headers()[SEC_WEBSOCKET_VERSION], "13");
        assert_eq!(Rejection::Method.response().headers()[ALLOW], "GET, HEAD");
        assert!(Rejection::NoUpgrade("x").to_string().contains("upgrade to a websocket"));
    }
}
