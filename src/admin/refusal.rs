//! Why the admin listener refuses a request: its only table of HTTP statuses.

use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use hyper::{Response, StatusCode};
use serde_json::json;

use super::reply::{self, ReplyBody};
use crate::redis::PublishFailure;
use crate::wire::Channel;

/// Why a request is refused. Each text says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// The host is not one that is answered.
    #[error(
        "the Host header names neither this machine (localhost, 127.0.0.0/8, [::1]) nor an entry of admin.hosts; use such an address, or add the host to admin.hosts"
    )]
    Host,
    /// The host is not one that is answered, and no other can be listed.
    #[error("the Host header does not name this machine; use localhost, 127.0.0.1 or [::1]")]
    NotLoopback,
    /// A web page has sent it.
    #[error(
        "requests by web pages are refused; use a client that sends neither Origin nor Sec-Fetch-Site, such as curl"
    )]
    WebPage,
    /// It changes something, and there is no token.
    #[error(
        "without a token only GET and HEAD are answered at a TCP address; set admin.token_file, or listen on unix:/path"
    )]
    ReadOnly,
    /// The token is missing or wrong.
    #[error("send the token of admin.token or admin.token_file as \"Authorization: Bearer TOKEN\"")]
    Token,
    /// Unknown path.
    #[error(
        "nothing is served at this path; there are /health/live, /health/ready, /connections, /channels, /users, /metrics, /publish, /receivers, /reload and /yunity"
    )]
    NotFound,
    /// Something else than the only request that is answered.
    #[error("nothing is served here but GET /; admin.listen has the other lists and the health checks")]
    NotTheList,
    /// A method that the path does not have.
    #[error("allowed here: {0}")]
    Method(&'static str),
    /// No connection has this id.
    #[error("no open connection has this id; GET /connections lists them")]
    NoConnection,
    /// The body is too large.
    #[error("a request body may have {0} bytes at most")]
    TooLarge(u64),
    /// The body is not announced as JSON.
    #[error("the body has to be JSON; send it with Content-Type: application/json")]
    NotJson,
    /// What the body says cannot be used.
    #[error("{0}")]
    Body(String),
    /// The idempotency key of another request.
    #[error(
        "another request had this Idempotency-Key within the last 10 minutes; use a new key for each request"
    )]
    KeyReused,
    /// Redis cannot be reached, and nothing was published.
    #[error(
        "Redis cannot be reached ({0}), nothing was published; try again, `ws4redis check` tests redis.url"
    )]
    RedisUnreachable(String),
    /// Redis has refused, or was lost meanwhile.
    #[error(
        "Redis has not confirmed message {} ({}); those before it were published, it may have been in part, those after it were not; `ws4redis check` names what Redis refuses",
        .0.published, .0.reason
    )]
    NotPublished(PublishFailure),
    /// A parameter of the query.
    #[error("{0}")]
    Parameter(&'static str),
    /// A parameter that a route does not have, with those that it has.
    #[error("a parameter is unknown here; there are {0}")]
    UnknownParameter(String),
    /// The settings cannot be reloaded.
    #[error("the settings are as before: {0}")]
    Settings(String),
    /// The server stops.
    #[error("draining: the server is stopping and accepts no clients; use another gateway")]
    Draining,
    /// Redis is not connected.
    #[error("Redis is not connected, clients get 503; the log says why, `ws4redis check` tests redis.url")]
    NoRedis,
    /// The sessions' Redis is not connected.
    #[error(
        "the Redis of the sessions is not connected, clients with a session get 503; the log says why, see session.redis_url"
    )]
    NoSessionRedis,
    /// A channel of Socket.IO is refused.
    #[error(
        "Redis refuses the channel {}, clients of Socket.IO get 503; allow its user to subscribe to it, `ws4redis check` says how", .0.as_str()
    )]
    RefusedChannel(Channel),
    /// A shard does not answer.
    #[error("shard {0} does not answer; try again, and restart the gateway if this lasts")]
    Unresponsive(usize),
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::Host | Self::NotLoopback | Self::WebPage | Self::ReadOnly => StatusCode::FORBIDDEN,
            Self::Token => StatusCode::UNAUTHORIZED,
            Self::NotFound | Self::NotTheList | Self::NoConnection => StatusCode::NOT_FOUND,
            Self::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Parameter(_) | Self::UnknownParameter(_) | Self::Body(_) => StatusCode::BAD_REQUEST,
            Self::NotJson => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::KeyReused | Self::Settings(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::NotPublished(_) => StatusCode::BAD_GATEWAY,
            Self::Draining
            | Self::NoRedis
            | Self::NoSessionRedis
            | Self::RefusedChannel(_)
            | Self::RedisUnreachable(_)
            | Self::Unresponsive(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Returns the answer: status, headers, and the problem as JSON (RFC 9457). The type says that the status tells all but
    /// the detail, and the title has to be the status then (section 4.2.1).
    pub(super) fn response(&self) -> Response<ReplyBody> {
        let status = self.status();
        let mut response = reply::json(&json!({
            "type": "about:blank",
            "title": status.canonical_reason(),
            "status": status.as_u16(),
            "detail": self.to_string(),
        }));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        match self {
            // RFC 9110, sections 11.6.1 and 15.5.6.
            Self::Token => {
                response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            Self::Method(allowed) => {
                response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
            }
            _ => {}
        }
        response
    }
}
