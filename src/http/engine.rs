//! Requests of Engine.IO clients: their checks, and errors in JSON that these clients expect.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE,
    HeaderName, HeaderValue, ORIGIN, TRANSFER_ENCODING,
};
use hyper::{Method, Request, Response, StatusCode};
use tokio::time::timeout;

use super::Rejection;
use super::body::read_body;
use super::cors::Cors;
use super::http_config::HttpConfig;
use super::request::{HandshakeRequest, lines, offers_websocket};
use super::routes::{Checked, Route};
use super::session_request::{EngineError, PostBody, SessionAction, SessionAnswer, SessionRequest};
use super::upgrade::{self, Acceptance};
use super::visitor::{TokenSource, credentials, token};
use crate::access::{Credentials, Peer};
use crate::unfinished::UnfinishedMemory;
use crate::wire::engine_io::EngineVersion;
use crate::wire::socket_io::push_json_string;
use crate::wire::{Facility, Flags, Handshake, HandshakeParts, HandshakeRecord, Mount, MountSet, parameters};

/// The paths of Engine.IO clients, and what they may use there.
#[derive(Debug)]
pub struct EngineMounts {
    /// The path of each mount, without its last slash.
    pub paths: Vec<String>,
    /// The protocols that are switched on.
    pub versions: Vec<EngineVersion>,
    /// Whether clients may poll.
    pub polling: bool,
    /// Whether clients may use WebSockets.
    pub websocket: bool,
    /// Largest payload, in bytes.
    pub max_payload_bytes: usize,
    /// The mounts whose handshakes are recorded, because their clients are listed.
    pub recorded: MountSet,
}

/// A checked handshake of Engine.IO.
pub struct EngineHandshake {
    /// The path that the client uses.
    pub mount: Mount,
    /// The client's protocol.
    pub version: EngineVersion,
    /// The visitor's credentials. There is neither a facility nor a flag.
    pub request: HandshakeRequest,
    /// Its record, if the mount lists its clients.
    pub record: Option<HandshakeRecord>,
}

/// A checked request of an Engine.IO client.
pub enum EngineRoute {
    /// A handshake over a WebSocket, and the head of its 101.
    WebSocket(EngineHandshake, Acceptance),
    /// A handshake by polling, and whether the client wants attachments in base64.
    Polling(EngineHandshake, bool),
    /// A poll.
    Session(SessionRequest),
    /// A post whose payload has not been read yet. The request's action is [`SessionAction::BeginPost`].
    Post(SessionRequest, PostReader),
    /// A WebSocket for a session that polls, and the head of its 101.
    Upgrade(SessionRequest, Acceptance),
}

/// Reads the payload of a post.
#[derive(Debug)]
pub struct PostReader {
    request: Request<Incoming>,
    max_bytes: usize,
    time: Duration,
    memory: Arc<UnfinishedMemory>,
}

/// Set by browsers, not by pages (Fetch Metadata): the relation between this server and the origin of the request.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

impl EngineMounts {
    /// Returns the mount of a path, which may be without its last slash. Nothing below it is served.
    pub(super) fn find(&self, path: &str) -> Option<Mount> {
        let path = path.strip_suffix('/').unwrap_or(path);
        self.paths.iter().position(|mount| mount == path).and_then(Mount::new)
    }

