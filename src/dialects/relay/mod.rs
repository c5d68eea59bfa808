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

pub(super) use client::shared;
#[cfg(test)]
pub(crate) use connection::sizes;
pub(super) use echo::{EchoTopics, acknowledge};
pub(super) use join::{join, read_joined};
pub use open::open;
pub use post::post;
pub(super) use publish::{announce_acknowledged, close_for};
