//! The settings of the HTTP side of a shard.

use std::sync::Arc;

use hyper::header::HeaderName;
use tokio_util::sync::CancellationToken;

use super::deadlines::Times;
use super::engine::EngineMounts;
use super::static_files::StaticFiles;
use crate::access::{AllowedOrigins, Proxies};
use crate::metrics::Counters;
use crate::reloadable::Reloadable;
use crate::telemetry::LogThrottle;
use crate::unfinished::UnfinishedMemory;

/// The settings that requests are checked by.
#[derive(Debug)]
pub struct RequestRules {
    /// Name of the session cookie.
    pub session_cookie: String,
    /// The Origin rule.
    pub origins: AllowedOrigins,
    /// Proxies whose X-Forwarded-For, Forwarded and X-Forwarded-Host headers are trusted.
    pub proxies: Proxies,
    /// Whether tokens are accepted.
    pub tokens: bool,
    /// The headers that the callback gets, if there is one: Cookie, Authorization and the site's own.
    pub passed_on: Option<Vec<HeaderName>>,
}

/// The settings of the HTTP side of a shard.
#[derive(Debug)]
pub struct HttpConfig {
    /// The prefix of WebSocket paths.
    pub path_prefix: String,
    /// The paths of Engine.IO clients, if they are served.
    pub mounts: Option<EngineMounts>,
    /// What requests are checked by.
    pub rules: Reloadable<RequestRules>,
    /// Whether connections keep the visitor's address and program, for the operator.
    pub keeps_details: bool,
    /// The demo page, if it is served.
    pub files: Option<StaticFiles>,
    /// Time limits of requests and of idle connections.
    pub times: Times,
    /// Cancelled when the server stops: idle connections end then.
    pub stop: CancellationToken,
    /// Largest request head, in bytes.
    pub max_header_bytes: usize,
    /// Largest number of headers.
    pub max_headers: usize,
    /// Largest message that a request may publish, in bytes.
    pub max_message_bytes: usize,
    /// Unfinished messages of the whole process.
    pub unfinished: Arc<UnfinishedMemory>,
    /// Counters of the whole process.
    pub counters: Arc<Counters>,
    /// Limits the warnings about foreign origins to one per second.
    pub foreign_origins: LogThrottle,
}