    /// Checks a request, in the order in which the official server does: protocol, transport, session, method, upgrade,
    /// Origin.
    ///
    /// # Errors
    ///
    /// With the first fault.
    pub(super) fn route(
        &self,
        mount: Mount,
        request: Request<Incoming>,
        cors: &Cors,
        peer: Peer,
        config: &HttpConfig,
    ) -> Result<Checked, Rejection> {
        if request.method() == Method::OPTIONS {
            return Ok(Checked::Page(preflight(cors)));
        }
        let query = request.uri().query();
        let version = only_parameter(query, "EIO")?.and_then(|text| EngineVersion::from_query(&text));
        let version =
            version.filter(|version| self.versions.contains(version)).ok_or(EngineError::Version)?;
        if parameters(query, "j").next().is_some() {
            return Err(EngineError::Jsonp.into());
        }
        let is_polling = match only_parameter(query, "transport")?.as_deref() {
            Some("polling") if self.polling => true,
            Some("websocket") if self.websocket => false,
            _ => return Err(EngineError::Transport.into()),
        };
        let sid = only_parameter(query, "sid")?;
        let is_get = request.method() == Method::GET;
        if sid.is_none() && !is_get {
            return Err(EngineError::Method.into());
        }
        let wants_base64 =
            parameters(query, "b64").next().is_some_and(|value| value != "0" && !value.is_empty());
        check_origin_characters(&request)?;
        let route = if is_polling {
            let mut credentials = polling_credentials(&request, peer, config)?;
            match sid {
                None => {
                    check_no_body(&request)?;
                    credentials.token = token(&request, TokenSource::Plain, config)?;
                    let record = self.record(mount, &request, &credentials, config);
                    EngineRoute::Polling(handshake(mount, version, credentials, record), wants_base64)
                }
                Some(sid) => {
                    let cookie = credentials.session_cookie;
                    let for_session = |action| SessionRequest { mount, version, sid, cookie, action };
                    match *request.method() {
                        Method::GET => {
                            check_no_body(&request)?;
                            EngineRoute::Session(for_session(SessionAction::Poll))
                        }
                        Method::POST => {
                            let reader = PostReader::new(request, self.max_payload_bytes, config);
                            EngineRoute::Post(for_session(SessionAction::BeginPost), reader)
                        }
                        _ => return Err(EngineError::Request("only GET and POST are allowed").into()),
                    }
                }
            }
        } else {
            if !is_get || !offers_websocket(request.headers()) {
                return Err(EngineError::Request("a WebSocket has to be requested by an upgrade").into());
            }
            check_no_body(&request)?;
            let (mut credentials, acceptance) = upgrade::check_without_path(&request, peer, config)?;
            match sid {
                None => {
                    credentials.token = token(&request, TokenSource::Handshake, config)?;
                    let record = self.record(mount, &request, &credentials, config);
                    EngineRoute::WebSocket(handshake(mount, version, credentials, record), acceptance)
                }
                Some(sid) => {
                    let (cookie, action) = (credentials.session_cookie, SessionAction::Upgrade(0));
                    EngineRoute::Upgrade(SessionRequest { mount, version, sid, cookie, action }, acceptance)
                }
            }
        };
        Ok(Checked::Dialect(Route::Engine(Box::new(route))))
    }

    /// Returns the record of a handshake, if its mount has them. What the callback gets may identify the visitor, so it is
    /// masked.
    fn record<B>(
        &self,
        mount: Mount,
        request: &Request<B>,
        credentials: &Credentials,
        config: &HttpConfig,
    ) -> Option<HandshakeRecord> {
        if !self.recorded.contains(mount) {
            return None;
        }
        let (headers, uri) = (request.headers(), request.uri());
        let value = |name| {
            let values = lines(headers, name).into_iter().map(String::from_utf8_lossy);
            values.collect::<Vec<_>>().join(", ").into()
        };
        let parts = HandshakeParts {
            headers: headers.keys().map(|name| (name.as_str(), value(name))).collect(),
            path: uri.path(),
            query: uri.query(),
            address: credentials.address,
            time: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
        };
        let rules = config.rules.get();
        let is_passed_on = |name: &str| rules.passed_on.iter().flatten().any(|own| own == name);
        Some(HandshakeRecord::new(&parts, is_passed_on))
    }
}

impl PostReader {
    fn new(request: Request<Incoming>, max_bytes: usize, config: &HttpConfig) -> Self {
        let HttpConfig { unfinished, times, .. } = config;
        Self { request, max_bytes, time: times.request, memory: unfinished.clone() }
    }

    /// Returns whether the type of the payload is `application/octet-stream`.
    pub fn is_octet_stream(&self) -> bool {
        let content_type = self.request.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes);
        content_type.unwrap_or_default().to_ascii_lowercase().starts_with(b"application/octet-stream")
    }

    /// Reads the payload.
    pub async fn read(self) -> PostBody {
        let Self { request, max_bytes, time, memory } = self;
        match timeout(time, read_body(request, max_bytes, &memory)).await {
            Ok(Ok(body)) => PostBody::Complete(body),
            Ok(Err(Rejection::TooBig(_))) => PostBody::TooLarge,
            Ok(Err(Rejection::Unfinished)) => PostBody::NoMemory,
            Ok(Err(_)) | Err(_) => PostBody::Incomplete,
        }
    }
}

