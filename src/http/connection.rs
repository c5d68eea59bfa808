//! hyper's side of a connection, from its first byte to its 101 or its last answer.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::pin;
use std::task::{Poll, ready};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::time::sleep_until;
use tracing::{Level, debug, enabled, warn};

use super::cors::Cors;
use super::deadlines::{Deadlines, Phase, Watched};
use super::engine::{EngineRoute, error_response, session_response};
use super::event_stream::{self, StreamHead};
use super::http_config::HttpConfig;
use super::request::{is_event_source, publishes, unknown_flags};
use super::routes::{Checked, Route, RouteAnswer, route, route_publication};
use super::session_request::{EngineError, SessionAction, SessionRequest};
use super::{Rejection, whoami};
use crate::access::Peer;
use crate::metrics::{Counters, cells};
use crate::stream::Stream;
use crate::wire::{Handshake, HandshakeError};

/// hyper's default limit of the number of headers.
const HYPER_MAX_HEADERS: usize = 100;

/// A socket after its 101, or after the request for a stream of events.
#[derive(Debug)]
pub struct Upgraded {
    /// The socket.
    pub stream: Stream,
    /// Bytes that the client sent together with its request: frames that hyper has read.
    pub early: Bytes,
    /// The head of the answer to a request for a stream of events, which hyper has not written.
    pub head: Option<Bytes>,
}

/// The end of the HTTP side of a connection.
#[derive(Debug)]
pub enum HttpEnd<T> {
    /// A handshake was accepted; `T` comes from the [`RouteAnswer`].
    Upgraded(Upgraded, T),
    /// Every request has been answered. The client may still be sending, and does not know that the server closes.
    Answered(Stream),
    /// A deadline has passed: the client gets no answer.
    Late,
}

/// An accepted handshake: its continuation, and the head of its answer if it is a stream of events.
type AcceptedHandshake<T> = RefCell<Option<(T, Option<StreamHead>)>>;

/// Why hyper stops.
#[derive(PartialEq, Eq)]
enum Stop {
    Done,
    Idle,
    Late,
}

/// Serves the requests of one connection from this address, or from a unix socket if there is none. `answer` gets each
/// request whose form is right.
///
/// Waits for requests, for answers, for the deadline of the current phase, and when idle for the stop of the server.
pub async fn serve<T, F, A>(
    stream: Stream,
    address: Option<IpAddr>,
    config: &HttpConfig,
    answer: F,
) -> HttpEnd<T>
where
    F: Fn(Route) -> A,
    A: Future<Output = Result<RouteAnswer<T>, Rejection>>,
{
    let accepted: AcceptedHandshake<T> = RefCell::default();
    let peer = address.map_or(Peer::Unix, Peer::new);
    let deadlines = Deadlines::new(config.times);
    // Boxed: hyper reserves the space of this future once per connection, also while none runs.
    let service =
        service_fn(|request| Box::pin(respond(request, peer, config, &answer, &accepted, &deadlines)));
    let mut builder = http1::Builder::new();
    builder.max_buf_size(config.max_header_bytes);
    // With a limit that is set hyper allocates the headers, even if it is the default.
    if config.max_headers != HYPER_MAX_HEADERS {
        builder.max_headers(config.max_headers);
    }
    let watched = Watched { stream, deadlines: deadlines.clone() };
    let mut connection = builder.serve_connection(TokioIo::new(watched), service);
    let is_events = || accepted.borrow().as_ref().is_some_and(|(_, head)| head.is_some());
    let mut timer = pin!(sleep_until(deadlines.deadline()));
    let mut stopped = pin!(config.stop.cancelled());
    let stop = poll_fn(|cx| {
        match connection.poll_without_shutdown(cx) {
            Poll::Ready(Ok(())) => return Poll::Ready(Stop::Done),
            Poll::Ready(Err(error)) => {
                debug!(error = ?error.to_string(), "request could not be served");
                return Poll::Ready(Stop::Done);
            }
            // The answer of a stream is not written by hyper, which would wait for it.
            Poll::Pending if is_events() => return Poll::Ready(Stop::Done),
            Poll::Pending => {}
        }
        if deadlines.is_idle() && stopped.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Stop::Idle);
        }
        loop {
            // The timer is reset only after it has fired, unless the deadline comes earlier: most phases are short.
            if deadlines.deadline() < timer.deadline() {
                timer.as_mut().reset(deadlines.deadline());
            }
            ready!(timer.as_mut().poll(cx));
            if deadlines.deadline() <= timer.deadline() {
                return Poll::Ready(if deadlines.is_idle() { Stop::Idle } else { Stop::Late });
            }
            timer.as_mut().reset(deadlines.deadline());
        }
    });
    let is_late = stop.await == Stop::Late;
    let parts = connection.into_parts();
    let stream = parts.io.into_inner().stream;
    if is_late {
        debug!("request took too long");
        return HttpEnd::Late;
    }
    match accepted.take() {
        Some((then, head)) => {
            let head = head.map(|StreamHead(head)| head);
            HttpEnd::Upgraded(Upgraded { stream, early: parts.read_buf, head }, then)
        }
        None => HttpEnd::Answered(stream),
    }
}

