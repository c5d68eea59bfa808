//! The HTTP client of the callback: one call, and the errors that it can end with.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, HeaderMap, HeaderName, HeaderValue, LOCATION, USER_AGENT};
use hyper::{Request, Response, StatusCode};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::Semaphore;

use super::answer::Answer;
use super::request::CallbackRequest;
use crate::access::session::KeyPattern;
use crate::settings;

/// Largest body of an answer, and largest head.
const MAX_BYTES: usize = 64 * 1024;

/// One permit in this many is reserved for revalidating open connections.
const RESERVED_SHARE: usize = 8;

/// Idle connections that a shard keeps, and for how long: many servers close idle connections after some seconds.
const MAX_IDLE: usize = 8;
const IDLE: Duration = Duration::from_secs(10);

const SECRET: HeaderName = HeaderName::from_static("x-ws4redis-secret");
pub(super) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const USER_AGENT_VALUE: HeaderValue =
    HeaderValue::from_static(concat!("ws4redis/", env!("CARGO_PKG_VERSION")));
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The part of the callback that all shards share: the connector and the permits for calls.
#[derive(Debug, Clone)]
pub struct CallbackTransport {
    connector: HttpsConnector<HttpConnector>,
    pub(super) permits: Arc<Semaphore>,
    /// Permits for revalidations: a burst of handshakes cannot starve them.
    pub(super) reserved: Arc<Semaphore>,
}

/// Sends requests to the site.
#[derive(Debug)]
pub(super) struct CallbackClient {
    /// The URL up to and including `facility=`.
    url: String,
    /// Headers of every call; a visitor cannot override them.
    own: HeaderMap,
    pattern: KeyPattern,
    /// Reuses connections.
    pooled: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    /// Opens a connection for each call.
    unpooled: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
}

/// Why a call gave no answer. The text is for the log and quotes nothing of a visitor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallbackError {
    /// The site refused this visitor, or this gateway.
    Refused(StatusCode),
    /// The site redirects.
    Redirected(StatusCode, String),
    /// A status other than 200.
    Status(StatusCode),
    /// Connecting failed.
    Unreachable(String),
    /// The connection ended early, or the answer is not HTTP.
    Broken(String),
    /// The body is larger than 64 KiB.
    TooLarge,
    /// The body is not an answer of the callback view.
    Malformed(String),
    /// No answer within the timeout.
    TimedOut(Duration),
    /// All permits were in use.
    Busy(usize),
}

impl CallbackTransport {
    /// Creates the transport.
    ///
    /// # Errors
    ///
    /// When the URL is https and the system has no root certificates.
    pub fn new(settings: &settings::CallbackSettings) -> io::Result<Self> {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        // Divided among the addresses of the host, so that an unresponsive one leaves time for the others.
        http.set_connect_timeout(Some(settings.timeout));
        let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?;
        let tls = if settings.url.scheme() == "https" {
            tls.with_native_roots()?
        } else {
            tls.with_root_certificates(RootCertStore::empty())
        };
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls.with_no_client_auth());
        let connector = connector.https_or_http().enable_http1().wrap_connector(http);
        let reserved = settings.max_calls / RESERVED_SHARE;
        let permits = Arc::new(Semaphore::new(settings.max_calls - reserved));
        let reserved = if reserved == 0 { permits.clone() } else { Arc::new(Semaphore::new(reserved)) };
        Ok(Self { connector, permits, reserved })
    }
}

impl CallbackClient {
    pub(super) fn new(
        settings: &settings::CallbackSettings,
        transport: &CallbackTransport,
        pattern: KeyPattern,
    ) -> Self {
        let mut own = HeaderMap::new();
        if let Ok(secret) = HeaderValue::from_str(&settings.secret)
            && !secret.is_empty()
        {
            own.append(SECRET, secret);
        }
        for (name, value) in &settings.headers {
            if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value)) {
                own.append(name, value);
            }
        }
        let client = |idle| {
            Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(IDLE)
                .pool_max_idle_per_host(idle)
                .http1_max_buf_size(MAX_BYTES)
                .build(transport.connector.clone())
        };
        let joint = if settings.url.query().is_some() { '&' } else { '?' };
        Self {
            url: format!("{}{joint}facility=", settings.url),
            own,
            pattern,
            pooled: client(MAX_IDLE),
            unpooled: client(0),
        }
    }

    /// Sends a request and returns the answer.
    ///
    /// # Errors
    ///
    /// When there is no answer, or it is not one of the callback view.
    pub(super) async fn call(&self, request: &CallbackRequest) -> Result<Answer, CallbackError> {
        let request = self.encode(request).map_err(|error| CallbackError::Broken(error.to_string()))?;
        let response = self.send(request).await.map_err(|error| {
            let reason = cause(&error);
            if error.is_connect() {
                CallbackError::Unreachable(reason)
            } else {
                CallbackError::Broken(reason)
            }
        })?;
        match response.status() {
            StatusCode::OK => {}
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                return Err(CallbackError::Refused(status));
            }
            status if status.is_redirection() => {
                return Err(CallbackError::Redirected(status, location(&response)));
            }
            status => return Err(CallbackError::Status(status)),
        }
        let body = Limited::new(response.into_body(), MAX_BYTES).collect().await;
        let body = body.map_err(|error| {
            let too_large = error.is::<http_body_util::LengthLimitError>();
            if too_large { CallbackError::TooLarge } else { CallbackError::Broken(cause(&*error)) }
        })?;
        Answer::read(&body.to_bytes(), &self.pattern).map_err(CallbackError::Malformed)
    }

    fn encode(&self, visitor: &CallbackRequest) -> Result<Request<Empty<Bytes>>, hyper::http::Error> {
        let mut url = format!("{}{}", self.url, utf8_percent_encode(visitor.facility(), NON_ALPHANUMERIC));
        for flag in visitor.flags() {
            url.push_str("&flag=");
            url.push_str(&flag);
        }
        let mut request = Request::get(url).body(Empty::new())?;
        let headers = request.headers_mut();
        for (name, value) in visitor.headers() {
            headers.append(HeaderName::try_from(name)?, HeaderValue::from_bytes(value)?);
        }
        if let Some(address) = visitor.address() {
            headers.insert(FORWARDED_FOR, HeaderValue::try_from(address.to_string())?);
        }
        headers.entry(ACCEPT).or_insert(JSON);
        headers.entry(USER_AGENT).or_insert(USER_AGENT_VALUE);
        // These replace headers of the visitor with the same names.
        headers.extend(self.own.clone());
        Ok(request)
    }

    async fn send(&self, request: Request<Empty<Bytes>>) -> Result<Response<Incoming>, Error> {
        match self.pooled.request(request.clone()).await {
            // The site may have closed the pooled connection at this moment; a GET may be retried (RFC 9110, section 9.2.2).
            Err(error) if !error.is_connect() && was_closed(&error) => self.unpooled.request(request).await,
            result => result,
        }
    }
}

