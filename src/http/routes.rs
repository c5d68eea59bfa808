//! Who is served what: hyper's side of a connection, from its first byte to its 101 or its last answer.

use std::cell::RefCell;
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, ready};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::time::{sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::cors::{self, Cors};
use super::deadlines::{Deadlines, Phase, Times, Watched};
use super::static_files::StaticFiles;
use super::{Rejection, event_stream, health, upgrade, whoami};
use crate::access::{AllowedOrigins, Credentials, Peer, Proxies};
use crate::metrics::Counters;
use crate::stream::Stream;
use crate::telemetry::LogThrottle;
use crate::unfinished::UnfinishedMemory;
use crate::wire::{Handshake, Malformed};

/// hyper's limit of the number of headers, if none is set.
const HYPER_MAX_HEADERS: usize = 100;

/// What the config door needs to know.
#[derive(Debug)]
pub struct HttpConfig {
    /// What paths of WebSockets begin with.
    pub path_prefix: String,
    /// Name of the session cookie.
    pub session_cookie: String,
    /// The Origin rule.
    pub origins: AllowedOrigins,
    /// The proxies that are believed about addresses and hosts.
    pub proxies: Proxies,
    /// Whether tokens are taken.
    pub tokens: bool,
    /// The headers by which the callback knows visitors, if it is asked: Cookie, Authorization and the site's own.
    pub passed_on: Option<Vec<HeaderName>>,
    /// The demo, if it is served.
    pub files: Option<StaticFiles>,
    /// How long each part of a request may take, and how long a connection may be idle.
    pub times: Times,
    /// Cancelled when the server stops: idle connections end then.
    pub stop: CancellationToken,
    /// Limits of the request head.
    pub max_header_bytes: usize,
    /// Limit of the number of headers.
    pub max_headers: usize,
    /// Largest message that is published by a request, in bytes.
    pub max_message_bytes: usize,
    /// What the process holds of unfinished messages.
    pub unfinished: Arc<UnfinishedMemory>,
    /// What is counted for the whole process.
    pub counters: Arc<Counters>,
    /// Keeps the warnings of foreign origins to one a second.
    pub foreign: LogThrottle,
}

/// A visitor whose request is a sound handshake.
pub struct HandshakeRequest {
    /// What it asks for.
    pub handshake: Handshake,
    /// What it shows of itself.
    pub credentials: Credentials,
}

/// A socket after its 101, or after the request for a stream of events.
#[derive(Debug)]
pub struct Opened<T> {
    /// The socket.
    pub stream: Stream,
    /// What the client sent together with its request: frames, not to be lost.
    pub early: Bytes,
    /// What was prepared for it.
    pub prepared: T,
    /// What is to be answered first, if it is an event stream, to which nothing has been answered yet.
    pub head: Option<Bytes>,
}

/// What happens to visitors.
pub trait Visits {
    /// What is ready when a connection opens.
    type Prepared;

    /// Prepares a connection; nothing is opened that has not been prepared.
    fn prepare(&self, arrival: HandshakeRequest) -> impl Future<Output = Result<Self::Prepared, Rejection>>;

    /// Tells a visitor, as JSON, who it is.
    fn introduce(&self, arrival: HandshakeRequest) -> impl Future<Output = Result<String, Rejection>>;

    /// Publishes one message.
    fn publish(
        &self,
        arrival: HandshakeRequest,
        message: Bytes,
    ) -> impl Future<Output = Result<(), Rejection>>;
}

/// What has been prepared, and the head of the answer if it is a stream of events.
type Taken<T> = RefCell<Option<(T, Option<Bytes>)>>;

/// How an HTTP connection ended.
#[derive(Debug)]
pub enum Served<T> {
    /// It has become a connection that listens.
    Opened(Opened<T>),
    /// Everything has been answered. The client may still be sending, and has not been told that nothing more comes.
    Answered(Stream),
    /// A deadline has passed: nobody is left to be polite to.
    Late,
}

/// Why hyper is left.
enum Left {
    Done,
    Idle,
    Late,
}

/// Serves one connection, from that address, or through a unix socket where there is none. Every sound handshake is
/// prepared; what that returns comes back with the opened socket, or its rejection goes to the client.
///
/// Waits for requests, for answers, for the deadline of the current phase, and when idle for the stop of the server.
pub async fn serve<V: Visits>(
    stream: Stream,
    address: Option<IpAddr>,
    config: &HttpConfig,
    visits: &V,
) -> Served<V::Prepared> {
    let taken: Rc<Taken<V::Prepared>> = Rc::default();
    let peer = address.map_or(Peer::Unix, Peer::new);
    let deadlines = Deadlines::new(config.times);
    let service = service_fn(|request| Box::pin(answer(request, peer, config, visits, &taken, &deadlines)));
    let mut builder = http1::Builder::new();
    builder.max_buf_size(config.max_header_bytes);
    // hyper takes its own limit to be quicker than the same one set.
    if config.max_headers != HYPER_MAX_HEADERS {
        builder.max_headers(config.max_headers);
    }
    let watched = Watched { stream, deadlines: deadlines.clone() };
    let mut connection = builder.serve_connection(TokioIo::new(watched), service);
    let is_events = || taken.borrow().as_ref().is_some_and(|(_, head)| head.is_some());
    let mut timer = pin!(sleep_until(deadlines.deadline()));
    let mut stopped = pin!(config.stop.cancelled());
    let left = poll_fn(|cx| {
        match connection.poll_without_shutdown(cx) {
            Poll::Ready(Ok(())) => return Poll::Ready(Left::Done),
            Poll::Ready(Err(error)) => {
                debug!(error = ?error.to_string(), "request could not be served");
                return Poll::Ready(Left::Done);
            }
            // hyper would wait for an answer that is not its own to write.
            Poll::Pending if is_events() => return Poll::Ready(Left::Done),
            Poll::Pending => {}
        }
        if deadlines.is_idle() && stopped.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Left::Idle);
        }
        loop {
            // A later deadline costs nothing until the earlier one has passed.
            if deadlines.deadline() < timer.deadline() {
                timer.as_mut().reset(deadlines.deadline());
            }
            ready!(timer.as_mut().poll(cx));
            if deadlines.deadline() <= timer.deadline() {
                return Poll::Ready(if deadlines.is_idle() { Left::Idle } else { Left::Late });
            }
            timer.as_mut().reset(deadlines.deadline());
        }
    });
    let left = left.await;
    let parts = connection.into_parts();
    let stream = parts.io.into_inner().stream;
    match taken.borrow_mut().take() {
        Some((prepared, head)) if !matches!(left, Left::Late) => {
            Served::Opened(Opened { stream, early: parts.read_buf, prepared, head })
        }
        _ if matches!(left, Left::Late) => {
            debug!("request took too long");
            Served::Late
        }
        _ => Served::Answered(stream),
    }
}

