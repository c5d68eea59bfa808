//! The config door: everything before the 101.
//!
//! HTTP/1.1 only. Whatever fails here is an HTTP status with a line that says what was wrong, never an opened socket
//! that dies.

mod cors;
mod deadlines;
mod event_stream;
mod health;
mod rejection;
mod routes;
mod static_files;
mod upgrade;
mod visitor;
mod whoami;

pub use deadlines::Times;
pub use rejection::Rejection;
pub use routes::{HandshakeRequest, HttpConfig, Opened, Served, Visits, serve};
pub use static_files::StaticFiles;
pub use visitor::names_passed_on;