/// Returns whether the connection ended before any byte of an answer arrived.
fn was_closed(error: &Error) -> bool {
    let mut source = error.source();
    while let Some(error) = source {
        let by_hyper =
            |error: &hyper::Error| error.is_incomplete_message() || error.is_closed() || error.is_canceled();
        let by_system = |error: &io::Error| {
            use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
            matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
        };
        if error.downcast_ref().is_some_and(by_hyper) || error.downcast_ref().is_some_and(by_system) {
            return true;
        }
        source = error.source();
    }
    false
}

/// Returns the root cause of an error.
fn cause(error: &(dyn StdError + 'static)) -> String {
    let mut bottom = error;
    while let Some(source) = bottom.source() {
        bottom = source;
    }
    bottom.to_string()
}

/// Returns the target of a redirect without its query, which may be secret.
fn location(response: &Response<Incoming>) -> String {
    let to = response.headers().get(LOCATION).map(HeaderValue::as_bytes).unwrap_or_default();
    let to = String::from_utf8_lossy(to);
    to.split(['?', '#']).next().unwrap_or_default().chars().take(200).collect()
}

impl fmt::Display for CallbackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(status) => write!(f, "it refuses with {status}"),
            Self::Redirected(status, to) => {
                write!(f, "it answers {status} and points to {}", to.escape_debug())
            }
            Self::Status(status) => write!(f, "it answers {status}"),
            Self::Unreachable(reason) => write!(f, "it cannot be reached ({reason})"),
            Self::Broken(reason) => write!(f, "no HTTP answer ({reason})"),
            Self::TooLarge => write!(f, "its answer is larger than {MAX_BYTES} bytes"),
            Self::Malformed(problem) => write!(f, "its answer {problem}"),
            Self::TimedOut(time) => write!(f, "no answer within {} s", time.as_secs()),
            Self::Busy(calls) => write!(f, "all {calls} permitted calls were in flight"),
        }
    }
}

impl CallbackError {
    /// Returns the cure for the operator.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Refused(_) => {
                "if it refuses every visitor, auth.callback_secret is not in the site's WS4REDIS_CALLBACK_SECRET"
            }
            Self::Redirected(_, to) if to.starts_with("https:") => {
                "redirects are not followed; for Django's SECURE_SSL_REDIRECT set auth.callback_headers = [\"X-Forwarded-Proto: https\"] (its SECURE_PROXY_SSL_HEADER), or an https address"
            }
            Self::Redirected(..) => {
                "redirects are not followed; auth.callback_url has to be the final URL, with its trailing slash, and must need no login"
            }
            Self::Status(StatusCode::BAD_REQUEST) => {
                "if Host is not in Django's ALLOWED_HOSTS, set auth.callback_headers = [\"Host: www.example.com\"]"
            }
            Self::Status(StatusCode::NOT_FOUND) => {
                "auth.callback_url has to be the URL of the site's callback view"
            }
            Self::Status(_) => "the site's log has the reason",
            Self::Unreachable(_) => "start the site, or check auth.callback_url",
            Self::Broken(_) => {
                "check that auth.callback_url is the site's address; the site's log may have the reason"
            }
            Self::TooLarge | Self::Malformed(_) => {
                "expected {\"user\": …, \"groups\": […], \"session\": …} or null; auth.callback_url has to be the URL of the site's callback view"
            }
            Self::TimedOut(_) => {
                "the site is too slow or does not answer there, see auth.callback_timeout_seconds"
            }
            Self::Busy(_) => "the site is too slow for so many visitors, see auth.callback_max_calls",
        }
    }
}