/// Responds to one request.
async fn respond<T, F, A>(
    request: Request<Incoming>,
    peer: Peer,
    config: &HttpConfig,
    answer: &F,
    accepted: &AcceptedHandshake<T>,
    deadlines: &Deadlines,
) -> Result<Response<Full<Bytes>>, Infallible>
where
    F: Fn(Route) -> A,
    A: Future<Output = Result<RouteAnswer<T>, Rejection>>,
{
    deadlines.enter(Phase::Answer);
    let uri = request.uri();
    // Before the prefix of WebSockets, which may be that of all paths.
    let mount = config.mounts.as_ref().and_then(|mounts| Some((mounts, mounts.find(uri.path())?)));
    let handshake = match mount {
        Some(_) => Err(HandshakeError::OutsidePrefix),
        None => Handshake::parse(uri.path(), uri.query(), &config.path_prefix),
    };
    let is_inside = !matches!(handshake, Err(HandshakeError::OutsidePrefix));
    let cors = match mount {
        Some(_) => Cors::of_engine(&request, peer, config),
        None if is_inside => Cors::of(&request, peer, config),
        None => Cors::default(),
    };
    if is_inside && enabled!(Level::DEBUG) {
        let names = unknown_flags(uri.query());
        if !names.is_empty() {
            debug!(?names, "unknown flags are ignored");
        }
    }
    let is_event_source = is_inside && is_event_source(&request);
    let routed = if let Some((mounts, mount)) = mount {
        mounts.route(mount, request, &cors, peer, config)
    } else if is_inside && publishes(&request) {
        // Boxed: a body is rare, and reading one should not make the other requests' future larger.
        Box::pin(route_publication(request, handshake, peer, config)).await
    } else {
        route(&request, handshake, &cors, peer, config)
    };
    let answered = match routed {
        Ok(Checked::Dialect(route)) => {
            if matches!(&route, Route::Engine(route) if waits_for_packets(route)) {
                deadlines.enter(Phase::Poll);
            }
            answer(route).await
        }
        Ok(Checked::Page(page)) => return Ok(complete(page, &cors, config, deadlines)),
        Err(rejection) => Err(rejection),
    };
    let response = match answered {
        Ok(RouteAnswer::WebSocket(acceptance, then)) => {
            cells(|cells| cells.count_handshake(StatusCode::SWITCHING_PROTOCOLS.as_u16()));
            accepted.replace(Some((then, None)));
            acceptance.response()
        }
        Ok(RouteAnswer::EventStream(head, then)) => {
            cells(|cells| cells.count_handshake(StatusCode::OK.as_u16()));
            accepted.replace(Some((then, Some(head))));
            return std::future::pending().await;
        }
        Ok(RouteAnswer::Published) => {
            let mut response = Response::new(Full::default());
            *response.status_mut() = StatusCode::NO_CONTENT;
            response
        }
        Ok(RouteAnswer::Session(answer)) => session_response(answer),
        Ok(RouteAnswer::Profile(profile)) => whoami::response(profile),
        Err(rejection) => {
            log_rejection(&rejection, config);
            if mount.is_some() {
                error_response(&rejection)
            } else if is_event_source && rejection.status() == StatusCode::SERVICE_UNAVAILABLE {
                event_stream::retry_later()
            } else {
                rejection.response()
            }
        }
    };
    Ok(complete(response, &cors, config, deadlines))
}

/// Adds the headers that every response has, and starts the deadline for writing it.
fn complete(
    mut response: Response<Full<Bytes>>,
    cors: &Cors,
    config: &HttpConfig,
    deadlines: &Deadlines,
) -> Response<Full<Bytes>> {
    cors.add_to(response.headers_mut());
    if config.stop.is_cancelled() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    deadlines.enter(Phase::Write);
    response
}

/// Returns whether the answer may take as long as the client's next packet.
fn waits_for_packets(route: &EngineRoute) -> bool {
    matches!(route, EngineRoute::Session(SessionRequest { action: SessionAction::Poll, .. }))
}

fn log_rejection(rejection: &Rejection, config: &HttpConfig) {
    // Clients poll unknown sessions when the gateway was restarted.
    let is_handshake = !matches!(
        rejection,
        Rejection::NotFound(_)
            | Rejection::SocketIoOff
            | Rejection::ClientScript
            | Rejection::Method
            | Rejection::Engine(EngineError::Session | EngineError::TooLarge | EngineError::NoMemory)
    );
    if is_handshake {
        cells(|cells| cells.count_handshake(rejection.status().as_u16()));
        Counters::count(&config.counters.refused_handshakes);
    }
    // A warning, because browsers hide the status and the text of a refused handshake from the page.
    if let Rejection::Origin(refused) = rejection
        && let Some(suppressed) = config.foreign_origins.allow()
    {
        warn!(suppressed, "request refused with 403: {}", refused.to_string().escape_debug());
    }
    debug!(status = rejection.status().as_u16(), reason = ?rejection.to_string(), "request refused");
}
