//! The dialect of django-websocket-redis: the path names a facility, the query names audiences, and messages are passed on
//! as they are.

mod client;
mod connection;
mod describe;
mod echo;
mod heartbeat;
mod join;
mod open;
mod post;
mod publish;
mod reauthorize;

#[cfg(test)]
pub(crate) use connection::sizes;
pub use open::open;
pub use post::post;
