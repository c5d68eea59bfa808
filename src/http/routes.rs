//! The routes: requests whose form has been checked, and their answers.

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::{Method, Request, Response};
use tokio::time::timeout;

use super::body::read_body;
use super::cors::{self, Cors};
use super::engine::EngineRoute;
use super::event_stream::{self, StreamHead};
use super::http_config::HttpConfig;
use super::request::{HandshakeRequest, is_preflight, is_version_2, requests_events, requests_identity};
use super::resume_text::ResumeText;
use super::session_request::SessionAnswer;
use super::upgrade::{self, Acceptance};
use super::{Rejection, health, whoami};
use crate::access::Peer;
use crate::wire::{Handshake, HandshakeError};

/// The path that clients of Socket.IO have by default.
const SOCKET_IO: &str = "/socket.io";

/// A request for a dialect, whose form has been checked. The visitor has not been identified yet.
pub enum Route {
    /// A WebSocket handshake, and the head of its 101.
    WebSocket(HandshakeRequest, Acceptance),
    /// A request for a stream of events, and the head of its answer.
    EventStream(HandshakeRequest, StreamHead),
    /// A WebSocket handshake for version 2, and the head of its 101.
    Live(HandshakeRequest, ResumeText, Acceptance),
    /// A request for a stream of version 2, and the head of its answer.
    LiveStream(HandshakeRequest, ResumeText, StreamHead),
    /// A message to publish.
    Publish(HandshakeRequest, Bytes),
    /// The demo page asks for its visitor's profile.
    WhoAmI(HandshakeRequest),
    /// A page asks for its visitor's identity and the flags that a handshake would be granted.
    Identity(HandshakeRequest),
    /// A request of an Engine.IO client. Boxed: other routes are smaller.
    Engine(Box<EngineRoute>),
}

/// A request whose form has been checked.
pub(super) enum Checked {
    /// A dialect answers it.
    Dialect(Route),
    /// A file of the demo page, the health check or a preflight, which need no visitor. This is the answer.
    Page(Response<Full<Bytes>>),
}

/// The answer to a [`Route`].
pub enum RouteAnswer<T> {
    /// The handshake is accepted; `T` serves the WebSocket after the 101.
    WebSocket(Acceptance, T),
    /// The stream of events is accepted; `T` serves it from its head on.
    EventStream(StreamHead, T),
    /// Redis has the message.
    Published,
    /// The visitor's profile, as JSON.
    Profile(String),
    /// The answer of an Engine.IO session.
    Session(SessionAnswer),
}

/// A request path below the prefix of WebSockets, or elsewhere.
pub(super) type Parsed = Result<Handshake, HandshakeError>;

/// Returns the route of a request that has no message; see [`route_publication`].
///
/// # Errors
///
/// When something about its form is wrong, its path is unknown, or the Origin rule forbids it.
pub(super) fn route<B>(
    request: &Request<B>,
    handshake: Parsed,
    cors: &Cors,
    peer: Peer,
    config: &HttpConfig,
) -> Result<Checked, Rejection> {
    if matches!(handshake, Err(HandshakeError::OutsidePrefix)) {
        return route_elsewhere(request, peer, config);
    }
    if is_preflight(request) {
        return cors::preflight(request, handshake, peer, config).map(Checked::Page);
    }
    if requests_events(request) {
        let checked = event_stream::check(request, handshake, peer, config)?;
        let head = event_stream::head(cors);
        return Ok(Checked::Dialect(if is_version_2(request) {
            Route::LiveStream(checked, ResumeText::of(request), head)
        } else {
            Route::EventStream(checked, head)
        }));
    }
    if requests_identity(request) {
        return event_stream::check(request, handshake, peer, config)
            .map(Route::Identity)
            .map(Checked::Dialect);
    }
    let (checked, acceptance) = upgrade::check(request, handshake, peer, config)?;
    Ok(Checked::Dialect(if acceptance.is_live() {
        Route::Live(checked, ResumeText::of(request), acceptance)
    } else {
        Route::WebSocket(checked, acceptance)
    }))
}

/// Reads the message of a request that publishes, and returns its route.
///
/// # Errors
///
/// As for [`route`], and when the message is too large or too slow.
pub(super) async fn route_publication(
    request: Request<Incoming>,
    handshake: Parsed,
    peer: Peer,
    config: &HttpConfig,
) -> Result<Checked, Rejection> {
    let checked = event_stream::check(&request, handshake, peer, config)?;
    let message = read_body(request, config.max_message_bytes, &config.unfinished);
    let message = timeout(config.times.request, message).await;
    Ok(Checked::Dialect(Route::Publish(checked, message.unwrap_or(Err(Rejection::Slow))?)))
}

/// Returns the route of a request outside the prefix of WebSockets.
fn route_elsewhere<B>(request: &Request<B>, peer: Peer, config: &HttpConfig) -> Result<Checked, Rejection> {
    if request.uri().path() == health::PATH {
        return health::response(request).map(Checked::Page);
    }
    match whoami::handshake(request, config) {
        Err(HandshakeError::OutsidePrefix) => page(request, config).map(Checked::Page),
        handshake => {
            let checked = whoami::check(request, handshake, peer, config)?;
            Ok(Checked::Dialect(Route::WhoAmI(checked)))
        }
    }
}

/// Returns the rejection of an unknown path. Some paths show what the client is looking for.
fn not_found(path: &str, config: &HttpConfig) -> Rejection {
    let is_script = |file: &str| file.starts_with("socket.io.") && file.rsplit('.').next() == Some("js");
    if path.rsplit('/').next().is_some_and(is_script) {
        Rejection::ClientScript
    } else if config.mounts.is_none() && path.trim_end_matches('/') == SOCKET_IO {
        Rejection::SocketIoOff
    } else {
        Rejection::NotFound(config.path_prefix.clone())
    }
}

/// Returns a file of the demo page.
fn page<B>(request: &Request<B>, config: &HttpConfig) -> Result<Response<Full<Bytes>>, Rejection> {
    let found = config.files.as_ref().and_then(|files| files.get(request.uri().path()));
    let found = found.ok_or_else(|| not_found(request.uri().path(), config))?;
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return Err(Rejection::Method);
    }
    Ok(found)
}