async fn answer<V: Visits>(
    request: Request<Incoming>,
    peer: Peer,
    config: &HttpConfig,
    visits: &V,
    taken: &Taken<V::Prepared>,
    deadlines: &Deadlines,
) -> Result<Response<Full<Bytes>>, std::convert::Infallible> {
    deadlines.enter(Phase::Answer);
    let uri = request.uri();
    let handshake = Handshake::parse(uri.path(), uri.query(), &config.path_prefix);
    let inside = !matches!(handshake, Err(Malformed::Elsewhere));
    let cors = if inside { Cors::of(&request, peer, config) } else { Cors::default() };
    let native = inside && event_stream::is_native(&request);
    let answer = async {
        let handshake = match handshake {
            Err(Malformed::Elsewhere) if request.uri().path() == health::PATH => {
                return health::response(&request);
            }
            Err(Malformed::Elsewhere) => match whoami::handshake(&request, config) {
                Err(Malformed::Elsewhere) => return page(&request, config),
                handshake => {
                    let arrival = whoami::check(&request, handshake, peer, config)?;
                    return Ok(whoami::response(visits.introduce(arrival).await?));
                }
            },
            handshake => handshake,
        };
        if cors::is_preflight(&request) {
            return cors::preflight(&request, handshake, peer, config);
        }
        if event_stream::publishes(&request) {
            let arrival = event_stream::check(&request, handshake, peer, config)?;
            let message = event_stream::message(request, config.max_message_bytes, &config.unfinished);
            let message = timeout(config.times.request, message).await;
            visits.publish(arrival, message.unwrap_or(Err(Rejection::Slow))?).await?;
            let mut response = Response::new(Full::default());
            *response.status_mut() = StatusCode::NO_CONTENT;
            return Ok(response);
        }
        if event_stream::wants_events(&request) {
            let arrival = event_stream::check(&request, handshake, peer, config)?;
            taken.replace(Some((visits.prepare(arrival).await?, Some(event_stream::head(&cors)))));
            return std::future::pending().await;
        }
        let (arrival, acceptance) = upgrade::check(&request, handshake, peer, config)?;
        taken.replace(Some((visits.prepare(arrival).await?, None)));
        Ok(acceptance.response())
    };
    let mut response = answer.await.unwrap_or_else(|rejection: Rejection| {
        if !matches!(rejection, Rejection::NotFound(_) | Rejection::Method) {
            Counters::count(&config.counters.refused_handshakes);
        }
        // The browser shows none of it to anybody.
        if let Rejection::Origin(refused) = &rejection
            && let Some(suppressed) = config.foreign.allow()
        {
            warn!(suppressed, "request refused with 403: {}", refused.to_string().escape_debug());
        }
        debug!(status = rejection.status().as_u16(), reason = ?rejection.to_string(), "request refused");
        if native && rejection.status() == StatusCode::SERVICE_UNAVAILABLE {
            return event_stream::come_again();
        }
        rejection.response()
    });
    cors.add_to(response.headers_mut());
    if config.stop.is_cancelled() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    deadlines.enter(Phase::Write);
    Ok(response)
}

/// Answers a request outside the WebSocket prefix.
fn page(request: &Request<Incoming>, config: &HttpConfig) -> Result<Response<Full<Bytes>>, Rejection> {
    let found = config.files.as_ref().and_then(|files| files.get(request.uri().path()));
    let found = found.ok_or_else(|| Rejection::NotFound(config.path_prefix.clone()))?;
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return Err(Rejection::Method);
    }
    Ok(found)
}