fn handshake(
    mount: Mount,
    version: EngineVersion,
    credentials: Credentials,
    record: Option<HandshakeRecord>,
) -> EngineHandshake {
    let handshake = Handshake { facility: Facility::new(""), flags: Flags::default() };
    EngineHandshake { mount, version, request: HandshakeRequest { handshake, credentials }, record }
}

/// Returns the credentials of a request for polling. An image or a script of another site sends cookies and no `Origin`.
fn polling_credentials<B>(
    request: &Request<B>,
    peer: Peer,
    config: &HttpConfig,
) -> Result<Credentials, Rejection> {
    let credentials = credentials(request, peer, config)?;
    let has_credential = credentials.session_cookie.is_some() || !credentials.headers.is_empty();
    let headers = request.headers();
    let mut sites = headers.get_all(&SEC_FETCH_SITE).iter();
    let is_foreign = sites.any(|site| site != "same-origin" && site != "none");
    if has_credential && is_foreign && !headers.contains_key(ORIGIN) {
        return Err(Rejection::Foreign);
    }
    Ok(credentials)
}

fn check_no_body<B>(request: &Request<B>) -> Result<(), EngineError> {
    let headers = request.headers();
    let has_body = headers.get_all(CONTENT_LENGTH).iter().any(|length| length.as_bytes() != b"0")
        || headers.contains_key(TRANSFER_ENCODING);
    if has_body { Err(EngineError::Request("a GET has no body")) } else { Ok(()) }
}

/// Returns the value of a query parameter. Servers disagree about one that is given twice, so it is refused.
fn only_parameter(query: Option<&str>, name: &'static str) -> Result<Option<String>, EngineError> {
    let mut values = parameters(query, name);
    let value = values.next().map(String::from);
    match values.next() {
        None => Ok(value),
        Some(_) => Err(EngineError::Request("EIO, transport and sid may be given once")),
    }
}

/// Refuses an `Origin` that cannot stand in a header of the answer (`ERROR_INVALID_ORIGIN` of engine.io).
fn check_origin_characters<B>(request: &Request<B>) -> Result<(), EngineError> {
    let is_valid = |line: &&[u8]| line.iter().all(|byte| matches!(byte, b' '..=b'~'));
    if lines(request.headers(), &ORIGIN).iter().all(is_valid) {
        Ok(())
    } else {
        Err(EngineError::Request("the Origin header has forbidden characters"))
    }
}

/// Answers a preflight; the browser compares. Pages of an origin that is not allowed get no permission.
fn preflight(cors: &Cors) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    if cors.has_reader() {
        let headers = response.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST"));
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("content-type, authorization"));
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    }
    response
}

/// Returns the answer to a poll or a post.
pub(super) fn session_response(answer: SessionAnswer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(answer.body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Returns the answer to a client whose request is refused: the status, a code, and a message in general words.
pub(super) fn error_response(rejection: &Rejection) -> Response<Full<Bytes>> {
    let mut response = rejection.response();
    let status = rejection.status();
    let (code, message) = match rejection {
        Rejection::Engine(error) => (error.code(), error.to_string()),
        Rejection::Origin(_) => (EngineError::FORBIDDEN, "the origin of the page is not allowed".to_owned()),
        _ if status == StatusCode::FORBIDDEN => (EngineError::FORBIDDEN, rejection.to_string()),
        _ => (EngineError::BAD_REQUEST, rejection.to_string()),
    };
    let is_kept = matches!(status, StatusCode::FORBIDDEN | StatusCode::PAYLOAD_TOO_LARGE);
    if status.is_client_error() && !is_kept {
        *response.status_mut() = StatusCode::BAD_REQUEST;
    }
    let mut body = format!(r#"{{"code":{code},"message":"#);
    push_json_string(&mut body, &message);
    body.push('}');
    *response.body_mut() = Full::from(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Those of the relay let its own client read why it is refused; these clients retry in any case.
    headers.remove(ACCESS_CONTROL_ALLOW_ORIGIN);
    headers.remove(ACCESS_CONTROL_ALLOW_CREDENTIALS);
    response
}
