//! HTTP/1.1: each request becomes a checked [`Route`], and its [`RouteAnswer`] a response.
//!
//! A request that fails is answered with a status and a line of text that names the fault; no WebSocket is opened that is
//! closed at once. Not here: visitors, and what a dialect does after the 101.

mod body;
mod connection;
mod cors;
mod deadlines;
mod engine;
mod event_stream;
mod health;
mod http_config;
mod rejection;
mod request;
mod resume_text;
mod routes;
mod session_request;
mod static_files;
mod upgrade;
mod visitor;
mod whoami;

pub use connection::{HttpEnd, Upgraded, serve};
pub use deadlines::Times;
pub use engine::{EngineHandshake, EngineMounts, EngineRoute, PostReader};
pub use event_stream::StreamHead;
pub use http_config::{HttpConfig, RequestRules};
pub use rejection::Rejection;
pub use request::HandshakeRequest;
pub use resume_text::ResumeText;
pub use routes::{Route, RouteAnswer};
pub use session_request::{EngineError, PostBody, SessionAction, SessionAnswer, SessionRequest};
pub use static_files::{PageValues, StaticFiles};
pub use upgrade::Acceptance;
pub use visitor::names_passed_on;
